//! `ebb sim compare`: policies side by side, on one scenario or on many.

use super::{Answer, Format, Runs, files, output, progress, report};
use crate::cli::exit::Exit;
use crate::sim::batch::Watch;
use crate::sim::compare::{self, Across, Comparison, MEASURES, Measure, Promise, Unit};
use crate::sim::outcome;
use crate::sim::stats::Estimate;
use comfy_table::{CellAlignment, Table, presets};
use serde_json::json;
use std::fmt::Write as _;
use std::path::PathBuf;

/// The measures that are shown; all of them are in the JSON.
const SHOWN: &[&str] = &["pod_hours", "violation_share", "latency_p99", "cold_starts"];

/// Compare the policies of scenarios, seed by seed, and say how sure each difference is.
///
/// Every policy meets the same requests as the first, so differences are taken in pairs. Of one
/// scenario there are means with 95 % intervals over seeds; of many there are geometric mean ratios,
/// wins and losses, and the probability that it is chance. Use 20 seeds for what is published.
///
/// Examples:
///   ebb sim compare simulations/hello.yaml
///   ebb sim compare simulations/*.yaml --repetitions 20 --output runs
#[derive(clap::Args, Debug)]
#[command(verbatim_doc_comment)]
pub(super) struct Args {
    /// The scenarios.
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,

    #[command(flatten)]
    runs: Runs,

    #[command(flatten)]
    answer: Answer,
}

pub(super) fn run(args: &Args) -> anyhow::Result<Exit> {
    // Everything is read before anything is run.
    let cases: Vec<_> = args.files.iter().map(|file| files::load(file)).collect::<Result<_, _>>()?;
    let mut names: Vec<&str> = cases.iter().map(|case| case.scenario.name.as_str()).collect();
    names.sort_unstable();
    if let Some((twice, _)) = names.iter().zip(names.iter().skip(1)).find(|(one, other)| one == other) {
        anyhow::bail!("two scenarios are called {twice:?}; give each a name of its own, or name the file once");
    }
    let directory = |name: &str| {
        let name: String = name.chars().map(|it| if it.is_ascii_alphanumeric() { it } else { '-' }).collect();
        args.answer.output.as_ref().map(|output| output.join(name))
    };
    for case in &cases {
        if let Some(directory) = directory(&case.scenario.name) {
            output::prepare(&directory)?;
        }
    }
    let mut comparisons = Vec::new();
    let mut written = Vec::new();
    for (case, file) in cases.iter().zip(&args.files) {
        let jobs = args.runs.jobs(case);
        let outcomes = progress::run(&jobs, args.runs.threads(), &Watch::default())?;
        let scenario = &case.scenario;
        let comparison = compare::compare(&scenario.name, &outcomes, &scenario.slo, scenario.seed);
        if let Some(directory) = directory(&scenario.name) {
            let mut files = output::data(case, &outcomes, &scenario.output.formats)?;
            files.extend(report::page(case, file, &outcomes, &comparison, &scenario.output.formats)?);
            written.extend(output::write(&directory, &files)?);
        }
        comparisons.push(comparison);
    }
    let seed = cases.first().map_or(0, |case| case.scenario.seed);
    let across = if comparisons.len() > 1 { compare::across(&comparisons, seed) } else { Vec::new() };
    match args.answer.format {
        Format::Text => {
            super::println(&text(&comparisons, &across))?;
            for path in written {
                super::println(&format!("written: {}", path.display()))?;
            }
        }
        Format::Json => {
            let answer = json!({ "version": outcome::VERSION, "comparisons": comparisons, "across": across });
            super::println(&serde_json::to_string(&answer)?)?;
        }
    }
    Ok(Exit::Done)
}

fn shown() -> impl Iterator<Item = &'static Measure> {
    MEASURES.iter().filter(|measure| SHOWN.contains(&measure.key))
}

