//! The guard of one attempt to have an endpoint answer a request.

use std::{
    fmt,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use http::{HeaderMap, StatusCode};
use tokio::time::{Duration, Instant};

use super::{availability::Probe, endpoint::Endpoint, load::Sample};
use crate::{
    body::{End, Observer},
    breaker::Ticket,
    classify::Class,
    outlier,
    timeout::Patience,
};

/// One request on its way to one endpoint, from the pick to the end of the response's body.
///
/// 1. It counts as in flight until it is settled, and is settled once: as a success, a failure, or a cancellation.
///    Dropping it cancels it.
/// 2. A success takes the time since the pick into the endpoint's latency; at most the penalty, so that a long download
///    never makes an endpoint look worse than a failing one.
/// 3. A failure counts as the penalty or the time it took, whichever is longer: an endpoint that fails fast attracts no
///    traffic. A lone failure among successes weighs little, several in a row weigh in full.
/// 4. A cancellation says nothing of the endpoint. A probe that is cancelled is given back.
/// 5. As a body's [`Observer`] it settles itself: complete is a success unless a failure was
///    [noted](Self::note), failed is a failure unless the error is the client's doing, dropped is a cancellation.
/// 6. After an ejection, the one request that decides whether the endpoint returns does so by how its response ends.
/// 7. One that is dropped as a limit of [`timeout`](crate::timeout) ends, before there was a head, is a failure.
/// 8. The endpoint's circuit breaker, where it has one, is told once too: of a failure as soon as the head tells of it, of
///    the rest at the end.
pub struct Attempt<E> {
    /// `None` once it is settled.
    trial: Option<Trial>,
    /// `None` once the endpoint's breaker was told, and where there is none.
    ticket: Option<Ticket>,
    endpoint: Arc<Endpoint<E>>,
    began: Instant,
    /// How long there is for the response's head, as long as it is waited for.
    patience: Option<Patience>,
    /// Until when the caller has allowed time.
    told: Option<Instant>,
    terms: Terms,
    /// Microseconds, where the clock was stopped.
    measured: Option<f32>,
    /// What the response has said so far.
    class: Class,
}

/// On what terms an attempt uses its endpoint.
#[derive(Debug)]
pub(super) enum Trial {
    /// It is available.
    No,
    /// It is out, and this is the one request that probes it.
    Probe(Probe),
    /// It was ejected, and this is the one request that decides whether it returns.
    Return(outlier::Probe),
    /// It is out, and used all the same because most are.
    Panic,
}

/// The right to one attempt.
#[derive(Debug)]
pub(super) struct Pass {
    pub(super) trial: Trial,
    /// Of the endpoint's breaker, if it has one.
    pub(super) ticket: Option<Ticket>,
    /// Whether it is an endpoint's one probe: it must come to an attempt.
    pub(super) probes: bool,
}

/// What a set hands to its attempts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    /// What a failure costs, in microseconds.
    pub(super) penalty: f32,
    /// How much longer than it must be an outage that this attempt causes lasts, from 0 to 1.
    pub(super) jitter: f32,
    /// Whether the set's total of requests in flight is kept.
    pub(super) counted: bool,
}

/// How an attempt is settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Success,
    Failure,
    Unreachable,
    Cancelled,
}

/// Whether a response with this status counts as a failure of the endpoint: 429, and the 5xx but 501 and 505, which
/// say something of the request.
#[must_use]
pub fn is_failure(status: StatusCode) -> bool {
    Class::of_status(status).is_failure()
}

impl<E> Attempt<E> {
    pub(super) fn begin(endpoint: Arc<Endpoint<E>>, pass: Pass, began: Instant, terms: Terms) -> Self {
        endpoint.load.begin();
        if terms.counted {
            endpoint.shared.in_flight.fetch_add(1, Relaxed);
        }
        let Pass { trial, ticket, .. } = pass;
        let (measured, class) = (None, Class::Success);
        Self { trial: Some(trial), ticket, endpoint, began, patience: None, told: None, terms, measured, class }
    }

    /// The endpoint.
    #[must_use]
    pub fn endpoint(&self) -> &Arc<Endpoint<E>> {
        &self.endpoint
    }

    /// How long a limit lets the response's head be waited for.
    pub(crate) fn within(&mut self, patience: Patience) {
        self.patience = Some(patience);
    }

    /// Until when the caller has [allowed time](Patience::told).
    pub(crate) fn told(&mut self, until: Option<Instant>) {
        self.told = until;
    }

    /// The endpoint is there: a connection was made, or it sent something. Ends a probe well, so that others need not
    /// wait for the end of this request's body.
    pub fn reached(&mut self) {
        let Some(trial) = &mut self.trial else { return };
        let changed = match std::mem::replace(trial, Trial::No) {
            Trial::Probe(probe) => self.endpoint.marking.probe_succeeded(probe),
            Trial::Panic => self.endpoint.marking.reached(),
            Trial::Return(probe) => {
                // An ejection asks for more than that it is there: how the response ends decides.
                *trial = Trial::Return(probe);
                false
            }
            Trial::No => false,
        };
        if changed {
            self.endpoint.shared.changed();
        }
    }

