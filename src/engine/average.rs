//! A window's average is either the plain mean of its live seconds, or a sum in which each second back in time weighs a
//! fixed fraction less.
//!
//! # Rule
//!
//! The plain (linear) mean is in [`window`](super::window). The weighted exponential average of a window of `B` seconds
//! is, with `age` the seconds between a bucket and `now`,
//!
//! ```text
//! c = max(1 - (1 - 0.9999)^(1/B), 0.2)             weight of the newest second, no unit
//! average = sum of bucket(age) * c * (1 - c)^age   over the B - idle live buckets, in the unit of the buckets
//! ```
//!
//! For `B` of 6, 10, 12, 20, 30 and 41 seconds `c` is 0.7846, 0.6019, 0.5358, 0.3690, 0.2644 and 0.2012, from 42 on
//! 0.2. It is neither rounded nor divided by the sum of the weights: a new series starts at `c` times its load and
//! converges.
//!
//! # Example
//!
//! ```
//! use ebb::engine::average::newest_weight;
//!
//! assert!((newest_weight(6) - 0.784_557).abs() < 1e-6);
//! assert_eq!(newest_weight(60), 0.2);
//! ```
//!
//! # Source
//!
//! Knative Serving, `pkg/autoscaler/aggregation/bucketing.go`: `WeightedFloat64Buckets`, `computeSmoothingCoeff`.
//!
//! # Differences
//!
//! None meant. The last bits differ from Knative's, which asks its platform's power function and adds one second at a
//! time; here they are the same on every platform. They agree to about 1e-11.

use crate::units::Aggregation;

/// How much of the total weight the newest `B` seconds carry: all but one part in ten thousand.
const COVERED: f64 = 0.9999;

/// The newest second never weighs less than this, so a long window does not flatten into a plain mean.
const LEAST_WEIGHT: f64 = 0.2;

/// The weight of the newest of `buckets` seconds.
pub fn newest_weight(buckets: u32) -> f64 {
    (1.0 - root(1.0 - COVERED, buckets)).max(LEAST_WEIGHT)
}

/// How one window averages.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Mean {
    /// Every live second weighs the same.
    Linear,
    /// The newest second weighs `weight`, each older one `1 - weight` times the one after it.
    Weighted {
        /// Weight of the newest second.
        weight: f64,
    },
}

impl Mean {
    /// The mean of kind `aggregation` for a window of `buckets` seconds.
    pub fn new(aggregation: Aggregation, buckets: u32) -> Self {
        match aggregation {
            Aggregation::Linear => Self::Linear,
            Aggregation::WeightedExponential => Self::Weighted { weight: newest_weight(buckets) },
        }
    }

    /// The kind it was made from.
    pub fn aggregation(self) -> Aggregation {
        match self {
            Self::Linear => Aggregation::Linear,
            Self::Weighted { .. } => Aggregation::WeightedExponential,
        }
    }
}

/// `base^exponent` by repeated squaring.
pub(super) fn power(mut base: f64, mut exponent: usize) -> f64 {
    let mut result = 1.0;
    while exponent > 0 {
        if exponent & 1 == 1 {
            result *= base;
        }
        base *= base;
        exponent >>= 1;
    }
    result
}

/// Adds `weight · x` for each of `seconds`, the last (newest) first, each weighing `decay` times the one after it.
/// Returns the sum and the weight of whatever comes before.
pub(super) fn weigh(seconds: &[f64], mut weight: f64, decay: f64) -> (f64, f64) {
    let (square, cube) = (decay * decay, decay * decay * decay);
    let fourth = square * square;
    let mut sum = 0.0;
    let fours = seconds.rchunks_exact(4);
    let oldest = fours.remainder();
    // Four at a time: the sums inside one group do not wait for each other.
    for four in fours {
        sum += weight * ((four[3] + four[2] * decay) + (four[1] * square + four[0] * cube));
        weight *= fourth;
    }
    for &second in oldest.iter().rev() {
        sum += weight * second;
        weight *= decay;
    }
    (sum, weight)
}

/// The `degree`-th root of `value`, for a value between 0 and 1.
///
/// By Newton's method from above rather than a power function: the last bits of those differ between maths libraries,
/// and the same inputs must give the same decision everywhere.
fn root(value: f64, degree: u32) -> f64 {
    let n = f64::from(degree);
    let below = usize::try_from(degree).unwrap_or(usize::MAX).saturating_sub(1);
    let mut guess = 1.0;
    loop {
        let next = ((n - 1.0) * guess + value / power(guess, below)) / n;
        if next >= guess {
            return guess;
        }
        guess = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn weights_of_the_newest_second() {
        for (buckets, want) in [
            (1, 0.9999),
            (6, 0.784_557),
            (10, 0.601_893),
            (12, 0.535_841),
            (20, 0.369_043),
            (30, 0.264_358),
            (41, 0.201_198),
            (42, 0.2),
            (3600, 0.2),
        ] {
            let ours = newest_weight(buckets);
            assert!((ours - want).abs() < 1e-6, "{buckets}: {ours} is not {want}");
        }
    }

    proptest! {
        #[test]
        fn roots_are_roots(value in 1e-9_f64..1.0, degree in 1_u32..5000) {
            let want = value.powf(1.0 / f64::from(degree));
            prop_assert!((root(value, degree) - want).abs() < 1e-12 * want);
        }

        #[test]
        fn weighing_in_groups_equals_weighing_one_by_one(
            seconds in proptest::collection::vec(0.0_f64..1e6, 0..70),
            weight in 0.2_f64..1.0,
        ) {
            let decay = 1.0 - weight;
            let (mut sum, mut left) = (0.0, weight);
            for second in seconds.iter().rev() {
                sum += second * left;
                left *= decay;
            }
            let (ours, ours_left) = weigh(&seconds, weight, decay);
            prop_assert!((ours - sum).abs() <= 1e-12 * sum);
            prop_assert!((ours_left - left).abs() <= 1e-12 * left);
        }
    }
}
