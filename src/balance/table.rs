//! Consistent hashing: the ring and Maglev's table.

use std::net::SocketAddr;

use super::{hash::StableHasher, weighted::smooth};

/// The least number of points on a ring (Envoy's `minimum_ring_size`).
const LEAST_POINTS: f64 = 1_024.0;

/// The greatest, beyond one for each endpoint: 3 MB. Envoy allows 8 million, gRPC 4096.
const MOST_POINTS: f64 = 262_144.0;

/// The least number of points of an endpoint of mean weight, where their sum allows it. 128 keep shares within some 10 %.
const POINTS: f64 = 128.0;

/// The length of Maglev's table, a prime (Envoy's default `table_size`). Shares are even to 1 % up to 650 endpoints.
const TABLE: u32 = 65_537;

/// A hash ring: each endpoint has points on it in the proportion of its weight, a key goes to the next point.
#[derive(Debug)]
pub(super) struct Ring {
    /// For each value of a hash's high bits the first point that has at least these; saves most of the search.
    starts: Box<[u32]>,
    /// How many low bits do not count for `starts`.
    shift: u32,
    points: Box<[u64]>,
    owners: Box<[u32]>,
}

/// Maglev's table: endpoints take turns, in the proportion of their weights, at taking the next free place in an order
/// of their own.
#[derive(Debug)]
pub(super) struct Maglev(Box<[u32]>);

impl Ring {
    pub(super) fn new(members: &[(SocketAddr, u32)]) -> Self {
        let each = points_of_unit(members);
        let mut points = Vec::new();
        for ((address, weight), index) in members.iter().zip(0u32..).filter(|((_, weight), _)| *weight > 0) {
            let mut hasher = StableHasher::default();
            hasher.write_address(*address);
            for point in 0..((each * f64::from(*weight)).round() as u32).max(1) {
                let mut hasher = hasher;
                hasher.write(point.to_le_bytes());
                points.push((hasher.finish(), index));
            }
        }
        points.sort_unstable();
        // About as many starts as points.
        let bits = points.len().max(2).ilog2();
        let shift = u64::BITS - bits;
        let mut starts = Vec::with_capacity((1 << bits) + 1);
        for ((point, _), index) in points.iter().zip(0u32..) {
            starts.resize(starts.len().max((point >> shift) as usize + 1), index);
        }
        starts.resize((1 << bits) + 1, points.len() as u32);
        let (points, owners): (Vec<_>, Vec<_>) = points.into_iter().unzip();
        let (points, owners) = (points.into_boxed_slice(), owners.into_boxed_slice());
        Self { starts: starts.into_boxed_slice(), shift, points, owners }
    }

    /// The endpoints for a key, the first choice first.
    pub(super) fn walk(&self, hash: u64) -> impl Iterator<Item = usize> + '_ {
        let bucket = (hash >> self.shift) as usize;
        let (from, to) = match self.starts.get(bucket..).unwrap_or_default() {
            [from, to, ..] => (*from as usize, *to as usize),
            _ => (0, self.points.len()),
        };
        let within = self.points.get(from..to).unwrap_or_default();
        around(&self.owners, from + within.partition_point(|point| *point < hash))
    }
}

impl Maglev {
    pub(super) fn new(members: &[(SocketAddr, u32)]) -> Self {
        const FREE: u32 = u32::MAX;
        let weights: Vec<_> = members.iter().map(|member| member.1).collect();
        // Where each endpoint looks next, and how far it steps: as the length is prime, it comes by every place.
        let mut orders: Vec<_> = members
            .iter()
            .map(|(address, _)| {
                let mut hasher = StableHasher::default();
                hasher.write_address(*address);
                let place = hasher.finish();
                hasher.write([0xff]);
                let step = hasher.finish();
                ((place % u64::from(TABLE)) as u32, (step % u64::from(TABLE - 1)) as u32 + 1)
            })
            .collect();
        let mut table = vec![FREE; TABLE as usize];
        let mut taken = 0;
        for turn in smooth(&weights).take(TABLE as usize) {
            let Some((place, step)) = orders.get_mut(turn as usize) else { continue };
            // Ends: there are as many turns as places.
            while let Some(owner) = table.get_mut(*place as usize) {
                *place = (*place + *step) % TABLE;
                if *owner == FREE {
                    *owner = turn;
                    taken += 1;
                    break;
                }
            }
        }
        table.truncate(taken);
        Self(table.into_boxed_slice())
    }

    /// The endpoints for a key, the first choice first.
    pub(super) fn walk(&self, hash: u64) -> impl Iterator<Item = usize> + '_ {
        around(&self.0, hash.checked_rem(self.0.len() as u64).unwrap_or(0) as usize)
    }
}

/// How many points a weight of one has.
///
/// A power of two, so that a change of the set seldom changes how many points the other endpoints have, which would
/// move keys among them.
fn points_of_unit(members: &[(SocketAddr, u32)]) -> f64 {
    let sum: f64 = members.iter().map(|member| f64::from(member.1)).sum();
    if sum == 0.0 {
        return 0.0;
    }
    let serving = members.iter().filter(|member| member.1 > 0).count();
    let mut each = (POINTS * serving as f64 / sum).log2().ceil().exp2();
    while each * sum < LEAST_POINTS {
        each *= 2.0;
    }
    while each * sum > MOST_POINTS {
        each /= 2.0;
    }
    each
}

