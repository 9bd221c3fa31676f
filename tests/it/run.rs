//! `ebb run` as a cluster runs it: the built binary against an API over HTTP, real signals, real sockets.

use crate::apiserver::Served;
use crate::faults::rig;
use crate::system::with_disk;
use crate::token::Door;
use ebb::clock::Clock;
use ebb::local::apiserver::{Effect, Fault, Verb, kubeconfig};
use ebb::local::knative::admission::admission;
use ebb::local::manifest;
use ebb::local::pods::kubelet;
use ebb::local::{AutoscalerSettings, LocalCluster, Options, SAMPLE_MANIFEST};
use ebb::units::{Compat, Span};
use futures::{SinkExt as _, StreamExt as _};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Event};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::Api;
use kube::api::{DynamicObject, ListParams, Patch, PatchParams, PostParams};
use prost::Message as _;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_util::sync::CancellationToken;

/// How long anything may take before a test gives up on it.
const PATIENCE: Duration = Duration::from_mins(1);

const MAPS: [&str; 6] = [
    "config-autoscaler",
    "config-deployment",
    "config-leader-election",
    "config-logging",
    "config-network",
    "config-observability",
];

/// An API with Knative's ConfigMaps, as an installation has them.
async fn installed() -> Served {
    let served = Served::start().await;
    for map in MAPS {
        let data =
            if map == "config-deployment" { json!({"queue-sidecar-image": "example.com/queue"}) } else { json!({}) };
        let map = serde_json::from_value(json!({"metadata": {"name": map}, "data": data})).expect("a ConfigMap");
        maps(&served).create(&PostParams::default(), &map).await.expect("created");
    }
    served
}

fn maps(served: &Served) -> Api<ConfigMap> {
    Api::namespaced(served.client(), "knative-serving")
}

async fn set(served: &Served, map: &str, data: Value) {
    let patch = Patch::Merge(json!({ "data": data }));
    maps(served).patch(map, &PatchParams::default(), &patch).await.expect("patched");
}

/// A running `ebb run`.
struct Run {
    child: Child,
    lines: Arc<Mutex<Vec<Value>>>,
    // Holds the kubeconfig.
    _directory: tempfile::TempDir,
}

