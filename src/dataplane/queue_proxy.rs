//! The queue-proxy: in front of the user's process in each pod.
//!
//! It lets in no more requests than the container takes and keeps the rest in a short line, counts what comes and how
//! long it stays for the autoscaler to scrape, answers probes, and at the end lets everything finish before the pod
//! goes. Listeners: requests over HTTP/1.1 and HTTP/2 (either port takes both), the stat, and an admin port on which a
//! container's pre-stop hook waits.
//!
//! ```text
//! probe? ─► answer          request ─► counted ─► limit ─► user's process ─► response, watched for silence
//! ```
//!
//! # Decisions
//!
//! 2026-11: A websocket is not cut when the revision's timeout is over (Knative cuts it). The timeouts are for answers
//! that do not come; a websocket that was accepted has been answered.
//!
//! 2026-11: Every request with `K-Network-Probe` is a probe and never reaches the user's process. Knative passes on
//! those that do not come from its own agents.

use crate::api::names;
use crate::clock::Clock;
use crate::dataplane::body::{self, Body, empty};
use crate::dataplane::headers;
use crate::dataplane::limit::{Limit, QueueFull};
use crate::dataplane::metrics::{self, Requests};
use crate::dataplane::probes;
use crate::dataplane::proxy::{ForwardError, Protocol, Proxy, Settings};
use crate::dataplane::readiness::{Probe, ProbeError, Readiness};
use crate::dataplane::report::RequestStats;
use crate::dataplane::server::{self, MAX_CONNECTIONS, Stop};
use crate::observe::metrics::process::Process;
use crate::observe::metrics::{Registry, RevisionLabels, server as exposition};
use crate::stats::limit::OncePerMinute;
use crate::stats::wire::Stat;
use crate::units::{RevisionKey, Span, Timestamp};
use bytes::Bytes;
use http::header::{ACCEPT, CONNECTION, CONTENT_TYPE, HeaderValue, USER_AGENT};
use http::{HeaderMap, Request, Response, StatusCode};
use prost::Message as _;
use serde::Deserialize;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

pub use crate::dataplane::timeouts::Timeouts;

/// Where the pre-stop hook of the user's container waits.
pub const WAIT_FOR_DRAIN: &str = "/wait-for-drain";
/// How long no request may have come before a draining pod stops listening: routers need that long to learn that it is
/// going.
pub const QUIET_PERIOD: Duration = Duration::from_secs(30);
/// How long websockets may go on after everything else has ended.
pub const UPGRADED_LIMIT: Duration = Duration::from_mins(1);
/// Connections to the stat and admin ports at once.
const MAX_SIDE_CONNECTIONS: usize = 256;
/// Without a shutdown following within this time, a pre-stop hook was a restart of the user's container only.
const HOOK_GRACE: Duration = Duration::from_secs(1);

/// What a queue-proxy needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// `SERVING_NAMESPACE`.
    pub namespace: String,
    /// `SERVING_SERVICE`; may be empty.
    pub service: String,
    /// `SERVING_CONFIGURATION`.
    pub configuration: String,
    /// `SERVING_REVISION`.
    pub revision: String,
    /// `SERVING_POD`, the reporter of the stat.
    pub pod: String,
    /// `CONTAINER_CONCURRENCY`: requests the container takes at once, 0 for any number.
    pub container_concurrency: usize,
    /// The user's process: `USER_PORT` on 127.0.0.1.
    pub user: SocketAddr,
    /// When requests are given up.
    pub timeouts: Timeouts,
    /// `SERVING_READINESS_PROBE`; none is always ready.
    pub probes: Vec<Probe>,
    /// The address every listener is bound to.
    pub ip: IpAddr,
    /// The ports; 0 takes any free one.
    pub ports: Ports,
    /// Where `GET /metrics` tells Prometheus of the requests, and what else it shows there; `None` is no such listener.
    /// Knative's port is [`names::USER_METRICS_PORT`].
    pub metrics: Option<(SocketAddr, Registry)>,
    /// How long no request may have come before a draining pod stops listening.
    pub quiet_period: Duration,
    /// How long requests in flight may take to finish after that; then they are cut off.
    pub drain_limit: Duration,
}

/// The ports of a queue-proxy. `None` is no such listener.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ports {
    /// Requests, named for HTTP/1.1.
    pub http1: Option<u16>,
    /// Requests, named for HTTP/2.
    pub h2c: Option<u16>,
    /// The stat.
    pub stats: u16,
    /// Drain hook and readiness.
    pub admin: u16,
}

