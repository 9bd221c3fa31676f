//! Policies side by side: each measure with its interval, differences in pairs, and a verdict in a sentence.
//!
//! [`compare`] is one scenario. [`across`] is what several scenarios say together: ratios, not sums, so that a busy
//! trace weighs as much as a quiet one.

use super::outcome::{Outcome, share};
use super::scenario::Slo;
use super::stats::{
    Estimate, average, geometric_mean_ratio, holm, mean, paired, ratio, share_upper_bound, upper_bound, wilcoxon,
};
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;

/// So few violations are counted, not averaged, to tell how many there may be.
const FEW: u64 = 30;

/// Something that is measured of a run. Less of each is better.
#[derive(Clone, Copy, Debug)]
pub struct Measure {
    /// Its name in files.
    pub key: &'static str,
    /// Its name for people.
    pub title: &'static str,
    /// In what it is told.
    pub unit: Unit,
    /// What it is of a run.
    pub of: fn(&Outcome) -> f64,
}

/// In what a measure is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unit {
    /// A number.
    Number,
    /// Pods for so many hours.
    PodHours,
    /// Seconds.
    Seconds,
    /// A part of a whole, told in percent.
    Share,
}

impl Unit {
    /// A value of this unit for people.
    pub fn told(self, value: f64) -> String {
        match self {
            Self::Seconds if value.abs() < 1.0 => format!("{} ms", figures(value * 1000.0)),
            Self::Seconds => format!("{} s", figures(value)),
            Self::Share if value != 0.0 && value.abs() < 1e-5 => {
                format!("{}<0.001 %", if value < 0.0 { "-" } else { "" })
            }
            Self::Share => format!("{} %", figures(value * 100.0)),
            Self::Number | Self::PodHours => figures(value),
        }
    }

    /// An estimate of this unit for people: the value, and half the width of its interval.
    pub fn told_with_interval(self, estimate: &Estimate) -> String {
        let value = self.told(estimate.value);
        match estimate.interval {
            // No measure is negative, whatever an interval of few seeds says.
            Some([low, high]) if high > low => format!("{value} ({} to {})", self.told(low.max(0.0)), self.told(high)),
            _ => value,
        }
    }
}

/// Three figures of a number, without trailing noise: `0.123`, `12.3`, `123`, `12345`.
fn figures(value: f64) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    let decimals = match value.abs() {
        100.0.. => 0,
        10.0.. => 1,
        1.0.. => 2,
        0.01.. => 3,
        0.001.. => 4,
        _ => 6,
    };
    let text = format!("{value:.decimals$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { text.as_str() };
    if text == "-0" || text.is_empty() { "0".to_owned() } else { text.to_owned() }
}

/// The measures, in the order they are told.
pub const MEASURES: &[Measure] = &[
    Measure { key: "pod_hours", title: "pod-hours", unit: Unit::PodHours, of: |run| run.cost.pod_seconds / 3600.0 },
    Measure { key: "violation_share", title: "slow or failed", unit: Unit::Share, of: |run| run.slo.violation_share },
    Measure { key: "error_share", title: "failed", unit: Unit::Share, of: error_share },
    Measure { key: "latency_p50", title: "median latency", unit: Unit::Seconds, of: |run| run.latency.p50 },
    Measure { key: "latency_p99", title: "p99 latency", unit: Unit::Seconds, of: |run| run.latency.p99 },
    Measure { key: "cold_starts", title: "cold starts", unit: Unit::Number, of: |run| number(run.cold.starts) },
    Measure {
        key: "windows_missed",
        title: "minutes that missed",
        unit: Unit::Share,
        of: |run| share(run.slo.windows_missed, run.slo.windows),
    },
    Measure { key: "idle_share", title: "idle", unit: Unit::Share, of: |run| run.cost.idle_share },
    Measure { key: "max_pods", title: "most pods", unit: Unit::Number, of: |run| f64::from(run.cost.max_pods) },
    Measure {
        key: "flaps_per_hour",
        title: "flaps per hour",
        unit: Unit::Number,
        of: |run| run.scaling.flaps_per_hour,
    },
    Measure { key: "panic_seconds", title: "time in panic", unit: Unit::Seconds, of: |run| run.scaling.panic_seconds },
    Measure { key: "under_pod_seconds", title: "pod-seconds short", unit: Unit::Number, of: |run| run.fit.under },
];

