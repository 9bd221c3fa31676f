//! The objects, their history, and who waits for changes.
//!
//! One lock guards everything, held only to look up, to commit and to copy pointers; JSON is read and answers are made
//! outside it. A version number is drawn for every commit, so it orders all changes of all resources.
//!
//! A watcher has no queue. It remembers the version it has seen and reads on from the resource's history, which is
//! bounded; one that falls further behind than the history reaches is told so (410) and lists again.

use super::admission::Admit;
use super::faults::Faults;
use super::object::{Happened, Object, Traits};
use super::resource::{self, Resource};
use super::selector::Selector;
use super::status::{self, Answer};
use crate::clock::Clock;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

/// What bounds the memory of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Events kept per resource for watchers that lag or come back.
    pub history_events: usize,
    /// Bytes of events kept per resource. Current objects share their bytes with their last event.
    pub history_bytes: usize,
    /// Bytes of all current objects; a write beyond is refused with 507.
    pub object_bytes: usize,
    /// Bytes of one request body; more is refused with 413.
    pub body_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { history_events: 4096, history_bytes: 2 << 20, object_bytes: 512 << 20, body_bytes: 3 << 20 }
    }
}

/// An in-memory Kubernetes API: the objects and everything that happens to them.
pub struct Store {
    pub(super) clock: Clock,
    pub(super) limits: Limits,
    pub(super) faults: Faults,
    pub(super) admission: OnceLock<Admit>,
    /// Ends every watch; set off when the server stops.
    pub(super) closing: CancellationToken,
    /// Told when there is something to collect.
    pub(super) garbage: Notify,
    state: Mutex<State>,
}

/// Which resource an object belongs to: an index that never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ShardId(u32);

/// Where an object is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key {
    pub(super) shard: ShardId,
    /// Empty for an object outside namespaces.
    pub(super) namespace: Arc<str>,
    pub(super) name: Arc<str>,
}

/// What the collector should look at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Look {
    /// An object some of whose owners may be gone.
    Owners(Key),
    /// An object that waits for its dependents, or must let them go, before it is gone.
    Dependents(Key),
    /// A namespace that is to be emptied.
    Namespace(Arc<str>),
    /// A CustomResourceDefinition was made or removed.
    Definition(Arc<str>),
}

/// Why a commit did not happen.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// The name is taken.
    Exists,
    /// There is a newer version, or no object any more.
    Stale,
    /// The store is full.
    Full,
}

/// What a watcher gets to see.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) happened: Happened,
    pub(super) object: Arc<Object>,
}

struct State {
    version: u64,
    object_bytes: usize,
    shards: Vec<Shard>,
    live: HashMap<u128, Key>,
    dependents: HashMap<u128, BTreeSet<Key>>,
    looks: BTreeSet<Look>,
}

struct Shard {
    resource: Arc<Resource>,
    /// False once its CustomResourceDefinition is gone.
    served: bool,
    objects: BTreeMap<Arc<str>, BTreeMap<Arc<str>, Arc<Object>>>,
    history: VecDeque<Event>,
    history_bytes: usize,
    /// Watches may start at this version or later.
    reaches_back_to: u64,
    changed: watch::Sender<u64>,
}

struct Event {
    object: Arc<Object>,
    /// The traits before, when there was an object.
    before: Option<Arc<Traits>>,
}

impl Store {
    /// A store with the namespaces every cluster has, and `knative-serving`.
    pub fn new(clock: Clock) -> Arc<Self> {
        Self::with_limits(clock, Limits::default())
    }

    /// Like [`Store::new`], with other bounds.
    pub fn with_limits(clock: Clock, limits: Limits) -> Arc<Self> {
        let mut state = State {
            // Not 0, which a client sends to say "any version".
            version: 1,
            object_bytes: 0,
            shards: Vec::new(),
            live: HashMap::new(),
            dependents: HashMap::new(),
            looks: BTreeSet::new(),
        };
        for resource in resource::built_in() {
            state.add_shard(resource);
        }
        let store = Arc::new(Self {
            clock,
            limits,
            faults: Faults::default(),
            admission: OnceLock::new(),
            closing: CancellationToken::new(),
            garbage: Notify::new(),
            state: Mutex::new(state),
        });
        for name in ["default", "kube-system", "knative-serving"] {
            super::write::make_namespace(&store, name);
        }
        store
    }

    /// Looks at every create, update, apply and delete from now on, and may change or refuse it. Set it once, before
    /// serving; later calls are ignored and answer false.
    pub fn set_admission(&self, admit: impl Into<Admit>) -> bool {
        self.admission.set(admit.into()).is_ok()
    }

