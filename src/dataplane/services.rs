//! Where a Service leads: its ready endpoints.

use crate::api::names::SLICE_SERVICE_LABEL;
use crate::k8s::follow::{Change, follow};
use crate::k8s::slim::Guarded;
use crate::units::RevisionKey;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::watcher;
use kube::{Api, Client};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, PoisonError, RwLock};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The protocol of a port that speaks HTTP/2 from the first byte, as Kubernetes names it.
const H2C: &str = "kubernetes.io/h2c";
/// How many names may lead to one another until a Service is found.
const MOST_ALIASES: usize = 4;

/// Every Service and its endpoints, as the API server tells of them. Cheap to clone; all clones are one.
#[derive(Clone, Default, Debug)]
pub struct Services {
    state: Arc<RwLock<State>>,
    changes: watch::Sender<u64>,
}

#[derive(Default, Debug)]
struct State {
    ports: HashMap<RevisionKey, Vec<Port>>,
    /// Services that are only another name: of those of type `ExternalName`, the host.
    aliases: HashMap<RevisionKey, String>,
    /// By the slice's own name: the Service it belongs to, and what it says.
    slices: HashMap<RevisionKey, (RevisionKey, Slice)>,
    slices_of: HashMap<RevisionKey, Vec<RevisionKey>>,
}

#[derive(Debug)]
struct Port {
    number: i32,
    name: String,
    h2c: bool,
}

#[derive(Debug)]
struct Slice {
    ready: Vec<IpAddr>,
    ports: Vec<(String, u16)>,
}

/// Where a port of a Service leads.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Backends {
    /// The ready endpoints.
    pub addresses: Vec<SocketAddr>,
    /// Whether they speak HTTP/2 from the first byte.
    pub h2c: bool,
}

impl Services {
    /// Follows the Services and EndpointSlices that `which` selects until `cancel`. A slice has the labels of its Service.
    pub async fn follow(&self, client: Client, which: watcher::Config, cancel: CancellationToken) {
        let services: Api<Guarded<Service>> = Api::all(client.clone());
        let slices: Api<Guarded<EndpointSlice>> = Api::all(client);
        tokio::join!(
            follow(services, which.clone(), cancel.clone(), |change| {
                self.take_in_service(change);
                self.changes.send_modify(|count| *count += 1);
            }),
            follow(slices, which, cancel, |change| {
                self.take_in_slice(change);
                self.changes.send_modify(|count| *count += 1);
            }),
        );
    }

    /// Tells when something has changed; how often it did, as a number.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Where `port` of `service` leads; `None` when there is no such Service or port. One that is only another name for a
    /// Service leads where that leads.
    pub fn backends(&self, service: &RevisionKey, port: i32) -> Option<Backends> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let mut service = service.clone();
        for _ in 0..MOST_ALIASES {
            let Some(host) = state.aliases.get(&service) else { break };
            service = service_of(host)?;
        }
        let service = &service;
        let port = state.ports.get(service)?.iter().find(|candidate| candidate.number == port)?;
        let mut found = Backends { addresses: Vec::new(), h2c: port.h2c };
        for slice in state.slices_of.get(service).into_iter().flatten() {
            let Some((_, slice)) = state.slices.get(slice) else { continue };
            let Some((_, number)) = slice.ports.iter().find(|(name, _)| *name == port.name) else { continue };
            found.addresses.extend(slice.ready.iter().map(|ip| SocketAddr::new(*ip, *number)));
        }
        Some(found)
    }

    fn take_in_service(&self, change: Change<Service>) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        match change {
            Change::Put(key, service) => {
                let spec = service.spec.unwrap_or_default();
                match spec.external_name.filter(|_| spec.type_.as_deref() == Some("ExternalName")) {
                    Some(host) => state.aliases.insert(key.clone(), host),
                    None => state.aliases.remove(&key),
                };
                let ports = spec.ports.unwrap_or_default();
                let ports = ports.into_iter().map(|port| {
                    let name = port.name.unwrap_or_default();
                    let h2c = name == "http2" || port.app_protocol.as_deref() == Some(H2C);
                    Port { number: port.port, name, h2c }
                });
                state.ports.insert(key, ports.collect());
            }
            Change::Gone(key) => {
                state.ports.remove(&key);
                state.aliases.remove(&key);
            }
            Change::Synced => {}
        }
    }

    fn take_in_slice(&self, change: Change<EndpointSlice>) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        match change {
            Change::Put(key, slice) => {
                state.remove_slice(&key);
                let service = slice.metadata.labels.as_ref().and_then(|labels| labels.get(SLICE_SERVICE_LABEL));
                let Some(service) = service.map(|name| RevisionKey::new(key.namespace(), name)) else { return };
                let ready = slice.endpoints.iter().filter(|endpoint| {
                    // What does not say is ready.
                    endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true)
                });
                let ready = ready.flat_map(|endpoint| &endpoint.addresses).filter_map(|ip| ip.parse().ok()).collect();
                let ports = slice.ports.iter().flatten().filter_map(|port| {
                    let number = u16::try_from(port.port?).ok()?;
                    Some((port.name.clone().unwrap_or_default(), number))
                });
                let ports = ports.collect();
                state.slices_of.entry(service.clone()).or_default().push(key.clone());
                state.slices.insert(key, (service, Slice { ready, ports }));
            }
            Change::Gone(key) => state.remove_slice(&key),
            Change::Synced => {}
        }
    }
}

