//! The cluster as stores, a work queue and a few writes.
//!
//! Reading order: [`follow`] (one watch, told as changes), [`cache`] (a kind as a map), [`pods`] and [`scale_targets`]
//! (what is counted and what is scaled), [`queue`] (what to look at next), [`events`] (what people are told), [`dial`]
//! (how a Service is reached).

pub mod cache;
pub mod dial;
pub mod events;
pub mod follow;
pub mod pods;
pub mod queue;
pub mod scale_targets;
