//! The report on runs, as a file.

use super::output::Written;
use crate::sim::compare::Comparison;
use crate::sim::report::{Report, told_length};
use crate::sim::scenario::Format;
use crate::sim::time::seconds;
use crate::sim::{Case, Outcome};
use anyhow::Context as _;
use std::path::Path;

/// The version of this program.
pub(super) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The traffic of a case, in words.
pub(super) fn traffic(case: &Case) -> String {
    let length = told_length(seconds(case.length()));
    case.trace.as_ref().map_or_else(
        || format!("{length} of synthetic load"),
        |trace| format!("{length} of {} requests recorded in {}", trace.requests(), trace.name),
    )
}

/// The page on these outcomes, where the scenario asks for one. `file` is the scenario's.
///
/// # Errors
/// When the scenario's file cannot be read a second time.
pub(super) fn page(
    case: &Case,
    file: &Path,
    outcomes: &[Outcome],
    comparison: &Comparison,
    formats: &[Format],
) -> anyhow::Result<Option<Written>> {
    if !formats.contains(&Format::Html) {
        return Ok(None);
    }
    let source = std::fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))?;
    let report = Report {
        scenario: &case.scenario,
        source: &source,
        traffic: &traffic(case),
        outcomes,
        comparison,
        warning: None,
        tried: &[],
        advice: "",
        version: VERSION,
    };
    Ok(Some(Written::new("report.html", report.html())))
}
