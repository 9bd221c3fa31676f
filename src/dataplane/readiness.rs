//! Whether the user's process can take requests.
//!
//! The queue-proxy finds out by itself: many times a second while the process starts, so that a pod serves within
//! milliseconds of being able to, and again each time somebody asks afterwards. A readiness probe that sets no period is
//! Knative's own and is tried hard (short attempts, up to ten seconds per question); one with a period is the user's
//! and is tried once per question.

use crate::clock::Clock;
use crate::dataplane::body::{Outgoing, full, read_short};
use crate::dataplane::headers;
use crate::units::Timestamp;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, HeaderName, HeaderValue, TE, USER_AGENT};
use http::{HeaderMap, Method, Request, Version};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::{Mutex, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// How long one attempt of a probe without a period may take.
const ATTEMPT: Duration = Duration::from_millis(100);
/// How long it rests between attempts while the process starts. Knative rests 50 ms.
const REST: Duration = Duration::from_millis(20);
/// How long a question about a process that is not ready is held open before the answer is no.
const PATIENCE: Duration = Duration::from_secs(10);
/// The most of a probe's response that is read.
const MOST_RESPONSE: usize = 64 * 1024;
/// Who asks.
const AGENT: HeaderValue = HeaderValue::from_static("kube-probe/ebb");

/// One container's readiness probe.
#[derive(Clone, Debug, PartialEq)]
pub struct Probe {
    /// What is tried.
    pub check: Check,
    /// How long one attempt may take.
    pub timeout: Duration,
    /// `None`: try hard until it works. `Some`: the user's own period.
    pub period: Option<Duration>,
    /// How long after the start the first attempt is made; only with a period.
    pub initial_delay: Duration,
    /// Successes in a row that make it ready, at least 1.
    pub successes: u32,
}

/// What a probe tries.
#[derive(Clone, Debug, PartialEq)]
pub enum Check {
    /// A TCP connection can be made.
    Tcp(SocketAddr),
    /// GET answers with 200 to 399.
    Http {
        /// Where.
        addr: SocketAddr,
        /// The path, with its leading slash.
        path: String,
        /// Sent along.
        headers: HeaderMap,
        /// Try HTTP/2 first, known beforehand.
        try_h2c: bool,
    },
    /// The gRPC health service answers `SERVING`.
    Grpc {
        /// Where.
        addr: SocketAddr,
        /// The service asked about; empty is the whole server.
        service: String,
    },
}

/// A probe that is not understood.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ProbeError {
    /// Not JSON of a Kubernetes probe.
    #[error("not a Kubernetes probe in JSON: {0}")]
    Json(String),
    /// None of httpGet, tcpSocket, grpc.
    #[error(
        "a probe needs httpGet, tcpSocket or grpc; exec cannot be run from here, give the container a tcpSocket probe"
    )]
    Kind,
    /// A port by name.
    #[error("port {0:?} is a name; give its number")]
    Port(String),
    /// TLS.
    #[error("scheme {0:?} is not served; use HTTP")]
    Scheme(String),
    /// A host that is a name.
    #[error("host {0:?} is not an IP address; leave it out to probe the container")]
    Host(String),
    /// A header that cannot be sent.
    #[error("header {0:?} cannot be sent")]
    Header(String),
}

impl Probe {
    /// A TCP probe of `addr`, tried hard: what Knative gives a container without a probe.
    pub fn tcp(addr: SocketAddr) -> Self {
        Self { check: Check::Tcp(addr), timeout: ATTEMPT, period: None, initial_delay: Duration::ZERO, successes: 1 }
    }

    /// The probes in `SERVING_READINESS_PROBE`: one, or a list of one per container. A probe without a host goes to
    /// `user`; `try_h2c` is `ENABLE_HTTP2_AUTO_DETECTION`.
    pub fn parse(json: &str, user: SocketAddr, try_h2c: bool) -> Result<Vec<Self>, ProbeError> {
        #[derive(serde::Deserialize)]
        #[serde(untagged)]
        enum OneOrMany {
            Many(Vec<core::Probe>),
            One(Box<core::Probe>),
        }
        let probes = match serde_json::from_str(json).map_err(|error| ProbeError::Json(error.to_string()))? {
            OneOrMany::Many(probes) => probes,
            OneOrMany::One(probe) => vec![*probe],
        };
        probes.iter().map(|probe| Self::from_kubernetes(probe, user, try_h2c)).collect()
    }

