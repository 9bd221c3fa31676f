//! Every input of the running engines, for whoever wants to follow along: a standby, a journal.
//!
//! A [`Subscription`] to a bucket first gives the state of each of its revisions and then every [`Input`] after that
//! state, none missing and none twice. [`Deciders`] hands an input out within the call that applies it, so a follower
//! sees the order in which they acted.
//!
//! A number stands for a revision, from when it has windows or a decider until it has neither; one that comes back gets
//! another. So an input names its revision without sharing memory between those who make it and those who read it.
//!
//! Following never holds anybody up. Without a follower an input costs one look at an empty list; with one, a place in
//! a queue of [`MOST_WAITING`]. A follower that lets its queue run full is dropped from the list and counted; it learns
//! of that with its next look, and may subscribe again, which starts with fresh states. The states are copied a few at
//! a time, so that no stat waits for more than a few of them. Those of revisions that were taken over wait in the queue
//! too, up to [`MOST_BYTES`]: 10,000 windows of a minute are 13 MiB, of an hour 540.

use crate::deciders::Deciders;
use crate::engine::written::RevisionForm;
use crate::engine::{Decision, Input, Print};
use crate::units::{Numbered, RevisionKey, Timestamp};
use std::collections::HashSet;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::mpsc;

/// Followers of one bucket at once.
pub const MOST_FOLLOWERS: usize = 4;
/// Inputs that may wait for one follower: several seconds' worth of 10,000 revisions.
pub const MOST_WAITING: usize = 1 << 16;
/// Bytes of states that may wait for one follower.
pub const MOST_BYTES: usize = 64 << 20;
/// States copied at once, while nothing is recorded or decided: some 60 µs.
pub const STATES_AT_ONCE: usize = 64;

/// What is new to a follower.
#[derive(Clone, PartialEq, Debug)]
pub struct News {
    /// The time of this look. No input is later.
    pub now: Timestamp,
    /// States of revisions that were not told of yet, before any of their inputs.
    pub states: Vec<(Numbered, RevisionForm)>,
    /// Revisions that came since, with nothing yet or with the state in which another process left them; all their inputs
    /// after that are told.
    pub begun: Vec<(Numbered, Option<RevisionForm>)>,
    /// Inputs of revisions told of before, by their number, in the order they acted.
    pub inputs: Vec<(u32, Input)>,
    /// The decisions some of them led to, by the place of the input.
    pub decisions: Vec<(usize, Print)>,
    /// Whether every revision has been told of.
    pub complete: bool,
    /// Whether this is all there will ever be, because this process has let the bucket go.
    pub ended: bool,
}

impl News {
    fn nothing(now: Timestamp) -> Self {
        let (states, begun, inputs, decisions) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Self { now, states, begun, inputs, decisions, complete: false, ended: false }
    }

    /// Whether there is nothing to tell but that we are here.
    pub fn is_nothing(&self) -> bool {
        self.states.is_empty() && self.begun.is_empty() && self.inputs.is_empty() && !self.ended
    }
}

/// The follower was too slow and has missed inputs; a new subscription starts from fresh states.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("more than {MOST_WAITING} inputs or {MOST_BYTES} bytes of states were waiting, so some are missing")]
pub struct Behind;

/// A bucket's past and future; made by [`Deciders::follow`].
#[derive(Debug)]
pub struct Subscription {
    pub(super) deciders: Deciders,
    /// Revisions whose state was not told of yet.
    pub(super) pending: Vec<Numbered>,
    /// The numbers of those of them that were not told of at all.
    pub(super) waiting: HashSet<u32>,
    pub(super) queue: Arc<Queue>,
    /// Nothing comes here: that it is there says that somebody follows.
    pub(super) _here: mpsc::Receiver<Infallible>,
}

/// What waits for one follower. It is handed over whole, so an input costs neither side more than its place in a vector.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    begun: Vec<(Numbered, Option<RevisionForm>)>,
    /// Bytes of the states in `begun`.
    bytes: usize,
    inputs: Vec<(u32, Input)>,
    /// By the place of the input.
    decisions: Vec<(usize, Print)>,
    /// There were too many, so some are missing.
    behind: bool,
    /// The bucket was let go: this is all.
    ended: bool,
}

