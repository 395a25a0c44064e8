//! Shares by a stable hash: weighted rendezvous.

use crate::balance::stable_hash;

/// A choice among weighted alternatives by a hash: equal hashes get the same one, in every process.
///
/// 1. Over many hashes each alternative gets its share of the weights; a weight of zero gets none.
/// 2. An alternative whose weight grows, while no other's does, keeps all that it had, and takes from the others only what
///    its new share asks for. One that goes leaves its share to the others, which keep theirs.
/// 3. Alternatives are known by their names: their order means nothing. Of several with one name the first is the first.
///
/// Weighted rendezvous hashing: each alternative draws a number from the hash and its name, exponentially distributed, and
/// the smallest in proportion to its weight wins. The arithmetic is that of IEEE 754's basic operations alone, so that
/// every platform draws the same.
///
/// # Example
/// ```
/// use portcullis::{balance::stable_hash, split::StableChoice};
///
/// let user = stable_hash(b"ann");
/// let few = StableChoice::new([("stable", 99), ("canary", 1)]);
/// let many = StableChoice::new([("canary", 50), ("stable", 50)]);
/// assert_eq!(few.choose(user), Some(0));
/// assert_eq!(many.choose(user), Some(1));
/// ```
#[derive(Debug, Clone)]
pub struct StableChoice(Box<[Candidate]>);

#[derive(Debug, Clone, Copy)]
struct Candidate {
    index: usize,
    seed: u64,
    weight: f64,
}

impl StableChoice {
    /// A choice among these names and weights.
    #[must_use]
    pub fn new<'a>(alternatives: impl IntoIterator<Item = (&'a str, u32)>) -> Self {
        let mut names: Vec<&str> = Vec::new();
        let mut candidates = Vec::new();
        for (index, (name, weight)) in alternatives.into_iter().enumerate() {
            let namesakes = names.iter().filter(|other| **other == name).count() as u64;
            names.push(name);
            if weight > 0 {
                let seed = stable_hash(name.as_bytes()).wrapping_add(namesakes);
                candidates.push(Candidate { index, seed, weight: f64::from(weight) });
            }
        }
        Self(candidates.into_boxed_slice())
    }

    /// The index of the alternative of this hash; `None` when no weight is above zero.
    #[must_use]
    pub fn choose(&self, hash: u64) -> Option<usize> {
        let drawn = self.0.iter().map(|candidate| (exponential(hash, candidate.seed) / candidate.weight, candidate));
        let least = drawn.min_by(|(a, one), (b, other)| a.total_cmp(b).then(one.seed.cmp(&other.seed)));
        least.map(|(_, candidate)| candidate.index)
    }
}

/// A number from an exponential distribution, always the same for these two.
fn exponential(hash: u64, seed: u64) -> f64 {
    let mut bytes = [0; 16];
    for (place, byte) in bytes.iter_mut().zip(hash.to_be_bytes().into_iter().chain(seed.to_be_bytes())) {
        *place = byte;
    }
    let uniform = ((stable_hash(&bytes) >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    -natural_logarithm(uniform)
}

/// Of a normal number above zero. Not `f64::ln`, whose last bits differ between platforms.
fn natural_logarithm(x: f64) -> f64 {
    let bits = x.to_bits();
    let mut exponent = ((bits >> 52) & 0x7ff) as i64 - 1023;
    let mut mantissa = f64::from_bits(bits & 0x000f_ffff_ffff_ffff | 1023 << 52);
    if mantissa > std::f64::consts::SQRT_2 {
        mantissa /= 2.0;
        exponent += 1;
    }
    // ln m = 2 artanh s, a series in s² that ends below the last bit.
    let s = (mantissa - 1.0) / (mantissa + 1.0);
    let series = (0..12).rev().fold(0.0, |sum, k| sum * s * s + 1.0 / f64::from(2 * k + 1));
    exponent as f64 * std::f64::consts::LN_2 + 2.0 * s * series
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn user(n: u32) -> u64 {
        stable_hash(&n.to_be_bytes())
    }

    #[test]
    fn the_logarithm_is_one() {
        for x in [1e-16, 1e-9, 0.1, 0.499, 0.5, 0.707, 0.708, 0.99, 1.0, 1.414, 1.415, 1.999, 2.0, 12345.678] {
            let (ours, theirs) = (natural_logarithm(x), x.ln());
            assert!((ours - theirs).abs() <= 1e-14 * theirs.abs().max(1.0), "{x}: {ours} is not {theirs}");
        }
    }

    /// A change of these would move users of every program that is updated.
    #[test]
    fn who_goes_where_never_changes() {
        let choice = StableChoice::new([("a", 50), ("b", 30), ("c", 20)]);
        let chosen: Vec<_> = (0..24).filter_map(|n| choice.choose(user(n))).collect();
        assert_eq!(chosen, [0, 1, 2, 2, 1, 0, 2, 0, 2, 0, 0, 0, 2, 0, 1, 1, 0, 0, 0, 0, 0, 1, 2, 0]);
    }

    #[test]
    fn without_weight_there_is_no_choice() {
        assert_eq!(StableChoice::new([("a", 0)]).choose(1), None);
        assert_eq!(StableChoice::new([]).choose(1), None);
    }

    #[test]
    fn shares_are_in_proportion_to_weights_also_of_namesakes() {
        for weights in [[1u32, 1, 1], [98, 1, 1], [5, 3, 2], [1, 0, 3]] {
            let choice = StableChoice::new(["a", "a", "b"].into_iter().zip(weights));
            let mut counts = [0u32; 3];
            for n in 0..20_000 {
                counts[choice.choose(user(n)).unwrap()] += 1;
            }
            let sum: u32 = weights.iter().sum();
            for (weight, count) in weights.into_iter().zip(counts) {
                let expected = 20_000.0 * f64::from(weight) / f64::from(sum);
                // Five standard deviations.
                assert!((f64::from(count) - expected).abs() <= 5.0 * expected.sqrt(), "{weights:?}: {counts:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn who_has_the_growing_backend_keeps_it(
            mut weights in prop::collection::vec(0u32..100, 2..6),
            grown in any::<prop::sample::Index>(), growth in 0u32..100, shrink in prop::collection::vec(0u32..100, 6),
            users in prop::collection::vec(any::<u64>(), 1..200),
        ) {
            let names = ["a", "b", "c", "d", "e", "f"];
            let grown = grown.index(weights.len());
            let before = StableChoice::new(names.into_iter().zip(weights.iter().copied()));
            for (index, weight) in weights.iter_mut().enumerate() {
                *weight = if index == grown { *weight + growth } else { weight.saturating_sub(shrink[index]) };
            }
            let after = StableChoice::new(names.into_iter().zip(weights.iter().copied()));
            for user in users {
                if before.choose(user) == Some(grown) {
                    prop_assert_eq!(after.choose(user), Some(grown));
                }
            }
        }

        #[test]
        fn the_order_means_nothing(weights in prop::collection::vec(0u32..100, 1..6), by: usize, users: Vec<u64>) {
            let names = ["a", "b", "c", "d", "e", "f"];
            let mut all: Vec<_> = names.into_iter().zip(weights).collect();
            let one = StableChoice::new(all.iter().copied());
            let listed = all.clone();
            let by = by % all.len();
            all.rotate_left(by);
            let other = StableChoice::new(all.iter().copied());
            for user in users {
                let name = |choice: &StableChoice, list: &[(&'static str, u32)]| choice.choose(user).map(|index| list[index].0);
                prop_assert_eq!(name(&one, &listed), name(&other, &all));
            }
        }
    }
}
