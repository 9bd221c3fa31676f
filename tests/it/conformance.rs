//! What of Knative's own conformance suite for ingresses the load balancer alone can do, and what it cannot: each row of
//! the table in docs/alb.md, against the double. The KIngresses are such as the suite makes; what is asked is what it asks.

use ebb::api::ingress::Ingress;
use ebb::local::alb::balancer::{Balancer, Manners, Outcome, compile, groups};
use ebb::routing::model::{ClusterLocal, Probe, Redirect, Settings};
use ebb::routing::plan::{Existing, plan};
use ebb::routing::translate::Context;
use ebb::units::{Span, Timestamp};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::networking::v1::Ingress as IngressObject;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

const HTTP: &str = "HTTP";
const HTTPS: &str = "HTTPS";

/// A load balancer that follows at once, programmed with what these KIngresses become.
struct Rig {
    balancer: Balancer,
    refused: Vec<&'static str>,
    remarks: Vec<&'static str>,
}

impl Rig {
    fn new(ingresses: &[Value], settings: &Settings) -> Self {
        let ingresses: Vec<Ingress> = ingresses
            .iter()
            .enumerate()
            .map(|(number, value)| {
                let mut ingress: Ingress = serde_json::from_value(value.clone()).expect("a KIngress");
                ingress.metadata.uid = Some(format!("uid-{number}"));
                ingress
            })
            .collect();
        let services: Vec<Service> = Vec::new();
        let context = Context { services: &services, ..Context::new(&ingresses, settings) };
        let plan = plan(&context, &Existing::default());
        let refused = plan.outcomes.iter().filter_map(|outcome| Some(outcome.refused.as_ref()?.reason)).collect();
        let remarks =
            plan.outcomes.iter().flat_map(|outcome| outcome.remarks.iter().map(|remark| remark.reason)).collect();
        // The public load balancer is asked; what stands on the other one is not on it.
        let is_public = |ingress: &IngressObject| {
            let class = ingress.spec.as_ref().and_then(|spec| spec.ingress_class_name.as_deref());
            class.is_some_and(|class| class.ends_with("-internet"))
        };
        let published: Vec<_> = plan.ingresses.into_iter().filter(is_public).map(Arc::new).collect();
        let listeners = [(HTTP.to_owned(), 80), (HTTPS.to_owned(), 443)];
        let rules = compile(&published, &listeners, 100).expect("the double takes what is written");
        let mut balancer = Balancer::new(
            1,
            Manners { membership: Span::ZERO..=Span::ZERO, rules: Span::ZERO..=Span::ZERO, ..Manners::default() },
            1,
        );
        let servers = groups(&rules).into_iter().enumerate().map(|(number, group)| {
            let last = u8::try_from(number + 1).expect("few groups");
            (group, vec![SocketAddr::from(([10, 0, 0, last], 8012))])
        });
        let servers: BTreeMap<_, _> = servers.collect();
        balancer.want(Timestamp::default(), rules, servers);
        balancer.advance(Timestamp::default());
        Self { balancer, refused, remarks }
    }

    fn one(ingress: Value) -> Self {
        Self::new(&[ingress], &Settings::default())
    }

    /// What becomes of a request: the Service it reaches with the headers it has there, or the status it is answered with.
    fn ask(&self, listener: (&str, u16), host: &str, path: &str, headers: &[(&str, &str)], die: f64) -> Reached {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let name = HeaderName::try_from(*name).expect("a name");
            map.insert(name, HeaderValue::from_str(value).expect("a value"));
        }
        let uri: Uri = path.parse().expect("a path");
        let listener = (listener.0.to_owned(), listener.1);
        match self.balancer.route(0, &listener, (&Method::GET, host, &uri, &map), (die, 0.0)) {
            Outcome::Forward { group, set, .. } => {
                for (name, value, cover) in set {
                    match value {
                        Some(value) if cover || !map.contains_key(&name) => _ = map.insert(name, value),
                        Some(_) => {}
                        None => _ = map.remove(name),
                    }
                }
                Reached { service: group.service, status: 200, headers: map }
            }
            Outcome::Fixed(fixed) => Reached::status(fixed.http_code.parse().expect("a status")),
            Outcome::Redirect(to) => Reached::status(to.http_code.parse().expect("a status")),
            Outcome::Empty(_) | Outcome::NoRule => Reached::status(503),
        }
    }

    fn get(&self, host: &str, path: &str, headers: &[(&str, &str)]) -> Reached {
        self.ask((HTTP, 80), host, path, headers, 0.5)
    }

    fn reaches(&self, host: &str, path: &str, headers: &[(&str, &str)]) -> String {
        self.get(host, path, headers).service
    }
}

struct Reached {
    service: String,
    status: u16,
    headers: HeaderMap,
}

