//! The running engines: stats in, a decision every two seconds, a word to whoever must act on it.
//!
//! The only shell module that drives the engine. One table holds a [`Revision`] per revision, whose windows and decider
//! come and go independently: the Metric controller makes the one, the PodAutoscaler controller the other. An evaluation
//! takes tens of nanoseconds, so it runs where it is asked for: on the tick, or within the call that records the first
//! load of a revision at zero.
//!
//! Whatever changes a revision is an [`Input`], applied in one place and handed to the followers of its bucket in the
//! same step. So another process that applies the same inputs has the same state, and takes over without a decision
//! that differs.
//!
//! Reading order: [`schedule`] (ticks), [`log`] (inputs for others), this file, [`collector`] (scraping), [`mirror`]
//! (fail-over), [`record`] (the journal).

pub mod collector;
mod early;
pub mod log;
pub mod mirror;
pub mod record;
pub mod schedule;

pub use crate::engine::published;
pub use crate::engine::revision::TICK;

use crate::clock::Clock;
use crate::engine::written::RevisionForm;
use crate::engine::{Applied, Decision, Event, Input, Load, MetricSpec, Reason, Revision, Spec};
use crate::k8s::queue::Lane;
use crate::observe::metrics::{Page, Source, count};
use crate::ownership::ring::Ring;
use crate::units::{Compat, Numbered, RevisionKey, Timestamp};
use early::Early;
use log::{Log, Subscription};
use published::Published;
use schedule::Schedule;
use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How long followers may take to send the last of what they know when a bucket is handed over.
const HAND_OVER: Duration = Duration::from_millis(1_500);

/// Reasons that never give a decider's number its value: three only tell, three belong to the reconciler.
const NEVER_DECIDE: [&str; 6] =
    ["panic", "panic_ended", "held_load", "raised_to_min", "raised_to_initial", "lowered_to_max"];

/// Tells how many pods of a revision are ready.
pub trait ReadyPods: Send + Sync {
    /// Ready pods; 0 when there are none or the revision is unknown.
    fn ready(&self, key: &RevisionKey) -> i32;
}

/// Told of each revision whose PodAutoscaler must be looked at again, and how soon: [`Lane::Urgent`] when requests wait
/// for pods.
pub type OnChange = Box<dyn Fn(&RevisionKey, Lane) + Send + Sync>;

/// Told of a revision that got load before it had windows or a decider. Has it looked at at once, and says whether there
/// is such a revision.
pub type OnEarly = Box<dyn Fn(&RevisionKey) -> bool + Send + Sync>;

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
    on_early: OnceLock<OnEarly>,
    ring: Ring,
    table: Mutex<Table>,
    ticks: Schedule,
    lives: AtomicU64,
    counters: Counters,
}

struct Table {
    revisions: HashMap<RevisionKey, Entry>,
    /// The number given out last. It comes around after four thousand million revisions.
    number: u32,
    log: Log,
    early: Early,
}

struct Entry {
    revision: Revision,
    bucket: usize,
    /// Stands for it where followers are told of it.
    number: u32,
    /// Tells the ticks of this decider from those of an earlier one of this name.
    life: u64,
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
    /// Stats kept until their revision has windows and a decider.
    pub early_kept: AtomicU64,
    /// Such stats for which there was no place.
    pub early_dropped: AtomicU64,
    /// Followers dropped because they were too slow.
    pub behind: AtomicU64,
    /// Revisions gone on with where another process, or this one before, had stopped.
    pub resumed: AtomicU64,
}

/// A decider as it is shown.
#[derive(Clone, PartialEq, Debug)]
pub struct View {
    /// What it decides by.
    pub spec: Spec,
    /// What it last published.
    pub published: Published,
    /// Its last valid decision, if there was one.
    pub latest: Option<Decision>,
}

/// What became of a stat.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Recorded {
    /// It is in the windows.
    Yes,
    /// So it is, and it was decided at once, at this time, that a revision at zero shall have pods.
    Woke(Timestamp),
    /// The revision has no windows yet; it is kept until it has.
    Kept,
    /// The revision has no windows (yet, or any more).
    UnknownRevision,
}

impl Table {
    fn names(&self, bucket: usize) -> Vec<Numbered> {
        let entries = self.revisions.iter().filter(|(_, entry)| entry.bucket == bucket);
        entries.map(|(key, entry)| Numbered { number: entry.number, key: key.clone() }).collect()
    }
}

impl fmt::Debug for Deciders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deciders").field("revisions", &self.lock().revisions.len()).finish_non_exhaustive()
    }
}

