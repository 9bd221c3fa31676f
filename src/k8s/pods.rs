//! The pods of revisions, indexed by revision, so that a look at one costs nothing for the others.

use crate::api::names::REVISION_UID_LABEL;
use crate::api::pods::{Hindrance, PodCounts, PodFacts, Progress, ReadyPod};
use crate::k8s::follow::{Change, follow};
use crate::k8s::slim::{Guarded, SlimPod};
use crate::units::RevisionKey;
use kube::runtime::watcher;
use kube::{Api, Client};
use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The index. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct PodIndex {
    state: Arc<RwLock<State>>,
    synced: Arc<watch::Sender<bool>>,
}

#[derive(Default)]
struct State {
    /// Which revision a pod belongs to, by the pod's own name.
    revision_of: HashMap<RevisionKey, RevisionKey>,
    pods: HashMap<RevisionKey, Vec<PodFacts>>,
}

impl Default for PodIndex {
    fn default() -> Self {
        Self { state: Arc::default(), synced: Arc::new(watch::Sender::new(false)) }
    }
}

impl PodIndex {
    /// Follows the pods of all revisions until `cancel` and tells `changed` which revision's pods differ.
    pub async fn follow(&self, client: Client, cancel: CancellationToken, changed: impl Fn(&RevisionKey)) {
        let api: Api<Guarded<SlimPod>> = Api::all(client);
        let config = watcher::Config::default().labels(REVISION_UID_LABEL);
        follow(api, config, cancel, |change: Change<SlimPod>| {
            for revision in self.take_in(change) {
                changed(&revision);
            }
        })
        .await;
    }

    /// How many pods of the revision are in each state.
    pub fn counts(&self, revision: &RevisionKey) -> PodCounts {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        PodCounts::of(state.pods.get(revision).into_iter().flatten())
    }

    /// What keeps pods of the revision from becoming ready: how many are hindered, and one of the hindrances that is told
    /// of first.
    pub fn hindered(&self, revision: &RevisionKey) -> Option<(usize, Arc<Hindrance>)> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let pods = state.pods.get(revision).into_iter().flatten();
        let mut of = pods.filter(|pod| !pod.terminating && !pod.is_ready()).filter_map(|pod| pod.hindered.as_ref());
        let first = of.clone().min_by_key(|hindrance| hindrance.kind)?;
        Some((of.by_ref().count(), Arc::clone(first)))
    }

    /// How far the foremost pod of the revision has come that is not on its way out.
    pub fn foremost(&self, revision: &RevisionKey) -> Option<Progress> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let pods = state.pods.get(revision).into_iter().flatten().filter(|pod| !pod.terminating);
        pods.map(PodFacts::progress).max()
    }

    /// The ready pods of the revision, in no order.
    pub fn ready_pods(&self, revision: &RevisionKey) -> Vec<ReadyPod> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        ReadyPod::of(state.pods.get(revision).into_iter().flatten())
    }

    /// How many pods of the revision are ready.
    pub fn ready(&self, revision: &RevisionKey) -> i32 {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let ready = state.pods.get(revision).into_iter().flatten().filter(|pod| pod.is_ready()).count();
        i32::try_from(ready).unwrap_or(i32::MAX)
    }

    /// Waits until every pod that existed at the start is here.
    pub async fn synced(&self) {
        // The sender lives in `self`, so the wait cannot fail.
        let _ = self.synced.subscribe().wait_for(|synced| *synced).await;
    }

    fn take_in(&self, change: Change<SlimPod>) -> Vec<RevisionKey> {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let mut touched = Vec::new();
        match change {
            Change::Put(pod, object) => {
                touched = state.put(pod, object.into_facts());
            }
            Change::Gone(pod) => touched.extend(state.remove(&pod)),
            Change::Synced => {
                self.synced.send_replace(true);
            }
        }
        touched
    }
}

impl State {
    /// Takes in what a pod is now, and says which revisions that changes: none when it is as it was in all that is kept.
    fn put(&mut self, pod: RevisionKey, mut facts: PodFacts) -> Vec<RevisionKey> {
        let named = |key: &RevisionKey| key.namespace() == &*facts.namespace && key.name() == &*facts.revision;
        if let Some(revision) = self.revision_of.get(&pod).filter(|revision| named(revision)).cloned() {
            let mut siblings = self.pods.get_mut(&revision).into_iter().flatten();
            return match siblings.find(|present| present.name == facts.name) {
                Some(present) if *present != facts => {
                    *present = facts;
                    vec![revision]
                }
                _ => Vec::new(),
            };
        }
        let mut touched: Vec<_> = self.remove(&pod).into_iter().collect();
        let revision = RevisionKey::new(&facts.namespace, &facts.revision);
        // Pods of one revision share its names.
        let revision = self.pods.get_key_value(&revision).map_or(revision, |(known, _)| known.clone());
        let siblings = self.pods.entry(revision.clone()).or_default();
        if let Some(sibling) = siblings.first() {
            (facts.namespace, facts.revision) = (sibling.namespace.clone(), sibling.revision.clone());
        }
        siblings.push(facts);
        self.revision_of.insert(pod, revision.clone());
        touched.push(revision);
        touched
    }

    fn remove(&mut self, pod: &RevisionKey) -> Option<RevisionKey> {
        let revision = self.revision_of.remove(pod)?;
        if let Some(pods) = self.pods.get_mut(&revision) {
            pods.retain(|facts| &*facts.name != pod.name());
            if pods.is_empty() {
                self.pods.remove(&revision);
            }
        }
        Some(revision)
    }
}
