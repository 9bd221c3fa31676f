//! What Kubernetes knows about its own kinds: their types, the defaults that others rely on, and the few rules whose
//! breach would otherwise show up much later.

use super::resource::Resource;
use super::status::{self, Answer, Cause};
use super::write::drop_nulls;
use crate::api;
use k8s_openapi::api::{apps, autoscaling, coordination, core, discovery, networking};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

/// What happens to fields that a kind's type does not have. They are never stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Strictness {
    /// They are dropped in silence.
    Ignore,
    /// They are dropped, and the answer says so.
    Warn,
    /// They are a 400.
    Strict,
}

/// What the API fills in when an object is made.
pub(super) fn begin(resource: &Resource, value: &mut Value) {
    match (resource.group.as_str(), resource.kind.as_str()) {
        ("", "Namespace") => {
            value["spec"] = json!({"finalizers": ["kubernetes"]});
            value["status"] = json!({"phase": "Active"});
            let name = value["metadata"]["name"].clone();
            value["metadata"]["labels"]["kubernetes.io/metadata.name"] = name;
        }
        ("", "Pod") => value["status"] = json!({"phase": "Pending", "qosClass": "BestEffort"}),
        ("apps", _) | ("", "Service") => value["status"] = json!({}),
        _ => {}
    }
    if resource.group.is_empty() && resource.kind == "Service" {
        value["status"]["loadBalancer"] = json!({});
    }
}

/// Checks the types of the fields, drops those that the kind does not have, and fills in defaults. What the client is to
/// be warned of comes back.
pub(super) fn settle(resource: &Resource, value: &mut Value, strict: Strictness) -> Answer<Vec<String>> {
    let mut warnings = Vec::new();
    if let Some(check) = checker(resource) {
        let unknown = check(value).map_err(|wrong| {
            let version = resource.api_version();
            let message =
                format!("{} in version {version:?} cannot be handled as a {}: {wrong}", resource.kind, resource.kind);
            status::bad_request(&message)
        })?;
        if !unknown.is_empty() && !resource.custom {
            let words: Vec<String> =
                unknown.iter().map(|path| format!("unknown field {:?}", path_text(path))).collect();
            match strict {
                Strictness::Strict => {
                    return Err(status::bad_request(&format!("strict decoding error: {}", words.join(", "))));
                }
                Strictness::Warn => warnings = words,
                Strictness::Ignore => {}
            }
            // Backwards, so that the indices of what is still to go stay right.
            unknown.iter().rev().for_each(|path| forget(value, path));
        }
    }
    set_defaults(resource, value);
    drop_nulls(value);
    for key in ["annotations", "finalizers", "labels", "ownerReferences"] {
        forget_empty(&mut value["metadata"], key);
    }
    for key in ["binaryData", "data"] {
        forget_empty(value, key);
    }
    Ok(warnings)
}

/// An empty map or list counts as absent.
fn forget_empty(value: &mut Value, key: &str) {
    let empty = match &value[key] {
        Value::Object(map) => map.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    };
    if let (true, Value::Object(map)) = (empty, value) {
        map.remove(key);
    }
}

/// What is wrong with an object of a kind that is known well enough to tell.
pub(super) fn validate(resource: &Resource, value: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut causes = Vec::new();
    let spec = &value["spec"];
    match (resource.group.as_str(), resource.kind.as_str()) {
        ("apps", _) => {
            validate_workload(value, old, &mut causes);
        }
        ("", "Pod") => validate_containers(spec, "spec", &mut causes),
        ("", "ConfigMap" | "Secret") => validate_data(value, &mut causes),
        ("", "Service") => validate_service(spec, &mut causes),
        ("autoscaling", "HorizontalPodAutoscaler") => {
            let (least, most) =
                (spec["minReplicas"].as_i64().unwrap_or(1), spec["maxReplicas"].as_i64().unwrap_or_default());
            if most < 1 {
                causes.push(Cause::invalid("spec.maxReplicas", &most.into(), "must be greater than 0"));
            } else if most < least {
                let why = "must be greater than or equal to `minReplicas`";
                causes.push(Cause::invalid("spec.maxReplicas", &most.into(), why));
            }
        }
        ("discovery.k8s.io", "EndpointSlice") => {
            if !["IPv4", "IPv6", "FQDN"].iter().any(|known| value["addressType"] == *known) {
                causes.push(Cause::invalid(
                    "addressType",
                    &value["addressType"],
                    "supported values: \"FQDN\", \"IPv4\", \"IPv6\"",
                ));
            } else if old.is_some_and(|old| old["addressType"] != value["addressType"]) {
                causes.push(Cause::invalid("addressType", &value["addressType"], "field is immutable"));
            }
        }
        ("coordination.k8s.io", "Lease")
            if spec["leaseDurationSeconds"].as_i64().is_some_and(|seconds| seconds <= 0) =>
        {
            causes.push(Cause::invalid(
                "spec.leaseDurationSeconds",
                &spec["leaseDurationSeconds"],
                "must be greater than 0",
            ));
        }
        _ => {}
    }
    causes
}

