//! What Knative's webhooks do with a write: fill in defaults, and refuse what cannot stand, every problem at once.
//!
//! Beyond Knative's rules there is one of this cluster's own: a pod runs one container, so a revision may have only one.

use crate::api::annotations::{validate, validate_progress_deadline};
use crate::api::names::{
    CLASS_ANNOTATION, CREATOR_ANNOTATION, HPA_CLASS, KPA_CLASS, METRIC_ANNOTATION, MODIFIER_ANNOTATION,
    SYSTEM_NAMESPACE, USER_CONTAINER,
};
use crate::api::serving::{RevisionSpec, Service, TrafficTarget};
use crate::api::setting::{SettingError, Severity};
use crate::config::{self, ConfigError, Defaults};
use crate::local::apiserver::{Answer, Cause, Operation, Review, invalid};
use crate::local::manifest;
use crate::local::world::AutoscalerSettings;
use crate::units::Compat;
use k8s_openapi::api::core::v1::{Container, PodSpec};
use serde::Deserialize as _;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// What annotations of the autoscaler begin with.
const AUTOSCALING_PREFIX: &str = "autoscaling.knative.dev/";
/// Seconds a request may take when the revision does not say (`revision-timeout-seconds`).
const DEFAULT_TIMEOUT: i64 = 300;
/// The name a user gives to the next revision.
const TEMPLATE_NAME: &str = "spec.template.metadata.name";
/// Who did it, as far as annotations tell: nobody logs in here.
const USER: &str = "local";

/// The judge of all writes, to be given to the API.
pub fn admission(settings: AutoscalerSettings) -> impl Fn(&Review<'_>, Value) -> Answer<Value> + Send + Sync + 'static {
    move |review, object| admit(&settings, review, object)
}

fn admit(settings: &AutoscalerSettings, review: &Review<'_>, mut object: Value) -> Answer<Value> {
    if review.operation == Operation::Delete || review.subresource.is_some() {
        return Ok(object);
    }
    let resource = review.resource;
    let causes = match (resource.group.as_str(), resource.kind.as_str()) {
        ("serving.knative.dev", "Service") => {
            fill_in_service(&mut object, review.old);
            service_problems(settings, &object, review.old)
        }
        ("serving.knative.dev", "Revision") => revision_problems(&object, review.old),
        ("autoscaling.internal.knative.dev", "PodAutoscaler") => {
            fill_in_pod_autoscaler(settings, &mut object);
            Vec::new()
        }
        ("", "ConfigMap") if review.namespace == SYSTEM_NAMESPACE => {
            config_problems(settings.compat(), review.name, &object)
        }
        _ => Vec::new(),
    };
    if causes.is_empty() { Ok(object) } else { Err(invalid(&resource.group, &resource.kind, review.name, &causes)) }
}

fn fill_in_service(object: &mut Value, old: Option<&Value>) {
    if !object["spec"].is_object() {
        return;
    }
    let is_new = old.is_none();
    {
        let spec = &mut object["spec"];
        if spec.get("traffic").and_then(Value::as_array).is_none_or(Vec::is_empty) {
            spec["traffic"] = json!([{"latestRevision": true, "percent": 100}]);
        }
        for target in spec["traffic"].as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
            let fixed = target.get("revisionName").and_then(Value::as_str).is_some_and(|name| !name.is_empty());
            target.entry("latestRevision").or_insert(json!(!fixed));
            target.entry("percent").or_insert(json!(0));
        }
        if let Some(template) = spec.pointer_mut("/template/spec").and_then(Value::as_object_mut) {
            fill_in_revision(template, is_new);
        }
    }
    let changed = old.is_none_or(|old| old["spec"] != object["spec"]);
    if changed && let Some(metadata) = object["metadata"].as_object_mut() {
        let annotations = metadata.entry("annotations").or_insert_with(|| json!({}));
        if let Some(annotations) = annotations.as_object_mut() {
            annotations.insert(MODIFIER_ANNOTATION.to_owned(), json!(USER));
            annotations.entry(CREATOR_ANNOTATION).or_insert(json!(USER));
        }
    }
}

