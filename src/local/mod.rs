//! A whole cluster in one process: an in-memory Kubernetes API, the part of Knative a Service needs, pods, a gateway.
//!
//! ```text
//!            kubectl, manifests                         requests
//!                    │                                      │
//!                    ▼                                      ▼
//! apiserver ─► knative: Service ─► Configuration, Route ─► gateway ─┬─► activator ─┐
//!     ▲                               │          │                  │              │
//!     │                     Revision ─┴─► KIngress                  └──► pods ◄────┘
//!     │                        │  └────► PodAutoscaler ─ autoscaler ─┐     ▲
//!     │                        ▼                                     ▼     │
//!     └────────────────── Deployment ◄──────────────────────── replicas    │
//!                              └────────────────────────────────► kubelet ─┘
//! ```
//!
//! Reading order: [`apiserver`] (the objects), [`manifest`] (what a user hands over), [`knative`] (what becomes of it),
//! [`pods`] (what runs), [`dial`] and [`gateway`] (how it is reached), [`alb`] (a cloud's load balancer in its place),
//! [`sample`] (what runs when there is nothing else).
//!
//! Everything acts on the objects and on nothing else: whatever a part does can be seen, and caused, with kubectl.
//! Everything is driven by watches; an idle cluster does nothing.

pub mod alb;
pub mod apiserver;
pub mod dial;
pub mod gateway;
pub mod knative;
pub mod manifest;
mod meta;
mod mirror;
pub mod pods;
pub mod sample;
mod world;
mod write;

pub use world::AutoscalerSettings;

use crate::api::alb_config::AlbConfig;
use crate::api::names::{ACTIVATOR_SERVICE, QUEUE_H2C_PORT, QUEUE_HTTP1_PORT, SLICE_SERVICE_LABEL, SYSTEM_NAMESPACE};
use crate::clock::Clock;
use crate::dataplane::server::Stop;
use crate::dataplane::services::Services;
use crate::local::alb::Alb;
use crate::local::gateway::Gateway;
use crate::local::knative::controllers::Controllers;
use crate::local::knative::route::{INGRESS_CLASS, Network};
use crate::local::pods::container::QUEUE_PROXY_IMAGE;
use crate::local::pods::controller::Pods;
use crate::local::pods::kubelet::{self, Kubelet};
use crate::local::world::{Queues, World};
use k8s_openapi::api::core::v1::{ConfigMap, Service as CoreService};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::core::{ClusterResourceScope, NamespaceResourceScope};
use kube::runtime::wait::await_condition;
use kube::runtime::wait::conditions::is_crd_established;
use kube::runtime::watcher;
use kube::{Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use std::fmt::Debug;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

/// The manifest of the service that runs when there is no other.
pub const SAMPLE_MANIFEST: &str = include_str!("../../deploy/samples/hello.yaml");

/// Who the fields belong to that the cluster itself needs.
const FIELD_MANAGER: &str = "ebb-local";
/// The name inside the cluster by which the gateway is reached.
const GATEWAY_SERVICE: &str = "gateway";
/// How long the API may take to serve a kind that was just defined.
const SERVED: Duration = Duration::from_secs(30);
/// How long the gateway may take to finish what is under way when the cluster stops.
const GATEWAY_STOP: Duration = Duration::from_secs(5);

/// How a local cluster is made.
#[derive(Clone, Debug)]
pub struct Options {
    /// Routes are reached by `NAME.NAMESPACE.` and this.
    pub domain: String,
    /// The class of KIngress the gateway serves, and that routes get which name none.
    pub ingress_class: String,
    /// The addresses of the activators, each listening on 8012 and 8013.
    pub activators: Vec<IpAddr>,
    /// How pods are run.
    pub pods: kubelet::Settings,
    /// Whether the pods of Deployments are made here. Not where the cluster has a controller for that; then it also
    /// has to bind them to the node `local`.
    pub deployments: bool,
    /// A double of a cloud's load balancer in place of the gateway; somebody has to write Ingresses for it.
    pub balancer: Option<alb::Options>,
}

impl Default for Options {
    /// No activator, and all else as a user gets it.
    fn default() -> Self {
        Self {
            domain: Network::default().domain,
            ingress_class: INGRESS_CLASS.to_owned(),
            activators: Vec::new(),
            pods: kubelet::Settings::default(),
            deployments: true,
            balancer: None,
        }
    }
}

/// Why a local cluster did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An object the cluster itself needs could not be written.
    #[error("{kind} {name:?} could not be written: {source}")]
    Object {
        /// Its kind.
        kind: String,
        /// Its name.
        name: String,
        /// What the API said.
        source: Box<kube::Error>,
    },
}

