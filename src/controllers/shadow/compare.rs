//! Whether two autoscalers that look at one revision want the same. Pure.
//!
//! # What can be known
//!
//! The shadow asks the pods itself, as the running autoscaler does, but activators report to the running one only. What came
//! to a pod through an activator is in the pod's own answer, and is counted from there. So the shadow misses exactly the
//! requests that wait in an activator, and everything while there is no pod:
//!
//! | [`Basis`] | when | judged |
//! |---|---|---|
//! | exact | no activator was in the path for as long as a decision can remember | yes |
//! | approximate | an activator is in the path, or was within that time | yes; but where the pods are full, requests may wait in the activator, and then the running autoscaler may want more |
//! | warming | it has not been looked at for as long as a decision can remember | no |
//! | blind | there is no pod to ask, or none answers, or one side has not decided | no |
//!
//! A decision remembers two stable windows (one averages, one more keeps a panic) and the scale-down delay.
//!
//! # When they differ
//!
//! The two look at other moments of the same seconds. So they agree while there is a number that each wanted within the
//! last [`NEAR`], give or take what a load measured at other moments explains ([`tolerance`]); and a difference is
//! [told](Finding) when they have not agreed for [`LASTING`].

use crate::api::serverless_service::Mode;
use crate::engine::{Decision, Reason};
use crate::units::{Span, Timestamp, saturating_i32};
use std::collections::VecDeque;
use std::fmt;

/// How far apart in time the two may come to the same number: two ticks, a scrape, and a write to the API server.
pub const NEAR: Span = Span::from_seconds(6);
/// How long they must not have agreed for it to be a difference: five ticks.
pub const LASTING: Span = Span::from_seconds(10);
/// The longest time between two looks that counts as compared; longer, nobody looked.
const LONGEST_GAP: Span = Span::from_seconds(5);
/// By which part two averages over a stable window may differ because they were measured at other moments …
const STABLE_NOISE: f64 = 0.02;
/// … and over a panic window, which has a tenth of the seconds.
const PANIC_NOISE: f64 = 0.1;
/// From which part of what the pods can take at once requests may wait in an activator.
const FULL: f64 = 0.9;

/// How well the running autoscaler's inputs are known.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Basis {
    /// All of them.
    Exact,
    /// All but the requests that wait in an activator.
    Approximate,
    /// Too little of the past.
    Warming,
    /// Nothing.
    Blind,
}

impl Basis {
    /// All, in the order of their declaration.
    pub const ALL: [Self; 4] = [Self::Exact, Self::Approximate, Self::Warming, Self::Blind];

    /// In one word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Approximate => "approximate",
            Self::Warming => "warming",
            Self::Blind => "blind",
        }
    }

    /// Whether the two sides can be held against each other.
    pub const fn is_judged(self) -> bool {
        matches!(self, Self::Exact | Self::Approximate)
    }
}

/// What the two are compared in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Aspect {
    /// How many pods are wanted: `desiredScale` in the status of the PodAutoscaler.
    Pods,
    /// Whether the scale target has the replicas that the running autoscaler wants, while we want as many; if not,
    /// something else scales it.
    Replicas,
    /// Whether activators are to be in the path: the mode of the ServerlessService.
    Mode,
    /// How many activators: its `numActivators`.
    Activators,
}

impl Aspect {
    /// All, in the order of their declaration.
    pub const ALL: [Self; 4] = [Self::Pods, Self::Replicas, Self::Mode, Self::Activators];

    /// In one word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pods => "pods",
            Self::Replicas => "replicas",
            Self::Mode => "mode",
            Self::Activators => "activators",
        }
    }

    /// A value of this aspect in words.
    pub fn in_words(self, value: i32) -> String {
        match self {
            Self::Pods => format!("{value} {}", if value == 1 { "pod" } else { "pods" }),
            Self::Replicas => format!("{value} {}", if value == 1 { "replica" } else { "replicas" }),
            Self::Mode => (if value == SERVE { "mode Serve" } else { "mode Proxy" }).to_owned(),
            Self::Activators => format!("{value} {}", if value == 1 { "activator" } else { "activators" }),
        }
    }
}

