//! Lists, watches, tables, discovery.

use super::{assert_refused, config_map, deployment, eventually, json_of, object, pod, refused};
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::Client;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, VersionMatch, WatchEvent, WatchParams};
use kube::discovery::{Discovery, Scope};
use serde_json::{Value, json};
use std::time::Duration;

/// Longer than any event takes that comes at all.
const PATIENCE: Duration = Duration::from_secs(20);

async fn make(maps: &Api<ConfigMap>, name: &str, labels: Value) -> ConfigMap {
    let map = object(json!({"metadata": {"name": name, "labels": labels}}));
    maps.create(&PostParams::default(), &map).await.expect("created")
}

async fn label(maps: &Api<ConfigMap>, name: &str, labels: Value) -> ConfigMap {
    let change = Patch::Merge(json!({"metadata": {"labels": labels}}));
    maps.patch(name, &PatchParams::default(), &change).await.expect("patched")
}

fn names<K: kube::ResourceExt>(list: &[K]) -> Vec<String> {
    list.iter().map(kube::ResourceExt::name_any).collect()
}

fn version(map: &ConfigMap) -> String {
    map.metadata.resource_version.clone().expect("a version")
}

/// Waits until the cache from which the server begins a watch at version 0 is at least this new: 0 asks for any state, and
/// a server whose cache lags behind its store begins with an older one.
async fn cached(maps: &Api<ConfigMap>, version: &str) {
    let list = ListParams::default().at(version).matching(VersionMatch::NotOlderThan);
    maps.list(&list).await.expect("a list that is not older");
}

/// What an event is and about whom, such as `ADDED a`.
fn word(event: &WatchEvent<ConfigMap>) -> String {
    let name = |map: &ConfigMap| map.metadata.name.clone().unwrap_or_default();
    match event {
        WatchEvent::Added(map) => format!("ADDED {}", name(map)),
        WatchEvent::Modified(map) => format!("MODIFIED {}", name(map)),
        WatchEvent::Deleted(map) => format!("DELETED {}", name(map)),
        WatchEvent::Bookmark(bookmark) if bookmark.metadata.annotations.contains_key("k8s.io/initial-events-end") => {
            "END".to_owned()
        }
        WatchEvent::Bookmark(_) => "BOOKMARK".to_owned(),
        WatchEvent::Error(status) => format!("ERROR {}", status.code),
    }
}

/// The next events of a watch; bookmarks in between are left out, as a server may send them at any time.
async fn next<S>(watch: &mut S, count: usize) -> Vec<String>
where
    S: futures::Stream<Item = kube::Result<WatchEvent<ConfigMap>>> + Unpin,
{
    let mut words = Vec::new();
    while words.len() < count {
        let event = tokio::time::timeout(PATIENCE, watch.try_next()).await;
        let event = event.unwrap_or_else(|_| panic!("no event after {words:?}")).expect("a watch").expect("open");
        let word = word(&event);
        if word != "BOOKMARK" {
            words.push(word);
        }
    }
    words
}

pub(crate) async fn lists_by_label(client: Client, namespace: String) {
    let maps: Api<ConfigMap> = Api::namespaced(client, &namespace);
    make(&maps, "a", json!({"app": "web", "tier": "front"})).await;
    make(&maps, "b", json!({"app": "web"})).await;
    make(&maps, "c", json!({"app": "db", "n": "5"})).await;
    make(&maps, "d", json!({"other": "x"})).await;
    for (selector, expected) in [
        ("app=web", vec!["a", "b"]),
        ("app==db", vec!["c"]),
        ("app!=web,app", vec!["c"]),
        ("app,!tier", vec!["b", "c"]),
        ("app in (web, db),tier notin (front)", vec!["b", "c"]),
        ("app in (db)", vec!["c"]),
        ("n>4", vec!["c"]),
        ("n<4", vec![]),
        ("app=web,tier=front", vec!["a"]),
    ] {
        let list = maps.list(&ListParams::default().labels(selector)).await.expect(selector);
        assert_eq!(names(&list.items), expected, "{selector}");
    }
    for selector in ["app in web", "app=(", "=x", "a b c"] {
        let answer = maps.list(&ListParams::default().labels(selector)).await;
        assert_refused(answer, 400, "BadRequest");
    }
}

