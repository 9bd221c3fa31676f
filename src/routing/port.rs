//! Revisions reached by a port: which port is whose, and the objects a load balancer finds their servers in. Pure.
//!
//! Every activator listens on one port for each revision a rule leads to. The port is written on the revision's Service
//! `REVISION-alb`, whose Endpoints are written here: pods at their queue-proxy's port, activators at the revision's own.
//! Both stand under one name, so the load balancer takes either, and rules never change when a revision goes to zero.
//!
//! # Rule
//!
//! A port is given out once and stays its revision's. One whose revision is gone is free again after a day, since rules of
//! a load balancer that lags must not lead to another revision. Ports that were never used come first. All of it is in
//! one ConfigMap ([`BOOK`]), written before the Service is.

use crate::api::conditions::{from_jiff, to_jiff};
use crate::api::names::{QUEUE_H2C_PORT, QUEUE_HTTP1_PORT, SYSTEM_NAMESPACE};
use crate::api::serverless_service::ServerlessService;
use crate::routing::gate::Members;
use crate::units::{RevisionKey, Span, Timestamp};
use k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort, EndpointSubset, Endpoints, ObjectReference, Service, ServicePort, ServiceSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::Resource as _;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

/// The ports there are.
pub const RANGE: RangeInclusive<u16> = 20_000..=20_999;
/// How long a port rests whose revision is gone.
pub const REST: Span = Span::from_seconds(24 * 3600);
/// The ConfigMap in which it is written down which port is whose.
pub const BOOK: &str = "ebb-alb";
/// Annotation: the port at which activators stand for the revision.
pub const PORT_ANNOTATION: &str = "knative-alb/activation-port";
/// Annotation: seconds after which the load balancer gives a request up.
pub const TIMEOUT_ANNOTATION: &str = "knative-alb/request-timeout";
/// Annotation of Endpoints: since when they hold the kinds of servers they hold; RFC 3339.
const SINCE_ANNOTATION: &str = "knative-alb/members-since";
/// Label of what is written here.
pub const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "knative-alb");
/// The name under which servers of both kinds stand.
const PORT_NAME: &str = "http";
/// What is written of a port whose revision is gone.
const FREE_SINCE: &str = "free since ";
/// Activators of one revision at most: from 40 servers on a load balancer's controller takes out before it puts in.
const MOST_ACTIVATORS: usize = 32;

/// The name of a revision's Service.
pub fn service_name(revision: &str) -> String {
    format!("{revision}-alb")
}

/// Which port is whose.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Book {
    entries: BTreeMap<u16, Entry>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Entry {
    Of(RevisionKey),
    FreeSince(Timestamp),
}

impl Book {
    /// Reads it. A line that cannot be read stands for a port that has just become free, so that it is nobody's for a day.
    pub fn read(data: &BTreeMap<String, String>, now: Timestamp) -> Self {
        let entry = |text: &String| {
            if let Some(at) = text.strip_prefix(FREE_SINCE) {
                return Entry::FreeSince(at.parse().map_or(now, from_jiff));
            }
            match text.split_once('/') {
                Some((namespace, name)) => Entry::Of(RevisionKey::new(namespace, name)),
                None => Entry::FreeSince(now),
            }
        };
        let entries = data.iter().filter_map(|(port, text)| Some((port.parse().ok()?, entry(text))));
        Self { entries: entries.filter(|(port, _)| RANGE.contains(port)).collect() }
    }

    /// As it is written down.
    pub fn data(&self) -> BTreeMap<String, String> {
        let text = |entry: &Entry| match entry {
            Entry::Of(revision) => revision.to_string(),
            Entry::FreeSince(at) => format!("{FREE_SINCE}{}", to_jiff(*at)),
        };
        self.entries.iter().map(|(port, entry)| (port.to_string(), text(entry))).collect()
    }

    /// The port of a revision: the one it has, or one nobody else had within a day; nothing when there is none left.
    pub fn assign(&mut self, revision: &RevisionKey, now: Timestamp) -> Option<u16> {
        let has = |(port, entry): (&u16, &Entry)| (*entry == Entry::Of(revision.clone())).then_some(*port);
        if let Some(port) = self.entries.iter().find_map(has) {
            return Some(port);
        }
        let unused = RANGE.clone().find(|port| !self.entries.contains_key(port));
        let rested = || {
            let free = self.entries.iter().filter_map(|(port, entry)| match entry {
                Entry::FreeSince(at) if REST <= now.since(*at) => Some((*at, *port)),
                _ => None,
            });
            free.min().map(|(_, port)| port)
        };
        let port = unused.or_else(rested)?;
        self.entries.insert(port, Entry::Of(revision.clone()));
        Some(port)
    }

