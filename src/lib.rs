//! Ebb: the request-driven autoscaler for Knative.

pub mod api;
pub mod clock;
pub mod engine;
pub mod units;
