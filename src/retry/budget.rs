//! How many requests may be sent once more: a share of all requests, counted over a window that slides.

use std::{
    fmt,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use http::Extensions;
use tokio::time::Instant;

use crate::config;

/// Into how many slots a window is divided.
const SLOTS: u64 = 10;

/// A slot may be written while another is the oldest of the window.
const RING: u64 = SLOTS + 1;

/// How much of a slot is a number of requests: 268 million. The laps above it last for 23 years of the smallest window.
const COUNT_BITS: u32 = 28;
const COUNT: u64 = (1 << COUNT_BITS) - 1;

/// How many retries and hedges there may be. Clones share it, and whoever holds one draws on the same allowance.
///
/// 1. At the moment one is granted, those granted in the window that ends then, itself included, are at most `percent` of
///    the requests counted in the same window, plus the reserve: `per_second` for each second of the window.
/// 2. The window slides by tenths. Where a tenth lies half inside, its grants count and its requests do not, so that the
///    budget is at most a tenth of a window too strict and never too generous.
/// 3. Nothing accumulates: a quiet hour earns no more than the reserve of one window.
/// 4. A grant is not given back, also if the request is then given up.
///
/// Default: 20 % of requests plus 10 a second, over 10 s, as finagle and Linkerd have it and Gateway API proposes
/// (GEP-3388). Counting a request is one atomic exchange; only grants take a lock.
///
/// # Example
/// ```
/// use portcullis::retry::Budget;
/// use tokio::time::{Duration, Instant};
///
/// let budget = Budget::new(20, 0, Duration::from_secs(10));
/// let now = Instant::now();
/// assert!(!budget.withdraw(now));
/// (0..5).for_each(|_| budget.deposit(now));
/// assert!(budget.withdraw(now));
/// assert!(!budget.withdraw(now));
/// ```
#[derive(Clone)]
pub struct Budget(Arc<Inner>);

struct Inner {
    percent: u64,
    reserve: u64,
    slot: Duration,
    began: OnceLock<Instant>,
    /// How often the ring was full before the slot's tenth, above the requests in it.
    requests: [AtomicU64; RING as usize],
    /// The tenth's number, and the grants in it.
    grants: Mutex<[(u64, u64); RING as usize]>,
}

/// In a request's extensions: it has been counted by this budget.
#[derive(Clone)]
struct Counted(Budget);

impl Budget {
    /// `percent` of the requests of a `window`, plus `per_second` for each second of it. The window is at least 10 ms.
    #[must_use]
    pub fn new(percent: u32, per_second: u32, window: Duration) -> Self {
        let window = window.max(Duration::from_millis(10));
        let reserve = u128::from(per_second) * window.as_millis() / 1000;
        Self(Arc::new(Inner {
            percent: percent.into(),
            reserve: u64::try_from(reserve).unwrap_or(u64::MAX),
            slot: window / SLOTS as u32,
            began: OnceLock::new(),
            requests: Default::default(),
            grants: Mutex::default(),
        }))
    }

    /// What a configuration allows.
    #[must_use]
    pub fn of(config: &config::RetryBudget) -> Self {
        Self::new(config.percent, config.per_second, config.window)
    }

    /// A request goes out for the first time.
    pub fn deposit(&self, now: Instant) {
        let number = self.number(now);
        let Some(slot) = self.0.requests.get((number % RING) as usize) else { return };
        let lap = number / RING;
        let mut seen = slot.load(Relaxed);
        loop {
            let (held, count) = (seen >> COUNT_BITS, seen & COUNT);
            let next = match held.cmp(&lap) {
                std::cmp::Ordering::Less => lap << COUNT_BITS | 1,
                std::cmp::Ordering::Equal if count < COUNT => seen + 1,
                // Read late: the tenth is over, and its slot belongs to another. Or it holds no more.
                _ => return,
            };
            match slot.compare_exchange_weak(seen, next, Relaxed, Relaxed) {
                Ok(_) => return,
                Err(now) => seen = now,
            }
        }
    }

    /// Whether one more request may be sent a second time, which is then counted.
    #[must_use]
    pub fn withdraw(&self, now: Instant) -> bool {
        let number = self.number(now);
        let mut grants = self.0.grants.lock().unwrap_or_else(PoisonError::into_inner);
        // A clock that was read before another thread's is taken for that one's.
        let number = grants.iter().fold(number, |latest, (number, _)| latest.max(*number));
        let granted: u64 =
            grants.iter().filter(|slot| slot.0 + SLOTS >= number).fold(0, |sum, (_, count)| sum.saturating_add(*count));
        if granted >= self.allowance(number) {
            return false;
        }
        if let Some(slot) = grants.get_mut((number % RING) as usize) {
            if slot.0 != number {
                *slot = (number, 0);
            }
            slot.1 += 1;
        }
        true
    }

    /// [`deposit`](Self::deposit), unless a layer outside has counted this very request: layers that share a budget may
    /// be stacked.
    pub(crate) fn count(&self, extensions: &mut Extensions, now: Instant) {
        if !self.has_counted(extensions) {
            self.deposit(now);
            extensions.insert(Counted(self.clone()));
        }
    }

    /// Whether it has counted this request.
    pub(crate) fn has_counted(&self, extensions: &Extensions) -> bool {
        extensions.get::<Counted>().is_some_and(|Counted(by)| Arc::ptr_eq(&by.0, &self.0))
    }

    fn allowance(&self, number: u64) -> u64 {
        let slots = (0..).zip(&self.0.requests).map(|(index, slot)| (index, slot.load(Relaxed)));
        let inside = slots.filter(|(index, slot)| {
            let held = (slot >> COUNT_BITS) * RING + index;
            held <= number && held + SLOTS > number
        });
        let requests: u64 = inside.map(|(_, slot)| slot & COUNT).sum();
        (requests.saturating_mul(self.0.percent) / 100).saturating_add(self.0.reserve)
    }

    /// The number of the tenth that `now` lies in.
    fn number(&self, now: Instant) -> u64 {
        let began = *self.0.began.get_or_init(|| now);
        let passed = now.saturating_duration_since(began).as_nanos() / self.0.slot.as_nanos().max(1);
        // The last lap is left free for sums.
        u64::try_from(passed).unwrap_or(u64::MAX).min(((u64::MAX >> COUNT_BITS) - 1) * RING)
    }
}

impl Default for Budget {
    fn default() -> Self {
        Self::new(20, 10, Duration::from_secs(10))
    }
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Budget")
            .field("percent", &self.0.percent)
            .field("reserve", &self.0.reserve)
            .field("window", &(self.0.slot * SLOTS as u32))
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WINDOW: Duration = Duration::from_secs(10);

    fn granted(budget: &Budget, now: Instant) -> usize {
        (0..10_000).take_while(|_| budget.withdraw(now)).count()
    }

    #[test]
    fn the_share_is_exact() {
        for (percent, allowed) in [(60, 6), (20, 2), (100, 10), (0, 0), (150, 15), (19, 1)] {
            let (budget, now) = (Budget::new(percent, 0, WINDOW), Instant::now());
            (0..10).for_each(|_| budget.deposit(now));
            assert_eq!(granted(&budget, now), allowed, "{percent} % of 10");
        }
    }

    #[test]
    fn the_default_reserve_is_that_of_one_window_however_long_it_was_quiet() {
        let (budget, began) = (Budget::default(), Instant::now());
        assert_eq!(granted(&budget, began), 100);
        let month = Duration::from_secs(30 * 86_400);
        assert_eq!(granted(&budget, began + month), 100);
        assert_eq!(granted(&budget, began + month + WINDOW * 2), 100);
    }

    #[test]
    fn the_smallest_window_still_slides_after_years() {
        let (budget, began) = (Budget::new(20, 0, Duration::ZERO), Instant::now());
        budget.deposit(began);
        // Around the places where 32 bits of milliseconds would end, with and without the sign.
        for days in [24.855, 49.710, 49.711, 99.42, 546.8, 3_650.0, 8_000.0] {
            let start = began + Duration::from_secs_f64(days * 86_400.0);
            (0..50).for_each(|_| budget.deposit(start));
            let later = start + Duration::from_millis(20);
            assert_eq!(granted(&budget, later), 0, "the window has not slid after {days} days");
            (0..50).for_each(|_| budget.deposit(later));
            assert_eq!(granted(&budget, later), 10, "after {days} days");
        }
    }

    #[test]
    fn requests_count_for_a_window_and_grants_for_no_less() {
        let (budget, began) = (Budget::new(20, 0, WINDOW), Instant::now());
        (0..50).for_each(|_| budget.deposit(began));
        let just_inside = began + Duration::from_millis(9_999);
        assert_eq!(granted(&budget, just_inside), 10);
        (0..50).for_each(|_| budget.deposit(just_inside));
        assert_eq!(granted(&budget, just_inside + Duration::from_millis(9_000)), 0, "the ten are still in the window");
        (0..50).for_each(|_| budget.deposit(just_inside + WINDOW));
        assert_eq!(granted(&budget, just_inside + WINDOW + Duration::from_millis(1_001)), 10);
    }

    #[test]
    fn clones_share_it_and_layers_in_a_stack_count_a_request_once() {
        let (budget, now) = (Budget::new(100, 0, WINDOW), Instant::now());
        let (inner, other) = (budget.clone(), Budget::new(100, 0, WINDOW));
        let mut extensions = Extensions::new();
        budget.count(&mut extensions, now);
        inner.count(&mut extensions, now);
        other.count(&mut extensions, now);
        assert_eq!((granted(&inner, now), granted(&budget, now), granted(&other, now)), (1, 0, 1));
    }

    #[test]
    fn threads_never_get_more_than_there_is() {
        let (budget, now) = (Budget::new(20, 0, WINDOW), Instant::now());
        let got: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        let one = |_| {
                            budget.deposit(now);
                            usize::from(budget.withdraw(now))
                        };
                        (0..1000).map(one).sum::<usize>()
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert!(got <= 800, "{got}");
        assert_eq!(got + granted(&budget, now), 800, "nothing is lost either");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Against every single event, kept in full.
        #[test]
        fn no_window_that_ends_in_a_grant_holds_more_than_its_allowance(
            percent in 0u32..150,
            per_second in 0u32..3,
            events in prop::collection::vec((0u64..3000, any::<bool>(), 1u32..8), 1..200),
        ) {
            let budget = Budget::new(percent, per_second, WINDOW);
            let mut now = Instant::now();
            let (mut requests, mut grants) = (Vec::new(), Vec::new());
            for (pause, deposit, count) in events {
                now += Duration::from_millis(pause);
                for _ in 0..count {
                    if deposit {
                        budget.deposit(now);
                        requests.push(now);
                    } else if budget.withdraw(now) {
                        grants.push(now);
                        let inside = |at: &&Instant| now.duration_since(**at) < WINDOW;
                        let requests = requests.iter().filter(inside).count() as u64;
                        let granted = grants.iter().filter(inside).count() as u64;
                        let allowed = requests * u64::from(percent) / 100 + u64::from(per_second) * 10;
                        prop_assert!(granted <= allowed, "{granted} of {allowed}");
                    }
                }
            }
        }

        /// As strict as it is allowed to be, and no stricter.
        #[test]
        fn what_was_asked_for_in_one_tenth_is_granted_in_full(percent in 0u32..150, requests in 0u32..500) {
            let (budget, now) = (Budget::new(percent, 1, WINDOW), Instant::now());
            (0..requests).for_each(|_| budget.deposit(now));
            prop_assert_eq!(granted(&budget, now), (requests * percent / 100 + 10) as usize);
        }
    }
}