    /// The switch for faults, and the counters of requests.
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// Puts an object in as it is, whatever its kind demands: a cluster may hold what an older version of it let in.
    /// It needs a namespace, a name and a uid. Whether it was put in: not when one of its name is there already.
    pub fn plant(&self, group: &str, version: &str, plural: &str, object: Value) -> bool {
        self.find(group, version, plural).is_some_and(|(id, _)| self.insert(id, object).is_ok())
    }

    /// How many objects there are of every resource that has any, by its qualified name.
    pub fn counts(&self) -> BTreeMap<String, usize> {
        let state = self.state();
        let counts = state.shards.iter().map(|shard| (shard.resource.qualified(), shard.len()));
        counts.filter(|(_, count)| 0 < *count).collect()
    }

    /// The newest version of anything.
    pub fn version(&self) -> u64 {
        self.state().version
    }

    /// Everything served now.
    pub(super) fn resources(&self) -> Vec<Arc<Resource>> {
        self.state().shards.iter().filter(|shard| shard.served).map(|shard| shard.resource.clone()).collect()
    }

    /// The resource at a path.
    pub(super) fn find(&self, group: &str, version: &str, plural: &str) -> Option<(ShardId, Arc<Resource>)> {
        let state = self.state();
        let index = state.shards.iter().position(|shard| {
            let resource = &shard.resource;
            shard.served && resource.plural == plural && resource.group == group && resource.version == version
        })?;
        Some((ShardId(u32::try_from(index).ok()?), state.shards[index].resource.clone()))
    }

    pub(super) fn resource(&self, id: ShardId) -> Arc<Resource> {
        self.state().shard(id).resource.clone()
    }

    pub(super) fn get(&self, id: ShardId, namespace: &str, name: &str) -> Option<Arc<Object>> {
        self.state().shard(id).get(namespace, name).cloned()
    }

    /// What is selected, in order of namespace and name, and the version it is true at.
    pub(super) fn list(&self, id: ShardId, selector: &Selector) -> (u64, Vec<Arc<Object>>) {
        let state = self.state();
        (state.version, state.shard(id).list(selector))
    }

    /// What is selected, as a version and objects that a watch from that version continues.
    pub(super) fn subscribe(&self, id: ShardId) -> watch::Receiver<u64> {
        self.state().shard(id).changed.subscribe()
    }

    /// Fails when the history does not reach back to `version`, or `version` is still to come.
    pub(super) fn check_version(&self, id: ShardId, version: u64) -> Answer<()> {
        let state = self.state();
        if state.version < version {
            return Err(status::too_new(version, state.version));
        }
        let oldest = state.shard(id).reaches_back_to;
        if version < oldest { Err(status::expired(version, oldest)) } else { Ok(()) }
    }

    /// The newest version, or 504 when `version` is still to come.
    pub(super) fn check_not_newer(&self, version: u64) -> Answer<u64> {
        let current = self.version();
        if current < version { Err(status::too_new(version, current)) } else { Ok(current) }
    }

    /// At most `most` events after `version` that the selector lets through, and the version read up to.
    pub(super) fn read_on(
        &self,
        id: ShardId,
        version: u64,
        selector: &Selector,
        most: usize,
    ) -> Answer<(u64, Vec<Seen>)> {
        let state = self.state();
        let shard = state.shard(id);
        if !shard.served {
            return Err(status::expired(version, state.version));
        }
        if version < shard.reaches_back_to {
            return Err(status::expired(version, shard.reaches_back_to));
        }
        let start = shard.history.partition_point(|event| event.object.version <= version);
        let mut seen = Vec::new();
        for event in shard.history.range(start..) {
            if let Some(happened) = event.seen_by(selector) {
                seen.push(Seen { happened, object: event.object.clone() });
                if seen.len() == most {
                    return Ok((event.object.version, seen));
                }
            }
        }
        Ok((state.version, seen))
    }

    /// Commits a new object.
    pub(super) fn insert(&self, id: ShardId, value: Value) -> Result<Arc<Object>, Refused> {
        let namespace = super::object::metadata_text(&value, "namespace").to_owned();
        let name = super::object::metadata_text(&value, "name").to_owned();
        let mut state = self.state();
        if state.shard(id).get(&namespace, &name).is_some() {
            return Err(Refused::Exists);
        }
        if self.limits.object_bytes <= state.object_bytes {
            return Err(Refused::Full);
        }
        let object = state.commit(id, value, Happened::Added, None, &self.limits);
        self.wake_collector(&state);
        Ok(object)
    }

