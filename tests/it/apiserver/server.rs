//! What is this API server's own: faults to order, admission, bounds, and how it starts and stops.

use super::Served;
use super::conformance::{deployment, eventually, json_of, object};
use ebb::clock::Clock;
use ebb::local::apiserver::{
    Cause, Effect, Fault, Limits, Operation, Review, Store, Verb, invalid, kubeconfig, router,
};
use futures::{StreamExt as _, TryStreamExt as _};
use http_body_util::BodyExt as _;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::api::{
    Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams,
};
use kube::config::KubeConfigOptions;
use serde_json::{Value, json};
use std::time::Duration;
use tower::ServiceExt as _;

fn map(name: &str, data: &Value) -> ConfigMap {
    object(json!({"metadata": {"name": name}, "data": data}))
}

fn code<T: std::fmt::Debug>(answer: Result<T, kube::Error>) -> u16 {
    match answer {
        Err(kube::Error::Api(status)) => status.code,
        other => panic!("expected a refusal, got {other:?}"),
    }
}

#[tokio::test]
async fn faults_come_when_they_are_asked_for() {
    let served = Served::start().await;
    let maps: Api<ConfigMap> = Api::namespaced(served.client(), "default");
    let faults = served.store.faults();
    faults.add(Fault::once(Effect::fail(500)).on(Verb::Create).of("configmaps").times(2));
    faults.add(Fault::once(Effect::fail(409)).on(Verb::Patch).named("b"));
    for _ in 0..2 {
        assert_eq!(code(maps.create(&PostParams::default(), &map("a", &json!({}))).await), 500);
    }
    for name in ["a", "b"] {
        maps.create(&PostParams::default(), &map(name, &json!({}))).await.expect("created");
    }
    let change = Patch::Merge(json!({"data": {"x": "1"}}));
    maps.patch("a", &PatchParams::default(), &change).await.expect("patched");
    assert_eq!(code(maps.patch("b", &PatchParams::default(), &change).await), 409);
    maps.patch("b", &PatchParams::default(), &change).await.expect("patched");
    assert_eq!(faults.count(Verb::Create, "configmaps"), 4);
    assert_eq!(faults.count(Verb::Patch, "configmaps"), 3);
    assert_eq!(faults.writes(), 7);

    // The write happens, and nobody hears of it.
    faults.add(Fault::once(Effect::LoseAnswer).on(Verb::Create));
    let lost = maps.create(&PostParams::default(), &map("c", &json!({}))).await;
    assert!(matches!(lost, Err(error) if !matches!(error, kube::Error::Api(_))));
    maps.get("c").await.expect("made all the same");

    faults.add(Fault::once(Effect::Delay(Duration::from_millis(50))).times(u32::MAX));
    maps.get("c").await.expect("later");
    faults.clear();
    maps.get("c").await.expect("there");
}

#[tokio::test]
async fn watches_can_be_dropped() {
    let served = Served::start().await;
    let maps: Api<ConfigMap> = Api::namespaced(served.client(), "default");
    let spaces: Api<Namespace> = Api::all(served.client());
    maps.create(&PostParams::default(), &map("a", &json!({}))).await.expect("created");
    let mut dropped = maps.watch(&WatchParams::default(), "0").await.expect("a watch").boxed();
    let mut kept = spaces.watch(&WatchParams::default(), "0").await.expect("a watch").boxed();
    assert!(matches!(dropped.try_next().await, Ok(Some(WatchEvent::Added(_)))));
    for _ in 0..3 {
        assert!(matches!(kept.try_next().await, Ok(Some(WatchEvent::Added(_)))));
    }
    served.store.faults().drop_watches(Some("configmaps"));
    assert!(matches!(dropped.try_next().await, Ok(None)));
    let space = object(json!({"metadata": {"name": "more"}}));
    spaces.create(&PostParams::default(), &space).await.expect("created");
    assert!(matches!(kept.try_next().await, Ok(Some(WatchEvent::Added(_)))));
}

