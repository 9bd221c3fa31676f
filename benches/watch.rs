//! What a cluster of 10,000 revisions with 30,000 pods costs `ebb run`: `cargo bench --bench watch`, with other numbers
//! `cargo bench --bench watch -- REVISIONS PODS`. `EBB` names another binary to measure. With `cargo bench --bench watch --
//! journal`, what a journal adds: five times without and five times with one, in turns.
//!
//! `ebb run` is a process of its own, so that its memory is only its own; the API server is here. Objects are as large
//! as in a cluster: a pod has the environment of its queue-proxy and what field managers leave. The pods are not ready,
//! so that nothing is scraped; everything is known and owned, each revision's decider ticks.

#![expect(clippy::print_stdout, reason = "what a bench is for")]

#[expect(dead_code, reason = "the tests use all of it")]
#[path = "../tests/it/faults/rig.rs"]
mod rig;

use ebb::clock::Clock;
use ebb::local::apiserver::{Store, kubeconfig, serve};
use serde_json::{Value, json};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

/// How long it is let be before CPU is measured, and for how long that is.
const SETTLE: Duration = Duration::from_secs(20);
const WATCHED: u32 = 30;

/// How often each side is measured where two are compared.
const TURNS: usize = 5;

fn main() {
    let numbers: Vec<usize> = std::env::args().filter_map(|argument| argument.parse().ok()).collect();
    let journal = std::env::args().any(|argument| argument == "journal");
    let (revisions, pods) = match numbers[..] {
        [revisions, pods] => (revisions, pods),
        _ => (10_000, 30_000),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(watch(revisions, pods, journal));
}

async fn watch(revisions: usize, pods: usize, journal: bool) {
    let store = Store::new(Clock::system());
    let cancel = CancellationToken::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("a bound listener");
    tokio::spawn(serve(listener, Arc::clone(&store), cancel.clone()));
    let client = rig::connect(address);
    rig::config_maps(&client).await;
    tokio::spawn(rig::services(client, cancel));
    for number in 0..revisions {
        plant(&store, number, pods / revisions + usize::from(number < pods % revisions));
    }
    println!("{revisions} revisions, {pods} pods of {} bytes each", pod(0, 0).to_string().len());

    if !journal {
        let run = run(&store, address, revisions, false).await;
        println!("{:.1} MiB resident, {:.1} at most, {:.2} % of a core", run.resident, run.most, 100.0 * run.cpu);
        return;
    }
    let mut cpu = [Vec::new(), Vec::new()];
    for turn in 0..TURNS {
        for with in [false, true] {
            let run = run(&store, address, revisions, with).await;
            let name = if with { "with a journal" } else { "without" };
            println!(
                "{turn}: {name:<14} {:.2} % of a core, {:.1} MiB, {} bytes of journal",
                100.0 * run.cpu,
                run.resident,
                run.journal
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

/// What a process took while nothing changed.
struct Run {
    /// Cores.
    cpu: f64,
    /// MiB, then and at most.
    resident: f64,
    most: f64,
    /// Bytes of its journal.
    journal: u64,
}

async fn run(store: &Store, address: std::net::SocketAddr, revisions: usize, journal: bool) -> Run {
    let directory = tempfile::tempdir().expect("a directory");
    let config = directory.path().join("kubeconfig");
    std::fs::write(&config, kubeconfig(address)).expect("written");
    let log = std::fs::File::create(directory.path().join("log")).expect("made");
    let binary = std::env::var_os("EBB").unwrap_or_else(|| env!("CARGO_BIN_EXE_ebb").into());
    let mut command = Command::new(binary);
    command
        .args(["run", "--stats", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--kubeconfig"])
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
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(child.try_wait().expect("a child").is_none(), "ebb run ended");
        let now = store.version();
        let metrics = store.counts().get("metrics.autoscaling.internal.knative.dev").copied().unwrap_or(0);
        // Leases are renewed all the time.
        if metrics == revisions && now - version < 50 {
            break;
        }
        version = now;
    }
    tokio::time::sleep(SETTLE).await;
    let before = ticks(process);
    tokio::time::sleep(Duration::from_secs(WATCHED.into())).await;
    let cpu = f64::from(ticks(process) - before) / 100.0 / f64::from(WATCHED);
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("Linux");
    let mib = |name: &str| -> f64 {
        let line = status.lines().find(|line| line.starts_with(name)).expect("Linux");
        let kib: f64 = line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number");
        kib / 1024.0
    };
    let files = std::fs::read_dir(directory.path().join("journal")).into_iter().flatten().flatten();
    let written = files.filter_map(|file| Some(file.metadata().ok()?.len())).sum();
    let run = Run { cpu, resident: mib("VmRSS"), most: mib("VmHWM"), journal: written };
    child.kill().await.expect("ended");
    run
}

/// A revision with what belongs to it, as it is after a while.
fn plant(store: &Store, number: usize, pods: usize) {
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
    put("autoscaling.internal.knative.dev", "v1alpha1", "podautoscalers", autoscaler);
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": name, "labels": labels(number), "managedFields": managed(), "generation": 1},
        "spec": {"replicas": pods, "selector": {"matchLabels": {"serving.knative.dev/revisionUID": uid("revisions", number, 0)}},
                 "template": {"metadata": {"labels": labels(number)}, "spec": pod(number, 0)["spec"]}},
        "status": {"replicas": pods, "unavailableReplicas": pods, "observedGeneration": 1},
    });
    put("apps", "v1", "deployments", deployment);
    for index in 0..pods {
        let mut pod = pod(number, index);
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
fn pod(number: usize, index: usize) -> Value {
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
        let status = if type_.ends_with("eady") { "False" } else { "True" };
        json!({"type": type_, "status": status, "lastTransitionTime": "2026-01-02T03:04:05Z"})
    });
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
            "phase": "Running", "podIP": format!("10.{}.{}.{}", number / 256, number % 256, index % 256),
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
