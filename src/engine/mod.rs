//! The pure core: stats in, a decision out.
//!
//! No async, no clock, no logging, no Kubernetes, no randomness; whoever calls passes `now`. The same calls give the
//! same decisions bit for bit, live, in replay and in simulation.
//!
//! Reading order: [`spec`] (what is asked), [`decision`] (what is answered, and why).

pub mod decision;
pub mod spec;

pub use decision::{Decision, Observed, Reason};
pub use spec::{MetricSpec, Spec};