/// A mode as a number, so that everything compared is one.
pub const SERVE: i32 = 1;

/// [`SERVE`], or 0 for [`Mode::Proxy`].
pub fn mode_number(mode: Mode) -> i32 {
    match mode {
        Mode::Serve => SERVE,
        Mode::Proxy => 0,
    }
}

/// What one side would have, by [`Aspect`]; `None` where it has no opinion.
pub type Answers = [Option<i32>; Aspect::ALL.len()];

/// Everything there is to see of one revision at one moment.
#[derive(Clone, PartialEq, Debug)]
pub struct Sight {
    /// The moment.
    pub at: Timestamp,
    /// Why nothing can be seen, if it cannot.
    pub blind: Option<Blind>,
    /// Whether an activator is in the path.
    pub in_path: bool,
    /// Whether the pods are so full that requests may wait in an activator.
    pub full: bool,
    /// Whether our side panics.
    pub panicking: bool,
    /// How long a decision remembers.
    pub memory: Span,
    /// What we want.
    pub ours: Answers,
    /// What a load measured at other moments could have made of our number of pods: how many fewer, how many more; and
    /// whether it could have made the other mode.
    pub tolerance: Tolerance,
    /// What the running autoscaler wants.
    pub theirs: Answers,
}

/// Why nothing can be seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Blind {
    /// There is no ready pod.
    NoPods,
    /// The pods do not answer us.
    NoAnswer,
    /// We have not decided.
    Undecided,
    /// The running autoscaler has not decided, or there is none.
    TheyAreUndecided,
}

/// In words for a person.
impl fmt::Display for Blind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoPods => "no pod is ready, so what waits in the activator cannot be seen",
            Self::NoAnswer => "the pods do not answer Ebb on port 9090; a NetworkPolicy may be in the way",
            Self::Undecided => "Ebb has no decision yet",
            Self::TheyAreUndecided => "the running autoscaler has no decision yet",
        })
    }
}

/// How far two sides may be apart because they measure at other moments.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tolerance {
    /// Pods fewer than ours.
    pub fewer: i32,
    /// Pods more than ours.
    pub more: i32,
    /// Whether the mode may be the other one.
    pub mode: bool,
}

/// How far the running autoscaler's answer may be from `decision` because it measured at other moments.
///
/// The number follows from an average, so what the average could as well have been decides: 2 % either way over a stable
/// window, 10 % over a panic window. A number that panic or the scale-down delay holds is the largest of many averages,
/// which is one or the other for as long as it is held; there it is 10 % or 2 % of the number, and at least one pod.
pub fn tolerance(decision: &Decision) -> Tolerance {
    let held = |part: f64| {
        let pods = saturating_i32((f64::from(decision.desired) * part).ceil()).max(1);
        (pods, pods)
    };
    let measured = |load: f64, part: f64| {
        let pods = |load: f64| saturating_i32((load / decision.target).ceil());
        let wanted = pods(load);
        (wanted - pods(load * (1.0 - part)), pods(load * (1.0 + part)) - wanted)
    };
    let (fewer, more) = match decision.deciding() {
        Some(Reason::PanicHolds { .. }) => held(PANIC_NOISE),
        Some(Reason::HeldByDelay { .. }) => held(STABLE_NOISE),
        Some(Reason::PanicTarget { load, .. }) => measured(*load, PANIC_NOISE),
        Some(Reason::StableTarget { load, .. }) if decision.panicking_since.is_some() => measured(*load, PANIC_NOISE),
        Some(Reason::StableTarget { load, .. }) => measured(*load, STABLE_NOISE),
        // The number follows from ready pods or settings, which both sides know alike.
        _ => (0, 0),
    };
    let noise = (decision.observed.panic.abs() * PANIC_NOISE).max(1.0);
    Tolerance { fewer, more, mode: decision.excess_burst_exact.abs() <= noise }
}

