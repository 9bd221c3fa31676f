//! Every integration test in one binary: `cargo test --test it [FILTER]`.

mod apiserver;
mod dataplane;
mod golden;
mod imports;
mod local;
mod shipped;
mod stats;
mod system;
