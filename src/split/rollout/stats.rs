//! What was counted of each side, and what numbers this small can tell.

use std::time::Duration;

/// Latencies are told apart to a twelfth: eight buckets for each doubling.
const STEPS: f64 = 8.0;

/// From 1 µs to more than an hour.
const BUCKETS: usize = 8 * 33;

/// How many standard errors a rate has to lie beyond its bound at the first look.
const FIRST: f64 = 4.0;

/// Of two services, whose answers are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Side {
    /// What is there already.
    Stable,
    /// What shall replace it.
    Canary,
}

/// What became of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Sample {
    /// It was answered, after this time.
    Success(Duration),
    /// It failed.
    Failure,
}

/// What is known of one side.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SideStatus {
    /// The requests that it answered or failed to answer.
    pub requests: u64,
    /// How many of them failed.
    pub failures: u64,
    /// The 95th percentile of its successes' latencies, rounded up by a twelfth at most.
    pub p95: Option<Duration>,
}

/// The samples of one side.
#[derive(Debug, Clone)]
pub(super) struct Samples {
    pub(super) failures: u64,
    pub(super) successes: u64,
    buckets: Box<[u32]>,
}

impl SideStatus {
    /// Failures of all requests, from 0 to 1.
    #[must_use]
    pub fn error_rate(&self) -> f64 {
        ratio(self.failures, self.requests)
    }
}

impl Samples {
    pub(super) fn new() -> Self {
        Self { failures: 0, successes: 0, buckets: vec![0; BUCKETS].into_boxed_slice() }
    }

    pub(super) fn add(&mut self, sample: Sample) {
        match sample {
            Sample::Failure => self.failures += 1,
            Sample::Success(latency) => {
                self.successes += 1;
                if let Some(count) = self.buckets.get_mut(bucket(latency)) {
                    *count = count.saturating_add(1);
                }
            }
        }
    }

    pub(super) fn requests(&self) -> u64 {
        self.failures + self.successes
    }

    pub(super) fn error_rate(&self) -> f64 {
        ratio(self.failures, self.requests())
    }

    /// The latency that this share of the successes did not exceed, rounded up to its bucket.
    pub(super) fn percentile(&self, share: f64) -> Option<Duration> {
        let wanted = ((self.successes as f64 * share).ceil() as u64).clamp(1, self.successes.max(1));
        let mut seen = 0;
        let found = self.buckets.iter().position(|count| {
            seen += u64::from(*count);
            seen >= wanted
        });
        found.map(highest)
    }

    /// How many successes surely took longer than `limit`.
    pub(super) fn slower_than(&self, limit: Duration) -> u64 {
        self.buckets.iter().skip(bucket(limit) + 1).map(|count| u64::from(*count)).sum()
    }

    pub(super) fn status(&self) -> SideStatus {
        SideStatus { requests: self.requests(), failures: self.failures, p95: self.percentile(0.95) }
    }
}

fn bucket(latency: Duration) -> usize {
    let micros = (latency.as_nanos() as f64 / 1e3).max(1.0);
    ((micros.log2() * STEPS).ceil() as usize).min(BUCKETS - 1)
}

fn highest(bucket: usize) -> Duration {
    Duration::from_secs_f64((bucket as f64 / STEPS).exp2() / 1e6)
}

pub(super) fn ratio(part: u64, of: u64) -> f64 {
    if of == 0 { 0.0 } else { part as f64 / of as f64 }
}

/// How many standard errors make sure, after this many requests, where every one of them is a look, from the number
/// `first` on.
///
/// It is the boundary of Robbins (1970), which a random walk crosses ever, however long it goes on, with the probability
/// 1 - Φ(a) + aφ(a): 1 of 1700 for 4. A fixed number is crossed for certain by a walk that is long enough.
pub(super) fn sure(requests: u64, first: u64) -> f64 {
    let first = first.max(1);
    (FIRST * FIRST + ratio(requests.max(first), first).ln()).sqrt()
}

