//! Counts over the last while, in a ring of buckets.

use std::time::Duration;

use tokio::time::Instant;

/// How many buckets make a window: what is counted is between nine and ten tenths of it.
const BUCKETS: u64 = 10;

/// A window that slides by a tenth of its length at a time.
#[derive(Debug, Clone)]
pub(super) struct Window {
    epoch: Instant,
    width: Duration,
    /// The bucket that is filled now, counted from the epoch.
    tick: u64,
    ring: [Counts; BUCKETS as usize],
    /// The sum of the ring.
    total: Counts,
}

/// What is counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) requests: u64,
    pub(super) failures: u64,
    pub(super) slow: u64,
}

impl Window {
    pub(super) fn new(length: Duration, now: Instant) -> Self {
        let width = (length / BUCKETS as u32).max(Duration::from_millis(1));
        Self { epoch: now, width, tick: 0, ring: Default::default(), total: Counts::default() }
    }

    /// Counts one request and returns the counts of the window.
    pub(super) fn record(&mut self, now: Instant, failed: bool, slow: bool) -> Counts {
        self.slide(now);
        let bucket = &mut self.ring[(self.tick % BUCKETS) as usize];
        for counts in [bucket, &mut self.total] {
            counts.requests += 1;
            counts.failures += u64::from(failed);
            counts.slow += u64::from(slow);
        }
        self.total
    }

    pub(super) fn clear(&mut self) {
        self.ring = Default::default();
        self.total = Counts::default();
    }

    /// Forgets the buckets that the window has left. Threads that overtake each other count into the newest.
    fn slide(&mut self, now: Instant) {
        let tick = (now.saturating_duration_since(self.epoch).as_nanos() / self.width.as_nanos()) as u64;
        for left in 1..=tick.saturating_sub(self.tick).min(BUCKETS) {
            let gone = std::mem::take(&mut self.ring[((self.tick + left) % BUCKETS) as usize]);
            self.total.requests -= gone.requests;
            self.total.failures -= gone.failures;
            self.total.slow -= gone.slow;
        }
        self.tick = self.tick.max(tick);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against a list of everything that was ever recorded.
        #[test]
        fn it_holds_what_is_younger_than_nine_tenths_and_nothing_older_than_all_of_it(
            steps in prop::collection::vec((0u64..4_000, any::<bool>(), any::<bool>()), 1..80)
        ) {
            let start = Instant::now();
            let mut window = Window::new(Duration::from_secs(10), start);
            let (mut now, mut log) = (start, Vec::new());
            for (pause, failed, slow) in steps {
                now += Duration::from_millis(pause);
                log.push((now, failed, slow));
                let counts = window.record(now, failed, slow);
                let within = |length: u64| {
                    let young = log.iter().filter(move |entry| now - entry.0 < Duration::from_secs(length));
                    young.fold(Counts::default(), |sum, entry| Counts {
                        requests: sum.requests + 1,
                        failures: sum.failures + u64::from(entry.1),
                        slow: sum.slow + u64::from(entry.2),
                    })
                };
                let (least, most) = (within(9), within(10));
                prop_assert!(least.requests <= counts.requests && counts.requests <= most.requests);
                prop_assert!(least.failures <= counts.failures && counts.failures <= most.failures);
                prop_assert!(least.slow <= counts.slow && counts.slow <= most.slow);
            }
        }
    }

    #[test]
    fn a_long_success_delays_nothing() {
        let start = Instant::now();
        let mut window = Window::new(Duration::from_secs(10), start);
        for n in 0..10_000u64 {
            window.record(start + Duration::from_millis(n), false, false);
        }
        let later = start + Duration::from_secs(21);
        assert_eq!(window.record(later, true, false), Counts { requests: 1, failures: 1, slow: 0 });
    }

    #[test]
    fn time_that_goes_backwards_does_no_harm() {
        let start = Instant::now();
        let mut window = Window::new(Duration::from_secs(10), start);
        window.record(start + Duration::from_secs(30), true, false);
        assert_eq!(window.record(start, true, false).requests, 2);
    }
}