    /// Takes over that a Service names a port already; whoever else has it in the book keeps it.
    pub fn recall(&mut self, revision: &RevisionKey, port: u16) {
        if RANGE.contains(&port) && !self.entries.values().any(|entry| *entry == Entry::Of(revision.clone())) {
            self.entries.entry(port).or_insert_with(|| Entry::Of(revision.clone()));
        }
    }

    /// Revisions that are not among these are gone.
    pub fn release(&mut self, there: &BTreeSet<RevisionKey>, now: Timestamp) {
        for entry in self.entries.values_mut() {
            if matches!(entry, Entry::Of(revision) if !there.contains(revision)) {
                *entry = Entry::FreeSince(now);
            }
        }
    }
}

/// A server: a pod, or an activator.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Server {
    /// Its address.
    pub ip: String,
    /// Its pod; empty where that is not told.
    pub pod: String,
}

/// The Service of a revision that is reached by a port.
pub fn service(sks: &ServerlessService, port: u16, request_timeout: u32, eni: bool) -> Service {
    let name = sks.metadata.name.clone().unwrap_or_default();
    let target = queue_port(sks);
    Service {
        metadata: ObjectMeta {
            name: Some(service_name(&name)),
            namespace: sks.metadata.namespace.clone(),
            labels: Some(labels(&name)),
            annotations: Some(BTreeMap::from([
                (PORT_ANNOTATION.to_owned(), port.to_string()),
                (TIMEOUT_ANNOTATION.to_owned(), request_timeout.to_string()),
            ])),
            // It goes with the revision. Not its controller: that is not what looks after it.
            owner_references: Some(vec![OwnerReference {
                api_version: ServerlessService::api_version(&()).into_owned(),
                kind: ServerlessService::kind(&()).into_owned(),
                name,
                uid: sks.metadata.uid.clone().unwrap_or_default(),
                ..OwnerReference::default()
            }]),
            ..ObjectMeta::default()
        },
        spec: Some(ServiceSpec {
            type_: Some(service_type(eni).to_owned()),
            ports: Some(vec![ServicePort {
                name: Some(PORT_NAME.to_owned()),
                port: 80,
                protocol: Some("TCP".to_owned()),
                target_port: Some(IntOrString::Int(i32::from(target))),
                ..ServicePort::default()
            }]),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

/// What of the Service of a revision is to be changed, so that it is as the settings say now.
pub fn amendment(live: &Service, request_timeout: u32, eni: bool) -> Option<Value> {
    let planned = [(TIMEOUT_ANNOTATION, request_timeout.to_string())];
    let annotations = live.metadata.annotations.as_ref();
    let differing = planned.iter().any(|(key, value)| annotations.and_then(|all| all.get(*key)) != Some(value));
    let type_ = service_type(eni);
    if !differing && live.spec.as_ref().and_then(|spec| spec.type_.as_deref()) == Some(type_) {
        return None;
    }
    Some(json!({"metadata": {"annotations": BTreeMap::from(planned)}, "spec": {"type": type_}}))
}

/// Where a load balancer reaches it: at pods' addresses, or at a port of every node.
fn service_type(eni: bool) -> &'static str {
    if eni { "ClusterIP" } else { "NodePort" }
}

/// The port a Service names, if it is one of ours.
pub fn port_of(service: &Service) -> Option<u16> {
    let port = service.metadata.annotations.as_ref()?.get(PORT_ANNOTATION)?.parse().ok()?;
    RANGE.contains(&port).then_some(port)
}

/// Where the Service of a revision leads. Nothing where there would be nobody.
pub fn endpoints(
    sks: &ServerlessService,
    port: u16,
    members: Members,
    pods: &BTreeSet<Server>,
    activators: &BTreeSet<Server>,
) -> Option<Endpoints> {
    let name = sks.metadata.name.clone().unwrap_or_default();
    let subset = |servers: &BTreeSet<Server>, namespace: Option<String>, port: u16, most: usize| {
        let address = |server: &Server| EndpointAddress {
            ip: server.ip.clone(),
            target_ref: (!server.pod.is_empty()).then(|| ObjectReference {
                kind: Some("Pod".to_owned()),
                name: Some(server.pod.clone()),
                namespace: namespace.clone(),
                ..ObjectReference::default()
            }),
            ..EndpointAddress::default()
        };
        (!servers.is_empty()).then(|| EndpointSubset {
            addresses: Some(servers.iter().take(most).map(address).collect()),
            ports: Some(vec![EndpointPort {
                name: Some(PORT_NAME.to_owned()),
                port: i32::from(port),
                protocol: Some("TCP".to_owned()),
                app_protocol: None,
            }]),
            not_ready_addresses: None,
        })
    };
    let mut subsets = Vec::new();
    if members != Members::Activators {
        subsets.extend(subset(pods, sks.metadata.namespace.clone(), queue_port(sks), usize::MAX));
    }
    if members != Members::Pods {
        subsets.extend(subset(activators, Some(SYSTEM_NAMESPACE.to_owned()), port, MOST_ACTIVATORS));
    }
    (!subsets.is_empty()).then(|| Endpoints {
        metadata: ObjectMeta {
            name: Some(service_name(&name)),
            namespace: sks.metadata.namespace.clone(),
            labels: Some(labels(&name)),
            ..ObjectMeta::default()
        },
        subsets: Some(subsets),
    })
}

/// What Endpoints hold; `port` is the revision's own.
pub fn members_of(endpoints: &Endpoints, port: u16) -> Option<Members> {
    let subsets =
        endpoints.subsets.iter().flatten().filter(|subset| subset.addresses.iter().flatten().next().is_some());
    let kinds: BTreeSet<bool> = subsets
        .flat_map(|subset| subset.ports.iter().flatten())
        .map(|of_subset| of_subset.port == i32::from(port))
        .collect();
    match (kinds.contains(&false), kinds.contains(&true)) {
        (true, true) => Some(Members::Both),
        (true, false) => Some(Members::Pods),
        (false, true) => Some(Members::Activators),
        (false, false) => None,
    }
}

/// Since when Endpoints hold the kinds of servers they hold, as far as that is written down.
pub fn members_since(endpoints: &Endpoints) -> Option<Timestamp> {
    let text = endpoints.metadata.annotations.as_ref()?.get(SINCE_ANNOTATION)?;
    text.parse().ok().map(from_jiff)
}

/// Writes down since when: from now on, unless `live` holds the same kinds.
pub fn note_since(planned: &mut Endpoints, live: Option<&Endpoints>, port: u16, now: Timestamp) {
    let same = live.filter(|live| members_of(live, port) == members_of(planned, port));
    let since = same.and_then(members_since).unwrap_or(now);
    planned.metadata.annotations = Some([(SINCE_ANNOTATION.to_owned(), to_jiff(since).to_string())].into());
}

/// Whether Endpoints lead to the same servers.
pub fn same_servers(live: &Endpoints, planned: &Endpoints) -> bool {
    fn lines(endpoints: &Endpoints) -> BTreeSet<(&str, i32, Option<&str>)> {
        let mut lines = BTreeSet::new();
        for subset in endpoints.subsets.iter().flatten() {
            let port = subset.ports.iter().flatten().next().map_or(0, |port| port.port);
            for address in subset.addresses.iter().flatten() {
                let pod = address.target_ref.as_ref().and_then(|pod| pod.name.as_deref());
                lines.insert((address.ip.as_str(), port, pod));
            }
        }
        lines
    }
    lines(live) == lines(planned)
}

fn labels(revision: &str) -> BTreeMap<String, String> {
    [MANAGED_BY, ("networking.internal.knative.dev/serverlessservice", revision)]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
}

fn queue_port(sks: &ServerlessService) -> u16 {
    if sks.spec.protocol_type == "h2c" { QUEUE_H2C_PORT } else { QUEUE_HTTP1_PORT }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(name: &str) -> RevisionKey {
        RevisionKey::new("default", name)
    }

    fn at(hours: i64) -> Timestamp {
        Timestamp::from_seconds(hours * 3600)
    }

    #[test]
    fn a_port_is_given_out_once_and_rests_for_a_day() {
        let mut book = Book::default();
        let ports: Vec<Option<u16>> = ["a", "b", "a"].iter().map(|name| book.assign(&key(name), at(0))).collect();
        assert_eq!(ports, [Some(20_000), Some(20_001), Some(20_000)]);
        // What a Service says that the book has lost.
        book.recall(&key("c"), 20_500);
        book.recall(&key("thief"), 20_000);
        assert_eq!(book.assign(&key("c"), at(0)), Some(20_500));
        assert_ne!(book.assign(&key("thief"), at(0)), Some(20_000));
        for number in 0..996 {
            assert!(book.assign(&key(&format!("many-{number}")), at(0)).is_some(), "{number}");
        }
        assert_eq!(book.assign(&key("one-too-many"), at(0)), None);
        let there: BTreeSet<RevisionKey> = (0..996).map(|number| key(&format!("many-{number}"))).collect();
        book.release(&there, at(1));
        assert_eq!(book.assign(&key("late"), at(24)), None, "not a day yet");
        let book_read = Book::read(&book.data(), at(24));
        assert_eq!(book_read, book);
        assert_eq!(book.assign(&key("late"), at(25)), Some(20_000));
    }

    #[test]
    fn a_line_nobody_can_read_keeps_its_port_from_everybody() {
        let data = BTreeMap::from([("20000".to_owned(), "?".to_owned()), ("x".to_owned(), "a/b".to_owned())]);
        let mut book = Book::read(&data, at(0));
        assert_eq!(book.assign(&key("a"), at(1)), Some(20_001));
    }

    fn sks() -> ServerlessService {
        serde_json::from_value(json!({
            "apiVersion": "networking.internal.knative.dev/v1alpha1", "kind": "ServerlessService",
            "metadata": {"name": "web-00001", "namespace": "default", "uid": "u"},
            "spec": {"mode": "Proxy", "objectRef": {"name": "d"}, "protocolType": "http1", "numActivators": 2},
        }))
        .expect("a ServerlessService")
    }

    fn servers(ips: &[&str]) -> BTreeSet<Server> {
        ips.iter().map(|ip| Server { ip: (*ip).to_owned(), pod: format!("pod-{ip}") }).collect()
    }

    #[test]
    fn the_service_names_the_port_and_goes_with_the_revision() {
        let service = service(&sks(), 20_017, 180, true);
        assert_eq!(port_of(&service), Some(20_017));
        // What is set otherwise later is changed, and nothing else.
        assert_eq!(amendment(&service, 180, true), None);
        let patch = |seconds: &str, type_: &str| {
            Some(
                json!({"metadata": {"annotations": {"knative-alb/request-timeout": seconds}}, "spec": {"type": type_}}),
            )
        };
        assert_eq!(amendment(&service, 60, true), patch("60", "ClusterIP"));
        assert_eq!(amendment(&service, 180, false), patch("180", "NodePort"));
        let value = serde_json::to_value(&service).expect("JSON");
        assert_eq!(value["metadata"]["name"], "web-00001-alb");
        assert_eq!(value["metadata"]["ownerReferences"][0]["kind"], "ServerlessService");
        assert_eq!(value["spec"]["ports"][0]["targetPort"], 8012);
        assert!(value["spec"].get("selector").is_none());
    }

    #[test]
    fn servers_of_both_kinds_stand_under_one_name_at_their_own_ports() {
        let (pods, activators) = (servers(&["10.0.0.1", "10.0.0.2"]), servers(&["10.1.0.1"]));
        let both = endpoints(&sks(), 20_017, Members::Both, &pods, &activators).expect("somebody");
        let value = serde_json::to_value(&both).expect("JSON");
        let subset = |number: usize| {
            let subset = &value["subsets"][number];
            let refs: Vec<_> = subset["addresses"]
                .as_array()
                .expect("addresses")
                .iter()
                .map(|it| &it["targetRef"]["namespace"])
                .collect();
            (subset["ports"][0]["name"].clone(), subset["ports"][0]["port"].clone(), json!(refs))
        };
        assert_eq!(subset(0), (json!("http"), json!(8012), json!(["default", "default"])));
        assert_eq!(subset(1), (json!("http"), json!(20_017), json!(["knative-serving"])));
        assert_eq!(members_of(&both, 20_017), Some(Members::Both));
        assert_eq!(endpoints(&sks(), 20_017, Members::Pods, &servers(&[]), &activators), None, "never empty");
        let cold = endpoints(&sks(), 20_017, Members::Activators, &pods, &activators).expect("somebody");
        assert_eq!(members_of(&cold, 20_017), Some(Members::Activators));
        assert!(same_servers(&cold, &cold) && !same_servers(&cold, &both));

        // It is written down since when, for who comes after.
        let (mut first, mut fewer, mut other) = (both.clone(), both, cold);
        note_since(&mut first, None, 20_017, at(1));
        note_since(&mut fewer, Some(&first), 20_017, at(2));
        note_since(&mut other, Some(&fewer), 20_017, at(3));
        assert_eq!([&first, &fewer, &other].map(members_since), [Some(at(1)), Some(at(1)), Some(at(3))]);
    }

    proptest! {
        /// Whatever comes and goes, no port has two revisions, and none is given out again within a day.
        #[test]
        fn ports_are_never_shared(steps in proptest::collection::vec((0_u8..40, any::<bool>()), 1..200)) {
            let mut book = Book::default();
            let mut there: BTreeMap<RevisionKey, u16> = BTreeMap::new();
            let mut freed: BTreeMap<u16, i64> = BTreeMap::new();
            for (hour, (name, comes)) in steps.into_iter().enumerate() {
                let (hour, revision) = (i64::try_from(hour).expect("small"), key(&name.to_string()));
                if comes {
                    let Some(port) = book.assign(&revision, at(hour)) else { continue };
                    prop_assert!(there.iter().all(|(other, used)| *other == revision || *used != port));
                    if !there.contains_key(&revision) {
                        prop_assert!(freed.get(&port).is_none_or(|at| hour - at >= 24));
                    }
                    there.insert(revision, port);
                } else if let Some(port) = there.remove(&revision) {
                    freed.insert(port, hour);
                    book.release(&there.keys().cloned().collect(), at(hour));
                }
                book = Book::read(&book.data(), at(hour));
            }
        }
    }
}
