//! A real autoscaler, an in-memory API server it reaches over HTTP through a road that can be cut, and stand-ins for
//! what else a cluster has: whoever makes revisions, and the controller of ServerlessServices.

use ebb::api::conditions::{Condition, Status};
use ebb::api::pod_autoscaler::PodAutoscaler;
use ebb::api::serverless_service::{ServerlessService, ServerlessServiceStatus};
use ebb::app::{Autoscaler, Listen, Options};
use ebb::clock::Clock;
use ebb::controllers::settings::{self, Maps};
use ebb::k8s::dial::SystemDial;
use ebb::k8s::follow::{Change, follow};
use ebb::k8s::pace;
use ebb::k8s::slim::Guarded;
use ebb::local::apiserver::{Store, serve};
use ebb::ownership::Choice;
use ebb::ownership::class::Classes;
use ebb::stats::wire::{Stat, WireStatMessage, encode_batch};
use ebb::units::{Compat, RevisionKey};
use futures::{SinkExt as _, StreamExt as _};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::runtime::watcher;
use kube::{Client, Resource};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::CancellationToken;

/// The namespace of every revision here.
pub(crate) const NAMESPACE: &str = "default";

/// The whole of it; it stops when this is dropped.
pub(crate) struct Rig {
    pub(crate) store: Arc<Store>,
    /// Straight to the API server.
    pub(crate) client: Client,
    pub(crate) road: Road,
    pub(crate) autoscaler: Autoscaler,
    pub(crate) stats: SocketAddr,
    cancel: CancellationToken,
}

impl Rig {
    /// Starts an API server with what `furnish` puts there, then an autoscaler that owns all revisions.
    pub(crate) async fn start<F: AsyncFnOnce(&Client)>(store: Arc<Store>, furnish: F) -> Self {
        Self::owning(store, Choice::Single, furnish).await
    }

    /// The same, owning what `choice` says.
    pub(crate) async fn owning<F: AsyncFnOnce(&Client)>(store: Arc<Store>, choice: Choice, furnish: F) -> Self {
        let cancel = CancellationToken::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let server = listener.local_addr().expect("a bound listener");
        tokio::spawn(serve(listener, Arc::clone(&store), cancel.clone()));
        let client = connect(server);
        config_maps(&client).await;
        furnish(&client).await;
        tokio::spawn(services(client.clone(), cancel.clone()));

        let road = Road::build(server).await;
        let compat = Compat::IMPROVED;
        let maps = Maps::default();
        let start = settings::read(&client, &maps, compat).await.expect("settings");
        let free = async || TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let stats = free().await;
        let stats_address = stats.local_addr().expect("a bound listener");
        let options = Options {
            client: connect(road.address),
            clock: Clock::system(),
            compat,
            classes: Classes::default(),
            dial: Arc::new(SystemDial),
            cluster_domain: "cluster.local".to_owned(),
            ownership: choice,
            maps,
            start,
            stats: Listen::Now(stats),
            admin: free().await,
            metrics: None,
            show: ebb::app::Show::default(),
            gates: None,
        };
        let autoscaler = Autoscaler::start(options, cancel.clone()).await.expect("an autoscaler");
        Self { store, client, road, autoscaler, stats: stats_address, cancel }
    }