impl Waiting {
    /// Nothing of what waited is of use any more.
    fn fall_behind(&mut self) {
        *self = Self { behind: true, ..Self::default() };
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an input, unless there is no place.
    fn add(&self, number: u32, input: &Input, decision: Option<Print>) -> bool {
        let mut waiting = self.lock();
        if waiting.inputs.len() >= MOST_WAITING {
            waiting.fall_behind();
            return false;
        }
        let place = waiting.inputs.len();
        waiting.decisions.extend(decision.map(|decision| (place, decision)));
        waiting.inputs.push((number, input.clone()));
        true
    }

    /// Adds a revision, unless there is no place for its state.
    fn begin(&self, number: u32, key: &RevisionKey, state: Option<RevisionForm>) -> bool {
        let mut waiting = self.lock();
        waiting.bytes += state.as_ref().map_or(0, prost::Message::encoded_len);
        if waiting.bytes > MOST_BYTES {
            waiting.fall_behind();
            return false;
        }
        // An input follows at once, so there are no more of these than of those.
        waiting.begun.push((Numbered { number, key: key.clone() }, state));
        true
    }

    /// All that waits. What comes next is likely to be as much.
    fn take(&self) -> Result<Waiting, Behind> {
        let mut waiting = self.lock();
        if waiting.behind {
            return Err(Behind);
        }
        let next = Waiting {
            begun: Vec::new(),
            bytes: 0,
            inputs: Vec::with_capacity(waiting.inputs.len()),
            decisions: Vec::with_capacity(waiting.decisions.len()),
            ..*waiting
        };
        Ok(std::mem::replace(&mut *waiting, next))
    }
}

impl Subscription {
    /// What is new since the last look, and a few states of those that are still to be told. Never waits; an empty answer
    /// means that nothing happened.
    ///
    /// # Errors
    /// When inputs are missing.
    pub fn look(&mut self) -> Result<News, Behind> {
        self.look_at(STATES_AT_ONCE)
    }

    /// The same, with so many states at most.
    ///
    /// # Errors
    /// When inputs are missing.
    pub fn look_at(&mut self, most: usize) -> Result<News, Behind> {
        if self.pending.is_empty() || most == 0 {
            let now = self.deciders.clock().now();
            let mut news = News { complete: self.pending.is_empty(), ..News::nothing(now) };
            self.drain(&mut news)?;
            // An input may have been made after the clock was read.
            news.now = self.deciders.clock().now();
            return Ok(news);
        }
        let next = self.pending.split_off(self.pending.len().saturating_sub(most));
        // While the table is locked nothing is added to the queue, so what is in it now came before these states.
        let deciders = self.deciders.clone();
        let mut news = deciders.with_states(&next, |now, states| {
            let mut news = News { states, ..News::nothing(now) };
            self.drain(&mut news).map(|()| news)
        })?;
        for name in &next {
            self.waiting.remove(&name.number);
        }
        news.complete = self.pending.is_empty();
        Ok(news)
    }

    /// Begins anew without a gap: the next looks give the state of each of these revisions once more, and whatever is an
    /// input of a revision before that state is told of no later than it.
    pub fn renew(&mut self, bucket: usize) -> &[Numbered] {
        self.pending = self.deciders.names(bucket);
        &self.pending
    }

    /// Whether every revision has been told of.
    pub fn is_complete(&self) -> bool {
        self.pending.is_empty()
    }

    /// The revisions whose state a look at so many would give, unless they are gone by then.
    pub fn told_next(&self, most: usize) -> &[Numbered] {
        &self.pending[self.pending.len().saturating_sub(most)..]
    }