impl Default for Ports {
    /// 8012, 8013, 9090 and 8022.
    fn default() -> Self {
        Self {
            http1: Some(names::QUEUE_HTTP1_PORT),
            h2c: Some(names::QUEUE_H2C_PORT),
            stats: names::QUEUE_STATS_PORT,
            admin: names::QUEUE_ADMIN_PORT,
        }
    }
}

impl Ports {
    /// Any free port for each: for tests.
    pub const ANY: Self = Self { http1: Some(0), h2c: Some(0), stats: 0, admin: 0 };
}

/// An environment that does not describe a queue-proxy.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum EnvError {
    /// A required variable is not set.
    #[error("{0} is not set; a queue-proxy needs it")]
    Missing(&'static str),
    /// A variable does not parse.
    #[error("{key}: {value:?} is not {accepted}")]
    Invalid {
        /// The variable.
        key: &'static str,
        /// What it holds.
        value: String,
        /// What it may hold.
        accepted: &'static str,
    },
    /// `SERVING_READINESS_PROBE` is not understood.
    #[error("SERVING_READINESS_PROBE: {0}")]
    Probe(#[from] ProbeError),
}

impl Config {
    /// A queue-proxy of `pod` before `user`, all else as Knative has it by default: no limit, no probe, Knative's ports
    /// on `ip`.
    pub fn new(namespace: &str, revision: &str, pod: &str, ip: IpAddr, user: SocketAddr) -> Self {
        Self {
            namespace: namespace.to_owned(),
            service: String::new(),
            configuration: String::new(),
            revision: revision.to_owned(),
            pod: pod.to_owned(),
            container_concurrency: 0,
            user,
            timeouts: Timeouts::default(),
            probes: Vec::new(),
            ip,
            ports: Ports::default(),
            metrics: None,
            quiet_period: QUIET_PERIOD,
            drain_limit: Timeouts::default().request,
        }
    }

    /// The configuration in the environment of this process.
    pub fn from_env() -> Result<Self, EnvError> {
        let config = Self::from_vars(|key| std::env::var(key).ok())?;
        if let Some((_, registry)) = &config.metrics {
            registry.register(Process);
        }
        Ok(config)
    }

    /// The configuration in variables named as Knative names them.
    ///
    /// Beyond Knative's: `QUEUE_BIND_IP`, the address to listen on (all by default), and `USER_IP`, the address of the
    /// user's process (127.0.0.1 by default); `QUEUE_QUIET_PERIOD_SECONDS` for the wait at the end.
    pub fn from_vars(var: impl Fn(&str) -> Option<String>) -> Result<Self, EnvError> {
        const NUMBER: &str = "a whole number, 0 or more";
        const PORT: &str = "a port, 1 to 65535";
        const IP: &str = "an IP address, such as 127.0.0.1";
        let set = |key: &'static str| var(key).filter(|value| !value.is_empty());
        let need = |key: &'static str| set(key).ok_or(EnvError::Missing(key));
        let seconds = |key: &'static str| -> Result<Option<Duration>, EnvError> {
            let seconds = set(key).map_or(Ok(0), |value| parse(key, &value, NUMBER))?;
            Ok(Some(Duration::from_secs(seconds)).filter(|length| !length.is_zero()))
        };
        let ip = |key: &'static str, default: Ipv4Addr| -> Result<IpAddr, EnvError> {
            set(key).map_or(Ok(default.into()), |value| parse(key, &value, IP))
        };
        let flag = |key: &'static str| {
            set(key).is_some_and(|value| matches!(value.as_str(), "1" | "t" | "T" | "true" | "True" | "TRUE"))
        };

        let serving: u16 = parse("QUEUE_SERVING_PORT", &need("QUEUE_SERVING_PORT")?, PORT)?;
        let user_port: u16 = parse("USER_PORT", &need("USER_PORT")?, PORT)?;
        let user = SocketAddr::new(ip("USER_IP", Ipv4Addr::LOCALHOST)?, user_port);
        let request_seconds = parse("REVISION_TIMEOUT_SECONDS", &need("REVISION_TIMEOUT_SECONDS")?, NUMBER)?;
        let request = Duration::from_secs(request_seconds);
        let concurrency = parse("CONTAINER_CONCURRENCY", &need("CONTAINER_CONCURRENCY")?, NUMBER)?;
        let probes = match set("SERVING_READINESS_PROBE") {
            Some(json) => Probe::parse(&json, user, flag("ENABLE_HTTP2_AUTO_DETECTION"))?,
            None => Vec::new(),
        };
        let h2c = serving == names::QUEUE_H2C_PORT;
        let bind_ip = ip("QUEUE_BIND_IP", Ipv4Addr::UNSPECIFIED)?;
        let metrics = set("OBSERVABILITY_CONFIG").map_or(Ok(None), |json| metrics_address(&json, bind_ip))?;
        Ok(Self {
            namespace: need("SERVING_NAMESPACE")?,
            service: set("SERVING_SERVICE").unwrap_or_default(),
            configuration: need("SERVING_CONFIGURATION")?,
            revision: need("SERVING_REVISION")?,
            pod: need("SERVING_POD")?,
            container_concurrency: concurrency,
            user,
            timeouts: Timeouts {
                request,
                response_start: seconds("REVISION_RESPONSE_START_TIMEOUT_SECONDS")?,
                idle: seconds("REVISION_IDLE_TIMEOUT_SECONDS")?,
            },
            probes,
            ip: bind_ip,
            ports: Ports { http1: (!h2c).then_some(serving), h2c: h2c.then_some(serving), ..Ports::default() },
            metrics: metrics.map(|address| (address, Registry::of_part())),
            quiet_period: seconds("QUEUE_QUIET_PERIOD_SECONDS")?.unwrap_or(QUIET_PERIOD),
            drain_limit: request,
        })
    }
}

