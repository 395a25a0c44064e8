use tokio::time::{Duration, Instant};

use crate::config::{Priority, ShedShares as Shares};

impl Shares {
    #[expect(clippy::manual_clamp, reason = "`clamp` would let NaN through")]
    pub(super) fn set(&mut self, priority: Priority, share: f64) {
        // NaN is taken for 0.
        let share = share.max(0.0).min(1.0);
        match priority {
            Priority::Sheddable => self.sheddable = share,
            Priority::SheddablePlus => self.sheddable_plus = share,
            Priority::Critical => self.critical = share,
            Priority::CriticalPlus => self.critical_plus = share,
        }
    }

    pub(super) fn of(&self, priority: Priority) -> f64 {
        match priority {
            Priority::Sheddable => self.sheddable,
            Priority::SheddablePlus => self.sheddable_plus,
            Priority::Critical => self.critical,
            Priority::CriticalPlus => self.critical_plus,
        }
    }

    /// How many may be in flight for one more of this class to be let in, of a limit.
    pub(super) fn below(&self, priority: Priority, limit: usize) -> usize {
        // Rounded up: a class with a share has at least one. Saturates.
        ((self.of(priority) * limit as f64).ceil() as usize).min(limit)
    }
}

/// What a request is likely to take, learned from those before: pure.
///
/// 1. The mean of latencies, each new one with a weight of 1/8 (that of RFC 6298).
/// 2. While none is learned it halves every second: as a high estimate turns away what would correct it, it must be
///    forgotten in time.
#[derive(Debug)]
pub(super) struct Estimate {
    latency: f64,
    at: Instant,
}

impl Estimate {
    pub(super) fn new(now: Instant) -> Self {
        Self { latency: 0.0, at: now }
    }

    pub(super) fn learn(&mut self, latency: Duration, now: Instant) {
        let latency = latency.as_secs_f64();
        let before = self.seconds(now);
        // The first, or the first after a long time, counts in full.
        self.latency = if before < latency / 1000.0 { latency } else { before + (latency - before) / 8.0 };
        self.at = self.at.max(now);
    }

    pub(super) fn current(&self, now: Instant) -> Duration {
        Duration::try_from_secs_f64(self.seconds(now)).unwrap_or(Duration::MAX)
    }

    fn seconds(&self, now: Instant) -> f64 {
        self.latency * (-now.saturating_duration_since(self.at).as_secs_f64()).exp2()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lower_classes_are_shed_first() {
        use Priority::{Critical, CriticalPlus, Sheddable, SheddablePlus};
        let mut shares = Shares::default();
        let below = |shares: &Shares, limit| {
            [Sheddable, SheddablePlus, Critical, CriticalPlus].map(|class| shares.below(class, limit))
        };
        assert_eq!(below(&shares, 100), [60, 80, 95, 100]);
        assert_eq!(below(&shares, 1), [1, 1, 1, 1]);
        assert_eq!(below(&shares, 0), [0, 0, 0, 0]);
        assert_eq!(below(&shares, usize::MAX)[3], usize::MAX);
        shares.set(Sheddable, 0.0);
        shares.set(SheddablePlus, f64::NAN);
        shares.set(Critical, 7.0);
        assert_eq!(below(&shares, 10), [0, 0, 10, 10]);
        assert!(Sheddable < SheddablePlus && SheddablePlus < Critical && Critical < CriticalPlus);
    }

    #[test]
    fn an_estimate_follows_and_is_forgotten() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut estimate = Estimate::new(start);
        assert_eq!(estimate.current(start), Duration::ZERO);
        estimate.learn(second * 8, start);
        assert_eq!(estimate.current(start), second * 8);
        assert_eq!(estimate.current(start + second * 3), second);
        for _ in 0..50 {
            estimate.learn(second, start);
        }
        let settled = estimate.current(start);
        assert!(settled > second && settled < second * 102 / 100, "{settled:?}");
        // A lone fast one does not make it fast.
        estimate.learn(Duration::from_millis(10), start);
        assert!(estimate.current(start) > second * 8 / 10);
        // Idle for a minute, it is as good as new, and the first counts in full.
        estimate.learn(second * 2, start + second * 60);
        assert_eq!(estimate.current(start + second * 60), second * 2);
        // A clock behind does no harm.
        estimate.learn(second * 2, start);
        assert_eq!(estimate.current(start), second * 2);
    }
}
