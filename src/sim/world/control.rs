//! What decides how many pods there are, and what becomes of its answer.
//!
//! Knative's scaler is not modelled: it is the production engine ([`Revision`]) and the production way to zero and back
//! ([`zero`]), driven through the inputs they have in a cluster. The others are short enough to stand here.

use super::{Route, Said, World};
use crate::config::Resolved;
use crate::engine::burst::behind_activator;
use crate::engine::forecast::{ForecastSpec, Forecaster};
use crate::engine::subset::number_of_activators;
use crate::engine::zero::{self, Active, Moment, Step};
use crate::engine::{self, Decision, Event as Input, Reason, Revision, Spec};
use crate::sim::outcome;
use crate::sim::queue::Event;
use crate::sim::random::instant;
use crate::sim::scenario::{
    Entry, Hpa, HpaMetric, KedaHttp, KedaMetric, Kpa, Prediction, Predictive, Scenario, Schedule,
};
use crate::sim::time::{HOUR, Length, Micros, SECOND, micros, seconds, stamp};
use crate::units::{Compat, Span, Timestamp};
use std::collections::VecDeque;
use std::sync::Arc;

/// Activators in front of a revision nothing is known of yet.
const FIRST_ACTIVATORS: u32 = 2;
/// How long after the ingress has followed a background probe is heard of.
const PROBE_HEARD: Micros = SECOND;
/// How often a schedule is looked at.
const SCHEDULE_PERIOD: Micros = SECOND;
/// Pods the horizontal pod autoscaler may add in one period, if they are not doubled.
const HPA_STEP: u32 = 4;

/// A scaler in a run.
pub(super) enum Scaler {
    Kpa(Box<KpaState>),
    Hpa(HpaState),
    Keda(KedaState),
    Fixed { pods: u32, proxied: bool },
    Schedule { schedule: Schedule, pods: u32 },
}

/// Knative's scaler.
pub(super) struct KpaState {
    revision: Revision,
    resolved: Resolved,
    spec: Arc<Spec>,
    compat: Compat,
    active: Active,
    active_since: Timestamp,
    initialized: bool,
    /// Whether the ServerlessService asks for the activator, and since when.
    proxy_mode: bool,
    in_path_since: Timestamp,
    /// Pods last asked for.
    replicas: u32,
    /// The next look that is foreseen.
    look: Micros,
    /// A probe goes on in the background until the ingress has followed.
    probing: bool,
    forecaster: Option<Box<Forecaster>>,
    /// What is foreseen is applied.
    predicts: bool,
    /// Pods there are to be at least, since load is coming.
    floor: i32,
}

/// Kubernetes' horizontal pod autoscaler.
pub(super) struct HpaState {
    hpa: Hpa,
    /// CPU a request in service uses, relative to what a pod asks for.
    per_request: f64,
    replicas: u32,
    recommendations: VecDeque<(Micros, u32)>,
    served_before: u128,
    looked_before: Micros,
}

/// KEDA's HTTP add-on.
pub(super) struct KedaState {
    keda: KedaHttp,
    replicas: u32,
    recommendations: VecDeque<(Micros, u32)>,
    last_active: Micros,
    /// Requests that came in each second of the window.
    counts: VecDeque<(Micros, u64)>,
}

impl Entry {
    /// The kind of policy.
    pub fn kind(&self) -> &'static str {
        match self {
            Self { kpa: Some(Kpa { predictive: Some(predictive), .. }), .. } if predictive.mode == Prediction::On => {
                "predictive"
            }
            Self { kpa: Some(_), .. } => "kpa",
            Self { hpa: Some(_), .. } => "hpa",
            Self { keda_http: Some(_), .. } => "keda_http",
            Self { fixed: Some(_), .. } => "fixed",
            Self { schedule: Some(_), .. } => "schedule",
            _ => "oracle",
        }
    }
}