fn parse<T: std::str::FromStr>(key: &'static str, value: &str, accepted: &'static str) -> Result<T, EnvError> {
    value.trim().parse().map_err(|_| EnvError::Invalid { key, value: value.to_owned(), accepted })
}

/// What is read of `OBSERVABILITY_CONFIG`, which is `config-observability` as Knative hands it to queue-proxies.
#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Observability {
    request_metrics: RequestMetrics,
}

/// `request-metrics-protocol` and `request-metrics-endpoint`.
#[derive(Deserialize, Default)]
#[serde(default)]
struct RequestMetrics {
    protocol: String,
    endpoint: String,
}

/// Where `OBSERVABILITY_CONFIG` asks for metrics of requests to be served; nowhere unless Prometheus is to scrape them.
fn metrics_address(json: &str, ip: IpAddr) -> Result<Option<SocketAddr>, EnvError> {
    let invalid =
        |value: &str, accepted| EnvError::Invalid { key: "OBSERVABILITY_CONFIG", value: value.to_owned(), accepted };
    let Observability { request_metrics: RequestMetrics { protocol, endpoint } } =
        serde_json::from_str(json).map_err(|_| invalid(json, "the JSON of config-observability"))?;
    if protocol != "prometheus" {
        return Ok(None);
    }
    if endpoint.is_empty() {
        return Ok(Some((ip, names::USER_METRICS_PORT).into()));
    }
    let of_port = endpoint.strip_prefix(':').and_then(|port| Some(SocketAddr::from((ip, port.parse().ok()?))));
    let address = of_port.or_else(|| endpoint.parse().ok());
    let accepted = "where to serve metrics of requests: IP:PORT, or :PORT for every address";
    address.map(Some).ok_or_else(|| invalid(&endpoint, accepted))
}

/// What became of requests that got no answer from the user's process.
#[derive(Debug, Default)]
pub struct Counters {
    /// Refused with 503: the line was full.
    pub refused: AtomicU64,
    /// Given up with 504.
    pub timed_out: AtomicU64,
    /// 502: the process could not be reached or closed the connection.
    pub unreachable: AtomicU64,
    /// The client went away in the middle of its request.
    pub broken_off: AtomicU64,
    /// Still in flight when the drain limit was over, and cut off.
    pub cut_off: AtomicU64,
}

/// The queue-proxy.
#[derive(Debug)]
pub struct QueueProxy;

