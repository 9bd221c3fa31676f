//! The activator: in front of revisions at zero, and of those with little room to spare.
//!
//! It holds requests while there is no pod, tells the autoscaler at once that there are some, finds out by itself when a
//! pod can take them and passes them on, no more to each pod than it takes.
//!
//! ```text
//! request ─► which revision? ─► counted, told ─► line ─► a pod with room ─► response
//!                                                  ▲            │ refused
//!                                                  └────────────┘
//! ```
//!
//! Reading order: [`throttle`] (who goes where, and who waits), [`backends`] (the table of revisions), [`load`] (what is
//! told), [`ports`] (a port for each revision behind a load balancer), [`feed`] (how the tables are filled from Kubernetes),
//! `metrics` (what Prometheus reads).
//!
//! # Decisions
//!
//! 2026-11: A request that a pod refused to connect to goes back to its place in the line (Knative answers 502). Pods
//! come and go faster than their endpoints; the request has not been seen by anybody.
//!
//! 2026-11: The line of a revision is bounded, at 10,000 by default. Knative names the same number but adds a capacity
//! of two thousand million to it, so that its line is as long as its memory.

pub mod backends;
pub mod feed;
pub mod load;
mod metrics;
pub mod ports;
pub mod throttle;

use crate::api::names;
use crate::clock::Clock;
use crate::config::ConfigError;
use crate::config::observability::{self, Observability};
use crate::dataplane::activator::backends::Backends;
use crate::dataplane::activator::load::{Load, StatSink};
use crate::dataplane::activator::ports::{Behind, Ports};
use crate::dataplane::activator::throttle::{Lease, NoPod, ProbeSettings, Shared};
use crate::dataplane::body::{self, Body, empty};
use crate::dataplane::gateway::{self, Gateway, Inward};
use crate::dataplane::headers;
use crate::dataplane::limit::QueueFull;
use crate::dataplane::metrics::Requests;
use crate::dataplane::probes;
use crate::dataplane::proxy::{Exchange, ForwardError, Protocol, Proxy, Settings};
use crate::dataplane::server::{self, MAX_CONNECTIONS, Stop};
use crate::dataplane::services::Services;
use crate::k8s::dial::Dial;
use crate::observe::ledger::{Ledger, Mark};
use crate::observe::metrics::endpoint::{Endpoint, EndpointError};
use crate::observe::metrics::process::Process;
use crate::observe::metrics::{MOST_REVISIONS, Registry, server as exposition};
use crate::routing::model::CLASS;
use crate::routing::probe::IDENTITY_HEADER;
use crate::stats::client;
use crate::stats::limit::OncePerMinute;
use crate::units::{Compat, RevisionKey};
use futures::future::BoxFuture;
use http::header::{HeaderValue, RETRY_AFTER};
use http::{Method, Request, Response, StatusCode};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

/// Requests that may wait for one revision unless told otherwise.
pub const QUEUE_DEPTH: usize = 10_000;
/// How long an activator that is going still takes requests: routers need that long to learn of it.
pub const DRAIN_PERIOD: Duration = Duration::from_secs(45);
/// The same where a load balancer leads to it: that learns later.
pub const BALANCED_DRAIN_PERIOD: Duration = Duration::from_mins(1);
/// How long before a load balancer gives a request up it is answered here: with 503 and when to come again, instead of the
/// load balancer's 504.
const BEFORE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long requests in flight may take to finish after that.
pub const DRAIN_LIMIT: Duration = Duration::from_mins(10);

