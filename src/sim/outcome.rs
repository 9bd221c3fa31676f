//! What came of a run: every measure, and the series behind them.
//!
//! An [`Outcome`] is one policy under one seed. It is written as JSON with a version; fields are only ever added.

use super::histogram::Histogram;
use super::time::seconds;
use crate::engine::forecast::{Guard, Tally};
use crate::units::count_f64;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The version of outcomes as JSON.
pub const VERSION: &str = "ebb.sim/v1";

/// One policy under one seed.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Outcome {
    /// The name of the policy.
    pub policy: String,
    /// Its kind: `kpa`, `predictive`, `hpa`, `keda_http`, `fixed`, `schedule` or `oracle`.
    pub kind: String,
    /// The seed.
    pub seed: u64,
    /// Whether it was screened instead of simulated.
    pub approximate: bool,
    /// How long was measured, in seconds: the run without its warm-up.
    pub measured: f64,
    /// What became of the requests.
    pub requests: Requests,
    /// From a request's arrival to its end, of completed ones.
    pub latency: Lengths,
    /// Of that, waiting at an activator.
    pub activator_wait: Lengths,
    /// Of that, waiting at a queue-proxy.
    pub queue_wait: Lengths,
    /// Of that, being served.
    pub service: Lengths,
    /// How many waited at all.
    pub waited: Waited,
    /// What was promised, and how it was kept.
    pub slo: SloMeasures,
    /// Requests that came while no pod was ready, and how long they took to be served.
    pub cold: Cold,
    /// Requests that failed.
    pub errors: Errors,
    /// What the pods cost.
    pub cost: Cost,
    /// How well the pods fitted the demand.
    pub fit: Fit,
    /// What the scaler did.
    pub scaling: Scaling,
    /// What was foreseen, where the policy foresees.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub prediction: Option<Prediction>,
    /// Requests in the system, two ways.
    pub little: Vec<Layer>,
    /// How many latencies lie in each class, with its upper edge in seconds.
    pub latencies: Vec<(f64, u64)>,
    /// Hour by hour.
    pub hours: Vec<Period>,
    /// Minute by minute, where the series was asked for.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub minutes: Vec<Period>,
    /// The series, where it was asked for.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub series: Option<Series>,
    /// How much there was to do. It says nothing of the policy, so it is in no file.
    #[serde(skip)]
    pub work: Work,
}

/// How much a run had to do. It is counted, not timed, so that it is the same on any machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Work {
    /// Requests that came one by one, those of the warm-up too.
    pub requests: u64,
    /// Things that happened, other than that a request came.
    pub events: u64,
    /// How often a pod was looked at: to scrape it, to share it among activators, to choose one that goes.
    pub pods: u64,
    /// Cells in which requests were only counted.
    pub cells: u64,
    /// How often a group of pods was looked at in a cell.
    pub groups: u64,
}

impl Work {
    /// How long it takes, in seconds: what each part took on one core of the machine whose figures the README tells.
    pub fn seconds(&self) -> f64 {
        let Self { requests, events, pods, cells, groups } = *self;
        let each = [(requests, 130e-9), (events, 80e-9), (pods, 4.5e-9), (cells, 150e-9), (groups, 80e-9)];
        let count = |count: u64| count_f64(usize::try_from(count).unwrap_or(usize::MAX));
        each.into_iter().map(|(how_many, takes)| count(how_many) * takes).sum()
    }
}

/// What became of the requests that were measured. `arrived` is the sum of the rest, `retries` apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Requests {
    /// Came.
    pub arrived: u64,
    /// Were answered.
    pub completed: u64,
    /// Failed.
    pub failed: u64,
    /// Were still there at the end.
    pub censored: u64,
    /// Further tries of requests that failed.
    pub retries: u64,
}

/// Requests that were answered and waited.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Waited {
    /// At an activator.
    pub activator: u64,
    /// At a queue-proxy.
    pub queue: u64,
}

/// Lengths of time, in seconds.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Lengths {
    /// How many.
    pub count: u64,
    /// Mean.
    pub mean: f64,
    /// Median.
    pub p50: f64,
    /// 90th percentile.
    pub p90: f64,
    /// 95th percentile.
    pub p95: f64,
    /// 99th percentile.
    pub p99: f64,
    /// 99.9th percentile.
    pub p999: f64,
    /// The longest.
    pub max: f64,
}

