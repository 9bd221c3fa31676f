//! Turns that come round for many keys, on one task.

use crate::clock::Clock;
use crate::units::{RevisionKey, Timestamp};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::{Mutex, PoisonError};
use tokio::sync::Notify;

pub use crate::engine::cadence::Cadence;

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
    use crate::units::Span;

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
