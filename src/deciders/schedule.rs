//! Turns that come round for many keys, on one task.

use crate::clock::Clock;
use crate::units::{RevisionKey, Span, Timestamp};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::{Mutex, PoisonError};
use tokio::sync::Notify;

/// When the turns of one key come round: every `period` from its start. Turns missed are dropped, not made up for.
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

/// The next turns of all keys, earliest first.
#[derive(Debug, Default)]
pub struct Schedule {
    turns: Mutex<BinaryHeap<Reverse<(Timestamp, u64, RevisionKey)>>>,
    earlier: Notify,
}

impl Schedule {
    /// `key` has a turn `at`. `life` tells this life of the key from earlier ones, whose turns are void.
    pub fn add(&self, at: Timestamp, life: u64, key: RevisionKey) {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        let first = turns.peek().is_none_or(|Reverse((earliest, _, _))| at < *earliest);
        turns.push(Reverse((at, life, key)));
        drop(turns);
        if first {
            self.earlier.notify_one();
        }
    }

    /// Waits for the next turn that is due.
    pub async fn next(&self, clock: &Clock) -> (RevisionKey, u64) {
        loop {
            let at = {
                let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
                match turns.peek() {
                    Some(Reverse((at, _, _))) if *at <= clock.now() => {
                        if let Some(Reverse((_, life, key))) = turns.pop() {
                            return (key, life);
                        }
                        continue;
                    }
                    Some(Reverse((at, _, _))) => Some(*at),
                    None => None,
                }
            };
            match at {
                Some(at) => {
                    tokio::select! {
                        () = self.earlier.notified() => {}
                        () = tokio::time::sleep_until(clock.instant(at)) => {}
                    }
                }
                None => self.earlier.notified().await,
            }
        }
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

    #[tokio::test(start_paused = true)]
    async fn an_earlier_turn_added_later_comes_first() {
        let clock = Clock::starting_at(Timestamp::from_seconds(100));
        let schedule = Schedule::default();
        let key = |name| RevisionKey::new("default", name);
        schedule.add(clock.now() + Span::from_seconds(10), 1, key("late"));
        let (first, ()) = tokio::join!(schedule.next(&clock), async {
            schedule.add(clock.now() + Span::from_seconds(1), 2, key("early"));
        });
        assert_eq!(first, (key("early"), 2));
        assert_eq!(clock.now(), Timestamp::from_seconds(101));
        assert_eq!(schedule.next(&clock).await, (key("late"), 1));
    }
}
