//! The double of a cloud's load balancer, through its sockets: what it does with what Ebb may write, and how badly it may
//! follow.

use crate::apiserver::Served;
use crate::dataplane::{App, client, until};
use ebb::clock::Clock;
use ebb::dataplane::body;
use ebb::dataplane::server::Stop;
use ebb::dataplane::services::Services;
use ebb::local::alb::balancer::Manners;
use ebb::local::alb::{Alb, CONTROLLER, HOSTNAME, Options, objects};
use ebb::units::Span;
use http::Response;
use k8s_openapi::api::core::v1::{Event, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::watcher;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

const NAME: &str = "test";

struct Rig {
    client: kube::Client,
    alb: Alb,
    addresses: Vec<SocketAddr>,
    _served: Served,
    _stop: (DropGuard, DropGuard),
}

impl Rig {
    async fn start(addresses: usize, manners: Manners) -> Self {
        let served = Served::start().await;
        let client = served.client();
        let (definition, config) = objects(NAME);
        let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
        definitions.create(&PostParams::default(), &object(definition)).await.expect("the kind");
        let configs: Api<ebb::api::alb_config::AlbConfig> = Api::all(client.clone());
        until("the kind to be served", async || configs.list(&ListParams::default()).await.ok()).await;
        configs.create(&PostParams::default(), &object(config)).await.expect("the load balancer");
        let class: IngressClass = object(json!({
            "metadata": {"name": "alb"},
            "spec": {"controller": CONTROLLER,
                "parameters": {"apiGroup": "alibabacloud.com", "kind": "AlbConfig", "name": NAME}},
        }));
        Api::all(client.clone()).create(&PostParams::default(), &class).await.expect("the class");

        let services = Services::default();
        let options = Options { config: NAME.to_owned(), addresses, manners, seed: 7 };
        let alb = Alb::new(options, Clock::system(), services.clone());
        let (cancel, stop) = (CancellationToken::new(), Stop::default());
        tokio::spawn({
            let (alb, client, cancel) = (alb.clone(), client.clone(), cancel.clone());
            async move {
                tokio::join!(
                    services.follow(client.clone(), watcher::Config::default(), cancel.clone()),
                    alb.follow(client, cancel)
                )
            }
        });
        let mut bound = Vec::new();
        for address in 0..addresses {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            bound.push(listener.local_addr().expect("an address"));
            let (alb, stop) = (alb.clone(), stop.clone());
            tokio::spawn(async move { alb.serve(address, ("HTTP", 80), listener, stop).await });
        }
        let guards = (cancel.drop_guard(), stop.kill.drop_guard());
        Self { client, alb, addresses: bound, _served: served, _stop: guards }
    }

    /// A Service and what it leads to.
    async fn service(&self, name: &str, servers: &[&App]) {
        let service = json!({"metadata": {"name": name}, "spec": {"ports": [{"name": "http", "port": 80}]}});
        self.put::<Service>(name, service).await;
        self.members(name, servers).await;
    }

    async fn members(&self, name: &str, servers: &[&App]) {
        // Each has a port of its own, and a slice has one for all.
        for number in 0..3 {
            let of = format!("{name}-{number}");
            let server = servers.get(number);
            let slice = json!({
                "metadata": {"name": of, "labels": {"kubernetes.io/service-name": name}}, "addressType": "IPv4",
                "endpoints": server.iter().map(|app| json!({"addresses": [app.addr.ip()]})).collect::<Vec<_>>(),
                "ports": [{"name": "http", "port": server.map_or(80, |app| app.addr.port()), "protocol": "TCP"}],
            });
            self.put::<EndpointSlice>(&of, slice).await;
        }
    }

    /// An Ingress with a rule for each `(host, action)`.
    async fn ingress(&self, name: &str, order: u16, rules: &[(&str, &str)], annotations: &[(&str, Value)]) {
        let mut all = json!({"alb.ingress.kubernetes.io/order": order.to_string()});
        for (key, value) in annotations {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            all[format!("alb.ingress.kubernetes.io/{key}")] = text.into();
        }
        let rules: Vec<Value> = rules
            .iter()
            .map(|(host, action)| {
                let backend = json!({"service": {"name": action, "port": {"name": "use-annotation"}}});
                let path = json!({"path": "/", "pathType": "Prefix", "backend": backend});
                let mut rule = json!({"http": {"paths": [path]}});
                if !host.is_empty() {
                    rule["host"] = (*host).into();
                }
                rule
            })
            .collect();
        let spec = json!({"ingressClassName": "alb", "rules": rules});
        self.put::<Ingress>(name, json!({"metadata": {"name": name, "annotations": all}, "spec": spec})).await;
    }

    async fn put<K>(&self, name: &str, mut value: Value)
    where
        K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope> + Clone + std::fmt::Debug,
        K: serde::Serialize + DeserializeOwned,
    {
        value["apiVersion"] = K::api_version(&()).into();
        value["kind"] = K::kind(&()).into();
        let api: Api<K> = Api::namespaced(self.client.clone(), "default");
        api.patch(name, &PatchParams::apply("test").force(), &Patch::Apply(value)).await.expect("written");
    }

    async fn ask(&self, address: usize, host: &str, headers: &[(&str, &str)]) -> (u16, String) {
        let mut request = client().get(format!("http://{}/", self.addresses[address])).header("host", host);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = request.send().await.expect("an answer");
        (answer.status().as_u16(), answer.text().await.expect("text"))
    }

    async fn becomes(&self, address: usize, host: &str, want: (u16, &str)) {
        until(&format!("{want:?} of {host} at {address}"), async || {
            let (status, text) = self.ask(address, host, &[]).await;
            (status == want.0 && text.starts_with(want.1)).then_some(())
        })
        .await;
    }
}

fn object<K: DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).expect("an object of its kind")
}