#[tokio::test]
async fn admission_changes_and_refuses() {
    let served = Served::start().await;
    let judge = |review: &Review<'_>, mut object: Value| {
        if review.resource.kind != "ConfigMap" {
            return Ok(object);
        }
        if object["data"]["bad"] == "yes" && review.operation != Operation::Delete {
            let cause = Cause::invalid("data.bad", &object["data"]["bad"], "must not be yes");
            return Err(invalid("", "ConfigMap", review.name, &[cause]));
        }
        if review.operation == Operation::Delete && object["data"]["keep"] == "yes" {
            return Err(invalid("", "ConfigMap", review.name, &[Cause::forbidden("data.keep", "it stays")]));
        }
        let was = review.old.map_or(Value::Null, |old| old["data"]["n"].clone());
        object["metadata"]["annotations"]["test/was"] = was.as_str().unwrap_or("new").into();
        Ok(object)
    };
    assert!(served.store.set_admission(judge));
    assert!(!served.store.set_admission(judge), "once");
    let maps: Api<ConfigMap> = Api::namespaced(served.client(), "default");
    let made = maps.create(&PostParams::default(), &map("a", &json!({"n": "1"}))).await.expect("created");
    assert_eq!(json_of(&made)["metadata"]["annotations"]["test/was"], "new");
    let change = |data: Value| Patch::Merge(json!({"data": data}));
    let made = maps.patch("a", &PatchParams::default(), &change(json!({"n": "2"}))).await.expect("patched");
    assert_eq!(json_of(&made)["metadata"]["annotations"]["test/was"], "1");
    assert_eq!(code(maps.patch("a", &PatchParams::default(), &change(json!({"bad": "yes"}))).await), 422);
    assert_eq!(code(maps.create(&PostParams::default(), &map("b", &json!({"bad": "yes"}))).await), 422);
    maps.patch("a", &PatchParams::default(), &change(json!({"keep": "yes"}))).await.expect("patched");
    assert_eq!(code(maps.delete("a", &DeleteParams::default()).await), 422);
}

#[tokio::test]
async fn a_version_out_of_history_has_expired() {
    let limits = Limits { history_events: 10, ..Limits::default() };
    let served = Served::with(Store::with_limits(Clock::system(), limits)).await;
    let maps: Api<ConfigMap> = Api::namespaced(served.client(), "default");
    let first = maps.create(&PostParams::default(), &map("a", &json!({}))).await.expect("created");
    let from = first.metadata.resource_version.expect("a version");
    let mut watch = maps.watch(&WatchParams::default(), &from).await.expect("a watch").boxed();
    for n in 0..50 {
        let change = Patch::Merge(json!({"data": {"n": n.to_string()}}));
        maps.patch("a", &PatchParams::default(), &change).await.expect("patched");
        assert!(matches!(watch.try_next().await, Ok(Some(WatchEvent::Modified(_)))), "one that keeps up sees all");
    }
    let error = maps.watch(&WatchParams::default(), &from).await.err().expect("too old");
    assert!(matches!(error, kube::Error::Api(status) if status.code == 410 && status.reason == "Expired"));
    // Other resources' histories are their own.
    let spaces: Api<Namespace> = Api::all(served.client());
    drop(spaces.watch(&WatchParams::default(), &from).await.expect("a watch"));
    maps.watch(&WatchParams::default(), "999999999").await.err().expect("a version nobody has seen");
}

#[tokio::test]
async fn a_slow_watcher_is_told_to_list_again() {
    let limits = Limits { history_bytes: 64 << 10, ..Limits::default() };
    let served = Served::with(Store::with_limits(Clock::system(), limits)).await;
    let maps: Api<ConfigMap> = Api::namespaced(served.client(), "default");
    maps.create(&PostParams::default(), &map("a", &json!({}))).await.expect("created");
    let mut watch = maps.watch(&WatchParams::default(), "0").await.expect("a watch").boxed();
    assert!(matches!(watch.try_next().await, Ok(Some(WatchEvent::Added(_)))));
    // Far more than the sockets between can hold, while nobody reads.
    let text = "x".repeat(200 << 10);
    for n in 0..100 {
        let change = Patch::Merge(json!({"data": {"text": text, "n": n.to_string()}}));
        maps.patch("a", &PatchParams::default(), &change).await.expect("patched");
    }
    let mut seen = 0;
    let error = loop {
        match watch.try_next().await.expect("a watch") {
            Some(WatchEvent::Modified(_)) => seen += 1,
            Some(WatchEvent::Error(status)) => break status,
            other => panic!("unexpected after {seen}: {other:?}"),
        }
    };
    assert_eq!(error.code, 410);
    assert!(seen < 100);
    assert!(watch.try_next().await.expect("a watch").is_none(), "it ends");
}

