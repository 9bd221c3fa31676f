//! A real kubectl, where there is one.

use super::Served;
use super::conformance::{deployment, eventually, object};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Stdio;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, Command};

/// kubectl with a home and a configuration of its own.
pub(crate) struct Kubectl {
    home: TempDir,
}

impl Kubectl {
    /// Absent, and said so, when there is no kubectl on this machine.
    pub(crate) async fn find(served: &Served) -> Option<Self> {
        let found = Command::new("kubectl").args(["version", "--client"]).output().await;
        if !found.is_ok_and(|output| output.status.success()) {
            // Written past the test runner's capture, so that a run shows what it left out.
            let _ = writeln!(std::io::stdout(), "skipped: no kubectl on this machine");
            return None;
        }
        let home = tempfile::tempdir().expect("a directory");
        let config = ebb::local::apiserver::kubeconfig(served.addr);
        std::fs::write(home.path().join("config"), config).expect("a file");
        Some(Self { home })
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new("kubectl");
        command
            .args(line.split(' ').map(|word| word.replace('\u{a0}', " ")))
            .env("KUBECONFIG", self.home.path().join("config"))
            .env("HOME", self.home.path())
            .env_remove("KUBERNETES_SERVICE_HOST")
            .kill_on_drop(true)
            .stdin(Stdio::null());
        command
    }

    async fn output(&self, line: &str, input: &str) -> (bool, String) {
        let mut command = self.command(line);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("kubectl starts");
        let mut stdin = child.stdin.take().expect("a pipe");
        // kubectl may end without reading all of it.
        let _ = stdin.write_all(input.as_bytes()).await;
        drop(stdin);
        let output = child.wait_with_output().await.expect("kubectl ends");
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(text).expect("text"))
    }

    /// What it prints; it must succeed.
    pub(crate) async fn run(&self, line: &str) -> String {
        self.run_with(line, "").await
    }

    pub(crate) async fn run_with(&self, line: &str, input: &str) -> String {
        let (good, text) = self.output(line, input).await;
        assert!(good, "kubectl {line}: {text}");
        text
    }

    /// What it prints; it must fail.
    async fn fail(&self, line: &str, input: &str) -> String {
        let (good, text) = self.output(line, input).await;
        assert!(!good, "kubectl {line} should fail: {text}");
        text
    }

    fn start(&self, line: &str) -> Child {
        self.command(line).stdout(Stdio::piped()).spawn().expect("kubectl starts")
    }

    fn file(&self, name: &str, objects: &[Value]) -> PathBuf {
        let path = self.home.path().join(name);
        let texts: Vec<String> = objects.iter().map(ToString::to_string).collect();
        std::fs::write(&path, texts.join("\n")).expect("a file");
        path
    }
}

/// The words of the lines of a table.
fn cells(table: &str) -> Vec<Vec<&str>> {
    table.lines().map(|line| line.split_whitespace().collect()).collect()
}

fn knative_service() -> Value {
    json!({
        "apiVersion": "serving.knative.dev/v1",
        "kind": "Service",
        "metadata": {"name": "hello"},
        "spec": {"template": {"spec": {"containers": [{"image": "example.test/hello:1"}]}}},
    })
}

