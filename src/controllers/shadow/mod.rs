//! A second autoscaler beside the running one, that decides as it would and writes nothing.
//!
//! It watches what the running autoscaler watches, makes windows and deciders of its own from the same settings, asks the
//! pods itself, and decides on ticks of its own. Once a second it holds what it would have done against what stands in the
//! cluster ([`compare`] has the rules), and keeps the account ([`report`]).
//!
//! A revision at zero, or one that has just come back, cannot be compared: activators tell only the running autoscaler
//! what waits in them.

pub mod compare;
pub mod report;

use crate::api::annotations::Overrides;
use crate::api::conditions::{Status, find};
use crate::api::metric::Metric;
use crate::api::names::{CONFIGURATION_LABEL, REVISION_LABEL};
use crate::api::pod_autoscaler::{PodAutoscaler, PodAutoscalerStatus};
use crate::api::pods::PodCounts;
use crate::api::serverless_service::{Mode, ServerlessService};
use crate::clock::Clock;
use crate::config::{Resolved, resolve};
use crate::controllers::metric::windows;
use crate::controllers::pod_autoscaler::plan::{self, Scale, ScaleStep, Seen};
use crate::controllers::settings::{Current, Settings};
use crate::deciders::Deciders;
use crate::deciders::collector::Collector;
use crate::engine::subset::number_of_activators;
use crate::engine::{Decision, MetricSpec, Spec};
use crate::k8s::cache::Cache;
use crate::k8s::pods::PodIndex;
use crate::k8s::read_only::Refusals;
use crate::k8s::scale_targets::ScaleTargets;
use crate::observe::metrics::{LabelNames, Page, Registry, RevisionLabels, RevisionSeries, Source};
use crate::observe::plan::Plan;
use crate::ownership::class::Class;
use crate::stats::limit::OncePerMinute;
use crate::units::{Compat, RevisionKey, ScalingMetric, Span, Timestamp};
use compare::{Answers, Aspect, Basis, Blind, Comparison, Finding, Sight, Tolerance};
use report::{Account, Difference, Report, RevisionReport, Side};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{broadcast, mpsc};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// How often the two are compared.
const LOOK_EVERY: Span = Span::SECOND;
/// How long scrapes may fail in a row before we are blind: a pod that is going away fails one.
const PATIENCE: Span = Span::from_seconds(5);
/// Differences of one revision that are kept.
const KEPT: usize = 8;
/// Differences kept for a listener that is slow.
const KEPT_FOR_LISTENERS: usize = 256;

/// What the shadow looks at and works with.
pub struct Parts {
    /// The time.
    pub clock: Clock,
    /// Where to differ from the reference.
    pub compat: Compat,
    /// The cluster's settings.
    pub settings: Current,
    /// PodAutoscalers, as last seen.
    pub autoscalers: Cache<PodAutoscaler>,
    /// ServerlessServices, as last seen.
    pub services: Cache<ServerlessService>,
    /// Metrics, as last seen.
    pub metrics: Cache<Metric>,
    /// Pods by revision.
    pub pods: PodIndex,
    /// What is scaled.
    pub targets: ScaleTargets,
    /// What decides; nothing else drives it.
    pub deciders: Deciders,
    /// What scrapes, and counts what came through an activator.
    pub collector: Collector,
    /// How many writes the client refused.
    pub refusals: Refusals,
    /// Told of each plan that differs from the one before, for a journal. What finds no place there is dropped.
    pub plans: Option<mpsc::Sender<(RevisionKey, Plan)>>,
}

/// The shadow. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Shadow {
    shared: Arc<Shared>,
}

struct Shared {
    parts: Parts,
    started: Timestamp,
    state: Mutex<State>,
    limit: OncePerMinute,
    told: broadcast::Sender<Difference>,
}

#[derive(Default)]
struct State {
    revisions: BTreeMap<RevisionKey, Followed>,
    /// The account of revisions that are gone.
    gone: Account,
}