impl Scaler {
    /// The scaler of a policy, and how many requests a pod takes at once for its queue-proxy and for activators.
    pub(super) fn new(scenario: &Scenario, policy: &Entry) -> (Self, u32, u32) {
        let limit = scenario.revision.container_concurrency;
        if let Some(hpa) = &policy.hpa {
            let shared = if limit > 0 { f64::from(limit) } else { 100.0 };
            let cores = hpa.cpu_per_request.unwrap_or(scenario.revision.cpu / shared);
            let state = HpaState {
                per_request: cores / scenario.revision.cpu,
                replicas: hpa.min,
                hpa: hpa.clone(),
                recommendations: VecDeque::new(),
                served_before: 0,
                looked_before: 0,
            };
            return (Self::Hpa(state), limit, limit);
        }
        if let Some(keda) = &policy.keda_http {
            let state = KedaState {
                replicas: keda.min,
                keda: keda.clone(),
                recommendations: VecDeque::new(),
                last_active: 0,
                counts: VecDeque::new(),
            };
            // The interceptor knows no limit: it only waits for the first pod.
            return (Self::Keda(state), limit, 0);
        }
        if let Some(fixed) = policy.fixed {
            return (Self::Fixed { pods: fixed.pods, proxied: fixed.activator }, limit, limit);
        }
        if let Some(schedule) = &policy.schedule {
            let pods = scheduled(schedule, 0);
            return (Self::Schedule { schedule: schedule.clone(), pods }, limit, limit);
        }
        let none = Kpa::default();
        let kpa = policy.kpa.as_ref().unwrap_or(&none);
        let resolved = scenario.resolved(kpa);
        let limit = scenario.concurrency(kpa);
        let state = KpaState {
            revision: Revision::default(),
            spec: Arc::new(resolved.spec()),
            replicas: u32::try_from(resolved.initial_scale.value).unwrap_or(0).max(
                // The revision is created with its bounds in force.
                u32::try_from(resolved.min_scale.value).unwrap_or(0),
            ),
            forecaster: kpa
                .predictive
                .filter(|predictive| predictive.mode != Prediction::Off)
                .map(|predictive| Box::new(Forecaster::new(forecast_spec(&predictive, &resolved), stamp(0)))),
            predicts: kpa.predictive.is_some_and(|predictive| predictive.mode == Prediction::On),
            floor: 0,
            resolved,
            compat: kpa.compat.into(),
            active: Active::Unknown,
            active_since: stamp(0),
            initialized: false,
            proxy_mode: true,
            in_path_since: stamp(0),
            look: Micros::MAX,
            probing: false,
        };
        (Self::Kpa(Box::new(state)), limit, limit)
    }

    /// Where requests go at first.
    pub(super) fn first_route(&self, activators: u32) -> Route {
        match self {
            Self::Kpa(_) => Route { proxied: true, activators: FIRST_ACTIVATORS.min(activators) },
            Self::Keda(_) => Route { proxied: true, activators },
            Self::Fixed { proxied, .. } => Route { proxied: *proxied, activators },
            Self::Hpa(_) | Self::Schedule { .. } => Route { proxied: false, activators },
        }
    }

    /// Pods last asked for.
    pub(super) fn replicas(&self) -> u32 {
        match self {
            Self::Kpa(kpa) => kpa.replicas,
            Self::Hpa(hpa) => hpa.replicas,
            Self::Keda(keda) => keda.replicas,
            Self::Fixed { pods, .. } | Self::Schedule { pods, .. } => *pods,
        }
    }

    /// Whether activators report to it.
    pub(super) fn hears_activators(&self) -> bool {
        matches!(self, Self::Kpa(_) | Self::Keda(_))
    }

    /// What was foreseen, if anything is.
    pub(super) fn prediction(&self) -> Option<outcome::Prediction> {
        let Self::Kpa(kpa) = self else { return None };
        let forecaster = kpa.forecaster.as_ref()?;
        Some(outcome::Prediction::of(&forecaster.tally(), kpa.predicts))
    }

