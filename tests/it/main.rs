//! Every integration test in one binary: `cargo test --test it [FILTER]`.

mod apiserver;
mod dataplane;
mod golden;
mod local;
mod shipped;
