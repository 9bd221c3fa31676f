//! Keeps the gates: tells each which rules lead to its revision, sends its probes, and wakes whoever must look again.
//!
//! ```text
//! controller ── rules, as they are planned ──►┐               ┌──► probes, through the load balancer
//! live ── which version every address shows ─►│ Keeper: gates │◄── who answered
//! autoscaler ── what is wanted and there ────►┘               └──► Leave: what it may do
//! ```
//!
//! Every replica keeps the gates of the revisions it owns, and plans the rules for itself to know them; only who owns the
//! load balancer writes rules. So what the autoscaler asks is answered in its own process, and a revision has one gate.
//!
//! # Edges
//!
//! - Before the rules are known for the first time, no revision goes to zero that a KIngress of the class names or that an
//!   earlier gate knew as routed. While not even the KIngresses could be listed, that is every revision until the horizon
//!   has passed, and then those an earlier gate knew: a rule is published only once the gate is on record.
//! - A revision that an earlier gate knew as routed, and that no rule leads to any more, waits until every rule of its
//!   namespace was seen in force, or the horizon has passed.
//! - A revision that a rule leads to still may have been led to by others as well, which this process never saw. Those may be
//!   in force at an address that is late, so it is not let go to zero before the same.
//! - While it is not known what activators there are, no revision that has no pods is woken for want of them.
//! - A rule taken out of a plan leads on until every address has shown the plan without it. Where that cannot be asked
//!   (`alb-probe: none`, a KIngress that is gone, a backend that does not say which version it was reached by), or where an
//!   earlier plan that may still be in force had the same version, the horizon must do.
//! - An answer that may be another revision's, since rules are changing or were when it was asked for, counts for nobody.
//! - Probes under way are bounded; one that finds no place is sent with the next step.

use crate::api::serverless_service::ServerlessService;
use crate::clock::Clock;
use crate::observe::metrics::{Page, Source, count};
use crate::ownership::class::Classes;
use crate::routing::gate::contract::{Asked, Keep, Leave, Notice};
use crate::routing::gate::rules::{Ask, Leads, Plan, Rules, name_of};
use crate::routing::gate::{
    Answer, Decision, Gate, Members, Path, Probe, Reason, Seen, State as GateState, Target, Timers,
};
use crate::routing::model::{Gateway, Mode, Rule, digest};
use crate::routing::probe::{Question, Topic, Vips};
use crate::routing::translate::{groups_of_rule, hash_of, is_selector, revision_of_service};
use crate::units::{RevisionKey, Span, Timestamp};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

/// Probes under way at most.
const MOST_PROBES: usize = 64;
/// How often names without addresses are looked up …
const LOOK_UP_SOON: Span = Span::from_seconds(2);
/// … and those with.
const LOOK_UP: Span = Span::from_seconds(30);

/// The rules of a KIngress on one listener of a load balancer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Way {
    /// The Ingress.
    pub ingress: String,
    /// The name of the load balancer; `None` while it has none.
    pub balancer: Option<String>,
    /// Whether the listener speaks TLS.
    pub secure: bool,
    /// Whether it is for gRPC.
    pub grpc: bool,
    /// The rules.
    pub rules: Vec<Rule>,
}

impl Way {
    /// Where its rules lead, of those that lead to revisions.
    pub fn leads(&self, kingress: &RevisionKey) -> Vec<Leads> {
        self.rules.iter().flat_map(|rule| self.leads_of(kingress, rule)).collect()
    }

    fn leads_of(&self, kingress: &RevisionKey, rule: &Rule) -> Vec<Leads> {
        let scheme = if self.secure { "https" } else { "http" };
        let host = rule.hosts().next().unwrap_or("*");
        let said = digest(format!("{:?}{:?}{:?}", rule.conditions, rule.actions, rule.host).as_bytes(), 6);
        let name: Arc<str> =
            format!("{}/{} {} ({scheme}://{host}{} {said})", kingress.namespace(), self.ingress, rule.name, rule.path)
                .into();
        let ask = Ask::of(rule);
        // A rule that selects a member shows its servers; the rule with all of them would show whomever chance picks.
        let selected = |service: &str| {
            let is =
                |other: &&Rule| is_selector(other) && groups_of_rule(other).any(|group| group.service_name == service);
            groups_of_rule(rule).filter(|group| group.weight > 0).nth(1).is_some()
                && self.rules.iter().any(|it| is(&it))
        };
        groups_of_rule(rule)
            .filter(|group| group.weight > 0 && !selected(&group.service_name))
            .map(|group| Leads {
                revision: RevisionKey::new(kingress.namespace(), revision_of_service(&group.service_name)),
                rule: Arc::clone(&name),
                group: name_of(&self.ingress, group).into(),
                ask: ask.clone(),
            })
            .collect()
    }
}

/// A KIngress as it is, or is about to be, published.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Published {
    /// Its name.
    pub key: RevisionKey,
    /// The rules it is to have.
    pub ways: Vec<Way>,
    /// The rules it has, for who sees it for the first time.
    pub before: Vec<Way>,
    /// Whether every address was seen to have this version, by asking.
    pub live: bool,
    /// Whether that can be asked at all.
    pub askable: bool,
    /// Whether the rules are in the cluster, or are written next.
    pub written: bool,
}

/// Everything that leads to revisions.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Routes {
    /// Every KIngress that has rules.
    pub kingresses: Vec<Published>,
    /// Revisions that must keep a pod.
    pub pinned: BTreeSet<RevisionKey>,
    /// How revisions are reached.
    pub mode: Mode,
    /// Those that are reached in another way.
    pub modes: BTreeMap<RevisionKey, Mode>,
    /// Why, where that is left to Ebb.
    pub chosen: Option<String>,
}

