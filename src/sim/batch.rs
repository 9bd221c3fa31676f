//! Many runs, spread over threads. Each is the same as if it ran alone, and results come in the order of the jobs.

use super::case::Case;
use super::oracle;
use super::outcome::{Outcome, Work};
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
    /// What runs that ended took, in nanoseconds as [`Work`] counts them.
    took: AtomicU64,
    stop: AtomicBool,
}

impl Watch {
    /// Microseconds simulated so far, of all runs together.
    pub fn simulated(&self) -> Micros {
        self.simulated.load(Ordering::Relaxed)
    }

    /// What the runs that ended took, in seconds as [`Work`] counts them.
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    pub fn took(&self) -> f64 {
        self.took.load(Ordering::Relaxed) as f64 * 1e-9
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
    let outcomes: Result<Vec<Outcome>, Work> =
        run_within(jobs, threads, watch, |_| f64::INFINITY)?.into_iter().collect();
    outcomes.ok().map(|mut outcomes| {
        oracle::relate(&mut outcomes);
        outcomes
    })
}

/// The same, but a run that takes longer than `most` says, in seconds as [`Work`] counts them, is given up.
pub(super) fn run_within(
    jobs: &[Job],
    threads: NonZeroUsize,
    watch: &Watch,
    most: impl Fn(&Job) -> f64 + Sync,
) -> Option<Vec<Result<Outcome, Work>>> {
    let next = AtomicUsize::new(0);
    let done: Mutex<Vec<Option<Result<Outcome, Work>>>> = Mutex::new(vec![None; jobs.len()]);
    let work = || {
        while let Some((place, job)) = {
            let place = next.fetch_add(1, Ordering::Relaxed);
            jobs.get(place).map(|job| (place, job))
        } {
            if watch.is_stopped() {
                return;
            }
            let outcome = world::run_within(job, watch, most(job));
            let work = outcome.as_ref().map_or_else(|work| *work, |outcome| outcome.work);
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a length of time")]
            watch.took.fetch_add((work.seconds() * 1e9) as u64, Ordering::Relaxed);
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
    done.into_inner().unwrap_or_else(PoisonError::into_inner).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::scenario;

    #[test]
    fn what_takes_too_much_is_given_up_and_nothing_else_is() {
        let text = "apiVersion: sim/v1\nname: x\nduration: 10m\nload: { synthetic: { poisson: { rate: 5 } }, service: \
                    { law: constant, value: 100ms } }\npolicies:\n- { name: few, fixed: { pods: 1 } }\n- { name: many, kpa: \
                    { annotations: { autoscaling.knative.dev/min-scale: \"300\" } } }\n";
        let scenario = scenario::parse("x.yaml", text).expect("a scenario");
        let case = Case::new(scenario, None).expect("a case");
        let job =
            |policy: &Entry| Job { case: case.clone(), policy: policy.clone(), seed: 1, detail: Detail::Measures };
        let jobs: Vec<Job> = case.scenario.policies.iter().map(job).collect();
        let whole = run(&jobs, NonZeroUsize::MIN, &Watch::default()).expect("nobody stops it");
        let [few, many] = [whole[0].work.seconds(), whole[1].work.seconds()];
        assert!(few * 2.0 < many, "{few} {many}");
        let within = run_within(&jobs, NonZeroUsize::MIN, &Watch::default(), |_| many / 2.0).expect("nobody stops it");
        assert_eq!(within[0].as_ref(), Ok(&whole[0]));
        let took = within[1].as_ref().expect_err("it takes twice as much").seconds();
        assert!(many / 2.0 < took && took < many * 0.6, "{took} of {many}");
    }
}
