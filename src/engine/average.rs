//! A window's average is either the plain mean of its live seconds, or a sum in which each second back in time weighs a
//! fixed fraction less.

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