/// One revision that is followed.
struct Followed {
    /// What `resolved` was made from.
    object: Arc<PodAutoscaler>,
    settings: Arc<Settings>,
    resolved: Resolved,
    labels: RevisionLabels,
    /// What deciders and collector were last told.
    told: Option<(Spec, MetricSpec, String)>,
    failing_since: Option<Timestamp>,
    comparison: Comparison,
    last: Option<Look>,
    differences: VecDeque<Difference>,
    differences_told: [u64; Aspect::ALL.len()],
    /// What was last made of a decision, and where that differs; `None` before the first.
    plan: Option<Plan>,
}

/// What was seen at the last look.
struct Look {
    sight: Sight,
    because: Option<(Decision, Scale)>,
    replicas: Option<i32>,
}

impl fmt::Debug for Shadow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shadow").field("revisions", &self.lock().revisions.len()).finish_non_exhaustive()
    }
}

impl Shadow {
    /// Follows nothing yet.
    pub fn new(parts: Parts) -> Self {
        let (started, limit) = (parts.clock.now(), OncePerMinute::new(parts.clock));
        let told = broadcast::Sender::new(KEPT_FOR_LISTENERS);
        Self { shared: Arc::new(Shared { parts, started, state: Mutex::default(), limit, told }) }
    }