type Check = fn(&Value) -> Result<Vec<Vec<Step>>, String>;

/// A step into a value.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Key(String),
    Index(usize),
}

fn checker(resource: &Resource) -> Option<Check> {
    Some(match (resource.group.as_str(), resource.kind.as_str()) {
        ("", "Namespace") => check::<core::v1::Namespace>,
        ("", "Pod") => check::<core::v1::Pod>,
        ("", "Service") => check::<core::v1::Service>,
        ("", "Endpoints") => check::<core::v1::Endpoints>,
        ("", "ConfigMap") => check::<core::v1::ConfigMap>,
        ("", "Secret") => check::<core::v1::Secret>,
        ("", "ServiceAccount") => check::<core::v1::ServiceAccount>,
        ("", "Event") => check::<core::v1::Event>,
        ("", "Node") => check::<core::v1::Node>,
        ("apps", "Deployment") => check::<apps::v1::Deployment>,
        ("apps", "ReplicaSet") => check::<apps::v1::ReplicaSet>,
        ("apps", "StatefulSet") => check::<apps::v1::StatefulSet>,
        ("autoscaling", _) => check::<autoscaling::v2::HorizontalPodAutoscaler>,
        ("apiextensions.k8s.io", _) => check::<apiextensions::v1::CustomResourceDefinition>,
        ("coordination.k8s.io", _) => check::<coordination::v1::Lease>,
        ("discovery.k8s.io", _) => check::<discovery::v1::EndpointSlice>,
        ("networking.k8s.io", "Ingress") => check::<networking::v1::Ingress>,
        ("networking.k8s.io", "IngressClass") => check::<networking::v1::IngressClass>,
        ("serving.knative.dev", "Service") => check::<api::serving::Service>,
        ("serving.knative.dev", "Configuration") => check::<api::serving::Configuration>,
        ("serving.knative.dev", "Revision") => check::<api::serving::Revision>,
        ("serving.knative.dev", "Route") => check::<api::serving::Route>,
        ("autoscaling.internal.knative.dev", "PodAutoscaler") => check::<api::pod_autoscaler::PodAutoscaler>,
        ("autoscaling.internal.knative.dev", "Metric") => check::<api::metric::Metric>,
        ("networking.internal.knative.dev", "ServerlessService") => check::<api::serverless_service::ServerlessService>,
        ("networking.internal.knative.dev", "Ingress") => check::<api::ingress::Ingress>,
        _ => return None,
    })
}

/// The paths of the fields that the type does not have; fails when a field it has is of another type.
fn check<T: DeserializeOwned>(value: &Value) -> Result<Vec<Vec<Step>>, String> {
    let mut unknown = Vec::new();
    serde_ignored::deserialize::<_, _, T>(value, |path| unknown.push(steps(&path)))
        .map_err(|error| error.to_string())?;
    Ok(unknown)
}

fn steps(path: &serde_ignored::Path<'_>) -> Vec<Step> {
    use serde_ignored::Path;
    match path {
        Path::Root => Vec::new(),
        Path::Seq { parent, index } => {
            let mut steps = steps(parent);
            steps.push(Step::Index(*index));
            steps
        }
        Path::Map { parent, key } => {
            let mut steps = steps(parent);
            steps.push(Step::Key(key.clone()));
            steps
        }
        Path::Some { parent } | Path::NewtypeStruct { parent } | Path::NewtypeVariant { parent } => steps(parent),
    }
}

fn path_text(path: &[Step]) -> String {
    let mut text = String::new();
    for step in path {
        match step {
            Step::Key(key) if text.is_empty() => text.push_str(key),
            Step::Key(key) => text.extend([".", key]),
            Step::Index(index) => text.extend(["[", &index.to_string(), "]"]),
        }
    }
    text
}

