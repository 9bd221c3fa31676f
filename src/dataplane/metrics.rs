//! What queue-proxy and activator show of the requests they pass on, under the names of Knative's own.
//!
//! A request is observed when it is over: when the last byte of its response, or of its websocket, has passed. Probes are
//! not requests.
//!
//! # Source
//!
//! Knative Serving since 1.19: `pkg/queue/request_metric.go`, `pkg/queue/sharedmain`, `pkg/activator`, and OpenTelemetry's
//! `otelhttp`, whose series of servers both of them have. Not shown are the sizes of bodies, and the requests of the
//! queue-proxy as a client of the user's process, which say the same as `kn_serving_invocation_duration_seconds`.
//!
//! # Decisions
//!
//! 2026-11: A request whose client went away before there was an answer counts as 499, as nginx has it. Knative counts it
//! as 502, which makes an impatient client look like a fault of the service.
//!
//! 2026-11: `kn_serving_queue_depth` is what it is when it is read. Knative's is what the last request found, so it never
//! returns to 0.

use crate::clock::Clock;
use crate::dataplane::headers;
use crate::dataplane::limit::Limit;
use crate::observe::metrics::knative::{SCOPE_LABELS, SECONDS};
use crate::observe::metrics::{Histogram, Page, RevisionLabels, Source};
use crate::units::RevisionKey;
use http::{Method, Request, StatusCode, Version};
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use tokio::time::Instant;

/// Kinds of request told apart by a queue-proxy. Hosts come from outside, so what is beyond it is counted together, in
/// one series with `otel_metric_overflow="true"`: the number and the way of OpenTelemetry.
pub const MOST_KINDS: usize = 2_000;

/// The scope of what any HTTP server shows.
const SERVER_SCOPE: &str = "go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp";
/// The scope of what only a queue-proxy shows.
const QUEUE_SCOPE: &str = "knative.dev/serving/pkg/queue";
/// What nginx calls a request that its client gave up.
const CLIENT_GONE: u16 = 499;

/// What requests are told apart by.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
struct Kind {
    revision: Option<Arc<RevisionLabels>>,
    method: &'static str,
    status: u16,
    version: &'static str,
    host: Box<str>,
    port: Option<u16>,
}

impl Kind {
    fn of<B>(request: &Request<B>, revision: Option<Arc<RevisionLabels>>) -> Self {
        let host = headers::host(request);
        let host = host.as_ref().and_then(|host| host.to_str().ok()).unwrap_or_default();
        let (host, port) = split(host);
        Self {
            revision,
            method: method(request.method()),
            status: CLIENT_GONE,
            version: version(request.version()),
            host: host.into(),
            port: port.filter(|port| *port != 80),
        }
    }
}

/// The methods that are shown by their name.
fn method(method: &Method) -> &'static str {
    const KNOWN: [&str; 9] = ["CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"];
    KNOWN.into_iter().find(|known| method.as_str().eq_ignore_ascii_case(known)).unwrap_or("_OTHER")
}

fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_2 => "2.0",
        Version::HTTP_10 => "1.0",
        _ => "1.1",
    }
}

/// Host and port of an authority; an address of IPv6 without its brackets.
fn split(authority: &str) -> (&str, Option<u16>) {
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port.parse().ok()),
        _ => (authority, None),
    };
    (host.trim_start_matches('[').trim_end_matches(']'), port)
}

/// How long requests took, by what they were. Cheap to clone; all clones are one.
#[derive(Clone)]
pub(crate) struct Requests {
    clock: Clock,
    table: Arc<Mutex<Table>>,
}

struct Table {
    most: usize,
    kinds: HashMap<Kind, Histogram>,
    /// What is beyond `most`; made with the first.
    overflow: Option<Histogram>,
    /// By status, how long the user's process took; only in a queue-proxy.
    invocations: Option<BTreeMap<u16, Histogram>>,
}

impl Requests {
    /// Those of a queue-proxy.
    pub(crate) fn of_queue_proxy(clock: Clock) -> Self {
        Self::new(clock, MOST_KINDS, Some(BTreeMap::new()))
    }

    /// Those of an activator, no more than `most` kinds of them.
    pub(crate) fn of_activator(clock: Clock, most: usize) -> Self {
        Self::new(clock, most, None)
    }

    fn new(clock: Clock, most: usize, invocations: Option<BTreeMap<u16, Histogram>>) -> Self {
        let table = Table { most, kinds: HashMap::new(), overflow: None, invocations };
        Self { clock, table: Arc::new(Mutex::new(table)) }
    }

    /// A request begins. It is over when the last clone of what is returned is dropped.
    pub(crate) fn begin<B>(&self, request: &Request<B>, revision: Option<Arc<RevisionLabels>>) -> Arc<Timing> {
        Arc::new(Timing {
            requests: self.clone(),
            kind: Kind::of(request, revision),
            began: self.now(),
            invoked: OnceLock::new(),
            status: AtomicU16::new(0),
        })
    }

    /// Forgets what a revision's requests were.
    pub(crate) fn forget(&self, key: &RevisionKey) {
        self.lock().kinds.retain(|kind, _| kind.revision.as_ref().is_none_or(|revision| revision.key != *key));
    }