impl QueueProxy {
    /// Binds the listeners. Nothing is served until [`Bound::run`]; connections wait in the kernel.
    pub async fn bind(config: Config, clock: Clock) -> io::Result<Bound> {
        let bind = async |port: u16| TcpListener::bind((config.ip, port)).await;
        let http1 = match config.ports.http1 {
            Some(port) => Some(bind(port).await?),
            None => None,
        };
        let h2c = match config.ports.h2c {
            Some(port) => Some(bind(port).await?),
            None => None,
        };
        let stats = bind(config.ports.stats).await?;
        let admin = bind(config.ports.admin).await?;
        let requests = Requests::of_queue_proxy(clock);
        let limit = Limit::of_container(config.container_concurrency);
        let metrics = match &config.metrics {
            Some((address, registry)) => {
                registry.register(requests.clone());
                registry.register(metrics::Identity {
                    revision: RevisionLabels {
                        key: RevisionKey::new(&config.namespace, &config.revision),
                        configuration: config.configuration.as_str().into(),
                        service: config.service.as_str().into(),
                    },
                    pod: config.pod.clone(),
                    limit: (config.container_concurrency > 0).then(|| limit.clone()),
                });
                Some((TcpListener::bind(address).await?, registry.clone()))
            }
            None => None,
        };
        let addr = |listener: &Option<TcpListener>| listener.as_ref().map(TcpListener::local_addr).transpose();
        let addrs = Addresses {
            http1: addr(&http1)?,
            h2c: addr(&h2c)?,
            stats: stats.local_addr()?,
            admin: admin.local_addr()?,
            metrics: metrics.as_ref().map(|(listener, _)| listener.local_addr()).transpose()?,
        };
        // Connections to the user's process: as many as it may answer at once.
        let max_idle = if config.container_concurrency == 0 { 1000 } else { config.container_concurrency };
        let settings = Settings { max_idle_per_backend: max_idle, ..Settings::default() };
        let state = Arc::new(State {
            limit,
            stats: RequestStats::new(clock),
            requests: config.metrics.is_some().then_some(requests),
            latest: Mutex::new(Latest::new(&config)),
            started: clock.now(),
            proxy: Proxy::new(clock, settings),
            readiness: Readiness::new(clock, config.probes.clone()),
            drain: Drain::new(clock, config.quiet_period),
            counters: Arc::default(),
            complaints: OncePerMinute::new(clock),
            complaining_of: config.pod.as_str().into(),
            clock,
            config,
        });
        Ok(Bound { state, addrs, http1, h2c, stats, admin, metrics })
    }
}

/// Where a queue-proxy listens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Addresses {
    /// Requests, named for HTTP/1.1.
    pub http1: Option<SocketAddr>,
    /// Requests, named for HTTP/2.
    pub h2c: Option<SocketAddr>,
    /// The stat.
    pub stats: SocketAddr,
    /// Drain hook and readiness.
    pub admin: SocketAddr,
    /// What Prometheus reads.
    pub metrics: Option<SocketAddr>,
}

/// A queue-proxy whose listeners are bound.
#[derive(Debug)]
pub struct Bound {
    state: Arc<State>,
    addrs: Addresses,
    http1: Option<TcpListener>,
    h2c: Option<TcpListener>,
    stats: TcpListener,
    admin: TcpListener,
    metrics: Option<(TcpListener, Registry)>,
}

impl Bound {
    /// The addresses bound.
    pub fn addrs(&self) -> Addresses {
        self.addrs
    }

    /// Whether the user's process can take requests, as a value to watch. False for good once draining.
    pub fn readiness(&self) -> watch::Receiver<bool> {
        self.state.readiness.watch()
    }

    /// The same to be asked: each question looks at the user's process anew.
    pub fn asked_readiness(&self) -> Readiness {
        self.state.readiness.clone()
    }