pub(crate) async fn lists_by_field(client: Client, namespace: String) {
    let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    for (name, node) in [("p1", "n1"), ("p2", "n2")] {
        let mut body = pod(name);
        body["spec"]["nodeName"] = node.into();
        pods.create(&PostParams::default(), &object(body)).await.expect("created");
    }
    let running = Patch::Merge(json!({"status": {"phase": "Running"}}));
    pods.patch_status("p2", &PatchParams::default(), &running).await.expect("patched");
    let everywhere: Api<Pod> = Api::all(client.clone());
    let own = format!("metadata.namespace={namespace},status.phase=Pending");
    for (selector, expected) in [
        ("metadata.name=p1", vec!["p1"]),
        ("metadata.name!=p1", vec!["p2"]),
        ("spec.nodeName=n2", vec!["p2"]),
        ("status.phase=Running", vec!["p2"]),
        ("status.phase!=Running,spec.nodeName=n1", vec!["p1"]),
    ] {
        let list = pods.list(&ListParams::default().fields(selector)).await.expect(selector);
        assert_eq!(names(&list.items), expected, "{selector}");
    }
    assert_eq!(names(&everywhere.list(&ListParams::default().fields(&own)).await.expect("a list").items), ["p1"]);
    assert_refused(pods.list(&ListParams::default().fields("spec.none=1")).await, 400, "BadRequest");
    for name in ["p1", "p2"] {
        pods.delete(name, &DeleteParams::default().grace_period(0)).await.expect("deleted");
    }
}

pub(crate) async fn lists_carry_a_version_to_watch_from(client: Client, namespace: String) {
    let maps: Api<ConfigMap> = Api::namespaced(client, &namespace);
    make(&maps, "a", json!({})).await;
    let list = maps.list(&ListParams::default()).await.expect("a list");
    let from = list.metadata.resource_version.expect("a version");
    make(&maps, "b", json!({})).await;
    let mut watch = maps.watch(&WatchParams::default(), &from).await.expect("a watch").boxed();
    assert_eq!(next(&mut watch, 1).await, ["ADDED b"]);
}

pub(crate) async fn list_versions(client: Client, namespace: String) {
    let maps: Api<ConfigMap> = Api::namespaced(client, &namespace);
    let made = make(&maps, "a", json!({})).await;
    let at = ListParams::default().at(&version(&made));
    assert_eq!(maps.list(&at.clone().matching(VersionMatch::NotOlderThan)).await.expect("a list").items.len(), 1);
    assert_eq!(maps.list(&ListParams::default().match_any()).await.expect("a list").items.len(), 1);
    let future = ListParams::default().at("999999999999").matching(VersionMatch::NotOlderThan);
    let status = assert_refused(maps.list(&future).await, 504, "Timeout");
    assert!(status.message.contains("Too large resource version"), "{}", status.message);
    refused(maps.list(&ListParams::default().at("abc")).await);
}

pub(crate) async fn watch_begins_with_what_is_there(client: Client, namespace: String) {
    let maps: Api<ConfigMap> = Api::namespaced(client, &namespace);
    make(&maps, "a", json!({})).await;
    make(&maps, "b", json!({})).await;
    let labelled = label(&maps, "a", json!({"x": "1"})).await;
    cached(&maps, &version(&labelled)).await;
    let mut watch = maps.watch(&WatchParams::default(), "0").await.expect("a watch").boxed();
    let mut there = next(&mut watch, 2).await;
    there.sort();
    assert_eq!(there, ["ADDED a", "ADDED b"]);
    label(&maps, "a", json!({"x": "2"})).await;
    maps.delete("b", &DeleteParams::default()).await.expect("deleted");
    assert_eq!(next(&mut watch, 2).await, ["MODIFIED a", "DELETED b"]);
}

pub(crate) async fn watch_continues_from_a_version(client: Client, namespace: String) {
    let maps: Api<ConfigMap> = Api::namespaced(client, &namespace);
    let first = make(&maps, "a", json!({})).await;
    label(&maps, "a", json!({"x": "1"})).await;
    make(&maps, "b", json!({})).await;
    maps.delete("a", &DeleteParams::default()).await.expect("deleted");
    let mut watch = maps.watch(&WatchParams::default(), &version(&first)).await.expect("a watch").boxed();
    let mut last = 0;
    for expected in ["MODIFIED a", "ADDED b", "DELETED a"] {
        let event = watch.try_next().await.expect("a watch").expect("open");
        assert_eq!(word(&event), expected);
        if let WatchEvent::Added(map) | WatchEvent::Modified(map) | WatchEvent::Deleted(map) = event {
            let version = version(&map).parse::<u64>().expect("a number");
            assert!(last < version, "versions grow: {last} {version}");
            last = version;
        }
    }
}

