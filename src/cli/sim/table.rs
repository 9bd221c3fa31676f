//! Outcomes as text.

use crate::sim::compare::{Comparison, by_policy};
use crate::sim::outcome::share;
use crate::sim::time::{Length, from_seconds, seconds};
use crate::sim::{Case, Outcome};
use crate::units::count_f64;
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

/// A percentile of the latencies of all runs together, in seconds.
fn latency(runs: &[&Outcome], percentile: f64) -> f64 {
    let mut classes: BTreeMap<u64, u64> = BTreeMap::new();
    for (edge, count) in runs.iter().flat_map(|outcome| &outcome.latencies) {
        *classes.entry(from_seconds(*edge)).or_default() += count;
    }
    let all: u64 = classes.values().sum();
    let mut seen = 0;
    for (edge, count) in classes {
        seen += count;
        if share(seen, all) * 100.0 >= percentile {
            return seconds(edge);
        }
    }
    0.0
}

/// What each policy did, over all seeds: the verdict and a table.
pub(super) fn outcomes(outcomes: &[Outcome], comparison: &Comparison) -> String {
    let mut text = String::new();
    writeln!(text, "{}", comparison.verdict).expect("writing to a string");
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
    for (runs, summary) in by_policy(outcomes).iter().zip(&comparison.policies) {
        let mean = |of: fn(&Outcome) -> f64| runs.iter().map(|run| of(run)).sum::<f64>() / count_f64(runs.len());
        let get = |key: &str| summary.get(key).value;
        let sum = |of: fn(&Outcome) -> u64| runs.iter().map(|run| of(run)).sum::<u64>();
        let ended = sum(|run| run.requests.completed + run.requests.failed);
        let failed = sum(|run| run.requests.failed);
        let percent = |part: u64| format!("{:.2}%", share(part, ended) * 100.0);
        let floor = runs.iter().all(|run| run.cost.against_oracle.is_some());
        let against = mean(|run| run.cost.against_oracle.unwrap_or_default());
        let most = runs.iter().map(|run| run.cost.max_pods).max().unwrap_or_default();
        table.add_row([
            summary.policy.clone(),
            format!("{:.0}", share(sum(|run| run.requests.arrived), runs.len() as u64)),
            format!("{:.3}s", latency(runs, 50.0)),
            format!("{:.3}s", latency(runs, 99.0)),
            percent(sum(|run| run.slo.violations) - failed),
            percent(failed),
            format!("{:.1}", get("cold_starts")),
            format!("{:.2}", get("pod_hours")),
            if floor { format!("{against:.2}") } else { "-".to_owned() },
            format!("{:.0}%", get("idle_share") * 100.0),
            format!("{:.2}", mean(|run| run.cost.mean_pods)),
            most.to_string(),
            format!("{:.1}", get("flaps_per_hour")),
        ]);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let seeds = comparison.policies.iter().map(|policy| policy.runs).max().unwrap_or_default();
    writeln!(text, "\n{table}\n\nMeans over {seeds} seeds; percentiles of all their requests together.")
        .expect("writing to a string");
    text
}