/// What an activator needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// `POD_NAME`, the reporter of the stats.
    pub pod_name: String,
    /// The address the listeners are bound to.
    pub ip: IpAddr,
    /// The port for HTTP/1.1; 0 takes any free one. Either port takes both protocols.
    pub http1_port: u16,
    /// The port for HTTP/2.
    pub h2c_port: u16,
    /// Where `GET /metrics` tells Prometheus of the requests, and what else it shows there; `None` is no such listener.
    /// Knative's port is 9090.
    pub metrics: Option<(SocketAddr, Registry)>,
    /// The port at which it is a gateway for KIngresses of a class too, and the class; `None` is no such listener.
    pub gateway: Option<(u16, String)>,
    /// The domain of the cluster, for hosts such as `hello-00001.default.svc.cluster.local`.
    pub cluster_domain: String,
    /// How pods are probed.
    pub probe: ProbeSettings,
    /// Requests that may wait for one revision; more get a 503.
    pub queue_depth: usize,
    /// Unused connections kept per pod.
    pub max_idle_per_pod: usize,
    /// How long it still takes requests once told to stop.
    pub drain_period: Duration,
    /// The same where a load balancer leads to it by a port.
    pub balanced_drain_period: Duration,
    /// How long requests in flight may take to finish after that; then they are cut off.
    pub drain_limit: Duration,
    /// Where to note what becomes of the first request of a revision without a pod, if anywhere.
    pub ledger: Option<Ledger>,
}

impl Config {
    /// An activator on Knative's ports of `ip`, all else as Knative has it by default.
    pub fn new(pod_name: &str, ip: IpAddr) -> Self {
        Self {
            pod_name: pod_name.to_owned(),
            ip,
            http1_port: names::QUEUE_HTTP1_PORT,
            h2c_port: names::QUEUE_H2C_PORT,
            metrics: None,
            gateway: None,
            cluster_domain: "cluster.local".to_owned(),
            probe: ProbeSettings::default(),
            queue_depth: QUEUE_DEPTH,
            max_idle_per_pod: Settings::default().max_idle_per_backend,
            drain_period: DRAIN_PERIOD,
            balanced_drain_period: BALANCED_DRAIN_PERIOD,
            drain_limit: DRAIN_LIMIT,
            ledger: None,
        }
    }
}

/// What became of requests that no pod answered.
#[derive(Debug, Default)]
pub struct Counters {
    /// 404: no such revision.
    pub unknown: AtomicU64,
    /// Refused with 503: the line was full.
    pub refused: AtomicU64,
    /// Refused with 503: no pod came before the load balancer would have given the request up.
    pub too_late: AtomicU64,
    /// Given up with 504, or cut off.
    pub timed_out: AtomicU64,
    /// 502: a pod closed the connection before it answered.
    pub lost: AtomicU64,
    /// The client went away in the middle of its request.
    pub broken_off: AtomicU64,
    /// Sent back to the line because a pod could not be reached. Each is answered in the end.
    pub requeued: AtomicU64,
    /// Batches of stats nobody received, the connection being down.
    pub stats_dropped: AtomicU64,
}

/// The activator.
#[derive(Debug)]
pub struct Activator;

impl Activator {
    /// Binds the listeners. Nothing is served until [`Bound::run`]; connections wait in the kernel.
    pub async fn bind(config: Config, sink: Arc<dyn StatSink>, clock: Clock) -> io::Result<Bound> {
        let http1 = TcpListener::bind((config.ip, config.http1_port)).await?;
        let h2c = TcpListener::bind((config.ip, config.h2c_port)).await?;
        let settings = Settings { max_idle_per_backend: config.max_idle_per_pod, ..Settings::default() };
        let proxy = Proxy::new(clock, settings);
        let counters = Arc::new(Counters::default());
        let requests = config.metrics.is_some().then(|| Requests::of_activator(clock, MOST_REVISIONS));
        let shared = Shared { proxy: proxy.clone(), probe: config.probe, queue_depth: config.queue_depth };
        let backends = Backends::new(shared, requests.clone());
        let load = Load::new(clock, &config.pod_name, sink, Arc::clone(&counters));
        let metrics = match (&config.metrics, &requests) {
            (Some((address, registry)), Some(requests)) => {
                registry.register(requests.clone());
                registry.register(metrics::UnderWay { backends: backends.clone(), load: load.clone() });
                Some((TcpListener::bind(address).await?, registry.clone()))
            }
            _ => None,
        };
        let (stopping, complaints) = (CancellationToken::new(), OncePerMinute::new(clock));
        let ports = Ports::default();
        let state = Arc::new(State { config, proxy, backends, ports, load, requests, counters, stopping, complaints });
        let gateway = match state.config.gateway.clone() {
            Some((port, class)) => {
                let listener = TcpListener::bind((state.config.ip, port)).await?;
                let (services, options) =
                    (Services::default(), gateway::Options { class, ..gateway::Options::default() });
                let gateway = Gateway::new(options, clock, services.clone()).with(Arc::new(Inside(Arc::clone(&state))));
                Some((listener, gateway, services))
            }
            None => None,
        };
        Ok(Bound { state, http1, h2c, gateway, metrics })
    }
}

