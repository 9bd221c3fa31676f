//! Asks whether activators are in the path of a revision: only then may its last pod go.
//!
//! One request to the public Service, told apart by its header. An activator answers it itself; a queue-proxy that is
//! reached instead refuses it. The path has two slashes because the reference sends two.

use crate::api::names::{AUTOSCALER_PROBE_AGENT, NETWORK_PROBE_HEADER};
use crate::clock::Clock;
use crate::k8s::dial::Dial;
use crate::units::Span;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;

/// How long a probe made within a reconcile may take. The reference has no bound; a worker must not hang on it.
const SYNC_LIMIT: Span = Span::from_seconds(3);
/// How often a probe in the background is repeated …
const BACKGROUND_EVERY: Span = Span::from_seconds(1);
/// … and for how long at most.
const BACKGROUND_LIMIT: Span = Span::from_seconds(45);
/// The longest answer worth reading; the right one has nine bytes.
const MOST_BODY: usize = 1024;

/// Whom to ask.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Probe {
    /// The host of the public Service, with its namespace and the cluster's domain.
    pub host: String,
    /// 80, or 81 for h2c.
    pub port: u16,
}

impl Probe {
    /// The probe of a revision's public Service.
    pub fn of(service: &str, namespace: &str, cluster_domain: &str, protocol: &str) -> Self {
        Self {
            host: format!("{service}.{namespace}.svc.{cluster_domain}"),
            port: if protocol == "h2c" { 81 } else { 80 },
        }
    }
}

/// Makes probes; in the background at most one per address. Cheap to clone.
#[derive(Clone)]
pub struct Prober {
    dial: Arc<dyn Dial>,
    clock: Clock,
    cancel: CancellationToken,
    tasks: TaskTracker,
    running: Arc<Mutex<HashSet<Probe>>>,
}

impl Prober {
    /// Probes in the background run on `tasks` until `cancel`.
    pub fn new(dial: Arc<dyn Dial>, clock: Clock, cancel: CancellationToken, tasks: TaskTracker) -> Self {
        Self { dial, clock, cancel, tasks, running: Arc::default() }
    }

    /// Asks once. Anything but the activator's own answer in time is a no.
    pub async fn ask(&self, probe: &Probe) -> bool {
        matches!(timeout(SYNC_LIMIT.to_std(), ask(&*self.dial, probe)).await, Ok(Ok(true)))
    }

    /// Asks in the background until the answer is yes or time is up, then calls `done`; does nothing when the same
    /// address is being asked already.
    pub fn ask_in_background(&self, probe: Probe, done: impl FnOnce() + Send + 'static) {
        if !self.running.lock().unwrap_or_else(PoisonError::into_inner).insert(probe.clone()) {
            return;
        }
        let this = self.clone();
        self.tasks.spawn(async move {
            let until = this.clock.now() + BACKGROUND_LIMIT;
            let asked = async {
                while this.clock.now() < until {
                    match timeout(SYNC_LIMIT.to_std(), ask(&*this.dial, &probe)).await {
                        Ok(Ok(true)) => return,
                        Ok(Ok(false)) => debug!(host = %probe.host, "probe answered, but not by an activator"),
                        Ok(Err(error)) => debug!(host = %probe.host, %error, "probe failed"),
                        Err(_) => debug!(host = %probe.host, "probe not answered in time"),
                    }
                    sleep(BACKGROUND_EVERY.to_std()).await;
                }
            };
            tokio::select! {
                () = asked => {}
                () = this.cancel.cancelled() => {}
            }
            this.running.lock().unwrap_or_else(PoisonError::into_inner).remove(&probe);
            done();
        });
    }
}

async fn ask(dial: &dyn Dial, probe: &Probe) -> anyhow::Result<bool> {
    let stream = dial.dial(&probe.host, probe.port).await?;
    let (mut send, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = http::Request::get("//healthz")
        .header(http::header::HOST, &probe.host)
        .header(http::header::USER_AGENT, AUTOSCALER_PROBE_AGENT)
        .header(NETWORK_PROBE_HEADER, "activator")
        .header(http::header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())?;
    // The sender is dropped at the end of the exchange, which ends the connection too.
    let exchange = async move {
        let response = send.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MOST_BODY).collect().await.map_err(anyhow::Error::from_boxed)?;
        anyhow::Ok(status == http::StatusCode::OK && body.to_bytes().as_ref() == b"activator")
    };
    let (answer, _) = tokio::join!(exchange, connection);
    answer
}
