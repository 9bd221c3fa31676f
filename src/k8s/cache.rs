//! The objects of one kind as a map, cut down to what is read.
//!
//! Two tell it of objects: the watch, and whoever has just written one. What was written may be told of late, when the
//! watch has already told that it is gone again. So of what was written only that is kept which the watch is still to
//! tell of; otherwise an object that no longer exists would stay here for good.

use crate::k8s::follow::Change;
use crate::units::RevisionKey;
use kube::Resource;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokio::sync::watch;

/// A value with the `resourceVersion` of its object, which counts up over all objects of a kind.
pub trait Versioned {
    /// The version; `None` when it is not known.
    fn version(&self) -> Option<u64>;
}

impl<K: Resource> Versioned for K {
    fn version(&self) -> Option<u64> {
        self.meta().resource_version.as_deref()?.parse().ok()
    }
}

/// The objects of one kind by `namespace/name`. Cheap to clone; all clones are one cache.
#[derive(Debug)]
pub struct Cache<V> {
    state: Arc<RwLock<State<V>>>,
    synced: Arc<watch::Sender<bool>>,
}

#[derive(Debug)]
struct State<V> {
    objects: HashMap<RevisionKey, Arc<V>>,
    /// The latest version the watch has told of; 0 is none yet.
    told: u64,
    /// Of these a version was written that the watch has not told of yet.
    ahead: HashSet<RevisionKey>,
    /// Of these the watch has not told at all yet.
    made: HashSet<RevisionKey>,
}

impl<V> Clone for Cache<V> {
    fn clone(&self) -> Self {
        Self { state: Arc::clone(&self.state), synced: Arc::clone(&self.synced) }
    }
}

impl<V> Default for Cache<V> {
    fn default() -> Self {
        let state = State { objects: HashMap::new(), told: 0, ahead: HashSet::new(), made: HashSet::new() };
        Self { state: Arc::new(RwLock::new(state)), synced: Arc::new(watch::Sender::new(false)) }
    }
}

impl<V> Cache<V> {
    /// The object of this name, as last seen.
    pub fn get(&self, key: &RevisionKey) -> Option<Arc<V>> {
        self.read().objects.get(key).cloned()
    }

    /// Every key, in no order.
    pub fn keys(&self) -> Vec<RevisionKey> {
        self.read().objects.keys().cloned().collect()
    }