fn fill_in_revision(spec: &mut Map<String, Value>, is_new: bool) {
    spec.entry("containerConcurrency").or_insert(json!(0));
    if spec.get("timeoutSeconds").is_none_or(|seconds| *seconds == 0) {
        spec.insert("timeoutSeconds".to_owned(), json!(DEFAULT_TIMEOUT));
    }
    if is_new {
        spec.entry("enableServiceLinks").or_insert(json!(false));
    }
    let containers = spec.get_mut("containers").and_then(Value::as_array_mut);
    for container in containers.into_iter().flatten().filter_map(Value::as_object_mut) {
        if container.get("name").and_then(Value::as_str).is_none_or(str::is_empty) {
            container.insert("name".to_owned(), json!(USER_CONTAINER));
        }
        container.entry("resources").or_insert(json!({}));
        let probe = container.entry("readinessProbe").or_insert(json!({}));
        if let Some(probe) = probe.as_object_mut() {
            if !["tcpSocket", "httpGet", "exec", "grpc"].iter().any(|kind| probe.contains_key(*kind)) {
                probe.insert("tcpSocket".to_owned(), json!({"port": 0}));
            }
            probe.entry("successThreshold").or_insert(json!(1));
        }
    }
}

fn fill_in_pod_autoscaler(settings: &AutoscalerSettings, object: &mut Value) {
    let Some(metadata) = object["metadata"].as_object_mut() else { return };
    let annotations = metadata.entry("annotations").or_insert_with(|| json!({}));
    let Some(annotations) = annotations.as_object_mut() else { return };
    let class = annotations
        .entry(CLASS_ANNOTATION)
        .or_insert_with(|| json!(settings.get().pod_autoscaler_class))
        .as_str()
        .unwrap_or_default();
    let metric = match class {
        KPA_CLASS => "concurrency",
        HPA_CLASS => "cpu",
        _ => return,
    };
    annotations.entry(METRIC_ANNOTATION).or_insert(json!(metric));
}

fn service_problems(settings: &AutoscalerSettings, object: &Value, old: Option<&Value>) -> Vec<Cause> {
    // What has not even the right types is refused by the API itself.
    let Ok(service) = Service::deserialize(object) else { return Vec::new() };
    // Knative's webhooks refuse unknown fields however lenient the client asks the API to be.
    let unknown = manifest::service_faults(object);
    let mut causes: Vec<Cause> = unknown.iter().map(|(path, why)| Cause::forbidden(path, why)).collect();
    let own = service.metadata.annotations.clone().unwrap_or_default();
    for key in own.keys().filter(|key| key.starts_with(AUTOSCALING_PREFIX)) {
        let why = "autoscaling annotations belong to spec.template.metadata.annotations, and have no effect here";
        causes.push(Cause::invalid(format!("metadata.annotations[{key}]"), &json!(own[key]), why));
    }

    let template = &service.spec.template;
    let annotations = template.metadata.as_ref().and_then(|meta| meta.annotations.clone()).unwrap_or_default();
    let settings = settings.get().validation(settings.compat());
    let problems = validate(&annotations, &settings).into_iter().chain(validate_progress_deadline(&annotations));
    causes.extend(
        problems
            .filter(|problem| problem.severity == Severity::Error)
            .map(|problem| setting_cause("spec.template.metadata.annotations", &problem)),
    );

    let limits = Defaults::default();
    let spec = &template.spec;
    revision_spec_problems(spec, "spec.template.spec", &limits, &mut causes);
    let longest = spec.timeout_seconds.unwrap_or(DEFAULT_TIMEOUT);
    let field = |name: &str| format!("spec.template.spec.{name}");
    in_range(&mut causes, field("responseStartTimeoutSeconds"), spec.response_start_timeout_seconds, 0, longest);
    in_range(&mut causes, field("idleTimeoutSeconds"), spec.idle_timeout_seconds, 0, longest);
    if spec.pod.containers.len() != 1 {
        let why = "a pod of this cluster runs exactly one container";
        causes.push(Cause::invalid(field("containers"), &json!(spec.pod.containers.len()), why));
    }
    template_name_problems(&service, object, old, &mut causes);
    traffic_problems(&service.spec.traffic, &mut causes);
    causes
}

