use std::{
    collections::{HashMap, hash_map::Entry},
    fmt,
    hash::{BuildHasherDefault, Hash, Hasher},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use tokio::time::{Duration, Instant};

use super::{Key, Quota};

/// How many cells are looked at for one to replace.
const SAMPLE: usize = 8;

/// One quota for each of a bounded number of keys, and one for what has no key.
///
/// 1. A key's state is a cell. A cell that has earned all back is equal to none, and its place is taken first.
/// 2. When all places are taken by cells in use, [`WhenFull`] decides.
/// 3. Decisions on one key are in one order, whichever threads they come from; the quota holds exactly, whatever the
///    order of `now` among them.
///
/// # Example
/// ```
/// use portcullis::limit::rate::{Key, Limiter, Quota};
/// use tokio::time::Instant;
///
/// let limiter = Limiter::new(Quota::per_minute(2)?);
/// let now = Instant::now();
/// assert!(limiter.check(Some(Key::of("a")), now).is_allowed());
/// assert_eq!(limiter.check(Some(Key::of("a")), now).remaining(), 0);
/// let refused = limiter.check(Some(Key::of("a")), now);
/// assert_eq!(refused.retry_after().unwrap().as_secs(), 30);
/// assert!(limiter.check(Some(Key::of("b")), now).is_allowed());
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
pub struct Limiter {
    quota: Quota,
    began: Instant,
    keyless: AtomicU64,
    evicted: AtomicU64,
    when_full: WhenFull,
    cells_per_shard: usize,
    shards: Box<[Mutex<Shard>]>,
}

/// What becomes of a key that is new when all places are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum WhenFull {
    /// It takes the place of the key, of a sample of eight, that has used the least. That one may then use its burst anew,
    /// but a key at its limit keeps its place against a flood of new ones. The default: others' keys harm nobody.
    #[default]
    Evict,
    /// All new keys share one quota until there is a place. No key ever exceeds its quota, but whoever can make up keys
    /// can use up the budget of those who are new.
    Share,
}

/// What a [`Limiter`] decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    wait: u64,
    remaining: u32,
    reset: u64,
}

#[derive(Default)]
struct Shard {
    places: HashMap<Key, u32, BuildHasherDefault<Hashed>>,
    cells: Vec<(Key, u64)>,
    hand: usize,
    shared: u64,
}

// === impl Limiter ===

impl Limiter {
    /// This quota for each of up to 100,000 keys, which take about 6 MB.
    #[must_use]
    pub fn new(quota: Quota) -> Self {
        Self::with_keys(quota, 100_000, WhenFull::default())
    }

    /// This quota for each of up to `max_keys` keys, at about 60 bytes each. Zero is taken for one.
    ///
    /// Keys are spread over up to 64 shards that fill up one by one, so that the last few percent may not be used.
    #[must_use]
    pub fn with_keys(quota: Quota, max_keys: usize, when_full: WhenFull) -> Self {
        let shards = (max_keys / 1024).clamp(1, 64);
        Self {
            quota,
            began: Instant::now(),
            keyless: AtomicU64::new(0),
            evicted: AtomicU64::new(0),
            when_full,
            cells_per_shard: (max_keys / shards).clamp(1, u32::MAX as usize),
            shards: std::iter::repeat_with(Mutex::default).take(shards).collect(),
        }
    }

    /// One request of this key, at `now`.
    pub fn check(&self, key: Option<Key>, now: Instant) -> Decision {
        let now = u64::try_from(now.saturating_duration_since(self.began).as_nanos()).unwrap_or(u64::MAX);
        match key {
            Some(key) => self.check_cell(key, now),
            None => self.check_keyless(now),
        }
    }

    /// The quota of each key.
    #[must_use]
    pub fn quota(&self) -> Quota {
        self.quota
    }

