//! Wiring: configuration to task tree, one root of cancellation, ordered shutdown.
