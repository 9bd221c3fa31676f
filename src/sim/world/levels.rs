//! How many there are of what, and that number integrated over time.
//!
//! Everything is a whole number of things times microseconds, so areas are exact and Little's law holds to the last bit.

use crate::sim::time::Micros;

/// How many there are of what.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    /// Requests waiting at activators.
    pub(crate) at_activator: u64,
    /// Requests waiting at queue-proxies.
    pub(crate) at_queue: u64,
    /// Requests being served.
    pub(crate) serving: u64,
    /// Requests that would be in service if none ever waited.
    pub(crate) demand: u64,
    /// Pods starting on a node.
    pub(crate) starting: u64,
    /// Pods ready.
    pub(crate) ready: u64,
    /// Pods ready that have a request.
    pub(crate) busy: u64,
    /// Pods stopping.
    pub(crate) draining: u64,
    /// Whether the activator is in the path.
    pub(crate) in_path: u64,
    /// Whether the scaler panics.
    pub(crate) panicking: u64,
}

/// The same, times microseconds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Areas {
    pub(crate) at_activator: u128,
    pub(crate) at_queue: u128,
    pub(crate) serving: u128,
    pub(crate) demand: u128,
    pub(crate) starting: u128,
    pub(crate) ready: u128,
    pub(crate) busy: u128,
    pub(crate) draining: u128,
    pub(crate) in_path: u128,
    pub(crate) panicking: u128,
    /// Pods beyond the need.
    pub(crate) over: u128,
    /// Pods short of the need.
    pub(crate) under: u128,
    /// Time beyond the need.
    pub(crate) time_over: u128,
    /// Time short of the need.
    pub(crate) time_under: u128,
    /// Beyond the need, relative to it, in microseconds.
    pub(crate) relative_over: f64,
    /// Short of the need, relative to it, in microseconds.
    pub(crate) relative_under: f64,
}

/// Counts, areas and the need.
#[derive(Clone, Debug)]
pub(crate) struct Levels {
    pub(crate) now: Counts,
    pub(crate) areas: Areas,
    at: Micros,
    /// Requests a pod should have.
    per_pod: f64,
    /// Pods the demand asks for, and from which to which demand it is that many.
    need: u64,
    need_from: u64,
    need_to: u64,
    pub(crate) max_demand: u64,
    short: Short,
}

/// Areas that are added up in 64 bits and carried over now and then.
#[derive(Clone, Copy, Debug, Default)]
struct Short {
    at_activator: u64,
    at_queue: u64,
    serving: u64,
    demand: u64,
    busy: u64,
    /// Since when the numbers of pods, the path and the need are as they are.
    since: Micros,
}

/// Carried over before 64 bits could overflow: 2^63 request-microseconds.
const CARRY: u64 = 1 << 62;

impl Levels {
    pub(crate) fn new(per_pod: f64) -> Self {
        let mut levels = Self {
            now: Counts::default(),
            areas: Areas::default(),
            at: 0,
            per_pod,
            need: 0,
            need_from: 0,
            need_to: 0,
            max_demand: 0,
            short: Short::default(),
        };
        levels.find_need();
        levels
    }

    /// Time goes on. Comes before anything changes.
    #[inline]
    pub(crate) fn advance(&mut self, at: Micros) {
        let passed = at - self.at;
        if passed == 0 {
            return;
        }
        self.at = at;
        let short = &mut self.short;
        short.at_activator += self.now.at_activator * passed;
        short.at_queue += self.now.at_queue * passed;
        short.serving += self.now.serving * passed;
        short.demand += self.now.demand * passed;
        short.busy += self.now.busy * passed;
        if (short.at_activator | short.at_queue | short.serving | short.demand | short.busy) >= CARRY {
            self.carry();
        }
    }

