//! `ebb activator`: the activator as a process of its own.

use crate::cli::asked_to_stop;
use crate::cli::exit::Exit;
use crate::clock::Clock;
use crate::dataplane::activator;
use crate::k8s::dial::SystemDial;
use anyhow::Context as _;
use std::path::PathBuf;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Run the activator: it holds requests for revisions that have no pods and reports them to the autoscaler.
///
/// Settings come from the environment variables Knative's own activator reads, such as POD_NAME, POD_IP and
/// SYSTEM_NAMESPACE; ACTIVATOR_BIND_IP chooses the address to listen on and AUTOSCALER_URL the autoscaler's websocket.
///
/// Example:
///   POD_NAME=activator-1 POD_IP=127.0.0.9 SYSTEM_NAMESPACE=knative-serving AUTOSCALER_URL=ws://127.0.0.1:8088 ebb activator --kubeconfig .ebb/kubeconfig
#[derive(clap::Args, Debug)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// The cluster to read; in a pod, its own.
    #[arg(long, env = "KUBECONFIG", value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
}

pub(super) fn run(args: Args) -> anyhow::Result<Exit> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let cancel = CancellationToken::new();
        let stop = cancel.clone();
        tokio::spawn(async move {
            asked_to_stop().await;
            stop.cancel();
        });
        let client = client(args.kubeconfig).await?;
        activator::run_from_env(client, Arc::new(SystemDial), Clock::system(), cancel).await?;
        Ok(Exit::Done)
    })
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
    Ok(kube::Client::try_from(config)?)
}
