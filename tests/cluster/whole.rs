//! The whole loop: the controllers, pods, gateway and activator of a local cluster around an API server, and Ebb.

use crate::audit::asked_by;
use crate::patience::eventually;
use crate::plane::{ADMIN, EBB, Plane, SYSTEM, account};
use crate::served::Served;
use crate::translate::Front;
use crate::webhook::Webhook;
use crate::{World, roles};
use ebb::api::conditions::Status;
use ebb::api::serving::Service;
use ebb::app::{self, Autoscaler, Listen};
use ebb::clock::Clock;
use ebb::controllers::settings::{self, Maps};
use ebb::dataplane::activator::{self, Activator};
use ebb::k8s::dial::Dial;
use ebb::local::dial::LocalDial;
use ebb::local::knative::admission::admission;
use ebb::local::manifest;
use ebb::local::pods::{NODE, kubelet};
use ebb::local::{AutoscalerSettings, LocalCluster, Options};
use ebb::ownership::Choice;
use ebb::ownership::class::Classes;
use ebb::ownership::holder::Identity;
use ebb::stats::client;
use ebb::units::Compat;
use futures::StreamExt as _;
use futures::future::{BoxFuture, join_all};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams, PostParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Client, ResourceExt as _};
use serde_json::json;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Where the revisions of these tests live.
const NAMESPACE: &str = "default";

/// Everything of a cluster but the autoscaler.
pub(crate) struct Whole {
    client: Client,
    gateway: SocketAddr,
    http: reqwest::Client,
    cluster: LocalCluster,
    /// Ends what has no order of its own, when dropped.
    _stop: DropGuard,
}

/// What a cluster is made of.
pub(crate) struct Parts {
    /// With every right.
    pub(crate) client: Client,
    /// What admission goes by.
    pub(crate) settings: AutoscalerSettings,
    /// Whether something else makes the pods of Deployments.
    pub(crate) own_deployments: bool,
    /// The second number of the pods' addresses; no two clusters may share it.
    pub(crate) network: u8,
    /// Where the activator reports to, one after the other until one answers.
    pub(crate) stats: Vec<SocketAddr>,
}

