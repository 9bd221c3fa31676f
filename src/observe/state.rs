//! How a revision is doing, in one word.

use crate::api::pods::PodCounts;
use crate::engine::Decision;
use crate::observe::plan::Plan;
use crate::units::count_f64;

/// How a revision is doing. The first that fits, most urgent first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum State {
    /// Somebody has to mend something, such as an annotation that cannot be used.
    ToMend,
    /// Pods are wanted and none becomes ready, or the last one cannot go, for a reason that does not pass by itself.
    Stuck,
    /// More is wanted than max-scale allows.
    AtMax,
    /// Load rose so fast that the last seconds count.
    Panic,
    /// Fewer pods are ready than wanted.
    Starting,
    /// More are.
    Stopping,
    /// No pod, and none wanted.
    AtZero,
    /// Nothing is decided yet.
    #[default]
    Undecided,
    /// As many pods as are wanted.
    Steady,
}

impl State {
    /// The state of a revision, from its last decision, what became of it, and its pods.
    pub fn of(decision: Option<&Decision>, plan: Option<&Plan>, pods: PodCounts) -> Self {
        // Also while nothing is decided.
        match plan {
            Some(plan) if !plan.trouble.is_empty() => return Self::ToMend,
            Some(plan) if !plan.stuck.is_empty() => return Self::Stuck,
            _ => {}
        }
        let Some(wanted) = wanted(decision, plan) else { return Self::Undecided };
        let decided = decision.map_or(0, |decision| decision.desired);
        let (ready, want) = (count_f64(pods.ready), f64::from(wanted));
        match plan {
            Some(plan) if 0 < plan.max && wanted == plan.max && wanted < decided => Self::AtMax,
            _ if decision.is_some_and(|decision| decision.panicking_since.is_some()) => Self::Panic,
            _ if ready < want => Self::Starting,
            // One that nobody waits for any more is given its time all the same.
            _ if wanted == 0 && pods.ready == 0 && pods.terminating < pods.not_ready => Self::Starting,
            _ if want < ready => Self::Stopping,
            _ if wanted == 0 => Self::AtZero,
            _ => Self::Steady,
        }
    }

    /// The word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::ToMend => "to mend",
            Self::Stuck => "stuck",
            Self::AtMax => "at max",
            Self::Panic => "panic",
            Self::Starting => "starting",
            Self::Stopping => "stopping",
            Self::AtZero => "at zero",
            Self::Undecided => "undecided",
            Self::Steady => "steady",
        }
    }
}

/// The pods wanted within the bounds; `None` when that is not known.
pub fn wanted(decision: Option<&Decision>, plan: Option<&Plan>) -> Option<i32> {
    plan.and_then(|plan| plan.want).or_else(|| Some(decision?.desired))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Observed;
    use crate::units::{ScalingMetric, Timestamp};

    fn decision(desired: i32, panics: bool) -> Decision {
        Decision {
            at: Timestamp::from_seconds(1),
            desired,
            excess_burst: 0,
            excess_burst_exact: 0.0,
            ready: 0,
            observed: Observed::default(),
            metric: ScalingMetric::Concurrency,
            target: 7.0,
            panicking_since: panics.then_some(Timestamp::from_seconds(1)),
            because: arrayvec::ArrayVec::new(),
        }
    }

    #[test]
    fn the_most_urgent_comes_first() {
        let plan = |want, max, stuck: &str, trouble: &str| Plan {
            want: Some(want),
            max,
            stuck: stuck.to_owned(),
            trouble: trouble.to_owned(),
            ..Plan::default()
        };
        let pods = |ready| PodCounts { ready, ..PodCounts::default() };
        for (decided, plan, ready, want) in [
            (None, None, 0, State::Undecided),
            (None, Some(Plan { want: None, ..plan(0, 0, "its container ends at once", "") }), 0, State::Stuck),
            (Some(decision(3, false)), None, 3, State::Steady),
            (Some(decision(0, false)), Some(plan(0, 0, "", "")), 0, State::AtZero),
            (Some(decision(0, false)), Some(plan(0, 0, "", "")), 1, State::Stopping),
            (Some(decision(3, false)), Some(plan(3, 0, "", "")), 1, State::Starting),
            (Some(decision(3, true)), Some(plan(3, 0, "", "")), 1, State::Panic),
            // Panic or not, it cannot have more.
            (Some(decision(9, true)), Some(plan(3, 3, "", "")), 3, State::AtMax),
            (Some(decision(3, true)), Some(plan(3, 3, "", "")), 3, State::Panic),
            (Some(decision(1, false)), Some(plan(1, 0, "its image cannot be pulled", "")), 0, State::Stuck),
            (Some(decision(1, false)), Some(plan(1, 0, "its image cannot be pulled", "no")), 0, State::ToMend),
        ] {
            assert_eq!(State::of(decided.as_ref(), plan.as_ref(), pods(ready)), want, "{decided:?} {plan:?} {ready}");
        }
    }
}
