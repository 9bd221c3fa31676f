//! A Route resolves its traffic to Revisions, writes it down as a KIngress, and gives each name it is reached by a
//! Service of its own inside the cluster.

use crate::api::conditions::{self, Conditions, READY, Status, settle_times};
use crate::api::ingress::{
    HeaderMatch, HttpPath, HttpRule, Ingress, IngressRule, IngressSpec, IngressSplit, LoadBalancerStatus,
};
use crate::api::names::{
    DEFAULT_ROUTE_HEADER, INGRESS_CLASS_ANNOTATION, LAST_APPLIED_ANNOTATION, NAMESPACE_HEADER, REVISION_HEADER,
    ROLLOUT_ANNOTATION, ROUTE_LABEL, ROUTE_NAMESPACE_LABEL, ROUTES_ANNOTATION, SERVICE_LABEL, TAG_HEADER,
    TAG_TO_HOST_ANNOTATION, VISIBILITY_LABEL,
};
use crate::api::serving::{Addressable, Configuration, Revision, Route, RouteStatus, TrafficTarget};
use crate::local::knative::configuration::is_ready;
use crate::local::knative::revision::protocol;
use crate::local::knative::routes_of;
use crate::local::knative::service::{follow, not_owned};
use crate::local::meta::{annotation, controlled_by, controller_of, is_controlled_by, label, name, namespace, words};
use crate::units::Timestamp;
use k8s_openapi::api::core::v1::{Service as CoreService, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The domain of names inside the cluster.
const CLUSTER_DOMAIN: &str = "svc.cluster.local";

/// The class of the gateway that comes with the local cluster.
pub const INGRESS_CLASS: &str = "local.ingress.networking.knative.dev";

/// What is the same for every route of a cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Network {
    /// Names outside the cluster end in this: `hello.default.DOMAIN`.
    pub domain: String,
    /// Whose load balancer takes a KIngress that does not say.
    pub ingress_class: String,
}

impl Default for Network {
    /// Knative's own default domain, and the gateway of the local cluster.
    fn default() -> Self {
        Self { domain: "example.com".to_owned(), ingress_class: INGRESS_CLASS.to_owned() }
    }
}

/// Where a route's traffic goes, resolved to Revisions.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Traffic {
    /// The targets in the order of the route; tag and revision appear once each pair.
    listed: Vec<Target>,
    /// What each tag leads to, the empty one being the route itself; a revision appears once each.
    by_tag: BTreeMap<String, Vec<Target>>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Target {
    revision: String,
    configuration: Option<String>,
    latest: bool,
    percent: i64,
    tag: String,
    h2c: bool,
}

/// Why a route's traffic cannot be resolved. The words are those of Knative's `AllTrafficAssigned` condition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unassigned {
    status: Status,
    reason: &'static str,
    message: String,
}

impl Unassigned {
    fn failed(reason: &'static str, message: String) -> Self {
        Self { status: Status::False, reason, message }
    }

    fn waiting(message: String) -> Self {
        Self { status: Status::Unknown, reason: "RevisionMissing", message }
    }
}

/// Resolves the traffic of `route` among the objects of its namespace. Of several problems a failure is told before
/// something merely not ready yet.
pub fn traffic(
    route: &Route,
    configurations: &[Arc<Configuration>],
    revisions: &[Arc<Revision>],
) -> Result<Traffic, Unassigned> {
    let mut traffic = Traffic::default();
    let mut problem: Option<Unassigned> = None;
    for wanted in &route.spec.traffic {
        match resolve(route, wanted, configurations, revisions) {
            Ok(target) => traffic.add(&target),
            Err(new) if problem.is_none() || new.status == Status::False => problem = Some(new),
            Err(_) => {}
        }
    }
    if let Some(problem) = problem {
        return Err(problem);
    }
    for targets in traffic.by_tag.values_mut() {
        if let [only] = targets.as_mut_slice() {
            only.percent = 100;
        }
    }
    Ok(traffic)
}