    /// How many keys are kept, those that have earned all back included.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).cells.len()).sum()
    }

    /// How many keys in use lost their place. More than a few say that `max_keys` is too low, or that someone makes keys
    /// up.
    #[must_use]
    pub fn evicted(&self) -> u64 {
        self.evicted.load(Relaxed)
    }

    fn check_keyless(&self, now: u64) -> Decision {
        // Relaxed: the number is all there is; nothing else is published with it.
        let mut state = self.keyless.load(Relaxed);
        loop {
            match self.quota.check(state, now) {
                Err(wait) => return self.decision(Err(wait), state, now),
                Ok(next) => match self.keyless.compare_exchange_weak(state, next, Relaxed, Relaxed) {
                    Ok(_) => return self.decision(Ok(next), state, now),
                    Err(other) => state = other,
                },
            }
        }
    }

    fn check_cell(&self, key: Key, now: u64) -> Decision {
        // A product with the number of shards, instead of a remainder.
        let index = (u128::from(key.high) * self.shards.len() as u128) >> 64;
        let Some(shard) = self.shards.get(index as usize) else { return self.check_keyless(now) };
        let mut shard = lock(shard);
        let state = self.cell(&mut shard, key, now);
        let before = *state;
        let checked = self.quota.check(before, now);
        if let Ok(next) = checked {
            *state = next;
        }
        drop(shard);
        self.decision(checked, before, now)
    }

    /// The state of `key`, in the place that it has or gets.
    fn cell<'s>(&self, shard: &'s mut Shard, key: Key, now: u64) -> &'s mut u64 {
        let Shard { places, cells, hand, shared } = shard;
        let vacant = match places.entry(key) {
            Entry::Occupied(place) => match cells.get_mut(*place.get() as usize) {
                Some((_, state)) => return state,
                None => return shared,
            },
            Entry::Vacant(vacant) => vacant,
        };
        // Whoever was among those that shared a quota may have used all of it.
        let fresh = (key, *shared);
        let place = if cells.len() < self.cells_per_shard {
            vacant.insert(cells.len() as u32);
            cells.push(fresh);
            cells.len() - 1
        } else {
            let seen = (0..SAMPLE.min(cells.len())).map(|step| (*hand + step) % cells.len());
            let least = seen.filter_map(|place| Some((place, *cells.get(place)?))).min_by_key(|(_, cell)| cell.1);
            *hand = (*hand + SAMPLE) % cells.len().max(1);
            let Some((place, (old, state))) = least else { return shared };
            if state > now {
                if self.when_full == WhenFull::Share {
                    return shared;
                }
                self.evicted.fetch_add(1, Relaxed);
            }
            vacant.insert(place as u32);
            places.remove(&old);
            if let Some(cell) = cells.get_mut(place) {
                *cell = fresh;
            }
            place
        };
        cells.get_mut(place).map_or(shared, |(_, state)| state)
    }

    fn decision(&self, checked: Result<u64, u64>, before: u64, now: u64) -> Decision {
        let (wait, state) = match checked {
            Ok(state) => (0, state),
            Err(wait) => (wait, before),
        };
        Decision { wait, remaining: self.quota.remaining(state, now), reset: state.saturating_sub(now) }
    }
}

impl fmt::Debug for Limiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limiter")
            .field("quota", &self.quota)
            .field("keys", &self.keys())
            .field("evicted", &self.evicted())
            .finish_non_exhaustive()
    }
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    // Only an allocation may panic, and aborts.
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Decision ===

impl Decision {
    /// Whether the request may pass.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        self.wait == 0
    }

    /// After what time the next request would pass, if this one may not.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        (self.wait > 0).then(|| Duration::from_nanos(self.wait))
    }

    /// How many more may come at once.
    #[must_use]
    pub fn remaining(&self) -> u32 {
        self.remaining
    }

    /// After what time a whole burst is allowed again.
    #[must_use]
    pub fn reset(&self) -> Duration {
        Duration::from_nanos(self.reset)
    }
}

// === Hashing ===

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.low);
    }
}

/// Keys are hashes already.
#[derive(Default)]
struct Hashed(u64);

impl Hasher for Hashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}
