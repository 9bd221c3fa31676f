//! A Revision is a Deployment whose pods stand behind queue-proxies, and a PodAutoscaler that scales it.

use crate::api::conditions::{self, Condition, Conditions, READY, Status, settle_times};
use crate::api::duration;
use crate::api::names::{
    CONFIGURATION_LABEL, LAST_APPLIED_ANNOTATION, PROGRESS_DEADLINE_ANNOTATION, QUEUE_ADMIN_PORT, QUEUE_CONTAINER,
    QUEUE_H2C_PORT, QUEUE_HTTP1_PORT, QUEUE_STATS_PORT, REVISION_LABEL, REVISION_UID_LABEL, ROUTE_LABEL,
    ROUTES_ANNOTATION, ROUTING_STATE_LABEL, ROUTING_STATE_MODIFIED_ANNOTATION, SERVICE_LABEL, STATS_PORT_NAME,
    SYSTEM_NAMESPACE, USER_CONTAINER, USER_METRICS_PORT,
};
use crate::api::pod_autoscaler::{ObjectRef, PodAutoscaler, PodAutoscalerSpec};
use crate::api::serving::{Revision, RevisionStatus};
use crate::local::knative::service::not_owned;
use crate::local::meta::{Words, annotation, child_name, controlled_by, is_controlled_by, label, name, words};
use crate::local::pods::container::{QUEUE_PROXY_IMAGE, runnable};
use crate::units::{NANOS_PER_SECOND, Timestamp};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment};
use k8s_openapi::api::core::v1::{
    Capabilities, Container, ContainerPort, EnvVar, EnvVarSource, HTTPGetAction, HTTPHeader, Lifecycle,
    LifecycleHandler, ObjectFieldSelector, Pod, PodSpec, PodTemplateSpec, Probe, ResourceRequirements, SeccompProfile,
    SecurityContext,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use std::sync::Arc;

/// What the autoscaler's annotations begin with; they go to the PodAutoscaler and not to the pods.
const AUTOSCALING_PREFIX: &str = "autoscaling.knative.dev";
/// The port a user container is taken to listen on when it names none.
const DEFAULT_USER_PORT: i32 = 8080;
/// How long a Deployment may take, in seconds, when neither annotation nor configuration says.
const DEFAULT_PROGRESS_DEADLINE: i32 = 600;
/// Seconds a request may take when the revision does not say.
const DEFAULT_TIMEOUT: i64 = 300;

/// The Deployment of a Revision, starting with `initial_scale` pods. Its replicas are the autoscaler's from then on.
pub fn deployment(revision: &Revision, initial_scale: i32) -> Deployment {
    let labels = labels(revision);
    let uid = revision.metadata.uid.clone().unwrap_or_default();
    let deadline = duration::parse(annotation(&revision.metadata, PROGRESS_DEADLINE_ANNOTATION))
        .ok()
        .and_then(|deadline| i32::try_from(deadline.nanos() / NANOS_PER_SECOND).ok())
        .unwrap_or(DEFAULT_PROGRESS_DEADLINE);
    let (metadata, pod_metadata) = (
        ObjectMeta {
            name: Some(deployment_name(name(&revision.metadata))),
            namespace: revision.metadata.namespace.clone(),
            labels: Some(labels.clone()),
            annotations: Some(pod_annotations(revision)),
            owner_references: Some(controlled_by(revision)),
            ..ObjectMeta::default()
        },
        ObjectMeta {
            labels: Some(labels),
            annotations: Some({
                let mut annotations = pod_annotations(revision);
                let user_container = user_container(revision).map(|container| container.name.clone());
                annotations.insert(
                    "kubectl.kubernetes.io/default-container".to_owned(),
                    user_container.unwrap_or_else(|| USER_CONTAINER.to_owned()),
                );
                annotations
            }),
            ..ObjectMeta::default()
        },
    );
    Deployment {
        metadata,
        spec: Some(DeploymentSpec {
            replicas: Some(initial_scale),
            selector: LabelSelector {
                match_labels: Some(Words::from([(REVISION_UID_LABEL.to_owned(), uid)])),
                ..LabelSelector::default()
            },
            progress_deadline_seconds: Some(deadline),
            revision_history_limit: Some(0),
            strategy: Some(DeploymentStrategy {
                type_: Some("RollingUpdate".to_owned()),
                rolling_update: Some(RollingUpdateDeployment {
                    max_surge: Some(IntOrString::String("25%".to_owned())),
                    max_unavailable: Some(IntOrString::Int(0)),
                }),
            }),
            template: PodTemplateSpec { metadata: Some(pod_metadata), spec: Some(pod_spec(revision)) },
            ..DeploymentSpec::default()
        }),
        status: None,
    }
}

/// The PodAutoscaler of a Revision.
pub fn pod_autoscaler(revision: &Revision, deployment: Option<&Deployment>) -> PodAutoscaler {
    PodAutoscaler {
        metadata: ObjectMeta {
            name: revision.metadata.name.clone(),
            namespace: revision.metadata.namespace.clone(),
            labels: Some(labels(revision)),
            annotations: Some(without_routing(revision)),
            owner_references: Some(controlled_by(revision)),
            ..ObjectMeta::default()
        },
        spec: PodAutoscalerSpec {
            container_concurrency: revision.spec.container_concurrency.unwrap_or(0),
            scale_target_ref: ObjectRef {
                api_version: "apps/v1".to_owned(),
                kind: "Deployment".to_owned(),
                name: deployment_name(name(&revision.metadata)),
            },
            reachability: reachability(revision, deployment).to_owned(),
            protocol_type: protocol(revision).to_owned(),
        },
        status: None,
    }
}

/// The existing PodAutoscaler brought in line with its Revision: the spec, and the annotations of autoscaling. Those
/// admission filled in, class and metric, stay when the Revision has none.
pub fn synced_pod_autoscaler(existing: &PodAutoscaler, wanted: &PodAutoscaler) -> PodAutoscaler {
    let mut synced = existing.clone();
    synced.spec = wanted.spec.clone();
    let annotations = synced.metadata.annotations.get_or_insert_default();
    annotations.retain(|key, _| !key.starts_with(AUTOSCALING_PREFIX) || FILLED_IN.contains(&key.as_str()));
    annotations.extend(wanted.metadata.annotations.clone().unwrap_or_default());
    synced
}

/// Annotations admission fills in on a PodAutoscaler.
const FILLED_IN: [&str; 2] = [crate::api::names::CLASS_ANNOTATION, crate::api::names::METRIC_ANNOTATION];

/// The status that follows from the Deployment, its pods and the PodAutoscaler.
pub fn status(
    revision: &Revision,
    deployment: Option<&Deployment>,
    pod_autoscaler: Option<&PodAutoscaler>,
    pods: &[Arc<Pod>],
    now: Timestamp,
) -> RevisionStatus {
    let stored = revision.status.clone().unwrap_or_default();
    let mut status =
        RevisionStatus { observed_generation: revision.metadata.generation.unwrap_or(0), ..stored.clone() };
    let mut conditions = status.conditions.clone();
    let mut open = Conditions::of(&conditions::REVISION, &mut conditions, now);
    open.initialize();

    if let Some(Err(message)) = user_container(revision).map(runnable) {
        open.mark_false(CONTAINER, "ContainerMissing", &message);
        settle_times(&mut conditions, &stored.conditions, now);
        status.conditions = conditions;
        return status;
    }
    match deployment {
        None => {
            open.mark_unknown(RESOURCES, "Deploying", "");
            open.mark_unknown(CONTAINER, "Deploying", "");
        }
        Some(deployment) if !is_controlled_by(&deployment.metadata, &revision.metadata) => {
            let message = not_owned("Deployment", name(&deployment.metadata));
            open.mark_false(RESOURCES, "NotOwned", &message);
        }
        Some(deployment) => follow_deployment(&mut open, deployment, pods),
    }
    match pod_autoscaler {
        Some(pa) if !is_controlled_by(&pa.metadata, &revision.metadata) => {
            open.mark_false(RESOURCES, "NotOwned", &not_owned("PodAutoscaler", name(&pa.metadata)));
        }
        pa => {
            let of_pa = pa.and_then(|pa| pa.status.clone()).unwrap_or_default();
            status.actual_replicas = of_pa.actual_scale.filter(|scale| *scale >= 0);
            status.desired_replicas = of_pa.desired_scale.filter(|scale| *scale >= 0);
            follow_pod_autoscaler(&mut open, &of_pa.conditions, &of_pa.service_name);
        }
    }
    settle_times(&mut conditions, &stored.conditions, now);
    status.conditions = conditions;
    status
}

const RESOURCES: &str = "ResourcesAvailable";
const CONTAINER: &str = "ContainerHealthy";
const ACTIVE: &str = "Active";

fn follow_deployment(open: &mut Conditions<'_>, deployment: &Deployment, pods: &[Arc<Pod>]) {
    let of_deployment = deployment.status.clone().unwrap_or_default();
    let told = of_deployment.conditions.unwrap_or_default();
    let find = |type_: &str| told.iter().find(|condition| condition.type_ == type_);
    let timed_out = find("Progressing").filter(|progress| progress.status == "False");
    match (find("ReplicaFailure").filter(|failure| failure.status == "True"), timed_out, find("Progressing")) {
        (Some(failed), _, _) | (None, Some(failed), _) => open.mark_false(
            RESOURCES,
            failed.reason.as_deref().unwrap_or_default(),
            failed.message.as_deref().unwrap_or_default(),
        ),
        (None, None, Some(_)) => open.mark_true(RESOURCES),
        (None, None, None) => open.mark_unknown(RESOURCES, "Deploying", ""),
    }

    let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    if wanted > 0
        && of_deployment.available_replicas.unwrap_or(0) == 0
        && let Some(pod) = pods.iter().min_by_key(|pod| pod.metadata.name.clone())
    {
        follow_container(open, pod, timed_out.is_some());
    }
    if of_deployment.ready_replicas.unwrap_or(0) > 0 {
        open.mark_true(CONTAINER);
    }
}

/// A container that keeps ending makes the revision unhealthy at once; one that only waits, when the deadline is over.
fn follow_container(open: &mut Conditions<'_>, pod: &Pod, timed_out: bool) {
    let statuses = pod.status.iter().filter_map(|status| status.container_statuses.as_ref()).flatten();
    for container in statuses.filter(|container| container.name != QUEUE_CONTAINER) {
        let ended = container.last_state.as_ref().and_then(|state| state.terminated.as_ref());
        let waiting = container.state.as_ref().and_then(|state| state.waiting.as_ref());
        if let Some(ended) = ended {
            let message = match ended.message.as_deref().unwrap_or_default() {
                "" if ended.exit_code == 0 => "container exited with no error",
                message => message,
            };
            let reason = format!("ExitCode{}", ended.exit_code);
            open.mark_false(CONTAINER, &reason, &format!("Container failed with: {message}"));
            return;
        }
        if let Some(waiting) = waiting
            && timed_out
        {
            open.mark_false(
                RESOURCES,
                waiting.reason.as_deref().unwrap_or_default(),
                waiting.message.as_deref().unwrap_or_default(),
            );
            return;
        }
    }
}

fn follow_pod_autoscaler(open: &mut Conditions<'_>, of_pa: &[Condition], service_name: &str) {
    let failed = open.status(RESOURCES) == Some(Status::False) || open.status(CONTAINER) == Some(Status::False);
    let Some(ready) = conditions::find(of_pa, READY) else {
        open.mark_unknown(ACTIVE, "Deploying", "");
        if !failed {
            open.mark_unknown(RESOURCES, "Deploying", "");
        }
        return;
    };
    let initialized = conditions::find(of_pa, "ScaleTargetInitialized").is_some_and(|c| c.status == Status::True);
    if initialized && !failed {
        open.mark_true(RESOURCES);
        open.mark_true(CONTAINER);
    }
    if open.status(RESOURCES) == Some(Status::True) && (service_name.is_empty() || !initialized) {
        open.mark_unknown(RESOURCES, "Deploying", "");
    }
    match ready.status {
        Status::True => open.mark_true(ACTIVE),
        Status::Unknown => open.mark_unknown(ACTIVE, &ready.reason, &ready.message),
        Status::False => {
            if !initialized && !failed && !service_name.is_empty() {
                open.mark_false(RESOURCES, "ProgressDeadlineExceeded", "Initial scale was never achieved");
            }
            open.mark_false(ACTIVE, &ready.reason, &ready.message);
        }
    }
}

/// The name of the Deployment of a Revision.
pub fn deployment_name(revision: &str) -> String {
    child_name(revision, "-deployment")
}

/// `h2c` when the user container's port is named so, else `http1`.
pub fn protocol(revision: &Revision) -> &'static str {
    let port = user_container(revision).and_then(|container| container.ports.as_ref()?.first());
    if port.and_then(|port| port.name.as_deref()) == Some("h2c") { "h2c" } else { "http1" }
}