/// Wilson's score interval, at `z` standard errors, of a rate that was seen as `part` of `of`.
pub(super) fn wilson(z: f64, part: u64, of: u64) -> (f64, f64) {
    if of == 0 {
        return (0.0, 1.0);
    }
    score(z, ratio(part, of), of as f64)
}

/// The same of a rate that is given.
pub(super) fn score(z: f64, rate: f64, of: f64) -> (f64, f64) {
    let middle = rate + z * z / (2.0 * of);
    let reach = z * (rate * (1.0 - rate) / of + z * z / (4.0 * of * of)).sqrt();
    let scale = 1.0 + z * z / of;
    (((middle - reach) / scale).max(0.0), ((middle + reach) / scale).min(1.0))
}

/// The least that one rate surely lies above another: the lower end of Newcombe's hybrid score interval of the difference.
/// Where nothing was seen of the other one, it is taken to be nought.
pub(super) fn surely_above(z: f64, (part, of): (u64, u64), (other_part, other_of): (u64, u64)) -> f64 {
    let (rate, (lower, _)) = (ratio(part, of), wilson(z, part, of));
    if other_of == 0 {
        return lower;
    }
    let (other, (_, upper)) = (ratio(other_part, other_of), wilson(z, other_part, other_of));
    rate - other - ((rate - lower).powi(2) + (upper - other).powi(2)).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_are_rounded_up_by_less_than_a_tenth() {
        for micros in [1, 2, 3, 999, 1000, 1001, 123_456, 9_000_000] {
            let latency = Duration::from_micros(micros);
            let told = highest(bucket(latency));
            assert!(told.as_secs_f64() >= latency.as_secs_f64() * 0.999_999, "{latency:?} as {told:?}");
            assert!(told.as_secs_f64() <= latency.as_secs_f64() * 1.091, "{latency:?} as {told:?}");
        }
        assert_eq!(bucket(Duration::ZERO), 0);
        assert_eq!(bucket(Duration::MAX), BUCKETS - 1);
    }

    #[test]
    fn percentiles_and_what_lies_beyond_agree() {
        let mut samples = Samples::new();
        assert_eq!(samples.percentile(0.95), None);
        for millis in 1..=100 {
            samples.add(Sample::Success(Duration::from_millis(millis)));
        }
        let p95 = samples.percentile(0.95).unwrap();
        assert!(p95 >= Duration::from_millis(95) && p95 <= Duration::from_millis(104), "{p95:?}");
        assert!(samples.slower_than(p95) <= 5);
        assert_eq!(samples.slower_than(Duration::from_millis(200)), 0);
        assert!(samples.slower_than(Duration::ZERO) >= 99);
    }

    /// Against worked examples: Wilson (1927) at 99 %, two-sided.
    #[test]
    fn intervals_are_as_in_the_books() {
        let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-3, "{a} is not {b}");
        let z = 2.575_829;
        close(wilson(z, 0, 10).1, 0.3988);
        close(wilson(z, 0, 10).0, 0.0);
        close(wilson(z, 5, 10).0, 0.1844);
        close(wilson(z, 5, 10).1, 0.8156);
        assert_eq!(wilson(z, 0, 0), (0.0, 1.0));
    }

    #[test]
    fn two_failures_of_twenty_are_bad_luck_and_three_are_not() {
        let above = |canary: (u64, u64), stable| surely_above(sure(canary.1, 20), canary, stable);
        assert!(above((2, 20), (0, 2000)) < 0.01);
        assert!(above((3, 20), (0, 2000)) > 0.01);
        assert!(above((3, 20), (100, 2000)) < 0.01, "the stable one fails as well");
        assert!(above((20, 20), (0, 5)) > 0.01);
        assert!(above((20, 20), (0, 0)) > 0.01);
    }

    #[test]
    fn who_looks_more_often_has_to_be_surer() {
        let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-3, "{a} is not {b}");
        close(sure(20, 20), 4.0);
        close(sure(5, 20), 4.0);
        close(sure(1_000, 1), (16.0 + 1_000_f64.ln()).sqrt());
        close(sure(162_062, 20), 5.0);
        assert!(sure(0, 0).is_finite());
    }
}
