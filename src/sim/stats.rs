//! How sure a number is: intervals over seeds, differences in pairs, and what many traces say together.
//!
//! Two policies under one seed meet the same arrivals and service times, so they are compared in pairs: what the
//! traffic does to both cancels out, and the interval is as narrow as the question allows.
//!
//! | question | answer |
//! |---|---|
//! | how large is it? | [`mean`]: the mean over seeds with a 95 % t interval |
//! | by how much do they differ? | [`paired`]: the mean difference with a 95 % t interval |
//! | how many times as much? | [`ratio`]: the ratio of means with a 95 % bootstrap interval |
//! | on many traces? | [`geometric_mean_ratio`] with a bootstrap over traces, [`wilcoxon`], [`holm`] |
//!
//! Never a single best trace, never a mean of percentiles.

use super::random::{Purpose, below, stream};
use crate::units::count_f64;
use serde::{Deserialize, Serialize};
use statrs::distribution::{ContinuousCDF as _, Normal, StudentsT};

/// How often a bootstrap draws.
const RESAMPLES: usize = 2000;
/// What lies outside an interval, on each side.
const TAIL: f64 = 0.025;

/// A number, and the 95 % interval around it. One observation alone says nothing of how sure it is.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Estimate {
    /// The number.
    pub value: f64,
    /// From where to where it may be.
    pub interval: Option<[f64; 2]>,
}

impl Estimate {
    /// A number nobody doubts.
    pub fn exact(value: f64) -> Self {
        Self { value, interval: Some([value, value]) }
    }

    /// Whether the whole interval lies below `bound`.
    pub fn is_below(&self, bound: f64) -> bool {
        self.interval.is_some_and(|[_, high]| high < bound)
    }

    /// Whether the whole interval lies above `bound`.
    pub fn is_above(&self, bound: f64) -> bool {
        self.interval.is_some_and(|[low, _]| low > bound)
    }

    /// The same, times `factor`, which is not negative.
    #[must_use]
    pub fn times(self, factor: f64) -> Self {
        let interval = self.interval.map(|[low, high]| [low * factor, high * factor]);
        Self { value: self.value * factor, interval }
    }
}

/// The arithmetic mean; 0 of nothing.
pub fn average(values: &[f64]) -> f64 {
    if values.is_empty() { 0.0 } else { values.iter().sum::<f64>() / count_f64(values.len()) }
}

/// The standard error of the mean; none of fewer than two values.
fn standard_error(values: &[f64]) -> Option<f64> {
    if values.len() < 2 {
        return None;
    }
    let (mean, count) = (average(values), count_f64(values.len()));
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    Some((squares / (count - 1.0) / count).sqrt())
}

/// How many standard errors an interval reaches, for a mean of `count` values: the quantile of Student's distribution
/// with `count` − 1 degrees of freedom.
fn reach(count: usize, quantile: f64) -> f64 {
    StudentsT::new(0.0, 1.0, count_f64(count.max(2) - 1)).map_or(f64::INFINITY, |law| law.inverse_cdf(quantile))
}

/// The mean with its 95 % t interval.
pub fn mean(values: &[f64]) -> Estimate {
    let value = average(values);
    let interval = standard_error(values).map(|error| {
        // Where all are the same, the law is not asked: 0 times its quantile is 0.
        let half = if error > 0.0 { error * reach(values.len(), 1.0 - TAIL) } else { 0.0 };
        [value - half, value + half]
    });
    Estimate { value, interval }
}

/// The mean of `theirs` − `ours`, pair by pair, with its 95 % t interval.
pub fn paired(ours: &[f64], theirs: &[f64]) -> Estimate {
    let differences: Vec<f64> = ours.iter().zip(theirs).map(|(ours, theirs)| theirs - ours).collect();
    mean(&differences)
}

/// The bound that a mean does not exceed, with 95 % confidence, by one-sided t; of one value, that value.
pub fn upper_bound(values: &[f64]) -> f64 {
    let half = standard_error(values).filter(|error| *error > 0.0);
    average(values) + half.map_or(0.0, |error| error * reach(values.len(), 0.95))
}