pub(crate) async fn watch_streams_the_list_first(client: Client, namespace: String) {
    let maps: Api<ConfigMap> = Api::namespaced(client, &namespace);
    make(&maps, "a", json!({})).await;
    let last = make(&maps, "b", json!({})).await;
    let params = WatchParams::default().initial_events();
    let mut watch = maps.watch(&params, &version(&last)).await.expect("a watch").boxed();
    let mut there = next(&mut watch, 3).await;
    assert_eq!(there.pop().as_deref(), Some("END"));
    there.sort();
    assert_eq!(there, ["ADDED a", "ADDED b"]);
    make(&maps, "c", json!({})).await;
    assert_eq!(next(&mut watch, 1).await, ["ADDED c"]);
}

pub(crate) async fn watch_sees_objects_enter_and_leave_a_selection(client: Client, namespace: String) {
    let maps: Api<ConfigMap> = Api::namespaced(client, &namespace);
    make(&maps, "a", json!({"app": "no"})).await;
    let params = WatchParams::default().labels("app=yes");
    let mut watch = maps.watch(&params, "0").await.expect("a watch").boxed();
    label(&maps, "a", json!({"app": "yes"})).await;
    label(&maps, "a", json!({"more": "1"})).await;
    label(&maps, "a", json!({"app": "no"})).await;
    label(&maps, "a", json!({"more": "2"})).await;
    label(&maps, "a", json!({"app": "yes"})).await;
    maps.delete("a", &DeleteParams::default()).await.expect("deleted");
    assert_eq!(next(&mut watch, 5).await, ["ADDED a", "MODIFIED a", "DELETED a", "ADDED a", "DELETED a"]);
}

pub(crate) async fn watch_of_one_object(client: Client, namespace: String) {
    let maps: Api<ConfigMap> = Api::namespaced(client, &namespace);
    make(&maps, "a", json!({})).await;
    let params = WatchParams::default().fields("metadata.name=b");
    let mut watch = maps.watch(&params, "0").await.expect("a watch").boxed();
    label(&maps, "a", json!({"x": "1"})).await;
    make(&maps, "b", json!({})).await;
    label(&maps, "a", json!({"x": "2"})).await;
    label(&maps, "b", json!({"x": "1"})).await;
    assert_eq!(next(&mut watch, 2).await, ["ADDED b", "MODIFIED b"]);
}

pub(crate) async fn watch_ends_in_time(client: Client, namespace: String) {
    let maps: Api<ConfigMap> = Api::namespaced(client, &namespace);
    let watch = maps.watch(&WatchParams::default().timeout(1), "0").await.expect("a watch").boxed();
    let rest = tokio::time::timeout(PATIENCE, watch.try_collect::<Vec<_>>()).await.expect("it ends");
    rest.expect("it ends without an error");
}

pub(crate) async fn metadata_alone(client: Client, namespace: String) {
    let maps: Api<ConfigMap> = Api::namespaced(client, &namespace);
    maps.create(&PostParams::default(), &config_map("a", &json!({"x": "1"}))).await.expect("created");
    let one = maps.get_metadata("a").await.expect("there");
    assert_eq!(one.metadata.name.as_deref(), Some("a"));
    assert_eq!(one.types.expect("a type").kind, "PartialObjectMetadata");
    let list = maps.list_metadata(&ListParams::default()).await.expect("a list");
    assert!(list.items.iter().any(|item| item.metadata.name.as_deref() == Some("a")));
    let mut watch = maps.watch_metadata(&WatchParams::default(), "0").await.expect("a watch").boxed();
    let event = watch.try_next().await.expect("a watch").expect("open");
    assert!(
        matches!(event, WatchEvent::Added(found) if found.metadata.namespace.as_deref() == Some(namespace.as_str()))
    );
}