#[tokio::test]
async fn a_full_store_says_so() {
    let limits = Limits { object_bytes: 20_000, ..Limits::default() };
    let served = Served::with(Store::with_limits(Clock::system(), limits)).await;
    let maps: Api<ConfigMap> = Api::namespaced(served.client(), "default");
    let text = "x".repeat(1000);
    let mut made = 0;
    let refused = loop {
        match maps.create(&PostParams::default(), &map(&format!("m{made}"), &json!({"x": text}))).await {
            Ok(_) => made += 1,
            Err(kube::Error::Api(status)) => break status,
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!((refused.code, refused.reason.as_str()), (507, "InsufficientStorage"));
    assert!(5 < made && made < 20, "{made}");
    maps.delete("m0", &DeleteParams::default()).await.expect("room");
    maps.delete("m1", &DeleteParams::default()).await.expect("room");
    maps.create(&PostParams::default(), &map("again", &json!({}))).await.expect("created");
}

#[tokio::test]
async fn a_definition_makes_a_resource() {
    let served = Served::start().await;
    let client = served.client();
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "things.example.test"},
        "spec": {
            "group": "example.test",
            "scope": "Namespaced",
            "names": {"kind": "Thing", "plural": "things", "singular": "thing", "shortNames": ["th"]},
            "versions": [{
                "name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}},
                "additionalPrinterColumns": [{"name": "Size", "type": "integer", "jsonPath": ".spec.size"}],
            }],
        },
    });
    let definitions: Api<k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition> =
        Api::all(client.clone());
    definitions.create(&PostParams::default(), &object(definition)).await.expect("created");
    eventually("it is established", || async {
        let conditions =
            json_of(&definitions.get("things.example.test").await.expect("there"))["status"]["conditions"].clone();
        let established = conditions.as_array()?.iter().any(|condition| condition["type"] == "Established");
        established.then_some(())
    })
    .await;
    let kind = kube::core::GroupVersionKind::gvk("example.test", "v1", "Thing");
    let (resource, _) = kube::discovery::pinned_kind(&client, &kind).await.expect("discovered");
    let things: Api<DynamicObject> = Api::namespaced_with(client.clone(), "default", &resource);
    let thing = object(
        json!({"apiVersion": "example.test/v1", "kind": "Thing", "metadata": {"name": "a"}, "spec": {"size": 3}}),
    );
    things.create(&PostParams::default(), &thing).await.expect("created");
    assert_eq!(things.list(&ListParams::default()).await.expect("a list").items.len(), 1);
    definitions.delete("things.example.test", &DeleteParams::default()).await.expect("deleted");
    eventually("it is gone", || async { things.list(&ListParams::default()).await.is_err().then_some(()) }).await;
}

#[tokio::test]
async fn web_pages_are_not_served() {
    let served = Served::start().await;
    let client = reqwest::Client::new();
    let url = format!("http://{}/api/v1/namespaces", served.addr);
    let send = |name: &'static str, value: &'static str| {
        let request = client.get(&url).header(name, value);
        async move { request.send().await.expect("an answer").status().as_u16() }
    };
    assert_eq!(send("accept", "*/*").await, 200);
    assert_eq!(send("host", "localhost:1").await, 200);
    assert_eq!(send("host", "[::1]:1").await, 200);
    assert_eq!(send("origin", "http://example.test").await, 403);
    assert_eq!(send("origin", "null").await, 403);
    assert_eq!(send("host", "example.test").await, 403);
}