/// The measure by its key.
pub fn measure(key: &str) -> Option<&'static Measure> {
    MEASURES.iter().find(|measure| measure.key == key)
}

/// Requests that failed, as a share of all that ended.
pub fn error_share(run: &Outcome) -> f64 {
    share(run.requests.failed, run.requests.completed + run.requests.failed)
}

#[expect(clippy::cast_precision_loss, reason = "for people; 2^-53 is nothing")]
fn number(count: u64) -> f64 {
    count as f64
}

/// Whether a promise was kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Promise {
    /// With 95 % confidence.
    Kept,
    /// On average, but not surely.
    Close,
    /// Not even on average.
    #[default]
    Broken,
}

/// One policy over all its seeds.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Summary {
    /// Its name.
    pub policy: String,
    /// Its kind.
    pub kind: String,
    /// How many runs there are.
    pub runs: usize,
    /// Whether any of them was screened instead of simulated.
    pub approximate: bool,
    /// Whether the promise was kept.
    pub promise: Promise,
    /// The share of requests that broke it, at most, with 95 % confidence.
    pub violation_bound: f64,
    /// Each measure by its key, in their order.
    pub measures: Vec<(String, Estimate)>,
}

impl Summary {
    /// Of these runs of one policy.
    pub fn of(runs: &[&Outcome], slo: &Slo) -> Self {
        let all = |of: fn(&Outcome) -> f64| runs.iter().map(|run| of(run)).collect::<Vec<f64>>();
        let shares = all(|run| run.slo.violation_share);
        let sum = |of: fn(&Outcome) -> u64| runs.iter().map(|run| of(run)).sum::<u64>();
        let ended = sum(|run| run.requests.completed + run.requests.failed);
        let violations = sum(|run| run.slo.violations);
        // Of few violations the spread over seeds says little; none at all would be a bound of 0.
        let violation_bound = if violations < FEW || runs.len() < 2 {
            upper_bound(&shares).max(share_upper_bound(violations, ended))
        } else {
            upper_bound(&shares)
        };
        let failed_bound = upper_bound(&all(error_share));
        let allowed = 1.0 - slo.percentile / 100.0;
        // A hair of rounding is no broken promise.
        let within = |value: f64, bound: f64| value <= bound + 1e-12;
        let promise = if within(violation_bound, allowed) && within(failed_bound, slo.errors.0) {
            Promise::Kept
        } else if within(average(&shares), allowed) && within(average(&all(error_share)), slo.errors.0) {
            Promise::Close
        } else {
            Promise::Broken
        };
        Self {
            policy: runs.first().map(|run| run.policy.clone()).unwrap_or_default(),
            kind: runs.first().map(|run| run.kind.clone()).unwrap_or_default(),
            runs: runs.len(),
            approximate: runs.iter().any(|run| run.approximate),
            promise,
            violation_bound,
            measures: MEASURES.iter().map(|measure| (measure.key.to_owned(), mean(&all(measure.of)))).collect(),
        }
    }

    /// A measure by its key; 0 where there is none.
    pub fn get(&self, key: &str) -> Estimate {
        self.measures.iter().find(|(known, _)| known == key).map_or_else(Estimate::default, |(_, estimate)| *estimate)
    }

    /// Whether it knows the future, and so is no choice.
    pub fn is_oracle(&self) -> bool {
        self.kind == "oracle"
    }
}

/// How one policy differs from the first, in one measure.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Difference {
    /// The policy.
    pub policy: String,
    /// The measure.
    pub measure: String,
    /// By how much, on average over seeds, pair by pair.
    pub difference: Estimate,
    /// How many times as much; absent where the first has nothing of it.
    pub ratio: Option<Estimate>,
}

