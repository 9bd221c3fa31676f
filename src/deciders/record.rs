//! The recorder: follows every bucket and hands what it learns to the journal, ten times a second.
//!
//! When a new file is wanted, each revision's state is told of once more. Whatever happened to it before that state goes
//! to the present file, whatever happened after to the next, so nothing is missing and nothing twice. States go no faster
//! than they are written, since there is much of them where windows are long: a few with each look, as many looks as it
//! takes. Plans and cold starts wait meanwhile, since they come after the decisions they are of. Where a batch finds no
//! place, or a follower was too slow, its bucket is followed anew, from fresh states, and that is noted.

use crate::deciders::Deciders;
use crate::deciders::log::{News, STATES_AT_ONCE, Subscription};
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

/// Looks at the end, until everything was told: enough for the states of 50,000 revisions.
const MOST_LAST_LOOKS: usize = 100;

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
    let mut recorder = Recorder { deciders, journal, beside, all, buckets, begins: false, lost: false };
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while cancel.run_until_cancelled(ticks.tick()).await.is_some() {
        recorder.look();
    }
    // What finds no place now is told of with a look after it, or never.
    for _ in 0..MOST_LAST_LOOKS {
        recorder.look();
        let journal = recorder.journal.clone();
        // It waits for the disk, and then there are places again.
        let _ = tokio::task::spawn_blocking(move || journal.flush()).await;
        if recorder.is_done() {
            break;
        }
    }
}

struct Recorder {
    deciders: Deciders,
    journal: Journal,
    beside: Beside,
    all: AllPlans,
    buckets: Vec<Bucket>,
    /// The next file was begun, and not every state is in it yet.
    begins: bool,
    /// What happened beside is missing before what comes next.
    lost: bool,
}

#[derive(Default)]
struct Bucket {
    follower: Option<Subscription>,
    /// The numbers of those that were told of.
    known: HashSet<u32>,
    /// The numbers of those that were told of before inputs went missing, and of which it is not known yet whether they are
    /// still there.
    doubtful: HashSet<u32>,
    /// What the next file knows, while it begins.
    anew: Option<Anew>,
    /// Inputs are missing before what comes next.
    lost: bool,
}

/// The revisions of a bucket, as the next file knows them while it begins.
#[derive(Default)]
struct Anew {
    /// The numbers of those it is still to be told of. What happens to them goes to the present file.
    untold: HashSet<u32>,
    /// The numbers of those it was told of.
    told: HashSet<u32>,
}

/// Inputs are missing.
struct Lost;

impl Recorder {
    fn look(&mut self) {
        for (number, bucket) in self.buckets.iter_mut().enumerate() {
            bucket.follow(number, &self.deciders, &self.journal);
        }
        // What is missing is noted first, in the file it is missing in. Without a place it is tried again with the next look.
        if !self.begins && self.buckets.iter().all(|bucket| !bucket.lost) && self.journal.wants_file() {
            self.begins = self.journal.begin(self.deciders.clock().now());
        }
        let mut room = self.journal.room();
        if self.begins {
            self.go_on_beginning(&mut room);
        } else {
            self.buckets.iter_mut().for_each(|bucket| bucket.take_down(&self.journal, &mut room));
        }
        if self.begins {
            // It comes after the decisions it is of, which may be in the next file.
            return;
        }
        let plans = some(&mut self.beside.plans);
        let activations = some(&mut self.beside.activations);
        let batch = Batch { plans, activations, lost: self.lost, ..Batch::nothing(self.deciders.clock().now()) };
        self.lost = !batch.is_nothing() && !self.journal.write(Place::Present, batch);
    }

    /// Whether all there was at the last look is handed over.
    fn is_done(&self) -> bool {
        let told = |bucket: &Bucket| bucket.follower.as_ref().is_none_or(Subscription::is_complete) && !bucket.lost;
        let beside = self.beside.plans.is_empty() && self.beside.activations.is_empty() && !self.lost;
        !self.begins && beside && self.buckets.iter().all(told)
    }

    /// Tells of as many states as there is room for, and lets the next file be the present one once all were told.
    fn go_on_beginning(&mut self, room: &mut usize) {
        let mut all = true;
        let mut buckets = self.buckets.iter_mut().enumerate();
        let told: Result<(), Lost> = buckets.try_for_each(|(number, bucket)| {
            all &= bucket.tell_anew(number, &self.journal, room)?;
            Ok(())
        });
        if told.is_ok() && !all {
            return;
        }
        self.begins = false;
        let plans = || Batch { plans: (self.all)(), ..Batch::nothing(self.deciders.clock().now()) };
        if told.is_ok() && self.journal.write(Place::Next, plans()) && self.journal.switch() {
            self.buckets.iter_mut().for_each(Bucket::go_on_in_next);
        } else {
            // What was told so far is in no file. With the next look all is told afresh, to whichever file that finds.
            for bucket in self.buckets.iter_mut().filter(|bucket| bucket.is_followed()) {
                bucket.lose();
            }
        }
    }
}

