//! Requests that ask about the data path itself.

use crate::api::names;
use crate::dataplane::body::{Body, empty, text};
use crate::dataplane::headers;
use http::header::{HeaderName, USER_AGENT};
use http::{HeaderMap, Response, StatusCode};

/// The value of `K-Network-Probe` and of `K-Proxy-Request` that stands for the activator.
pub const ACTIVATOR: &str = "activator";
/// The value of `K-Network-Probe` that stands for the queue-proxy.
pub const QUEUE: &str = "queue";
/// The value of `K-Network-Probe` with which an ingress asks whether its rules have arrived.
pub const INGRESS: &str = "probe";

/// Which version of an ingress's rules is in force; echoed by whoever answers.
const NETWORK_HASH: HeaderName = HeaderName::from_static("k-network-hash");

/// Whether a kubelet sent this: by its user agent, or by the header that stood for it behind some meshes.
pub fn is_kubelet(headers: &HeaderMap) -> bool {
    headers::text(headers, USER_AGENT.as_str()).starts_with(names::KUBE_PROBE_AGENT_PREFIX)
        || !headers::text(headers, names::KUBELET_PROBE_HEADER).is_empty()
}

/// The value of `K-Network-Probe`; empty when this is no such probe.
pub fn network_value(headers: &HeaderMap) -> &str {
    headers::text(headers, names::NETWORK_PROBE_HEADER)
}

/// The answer to an ingress that asks whether its rules have arrived: its hash, back.
pub fn answer_ingress(headers: &HeaderMap) -> Response<Body> {
    match headers.get(NETWORK_HASH) {
        Some(hash) if !hash.is_empty() => {
            let mut response = Response::new(empty());
            response.headers_mut().insert(NETWORK_HASH, hash.clone());
            response
        }
        _ => text(StatusCode::BAD_REQUEST, "a probe request must contain a non-empty \"K-Network-Hash\" header"),
    }
}
