//! How loaded one endpoint is: requests in flight, and a latency estimate that failures weigh on.

use std::{
    sync::atomic::{
        AtomicU32, AtomicU64,
        Ordering::{AcqRel, Acquire, Relaxed},
    },
    time::Duration,
};

/// How fast the past is forgotten: after this long, what was measured counts for 1/e. 10 s as in finagle's and
/// Linkerd's peak EWMA and ingress-nginx's `ewma`.
const DECAY: Duration = Duration::from_secs(10);

/// How long a penalised endpoint is left alone before it is offered one request again.
const RETRY_AFTER_MILLIS: u32 = 1_000;

/// By how much a sample may be older than the one before it, where threads overtake each other.
const OVERTAKEN_MILLIS: u32 = 60_000;

/// One endpoint's load. Times are milliseconds since the set's epoch, latencies microseconds.
#[derive(Debug, Default)]
pub(super) struct Load {
    in_flight: AtomicU32,
    /// An [`Estimate`], packed so that its parts always change together.
    estimate: AtomicU64,
}

/// What an attempt says of the endpoint's latency.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Sample {
    /// It was answered, after this long.
    Success(f32),
    /// It failed after this long, and costs no less than the penalty.
    Failure { measured: f32, penalty: f32 },
}

/// A moving average of latency.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Estimate {
    /// When it was last changed. Wraps after 49 days, which costs a wrong decay once.
    at: u32,
    /// The average; zero while nothing was measured.
    micros: f32,
    /// The last attempts failed.
    failing: bool,
}

/// A load as it was read once, so that a comparison sees one state.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reading {
    /// Requests in flight.
    pub(super) in_flight: u32,
    /// The average as last measured; zero without history.
    pub(super) stored: f32,
    /// The same, aged until now.
    pub(super) aged: f32,
    /// Failures outweigh what it is measured to need.
    pub(super) penalised: bool,
    /// Penalised, with nothing in flight, and left alone long enough to be offered one request again.
    pub(super) retriable: bool,
}

impl Load {
    /// One more request in flight.
    pub(super) fn begin(&self) {
        self.in_flight.fetch_add(1, Relaxed);
    }

    /// One fewer.
    pub(super) fn end(&self) {
        self.in_flight.fetch_sub(1, Relaxed);
    }

    pub(super) fn in_flight(&self) -> u32 {
        self.in_flight.load(Relaxed)
    }

    /// Takes a sample into the average.
    pub(super) fn record(&self, millis: u64, sample: Sample) {
        let next = |packed| Some(Estimate::unpack(packed).with(wrapped(millis), sample).pack());
        // Never fails: the closure always has a next value.
        let _ = self.estimate.fetch_update(AcqRel, Acquire, next);
    }

    /// Reads without changing anything.
    pub(super) fn read(&self, millis: u64, penalty: f32) -> Reading {
        let estimate = Estimate::unpack(self.estimate.load(Acquire));
        let in_flight = self.in_flight();
        let idle = estimate.elapsed(wrapped(millis));
        let aged = estimate.micros * keep(idle);
        // A single failure among successes weighs little; only several in a row bring the estimate this high.
        let penalised = estimate.failing && aged > penalty / 8.0;
        Reading {
            in_flight,
            stored: estimate.micros,
            aged,
            penalised,
            retriable: penalised && in_flight == 0 && idle >= RETRY_AFTER_MILLIS,
        }
    }
}

impl Estimate {
    /// The sign of the latency, never negative by itself, holds the flag.
    fn pack(self) -> u64 {
        let micros = if self.failing { -self.micros } else { self.micros };
        u64::from(self.at) << 32 | u64::from(micros.to_bits())
    }

    fn unpack(packed: u64) -> Self {
        let micros = f32::from_bits(packed as u32);
        Self { at: (packed >> 32) as u32, micros: micros.abs(), failing: micros.is_sign_negative() }
    }

    /// Milliseconds since the last change; none when threads overtook each other.
    fn elapsed(self, at: u32) -> u32 {
        let elapsed = at.wrapping_sub(self.at);
        if elapsed > u32::MAX - OVERTAKEN_MILLIS { 0 } else { elapsed }
    }

    fn with(self, at: u32, sample: Sample) -> Self {
        let elapsed = self.elapsed(at);
        let keep = keep(elapsed);
        let blend = |cost: f32| self.micros * keep + cost * (1.0 - keep);
        let (micros, failing) = match sample {
            Sample::Success(measured) if self.failing && self.micros * keep > 2.0 * measured => {
                // Each success takes three quarters of a penalty away; waiting for it to age would take a minute.
                let rest = self.micros * keep / 4.0;
                (rest.max(measured), rest > measured)
            }
            // Upwards at once, downwards with time: the peak-sensitive part.
            Sample::Success(measured) if measured > self.micros => (measured, false),
            Sample::Success(measured) => (blend(measured), false),
            Sample::Failure { measured, penalty } => {
                let cost = measured.max(penalty);
                // A lone failure among successes counts by its share of time; the second in a row counts in full.
                let lone = self.micros > 0.0 && !self.failing;
                (if lone { blend(cost) } else { self.micros.max(cost) }, true)
            }
        };
        // At least a microsecond: zero means no history.
        Self { at: self.at.wrapping_add(elapsed), micros: micros.max(1.0), failing }
    }
}