    /// The probe as Kubernetes writes it.
    pub fn from_kubernetes(probe: &core::Probe, user: SocketAddr, try_h2c: bool) -> Result<Self, ProbeError> {
        let at = |host: Option<&String>, port: &IntOrString| -> Result<SocketAddr, ProbeError> {
            let ip = match host.map(String::as_str) {
                None | Some("" | "localhost" | "127.0.0.1") => user.ip(),
                Some(host) => host.parse().map_err(|_| ProbeError::Host(host.to_owned()))?,
            };
            Ok(SocketAddr::new(ip, number(port, user.port())?))
        };
        let check = if let Some(http) = &probe.http_get {
            let scheme = http.scheme.as_deref().unwrap_or("HTTP");
            if !scheme.is_empty() && !scheme.eq_ignore_ascii_case("http") {
                return Err(ProbeError::Scheme(scheme.to_owned()));
            }
            let mut sent = HeaderMap::new();
            for header in http.http_headers.iter().flatten() {
                let bad = || ProbeError::Header(header.name.clone());
                let name: HeaderName = header.name.parse().map_err(|_| bad())?;
                sent.append(name, header.value.parse().map_err(|_| bad())?);
            }
            let path = http.path.as_deref().unwrap_or("/").trim_start_matches('/');
            Check::Http { addr: at(http.host.as_ref(), &http.port)?, path: format!("/{path}"), headers: sent, try_h2c }
        } else if let Some(tcp) = &probe.tcp_socket {
            Check::Tcp(at(tcp.host.as_ref(), &tcp.port)?)
        } else if let Some(grpc) = &probe.grpc {
            let addr = at(None, &IntOrString::Int(grpc.port))?;
            Check::Grpc { addr, service: grpc.service.clone().unwrap_or_default() }
        } else {
            return Err(ProbeError::Kind);
        };
        let seconds = |value: Option<i32>| Duration::from_secs(u64::try_from(value.unwrap_or(0)).unwrap_or(0));
        let period = Some(seconds(probe.period_seconds)).filter(|period| !period.is_zero());
        Ok(Self {
            check,
            timeout: if period.is_some() {
                seconds(probe.timeout_seconds).max(Duration::from_secs(1))
            } else {
                ATTEMPT
            },
            period,
            initial_delay: if period.is_some() { seconds(probe.initial_delay_seconds) } else { Duration::ZERO },
            successes: u32::try_from(probe.success_threshold.unwrap_or(1)).unwrap_or(1).max(1),
        })
    }

    async fn works(&self) -> bool {
        timeout(self.timeout, attempt(&self.check)).await.unwrap_or(false)
    }

    /// Tries until it worked often enough in a row.
    async fn succeed(&self) {
        let mut in_a_row = 0;
        loop {
            in_a_row = if self.works().await { in_a_row + 1 } else { 0 };
            if in_a_row >= self.successes {
                return;
            }
            sleep(self.period.unwrap_or(REST)).await;
        }
    }
}

fn number(port: &IntOrString, default: u16) -> Result<u16, ProbeError> {
    match port {
        // Knative writes 0 for the port requests go to.
        IntOrString::Int(0) => Ok(default),
        IntOrString::Int(port) => u16::try_from(*port).map_err(|_| ProbeError::Port(port.to_string())),
        IntOrString::String(name) => name.parse().map_err(|_| ProbeError::Port(name.clone())),
    }
}

/// The readiness of a pod, as a value to watch and a question to ask. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Readiness {
    clock: Clock,
    probes: Arc<[Probe]>,
    ready: Arc<watch::Sender<bool>>,
    closed: Arc<AtomicBool>,
    /// When the answer at hand was begun to be found; held while finding out, so that many who ask share one attempt.
    asking: Arc<Mutex<Option<Timestamp>>>,
}

