//! Fills the table of revisions from Kubernetes.
//!
//! Three watches: Revisions, for their limits and time-outs; and the EndpointSlices of ServerlessServices. The slices of
//! the private Service name the pods, ready or not; those of the public Service name the activators while they are in
//! the path, from which this one learns which part of the pods is its own. And the Services by which a load balancer reaches
//! revisions at ports of their own.

use crate::api::conditions::from_jiff;
use crate::api::names::{SERVICE_TYPE_LABEL, SKS_LABEL};
use crate::api::serving;
use crate::dataplane::activator::backends::Backends;
use crate::dataplane::activator::ports::{Behind, Ports};
use crate::dataplane::activator::throttle::{Revision, Share};
use crate::dataplane::gateway::Gateway;
use crate::dataplane::proxy::Protocol;
use crate::dataplane::services::Services;
use crate::dataplane::timeouts::Timeouts;
use crate::k8s::follow::{Change, follow};
use crate::observe::metrics::RevisionLabels;
use crate::routing::port;
use crate::units::RevisionKey;
use k8s_openapi::api::core::v1::{Container, PodSpec, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use kube::runtime::watcher;
use kube::{Api, Client};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Keeps `backends` as Kubernetes has it, until `cancel`. `own_ip` is the address by which this activator stands among
/// the endpoints of public Services.
pub async fn run(client: Client, backends: Backends, ports: Ports, own_ip: IpAddr, cancel: CancellationToken) {
    let revisions =
        follow::<serving::Revision>(Api::all(client.clone()), watcher::Config::default(), cancel.clone(), |change| {
            match change {
                Change::Put(key, revision) => {
                    backends.set_labels(RevisionLabels::of(&key, revision.metadata.labels.as_ref()));
                    backends.set_revision(&key, revision_of(&revision));
                }
                Change::Gone(key) => backends.remove_revision(&key),
                Change::Synced => {}
            }
        });
    let mut endpoints = Endpoints::new(own_ip);
    let selector = format!("{SERVICE_TYPE_LABEL} in (Private,Public)");
    let ours = format!("{}={}", port::MANAGED_BY.0, port::MANAGED_BY.1);
    let services = follow::<Service>(
        Api::all(client.clone()),
        watcher::Config::default().labels(&ours),
        cancel.clone(),
        |change| match change {
            Change::Put(key, service) => {
                let claim = claim_of(&key, &service);
                ports.claim(key, claim);
            }
            Change::Gone(key) => ports.claim(key, None),
            Change::Synced => {}
        },
    );
    let slices = follow::<EndpointSlice>(
        Api::all(client),
        watcher::Config::default().labels(&selector),
        cancel.clone(),
        |change| {
            let touched = match change {
                Change::Put(key, slice) => endpoints.put(key, &slice),
                Change::Gone(key) => endpoints.gone(&key),
                Change::Synced => Vec::new(),
            };
            for revision in touched {
                backends.set_share(&revision, endpoints.share(&revision));
                backends.set_pods(&revision, &endpoints.pods(&revision));
            }
        },
    );
    tokio::join!(revisions, slices, services);
}

/// The port a Service claims, and for whom.
fn claim_of(key: &RevisionKey, service: &Service) -> Option<(u16, Behind)> {
    let port = port::port_of(service)?;
    let revision = RevisionKey::new(key.namespace(), key.name().strip_suffix("-alb")?);
    let seconds =
        service.metadata.annotations.as_ref()?.get(port::TIMEOUT_ANNOTATION).and_then(|text| text.parse().ok());
    let since = service.metadata.creation_timestamp.as_ref().map(|at| from_jiff(at.0))?;
    Some((port, Behind { revision, request_timeout: seconds.map(Duration::from_secs), since }))
}

/// Keeps the gateway of an activator as Kubernetes has it, until `cancel`. The Services of revisions are left out: those
/// are reached by their pods.
pub async fn routes(client: Client, gateway: Gateway, services: Services, cancel: CancellationToken) {
    let others = watcher::Config::default().labels(&format!("!{SKS_LABEL}"));
    let services = Box::pin(services.follow(client.clone(), others, cancel.clone()));
    tokio::join!(services, Box::pin(gateway.follow(client, cancel, |_| {})));
}

/// What the activator reads of a Revision.
fn revision_of(revision: &serving::Revision) -> Revision {
    let spec = &revision.spec;
    let seconds = |value: Option<i64>| {
        value.and_then(|value| u64::try_from(value).ok()).filter(|value| *value > 0).map(Duration::from_secs)
    };
    let container = serving_container(&spec.pod);
    let h2c = container
        .and_then(|container| container.ports.as_ref()?.first()?.name.as_deref())
        .is_some_and(|name| matches!(name, "h2c" | "http2"));
    let exec =
        container.is_some_and(|container| container.readiness_probe.as_ref().is_some_and(|probe| probe.exec.is_some()));
    let start_up = spec.pod.containers.iter().any(|container| container.startup_probe.is_some());
    Revision {
        container_concurrency: spec.container_concurrency.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(0),
        protocol: if h2c { Protocol::H2c } else { Protocol::Http1 },
        timeouts: Timeouts {
            request: seconds(spec.timeout_seconds).unwrap_or(Timeouts::default().request),
            response_start: seconds(spec.response_start_timeout_seconds),
            idle: seconds(spec.idle_timeout_seconds),
        },
        kubelet_decides: exec || start_up,
    }
}

/// The container that takes requests: the one with a port, or the only one.
fn serving_container(pod: &PodSpec) -> Option<&Container> {
    let with_port = |container: &&Container| container.ports.as_ref().is_some_and(|ports| !ports.is_empty());
    pod.containers.iter().find(with_port).or_else(|| pod.containers.first())
}

/// What is read of the slices of ServerlessServices.
#[derive(Debug)]
struct Endpoints {
    own_ip: IpAddr,
    slices: HashMap<RevisionKey, Slice>,
    /// The slices of each revision.
    by_revision: HashMap<RevisionKey, BTreeSet<RevisionKey>>,
}

#[derive(Debug, PartialEq)]
struct Slice {
    revision: RevisionKey,
    public: bool,
    addresses: Vec<(SocketAddr, bool)>,
}

impl Endpoints {
    fn new(own_ip: IpAddr) -> Self {
        Self { own_ip, slices: HashMap::new(), by_revision: HashMap::new() }
    }

    /// Takes in a slice; the revisions it touches.
    fn put(&mut self, key: RevisionKey, slice: &EndpointSlice) -> Vec<RevisionKey> {
        let Some(slice) = read(&key, slice) else { return self.gone(&key) };
        if self.slices.get(&key) == Some(&slice) {
            return Vec::new();
        }
        let revision = slice.revision.clone();
        let mut touched = if self.slices.get(&key).is_some_and(|before| before.revision != revision) {
            self.gone(&key)
        } else {
            Vec::new()
        };
        self.by_revision.entry(revision.clone()).or_default().insert(key.clone());
        self.slices.insert(key, slice);
        touched.push(revision);
        touched
    }

    fn gone(&mut self, key: &RevisionKey) -> Vec<RevisionKey> {
        let Some(slice) = self.slices.remove(key) else { return Vec::new() };
        if let Some(slices) = self.by_revision.get_mut(&slice.revision) {
            slices.remove(key);
            if slices.is_empty() {
                self.by_revision.remove(&slice.revision);
            }
        }
        vec![slice.revision]
    }

    /// The pods of a revision, in order of address; one that any slice lists as ready is.
    fn pods(&self, revision: &RevisionKey) -> Vec<(SocketAddr, bool)> {
        let mut pods: BTreeMap<SocketAddr, bool> = BTreeMap::new();
        for &(addr, ready) in self.of(revision, false) {
            *pods.entry(addr).or_default() |= ready;
        }
        pods.into_iter().collect()
    }

    /// Which of the activators in a revision's path this one is; `None` when it is not among them.
    fn share(&self, revision: &RevisionKey) -> Option<Share> {
        let activators: BTreeSet<IpAddr> =
            self.of(revision, true).filter(|(_, ready)| *ready).map(|(addr, _)| addr.ip()).collect();
        let index = activators.iter().position(|ip| *ip == self.own_ip)?;
        Some(Share { index, count: activators.len() })
    }

    fn of(&self, revision: &RevisionKey, public: bool) -> impl Iterator<Item = &(SocketAddr, bool)> {
        let slices = self.by_revision.get(revision).into_iter().flatten();
        slices
            .filter_map(|key| self.slices.get(key))
            .filter(move |slice| slice.public == public)
            .flat_map(|slice| &slice.addresses)
    }
}

/// What is read of a slice; `None` when it belongs to no ServerlessService.
fn read(key: &RevisionKey, slice: &EndpointSlice) -> Option<Slice> {
    let labels = slice.metadata.labels.as_ref()?;
    let public = match labels.get(SERVICE_TYPE_LABEL)?.as_str() {
        "Public" => true,
        "Private" => false,
        _ => return None,
    };
    let revision = RevisionKey::new(key.namespace(), labels.get(SKS_LABEL)?);
    // The port for requests is named for the protocol; a slice has one or the other.
    let port = slice.ports.iter().flatten().find(|port| matches!(port.name.as_deref(), Some("http" | "http2")));
    let port = port.and_then(|port| u16::try_from(port.port?).ok());
    let addresses = match port {
        Some(port) => slice.endpoints.iter().flat_map(|endpoint| usable(endpoint, port)).collect(),
        None => Vec::new(),
    };
    Some(Slice { revision, public, addresses })
}

/// The addresses of an endpoint, unless it is going.
fn usable(endpoint: &Endpoint, port: u16) -> impl Iterator<Item = (SocketAddr, bool)> {
    let conditions = endpoint.conditions.as_ref();
    let going = conditions.and_then(|conditions| conditions.terminating).unwrap_or(false);
    // Absent means that nobody knows better: ready.
    let ready = conditions.and_then(|conditions| conditions.ready).unwrap_or(true);
    let addresses = if going { &[][..] } else { &endpoint.addresses[..] };
    addresses.iter().filter_map(move |ip| Some((SocketAddr::new(ip.parse().ok()?, port), ready)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn slice(name: &str, kind: &str, endpoints: &serde_json::Value) -> (RevisionKey, EndpointSlice) {
        let slice = serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "ns", "labels": {
                SERVICE_TYPE_LABEL: kind, SKS_LABEL: "hello-00001"}},
            "addressType": "IPv4",
            "ports": [{"name": "https", "port": 8112}, {"name": "http", "port": 8012}],
            "endpoints": endpoints,
        }));
        (RevisionKey::new("ns", name), slice.expect("a slice"))
    }

    #[test]
    fn pods_are_gathered_from_all_slices_without_those_that_are_going() {
        let revision = RevisionKey::new("ns", "hello-00001");
        let mut endpoints = Endpoints::new("10.0.1.2".parse().expect("an address"));
        let (key, one) = slice(
            "a",
            "Private",
            &json!([
                {"addresses": ["10.0.0.2"], "conditions": {"ready": true}},
                {"addresses": ["10.0.0.1"], "conditions": {"ready": false}},
                {"addresses": ["10.0.0.3"], "conditions": {"ready": false, "serving": true, "terminating": true}},
            ]),
        );
        assert_eq!(endpoints.put(key.clone(), &one), std::slice::from_ref(&revision));
        assert_eq!(endpoints.put(key.clone(), &one), [], "nothing new");
        let (other, two) = slice("b", "Private", &json!([{"addresses": ["10.0.0.1"]}, {"addresses": ["10.0.0.4"]}]));
        endpoints.put(other, &two);
        let pods: Vec<String> =
            endpoints.pods(&revision).iter().map(|(addr, ready)| format!("{addr} {ready}")).collect();
        assert_eq!(pods, ["10.0.0.1:8012 true", "10.0.0.2:8012 true", "10.0.0.4:8012 true"]);
        assert_eq!(endpoints.gone(&key), std::slice::from_ref(&revision));
        assert_eq!(endpoints.pods(&revision).len(), 2);
        assert_eq!(endpoints.share(&revision), None);
    }

    #[test]
    fn its_share_is_its_place_among_the_activators() {
        let revision = RevisionKey::new("ns", "hello-00001");
        let mut endpoints = Endpoints::new("10.0.1.2".parse().expect("an address"));
        let activators = json!([
            {"addresses": ["10.0.1.9"]}, {"addresses": ["10.0.1.2"]}, {"addresses": ["10.0.1.1"]},
            {"addresses": ["10.0.1.0"], "conditions": {"ready": false}},
        ]);
        let (key, public) = slice("hello-00001", "Public", &activators);
        endpoints.put(key.clone(), &public);
        assert_eq!(endpoints.share(&revision), Some(Share { index: 1, count: 3 }));
        assert_eq!(endpoints.pods(&revision), []);
        let (_, pods) = slice("hello-00001", "Public", &json!([{"addresses": ["10.0.0.1"]}]));
        endpoints.put(key, &pods);
        assert_eq!(endpoints.share(&revision), None, "the pods themselves are behind the Service now");
    }

    #[test]
    fn a_revision_says_how_its_requests_are_to_be_treated() {
        let revision = |spec: serde_json::Value| {
            let object = json!({"apiVersion": "serving.knative.dev/v1", "kind": "Revision",
                "metadata": {"name": "r", "namespace": "ns"}, "spec": spec});
            revision_of(&serde_json::from_value(object).expect("a revision"))
        };
        let plain = revision(json!({"containers": [{"name": "c"}]}));
        assert_eq!(plain, Revision::default());
        let full = revision(json!({
            "containerConcurrency": 5, "timeoutSeconds": 60, "responseStartTimeoutSeconds": 10, "idleTimeoutSeconds": 0,
            "containers": [
                {"name": "side", "startupProbe": {"tcpSocket": {"port": 1}}},
                {"name": "c", "ports": [{"name": "h2c", "containerPort": 8080}]},
            ],
        }));
        assert_eq!(
            full,
            Revision {
                container_concurrency: 5,
                protocol: Protocol::H2c,
                timeouts: Timeouts {
                    request: Duration::from_mins(1),
                    response_start: Some(Duration::from_secs(10)),
                    idle: None
                },
                kubelet_decides: true,
            }
        );
    }
}
