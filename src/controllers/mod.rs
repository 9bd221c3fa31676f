//! Reconcilers: observe, plan (pure), apply.
//!
//! Reading order: [`settings`] (the cluster's), [`pod_autoscaler`] (from decision to replicas, mode and status),
//! [`metric`] (which pods are scraped, and how that goes), [`writes`] (what both do to objects); [`shadow`] (the same
//! beside another autoscaler, without a write).

pub mod metric;
pub mod pod_autoscaler;
pub mod settings;
pub mod shadow;
pub mod writes;
