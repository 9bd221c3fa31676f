//! Ingress of `networking.internal.knative.dev` ("KIngress"): hosts to splits of revisions. A route writes it, the
//! controller of its class programs a load balancer from it.
//!
//! The fields of the spec stand in the order of Knative's own type: the version of a KIngress that a gateway announces is a
//! hash of the JSON Go makes of it ([`ComputeHash`]).
//!
//! [`ComputeHash`]: https://pkg.go.dev/knative.dev/networking/pkg/ingress#ComputeHash

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
    /// Certificates by host.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tls: Vec<IngressTls>,
    /// The rules; a host appears in one rule per visibility.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<IngressRule>,
    /// `Enabled` or `Redirected`; empty is `Enabled`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub http_option: String,
}

/// What happens to requests for some hosts.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IngressRule {
    /// The hosts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
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
    /// Percentages add up to 100.
    #[serde(default)]
    pub splits: Vec<IngressSplit>,
    /// Set on every request, before the split's own.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub append_headers: BTreeMap<String, String>,
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
    /// The namespace of the Service.
    pub service_namespace: String,
    /// The Service, which for a revision is its public Service.
    pub service_name: String,
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
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<String>,
    /// The Secret.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub secret_name: String,
    /// Its namespace.
    #[serde(default, skip_serializing_if = "String::is_empty")]
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

impl IngressSpec {
    /// The JSON Go makes of the spec, to the byte: what `ComputeHash` of Knative's networking hashes, before namespace and
    /// name.
    pub fn go_json(&self) -> String {
        let text = serde_json::to_string(self).expect("a spec is JSON");
        // Go escapes what could end a script in HTML. Outside of strings there is none of it.
        let mut escaped = String::with_capacity(text.len());
        for letter in text.chars() {
            match letter {
                '<' => escaped.push_str("\\u003c"),
                '>' => escaped.push_str("\\u003e"),
                '&' => escaped.push_str("\\u0026"),
                '\u{2028}' => escaped.push_str("\\u2028"),
                '\u{2029}' => escaped.push_str("\\u2029"),
                letter => escaped.push(letter),
            }
        }
        escaped
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_spec_is_written_as_go_writes_it() {
        let spec: IngressSpec = serde_json::from_value(json!({
            "httpOption": "Enabled",
            "rules": [{
                "visibility": "ExternalIP",
                "http": {"paths": [{
                    "appendHeaders": {"b": "<2>", "a": "1&"},
                    "splits": [
                        {"percent": 100, "servicePort": 80, "serviceName": "s", "serviceNamespace": "n", "appendHeaders": {"k": "v"}},
                        {"percent": 0, "servicePort": "http", "serviceName": "t", "serviceNamespace": "n"},
                    ],
                    "headers": {"h": {"exact": "x"}},
                    "path": "/p",
                }]},
                "hosts": ["h.test"],
            }],
            "tls": [{"secretNamespace": "n", "secretName": "c", "hosts": ["h.test"]}],
        }))
        .expect("a spec");
        // The order of the fields in the Go types, sorted keys in maps, nothing that is empty.
        let wanted = concat!(
            r#"{"tls":[{"hosts":["h.test"],"secretName":"c","secretNamespace":"n"}],"#,
            r#""rules":[{"hosts":["h.test"],"visibility":"ExternalIP","http":{"paths":[{"path":"/p","#,
            r#""headers":{"h":{"exact":"x"}},"splits":["#,
            r#"{"serviceNamespace":"n","serviceName":"s","servicePort":80,"percent":100,"appendHeaders":{"k":"v"}},"#,
            r#"{"serviceNamespace":"n","serviceName":"t","servicePort":"http"}],"#,
            r#""appendHeaders":{"a":"1\u0026","b":"\u003c2\u003e"}}]}}],"httpOption":"Enabled"}"#,
        );
        assert_eq!(spec.go_json(), wanted);
        assert_eq!(IngressSpec::default().go_json(), "{}");
    }
}
