//! A work queue of keys with three lanes: the two that Knative's controllers have, and one for what cannot wait.
//!
//! A key waiting twice is worked once; a key being worked waits for its turn to end; a key that fails comes back
//! after an exponential back-off of its own, never faster than a bucket shared by all failures allows. The slow lane,
//! used when everything is looked at again, is served when the fast lane is empty.
//!
//! The urgent lane is for a first request at zero and for more pods. It is served first, and by workers of its own: a
//! thousand slow looks at everything do not keep one request waiting.

use crate::clock::Clock;
use crate::k8s::pace::{back_off, jittered};
use crate::observe::metrics::knative::{KUBERNETES_SCOPE, SCOPE_LABELS, SECONDS};
use crate::observe::metrics::{Histogram, Page, Source, count, latencies};
use crate::units::{Compat, RevisionKey, Span, Timestamp};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// First back-off of a failing key.
const BACK_OFF_FIRST: Span = Span::from_millis(5);
/// Longest back-off of a failing key.
const BACK_OFF_MOST: Span = Span::from_seconds(1000);
/// Retries of all keys together: this many at once …
const RETRY_BURST: i64 = 100;
/// … and one more each of these.
const RETRY_EVERY: Span = Span::from_millis(100);
/// First back-off of a key that found the API server unavailable …
const AWAY_FIRST: Span = Span::from_millis(200);
/// … and the longest, so that a long outage is over soon after it is over.
const AWAY_MOST: Span = Span::from_seconds(10);

/// Upper bounds of the reconcile times under their older name; in milliseconds.
const RECONCILE_MILLIS: [f64; 6] = [10.0, 100.0, 1_000.0, 10_000.0, 30_000.0, 60_000.0];

/// Which lane a key waits in, the one served first being the least.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Lane {
    /// Requests wait for it.
    Urgent,
    /// A change to one object.
    Fast,
    /// A look at everything.
    Slow,
}

impl Lane {
    /// All of them, the one served first at the front.
    pub const ALL: [Self; 3] = [Self::Urgent, Self::Fast, Self::Slow];

    /// A name for labels.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Urgent => "urgent",
            Self::Fast => "fast",
            Self::Slow => "slow",
        }
    }
}

/// Keys worked at once. A turn mostly waits for the API server, so these cost little; what they bound is memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Workers {
    /// Of the urgent lane.
    pub urgent: usize,
    /// Of the other two.
    pub routine: usize,
}

impl Workers {
    /// So many of each.
    pub const fn each(count: usize) -> Self {
        Self { urgent: count, routine: count }
    }
}

/// How the work on a key ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Turn {
    /// Nothing more to do until something changes.
    Done,
    /// To be tried again after a back-off.
    Retry,
    /// The API server could not be asked: to be tried again within seconds, however often that was so.
    Unavailable,
}

impl Turn {
    /// A name for labels, in the order of declaration.
    const NAMES: [&'static str; 3] = ["done", "retry", "unavailable"];
}

/// The queue. Cheap to clone; all clones are one queue.
#[derive(Clone, Debug)]
pub struct Queue {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    clock: Clock,
    state: Mutex<State>,
    /// For the one that hands out keys.
    changed: Notify,
    /// For turns that would rather end early than keep an urgent look waiting.
    urged: Notify,
    /// How long keys waited in each lane, retries from the end of their back-off.
    waited: [Histogram; Lane::ALL.len()],
    /// Turns by how they ended, in the order of [`Turn::NAMES`].
    turns: [AtomicU64; Turn::NAMES.len()],
    /// Keys put in a lane; one that waits already is not put there again.
    added: AtomicU64,
    /// How long keys waited in any lane, and how long turns took, as the reference's dashboards have it.
    queued: Histogram,
    worked: Histogram,
    /// How long turns took that ended well, and those that did not; in milliseconds.
    millis: [Histogram; 2],
}

#[derive(Debug, Default)]
struct State {
    /// By lane and order of arrival.
    lanes: BTreeMap<(Lane, u64), RevisionKey>,
    next: u64,
    /// Keys in a lane, and keys to be put in one when their present turn ends.
    waiting: HashMap<RevisionKey, Place>,
    /// The lane each key under way was taken from, and when.
    working: HashMap<RevisionKey, (Lane, Timestamp)>,
    urgent_turns: usize,
    routine_turns: usize,
    delayed: BinaryHeap<Reverse<(Timestamp, RevisionKey)>>,
    /// The earliest time in `delayed` of each key; later ones are void.
    due: HashMap<RevisionKey, Timestamp>,
    failures: HashMap<RevisionKey, u32>,
    /// When the shared bucket of retries is next empty-handed no more.
    retry_slot: Timestamp,
}

/// Where a key waits, and since when.
#[derive(Clone, Copy, Debug)]
struct Place {
    lane: Lane,
    order: u64,
    since: Timestamp,
}

impl Queue {
    /// An empty queue.
    pub fn new(clock: Clock) -> Self {
        let shared = Shared {
            clock,
            state: Mutex::default(),
            changed: Notify::new(),
            urged: Notify::new(),
            waited: Lane::ALL.map(|_| latencies()),
            turns: Turn::NAMES.map(|_| AtomicU64::new(0)),
            added: AtomicU64::new(0),
            queued: Histogram::new(SECONDS),
            worked: Histogram::new(SECONDS),
            millis: [(), ()].map(|()| Histogram::new(RECONCILE_MILLIS)),
        };
        Self { shared: Arc::new(shared) }
    }

