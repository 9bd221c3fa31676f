//! A ring of one-second buckets over the last `B` seconds.

use super::average::{self, Mean};
use crate::units::{Aggregation, Compat, Span, Timestamp, round_to_millionth};

/// The second of something that never happened: before every instant there is, and far enough from the edge of `i64`
/// that differences do not overflow.
const NEVER: i64 = i64::MIN / 4;

/// Load per second over a sliding window.
#[derive(Clone, Debug)]
pub struct Window {
    /// One total per second, as a ring; `newest` is the bucket of `last`.
    buckets: Box<[f64]>,
    newest: usize,
    mean: Mean,
    length: Span,
    /// Running sum of all buckets.
    total: f64,
    /// First second written to, or [`NEVER`].
    first: i64,
    /// Last second written to, or [`NEVER`].
    last: i64,
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
        Span::from_seconds(now.second() - self.last) > self.length
    }

    /// The average load per second at `now`.
    pub fn average(&self, now: Timestamp) -> f64 {
        let idle = now.second() - self.last;
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

    fn seconds(&self) -> i64 {
        i64::try_from(self.buckets.len()).unwrap_or(i64::MAX)
    }
}

/// A number of seconds as a number of buckets; negative is none.
fn count(seconds: i64) -> usize {
    usize::try_from(seconds).unwrap_or(0)
}
