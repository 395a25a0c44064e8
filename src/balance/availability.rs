//! Whether one endpoint may be used: passive marking by failed connections, with single probes.

use std::{
    sync::atomic::{
        AtomicU64,
        Ordering::{AcqRel, Acquire},
    },
    time::Duration,
};

/// How long the first failed connection takes an endpoint out, before jitter. 1 s as in Linkerd's failure accrual.
const FIRST_OUTAGE: Duration = Duration::from_secs(1);

/// The longest, before jitter. Between nginx's `fail_timeout` (10 s) and Linkerd's longest penalty (60 s).
const LONGEST_OUTAGE: Duration = Duration::from_secs(30);

/// What is known of an endpoint being usable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Availability {
    /// It takes its share of requests.
    Available,
    /// A connection to it failed lately: it is left out for a while.
    Out,
    /// It was left out or ejected long enough: the next request that comes its way probes it.
    Due,
    /// One request is probing it; the others pass it by.
    Probing,
    /// [`set_healthy(false)`](super::Endpoint::set_healthy) was called.
    Unhealthy,
    /// Outlier detection keeps it out.
    Ejected,
    /// Its circuit breaker is open, and nothing else keeps it out.
    Open,
}

/// The state machine, in one atomic: available -> out -> due -> probing -> available, or out for twice as long.
#[derive(Debug, Default)]
pub(super) struct Marking(AtomicU64);

/// The right to be an endpoint's one probe.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Probe(u64);

/// The state's parts; all zero means available.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct State {
    out: bool,
    probing: bool,
    /// How many outages in a row.
    streak: u8,
    /// When it is due, in milliseconds since the set's epoch.
    until: u64,
}

impl Marking {
    pub(super) fn availability(&self, millis: u64) -> Availability {
        // The common answer first: nearly every read of a hot path ends here.
        match self.0.load(Acquire) {
            0 => Availability::Available,
            packed => match State::unpack(packed) {
                State { probing: true, .. } => Availability::Probing,
                State { until, .. } if millis < until => Availability::Out,
                State { .. } => Availability::Due,
            },
        }
    }

    pub(super) fn is_available(&self) -> bool {
        self.0.load(Acquire) == 0
    }

    /// Makes the caller its probe, if it is due and nobody else is.
    pub(super) fn try_probe(&self, millis: u64) -> Option<Probe> {
        let packed = self.0.load(Acquire);
        let state = State::unpack(packed);
        if packed == 0 || state.probing || millis < state.until {
            return None;
        }
        let probing = State { probing: true, ..state }.pack();
        self.0.compare_exchange(packed, probing, AcqRel, Acquire).ok().map(|_| Probe(probing))
    }

    /// The probe was answered: available again. Returns whether that changed anything.
    pub(super) fn probe_succeeded(&self, Probe(expected): Probe) -> bool {
        self.0.compare_exchange(expected, 0, AcqRel, Acquire).is_ok()
    }

    /// The probe failed: out for longer.
    pub(super) fn probe_failed(&self, Probe(expected): Probe, millis: u64, jitter: f32) {
        let out = State::unpack(expected).out_again(millis, jitter).pack();
        // A lost race means that another request has shown it to be reachable meanwhile.
        let _ = self.0.compare_exchange(expected, out, AcqRel, Acquire);
    }

    /// The probe was cancelled and showed nothing: the next request may probe.
    pub(super) fn probe_cancelled(&self, Probe(expected): Probe) {
        let due = State { probing: false, ..State::unpack(expected) }.pack();
        let _ = self.0.compare_exchange(expected, due, AcqRel, Acquire);
    }

    /// A request that was let through though it was out (panic) reached it. Returns whether that changed anything.
    pub(super) fn reached(&self) -> bool {
        self.0.swap(0, AcqRel) != 0
    }

    /// A connection failed. Returns whether that took it out; failures of requests that began before it went out
    /// prolong nothing.
    pub(super) fn failed(&self, millis: u64, jitter: f32) -> bool {
        let out = State::unpack(0).out_again(millis, jitter).pack();
        self.0.compare_exchange(0, out, AcqRel, Acquire).is_ok()
    }
}