/// The bound that a share does not exceed, with 95 % confidence, when `hits` of `count` were seen: Wilson's score
/// bound, which is above 0 even where nothing was seen.
pub fn share_upper_bound(hits: u64, count: u64) -> f64 {
    if count == 0 {
        return 0.0;
    }
    let z = Normal::standard().inverse_cdf(0.95);
    #[expect(clippy::cast_precision_loss, reason = "for a bound; 2^-53 is nothing")]
    let (n, p) = (count as f64, hits as f64 / count as f64);
    let spread = (p * (1.0 - p) / n + z * z / (4.0 * n * n)).sqrt();
    ((p + z * z / (2.0 * n) + z * spread) / (1.0 + z * z / n)).min(1.0)
}

/// What `statistic` says of `resamples` samples drawn with replacement from `count` observations, in ascending order.
/// It is handed the places that were drawn.
pub fn bootstrap(count: usize, resamples: usize, seed: u64, statistic: impl Fn(&[usize]) -> f64) -> Vec<f64> {
    let mut chance = stream(seed, Purpose::Resampling, "");
    let bound = u32::try_from(count).unwrap_or(u32::MAX);
    let mut drawn = vec![0; count];
    let mut said: Vec<f64> = (0..resamples)
        .map(|_| {
            drawn.fill_with(|| below(&mut chance, bound) as usize);
            statistic(&drawn)
        })
        .collect();
    said.sort_by(f64::total_cmp);
    said
}

/// The 95 % percentile interval of a bootstrap; none where there are fewer than two observations.
fn percentiles(count: usize, seed: u64, statistic: impl Fn(&[usize]) -> f64) -> Option<[f64; 2]> {
    if count < 2 {
        return None;
    }
    let said = bootstrap(count, RESAMPLES, seed, statistic);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a place among the resamples")]
    let outside = (TAIL * count_f64(RESAMPLES)) as usize;
    Some([said[outside], said[RESAMPLES - 1 - outside]])
}

/// How many times as much `theirs` is as `ours`: the ratio of the means, with a bootstrap interval over the pairs. None
/// where it is not defined, because `ours` is 0 or negative.
pub fn ratio(ours: &[f64], theirs: &[f64], seed: u64) -> Option<Estimate> {
    let count = ours.len().min(theirs.len());
    let (ours, theirs) = (&ours[..count], &theirs[..count]);
    if ours.iter().any(|value| *value <= 0.0) || ours.is_empty() {
        return None;
    }
    let value = average(theirs) / average(ours);
    let interval = percentiles(count, seed, |drawn| {
        let sum = |of: &[f64]| drawn.iter().map(|place| of[*place]).sum::<f64>();
        sum(theirs) / sum(ours)
    });
    Some(Estimate { value, interval })
}

/// The geometric mean of ratios, with a bootstrap interval over them. None of no ratio, or where one is not positive.
pub fn geometric_mean_ratio(ratios: &[f64], seed: u64) -> Option<Estimate> {
    if ratios.is_empty() || ratios.iter().any(|ratio| *ratio <= 0.0) {
        return None;
    }
    let logarithms: Vec<f64> = ratios.iter().map(|ratio| ratio.ln()).collect();
    let value = average(&logarithms).exp();
    let interval = percentiles(ratios.len(), seed, |drawn| {
        (drawn.iter().map(|place| logarithms[*place]).sum::<f64>() / count_f64(drawn.len())).exp()
    });
    Some(Estimate { value, interval })
}

/// The probability of signed ranks at least as uneven as those of `differences`, if each were as likely to be negative
/// as positive: Wilcoxon's signed-rank test, two-sided and exact, ties and all. Differences of 0 are left out; with
/// none left it is 1.
///
/// It counts all sign patterns by the sum of their ranks, which takes time as the cube of the number of differences.
pub fn wilcoxon(differences: &[f64]) -> f64 {
    let mut left: Vec<f64> = differences.iter().copied().filter(|difference| *difference != 0.0).collect();
    left.sort_by(|one, other| one.abs().total_cmp(&other.abs()));
    // Twice the rank of each: tied ones share the middle of their ranks, which may be a half.
    let mut ranks: Vec<usize> = Vec::with_capacity(left.len());
    for tied in left.chunk_by(|one, other| one.abs() == other.abs()) {
        let (first, last) = (ranks.len() + 1, ranks.len() + tied.len());
        ranks.extend(tied.iter().map(|_| first + last));
    }
    let total: usize = ranks.iter().sum();
    let positive: usize =
        ranks.iter().zip(&left).filter(|(_, difference)| **difference > 0.0).map(|(rank, _)| rank).sum();
    let extreme = positive.min(total - positive);
    // The probability of each sum of positive ranks.
    let mut chances = vec![0.0; total + 1];
    chances[0] = 1.0;
    let mut highest = 0;
    for rank in ranks {
        highest += rank;
        for sum in (0..=highest).rev() {
            let with = if sum >= rank { chances[sum - rank] } else { 0.0 };
            chances[sum] = 0.5 * (chances[sum] + with);
        }
    }
    (2.0 * chances[..=extreme].iter().sum::<f64>()).min(1.0)
}

