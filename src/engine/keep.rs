//! What is not known is not zero: while the load of a revision is unknown or only partly known, its pods are kept.
//!
//! # Rule
//!
//! Two things make a load unknown. *Scrapes fail* while pods are ready; then, with `last` the time of the last good one:
//!
//! ```text
//! until last + stable window    the last load scraped counts again, once for each second without a scrape;
//!                               the number may change with it, but the last pod stays
//! after that                    nothing is counted, and the number may only rise
//! ```
//!
//! The activators' reports count as ever, on top of what is held, since they report what the pods do not. The rule is off
//! for a revision that is not scraped, of which no pod is ready, or to which no route leads: nothing is unknown there, or
//! nobody asks. A good scrape ends it.
//!
//! The other is *taking over*: a decider made for a revision that has been running knows nothing of the time before. It
//! keeps what was last wanted until it has decided on load for a stable window. Panic from the start
//! ([`panic`](super::panic)) does so too, but only for more than one ready pod. A new revision has nothing to be kept, so
//! its first pods and its first way to zero are as without this rule.
//!
//! What is kept is also what the scale-down delay remembers, so the delay runs from the end of not knowing.
//!
//! # Example
//!
//! ```
//! use ebb::engine::keep::{Keep, Unscraped};
//! use ebb::units::Timestamp;
//!
//! let since = Timestamp::from_seconds(1000);
//! let keep = Keep { unscraped: Some(Unscraped { since, counted: false, least: 3 }), taken_over: None };
//! assert_eq!(keep.least(), 3);
//! ```
//!
//! # Source
//!
//! Not in Knative: there a window runs dry while scrapes fail, and exactly one window after the last stat it is taken
//! for no load (`pkg/autoscaler/aggregation/bucketing.go`, `WindowAverage` and `IsEmpty`); after that there are no
//! decisions.
//!
//! # Differences
//!
//! All of it: [`Compat::hold_last_scrape`](crate::units::Compat::hold_last_scrape) and
//! [`Compat::takeover_hold`](crate::units::Compat::takeover_hold).

use super::collection::Load;
use crate::units::{Span, Timestamp};

/// What a decision may not go below, and why.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Keep {
    /// Scrapes of ready pods fail.
    pub unscraped: Option<Unscraped>,
    /// The decider has just taken over.
    pub taken_over: Option<TakenOver>,
}

impl Keep {
    /// The fewest pods a decision may ask for.
    pub fn least(&self) -> i32 {
        let unscraped = self.unscraped.map_or(0, |unscraped| unscraped.least);
        unscraped.max(self.taken_over.map_or(0, |taken_over| taken_over.least))
    }
}

/// Scrapes of ready pods fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unscraped {
    /// Since the last good scrape, or the first failure where there was none.
    pub since: Timestamp,
    /// Whether the last load scraped still counts.
    pub counted: bool,
    /// The fewest pods meanwhile.
    pub least: i32,
}

/// A decider that has just taken over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TakenOver {
    /// Pods last wanted.
    pub least: i32,
    /// Until when they are kept.
    pub until: Timestamp,
}

/// How the scrapes of one revision go.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub(super) struct Scrapes {
    /// The last good one.
    pub(super) last: Option<Good>,
    /// The first failure since.
    pub(super) failing: Option<Timestamp>,
}

/// A good scrape.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Good {
    /// When it was recorded.
    pub(super) at: Timestamp,
    /// What it brought.
    pub(super) load: Load,
    /// The last time for which it was counted.
    pub(super) counted: Timestamp,
}

impl Scrapes {
    /// A scrape brought `load` at `now`.
    pub(super) fn succeed(&mut self, now: Timestamp, load: &Load) {
        *self = Self { last: Some(Good { at: now, load: *load, counted: now }), failing: None };
    }

    /// A scrape failed at `now`.
    pub(super) fn fail(&mut self, now: Timestamp) {
        self.failing.get_or_insert(now);
    }

    /// The next time the last good scrape counts again: a second after the last, while that is not after `until` nor
    /// later than `stable_window` after the scrape.
    pub(super) fn hold(&mut self, until: Timestamp, stable_window: Span) -> Option<(Timestamp, Load)> {
        let last = self.last.as_mut()?;
        let at = last.counted + Span::SECOND;
        if at > until || at > last.at + stable_window {
            return None;
        }
        last.counted = at;
        Some((at, last.load))
    }

    /// Whether load is unknown at `now`, for a reachable revision with ready pods of which `desired` were last wanted.
    pub(super) fn unknown(&self, now: Timestamp, stable_window: Span, desired: i32) -> Option<Unscraped> {
        let failing = self.failing?;
        Some(match self.last {
            Some(last) if now <= last.at + stable_window => {
                Unscraped { since: last.at, counted: true, least: desired.min(1) }
            }
            last => Unscraped { since: last.map_or(failing, |last| last.at), counted: false, least: desired },
        })
    }
}