fn forget(value: &mut Value, path: &[Step]) {
    let Some((last, parents)) = path.split_last() else { return };
    let parent = parents.iter().try_fold(value, |value, step| match step {
        Step::Key(key) => value.get_mut(key),
        Step::Index(index) => value.get_mut(index),
    });
    if let (Some(Value::Object(map)), Step::Key(key)) = (parent, last) {
        map.remove(key);
    }
}

fn set_defaults(resource: &Resource, value: &mut Value) {
    match (resource.group.as_str(), resource.kind.as_str()) {
        ("", "Pod") => pod_defaults(&mut value["spec"]),
        ("apps", kind) => {
            let spec = &mut value["spec"];
            default(spec, "replicas", || 1.into());
            if kind != "ReplicaSet" {
                default(spec, "revisionHistoryLimit", || 10.into());
            }
            if kind == "Deployment" {
                default(spec, "progressDeadlineSeconds", || 600.into());
                default(spec, "strategy", || json!({"type": "RollingUpdate"}));
                let strategy = &mut spec["strategy"];
                default(strategy, "type", || "RollingUpdate".into());
                if strategy["type"] == "RollingUpdate" {
                    default(strategy, "rollingUpdate", || json!({}));
                    default(&mut strategy["rollingUpdate"], "maxSurge", || "25%".into());
                    default(&mut strategy["rollingUpdate"], "maxUnavailable", || "25%".into());
                }
            }
            pod_defaults(&mut spec["template"]["spec"]);
        }
        ("", "Service") => {
            let spec = &mut value["spec"];
            default(spec, "type", || "ClusterIP".into());
            default(spec, "sessionAffinity", || "None".into());
            if spec["type"] != "ExternalName" {
                default(spec, "internalTrafficPolicy", || "Cluster".into());
            }
            for port in items(&mut spec["ports"]) {
                default(port, "protocol", || "TCP".into());
                let number = port["port"].clone();
                default(port, "targetPort", || number);
            }
        }
        ("", "Secret") => {
            default(value, "type", || "Opaque".into());
            let texts = value.as_object_mut().and_then(|secret| secret.remove("stringData"));
            for (key, text) in texts.as_ref().and_then(Value::as_object).into_iter().flatten() {
                let bytes = k8s_openapi::ByteString(text.as_str().unwrap_or_default().as_bytes().to_vec());
                value["data"][key] = serde_json::to_value(bytes).expect("bytes become text");
            }
        }
        ("", "Endpoints") => {
            for subset in items(&mut value["subsets"]) {
                items(&mut subset["ports"]).for_each(|port| default(port, "protocol", || "TCP".into()));
            }
        }
        ("discovery.k8s.io", "EndpointSlice") => {
            for port in items(&mut value["ports"]) {
                default(port, "name", || "".into());
                default(port, "protocol", || "TCP".into());
            }
        }
        ("autoscaling", "HorizontalPodAutoscaler") => default(&mut value["spec"], "minReplicas", || 1.into()),
        _ => {}
    }
}

