//! One endpoint: the state that all snapshots it is in share.

use std::{
    fmt,
    net::SocketAddr,
    sync::{
        Arc, OnceLock,
        atomic::{
            AtomicBool, AtomicU32, AtomicU64,
            Ordering::{AcqRel, Acquire, Relaxed, Release},
        },
    },
    time::Duration,
};

use tokio::time::Instant;

use super::{
    affinity::Affinity,
    attempt::{Pass, Trial},
    availability::{Availability, Marking},
    load::Load,
};
use crate::{
    breaker::{Change, Circuit, Refused, State},
    classify::Class,
    outlier::{Alarm, Gate, Host},
};

/// One address requests can go to, with its live state and a payload of the caller's, such as its connection pool.
///
/// Always behind an `Arc`: every snapshot it is in and every request on its way to it hold the same one, so a change of
/// the set never moves a request to another endpoint or forgets what is in flight.
pub struct Endpoint<E> {
    address: SocketAddr,
    id: u64,
    /// When it joined a set that was already serving; `None` for the first ones, which have nobody to learn from.
    joined: Option<Instant>,
    healthy: AtomicBool,
    breaker: Option<Circuit>,
    pub(super) outlier: Host,
    pub(super) marking: Marking,
    pub(super) load: Load,
    pub(super) shared: Arc<Shared>,
    payload: E,
}

/// What a set and all that follow it share.
#[derive(Debug)]
pub(super) struct Shared {
    /// What times are counted from.
    epoch: Instant,
    /// Requests in flight to all endpoints, where the balancer needs to know.
    pub(super) in_flight: AtomicU64,
    /// How often an endpoint became usable or unusable: tells a snapshot to count anew.
    changes: AtomicU32,
    /// How often an endpoint's breaker opened.
    pub(super) opened: AtomicU64,
    /// Where outlier detection is on: who is told of errors.
    pub(super) alarm: OnceLock<Alarm>,
}

impl Shared {
    pub(super) fn new(epoch: Instant) -> Self {
        let (in_flight, opened) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { epoch, in_flight, changes: AtomicU32::new(0), opened, alarm: OnceLock::new() }
    }

    /// Milliseconds since the epoch.
    pub(super) fn millis(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.epoch).as_millis() as u64
    }

    pub(super) fn changes(&self) -> u32 {
        self.changes.load(Acquire)
    }

    pub(super) fn changed(&self) {
        self.changes.fetch_add(1, Release);
    }
}

impl<E> Endpoint<E> {
    pub(super) fn new(
        address: SocketAddr,
        joined: Option<Instant>,
        breaker: Option<Circuit>,
        shared: Arc<Shared>,
        payload: E,
    ) -> Self {
        let (healthy, marking, load) = (AtomicBool::new(true), Marking::default(), Load::default());
        let id = Affinity::id(address);
        Self { address, id, joined, healthy, breaker, outlier: Host::default(), marking, load, shared, payload }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What stands for it in sessions: see [`Affinity::id`].
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// What the caller keeps for it.
    #[must_use]
    pub fn payload(&self) -> &E {
        &self.payload
    }

    /// Requests in flight to it.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.load.in_flight()
    }

    /// The moving average of its latency as balancers see it: peaks and penalties for failures included, aged until
    /// `now`. `None` while nothing was measured.
    #[must_use]
    pub fn latency(&self, now: Instant) -> Option<Duration> {
        let reading = self.load.read(self.shared.millis(now), f32::INFINITY);
        (reading.stored > 0.0).then(|| Duration::from_secs_f32(reading.aged / 1e6))
    }

    /// Whether it may be used.
    #[must_use]
    pub fn availability(&self, now: Instant) -> Availability {
        let standing = self.standing(self.shared.millis(now));
        let Some((state, refusal)) = self.breaker.as_ref().map(|breaker| breaker.glance(now)) else { return standing };
        match (standing, state, refusal) {
            (Availability::Unhealthy | Availability::Ejected | Availability::Out, ..) => standing,
            (_, State::Closed, _) => standing,
            (_, State::Open, Some(_)) => Availability::Open,
            (_, State::HalfOpen, Some(_)) => Availability::Probing,
            (Availability::Probing, ..) => standing,
            _ => Availability::Due,
        }
    }

