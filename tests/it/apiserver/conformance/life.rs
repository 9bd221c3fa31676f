//! How objects come to their end.

use super::{assert_refused, config_map, eventually, make_namespace, object, pod};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions, PropagationPolicy};
use kube::{Client, ResourceExt as _};
use serde_json::json;

async fn make(maps: &Api<ConfigMap>, name: &str) -> ConfigMap {
    maps.create(&PostParams::default(), &config_map(name, &json!({}))).await.expect("created")
}

async fn make_owned(maps: &Api<ConfigMap>, name: &str, owners: &[&ConfigMap]) -> ConfigMap {
    let owners: Vec<_> = owners
        .iter()
        .map(|owner| {
            json!({
                "apiVersion": "v1", "kind": "ConfigMap", "name": owner.name_any(), "uid": owner.uid(),
                "blockOwnerDeletion": true,
            })
        })
        .collect();
    let map = object(json!({"metadata": {"name": name, "ownerReferences": owners}}));
    maps.create(&PostParams::default(), &map).await.expect("created")
}

async fn gone(maps: &Api<ConfigMap>, name: &str) {
    eventually(&format!("{name} is gone"), || async {
        maps.get_opt(name).await.expect("an answer").is_none().then_some(())
    })
    .await;
}

async fn set_finalizers(maps: &Api<ConfigMap>, name: &str, finalizers: &[&str]) -> kube::Result<ConfigMap> {
    let change = Patch::Merge(json!({"metadata": {"finalizers": finalizers}}));
    maps.patch(name, &PatchParams::default(), &change).await
}

pub(crate) async fn delete_checks_preconditions(client: Client, namespace: String) {
    let maps: Api<ConfigMap> = Api::namespaced(client, &namespace);
    let made = make(&maps, "a").await;
    let only = |uid: Option<String>, resource_version: Option<String>| {
        DeleteParams::default().preconditions(Preconditions { uid, resource_version })
    };
    let other = "00000000-0000-4000-8000-000000000000".to_owned();
    assert_refused(maps.delete("a", &only(Some(other), None)).await, 409, "Conflict");
    assert_refused(maps.delete("a", &only(None, Some("1".to_owned()))).await, 409, "Conflict");
    let answer = maps.delete("a", &only(made.uid(), made.resource_version())).await.expect("deleted");
    let status = answer.right().expect("a status");
    assert!(status.is_success());
    assert_eq!(status.details.expect("details").uid, made.uid().expect("a uid"));
    assert_refused(maps.get("a").await, 404, "NotFound");
    let again = make(&maps, "a").await;
    assert_ne!(again.uid(), made.uid(), "another object of the same name");
}

pub(crate) async fn finalizers_keep_an_object(client: Client, namespace: String) {
    let maps: Api<ConfigMap> = Api::namespaced(client, &namespace);
    make(&maps, "a").await;
    set_finalizers(&maps, "a", &["example.test/one", "example.test/two"]).await.expect("patched");
    let answer = maps.delete("a", &DeleteParams::default()).await.expect("marked");
    let marked = answer.left().expect("the object");
    assert!(marked.metadata.deletion_timestamp.is_some());
    let version = marked.resource_version();
    let again = maps.delete("a", &DeleteParams::default()).await.expect("marked").left().expect("the object");
    assert_eq!(again.resource_version(), version, "nothing new");

    let refused = set_finalizers(&maps, "a", &["example.test/one", "example.test/two", "example.test/three"]).await;
    assert_refused(refused, 422, "Invalid");
    set_finalizers(&maps, "a", &["example.test/two"]).await.expect("one less");
    assert!(maps.get("a").await.expect("still there").metadata.deletion_timestamp.is_some());
    set_finalizers(&maps, "a", &[]).await.expect("the last one");
    assert_refused(maps.get("a").await, 404, "NotFound");
}

