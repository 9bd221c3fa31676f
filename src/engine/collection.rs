//! A revision's load is kept in four windows: requests in flight and requests per second, each over the stable and the
//! panic window.
//!
//! # Rule
//!
//! A reporter's load is what it saw less what came through an activator, since the activator reports that itself:
//!
//! ```text
//! requests in flight  += concurrency - proxied_concurrency
//! requests per second += requests - proxied_requests
//! ```
//!
//! Differences may be negative and are taken as they are. An empty stable window means *no data* where pods are
//! scraped, and *no load* where they are not.
//!
//! # Example
//!
//! ```
//! use ebb::engine::{Collection, Load, MetricSpec, NoData};
//! use ebb::units::{Aggregation, ScalingMetric, Span, Timestamp};
//!
//! let mut collection = Collection::new(&MetricSpec {
//!     stable_window: Span::from_seconds(60),
//!     panic_window: Span::from_seconds(6),
//!     scraped: true,
//!     aggregation: Aggregation::Linear,
//! });
//! let now = Timestamp::from_seconds(1000);
//! assert_eq!(collection.observe(ScalingMetric::Concurrency, now), Err(NoData));
//! collection.record(now, &Load { concurrency: 5.0, proxied_concurrency: 2.0, ..Load::default() });
//! let observed = collection.observe(ScalingMetric::Concurrency, now).unwrap();
//! assert_eq!((observed.stable, observed.panic), (3.0, 3.0));
//! ```
//!
//! # Source
//!
//! Knative Serving, `pkg/autoscaler/metrics/collector.go`: `collection.record`, `StableAndPanicConcurrency`,
//! `StableAndPanicRPS`.
//!
//! # Differences
//!
//! - The time of a stat that another replica or an activator stamped is moved into the stable window
//!   ([`Compat::clamp_stat_time`], [`Collection::clamp`]). In Knative a clock that is ahead moves the window forward
//!   and one that is behind loses its stats.
//! - A load that is not finite is not recorded. In Knative it stays in the running total for a whole window.

use super::decision::Observed;
use super::spec::MetricSpec;
use super::window::Window;
use crate::units::{Compat, ScalingMetric, Span, Timestamp};
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

