//! Every input of the running engines, for whoever wants to follow along: a standby, a journal.
//!
//! A [`Subscription`] to a bucket first gives the state of each of its revisions and then every [`Input`] after that
//! state, none missing and none twice. [`Deciders`] hands an input out within the call that applies it, so a follower
//! sees the order in which they acted.
//!
//! Following never holds anybody up. Without a follower an input costs one look at an empty list; with one, a place in
//! a queue of [`MOST_WAITING`]. A follower that lets its queue run full is dropped from the list and counted; it learns
//! of that with its next look, and may subscribe again, which starts with fresh states. The states are copied a few at
//! a time, so that no stat waits for more than a few of them.

use crate::deciders::Deciders;
use crate::engine::written::RevisionForm;
use crate::engine::{Decision, Input, Print};
use crate::units::{RevisionKey, Timestamp};
use std::collections::HashSet;
use tokio::sync::mpsc;

/// Followers of one bucket at once.
pub const MOST_FOLLOWERS: usize = 4;
/// Inputs that may wait for one follower: several seconds' worth of 10,000 revisions.
pub const MOST_WAITING: usize = 1 << 16;
/// States copied at once, while nothing is recorded or decided: some 60 µs.
const STATES_AT_ONCE: usize = 64;

/// What is new to a follower.
#[derive(Clone, PartialEq, Debug)]
pub struct News {
    /// The time of this look. No input is later.
    pub now: Timestamp,
    /// States of revisions that were not told of yet, before any of their inputs.
    pub states: Vec<(RevisionKey, RevisionForm)>,
    /// Inputs of revisions told of before, in the order they acted.
    pub inputs: Vec<(RevisionKey, Input)>,
    /// The decisions some of them led to, by the place of the input.
    pub decisions: Vec<(usize, Print)>,
    /// Whether every revision has been told of.
    pub complete: bool,
    /// Whether this is all there will ever be, because this process has let the bucket go.
    pub ended: bool,
}

impl News {
    fn nothing(now: Timestamp) -> Self {
        let (states, inputs, decisions) = (Vec::new(), Vec::new(), Vec::new());
        Self { now, states, inputs, decisions, complete: false, ended: false }
    }

    /// Whether there is nothing to tell but that we are here.
    pub fn is_nothing(&self) -> bool {
        self.states.is_empty() && self.inputs.is_empty() && !self.ended
    }
}

/// The follower was too slow and has missed inputs; a new subscription starts from fresh states.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("more than {MOST_WAITING} inputs were waiting, so some are missing")]
pub struct Behind;

/// A bucket's past and future; made by [`Deciders::follow`].
#[derive(Debug)]
pub struct Subscription {
    pub(super) deciders: Deciders,
    /// Revisions whose state was not told of yet.
    pub(super) pending: Vec<RevisionKey>,
    pub(super) waiting: HashSet<RevisionKey>,
    pub(super) inputs: mpsc::Receiver<Logged>,
}

/// One entry of a follower's queue.
#[derive(Clone, Debug)]
pub(super) enum Logged {
    Input(RevisionKey, Input, Option<Print>),
    End,
}

impl Subscription {
    /// What is new since the last look. Never waits; an empty answer means that nothing happened.
    ///
    /// # Errors
    /// When inputs are missing.
    pub fn look(&mut self) -> Result<News, Behind> {
        if self.pending.is_empty() {
            let now = self.deciders.clock().now();
            let mut news = News { complete: true, ..News::nothing(now) };
            self.drain(&mut news)?;
            // An input may have been made after the clock was read.
            news.now = self.deciders.clock().now();
            return Ok(news);
        }
        let next = self.pending.split_off(self.pending.len().saturating_sub(STATES_AT_ONCE));
        // While the table is locked nothing is added to the queue, so what is in it now came before these states.
        let deciders = self.deciders.clone();
        let mut news = deciders.with_states(&next, |now, states| {
            let mut news = News { states, ..News::nothing(now) };
            self.drain(&mut news).map(|()| news)
        })?;
        for key in &next {
            self.waiting.remove(key);
        }
        news.complete = self.pending.is_empty();
        Ok(news)
    }

