use std::{
    fmt,
    sync::{Arc, Mutex},
};

use http::request::Parts;
use tokio::time::Duration;
use tower_layer::Layer;

use super::{Abort, FaultInjector, Share, policy::Policy};
use crate::limit::concurrency::Permits;

pub(super) type Condition = Arc<dyn Fn(&Parts) -> bool + Send + Sync>;

/// Injects faults; see the [module](super).
///
/// # Example
/// ```
/// use portcullis::fault::{Abort, FaultLayer, Share};
/// use std::time::Duration;
///
/// let layer = FaultLayer::new()
///     .delay(Duration::from_millis(200), Share::percent(5.0)?)
///     .abort(Abort::Reset, Share::percent(0.1)?)
///     .when(|request| request.headers.contains_key("x-canary"));
/// # let _ = layer;
/// # Ok::<_, portcullis::fault::InvalidShare>(())
/// ```
#[must_use]
pub struct FaultLayer {
    delay: Option<(Duration, Share)>,
    abort: Option<(Abort, Share)>,
    max_delay: Duration,
    headers: bool,
    seed: Option<u64>,
    condition: Option<Condition>,
    active: Permits,
}

/// What the services of a layer share.
pub(super) struct Settings {
    pub(super) policy: Policy,
    pub(super) headers: bool,
    pub(super) condition: Option<Condition>,
    pub(super) active: Permits,
}

impl FaultLayer {
    /// A layer that injects nothing.
    pub fn new() -> Self {
        Self {
            delay: None,
            abort: None,
            max_delay: Duration::from_secs(60),
            headers: false,
            seed: None,
            condition: None,
            active: Permits::new(usize::MAX, 0),
        }
    }

    /// Delays this share of requests by so much, before they go on or are failed.
    pub fn delay(mut self, delay: Duration, share: Share) -> Self {
        self.delay = Some((delay, share));
        self
    }

    /// Fails this share of requests.
    pub fn abort(mut self, abort: Abort, share: Share) -> Self {
        self.abort = Some((abort, share));
        self
    }

    /// The longest delay, whoever asks for it. Default 60 s.
    pub fn max_delay(mut self, delay: Duration) -> Self {
        self.max_delay = delay;
        self
    }

    /// Whether requests may ask for faults by the fields of the [module's table](super#fields). Default: no, they pass as
    /// any other field.
    pub fn headers(mut self, enable: bool) -> Self {
        self.headers = enable;
        self
    }

    /// Only requests for which this holds. Default: all. A second condition takes the place of the first.
    pub fn when(mut self, condition: impl Fn(&Parts) -> bool + Send + Sync + 'static) -> Self {
        self.condition = Some(Arc::new(condition));
        self
    }

    /// How many requests may be under a fault at once; further ones are spared. Default: any number (Envoy's
    /// `max_active_faults`). A delay is one until it is over, a failure for its moment.
    pub fn max_active(self, faults: usize) -> Self {
        self.active.set_limit(faults);
        self
    }

    /// Chooses requests the same way each time. Default: a seed of this process.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }
}

impl Default for FaultLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for FaultLayer {
    type Service = FaultInjector<S>;

    fn layer(&self, inner: S) -> FaultInjector<S> {
        let rng = self.seed.map_or_else(fastrand::Rng::new, fastrand::Rng::with_seed);
        let policy = Policy { delay: self.delay, abort: self.abort, max_delay: self.max_delay, rng: Mutex::new(rng) };
        let settings =
            Settings { policy, headers: self.headers, condition: self.condition.clone(), active: self.active.clone() };
        FaultInjector { inner, settings: Arc::new(settings) }
    }
}

impl fmt::Debug for FaultLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultLayer")
            .field("delay", &self.delay)
            .field("abort", &self.abort)
            .field("headers", &self.headers)
            .field("active", &self.active)
            .finish_non_exhaustive()
    }
}
