//! Ingress of `networking.internal.knative.dev` ("KIngress"): hosts to splits of revisions. A route writes it, the
//! controller of its class programs a load balancer from it.

use crate::api::conditions::Condition;
use crate::api::pod_autoscaler::is_zero;
use kube::CustomResource;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Rules by host.
#[derive(CustomResource, Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[kube(
    group = "networking.internal.knative.dev",
    version = "v1alpha1",
    kind = "Ingress",
    plural = "ingresses",
    shortname = "kingress",
    shortname = "king",
    namespaced,
    status = "IngressStatus",
    derive = "PartialEq",
    schema = "disabled"
)]
#[serde(rename_all = "camelCase")]
pub struct IngressSpec {
    /// `Enabled` or `Redirected`; empty is `Enabled`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub http_option: String,
    /// The rules; a host appears in one rule per visibility.
    #[serde(default)]
    pub rules: Vec<IngressRule>,
    /// Certificates by host.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tls: Vec<IngressTls>,
}

/// What happens to requests for some hosts.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IngressRule {
    /// The hosts.
    #[serde(default)]
    pub hosts: Vec<String>,
    /// `ExternalIP` or `ClusterLocal`; empty is `ExternalIP`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub visibility: String,
    /// The paths, tried by specificity: header match first, longest prefix first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpRule>,
}

/// The paths of a rule.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct HttpRule {
    /// The paths.
    #[serde(default)]
    pub paths: Vec<HttpPath>,
}

/// Requests that match a prefix and headers go to splits by percentage.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpPath {
    /// A prefix; empty is `/`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub path: String,
    /// Replaces the Host header.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub rewrite_host: String,
    /// All must match.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, HeaderMatch>,
    /// Set on every request, before the split's own.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub append_headers: BTreeMap<String, String>,
    /// Percentages add up to 100.
    #[serde(default)]
    pub splits: Vec<IngressSplit>,
}

/// How a header must look.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct HeaderMatch {
    /// The whole value.
    #[serde(default)]
    pub exact: String,
}

/// A share of the requests of a path.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IngressSplit {
    /// The Service, which for a revision is its public Service.
    pub service_name: String,
    /// Its namespace.
    pub service_namespace: String,
    /// Its port, by number or name.
    pub service_port: k8s_openapi::apimachinery::pkg::util::intstr::IntOrString,
    /// 0 to 100.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub percent: i32,
    /// Set on requests of this split.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub append_headers: BTreeMap<String, String>,
}

/// The certificate of some hosts.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IngressTls {
    /// The hosts.
    #[serde(default)]
    pub hosts: Vec<String>,
    /// The Secret.
    #[serde(default)]
    pub secret_name: String,
    /// Its namespace.
    #[serde(default)]
    pub secret_namespace: String,
}

/// Whether the load balancer follows.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IngressStatus {
    /// The generation this status speaks of.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub observed_generation: i64,
    /// `LoadBalancerReady`, `NetworkConfigured`, `Ready`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// Where the public side is reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_load_balancer: Option<LoadBalancerStatus>,
    /// Where the cluster-local side is reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub private_load_balancer: Option<LoadBalancerStatus>,
}

/// Addresses of a load balancer.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct LoadBalancerStatus {
    /// The addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ingress: Vec<LoadBalancerAddress>,
}

/// One address, in one of four forms.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LoadBalancerAddress {
    /// An IP.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub ip: String,
    /// A DNS name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub domain: String,
    /// A DNS name inside the cluster.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub domain_internal: String,
    /// Reached through the mesh only.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub mesh_only: bool,
}
