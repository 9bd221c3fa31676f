//! Who may go on, and who waits: a bounded line, and the concurrency limit built on it.
//!
//! First come, first served. Whoever stops waiting leaves no trace; a place handed to somebody who has just stopped
//! waiting goes to the next.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;

/// The line is full: this request must be refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("pending request queue full")]
pub struct QueueFull;

/// People waiting for a `T`, in the order they came, no more than `depth` of them.
///
/// It lives inside its owner's lock; what is handed over is sent after the lock is released.
#[derive(Debug)]
pub(crate) struct Line<T> {
    depth: usize,
    next: u64,
    waiting: BTreeMap<u64, oneshot::Sender<T>>,
}

impl<T> Line<T> {
    pub(crate) fn new(depth: usize) -> Self {
        Self { depth, next: 0, waiting: BTreeMap::new() }
    }

    /// A number for somebody who has just come: later ones come after.
    pub(crate) fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Whether whoever comes now must be refused.
    pub(crate) fn is_full(&self) -> bool {
        self.waiting.len() >= self.depth
    }

    /// Takes the place of `number`, before all who came later; where the `T` will arrive.
    pub(crate) fn join(&mut self, number: u64) -> oneshot::Receiver<T> {
        let (sender, receiver) = oneshot::channel();
        self.waiting.insert(number, sender);
        receiver
    }

    /// Gives up place `number`; nothing when it was served.
    pub(crate) fn leave(&mut self, number: u64) {
        self.waiting.remove(&number);
    }

    /// Takes out whoever came first.
    pub(crate) fn first(&mut self) -> Option<oneshot::Sender<T>> {
        self.waiting.pop_first().map(|(_, sender)| sender)
    }

    /// Sends everybody away.
    pub(crate) fn clear(&mut self) {
        self.waiting.clear();
    }

    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }
}

/// A concurrency limit with a waiting line: Knative's breaker. Cheap to clone; all clones are one limit.
#[derive(Clone)]
pub struct Limit {
    state: Arc<Mutex<State>>,
}

struct State {
    capacity: usize,
    in_flight: usize,
    line: Line<Permit>,
}

/// Leave to go on. Gives its place to the next when dropped.
pub struct Permit {
    limit: Limit,
}

impl Limit {
    /// At most `capacity` at once (0 is no limit) and at most `depth` waiting.
    pub fn new(capacity: usize, depth: usize) -> Self {
        Self { state: Arc::new(Mutex::new(State { capacity, in_flight: 0, line: Line::new(depth) })) }
    }

    /// The limit of a queue-proxy: as many as the container takes, and ten times as many waiting, which gives the
    /// autoscaler time to act.
    pub fn of_container(concurrency: usize) -> Self {
        Self::new(concurrency, concurrency.saturating_mul(10))
    }

    /// Waits for leave to go on. Dropping the future gives up the place.
    pub async fn acquire(&self) -> Result<Permit, QueueFull> {
        let (number, receiver) = {
            let mut state = self.lock();
            if state.has_room() && state.line.len() == 0 {
                state.in_flight += 1;
                return Ok(Permit { limit: self.clone() });
            }
            if state.line.is_full() {
                return Err(QueueFull);
            }
            let number = state.line.number();
            (number, state.line.join(number))
        };
        let _leaving = Leaving { limit: self, number };
        // The sender is only dropped by `Leaving`, which this future outlives.
        receiver.await.map_err(|_| QueueFull)
    }

    /// Changes the capacity. Growing lets waiting ones go on at once; shrinking waits for those in flight to finish.
    pub fn set_capacity(&self, capacity: usize) {
        self.lock().capacity = capacity;
        self.hand_out();
    }

    /// How many are going on.
    pub fn in_flight(&self) -> usize {
        self.lock().in_flight
    }

    /// How many are waiting.
    pub fn queued(&self) -> usize {
        self.lock().line.len()
    }

    fn hand_out(&self) {
        loop {
            let sender = {
                let mut state = self.lock();
                if !state.has_room() {
                    return;
                }
                let Some(sender) = state.line.first() else { return };
                state.in_flight += 1;
                sender
            };
            // Outside the lock: a permit that nobody takes is dropped here, and its place handed on.
            drop(sender.send(Permit { limit: self.clone() }));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn has_room(&self) -> bool {
        self.capacity == 0 || self.in_flight < self.capacity
    }
}

impl fmt::Debug for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        f.debug_struct("Limit")
            .field("capacity", &state.capacity)
            .field("in_flight", &state.in_flight)
            .field("queued", &state.line.len())
            .finish()
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Permit")
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.limit.lock().in_flight -= 1;
        self.limit.hand_out();
    }
}

