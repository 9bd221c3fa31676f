//! A whole cluster in one process: an in-memory Kubernetes API, the part of Knative a Service needs, pods, a gateway.

pub mod apiserver;
pub mod gateway;
pub mod knative;
pub mod manifest;
mod meta;
pub mod pods;
pub mod sample;
pub mod services;

/// The manifest of the service that runs when there is no other.
pub const SAMPLE_MANIFEST: &str = include_str!("../../deploy/samples/hello.yaml");
