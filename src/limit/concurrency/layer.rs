use tokio::time::Duration;
use tower_layer::Layer;

use super::{Concurrency, Permits};

/// Limits how many requests are in flight; see the [module](super).
///
/// One layer is one limit: the services that it makes, and their clones, share it.
#[derive(Debug, Clone)]
#[must_use]
pub struct ConcurrencyLayer {
    permits: Permits,
    max_wait: Duration,
}

impl ConcurrencyLayer {
    /// At most `limit` requests in flight; 0 refuses all. Envoy's default for a cluster (`max_requests`) is 1024.
    pub fn new(limit: usize) -> Self {
        Self { permits: Permits::new(limit, 100), max_wait: Duration::from_secs(3) }
    }

    /// How many requests may wait for one in flight to end; 0 refuses at once. Default 100 (Linkerd's queue capacity).
    ///
    /// Several layers [of the same permits](Self::permits) share one queue, and this changes it for all.
    pub fn queue(self, requests: usize) -> Self {
        self.permits.set_max_queued(requests);
        self
    }

    /// How long one may wait. Default 3 s (Linkerd's failfast time-out). Zero means not at all.
    pub fn max_wait(mut self, wait: Duration) -> Self {
        self.max_wait = wait;
        self
    }

    /// Uses these permits, with the queue that they have, in place of its own.
    pub fn permits(mut self, permits: Permits) -> Self {
        self.permits = permits;
        self
    }

    /// A handle to the permits: to look at them, and to change the limit while serving.
    #[must_use]
    pub fn handle(&self) -> Permits {
        self.permits.clone()
    }
}

impl<S> Layer<S> for ConcurrencyLayer {
    type Service = Concurrency<S>;

    fn layer(&self, inner: S) -> Concurrency<S> {
        Concurrency::new(inner, self.permits.clone(), self.max_wait)
    }
}
