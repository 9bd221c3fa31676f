//! A local cluster as a whole: real API over HTTP, real pods on addresses of their own, real requests.
//!
//! The autoscaler is stood in for by [`Cluster::autoscale`], which does what the real one does at steady state: a
//! ServerlessService for each PodAutoscaler, and a status that follows the Deployment.

use crate::apiserver::Served;
use ebb::api::conditions::{Condition, Status};
use ebb::api::ingress::Ingress;
use ebb::api::pod_autoscaler::{PodAutoscaler, PodAutoscalerStatus};
use ebb::api::serverless_service::{Mode, ServerlessService, ServerlessServiceSpec};
use ebb::api::serving::{Configuration, Revision, Route, Service};
use ebb::clock::Clock;
use ebb::k8s::dial::Dial as _;
use ebb::local::dial::LocalDial;
use ebb::local::knative::admission::admission;
use ebb::local::manifest::{self, Manifest};
use ebb::local::pods::kubelet;
use ebb::local::{AutoscalerSettings, LocalCluster, Options, SAMPLE_MANIFEST};
use ebb::units::Compat;
use futures::StreamExt as _;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Pod, Service as CoreService};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::core::NamespaceResourceScope;
use kube::{Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use serde_json::json;
use std::fmt::Debug;
use std::net::Ipv4Addr;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// How long anything is waited for.
const DEADLINE: Duration = Duration::from_secs(30);

/// A local cluster with its own pod network `127.NUMBER.0.0`.
struct Cluster {
    served: Served,
    client: kube::Client,
    local: LocalCluster,
    autoscaler: JoinHandle<()>,
}

impl Cluster {
    async fn start(number: u8) -> Self {
        let served = Served::start().await;
        let settings = AutoscalerSettings::new(Compat::IMPROVED);
        assert!(served.store.set_admission(admission(settings.clone())));
        let client = served.client();
        let options = Options {
            pods: kubelet::Settings {
                network: Ipv4Addr::new(127, number, 0, 0),
                startup_delay: Duration::from_millis(20),
                quiet_period: Duration::from_millis(50),
                ..kubelet::Settings::default()
            },
            ..Options::default()
        };
        let gateway = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let local = LocalCluster::start(options, Some(gateway), client.clone(), Clock::system(), settings)
            .await
            .expect("a cluster");
        let autoscaler = tokio::spawn(Self::autoscale(client.clone()));
        Self { served, client, local, autoscaler }
    }

    /// Stands in for the autoscaler: every change of a PodAutoscaler, a ServerlessService or a Deployment brings all
    /// PodAutoscalers up to date.
    async fn autoscale(client: kube::Client) {
        let pas: Api<PodAutoscaler> = Api::all(client.clone());
        loop {
            for pa in pas.list(&ListParams::default()).await.map(|list| list.items).unwrap_or_default() {
                // What is written while something is being deleted may fail; the next look sees how it ended.
                let _ = Self::autoscale_one(&client, pa).await;
            }
            tokio::time::sleep(Duration::from_millis(15)).await;
        }
    }

    async fn autoscale_one(client: &kube::Client, pa: PodAutoscaler) -> Result<(), kube::Error> {
        let (name, namespace) = (pa.name_any(), pa.namespace().unwrap_or_default());
        let skses: Api<ServerlessService> = Api::namespaced(client.clone(), &namespace);
        let Some(sks) = skses.get_opt(&name).await? else {
            let mut sks = ServerlessService::new(
                &name,
                ServerlessServiceSpec {
                    mode: Mode::Serve,
                    object_ref: pa.spec.scale_target_ref.clone(),
                    protocol_type: pa.spec.protocol_type.clone(),
                    num_activators: 2,
                },
            );
            sks.metadata = ObjectMeta {
                labels: pa.metadata.labels.clone(),
                owner_references: Some(vec![OwnerReference {
                    api_version: "autoscaling.internal.knative.dev/v1alpha1".into(),
                    kind: "PodAutoscaler".into(),
                    name: name.clone(),
                    uid: pa.uid().unwrap_or_default(),
                    controller: Some(true),
                    block_owner_deletion: Some(true),
                }]),
                ..sks.metadata
            };
            skses.create(&PostParams::default(), &sks).await?;
            return Ok(());
        };
        let deployments: Api<Deployment> = Api::namespaced(client.clone(), &namespace);
        let deployment = deployments.get(&pa.spec.scale_target_ref.name).await?;
        let ready = deployment.status.and_then(|status| status.ready_replicas).unwrap_or(0);
        let was = pa.status.clone().unwrap_or_default();
        let initialized =
            ready > 0 || was.conditions.iter().any(|c| c.type_ == "ScaleTargetInitialized" && c.status == Status::True);
        let condition = |type_: &str, holds: bool| Condition {
            type_: type_.to_owned(),
            status: if holds { Status::True } else { Status::Unknown },
            ..Condition::default()
        };
        let status = PodAutoscalerStatus {
            observed_generation: pa.metadata.generation.unwrap_or(0),
            conditions: vec![
                condition("Active", ready > 0),
                condition("Ready", ready > 0),
                condition("ScaleTargetInitialized", initialized),
            ],
            service_name: sks.status.unwrap_or_default().service_name,
            actual_scale: Some(ready),
            ..PodAutoscalerStatus::default()
        };
        if status != was {
            let pas: Api<PodAutoscaler> = Api::namespaced(client.clone(), &namespace);
            pas.patch_status(&name, &PatchParams::default(), &Patch::Merge(json!({ "status": status }))).await?;
        }
        Ok(())
    }

    async fn apply(&self, text: &str) {
        let refused = manifest::apply(&self.client, &manifests(text)).await;
        assert!(refused.is_empty(), "{refused:?}");
    }

    fn api<K: Resource<DynamicType = (), Scope = NamespaceResourceScope>>(&self) -> Api<K> {
        Api::namespaced(self.client.clone(), "default")
    }

    async fn all<K>(&self) -> Vec<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        self.api::<K>().list(&ListParams::default()).await.expect("a list").items
    }

    /// Waits until the Ready condition of a service has a status, and answers what its conditions say.
    async fn service_is(&self, name: &str, wanted: Status) -> String {
        until(&format!("service {name} has Ready {wanted:?}"), async || {
            let service = self.api::<Service>().get(name).await.map_err(|error| error.to_string())?;
            let status = service.status.unwrap_or_default();
            let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready");
            match ready {
                Some(ready)
                    if ready.status == wanted && Some(status.observed_generation) == service.metadata.generation =>
                {
                    let told = status.conditions.iter().map(|c| format!("{} {}: {}\n", c.type_, c.reason, c.message));
                    Ok(told.collect())
                }
                _ => Err(format!("{:?}", status.conditions)),
            }
        })
        .await
    }

    async fn scale(&self, deployment: &str, replicas: i32) {
        let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
        self.api::<Deployment>()
            .patch_scale(deployment, &PatchParams::default(), &patch)
            .await
            .expect("the scale subresource");
    }

    /// Waits until the public Service of a revision leads to that many endpoints, and answers their addresses.
    async fn endpoints(&self, revision: &str, count: usize) -> Vec<String> {
        until(&format!("{revision} has {count} endpoints"), async || {
            let slice = self.api::<EndpointSlice>().get(revision).await.map_err(|error| error.to_string())?;
            let addresses: Vec<String> =
                slice.endpoints.iter().flat_map(|endpoint| endpoint.addresses.clone()).collect();
            if addresses.len() == count { Ok(addresses) } else { Err(format!("{addresses:?}")) }
        })
        .await
    }

    /// GET by way of the gateway: status and body.
    async fn get(&self, host: &str, path: &str) -> (u16, String) {
        let gateway = self.local.gateway().expect("a gateway");
        let request = reqwest::Client::new().get(format!("http://{gateway}{path}")).header("host", host);
        let response = request.send().await.expect("an answer");
        (response.status().as_u16(), response.text().await.expect("a body"))
    }

    async fn stop(self) {
        self.autoscaler.abort();
        self.local.stop().await;
        drop(self.served);
    }
}

