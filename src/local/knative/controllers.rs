//! The loops around the plans: look at the caches, plan, write what differs.

use crate::api::annotations::Overrides;
use crate::api::names::{
    REVISION_UID_LABEL, ROUTE_LABEL, ROUTES_ANNOTATION, ROUTING_STATE_LABEL, ROUTING_STATE_MODIFIED_ANNOTATION,
};
use crate::api::serving::{Configuration, Revision, Route};
use crate::clock::Clock;
use crate::k8s::cache::Cache;
use crate::k8s::queue::{Turn, Workers};
use crate::local::knative::configuration::Latest;
use crate::local::knative::route::Network;
use crate::local::knative::{configuration, instant_text, revision, route, serverless_service, service};
use crate::local::meta::{is_controlled_by, label, name, namespace};
use crate::local::pods::container::runnable;
use crate::local::world::{AutoscalerSettings, Queues, World};
use crate::local::write::{create, is_gone, update, update_status};
use crate::units::RevisionKey;
use k8s_openapi::api::core::v1::{Pod, Service as CoreService};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{Api, Client};
use std::future::Future;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument as _, debug, info_span, warn};

/// Objects of one kind worked on at once.
const WORKERS: Workers = Workers::each(8);

/// What the controllers work with.
#[derive(Clone)]
pub(in crate::local) struct Controllers {
    pub(in crate::local) client: Client,
    pub(in crate::local) world: World,
    pub(in crate::local) clock: Clock,
    pub(in crate::local) network: Network,
    pub(in crate::local) settings: AutoscalerSettings,
}

impl Controllers {
    /// Works until `cancel`.
    pub(in crate::local) fn spawn(self, queues: &Queues, tasks: &TaskTracker, cancel: &CancellationToken) {
        let this = Arc::new(self);
        macro_rules! run {
            ($queue:expr, $kind:literal, $reconcile:ident) => {{
                let this = Arc::clone(&this);
                let work = move |key: RevisionKey| {
                    let this = Arc::clone(&this);
                    turn($kind, key.clone(), async move { this.$reconcile(&key).await })
                };
                let (queue, cancel) = ($queue.clone(), cancel.clone());
                tasks.spawn(async move { queue.run(WORKERS, cancel, work).await });
            }};
        }
        run!(queues.services, "service", service);
        run!(queues.configurations, "configuration", configuration);
        run!(queues.revisions, "revision", revision);
        run!(queues.routes, "route", route);
        run!(queues.serverless_services, "serverlessservice", serverless_service);
    }

    async fn service(&self, key: &RevisionKey) -> Result<(), kube::Error> {
        let Some(service) = living(&self.world.services, key) else { return Ok(()) };
        let existing = self.world.configurations.get(key);
        let wanted = service::configuration(&service, existing.as_deref());
        self.put(&self.world.configurations, existing.as_deref(), &wanted, |old, wanted| {
            let mut new = old.clone();
            new.spec = wanted.spec.clone();
            new
        })
        .await?;
        // A revision whose name the user chose must be the right one before traffic is sent to it.
        let named = service.spec.template.metadata.as_ref().is_some_and(|meta| meta.name.is_some());
        let configuration = self.world.configurations.get(key);
        let caught_up = configuration.as_ref().is_some_and(|configuration| {
            configuration.status.as_ref().map(|status| status.observed_generation) == configuration.metadata.generation
        });
        if !named || caught_up {
            let existing = self.world.routes.get(key);
            self.put(&self.world.routes, existing.as_deref(), &service::route(&service), |old, wanted| {
                let mut new = old.clone();
                new.spec = wanted.spec.clone();
                new
            })
            .await?;
        }
        let mut new = service.as_ref().clone();
        let (configuration, route) = (self.world.configurations.get(key), self.world.routes.get(key));
        new.status = Some(service::status(&service, configuration.as_deref(), route.as_deref(), self.clock.now()));
        update_status(&self.client, &self.world.services, &service, &new).await
    }