    pub(crate) fn api<K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>>(&self) -> Api<K> {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    /// What the Deployment of a revision is to have.
    pub(crate) async fn replicas(&self, name: &str) -> Option<i32> {
        let deployment = self.api::<Deployment>().get_opt(name).await.ok()??;
        deployment.spec?.replicas
    }

    /// Reports load as an activator does, in one frame. Each revision has so many requests in flight.
    pub(crate) async fn report(&self, load: impl IntoIterator<Item = (String, f64)>) {
        self.send(frame(load)).await;
    }

    /// Opens a connection for stats.
    pub(crate) async fn connect_stats(&self) -> tokio_tungstenite::WebSocketStream<TcpStream> {
        let stream = TcpStream::connect(self.stats).await.expect("the stats port");
        stream.set_nodelay(true).expect("a socket");
        let (socket, _) =
            tokio_tungstenite::client_async("ws://autoscaler.knative-serving/", stream).await.expect("a websocket");
        socket
    }

    async fn send(&self, frame: Message) {
        let mut socket = self.connect_stats().await;
        socket.send(frame).await.expect("sent");
        // Until the other end says so too, so that the frame was read.
        socket.close(None).await.expect("closed");
        while let Some(Ok(_)) = socket.next().await {}
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

/// One frame of stats.
pub(crate) fn frame(load: impl IntoIterator<Item = (String, f64)>) -> Message {
    let messages = load.into_iter().map(|(name, concurrency)| {
        let stat = Stat {
            pod_name: "activator-1".into(),
            average_concurrent_requests: concurrency,
            request_count: concurrency,
            ..Stat::default()
        };
        WireStatMessage::new(&RevisionKey::new(NAMESPACE, &name), stat)
    });
    Message::Binary(encode_batch(messages.collect()))
}

/// A client of the API at `address` that retries nothing by itself.
pub(crate) fn connect(address: SocketAddr) -> Client {
    pace::connect(kube::Config::new(format!("http://{address}").parse().expect("an address"))).expect("a client")
}

/// A PodAutoscaler as the revision controller makes it.
pub(crate) fn autoscaler(name: &str, annotations: &Value) -> Value {
    let mut metadata = json!({
        "name": name, "namespace": NAMESPACE,
        "labels": {
            "serving.knative.dev/revision": name, "serving.knative.dev/configuration": name,
            "serving.knative.dev/service": name, "serving.knative.dev/revisionUID": format!("uid-of-{name}"),
            "serving.knative.dev/configurationGeneration": "1", "app": name,
        },
        "annotations": {
            "autoscaling.knative.dev/class": "kpa.autoscaling.knative.dev",
            "autoscaling.knative.dev/metric": "concurrency",
        },
    });
    for (key, value) in annotations.as_object().into_iter().flatten() {
        metadata["annotations"][key] = value.clone();
    }
    json!({
        "apiVersion": "autoscaling.internal.knative.dev/v1alpha1", "kind": "PodAutoscaler",
        "metadata": metadata,
        "spec": {
            "protocolType": "http1", "reachability": "Reachable",
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
        },
    })
}

/// The status of a revision that went to zero a while ago.
pub(crate) fn status_at_zero(name: &str) -> Value {
    let condition = |type_: &str, status: &str, reason: &str| json!({"type": type_, "status": status, "reason": reason, "lastTransitionTime": "2026-01-02T03:04:05Z"});
    json!({"status": {
        "observedGeneration": 1, "serviceName": name, "metricsServiceName": format!("{name}-private"),
        "desiredScale": 0, "actualScale": 0,
        "conditions": [
            condition("Active", "False", "NoTraffic"), condition("Ready", "False", "NoTraffic"),
            condition("SKSReady", "True", ""), condition("ScaleTargetInitialized", "True", ""),
        ],
    }})
}

/// Makes a revision at zero: its Deployment and its PodAutoscaler, with the status of one that has been there before.
pub(crate) async fn revision_at_zero(client: &Client, name: &str, annotations: &Value) {
    deployment(client, name, 0).await;
    let autoscalers: Api<PodAutoscaler> = Api::namespaced(client.clone(), NAMESPACE);
    let object = serde_json::from_value(autoscaler(name, annotations)).expect("a PodAutoscaler");
    autoscalers.create(&PostParams::default(), &object).await.expect("created");
    let status = Patch::Merge(status_at_zero(name));
    autoscalers.patch_status(name, &PatchParams::default(), &status).await.expect("patched");
}

/// Makes the Deployment of a revision.
pub(crate) async fn deployment(client: &Client, name: &str, replicas: i32) {
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), NAMESPACE);
    let container = json!({"name": "user-container", "image": "example.com/app"});
    let object = json!({
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": [container]}},
        },
    });
    let object = serde_json::from_value(object).expect("a Deployment");
    deployments.create(&PostParams::default(), &object).await.expect("created");
}

