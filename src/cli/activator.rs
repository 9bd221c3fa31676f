//! `ebb activator`: the activator as a process of its own.

use crate::cli::exit::Exit;
use crate::cli::{clock, until_stopped, with_server};
use crate::dataplane::activator;
use crate::k8s::dial::SystemDial;
use anyhow::Context as _;
use std::path::PathBuf;
use std::sync::Arc;

/// Run the activator: it holds requests for revisions that have no pods and reports them to the autoscaler.
///
/// With $GATEWAY_PORT it is a gateway for the KIngresses of the load balancer's class too.
///
/// Settings come from the environment variables that Knative's own activator reads. Beyond those,
/// ACTIVATOR_BIND_IP is the address to listen on and AUTOSCALER_URL the autoscaler's websocket. It
/// stops in order on SIGTERM: not ready first, then, once routers had time to learn of it, the
/// requests under way. A second one stops it at once.
///
/// Example:
///   export POD_NAME=activator-1 POD_IP=127.0.0.9 SYSTEM_NAMESPACE=knative-serving
///   export ACTIVATOR_BIND_IP=127.0.0.9 AUTOSCALER_URL=ws://127.0.0.1:8088
///   ebb activator --kubeconfig .ebb/kubeconfig
#[derive(clap::Args, Debug)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// The cluster to read; in a pod, its own.
    #[arg(long, env = "KUBECONFIG", value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
}

pub(super) fn run(args: Args) -> anyhow::Result<Exit> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(until_stopped(async |cancel| {
        let client = client(args.kubeconfig).await?;
        activator::run_from_env(client, Arc::new(SystemDial), clock(), cancel).await?;
        anyhow::Ok(())
    }))
}

async fn client(kubeconfig: Option<PathBuf>) -> anyhow::Result<kube::Client> {
    let config = match kubeconfig {
        Some(path) => {
            let file = kube::config::Kubeconfig::read_from(&path)
                .with_context(|| format!("{} cannot be read as a kubeconfig", path.display()))?;
            kube::Config::from_custom_kubeconfig(file, &kube::config::KubeConfigOptions::default()).await?
        }
        None => kube::Config::infer().await.context("no cluster to read; name one with --kubeconfig FILE")?,
    };
    Ok(kube::Client::try_from(with_server(config)?)?)
}
