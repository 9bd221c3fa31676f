//! Knative's conformance suite for ingresses at Ebb's own gateway: column "gateway" of the table in docs/alb.md. The
//! KIngresses are such as the suite makes, the backends are real listeners, and what is asked is what it asks.

use crate::alb::{Fixed, balancer, create, definition, setup};
use crate::apiserver::Served;
use crate::dataplane::{App, LOCALHOST, Pod};
use crate::patience::eventually;
use bytes::Bytes;
use ebb::api::ingress::Ingress;
use ebb::clock::Clock;
use ebb::dataplane::activator::load::StatSink;
use ebb::dataplane::activator::throttle::Revision;
use ebb::dataplane::activator::{self, Activator, feed};
use ebb::dataplane::body::full;
use ebb::dataplane::gateway::{Gateway, Options};
use ebb::dataplane::server::{self, Stop};
use ebb::dataplane::services::Services;
use ebb::routing::controller::Controller;
use ebb::routing::model::Action;
use ebb::routing::plan::rules_of;
use ebb::routing::translate::version;
use ebb::units::RevisionKey;
use futures::{SinkExt as _, StreamExt as _};
use http::{Request, Response, StatusCode};
use k8s_openapi::api::core::v1::{Endpoints, Event, Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::runtime::watcher;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

const CLASS: &str = "alb.ingress.networking.knative.dev";
const HOST: &str = "test.example.com";

/// A gateway that follows an API, and backends in it.
struct Rig {
    served: Served,
    address: SocketAddr,
    cancel: CancellationToken,
    stop: Stop,
}

/// An API with the namespace of the suite.
async fn cluster() -> Served {
    let served = Served::start().await;
    let namespace: Namespace =
        serde_json::from_value(json!({"metadata": {"name": "serving-tests"}})).expect("a Namespace");
    Api::all(served.client()).create(&PostParams::default(), &namespace).await.expect("created");
    served
}

/// What a backend saw, as it tells in its answer.
struct Reply {
    status: StatusCode,
    service: String,
    headers: BTreeMap<String, String>,
    version: String,
}

impl Rig {
    async fn start() -> Self {
        let served = cluster().await;
        let (cancel, stop, services) = (CancellationToken::new(), Stop::default(), Services::default());
        let gateway =
            Gateway::new(Options { class: CLASS.to_owned(), ..Options::default() }, Clock::system(), services.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (client, token) = (served.client(), cancel.clone());
        tokio::spawn({
            let gateway = gateway.clone();
            async move {
                let following = services.follow(client.clone(), watcher::Config::default(), token.clone());
                tokio::join!(following, gateway.follow(client, token, |_| {}));
            }
        });
        let stopping = stop.clone();
        tokio::spawn(async move { gateway.serve(listener, stopping).await });
        Self { served, address, cancel, stop }
    }

    /// A Service with one backend that says its name and what it got. `fail` is how many requests it refuses first.
    async fn backend(&self, name: &str, h2c: bool, fail: u32) -> Arc<AtomicU32> {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let (name, asked) = (name.to_owned(), Arc::new(AtomicU32::new(0)));
        let (label, count) = (name.clone(), Arc::clone(&asked));
        let handler = move |request: Request<ebb::dataplane::body::Body>| {
            let (name, count) = (name.clone(), Arc::clone(&count));
            async move {
                let number = count.fetch_add(1, Ordering::Relaxed);
                if number < fail {
                    let mut response = Response::new(full("not now"));
                    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
                    return response;
                }
                let delay: u64 = request
                    .uri()
                    .query()
                    .and_then(|query| query.strip_prefix("delay=")?.parse().ok())
                    .unwrap_or_default();
                tokio::time::sleep(Duration::from_millis(delay)).await;
                let headers: BTreeMap<&str, &str> = request
                    .headers()
                    .iter()
                    .map(|(name, value)| (name.as_str(), value.to_str().expect("text")))
                    .collect();
                let host = request.uri().authority().map_or("", |authority| authority.as_str());
                let said = json!({"service": name, "version": format!("{:?}", request.version()), "headers": headers,
                    "authority": host});
                Response::new(full(said.to_string()))
            }
        };
        let stop = self.stop.clone();
        tokio::spawn(server::serve(listener, 100, handler, stop));
        self.service(&label, port, h2c).await;
        asked
    }

    async fn service(&self, name: &str, port: u16, h2c: bool) {
        let port_name = if h2c { "http2" } else { "http" };
        let service: Service = serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "serving-tests"},
            "spec": {"ports": [{"name": port_name, "port": 80}]}}))
        .expect("a Service");
        let slice: EndpointSlice = serde_json::from_value(json!({
            "metadata": {"name": format!("{name}-1"), "namespace": "serving-tests",
                "labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4", "endpoints": [{"addresses": ["127.0.0.1"]}],
            "ports": [{"name": port_name, "port": port}]}))
        .expect("an EndpointSlice");
        let client = self.served.client();
        Api::namespaced(client.clone(), "serving-tests")
            .create(&PostParams::default(), &service)
            .await
            .expect("created");
        Api::namespaced(client, "serving-tests").create(&PostParams::default(), &slice).await.expect("created");
    }

    /// Writes a KIngress and waits until the gateway has this version of it.
    async fn publish(&self, mut value: Value) -> Ingress {
        value["metadata"]["annotations"]["networking.knative.dev/ingress.class"] = CLASS.into();
        let host = value["spec"]["rules"][0]["hosts"][0].as_str().expect("a host").to_owned();
        let name = value["metadata"]["name"].as_str().expect("a name").to_owned();
        let api: Api<Ingress> = Api::namespaced(self.served.client(), "serving-tests");
        let params = PatchParams::apply("test").force();
        let written = api.patch(&name, &params, &Patch::Apply(&value)).await.expect("applied");
        let want = version(&written);
        let path = value["spec"]["rules"][0]["http"]["paths"][0]["path"].as_str().unwrap_or("/").to_owned();
        eventually(&format!("the gateway to follow {name}"), async || {
            let mut reply = self.get(&host, &format!("{path}healthz"), &[("k-network-hash", "override")]).await;
            let seen = reply.headers.remove("k-network-hash");
            if seen.as_ref() == Some(&want) { Ok(()) } else { Err(format!("{} {seen:?}", reply.status)) }
        })
        .await;
        written
    }

    async fn get(&self, host: &str, path: &str, headers: &[(&str, &str)]) -> Reply {
        let mut request = reqwest::Client::new().get(format!("http://{}{path}", self.address)).header("Host", host);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send().await.expect("an answer");
        let (status, text) = (response.status(), response.text().await.expect("a body"));
        let said: Value = serde_json::from_str(&text).unwrap_or_default();
        let said_headers = said["headers"].as_object().cloned().unwrap_or_default();
        Reply {
            status,
            service: said["service"].as_str().unwrap_or_default().to_owned(),
            headers: said_headers
                .into_iter()
                .map(|(name, value)| (name, value.as_str().unwrap_or("").to_owned()))
                .collect(),
            version: said["version"].as_str().unwrap_or_default().to_owned(),
        }
    }

    async fn reaches(&self, host: &str, path: &str, headers: &[(&str, &str)]) -> String {
        self.get(host, path, headers).await.service
    }

    fn stop(self) {
        self.cancel.cancel();
        self.stop.kill.cancel();
    }
}

