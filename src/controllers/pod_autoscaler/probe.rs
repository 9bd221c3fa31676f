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
use std::fmt;
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
/// The most characters of another answer that are told of.
const MOST_TOLD: usize = 80;

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

    /// Whether there is no Service to ask yet.
    pub fn is_nowhere(&self) -> bool {
        self.host.starts_with('.')
    }
}

/// What a probe was answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// The activator's own: it is in the path.
    Activator,
    /// Something else answered, such as the queue-proxy of a pod.
    Other {
        /// The status of the answer.
        status: u16,
        /// The beginning of its body.
        body: String,
    },
    /// Nobody could be asked.
    Failed(String),
    /// There was no answer in time.
    Silent,
    /// It was not waited for, because a request came in.
    Urged,
}

/// As the end of a sentence that begins with the address.
impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Activator => f.write_str("is answered by an activator"),
            Self::Other { status, body } if body.is_empty() => write!(f, "answered {status}"),
            Self::Other { status, body } => write!(f, "answered {status} {body:?}"),
            Self::Failed(error) => write!(f, "cannot be asked: {error}"),
            Self::Silent => write!(f, "did not answer within {SYNC_LIMIT}"),
            Self::Urged => f.write_str("was not waited for, because a request came in"),
        }
    }
}

/// `http://hello-00001.default.svc.cluster.local`, with the port where it is not the usual one.
impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", self.host)?;
        if self.port == 80 { Ok(()) } else { write!(f, ":{}", self.port) }
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
    pub async fn ask(&self, probe: &Probe) -> Answer {
        match timeout(SYNC_LIMIT.to_std(), ask(&*self.dial, probe)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => Answer::Failed(format!("{error:#}")),
            Err(_) => Answer::Silent,
        }
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
                    match this.ask(&probe).await {
                        Answer::Activator => return,
                        answer => debug!(host = %probe.host, %answer, "the activator is not in the path"),
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

async fn ask(dial: &dyn Dial, probe: &Probe) -> anyhow::Result<Answer> {
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
        let body = body.to_bytes();
        if status == http::StatusCode::OK && body.as_ref() == b"activator" {
            return anyhow::Ok(Answer::Activator);
        }
        let body = String::from_utf8_lossy(&body).trim().chars().take(MOST_TOLD).collect();
        Ok(Answer::Other { status: status.as_u16(), body })
    };
    let (answer, _) = tokio::join!(exchange, connection);
    answer
}
