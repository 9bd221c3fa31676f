//! The errors of the API, as `Status` objects in Kubernetes' words, so that clients tell them apart as they always do.

use super::resource::Resource;
use kube::core::Status;
use kube::core::response::{StatusCause, StatusDetails};
use serde_json::Value;

/// What an operation comes to: a value, or the `Status` to answer with.
pub type Answer<T> = Result<T, Box<Status>>;

/// One thing that is wrong with an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// `FieldValueRequired`, `FieldValueInvalid`, `FieldValueNotSupported`, `FieldValueForbidden` ….
    pub reason: &'static str,
    /// The path of the field, such as `spec.template.metadata.labels`.
    pub field: String,
    /// What is wrong, in words.
    pub message: String,
}

impl Cause {
    /// A field that must be there and is not.
    pub fn required(field: impl Into<String>, why: &str) -> Self {
        let message = if why.is_empty() { "Required value".to_owned() } else { format!("Required value: {why}") };
        Self { reason: "FieldValueRequired", field: field.into(), message }
    }

    /// A field whose value cannot stand.
    pub fn invalid(field: impl Into<String>, value: &Value, why: &str) -> Self {
        Self { reason: "FieldValueInvalid", field: field.into(), message: format!("Invalid value: {value}: {why}") }
    }

    /// A field that may not be set or changed like this.
    pub fn forbidden(field: impl Into<String>, why: &str) -> Self {
        Self { reason: "FieldValueForbidden", field: field.into(), message: format!("Forbidden: {why}") }
    }
}

/// 422: the object is understood and cannot stand.
pub fn invalid(group: &str, kind: &str, name: &str, causes: &[Cause]) -> Box<Status> {
    let words: Vec<String> = causes.iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect();
    let words = if words.len() == 1 { words.concat() } else { format!("[{}]", words.join(", ")) };
    let qualified = if group.is_empty() { kind.to_owned() } else { format!("{kind}.{group}") };
    let mut status = failure(422, "Invalid", &format!("{qualified} {name:?} is invalid: {words}"));
    status.details = Some(StatusDetails {
        causes: causes
            .iter()
            .map(|cause| StatusCause {
                reason: cause.reason.to_owned(),
                message: cause.message.clone(),
                field: cause.field.clone(),
            })
            .collect(),
        ..details(name, group, kind)
    });
    status
}

/// 422 without a field to point at.
pub(super) fn unprocessable(resource: &Resource, name: &str, message: &str) -> Box<Status> {
    with_object(failure(422, "Invalid", message), resource, name)
}

/// 404 for an object.
pub(super) fn not_found(resource: &Resource, name: &str) -> Box<Status> {
    with_object(failure(404, "NotFound", &format!("{} {name:?} not found", resource.qualified())), resource, name)
}

/// 404 for a path.
pub(super) fn no_such_path() -> Box<Status> {
    failure(404, "NotFound", "the server could not find the requested resource")
}

/// 409 for a name that is taken.
pub(super) fn already_exists(resource: &Resource, name: &str) -> Box<Status> {
    let message = format!("{} {name:?} already exists", resource.qualified());
    with_object(failure(409, "AlreadyExists", &message), resource, name)
}

/// 409 for a write that does not stand on the newest version.
pub(super) fn conflict(resource: &Resource, name: &str, why: &str) -> Box<Status> {
    let message = format!("Operation cannot be fulfilled on {} {name:?}: {why}", resource.qualified());
    with_object(failure(409, "Conflict", &message), resource, name)
}

/// 409 because the object changed since it was read.
pub(super) fn stale(resource: &Resource, name: &str) -> Box<Status> {
    let why = "the object has been modified; please apply your changes to the latest version and try again";
    conflict(resource, name, why)
}

/// 403 for what is not allowed on this object now.
pub(super) fn forbidden(resource: &Resource, name: &str, why: &str) -> Box<Status> {
    let message = format!("{} {name:?} is forbidden: {why}", resource.qualified());
    with_object(failure(403, "Forbidden", &message), resource, name)
}

/// 400.
pub(super) fn bad_request(message: &str) -> Box<Status> {
    failure(400, "BadRequest", message)
}

/// 405.
pub(super) fn method_not_allowed() -> Box<Status> {
    failure(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
}

/// 406.
pub(super) fn not_acceptable(accepted: &str) -> Box<Status> {
    let message = format!("only the following media types are accepted: {accepted}");
    failure(406, "NotAcceptable", &message)
}

/// 410: the history no longer reaches back to what the client has seen.
pub(super) fn expired(asked: u64, oldest: u64) -> Box<Status> {
    failure(410, "Expired", &format!("too old resource version: {asked} ({oldest})"))
}

/// 413.
pub(super) fn too_large(limit: usize) -> Box<Status> {
    let message = format!("Request entity too large: limit is {limit}");
    failure(413, "RequestEntityTooLarge", &message)
}

/// 415.
pub(super) fn unsupported_media_type(accepted: &str) -> Box<Status> {
    let message =
        format!("the body of the request was in an unknown format - accepted media types include: {accepted}");
    failure(415, "UnsupportedMediaType", &message)
}

/// 504: the client has seen a version this store has not.
pub(super) fn too_new(asked: u64, current: u64) -> Box<Status> {
    let message = format!("Too large resource version: {asked}, current: {current}");
    let mut status = failure(504, "Timeout", &message);
    status.details = Some(StatusDetails {
        causes: vec![StatusCause {
            reason: "ResourceVersionTooLarge".to_owned(),
            message: "Too large resource version".to_owned(),
            field: String::new(),
        }],
        retry_after_seconds: 1,
        ..details("", "", "")
    });
    status
}

/// A failure of any kind; `reason` is the word clients switch on.
pub(super) fn failure(code: u16, reason: &str, message: &str) -> Box<Status> {
    Status::failure(message, reason).with_code(code).boxed()
}

/// The `Status` as it goes over the wire, type included.
pub(super) fn to_json(status: &Status) -> Value {
    let mut value = serde_json::to_value(status).expect("a status is plain data");
    value["apiVersion"] = "v1".into();
    value["kind"] = "Status".into();
    if value.get("metadata").is_none() {
        value["metadata"] = serde_json::json!({});
    }
    value
}

/// The `Status` of a success about `name`.
pub(super) fn success(resource: &Resource, name: &str, uid: &str) -> Value {
    let mut status = Status::success();
    status.details = Some(StatusDetails { uid: uid.to_owned(), ..details(name, &resource.group, &resource.plural) });
    to_json(&status)
}

fn with_object(mut status: Box<Status>, resource: &Resource, name: &str) -> Box<Status> {
    status.details = Some(details(name, &resource.group, &resource.plural));
    status
}

fn details(name: &str, group: &str, kind: &str) -> StatusDetails {
    StatusDetails {
        name: name.to_owned(),
        group: group.to_owned(),
        kind: kind.to_owned(),
        uid: String::new(),
        causes: Vec::new(),
        retry_after_seconds: 0,
    }
}
