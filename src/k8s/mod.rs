//! The cluster as stores, a work queue and a few writes.
//!
//! Reading order: [`follow`] (one watch, told as changes), [`cache`] (a kind as a map), [`queue`] (what to look at next).

pub mod cache;
pub mod dial;
pub mod follow;
pub mod queue;
