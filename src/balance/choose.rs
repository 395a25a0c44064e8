//! One choice among a set's endpoints.

use std::{net::SocketAddr, sync::atomic::Ordering::Relaxed};

use super::{
    attempt::{Pass, Trial},
    availability::Availability,
    policy::Kind,
    set::{EndpointSet, Pick, Slot},
    table::{Maglev, Ring},
    two_choices,
    weighted::{Alias, Turns},
};

/// How many draws may meet endpoints that cannot be used before all are looked at in turn. As panic makes all usable
/// where less than half are, that many bad draws are next to impossible without a request that tried most endpoints, or
/// most breakers open.
const DRAWS: usize = 32;

/// How many draws may fail to find the second of two choices.
const SECOND_DRAWS: usize = 10;

/// How many places of a table a key may be moved on.
const STEPS: usize = 64;

/// Requests in flight that a hashing balancer always allows an endpoint.
const UNBOUNDED: u32 = 8;

/// What a set chooses by.
#[derive(Debug)]
pub(super) enum Picker {
    RoundRobin(Turns),
    Random(Alias),
    LeastRequest(Alias),
    PeakEwma(Alias),
    Ring(Ring),
    Maglev(Maglev),
}

/// A choice as it is being made.
pub(super) struct Choosing<'a, 'b, E> {
    pub(super) set: &'a EndpointSet<E>,
    pub(super) pick: &'a mut Pick<'b>,
    pub(super) millis: u64,
    pub(super) usable: u32,
    pub(super) panicking: bool,
    /// Some endpoints are not warm yet.
    pub(super) warming: bool,
}

/// The index of an endpoint that may be used, and the right to do so.
pub(super) type Chosen = (usize, Pass);

impl Picker {
    /// For endpoints with these weights; `last` is what the snapshot before chose by.
    pub(super) fn new(kind: Kind, members: &[(SocketAddr, u32)], last: Option<&Self>) -> Self {
        let weights: Vec<_> = members.iter().map(|member| member.1).collect();
        match (kind, last) {
            (Kind::RoundRobin, Some(Self::RoundRobin(last))) => Self::RoundRobin(Turns::new(&weights).continuing(last)),
            (Kind::RoundRobin, _) => Self::RoundRobin(Turns::new(&weights)),
            (Kind::Random, _) => Self::Random(Alias::new(&weights)),
            (Kind::LeastRequest, _) => Self::LeastRequest(Alias::new(&weights)),
            (Kind::PeakEwma, _) => Self::PeakEwma(Alias::new(&weights)),
            (Kind::RingHash, _) => Self::Ring(Ring::new(members)),
            (Kind::Maglev, _) => Self::Maglev(Maglev::new(members)),
        }
    }
}

impl<'a, E> Choosing<'a, '_, E> {
    /// An endpoint that may be used. The caller begins an attempt at it, which settles the probe that may be taken.
    pub(super) fn choose(mut self) -> Option<Chosen> {
        match &self.set.picker {
            Picker::RoundRobin(turns) => self.draw(|_| turns.next()),
            Picker::Random(alias) => self.draw(|rng| alias.draw(rng)),
            Picker::LeastRequest(alias) => self.two(alias, two_choices::by_requests),
            Picker::PeakEwma(alias) => self.two(alias, two_choices::by_latency),
            Picker::Ring(ring) => self.hashed(|hash| ring.walk(hash)),
            Picker::Maglev(table) => self.hashed(|hash| table.walk(hash)),
        }
    }

    /// The first drawn that may be used.
    fn draw(&mut self, mut draw: impl FnMut(&mut fastrand::Rng) -> Option<usize>) -> Option<Chosen> {
        for _ in 0..DRAWS {
            let index = draw(self.pick.rng)?;
            if self.is_warm_enough(index)
                && let Some(pass) = self.admit(index)
            {
                return Some((index, pass));
            }
        }
        let start = self.pick.rng.usize(..self.set.slots.len().max(1));
        self.scan(start)
    }

    /// The better of two drawn.
    fn two(&mut self, alias: &Alias, better: two_choices::Better) -> Option<Chosen> {
        let first = self.draw(|rng| alias.draw(rng))?;
        if self.set.serving < 2 || first.1.probes {
            return Some(first);
        }
        for _ in 0..SECOND_DRAWS {
            let index = alias.draw(self.pick.rng)?;
            if index == first.0 || !self.is_warm_enough(index) {
                continue;
            }
            match self.admit(index) {
                None => {}
                Some(pass) if pass.probes => return Some((index, pass)),
                Some(pass) => {
                    let (Some(a), Some(b)) = (self.candidate(first.0), self.candidate(index)) else { continue };
                    return Some(if better(&a, &b, self.pick.rng) { (index, pass) } else { first });
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
            let sharing = if self.panicking { self.set.unrefused(self.pick.now) } else { self.usable };
            total as f32 * percent as f32 / 100.0 / sharing.max(1) as f32
        });
        let mut least_full: Option<(f32, usize)> = None;
        let mut last = None;
        for index in walk(hash).take(STEPS) {
            if last.replace(index) == Some(index) {
                continue;
            }
            let Some(slot) = self.set.slots.get(index) else { continue };
            let in_flight = slot.endpoint.in_flight();
            if room.is_some_and(|room| in_flight >= UNBOUNDED && in_flight as f32 >= (room * slot.relative).ceil()) {
                let load = in_flight as f32 / slot.relative;
                let panics = self.panicking && slot.endpoint.refusal(self.pick.now).is_none();
                let may_serve = panics || slot.endpoint.is_usable();
                if may_serve && least_full.is_none_or(|(least, _)| load < least) {
                    least_full = Some((load, index));
                }
            } else if let Some(pass) = self.admit(index) {
                return Some((index, pass));
            }
        }
        if let Some((_, index)) = least_full
            && let Some(pass) = self.admit(index)
        {
            return Some((index, pass));
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

    /// The right to use an endpoint, if there is one. Takes the probe of one that is due.
    fn admit(&self, index: usize) -> Option<Pass> {
        let endpoint = &self.set.slots.get(index)?.endpoint;
        // An open breaker is what was asked for, not a guess that may be wrong: panic does not set it aside.
        if self.pick.tried.contains(&endpoint.address()) || endpoint.refusal(self.pick.now).is_some() {
            return None;
        }
        let trial = match endpoint.standing(self.millis) {
            Availability::Available => Some(Trial::No),
            // Before panic: else an ejection would last as long as the panic that it may be the cause of.
            Availability::Due if endpoint.marking.is_available() => {
                let probe = endpoint.outlier.try_probe().map(Trial::Return);
                probe.or_else(|| self.panicking.then_some(Trial::Panic))
            }
            _ if self.panicking => Some(Trial::Panic),
            Availability::Due => endpoint.marking.try_probe(self.millis).map(Trial::Probe),
            _ => None,
        };
        endpoint.admit(trial?, self.pick.now)
    }

    /// The same for an endpoint that the request asks for: only as long as it does well.
    pub(super) fn admit_wanted(&self, index: usize) -> Option<Pass> {
        match self.set.slots.get(index)?.endpoint.availability(self.pick.now) {
            Availability::Available => self.admit(index),
            Availability::Due if !self.panicking => self.admit(index),
            _ => None,
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