/// Makes a pod that is ready.
pub(crate) async fn ready_pod(client: &Client, revision: &str, pod: &str) {
    let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let object = json!({
        "metadata": {"name": pod, "labels": {
            "serving.knative.dev/revision": revision, "serving.knative.dev/revisionUID": format!("uid-of-{revision}"),
        }},
        "spec": {"containers": [{"name": "user-container", "image": "example.com/app"}]},
    });
    let object = serde_json::from_value(object).expect("a Pod");
    pods.create(&PostParams::default(), &object).await.expect("created");
    let status = json!({"status": {
        "phase": "Running", "podIP": "127.0.0.1", "startTime": "2026-01-02T03:04:05Z",
        "conditions": [{"type": "Ready", "status": "True"}],
    }});
    pods.patch_status(pod, &PatchParams::default(), &Patch::Merge(status)).await.expect("patched");
}

/// The ConfigMaps without which no autoscaler starts.
pub(crate) async fn config_maps(client: &Client) {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "knative-serving");
    for (name, data) in [
        ("config-autoscaler", json!({"scale-to-zero-grace-period": "1s"})),
        ("config-deployment", json!({"queue-sidecar-image": "ebb.local/queue-proxy"})),
        ("config-logging", json!({})),
        ("config-network", json!({})),
        ("config-observability", json!({})),
    ] {
        let map = serde_json::from_value(json!({"metadata": {"name": name}, "data": data})).expect("a ConfigMap");
        maps.create(&PostParams::default(), &map).await.expect("created");
    }
}

/// Stands in for the controller of ServerlessServices: whatever is asked for is so at once.
pub(crate) async fn services(client: Client, cancel: CancellationToken) {
    let all: Api<Guarded<ServerlessService>> = Api::all(client.clone());
    follow(all, watcher::Config::default(), cancel, |change: Change<ServerlessService>| {
        let Change::Put(key, service) = change else { return };
        let (status, generation) = (service.status.unwrap_or_default(), service.metadata.generation.unwrap_or(0));
        if status.observed_generation == generation {
            return;
        }
        let condition =
            |type_: &str| Condition { type_: type_.to_owned(), status: Status::True, ..Condition::default() };
        let status = ServerlessServiceStatus {
            observed_generation: generation,
            service_name: key.name().to_owned(),
            private_service_name: format!("{}-private", key.name()),
            conditions: ["ActivatorEndpointsPopulated", "EndpointsPopulated", "Ready"].map(condition).to_vec(),
        };
        let services: Api<ServerlessService> = Api::namespaced(client.clone(), key.namespace());
        tokio::spawn(async move {
            let patch = Patch::Merge(json!({"status": status}));
            // What is deleted meanwhile needs no status.
            let _ = services.patch_status(key.name(), &PatchParams::default(), &patch).await;
        });
    })
    .await;
}

/// The way to the API server, an address of its own whose traffic can be cut.
pub(crate) struct Road {
    pub(crate) address: SocketAddr,
    server: SocketAddr,
    open: Mutex<CancellationToken>,
}

impl Road {
    async fn build(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound listener");
        let open = CancellationToken::new();
        tokio::spawn(carry(listener, server, open.clone()));
        Self { address, server, open: Mutex::new(open) }
    }

    /// Every connection breaks, and nobody listens any more.
    pub(crate) fn close(&self) {
        self.open.lock().expect("no panic above").cancel();
    }

    /// Listens again, at the same address.
    pub(crate) async fn open(&self) {
        let listener = loop {
            // The old listener goes in a moment.
            match TcpListener::bind(self.address).await {
                Ok(listener) => break listener,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        let open = CancellationToken::new();
        *self.open.lock().expect("no panic above") = open.clone();
        tokio::spawn(carry(listener, self.server, open));
    }
}

async fn carry(listener: TcpListener, server: SocketAddr, open: CancellationToken) {
    loop {
        let mut here = tokio::select! {
            () = open.cancelled() => return,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(_) => continue,
            },
        };
        let open = open.clone();
        tokio::spawn(async move {
            let carried = async {
                let mut there = TcpStream::connect(server).await?;
                here.set_nodelay(true)?;
                there.set_nodelay(true)?;
                tokio::io::copy_bidirectional(&mut here, &mut there).await
            };
            tokio::select! {
                () = open.cancelled() => {}
                // However it ended, the connection is over.
                _ = carried => {}
            }
        });
    }
}
