//! Who owns a request, or a connection: the listeners of a configuration, by address and by host.
//!
//! 1. Listeners that share an address are told apart by host: HTTP by the `Host` field, TLS by SNI. The most specific that
//!    fits has it: the name itself, the longest wildcard, any host. They must speak the same family of protocols: HTTP; TLS,
//!    HTTPS among it; TCP, which nothing tells apart.
//! 2. Two for the same host are refused where one author wrote the configuration. Where many did they are one listener, with
//!    the settings of the first and the routes of both, as long as they speak the same; else the first is served alone.
//! 3. A listener's routes are those attached to it, for the hosts that are both its own and theirs.
//! 4. A listener that is invalid has its connections closed, over TLS before the handshake. Requests of one without TLS are
//!    answered 500, as others may share its connections; where all at an address are invalid, those are closed, too.

mod compile;
#[cfg(test)]
mod tests;

pub(super) use self::compile::{CompileError, Parts, shared_hosts};

use std::{
    collections::{BTreeMap, HashMap},
    fmt, io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use http::{HeaderMap, Uri};
use thiserror::Error;

use super::{streams::StreamRule, tables::Table};
#[cfg(feature = "tls")]
use crate::tls::{CertificateError, ServerTls};
use crate::{
    Error, Outcome,
    config::{Host, ListenerProtocol},
    connection::ConnectionInfo,
    route::{self, HostMap},
    server::{Listening, Prepared},
};

/// The listeners of one configuration, and which rules each leads to.
pub(super) struct Listeners {
    places: HashMap<SocketAddr, Place, foldhash::fast::RandomState>,
    /// The addresses to be bound.
    asked: BTreeMap<SocketAddr, Asked>,
    /// Every route there is, for requests of which it is not known where they came in.
    mounted: Arc<Table>,
    /// The routes that are attached to nothing, for requests that came in where no listener is. None if there are none.
    unattached: Option<Arc<Table>>,
    #[cfg(feature = "tls")]
    terminations: HashMap<String, ServerTls>,
}

/// Who wants an address bound.
#[derive(Debug)]
struct Asked {
    /// The listener that asked for it first.
    listener: String,
    /// Whether all that did can do without it.
    optional: bool,
}

/// An address with its listeners.
pub(super) struct Place {
    pub(super) family: Family,
    pub(super) domains: HostMap<Arc<Domain>>,
}

/// What can share an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    Http,
    /// HTTPS among it: told apart by SNI.
    Tls,
    Tcp,
}

/// What belongs to one host at an address.
pub(super) struct Domain {
    /// Of the listener; the first, where several are one.
    pub(super) name: Arc<str>,
    pub(super) host: Host,
    pub(super) kind: Kind,
    pub(super) invalid: Option<Arc<str>>,
}

pub(super) enum Kind {
    Http(Arc<Table>),
    #[cfg(feature = "tls")]
    Https(ServerTls, Arc<Table>),
    #[cfg(feature = "tls")]
    Tls(ServerTls, HostMap<Arc<StreamRule>>),
    Passthrough(HostMap<Arc<StreamRule>>),
    Tcp(Option<Arc<StreamRule>>),
    /// Nothing, because it is invalid.
    Nothing,
}

/// Why the listeners of a configuration cannot be served.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ListenerError {
    /// Two have one name.
    #[error("there are two listeners named `{name}`: give each a name of its own")]
    Duplicate {
        /// The name.
        name: String,
    },
    /// A route is attached to a listener that there is not.
    #[error("route `{route}`: there is no listener named `{listener}`")]
    Unknown {
        /// The route's name.
        route: String,
        /// The name that was not found.
        listener: String,
    },
    /// A route is attached to a listener that does not lead to routes of its kind.
    #[error("route `{route}`: listener `{listener}` does not lead to {kind}: attach it to another")]
    WrongKind {
        /// The route's name.
        route: String,
        /// The listener's name.
        listener: String,
        /// `routes` or `streams`.
        kind: &'static str,
    },
    /// Two cannot share their address.
    #[error("listeners `{first}` and `{second}` cannot share {address}: {why}")]
    Conflict {
        /// One.
        first: String,
        /// The other.
        second: String,
        /// Where.
        address: SocketAddr,
        /// What is in the way.
        why: &'static str,
    },
    /// The backend of a stream names nothing.
    #[error("stream `{route}`: there is no upstream named `{backend}`")]
    UnknownBackend {
        /// The stream route's name.
        route: String,
        /// The name that was not found.
        backend: String,
    },
    /// Its certificates, or the authorities of its clients, are not usable.
    #[cfg(feature = "tls")]
    #[error("listener `{listener}`: {source}")]
    Tls {
        /// The listener's name.
        listener: String,
        /// What is wrong.
        source: CertificateError,
    },
    /// TLS is to be ended, and the crate was built without it.
    #[error("listener `{listener}` ends TLS: enable the feature `tls`")]
    NoTls {
        /// The listener's name.
        listener: String,
    },
    /// Its address cannot be bound.
    #[error("listener `{listener}`: cannot listen on {address}: {source}")]
    Bind {
        /// The listener's name.
        listener: String,
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
}

