//! The running engines: stats in, a decision every two seconds, a word to whoever must act on it.
//!
//! The only shell module that drives the engine. One table holds, per revision, its windows ([`Collection`]) and its
//! decider, which come and go independently: the Metric controller makes the one, the PodAutoscaler controller the
//! other. An evaluation takes tens of nanoseconds, so it runs where it is asked for: on the tick, or within the call
//! that records the first load of a revision at zero.
//!
//! Reading order: [`published`] (what others see of a decider), [`schedule`] (ticks), this file, [`collector`] (scraping).

pub mod collector;
pub mod published;
pub mod schedule;

use crate::clock::Clock;
use crate::engine::burst::initial_excess_burst;
use crate::engine::{Collection, Decider, Decision, Load, MetricSpec, Reason, Spec};
use crate::observe::metrics::{Page, Source, count};
use crate::units::{Compat, RevisionKey, Span, Timestamp};
use published::Published;
use schedule::{Cadence, Schedule};
use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio_util::sync::CancellationToken;

/// How often a decider is evaluated.
pub const TICK: Span = Span::from_seconds(2);

/// Reasons that never give a decider's number its value: two only tell, three belong to the reconciler.
const NEVER_DECIDE: [&str; 5] = ["panic", "panic_ended", "raised_to_min", "raised_to_initial", "lowered_to_max"];

/// Tells how many pods of a revision are ready.
pub trait ReadyPods: Send + Sync {
    /// Ready pods; 0 when there are none or the revision is unknown.
    fn ready(&self, key: &RevisionKey) -> i32;
}

/// Told of each revision whose PodAutoscaler must be looked at again.
pub type OnChange = Box<dyn Fn(&RevisionKey) + Send + Sync>;

/// All deciders and windows of this process. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Deciders {
    shared: Arc<Shared>,
}

struct Shared {
    clock: Clock,
    compat: Compat,
    pods: Arc<dyn ReadyPods>,
    on_change: OnChange,
    table: Mutex<HashMap<RevisionKey, Entry>>,
    ticks: Schedule,
    lives: AtomicU64,
    counters: Counters,
}

/// What was counted since the process started.
#[derive(Debug, Default)]
pub struct Counters {
    /// Stats for a revision that has no windows.
    pub unknown_revision: AtomicU64,
    /// Stats whose time was moved to the nearest edge of the window.
    pub clamped_time: AtomicU64,
    /// Loads that were not finite and so not recorded.
    pub not_finite: AtomicU64,
    /// Evaluations made.
    pub evaluations: AtomicU64,
    /// Evaluations that had no data to decide on.
    pub without_data: AtomicU64,
    /// Decisions by the rule that gave them their number, in the order of [`Reason::NAMES`].
    pub decided_by: [AtomicU64; Reason::NAMES.len()],
}

#[derive(Default)]
struct Entry {
    windows: Option<Collection>,
    decider: Option<Running>,
}

struct Running {
    decider: Decider,
    published: Published,
    latest: Option<Decision>,
    cadence: Cadence,
    life: u64,
}

/// What became of a stat.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Recorded {
    /// It is in the windows.
    Yes,
    /// The revision has no windows (yet, or any more).
    UnknownRevision,
}

impl fmt::Debug for Deciders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deciders").field("revisions", &self.lock().len()).finish_non_exhaustive()
    }
}

impl Source for Deciders {
    fn show(&self, page: &mut Page<'_>) {
        let counters = self.counters();
        page.gauge("ebb_revisions", "Revisions with windows or a decider.", self.lock().len());
        page.counters(
            "ebb_evaluations_total",
            "Looks at the load of a revision, by what came of them.",
            ["outcome"],
            [(["decided"], count(&counters.evaluations)), (["no_data"], count(&counters.without_data))],
        );
        page.counters(
            "ebb_decisions_total",
            "Decisions, by the rule that gave them their number.",
            ["reason"],
            Reason::NAMES
                .iter()
                .zip(&counters.decided_by)
                .filter(|(name, _)| !NEVER_DECIDE.contains(name))
                .map(|(name, counter)| ([*name], count(counter))),
        );
        page.counters(
            "ebb_stats_dropped_total",
            "Stats that were received or scraped and not recorded, by cause.",
            ["cause"],
            [(["not_finite"], count(&counters.not_finite)), (["unknown_revision"], count(&counters.unknown_revision))],
        );
        page.counter(
            "ebb_stats_moved_in_time_total",
            "Stats recorded at the nearest edge of their window because their time was outside it.",
            count(&counters.clamped_time),
        );
    }
}

impl Deciders {
    /// No revision yet.
    pub fn new(clock: Clock, compat: Compat, pods: Arc<dyn ReadyPods>, on_change: OnChange) -> Self {
        Self {
            shared: Arc::new(Shared {
                clock,
                compat,
                pods,
                on_change,
                table: Mutex::default(),
                ticks: Schedule::default(),
                lives: AtomicU64::new(0),
                counters: Counters::default(),
            }),
        }
    }

    /// Evaluates each decider on its ticks until `cancel`.
    pub async fn run(&self, cancel: CancellationToken) {
        loop {
            let (key, life) = tokio::select! {
                () = cancel.cancelled() => return,
                turn = self.shared.ticks.next(&self.shared.clock) => turn,
            };
            self.tick(&key, life);
        }
    }

    /// Makes the windows of a revision, or changes their length and keeps what they hold.
    pub fn ensure_windows(&self, key: &RevisionKey, spec: &MetricSpec) {
        let now = self.shared.clock.now();
        let mut table = self.lock();
        let entry = table.entry(key.clone()).or_default();
        match &mut entry.windows {
            Some(windows) => windows.resize(spec, now, self.shared.compat),
            None => entry.windows = Some(Collection::new(spec)),
        }
    }

