use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use super::{aimd::AimdLimit, gradient::GradientLimit};
use crate::limit::{
    concurrency::Permits,
    measured::{Learn, Verdict},
};

/// One of the algorithms.
#[derive(Debug)]
pub(super) enum Algorithm {
    Gradient(GradientLimit),
    Aimd(AimdLimit),
}

impl Algorithm {
    pub(super) fn limit(&self) -> usize {
        match self {
            Self::Gradient(gradient) => gradient.limit(),
            Self::Aimd(aimd) => aimd.limit(),
        }
    }

    pub(super) fn record(
        &mut self,
        began: Instant,
        now: Instant,
        in_flight: usize,
        verdict: Verdict,
        rng: &mut fastrand::Rng,
    ) {
        match (self, verdict) {
            (Self::Gradient(gradient), Verdict::Success) => gradient.record(began, now, in_flight, rng),
            (Self::Gradient(_), Verdict::Failure | Verdict::Cancelled) => {}
            (Self::Aimd(aimd), Verdict::Cancelled) if now.saturating_duration_since(began) <= aimd.too_long() => {}
            (Self::Aimd(aimd), verdict) => aimd.record(began, now, in_flight, verdict == Verdict::Failure),
        }
    }
}

/// What the services of a layer share: an algorithm, and the permits whose number it governs.
#[derive(Debug)]
pub(super) struct Governed {
    pub(super) permits: Permits,
    algorithm: Mutex<(Algorithm, fastrand::Rng)>,
}

impl Governed {
    pub(super) fn new(algorithm: Algorithm, rng: fastrand::Rng) -> Self {
        Self { permits: Permits::new(algorithm.limit(), 0), algorithm: Mutex::new((algorithm, rng)) }
    }

    fn lock(&self) -> MutexGuard<'_, (Algorithm, fastrand::Rng)> {
        // Numbers; valid after any write.
        self.algorithm.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Learn for Governed {
    fn learn(&self, began: Instant, now: Instant, verdict: Verdict) {
        let in_flight = self.permits.in_flight();
        let (before, mut limit) = {
            let (algorithm, rng) = &mut *self.lock();
            let before = algorithm.limit();
            algorithm.record(began, now, in_flight, verdict, rng);
            (before, algorithm.limit())
        };
        if before == limit {
            return;
        }
        // Not under the lock, as it may wake others; so it is looked whether someone else changed the limit meanwhile.
        loop {
            self.permits.set_limit(limit);
            let latest = self.lock().0.limit();
            if latest == limit {
                return;
            }
            limit = latest;
        }
    }
}