    /// What became of requests that got no answer.
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.state.counters)
    }

    /// The container's limit: who goes on and who is in line.
    pub fn limit(&self) -> Limit {
        self.state.limit.clone()
    }

    /// Serves until `cancel`, then drains: probes fail at once, requests are still taken until none came for the quiet
    /// period, what is in flight finishes within the drain limit, websockets a minute more.
    pub async fn run(self, cancel: CancellationToken) {
        let Self { state, http1, h2c, stats, admin, metrics, .. } = self;
        let main = Stop::default();
        let side = Stop::default();
        let serving = TaskTracker::new();
        for listener in [http1, h2c].into_iter().flatten() {
            let state = Arc::clone(&state);
            let handler = move |request| answer(Arc::clone(&state), request);
            serving.spawn(server::serve(listener, MAX_CONNECTIONS, handler, main.clone()));
        }
        let sides = TaskTracker::new();
        sides.spawn({
            let state = Arc::clone(&state);
            let handler = move |request: Request<Body>| std::future::ready(state.answer_stats(&request));
            server::serve(stats, MAX_SIDE_CONNECTIONS, handler, side.clone())
        });
        if let Some((listener, registry)) = metrics {
            sides.spawn(exposition::serve(listener, registry, side.drain.clone()));
        }
        sides.spawn({
            let (state, shutdown) = (Arc::clone(&state), cancel.clone());
            let handler = move |request| answer_admin(Arc::clone(&state), shutdown.clone(), request);
            server::serve(admin, MAX_SIDE_CONNECTIONS, handler, side.clone())
        });
        sides.spawn({
            let (state, stop) = (Arc::clone(&state), side.drain.clone());
            async move {
                tokio::select! {
                    () = report(&state) => {}
                    () = stop.cancelled() => {}
                }
            }
        });
        sides.spawn({
            let (state, stop) = (Arc::clone(&state), main.drain.clone());
            async move { state.readiness.run(stop).await }
        });
        serving.close();
        sides.close();

        cancel.cancelled().await;
        state.drain.begin();
        state.readiness.close();
        state.drain.done().await;
        main.drain.cancel();
        if timeout(state.config.drain_limit, serving.wait()).await.is_err() {
            let left = state.stats.in_flight();
            state.counters.cut_off.fetch_add(u64::from(left), Ordering::Relaxed);
            warn!(pod = state.config.pod, left, "requests cut off at the end of the drain limit");
        }
        if timeout(UPGRADED_LIMIT.min(state.config.drain_limit), state.proxy.drained()).await.is_err() {
            warn!(pod = state.config.pod, left = state.proxy.upgraded(), "websockets cut off");
        }
        state.proxy.cut_upgraded();
        main.kill.cancel();
        side.drain.cancel();
        side.kill.cancel();
        serving.wait().await;
        sides.wait().await;
    }
}

/// Runs the queue-proxy the environment describes until `cancel`.
pub async fn run_from_env(clock: Clock, cancel: CancellationToken) -> Result<(), RunError> {
    let config = Config::from_env()?;
    info!(namespace = config.namespace, revision = config.revision, pod = config.pod, "queue-proxy starts");
    QueueProxy::bind(config, clock).await?.run(cancel).await;
    Ok(())
}

/// Why a queue-proxy did not start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The environment is wrong.
    #[error(transparent)]
    Env(#[from] EnvError),
    /// A port is taken, or may not be bound.
    #[error("cannot listen: {0}")]
    Listen(#[from] io::Error),
}

struct State {
    config: Config,
    clock: Clock,
    started: Timestamp,
    limit: Limit,
    stats: RequestStats,
    /// `None` when nobody is to read them.
    requests: Option<Requests>,
    latest: Mutex<Latest>,
    proxy: Proxy,
    readiness: Readiness,
    drain: Drain,
    counters: Arc<Counters>,
    /// A process that is down fails every request; one line a minute says so.
    complaints: OncePerMinute,
    complaining_of: Arc<str>,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").field("config", &self.config).field("limit", &self.limit).finish_non_exhaustive()
    }
}