#[tokio::test]
async fn applies_and_prints() {
    let served = Served::start().await;
    let Some(kubectl) = Kubectl::find(&served).await else { return };
    let file = kubectl.file("all.json", &[deployment("web"), knative_service()]);
    let apply = format!("apply -f {}", file.display());
    let said = kubectl.run(&apply).await;
    assert_eq!(said, "deployment.apps/web created\nservice.serving.knative.dev/hello created\n");
    let said = kubectl.run(&apply).await;
    assert_eq!(said, "deployment.apps/web unchanged\nservice.serving.knative.dev/hello unchanged\n");
    assert_eq!(kubectl.run(&format!("diff -f {}", file.display())).await, "");

    let mut changed = deployment("web");
    changed["spec"]["template"]["spec"]["containers"][0]["env"] = json!([{"name": "A", "value": "changed"}]);
    changed["spec"].as_object_mut().expect("a spec").remove("replicas");
    let file = kubectl.file("changed.json", &[changed]);
    let said = kubectl.run(&format!("apply -f {}", file.display())).await;
    assert_eq!(said, "deployment.apps/web configured\n");
    let env = kubectl.run("get deploy web -o jsonpath={.spec.template.spec.containers[0].env}").await;
    assert_eq!(serde_json::from_str::<Value>(&env).expect("JSON"), json!([{"name": "A", "value": "changed"}]));

    let table = kubectl.run("get deployments").await;
    let cells = cells(&table);
    assert_eq!(cells[0], ["NAME", "READY", "UP-TO-DATE", "AVAILABLE", "AGE"]);
    assert_eq!(cells[1][..4], ["web", "0/1", "0", "0"]);
    let table = kubectl.run("get deploy -A -o wide --show-labels").await;
    assert!(
        table.lines().nth(1).is_some_and(|line| line.contains("example.test/web:1") && line.contains("app=web")),
        "{table}"
    );
    assert_eq!(kubectl.run("get deploy -o name").await, "deployment.apps/web\n");
    assert!(kubectl.run("get deploy web -o yaml").await.contains("kind: Deployment"));
    let list: Value = serde_json::from_str(&kubectl.run("get deploy -o json").await).expect("JSON");
    assert_eq!(list["items"][0]["metadata"]["name"], "web");
    assert_eq!(kubectl.run("get deploy -o custom-columns=N:.metadata.name --no-headers").await, "web\n");
    let all = kubectl.run("get all").await;
    assert!(all.contains("deployment.apps/web") && all.contains("service.serving.knative.dev/hello"), "{all}");
    assert!(kubectl.run("describe deployment web").await.contains("example.test/web:1"));
    assert!(kubectl.run("describe ksvc hello").await.contains("example.test/hello:1"));
    assert!(kubectl.run("explain ksvc").await.contains("serving.knative.dev"));
    assert!(kubectl.run("api-resources").await.contains("podautoscalers"));
}

#[tokio::test]
async fn prints_knatives_columns() {
    let served = Served::start().await;
    let Some(kubectl) = Kubectl::find(&served).await else { return };
    let scaler = json!({
        "apiVersion": "autoscaling.internal.knative.dev/v1alpha1",
        "kind": "PodAutoscaler",
        "metadata": {"name": "hello-00001"},
        "spec": {"protocolType": "http1", "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}},
    });
    let mode = json!({
        "apiVersion": "networking.internal.knative.dev/v1alpha1",
        "kind": "ServerlessService",
        "metadata": {"name": "hello-00001"},
        "spec": {
            "mode": "Proxy", "numActivators": 2, "protocolType": "http1",
            "objectRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"},
        },
    });
    let file = kubectl.file("internal.json", &[scaler, mode, knative_service()]);
    kubectl.run(&format!("apply -f {}", file.display())).await;
    let status = json!({"status": {
        "desiredScale": 3, "actualScale": 1, "serviceName": "", "metricsServiceName": "",
        "conditions": [{"type": "Active", "status": "True"}, {"type": "Ready", "status": "Unknown", "reason": "Queued"}],
    }});
    kubectl.run(&format!("patch pa hello-00001 --subresource=status --type=merge -p {status}")).await;
    let table = kubectl.run("get pa").await;
    let cells_of = cells(&table);
    assert_eq!(cells_of[0], ["NAME", "DESIREDSCALE", "ACTUALSCALE", "READY", "REASON"]);
    assert_eq!(cells_of[1], ["hello-00001", "3", "1", "Unknown", "Queued"]);
    let table = kubectl.run("get sks").await;
    let cells_of = cells(&table);
    assert_eq!(cells_of[0], ["NAME", "MODE", "ACTIVATORS", "SERVICENAME", "PRIVATESERVICENAME", "READY", "REASON"]);
    assert_eq!(cells_of[1], ["hello-00001", "Proxy", "2"]);
    let table = kubectl.run("get ksvc").await;
    assert_eq!(cells(&table)[0], ["NAME", "URL", "LATESTCREATED", "LATESTREADY", "READY", "REASON"]);
}