impl Reached {
    fn status(status: u16) -> Self {
        Self { service: String::new(), status, headers: HeaderMap::new() }
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("text"))
    }
}

fn ingress(rules: &[Value]) -> Value {
    json!({"apiVersion": "networking.internal.knative.dev/v1alpha1", "kind": "Ingress",
        "metadata": {"name": "test", "namespace": "serving-tests"}, "spec": {"rules": rules}})
}

fn rule(host: &str, visibility: &str, paths: &[Value]) -> Value {
    json!({"hosts": [host], "visibility": visibility, "http": {"paths": paths}})
}

fn to(service: &str, percent: u32) -> Value {
    json!({"serviceName": service, "serviceNamespace": "serving-tests", "servicePort": 80, "percent": percent})
}

const HOST: &str = "test.example.com";

fn public(paths: &[Value]) -> Value {
    ingress(&[rule(HOST, "ExternalIP", paths)])
}

#[test]
fn basics_and_ingressclass() {
    let rig = Rig::one(public(&[json!({"splits": [to("a", 100)]})]));
    assert_eq!(rig.reaches(HOST, "/any/path", &[]), "a");
    // What nobody serves is told from what nobody stands behind.
    assert_eq!(rig.get("other.example.com", "/", &[]).status, 404);
}

#[test]
fn headers_pre_split_replace_what_the_client_sent() {
    let path = json!({"appendHeaders": {"Foo": "bar"}, "splits": [to("a", 100)]});
    let rig = Rig::one(public(&[path]));
    for sent in [&[][..], &[("Foo", "mine")]] {
        assert_eq!(rig.get(HOST, "/", sent).header("foo"), "bar", "{sent:?}");
    }
}

#[test]
fn headers_post_split_cannot_be_expressed_and_say_so() {
    let with = |service: &str, value: &str| {
        let mut split = to(service, 50);
        split["appendHeaders"] = json!({"Foo": value});
        split
    };
    let rig = Rig::one(public(&[json!({"splits": [with("a", "one"), with("b", "two")]})]));
    assert_eq!(rig.refused, ["PerSplitHeadersUnsupported"]);
}

#[test]
fn headers_probe_show_the_version_inline_to_everybody_and_by_a_rule_to_who_asks() {
    let path = json!({"splits": [to("a", 100)]});
    let inline = Rig::one(public(std::slice::from_ref(&path)));
    let asked = [("K-Network-Hash", "override"), ("K-Network-Probe", "probe")];
    let hash = inline.get(HOST, "/healthz", &asked).header("k-network-hash").to_owned();
    assert_eq!(hash.len(), 64);
    // The one sub-test that fails: a hash of the client's own is replaced.
    assert_eq!(inline.get(HOST, "/", &[("K-Network-Hash", "mine")]).header("k-network-hash"), hash);
    let settings = Settings { probe: Probe::Rule, ..Settings::default() };
    let by_rule = Rig::new(&[public(&[path])], &settings);
    assert_eq!(by_rule.get(HOST, "/healthz", &asked).header("k-network-hash"), hash);
    assert_eq!(by_rule.get(HOST, "/", &[("K-Network-Hash", "mine")]).header("k-network-hash"), "mine");
    assert_eq!(by_rule.get(HOST, "/", &[]).header("k-network-hash"), "");
}

#[test]
fn hosts_multiple_lead_to_the_same() {
    let hosts: Vec<String> = (0..12).map(|number| format!("h{number}.example.com")).collect();
    let rule = json!({"hosts": hosts, "visibility": "ExternalIP", "http": {"paths": [{"splits": [to("a", 100)]}]}});
    let rig = Rig::one(ingress(&[rule]));
    for host in &hosts {
        assert_eq!(rig.reaches(host, "/", &[]), "a", "{host}");
    }
}

#[test]
fn dispatch_path_goes_to_the_longest_prefix() {
    let path = |path: &str, service: &str| json!({"path": path, "splits": [to(service, 100)]});
    let rig = Rig::one(public(&[path("/foo", "foo"), path("/bar", "bar"), path("/baz", "baz"), path("", "root")]));
    for (asked, want) in [
        ("/foo", "foo"),
        ("/foo/1", "foo"),
        ("/foobar", "foo"),
        ("/bar", "bar"),
        ("/baz/x/y", "baz"),
        ("/", "root"),
        ("/asdf", "root"),
    ] {
        assert_eq!(rig.reaches(HOST, asked, &[]), want, "{asked}");
    }
}

