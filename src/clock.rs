//! The only reader of time.
//!
//! Built on tokio's clock plus one reading of the wall clock, so that paused test time moves it too and a wall clock
//! that is set back while the process runs never makes time go backwards.
//!
//! A wall clock that leaps ahead is followed by [`Clock::follow`] within [`LOOK`]: the machine slept, was moved, or had the
//! wrong time until it reached a time server. Stats and Leases of other replicas carry the right time, and so should
//! those of this one. A wall clock that is set back is not followed, since windows would take no load until the time
//! they had reached; the log says so, and that a restart takes the new time.

use crate::units::{Span, Timestamp};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;
use tracing::warn;

/// How often the wall clock is looked at.
pub const LOOK: Duration = Duration::from_secs(1);
/// Differences up to this are of the two readings, not of the clocks.
const NOTHING: Span = Span::from_millis(50);
/// A clock that was set back by more than this is worth a line in the log.
const WORTH_A_WORD: Span = Span::SECOND;

/// Tells what time it is. Cheap to copy; all copies of one clock agree.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    started: tokio::time::Instant,
    started_at: Timestamp,
    /// Nanoseconds the wall clock has leapt ahead since.
    leapt: Option<&'static AtomicI64>,
}

impl Clock {
    /// A clock that starts from the machine's wall clock.
    pub fn system() -> Self {
        Self::starting_at(wall_clock())
    }

    /// The clock of this process: starts from the machine's wall clock and is the same one whoever asks. While
    /// [`follow`](Self::follow) runs it takes over leaps of the wall clock.
    pub fn of_process() -> Self {
        static CLOCK: OnceLock<Clock> = OnceLock::new();
        static LEAPT: AtomicI64 = AtomicI64::new(0);
        *CLOCK.get_or_init(|| Self { leapt: Some(&LEAPT), ..Self::system() })
    }

    /// A clock that shows `at` now and moves with tokio's time.
    #[expect(clippy::disallowed_methods, reason = "the one place that may ask")]
    pub fn starting_at(at: Timestamp) -> Self {
        Self { started: tokio::time::Instant::now(), started_at: at, leapt: None }
    }

    /// The time now.
    pub fn now(&self) -> Timestamp {
        self.started_at + self.leapt() + Span::from_std(self.started.elapsed())
    }

    /// The tokio instant at which this clock will show `at`; at once when that is past.
    pub fn instant(&self, at: Timestamp) -> tokio::time::Instant {
        self.started + at.since(self.started_at + self.leapt()).to_std()
    }

    /// Takes over leaps of the wall clock for as long as it is polled. A clock that is not [that of the
    /// process](Self::of_process) cannot leap; its `follow` only waits.
    pub async fn follow(self) {
        self.follow_as(wall_clock).await;
    }

    async fn follow_as(self, wall: impl Fn() -> Timestamp) {
        let Some(leapt) = self.leapt else { return std::future::pending().await };
        let mut told = Span::ZERO;
        loop {
            tokio::time::sleep(LOOK).await;
            let ahead = wall().since(self.now());
            if ahead > NOTHING {
                leapt.fetch_add(ahead.nanos(), Ordering::Release);
                warn!(%ahead, "the machine's clock leapt ahead; followed");
                told = Span::ZERO;
            } else if ahead < told - WORTH_A_WORD {
                warn!(behind = %(Span::ZERO - ahead), "the machine's clock was set back; not followed, a restart would");
                told = ahead;
            }
        }
    }

    fn leapt(&self) -> Span {
        Span::from_nanos(self.leapt.map_or(0, |leapt| leapt.load(Ordering::Acquire)))
    }
}

#[expect(clippy::disallowed_methods, reason = "the one place that may ask")]
fn wall_clock() -> Timestamp {
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Timestamp::default() + Span::from_std(since_epoch)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    const START: Timestamp = Timestamp::from_seconds(1_785_542_400);

    /// What a process that follows shows, and what its wall clock does.
    struct Machine {
        shown: Clock,
        /// A clock that nobody sets.
        steady: Clock,
    }

    impl Machine {
        fn new() -> Self {
            let steady = Clock::starting_at(START);
            let leapt: &'static AtomicI64 = Box::leak(Box::default());
            let shown = Clock { leapt: Some(leapt), ..steady };
            Self { shown, steady }
        }

        /// Lets `passed` go by with a wall clock that was set to be `off` from what it was at the start.
        async fn with_wall_off_by(&self, off: Span, passed: Duration) -> Span {
            let last = Mutex::new(self.shown.now());
            let wall = || {
                let mut last = last.lock().expect("one task");
                assert!(*last <= self.shown.now(), "time went back");
                *last = self.shown.now();
                self.steady.now() + off
            };
            let _ = tokio::time::timeout(passed, self.shown.follow_as(wall)).await;
            self.shown.now().since(self.steady.now())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_leap_ahead_is_followed_and_a_step_back_is_not() {
        let (machine, while_looked) = (Machine::new(), Duration::from_millis(2_500));
        for (name, off, want) in [
            ("as it was", Span::ZERO, Span::ZERO),
            ("a difference of reading", Span::from_millis(50), Span::ZERO),
            ("set forward by an hour", Span::from_seconds(3600), Span::from_seconds(3600)),
            ("and back by a minute", Span::from_seconds(3540), Span::from_seconds(3600)),
            ("and back to the start", Span::ZERO, Span::from_seconds(3600)),
            ("slept for a day", Span::from_seconds(86_400), Span::from_seconds(86_400)),
        ] {
            assert_eq!(machine.with_wall_off_by(off, while_looked).await, want, "{name}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_timer_is_right_after_a_leap() {
        let machine = Machine::new();
        machine.with_wall_off_by(Span::from_seconds(60), Duration::from_millis(1_500)).await;
        let due = machine.shown.now() + Span::from_seconds(7);
        tokio::time::sleep_until(machine.shown.instant(due)).await;
        assert_eq!(machine.shown.now(), due);
    }
}
