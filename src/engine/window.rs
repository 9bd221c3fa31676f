//! A window adds up load in buckets of one second and averages those of its last `B` seconds.
//!
//! # Rule
//!
//! `B = ceil(length / 1 s)`. `first` and `last` are the first and the last second written to, `idle = now - last` in
//! whole seconds.
//!
//! ```text
//!         first                last      now
//!  second   |  a  b  .  .  c  .  d        .  .  |
//!           '------ live -------'--idle--'
//! ```
//!
//! - Everything recorded in one second adds up in its bucket: several reporters give the load of the whole revision.
//! - The average, in the unit of what was recorded, is
//!   `(sum of the buckets of (now - B, last]) / min(last - first + 1, B - idle)`, rounded to six decimals
//!   ([`average`] has the weighted one). So a second without a write inside the data counts as no load, seconds after
//!   the last write do not dilute, and a young series is averaged over its own length.
//! - From `idle = B` on the average is 0; the window is *empty* only when more than its length has passed.
//! - A late write counts while its second is less than `B` before `last`; older ones are ignored.
//!
//! The sum is a running total: a write adds to it, a bucket that is used again subtracts what it held, a read
//! subtracts what has left since the last write, oldest first. Order matters, because the last bits of a float sum
//! depend on it and the answers are compared exactly.
//!
//! # Example
//!
//! ```
//! use ebb::engine::Window;
//! use ebb::units::{Aggregation, Span, Timestamp};
//!
//! let at = Timestamp::from_seconds;
//! let mut window = Window::new(Span::from_seconds(5), Aggregation::Linear);
//! window.record(at(100), 10.0);
//! window.record(at(103), 50.0);
//! assert_eq!(window.average(at(103)), 15.0); // 60 over the 4 seconds from 100 to 103
//! assert_eq!(window.average(at(106)), 25.0); // 100 has left; 50 over 102 and 103
//! assert_eq!(window.average(at(108)), 0.0);
//! ```
//!
//! # Source
//!
//! Knative Serving, `pkg/autoscaler/aggregation/bucketing.go`: `TimedFloat64Buckets`, `WeightedFloat64Buckets`.
//!
//! # Differences
//!
//! - A window that grows keeps the true start of its data ([`Compat::resize_keeps_start`]); Knative moves it back by
//!   the old length, which dilutes a young average.
//! - A length that is not positive, or beyond [`Window::LONGEST`], is brought into range; Knative crashes on the one
//!   and allocates the other.

use super::average::{self, Mean};
use crate::units::{Aggregation, Compat, Span, Timestamp, round_to_millionth};

/// The second of something that never happened: before every instant there is, and far enough from the edge of `i64`
/// that differences do not overflow.
pub(super) const NEVER: i64 = i64::MIN / 4;

/// Load per second over a sliding window.
#[derive(Clone, Debug)]
pub struct Window {
    /// One total per second, as a ring; `newest` is the bucket of `last`.
    pub(super) buckets: Box<[f64]>,
    pub(super) newest: usize,
    pub(super) mean: Mean,
    pub(super) length: Span,
    /// Running sum of all buckets.
    pub(super) total: f64,
    /// First second written to, or [`NEVER`].
    pub(super) first: i64,
    /// Last second written to, or [`NEVER`].
    pub(super) last: i64,
}

impl Window {
    /// The longest window there is. Longer ones are cut to it, so that no object can make a revision cost more than
    /// this many buckets.
    pub const LONGEST: Span = Span::from_seconds(24 * 60 * 60);

    /// An empty window of `length`, averaged as `aggregation` says.
    pub fn new(length: Span, aggregation: Aggregation) -> Self {
        let length = length.clamp(Span::from_nanos(1), Self::LONGEST);
        let buckets = length.seconds_up();
        Self {
            buckets: vec![0.0; count(buckets)].into(),
            newest: 0,
            mean: Mean::new(aggregation, u32::try_from(buckets).unwrap_or(u32::MAX)),
            length,
            total: 0.0,
            first: NEVER,
            last: NEVER,
        }
    }

    /// Its length.
    pub fn length(&self) -> Span {
        self.length
    }

    /// Whether it has `length`, or the nearest that can be.
    pub(super) fn fits(&self, length: Span) -> bool {
        self.length == length.clamp(Span::from_nanos(1), Self::LONGEST)
    }