/// What Knative's webhook refuses in the spec of a new Service, Configuration or Revision, beside annotations; nothing
/// for another kind. A field of a wrong type is as if absent, so that the others are judged all the same.
pub fn spec_problems(kind: &str, object: &Value, limits: &Defaults) -> Vec<Cause> {
    let mut causes = Vec::new();
    let at = |pointer: &str| object.pointer(pointer).unwrap_or(&Value::Null);
    match kind {
        "Service" | "Configuration" => {
            let spec = lenient_revision_spec(at("/spec/template/spec"));
            revision_spec_problems(&spec, "spec.template.spec", limits, &mut causes);
            let name = |pointer: &str| at(pointer).as_str().unwrap_or_default();
            template_name_prefix(name("/metadata/name"), name("/spec/template/metadata/name"), &mut causes);
            let traffic: Vec<TrafficTarget> =
                at("/spec/traffic").as_array().into_iter().flatten().map(lenient).collect();
            // Without any it is filled in.
            if kind == "Service" && !traffic.is_empty() {
                traffic_problems(&traffic, &mut causes);
            }
        }
        "Revision" => revision_spec_problems(&lenient_revision_spec(at("/spec")), "spec", limits, &mut causes),
        _ => {}
    }
    causes
}

/// What of a spec can be read and is judged.
fn lenient_revision_spec(spec: &Value) -> RevisionSpec {
    let containers = spec["containers"].as_array().into_iter().flatten().map(|container| {
        let ports = container["ports"].as_array().map(|ports| ports.iter().map(lenient).collect());
        Container { ports, ..Container::default() }
    });
    RevisionSpec {
        pod: PodSpec { containers: containers.collect(), ..PodSpec::default() },
        container_concurrency: spec["containerConcurrency"].as_i64(),
        timeout_seconds: spec["timeoutSeconds"].as_i64(),
        ..RevisionSpec::default()
    }
}

fn lenient<T: serde::de::DeserializeOwned + Default>(value: &Value) -> T {
    T::deserialize(value).unwrap_or_default()
}

fn revision_spec_problems(spec: &RevisionSpec, path: &str, limits: &Defaults, causes: &mut Vec<Cause>) {
    let least = i64::from(!limits.allow_unlimited);
    let field = |name: &str| format!("{path}.{name}");
    let most = limits.container_concurrency_max;
    in_range(causes, field("containerConcurrency"), spec.container_concurrency, least, most);
    in_range(causes, field("timeoutSeconds"), spec.timeout_seconds, 0, limits.timeout_max);
    let containers = &spec.pod.containers;
    let with_ports = |container: &&Container| container.ports.as_ref().is_some_and(|ports| !ports.is_empty());
    if containers.is_empty() {
        causes.push(Cause::required(field("containers"), "a pod runs at least one container"));
    } else if containers.len() > 1 && containers.iter().filter(with_ports).count() != 1 {
        let why = "of several containers exactly one names a port: the one that gets the requests";
        causes.push(Cause::invalid(field("containers"), &json!(containers.len()), why));
    }
    for (number, container) in containers.iter().enumerate() {
        let ports = container.ports.as_deref().unwrap_or_default();
        let field = format!("{path}.containers[{number}].ports");
        if ports.len() > 1 {
            causes.push(Cause::invalid(field.clone(), &json!(ports.len()), "at most one port may be named"));
        }
        for name in ports.iter().filter_map(|port| port.name.as_deref()) {
            if !["", "http1", "h2c"].contains(&name) {
                causes.push(Cause::invalid(format!("{field}.name"), &json!(name), "must be http1 or h2c"));
            }
        }
    }
}

fn in_range(causes: &mut Vec<Cause>, field: String, value: Option<i64>, least: i64, most: i64) {
    if let Some(value) = value.filter(|value| !(least..=most).contains(value)) {
        causes.push(Cause::invalid(field, &json!(value), &format!("must be from {least} to {most}")));
    }
}

/// A name the user chose for the revision begins with the service's, and is a new one for each change.
fn template_name_problems(service: &Service, object: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let Some(name) = service.spec.template.metadata.as_ref().and_then(|meta| meta.name.as_deref()) else { return };
    template_name_prefix(service.metadata.name.as_deref().unwrap_or_default(), name, causes);
    let before = old.and_then(|old| old.pointer("/spec/template"));
    if let Some(before) = before
        && before.pointer("/metadata/name").and_then(Value::as_str) == Some(name)
        && Some(before) != object.pointer("/spec/template")
    {
        let why = "the template changes but its name does not; choose another name, or leave it out";
        causes.push(Cause::invalid(TEMPLATE_NAME, &json!(name), why));
    }
}

