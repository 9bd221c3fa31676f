//! When the turns of something come round: every `period` from its start. Turns missed are dropped, not made up for.

use crate::units::{Span, Timestamp};

/// The turns of one thing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cadence {
    next: Timestamp,
    period: Span,
}

impl Cadence {
    /// The first turn is one `period` after `start`.
    pub fn starting(start: Timestamp, period: Span) -> Self {
        Self { next: start + period, period }
    }

    /// The turns that go on from one at `last`: the first is the next after `now` that is whole periods from it.
    pub fn resuming(last: Timestamp, period: Span, now: Timestamp) -> Self {
        let mut cadence = Self::starting(last, period);
        cadence.take(now);
        cadence
    }

    /// The turns of which the next is due at `next`.
    pub(super) fn due(next: Timestamp, period: Span) -> Self {
        Self { next, period }
    }

    /// When the next turn is due.
    pub fn next(&self) -> Timestamp {
        self.next
    }

    /// Takes the turn that is due, if one is.
    pub fn take(&mut self, now: Timestamp) -> bool {
        if now < self.next {
            return false;
        }
        self.next = self.next + self.period;
        if self.next <= now {
            let missed = now.since(self.next).nanos() / self.period.nanos() + 1;
            self.next = self.next + Span::from_nanos(missed.saturating_mul(self.period.nanos()));
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_missed_are_dropped() {
        let start = Timestamp::from_seconds(100);
        let mut cadence = Cadence::starting(start, Span::from_seconds(2));
        assert!(!cadence.take(start + Span::from_millis(1_999)));
        assert!(cadence.take(start + Span::from_seconds(2)));
        assert!(!cadence.take(start + Span::from_seconds(3)));
        // 4, 6 and 8 s are over: one turn, and the next is at 10 s.
        assert!(cadence.take(start + Span::from_millis(8_500)));
        assert_eq!(cadence.next(), start + Span::from_seconds(10));
        // A turn taken exactly when the one after it is due leaves that one to the next look.
        assert!(cadence.take(start + Span::from_seconds(12)));
        assert_eq!(cadence.next(), start + Span::from_seconds(14));
    }

    #[test]
    fn goes_on_in_step_with_a_turn_that_was() {
        let last = Timestamp::from_seconds(100);
        for (later, next) in [(0, 1_000), (999, 1_000), (1_000, 2_000), (5_300, 6_000)] {
            let cadence = Cadence::resuming(last, Span::SECOND, last + Span::from_millis(later));
            assert_eq!(cadence.next(), last + Span::from_millis(next), "{later} ms later");
        }
    }
}