/// What lives in a local cluster: Knative's controllers, pods, the gateway.
pub struct LocalCluster {
    services: Services,
    gateway: Option<SocketAddr>,
    balancer: Option<Alb>,
    kubelet: Kubelet,
    gateway_stop: Stop,
    gateway_tasks: TaskTracker,
    cancel: CancellationToken,
    tasks: TaskTracker,
}

impl LocalCluster {
    /// Starts everything around the API that `client` leads to. `settings` are those the API's admission uses.
    ///
    /// Objects the cluster itself needs are written first: Knative's ConfigMaps where they are missing, and the Services
    /// of activators and gateway. When it returns, every object that existed is known and is being worked on.
    ///
    /// Requests come in by `listener`, if there is one; otherwise by another ingress. A load balancer's double may have more
    /// listeners, see [`LocalCluster::serve_https`].
    pub async fn start(
        options: Options,
        mut listener: Option<TcpListener>,
        client: Client,
        clock: Clock,
        settings: AutoscalerSettings,
    ) -> Result<Self, StartError> {
        let gateway = listener.as_ref().and_then(|listener| listener.local_addr().ok());
        furnish(&client, &options, gateway).await?;

        let (cancel, tasks) = (CancellationToken::new(), TaskTracker::new());
        let (world, queues) = (World::default(), Queues::new(clock));
        let kubelet = Kubelet::new(client.clone(), clock, options.pods);
        let pods = Pods::new(client.clone(), world.clone(), clock, queues.deployments.clone());
        let on_pod = {
            let (kubelet, pods) = (kubelet.clone(), pods.clone());
            move |news| {
                pods.take_in(&news);
                kubelet.take_in(news);
            }
        };
        world.watch(&client, &queues, &settings, on_pod, &tasks, &cancel);
        let services = Services::default();
        tasks.spawn({
            let (services, client, cancel) = (services.clone(), client.clone(), cancel.clone());
            async move { services.follow(client, watcher::Config::default(), cancel).await }
        });

        tasks.spawn(mirror::run(client.clone(), cancel.clone()));
        let (gateway_stop, gateway_tasks) = (Stop::default(), TaskTracker::new());
        let mut balancer = None;
        if let (Some(listener), Some(double)) = (listener.take_if(|_| options.balancer.is_some()), &options.balancer) {
            let serving = Alb::new(double.clone(), clock, services.clone());
            tasks.spawn({
                let (serving, client, cancel) = (serving.clone(), client.clone(), cancel.clone());
                async move { Box::pin(serving.follow(client, cancel)).await }
            });
            let (stop, alb) = (gateway_stop.clone(), serving.clone());
            gateway_tasks.spawn(async move { alb.serve(0, ("HTTP", 80), listener, stop).await });
            balancer = Some(serving);
        } else if let Some(listener) = listener {
            let (class, domain) = (options.ingress_class.clone(), options.domain.clone());
            let serving = Gateway::new(class, domain, clock, services.clone());
            tasks.spawn({
                let (serving, client, cancel) = (serving.clone(), client.clone(), cancel.clone());
                async move { serving.follow(client, cancel).await }
            });
            let stop = gateway_stop.clone();
            gateway_tasks.spawn(async move { serving.serve(listener, stop).await });
        }

        // A look at half a world would make what is there already.
        world.synced().await;
        let network = Network { domain: options.domain, ingress_class: options.ingress_class };
        Controllers { client, world, clock, network, settings }.spawn(&queues, &tasks, &cancel);
        if options.deployments {
            pods.spawn(&tasks, &cancel);
        }
        tasks.close();
        gateway_tasks.close();
        info!(gateway = ?gateway, "local cluster runs");
        Ok(Self { services, gateway, balancer, kubelet, gateway_stop, gateway_tasks, cancel, tasks })
    }