    /// The stable window, where pods are scraped.
    pub(super) fn scraped_window(&self) -> Option<Span> {
        match self {
            Self::Kpa(kpa) => kpa.resolved.metric_spec().scraped.then_some(kpa.resolved.stable_window.value),
            _ => None,
        }
    }
}

fn forecast_spec(predictive: &Predictive, resolved: &Resolved) -> ForecastSpec {
    let spec = resolved.spec();
    ForecastSpec {
        quantile: predictive.quantile,
        prewarm: predictive.prewarm,
        budget: predictive.budget.0,
        metric: spec.metric,
        target: spec.target_value,
        max_scale: resolved.max_scale.value,
        max_scale_down_rate: spec.max_scale_down_rate,
        stable_window: spec.stable_window,
    }
}

/// How many pods a schedule asks for at an instant.
fn scheduled(schedule: &Schedule, at: Micros) -> u32 {
    let of_day = at % (24 * HOUR);
    let begun = schedule.steps.partition_point(|step| step.at.0 <= of_day);
    let step = if begun == 0 { schedule.steps.last() } else { schedule.steps.get(begun - 1) };
    step.map_or(0, |step| step.pods)
}

impl World<'_> {
    /// Pods ready.
    pub(super) fn ready(&self) -> i32 {
        i32::try_from(self.levels.now.ready).unwrap_or(i32::MAX)
    }

    /// The run begins: the first pods are asked for, and everything periodic starts at a phase of its own.
    pub(super) fn begin(&mut self) {
        let first = self.scaler.replicas();
        self.said.desired = first;
        self.set_replicas(first);
        self.agenda.add(super::LOOK, Event::Sample);
        let (known, from) = (self.case.scenario.world.phases, self.case.from);
        let mut phase = |known: Option<Length>, period: Micros| {
            let drawn = instant(&mut self.streams.phases, period);
            known.map_or(drawn, |known| known.after(from, period))
        };
        let (tick, scrape) = (phase(known.tick, micros(engine::revision::TICK)), phase(known.scrape, SECOND));
        match &self.scaler {
            Scaler::Kpa(_) => {
                self.agenda.add(tick, Event::Tick);
                self.agenda.add(scrape, Event::Scrape);
            }
            Scaler::Hpa(HpaState { hpa: Hpa { period, .. }, .. })
            | Scaler::Keda(KedaState { keda: KedaHttp { poll: period, .. }, .. }) => {
                let period = period.0;
                let at = instant(&mut self.streams.phases, period);
                self.agenda.add(at, Event::Tick);
            }
            Scaler::Schedule { .. } => self.agenda.add(SCHEDULE_PERIOD, Event::Tick),
            Scaler::Fixed { .. } => {}
        }
    }

    pub(super) fn tick(&mut self) {
        let (now, ready) = (self.now, self.ready());
        let pending = if let Scaler::Keda(_) = self.scaler { self.at_activators() } else { 0 };
        match &mut self.scaler {
            Scaler::Kpa(kpa) => {
                if kpa.revision.decider().is_none() {
                    // The first tick is when the revision is first looked at.
                    let compat = kpa.compat;
                    let mut apply = |event| {
                        kpa.revision.apply(&engine::Input { now: stamp(now), event }, compat);
                    };
                    apply(Input::Windows(kpa.resolved.metric_spec()));
                    apply(Input::Decider { spec: Arc::clone(&kpa.spec), ready, wanted: None });
                    self.look();
                } else {
                    self.hear(Input::Tick { ready });
                }
                self.agenda.add(now + micros(engine::revision::TICK), Event::Tick);
            }
            Scaler::Hpa(hpa) => {
                self.agenda.add(now + hpa.hpa.period.0, Event::Tick);
                self.levels.settle();
                let served = self.levels.areas.serving;
                let desired = hpa.look(now, u32::try_from(ready).unwrap_or(0), served);
                self.decide(desired);
            }
            Scaler::Keda(keda) => {
                self.agenda.add(now + keda.keda.poll.0, Event::Tick);
                let desired = keda.look(now, pending);
                self.decide(desired);
            }
            Scaler::Schedule { schedule, .. } => {
                let desired = scheduled(schedule, self.case.from + now);
                self.agenda.add(now + SCHEDULE_PERIOD, Event::Tick);
                self.decide(desired);
            }
            Scaler::Fixed { .. } => {}
        }
    }

    /// A scaler that is not Knative's wants so many pods.
    fn decide(&mut self, desired: u32) {
        self.decisions += 1;
        self.said.desired = desired;
        let (Scaler::Hpa(HpaState { replicas, .. })
        | Scaler::Keda(KedaState { replicas, .. })
        | Scaler::Schedule { pods: replicas, .. }) = &mut self.scaler
        else {
            return;
        };
        let before = std::mem::replace(replicas, desired);
        if before != desired {
            self.record.rescale(self.now, before, desired);
            self.want_replicas(desired);
        }
    }

    /// Something reaches the scaler.
    pub(super) fn hear(&mut self, event: Input) {
        let now = self.now;
        match &mut self.scaler {
            Scaler::Kpa(kpa) => {
                let input = engine::Input { now: stamp(now), event };
                let applied = kpa.revision.apply(&input, kpa.compat);
                if let Some(forecaster) = &mut kpa.forecaster {
                    forecaster.hear(&input);
                }
                if !applied.evaluated {
                    return;
                }
                self.decisions += 1;
                let floor_before = kpa.floor;
                if let Some(decision) = kpa.revision.latest() {
                    if let Some(forecaster) = &mut kpa.forecaster {
                        let reactive = kpa.resolved.bounds(kpa.initialized).clamp(decision.desired).0;
                        let panics = decision.panicking_since.is_some();
                        let foresight =
                            forecaster.decide(stamp(now), decision.ready, reactive, decision.observed, panics);
                        kpa.floor = if kpa.predicts { foresight.floor } else { 0 };
                    }
                    let panics = u64::from(decision.panicking_since.is_some());
                    let bounded = kpa.resolved.bounds(kpa.initialized).clamp(decision.desired.max(kpa.floor)).0;
                    self.said = said(decision, bounded);
                    if panics != self.levels.now.panicking {
                        self.levels.settle();
                        self.levels.now.panicking = panics;
                        self.record.scaling.panics += u64::from(panics > 0 && now >= self.case.warm_up);
                    }
                }
                if applied.changed || kpa.floor != floor_before {
                    self.look();
                }
            }
            Scaler::Keda(keda) => {
                if let Input::Reported { load, .. } = event {
                    keda.hear(now, &load);
                    // The interceptor calls for the first pod at once.
                    if keda.replicas == 0 && load.requests > 0.0 {
                        let desired = keda.keda.min.max(1);
                        self.decide(desired);
                    }
                }
            }
            Scaler::Hpa(_) | Scaler::Fixed { .. } | Scaler::Schedule { .. } => {}
        }
    }

    /// A pod became ready, or ceased to be.
    pub(super) fn readiness_changed(&mut self) {
        if let Scaler::Kpa(kpa) = &self.scaler
            && kpa.revision.decider().is_some()
        {
            self.look();
        }
    }

    pub(super) fn look_again(&mut self) {
        if let Scaler::Kpa(kpa) = &mut self.scaler
            && kpa.look <= self.now
        {
            kpa.look = Micros::MAX;
            self.look();
        }
    }

    /// One look at the revision: how many pods it is to have, which way requests go, and whether it is active.
    fn look(&mut self) {
        let (now, ready) = (self.now, self.ready());
        let clock = stamp(now);
        let Scaler::Kpa(kpa) = &mut self.scaler else { return };
        let Some(published) = kpa.revision.published() else { return };
        let bounds = kpa.resolved.bounds(kpa.initialized);

        let mut want = None;
        if published.desired.is_some() || kpa.active == Active::Unknown {
            let (desired, _) = bounds.clamp(published.desired.map_or(-1, |desired| desired.max(kpa.floor)));
            let moment = Moment {
                desired,
                active: kpa.active,
                active_for: clock.since(kpa.active_since),
                proxy_mode: kpa.proxy_mode,
                in_path_for: kpa.proxy_mode.then(|| clock.since(kpa.in_path_since)),
            };
            let situation = kpa.resolved.situation(&moment);
            let verdict = match zero::step(&situation, None, kpa.compat) {
                Step::Done(verdict) => Some(verdict),
                // The probe goes where requests go.
                Step::Probe => match zero::step(&situation, Some(self.route.proxied), kpa.compat) {
                    Step::Done(verdict) => Some(verdict),
                    Step::Probe => None,
                },
            };
            if let Some(verdict) = verdict {
                want = verdict.want;
                kpa.probing = verdict.probe_in_background;
                if let Some(after) = verdict.look_again {
                    let at = now + micros(after).max(1);
                    if at < kpa.look {
                        kpa.look = at;
                        self.agenda.add(at, Event::Look);
                    }
                }
                if verdict.apply
                    && let Some(pods) = want.and_then(|want| u32::try_from(want).ok())
                    && pods != kpa.replicas
                {
                    self.record.rescale(now, kpa.replicas, pods);
                    kpa.replicas = pods;
                    self.want_replicas(pods);
                }
            }
        }

        let Scaler::Kpa(kpa) = &mut self.scaler else { return };
        let proxy_mode = behind_activator(want, published.excess_burst);
        if proxy_mode && !kpa.proxy_mode {
            kpa.in_path_since = clock.truncated();
        }
        kpa.proxy_mode = proxy_mode;
        let enough = number_of_activators(&kpa.spec, ready, kpa.compat);
        let activators = u32::try_from(enough).unwrap_or(1).clamp(1, self.case.scenario.world.activators);

        let min_ready = bounds.min_ready();
        kpa.initialized |= ready >= min_ready;
        let active = kpa.active.after(want, ready, min_ready);
        if active != kpa.active {
            kpa.active = active;
            // Conditions know whole seconds.
            kpa.active_since = clock.truncated();
            // Its own status wakes the controller.
            kpa.look = now;
            self.agenda.add(now + 1, Event::Look);
        }
        self.want_route(Route { proxied: proxy_mode, activators });
    }

    /// The ingress is to send requests another way, as soon as it has followed.
    fn want_route(&mut self, route: Route) {
        let (last, before) = self.routes.back().map_or((0, self.route), |(at, route)| (*at, *route));
        if route == before {
            return;
        }
        let at = (self.now + self.laws.propagation.draw(&mut self.streams.phases)).max(last);
        self.routes.push_back((at, route));
        self.agenda.add(at, Event::Mode);
    }

    pub(super) fn apply_route(&mut self) {
        let Some((_, route)) = self.routes.pop_front() else { return };
        let before = std::mem::replace(&mut self.route, route);
        if before.proxied != route.proxied {
            self.levels.settle();
            self.levels.now.in_path = u64::from(route.proxied);
            self.record.scaling.mode_switches += u64::from(self.now >= self.case.warm_up);
        }
        if before.activators != route.activators {
            self.share_pods();
        }
        if let Scaler::Kpa(kpa) = &mut self.scaler
            && route.proxied
            && std::mem::take(&mut kpa.probing)
        {
            let at = self.now + PROBE_HEARD;
            kpa.look = at.min(kpa.look);
            self.agenda.add(at, Event::Look);
        }
    }
}