/// What is written of a revision that is reached by a port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Group {
    /// What its Service leads to.
    pub(super) members: Option<Members>,
    /// Activators that answered for it.
    pub(super) activators: u32,
}

/// The keeper of the gates of this replica. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Keeper {
    inner: Arc<Inner>,
}

/// Has a revision looked at.
type Look = Box<dyn Fn(&RevisionKey) + Send + Sync>;

struct Inner {
    clock: Clock,
    started: Timestamp,
    timers: Timers,
    vips: Arc<dyn Vips>,
    state: Mutex<State>,
    changed: Notify,
    names: Notify,
    on_change: OnceLock<Look>,
    on_owner: OnceLock<Box<dyn Fn() + Send + Sync>>,
    classes: OnceLock<Classes>,
    on_decision: OnceLock<Look>,
    /// Revisions whose owner is to say that it knows of a route.
    awaited: Mutex<BTreeSet<RevisionKey>>,
    places: Arc<Semaphore>,
    counters: Counters,
}

#[derive(Debug, Default)]
struct Counters {
    /// In the order of [`ANSWERS`].
    answers: [AtomicU64; ANSWERS.len()],
    /// No place was free.
    postponed: AtomicU64,
    /// Proofs that took too long.
    held: AtomicU64,
    /// KIngresses, in the order of [`Gateway::ALL`].
    kingresses: [AtomicU64; Gateway::ALL.len()],
}

const ANSWERS: [(Answer, &str); 6] = [
    (Answer::Activator, "activator"),
    (Answer::Pod, "pod"),
    (Answer::Elsewhere, "elsewhere"),
    (Answer::NoRoute, "no_route"),
    (Answer::Unavailable, "unavailable"),
    (Answer::Failed, "failed"),
];

#[derive(Default)]
struct State {
    /// When the rules became known.
    known: Option<Timestamp>,
    /// The revisions rules may lead to, once KIngresses were listed.
    named: Option<BTreeSet<RevisionKey>>,
    /// Whether it was told that the rules are still not known.
    told_unknown: bool,
    mode: Mode,
    modes: BTreeMap<RevisionKey, Mode>,
    chosen: Option<Arc<str>>,
    pinned: BTreeSet<RevisionKey>,
    /// Of revisions reached by a port, and since when its members are what they are.
    groups: HashMap<RevisionKey, (Group, Timestamp)>,
    routes: HashMap<RevisionKey, Route>,
    /// The KIngresses whose rules lead, or may lead, to a revision.
    by_revision: HashMap<RevisionKey, BTreeSet<RevisionKey>>,
    /// By name and whether over TLS.
    addresses: HashMap<(String, bool), BTreeSet<SocketAddr>>,
    gates: HashMap<RevisionKey, Entry>,
    /// When each gate is to be stepped.
    due: BTreeSet<(Timestamp, RevisionKey)>,
    /// Revisions that were asked for while it was not known which rules lead to them, and what was wanted.
    waiting: BTreeMap<RevisionKey, Path>,
    /// Revisions with a gate, to which rules from before this process may lead that it does not know of.
    past: BTreeSet<RevisionKey>,
    /// `None` while that is not known.
    activators: Option<u32>,
}

/// The rules of one KIngress, present and past.
#[derive(Default)]
struct Route {
    version: String,
    number: u64,
    listeners: BTreeMap<(String, bool), Rules>,
    questions: HashMap<Arc<str>, Question>,
    /// When its latest version was written.
    since: Option<Timestamp>,
    /// From when on it is taken for settled although it cannot be asked; `None` when it is or can be.
    unasked_until: Option<Timestamp>,
    settled: bool,
    gone: bool,
    /// The number of the latest version that may have been published.
    written: u64,
}

struct Entry {
    gate: Gate,
    asked: Asked,
    traffic: Option<Timestamp>,
    last: Option<Decision>,
    confirmed: Option<Timestamp>,
    due: Option<Timestamp>,
    /// Whether it is not known yet what activators there are for it.
    blind: bool,
    /// What was told since pods were last wanted.
    told: BTreeSet<&'static str>,
}

impl Keeper {
    /// Keeps no gate yet. [`Keeper::run`] lets it work.
    pub fn new(clock: Clock, timers: Timers, vips: Arc<dyn Vips>) -> Self {
        Self {
            inner: Arc::new(Inner {
                started: clock.now(),
                clock,
                timers,
                vips,
                state: Mutex::default(),
                changed: Notify::new(),
                names: Notify::new(),
                on_change: OnceLock::new(),
                on_owner: OnceLock::new(),
                classes: OnceLock::new(),
                on_decision: OnceLock::new(),
                awaited: Mutex::default(),
                places: Arc::new(Semaphore::new(MOST_PROBES)),
                counters: Counters::default(),
            }),
        }
    }

    /// Says which classes are served here; the KPA class alone unless it is called.
    pub fn set_classes(&self, classes: Classes) {
        _ = self.inner.classes.set(classes);
    }

    /// Whether the revision of a ServerlessService is scaled here.
    pub fn scales(&self, service: &ServerlessService) -> bool {
        self.inner.classes.get().cloned().unwrap_or_default().serve(service)
    }

    /// Rules may lead to these revisions and to no others. To be told as soon as KIngresses are listed: it counts until the
    /// rules themselves are known.
    pub fn name(&self, named: BTreeSet<RevisionKey>) {
        let mut state = self.lock();
        let waiting = state.waiting.keys().filter(|key| !named.contains(*key)).cloned().collect();
        let unknown = state.known.is_none();
        state.named = Some(named);
        drop(state);
        if unknown {
            self.after(&waiting, Vec::new());
        }
    }

