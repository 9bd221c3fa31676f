//! Stats that came before there was anything to record them in.
//!
//! An owner that has just been promoted, or a revision that has just been made, gets its first stat before its Metric
//! and its PodAutoscaler were looked at. It is kept until they have been, so that the revision wakes as fast as any
//! other. What is kept is bounded by revisions, by stats of each and by age; beyond that a stat is dropped and counted,
//! and the next second brings another.

use crate::engine::Load;
use crate::units::{RevisionKey, Span, Timestamp};
use arrayvec::ArrayVec;
use std::collections::HashMap;

/// Revisions of which stats are kept at once.
const MOST_REVISIONS: usize = 1_000;
/// Stats kept of one revision: one a second from each of a few activators, for as long as two reconciles take.
const MOST_STATS: usize = 8;
/// How long a stat is worth keeping: as long as other autoscalers try to deliver one.
const MOST_AGE: Span = Span::from_seconds(15);

/// One stat that was kept.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Stat {
    /// The second it was reported for.
    pub(super) at: Timestamp,
    /// The load.
    pub(super) load: Load,
}

/// All that are kept.
#[derive(Debug, Default)]
pub(super) struct Early {
    kept: HashMap<RevisionKey, Kept>,
}

#[derive(Debug)]
struct Kept {
    since: Timestamp,
    stats: ArrayVec<Stat, MOST_STATS>,
}

impl Early {
    /// Whether stats of the revision are being kept already.
    pub(super) fn awaits(&self, key: &RevisionKey, now: Timestamp) -> bool {
        self.kept.get(key).is_some_and(|kept| now.since(kept.since) <= MOST_AGE)
    }

    /// Keeps a stat, or says that there is no place for it.
    pub(super) fn keep(&mut self, key: &RevisionKey, now: Timestamp, stat: Stat) -> bool {
        if !self.awaits(key, now) {
            self.kept.remove(key);
            if self.kept.len() >= MOST_REVISIONS {
                self.kept.retain(|_, kept| now.since(kept.since) <= MOST_AGE);
            }
            if self.kept.len() >= MOST_REVISIONS {
                return false;
            }
        }
        let kept = self.kept.entry(key.clone()).or_insert_with(|| Kept { since: now, stats: ArrayVec::new() });
        kept.stats.try_push(stat).is_ok()
    }

    /// Hands out what was kept of a revision, unless it is too old by now.
    pub(super) fn take(&mut self, key: &RevisionKey, now: Timestamp) -> ArrayVec<Stat, MOST_STATS> {
        match self.kept.remove(key) {
            Some(kept) if now.since(kept.since) <= MOST_AGE => kept.stats,
            _ => ArrayVec::new(),
        }
    }

    /// Forgets what was kept of a revision.
    pub(super) fn forget(&mut self, key: &RevisionKey) {
        self.kept.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: usize) -> RevisionKey {
        RevisionKey::new("default", &format!("r{number}"))
    }

    #[test]
    fn is_bounded_in_every_direction() {
        let now = Timestamp::from_seconds(1000);
        let stat = Stat { at: now, load: Load::default() };
        let mut early = Early::default();
        for _ in 0..MOST_STATS {
            assert!(early.keep(&key(0), now, stat));
        }
        assert!(!early.keep(&key(0), now, stat), "one stat too many");
        for number in 1..MOST_REVISIONS {
            assert!(early.keep(&key(number), now, stat));
        }
        assert!(!early.keep(&key(MOST_REVISIONS), now, stat), "one revision too many");

        let later = now + MOST_AGE + Span::SECOND;
        assert!(early.keep(&key(MOST_REVISIONS), later, stat), "the old ones make room");
        assert_eq!(early.take(&key(0), later).len(), 0, "too old");
        assert_eq!(early.take(&key(MOST_REVISIONS), later).as_slice(), [stat]);
        assert_eq!(early.take(&key(MOST_REVISIONS), later).len(), 0, "handed out once");
    }
}
