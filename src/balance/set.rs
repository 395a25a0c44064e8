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

use tokio::time::Instant;

use super::{
    attempt::{Attempt, Terms, Trial},
    availability::Availability,
    endpoint::{Endpoint, Shared},
    policy::{Balancer, Kind},
    table::{Maglev, Ring},
    two_choices,
    weighted::{Alias, Turns},
};
use crate::config;

/// How many draws may meet endpoints that cannot be used before all are looked at in turn. As panic makes all usable
/// where less than half are, that many bad draws are next to impossible without a request that tried most endpoints.
const DRAWS: usize = 32;

/// How many draws may fail to find the second of two choices.
const SECOND_DRAWS: usize = 10;

/// How many places of a table a key may be moved on.
const STEPS: usize = 64;

/// Requests in flight that a hashing balancer always allows an endpoint.
const UNBOUNDED: u32 = 8;

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
    balancer: Balancer,
    slots: Box<[Slot<E>]>,
    picker: Picker,
    shared: Arc<Shared>,
    /// How many take requests: those with a weight.
    serving: u32,
    /// How many of these are usable, and after how many changes that was counted: `changes << 32 | usable`.
    usable: AtomicU64,
    /// When the last endpoint is warm.
    warm_at: Option<Instant>,
}

struct Slot<E> {
    endpoint: Arc<Endpoint<E>>,
    weight: u32,
    /// The weight in relation to the mean of those that have one.
    relative: f32,
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

#[derive(Debug)]
enum Picker {
    RoundRobin(Turns),
    Random(Alias),
    LeastRequest(Alias),
    PeakEwma(Alias),
    Ring(Ring),
    Maglev(Maglev),
}

/// A choice as it is being made.
struct Choosing<'a, 'b, E> {
    set: &'a EndpointSet<E>,
    pick: &'a mut Pick<'b>,
    millis: u64,
    usable: u32,
    panicking: bool,
    warming: bool,
}

/// The index of an endpoint that may be used, and on what terms.
type Chosen = (usize, Trial);

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
            let new = || Arc::new(Endpoint::new(address, joined, shared.clone(), make(address)));
            (kept.cloned().unwrap_or_else(new), weight)
        });
        let members: Vec<_> = members.collect();
        Self::assemble(balancer, &members, shared, last)
    }

    /// The same endpoints under other settings.
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
        let weights: Vec<_> = members.iter().map(|member| member.1).collect();
        let addresses: Vec<_> = members.iter().map(|(endpoint, weight)| (endpoint.address(), *weight)).collect();
        let serving = weights.iter().filter(|weight| **weight > 0).count() as u32;
        let mean = weights.iter().copied().map(f64::from).sum::<f64>() / f64::from(serving.max(1));
        let relative = |weight: u32| if weight == 0 { 0.0 } else { (f64::from(weight) / mean) as f32 };
        let picker = match balancer.kind {
            Kind::RoundRobin => {
                let turns = Turns::new(&weights);
                Picker::RoundRobin(match last.map(|last| &last.picker) {
                    Some(Picker::RoundRobin(last)) => turns.continuing(last),
                    _ => turns,
                })
            }
            Kind::Random => Picker::Random(Alias::new(&weights)),
            Kind::LeastRequest => Picker::LeastRequest(Alias::new(&weights)),
            Kind::PeakEwma => Picker::PeakEwma(Alias::new(&weights)),
            Kind::RingHash => Picker::Ring(Ring::new(&addresses)),
            Kind::Maglev => Picker::Maglev(Maglev::new(&addresses)),
        };
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
        let usable = self.usable();
        let (now, millis) = (pick.now, self.shared.millis(pick.now));
        let warming = self.warm_at.is_some_and(|warm_at| now < warm_at);
        let mut choosing = Choosing { set: self, millis, usable, panicking: self.panics_with(usable), warming, pick };
        let (index, trial) = match &self.picker {
            Picker::RoundRobin(turns) => choosing.draw(|_| turns.next())?,
            Picker::Random(alias) => choosing.draw(|rng| alias.draw(rng))?,
            Picker::LeastRequest(alias) => choosing.two(alias, two_choices::by_requests)?,
            Picker::PeakEwma(alias) => choosing.two(alias, two_choices::by_latency)?,
            Picker::Ring(ring) => choosing.hashed(|hash| ring.walk(hash))?,
            Picker::Maglev(table) => choosing.hashed(|hash| table.walk(hash))?,
        };
        let jitter = pick.rng.f32();
        let terms = Terms { penalty: self.balancer.penalty, jitter, counted: self.balancer.counts() };
        Some(Attempt::begin(self.slots.get(index)?.endpoint.clone(), trial, now, terms))
    }

    #[cfg(test)]
    pub(super) fn warm_at(&self) -> Option<Instant> {
        self.warm_at
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

impl<'a, E> Choosing<'a, '_, E> {
    /// The first drawn that may be used.
    fn draw(&mut self, mut draw: impl FnMut(&mut fastrand::Rng) -> Option<usize>) -> Option<Chosen> {
        for _ in 0..DRAWS {
            let index = draw(self.pick.rng)?;
            if self.is_warm_enough(index)
                && let Some(trial) = self.admit(index)
            {
                return Some((index, trial));
            }
        }
        let start = self.pick.rng.usize(..self.set.slots.len().max(1));
        self.scan(start)
    }

    /// The better of two drawn.
    fn two(&mut self, alias: &Alias, better: two_choices::Better) -> Option<Chosen> {
        let first = self.draw(|rng| alias.draw(rng))?;
        if self.set.serving < 2 || matches!(first.1, Trial::Probe(_)) {
            return Some(first);
        }
        for _ in 0..SECOND_DRAWS {
            let index = alias.draw(self.pick.rng)?;
            if index == first.0 || !self.is_warm_enough(index) {
                continue;
            }
            match self.admit(index) {
                None => {}
                Some(Trial::Probe(probe)) => return Some((index, Trial::Probe(probe))),
                Some(trial) => {
                    let (Some(a), Some(b)) = (self.candidate(first.0), self.candidate(index)) else { continue };
                    return Some(if better(&a, &b, self.pick.rng) { (index, trial) } else { first });
                }
            }
        }
        Some(first)
    }

    fn candidate(&self, index: usize) -> Option<two_choices::Candidate> {
        let slot = self.set.slots.get(index)?;
        let warmth = self.warmth(slot);
        let reading = slot.endpoint.load.read(self.millis, self.set.balancer.penalty);
        Some(two_choices::Candidate { reading, weight: slot.relative * warmth })
    }

    /// The first on a key's walk that may be used and has room, or the least loaded of those met.
    fn hashed<I: Iterator<Item = usize>>(&mut self, walk: impl FnOnce(u64) -> I) -> Option<Chosen> {
        // A request without the key goes anywhere.
        let hash = self.pick.hash.unwrap_or_else(|| self.pick.rng.u64(..));
        let room = self.set.balancer.balance_factor.map(|percent| {
            // Requests in flight, this one included, for an endpoint of mean weight.
            let total = self.set.shared.in_flight.load(Relaxed) + 1;
            let sharing = if self.panicking { self.set.serving } else { self.usable };
            total as f32 * percent as f32 / 100.0 / sharing.max(1) as f32
        });
        let mut fullest: Option<(f32, usize)> = None;
        let mut last = None;
        for index in walk(hash).take(STEPS) {
            if last.replace(index) == Some(index) {
                continue;
            }
            let Some(slot) = self.set.slots.get(index) else { continue };
            let in_flight = slot.endpoint.in_flight();
            if room.is_some_and(|room| in_flight >= UNBOUNDED && in_flight as f32 >= (room * slot.relative).ceil()) {
                let load = in_flight as f32 / slot.relative;
                if fullest.is_none_or(|(least, _)| load < least) {
                    fullest = Some((load, index));
                }
            } else if let Some(trial) = self.admit(index) {
                return Some((index, trial));
            }
        }
        if let Some((_, index)) = fullest
            && let Some(trial) = self.admit(index)
        {
            return Some((index, trial));
        }
        self.scan(hash.checked_rem(self.set.slots.len() as u64)? as usize)
    }

    /// The first from `start` on, and around, that may be used at all.
    #[cold]
    fn scan(&self, start: usize) -> Option<Chosen> {
        let count = self.set.slots.len();
        (start..count).chain(0..start).find_map(|index| {
            let weight = self.set.slots.get(index)?.weight;
            Some((index, (weight > 0).then(|| self.admit(index))??))
        })
    }

    /// Whether an endpoint may be used, and on what terms. Takes the probe of one that is due.
    fn admit(&self, index: usize) -> Option<Trial> {
        let endpoint = &self.set.slots.get(index)?.endpoint;
        if self.pick.tried.contains(&endpoint.address()) {
            return None;
        }
        match endpoint.availability_at(self.millis) {
            Availability::Available => Some(Trial::No),
            _ if self.panicking => Some(Trial::Panic),
            Availability::Due => endpoint.marking.try_probe(self.millis).map(Trial::Probe),
            Availability::Out | Availability::Probing | Availability::Unhealthy => None,
        }
    }

    /// Draws by a weight that is still growing.
    fn is_warm_enough(&mut self, index: usize) -> bool {
        !self.warming || self.set.slots.get(index).is_some_and(|slot| self.pick.rng.f32() < self.warmth(slot))
    }

    fn warmth(&self, slot: &'a Slot<E>) -> f32 {
        match self.set.balancer.slow_start {
            Some(window) if self.warming => slot.endpoint.warmth(self.pick.now, window),
            _ => 1.0,
        }
    }
}

impl<E> fmt::Debug for EndpointSet<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let endpoints: Vec<_> = self.iter().collect();
        f.debug_struct("EndpointSet").field("balancer", &self.balancer).field("endpoints", &endpoints).finish()
    }
}
