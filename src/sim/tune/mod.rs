//! The cheapest configuration that keeps the promise on this traffic, or the reason why none is recommended.
//!
//! # Method
//!
//! The last part of the load is held back. On the rest:
//!
//! 1. Up to 256 points of a scrambled Sobol sequence, the configuration in force and the defaults are
//!    [screened](super::screen) on all of it. Where the load is so light that exact runs are cheaper, or where it cannot be
//!    screened, they are run exactly; where that is too dear on all of it, on three hours: the worst, the median and the
//!    quietest one, weighted by what they stand for.
//! 2. The best 16 are run exactly on the whole training part, or on the three hours, under 2 seeds.
//! 3. From the best two, one setting is changed at a time, for as long as that is better.
//! 4. On the whole training part four are run under 8 seeds: the best two, and the best two with room to spare. Of those as cheap as the cheapest,
//!    within the noise, the one with fewest changes comes first, then the one nearest to the defaults, then the others.
//! 5. Each in turn is run on the held-back part, and there with more traffic, slower requests and slower pods, until
//!    one passes.
//!
//! What the stages 4 and 5 need is kept out of the budget before the first three. These go on for as long as there is some of
//! it left: what a few candidates took is known only after they were run, and is what the next ones are expected to take.
//! No run is made twice.
//!
//! Every run meets the same requests as the others under its seed, and what it takes is counted, not timed. So the answer
//! is the same on any machine and any number of threads.
//!
//! # Decisions
//!
//! - 2026-11: a budget is simulated requests, at 250 ns each. What a run takes is what it had to do (see
//!   [`Work`](super::outcome::Work)), each thing at what it took on one machine, because an answer that depends on how fast
//!   a machine is cannot be checked on another. Requests alone do not tell: a configuration with a thousand pods takes many
//!   times as long as one with ten under the same requests.
//! - 2026-11: what screening says decides only who is run exactly. No number of it is in the answer, but for the points in
//!   the plot of what was tried, which say so.

pub mod search;
pub mod space;

use super::batch::Watch;
use super::case::Case;
use super::outcome::Outcome;
use super::scenario::Kpa;
use super::time::Length;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroUsize;

/// How long a simulated request is taken to take, in seconds.
pub const REQUEST_TAKES: f64 = 250e-9;

/// How to tune.
#[derive(Clone, Debug)]
pub struct Options {
    /// The simulated requests that may be spent.
    pub budget: u64,
    /// Annotations that stay as they are, with or without their prefix.
    pub pins: Vec<String>,
    /// The most changes of direction per hour, or as many as the configuration in force has.
    pub max_flaps: f64,
    /// The part of the load that is held back.
    pub held_back: f64,
    /// Threads to spread runs over.
    pub threads: NonZeroUsize,
}

impl Default for Options {
    fn default() -> Self {
        Self { budget: 240_000_000, pins: Vec::new(), max_flaps: 12.0, held_back: 0.3, threads: NonZeroUsize::MIN }
    }
}

/// Why there is no recommendation.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// Too short for anything to be learned.
    TooShort {
        /// How long the load is.
        length: Length,
        /// How long it must be.
        wanted: Length,
    },
    /// Too few requests for anything to be learned.
    TooFewRequests {
        /// How many there are.
        requests: u64,
        /// How many there must be.
        wanted: u64,
    },
    /// Too few requests in the held-back part for a proposal to be checked.
    HeldBackTooQuiet {
        /// How many there are.
        requests: u64,
        /// How many there must be.
        wanted: u64,
    },
    /// Nothing that was tried keeps the promise.
    NothingMeets {
        /// The annotations of the nearest miss that differ from those in force.
        nearest: BTreeMap<String, Option<String>>,
        /// The share of requests that break the promise with it, at most.
        violation_bound: f64,
        /// What is allowed.
        allowed: f64,
        /// What stands in the way.
        obstacle: Obstacle,
    },
    /// It kept the promise on the training part but not on the held-back one.
    HeldBackFails {
        /// What was tried.
        change: BTreeMap<String, Option<String>>,
        /// The share of requests that break the promise on the held-back part, at most.
        violation_bound: f64,
        /// What is allowed.
        allowed: f64,
    },
    /// It is worse than the configuration in force as soon as something is harder.
    Fragile {
        /// What was tried.
        change: BTreeMap<String, Option<String>>,
        /// What was harder.
        strain: String,
    },
    /// Nothing is surely cheaper than what is in force.
    WithinNoise,
}

