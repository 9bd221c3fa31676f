//! The data path: queue-proxy beside each pod, activator in front of what is at zero.
//!
//! ```text
//! client ─► gateway ─┬────────────────────────────► queue-proxy ─► user's process
//!                    └─► activator (buffers, picks) ─►    │
//!                            │ stats, websocket           │ stats, scraped
//!                            └──────────► autoscaler ◄────┘
//! ```
//!
//! Reading order: [`body`], [`headers`] and [`probes`] (what passes through), [`limit`] (who may go on), [`report`] (what is told to
//! the autoscaler), [`metrics`] (what Prometheus reads of requests), [`timeouts`] (when an exchange is given up), [`pool`]
//! and [`proxy`] (one streaming reverse proxy for everybody), [`server`] (listeners), [`services`] and [`gateway`] (routes of
//! KIngresses), then the two programs, [`queue_proxy`] with its [`readiness`], and [`activator`].
//!
//! Invariants: no body is ever collected; every queue is bounded and says what happens when it is full; a request
//! counts as in flight until the last byte of its response, or of its websocket, has passed; a client that goes away
//! gives back everything its request held.

pub mod activator;
pub mod body;
pub mod gateway;
pub mod headers;
pub mod limit;
pub mod metrics;
pub mod pool;
pub mod probes;
pub mod proxy;
pub mod queue_proxy;
pub mod readiness;
pub mod report;
pub mod server;
pub mod services;
pub mod timeouts;