/// `ebb run` for the API at `addr`, with the environment of a pod.
fn command(addr: SocketAddr, directory: &tempfile::TempDir) -> Command {
    let file = directory.path().join("kubeconfig");
    std::fs::write(&file, kubeconfig(addr)).expect("a writable directory");
    let mut command = Command::new(env!("CARGO_BIN_EXE_ebb"));
    command
        .args(["run", "--stats", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--kubeconfig"])
        .arg(file)
        .env_clear()
        .env("POD_NAME", "autoscaler-0")
        .env("POD_IP", "127.0.0.1")
        .env("SYSTEM_NAMESPACE", "knative-serving")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

impl Run {
    fn spawn(addr: SocketAddr, change: impl FnOnce(&mut Command)) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut command = command(addr, &directory);
        change(&mut command);
        let mut child = command.spawn().expect("the ebb binary");
        let lines = Arc::new(Mutex::new(Vec::new()));
        let (sink, stdout) = (Arc::clone(&lines), child.stdout.take().expect("a pipe"));
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let line = serde_json::from_str(&line).unwrap_or(Value::String(line));
                sink.lock().expect("no panic above").push(line);
            }
        });
        Self { child, lines, _directory: directory }
    }

    /// Starts it and waits until it is ready.
    async fn ready(addr: SocketAddr) -> Self {
        let run = Self::spawn(addr, |_| {});
        run.said("ready").await;
        run
    }

    /// The line with this message, once it is there.
    async fn said(&self, message: &str) -> Value {
        eventually(
            &format!("the line {message:?}"),
            || format!("{:#?}", self.log()),
            async || self.log().into_iter().find(|line| line["message"] == message),
        )
        .await
    }

    fn log(&self) -> Vec<Value> {
        self.lines.lock().expect("no panic above").clone()
    }

    async fn address(&self, of: &str) -> String {
        self.said("ready").await[of].as_str().expect("an address").to_owned()
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill").args([name, &self.child.id().to_string()]).status().expect("kill");
        assert!(status.success());
    }

    /// Waits until it has ended; how, and what it said on standard error.
    async fn end(&mut self) -> (ExitStatus, String) {
        let log = Arc::clone(&self.lines);
        let seen = || format!("{:#?}", log.lock().expect("no panic above"));
        let status = eventually("the end", seen, async || self.child.try_wait().expect("a child")).await;
        let mut error = String::new();
        self.child.stderr.take().expect("a pipe").read_to_string(&mut error).expect("text");
        (status, error)
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs until it ends by itself: its exit code and what it said on standard error.
async fn refused(addr: SocketAddr, change: impl FnOnce(&mut Command)) -> (Option<i32>, String) {
    let mut run = Run::spawn(addr, change);
    let (status, error) = run.end().await;
    (status.code(), error)
}

async fn eventually<T>(what: &str, seen: impl Fn() -> String, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let clock = Clock::system();
    let until = clock.now() + Span::from_std(PATIENCE);
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(clock.now() < until, "waited {PATIENCE:?} in vain for {what}; so far:\n{}", seen());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn get(url: String, agent: &str) -> (u16, String) {
    let client = reqwest::Client::builder().user_agent(agent.to_owned()).build().expect("a client");
    let answer = client.get(url).send().await.expect("an answer");
    (answer.status().as_u16(), answer.text().await.expect("text"))
}

/// Takes profiles of a process whose cluster has just allowed it, asking it for much meanwhile.
async fn profiled(admin: &str, run: &Run) {
    let ask = |question: &str| get(format!("http://{admin}/debug/pprof/{question}"), "curl/8");
    let on = async || (ask("").await.0 == 200).then_some(());
    eventually("profiles", || format!("{:#?}", run.log()), on).await;
    for (question, status, says) in [
        ("heap", 404, "there is no profile \"heap\" here, only \"profile\""),
        ("profile?seconds=0", 400, "seconds is 0, and may be 1 to 60; without it a profile takes 30"),
        ("profile?seconds=61", 400, "seconds is 61, and may be 1 to 60"),
        ("profile?seconds=soon", 400, "seconds is a whole number from 1 to 60"),
        ("profile?debug=2", 400, "debug is 2, and may be 0 or 1"),
    ] {
        let (answered, text) = ask(question).await;
        assert_eq!(answered, status, "{question}: {text}");
        assert!(text.contains(says), "{question}: {text}");
    }

    let done = CancellationToken::new();
    let metrics = format!("http://{admin}/metrics");
    let busy = tokio::spawn(done.clone().run_until_cancelled_owned(async move {
        loop {
            get(metrics.clone(), "curl/8").await;
        }
    }));
    let (packed, second) = tokio::join!(
        async { reqwest::get(format!("http://{admin}/debug/pprof/profile?seconds=3")).await.expect("an answer") },
        async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            ask("profile?seconds=1").await
        },
    );
    assert_eq!(second.0, 503, "{}", second.1);
    assert_eq!(packed.status(), 200);
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(&*packed.bytes().await.expect("bytes")).read_to_end(&mut bytes).expect("gzip");
    let profile = rpprof::protos::Profile::decode(&*bytes).expect("a profile");
    assert!(!profile.sample.is_empty(), "a process that is busy was seen to be");
    let named = |name: &String| name.contains("ebb::observe::metrics");
    assert!(profile.string_table.iter().any(named), "{:?}", profile.string_table);
    let (status, text) = ask("profile?seconds=3&debug=1").await;
    assert_eq!(status, 200);
    let stack = text.lines().find(|line| line.contains("ebb::observe::metrics")).expect(&text);
    let (frames, seen) = stack.rsplit_once(' ').expect("frames and a number");
    assert!(frames.contains(';') && seen.parse::<u64>().is_ok_and(|seen| seen > 0), "{stack}");

    // Somebody who goes away leaves the turn to the next, long before the minute is over.
    let gone = tokio::time::timeout(Duration::from_secs(1), ask("profile?seconds=60")).await;
    assert!(gone.is_err(), "{gone:?}");
    let mut status = 503;
    for _ in 0..20 {
        (status, _) = ask("profile?seconds=1").await;
        if status != 503 {
            break;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(status, 200);
    done.cancel();
    busy.await.expect("no panic");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_scales_a_service_of_a_cluster_follows_its_settings_and_stops_in_order() {
    let served = Served::start().await;
    let settings = AutoscalerSettings::new(Compat::IMPROVED);
    assert!(served.store.set_admission(admission(settings.clone())));
    let options = Options {
        pods: kubelet::Settings {
            network: Ipv4Addr::new(127, 61, 0, 0),
            startup_delay: Duration::from_millis(20),
            quiet_period: Duration::from_millis(50),
            ..kubelet::Settings::default()
        },
        ..Options::default()
    };
    let cluster =
        LocalCluster::start(options, None, served.client(), Clock::system(), settings).await.expect("a cluster");
    let mut run = Run::ready(served.addr).await;
    let (stats, admin) = (run.address("stats").await, run.address("admin").await);

    let leases: Api<Lease> = Api::namespaced(served.client(), "knative-serving");
    eventually(
        "the Lease",
        || format!("{:#?}", run.log()),
        async || {
            let lease = leases.get_opt("autoscaler-bucket-00-of-01").await.expect("an answer")?;
            (lease.spec?.holder_identity? == "autoscaler-0_127.0.0.1").then_some(())
        },
    )
    .await;

    // Probes, as a kubelet and as anybody else.
    assert_eq!(get(format!("http://{stats}/"), "kube-probe/1.34").await, (200, String::new()));
    assert_eq!(get(format!("http://{stats}/"), "curl/8").await.0, 400);
    assert_eq!(get(format!("http://{admin}/readyz"), "curl/8").await, (200, "ok\n".to_owned()));
    // Off, as the reference is.
    for path in ["", "profile?seconds=1", "heap"] {
        let (status, text) = get(format!("http://{admin}/debug/pprof/{path}"), "curl/8").await;
        assert_eq!(status, 404, "{path}");
        assert!(text.contains("set runtime-profiling: enabled in the ConfigMap config-observability"), "{text}");
    }

    // A Service becomes a revision with a pod, and the cluster's settings count at once.
    let manifests = manifest::parse("the sample", SAMPLE_MANIFEST).expect("a good manifest");
    assert!(manifest::apply(&served.client(), &manifests).await.is_empty());
    let deployments: Api<Deployment> = Api::namespaced(served.client(), "default");
    let ready_pods = async |number: i32| {
        eventually(
            &format!("{number} ready pods"),
            || format!("{:#?}", run.log()),
            async || {
                let deployment = deployments.get_opt("hello-00001-deployment").await.expect("an answer")?;
                (deployment.status?.ready_replicas? == number).then_some(())
            },
        )
        .await;
    };
    ready_pods(1).await;
    let (_, revisions) = get(format!("http://{admin}/revisions"), "curl/8").await;
    assert!(revisions.contains("default/hello-00001"), "{revisions}");
    set(&served, "config-autoscaler", json!({"min-scale": "2"})).await;
    ready_pods(2).await;

    set(&served, "config-observability", json!({"runtime-profiling": "enabled"})).await;
    profiled(&admin, &run).await;

    // An activator is told that it restarts.
    let stream = TcpStream::connect(&stats).await.expect("a connection");
    let (mut socket, _) = tokio_tungstenite::client_async(format!("ws://{stats}/"), stream).await.expect("a handshake");
    socket.send(Message::Ping("x".into())).await.expect("sent");
    assert!(matches!(socket.next().await, Some(Ok(Message::Pong(_)))));
    run.signal("-TERM");
    let closed = loop {
        if let Message::Close(frame) = socket.next().await.expect("a close frame").expect("a message") {
            break frame.expect("a reason");
        }
    };
    assert_eq!((closed.code, closed.reason.as_str()), (CloseCode::Restart, "Restarting"));
    let (status, error) = run.end().await;
    assert_eq!((status.code(), error.as_str()), (Some(0), ""));
    let lease = leases.get("autoscaler-bucket-00-of-01").await.expect("a Lease").spec.expect("a spec");
    assert_eq!(lease.holder_identity.as_deref(), Some(""), "given up at once, for the next owner");
    let log = run.log();
    assert!(log.iter().all(|line| line["severity"] != "ERROR"), "{log:#?}");
    let messages: Vec<_> = log.iter().filter_map(|line| line["message"].as_str()).collect();
    let order = ["starting", "API server answers", "ready", "scaled", "stopping; once more to stop at once", "stopped"];
    let places: Vec<_> = order.iter().map(|wanted| messages.iter().position(|message| message == wanted)).collect();
    assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{places:?} in {messages:?}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_settings_at_run_time_leave_the_good_ones_in_force_and_are_told_in_an_event() {
    let served = installed().await;
    set(&served, "config-observability", json!({"metrics-protocol": "prometheus"})).await;
    let mut run = Run::spawn(served.addr, |command| {
        command.env("METRICS_PROMETHEUS_HOST", "127.62.0.1");
    });
    run.said("ready").await;
    let (status, text) = get("http://127.62.0.1:9090/metrics".to_owned(), "Prometheus/3").await;
    assert!(status == 200 && text.contains("# TYPE"), "{text}");
    set(&served, "config-autoscaler", json!({"stable-window": "soon"})).await;
    set(&served, "config-network", json!({"rollout-duration": "soon"})).await;
    let events: Api<Event> = Api::namespaced(served.client(), "knative-serving");
    for (map, problem) in [
        ("config-autoscaler", "stable-window: \"soon\" is not a duration"),
        ("config-network", "rollout-duration: \"soon\""),
    ] {
        let event = eventually(
            "an event",
            || format!("{:#?}", run.log()),
            async || {
                let found = events.list(&ListParams::default()).await.expect("events").items;
                found.into_iter().find(|event| event.involved_object.name.as_deref() == Some(map))
            },
        )
        .await;
        assert_eq!((event.type_.as_deref(), event.reason.as_deref()), (Some("Warning"), Some("InvalidSettings")));
        let (source, note) = (event.source.and_then(|source| source.component), event.message.unwrap_or_default());
        assert_eq!(source.as_deref(), Some("podautoscaler-controller"));
        assert!(note.contains(problem), "{note}");
    }
    // The same once more is counted.
    set(&served, "config-autoscaler", json!({"scale-down-delay": "1s"})).await;
    eventually(
        "a count",
        || format!("{:#?}", run.log()),
        async || {
            let found = events.list(&ListParams::default()).await.expect("events").items;
            let of_map = |event: &&Event| event.involved_object.name.as_deref() == Some("config-autoscaler");
            let of_map: Vec<_> = found.iter().filter(of_map).collect();
            assert_eq!(of_map.len(), 1, "one object for what repeats");
            (of_map[0].count == Some(2) && of_map[0].last_timestamp >= of_map[0].first_timestamp).then_some(())
        },
    )
    .await;
    // A level counts at once, and what needs a restart says so.
    set(&served, "config-logging", json!({"loglevel.autoscaler": "debug"})).await;
    set(&served, "config-leader-election", json!({"buckets": "3"})).await;
    run.said("settings changed; they take effect when the autoscaler is restarted").await;
    let stats = run.address("stats").await;
    eventually(
        "a line of debugging",
        || format!("{:#?}", run.log()),
        async || {
            get(format!("http://{stats}/"), "curl/8").await;
            run.log().into_iter().find(|line| line["severity"] == "DEBUG" && line["message"] == "handshake refused")
        },
    )
    .await;
    set(&served, "config-logging", json!({"loglevel.autoscaler": "loud"})).await;
    eventually(
        "the refusal of a level",
        || format!("{:#?}", run.log()),
        async || {
            run.log().into_iter().find(|line| {
                line["map"] == "knative-serving/config-logging" && line["error"].to_string().contains("is not a level")
            })
        },
    )
    .await;
    assert!(run.child.try_wait().expect("a child").is_none(), "it runs on");
    run.signal("-INT");
    assert_eq!(run.end().await.0.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_settings_at_the_start_are_all_told_with_the_way_out() {
    let served = installed().await;
    set(&served, "config-autoscaler", json!({"stable-window": "1s", "max-scale-up-rate": "x"})).await;
    set(&served, "config-leader-election", json!({"buckets": "11"})).await;
    maps(&served).delete("config-network", &kube::api::DeleteParams::default()).await.expect("deleted");
    let (code, error) = refused(served.addr, |_| {}).await;
    assert_eq!(code, Some(2), "{error}");
    for words in [
        "ConfigMap knative-serving/config-network does not exist",
        "kubectl -n knative-serving create configmap config-network",
        "ConfigMap knative-serving/config-autoscaler cannot be used:\n",
        "  max-scale-up-rate: \"x\" is not a number; use a number, such as",
        "  stable-window: \"1s\"",
        "ConfigMap knative-serving/config-leader-election cannot be used:\n  buckets: \"11\" is not between 1 and 10",
    ] {
        assert!(error.contains(words), "{words:?} is missing in\n{error}");
    }

    maps(&served).delete("config-deployment", &kube::api::DeleteParams::default()).await.expect("deleted");
    let (_, error) = refused(served.addr, |_| {}).await;
    let words = "create configmap config-deployment --from-literal=queue-sidecar-image=IMAGE";
    assert!(error.contains(words), "{error}");
    let empty = serde_json::from_value(json!({"metadata": {"name": "config-deployment"}})).expect("a ConfigMap");
    maps(&served).create(&PostParams::default(), &empty).await.expect("created");
    let (_, error) = refused(served.addr, |_| {}).await;
    let words = "queue-sidecar-image: \"\" is missing; use the image of the queue-proxy, or take it from the map";
    assert!(error.contains(words), "{error}");

    // What the process itself needs to start is read first.
    set(&served, "config-logging", json!({"loglevel.autoscaler": "loud"})).await;
    let (code, error) = refused(served.addr, |_| {}).await;
    assert_eq!(code, Some(2));
    assert!(error.contains("config-logging cannot be used") && error.contains("loglevel.autoscaler"), "{error}");
    assert!(!error.contains("config-network"), "{error}");

    // Maps by other names, in another namespace.
    let (code, error) = refused(served.addr, |command| {
        command.env("SYSTEM_NAMESPACE", "elsewhere").env("CONFIG_LOGGING_NAME", "my-logging");
    })
    .await;
    assert_eq!(code, Some(2));
    assert!(error.contains("ConfigMap elsewhere/my-logging does not exist"), "{error}");
    assert!(error.contains("set SYSTEM_NAMESPACE"), "{error}");
    assert!(!error.contains("config-leader-election"), "that one may be missing: {error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_environment_or_a_cluster_that_will_not_do_is_told_with_the_way_out() {
    let served = installed().await;
    let (code, error) = refused(served.addr, |command| {
        command.env_remove("POD_NAME").env("POD_IP", "");
    })
    .await;
    assert_eq!(code, Some(2));
    assert!(error.contains("POD_NAME is not set") && error.contains("POD_IP is not set"), "{error}");
    assert!(error.contains("metadata.name") && !error.contains("SYSTEM_NAMESPACE"), "{error}");

    // Switches in the environment are written in more ways than one.
    let (code, error) = refused(served.addr, |command| {
        command.env_remove("POD_NAME").env("EBB_SHADOW", "1").env("EBB_OLDER_METRICS", "on");
    })
    .await;
    assert!(code == Some(2) && error.contains("POD_NAME is not set"), "{error}");

    let (code, error) = refused(served.addr, |command| {
        command.env("KUBERNETES_MIN_VERSION", "v1.99.0");
    })
    .await;
    assert_eq!(code, Some(2));
    assert!(error.contains("older than v1.99.0") && error.contains("KUBERNETES_MIN_VERSION"), "{error}");

    let nobody = TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("an address");
    let mut run = Run::spawn(nobody, |command| {
        command.args(["--api-patience", "1500ms"]);
    });
    let (status, error) = run.end().await;
    assert_eq!(status.code(), Some(2));
    assert!(error.contains("did not answer within 1.5s") && error.contains("--api-patience"), "{error}");
    run.said("API server cannot be asked; tried again in 1s").await;
    // What is tried again is no error, and is told once.
    let of_the_client = |line: &Value| line["caller"].as_str().is_some_and(|caller| caller.contains("client/builder"));
    assert!(!run.log().iter().any(of_the_client), "{:#?}", run.log());

    let (code, error) = refused(served.addr, |command| {
        command.args(["--cluster", "nowhere"]);
    })
    .await;
    assert_eq!(code, Some(2));
    assert!(error.contains("--kubeconfig"), "{error}");

    for server in ["127.0.0.1:6443", "kubernetes", "/path", "ftp://10.0.0.1/"] {
        let (code, error) = refused(served.addr, |command| {
            command.args(["--server", server]);
        })
        .await;
        assert_eq!(code, Some(2), "{error}");
        assert!(error.contains(&format!("{server:?} is not the URL of an API server")), "{error}");
        assert!(error.contains("https://") && !error.contains("panicked"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_waits_for_an_api_server_that_comes_later_and_for_one_that_stumbles() {
    // Somebody accepts, and nobody answers.
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let mut run = Run::spawn(listener.local_addr().expect("an address"), |command| {
        command.args(["--kube-api-qps", "50", "--kube-api-burst", "100"]);
    });
    run.said("API server cannot be asked; tried again in 1s").await;
    let served = installed().await;
    served.store.faults().add(Fault::once(Effect::fail(500)).on(Verb::Get).named("config-network"));
    let cancel = tokio_util::sync::CancellationToken::new();
    tokio::spawn(ebb::local::apiserver::serve(listener, served.store.clone(), cancel.clone()));
    run.said("ConfigMap not read; tried again in 1s").await;
    run.said("ready").await;
    assert!(run.log().iter().any(|line| line["message"].to_string().contains("--kube-api-qps")), "{:#?}", run.log());
    run.signal("-TERM");
    assert_eq!(run.end().await.0.code(), Some(0));
    cancel.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_does_not_wait() {
    let served = installed().await;
    let mut run = Run::ready(served.addr).await;
    // A write that hangs keeps the orderly stop from ending.
    served.store.faults().add(
        Fault::once(Effect::Delay(PATIENCE)).on(Verb::Create).of("serverlessservices.networking.internal.knative.dev"),
    );
    let kind = kube::core::GroupVersionKind::gvk("autoscaling.internal.knative.dev", "v1alpha1", "PodAutoscaler");
    let resource = kube::api::ApiResource::from_gvk(&kind);
    let autoscalers: Api<DynamicObject> = Api::namespaced_with(served.client(), "default", &resource);
    let object = serde_json::from_value(json!({
        "apiVersion": "autoscaling.internal.knative.dev/v1alpha1",
        "kind": "PodAutoscaler",
        "metadata": {"name": "slow", "annotations": {"autoscaling.knative.dev/class": "kpa.autoscaling.knative.dev"}},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "slow"},
            "protocolType": "http1",
        },
    }))
    .expect("an object");
    autoscalers.create(&PostParams::default(), &object).await.expect("created");
    eventually(
        "a write under way",
        || format!("{:#?}", run.log()),
        async || {
            (served.store.faults().count(Verb::Create, "serverlessservices.networking.internal.knative.dev") > 0)
                .then_some(())
        },
    )
    .await;
    run.signal("-TERM");
    run.said("stopping; once more to stop at once").await;
    assert!(run.child.try_wait().expect("a child").is_none(), "it finishes what is under way");
    run.signal("-TERM");
    assert_eq!(run.end().await.0.code(), Some(1));
    run.said("stopped at once").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shadow_of_an_empty_cluster_answers_and_stops_and_leaves_no_trace() {
    let served = installed().await;
    let before = served.store.version();
    let mut run = Run::spawn(served.addr, |command| {
        command.arg("--shadow");
    });
    let admin = run.address("admin").await;
    let report: Value =
        reqwest::get(format!("http://{admin}/shadow")).await.expect("an answer").json().await.expect("JSON");
    assert!(report["summary"].as_str().expect("a summary").starts_with("Nothing could be compared yet"), "{report:#}");
    assert_eq!((&report["writesRefused"], &report["revisions"]), (&json!(0), &json!([])));
    let metrics = reqwest::get(format!("http://{admin}/metrics")).await.expect("an answer").text().await.expect("text");
    assert!(metrics.contains("\nebb_shadow_revisions{basis=\"exact\"} 0\n"), "{metrics}");
    run.signal("-TERM");
    let (status, error) = run.end().await;
    assert_eq!(status.code(), Some(0), "{error}");
    let last = run.log().into_iter().filter_map(|line| line["message"].as_str().map(str::to_owned));
    assert!(last.clone().any(|message| message.starts_with("Nothing could be compared yet")), "{:#?}", run.log());
    assert_eq!(served.store.version(), before, "something was written");
}

/// Two processes of a StatefulSet, which find each other by name; each has revisions of its own for good.
#[tokio::test(flavor = "multi_thread")]
async fn members_of_a_stateful_set_share_the_revisions_without_leases() {
    let names = tempfile::NamedTempFile::new().expect("a file");
    let hosts =
        "127.62.1.1 as-0.as.knative-serving.svc.cluster.local\n127.62.1.2 as-1.as.knative-serving.svc.cluster.local\n";
    std::fs::write(names.path(), hosts).expect("written");
    // In a view of the file system of its own, where this is the file of names.
    let with_names = ["--user", "--map-root-user", "--mount", "sh", "-c", "mount --bind $0 /etc/hosts && exec \"$@\""];
    let possible = Command::new("unshare").args(with_names).arg(names.path()).arg("true").output();
    if !possible.is_ok_and(|output| output.status.success()) {
        let _ =
            writeln!(std::io::stdout(), "skipped: a process here cannot be given names of its own (unshare --user)");
        return;
    }
    let served = installed().await;
    set(&served, "config-leader-election", json!({"buckets": "2"})).await;
    let stop = CancellationToken::new();
    tokio::spawn(rig::services(served.client(), stop.clone()));
    let [early, late] = ["early", "late"].map(|time| (0..6).map(|n| format!("{time}-{n}")).collect::<Vec<_>>());
    let unscraped = json!({"autoscaling.knative.dev/target-burst-capacity": "-1"});
    for name in &early {
        rig::revision_at_zero(&served.client(), name, &unscraped).await;
    }
    let member = |ordinal: u8| {
        let stats = format!("127.62.1.{}:8080", ordinal + 1);
        Run::spawn(served.addr, |command| {
            let ebb = std::mem::replace(command, Command::new("unshare"));
            let mut arguments: Vec<_> = ebb.get_args().map(std::ffi::OsStr::to_owned).collect();
            let stats_flag = arguments.iter().position(|argument| argument == "--stats").expect("it is there");
            arguments[stats_flag + 1] = stats.into();
            command.args(with_names).arg(names.path()).arg(ebb.get_program()).args(arguments).env_clear();
            command.envs(ebb.get_envs().filter_map(|(name, value)| Some((name, value?))));
            command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
            command.env("POD_NAME", format!("as-{ordinal}")).env("POD_IP", format!("127.62.1.{}", ordinal + 1));
            command.env("STATEFUL_CONTROLLER_ORDINAL", format!("as-{ordinal}")).env("STATEFUL_SERVICE_NAME", "as");
            command.env("STATEFUL_SERVICE_PORT", "8080").env("STATEFUL_SERVICE_PROTOCOL", "ws");
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
        })
    };
    let (zeroth, mut first) = (member(0), member(1));
    let stats = zeroth.address("stats").await;
    first.said("ready").await;

    let connect = async || {
        let stream = TcpStream::connect(&stats).await.expect("a connection");
        tokio_tungstenite::client_async("ws://autoscaler.knative-serving", stream).await.expect("a handshake").0
    };
    let deployments: Api<Deployment> = Api::namespaced(served.client(), "default");
    // Reported to the one, until every revision is woken.
    let woken = async |revisions: &[String], log: &dyn Fn() -> String| {
        let mut socket = connect().await;
        eventually("all revisions to be woken", log, async || {
            socket.send(rig::frame(revisions.iter().map(|name| (name.clone(), 1.0)))).await.expect("sent");
            for name in revisions {
                if deployments.get(name).await.expect("a Deployment").spec.and_then(|spec| spec.replicas) != Some(1) {
                    return None;
                }
            }
            Some(())
        })
        .await;
    };
    let scaled = |run: &Run| {
        let lines = run.log().into_iter().filter(|line| line["message"] == "scaled");
        lines.filter_map(|line| line["knative.dev/key"].as_str().map(str::to_owned)).collect::<BTreeSet<_>>()
    };
    // Of `before` the other has said nothing since it was started. A line may come a moment after what it tells of.
    let shared = async |zeroth: &Run, first: &Run, before: &BTreeSet<String>| {
        let log = || format!("{:#?}\n{:#?}", zeroth.log(), first.log());
        let told = async || {
            let of_zeroth: BTreeSet<_> = scaled(zeroth).difference(before).cloned().collect();
            let of_first = scaled(first);
            (of_zeroth.len() + of_first.len() >= 6).then_some((of_zeroth, of_first))
        };
        let (zeroth, first) = eventually("all six to be told", log, told).await;
        assert!(!zeroth.is_empty() && !first.is_empty() && zeroth.is_disjoint(&first), "{zeroth:?} {first:?}");
        assert_eq!(zeroth.len() + first.len(), 6, "{zeroth:?} {first:?}");
        zeroth
    };
    woken(&early, &|| format!("{:#?}\n{:#?}", zeroth.log(), first.log())).await;
    let before = shared(&zeroth, &first, &BTreeSet::new()).await;

    // One is killed: nobody takes its bucket. Back, it goes on.
    first.signal("-KILL");
    first.end().await;
    for name in &late {
        rig::revision_at_zero(&served.client(), name, &unscraped).await;
    }
    let first = member(1);
    first.said("ready").await;
    woken(&late, &|| format!("{:#?}\n{:#?}", zeroth.log(), first.log())).await;
    shared(&zeroth, &first, &before).await;
    let leases: Api<Lease> = Api::namespaced(served.client(), "knative-serving");
    assert_eq!(leases.list(&ListParams::default()).await.expect("a list").items.len(), 0, "nobody is elected");
    stop.cancel();
}

/// A token that is taken back under a running autoscaler.
#[tokio::test(flavor = "multi_thread")]
async fn it_goes_on_when_its_token_is_taken_back_and_another_is_in_its_place() {
    let served = installed().await;
    let door = Door::of(&served).await;
    let token = door.file();
    let run = Run::spawn(door.address, |command| {
        let arguments: Vec<_> = command.get_args().map(std::ffi::OsStr::to_owned).collect();
        let file = arguments.last().expect("the kubeconfig is last");
        let text = std::fs::read_to_string(file).expect("a kubeconfig");
        let with_token = text.replace("user: {}", &format!("user: {{tokenFile: {}}}", token.display()));
        std::fs::write(file, with_token).expect("written");
    });
    run.said("ready").await;
    let leases: Api<Lease> = Api::namespaced(served.client(), "knative-serving");
    let renewed = async |after: Option<MicroTime>| {
        eventually(
            "a renewal",
            || format!("{:#?}", run.log()),
            async || {
                let renewed = leases.get_opt("autoscaler-bucket-00-of-01").await.expect("an answer")?.spec?.renew_time;
                (renewed > after).then_some(renewed)
            },
        )
        .await
    };
    let before = renewed(None).await;
    door.take("second");
    // Long enough for it to have stopped writing.
    run.said("the Lease could not be renewed in time; stopped writing").await;
    let stopped =
        leases.get("autoscaler-bucket-00-of-01").await.expect("a Lease").spec.and_then(|spec| spec.renew_time);
    assert!(stopped >= before);
    door.give("second");
    renewed(stopped).await;
    set(&served, "config-logging", json!({"loglevel.autoscaler": "debug"})).await;
    run.said("settings changed").await;
    assert!(run.log().iter().any(|line| line["message"] == "owner of the bucket" && line["resumed"] == true));
}

/// What is recorded comes second to what it is about: a disk that cannot be written is said and counted, and when it can be
/// again, recording begins.
#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_disk_keeps_the_journal_waiting_and_nothing_else() {
    let served = installed().await;
    let directory = tempfile::tempdir().expect("a temporary directory");
    let disk = directory.path().join("disk");
    let mut can = true;
    let mut run = Run::spawn(served.addr, |command| {
        command.arg("--journal").arg(&disk);
        match with_disk(command, &disk, "ro") {
            Some(all) => *command = all,
            None => can = false,
        }
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
    });
    if !can {
        return;
    }
    let admin = run.address("admin").await;
    let warning = eventually(
        "the warning",
        || format!("{:#?}", run.log()),
        async || {
            let lines = run.log().into_iter();
            let mut said = lines.filter_map(|line| Some(line["message"].as_str()?.to_owned()));
            said.find(|message| message.starts_with("the journal in "))
        },
    )
    .await;
    assert!(warning.ends_with("cannot be written; tried again in 10s, autoscaling goes on without"), "{warning}");
    assert_eq!(get(format!("http://{admin}/readyz"), "test").await.0, 200);
    let shown = async |name: &str| {
        let (_, text) = get(format!("http://{admin}/metrics"), "test").await;
        text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok()).expect("a number")
    };
    assert_eq!(shown("ebb_journal_writes ").await, 0.0);
    assert!(shown("ebb_journal_failures_total ").await >= 1.0);

    let process = run.child.id().to_string();
    let mut mended = Command::new("nsenter");
    mended.args(["--preserve-credentials", "--user", "--mount", "--target", &process]);
    let mended = mended.args(["mount", "-o", "remount,rw"]).arg(&disk).output().expect("nsenter");
    assert!(mended.status.success(), "{}", String::from_utf8_lossy(&mended.stderr));
    let seen = || format!("{:#?}", run.log());
    eventually("a journal", seen, async || (shown("ebb_journal_writes ").await == 1.0).then_some(())).await;
    run.signal("-TERM");
    assert_eq!(run.end().await.0.code(), Some(0));
}