/// The policies of one scenario side by side.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Comparison {
    /// The scenario.
    pub scenario: String,
    /// What the others are held against: the first policy.
    pub baseline: String,
    /// Each policy, in the order of the scenario.
    pub policies: Vec<Summary>,
    /// Each policy but the first, in each measure.
    pub differences: Vec<Difference>,
    /// What came of it, in a sentence or two.
    pub verdict: String,
}

impl Comparison {
    /// How a policy differs from the first in a measure.
    pub fn difference(&self, policy: &str, measure: &str) -> Option<&Difference> {
        self.differences.iter().find(|difference| difference.policy == policy && difference.measure == measure)
    }
}

/// The runs of each policy, in the order they first appear.
pub fn by_policy(outcomes: &[Outcome]) -> Vec<Vec<&Outcome>> {
    let mut groups: Vec<Vec<&Outcome>> = Vec::new();
    for outcome in outcomes {
        match groups.iter_mut().find(|group| group[0].policy == outcome.policy) {
            Some(group) => group.push(outcome),
            None => groups.push(vec![outcome]),
        }
    }
    groups
}

/// The values of a measure in the runs that both have a seed of.
fn pairs(ours: &[&Outcome], theirs: &[&Outcome], of: fn(&Outcome) -> f64) -> (Vec<f64>, Vec<f64>) {
    let both = ours.iter().filter_map(|our| {
        let their = theirs.iter().find(|their| their.seed == our.seed)?;
        Some((of(our), of(their)))
    });
    both.unzip()
}

/// Holds every policy against the first.
pub fn compare(scenario: &str, outcomes: &[Outcome], slo: &Slo, seed: u64) -> Comparison {
    let groups = by_policy(outcomes);
    let policies: Vec<Summary> = groups.iter().map(|runs| Summary::of(runs, slo)).collect();
    let mut differences = Vec::new();
    for runs in groups.iter().skip(1) {
        for measure in MEASURES {
            let (ours, theirs) = pairs(&groups[0], runs, measure.of);
            differences.push(Difference {
                policy: runs[0].policy.clone(),
                measure: measure.key.to_owned(),
                difference: paired(&ours, &theirs),
                ratio: ratio(&ours, &theirs, seed),
            });
        }
    }
    let mut comparison = Comparison {
        scenario: scenario.to_owned(),
        baseline: policies.first().map(|first| first.policy.clone()).unwrap_or_default(),
        policies,
        differences,
        verdict: String::new(),
    };
    comparison.verdict = verdict(&comparison, slo) + &too_slow(&comparison, slo);
    comparison
}

/// What is promised, for people.
pub fn promised(slo: &Slo) -> String {
    format!("{} % of requests within {}, at most {} failed", figures(slo.percentile), slo.latency, slo.errors)
}