fn said(decision: &Decision, bounded: i32) -> Said {
    Said {
        desired: u32::try_from(bounded).unwrap_or(0),
        stable: decision.observed.stable,
        panic: decision.observed.panic,
        excess_burst: decision.excess_burst,
        reason: decision.deciding().and_then(|reason: &Reason| u8::try_from(reason.index()).ok()),
    }
}

impl HpaState {
    /// How many pods it wants. `served` is the number of requests in service, integrated over time.
    fn look(&mut self, now: Micros, ready: u32, served: u128) -> u32 {
        let passed = now - self.looked_before;
        if passed == 0 || ready == 0 {
            (self.looked_before, self.served_before) = (now, served);
            return self.replicas;
        }
        #[expect(clippy::cast_precision_loss, reason = "for an average; 2^-53 is nothing")]
        let serving = (served - self.served_before) as f64 / passed as f64;
        (self.looked_before, self.served_before) = (now, served);
        let per_pod = serving / f64::from(ready);
        let value = match self.hpa.metric {
            HpaMetric::Cpu => per_pod * self.per_request * 100.0,
            HpaMetric::Concurrency => per_pod,
        };
        let ratio = value / self.hpa.target;
        let proposed =
            if (ratio - 1.0).abs() <= self.hpa.tolerance.0 { self.replicas } else { up(f64::from(ready) * ratio) };
        let proposed = proposed.clamp(self.hpa.min, self.hpa.max);
        let desired = steadied(&mut self.recommendations, now, self.hpa.stabilization.0, self.replicas, proposed);
        stepped(self.replicas, desired).clamp(self.hpa.min, self.hpa.max)
    }
}

