//! Splits that no rule of a load balancer can express: Services that lead to activators, which split as gateways.
//!
//! Such a Service has no selector. It leads to the ready servers of the gateway's own Service, to each once it has answered
//! with the version of the KIngress, so that nobody is sent to a gateway that does not know the route yet. Without one that
//! has, it is not made, and what would lead to it is not published.

use crate::api::ingress::{Ingress as KIngress, IngressSplit};
use crate::api::names::SLICE_SERVICE_LABEL;
use crate::k8s::flow::{Flow, Urgency, WriteError};
use crate::k8s::follow::{Change, follow};
use crate::k8s::slim::Guarded;
use crate::routing::controller::FIELD_MANAGER;
use crate::routing::probe::{Question, Topic};
use crate::routing::translate::version;
use crate::units::RevisionKey;
use futures::future::join_all;
use k8s_openapi::api::core::v1::{Endpoints, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::runtime::watcher;
use kube::{Resource as _, ResourceExt as _};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::info;

/// The Service of Ebb's activators as gateways, in the namespace of Knative's own objects.
pub const GATEWAY_SERVICE: &str = "ebb-gateway";
/// Servers of one split at most.
const MOST_SERVERS: usize = 32;

/// The gateways there are. Cheap to clone; all clones are one.
#[derive(Clone)]
pub(super) struct Gateways {
    inner: Arc<Inner>,
}

struct Inner {
    flow: Flow,
    namespace: String,
    synced: watch::Sender<bool>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// By slice.
    servers: HashMap<RevisionKey, BTreeSet<Server>>,
    /// By Service, the version of the KIngress, who answered with it, and who of those it was told to lead to.
    splits: HashMap<RevisionKey, Split>,
}

#[derive(Default)]
struct Split {
    version: String,
    answered: BTreeSet<Server>,
    written: BTreeSet<Server>,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Server {
    address: SocketAddr,
    pod: String,
}

impl Gateways {
    pub(super) fn new(flow: Flow, namespace: String) -> Self {
        Self { inner: Arc::new(Inner { flow, namespace, synced: watch::Sender::default(), state: Mutex::default() }) }
    }

    /// Watches until `cancel`; `look` is called when there are others.
    pub(super) async fn follow(self, look: impl Fn() + Send, cancel: CancellationToken) {
        let client = self.inner.flow.client().clone();
        let slices: Api<Guarded<EndpointSlice>> = Api::namespaced(client, &self.inner.namespace);
        let of_gateway = watcher::Config::default().labels(&format!("{SLICE_SERVICE_LABEL}={GATEWAY_SERVICE}"));
        follow(slices, of_gateway, cancel, |change| {
            let mut state = self.lock();
            let differs = match change {
                Change::Put(key, slice) => {
                    let now = servers(&slice);
                    state.servers.insert(key, now.clone()) != Some(now)
                }
                Change::Gone(key) => state.servers.remove(&key).is_some(),
                Change::Synced => {
                    self.inner.synced.send_replace(true);
                    false
                }
            };
            drop(state);
            if differs {
                look();
            }
        })
        .await;
    }

    /// Waits until it is known which there are.
    pub(super) async fn synced(&self) {
        let _ = self.inner.synced.subscribe().wait_for(|synced| *synced).await;
    }

    /// Whether there is any.
    pub(super) fn any(&self) -> bool {
        self.lock().servers.values().any(|servers| !servers.is_empty())
    }

    /// Sees to it that these Services of a KIngress lead to gateways that know it, also one that somebody removed. Says
    /// whether all of them do.
    pub(super) async fn make(
        &self,
        kingress: &KIngress,
        delegated: &BTreeMap<String, Vec<IngressSplit>>,
        eni: bool,
        is_there: impl Fn(&RevisionKey) -> bool,
    ) -> Result<bool, WriteError> {
        let mut all = true;
        for (name, splits) in delegated {
            let key = RevisionKey::new(&kingress.namespace().unwrap_or_default(), name);
            let (servers, whole) = self.ask(&key, kingress, splits).await;
            all &= whole;
            if servers.is_empty() {
                all = false;
            } else if self.lock().splits.get(&key).is_none_or(|split| split.written != servers) || !is_there(&key) {
                self.write(&key, kingress, &servers, eni).await?;
                info!(service = %key, servers = servers.len(), "a split is an activator's");
                self.lock().splits.entry(key).or_default().written = servers;
            }
        }
        Ok(all)
    }

    /// Those that know this version of the KIngress by now, and whether that is all there are.
    async fn ask(&self, key: &RevisionKey, kingress: &KIngress, splits: &[IngressSplit]) -> (BTreeSet<Server>, bool) {
        let version = version(kingress);
        let (there, open) = {
            let mut state = self.lock();
            let there: BTreeSet<Server> = state.servers.values().flatten().take(MOST_SERVERS).cloned().collect();
            let split = state.splits.entry(key.clone()).or_default();
            if split.version != version {
                split.version.clone_from(&version);
                split.answered.clear();
            }
            split.answered.retain(|server| there.contains(server));
            let open: Vec<Server> = there.difference(&split.answered).cloned().collect();
            (there, open)
        };
        let question = question(kingress, splits);
        let answers = join_all(open.into_iter().map(async |server| {
            let reply = question.ask(server.address, Topic::Version).await;
            reply.is_ok_and(|reply| reply.hash.as_ref() == Some(&version)).then_some(server)
        }));
        let answered: Vec<Server> = answers.await.into_iter().flatten().collect();
        let mut state = self.lock();
        let split = state.splits.entry(key.clone()).or_default();
        split.answered.extend(answered);
        // Who knew an earlier version follows; what is in force leads on to it meanwhile.
        let servers = if split.answered.is_empty() { &split.written } else { &split.answered };
        (servers.intersection(&there).cloned().collect(), split.answered.len() == there.len())
    }

    async fn write(
        &self,
        key: &RevisionKey,
        kingress: &KIngress,
        servers: &BTreeSet<Server>,
        eni: bool,
    ) -> Result<(), WriteError> {
        let meta = json!({
            "name": key.name(), "namespace": key.namespace(),
            "labels": {"app.kubernetes.io/managed-by": "knative-alb"},
            "ownerReferences": [kingress.controller_owner_ref(&())],
        });
        let port = servers.first().map_or(80, |server| server.address.port());
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": {
            "type": if eni { "ClusterIP" } else { "NodePort" },
            "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": port}]}});
        let mut by_port: BTreeMap<u16, Vec<&Server>> = BTreeMap::new();
        for server in servers {
            by_port.entry(server.address.port()).or_default().push(server);
        }
        let address = |server: &Server| {
            let mut address = json!({"ip": server.address.ip()});
            if !server.pod.is_empty() {
                address["targetRef"] = json!({"kind": "Pod", "name": server.pod, "namespace": self.inner.namespace});
            }
            address
        };
        let subsets: Vec<_> = by_port
            .iter()
            .map(|(port, servers)| {
                json!({"addresses": servers.iter().map(|server| address(server)).collect::<Vec<_>>(),
                    "ports": [{"name": "http", "port": port, "protocol": "TCP"}]})
            })
            .collect();
        let endpoints = json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": meta, "subsets": subsets});
        let client = self.inner.flow.client();
        let params = PatchParams { force: true, ..PatchParams::apply(FIELD_MANAGER) };
        // Where it leads stands before it does.
        let api: Api<Endpoints> = Api::namespaced(client.clone(), key.namespace());
        let flow = &self.inner.flow;
        flow.write(Urgency::Routing, || async { api.patch(key.name(), &params, &Patch::Apply(&endpoints)).await })
            .await?;
        let api: Api<Service> = Api::namespaced(client.clone(), key.namespace());
        let service: Service = serde_json::from_value(service).map_err(kube::Error::SerdeError)?;
        let params = PostParams::default();
        match flow.write(Urgency::Routing, || async { api.create(&params, &service).await }).await {
            Err(error) if !error.is_already_there() => Err(error),
            _ => Ok(()),
        }
    }

    /// Removes a Service that no rule leads to any more, and where it leads.
    pub(super) async fn remove(&self, key: &RevisionKey) -> Result<(), WriteError> {
        let (client, flow, params) = (self.inner.flow.client(), &self.inner.flow, DeleteParams::default());
        let services: Api<Service> = Api::namespaced(client.clone(), key.namespace());
        let endpoints: Api<Endpoints> = Api::namespaced(client.clone(), key.namespace());
        // The Service last: by it this is tried again. No rule leads there.
        let gone =
            flow.write(Urgency::Routing, || async { endpoints.delete(key.name(), &params).await.map(drop) }).await;
        gone.or_else(|error| if error.is_not_found() { Ok(()) } else { Err(error) })?;
        let gone =
            flow.write(Urgency::Routing, || async { services.delete(key.name(), &params).await.map(drop) }).await;
        gone.or_else(|error| if error.is_not_found() { Ok(()) } else { Err(error) })?;
        self.lock().splits.remove(key);
        info!(service = %key, "a split is no activator's any more");
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the path with these splits is asked by.
fn question(kingress: &KIngress, splits: &[IngressSplit]) -> Question {
    let rules = kingress.spec.rules.iter();
    let paths = rules.flat_map(|rule| {
        let paths = rule.http.iter().flat_map(|http| &http.paths);
        rule.hosts.first().into_iter().flat_map(move |host| paths.clone().map(move |path| (host, path)))
    });
    let all: Vec<_> = paths.collect();
    let found = all.iter().find(|(_, path)| path.splits == splits).or(all.first());
    let (host, path) = found.map_or(("", ""), |(host, path)| (host.as_str(), path.path.as_str()));
    let headers = found.map(|(_, path)| &path.headers).into_iter().flatten();
    Question {
        secure: false,
        http2: false,
        host: host.to_owned(),
        path: format!("{}/healthz", path.trim_end_matches('/')),
        headers: headers.map(|(name, wanted)| (name.clone(), wanted.exact.clone())).collect(),
    }
}

/// What is ready, at the port it has there.
fn servers(slice: &EndpointSlice) -> BTreeSet<Server> {
    let port = slice.ports.iter().flatten().find_map(|port| u16::try_from(port.port?).ok());
    let ready = slice
        .endpoints
        .iter()
        .filter(|endpoint| endpoint.conditions.as_ref().is_none_or(|conditions| conditions.ready != Some(false)));
    let all = ready.flat_map(|endpoint| {
        let pod = endpoint.target_ref.as_ref().and_then(|pod| pod.name.clone()).unwrap_or_default();
        let ips = endpoint.addresses.iter().filter_map(|ip| ip.parse::<IpAddr>().ok());
        ips.filter_map(move |ip| Some(Server { address: SocketAddr::new(ip, port?), pod: pod.clone() }))
    });
    all.collect()
}
