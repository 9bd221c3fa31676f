//! kube's own runtime: watchers, reflectors, controllers, event recorders.

use super::{config_map, eventually, json_of, object};
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::{ConfigMap, Event as CoreEvent, ObjectReference};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::controller::{Action, Controller};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::runtime::{WatchStreamExt as _, reflector, watcher};
use kube::{Client, ResourceExt as _};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

async fn make(maps: &Api<ConfigMap>, name: &str) -> ConfigMap {
    maps.create(&PostParams::default(), &config_map(name, &json!({}))).await.expect("created")
}

async fn watch_with(client: Client, namespace: String, config: watcher::Config) {
    let maps: Api<ConfigMap> = Api::namespaced(client, &namespace);
    make(&maps, "a").await;
    make(&maps, "b").await;
    let mut events = watcher(maps.clone(), config.labels("!kubernetes.io/none")).boxed();
    let mut initial = Vec::new();
    loop {
        match events.try_next().await.expect("no error").expect("it never ends") {
            watcher::Event::Init => {}
            watcher::Event::InitApply(map) => initial.push(map.name_any()),
            watcher::Event::InitDone => break,
            other => panic!("too early: {other:?}"),
        }
    }
    initial.retain(|name| name != "kube-root-ca.crt");
    initial.sort();
    assert_eq!(initial, ["a", "b"]);
    make(&maps, "c").await;
    maps.delete("a", &DeleteParams::default()).await.expect("deleted");
    let mut seen = Vec::new();
    while seen.len() < 2 {
        match events.try_next().await.expect("no error").expect("it never ends") {
            watcher::Event::Apply(map) => seen.push(format!("apply {}", map.name_any())),
            watcher::Event::Delete(map) => seen.push(format!("delete {}", map.name_any())),
            other => panic!("unexpected: {other:?}"),
        }
    }
    assert_eq!(seen, ["apply c", "delete a"]);
}

pub(crate) async fn watchers_list_and_watch(client: Client, namespace: String) {
    watch_with(client, namespace, watcher::Config::default().page_size(1)).await;
}

pub(crate) async fn watchers_stream_lists(client: Client, namespace: String) {
    watch_with(client, namespace, watcher::Config::default().streaming_lists()).await;
}

pub(crate) async fn a_reflector_follows(client: Client, namespace: String) {
    let maps: Api<ConfigMap> = Api::namespaced(client, &namespace);
    for index in 0..50 {
        make(&maps, &format!("m{index}")).await;
    }
    let (store, writer) = reflector::store();
    let stream =
        reflector(writer, watcher(maps.clone(), watcher::Config::default())).default_backoff().touched_objects();
    let follow = tokio::spawn(stream.for_each(|_| async {}));
    store.wait_until_ready().await.expect("a first list");
    for index in 0..50 {
        let name = format!("m{index}");
        if index % 2 == 0 {
            maps.delete(&name, &DeleteParams::default()).await.expect("deleted");
        } else {
            let change = Patch::Merge(json!({"data": {"n": index.to_string()}}));
            maps.patch(&name, &PatchParams::default(), &change).await.expect("patched");
        }
    }
    eventually("the reflector has it all", || async {
        let truth = maps.list(&ListParams::default()).await.expect("a list").items;
        let known = store.state();
        let same = |map: &ConfigMap| known.iter().any(|known| known.as_ref() == map);
        (truth.len() == known.len() && truth.iter().all(same)).then_some(())
    })
    .await;
    follow.abort();
}

pub(crate) async fn a_controller_reconciles(client: Client, namespace: String) {
    #[derive(Debug, thiserror::Error)]
    #[error(transparent)]
    struct Failed(#[from] kube::Error);

    async fn reconcile(map: Arc<ConfigMap>, client: Arc<Client>) -> Result<Action, Failed> {
        let maps: Api<ConfigMap> = Api::namespaced((*client).clone(), &map.namespace().unwrap_or_default());
        let owner = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "name": map.name_any(), "uid": map.uid(), "controller": true,
        });
        let child = json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": format!("{}-child", map.name_any()), "ownerReferences": [owner]},
            "data": map.data,
        });
        let name = format!("{}-child", map.name_any());
        maps.patch(&name, &PatchParams::apply("controller").force(), &Patch::Apply(child)).await?;
        Ok(Action::await_change())
    }

    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), &namespace);
    let parents = watcher::Config::default().labels("parent=yes");
    let controller = Controller::new(maps.clone(), parents)
        .owns(maps.clone(), watcher::Config::default())
        .run(reconcile, |_, _, _| Action::requeue(Duration::from_millis(100)), Arc::new(client))
        .for_each(|_| async {});
    let controller = tokio::spawn(controller);
    let parent = json!({"metadata": {"name": "p", "labels": {"parent": "yes"}}, "data": {"n": "1"}});
    maps.create(&PostParams::default(), &object(parent)).await.expect("created");
    let child_says = |text: &'static str| {
        let maps = maps.clone();
        async move {
            eventually(&format!("the child says {text}"), || async {
                let child = maps.get_opt("p-child").await.expect("an answer")?;
                (json_of(&child)["data"]["n"] == text).then_some(())
            })
            .await;
        }
    };
    child_says("1").await;
    let change = Patch::Merge(json!({"data": {"n": "2"}}));
    maps.patch("p", &PatchParams::default(), &change).await.expect("patched");
    child_says("2").await;
    maps.delete("p-child", &DeleteParams::default()).await.expect("deleted");
    child_says("2").await;
    let tampered = Patch::Merge(json!({"data": {"n": "9"}}));
    maps.patch("p-child", &PatchParams::default(), &tampered).await.expect("patched");
    child_says("2").await;
    controller.abort();
}

pub(crate) async fn events_have_two_faces(client: Client, namespace: String) {
    let recorder = Recorder::new(client.clone(), Reporter { controller: "ebb.test".to_owned(), instance: None });
    let about = ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("ConfigMap".to_owned()),
        name: Some("a".to_owned()),
        namespace: Some(namespace.clone()),
        uid: Some("00000000-0000-4000-8000-000000000000".to_owned()),
        ..ObjectReference::default()
    };
    let event = |note: &str| Event {
        type_: EventType::Normal,
        reason: "Scaled".to_owned(),
        note: Some(note.to_owned()),
        action: "Scale".to_owned(),
        secondary: None,
    };
    recorder.publish(&event("up"), &about).await.expect("published");
    recorder.publish(&event("up"), &about).await.expect("published again");
    let events: Api<CoreEvent> = Api::namespaced(client, &namespace);
    let fields = "involvedObject.name=a,involvedObject.kind=ConfigMap,reason=Scaled";
    let list = events.list(&ListParams::default().fields(fields)).await.expect("a list");
    assert_eq!(list.items.len(), 1, "{:?}", list.items);
    let new: Api<k8s_openapi::api::events::v1::Event> = Api::namespaced(events.clone().into_client(), &namespace);
    let list_new = new.list(&ListParams::default().fields("reason=Scaled")).await.expect("a list");
    assert_eq!(list_new.items.len(), 1);
    assert_eq!(json_of(&list_new.items[0])["note"], "up");
    let event = json_of(&list.items[0]);
    assert_eq!(event["message"], "up");
    assert_eq!(event["reportingComponent"], "ebb.test");
    assert_eq!(event["involvedObject"]["name"], "a");
    assert_eq!(event["series"]["count"], 2);
}