/// What came of it, for somebody who owns the service.
fn verdict(comparison: &Comparison, slo: &Slo) -> String {
    let choices: Vec<&Summary> = comparison.policies.iter().filter(|policy| !policy.is_oracle()).collect();
    let Some(first) = choices.first() else {
        return "There is nothing to choose: the oracle knows the future and is only a floor.".to_owned();
    };
    let cost = |policy: &Summary| policy.get("pod_hours");
    let kept = |policy: &Summary| policy.get("violation_share").value;
    let fine = |share: f64| {
        let wrong = share * 100.0;
        let decimals = if wrong == 0.0 || wrong >= 10.0 {
            0
        } else if wrong >= 1.0 {
            1
        } else if wrong >= 0.1 {
            2
        } else {
            3
        };
        format!("{:.decimals$}", 100.0 - wrong)
    };
    let limit = slo.latency;
    let promise = promised(slo);
    let unsure = if first.runs < 2 { " One seed alone does not tell how sure that is." } else { "" };
    if choices.len() == 1 {
        let word = match first.promise {
            Promise::Kept => "keeps",
            Promise::Close => "keeps, but not surely,",
            Promise::Broken => "breaks",
        };
        let cold = first.get("cold_starts").value;
        let cold = if cold < 0.5 {
            "Nobody met a cold start".to_owned()
        } else {
            format!("{cold:.0} requests met a cold start")
        };
        return format!(
            "{} {word} the promise ({promise}): {} % were answered within {limit}. {cold}. It costs {} pod-hours, of \
             which {} are idle.{unsure}",
            first.policy,
            fine(kept(first)),
            Unit::PodHours.told(cost(first).value),
            Unit::Share.told(first.get("idle_share").value)
        );
    }
    let cheapest = |among: &[&Summary]| {
        among.iter().copied().min_by(|one, other| cost(one).value.total_cmp(&cost(other).value)).cloned()
    };
    let keeping: Vec<&Summary> = choices.iter().copied().filter(|policy| policy.promise == Promise::Kept).collect();
    let Some(best) = cheapest(&keeping) else {
        let nearest = choices.iter().min_by(|one, other| kept(one).total_cmp(&kept(other))).unwrap_or(first);
        return format!(
            "None of {} policies surely keeps the promise ({promise}). {} comes nearest: {} % were answered within \
             {limit}, for {} pod-hours.{unsure}",
            choices.len(),
            nearest.policy,
            fine(kept(nearest)),
            Unit::PodHours.told(cost(nearest).value)
        );
    };
    let all = if keeping.len() == choices.len() {
        format!("All {} policies keep the promise ({promise})", choices.len())
    } else {
        format!("{} of {} policies keep the promise ({promise})", keeping.len(), choices.len())
    };
    let mut text = if keeping.len() == 1 {
        format!("Only {} keeps the promise ({promise})", best.policy)
    } else {
        format!("{all}; {} is the cheapest", best.policy)
    };
    let _ = write!(
        text,
        ": {} pod-hours, and {} % were answered within {limit}.",
        Unit::PodHours.told(cost(&best).value),
        fine(kept(&best))
    );
    if best.policy != comparison.baseline {
        let ratio = comparison.difference(&best.policy, "pod_hours").and_then(|difference| difference.ratio);
        if let Some(ratio) = ratio {
            let _ = write!(text, " That is {} {}.", cheaper(&ratio), comparison.baseline);
        }
        if first.promise != Promise::Kept {
            let _ = write!(
                text,
                " {} {} it: {} % were answered within {limit}.",
                first.policy,
                if first.promise == Promise::Close { "does not surely keep" } else { "breaks" },
                fine(kept(first))
            );
        }
    }
    text + unsure
}

/// What the floor adds: where even requests that never wait are too slow, no number of pods helps.
fn too_slow(comparison: &Comparison, slo: &Slo) -> String {
    let allowed = 1.0 - slo.percentile / 100.0;
    let floor = comparison.policies.iter().find(|policy| policy.is_oracle());
    let share = floor.map_or(0.0, |floor| floor.get("violation_share").value);
    if share < allowed * 0.9 {
        return String::new();
    }
    format!(
        " Even if nobody ever waited, {} would take longer than {}: the promise is about as long as the requests \
         themselves.",
        Unit::Share.told(share),
        slo.latency
    )
}

/// A ratio of cost in words, to stand before what it is held against.
pub fn cheaper(ratio: &Estimate) -> String {
    let percent = |ratio: f64| figures((ratio - 1.0).abs() * 100.0);
    let range = |[low, high]: [f64; 2]| {
        let (one, other) = ((low - 1.0).abs() * 100.0, (high - 1.0).abs() * 100.0);
        format!(" ({} to {} %)", figures(one.min(other)), figures(one.max(other)))
    };
    let sure = ratio.interval.filter(|_| ratio.is_below(1.0) || ratio.is_above(1.0));
    match (ratio.value < 1.0, ratio.interval) {
        (true, _) if sure.is_some() => {
            format!("{} %{} less than", percent(ratio.value), sure.map_or_else(String::new, range))
        }
        (false, _) if sure.is_some() => {
            format!("{} %{} more than", percent(ratio.value), sure.map_or_else(String::new, range))
        }
        (_, Some(_)) => "as much, within the noise, as".to_owned(),
        (true, None) => format!("{} % less than", percent(ratio.value)),
        (false, None) => format!("{} % more than", percent(ratio.value)),
    }
}