    /// The key is to be looked at. One that waits in a lane served later moves to this one.
    pub fn add(&self, key: RevisionKey, lane: Lane) {
        let now = self.shared.clock.now();
        self.lock().add(key, lane, now);
        self.shared.added.fetch_add(1, Ordering::Relaxed);
        if lane == Lane::Urgent {
            self.shared.urged.notify_waiters();
        }
        self.shared.changed.notify_one();
    }

    /// The key is to be looked at after `delay`; of several delays the earliest counts.
    pub fn add_after(&self, key: RevisionKey, delay: Span) {
        let at = self.shared.clock.now() + delay;
        let mut state = self.lock();
        if state.due.get(&key).is_none_or(|due| at < *due) {
            state.due.insert(key.clone(), at);
            state.delayed.push(Reverse((at, key)));
        }
        drop(state);
        self.shared.changed.notify_one();
    }

    /// Keys waiting in a lane.
    pub fn depth(&self, lane: Lane) -> usize {
        self.lock().lanes.range((lane, 0)..=(lane, u64::MAX)).count()
    }

    /// Ends when an urgent look at `key` waits for the present turn to end. For turns that wait for something less
    /// important.
    pub async fn urged(&self, key: &RevisionKey) {
        loop {
            let mut urged = std::pin::pin!(self.shared.urged.notified());
            // From here on nothing is missed.
            urged.as_mut().enable();
            if self.lock().waiting.get(key).is_some_and(|place| place.lane == Lane::Urgent) {
                return;
            }
            urged.await;
        }
    }

    /// Works the keys until `cancel`; then the turns under way are finished. `work` answers whether the key is done
    /// with or must be retried.
    pub async fn run<F, Fut>(&self, workers: Workers, cancel: CancellationToken, work: F)
    where
        F: Fn(RevisionKey) -> Fut,
        Fut: Future<Output = Turn> + Send + 'static,
    {
        let turns = TaskTracker::new();
        loop {
            let key = tokio::select! {
                // Asked to stop, it begins nothing more, even if there is something to begin.
                biased;
                () = cancel.cancelled() => break,
                key = self.next(workers) => key,
            };
            // Freed even if the turn panics: neither the key nor the worker may be lost for ever.
            let mut end = EndOfTurn { queue: self.clone(), key: key.clone(), outcome: Turn::Retry };
            let turn = work(key);
            turns.spawn(async move {
                end.outcome = turn.await;
                drop(end);
            });
        }
        turns.close();
        turns.wait().await;
    }

    async fn next(&self, workers: Workers) -> RevisionKey {
        loop {
            let changed = self.shared.changed.notified();
            let wait_until = {
                let now = self.shared.clock.now();
                let mut state = self.lock();
                state.release_due(now);
                if let Some((key, place)) = state.pop(workers, now) {
                    drop(state);
                    let waited = now.since(place.since).seconds_f64().max(0.0);
                    self.shared.waited[place.lane as usize].observe(waited);
                    self.shared.queued.observe(waited);
                    return key;
                }
                state.delayed.peek().map(|Reverse((at, _))| *at)
            };
            match wait_until {
                Some(at) => {
                    tokio::select! {
                        () = changed => {}
                        () = tokio::time::sleep_until(self.shared.clock.instant(at)) => {}
                    }
                }
                None => changed.await,
            }
        }
    }