fn resolve(
    route: &Route,
    wanted: &TrafficTarget,
    configurations: &[Arc<Configuration>],
    revisions: &[Arc<Revision>],
) -> Result<Target, Unassigned> {
    let find_revision = |wanted: &str| {
        revisions.iter().find(|revision| name(&revision.metadata) == wanted).ok_or_else(|| {
            Unassigned::failed("RevisionMissing", format!("Revision {wanted:?} referenced in traffic not found."))
        })
    };
    let configuration = wanted.configuration_name.as_deref();
    let revision = if let Some(fixed) = &wanted.revision_name {
        let revision = find_revision(fixed)?;
        let (ours, theirs) = (label(&route.metadata, SERVICE_LABEL), label(&revision.metadata, SERVICE_LABEL));
        if !ours.is_empty() && ours != theirs {
            let message = if theirs.is_empty() {
                format!("Revision {fixed:?} does not belong to Service {ours:?}.")
            } else {
                format!("Revision {fixed:?} belongs to Service {theirs:?}, not Service {ours:?}.")
            };
            return Err(Unassigned::failed("RevisionNotOwned", message));
        }
        revision
    } else {
        let wanted = configuration.unwrap_or_default();
        let configuration = configurations.iter().find(|found| name(&found.metadata) == wanted).ok_or_else(|| {
            let message = format!("Configuration {wanted:?} referenced in traffic not found.");
            Unassigned::failed("ConfigurationMissing", message)
        })?;
        let status = configuration.status.clone().unwrap_or_default();
        let Some(latest) = status.latest_ready_revision_name else {
            return Err(if is_failed(&status.conditions) {
                let message = format!("Configuration {wanted:?} does not have any ready Revision.");
                Unassigned::failed("RevisionMissing", message)
            } else {
                Unassigned::waiting(format!("Configuration {wanted:?} is waiting for a Revision to become ready."))
            });
        };
        find_revision(&latest)?
    };
    let revision_name = name(&revision.metadata).to_owned();
    if !is_ready(revision) {
        return Err(if revision.status.as_ref().is_some_and(|status| is_failed(&status.conditions)) {
            let message = format!("Revision {revision_name:?} failed to become ready.");
            Unassigned::failed("RevisionMissing", message)
        } else {
            Unassigned::waiting(format!("Revision {revision_name:?} is not yet ready."))
        });
    }
    Ok(Target {
        configuration: configuration.map(ToOwned::to_owned),
        latest: wanted.latest_revision.unwrap_or(wanted.revision_name.is_none()),
        percent: wanted.percent.unwrap_or(0),
        tag: wanted.tag.clone().unwrap_or_default(),
        h2c: protocol(revision) == "h2c",
        revision: revision_name,
    })
}

fn is_failed(conditions: &[conditions::Condition]) -> bool {
    conditions::find(conditions, READY).is_some_and(|ready| ready.status == Status::False)
}

impl Traffic {
    fn add(&mut self, target: &Target) {
        let twin = self.listed.iter_mut().find(|listed| {
            listed.tag == target.tag && listed.revision == target.revision && listed.latest == target.latest
        });
        match twin {
            Some(twin) => twin.percent += target.percent,
            None => self.listed.push(target.clone()),
        }
        let tags: BTreeSet<&str> = BTreeSet::from(["", target.tag.as_str()]);
        for tag in tags {
            let targets = self.by_tag.entry(tag.to_owned()).or_default();
            match targets.iter_mut().find(|present| present.revision == target.revision) {
                Some(present) => present.percent += target.percent,
                None => targets.push(target.clone()),
            }
        }
    }

    fn tags(&self) -> impl Iterator<Item = &str> {
        self.by_tag.keys().map(String::as_str)
    }
}

