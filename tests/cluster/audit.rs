//! What the API server was asked, by its own record.

use serde::Deserialize;
use serde_json::Value;
use std::path::Path;

/// One request.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Asked {
    pub(crate) user: User,
    pub(crate) verb: String,
    #[serde(rename = "requestURI")]
    pub(crate) uri: String,
    #[serde(default)]
    pub(crate) object_ref: ObjectRef,
    #[serde(default)]
    pub(crate) request_object: Value,
    #[serde(default)]
    pub(crate) response_status: Answer,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct User {
    pub(crate) username: String,
}

/// What it was about.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ObjectRef {
    pub(crate) api_group: String,
    pub(crate) resource: String,
    pub(crate) subresource: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Answer {
    pub(crate) code: u16,
}

impl Asked {
    /// `resource` or `resource/subresource`.
    pub(crate) fn resource(&self) -> String {
        let ObjectRef { resource, subresource, .. } = &self.object_ref;
        if subresource.is_empty() { resource.clone() } else { format!("{resource}/{subresource}") }
    }
}

/// Everything `user` asked so far, in order.
pub(crate) fn asked_by(user: &str, log: &Path) -> Vec<Asked> {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    // The last line may still be being written.
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let asked = whole.lines().map(|line| serde_json::from_str::<Asked>(line).expect("a line of the audit log"));
    asked.filter(|asked| asked.user.username == user).collect()
}
