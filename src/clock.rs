//! The only reader of time.
//!
//! Built on tokio's clock plus one reading of the wall clock, so that paused test time moves it too and a wall clock
//! that is set back while the process runs never makes time go backwards.

use crate::units::{Span, Timestamp};

/// Tells what time it is. Cheap to copy; all copies of one clock agree.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    started: tokio::time::Instant,
    started_at: Timestamp,
}

impl Clock {
    /// A clock that starts from the machine's wall clock.
    #[expect(clippy::disallowed_methods, reason = "the one place that may ask")]
    pub fn system() -> Self {
        let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Self::starting_at(Timestamp::default() + Span::from_std(since_epoch))
    }

    /// A clock that shows `at` now and moves with tokio's time.
    #[expect(clippy::disallowed_methods, reason = "the one place that may ask")]
    pub fn starting_at(at: Timestamp) -> Self {
        Self { started: tokio::time::Instant::now(), started_at: at }
    }

    /// The time now.
    pub fn now(&self) -> Timestamp {
        self.started_at + Span::from_std(self.started.elapsed())
    }

    /// The tokio instant at which this clock will show `at`; at once when that is past.
    pub fn instant(&self, at: Timestamp) -> tokio::time::Instant {
        self.started + at.since(self.started_at).to_std()
    }
}
