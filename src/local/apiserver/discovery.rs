//! What the API has to offer, told to clients: versions, groups, resources, health.

use super::http::json_response;
use super::resource::Resource;
use super::status::{self, Answer};
use super::store::Store;
use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use serde_json::{Value, json};
use std::sync::Arc;

/// The version of Kubernetes whose API this is.
const MINOR: &str = "34";
/// What a client asks for that wants to learn everything at once.
const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// Answers a request about the API itself; absent when the path is about objects.
pub(super) fn answer(store: &Store, method: &Method, path: &str, headers: &HeaderMap) -> Answer<Option<Response>> {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let aggregated = wants_aggregated(headers);
    let resources = || store.resources();
    let response = match parts.as_slice() {
        [""] => json_response(StatusCode::OK, &paths(&resources())),
        ["healthz" | "livez" | "readyz", ..] => "ok".into_response(),
        ["version"] => json_response(StatusCode::OK, &version()),
        ["api"] if aggregated => aggregated_response(&resources(), true),
        ["apis"] if aggregated => aggregated_response(&resources(), false),
        ["api"] => json_response(
            StatusCode::OK,
            &json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}),
        ),
        ["apis"] => {
            let groups: Vec<Value> = groups(&resources()).iter().map(|group| api_group(group)).collect();
            json_response(StatusCode::OK, &json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}))
        }
        ["apis", name] => {
            let groups = groups(&resources());
            let group = groups.iter().find(|group| group[0].group == *name).ok_or_else(status::no_such_path)?;
            let mut group = api_group(group);
            group["kind"] = "APIGroup".into();
            group["apiVersion"] = "v1".into();
            json_response(StatusCode::OK, &group)
        }
        ["api", version] => resource_list(&resources(), "", version)?,
        ["apis", group, version] => resource_list(&resources(), group, version)?,
        ["openapi", "v2"] => super::openapi::v2(headers)?,
        ["openapi", "v3"] => super::openapi::index(&resources()),
        ["openapi", "v3", "api", version] => super::openapi::document(&resources(), "", version)?,
        ["openapi", "v3", "apis", group, version] => super::openapi::document(&resources(), group, version)?,
        _ => return Ok(None),
    };
    if *method != Method::GET && *method != Method::HEAD {
        return Err(status::method_not_allowed());
    }
    Ok(Some(response))
}

fn version() -> Value {
    json!({
        "major": "1",
        "minor": MINOR,
        "gitVersion": format!("v1.{MINOR}.0+ebb.{}", env!("CARGO_PKG_VERSION")),
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH),
    })
}

fn paths(resources: &[Arc<Resource>]) -> Value {
    let mut paths = vec!["/api".to_owned(), "/api/v1".to_owned(), "/apis".to_owned()];
    for group in groups(resources) {
        let first = &group[0];
        paths.push(format!("/apis/{}", first.group));
        paths.push(format!("/apis/{}", first.api_version()));
    }
    paths.extend(["/healthz", "/livez", "/openapi/v2", "/openapi/v3", "/readyz", "/version"].map(str::to_owned));
    json!({"paths": paths})
}

/// The groups but for the core group, in the order of their first resources.
fn groups(resources: &[Arc<Resource>]) -> Vec<Vec<Arc<Resource>>> {
    let mut groups: Vec<Vec<Arc<Resource>>> = Vec::new();
    for resource in resources.iter().filter(|resource| !resource.group.is_empty()) {
        match groups.iter_mut().find(|group| group[0].group == resource.group) {
            Some(group) => group.push(resource.clone()),
            None => groups.push(vec![resource.clone()]),
        }
    }
    groups
}

fn versions(group: &[Arc<Resource>]) -> Vec<&str> {
    let mut versions: Vec<&str> = Vec::new();
    for resource in group {
        if !versions.contains(&resource.version.as_str()) {
            versions.push(&resource.version);
        }
    }
    versions
}

fn api_group(group: &[Arc<Resource>]) -> Value {
    let name = &group[0].group;
    let versions: Vec<Value> = versions(group)
        .iter()
        .map(|version| json!({"groupVersion": format!("{name}/{version}"), "version": version}))
        .collect();
    json!({"name": name, "versions": versions, "preferredVersion": versions[0]})
}

