//! The objects of one kind as a map.
//!
//! Two tell it of objects: the watch, and whoever has just written one. What was written may be told of late, when the
//! watch has already told that it is gone again. So of what was written only that is kept which the watch is still to
//! tell of; otherwise an object that no longer exists would stay here for good.

use crate::k8s::follow::Change;
use crate::units::RevisionKey;
use kube::Resource;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::{HashMap, HashSet};
use std::fmt;
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
pub struct Cache<V> {
    shared: Arc<Shared<V>>,
}

struct Shared<V> {
    state: RwLock<State<V>>,
    synced: watch::Sender<bool>,
    packing: Option<Packing<V>>,
}

struct State<V> {
    objects: HashMap<RevisionKey, Entry<V>>,
    /// The latest version the watch has told of; 0 is none yet.
    told: u64,
    /// Of these a version was written that the watch has not told of yet.
    ahead: HashSet<RevisionKey>,
    /// Of these the watch has not told at all yet.
    made: HashSet<RevisionKey>,
}

struct Entry<V> {
    version: Option<u64>,
    form: Form<V>,
}

enum Form<V> {
    Plain(Arc<V>),
    /// As JSON.
    Packed(Box<str>),
}

/// How values become [`Form::Packed`] and values again.
struct Packing<V> {
    pack: fn(&V) -> Option<Box<str>>,
    unpack: fn(&str) -> Option<V>,
}

impl<V> Clone for Cache<V> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<V> fmt::Debug for Cache<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache").field("objects", &self.len()).finish_non_exhaustive()
    }
}

impl<V> Default for Cache<V> {
    /// Holds values as they are.
    fn default() -> Self {
        Self::with(None)
    }
}

impl<V: Resource + Serialize + DeserializeOwned> Cache<V> {
    /// Holds objects as JSON text and reads them anew each time: a typed object, with a string or a map of its own for
    /// each label, annotation and owner, takes more memory than its text.
    pub fn packed() -> Self {
        Self::with(Some(Packing {
            pack: |object| Some(serde_json::to_string(object).ok()?.into_boxed_str()),
            unpack: |text| serde_json::from_str(text).ok(),
        }))
    }
}

impl<V> Cache<V> {
    fn with(packing: Option<Packing<V>>) -> Self {
        let state = State { objects: HashMap::new(), told: 0, ahead: HashSet::new(), made: HashSet::new() };
        Self { shared: Arc::new(Shared { state: RwLock::new(state), synced: watch::Sender::new(false), packing }) }
    }

    /// The object of this name, as last seen.
    pub fn get(&self, key: &RevisionKey) -> Option<Arc<V>> {
        let text = match &self.read().objects.get(key)?.form {
            Form::Plain(object) => return Some(Arc::clone(object)),
            Form::Packed(text) => text.clone(),
        };
        self.unpack(&text)
    }

    /// Every key, in no order.
    pub fn keys(&self) -> Vec<RevisionKey> {
        self.read().objects.keys().cloned().collect()
    }

    /// The objects `keep` chooses, by key.
    pub fn select(&self, keep: impl Fn(&RevisionKey, &V) -> bool) -> Vec<Arc<V>> {
        let mut keys = self.keys();
        keys.sort();
        let object = |key: &RevisionKey| self.get(key).filter(|object| keep(key, object));
        keys.iter().filter_map(object).collect()
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
        let _ = self.shared.synced.subscribe().wait_for(|synced| *synced).await;
    }

    fn value(&self, form: Form<V>) -> Option<Arc<V>> {
        match form {
            Form::Plain(object) => Some(object),
            Form::Packed(text) => self.unpack(&text),
        }
    }

    fn unpack(&self, text: &str) -> Option<Arc<V>> {
        let packing = self.shared.packing.as_ref()?;
        Some(Arc::new((packing.unpack)(text)?))
    }