impl Source for Deciders {
    fn show(&self, page: &mut Page<'_>) {
        let counters = self.counters();
        page.gauge("ebb_revisions", "Revisions with windows or a decider.", self.lock().revisions.len());
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
            [
                (["early"], count(&counters.early_dropped)),
                (["not_finite"], count(&counters.not_finite)),
                (["unknown_revision"], count(&counters.unknown_revision)),
            ],
        );
        page.counter(
            "ebb_stats_moved_in_time_total",
            "Stats recorded at the nearest edge of their window because their time was outside it.",
            count(&counters.clamped_time),
        );
        page.counter(
            "ebb_stats_kept_early_total",
            "Stats kept until their revision had windows and a decider.",
            count(&counters.early_kept),
        );
        page.counter(
            "ebb_revisions_resumed_total",
            "Revisions gone on with where another replica, or this one before, had stopped.",
            count(&counters.resumed),
        );
        page.counter(
            "ebb_followers_dropped_total",
            "Followers of a bucket that were dropped because they were too slow.",
            count(&counters.behind),
        );
    }
}

impl Deciders {
    /// No revision yet, all of them in one bucket.
    pub fn new(clock: Clock, compat: Compat, pods: Arc<dyn ReadyPods>, on_change: OnChange) -> Self {
        Self::spread(clock, compat, pods, on_change, Ring::new(1))
    }

    /// No revision yet, spread over the buckets of `ring`.
    pub fn spread(clock: Clock, compat: Compat, pods: Arc<dyn ReadyPods>, on_change: OnChange, ring: Ring) -> Self {
        let table =
            Table { revisions: HashMap::new(), number: 0, log: Log::new(ring.names().len()), early: Early::default() };
        Self {
            shared: Arc::new(Shared {
                clock,
                compat,
                pods,
                on_change,
                on_early: OnceLock::new(),
                ring,
                table: Mutex::new(table),
                ticks: Schedule::default(),
                lives: AtomicU64::new(0),
                counters: Counters::default(),
            }),
        }
    }

    /// Sets who is told of a revision that got load before it had windows or a decider. Without, such a stat is dropped.
    /// Only the first call counts.
    pub fn on_early(&self, on_early: OnEarly) {
        let _ = self.shared.on_early.set(on_early);
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
        let ready = self.shared.pods.ready(key);
        let mut table = self.lock();
        let now = self.shared.clock.now();
        let entry = self.entry(&mut table, key);
        if entry.revision.windows().is_some_and(|windows| windows.fits(spec)) {
            return;
        }
        self.apply(&mut table, key, now, Event::Windows(*spec));
        let changed = self.take_in_early(&mut table, key, now, ready);
        drop(table);
        if changed {
            (self.shared.on_change)(key, Lane::Urgent);
        }
    }

    /// Forgets the windows of a revision.
    pub fn remove_windows(&self, key: &RevisionKey) {
        self.remove(key, Event::NoWindows, |revision| revision.windows().is_some());
    }

    /// Makes the decider of a revision, or gives it a changed spec. A new one reads the ready pods: with more than one
    /// it starts in panic mode, which keeps the present size for one stable window. `wanted` is what its status says was
    /// wanted before, which a new one keeps for as long under [`Compat::takeover_hold`].
    pub fn ensure_decider(&self, key: &RevisionKey, spec: &Spec, wanted: Option<i32>) -> Published {
        let ready = self.shared.pods.ready(key);
        let mut table = self.lock();
        let now = self.shared.clock.now();
        let entry = self.entry(&mut table, key);
        if let (Some(decider), Some(published)) = (entry.revision.decider(), entry.revision.published())
            && decider.spec() == spec
        {
            return published;
        }
        let fresh = entry.revision.decider().is_none();
        let life = self.shared.lives.fetch_add(1, Ordering::Relaxed);
        if fresh {
            entry.life = life;
        }
        let applied = self.apply(&mut table, key, now, Event::Decider { spec: Arc::new(spec.clone()), ready, wanted });
        let mut changed = applied.changed;
        if fresh {
            changed |= self.take_in_early(&mut table, key, now, ready);
        }
        let revision = &self.entry(&mut table, key).revision;
        let published = revision.published().expect("it was just made");
        let next = revision.next_tick().filter(|_| fresh);
        drop(table);
        if let Some(next) = next {
            self.shared.ticks.add(next, life, key.clone());
        }
        if changed {
            (self.shared.on_change)(key, Lane::Urgent);
        }
        published
    }