pub(crate) async fn tables(client: Client, namespace: String) {
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), &namespace);
    deployments.create(&PostParams::default(), &object(deployment("web"))).await.expect("created");
    let table = |path: String| {
        let request = http::Request::get(path)
            .header("accept", "application/json;as=Table;v=v1;g=meta.k8s.io,application/json")
            .body(Vec::new())
            .expect("a request");
        let client = client.clone();
        async move { client.request::<Value>(request).await.expect("a table") }
    };
    for path in ["", "/web"] {
        let table = table(format!("/apis/apps/v1/namespaces/{namespace}/deployments{path}")).await;
        assert_eq!(table["kind"], "Table");
        let columns: Vec<&str> = table["columnDefinitions"]
            .as_array()
            .expect("columns")
            .iter()
            .filter(|column| column["priority"] == 0)
            .map(|column| column["name"].as_str().expect("a name"))
            .collect();
        assert_eq!(columns, ["Name", "Ready", "Up-to-date", "Available", "Age"]);
        let row = &table["rows"][0];
        assert_eq!(row["cells"][0], "web");
        assert_eq!(row["cells"][1], "0/1");
        assert_eq!(row["object"]["kind"], "PartialObjectMetadata");
    }
}

pub(crate) async fn discovery(client: Client, _: String) {
    assert_discovered(&Discovery::new(client.clone()).run().await.expect("discovery"));
    kube::discovery::group(&client, "apps").await.expect("one group");
    assert!(kube::discovery::group(&client, "none.test").await.is_err());
}

pub(crate) async fn discovery_of_all_at_once(client: Client, _: String) {
    assert_discovered(&Discovery::new(client).run_aggregated().await.expect("aggregated discovery"));
}

fn assert_discovered(discovery: &Discovery) {
    for (group, kind, plural, scope) in [
        ("", "Pod", "pods", Scope::Namespaced),
        ("", "Namespace", "namespaces", Scope::Cluster),
        ("apps", "Deployment", "deployments", Scope::Namespaced),
        ("discovery.k8s.io", "EndpointSlice", "endpointslices", Scope::Namespaced),
        ("coordination.k8s.io", "Lease", "leases", Scope::Namespaced),
    ] {
        let found = discovery.get(group).unwrap_or_else(|| panic!("group {group:?}"));
        let (resource, capabilities) = found.recommended_kind(kind).unwrap_or_else(|| panic!("kind {kind}"));
        assert_eq!(resource.plural, plural);
        assert_eq!(capabilities.scope, scope);
        assert!(capabilities.supports_operation("watch"), "{kind}");
    }
    let (_, capabilities) = discovery.get("apps").expect("apps").recommended_kind("Deployment").expect("there");
    let mut subresources: Vec<&str> =
        capabilities.subresources.iter().map(|(resource, _)| resource.plural.as_str()).collect();
    subresources.sort_unstable();
    assert!(subresources.iter().any(|name| name.ends_with("scale")), "{subresources:?}");
    assert!(subresources.iter().any(|name| name.ends_with("status")), "{subresources:?}");
}

pub(crate) async fn discovery_of_knative(client: Client, _: String) {
    for (version, kind) in [
        ("serving.knative.dev/v1", "Service"),
        ("serving.knative.dev/v1", "Revision"),
        ("autoscaling.internal.knative.dev/v1alpha1", "PodAutoscaler"),
        ("autoscaling.internal.knative.dev/v1alpha1", "Metric"),
        ("networking.internal.knative.dev/v1alpha1", "ServerlessService"),
        ("networking.internal.knative.dev/v1alpha1", "Ingress"),
    ] {
        let (group, version) = version.split_once('/').expect("a group and a version");
        let kind = kube::core::GroupVersionKind::gvk(group, version, kind);
        let (_, capabilities) = kube::discovery::pinned_kind(&client, &kind).await.expect("the kind");
        assert_eq!(capabilities.scope, Scope::Namespaced);
    }
}

pub(crate) async fn health_and_version(client: Client, _: String) {
    for path in ["/healthz", "/livez", "/readyz"] {
        let request = http::Request::get(path).body(Vec::new()).expect("a request");
        assert_eq!(client.request_text(request).await.expect("healthy"), "ok");
    }
    let version = client.apiserver_version().await.expect("a version");
    assert_eq!(version.major, "1");
    assert!(json_of(&version)["gitVersion"].as_str().is_some_and(|text| text.starts_with("v1.")));
    let missing = http::Request::get("/none").body(Vec::new()).expect("a request");
    assert!(client.request_text(missing).await.is_err());
    let ready = || async { client.apiserver_version().await.ok() };
    eventually("the server answers again", ready).await;
}
