//! Every integration test in one binary: `cargo test --test it [FILTER]`.

mod golden;
mod local;
mod shipped;