impl Whole {
    pub(crate) async fn start(parts: Parts) -> Self {
        let Parts { client, settings, own_deployments, network, stats } = parts;
        let (clock, stop) = (Clock::system(), CancellationToken::new());
        let maps = [
            ("config-autoscaler", json!({"scale-to-zero-grace-period": "1s"})),
            ("config-leader-election", json!({"buckets": "3"})),
        ];
        for (name, data) in maps {
            let metadata = json!({"name": name, "namespace": SYSTEM});
            apply(&client, json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})).await;
        }
        let dial = Arc::new(AnyOf(stats));
        let sink = Arc::new(client::spawn("ws://autoscaler:8080", dial, stop.clone()).expect("an address"));
        let ip = IpAddr::V4(Ipv4Addr::new(127, network, 255, 1));
        let mut config = activator::Config::new("activator-test", ip);
        config.drain_period = Duration::ZERO;
        let activator = Activator::bind(config, sink, clock).await.expect("an address of its own");
        let options = Options {
            activators: vec![ip],
            pods: kubelet::Settings {
                network: Ipv4Addr::new(127, network, 0, 0),
                startup_delay: Duration::from_millis(100),
                quiet_period: Duration::from_millis(250),
                ..kubelet::Settings::default()
            },
            deployments: !own_deployments,
            ..Options::default()
        };
        if own_deployments {
            tokio::spawn(stop.clone().run_until_cancelled_owned(schedule(client.clone())));
        }
        let gateway = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let cluster = LocalCluster::start(options, Some(gateway), client.clone(), clock, settings).await;
        let cluster = cluster.expect("a cluster");
        tokio::spawn(activator::feed::run(client.clone(), activator.backends(), activator.ports(), ip, stop.clone()));
        tokio::spawn(activator.run(stop.clone()));
        let gateway = cluster.gateway().expect("a gateway");
        Self { client, gateway, http: reqwest::Client::new(), cluster, _stop: stop.drop_guard() }
    }

    /// An autoscaler in this process, to which names lead as in the cluster.
    pub(crate) async fn autoscaler(&self, client: Client, stats: TcpListener) -> Autoscaler {
        let options = app::Options {
            clock: Clock::system(),
            compat: Compat::IMPROVED,
            classes: Classes::default(),
            dial: Arc::new(LocalDial::new(self.cluster.services().clone())),
            cluster_domain: "cluster.local".to_owned(),
            ownership: Choice::Cluster {
                identity: Identity::new("autoscaler-test", "127.0.0.1").expect("an identity"),
                stateful_set: None,
            },
            start: settings::read(&client, &Maps::default(), Compat::IMPROVED).await.expect("settings"),
            maps: Maps::default(),
            client,
            stats: Listen::Now(stats),
            admin: TcpListener::bind("127.0.0.1:0").await.expect("a free port"),
            metrics: None,
            show: ebb::app::Show::default(),
            gates: None,
        };
        Autoscaler::start(options, CancellationToken::new()).await.expect("an autoscaler")
    }

    /// Applies a service of ten requests at once a pod that goes to zero within seconds, and waits until it is ready.
    pub(crate) async fn serve(&self, name: &str) {
        let service = json!({
            "apiVersion": "serving.knative.dev/v1", "kind": "Service", "metadata": {"name": name, "namespace": NAMESPACE},
            "spec": {"template": {
                "metadata": {"annotations": {"autoscaling.knative.dev/window": "6s"}},
                "spec": {"containerConcurrency": 10, "containers": [{"image": "ebb.local/hello"}]},
            }},
        });
        apply(&self.client, service).await;
        let services: Api<Service> = Api::namespaced(self.client.clone(), NAMESPACE);
        eventually(&format!("service {name} is ready"), async || {
            let service = services.get(name).await.map_err(|error| error.to_string())?;
            let status = service.status.unwrap_or_default();
            let ready = status.conditions.iter().any(|found| found.type_ == "Ready" && found.status == Status::True);
            if ready { Ok(()) } else { Err(format!("{:?}", status.conditions)) }
        })
        .await;
    }

    /// Applies several services.
    pub(crate) async fn serve_all(&self, names: &[&str]) {
        for name in names {
            self.serve(name).await;
        }
    }

    /// Waits until the first revision of a service wants and has that many pods.
    pub(crate) async fn has_pods(&self, name: &str, wanted: usize) {
        let deployments: Api<Deployment> = Api::namespaced(self.client.clone(), NAMESPACE);
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), NAMESPACE);
        let of_service = ListParams::default().labels(&format!("serving.knative.dev/service={name}"));
        eventually(&format!("{name} has {wanted} pods"), async || {
            let deployment =
                deployments.get(&format!("{name}-00001-deployment")).await.map_err(|error| error.to_string())?;
            let replicas = deployment.spec.and_then(|spec| spec.replicas);
            let pods = pods.list(&of_service).await.map_err(|error| error.to_string())?.items.len();
            let as_wanted = replicas == i32::try_from(wanted).ok() && pods == wanted;
            if as_wanted { Ok(()) } else { Err(format!("{replicas:?} wanted, {pods} there")) }
        })
        .await;
    }

    /// What a request to a service is answered.
    pub(crate) async fn get(&self, name: &str, path: &str) -> Result<String, String> {
        let request = self.http.get(format!("http://{}{path}", self.gateway));
        let request = request.header("host", format!("{name}.{NAMESPACE}.example.com"));
        let response = request.send().await.map_err(|error| format!("{error:?}"))?;
        let status = response.status();
        let body = response.text().await.map_err(|error| format!("{error:?}"))?;
        if status.is_success() { Ok(body) } else { Err(format!("{status}: {body}")) }
    }

    /// Keeps `clients` requests in flight to each service while `meanwhile` goes on; what it came to, and how many were
    /// answered.
    ///
    /// # Panics
    /// When a request fails.
    pub(crate) async fn under_load<T>(
        &self,
        services: &[&str],
        clients: usize,
        meanwhile: impl Future<Output = T>,
    ) -> (T, u64) {
        let (stop, answered) = (CancellationToken::new(), AtomicU64::new(0));
        // Long, so that the time between two requests, which a busy machine stretches, takes little from what is in
        // flight: that is what there are pods for.
        let load = join_all(services.iter().flat_map(|name| std::iter::repeat_n(name, clients)).map(async |name| {
            while !stop.is_cancelled() {
                let answer = self.get(name, "/?sleep=2s").await;
                assert!(answer.is_ok(), "a request to {name} failed: {answer:?}");
                answered.fetch_add(1, Ordering::Relaxed);
            }
        }));
        let meanwhile = async {
            let result = meanwhile.await;
            stop.cancel();
            result
        };
        let (_, result) = tokio::join!(load, meanwhile);
        (result, answered.into_inner())
    }

    pub(crate) async fn stop(self) {
        self.cluster.stop().await;
    }
}