fn ingress(name: &str, rules: &[Value]) -> Value {
    json!({"apiVersion": "networking.internal.knative.dev/v1alpha1", "kind": "Ingress",
        "metadata": {"name": name, "namespace": "serving-tests"}, "spec": {"rules": rules}})
}

fn rule(host: &str, visibility: &str, paths: &[Value]) -> Value {
    json!({"hosts": [host], "visibility": visibility, "http": {"paths": paths}})
}

fn to(service: &str, percent: u32) -> Value {
    json!({"serviceName": service, "serviceNamespace": "serving-tests", "servicePort": 80, "percent": percent,
        "appendHeaders": {"Which-Backend": service}})
}

fn public(paths: &[Value]) -> Value {
    ingress("test", &[rule(HOST, "ExternalIP", paths)])
}

#[tokio::test]
async fn basics_and_http2_and_ingressclass() {
    let rig = Rig::start().await;
    rig.backend("one", false, 0).await;
    rig.backend("two", true, 0).await;
    rig.publish(public(&[json!({"path": "/two", "splits": [to("two", 100)]}), json!({"splits": [to("one", 100)]})]))
        .await;
    let reply = rig.get(HOST, "/any/path", &[]).await;
    assert_eq!((reply.service.as_str(), reply.version.as_str()), ("one", "HTTP/1.1"));
    let reply = rig.get(HOST, "/two", &[]).await;
    assert_eq!((reply.service.as_str(), reply.version.as_str()), ("two", "HTTP/2.0"));
    assert_eq!(rig.get("other.example.com", "/", &[]).await.status, 404);
    // A KIngress of another class is somebody else's.
    let mut other =
        ingress("other", &[rule("other.example.com", "ExternalIP", &[json!({"splits": [to("one", 100)]})])]);
    other["metadata"]["annotations"] =
        json!({"networking.knative.dev/ingress.class": "kourier.ingress.networking.knative.dev"});
    let api: Api<Ingress> = Api::namespaced(rig.served.client(), "serving-tests");
    api.create(&PostParams::default(), &serde_json::from_value(other).expect("a KIngress")).await.expect("created");
    rig.publish(ingress("later", &[rule("later.example.com", "ExternalIP", &[json!({"splits": [to("one", 100)]})])]))
        .await;
    assert_eq!(rig.get("other.example.com", "/", &[]).await.status, 404);
    rig.stop();
}

