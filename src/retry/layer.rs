use std::{fmt, sync::Arc, time::Duration};

use http::request::Parts;
use tower_layer::Layer;

use super::{
    Budget, Conditions, Retry,
    policy::{Backoff, Rules},
};

/// Sends again what failed; see the [module](super).
///
/// # Example
/// ```
/// use portcullis::retry::{Budget, Conditions, RetryLayer};
/// use std::time::Duration;
///
/// let budget = Budget::default();
/// let layer = RetryLayer::new()
///     .conditions(Conditions::default().server_errors())
///     .max_retries(2)
///     .per_try_timeout(Duration::from_millis(250))
///     .budget(budget.clone());
/// # let _ = layer;
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct RetryLayer {
    settings: Settings,
}

#[derive(Clone)]
pub(super) struct Settings {
    pub(super) conditions: Conditions,
    pub(super) rules: Rules,
    pub(super) per_try: Option<Duration>,
    pub(super) late_times_out: bool,
    pub(super) body_cap: usize,
    pub(super) peek: Duration,
    pub(super) budget: Budget,
    pub(super) repeatable: Option<Repeatable>,
}

/// Which requests may be processed twice, by the application's own knowledge.
type Repeatable = Arc<dyn Fn(&Parts) -> bool + Send + Sync>;

impl RetryLayer {
    /// With the defaults that each setting names.
    pub fn new() -> Self {
        Self {
            settings: Settings {
                conditions: Conditions::default(),
                rules: Rules::default(),
                per_try: None,
                late_times_out: false,
                body_cap: 64 * 1024,
                peek: Duration::from_millis(10),
                budget: Budget::default(),
                repeatable: None,
            },
        }
    }

    /// A failure that would be tried again, but for the deadline that comes first, is
    /// [`UpstreamTimeout`](crate::Outcome::UpstreamTimeout) in its place, as it would be had the retry begun. Default: it
    /// is passed on as it is.
    pub fn late_retries_time_out(mut self) -> Self {
        self.settings.late_times_out = true;
        self
    }

    /// What a retry may be for. Default: see [`Conditions`].
    pub fn conditions(mut self, conditions: Conditions) -> Self {
        self.settings.conditions = conditions;
        self
    }

    /// How many times a request is sent again at most. Default: 1, as Envoy and Linkerd have it. gRPC allows no more than
    /// 4.
    pub fn max_retries(mut self, retries: u32) -> Self {
        self.settings.rules.max_retries = retries;
        self
    }

    /// The time between attempts: by chance between nothing and `base`, which grows exponentially up to `max`. Default:
    /// 25 ms and 250 ms, Envoy's.
    pub fn backoff(mut self, base: Duration, max: Duration) -> Self {
        self.settings.rules.backoff = Backoff { base, max, ..self.settings.rules.backoff };
        self
    }

    /// The time between attempts that [`backoff`](Self::backoff) is added to. Default: none. GEP-1731 has a least time.
    pub fn least_wait(mut self, least: Duration) -> Self {
        self.settings.rules.backoff.least = least;
        self
    }

    /// How long one attempt may take until the response's head. Default: no limit of its own, as with Envoy and Linkerd.
    ///
    /// An attempt that is cut here is a failure of the endpoint that an [`Upstream`](crate::upstream::Upstream) inside asked;
    /// [`AttemptTimeout`](crate::timeout::AttemptTimeout) lets it cut the attempt itself, and tell which endpoint it was.
    pub fn per_try_timeout(mut self, limit: Duration) -> Self {
        self.settings.per_try = Some(limit);
        self
    }

    /// The longest wait that a server may ask for by `Retry-After` or `grpc-retry-pushback-ms`; if it asks for longer, its
    /// answer is passed on. Default: 300 s, Envoy's `max_interval`. A deadline limits it as well.
    pub fn longest_wait(mut self, limit: Duration) -> Self {
        self.settings.rules.longest_wait = limit;
        self
    }

    /// How many bytes of a request's body are kept to be sent again. What is longer is streamed, and not sent again once
    /// any of it was read. Default: 64 KiB, Linkerd's.
    pub fn body_cap(mut self, bytes: usize) -> Self {
        self.settings.body_cap = bytes;
        self
    }

    /// How long the head of a gRPC response is held back to see whether trailers follow at once. Default: 10 ms; most
    /// trailers of a failed call come in the same packet. With zero, only what is there already is looked at. A call whose
    /// client is still sending never waits.
    pub fn peek(mut self, limit: Duration) -> Self {
        self.settings.peek = limit;
        self
    }

    /// The allowance to draw on, shared with all who hold a clone. Default: one of its own, see [`Budget`].
    pub fn budget(mut self, budget: Budget) -> Self {
        self.settings.budget = budget;
        self
    }

    /// Takes requests for repeatable for which `test` holds, beyond those that are so by their method or
    /// `Idempotency-Key`. Most gRPC methods need this, as every call is a POST: the test knows them by path.
    ///
    /// A request for which it holds may be processed more than once.
    pub fn repeatable_if(mut self, test: impl Fn(&Parts) -> bool + Send + Sync + 'static) -> Self {
        self.settings.repeatable = Some(Arc::new(test));
        self
    }
}

impl Default for RetryLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for RetryLayer {
    type Service = Retry<S>;

    fn layer(&self, inner: S) -> Retry<S> {
        Retry::new(inner, Arc::new(self.settings.clone()))
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("conditions", &self.conditions)
            .field("rules", &self.rules)
            .field("per_try", &self.per_try)
            .field("body_cap", &self.body_cap)
            .field("budget", &self.budget)
            .finish_non_exhaustive()
    }
}