/// On the in-memory API.
pub(crate) async fn in_memory() {
    let served = Served::start().await;
    let settings = AutoscalerSettings::new(Compat::IMPROVED);
    assert!(served.store.set_admission(admission(settings.clone())));
    let client = served.client();
    to_zero_and_back(client.clone(), client, settings, false, 91).await;
}

/// On a real one, with the shipped roles, and with real Deployments where there is a controller for them.
pub(crate) async fn on_a_real_api_server(world: &World) {
    let own_deployments = world.assets.has("kube-controller-manager");
    let plane = Plane::start(&world.assets, own_deployments).await;
    let admin = plane.client(ADMIN).await;
    roles::install(&admin).await;
    let settings = AutoscalerSettings::new(Compat::IMPROVED);
    let _webhook = Webhook::start(&admin, plane.identity(), settings.clone()).await;
    let front = Front::start(&plane, world).await;
    to_zero_and_back(front.client(ADMIN).await, front.client(EBB).await, settings, own_deployments, 92).await;
    let refused = asked_by(&account(EBB), &plane.audit()).into_iter().filter(|asked| asked.response_status.code == 403);
    assert_eq!(refused.map(|asked| asked.uri).collect::<Vec<_>>(), Vec::<String>::new());
    front.count(world);
}

/// From zero, up, and back to zero, twice; no request is lost.
async fn to_zero_and_back(
    client: Client,
    ebb: Client,
    settings: AutoscalerSettings,
    own_deployments: bool,
    network: u8,
) {
    let stats = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let reports_to = vec![stats.local_addr().expect("an address")];
    let whole = Whole::start(Parts { client, settings, own_deployments, network, stats: reports_to }).await;
    let autoscaler = whole.autoscaler(ebb, stats).await;
    whole.serve("loop").await;
    for _ in 0..2 {
        whole.has_pods("loop", 0).await;
        let answers = join_all((0..5).map(|_| whole.get("loop", "/"))).await;
        assert!(answers.iter().all(Result::is_ok), "{answers:?}");
        // 30 in flight / (10 · 70 %) = 4.3.
        let ((), answered) = whole.under_load(&["loop"], 30, whole.has_pods("loop", 5)).await;
        assert!(answered > 0);
    }
    whole.has_pods("loop", 0).await;
    autoscaler.stop().await;
    whole.stop().await;
}

/// Connects to the first of several that answers, whatever name is asked for.
struct AnyOf(Vec<SocketAddr>);

impl Dial for AnyOf {
    fn dial<'a>(&'a self, _: &'a str, _: u16) -> BoxFuture<'a, io::Result<TcpStream>> {
        Box::pin(TcpStream::connect(self.0.as_slice()))
    }
}

async fn apply(client: &Client, object: serde_json::Value) {
    let manifests = manifest::parse("test.yaml", &object.to_string()).expect("a manifest without fault");
    let refused = manifest::apply(client, &manifests).await;
    assert!(refused.is_empty(), "{refused:?}");
}

/// Binds pods to the one node there is, as long as it is polled.
fn schedule(client: Client) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        let unbound = watcher::Config::default().fields("spec.nodeName=");
        let mut pods = pin!(watcher(Api::<Pod>::all(client.clone()), unbound).default_backoff().applied_objects());
        while let Some(pod) = pods.next().await {
            let Ok(pod) = pod else { continue };
            let (name, namespace) = (pod.name_any(), pod.namespace().unwrap_or_default());
            let binding = json!({
                "apiVersion": "v1", "kind": "Binding", "metadata": {"name": name},
                "target": {"apiVersion": "v1", "kind": "Node", "name": NODE},
            });
            let api: Api<Pod> = Api::namespaced(client.clone(), &namespace);
            // One that is gone or bound already needs nothing.
            let _ = api
                .create_subresource::<_, serde_json::Value>("binding", &name, &PostParams::default(), &binding)
                .await;
        }
    })
}