    /// Forgets the decider of a revision.
    pub fn remove_decider(&self, key: &RevisionKey) {
        // Its PodAutoscaler is gone. That there is no Metric, on the other hand, is what an early stat waits for.
        self.lock().early.forget(key);
        self.remove(key, Event::NoDecider, |revision| revision.decider().is_some());
    }

    /// Records a stat that was reported for the second of `at`, and decides at once when it is the first load of a
    /// revision at zero. One that comes before the windows is kept for them, if there is such a revision.
    pub fn report(&self, key: &RevisionKey, at: Timestamp, load: &Load) -> Recorded {
        let ready = self.shared.pods.ready(key);
        let mut table = self.lock();
        let now = self.shared.clock.now();
        let Some(revision) = table.revisions.get(key).map(|entry| &entry.revision).filter(|it| it.windows().is_some())
        else {
            return self.early(table, key, now, ready, early::Stat { at, load: *load });
        };
        let awaited = self.shared.compat.keep_early_stats && revision.decider().is_none() && !revision.is_awaited();
        let slept = revision.published().is_some_and(|published| published.desired.is_none_or(|desired| desired == 0));
        let Applied { changed, more, .. } =
            self.apply(&mut table, key, now, Event::Reported { at, load: *load, ready });
        let awaited = awaited && table.revisions.get(key).is_some_and(|entry| entry.revision.is_awaited());
        drop(table);
        if changed {
            (self.shared.on_change)(key, Lane::Urgent);
        }
        if awaited && let Some(on_early) = self.shared.on_early.get() {
            on_early(key);
        }
        if slept && more { Recorded::Woke(now) } else { Recorded::Yes }
    }

    /// Records what was scraped just now.
    pub fn record_scraped(&self, key: &RevisionKey, load: &Load) -> Recorded {
        match self.apply_to_windows(key, Event::Scraped { load: *load }) {
            Some(_) => Recorded::Yes,
            None => self.unknown(),
        }
    }

    /// Takes in that too few of the ready pods answered a scrape.
    pub fn scrape_failed(&self, key: &RevisionKey) {
        if self.shared.compat.hold_last_scrape {
            self.apply_to_windows(key, Event::ScrapeFailed);
        }
    }

    /// Takes in that there was no pod to scrape.
    pub fn nothing_to_scrape(&self, key: &RevisionKey) {
        let mut table = self.lock();
        let now = self.shared.clock.now();
        if table.revisions.get(key).is_some_and(|entry| entry.revision.remembers_scrapes()) {
            self.apply(&mut table, key, now, Event::NothingToScrape);
        }
    }

    /// When the pods of a revision were last scraped, as far as is remembered.
    pub fn last_scrape(&self, key: &RevisionKey) -> Option<Timestamp> {
        self.lock().revisions.get(key)?.revision.last_scrape()
    }

    /// What the decider of a revision last published.
    pub fn published(&self, key: &RevisionKey) -> Option<Published> {
        self.lock().revisions.get(key)?.revision.published()
    }

    /// The last valid decision on a revision.
    pub fn latest(&self, key: &RevisionKey) -> Option<Decision> {
        self.lock().revisions.get(key)?.revision.latest().cloned()
    }

    /// Shows the last valid decision on each of a few revisions, all of one moment. Nothing is recorded or decided
    /// meanwhile, so `each` is to be quick.
    pub fn glance(&self, keys: &[RevisionKey], mut each: impl FnMut(&RevisionKey, Option<&Decision>)) {
        let table = self.lock();
        for key in keys {
            each(key, table.revisions.get(key).and_then(|entry| entry.revision.latest()));
        }
    }

    /// What is to be seen of the decider of a revision, all of one moment.
    pub fn view(&self, key: &RevisionKey) -> Option<View> {
        let table = self.lock();
        let revision = &table.revisions.get(key)?.revision;
        let spec = revision.decider()?.spec().clone();
        Some(View { spec, published: revision.published()?, latest: revision.latest().cloned() })
    }

    /// What was counted since the process started.
    pub fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    /// Follows a bucket, by its index among the ring's names: the state of each of its revisions, then every input.
    /// `None` when there is no such bucket, when it was let go, or when [`log::MOST_FOLLOWERS`] follow it already.
    pub fn follow(&self, bucket: usize) -> Option<Subscription> {
        let mut table = self.lock();
        let (queue, here) = table.log.add(bucket)?;
        let pending = table.names(bucket);
        drop(table);
        let waiting = pending.iter().map(|name| name.number).collect();
        Some(Subscription { deciders: self.clone(), pending, waiting, queue, _here: here })
    }

    /// Revisions of a bucket that have windows or a decider.
    pub fn keys(&self, bucket: usize) -> Vec<RevisionKey> {
        self.names(bucket).into_iter().map(|name| name.key).collect()
    }

