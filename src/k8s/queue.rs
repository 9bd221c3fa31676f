//! A work queue of keys with two lanes, as Knative's controllers have.
//!
//! A key waiting twice is worked once; a key being worked waits for its turn to end; a key that fails comes back
//! after an exponential back-off of its own, never faster than a bucket shared by all failures allows. The slow lane,
//! used when everything is looked at again, is served when the fast lane is empty.

use crate::clock::Clock;
use crate::observe::metrics::{Page, Source};
use crate::units::{RevisionKey, Span, Timestamp};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, Semaphore};
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

/// Which lane a key waits in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lane {
    /// A change to one object.
    Fast,
    /// A look at everything.
    Slow,
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
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    fast: VecDeque<RevisionKey>,
    slow: VecDeque<RevisionKey>,
    /// Keys in a lane, and keys to be put in one when their present turn ends.
    waiting: HashMap<RevisionKey, Lane>,
    working: HashSet<RevisionKey>,
    delayed: BinaryHeap<Reverse<(Timestamp, RevisionKey)>>,
    /// The earliest time in `delayed` of each key; later ones are void.
    due: HashMap<RevisionKey, Timestamp>,
    failures: HashMap<RevisionKey, u32>,
    /// When the shared bucket of retries is next empty-handed no more.
    retry_slot: Timestamp,
}

impl Queue {
    /// An empty queue.
    pub fn new(clock: Clock) -> Self {
        Self { shared: Arc::new(Shared { clock, state: Mutex::default(), changed: Notify::new() }) }
    }

    /// The key is to be looked at.
    pub fn add(&self, key: RevisionKey, lane: Lane) {
        self.lock().add(key, lane);
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

    /// Keys waiting in the lanes.
    pub fn depth(&self) -> usize {
        let state = self.lock();
        state.fast.len() + state.slow.len()
    }

    /// Works the keys, at most `workers` at once, until `cancel`; then the turns under way are finished. `work`
    /// answers whether the key is done with or must be retried.
    pub async fn run<F, Fut>(&self, workers: usize, cancel: CancellationToken, work: F)
    where
        F: Fn(RevisionKey) -> Fut,
        Fut: Future<Output = Turn> + Send + 'static,
    {
        let turns = TaskTracker::new();
        let places = Arc::new(Semaphore::new(workers));
        loop {
            let place = tokio::select! {
                () = cancel.cancelled() => break,
                place = Arc::clone(&places).acquire_owned() => place.expect("the semaphore is never closed"),
            };
            let key = tokio::select! {
                () = cancel.cancelled() => break,
                key = self.next() => key,
            };
            let queue = self.clone();
            let turn = work(key.clone());
            turns.spawn(async move {
                // Freed even if the turn panics: the key must not stay locked for ever.
                let mut end = EndOfTurn { queue, key, outcome: Turn::Retry };
                end.outcome = turn.await;
                drop(end);
                drop(place);
            });
        }
        turns.close();
        turns.wait().await;
    }

    async fn next(&self) -> RevisionKey {
        loop {
            let changed = self.shared.changed.notified();
            let wait_until = {
                let mut state = self.lock();
                state.release_due(self.shared.clock.now());
                if let Some(key) = state.pop() {
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
        let now = self.shared.clock.now();
        let mut state = self.lock();
        state.working.remove(key);
        if let Some(lane) = state.waiting.remove(key) {
            state.add(key.clone(), lane);
        }
        let retry_after = match outcome {
            Turn::Done => {
                state.failures.remove(key);
                None
            }
            Turn::Retry => Some(state.back_off(key, now)),
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

/// How the work on a key ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Turn {
    /// Nothing more to do until something changes.
    Done,
    /// To be tried again after a back-off.
    Retry,
}

/// The queues of a process, by the name of the controller that works each.
#[derive(Clone, Debug)]
pub struct Queues(pub Vec<(&'static str, Queue)>);

impl Source for Queues {
    fn show(&self, page: &mut Page<'_>) {
        page.gauges(
            "ebb_queue_depth",
            "Objects that wait for a look, by controller.",
            ["queue"],
            self.0.iter().map(|(name, queue)| ([*name], queue.depth())),
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
    fn add(&mut self, key: RevisionKey, lane: Lane) {
        match (self.waiting.get(&key), lane) {
            // A single change overtakes a look at everything.
            (Some(Lane::Slow), Lane::Fast) => self.slow.retain(|waiting| *waiting != key),
            (Some(_), _) => return,
            (None, _) => {}
        }
        self.waiting.insert(key.clone(), lane);
        if !self.working.contains(&key) {
            match lane {
                Lane::Fast => self.fast.push_back(key),
                Lane::Slow => self.slow.push_back(key),
            }
        }
    }

    fn pop(&mut self) -> Option<RevisionKey> {
        let key = self.fast.pop_front().or_else(|| self.slow.pop_front())?;
        self.waiting.remove(&key);
        self.working.insert(key.clone());
        Some(key)
    }

    fn release_due(&mut self, now: Timestamp) {
        while let Some(Reverse((at, _))) = self.delayed.peek() {
            if *at > now {
                return;
            }
            let Some(Reverse((at, key))) = self.delayed.pop() else { return };
            if self.due.get(&key) == Some(&at) {
                self.due.remove(&key);
                self.add(key, Lane::Fast);
            }
        }
    }

    /// How long the key waits after one more failure: its own exponential back-off or its place in the shared bucket,
    /// whichever is longer.
    fn back_off(&mut self, key: &RevisionKey, now: Timestamp) -> Span {
        let failures = self.failures.entry(key.clone()).or_insert(0);
        let own = Span::from_nanos(BACK_OFF_FIRST.nanos().saturating_mul(1_i64 << (*failures).min(30)));
        *failures = failures.saturating_add(1);
        let full = now - Span::from_nanos(RETRY_EVERY.nanos() * (RETRY_BURST - 1));
        self.retry_slot = self.retry_slot.max(full) + RETRY_EVERY;
        let shared = self.retry_slot.since(now + RETRY_EVERY);
        own.min(BACK_OFF_MOST).max(shared)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> RevisionKey {
        RevisionKey::new("default", name)
    }

    fn queue() -> Queue {
        Queue::new(Clock::starting_at(Timestamp::from_seconds(1_000)))
    }

    /// The keys in the order they are worked, each turn taking `millis`.
    async fn worked(queue: &Queue, workers: usize, for_millis: u64, millis: u64) -> Vec<String> {
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
        assert_eq!(worked(&queue, 1, 100, 1).await, ["change", "everything-2", "everything-1"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_added_during_its_turn_is_worked_again_afterwards_never_at_the_same_time() {
        let queue = queue();
        queue.add(key("a"), Lane::Fast);
        let adds = queue.clone();
        let (order, ()) = tokio::join!(worked(&queue, 4, 100, 10), async move {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            adds.add(key("a"), Lane::Fast);
            adds.add(key("a"), Lane::Fast);
        });
        assert_eq!(order, ["a", "a"]);
    }

    #[tokio::test(start_paused = true)]
    async fn of_several_delays_the_earliest_counts() {
        let queue = queue();
        queue.add_after(key("late"), Span::from_millis(90));
        queue.add_after(key("late"), Span::from_millis(20));
        queue.add_after(key("late"), Span::from_millis(50));
        queue.add_after(key("soon"), Span::from_millis(10));
        assert_eq!(worked(&queue, 1, 200, 0).await, ["soon", "late"]);
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
}