async fn answer(state: Arc<State>, mut request: Request<Body>) -> Response<Body> {
    if let Some(probe) = ProbeKind::of(request.headers()) {
        return state.answer_probe(probe, request.headers()).await;
    }
    state.drain.touch();
    let http1 = request.version() != http::Version::HTTP_2;
    let proxied = headers::text(request.headers(), names::PROXIED_HEADER) == probes::ACTIVATOR;
    let in_flight = state.stats.arrive(proxied);
    let protocol = Protocol::of(request.version());
    headers::add_forwarded(request.headers_mut());
    headers::restore_host(request.headers_mut());
    headers::drop_revision(request.headers_mut());
    let timing = state.requests.as_ref().map(|requests| requests.begin(&request, None));

    let exchange = async {
        let permit = state.limit.acquire().await.map_err(NoAnswer::Full)?;
        if let Some(timing) = &timing {
            timing.invoked();
        }
        let guard = (in_flight, permit, timing.clone());
        let forwarded = state.proxy.forward(request, state.config.user, protocol, guard).await;
        forwarded.map_err(|failure| NoAnswer::Failed(failure.error))
    };
    let counters = Arc::clone(&state.counters);
    let count = move || {
        counters.timed_out.fetch_add(1, Ordering::Relaxed);
    };
    let response = match state.config.timeouts.keep(exchange, count).await.unwrap_or(Err(NoAnswer::TimedOut)) {
        Ok(mut response) => {
            // Clients leave a pod that is going one by one, and not all at once when it closes under their requests.
            if http1 && state.drain.is_on() && response.status() != StatusCode::SWITCHING_PROTOCOLS {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            response
        }
        Err(NoAnswer::Full(full)) => {
            state.counters.refused.fetch_add(1, Ordering::Relaxed);
            body::text(StatusCode::SERVICE_UNAVAILABLE, full.to_string())
        }
        Err(NoAnswer::TimedOut) => body::text(StatusCode::GATEWAY_TIMEOUT, "request timeout"),
        Err(NoAnswer::Failed(error)) if error.is_clients_doing() => {
            state.counters.broken_off.fetch_add(1, Ordering::Relaxed);
            debug!(pod = state.config.pod, %error, "client went away");
            error.response()
        }
        Err(NoAnswer::Failed(error)) => {
            state.counters.unreachable.fetch_add(1, Ordering::Relaxed);
            if let Some(unlogged) = state.complaints.allow(&state.complaining_of) {
                warn!(pod = state.config.pod, %error, unlogged, "no answer from the user's process");
            }
            error.response()
        }
    };
    if let Some(timing) = &timing {
        timing.answered(response.status());
    }
    response
}

enum NoAnswer {
    Full(QueueFull),
    TimedOut,
    Failed(ForwardError),
}

/// A request that asks about us and not about the user's process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum ProbeKind {
    /// Are you ready?
    Health,
    /// Have the ingress's rules arrived?
    Ingress,
}

impl ProbeKind {
    fn of(headers: &HeaderMap) -> Option<Self> {
        let agent = headers::text(headers, USER_AGENT.as_str());
        let value = probes::network_value(headers);
        if probes::is_kubelet(headers)
            || [names::ACTIVATOR_PROBE_AGENT, names::AUTOSCALER_PROBE_AGENT].iter().any(|who| agent.starts_with(who))
        {
            Some(Self::Health)
        } else if value == probes::INGRESS {
            Some(Self::Ingress)
        } else {
            (!value.is_empty()).then_some(Self::Health)
        }
    }
}

impl State {
    async fn answer_probe(&self, kind: ProbeKind, headers: &HeaderMap) -> Response<Body> {
        if self.drain.is_on() {
            return body::text(StatusCode::SERVICE_UNAVAILABLE, "shutting down");
        }
        match kind {
            ProbeKind::Ingress => probes::answer_ingress(headers),
            ProbeKind::Health => {
                let value = probes::network_value(headers);
                // A kubelet's own probes need not name whom they ask.
                let named = value == probes::QUEUE || value.is_empty() && probes::is_kubelet(headers);
                if !named {
                    return body::text(StatusCode::BAD_REQUEST, format!("unexpected probe header value: {value}"));
                }
                if self.readiness.ask().await && !self.drain.is_on() {
                    Response::new(body::full(probes::QUEUE))
                } else {
                    let mut response = Response::new(empty());
                    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
                    response
                }
            }
        }
    }

    fn answer_stats(&self, request: &Request<Body>) -> Response<Body> {
        if request.uri().path() != "/metrics" {
            return body::text(StatusCode::NOT_FOUND, "the stat is at /metrics");
        }
        let latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let accept = headers::text(request.headers(), ACCEPT.as_str());
        let (content_type, bytes) = if accept.contains("application/protobuf") {
            ("application/protobuf", latest.encoded)
        } else {
            ("text/plain; version=0.0.4; charset=utf-8", latest.text(&self.config).into())
        };
        let mut response = Response::new(body::full(bytes));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        response
    }
}

async fn answer_admin(state: Arc<State>, shutdown: CancellationToken, request: Request<Body>) -> Response<Body> {
    if let Some(probe) = ProbeKind::of(request.headers()) {
        return state.answer_probe(probe, request.headers()).await;
    }
    if request.uri().path() != WAIT_FOR_DRAIN {
        return body::text(StatusCode::NOT_FOUND, "the drain hook is at /wait-for-drain");
    }
    state.drain.begin();
    tokio::select! {
        () = state.drain.done() => {}
        () = sleep(HOOK_GRACE) => {
            if shutdown.is_cancelled() {
                state.drain.done().await;
            } else {
                // The pod stays; only its user's container is restarted.
                state.drain.end();
            }
        }
    }
    Response::new(empty())
}