/// Whether requests lead to the Revision: `Reachable`, `Unreachable`, or empty while nothing is known.
fn reachability(revision: &Revision, deployment: Option<&Deployment>) -> &'static str {
    let broken = revision.status.as_ref().is_some_and(|status| {
        [RESOURCES, CONTAINER]
            .iter()
            .filter_map(|type_| conditions::find(&status.conditions, type_))
            .any(|condition| condition.status == Status::False)
    });
    let none_ready = deployment.is_some_and(|deployment| {
        deployment.spec.as_ref().and_then(|spec| spec.replicas).is_some_and(|replicas| replicas > 0)
            && deployment.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0) == 0
    });
    if broken && none_ready {
        return "Unreachable";
    }
    match label(&revision.metadata, ROUTING_STATE_LABEL) {
        "active" => "Reachable",
        "reserve" => "Unreachable",
        _ => "",
    }
}

/// The container that serves: the one with a port, or the only one.
fn user_container(revision: &Revision) -> Option<&Container> {
    let containers = &revision.spec.pod.containers;
    let with_port = containers.iter().find(|container| container.ports.as_ref().is_some_and(|ports| !ports.is_empty()));
    with_port.or_else(|| containers.first())
}

/// The labels of everything made for a Revision.
fn labels(revision: &Revision) -> Words {
    let revision_name = name(&revision.metadata);
    let mut labels = words(
        revision.metadata.labels.as_ref(),
        &[ROUTE_LABEL, ROUTING_STATE_LABEL],
        [(REVISION_LABEL, revision_name), (REVISION_UID_LABEL, revision.metadata.uid.as_deref().unwrap_or_default())],
    );
    labels.entry("app".to_owned()).or_insert_with(|| revision_name.to_owned());
    labels
}