    /// Commits a version of an object in place of `before`.
    pub(super) fn replace(&self, id: ShardId, before: &Object, value: Value) -> Result<Arc<Object>, Refused> {
        let mut state = self.state();
        let before = state.newest(id, before)?;
        if self.limits.object_bytes <= state.object_bytes {
            return Err(Refused::Full);
        }
        let object = state.commit(id, value, Happened::Modified, Some(&before), &self.limits);
        self.wake_collector(&state);
        Ok(object)
    }

    /// Commits the removal of an object; `value` is what watchers see last.
    pub(super) fn remove(&self, id: ShardId, before: &Object, value: Value) -> Result<Arc<Object>, Refused> {
        let mut state = self.state();
        let before = state.newest(id, before)?;
        let object = state.commit(id, value, Happened::Deleted, Some(&before), &self.limits);
        self.wake_collector(&state);
        Ok(object)
    }

    /// What the collector should look at next, at most `most`.
    pub(super) fn take_looks(&self, most: usize) -> Vec<Look> {
        let mut state = self.state();
        let mut looks = Vec::new();
        while looks.len() < most
            && let Some(look) = state.looks.pop_first()
        {
            looks.push(look);
        }
        looks
    }

    /// Asks the collector to look at something.
    pub(super) fn look_at(&self, look: Look) {
        self.state().looks.insert(look);
        self.garbage.notify_one();
    }

    /// Which of these uids belong to an object that exists.
    pub(super) fn live(&self, uids: &[u128]) -> Vec<u128> {
        let state = self.state();
        uids.iter().copied().filter(|uid| state.live.contains_key(uid)).collect()
    }

    /// The objects owned by this uid, as far as they exist.
    pub(super) fn dependents(&self, uid: u128) -> Vec<(Key, Arc<Object>)> {
        let state = self.state();
        let keys = state.dependents.get(&uid).into_iter().flatten();
        keys.filter_map(|key| Some((key.clone(), state.shard(key.shard).get(&key.namespace, &key.name)?.clone())))
            .collect()
    }

    /// At most `most` objects of a namespace, and whether that is all of them.
    pub(super) fn contents(&self, namespace: &str, most: usize) -> (Vec<Key>, bool) {
        let state = self.state();
        let mut keys = Vec::new();
        for (index, shard) in (0..).zip(&state.shards) {
            for (name, object) in shard.objects.get(namespace).into_iter().flatten() {
                if keys.len() == most {
                    return (keys, false);
                }
                keys.push(Key { shard: ShardId(index), namespace: object.namespace.clone(), name: name.clone() });
            }
        }
        (keys, true)
    }

    /// Serves a further resource. False when its path is taken.
    pub(super) fn add_resource(&self, resource: Resource) -> bool {
        let mut state = self.state();
        let same = |shard: &Shard| {
            shard.served && shard.resource.group == resource.group && shard.resource.plural == resource.plural
        };
        if state.shards.iter().any(same) {
            return false;
        }
        state.add_shard(resource);
        true
    }

    /// Stops serving a resource and removes its objects.
    pub(super) fn remove_resource(&self, group: &str, plural: &str) {
        let mut state = self.state();
        let gone = state.shards.iter().position(|shard| {
            let resource = &shard.resource;
            shard.served && resource.custom && resource.group == group && resource.plural == plural
        });
        let Some(id) = gone.and_then(|index| u32::try_from(index).ok()).map(ShardId) else { return };
        for object in state.shard(id).list(&Selector::default()) {
            state.commit(id, object.value(), Happened::Deleted, Some(&object), &self.limits);
        }
        let version = state.version;
        let shard = &mut state.shards[id.0 as usize];
        shard.served = false;
        shard.history.clear();
        shard.history_bytes = 0;
        shard.changed.send_replace(version);
        self.wake_collector(&state);
    }

    fn wake_collector(&self, state: &State) {
        if !state.looks.is_empty() {
            self.garbage.notify_one();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds the store")
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("version", &self.version()).finish_non_exhaustive()
    }
}

impl State {
    fn add_shard(&mut self, resource: Resource) {
        self.shards.push(Shard {
            resource: Arc::new(resource),
            served: true,
            objects: BTreeMap::new(),
            history: VecDeque::new(),
            history_bytes: 0,
            reaches_back_to: self.version,
            changed: watch::Sender::new(0),
        });
    }

    fn shard(&self, id: ShardId) -> &Shard {
        &self.shards[id.0 as usize]
    }

    /// The stored object, when it is still the version `before`.
    fn newest(&self, id: ShardId, before: &Object) -> Result<Arc<Object>, Refused> {
        match self.shard(id).get(&before.namespace, &before.name) {
            Some(newest) if newest.version == before.version => Ok(newest.clone()),
            _ => Err(Refused::Stale),
        }
    }

