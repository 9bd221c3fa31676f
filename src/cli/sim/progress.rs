//! Runs with somebody who waits for them: how far they are and how long it will take, on a terminal only.

use crate::clock::Clock;
use crate::sim::Outcome;
use crate::sim::batch::{self, Job, Watch};
use crate::sim::time::seconds;
use crate::units::Span;
use anyhow::bail;
use std::io::{IsTerminal as _, Write as _};
use std::num::NonZeroUsize;
use std::sync::mpsc;
use std::time::Duration;

/// How often the line is drawn.
const EVERY: Duration = Duration::from_millis(200);

/// Makes every run, in the order of the jobs.
pub(super) fn run(jobs: &[Job], threads: NonZeroUsize, watch: &Watch) -> anyhow::Result<Vec<Outcome>> {
    if !std::io::stderr().is_terminal() {
        return ended(batch::run(jobs, threads, watch));
    }
    let all: f64 = jobs.iter().map(|job| seconds(job.case.length())).sum();
    let (done, over) = mpsc::channel::<()>();
    let outcomes = std::thread::scope(|scope| {
        scope.spawn(move || draw(all, watch, &over));
        let outcomes = batch::run(jobs, threads, watch);
        drop(done);
        outcomes
    });
    ended(outcomes)
}

fn ended(outcomes: Option<Vec<Outcome>>) -> anyhow::Result<Vec<Outcome>> {
    match outcomes {
        Some(outcomes) => Ok(outcomes),
        None => bail!("stopped before the end"),
    }
}

fn draw(all: f64, watch: &Watch, over: &mpsc::Receiver<()>) {
    let clock = Clock::system();
    let begun = clock.now();
    while over.recv_timeout(EVERY) == Err(mpsc::RecvTimeoutError::Timeout) {
        let part = (seconds(watch.simulated()) / all).clamp(0.0, 1.0);
        let passed = clock.now().since(begun).seconds_f64();
        let left = if part > 0.0 { passed / part - passed } else { 0.0 };
        #[expect(clippy::cast_possible_truncation, reason = "for people")]
        let left = Span::from_seconds(left.round() as i64);
        let mut err = std::io::stderr().lock();
        let _ = write!(err, "\r\x1b[Ksimulating: {:3.0}%, {left} left", part * 100.0);
        let _ = err.flush();
    }
    eprint!("\r\x1b[K");
}