    fn end_turn(&self, key: &RevisionKey, outcome: Turn) {
        self.shared.turns[outcome as usize].fetch_add(1, Ordering::Relaxed);
        let now = self.shared.clock.now();
        let mut state = self.lock();
        if let Some((lane, since)) = state.working.remove(key) {
            match lane {
                Lane::Urgent => state.urgent_turns -= 1,
                Lane::Fast | Lane::Slow => state.routine_turns -= 1,
            }
            let took = now.since(since).seconds_f64().max(0.0);
            self.shared.worked.observe(took);
            self.shared.millis[usize::from(outcome != Turn::Done)].observe(took * 1e3);
        }
        if let Some(place) = state.waiting.remove(key) {
            state.add(key.clone(), place.lane, place.since);
        }
        let retry_after = match outcome {
            Turn::Done => {
                state.failures.remove(key);
                None
            }
            Turn::Retry => Some(state.back_off(key, now)),
            Turn::Unavailable => Some(state.back_off_unavailable(key)),
        };
        drop(state);
        if let Some(delay) = retry_after {
            self.add_after(key.clone(), delay);
        }
        self.shared.changed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The queues of a process, by the name of the controller that works each.
#[derive(Clone, Debug)]
pub struct Queues(pub Vec<(&'static str, Queue)>);

impl Source for Queues {
    fn show(&self, page: &mut Page<'_>) {
        page.gauges(
            "ebb_queue_depth",
            "Objects that wait for a look, by controller and by how soon they get it.",
            ["queue", "lane"],
            self.0.iter().flat_map(|(name, queue)| Lane::ALL.map(|lane| ([*name, lane.name()], queue.depth(lane)))),
        );
        page.histograms(
            "ebb_queue_wait_seconds",
            "How long objects waited for a look, by controller and by how soon they should get it.",
            ["queue", "lane"],
            self.0.iter().flat_map(|(name, queue)| {
                Lane::ALL.map(|lane| ([*name, lane.name()], &queue.shared.waited[lane as usize]))
            }),
        );
        page.counters(
            "ebb_reconciles_total",
            "Looks at an object, by controller and by how they ended.",
            ["queue", "outcome"],
            self.0.iter().flat_map(|(name, queue)| {
                Turn::NAMES.iter().zip(&queue.shared.turns).map(|(outcome, turns)| ([*name, *outcome], count(turns)))
            }),
        );
    }
}

/// The same queues under the names of the reference, by what it calls each.
#[derive(Clone, Debug)]
pub struct KnativeQueues {
    /// The queues.
    pub queues: Vec<(&'static str, Queue)>,
    /// Whether to show the names up to 1.18 too.
    pub older: bool,
    /// Where to differ from the reference.
    pub compat: Compat,
}

/// How long the turns under way have taken.
struct UnderWay {
    all: f64,
    longest: f64,
}

impl Queue {
    fn under_way(&self) -> UnderWay {
        let now = self.shared.clock.now();
        let state = self.lock();
        let took = |(_, since): &(Lane, Timestamp)| now.since(*since).seconds_f64().max(0.0);
        let took = state.working.values().map(took);
        took.fold(UnderWay { all: 0.0, longest: 0.0 }, |so_far, one| UnderWay {
            all: so_far.all + one,
            longest: so_far.longest.max(one),
        })
    }

    fn whole_depth(&self) -> usize {
        self.lock().lanes.len()
    }

    fn retries(&self) -> u64 {
        count(&self.shared.turns[Turn::Retry as usize]) + count(&self.shared.turns[Turn::Unavailable as usize])
    }
}

impl Source for KnativeQueues {
    fn show(&self, page: &mut Page<'_>) {
        let [name, schema, version] = SCOPE_LABELS;
        let labels = ["name", name, schema, version];
        let scoped = |queue: &'static str| [queue, KUBERNETES_SCOPE, "", ""];
        let each = || self.queues.iter().map(|(name, queue)| (scoped(name), queue));
        let told = |what: &str| format!("{what}, by controller.");
        page.gauges(
            "kn_workqueue_depth",
            &told("Objects that wait for a look"),
            labels,
            each().map(|(of, queue)| (of, queue.whole_depth())),
        );
        page.counters(
            "kn_workqueue_adds_total",
            &told("Times an object was to be looked at"),
            labels,
            each().map(|(of, queue)| (of, count(&queue.shared.added))),
        );
        page.counters(
            "kn_workqueue_retries_total",
            &told("Looks that are repeated because they failed"),
            labels,
            each().map(|(of, queue)| (of, queue.retries())),
        );
        page.histograms(
            "kn_workqueue_queue_duration_seconds",
            &told("How long objects waited for a look"),
            labels,
            each().map(|(of, queue)| (of, &queue.shared.queued)),
        );
        page.histograms(
            "kn_workqueue_process_duration_seconds",
            &told("How long looks took"),
            labels,
            each().map(|(of, queue)| (of, &queue.shared.worked)),
        );
        // The reference puts the longest where the sum belongs, and never shows the longest.
        let live = self.compat.live_metric_gauges;
        page.gauges(
            "kn_workqueue_unfinished_work_seconds",
            &told("How long the looks under way have taken, together"),
            labels,
            each().map(|(of, queue)| {
                let under_way = queue.under_way();
                (of, if live { under_way.all } else { under_way.longest })
            }),
        );
        if live {
            page.gauges(
                "kn_workqueue_longest_running_processor_seconds",
                &told("How long the longest look under way has taken"),
                labels,
                each().map(|(of, queue)| (of, queue.under_way().longest)),
            );
        }
        if self.older {
            self.show_older(page);
        }
    }
}

impl KnativeQueues {
    fn show_older(&self, page: &mut Page<'_>) {
        let each = || self.queues.iter().map(|(name, queue)| ([*name], queue));
        let told = |what: &str| format!("{what}, by controller.");
        page.gauges(
            "autoscaler_work_queue_depth",
            &told("Objects that wait for a look"),
            ["reconciler"],
            each().map(|(of, queue)| (of, queue.whole_depth())),
        );
        let outcomes = |queue: &Queue| {
            let done = count(&queue.shared.turns[Turn::Done as usize]);
            [("true", done), ("false", queue.retries())]
        };
        // A counter whose name has no suffix, which this exposition would add.
        page.gauges(
            "autoscaler_reconcile_count",
            &told("Looks, by whether they succeeded"),
            ["reconciler", "success"],
            each().flat_map(|([of], queue)| outcomes(queue).map(|(success, count)| ([of, success], count))),
        );
        page.histograms(
            "autoscaler_reconcile_latency",
            &told("How long looks took, in milliseconds, by whether they succeeded"),
            ["reconciler", "success"],
            each().flat_map(|([of], queue)| {
                let [done, failed] = &queue.shared.millis;
                [([of, "true"], done), ([of, "false"], failed)]
            }),
        );
        page.gauges(
            "autoscaler_workqueue_depth",
            &told("Objects that wait for a look"),
            ["name"],
            each().map(|(of, queue)| (of, queue.whole_depth())),
        );
        page.counters(
            "autoscaler_workqueue_adds_total",
            &told("Times an object was to be looked at"),
            ["name"],
            each().map(|(of, queue)| (of, count(&queue.shared.added))),
        );
        page.counters(
            "autoscaler_workqueue_retries_total",
            &told("Looks that are repeated because they failed"),
            ["name"],
            each().map(|(of, queue)| (of, queue.retries())),
        );
        page.histograms(
            "autoscaler_workqueue_queue_latency_seconds",
            &told("How long objects waited for a look"),
            ["name"],
            each().map(|(of, queue)| (of, &queue.shared.queued)),
        );
        page.histograms(
            "autoscaler_workqueue_work_duration_seconds",
            &told("How long looks took"),
            ["name"],
            each().map(|(of, queue)| (of, &queue.shared.worked)),
        );
    }
}

struct EndOfTurn {
    queue: Queue,
    key: RevisionKey,
    outcome: Turn,
}

impl Drop for EndOfTurn {
    fn drop(&mut self) {
        self.queue.end_turn(&self.key, self.outcome);
    }
}

impl State {
    fn add(&mut self, key: RevisionKey, lane: Lane, mut since: Timestamp) {
        match self.waiting.get(&key) {
            Some(place) if place.lane <= lane => return,
            // What is more urgent overtakes.
            Some(place) => {
                since = since.min(place.since);
                self.lanes.remove(&(place.lane, place.order));
            }
            None => {}
        }
        self.next += 1;
        self.waiting.insert(key.clone(), Place { lane, order: self.next, since });
        if !self.working.contains_key(&key) {
            self.lanes.insert((lane, self.next), key);
        }
    }

    fn pop(&mut self, workers: Workers, now: Timestamp) -> Option<(RevisionKey, Place)> {
        let urgent_free = self.urgent_turns < workers.urgent;
        let routine_free = self.routine_turns < workers.routine;
        let from = if urgent_free { Lane::Urgent } else { Lane::Fast };
        let to = if routine_free { Lane::Slow } else { Lane::Urgent };
        if to < from {
            return None;
        }
        let (place, key) = self.lanes.range((from, 0)..=(to, u64::MAX)).next()?;
        let (place, key) = (*place, key.clone());
        self.lanes.remove(&place);
        let place = self.waiting.remove(&key)?;
        match place.lane {
            Lane::Urgent => self.urgent_turns += 1,
            Lane::Fast | Lane::Slow => self.routine_turns += 1,
        }
        self.working.insert(key.clone(), (place.lane, now));
        Some((key, place))
    }

    fn release_due(&mut self, now: Timestamp) {
        while let Some(Reverse((at, _))) = self.delayed.peek() {
            if *at > now {
                return;
            }
            let Some(Reverse((at, key))) = self.delayed.pop() else { return };
            if self.due.get(&key) == Some(&at) {
                self.due.remove(&key);
                self.add(key, Lane::Fast, at);
            }
        }
    }

    /// How long the key waits after one more failure: its own exponential back-off or its place in the shared bucket,
    /// whichever is longer.
    fn back_off(&mut self, key: &RevisionKey, now: Timestamp) -> Span {
        let own = back_off(BACK_OFF_FIRST, BACK_OFF_MOST, self.one_more_failure(key));
        let full = now - Span::from_nanos(RETRY_EVERY.nanos() * (RETRY_BURST - 1));
        self.retry_slot = self.retry_slot.max(full) + RETRY_EVERY;
        let shared = self.retry_slot.since(now + RETRY_EVERY);
        own.max(shared)
    }

    /// The same for a key that found the API server unavailable. How fast it is asked again is the gate's to say.
    fn back_off_unavailable(&mut self, key: &RevisionKey) -> Span {
        jittered(back_off(AWAY_FIRST, AWAY_MOST, self.one_more_failure(key)), 0.5, 1.0)
    }

    /// How often the key had failed before this time.
    fn one_more_failure(&mut self, key: &RevisionKey) -> u32 {
        let failures = self.failures.entry(key.clone()).or_insert(0);
        *failures = failures.saturating_add(1);
        *failures - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::metrics::{Format, Registry};
    use crate::units::Compat;

    fn key(name: &str) -> RevisionKey {
        RevisionKey::new("default", name)
    }

    const ONE: Workers = Workers::each(1);

    fn queue() -> Queue {
        Queue::new(Clock::starting_at(Timestamp::from_seconds(1_000)))
    }

    /// The keys in the order they are worked, each turn taking `millis`.
    async fn worked(queue: &Queue, workers: Workers, for_millis: u64, millis: u64) -> Vec<String> {
        let order = Arc::new(Mutex::new(Vec::new()));
        let cancel = CancellationToken::new();
        let stop = cancel.clone();
        let seen = Arc::clone(&order);
        let run = queue.run(workers, cancel, move |key| {
            let seen = Arc::clone(&seen);
            async move {
                seen.lock().expect("no panic above").push(key.name().to_owned());
                tokio::time::sleep(std::time::Duration::from_millis(millis)).await;
                Turn::Done
            }
        });
        tokio::join!(run, async {
            tokio::time::sleep(std::time::Duration::from_millis(for_millis)).await;
            stop.cancel();
        });
        order.lock().expect("no panic above").clone()
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_waiting_twice_is_worked_once_and_the_fast_lane_goes_first() {
        let queue = queue();
        queue.add(key("everything-1"), Lane::Slow);
        queue.add(key("everything-2"), Lane::Slow);
        queue.add(key("change"), Lane::Fast);
        queue.add(key("change"), Lane::Fast);
        queue.add(key("everything-2"), Lane::Fast);
        assert_eq!(worked(&queue, ONE, 100, 1).await, ["change", "everything-2", "everything-1"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_added_during_its_turn_is_worked_again_afterwards_never_at_the_same_time() {
        let queue = queue();
        queue.add(key("a"), Lane::Fast);
        let adds = queue.clone();
        let (order, ()) = tokio::join!(worked(&queue, Workers::each(4), 100, 10), async move {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            adds.add(key("a"), Lane::Fast);
            adds.add(key("a"), Lane::Fast);
        });
        assert_eq!(order, ["a", "a"]);
    }

    #[tokio::test(start_paused = true)]
    async fn waits_and_ends_are_counted() {
        let queue = queue();
        queue.add(key("first"), Lane::Fast);
        queue.add(key("second"), Lane::Fast);
        // One worker, turns of 10 ms: the second waits for the first.
        worked(&queue, ONE, 100, 10).await;
        let registry = Registry::new(Compat::IMPROVED);
        registry.register(Queues(vec![("q", queue)]));
        let text = registry.exposition(Format::Prometheus);
        for line in [
            "ebb_queue_wait_seconds_count{queue=\"q\",lane=\"fast\"} 2",
            "ebb_queue_wait_seconds_bucket{le=\"0.001\",queue=\"q\",lane=\"fast\"} 1",
            "ebb_queue_wait_seconds_bucket{le=\"0.025\",queue=\"q\",lane=\"fast\"} 2",
            "ebb_queue_wait_seconds_count{queue=\"q\",lane=\"slow\"} 0",
            "ebb_reconciles_total{queue=\"q\",outcome=\"done\"} 2",
            "ebb_reconciles_total{queue=\"q\",outcome=\"retry\"} 0",
        ] {
            assert!(text.lines().any(|shown| shown == line), "no {line} in:\n{text}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn of_several_delays_the_earliest_counts() {
        let queue = queue();
        queue.add_after(key("late"), Span::from_millis(90));
        queue.add_after(key("late"), Span::from_millis(20));
        queue.add_after(key("late"), Span::from_millis(50));
        queue.add_after(key("soon"), Span::from_millis(10));
        assert_eq!(worked(&queue, ONE, 200, 0).await, ["soon", "late"]);
    }

    #[test]
    fn back_off_doubles_and_the_bucket_slows_a_flood_of_failures() {
        let mut state = State::default();
        let now = Timestamp::from_seconds(1_000);
        let delays: Vec<i64> = (0..4).map(|_| state.back_off(&key("a"), now).nanos() / 1_000_000).collect();
        assert_eq!(delays, [5, 10, 20, 40]);
        let last = (0..150).map(|n| state.back_off(&key(&format!("k{n}")), now)).last();
        // 154 failures at once: 100 pass, the 154th waits 54 times 100 ms.
        assert_eq!(last, Some(Span::from_millis(5_400)));
        for _ in 0..40 {
            state.back_off(&key("a"), now);
        }
        assert!(state.back_off(&key("a"), Timestamp::from_seconds(9_000)) == BACK_OFF_MOST);
    }

    #[tokio::test(start_paused = true)]
    async fn an_urgent_key_waits_neither_behind_ten_thousand_others_nor_for_their_workers() {
        let queue = queue();
        for n in 0..10_000 {
            queue.add(key(&format!("routine-{n}")), if n % 2 == 0 { Lane::Fast } else { Lane::Slow });
        }
        let adds = queue.clone();
        // Each turn takes a minute: the two routine workers are busy when the urgent keys come.
        let (order, ()) = tokio::join!(worked(&queue, Workers { urgent: 1, routine: 2 }, 1_000, 60_000), async move {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            adds.add(key("routine-9999"), Lane::Urgent);
            adds.add(key("routine-9997"), Lane::Urgent);
        });
        assert_eq!(order, ["routine-0", "routine-2", "routine-9999"], "one urgent worker, two others");
        assert_eq!((queue.depth(Lane::Urgent), queue.depth(Lane::Fast), queue.depth(Lane::Slow)), (1, 4_998, 4_998));
    }

    #[tokio::test(start_paused = true)]
    async fn a_turn_learns_that_an_urgent_look_at_its_key_waits() {
        let queue = queue();
        queue.add(key("a"), Lane::Fast);
        let state = queue.clone();
        let cancel = CancellationToken::new();
        let stop = cancel.clone();
        let run = queue.run(ONE, cancel, |key| {
            let (state, stop) = (state.clone(), stop.clone());
            async move {
                if key.name() == "a" {
                    state.urged(&key).await;
                    stop.cancel();
                }
                Turn::Done
            }
        });
        let adds = queue.clone();
        tokio::join!(run, async move {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            adds.add(key("b"), Lane::Urgent);
            adds.add(key("a"), Lane::Fast);
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            adds.add(key("a"), Lane::Urgent);
        });
    }

    #[test]
    fn a_key_that_finds_nobody_at_home_comes_back_within_seconds_and_waits_for_no_bucket() {
        let mut state = State::default();
        for _ in 0..1_000 {
            assert!(state.back_off_unavailable(&key("a")) <= AWAY_MOST);
        }
        assert!(state.back_off_unavailable(&key("b")) <= AWAY_FIRST);
        assert_eq!(state.back_off(&key("c"), Timestamp::from_seconds(1_000)), BACK_OFF_FIRST);
    }
}