    /// Comes before a number of pods, the path or panic changes, and before areas are read.
    pub(crate) fn settle(&mut self) {
        self.carry();
        let passed = u128::from(self.at - self.short.since);
        self.short.since = self.at;
        if passed == 0 {
            return;
        }
        let (now, areas) = (&self.now, &mut self.areas);
        areas.starting += u128::from(now.starting) * passed;
        areas.ready += u128::from(now.ready) * passed;
        areas.draining += u128::from(now.draining) * passed;
        areas.in_path += u128::from(now.in_path) * passed;
        areas.panicking += u128::from(now.panicking) * passed;
        let (over, under) = (now.ready.saturating_sub(self.need), self.need.saturating_sub(now.ready));
        areas.over += u128::from(over) * passed;
        areas.under += u128::from(under) * passed;
        areas.time_over += if over > 0 { passed } else { 0 };
        areas.time_under += if under > 0 { passed } else { 0 };
        #[expect(clippy::cast_precision_loss, reason = "for people; 2^-53 is nothing")]
        let relative = |pods: u64| pods as f64 / self.need.max(1) as f64 * passed as f64;
        areas.relative_over += relative(over);
        areas.relative_under += relative(under);
    }

    fn carry(&mut self) {
        let short = &mut self.short;
        self.areas.at_activator += u128::from(std::mem::take(&mut short.at_activator));
        self.areas.at_queue += u128::from(std::mem::take(&mut short.at_queue));
        self.areas.serving += u128::from(std::mem::take(&mut short.serving));
        self.areas.demand += u128::from(std::mem::take(&mut short.demand));
        self.areas.busy += u128::from(std::mem::take(&mut short.busy));
    }

    /// A request more that would be in service if none ever waited.
    #[inline]
    pub(crate) fn demand_up(&mut self) {
        self.now.demand += 1;
        self.max_demand = self.max_demand.max(self.now.demand);
        if self.now.demand > self.need_to {
            self.settle();
            self.find_need();
        }
    }

    /// One less.
    #[inline]
    pub(crate) fn demand_down(&mut self) {
        self.now.demand -= 1;
        if self.now.demand < self.need_from {
            self.settle();
            self.find_need();
        }
    }

    /// So many would be in service if none ever waited.
    pub(crate) fn demand_is(&mut self, demand: u64) {
        self.now.demand = demand;
        self.max_demand = self.max_demand.max(demand);
        if demand > self.need_to || demand < self.need_from {
            self.settle();
            self.find_need();
        }
    }

    /// Requests were there for a time, in request-microseconds, of which only the sums are known.
    pub(crate) fn spend(&mut self, at_activator: u64, at_queue: u64, serving: u64, busy: u64) {
        let short = &mut self.short;
        short.at_activator += at_activator;
        short.at_queue += at_queue;
        short.serving += serving;
        short.busy += busy;
        self.carry();
    }

    /// Pods the demand asks for.
    pub(crate) fn need(&self) -> u64 {
        self.need
    }

    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "numbers of requests and pods are far below 2^53"
    )]
    fn find_need(&mut self) {
        let pods = |demand: u64| (demand as f64 / self.per_pod).ceil() as u64;
        let need = pods(self.now.demand);
        // The highest demand that many pods are enough for; rounding may be off by one either way.
        let mut to = (need as f64 * self.per_pod) as u64;
        while to > self.now.demand && pods(to) > need {
            to -= 1;
        }
        let mut from = if need == 0 { 0 } else { ((need - 1) as f64 * self.per_pod) as u64 };
        while from < self.now.demand && pods(from) < need {
            from += 1;
        }
        (self.need, self.need_from, self.need_to) = (need, from, to.max(self.now.demand));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_need_is_always_that_of_the_demand(per_pod in 0.01_f64..50.0, ups in proptest::collection::vec(any::<bool>(), 1..300)) {
            let mut levels = Levels::new(per_pod);
            for up in ups {
                if up {
                    levels.demand_up();
                } else if levels.now.demand > 0 {
                    levels.demand_down();
                }
                #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small")]
                let want = (levels.now.demand as f64 / per_pod).ceil() as u64;
                prop_assert_eq!(levels.need(), want);
            }
        }
    }

    #[test]
    fn areas_are_numbers_times_time() {
        let mut levels = Levels::new(2.0);
        levels.settle();
        levels.now.ready = 3;
        levels.demand_up();
        levels.advance(10);
        levels.settle();
        levels.now.ready = 0;
        levels.demand_up();
        levels.demand_up();
        levels.advance(14);
        levels.settle();
        // One request needs one pod of two: two too many for 10 µs; then three need two, which are missing for 4 µs.
        assert_eq!((levels.areas.over, levels.areas.under), (20, 8));
        assert_eq!((levels.areas.ready, levels.areas.demand), (30, 22));
    }
}
