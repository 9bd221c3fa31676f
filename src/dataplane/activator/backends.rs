//! The revisions the activator knows, and their pods.

use crate::dataplane::activator::throttle::{Revision, Share, Shared, Throttle};
use crate::dataplane::metrics::Requests;
use crate::observe::metrics::RevisionLabels;
use crate::units::RevisionKey;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The table of revisions. Cheap to clone; all clones are one table. What changes here is acted on at once: requests
/// that wait go on as soon as a pod can take them.
#[derive(Clone, Debug)]
pub struct Backends {
    shared: Arc<Shared>,
    requests: Option<Requests>,
    entries: Arc<Mutex<HashMap<RevisionKey, Entry>>>,
}

/// Pods may be told of before their revision; they are kept until it is.
#[derive(Debug, Default)]
struct Entry {
    throttle: Option<Arc<Throttle>>,
    labels: Option<Arc<RevisionLabels>>,
    pods: Vec<(SocketAddr, bool)>,
    share: Option<Share>,
}

impl Backends {
    /// No revision yet. What `requests` knows of one is forgotten with it.
    pub(crate) fn new(shared: Shared, requests: Option<Requests>) -> Self {
        Self { shared: Arc::new(shared), requests, entries: Arc::default() }
    }

    /// What a revision, known or soon to be, was made from.
    pub fn set_labels(&self, labels: RevisionLabels) {
        let mut entries = self.lock();
        let entry = entries.entry(labels.key.clone()).or_default();
        if entry.labels.as_deref() != Some(&labels) {
            entry.labels = Some(Arc::new(labels));
        }
    }

    /// A revision exists, or has changed.
    pub fn set_revision(&self, key: &RevisionKey, revision: Revision) {
        let throttle = {
            let mut entries = self.lock();
            let entry = entries.entry(key.clone()).or_default();
            if let Some(throttle) = &entry.throttle {
                Arc::clone(throttle)
            } else {
                let throttle = Throttle::new(key.clone(), revision, entry.share, Arc::clone(&self.shared));
                throttle.set_pods(&entry.pods);
                entry.throttle = Some(throttle);
                return;
            }
        };
        throttle.set_revision(revision);
    }

    /// A revision was deleted: its waiting requests get a 404.
    pub fn remove_revision(&self, key: &RevisionKey) {
        let throttle = {
            let mut entries = self.lock();
            let Some(entry) = entries.get_mut(key) else { return };
            let throttle = entry.throttle.take();
            entry.labels = None;
            if entry.pods.is_empty() && entry.share.is_none() {
                entries.remove(key);
            }
            throttle
        };
        if let Some(throttle) = throttle {
            throttle.close();
        }
        if let Some(requests) = &self.requests {
            requests.forget(key);
        }
    }

    /// The pods of a revision: where each takes requests, and whether Kubernetes lists it as ready. Those that are going
    /// must not be among them.
    pub fn set_pods(&self, key: &RevisionKey, pods: &[(SocketAddr, bool)]) {
        self.change(key, |entry| entry.pods = pods.to_vec(), |throttle| throttle.set_pods(pods));
    }

    /// Which of the activators this one is for a revision; `None` when it is none of them, or nobody said. Then all
    /// pods are its own.
    pub fn set_share(&self, key: &RevisionKey, share: Option<Share>) {
        self.change(key, |entry| entry.share = share, |throttle| throttle.set_share(share));
    }

    /// The revisions known.
    pub fn revisions(&self) -> Vec<RevisionKey> {
        self.lock().iter().filter(|(_, entry)| entry.throttle.is_some()).map(|(key, _)| key.clone()).collect()
    }

    /// Requests waiting for a pod of a revision.
    pub fn waiting(&self, key: &RevisionKey) -> usize {
        self.get(key).map_or(0, |throttle| throttle.waiting())
    }

    /// The pods of a revision that requests may go to, and the requests at each.
    pub fn usable(&self, key: &RevisionKey) -> Vec<(SocketAddr, usize)> {
        self.get(key).map_or_else(Vec::new, |throttle| throttle.usable())
    }

    pub(crate) fn get(&self, key: &RevisionKey) -> Option<Arc<Throttle>> {
        self.lock().get(key)?.throttle.clone()
    }

    /// What a revision was made from; only its name where nobody said.
    pub(crate) fn labels(&self, key: &RevisionKey) -> Arc<RevisionLabels> {
        let labels = self.lock().get(key).and_then(|entry| entry.labels.clone());
        labels.unwrap_or_else(|| Arc::new(RevisionLabels::of(key, None)))
    }

    /// Every revision with the requests that wait for a pod of it, and those at its pods.
    pub(crate) fn under_way(&self) -> Vec<(RevisionKey, usize, usize)> {
        let known: Vec<_> = {
            let entries = self.lock();
            entries.iter().filter_map(|(key, entry)| Some((key.clone(), entry.throttle.clone()?))).collect()
        };
        let count = |(key, throttle): (RevisionKey, Arc<Throttle>)| {
            let (waiting, active) = throttle.under_way();
            (key, waiting, active)
        };
        known.into_iter().map(count).collect()
    }

    fn change(&self, key: &RevisionKey, entry: impl FnOnce(&mut Entry), then: impl FnOnce(&Throttle)) {
        let throttle = {
            let mut entries = self.lock();
            let this = entries.entry(key.clone()).or_default();
            entry(this);
            if this.throttle.is_none() && this.labels.is_none() && this.pods.is_empty() && this.share.is_none() {
                entries.remove(key);
                return;
            }
            this.throttle.clone()
        };
        if let Some(throttle) = throttle {
            then(&throttle);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<RevisionKey, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
