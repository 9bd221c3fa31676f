//! Everything the local cluster's controllers look at, kept current by one watch per kind, and who is to look again
//! when something of it changes.

use crate::api::ingress::Ingress;
use crate::api::names::{
    ACTIVATOR_SERVICE, CONFIGURATION_LABEL, REVISION_LABEL, SLICE_SERVICE_LABEL, SYSTEM_NAMESPACE,
};
use crate::api::pod_autoscaler::PodAutoscaler;
use crate::api::serverless_service::ServerlessService;
use crate::api::serving::{Configuration, Revision, Route, Service};
use crate::clock::Clock;
use crate::config;
use crate::k8s::cache::Cache;
use crate::k8s::follow::{Change, follow};
use crate::k8s::queue::{Lane, Queue};
use crate::k8s::slim::Guarded;
use crate::local::meta::{controller_of, label, name, namespace};
use crate::units::{Compat, RevisionKey};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Service as CoreService};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::runtime::watcher;
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::sync::{Arc, PoisonError, RwLock};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

/// The settings of config-autoscaler in force: the last good ones. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct AutoscalerSettings {
    compat: Compat,
    live: Arc<RwLock<Arc<config::Autoscaler>>>,
}

impl AutoscalerSettings {
    /// Knative's defaults, until the ConfigMap says otherwise.
    pub fn new(compat: Compat) -> Self {
        Self { compat, live: Arc::default() }
    }

    /// Which sharp edges of the reference are kept.
    pub fn compat(&self) -> Compat {
        self.compat
    }

    /// The settings now.
    pub fn get(&self) -> Arc<config::Autoscaler> {
        Arc::clone(&self.live.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn take_in(&self, map: &ConfigMap) {
        match config::Autoscaler::parse(map.data.as_ref().unwrap_or(&config::Data::new()), self.compat) {
            Ok(new) => *self.live.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(new),
            Err(error) => warn!(%error, "config-autoscaler cannot be used; the last good settings stay"),
        }
    }
}

/// The objects. Cheap to clone; all clones are one.
#[derive(Clone, Debug, Default)]
pub(super) struct World {
    pub(super) services: Cache<Service>,
    pub(super) configurations: Cache<Configuration>,
    pub(super) revisions: Cache<Revision>,
    pub(super) routes: Cache<Route>,
    pub(super) ingresses: Cache<Ingress>,
    pub(super) pod_autoscalers: Cache<PodAutoscaler>,
    pub(super) serverless_services: Cache<ServerlessService>,
    pub(super) deployments: Cache<Deployment>,
    pub(super) pods: Cache<Pod>,
    pub(super) core_services: Cache<CoreService>,
    pub(super) slices: Cache<EndpointSlice>,
}

/// Who is to look again, by kind and name. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub(super) struct Queues {
    pub(super) services: Queue,
    pub(super) configurations: Queue,
    pub(super) revisions: Queue,
    pub(super) routes: Queue,
    pub(super) ingresses: Queue,
    pub(super) serverless_services: Queue,
    pub(super) deployments: Queue,
}

impl Queues {
    pub(super) fn new(clock: Clock) -> Self {
        let queue = || Queue::new(clock);
        Self {
            services: queue(),
            configurations: queue(),
            revisions: queue(),
            routes: queue(),
            ingresses: queue(),
            serverless_services: queue(),
            deployments: queue(),
        }
    }
}

/// What happened to a pod, told to the kubelet.
#[derive(Debug)]
pub(super) enum PodNews {
    /// It is new or different.
    Put(Arc<Pod>),
    /// It is gone.
    Gone(Arc<Pod>),
}

impl World {
    /// Waits until every object that existed at the start is here.
    pub(super) async fn synced(&self) {
        tokio::join!(
            self.services.synced(),
            self.configurations.synced(),
            self.revisions.synced(),
            self.routes.synced(),
            self.ingresses.synced(),
            self.pod_autoscalers.synced(),
            self.serverless_services.synced(),
            self.deployments.synced(),
            self.pods.synced(),
            self.core_services.synced(),
            self.slices.synced(),
        );
    }

