//! What the controller knows of each revision beside its decider, for whoever shows its numbers.

use crate::deciders::{Deciders, View};
use crate::k8s::pods::PodIndex;
use crate::observe::metrics::RevisionLabels;
use crate::observe::metrics::knative::RevisionNumbers;
use crate::units::{Compat, RevisionKey, ScalingMetric};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The revisions of this replica. Cheap to clone; all clones are one.
#[derive(Clone, Debug, Default)]
pub struct Gauges {
    known: Arc<Mutex<HashMap<RevisionKey, Known>>>,
}

#[derive(Debug)]
struct Known {
    labels: RevisionLabels,
    requested: Option<i32>,
    /// The metric its decider was made with.
    first_metric: ScalingMetric,
}

impl Gauges {
    /// A revision was looked at: `labels` are those of its PodAutoscaler, `want` is what was asked for, if that is known.
    pub fn note(
        &self,
        key: &RevisionKey,
        labels: Option<&BTreeMap<String, String>>,
        metric: ScalingMetric,
        want: Option<i32>,
    ) {
        let mut known = self.lock();
        if let Some(known) = known.get_mut(key) {
            known.requested = want.or(known.requested);
            return;
        }
        let labels = RevisionLabels::of(key, labels);
        known.insert(key.clone(), Known { labels, requested: want, first_metric: metric });
    }

    /// A revision is gone.
    pub fn forget(&self, key: &RevisionKey) {
        self.lock().remove(key);
    }

    /// The revisions `which` chooses are not this replica's any more.
    pub fn let_go(&self, which: impl Fn(&RevisionKey) -> bool) {
        self.lock().retain(|key, _| !which(key));
    }

    /// What is asked for of a revision, as far as it was ever known.
    pub fn requested(&self, key: &RevisionKey) -> Option<i32> {
        self.lock().get(key)?.requested
    }

    /// The numbers of every revision that has a decider here.
    pub fn read(&self, deciders: &Deciders, pods: &PodIndex, compat: Compat) -> Vec<(RevisionLabels, RevisionNumbers)> {
        let known: Vec<_> = {
            let known = self.lock();
            known.values().map(|known| (known.labels.clone(), known.requested, known.first_metric)).collect()
        };
        let of_one = |(labels, requested, first_metric): (RevisionLabels, Option<i32>, ScalingMetric)| {
            let View { spec, latest, .. } = deciders.view(&labels.key)?;
            // The reference chooses once, when it makes a decider.
            let metric = if compat.live_metric_gauges { spec.metric } else { first_metric };
            let pods = pods.counts(&labels.key);
            let numbers = RevisionNumbers { metric, requested, pods, ..RevisionNumbers::default() };
            let numbers = latest.map_or(numbers, |decision| RevisionNumbers {
                desired: decision.desired,
                excess_burst: decision.excess_burst_exact,
                panicking: decision.panicking_since.is_some(),
                stable: decision.observed.stable,
                panic: decision.observed.panic,
                target: decision.target,
                ..numbers
            });
            Some((labels, numbers))
        };
        known.into_iter().filter_map(of_one).collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<RevisionKey, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