fn pod_defaults(spec: &mut Value) {
    default(spec, "restartPolicy", || "Always".into());
    default(spec, "terminationGracePeriodSeconds", || 30.into());
    default(spec, "dnsPolicy", || "ClusterFirst".into());
    default(spec, "schedulerName", || "default-scheduler".into());
    default(spec, "securityContext", || json!({}));
    for list in ["initContainers", "containers"] {
        for container in items(&mut spec[list]) {
            default(container, "terminationMessagePath", || "/dev/termination-log".into());
            default(container, "terminationMessagePolicy", || "File".into());
            default(container, "resources", || json!({}));
            let image = container["image"].as_str().unwrap_or_default();
            let name = image.rsplit('/').next().unwrap_or_default();
            let latest = !image.contains('@') && name.rsplit_once(':').is_none_or(|(_, tag)| tag == "latest");
            default(container, "imagePullPolicy", || if latest { "Always" } else { "IfNotPresent" }.into());
            items(&mut container["ports"]).for_each(|port| default(port, "protocol", || "TCP".into()));
            for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
                let probe = &mut container[probe];
                if probe.is_object() {
                    for (key, seconds) in
                        [("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)]
                    {
                        default(probe, key, || seconds.into());
                    }
                    if probe["httpGet"].is_object() {
                        default(&mut probe["httpGet"], "path", || "/".into());
                        default(&mut probe["httpGet"], "scheme", || "HTTP".into());
                    }
                }
            }
        }
    }
}

/// Sets a member that is not there; makes the map when that is not there either.
fn default(value: &mut Value, key: &str, make: impl FnOnce() -> Value) {
    if value.is_null() {
        *value = Value::Object(Map::new());
    }
    if let Value::Object(map) = value
        && map.get(key).is_none_or(Value::is_null)
    {
        map.insert(key.to_owned(), make());
    }
}

fn items(value: &mut Value) -> impl Iterator<Item = &mut Value> {
    value.as_array_mut().into_iter().flatten()
}

fn validate_workload(value: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let spec = &value["spec"];
    let selector = &spec["selector"];
    let labels = &spec["template"]["metadata"]["labels"];
    let wanted = selector["matchLabels"].as_object();
    let expressions = selector["matchExpressions"].as_array();
    if wanted.is_none_or(Map::is_empty) && expressions.is_none_or(Vec::is_empty) {
        causes.push(Cause::required("spec.selector", ""));
    }
    if wanted.into_iter().flatten().any(|(key, value)| labels.get(key) != Some(value)) {
        let why = "`selector` does not match template `labels`";
        causes.push(Cause::invalid("spec.template.metadata.labels", labels, why));
    }
    if old.is_some_and(|old| old["spec"]["selector"] != *selector) {
        causes.push(Cause::invalid("spec.selector", selector, "field is immutable"));
    }
    if spec["replicas"].as_i64().is_some_and(|replicas| replicas < 0) {
        causes.push(Cause::invalid("spec.replicas", &spec["replicas"], "must be greater than or equal to 0"));
    }
    validate_containers(&spec["template"]["spec"], "spec.template.spec", causes);
}

fn validate_containers(spec: &Value, path: &str, causes: &mut Vec<Cause>) {
    let containers = spec["containers"].as_array();
    if containers.is_none_or(Vec::is_empty) {
        causes.push(Cause::required(format!("{path}.containers"), ""));
    }
    let mut seen = std::collections::BTreeSet::new();
    for (index, container) in containers.into_iter().flatten().enumerate() {
        let at = format!("{path}.containers[{index}]");
        let name = container["name"].as_str().unwrap_or_default();
        if name.is_empty() {
            causes.push(Cause::required(format!("{at}.name"), ""));
        } else if !super::names::is_label(name) {
            causes.push(Cause::invalid(format!("{at}.name"), &name.into(), "a lowercase RFC 1123 label is needed"));
        } else if !seen.insert(name) {
            let message = format!("Duplicate value: {name:?}");
            causes.push(Cause { reason: "FieldValueDuplicate", field: format!("{at}.name"), message });
        }
        if container["image"].as_str().is_none_or(str::is_empty) {
            causes.push(Cause::required(format!("{at}.image"), ""));
        }
        for (number, port) in container["ports"].as_array().into_iter().flatten().enumerate() {
            if !is_port(&port["containerPort"]) {
                let field = format!("{at}.ports[{number}].containerPort");
                causes.push(Cause::invalid(field, &port["containerPort"], "must be between 1 and 65535, inclusive"));
            }
        }
    }
}

/// Keys of ConfigMaps and Secrets are to be file names.
fn validate_data(value: &Value, causes: &mut Vec<Cause>) {
    for member in ["binaryData", "data"] {
        for key in value[member].as_object().into_iter().flat_map(Map::keys) {
            let good = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
            if key.is_empty() || key.len() > 253 || !key.bytes().all(good) || key.starts_with("..") || key == "." {
                let why = "a valid config key must consist of alphanumeric characters, '-', '_' or '.'";
                causes.push(Cause::invalid(format!("{member}[{key}]"), &key.as_str().into(), why));
            }
        }
    }
}

fn validate_service(spec: &Value, causes: &mut Vec<Cause>) {
    let ports = spec["ports"].as_array();
    let headless = spec["clusterIP"] == "None";
    if ports.is_none_or(Vec::is_empty) && !headless && spec["type"] != "ExternalName" {
        causes.push(Cause::required("spec.ports", ""));
    }
    let several = 1 < ports.map_or(0, Vec::len);
    for (index, port) in ports.into_iter().flatten().enumerate() {
        if !is_port(&port["port"]) {
            let field = format!("spec.ports[{index}].port");
            causes.push(Cause::invalid(field, &port["port"], "must be between 1 and 65535, inclusive"));
        }
        if several && port["name"].as_str().is_none_or(str::is_empty) {
            causes.push(Cause::required(format!("spec.ports[{index}].name"), ""));
        }
    }
}

fn is_port(value: &Value) -> bool {
    value.as_i64().is_some_and(|port| 1 <= port && port <= 65535)
}
