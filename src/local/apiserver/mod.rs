//! An in-memory Kubernetes API over HTTP, good enough for an unmodified kube client and for kubectl.

mod admission;
mod apply;
mod builtin;
mod collect;
mod columns;
mod definitions;
mod discovery;
mod events;
mod faults;
mod fields;
mod http;
mod names;
mod object;
mod openapi;
mod patch;
mod protobuf;

mod resource;
mod scale;
mod schema;
mod selector;
mod status;
mod store;
mod view;
mod watch;
mod write;

pub use admission::{Admit, Operation, Review};
pub use definitions::knative_definitions;
pub use faults::{Effect, Fault, Faults, Verb};
pub use http::{kubeconfig, router, serve};
pub use resource::{Generation, Resource, built_in};
pub use status::{Answer, Cause, invalid};
pub use store::{Limits, Store};