    fn observe(&self, kind: &Kind, took: f64, invocation: Option<f64>) {
        let mut table = self.lock();
        if let (Some(invocations), Some(took)) = (&mut table.invocations, invocation) {
            invocations.entry(kind.status).or_insert_with(|| Histogram::new(SECONDS)).observe(took);
        }
        if let Some(histogram) = table.kinds.get(kind) {
            histogram.observe(took);
        } else if table.kinds.len() < table.most {
            table.kinds.entry(kind.clone()).or_insert_with(|| Histogram::new(SECONDS)).observe(took);
        } else {
            table.overflow.get_or_insert_with(|| Histogram::new(SECONDS)).observe(took);
        }
    }

    /// Now, by a clock that nobody sets.
    fn now(&self) -> Instant {
        self.clock.instant(self.clock.now())
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Requests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Requests").field("kinds", &self.lock().kinds.len()).finish_non_exhaustive()
    }
}

impl Source for Requests {
    fn show(&self, page: &mut Page<'_>) {
        let table = self.lock();
        let mut kinds: Vec<_> = table.kinds.iter().collect();
        kinds.sort_unstable_by_key(|(kind, _)| *kind);
        let each = kinds.into_iter().map(|(kind, histogram)| {
            let mut labels: Vec<(&str, String)> = vec![
                ("http_request_method", kind.method.to_owned()),
                ("http_response_status_code", kind.status.to_string()),
            ];
            if let Some(revision) = &kind.revision {
                labels.extend([
                    ("k8s_namespace_name", revision.key.namespace().to_owned()),
                    ("kn_configuration_name", revision.configuration.as_ref().to_owned()),
                    ("kn_revision_name", revision.key.name().to_owned()),
                    ("kn_service_name", revision.service.as_ref().to_owned()),
                ]);
            }
            labels.extend([
                ("network_protocol_name", "http".to_owned()),
                ("network_protocol_version", kind.version.to_owned()),
            ]);
            labels.extend(scope(SERVER_SCOPE));
            labels.push(("server_address", kind.host.as_ref().to_owned()));
            labels.extend(kind.port.map(|port| ("server_port", port.to_string())));
            labels.push(("url_scheme", "http".to_owned()));
            (labels, histogram)
        });
        let overflow = table.overflow.as_ref().map(|histogram| {
            let labels = std::iter::once(("otel_metric_overflow", "true".to_owned())).chain(scope(SERVER_SCOPE));
            (labels.collect(), histogram)
        });
        page.histograms_of(
            "http_server_request_duration_seconds",
            "How long requests took until the last byte of their response, waiting included.",
            each.chain(overflow),
        );
        if let Some(invocations) = &table.invocations {
            page.histograms_of(
                "kn_serving_invocation_duration_seconds",
                "How long the user's process took until the last byte of its response.",
                invocations.iter().map(|(status, histogram)| {
                    let status = ("http_response_status_code", status.to_string());
                    (std::iter::once(status).chain(scope(QUEUE_SCOPE)).collect(), histogram)
                }),
            );
        }
    }
}

fn scope(name: &str) -> [(&'static str, String); 3] {
    let [scope, schema, version] = SCOPE_LABELS;
    [(scope, name.to_owned()), (schema, String::new()), (version, String::new())]
}

/// A request under way.
#[derive(Debug)]
pub(crate) struct Timing {
    requests: Requests,
    kind: Kind,
    began: Instant,
    invoked: OnceLock<Instant>,
    /// 0 until there is an answer.
    status: AtomicU16,
}

impl Timing {
    /// It goes to the user's process now.
    pub(crate) fn invoked(&self) {
        // Sent again is the same invocation.
        let _ = self.invoked.set(self.requests.now());
    }

    /// It is answered so.
    pub(crate) fn answered(&self, status: StatusCode) {
        self.status.store(status.as_u16(), Ordering::Relaxed);
    }
}

impl Drop for Timing {
    fn drop(&mut self) {
        let now = self.requests.now();
        let took = |since: Instant| now.saturating_duration_since(since).as_secs_f64();
        let status = *self.status.get_mut();
        if status != 0 {
            self.kind.status = status;
        }
        let invocation = self.invoked.get().map(|invoked| took(*invoked));
        self.requests.observe(&self.kind, took(self.began), invocation);
    }
}

/// What a queue-proxy shows beside its requests: who it is, and its line.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) revision: RevisionLabels,
    pub(crate) pod: String,
    /// `None` when the container takes any number.
    pub(crate) limit: Option<Limit>,
}