impl From<&Histogram> for Lengths {
    fn from(histogram: &Histogram) -> Self {
        Self {
            count: histogram.count(),
            mean: histogram.mean(),
            p50: histogram.quantile(0.5),
            p90: histogram.quantile(0.9),
            p95: histogram.quantile(0.95),
            p99: histogram.quantile(0.99),
            p999: histogram.quantile(0.999),
            max: seconds(histogram.max()),
        }
    }
}

/// What was promised, and how it was kept.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct SloMeasures {
    /// The limit, in seconds.
    pub limit: f64,
    /// Of 100 requests, so many are to keep it.
    pub percentile: f64,
    /// Requests that took longer or failed.
    pub violations: u64,
    /// As a share of all that ended.
    pub violation_share: f64,
    /// Minutes in which any request ended.
    pub windows: u64,
    /// Minutes in which too many broke the promise.
    pub windows_missed: u64,
}

/// Requests that came while no pod was ready.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Cold {
    /// How many.
    pub starts: u64,
    /// As a share of all.
    pub share: f64,
    /// How long they waited before they were served, of those that were.
    pub wait: Lengths,
    /// Requests that found pods, but were served by one that was not ready when they came.
    pub scale_up_waits: u64,
}

/// Requests that failed, by cause.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Errors {
    /// No place at the activator.
    pub activator_full: u64,
    /// No place at the queue-proxy.
    pub queue_proxy_full: u64,
    /// Took too long, for the caller or for the revision.
    pub timeout: u64,
    /// Their pod was lost or killed.
    pub pod_lost: u64,
}

/// What the pods cost, from getting a node to being gone, in pod-seconds.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Cost {
    /// Altogether.
    pub pod_seconds: f64,
    /// Starting.
    pub starting: f64,
    /// Ready, with at least one request.
    pub busy: f64,
    /// Ready, without a request.
    pub idle: f64,
    /// Stopping.
    pub draining: f64,
    /// Times the cores of a pod.
    pub cpu_seconds: f64,
    /// Times the memory of a pod.
    pub gib_seconds: f64,
    /// Idle, as a share of all.
    pub idle_share: f64,
    /// On average, at any time.
    pub mean_pods: f64,
    /// The most at a time.
    pub max_pods: u32,
    /// Pods made.
    pub pods_started: u64,
    /// Times as much as the least possible, where that was computed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub against_oracle: Option<f64>,
}

/// How well the ready pods fitted the need: the pods that the demand asks for, where the demand is the number of requests
/// that would be in service if none ever waited.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Fit {
    /// Pod-seconds beyond the need.
    pub over: f64,
    /// Pod-seconds short of the need.
    pub under: f64,
    /// Share of time beyond the need; τ_O of the SPEC Research Group.
    pub time_over: f64,
    /// Share of time short of the need; τ_U.
    pub time_under: f64,
    /// Beyond the need, relative to it and averaged over time; θ_O.
    pub accuracy_over: f64,
    /// Short of the need, relative to it and averaged over time; θ_U.
    pub accuracy_under: f64,
    /// Share of time in which pods and need move in different directions; υ.
    pub instability: f64,
    /// The mean demand, in requests.
    pub mean_demand: f64,
    /// The highest demand, in requests.
    pub max_demand: u64,
}

/// What the scaler did.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Scaling {
    /// Decisions made.
    pub decisions: u64,
    /// Changes to more pods.
    pub ups: u64,
    /// Changes to fewer pods.
    pub downs: u64,
    /// The largest change at once.
    pub largest_step: u32,
    /// Changes of direction soon after the change before.
    pub flaps: u64,
    /// The same per hour.
    pub flaps_per_hour: f64,
    /// How often panic began.
    pub panics: u64,
    /// Seconds in panic.
    pub panic_seconds: f64,
    /// Seconds with the activator in the path.
    pub in_path_seconds: f64,
    /// Changes between the activator in the path and not.
    pub mode_switches: u64,
    /// Scrapes that brought something.
    pub scrapes: u64,
    /// Scrapes that failed.
    pub scrapes_failed: u64,
}

/// What was foreseen, over the whole run with its warm-up.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Prediction {
    /// Whether it was applied.
    pub applied: bool,
    /// Floors above what was wanted without them.
    pub raised: u64,
    /// The load came within the horizon.
    pub hits: u64,
    /// It came within a second horizon.
    pub early: u64,
    /// It did not come.
    pub misses: u64,
    /// Pod-seconds beyond those wanted without it, as far as they were asked for.
    pub extra_pod_seconds: f64,
    /// The same as a part of those wanted without it.
    pub extra_share: f64,
    /// The part of forecasts that the load stayed below; they were to be so with the quantile.
    pub coverage: f64,
    /// The part of decisions at which every guard held.
    pub open_share: f64,
    /// How often which guard was the first that did not.
    pub closed: BTreeMap<String, u64>,
}

