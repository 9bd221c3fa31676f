//! One watch, told as changes.
//!
//! The rest of Ebb never lists or watches by hand: a watch here starts over by itself with back-off, notices after a
//! new list what was deleted meanwhile, and passes over objects that cannot be understood, so that one bad object
//! stops nothing.

use crate::units::RevisionKey;
use futures::StreamExt as _;
use kube::core::DeserializeGuard;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use std::collections::HashSet;
use std::fmt::Debug;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// What happened to an object, or to the watch.
#[derive(Debug)]
pub enum Change<K> {
    /// It is new, or different.
    Put(RevisionKey, K),
    /// It is gone.
    Gone(RevisionKey),
    /// Everything that existed when the watch started has been told. Comes once more after each new list.
    Synced,
}

/// Objects passed over since the process started because they could not be understood.
pub static UNREADABLE_OBJECTS: AtomicU64 = AtomicU64::new(0);

/// Follows the objects of `api` that `config` selects, until `cancel`, telling `sink` every change in order.
pub async fn follow<K>(
    api: Api<DeserializeGuard<K>>,
    config: watcher::Config,
    cancel: CancellationToken,
    mut sink: impl FnMut(Change<K>),
) where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let mut known: HashSet<RevisionKey> = HashSet::new();
    let mut listed: HashSet<RevisionKey> = HashSet::new();
    let mut stream = pin!(watcher(api, config).default_backoff().take_until(cancel.cancelled()));
    while let Some(event) = stream.next().await {
        match event {
            Ok(watcher::Event::Init) => listed.clear(),
            Ok(watcher::Event::InitApply(object)) => {
                let key = key_of(&object.0);
                listed.insert(key.clone());
                put(key, object, &mut known, &mut sink);
            }
            Ok(watcher::Event::InitDone) => {
                known.retain(|key| {
                    let kept = listed.contains(key);
                    if !kept {
                        sink(Change::Gone(key.clone()));
                    }
                    kept
                });
                listed = HashSet::new();
                sink(Change::Synced);
            }
            Ok(watcher::Event::Apply(object)) => put(key_of(&object.0), object, &mut known, &mut sink),
            Ok(watcher::Event::Delete(object)) => {
                let key = key_of(&object.0);
                if known.remove(&key) {
                    sink(Change::Gone(key));
                }
            }
            Err(error) => warn!(%error, "watch interrupted; it starts over by itself"),
        }
    }
}

fn put<K>(
    key: RevisionKey,
    object: DeserializeGuard<K>,
    known: &mut HashSet<RevisionKey>,
    sink: &mut impl FnMut(Change<K>),
) {
    match object.0 {
        Ok(object) => {
            known.insert(key.clone());
            sink(Change::Put(key, object));
        }
        Err(invalid) => {
            UNREADABLE_OBJECTS.fetch_add(1, Ordering::Relaxed);
            warn!(object = %key, error = %invalid.error, "object passed over, it cannot be understood; the last good version stays");
        }
    }
}

fn key_of<K: Resource>(object: &Result<K, kube::core::error_boundary::InvalidObject>) -> RevisionKey {
    let meta = match object {
        Ok(object) => object.meta(),
        Err(invalid) => &invalid.metadata,
    };
    RevisionKey::new(meta.namespace.as_deref().unwrap_or(""), meta.name.as_deref().unwrap_or(""))
}
