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

/// Characters of the bar.
const WIDTH: u32 = 30;
/// How often the line is drawn.
const EVERY: Duration = Duration::from_millis(200);

/// Makes every run, in the order of the jobs.
pub(super) fn run(jobs: &[Job], threads: NonZeroUsize, watch: &Watch) -> anyhow::Result<Vec<Outcome>> {
    let all: f64 = jobs.iter().map(|job| seconds(job.case.length())).sum();
    let part = || seconds(watch.simulated()) / all;
    ended(shown("simulating", &part, || batch::run(jobs, threads, watch)))
}

/// Does something and shows what part of it is done.
pub(super) fn shown<T>(doing: &str, part: &(impl Fn() -> f64 + Sync), work: impl FnOnce() -> T) -> T {
    if !std::io::stderr().is_terminal() {
        return work();
    }
    let (done, over) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || draw(doing, part, &over));
        let result = work();
        drop(done);
        result
    })
}

fn ended(outcomes: Option<Vec<Outcome>>) -> anyhow::Result<Vec<Outcome>> {
    match outcomes {
        Some(outcomes) => Ok(outcomes),
        None => bail!("stopped before the end"),
    }
}

/// A part of the whole as a bar.
fn bar(part: f64) -> String {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "of 0 to the width")]
    let full = ((part * f64::from(WIDTH)).round() as u32).min(WIDTH) as usize;
    format!("[{}{}]", "#".repeat(full), ".".repeat(WIDTH as usize - full))
}

fn draw(doing: &str, part: &impl Fn() -> f64, over: &mpsc::Receiver<()>) {
    let clock = Clock::system();
    let begun = clock.now();
    #[expect(clippy::cast_possible_truncation, reason = "for people")]
    let whole = |length: f64| Span::from_seconds(length.round() as i64);
    while over.recv_timeout(EVERY) == Err(mpsc::RecvTimeoutError::Timeout) {
        let passed = clock.now().since(begun).seconds_f64();
        let part = part().clamp(0.0, 1.0);
        let left = if part > 0.0 { passed / part - passed } else { 0.0 };
        let mut err = std::io::stderr().lock();
        let _ = write!(err, "\r\x1b[K{doing}: {} {:3.0} %, {} left", bar(part), part * 100.0, whole(left));
        let _ = err.flush();
    }
    eprint!("\r\x1b[K");
}