#[tokio::test]
async fn changes() {
    let served = Served::start().await;
    let Some(kubectl) = Kubectl::find(&served).await else { return };
    let file = kubectl.file("web.json", &[deployment("web"), knative_service()]);
    kubectl.run(&format!("create -f {}", file.display())).await;
    let get = |path: &'static str| {
        let kubectl = &kubectl;
        async move { kubectl.run(&format!("get deploy web -o jsonpath={{{path}}}")).await }
    };
    assert_eq!(kubectl.run("scale deployment web --replicas=5").await, "deployment.apps/web scaled\n");
    assert_eq!(get(".spec.replicas").await, "5");
    kubectl.fail("scale deployment web --replicas=6 --current-replicas=4", "").await;
    assert_eq!(kubectl.run("label deployment web tier=front").await, "deployment.apps/web labeled\n");
    kubectl.fail("label deployment web tier=back", "").await;
    kubectl.run("label deployment web tier=back --overwrite").await;
    kubectl.run("label ksvc hello a=b").await;
    assert_eq!(kubectl.run("get deploy,ksvc -l a=b -o name").await, "service.serving.knative.dev/hello\n");
    assert_eq!(kubectl.run("annotate deployment web note=hi").await, "deployment.apps/web annotated\n");
    kubectl.run("annotate deployment web note-").await;
    assert_eq!(get(".metadata.annotations").await, "");

    let side = r#"{"spec":{"template":{"spec":{"containers":[{"name":"side","image":"example.test/side:1"}]}}}}"#;
    kubectl.run(&format!("patch deployment web -p {side}")).await;
    let mut names: Vec<String> =
        get(".spec.template.spec.containers[*].name").await.split(' ').map(str::to_owned).collect();
    names.sort();
    assert_eq!(names, ["side", "web"]);
    kubectl.run(r#"patch deployment web --type=json -p [{"op":"replace","path":"/spec/replicas","value":2}]"#).await;
    assert_eq!(get(".spec.replicas").await, "2");
    kubectl.run("set image deployment/web web=example.test/web:2").await;
    kubectl.run("set env deployment/web C=3").await;
    kubectl.run("rollout restart deployment/web").await;
    let edited = "sed -i s|example.test/web:2|example.test/web:3|";
    let edit = kubectl.command("edit deployment web").env("KUBE_EDITOR", edited).output().await.expect("kubectl runs");
    assert!(edit.status.success(), "{}", String::from_utf8_lossy(&edit.stderr));

    let typo = r#"{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"typo"},"spec":{"replicsa":1}}"#;
    let said = kubectl.fail("apply -f -", typo).await;
    assert!(said.contains("unknown field \"spec.replicsa\""), "{said}");
    let said = kubectl.fail("get deployment none", "").await;
    assert_eq!(said.trim(), "Error from server (NotFound): deployments.apps \"none\" not found");
    let said = kubectl.run("create namespace demo --dry-run=server").await;
    assert_eq!(said, "namespace/demo created (server dry run)\n");
}