    fn commit(
        &mut self,
        id: ShardId,
        value: Value,
        happened: Happened,
        before: Option<&Arc<Object>>,
        limits: &Limits,
    ) -> Arc<Object> {
        self.version += 1;
        let shard = &mut self.shards[id.0 as usize];
        let object = Arc::new(Object::write(&shard.resource, value, self.version, happened, before.map(Arc::as_ref)));
        let key = Key { shard: id, namespace: object.namespace.clone(), name: object.name.clone() };

        if happened == Happened::Deleted {
            if let Some(names) = shard.objects.get_mut(&object.namespace) {
                names.remove(&object.name);
                if names.is_empty() {
                    shard.objects.remove(&object.namespace);
                }
            }
        } else {
            let names = shard.objects.entry(object.namespace.clone()).or_default();
            names.insert(object.name.clone(), object.clone());
            self.object_bytes += object.size();
        }
        let kind = shard.resource.kind.as_str();
        let (is_namespace, is_definition) = (kind == "Namespace", kind == "CustomResourceDefinition");
        shard.remember(Event { object: object.clone(), before: before.map(|before| before.traits.clone()) }, limits);
        shard.changed.send_replace(self.version);

        if let Some(before) = before {
            self.object_bytes -= before.size();
            for owner in &before.owners {
                if let Some(keys) = self.dependents.get_mut(owner) {
                    keys.remove(&key);
                    if keys.is_empty() {
                        self.dependents.remove(owner);
                    }
                }
            }
        }
        if happened == Happened::Deleted {
            self.live.remove(&object.uid);
            for dependent in self.dependents.get(&object.uid).into_iter().flatten() {
                self.looks.insert(Look::Owners(dependent.clone()));
            }
            for owner in object.owners.iter().filter_map(|owner| self.live.get(owner)) {
                self.looks.insert(Look::Dependents(owner.clone()));
            }
            let namespaces = self.shard(ShardId(0));
            if namespaces.get("", &object.namespace).is_some_and(|namespace| namespace.deleting) {
                self.looks.insert(Look::Namespace(object.namespace.clone()));
            }
        } else {
            self.live.insert(object.uid, key.clone());
            for owner in &object.owners {
                self.dependents.entry(*owner).or_default().insert(key.clone());
            }
            if object.owners.iter().any(|owner| !self.live.contains_key(owner)) {
                self.looks.insert(Look::Owners(key.clone()));
            }
            if object.deleting {
                let look = if is_namespace { Look::Namespace(object.name.clone()) } else { Look::Dependents(key) };
                self.looks.insert(look);
            }
        }
        if is_definition {
            self.looks.insert(Look::Definition(object.name.clone()));
        }
        object
    }
}

impl Shard {
    fn len(&self) -> usize {
        self.objects.values().map(BTreeMap::len).sum()
    }

    fn get(&self, namespace: &str, name: &str) -> Option<&Arc<Object>> {
        self.objects.get(namespace)?.get(name)
    }

    fn list(&self, selector: &Selector) -> Vec<Arc<Object>> {
        let selected = |object: &&Arc<Object>| selector.matches(&object.namespace, &object.name, &object.traits);
        match (&selector.namespace, selector.name()) {
            (Some(namespace), Some(name)) => self.get(namespace, name).filter(selected).cloned().into_iter().collect(),
            (Some(namespace), None) => self
                .objects
                .get(namespace.as_str())
                .into_iter()
                .flat_map(BTreeMap::values)
                .filter(selected)
                .cloned()
                .collect(),
            (None, _) => self.objects.values().flat_map(BTreeMap::values).filter(selected).cloned().collect(),
        }
    }

    fn remember(&mut self, event: Event, limits: &Limits) {
        self.history_bytes += event.object.size();
        self.history.push_back(event);
        while limits.history_events < self.history.len() || limits.history_bytes < self.history_bytes {
            let Some(oldest) = self.history.pop_front() else { break };
            self.history_bytes -= oldest.object.size();
            self.reaches_back_to = oldest.object.version;
        }
    }
}

impl Event {
    /// What a watcher with this selector sees: an object that comes into or leaves the selection is added or deleted.
    fn seen_by(&self, selector: &Selector) -> Option<Happened> {
        let object = &self.object;
        let now = selector.matches(&object.namespace, &object.name, &object.traits);
        match (object.happened, &self.before) {
            (Happened::Modified, Some(before)) if selector.by_traits() => {
                match (selector.matches(&object.namespace, &object.name, before), now) {
                    (true, true) => Some(Happened::Modified),
                    (true, false) => Some(Happened::Deleted),
                    (false, true) => Some(Happened::Added),
                    (false, false) => None,
                }
            }
            (happened, _) => now.then_some(happened),
        }
    }
}
