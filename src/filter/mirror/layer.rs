use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use tokio::time::Duration;
use tower_layer::Layer;

use super::{Mirror, feed::Memory, policy};
use crate::{config::Fraction, limit::concurrency::Permits};

/// Sends copies of requests to a target; see the [module](super).
///
/// All services that it makes share its limits and counts.
///
/// # Example
/// ```
/// use portcullis::{Body, Error, Outcome, config::Fraction, filter::MirrorLayer, route::Target};
/// use std::time::Duration;
/// use tower::service_fn;
///
/// let shadow = Target::new(service_fn(async |_: http::Request<Body>| {
///     Err::<http::Response<Body>, _>(Error::new(Outcome::NoEndpoint))
/// }));
/// let layer = MirrorLayer::new(shadow, Fraction { numerator: 1, denominator: 1000 }).timeout(Duration::from_secs(2));
/// assert_eq!(layer.counts().sent, 0);
/// ```
#[must_use]
#[derive(Clone)]
pub struct MirrorLayer<T> {
    target: T,
    share: Fraction,
    timeout: Duration,
    max_behind: usize,
    pub(super) memory: Arc<Memory>,
    permits: Permits,
    rng: Option<Arc<Mutex<fastrand::Rng>>>,
    tally: Arc<Tally>,
}

/// What the services of a layer share.
pub(super) struct Shared<T> {
    pub(super) target: T,
    pub(super) share: Fraction,
    pub(super) timeout: Duration,
    pub(super) max_behind: usize,
    pub(super) memory: Arc<Memory>,
    pub(super) permits: Permits,
    pub(super) rng: Option<Arc<Mutex<fastrand::Rng>>>,
    pub(super) tally: Arc<Tally>,
}

/// What became of the requests that were to be mirrored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// Copies that were sent, or begun to be sent. Each is one of the next three once it is over.
    pub sent: u64,
    /// Copies that were answered, whatever the status.
    pub answered: u64,
    /// Copies that failed, or were not answered in time.
    pub failed: u64,
    /// Copies that ended before the request's body did: they fell behind, or the request itself ended early.
    pub abandoned: u64,
    /// Requests that were not mirrored, as too many copies were in flight.
    pub skipped: u64,
}

#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) sent: AtomicU64,
    pub(super) answered: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) abandoned: AtomicU64,
    pub(super) skipped: AtomicU64,
}

impl<T> MirrorLayer<T> {
    /// Sends this share of requests to `target` as well.
    pub fn new(target: T, share: Fraction) -> Self {
        Self {
            target,
            share,
            timeout: Duration::from_secs(15),
            max_behind: 1024 * 1024,
            memory: Arc::new(Memory::new(64 * 1024 * 1024)),
            permits: Permits::new(1024, 0),
            rng: None,
            tally: Arc::default(),
        }
    }

    /// How long a copy may take to be answered to the end, counted from the end of its request. Default 15 s (Envoy's
    /// timeout of a route, which its mirroring obeys).
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// How many copies may be in flight at once; further requests are not mirrored. Default 1024 (Envoy's limit of requests
    /// to one cluster).
    pub fn max_in_flight(mut self, copies: usize) -> Self {
        self.permits = Permits::new(copies, 0);
        self
    }

    /// How many bytes of a body may wait for a copy that is slower than the request; beyond that it is abandoned. Default
    /// 1 MiB (Envoy's buffer of a connection).
    pub fn max_behind(mut self, bytes: usize) -> Self {
        self.max_behind = bytes;
        self
    }

    /// How many bytes may wait for all copies together. Default 64 MiB.
    pub fn max_memory(mut self, bytes: usize) -> Self {
        self.memory = Arc::new(Memory::new(bytes));
        self
    }

    /// Chooses requests the same way each time. Default: by chance.
    pub fn seed(mut self, seed: u64) -> Self {
        self.rng = Some(Arc::new(Mutex::new(fastrand::Rng::with_seed(seed))));
        self
    }

    /// What became of the requests so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.tally.counts()
    }
}

impl<S, T: Clone> Layer<S> for MirrorLayer<T> {
    type Service = Mirror<S, T>;

    fn layer(&self, inner: S) -> Mirror<S, T> {
        let shared = Shared {
            target: self.target.clone(),
            share: self.share,
            timeout: self.timeout,
            max_behind: self.max_behind,
            memory: Arc::clone(&self.memory),
            permits: self.permits.clone(),
            rng: self.rng.clone(),
            tally: Arc::clone(&self.tally),
        };
        Mirror { inner, shared: Arc::new(shared) }
    }
}

impl<T> Shared<T> {
    /// Whether the next request is mirrored, by chance.
    pub(super) fn draw(&self) -> bool {
        policy::is_drawn(self.share, |below| match &self.rng {
            None => fastrand::u32(..below),
            Some(rng) => rng.lock().unwrap_or_else(PoisonError::into_inner).u32(..below),
        })
    }
}

impl Tally {
    pub(super) fn counts(&self) -> Counts {
        Counts {
            sent: self.sent.load(Relaxed),
            answered: self.answered.load(Relaxed),
            failed: self.failed.load(Relaxed),
            abandoned: self.abandoned.load(Relaxed),
            skipped: self.skipped.load(Relaxed),
        }
    }
}

impl<T: fmt::Debug> fmt::Debug for MirrorLayer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MirrorLayer")
            .field("target", &self.target)
            .field("share", &self.share)
            .field("counts", &self.counts())
            .finish_non_exhaustive()
    }
}