    fn drain(&mut self, news: &mut News) -> Result<(), Behind> {
        let Waiting { begun, inputs, decisions, ended, .. } = self.queue.take()?;
        (news.begun, news.ended) = (begun, ended);
        if self.waiting.is_empty() {
            (news.inputs, news.decisions) = (inputs, decisions);
            return Ok(());
        }
        let mut decisions = decisions.into_iter().peekable();
        for (place, (number, input)) in inputs.into_iter().enumerate() {
            let decision = decisions.next_if(|(of, _)| *of == place).map(|(_, decision)| decision);
            // The state of a revision that was not told of yet has this in it already, or will.
            if !self.waiting.contains(&number) {
                news.decisions.extend(decision.map(|decision| (news.inputs.len(), decision)));
                news.inputs.push((number, input));
            }
        }
        Ok(())
    }
}

/// The followers of every bucket.
#[derive(Debug)]
pub(super) struct Log {
    followers: Vec<Vec<Follower>>,
    /// Buckets that were let go and have had no revision since. Who asked now would take them for empty.
    let_go: Vec<bool>,
}

/// Who follows a bucket, seen from where inputs are made.
#[derive(Debug)]
struct Follower {
    queue: Arc<Queue>,
    /// Closed when nobody takes anything any more.
    there: mpsc::Sender<Infallible>,
}

impl Log {
    pub(super) fn new(buckets: usize) -> Self {
        Self { followers: (0..buckets).map(|_| Vec::new()).collect(), let_go: vec![false; buckets] }
    }

    /// Hands an input to the followers of a bucket, and says how many had to be dropped.
    pub(super) fn tell(&mut self, bucket: usize, number: u32, input: &Input, decision: Option<&Decision>) -> u64 {
        match self.followers.get_mut(bucket) {
            Some(followers) if !followers.is_empty() => tell(followers, number, input, decision.map(Decision::print)),
            _ => 0,
        }
    }

    /// A place for one more follower of a bucket, if there is one.
    pub(super) fn add(&mut self, bucket: usize) -> Option<(Arc<Queue>, mpsc::Receiver<Infallible>)> {
        if *self.let_go.get(bucket)? {
            return None;
        }
        let followers = self.followers.get_mut(bucket)?;
        followers.retain(|follower| !follower.there.is_closed());
        if followers.len() >= MOST_FOLLOWERS {
            return None;
        }
        let (there, here) = mpsc::channel(1);
        let queue = Arc::<Queue>::default();
        followers.push(Follower { queue: Arc::clone(&queue), there });
        Some((queue, here))
    }

    /// The bucket has a new revision, in the state that `state` writes if it is not empty. Says how many followers had to be
    /// dropped.
    pub(super) fn begin(
        &mut self,
        bucket: usize,
        number: u32,
        key: &RevisionKey,
        state: impl Fn() -> Option<RevisionForm>,
    ) -> u64 {
        if let Some(let_go) = self.let_go.get_mut(bucket) {
            *let_go = false;
        }
        let Some(followers) = self.followers.get_mut(bucket) else { return 0 };
        followers.retain(|follower| !follower.there.is_closed());
        let there = followers.len();
        followers.retain(|Follower { queue, .. }| queue.begin(number, key, state()));
        (there - followers.len()) as u64
    }

    /// Tells the followers of a bucket that this was all. Each is done when what is returned for it is closed.
    pub(super) fn end(&mut self, bucket: usize) -> Vec<mpsc::Sender<Infallible>> {
        if let Some(let_go) = self.let_go.get_mut(bucket) {
            *let_go = true;
        }
        let followers = self.followers.get_mut(bucket).map(std::mem::take).unwrap_or_default();
        let told = followers.into_iter().map(|Follower { queue, there }| {
            queue.lock().ended = true;
            there
        });
        told.collect()
    }
}

#[cold]
fn tell(followers: &mut Vec<Follower>, number: u32, input: &Input, decision: Option<Print>) -> u64 {
    let mut dropped = 0;
    followers.retain(|Follower { queue, there }| {
        if there.is_closed() {
            return false;
        }
        let added = queue.add(number, input, decision);
        dropped += u64::from(!added);
        added
    });
    dropped
}