    /// How many KIngresses there are, by whose they are.
    pub fn count_kingresses(&self, gateways: impl IntoIterator<Item = Gateway>) {
        let mut counts = [0; Gateway::ALL.len()];
        for gateway in gateways {
            counts[gateway as usize] += 1;
        }
        for (known, count) in self.inner.counters.kingresses.iter().zip(counts) {
            known.store(count, Ordering::Relaxed);
        }
    }

    /// Takes over what leads to revisions. What did not change changes nothing.
    pub fn take(&self, routes: Routes) {
        let now = self.inner.clock.now();
        let mut state = self.lock();
        let mut touched: BTreeSet<RevisionKey> = BTreeSet::new();
        if state.known.is_none() {
            state.known = Some(now);
            touched.extend(state.gates.keys().cloned());
        }
        if state.mode != routes.mode || state.chosen.as_deref() != routes.chosen.as_deref() {
            (state.mode, state.chosen) = (routes.mode, routes.chosen.map(Arc::from));
            touched.extend(state.by_revision.keys().cloned());
        }
        if state.modes != routes.modes {
            touched.extend(state.modes.keys().chain(routes.modes.keys()).cloned());
            state.modes = routes.modes;
        }
        touched.extend(state.pinned.symmetric_difference(&routes.pinned).cloned());
        state.pinned = routes.pinned;
        let present: HashSet<RevisionKey> = routes.kingresses.iter().map(|published| published.key.clone()).collect();
        let horizon = self.inner.timers.horizon;
        for published in routes.kingresses {
            touched.extend(state.publish(published, now, horizon));
        }
        let gone: Vec<RevisionKey> = state
            .routes
            .iter()
            .filter(|(key, route)| !present.contains(*key) && !route.gone)
            .map(|(key, _)| key.clone())
            .collect();
        for key in gone {
            let published = Published {
                key: key.clone(),
                ways: Vec::new(),
                before: Vec::new(),
                live: false,
                askable: false,
                written: true,
            };
            touched.extend(state.publish(published, now, horizon));
            if let Some(route) = state.routes.get_mut(&key) {
                route.gone = true;
            }
        }
        touched.extend(state.leave_past(now, horizon));
        let probes = self.step_all(&mut state, &touched, now);
        touched.extend(state.waiting.keys().cloned());
        drop(state);
        self.after(&touched, probes);
        self.inner.names.notify_one();
    }

    /// How many activators there are that can take requests.
    pub fn set_activators(&self, activators: u32) {
        let now = self.inner.clock.now();
        let mut state = self.lock();
        if state.activators.replace(activators) == Some(activators) {
            return;
        }
        let touched: BTreeSet<RevisionKey> = state.gates.keys().cloned().collect();
        let probes = self.step_all(&mut state, &touched, now);
        drop(state);
        self.after(&touched, probes);
    }

    /// Calls this when the owner of a revision that is awaited may have said that it knows of a route.
    pub(super) fn on_owner(&self, look: impl Fn() + Send + Sync + 'static) {
        // One controller publishes; another would be told nothing.
        let _ = self.inner.on_owner.set(Box::new(look));
    }

    /// Calls this with each revision whose gate decides something else.
    pub(super) fn on_decision(&self, look: impl Fn(&RevisionKey) + Send + Sync + 'static) {
        // One writes servers; another would be told nothing.
        let _ = self.inner.on_decision.set(Box::new(look));
    }

    /// What is written of a revision that is reached by a port.
    pub(super) fn set_group(&self, key: &RevisionKey, group: Group, written: Option<Timestamp>) {
        let now = self.inner.clock.now();
        let mut state = self.lock();
        let before = state.groups.get(key).copied();
        if before.is_some_and(|(before, _)| before == group) {
            return;
        }
        let known = before.filter(|(before, _)| before.members == group.members).map(|(_, since)| since);
        // What stands there since before this process is as old as it says.
        let since = known.or(written.filter(|at| before.is_none() && *at <= now)).unwrap_or(now);
        state.groups.insert(key.clone(), (group, since));
        let last = state.gates.get(key).and_then(|entry| entry.last.clone());
        let probes = self.step(&mut state, key, now);
        let touched = if state.differs(key, last.as_ref()) { BTreeSet::from([key.clone()]) } else { BTreeSet::new() };
        drop(state);
        self.after(&touched, probes);
    }

    /// Nothing is written of it any more.
    pub(super) fn drop_group(&self, key: &RevisionKey) {
        self.lock().groups.remove(key);
    }

    /// What the servers of a revision are to be, as its gate decides; `None` before it has.
    pub(super) fn members(&self, key: &RevisionKey) -> Option<Members> {
        self.lock().gates.get(key)?.last.as_ref()?.members
    }

    /// These are awaited from now on.
    pub(super) fn await_owners(&self, revisions: BTreeSet<RevisionKey>) {
        *self.inner.awaited.lock().unwrap_or_else(PoisonError::into_inner) = revisions;
    }

    /// Steps what is due and looks names up, until `cancel`.
    pub async fn run(self, cancel: CancellationToken) {
        tokio::join!(self.step_what_is_due(&cancel), self.look_names_up(&cancel));
    }

