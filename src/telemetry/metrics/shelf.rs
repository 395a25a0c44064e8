//! A map that only its writers lock.

use std::{
    borrow::Borrow,
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::ArcSwap;
use foldhash::fast::RandomState;

type Map<K, V> = HashMap<K, Arc<V>, RandomState>;

/// Values that are made once and shared from then on. Readers load a snapshot; making a value copies the map.
pub(super) struct Shelf<K, V> {
    snapshot: ArcSwap<Map<K, V>>,
    writing: Mutex<()>,
}

impl<K, V> Default for Shelf<K, V> {
    fn default() -> Self {
        Self { snapshot: ArcSwap::default(), writing: Mutex::default() }
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
        read(&self.insert(key, own, make))
    }

    #[cold]
    fn insert<Q>(&self, key: &Q, own: impl FnOnce() -> K, make: impl FnOnce() -> V) -> Arc<V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut map = Map::clone(&self.snapshot.load());
        let value = Arc::clone(map.entry(own()).or_insert_with(|| Arc::new(make())));
        debug_assert!(map.contains_key(key), "`own` must make the key looked up");
        self.snapshot.store(Arc::new(map));
        value
    }

    pub(super) fn retain(&self, mut keep: impl FnMut(&K, &V) -> bool) {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut map = Map::clone(&self.snapshot.load());
        map.retain(|key, value| keep(key, value));
        self.snapshot.store(Arc::new(map));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.snapshot.load().is_empty()
    }

    /// All there is, in the order of its keys.
    pub(super) fn sorted(&self) -> Vec<(K, Arc<V>)>
    where
        K: Ord,
    {
        let mut all: Vec<_> =
            self.snapshot.load().iter().map(|(key, value)| (key.clone(), Arc::clone(value))).collect();
        all.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        all
    }
}
