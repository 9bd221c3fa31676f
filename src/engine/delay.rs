//! With a scale-down delay a revision keeps the largest number of pods asked for within the delay.
//!
//! # Rule
//!
//! ```text
//! slot(t) = floor(unix second of t / 2)      two seconds: the time between decisions
//! K       = ceil(delay / 2 s)
//! maximum = the largest number of the slots (slot(last record) - K, slot(last record)]
//! ```
//!
//! So a number counts for `K` slots with its own, of two in one slot the larger counts, and delays of one and of two
//! seconds are the same. Only records move the window; time alone does not.
//!
//! # Example
//!
//! ```
//! use ebb::engine::delay::DelayWindow;
//! use ebb::units::{Span, Timestamp};
//!
//! let mut window = DelayWindow::new(Span::from_seconds(6)); // three slots
//! let mut after = |second, pods| {
//!     window.record(Timestamp::from_seconds(second), pods);
//!     window.current()
//! };
//! assert_eq!([after(0, 5), after(2, 3), after(4, 2), after(6, 1)], [5, 5, 5, 3]);
//! ```
//!
//! # Source
//!
//! Knative Serving, `pkg/autoscaler/aggregation/max/window.go` and `timewindow.go`; used by
//! `pkg/autoscaler/scaling/autoscaler.go`.
//!
//! # Differences
//!
//! All memory is taken when the window is made: four slots fit in 32 bytes, whatever is recorded.

use crate::units::{Span, Timestamp};

/// Length of a slot in seconds: the time between two decisions.
const SLOT_SECONDS: i64 = 2;

/// A sliding maximum.
#[derive(Clone, Debug)]
pub struct DelayWindow {
    /// A ring of candidates, oldest first, their values strictly falling: whatever is older and not larger than
    /// another can never be the maximum again.
    pub(super) candidates: Box<[Candidate]>,
    first: usize,
    pub(super) len: usize,
    pub(super) length: Span,
    /// Slot of the first record; the candidates' slots are counted from it.
    pub(super) origin: i64,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Candidate {
    pub(super) slot: i32,
    pub(super) value: i32,
}

impl DelayWindow {
    /// The longest delay there is; longer ones are cut to it.
    pub const LONGEST: Span = Span::from_seconds(24 * 60 * 60);

    /// An empty window of `delay`, rounded up to whole slots and at least one.
    pub fn new(delay: Span) -> Self {
        let length = delay.clamp(Span::from_nanos(1), Self::LONGEST);
        let slots = (length.seconds_up() + SLOT_SECONDS - 1) / SLOT_SECONDS;
        Self {
            candidates: vec![Candidate::default(); usize::try_from(slots).unwrap_or(1)].into(),
            first: 0,
            len: 0,
            length,
            origin: 0,
        }
    }

    /// The delay.
    pub fn length(&self) -> Span {
        self.length
    }

    /// Takes `value` in at `at`. A time before the latest one counts as the latest one.
    pub fn record(&mut self, at: Timestamp, value: i32) {
        let slot = at.second().div_euclid(SLOT_SECONDS);
        if self.len == 0 {
            self.origin = slot;
        }
        let mut slot = i32::try_from(slot - self.origin).unwrap_or(i32::MAX);
        if let Some(last) = self.last() {
            slot = slot.max(last.slot);
        }
        while self.last().is_some_and(|last| last.value <= value) {
            self.len -= 1;
        }
        while self.len > 0 && i64::from(slot) - i64::from(self.candidates[self.first].slot) >= self.slots() {
            self.first = self.at(1);
            self.len -= 1;
        }
        if self.last().is_some_and(|last| last.slot == slot) {
            return;
        }
        let end = self.at(self.len);
        self.candidates[end] = Candidate { slot, value };
        self.len += 1;
    }

    /// The largest value of the window that ends at the last record; 0 before the first.
    pub fn current(&self) -> i32 {
        if self.len == 0 { 0 } else { self.candidates[self.first].value }
    }

    /// Changes the delay, keeping the candidates that fit.
    pub fn resize(&mut self, delay: Span) {
        let mut resized = Self::new(delay);
        resized.origin = self.origin;
        if let Some(last) = self.last() {
            for index in 0..self.len {
                let candidate = self.candidates[self.at(index)];
                if i64::from(last.slot) - i64::from(candidate.slot) < resized.slots() {
                    resized.candidates[resized.len] = candidate;
                    resized.len += 1;
                }
            }
        }
        *self = resized;
    }

    fn last(&self) -> Option<Candidate> {
        (self.len > 0).then(|| self.candidates[self.at(self.len - 1)])
    }

    /// The ring's place of the candidate `index` after the oldest.
    pub(super) fn at(&self, index: usize) -> usize {
        let place = self.first + index;
        if place >= self.candidates.len() { place - self.candidates.len() } else { place }
    }

    pub(super) fn slots(&self) -> i64 {
        i64::try_from(self.candidates.len()).unwrap_or(i64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// An even second.
    const START: i64 = 1_785_542_400;

    #[test]
    fn keeps_the_largest_of_three_slots() {
        let mut window = DelayWindow::new(Span::from_seconds(6));
        assert_eq!(window.current(), 0, "before any record");
        for (millis, value, want) in [
            (0, 5, 5),
            (1000, 3, 5),
            (2000, 3, 5),
            (4000, 2, 5),
            (5900, 2, 5),
            (6000, 1, 3), // the slot of second 0 has left
            (8000, 1, 2),
            (10_000, 1, 1),
            (11_000, 0, 1),
            (12_000, 0, 1),
            (14_000, 0, 1),
            (16_000, 0, 0),
        ] {
            window.record(Timestamp::from_seconds(START) + Span::from_millis(millis), value);
            assert_eq!(window.current(), want, "at {millis} ms");
        }
    }

    #[test]
    fn one_slot_keeps_the_larger_of_two() {
        for delay in [1, 2] {
            let mut window = DelayWindow::new(Span::from_seconds(delay));
            window.record(Timestamp::from_seconds(START), 9);
            window.record(Timestamp::from_seconds(START + 1), 4);
            assert_eq!(window.current(), 9);
            window.record(Timestamp::from_seconds(START + 2), 4);
            assert_eq!(window.current(), 4);
        }
    }

    #[test]
    fn a_clock_that_goes_back_does_not_outgrow_the_window() {
        let mut window = DelayWindow::new(Span::from_seconds(4));
        for step in 0..100 {
            window.record(Timestamp::from_seconds(START - 10 * step), i32::try_from(1000 - step).expect("small"));
        }
        assert_eq!(window.current(), 1000);
    }

    proptest! {
        #[test]
        fn equals_the_obvious_maximum(
            delay in 1_i64..40,
            steps in proptest::collection::vec((0_i64..7, 0_i32..20, proptest::option::weighted(0.1, 1_i64..40)), 1..100),
        ) {
            let mut window = DelayWindow::new(Span::from_seconds(delay));
            let mut slots = (delay + 1) / 2;
            let mut records: Vec<(i64, i32)> = Vec::new();
            let mut now = START;
            for (wait, value, resize) in steps {
                now += wait;
                window.record(Timestamp::from_seconds(now), value);
                records.push((now / 2, value));
                if let Some(delay) = resize {
                    window.resize(Span::from_seconds(delay));
                    // What the old window had dropped does not come back.
                    records.retain(|&(slot, _)| slot > now / 2 - slots);
                    slots = (delay + 1) / 2;
                }
                records.retain(|&(slot, _)| slot > now / 2 - slots);
                let want = records.iter().map(|&(_, value)| value).max();
                prop_assert_eq!(Some(window.current()), want);
            }
        }
    }
}