/// Asks until there is an answer.
async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Result<T, String>) -> T {
    let mut last = String::new();
    let asking = async {
        loop {
            match ask().await {
                Ok(answer) => return answer,
                Err(seen) => last = seen,
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let Ok(answer) = tokio::time::timeout(DEADLINE, asking).await else {
        panic!("waited in vain until {what}; last seen: {last}");
    };
    answer
}

fn manifests(text: &str) -> Vec<Manifest> {
    manifest::parse("test.yaml", text).expect("a manifest without fault")
}

/// A service of one container.
fn service(name: &str, container: &serde_json::Value) -> String {
    json!({
        "apiVersion": "serving.knative.dev/v1", "kind": "Service", "metadata": {"name": name},
        "spec": {"template": {"spec": {"containers": [container]}}},
    })
    .to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_runs_scales_and_goes_with_all_that_belonged_to_it() {
    let cluster = Cluster::start(81).await;
    cluster.apply(SAMPLE_MANIFEST).await;
    cluster.service_is("hello", Status::True).await;
    let nowhere = SAMPLE_MANIFEST.replace("namespace: default", "namespace: nowhere");
    let refused = manifest::apply(&cluster.client, &manifests(&nowhere)).await;
    let says: Vec<_> = refused.iter().map(ToString::to_string).collect();
    let way_out =
        "namespaces \"nowhere\" not found; add a Namespace of that name to the files, or leave metadata.namespace out";
    assert!(says.len() == 1 && says[0].contains(way_out), "{says:?}");

    // What a user of kubectl sees.
    let pods = cluster.all::<Pod>().await;
    assert_eq!(pods.len(), 1);
    let status = pods[0].status.as_ref().expect("a status");
    assert_eq!(status.phase.as_deref(), Some("Running"));
    assert!(status.pod_ip.as_ref().is_some_and(|ip| ip.starts_with("127.81.0.")), "{:?}", status.pod_ip);
    let pa = cluster.api::<PodAutoscaler>().get("hello-00001").await.expect("a PodAutoscaler");
    assert_eq!(pa.annotations()["autoscaling.knative.dev/class"], "kpa.autoscaling.knative.dev");
    assert_eq!(pa.annotations()["autoscaling.knative.dev/metric"], "concurrency");
    assert_eq!((pa.spec.container_concurrency, pa.spec.reachability.as_str()), (10, "Reachable"));
    let (code, body) = cluster.get("hello.default.example.com", "/?sleep=0").await;
    assert_eq!(
        (code, body.starts_with("Hello world! revision=hello-00001 pod=hello-00001-deployment-")),
        (200, true),
        "{body}"
    );
    let (code, body) = cluster.get("nothing.example.com", "/").await;
    assert_eq!((code, body.contains("hello.default.example.com")), (404, true), "{body}");

    // Names inside the cluster lead to pods, and a service's own name to the gateway.
    let dial = LocalDial::new(cluster.local.services().clone());
    let mut stats = dial.dial("hello-00001-private.default", 9090).await.expect("a connection");
    stats.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await.expect("a request");
    let mut answer = Vec::new();
    stats.read_to_end(&mut answer).await.expect("an answer");
    assert!(answer.starts_with(b"HTTP/1.0 200") || answer.starts_with(b"HTTP/1.1 200"), "{answer:?}");
    let gateway = dial.dial("hello.default.svc.cluster.local", 80).await.expect("a connection");
    assert_eq!(gateway.peer_addr().ok(), cluster.local.gateway());

    // Up, and down while a request is under way: it is answered.
    cluster.scale("hello-00001-deployment", 3).await;
    let three = cluster.endpoints("hello-00001", 3).await;
    let slow: Vec<_> = (0..12).map(|_| cluster.get("hello.default.example.com", "/?sleep=700ms")).collect();
    let slow = futures::future::join_all(slow);
    let down = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        cluster.scale("hello-00001-deployment", 1).await;
        cluster.endpoints("hello-00001", 1).await
    };
    let (slow, one) = tokio::join!(slow, down);
    assert!(slow.iter().all(|(code, _)| *code == 200), "{slow:?}");
    assert!(three.contains(&one[0]), "the one that stays was there before");
    until("two pods are gone", async || {
        let left = cluster.all::<Pod>().await.len();
        if left == 1 { Ok(()) } else { Err(format!("{left} pods")) }
    })
    .await;

    // To zero: nothing is behind the service here, since there is no activator.
    cluster.scale("hello-00001-deployment", 0).await;
    cluster.endpoints("hello-00001", 0).await;
    let sks = cluster.api::<ServerlessService>().get("hello-00001").await.expect("a ServerlessService");
    let populated = sks.status.unwrap_or_default().conditions;
    assert_eq!(
        populated.iter().map(|c| c.type_.as_str()).collect::<Vec<_>>(),
        ["ActivatorEndpointsPopulated", "EndpointsPopulated", "Ready"]
    );

    // Deleting the service takes everything along.
    cluster.scale("hello-00001-deployment", 2).await;
    cluster.endpoints("hello-00001", 2).await;
    cluster.api::<Service>().delete("hello", &DeleteParams::default()).await.expect("deleted");
    until("nothing is left", async || {
        let left = [
            cluster.all::<Configuration>().await.len(),
            cluster.all::<Revision>().await.len(),
            cluster.all::<Route>().await.len(),
            cluster.all::<Ingress>().await.len(),
            cluster.all::<PodAutoscaler>().await.len(),
            cluster.all::<ServerlessService>().await.len(),
            cluster.all::<Deployment>().await.len(),
            cluster.all::<Pod>().await.len(),
            cluster.all::<EndpointSlice>().await.len(),
            cluster.all::<CoreService>().await.iter().filter(|service| service.name_any() != "kubernetes").count(),
        ];
        if left.iter().sum::<usize>() == 0 { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_template_is_a_new_revision_and_traffic_moves_to_it() {
    let cluster = Cluster::start(82).await;
    let container = |target: &str| json!({"image": "ebb.local/hello", "env": [{"name": "TARGET", "value": target}]});
    cluster.apply(&service("shop", &container("one"))).await;
    cluster.service_is("shop", Status::True).await;
    // Said again, nothing changes.
    cluster.apply(&service("shop", &container("one"))).await;
    cluster.apply(&service("shop", &container("two"))).await;
    cluster.service_is("shop", Status::True).await;
    assert_eq!(cluster.all::<Revision>().await.len(), 2);
    let (_, body) = cluster.get("shop.default.example.com", "/").await;
    assert!(body.starts_with("Hello two! revision=shop-00002"), "{body}");
    until("the old revision is known to be unreachable", async || {
        let pa = cluster.api::<PodAutoscaler>().get("shop-00001").await.map_err(|error| error.to_string())?;
        if pa.spec.reachability == "Unreachable" { Ok(()) } else { Err(pa.spec.reachability) }
    })
    .await;

    // Half and half, and a tag for the older one.
    let traffic = json!({"spec": {"traffic": [
        {"latestRevision": true, "percent": 50}, {"revisionName": "shop-00001", "percent": 50, "tag": "old"},
    ]}});
    cluster.api::<Service>().patch("shop", &PatchParams::default(), &Patch::Merge(traffic)).await.expect("patched");
    cluster.service_is("shop", Status::True).await;
    let (_, body) = cluster.get("old-shop.default.example.com", "/").await;
    assert!(body.starts_with("Hello one!"), "{body}");
    let mut seen = std::collections::BTreeSet::new();
    until("both revisions have answered", async || {
        seen.insert(cluster.get("shop.default.example.com", "/").await.1.chars().take(9).collect::<String>());
        if seen.len() == 2 { Ok(()) } else { Err(format!("{seen:?}")) }
    })
    .await;
    assert!(cluster.api::<CoreService>().get_opt("old-shop").await.expect("an answer").is_some());
    let url = cluster.api::<Service>().get("shop").await.expect("the service").status.unwrap_or_default().traffic[1]
        .url
        .clone();
    assert_eq!(url.as_deref(), Some("http://old-shop.default.example.com"));

    // The tag goes, and its name with it.
    let traffic = json!({"spec": {"traffic": [{"latestRevision": true, "percent": 100}]}});
    cluster.api::<Service>().patch("shop", &PatchParams::default(), &Patch::Merge(traffic)).await.expect("patched");
    until("the tag's Service is gone", async || {
        let left = cluster.api::<CoreService>().get_opt("old-shop").await.map_err(|error| error.to_string())?;
        if left.is_none() { Ok(()) } else { Err("it is there".to_owned()) }
    })
    .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_stand_is_refused_with_every_problem() {
    let cluster = Cluster::start(83).await;
    let text = r#"
apiVersion: serving.knative.dev/v1
kind: Service
metadata: {name: shop, annotations: {autoscaling.knative.dev/target: "5"}}
spec:
  template:
    metadata: {name: other-1, annotations: {autoscaling.knative.dev/window: 5s, autoscaling.knative.dev/min-scale: "-1"}}
    spec: {containerConcurrency: 2000, containers: [{image: ebb.local/hello}]}
  traffic: [{latestRevision: true, percent: 90, tag: Blue}]
---
apiVersion: v1
kind: ConfigMap
metadata: {name: config-autoscaler, namespace: knative-serving}
data: {stable-window: 5s, max-scale-up-rate: "1"}
"#;
    let refused = manifest::apply(&cluster.client, &manifests(text)).await;
    let told: Vec<String> = refused.iter().map(ToString::to_string).collect();
    assert_eq!(told.len(), 2, "{told:?}");
    for part in ["ConfigMap", "stable-window", "max-scale-up-rate"] {
        assert!(told[0].contains(part), "{part:?} in {}", told[0]);
    }
    for part in
        ["test.yaml:2:1", "target", "window", "min-scale", "containerConcurrency", "other-1", "tag", "add up to 100"]
    {
        assert!(told[1].contains(part), "{part:?} in {}", told[1]);
    }
    assert!(cluster.all::<Configuration>().await.is_empty());

    cluster.apply(&service("shop", &json!({"image": "ebb.local/hello"}))).await;
    cluster.service_is("shop", Status::True).await;
    let patch = Patch::Merge(json!({"spec": {"timeoutSeconds": 7}}));
    let refused = cluster.api::<Revision>().patch("shop-00001", &PatchParams::default(), &patch).await;
    assert!(refused.is_err_and(|error| error.to_string().contains("never changes")));
    cluster.stop().await;
}

/// Not a test of its own: the process that `a_command_is_run_as_a_process` runs in a pod.
#[tokio::test]
async fn serves_when_run_in_a_pod() {
    let (Ok(port), Ok(host)) = (std::env::var("PORT"), std::env::var("EBB_TEST_LISTEN")) else { return };
    let host = if host == "pod" { std::env::var("HOST").expect("an address") } else { host };
    let listener = tokio::net::TcpListener::bind(format!("{host}:{port}")).await.expect("a port");
    eprintln!("listening");
    let told = format!("{} at {host}\n", std::env::var("K_REVISION").expect("a revision"));
    let app = axum::Router::new().route("/quit", axum::routing::get(end)).fallback(move || async move { told });
    axum::serve(listener, app).await.expect("served");
}

async fn end() -> &'static str {
    std::process::exit(3)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_is_run_as_a_process() {
    let cluster = Cluster::start(84).await;
    let me = std::env::current_exe().expect("this binary").display().to_string();
    // On its pod's own address, and on one that only this machine has.
    for (name, listen) in [("on-pod", "pod"), ("on-localhost", "127.0.0.1")] {
        let container = json!({
            "image": "test", "command": [me], "args": ["--exact", "local::cluster::serves_when_run_in_a_pod", "--nocapture"],
            "env": [{"name": "EBB_TEST_LISTEN", "value": listen}],
        });
        cluster.apply(&service(name, &container)).await;
    }
    for name in ["on-pod", "on-localhost"] {
        cluster.service_is(name, Status::True).await;
        let (code, body) = cluster.get(&format!("{name}.default.example.com"), "/").await;
        assert_eq!((code, body.starts_with(&format!("{name}-00001 at 127."))), (200, true), "{body}");
    }

    // It ends; it is started again, on the same pod.
    let gateway = cluster.local.gateway().expect("a gateway");
    let quit =
        reqwest::Client::new().get(format!("http://{gateway}/quit")).header("host", "on-pod.default.example.com");
    assert!(quit.send().await.is_ok_and(|answer| answer.status().is_server_error()));
    until("the container runs again", async || {
        let pods: Vec<Pod> = cluster.all::<Pod>().await;
        let statuses = pods.iter().filter_map(|pod| pod.status.as_ref()?.container_statuses.as_ref()).flatten();
        let restarted = statuses.clone().find(|status| status.restart_count == 1 && status.ready);
        let last =
            restarted.and_then(|status| status.last_state.as_ref()?.terminated.as_ref()).map(|ended| ended.exit_code);
        if last == Some(3) { Ok(()) } else { Err(format!("{:?}", statuses.collect::<Vec<_>>())) }
    })
    .await;
    assert_eq!(cluster.get("on-pod.default.example.com", "/").await.0, 200);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_run_here_is_told_with_the_way_out() {
    let cluster = Cluster::start(85).await;
    cluster.apply(&service("image", &json!({"image": "docker.io/library/nginx"}))).await;
    cluster.apply(&service("missing", &json!({"image": "x", "command": ["/no/such/program"]}))).await;
    let value_from = json!([{"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]);
    cluster.apply(&service("secret", &json!({"image": "ebb.local/hello", "env": value_from}))).await;

    let told = cluster.service_is("image", Status::False).await;
    for part in ["ConfigurationsReady RevisionFailed", "ebb.local/hello", "command"] {
        assert!(told.contains(part), "{part:?} in {told}");
    }
    let told = cluster.service_is("missing", Status::False).await;
    assert!(told.contains("/no/such/program"), "{told}");
    until("the pod says what is missing", async || {
        let pods = cluster.all::<Pod>().await;
        let reasons: Vec<_> = pods
            .iter()
            .filter_map(|pod| pod.status.as_ref()?.container_statuses.as_ref())
            .flatten()
            .filter_map(|status| status.state.as_ref()?.waiting.clone())
            .collect();
        let told = reasons.iter().any(|waiting| {
            waiting.reason.as_deref() == Some("CreateContainerConfigError")
                && waiting.message.as_deref().is_some_and(|message| message.contains("\"KEY\""))
        });
        if told { Ok(()) } else { Err(format!("{reasons:?}")) }
    })
    .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_at_rest_writes_nothing() {
    let cluster = Cluster::start(86).await;
    cluster.apply(SAMPLE_MANIFEST).await;
    cluster.service_is("hello", Status::True).await;
    // Let the last statuses settle: nothing may have changed for a while.
    let mut version = cluster.served.store.version();
    let mut quiet = 0;
    while quiet < 20 {
        tokio::time::sleep(Duration::from_millis(25)).await;
        let now = cluster.served.store.version();
        quiet = if now == version { quiet + 1 } else { 0 };
        version = now;
    }
    // Looked at again, everything is as it should be.
    let patch = Patch::Merge(json!({"metadata": {"annotations": {"look": "again"}}}));
    cluster.api::<Service>().patch("hello", &PatchParams::default(), &patch).await.expect("patched");
    until("the annotation has come down", async || {
        let ingress = cluster.api::<Ingress>().get("hello").await.map_err(|error| error.to_string())?;
        if ingress.annotations().contains_key("look") { Ok(()) } else { Err("not yet".to_owned()) }
    })
    .await;
    let (_, body) = cluster.get("hello.default.example.com", "/stream?n=3&every=20ms").await;
    assert_eq!(body.lines().count(), 3, "{body}");
    assert_eq!(cluster.all::<Revision>().await.len(), 1, "an annotation of the service makes no revision");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn websockets_streams_and_http2_pass_through() {
    let cluster = Cluster::start(87).await;
    let h2c = json!({"image": "ebb.local/hello", "ports": [{"name": "h2c", "containerPort": 8080}]});
    cluster.apply(&service("both", &json!({"image": "ebb.local/hello"}))).await;
    cluster.apply(&service("h2c", &h2c)).await;
    cluster.service_is("both", Status::True).await;
    cluster.service_is("h2c", Status::True).await;
    let gateway = cluster.local.gateway().expect("a gateway");

    let request =
        tokio_tungstenite::tungstenite::client::IntoClientRequest::into_client_request(format!("ws://{gateway}/ws"));
    let mut request = request.expect("a request");
    request.headers_mut().insert("host", "both.default.example.com".parse().expect("a host"));
    let stream = tokio::net::TcpStream::connect(gateway).await.expect("connected");
    let (mut socket, _) = tokio_tungstenite::client_async(request, stream).await.expect("a websocket");
    futures::SinkExt::send(&mut socket, "hello".into()).await.expect("sent");
    let back = socket.next().await.expect("a message").expect("a message");
    assert_eq!(back.into_text().expect("text").as_str(), "hello");

    for host in ["both", "h2c"] {
        // With HTTP/2 the host is part of the address, so the connection is led to the gateway by hand.
        let url = format!("http://{host}.default.example.com:{}/", gateway.port());
        let client = reqwest::Client::builder()
            .http2_prior_knowledge()
            .resolve(&format!("{host}.default.example.com"), gateway)
            .build()
            .expect("a client");
        let response = client.get(url).send().await.expect("an answer");
        assert_eq!((response.status().as_u16(), response.version()), (200, reqwest::Version::HTTP_2), "{host}");
    }
    cluster.stop().await;
}