    /// Begins anew without a gap: the next looks give the state of each of these revisions once more, and whatever is an
    /// input of a revision before that state is told of no later than it.
    pub fn renew(&mut self, bucket: usize) -> &[RevisionKey] {
        self.pending = self.deciders.keys(bucket);
        &self.pending
    }

    /// Whether every revision has been told of.
    pub fn is_complete(&self) -> bool {
        self.pending.is_empty()
    }

    /// The revisions whose state the next look gives, unless they are gone by then.
    pub fn told_next(&self) -> &[RevisionKey] {
        &self.pending[self.pending.len().saturating_sub(STATES_AT_ONCE)..]
    }

    fn drain(&mut self, news: &mut News) -> Result<(), Behind> {
        loop {
            match self.inputs.try_recv() {
                // The state of a revision that was not told of yet has this in it already, or will.
                Ok(Logged::Input(key, ..)) if self.waiting.contains(&key) => {}
                Ok(Logged::Input(key, input, decision)) => {
                    news.decisions.extend(decision.map(|decision| (news.inputs.len(), decision)));
                    news.inputs.push((key, input));
                }
                Ok(Logged::End) => {
                    news.ended = true;
                    return Ok(());
                }
                Err(mpsc::error::TryRecvError::Empty) => return Ok(()),
                Err(mpsc::error::TryRecvError::Disconnected) => return Err(Behind),
            }
        }
    }
}

/// The followers of every bucket.
#[derive(Debug)]
pub(super) struct Log {
    followers: Vec<Vec<mpsc::Sender<Logged>>>,
    /// Buckets that were let go and have had no revision since. Who asked now would take them for empty.
    let_go: Vec<bool>,
}

impl Log {
    pub(super) fn new(buckets: usize) -> Self {
        Self { followers: (0..buckets).map(|_| Vec::new()).collect(), let_go: vec![false; buckets] }
    }

    /// Hands an input to the followers of a bucket, and says how many had to be dropped.
    pub(super) fn tell(&mut self, bucket: usize, key: &RevisionKey, input: &Input, decision: Option<&Decision>) -> u64 {
        match self.followers.get_mut(bucket) {
            Some(followers) if !followers.is_empty() => tell(followers, key, input, decision.map(Decision::print)),
            _ => 0,
        }
    }

    /// A place for one more follower of a bucket, if there is one.
    pub(super) fn add(&mut self, bucket: usize) -> Option<mpsc::Receiver<Logged>> {
        if *self.let_go.get(bucket)? {
            return None;
        }
        let followers = self.followers.get_mut(bucket)?;
        followers.retain(|follower| !follower.is_closed());
        if followers.len() >= MOST_FOLLOWERS {
            return None;
        }
        let (sender, receiver) = mpsc::channel(MOST_WAITING);
        followers.push(sender);
        Some(receiver)
    }

    /// The bucket has a new revision.
    pub(super) fn begin(&mut self, bucket: usize) {
        if let Some(let_go) = self.let_go.get_mut(bucket) {
            *let_go = false;
        }
    }

    /// Tells the followers of a bucket that this was all. Each is done when its queue is closed.
    pub(super) fn end(&mut self, bucket: usize) -> Vec<mpsc::Sender<Logged>> {
        if let Some(let_go) = self.let_go.get_mut(bucket) {
            *let_go = true;
        }
        let followers = self.followers.get_mut(bucket).map(std::mem::take).unwrap_or_default();
        followers.into_iter().filter(|follower| follower.try_send(Logged::End).is_ok()).collect()
    }
}

#[cold]
fn tell(followers: &mut Vec<mpsc::Sender<Logged>>, key: &RevisionKey, input: &Input, decision: Option<Print>) -> u64 {
    let mut dropped = 0;
    followers.retain(|follower| match follower.try_send(Logged::Input(key.clone(), input.clone(), decision)) {
        Ok(()) => true,
        Err(mpsc::error::TrySendError::Closed(_)) => false,
        Err(mpsc::error::TrySendError::Full(_)) => {
            dropped += 1;
            false
        }
    });
    dropped
}
