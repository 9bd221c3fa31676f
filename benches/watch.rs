//! What a cluster of 10,000 revisions costs `ebb run`, which is a process of its own; the API server, and what else the
//! cluster has, is here. `EBB` names another binary to measure.
//!
//! `cargo bench --bench watch`, with other numbers `-- REVISIONS PODS`: 30,000 pods, none of them ready, so that nothing
//! is scraped; everything is known and owned, and each revision's decider ticks. Objects are as large as in a cluster: a
//! pod has the environment of its queue-proxy and what field managers leave.
//!
//! `cargo bench --bench watch -- journal`, with other numbers `-- journal REVISIONS TURNS`: what a journal adds, without
//! and with one in turns. Each revision has a ready pod that is scraped each second, an activator reports on each of them
//! each second, and each is decided on every two seconds; loads move all the time. The pods answer on port 9090 of 127/8,
//! which must be free there: `unshare -n sh -c "ip link set lo up; cargo bench ..."` where it is not.

#![expect(clippy::print_stdout, reason = "what a bench is for")]

#[expect(dead_code, reason = "the tests use all of it")]
#[path = "../tests/it/faults/rig.rs"]
mod rig;

use ebb::clock::Clock;
use ebb::local::apiserver::{Store, kubeconfig, serve};
use ebb::stats::wire::{Stat, WireStatMessage, encode_batch};
use ebb::units::RevisionKey;
use futures::{SinkExt as _, StreamExt as _};
use prost::Message as _;
use serde_json::{Value, json};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::CancellationToken;

/// How long it is let be before CPU is measured, and for how long that is.
const SETTLE: Duration = Duration::from_secs(10);
const WATCHED: u32 = 20;

/// How often each side is measured where two are compared, unless it is said.
const TURNS: usize = 5;
/// Frames an activator spreads its reports over, each second.
const FRAMES: usize = 10;

fn main() {
    // A connection to each pod has two ends.
    let _ = rlimit::increase_nofile_limit(u64::MAX);
    let numbers: Vec<usize> = std::env::args().filter_map(|argument| argument.parse().ok()).collect();
    let journal = std::env::args().any(|argument| argument == "journal");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime");
    match numbers[..] {
        [revisions, turns] if journal => runtime.block_on(journal_in_turns(revisions, turns)),
        _ if journal => runtime.block_on(journal_in_turns(10_000, TURNS)),
        [revisions, pods] => runtime.block_on(at_rest(revisions, pods)),
        _ => runtime.block_on(at_rest(10_000, 30_000)),
    }
}

/// A cluster with so many revisions.
struct World {
    store: Arc<Store>,
    address: SocketAddr,
    revisions: usize,
}

impl World {
    async fn new(revisions: usize) -> Self {
        let store = Store::new(Clock::system());
        let cancel = CancellationToken::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound listener");
        tokio::spawn(serve(listener, Arc::clone(&store), cancel.clone()));
        let client = rig::connect(address);
        rig::config_maps(&client).await;
        tokio::spawn(rig::services(client, cancel));
        Self { store, address, revisions }
    }
}

async fn at_rest(revisions: usize, pods: usize) {
    let world = World::new(revisions).await;
    for number in 0..revisions {
        plant(&world.store, number, pods / revisions + usize::from(number < pods % revisions), Pods::Unready);
    }
    println!("{revisions} revisions, {pods} pods of {} bytes each", pod(0, 0, Pods::Unready).to_string().len());
    let run = run(&world, Pods::Unready, false).await;
    println!("{:.1} MiB resident, {:.1} at most, {:.2} % of a core", run.resident, run.most, 100.0 * run.cpu);
}

