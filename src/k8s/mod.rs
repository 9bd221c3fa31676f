//! The cluster as stores, a work queue and a few writes.
