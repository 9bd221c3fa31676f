//! Scenario files and the traces they name.

use crate::config::document::{Place, Problem, Problems, Source};
use crate::sim::{Case, Scenario, Trace, scenario};
use anyhow::Context as _;
use std::fmt;
use std::fs::File;
use std::path::Path;

/// The largest scenario that is read, in bytes.
const MOST_BYTES: u64 = 4 << 20;

/// Why there is no case.
#[derive(Debug)]
pub(super) enum LoadError {
    /// The scenario, or its trace, is wrong.
    Wrong(Problems),
    /// A file cannot be read.
    Unreadable(anyhow::Error),
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wrong(problems) => problems.fmt(f),
            Self::Unreadable(error) => write!(f, "{error:#}"),
        }
    }
}

impl std::error::Error for LoadError {}

/// Reads a scenario and its trace.
pub(super) fn load(path: &Path) -> Result<Case, LoadError> {
    let (shown, text) = read(path)?;
    let scenario = scenario::parse(&shown, &text).map_err(LoadError::Wrong)?;
    loaded(path, &shown, &text, scenario)
}

/// Reads a scenario for traffic from elsewhere; what it says of its own does not count.
pub(super) fn load_for_traffic(path: &Path) -> Result<Scenario, LoadError> {
    let (shown, text) = read(path)?;
    scenario::parse_for_traffic(&shown, &text).map_err(LoadError::Wrong)
}

/// What a scenario is called, and its text.
fn read(path: &Path) -> Result<(String, String), LoadError> {
    let shown = path.display().to_string();
    let size = std::fs::metadata(path)
        .with_context(|| format!("{shown} cannot be read"))
        .map_err(LoadError::Unreadable)?
        .len();
    if size > MOST_BYTES {
        return Err(LoadError::Unreadable(anyhow::anyhow!("{shown} is larger than {} MiB", MOST_BYTES >> 20)));
    }
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("{shown} cannot be read"))
        .map_err(LoadError::Unreadable)?;
    Ok((shown, text))
}

fn loaded(path: &Path, shown: &str, text: &str, scenario: Scenario) -> Result<Case, LoadError> {
    let wrong = |field: &str, message: String| {
        let place = scenario::place(text, field);
        LoadError::Wrong(Problems(vec![Problem {
            source: Source { file: shown.to_owned(), place },
            path: field.to_owned(),
            message,
        }]))
    };
    let mut trace = None;
    if let Some(settings) = &scenario.load.trace {
        let file = path.parent().unwrap_or(Path::new("")).join(&settings.file);
        let opened = File::open(&file).map_err(|error| {
            let origin = settings.origin.as_ref().map_or_else(String::new, |origin| format!("; {origin}"));
            wrong("load.trace.file", format!("{} cannot be read: {error}{origin}", file.display()))
        })?;
        let name = file.display().to_string();
        let read = Trace::read(&name, opened, &scenario.load.reading()).map_err(|error| {
            let place = Place { line: error.line, column: u64::from(error.line > 0) };
            let source = Source { file: error.file, place };
            LoadError::Wrong(Problems(vec![Problem { source, path: String::new(), message: error.message }]))
        })?;
        for note in &read.notes {
            eprintln!("{}: note: {note}", read.name);
        }
        trace = Some(read);
    }
    Case::new(scenario, trace).map_err(|error| wrong(&error.path, error.message))
}
