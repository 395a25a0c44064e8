//! Addresses that come and go while a server serves.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    fmt, io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use tokio::{net::TcpListener, sync::mpsc};

use super::listener::bind_to;

/// The addresses that a server listens on beside its own [`Listener`](super::Listener)s: a handle to replace them while it
/// serves.
///
/// 1. What is bound and stays is not touched. What is new is bound before anything changes, and when that fails nothing
///    does.
/// 2. What goes accepts nothing more; its connections are told that they end, finish what is in flight, and are cut after
///    [`drain_timeout`](super::ServerConfig::drain_timeout). The same address may come back at once; one that includes it, or
///    is included, cannot be bound before the server has closed it.
/// 3. An address that one of the server's own listeners has, also one with that port on all addresses, is not bound again.
///    Nor is one of which all addresses are asked for.
///
/// What is spoken there is for [`Server::decide`](super::Server::decide) to say; without it, it is HTTP.
///
/// # Example
/// ```
/// # tokio_test::block_on(async {
/// use portcullis::server::Server;
///
/// let server = Server::default().http("127.0.0.1:0").bind()?;
/// let listening = server.listening();
/// let free = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
/// listening.replace([free])?;
/// assert_eq!(listening.addresses(), [free]);
/// // A port that somebody else has: all stays as it was.
/// let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
/// assert!(listening.replace([taken.local_addr()?]).is_err());
/// assert_eq!(listening.addresses(), [free]);
/// # Ok::<_, std::io::Error>(()) }).unwrap();
/// ```
#[derive(Clone)]
pub struct Listening(Arc<Inner>);

struct Inner {
    /// Of the server's own listeners.
    own: Vec<SocketAddr>,
    bound: Mutex<Bound>,
    updates: mpsc::UnboundedSender<Update>,
}

/// Sockets, which are the server's to close.
#[derive(Default)]
struct Bound {
    sockets: BTreeMap<SocketAddr, Weak<TcpListener>>,
    /// What the server was told to close, and may not have yet.
    leaving: BTreeMap<SocketAddr, Weak<TcpListener>>,
}

/// What a serving server is told.
#[derive(Debug)]
pub(super) struct Update {
    pub(super) remove: Vec<SocketAddr>,
    pub(super) add: Vec<(SocketAddr, Arc<TcpListener>)>,
}

/// Addresses that are bound and not yet served; dropped, they are not.
#[must_use]
pub(crate) struct Prepared<'a> {
    listening: &'a Listening,
    bound: MutexGuard<'a, Bound>,
    update: Update,
    lacking: Vec<(SocketAddr, io::Error)>,
}

impl Listening {
    pub(super) fn new(own: Vec<SocketAddr>) -> (Self, mpsc::UnboundedReceiver<Update>) {
        let (updates, receiver) = mpsc::unbounded_channel();
        (Self(Arc::new(Inner { own, bound: Mutex::default(), updates })), receiver)
    }

    /// Listens on these addresses, and on no others but those of the server's own listeners. Must be called within a tokio
    /// runtime.
    ///
    /// # Errors
    /// When one of them cannot be bound, naming it; then nothing changes.
    pub fn replace(&self, addresses: impl IntoIterator<Item = SocketAddr>) -> io::Result<()> {
        let prepared = self
            .prepare(addresses, |_| false)
            .map_err(|(address, error)| io::Error::new(error.kind(), format!("cannot listen on {address}: {error}")))?;
        prepared.commit();
        Ok(())
    }

    /// The addresses that are bound, without those of the server's own listeners.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.bound().sockets.keys().copied().collect()
    }

    /// Binds what is new. The error names the address that could not be; what is optional is done without, as long as
    /// something is left.
    pub(crate) fn prepare(
        &self,
        addresses: impl IntoIterator<Item = SocketAddr>,
        optional: impl Fn(&SocketAddr) -> bool,
    ) -> Result<Prepared<'_>, (SocketAddr, io::Error)> {
        let mut asked: BTreeSet<SocketAddr> = addresses.into_iter().collect();
        let bound = self.bound();
        let (mut add, mut lacking) = (BTreeMap::new(), Vec::new());
        let wanted = loop {
            let wanted = self.wanted(&asked);
            let failed = wanted.iter().filter(|address| !bound.sockets.contains_key(address)).find_map(|address| {
                let Entry::Vacant(entry) = add.entry(*address) else { return None };
                // What is still being closed could not be bound again.
                let leaving = bound.leaving.get(address).and_then(Weak::upgrade).map(Ok);
                let socket = leaving.unwrap_or_else(|| bind_to(*address, BACKLOG, false).map(Arc::new));
                socket.map(|socket| entry.insert(socket)).map_err(|error| (*address, error)).err()
            });
            let Some((address, error)) = failed else { break wanted };
            // What is in the way of all addresses may be one of our own. If that is to go, nothing would be left there.
            let goes = |own: &SocketAddr| covers(&address, own) && !asked.contains(own);
            if !optional(&address) || bound.sockets.keys().any(goes) {
                return Err((address, error));
            }
            asked.remove(&address);
            lacking.push((address, error));
        };
        if asked.is_empty()
            && let Some(first) = lacking.pop()
        {
            return Err(first);
        }
        let remove = bound.sockets.keys().filter(|address| !wanted.contains(address)).copied().collect();
        Ok(Prepared { listening: self, bound, update: Update { remove, add: add.into_iter().collect() }, lacking })
    }

    /// What has to be bound so that all that is asked for is listened on.
    fn wanted(&self, asked: &BTreeSet<SocketAddr>) -> BTreeSet<SocketAddr> {
        let covered = |address: &SocketAddr| {
            self.0.own.iter().any(|own| own == address || covers(own, address))
                || asked.iter().any(|other| other != address && covers(other, address))
        };
        asked.iter().filter(|address| !covered(address)).copied().collect()
    }

    fn bound(&self) -> MutexGuard<'_, Bound> {
        self.0.bound.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// As of a [`Listener`](super::Listener).
const BACKLOG: u32 = 1024;

/// Whether a socket on `wide` gets the connections to `address` as well: all addresses of a kind. Those of IPv6 include those
/// of IPv4, unless the system was told otherwise.
fn covers(wide: &SocketAddr, address: &SocketAddr) -> bool {
    wide.port() == address.port() && wide.ip().is_unspecified() && (wide.is_ipv6() || address.is_ipv4())
}

impl Prepared<'_> {
    /// What is optional and could not be bound.
    pub(crate) fn lacking(&self) -> &[(SocketAddr, io::Error)] {
        &self.lacking
    }

    /// Serves what is new, and ends what is no longer wanted.
    pub(crate) fn commit(mut self) {
        let Bound { sockets, leaving } = &mut *self.bound;
        leaving.retain(|_, socket| socket.strong_count() > 0);
        for address in &self.update.remove {
            leaving.extend(sockets.remove_entry(address));
        }
        sockets.extend(self.update.add.iter().map(|(address, socket)| (*address, Arc::downgrade(socket))));
        // A server that has ended serves nothing.
        let _ = self.listening.0.updates.send(self.update);
    }
}

impl fmt::Debug for Listening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listening").field("own", &self.0.own).field("bound", &self.addresses()).finish()
    }
}
