//! The endpoints of an upstream as an immutable snapshot, and the choice among them.

use std::{
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use tokio::time::{Duration, Instant};

use super::{
    attempt::{Attempt, Pass, Terms},
    choose::{Choosing, Picker},
    endpoint::{Endpoint, Shared},
    policy::Balancer,
};
use crate::{
    config,
    outlier::{self, Alarm, Detector},
};

/// The endpoints of an upstream at one moment, with the tables that choose among them: immutable, to be swapped whole.
///
/// The [next](Self::next) snapshot keeps the state of the endpoints that stay: requests in flight, latency,
/// availability, payload.
///
/// # Example
/// ```
/// use std::net::SocketAddr;
///
/// use portcullis::{balance::{Balancer, EndpointSet, Pick}, config::{self, Endpoint}};
/// use tokio::time::Instant;
///
/// let balancer = Balancer::new(&config::Balancer::RoundRobin)?;
/// let endpoints = [9001, 9002].map(|port| Endpoint::from(SocketAddr::from(([127, 0, 0, 1], port))));
/// // The payload, here nothing, is made for each endpoint that is new.
/// let set = EndpointSet::new(balancer, &endpoints, Instant::now(), |_| ());
///
/// let mut rng = fastrand::Rng::new();
/// let first = set.pick(&mut Pick::new(Instant::now(), &mut rng)).expect("an endpoint");
/// assert_eq!(first.endpoint().in_flight(), 1);
///
/// // It cannot be reached: the request goes elsewhere, and so do the next ones.
/// let tried = [first.endpoint().address()];
/// first.unreachable(Instant::now());
/// let second = set.pick(&mut Pick { tried: &tried, ..Pick::new(Instant::now(), &mut rng) }).expect("the other");
/// assert_ne!(second.endpoint().address(), tried[0]);
/// second.succeed(Instant::now());
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
pub struct EndpointSet<E> {
    pub(super) balancer: Balancer,
    pub(super) slots: Box<[Slot<E>]>,
    pub(super) picker: Picker,
    pub(super) shared: Arc<Shared>,
    /// How many take requests: those with a weight.
    pub(super) serving: u32,
    /// How many of these are usable, and after how many changes that was counted: `changes << 32 | usable`.
    usable: AtomicU64,
    /// When the last endpoint is warm.
    warm_at: Option<Instant>,
}

/// An endpoint with what is its own in this snapshot.
pub(super) struct Slot<E> {
    pub(super) endpoint: Arc<Endpoint<E>>,
    pub(super) weight: u32,
    /// The weight in relation to the mean of those that have one.
    pub(super) relative: f32,
}

/// What is known for a choice.
#[derive(Debug)]
pub struct Pick<'a> {
    /// The time.
    pub now: Instant,
    /// Where chance comes from.
    pub rng: &'a mut fastrand::Rng,
    /// What a hashing balancer goes by; see [`Balancer::hash`].
    pub hash: Option<u64>,
    /// The endpoints that this request was already offered to. None of them is chosen again.
    pub tried: &'a [SocketAddr],
}

impl<'a> Pick<'a> {
    /// For a request without a hash that no endpoint has seen yet.
    #[must_use]
    pub fn new(now: Instant, rng: &'a mut fastrand::Rng) -> Self {
        Self { now, rng, hash: None, tried: &[] }
    }
}

impl<E> EndpointSet<E> {
    /// The first snapshot. Addresses are sorted, and the last of several entries for one address counts; `make` makes
    /// each endpoint's payload.
    pub fn new(
        balancer: Balancer,
        endpoints: &[config::Endpoint],
        now: Instant,
        make: impl FnMut(SocketAddr) -> E,
    ) -> Self {
        Self::build(balancer, endpoints, &Arc::new(Shared::new(now)), None, None, make)
    }

    /// The snapshot that follows: endpoints that stay keep their state, `make` makes the payload of each new one. Where
    /// this one was already serving, new ones warm up.
    #[must_use]
    pub fn next(&self, endpoints: &[config::Endpoint], now: Instant, make: impl FnMut(SocketAddr) -> E) -> Self {
        let joined = (self.serving > 0).then_some(now);
        Self::build(self.balancer.clone(), endpoints, &self.shared, Some(self), joined, make)
    }

