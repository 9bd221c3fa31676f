//! What the scaler hears of the load, step by step as it happens in a cluster.

use super::World;
use super::pods::Phase;
use crate::engine::{Event as Input, Load};
use crate::sim::queue::Event;
use crate::sim::random::{below, unit};
use crate::sim::time::{Micros, SECOND, micros, stamp};
use crate::stats::sample;

/// How often pods are scraped.
const SCRAPE_EVERY: Micros = SECOND;

/// Something the scaler hears late.
#[derive(Clone, Debug)]
pub(super) struct Late {
    due: Micros,
    input: Input,
}

impl World<'_> {
    /// A request comes to an activator. The first of a revision it does not report is told at once, because it may have
    /// to wake the revision.
    pub(super) fn activator_arrival(&mut self, at: u32) {
        let now = self.now;
        let activator = &mut self.activators[at as usize];
        activator.account.arrive(now, false);
        if activator.tracked || !self.scaler.hears_activators() {
            return;
        }
        activator.tracked = true;
        activator.told = 1.0;
        // Its account was open all the time, but nobody was told of what was before.
        let closes = activator.account.reopen(now);
        self.agenda.add(closes, Event::Report(at));
        let load = Load { concurrency: 1.0, requests: 1.0, ..Load::default() };
        self.tell_reported(load);
    }

    /// An activator tells of the second that ends now. A revision with nothing to tell is told as zero once more and
    /// forgotten.
    pub(super) fn activator_reports(&mut self, at: u32) {
        let now = self.now;
        let there = match &self.cells {
            Some(cells) => cells.at_activator(at as usize),
            None => self.activators[at as usize].account.level(),
        };
        let activator = &mut self.activators[at as usize];
        let load = activator.account.read(now);
        let told = std::mem::replace(&mut activator.told, 0.0);
        if load.concurrency == 0.0 && there == 0 {
            activator.tracked = false;
        } else {
            let closes = activator.account.closes();
            self.agenda.add(closes, Event::Report(at));
        }
        self.tell_reported(Load {
            concurrency: (load.concurrency - told).max(0.0),
            requests: load.requests - told,
            ..Load::default()
        });
    }

    pub(super) fn tell_reported(&mut self, load: Load) {
        if self.is_deaf() {
            return;
        }
        self.tell(Input::Reported { at: stamp(self.now), load, ready: self.ready() });
    }

    /// The pods are scraped: a sample of the ready ones, those at least a stable window old before younger ones.
    pub(super) fn scrape(&mut self) {
        self.agenda.add(self.now + SCRAPE_EVERY, Event::Scrape);
        let Some(window) = self.scaler.scraped_window() else { return };
        let mut asked: Vec<u32> =
            self.live.iter().copied().filter(|id| self.pods[*id as usize].phase == Phase::Ready).collect();
        if asked.is_empty() {
            return self.tell(Input::NothingToScrape);
        }
        let failure = self.case.scenario.world.scrape_failure.0;
        if self.is_deaf() || (failure > 0.0 && unit(&mut self.streams.failures) < failure) {
            self.record.scaling.scrapes_failed += 1;
            return self.tell(Input::ScrapeFailed);
        }
        let (population, size) = (asked.len(), sample::size(asked.len()));
        if size < population {
            let old = self.now.saturating_sub(micros(window));
            let aged = older_first(&mut asked, |id| self.pods[*id as usize].ready_at <= old);
            let stream = &mut self.streams.sampling;
            // The older ones in any order, then the younger ones in any order, as far as they are needed.
            for place in 0..size {
                let end = if place < aged { aged } else { population };
                let left = u32::try_from(end - place).unwrap_or(1);
                asked.swap(place, place + below(stream, left) as usize);
            }
            asked.truncate(size);
        }
        let now = self.now;
        let read = |id: &u32| match self.counted_load(*id, now) {
            Some(load) => load,
            None => self.pods[*id as usize].account.read(now),
        };
        let loads: Vec<Load> = asked.iter().map(read).collect();
        self.record.scaling.scrapes += 1;
        self.tell(Input::Scraped { load: sample::of_population(&loads, population) });
    }

    /// Whether what is measured now never reaches the scaler.
    fn is_deaf(&self) -> bool {
        self.case.scenario.world.metric_gaps.iter().any(|gap| gap.from.0 <= self.now && self.now < gap.to.0)
    }

    /// The scaler hears of something, at once or later.
    fn tell(&mut self, input: Input) {
        let delay = self.case.scenario.world.metric_delay.0;
        if delay == 0 {
            return self.hear(input);
        }
        let due = self.now + delay;
        self.late.push_back(Late { due, input });
        self.agenda.add(due, Event::Metrics);
    }

    pub(super) fn hear_late(&mut self) {
        while self.late.front().is_some_and(|late| late.due <= self.now) {
            let Some(Late { mut input, .. }) = self.late.pop_front() else { return };
            if let Input::Reported { ready, .. } = &mut input {
                *ready = self.ready();
            }
            self.hear(input);
        }
    }
}

/// Puts those that fit before the others, in their order, and says how many they are.
fn older_first<T: Copy>(items: &mut Vec<T>, fits: impl Fn(&T) -> bool) -> usize {
    let (mut first, second): (Vec<T>, Vec<T>) = items.iter().partition(|item| fits(item));
    let aged = first.len();
    first.extend(second);
    *items = first;
    aged
}
