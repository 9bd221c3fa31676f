//! OpenAPI documents: as much as clients need to know how to write, and no more.

use super::http::json_response;
use super::resource::Resource;
use super::status::{self, Answer};
use axum::response::Response;
use http::{HeaderMap, StatusCode, header};
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// The older document, which nothing needs any more: it says that there is nothing in it.
pub(super) fn v2(headers: &HeaderMap) -> Answer<Response> {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or("*/*");
    if !accept.contains("json") && !accept.contains('*') {
        return Err(status::not_acceptable("application/json"));
    }
    let document = json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": "v1"},
        "paths": {},
        "definitions": {},
    });
    Ok(json_response(StatusCode::OK, &document))
}

/// Where the document of each group version is.
pub(super) fn index(resources: &[Arc<Resource>]) -> Response {
    let mut paths = Map::new();
    for resource in resources {
        let path = path(&resource.group, &resource.version);
        let url = format!("/openapi/v3/{path}");
        paths.insert(path, json!({"serverRelativeURL": url}));
    }
    json_response(StatusCode::OK, &json!({"paths": paths}))
}

/// The document of one group version.
pub(super) fn document(resources: &[Arc<Resource>], group: &str, version: &str) -> Answer<Response> {
    let mut paths = Map::new();
    let mut schemas = Map::new();
    let found = resources.iter().filter(|resource| resource.group == group && resource.version == version);
    for resource in found {
        let kind = json!({"group": group, "version": version, "kind": resource.kind});
        let name = schema_name(resource);
        let place = if resource.namespaced { "namespaces/{namespace}/" } else { "" };
        let collection = format!("/{}/{place}{}", path(group, version), resource.plural);
        let operation = |action: &str| {
            json!({
                "x-kubernetes-action": action,
                "x-kubernetes-group-version-kind": kind,
                "parameters": [
                    query("dryRun", "All makes the request without keeping anything."),
                    query("fieldManager", "Who owns the fields this request sets."),
                    query("fieldValidation", "Ignore, Warn or Strict: what unknown fields come to."),
                ],
                "responses": {"200": {
                    "description": "OK",
                    "content": {"application/json": {"schema": {"$ref": format!("#/components/schemas/{name}")}}},
                }},
            })
        };
        paths.insert(collection.clone(), json!({"get": operation("list"), "post": operation("post")}));
        paths.insert(
            format!("{collection}/{{name}}"),
            json!({
                "get": operation("get"),
                "put": operation("put"),
                "patch": operation("patch"),
                "delete": operation("delete"),
            }),
        );
        schemas.insert(name, schema(resource, &kind));
    }
    if paths.is_empty() {
        return Err(status::no_such_path());
    }
    let document = json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "v1"},
        "paths": paths,
        "components": {"schemas": schemas},
    });
    Ok(json_response(StatusCode::OK, &document))
}

fn schema(resource: &Resource, kind: &Value) -> Value {
    let open = |description: &str| json!({"type": "object", "description": description, "x-kubernetes-preserve-unknown-fields": true});
    let text = |description: &str| json!({"type": "string", "description": description});
    let mut properties = json!({
        "apiVersion": text("The group and version of the object's type."),
        "kind": text("The object's type."),
        "metadata": open("Name, namespace, labels, annotations, owners."),
        "spec": open("What is wanted. This API does not describe the fields; see the documentation of the kind."),
    });
    if resource.status {
        properties["status"] = open("What is.");
    }
    json!({
        "type": "object",
        "description": format!("{} of {}.", resource.kind, resource.api_version()),
        "properties": properties,
        "x-kubernetes-group-version-kind": [kind],
        "x-kubernetes-preserve-unknown-fields": true,
    })
}

fn schema_name(resource: &Resource) -> String {
    let group: Vec<&str> = if resource.group.is_empty() { vec!["core"] } else { resource.group.rsplit('.').collect() };
    format!("{}.{}.{}", group.join("."), resource.version, resource.kind)
}

fn query(name: &str, description: &str) -> Value {
    json!({"name": name, "in": "query", "description": description, "schema": {"type": "string", "uniqueItems": true}})
}

fn path(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}
