//! Turns in the proportion of weights: smooth sequences, and draws by chance.

use std::{
    cmp::{Ordering, Reverse},
    collections::BinaryHeap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

/// The longest sequence that is written out.
const LONGEST_SEQUENCE: u64 = 65_536;

/// 2^64 divided by the golden ratio: its multiples fall evenly into any interval, over any run.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// A choice among weighted alternatives, such as a rule's backends, whose shares are exact over short runs.
///
/// 1. A weight of zero is never chosen; without any weight above zero nothing is.
/// 2. The weights' sum, after division by their greatest common divisor, is the length of a round: each alternative has
///    exactly its weight's number of turns in it, spread as evenly as they go (90 : 10 is nine turns and one).
/// 3. Where a round would be longer than 65,536 turns, shares are kept by a low-discrepancy sequence instead: after
///    any number of turns they are off by a few turns at the most.
///
/// Lock-free; clones share the position.
///
/// # Example
/// ```
/// use portcullis::balance::WeightedChoice;
///
/// let choice = WeightedChoice::new([75, 25, 0]);
/// let turns: Vec<_> = (0..8).filter_map(|_| choice.choose()).collect();
/// assert_eq!(turns, [0, 0, 1, 0, 0, 0, 1, 0]);
/// ```
#[derive(Debug, Clone)]
pub struct WeightedChoice(Arc<Turns>);

impl WeightedChoice {
    /// A choice among as many alternatives as there are weights.
    #[must_use]
    pub fn new(weights: impl IntoIterator<Item = u32>) -> Self {
        let weights: Vec<u32> = weights.into_iter().collect();
        Self(Arc::new(Turns::new(&weights)))
    }

    /// The index of the alternative whose turn it is; `None` when no weight is above zero.
    #[must_use]
    pub fn choose(&self) -> Option<usize> {
        self.0.next()
    }
}

/// Whose turn it is, in the proportion of weights.
#[derive(Debug)]
pub(super) struct Turns {
    order: Order,
    taken: AtomicU64,
}

#[derive(Debug)]
enum Order {
    /// One round, written out.
    Written(Box<[u32]>),
    /// The sums of the weights up to each index.
    Sums(Box<[u64]>),
}

impl Turns {
    pub(super) fn new(weights: &[u32]) -> Self {
        let divisor = weights.iter().copied().fold(0, greatest_common_divisor).max(1);
        let length: u64 = weights.iter().map(|weight| u64::from(weight / divisor)).sum();
        let order = if length <= LONGEST_SEQUENCE {
            Order::Written(smooth(weights).take(length as usize).collect())
        } else {
            let sums = weights.iter().scan(0, |sum, weight| {
                *sum += u64::from(*weight);
                Some(*sum)
            });
            Order::Sums(sums.collect())
        };
        Self { order, taken: AtomicU64::new(0) }
    }

    /// The same place in the round, as far as there is one.
    pub(super) fn continuing(self, other: &Self) -> Self {
        Self { taken: AtomicU64::new(other.taken.load(Relaxed)), ..self }
    }

    pub(super) fn next(&self) -> Option<usize> {
        let turn = self.taken.fetch_add(1, Relaxed);
        match &self.order {
            Order::Written(round) => {
                let index = turn.checked_rem(round.len() as u64)?;
                round.get(index as usize).map(|&index| index as usize)
            }
            Order::Sums(sums) => {
                let total = u128::from(*sums.last()?);
                let point = ((u128::from(turn.wrapping_mul(GOLDEN)) * total) >> 64) as u64;
                Some(sums.partition_point(|&sum| sum <= point))
            }
        }
    }
}

/// Indices without end, each as often as its weight says, as evenly spread as they go: the `k`th turn of a weight `w`
/// is due at `(k + 1/2) / w`. Ends at once when no weight is above zero.
pub(super) fn smooth(weights: &[u32]) -> impl Iterator<Item = u32> + use<> {
    let mut due: BinaryHeap<Reverse<Turn>> = BinaryHeap::new();
    let mut equal = Vec::new();
    let indexed = weights.iter().zip(0u32..).filter(|(weight, _)| **weight > 0);
    let mut distinct = indexed.clone().map(|(weight, _)| *weight);
    let first = distinct.next();
    if distinct.all(|weight| Some(weight) == first) {
        equal = indexed.map(|(_, index)| index).collect();
    } else {
        due = indexed.map(|(&weight, index)| Reverse(Turn { count: 0, weight, index })).collect();
    }
    let mut turn = 0;
    std::iter::from_fn(move || {
        if let Some(mut next) = due.peek_mut() {
            let index = next.0.index;
            next.0.count += 1;
            return Some(index);
        }
        let index = equal.get(turn).copied();
        turn = if turn + 1 < equal.len() { turn + 1 } else { 0 };
        index
    })
}

/// A weight's next turn.
#[derive(Debug, PartialEq, Eq)]
struct Turn {
    count: u32,
    weight: u32,
    index: u32,
}

impl Ord for Turn {
    fn cmp(&self, other: &Self) -> Ordering {
        // (2a + 1) / v <=> (2b + 1) / w, without division. No overflow: nobody takes more than 2^17 turns.
        let this = (2 * u64::from(self.count) + 1) * u64::from(other.weight);
        let that = (2 * u64::from(other.count) + 1) * u64::from(self.weight);
        this.cmp(&that).then_with(|| self.index.cmp(&other.index))
    }
}

impl PartialOrd for Turn {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// A table to draw from in the proportion of weights in constant time (Walker's alias method, after Vose).
#[derive(Debug)]
pub(super) struct Alias(Box<[Cell]>);

/// One equal share of the whole, divided between two indices.
#[derive(Debug, Clone, Copy)]
struct Cell {
    /// The part that is the first one's, of 2^32.
    part: u32,
    first: u32,
    second: u32,
}

impl Alias {
    pub(super) fn new(weights: &[u32]) -> Self {
        let sum: u64 = weights.iter().copied().map(u64::from).sum();
        let count = weights.iter().filter(|weight| **weight > 0).count();
        let mut cells = Vec::with_capacity(count);
        let (mut small, mut large) = (Vec::new(), Vec::new());
        for (index, weight) in (0u32..).zip(weights).filter(|(_, weight)| **weight > 0) {
            // A share of one cell's size is 1.
            let share = f64::from(*weight) * count as f64 / sum as f64;
            if share < 1.0 { small.push((index, share)) } else { large.push((index, share)) }
        }
        while let (Some(&(index, share)), Some(&(lender, rest))) = (small.last(), large.last()) {
            small.pop();
            large.pop();
            cells.push(Cell { part: (share * 4_294_967_296.0) as u32, first: index, second: lender });
            let rest = rest - (1.0 - share);
            if rest < 1.0 { small.push((lender, rest)) } else { large.push((lender, rest)) }
        }
        // What is left fills a cell of its own, up to rounding.
        cells.extend(small.into_iter().chain(large).map(|(index, _)| Cell {
            part: u32::MAX,
            first: index,
            second: index,
        }));
        Self(cells.into_boxed_slice())
    }

    pub(super) fn draw(&self, rng: &mut fastrand::Rng) -> Option<usize> {
        let random = rng.u64(..);
        let cell = ((random >> 32) * self.0.len() as u64) >> 32;
        let cell = self.0.get(cell as usize)?;
        Some(if random as u32 <= cell.part { cell.first } else { cell.second } as usize)
    }
}

fn greatest_common_divisor(a: u32, b: u32) -> u32 {
    let (mut a, mut b) = (a, b);
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn counts(turns: impl IntoIterator<Item = usize>, of: usize) -> Vec<u64> {
        let mut counts = vec![0; of];
        for index in turns {
            counts[index] += 1;
        }
        counts
    }

    #[test]
    fn without_weight_there_is_no_choice() {
        assert_eq!(WeightedChoice::new([]).choose(), None);
        assert_eq!(WeightedChoice::new([0, 0]).choose(), None);
    }

    #[test]
    fn clones_share_the_position() {
        let choice = WeightedChoice::new([1, 1]);
        let clone = choice.clone();
        let turns: Vec<_> = (0..3).flat_map(|_| [choice.choose(), clone.choose()]).flatten().collect();
        assert_eq!(turns, [0, 1, 0, 1, 0, 1]);
    }

    #[test]
    fn threads_together_keep_the_shares() {
        let choice = WeightedChoice::new([3, 1]);
        let turns: Vec<usize> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| (0..1_000).filter_map(|_| choice.choose()).collect::<Vec<_>>()))
                .collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(counts(turns, 2), [3_000, 1_000]);
    }

    #[test]
    fn a_heavy_weight_does_not_take_its_turns_in_a_block() {
        let round: Vec<_> = smooth(&[5, 1, 1]).take(7).collect();
        assert_eq!(counts(round.iter().map(|&i| i as usize), 3), [5, 1, 1]);
        assert!(!round.windows(4).any(|four| four == [0; 4]), "{round:?}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_window_has_the_right_shares(
            weights in prop::collection::vec(0u32..50, 1..8), start in 0usize..300, length in 1usize..300,
        ) {
            let choice = WeightedChoice::new(weights.clone());
            let sum: u32 = weights.iter().sum();
            let turns: Vec<_> = (0..start + length).filter_map(|_| choice.choose()).collect();
            prop_assert_eq!(turns.is_empty(), sum == 0);
            let seen = counts(turns.into_iter().skip(start), weights.len());
            for (weight, seen) in weights.iter().zip(seen).filter(|_| sum > 0) {
                let expected = length as f64 * f64::from(*weight) / f64::from(sum);
                prop_assert!((seen as f64 - expected).abs() <= 3.0, "{weight} of {sum}: {seen} of {length}");
                prop_assert!(*weight > 0 || seen == 0);
            }
        }

        #[test]
        fn whole_rounds_are_exact(weights in prop::collection::vec(0u32..20, 1..8), rounds in 1u64..4) {
            let choice = WeightedChoice::new(weights.clone());
            let sum: u64 = weights.iter().copied().map(u64::from).sum();
            let seen = counts((0..sum * rounds).filter_map(|_| choice.choose()), weights.len());
            let expected: Vec<_> = weights.iter().map(|weight| u64::from(*weight) * rounds).collect();
            prop_assert_eq!(seen, expected);
        }

        #[test]
        fn large_weights_keep_their_shares_too(weights in prop::collection::vec(prop_oneof![Just(0), 100_000u32..], 2..6)) {
            let choice = WeightedChoice::new(weights.clone());
            let sum: u64 = weights.iter().copied().map(u64::from).sum();
            prop_assume!(sum > 0);
            let mut seen = vec![0u64; weights.len()];
            for turn in 1..=3_000 {
                seen[choice.choose().unwrap()] += 1;
                for (weight, seen) in weights.iter().zip(&seen) {
                    let expected = turn as f64 * f64::from(*weight) / sum as f64;
                    prop_assert!((*seen as f64 - expected).abs() <= 6.0, "{weight} of {sum}: {seen} of {turn}");
                }
            }
        }

        #[test]
        fn draws_follow_the_weights(weights in prop::collection::vec(0u32..10, 1..8), seed: u64) {
            let sum: u32 = weights.iter().sum();
            let mut rng = fastrand::Rng::with_seed(seed);
            let alias = Alias::new(&weights);
            prop_assert_eq!(alias.draw(&mut rng).is_some(), sum > 0);
            let draws = 20_000;
            let seen = counts((0..draws).filter_map(|_| alias.draw(&mut rng)), weights.len());
            for (weight, seen) in weights.iter().zip(seen).filter(|_| sum > 0) {
                let expected = f64::from(draws) * f64::from(*weight) / f64::from(sum);
                prop_assert!((seen as f64 - expected).abs() <= 500.0, "{weight} of {sum}: {seen}");
                prop_assert!(*weight > 0 || seen == 0);
            }
        }
    }
}
