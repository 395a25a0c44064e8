use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use http::request::Parts;
use tokio::time::Instant;
use tower_layer::Layer;

use super::{Priority, Shed, policy::Estimate};
use crate::{
    Outcome,
    config::ShedShares,
    limit::{
        concurrency::{Permit, Permits},
        measured::{Learn, Verdict},
    },
    timeout::Deadline,
};

type Classify = Arc<dyn Fn(&Parts) -> Priority + Send + Sync>;
type Load = Arc<dyn Fn() -> f64 + Send + Sync>;

/// Sheds load by priority and by deadline; see the [module](super).
///
/// One layer is one limit and one estimate: the services that it makes, and their clones, share them.
#[derive(Clone)]
#[must_use]
pub struct ShedLayer {
    settings: Settings,
    estimate: Arc<Learned>,
}

#[derive(Clone)]
pub(super) struct Settings {
    permits: Permits,
    shares: ShedShares,
    classify: Option<Classify>,
    load: Option<Load>,
}

/// The estimate, and what it learns from.
#[derive(Debug)]
pub(super) struct Learned(Mutex<Estimate>);

impl ShedLayer {
    /// Lets in at most so many requests at once, and of each class no more than its share of that.
    pub fn new(limit: usize) -> Self {
        Self {
            settings: Settings {
                permits: Permits::new(limit, 0),
                shares: ShedShares::default(),
                classify: None,
                load: None,
            },
            estimate: Arc::new(Learned(Mutex::new(Estimate::new(Instant::now())))),
        }
    }

    /// Up to which share of the limit, from 0 to 1, requests of this class are let in. Defaults, our own: 0.6 for
    /// [`Priority::Sheddable`], 0.8 for [`Priority::SheddablePlus`], 0.95 for [`Priority::Critical`], 1 for
    /// [`Priority::CriticalPlus`].
    pub fn share(mut self, priority: Priority, share: f64) -> Self {
        self.settings.shares.set(priority, share);
        self
    }

    /// The class of requests that have no [`Priority`] among their extensions. Default: [`Priority::Critical`].
    pub fn classify(mut self, classify: impl Fn(&Parts) -> Priority + Send + Sync + 'static) -> Self {
        self.settings.classify = Some(Arc::new(classify));
        self
    }

    /// Another measure of load, 1 being full: of an [adaptive limit](crate::limit::adaptive::AdaptiveLayer::handle), of a
    /// queue, or whatever the application knows of itself. A class is also refused while it is at or above the class's
    /// share. Asked for each request, so it has to be cheap. Default: none.
    pub fn load(mut self, load: impl Fn() -> f64 + Send + Sync + 'static) -> Self {
        self.settings.load = Some(Arc::new(load));
        self
    }

    /// A handle to the permits: to look at limit and use.
    #[must_use]
    pub fn handle(&self) -> Permits {
        self.settings.permits.clone()
    }
}

impl Settings {
    /// A permit, or why not.
    pub(super) fn admit(&self, request: &Parts, estimate: &Learned, now: Instant) -> Result<Permit, Outcome> {
        if let Some(deadline) = Deadline::in_force(&request.extensions) {
            let left = deadline.left(now);
            if left.is_zero() || left < estimate.with(|estimate| estimate.current(now)) {
                return Err(Outcome::DeadlineExceeded);
            }
        }
        let told = request.extensions.get::<Priority>().copied();
        let priority = told.or_else(|| Some(self.classify.as_ref()?(request))).unwrap_or_default();
        if self.load.as_ref().is_some_and(|load| load() >= self.shares.of(priority)) {
            return Err(Outcome::Overloaded);
        }
        let below = self.shares.below(priority, self.permits.limit());
        self.permits.try_acquire_within(below).ok_or(Outcome::Overloaded)
    }
}

impl Learned {
    fn with<T>(&self, act: impl FnOnce(&mut Estimate) -> T) -> T {
        // Two numbers; valid after any write.
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Learn for Learned {
    fn learn(&self, began: Instant, now: Instant, verdict: Verdict) {
        let latency = now.saturating_duration_since(began);
        self.with(|estimate| match verdict {
            Verdict::Success => estimate.learn(latency, now),
            // It would have taken at least so long. A time-out that cuts all requests short would else keep the estimate
            // at what the few fast ones take.
            _ if latency > estimate.current(now) => estimate.learn(latency, now),
            Verdict::Cancelled | Verdict::Failure => {}
        });
    }
}

impl<S> Layer<S> for ShedLayer {
    type Service = Shed<S>;

    fn layer(&self, inner: S) -> Shed<S> {
        Shed { inner, settings: Arc::new(self.settings.clone()), estimate: Arc::clone(&self.estimate) }
    }
}

impl fmt::Debug for ShedLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShedLayer")
            .field("permits", &self.settings.permits)
            .field("shares", &self.settings.shares)
            .field("estimate", &self.estimate)
            .finish_non_exhaustive()
    }
}
