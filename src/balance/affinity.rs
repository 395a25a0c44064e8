use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use super::hash::StableHasher;

/// The endpoint that a request should go to, and the one that answered it: a request extension, shared by all attempts.
///
/// Endpoints are told by [`id`](Self::id), which names them without their addresses. An upstream offers the request to the
/// wanted endpoint first, as long as that is there and may be used; else its balancer chooses as ever.
///
/// # Example
/// ```
/// use portcullis::balance::Affinity;
///
/// let affinity = Affinity::new(Some(Affinity::id("127.0.0.1:9001".parse().unwrap())));
/// let mut request = http::Request::new(());
/// request.extensions_mut().insert(affinity.clone());
/// // The upstream, deep inside, and another endpoint than was wanted:
/// Affinity::of(request.extensions()).unwrap().answered("127.0.0.1:9002".parse().unwrap());
/// assert_ne!(affinity.answerer(), affinity.wanted());
/// ```
#[derive(Debug, Clone)]
pub struct Affinity(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    wanted: Option<u64>,
    /// 0 while there is none.
    answerer: AtomicU64,
}

impl Affinity {
    /// To the endpoint of this id, if there is one.
    #[must_use]
    pub fn new(wanted: Option<u64>) -> Self {
        Self(Arc::new(Shared { wanted, answerer: AtomicU64::new(0) }))
    }

    /// What stands for the endpoint at this address: the same in every process, and never 0. A hash, not a secret: who knows
    /// the address knows the id.
    #[must_use]
    pub fn id(address: SocketAddr) -> u64 {
        let mut hasher = StableHasher::default();
        hasher.write_address(address);
        hasher.finish().max(1)
    }

    /// The handle in a request's extensions.
    #[must_use]
    pub fn of(extensions: &http::Extensions) -> Option<&Self> {
        extensions.get()
    }

    /// The endpoint that the request should go to.
    #[must_use]
    pub fn wanted(&self) -> Option<u64> {
        self.0.wanted
    }

    /// The endpoint at this address answered.
    pub fn answered(&self, address: SocketAddr) {
        self.0.answerer.store(Self::id(address), Relaxed);
    }

    /// The endpoint that answered.
    #[must_use]
    pub fn answerer(&self) -> Option<u64> {
        Some(self.0.answerer.load(Relaxed)).filter(|id| *id != 0)
    }
}