/// What keeps everything from keeping the promise.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Obstacle {
    /// Requests take too long in a pod that has nothing else to do.
    ServiceTime,
    /// Pods take too long to start.
    StartUpTime,
    /// There may not be as many pods as it takes.
    Limit,
    /// None of these alone.
    Reaction,
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ServiceTime => {
                "requests take too long even in pods that have nothing else to do; the promise is \
             too short"
            }
            Self::StartUpTime => "pods take too long to start; with starts ten times as fast it would be kept",
            Self::Limit => "there may not be as many pods as it takes; raise max-scale or the room on the nodes",
            Self::Reaction => {
                "neither start-up nor service time alone explains it; the load changes faster than this autoscaler \
                 follows"
            }
        })
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |share: &f64| format!("{:.2} %", share * 100.0);
        match self {
            Self::TooShort { length, wanted } => write!(
                f,
                "No recommendation: the load is {length} long, and nothing is learned from less than ten stable \
                 windows, {wanted}. Record more."
            ),
            Self::TooFewRequests { requests, wanted } => write!(
                f,
                "No recommendation: there are {requests} requests, and nothing is learned from fewer than {wanted}. \
                 Record more."
            ),
            Self::HeldBackTooQuiet { requests, wanted } => write!(
                f,
                "No recommendation: {requests} requests come in the part that is held back, and a proposal is not checked \
                 with fewer than {wanted}. Hold back more, or record more."
            ),
            Self::NothingMeets { nearest, violation_bound, allowed, obstacle } => write!(
                f,
                "No recommendation: nothing keeps the promise. The nearest ({}) lets up to {} of requests break it, \
                 and {} may: {obstacle}.",
                written(nearest),
                percent(violation_bound),
                percent(allowed)
            ),
            Self::HeldBackFails { change, violation_bound, allowed } => write!(
                f,
                "No recommendation: {} keeps the promise where it was looked for, but on the traffic that was held \
                 back up to {} of requests break it, and {} may. The traffic changes; record more of it.",
                written(change),
                percent(violation_bound),
                percent(allowed)
            ),
            Self::Fragile { change, strain } => write!(
                f,
                "No recommendation: {} is good on this traffic, but worse than what you have with {strain}.",
                written(change)
            ),
            Self::WithinNoise => f.write_str(
                "Keep what you have: nothing is surely cheaper than it and keeps the promise as well. What differs is \
                 within the noise.",
            ),
        }
    }
}

/// A change of annotations in a line.
pub fn written(change: &BTreeMap<String, Option<String>>) -> String {
    if change.is_empty() {
        return "what you have".to_owned();
    }
    let one = |(key, value): (&String, &Option<String>)| {
        let name = key.rsplit('/').next().unwrap_or(key);
        value.as_ref().map_or_else(|| format!("no {name}"), |value| format!("{name} {value}"))
    };
    change.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// Something that was tried.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Tried {
    /// What differs from the configuration in force.
    pub change: BTreeMap<String, Option<String>>,
    /// Pod-hours, of the part of the load it was tried on.
    pub pod_hours: f64,
    /// The share of requests that broke the promise.
    pub violation_share: f64,
}

/// What one step along one ladder does to the choice.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Sensitivity {
    /// The annotation.
    pub key: String,
    /// What the choice has.
    pub chosen: String,
    /// What it was set to instead.
    pub instead: String,
    /// How many times as much that costs.
    pub cost: f64,
    /// The share of requests that then break the promise.
    pub violation_share: f64,
}

/// What came of tuning.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Tuning {
    /// What is to be set (or removed) to get from what is in force to what is recommended; absent when nothing is.
    pub change: Option<BTreeMap<String, Option<String>>>,
    /// Why nothing is recommended.
    pub refusal: Option<Refusal>,
    /// Where the held-back part begins, in seconds.
    pub held_back_from: f64,
    /// Whether what was tried at first was screened: approximate numbers, on the whole training part.
    pub screened: bool,
    /// Runs on the training part: what is in force, the defaults, the best that was found.
    pub training: Vec<Outcome>,
    /// The same on the held-back part, and the floor.
    pub held_back: Vec<Outcome>,
    /// Everything that was tried at first, on the part of the load it was tried on; see [`screened`](Self::screened).
    pub tried: Vec<Tried>,
    /// What each step away from the choice does.
    pub sensitivity: Vec<Sensitivity>,
    /// Whether the search ended with the budget, and not because nothing better was near.
    pub cut_short: bool,
    /// What was spent, in simulated requests.
    pub spent: u64,
}

/// The names that policies have in the outcomes.
pub const CURRENT: &str = "current";
/// The platform's defaults.
pub const DEFAULTS: &str = "defaults";
/// The best that was found.
pub const TUNED: &str = "tuned";

/// Why tuning could not begin or did not end.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TuneError {
    /// A pin is nothing that is tuned.
    #[error("{0}")]
    Pin(String),
    /// What is in force is refused by Knative's admission.
    #[error("the configuration in force would be refused; run `ebb sim check` on the scenario")]
    Current,
    /// It was told to stop.
    #[error("stopped before the end")]
    Stopped,
}

/// Looks for the cheapest configuration in place of `current`.
///
/// # Errors
/// When it cannot begin, or is stopped.
pub fn tune(case: &Case, current: &Kpa, options: &Options, watch: &Watch) -> Result<Tuning, TuneError> {
    search::Search::new(case, current, options, watch)?.run()
}