    /// Forgets the windows of a revision.
    pub fn remove_windows(&self, key: &RevisionKey) {
        self.lock().get_mut(key).and_then(|entry| entry.windows.take());
        self.drop_if_empty(key);
    }

    /// Makes the decider of a revision, or gives it a changed spec. A new one reads the ready pods: with more than one
    /// it starts in panic mode, which keeps the present size for one stable window.
    pub fn ensure_decider(&self, key: &RevisionKey, spec: &Spec) -> Published {
        let now = self.shared.clock.now();
        let ready = self.shared.pods.ready(key);
        let mut table = self.lock();
        let entry = table.entry(key.clone()).or_default();
        if let Some(running) = &mut entry.decider {
            running.decider.update(spec.clone());
            return running.published;
        }
        let decider = Decider::new(spec.clone(), ready, now, self.shared.compat);
        let published = Published::undecided(initial_excess_burst(spec, self.shared.compat));
        let life = self.shared.lives.fetch_add(1, Ordering::Relaxed);
        let cadence = Cadence::starting(now, TICK);
        self.shared.ticks.add(cadence.next(), life, key.clone());
        entry.decider = Some(Running { decider, published, latest: None, cadence, life });
        published
    }

    /// Forgets the decider of a revision.
    pub fn remove_decider(&self, key: &RevisionKey) {
        self.lock().get_mut(key).and_then(|entry| entry.decider.take());
        self.drop_if_empty(key);
    }

    /// Forgets windows and deciders of the revisions `which` chooses.
    pub fn forget(&self, which: impl Fn(&RevisionKey) -> bool) {
        self.lock().retain(|key, _| !which(key));
    }

    /// Records a stat that was reported for the second of `at`, and decides at once when it is the first load of a
    /// revision at zero.
    pub fn report(&self, key: &RevisionKey, at: Timestamp, load: &Load) -> Recorded {
        let now = self.shared.clock.now();
        let ready = self.shared.pods.ready(key);
        let mut table = self.lock();
        let Some(entry) = table.get_mut(key) else { return self.unknown() };
        let Some(windows) = &mut entry.windows else { return self.unknown() };
        let clamped = windows.clamp(at, now, self.shared.compat);
        if clamped.moved {
            self.shared.counters.clamped_time.fetch_add(1, Ordering::Relaxed);
        }
        self.count_recorded(windows.record(clamped.at, load));
        let poked =
            entry.decider.as_ref().is_some_and(|running| running.published.pokes(load.concurrency, self.shared.compat));
        let changed = poked && self.evaluate(entry, now, ready);
        drop(table);
        if changed {
            (self.shared.on_change)(key);
        }
        Recorded::Yes
    }

    /// Records what was scraped just now.
    pub fn record_scraped(&self, key: &RevisionKey, load: &Load) -> Recorded {
        let now = self.shared.clock.now();
        let mut table = self.lock();
        match table.get_mut(key).and_then(|entry| entry.windows.as_mut()) {
            Some(windows) => {
                self.count_recorded(windows.record(now, load));
                Recorded::Yes
            }
            None => self.unknown(),
        }
    }

    /// What the decider of a revision last published.
    pub fn published(&self, key: &RevisionKey) -> Option<Published> {
        Some(self.lock().get(key)?.decider.as_ref()?.published)
    }

    /// The last valid decision on a revision.
    pub fn latest(&self, key: &RevisionKey) -> Option<Decision> {
        self.lock().get(key)?.decider.as_ref()?.latest.clone()
    }

    /// What was counted since the process started.
    pub fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    fn tick(&self, key: &RevisionKey, life: u64) {
        let now = self.shared.clock.now();
        let ready = self.shared.pods.ready(key);
        let mut table = self.lock();
        let Some(entry) = table.get_mut(key) else { return };
        let next = match &mut entry.decider {
            Some(running) if running.life == life => {
                running.cadence.take(now);
                running.cadence.next()
            }
            // A turn of an earlier decider of this name.
            _ => return,
        };
        let changed = self.evaluate(entry, now, ready);
        drop(table);
        self.shared.ticks.add(next, life, key.clone());
        if changed {
            (self.shared.on_change)(key);
        }
    }

    /// Decides, if there is anything to decide on, and says whether others must hear of it.
    fn evaluate(&self, entry: &mut Entry, now: Timestamp, ready: i32) -> bool {
        let (Some(windows), Some(running)) = (&entry.windows, &mut entry.decider) else { return false };
        let Ok(observed) = windows.observe(running.decider.spec().metric, now) else {
            self.shared.counters.without_data.fetch_add(1, Ordering::Relaxed);
            return false;
        };
        self.shared.counters.evaluations.fetch_add(1, Ordering::Relaxed);
        let decision = running.decider.decide(now, ready, observed);
        if let Some(reason) = decision.deciding() {
            self.shared.counters.decided_by[reason.index()].fetch_add(1, Ordering::Relaxed);
        }
        let changed = running.published.take_in(decision.desired, decision.excess_burst);
        running.latest = Some(decision);
        changed
    }

    fn count_recorded(&self, recorded: bool) {
        if !recorded {
            self.shared.counters.not_finite.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn unknown(&self) -> Recorded {
        self.shared.counters.unknown_revision.fetch_add(1, Ordering::Relaxed);
        Recorded::UnknownRevision
    }

    fn drop_if_empty(&self, key: &RevisionKey) {
        let mut table = self.lock();
        if table.get(key).is_some_and(|entry| entry.windows.is_none() && entry.decider.is_none()) {
            table.remove(key);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<RevisionKey, Entry>> {
        self.shared.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
