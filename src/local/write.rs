//! Writing objects: created once, then changed by exactly what differs.

use crate::k8s::cache::Cache;
use crate::local::meta::{name, namespace};
use crate::units::RevisionKey;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::core::NamespaceResourceScope;
use kube::{Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::fmt::Debug;

/// A kind in namespaces that can be written.
pub(super) trait Writable:
    Resource<DynamicType = (), Scope = NamespaceResourceScope> + Serialize + DeserializeOwned + Clone + Debug
{
}

impl<K> Writable for K where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Serialize + DeserializeOwned + Clone + Debug
{
}

/// Makes `wanted` unless there is an object of its name. `cache` learns of it at once.
pub(super) async fn create<K: Writable>(client: &Client, cache: &Cache<K>, wanted: &K) -> Result<(), kube::Error> {
    let api: Api<K> = Api::namespaced(client.clone(), namespace(wanted.meta()));
    match api.create(&PostParams::default(), wanted).await {
        Ok(made) => {
            note(cache, made);
            Ok(())
        }
        // It is there and the cache will hear of it; the next look compares.
        Err(error) if is_conflict(&error) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Changes `old` to `new` where labels, annotations or anything but the status differ; nothing is sent when nothing does.
pub(super) async fn update<K: Writable>(
    client: &Client,
    cache: &Cache<K>,
    old: &K,
    new: &K,
) -> Result<(), kube::Error> {
    send(client, cache, old, new, false).await
}

/// Changes the status of `old` to that of `new`; nothing is sent when they are the same.
pub(super) async fn update_status<K: Writable>(
    client: &Client,
    cache: &Cache<K>,
    old: &K,
    new: &K,
) -> Result<(), kube::Error> {
    send(client, cache, old, new, true).await
}

/// Whether the object, or one it needs, is no longer there.
pub(super) fn is_gone(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409)
}

async fn send<K: Writable>(
    client: &Client,
    cache: &Cache<K>,
    old: &K,
    new: &K,
    status: bool,
) -> Result<(), kube::Error> {
    let to_json = |object: &K| serde_json::to_value(object).map_err(kube::Error::SerdeError);
    let Some(Value::Object(mut patch)) = difference(&to_json(old)?, &to_json(new)?) else { return Ok(()) };
    patch.retain(|key, _| (key == "status") == status);
    if patch.is_empty() {
        return Ok(());
    }
    let api: Api<K> = Api::namespaced(client.clone(), namespace(old.meta()));
    let (name, params, patch) = (name(old.meta()), PatchParams::default(), Patch::Merge(Value::Object(patch)));
    let written =
        if status { api.patch_status(name, &params, &patch).await } else { api.patch(name, &params, &patch).await };
    match written {
        Ok(written) => note(cache, written),
        // Deleted meanwhile: nothing is left to change.
        Err(error) if is_gone(&error) => {}
        Err(error) => return Err(error),
    }
    Ok(())
}

fn note<K: Writable>(cache: &Cache<K>, mut written: K) {
    let key = RevisionKey::new(namespace(written.meta()), name(written.meta()));
    written.meta_mut().managed_fields = None;
    cache.note_written(&key, written);
}

/// The JSON merge patch (RFC 7396) that makes `new` of `old`; none when they are the same.
fn difference(old: &Value, new: &Value) -> Option<Value> {
    if old == new {
        return None;
    }
    let (Value::Object(old), Value::Object(new)) = (old, new) else { return Some(new.clone()) };
    let mut patch = Map::new();
    for key in old.keys().filter(|key| !new.contains_key(*key)) {
        patch.insert(key.clone(), Value::Null);
    }
    for (key, value) in new {
        match old.get(key) {
            Some(before) => patch.extend(difference(before, value).map(|changed| (key.clone(), changed))),
            None => patch.extend([(key.clone(), value.clone())]),
        }
    }
    Some(Value::Object(patch))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn only_what_differs_is_sent() {
        let old = json!({"a": 1, "b": {"c": [1, 2], "d": "x"}, "e": 2});
        assert_eq!(difference(&old, &old), None);
        let new = json!({"a": 1, "b": {"c": [1], "f": {}}});
        assert_eq!(difference(&old, &new), Some(json!({"b": {"c": [1], "d": null, "f": {}}, "e": null})));
    }

    fn trees() -> impl Strategy<Value = Value> {
        // Without null, which a merge patch cannot set.
        let leaves = prop_oneof![any::<bool>().prop_map(Value::from), (0..3).prop_map(Value::from)];
        leaves.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                prop::collection::btree_map("[a-c]", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn the_difference_merged_into_the_old_is_the_new(old in trees(), new in trees()) {
            let mut merged = old.clone();
            if let Some(patch) = difference(&old, &new) {
                json_patch::merge(&mut merged, &patch);
            }
            prop_assert_eq!(merged, new);
        }
    }
}