struct Leaving<'a> {
    limit: &'a Limit,
    number: u64,
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.limit.lock().line.leave(self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;
    use proptest::prelude::*;
    use std::collections::VecDeque;
    use std::future::Future;
    use std::pin::Pin;

    #[test]
    fn beyond_the_limit_they_wait_in_order_and_beyond_the_line_they_are_refused() {
        let limit = Limit::new(1, 2);
        let first = limit.acquire().now_or_never().expect("room").expect("room");
        let mut second = Box::pin(limit.acquire());
        let mut third = Box::pin(limit.acquire());
        assert!(second.as_mut().now_or_never().is_none());
        assert!(third.as_mut().now_or_never().is_none());
        assert_eq!(limit.acquire().now_or_never().expect("an answer at once").unwrap_err(), QueueFull);
        assert_eq!((limit.in_flight(), limit.queued()), (1, 2));
        drop(first);
        assert!(third.as_mut().now_or_never().is_none(), "the second comes first");
        let second = second.now_or_never().expect("its turn").expect("its turn");
        drop(second);
        drop(third.now_or_never().expect("its turn"));
        assert_eq!((limit.in_flight(), limit.queued()), (0, 0));
    }

    #[test]
    fn no_limit_never_makes_anybody_wait() {
        let limit = Limit::of_container(0);
        let all: Vec<_> = (0..1000).map(|_| limit.acquire().now_or_never().expect("room").expect("room")).collect();
        assert_eq!(limit.in_flight(), all.len());
    }

    #[test]
    fn who_leaves_just_when_served_passes_the_place_on() {
        let limit = Limit::new(1, 10);
        let first = limit.acquire().now_or_never().expect("room").expect("room");
        let mut second = Box::pin(limit.acquire());
        let mut third = Box::pin(limit.acquire());
        assert!(second.as_mut().now_or_never().is_none());
        assert!(third.as_mut().now_or_never().is_none());
        drop(first);
        // The permit is on its way to the second, which never looks.
        drop(second);
        assert!(third.now_or_never().expect("its turn").is_ok());
        assert_eq!((limit.in_flight(), limit.queued()), (0, 0));
    }

    type Waiting<'a> = Pin<Box<dyn Future<Output = Result<Permit, QueueFull>> + 'a>>;

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Come,
        Finish(usize),
        GiveUp(usize),
        Resize(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            3 => Just(Step::Come),
            2 => (0..8usize).prop_map(Step::Finish),
            1 => (0..8usize).prop_map(Step::GiveUp),
            1 => (0..5usize).prop_map(Step::Resize),
        ];
        proptest::collection::vec(step, 0..80)
    }

    proptest! {
        /// After every step the limit holds, nobody waits while there is room, and the earliest are served first.
        #[test]
        fn the_limit_holds_and_nobody_overtakes(steps in steps(), start in 0..4usize, depth in 0..6usize) {
            let limit = Limit::new(start, depth);
            let mut capacity = start;
            let mut going: Vec<(u32, Permit)> = Vec::new();
            let mut waiting: VecDeque<(u32, Waiting<'_>)> = VecDeque::new();
            let mut number = 0;
            for step in steps {
                match step {
                    Step::Come => {
                        number += 1;
                        let mut waiter: Waiting<'_> = Box::pin(limit.acquire());
                        match waiter.as_mut().now_or_never() {
                            Some(Ok(permit)) => {
                                prop_assert!(waiting.is_empty());
                                going.push((number, permit));
                            }
                            Some(Err(QueueFull)) => prop_assert!(waiting.len() >= depth),
                            None => waiting.push_back((number, waiter)),
                        }
                    }
                    Step::Finish(at) if at < going.len() => drop(going.swap_remove(at)),
                    Step::GiveUp(at) if at < waiting.len() => drop(waiting.remove(at)),
                    Step::Resize(to) => {
                        capacity = to;
                        limit.set_capacity(to);
                    }
                    Step::Finish(_) | Step::GiveUp(_) => {}
                }
                let mut overtaken = false;
                let mut still = VecDeque::new();
                for (who, mut waiter) in waiting.drain(..) {
                    if let Some(permit) = waiter.as_mut().now_or_never() {
                        prop_assert!(!overtaken, "{who} overtook");
                        going.push((who, permit.expect("a place")));
                    } else {
                        overtaken = true;
                        still.push_back((who, waiter));
                    }
                }
                waiting = still;
                prop_assert_eq!(limit.in_flight(), going.len());
                prop_assert_eq!(limit.queued(), waiting.len());
                if !waiting.is_empty() {
                    prop_assert!(capacity != 0 && going.len() >= capacity, "somebody waits beside a free place");
                }
            }
            drop(waiting);
            drop(going);
            prop_assert_eq!((limit.in_flight(), limit.queued()), (0, 0));
        }
    }
}