impl Readiness {
    /// Not ready, unless there is nothing to probe.
    pub fn new(clock: Clock, probes: Vec<Probe>) -> Self {
        let ready = probes.is_empty();
        Self {
            clock,
            probes: probes.into(),
            ready: Arc::new(watch::Sender::new(ready)),
            closed: Arc::default(),
            asking: Arc::default(),
        }
    }

    /// The latest known state.
    pub fn watch(&self) -> watch::Receiver<bool> {
        self.ready.subscribe()
    }

    /// Never ready again.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.ready.send_replace(false);
    }

    /// Probes whenever the process is not ready, until `cancel`.
    pub async fn run(&self, cancel: CancellationToken) {
        let mut ready = self.watch();
        let probing = async {
            let delay = self.probes.iter().map(|probe| probe.initial_delay).max().unwrap_or_default();
            sleep(delay).await;
            while ready.wait_for(|ready| !ready).await.is_ok() && !self.closed.load(Ordering::Acquire) {
                futures::future::join_all(self.probes.iter().map(Probe::succeed)).await;
                self.set(true);
            }
        };
        tokio::select! {
            () = probing => {}
            () = cancel.cancelled() => {}
        }
    }

    /// Whether the process can take requests now. Asks it; while it starts the question is held open, and answered the
    /// moment it is ready.
    pub async fn ask(&self) -> bool {
        let hard = self.probes.iter().all(|probe| probe.period.is_none());
        // Knative's own probe of a process that starts is under way already; see `run`.
        if !hard || *self.ready.borrow() {
            let asked = self.clock.now();
            let mut begun = self.asking.lock().await;
            if begun.is_none_or(|begun| begun < asked) {
                *begun = Some(self.clock.now());
                let all = futures::future::join_all(self.probes.iter().map(Probe::works)).await;
                let works = all.into_iter().all(|works| works);
                // One success is not enough for a probe that wants several in a row; those are counted by `run`.
                if !works || self.probes.iter().all(|probe| probe.successes == 1) {
                    self.set(works);
                }
            }
        }
        let patience = if hard && !self.closed.load(Ordering::Acquire) { PATIENCE } else { Duration::ZERO };
        let mut ready = self.watch();
        let ready = timeout(patience, ready.wait_for(|ready| *ready)).await.is_ok_and(|seen| seen.is_ok());
        ready && !self.closed.load(Ordering::Acquire)
    }

    fn set(&self, ready: bool) {
        let ready = ready && !self.closed.load(Ordering::Acquire);
        self.ready.send_if_modified(|now| std::mem::replace(now, ready) != ready);
        // `close` may have come in between.
        if self.closed.load(Ordering::Acquire) {
            self.ready.send_if_modified(|now| std::mem::replace(now, false));
        }
    }
}

async fn attempt(check: &Check) -> bool {
    match check {
        Check::Tcp(addr) => TcpStream::connect(addr).await.is_ok(),
        Check::Http { addr, path, headers, try_h2c } => {
            let good = |status: Option<u16>| status.is_some_and(|status| (200..400).contains(&status));
            if *try_h2c && good(get(*addr, path, headers, true).await) {
                return true;
            }
            good(get(*addr, path, headers, false).await)
        }
        Check::Grpc { addr, service } => grpc(*addr, service).await.unwrap_or(false),
    }
}

/// The status of a GET over a connection of its own.
async fn get(addr: SocketAddr, path: &str, extra: &HeaderMap, h2c: bool) -> Option<u16> {
    let mut request = Request::new(Outgoing::Nothing);
    *request.headers_mut() = extra.clone();
    let sent = request.headers_mut();
    sent.entry(USER_AGENT).or_insert(AGENT);
    if !sent.contains_key(HOST) {
        headers::set_host(sent, HeaderValue::from_str(&addr.to_string()).ok()?);
    }
    if h2c {
        let host = request.headers_mut().remove(HOST)?;
        *request.uri_mut() = format!("http://{}{path}", host.to_str().ok()?).parse().ok()?;
        *request.version_mut() = Version::HTTP_2;
        let mut sender = h2c_connection(addr).await?;
        return Some(sender.send_request(request).await.ok()?.status().as_u16());
    }
    *request.uri_mut() = path.parse().ok()?;
    let stream = TcpStream::connect(addr).await.ok()?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
    let answering = async { Some(sender.send_request(request).await.ok()?.status().as_u16()) };
    tokio::select! {
        status = answering => status,
        _ = connection => None,
    }
}

