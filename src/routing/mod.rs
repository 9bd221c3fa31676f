//! Alibaba Cloud's Application Load Balancer ("ALB") as Knative's network: KIngresses become Ingresses with the annotations
//! the ALB Ingress controller documents.
//!
//! Reading order: [`model`] (settings, annotation JSON, why something cannot be expressed), [`translate`] (one KIngress to
//! rules), [`plan`] (all of them to objects: who has a host, in which order, within the limits), [`gate`] (when a revision
//! behind a load balancer may go to zero), [`port`] (revisions reached by a port of their own), [`table`] (where a gateway
//! sends a request), [`capabilities`] (what a load balancer was seen to do), [`removal`] (what nothing needs any more);
//! these do no I/O. Then [`controller`] (applies the plan and tells what became of it), [`probe`] (one question to the load
//! balancer), [`live`] (whether it follows), [`keeper`] (runs the gates), `servers` (what the load balancer finds) and
//! [`delegate`] (splits that no rule can express).

pub mod capabilities;
pub mod controller;
pub mod delegate;
pub mod gate;
pub mod keeper;
pub mod live;
pub mod model;
pub mod plan;
pub mod port;
pub mod probe;
pub mod removal;
mod servers;
pub mod table;
pub mod translate;
