//! What the scaler hears of the load, step by step as it happens in a cluster.

use super::World;
use super::pods::Phase;
use crate::engine::{Event as Input, Load};
use crate::sim::queue::Event;
use crate::sim::random::{Stream, below, unit};
use crate::sim::time::{Micros, SECOND, micros, stamp};
use crate::stats::sample;

/// How often pods are scraped.
const SCRAPE_EVERY: Micros = SECOND;

/// Pods that are asked, and what they say.
#[derive(Debug, Default)]
pub(super) struct Scrape {
    asked: Vec<u32>,
    loads: Vec<Load>,
}

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
        if self.levels.now.ready == 0 {
            return self.tell(Input::NothingToScrape);
        }
        let failure = self.case.scenario.world.scrape_failure.0;
        if self.is_deaf() || (failure > 0.0 && unit(&mut self.streams.failures) < failure) {
            self.record.scaling.scrapes_failed += 1;
            return self.tell(Input::ScrapeFailed);
        }
        // What is written here is used again for the next scrape.
        let Scrape { mut asked, mut loads } = std::mem::take(&mut self.scraped);
        let old = self.now.saturating_sub(micros(window));
        let ready = |id: &u32| self.pods[*id as usize].phase == Phase::Ready;
        // Where all are asked, they are in their own order: the last bit of their sum depends on it.
        let there = usize::try_from(self.levels.now.ready).unwrap_or(usize::MAX);
        let all_are = sample::size(there) >= there;
        let is_old = |id: &u32| all_are || self.pods[*id as usize].ready_at <= old;
        asked.clear();
        asked.extend(self.live.iter().copied().filter(|id| ready(id) && is_old(id)));
        let aged = asked.len();
        if aged < self.live.len() {
            asked.extend(self.live.iter().copied().filter(|id| ready(id) && !is_old(id)));
        }
        let size = pick(&mut asked, aged, &mut self.streams.sampling);
        self.work.pods += self.live.len() as u64 + 4 * size as u64;
        let now = self.now;
        loads.clear();
        for id in &asked[..size] {
            let load = self.counted_load(*id, now).unwrap_or_else(|| self.pods[*id as usize].account.read(now));
            loads.push(load);
        }
        self.record.scaling.scrapes += 1;
        let load = sample::of_population(&loads, asked.len());
        self.scraped = Scrape { asked, loads };
        self.tell(Input::Scraped { load });
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

/// Puts those that are asked to the front, and says how many they are: the first `aged` of all in any order, then the
/// others in any order, as far as they are needed.
fn pick(pods: &mut [u32], aged: usize, stream: &mut Stream) -> usize {
    let size = sample::size(pods.len());
    if size < pods.len() {
        for place in 0..size {
            let end = if place < aged { aged } else { pods.len() };
            let left = u32::try_from(end - place).unwrap_or(1);
            pods.swap(place, place + below(stream, left) as usize);
        }
    }
    size
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::random::{Purpose, stream};
    use crate::sim::stats::average;

    /// A hundred pods with 0 to 99 requests, of which 14 are asked.
    fn estimates(aged: usize) -> Vec<f64> {
        let mut stream = stream(5, Purpose::Sampling, "");
        let loads = |pods: &[u32]| -> Vec<Load> {
            pods.iter().map(|pod| Load { concurrency: f64::from(*pod), ..Load::default() }).collect()
        };
        (0..20_000)
            .map(|_| {
                let mut pods: Vec<u32> = (0..100).collect();
                let size = pick(&mut pods, aged, &mut stream);
                assert_eq!(size, 14);
                sample::of_population(&loads(&pods[..size]), pods.len()).concurrency
            })
            .collect()
    }

    fn mean_and_variance(values: &[f64]) -> (f64, f64) {
        let mean = average(values);
        (mean, average(&values.iter().map(|value| (value - mean).powi(2)).collect::<Vec<_>>()))
    }

    #[test]
    fn what_a_sample_says_of_unequal_pods_is_unbiased_and_varies_as_without_replacement() {
        for aged in [0, 100] {
            let (mean, variance) = mean_and_variance(&estimates(aged));
            // All together have 4950. The variance of 0 to 99 is (100² − 1) / 12 = 833.25 over 100 pods, or 841.67 over 99; of
            // a sum of all, estimated from 14 without replacement, 100² · 841.67 / 14 · (1 − 14 / 100).
            let right: f64 = 1e4 * 841.67 / 14.0 * 0.86;
            // Four standard errors of a mean of 20,000, and 4 % of the variance, which has one of 1 %.
            assert!((mean - 4950.0).abs() < 4.0 * (right / 20_000.0).sqrt(), "{aged}: {mean}");
            assert!((variance / right - 1.0).abs() < 0.04, "{aged}: {variance} of {right}");
        }
    }

    #[test]
    fn young_pods_are_asked_only_where_old_ones_do_not_suffice() {
        let mut stream = stream(5, Purpose::Sampling, "");
        let mut asked = [0_u32; 100];
        for _ in 0..20_000 {
            let mut pods: Vec<u32> = (0..100).collect();
            let size = pick(&mut pods, 10, &mut stream);
            pods[..size].iter().for_each(|pod| asked[*pod as usize] += 1);
        }
        assert!(asked[..10].iter().all(|times| *times == 20_000), "{asked:?}");
        // The other four are as likely any of 90: 889 times each, with a standard deviation of 29.
        assert!(asked[10..].iter().all(|times| (740..1040).contains(times)), "{asked:?}");
    }
}
