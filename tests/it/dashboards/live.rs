//! A real Prometheus that scrapes a live `ebb local` with the configuration that is shipped, asked what the dashboards
//! and rules ask: under load, and when everything is at zero.

use super::grafana::{AtZero, Panel};
use super::{rules, source, tools};
use crate::system::{Local, eventually};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// One revision scaled on requests in flight, with a limit, and one on requests each second.
const SERVICES: &str = r#"
apiVersion: serving.knative.dev/v1
kind: Service
metadata: {name: hello, namespace: default}
spec:
  template:
    metadata: {annotations: {autoscaling.knative.dev/target: "5"}}
    spec: {containerConcurrency: 10, containers: [{image: ebb.local/hello}]}
---
apiVersion: serving.knative.dev/v1
kind: Service
metadata: {name: hello-rps, namespace: default}
spec:
  template:
    metadata: {annotations: {autoscaling.knative.dev/metric: rps, autoscaling.knative.dev/target: "20"}}
    spec: {containers: [{image: ebb.local/hello}]}
"#;
/// What a dashboard would use for the range of a rate; here everything is scraped each second.
const RATE_INTERVAL: &str = "15s";

/// What stands in `local.yaml` for finding pods. Debian's Prometheus is built without it, so the test finds them in its
/// place, and tells what it would tell.
const DISCOVERY: &str = "    kubernetes_sd_configs:\n      - role: pod\n        api_server: http://127.0.0.1:8001\n";

/// The pods of a cluster as Prometheus' discovery of Kubernetes has them: a target for each port of each container.
async fn discovered(api: String) -> Json<Value> {
    let pods: Value = match reqwest::get(format!("{api}/api/v1/pods")).await {
        Ok(answer) => answer.json().await.expect("JSON"),
        // It has stopped.
        Err(_) => json!({"items": []}),
    };
    let mut targets = Vec::new();
    for pod in pods["items"].as_array().expect("a list") {
        let (meta, Some(ip)) = (&pod["metadata"], pod["status"]["podIP"].as_str()) else { continue };
        for container in pod["spec"]["containers"].as_array().expect("containers") {
            for port in container["ports"].as_array().into_iter().flatten() {
                let mut labels = json!({
                    "__meta_kubernetes_namespace": meta["namespace"],
                    "__meta_kubernetes_pod_name": meta["name"],
                    "__meta_kubernetes_pod_container_name": container["name"],
                    "__meta_kubernetes_pod_container_port_name": port["name"].as_str().unwrap_or_default(),
                });
                for (name, value) in meta["labels"].as_object().into_iter().flatten() {
                    let name = name.replace(|c: char| !c.is_ascii_alphanumeric(), "_");
                    labels[format!("__meta_kubernetes_pod_label_{name}")] = value.clone();
                }
                targets.push(json!({"targets": [format!("{ip}:{}", port["containerPort"])], "labels": labels}));
            }
        }
    }
    Json(targets.into())
}

/// A Prometheus with a directory of its own.
struct Prometheus {
    child: Child,
    url: String,
    _directory: tempfile::TempDir,
}

impl Prometheus {
    /// Starts it on the configuration for `ebb local`, with the addresses this one has.
    async fn start(program: &Path, local: &Local) -> Self {
        let pods = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let discovery = pods.local_addr().expect("an address");
        let api = local.api.clone();
        tokio::spawn(
            async move { axum::serve(pods, Router::new().route("/", get(move || discovered(api.clone())))).await },
        );

        let shipped = crate::root().join("dashboards/prometheus");
        let mut config = std::fs::read_to_string(shipped.join("local.yaml")).expect("local.yaml");
        let host =
            |url: &str| url.trim_start_matches("http://").split('/').next().expect("a host and a port").to_owned();
        for (usual, here) in [
            ("_interval: 5s", "_interval: 1s".to_owned()),
            (DISCOVERY, format!("    http_sd_configs: [{{url: \"http://{discovery}/\", refresh_interval: 1s}}]\n")),
            ("127.0.0.1:8008", host(&local.admin)),
            ("127.0.0.2:9090", host(&local.endpoint("activator-metrics"))),
            ("- names.yaml", format!("- {}", shipped.join("names.yaml").display())),
            ("- alerts.yaml", format!("- {}", shipped.join("alerts.yaml").display())),
        ] {
            assert!(config.contains(usual), "local.yaml has no {usual}");
            config = config.replace(usual, &here);
        }
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("prometheus.yaml");
        std::fs::write(&file, config).expect("written");
        let port = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port();
        let child = Command::new(program)
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", directory.path().join("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .arg("--log.level=warn")
            .stdin(Stdio::null())
            .spawn()
            .expect("Prometheus starts");
        Self { child, url: format!("http://127.0.0.1:{port}"), _directory: directory }
    }

