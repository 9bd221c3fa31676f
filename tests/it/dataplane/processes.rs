//! `ebb queue-proxy` and `ebb activator` as they are run in a cluster: the built binary, environment variables, signals.

use super::*;
use crate::apiserver::Served;
use ebb::api::serving;
use ebb::local::apiserver::kubeconfig;
use ebb::stats::wire::{decode_frame, decode_scrape};
use http::StatusCode;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::api::PostParams;
use serde_json::json;
use std::process::{Child, Command, Stdio};

/// A running `ebb SUBCOMMAND`.
struct Process(Child);

impl Process {
    fn start(arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ebb"));
        command.args(arguments).env_clear().envs(environment.iter().copied()).stderr(Stdio::piped());
        Self(command.spawn().expect("the ebb binary"))
    }

    fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([signal, &self.0.id().to_string()]).status().expect("kill");
        assert!(status.success());
    }

    /// Waits for its end: its exit code and what it said.
    async fn end(&mut self) -> (Option<i32>, String) {
        let status = until("the end of the process", async || self.0.try_wait().expect("a child")).await;
        let said = std::io::read_to_string(self.0.stderr.take().expect("a pipe")).expect("text");
        (status.code(), said)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A loopback address on which nobody listens: the ports of both programs are fixed.
fn own_address() -> Ipv4Addr {
    for _ in 0..1000 {
        let ip = Ipv4Addr::new(127, rand::random_range(90..120), rand::random(), rand::random_range(1..=254));
        let is_free = |port: u16| std::net::TcpListener::bind((ip, port)).is_ok();
        if [8012, 8013, 8022, 9090].into_iter().all(is_free) {
            return ip;
        }
    }
    panic!("no loopback address is free");
}

/// The status and the text of an answer; `None` when there was none.
async fn ask(request: reqwest::RequestBuilder) -> Option<(StatusCode, String)> {
    let response = request.send().await.ok()?;
    Some((response.status(), response.text().await.ok()?))
}

#[tokio::test]
async fn a_queue_proxy_serves_reports_and_ends_in_order() {
    let (app, mut gate) = App::gate().await;
    let ip = own_address().to_string();
    let port = app.addr.port().to_string();
    let probe = json!({"tcpSocket": {"host": "127.0.0.1", "port": app.addr.port()}}).to_string();
    let mut process = Process::start(
        &["queue-proxy"],
        &[
            ("QUEUE_BIND_IP", &ip),
            ("QUEUE_SERVING_PORT", "8012"),
            ("QUEUE_QUIET_PERIOD_SECONDS", "1"),
            ("USER_PORT", &port),
            ("CONTAINER_CONCURRENCY", "10"),
            ("REVISION_TIMEOUT_SECONDS", "60"),
            ("SERVING_NAMESPACE", "default"),
            ("SERVING_CONFIGURATION", "hello"),
            ("SERVING_REVISION", "hello-00001"),
            ("SERVING_POD", "hello-00001-pod"),
            ("SERVING_READINESS_PROBE", &probe),
        ],
    );
    let url = format!("http://{ip}:8012");
    let is_ready = || client().get(&url).header("k-network-probe", "queue");
    let ready = until("readiness", async || ask(is_ready()).await).await;
    assert_eq!(ready, (StatusCode::OK, "queue".to_owned()));

    let waits = tokio::spawn(client().get(format!("{url}/held")).send());
    assert_eq!(gate.came(1).await, ["/held"]);
    let stat = until("the request in the stat", async || {
        let metrics = client().get(format!("http://{ip}:9090/metrics")).header("accept", "application/protobuf");
        let stat = decode_scrape(&metrics.send().await.ok()?.bytes().await.ok()?).expect("a stat");
        (stat.average_concurrent_requests == 1.0).then_some(stat)
    })
    .await;
    assert_eq!(&stat.pod_name[..], b"hello-00001-pod");
    assert!(stat.process_uptime > 0.0, "{stat:?}");

    // Going: not ready at once, the request under way ends as if nothing were, and then the process does.
    process.signal("-TERM");
    until("the probe to fail", async || {
        let (status, _) = ask(is_ready()).await?;
        (status == StatusCode::SERVICE_UNAVAILABLE).then_some(())
    })
    .await;
    gate.open(1);
    let served = soon("an answer", waits).await.expect("a task").expect("an answer");
    assert_eq!(served.text().await.expect("text"), "/held");
    assert_eq!(process.end().await.0, Some(0));
}

#[tokio::test]
async fn what_is_missing_in_the_environment_is_told() {
    for (subcommand, variable) in [("queue-proxy", "QUEUE_SERVING_PORT"), ("activator", "POD_NAME")] {
        let served = Served::start().await;
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("kubeconfig");
        std::fs::write(&path, kubeconfig(served.addr)).expect("a writable directory");
        let mut process = Process::start(&[subcommand], &[("KUBECONFIG", path.to_str().expect("a path"))]);
        let (code, said) = process.end().await;
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains(variable), "{said}");
    }
}

