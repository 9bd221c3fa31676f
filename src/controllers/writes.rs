//! Writing objects and their status.

use crate::k8s::cache::{Cache, Versioned as _};
use crate::k8s::events::Events;
use crate::k8s::flow::{Flow, Urgency, WriteError, is_conflict};
use crate::k8s::pace::back_off;
use crate::k8s::queue::Queue;
use crate::ownership::Ownership;
use crate::units::{RevisionKey, Span};
use kube::api::PostParams;
use kube::core::object::HasStatus;
use kube::core::{NamespaceResourceScope, Resource};
use kube::{Api, Client};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

/// How often a status is written that others write too …
const CONFLICT_TRIES: u32 = 5;
/// … and how long to wait in between.
const CONFLICT_PAUSE: Span = Span::from_millis(10);
/// All API calls of one reconcile together.
pub const DEADLINE: Span = Span::from_seconds(30);
/// How soon an object is looked at again whose status could not be written, …
const AGAIN_FIRST: Span = Span::from_millis(5);
/// … and how late at most: refused for what it says, …
const AGAIN_MOST: Span = Span::from_seconds(1000);
/// … or because the API server was away.
const AGAIN_AWAY: Span = Span::from_seconds(10);

/// What the two kinds Ebb tells a status of have in common.
pub trait Told:
    Resource<Scope = NamespaceResourceScope, DynamicType = ()>
    + HasStatus<Status: Clone + PartialEq + Send + Sync>
    + Clone
    + Debug
    + Serialize
    + DeserializeOwned
    + Send
    + Sync
    + 'static
{
}

impl<K> Told for K where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + HasStatus<Status: Clone + PartialEq + Send + Sync>
        + Clone
        + Debug
        + Serialize
        + DeserializeOwned
        + Send
        + Sync
        + 'static
{
}

