//! A scenario ready to be run: with its trace, and the part of the load that is played.

use super::scenario::Scenario;
use super::time::{HOUR, Length, Micros, from_seconds, seconds};
use super::trace::Trace;
use std::sync::Arc;

/// The longest run, in microseconds: ten years.
const LONGEST: Micros = 10 * 365 * 24 * HOUR;

/// A scenario ready to be run. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Case {
    /// What is simulated. It was checked.
    pub scenario: Arc<Scenario>,
    /// Its trace, if it has one.
    pub trace: Option<Arc<Trace>>,
    /// Where in the load a run begins.
    pub from: Micros,
    /// Where it ends.
    pub to: Micros,
    /// What is simulated at its start and not measured.
    pub warm_up: Micros,
    /// What is harder than the scenario says.
    pub strain: Strain,
}

/// What is harder than a scenario says, as factors.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Strain {
    /// So many times as much traffic.
    pub rate: f64,
    /// Requests take so many times as long.
    pub service: f64,
    /// Pods take so many times as long to start.
    pub startup: f64,
}

impl Default for Strain {
    fn default() -> Self {
        Self { rate: 1.0, service: 1.0, startup: 1.0 }
    }
}

/// Why a scenario cannot be run with its trace: the path of the field it is about, and what is wrong.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{path}: {message}")]
pub struct CaseError {
    /// The field of the scenario.
    pub path: String,
    /// What is wrong, and what would be right.
    pub message: String,
}

impl Case {
    /// The whole of a scenario that was checked, with its trace.
    ///
    /// # Errors
    /// When the two do not go together.
    pub fn new(scenario: Scenario, trace: Option<Trace>) -> Result<Self, CaseError> {
        let error = |path: &str, message: String| Err(CaseError { path: path.to_owned(), message });
        let mut length = scenario.duration.map(|duration| duration.0);
        match (&scenario.load.trace, &trace) {
            (Some(settings), Some(trace)) => {
                let slice = settings.slice.unwrap_or_default();
                if slice.from.0 >= trace.length() {
                    let ends = Length(trace.length());
                    return error(
                        "load.trace.slice.from",
                        format!("{} is beyond the trace, which ends at {ends}", slice.from),
                    );
                }
                let end = slice.to.map_or(trace.length(), |to| to.0.min(trace.length()));
                let once = seconds(end - slice.from.0) * settings.time_factor;
                let whole = from_seconds(once * f64::from(settings.repeat));
                length = Some(length.map_or(whole, |length| length.min(whole)));
                if scenario.load.service.is_none() && !has_durations(trace) {
                    return error(
                        "load.service",
                        format!("missing, and {} does not say how long requests took", trace.name),
                    );
                }
            }
            (Some(settings), None) => {
                return error("load.trace.file", format!("{} was not read", settings.file));
            }
            (None, _) => {}
        }
        let Some(to) = length.filter(|length| *length > 0 && *length <= LONGEST) else {
            return error("duration", "a run is longer than 0s and at most ten years".to_owned());
        };
        let warm_up = scenario.warm_up.0;
        if warm_up >= to {
            return error("warm_up", format!("{} is not shorter than the run of {}", scenario.warm_up, Length(to)));
        }
        let trace = trace.map(Arc::new);
        Ok(Self { scenario: Arc::new(scenario), trace, from: 0, to, warm_up, strain: Strain::default() })
    }

    /// How long a run is.
    pub fn length(&self) -> Micros {
        self.to - self.from
    }

    /// The same, of only a part of the load, with `warm_up` of it not measured.
    #[must_use]
    pub fn part(&self, from: Micros, to: Micros, warm_up: Micros) -> Self {
        Self { from, to: to.min(self.to), warm_up, ..self.clone() }
    }

    /// The same, under strain.
    #[must_use]
    pub fn under(&self, strain: Strain) -> Self {
        Self { strain, ..self.clone() }
    }

    /// The seed of a repetition.
    pub fn seed(&self, repetition: u32) -> u64 {
        self.scenario.seed.wrapping_add(u64::from(repetition))
    }
}

fn has_durations(trace: &Trace) -> bool {
    matches!(&trace.recorded, super::trace::Recorded::Requests(requests) if requests.iter().all(|request| request.took.is_some()))
}
