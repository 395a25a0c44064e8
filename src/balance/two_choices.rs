//! Which of two drawn endpoints is the better one.

use super::load::Reading;

/// One of the two.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate {
    pub(super) reading: Reading,
    /// In relation to the mean.
    pub(super) weight: f32,
}

/// Whether the second is better than the first. Where they are equal the first is taken: it was drawn by weight.
pub(super) type Better = fn(&Candidate, &Candidate, &mut fastrand::Rng) -> bool;

/// Of how many requests that meet a penalised endpoint that was left alone long enough one is sent there: with the
/// second it is left alone for, this keeps its share low at any rate of requests.
const RETRY_ONE_OF: u8 = 16;

/// Latencies that differ by less than this factor are the same: chance decides, and so do weights, not the noise.
const SAME: f32 = 1.25;

/// Latencies below this, in microseconds, count as this: so short a time tells more of a cold connection and of the
/// scheduler than of the endpoint. A slower one still shows in its requests in flight.
const SHORTEST: f32 = 5_000.0;

/// Fewer requests in flight for its weight.
pub(super) fn by_requests(a: &Candidate, b: &Candidate, rng: &mut fastrand::Rng) -> bool {
    if a.reading.penalised != b.reading.penalised {
        return b_instead_of_penalised(a, b, rng);
    }
    b.in_flight() < a.in_flight()
}

/// Less latency times requests in flight for its weight, this one included.
pub(super) fn by_latency(a: &Candidate, b: &Candidate, rng: &mut fastrand::Rng) -> bool {
    if a.reading.penalised != b.reading.penalised {
        return b_instead_of_penalised(a, b, rng);
    }
    let (mut of_a, mut of_b) = (a.latency(b), b.latency(a));
    if of_a.max(of_b) < SAME * of_a.min(of_b) {
        (of_a, of_b) = (1.0, 1.0);
    } else if a.reading.in_flight == 0 && b.reading.in_flight == 0 {
        // Neither has anything to do. If the faster one took all, one slow answer would keep an endpoint from ever giving
        // a better one, so each gets its share by speed.
        return rng.f32() * (of_a + of_b) < of_a;
    }
    of_b * (1.0 + b.in_flight()) < of_a * (1.0 + a.in_flight())
}

/// Exactly one of the two is penalised: it is passed by, but for a retry now and then.
fn b_instead_of_penalised(a: &Candidate, b: &Candidate, rng: &mut fastrand::Rng) -> bool {
    let (penalised, b_is_sound) = if a.reading.penalised { (a, true) } else { (b, false) };
    let retry = penalised.reading.retriable && rng.u8(..RETRY_ONE_OF) == 0;
    b_is_sound != retry
}

impl Candidate {
    fn in_flight(&self) -> f32 {
        self.reading.in_flight as f32 / self.weight
    }

    /// What it is taken to need, beside `other`.
    fn latency(&self, other: &Self) -> f32 {
        let (this, other) = (&self.reading, &other.reading);
        let latency = if this.stored > 0.0 && other.stored > 0.0 {
            // What is known grows old: down to the other's, for not having been used must not make it the better one.
            this.aged.max(this.stored.min(other.aged))
        } else {
            // Nothing is known of one of them: it counts as the other, so that the requests in flight decide, which
            // neither floods a newcomer nor keeps them from it.
            this.aged.max(other.aged)
        };
        latency.max(SHORTEST)
    }
}