/// The annotations of a Revision without those that say which routes lead to it.
fn without_routing(revision: &Revision) -> Words {
    words(
        revision.metadata.annotations.as_ref(),
        &[
            ROUTES_ANNOTATION,
            ROUTING_STATE_MODIFIED_ANNOTATION,
            LAST_APPLIED_ANNOTATION,
            "serving.knative.dev/lastPinned",
            "serving.knative.dev/no-gc",
        ],
        [],
    )
}

fn pod_annotations(revision: &Revision) -> Words {
    let mut annotations = without_routing(revision);
    annotations.retain(|key, _| !key.starts_with(AUTOSCALING_PREFIX));
    annotations
}

fn pod_spec(revision: &Revision) -> PodSpec {
    let mut pod = revision.spec.pod.clone();
    let serving = user_container(revision).map(|container| container.name.clone());
    for container in &mut pod.containers {
        let is_serving = Some(&container.name) == serving.as_ref();
        if container.name.is_empty() {
            USER_CONTAINER.clone_into(&mut container.name);
        }
        complete_user_container(container, revision, is_serving);
    }
    pod.containers.push(queue_container(revision));
    pod.termination_grace_period_seconds = Some(revision.spec.timeout_seconds.unwrap_or(DEFAULT_TIMEOUT));
    pod
}

