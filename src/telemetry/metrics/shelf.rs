//! A map that hardly anybody has to lock.

use std::{
    borrow::Borrow,
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use arc_swap::ArcSwap;
use foldhash::fast::RandomState;

type Map<K, V> = HashMap<K, Arc<V>, RandomState>;

/// Values that are made once and shared from then on. Readers load a snapshot; only what is new is behind a lock, until it has
/// been asked for often enough to be worth another snapshot (as in Go's `sync.Map`). So copying costs a constant for each
/// value made, however many there are.
pub(super) struct Shelf<K, V> {
    snapshot: ArcSwap<Map<K, V>>,
    fresh: Mutex<Fresh<K, V>>,
}

/// What the snapshot does not have yet.
struct Fresh<K, V> {
    values: Map<K, V>,
    /// How often one of them was asked for or made.
    asked: usize,
}

impl<K, V> Default for Shelf<K, V> {
    fn default() -> Self {
        Self { snapshot: ArcSwap::default(), fresh: Mutex::new(Fresh { values: Map::default(), asked: 0 }) }
    }
}

impl<K: Hash + Eq + Clone, V> Shelf<K, V> {
    /// Hands the value of `key` to `read`, making it first if there is none.
    pub(super) fn with<Q, R>(
        &self,
        key: &Q,
        own: impl FnOnce() -> K,
        make: impl FnOnce() -> V,
        read: impl FnOnce(&V) -> R,
    ) -> R
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        if let Some(value) = self.snapshot.load().get(key) {
            return read(value);
        }
        read(&self.fresh(key, own, make))
    }

    #[cold]
    fn fresh<Q>(&self, key: &Q, own: impl FnOnce() -> K, make: impl FnOnce() -> V) -> Arc<V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let mut fresh = self.lock();
        let snapshot = self.snapshot.load();
        // It may have come into the snapshot meanwhile.
        if let Some(value) = snapshot.get(key) {
            return Arc::clone(value);
        }
        let value = match fresh.values.get(key) {
            Some(value) => Arc::clone(value),
            None => {
                let value = Arc::new(make());
                fresh.values.insert(own(), Arc::clone(&value));
                debug_assert!(fresh.values.contains_key(key), "`own` must make the key looked up");
                value
            }
        };
        fresh.asked += 1;
        if fresh.asked >= snapshot.len() {
            self.snapshot.store(Arc::new(self.whole(&mut fresh)));
        }
        value
    }

    /// The snapshot with what is fresh.
    fn whole(&self, fresh: &mut Fresh<K, V>) -> Map<K, V> {
        let mut map = Map::clone(&self.snapshot.load());
        map.extend(fresh.values.drain());
        fresh.asked = 0;
        map
    }

    pub(super) fn retain(&self, mut keep: impl FnMut(&K, &V) -> bool) {
        let mut fresh = self.lock();
        let mut map = self.whole(&mut fresh);
        map.retain(|key, value| keep(key, value));
        self.snapshot.store(Arc::new(map));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lock().values.is_empty() && self.snapshot.load().is_empty()
    }

    /// All there is, in the order of its keys.
    pub(super) fn sorted(&self) -> Vec<(K, Arc<V>)>
    where
        K: Ord,
    {
        let fresh = self.lock();
        let snapshot = self.snapshot.load();
        let all = snapshot.iter().chain(&fresh.values);
        let mut all: Vec<_> = all.map(|(key, value)| (key.clone(), Arc::clone(value))).collect();
        drop(fresh);
        all.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        all
    }

    fn lock(&self) -> MutexGuard<'_, Fresh<K, V>> {
        self.fresh.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Barrier,
        atomic::{AtomicUsize, Ordering::Relaxed},
    };

    use super::*;

    /// Makes 10,000 keys from four threads, each of which asks for all of them in an order of its own, and for what it just
    /// made once more.
    #[test]
    fn what_threads_make_at_once_is_made_once_and_nothing_is_lost() {
        const KEYS: usize = 10_000;
        let shelf = Shelf::<usize, AtomicUsize>::default();
        let (made, together) = (AtomicUsize::new(0), Barrier::new(4));
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (shelf, made, together) = (&shelf, &made, &together);
                scope.spawn(move || {
                    together.wait();
                    for index in 0..KEYS {
                        // 7 and 10,000 have no common divisor.
                        let key = if thread % 2 == 0 { index } else { index * 7 % KEYS };
                        for _ in 0..2 {
                            let make = || {
                                made.fetch_add(1, Relaxed);
                                AtomicUsize::new(0)
                            };
                            shelf.with(&key, || key, make, |count| count.fetch_add(1, Relaxed));
                        }
                    }
                });
            }
        });
        assert_eq!(made.into_inner(), KEYS);
        let all = shelf.sorted();
        assert!(all.iter().map(|(key, _)| *key).eq(0..KEYS));
        assert!(all.iter().all(|(_, count)| count.load(Relaxed) == 8));
    }

    /// Counts how often it is copied.
    struct Key(usize, Arc<AtomicUsize>);

    impl PartialEq for Key {
        fn eq(&self, other: &Self) -> bool {
            self.0 == other.0
        }
    }

    impl Eq for Key {}

    impl Hash for Key {
        fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
            self.0.hash(state);
        }
    }

    impl Borrow<usize> for Key {
        fn borrow(&self) -> &usize {
            &self.0
        }
    }

    impl Clone for Key {
        fn clone(&self) -> Self {
            self.1.fetch_add(1, Relaxed);
            Self(self.0, Arc::clone(&self.1))
        }
    }

    #[test]
    fn making_many_copies_each_a_few_times() {
        let (shelf, copies) = (Shelf::<Key, ()>::default(), Arc::default());
        for key in 0..10_000 {
            shelf.with(&key, || Key(key, Arc::clone(&copies)), || (), |()| ());
        }
        assert!(copies.load(Relaxed) <= 20_000, "{copies:?} copies of 10,000 keys");
    }

    #[test]
    fn what_is_asked_for_often_is_soon_asked_for_without_a_lock() {
        let shelf = Shelf::<usize, ()>::default();
        for key in 0..1_000 {
            shelf.with(&key, || key, || (), |()| ());
        }
        for _ in 0..1_000 {
            shelf.with(&999, || 999, || (), |()| ());
        }
        assert!(shelf.snapshot.load().contains_key(&999));
        assert!(shelf.lock().values.is_empty());
    }

    #[test]
    fn what_is_fresh_is_dropped_and_kept_like_the_rest() {
        let shelf = Shelf::<usize, ()>::default();
        for key in 0..100 {
            shelf.with(&key, || key, || (), |()| ());
        }
        assert!(!shelf.lock().values.is_empty(), "some are fresh, or this tests nothing");
        assert!(shelf.sorted().iter().map(|(key, _)| *key).eq(0..100));
        shelf.retain(|key, ()| key % 2 == 1);
        assert!(shelf.sorted().iter().map(|(key, _)| *key).eq((1..100).step_by(2)));
        shelf.retain(|_, ()| false);
        assert!(shelf.is_empty());
    }
}
