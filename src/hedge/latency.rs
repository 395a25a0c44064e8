//! The latencies of the recent past, and their percentiles: pure, with the time passed in.

use std::time::Duration;

use tokio::time::Instant;

/// Latencies are told apart to an eighth: eight buckets for each doubling.
const STEPS: u32 = 8;

/// From 1 us to more than an hour.
const BUCKETS: usize = (STEPS * 33) as usize;

/// How long latencies are counted before they become the past, which counts as long again.
const HALF: Duration = Duration::from_secs(15);

/// How few latencies tell nothing.
const FEWEST: u64 = 100;

/// For how long a percentile that was worked out is good.
const FRESH: Duration = Duration::from_millis(100);

/// A histogram that forgets: what was recorded counts for 15 to 30 s.
#[derive(Debug)]
pub(super) struct Latencies {
    began: Option<Instant>,
    current: Counts,
    past: Counts,
    cached: Option<(Instant, Option<Duration>)>,
}

#[derive(Debug, Clone)]
struct Counts {
    buckets: Box<[u32; BUCKETS]>,
    total: u64,
}

impl Latencies {
    pub(super) fn new() -> Self {
        Self { began: None, current: Counts::new(), past: Counts::new(), cached: None }
    }

    pub(super) fn record(&mut self, now: Instant, latency: Duration) {
        self.turn(now);
        self.current.add(latency);
    }

    /// The latency that `share` (0 to 1) of the requests did not exceed, rounded up to its bucket. `None` while too few are
    /// known.
    pub(super) fn percentile(&mut self, now: Instant, share: f64) -> Option<Duration> {
        self.turn(now);
        match self.cached {
            Some((at, percentile)) if now.saturating_duration_since(at) < FRESH => percentile,
            _ => {
                let percentile = self.work_out(share);
                self.cached = Some((now, percentile));
                percentile
            }
        }
    }

    fn work_out(&self, share: f64) -> Option<Duration> {
        let total = self.current.total + self.past.total;
        if total < FEWEST {
            return None;
        }
        let wanted = (total as f64 * share).ceil().max(1.0) as u64;
        let mut seen = 0;
        let counts = self.current.buckets.iter().zip(self.past.buckets.iter());
        let found = counts.enumerate().find(|(_, (current, past))| {
            seen += u64::from(**current) + u64::from(**past);
            seen >= wanted
        });
        found.map(|(bucket, _)| highest(bucket))
    }

    fn turn(&mut self, now: Instant) {
        let began = *self.began.get_or_insert(now);
        let passed = now.saturating_duration_since(began);
        if passed < HALF {
            return;
        }
        self.past = std::mem::replace(&mut self.current, Counts::new());
        if passed >= HALF * 2 {
            self.past = Counts::new();
        }
        self.began = Some(now);
        self.cached = None;
    }
}

impl Counts {
    fn new() -> Self {
        Self { buckets: Box::new([0; BUCKETS]), total: 0 }
    }

    fn add(&mut self, latency: Duration) {
        if let Some(count) = self.buckets.get_mut(bucket(latency)) {
            *count = count.saturating_add(1);
            self.total += 1;
        }
    }
}

/// The first eight buckets are a microsecond each; then each doubling has eight.
fn bucket(latency: Duration) -> usize {
    let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
    let doubling = micros.max(1).ilog2().saturating_sub(STEPS.ilog2());
    // With the highest bit, eight to fifteen; below eight, as it is.
    let step = (micros >> doubling) as usize;
    (doubling as usize * STEPS as usize + step).min(BUCKETS - 1)
}

/// The highest latency of a bucket.
fn highest(bucket: usize) -> Duration {
    let steps = STEPS as usize;
    let doubling = (bucket / steps).saturating_sub(1);
    let step = (bucket - doubling * steps) as u64;
    Duration::from_micros((((step + 1) << doubling) - 1).max(1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn buckets_follow_each_other_without_gaps() {
        let mut lowest = 0;
        for index in 0..BUCKETS {
            let highest = u64::try_from(highest(index).as_micros()).unwrap();
            let first = if index == 0 { 0 } else { lowest };
            assert_eq!(bucket(Duration::from_micros(first)), index);
            if index > 0 {
                assert_eq!(bucket(Duration::from_micros(highest)), index);
                lowest = highest + 1;
            } else {
                lowest = 1;
            }
        }
        assert!(lowest > 3_600_000_000);
        assert_eq!(bucket(Duration::MAX), BUCKETS - 1);
    }

    #[test]
    fn too_few_tell_nothing_and_the_old_are_forgotten() {
        let (mut latencies, now) = (Latencies::new(), Instant::now());
        let ms = Duration::from_millis;
        (0..99).for_each(|_| latencies.record(now, ms(10)));
        assert_eq!(latencies.percentile(now, 0.5), None);
        latencies.record(now, ms(10));
        let later = now + FRESH;
        assert!(latencies.percentile(later, 0.5).unwrap() >= ms(10));
        let next = now + HALF;
        assert!(latencies.percentile(next, 0.5).is_some(), "the past counts for one more half");
        (0..300).for_each(|_| latencies.record(next, ms(80)));
        assert!(latencies.percentile(next + FRESH, 0.5).unwrap() >= ms(80));
        assert_eq!(latencies.percentile(next + HALF * 2, 0.5), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_percentile_is_right_to_an_eighth(mut micros in prop::collection::vec(1u64..10_000_000, 100..400), share in 0.01f64..1.0) {
            let (mut latencies, now) = (Latencies::new(), Instant::now());
            micros.iter().for_each(|micros| latencies.record(now, Duration::from_micros(*micros)));
            micros.sort_unstable();
            let exact = micros[((micros.len() as f64 * share).ceil() as usize).max(1) - 1];
            let told = u64::try_from(latencies.percentile(now, share).unwrap().as_micros()).unwrap();
            prop_assert!(exact <= told && told <= exact + exact / 8 + 1, "{exact} {told}");
        }
    }
}