impl KedaState {
    fn hear(&mut self, now: Micros, load: &engine::Load) {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count; `as` saturates")]
        let came = load.requests as u64;
        self.counts.push_back((now, came));
        if came > 0 || load.concurrency > 0.0 {
            self.last_active = now;
        }
        while self.counts.front().is_some_and(|(at, _)| at + self.keda.window.0 < now) {
            self.counts.pop_front();
        }
    }

    /// How many pods it wants, with so many requests at the interceptor.
    fn look(&mut self, now: Micros, pending: u64) -> u32 {
        if pending > 0 {
            self.last_active = now;
        }
        if self.replicas == 0 {
            return if pending > 0 { self.keda.min.max(1) } else { 0 };
        }
        if self.keda.min == 0 && now - self.last_active >= self.keda.cooldown.0 {
            self.recommendations.clear();
            return 0;
        }
        while self.counts.front().is_some_and(|(at, _)| at + self.keda.window.0 < now) {
            self.counts.pop_front();
        }
        #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
        let total = match self.keda.metric {
            KedaMetric::Concurrency => pending as f64,
            KedaMetric::Rate => {
                self.counts.iter().map(|(_, came)| *came).sum::<u64>() as f64 / seconds(self.keda.window.0)
            }
        };
        let ratio = total / (self.keda.target * f64::from(self.replicas));
        let proposed = if (ratio - 1.0).abs() <= 0.1 { self.replicas } else { up(total / self.keda.target) };
        let (least, most) = (self.keda.min.max(1), self.keda.max);
        let proposed = proposed.clamp(least, most);
        let desired = steadied(&mut self.recommendations, now, self.keda.stabilization.0, self.replicas, proposed);
        stepped(self.replicas, desired).clamp(least, most)
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` saturates")]
fn up(pods: f64) -> u32 {
    pods.ceil() as u32
}

/// Going down, the highest number that was proposed within the window.
fn steadied(
    recommendations: &mut VecDeque<(Micros, u32)>,
    now: Micros,
    window: Micros,
    replicas: u32,
    proposed: u32,
) -> u32 {
    if recommendations.is_empty() {
        recommendations.push_back((now, replicas));
    }
    recommendations.push_back((now, proposed));
    while recommendations.front().is_some_and(|(at, _)| at + window < now) {
        recommendations.pop_front();
    }
    let highest = recommendations.iter().map(|(_, pods)| *pods).max().unwrap_or(proposed);
    if proposed >= replicas { proposed } else { highest.min(replicas) }
}

/// What may be added in one period: four pods, or as many as there are.
fn stepped(replicas: u32, desired: u32) -> u32 {
    desired.min(replicas.saturating_add(HPA_STEP.max(replicas)))
}
