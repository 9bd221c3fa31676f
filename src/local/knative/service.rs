//! A Service is a Configuration and a Route of the same name, and the sum of their conditions.

use crate::api::conditions::{self, Conditions, Status, settle_times};
use crate::api::names::{LAST_APPLIED_ANNOTATION, ROUTES_ANNOTATION, SERVICE_LABEL, SERVICE_UID_LABEL};
use crate::api::serving::{Configuration, ConfigurationSpec, Route, RouteSpec, Service, ServiceStatus, TrafficTarget};
use crate::local::knative::routes_of;
use crate::local::meta::{controlled_by, is_controlled_by, name, words};
use crate::units::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// Annotation: how long traffic takes to move to a new revision. A route's matter, not a configuration's.
const ROLLOUT_DURATION_ANNOTATION: &str = "serving.knative.dev/rollout-duration";

/// The Configuration of a Service. Routes already listed on the existing one stay listed.
pub fn configuration(service: &Service, existing: Option<&Configuration>) -> Configuration {
    let meta = &service.metadata;
    let mut routes = existing.map(|existing| routes_of(&existing.metadata)).unwrap_or_default();
    routes.insert(name(meta).to_owned());
    let routes = routes.into_iter().collect::<Vec<_>>().join(",");
    let metadata = ObjectMeta {
        name: meta.name.clone(),
        namespace: meta.namespace.clone(),
        owner_references: Some(controlled_by(service)),
        labels: Some(words(
            meta.labels.as_ref(),
            &[],
            [(SERVICE_LABEL, name(meta)), (SERVICE_UID_LABEL, meta.uid.as_deref().unwrap_or_default())],
        )),
        annotations: Some(words(
            meta.annotations.as_ref(),
            &[LAST_APPLIED_ANNOTATION, ROLLOUT_DURATION_ANNOTATION],
            [(ROUTES_ANNOTATION, &routes)],
        )),
        ..ObjectMeta::default()
    };
    Configuration { metadata, spec: ConfigurationSpec { template: service.spec.template.clone() }, status: None }
}

/// The Route of a Service: its traffic, with "the latest" meaning the Service's own configuration.
pub fn route(service: &Service) -> Route {
    let meta = &service.metadata;
    let mut traffic = service.spec.traffic.clone();
    if traffic.is_empty() {
        traffic.push(TrafficTarget { latest_revision: Some(true), percent: Some(100), ..TrafficTarget::default() });
    }
    for target in &mut traffic {
        if target.revision_name.is_none() {
            target.configuration_name = Some(name(meta).to_owned());
        }
    }
    let metadata = ObjectMeta {
        name: meta.name.clone(),
        namespace: meta.namespace.clone(),
        owner_references: Some(controlled_by(service)),
        labels: Some(words(meta.labels.as_ref(), &[], [(SERVICE_LABEL, name(meta))])),
        annotations: Some(words(meta.annotations.as_ref(), &[LAST_APPLIED_ANNOTATION], [])),
        ..ObjectMeta::default()
    };
    Route { metadata, spec: RouteSpec { traffic }, status: None }
}

/// The status that follows from those of the Configuration and the Route.
pub fn status(
    service: &Service,
    configuration: Option<&Configuration>,
    route: Option<&Route>,
    now: Timestamp,
) -> ServiceStatus {
    let stored = service.status.clone().unwrap_or_default();
    let mut status = ServiceStatus { observed_generation: service.metadata.generation.unwrap_or(0), ..stored.clone() };
    let mut conditions = status.conditions.clone();
    let mut open = Conditions::of(&conditions::SERVICE, &mut conditions, now);
    open.initialize();

    match configuration {
        Some(configuration) if !is_controlled_by(&configuration.metadata, &service.metadata) => {
            let message = not_owned("Configuration", name(&configuration.metadata));
            open.mark_false("ConfigurationsReady", "NotOwned", &message);
        }
        Some(configuration)
            if observed(&configuration.metadata, configuration.status.as_ref(), |s| s.observed_generation) =>
        {
            let from = configuration.status.clone().unwrap_or_default();
            follow(&mut open, "ConfigurationsReady", &from.conditions);
            status.latest_created_revision_name = from.latest_created_revision_name;
            status.latest_ready_revision_name = from.latest_ready_revision_name;
        }
        _ => open.mark_unknown(
            "ConfigurationsReady",
            "OutOfDate",
            "The Configuration is still working to reflect the latest desired specification.",
        ),
    }

    match route {
        Some(route) if !is_controlled_by(&route.metadata, &service.metadata) => {
            open.mark_false("RoutesReady", "NotOwned", &not_owned("Route", name(&route.metadata)));
        }
        Some(route) if observed(&route.metadata, route.status.as_ref(), |s| s.observed_generation) => {
            let from = route.status.clone().unwrap_or_default();
            follow(&mut open, "RoutesReady", &from.conditions);
            let arrived = arrived(&route.spec.traffic, &from.traffic, status.latest_ready_revision_name.as_deref());
            if open.status("RoutesReady") == Some(Status::True) && !arrived {
                open.mark_unknown(
                    "RoutesReady",
                    "TrafficNotMigrated",
                    "Traffic is not yet migrated to the latest revision.",
                );
            }
            status.url = from.url;
            status.address = from.address;
            status.traffic = from.traffic;
        }
        _ => open.mark_unknown(
            "RoutesReady",
            "OutOfDate",
            "The Route is still working to reflect the latest desired specification.",
        ),
    }

    settle_times(&mut conditions, &stored.conditions, now);
    status.conditions = conditions;
    status
}

/// What a condition says when the name of a child is taken by an object of somebody else's.
pub(super) fn not_owned(kind: &str, name: &str) -> String {
    format!("There is an existing {kind} {name:?} that we do not own.")
}

/// Gives the condition `type_` the status, reason and message of the aggregate in `from`.
pub(super) fn follow(open: &mut Conditions<'_>, type_: &str, from: &[conditions::Condition]) {
    if let Some(ready) = conditions::find(from, conditions::READY) {
        match ready.status {
            Status::True => open.mark_true(type_),
            Status::False => open.mark_false(type_, &ready.reason, &ready.message),
            Status::Unknown => open.mark_unknown(type_, &ready.reason, &ready.message),
        }
    }
}

fn observed<S>(meta: &ObjectMeta, status: Option<&S>, generation: impl FnOnce(&S) -> i64) -> bool {
    status.is_some_and(|status| Some(generation(status)) == meta.generation)
}

/// Whether the traffic in force is the traffic wanted, the latest ready revision standing for "the latest".
fn arrived(wanted: &[TrafficTarget], in_force: &[TrafficTarget], latest_ready: Option<&str>) -> bool {
    wanted.len() == in_force.len()
        && wanted.iter().zip(in_force).all(|(wanted, in_force)| {
            let revision = wanted.revision_name.as_deref().or(latest_ready);
            revision == in_force.revision_name.as_deref()
                && wanted.percent.unwrap_or(0) == in_force.percent.unwrap_or(0)
                && wanted.tag == in_force.tag
        })
}
