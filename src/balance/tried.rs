use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use smallvec::SmallVec;

/// The endpoints that a request has been offered to: a request extension, shared by all attempts of the request.
///
/// Who sends a request more than once puts the same handle into every attempt. An upstream adds each endpoint that it picks
/// and passes over those that are there already, as long as there is another that may be used.
///
/// # Example
/// ```
/// use portcullis::balance::Tried;
///
/// let tried = Tried::default();
/// let mut attempt = http::Request::new(());
/// attempt.extensions_mut().insert(tried.clone());
/// Tried::of(attempt.extensions()).unwrap().add("127.0.0.1:9001".parse().unwrap());
/// assert_eq!(tried.addresses()[..], ["127.0.0.1:9001".parse().unwrap()]);
/// ```
#[derive(Debug, Clone, Default)]
pub struct Tried {
    endpoints: Arc<Mutex<SmallVec<[SocketAddr; 4]>>>,
    governed: bool,
    counts_resets: bool,
}

impl Tried {
    /// The handle in a request's extensions.
    #[must_use]
    pub fn of(extensions: &http::Extensions) -> Option<&Self> {
        extensions.get()
    }

    /// The same handle, by which its owner reserves to itself whether what was sent is sent again, and counts how often: an
    /// upstream then offers elsewhere only what nothing was sent of.
    #[must_use]
    pub fn governed(mut self) -> Self {
        self.governed = true;
        self
    }

    /// The same handle, whose owner also sends again, and counts, what a used connection ended under
    /// ([`Sent::Stale`](crate::Sent::Stale)): else an upstream does that by itself, and nobody counts it.
    #[must_use]
    pub fn counting_resets(mut self) -> Self {
        self.counts_resets = true;
        self
    }

    /// Whether it is [`counting_resets`](Self::counting_resets).
    #[must_use]
    pub fn counts_resets(&self) -> bool {
        self.counts_resets
    }

    /// Whether it is [`governed`](Self::governed).
    #[must_use]
    pub fn is_governed(&self) -> bool {
        self.governed
    }

    /// Another endpoint was picked.
    pub fn add(&self, address: SocketAddr) {
        let mut tried = self.lock();
        if !tried.contains(&address) {
            tried.push(address);
        }
    }

    /// The endpoints so far, the first first.
    #[must_use]
    pub fn addresses(&self) -> SmallVec<[SocketAddr; 4]> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, SmallVec<[SocketAddr; 4]>> {
        self.endpoints.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
