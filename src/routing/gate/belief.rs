//! What the load balancer is known to do: which of the memberships written so far each way to a revision may still use.
//!
//! A load balancer follows a server group in order, late, and may skip versions. So for each way there is a first version
//! that may still be in use; every later one may come into use at any time. Answers to probes move that first version
//! forward, never backward:
//!
//! - one answer of a kind of server: the version in use holds that kind;
//! - so many answers in a row of one kind that chance cannot explain them: the version in use holds only that kind.
//!
//! A version that was replaced long ago ([`Timers::horizon`]) is not in use any more whatever was seen.
//!
//! What is written is known by looking, and a look may come too late for what was changed and changed back: then the same
//! kind stands there since later, and there was another version between.

use super::{Answer, Members, Probe, Target, Timers};
use crate::units::{Span, Timestamp, saturating_i32};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// The chance that a proof by answers in a row is wrong.
const DOUBT: f64 = 1e-9;
/// Answers in a row, at least and at most. More than the most are only needed where one kind of server is rare among
/// very many.
const LEAST_IN_A_ROW: u32 = 10;
const MOST_IN_A_ROW: u32 = 400;
/// Versions remembered at most. More changes than this within the horizon forget the oldest.
const MOST_VERSIONS: usize = 256;

/// A membership that was written.
#[derive(Clone, Copy, Debug)]
struct Version {
    number: u64,
    members: Members,
    /// Since when, as it was told.
    since: Timestamp,
    replaced: Option<Timestamp>,
}

/// What is known of one way.
#[derive(Clone, Debug)]
struct Sight {
    /// The first version that may be in use.
    first: u64,
    /// Whether anything at all is known of it.
    known: bool,
    saw_pod: bool,
    saw_activator: bool,
    /// Of which kind the last answers were, how many, and how many are needed.
    row: Option<(Members, u32, u32)>,
    counted: Option<Timestamp>,
    /// Since when nothing but the kind was seen that the latest version holds.
    only_since: Option<Timestamp>,
    last: Option<Answer>,
    good_at: Option<Timestamp>,
    next: Timestamp,
    pause: Span,
}

/// All ways to a revision, and all versions of its server groups.
#[derive(Clone, Debug, Default)]
pub(super) struct Belief {
    versions: VecDeque<Version>,
    sights: BTreeMap<Target, Sight>,
    /// Grows with every version; answers to older questions do not count.
    round: u64,
    pods: u32,
    activators: u32,
}

impl Belief {
    /// Takes in what is written now and since when, which ways there are, and how many servers of each kind. `fresh`: there
    /// was no way yet, so nobody uses what was written before.
    pub(super) fn look(
        &mut self,
        now: Timestamp,
        written: Option<(Members, Timestamp)>,
        targets: &BTreeSet<Target>,
        (pods, activators): (u32, u32),
        fresh: bool,
        timers: &Timers,
    ) {
        (self.pods, self.activators) = (pods, activators);
        let latest = self.versions.back().map(|version| (version.members, version.since));
        if let Some((members, since)) = written
            && latest.is_some_and(|(before, told)| before == members && told < since)
        {
            let between = if members == Members::Activators { Members::Pods } else { Members::Activators };
            self.append(between, since, since);
            self.append(members, since, now);
        }
        if let Some((members, since)) = written
            && latest.map(|(before, _)| before) != Some(members)
        {
            let first = self.versions.is_empty();
            if first && !fresh {
                // What was written before the first look is not known, so it may have been anything; and both kinds, as they
                // are in now, may be in from before activators were alone.
                let unknown: &[Members] = match members {
                    Members::Both => &[Members::Activators, Members::Both, Members::Activators],
                    Members::Pods | Members::Activators => &[Members::Activators, Members::Both],
                };
                for earlier in unknown {
                    self.append(*earlier, since, since);
                }
            }
            self.append(members, since, if first { since } else { now });
        }
        while fresh && self.versions.len() > 1 {
            self.versions.pop_front();
        }
        while self.versions.len() > 1
            && (self.versions.len() > MOST_VERSIONS
                || self.versions[0].replaced.is_some_and(|at| timers.horizon <= now.since(at)))
        {
            self.versions.pop_front();
        }
        let oldest = self.versions.front().map_or(0, |version| version.number);
        for sight in self.sights.values_mut().filter(|sight| sight.first < oldest) {
            // Time tells what cannot be in use any more; that the next is in use, only answers do.
            (sight.first, sight.known) = (oldest, false);
        }
        self.sights.retain(|target, _| targets.contains(target));
        for target in targets {
            if !self.sights.contains_key(target) {
                // A rule that leads to a group others lead to already finds it as they do.
                let group = self.sights.iter().find(|(other, _)| other.shares_group(target)).map(|(_, sight)| sight);
                let (first, known) = group.map_or((oldest, false), |sight| (sight.first, sight.known));
                self.sights.insert(target.clone(), Sight::new(first, known, now, timers));
            }
        }
    }