fn complete_user_container(container: &mut Container, revision: &Revision, serving: bool) {
    let env = container.env.get_or_insert_default();
    if serving {
        container.ports = Some(vec![ContainerPort {
            name: Some("user-port".to_owned()),
            container_port: user_port(revision),
            protocol: Some("TCP".to_owned()),
            ..ContainerPort::default()
        }]);
        env.push(plain("PORT", &user_port(revision).to_string()));
    }
    env.push(plain("K_REVISION", name(&revision.metadata)));
    env.push(plain("K_CONFIGURATION", label(&revision.metadata, CONFIGURATION_LABEL)));
    env.push(plain("K_SERVICE", label(&revision.metadata, SERVICE_LABEL)));
    // The queue-proxy answers when the last request is done, and only then is the container asked to stop.
    container.lifecycle = Some(Lifecycle {
        pre_stop: Some(LifecycleHandler {
            http_get: Some(HTTPGetAction {
                path: Some("/wait-for-drain".to_owned()),
                port: IntOrString::Int(i32::from(QUEUE_ADMIN_PORT)),
                scheme: Some("HTTP".to_owned()),
                ..HTTPGetAction::default()
            }),
            ..LifecycleHandler::default()
        }),
        ..Lifecycle::default()
    });
    container.termination_message_policy.get_or_insert_with(|| "FallbackToLogsOnError".to_owned());
    // The queue-proxy probes in the kubelet's place.
    container.readiness_probe = None;
}

