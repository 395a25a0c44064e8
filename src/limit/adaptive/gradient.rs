use tokio::time::{Duration, Instant};

use super::{Gradient, window::Window};

/// Intervals at the minimum after which the ideal latency is learned anew (Envoy's number).
const AT_MINIMUM: u32 = 5;

/// The gradient algorithm: pure.
#[derive(Debug)]
pub(super) struct GradientLimit {
    settings: Gradient,
    limit: usize,
    window: Window,
    /// The most in flight in this window.
    peak: usize,
    phase: Phase,
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    /// Learning the ideal latency since then; the limit after that.
    Learning {
        since: Instant,
        then: usize,
    },
    Running(Running),
}

/// As good as never: 30 years.
const LONGEST: Duration = Duration::from_secs(30 * 365 * 86_400);

#[derive(Debug, Clone, Copy)]
struct Running {
    ideal: Duration,
    /// Since when the limit is what it is.
    since: Instant,
    /// When the window ends; it begins with its first sample.
    ends: Option<Instant>,
    learn_at: Option<Instant>,
    /// For how many windows in a row the limit has been at its minimum.
    at_minimum: u32,
}

impl GradientLimit {
    pub(super) fn new(mut settings: Gradient, now: Instant) -> Self {
        settings.min_limit = settings.min_limit.max(1);
        // Sums with it stay within the clock's range.
        settings.interval = settings.interval.min(LONGEST);
        settings.max_limit = settings.max_limit.max(settings.min_limit);
        settings.min_rtt_requests = settings.min_rtt_requests.max(1);
        let limit = settings.min_limit;
        let phase = match settings.fixed_min_rtt {
            Some(ideal) => Phase::Running(Running { ideal, since: now, ends: None, learn_at: None, at_minimum: 0 }),
            None => Phase::Learning { since: now, then: limit },
        };
        Self { settings, limit, window: Window::default(), peak: 0, phase }
    }

    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// A request that succeeded, and how many were in flight then.
    pub(super) fn record(&mut self, began: Instant, now: Instant, in_flight: usize, rng: &mut fastrand::Rng) {
        let latency = now.saturating_duration_since(began);
        match self.phase {
            Phase::Learning { since, .. } if began < since => {}
            Phase::Learning { then, .. } => {
                self.window.push(latency, rng);
                if self.window.len() >= self.settings.min_rtt_requests
                    && let Some(ideal) = self.window.take_percentile(self.settings.percentile)
                {
                    let wait = self.settings.min_rtt_interval.as_secs_f64() * (1.0 + self.settings.jitter * rng.f64());
                    let learn_at = Duration::try_from_secs_f64(wait).ok().and_then(|wait| now.checked_add(wait));
                    self.phase = Phase::Running(Running { ideal, since: now, ends: None, learn_at, at_minimum: 0 });
                    self.limit = then;
                    self.peak = 0;
                }
            }
            Phase::Running(running) if running.learn_at.is_some_and(|at| now >= at) => self.learn(now),
            Phase::Running(running) if began < running.since => {}
            Phase::Running(running) => {
                self.window.push(latency, rng);
                self.peak = self.peak.max(in_flight);
                self.run(running, now);
            }
        }
    }

    /// Reconsiders the limit at the end of a window.
    fn run(&mut self, mut running: Running, now: Instant) {
        if now < *running.ends.get_or_insert(now + self.settings.interval) {
            self.phase = Phase::Running(running);
            return;
        }
        let Some(latency) = self.window.take_percentile(self.settings.percentile) else { return };
        let next = self.next(running.ideal, latency);
        if next != self.limit {
            running.since = now;
        }
        running.ends = None;
        running.at_minimum = if next == self.settings.min_limit { running.at_minimum + 1 } else { 0 };
        self.limit = next;
        self.peak = 0;
        self.phase = Phase::Running(running);
        if running.at_minimum >= AT_MINIMUM && running.learn_at.is_some() {
            self.learn(now);
        }
    }

    fn learn(&mut self, now: Instant) {
        self.window.clear();
        self.phase = Phase::Learning { since: now, then: self.limit };
        self.limit = self.settings.min_limit;
    }

    #[expect(clippy::manual_clamp, reason = "`clamp` would let NaN through")]
    fn next(&self, ideal: Duration, latency: Duration) -> usize {
        let aim = ideal.as_secs_f64() * (1.0 + self.settings.buffer);
        // A latency of zero gives infinity, or NaN for an ideal of zero as well, and both the highest gradient.
        let gradient = (aim / latency.as_secs_f64()).min(2.0).max(0.5);
        let kept = self.limit as f64 * gradient;
        let next = (kept + kept.sqrt()) as usize;
        let used = self.peak.saturating_mul(2) >= self.limit;
        let next = if used { next } else { next.min(self.limit) };
        next.clamp(self.settings.min_limit, self.settings.max_limit)
    }
}