    async fn step_what_is_due(&self, cancel: &CancellationToken) {
        loop {
            let now = self.inner.clock.now();
            let (probes, touched, next) = {
                let mut state = self.lock();
                let due: BTreeSet<RevisionKey> =
                    state.due.iter().take_while(|(at, _)| *at <= now).map(|(_, key)| key.clone()).collect();
                let settled = state.settle_what_is_late(now);
                let due: BTreeSet<RevisionKey> = due.into_iter().chain(settled.iter().cloned()).collect();
                let before: HashMap<RevisionKey, Option<Decision>> =
                    due.iter().map(|key| (key.clone(), state.gates.get(key).and_then(|it| it.last.clone()))).collect();
                let probes = self.step_all(&mut state, &due, now);
                let mut touched: BTreeSet<RevisionKey> = due
                    .into_iter()
                    .filter(|key| state.differs(key, before.get(key).and_then(Option::as_ref)))
                    .collect();
                let since = state.known.unwrap_or(self.inner.started);
                let awaited = !state.waiting.is_empty() || !state.past.is_empty();
                let horizon = Some(since + self.inner.timers.horizon).filter(|_| awaited);
                let is_over = horizon.is_some_and(|at| at <= now);
                if is_over {
                    touched.extend(state.waiting.keys().cloned());
                    self.tell_unknown(&mut state);
                }
                if is_over || !settled.is_empty() {
                    touched.extend(state.leave_past(now, self.inner.timers.horizon));
                }
                let routes = state.routes.values().filter_map(|route| route.unasked_until);
                let first = state.due.first().map(|(at, _)| *at);
                let next = first.into_iter().chain(routes).chain(horizon.filter(|at| now < *at)).min();
                (probes, touched, next)
            };
            self.carry_out(&touched, probes);
            let sleep = async {
                match next {
                    Some(at) => tokio::time::sleep_until(self.inner.clock.instant(at)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = sleep => {}
                () = self.inner.changed.notified() => {}
                () = cancel.cancelled() => return,
            }
        }
    }

    /// Tells once that the rules are still not known.
    fn tell_unknown(&self, state: &mut State) {
        if state.known.is_none() && !std::mem::replace(&mut state.told_unknown, true) {
            let (after, waiting) = (self.inner.timers.horizon.whole_millis(), state.waiting.len());
            warn!(
                waiting,
                "the rules of the load balancer are not known after {after} ms; revisions they may lead to keep a pod"
            );
        }
    }

    async fn look_names_up(&self, cancel: &CancellationToken) {
        let mut known: HashSet<(String, bool)> = HashSet::new();
        loop {
            let wanted: BTreeSet<(String, bool)> = {
                let state = self.lock();
                state
                    .routes
                    .values()
                    .flat_map(|route| route.listeners.keys())
                    .filter(|(name, _)| !name.is_empty())
                    .cloned()
                    .collect()
            };
            known.retain(|name| wanted.contains(name));
            let mut missing = false;
            for name in &wanted {
                let found = self.inner.vips.resolve(&name.0, name.1).await;
                match found {
                    Ok(found) if !found.is_empty() => {
                        known.insert(name.clone());
                        self.set_addresses(name, found.into_iter().collect());
                    }
                    // What was known of it stays.
                    Ok(_) => missing = true,
                    Err(error) => {
                        debug!(balancer = name.0, %error, "the load balancer's name has no address");
                        missing = true;
                    }
                }
            }
            let pause = if missing { LOOK_UP_SOON } else { LOOK_UP };
            tokio::select! {
                () = tokio::time::sleep(pause.to_std()) => {}
                // Names that are new are looked up at once.
                () = self.inner.names.notified() => {}
                () = cancel.cancelled() => return,
            }
        }
    }

    fn set_addresses(&self, name: &(String, bool), addresses: BTreeSet<SocketAddr>) {
        let now = self.inner.clock.now();
        let mut state = self.lock();
        if state.addresses.get(name) == Some(&addresses) {
            return;
        }
        let mut touched = BTreeSet::new();
        for route in state.routes.values_mut() {
            if let Some(rules) = route.listeners.get_mut(name) {
                rules.set_addresses(&addresses);
                touched.extend(rules.revisions().cloned());
            }
        }
        state.addresses.insert(name.clone(), addresses);
        let probes = self.step_all(&mut state, &touched, now);
        drop(state);
        self.after(&touched, probes);
    }

    /// Steps these gates; the probes to be sent.
    fn step_all(
        &self,
        state: &mut State,
        keys: &BTreeSet<RevisionKey>,
        now: Timestamp,
    ) -> Vec<(RevisionKey, Question, Probe)> {
        let mut probes = Vec::new();
        for key in keys {
            probes.extend(self.step(state, key, now));
        }
        probes
    }

    fn step(&self, state: &mut State, key: &RevisionKey, now: Timestamp) -> Vec<(RevisionKey, Question, Probe)> {
        let (targets, routed) = state.targets(key);
        let published = state.is_published(key);
        let mode = state.mode_of(key);
        let pinned = state.pinned.contains(key);
        let group = state.groups.get(key).copied();
        let activators = state.activators;
        let Some(entry) = state.gates.get_mut(key) else { return Vec::new() };
        // As it is reached now, whatever it is to be.
        let by_port = entry.gate.mode() == Mode::Port;
        let (written, activators) = match group.filter(|_| by_port) {
            Some((group, since)) => (group.members.map(|members| (members, since)), Some(group.activators)),
            None if by_port => (None, None),
            None => (entry.asked.written, activators),
        };
        entry.blind = activators.is_none();
        // What is not known lets no pod go, and wakes nothing that rests.
        let resting = entry.asked.pods.all == 0;
        let activators = activators.unwrap_or(if resting { self.inner.timers.activators } else { 0 });
        let seen = Seen {
            mode,
            pinned,
            routed,
            published,
            targets: &targets,
            written,
            pods: entry.asked.pods,
            activators,
            room: entry.asked.room,
            traffic: entry.traffic,
        };
        let before = entry.gate.state().0;
        let mut decision = entry.gate.step(now, &seen);
        let probes = std::mem::take(&mut decision.probes);
        if decision.state != before {
            info!(revision = %key, from = before.word(), to = decision.state.word(), because = %decision.because, "gate");
            if decision.state == GateState::Held {
                self.inner.counters.held.fetch_add(1, Ordering::Relaxed);
            }
        }
        let confirmed = decision.state == GateState::ColdConfirmed;
        entry.confirmed = if confirmed { entry.confirmed.or(Some(now)) } else { None };
        if let Some(at) = entry.due.take() {
            state.due.remove(&(at, key.clone()));
        }
        if let Some(at) = decision.look_again {
            entry.due = Some(at);
            state.due.insert((at, key.clone()));
        }
        entry.last = Some(decision);
        let question = |probe: &Probe| state.question(key, &probe.target);
        probes.into_iter().filter_map(|probe| Some((key.clone(), question(&probe)?, probe))).collect()
    }

    /// What follows from a step, outside the lock: probes are sent, who must look again is told, and whoever waits for what
    /// is due waits anew.
    fn after(&self, touched: &BTreeSet<RevisionKey>, probes: Vec<(RevisionKey, Question, Probe)>) {
        self.carry_out(touched, probes);
        self.inner.changed.notify_one();
    }

    fn carry_out(&self, touched: &BTreeSet<RevisionKey>, probes: Vec<(RevisionKey, Question, Probe)>) {
        for (key, question, probe) in probes {
            let Ok(place) = Arc::clone(&self.inner.places).try_acquire_owned() else {
                self.inner.counters.postponed.fetch_add(1, Ordering::Relaxed);
                continue;
            };
            let this = self.clone();
            // Rules may have changed when the answer comes, and this one was on its way before.
            let certain = self.lock().is_certain(&key, &probe.target);
            tokio::spawn(async move {
                let reply = question.ask(probe.target.address, Topic::Who).await;
                let answer = reply.as_ref().map_or(Answer::Failed, |reply| reply.who(&key));
                debug!(revision = %key, address = %probe.target.address, rule = %probe.target.rule, ?answer, ?reply, "probe");
                drop(place);
                this.answered(&key, &probe, answer, certain);
            });
        }
        for look in self.inner.on_change.get().into_iter().chain(self.inner.on_decision.get()) {
            touched.iter().for_each(look);
        }
    }

    fn answered(&self, key: &RevisionKey, probe: &Probe, answer: Answer, certain: bool) {
        if let Some(at) = ANSWERS.iter().position(|(known, _)| *known == answer) {
            self.inner.counters.answers[at].fetch_add(1, Ordering::Relaxed);
        }
        let now = self.inner.clock.now();
        let mut state = self.lock();
        let answer = match answer {
            Answer::Activator | Answer::Pod if !(certain && state.is_certain(key, &probe.target)) => Answer::Elsewhere,
            other => other,
        };
        let Some(entry) = state.gates.get_mut(key) else { return };
        let before = entry.last.clone();
        entry.gate.answer(now, probe, answer);
        let probes = self.step(&mut state, key, now);
        let touched = if state.differs(key, before.as_ref()) { BTreeSet::from([key.clone()]) } else { BTreeSet::new() };
        drop(state);
        self.after(&touched, probes);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Keep for Keeper {
    fn ask(&self, key: &RevisionKey, asked: &Asked) -> Leave {
        let now = self.inner.clock.now();
        let mut state = self.lock();
        let state_ref = &mut *state;
        let was = asked.marked.is_some_and(|marked| marked.routed);
        if state_ref.known.is_none() {
            if was || state_ref.may_be_named(key, now, self.inner.started, self.inner.timers.horizon) {
                return state_ref.wait(key, asked.want);
            }
            state_ref.waiting.remove(key);
            return Leave { epoch: asked.marked.map_or(0, |marked| marked.epoch), ..Leave::free(asked.want) };
        }
        let (_, routed) = state_ref.targets(key);
        if !routed && !state_ref.gates.contains_key(key) {
            // An earlier gate knew of a rule that this process never saw.
            if was && !state_ref.is_settled(key.namespace(), now, self.inner.timers.horizon) {
                return state_ref.wait(key, asked.want);
            }
            state_ref.waiting.remove(key);
            let epoch = asked.marked.map_or(0, |marked| marked.epoch);
            return Leave { epoch, zero: off_record(was), ..Leave::free(asked.want) };
        }
        state_ref.waiting.remove(key);
        let mode = asked.marked.and_then(|marked| marked.mode).unwrap_or_else(|| state_ref.mode_of(key));
        let before = state_ref.gates.get(key).and_then(|entry| entry.last.clone());
        // Nothing was published of which no gate knew.
        let fresh = !was && !state_ref.is_published(key);
        let is_new = !state_ref.gates.contains_key(key);
        if is_new && !fresh && !state_ref.is_settled(key.namespace(), now, self.inner.timers.horizon) {
            state_ref.past.insert(key.clone());
        }
        let entry = state_ref.gates.entry(key.clone()).or_insert_with(|| Entry {
            gate: {
                let gate = Gate::new(mode, self.inner.timers).with_epoch(asked.marked.map_or(0, |marked| marked.epoch));
                if fresh { gate.without_past() } else { gate }
            },
            asked: *asked,
            traffic: None,
            last: None,
            confirmed: None,
            due: None,
            blind: false,
            told: BTreeSet::new(),
        });
        entry.asked = *asked;
        entry.gate.request(now, asked.want);
        if asked.want == Path::Warm {
            entry.told.clear();
        }
        let probes = self.step(state_ref, key, now);
        let decides = state_ref.differs(key, before.as_ref());
        let leave = state_ref.leave(key, self.inner.timers);
        let leave = if leave.state == GateState::Unrouted {
            let has_past = state_ref.past.contains(key);
            state_ref.forget(key);
            if has_past { state_ref.wait(key, asked.want) } else { Leave { zero: off_record(was), ..leave } }
        } else {
            leave
        };
        drop(state);
        self.after(&BTreeSet::new(), probes);
        // Who asks looks already.
        if let Some(look) = self.inner.on_decision.get().filter(|_| decides) {
            look(key);
        }
        leave
    }

    fn may_scale_to_zero(&self, key: &RevisionKey, epoch: u64) -> Result<(), Reason> {
        let (now, state) = (self.inner.clock.now(), self.lock());
        let unknown =
            state.known.is_none() && state.may_be_named(key, now, self.inner.started, self.inner.timers.horizon);
        if unknown || state.waiting.contains_key(key) {
            return Err(Reason::RulesUnknown);
        }
        match state.gates.get(key) {
            Some(_) if state.past.contains(key) => Err(Reason::EarlierRules),
            Some(entry) => entry.gate.may_scale_to_zero(now, epoch),
            None if state.targets(key).1 => Err(Reason::OtherEpoch { current: 0 }),
            None => Ok(()),
        }
    }

    fn traffic(&self, key: &RevisionKey) {
        let now = self.inner.clock.now();
        let mut state = self.lock();
        let Some(entry) = state.gates.get_mut(key) else { return };
        entry.traffic = Some(now);
        let before = entry.last.clone();
        let probes = self.step(&mut state, key, now);
        let touched = if state.differs(key, before.as_ref()) { BTreeSet::from([key.clone()]) } else { BTreeSet::new() };
        drop(state);
        self.after(&touched, probes);
    }

    fn marked(&self, key: &RevisionKey) {
        let awaited = self.inner.awaited.lock().unwrap_or_else(PoisonError::into_inner).contains(key);
        if let Some(look) = self.inner.on_owner.get().filter(|_| awaited) {
            look();
        }
    }

    fn forget(&self, key: &RevisionKey) {
        self.lock().forget(key);
    }

    fn let_go(&self, which: &dyn Fn(&RevisionKey) -> bool) {
        let mut state = self.lock();
        let all = state.gates.keys().chain(state.waiting.keys());
        let keys: Vec<RevisionKey> = all.filter(|key| which(key)).cloned().collect();
        for key in &keys {
            state.forget(key);
        }
    }

    fn on_change(&self, look: Box<dyn Fn(&RevisionKey) + Send + Sync>) {
        // One autoscaler asks; another would be told nothing.
        let _ = self.inner.on_change.set(look);
    }
}

impl State {
    /// Takes over a KIngress; the revisions it concerns.
    fn publish(&mut self, published: Published, now: Timestamp, horizon: Span) -> BTreeSet<RevisionKey> {
        let Published { key, ways, before, live, askable, written } = published;
        let mut touched = BTreeSet::new();
        let route = self.routes.entry(key.clone()).or_default();
        let first = if route.number == 0 && !before.is_empty() { Some(before) } else { None };
        let there = first.is_some();
        for ways in first.into_iter().chain([ways]) {
            let version = digest(format!("{ways:?}").as_bytes(), 16);
            if route.version == version && route.number > 0 {
                continue;
            }
            route.version = version;
            touched.extend(route.listeners.values().flat_map(Rules::revisions).cloned());
            route.publish(&key, &ways, &self.addresses);
            touched.extend(route.listeners.values().flat_map(Rules::revisions).cloned());
            route.unasked_until = None;
            if there && route.number == 1 {
                route.written = 1;
            }
        }
        let number = route.number;
        if written && route.written < number {
            (route.written, route.since) = (number, Some(now));
            touched.extend(route.listeners.values().flat_map(Rules::revisions).cloned());
        }
        let told = route.listeners.values().all(|rules| rules.tells_apart(number));
        let settles = live && askable && told && !route.settled;
        if settles {
            route.settle(number);
        } else if !route.settled && route.written == number && (!askable || live) {
            // Nothing that is seen tells whether an earlier version may still be in force.
            let since = route.since.unwrap_or(now);
            route.unasked_until = route.unasked_until.or(Some(since + horizon));
        }
        if settles || !touched.is_empty() {
            touched.extend(self.index(&key));
        }
        touched
    }

    /// What could not be asked counts when the horizon has passed; the revisions that concerns.
    fn settle_what_is_late(&mut self, now: Timestamp) -> BTreeSet<RevisionKey> {
        let late: Vec<RevisionKey> = self
            .routes
            .iter()
            .filter(|(_, route)| route.unasked_until.is_some_and(|at| at <= now))
            .map(|(key, _)| key.clone())
            .collect();
        let mut touched = BTreeSet::new();
        for key in late {
            if let Some(route) = self.routes.get_mut(&key) {
                let number = route.number;
                touched.extend(route.listeners.values().flat_map(Rules::revisions).cloned());
                route.unasked_until = None;
                route.settle(number);
            }
            touched.extend(self.index(&key));
            if self.routes.get(&key).is_some_and(|route| route.gone) {
                self.routes.remove(&key);
            }
        }
        touched
    }

    /// Notes which revisions the rules of a KIngress may lead to; those that came or went.
    fn index(&mut self, kingress: &RevisionKey) -> BTreeSet<RevisionKey> {
        let leads: BTreeSet<RevisionKey> = self
            .routes
            .get(kingress)
            .into_iter()
            .flat_map(|route| route.listeners.values().flat_map(Rules::revisions))
            .cloned()
            .collect();
        let mut touched = BTreeSet::new();
        self.by_revision.retain(|revision, kingresses| {
            if !leads.contains(revision) && kingresses.remove(kingress) {
                touched.insert(revision.clone());
            }
            !kingresses.is_empty()
        });
        for revision in leads {
            if self.by_revision.entry(revision.clone()).or_default().insert(kingress.clone()) {
                touched.insert(revision);
            }
        }
        touched
    }

    fn mode_of(&self, key: &RevisionKey) -> Mode {
        self.modes.get(key).copied().unwrap_or(self.mode)
    }

    /// Every way that leads to a revision, and whether any does or may.
    fn targets(&self, key: &RevisionKey) -> (BTreeSet<Target>, bool) {
        let Some(kingresses) = self.by_revision.get(key) else { return (BTreeSet::new(), false) };
        let listeners = kingresses
            .iter()
            .filter_map(|kingress| self.routes.get(kingress))
            .flat_map(|route| route.listeners.values());
        (listeners.flat_map(|rules| rules.targets(key)).collect(), true)
    }

    /// Whether a rule that leads to a revision may have been published.
    fn is_published(&self, key: &RevisionKey) -> bool {
        let kingresses = self.by_revision.get(key).into_iter().flatten();
        kingresses
            .filter_map(|kingress| self.routes.get(kingress))
            .any(|route| route.listeners.values().any(|rules| rules.routes(key, route.written)))
    }

    fn question(&self, key: &RevisionKey, target: &Target) -> Option<Question> {
        let kingresses = self.by_revision.get(key)?;
        kingresses.iter().find_map(|kingress| self.routes.get(kingress)?.questions.get(&target.rule).cloned())
    }

    /// Whether an answer by this way is of the group it is to ask about.
    fn is_certain(&self, key: &RevisionKey, target: &Target) -> bool {
        let kingresses = self.by_revision.get(key).into_iter().flatten();
        let mut listeners = kingresses
            .filter_map(|kingress| self.routes.get(kingress))
            .filter(|route| route.questions.contains_key(&target.rule))
            .flat_map(|route| route.listeners.values());
        listeners.any(|rules| rules.is_certain(target))
    }

    /// Whether a rule may lead to a revision, as long as the rules are not known.
    fn may_be_named(&self, key: &RevisionKey, now: Timestamp, started: Timestamp, horizon: Span) -> bool {
        self.named.as_ref().map_or(now.since(started) < horizon, |named| named.contains(key))
    }

    fn wait(&mut self, key: &RevisionKey, want: Path) -> Leave {
        self.waiting.insert(key.clone(), want);
        Leave::unknown(want)
    }

    /// Whether every rule of a namespace was seen in force since the rules became known.
    fn is_settled(&self, namespace: &str, now: Timestamp, horizon: Span) -> bool {
        let waited = self.known.is_some_and(|known| horizon <= now.since(known));
        waited || self.routes.iter().filter(|(key, _)| key.namespace() == namespace).all(|(_, route)| route.settled)
    }

    /// The revisions to which no rule from before this process can lead any more that it does not know of.
    fn leave_past(&mut self, now: Timestamp, horizon: Span) -> BTreeSet<RevisionKey> {
        if self.past.is_empty() {
            return BTreeSet::new();
        }
        let namespaces: BTreeSet<&str> = self.past.iter().map(RevisionKey::namespace).collect();
        let settled: BTreeSet<String> = namespaces
            .into_iter()
            .filter(|namespace| self.is_settled(namespace, now, horizon))
            .map(str::to_owned)
            .collect();
        self.past.extract_if(.., |key| settled.contains(key.namespace())).collect()
    }

    /// Whether a gate decided something else than before that others act on.
    fn differs(&self, key: &RevisionKey, before: Option<&Decision>) -> bool {
        let acted_on = |decision: &Decision| {
            (decision.state, decision.epoch, decision.members, decision.pin, decision.zero.is_ok(), decision.mode)
        };
        self.gates.get(key).and_then(|entry| entry.last.as_ref()).map(acted_on) != before.map(acted_on)
    }

    fn leave(&mut self, key: &RevisionKey, timers: Timers) -> Leave {
        let routes =
            self.by_revision.get(key).into_iter().flatten().map(|kingress| kingress.name().to_owned()).collect();
        // One that is reached otherwise than the settings say keeps its pod for that.
        let chosen = self.chosen.clone().filter(|_| self.mode_of(key) == self.mode);
        let Some(entry) = self.gates.get_mut(key) else { return Leave::free(Path::Warm) };
        let Some(decision) = &entry.last else { return Leave::unknown(entry.asked.want) };
        let because = &decision.because;
        let notice = notice(decision, entry.asked.want, timers).filter(|_| !entry.blind);
        let notice = notice.filter(|notice| entry.told.insert(notice.reason));
        let has_past = self.past.contains(key);
        Leave {
            want: entry.asked.want,
            state: decision.state,
            epoch: decision.epoch,
            mode: decision.mode,
            // Where nobody asks, the autoscaler decides.
            members: decision.members.filter(|_| decision.state != GateState::Unrouted),
            pin: decision.pin,
            zero: match &decision.zero {
                Ok(()) if has_past => Err(Reason::EarlierRules),
                zero => zero.clone().map_err(|_| because.clone()),
            },
            routes,
            confirmed: entry.confirmed,
            notice,
            auto: chosen.filter(|_| because.stands() && self.mode != Mode::Port),
        }
    }

    fn forget(&mut self, key: &RevisionKey) {
        self.waiting.remove(key);
        self.past.remove(key);
        if let Some(entry) = self.gates.remove(key)
            && let Some(at) = entry.due
        {
            self.due.remove(&(at, key.clone()));
        }
    }
}

impl Route {
    /// Another version is about to be published.
    fn publish(&mut self, key: &RevisionKey, ways: &[Way], addresses: &HashMap<(String, bool), BTreeSet<SocketAddr>>) {
        self.number += 1;
        (self.settled, self.gone) = (false, false);
        let version: Option<Arc<str>> = ways.iter().flat_map(|way| &way.rules).find_map(hash_of).map(Arc::from);
        let plan = || Plan { number: self.number, version: version.clone(), ..Plan::default() };
        let mut plans: BTreeMap<(String, bool), Plan> = BTreeMap::new();
        for way in ways {
            let listener = (way.balancer.clone().unwrap_or_default(), way.secure);
            let of_listener = plans.entry(listener).or_insert_with(plan);
            of_listener.rules.push((way.ingress.as_str().into(), way.rules.clone()));
            for lead in way.leads(key) {
                let question = Question::by(lead.ask.clone(), way.secure, way.grpc);
                self.questions.insert(Arc::clone(&lead.rule), question);
                of_listener.leads.insert(lead);
            }
        }
        for listener in plans.keys() {
            self.listeners.entry(listener.clone()).or_insert_with(|| {
                let mut rules = Rules::default();
                rules.set_addresses(addresses.get(listener).unwrap_or(&BTreeSet::new()));
                rules
            });
        }
        for (listener, rules) in &mut self.listeners {
            rules.publish(plans.remove(listener).unwrap_or_else(plan));
        }
        // A load balancer without a name has not taken a rule yet. Once all have one, nothing is left of that.
        if ways.iter().all(|way| way.balancer.is_some()) && self.listeners.keys().any(|(name, _)| !name.is_empty()) {
            self.listeners.retain(|(name, _), _| !name.is_empty());
        }
    }

    /// Every address has this version.
    fn settle(&mut self, number: u64) {
        self.settled = true;
        for rules in self.listeners.values_mut() {
            rules.pass(number);
        }
        let used: HashSet<Arc<str>> = self.listeners.values().flat_map(Rules::names).cloned().collect();
        self.questions.retain(|rule, _| used.contains(rule));
        self.listeners.retain(|_, rules| rules.revisions().next().is_some());
    }
}

/// A revision no rule leads to may go to zero once nothing says any more that one does: whoever reads that publishes.
fn off_record(is_on_record: bool) -> Result<(), Reason> {
    if is_on_record { Err(Reason::OnRecord) } else { Ok(()) }
}

/// What the owner of a revision should know of a decision.
fn notice(decision: &Decision, want: Path, timers: Timers) -> Option<Notice> {
    if want != Path::Cold {
        return match (&decision.because, decision.state) {
            (Reason::FewActivators { there, .. }, GateState::Waking) if *there == 0 => {
                Some(Notice { reason: "ActivatorLost", message: format!("woken: {}", decision.because) })
            }
            _ => None,
        };
    }
    let told = |reason| Some(Notice { reason, message: format!("the last pod stays: {}", decision.because) });
    let missing = match &decision.because {
        Reason::Late { missing, .. } => missing,
        other => other,
    };
    match missing {
        Reason::NoAddress => told("ProbeUnreachable"),
        Reason::FewActivators { there: 0, .. } => told("ActivatorLost"),
        Reason::FewActivators { .. } => told("ScaleToZeroHeld"),
        Reason::Unproven { last: Some(Answer::Failed), .. } if decision.state == GateState::Held => {
            told("ProbeUnreachable")
        }
        _ if decision.state == GateState::Held => {
            let again = timers.hold.whole_millis();
            let message = format!("the last pod stays: {}; tried again, at first after {again}", decision.because);
            Some(Notice { reason: "ScaleToZeroHeld", message })
        }
        _ => None,
    }
}

impl Source for Keeper {
    fn show(&self, page: &mut Page<'_>) {
        let mut states: BTreeMap<&str, u64> = GateState::ALL.iter().map(|state| (state.word(), 0)).collect();
        let mut held: BTreeMap<&str, u64> = Reason::HOLDING.iter().map(|word| (*word, 0)).collect();
        {
            let state = self.lock();
            for (key, entry) in &state.gates {
                let Some(last) = &entry.last else { continue };
                *states.entry(last.state.word()).or_default() += 1;
                let keeps = match last.zero {
                    Ok(()) => state.past.contains(key).then_some(&Reason::EarlierRules),
                    Err(_) => Some(&last.because),
                };
                if let Some(because) = keeps.filter(|_| entry.asked.want == Path::Cold && last.state != GateState::Cold)
                {
                    *held.entry(because.word()).or_default() += 1;
                }
            }
            let waiting = state.waiting.values().filter(|want| **want == Path::Cold).count();
            *held.entry(Reason::RulesUnknown.word()).or_default() += u64::try_from(waiting).unwrap_or(u64::MAX);
        }
        let texts = |map: BTreeMap<&'static str, u64>| map.into_iter().map(|(word, count)| ([word], count));
        page.gauges(
            "ebb_alb_gates",
            "Revisions behind a load balancer, by where they are on the way to zero and back.",
            ["state"],
            texts(states),
        );
        page.gauges(
            "ebb_alb_gate_held",
            "Revisions no pod is wanted of whose last pod stays until the load balancer follows, by what is missing.",
            ["reason"],
            texts(held),
        );
        let kingresses = Gateway::ALL.iter().zip(&self.inner.counters.kingresses);
        page.gauges(
            "ebb_kingresses",
            "KIngresses by whose they are, where Ebb looks after a load balancer (`--alb`); those of other classes than alb \
             are left alone.",
            ["class"],
            kingresses.map(|(gateway, kingresses)| ([gateway.word()], count(kingresses))),
        );
        let answers = ANSWERS.iter().zip(&self.inner.counters.answers);
        page.counters(
            "ebb_alb_probes_total",
            "Probes sent through load balancers, by who answered.",
            ["answer"],
            answers.map(|((_, word), answers)| ([*word], count(answers))),
        );
        page.counter(
            "ebb_alb_probes_postponed_total",
            "Probes that found too many under way.",
            count(&self.inner.counters.postponed),
        );
        page.counter(
            "ebb_alb_gate_failures_total",
            "Times a load balancer did not follow in time, so that a revision kept its last pod.",
            count(&self.inner.counters.held),
        );
    }
}

impl fmt::Debug for Keeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keeper").field("gates", &self.lock().gates.len()).finish_non_exhaustive()
    }
}