    async fn configuration(&self, key: &RevisionKey) -> Result<(), kube::Error> {
        let Some(configuration) = living(&self.world.configurations, key) else { return Ok(()) };
        if configuration::latest(&configuration, &self.revisions_in(key)) == Latest::Missing {
            let wanted = configuration::revision(&configuration, self.clock.now());
            create(&self.client, &self.world.revisions, &wanted).await?;
        }
        let revisions = self.revisions_in(key);
        let latest = configuration::latest(&configuration, &revisions);
        let mut new = configuration.as_ref().clone();
        new.status = Some(configuration::status(&configuration, &latest, &revisions, self.clock.now()));
        update_status(&self.client, &self.world.configurations, &configuration, &new).await
    }

    async fn revision(&self, key: &RevisionKey) -> Result<(), kube::Error> {
        let Some(revision) = living(&self.world.revisions, key) else { return Ok(()) };
        let deployment_key = RevisionKey::new(key.namespace(), &revision::deployment_name(key.name()));
        // One that cannot run here says so in its status; a Deployment would only fail more quietly.
        if revision.spec.pod.containers.first().is_some_and(|container| runnable(container).is_ok()) {
            let deployment = self.world.deployments.get(&deployment_key);
            if deployment.is_none() {
                let wanted = revision::deployment(&revision, self.initial_scale(&revision));
                create(&self.client, &self.world.deployments, &wanted).await?;
            }
            let wanted = revision::pod_autoscaler(&revision, deployment.as_deref());
            match self.world.pod_autoscalers.get(key) {
                None => create(&self.client, &self.world.pod_autoscalers, &wanted).await?,
                Some(existing) if is_controlled_by(&existing.metadata, &revision.metadata) => {
                    let synced = revision::synced_pod_autoscaler(&existing, &wanted);
                    update(&self.client, &self.world.pod_autoscalers, &existing, &synced).await?;
                }
                Some(_) => {}
            }
        }
        let mut new = revision.as_ref().clone();
        new.status = Some(revision::status(
            &revision,
            self.world.deployments.get(&deployment_key).as_deref(),
            self.world.pod_autoscalers.get(key).as_deref(),
            &self.pods_of(key.namespace(), revision.metadata.uid.as_deref().unwrap_or_default()),
            self.clock.now(),
        ));
        update_status(&self.client, &self.world.revisions, &revision, &new).await
    }

    async fn route(&self, key: &RevisionKey) -> Result<(), kube::Error> {
        let Some(route) = living(&self.world.routes, key) else { return Ok(()) };
        let (configurations, revisions) = (self.configurations_in(key), self.revisions_in(key));
        let traffic = route::traffic(&route, &configurations, &revisions);
        if let Ok(traffic) = &traffic {
            let existing = self.world.ingresses.get(key);
            let wanted = route::ingress(&route, traffic, &self.network);
            self.put(&self.world.ingresses, existing.as_deref(), &wanted, |old, wanted| {
                let mut new = old.clone();
                new.spec = wanted.spec.clone();
                new
            })
            .await?;
            self.placeholders(&route, traffic, key).await?;
        }
        let mut new = route.as_ref().clone();
        let ingress = self.world.ingresses.get(key);
        new.status = Some(route::status(&route, &traffic, ingress.as_deref(), &self.network, self.clock.now()));
        update_status(&self.client, &self.world.routes, &route, &new).await?;
        self.mark_destinations(&new, &configurations, &revisions).await
    }

