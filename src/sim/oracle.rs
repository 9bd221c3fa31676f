//! The least any policy that lets nobody wait can cost. It knows the future: a floor, not a competitor.
//!
//! # Rule
//!
//! The demand is the number of requests that would be in service if none ever waited. A pod takes `c` of them, so level
//! `k` of the demand is the time in which `ceil(demand / c) >= k`. Each level on its own is served by one pod at a time:
//! a gap in it is bridged when keeping the pod costs no more than stopping it and starting another, which is the time it
//! takes to stop and to start. Each start is begun one start-up time ahead.
//!
//! The sum over levels is the least cost without waiting where requests can be packed perfectly. A policy that lets
//! requests wait can cost less, which its violations show.

use super::arrivals::{Arrivals, Part};
use super::batch::Watch;
use super::case::Case;
use super::histogram::Histogram;
use super::law::Written;
use super::outcome::{Cost, Fit, Lengths, Outcome, Requests, SloMeasures, Work, area, share};
use super::random::{Purpose, stream};
use super::scenario::{Entry, Kpa, Oracle};
use super::time::{MINUTE, Micros, from_seconds, seconds};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// One level of the demand.
#[derive(Clone, Copy, Debug, Default)]
struct Level {
    /// Since when its pod is needed.
    since: Micros,
    /// Until when it was last needed; none while it is.
    until: Option<Micros>,
    /// Since when it is needed without a gap.
    busy_since: Micros,
}

/// What pods cost, clipped to what is measured.
#[derive(Clone, Copy, Debug, Default)]
struct Bill {
    from: Micros,
    to: Micros,
    starting: u128,
    busy: u128,
    kept: u128,
    draining: u128,
    starts: u64,
}

impl Bill {
    fn part(&self, from: Micros, to: Micros) -> u128 {
        u128::from(to.min(self.to).saturating_sub(from.max(self.from)))
    }

    fn busy(&mut self, from: Micros, to: Micros) {
        self.busy += self.part(from, to);
    }

    /// A pod that was needed from one instant to another, gaps included.
    fn close(&mut self, level: &Level, until: Micros, startup: Micros, stop: Micros) {
        self.starting += self.part(level.since.saturating_sub(startup), level.since);
        self.kept += self.part(level.since, until);
        self.draining += self.part(until, until + stop);
        self.starts += u64::from(level.since >= self.from);
    }
}

/// How long a pod takes to start, on average, in seconds.
pub fn startup(case: &Case) -> f64 {
    let startup = &case.scenario.world.startup;
    let failures = &case.scenario.world.failures;
    let mean = |written: &Written| written.read().map_or(0.0, |law| law.mean());
    let slow = 1.0 + failures.slow_start.0 * (failures.slow_factor - 1.0);
    let pull = mean(&startup.image_pull) * (1.0 - startup.image_cached.0);
    let start = (mean(&startup.start) + mean(&startup.application)) * slow;
    (pull + start) * case.strain.startup + seconds(startup.readiness_period.0) / 2.0
}

