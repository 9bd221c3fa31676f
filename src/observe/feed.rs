//! Changes of scale as they happen, for whoever wants to show them.

use crate::units::{RevisionKey, Timestamp};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::broadcast;

/// Changes kept for a listener that is slow; older ones are skipped.
const KEPT: usize = 1024;
/// Changes remembered for whoever asks later, of all revisions together.
const REMEMBERED: usize = 4096;

/// A revision is given another number of pods.
#[derive(Clone, PartialEq, Debug)]
pub struct ScaleChange {
    /// When it was written.
    pub at: Timestamp,
    /// Which revision.
    pub key: RevisionKey,
    /// Pods asked for so far.
    pub from: i32,
    /// Pods asked for now.
    pub to: i32,
    /// Why, in words.
    pub because: String,
}

/// Where changes of scale are told. Cheap to clone; all clones are one feed.
#[derive(Clone, Debug)]
pub struct Feed {
    sender: broadcast::Sender<ScaleChange>,
    recent: Arc<Mutex<Recent>>,
}

#[derive(Debug, Default)]
struct Recent {
    /// What was before this is not known.
    known_since: Timestamp,
    changes: VecDeque<ScaleChange>,
}

impl Default for Feed {
    fn default() -> Self {
        Self { sender: broadcast::Sender::new(KEPT), recent: Arc::default() }
    }
}

impl Feed {
    /// One that begins now: what was before is not known.
    pub fn since(now: Timestamp) -> Self {
        let recent = Recent { known_since: now, ..Recent::default() };
        Self { recent: Arc::new(Mutex::new(recent)), ..Self::default() }
    }

    /// Tells of a change; nobody need be listening.
    pub fn tell(&self, change: ScaleChange) {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.changes.len() >= REMEMBERED
            && let Some(oldest) = recent.changes.pop_front()
        {
            recent.known_since = oldest.at;
        }
        recent.changes.push_back(change.clone());
        drop(recent);
        // An error only says that nobody listens.
        let _ = self.sender.send(change);
    }

    /// The changes of a revision from `since` on, as far as they are remembered.
    pub fn recent(&self, key: &RevisionKey, since: Timestamp) -> Vec<ScaleChange> {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.changes.iter().filter(|change| change.key == *key && change.at >= since).cloned().collect()
    }

    /// Changes before this are not known.
    pub fn known_since(&self) -> Timestamp {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner).known_since
    }

    /// Listens to the changes from now on.
    pub fn listen(&self) -> broadcast::Receiver<ScaleChange> {
        self.sender.subscribe()
    }
}