    /// The same without its breaker: what panic sets aside.
    pub(super) fn standing(&self, millis: u64) -> Availability {
        if !self.healthy.load(Relaxed) {
            return Availability::Unhealthy;
        }
        match (self.outlier.gate(), self.marking.availability(millis)) {
            (Gate::Out | Gate::Failed, _) => Availability::Ejected,
            (Gate::Due, Availability::Available) => Availability::Due,
            (Gate::Probing, Availability::Available) => Availability::Probing,
            (_, marked) => marked,
        }
    }

    /// Its own circuit breaker, if it has one.
    #[must_use]
    pub fn circuit(&self) -> Option<&Circuit> {
        self.breaker.as_ref()
    }

    /// Why its breaker would refuse a request now.
    pub(super) fn refusal(&self, now: Instant) -> Option<Refused> {
        self.breaker.as_ref()?.glance(now).1
    }

    /// The right to a request on the terms that a choice found, or nothing, where its breaker has let another one in
    /// between.
    pub(super) fn admit(&self, trial: Trial, now: Instant) -> Option<Pass> {
        let Some(breaker) = &self.breaker else { return Some(Pass { probes: trial.probes(), trial, ticket: None }) };
        let (admitted, change) = breaker.admit(now);
        self.breaker_changed(change);
        match admitted {
            Ok(ticket) => {
                let probes = trial.probes() || !breaker.is_closed();
                Some(Pass { probes, trial, ticket: Some(ticket) })
            }
            Err(_) => {
                self.give_back(trial);
                None
            }
        }
    }

    /// A trial that comes to nothing.
    fn give_back(&self, trial: Trial) {
        match trial {
            Trial::Probe(probe) => self.marking.probe_cancelled(probe),
            Trial::Return(probe) => {
                self.outlier.probed(probe, Class::Ignored, self.shared.alarm.get());
            }
            Trial::No | Trial::Panic => {}
        }
    }

    /// Its breaker was told something.
    pub(super) fn breaker_changed(&self, change: Change) {
        if change.moved {
            self.shared.opened.fetch_add(change.opened, Relaxed);
            self.shared.changed();
        }
    }

    /// Whether outlier detection keeps it out, or has one request probe it.
    #[must_use]
    pub fn is_ejected(&self) -> bool {
        self.outlier.gate() != Gate::In
    }

    /// Ends an ejection, if there is one.
    pub fn uneject(&self) {
        if self.outlier.restore() {
            self.shared.changed();
        }
    }

    /// Takes it out (`false`) or lets it in again (`true`), independently of what requests find out. For active health
    /// checks. At first an endpoint is healthy.
    pub fn set_healthy(&self, healthy: bool) {
        if self.healthy.swap(healthy, AcqRel) != healthy {
            self.shared.changed();
        }
    }

    /// Takes its share without reservation, whatever the time: not out, not due, not probed.
    pub(super) fn is_usable(&self) -> bool {
        self.healthy.load(Relaxed)
            && self.marking.is_available()
            && self.outlier.gate() == Gate::In
            && self.breaker.as_ref().is_none_or(Circuit::is_closed)
    }

    /// The part of its weight that it carries while it warms up: from a tenth to all of it, linear in time (Envoy's
    /// slow start with its defaults, `min_weight_percent` 10 and `aggression` 1).
    pub(super) fn warmth(&self, now: Instant, window: Duration) -> f32 {
        self.joined.map_or(1.0, |joined| {
            let warm = now.saturating_duration_since(joined).as_secs_f32() / window.as_secs_f32();
            warm.clamp(0.1, 1.0)
        })
    }

    pub(super) fn warm_at(&self, window: Duration) -> Option<Instant> {
        self.joined.and_then(|joined| joined.checked_add(window))
    }
}

impl<E> fmt::Debug for Endpoint<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("address", &self.address)
            .field("in_flight", &self.in_flight())
            .field("usable", &self.is_usable())
            .finish_non_exhaustive()
    }
}