/// What waits, up to what is handed over at once.
fn some<T>(queue: &mut mpsc::Receiver<T>) -> Vec<T> {
    std::iter::from_fn(|| queue.try_recv().ok()).take(MOST_AT_ONCE).collect()
}

/// How many states are asked of a follower with one look. `room` is left for so many looks that ask for some.
fn states(follower: &Subscription, room: &mut usize) -> usize {
    if follower.is_complete() {
        return 0;
    }
    let Some(left) = room.checked_sub(1) else { return 0 };
    *room = left;
    STATES_AT_ONCE
}

/// What is to be written of the news. Those it tells of are `known` from then on; of the `doubtful` it says who is gone, once
/// all that are there are known.
fn batch(news: News, known: &mut HashSet<u32>, doubtful: &HashSet<u32>) -> Batch {
    let News { now, states, begun, inputs, decisions, complete, ended } = news;
    known.extend(states.iter().map(|(name, _)| name.number));
    known.extend(begun.iter().map(|(name, _)| name.number));
    let mut gone: Vec<u32> = if ended { known.iter().copied().collect() } else { Vec::new() };
    if complete || ended {
        gone.extend(doubtful.difference(known));
    }
    Batch { states, begun, inputs, decisions, gone, ..Batch::nothing(now) }
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

    /// Writes what is new, and states as long as there is room for them.
    fn take_down(&mut self, journal: &Journal, room: &mut usize) {
        while let Some(follower) = &mut self.follower {
            let states = states(follower, room);
            let Ok(news) = follower.look_at(states) else { return self.lose() };
            let (complete, ended) = (news.complete, news.ended);
            let batch = batch(news, &mut self.known, &self.doubtful);
            if !batch.is_nothing() && !journal.write(Place::Present, batch) {
                return self.lose();
            }
            self.is_told(complete, ended);
            if complete || states == 0 {
                return;
            }
        }
    }

    /// Writes what is new to the file it belongs in, and states to the next one as long as there is room for them; says
    /// whether the next file knows all of them.
    fn tell_anew(&mut self, number: usize, journal: &Journal, room: &mut usize) -> Result<bool, Lost> {
        while let Some(follower) = &mut self.follower {
            let anew = self.anew.get_or_insert_with(|| {
                let untold = follower.renew(number).iter().map(|name| name.number).collect();
                Anew { untold, ..Anew::default() }
            });
            let states = states(follower, room);
            let next: Vec<u32> = follower.told_next(states).iter().map(|name| name.number).collect();
            let news = follower.look_at(states).map_err(|_| Lost)?;
            let (complete, ended) = (news.complete, news.ended);
            anew.told.extend(news.states.iter().map(|(name, _)| name.number));
            let begun = news.begun.iter().map(|(name, _)| name.number);
            anew.told.extend(begun.filter(|number| !anew.untold.contains(number)));
            let (before, after) = anew.split(batch(news, &mut self.known, &self.doubtful));
            for (place, batch) in [(Place::Present, before), (Place::Next, after)] {
                if !batch.is_nothing() && !journal.write(place, batch) {
                    return Err(Lost);
                }
            }
            for number in &next {
                anew.untold.remove(number);
            }
            self.is_told(complete, ended);
            if complete || states == 0 {
                return Ok(complete);
            }
        }
        Ok(true)
    }

    /// What was the next file is the present one.
    fn go_on_in_next(&mut self) {
        if let Some(Anew { told, .. }) = self.anew.take()
            && self.follower.is_some()
        {
            self.known = told;
        }
    }

    /// Whether something of it goes to files, or went to the next one while that begins.
    fn is_followed(&self) -> bool {
        self.follower.is_some() || self.anew.is_some()
    }

    /// What a batch says of who is gone is handed over.
    fn is_told(&mut self, complete: bool, ended: bool) {
        if complete || ended {
            self.doubtful.clear();
        }
        if ended {
            self.known.clear();
            self.follower = None;
        }
    }

    /// Inputs are missing, so the bucket is followed anew.
    fn lose(&mut self) {
        (self.follower, self.anew) = (None, None);
        self.lost = true;
    }
}

impl Anew {
    /// What goes to the present file, because the next one does not know it yet or never will, and what goes to the next.
    fn split(&self, batch: Batch) -> (Batch, Batch) {
        let Self { untold, told } = self;
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
}