pub(crate) async fn pods_get_their_grace(client: Client, namespace: String) {
    let pods: Api<Pod> = Api::namespaced(client, &namespace);
    let make = |name: &'static str, node: bool| {
        let pods = pods.clone();
        async move {
            let mut body = pod(name);
            if node {
                body["spec"]["nodeName"] = "node".into();
            }
            pods.create(&PostParams::default(), &object(body)).await.expect("created")
        }
    };
    // No node runs it, so nobody needs the time.
    make("unbound", false).await;
    pods.delete("unbound", &DeleteParams::default()).await.expect("deleted");
    assert_refused(pods.get("unbound").await, 404, "NotFound");

    make("bound", true).await;
    let answer = pods.delete("bound", &DeleteParams::default()).await.expect("marked");
    let marked = answer.left().expect("the pod");
    assert_eq!(marked.metadata.deletion_grace_period_seconds, Some(30));
    let first = marked.metadata.deletion_timestamp.expect("a time");
    let answer = pods.delete("bound", &DeleteParams::default().grace_period(5)).await.expect("marked");
    let marked = answer.left().expect("the pod");
    assert_eq!(marked.metadata.deletion_grace_period_seconds, Some(5));
    assert!(marked.metadata.deletion_timestamp.expect("a time") < first);
    let answer = pods.delete("bound", &DeleteParams::default().grace_period(60)).await.expect("marked");
    assert_eq!(answer.left().expect("the pod").metadata.deletion_grace_period_seconds, Some(5), "never longer");
    pods.delete("bound", &DeleteParams::default().grace_period(0)).await.expect("deleted");
    assert_refused(pods.get("bound").await, 404, "NotFound");

    make("ended", true).await;
    let ended = Patch::Merge(json!({"status": {"phase": "Succeeded"}}));
    pods.patch_status("ended", &PatchParams::default(), &ended).await.expect("patched");
    pods.delete("ended", &DeleteParams::default()).await.expect("deleted");
    assert_refused(pods.get("ended").await, 404, "NotFound");
}

pub(crate) async fn collections_are_deleted(client: Client, namespace: String) {
    let maps: Api<ConfigMap> = Api::namespaced(client, &namespace);
    for (name, app) in [("a", "x"), ("b", "x"), ("c", "y")] {
        let map = object(json!({"metadata": {"name": name, "labels": {"app": app}}}));
        maps.create(&PostParams::default(), &map).await.expect("created");
    }
    let some = ListParams::default().labels("app=x");
    maps.delete_collection(&DeleteParams::default(), &some).await.expect("deleted");
    let left = maps.list(&ListParams::default().labels("app")).await.expect("a list");
    assert_eq!(left.iter().map(kube::ResourceExt::name_any).collect::<Vec<_>>(), ["c"]);
}

pub(crate) async fn orphans_are_collected(client: Client, namespace: String) {
    let maps: Api<ConfigMap> = Api::namespaced(client, &namespace);
    let (one, two) = (make(&maps, "one").await, make(&maps, "two").await);
    let child = make_owned(&maps, "child", &[&one]).await;
    make_owned(&maps, "grandchild", &[&child]).await;
    make_owned(&maps, "shared", &[&one, &two]).await;
    maps.delete("one", &DeleteParams::default()).await.expect("deleted");
    gone(&maps, "child").await;
    gone(&maps, "grandchild").await;
    // The other owner keeps it, and the one that is gone is forgotten.
    let owners = eventually("one owner is forgotten", || async {
        let owners = maps.get("shared").await.expect("kept").owner_references().to_vec();
        (owners.len() == 1).then_some(owners)
    })
    .await;
    assert_eq!(owners[0].name, "two");
    maps.delete("two", &DeleteParams::default()).await.expect("deleted");
    gone(&maps, "shared").await;
    // Born without an owner.
    make_owned(&maps, "late", &[&one]).await;
    gone(&maps, "late").await;
}

