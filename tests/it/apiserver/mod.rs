//! The in-memory Kubernetes API, over HTTP, with a real client.
//!
//! `conformance` holds cases that take a client and a namespace and know nothing of what is behind them, so that they
//! can run against a real API server too.

pub(crate) mod conformance;
mod embedded;
pub(crate) mod kubectl;
pub(crate) mod served;
mod server;

pub(crate) use served::Served;