/// The share of an average that is kept after so long.
fn keep(elapsed_millis: u32) -> f32 {
    (-(elapsed_millis as f32) / DECAY.as_millis() as f32).exp()
}

fn wrapped(millis: u64) -> u32 {
    millis as u32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PENALTY: f32 = 5_000_000.0;
    const FAILURE: Sample = Sample::Failure { measured: 200.0, penalty: PENALTY };

    fn aged(load: &Load, millis: u64) -> f32 {
        load.read(millis, PENALTY).aged
    }

    #[test]
    fn a_peak_counts_at_once_and_is_forgotten_with_time() {
        let load = Load::default();
        load.record(0, Sample::Success(10_000.0));
        load.record(1, Sample::Success(200_000.0));
        assert_eq!(aged(&load, 1), 200_000.0);
        load.record(10_001, Sample::Success(10_000.0));
        let expected = 200_000.0 / std::f32::consts::E + 10_000.0 * (1.0 - 1.0 / std::f32::consts::E);
        assert!((aged(&load, 10_001) - expected).abs() < 1.0);
    }

    #[test]
    fn time_goes_on_after_months() {
        for days in [0, 20, 30, 60, 400] {
            let (load, start) = (Load::default(), days * 86_400_000);
            load.record(start, Sample::Success(100_000.0));
            load.record(start + 100_000, Sample::Success(1_000.0));
            assert!(aged(&load, start + 100_000) < 2_000.0, "{days} days after the start");
            load.record(start + 30 * 86_400_000, Sample::Success(2_000.0));
            load.record(start + 30 * 86_400_000 + 100_000, Sample::Success(1_000.0));
            assert!(aged(&load, start + 30 * 86_400_000 + 100_000) < 1_100.0, "{days} days after the start");
        }
    }

    #[test]
    fn reading_changes_nothing() {
        let (read, unread) = (Load::default(), Load::default());
        for load in [&read, &unread] {
            load.record(0, Sample::Success(50_000.0));
        }
        for millis in 0..5_000 {
            read.read(millis, PENALTY);
        }
        assert_eq!(aged(&read, 5_000), aged(&unread, 5_000));
    }

    #[test]
    fn a_lone_failure_weighs_little_and_the_second_in_a_row_in_full() {
        let load = Load::default();
        load.record(0, Sample::Success(20_000.0));
        load.record(10, FAILURE);
        assert!(!load.read(10, PENALTY).penalised);
        assert!(aged(&load, 10) < 30_000.0);
        load.record(20, FAILURE);
        assert!(load.read(20, PENALTY).penalised);
        assert_eq!(aged(&load, 20), PENALTY);
    }

    #[test]
    fn the_first_thing_known_being_a_failure_counts_in_full() {
        let load = Load::default();
        load.record(0, FAILURE);
        assert!(load.read(0, PENALTY).penalised);
    }

    #[test]
    fn a_handful_of_successes_ends_a_penalty() {
        let load = Load::default();
        load.record(0, FAILURE);
        for n in 1..=5 {
            load.record(n, Sample::Success(20_000.0));
        }
        assert_eq!(aged(&load, 5), 20_000.0);
        load.record(6, FAILURE);
        assert!(!load.read(6, PENALTY).penalised, "the failure after the recovery is a lone one again");
    }

    #[test]
    fn a_penalised_endpoint_is_retriable_after_a_second_without_requests() {
        let load = Load::default();
        load.record(0, FAILURE);
        assert!(!load.read(999, PENALTY).retriable);
        assert!(load.read(1_000, PENALTY).retriable);
        load.begin();
        assert!(!load.read(1_000, PENALTY).retriable);
        load.end();
        assert!(load.read(1_000, PENALTY).retriable);
    }

    proptest! {
        #[test]
        fn the_estimate_stays_between_what_was_seen(samples in prop::collection::vec((0u64..1_000, 1u32..10_000_000), 1..50)) {
            let load = Load::default();
            let (mut millis, mut least, mut most) = (0, f32::MAX, 0f32);
            for (pause, micros) in samples {
                millis += pause;
                least = least.min(micros as f32);
                most = most.max(micros as f32);
                load.record(millis, Sample::Success(micros as f32));
                let now = aged(&load, millis);
                prop_assert!(now >= least * 0.999 && now <= most * 1.001);
            }
        }

        #[test]
        fn packing_keeps_every_part(at: u32, micros in 0f32..1e9, failing: bool) {
            let estimate = Estimate { at, micros, failing };
            prop_assert_eq!(Estimate::unpack(estimate.pack()), estimate);
        }

        #[test]
        fn threads_that_overtake_each_other_do_no_harm(times in prop::collection::vec(0u64..50, 1..50)) {
            let load = Load::default();
            for &millis in &times {
                load.record(millis, Sample::Success(1_000.0));
            }
            prop_assert!((aged(&load, 50) - 1_000.0).abs() < 60.0);
        }
    }
}