async fn journal_in_turns(revisions: usize, turns: usize) {
    serve_pods();
    let world = World::new(revisions).await;
    (0..revisions).for_each(|number| plant(&world.store, number, 1, Pods::Ready));
    println!("{revisions} revisions with a ready pod each, scraped and reported on each second");
    let mut cpu = [Vec::new(), Vec::new()];
    // The first process finds objects missing, makes them, and is larger for it.
    run(&world, Pods::Ready, false).await;
    for turn in 0..turns {
        for with in [false, true] {
            let run = run(&world, Pods::Ready, with).await;
            let name = if with { "with a journal" } else { "without" };
            println!(
                "{turn}: {name:<14} {:.2} % of a core, {:.1} MiB; each second {:.0} scrapes, {:.0} reports, {:.0} decisions, \
                 {:.0} bytes of journal",
                100.0 * run.cpu,
                run.resident,
                run.scrapes,
                run.reports,
                run.decisions,
                run.journal,
            );
            cpu[usize::from(with)].push(run.cpu);
        }
    }
    let [without, with] = cpu.map(median);
    let (more, part) = (100.0 * (with - without), 100.0 * (with / without - 1.0));
    println!("a journal takes {more:.2} % of a core more, {part:.1} % of what it is without one (medians)");
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// What a process took.
struct Run {
    /// Cores.
    cpu: f64,
    /// MiB, then and at most.
    resident: f64,
    most: f64,
    /// What it did each second.
    scrapes: f64,
    reports: f64,
    decisions: f64,
    /// Bytes of journal.
    journal: f64,
}

async fn run(world: &World, pods: Pods, journal: bool) -> Run {
    let World { store, address, revisions } = world;
    let directory = tempfile::tempdir().expect("a directory");
    let config = directory.path().join("kubeconfig");
    std::fs::write(&config, kubeconfig(*address)).expect("written");
    let log = std::fs::File::create(directory.path().join("log")).expect("made");
    let binary = std::env::var_os("EBB").unwrap_or_else(|| env!("CARGO_BIN_EXE_ebb").into());
    let (stats, admin) = (free_port().await, free_port().await);
    let mut command = Command::new(binary);
    command
        .args(["run", "--stats", &stats.to_string(), "--admin", &admin.to_string(), "--kubeconfig"])
        .arg(&config)
        .envs([("POD_NAME", "autoscaler-0"), ("POD_IP", "127.0.0.1"), ("SYSTEM_NAMESPACE", "knative-serving")])
        .stdout(Stdio::from(log))
        .kill_on_drop(true);
    if journal {
        command.arg("--journal").arg(directory.path().join("journal"));
    }
    let mut child = command.spawn().expect("ebb starts");
    let process = child.id().expect("it runs");
    // Until every revision was looked at and nothing is written any more.
    let mut version = 0;
    loop {
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert!(child.try_wait().expect("a child").is_none(), "ebb run ended");
        let now = store.version();
        let metrics = store.counts().get("metrics.autoscaling.internal.knative.dev").copied().unwrap_or(0);
        // Leases are renewed all the time.
        if metrics == *revisions && now - version < 50 {
            break;
        }
        version = now;
    }
    let activator = (pods == Pods::Ready).then(|| tokio::spawn(report(stats, *revisions)));
    tokio::time::sleep(SETTLE).await;
    let (before, counted) = (ticks(process), counts(admin).await);
    tokio::time::sleep(Duration::from_secs(WATCHED.into())).await;
    let (after, then) = (ticks(process), counts(admin).await);
    let each_second = |name: &str| (sum(&then, name) - sum(&counted, name)) / f64::from(WATCHED);
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("Linux");
    let mib = |name: &str| -> f64 {
        let line = status.lines().find(|line| line.starts_with(name)).expect("Linux");
        let kib: f64 = line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number");
        kib / 1024.0
    };
    let run = Run {
        cpu: f64::from(after - before) / 100.0 / f64::from(WATCHED),
        resident: mib("VmRSS"),
        most: mib("VmHWM"),
        scrapes: each_second("ebb_scrapes_total{outcome=\"ok\"}"),
        reports: each_second("ebb_stats_received_total"),
        decisions: each_second("ebb_evaluations_total{outcome=\"decided\"}"),
        journal: each_second("ebb_journal_bytes_total"),
    };
    if let Some(activator) = activator {
        activator.abort();
    }
    child.kill().await.expect("ended");
    run
}

/// An address nobody listens at now.
async fn free_port() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    listener.local_addr().expect("a bound listener")
}

/// What a process counts.
async fn counts(admin: SocketAddr) -> String {
    let answer = reqwest::get(format!("http://{admin}/metrics")).await.expect("the admin port");
    answer.text().await.expect("text")
}

/// The sum of the series whose name and labels begin so.
fn sum(counts: &str, name: &str) -> f64 {
    let lines = counts.lines().filter(|line| line.starts_with(name));
    lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
}