/// An activator whose listeners are bound.
#[derive(Debug)]
pub struct Bound {
    state: Arc<State>,
    http1: TcpListener,
    h2c: TcpListener,
    gateway: Option<(TcpListener, Gateway, Services)>,
    metrics: Option<(TcpListener, Registry)>,
}

impl Bound {
    /// The table of revisions, to be filled by [`feed::run`] or by hand.
    pub fn backends(&self) -> Backends {
        self.state.backends.clone()
    }

    /// The table of ports, likewise.
    pub fn ports(&self) -> Ports {
        self.state.ports.clone()
    }

    /// The addresses bound: for HTTP/1.1 and for HTTP/2.
    pub fn addrs(&self) -> io::Result<(SocketAddr, SocketAddr)> {
        Ok((self.http1.local_addr()?, self.h2c.local_addr()?))
    }

    /// The gateway and what it knows of Services, to be fed from Kubernetes; and where it listens.
    pub fn gateway(&self) -> io::Result<Option<(Gateway, Services, SocketAddr)>> {
        let of = |(listener, gateway, services): &(TcpListener, Gateway, Services)| {
            Ok((gateway.clone(), services.clone(), listener.local_addr()?))
        };
        self.gateway.as_ref().map(of).transpose()
    }

    /// The address at which metrics are served, if they are.
    pub fn metrics_addr(&self) -> io::Result<Option<SocketAddr>> {
        self.metrics.as_ref().map(|(listener, _)| listener.local_addr()).transpose()
    }

    /// What became of requests that no pod answered.
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.state.counters)
    }

    /// Serves until `cancel`; then fails its health check, serves on for the drain period, and lets what is in flight
    /// finish within the drain limit. Load is told of to the end.
    pub async fn run(self, cancel: CancellationToken) {
        let Self { state, http1, h2c, gateway, metrics } = self;
        let stop = Stop::default();
        let showing =
            metrics.map(|(listener, registry)| tokio::spawn(exposition::serve(listener, registry, stop.kill.clone())));
        let serving = TaskTracker::new();
        for listener in [http1, h2c] {
            let state = Arc::clone(&state);
            let handler = move |request| answer(Arc::clone(&state), None, request);
            serving.spawn(server::serve(listener, MAX_CONNECTIONS, handler, stop.clone()));
        }
        if let Some((listener, gateway, _)) = gateway {
            let stop = stop.clone();
            serving.spawn(async move { gateway.serve(listener, stop).await });
        }
        serving.spawn({
            let (ports, ip, stop, state) = (state.ports.clone(), state.config.ip, stop.clone(), Arc::clone(&state));
            let handler = move |port, request| answer(Arc::clone(&state), Some(port), request);
            async move { ports.serve(ip, handler, stop).await }
        });
        serving.close();
        let telling = tokio::spawn({
            let (load, kill) = (state.load.clone(), stop.kill.clone());
            async move { load.run(kill).await }
        });
        cancel.cancelled().await;
        state.stopping.cancel();
        let balanced = if state.ports.is_empty() { Duration::ZERO } else { state.config.balanced_drain_period };
        sleep(state.config.drain_period.max(balanced)).await;
        stop.drain.cancel();
        let finishing = async {
            serving.wait().await;
            state.proxy.drained().await;
        };
        if timeout(state.config.drain_limit, finishing).await.is_err() {
            warn!("requests cut off at the end of the drain limit");
        }
        state.proxy.cut_upgraded();
        stop.kill.cancel();
        serving.wait().await;
        // They end with the kill above and cannot fail.
        let _ = telling.await;
        if let Some(showing) = showing {
            let _ = showing.await;
        }
    }
}