impl State {
    fn remove_slice(&mut self, key: &RevisionKey) {
        let Some((service, _)) = self.slices.remove(key) else { return };
        if let Some(slices) = self.slices_of.get_mut(&service) {
            slices.retain(|slice| slice != key);
            if slices.is_empty() {
                self.slices_of.remove(&service);
            }
        }
    }
}

/// The Service a host names; `None` for an address and for a name of one part.
pub fn service_of(host: &str) -> Option<RevisionKey> {
    if host.parse::<IpAddr>().is_ok() {
        return None;
    }
    let mut parts = host.split('.');
    let (name, namespace) = (parts.next()?, parts.next()?);
    parts.next().is_none_or(|part| part == "svc").then(|| RevisionKey::new(namespace, name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object<K: serde::de::DeserializeOwned>(value: serde_json::Value) -> K {
        serde_json::from_value(value).expect("an object")
    }

    #[test]
    fn a_port_leads_to_the_ready_endpoints_of_its_name() {
        let services = Services::default();
        let key = RevisionKey::new("default", "hello-00001");
        assert_eq!(services.backends(&key, 80), None);
        services.take_in_service(Change::Put(
            key.clone(),
            object(json!({"spec": {"ports": [{"name": "http2", "port": 80}, {"name": "stats", "port": 9090}]}})),
        ));
        assert_eq!(services.backends(&key, 80), Some(Backends { addresses: vec![], h2c: true }));
        let slice = json!({
            "metadata": {"labels": {SLICE_SERVICE_LABEL: "hello-00001"}}, "addressType": "IPv4",
            "endpoints": [
                {"addresses": ["127.1.0.2"], "conditions": {"ready": true}},
                {"addresses": ["127.1.0.3"], "conditions": {"ready": false}},
                {"addresses": ["127.1.0.4"]},
            ],
            "ports": [{"name": "http2", "port": 8013}, {"name": "stats", "port": 9090}],
        });
        let of_slice = RevisionKey::new("default", "hello-00001-x7");
        services.take_in_slice(Change::Put(of_slice.clone(), object(slice.clone())));
        // Told once more, nothing doubles.
        services.take_in_slice(Change::Put(of_slice.clone(), object(slice)));
        let addresses = |port| services.backends(&key, port).map(|found| found.addresses);
        let want = |port| ["127.1.0.2", "127.1.0.4"].map(|ip| SocketAddr::new(ip.parse().expect("an address"), port));
        assert_eq!(addresses(80), Some(want(8013).to_vec()));
        assert_eq!(addresses(9090), Some(want(9090).to_vec()));
        assert_eq!(addresses(443), None);
        services.take_in_slice(Change::Gone(of_slice));
        assert_eq!(addresses(80), Some(vec![]));
    }

    #[test]
    fn another_name_leads_where_the_name_it_stands_for_leads() {
        let services = Services::default();
        let put = |name: &str, spec: serde_json::Value| {
            let key = RevisionKey::new("default", name);
            services.take_in_service(Change::Put(key.clone(), object(json!({ "spec": spec }))));
            key
        };
        let alias =
            |to: &str| json!({"type": "ExternalName", "externalName": format!("{to}.default.svc.cluster.local")});
        let gateway = put("gateway", json!({"ports": [{"name": "http2", "port": 80}]}));
        let hello = put("hello", alias("gateway"));
        assert_eq!(services.backends(&hello, 80), services.backends(&gateway, 80));
        put("a", alias("b"));
        let circle = put("b", alias("a"));
        assert_eq!(services.backends(&circle, 80), None, "a circle ends");
        let outside = put("outside", json!({"type": "ExternalName", "externalName": "www.example.com"}));
        assert_eq!(services.backends(&outside, 80), None);
        put("hello", json!({"ports": [{"name": "http", "port": 81}]}));
        assert_eq!(services.backends(&hello, 81), Some(Backends::default()), "it is a Service of its own now");
    }

    #[test]
    fn hosts_name_services() {
        let service = |host| service_of(host).map(|key| key.as_str().to_owned());
        for host in ["hello.default", "hello.default.svc", "hello.default.svc.cluster.local"] {
            assert_eq!(service(host).as_deref(), Some("default/hello"));
        }
        for host in ["127.0.0.1", "::1", "localhost", "hello.default.example.com"] {
            assert_eq!(service(host), None, "{host}");
        }
    }
}