#[tokio::test]
async fn headers_before_and_after_the_split_probe_and_tags() {
    let rig = Rig::start().await;
    for name in ["a", "b", "c", "d", "blue"] {
        rig.backend(name, false, 0).await;
    }
    let splits: Vec<Value> =
        [("a", 12), ("b", 23), ("c", 31), ("d", 34)].map(|(name, percent)| to(name, percent)).to_vec();
    let tag = json!({"headers": {"Knative-Serving-Tag": {"exact": "blue"}}, "splits": [to("blue", 100)]});
    let written = rig.publish(public(&[tag, json!({"appendHeaders": {"Foo": "bar"}, "splits": splits})])).await;
    let mut seen: BTreeMap<String, u32> = BTreeMap::new();
    for _ in 0..200 {
        let reply = rig.get(HOST, "/", &[("foo", "mine"), ("which-backend", "mine"), ("connection", "foo")]).await;
        assert_eq!(reply.headers["foo"], "bar", "a client can neither set it nor take it away");
        assert_eq!(reply.headers["which-backend"], reply.service);
        *seen.entry(reply.service).or_default() += 1;
    }
    assert_eq!(seen.keys().collect::<Vec<_>>(), ["a", "b", "c", "d"]);
    assert_eq!(rig.reaches(HOST, "/", &[("knative-serving-tag", "blue")]).await, "blue");
    assert_ne!(rig.reaches(HOST, "/", &[("knative-serving-tag", "red")]).await, "blue");
    let reply = rig.get(HOST, "/healthz", &[("k-network-probe", "probe"), ("k-network-hash", "override")]).await;
    assert_eq!(reply.headers["k-network-hash"], version(&written));
    let reply = rig.get(HOST, "/", &[("k-network-hash", "mine")]).await;
    assert_eq!(reply.headers["k-network-hash"], "mine");
    assert_eq!(rig.get(HOST, "/", &[]).await.headers.get("k-network-hash"), None);
    rig.stop();
}

#[tokio::test]
async fn dispatch_by_path_by_rule_by_host_and_by_percentage() {
    let rig = Rig::start().await;
    let ten: Vec<String> = (0..10).map(|number| format!("s{number}")).collect();
    for name in ten.iter().map(String::as_str).chain(["foo", "bar", "root"]) {
        rig.backend(name, false, 0).await;
    }
    let path = |path: &str, service: &str| json!({"path": path, "splits": [to(service, 100)]});
    let hosts: Vec<String> = (0..12).map(|number| format!("h{number}.example.com")).collect();
    let paths = json!({"paths": [path("/foo", "foo"), path("/bar", "bar"), path("/", "root")]});
    let many = json!({"hosts": hosts, "visibility": "ExternalIP", "http": paths});
    // Ten backends, three without a share; path and percentage at once.
    let percents = [0, 0, 0, 13, 14, 14, 14, 15, 15, 15];
    let splits: Vec<Value> = ten.iter().zip(percents).map(|(name, percent)| to(name, percent)).collect();
    let split = json!({"path": "/split", "splits": splits});
    let alone = rule("other.example.com", "ExternalIP", &[split, path("/", "bar")]);
    rig.publish(ingress("test", &[many, alone])).await;
    for host in &hosts {
        for (asked, want) in [("/foo", "foo"), ("/foo/1", "foo"), ("/bar", "bar"), ("/", "root"), ("/asdf", "root")] {
            assert_eq!(rig.reaches(host, asked, &[]).await, want, "{host}{asked}");
        }
    }
    assert_eq!(rig.reaches("other.example.com", "/", &[]).await, "bar");
    let mut seen: BTreeMap<String, u32> = BTreeMap::new();
    for _ in 0..300 {
        *seen.entry(rig.reaches("other.example.com", "/split", &[]).await).or_default() += 1;
    }
    assert_eq!(seen.keys().collect::<Vec<_>>(), ten[3..].iter().collect::<Vec<_>>());
    rig.stop();
}