impl Listeners {
    /// The rules for a request.
    ///
    /// 1. Of the listeners where it came in, the one whose host fits its own best has it, and only that one's routes see it.
    /// 2. Over TLS, that must be the one whose host fits SNI best as well.
    /// 3. On a listener of the program itself, the routes that are attached to nothing take what nobody has.
    pub(super) fn table(
        &self,
        uri: &Uri,
        headers: &HeaderMap,
        connection: Option<&ConnectionInfo>,
    ) -> Result<&Table, Error> {
        let Some(connection) = connection else { return Ok(&self.mounted) };
        let no_route = || Error::new(Outcome::NoRoute);
        let Some(place) = self.place(connection) else {
            return self.unattached.as_deref().ok_or_else(no_route);
        };
        let host = route::host(uri, headers);
        let owner = place.domains.find(host.as_deref());
        if let Some(tls) = connection.tls()
            && tls.server_name.as_deref() != host.as_deref()
            && !is_same(place.domains.find(tls.server_name.as_deref()), owner)
        {
            return Err(Error::new(Outcome::Misdirected).with_source("the TLS handshake was for another listener"));
        }
        let Some(owner) = owner else {
            let unattached = self.unattached.as_deref().filter(|_| connection.is_of_own_listener());
            return unattached.ok_or_else(no_route);
        };
        match &owner.kind {
            Kind::Http(table) => Ok(table),
            #[cfg(feature = "tls")]
            Kind::Https(_, table) => Ok(table),
            Kind::Nothing => {
                let why = owner.invalid.as_deref().unwrap_or("its listener is invalid").to_owned();
                Err(Error::new(Outcome::Internal).with_source(why))
            }
            _ => Err(no_route()),
        }
    }

    /// The listeners where a connection came in.
    pub(super) fn place(&self, connection: &ConnectionInfo) -> Option<&Place> {
        if self.places.is_empty() {
            return None;
        }
        let local = connection.socket_local_addr();
        let at = |ip: IpAddr| self.places.get(&SocketAddr::new(ip, local.port()));
        let all = [IpAddr::from([0; 4]), IpAddr::from([0; 16])];
        let [v4, v6] = all;
        // A dual-stack socket shows IPv4 addresses as IPv6.
        let ip = local.ip().to_canonical();
        at(ip).or_else(|| at(v4).filter(|_| ip.is_ipv4())).or_else(|| at(v6))
    }

    /// Whether there are routes that are attached to no listener.
    pub(super) fn has_unattached(&self) -> bool {
        self.unattached.is_some()
    }

    /// Binds what is new. What may be lacking and is, is told in the log.
    pub(super) fn bind<'l>(&self, listening: &'l Listening) -> Result<Prepared<'l>, ListenerError> {
        let named =
            |address: &SocketAddr| self.asked.get(address).map(|asked| asked.listener.clone()).unwrap_or_default();
        let optional = |address: &SocketAddr| self.asked.get(address).is_some_and(|asked| asked.optional);
        let prepared = listening
            .prepare(self.asked.keys().copied(), optional)
            .map_err(|(address, source)| ListenerError::Bind { listener: named(&address), address, source })?;
        for (address, error) in prepared.lacking() {
            let listener = named(address);
            tracing::warn!(%listener, %address, %error, "cannot listen there: the rest is served without it");
        }
        Ok(prepared)
    }

    /// How many matches there are.
    pub(super) fn len(&self) -> usize {
        self.mounted.len()
    }
}

fn is_same(one: Option<&Arc<Domain>>, two: Option<&Arc<Domain>>) -> bool {
    one.map(Arc::as_ptr) == two.map(Arc::as_ptr)
}

impl Family {
    pub(super) fn of(protocol: &ListenerProtocol) -> Self {
        match protocol {
            ListenerProtocol::Http => Self::Http,
            ListenerProtocol::Https(_) | ListenerProtocol::Tls(_) | ListenerProtocol::TlsPassthrough => Self::Tls,
            ListenerProtocol::Tcp => Self::Tcp,
        }
    }
}

impl fmt::Debug for Listeners {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listeners").field("places", &self.asked).finish_non_exhaustive()
    }
}
