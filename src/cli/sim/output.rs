//! Files of results. All of them are there whole, or none is: they are written beside their names and renamed at the end.

use crate::sim::outcome::{self, Series};
use crate::sim::scenario::Format;
use crate::sim::{Case, Outcome};
use anyhow::Context as _;
use std::fs;
use std::path::{Path, PathBuf};

/// A file to be written.
pub(super) struct Written {
    name: String,
    content: Vec<u8>,
}

impl Written {
    /// A file of this name.
    pub(super) fn new(name: impl Into<String>, content: impl Into<Vec<u8>>) -> Self {
        Self { name: name.into(), content: content.into() }
    }
}

/// Makes sure that files can be written to `directory`, before anything is computed for them.
///
/// # Errors
/// When they cannot.
pub(super) fn prepare(directory: &Path) -> anyhow::Result<()> {
    let shown = directory.display();
    fs::create_dir_all(directory)
        .with_context(|| format!("{shown} cannot be made; name another directory with --output"))?;
    let probe = directory.join(".ebb-sim.partial");
    fs::write(&probe, b"")
        .and_then(|()| fs::remove_file(&probe))
        .with_context(|| format!("{shown} cannot be written to; name another directory with --output"))
}

/// Writes the files to `directory`, and says where they are.
///
/// # Errors
/// When one cannot be written; then none is there.
pub(super) fn write(directory: &Path, files: &[Written]) -> anyhow::Result<Vec<PathBuf>> {
    let partial = |file: &Written| directory.join(format!(".{}.partial", file.name));
    // What could not be replaced is noticed before anything is.
    if let Some(taken) = files.iter().map(|file| directory.join(&file.name)).find(|path| path.is_dir()) {
        anyhow::bail!("{} is a directory; name another directory with --output", taken.display());
    }
    let all = files.iter().try_for_each(|file| {
        let path = partial(file);
        fs::write(&path, &file.content).with_context(|| format!("{} cannot be written", path.display()))
    });
    let named = all.and_then(|()| {
        let renamed = files.iter().map(|file| -> anyhow::Result<PathBuf> {
            let path = directory.join(&file.name);
            fs::rename(partial(file), &path).with_context(|| format!("{} cannot be written", path.display()))?;
            Ok(path)
        });
        renamed.collect()
    });
    if named.is_err() {
        for file in files {
            let _ = fs::remove_file(partial(file));
        }
    }
    named
}

/// The files of these outcomes that are made of numbers: JSON and CSV.
///
/// # Errors
/// None that is known of; the formats could refuse a value.
pub(super) fn data(case: &Case, outcomes: &[Outcome], formats: &[Format]) -> anyhow::Result<Vec<Written>> {
    let mut files = Vec::new();
    if formats.contains(&Format::Json) {
        files.push(Written::new("outcomes.json", json(case, outcomes)?));
    }
    if formats.contains(&Format::Csv) {
        for outcome in outcomes {
            if let Some(series) = &outcome.series {
                let policy: String =
                    outcome.policy.chars().map(|it| if it.is_ascii_alphanumeric() { it } else { '-' }).collect();
                files.push(Written::new(format!("series-{policy}-{}.csv", outcome.seed), csv(series)?));
            }
        }
    }
    Ok(files)
}

/// Every outcome, with the scenario it came of.
///
/// # Errors
/// None that is known of; the format could refuse a value.
pub(super) fn json(case: &Case, outcomes: &[Outcome]) -> anyhow::Result<String> {
    let answer = serde_json::json!({ "version": outcome::VERSION, "scenario": &*case.scenario, "outcomes": outcomes });
    Ok(serde_json::to_string(&answer)? + "\n")
}

fn csv(series: &Series) -> anyhow::Result<Vec<u8>> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record([
        "second",
        "arrivals",
        "completions",
        "errors",
        "cold_starts",
        "desired",
        "created",
        "starting",
        "ready",
        "draining",
        "stable",
        "panic",
        "demand",
        "need",
        "serving",
        "panicking",
        "excess_burst",
        "in_path",
        "waiting_activator",
        "waiting_queue",
        "reason",
    ])?;
    for line in 0..series.len() {
        let reason = series.reasons.get(usize::from(series.reason[line])).map_or("", String::as_str);
        writer.write_record([
            (series.step * crate::units::count_f64(line + 1)).to_string(),
            series.arrivals[line].to_string(),
            series.completions[line].to_string(),
            series.errors[line].to_string(),
            series.cold_starts[line].to_string(),
            series.desired[line].to_string(),
            series.created[line].to_string(),
            series.starting[line].to_string(),
            series.ready[line].to_string(),
            series.draining[line].to_string(),
            series.stable[line].to_string(),
            series.panic[line].to_string(),
            series.demand[line].to_string(),
            series.need[line].to_string(),
            series.serving[line].to_string(),
            series.panicking[line].to_string(),
            series.excess_burst[line].to_string(),
            series.in_path[line].to_string(),
            series.waiting_activator[line].to_string(),
            series.waiting_queue[line].to_string(),
            reason.to_owned(),
        ])?;
    }
    writer.into_inner().context("writing to memory")
}