    /// The same, with the numbers that stand for them.
    fn names(&self, bucket: usize) -> Vec<Numbered> {
        self.lock().names(bucket)
    }

    /// Lets a bucket go: from this call on nothing of its revisions is recorded or decided here, and they are returned.
    /// Its followers are told that this is all.
    ///
    /// Whoever still reconciles them makes them anew, so that must have ended.
    pub fn let_go(&self, bucket: usize) -> Vec<(RevisionKey, Revision)> {
        self.part_with(bucket).0
    }

    /// Lets a bucket go and waits, for a second and a half at most, until its followers have sent on all of it.
    pub async fn hand_over(&self, bucket: usize) -> Vec<(RevisionKey, Revision)> {
        let (revisions, followers) = self.part_with(bucket);
        let sent = futures::future::join_all(followers.iter().map(tokio::sync::mpsc::Sender::closed));
        if tokio::time::timeout(HAND_OVER, sent).await.is_err() {
            tracing::warn!(bucket, "a follower has not taken all that was to be handed over in {HAND_OVER:?}");
        }
        revisions
    }

    /// Goes on with revisions where another process stopped, or this one before: same windows, same panic, same
    /// ticks. Seconds without a scrape since then are filled under [`Compat::hold_last_scrape`]; where it was `lossy`, what
    /// was last wanted is kept under [`Compat::takeover_hold`]. What is here already stays as it is.
    pub fn resume(&self, revisions: impl IntoIterator<Item = (RevisionKey, Revision)>, lossy: bool) {
        for (key, revision) in revisions {
            let ready = self.shared.pods.ready(&key);
            let mut table = self.lock();
            let now = self.shared.clock.now();
            if revision.is_empty() || table.revisions.contains_key(&key) {
                continue;
            }
            self.shared.counters.resumed.fetch_add(1, Ordering::Relaxed);
            let life = self.shared.lives.fetch_add(1, Ordering::Relaxed);
            let next = revision.next_tick();
            let state = || Some(revision.write());
            let entry = self.entry_in(&mut table, &key, state);
            (entry.revision, entry.life) = (revision, life);
            self.apply(&mut table, &key, now, Event::Resumed { ready, lossy });
            let changed = self.take_in_early(&mut table, &key, now, ready);
            drop(table);
            if let Some(next) = next {
                self.shared.ticks.add(next, life, key.clone());
            }
            if changed {
                (self.shared.on_change)(&key, Lane::Urgent);
            }
        }
    }

    fn part_with(&self, bucket: usize) -> (Vec<(RevisionKey, Revision)>, Vec<tokio::sync::mpsc::Sender<Infallible>>) {
        let mut table = self.lock();
        let gone = table.revisions.extract_if(|_, entry| entry.bucket == bucket);
        let gone = gone.map(|(key, entry)| (key, entry.revision)).collect();
        (gone, table.log.end(bucket))
    }

    fn tick(&self, key: &RevisionKey, life: u64) {
        let ready = self.shared.pods.ready(key);
        let mut table = self.lock();
        let now = self.shared.clock.now();
        // A turn of an earlier decider of this name is void.
        let decides = |entry: &Entry| entry.life == life && entry.revision.decider().is_some();
        if !table.revisions.get(key).is_some_and(decides) {
            return;
        }
        let applied = self.apply(&mut table, key, now, Event::Tick { ready });
        let next = table.revisions.get(key).and_then(|entry| entry.revision.next_tick());
        drop(table);
        if let Some(next) = next {
            self.shared.ticks.add(next, life, key.clone());
        }
        if applied.changed {
            (self.shared.on_change)(key, if applied.more { Lane::Urgent } else { Lane::Fast });
        }
    }

    /// The one place where a revision changes.
    fn apply(&self, table: &mut Table, key: &RevisionKey, now: Timestamp, event: Event) -> Applied {
        let Some(entry) = table.revisions.get_mut(key) else { return Applied::default() };
        let input = Input { now, event };
        let applied = entry.revision.apply(&input, self.shared.compat);
        let decision = entry.revision.latest().filter(|_| applied.evaluated);
        let behind = table.log.tell(entry.bucket, entry.number, &input, decision);
        let counters = &self.shared.counters;
        let add = |counter: &AtomicU64, by: u64| {
            if by > 0 {
                counter.fetch_add(by, Ordering::Relaxed);
            }
        };
        add(&counters.clamped_time, applied.moved.into());
        add(&counters.not_finite, applied.refused.into());
        add(&counters.evaluations, applied.evaluated.into());
        add(&counters.without_data, applied.without_data.into());
        add(&counters.behind, behind);
        if applied.evaluated
            && let Some(reason) = entry.revision.latest().and_then(Decision::deciding)
        {
            add(&counters.decided_by[reason.index()], 1);
        }
        applied
    }

