//! The recorder: follows every bucket and hands what it learns to the journal, ten times a second.
//!
//! When a new file is wanted, each revision's state is told of once more. Whatever happened to it before that state goes
//! to the present file, whatever happened after to the next, so nothing is missing and nothing twice. Where a batch
//! finds no place, or a follower was too slow, its bucket is followed anew, from fresh states, and that is noted.

use crate::deciders::Deciders;
use crate::deciders::log::{News, Subscription};
use crate::observe::journal::{Batch, Journal, Place};
use crate::observe::ledger::Activation;
use crate::observe::plan::Plan;
use crate::units::RevisionKey;
use std::collections::HashSet;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

/// How often it looks.
const EVERY: Duration = Duration::from_millis(100);
/// Plans, and cold starts, handed over at once; more wait for the next look.
const MOST_AT_ONCE: usize = 1_000;

/// What happens beside inputs and decisions.
#[derive(Debug)]
pub struct Beside {
    /// What the controller makes of decisions.
    pub plans: mpsc::Receiver<(RevisionKey, Plan)>,
    /// Cold starts that ended.
    pub activations: mpsc::Receiver<(RevisionKey, Activation)>,
}

/// Every plan there is.
pub type AllPlans = Box<dyn Fn() -> Vec<(RevisionKey, Plan)> + Send>;

/// Records until `cancel`, and then what is left. `all` brings what the controller last made of each decision.
pub async fn record(deciders: Deciders, journal: Journal, beside: Beside, all: AllPlans, cancel: CancellationToken) {
    let buckets = (0..deciders.buckets()).map(|_| Bucket::default()).collect();
    let mut recorder = Recorder { deciders, journal, beside, all, buckets, lost: false };
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while cancel.run_until_cancelled(ticks.tick()).await.is_some() {
        recorder.look();
    }
    recorder.look();
    let Recorder { journal, .. } = recorder;
    // It waits for the disk.
    let _ = tokio::task::spawn_blocking(move || journal.flush()).await;
}

struct Recorder {
    deciders: Deciders,
    journal: Journal,
    beside: Beside,
    all: AllPlans,
    buckets: Vec<Bucket>,
    /// What happened beside is missing before what comes next.
    lost: bool,
}

#[derive(Default)]
struct Bucket {
    follower: Option<Subscription>,
    /// The numbers of those that were told of.
    known: HashSet<u32>,
    /// Of these, those that the next file knows.
    told: HashSet<u32>,
    /// The numbers of those that were told of before inputs went missing, and of which it is not known yet whether they are
    /// still there.
    doubtful: HashSet<u32>,
    /// Inputs are missing before what comes next.
    lost: bool,
}

impl Recorder {
    fn look(&mut self) {
        for (number, bucket) in self.buckets.iter_mut().enumerate() {
            bucket.follow(number, &self.deciders, &self.journal);
        }
        if self.journal.wants_file() {
            self.begin_file();
        }
        for bucket in &mut self.buckets {
            bucket.take_down(&self.journal);
        }
        let plans = some(&mut self.beside.plans);
        let activations = some(&mut self.beside.activations);
        let batch = Batch { plans, activations, lost: self.lost, ..Batch::nothing(self.deciders.clock().now()) };
        self.lost = !batch.is_nothing() && !self.journal.write(Place::Present, batch);
    }

    fn begin_file(&mut self) {
        if !self.journal.begin(self.deciders.clock().now()) {
            // Tried again with the next look.
            return;
        }
        let followed = self.buckets.iter_mut().enumerate().filter(|(_, bucket)| bucket.follower.is_some());
        let mut followed: Vec<_> = followed.collect();
        let told = followed.iter_mut().all(|(number, bucket)| bucket.tell_anew(*number, &self.journal));
        let plans = || Batch { plans: (self.all)(), ..Batch::nothing(self.deciders.clock().now()) };
        if !(told && self.journal.write(Place::Next, plans()) && self.journal.switch()) {
            // What was told so far is in no file. With the next look all is told afresh, to whichever file that finds.
            for (_, bucket) in followed {
                bucket.lose();
            }
            return;
        }
        for (_, bucket) in followed {
            bucket.known = std::mem::take(&mut bucket.told);
        }
    }
}

/// What waits, up to what is handed over at once.
fn some<T>(queue: &mut mpsc::Receiver<T>) -> Vec<T> {
    std::iter::from_fn(|| queue.try_recv().ok()).take(MOST_AT_ONCE).collect()
}