    /// Takes in an answer; says whether it contradicts what was believed.
    pub(super) fn answer(&mut self, now: Timestamp, probe: &Probe, answer: Answer, timers: &Timers) -> bool {
        let in_a_row = (self.in_a_row(Members::Activators), self.in_a_row(Members::Pods));
        let Some(sight) = self.sights.get_mut(&probe.target).filter(|_| probe.round == self.round) else {
            return false;
        };
        sight.last = Some(answer);
        let (kind, needed) = match answer {
            Answer::Activator => (Members::Activators, in_a_row.0),
            Answer::Pod => (Members::Pods, in_a_row.1),
            Answer::Elsewhere | Answer::NoRoute | Answer::Unavailable | Answer::Failed => {
                (sight.row, sight.only_since) = (None, None);
                sight.pause = Span::from_nanos(sight.pause.nanos().saturating_mul(2))
                    .clamp(timers.probe_interval, timers.probe_most);
                return false;
            }
        };
        sight.pause = timers.probe_spacing;
        match kind {
            Members::Pods => sight.saw_pod = true,
            _ => sight.saw_activator = true,
        }
        let spaced = sight.counted.is_none_or(|at| timers.probe_spacing <= now.since(at));
        let (count, most_needed) = match sight.row {
            Some((of, count, before)) if of == kind => (count + u32::from(spaced), needed.max(before)),
            _ => {
                sight.only_since = None;
                (1, needed)
            }
        };
        sight.row = Some((kind, count, most_needed));
        if spaced || count == 1 {
            sight.counted = Some(now);
        }
        let fits = |holds: fn(Members, Members) -> bool, from: u64| {
            self.versions.iter().find(|version| from <= version.number && holds(version.members, kind))
        };
        let Some(version) = fits(Members::holds, sight.first) else {
            // A load balancer that shows what it cannot show has done something we do not know of.
            sight.first = self.versions.front().map_or(0, |version| version.number);
            sight.known = false;
            (sight.row, sight.only_since) = (None, None);
            return true;
        };
        sight.first = version.number;
        if most_needed <= count
            && let Some(version) = fits(|members, kind| members == kind, sight.first)
        {
            sight.first = version.number;
            sight.only_since = sight.only_since.or(Some(now));
        }
        let latest = self.versions.back();
        if latest.is_some_and(|latest| latest.members.holds(kind)) {
            sight.good_at = Some(now);
        }
        if sight.settled(latest) {
            sight.known = true;
        }
        false
    }

    /// The questions due, and when the next one is. `refresh`: ask those too of which all is known, this often.
    pub(super) fn due(
        &mut self,
        now: Timestamp,
        refresh: Option<Span>,
        timers: &Timers,
    ) -> (Vec<Probe>, Option<Timestamp>) {
        let (mut due, mut next) = (Vec::new(), None::<Timestamp>);
        let latest = self.versions.back().copied();
        for (target, sight) in &mut self.sights {
            let settled = sight.settled(latest.as_ref());
            if settled && refresh.is_none() {
                continue;
            }
            if sight.next <= now {
                due.push(Probe { target: target.clone(), round: self.round });
                let pause = if settled { refresh.unwrap_or(sight.pause) } else { sight.pause };
                sight.next = now + pause.max(timers.probe_spacing);
            }
            next = Some(next.map_or(sight.next, |next| next.min(sight.next)));
        }
        (due, next)
    }

