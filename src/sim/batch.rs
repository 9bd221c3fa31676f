//! Many runs, spread over threads. Each is the same as if it ran alone, and results come in the order of the jobs.

use super::case::Case;
use super::oracle;
use super::outcome::Outcome;
use super::scenario::Entry;
use super::time::Micros;
use super::world::{self, Detail};
use std::num::NonZeroUsize;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

/// One run to be made.
#[derive(Clone, Debug)]
pub struct Job {
    /// What is simulated.
    pub case: Case,
    /// What decides.
    pub policy: Entry,
    /// With which seed.
    pub seed: u64,
    /// How much is written down.
    pub detail: Detail,
}

/// How far runs have come, for somebody who watches them, and who may stop them.
#[derive(Debug, Default)]
pub struct Watch {
    simulated: AtomicU64,
    stop: AtomicBool,
}

impl Watch {
    /// Microseconds simulated so far, of all runs together.
    pub fn simulated(&self) -> Micros {
        self.simulated.load(Ordering::Relaxed)
    }

    /// Ends all runs soon. What they bring then is of no use.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Whether runs are to end.
    pub fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    pub(super) fn went(&self, by: Micros) {
        self.simulated.fetch_add(by, Ordering::Relaxed);
    }
}

/// Makes every run on so many threads; none when it was stopped.
pub fn run(jobs: &[Job], threads: NonZeroUsize, watch: &Watch) -> Option<Vec<Outcome>> {
    let next = AtomicUsize::new(0);
    let done: Mutex<Vec<Option<Outcome>>> = Mutex::new(vec![None; jobs.len()]);
    let work = || {
        while let Some((place, job)) = {
            let place = next.fetch_add(1, Ordering::Relaxed);
            jobs.get(place).map(|job| (place, job))
        } {
            if watch.is_stopped() {
                return;
            }
            let outcome = world::run_watched(&job.case, &job.policy, job.seed, job.detail, watch);
            done.lock().unwrap_or_else(PoisonError::into_inner)[place] = Some(outcome);
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads.get().min(jobs.len()) {
            scope.spawn(work);
        }
        work();
    });
    if watch.is_stopped() {
        return None;
    }
    let outcomes: Option<Vec<Outcome>> =
        done.into_inner().unwrap_or_else(PoisonError::into_inner).into_iter().collect();
    outcomes.map(|mut outcomes| {
        oracle::relate(&mut outcomes);
        outcomes
    })
}
