//! What people see of a running Ebb.
//!
//! Reading order: [`feed`] (changes of scale as they happen), [`metrics`] (what Prometheus reads), [`admin`] (health and
//! state over HTTP), [`telemetry`] (logs).

pub mod admin;
pub mod feed;
pub mod metrics;
pub mod telemetry;
