//! What people see of a running Ebb.
//!
//! Reading order: [`feed`] (changes of scale as they happen), [`plan`] (what becomes of decisions), [`journal`] (what was
//! decided and on what, in files), [`ledger`] (where
//! the time of cold starts goes), [`state`] (how a revision is doing, in a word), [`explain`] (why, in words), [`metrics`]
//! (what Prometheus reads), [`profile`] (what the CPU is spent on), [`admin`] (health and state over HTTP), [`ui`] (the page), [`heavy`] (long answers of these),
//! [`serve`](mod@serve) (their listener), [`telemetry`] (logs).

pub mod admin;
pub mod explain;
pub mod feed;
pub mod heavy;
pub mod journal;
pub mod ledger;
pub mod metrics;
pub mod plan;
pub mod profile;
pub mod serve;
pub mod state;
pub mod telemetry;
pub mod ui;
