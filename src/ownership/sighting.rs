//! What was last seen of each bucket's Lease, and since when it has not changed.

use crate::clock::Clock;
use crate::k8s::follow::{Change, follow};
use crate::k8s::slim::Guarded;
use crate::ownership::ring::Ring;
use crate::units::{RevisionKey, Timestamp};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use kube::runtime::watcher;
use kube::{Api, Client};
use std::sync::Arc;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The last sighting of one Lease, from whichever came first: the watch, or an answer to a request of our own.
#[derive(Clone, Debug)]
pub struct Sightings {
    clock: Clock,
    last: Arc<watch::Sender<Sighting>>,
}

/// What is known of one Lease.
#[derive(Clone, PartialEq, Debug, Default)]
pub enum Sighting {
    /// Nothing that could be relied on; somebody should look.
    #[default]
    Unknown,
    /// There is no such Lease.
    Missing,
    /// There is one.
    Seen {
        /// As it was last seen.
        lease: Arc<Lease>,
        /// When its record was first seen to be as it is.
        since: Timestamp,
    },
}

impl Sighting {
    /// The record and since when it has not changed.
    pub fn record(&self) -> Option<(&LeaseSpec, Timestamp)> {
        match self {
            Self::Seen { lease, since } => Some((lease.spec.as_ref()?, *since)),
            Self::Unknown | Self::Missing => None,
        }
    }
}

impl Sightings {
    /// Nothing seen yet.
    pub fn new(clock: Clock) -> Self {
        Self { clock, last: Arc::default() }
    }

    /// What is known now.
    pub fn last(&self) -> Sighting {
        self.last.borrow().clone()
    }

    /// What is known, as it changes.
    pub fn watch(&self) -> watch::Receiver<Sighting> {
        self.last.subscribe()
    }

    /// The API server answered with this just now: `None` when there is no Lease.
    pub fn answered(&self, lease: Option<Lease>) {
        self.take_in(lease, |_, _| true);
    }

    /// The watch told of this. A watch may lag behind our own requests; what is older than what is known is passed over.
    fn told(&self, lease: Lease) {
        self.take_in(Some(lease), |known, told| match (version(known), version(told)) {
            (Some(known), Some(told)) => known <= told,
            // Versions are opaque in principle.
            _ => true,
        });
    }

    /// The watch told that it is gone. By now it may be there again, so that is only a reason to look.
    fn told_gone(&self) {
        self.last.send_if_modified(|last| {
            let changed = *last != Sighting::Unknown;
            *last = Sighting::Unknown;
            changed
        });
    }

    fn take_in(&self, lease: Option<Lease>, accept: impl FnOnce(&Lease, &Lease) -> bool) {
        let now = self.clock.now();
        self.last.send_if_modified(|last| {
            let next = match (&*last, lease) {
                (_, None) => Sighting::Missing,
                (Sighting::Seen { lease: known, .. }, Some(lease)) if !accept(known, &lease) => return false,
                (Sighting::Seen { lease: known, since }, Some(lease)) if known.spec == lease.spec => {
                    Sighting::Seen { since: *since, lease: Arc::new(lease) }
                }
                (_, Some(lease)) => {
                    let lease = Arc::new(Lease { spec: Some(lease.spec.unwrap_or_default()), ..lease });
                    Sighting::Seen { since: now, lease }
                }
            };
            let changed = *last != next;
            *last = next;
            changed
        });
    }
}

/// Follows the Leases of the buckets of `ring` in one namespace, until `cancel`; `sightings` is one for each bucket.
pub async fn follow_leases(
    client: Client,
    namespace: &str,
    ring: &Ring,
    sightings: &[Sightings],
    cancel: CancellationToken,
) {
    let api: Api<Guarded<Lease>> = Api::namespaced(client, namespace);
    // The namespace holds the Leases of all of Knative's components. One can be asked for by name, several cannot.
    let config = match ring.names() {
        [only] => watcher::Config::default().fields(&format!("metadata.name={only}")),
        _ => watcher::Config::default(),
    };
    let of = |key: &RevisionKey| ring.index(key.name()).and_then(|bucket| sightings.get(bucket));
    follow(api, config, cancel, |change| match change {
        Change::Put(key, lease) => {
            if let Some(sightings) = of(&key) {
                sightings.told(lease);
            }
        }
        Change::Gone(key) => {
            if let Some(sightings) = of(&key) {
                sightings.told_gone();
            }
        }
        Change::Synced => {}
    })
    .await;
}

fn version(lease: &Lease) -> Option<u64> {
    lease.metadata.resource_version.as_deref()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::api::ObjectMeta;
    use std::time::Duration;

    fn lease(version: u32, holder: &str) -> Lease {
        Lease {
            metadata: ObjectMeta { resource_version: Some(version.to_string()), ..ObjectMeta::default() },
            spec: Some(LeaseSpec { holder_identity: Some(holder.to_owned()), ..LeaseSpec::default() }),
        }
    }

    fn seen(sightings: &Sightings) -> (Option<String>, i64) {
        match sightings.last() {
            Sighting::Seen { lease, since } => {
                (lease.spec.as_ref().and_then(|spec| spec.holder_identity.clone()), since.second())
            }
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_record_is_as_old_as_its_last_change_and_a_late_watch_changes_nothing() {
        let sightings = Sightings::new(Clock::starting_at(Timestamp::from_seconds(100)));
        sightings.told(lease(5, "a"));
        tokio::time::advance(Duration::from_secs(1)).await;
        // An annotation was added: another version of the same record.
        sightings.told(lease(6, "a"));
        assert_eq!(seen(&sightings), (Some("a".into()), 100));
        sightings.answered(Some(lease(9, "b")));
        assert_eq!(seen(&sightings), (Some("b".into()), 101));
        let mut watch = sightings.watch();
        sightings.told(lease(8, "a"));
        assert_eq!(seen(&sightings), (Some("b".into()), 101));
        assert!(!watch.has_changed().expect("alive"));
        // A server restored from a backup counts from below; its own answer is believed.
        sightings.answered(Some(lease(2, "c")));
        assert_eq!(seen(&sightings), (Some("c".into()), 101));
        watch.mark_unchanged();
        sightings.told_gone();
        assert_eq!(*watch.borrow(), Sighting::Unknown);
        sightings.answered(None);
        assert_eq!(sightings.last(), Sighting::Missing);
    }
}