/// The KIngress of a route.
pub fn ingress(route: &Route, traffic: &Traffic, network: &Network) -> Ingress {
    let mut annotations = words(
        route.metadata.annotations.as_ref(),
        &[LAST_APPLIED_ANNOTATION],
        [(ROLLOUT_ANNOTATION, &rollout(traffic))],
    );
    annotations.entry(INGRESS_CLASS_ANNOTATION.to_owned()).or_insert_with(|| network.ingress_class.clone());

    let mut rules = Vec::new();
    let mut tag_to_host: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (tag, targets) in &traffic.by_tag {
        let mut paths = Vec::new();
        if tag.is_empty() {
            // The header asks for a tag by the route's own name.
            for (tag, targets) in traffic.by_tag.iter().filter(|(tag, _)| !tag.is_empty()) {
                let headers = [(canonical(TAG_HEADER), HeaderMatch { exact: tag.clone() })].into();
                paths.push(HttpPath { headers, ..path(route, targets) });
            }
        }
        let append = if tag.is_empty() { (DEFAULT_ROUTE_HEADER, "true") } else { (TAG_HEADER, tag.as_str()) };
        let append_headers = [(canonical(append.0), append.1.to_owned())].into();
        paths.push(HttpPath { append_headers, ..path(route, targets) });

        let host = host(route, tag);
        let mut visibilities = vec![(
            "ClusterLocal",
            vec![host.clone(), format!("{host}.svc"), format!("{host}.{CLUSTER_DOMAIN}")],
            format!("{host}.{CLUSTER_DOMAIN}"),
        )];
        if !is_cluster_local(route) {
            let outside = format!("{host}.{}", network.domain);
            visibilities.push(("ExternalIP", vec![outside.clone()], outside));
        }
        for (visibility, hosts, primary) in visibilities {
            rules.push(IngressRule {
                hosts,
                visibility: visibility.to_owned(),
                http: Some(HttpRule { paths: paths.clone() }),
            });
            if !tag.is_empty() {
                tag_to_host.entry(tag).or_default().push(primary);
            }
        }
    }
    if !tag_to_host.is_empty() {
        annotations.insert(TAG_TO_HOST_ANNOTATION.to_owned(), to_json(&tag_to_host));
    }
    let redirected = ["networking.knative.dev/http-protocol", "networking.knative.dev/httpOption"]
        .iter()
        .any(|key| annotation(&route.metadata, key).eq_ignore_ascii_case("redirected"));

    let mut ingress = Ingress::new(
        name(&route.metadata),
        IngressSpec {
            http_option: if redirected { "Redirected" } else { "Enabled" }.to_owned(),
            rules,
            tls: Vec::new(),
        },
    );
    ingress.metadata = ObjectMeta {
        namespace: route.metadata.namespace.clone(),
        labels: Some(words(
            route.metadata.labels.as_ref(),
            &[],
            [(ROUTE_LABEL, name(&route.metadata)), (ROUTE_NAMESPACE_LABEL, namespace(&route.metadata))],
        )),
        annotations: Some(annotations),
        owner_references: Some(controlled_by(route)),
        ..ingress.metadata
    };
    ingress
}

fn path(route: &Route, targets: &[Target]) -> HttpPath {
    let namespace = namespace(&route.metadata);
    let splits = targets.iter().filter(|target| target.percent != 0).map(|target| IngressSplit {
        service_name: target.revision.clone(),
        service_namespace: namespace.to_owned(),
        service_port: IntOrString::Int(if target.h2c { 81 } else { 80 }),
        percent: i32::try_from(target.percent).unwrap_or(i32::MAX),
        append_headers: [
            (canonical(NAMESPACE_HEADER), namespace.to_owned()),
            (canonical(REVISION_HEADER), target.revision.clone()),
        ]
        .into(),
    });
    HttpPath { splits: splits.collect(), ..HttpPath::default() }
}

/// The Services by which a route and its tags are found inside the cluster. They lead to the load balancer, and to the
/// route's own outside name as long as it has not said where it is.
pub fn placeholders(
    route: &Route,
    traffic: &Traffic,
    ingress: Option<&Ingress>,
    network: &Network,
) -> Vec<CoreService> {
    let status = ingress.and_then(|ingress| ingress.status.as_ref());
    let balancer = |of: Option<&LoadBalancerStatus>| of.and_then(|of| of.ingress.first()).cloned();
    let balancer = status.and_then(|status| {
        balancer(status.private_load_balancer.as_ref()).or_else(|| balancer(status.public_load_balancer.as_ref()))
    });
    let place = |tag: &str| {
        let leads_to = match &balancer {
            Some(at) if !at.domain_internal.is_empty() => at.domain_internal.clone(),
            Some(at) if !at.domain.is_empty() => at.domain.clone(),
            _ if is_cluster_local(route) => format!("{}.{CLUSTER_DOMAIN}", host(route, tag)),
            _ => format!("{}.{}", host(route, tag), network.domain),
        };
        CoreService {
            metadata: ObjectMeta {
                name: Some(host_name(route, tag)),
                namespace: route.metadata.namespace.clone(),
                owner_references: Some(controlled_by(route)),
                labels: Some(words(
                    route.metadata.labels.as_ref(),
                    &[VISIBILITY_LABEL],
                    [(ROUTE_LABEL, name(&route.metadata))],
                )),
                annotations: route.metadata.annotations.clone(),
                ..ObjectMeta::default()
            },
            spec: Some(ServiceSpec {
                type_: Some("ExternalName".to_owned()),
                external_name: Some(leads_to),
                session_affinity: Some("None".to_owned()),
                ports: Some(vec![ServicePort {
                    name: Some("http2".to_owned()),
                    app_protocol: Some("kubernetes.io/h2c".to_owned()),
                    port: 80,
                    protocol: Some("TCP".to_owned()),
                    target_port: Some(IntOrString::Int(80)),
                    ..ServicePort::default()
                }]),
                ..ServiceSpec::default()
            }),
            status: None,
        }
    };
    traffic.tags().map(place).collect()
}

