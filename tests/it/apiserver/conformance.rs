use super::Served;
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use serde_json::json;

#[tokio::test]
async fn smoke() {
    let served = Served::start().await;
    let client = served.client();
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    let map: ConfigMap =
        serde_json::from_value(json!({"metadata": {"name": "a", "labels": {"x": "y"}}, "data": {"k": "v"}})).unwrap();
    let made = maps.create(&PostParams::default(), &map).await.unwrap();
    assert!(made.metadata.uid.is_some());
    let list = maps.list(&ListParams::default().labels("x=y")).await.unwrap();
    assert_eq!(list.items.len(), 1);
    let mut watch = maps.watch(&WatchParams::default(), "0").await.unwrap().boxed();
    assert!(matches!(watch.try_next().await.unwrap(), Some(WatchEvent::Added(_))));
    maps.patch("a", &PatchParams::default(), &Patch::Merge(json!({"data": {"k": "w"}}))).await.unwrap();
    assert!(matches!(watch.try_next().await.unwrap(), Some(WatchEvent::Modified(_))));
    maps.patch(
        "b",
        &PatchParams::apply("me"),
        &Patch::Apply(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "b"}, "data": {"k": "w"}})),
    )
    .await
    .unwrap();
    assert!(matches!(watch.try_next().await.unwrap(), Some(WatchEvent::Added(_))));
    maps.delete("a", &DeleteParams::default()).await.unwrap();
    assert!(matches!(watch.try_next().await.unwrap(), Some(WatchEvent::Deleted(_))));
    let spaces: Api<Namespace> = Api::all(client.clone());
    assert_eq!(spaces.list(&ListParams::default()).await.unwrap().items.len(), 3);
}