#[tokio::test]
async fn an_activator_reads_the_cluster_holds_requests_reports_and_ends_in_order() {
    let served = Served::start().await;
    let kube = served.client();
    let directory = tempfile::tempdir().expect("a temporary directory");
    let config = directory.path().join("kubeconfig");
    std::fs::write(&config, kubeconfig(served.addr)).expect("a writable directory");
    let autoscaler = TcpListener::bind((LOCALHOST, 0)).await.expect("a port");
    let ip = own_address().to_string();
    let mut process = Process::start(
        &["activator", "--kubeconfig", config.to_str().expect("a path")],
        &[
            ("POD_NAME", "activator-1"),
            ("POD_IP", &ip),
            ("ACTIVATOR_BIND_IP", &ip),
            ("SYSTEM_NAMESPACE", "knative-serving"),
            ("AUTOSCALER_URL", &format!("ws://{}", autoscaler.local_addr().expect("an address"))),
        ],
    );
    let (stream, _) = soon("a connection", autoscaler.accept()).await.expect("a connection");
    let mut stats = tokio_tungstenite::accept_async(stream).await.expect("a websocket");

    let url = format!("http://{ip}:8012/held");
    let is_healthy = || client().get(&url).header("user-agent", "kube-probe/1.34");
    until("health", async || (ask(is_healthy()).await?.0 == StatusCode::OK).then_some(())).await;

    // A revision at zero: its request is held and told of.
    let revision: serving::Revision = serde_json::from_value(json!({
        "apiVersion": "serving.knative.dev/v1", "kind": "Revision",
        "metadata": {"name": "hello-00001", "namespace": "default"},
        "spec": {"containers": [{"name": "c", "image": "x"}], "containerConcurrency": 3, "timeoutSeconds": 60},
    }))
    .expect("a revision");
    let revisions: Api<serving::Revision> = Api::namespaced(kube.clone(), "default");
    revisions.create(&PostParams::default(), &revision).await.expect("created");
    let known = || {
        let request = client().get(&url).header("Knative-Serving-Namespace", "default");
        request.header("Knative-Serving-Revision", "hello-00001")
    };
    let waits = tokio::spawn({
        let known = known();
        async move {
            loop {
                match ask(known.try_clone().expect("no body")).await {
                    // Unknown until the watch has told of it.
                    None | Some((StatusCode::NOT_FOUND, _)) => tokio::time::sleep(Duration::from_millis(5)).await,
                    Some(answer) => return answer,
                }
            }
        }
    });
    let told = soon("a batch", async {
        loop {
            let frame = stats.next().await.expect("a frame").expect("a frame");
            if frame.is_binary() {
                break decode_frame(frame.into_data()).expect("a batch");
            }
        }
    })
    .await;
    assert_eq!((&told[0].namespace[..], &told[0].name[..]), (&b"default"[..], &b"hello-00001"[..]));
    assert_eq!(told[0].stat.as_ref().expect("a stat").average_concurrent_requests, 1.0);
    // Pings are answered while nobody looks.
    tokio::spawn(async move { while let Some(Ok(_)) = stats.next().await {} });

    // A pod comes.
    let (app, mut gate) = App::gate().await;
    let pod = Pod::start(app.addr, |_| {}).await;
    let slice: EndpointSlice = serde_json::from_value(json!({
        "metadata": {"name": "hello-00001-private-x", "namespace": "default", "labels": {
            "networking.internal.knative.dev/serviceType": "Private",
            "networking.internal.knative.dev/serverlessservice": "hello-00001"}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": pod.http1().port()}],
        "endpoints": [{"addresses": ["127.0.0.1"], "conditions": {"ready": true}}],
    }))
    .expect("a slice");
    let slices: Api<EndpointSlice> = Api::namespaced(kube, "default");
    slices.create(&PostParams::default(), &slice).await.expect("created");
    assert_eq!(gate.came(1).await, ["/held"]);

    // Going: not healthy at once, but requests are still taken, as routers do not know yet.
    process.signal("-TERM");
    until("the health check to fail", async || {
        (ask(is_healthy()).await?.0 == StatusCode::INTERNAL_SERVER_ERROR).then_some(())
    })
    .await;
    gate.open(usize::MAX);
    assert_eq!(soon("an answer", waits).await.expect("a task"), (StatusCode::OK, "/held".to_owned()));
    assert_eq!(ask(known()).await, Some((StatusCode::OK, "/held".to_owned())));
    process.signal("-TERM");
    assert_eq!(process.end().await.0, Some(130), "a second signal ends it at once");
}
