//! Panic: when the panic window asks for many times the ready pods, the number only grows until a whole stable window
//! has passed without such a moment.

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