#[tokio::test]
async fn visibility_and_host_rewrite() {
    let rig = Rig::start().await;
    for name in ["a", "b", "c"] {
        rig.backend(name, false, 0).await;
    }
    let private = "private.serving-tests.svc.cluster.local";
    rig.publish(ingress("target", &[rule(private, "ClusterLocal", &[json!({"splits": [to("a", 50), to("b", 50)]})])]))
        .await;
    let rewrite = json!({"rewriteHost": private, "splits": [to("c", 100)]});
    rig.publish(ingress("mapping", &[rule("vanity.example.com", "ExternalIP", &[rewrite])])).await;
    for _ in 0..20 {
        let reply = rig.get("vanity.example.com", "/", &[]).await;
        assert!(["a", "b"].contains(&reply.service.as_str()), "{}", reply.service);
        assert_eq!(
            (reply.headers["host"].as_str(), reply.headers["k-original-host"].as_str()),
            (private, "vanity.example.com")
        );
    }
    rig.stop();
}

#[tokio::test]
async fn a_backends_503_is_passed_on_once_and_long_answers_are_waited_for() {
    let rig = Rig::start().await;
    rig.backend("fine", false, 0).await;
    rig.publish(public(&[json!({"splits": [to("fine", 100)]})])).await;
    let asked = rig.backend("refuses", false, 1).await;
    let failing = json!({"path": "/refuses", "splits": [to("refuses", 100)]});
    rig.publish(public(&[json!({"splits": [to("fine", 100)]}), failing])).await;
    assert_eq!(rig.get(HOST, "/refuses", &[]).await.status, 503);
    assert_eq!(asked.load(Ordering::Relaxed), 1, "nothing is tried again that a backend has answered");
    assert_eq!(rig.get(HOST, "/refuses", &[]).await.status, 200);
    assert_eq!(rig.get(HOST, "/?delay=1500", &[]).await.status, 200);
    rig.stop();
}

#[tokio::test]
async fn websockets_pass_and_their_split_too() {
    let rig = Rig::start().await;
    for name in ["one", "two"] {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        rig.service(name, listener.local_addr().expect("an address").port(), false).await;
        let echo = move |upgrade: axum::extract::WebSocketUpgrade| async move {
            upgrade.on_upgrade(move |mut socket| async move {
                while let Some(Ok(axum::extract::ws::Message::Text(text))) = socket.recv().await {
                    let said = axum::extract::ws::Message::Text(format!("{name}: {text}").into());
                    if socket.send(said).await.is_err() {
                        return;
                    }
                }
            })
        };
        let app =
            axum::Router::new().route("/", axum::routing::any(echo)).fallback(|headers: http::HeaderMap| async move {
                let hash = headers.get("k-network-hash").and_then(|value| value.to_str().ok()).unwrap_or("").to_owned();
                json!({"service": "", "headers": {"k-network-hash": hash}}).to_string()
            });
        tokio::spawn(async move { axum::serve(listener, app).await });
    }
    rig.publish(public(&[json!({"splits": [to("one", 50), to("two", 50)]})])).await;
    let mut seen = BTreeMap::new();
    for _ in 0..30 {
        let stream = tokio::net::TcpStream::connect(rig.address).await.expect("connected");
        let (mut socket, _) = tokio_tungstenite::client_async(format!("ws://{HOST}/"), stream).await.expect("upgraded");
        for word in ["hello", "again"] {
            socket.send(word.into()).await.expect("sent");
            let said =
                socket.next().await.expect("a message").expect("a message").into_text().expect("text").to_string();
            let (who, what) = said.split_once(": ").expect("a name");
            assert_eq!(what, word);
            *seen.entry(who.to_owned()).or_insert(0) += 1;
        }
    }
    assert_eq!(seen.keys().collect::<Vec<_>>(), ["one", "two"]);
    rig.stop();
}

