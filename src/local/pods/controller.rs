//! The loop around [`deployment`]: makes and takes away pods as planned.

use crate::clock::Clock;
use crate::k8s::queue::{Lane, Queue, Workers};
use crate::local::knative::controllers::{living, turn};
use crate::local::meta::{controller_of, is_controlled_by, name, namespace};
use crate::local::pods::deployment;
use crate::local::world::{PodNews, World};
use crate::local::write::{is_gone, update_status};
use crate::units::RevisionKey;
use futures::StreamExt as _;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::api::{Api, DeleteParams, PostParams};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::info;

/// Deployments worked on at once.
const WORKERS: Workers = Workers::each(8);
/// Pods of one Deployment made or taken away at once.
const AT_ONCE: usize = 16;

/// Makes and takes away the pods of Deployments. Cheap to clone; all clones are one.
#[derive(Clone)]
pub(in crate::local) struct Pods {
    client: Client,
    world: World,
    clock: Clock,
    queue: Queue,
    /// Pods ordered that the watch has not told of yet, by Deployment: without it a look in between would order them
    /// again.
    on_their_way: Arc<Mutex<HashMap<RevisionKey, HashSet<String>>>>,
}

impl Pods {
    pub(in crate::local) fn new(client: Client, world: World, clock: Clock, queue: Queue) -> Self {
        Self { client, world, clock, queue, on_their_way: Arc::default() }
    }

    /// Takes note of what the watch tells.
    pub(in crate::local) fn take_in(&self, news: &PodNews) {
        let (PodNews::Put(pod) | PodNews::Gone(pod)) = news;
        if let Some(owner) = controller_of(&pod.metadata) {
            self.arrived(&RevisionKey::new(namespace(&pod.metadata), &owner.name), name(&pod.metadata));
        }
    }

    /// Works until `cancel`.
    pub(in crate::local) fn spawn(self, tasks: &TaskTracker, cancel: &CancellationToken) {
        let (queue, cancel) = (self.queue.clone(), cancel.clone());
        let work = move |key: RevisionKey| {
            let this = self.clone();
            turn("deployment", key.clone(), async move { this.look(&key).await })
        };
        tasks.spawn(async move { queue.run(WORKERS, cancel, work).await });
    }

    async fn look(&self, key: &RevisionKey) -> Result<(), kube::Error> {
        let Some(deployment) = living(&self.world.deployments, key) else {
            self.on_their_way.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
            return Ok(());
        };
        // Names, taken before the pods are looked up: one that arrives in between is then counted once, as a pod.
        let mut on_their_way = self.on_their_way(key);
        let pods = self.world.pods.select(|found, pod| {
            found.namespace() == key.namespace() && is_controlled_by(&pod.metadata, &deployment.metadata)
        });
        on_their_way.retain(|ordered| !pods.iter().any(|pod| name(&pod.metadata) == ordered));
        let plan = deployment::plan(&deployment, &pods, on_their_way.len(), self.clock.now());
        let mut new = deployment.as_ref().clone();
        new.status = Some(plan.status);
        let (made, removed, told) = tokio::join!(
            self.make(&deployment, key, plan.create),
            self.remove(key, plan.delete),
            update_status(&self.client, &self.world.deployments, &deployment, &new),
        );
        if let Some(delay) = plan.look_again_in {
            self.queue.add_after(key.clone(), delay);
        }
        made.and(removed).and(told)
    }

    async fn make(&self, deployment: &Arc<Deployment>, key: &RevisionKey, count: usize) -> Result<(), kube::Error> {
        if count > 0 {
            info!(count, "pods ordered");
        }
        let api: Api<Pod> = Api::namespaced(self.client.clone(), key.namespace());
        let orders = (0..count).map(|_| async {
            let pod = deployment::pod(deployment, rand::random());
            let pod_name = name(&pod.metadata).to_owned();
            self.ordered(key, &pod_name);
            let made = api.create(&PostParams::default(), &pod).await;
            if made.is_err() {
                self.arrived(key, &pod_name);
            }
            made.map(drop)
        });
        let made: Vec<_> = futures::stream::iter(orders).buffer_unordered(AT_ONCE).collect().await;
        made.into_iter().collect()
    }

    async fn remove(&self, key: &RevisionKey, pods: Vec<String>) -> Result<(), kube::Error> {
        if !pods.is_empty() {
            info!(count = pods.len(), "pods taken away");
        }
        let api: Api<Pod> = Api::namespaced(self.client.clone(), key.namespace());
        let removals = pods.into_iter().map(|pod| async {
            // Owned by the future: a borrowed name would tie it to one lifetime.
            let pod = pod;
            match api.delete(&pod, &DeleteParams::default()).await {
                Err(error) if !is_gone(&error) => Err(error),
                _ => Ok(()),
            }
        });
        let removed: Vec<_> = futures::stream::iter(removals).buffer_unordered(AT_ONCE).collect().await;
        removed.into_iter().collect()
    }

    fn on_their_way(&self, deployment: &RevisionKey) -> HashSet<String> {
        let waiting = self.on_their_way.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.get(deployment).cloned().unwrap_or_default()
    }

    fn ordered(&self, deployment: &RevisionKey, pod: &str) {
        let mut waiting = self.on_their_way.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.entry(deployment.clone()).or_default().insert(pod.to_owned());
    }

    /// A pod ordered is there, or will never be.
    fn arrived(&self, deployment: &RevisionKey, pod: &str) {
        let mut waiting = self.on_their_way.lock().unwrap_or_else(PoisonError::into_inner);
        let known = waiting.get_mut(deployment).is_some_and(|pods| pods.remove(pod));
        if known && waiting.get(deployment).is_some_and(HashSet::is_empty) {
            waiting.remove(deployment);
        }
        drop(waiting);
        if known {
            self.queue.add(deployment.clone(), Lane::Fast);
        }
    }
}