fn queue_container(revision: &Revision) -> Container {
    let (serving_port, user_port) = (serving_port(revision), user_port(revision));
    let port = |name: &str, number: i32| ContainerPort {
        name: Some(name.to_owned()),
        container_port: number,
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    };
    let seconds = |value: Option<i64>| value.unwrap_or(0).to_string();
    let probe = user_probe(revision);
    Container {
        name: QUEUE_CONTAINER.to_owned(),
        image: Some(QUEUE_PROXY_IMAGE.to_owned()),
        ports: Some(vec![
            port(STATS_PORT_NAME, i32::from(QUEUE_STATS_PORT)),
            port("http-usermetric", i32::from(USER_METRICS_PORT)),
            port("queue-port", serving_port),
            port("https-port", 8112),
        ]),
        env: Some(vec![
            plain("SERVING_NAMESPACE", revision.metadata.namespace.as_deref().unwrap_or_default()),
            plain("SERVING_SERVICE", label(&revision.metadata, SERVICE_LABEL)),
            plain("SERVING_CONFIGURATION", label(&revision.metadata, CONFIGURATION_LABEL)),
            plain("SERVING_REVISION", name(&revision.metadata)),
            plain("QUEUE_SERVING_PORT", &serving_port.to_string()),
            plain("QUEUE_SERVING_TLS_PORT", "8112"),
            plain("CONTAINER_CONCURRENCY", &revision.spec.container_concurrency.unwrap_or(0).to_string()),
            plain("REVISION_TIMEOUT_SECONDS", &revision.spec.timeout_seconds.unwrap_or(DEFAULT_TIMEOUT).to_string()),
            plain("REVISION_RESPONSE_START_TIMEOUT_SECONDS", &seconds(revision.spec.response_start_timeout_seconds)),
            plain("REVISION_IDLE_TIMEOUT_SECONDS", &seconds(revision.spec.idle_timeout_seconds)),
            from_field("SERVING_POD", "metadata.name"),
            from_field("SERVING_POD_IP", "status.podIP"),
            plain("USER_PORT", &user_port.to_string()),
            plain("SYSTEM_NAMESPACE", SYSTEM_NAMESPACE),
            plain("SERVING_READINESS_PROBE", &serde_json::to_string(&probe).unwrap_or_default()),
            from_field("HOST_IP", "status.hostIP"),
            // What this cluster's `config-observability` says.
            plain("OBSERVABILITY_CONFIG", r#"{"requestMetrics":{"protocol":"prometheus"}}"#),
            plain("ENABLE_HTTP2_AUTO_DETECTION", "false"),
            plain("ENABLE_HTTP_FULL_DUPLEX", "false"),
            plain("ENABLE_MULTI_CONTAINER_PROBES", "false"),
        ]),
        readiness_probe: Some(Probe {
            http_get: Some(HTTPGetAction {
                port: IntOrString::Int(serving_port),
                http_headers: Some(vec![HTTPHeader {
                    name: crate::api::names::NETWORK_PROBE_HEADER.to_owned(),
                    value: "queue".to_owned(),
                }]),
                ..HTTPGetAction::default()
            }),
            tcp_socket: None,
            exec: None,
            grpc: None,
            ..probe
        }),
        resources: Some(ResourceRequirements {
            requests: Some([("cpu".to_owned(), Quantity("25m".to_owned()))].into()),
            ..ResourceRequirements::default()
        }),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), add: None }),
            read_only_root_filesystem: Some(true),
            run_as_non_root: Some(true),
            seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), localhost_profile: None }),
            ..SecurityContext::default()
        }),
        ..Container::default()
    }
}

/// The user's readiness probe with host and port filled in; connecting counts when there is none.
fn user_probe(revision: &Revision) -> Probe {
    let port = IntOrString::Int(user_port(revision));
    let mut probe =
        user_container(revision).and_then(|container| container.readiness_probe.clone()).unwrap_or_default();
    if let Some(get) = &mut probe.http_get {
        get.host = Some("127.0.0.1".to_owned());
        get.scheme.get_or_insert_with(|| "HTTP".to_owned());
        if get.port == IntOrString::Int(0) {
            get.port = port;
        }
    } else {
        let socket = probe.tcp_socket.get_or_insert_default();
        socket.host = Some("127.0.0.1".to_owned());
        if socket.port == IntOrString::Int(0) {
            socket.port = port;
        }
        (probe.exec, probe.grpc) = (None, None);
    }
    probe.success_threshold.get_or_insert(1);
    probe
}

fn user_port(revision: &Revision) -> i32 {
    let port = user_container(revision).and_then(|container| container.ports.as_ref()?.first());
    port.map(|port| port.container_port).filter(|port| *port != 0).unwrap_or(DEFAULT_USER_PORT)
}

fn serving_port(revision: &Revision) -> i32 {
    i32::from(if protocol(revision) == "h2c" { QUEUE_H2C_PORT } else { QUEUE_HTTP1_PORT })
}

fn plain(name: &str, value: &str) -> EnvVar {
    EnvVar { name: name.to_owned(), value: Some(value.to_owned()), value_from: None }
}

fn from_field(name: &str, path: &str) -> EnvVar {
    EnvVar {
        name: name.to_owned(),
        value: None,
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector { api_version: Some("v1".to_owned()), field_path: path.to_owned() }),
            ..EnvVarSource::default()
        }),
    }
}
