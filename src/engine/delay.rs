//! The scale-down delay: the largest number asked for in the last `K` slots of two seconds.

use crate::units::{Span, Timestamp};

/// Length of a slot in seconds: the time between two decisions.
const SLOT_SECONDS: i64 = 2;

/// A sliding maximum.
#[derive(Clone, Debug)]
pub struct DelayWindow {
    /// A ring of candidates, oldest first, their values strictly falling: whatever is older and not larger than
    /// another can never be the maximum again.
    candidates: Box<[Candidate]>,
    first: usize,
    len: usize,
    length: Span,
    /// Slot of the first record; the candidates' slots are counted from it.
    origin: i64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Candidate {
    slot: i32,
    value: i32,
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
    fn at(&self, index: usize) -> usize {
        let place = self.first + index;
        if place >= self.candidates.len() { place - self.candidates.len() } else { place }
    }

    fn slots(&self) -> i64 {
        i64::try_from(self.candidates.len()).unwrap_or(i64::MAX)
    }
}
