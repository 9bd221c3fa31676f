//! From what an autoscaler recorded to a case: what would another configuration have done on this traffic?
//!
//! A journal holds what the autoscaler heard, not the requests. Requests per second are what its pods and activators
//! reported; how long they take is what Little's law says of both, unless the scenario says. So before anything is asked,
//! the recorded configuration is run on the rebuilt traffic, and its pods are held to the recorded ones.

use super::case::{Case, CaseError};
use super::law::Written;
use super::outcome::Outcome;
use super::scenario::{Entry, Kpa, Scenario, TraceLoad};
use super::time::{Length, Micros, SECOND, Share, from_seconds, micros};
use super::trace::{Recorded, Trace};
use crate::engine::revision::TICK;
use crate::engine::{Event, Input, MetricSpec, Spec};
use crate::units::{Aggregation, ScalingMetric, Timestamp, saturating_i32};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The name of the recorded configuration among the policies.
pub const RECORDED: &str = "recorded";

/// What was recorded of one revision.
#[derive(Clone, Debug, Default)]
pub struct Recording {
    first: Option<Timestamp>,
    last: Timestamp,
    /// Requests in each second, and requests in flight.
    seconds: BTreeMap<i64, (f64, f64)>,
    /// Pods ready at each tick.
    ready: Vec<(Timestamp, i32)>,
    spec: Option<Arc<Spec>>,
    windows: Option<MetricSpec>,
    /// How often the spec changed.
    changes: u32,
    /// When the scaler last ticked, and last scraped.
    tick: Option<Timestamp>,
    scrape: Option<Timestamp>,
}

/// How far simulated pods are from recorded ones.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Difference {
    /// Ticks compared.
    pub ticks: usize,
    /// The median of |simulated − recorded| ready pods.
    pub median: f64,
    /// Its 95th percentile.
    pub p95: f64,
    /// Its mean, relative to the mean of the recorded pods.
    pub relative: f64,
}

impl Recording {
    /// Takes in what the autoscaler heard.
    pub fn take(&mut self, input: &Input) {
        self.first.get_or_insert(input.now);
        self.last = self.last.max(input.now);
        match &input.event {
            Event::Windows(windows) => self.windows = Some(*windows),
            Event::Decider { spec, ready, .. } => {
                self.changes += u32::from(self.spec.as_ref().is_some_and(|before| before != spec));
                self.spec = Some(Arc::clone(spec));
                self.ready.push((input.now, *ready));
            }
            Event::Tick { ready } => {
                self.ready.push((input.now, *ready));
                self.tick = Some(input.now);
            }
            Event::Reported { load, .. } | Event::Scraped { load } => {
                if let Event::Scraped { .. } = &input.event {
                    self.scrape = Some(input.now);
                }
                // What is told now is of the second that ended.
                let began = self.first.map_or(0, Timestamp::second);
                let second = self.seconds.entry((input.now.second() - 1).max(began)).or_default();
                second.0 += load.requests - load.proxied_requests;
                second.1 += load.concurrency - load.proxied_concurrency;
            }
            _ => {}
        }
    }

    /// How long was recorded.
    pub fn length(&self) -> Micros {
        self.first.map_or(0, |first| micros(self.last.since(first)))
    }

    /// The requests, second by second. Fractions of requests, which samples of pods bring, are carried over.
    fn counts(&self) -> Vec<u32> {
        let Some(first) = self.first else { return Vec::new() };
        let mut carried = 0.0;
        (first.second()..=self.last.second())
            .map(|second| {
                let came = self.seconds.get(&second).map_or(0.0, |(requests, _)| *requests) + carried;
                let whole = came.max(0.0).floor();
                carried = came - whole;
                saturating_i32(whole).unsigned_abs()
            })
            .collect()
    }

    /// How long a request takes on average, in seconds, as Little's law says; none without a request.
    pub fn mean_service(&self) -> Option<f64> {
        let (requests, in_flight) =
            self.seconds.values().fold((0.0, 0.0), |(requests, area), second| (requests + second.0, area + second.1));
        (requests >= 1.0 && in_flight > 0.0).then(|| in_flight / requests)
    }