pub(crate) async fn foreground_deletion_waits_for_dependents(client: Client, namespace: String) {
    let maps: Api<ConfigMap> = Api::namespaced(client, &namespace);
    let owner = make(&maps, "owner").await;
    make_owned(&maps, "child", &[&owner]).await;
    set_finalizers(&maps, "child", &["example.test/wait"]).await.expect("patched");
    let answer = maps.delete("owner", &DeleteParams::foreground()).await.expect("marked");
    let marked = answer.left().expect("the object");
    assert!(marked.finalizers().contains(&"foregroundDeletion".to_owned()));
    eventually("the child is marked", || async {
        maps.get("child").await.expect("there").metadata.deletion_timestamp.map(|_| ())
    })
    .await;
    assert!(maps.get_opt("owner").await.expect("an answer").is_some(), "it waits for the child");
    set_finalizers(&maps, "child", &[]).await.expect("let go");
    gone(&maps, "child").await;
    gone(&maps, "owner").await;
}

pub(crate) async fn orphaning_lets_dependents_stay(client: Client, namespace: String) {
    let maps: Api<ConfigMap> = Api::namespaced(client, &namespace);
    let owner = make(&maps, "owner").await;
    make_owned(&maps, "child", &[&owner]).await;
    let params = DeleteParams { propagation_policy: Some(PropagationPolicy::Orphan), ..DeleteParams::default() };
    maps.delete("owner", &params).await.expect("marked");
    gone(&maps, "owner").await;
    assert!(maps.get("child").await.expect("it stays").owner_references().is_empty());
}

pub(crate) async fn a_namespace_takes_its_content_along(client: Client, namespace: String) {
    let name = format!("{namespace}-ends");
    make_namespace(&client, &name).await;
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), &name);
    make(&maps, "a").await;
    make(&maps, "b").await;
    set_finalizers(&maps, "b", &["example.test/wait"]).await.expect("patched");
    let namespaces: Api<Namespace> = Api::all(client);
    let answer = namespaces.delete(&name, &DeleteParams::default()).await.expect("marked");
    let marked = answer.left().expect("the namespace");
    assert_eq!(marked.status.and_then(|status| status.phase).as_deref(), Some("Terminating"));
    gone(&maps, "a").await;
    let status =
        assert_refused(maps.create(&PostParams::default(), &config_map("c", &json!({}))).await, 403, "Forbidden");
    assert_eq!(status.details.expect("details").causes[0].reason, "NamespaceTerminating");
    assert!(namespaces.get_opt(&name).await.expect("an answer").is_some(), "it waits for b");
    eventually("b is marked", || async { maps.get("b").await.expect("there").metadata.deletion_timestamp.map(|_| ()) })
        .await;
    set_finalizers(&maps, "b", &[]).await.expect("let go");
    eventually("the namespace is gone", || async {
        namespaces.get_opt(&name).await.expect("an answer").is_none().then_some(())
    })
    .await;
}

pub(crate) async fn evictions_and_bindings(client: Client, namespace: String) {
    let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    pods.create(&PostParams::default(), &object(pod("p"))).await.expect("created");
    let binding = json!({
        "apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"},
        "target": {"apiVersion": "v1", "kind": "Node", "name": "node"},
    });
    let bind = || async {
        pods.create_subresource::<_, serde_json::Value>("binding", "p", &PostParams::default(), &binding).await
    };
    bind().await.expect("bound");
    assert_refused(bind().await, 409, "Conflict");
    assert_eq!(pods.get("p").await.expect("there").spec.and_then(|spec| spec.node_name).as_deref(), Some("node"));
    pods.evict("p", &kube::api::EvictParams::default()).await.expect("evicted");
    assert!(pods.get("p").await.expect("it has its grace").metadata.deletion_timestamp.is_some());
    pods.delete("p", &DeleteParams::default().grace_period(0)).await.expect("deleted");
}