#[tokio::test]
async fn an_update_loses_nothing() {
    let rig = Rig::start().await;
    rig.backend("s0", false, 0).await;
    rig.publish(public(&[json!({"splits": [to("s0", 100)]})])).await;
    let client = reqwest::Client::new();
    let (url, done) = (format!("http://{}/", rig.address), CancellationToken::new());
    let asking = tokio::spawn({
        let done = done.clone();
        async move {
            let mut asked = 0;
            while !done.is_cancelled() {
                let response = client.get(&url).header("Host", HOST).send().await.expect("an answer");
                assert_eq!(response.status(), 200);
                let _: Bytes = response.bytes().await.expect("a body");
                asked += 1;
            }
            asked
        }
    });
    for number in 1..=20 {
        let name = format!("s{number}");
        rig.backend(&name, false, 0).await;
        rig.publish(public(&[json!({"splits": [to(&name, 100)]})])).await;
        let before = format!("s{}", number - 1);
        let api: Api<Service> = Api::namespaced(rig.served.client(), "serving-tests");
        api.delete(&before, &kube::api::DeleteParams::default()).await.expect("deleted");
        let slices: Api<EndpointSlice> = Api::namespaced(rig.served.client(), "serving-tests");
        slices.delete(&format!("{before}-1"), &kube::api::DeleteParams::default()).await.expect("deleted");
    }
    done.cancel();
    assert!(asking.await.expect("no request failed") > 20);
    rig.stop();
}

/// Counts what an activator tells the autoscaler.
#[derive(Default)]
struct Ear(AtomicU32);

impl StatSink for Ear {
    fn send(&self, _: Bytes) -> bool {
        self.0.fetch_add(1, Ordering::Relaxed);
        true
    }

    fn is_connected(&self) -> bool {
        true
    }
}