/// Probabilities of several tests together, each raised by Holm's step-down rule so that any of them below 5 % is wrong
/// with at most 5 %. In the order they came.
pub fn holm(probabilities: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..probabilities.len()).collect();
    order.sort_by(|one, other| probabilities[*one].total_cmp(&probabilities[*other]));
    let mut raised = vec![0.0; probabilities.len()];
    let mut highest = 0.0_f64;
    for (rank, place) in order.into_iter().enumerate() {
        highest = highest.max((probabilities[place] * count_f64(probabilities.len() - rank)).min(1.0));
        raised[place] = highest;
    }
    raised
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn near(told: f64, right: f64, within: f64) {
        assert!((told - right).abs() <= within, "{told} for {right}");
    }

    /// Student (1908), "The probable error of a mean", Biometrika 6: hours of sleep gained by ten patients with two
    /// drugs.
    const SLEEP: [[f64; 10]; 2] =
        [[0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0], [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]];

    #[test]
    fn the_paired_interval_is_that_of_students_own_data() {
        let gained = paired(&SLEEP[0], &SLEEP[1]);
        near(gained.value, 1.58, 1e-12);
        let [low, high] = gained.interval.expect("ten pairs have an interval");
        near(low, 0.700_114_2, 1e-6);
        near(high, 2.459_885_8, 1e-6);
        assert!(gained.is_above(0.0) && !gained.is_below(2.0));
    }

    #[test]
    fn one_observation_has_no_interval_and_equal_ones_have_a_narrow_one() {
        assert_eq!(mean(&[3.0]), Estimate { value: 3.0, interval: None });
        assert_eq!(mean(&[3.0, 3.0]), Estimate::exact(3.0));
        assert_eq!(upper_bound(&[3.0, 3.0]), 3.0);
        assert_eq!(ratio(&[0.0, 1.0], &[1.0, 1.0], 1), None);
        assert_eq!(geometric_mean_ratio(&[], 1), None);
    }

    #[test]
    fn the_one_sided_bound_uses_the_table_of_student() {
        // t(0.95; 4) = 2.131847 in any table; of 1..5 the standard error is sqrt(0.5).
        near(upper_bound(&[1.0, 2.0, 3.0, 4.0, 5.0]), 3.0 + 2.131_847 * 0.5_f64.sqrt(), 1e-6);
    }

    #[test]
    fn the_bound_of_a_share_is_wilsons() {
        // With nothing seen among n it is z²/(n + z²).
        near(share_upper_bound(0, 1000), 2.705_543 / 1_002.705_543, 1e-9);
        near(share_upper_bound(1000, 1000), 1.0, 1e-12);
        // The two-sided 90 % interval of 10 of 100 is 0.0607 to 0.1607.
        near(share_upper_bound(10, 100), 0.160_7, 5e-4);
        assert_eq!(share_upper_bound(0, 0), 0.0);
    }

    /// Efron and Tibshirani (1993), "An Introduction to the Bootstrap", table 2.1 and figure 2.2: seven mice lived so
    /// many days after treatment; the standard error of their mean by the bootstrap is 23.36 in the limit.
    #[test]
    fn the_bootstrap_gives_the_standard_error_of_the_mice() {
        let days = [94.0, 197.0, 16.0, 38.0, 99.0, 141.0, 23.0];
        let said = bootstrap(days.len(), 40_000, 7, |drawn| drawn.iter().map(|place| days[*place]).sum::<f64>() / 7.0);
        let mean = average(&said);
        near(mean, 86.857, 0.5);
        let deviation = (said.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / 39_999.0).sqrt();
        near(deviation, 23.36, 0.35);
        let again = bootstrap(days.len(), 40_000, 7, |drawn| drawn.iter().map(|place| days[*place]).sum::<f64>() / 7.0);
        assert_eq!(said, again, "the same seed draws the same");
    }

    #[test]
    fn a_ratio_in_pairs_is_as_sure_as_its_pairs_agree() {
        let ours = [10.0, 200.0, 35.0, 70.0];
        let theirs = ours.map(|value| value * 0.8);
        let told = ratio(&ours, &theirs, 3).expect("nothing is 0");
        near(told.value, 0.8, 1e-12);
        let [low, high] = told.interval.expect("four pairs have an interval");
        near(low, 0.8, 1e-12);
        near(high, 0.8, 1e-12);
    }

    #[test]
    fn the_geometric_mean_of_half_and_double_is_one() {
        let told = geometric_mean_ratio(&[0.5, 2.0], 1).expect("two ratios");
        near(told.value, 1.0, 1e-12);
        assert_eq!(told.interval, Some([0.5, 2.0]));
    }

    /// Hollander and Wolfe (1973), table 3.1: a measure of depression of nine patients before and after; the sum of the
    /// positive ranks is 40 and one side has 10 of 512 patterns.
    #[test]
    #[expect(clippy::approx_constant, reason = "3.14 was measured")]
    fn wilcoxon_is_exact_for_the_patients_of_hollander_and_wolfe() {
        let before = [1.83, 0.50, 1.62, 2.48, 1.68, 1.88, 1.55, 3.06, 1.30];
        let after = [0.878, 0.647, 0.598, 2.05, 1.06, 1.29, 1.06, 3.14, 1.29];
        let differences: Vec<f64> = before.iter().zip(after).map(|(before, after)| before - after).collect();
        near(wilcoxon(&differences), 2.0 * 10.0 / 512.0, 1e-12);
    }

    #[test]
    fn wilcoxon_agrees_with_the_published_table() {
        // Patterns of n ranks with a sum of at most w, from the table of Wilcoxon, Katti and Wilcox (1970).
        for (n, w, patterns) in [(5, 0, 1.0), (6, 2, 3.0), (8, 3, 5.0), (10, 8, 25.0)] {
            let mut left = w;
            let mut signs = vec![1.0; n + 1];
            for rank in (1..=n).rev() {
                if rank <= left {
                    signs[rank] = -1.0;
                    left -= rank;
                }
            }
            assert_eq!(left, 0);
            let differences: Vec<f64> = (1..=n).map(|rank| signs[rank] * count_f64(rank)).collect();
            let all = 2.0_f64.powi(i32::try_from(n).expect("few ranks"));
            near(wilcoxon(&differences), 2.0 * patterns / all, 1e-12);
        }
        assert_eq!(wilcoxon(&[]), 1.0);
        assert_eq!(wilcoxon(&[0.0, 0.0]), 1.0);
        assert_eq!(wilcoxon(&[1.0, -1.0]), 1.0, "ties on both sides say nothing");
    }

    #[test]
    fn holm_raises_step_by_step() {
        let raised = holm(&[0.01, 0.04, 0.03, 0.005]);
        for (told, right) in raised.iter().zip([0.03, 0.06, 0.06, 0.02]) {
            near(*told, right, 1e-12);
        }
        assert_eq!(holm(&[0.9, 0.8]), [1.0, 1.0]);
    }

    proptest! {
        #[test]
        fn wilcoxon_does_not_care_for_sign_order_or_scale(
            differences in proptest::collection::vec(-50_i32..50, 0..14), scale in 1_i32..9
        ) {
            let told = wilcoxon(&differences.iter().map(|value| f64::from(*value)).collect::<Vec<_>>());
            let other = wilcoxon(&differences.iter().rev().map(|value| f64::from(-value * scale)).collect::<Vec<_>>());
            prop_assert!((told - other).abs() < 1e-12);
            prop_assert!(told > 0.0 && told <= 1.0);
        }

        #[test]
        fn an_interval_holds_its_mean(values in proptest::collection::vec(-1e3_f64..1e3, 2..12)) {
            let told = mean(&values);
            let [low, high] = told.interval.expect("at least two");
            prop_assert!(low <= told.value && told.value <= high);
            prop_assert!(upper_bound(&values) <= high + 1e-9);
        }
    }
}