    fn build(
        balancer: Balancer,
        endpoints: &[config::Endpoint],
        shared: &Arc<Shared>,
        last: Option<&Self>,
        joined: Option<Instant>,
        mut make: impl FnMut(SocketAddr) -> E,
    ) -> Self {
        // Sorted, so that tables do not depend on the order in which a source lists them.
        let members: BTreeMap<_, _> = endpoints.iter().map(|endpoint| (endpoint.address, endpoint.weight)).collect();
        let members = members.into_iter().map(|(address, weight)| {
            let kept = last.and_then(|last| last.find(address));
            let breaker = || balancer.breakers.as_ref().map(|breakers| breakers.at(address));
            let new = || Arc::new(Endpoint::new(address, joined, breaker(), shared.clone(), make(address)));
            (kept.cloned().unwrap_or_else(new), weight)
        });
        let members: Vec<_> = members.collect();
        Self::assemble(balancer, &members, shared, last)
    }

    /// The same endpoints under other settings; those that are known keep the circuit breakers that they have.
    #[must_use]
    pub fn with_balancer(&self, balancer: Balancer) -> Self {
        let members: Vec<_> = self.slots.iter().map(|slot| (slot.endpoint.clone(), slot.weight)).collect();
        Self::assemble(balancer, &members, &self.shared, Some(self))
    }

    fn assemble(
        balancer: Balancer,
        members: &[(Arc<Endpoint<E>>, u32)],
        shared: &Arc<Shared>,
        last: Option<&Self>,
    ) -> Self {
        let addresses: Vec<_> = members.iter().map(|(endpoint, weight)| (endpoint.address(), *weight)).collect();
        let serving = members.iter().filter(|member| member.1 > 0).count() as u32;
        let mean = members.iter().map(|member| f64::from(member.1)).sum::<f64>() / f64::from(serving.max(1));
        let relative = |weight: u32| if weight == 0 { 0.0 } else { (f64::from(weight) / mean) as f32 };
        let picker = Picker::new(balancer.kind, &addresses, last.map(|last| &last.picker));
        let slots = members.iter().map(|(endpoint, weight)| Slot {
            endpoint: endpoint.clone(),
            weight: *weight,
            relative: relative(*weight),
        });
        let warm_at = balancer
            .slow_start
            .and_then(|window| members.iter().filter_map(|(endpoint, _)| endpoint.warm_at(window)).max());
        let (slots, usable) = (slots.collect(), AtomicU64::new(0));
        let shared = shared.clone();
        let set = Self { balancer, slots, picker, shared, serving, usable, warm_at };
        set.count_usable(set.shared.changes());
        set
    }

    /// The settings it was made with.
    #[must_use]
    pub fn balancer(&self) -> &Balancer {
        &self.balancer
    }