/// Reports on every revision each second, as an activator does.
async fn report(stats: SocketAddr, revisions: usize) {
    let stream = TcpStream::connect(stats).await.expect("the stats port");
    let connection = tokio_tungstenite::client_async("ws://autoscaler.knative-serving/", stream).await;
    let (mut send, mut receive) = connection.expect("a websocket").0.split();
    // Pings are answered as they are read.
    tokio::spawn(async move { while let Some(Ok(_)) = receive.next().await {} });
    let keys: Vec<_> = (0..revisions).map(|number| RevisionKey::new(rig::NAMESPACE, &revision(number))).collect();
    let mut turns = tokio::time::interval(Duration::from_secs(1) / u32::try_from(FRAMES).expect("few"));
    for turn in 0.. {
        turns.tick().await;
        let some = keys.iter().skip(turn % FRAMES).step_by(FRAMES);
        let stat = load(turn / FRAMES);
        let messages = some.map(|key| WireStatMessage::new(key, stat.clone())).collect();
        if send.send(Message::Binary(encode_batch(messages))).await.is_err() {
            return;
        }
    }
}

/// The load of a revision, which is another each second.
fn load(second: usize) -> Stat {
    let step = f64::from(u32::try_from(second % 16).expect("small"));
    Stat {
        pod_name: "service-00001-deployment-5ffdb95f79-x7abc".into(),
        average_concurrent_requests: 1.0 + step / 7.0,
        request_count: 10.0 + step,
        process_uptime: 1234.5,
        ..Stat::default()
    }
}

