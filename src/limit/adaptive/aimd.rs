use tokio::time::{Duration, Instant};

use super::Aimd;

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
