//! The states a revision can be in, each made by `ebb local`: the first sentence names the cause, the same in `ebb explain`
//! and on the page, and what somebody should do something about is an event. And the cold-start ledger, against what a
//! client saw.

use crate::system::{Local, eventually};
use ebb::api::pods::PodCounts;
use ebb::clock::Clock;
use ebb::engine::{Decision, Observed, Reason};
use ebb::observe::explain::{Account, MOST_CHANGES, latest, unknown_before};
use ebb::observe::feed::ScaleChange;
use ebb::observe::plan::Plan;
use ebb::units::{RevisionKey, ScalingMetric, Span, Timestamp};
use serde_json::{Value, json};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const MANIFEST: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: config-autoscaler, namespace: knative-serving}
data: {scale-to-zero-grace-period: 1s, allow-zero-initial-scale: "true"}
---
apiVersion: serving.knative.dev/v1
kind: Service
metadata: {name: steady, namespace: default}
spec: {template: {metadata: {annotations: {autoscaling.knative.dev/min-scale: "2"}}, spec: {containers: [{image: ebb.local/hello}]}}}
---
apiVersion: serving.knative.dev/v1
kind: Service
metadata: {name: idle, namespace: default}
spec: {template: {metadata: {annotations: {autoscaling.knative.dev/window: 6s}}, spec: {containers: [{image: ebb.local/hello}]}}}
---
apiVersion: serving.knative.dev/v1
kind: Service
metadata: {name: held, namespace: default}
spec:
  template:
    metadata: {annotations: {autoscaling.knative.dev/target: "1", autoscaling.knative.dev/max-scale: "2"}}
    spec: {containers: [{image: ebb.local/hello}]}
---
apiVersion: serving.knative.dev/v1
kind: Service
metadata: {name: rush, namespace: default}
spec: {template: {metadata: {annotations: {autoscaling.knative.dev/target: "2"}}, spec: {containers: [{image: ebb.local/hello}]}}}
---
apiVersion: serving.knative.dev/v1
kind: Service
metadata: {name: fails, namespace: default}
spec:
  template:
    metadata: {annotations: {autoscaling.knative.dev/initial-scale: "0", autoscaling.knative.dev/window: 6s}}
    spec: {containers: [{image: x, command: [/bin/sh, -c, exit 3]}]}
"#;

impl Local {
    /// What `ebb explain` says first, once it says it; and that the page says the same.
    async fn explained(&self, revision: &str, parts: &[&str]) {
        eventually(&format!("{revision} to be explained with {parts:?}"), async || {
            let admin = self.admin.strip_prefix("http://").expect("an address");
            let explain = Command::new(env!("CARGO_BIN_EXE_ebb"))
                .args(["explain", &format!("default/{revision}"), "--admin", admin])
                .output()
                .expect("the ebb binary");
            let text = String::from_utf8(explain.stdout).expect("text");
            let sentence = text.lines().nth(2).unwrap_or_default();
            if !parts.iter().all(|part| sentence.contains(part)) {
                return None;
            }
            let page = self.page(revision).await;
            // It may have been decided anew meanwhile.
            (page["account"]["sentence"] == sentence).then_some(())
        })
        .await;
    }

    async fn page(&self, revision: &str) -> Value {
        let url = format!("{}/ui/revision/default/{revision}", self.admin);
        reqwest::get(url).await.expect("an answer").json().await.expect("JSON")
    }

    /// The note of an event on a PodAutoscaler, once there is one of that reason.
    async fn event(&self, revision: &str, reason: &str) -> String {
        eventually(&format!("an event {reason} on {revision}"), async || {
            let events = self.object("/api/v1/namespaces/default/events").await;
            let found = events["items"].as_array()?.iter().find(|event| {
                event["reason"] == reason
                    && event["involvedObject"]["kind"] == "PodAutoscaler"
                    && event["involvedObject"]["name"] == revision
            })?;
            found["message"].as_str().map(str::to_owned)
        })
        .await
    }

    async fn create(&self, path: &str, object: &Value) {
        let answer = reqwest::Client::new().post(format!("{}{path}", self.api)).json(object).send().await;
        let answer = answer.expect("an answer");
        assert_eq!(answer.status(), 201, "{object}: {}", answer.text().await.unwrap_or_default());
    }