#[tokio::test]
async fn an_activator_that_is_the_gateway_splits_holds_and_wakes() {
    let served = cluster().await;
    let mut config = activator::Config::new("activator-1", LOCALHOST);
    (config.http1_port, config.h2c_port, config.gateway) = (0, 0, Some((0, CLASS.to_owned())));
    let ear = Arc::new(Ear::default());
    let sink: Arc<dyn StatSink> = ear.clone();
    let bound = Activator::bind(config, sink, Clock::system()).await.expect("free ports");
    let backends = bound.backends();
    let (gateway, services, address) = bound.gateway().expect("an address").expect("a gateway");
    let cancel = CancellationToken::new();
    tokio::spawn(feed::routes(served.client(), gateway, services, cancel.clone()));
    let running = tokio::spawn(bound.run(cancel.clone()));
    let key = |name: &str| RevisionKey::new("serving-tests", name);
    for name in ["one", "two"] {
        backends.set_revision(&key(name), Revision::default());
    }

    let to = |revision: &str| {
        let mut split = to(revision, 50);
        split["appendHeaders"]["Knative-Serving-Revision"] = revision.into();
        split["appendHeaders"]["Knative-Serving-Namespace"] = "serving-tests".into();
        split
    };
    let mut value = public(&[json!({"splits": [to("one"), to("two")]})]);
    value["metadata"]["annotations"] = json!({"networking.knative.dev/ingress.class": CLASS});
    let api: Api<Ingress> = Api::namespaced(served.client(), "serving-tests");
    let written =
        api.create(&PostParams::default(), &serde_json::from_value(value).expect("a KIngress")).await.expect("created");
    let client = crate::dataplane::client();
    let get = |path: &str| client.get(format!("http://{address}{path}")).header("Host", HOST);
    // Whether the routes are live is asked without waking anything.
    eventually("the routes", async || {
        let probe = get("/healthz").header("K-Network-Probe", "probe").header("K-Network-Hash", "override");
        let answer = probe.send().await.expect("an answer");
        let hash = answer.headers().get("k-network-hash").and_then(|hash| hash.to_str().ok().map(str::to_owned));
        (answer.status() == 200 && hash == Some(version(&written))).then_some(())
    })
    .await;
    assert_eq!([backends.waiting(&key("one")), backends.waiting(&key("two"))], [0, 0]);
    let other = client.get(format!("http://{address}/")).header("Host", "other.example.com");
    assert_eq!(other.send().await.expect("an answer").status(), 404);

    // Requests for revisions without a pod wait, whatever revision a client names.
    let sent: Vec<_> = (0..40)
        .map(|_| {
            let request = get("/").header("Knative-Serving-Revision", "two").header("Connection", "Which-Backend");
            tokio::spawn(async move { request.send().await.expect("an answer").text().await.expect("a body") })
        })
        .collect();
    eventually("forty requests to wait", async || {
        (backends.waiting(&key("one")) + backends.waiting(&key("two")) == 40).then_some(())
    })
    .await;
    assert!(backends.waiting(&key("one")) > 0 && backends.waiting(&key("two")) > 0);
    eventually("the autoscaler to be told", async || (ear.0.load(Ordering::Relaxed) > 0).then_some(())).await;
    let app = App::mirror().await;
    let mut pods = Vec::new();
    for name in ["one", "two"] {
        let pod = Pod::start(app.addr, |config| name.clone_into(&mut config.revision)).await;
        backends.set_pods(&key(name), &[(pod.http1(), true)]);
        pods.push(pod);
    }
    let mut seen: BTreeMap<String, u32> = BTreeMap::new();
    for answer in sent {
        let answer = answer.await.expect("no request fails");
        let line = |name: &str| answer.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
        assert_eq!(line("host: ").as_deref(), Some(HOST), "{answer}");
        *seen.entry(line("which-backend: ").expect("the split's own header")).or_default() += 1;
    }
    assert_eq!(seen.keys().collect::<Vec<_>>(), ["one", "two"]);
    cancel.cancel();
    drop(running);
}

