//! Lengths of time counted in classes that are no wider than 1/64 of what they hold.
//!
//! 64 classes per octave: a quantile read back is at most 1.6 % off, and the memory is the same for any number of values.
//! Values below 64 µs have classes of their own, and are exact.

use super::time::{Micros, seconds};

/// Classes in one octave, as a power of two.
const BITS: u32 = 6;
const PER_OCTAVE: usize = 1 << BITS;
/// The highest value told apart, as a power of two, in microseconds: 2⁴⁴ µs is 200 days.
const OCTAVES: usize = 44;
const CLASSES: usize = PER_OCTAVE * (OCTAVES - BITS as usize + 1);

/// Counted lengths.
#[derive(Clone, Debug)]
pub struct Histogram {
    counts: Box<[u64]>,
    count: u64,
    sum: u128,
    max: Micros,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; CLASSES].into(), count: 0, sum: 0, max: 0 }
    }
}

impl Histogram {
    /// Counts one value.
    #[inline]
    pub fn record(&mut self, value: Micros) {
        self.counts[class(value)] += 1;
        self.count += 1;
        self.sum += u128::from(value);
        self.max = self.max.max(value);
    }

    /// Counts so many of one value.
    pub fn record_many(&mut self, value: Micros, count: u64) {
        if count == 0 {
            return;
        }
        self.counts[class(value)] += count;
        self.count += count;
        self.sum += u128::from(value) * u128::from(count);
        self.max = self.max.max(value);
    }

    /// Counts so many values of no length.
    pub fn record_zeros(&mut self, count: u64) {
        self.counts[0] += count;
        self.count += count;
    }

    /// Adds all that another has counted.
    pub fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
        self.count += other.count;
        self.sum += other.sum;
        self.max = self.max.max(other.max);
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.counts.fill(0);
        (self.count, self.sum, self.max) = (0, 0, 0);
    }

    /// How many values there are.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The sum of all values, in microseconds; exact.
    pub fn sum(&self) -> u128 {
        self.sum
    }

    /// The highest value; exact.
    pub fn max(&self) -> Micros {
        self.max
    }

    /// The mean, in seconds; 0 when there is no value.
    #[expect(clippy::cast_precision_loss, reason = "for people; 2^-53 is nothing")]
    pub fn mean(&self) -> f64 {
        if self.count == 0 { 0.0 } else { self.sum as f64 / self.count as f64 / 1e6 }
    }

    /// The value that a part `share` of all does not exceed, in seconds: the middle of its class, never above the
    /// maximum; 0 when there is no value.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rank among counts below 2^53"
    )]
    pub fn quantile(&self, share: f64) -> f64 {
        if self.count == 0 {
            return 0.0;
        }
        let rank = ((share * self.count as f64).ceil() as u64).clamp(1, self.count);
        if rank == self.count {
            return seconds(self.max);
        }
        let mut seen = 0;
        for (class, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return seconds(lowest(class).midpoint(lowest(class + 1) - 1).min(self.max));
            }
        }
        seconds(self.max)
    }

    /// How many values are above `limit`, as far as classes tell.
    pub fn above(&self, limit: Micros) -> u64 {
        self.counts[class(limit) + 1..].iter().sum()
    }

    /// The classes that hold anything: the upper edge of each, in seconds, and how many values are in it.
    pub fn classes(&self) -> impl Iterator<Item = (f64, u64)> + '_ {
        let filled = self.counts.iter().enumerate().filter(|(_, count)| **count > 0);
        filled.map(|(class, count)| (seconds((lowest(class + 1) - 1).min(self.max)), *count))
    }
}

#[inline]
#[expect(clippy::cast_possible_truncation, reason = "what is shifted out leaves seven bits")]
fn class(value: Micros) -> usize {
    if value < PER_OCTAVE as u64 {
        return value as usize;
    }
    let value = value.min((1 << OCTAVES) - 1);
    let shift = value.ilog2() - BITS;
    (shift as usize) * PER_OCTAVE + (value >> shift) as usize
}

/// The lowest value of a class.
fn lowest(class: usize) -> Micros {
    if class < PER_OCTAVE {
        return class as u64;
    }
    let shift = class / PER_OCTAVE - 1;
    ((PER_OCTAVE + class % PER_OCTAVE) as u64) << shift
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_value_lies_in_its_class_and_classes_follow_each_other() {
        for class_at in 0..CLASSES {
            let (low, next) = (lowest(class_at), lowest(class_at + 1));
            assert!(low < next, "{class_at}");
            assert_eq!((class(low), class(next - 1)), (class_at, class_at));
            assert!(next - low <= 1 || (next - low) * 64 <= low, "{class_at}: {low} to {next}");
        }
        assert_eq!(class(u64::MAX), CLASSES - 1);
    }

    proptest! {
        #[test]
        fn quantiles_are_within_the_promise(mut values in proptest::collection::vec(0_u64..10_000_000, 1..300), share in 0.0_f64..1.0) {
            let mut histogram = Histogram::default();
            for value in &values {
                histogram.record(*value);
            }
            values.sort_unstable();
            #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "few values")]
            let rank = ((share * values.len() as f64).ceil() as usize).clamp(1, values.len());
            let exact = seconds(values[rank - 1]);
            let told = histogram.quantile(share);
            prop_assert!((told - exact).abs() <= exact * 0.016 + 1e-9, "{told} for {exact}");
            prop_assert_eq!(histogram.sum(), values.iter().map(|value| u128::from(*value)).sum::<u128>());
        }
    }
}
