//! ServerlessService: whether a revision's public Service leads to its pods or to activators. Ebb makes it and writes
//! its spec; its own controller writes the status.

use crate::api::conditions::Condition;
use crate::api::pod_autoscaler::{ObjectRef, is_zero};
use kube::CustomResource;
use serde::{Deserialize, Serialize};

/// Where the public Service leads.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum Mode {
    /// To activators.
    #[default]
    Proxy,
    /// To the pods.
    Serve,
}

/// What the autoscaler asks of the network.
#[derive(CustomResource, Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[kube(
    group = "networking.internal.knative.dev",
    version = "v1alpha1",
    kind = "ServerlessService",
    plural = "serverlessservices",
    shortname = "sks",
    namespaced,
    status = "ServerlessServiceStatus",
    derive = "PartialEq",
    schema = "disabled"
)]
#[serde(rename_all = "camelCase")]
pub struct ServerlessServiceSpec {
    /// Pods or activators.
    #[serde(default)]
    pub mode: Mode,
    /// The scale target, whose pods the private Service selects.
    pub object_ref: ObjectRef,
    /// `http1` or `h2c`.
    #[serde(default)]
    pub protocol_type: String,
    /// How many activators stand in front; 0 is all.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub num_activators: i32,
}

/// What the network answers.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServerlessServiceStatus {
    /// The generation this status speaks of.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub observed_generation: i64,
    /// `ActivatorEndpointsPopulated` (severity `Info`), `EndpointsPopulated`, `Ready`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// The public Service.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub service_name: String,
    /// The private Service.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub private_service_name: String,
}
