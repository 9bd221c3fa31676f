//! What Prometheus reads, over real sockets: every series from the start, in a form other programs understand.
//!
//! `EBB_WRITE_EXPECTED=1 cargo test --test it metrics` writes `tests/expected/metrics/` and `docs/metrics.md` anew.

use crate::apiserver::Served;
use crate::dashboards::tools;
use crate::dataplane::{App, LOCALHOST, Pod, until};
use bytes::Bytes;
use ebb::api::pod_autoscaler::PodAutoscaler;
use ebb::api::serverless_service::ServerlessService;
use ebb::app::shadow::{self, ShadowAutoscaler};
use ebb::app::{Autoscaler, Listen, Options, Show};
use ebb::clock::Clock;
use ebb::config::observability::MetricsProtocol;
use ebb::controllers::settings::{self, Maps};
use ebb::dataplane::activator::load::StatSink;
use ebb::dataplane::activator::throttle::Revision;
use ebb::dataplane::activator::{self, Activator};
use ebb::k8s::dial::SystemDial;
use ebb::observe::journal::{Journal, Options as JournalOptions};
use ebb::observe::metrics::server;
use ebb::observe::metrics::{Format, Registry, RevisionLabels};
use ebb::ownership::Choice;
use ebb::ownership::class::Classes;
use ebb::routing::gate::Timers;
use ebb::routing::keeper::Keeper;
use ebb::routing::probe::SystemVips;
use ebb::units::{Compat, RevisionKey, Span};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// What an autoscaler shows, in both formats; with two revisions, or with none.
async fn autoscaler(show: Show, with_revisions: bool) -> (String, String) {
    let served = Served::start().await;
    furnish(&served.client()).await;
    if with_revisions {
        for (name, annotations) in [("demo", json!({})), ("demo-rps", json!({"autoscaling.knative.dev/metric": "rps"}))]
        {
            scaled(&served.client(), name, annotations).await;
        }
    }
    let free = async || TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let metrics = free().await;
    let address = metrics.local_addr().expect("a bound listener");
    let (maps, compat) = (Maps::default(), Compat::IMPROVED);
    let start = settings::read(&served.client(), &maps, compat).await.expect("settings");
    assert_eq!(start.process.observability.metrics.protocol, MetricsProtocol::Prometheus);
    let options = Options {
        client: served.client(),
        clock: Clock::system(),
        compat,
        classes: Classes::default(),
        maps,
        start,
        dial: Arc::new(SystemDial),
        cluster_domain: "cluster.local".to_owned(),
        ownership: Choice::Single,
        stats: Listen::Now(free().await),
        admin: free().await,
        metrics: Some(metrics),
        show,
        gates: Some(Keeper::new(Clock::system(), Timers::default(), Arc::new(SystemVips))),
    };
    let autoscaler = Autoscaler::start(options, CancellationToken::new()).await.expect("an autoscaler");
    let get = async |accept: &str| {
        let request = reqwest::Client::new().get(format!("http://{address}/metrics")).header("Accept", accept);
        let response = request.send().await.expect("an answer");
        assert_eq!(response.status(), 200);
        let kind = response.headers()["content-type"].to_str().expect("text").to_owned();
        (kind, response.text().await.expect("a body"))
    };
    if with_revisions {
        let until = Clock::system().now() + Span::from_seconds(60);
        loop {
            let (_, text) = get("*/*").await;
            let count = |name: &str| text.lines().filter(|line| line.starts_with(name)).count();
            if count("kn_revision_pods_count{") == 2 && count("kn_autoscaler_scrape_duration_seconds_count{") == 2 {
                break;
            }
            assert!(Clock::system().now() < until, "no series of the revisions: {text}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    let (kind, classic) = get("*/*").await;
    assert_eq!(kind, "text/plain; version=0.0.4; charset=utf-8");
    let (kind, open) = get("application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3").await;
    assert_eq!(kind, "application/openmetrics-text; version=1.0.0; charset=utf-8");
    autoscaler.stop().await;
    (classic, open)
}

/// The PodAutoscaler of a revision, and the ServerlessService it needs as Knative's controller would leave it.
async fn scaled(client: &kube::Client, service: &str, mut annotations: Value) {
    let name = format!("{service}-00001");
    annotations["autoscaling.knative.dev/class"] = json!("kpa.autoscaling.knative.dev");
    let labels = json!({
        "serving.knative.dev/configuration": service,
        "serving.knative.dev/revision": &name,
        "serving.knative.dev/service": service,
    });
    let target = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": format!("{name}-deployment")});
    let pa: PodAutoscaler = serde_json::from_value(json!({
        "apiVersion": "autoscaling.internal.knative.dev/v1alpha1",
        "kind": "PodAutoscaler",
        "metadata": {"name": name, "namespace": "default", "labels": labels, "annotations": annotations},
        "spec": {"scaleTargetRef": &target, "protocolType": "http1", "reachability": "Reachable"},
    }))
    .expect("a PodAutoscaler");
    let api: Api<PodAutoscaler> = Api::namespaced(client.clone(), "default");
    let uid = api.create(&PostParams::default(), &pa).await.expect("created").metadata.uid.expect("a uid");
    let sks: ServerlessService = serde_json::from_value(json!({
        "apiVersion": "networking.internal.knative.dev/v1alpha1",
        "kind": "ServerlessService",
        "metadata": {"name": name, "namespace": "default", "ownerReferences": [{
            "apiVersion": "autoscaling.internal.knative.dev/v1alpha1", "kind": "PodAutoscaler", "name": name, "uid": uid,
            "controller": true, "blockOwnerDeletion": true,
        }]},
        "spec": {"mode": "Proxy", "objectRef": &target, "protocolType": "http1", "numActivators": 2},
    }))
    .expect("a ServerlessService");
    let api: Api<ServerlessService> = Api::namespaced(client.clone(), "default");
    api.create(&PostParams::default(), &sks).await.expect("created");
    let status = json!({"status": {"serviceName": name, "privateServiceName": format!("{name}-private")}});
    api.patch_status(&name, &PatchParams::default(), &Patch::Merge(status)).await.expect("patched");
}

/// What a shadow shows that knows no revision.
async fn shadow() -> String {
    let served = Served::start().await;
    furnish(&served.client()).await;
    let (maps, compat) = (Maps::default(), Compat::IMPROVED);
    let options = shadow::Options {
        client: served.client(),
        clock: Clock::system(),
        compat,
        dial: Arc::new(SystemDial),
        start: settings::read(&served.client(), &maps, compat).await.expect("settings"),
        maps,
        admin: TcpListener::bind("127.0.0.1:0").await.expect("a free port"),
        metrics: None,
        journal: None,
    };
    let shadow = ShadowAutoscaler::start(options, CancellationToken::new()).await;
    let text = shadow.metrics().exposition(Format::Prometheus);
    shadow.stop().await;
    text
}

/// Nobody hears what an activator tells.
struct Nobody;

impl StatSink for Nobody {
    fn send(&self, _: Bytes) -> bool {
        false
    }

    fn is_connected(&self) -> bool {
        false
    }
}

/// What a queue-proxy and the activator before it show after a request has passed both.
async fn data_path() -> [String; 2] {
    let [at_pod, at_activator] = [(); 2].map(|()| Registry::of_part());
    let app = App::echo().await;
    let pod = Pod::start(app.addr, |config| {
        config.container_concurrency = 1;
        (config.service, config.configuration) = ("hello".to_owned(), "hello".to_owned());
        config.metrics = Some(((LOCALHOST, 0).into(), at_pod.clone()));
    })
    .await;
    let mut config = activator::Config::new("activator-1", LOCALHOST);
    (config.http1_port, config.h2c_port, config.drain_period) = (0, 0, Duration::ZERO);
    config.metrics = Some(((LOCALHOST, 0).into(), at_activator.clone()));
    let activator = Activator::bind(config, Arc::new(Nobody), Clock::system()).await.expect("free ports");
    let (address, _) = activator.addrs().expect("addresses");
    let key = RevisionKey::new("default", "hello-00001");
    let labels = ["configuration", "service"].map(|of| (format!("serving.knative.dev/{of}"), "hello".to_owned()));
    activator.backends().set_labels(RevisionLabels::of(&key, Some(&labels.into())));
    activator.backends().set_revision(&key, Revision::default());
    activator.backends().set_pods(&key, &[(pod.http1(), true)]);
    let cancel = CancellationToken::new();
    let running = tokio::spawn(activator.run(cancel.clone()));
    let request = reqwest::Client::new()
        .get(format!("http://{address}/"))
        .header("Host", "hello.default.example.com")
        .header("Knative-Serving-Namespace", "default")
        .header("Knative-Serving-Revision", "hello-00001");
    assert_eq!(request.send().await.expect("an answer").status(), 200);
    for registry in [&at_pod, &at_activator] {
        let shown = || registry.exposition(Format::Prometheus);
        until("the request to be over", async || {
            shown().contains("http_server_request_duration_seconds_count").then_some(())
        })
        .await;
    }
    cancel.cancel();
    running.await.expect("no panic");
    [at_pod, at_activator].map(|registry| registry.exposition(Format::Prometheus))
}

/// The ConfigMaps without which no autoscaler starts.
pub(crate) async fn furnish(client: &kube::Client) {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "knative-serving");
    for (name, data) in [
        ("config-autoscaler", json!({})),
        ("config-deployment", json!({"queue-sidecar-image": "ebb.local/queue-proxy"})),
        ("config-logging", json!({})),
        ("config-network", json!({})),
        ("config-observability", json!({"metrics-protocol": "prometheus"})),
    ] {
        let map = serde_json::from_value(json!({"metadata": {"name": name}, "data": data})).expect("a ConfigMap");
        maps.create(&PostParams::default(), &map).await.expect("created");
    }
}

/// Families of which there is a series for whatever was asked of the API server so far.
const BY_REQUEST: [&str; 2] = ["http_client_request_duration_seconds", "kn_k8s_client_http_response_status_code"];

/// The same text with `_` for every value, and for what differs between machines, versions and runs.
fn without_values(text: &str) -> String {
    let mut out = String::new();
    for line in text.lines().filter(|line| !BY_REQUEST.iter().any(|name| line.starts_with(name))) {
        match line.rsplit_once(' ') {
            Some((series, _)) if !line.starts_with('#') => {
                let series = series.replace(env!("CARGO_PKG_VERSION"), "_");
                writeln!(out, "{series} _").expect("writing to a string");
            }
            _ => writeln!(out, "{line}").expect("writing to a string"),
        }
    }
    out
}

/// Compares with a file under the repository's root, or writes it when asked to.
fn compare(file: &str, text: &str) {
    let path = crate::root().join(file);
    if std::env::var_os("EBB_WRITE_EXPECTED").is_some() {
        std::fs::create_dir_all(path.parent().expect("a directory")).expect("made");
        std::fs::write(&path, text).expect("written");
        return;
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    let differing = text.lines().zip(expected.lines()).find(|(ours, theirs)| ours != theirs);
    assert!(
        text == expected,
        "{file} is not what the program shows; first difference (shown, file): {differing:?}. If it is meant to, run \
         EBB_WRITE_EXPECTED=1 cargo test --test it metrics, and look at the change."
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_series_of_an_autoscaler_is_there_from_the_start() {
    let (classic, open) = autoscaler(Show::default(), false).await;
    let shadow = shadow().await;
    let directory = tempfile::tempdir().expect("a directory");
    let journal = JournalOptions::new(directory.path().to_owned(), Compat::IMPROVED);
    let journal = Journal::open(journal, Clock::system()).expect("a journal");
    let of_pod =
        Show { older_metrics: true, pod: "autoscaler-0".to_owned(), journal: Some(journal), ..Show::default() };
    let (revisions, _) = autoscaler(of_pod, true).await;
    as_recorded(&revisions);
    compare("tests/expected/metrics/revisions.txt", &without_values(&as_knative(&revisions)));
    compare("tests/expected/metrics/autoscaler.txt", &without_values(&classic));
    compare("tests/expected/metrics/shadow.txt", &without_values(&shadow));
    let [queue_proxy, activator] = data_path().await;
    compare("tests/expected/metrics/queue-proxy.txt", &without_values(&queue_proxy));
    compare("tests/expected/metrics/activator.txt", &without_values(&activator));
    compare("docs/metrics.md", &table(&[&classic, &shadow, &revisions, &queue_proxy, &activator]));
    lint(&only_ours(&shadow));

    // Each family once, all of its samples together, and understood by another's parser.
    let families: Vec<&str> = classic.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    let mut unique = families.clone();
    unique.sort_unstable();
    unique.dedup();
    assert_eq!(families.len(), unique.len(), "a family is shown twice: {families:?}");
    let scrape = prometheus_parse::Scrape::parse(classic.lines().map(|line| Ok(line.to_owned()))).expect("parsed");
    for sample in &scrape.samples {
        assert!(scrape.docs.keys().any(|family| sample.metric.starts_with(family)), "{} has no help", sample.metric);
    }
    let value = |name: &str| scrape.samples.iter().find(|sample| sample.metric == name).map(|sample| &sample.value);
    assert_eq!(value("ebb_stats_received_total"), Some(&prometheus_parse::Value::Counter(0.0)));
    assert!(
        matches!(value("ebb_scrape_duration_seconds"), Some(prometheus_parse::Value::Histogram(buckets)) if buckets.len() == 15)
    );

    // The other format says the same, and where it ends.
    assert!(open.ends_with("\n# EOF\n"));
    let series = |text: &str| without_values(text).lines().filter(|line| !line.starts_with('#')).count();
    assert_eq!(series(&open), series(&classic));
    lint(&only_ours(&classic));
}

/// Whether a family is of our own naming, and so held to Prometheus' conventions.
fn is_ours(family: &str) -> bool {
    family.starts_with("ebb_") || family.starts_with("process_")
}

/// The lines of an exposition whose family is chosen.
fn families(exposition: &str, keep: impl Fn(&str) -> bool) -> String {
    let name = |line: &str| {
        let rest = line.strip_prefix("# HELP ").or_else(|| line.strip_prefix("# TYPE ")).unwrap_or(line);
        rest.split([' ', '{']).next().unwrap_or_default().to_owned()
    };
    let lines = exposition.lines().filter(|line| keep(&name(line)));
    lines.fold(String::new(), |text, line| text + line + "\n")
}

fn only_ours(exposition: &str) -> String {
    families(exposition, is_ours)
}

/// What is shown by the reference's names.
fn as_knative(exposition: &str) -> String {
    families(exposition, |family| !is_ours(family))
}

/// A family as another program sees it: its type, its labels, the bounds of its buckets.
#[derive(Debug, Default, PartialEq)]
struct Family {
    kind: String,
    labels: BTreeSet<String>,
    bounds: BTreeSet<String>,
}

fn read_families(exposition: &str) -> BTreeMap<String, Family> {
    let mut all: BTreeMap<String, Family> = BTreeMap::new();
    for line in exposition.lines() {
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            kind.clone_into(&mut all.entry(name.to_owned()).or_default().kind);
        }
        let Some((name, rest)) = line.split_once('{').filter(|_| !line.starts_with('#')) else { continue };
        let family = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|end| all.contains_key(name.strip_suffix(end)?).then(|| name.strip_suffix(end))?);
        let Some(family) = all.get_mut(family.unwrap_or(name)) else { continue };
        let Some((labels, _)) = rest.rsplit_once('}') else { continue };
        for (label, value) in labels.split("\",").filter_map(|pair| pair.split_once('=')) {
            if label == "le" {
                family.bounds.insert(value.trim_matches('"').to_owned());
            } else {
                family.labels.insert(label.to_owned());
            }
        }
    }
    all
}

/// Whether everything a real Knative autoscaler showed is there, as it was: names, types, labels, bounds. The recording
/// has no more of the Go runtime than is shown here.
fn as_recorded(exposition: &str) {
    let ours = read_families(exposition);
    // What the operating system has to say, where it does.
    let of_system = |name: &str| name.starts_with("process_") || name.starts_with("go_mem");
    let is_told = std::path::Path::new("/proc/self/stat").exists();
    for file in ["exposition-under-load.txt.gz", "exposition-rps.txt.gz"] {
        let packed =
            std::fs::read(crate::root().join("tests/golden/cluster").join(file)).expect("a recorded exposition");
        let mut recorded = String::new();
        flate2::read::GzDecoder::new(packed.as_slice()).read_to_string(&mut recorded).expect("text");
        for (name, theirs) in read_families(&recorded) {
            if is_told || !of_system(&name) {
                assert_eq!(ours.get(&name), Some(&theirs), "{name}, in {file}");
            }
        }
    }
}

/// The table of `docs/metrics.md`.
fn table(expositions: &[&str]) -> String {
    let mut text = String::from(
        "# Metrics\n\n`GET /metrics` answers on port 9090 when `config-observability` has `metrics-protocol: prometheus`, and on the admin\n\
         port always. A test compares these tables with what the program shows; CONTRIBUTING.md says how they are written\n\
         anew.\n",
    );
    let mut families: BTreeMap<&str, (&str, &str, Vec<&str>)> = BTreeMap::new();
    for line in expositions.iter().flat_map(|exposition| exposition.lines()) {
        let split = |rest: &'static str| line.strip_prefix(rest).and_then(|rest| rest.split_once(' '));
        if let Some((name, help)) = split("# HELP ") {
            families.entry(name).or_default().1 = help;
        } else if let Some((name, kind)) = split("# TYPE ") {
            families.entry(name).or_default().0 = kind;
        } else if let Some((name, rest)) = line.split_once('{') {
            let histogram = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
            let histogram = histogram.filter(|family| families.contains_key(family));
            let Some((labels, _)) = rest.rsplit_once('}') else { continue };
            let Some(family) = families.get_mut(histogram.unwrap_or(name)) else { continue };
            for label in labels.split("\",").filter_map(|pair| pair.split_once('=')).map(|(label, _)| label) {
                if label != "le" && !family.2.contains(&label) {
                    family.2.push(label);
                }
            }
        }
    }
    for (title, about, of) in SECTIONS {
        write!(text, "\n## {title}\n\n{about}\n\n| name | type | labels | meaning |\n|---|---|---|---|\n")
            .expect("writing to a string");
        for (name, (kind, help, labels)) in &families {
            if SECTIONS.iter().find(|(_, _, of)| of.iter().any(|start| name.starts_with(start))).map(|it| it.2)
                != Some(of)
            {
                continue;
            }
            let labels = labels.iter().filter(|label| !label.starts_with("otel_scope_"));
            let labels: Vec<_> = labels.map(|label| format!("`{label}`")).collect();
            writeln!(text, "| `{name}` | {kind} | {} | {help} |", labels.join(", ")).expect("writing to a string");
        }
    }
    text
}

/// The parts of the table: what each is called, what is to be said of it, and how the names of its series begin. What no
/// other part claims belongs to the last.
const SECTIONS: [(&str, &str, &[&str]); 5] = [
    (
        "Ebb's own",
        "`ebb_shadow_` are those of `ebb run --shadow`, `ebb_journal_` those of whatever runs with `--journal`.",
        &["ebb_"],
    ),
    (
        "Knative's names up to 1.18",
        "Shown beside the present ones with `--older-metrics`, so that the dashboards of that time go on. Times are in\n\
         milliseconds where a name does not say seconds.",
        &["autoscaler_"],
    ),
    (
        "The process",
        "The names every Prometheus client uses. Those of the Go runtime have what comes nearest here: tasks for goroutines,\n\
         and what the operating system says of memory.",
        &["process_", "go_", "target_info"],
    ),
    (
        "Requests, by queue-proxies and activators",
        "Shown by `ebb queue-proxy` and `ebb activator`, as by Knative's own: by the former on port 9091 of each pod with\n\
         `request-metrics-protocol: prometheus` in `config-observability`, by the latter on port 9090 with\n\
         `metrics-protocol: prometheus`; in `ebb local` always. The labels of a revision are on the series of activators only:\n\
         those of a pod are told by `target_info`, and added by the scrape configurations in `dashboards/prometheus`. Hosts come\n\
         from outside: a queue-proxy shows 2,000 kinds of request, and the rest together with `otel_metric_overflow=\"true\"`.",
        &["http_server_", "kn_serving_", "kn_activator_", "kn_revision_request_"],
    ),
    (
        "Knative's present names",
        "Names, types, labels and units are those of Knative's own autoscaler; like its, the series have the labels\n\
         `otel_scope_name`, `otel_scope_schema_url` and `otel_scope_version`, of which the last two are empty. A revision's\n\
         series are shown by the replica that owns it and leave with it, those of a configuration with its last revision.\n\
         A shadow does not show them: they would be counted twice beside the running autoscaler's. At most 20,000 revisions\n\
         have series of their own.",
        &[""],
    ),
];

/// What `promtool` of the Prometheus project has to say, where it is installed.
fn lint(exposition: &str) {
    let Some(promtool) = tools::find("promtool") else { return };
    let mut command = Command::new(promtool);
    let command = command.args(["check", "metrics"]).stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut promtool = command.spawn().expect("promtool runs");
    let mut stdin = promtool.stdin.take().expect("a pipe");
    stdin.write_all(exposition.as_bytes()).expect("promtool reads");
    drop(stdin);
    let output = promtool.wait_with_output().expect("promtool ends");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "promtool: {said}");
}

#[tokio::test]
async fn only_get_metrics_is_answered_and_a_slow_head_is_cut_off() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("a bound listener");
    let cancel = CancellationToken::new();
    let serving = tokio::spawn(server::serve(listener, Registry::new(Compat::IMPROVED), cancel.clone()));
    let client = reqwest::Client::new();
    for (method, path, status) in [
        ("GET", "/metrics", 200),
        ("HEAD", "/metrics", 200),
        ("POST", "/metrics", 405),
        ("GET", "/", 404),
        ("GET", "/metrics/", 404),
        ("GET", "/debug/pprof/", 404),
    ] {
        let method = method.parse().expect("a method");
        let response = client.request(method, format!("http://{address}{path}")).send().await.expect("an answer");
        assert_eq!(response.status(), status, "{path}");
    }

    let clock = Clock::system();
    let started = clock.now();
    let mut slow = TcpStream::connect(address).await.expect("a connection");
    slow.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n").await.expect("written");
    let mut answer = Vec::new();
    tokio::time::timeout(Duration::from_secs(30), slow.read_to_end(&mut answer)).await.expect("cut off").ok();
    assert!(clock.now().since(started) >= Span::from_seconds(4), "it has a few seconds to finish");

    cancel.cancel();
    serving.await.expect("no panic");
}

#[test]
fn a_registry_of_its_own_shows_the_process() {
    let text = Registry::new(Compat::STRICT).exposition(Format::Prometheus);
    assert!(text.contains("ebb_build_info{"), "{text}");
    if std::path::Path::new("/proc/self/stat").exists() {
        for name in ["process_cpu_seconds_total ", "process_resident_memory_bytes ", "process_open_fds "] {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name}in {text}"));
            let value: f64 = line[name.len()..].parse().expect("a number");
            assert!(value >= 0.0, "{line}");
        }
    }
}