    /// Makes the Services of a route and its tags, and takes away those of tags it has no more.
    async fn placeholders(
        &self,
        route: &Route,
        traffic: &route::Traffic,
        key: &RevisionKey,
    ) -> Result<(), kube::Error> {
        let ingress = self.world.ingresses.get(key);
        let wanted = route::placeholders(route, traffic, ingress.as_deref(), &self.network);
        for wanted in &wanted {
            self.put_service(wanted).await?;
        }
        let superfluous = self.world.core_services.select(|found, service| {
            found.namespace() == key.namespace()
                && label(&service.metadata, ROUTE_LABEL) == key.name()
                && is_controlled_by(&service.metadata, &route.metadata)
                && !wanted.iter().any(|wanted| wanted.metadata.name == service.metadata.name)
        });
        for service in superfluous {
            let api: Api<CoreService> = Api::namespaced(self.client.clone(), key.namespace());
            match api.delete(name(&service.metadata), &kube::api::DeleteParams::default()).await {
                Err(error) if !is_gone(&error) => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Marks what a route leads to, so that it is known to be reachable, and takes the mark off what it no longer leads
    /// to, once the route itself has settled.
    async fn mark_destinations(
        &self,
        route: &Route,
        configurations: &[Arc<Configuration>],
        revisions: &[Arc<Revision>],
    ) -> Result<(), kube::Error> {
        let (to_revisions, to_configurations) = route::destinations(route, configurations, revisions);
        let route_name = name(&route.metadata);
        let settled = route.status.as_ref().is_some_and(|status| {
            crate::api::conditions::find(&status.conditions, crate::api::conditions::READY)
                .is_some_and(|ready| ready.status != crate::api::conditions::Status::Unknown)
        });
        for revision in revisions {
            let is_marked = route::is_marked(&revision.metadata, route_name);
            let wanted = to_revisions.contains(name(&revision.metadata));
            if !(wanted || settled && is_marked) {
                continue;
            }
            let mut new = revision.as_ref().clone();
            let routes = route::marked(&revision.metadata, route_name, wanted);
            let state = if routes.is_some() { "active" } else { "reserve" };
            let annotations = new.metadata.annotations.get_or_insert_default();
            match routes {
                Some(routes) => annotations.insert(ROUTES_ANNOTATION.to_owned(), routes),
                None => annotations.remove(ROUTES_ANNOTATION),
            };
            if label(&revision.metadata, ROUTING_STATE_LABEL) != state {
                annotations.insert(ROUTING_STATE_MODIFIED_ANNOTATION.to_owned(), instant_text(self.clock.now()));
                let labels = new.metadata.labels.get_or_insert_default();
                labels.insert(ROUTING_STATE_LABEL.to_owned(), state.to_owned());
            }
            update(&self.client, &self.world.revisions, revision, &new).await?;
        }
        for configuration in configurations {
            let is_marked = route::is_marked(&configuration.metadata, route_name);
            let wanted = to_configurations.contains(name(&configuration.metadata));
            if !(wanted || settled && is_marked) {
                continue;
            }
            let mut new = configuration.as_ref().clone();
            let annotations = new.metadata.annotations.get_or_insert_default();
            match route::marked(&configuration.metadata, route_name, wanted) {
                Some(routes) => annotations.insert(ROUTES_ANNOTATION.to_owned(), routes),
                None => annotations.remove(ROUTES_ANNOTATION),
            };
            update(&self.client, &self.world.configurations, configuration, &new).await?;
        }
        Ok(())
    }

    async fn serverless_service(&self, key: &RevisionKey) -> Result<(), kube::Error> {
        let Some(sks) = living(&self.world.serverless_services, key) else { return Ok(()) };
        let target = RevisionKey::new(key.namespace(), &sks.spec.object_ref.name);
        // The private Service selects what its target selects; before there is a target, what the label promises.
        let selector = self
            .world
            .deployments
            .get(&target)
            .and_then(|deployment| deployment.spec.as_ref()?.selector.match_labels.clone())
            .unwrap_or_else(|| {
                [(REVISION_UID_LABEL.to_owned(), label(&sks.metadata, REVISION_UID_LABEL).to_owned())].into()
            });
        let uid = selector.get(REVISION_UID_LABEL).cloned().unwrap_or_default();
        let pods = self.pods_of(key.namespace(), &uid);
        let activators = self.world.activators();

        // Endpoints first: they are what somebody waits for.
        self.put_slice(&serverless_service::private_slice(&sks, &pods)).await?;
        self.put_slice(&serverless_service::public_slice(&sks, &pods, &activators)).await?;
        self.put_service(&serverless_service::private_service(&sks, selector)).await?;
        self.put_service(&serverless_service::public_service(&sks)).await?;
        let mut new = sks.as_ref().clone();
        new.status = Some(serverless_service::status(&sks, &pods, self.clock.now()));
        update_status(&self.client, &self.world.serverless_services, &sks, &new).await
    }

    async fn put_slice(&self, wanted: &EndpointSlice) -> Result<(), kube::Error> {
        let key = RevisionKey::new(namespace(&wanted.metadata), name(&wanted.metadata));
        let existing = self.world.slices.get(&key);
        self.put(&self.world.slices, existing.as_deref(), wanted, |old, wanted| {
            let mut new = old.clone();
            new.endpoints.clone_from(&wanted.endpoints);
            new.ports.clone_from(&wanted.ports);
            new
        })
        .await
    }

    async fn put_service(&self, wanted: &CoreService) -> Result<(), kube::Error> {
        let key = RevisionKey::new(namespace(&wanted.metadata), name(&wanted.metadata));
        let existing = self.world.core_services.get(&key);
        self.put(&self.world.core_services, existing.as_deref(), wanted, |old, wanted| {
            let mut new = old.clone();
            if let (Some(new), Some(wanted)) = (&mut new.spec, &wanted.spec) {
                new.ports.clone_from(&wanted.ports);
                new.selector.clone_from(&wanted.selector);
                new.external_name.clone_from(&wanted.external_name);
            }
            new
        })
        .await
    }

    /// Makes an object, or gives the existing one the labels and annotations wanted and what `take_over` takes over. One
    /// of somebody else's is left alone.
    async fn put<K: crate::local::write::Writable>(
        &self,
        cache: &Cache<K>,
        existing: Option<&K>,
        wanted: &K,
        take_over: impl FnOnce(&K, &K) -> K,
    ) -> Result<(), kube::Error> {
        let Some(existing) = existing else { return create(&self.client, cache, wanted).await };
        let owner = |object: &K| crate::local::meta::controller_of(object.meta()).map(|owner| owner.uid.clone());
        if owner(existing) != owner(wanted) {
            debug!(name = name(existing.meta()), kind = %K::kind(&()), "left alone: it has another owner");
            return Ok(());
        }
        let mut new = take_over(existing, wanted);
        new.meta_mut().labels.clone_from(&wanted.meta().labels);
        new.meta_mut().annotations.clone_from(&wanted.meta().annotations);
        update(&self.client, cache, existing, &new).await
    }

    fn initial_scale(&self, revision: &Revision) -> i32 {
        let settings = self.settings.get();
        let annotations = revision.metadata.annotations.clone().unwrap_or_default();
        let (overrides, _) = Overrides::read(&annotations, self.settings.compat());
        overrides.initial_scale.map_or(settings.initial_scale, |wanted| wanted.value)
    }

    fn configurations_in(&self, key: &RevisionKey) -> Vec<Arc<Configuration>> {
        self.world.configurations.select(|found, _| found.namespace() == key.namespace())
    }

    fn revisions_in(&self, key: &RevisionKey) -> Vec<Arc<Revision>> {
        self.world.revisions.select(|found, _| found.namespace() == key.namespace())
    }

    fn pods_of(&self, namespace: &str, revision_uid: &str) -> Vec<Arc<Pod>> {
        self.world.pods.select(|found, pod| {
            found.namespace() == namespace && label(&pod.metadata, REVISION_UID_LABEL) == revision_uid
        })
    }
}

/// One look at one object. What could not be written is tried again after a back-off.
pub(in crate::local) async fn turn(
    kind: &'static str,
    key: RevisionKey,
    work: impl Future<Output = Result<(), kube::Error>>,
) -> Turn {
    let span = info_span!("reconcile", kind, namespace = key.namespace(), name = key.name());
    async move {
        match work.await {
            Ok(()) => Turn::Done,
            // The namespace or the owner is going; the watch will tell.
            Err(error) if is_gone(&error) => {
                debug!(%error, "an object needed is gone");
                Turn::Done
            }
            Err(error) => {
                warn!(%error, "not written; tried again");
                Turn::Retry
            }
        }
    }
    .instrument(span)
    .await
}

/// The object of a name, unless it is being deleted.
pub(in crate::local) fn living<K: kube::Resource>(cache: &Cache<K>, key: &RevisionKey) -> Option<Arc<K>> {
    cache.get(key).filter(|object| object.meta().deletion_timestamp.is_none())
}