#[tokio::test]
async fn creates_from_the_command_line() {
    let served = Served::start().await;
    let Some(kubectl) = Kubectl::find(&served).await else { return };
    kubectl.run("create namespace demo").await;
    kubectl.run("create configmap settings --from-literal=a=b -n demo").await;
    assert_eq!(kubectl.run("get cm settings -n demo -o jsonpath={.data}").await, r#"{"a":"b"}"#);
    kubectl.run("create secret generic keys --from-literal=a=b -n demo").await;
    assert_eq!(kubectl.run("get secret keys -n demo -o jsonpath={.data.a}").await, "Yg==");
    kubectl.run("create serviceaccount robot -n demo").await;
    kubectl.run("create deployment web --image=example.test/web:1 --replicas=0 --port=8080 -n demo").await;
    let found =
        kubectl.run("get deploy web -n demo -o jsonpath={.spec.replicas},{.spec.selector.matchLabels.app}").await;
    assert_eq!(found, "0,web");
    kubectl.run("create service clusterip web --tcp=80:8080 -n demo").await;
    let ports: Value =
        serde_json::from_str(&kubectl.run("get svc web -n demo -o jsonpath={.spec.ports[0]}").await).expect("JSON");
    assert_eq!(ports["targetPort"], 8080);
    kubectl.run("expose deployment web --name=web2 --port=80 -n demo").await;
    kubectl.run("run p --image=example.test/p:1 -n demo").await;
    let pods = kubectl.run("get pods -n demo").await;
    assert_eq!(cells(&pods)[1][..4], ["p", "0/1", "Pending", "0"]);
    kubectl.run("delete namespace demo").await;
    assert!(kubectl.fail("get ns demo", "").await.contains("NotFound"));
}

#[tokio::test]
async fn applies_on_the_server() {
    let served = Served::start().await;
    let Some(kubectl) = Kubectl::find(&served).await else { return };
    let file = kubectl.file("web.json", &[deployment("web")]);
    let apply = format!("apply --server-side -f {}", file.display());
    assert_eq!(kubectl.run(&apply).await, "deployment.apps/web serverside-applied\n");
    kubectl.run("scale deployment web --replicas=5").await;
    let said = kubectl.fail(&apply, "").await;
    assert!(said.contains("Apply failed with 1 conflict") && said.contains(".spec.replicas"), "{said}");
    kubectl.run(&format!("{apply} --force-conflicts")).await;
    assert_eq!(kubectl.run("get deploy web -o jsonpath={.spec.replicas}").await, "1");

    // What was applied by the client goes over to the server, and fields taken out of the file go.
    let file = kubectl.file("other.json", &[deployment("other")]);
    kubectl.run(&format!("apply -f {}", file.display())).await;
    let mut less = deployment("other");
    less["metadata"]["labels"] = json!({});
    let file = kubectl.file("other.json", &[less]);
    kubectl.run(&format!("apply --server-side -f {}", file.display())).await;
    assert_eq!(kubectl.run("get deploy other -o jsonpath={.metadata.labels}").await, "");
}

#[tokio::test]
async fn waits_and_watches() {
    let served = Served::start().await;
    let Some(kubectl) = Kubectl::find(&served).await else { return };
    let deployments: Api<Deployment> = Api::namespaced(served.client(), "default");
    deployments.create(&PostParams::default(), &object(deployment("web"))).await.expect("created");

    let mut watch = kubectl.start("get deployments -w");
    let mut lines = BufReader::new(watch.stdout.take().expect("a pipe")).lines();
    let mut line = async || lines.next_line().await.expect("a pipe").expect("a line");
    assert!(line().await.starts_with("NAME"));
    assert!(line().await.starts_with("web"));
    let wait = kubectl.start("wait --for=condition=Available deployment/web --timeout=30s");
    let status = json!({"status": {
        "replicas": 1, "readyReplicas": 1, "availableReplicas": 1, "updatedReplicas": 1, "observedGeneration": 1,
        "conditions": [{"type": "Available", "status": "True"}],
    }});
    deployments.patch_status("web", &PatchParams::default(), &Patch::Merge(status)).await.expect("patched");
    assert_eq!(cells(&line().await)[0][..4], ["web", "1/1", "1", "1"]);
    assert!(wait.wait_with_output().await.expect("kubectl ends").status.success());
    assert!(kubectl.run("rollout status deployment/web --timeout=30s").await.contains("successfully rolled out"));

    // Deleting waits until the object is gone; here a kubelet is still stopping the pod.
    let pods: Api<Pod> = Api::namespaced(served.client(), "default");
    let pod = json!({"metadata": {"name": "p"}, "spec": {
        "nodeName": "node", "containers": [{"name": "c", "image": "example.test/c:1"}],
    }});
    pods.create(&PostParams::default(), &object(pod)).await.expect("created");
    let delete = kubectl.start("delete pod p");
    eventually("the pod is marked", || async {
        pods.get("p").await.expect("there").metadata.deletion_timestamp.map(|_| ())
    })
    .await;
    assert_eq!(cells(&kubectl.run("get pods").await)[1][2], "Terminating");
    let now = kube::api::DeleteParams::default().grace_period(0);
    pods.delete("p", &now).await.expect("deleted");
    assert!(delete.wait_with_output().await.expect("kubectl ends").status.success());
    assert!(kubectl.run("delete deployment web --cascade=foreground").await.contains("deleted"));
    assert!(line().await.starts_with("web"));
}
