//! What of a revision is worth an event on its PodAutoscaler: that its scale turns, and that it is stuck.
//!
//! | reason | type | when |
//! |---|---|---|
//! | `ScaledUp` | Normal | the scale goes up after it went down, or for the first time |
//! | `ScaledDown` | Normal | the scale goes down after it went up, or for the first time |
//! | `HeldAtMax` | Warning | its load needs more than max-scale, and requests queue |
//! | `ImagePullFailing`, `ContainerNotStarting`, `NoRoomForPods` | Warning | pods are wanted and do not become ready |
//! | `ActivatorNotInPath` | Warning | the last pod cannot go |
//!
//! Of turns at most one a minute is told of, and how many were not; of what a revision is stuck at, once when it begins and
//! again every ten minutes. An event is the least urgent of all writes, and one that finds too many under way is dropped.

use crate::controllers::pod_autoscaler::plan::Stuck;
use crate::observe::plan::Plan;
use crate::units::{RevisionKey, Span, Timestamp};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Between two turns that are told of.
const BETWEEN_TURNS: Span = Span::from_seconds(60);
/// Between two events that say the same.
const AGAIN: Span = Span::from_seconds(600);

/// The scale goes up after it went down.
pub const SCALED_UP: &str = "ScaledUp";
/// The scale goes down after it went up.
pub const SCALED_DOWN: &str = "ScaledDown";
/// More is wanted than max-scale allows, and requests queue.
pub const HELD_AT_MAX: &str = "HeldAtMax";

/// Every reason there is.
pub const REASONS: [&str; 7] =
    [SCALED_UP, SCALED_DOWN, HELD_AT_MAX, Stuck::IMAGE, Stuck::CONTAINER, Stuck::UNSCHEDULABLE, Stuck::NOT_IN_PATH];

/// An event.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct News {
    /// Whether somebody should do something about it.
    pub warns: bool,
    /// One of [`REASONS`].
    pub reason: &'static str,
    /// What happened, with the numbers.
    pub note: String,
}

/// Remembers what was told of each revision. Cheap to clone; all clones are one.
#[derive(Clone, Debug, Default)]
pub struct Teller {
    told: Arc<Mutex<HashMap<RevisionKey, Told>>>,
}

#[derive(Debug, Default)]
struct Told {
    /// Whether the scale went up last.
    up: Option<bool>,
    turned: Option<Timestamp>,
    /// Turns since then that were not told of.
    untold: u32,
    /// When what was told last; no more than there are reasons.
    stuck: Vec<(&'static str, Timestamp)>,
}

impl Teller {
    /// What is worth an event after a look. `decided` is what the decider wants, `because` tells why the scale changes.
    pub fn look(
        &self,
        key: &RevisionKey,
        plan: &Plan,
        stuck: Option<&Stuck>,
        decided: i32,
        because: impl FnOnce() -> String,
        now: Timestamp,
    ) -> Vec<News> {
        let mut all = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let change = plan.from.zip(plan.want).filter(|(from, to)| from != to);
        let held = plan.max > 0 && plan.want == Some(plan.max) && plan.max < decided && plan.proxied;
        if change.is_none() && stuck.is_none() && !held && !all.contains_key(key) {
            return Vec::new();
        }
        let told = all.entry(key.clone()).or_default();
        let turn = change.and_then(|(from, to)| told.turn(from, to, because, now));
        let max = plan.max;
        let held = held.then(|| Stuck {
            reason: HELD_AT_MAX,
            text: format!(
                "it is held at max-scale {max}, and its load would need {decided} pods. What the pods cannot take waits in the \
                 activator"
            ),
        });
        let stuck = told.stuck(stuck.or(held.as_ref()), now);
        turn.into_iter().chain(stuck).collect()
    }

    /// The revision is gone.
    pub fn forget(&self, key: &RevisionKey) {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }

    /// The revisions `which` chooses are not this replica's any more.
    pub fn let_go(&self, which: impl Fn(&RevisionKey) -> bool) {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).retain(|key, _| !which(key));
    }
}