    /// Where the gateway listens.
    pub fn gateway(&self) -> Option<SocketAddr> {
        self.gateway
    }

    /// The double of a load balancer in the gateway's place, for faults and for listeners at its other addresses.
    pub fn balancer(&self) -> Option<&Alb> {
        self.balancer.as_ref()
    }

    /// Lets the double of a load balancer serve HTTPS at this listener too, with the certificates its Ingresses name. Not
    /// without a double, nor once the gateway is closed.
    pub fn serve_https(&self, listener: TcpListener) {
        if let Some(balancer) = self.balancer.clone() {
            let stop = self.gateway_stop.clone();
            self.gateway_tasks.spawn(async move { balancer.serve(0, ("HTTPS", 443), listener, stop).await });
        }
    }

    /// The Services, to connect by name: see [`dial::LocalDial`].
    pub fn services(&self) -> &Services {
        &self.services
    }

    /// The gateway takes nothing more; returns when what is under way is finished, or cut off after a while.
    pub async fn close_gateway(&self) {
        self.gateway_stop.drain.cancel();
        if tokio::time::timeout(GATEWAY_STOP, self.gateway_tasks.wait()).await.is_err() {
            warn!("requests under way at the gateway cut off");
        }
        self.gateway_stop.kill.cancel();
        self.gateway_tasks.wait().await;
    }

    /// Stops in order: the gateway, unless that was done before, then the controllers; pods drain, and their processes
    /// are gone when this returns. Objects stay as they are.
    pub async fn stop(self) {
        self.close_gateway().await;
        self.cancel.cancel();
        self.kubelet.stop().await;
        self.tasks.wait().await;
    }
}

impl Debug for LocalCluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalCluster").field("gateway", &self.gateway).finish_non_exhaustive()
    }
}

/// Writes what the cluster itself needs.
async fn furnish(client: &Client, options: &Options, gateway: Option<SocketAddr>) -> Result<(), StartError> {
    let mut network = json!({"ingress-class": options.ingress_class});
    if let Some(balancer) = &options.balancer {
        network["albconfig"] = balancer.config.clone().into();
        let (definition, config) = alb::objects(&balancer.config);
        create_wide(client, &object::<CustomResourceDefinition>(definition)).await?;
        is_served(client, "albconfigs.alibabacloud.com").await?;
        create_wide(client, &object::<AlbConfig>(config)).await?;
    }
    let maps = [
        ("config-autoscaler", json!({})),
        ("config-deployment", json!({"queue-sidecar-image": QUEUE_PROXY_IMAGE})),
        ("config-domain", json!({ &options.domain: "" })),
        ("config-leader-election", json!({})),
        ("config-logging", json!({})),
        ("config-network", network),
        ("config-observability", json!({"request-metrics-protocol": "prometheus"})),
    ];
    for (name, data) in maps {
        let map: ConfigMap = object(json!({
            "metadata": {"name": name, "namespace": SYSTEM_NAMESPACE, "labels": {"app.kubernetes.io/name": "knative-serving"}},
            "data": data,
        }));
        create_missing(client, &map, name).await?;
    }
    if !options.activators.is_empty() {
        let ports = [("http", 80, QUEUE_HTTP1_PORT, false), ("http2", 81, QUEUE_H2C_PORT, true)];
        place(client, ACTIVATOR_SERVICE, &options.activators, &ports).await?;
    }
    if let Some(gateway) = gateway {
        // Reached from this machine only, whatever it listens on.
        let ip = if gateway.ip().is_unspecified() { IpAddr::from([127, 0, 0, 1]) } else { gateway.ip() };
        place(client, GATEWAY_SERVICE, &[ip], &[("http2", 80, gateway.port(), true)]).await?;
    }
    Ok(())
}