    /// The objects `keep` chooses, by key.
    pub fn select(&self, keep: impl Fn(&RevisionKey, &V) -> bool) -> Vec<Arc<V>> {
        let state = self.read();
        let mut chosen: Vec<_> = state.objects.iter().filter(|(key, value)| keep(key, value)).collect();
        chosen.sort_by_key(|(key, _)| *key);
        chosen.into_iter().map(|(_, value)| Arc::clone(value)).collect()
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.read().objects.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Waits until everything that existed at the start is here.
    pub async fn synced(&self) {
        // The sender lives in `self`, so the wait cannot fail.
        let _ = self.synced.subscribe().wait_for(|synced| *synced).await;
    }

    fn read(&self) -> RwLockReadGuard<'_, State<V>> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State<V>> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<V: Versioned> Cache<V> {
    /// Takes in a change and returns the key it touched with what was there before.
    pub fn take_in(&self, change: Change<V>) -> Option<(RevisionKey, Option<Arc<V>>)> {
        let mut state = self.write();
        match change {
            Change::Put(key, value) => {
                state.told = state.told.max(value.version().unwrap_or(0));
                state.made.remove(&key);
                let before = state.objects.get(&key).cloned();
                // What was written here may be ahead of what the watch tells of just now.
                if state.ahead.contains(&key)
                    && before.as_ref().is_some_and(|before| value.version() < before.version())
                {
                    return Some((key, before));
                }
                state.ahead.remove(&key);
                state.objects.insert(key.clone(), Arc::new(value));
                Some((key, before))
            }
            Change::Gone(key) => {
                state.ahead.remove(&key);
                state.made.remove(&key);
                let before = state.objects.remove(&key);
                Some((key, before))
            }
            Change::Synced => {
                // The watch may have started over and missed the end of what it had not told of. What exists it tells
                // of at once.
                let State { objects, ahead, made, .. } = &mut *state;
                ahead.clear();
                for key in made.drain() {
                    objects.remove(&key);
                }
                self.synced.send_replace(true);
                None
            }
        }
    }

    /// Puts in an object just written, so that the next look sees it even before the watch tells of it. A later
    /// `resourceVersion` already here is kept: `newer` says whether the one here is. One the watch has told of already,
    /// and that is not here, is gone again.
    pub fn note_written(&self, key: RevisionKey, value: V, newer: impl FnOnce(&V) -> bool) {
        let mut state = self.write();
        let present = state.objects.get(&key);
        if let Some(version) = value.version() {
            if version <= state.told {
                return;
            }
            if present.is_none_or(|present| present.version() < Some(version)) {
                if present.is_none() {
                    state.made.insert(key.clone());
                }
                state.ahead.insert(key.clone());
                state.objects.insert(key, Arc::new(value));
            }
        } else if !present.is_some_and(|present| newer(present)) {
            state.objects.insert(key, Arc::new(value));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Copy, PartialEq, Debug)]
    struct Object(u64);

    impl Versioned for Object {
        fn version(&self) -> Option<u64> {
            Some(self.0)
        }
    }

    fn key() -> RevisionKey {
        RevisionKey::new("default", "hello-00001")
    }

    fn there(cache: &Cache<Object>) -> Option<u64> {
        cache.get(&key()).map(|object| object.0)
    }

    #[test]
    fn what_was_written_is_seen_before_the_watch_tells_of_it() {
        let cache = Cache::default();
        cache.take_in(Change::Put(key(), Object(5)));
        cache.note_written(key(), Object(8), |_| false);
        assert_eq!(there(&cache), Some(8));
        // The watch tells of somebody else's write in between.
        cache.take_in(Change::Put(key(), Object(7)));
        assert_eq!(there(&cache), Some(8));
        cache.take_in(Change::Put(key(), Object(8)));
        cache.take_in(Change::Put(key(), Object(9)));
        assert_eq!(there(&cache), Some(9));
    }

    #[test]
    fn an_answer_that_comes_after_the_objects_end_does_not_bring_it_back() {
        let cache = Cache::default();
        cache.take_in(Change::Put(key(), Object(5)));
        cache.take_in(Change::Gone(key()));
        cache.note_written(key(), Object(5), |_| false);
        assert_eq!(there(&cache), None);
        // Nor an older answer over a newer object.
        cache.take_in(Change::Put(key(), Object(9)));
        cache.note_written(key(), Object(8), |_| false);
        assert_eq!(there(&cache), Some(9));
    }

    #[test]
    fn what_a_watch_that_started_over_does_not_tell_of_is_gone() {
        let cache = Cache::default();
        cache.note_written(key(), Object(5), |_| false);
        cache.take_in(Change::Synced);
        assert_eq!(there(&cache), None);
        // One it does tell of stays as it was written.
        cache.take_in(Change::Put(key(), Object(7)));
        cache.note_written(key(), Object(9), |_| false);
        cache.take_in(Change::Put(key(), Object(7)));
        cache.take_in(Change::Synced);
        assert_eq!(there(&cache), Some(9));
    }

    proptest! {
        /// However late the answers to writes come, once everything was told the cache is what the server has.
        #[test]
        fn the_watch_has_the_last_word(
            writes in proptest::collection::vec((any::<bool>(), 0_usize..6), 1..20),
        ) {
            let cache = Cache::default();
            let mut late: Vec<(usize, u64)> = Vec::new();
            let mut server = None;
            for (step, (deleted, delay)) in writes.iter().enumerate() {
                let version = step as u64 + 1;
                if *deleted {
                    server = None;
                    cache.take_in(Change::Gone(key()));
                } else {
                    server = Some(version);
                    late.push((step + delay, version));
                    if *delay == 0 {
                        cache.note_written(key(), Object(version), |_| false);
                    }
                    cache.take_in(Change::Put(key(), Object(version)));
                }
                for (_, version) in late.iter().filter(|(due, _)| *due == step) {
                    cache.note_written(key(), Object(*version), |_| false);
                }
            }
            for (_, version) in late {
                cache.note_written(key(), Object(version), |_| false);
            }
            prop_assert_eq!(there(&cache), server);
        }
    }
}