struct State {
    config: Config,
    proxy: Proxy,
    backends: Backends,
    ports: Ports,
    load: Load,
    /// `None` when nobody is to read them.
    requests: Option<Requests>,
    counters: Arc<Counters>,
    stopping: CancellationToken,
    /// A revision whose pods are down fails every request; one line a minute says so.
    complaints: OncePerMinute,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").field("config", &self.config).field("load", &self.load).finish_non_exhaustive()
    }
}

/// The activator, as its own gateway sees it.
struct Inside(Arc<State>);

impl Inward for Inside {
    fn knows(&self, revision: &RevisionKey) -> bool {
        self.0.backends.get(revision).is_some()
    }

    fn answer(&self, request: Request<Body>) -> BoxFuture<'static, Response<Body>> {
        Box::pin(answer(Arc::clone(&self.0), None, request))
    }
}

/// Answers a request that came to one of the ports for all revisions, or to the port of one.
async fn answer(state: Arc<State>, port: Option<u16>, request: Request<Body>) -> Response<Body> {
    if probes::is_kubelet(request.headers()) {
        return state.answer_health();
    }
    match probes::network_value(request.headers()) {
        "" => {}
        probes::INGRESS => return probes::answer_ingress(request.headers()),
        probes::ACTIVATOR => {
            let behind = port.and_then(|port| state.ports.behind(port));
            return answer_identity(&request, port.is_some(), behind.as_ref());
        }
        other => return body::text(StatusCode::BAD_REQUEST, format!("unexpected probe header value: {other:?}")),
    }
    if request.method() == Method::CONNECT {
        return body::text(StatusCode::METHOD_NOT_ALLOWED, "this is no forward proxy: CONNECT is not served");
    }
    let behind = port.and_then(|port| state.ports.behind(port));
    // At a port of its own whatever the client claims in headers does not count.
    let key = match port {
        Some(_) => behind.as_ref().map(|behind| behind.revision.clone()),
        None => revision_of(&request, &state.config.cluster_domain),
    };
    let patience = behind.and_then(|behind| behind.request_timeout);
    let patience = patience.map(|whole| whole.saturating_sub(BEFORE_TIMEOUT.min(whole / 2)));
    let Some(throttle) = key.as_ref().and_then(|key| state.backends.get(key)) else {
        state.counters.unknown.fetch_add(1, Ordering::Relaxed);
        let name = key.as_ref().map_or("", RevisionKey::name);
        let message = format!("Error getting active endpoint: revisions.serving.knative.dev {name:?} not found");
        return body::text(StatusCode::NOT_FOUND, message);
    };
    let Some(key) = key else { return body::text(StatusCode::NOT_FOUND, "no revision named") };
    let ledger = state.config.ledger.as_ref().map(|ledger| (ledger, ledger.now()));
    let timing = state.requests.as_ref().map(|requests| requests.begin(&request, Some(state.backends.labels(&key))));
    let in_flight = Arc::new((state.load.arrive(&key), timing.clone()));
    let protocol = Protocol::of(request.version());
    let mut exchange = Exchange::new(request);
    prepare(&mut exchange);
    let exchange = async {
        let mut number = None;
        let mut cold = None;
        loop {
            // Also where a pod that was there on arrival turns out to be gone.
            if let Some((ledger, came)) = ledger.filter(|_| throttle.usable().is_empty()) {
                ledger.begin_at(&key, Mark::Request, came);
                cold = Some(ledger);
            }
            let lease = match patience {
                Some(most) => timeout(most, throttle.acquire(&mut number)).await.map_err(|_| NoAnswer::TooLate)??,
                None => throttle.acquire(&mut number).await?,
            };
            if let Some(ledger) = cold {
                ledger.note(&key, Mark::Routed);
            }
            let addr = lease.addr();
            if let Ok(host) = HeaderValue::from_str(&addr.to_string()) {
                headers::set_host(exchange.headers_mut(), host);
            }
            let lease = Arc::new(lease);
            let guard: (Arc<_>, Arc<Lease>) = (Arc::clone(&in_flight), Arc::clone(&lease));
            let failure = match state.proxy.send(exchange, addr, protocol, guard).await {
                Ok(response) => {
                    if let Some(ledger) = cold {
                        ledger.note(&key, Mark::FirstByte);
                    }
                    return Ok(response);
                }
                Err(failure) => failure,
            };
            let Some(whole) = failure.exchange else { return Err(NoAnswer::Lost(failure.error)) };
            state.counters.requeued.fetch_add(1, Ordering::Relaxed);
            if let Some(lease) = Arc::into_inner(lease) {
                lease.unreachable();
            }
            exchange = *whole;
        }
    };
    let counters = Arc::clone(&state.counters);
    let count = move || {
        counters.timed_out.fetch_add(1, Ordering::Relaxed);
    };
    let answered = throttle.revision().timeouts.keep(exchange, count).await.unwrap_or(Err(NoAnswer::TimedOut));
    let response = match answered {
        Ok(response) => response,
        Err(NoAnswer::TimedOut) => body::text(StatusCode::GATEWAY_TIMEOUT, "activator request timeout"),
        Err(NoAnswer::Full(full)) => {
            state.counters.refused.fetch_add(1, Ordering::Relaxed);
            body::text(StatusCode::SERVICE_UNAVAILABLE, full.to_string())
        }
        Err(NoAnswer::TooLate) => {
            state.counters.too_late.fetch_add(1, Ordering::Relaxed);
            let mut response = body::text(StatusCode::SERVICE_UNAVAILABLE, "no pod became ready in time");
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
            response
        }
        Err(NoAnswer::Gone) => {
            state.counters.unknown.fetch_add(1, Ordering::Relaxed);
            body::text(StatusCode::NOT_FOUND, format!("revision {key} was deleted"))
        }
        Err(NoAnswer::Lost(error)) if error.is_clients_doing() => {
            state.counters.broken_off.fetch_add(1, Ordering::Relaxed);
            debug!(revision = %key, %error, "client went away");
            error.response()
        }
        Err(NoAnswer::Lost(error)) => {
            state.counters.lost.fetch_add(1, Ordering::Relaxed);
            if let Some(unlogged) = state.complaints.allow(&key.as_str().into()) {
                warn!(revision = %key, %error, unlogged, "no answer from a pod");
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
    TooLate,
    Gone,
    TimedOut,
    Lost(ForwardError),
}

impl From<NoPod> for NoAnswer {
    fn from(no_pod: NoPod) -> Self {
        match no_pod {
            NoPod::Full(full) => Self::Full(full),
            NoPod::Gone => Self::Gone,
        }
    }
}

/// The answer to who asks whether an activator is there: yes, and for which revision, where that is told by the port or by
/// the headers a load balancer sets. At a port that is nobody's there is none.
fn answer_identity(request: &Request<Body>, own_port: bool, behind: Option<&Behind>) -> Response<Body> {
    let named = |name| headers::text(request.headers(), name);
    let identity = match behind {
        Some(behind) => behind.revision.to_string(),
        None if own_port => return body::text(StatusCode::NOT_FOUND, "no revision has this port"),
        None => format!("{}/{}", named(names::NAMESPACE_HEADER), named(names::REVISION_HEADER)),
    };
    let mut response = Response::new(body::full(probes::ACTIVATOR));
    if let Some(value) = HeaderValue::try_from(&identity).ok().filter(|_| identity.len() > 1) {
        response.headers_mut().insert(IDENTITY_HEADER, value);
    }
    response
}

/// Marks a request as proxied by an activator and puts its host aside, so that a mesh routes it by address.
fn prepare(exchange: &mut Exchange) {
    let headers = exchange.headers_mut();
    headers::put_host_aside(headers);
    headers::drop_revision(headers);
    headers.insert(names::PROXIED_HEADER, HeaderValue::from_static(probes::ACTIVATOR));
}

/// The revision a request is for: named by the ingress in headers, or by a host in the cluster.
fn revision_of<B>(request: &Request<B>, cluster_domain: &str) -> Option<RevisionKey> {
    let namespace = headers::text(request.headers(), names::NAMESPACE_HEADER);
    let name = headers::text(request.headers(), names::REVISION_HEADER);
    if !namespace.is_empty() && !name.is_empty() {
        return Some(RevisionKey::new(namespace, name));
    }
    let host = headers::host(request)?;
    let host = host.to_str().ok()?;
    let mut parts = host.splitn(4, '.');
    let (name, namespace, svc) = (parts.next()?, parts.next()?, parts.next()?);
    let domain = parts.next()?.split(':').next()?;
    (svc == "svc" && domain == cluster_domain).then(|| RevisionKey::new(namespace, name))
}

impl State {
    fn answer_health(&self) -> Response<Body> {
        if self.stopping.is_cancelled() {
            return body::text(StatusCode::INTERNAL_SERVER_ERROR, "received SIGTERM from kubelet");
        }
        if !self.load.is_connected() {
            return body::text(StatusCode::INTERNAL_SERVER_ERROR, "not connected to the autoscaler");
        }
        Response::new(empty())
    }
}

/// Runs the activator the environment describes until `cancel`: `POD_NAME`, `POD_IP`, `SYSTEM_NAMESPACE`,
/// `PROBE_TIMEOUT`, `PROBE_FREQUENCY`, `MAX_IDLE_PROXY_CONNS_PER_HOST`, `CLUSTER_DOMAIN`, `CONFIG_OBSERVABILITY_NAME`,
/// `METRICS_PROMETHEUS_PORT`, `METRICS_PROMETHEUS_HOST`. Metrics are served as the ConfigMap asks for.
///
/// Beyond Knative's: `ACTIVATOR_BIND_IP`, the address to listen on (all by default), `AUTOSCALER_URL`, the autoscaler's
/// websocket, and `GATEWAY_PORT`, where it is a gateway for KIngresses of the load balancer's class too.
pub async fn run_from_env(
    client: kube::Client,
    dial: Arc<dyn Dial>,
    clock: Clock,
    cancel: CancellationToken,
) -> Result<(), RunError> {
    let var = |key: &str| std::env::var(key).ok();
    let mut env = Env::from_vars(var)?;
    if let Some(address) = metrics_address(&client, &env, var).await? {
        let registry = Registry::of_part();
        registry.register(Process);
        env.config.metrics = Some((address, registry));
    }
    info!(pod = env.config.pod_name, autoscaler = env.autoscaler, "activator starts");
    let root = CancellationToken::new();
    let _stop_all = root.clone().drop_guard();
    let sink = client::spawn(&env.autoscaler, dial, root.child_token())?;
    let bound = Activator::bind(env.config, Arc::new(sink), clock).await?;
    let routes = bound.gateway()?.map(|(gateway, services, _)| {
        let (client, cancel) = (client.clone(), root.child_token());
        tokio::spawn(feed::routes(client, gateway, services, cancel))
    });
    let feeding = tokio::spawn(feed::run(client, bound.backends(), bound.ports(), env.pod_ip, root.child_token()));
    bound.run(cancel).await;
    root.cancel();
    // It ends with the cancellation above and cannot fail.
    let _ = feeding.await;
    if let Some(routes) = routes {
        let _ = routes.await;
    }
    Ok(())
}

/// Where `config-observability` asks for metrics to be served; nowhere unless Prometheus is to scrape them, or where there
/// is no such map.
async fn metrics_address(
    client: &kube::Client,
    env: &Env,
    var: impl Fn(&str) -> Option<String>,
) -> Result<Option<SocketAddr>, RunError> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), &env.system_namespace);
    let Some(map) = maps.get_opt(&env.observability).await.map_err(Box::new)? else { return Ok(None) };
    let settings = Observability::parse(&map.data.unwrap_or_default(), Compat::IMPROVED)?;
    let Some(endpoint) = Endpoint::of(&settings.metrics, var)? else { return Ok(None) };
    let ip = match endpoint.host.as_str() {
        "" => env.config.ip,
        host => host.parse().map_err(|_| EndpointError::Address(endpoint.to_string()))?,
    };
    Ok(Some((ip, endpoint.port).into()))
}

