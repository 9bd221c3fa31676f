//! The `scale` subresource: the replicas of a workload, in the same form for all of them.

use super::resource::Resource;
use super::status::{self, Answer, Cause};
use serde_json::{Value, json};

/// The scale of a workload.
pub(super) fn of(object: &Value) -> Value {
    let metadata = &object["metadata"];
    let mut scale = json!({
        "apiVersion": "autoscaling/v1",
        "kind": "Scale",
        "metadata": {},
        "spec": {"replicas": object["spec"]["replicas"].as_i64().unwrap_or_default()},
        "status": {"replicas": object["status"]["replicas"].as_i64().unwrap_or_default()},
    });
    for key in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = metadata.get(key) {
            scale["metadata"][key] = value.clone();
        }
    }
    let selector = selector_text(&object["spec"]["selector"]);
    if !selector.is_empty() {
        scale["status"]["selector"] = selector.into();
    }
    scale
}

/// The workload with the replicas of `scale`.
pub(super) fn replaced(resource: &Resource, object: &Value, scale: &Value) -> Answer<Value> {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let claim = |key: &str| scale["metadata"][key].as_str().filter(|text| !text.is_empty());
    if claim("name").is_some_and(|claimed| claimed != name) {
        return Err(status::bad_request("the name of the scale does not match the name on the URL"));
    }
    if claim("resourceVersion").is_some_and(|version| object["metadata"]["resourceVersion"] != version) {
        return Err(status::stale(resource, name));
    }
    let mut object = object.clone();
    object["spec"]["replicas"] = replicas(name, scale)?.into();
    Ok(object)
}

/// What a configuration of a scale to apply means for the workload.
pub(super) fn as_config(resource: &Resource, scale: &Value) -> Answer<Value> {
    let name = scale["metadata"]["name"].as_str().unwrap_or_default();
    Ok(json!({
        "apiVersion": resource.api_version(),
        "kind": resource.kind,
        "metadata": {"name": name},
        "spec": {"replicas": replicas(name, scale)?},
    }))
}

fn replicas(name: &str, scale: &Value) -> Answer<i64> {
    let value = &scale["spec"]["replicas"];
    let replicas = if value.is_null() { Some(0) } else { value.as_i64() };
    match replicas {
        Some(replicas) if i32::try_from(replicas).is_ok_and(|replicas| 0 <= replicas) => Ok(replicas),
        Some(_) => {
            let why = "must be greater than or equal to 0";
            Err(status::invalid("autoscaling", "Scale", name, &[Cause::invalid("spec.replicas", value, why)]))
        }
        None => Err(status::bad_request(&format!("Scale: spec.replicas: {value} is not a number of replicas"))),
    }
}

pub(super) fn selector_text(selector: &Value) -> String {
    let labels = selector["matchLabels"].as_object();
    let mut terms: Vec<String> = labels
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    for rule in selector["matchExpressions"].as_array().into_iter().flatten() {
        let key = rule["key"].as_str().unwrap_or_default();
        let values = super::write::list_of_texts(&rule["values"]).join(",");
        terms.push(match rule["operator"].as_str() {
            Some("In") => format!("{key} in ({values})"),
            Some("NotIn") => format!("{key} notin ({values})"),
            Some("DoesNotExist") => format!("!{key}"),
            _ => key.to_owned(),
        });
    }
    terms.join(",")
}
