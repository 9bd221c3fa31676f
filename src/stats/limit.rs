//! One log line per source and minute.

use crate::clock::Clock;
use crate::units::{Span, Timestamp};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// How long a source stays quiet after it was logged.
const QUIET: Span = Span::from_seconds(60);

/// The most sources told apart. More share one line a minute, so that a crowd of bad peers cannot use up memory.
const MOST_SOURCES: usize = 1024;

/// Decides which complaints about a source are worth a log line. Cheap to clone; clones share what they know.
#[derive(Clone, Debug)]
pub struct OncePerMinute {
    clock: Clock,
    seen: Arc<Mutex<HashMap<Arc<str>, Seen>>>,
}

#[derive(Debug)]
struct Seen {
    logged: Timestamp,
    suppressed: u64,
}

impl OncePerMinute {
    /// A limiter that has logged nothing yet.
    pub fn new(clock: Clock) -> Self {
        Self { clock, seen: Arc::default() }
    }

    /// Whether something about `source` should be logged now; if so, how many times it was not since the last line.
    pub fn allow(&self, source: &Arc<str>) -> Option<u64> {
        let now = self.clock.now();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if !seen.contains_key(source) && seen.len() >= MOST_SOURCES {
            seen.retain(|_, entry| now.since(entry.logged) < QUIET);
        }
        let crowded = seen.len() >= MOST_SOURCES && !seen.contains_key(source);
        let source = if crowded { Arc::from("others") } else { source.clone() };
        match seen.get_mut(&source) {
            Some(entry) if now.since(entry.logged) < QUIET => {
                entry.suppressed += 1;
                None
            }
            Some(entry) => {
                entry.logged = now;
                Some(std::mem::take(&mut entry.suppressed))
            }
            None => {
                seen.insert(source, Seen { logged: now, suppressed: 0 });
                Some(0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn each_source_gets_one_line_a_minute() {
        let limit = OncePerMinute::new(Clock::starting_at(Timestamp::from_seconds(1_700_000_000)));
        let (one, other) = (Arc::from("10.0.0.1"), Arc::from("10.0.0.2"));
        assert_eq!(limit.allow(&one), Some(0));
        assert_eq!(limit.allow(&one), None);
        assert_eq!(limit.allow(&one), None);
        assert_eq!(limit.allow(&other), Some(0));
        tokio::time::advance(Duration::from_mins(1)).await;
        assert_eq!(limit.allow(&one), Some(2));
        assert_eq!(limit.allow(&one), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_crowd_shares_a_line() {
        let limit = OncePerMinute::new(Clock::starting_at(Timestamp::default()));
        let lines = (0..10 * MOST_SOURCES).filter(|n| limit.allow(&Arc::from(n.to_string())).is_some()).count();
        assert_eq!(lines, MOST_SOURCES + 1);
        assert_eq!(limit.seen.lock().expect("no panic").len(), MOST_SOURCES + 1);
        tokio::time::advance(Duration::from_mins(1)).await;
        assert_eq!(limit.allow(&Arc::from("new")), Some(0));
    }
}
