//! Every integration test in one binary: `cargo test --test it [FILTER]`.

mod alb;
mod alb_removal;
mod apiserver;
mod check;
mod classes;
mod conformance;
mod dashboards;
mod dataplane;
mod deploy;
mod explained;
mod faults;
mod gaps;
mod gates;
mod gateway;
mod golden;
mod imports;
mod journal;
mod keeper;
mod local;
mod metrics;
mod ownership;
mod page;
#[expect(dead_code, reason = "tests without the usual harness use all of it")]
mod patience;
mod refusals;
mod replay;
mod run;
mod secure;
mod selftest;
mod shadow;
mod shipped;
mod sim;
mod sim_command;
mod sim_live;
mod standby;
mod stats;
mod system;
mod token;
mod zero;

use std::path::PathBuf;

/// The root of the repository, asked for when the tests run: with build results kept between clones, what was true when
/// they were compiled may not be any more.
fn root() -> PathBuf {
    PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo says where the package is"))
}