/// Writes a Service of the system and where it leads: name, port, port at the endpoint, whether that speaks HTTP/2.
async fn place(
    client: &Client,
    name: &str,
    addresses: &[IpAddr],
    ports: &[(&str, u16, u16, bool)],
) -> Result<(), StartError> {
    let protocol = |h2c: bool| h2c.then_some("kubernetes.io/h2c");
    let service_ports: Vec<_> = ports
        .iter()
        .map(|(name, port, target, h2c)| {
            json!({"name": name, "port": port, "targetPort": target, "protocol": "TCP", "appProtocol": protocol(*h2c)})
        })
        .collect();
    let slice_ports: Vec<_> = ports
        .iter()
        .map(|(name, _, target, h2c)| json!({"name": name, "port": target, "protocol": "TCP", "appProtocol": protocol(*h2c)}))
        .collect();
    let endpoints: Vec<_> = addresses
        .iter()
        .map(|ip| json!({"addresses": [ip], "conditions": {"ready": true, "serving": true, "terminating": false}}))
        .collect();
    let service: CoreService = object(json!({
        "metadata": {"name": name, "namespace": SYSTEM_NAMESPACE},
        "spec": {"ports": service_ports},
    }));
    let slice: EndpointSlice = object(json!({
        "metadata": {"name": name, "namespace": SYSTEM_NAMESPACE, "labels": {SLICE_SERVICE_LABEL: name}},
        "addressType": if addresses.iter().any(IpAddr::is_ipv6) { "IPv6" } else { "IPv4" },
        "endpoints": endpoints,
        "ports": slice_ports,
    }));
    apply(client, &slice, name).await?;
    apply(client, &service, name).await
}

fn object<K: DeserializeOwned>(value: serde_json::Value) -> K {
    serde_json::from_value(value).expect("a literal of its kind")
}

async fn create_missing<K>(client: &Client, object: &K, name: &str) -> Result<(), StartError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Serialize + DeserializeOwned + Clone + Debug,
{
    let api: Api<K> = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
    match api.create(&PostParams::default(), object).await {
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        other => settle::<K>(other.map(drop), name),
    }
}

async fn create_wide<K>(client: &Client, object: &K) -> Result<(), StartError>
where
    K: Resource<DynamicType = (), Scope = ClusterResourceScope> + Serialize + DeserializeOwned + Clone + Debug,
{
    let name = object.meta().name.clone().unwrap_or_default();
    match Api::<K>::all(client.clone()).create(&PostParams::default(), object).await {
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        other => settle::<K>(other.map(drop), &name),
    }
}

/// Waits until a kind that was just defined is served.
async fn is_served(client: &Client, definition: &str) -> Result<(), StartError> {
    let definitions = Api::<CustomResourceDefinition>::all(client.clone());
    let failed = |source: kube::Error| settle::<CustomResourceDefinition>(Err(source), definition);
    match timeout(SERVED, await_condition(definitions, definition, is_crd_established())).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => failed(kube::Error::Service(error.into())),
        Err(error) => failed(kube::Error::Service(error.into())),
    }
}

async fn apply<K>(client: &Client, object: &K, name: &str) -> Result<(), StartError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Serialize + DeserializeOwned + Clone + Debug,
{
    let api: Api<K> = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
    let params = PatchParams::apply(FIELD_MANAGER).force();
    settle::<K>(api.patch(name, &params, &Patch::Apply(object)).await.map(drop), name)
}

fn settle<K: Resource<DynamicType = ()>>(written: Result<(), kube::Error>, name: &str) -> Result<(), StartError> {
    written.map_err(|source| StartError::Object {
        kind: K::kind(&()).into_owned(),
        name: name.to_owned(),
        source: Box::new(source),
    })
}