/// Why an activator did not start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The environment is wrong.
    #[error(transparent)]
    Env(#[from] EnvError),
    /// `config-observability` cannot be read.
    #[error("config-observability cannot be read: {0}")]
    Read(#[from] Box<kube::Error>),
    /// `config-observability` says what cannot be.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Metrics cannot be served as `config-observability` and the environment ask for.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// `AUTOSCALER_URL` is no websocket address.
    #[error("AUTOSCALER_URL: {0}")]
    Url(#[from] client::UrlError),
    /// A port is taken, or may not be bound.
    #[error("cannot listen: {0}")]
    Listen(#[from] io::Error),
}

/// An environment that does not describe an activator.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum EnvError {
    /// A required variable is not set.
    #[error("{0} is not set; an activator needs it")]
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
}

#[derive(Debug)]
struct Env {
    config: Config,
    pod_ip: IpAddr,
    autoscaler: String,
    system_namespace: String,
    /// The name of the ConfigMap.
    observability: String,
}

impl Env {
    fn from_vars(var: impl Fn(&str) -> Option<String>) -> Result<Self, EnvError> {
        const IP: &str = "an IP address, such as 10.0.0.1";
        const LENGTH: &str = "a length of time above zero, such as 300ms";
        let set = |key: &'static str| var(key).filter(|value| !value.is_empty());
        let need = |key: &'static str| set(key).ok_or(EnvError::Missing(key));
        let ip = |key: &'static str, value: String| -> Result<IpAddr, EnvError> {
            value.parse().map_err(|_| EnvError::Invalid { key, value, accepted: IP })
        };
        let length = |key: &'static str, default: Duration| -> Result<Duration, EnvError> {
            let Some(value) = set(key) else { return Ok(default) };
            match crate::api::duration::parse(&value) {
                Ok(span) if span.nanos() > 0 => Ok(span.to_std()),
                _ => Err(EnvError::Invalid { key, value, accepted: LENGTH }),
            }
        };
        let mut config = Config::new(&need("POD_NAME")?, Ipv4Addr::UNSPECIFIED.into());
        let pod_ip = ip("POD_IP", need("POD_IP")?)?;
        if let Some(value) = set("ACTIVATOR_BIND_IP") {
            config.ip = ip("ACTIVATOR_BIND_IP", value)?;
        }
        if let Some(value) = set("MAX_IDLE_PROXY_CONNS_PER_HOST") {
            let key = "MAX_IDLE_PROXY_CONNS_PER_HOST";
            config.max_idle_per_pod =
                value.parse().map_err(|_| EnvError::Invalid { key, value, accepted: "a whole number, 0 or more" })?;
        }
        if let Some(value) = set("GATEWAY_PORT") {
            let key = "GATEWAY_PORT";
            let port = value.parse::<u16>().ok().filter(|port| *port > 0);
            let port = port.ok_or(EnvError::Invalid { key, value, accepted: "a port, 1 to 65535" })?;
            config.gateway = Some((port, CLASS.to_owned()));
        }
        let probe = ProbeSettings::default();
        config.probe = ProbeSettings {
            timeout: length("PROBE_TIMEOUT", probe.timeout)?,
            rest: length("PROBE_FREQUENCY", probe.rest)?,
        };
        if let Some(domain) = set("CLUSTER_DOMAIN") {
            config.cluster_domain = domain;
        }
        let autoscaler = match set("AUTOSCALER_URL") {
            Some(url) => url,
            None => format!("ws://autoscaler.{}.svc.{}:8080", need("SYSTEM_NAMESPACE")?, config.cluster_domain),
        };
        let system_namespace = set("SYSTEM_NAMESPACE").unwrap_or_else(|| names::SYSTEM_NAMESPACE.to_owned());
        let observability = set("CONFIG_OBSERVABILITY_NAME").unwrap_or_else(|| observability::NAME.to_owned());
        Ok(Self { config, pod_ip, autoscaler, system_namespace, observability })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_revision_is_in_the_headers_or_in_the_host() {
        type Pairs = &'static [(&'static str, &'static str)];
        let cases: [(Pairs, Option<&str>); 8] = [
            (&[("knative-serving-namespace", "ns"), ("knative-serving-revision", "rev")], Some("ns/rev")),
            (&[("knative-serving-revision", "rev"), ("host", "a.b.svc.cluster.local")], Some("b/a")),
            (&[("host", "rev.ns.svc.cluster.local")], Some("ns/rev")),
            (&[("host", "rev.ns.svc.cluster.local:80")], Some("ns/rev")),
            (&[("host", "rev.ns.svc.example.com")], None),
            (&[("host", "rev.ns.svc")], None),
            (&[("host", "hello.default.example.com")], None),
            (&[], None),
        ];
        for (pairs, want) in cases {
            let mut request = Request::new(());
            for (name, value) in pairs {
                request.headers_mut().insert(*name, HeaderValue::from_static(value));
            }
            let key = revision_of(&request, "cluster.local");
            assert_eq!(key.as_ref().map(RevisionKey::as_str), want, "{pairs:?}");
        }
        let h2 = Request::get("http://rev.ns.svc.cluster.local/x").body(()).expect("a request");
        assert_eq!(revision_of(&h2, "cluster.local").expect("a key").as_str(), "ns/rev");
    }

    #[test]
    fn the_environment_is_read_as_knative_writes_it() {
        let vars = |changes: &'static [(&'static str, &'static str)]| {
            move |key: &str| {
                [("POD_NAME", "activator-1"), ("POD_IP", "10.0.0.9"), ("SYSTEM_NAMESPACE", "knative-serving")]
                    .iter()
                    .chain(changes)
                    .rev()
                    .find(|(name, _)| *name == key)
                    .map(|(_, value)| (*value).to_owned())
            }
        };
        let env = Env::from_vars(vars(&[("PROBE_TIMEOUT", "1s")])).expect("an environment");
        assert_eq!(env.autoscaler, "ws://autoscaler.knative-serving.svc.cluster.local:8080");
        assert_eq!((env.config.http1_port, env.config.h2c_port), (8012, 8013));
        assert_eq!(env.config.probe.timeout, Duration::from_secs(1));
        assert_eq!(env.config.gateway, None);
        let env = Env::from_vars(vars(&[("GATEWAY_PORT", "8081")])).expect("an environment");
        assert_eq!(env.config.gateway, Some((8081, CLASS.to_owned())));
        let error = Env::from_vars(vars(&[("GATEWAY_PORT", "0")])).expect_err("no port").to_string();
        assert_eq!(error, "GATEWAY_PORT: \"0\" is not a port, 1 to 65535");
        let error = Env::from_vars(vars(&[("POD_IP", "here")])).expect_err("no address").to_string();
        assert_eq!(error, "POD_IP: \"here\" is not an IP address, such as 10.0.0.1");
        let error = Env::from_vars(vars(&[("PROBE_FREQUENCY", "0")])).expect_err("no length").to_string();
        assert_eq!(error, "PROBE_FREQUENCY: \"0\" is not a length of time above zero, such as 300ms");
    }
}