impl Source for Identity {
    fn show(&self, page: &mut Page<'_>) {
        let Self { revision, pod, limit } = self;
        let version = env!("CARGO_PKG_VERSION");
        let (service, configuration) = (&*revision.service, &*revision.configuration);
        // What the process is called falls back as in the reference.
        let called = [service, configuration, revision.key.name()].into_iter().find(|name| !name.is_empty());
        page.gauges(
            "target_info",
            "What is scraped here. Always 1.",
            [
                "container_name",
                "k8s_namespace_name",
                "k8s_pod_name",
                "kn_configuration_name",
                "kn_revision_name",
                "kn_service_name",
                "service_instance_id",
                "service_name",
                "service_version",
                "telemetry_sdk_language",
                "telemetry_sdk_name",
                "telemetry_sdk_version",
            ],
            [(
                [
                    "queue-proxy",
                    revision.key.namespace(),
                    pod,
                    configuration,
                    revision.key.name(),
                    service,
                    pod,
                    called.unwrap_or(pod),
                    version,
                    "rust",
                    "ebb",
                    version,
                ],
                1_u64,
            )],
        );
        if let Some(limit) = limit {
            page.gauges(
                "kn_serving_queue_depth",
                "Requests at the user's process and in line for it.",
                SCOPE_LABELS,
                [([QUEUE_SCOPE, "", ""], (limit.in_flight() + limit.queued()) as u64)],
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::metrics::{Format, Registry};
    use std::time::Duration;

    fn lines(registry: &Registry, start: &str) -> Vec<String> {
        let text = registry.exposition(Format::Prometheus);
        text.lines().filter(|line| line.starts_with(start)).map(str::to_owned).collect()
    }

    fn request(host: &str) -> Request<()> {
        Request::get("/").header("host", host).body(()).expect("a request")
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_is_observed_when_it_is_over_as_what_it_became() {
        let requests = Requests::of_queue_proxy(Clock::system());
        let registry = Registry::of_part();
        registry.register(requests.clone());
        let timing = requests.begin(&request("hello.default.example.com:8080"), None);
        tokio::time::sleep(Duration::from_millis(250)).await;
        timing.invoked();
        tokio::time::sleep(Duration::from_millis(500)).await;
        timing.answered(StatusCode::OK);
        assert_eq!(lines(&registry, "http_server_request_duration_seconds_count"), [""; 0], "its body is under way");
        drop(timing);
        drop(requests.begin(&request("h"), None));
        assert_eq!(
            lines(&registry, "http_server_request_duration_seconds_sum"),
            [
                "http_server_request_duration_seconds_sum{http_request_method=\"GET\",http_response_status_code=\"200\",\
                 network_protocol_name=\"http\",network_protocol_version=\"1.1\",otel_scope_name=\"go.opentelemetry.io/contrib/\
                 instrumentation/net/http/otelhttp\",otel_scope_schema_url=\"\",otel_scope_version=\"\",\
                 server_address=\"hello.default.example.com\",server_port=\"8080\",url_scheme=\"http\"} 0.75",
                "http_server_request_duration_seconds_sum{http_request_method=\"GET\",http_response_status_code=\"499\",\
                 network_protocol_name=\"http\",network_protocol_version=\"1.1\",otel_scope_name=\"go.opentelemetry.io/contrib/\
                 instrumentation/net/http/otelhttp\",otel_scope_schema_url=\"\",otel_scope_version=\"\",\
                 server_address=\"h\",url_scheme=\"http\"} 0.0",
            ]
        );
        // One never came to the user's process.
        assert_eq!(
            lines(&registry, "kn_serving_invocation_duration_seconds_sum"),
            ["kn_serving_invocation_duration_seconds_sum{http_response_status_code=\"200\",otel_scope_name=\
              \"knative.dev/serving/pkg/queue\",otel_scope_schema_url=\"\",otel_scope_version=\"\"} 0.5"]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn hosts_beyond_the_bound_are_counted_together() {
        let requests = Requests::of_activator(Clock::system(), 3);
        let registry = Registry::of_part();
        registry.register(requests.clone());
        for n in 0..10 {
            drop(requests.begin(&request(&format!("host-{n}")), None));
        }
        let counts = lines(&registry, "http_server_request_duration_seconds_count");
        assert_eq!(counts.len(), 4, "{counts:?}");
        assert!(counts[3].contains("otel_metric_overflow=\"true\"") && counts[3].ends_with(" 7"), "{}", counts[3]);
    }

    #[tokio::test(start_paused = true)]
    async fn series_of_a_revision_leave_with_it() {
        let requests = Requests::of_activator(Clock::system(), 10);
        let registry = Registry::of_part();
        registry.register(requests.clone());
        for name in ["one-00001", "two-00001"] {
            let revision = RevisionLabels::of(&RevisionKey::new("default", name), None);
            drop(requests.begin(&request("h"), Some(Arc::new(revision))));
        }
        requests.forget(&RevisionKey::new("default", "one-00001"));
        let counts = lines(&registry, "http_server_request_duration_seconds_count");
        assert!(counts.len() == 1 && counts[0].contains("kn_revision_name=\"two-00001\""), "{counts:?}");
    }

    #[test]
    fn an_authority_is_a_host_and_perhaps_a_port() {
        for (authority, want) in [
            ("example.com", ("example.com", None)),
            ("example.com:81", ("example.com", Some(81))),
            ("[::1]:81", ("::1", Some(81))),
            ("[::1]", ("::1", None)),
            ("example.com:x", ("example.com", None)),
            ("", ("", None)),
        ] {
            assert_eq!(split(authority), want, "{authority}");
        }
    }
}
