//! The four windows of a revision: requests in flight and requests per second, each over the stable and the panic window.

use super::decision::Observed;
use super::spec::MetricSpec;
use super::window::Window;
use crate::units::{Compat, ScalingMetric, Timestamp};
use std::fmt;

/// What one reporter saw in one second.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Load {
    /// Requests in flight, averaged over the second.
    pub concurrency: f64,
    /// Those of them that came through an activator, which reports them itself.
    pub proxied_concurrency: f64,
    /// Requests that arrived, per second.
    pub requests: f64,
    /// Those of them that came through an activator, which reports them itself.
    pub proxied_requests: f64,
}

/// Nothing was recorded for a whole stable window although the pods are scraped, so the load is unknown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoData;

impl fmt::Display for NoData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no pod or activator has reported for a whole stable window, so the load is unknown")
    }
}

impl std::error::Error for NoData {}

/// Where a stat's time was moved to, and whether it had to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Clamped {
    /// The time to record at.
    pub at: Timestamp,
    /// Whether it differs from the stat's own; to be counted.
    pub moved: bool,
}

/// The load of one revision over time.
#[derive(Clone, Debug)]
pub struct Collection {
    concurrency: Pair,
    requests: Pair,
    scraped: bool,
}

impl Collection {
    /// Empty windows as `spec` says.
    pub fn new(spec: &MetricSpec) -> Self {
        Self { concurrency: Pair::new(spec), requests: Pair::new(spec), scraped: spec.scraped }
    }

    /// Adds one reporter's load to the second of `at`. Several reporters in one second add up.
    ///
    /// Returns false, recording nothing, for a load that is not finite: one such value would stay in the running total.
    pub fn record(&mut self, at: Timestamp, load: &Load) -> bool {
        let concurrency = load.concurrency - load.proxied_concurrency;
        let requests = load.requests - load.proxied_requests;
        if !concurrency.is_finite() || !requests.is_finite() {
            return false;
        }
        self.concurrency.record(at, concurrency);
        self.requests.record(at, requests);
        true
    }

    /// Where to record a stat of `at` that arrives at `now`.
    pub fn clamp(&self, at: Timestamp, now: Timestamp, compat: Compat) -> Clamped {
        let within = at.clamp(now - self.concurrency.stable.length(), now);
        let at = if compat.clamp_stat_time { within } else { at };
        Clamped { at, moved: compat.clamp_stat_time && within != at }
    }

    /// The averages of `metric` at `now`.
    pub fn observe(&self, metric: ScalingMetric, now: Timestamp) -> Result<Observed, NoData> {
        let pair = match metric {
            ScalingMetric::Concurrency => &self.concurrency,
            ScalingMetric::Rps => &self.requests,
        };
        if self.scraped && pair.stable.is_empty(now) {
            return Err(NoData);
        }
        Ok(Observed { stable: pair.stable.average(now), panic: pair.panic.average(now) })
    }

    /// Takes over a changed spec: the windows' lengths and whether pods are scraped. The aggregation stays as it was.
    pub fn resize(&mut self, spec: &MetricSpec, now: Timestamp, compat: Compat) {
        self.concurrency.resize(spec, now, compat);
        self.requests.resize(spec, now, compat);
        self.scraped = spec.scraped;
    }
}

/// The stable and the panic window of one metric.
#[derive(Clone, Debug)]
struct Pair {
    stable: Window,
    panic: Window,
}

impl Pair {
    fn new(spec: &MetricSpec) -> Self {
        Self {
            stable: Window::new(spec.stable_window, spec.aggregation),
            panic: Window::new(spec.panic_window, spec.aggregation),
        }
    }

    fn record(&mut self, at: Timestamp, value: f64) {
        self.stable.record(at, value);
        self.panic.record(at, value);
    }

    fn resize(&mut self, spec: &MetricSpec, now: Timestamp, compat: Compat) {
        self.stable.resize(spec.stable_window, now, compat);
        self.panic.resize(spec.panic_window, now, compat);
    }
}