    /// A Deployment and its PodAutoscaler, as a Revision would have made them.
    async fn by_hand(&self, name: &str, image: &str, mut annotations: Value) {
        let labels = json!({
            "serving.knative.dev/configuration": name, "serving.knative.dev/revision": name,
            "serving.knative.dev/revisionUID": name, "serving.knative.dev/service": name,
        });
        let deployment = format!("{name}-deployment");
        let object = json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": deployment, "labels": labels},
            "spec": {
                "replicas": 0, "selector": {"matchLabels": {"serving.knative.dev/revisionUID": name}},
                "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "user-container", "image": image}]}},
            },
        });
        self.create("/apis/apps/v1/namespaces/default/deployments", &object).await;
        annotations["autoscaling.knative.dev/class"] = json!("kpa.autoscaling.knative.dev");
        let target = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": deployment});
        let object = json!({
            "apiVersion": "autoscaling.internal.knative.dev/v1alpha1", "kind": "PodAutoscaler",
            "metadata": {"name": name, "labels": labels, "annotations": annotations},
            "spec": {"scaleTargetRef": target, "protocolType": "http1", "reachability": "Reachable"},
        });
        self.create("/apis/autoscaling.internal.knative.dev/v1alpha1/namespaces/default/podautoscalers", &object).await;
    }

    /// Requests to a service, so many at a time, until told to stop.
    fn load(&self, service: &str, clients: usize, stop: &Arc<AtomicBool>) -> Vec<tokio::task::JoinHandle<()>> {
        let host = format!("{service}.default.example.com");
        let one = |_| {
            let (url, host, stop) = (format!("{}/?sleep=250ms", self.gateway), host.clone(), Arc::clone(stop));
            tokio::spawn(async move {
                let client = reqwest::Client::new();
                while !stop.load(Ordering::Relaxed) {
                    let answer = client.get(&url).header("Host", &host).send().await;
                    assert_eq!(answer.expect("an answer").status(), 200);
                }
            })
        };
        (0..clients).map(one).collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_sentence_names_the_cause() {
    let local = Local::start(MANIFEST, &["--startup-delay", "200ms", "--window", "20s"]).await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut load = local.load("held", 12, &stop);

    local.explained("steady-00001", &["It wants and has 2 pods: min-scale keeps 2 pods"]).await;
    local.explained("held-00001", &["held at max-scale 2", "its load would need", "waits in the activator"]).await;
    let held = local.event("held-00001", "HeldAtMax").await;
    assert!(held.starts_with("It is held at max-scale 2, and its load would need "), "{held}");
    assert!(local.event("held-00001", "ScaledUp").await.starts_with("From "));

    local.explained("idle-00001", &["It wants and has 0 pods: it is at zero, because no request came in for 6s"]).await;
    assert!(local.event("idle-00001", "ScaledDown").await.starts_with("From 1 to 0 pods: "));

    // A burst: most of it within the last tenth of the window.
    load.extend(local.load("rush", 30, &stop));
    local.explained("rush-00001", &["load rose so fast", "requests in flight"]).await;
    stop.store(true, Ordering::Relaxed);

    // A program that ends at once.
    let container = json!({"image": "x", "command": ["/bin/sh", "-c", "exit 3"]});
    let service = json!({
        "apiVersion": "serving.knative.dev/v1", "kind": "Service", "metadata": {"name": "ends"},
        "spec": {"template": {"spec": {"containers": [container]}}},
    });
    local.create("/apis/serving.knative.dev/v1/namespaces/default/services", &service).await;
    local
        .explained(
            "ends-00001",
            &["a container of its pod does not start (CrashLoopBackOff): it ended with exit code 3"],
        )
        .await;
    assert!(local.event("ends-00001", "ContainerNotStarting").await.contains("back-off"));

    // Somebody asked for it and has given up; it is still given its time.
    let url = format!("{}/", local.gateway);
    let asked = reqwest::Client::new().get(url).header("Host", "fails.default.example.com");
    assert!(asked.timeout(std::time::Duration::from_secs(2)).send().await.is_err(), "no pod becomes ready");
    local
        .explained(
            "fails-00001",
            &["It wants no pod now and has 1 that is not ready: a container of its pod does not start"],
        )
        .await;
    assert_eq!(local.page("fails-00001").await["account"]["state"], "stuck");

    // One that runs and never listens.
    let container = json!({"image": "x", "command": ["/bin/sh", "-c", "exec sleep 1000"]});
    let service = json!({
        "apiVersion": "serving.knative.dev/v1", "kind": "Service", "metadata": {"name": "deaf"},
        "spec": {"template": {"spec": {"containers": [container]}}},
    });
    local.create("/apis/serving.knative.dev/v1/namespaces/default/services", &service).await;
    local.explained("deaf-00001", &["Nothing is decided yet, because its load is not known until a pod is ready: its pod runs and is not ready"]).await;

    // An image that was there when the revision was made and is gone, and what no webhook lets through: neither can be made
    // by a Service here, so the objects are made by hand.
    local
        .by_hand("absent-00001", "registry.example.com/absent:1", json!({"autoscaling.knative.dev/min-scale": "1"}))
        .await;
    local.explained("absent-00001", &["the image of its pod cannot be pulled (ErrImagePull): "]).await;
    assert!(local.event("absent-00001", "ImagePullFailing").await.starts_with("The image of its pod cannot be pulled"));
    assert_eq!(local.page("absent-00001").await["account"]["state"], "stuck");
    local.by_hand("wrong-00001", "ebb.local/hello", json!({"autoscaling.knative.dev/target": "ten"})).await;
    local.explained("wrong-00001", &["something is to be mended: autoscaling.knative.dev/target: \"ten\""]).await;
    assert!(local.event("wrong-00001", "InvalidAnnotation").await.contains("\"ten\""));
    assert_eq!(local.page("wrong-00001").await["account"]["state"], "to mend");
    for client in load {
        client.await.expect("every request was answered");
    }
    local.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_phases_of_a_cold_start_are_within_what_the_client_saw() {
    let journal = tempfile::tempdir().expect("a temporary directory");
    let directory = journal.path().to_str().expect("a path");
    let flags = ["--startup-delay", "300ms", "--journal", directory];
    let local = Local::start(&crate::system::service("cold", ""), &flags).await;
    let client = reqwest::Client::new();
    let clock = Clock::system();
    for number in 1..=2 {
        local.wait_for_pods(0).await;
        let sent = clock.now();
        let (status, _) = local.get(&client, "cold.default.example.com", "/").await.expect("an answer");
        let seen = clock.now().since(sent);
        assert_eq!(status, 200);
        let account = eventually("the cold start in the ledger", async || {
            let account = local.page("cold-00001").await["account"].take();
            // The first pod of all, which nobody had asked for, is none.
            (account["coldStarts"].as_array().map(Vec::len) == Some(number)).then_some(account)
        })
        .await;
        let start = &account["coldStarts"][number - 1];
        assert_eq!(start["unknown"], json!([]), "here everything is seen: {start}");
        let names: Vec<_> =
            start["phases"].as_array().expect("phases").iter().filter_map(|phase| phase["phase"].as_str()).collect();
        let all = ["stat", "decision", "patch", "scheduled", "started", "ready", "routed", "first_byte"];
        assert_eq!(names, all);
        let seconds = |value: &Value| value.as_f64().expect("seconds");
        let total = seconds(&start["seconds"]);
        let sum: f64 = start["phases"].as_array().expect("phases").iter().map(|phase| seconds(&phase["seconds"])).sum();
        assert!((sum - total).abs() < 1e-6, "{sum} of {total}");
        // The client waited for all of it, and the start of the pod is part of it. Instants cannot be compared: each process
        // reads the time of day once and then counts, and the machine's is corrected meanwhile.
        assert!(0.3 <= total && total <= seen.seconds_f64(), "{total} s of {seen}");
        eprintln!(
            "the client waited {:.3} s, of which the ledger accounts for {total:.3} s: {}",
            seen.seconds_f64(),
            start["text"]
        );
    }
    let exposition =
        reqwest::get(format!("{}/metrics", local.admin)).await.expect("an answer").text().await.expect("text");
    assert!(exposition.contains("ebb_cold_starts_total{outcome=\"finished\"} 2"), "{exposition}");
    assert!(exposition.contains("ebb_cold_start_phase_duration_seconds_count{phase=\"first_byte\"} 2"));
    local.stop();
    // And from the journal, once the autoscaler is gone.
    let explain = Command::new(env!("CARGO_BIN_EXE_ebb"))
        .args(["explain", "default/cold-00001", "--journal", directory, "--format", "json"])
        .output()
        .expect("the ebb binary");
    let account: Value = serde_json::from_slice(&explain.stdout).expect("JSON");
    assert_eq!(account["coldStarts"].as_array().map(Vec::len), Some(2), "{account}");
}

/// What needs no cluster to be made.
#[test]
fn what_is_on_its_way_or_elsewhere_is_told_as_it_is() {
    let account = |want: Option<i32>, plan: Plan, load: f64, pods: PodCounts| Account {
        key: RevisionKey::new("default", "hello-00001"),
        at: Timestamp::from_seconds(1_000_000),
        source: "a test".to_owned(),
        spec: None,
        decision: want.map(|desired| Decision {
            at: Timestamp::from_seconds(1_000_000),
            desired,
            excess_burst: -1,
            excess_burst_exact: -1.0,
            ready: 0,
            observed: Observed { stable: load, panic: load },
            metric: ScalingMetric::Concurrency,
            target: 7.0,
            panicking_since: None,
            because: [Reason::StableTarget { metric: ScalingMetric::Concurrency, load, target: 7.0, wanted: 1.0 }]
                .into_iter()
                .collect(),
        }),
        plan: Some(plan),
        pods: Some(pods),
        scrape_error: None,
        changes: Vec::new(),
        activations: Vec::new(),
        elsewhere: None,
        since: Span::SECOND,
        notes: Vec::new(),
    };
    let pods = |not_ready, pending, terminating| PodCounts { ready: 0, not_ready, pending, terminating };
    let bound =
        |want| Plan { want: Some(want), bound: "min-scale keeps 1 pod (0 wanted)".to_owned(), ..Plan::default() };
    let kept = Plan {
        zero: "no pods wanted, but it has been starting for 33s and may take 10m30s".to_owned(),
        ..Plan::default()
    };
    let stuck = Plan { stuck: "its image cannot be pulled".to_owned(), ..kept.clone() };
    let mend = Plan { want: Some(0), trouble: "target: \"ten\" is not a target".to_owned(), ..Plan::default() };
    let ends = Plan { stuck: "a container of its pod does not start".to_owned(), ..Plan::default() };
    for (want, plan, load, there, state, says) in [
        (
            Some(0),
            Plan::default(),
            0.0,
            pods(0, 0, 0),
            "at zero",
            "It wants and has 0 pods: it is at zero, because no request",
        ),
        // Those that end are not on their way.
        (Some(0), Plan::default(), 0.0, pods(2, 0, 2), "at zero", "It wants and has 0 pods: it is at zero"),
        (
            Some(0),
            kept,
            0.0,
            pods(1, 1, 0),
            "starting",
            "It wants no pod now and has 1 that is not ready: no pods wanted, but it has been starting for 33s",
        ),
        (
            Some(0),
            stuck,
            0.0,
            pods(3, 1, 1),
            "stuck",
            "It wants no pod now and has 2 that are not ready: its image cannot be pulled.",
        ),
        (
            Some(0),
            mend,
            0.0,
            pods(0, 0, 0),
            "to mend",
            "It wants and has 0 pods, but something is to be mended: target: \"ten\" is not a target.",
        ),
        (None, ends, 0.0, pods(1, 0, 0), "stuck", "Nothing is decided yet: a container of its pod does not start."),
        // Nobody waits for what only a bound asks for.
        (
            Some(0),
            bound(1),
            0.0,
            pods(1, 1, 0),
            "starting",
            "It wants 1 pod and has 0 ready: min-scale keeps 1 pod (0 wanted); its pod has not started, and `kubectl describe pod`",
        ),
        (
            Some(1),
            bound(1),
            1.0,
            pods(1, 0, 0),
            "starting",
            "It wants 1 pod and has 0 ready: requests wait for the first pod; its pod runs and is not ready, and",
        ),
        (
            Some(1),
            Plan::default(),
            1.0,
            pods(0, 0, 0),
            "starting",
            "requests wait for the first pod; none exists yet; where that lasts, `kubectl describe replicaset`",
        ),
        (
            None,
            Plan::default(),
            0.0,
            pods(2, 1, 0),
            "undecided",
            "Nothing is decided yet, because its load is not known until a pod is ready: of 2 pods that exist 1 have not started",
        ),
    ] {
        let account = account(want, plan, load, there);
        let sentence = account.sentence();
        assert!(sentence.contains(says), "{sentence}");
        assert_eq!(account.state().word(), state, "{sentence}");
        let first = account.would_change().first().map(|way| way.starts_with("first of all"));
        assert_eq!(first, Some(["stuck", "to mend"].contains(&state)), "{sentence}");
        let elsewhere = Account { elsewhere: Some("autoscaler-1 does".to_owned()), ..account };
        assert_eq!(elsewhere.sentence(), "This replica does not decide on it: autoscaler-1 does.");
        assert_eq!(elsewhere.would_change(), [] as [String; 0]);
    }
}

/// What answers may be something else than was meant.
#[test]
fn what_is_left_out_of_the_past_is_said() {
    let at = Timestamp::from_seconds;
    for (known_since, from, made, said) in [
        // It was there before this process was.
        (100, 50, Some(10), true),
        (100, 50, None, true),
        // All of what is asked for is known, or all there ever was: an object says the second in which it was made.
        (100, 100, Some(10), false),
        (100, 50, Some(120), false),
        (100, 50, Some(99), false),
        (100, 50, Some(98), true),
    ] {
        let note = unknown_before(at(known_since), at(from), made.map(at));
        let want =
            "changes of scale before 1970-01-01T00:01:40Z are not known here; they are in the journal, if one is kept";
        assert_eq!(note.as_deref(), said.then_some(want), "{from} {made:?}");
    }
    for (count, left_out) in [(0, 0), (MOST_CHANGES, 0), (MOST_CHANGES + 3, 3)] {
        let change = |number: usize| ScaleChange {
            at: at(i64::try_from(number).expect("few")),
            key: RevisionKey::new("default", "hello-00001"),
            from: 0,
            to: 1,
            because: String::new(),
        };
        let mut notes = Vec::new();
        let told = latest((0..count).map(change).collect(), &mut notes);
        assert_eq!(told, (left_out..count).map(change).collect::<Vec<_>>());
        let want = format!("{left_out} earlier changes of scale in that time are not listed");
        assert_eq!(notes, if left_out == 0 { Vec::new() } else { vec![want] });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_in_vain_is_told_where_to_ask() {
    let local = Local::start(&crate::system::service("some", ""), &[]).await;
    let [admin, api] =
        [&local.admin, &local.api].map(|url| url.strip_prefix("http://").expect("an address").to_owned());
    for (arguments, says) in [
        (
            ["default/some-00001", "--admin", api.as_str()],
            vec!["what answers at", "is no admin port of an ebb", "--admin"],
        ),
        (
            ["default/some-00001", "--admin", "127.0.0.1:1"],
            vec!["no autoscaler can be asked at 127.0.0.1:1", "port-forward", "--journal DIR"],
        ),
        (
            ["some/some-00001", "--admin", admin.as_str()],
            vec!["some/some-00001 is not known; there is default/some-00001"],
        ),
        (["default/some", "--admin", admin.as_str()], vec!["default/some is not known; there is default/some-00001"]),
        (
            ["default/other", "--admin", admin.as_str()],
            vec!["default/other is not known; all there is: default/some-00001"],
        ),
    ] {
        let explain =
            Command::new(env!("CARGO_BIN_EXE_ebb")).arg("explain").args(arguments).output().expect("the ebb binary");
        let text = String::from_utf8(explain.stderr).expect("text");
        assert_eq!(explain.status.code(), Some(2), "{arguments:?}: {text}");
        for part in says {
            assert!(text.contains(part), "{arguments:?}: {part} in {text}");
        }
    }
    local.stop();
}

/// docs/events.md lists every reason there is, and no other.
#[test]
fn every_event_is_documented() {
    let text = std::fs::read_to_string(crate::root().join("docs/events.md")).expect("docs/events.md");
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    let documented: Vec<&str> = rows.map(|(reason, _)| reason).collect();
    let others = ["InvalidAnnotation", "InternalError", "UpdateFailed"];
    let told: Vec<&str> = ebb::controllers::pod_autoscaler::tell::REASONS.into_iter().chain(others).collect();
    assert_eq!(documented, told);
}
