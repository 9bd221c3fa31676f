//! A ServerlessService is a private Service, which leads to the pods, and a public one, which leads to the pods or to
//! activators.
//!
//! In a cluster Kubernetes itself derives the private Service's endpoints, and mirrors the public one's, at some distance.
//! Here both slices are planned in one step from the pods, so that a pod that becomes ready is reachable at once.

use crate::api::conditions::{self, Condition, Conditions, Status, settle_times};
use crate::api::names::{
    QUEUE_H2C_PORT, QUEUE_HTTP1_PORT, QUEUE_STATS_PORT, SERVICE_TYPE_LABEL, SKS_LABEL, SLICE_SERVICE_LABEL,
    STATS_PORT_NAME, USER_METRICS_PORT,
};
use crate::api::serverless_service::{Mode, ServerlessService, ServerlessServiceStatus};
use crate::local::meta::{Words, child_name, controlled_by, fnv, name, words};
use crate::local::pods::status::{is_ready, is_running};
use crate::units::Timestamp;
use k8s_openapi::api::core::v1::{ObjectReference, Pod, Service as CoreService, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use std::sync::Arc;

/// Port for requests over TLS; named on every Service, served by nothing here.
const QUEUE_TLS_PORT: u16 = 8112;

/// The private Service: the pods, whatever the mode.
pub fn private_service(sks: &ServerlessService, selector: Words) -> CoreService {
    let queue_port = target_port(sks);
    let ports = vec![
        service_port(protocol_name(sks), 80, IntOrString::Int(i32::from(queue_port)), is_h2c(sks)),
        service_port("https", 443, IntOrString::Int(i32::from(QUEUE_TLS_PORT)), false),
        service_port(
            STATS_PORT_NAME,
            i32::from(QUEUE_STATS_PORT),
            IntOrString::String(STATS_PORT_NAME.to_owned()),
            false,
        ),
        service_port(
            "http-usermetric",
            i32::from(USER_METRICS_PORT),
            IntOrString::String("http-usermetric".to_owned()),
            false,
        ),
        service_port(
            &format!("{}-istio", protocol_name(sks)),
            i32::from(queue_port),
            IntOrString::Int(i32::from(queue_port)),
            false,
        ),
    ];
    CoreService {
        metadata: metadata(sks, private_name(sks), "Private"),
        spec: Some(ServiceSpec {
            ports: Some(ports),
            selector: Some(selector),
            type_: Some("ClusterIP".to_owned()),
            session_affinity: Some("None".to_owned()),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

/// The public Service, by the revision's own name.
pub fn public_service(sks: &ServerlessService) -> CoreService {
    let ports = vec![
        service_port(
            protocol_name(sks),
            if is_h2c(sks) { 81 } else { 80 },
            IntOrString::Int(i32::from(target_port(sks))),
            is_h2c(sks),
        ),
        service_port("https", 443, IntOrString::Int(i32::from(QUEUE_TLS_PORT)), false),
    ];
    CoreService {
        metadata: metadata(sks, name(&sks.metadata).to_owned(), "Public"),
        spec: Some(ServiceSpec {
            ports: Some(ports),
            type_: Some("ClusterIP".to_owned()),
            session_affinity: Some("None".to_owned()),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

/// The endpoints of the private Service: every running pod, with whether it is ready.
pub fn private_slice(sks: &ServerlessService, pods: &[Arc<Pod>]) -> EndpointSlice {
    let endpoints = pods.iter().filter(|pod| is_running(pod)).filter_map(|pod| endpoint(pod)).collect();
    let ports = vec![
        endpoint_port(protocol_name(sks), target_port(sks)),
        endpoint_port("https", QUEUE_TLS_PORT),
        endpoint_port(STATS_PORT_NAME, QUEUE_STATS_PORT),
        endpoint_port("http-usermetric", USER_METRICS_PORT),
        endpoint_port(&format!("{}-istio", protocol_name(sks)), target_port(sks)),
    ];
    slice(metadata(sks, private_name(sks), "Private"), endpoints, ports)
}

/// The endpoints of the public Service: the ready pods or a stable choice of the activators, by the mode and by what
/// there is.
pub fn public_slice(sks: &ServerlessService, pods: &[Arc<Pod>], activators: &[EndpointSlice]) -> EndpointSlice {
    let mut endpoints = match backend(sks, pods, activators) {
        Backend::Pods => pods.iter().filter(|pod| is_ready(pod)).filter_map(|pod| endpoint(pod)).collect(),
        Backend::Activators => choose(sks, activators),
    };
    endpoints.sort_by(|a: &Endpoint, b: &Endpoint| a.addresses.cmp(&b.addresses));
    let ports = vec![endpoint_port(protocol_name(sks), target_port(sks))];
    slice(metadata(sks, name(&sks.metadata).to_owned(), "Public"), endpoints, ports)
}

/// The status that follows once both Services exist. Reasons and messages are Knative's, those of a false
/// `ActivatorEndpointsPopulated` included.
pub fn status(sks: &ServerlessService, pods: &[Arc<Pod>], now: Timestamp) -> ServerlessServiceStatus {
    let stored = sks.status.clone().unwrap_or_default();
    let mut conditions = stored.conditions.clone();
    let mut open = Conditions::of(&conditions::SERVERLESS_SERVICE, &mut conditions, now);
    open.initialize();
    let any_ready = pods.iter().any(|pod| is_ready(pod));
    if any_ready {
        open.mark_true("EndpointsPopulated");
    } else {
        open.mark_unknown("EndpointsPopulated", "NoHealthyBackends", "K8s Service is not ready");
    }
    let by_activator = Condition {
        type_: "ActivatorEndpointsPopulated".to_owned(),
        status: if !any_ready || sks.spec.mode == Mode::Proxy { Status::True } else { Status::False },
        severity: "Info".to_owned(),
        last_transition_time: None,
        reason: "ActivatorEndpointsPopulated".to_owned(),
        message: "Revision is backed by Activator".to_owned(),
    };
    conditions.retain(|condition| condition.type_ != by_activator.type_);
    conditions.insert(0, by_activator);
    settle_times(&mut conditions, &stored.conditions, now);
    ServerlessServiceStatus {
        observed_generation: sks.metadata.generation.unwrap_or(0),
        conditions,
        service_name: name(&sks.metadata).to_owned(),
        private_service_name: private_name(sks),
    }
}

/// The name of the private Service.
pub fn private_name(sks: &ServerlessService) -> String {
    child_name(name(&sks.metadata), "-private")
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Backend {
    Pods,
    Activators,
}

/// No ready pod leaves the activators and no activator leaves the pods, whatever the mode asks for: a public Service is
/// never left empty without need.
fn backend(sks: &ServerlessService, pods: &[Arc<Pod>], activators: &[EndpointSlice]) -> Backend {
    let any_activator = activators.iter().flat_map(|slice| &slice.endpoints).any(is_usable);
    if !any_activator {
        Backend::Pods
    } else if sks.spec.mode == Mode::Proxy || !pods.iter().any(|pod| is_ready(pod)) {
        Backend::Activators
    } else {
        Backend::Pods
    }
}

/// `numActivators` of the activators, all of them when it is 0 or more than there are; the same ones each time, and
/// others for other revisions.
fn choose(sks: &ServerlessService, activators: &[EndpointSlice]) -> Vec<Endpoint> {
    let mut chosen: Vec<Endpoint> =
        activators.iter().flat_map(|slice| &slice.endpoints).filter(|endpoint| is_usable(endpoint)).cloned().collect();
    let wanted = usize::try_from(sks.spec.num_activators).unwrap_or(0);
    if 0 < wanted && wanted < chosen.len() {
        let rank =
            |endpoint: &Endpoint| fnv(format!("{}/{}", name(&sks.metadata), endpoint.addresses.join(",")).as_bytes());
        chosen.sort_by_key(rank);
        chosen.truncate(wanted);
    }
    chosen
}

fn is_usable(endpoint: &Endpoint) -> bool {
    endpoint.conditions.as_ref().and_then(|conditions| conditions.ready) != Some(false)
}

fn endpoint(pod: &Pod) -> Option<Endpoint> {
    let address = pod.status.as_ref()?.pod_ip.clone()?;
    let terminating = pod.metadata.deletion_timestamp.is_some();
    let ready = is_ready(pod);
    Some(Endpoint {
        addresses: vec![address],
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            serving: Some(ready || terminating),
            terminating: Some(terminating),
        }),
        node_name: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".to_owned()),
            name: pod.metadata.name.clone(),
            namespace: pod.metadata.namespace.clone(),
            uid: pod.metadata.uid.clone(),
            ..ObjectReference::default()
        }),
        ..Endpoint::default()
    })
}

fn slice(mut metadata: ObjectMeta, mut endpoints: Vec<Endpoint>, ports: Vec<EndpointPort>) -> EndpointSlice {
    endpoints.sort_by(|a, b| a.addresses.cmp(&b.addresses));
    let service = name(&metadata).to_owned();
    metadata.labels.get_or_insert_default().insert(SLICE_SERVICE_LABEL.to_owned(), service);
    EndpointSlice { address_type: "IPv4".to_owned(), endpoints, metadata, ports: Some(ports) }
}

fn metadata(sks: &ServerlessService, name_of_child: String, service_type: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name_of_child),
        namespace: sks.metadata.namespace.clone(),
        labels: Some(words(
            sks.metadata.labels.as_ref(),
            &[],
            [(SKS_LABEL, name(&sks.metadata)), (SERVICE_TYPE_LABEL, service_type)],
        )),
        annotations: sks.metadata.annotations.clone(),
        owner_references: Some(controlled_by(sks)),
        ..ObjectMeta::default()
    }
}

fn service_port(name: &str, port: i32, target: IntOrString, h2c: bool) -> ServicePort {
    ServicePort {
        name: Some(name.to_owned()),
        app_protocol: h2c.then(|| "kubernetes.io/h2c".to_owned()),
        port,
        protocol: Some("TCP".to_owned()),
        target_port: Some(target),
        ..ServicePort::default()
    }
}

fn endpoint_port(name: &str, port: u16) -> EndpointPort {
    EndpointPort {
        name: Some(name.to_owned()),
        port: Some(i32::from(port)),
        protocol: Some("TCP".to_owned()),
        app_protocol: None,
    }
}

fn is_h2c(sks: &ServerlessService) -> bool {
    sks.spec.protocol_type == "h2c"
}

fn protocol_name(sks: &ServerlessService) -> &'static str {
    if is_h2c(sks) { "http2" } else { "http" }
}

fn target_port(sks: &ServerlessService) -> u16 {
    if is_h2c(sks) { QUEUE_H2C_PORT } else { QUEUE_HTTP1_PORT }
}