/// The Revisions and Configurations a route leads to, and so marks as its own: those it names, those it resolved to,
/// and the newest of each it follows, so that traffic finds it reachable when it becomes ready.
pub fn destinations(
    route: &Route,
    configurations: &[Arc<Configuration>],
    revisions: &[Arc<Revision>],
) -> (BTreeSet<String>, BTreeSet<String>) {
    let mut to_revisions = BTreeSet::new();
    let mut to_configurations = BTreeSet::new();
    let in_force = route.status.iter().flat_map(|status| &status.traffic);
    for target in route.spec.traffic.iter().chain(in_force) {
        let mut configuration = target.configuration_name.clone();
        let found = target
            .revision_name
            .as_ref()
            .and_then(|wanted| revisions.iter().find(|revision| name(&revision.metadata) == wanted));
        if let Some(revision) = found {
            to_revisions.insert(name(&revision.metadata).to_owned());
            if let Some(owner) = controller_of(&revision.metadata).filter(|owner| owner.kind == "Configuration") {
                configuration = Some(owner.name.clone());
            }
        }
        let followed = configurations.iter().find(|found| Some(name(&found.metadata)) == configuration.as_deref());
        if let Some(followed) = followed {
            to_configurations.insert(name(&followed.metadata).to_owned());
            let newest = followed.status.as_ref().and_then(|status| status.latest_created_revision_name.clone());
            if target.latest_revision == Some(true)
                && let Some(newest) = newest
            {
                to_revisions.insert(newest);
            }
        }
    }
    (to_revisions, to_configurations)
}

/// The value of the annotation that lists routes, with `route` on it or off it; none when nothing is left.
pub fn marked(meta: &ObjectMeta, route: &str, on: bool) -> Option<String> {
    let mut routes = routes_of(meta);
    if on {
        routes.insert(route.to_owned());
    } else {
        routes.remove(route);
    }
    (!routes.is_empty()).then(|| routes.into_iter().collect::<Vec<_>>().join(","))
}

/// Whether `meta` says that `route` leads to the object.
pub fn is_marked(meta: &ObjectMeta, route: &str) -> bool {
    annotation(meta, ROUTES_ANNOTATION).split(',').any(|listed| listed == route)
}

/// The status that follows from the traffic and the KIngress.
pub fn status(
    route: &Route,
    traffic: &Result<Traffic, Unassigned>,
    ingress: Option<&Ingress>,
    network: &Network,
    now: Timestamp,
) -> RouteStatus {
    let stored = route.status.clone().unwrap_or_default();
    let generation = route.metadata.generation.unwrap_or(0);
    let mut status = RouteStatus { observed_generation: generation, ..stored.clone() };
    let mut conditions = status.conditions.clone();
    let mut open = Conditions::of(&conditions::ROUTE, &mut conditions, now);
    open.initialize();
    if stored.observed_generation != generation {
        mark_not_configured(&mut open);
    }
    status.url = Some(format!("http://{}", outside_host(route, "", network)));
    match traffic {
        Err(problem) if problem.status == Status::False => {
            open.mark_false("AllTrafficAssigned", problem.reason, &problem.message);
        }
        Err(problem) => open.mark_unknown("AllTrafficAssigned", problem.reason, &problem.message),
        Ok(traffic) => {
            open.mark_true("AllTrafficAssigned");
            open.mark_true_because("CertificateProvisioned", "TLSNotEnabled", "external-domain-tls is not enabled");
            status.address = Some(Addressable { url: Some(format!("http://{}.{CLUSTER_DOMAIN}", host(route, ""))) });
            status.traffic = in_status(route, traffic, network);
            match ingress {
                Some(ingress) if !is_controlled_by(&ingress.metadata, &route.metadata) => {
                    open.mark_false("IngressReady", "NotOwned", &not_owned("Ingress", name(&ingress.metadata)));
                }
                Some(ingress) => match &ingress.status {
                    Some(of_ingress) if Some(of_ingress.observed_generation) == ingress.metadata.generation => {
                        follow(&mut open, "IngressReady", &of_ingress.conditions);
                    }
                    _ => mark_not_configured(&mut open),
                },
                None => mark_not_configured(&mut open),
            }
        }
    }
    settle_times(&mut conditions, &stored.conditions, now);
    status.conditions = conditions;
    status
}

