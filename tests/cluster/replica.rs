//! `ebb run` as a process.

use crate::patience::eventually;
use crate::process::Process;
use rustix::process::Signal;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

const STATS_PORT: u16 = 8080;
const ADMIN_PORT: u16 = 8008;

/// How long an orderly stop may take.
const STOP: Duration = Duration::from_secs(30);

/// A replica of the autoscaler, with the ports of a pod on an address of its own.
pub(crate) struct Replica {
    pub(crate) name: String,
    pub(crate) ip: Ipv4Addr,
    process: Process,
}

impl Replica {
    /// Starts one for the cluster of `kubeconfig`; its log goes into `directory`.
    pub(crate) fn start(directory: &Path, kubeconfig: &Path, system: &str, name: &str, ip: Ipv4Addr) -> Self {
        let arguments = [
            "run".to_owned(),
            format!("--kubeconfig={}", kubeconfig.display()),
            format!("--stats={ip}:{STATS_PORT}"),
            format!("--admin={ip}:{ADMIN_PORT}"),
        ];
        let environment = [
            ("POD_NAME", name),
            ("POD_IP", &ip.to_string()),
            ("SYSTEM_NAMESPACE", system),
            ("METRICS_PROMETHEUS_HOST", &ip.to_string()),
            // Older than what Knative asks for; what differs is translated.
            ("KUBERNETES_MIN_VERSION", "v1.20.0"),
        ];
        let log = directory.join(format!("{name}.log"));
        let process = Process::start(Path::new(env!("CARGO_BIN_EXE_ebb")), &arguments, &environment, log);
        Self { name: name.to_owned(), ip, process }
    }

    /// Where activators report to.
    pub(crate) fn stats(&self) -> SocketAddr {
        SocketAddr::from((self.ip, STATS_PORT))
    }

    /// Waits until it listens for stats, which it does once it knows the cluster.
    pub(crate) async fn ready(&mut self) {
        let stats = self.stats();
        eventually(&format!("{} is ready", self.name), async || {
            let ended = self.process.ended();
            assert!(ended.is_none(), "{} {}", self.name, ended.unwrap_or_default());
            let connected = tokio::net::TcpStream::connect(stats).await;
            connected.map(drop).map_err(|error| format!("{error}\n{}", self.process.last_lines()))
        })
        .await;
    }

    /// What it wrote last.
    pub(crate) fn last_lines(&self) -> String {
        self.process.last_lines()
    }

    /// As a machine does that loses power.
    pub(crate) fn kill(&mut self) {
        self.process.kill();
    }

    /// Stops or continues it in its tracks.
    pub(crate) fn freeze(&self, frozen: bool) {
        self.process.signal(if frozen { Signal::STOP } else { Signal::CONT });
    }

    /// As a rolling update does; asserts that it ended in order.
    pub(crate) async fn stop(&mut self) {
        let status = self.process.stop(STOP).await;
        assert!(status.is_some_and(|status| status.success()), "{} {status:?}\n{}", self.name, self.last_lines());
    }
}