/// What several scenarios say of one policy and one measure.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Across {
    /// The policy.
    pub policy: String,
    /// The measure.
    pub measure: String,
    /// How many times as much as the baseline: the geometric mean over scenarios, with a bootstrap over them. Absent
    /// where a scenario has none of the measure.
    pub ratio: Option<Estimate>,
    /// Scenarios in which it is surely less.
    pub wins: usize,
    /// Scenarios in which nothing is sure.
    pub ties: usize,
    /// Scenarios in which it is surely more.
    pub losses: usize,
    /// Wilcoxon's signed-rank probability.
    pub p: f64,
    /// The same, raised by Holm's rule for the number of policies.
    pub p_holm: f64,
}

/// What several scenarios say together, of each policy that all of them have.
pub fn across(comparisons: &[Comparison], seed: u64) -> Vec<Across> {
    let Some(first) = comparisons.first() else { return Vec::new() };
    let everywhere = first.policies.iter().skip(1).map(|policy| policy.policy.as_str());
    let everywhere: Vec<&str> = everywhere
        .filter(|policy| {
            comparisons.iter().all(|comparison| {
                comparison.baseline == first.baseline && comparison.policies.iter().any(|known| known.policy == *policy)
            })
        })
        .collect();
    let mut told = Vec::new();
    for measure in MEASURES {
        let mut of_measure: Vec<Across> = everywhere
            .iter()
            .map(|policy| {
                let all: Vec<&Difference> =
                    comparisons.iter().filter_map(|comparison| comparison.difference(policy, measure.key)).collect();
                let ratios: Option<Vec<f64>> =
                    all.iter().map(|difference| difference.ratio.map(|ratio| ratio.value)).collect();
                // Ratios are told apart by size in their logarithm; where there is none, the difference itself.
                let signed: Vec<f64> = match &ratios {
                    Some(ratios) if ratios.iter().all(|ratio| *ratio > 0.0) => {
                        ratios.iter().map(|ratio| ratio.ln()).collect()
                    }
                    _ => all.iter().map(|difference| difference.difference.value).collect(),
                };
                let wins = all.iter().filter(|difference| difference.difference.is_below(0.0)).count();
                let losses = all.iter().filter(|difference| difference.difference.is_above(0.0)).count();
                Across {
                    policy: (*policy).to_owned(),
                    measure: measure.key.to_owned(),
                    ratio: ratios.and_then(|ratios| geometric_mean_ratio(&ratios, seed)),
                    wins,
                    ties: all.len() - wins - losses,
                    losses,
                    p: wilcoxon(&signed),
                    p_holm: 0.0,
                }
            })
            .collect();
        let raised = holm(&of_measure.iter().map(|across| across.p).collect::<Vec<_>>());
        for (across, raised) in of_measure.iter_mut().zip(raised) {
            across.p_holm = raised;
        }
        told.extend(of_measure);
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(policy: &str, seed: u64, pod_seconds: f64, violations: u64) -> Outcome {
        let mut run = Outcome { policy: policy.to_owned(), kind: "kpa".to_owned(), seed, ..Outcome::default() };
        run.cost.pod_seconds = pod_seconds;
        run.requests.arrived = 100_000;
        run.requests.completed = 100_000;
        run.slo.violations = violations;
        run.slo.violation_share = share(violations, 100_000);
        run
    }

    fn runs(policy: &str, pod_seconds: f64, violations: u64) -> Vec<Outcome> {
        (0..4_u32)
            .map(|seed| run(policy, u64::from(seed), pod_seconds * (1.0 + 0.01 * f64::from(seed)), violations))
            .collect()
    }

    /// Policies with their pod-seconds and violations.
    type Policies<'a> = &'a [(&'a str, f64, u64)];

    #[test]
    fn verdicts_say_who_keeps_the_promise_and_what_it_costs() {
        let slo = Slo::default();
        let told = |policies: &[(&str, f64, u64)]| {
            let all: Vec<Outcome> =
                policies.iter().flat_map(|(policy, cost, violations)| runs(policy, *cost, *violations)).collect();
            compare("case", &all, &slo, 1).verdict
        };
        let cases: &[(Policies<'_>, &str)] = &[
            (
                &[("defaults", 36_000.0, 100)],
                "defaults keeps the promise (99 % of requests within 1s, at most 0.1% failed): 99.90 %",
            ),
            (&[("defaults", 36_000.0, 5000)], "defaults breaks the promise"),
            (
                &[("a", 36_000.0, 100), ("b", 18_000.0, 100)],
                "All 2 policies keep the promise (99 % of requests within 1s, at \
              most 0.1% failed); b is the cheapest: 5.08 pod-hours, and 99.90 % were answered within 1s. That is 50 %",
            ),
            (&[("a", 36_000.0, 5000), ("b", 18_000.0, 100)], "Only b keeps the promise"),
            (&[("a", 36_000.0, 5000), ("b", 18_000.0, 9000)], "None of 2 policies surely keeps the promise"),
        ];
        for (policies, start) in cases {
            let verdict = told(policies);
            assert!(verdict.starts_with(start), "{verdict}");
        }
    }

    #[test]
    fn pairs_go_by_seed_not_by_place() {
        let mut all = runs("a", 1000.0, 0);
        let mut others = runs("b", 900.0, 0);
        others.reverse();
        all.extend(others);
        let told = compare("case", &all, &Slo::default(), 1);
        let cost = told.difference("b", "pod_hours").expect("b differs");
        let [low, high] = cost.ratio.expect("a costs something").interval.expect("four seeds");
        assert!((low - 0.9).abs() < 1e-9 && (high - 0.9).abs() < 1e-9, "{low} {high}");
        assert!(cost.difference.is_below(0.0));
    }

    #[test]
    fn many_scenarios_count_wins_and_raise_probabilities() {
        let comparisons: Vec<Comparison> = (1..=6_u32)
            .map(|size| {
                let size = f64::from(size) * 1000.0;
                let all: Vec<Outcome> =
                    [runs("a", size, 0), runs("b", size * 0.8, 0), runs("c", size * 1.1, 0)].concat();
                compare("case", &all, &Slo::default(), 1)
            })
            .collect();
        let told = across(&comparisons, 1);
        let of = |policy: &str| {
            told.iter().find(|across| across.policy == policy && across.measure == "pod_hours").expect("compared")
        };
        let (b, c) = (of("b"), of("c"));
        assert_eq!((b.wins, b.ties, b.losses), (6, 0, 0));
        assert_eq!((c.wins, c.ties, c.losses), (0, 0, 6));
        // All six signs alike: 2 of 64 patterns; two policies double it.
        assert!((b.p - 2.0 / 64.0).abs() < 1e-12 && (b.p_holm - 4.0 / 64.0).abs() < 1e-12, "{b:?}");
        assert!((b.ratio.expect("ratios").value - 0.8).abs() < 1e-9);
    }

    #[test]
    fn numbers_are_told_with_three_figures() {
        for (value, text) in [
            (0.0, "0"),
            (0.12345, "0.123"),
            (1.2, "1.2"),
            (12.345, "12.3"),
            (1234.5, "1234"),
            (-1e-9, "0"),
            (0.000_1, "0.0001"),
        ] {
            assert_eq!(figures(value), text);
        }
        assert_eq!(Unit::Seconds.told(0.25), "250 ms");
        assert_eq!(Unit::Share.told(0.0012), "0.12 %");
    }
}
