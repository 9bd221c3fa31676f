//! Reconcilers: observe, plan (pure), apply.
