//! What the controller knows of each revision beside its decider, for whoever shows its numbers.

use crate::deciders::{Deciders, View};
use crate::k8s::pods::PodIndex;
use crate::observe::metrics::RevisionLabels;
use crate::observe::metrics::knative::RevisionNumbers;
use crate::observe::plan::Plan;
use crate::units::{Compat, RevisionKey, ScalingMetric, Timestamp};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::mpsc;

/// The revisions of this replica. Cheap to clone; all clones are one.
#[derive(Clone, Debug, Default)]
pub struct Gauges {
    known: Arc<Mutex<HashMap<RevisionKey, Known>>>,
    /// Told of each plan that differs from the one before.
    changes: Option<mpsc::Sender<(RevisionKey, Plan)>>,
}

#[derive(Debug)]
struct Known {
    labels: RevisionLabels,
    requested: Option<i32>,
    plan: Plan,
    /// The metric its decider was made with.
    first_metric: ScalingMetric,
}

impl Gauges {
    /// The same, telling `changes` of each plan that differs from the one before. What finds no place there is dropped.
    pub fn telling(changes: mpsc::Sender<(RevisionKey, Plan)>) -> Self {
        Self { known: Arc::default(), changes: Some(changes) }
    }

    /// A revision was looked at: `labels` are those of its PodAutoscaler, `plan` is what follows.
    pub fn note(
        &self,
        key: &RevisionKey,
        labels: Option<&BTreeMap<String, String>>,
        metric: ScalingMetric,
        plan: Plan,
    ) {
        let mut known = self.lock();
        let differs = if let Some(known) = known.get_mut(key) {
            known.requested = plan.want.or(known.requested);
            let differs = plan.differs_from(&known.plan);
            known.plan.clone_from(&plan);
            differs
        } else {
            let labels = RevisionLabels::of(key, labels);
            let fresh = Known { labels, requested: plan.want, plan: plan.clone(), first_metric: metric };
            known.insert(key.clone(), fresh);
            true
        };
        drop(known);
        if differs {
            self.tell(key, plan);
        }
    }

    /// Something about a revision somebody should mend.
    pub fn trouble(&self, key: &RevisionKey, at: Timestamp, trouble: &str) {
        let mut known = self.lock();
        let Some(known) = known.get_mut(key).filter(|known| known.plan.trouble != trouble) else { return };
        let plan = &mut known.plan;
        (plan.at, plan.from) = (at, None);
        trouble.clone_into(&mut plan.trouble);
        let plan = plan.clone();
        self.tell(key, plan);
    }

    fn tell(&self, key: &RevisionKey, plan: Plan) {
        if let Some(changes) = &self.changes {
            let _ = changes.try_send((key.clone(), plan));
        }
    }

    /// What last became of the decisions on a revision.
    pub fn plan(&self, key: &RevisionKey) -> Option<Plan> {
        Some(self.lock().get(key)?.plan.clone())
    }

    /// The same of every revision.
    pub fn plans(&self) -> Vec<(RevisionKey, Plan)> {
        self.lock().iter().map(|(key, known)| (key.clone(), known.plan.clone())).collect()
    }

    /// A revision is gone.
    pub fn forget(&self, key: &RevisionKey) {
        self.lock().remove(key);
    }

    /// The revisions `which` chooses are not this replica's any more.
    pub fn let_go(&self, which: impl Fn(&RevisionKey) -> bool) {
        self.lock().retain(|key, _| !which(key));
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
