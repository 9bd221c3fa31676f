//! Screening against exact runs: it may be approximate, but not off.

use super::library::library;
use ebb::sim::batch::{self, Job, Watch};
use ebb::sim::screen::unfit;
use ebb::sim::time::{HOUR, MINUTE};
use ebb::sim::{Case, Detail, Entry};
use std::num::NonZeroUsize;
use std::sync::Arc;

/// Seeds of a scenario that is screened: under four, pod-seconds of the burstiest differ by two percent from one four to another.
const SEEDS: u32 = 16;
/// Seeds of one that says `exact_only`, which is far off under any.
const FEW_SEEDS: u32 = 4;
/// How far the mean number of pod-seconds may be off, relative to the exact one.
const POD_SECONDS: f64 = 0.03;
/// How far the share of requests that break the promise may be off.
const VIOLATIONS: f64 = 0.02;
/// Within such a part of that it need not say `exact_only`. Under few seeds the difference itself is sure to one or two
/// percent, so near the edge either is right.
const CLEARLY: f64 = 1.0 / 3.0;

/// Means over seeds of pod-seconds and of the share of violations.
fn means(case: &Case, policy: &Entry, detail: Detail, seeds: u32) -> (f64, f64) {
    let jobs: Vec<Job> = (0..seeds)
        .map(|seed| Job { case: case.clone(), policy: policy.clone(), seed: case.seed(seed), detail })
        .collect();
    let threads = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let runs = batch::run(&jobs, threads, &Watch::default()).expect("nobody stops it");
    for run in &runs {
        let requests = run.requests;
        assert_eq!(requests.arrived, requests.completed + requests.failed + requests.censored, "{requests:?}");
        assert_eq!(run.approximate, detail == Detail::Screened, "it must say what it is");
    }
    let mean = |of: &dyn Fn(&ebb::sim::Outcome) -> f64| runs.iter().map(of).sum::<f64>() / f64::from(seeds);
    (mean(&|run| run.cost.pod_seconds), mean(&|run| run.slo.violation_share))
}

#[test]
fn screening_is_near_to_the_truth_on_every_scenario_that_does_not_say_otherwise() {
    let (mut near, mut far) = (0, 0);
    let mut wrong = Vec::new();
    for (name, case) in library() {
        let mut case = case.part(0, 2 * HOUR, 10 * MINUTE);
        let exact_only = case.scenario.exact_only;
        Arc::make_mut(&mut case.scenario).exact_only = false;
        let (mut off, mut clearly_near) = (Vec::new(), true);
        let mut fit = 0;
        for policy in &case.scenario.policies {
            // One policy that is far off is reason enough to say so.
            if exact_only && !off.is_empty() {
                break;
            }
            if let Some(reason) = unfit(&case, policy) {
                eprintln!("{name}, {}: not screened, {reason}", policy.name);
                continue;
            }
            fit += 1;
            let seeds = if exact_only { FEW_SEEDS } else { SEEDS };
            let (exact, exact_share) = means(&case, policy, Detail::Measures, seeds);
            let (screened, share) = means(&case, policy, Detail::Screened, seeds);
            let told = format!(
                "{name}, {}: pod-seconds {screened:.0} for {exact:.0} ({:+.1} %), violations {:.2} % for {:.2} %",
                policy.name,
                (screened / exact.max(1.0) - 1.0) * 100.0,
                share * 100.0,
                exact_share * 100.0
            );
            eprintln!("{told}");
            if (screened - exact).abs() > POD_SECONDS * exact || (share - exact_share).abs() > VIOLATIONS {
                off.push(told);
            }
            clearly_near &= (screened - exact).abs() <= POD_SECONDS * CLEARLY * exact;
            clearly_near &= (share - exact_share).abs() <= VIOLATIONS * CLEARLY;
        }
        if exact_only && clearly_near {
            wrong.push(format!("{name} says exact_only and need not"));
        } else if exact_only {
            far += usize::from(!off.is_empty());
        } else {
            wrong.extend(off);
            near += fit;
        }
    }
    assert!(near >= 9 && far >= 2, "only {near} policies were found near, and {far} scenarios far off");
    assert!(
        wrong.is_empty(),
        "too far off; if that cannot be helped, the scenario says exact_only:\n{}",
        wrong.join("\n")
    );
}
