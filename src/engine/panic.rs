//! When the panic window asks for many times the ready pods, the revision panics: its number of pods only grows until a
//! whole stable window has passed without such a moment.
//!
//! # Rule
//!
//! ```text
//! cause = ceil(panic average / target) / max(1, ready) >= threshold
//! ```
//!
//! A cause starts panic or renews it. Without one, panic ends once `last cause + stable window < now`. While it lasts the
//! answer is the largest number asked for since it started. With one ready pod and the usual threshold of 2, needing
//! two pods is already a cause, so most scale-ups from one pod pin the number for a stable window.
//!
//! A revision first seen with more than one ready pod starts in panic: an autoscaler that has just started, or has just
//! become the owner, knows no load yet and must not take pods away.
//!
//! # Example
//!
//! ```
//! use ebb::engine::panic::Panic;
//! use ebb::units::Timestamp;
//!
//! let now = Timestamp::from_seconds(1000);
//! assert_eq!(Panic::new(1, now).since(), None);
//! assert_eq!((Panic::new(3, now).since(), Panic::new(3, now).most()), (Some(now), 3));
//! ```
//!
//! # Source
//!
//! Knative Serving, `pkg/autoscaler/scaling/autoscaler.go`: `newAutoscaler`, `Scale`.
//!
//! # Differences
//!
//! None. The largest number ignores max-scale, as there: the reconciler applies it.

use crate::units::{Span, Timestamp};

/// Whether a revision panics, and the most pods asked for meanwhile.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Panic {
    since: Option<Timestamp>,
    most: i32,
}

/// What one look did to the panic.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// It began.
    Started,
    /// It had another cause.
    Renewed,
    /// It went on, or there was none.
    None,
    /// It ended.
    Ended,
}

impl Panic {
    /// The state of a revision first seen at `now` with `ready` pods: with more than one it panics, which keeps them
    /// for one stable window after a restart or a change of owner.
    pub fn new(ready: i32, now: Timestamp) -> Self {
        Self { since: (ready > 1).then_some(now), most: ready }
    }

    /// What was once seen of [`since`](Self::since) and [`most`](Self::most).
    pub(super) fn restored(since: Option<Timestamp>, most: i32) -> Self {
        Self { since, most }
    }

    /// The last cause, while panicking.
    pub fn since(&self) -> Option<Timestamp> {
        self.since
    }

    /// The most pods asked for since panic started.
    pub fn most(&self) -> i32 {
        self.most
    }

    /// Takes in whether there is cause at `now`; it ends when there was none for more than `stable_window`.
    pub(super) fn look(&mut self, cause: bool, stable_window: Span, now: Timestamp) -> Change {
        match self.since {
            None if cause => {
                self.since = Some(now);
                Change::Started
            }
            Some(_) if cause => {
                self.since = Some(now);
                Change::Renewed
            }
            Some(since) if since + stable_window < now => {
                *self = Self { since: None, most: 0 };
                Change::Ended
            }
            _ => Change::None,
        }
    }

    /// The number to ask for when `wanted` is: while panicking, the most so far.
    pub(super) fn hold(&mut self, wanted: i32) -> i32 {
        if self.since.is_none() {
            return wanted;
        }
        self.most = self.most.max(wanted);
        self.most
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_renews_holds_and_ends() {
        let at = |seconds: i64| Timestamp::from_seconds(1_785_542_400 + seconds);
        let window = Span::from_seconds(60);
        let mut panic = Panic::new(1, at(0));
        assert_eq!((panic.since(), panic.most()), (None, 1));
        assert_eq!(panic.hold(9), 9, "nothing is held without panic");
        for (second, cause, change, asked, answered) in [
            (2, false, Change::None, 1, 1),
            (4, true, Change::Started, 3, 3),
            (6, false, Change::None, 2, 3),
            (8, true, Change::Renewed, 4, 4),
            (68, false, Change::None, 1, 4), // exactly a window since the last cause
            (69, false, Change::Ended, 1, 1),
            (70, false, Change::None, 1, 1),
        ] {
            assert_eq!(panic.look(cause, window, at(second)), change, "at {second}");
            assert_eq!(panic.hold(asked), answered, "at {second}");
        }
        assert_eq!((panic.since(), panic.most()), (None, 0));
    }
}
