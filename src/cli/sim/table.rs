//! Outcomes as text.

use crate::sim::time::Length;
use crate::sim::{Case, Outcome};
use comfy_table::{CellAlignment, Table, presets};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// What a case is, in a line.
pub(super) fn what(case: &Case) -> String {
    let scenario = &case.scenario;
    let policies: Vec<&str> = scenario.policies.iter().map(|policy| policy.name.as_str()).collect();
    let traffic = case.trace.as_ref().map_or_else(
        || "a synthetic load".to_owned(),
        |trace| format!("{} requests recorded in {}", trace.requests(), trace.name),
    );
    format!(
        "{}: {} of {traffic}; {}, each under {} seeds",
        scenario.name,
        Length(case.length()),
        policies.join(", "),
        scenario.repetitions
    )
}

/// All seeds of one policy, in the order of the outcomes.
struct Pool<'a> {
    name: &'a str,
    outcomes: Vec<&'a Outcome>,
}

impl<'a> Pool<'a> {
    fn all(outcomes: &'a [Outcome]) -> Vec<Self> {
        let mut pools: Vec<Self> = Vec::new();
        for outcome in outcomes {
            match pools.iter_mut().find(|pool| pool.name == outcome.policy) {
                Some(pool) => pool.outcomes.push(outcome),
                None => pools.push(Self { name: &outcome.policy, outcomes: vec![outcome] }),
            }
        }
        pools
    }

    /// The mean over seeds.
    fn mean(&self, measure: impl Fn(&Outcome) -> f64) -> f64 {
        let sum: f64 = self.outcomes.iter().map(|outcome| measure(outcome)).sum();
        sum / crate::units::count_f64(self.outcomes.len())
    }

    /// A percentile of all latencies together, in seconds.
    fn latency(&self, percentile: f64) -> f64 {
        let mut classes: BTreeMap<u64, u64> = BTreeMap::new();
        for (edge, count) in self.outcomes.iter().flat_map(|outcome| &outcome.latencies) {
            *classes.entry(crate::sim::time::from_seconds(*edge)).or_default() += count;
        }
        let all: u64 = classes.values().sum();
        let mut seen = 0;
        for (edge, count) in classes {
            seen += count;
            if crate::sim::outcome::share(seen, all) * 100.0 >= percentile {
                return crate::sim::time::seconds(edge);
            }
        }
        0.0
    }
}

/// What each policy did, over all seeds: the verdict and a table.
pub(super) fn outcomes(outcomes: &[Outcome], verdict: &str) -> String {
    let pools = Pool::all(outcomes);
    let mut text = String::new();
    writeln!(text, "{verdict}").expect("writing to a string");
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header([
        "policy",
        "requests",
        "p50",
        "p99",
        "too slow",
        "failed",
        "cold",
        "pod-hours",
        "x floor",
        "idle",
        "pods",
        "most",
        "flaps/h",
    ]);
    for pool in &pools {
        let completed = pool.mean(|outcome| count(outcome.requests.completed + outcome.requests.failed));
        let percent = |part: f64| format!("{:.2}%", if completed > 0.0 { part / completed * 100.0 } else { 0.0 });
        let failed = pool.mean(|outcome| count(outcome.requests.failed));
        let violations = pool.mean(|outcome| count(outcome.slo.violations));
        let floor = pool.outcomes.iter().all(|outcome| outcome.cost.against_oracle.is_some());
        let against = pool.mean(|outcome| outcome.cost.against_oracle.unwrap_or_default());
        let most = pool.outcomes.iter().map(|outcome| outcome.cost.max_pods).max().unwrap_or_default();
        table.add_row([
            pool.name.to_owned(),
            format!("{:.0}", pool.mean(|outcome| count(outcome.requests.arrived))),
            format!("{:.3}s", pool.latency(50.0)),
            format!("{:.3}s", pool.latency(99.0)),
            percent(violations - failed),
            percent(failed),
            format!("{:.1}", pool.mean(|outcome| count(outcome.cold.starts))),
            format!("{:.2}", pool.mean(|outcome| outcome.cost.pod_seconds) / 3600.0),
            if floor { format!("{against:.2}") } else { "-".to_owned() },
            format!("{:.0}%", pool.mean(|outcome| outcome.cost.idle_share) * 100.0),
            format!("{:.2}", pool.mean(|outcome| outcome.cost.mean_pods)),
            most.to_string(),
            format!("{:.1}", pool.mean(|outcome| outcome.scaling.flaps_per_hour)),
        ]);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let seeds = pools.iter().map(|pool| pool.outcomes.len()).max().unwrap_or_default();
    writeln!(text, "\n{table}\n\nMeans over {seeds} seeds; percentiles of all their requests together.")
        .expect("writing to a string");
    text
}

#[expect(clippy::cast_precision_loss, reason = "for people; 2^-53 is nothing")]
fn count(number: u64) -> f64 {
    number as f64
}