/// Whether so much load fills the pods, each of which takes `container_concurrency` at once (0: without limit).
pub fn is_full(load: f64, ready: i32, container_concurrency: i64) -> bool {
    let each = f64::from(i32::try_from(container_concurrency).unwrap_or(i32::MAX));
    each > 0.0 && load >= FULL * each * f64::from(ready)
}

/// What a look found out.
#[derive(Clone, PartialEq, Debug)]
pub enum Finding {
    /// The two have not agreed for [`LASTING`].
    Differs {
        /// In what.
        aspect: Aspect,
        /// Since when.
        since: Timestamp,
        /// What we want.
        ours: i32,
        /// What they want.
        theirs: i32,
    },
    /// A difference that was told is over, or cannot be judged any more.
    Over {
        /// In what.
        aspect: Aspect,
        /// Since when they differed.
        since: Timestamp,
        /// How long.
        lasted: Span,
        /// Whether they agree again; otherwise they just cannot be compared any more.
        agreed: bool,
    },
}

/// The course of one revision's comparison.
#[derive(Clone, Debug)]
pub struct Comparison {
    tracks: [Track; Aspect::ALL.len()],
    /// When the time began that we have seen all of.
    seen_since: Timestamp,
    /// When an activator was last in the path.
    in_path_at: Option<Timestamp>,
    /// When the pods were last so full that requests may have waited in an activator.
    full_at: Option<Timestamp>,
    /// Since when we panic without a break.
    panicking_from: Option<Timestamp>,
    last_look: Option<Timestamp>,
    basis: Basis,
    /// How long it was judged, exactly and approximately.
    compared: [Span; 2],
    /// Of that, how long it differed in anything.
    differed: Span,
    /// Of that, how long it differed in each aspect.
    differed_in: [Span; Aspect::ALL.len()],
}

impl Comparison {
    /// One that begins at `now`.
    pub fn starting(now: Timestamp) -> Self {
        Self {
            tracks: Default::default(),
            seen_since: now,
            in_path_at: None,
            full_at: None,
            panicking_from: None,
            last_look: None,
            basis: Basis::Warming,
            compared: [Span::ZERO; 2],
            differed: Span::ZERO,
            differed_in: [Span::ZERO; Aspect::ALL.len()],
        }
    }

    /// Takes in what there is to see now; at most one finding per aspect.
    pub fn look(&mut self, sight: &Sight) -> Vec<Finding> {
        let passed = self.last_look.map_or(Span::ZERO, |last| sight.at.since(last)).clamp(Span::ZERO, LONGEST_GAP);
        self.last_look = Some(sight.at);
        self.basis = self.judge_basis(sight);
        match self.basis {
            Basis::Exact => self.compared[0] = self.compared[0] + passed,
            Basis::Approximate => self.compared[1] = self.compared[1] + passed,
            Basis::Warming | Basis::Blind => {}
        }
        let more_unseen = self.full_at.is_some_and(|at| self.remembers(at, sight));

        let was_differing = self.differs();
        let mut caught_up = if was_differing { passed } else { Span::ZERO };
        let mut findings = Vec::new();
        for aspect in Aspect::ALL {
            let index = aspect as usize;
            // Replicas only follow from the number of pods.
            let comparable = self.basis.is_judged()
                && (aspect != Aspect::Replicas || self.tracks[Aspect::Pods as usize].apart_since.is_none());
            let answers = sight.ours[index].zip(sight.theirs[index]).filter(|_| comparable);
            let track = &mut self.tracks[index];
            let Some((ours, theirs)) = answers else {
                findings.extend(track.end(sight.at, aspect, false));
                track.recent.clear();
                continue;
            };
            if track.told {
                self.differed_in[index] = self.differed_in[index] + passed;
            }
            let (low, high) = range(aspect, ours, sight.tolerance, more_unseen);
            let finding = track.take_in(sight.at, aspect, Sample { low, high, theirs }, ours);
            if let Some(Finding::Differs { since, .. }) = finding {
                // It differed all the while that it was not yet known to last.
                let until_now = sight.at.since(since);
                self.differed_in[index] = self.differed_in[index] + until_now;
                if !was_differing {
                    caught_up = caught_up.max(until_now);
                }
            }
            findings.extend(finding);
        }
        self.differed = self.differed + caught_up;
        findings
    }