/// Closes an interval each second and keeps the stat for whoever scrapes.
async fn report(state: &State) {
    let mut ticks = interval(Span::SECOND.to_std());
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.tick().await;
    loop {
        ticks.tick().await;
        let report = state.stats.close();
        let stat = Stat {
            pod_name: Bytes::copy_from_slice(state.config.pod.as_bytes()),
            average_concurrent_requests: report.average_concurrency,
            average_proxied_concurrent_requests: report.average_proxied_concurrency,
            request_count: report.requests,
            proxied_request_count: report.proxied_requests,
            process_uptime: state.clock.now().since(state.started).seconds_f64(),
            timestamp: 0,
        };
        *state.latest.lock().unwrap_or_else(PoisonError::into_inner) = Latest::of(stat);
    }
}

/// The stat of the last full second, ready to be sent.
#[derive(Clone)]
struct Latest {
    stat: Stat,
    encoded: Bytes,
}

impl Latest {
    /// Before the first second is over there is only the reporter's name.
    fn new(config: &Config) -> Self {
        Self::of(Stat { pod_name: Bytes::copy_from_slice(config.pod.as_bytes()), ..Stat::default() })
    }

    fn of(stat: Stat) -> Self {
        Self { encoded: stat.encode_to_vec().into(), stat }
    }

    /// As queue-proxies of old told it: gauges in Prometheus text.
    fn text(&self, config: &Config) -> String {
        use std::fmt::Write as _;
        let labels = format!(
            "destination_namespace={:?},destination_configuration={:?},destination_revision={:?},destination_pod={:?}",
            config.namespace, config.configuration, config.revision, config.pod
        );
        let mut text = String::new();
        for (name, help, value) in [
            (
                "queue_average_concurrent_requests",
                "Requests in flight, averaged over the last second.",
                self.stat.average_concurrent_requests,
            ),
            (
                "queue_average_proxied_concurrent_requests",
                "Requests in flight that came by way of an activator, averaged over the last second.",
                self.stat.average_proxied_concurrent_requests,
            ),
            ("queue_requests_per_second", "Requests that came in the last second.", self.stat.request_count),
            (
                "queue_proxied_operations_per_second",
                "Requests that came by way of an activator in the last second.",
                self.stat.proxied_request_count,
            ),
            ("process_uptime", "Seconds since this queue-proxy started.", self.stat.process_uptime),
        ] {
            // Writing to a String cannot fail.
            let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} gauge\n{name}{{{labels}}} {value}\n");
        }
        text
    }
}

/// Whether the pod is going, and since when nobody has sent it anything.
#[derive(Debug)]
struct Drain {
    clock: Clock,
    quiet_period: Duration,
    last: Mutex<Timestamp>,
    on: watch::Sender<bool>,
}

impl Drain {
    fn new(clock: Clock, quiet_period: Duration) -> Self {
        Self { clock, quiet_period, last: Mutex::new(clock.now()), on: watch::Sender::new(false) }
    }

    fn is_on(&self) -> bool {
        *self.on.borrow()
    }

    fn begin(&self) {
        if !self.on.send_replace(true) {
            self.touch();
        }
    }

    fn end(&self) {
        self.on.send_replace(false);
    }