    /// Adds `value` to the second of `at`. A second that has already left the window is ignored.
    pub fn record(&mut self, at: Timestamp, value: f64) {
        let second = at.second();
        let ahead = second - self.last;
        if ahead == 0 {
            self.add(self.newest, value);
            return;
        }
        if ahead <= -self.seconds() {
            return;
        }
        if self.first == NEVER || self.first > second {
            self.first = second;
        }
        if ahead < 0 {
            self.add(self.back(count(-ahead)), value);
            return;
        }
        if ahead >= self.seconds() {
            self.buckets.fill(0.0);
            self.total = 0.0;
            self.first = second;
        } else {
            for _ in 0..ahead {
                self.newest = self.after(self.newest);
                self.total -= self.buckets[self.newest];
                self.buckets[self.newest] = 0.0;
            }
        }
        self.last = second;
        self.add(self.newest, value);
    }

    /// Whether more than a whole window has passed since the last second written to.
    pub fn is_empty(&self, now: Timestamp) -> bool {
        self.is_empty_in(now.second())
    }

    /// The same, in the second `now`.
    pub(super) fn is_empty_in(&self, now: i64) -> bool {
        Span::from_seconds(now - self.last) > self.length
    }

    /// The average load per second at `now`.
    pub fn average(&self, now: Timestamp) -> f64 {
        self.average_in(now.second())
    }

    /// The same, in the second `now`.
    pub(super) fn average_in(&self, now: i64) -> f64 {
        let idle = now - self.last;
        if idle >= self.seconds() {
            return 0.0;
        }
        match self.mean {
            Mean::Linear => self.linear(idle),
            Mean::Weighted { weight } => self.weighted(count(idle), weight),
        }
    }

    /// Changes the length to `length`, keeping the newest data that fit.
    pub fn resize(&mut self, length: Span, now: Timestamp, compat: Compat) {
        let mut resized = Self::new(length, self.mean.aggregation());
        if resized.length == self.length {
            return;
        }
        resized.last = self.last;
        if !self.is_empty(now) {
            for age in 0..self.buckets.len().min(resized.buckets.len()) {
                resized.add(resized.back(age), self.buckets[self.back(age)]);
            }
            let earliest = self.last - (self.seconds() - 1);
            resized.first = if compat.resize_keeps_start { self.first.max(earliest) } else { earliest };
        }
        *self = resized;
    }

    fn linear(&self, idle: i64) -> f64 {
        let live = (self.last - self.first + 1).min(self.seconds() - idle.max(0));
        let mut total = self.total;
        let mut bucket = self.newest;
        for _ in 0..idle {
            bucket = self.after(bucket);
            total -= self.buckets[bucket];
        }
        round_to_millionth(total / f64::from(u32::try_from(live).unwrap_or(u32::MAX)))
    }

    fn weighted(&self, idle: usize, weight: f64) -> f64 {
        let decay = 1.0 - weight;
        // The `idle` oldest buckets have left the window; they follow `newest` in the ring.
        let live = self.buckets.len() - idle;
        let (to_newest, before_wrap) = self.buckets.split_at(self.newest + 1);
        let recent = &to_newest[to_newest.len().saturating_sub(live)..];
        let older = &before_wrap[before_wrap.len() - (live - recent.len())..];
        let (recent, weight) = average::weigh(recent, weight * average::power(decay, idle), decay);
        let (older, _) = average::weigh(older, weight, decay);
        recent + older
    }

    fn add(&mut self, bucket: usize, value: f64) {
        self.buckets[bucket] += value;
        self.total += value;
    }

    /// The bucket `age` seconds before the newest; `age` is below the number of buckets.
    fn back(&self, age: usize) -> usize {
        if age <= self.newest { self.newest - age } else { self.newest + self.buckets.len() - age }
    }

    fn after(&self, bucket: usize) -> usize {
        if bucket + 1 == self.buckets.len() { 0 } else { bucket + 1 }
    }

    pub(super) fn seconds(&self) -> i64 {
        i64::try_from(self.buckets.len()).unwrap_or(i64::MAX)
    }
}