impl Bucket {
    /// Follows it unless that is done already. Where inputs are missing it is noted first.
    fn follow(&mut self, number: usize, deciders: &Deciders, journal: &Journal) {
        if self.follower.is_none() {
            self.follower = deciders.follow(number);
        }
        if !std::mem::take(&mut self.lost) {
            return;
        }
        self.doubtful.extend(self.known.drain());
        let gone = if self.follower.is_none() { self.doubtful.iter().copied().collect() } else { Vec::new() };
        if !journal.write(Place::Present, Batch { gone, lost: true, ..Batch::nothing(deciders.clock().now()) }) {
            self.lose();
        } else if self.follower.is_none() {
            self.doubtful.clear();
        }
    }

    /// Writes what is new.
    fn take_down(&mut self, journal: &Journal) {
        while let Some(follower) = &mut self.follower {
            let Ok(news) = follower.look() else { return self.lose() };
            let ended = news.ended;
            let complete = news.complete;
            let batch = self.batch(news);
            if !batch.is_nothing() && !journal.write(Place::Present, batch) {
                return self.lose();
            }
            if ended {
                self.follower = None;
            }
            if complete {
                return;
            }
        }
    }

    /// Writes the state of each revision to the next file; `false` when that could not be.
    fn tell_anew(&mut self, number: usize, journal: &Journal) -> bool {
        let Some(follower) = &mut self.follower else { return true };
        // Fresh ones were told of nowhere yet.
        let mut untold: HashSet<u32> = HashSet::new();
        if follower.is_complete() {
            untold.extend(follower.renew(number).iter().map(|name| name.number));
        }
        self.told.clear();
        while let Some(follower) = &mut self.follower {
            let next: Vec<u32> = follower.told_next().iter().map(|name| name.number).collect();
            let Ok(news) = follower.look() else {
                self.lose();
                return false;
            };
            let (complete, ended) = (news.complete, news.ended);
            let begun = news.begun.iter().map(|(name, _)| name.number).filter(|number| !untold.contains(number));
            self.told.extend(news.states.iter().map(|(name, _)| name.number).chain(begun));
            let (before, after) = split(self.batch(news), &self.told, &untold);
            let written = [(Place::Present, before), (Place::Next, after)]
                .into_iter()
                .all(|(place, batch)| batch.is_nothing() || journal.write(place, batch));
            if !written {
                self.lose();
                return false;
            }
            if ended {
                self.follower = None;
                return true;
            }
            for number in &next {
                untold.remove(number);
            }
            if complete {
                return true;
            }
        }
        true
    }

    fn batch(&mut self, news: News) -> Batch {
        let News { now, states, begun, inputs, decisions, complete, ended } = news;
        self.known.extend(
            states.iter().map(|(name, _)| name).chain(begun.iter().map(|(name, _)| name)).map(|name| name.number),
        );
        let mut gone: Vec<u32> = if ended { self.known.drain().collect() } else { Vec::new() };
        if complete || ended {
            gone.extend(self.doubtful.drain().filter(|number| !self.known.contains(number)));
        }
        Batch { states, begun, inputs, decisions, gone, ..Batch::nothing(now) }
    }

    /// Inputs are missing, so the bucket is followed anew.
    fn lose(&mut self) {
        self.follower = None;
        self.lost = true;
    }
}

/// What happened to revisions of which the next file does not know yet or never will, and what to those `told` of there.
fn split(batch: Batch, told: &HashSet<u32>, untold: &HashSet<u32>) -> (Batch, Batch) {
    let (mut before, mut after) = (Batch::nothing(batch.now), Batch::nothing(batch.now));
    after.states = batch.states;
    // One that is told of anew may have begun so lately that the present file does not know it either.
    (before.begun, after.begun) = batch.begun.into_iter().partition(|(name, _)| untold.contains(&name.number));
    let mut decisions = batch.decisions.into_iter().peekable();
    for (place, (number, input)) in batch.inputs.into_iter().enumerate() {
        // What came before a state that is told now is in it, and what was over when the next file began is in neither.
        let is_after = told.contains(&number) && !untold.contains(&number);
        let side = if is_after { &mut after } else { &mut before };
        if let Some((_, decision)) = decisions.next_if(|(of, _)| *of == place) {
            side.decisions.push((side.inputs.len(), decision));
        }
        side.inputs.push((number, input));
    }
    before.gone.clone_from(&batch.gone);
    after.gone = batch.gone;
    (before, after)
}
