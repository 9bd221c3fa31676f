//! `ebb check` as a user runs it: the built binary on files, and on a cluster.
//!
//! Each `tests/expected/check/NAME.yaml` is checked, with the flags its first line names, and the answer compared with
//! `NAME.txt` beside it. `EBB_BLESS=1` writes what is answered; the difference is then looked at.

use crate::apiserver::Served;
use crate::apiserver::conformance::object;
use ebb::api::pod_autoscaler::PodAutoscaler;
use ebb::api::serving::{Revision, Service};
use ebb::local::apiserver::kubeconfig;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::api::{Patch, PatchParams, PostParams};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fmt::Debug;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

fn directory() -> PathBuf {
    crate::root().join("tests/expected/check")
}

fn ebb(flags: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ebb"));
    command.arg("check").args(flags).current_dir(directory());
    command.env_remove("KUBECONFIG").env_remove("NO_COLOR").env_remove("SYSTEM_NAMESPACE").env_remove("EBB_LOG");
    command.stdin(Stdio::null());
    command
}

fn run(flags: &[&str]) -> Output {
    ebb(flags).output().expect("the ebb binary")
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("it was not killed")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("UTF-8")
}

#[test]
fn every_manifest_is_judged_as_written_down() {
    let bless = std::env::var_os("EBB_BLESS").is_some();
    let mut files: Vec<PathBuf> = std::fs::read_dir(directory())
        .expect("tests/expected/check")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    files.sort();
    assert!(files.len() > 10);
    let mut different = Vec::new();
    for file in files {
        let name = file.file_name().and_then(|name| name.to_str()).expect("a name").to_owned();
        let manifest = std::fs::read_to_string(&file).expect("a manifest");
        let first = manifest.lines().next().unwrap_or_default();
        let mut flags: Vec<&str> = first.strip_prefix("# flags:").into_iter().flat_map(str::split_whitespace).collect();
        flags.extend(["-f", &name]);
        let output = run(&flags);
        let answer = format!("{}{}exit {}\n", text(&output.stdout), text(&output.stderr), code(&output));
        let expected = file.with_extension("txt");
        if bless {
            std::fs::write(&expected, &answer).expect("a writable directory");
        }
        let known = std::fs::read_to_string(&expected).unwrap_or_default();
        if known != answer {
            different.push(format!("--- {name}: expected\n{known}+++ {name}: answered\n{answer}\n"));
        }
    }
    assert!(
        different.is_empty(),
        "{}EBB_BLESS=1 writes what is answered; look at the difference then",
        different.concat()
    );
}

/// docs/check.md explains each rule, and each is seen at work in one of the expected answers.
#[test]
fn every_rule_is_explained_and_shown() {
    let text = std::fs::read_to_string(crate::root().join("docs/check.md")).expect("docs/check.md");
    let explained: BTreeSet<String> = text
        .lines()
        .skip_while(|line| !line.starts_with("| rule |"))
        .skip(2)
        .map_while(|line| line.strip_prefix("| `")?.split_once('`').map(|(rule, _)| rule.to_owned()))
        .collect();
    let mut shown = BTreeSet::new();
    for entry in std::fs::read_dir(directory()).expect("tests/expected/check") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|extension| extension == "txt") {
            let answer = std::fs::read_to_string(&path).expect("an answer");
            let rules = answer.lines().filter_map(|line| line.strip_suffix(']')?.rsplit_once('['));
            shown.extend(rules.map(|(_, rule)| rule.to_owned()));
        }
    }
    assert_eq!(explained, shown, "the table of docs/check.md on the left, tests/expected/check on the right");
}

#[test]
fn the_documents_show_what_is_answered() {
    let document = |path| std::fs::read_to_string(crate::root().join(path)).expect(path);
    let (readme, manual) = (document("README.md"), document("docs/check.md"));
    let output = run(&["-f", "shop.yaml"]);
    let shown = format!("$ ebb check -f shop.yaml\n{}", text(&output.stdout));
    assert!(manual.contains(shown.trim_end()), "docs/check.md does not show:\n{shown}");
    assert!(manual.contains(&std::fs::read_to_string(directory().join("shop.yaml")).expect("shop.yaml")));

    let output = run(&["-q", "-f", "shop.yaml"]);
    let short = text(&output.stdout).replace("shop.yaml:", "tests/expected/check/shop.yaml:");
    assert!(readme.contains(short.trim_end()), "README.md does not show:\n{short}");
}