async fn h2c_connection(addr: SocketAddr) -> Option<http2::SendRequest<Outgoing>> {
    let stream = TcpStream::connect(addr).await.ok()?;
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.ok()?;
    // It ends when the sender is dropped.
    tokio::spawn(connection);
    Some(sender)
}

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// `grpc.health.v1.HealthCheckResponse.ServingStatus.SERVING`.
const SERVING: i32 = 1;

async fn grpc(addr: SocketAddr, service: &str) -> Option<bool> {
    use prost::Message as _;
    let message = HealthCheckRequest { service: service.to_owned() }.encode_to_vec();
    // A gRPC frame: not compressed, then the length in four bytes.
    let mut frame = vec![0];
    frame.extend_from_slice(&u32::try_from(message.len()).ok()?.to_be_bytes());
    frame.extend_from_slice(&message);
    let request = Request::builder()
        .method(Method::POST)
        .version(Version::HTTP_2)
        .uri(format!("http://{addr}/grpc.health.v1.Health/Check"))
        .header(CONTENT_TYPE, "application/grpc")
        .header(TE, "trailers")
        .header(USER_AGENT, AGENT)
        .body(Outgoing::new(full(Bytes::from(frame))))
        .ok()?;
    let response = h2c_connection(addr).await?.send_request(request).await.ok()?;
    let body = read_short(response.into_body(), MOST_RESPONSE).await?;
    let answer = HealthCheckResponse::decode(body.get(5..)?).ok()?;
    Some(answer.status == SERVING)
}

#[cfg(test)]
mod tests {
    use super::*;

    const USER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(127, 1, 2, 3)), 8080);

    #[test]
    fn probes_are_read_as_kubernetes_writes_them() {
        let one = Probe::parse(r#"{"tcpSocket":{"host":"127.0.0.1","port":8080},"successThreshold":1}"#, USER, false);
        assert_eq!(one, Ok(vec![Probe::tcp(USER)]));
        let probes = Probe::parse(
            r#"[{"httpGet":{"path":"healthz","port":0,"scheme":"HTTP","httpHeaders":[{"name":"X-A","value":"b"}]},
                 "periodSeconds":5,"timeoutSeconds":2,"initialDelaySeconds":3,"successThreshold":2},
                {"grpc":{"port":9000,"service":"me"}}]"#,
            USER,
            true,
        )
        .expect("two probes");
        let mut headers = HeaderMap::new();
        headers.insert("x-a", HeaderValue::from_static("b"));
        assert_eq!(
            probes,
            [
                Probe {
                    check: Check::Http { addr: USER, path: "/healthz".to_owned(), headers, try_h2c: true },
                    timeout: Duration::from_secs(2),
                    period: Some(Duration::from_secs(5)),
                    initial_delay: Duration::from_secs(3),
                    successes: 2,
                },
                Probe {
                    check: Check::Grpc { addr: SocketAddr::new(USER.ip(), 9000), service: "me".to_owned() },
                    ..Probe::tcp(USER)
                },
            ]
        );
    }

    #[test]
    fn a_probe_that_is_not_understood_says_why() {
        for (json, want) in [
            (r#"{"exec":{"command":["true"]}}"#, ProbeError::Kind),
            (r#"{"tcpSocket":{"port":"web"}}"#, ProbeError::Port("web".to_owned())),
            (r#"{"httpGet":{"port":1,"scheme":"HTTPS"}}"#, ProbeError::Scheme("HTTPS".to_owned())),
            (r#"{"tcpSocket":{"port":1,"host":"db"}}"#, ProbeError::Host("db".to_owned())),
        ] {
            assert_eq!(Probe::parse(json, USER, false), Err(want), "{json}");
        }
        assert!(matches!(Probe::parse("{", USER, false), Err(ProbeError::Json(_))));
    }
}