impl Prediction {
    /// What came of a forecaster.
    pub fn of(tally: &Tally, applied: bool) -> Self {
        let closed = Guard::ALL.iter().zip(tally.closed).filter(|(_, count)| *count > 0);
        let decisions = tally.open + tally.closed.iter().sum::<u64>();
        Self {
            applied,
            raised: tally.raised,
            hits: tally.hits,
            early: tally.early,
            misses: tally.misses,
            extra_pod_seconds: tally.extra,
            extra_share: if tally.reactive > 0.0 { tally.extra / tally.reactive } else { 0.0 },
            coverage: share(tally.covered, tally.due),
            open_share: share(tally.open, decisions),
            closed: closed.map(|(guard, count)| (guard.name().to_owned(), count)).collect(),
        }
    }
}

/// Requests somewhere in the system, counted over time and by how long each was there. The two are equal (Little's law),
/// to the microsecond.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Layer {
    /// Where.
    pub layer: String,
    /// The number of requests there, integrated over the whole run, in request-seconds.
    pub area: f64,
    /// How long each was there, added up.
    pub stays: f64,
    /// Whether both are the same number of request-microseconds.
    pub equal: bool,
}

/// An hour or a minute of what ended in it.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Period {
    /// When it begins, in seconds from the start of the run.
    pub start: f64,
    /// Requests answered.
    pub completed: u64,
    /// Requests failed.
    pub failed: u64,
    /// Requests that broke the promise.
    pub violations: u64,
    /// Requests that found no ready pod, by when they came.
    pub cold_starts: u64,
    /// Median latency, in seconds.
    pub p50: f64,
    /// 95th percentile of latency.
    pub p95: f64,
    /// 99th percentile of latency.
    pub p99: f64,
    /// The longest latency.
    pub max: f64,
}

/// What there was over time, in lines `step` apart. Counts are of the time since the line before; numbers of pods and
/// requests are the highest since then, so that no peak is lost; the rest is as it was at the line.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Series {
    /// Seconds between two lines; the first is at `step`.
    pub step: f64,
    /// Requests that came.
    pub arrivals: Vec<u32>,
    /// Requests answered.
    pub completions: Vec<u32>,
    /// Requests failed.
    pub errors: Vec<u32>,
    /// Requests that found no ready pod.
    pub cold_starts: Vec<u32>,
    /// Pods wanted.
    pub desired: Vec<u32>,
    /// Pods there are, but for stopping ones.
    pub created: Vec<u32>,
    /// Pods starting on a node.
    pub starting: Vec<u32>,
    /// Pods ready.
    pub ready: Vec<u32>,
    /// Pods stopping.
    pub draining: Vec<u32>,
    /// Load over the stable window, as last decided on.
    pub stable: Vec<f32>,
    /// Load over the panic window, as last decided on.
    pub panic: Vec<f32>,
    /// Requests that would be in service if none ever waited.
    pub demand: Vec<u32>,
    /// Pods that asks for.
    pub need: Vec<u32>,
    /// Requests in service.
    pub serving: Vec<u32>,
    /// Whether the scaler panics: 1 or 0.
    pub panicking: Vec<u8>,
    /// Excess burst capacity.
    pub excess_burst: Vec<i32>,
    /// Whether the activator is in the path: 1 or 0.
    pub in_path: Vec<u8>,
    /// Requests waiting at activators.
    pub waiting_activator: Vec<u32>,
    /// Requests waiting at queue-proxies.
    pub waiting_queue: Vec<u32>,
    /// Which rule decided, as its place in `reasons`; 255 is none.
    pub reason: Vec<u8>,
    /// The rules by name.
    pub reasons: Vec<String>,
}

impl Series {
    /// How many lines there are.
    pub fn len(&self) -> usize {
        self.arrivals.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.arrivals.is_empty()
    }
}

/// `part` of `whole`; 0 of nothing.
#[expect(clippy::cast_precision_loss, reason = "for people; 2^-53 is nothing")]
pub fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// An area of so many microseconds in seconds.
#[expect(clippy::cast_precision_loss, reason = "for people; 2^-53 is nothing")]
pub fn area(micros: u128) -> f64 {
    micros as f64 / 1e6
}