/// All of `owners` from `start` on, and around.
fn around(owners: &[u32], start: usize) -> impl Iterator<Item = usize> + '_ {
    let (before, after) = owners.split_at_checked(start).unwrap_or((owners, &[]));
    after.iter().chain(before).map(|&owner| owner as usize)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::balance::stable_hash;

    fn members(weights: &[u32]) -> Vec<(SocketAddr, u32)> {
        let address = |n: usize| SocketAddr::from(([10, 0, (n / 250) as u8, (n % 250) as u8], 80));
        weights.iter().enumerate().map(|(n, weight)| (address(n), *weight)).collect()
    }

    fn keys() -> impl Iterator<Item = u64> {
        (0u32..20_000).map(|key| stable_hash(&key.to_le_bytes()))
    }

    enum Table {
        Ring(Ring),
        Maglev(Maglev),
    }

    impl Table {
        fn both(members: &[(SocketAddr, u32)]) -> [Self; 2] {
            [Self::Ring(Ring::new(members)), Self::Maglev(Maglev::new(members))]
        }

        fn owner(&self, hash: u64) -> Option<usize> {
            match self {
                Self::Ring(ring) => ring.walk(hash).next(),
                Self::Maglev(table) => table.walk(hash).next(),
            }
        }

        /// How far shares may be off, relatively.
        fn tolerance(&self) -> f64 {
            match self {
                Self::Ring(_) => 0.35,
                Self::Maglev(_) => 0.1,
            }
        }
    }

    #[test]
    fn without_weight_nothing_is_found() {
        for weights in [&[][..], &[0, 0]] {
            for table in Table::both(&members(weights)) {
                assert_eq!(table.owner(7), None);
            }
        }
    }

    #[test]
    fn a_key_goes_to_the_next_point() {
        for count in [1, 2, 9, 300] {
            let ring = Ring::new(&members(&vec![1; count]));
            let ends = [0, 1, u64::MAX].into_iter().chain(ring.points.iter().flat_map(|point| [*point, point + 1]));
            for hash in keys().take(2_000).chain(ends) {
                let next = ring.points.partition_point(|point| *point < hash) % ring.points.len();
                assert_eq!(ring.walk(hash).next(), Some(ring.owners[next] as usize));
            }
        }
    }

    #[test]
    fn a_walk_comes_by_every_endpoint() {
        let members = members(&[1, 2, 0, 4]);
        let mut seen: Vec<_> = Ring::new(&members).walk(u64::MAX).collect();
        seen.extend(Maglev::new(&members).walk(12_345));
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen, [0, 1, 3]);
    }

    #[test]
    fn shares_follow_the_weights() {
        let members = members(&[1, 2, 0, 5]);
        for table in Table::both(&members) {
            let mut seen = [0.0; 4];
            keys().for_each(|hash| seen[table.owner(hash).unwrap()] += 1.0);
            assert_eq!(seen[2], 0.0);
            for (index, weight) in [(0, 1.0), (1, 2.0), (3, 5.0)] {
                let share: f64 = seen[index] / 20_000.0 / (weight / 8.0);
                assert!((share - 1.0).abs() < table.tolerance(), "{index}: {share}");
            }
        }
    }

    #[test]
    fn one_weight_far_above_the_others_is_no_trouble() {
        let mut weights = vec![1; 1_000];
        weights[0] = u32::MAX;
        let members = members(&weights);
        assert!(Ring::new(&members).points.len() < 270_000);
        assert_eq!(Maglev::new(&members).0.len(), TABLE as usize);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(6))]

        #[test]
        fn removing_one_endpoint_moves_its_keys_and_few_others(
            weights in prop::collection::vec(prop::sample::select(vec![1u32, 1, 1, 2, 100]), 3..20), gone in 0usize..20,
        ) {
            let before = members(&weights);
            let gone = gone % weights.len();
            let mut after = before.clone();
            after.remove(gone);
            let rescaled = points_of_unit(&before) != points_of_unit(&after);
            for (old, new) in Table::both(&before).into_iter().zip(Table::both(&after)) {
                let (mut orphans, mut wandered) = (0.0, 0.0);
                for hash in keys() {
                    let owner = before[old.owner(hash).unwrap()];
                    if owner == before[gone] {
                        orphans += 1.0;
                    } else if owner != after[new.owner(hash).unwrap()] {
                        wandered += 1.0;
                    }
                }
                let fair = 20_000.0 * f64::from(weights[gone]) / f64::from(weights.iter().sum::<u32>());
                // A light endpoint beside heavy ones has but a few points on a ring: its share is as even as chance has it.
                let is_light = matches!(&old, Table::Ring(ring) if ring.owners.iter().filter(|owner| **owner as usize == gone).count() < 20);
                let most = if is_light { 3.0 } else { 1.4 };
                prop_assert!(orphans < fair * most + 100.0, "{orphans}, where {fair} were fair, belonged to it");
                let allowed = match old {
                    // Twice as many points: the new ones take half of the ring, mostly from others.
                    Table::Ring(_) if rescaled => 0.52,
                    Table::Ring(_) => 0.0,
                    Table::Maglev(_) => 0.06,
                };
                prop_assert!(wandered <= 20_000.0 * allowed, "{wandered} keys of others moved, {weights:?}");
            }
        }

        #[test]
        fn a_ring_is_seldom_rescaled(count in 9usize..200, weight in 1u32..1_000) {
            let full = members(&vec![weight; count]);
            let few = members(&vec![weight; count - 1]);
            prop_assert_eq!(points_of_unit(&full), points_of_unit(&few));
        }
    }
}