fn resource_list(resources: &[Arc<Resource>], group: &str, version: &str) -> Answer<Response> {
    let mut list = Vec::new();
    let found = resources.iter().filter(|resource| resource.group == group && resource.version == version);
    for resource in found {
        list.push(json!({
            "name": resource.plural,
            "singularName": resource.singular,
            "namespaced": resource.namespaced,
            "kind": resource.kind,
            "verbs": Resource::verbs(),
            "shortNames": resource.short_names,
            "categories": resource.categories,
        }));
        for subresource in subresources(resource) {
            let mut entry = json!({
                "name": format!("{}/{}", resource.plural, subresource.name),
                "singularName": "",
                "namespaced": resource.namespaced,
                "kind": subresource.kind,
                "verbs": subresource.verbs,
            });
            if subresource.group_version != (group, version) {
                entry["group"] = subresource.group_version.0.into();
                entry["version"] = subresource.group_version.1.into();
            }
            list.push(entry);
        }
    }
    if list.is_empty() {
        return Err(status::no_such_path());
    }
    let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    let list = json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": list});
    Ok(json_response(StatusCode::OK, &list))
}

struct Subresource<'a> {
    name: &'static str,
    kind: &'a str,
    group_version: (&'a str, &'a str),
    verbs: &'static [&'static str],
}

fn subresources(resource: &Resource) -> Vec<Subresource<'_>> {
    let own = (resource.group.as_str(), resource.version.as_str());
    let written = &["get", "patch", "update"];
    let mut list = Vec::new();
    if resource.status {
        list.push(Subresource { name: "status", kind: &resource.kind, group_version: own, verbs: written });
    }
    if resource.scale {
        list.push(Subresource { name: "scale", kind: "Scale", group_version: ("autoscaling", "v1"), verbs: written });
    }
    if resource.kind == "Pod" && resource.group.is_empty() {
        list.push(Subresource { name: "binding", kind: "Binding", group_version: own, verbs: &["create"] });
        list.push(Subresource {
            name: "eviction",
            kind: "Eviction",
            group_version: ("policy", "v1"),
            verbs: &["create"],
        });
    }
    if resource.kind == "Namespace" && resource.group.is_empty() {
        list.push(Subresource { name: "finalize", kind: "Namespace", group_version: own, verbs: &["update"] });
    }
    list
}

fn wants_aggregated(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    accept.split(',').any(|range| {
        let parts: Vec<&str> = range.split(';').map(str::trim).collect();
        ["g=apidiscovery.k8s.io", "v=v2", "as=APIGroupDiscoveryList"].iter().all(|part| parts.contains(part))
    })
}

fn aggregated_response(resources: &[Arc<Resource>], core: bool) -> Response {
    let groups = if core {
        vec![resources.iter().filter(|resource| resource.group.is_empty()).cloned().collect()]
    } else {
        groups(resources)
    };
    let items: Vec<Value> = groups.iter().map(|group| aggregated_group(group)).collect();
    let list = json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": "apidiscovery.k8s.io/v2",
        "metadata": {},
        "items": items,
    });
    let mut response = (StatusCode::OK, Body::from(list.to_string())).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(AGGREGATED));
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept"));
    response
}

fn aggregated_group(group: &[Arc<Resource>]) -> Value {
    let versions: Vec<Value> = versions(group)
        .iter()
        .map(|version| {
            let resources: Vec<Value> = group
                .iter()
                .filter(|resource| resource.version == *version)
                .map(|resource| aggregated_resource(resource))
                .collect();
            json!({"version": version, "resources": resources, "freshness": "Current"})
        })
        .collect();
    let mut metadata = json!({"creationTimestamp": null});
    if !group[0].group.is_empty() {
        metadata["name"] = group[0].group.as_str().into();
    }
    json!({"metadata": metadata, "versions": versions})
}

fn aggregated_resource(resource: &Resource) -> Value {
    let kind = |(group, version): (&str, &str), kind: &str| json!({"group": group, "version": version, "kind": kind});
    let subresources: Vec<Value> = subresources(resource)
        .iter()
        .map(|subresource| {
            json!({
                "subresource": subresource.name,
                "responseKind": kind(subresource.group_version, subresource.kind),
                "verbs": subresource.verbs,
            })
        })
        .collect();
    let mut entry = json!({
        "resource": resource.plural,
        "responseKind": kind((&resource.group, &resource.version), &resource.kind),
        "scope": if resource.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": resource.singular,
        "verbs": Resource::verbs(),
    });
    if !resource.short_names.is_empty() {
        entry["shortNames"] = resource.short_names.clone().into();
    }
    if !resource.categories.is_empty() {
        entry["categories"] = resource.categories.clone().into();
    }
    if !subresources.is_empty() {
        entry["subresources"] = subresources.into();
    }
    entry
}