#[tokio::test]
async fn what_no_rule_can_split_is_led_to_gateways_that_know_it() {
    let served = cluster().await;
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "config-network", "namespace": "knative-serving"},
        "data": {"ingress-class": CLASS, "vswitch-ids": "vsw-a,vsw-b"}});
    create(&served, &map).await;
    create(&served, &definition("Cluster")).await;
    let mut config = activator::Config::new("activator-1", LOCALHOST);
    (config.http1_port, config.h2c_port, config.gateway) = (0, 0, Some((0, CLASS.to_owned())));
    let bound = Activator::bind(config, Arc::new(Ear::default()), Clock::system()).await.expect("free ports");
    let names: Vec<String> = (0..6).map(|number| format!("s{number}")).collect();
    for name in &names {
        bound.backends().set_revision(&RevisionKey::new("serving-tests", name), Revision::default());
    }
    let (gateway, services, address) = bound.gateway().expect("an address").expect("a gateway");
    let cancel = CancellationToken::new();
    tokio::spawn(bound.run(cancel.clone()));
    let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "ebb-gateway-1", "namespace": "knative-serving",
            "labels": {"kubernetes.io/service-name": "ebb-gateway"}},
        "addressType": "IPv4", "ports": [{"name": "http", "port": address.port()}],
        "endpoints": [{"addresses": ["127.0.0.1"], "targetRef": {"kind": "Pod", "name": "activator-1"}}]});
    create(&served, &slice).await;
    let hash = Arc::new(Mutex::new(None));
    let vips = Arc::new(Fixed(balancer(Arc::clone(&hash)).await));
    tokio::spawn(Controller::new(setup(&served, vips), &cancel).run(cancel.clone()));

    let splits: Vec<Value> = names
        .iter()
        .map(|name| {
            let mut split = to(name, 16);
            split["appendHeaders"]["Knative-Serving-Revision"] = name.as_str().into();
            split["appendHeaders"]["Knative-Serving-Namespace"] = "serving-tests".into();
            split
        })
        .collect();
    let mut value = public(&[json!({"splits": splits})]);
    value["metadata"]["annotations"] = json!({"networking.knative.dev/ingress.class": CLASS});
    create(&served, &value).await;
    let kingresses: Api<Ingress> = Api::namespaced(served.client(), "serving-tests");
    let condition = async || {
        let status = kingresses.get("test").await.expect("a KIngress").status.unwrap_or_default();
        let found = status.conditions.into_iter().find(|condition| condition.type_ == "NetworkConfigured");
        found.map(|condition| format!("{:?} {}", condition.status, condition.reason))
    };
    // The gateway does not know it yet, so nothing is published.
    eventually("to wait for the Service", async || {
        let seen = condition().await;
        if seen.as_deref() == Some("Unknown WaitingForServices") { Ok(()) } else { Err(format!("{seen:?}")) }
    })
    .await;
    let all: Api<Service> = Api::namespaced(served.client(), "serving-tests");
    assert!(all.get_opt("test-alb-split-1").await.expect("an answer").is_none());
    tokio::spawn(feed::routes(served.client(), gateway, services, cancel.clone()));
    eventually("to be published", async || {
        let seen = condition().await;
        if seen.as_deref() == Some("True ") { Ok(()) } else { Err(format!("{seen:?}")) }
    })
    .await;
    let service = all.get("test-alb-split-1").await.expect("the Service");
    assert_eq!(service.metadata.owner_references.expect("an owner")[0].name, "test");
    let endpoints: Api<Endpoints> = Api::namespaced(served.client(), "serving-tests");
    let subsets = endpoints.get("test-alb-split-1").await.expect("its Endpoints").subsets.expect("subsets");
    let found = (
        subsets[0].addresses.as_ref().expect("addresses")[0].ip.clone(),
        subsets[0].ports.as_ref().expect("ports")[0].port,
    );
    assert_eq!(found, ("127.0.0.1".to_owned(), i32::from(address.port())));
    let ingress = Api::<k8s_openapi::api::networking::v1::Ingress>::namespaced(served.client(), "serving-tests");
    let written = ingress.get("test").await.expect("published");
    let rules = rules_of(&written);
    assert_eq!(rules.len(), 1);
    let text = format!("{:?}", rules[0].actions);
    assert!(text.contains("test-alb-split-1") && !text.contains("\"s0"), "{text}");
    let events: Api<Event> = Api::namespaced(served.client(), "serving-tests");
    eventually("the event", async || {
        let told = events.list(&ListParams::default()).await.expect("events").items;
        told.iter()
            .any(|event| event.reason.as_deref() == Some("SplitDelegated") && event.type_.as_deref() == Some("Normal"))
            .then_some(())
    })
    .await;

    // Then a rule can: the Service stays until the load balancer was seen to follow.
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s0", "namespace": "serving-tests"},
        "spec": {"ports": [{"port": 80}]}});
    create(&served, &service).await;
    value["spec"] = public(&[json!({"splits": [to("s0", 100)]})])["spec"].clone();
    create(&served, &value).await;
    let named = json!({"status": {"loadBalancer": {"ingress": [{"hostname": "alb-1.example.com"}]}}});
    ingress.patch_status("test", &PatchParams::default(), &Patch::Merge(&named)).await.expect("patched");
    let wanted = eventually("the rule without it", async || {
        let written = ingress.get("test").await.map_err(|error| error.to_string())?;
        let rules = rules_of(&written);
        let text = format!("{rules:?}");
        let hash = rules[0].actions.iter().find_map(|action| match action {
            Action::InsertHeader { config } if config.key == "K-Network-Hash" => Some(config.value.clone()),
            _ => None,
        });
        hash.filter(|_| !text.contains("alb-split")).ok_or(text)
    })
    .await;
    assert!(all.get_opt("test-alb-split-1").await.expect("an answer").is_some());
    *hash.lock().expect("a lock") = Some(wanted);
    eventually("the Service to go, and where it led", async || {
        let service = all.get_opt("test-alb-split-1").await.map_err(|error| error.to_string())?;
        let endpoints = endpoints.get_opt("test-alb-split-1").await.map_err(|error| error.to_string())?;
        if service.is_none() && endpoints.is_none() { Ok(()) } else { Err(format!("{service:?} {endpoints:?}")) }
    })
    .await;
    assert!(all.get_opt("s0").await.expect("an answer").is_some(), "others are left alone");
    cancel.cancel();
}