fn mark_not_configured(open: &mut Conditions<'_>) {
    open.mark_unknown("IngressReady", "IngressNotConfigured", "Ingress has not yet been reconciled.");
}

fn in_status(route: &Route, traffic: &Traffic, network: &Network) -> Vec<TrafficTarget> {
    let told = traffic.listed.iter().map(|target| TrafficTarget {
        revision_name: Some(target.revision.clone()),
        configuration_name: None,
        latest_revision: Some(target.latest),
        percent: Some(target.percent),
        tag: (!target.tag.is_empty()).then(|| target.tag.clone()),
        url: (!target.tag.is_empty()).then(|| format!("http://{}", outside_host(route, &target.tag, network))),
    });
    told.collect()
}

/// `NAME.NAMESPACE`, or `TAG-NAME.NAMESPACE`.
fn host(route: &Route, tag: &str) -> String {
    format!("{}.{}", host_name(route, tag), namespace(&route.metadata))
}

fn host_name(route: &Route, tag: &str) -> String {
    let name = name(&route.metadata);
    if tag.is_empty() { name.to_owned() } else { format!("{tag}-{name}") }
}

/// The name by which a tag of the route is told to its users.
fn outside_host(route: &Route, tag: &str, network: &Network) -> String {
    let domain = if is_cluster_local(route) { CLUSTER_DOMAIN } else { &network.domain };
    format!("{}.{domain}", host(route, tag))
}

fn is_cluster_local(route: &Route) -> bool {
    label(&route.metadata, VISIBILITY_LABEL) == "cluster-local"
}

/// A header as Knative spells it in objects: `Knative-Serving-Tag`.
fn canonical(header: &str) -> String {
    let mut start = true;
    let spell = |letter: char| {
        let spelled = if start { letter.to_ascii_uppercase() } else { letter };
        start = letter == '-';
        spelled
    };
    header.chars().map(spell).collect()
}

/// How far traffic has moved to the latest revisions: here always all the way.
fn rollout(traffic: &Traffic) -> String {
    #[derive(Serialize)]
    struct Rollout<'a> {
        #[serde(skip_serializing_if = "Vec::is_empty")]
        configurations: Vec<Moved<'a>>,
    }
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Moved<'a> {
        configuration_name: &'a str,
        #[serde(skip_serializing_if = "str::is_empty")]
        tag: &'a str,
        percent: i64,
        revisions: [Share<'a>; 1],
        step_params: NoSteps,
    }
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Share<'a> {
        revision_name: &'a str,
        percent: i64,
    }

    #[derive(Serialize)]
    struct NoSteps {}

    let mut configurations = Vec::new();
    for (tag, targets) in &traffic.by_tag {
        let mut followed: Vec<&Target> = targets.iter().filter(|target| target.latest && target.percent != 0).collect();
        followed.sort_by_key(|target| &target.configuration);
        configurations.extend(followed.into_iter().map(|target| Moved {
            configuration_name: target.configuration.as_deref().unwrap_or_default(),
            tag,
            percent: target.percent,
            revisions: [Share { revision_name: &target.revision, percent: target.percent }],
            step_params: NoSteps {},
        }));
    }
    to_json(&Rollout { configurations })
}

fn to_json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("strings and numbers can be written as JSON")
}