    /// How many endpoints there are, those without weight included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// The endpoints with their weights, sorted by address.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<Endpoint<E>>, u32)> {
        self.slots.iter().map(|slot| (&slot.endpoint, slot.weight))
    }

    /// Whether so few endpoints are usable that all are used.
    #[must_use]
    pub fn is_panicking(&self) -> bool {
        self.panics_with(self.usable())
    }

    /// Chooses an endpoint and begins an attempt at it: `None` when there is none that may be used and was not tried.
    ///
    /// An endpoint that is due for a probe and comes its way is chosen whatever its load.
    #[must_use]
    pub fn pick(&self, pick: &mut Pick<'_>) -> Option<Attempt<E>> {
        let (index, pass) = self.choosing(pick).choose()?;
        self.begin(index, pass, pick)
    }

    /// Begins an attempt at the endpoint of this [id](super::Affinity::id), whatever its weight and its load: `None` where
    /// there is none, where this request has tried it, and where it is out, also when so many are that all are used.
    #[must_use]
    pub fn pick_wanted(&self, id: u64, pick: &mut Pick<'_>) -> Option<Attempt<E>> {
        let index = self.slots.iter().position(|slot| slot.endpoint.id() == id)?;
        let pass = self.choosing(pick).admit_wanted(index)?;
        self.begin(index, pass, pick)
    }

    /// After how long a request may be let through again, where open circuit breakers keep it from endpoints: the soonest.
    #[must_use]
    pub fn retry_after(&self, now: Instant) -> Option<Duration> {
        let serving = self.slots.iter().filter(|slot| slot.weight > 0);
        serving.filter_map(|slot| slot.endpoint.refusal(now)).map(|refused| refused.retry_after).min()
    }

    /// How often the circuit breaker of an endpoint opened, probes that failed included, in this and all snapshots before.
    #[must_use]
    pub fn opened(&self) -> u64 {
        self.shared.opened.load(Relaxed)
    }

    /// Has outlier detection, where it is on, look at the endpoints now: those that left count no longer.
    pub(crate) fn wake_detector(&self) {
        if let Some(alarm) = self.shared.alarm.get() {
            alarm.ring();
        }
    }

    fn choosing<'a, 'b>(&'a self, pick: &'a mut Pick<'b>) -> Choosing<'a, 'b, E> {
        let usable = self.usable();
        let (now, millis) = (pick.now, self.shared.millis(pick.now));
        Choosing {
            set: self,
            millis,
            usable,
            panicking: self.panics_with(usable),
            warming: self.warm_at.is_some_and(|warm_at| now < warm_at),
            pick,
        }
    }

    fn begin(&self, index: usize, pass: Pass, pick: &mut Pick<'_>) -> Option<Attempt<E>> {
        let (now, jitter) = (pick.now, pick.rng.f32());
        let terms = Terms { penalty: self.balancer.penalty, jitter, counted: self.balancer.counts() };
        Some(Attempt::begin(self.slots.get(index)?.endpoint.clone(), pass, now, terms))
    }

    #[cfg(test)]
    pub(super) fn warm_at(&self) -> Option<Instant> {
        self.warm_at
    }

    /// Counts what becomes of requests for outlier detection, from now on and in all snapshots that follow. `alarm` rings
    /// when [`detect`](Self::detect) should not wait. Only the first call counts.
    pub fn watch(&self, alarm: Alarm) {
        let _ = self.shared.alarm.set(alarm);
    }

    /// Runs `detector` over the endpoints that take requests.
    pub fn detect(&self, detector: &mut Detector, now: Instant, rng: &mut fastrand::Rng) -> Vec<outlier::Event> {
        let serving = self.slots.iter().filter(|slot| slot.weight > 0);
        let hosts: Vec<_> = serving.map(|slot| (slot.endpoint.address(), &slot.endpoint.outlier)).collect();
        let events = detector.run(&hosts, now, rng);
        if !events.is_empty() {
            self.shared.changed();
        }
        events
    }

    fn find(&self, address: SocketAddr) -> Option<&Arc<Endpoint<E>>> {
        let index = self.slots.binary_search_by_key(&address, |slot| slot.endpoint.address()).ok()?;
        self.slots.get(index).map(|slot| &slot.endpoint)
    }

    fn usable(&self) -> u32 {
        let counted = self.usable.load(Relaxed);
        let changes = self.shared.changes();
        if (counted >> 32) as u32 == changes { counted as u32 } else { self.count_usable(changes) }
    }

    /// How many share the requests when all are used.
    pub(super) fn unrefused(&self, now: Instant) -> u32 {
        let refused = |slot: &&Slot<E>| slot.weight > 0 && slot.endpoint.refusal(now).is_some();
        let refused = self.balancer.breakers.as_ref().map_or(0, |_| self.slots.iter().filter(refused).count());
        self.serving - refused as u32
    }

    /// Seldom: after an endpoint went out or came back.
    #[cold]
    fn count_usable(&self, changes: u32) -> u32 {
        let usable = self.slots.iter().filter(|slot| slot.weight > 0 && slot.endpoint.is_usable()).count() as u32;
        self.usable.store(u64::from(changes) << 32 | u64::from(usable), Relaxed);
        usable
    }

    fn panics_with(&self, usable: u32) -> bool {
        u64::from(usable) * 100 < u64::from(self.serving) * u64::from(self.balancer.panic_threshold)
    }
}

impl<E> fmt::Debug for EndpointSet<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let endpoints: Vec<_> = self.iter().collect();
        f.debug_struct("EndpointSet").field("balancer", &self.balancer).field("endpoints", &endpoints).finish()
    }
}