    async fn get(&self, path: &str) -> Option<Value> {
        let answer: Value = reqwest::get(format!("{}{path}", self.url)).await.ok()?.json().await.ok()?;
        assert_eq!(answer["status"], "success", "{path}: {answer}");
        Some(answer["data"].clone())
    }

    /// The series a query finds, each with its value as text.
    async fn ask(&self, query: &str) -> Vec<Value> {
        let mut encoded = String::new();
        for byte in query.bytes() {
            if byte.is_ascii_alphanumeric() {
                encoded.push(char::from(byte));
            } else {
                write!(encoded, "%{byte:02X}").expect("writing to a string");
            }
        }
        let data = self.get(&format!("/api/v1/query?query={encoded}")).await.expect("an answer");
        data["result"].as_array().expect("series").clone()
    }

    async fn finds(&self, query: &str) -> bool {
        !self.ask(query).await.is_empty()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Requests of all kinds to both services until told to stop.
fn load(local: &Local, stop: &CancellationToken) -> TaskTracker {
    let tasks = TaskTracker::new();
    let client = reqwest::Client::new();
    for (host, paths, clients) in [
        (
            "hello",
            &["/?sleep=200ms", "/?sleep=1200ms", "/?code=404", "/?code=503", "/?code=302", "/?sleep=200ms"][..],
            30,
        ),
        ("hello-rps", &["/?sleep=50ms"], 4),
    ] {
        for at in 0..clients {
            let (client, gateway, stop) = (client.clone(), local.gateway.clone(), stop.clone());
            tasks.spawn(async move {
                for path in paths.iter().cycle().skip(at) {
                    let request =
                        client.get(format!("{gateway}{path}")).header("Host", format!("{host}.default.example.com"));
                    tokio::select! {
                        () = stop.cancelled() => return,
                        // What becomes of it is for the dashboards to say.
                        _ = request.send() => {}
                    }
                }
            });
        }
    }
    tasks.close();
    tasks
}

fn queries() -> Vec<(String, &'static Panel, String)> {
    let of = |dashboard: &'static super::grafana::Dashboard| {
        dashboard.queries().map(move |(panel, query)| {
            let query = query.replace("$__rate_interval", RATE_INTERVAL);
            // As if all of everything was chosen; of one revision where one has to be.
            let one = dashboard.scope == super::grafana::Scope::One;
            let (configuration, revision) = if one { ("hello", "hello-00001") } else { (".*", ".*") };
            let query = query
                .replace("$namespace", if one { "default" } else { ".*" })
                .replace("$configuration", configuration)
                .replace("$revision", revision);
            (format!("{}, {}", dashboard.file, panel.title), panel, query)
        })
    };
    source::ALL.iter().flat_map(of).collect()
}

/// Waits until every query finds something; those that do not are told.
async fn all_find(prometheus: &Prometheus, what: &str, queries: &[(String, String)]) {
    let mut open: Vec<&(String, String)> = queries.iter().collect();
    let waited = tokio::time::timeout(crate::system::PATIENCE, async {
        while !open.is_empty() {
            let mut still = Vec::new();
            for query in open.drain(..) {
                if !prometheus.finds(&query.1).await {
                    still.push(query);
                }
            }
            open = still;
            tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        }
    });
    let in_time = waited.await.is_ok();
    assert!(in_time, "{what}, these find nothing: {open:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_query_finds_something_under_load_and_at_zero() {
    let Some(program) = tools::find("prometheus") else { return };
    let journal = tempfile::tempdir().expect("a directory");
    let flags = ["--window", "6s", "--startup-delay", "100ms", "--journal", journal.path().to_str().expect("text")];
    // Behind the double of a load balancer, so that its gate has something to say.
    let local = Local::start(SERVICES, &[&flags[..], &["--gateway-mode", "alb"]].concat()).await;
    let maps = format!("{}/api/v1/namespaces/knative-serving/configmaps/config-autoscaler", local.api);
    let patch = json!({"data": {"scale-to-zero-grace-period": "1s"}}).to_string();
    let patch = reqwest::Client::new().patch(maps).header("content-type", "application/merge-patch+json").body(patch);
    assert!(patch.send().await.expect("an answer").status().is_success());
    let prometheus = Prometheus::start(&program, &local).await;
    eventually("Prometheus to answer", async || prometheus.get("/api/v1/status/buildinfo").await).await;

    // The first requests find no pod.
    local.wait_for_pods(0).await;
    let stop = CancellationToken::new();
    let loading = load(&local, &stop);
    let queries = queries();
    let in_cluster = |panel: &Panel| panel.at_zero == AtZero::OnlyInCluster;
    let under_load: Vec<_> = queries
        .iter()
        .filter(|(_, panel, _)| !in_cluster(panel))
        .map(|(name, _, query)| (name.clone(), query.clone()))
        .collect();
    all_find(&prometheus, "under load", &under_load).await;

    // The rules are evaluated, and the older names are there; nothing that is scraped is given its own name again.
    let recorded: Vec<_> = rules::older_names().map(|name| (name.clone(), name)).collect();
    all_find(&prometheus, "under load", &recorded).await;
    let twice = prometheus.ask("{__name__=~\"kn_.*|http_server_.*\",instance=\"\"}").await;
    assert_eq!(twice, [json!(null); 0], "present names given to what has them");
    let evaluated = prometheus.get("/api/v1/rules").await.expect("rules");
    let mut count = 0;
    for group in evaluated["groups"].as_array().expect("groups") {
        for rule in group["rules"].as_array().expect("rules") {
            assert_eq!(rule["health"], "ok", "{rule}");
            count += 1;
        }
    }
    assert_eq!(count, rules::all().len());
    let targets = prometheus.get("/api/v1/targets?state=active").await.expect("targets");
    let up = |job: &str| {
        let of = targets["activeTargets"].as_array().expect("targets").iter();
        of.filter(|target| target["labels"]["job"] == job && target["health"] == "up").count()
    };
    assert!(up("autoscaler") == 1 && up("activator") == 1 && up("queue-proxy") >= 2, "{targets:#}");
    // Pods found through the API say which revision they are of.
    let by = "count by (k8s_namespace_name, kn_configuration_name, kn_revision_name, kn_service_name, container) \
              (http_server_request_duration_seconds_count{container=\"queue-proxy\"})";
    let found = prometheus.ask(by).await;
    let labels: Vec<_> = found.iter().map(|series| series["metric"].clone()).collect();
    let of = |name: &str| {
        json!({"container": "queue-proxy", "k8s_namespace_name": "default", "kn_configuration_name": name,
               "kn_revision_name": format!("{name}-00001"), "kn_service_name": name})
    };
    assert!(labels.len() == 2 && labels.contains(&of("hello")) && labels.contains(&of("hello-rps")), "{labels:?}");

    stop.cancel();
    loading.wait().await;
    local.wait_for_pods(0).await;
    let gone = "sum(kn_revision_pods_count) == 0 unless on () up{job=\"queue-proxy\"}";
    eventually("Prometheus to see no pods", async || prometheus.finds(gone).await.then_some(())).await;
    let at_zero: Vec<_> = queries
        .iter()
        .filter(|(_, panel, _)| panel.at_zero == AtZero::Data)
        .map(|(name, _, query)| (name.clone(), query.clone()))
        .collect();
    all_find(&prometheus, "at zero", &at_zero).await;
    // Those that say nothing then are about answers, and say nothing because there are none.
    let answers = "sum(rate(http_server_request_duration_seconds_count{container=\"queue-proxy\"}[15s]))";
    eventually("no answers", async || (!prometheus.finds(answers).await).then_some(())).await;
    let _ = writeln!(
        std::io::stdout(),
        "dashboards: {} queries found something under load and {} at zero; {} need a kubelet",
        under_load.len(),
        at_zero.len(),
        queries.len() - under_load.len()
    );
    drop(prometheus);
    local.stop();
}
