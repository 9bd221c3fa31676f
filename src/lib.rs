//! Ebb: the request-driven autoscaler for Knative.
//!
//! ```text
//! queue-proxy :9090 ──scrape 1 s──┐                          ┌─ Deployment /scale
//!                                 ├─► stats ─► deciders ─► controllers ─ ServerlessService (mode, activators)
//! activator ──websocket :8080─────┘          (engine)        └─ PodAutoscaler status
//! ```
//!
//! # Reading order
//!
//! Follow the data. A module imports from rows above its own and never from below; `tests/it/imports.rs` holds the code
//! to that.
//!
//! | row | module | what it is for |
//! |---|---|---|
//! | 1 | [`units`] | instants, lengths of time, keys, every rounding, the compatibility switches |
//! | 2 | [`engine`] | pure: stats in, a decision out, with its reasons |
//! | 2 | [`api`] | pure: the objects, annotations and names Knative's components agree on |
//! | 3 | [`config`] | ConfigMaps to values; settings of a revision from both |
//! | 3 | [`clock`] | the only reader of time |
//! | 3 | [`routing`] | pure: KIngresses to the objects of a cloud load balancer, and when a revision behind it may go to zero; what runs that is in row 8 |
//! | 4 | [`observe`] | what people see: decisions explained, metrics, the journal, events, the page, health, logs |
//! | 5 | [`k8s`] | watches, caches, the work queue, events, connections to Services |
//! | 6 | [`ownership`] | which replica owns which revision |
//! | 6 | [`stats`] | how numbers arrive: wire format, scraping, websocket |
//! | 7 | [`deciders`] | the running engines: ticks, pokes, scrapes |
//! | 8 | [`controllers`] | observe, plan (pure), apply: PodAutoscaler and Metric |
//! | 9 | [`app`] | the wiring of an autoscaler |
//! | 9 | [`dataplane`] | queue-proxy, activator and gateway |
//! | 10 | [`local`] | a cluster in one process |
//! | 10 | [`sim`] | the engine under a virtual clock, in a model of the world |
//! | 11 | [`cli`] | the command line |
//!
//! # Invariants
//!
//! - The engine never reads a clock, never logs and never allocates while deciding; the same inputs give the same
//!   decision bit for bit.
//! - A [`Decision`](engine::Decision) carries its reasons; whatever shows a decision shows that value.
//! - A reconcile is observe, plan, apply. Applying the same plan twice writes nothing the second time.
//! - Never below min-scale, above max-scale; never to zero while the activator may not be in the path.
//! - Queues, bodies, frames and retries are bounded, and what is dropped is counted.
//! - What cannot be understood is reported where its owner sees it, and harms nothing else.

pub mod units;

pub mod api;
pub mod engine;

pub mod clock;
pub mod config;
pub mod routing;

pub mod observe;

pub mod k8s;

pub mod ownership;
pub mod stats;

pub mod deciders;

pub mod controllers;

pub mod app;
pub mod dataplane;

pub mod local;
pub mod sim;

pub mod cli;