/// A number of seconds as a number of buckets; negative is none.
fn count(seconds: i64) -> usize {
    usize::try_from(seconds).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use Aggregation::{Linear, WeightedExponential};
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// Second 0 of the tables; any whole second would do.
    const START: i64 = 1_785_542_400;

    /// `seconds` after the start.
    #[expect(clippy::cast_possible_truncation, reason = "the tables use tenths of a second")]
    fn at(seconds: f64) -> Timestamp {
        Timestamp::from_seconds(START) + Span::from_millis((seconds * 1000.0) as i64)
    }

    fn window(seconds: i64, aggregation: Aggregation) -> Window {
        Window::new(Span::from_seconds(seconds), aggregation)
    }

    enum Step {
        Write(f64, f64),
        Read(f64, f64),
    }
    use Step::{Read, Write};

    #[test]
    fn linear_averages() {
        let table: &[(&str, &[Step])] = &[
            (
                "each second read, to the end",
                &[
                    Write(10.0, 0.0),
                    Write(20.0, 1.0),
                    Write(30.0, 2.4),
                    Read(2.0, 20.0), // (10 + 20 + 30) / 3
                    Read(2.9, 20.0),
                    Read(3.0, 20.0),
                    Read(4.0, 20.0),
                    Read(5.0, 25.0), // (20 + 30) / 2: second 0 has left
                    Read(6.0, 30.0),
                    Read(6.9, 30.0),
                    Read(7.0, 0.0),
                    Read(8.0, 0.0),
                ],
            ),
            (
                "missing seconds inside count as zero",
                &[
                    Write(10.0, 0.0),
                    Write(50.0, 3.0),
                    Read(3.0, 15.0), // 60 / 4
                    Read(4.0, 15.0),
                    Read(5.0, 16.666_667), // 50 / 3
                    Read(6.0, 25.0),       // 50 / 2
                    Read(7.0, 50.0),
                    Read(8.0, 0.0),
                ],
            ),
            (
                "full and turning",
                &[
                    Write(1.0, 0.0),
                    Write(2.0, 1.0),
                    Write(3.0, 2.0),
                    Write(4.0, 3.0),
                    Write(5.0, 4.0),
                    Write(6.0, 5.0),
                    Write(7.0, 6.0),
                    Read(6.0, 5.0),
                    Read(7.0, 5.5),
                    Read(8.0, 6.0),
                    Read(9.0, 6.5),
                    Read(10.0, 7.0),
                    Read(11.0, 0.0),
                ],
            ),
            (
                "late writes count inside the window only",
                &[
                    Write(5.0, 10.0),
                    Read(10.0, 5.0),
                    Write(7.0, 6.0),
                    Read(10.0, 2.4), // 12 / 5: the start moved back to 6
                    Write(9.0, 5.0),
                    Read(10.0, 2.4),
                    Write(100.0, 4.0),
                    Read(10.0, 2.4),
                ],
            ),
            (
                "a gap of a window starts afresh, a shorter one does not",
                &[
                    Write(5.0, 0.0),
                    Write(7.0, 4.0),
                    Read(4.0, 2.4),
                    Write(9.0, 9.0),
                    Read(9.0, 9.0),
                    Write(1.0, 13.0),
                    Read(13.0, 2.0), // (9 + 1) / 5
                ],
            ),
            (
                "rounded to six decimals",
                &[
                    Write(1.0, 0.0),
                    Write(0.0, 1.0),
                    Write(0.0, 2.0),
                    Read(2.0, 0.333_333),
                    Write(1.0, 2.0),
                    Read(2.0, 0.666_667),
                ],
            ),
            ("before any write", &[Read(0.0, 0.0)]),
            ("in the past of the last write", &[Write(8.0, 3.0), Read(1.0, 8.0), Read(-100.0, 8.0)]),
        ];
        for (name, steps) in table {
            let mut window = window(5, Linear);
            for step in *steps {
                match *step {
                    Write(value, time) => window.record(at(time), value),
                    Read(time, want) => assert_eq!(window.average(at(time)), want, "{name}, at {time}"),
                }
            }
        }
    }

    #[test]
    fn weighted_averages() {
        let mut short = window(5, WeightedExponential);
        for (time, value) in [(0.0, 10.0), (1.0, 10.0), (2.0, 5.0), (3.0, 5.0)] {
            short.record(at(time), value);
        }
        let mut long = window(60, WeightedExponential);
        for second in 0..10 {
            long.record(at(f64::from(second)), 100.0);
        }
        for (window, time, want) in [
            (&short, 3.0, 5.119_284_748_130_677),
            (&short, 4.0, 0.811_351_954_758_232),
            (&short, 5.0, 0.127_749_108_297_880_1),
            (&short, 8.0, 0.0),
            (&long, 9.0, 89.262_581_76),
            (&long, 10.0, 71.410_065_408),
            (&long, 12.0, 45.702_441_861_12),
        ] {
            let ours = window.average(at(time));
            assert!((ours - want).abs() < 1e-9, "at {time}: {ours} is not {want}");
        }
    }

    #[test]
    fn empty_only_after_more_than_a_window() {
        let mut window = window(5, Linear);
        assert!(window.is_empty(at(0.0)), "nothing was ever written");
        window.record(at(2.4), 30.0);
        for (time, empty) in [(2.0, false), (7.9, false), (8.0, true), (-50.0, false)] {
            assert_eq!(window.is_empty(at(time)), empty, "at {time}");
        }
    }

    #[test]
    fn a_growing_window_keeps_the_start_of_its_data_unless_strict() {
        // Five seconds of 10 in a window of 10 s that grows to 20 s: 50 / 5, or 50 / min(4 - -5 + 1, 20) when the
        // start moved back by the old window.
        for (compat, want) in [(Compat::IMPROVED, 10.0), (Compat::STRICT, 5.0)] {
            let mut window = window(10, Linear);
            for second in 0..5 {
                window.record(at(f64::from(second)), 10.0);
            }
            assert_eq!(window.average(at(4.0)), 10.0);
            window.resize(Span::from_seconds(20), at(4.0), compat);
            assert_eq!(window.average(at(4.0)), want, "{compat:?}");
        }
    }

    #[test]
    fn a_shrunk_window_keeps_the_newest_and_a_stale_one_nothing() {
        let mut shrunk = window(10, Linear);
        for (second, value) in [(0.0, 100.0), (1.0, 7.0), (2.0, 9.0)] {
            shrunk.record(at(second), value);
        }
        shrunk.resize(Span::from_seconds(2), at(2.0), Compat::IMPROVED);
        assert_eq!(shrunk.average(at(2.0)), 8.0);

        let mut stale = window(5, Linear);
        stale.record(at(0.0), 100.0);
        stale.resize(Span::from_seconds(60), at(6.0), Compat::IMPROVED);
        assert!(!stale.is_empty(at(6.0)), "when the last write was is still known");
        assert_eq!(stale.average(at(6.0)), 0.0);
    }

    #[test]
    fn impossible_lengths_are_brought_into_range() {
        for (length, want) in [
            (Span::from_seconds(-1), 1),
            (Span::ZERO, 1),
            (Span::from_nanos(1), 1),
            (Span::from_millis(1500), 2),
            (Span::from_nanos(i64::MAX), 86_400),
        ] {
            let mut window = Window::new(length, Linear);
            assert_eq!(window.seconds(), want, "{length}");
            window.record(at(0.0), 3.0);
            assert_eq!(window.average(at(0.0)), 3.0, "{length}");
        }
    }

    /// A window that keeps every second it was told about, and adds them up anew at each read.
    struct Obvious {
        length: i64,
        seconds: BTreeMap<i64, f64>,
        first: Option<i64>,
        last: Option<i64>,
    }

    impl Obvious {
        fn record(&mut self, second: i64, value: f64) {
            if let Some(last) = self.last {
                if second <= last - self.length {
                    return;
                }
                if second >= last + self.length {
                    self.first = Some(second);
                }
            }
            // Writing once more to the last second of a window that was emptied by a resize leaves it without a start:
            // it counts as full. So does Knative's.
            if self.last != Some(second) {
                self.first = Some(self.first.map_or(second, |first| first.min(second)));
            }
            self.last = Some(self.last.map_or(second, |last| last.max(second)));
            *self.seconds.entry(second).or_default() += value;
            self.forget();
        }

        fn forget(&mut self) {
            if let Some(last) = self.last {
                self.seconds.retain(|&second, _| second > last - self.length);
            }
        }

        fn resize(&mut self, length: i64, now: i64) {
            if self.length == length {
                return;
            }
            if self.last.is_some_and(|last| now - last <= self.length) {
                self.first = self.first.max(self.last.map(|last| last - (self.length - 1)));
            } else {
                self.seconds.clear();
                self.first = None;
            }
            self.length = length;
            self.forget();
        }

        /// The live seconds with their age at `now`, and how many seconds they are taken to be.
        fn live(&self, now: i64) -> Option<(Vec<(i64, f64)>, i64)> {
            let last = self.last?;
            let now = now.max(last);
            let live = self.seconds.iter().filter(|&(&second, _)| second > now - self.length);
            let known = self.first.map_or(i64::MAX, |first| last - first + 1);
            let count = known.min(self.length - (now - last));
            (count > 0).then(|| (live.map(|(&second, &value)| (now - second, value)).collect(), count))
        }

        #[expect(clippy::cast_precision_loss, reason = "at most a minute of seconds")]
        fn linear(&self, now: i64) -> f64 {
            self.live(now).map_or(0.0, |(live, count)| {
                let sum: f64 = live.iter().map(|&(_, value)| value).sum();
                round_to_millionth(sum / count as f64)
            })
        }

        #[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "at most a minute of seconds")]
        fn weighted(&self, now: i64) -> f64 {
            let newest = (1.0 - (1.0_f64 - 0.9999).powf(1.0 / self.length as f64)).max(0.2);
            self.live(now).map_or(0.0, |(live, _)| {
                live.iter().map(|&(age, value)| value * newest * (1.0 - newest).powi(age as i32)).sum()
            })
        }
    }

    #[derive(Clone, Debug)]
    enum Op {
        /// At so many seconds from the latest time so far; whole loads, so that every order of adding is exact.
        Record(i64, i32),
        Resize(i64),
        Wait(i64),
    }

    fn ops() -> impl Strategy<Value = Vec<Op>> {
        let op = prop_oneof![
            8 => (-12_i64..4, -50_i32..1000).prop_map(|(second, value)| Op::Record(second, value)),
            1 => (1_i64..30).prop_map(Op::Resize),
            2 => (0_i64..40).prop_map(Op::Wait),
        ];
        proptest::collection::vec(op, 1..80)
    }

    proptest! {
        #[test]
        fn equals_the_obvious_window(length in 1_i64..30, ops in ops()) {
            let mut linear = window(length, Linear);
            let mut weighted = window(length, WeightedExponential);
            let mut obvious = Obvious { length, seconds: BTreeMap::new(), first: None, last: None };
            let mut now = START;
            for op in ops {
                match op {
                    Op::Record(ahead, value) => {
                        let second = now + ahead;
                        now = now.max(second);
                        linear.record(Timestamp::from_seconds(second), f64::from(value));
                        weighted.record(Timestamp::from_seconds(second), f64::from(value));
                        obvious.record(second, f64::from(value));
                    }
                    Op::Resize(length) => {
                        let at = Timestamp::from_seconds(now);
                        linear.resize(Span::from_seconds(length), at, Compat::IMPROVED);
                        weighted.resize(Span::from_seconds(length), at, Compat::IMPROVED);
                        obvious.resize(length, now);
                    }
                    Op::Wait(seconds) => now += seconds,
                }
                for read in [now - 3, now, now + 1, now + 7] {
                    let at = Timestamp::from_seconds(read);
                    prop_assert_eq!(linear.average(at), obvious.linear(read), "at {}", read - START);
                    let (ours, want) = (weighted.average(at), obvious.weighted(read));
                    prop_assert!((ours - want).abs() <= 1e-9 * want.abs().max(1.0), "{ours} is not {want}");
                    let empty = obvious.last.is_none_or(|last| read - last > obvious.length);
                    prop_assert_eq!(linear.is_empty(at), empty);
                }
            }
        }

        #[test]
        fn more_load_never_lowers_an_average(
            writes in proptest::collection::vec((-8_i64..3, 0.0_f64..1e6, 0.0_f64..1e6), 1..60),
            kind in prop_oneof![Just(Linear), Just(WeightedExponential)],
        ) {
            let (mut less, mut more) = (window(10, kind), window(10, kind));
            let mut now = START;
            for (ahead, value, extra) in writes {
                let second = now + ahead;
                now = now.max(second);
                less.record(Timestamp::from_seconds(second), value);
                more.record(Timestamp::from_seconds(second), value + extra);
                let at = Timestamp::from_seconds(now);
                // A running total may be off by the rounding of its largest term.
                prop_assert!(more.average(at) >= less.average(at) - 1e-6);
            }
        }
    }
}
