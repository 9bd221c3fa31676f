//! `ebb queue-proxy`: the proxy beside each pod, as a process of its own.

use crate::cli::exit::Exit;
use crate::cli::{clock, until_stopped};
use crate::dataplane::queue_proxy;

/// Run the proxy that stands in front of a pod's process: limit, queue, health, stats.
///
/// Settings come from the environment variables that Knative's own queue-proxy reads. Beyond those,
/// QUEUE_BIND_IP is the address to listen on and USER_IP that of the user's process. It stops in
/// order on SIGTERM: not ready first, then the requests under way, then its listeners. A second one
/// stops it at once.
///
/// Example:
///   export SERVING_NAMESPACE=default SERVING_CONFIGURATION=hello SERVING_REVISION=hello-00001
///   export SERVING_POD=pod-1 CONTAINER_CONCURRENCY=10 REVISION_TIMEOUT_SECONDS=300
///   QUEUE_SERVING_PORT=8012 QUEUE_BIND_IP=127.0.0.9 USER_PORT=3000 ebb queue-proxy
#[derive(clap::Args, Debug)]
#[command(verbatim_doc_comment)]
pub struct Args {}

pub(super) fn run(_args: &Args) -> anyhow::Result<Exit> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(until_stopped(async |cancel| queue_proxy::run_from_env(clock(), cancel).await))
}