/// The floor under one seed.
pub fn run(case: &Case, policy: &Entry, seed: u64, watch: &Watch) -> Outcome {
    let scenario = &*case.scenario;
    let Oracle { per_pod } = policy.oracle.unwrap_or_default();
    let per_pod = per_pod.unwrap_or_else(|| {
        let limit = scenario.revision.container_concurrency;
        if limit > 0 { f64::from(limit) } else { scenario.resolved(&Kpa::default()).target_value() }
    });
    let starts_in = from_seconds(startup(case));
    let stops_in = scenario.world.shutdown.quiet.0;
    let bridge = starts_in + stops_in;

    let part = Part { from: case.from, to: case.to, rate: case.strain.rate };
    let arrivals = Arrivals::new(&scenario.load, case.trace.as_ref(), part, seed, &scenario.name);
    let law = scenario.load.service.as_ref().and_then(|service| service.read().ok());
    let sampler = law.map(|law| law.scaled(case.strain.service).sampler());
    let mut services = stream(seed, Purpose::Service, &scenario.name);

    let end = case.length();
    let mut bill = Bill { from: case.warm_up, to: end, ..Bill::default() };
    let mut levels: Vec<Level> = Vec::new();
    let mut leaving: BinaryHeap<Reverse<Micros>> = BinaryHeap::new();
    let (mut needed, mut most, mut most_pods) = (0_usize, 0, 0);
    let mut latency = Histogram::default();
    let (mut came, mut censored, mut slow, mut demand_area) = (0_u64, 0_u64, 0_u64, 0_u128);
    let (mut told, mut all) = (0, 0);

    let fall = |at: Micros, demand: usize, needed: &mut usize, levels: &mut Vec<Level>, bill: &mut Bill| {
        let pods = need(demand, per_pod);
        while *needed > pods {
            *needed -= 1;
            let level = &mut levels[*needed];
            bill.busy(level.busy_since, at);
            level.until = Some(at);
        }
    };
    for arrival in arrivals {
        let at = arrival.at;
        if at >= end {
            break;
        }
        while leaving.peek().is_some_and(|Reverse(leaves)| *leaves <= at) {
            let Some(Reverse(leaves)) = leaving.pop() else { break };
            fall(leaves, leaving.len(), &mut needed, &mut levels, &mut bill);
        }
        let service = match (&sampler, arrival.took) {
            (Some(sampler), _) => sampler.draw(&mut services),
            (None, took) => from_seconds(seconds(took.unwrap_or(0)) * case.strain.service),
        };
        let leaves = at + service;
        leaving.push(Reverse(leaves));
        if at >= case.warm_up {
            came += 1;
            if leaves < end {
                latency.record(service);
                slow += u64::from(service > scenario.slo.latency.0);
            } else {
                censored += 1;
            }
        }
        all += 1;
        demand_area += bill.part(at, leaves);
        most = most.max(leaving.len());
        let pods = need(leaving.len(), per_pod);
        while needed < pods {
            if needed == levels.len() {
                levels.push(Level { since: at, until: None, busy_since: at });
            } else {
                let level = &mut levels[needed];
                if let Some(until) = level.until
                    && at - until > bridge
                {
                    bill.close(level, until, starts_in, stops_in);
                    level.since = at;
                }
                (level.until, level.busy_since) = (None, at);
            }
            needed += 1;
        }
        most_pods = most_pods.max(needed);
        if at - told >= MINUTE {
            watch.went(at - told);
            told = at;
            if watch.is_stopped() {
                break;
            }
        }
    }
    while let Some(Reverse(leaves)) = leaving.pop() {
        fall(leaves.min(end), leaving.len(), &mut needed, &mut levels, &mut bill);
    }
    watch.went(end - told);
    for level in &levels {
        bill.close(level, level.until.unwrap_or(end), starts_in, stops_in);
    }

    let measured = seconds(end - case.warm_up);
    let pod_seconds = area(bill.starting + bill.kept + bill.draining);
    let idle = area(bill.kept - bill.busy);
    let completed = came - censored;
    Outcome {
        policy: policy.name.clone(),
        kind: policy.kind().to_owned(),
        seed,
        measured,
        requests: Requests { arrived: came, completed, failed: 0, censored, retries: 0 },
        latency: Lengths::from(&latency),
        service: Lengths::from(&latency),
        slo: SloMeasures {
            limit: seconds(scenario.slo.latency.0),
            percentile: scenario.slo.percentile,
            violations: slow,
            violation_share: share(slow, completed),
            ..SloMeasures::default()
        },
        cost: Cost {
            pod_seconds,
            starting: area(bill.starting),
            busy: area(bill.busy),
            idle,
            draining: area(bill.draining),
            cpu_seconds: pod_seconds * scenario.revision.cpu,
            gib_seconds: pod_seconds * scenario.revision.memory,
            idle_share: if pod_seconds > 0.0 { idle / pod_seconds } else { 0.0 },
            mean_pods: pod_seconds / measured,
            max_pods: u32::try_from(most_pods).unwrap_or(u32::MAX),
            pods_started: bill.starts,
            against_oracle: None,
        },
        fit: Fit { mean_demand: area(demand_area) / measured, max_demand: most as u64, ..Fit::default() },
        latencies: latency.classes().collect(),
        work: Work { requests: all, ..Work::default() },
        ..Outcome::default()
    }
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "numbers of requests and pods are far below 2^53"
)]
fn need(demand: usize, per_pod: f64) -> usize {
    (demand as f64 / per_pod).ceil() as usize
}