    /// Compares until `cancel`.
    pub async fn run(&self, cancel: CancellationToken) {
        let clock = self.shared.parts.clock;
        let mut next = clock.now();
        loop {
            next = (next + LOOK_EVERY).max(clock.now());
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep_until(clock.instant(next)) => self.look(),
            }
        }
    }

    /// What was last made of the decisions on a revision, and where the running autoscaler wants something else.
    pub fn plan(&self, key: &RevisionKey) -> Option<Plan> {
        self.lock().revisions.get(key)?.plan.clone()
    }

    /// The same of every revision.
    pub fn plans(&self) -> Vec<(RevisionKey, Plan)> {
        let state = self.lock();
        state.revisions.iter().filter_map(|(key, followed)| Some((key.clone(), followed.plan.clone()?))).collect()
    }

    /// Listens to the differences that last, each when it is found and when it is over.
    pub fn listen(&self) -> broadcast::Receiver<Difference> {
        self.shared.told.subscribe()
    }

    /// The account so far.
    pub fn report(&self) -> Report {
        let state = self.lock();
        let revisions: Vec<_> = state.revisions.iter().map(|(key, followed)| followed.report(key)).collect();
        let mut all = state.gone.clone();
        for revision in &revisions {
            all.add(&revision.account);
        }
        Report {
            since: self.shared.started,
            at: self.shared.parts.clock.now(),
            writes_refused: self.shared.parts.refusals.count(),
            all,
            revisions,
        }
    }

    /// Shows what is counted, and the series of each revision.
    pub fn register(&self, registry: &Registry) {
        registry.register(self.clone());
        let this = Arc::downgrade(&self.shared);
        registry.per_revision(LabelNames::Plain, SERIES, move || {
            let Some(shared) = this.upgrade() else { return Vec::new() };
            let state = shared.state.lock().unwrap_or_else(PoisonError::into_inner);
            let values = |followed: &Followed| {
                let answer = |of: fn(&Sight) -> &Answers| of(&followed.last.as_ref()?.sight)[Aspect::Pods as usize];
                Values {
                    ours: answer(|sight| &sight.ours),
                    theirs: answer(|sight| &sight.theirs),
                    differs: followed.comparison.basis().is_judged().then(|| followed.comparison.differs()),
                }
            };
            state.revisions.values().map(|followed| (followed.labels.clone(), values(followed))).collect()
        });
    }

    /// One look at every revision.
    fn look(&self) {
        let parts = &self.shared.parts;
        let now = parts.clock.now();
        let settings = Arc::clone(&parts.settings.borrow());
        let mut state = self.lock();
        let present = parts.autoscalers.select(|_, object| is_followed(object));
        let mut keys = Vec::with_capacity(present.len());
        for object in present {
            let meta = &object.metadata;
            let key = RevisionKey::new(
                meta.namespace.as_deref().unwrap_or_default(),
                meta.name.as_deref().unwrap_or_default(),
            );
            let followed = state
                .revisions
                .entry(key.clone())
                .or_insert_with(|| Followed::new(&key, Arc::clone(&object), Arc::clone(&settings), parts.compat, now));
            followed.renew(&key, object, &settings, parts.compat);
            let look = followed.see(&key, parts, now);
            let findings = followed.comparison.look(&look.sight);
            followed.last = Some(look);
            for finding in findings {
                let difference = followed.note(&key, &finding);
                self.tell(&key, &difference);
            }
            if let Some(plan) = followed.planned(now, parts.pods.counts(&key))
                && let Some(plans) = &parts.plans
            {
                let _ = plans.try_send((key.clone(), plan));
            }
            keys.push(key);
        }
        keys.sort();
        let gone: Vec<RevisionKey> =
            state.revisions.keys().filter(|key| keys.binary_search(key).is_err()).cloned().collect();
        for key in gone {
            parts.collector.remove(&key);
            parts.deciders.remove_windows(&key);
            parts.deciders.remove_decider(&key);
            if let Some(followed) = state.revisions.remove(&key) {
                state.gone.add(&followed.account());
            }
        }
    }

    /// Tells whoever listens, and the log: of one revision no more than one beginning and one end a minute.
    fn tell(&self, key: &RevisionKey, difference: &Difference) {
        let _ = self.shared.told.send(difference.clone());
        let aspect = difference.aspect.name();
        match difference.over {
            None => {
                if let Some(suppressed) = self.shared.limit.allow(&key.as_str().into()) {
                    warn!(
                        revision = %key,
                        aspect,
                        basis = difference.basis.name(),
                        ebb = difference.aspect.in_words(difference.ours),
                        running = difference.aspect.in_words(difference.theirs),
                        because = difference.because,
                        suppressed,
                        "the running autoscaler wants something else"
                    );
                }
            }
            Some(over) => {
                if let Some(suppressed) = self.shared.limit.allow(&format!("end {key}").into()) {
                    let report::Over { lasted, agreed } = over;
                    info!(revision = %key, aspect, %lasted, agreed, suppressed, "difference with the running autoscaler over");
                }
            }
        }
    }

    fn account(&self) -> (Account, BTreeMap<Basis, usize>, (i32, i32)) {
        let state = self.lock();
        let mut account = state.gone.clone();
        let mut basis: BTreeMap<Basis, usize> = Basis::ALL.into_iter().map(|basis| (basis, 0)).collect();
        let (mut more, mut fewer) = (0_i32, 0_i32);
        for followed in state.revisions.values() {
            account.add(&followed.account());
            *basis.entry(followed.comparison.basis()).or_default() += 1;
            let pods = followed
                .last
                .as_ref()
                .and_then(|last| last.sight.ours[Aspect::Pods as usize].zip(last.sight.theirs[Aspect::Pods as usize]));
            if let Some((ours, theirs)) = pods.filter(|_| followed.comparison.basis().is_judged()) {
                let ahead = ours.saturating_sub(theirs);
                more = more.saturating_add(ahead.max(0));
                fewer = fewer.saturating_add(0_i32.saturating_sub(ahead).max(0));
            }
        }
        (account, basis, (more, fewer))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a revision's series show.
struct Values {
    ours: Option<i32>,
    theirs: Option<i32>,
    differs: Option<bool>,
}

const SERIES: &[RevisionSeries<Values>] = &[
    RevisionSeries {
        name: "ebb_shadow_desired_pods",
        help: "Pods the shadow would want.",
        value: |values| values.ours.map(f64::from),
    },
    RevisionSeries {
        name: "ebb_shadow_running_desired_pods",
        help: "Pods the running autoscaler wants.",
        value: |values| values.theirs.map(f64::from),
    },
    RevisionSeries {
        name: "ebb_shadow_differs",
        help: "Whether the two have differed for long enough to count; not there while they cannot be compared.",
        value: |values| values.differs.map(|differs| if differs { 1.0 } else { 0.0 }),
    },
];

impl Source for Shadow {
    fn show(&self, page: &mut Page<'_>) {
        let (account, basis, (more, fewer)) = self.account();
        page.gauges(
            "ebb_shadow_revisions",
            "Revisions followed, by how well they can be compared.",
            ["basis"],
            basis.into_iter().map(|(basis, count)| ([basis.name()], count)),
        );
        page.counters(
            "ebb_shadow_compared_seconds_total",
            "Time compared, all revisions together, by how well.",
            ["basis"],
            [Basis::Exact, Basis::Approximate].map(|basis| ([basis.name()], account.compared(basis).seconds_f64())),
        );
        page.counters(
            "ebb_shadow_differing_seconds_total",
            "Time in lasting differences, all revisions together, by what differed.",
            ["aspect"],
            Aspect::ALL.map(|aspect| ([aspect.name()], account.differed_in[aspect as usize].seconds_f64())),
        );
        page.counters(
            "ebb_shadow_differences_total",
            "Lasting differences, by what differed.",
            ["aspect"],
            Aspect::ALL.map(|aspect| ([aspect.name()], account.differences[aspect as usize])),
        );
        page.gauge_if_known(
            "ebb_shadow_agreement_ratio",
            "The part of the time compared without a lasting difference; not there before anything was compared.",
            account.agreement(),
        );
        page.gauge(
            "ebb_shadow_pods_more",
            "Pods the shadow wants beyond the running autoscaler's, where compared.",
            more,
        );
        page.gauge(
            "ebb_shadow_pods_fewer",
            "Pods the running autoscaler wants beyond the shadow's, where compared.",
            fewer,
        );
        page.counter(
            "ebb_shadow_writes_refused_total",
            "Requests not sent because they would have changed the cluster; anything but 0 is a fault.",
            self.shared.parts.refusals.count(),
        );
    }
}

/// Whether the running autoscaler serves it: our class, complete labels, not being deleted.
fn is_followed(object: &PodAutoscaler) -> bool {
    let labels = object.metadata.labels.as_ref();
    let has = |name: &str| labels.and_then(|labels| labels.get(name)).is_some_and(|value| !value.is_empty());
    Class::of(object) == Class::Kpa
        && object.metadata.deletion_timestamp.is_none()
        && has(CONFIGURATION_LABEL)
        && has(REVISION_LABEL)
}

impl Followed {
    fn new(
        key: &RevisionKey,
        object: Arc<PodAutoscaler>,
        settings: Arc<Settings>,
        compat: Compat,
        now: Timestamp,
    ) -> Self {
        Self {
            resolved: resolved(&object, &settings, compat),
            labels: RevisionLabels::of(key, object.metadata.labels.as_ref()),
            object,
            settings,
            told: None,
            failing_since: None,
            comparison: Comparison::starting(now),
            last: None,
            differences: VecDeque::new(),
            differences_told: [0; Aspect::ALL.len()],
            plan: None,
        }
    }

    /// Takes over what changed of the object or of the settings.
    fn renew(&mut self, key: &RevisionKey, object: Arc<PodAutoscaler>, settings: &Arc<Settings>, compat: Compat) {
        if Arc::ptr_eq(&self.object, &object) && Arc::ptr_eq(&self.settings, settings) {
            return;
        }
        self.resolved = resolved(&object, settings, compat);
        self.labels = RevisionLabels::of(key, object.metadata.labels.as_ref());
        self.object = object;
        self.settings = Arc::clone(settings);
    }

    /// Looks at both sides.
    fn see(&mut self, key: &RevisionKey, parts: &Parts, now: Timestamp) -> Look {
        let (services, metric) = (parts.services.get(key), parts.metrics.get(key));
        let sks = services.as_deref();
        let spec = self.resolved.spec();
        let metric_spec = MetricSpec {
            // Without activators' reports, windows nobody writes to mean that nothing is known.
            scraped: true,
            // Read once when the Metric is made, there as here.
            aggregation: metric.map_or(self.resolved.aggregation.value, |metric| windows(&metric).aggregation),
            ..self.resolved.metric_spec()
        };
        let private = sks.and_then(|sks| sks.status.as_ref()).map_or("", |status| status.private_service_name.as_str());
        let told = (spec, metric_spec, private.to_owned());
        if self.told.as_ref() != Some(&told) {
            parts.deciders.ensure_windows(key, &told.1);
            // Nothing is taken over: the running autoscaler goes on, and this one is to decide by what it sees itself.
            parts.deciders.ensure_decider(key, &told.0, None);
            parts.collector.ensure(key, private, told.1.stable_window);
            self.told = Some(told.clone());
        }
        let (spec, ..) = told;
        self.failing_since = match self.failing_since {
            _ if parts.collector.last_error(key).is_none() => None,
            None => Some(now),
            since => since,
        };

        let nothing = PodAutoscalerStatus::default();
        let their_status = self.object.status.as_ref().unwrap_or(&nothing);
        let reference = &self.object.spec.scale_target_ref;
        let replicas = parts.targets.known(key.namespace(), reference).map(|target| target.replicas);
        let their_pods = their_status.desired_scale.filter(|pods| *pods >= 0);
        let theirs = [
            their_pods,
            replicas,
            sks.map(|sks| compare::mode_number(sks.spec.mode)),
            sks.map(|sks| sks.spec.num_activators),
        ];

        let ready = parts.pods.ready(key);
        let published = parts.deciders.published(key);
        let decision = parts.deciders.latest(key);
        let seen = Seen::on(their_status, sks, published.and_then(|published| published.desired), now);
        // Whether the activator answers is for the running autoscaler to find out. The number is the same either way.
        let ScaleStep::Done(scale) = plan::scale(&self.resolved, &seen, Some(true), parts.compat) else {
            unreachable!("a plan that has an answer to its question is done");
        };
        let ours = [
            scale.want,
            their_pods.filter(|_| scale.apply && scale.want.is_some_and(|want| want > 0)),
            published.map(|published| compare::mode_number(plan::mode(scale.want, published.excess_burst))),
            Some(number_of_activators(&spec, ready, parts.compat)),
        ];
        let sight = Sight {
            at: now,
            blind: if ready == 0 {
                Some(Blind::NoPods)
            } else if self.failing_since.is_some_and(|since| now.since(since) >= PATIENCE) {
                Some(Blind::NoAnswer)
            } else if their_pods.is_none() || sks.is_none() {
                Some(Blind::TheyAreUndecided)
            } else if decision.is_none() || scale.want.is_none() {
                Some(Blind::Undecided)
            } else {
                None
            },
            in_path: sks.is_none_or(is_in_path),
            full: decision.as_ref().is_some_and(|decision| self.is_full(decision, ready)),
            panicking: decision.as_ref().is_some_and(|decision| decision.panicking_since.is_some()),
            memory: spec.stable_window + spec.stable_window + spec.scale_down_delay,
            ours,
            tolerance: decision
                .as_ref()
                .map_or_else(Tolerance::default, |decision| self.tolerance(decision, &scale, seen.initialized)),
            theirs,
        };
        Look { sight, because: decision.map(|decision| (decision, scale)), replicas }
    }

    /// Whether requests may wait in an activator because the pods take no more.
    fn is_full(&self, decision: &Decision, ready: i32) -> bool {
        let each = self.object.spec.container_concurrency;
        match decision.metric {
            ScalingMetric::Concurrency => compare::is_full(decision.observed.panic, ready, each),
            // How many are in flight is not known.
            ScalingMetric::Rps => each > 0,
        }
    }

    /// The tolerance of a decision as far as the bounds let it through.
    fn tolerance(&self, decision: &Decision, scale: &Scale, initialized: bool) -> Tolerance {
        let raw = compare::tolerance(decision);
        let bounds = self.resolved.bounds(initialized);
        let pods = |desired: i32| bounds.clamp(desired).0;
        let wanted = pods(decision.desired);
        if scale.want != Some(wanted) {
            // To zero or not is decided by other rules, which both sides know alike.
            return Tolerance { fewer: 0, more: 0, ..raw };
        }
        Tolerance {
            fewer: wanted.saturating_sub(pods(decision.desired.saturating_sub(raw.fewer))),
            more: pods(decision.desired.saturating_add(raw.more)).saturating_sub(wanted),
            ..raw
        }
    }

    /// Takes a finding into the account.
    fn note(&mut self, key: &RevisionKey, finding: &Finding) -> Difference {
        match *finding {
            Finding::Differs { aspect, since, ours, theirs } => {
                self.differences_told[aspect as usize] += 1;
                let because = self.last.as_ref().map(Look::because).unwrap_or_default();
                let basis = self.comparison.basis();
                let difference =
                    Difference { key: key.clone(), aspect, basis, since, ours, theirs, because, over: None };
                if self.differences.len() == KEPT {
                    self.differences.pop_front();
                }
                self.differences.push_back(difference.clone());
                difference
            }
            Finding::Over { aspect, since, lasted, agreed } => {
                let over = Some(report::Over { lasted, agreed });
                let kept = self.differences.iter_mut().rev().find(|kept| kept.aspect == aspect && kept.since == since);
                if let Some(kept) = kept {
                    kept.over = over;
                    return kept.clone();
                }
                // So many others came since that it is not kept any more.
                Difference {
                    key: key.clone(),
                    aspect,
                    basis: self.comparison.basis(),
                    since,
                    ours: 0,
                    theirs: 0,
                    because: String::new(),
                    over,
                }
            }
        }
    }

    /// What is made of the last decision now, if that is news.
    fn planned(&mut self, now: Timestamp, pods: PodCounts) -> Option<Plan> {
        let last = self.last.as_ref()?;
        let (_, scale) = last.because.as_ref()?;
        let lasting = self.differences.iter().filter(|difference| difference.over.is_none());
        let plan = Plan {
            at: now,
            want: scale.want,
            bound: scale.bound.as_ref().map(ToString::to_string).unwrap_or_default(),
            zero: plan::zero_in_words(scale).unwrap_or_default(),
            min: self.resolved.min_scale.value,
            max: self.resolved.max_scale.value,
            proxied: last.sight.ours[Aspect::Mode as usize] == Some(compare::mode_number(Mode::Proxy)),
            pods,
            differs: lasting.map(Difference::with_since).collect::<Vec<_>>().join("; "),
            ..Plan::default()
        };
        let news = self.plan.as_ref().is_none_or(|before| plan.differs_from(before));
        self.plan = Some(plan.clone());
        news.then_some(plan)
    }

    fn account(&self) -> Account {
        Account::of(&self.comparison, self.differences_told)
    }

    fn report(&self, key: &RevisionKey) -> RevisionReport {
        let sides = self.last.as_ref().map(|last| {
            let ours = Side::of(&last.sight.ours, None);
            (ours, Side::of(&last.sight.theirs, last.replicas))
        });
        let (ebb, running) = sides.unwrap_or_default();
        RevisionReport {
            key: key.clone(),
            basis: self.comparison.basis(),
            blind: self.last.as_ref().and_then(|last| last.sight.blind),
            memory: self.last.as_ref().map_or(Span::ZERO, |last| last.sight.memory),
            ebb,
            running,
            because: self.last.as_ref().map(Look::because).unwrap_or_default(),
            account: self.account(),
            differing: self.comparison.differing().collect(),
            differences: self.differences.iter().cloned().collect(),
        }
    }
}

impl Look {
    fn because(&self) -> String {
        self.because.as_ref().map(|(decision, scale)| plan::because(Some(decision), scale)).unwrap_or_default()
    }
}

fn resolved(object: &PodAutoscaler, settings: &Settings, compat: Compat) -> Resolved {
    let none = BTreeMap::new();
    let annotations = object.metadata.annotations.as_ref().unwrap_or(&none);
    // What is wrong with annotations is told by the running autoscaler and by `ebb check`.
    let (overrides, _) = Overrides::read(annotations, compat);
    let (concurrency, reachability) = (object.spec.container_concurrency, &object.spec.reachability);
    resolve(&settings.autoscaler, &settings.deployment, &overrides, concurrency, reachability)
}

/// Whether requests may come by way of an activator.
fn is_in_path(sks: &ServerlessService) -> bool {
    let populated = sks.status.as_ref().and_then(|status| find(&status.conditions, "ActivatorEndpointsPopulated"));
    sks.spec.mode == Mode::Proxy || populated.is_some_and(|condition| condition.status == Status::True)
}