impl State {
    fn pack(self) -> u64 {
        u64::from(self.out) | u64::from(self.probing) << 1 | u64::from(self.streak) << 2 | self.until << 10
    }

    fn unpack(packed: u64) -> Self {
        Self { out: packed & 1 != 0, probing: packed & 2 != 0, streak: (packed >> 2) as u8, until: packed >> 10 }
    }

    /// Out for twice as long as the last time, and up to half of that more, so that many processes that lost the same
    /// endpoint do not all come back at once.
    fn out_again(self, millis: u64, jitter: f32) -> Self {
        let outage = FIRST_OUTAGE.saturating_mul(1 << self.streak.min(16)).min(LONGEST_OUTAGE);
        let outage = outage.mul_f32(1.0 + jitter.clamp(0.0, 1.0) / 2.0);
        Self {
            out: true,
            probing: false,
            streak: self.streak.saturating_add(1),
            until: millis + outage.as_millis() as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn outages_double_up_to_half_a_minute_and_a_success_forgets_them() {
        let marking = Marking::default();
        assert!(marking.failed(0, 0.0));
        let mut now = 0;
        for seconds in [1, 2, 4, 8, 16, 30, 30, 30] {
            assert_eq!(marking.availability(now + seconds * 1_000 - 1), Availability::Out);
            now += seconds * 1_000;
            assert_eq!(marking.availability(now), Availability::Due);
            marking.probe_failed(marking.try_probe(now).unwrap(), now, 0.0);
        }
        let probe = marking.try_probe(now + 30_000).unwrap();
        assert!(marking.probe_succeeded(probe));
        assert_eq!(marking.availability(now), Availability::Available);
        assert!(marking.failed(now, 0.0));
        assert_eq!(marking.availability(now + 1_000), Availability::Due);
    }

    #[test]
    fn failures_while_out_prolong_nothing() {
        let marking = Marking::default();
        assert!(marking.failed(0, 0.0));
        assert!(!marking.failed(900, 1.0));
        assert_eq!(marking.availability(1_000), Availability::Due);
    }

    #[test]
    fn a_probe_that_was_overtaken_says_nothing_of_a_later_outage() {
        let marking = Marking::default();
        marking.failed(0, 0.0);
        let stale = marking.try_probe(1_000).unwrap();
        assert!(marking.reached());
        marking.failed(5_000, 0.0);
        let fresh = marking.try_probe(6_000).unwrap();
        marking.probe_cancelled(stale);
        assert_eq!(marking.availability(6_000), Availability::Probing);
        assert!(marking.probe_succeeded(fresh));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Wait(u64),
        Fail,
        TakeProbe,
        Settle(u8),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            (0u64..40_000).prop_map(Step::Wait),
            Just(Step::Fail),
            Just(Step::TakeProbe),
            (0u8..3).prop_map(Step::Settle),
        ];
        prop::collection::vec(step, 0..60)
    }

    proptest! {
        #[test]
        fn never_more_than_one_probe_and_never_stuck(steps in steps(), jitter in 0f32..1.0) {
            let marking = Marking::default();
            let (mut now, mut probe) = (0, None);
            for step in steps {
                match step {
                    Step::Wait(millis) => now += millis,
                    Step::Fail => { marking.failed(now, jitter); }
                    Step::TakeProbe => {
                        let taken = marking.try_probe(now);
                        prop_assert!(probe.is_none() || taken.is_none(), "two probes at once");
                        probe = probe.or(taken);
                    }
                    Step::Settle(how) => if let Some(probe) = probe.take() {
                        match how {
                            0 => { marking.probe_succeeded(probe); }
                            1 => marking.probe_failed(probe, now, jitter),
                            _ => marking.probe_cancelled(probe),
                        }
                    }
                }
                prop_assert_eq!(probe.is_some(), marking.availability(now) == Availability::Probing);
            }
            if let Some(probe) = probe {
                marking.probe_cancelled(probe);
            }
            // Whatever happened: within the longest outage and its jitter it is available, or may be probed.
            let later = marking.availability(now + 45_000);
            prop_assert!(matches!(later, Availability::Available | Availability::Due), "stuck: {later:?}");
        }
    }
}