/// A server that says its name, and what `x-put` was.
async fn named(name: &'static str) -> App {
    App::start(move |request| async move {
        let put = request.headers().get("x-put").map_or("-", |value| value.to_str().unwrap_or("?")).to_owned();
        Response::new(body::full(format!("{name} {put}")))
    })
    .await
}

fn forward(to: &[(&str, u32)]) -> Value {
    let groups: Vec<Value> = to
        .iter()
        .map(|(service, weight)| json!({"ServiceName": service, "ServicePort": 80, "Weight": weight}))
        .collect();
    json!({"type": "ForwardGroup", "ForwardConfig": {"ServerGroups": groups}})
}

fn insert(key: &str, value: &str) -> Value {
    json!({"type": "InsertHeader",
        "InsertHeaderConfig": {"key": key, "value": value, "valueType": "UserDefined", "coverEnabled": true}})
}

fn fast() -> Manners {
    Manners {
        membership: Span::ZERO..=Span::from_millis(30),
        rules: Span::ZERO..=Span::from_millis(30),
        ..Manners::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_are_tried_in_order_and_obey_conditions_weights_and_headers() {
    let rig = Rig::start(1, fast()).await;
    let (one, two, three) = (named("one").await, named("two").await, named("three").await);
    for (name, app) in [("one", &one), ("two", &two), ("three", &three)] {
        rig.service(name, &[app]).await;
    }
    rig.service("none", &[]).await;
    let nobody = json!([{"type": "FixedResponse",
        "FixedResponseConfig": {"contentType": "text/plain", "httpCode": "404", "content": "no such route"}}]);
    rig.ingress("nobody", 1000, &[("", "nobody")], &[("actions.nobody", nobody)]).await;
    let header = json!([{"type": "Header", "headerConfig": {"key": "demo", "values": ["te?t*"]}},
        {"type": "Host", "hostConfig": {"values": ["web.default"]}}]);
    let cookie = json!([{"type": "Cookie", "cookieConfig": {"values": [{"key": "demo", "value": "always"}]}},
        {"type": "Cookie", "cookieConfig": {"values": [{"key": "second", "value": "v2"}]}}]);
    rig.ingress(
        "web",
        101,
        &[("web.example.com", "by-header"), ("web.example.com", "by-cookie"), ("web.example.com", "default")],
        &[
            ("conditions.by-header", header),
            ("actions.by-header", json!([insert("x-put", "two"), forward(&[("two", 100)])])),
            ("conditions.by-cookie", cookie),
            ("actions.by-cookie", json!([forward(&[("three", 100)])])),
            ("actions.default", json!([insert("x-put", "split"), forward(&[("one", 75), ("three", 25)])])),
        ],
    )
    .await;
    rig.ingress("empty", 102, &[("empty.example.com", "a")], &[("actions.a", json!([forward(&[("none", 100)])]))])
        .await;

    rig.becomes(0, "web.example.com", (200, "")).await;
    rig.becomes(0, "empty.example.com", (503, "the server group of none")).await;
    // What the client claims is replaced; the host counts without its case, a value with wildcards as it is written.
    for (host, headers, want) in [
        ("web.example.com", &[("demo", "test-1"), ("x-put", "mine")][..], (200, "two two")),
        ("WEB.default", &[("demo", "text")], (200, "two two")),
        ("web.example.com", &[("cookie", "Second=V2; demo=always")], (200, "three -")),
        ("stranger.example.com", &[], (404, "no such route")),
        ("web.default", &[], (404, "no such route")),
    ] {
        let (status, text) = rig.ask(0, host, headers).await;
        assert_eq!((status, text.as_str()), want, "{host} {headers:?}");
    }
    let mut counts = [0_u32; 2];
    for _ in 0..200 {
        // One cookie of two is not enough.
        match rig.ask(0, "web.example.com", &[("cookie", "demo=always")]).await.1.as_str() {
            "one split" => counts[0] += 1,
            "three split" => counts[1] += 1,
            other => panic!("{other}"),
        }
    }
    assert!((110..190).contains(&counts[0]), "75 of 100: {counts:?}");
    let ingresses: Api<Ingress> = Api::namespaced(rig.client.clone(), "default");
    until("the address on the Ingress", async || {
        let status = serde_json::to_value(ingresses.get("web").await.ok()?.status).ok()?;
        (status["loadBalancer"]["ingress"][0]["hostname"] == HOSTNAME).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_address_follows_in_its_own_time_and_one_that_is_stuck_never() {
    let rig = Rig::start(3, fast()).await;
    let (one, two) = (named("one").await, named("two").await);
    rig.service("web", &[&one]).await;
    rig.ingress("web", 101, &[("web.example.com", "a")], &[("actions.a", json!([forward(&[("web", 100)])]))]).await;
    for address in 0..3 {
        rig.becomes(address, "web.example.com", (200, "one")).await;
    }
    rig.alb.set_stuck(1, true);
    rig.members("web", &[&two]).await;
    rig.becomes(0, "web.example.com", (200, "two")).await;
    rig.becomes(2, "web.example.com", (200, "two")).await;
    assert!(rig.ask(1, "web.example.com", &[]).await.1.starts_with("one"));
    rig.alb.set_stuck(1, false);
    rig.becomes(1, "web.example.com", (200, "two")).await;
    // A controller that has stopped sees nothing; when it goes on it sees what is there then.
    rig.alb.stop_controller(true);
    rig.members("web", &[&one]).await;
    drop(two);
    rig.becomes(0, "web.example.com", (502, "")).await;
    rig.alb.stop_controller(false);
    rig.becomes(0, "web.example.com", (200, "one")).await;
    assert!(rig.alb.counters().lost.load(Ordering::Relaxed) > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_wrong_object_stops_the_rules_of_all_and_the_members_of_none() {
    let rig = Rig::start(1, fast()).await;
    let (one, two) = (named("one").await, named("two").await);
    rig.service("web", &[&one]).await;
    let action = json!([forward(&[("web", 100)])]);
    rig.ingress("web", 101, &[("web.example.com", "a")], &[("actions.a", action.clone())]).await;
    rig.becomes(0, "web.example.com", (200, "one")).await;

    let foreign = json!([{"type": "forward", "forwardConfig": {"targetGroups": []}}]);
    rig.ingress("foreign", 102, &[("foreign.example.com", "b")], &[("actions.b", foreign)]).await;
    until("the refusal", async || rig.alb.refused().pop()).await;
    rig.ingress("web", 101, &[("new.example.com", "a")], &[("actions.a", action)]).await;
    rig.members("web", &[&two]).await;
    rig.becomes(0, "web.example.com", (200, "two")).await;
    assert_eq!(rig.ask(0, "new.example.com", &[]).await.0, 503, "no rule");
    let events: Api<Event> = Api::namespaced(rig.client.clone(), "default");
    until("the event", async || {
        let all = events.list(&ListParams::default()).await.ok()?.items;
        let about = |event: &Event| event.involved_object.name.as_deref() == Some("foreign");
        all.into_iter()
            .find(|event| about(event) && event.message.as_ref().is_some_and(|text| text.contains("actions.b")))
    })
    .await;

    let ingresses: Api<Ingress> = Api::namespaced(rig.client.clone(), "default");
    ingresses.delete("foreign", &DeleteParams::default()).await.expect("deleted");
    rig.becomes(0, "new.example.com", (200, "two")).await;
    assert_eq!(rig.alb.refused(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_that_is_emptied_first_answers_503_and_one_that_is_bridged_does_not() {
    let rig = Rig::start(1, Manners { remove_first: Some(Span::from_millis(300)), ..fast() }).await;
    let (one, two) = (named("one").await, named("two").await);
    rig.service("web", &[&one]).await;
    rig.ingress("web", 101, &[("web.example.com", "a")], &[("actions.a", json!([forward(&[("web", 100)])]))]).await;
    rig.becomes(0, "web.example.com", (200, "one")).await;
    let empty = || rig.alb.counters().empty.load(Ordering::Relaxed);
    let before = empty();
    // First both, then the other: never empty.
    rig.members("web", &[&one, &two]).await;
    rig.becomes(0, "web.example.com", (200, "two")).await;
    rig.members("web", &[&two]).await;
    until("the change", async || {
        rig.ask(0, "web.example.com", &[]).await;
        rig.alb.is_settled().then_some(())
    })
    .await;
    assert_eq!(empty(), before);
    // One for the other at once.
    let slice = json!({
        "metadata": {"name": "web-0", "labels": {"kubernetes.io/service-name": "web"}}, "addressType": "IPv4",
        "endpoints": [{"addresses": [one.addr.ip()]}], "ports": [{"name": "http", "port": one.addr.port()}],
    });
    rig.put::<EndpointSlice>("web-0", slice).await;
    rig.becomes(0, "web.example.com", (503, "the server group of web")).await;
    rig.becomes(0, "web.example.com", (200, "one")).await;
}
