//! The collector: deletes what has lost its owners, empties namespaces that are to go, and serves what
//! CustomResourceDefinitions define. It sleeps until the store tells it what to look at.

use super::builtin::Strictness;
use super::object::{metadata_mut, metadata_text};
use super::resource;
use super::status::Answer;
use super::store::{Key, Look, Store};
use super::write::{self, DeleteOptions, FOREGROUND, ORPHAN, Ownership, Part, Propagation, Target};
use serde_json::{Value, json};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Looks taken at once; between them others get their turn.
const BATCH: usize = 64;
/// How long an event is kept, as in a real cluster.
const EVENTS_LAST: jiff::SignedDuration = jiff::SignedDuration::from_hours(1);
/// Events kept, at most; the oldest go first.
const MOST_EVENTS: usize = 10_000;
/// How often old events are looked for.
const EVENTS_EVERY: Duration = Duration::from_mins(1);

/// Collects until it is cancelled.
pub(super) async fn run(store: &Store, cancel: &CancellationToken) {
    let mut old_events = tokio::time::interval(EVENTS_EVERY);
    loop {
        let looks = store.take_looks(BATCH);
        if looks.is_empty() {
            tokio::select! {
                () = store.garbage.notified() => {}
                _ = old_events.tick() => drop_old_events(store),
                () = cancel.cancelled() => return,
            }
            continue;
        }
        for look in looks {
            if let Err(error) = look_at(store, &look) {
                tracing::debug!(%error, ?look, "not collected");
                // It changed meanwhile, so it is worth another look.
                if error.is_conflict() {
                    store.look_at(look);
                }
            }
        }
        tokio::task::yield_now().await;
        if cancel.is_cancelled() {
            return;
        }
    }
}

fn look_at(store: &Store, look: &Look) -> Answer<()> {
    match look {
        Look::Owners(key) => look_at_owners(store, key),
        Look::Dependents(key) => look_at_dependents(store, key),
        Look::Namespace(name) => look_at_namespace(store, name),
        Look::Definition(name) => look_at_definition(store, name),
    }
}

/// Deletes an object none of whose owners exist; otherwise forgets those that do not.
fn look_at_owners(store: &Store, key: &Key) -> Answer<()> {
    let Some(object) = store.get(key.shard, &key.namespace, &key.name) else { return Ok(()) };
    let live = store.live(&object.owners);
    if object.owners.is_empty() || live.len() == object.owners.len() {
        return Ok(());
    }
    if !live.is_empty() {
        return forget_owners(store, key, |uid| live.contains(&uid));
    }
    if object.deleting {
        return Ok(());
    }
    delete(store, key, &object.value(), Propagation::Background)
}

/// Lets an owner that waits for its dependents go once they are gone, or once they no longer name it.
fn look_at_dependents(store: &Store, key: &Key) -> Answer<()> {
    let Some(object) = store.get(key.shard, &key.namespace, &key.name) else { return Ok(()) };
    if !object.deleting {
        return Ok(());
    }
    let finalizers = write::list_of_texts(&object.value()["metadata"]["finalizers"]);
    if finalizers.iter().any(|finalizer| finalizer == ORPHAN) {
        for (dependent, _) in store.dependents(object.uid) {
            forget_owners(store, &dependent, |uid| uid != object.uid)?;
        }
        return remove_finalizer(store, key, ORPHAN);
    }
    if finalizers.iter().any(|finalizer| finalizer == FOREGROUND) {
        let mut blocked = false;
        for (key, dependent) in store.dependents(object.uid) {
            let value = dependent.value();
            let owners = value["metadata"]["ownerReferences"].as_array();
            blocked |= owners.into_iter().flatten().any(|owner| {
                owner["blockOwnerDeletion"] == true
                    && owner["uid"].as_str().and_then(super::names::parse_uid) == Some(object.uid)
            });
            if dependent.deleting {
                continue;
            }
            if 1 < dependent.owners.len() {
                forget_owners(store, &key, |uid| uid != object.uid)?;
            } else {
                delete(store, &key, &value, Propagation::Foreground)?;
            }
        }
        if !blocked || store.dependents(object.uid).is_empty() {
            return remove_finalizer(store, key, FOREGROUND);
        }
    }
    Ok(())
}

/// Deletes what is in a namespace, and lets the namespace go when nothing is.
fn look_at_namespace(store: &Store, name: &str) -> Answer<()> {
    let Some((id, _)) = store.find("", "v1", "namespaces") else { return Ok(()) };
    let Some(namespace) = store.get(id, "", name).filter(|namespace| namespace.deleting) else { return Ok(()) };
    let (keys, _) = store.contents(name, usize::MAX);
    for key in &keys {
        if let Some(object) = store.get(key.shard, &key.namespace, &key.name).filter(|object| !object.deleting) {
            delete(store, key, &object.value(), Propagation::Background)?;
        }
    }
    let (_, done) = store.contents(name, 0);
    if !done {
        return Ok(());
    }
    let key = Key { shard: id, namespace: namespace.namespace.clone(), name: namespace.name.clone() };
    change(store, &key, |namespace| namespace["spec"]["finalizers"] = json!([]))
}

