//! `ebb local` as a user runs it: the built binary, real sockets, real requests.

pub(crate) use crate::patience::{PATIENCE, eventually};

use ebb::clock::Clock;
use ebb::units::Span;
use serde_json::Value;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A running `ebb local` with ports and a state directory of its own.
pub(crate) struct Local {
    child: Child,
    directory: tempfile::TempDir,
    pub(crate) gateway: String,
    pub(crate) api: String,
    pub(crate) admin: String,
    endpoints: Value,
    output: Arc<Mutex<String>>,
}

impl Local {
    /// Starts it on `manifest` and waits until it says that it is ready.
    pub(crate) async fn start(manifest: &str, flags: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let child = spawn(manifest, directory.path(), flags);
        Self::from(child, directory).await
    }

    async fn from(mut child: Child, directory: tempfile::TempDir) -> Self {
        let output = Arc::new(Mutex::new(String::new()));
        let (sink, stdout) = (Arc::clone(&output), child.stdout.take().expect("a pipe"));
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let mut text = sink.lock().expect("no panic above");
                text.push_str(&line);
                text.push('\n');
            }
        });
        let endpoints = directory.path().join("endpoints.json");
        let found: Value = eventually("endpoints.json", async || {
            serde_json::from_str(&std::fs::read_to_string(&endpoints).ok()?).ok()
        })
        .await;
        let at = |name: &str| found[name].as_str().unwrap_or_else(|| panic!("no {name} in {found}")).to_owned();
        let (gateway, api, admin) = (at("gateway"), at("api"), at("admin"));
        Self { child, directory, gateway, api, admin, endpoints: found, output }
    }

    /// One of the addresses in `endpoints.json`.
    pub(crate) fn endpoint(&self, name: &str) -> String {
        self.endpoints[name].as_str().unwrap_or_else(|| panic!("no {name} in {}", self.endpoints)).to_owned()
    }

    fn kubeconfig(&self) -> PathBuf {
        self.directory.path().join("kubeconfig")
    }

    /// What a request for `host` is answered: the status, or what went wrong.
    pub(crate) async fn get(&self, client: &reqwest::Client, host: &str, path: &str) -> Result<(u16, String), String> {
        let response = client
            .get(format!("{}{path}", self.gateway))
            .header("Host", host)
            .send()
            .await
            .map_err(|error| format!("{error:?}"))?;
        let status = response.status().as_u16();
        Ok((status, response.text().await.map_err(|error| format!("{error:?}"))?))
    }

    pub(crate) async fn object(&self, path: &str) -> Value {
        let url = format!("{}{path}", self.api);
        reqwest::get(url).await.expect("an answer").json().await.expect("JSON")
    }

    /// Replicas the Deployment of a revision asks for.
    async fn replicas(&self, revision: &str) -> Option<i64> {
        let path = format!("/apis/apps/v1/namespaces/default/deployments/{revision}-deployment");
        self.object(&path).await["spec"]["replicas"].as_i64()
    }

    /// Pods of the cluster that exist, ready or not.
    async fn pods(&self) -> usize {
        self.object("/api/v1/namespaces/default/pods").await["items"].as_array().map_or(0, Vec::len)
    }

    pub(crate) async fn wait_for_pods(&self, number: usize) {
        eventually(&format!("{number} pods; output so far:\n{}", self.printed()), async || {
            (self.pods().await == number).then_some(())
        })
        .await;
    }

    fn printed(&self) -> String {
        self.output.lock().expect("no panic above").clone()
    }

    /// Asks it to stop as Ctrl-C does, and waits until it has.
    pub(crate) fn stop(mut self) -> String {
        interrupt(&self.child);
        let status = wait(&mut self.child);
        assert_eq!(status.code(), Some(0), "an orderly stop; output:\n{}", self.printed());
        assert!(!self.kubeconfig().exists(), "the kubeconfig of a cluster that is gone");
        self.printed()
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts it with ports of its own and its state in `directory`.
fn spawn(manifest: &str, directory: &Path, flags: &[&str]) -> Child {
    spawn_by(Command::new(env!("CARGO_BIN_EXE_ebb")), manifest, directory, flags)
}

/// The same by a command that ends in the program.
fn spawn_by(mut command: Command, manifest: &str, directory: &Path, flags: &[&str]) -> Child {
    let file = directory.join("manifest.yaml");
    std::fs::write(&file, manifest).expect("a writable directory");
    command
        .arg("local")
        .args(["--gateway", "127.0.0.1:0", "--api", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--stats", "127.0.0.1:0"])
        .arg("--state-dir")
        .arg(directory)
        .arg("-f")
        .arg(file)
        .args(flags)
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .expect("the ebb binary")
}

pub(crate) fn interrupt(child: &Child) {
    signal(child, "INT");
}

pub(crate) fn signal(child: &Child, name: &str) {
    let status = Command::new("kill").args([&format!("-{name}"), &child.id().to_string()]).status().expect("kill");
    assert!(status.success());
}

pub(crate) fn wait(child: &mut Child) -> std::process::ExitStatus {
    let clock = Clock::system();
    let until = clock.now() + Span::from_std(PATIENCE);
    loop {
        if let Some(status) = child.try_wait().expect("a child") {
            return status;
        }
        assert!(clock.now() < until, "it did not stop");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A service of the sample app, with settings that go to zero within seconds.
pub(crate) fn service(name: &str, annotations: &str) -> String {
    let settings = "
apiVersion: v1
kind: ConfigMap
metadata: {name: config-autoscaler, namespace: knative-serving}
data: {scale-to-zero-grace-period: 1s}
---";
    format!("{settings}{}", service_alone(name, annotations))
}

/// A service of the sample app with a window of 6 s.
pub(crate) fn service_alone(name: &str, annotations: &str) -> String {
    format!(
        r"
apiVersion: serving.knative.dev/v1
kind: Service
metadata: {{name: {name}, namespace: default}}
spec:
  template:
    metadata:
      annotations: {{autoscaling.knative.dev/window: 6s, {annotations}}}
    spec:
      containerConcurrency: 10
      containers:
      - image: ebb.local/hello
"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_goes_to_zero_and_comes_back_and_no_request_is_lost() {
    let local = Local::start(&service("trickle", ""), &["--startup-delay", "200ms"]).await;
    let client = reqwest::Client::builder().pool_max_idle_per_host(0).build().expect("a client");
    let host = "trickle.default.example.com";
    for cycle in 0..3 {
        local.wait_for_pods(0).await;
        assert_eq!(local.replicas("trickle-00001").await, Some(0));
        // Two at once, and more while the pod starts.
        let answers = futures::future::join_all((0..8).map(async |n| {
            tokio::time::sleep(Duration::from_millis(n * 60)).await;
            local.get(&client, host, "/").await
        }))
        .await;
        for answer in answers {
            let (status, body) = answer.unwrap_or_else(|error| panic!("cycle {cycle}: {error}"));
            assert_eq!(status, 200, "cycle {cycle}: {body}");
            assert!(body.contains("trickle-00001"), "{body}");
        }
    }
    let printed = local.stop();
    assert!(printed.contains("trickle-00001  0 → 1"), "a line per change of scale:\n{printed}");
    assert!(printed.contains("trickle-00001  1 → 0"), "a line per change of scale:\n{printed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_it_recorded_replays_byte_for_byte() {
    let journal = tempfile::tempdir().expect("a temporary directory");
    let place = journal.path().to_str().expect("a path");
    let local = Local::start(&service("kept", ""), &["--startup-delay", "100ms", "--journal", place]).await;
    let client = reqwest::Client::new();
    // A cold start, load for two decisions, and on the way to zero again.
    let answers =
        futures::future::join_all((0..30).map(|_| local.get(&client, "kept.default.example.com", "/?sleep=3s"))).await;
    for answer in answers {
        assert_eq!(answer.expect("an answer").0, 200);
    }
    local.wait_for_pods(0).await;
    local.stop();

    let replay = |flags: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_ebb"))
            .args(["sim", "replay", place])
            .args(flags)
            .output()
            .expect("the ebb binary");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let (code, said, error) = replay(&["--format", "json"]);
    assert_eq!(code, Some(0), "{said}{error}");
    let answer: Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!(
        (&answer["differing"], &answer["gaps"], &answer["first"]),
        (&0.into(), &0.into(), &Value::Null),
        "{answer}"
    );
    assert!(answer["decisions"].as_u64().is_some_and(|decisions| decisions >= 5), "{answer}");
    let (code, said, _) = replay(&[]);
    assert!(code == Some(0) && said.contains("each as it was recorded, byte for byte"), "{said}");
    let (code, _, error) = replay(&["--revision", "default/other-00001"]);
    assert!(code == Some(2) && error.contains("has nothing of default/other-00001"), "{error}");

    // What came of requests is an assumption, which is said.
    let elsewhere = tempfile::tempdir().expect("a temporary directory");
    let world = elsewhere.path().join("world.yaml");
    std::fs::write(&world, "apiVersion: sim/v1\nname: world\npolicies: [{ name: same, kpa: {} }]\n").expect("written");
    let (code, said, error) = replay(&["--what-if", world.to_str().expect("a path"), "--force", "--repetitions", "1"]);
    assert_eq!(code, Some(0), "{said}{error}");
    assert!(said.contains("How long each request took was not recorded"), "{said}");

    // Cut anywhere, it is replayed up to there, which is said; garbled, it is refused with the place and the way out.
    let files = std::fs::read_dir(journal.path()).expect("a directory").map(|entry| entry.expect("an entry").path());
    let file = files.max_by_key(|file| file.metadata().expect("a file").len()).expect("a file");
    let whole = std::fs::read(&file).expect("a journal");
    let mut told = 0;
    for part in 3..=12 {
        std::fs::write(&file, &whole[..whole.len() * part / 13]).expect("written");
        let (code, said, error) = replay(&[]);
        assert!(code == Some(0) && said.contains("each as it was recorded"), "{part} of 13: {said}{error}");
        told += usize::from(error.contains("it ends in the middle of a record"));
    }
    assert!(told >= 5, "only {told} of 10 cuts were told");
    let mut garbled = whole.clone();
    garbled[whole.len() / 2..][..8].iter_mut().for_each(|byte| *byte ^= 0xff);
    std::fs::write(&file, garbled).expect("written");
    let (code, said, error) = replay(&[]);
    assert!(code == Some(2) && said.is_empty() && error.contains("is damaged"), "{said}{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_clients_at_ten_a_pod_get_the_pods_knative_would_give_them() {
    let local = Local::start(&service("load", ""), &["--startup-delay", "100ms"]).await;
    let client = reqwest::Client::new();
    let host = "load.default.example.com";
    let stop = tokio_util::sync::CancellationToken::new();
    let failures = Arc::new(Mutex::new(Vec::new()));
    let load = futures::future::join_all((0..50).map(async |_| {
        while !stop.is_cancelled() {
            // So long that what a slow machine takes between two requests of a client does not count: with fewer than 49 in
            // flight, 7 would be right.
            match local.get(&client, host, "/?sleep=3s").await {
                Ok((200, _)) => {}
                other => failures.lock().expect("no panic above").push(format!("{other:?}")),
            }
        }
    }));
    // 50 in flight / (10 · 70 %) = 7.14, so 8.
    let watched = async {
        eventually("8 replicas", async || (local.replicas("load-00001").await == Some(8)).then_some(())).await;
        eventually("8 pods", async || (local.pods().await >= 8).then_some(())).await;
        let revisions: Value =
            reqwest::get(format!("{}/revisions", local.admin)).await.expect("an answer").json().await.expect("JSON");
        stop.cancel();
        revisions
    };
    let (_, revisions) = tokio::join!(load, watched);
    let failures = failures.lock().expect("no panic above");
    assert!(failures.is_empty(), "{} requests failed, such as {}", failures.len(), failures[0]);
    assert_eq!(revisions[0]["revision"], "default/load-00001");
    assert_eq!(revisions[0]["decision"]["target"], 7.0);
    local.stop();
}

/// What is deleted is collected while the same names are made anew, and answers to writes arrive in between.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_deleted_and_made_again_at_once_serves() {
    let local = Local::start(&service("stays", ""), &["--startup-delay", "50ms"]).await;
    let client = reqwest::Client::new();
    let services = format!("{}/apis/serving.knative.dev/v1/namespaces/default/services", local.api);
    futures::future::join_all([0, 30, 60, 120, 300, 600, 1200].map(async |lives| {
        let name = format!("again-{lives}");
        let object = serde_json::json!({
            "apiVersion": "serving.knative.dev/v1", "kind": "Service", "metadata": {"name": name},
            "spec": {"template": {"spec": {"containers": [{"image": "ebb.local/hello"}]}}},
        });
        let make = async || client.post(&services).json(&object).send().await.expect("an answer").status().as_u16();
        assert_eq!(make().await, 201, "{name}");
        tokio::time::sleep(Duration::from_millis(lives)).await;
        let deleted = client.delete(format!("{services}/{name}")).send().await.expect("an answer");
        assert_eq!(deleted.status().as_u16(), 200, "{name}");
        assert_eq!(make().await, 201, "{name}");
        eventually(&format!("an answer from {name}"), async || {
            let answer = local.get(&client, &format!("{name}.default.example.com"), "/").await;
            matches!(answer, Ok((200, _))).then_some(())
        })
        .await;
    }))
    .await;
    local.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_of_the_users_own_is_run_as_a_pod() {
    let manifest = r#"
apiVersion: serving.knative.dev/v1
kind: Service
metadata: {name: own, namespace: default}
spec:
  template:
    spec:
      containers:
      - image: example.com/whatever
        command: ["python3", "-c"]
        args:
        - |
          import http.server, os
          class Answer(http.server.BaseHTTPRequestHandler):
              protocol_version = "HTTP/1.1"
              def do_GET(self):
                  body = ("own program, " + os.environ["K_REVISION"]).encode()
                  self.send_response(200)
                  self.send_header("Content-Length", str(len(body)))
                  self.end_headers()
                  self.wfile.write(body)
              def log_message(self, *args): pass
          http.server.ThreadingHTTPServer(("", int(os.environ["PORT"])), Answer).serve_forever()
"#;
    if Command::new("python3").arg("--version").output().is_err() {
        eprintln!("skipped: there is no python3 to be a user's program");
        return;
    }
    let local = Local::start(manifest, &["--startup-delay", "0s"]).await;
    let client = reqwest::Client::new();
    let answer = local.get(&client, "own.default.example.com", "/").await.expect("an answer");
    assert_eq!(answer, (200, "own program, own-00001".to_owned()));
    local.stop();
}

/// A service whose pods never listen: each writes its process id to `pids`, and starts a child that does too.
fn deaf_service(pids: &Path) -> Option<String> {
    if !Path::new("/bin/sh").exists() {
        eprintln!("skipped: this machine has no /bin/sh");
        return None;
    }
    Some(format!(
        r#"
apiVersion: serving.knative.dev/v1
kind: Service
metadata: {{name: deaf, namespace: default}}
spec:
  template:
    spec:
      containers:
      - image: example.com/whatever
        command: ["/bin/sh", "-c"]
        args: ['sleep 600 & echo $! >> "{pids}"; echo $$ >> "{pids}"; wait']
"#,
        pids = pids.display()
    ))
}

/// The processes of the first pod, once they run.
async fn pod_processes(pids: &Path) -> Vec<String> {
    eventually("the processes of a pod", async || {
        let text = std::fs::read_to_string(pids).ok()?;
        (text.lines().count() >= 2).then(|| text.lines().map(str::to_owned).collect())
    })
    .await
}

async fn gone(pids: &[String]) {
    eventually(&format!("the end of the processes {pids:?}"), async || {
        let list = Command::new("ps").args(["-o", "stat=", "-p", &pids.join(",")]).output().expect("ps");
        let text = String::from_utf8_lossy(&list.stdout).into_owned();
        text.lines().all(|line| line.starts_with('Z')).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stopped_before_it_is_ready_it_ends_in_order() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let pids = directory.path().join("pids");
    let Some(manifest) = deaf_service(&pids) else { return };
    let mut child = spawn(&manifest, directory.path(), &["--startup-delay", "0s"]);
    let started = pod_processes(&pids).await;
    interrupt(&child);
    assert_eq!(wait(&mut child).code(), Some(0));
    gone(&started).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_it_leaves_no_process_of_a_pod_behind() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let pids = directory.path().join("pids");
    let Some(manifest) = deaf_service(&pids) else { return };
    let mut child = spawn(&manifest, directory.path(), &["--startup-delay", "0s"]);
    let started = pod_processes(&pids).await;
    child.kill().expect("a running child");
    wait(&mut child);
    gone(&started).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_host_is_told_which_there_are() {
    let local = Local::start(&service("known", ""), &["--startup-delay", "0s"]).await;
    let client = reqwest::Client::new();
    let (status, body) = local.get(&client, "other.default.example.com", "/").await.expect("an answer");
    assert_eq!(status, 404);
    assert!(body.contains("known.default.example.com"), "{body}");
    local.stop();
}

#[test]
fn a_port_in_use_is_named_with_the_flag_that_moves_it() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("an address").to_string();
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (code, error) = refused(&["--gateway", &address], directory.path());
    assert_eq!(code, Some(2));
    assert!(error.contains(&address) && error.contains("--gateway"), "{error}");
}

#[test]
fn a_manifest_that_cannot_be_read_is_told_with_file_and_line() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("service.yaml");
    let text = "apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: x}\nspec:\n  template:\n    spec:\n      containerConcurency: 3\n      containers: [{image: ebb.local/hello}]\n";
    std::fs::write(&file, text).expect("a writable directory");
    let (code, error) = refused(&["-f", file.to_str().expect("a path")], directory.path());
    assert_eq!(code, Some(2));
    assert!(error.contains("service.yaml:7") && error.contains("containerConcurrency"), "{error}");
}

#[test]
fn a_bad_annotation_is_refused_with_key_value_and_way_out() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("service.yaml");
    let text = service("x", "autoscaling.knative.dev/target: \"none\", autoscaling.knative.dev/min-scale: \"-1\"");
    std::fs::write(&file, text).expect("a writable directory");
    let free = ["--gateway", "127.0.0.1:0", "--api", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--stats", "127.0.0.1:0"];
    let output = Command::new(env!("CARGO_BIN_EXE_ebb"))
        .arg("local")
        .args(free)
        .args(["-f", file.to_str().expect("a path")])
        .arg("--state-dir")
        .arg(directory.path())
        .output()
        .expect("the ebb binary");
    assert_eq!(output.status.code(), Some(2));
    let error = String::from_utf8_lossy(&output.stderr);
    for part in ["autoscaling.knative.dev/target", "none", "autoscaling.knative.dev/min-scale", "-1"] {
        assert!(error.contains(part), "no {part} in:\n{error}");
    }
}

/// Runs `ebb local` where it must refuse to start: its exit code and what it says.
fn refused(flags: &[&str], state: &Path) -> (Option<i32>, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_ebb"))
        .arg("local")
        .args(["--state-dir", state.to_str().expect("a path")])
        .args(flags)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the ebb binary");
    let status = wait(&mut child);
    let mut text = String::new();
    child.stderr.take().expect("a pipe").read_to_string(&mut text).expect("text");
    (status.code(), text)
}

/// The command on a machine with one more disk: some memory mounted at `place`, which only it sees. Nothing where this
/// machine lets nobody mount anything.
pub(crate) fn with_disk(command: &Command, place: &Path, options: &str) -> Option<Command> {
    let namespace = ["--map-root-user", "--mount"];
    let can = Command::new("unshare").args(namespace).args(["mount", "-t", "tmpfs", "none", "/mnt"]).output();
    if !can.is_ok_and(|output| output.status.success()) {
        crate::dashboards::tools::skipped("this machine lets nobody mount a disk of their own");
        return None;
    }
    std::fs::create_dir(place).expect("a directory");
    let mut all = Command::new("unshare");
    all.args(namespace).args(["sh", "-c", "mount -t tmpfs -o \"$0\" none \"$1\" && shift && exec \"$@\"", options]);
    all.arg(place).arg(command.get_program()).args(command.get_args());
    all.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    Some(all)
}

/// The disk is a page of memory, so it is full within seconds.
#[tokio::test(flavor = "multi_thread")]
async fn autoscaling_goes_on_when_the_disk_of_its_journal_is_full() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let disk = directory.path().join("disk");
    let program = Command::new(env!("CARGO_BIN_EXE_ebb"));
    let Some(command) = with_disk(&program, &disk, "size=4k") else { return };
    let flags = ["--startup-delay", "100ms", "--journal", disk.to_str().expect("text")];
    let child = spawn_by(command, &service("goes-on", ""), directory.path(), &flags);
    let local = Local::from(child, directory).await;
    let client = reqwest::Client::new();
    let host = "goes-on.default.example.com";
    let shown = async |name: &str| {
        let text = client.get(format!("{}/metrics", local.admin)).send().await.ok()?.text().await.ok()?;
        text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok())
    };
    assert!(matches!(local.get(&client, host, "/").await, Ok((200, _))));
    eventually("the disk to be full", async || {
        let _ = local.get(&client, host, "/").await;
        (shown("ebb_journal_writes ").await? == 0.0).then_some(())
    })
    .await;
    // To zero and back, and up.
    local.wait_for_pods(0).await;
    let together = futures::future::join_all((0..30).map(|_| local.get(&client, host, "/?sleep=3s")));
    let (answers, ()) = tokio::join!(together, async {
        eventually("more pods", async || (local.replicas("goes-on-00001").await >= Some(3)).then_some(())).await;
    });
    assert!(answers.iter().all(|answer| matches!(answer, Ok((200, _)))), "{answers:?}");
    assert_eq!(shown("ebb_journal_writes ").await, Some(0.0), "it is still full");
    for counter in ["ebb_journal_failures_total ", "ebb_journal_batches_dropped_total "] {
        assert!(shown(counter).await >= Some(1.0), "{counter}");
    }
    local.stop();
}