    fn read(&self) -> RwLockReadGuard<'_, State<V>> {
        self.shared.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State<V>> {
        self.shared.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<V: Versioned> Cache<V> {
    /// Takes in a change and returns the key it touched, with the object as it is now or was at last.
    pub fn take_in(&self, change: Change<V>) -> Option<(RevisionKey, Arc<V>)> {
        match change {
            Change::Put(key, value) => {
                let (entry, value) = self.entry(value);
                let mut state = self.write();
                state.told = state.told.max(entry.version.unwrap_or(0));
                state.made.remove(&key);
                // What was written here may be ahead of what the watch tells of just now.
                if state.ahead.contains(&key)
                    && state.objects.get(&key).is_some_and(|present| entry.version < present.version)
                {
                    drop(state);
                    let present = self.get(&key)?;
                    return Some((key, present));
                }
                state.ahead.remove(&key);
                state.objects.insert(key.clone(), entry);
                Some((key, value))
            }
            Change::Gone(key) => {
                let mut state = self.write();
                state.ahead.remove(&key);
                state.made.remove(&key);
                let before = state.objects.remove(&key)?;
                drop(state);
                Some((key, self.value(before.form)?))
            }
            Change::Synced => {
                // The watch may have started over and missed the end of what it had not told of. What exists it tells
                // of at once.
                let mut state = self.write();
                let State { objects, ahead, made, .. } = &mut *state;
                ahead.clear();
                for key in made.drain() {
                    objects.remove(&key);
                }
                self.shared.synced.send_replace(true);
                None
            }
        }
    }

    /// Puts in an object just written, so that the next look sees it even before the watch tells of it. A later version
    /// already here is kept. One the watch has told of already, and that is not here, is gone again.
    pub fn note_written(&self, key: &RevisionKey, value: V) {
        let (entry, _) = self.entry(value);
        let mut state = self.write();
        let present = state.objects.get(key);
        if let Some(version) = entry.version {
            if version <= state.told {
                return;
            }
            if present.is_none_or(|present| present.version < Some(version)) {
                if present.is_none() {
                    state.made.insert(key.clone());
                }
                state.ahead.insert(key.clone());
                state.objects.insert(key.clone(), entry);
            }
        } else {
            state.objects.insert(key.clone(), entry);
        }
    }

    fn entry(&self, value: V) -> (Entry<V>, Arc<V>) {
        let (version, value) = (value.version(), Arc::new(value));
        let packed = self.shared.packing.as_ref().and_then(|packing| (packing.pack)(&value));
        let form = packed.map_or_else(|| Form::Plain(Arc::clone(&value)), Form::Packed);
        (Entry { version, form }, value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::conditions::{Condition, Status};
    use crate::api::pod_autoscaler::{PodAutoscaler, PodAutoscalerStatus};
    use proptest::prelude::*;
    use serde_json::json;

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
        cache.note_written(&key(), Object(8));
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
        cache.note_written(&key(), Object(5));
        assert_eq!(there(&cache), None);
        // Nor an older answer over a newer object.
        cache.take_in(Change::Put(key(), Object(9)));
        cache.note_written(&key(), Object(8));
        assert_eq!(there(&cache), Some(9));
    }

    #[test]
    fn what_a_watch_that_started_over_does_not_tell_of_is_gone() {
        let cache = Cache::default();
        cache.note_written(&key(), Object(5));
        cache.take_in(Change::Synced);
        assert_eq!(there(&cache), None);
        // One it does tell of stays as it was written.
        cache.take_in(Change::Put(key(), Object(7)));
        cache.note_written(&key(), Object(9));
        cache.take_in(Change::Put(key(), Object(7)));
        cache.take_in(Change::Synced);
        assert_eq!(there(&cache), Some(9));
    }

    fn autoscaler(version: &str) -> PodAutoscaler {
        let value = json!({
            "apiVersion": "autoscaling.internal.knative.dev/v1alpha1", "kind": "PodAutoscaler",
            "metadata": {
                "name": "web-00001", "namespace": "default", "uid": "u", "generation": 3, "resourceVersion": version,
                "creationTimestamp": "2026-01-02T03:04:05Z", "finalizers": ["x"],
                "labels": {"a": "\"quoted\" \u{e9}"}, "annotations": {"b": "c\nd"},
                "ownerReferences": [{"apiVersion": "v1", "kind": "R", "name": "r", "uid": "v", "controller": true}],
            },
            "spec": {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}, "reachability": "Reachable"},
        });
        let mut object: PodAutoscaler = serde_json::from_value(value).expect("a PodAutoscaler");
        let condition = Condition { type_: "Active".to_owned(), status: Status::True, ..Condition::default() };
        object.status = Some(PodAutoscalerStatus {
            conditions: vec![condition],
            desired_scale: Some(0),
            ..PodAutoscalerStatus::default()
        });
        object
    }

    fn packed_key() -> RevisionKey {
        RevisionKey::new("default", "web-00001")
    }

    #[test]
    fn a_packed_object_comes_out_as_it_went_in() {
        let cache = Cache::packed();
        let object = autoscaler("7");
        let (_, touched) = cache.take_in(Change::Put(packed_key(), object.clone())).expect("it changed");
        assert_eq!(*touched, object);
        assert_eq!(*cache.get(&packed_key()).expect("it is there"), object);
        assert_eq!(cache.select(|_, object| object.metadata.generation == Some(3)).len(), 1);
        let (_, last) = cache.take_in(Change::Gone(packed_key())).expect("it was there");
        assert_eq!(*last, object);
        assert!(cache.take_in(Change::Gone(packed_key())).is_none() && cache.is_empty());
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
                        cache.note_written(&key(), Object(version));
                    }
                    cache.take_in(Change::Put(key(), Object(version)));
                }
                for (_, version) in late.iter().filter(|(due, _)| *due == step) {
                    cache.note_written(&key(), Object(*version));
                }
            }
            for (_, version) in late {
                cache.note_written(&key(), Object(version));
            }
            prop_assert_eq!(there(&cache), server);
        }
    }
}