/// Answers scrapes as queue-proxies do, at every address of 127/8.
fn serve_pods() {
    let listener = std::net::TcpListener::bind("0.0.0.0:9090").expect("port 9090 of every address of 127/8");
    listener.set_nonblocking(true).expect("a socket");
    let answers: Vec<Vec<u8>> = (0..16)
        .map(|second| {
            let stat = load(second).encode_to_vec();
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: application/protobuf\r\nContent-Length: {}\r\n\r\n",
                stat.len()
            );
            [head.into_bytes(), stat].concat()
        })
        .collect();
    let answers = Arc::new(answers);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    std::thread::spawn(move || {
        runtime.block_on(async move {
            let listener = TcpListener::from_std(listener).expect("a listener");
            loop {
                let (mut stream, _) = listener.accept().await.expect("a connection");
                let answers = Arc::clone(&answers);
                tokio::spawn(async move {
                    let mut request = [0; 1024];
                    for answer in answers.iter().cycle() {
                        let Ok(1..) = stream.read(&mut request).await else { return };
                        if stream.write_all(answer).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
    });
}

/// What pods are like.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pods {
    Unready,
    Ready,
}

/// A revision with what belongs to it, as it is after a while.
fn plant(store: &Store, number: usize, pods: usize, like: Pods) {
    let name = revision(number);
    let put = |group: &str, version: &str, plural: &str, mut object: Value| {
        object["metadata"]["namespace"] = rig::NAMESPACE.into();
        object["metadata"]["uid"] = uid(plural, number, 0).into();
        assert!(store.plant(group, version, plural, object), "{plural} {name}");
    };
    let mut autoscaler = rig::autoscaler(&name, &json!({"autoscaling.knative.dev/target": "10"}));
    autoscaler["metadata"]["generation"] = 1.into();
    autoscaler["metadata"]["managedFields"] = managed();
    autoscaler["status"] = rig::status_at_zero(&name)["status"].clone();
    if like == Pods::Ready {
        (autoscaler["status"]["desiredScale"], autoscaler["status"]["actualScale"]) = (pods.into(), pods.into());
        for condition in autoscaler["status"]["conditions"].as_array_mut().expect("conditions") {
            (condition["status"], condition["reason"]) = ("True".into(), "".into());
        }
    }
    put("autoscaling.internal.knative.dev", "v1alpha1", "podautoscalers", autoscaler);
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": name, "labels": labels(number), "managedFields": managed(), "generation": 1},
        "spec": {"replicas": pods, "selector": {"matchLabels": {"serving.knative.dev/revisionUID": uid("revisions", number, 0)}},
                 "template": {"metadata": {"labels": labels(number)}, "spec": pod(number, 0, like)["spec"]}},
        "status": {"replicas": pods, "unavailableReplicas": pods, "observedGeneration": 1},
    });
    put("apps", "v1", "deployments", deployment);
    for index in 0..pods {
        let mut pod = pod(number, index, like);
        pod["metadata"]["namespace"] = rig::NAMESPACE.into();
        assert!(store.plant("", "v1", "pods", pod));
    }
}

fn revision(number: usize) -> String {
    format!("service-{number:05}-00001")
}

fn uid(kind: &str, number: usize, index: usize) -> String {
    format!("{:08x}-{number:04x}-4000-8000-{index:012x}", kind.len() * 7919 + number)
}

fn labels(number: usize) -> Value {
    let name = revision(number);
    json!({
        "app": name, "serving.knative.dev/revision": name, "serving.knative.dev/revisionUID": uid("revisions", number, 0),
        "serving.knative.dev/configuration": format!("service-{number:05}"), "serving.knative.dev/configurationGeneration": "1",
        "serving.knative.dev/configurationUID": uid("configurations", number, 0),
        "serving.knative.dev/service": format!("service-{number:05}"),
        "serving.knative.dev/serviceUID": uid("services", number, 0), "pod-template-hash": "5ffdb95f79",
    })
}

/// A pod of a revision as an API server keeps it: the user's container and the queue-proxy with its environment.
fn pod(number: usize, index: usize, like: Pods) -> Value {
    let name = revision(number);
    let variables: Vec<_> = (0..35)
        .map(|variable| json!({"name": format!("SERVING_SETTING_{variable}"), "value": format!("{name}-{variable}")}))
        .collect();
    let mount = json!({"name": "kube-api-access", "readOnly": true, "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"});
    let image = "registry.example.com/team/app@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    let container = |name: &str, env: Value| {
        json!({
            "name": name, "image": image, "env": env, "volumeMounts": [mount], "imagePullPolicy": "IfNotPresent",
            "resources": {"requests": {"cpu": "25m"}}, "terminationMessagePath": "/dev/termination-log",
            "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}],
            "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
        })
    };
    let conditions = ["Initialized", "Ready", "ContainersReady", "PodScheduled"].map(|type_| {
        let ready = like == Pods::Ready || !type_.ends_with("eady");
        let status = if ready { "True" } else { "False" };
        json!({"type": type_, "status": status, "lastTransitionTime": "2026-01-02T03:04:05Z"})
    });
    let [_, high, middle, low] = Ipv4Addr::from_bits(0x7f01_0001 + u32::try_from(number).expect("few")).octets();
    let address = match like {
        Pods::Ready => format!("127.{high}.{middle}.{low}"),
        Pods::Unready => format!("10.{}.{}.{}", number / 256, number % 256, index % 256),
    };
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": format!("{name}-deployment-5ffdb95f79-{index:05}"), "uid": uid("pods", number, index), "labels": labels(number),
            "creationTimestamp": "2026-01-02T03:04:05Z", "managedFields": managed(),
            "annotations": {"serving.knative.dev/creator": "system:serviceaccount:team:deployer"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("{name}-deployment-5ffdb95f79"),
                                 "uid": uid("replicasets", number, 0), "controller": true, "blockOwnerDeletion": true}],
        },
        "spec": {
            "containers": [container("user-container", json!([])), container("queue-proxy", variables.into())],
            "nodeName": "node-1", "serviceAccountName": "default", "terminationGracePeriodSeconds": 300,
            "volumes": [{"name": "kube-api-access", "projected": {"defaultMode": 420, "sources": []}}],
        },
        "status": {
            "phase": "Running", "podIP": address,
            "startTime": "2026-01-02T03:04:05Z",
            "conditions": conditions,
        },
    })
}

/// What field managers leave behind.
fn managed() -> Value {
    let fields: serde_json::Map<_, _> = (0..40).map(|field| (format!("f:field-{field}"), json!({".": {}}))).collect();
    json!([{"manager": "controller", "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1",
            "time": "2026-01-02T03:04:05Z", "fieldsV1": {"f:metadata": {"f:labels": fields}}}])
}

/// CPU time of a process, in hundredths of a second.
fn ticks(process: u32) -> u32 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).expect("Linux");
    let fields: Vec<_> = stat.rsplit(')').next().expect("fields").split_whitespace().collect();
    [11, 12].map(|field: usize| fields[field].parse::<u32>().expect("a number")).iter().sum()
}