fn template_name_prefix(service_name: &str, name: &str, causes: &mut Vec<Cause>) {
    let prefix = format!("{service_name}-");
    if !name.is_empty() && !name.starts_with(&prefix) {
        causes.push(Cause::invalid(TEMPLATE_NAME, &json!(name), &format!("must begin with {prefix:?}")));
    }
}

fn traffic_problems(traffic: &[TrafficTarget], causes: &mut Vec<Cause>) {
    let mut tags: BTreeMap<&str, usize> = BTreeMap::new();
    for (number, target) in traffic.iter().enumerate() {
        let field = |name: &str| format!("spec.traffic[{number}].{name}");
        let percent = target.percent.unwrap_or(0);
        if !(0..=100).contains(&percent) {
            causes.push(Cause::invalid(field("percent"), &json!(percent), "must be from 0 to 100"));
        }
        let fixed = target.revision_name.as_deref().unwrap_or_default();
        if target.latest_revision == Some(!fixed.is_empty()) {
            let why = "must be true without a revisionName and false with one";
            causes.push(Cause::invalid(field("latestRevision"), &json!(target.latest_revision), why));
        }
        if target.configuration_name.is_some() {
            causes.push(Cause::forbidden(field("configurationName"), "a Service has only its own configuration"));
        }
        if target.url.is_some() {
            causes.push(Cause::forbidden(field("url"), "it follows from the tag"));
        }
        if let Some(tag) = target.tag.as_deref().filter(|tag| !tag.is_empty()) {
            if !is_label(tag) {
                let why = "must be letters, digits and hyphens in lower case, beginning with a letter";
                causes.push(Cause::invalid(field("tag"), &json!(tag), why));
            }
            if let Some(other) = tags.insert(tag, number) {
                let why = format!("is the tag of spec.traffic[{other}] already");
                causes.push(Cause::invalid(field("tag"), &json!(tag), &why));
            }
        }
    }
    let sum: i64 = traffic.iter().map(|target| target.percent.unwrap_or(0)).fold(0, i64::saturating_add);
    if sum != 100 {
        causes.push(Cause::invalid("spec.traffic", &json!(sum), "the percentages must add up to 100"));
    }
}

fn revision_problems(object: &Value, old: Option<&Value>) -> Vec<Cause> {
    match old {
        Some(old) if old["spec"] != object["spec"] => {
            vec![Cause::forbidden("spec", "a revision never changes; change the template of its service")]
        }
        _ => Vec::new(),
    }
}

fn config_problems(compat: Compat, name: &str, object: &Value) -> Vec<Cause> {
    let data: config::Data = config::Data::deserialize(&object["data"]).unwrap_or_default();
    let parsed: Result<(), ConfigError> = match name {
        "config-autoscaler" => config::Autoscaler::parse(&data, compat).map(drop),
        "config-defaults" => Defaults::parse(&data).map(drop),
        "config-deployment" => config::Deployment::parse(&data).map(drop),
        "config-network" => config::Network::parse(&data).map(drop),
        "config-leader-election" => config::LeaderElection::parse(&data, compat).map(drop),
        "config-logging" => config::Logging::parse(&data).map(drop),
        "config-observability" => config::Observability::parse(&data, compat).map(drop),
        _ => Ok(()),
    };
    let problems = parsed.err().map(|error| error.problems).unwrap_or_default();
    problems.iter().map(|problem| setting_cause("data", problem)).collect()
}

fn setting_cause(field: &str, problem: &SettingError) -> Cause {
    let why = format!("{}; use {}, or {}", problem.problem, problem.accepted, problem.way_out);
    Cause::invalid(format!("{field}[{}]", problem.keys.join(", ")), &json!(problem.value), &why)
}

/// Whether Kubernetes takes it as the first part of a host (RFC 1035).
fn is_label(text: &str) -> bool {
    text.len() <= 63
        && text.starts_with(|first: char| first.is_ascii_lowercase())
        && !text.ends_with('-')
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}