    /// The configuration that was recorded, as a policy.
    pub fn policy(&self) -> Option<Entry> {
        let (spec, windows) = (self.spec.as_ref()?, self.windows?);
        let mut annotations = BTreeMap::new();
        let mut set = |key: &str, value: String| {
            annotations.insert(format!("autoscaling.knative.dev/{key}"), value);
        };
        let percent = |part: f64| format!("{}", part * 100.0);
        if spec.metric == ScalingMetric::Rps {
            set("metric", "rps".to_owned());
        }
        set("target", spec.total_value.to_string());
        set("target-utilization-percentage", percent(spec.target_value / spec.total_value));
        set("target-burst-capacity", spec.target_burst_capacity.to_string());
        set("window", spec.stable_window.to_string());
        let panic = windows.panic_window.seconds_f64() / windows.stable_window.seconds_f64();
        set("panic-window-percentage", percent(panic));
        set("panic-threshold-percentage", percent(spec.panic_threshold));
        set("scale-down-delay", spec.scale_down_delay.to_string());
        set("initial-scale", spec.initial_scale.max(1).to_string());
        if spec.activation_scale > 0 {
            set("activation-scale", spec.activation_scale.to_string());
        }
        if windows.aggregation == Aggregation::WeightedExponential {
            set("aggregation-algorithm", "weighted-exponential".to_owned());
        }
        let config = [
            ("max-scale-up-rate", spec.max_scale_up_rate),
            ("max-scale-down-rate", spec.max_scale_down_rate),
            ("activator-capacity", spec.activator_capacity),
        ];
        let config = config.iter().map(|(key, value)| ((*key).to_owned(), format!("{value:?}"))).collect();
        let kpa = Kpa { annotations, config, ..Kpa::default() };
        Some(Entry { name: RECORDED.to_owned(), kpa: Some(kpa), ..Entry::default() })
    }

    /// The recorded traffic in the world of `scenario`, with the recorded configuration before its policies.
    ///
    /// # Errors
    /// When too little was recorded, or the scenario does not go with it.
    pub fn case(&self, mut scenario: Scenario) -> Result<Case, CaseError> {
        let error = |message: &str| CaseError { path: "the journal".to_owned(), message: message.to_owned() };
        let policy = self.policy().ok_or_else(|| error("no windows and no decider were recorded of this revision"))?;
        let counts = self.counts();
        if counts.iter().all(|count| *count == 0) {
            return Err(error("no request was recorded of this revision"));
        }
        if scenario.load.service.is_none() {
            let mean =
                self.mean_service().ok_or_else(|| error("no request in flight was recorded of this revision"))?;
            scenario.load.service = Some(Written::exponential(Length(from_seconds(mean))));
        }
        scenario.load.synthetic = None;
        scenario.load.trace = Some(TraceLoad { file: "journal".to_owned(), ..TraceLoad::default() });
        scenario.duration = None;
        // What was recorded begins in the middle of something; two windows later nothing of that is left.
        let window = self.windows.map_or(0, |windows| micros(windows.stable_window));
        let length = counts.len() as u64 * SECOND;
        scenario.warm_up = Length((2 * window).min(length / 3));
        // The scaler looks when it looked then.
        if let Some(first) = self.first {
            let since = |at: Option<Timestamp>, period: Micros| {
                at.map(|at| Length(micros(at.since(first.truncated())) % period))
            };
            let phases = &mut scenario.world.phases;
            phases.tick = phases.tick.or_else(|| since(self.tick, micros(TICK)));
            phases.scrape = phases.scrape.or_else(|| since(self.scrape, SECOND));
        }
        scenario.policies.retain(|other| other.name != RECORDED);
        scenario.policies.insert(0, policy);
        if let Some((path, message)) = scenario.check().into_iter().next() {
            return Err(CaseError { path, message });
        }
        let trace = Trace {
            name: "the journal".to_owned(),
            recorded: Recorded::Counts { bucket: SECOND, counts },
            notes: Vec::new(),
        };
        Case::new(scenario, Some(trace))
    }

    /// How far the pods of `outcome`, which has a series, are from the recorded ones, after the warm-up of `case`.
    pub fn difference(&self, case: &Case, outcome: &Outcome) -> Difference {
        let (Some(first), Some(series)) = (self.first, &outcome.series) else { return Difference::default() };
        let step = from_seconds(series.step).max(1);
        let (mut differences, mut recorded) = (Vec::new(), 0.0);
        for (at, ready) in &self.ready {
            let at = micros(at.since(first.truncated()));
            let line = usize::try_from(at / step).unwrap_or(usize::MAX);
            let Some(simulated) = series.ready.get(line).filter(|_| at >= case.warm_up) else { continue };
            differences.push((f64::from(*simulated) - f64::from(*ready)).abs());
            recorded += f64::from(*ready);
        }
        if differences.is_empty() {
            return Difference::default();
        }
        differences.sort_by(f64::total_cmp);
        let at = |percent: usize| differences[(differences.len() * percent / 100).min(differences.len() - 1)];
        let sum: f64 = differences.iter().sum();
        let relative = if recorded > 0.0 { sum / recorded } else { f64::from(u8::from(sum > 0.0)) };
        Difference { ticks: differences.len(), median: at(50), p95: at(95), relative }
    }

    /// How often the configuration changed while it was recorded; a replay knows the last one only.
    pub fn changes(&self) -> u32 {
        self.changes
    }
}

impl Difference {
    /// Whether it is small enough to trust a replay.
    pub fn is_within(&self, most: Share) -> bool {
        self.ticks > 0 && self.relative <= most.0
    }
}