    /// How well the running autoscaler's inputs were known at the last look.
    pub fn basis(&self) -> Basis {
        self.basis
    }

    /// Whether there is a difference that was told and is not over.
    pub fn differs(&self) -> bool {
        self.tracks.iter().any(|track| track.told)
    }

    /// The aspects in which there is one.
    pub fn differing(&self) -> impl Iterator<Item = Aspect> {
        Aspect::ALL.into_iter().filter(|aspect| self.tracks[*aspect as usize].told)
    }

    /// How long it was judged on this basis.
    pub fn compared(&self, basis: Basis) -> Span {
        match basis {
            Basis::Exact => self.compared[0],
            Basis::Approximate => self.compared[1],
            Basis::Warming | Basis::Blind => Span::ZERO,
        }
    }

    /// How long it differed in anything.
    pub fn differed(&self) -> Span {
        self.differed
    }

    /// How long it differed in one aspect.
    pub fn differed_in(&self, aspect: Aspect) -> Span {
        self.differed_in[aspect as usize]
    }

    fn judge_basis(&mut self, sight: &Sight) -> Basis {
        self.panicking_from = match self.panicking_from {
            _ if !sight.panicking => None,
            None => Some(sight.at),
            from => from,
        };
        if sight.blind.is_some() {
            self.seen_since = sight.at;
            return Basis::Blind;
        }
        if sight.in_path {
            self.in_path_at = Some(sight.at);
            if sight.full {
                self.full_at = Some(sight.at);
            }
        }
        if self.remembers(self.seen_since, sight) {
            Basis::Warming
        } else if self.in_path_at.is_some_and(|at| self.remembers(at, sight)) {
            Basis::Approximate
        } else {
            Basis::Exact
        }
    }

    /// Whether a decision now may depend on what happened at `then`. A panic without a break keeps the peak it began with,
    /// however long ago that was.
    fn remembers(&self, then: Timestamp, sight: &Sight) -> bool {
        let from = self.panicking_from.unwrap_or(sight.at);
        from.since(then) < sight.memory
    }
}

/// The numbers that count as ours. `more_unseen`: the running autoscaler may have seen more load than we did.
fn range(aspect: Aspect, ours: i32, tolerance: Tolerance, more_unseen: bool) -> (i32, i32) {
    match aspect {
        Aspect::Pods if more_unseen => (ours.saturating_sub(tolerance.fewer), i32::MAX),
        Aspect::Pods => (ours.saturating_sub(tolerance.fewer), ours.saturating_add(tolerance.more)),
        Aspect::Mode if tolerance.mode => (0, SERVE),
        // With more load there is less room for a burst.
        Aspect::Mode if more_unseen => (0, ours),
        Aspect::Mode | Aspect::Replicas | Aspect::Activators => (ours, ours),
    }
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    low: i32,
    high: i32,
    theirs: i32,
}

/// The last moments of one aspect.
#[derive(Clone, Debug, Default)]
struct Track {
    recent: VecDeque<(Timestamp, Sample)>,
    apart_since: Option<Timestamp>,
    told: bool,
}

impl Track {
    fn take_in(&mut self, at: Timestamp, aspect: Aspect, sample: Sample, ours: i32) -> Option<Finding> {
        while self.recent.front().is_some_and(|(then, _)| at.since(*then) > NEAR) {
            self.recent.pop_front();
        }
        self.recent.push_back((at, sample));
        let (mut ours_low, mut ours_high) = (sample.low, sample.high);
        let (mut theirs_low, mut theirs_high) = (sample.theirs, sample.theirs);
        for (_, earlier) in &self.recent {
            ours_low = ours_low.min(earlier.low);
            ours_high = ours_high.max(earlier.high);
            theirs_low = theirs_low.min(earlier.theirs);
            theirs_high = theirs_high.max(earlier.theirs);
        }
        if ours_low <= theirs_high && theirs_low <= ours_high {
            return self.end(at, aspect, true);
        }
        let since = *self.apart_since.get_or_insert(at);
        if self.told || at.since(since) < LASTING {
            return None;
        }
        self.told = true;
        Some(Finding::Differs { aspect, since, ours, theirs: sample.theirs })
    }

