use tokio::time::{Duration, Instant};

/// The settings of additive increase, multiplicative decrease, as TCP does it and Netflix's concurrency-limits after it.
///
/// 1. A request answered within [`latency`](Self::latency) while at least half of the limit is in use raises the limit by
///    `1 / limit`: by one for a limit's worth of requests.
/// 2. A request that fails, or takes longer, whether it is answered or cancelled after that time, lowers the limit to
///    [`backoff`](Self::backoff) of itself; but only one for all those that were in flight together.
/// 3. One cancelled sooner says nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct Aimd {
    /// The lowest limit. Default 3, as [`Gradient`](super::Gradient)'s.
    pub min_limit: usize,
    /// The highest limit. Default 1000, as [`Gradient`](super::Gradient)'s.
    pub max_limit: usize,
    /// The limit to begin with. Default 20 (concurrency-limits).
    pub initial_limit: usize,
    /// From which latency a request counts as one too many. Default 5 s (concurrency-limits), which few services want.
    pub latency: Duration,
    /// By what the limit is multiplied then, from 0.5 to 1. Default 0.9 (concurrency-limits).
    pub backoff: f64,
}

impl Default for Aimd {
    fn default() -> Self {
        Self { min_limit: 3, max_limit: 1000, initial_limit: 20, latency: Duration::from_secs(5), backoff: 0.9 }
    }
}

/// The algorithm: pure.
#[derive(Debug)]
pub(super) struct AimdLimit {
    settings: Aimd,
    limit: f64,
    lowered: Option<Instant>,
}

impl AimdLimit {
    #[expect(clippy::manual_clamp, reason = "`clamp` would let NaN through")]
    pub(super) fn new(mut settings: Aimd) -> Self {
        settings.min_limit = settings.min_limit.max(1);
        settings.max_limit = settings.max_limit.max(settings.min_limit);
        settings.backoff = settings.backoff.max(0.5).min(1.0);
        let limit = settings.initial_limit.clamp(settings.min_limit, settings.max_limit) as f64;
        Self { settings, limit, lowered: None }
    }

    pub(super) fn limit(&self) -> usize {
        self.limit as usize
    }

    /// From which latency a request counts as one too many.
    pub(super) fn too_long(&self) -> Duration {
        self.settings.latency
    }

    /// A request that ended, and how many were in flight then.
    pub(super) fn record(&mut self, began: Instant, now: Instant, in_flight: usize, failed: bool) {
        if failed || now.saturating_duration_since(began) > self.settings.latency {
            // Those that began before suffered from the same.
            if self.lowered.is_none_or(|lowered| began >= lowered) {
                self.lowered = Some(now);
                self.limit = (self.limit * self.settings.backoff).max(self.settings.min_limit as f64);
            }
        } else if in_flight.saturating_mul(2) >= self.limit() {
            self.limit = (self.limit + 1.0 / self.limit).min(self.settings.max_limit as f64);
        }
    }
}
