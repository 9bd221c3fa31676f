//! What Prometheus reads, over real sockets: every series from the start, in a form other programs understand.
//!
//! `EBB_WRITE_EXPECTED=1 cargo test --test it metrics` writes `tests/expected/metrics/` and `docs/metrics.md` anew.

use crate::apiserver::Served;
use ebb::app::shadow::{self, ShadowAutoscaler};
use ebb::app::{Autoscaler, Listen, Options};
use ebb::clock::Clock;
use ebb::config::observability::MetricsProtocol;
use ebb::controllers::settings::{self, Maps};
use ebb::k8s::dial::SystemDial;
use ebb::observe::metrics::server;
use ebb::observe::metrics::{Format, Registry};
use ebb::ownership::Choice;
use ebb::units::{Compat, Span};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, PostParams};
use serde_json::json;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// What an autoscaler shows that knows no revision, in both formats.
async fn autoscaler() -> (String, String) {
    let served = Served::start().await;
    furnish(&served.client()).await;
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
        maps,
        start,
        dial: Arc::new(SystemDial),
        cluster_domain: "cluster.local".to_owned(),
        ownership: Choice::Single,
        stats: Listen::Now(free().await),
        admin: free().await,
        metrics: Some(metrics),
    };
    let autoscaler = Autoscaler::start(options, CancellationToken::new()).await.expect("an autoscaler");
    let get = async |accept: &str| {
        let request = reqwest::Client::new().get(format!("http://{address}/metrics")).header("Accept", accept);
        let response = request.send().await.expect("an answer");
        assert_eq!(response.status(), 200);
        let kind = response.headers()["content-type"].to_str().expect("text").to_owned();
        (kind, response.text().await.expect("a body"))
    };
    let (kind, classic) = get("*/*").await;
    assert_eq!(kind, "text/plain; version=0.0.4; charset=utf-8");
    let (kind, open) = get("application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3").await;
    assert_eq!(kind, "application/openmetrics-text; version=1.0.0; charset=utf-8");
    autoscaler.stop().await;
    (classic, open)
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
    };
    let shadow = ShadowAutoscaler::start(options, CancellationToken::new()).await;
    let text = shadow.metrics().exposition(Format::Prometheus);
    shadow.stop().await;
    text
}

/// The ConfigMaps without which no autoscaler starts.
async fn furnish(client: &kube::Client) {
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

/// The same text with `_` for every value, and for what differs between machines and versions.
fn without_values(text: &str) -> String {
    let mut out = String::new();
    for line in text.lines() {
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
    let (classic, open) = autoscaler().await;
    let shadow = shadow().await;
    compare("tests/expected/metrics/autoscaler.txt", &without_values(&classic));
    compare("tests/expected/metrics/shadow.txt", &without_values(&shadow));
    compare("docs/metrics.md", &table(&[&classic, &shadow]));
    lint(&shadow);

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
    let series = |text: &str| text.lines().filter(|line| !line.starts_with('#')).count();
    assert_eq!(series(&open), series(&classic));
    lint(&classic);
}

/// The table of `docs/metrics.md`.
fn table(expositions: &[&str]) -> String {
    let mut text = String::from(
        "# Metrics\n\nEvery series Ebb shows under its own names. `GET /metrics` answers on port 9090 when `config-observability` has\n\
         `metrics-protocol: prometheus`, and on the admin port always; `ebb_shadow_` are those of `ebb run --shadow`. A test\n\
         compares this table with what the program shows; CONTRIBUTING.md says how it is written anew.\n\n| name | type | labels | meaning |\n|---|---|---|---|\n",
    );
    let mut families: BTreeMap<&str, (&str, &str, Vec<&str>)> = BTreeMap::new();
    for line in expositions.iter().flat_map(|exposition| exposition.lines()) {
        let split = |rest: &'static str| line.strip_prefix(rest).and_then(|rest| rest.split_once(' '));
        if let Some((name, help)) = split("# HELP ") {
            families.entry(name).or_default().1 = help;
        } else if let Some((name, kind)) = split("# TYPE ") {
            families.entry(name).or_default().0 = kind;
        } else if let Some((name, rest)) = line.split_once('{') {
            let name = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
            let Some((labels, _)) = rest.rsplit_once('}') else { continue };
            let Some(family) = families.get_mut(name) else { continue };
            for label in labels.split("\",").filter_map(|pair| pair.split_once('=')).map(|(label, _)| label) {
                if label != "le" && !family.2.contains(&label) {
                    family.2.push(label);
                }
            }
        }
    }
    for (name, (kind, help, labels)) in families {
        let labels: Vec<_> = labels.iter().map(|label| format!("`{label}`")).collect();
        writeln!(text, "| `{name}` | {kind} | {} | {help} |", labels.join(", ")).expect("writing to a string");
    }
    text
}

/// What `promtool` of the Prometheus project has to say, where it is installed.
fn lint(exposition: &str) {
    let command =
        Command::new("promtool").args(["check", "metrics"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let Ok(mut promtool) = command else {
        eprintln!("skipped: there is no promtool to lint the metrics (Debian's package prometheus has it)");
        return;
    };
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