#[tokio::test]
async fn unknown_fields_are_warned_of() {
    let served = Served::start().await;
    let url = format!("http://{}/api/v1/namespaces/default/configmaps", served.addr);
    let post = |body: &'static str| {
        let request = reqwest::Client::new().post(&url).header("content-type", "application/json").body(body);
        async move { request.send().await.expect("an answer") }
    };
    let answer = post(r#"{"metadata":{"name":"a"},"dta":{}}"#).await;
    assert_eq!(answer.status(), 201);
    assert_eq!(answer.headers()["warning"], r#"299 - "unknown field \"dta\"""#);
    let answer = post(r#"{"metadata":{"name":"b"},"data":{}}"#).await;
    assert!(answer.headers().get("warning").is_none());
}

#[tokio::test]
async fn http_2_in_the_clear() {
    let served = Served::start().await;
    let client = reqwest::Client::builder().http2_prior_knowledge().build().expect("a client");
    let answer = client.get(format!("http://{}/version", served.addr)).send().await.expect("an answer");
    assert_eq!(answer.version(), http::Version::HTTP_2);
    let version: Value = answer.json().await.expect("JSON");
    assert_eq!(version["major"], "1");
    let maps: Api<ConfigMap> = Api::namespaced(served.client(), "default");
    let watch = format!("http://{}/api/v1/namespaces/default/configmaps?watch=true", served.addr);
    let mut watch = client.get(watch).send().await.expect("a watch").bytes_stream();
    maps.create(&PostParams::default(), &map("a", &json!({}))).await.expect("created");
    let line = watch.next().await.expect("an event").expect("bytes");
    assert!(line.starts_with(br#"{"type":"ADDED","object":{"#) && line.ends_with(b"}\n"));
}

#[tokio::test]
async fn the_router_answers_without_a_socket() {
    let app = router(Store::new(Clock::system()));
    let request = http::Request::get("/api/v1/namespaces").body(axum::body::Body::empty()).expect("a request");
    let answer = app.oneshot(request).await.expect("an answer");
    let body = answer.into_body().collect().await.expect("a body").to_bytes();
    let list: Value = serde_json::from_slice(&body).expect("JSON");
    let names: Vec<&str> =
        list["items"].as_array().expect("items").iter().filter_map(|item| item["metadata"]["name"].as_str()).collect();
    assert_eq!(names, ["default", "knative-serving", "kube-system"]);
}

#[tokio::test]
async fn stopping_ends_watches() {
    let served = Served::start().await;
    let maps: Api<ConfigMap> = Api::namespaced(served.client(), "default");
    let mut watch = maps.watch(&WatchParams::default(), "0").await.expect("a watch").boxed();
    drop(served);
    let end = tokio::time::timeout(Duration::from_secs(20), watch.try_next()).await.expect("it ends");
    assert!(matches!(end, Ok(None) | Err(_)));
}

#[tokio::test]
async fn the_kubeconfig_leads_here() {
    let served = Served::start().await;
    let config = kube::config::Kubeconfig::from_yaml(&kubeconfig(served.addr)).expect("a kubeconfig");
    let config =
        kube::Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await.expect("a configuration");
    assert_eq!(config.default_namespace, "default");
    let client = kube::Client::try_from(config).expect("a client");
    client.apiserver_version().await.expect("an answer");
}

#[tokio::test]
async fn many_writers_lose_nothing() {
    let served = Served::start().await;
    let deployments: Api<Deployment> = Api::namespaced(served.client(), "default");
    deployments.create(&PostParams::default(), &object(deployment("web"))).await.expect("created");
    let writers = (0..10).map(|writer| {
        let deployments = deployments.clone();
        async move {
            for n in 0..20 {
                let change = json!({"metadata": {"annotations": {format!("test/w{writer}"): n.to_string()}}});
                deployments.patch("web", &PatchParams::default(), &Patch::Merge(change)).await.expect("patched");
            }
        }
    });
    futures::future::join_all(writers).await;
    let web = deployments.get("web").await.expect("there");
    let annotations = web.metadata.annotations.expect("annotations");
    assert_eq!(annotations.len(), 10);
    assert!(annotations.values().all(|value| value == "19"));
    assert_eq!(web.metadata.generation, Some(201), "each counted once");
}
