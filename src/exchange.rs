//! What is known of one request, from its first byte to the last byte of its answer.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::time::{Duration, Instant};

use crate::Outcome;

/// One request and its answer: a handle in the request's extensions that everyone on the way writes what it knows to.
///
/// It begins at the edge and ends once, at the end of the response's body or when the request is dropped; what it
/// holds then is the one record that metrics and the access log are made of.
///
/// # Example
/// ```
/// use portcullis::exchange::Exchange;
///
/// let exchange = Exchange::begin();
/// let mut request = http::Request::new(());
/// request.extensions_mut().insert(exchange.clone());
///
/// // A router, deep inside:
/// if let Some(exchange) = Exchange::of(request.extensions()) {
///     exchange.update(|record| record.route = Some("default/shop".into()));
/// }
/// assert_eq!(exchange.record().route.as_deref(), Some("default/shop"));
/// ```
#[derive(Debug, Clone)]
pub struct Exchange(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    began: Instant,
    record: Mutex<Record>,
}

/// What became known of an [`Exchange`].
#[derive(Debug, Clone, Default)]
pub struct Record {
    /// The client's address as trusted forwarding fields tell it, where it is not the connection's peer.
    pub client: Option<IpAddr>,
    /// The name of the rule that was chosen.
    pub route: Option<Arc<str>>,
    /// The name of the upstream, or of the service in this process, that was chosen.
    pub upstream: Option<Arc<str>>,
    /// The cohort that the request was put into, where its rule has several backends or says so.
    pub cohort: Option<Arc<str>>,
    /// The endpoint of the last attempt.
    pub endpoint: Option<SocketAddr>,
    /// How many times the request was sent, or tried to be sent, to an endpoint.
    pub attempts: u32,
    /// How many of these were hedges: sent because the one before was slow.
    pub hedges: u32,
    /// Bytes of the request's body that were read so far.
    pub request_bytes: u64,
    /// How it ended, where it did not simply complete.
    pub outcome: Option<Outcome>,
    /// Why, for the log: the error's text, or what it was that answered in an upstream's place.
    pub detail: Option<String>,
    /// From the beginning until the response's head was there.
    pub head_after: Option<Duration>,
}

impl Exchange {
    /// An exchange that begins now.
    #[must_use]
    pub fn begin() -> Self {
        Self(Arc::new(Shared { began: Instant::now(), record: Mutex::default() }))
    }

    /// The exchange in a request's extensions, if one was begun.
    #[must_use]
    pub fn of(extensions: &http::Extensions) -> Option<&Self> {
        extensions.get()
    }

    /// When it began.
    #[must_use]
    pub fn began(&self) -> Instant {
        self.0.began
    }

    /// Writes what became known.
    pub fn update(&self, write: impl FnOnce(&mut Record)) {
        write(&mut self.lock());
    }

    /// What is known so far.
    #[must_use]
    pub fn record(&self) -> Record {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Record> {
        // A record is valid after any write, also one cut short by a panic.
        self.0.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