impl Load {
    /// All of it counted as the reporter's own, what came through an activator included: for whoever does not hear from
    /// activators.
    #[must_use]
    pub fn with_proxied(self) -> Self {
        Self { proxied_concurrency: 0.0, proxied_requests: 0.0, ..self }
    }
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
    pub(super) concurrency: Pair,
    pub(super) requests: Pair,
    pub(super) scraped: bool,
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
        if !compat.clamp_stat_time {
            return Clamped { at, moved: false };
        }
        let within = at.clamp(now - self.concurrency.stable.length(), now);
        Clamped { at: within, moved: within != at }
    }

    /// The averages of `metric` at `now`.
    pub fn observe(&self, metric: ScalingMetric, now: Timestamp) -> Result<Observed, NoData> {
        let pair = match metric {
            ScalingMetric::Concurrency => &self.concurrency,
            ScalingMetric::Rps => &self.requests,
        };
        let now = now.second();
        if self.scraped && pair.stable.is_empty_in(now) {
            return Err(NoData);
        }
        Ok(Observed { stable: pair.stable.average_in(now), panic: pair.panic.average_in(now) })
    }

    /// Memory of the buckets, in bytes.
    pub(super) fn heap_bytes(&self) -> usize {
        let buckets = |pair: &Pair| pair.stable.buckets.len() + pair.panic.buckets.len();
        (buckets(&self.concurrency) + buckets(&self.requests)) * size_of::<f64>()
    }

    /// The length of the stable window.
    pub fn stable_window(&self) -> Span {
        self.concurrency.stable.length()
    }

    /// Whether these are the windows `spec` asks for, so that [`resize`](Self::resize) would change nothing.
    pub fn fits(&self, spec: &MetricSpec) -> bool {
        self.concurrency.stable.fits(spec.stable_window)
            && self.concurrency.panic.fits(spec.panic_window)
            && self.scraped == spec.scraped
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
pub(super) struct Pair {
    pub(super) stable: Window,
    pub(super) panic: Window,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Aggregation;

    fn spec(stable: i64, panic: i64) -> MetricSpec {
        MetricSpec {
            stable_window: Span::from_seconds(stable),
            panic_window: Span::from_seconds(panic),
            scraped: true,
            aggregation: Aggregation::Linear,
        }
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_seconds(1_785_542_400 + seconds)
    }

    fn load(concurrency: f64, requests: f64) -> Load {
        Load { concurrency, requests, ..Load::default() }
    }

    #[test]
    fn each_metric_has_its_own_stable_and_panic_average() {
        let mut collection = Collection::new(&spec(10, 2));
        for second in 0..10 {
            let busy = if second >= 8 { 30.0 } else { 10.0 };
            collection.record(at(second), &load(busy, 10.0 * busy));
        }
        // (8 * 10 + 2 * 30) / 10, and the last two seconds alone.
        let want = |stable, panic| Ok(Observed { stable, panic });
        assert_eq!(collection.observe(ScalingMetric::Concurrency, at(9)), want(14.0, 30.0));
        assert_eq!(collection.observe(ScalingMetric::Rps, at(9)), want(140.0, 300.0));
    }

    #[test]
    fn reporters_of_one_second_add_up_without_what_an_activator_reports() {
        let mut collection = Collection::new(&spec(10, 2));
        collection.record(at(0), &load(4.0, 8.0));
        let proxied = Load { concurrency: 5.0, proxied_concurrency: 3.0, requests: 6.0, proxied_requests: 7.0 };
        collection.record(at(0), &proxied);
        assert_eq!(collection.observe(ScalingMetric::Concurrency, at(0)).map(|seen| seen.stable), Ok(6.0));
        assert_eq!(collection.observe(ScalingMetric::Rps, at(0)).map(|seen| seen.stable), Ok(7.0));
    }

    #[test]
    fn who_does_not_hear_from_activators_counts_all_of_a_report() {
        let mut collection = Collection::new(&spec(10, 2));
        let load = Load { concurrency: 5.0, proxied_concurrency: 3.0, requests: 6.0, proxied_requests: 7.0 };
        collection.record(at(0), &load.with_proxied());
        assert_eq!(collection.observe(ScalingMetric::Concurrency, at(0)).map(|seen| seen.stable), Ok(5.0));
        assert_eq!(collection.observe(ScalingMetric::Rps, at(0)).map(|seen| seen.stable), Ok(6.0));
    }

    #[test]
    fn without_scraping_no_data_is_no_load() {
        let unscraped = MetricSpec { scraped: false, ..spec(10, 2) };
        let mut collection = Collection::new(&spec(10, 2));
        assert_eq!(collection.observe(ScalingMetric::Concurrency, at(0)), Err(NoData));
        collection.resize(&unscraped, at(0), Compat::STRICT);
        assert_eq!(collection.observe(ScalingMetric::Concurrency, at(0)), Ok(Observed::default()));
    }

    #[test]
    fn the_panic_window_may_be_stale_while_the_stable_one_is_not() {
        let mut collection = Collection::new(&spec(10, 2));
        collection.record(at(0), &load(7.0, 7.0));
        let seen = collection.observe(ScalingMetric::Concurrency, at(5));
        assert_eq!(seen, Ok(Observed { stable: 7.0, panic: 0.0 }));
    }

    #[test]
    fn what_is_not_finite_is_not_recorded() {
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let mut collection = Collection::new(&spec(10, 2));
            assert!(collection.record(at(0), &load(1.0, 1.0)));
            assert!(!collection.record(at(0), &load(bad, 1.0)));
            assert!(!collection.record(at(0), &load(1.0, bad)));
            assert_eq!(collection.observe(ScalingMetric::Rps, at(0)).map(|seen| seen.stable), Ok(1.0));
        }
    }

    #[test]
    fn times_outside_the_window_move_to_its_edge_unless_strict() {
        let collection = Collection::new(&spec(60, 6));
        let now = at(1000);
        for (time, moved_to) in [(at(1005), now), (now, now), (at(970), at(970)), (at(940), at(940)), (at(0), at(940))]
        {
            let improved = collection.clamp(time, now, Compat::IMPROVED);
            assert_eq!(improved, Clamped { at: moved_to, moved: moved_to != time }, "{time:?}");
            assert_eq!(collection.clamp(time, now, Compat::STRICT), Clamped { at: time, moved: false }, "{time:?}");
        }
    }

    #[test]
    fn a_clock_ahead_does_not_empty_the_window_unless_strict() {
        for (compat, want) in [(Compat::IMPROVED, 8.0), (Compat::STRICT, 2.0)] {
            let mut collection = Collection::new(&spec(10, 2));
            for second in 0..10 {
                collection.record(at(second), &load(8.0, 8.0));
            }
            let stat = collection.clamp(at(60), at(10), compat);
            collection.record(stat.at, &load(2.0, 2.0));
            collection.record(at(10), &load(6.0, 6.0));
            let seen = collection.observe(ScalingMetric::Concurrency, at(10)).expect("data");
            assert_eq!(seen.stable, want, "{compat:?}");
        }
    }
}