fn look_at_definition(store: &Store, name: &str) -> Answer<()> {
    let Some((id, _)) = store.find("apiextensions.k8s.io", "v1", "customresourcedefinitions") else { return Ok(()) };
    let Some(definition) = store.get(id, "", name) else {
        if let Some((plural, group)) = name.split_once('.') {
            store.remove_resource(group, plural);
        }
        return Ok(());
    };
    let definition = definition.value();
    if definition["status"]["conditions"].is_array() {
        return Ok(());
    }
    // A resource that is built in stays as it is, so that Knative's own definitions may be applied.
    if let Some(resource) = resource::from_definition(&definition) {
        store.add_resource(resource);
    }
    let key = Key { shard: id, namespace: "".into(), name: name.into() };
    let at = write::rfc3339(store.clock.now());
    let names = definition["spec"]["names"].clone();
    let condition = |kind: &str, reason: &str, message: &str| json!({"type": kind, "status": "True", "reason": reason, "message": message, "lastTransitionTime": at});
    let status = json!({
        "acceptedNames": names,
        "storedVersions": [],
        "conditions": [
            condition("NamesAccepted", "NoConflicts", "no conflicts found"),
            condition("Established", "InitialNamesAccepted", "the initial names have been accepted"),
        ],
    });
    let resource = store.resource(id);
    let target = Target { part: Part::Status, ..target(store, &key, &resource) };
    target.update(&Ownership::OfChanges, |definition| {
        let mut definition = definition.clone();
        definition["status"] = status.clone();
        Ok(definition)
    })?;
    Ok(())
}

fn forget_owners(store: &Store, key: &Key, keep: impl Fn(u128) -> bool) -> Answer<()> {
    change(store, key, |object| {
        let metadata = metadata_mut(object);
        if let Some(Value::Array(owners)) = metadata.get_mut("ownerReferences") {
            owners.retain(|owner| owner["uid"].as_str().and_then(super::names::parse_uid).is_some_and(&keep));
            if owners.is_empty() {
                metadata.remove("ownerReferences");
            }
        }
    })
}

fn remove_finalizer(store: &Store, key: &Key, gone: &str) -> Answer<()> {
    change(store, key, |object| {
        let metadata = metadata_mut(object);
        if let Some(Value::Array(finalizers)) = metadata.get_mut("finalizers") {
            finalizers.retain(|finalizer| finalizer != gone);
            if finalizers.is_empty() {
                metadata.remove("finalizers");
            }
        }
    })
}

fn delete(store: &Store, key: &Key, object: &Value, propagation: Propagation) -> Answer<()> {
    let resource = store.resource(key.shard);
    let options = DeleteOptions {
        grace_seconds: None,
        uid: Some(metadata_text(object, "uid").to_owned()),
        resource_version: Some(metadata_text(object, "resourceVersion").to_owned()),
        propagation,
    };
    target(store, key, &resource).delete(&options)?;
    Ok(())
}

fn change(store: &Store, key: &Key, change: impl Fn(&mut Value)) -> Answer<()> {
    let resource = store.resource(key.shard);
    target(store, key, &resource).update(&Ownership::OfChanges, |object| {
        let mut object = object.clone();
        change(&mut object);
        Ok(object)
    })?;
    Ok(())
}

fn target<'a>(store: &'a Store, key: &'a Key, resource: &'a resource::Resource) -> Target<'a> {
    Target {
        store,
        id: key.shard,
        resource,
        namespace: &key.namespace,
        name: &key.name,
        part: Part::Whole,
        manager: write::OURSELVES,
        dry_run: false,
        strict: Strictness::Ignore,
    }
}

fn drop_old_events(store: &Store) {
    let Some((id, resource)) = store.find("", "v1", "events") else { return };
    let (_, events) = store.list(id, &super::selector::Selector::default());
    let now = jiff::Timestamp::from_second(store.clock.now().second()).unwrap_or_default();
    let mut by_age: Vec<_> = events.into_iter().map(|event| (event.version, event)).collect();
    by_age.sort_unstable_by_key(|(version, _)| *version);
    let too_many = by_age.len().saturating_sub(MOST_EVENTS);
    for (index, (_, event)) in by_age.into_iter().enumerate() {
        let created = metadata_text(&event.value(), "creationTimestamp").parse::<jiff::Timestamp>().unwrap_or(now);
        if index < too_many || EVENTS_LAST < now.duration_since(created) {
            let key = Key { shard: id, namespace: event.namespace.clone(), name: event.name.clone() };
            let gone = target(store, &key, &resource).delete(&DeleteOptions::default());
            if let Err(error) = gone {
                tracing::debug!(%error, "an old event stays");
            }
        }
    }
}