#[test]
fn programs_get_json() {
    let output = run(&["-f", "target.yaml", "--format", "json"]);
    let answer: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((code(&output), &answer["version"]), (0, &json!(1)));
    let above = &answer["revisions"][0];
    assert_eq!(
        (&above["kind"], &above["namespace"], &above["name"], &above["servedBy"]),
        (&json!("Service"), &json!("default"), &json!("above-limit"), &json!("kpa"))
    );
    let setting = |name: &str| {
        let settings = above["settings"].as_array().expect("settings").iter();
        settings.clone().find(|setting| setting["name"] == name).cloned().unwrap_or_else(|| panic!("no {name}"))
    };
    assert_eq!(
        setting("target"),
        json!({
            "name": "target", "value": 10.0, "unit": "requests in flight", "note": "",
            "origin": {"kind": "field", "key": "containerConcurrency"},
        })
    );
    assert_eq!(setting("stable-window")["value"], 60.0);
    assert_eq!(setting("stable-window")["origin"], json!({"kind": "default"}));
    assert_eq!(setting("target in force")["origin"], json!({"kind": "derived"}));
    let finding = &above["findings"][0];
    assert_eq!((&finding["severity"], &finding["rule"]), (&json!("warning"), &json!("target-above-limit")));
    assert_eq!(finding["source"], json!({"file": "target.yaml", "line": 8, "column": 21}));
    assert_eq!(finding["path"], "spec.template.metadata.annotations[autoscaling.knative.dev/target]");
    assert_eq!((&finding["key"], &finding["value"]), (&json!("autoscaling.knative.dev/target"), &json!("50")));
    let told = run(&["-f", "target.yaml", "-q"]);
    assert_eq!(answer["warnings"], text(&told.stdout).matches(": warning: ").count());

    let maps: Value = serde_json::from_slice(&run(&["-f", "maps.yaml", "--format", "json"]).stdout).expect("JSON");
    let map = json!({"kind": "configMap", "map": "config-defaults", "key": "container-concurrency"});
    let settings = maps["revisions"][0]["settings"].as_array().expect("settings");
    assert!(settings.iter().any(|setting| setting["origin"] == map), "{settings:#?}");
    let shapes: Value = serde_json::from_slice(&run(&["-f", "shapes.yaml", "--format", "json"]).stdout).expect("JSON");
    assert_eq!(shapes["skipped"][0]["kind"], "Deployment");
}

#[test]
fn the_exit_code_is_the_answer() {
    for (flags, want, said) in [
        (&["-f", "fine.yaml"][..], 0, ""),
        (&["-f", "burst.yaml"], 0, ""),
        (&["-f", "burst.yaml", "--strict"], 1, ""),
        (&["-f", "annotations.yaml"], 1, ""),
        (&["-f", "broken.yaml"], 1, ""),
        (&["-f", "empty.yaml"], 0, ""),
        (&["-f", "none.yaml"], 2, "none.yaml: cannot be read"),
        // What can be read is told all the same.
        (&["-f", "none.yaml", "-f", "annotations.yaml"], 2, "none.yaml: cannot be read"),
        (&[], 2, "--filename"),
        (&["-f", "fine.yaml", "-A"], 2, "--all-namespaces"),
        (&["--cluster", "--kubeconfig", "no-such-kubeconfig"], 2, "no-such-kubeconfig"),
        (&["-f", "fine.yaml", "--startup", "soon"], 2, "not a duration"),
    ] {
        let output = run(flags);
        assert_eq!(code(&output), want, "{flags:?}: {}{}", text(&output.stdout), text(&output.stderr));
        assert!(text(&output.stderr).contains(said), "{flags:?}: {}", text(&output.stderr));
    }
    assert!(text(&run(&["-f", "none.yaml", "-f", "annotations.yaml"]).stdout).contains("1 revision"));
}