    /// A request came.
    fn touch(&self) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = self.clock.now();
    }

    /// Waits until none came for the quiet period, or the drain was ended.
    async fn done(&self) {
        let mut on = self.on.subscribe();
        loop {
            let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
            let quiet_at = last + Span::from_std(self.quiet_period);
            if quiet_at <= self.clock.now() {
                return;
            }
            tokio::select! {
                () = sleep_until(self.clock.instant(quiet_at)) => {}
                _ = on.wait_for(|on| !on) => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vars(changes: &[(&'static str, &'static str)]) -> impl Fn(&str) -> Option<String> {
        let mut all = std::collections::HashMap::from([
            ("CONTAINER_CONCURRENCY", "10"),
            ("QUEUE_SERVING_PORT", "8012"),
            ("QUEUE_SERVING_TLS_PORT", "8112"),
            ("USER_PORT", "8080"),
            ("REVISION_TIMEOUT_SECONDS", "300"),
            ("SERVING_NAMESPACE", "default"),
            ("SERVING_CONFIGURATION", "hello"),
            ("SERVING_REVISION", "hello-00001"),
            ("SERVING_POD", "hello-00001-abc"),
            ("SERVING_POD_IP", "10.0.0.1"),
        ]);
        all.extend(changes.iter().copied());
        move |key| all.get(key).map(|value| (*value).to_owned())
    }

    #[test]
    fn the_environment_is_read_as_knative_writes_it() {
        let config = Config::from_vars(vars(&[
            ("REVISION_IDLE_TIMEOUT_SECONDS", "0"),
            ("REVISION_RESPONSE_START_TIMEOUT_SECONDS", "30"),
            ("SERVING_READINESS_PROBE", r#"{"tcpSocket":{"host":"127.0.0.1","port":8080},"successThreshold":1}"#),
        ]))
        .expect("a configuration");
        assert_eq!(config.container_concurrency, 10);
        assert_eq!(config.user, "127.0.0.1:8080".parse().expect("an address"));
        assert_eq!(
            config.timeouts,
            Timeouts { request: Duration::from_mins(5), response_start: Some(Duration::from_secs(30)), idle: None }
        );
        assert_eq!(config.probes, [Probe::tcp(config.user)]);
        assert_eq!(config.ports, Ports { h2c: None, ..Ports::default() });

        let h2c = Config::from_vars(vars(&[("QUEUE_SERVING_PORT", "8013")])).expect("a configuration");
        assert_eq!(h2c.ports, Ports { http1: None, ..Ports::default() });
        assert!(h2c.probes.is_empty());
    }

    #[test]
    fn metrics_of_requests_are_served_where_knative_asks_for_it() {
        let at = |json: &'static str| {
            let config = Config::from_vars(vars(&[("OBSERVABILITY_CONFIG", json), ("QUEUE_BIND_IP", "10.0.0.1")]));
            config
                .map(|config| config.metrics.map(|(address, _)| address.to_string()))
                .map_err(|error| error.to_string())
        };
        let request = |it: &str| -> &'static str { format!(r#"{{"requestMetrics":{it},"tracing":{{}}}}"#).leak() };
        for (json, want) in [
            ("{}", None),
            (request(r#"{"protocol":"none"}"#), None),
            (request(r#"{"protocol":"grpc","endpoint":"collector:80"}"#), None),
            (request(r#"{"protocol":"prometheus"}"#), Some("10.0.0.1:9091")),
            (request(r#"{"protocol":"prometheus","endpoint":":9999"}"#), Some("10.0.0.1:9999")),
            (request(r#"{"protocol":"prometheus","endpoint":"[::]:9999"}"#), Some("[::]:9999")),
        ] {
            assert_eq!(at(json), Ok(want.map(str::to_owned)), "{json}");
        }
        assert_eq!(
            at(request(r#"{"protocol":"prometheus","endpoint":"here"}"#)).expect_err("no address"),
            "OBSERVABILITY_CONFIG: \"here\" is not where to serve metrics of requests: IP:PORT, or :PORT for every address"
        );
    }

    #[test]
    fn what_is_wrong_in_the_environment_is_named() {
        let error = |key, value| Config::from_vars(vars(&[(key, value)])).expect_err(value).to_string();
        assert_eq!(error("SERVING_POD", ""), "SERVING_POD is not set; a queue-proxy needs it");
        assert_eq!(error("USER_PORT", "http"), "USER_PORT: \"http\" is not a port, 1 to 65535");
        assert_eq!(
            error("CONTAINER_CONCURRENCY", "-1"),
            "CONTAINER_CONCURRENCY: \"-1\" is not a whole number, 0 or more"
        );
        assert!(error("SERVING_READINESS_PROBE", "x").starts_with("SERVING_READINESS_PROBE: not a Kubernetes probe"));
    }

    #[test]
    fn who_probes_is_known_by_agent_or_header() {
        let kind = |name: &'static str, value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, HeaderValue::from_static(value));
            ProbeKind::of(&headers)
        };
        assert_eq!(kind("user-agent", "kube-probe/1.34"), Some(ProbeKind::Health));
        assert_eq!(kind("k-kubelet-probe", "queue"), Some(ProbeKind::Health));
        assert_eq!(kind("user-agent", "Knative-Activator-Probe"), Some(ProbeKind::Health));
        assert_eq!(kind("user-agent", "Knative-Autoscaling-Probe"), Some(ProbeKind::Health));
        assert_eq!(kind("k-network-probe", "queue"), Some(ProbeKind::Health));
        assert_eq!(kind("k-network-probe", "probe"), Some(ProbeKind::Ingress));
        assert_eq!(kind("user-agent", "curl/8"), None);
    }
}
