//! The objects of one kind as a map, cut down to what is read.

use crate::k8s::follow::Change;
use crate::units::RevisionKey;
use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use tokio::sync::watch;

/// The objects of one kind by `namespace/name`. Cheap to clone; all clones are one cache.
#[derive(Debug)]
pub struct Cache<V> {
    objects: Arc<RwLock<HashMap<RevisionKey, Arc<V>>>>,
    synced: Arc<watch::Sender<bool>>,
}

impl<V> Clone for Cache<V> {
    fn clone(&self) -> Self {
        Self { objects: Arc::clone(&self.objects), synced: Arc::clone(&self.synced) }
    }
}

impl<V> Default for Cache<V> {
    fn default() -> Self {
        Self { objects: Arc::default(), synced: Arc::new(watch::Sender::new(false)) }
    }
}

impl<V> Cache<V> {
    /// The object of this name, as last seen.
    pub fn get(&self, key: &RevisionKey) -> Option<Arc<V>> {
        self.objects.read().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    /// Every key, in no order.
    pub fn keys(&self) -> Vec<RevisionKey> {
        self.objects.read().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }

    /// The objects `keep` chooses, by key.
    pub fn select(&self, keep: impl Fn(&RevisionKey, &V) -> bool) -> Vec<Arc<V>> {
        let objects = self.objects.read().unwrap_or_else(PoisonError::into_inner);
        let mut chosen: Vec<_> = objects.iter().filter(|(key, value)| keep(key, value)).collect();
        chosen.sort_by_key(|(key, _)| *key);
        chosen.into_iter().map(|(_, value)| Arc::clone(value)).collect()
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.objects.read().unwrap_or_else(PoisonError::into_inner).len()
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

    /// Takes in a change and returns the key it touched with what was there before.
    pub fn take_in(&self, change: Change<V>) -> Option<(RevisionKey, Option<Arc<V>>)> {
        let mut objects = self.objects.write().unwrap_or_else(PoisonError::into_inner);
        match change {
            Change::Put(key, value) => {
                let before = objects.insert(key.clone(), Arc::new(value));
                Some((key, before))
            }
            Change::Gone(key) => {
                let before = objects.remove(&key);
                Some((key, before))
            }
            Change::Synced => {
                self.synced.send_replace(true);
                None
            }
        }
    }

    /// Puts in an object just written, so that the next look sees it even before the watch tells of it. A later
    /// `resourceVersion` already here is kept: `newer` says whether the one here is.
    pub fn note_written(&self, key: RevisionKey, value: V, newer: impl FnOnce(&V) -> bool) {
        let mut objects = self.objects.write().unwrap_or_else(PoisonError::into_inner);
        if !objects.get(&key).is_some_and(|present| newer(present)) {
            objects.insert(key, Arc::new(value));
        }
    }
}