    fn apply_to_windows(&self, key: &RevisionKey, event: Event) -> Option<Applied> {
        let mut table = self.lock();
        let now = self.shared.clock.now();
        table.revisions.get(key)?.revision.windows()?;
        Some(self.apply(&mut table, key, now, event))
    }

    /// Keeps a stat for which there are no windows yet, if there is such a revision.
    fn early(
        &self,
        table: MutexGuard<'_, Table>,
        key: &RevisionKey,
        now: Timestamp,
        ready: i32,
        stat: early::Stat,
    ) -> Recorded {
        let Some(on_early) = self.shared.on_early.get().filter(|_| self.shared.compat.keep_early_stats) else {
            return self.unknown();
        };
        let mut table = table;
        if !table.early.awaits(key, now) {
            // Never called with the table locked.
            drop(table);
            if !on_early(key) {
                return self.unknown();
            }
            table = self.lock();
        }
        if !table.early.keep(key, now, stat) {
            self.shared.counters.early_dropped.fetch_add(1, Ordering::Relaxed);
            return self.unknown();
        }
        self.shared.counters.early_kept.fetch_add(1, Ordering::Relaxed);
        // They may have been made meanwhile.
        let changed = self.take_in_early(&mut table, key, now, ready);
        drop(table);
        if changed {
            (self.shared.on_change)(key, Lane::Urgent);
        }
        Recorded::Kept
    }

    /// Records what was kept of a revision, if it has windows and a decider by now, and says whether others must hear
    /// of the decision that followed.
    fn take_in_early(&self, table: &mut Table, key: &RevisionKey, now: Timestamp, ready: i32) -> bool {
        let whole = |entry: &Entry| entry.revision.windows().is_some() && entry.revision.decider().is_some();
        if !table.revisions.get(key).is_some_and(whole) {
            return false;
        }
        let mut changed = false;
        for early::Stat { at, load } in table.early.take(key, now) {
            changed |= self.apply(table, key, now, Event::Reported { at, load, ready }).changed;
        }
        changed
    }

    fn remove(&self, key: &RevisionKey, event: Event, has: impl Fn(&Revision) -> bool) {
        let mut table = self.lock();
        let now = self.shared.clock.now();
        if table.revisions.get(key).is_some_and(|entry| has(&entry.revision)) {
            self.apply(&mut table, key, now, event);
        }
        if table.revisions.get(key).is_some_and(|entry| entry.revision.is_empty()) {
            table.revisions.remove(key);
        }
    }

    fn entry<'a>(&self, table: &'a mut Table, key: &RevisionKey) -> &'a mut Entry {
        self.entry_in(table, key, || None)
    }

    /// The entry of a revision; followers are told of a new one in the state that `state` writes.
    fn entry_in<'a>(
        &self,
        table: &'a mut Table,
        key: &RevisionKey,
        state: impl Fn() -> Option<RevisionForm>,
    ) -> &'a mut Entry {
        let Table { revisions, number, log, .. } = table;
        revisions.entry(key.clone()).or_insert_with(|| {
            let bucket = self.shared.ring.owner(key.as_str());
            *number = number.wrapping_add(1);
            let behind = log.begin(bucket, *number, key, state);
            self.shared.counters.behind.fetch_add(behind, Ordering::Relaxed);
            Entry { revision: Revision::default(), bucket, number: *number, life: 0 }
        })
    }

    fn unknown(&self) -> Recorded {
        self.shared.counters.unknown_revision.fetch_add(1, Ordering::Relaxed);
        Recorded::UnknownRevision
    }

    fn buckets(&self) -> usize {
        self.shared.ring.names().len()
    }

    fn clock(&self) -> &Clock {
        &self.shared.clock
    }

    /// The states of some revisions and the time they were taken at, as `then` sees them while nothing changes. One that
    /// went and came back meanwhile has another number and begins with its inputs.
    fn with_states<T>(
        &self,
        names: &[Numbered],
        then: impl FnOnce(Timestamp, Vec<(Numbered, RevisionForm)>) -> T,
    ) -> T {
        let table = self.lock();
        let known = names.iter().filter_map(|name| {
            let entry = table.revisions.get(&name.key).filter(|entry| entry.number == name.number)?;
            Some((name.clone(), entry.revision.write()))
        });
        then(self.shared.clock.now(), known.collect())
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.shared.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
