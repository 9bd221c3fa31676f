//! `ebb queue-proxy`: the proxy beside each pod, as a process of its own.

use crate::cli::asked_to_stop;
use crate::cli::exit::Exit;
use crate::clock::Clock;
use crate::dataplane::queue_proxy;
use tokio_util::sync::CancellationToken;

/// Run the proxy that stands in front of a pod's process: limit, queue, health, stats.
///
/// Settings come from the environment variables Knative's own queue-proxy reads, such as CONTAINER_CONCURRENCY,
/// USER_PORT, SERVING_NAMESPACE, SERVING_REVISION and SERVING_POD. It stops in order on SIGTERM: not ready first, then
/// the requests under way, then its listeners.
///
/// Example:
///   CONTAINER_CONCURRENCY=10 USER_PORT=3000 SERVING_NAMESPACE=default SERVING_POD=pod-1 SERVING_REVISION=hello-00001 ebb queue-proxy
#[derive(clap::Args, Debug)]
#[command(verbatim_doc_comment)]
pub struct Args {}

pub(super) fn run(_args: &Args) -> anyhow::Result<Exit> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let cancel = CancellationToken::new();
        let stop = cancel.clone();
        tokio::spawn(async move {
            asked_to_stop().await;
            stop.cancel();
        });
        queue_proxy::run_from_env(Clock::system(), cancel).await?;
        Ok(Exit::Done)
    })
}