/// Tells each outcome how many times as much it cost as the floor under the same seed, where there is one.
pub fn relate<'a>(outcomes: impl IntoIterator<Item = &'a mut Outcome>) {
    let mut outcomes: Vec<&mut Outcome> = outcomes.into_iter().collect();
    let floors: Vec<(u64, f64)> = outcomes
        .iter()
        .filter(|outcome| outcome.kind == "oracle" && outcome.cost.pod_seconds > 0.0)
        .map(|outcome| (outcome.seed, outcome.cost.pod_seconds))
        .collect();
    for outcome in &mut outcomes {
        let floor = floors.iter().find(|(seed, _)| *seed == outcome.seed);
        outcome.cost.against_oracle = floor.map(|(_, floor)| outcome.cost.pod_seconds / floor);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::Scenario;
    use crate::sim::scenario::{Load, TraceLoad};
    use crate::sim::time::{Length, SECOND};
    use crate::sim::trace::{Recorded, Request, Trace};

    #[test]
    fn a_gap_is_bridged_when_that_is_cheaper() {
        // Pods of one request that start in 4 s and stop in 6 s; requests of 2 s.
        let request = |at: u64| Request { at: at * SECOND, took: Some(2 * SECOND) };
        for (name, at, cost) in [
            // 4 + 2 + 6
            ("one", vec![20], 12.0),
            // 4 + 2 + 8 + 2 + 6: a gap of 8 s is no dearer than 10 s of stopping and starting.
            ("bridged", vec![20, 30], 22.0),
            ("at the edge", vec![20, 32], 24.0),
            ("two starts", vec![20, 33], 24.0),
            // The second level is a pod of its own.
            ("two at once", vec![20, 21], 4.0 + 3.0 + 6.0 + 4.0 + 1.0 + 6.0),
        ] {
            let mut scenario = Scenario { name: name.to_owned(), ..Scenario::default() };
            scenario.load =
                Load { trace: Some(TraceLoad { file: name.to_owned(), ..TraceLoad::default() }), ..Load::default() };
            scenario.revision.container_concurrency = 1;
            let startup = &mut scenario.world.startup;
            startup.start = Written::constant(Length::seconds(4));
            startup.application = Written::constant(Length(0));
            startup.readiness_period = Length(0);
            scenario.world.shutdown.quiet = Length::seconds(6);
            // The last one only makes the trace long enough.
            let requests: Vec<Request> =
                at.iter().map(|at| request(*at)).chain([Request { at: 500 * SECOND, took: Some(0) }]).collect();
            let trace = Trace { name: name.to_owned(), recorded: Recorded::Requests(requests), notes: Vec::new() };
            let policy = Entry { name: "floor".to_owned(), oracle: Some(Oracle::default()), ..Entry::default() };
            scenario.policies = vec![policy.clone()];
            let case = Case::new(scenario, Some(trace)).expect("a case");
            let outcome = run(&case, &policy, 1, &Watch::default());
            // That last one needs a pod for no time, which is started for it: 4 s, and the end of the run cuts its stop.
            let pod_seconds = outcome.cost.pod_seconds - 4.0;
            assert!((pod_seconds - cost).abs() < 1e-5, "{name}: {pod_seconds} for {cost}");
        }
    }
}
