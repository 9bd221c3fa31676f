//! Changes of scale as they happen, for whoever wants to show them.

use crate::units::{RevisionKey, Timestamp};
use tokio::sync::broadcast;

/// Changes kept for a listener that is slow; older ones are skipped.
const KEPT: usize = 1024;

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
pub struct Feed(broadcast::Sender<ScaleChange>);

impl Default for Feed {
    fn default() -> Self {
        Self(broadcast::Sender::new(KEPT))
    }
}

impl Feed {
    /// Tells of a change; nobody need be listening.
    pub fn tell(&self, change: ScaleChange) {
        // An error only says that nobody listens.
        let _ = self.0.send(change);
    }

    /// Listens to the changes from now on.
    pub fn listen(&self) -> broadcast::Receiver<ScaleChange> {
        self.0.subscribe()
    }
}