/// An error of the API server in a sentence of its own.
pub fn in_words(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

/// The same of a write.
pub fn write_in_words(error: &WriteError) -> String {
    match error {
        WriteError::Api(error) => in_words(error),
        other => other.to_string(),
    }
}

/// The objects of one kind in the namespace of `key`.
pub fn api<K>(client: &Client, key: &RevisionKey) -> Api<K>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
{
    Api::namespaced(client.clone(), key.namespace())
}

/// Writes the status `object` has; on a conflict the live object is read again and its whole status replaced. Answers
/// with what the API server has then, or with nothing when the object of this name is another one by now.
///
/// # Errors
/// What the API server answered last.
pub async fn status<K: Told>(client: &Client, key: &RevisionKey, object: K) -> Result<Option<K>, kube::Error> {
    let api: Api<K> = api(client, key);
    let mut object = object;
    let mut attempt = 1;
    loop {
        match api.replace_status(key.name(), &PostParams::default(), &object).await {
            Err(error) if is_conflict(&error) && attempt < CONFLICT_TRIES => {
                tokio::time::sleep(CONFLICT_PAUSE.to_std()).await;
                let mut live = api.get(key.name()).await?;
                if live.meta().uid != object.meta().uid {
                    return Ok(None);
                }
                if live.status() == object.status() {
                    return Ok(Some(live));
                }
                *live.status_mut() = object.status_mut().take();
                object = live;
                attempt += 1;
            }
            written => return written.map(Some),
        }
    }
}

/// Writes the statuses of one kind in the background, so that no look at a revision waits for what is only told. Of one
/// object there is at most one write at a time; what is to be told when its turn comes is what is written. Cheap to
/// clone; all clones are one.
#[derive(Clone)]
pub struct Statuses<K> {
    shared: Arc<Shared<K>>,
}

struct Shared<K> {
    flow: Flow,
    ownership: Ownership,
    objects: Cache<K>,
    queue: Queue,
    events: Events,
    tasks: TaskTracker,
    slots: Mutex<HashMap<RevisionKey, Slot<K>>>,
}

struct Slot<K> {
    /// With the status it is to have.
    object: K,
    /// Counts what was put here.
    version: u64,
    /// Whether a task is at it.
    under_way: bool,
    failures: u32,
}

impl<K: Told> Statuses<K> {
    /// None to write yet. Writes run on `tasks`; an object whose status could not be written comes back to `queue`.
    pub fn new(
        flow: Flow,
        ownership: Ownership,
        objects: Cache<K>,
        queue: Queue,
        events: Events,
        tasks: TaskTracker,
    ) -> Self {
        let slots = Mutex::default();
        Self { shared: Arc::new(Shared { flow, ownership, objects, queue, events, tasks, slots }) }
    }

    /// The status that is to be written of `object`, if one is. What a look finds is compared with this rather than with
    /// what the API server has yet. What is to be written of an earlier object of the same name is not meant.
    pub fn pending(&self, key: &RevisionKey, object: &K) -> Option<K::Status> {
        let slots = self.lock();
        let slot = slots.get(key).filter(|slot| slot.object.meta().uid == object.meta().uid)?;
        slot.object.status().cloned()
    }

    /// `object` is to have the status it has here; `stored` is the one the API server has, as far as is known.
    pub fn put(&self, key: &RevisionKey, object: K, stored: Option<&K::Status>) {
        let mut slots = self.lock();
        match slots.entry(key.clone()) {
            Entry::Vacant(_) if object.status() == stored => return,
            Entry::Vacant(vacant) => {
                vacant.insert(Slot { object, version: 0, under_way: true, failures: 0 });
            }
            Entry::Occupied(mut occupied) => {
                let slot = occupied.get_mut();
                if slot.object.status() != object.status() {
                    slot.version += 1;
                }
                slot.object = object;
                if std::mem::replace(&mut slot.under_way, true) {
                    return;
                }
            }
        }
        drop(slots);
        let (this, key) = (self.clone(), key.clone());
        self.shared.tasks.spawn(async move { this.write(&key).await });
    }

    /// The object is gone.
    pub fn forget(&self, key: &RevisionKey) {
        let mut slots = self.lock();
        if slots.get(key).is_some_and(|slot| !slot.under_way) {
            slots.remove(key);
        }
    }

    /// The objects `lost` chooses are another replica's to tell of. What could not be written of them must not be taken
    /// for news should they come back.
    pub fn let_go(&self, lost: impl Fn(&RevisionKey) -> bool) {
        self.lock().retain(|key, slot| slot.under_way || !lost(key));
    }

    async fn write(&self, key: &RevisionKey) {
        loop {
            let attempt = || self.attempt(key);
            let outcome = self.shared.ownership.act(key, self.shared.flow.write(Urgency::Status, attempt)).await;
            let mut slots = self.lock();
            let Entry::Occupied(mut slot) = slots.entry(key.clone()) else { return };
            match outcome {
                Some(Ok(version)) if version != slot.get().version => {}
                // Somebody else tells it now, or nobody needs to know any more.
                Some(Ok(_)) | None => return drop(slot.remove()),
                Some(Err(error)) if error.is_not_found() => return drop(slot.remove()),
                Some(Err(error)) => {
                    let slot = slot.get_mut();
                    slot.under_way = false;
                    let most = if error.is_unavailable() { AGAIN_AWAY } else { AGAIN_MOST };
                    let again = back_off(AGAIN_FIRST, most, slot.failures);
                    slot.failures = slot.failures.saturating_add(1);
                    let about = slot.object.object_ref(&());
                    drop(slots);
                    return self.failed(key, &error, about, again);
                }
            }
        }
    }

    fn failed(
        &self,
        key: &RevisionKey,
        error: &WriteError,
        about: k8s_openapi::api::core::v1::ObjectReference,
        again: Span,
    ) {
        let error = write_in_words(error);
        warn!(revision = %key, kind = &*K::kind(&()), error, "status not written; tried again");
        let note = format!("Failed to update status for {:?}: {error}", key.name());
        self.shared.events.warn(about, "UpdateFailed", &note);
        self.shared.queue.add_after(key.clone(), again);
    }

    /// Writes what is in the slot now, on top of the newest object known, and answers which version that was.
    async fn attempt(&self, key: &RevisionKey) -> Result<u64, kube::Error> {
        let Some((mut object, version)) = self.lock().get(key).map(|slot| (slot.object.clone(), slot.version)) else {
            return Ok(0);
        };
        if let Some(present) = self.shared.objects.get(key)
            && present.meta().uid == object.meta().uid
            && object.version() <= present.version()
        {
            if present.status() == object.status() {
                return Ok(version);
            }
            let status = object.status_mut().take();
            object = (*present).clone();
            *object.status_mut() = status;
        }
        if let Some(mut written) = status(self.shared.flow.client(), key, object).await? {
            written.meta_mut().managed_fields = None;
            self.shared.objects.note_written(key, written);
        } else {
            debug!(revision = %key, "status not written, the object was made anew");
        }
        Ok(version)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<RevisionKey, Slot<K>>> {
        self.shared.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
