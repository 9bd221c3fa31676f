//! Metric: which service is scraped for a revision, and over which windows. Ebb makes, reads and reports on it.

use crate::api::conditions::Condition;
use crate::api::pod_autoscaler::is_zero;
use kube::CustomResource;
use serde::{Deserialize, Serialize};

/// Windows and scrape target of one revision.
#[derive(CustomResource, Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[kube(
    group = "autoscaling.internal.knative.dev",
    version = "v1alpha1",
    kind = "Metric",
    plural = "metrics",
    namespaced,
    status = "MetricStatus",
    derive = "PartialEq",
    schema = "disabled"
)]
#[serde(rename_all = "camelCase")]
pub struct MetricSpec {
    /// Nanoseconds.
    #[serde(default)]
    pub stable_window: i64,
    /// Nanoseconds.
    #[serde(default)]
    pub panic_window: i64,
    /// The private Service; empty when nothing is scraped.
    #[serde(default)]
    pub scrape_target: String,
}

/// How the collection goes.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MetricStatus {
    /// The generation this status speaks of.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub observed_generation: i64,
    /// `Ready`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}