#[test]
fn dispatch_percentage_has_too_many_targets_and_says_so() {
    let splits: Vec<Value> = (0..7).map(|number| to(&format!("s{number}"), 14 + u32::from(number == 0) * 2)).collect();
    let rig = Rig::one(public(&[json!({"splits": splits})]));
    assert_eq!(rig.refused, ["TooManyTargets"]);
    // Five are kept by weight.
    let five: Vec<Value> =
        [("a", 10), ("b", 20), ("c", 30), ("d", 15), ("e", 25)].map(|(name, share)| to(name, share)).to_vec();
    let rig = Rig::one(public(&[json!({"splits": five})]));
    let mut counts: BTreeMap<String, u32> = BTreeMap::new();
    for number in 0..1000 {
        let die = (f64::from(number) + 0.5) / 1000.0;
        *counts.entry(rig.ask((HTTP, 80), HOST, "/", &[], die).service).or_default() += 1;
    }
    assert_eq!(
        counts,
        [("a", 100), ("b", 200), ("c", 300), ("d", 150), ("e", 250)].map(|(name, many)| (name.to_owned(), many)).into()
    );
}

#[test]
fn dispatch_rule_goes_by_host() {
    let rules: Vec<Value> = ["foo", "bar"]
        .iter()
        .map(|name| rule(&format!("{name}.example.com"), "ExternalIP", &[json!({"splits": [to(name, 100)]})]))
        .collect();
    let rig = Rig::one(ingress(&rules));
    assert_eq!(
        (rig.reaches("foo.example.com", "/", &[]), rig.reaches("bar.example.com", "/", &[])),
        ("foo".into(), "bar".into())
    );
}

#[test]
fn headers_tags_go_before_the_rest() {
    let rig = Rig::one(public(&[
        json!({"headers": {"Knative-Serving-Tag": {"exact": "blue"}}, "splits": [to("blue", 100)]}),
        json!({"splits": [to("default", 100)]}),
    ]));
    assert_eq!(rig.reaches(HOST, "/", &[("Knative-Serving-Tag", "blue")]), "blue");
    for sent in [&[][..], &[("Knative-Serving-Tag", "red")], &[("Other", "blue")]] {
        assert_eq!(rig.reaches(HOST, "/", sent), "default", "{sent:?}");
    }
}

#[test]
fn host_rewrite_goes_where_the_other_name_goes() {
    let mut mapping = public(&[json!({"rewriteHost": "a.example.com", "splits": [to("placeholder", 100)]})]);
    mapping["metadata"]["name"] = "mapping".into();
    let target = ingress(&[rule("a.example.com", "ExternalIP", &[json!({"splits": [to("a", 100)]})])]);
    let rig = Rig::new(&[target, mapping], &Settings::default());
    assert_eq!(rig.refused, Vec::<&str>::new());
    assert_eq!(rig.reaches(HOST, "/", &[]), "a");
}

#[test]
fn visibility_keeps_private_names_off_the_public_side() {
    let private = "private.serving-tests.svc.cluster.local";
    let both = ingress(&[
        rule(HOST, "ExternalIP", &[json!({"splits": [to("a", 100)]})]),
        rule(private, "ClusterLocal", &[json!({"splits": [to("b", 100)]})]),
    ]);
    // On the intranet load balancer, or with a gateway of the cluster.
    for cluster_local in [ClusterLocal::Intranet, ClusterLocal::Gateway] {
        let rig = Rig::new(std::slice::from_ref(&both), &Settings { cluster_local, ..Settings::default() });
        assert_eq!(rig.reaches(HOST, "/", &[]), "a");
        assert_eq!(rig.get(private, "/", &[]).status, 404, "{cluster_local:?}");
    }
}

#[test]
fn tls_has_a_listener_of_its_own_and_httpoption_redirects_with_the_status_that_is_set() {
    let mut secure = public(&[json!({"splits": [to("a", 100)]})]);
    secure["spec"]["tls"] = json!([{"hosts": [HOST], "secretName": "cert", "secretNamespace": "serving-tests"}]);
    let rig = Rig::one(secure.clone());
    for listener in [(HTTP, 80), (HTTPS, 443)] {
        assert_eq!(rig.ask(listener, HOST, "/", &[], 0.5).service, "a", "{listener:?}");
    }
    secure["spec"]["httpOption"] = "Redirected".into();
    for (redirect, status) in [(Redirect::Permanent, 308), (Redirect::Moved, 301)] {
        let rig = Rig::new(&[secure.clone()], &Settings { redirect, ..Settings::default() });
        assert_eq!(rig.ask((HTTP, 80), HOST, "/", &[], 0.5).status, status);
        assert_eq!(rig.ask((HTTPS, 443), HOST, "/", &[], 0.5).service, "a");
    }
}

#[test]
fn grpc_without_tls_cannot_be_expressed_and_says_so() {
    let mut split = to("grpc", 100);
    (split["servicePort"], split["appendHeaders"]) = (81.into(), json!({"Knative-Serving-Revision": "grpc"}));
    let rig = Rig::one(public(&[json!({"splits": [split]})]));
    assert_eq!(rig.refused, ["GRPCRequiresTLS"]);
    assert_eq!(rig.remarks, Vec::<&str>::new());
}