    /// They are not apart now, because they agree or because they cannot be compared.
    fn end(&mut self, at: Timestamp, aspect: Aspect, agreed: bool) -> Option<Finding> {
        let since = self.apart_since.take()?;
        std::mem::take(&mut self.told).then(|| Finding::Over { aspect, since, lasted: at.since(since), agreed })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::decision::Observed;
    use crate::units::ScalingMetric;
    use arrayvec::ArrayVec;

    const START: Timestamp = Timestamp::from_seconds(1_785_542_400);
    /// Two windows of a minute.
    const MEMORY: Span = Span::from_seconds(120);

    fn at(seconds: i64) -> Timestamp {
        START + Span::from_seconds(seconds)
    }

    /// Both want `ours` and `theirs` pods, and all else is the same.
    fn sight(seconds: i64, ours: i32, theirs: i32) -> Sight {
        let answers = |pods| [Some(pods), Some(theirs), Some(SERVE), Some(2)];
        Sight {
            at: at(seconds),
            blind: None,
            in_path: false,
            full: false,
            panicking: false,
            memory: MEMORY,
            ours: answers(ours),
            tolerance: Tolerance::default(),
            theirs: answers(theirs),
        }
    }

    /// A comparison that has seen all a decision can remember, at second 0, both wanting 3 pods.
    fn warmed() -> Comparison {
        let mut comparison = Comparison::starting(at(-130));
        for second in -130..=0 {
            assert_eq!(comparison.look(&sight(second, 3, 3)), []);
        }
        assert_eq!(comparison.basis(), Basis::Exact);
        comparison
    }

    /// The seconds of the findings, and what they are, when both want these pods second by second.
    fn findings(comparison: &mut Comparison, seconds: &[(i32, i32)]) -> Vec<(i64, Finding)> {
        let mut found = Vec::new();
        for (second, (ours, theirs)) in (1..).zip(seconds) {
            found.extend(comparison.look(&sight(second, *ours, *theirs)).into_iter().map(|finding| (second, finding)));
        }
        found
    }

    #[test]
    fn a_step_that_one_takes_later_is_no_difference() {
        for later in [1, 2, 4, 6, 9] {
            let ours: Vec<(i32, i32)> = (0..40)
                .map(|second| (if second < 5 { 3 } else { 8 }, if second < 5 + later { 3 } else { 8 }))
                .collect();
            assert_eq!(findings(&mut warmed(), &ours), [], "{later} s later");
        }
    }

    #[test]
    fn a_ramp_that_one_climbs_behind_the_other_is_no_difference() {
        // One pod each two seconds, the other five seconds behind: two or three pods apart at any time.
        let ramp: Vec<(i32, i32)> = (0..60).map(|second| (3 + second / 2, 3 + (second - 5).max(0) / 2)).collect();
        assert_eq!(findings(&mut warmed(), &ramp), []);
    }

    #[test]
    fn a_difference_that_lasts_is_told_once_with_its_beginning_and_its_end() {
        let mut seconds = vec![(8, 7); 30];
        seconds.extend([(8, 8); 10]);
        let mut comparison = warmed();
        // Second 7 is the first whose last six seconds have no common number (second 0 had 3 and 3).
        let want = [
            (17, Finding::Differs { aspect: Aspect::Pods, since: at(7), ours: 8, theirs: 7 }),
            (31, Finding::Over { aspect: Aspect::Pods, since: at(7), lasted: Span::from_seconds(24), agreed: true }),
        ];
        assert_eq!(findings(&mut comparison, &seconds), want);
        assert_eq!(comparison.differed(), Span::from_seconds(24));
        assert_eq!(comparison.differed_in(Aspect::Pods), Span::from_seconds(24));
        assert_eq!(comparison.differed_in(Aspect::Mode), Span::ZERO);
        assert!(!comparison.differs());
        // From second -10 to 0 it was judged eleven times, and 40 times after that.
        assert_eq!(comparison.compared(Basis::Exact), Span::from_seconds(51));
    }

    #[test]
    fn within_tolerance_is_no_difference() {
        let mut comparison = warmed();
        for second in 1..60 {
            let tolerance = Tolerance { fewer: 1, more: 0, mode: false };
            assert_eq!(comparison.look(&Sight { tolerance, ..sight(second, 8, 7) }), []);
        }
        let mut comparison = warmed();
        let told = (1..60).flat_map(|second| {
            let tolerance = Tolerance { fewer: 0, more: 1, mode: false };
            comparison.look(&Sight { tolerance, ..sight(second, 8, 7) })
        });
        assert_eq!(told.count(), 1, "the tolerance is on the other side");
    }

    #[test]
    fn each_aspect_is_told_by_itself_and_replicas_only_while_the_pods_agree() {
        let mut comparison = warmed();
        let mut told = Vec::new();
        for second in 1..60 {
            let mut sight = sight(second, 3, 3);
            sight.theirs = [Some(3), Some(5), Some(0), Some(4)];
            told.extend(comparison.look(&sight));
        }
        let aspects: Vec<_> = told
            .iter()
            .map(|finding| match finding {
                Finding::Differs { aspect, ours, theirs, .. } => (*aspect, *ours, *theirs),
                Finding::Over { .. } => panic!("{finding:?}"),
            })
            .collect();
        assert_eq!(aspects, [(Aspect::Replicas, 3, 5), (Aspect::Mode, 1, 0), (Aspect::Activators, 2, 4)]);
        assert_eq!(comparison.differed(), Span::from_seconds(52), "seconds 7 to 59 are counted once");

        let mut comparison = warmed();
        let told = (1..60).flat_map(|second| {
            let mut sight = sight(second, 8, 3);
            sight.theirs[1] = Some(5);
            comparison.look(&sight)
        });
        assert!(told.eq([Finding::Differs { aspect: Aspect::Pods, since: at(7), ours: 8, theirs: 3 }]));
    }

    #[test]
    fn what_cannot_be_seen_is_not_judged_for_as_long_as_a_decision_remembers() {
        for (name, change, during, after, free_at) in [
            (
                "no pods",
                (|sight: &mut Sight| sight.blind = Some(Blind::NoPods)) as fn(&mut Sight),
                Basis::Blind,
                Basis::Warming,
                130,
            ),
            ("activator in the path", |sight| sight.in_path = true, Basis::Approximate, Basis::Approximate, 130),
        ] {
            let mut comparison = warmed();
            for second in 1..=10 {
                let mut sight = sight(second, 3, 3);
                change(&mut sight);
                comparison.look(&sight);
                assert_eq!(comparison.basis(), during, "{name}");
            }
            for second in 11..200 {
                comparison.look(&sight(second, 3, 3));
                let want = if second < free_at { after } else { Basis::Exact };
                assert_eq!(comparison.basis(), want, "{name}, {second}");
            }
        }
    }

    #[test]
    fn a_panic_without_a_break_remembers_longer() {
        let mut comparison = warmed();
        comparison.look(&Sight { in_path: true, ..sight(1, 3, 3) });
        for second in 2..300 {
            comparison.look(&Sight { panicking: true, ..sight(second, 3, 3) });
            assert_eq!(comparison.basis(), Basis::Approximate, "{second}");
        }
        comparison.look(&sight(300, 3, 3));
        assert_eq!(comparison.basis(), Basis::Exact);
    }

    #[test]
    fn with_full_pods_behind_an_activator_they_may_want_more_but_not_fewer() {
        let look = |theirs: i32| {
            let mut comparison = warmed();
            let full = |second| Sight { in_path: true, full: true, ..sight(second, 8, theirs) };
            (1..60).flat_map(|second| comparison.look(&full(second))).count()
        };
        assert_eq!((look(12), look(8), look(7)), (0, 0, 1));
    }

    #[test]
    fn a_difference_that_cannot_be_judged_any_more_is_over() {
        let mut comparison = warmed();
        findings(&mut comparison, &[(8, 7); 20]);
        assert!(comparison.differs());
        let gone = comparison.look(&Sight { blind: Some(Blind::NoPods), ..sight(21, 8, 7) });
        assert_eq!(
            gone,
            [Finding::Over { aspect: Aspect::Pods, since: at(7), lasted: Span::from_seconds(14), agreed: false }]
        );
        assert!(!comparison.differs());
    }

    #[test]
    fn time_in_which_nobody_looked_is_not_compared() {
        let mut comparison = warmed();
        let before = comparison.compared(Basis::Exact);
        comparison.look(&sight(3_600, 3, 3));
        assert_eq!(comparison.compared(Basis::Exact), before + LONGEST_GAP);
    }

    fn decision(desired: i32, excess: f64, because: &[Reason]) -> Decision {
        Decision {
            at: START,
            desired,
            excess_burst: saturating_i32(excess),
            excess_burst_exact: excess,
            ready: desired,
            observed: Observed { stable: 49.0, panic: 50.0 },
            metric: ScalingMetric::Concurrency,
            target: 7.0,
            panicking_since: None,
            because: because.iter().copied().collect::<ArrayVec<_, _>>(),
        }
    }

    #[test]
    fn tolerance_is_what_another_moment_could_have_measured() {
        let metric = ScalingMetric::Concurrency;
        let stable = |load: f64| Reason::StableTarget { metric, load, target: 7.0, wanted: (load / 7.0).ceil() };
        let holds = Reason::PanicHolds { floor: 25, wanted: 7, since: START, window: MEMORY };
        let delay = Reason::HeldByDelay { wanted: 7, kept: 120, delay: MEMORY };
        for (name, desired, because, fewer, more) in [
            ("middle of a step", 8, &[stable(52.0)][..], 0, 0),
            // 49 / 7 = 7 exactly, and 49.98 / 7 = 7.14
            ("upper edge of a step", 7, &[stable(49.0)], 0, 1),
            // 49.5 / 7 = 7.07, and 48.51 / 7 = 6.93
            ("lower edge of a step", 8, &[stable(49.5)], 1, 0),
            // 686 to 714 around 700, by 7: 98 to 102
            ("many pods", 100, &[stable(700.0)], 2, 2),
            ("nothing", 0, &[stable(0.0)], 0, 0),
            ("panic holds a peak", 25, &[stable(49.0), holds], 3, 3),
            ("delay holds a peak", 120, &[stable(49.0), delay], 3, 3),
            ("a rate", 2, &[stable(700.0), Reason::RateLimitedUp { wanted: 100.0, limit: 2.0 }], 0, 0),
        ] {
            let tolerance = tolerance(&decision(desired, 100.0, because));
            assert_eq!((tolerance.fewer, tolerance.more), (fewer, more), "{name}");
        }
        for (excess, mode) in [(-6.0, false), (-5.0, true), (0.0, true), (5.0, true), (6.0, false)] {
            assert_eq!(tolerance(&decision(8, excess, &[stable(52.0)])).mode, mode, "{excess}");
        }
    }

    #[test]
    fn pods_are_full_at_nine_tenths_of_what_they_take() {
        for (load, ready, concurrency, want) in
            [(18.0, 2, 10, true), (17.9, 2, 10, false), (1e6, 1, 0, false), (0.0, 0, 10, true)]
        {
            assert_eq!(is_full(load, ready, concurrency), want, "{load} {ready} {concurrency}");
        }
    }
}
