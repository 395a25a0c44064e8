use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http::request::Parts;
use tokio::time::Instant;
use tower_layer::Layer;

use super::{Hedge, latency::Latencies};
use crate::retry::Budget;

/// Sends a second attempt when the first is slow; see the [module](super).
///
/// # Example
/// ```
/// use portcullis::{hedge::HedgeLayer, retry::{Budget, RetryLayer}};
///
/// let budget = Budget::default();
/// let retry = RetryLayer::new().budget(budget.clone());
/// let hedge = HedgeLayer::percentile(0.95).budget(budget);
/// # let _ = (retry, hedge);
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct HedgeLayer {
    settings: Settings,
}

#[derive(Clone)]
pub(super) struct Settings {
    when: When,
    pub(super) budget: Budget,
    pub(super) repeatable: Option<Repeatable>,
}

#[derive(Debug, Clone, Copy)]
enum When {
    After(Duration),
    Percentile { share: f64, least: Duration },
}

/// Which requests may be processed twice, by the application's own knowledge.
type Repeatable = Arc<dyn Fn(&Parts) -> bool + Send + Sync>;

/// The settings with the latencies of one service and its clones.
pub(super) struct Shared {
    pub(super) settings: Settings,
    latencies: Mutex<Latencies>,
}

impl HedgeLayer {
    /// After as long as this share of the answers take, from 0 to 1, and no sooner than after 1 ms (finagle's least). "The
    /// Tail at Scale" (Dean, Barroso 2013) defers the second request beyond 0.95, which bounds the load it adds to 5 %.
    pub fn percentile(share: f64) -> Self {
        // What is no number is taken for the most careful choice.
        let share = if share.is_nan() { 1.0 } else { share.clamp(0.0, 1.0) };
        Self::when(When::Percentile { share, least: Duration::from_millis(1) })
    }

    /// After this long, whatever answers take.
    pub fn after(delay: Duration) -> Self {
        Self::when(When::After(delay))
    }

    fn when(when: When) -> Self {
        Self { settings: Settings { when, budget: Budget::default(), repeatable: None } }
    }

    /// With a percentile: no sooner than after this long. Default: 1 ms.
    pub fn least(mut self, delay: Duration) -> Self {
        if let When::Percentile { least, .. } = &mut self.settings.when {
            *least = delay;
        }
        self
    }

    /// The allowance to draw on, shared with all who hold a clone. Default: one of its own.
    pub fn budget(mut self, budget: Budget) -> Self {
        self.settings.budget = budget;
        self
    }

    /// Takes requests for repeatable for which `test` holds, beyond those that are so by their method or
    /// `Idempotency-Key`. A request for which it holds may be processed more than once.
    pub fn repeatable_if(mut self, test: impl Fn(&Parts) -> bool + Send + Sync + 'static) -> Self {
        self.settings.repeatable = Some(Arc::new(test));
        self
    }
}

impl<S> Layer<S> for HedgeLayer {
    type Service = Hedge<S>;

    fn layer(&self, inner: S) -> Hedge<S> {
        let latencies = Mutex::new(Latencies::new());
        Hedge::new(inner, Arc::new(Shared { settings: self.settings.clone(), latencies }))
    }
}

impl Shared {
    /// How long the first attempt has for itself.
    pub(super) fn delay(&self, now: Instant) -> Option<Duration> {
        match self.settings.when {
            When::After(delay) => Some(delay),
            When::Percentile { share, least } => {
                self.with_latencies(|latencies| latencies.percentile(now, share)).map(|delay| delay.max(least))
            }
        }
    }

    pub(super) fn record(&self, now: Instant, latency: Duration) {
        if let When::Percentile { .. } = self.settings.when {
            self.with_latencies(|latencies| latencies.record(now, latency));
        }
    }

    fn with_latencies<T>(&self, work: impl FnOnce(&mut Latencies) -> T) -> T {
        work(&mut self.latencies.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings").field("when", &self.when).field("budget", &self.budget).finish_non_exhaustive()
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.settings.fmt(f)
    }
}