    /// Whether every way uses the latest version, and if not, the one that is furthest from it.
    pub(super) fn unsettled(&self) -> Option<(&Target, Option<Answer>)> {
        let latest = self.versions.back();
        let open = self.sights.iter().filter(|(target, sight)| {
            let by_another = || {
                // The rule is not in force, or not any more; what it would lead to was seen through another.
                matches!(sight.last, Some(Answer::Elsewhere | Answer::NoRoute))
                    && self
                        .sights
                        .iter()
                        .any(|(other, sight)| other != *target && other.shares_group(target) && sight.settled(latest))
            };
            !sight.settled(latest) && !by_another()
        });
        // The one that is furthest behind: that is the one to be named.
        let behind = |sight: &Sight| (sight.first, sight.row.map_or(0, |(_, count, _)| count));
        open.min_by_key(|(_, sight)| behind(sight)).map(|(target, sight)| (target, sight.last))
    }

    /// Since when nothing but activators was seen on every way; `None` when that is not so.
    pub(super) fn only_activators_since(&self) -> Option<Timestamp> {
        if self.versions.back().map(|version| version.members) != Some(Members::Activators)
            || self.unsettled().is_some()
        {
            return None;
        }
        self.sights.values().filter_map(|sight| sight.only_since).max()
    }

    /// When the way seen longest ago was last seen to be right.
    pub(super) fn seen_all_at(&self) -> Option<Timestamp> {
        let latest = self.versions.back();
        self.sights.values().filter(|sight| sight.settled(latest)).filter_map(|sight| sight.good_at).min()
    }

    /// What is written now.
    pub(super) fn written(&self) -> Option<Members> {
        self.versions.back().map(|version| version.members)
    }

    /// What is known is of another group; of this one nothing is.
    pub(super) fn forget(&mut self) {
        *self = Self { round: self.round + 1, ..Self::default() };
    }

    fn append(&mut self, members: Members, since: Timestamp, at: Timestamp) {
        let number = self.versions.back().map_or(0, |version| version.number + 1);
        if let Some(latest) = self.versions.back_mut() {
            latest.replaced = Some(at);
        }
        self.versions.push_back(Version { number, members, since, replaced: None });
        self.round += 1;
        for sight in self.sights.values_mut() {
            (sight.row, sight.only_since, sight.saw_pod, sight.saw_activator) = (None, None, false, false);
            sight.next = at;
        }
    }

    /// How many answers of this kind in a row prove that there is no other, were servers chosen by chance.
    fn in_a_row(&self, kind: Members) -> u32 {
        let (pods, activators) = (f64::from(self.pods.max(1)), f64::from(self.activators.max(1)));
        let share = if kind == Members::Pods { pods } else { activators } / (pods + activators);
        let needed = saturating_i32((DOUBT.ln() / share.ln()).ceil());
        u32::try_from(needed).unwrap_or(MOST_IN_A_ROW).clamp(LEAST_IN_A_ROW, MOST_IN_A_ROW)
    }
}

impl Sight {
    fn new(first: u64, known: bool, now: Timestamp, timers: &Timers) -> Self {
        Self {
            first,
            known,
            saw_pod: false,
            saw_activator: false,
            row: None,
            counted: None,
            only_since: None,
            last: None,
            good_at: None,
            next: now,
            pause: timers.probe_interval,
        }
    }

    fn settled(&self, latest: Option<&Version>) -> bool {
        latest.is_some_and(|latest| {
            self.first == latest.number
                && match latest.members {
                    Members::Both => self.saw_pod && self.saw_activator || self.known,
                    Members::Pods | Members::Activators => self.only_since.is_some(),
                }
        })
    }
}