    /// Follows all kinds until `cancel`. `on_pod` is told of every change of a pod, in order, without waiting.
    pub(super) fn watch(
        &self,
        client: &Client,
        queues: &Queues,
        settings: &AutoscalerSettings,
        on_pod: impl Fn(PodNews) + Send + 'static,
        tasks: &TaskTracker,
        cancel: &CancellationToken,
    ) {
        let watcher = Watcher { client, tasks, cancel };
        let q = queues.clone();
        watcher.spawn(&self.services, move |key, _| fast(&q.services, key.clone()));
        let (q, world) = (queues.clone(), self.clone());
        watcher.spawn(&self.configurations, move |key, configuration| {
            fast(&q.configurations, key.clone());
            owner(&configuration.metadata, "Service", &q.services);
            world.wake_routes(&q, namespace(&configuration.metadata), key.name(), "");
        });
        let (q, world) = (queues.clone(), self.clone());
        watcher.spawn(&self.revisions, move |key, revision| {
            fast(&q.revisions, key.clone());
            owner(&revision.metadata, "Configuration", &q.configurations);
            let configuration = label(&revision.metadata, CONFIGURATION_LABEL);
            world.wake_routes(&q, namespace(&revision.metadata), configuration, key.name());
        });
        let q = queues.clone();
        watcher.spawn(&self.routes, move |key, route| {
            fast(&q.routes, key.clone());
            owner(&route.metadata, "Service", &q.services);
        });
        let q = queues.clone();
        watcher.spawn(&self.ingresses, move |key, ingress| {
            fast(&q.ingresses, key.clone());
            owner(&ingress.metadata, "Route", &q.routes);
        });
        let q = queues.clone();
        watcher.spawn(&self.pod_autoscalers, move |_, pa| owner(&pa.metadata, "Revision", &q.revisions));
        let q = queues.clone();
        watcher.spawn(&self.serverless_services, move |key, _| fast(&q.serverless_services, key.clone()));
        let q = queues.clone();
        watcher.spawn(&self.deployments, move |key, deployment| {
            fast(&q.deployments, key.clone());
            owner(&deployment.metadata, "Revision", &q.revisions);
        });
        let q = queues.clone();
        let pods = self.pods.clone();
        watcher.spawn(&self.pods, move |key, pod| {
            on_pod(match pods.get(key) {
                Some(present) => PodNews::Put(present),
                None => PodNews::Gone(Arc::new(pod.clone())),
            });
            owner(&pod.metadata, "Deployment", &q.deployments);
            let revision = label(&pod.metadata, REVISION_LABEL);
            if !revision.is_empty() {
                let key = RevisionKey::new(key.namespace(), revision);
                fast(&q.serverless_services, key.clone());
                fast(&q.revisions, key);
            }
        });
        let q = queues.clone();
        watcher.spawn(&self.core_services, move |_, service| {
            owner(&service.metadata, "ServerlessService", &q.serverless_services);
            owner(&service.metadata, "Route", &q.routes);
        });
        let (q, world) = (queues.clone(), self.clone());
        watcher.spawn(&self.slices, move |key, slice| {
            owner(&slice.metadata, "ServerlessService", &q.serverless_services);
            if is_of_activators(key, &slice.metadata) {
                for key in world.serverless_services.keys() {
                    q.serverless_services.add(key, Lane::Slow);
                }
            }
        });
        let settings = settings.clone();
        let config = watcher::Config::default().fields("metadata.name=config-autoscaler");
        watcher.spawn_with(Api::namespaced(client.clone(), SYSTEM_NAMESPACE), config, move |change| {
            if let Change::Put(_, map) = change {
                info!("config-autoscaler read");
                settings.take_in(&map);
            }
        });
    }

    /// The slices of the activators.
    pub(super) fn activators(&self) -> Vec<EndpointSlice> {
        let slices = self.slices.select(|key, slice| is_of_activators(key, &slice.metadata));
        slices.iter().map(|slice| EndpointSlice::clone(slice)).collect()
    }

    /// The routes whose traffic names the configuration or the revision.
    fn wake_routes(&self, queues: &Queues, in_namespace: &str, configuration: &str, revision: &str) {
        let concerned = self.routes.select(|key, route| {
            key.namespace() == in_namespace
                && route.spec.traffic.iter().any(|target| {
                    target.configuration_name.as_deref() == Some(configuration)
                        || target.revision_name.as_deref().is_some_and(|name| name == revision)
                })
                || key.namespace() == in_namespace && key.name() == configuration
        });
        for route in concerned {
            fast(&queues.routes, RevisionKey::new(in_namespace, name(&route.metadata)));
        }
    }
}

fn is_of_activators(key: &RevisionKey, meta: &ObjectMeta) -> bool {
    key.namespace() == SYSTEM_NAMESPACE && label(meta, SLICE_SERVICE_LABEL) == ACTIVATOR_SERVICE
}

fn fast(queue: &Queue, key: RevisionKey) {
    queue.add(key, Lane::Fast);
}

/// Wakes the owner of `kind` of an object, if that is what owns it.
fn owner(meta: &ObjectMeta, kind: &str, queue: &Queue) {
    if let Some(owner) = controller_of(meta).filter(|owner| owner.kind == kind) {
        fast(queue, RevisionKey::new(namespace(meta), &owner.name));
    }
}

struct Watcher<'a> {
    client: &'a Client,
    tasks: &'a TaskTracker,
    cancel: &'a CancellationToken,
}

impl Watcher<'_> {
    /// Follows all objects of a kind into `cache`; `wake` sees each that changed, as it is now or was at last.
    fn spawn<K>(&self, cache: &Cache<K>, wake: impl Fn(&RevisionKey, &K) + Send + 'static)
    where
        K: Kind,
    {
        let (cache, api) = (cache.clone(), Api::all(self.client.clone()));
        self.spawn_with(api, watcher::Config::default(), move |mut change: Change<K>| {
            if let Change::Put(_, object) = &mut change {
                // The longest part of most objects, and nobody here reads it.
                object.meta_mut().managed_fields = None;
            }
            if let Some((key, object)) = cache.take_in(change) {
                wake(&key, &object);
            }
        });
    }

    fn spawn_with<K>(&self, api: Api<Guarded<K>>, config: watcher::Config, sink: impl FnMut(Change<K>) + Send + 'static)
    where
        K: Kind,
    {
        self.tasks.spawn(follow(api, config, self.cancel.clone(), sink));
    }
}

/// A kind that can be followed.
pub(super) trait Kind:
    Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static
{
}

impl<K> Kind for K where K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static {}