    /// What the response's head says. A failure stands, however the body ends.
    pub fn note(&mut self, class: Class) {
        self.patience = None;
        self.class = class;
        if class != Class::Success {
            return self.tell_breaker(class, Instant::now());
        }
        if let Some(Trial::Return(probe)) = &mut self.trial {
            self.endpoint.outlier.reached(probe);
        }
        if let (Some(ticket), Some(breaker)) = (&self.ticket, self.endpoint.circuit()) {
            breaker.reached(ticket);
        }
    }

    /// The latency is measured until now; what follows, such as an upgraded connection or a stream of events without
    /// end, only counts as in flight, and the endpoint's breaker has what was noted so far.
    pub fn stop_clock(&mut self, now: Instant) {
        let began = self.began;
        self.measured.get_or_insert_with(|| micros(began, now));
        self.tell_breaker(self.class, now);
    }

    fn tell_breaker(&mut self, class: Class, now: Instant) {
        if let (Some(ticket), Some(breaker)) = (self.ticket.take(), self.endpoint.circuit()) {
            let took = now.saturating_duration_since(self.began);
            self.endpoint.breaker_changed(breaker.settle(&ticket, class, took, now));
        }
    }

    /// The endpoint answered.
    pub fn succeed(mut self, now: Instant) {
        self.settle(Verdict::Success, now);
    }

    /// The endpoint failed: a reset, a timeout, an answer that is none.
    pub fn fail(mut self, now: Instant) {
        self.settle(Verdict::Failure, now);
    }

    /// No connection could be made: a failure that also takes the endpoint out, for 1 s at first, twice as long each
    /// time a probe fails, up to 30 s, each time up to half of that longer by chance.
    pub fn unreachable(mut self, now: Instant) {
        self.settle(Verdict::Unreachable, now);
    }

    /// Nothing is known of the endpoint: the client went away, or a limit of ours was reached.
    pub fn cancel(mut self) {
        self.settle(Verdict::Cancelled, Instant::now());
    }

    fn settle(&mut self, verdict: Verdict, now: Instant) {
        if self.trial.is_none() {
            return;
        }
        let class = match verdict {
            _ if self.class.is_failure() => self.class,
            Verdict::Success => self.class,
            Verdict::Failure | Verdict::Unreachable => Class::GatewayError,
            Verdict::Cancelled => Class::Ignored,
        };
        let verdict = match (verdict, class) {
            (Verdict::Unreachable, _) => Verdict::Unreachable,
            (_, Class::Ignored) => Verdict::Cancelled,
            (_, class) if class.is_failure() => Verdict::Failure,
            (verdict, _) => verdict,
        };
        if verdict == Verdict::Success {
            self.reached();
        }
        let Some(trial) = self.trial.take() else { return };
        self.tell_breaker(class, now);
        let endpoint = &*self.endpoint;
        endpoint.load.end();
        if self.terms.counted {
            endpoint.shared.in_flight.fetch_sub(1, Relaxed);
        }
        let millis = endpoint.shared.millis(now);
        match (trial, verdict) {
            (Trial::Probe(probe), Verdict::Cancelled) => endpoint.marking.probe_cancelled(probe),
            (Trial::Probe(probe), _) => endpoint.marking.probe_failed(probe, millis, self.terms.jitter),
            (trial, verdict) => {
                let mut changed = verdict == Verdict::Unreachable && endpoint.marking.failed(millis, self.terms.jitter);
                if let Trial::Return(probe) = trial {
                    changed |= endpoint.outlier.probed(probe, class, endpoint.shared.alarm.get());
                }
                if changed {
                    endpoint.shared.changed();
                }
            }
        }
        let penalty = self.terms.penalty;
        let measured = self.measured.unwrap_or_else(|| micros(self.began, now));
        if let Some(alarm) = endpoint.shared.alarm.get() {
            let took = Duration::try_from_secs_f32(measured / 1e6).unwrap_or_default();
            endpoint.outlier.record_timed(class, took, alarm);
        }
        match verdict {
            Verdict::Success => endpoint.load.record(millis, Sample::Success(measured.min(penalty))),
            Verdict::Failure | Verdict::Unreachable => {
                endpoint.load.record(millis, Sample::Failure { measured, penalty });
            }
            Verdict::Cancelled => {}
        }
    }
}

impl Trial {
    /// Whether it takes an endpoint's one probe.
    pub(super) fn probes(&self) -> bool {
        matches!(self, Self::Probe(_) | Self::Return(_))
    }
}

impl<E: Send + Sync + 'static> Observer for Attempt<E> {
    fn trailers(&mut self, trailers: &HeaderMap) {
        if self.class == Class::Success {
            self.class = self.class.and_trailers(trailers).in_time(trailers, self.told);
        }
    }

    fn end(&mut self, end: End<'_>) {
        self.class = self.class.at_end(&end);
        self.settle(Verdict::Success, Instant::now());
    }
}

impl<E> Drop for Attempt<E> {
    fn drop(&mut self) {
        if self.trial.is_some() {
            let now = Instant::now();
            let late = self.patience.as_ref().is_some_and(|patience| patience.ended_with(self.began, now));
            self.settle(if late { Verdict::Failure } else { Verdict::Cancelled }, now);
        }
    }
}

impl<E> fmt::Debug for Attempt<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attempt").field("endpoint", &self.endpoint).field("trial", &self.trial).finish_non_exhaustive()
    }
}

fn micros(began: Instant, now: Instant) -> f32 {
    now.saturating_duration_since(began).as_secs_f32() * 1e6
}
