//! A whole cluster in one process: an in-memory Kubernetes API, the part of Knative a Service needs, pods, a gateway.

pub mod knative;
mod meta;
pub mod pods;