impl Told {
    fn turn(&mut self, from: i32, to: i32, because: impl FnOnce() -> String, now: Timestamp) -> Option<News> {
        let up = from < to;
        if self.up.replace(up) == Some(up) {
            return None;
        }
        if self.turned.is_some_and(|turned| now.since(turned) < BETWEEN_TURNS) {
            self.untold = self.untold.saturating_add(1);
            return None;
        }
        self.turned = Some(now);
        let before = match std::mem::take(&mut self.untold) {
            0 => String::new(),
            untold => format!(" ({untold} turns before it were not told of)"),
        };
        let reason = if up { SCALED_UP } else { SCALED_DOWN };
        Some(News { warns: false, reason, note: format!("From {from} to {to} pods: {}{before}", because()) })
    }

    fn stuck(&mut self, stuck: Option<&Stuck>, now: Timestamp) -> Option<News> {
        let stuck = stuck?;
        // What comes and goes within the time is told of once.
        if self.stuck.iter().any(|(reason, at)| *reason == stuck.reason && now.since(*at) < AGAIN) {
            return None;
        }
        self.stuck.retain(|(reason, _)| *reason != stuck.reason);
        self.stuck.push((stuck.reason, now));
        let mut letters = stuck.text.chars();
        let first = letters.next().map(char::to_uppercase).into_iter().flatten();
        Some(News { warns: true, reason: stuck.reason, note: first.chain(letters).collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_told_once_and_what_lasts_again_after_a_while() {
        let key = RevisionKey::new("default", "hello-00001");
        let teller = Teller::default();
        let scaled = |from, to| Plan { from: Some(from), want: Some(to), ..Plan::default() };
        let image = Stuck { reason: Stuck::IMAGE, text: "the image of its pod cannot be pulled".to_owned() };
        let at_max = Plan { want: Some(3), max: 3, proxied: true, ..Plan::default() };
        for (second, plan, stuck, decided, want) in [
            (0, Plan::default(), None, 0, ""),
            (1, scaled(0, 1), None, 1, "ScaledUp: From 0 to 1 pods: load"),
            (2, scaled(1, 4), None, 4, ""),
            // The other way within a minute, and back: not told of, but counted.
            (30, scaled(4, 3), None, 3, ""),
            (40, scaled(3, 4), None, 4, ""),
            (70, scaled(4, 0), None, 0, "ScaledDown: From 4 to 0 pods: load (2 turns before it were not told of)"),
            (80, Plan::default(), Some(&image), 1, "ImagePullFailing: The image of its pod cannot be pulled"),
            (90, Plan::default(), Some(&image), 1, ""),
            (100, Plan::default(), None, 1, ""),
            (110, Plan::default(), Some(&image), 1, ""),
            (680, Plan::default(), Some(&image), 1, "ImagePullFailing: The image of its pod cannot be pulled"),
            (690, at_max.clone(), None, 3, ""),
            (
                700,
                at_max.clone(),
                None,
                7,
                "HeldAtMax: It is held at max-scale 3, and its load would need 7 pods. What the pods cannot take waits in \
                 the activator",
            ),
            (710, at_max.clone(), None, 8, ""),
            // Two that take turns are told of as often as each alone.
            (720, Plan::default(), Some(&image), 1, ""),
            (730, at_max, None, 8, ""),
        ] {
            let now = Timestamp::from_seconds(1_000_000 + second);
            let news = teller.look(&key, &plan, stuck, decided, || "load".to_owned(), now);
            let told: Vec<_> = news.iter().map(|news| format!("{}: {}", news.reason, news.note)).collect();
            assert_eq!(told.join("\n"), want, "after {second} s");
            assert!(news.iter().all(|news| REASONS.contains(&news.reason)));
        }
        teller.forget(&key);
        assert_eq!(teller.look(&key, &scaled(0, 1), None, 1, String::new, Timestamp::from_seconds(1)).len(), 1);
    }
}
