//! Writing objects and their status.

use crate::units::{RevisionKey, Span};
use kube::api::PostParams;
use kube::core::{NamespaceResourceScope, Resource};
use kube::{Api, Client};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Debug;

/// How often a status is written that others write too …
const CONFLICT_TRIES: u32 = 5;
/// … and how long to wait in between.
const CONFLICT_PAUSE: Span = Span::from_millis(10);
/// All API calls of one reconcile together.
pub const DEADLINE: Span = Span::from_seconds(30);

/// An error of the API server in a sentence of its own.
pub fn in_words(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

/// Whether the object was changed by somebody else in between.
pub fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409 && status.reason == "Conflict")
}

/// The objects of one kind in the namespace of `key`.
pub fn api<K>(client: &Client, key: &RevisionKey) -> Api<K>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
{
    Api::namespaced(client.clone(), key.namespace())
}

/// Writes the status of `object`; on a conflict the live object is read again and its whole status replaced.
///
/// # Errors
/// What the API server answered last.
pub async fn status<K>(client: &Client, key: &RevisionKey, object: K, set: impl Fn(&mut K)) -> Result<(), kube::Error>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned,
{
    let api: Api<K> = api(client, key);
    let mut object = object;
    for attempt in 1.. {
        set(&mut object);
        match api.replace_status(key.name(), &PostParams::default(), &object).await {
            Err(error) if is_conflict(&error) && attempt < CONFLICT_TRIES => {
                tokio::time::sleep(CONFLICT_PAUSE.to_std()).await;
                object = api.get(key.name()).await?;
            }
            Err(error) => return Err(error),
            Ok(_) => return Ok(()),
        }
    }
    Ok(())
}

/// Whether `present` is at least as new as `written`; versions count up.
pub fn at_least_as_new<K: Resource>(present: &K, written: &K) -> bool {
    let version = |object: &K| object.meta().resource_version.as_deref().and_then(|text| text.parse::<u64>().ok());
    version(present) >= version(written)
}