#[test]
fn standard_input_and_directories_are_files_too() {
    let mut child =
        ebb(&["-q", "-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the ebb binary");
    let manifest = std::fs::read(directory().join("target.yaml")).expect("a manifest");
    child.stdin.take().expect("a pipe").write_all(&manifest).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    assert!(text(&output.stdout).contains("standard input:8:21: warning: "), "{}", text(&output.stdout));

    let all = run(&["-q", "-f", "."]);
    assert_eq!(code(&all), 1);
    assert!(text(&all.stdout).contains("times.yaml:"), "{}", text(&all.stdout));
}

#[test]
fn colour_is_for_terminals_only() {
    assert!(!text(&run(&["-f", "target.yaml"]).stdout).contains('\u{1b}'));
}

async fn create<K>(client: &kube::Client, value: Value)
where
    K: kube::Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Serialize,
{
    let resource = kube::api::ApiResource::erase::<K>(&());
    let made: kube::api::DynamicObject = object(value);
    let api = match &made.metadata.namespace {
        Some(namespace) => kube::Api::namespaced_with(client.clone(), namespace, &resource),
        None => kube::Api::all_with(client.clone(), &resource),
    };
    api.create(&PostParams::default(), &made).await.expect("created");
}

/// A cluster with settings of its own, a service with two revisions, and nobody else.
async fn cluster() -> (Served, tempfile::TempDir, PathBuf) {
    let served = Served::start().await;
    let client = served.client();
    let metadata = |namespace: &str, name: &str| json!({"name": name, "namespace": namespace});
    create::<Namespace>(&client, json!({"metadata": {"name": "prod"}})).await;
    let settings = json!({"target-burst-capacity": "-1", "stable-window": "30s"});
    create::<ConfigMap>(
        &client,
        json!({"metadata": metadata("knative-serving", "config-autoscaler"), "data": settings}),
    )
    .await;
    let spec = json!({"containerConcurrency": 10, "containers": [{"image": "example.com/shop"}]});
    let mut service = metadata("prod", "shop");
    service["annotations"] = json!({"serving.knative.dev/progress-deadline": "5m"});
    let service = json!({"metadata": service, "spec": {"template": {"spec": spec}}});
    create::<Service>(&client, service).await;
    for (name, reachability) in [("shop-00001", "Unreachable"), ("shop-00002", "Reachable")] {
        let mut meta = metadata("prod", name);
        meta["annotations"] = json!({"autoscaling.knative.dev/target": "20"});
        create::<Revision>(&client, json!({"metadata": meta, "spec": spec})).await;
        let target = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": format!("{name}-deployment")});
        let pa = json!({
            "metadata": meta,
            "spec": {"containerConcurrency": 10, "protocolType": "http1", "reachability": reachability, "scaleTargetRef": target},
        });
        create::<PodAutoscaler>(&client, pa).await;
        let status = json!({"status": {
            "serviceName": name, "metricsServiceName": "", "actualScale": 1,
            "conditions": [{"type": "Active", "status": "True", "lastTransitionTime": "2026-01-02T03:04:05Z"}],
        }});
        let pas: kube::Api<PodAutoscaler> = kube::Api::namespaced(client.clone(), "prod");
        pas.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await.expect("a status");
    }
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("kubeconfig");
    std::fs::write(&file, kubeconfig(served.addr)).expect("a writable directory");
    (served, directory, file)
}

async fn run_on(kubeconfig: &std::path::Path, flags: &[&str]) -> Output {
    let mut command = ebb(flags);
    command.arg("--kubeconfig").arg(kubeconfig);
    tokio::task::spawn_blocking(move || command.output().expect("the ebb binary")).await.expect("no panic")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_live_cluster_is_checked_with_its_own_settings() {
    let (_served, _directory, kubeconfig) = cluster().await;
    let output = run_on(&kubeconfig, &["--cluster", "-A"]).await;
    let answer = text(&output.stdout);
    assert_eq!(code(&output), 0, "{answer}{}", text(&output.stderr));
    for line in [
        // The trap of the ConfigMap is told once, and not for the revision.
        "ConfigMap knative-serving/config-autoscaler: warning: target-burst-capacity \"-1\": the activator stays",
        "Service prod/shop: warning: serving.knative.dev/progress-deadline \"5m\": Knative accepts it here",
        "Revision prod/shop-00002 (scaled on requests, to zero and back)",
        "Revision prod/shop-00002: warning: autoscaling.knative.dev/target \"20\": a pod takes at most 10",
        "Revision prod/shop-00002: warning: Active \"for ",
        "left out: 1 revision, to which no route leads",
        "in 1 revision; settings: the cluster of context ",
    ] {
        assert!(answer.contains(line), "{line:?} is not in:\n{answer}");
    }
    let window = answer.lines().find(|line| line.trim_start().starts_with("stable-window")).expect("the window");
    assert_eq!(
        window.split_whitespace().collect::<Vec<_>>(),
        ["stable-window", "30s", "config-autoscaler", "stable-window"]
    );
    assert_eq!(answer.matches("the activator stays").count(), 1, "{answer}");

    // Another namespace has nothing; the exit code says so too.
    let output = run_on(&kubeconfig, &["--cluster", "-n", "elsewhere", "--format", "json"]).await;
    let answer: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((code(&output), &answer["revisions"]), (0, &json!([])));

    // Files are judged with the cluster's settings.
    let output = run_on(&kubeconfig, &["--cluster", "-f", "startup.yaml", "--startup", "40s", "-q"]).await;
    assert!(text(&output.stdout).contains("the window forgets after 30s"), "{}", text(&output.stdout));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_without_an_answer_is_said_so() {
    let served = Served::start().await;
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("kubeconfig");
    std::fs::write(&file, kubeconfig(served.addr)).expect("a writable directory");
    let output = run_on(&file, &["--cluster"]).await;
    assert_eq!(code(&output), 2);
    assert!(
        text(&output.stderr).contains("there is no ConfigMap knative-serving/config-autoscaler"),
        "{}",
        text(&output.stderr)
    );

    let output = run_on(&file, &["--cluster", "--context", "nowhere"]).await;
    assert_eq!(code(&output), 2);
    assert!(text(&output.stderr).contains("\"nowhere\""), "{}", text(&output.stderr));

    drop(served);
    // A port nobody listens on any more.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let gone = listener.local_addr().expect("an address");
    drop(listener);
    std::fs::write(&file, kubeconfig(gone)).expect("a writable directory");
    let output = run_on(&file, &["--cluster"]).await;
    assert_eq!(code(&output), 2);
    assert!(text(&output.stderr).contains("cannot be read"), "{}", text(&output.stderr));
}
