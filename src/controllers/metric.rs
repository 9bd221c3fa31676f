//! Metric: which pods are scraped over which windows, and how that goes.

use crate::api::conditions::{Conditions, METRIC, READY, settle_times};
use crate::api::metric::{Metric, MetricStatus};
use crate::api::names::REVISION_LABEL;
use crate::clock::Clock;
use crate::controllers::writes::Statuses;
use crate::deciders::Deciders;
use crate::deciders::collector::Collector;
use crate::engine::MetricSpec;
use crate::k8s::cache::Cache;
use crate::k8s::queue::Turn;
use crate::observe::metrics::RevisionLabels;
use crate::observe::metrics::knative::AllScrapeTimes;
use crate::stats::fetch::FetchError;
use crate::stats::scrape::ScrapeError;
use crate::units::{Aggregation, RevisionKey, Span, Timestamp};
use std::collections::BTreeMap;

/// What the controller works with. Cheap to share.
pub struct Controller {
    /// The time.
    pub clock: Clock,
    /// Metrics, as last seen.
    pub metrics: Cache<Metric>,
    /// Where windows are.
    pub deciders: Deciders,
    /// What scrapes.
    pub collector: Collector,
    /// Where the time scrapes take is counted.
    pub times: AllScrapeTimes,
    /// Where a status goes to be written.
    pub statuses: Statuses<Metric>,
}

impl Controller {
    /// One look at one Metric: makes or changes its windows and its scraper, then says how the last scrape went.
    pub fn reconcile(&self, key: &RevisionKey) -> Turn {
        let Some(metric) = self.metrics.get(key) else {
            self.collector.remove(key);
            self.deciders.remove_windows(key);
            self.statuses.forget(key);
            return Turn::Done;
        };
        if metric.metadata.deletion_timestamp.is_some() {
            return Turn::Done;
        }
        let now = self.clock.now();
        let error = self.collect(key, &metric);
        let pending = self.statuses.pending(key, &metric);
        let status = status(&metric, pending.as_ref(), error.as_ref(), now);
        let stored = metric.status.as_ref();
        self.statuses.put(key, Metric { status: Some(status), ..(*metric).clone() }, stored);
        Turn::Done
    }

    fn collect(&self, key: &RevisionKey, metric: &Metric) -> Option<ScrapeError> {
        let has_revision =
            metric.metadata.labels.iter().flatten().any(|(name, value)| name == REVISION_LABEL && !value.is_empty());
        if !has_revision {
            return Some(ScrapeError::NoRevision(key.name().to_owned()));
        }
        let spec = windows(metric);
        self.deciders.ensure_windows(key, &spec);
        self.collector.ensure(key, &metric.spec.scrape_target, spec.stable_window);
        self.collector.measure(key, || self.times.of(&RevisionLabels::of(key, metric.metadata.labels.as_ref())));
        self.collector.last_error(key)
    }
}

/// The windows a Metric asks for.
pub fn windows(metric: &Metric) -> MetricSpec {
    let none = BTreeMap::new();
    let annotations = metric.metadata.annotations.as_ref().unwrap_or(&none);
    MetricSpec {
        stable_window: Span::from_nanos(metric.spec.stable_window),
        panic_window: Span::from_nanos(metric.spec.panic_window),
        scraped: !metric.spec.scrape_target.is_empty(),
        aggregation: aggregation(annotations),
    }
}

fn aggregation(annotations: &BTreeMap<String, String>) -> Aggregation {
    let (overrides, _) = crate::api::annotations::Overrides::read(annotations, crate::units::Compat::IMPROVED);
    overrides.aggregation.map(|aggregation| aggregation.value).unwrap_or_default()
}

/// What is to be told of a Metric. Times of conditions are kept where they say the same as the status `pending`, or else
/// the one stored.
fn status(
    metric: &Metric,
    pending: Option<&MetricStatus>,
    error: Option<&ScrapeError>,
    now: Timestamp,
) -> MetricStatus {
    let mut status = metric.status.clone().unwrap_or_default();
    let before = pending.map_or_else(|| status.conditions.clone(), |pending| pending.conditions.clone());
    let mut conditions = Conditions::of(&METRIC, &mut status.conditions, now);
    conditions.initialize();
    let text = error.map(ToString::to_string).unwrap_or_default();
    match error {
        None => conditions.mark_true(READY),
        Some(ScrapeError::NoEndpoints) => conditions.mark_unknown(READY, "NoEndpoints", &text),
        Some(ScrapeError::Service { cause: FetchError::Seen, .. }) => {
            conditions.mark_false(READY, "DidNotReceiveStat", &text);
        }
        Some(_) => {
            let message = format!("Failed to reconcile metric collection: {text}");
            conditions.mark_false(READY, "CollectionFailed", &message);
        }
    }
    status.observed_generation = metric.metadata.generation.unwrap_or_default();
    settle_times(&mut status.conditions, &before, now);
    status
}
