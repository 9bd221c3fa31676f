//! The local cluster: what it plans, what it runs, how requests find their way.

mod balancer;
mod cluster;
mod manifests;
mod plans;