fn text(comparisons: &[Comparison], across: &[Across]) -> String {
    let mut text = String::new();
    for comparison in comparisons {
        writeln!(text, "{}: {}\n\n{}\n", comparison.scenario, comparison.verdict, policies(comparison))
            .expect("writing to a string");
        if !comparison.differences.is_empty() {
            writeln!(
                text,
                "Against {}, pair by pair (95 % intervals; ~ may be chance):\n{}\n",
                comparison.baseline,
                differences(comparison)
            )
            .expect("writing to a string");
        }
    }
    if let Some(first) = comparisons.first()
        && comparisons.len() > 1
    {
        if across.is_empty() {
            text.push_str(
                "The scenarios share no policy beside the first, or not the same first one: nothing is said \
             across them.\n",
            );
        } else {
            writeln!(
                text,
                "Across {} scenarios, against {} (geometric mean ratios; p by Wilcoxon, corrected by Holm):\n{}",
                comparisons.len(),
                first.baseline,
                together(across)
            )
            .expect("writing to a string");
        }
    }
    text
}

pub(super) fn policies(comparison: &Comparison) -> Table {
    let mut rows = new_table(["policy", "promise"].into_iter().chain(shown().map(|measure| measure.title)));
    for policy in &comparison.policies {
        let promise = match policy.promise {
            _ if policy.is_oracle() => "(floor)",
            Promise::Kept => "kept",
            Promise::Close => "not surely",
            Promise::Broken => "BROKEN",
        };
        let values = shown().map(|measure| measure.unit.told_with_interval(&policy.get(measure.key)));
        rows.add_row([policy.policy.clone(), promise.to_owned()].into_iter().chain(values));
    }
    aligned(rows)
}

fn differences(comparison: &Comparison) -> Table {
    let mut rows = new_table(["policy"].into_iter().chain(shown().map(|measure| measure.title)));
    for policy in comparison.policies.iter().skip(1) {
        let told = shown().map(|measure| {
            comparison.difference(&policy.policy, measure.key).map_or_else(String::new, |difference| {
                let estimate = &difference.difference;
                let sure = estimate.is_above(0.0) || estimate.is_below(0.0);
                let value = signed(measure.unit, estimate);
                let times = difference.ratio.map_or_else(String::new, |ratio| format!(", x{:.2}", ratio.value));
                format!("{}{value}{times}", if sure || estimate.value == 0.0 { "" } else { "~ " })
            })
        });
        rows.add_row([policy.policy.clone()].into_iter().chain(told));
    }
    aligned(rows)
}

fn signed(unit: Unit, estimate: &Estimate) -> String {
    let sign = |value: f64| if value > 0.0 { "+" } else { "" };
    let value = format!("{}{}", sign(estimate.value), unit.told(estimate.value));
    match estimate.interval {
        Some([low, high]) if low < high => {
            format!("{value} ({}{} to {}{})", sign(low), unit.told(low), sign(high), unit.told(high))
        }
        _ => value,
    }
}

fn together(across: &[Across]) -> Table {
    let mut rows = new_table(["policy", "measure", "times as much", "less", "unclear", "more", "p"]);
    for across in across.iter().filter(|across| SHOWN.contains(&across.measure.as_str())) {
        let title = compare::measure(&across.measure).map_or("", |measure| measure.title);
        let ratio = across.ratio.map_or_else(
            || "-".to_owned(),
            |ratio| match ratio.interval {
                Some([low, high]) => format!("{:.2} ({low:.2} to {high:.2})", ratio.value),
                None => format!("{:.2}", ratio.value),
            },
        );
        rows.add_row([
            across.policy.clone(),
            title.to_owned(),
            ratio,
            across.wins.to_string(),
            across.ties.to_string(),
            across.losses.to_string(),
            format!("{:.3}", across.p_holm),
        ]);
    }
    aligned(rows)
}

fn new_table<'a>(header: impl IntoIterator<Item = &'a str>) -> Table {
    let mut rows = Table::new();
    rows.load_style(presets::NOTHING);
    rows.set_header(header);
    rows
}

fn aligned(mut rows: Table) -> Table {
    for column in rows.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    rows
}
