//! What the last hour of each revision looked like, for the page.
//!
//! Every two seconds each revision is looked at. A look is kept where it differs visibly from the one kept before, so a
//! revision at rest costs nothing. All revisions share one ring of [`MOST_POINTS`]; each point knows how far back the one
//! before it of the same revision is, so reading one revision touches its own points only, and the oldest point of all
//! makes room for the newest. When many revisions change at once, the points of each are further apart, so that the ring
//! still reaches back [`REACH`]; changes of pods and of state are always kept.
//!
//! # Decisions
//!
//! 2026-11: The history is looked up from outside, and not kept by the engine: a decision is not a nanosecond slower for
//! it, and 10,000 revisions take 7.3 MB together instead of some kilobytes each. What is older than the hour is for the
//! journal.

use crate::api::pods::PodCounts;
use crate::engine::Decision;
use crate::observe::plan::Plan;
use crate::observe::state::{State, wanted};
use crate::routing::gate;
use crate::units::{RevisionKey, ScalingMetric, Span, Timestamp};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How often revisions are looked at: as often as they are decided on.
pub const EVERY: Span = Span::from_seconds(2);
/// Points kept, of all revisions together; 28 bytes each.
pub const MOST_POINTS: usize = 1 << 18;
/// How far back the ring reaches however many revisions there are, if their pods do not change all the time.
pub const REACH: Span = Span::from_seconds(15 * 60);
/// How far back is told of at most.
pub const LONGEST: Span = Span::from_seconds(60 * 60);
/// Smaller changes of a load, as a part of it, cannot be seen.
const VISIBLE: f32 = 0.005;
/// The unit points keep their time in.
const TENTH: Span = Span::from_millis(100);

/// A revision at one moment, as it is drawn.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Sight {
    /// Load over the stable window; 0 before the first decision.
    pub stable: f32,
    /// Load over the panic window.
    pub panic: f32,
    /// Load one pod should carry.
    pub target: f32,
    /// Pods wanted; 65,535 stands for any more, here and below.
    pub wanted: u16,
    /// Pods ready.
    pub ready: u16,
    /// Pods that are there and not ready.
    pub not_ready: u16,
    /// How it is doing.
    pub state: State,
    /// What else is to be seen: the sum of some of the flags below.
    pub flags: u8,
}

impl Sight {
    /// It panics.
    pub const PANIC: u8 = 1;
    /// The activator is to be in the path.
    pub const ACTIVATOR: u8 = 2;
    /// The load is in requests per second.
    pub const RPS: u8 = 4;
    /// How many pods are wanted is not known, so `wanted` says nothing.
    pub const UNKNOWN: u8 = 64;
    /// Times this, how a load balancer leads to it: 0 none does, 1 to its pods, 2 it changes over, 3 to activators, 4 it did
    /// not follow, so that the last pod stays.
    pub const GATE: u8 = 8;

    /// What is to be seen of a revision.
    pub fn of(decision: Option<&Decision>, plan: Option<&Plan>, pods: PodCounts) -> Self {
        let mut flags = 0;
        let mut raise = |flag, when: bool| flags |= if when { flag } else { 0 };
        raise(Self::PANIC, decision.is_some_and(|decision| decision.panicking_since.is_some()));
        // Where nothing is made of decisions, what would be.
        let in_path = |decision: &Decision| decision.desired <= 0 || decision.excess_burst < 0;
        raise(Self::ACTIVATOR, plan.map_or_else(|| decision.is_some_and(in_path), |plan| plan.proxied));
        raise(Self::RPS, decision.is_some_and(|decision| decision.metric == ScalingMetric::Rps));
        let wanted = wanted(decision, plan);
        raise(Self::UNKNOWN, wanted.is_none());
        flags += Self::GATE * plan.and_then(|plan| plan.gate).map_or(0, led);
        let load = |of: fn(&Decision) -> f64| decision.map_or(0.0, |decision| short(of(decision)));
        let count = |count: usize| u16::try_from(count).unwrap_or(u16::MAX);
        Self {
            stable: load(|decision| decision.observed.stable),
            panic: load(|decision| decision.observed.panic),
            target: load(|decision| decision.target),
            wanted: u16::try_from(wanted.unwrap_or(0).max(0)).unwrap_or(u16::MAX),
            ready: count(pods.ready),
            not_ready: count(pods.not_ready),
            state: State::of(decision, plan, pods),
            flags,
        }
    }

    /// Whether pods, target or state differ.
    fn turns(&self, before: &Self) -> bool {
        let without_load = |sight: &Self| Self { stable: 0.0, panic: 0.0, ..*sight };
        without_load(self) != without_load(before)
    }

    /// Whether a load differs so that it can be seen.
    fn moves(&self, before: &Self) -> bool {
        let visible = |now: f32, then: f32| (now - then).abs() > VISIBLE * now.abs().max(then.abs());
        visible(self.stable, before.stable) || visible(self.panic, before.panic)
    }
}

/// How a load balancer leads to a revision, in a number.
fn led(gate: gate::State) -> u8 {
    use gate::State::{BridgingDown, BridgingUp, Burst, Cold, ColdConfirmed, Draining, Held, Unrouted, Waking, Warm};
    match gate {
        Unrouted => 0,
        Warm | Burst => 1,
        BridgingDown | Draining | Waking | BridgingUp => 2,
        ColdConfirmed | Cold => 3,
        Held => 4,
    }
}

#[expect(clippy::cast_possible_truncation, reason = "it is drawn, and a float of 32 bits is finer than any screen")]
fn short(value: f64) -> f32 {
    value as f32
}

/// A point of a revision's history.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Point {
    /// Since when it looked like this, to a tenth of a second.
    pub at: Timestamp,
    /// How it looked.
    pub sight: Sight,
}

/// A row of the list of revisions.
#[derive(Clone, PartialEq, Debug)]
pub struct Row {
    /// Which.
    pub key: RevisionKey,
    /// How it looks now.
    pub sight: Sight,
    /// When the pods wanted last changed, or since when it is known.
    pub turned: Timestamp,
}

/// What changed in the list since somebody looked.
#[derive(Clone, PartialEq, Debug)]
pub struct News {
    /// The look this is of; ask for what came after it next time.
    pub look: u64,
    /// When that was.
    pub at: Timestamp,
    /// Whether these are all rows, rather than those that changed.
    pub whole: bool,
    /// Revisions another replica owns, which are not among the rows.
    pub elsewhere: usize,
    /// The rows, in no order.
    pub rows: Vec<Row>,
}

/// The history of every revision. Cheap to clone; all clones are one.
#[derive(Clone, Debug, Default)]
pub struct History {
    shared: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Time zero of the points: the first look.
    start: Timestamp,
    ring: Vec<Kept>,
    /// Points kept so far, those that made room included.
    count: u64,
    series: HashMap<RevisionKey, Series>,
    /// Looks so far.
    look: u64,
    at: Timestamp,
    /// The last look at which a revision was gone.
    left: u64,
    /// Revisions whose load moved in this look.
    moving: usize,
    elsewhere: usize,
    /// Points of one revision that only tell of load are no closer than this.
    spacing: u32,
}

#[derive(Clone, Copy, Debug)]
struct Kept {
    /// How many points back the one before of this revision is; 0 when there is none.
    back: u32,
    /// In tenths of a second since the start.
    at: u32,
    sight: Sight,
}

#[derive(Debug)]
struct Series {
    /// As of the last look.
    present: Sight,
    /// The number of its last point, from 1.
    last: u64,
    /// The look that last found a difference.
    changed: u64,
    /// The last look it was there.
    seen: u64,
    turned: Timestamp,
    /// Its last point.
    kept: (u32, Sight),
}

impl History {
    /// A look begins.
    pub fn begin(&self, now: Timestamp) {
        let mut inner = self.lock();
        if inner.look == 0 {
            inner.start = now;
        }
        inner.look += 1;
        inner.at = inner.at.max(now);
        inner.moving = 0;
    }

    /// Some of the revisions as this look finds them.
    pub fn note(&self, sights: impl IntoIterator<Item = (RevisionKey, Sight)>) {
        let mut inner = self.lock();
        for (key, sight) in sights {
            inner.note(key, sight);
        }
    }

    /// A look ends: what it did not find is gone. `elsewhere` counts the revisions another replica owns.
    pub fn end(&self, elsewhere: usize) {
        let mut inner = self.lock();
        inner.elsewhere = elsewhere;
        let (look, before) = (inner.look, inner.series.len());
        inner.series.retain(|_, series| series.seen == look);
        if inner.series.len() != before {
            inner.left = look;
        }
        let apart = REACH.nanos() / TENTH.nanos();
        let apart = u64::try_from(apart).unwrap_or(0).saturating_mul(inner.moving as u64) / MOST_POINTS as u64;
        inner.spacing = u32::try_from(apart).unwrap_or(u32::MAX);
    }

    /// The rows that changed since a look, or all of them where that was never, or too long ago to tell.
    pub fn since(&self, look: u64) -> News {
        let inner = self.lock();
        // A look of another process, or from before something went, says nothing about what is there.
        let whole = look == 0 || look > inner.look || look < inner.left;
        let rows = inner.series.iter().filter(|(_, series)| whole || look < series.changed);
        let row = |(key, series): (&RevisionKey, &Series)| Row {
            key: key.clone(),
            sight: series.present,
            turned: series.turned,
        };
        let Inner { look, at, elsewhere, .. } = *inner;
        News { look, at, whole, elsewhere, rows: rows.map(row).collect() }
    }

    /// The number of the last look.
    pub fn look(&self) -> u64 {
        self.lock().look
    }

    /// The points of a revision from `from` on, oldest first; the first one tells how it was at `from`, where that is
    /// still known. `None` where there is no such revision.
    pub fn points(&self, key: &RevisionKey, from: Timestamp) -> Option<Vec<Point>> {
        let inner = self.lock();
        let series = inner.series.get(key)?;
        let mut points = vec![Point { at: inner.at, sight: series.present }];
        // The last point may have made room for others while the revision was at rest.
        points.push(Point { at: inner.time(series.kept.0), sight: series.kept.1 });
        let mut number = series.last;
        while points.last().is_some_and(|point| point.at > from)
            && let Some(kept) = inner.get(number).filter(|kept| kept.back > 0)
        {
            number -= u64::from(kept.back);
            let Some(kept) = inner.get(number) else { break };
            points.push(Point { at: inner.time(kept.at), sight: kept.sight });
        }
        if let Some(first) = points.last_mut() {
            first.at = first.at.max(from);
        }
        points.reverse();
        Some(points)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn note(&mut self, key: RevisionKey, sight: Sight) {
        let now = u32::try_from(self.at.since(self.start).nanos() / TENTH.nanos()).unwrap_or(u32::MAX);
        let (look, at, next) = (self.look, self.at, self.count + 1);
        let back;
        match self.series.get_mut(&key) {
            None => {
                back = 0;
                let fresh =
                    Series { present: sight, last: next, changed: look, seen: look, turned: at, kept: (now, sight) };
                self.series.insert(key, fresh);
            }
            Some(series) => {
                series.seen = look;
                if series.present == sight {
                    return;
                }
                series.changed = look;
                // Compared with the last look: what comes back to the point kept moves all the same.
                self.moving += usize::from(sight.moves(&series.present));
                if series.present.wanted != sight.wanted {
                    series.turned = at;
                }
                series.present = sight;
                let (kept_at, kept) = series.kept;
                let moves = sight.moves(&kept) && now.saturating_sub(kept_at) >= self.spacing;
                let keeps = sight.turns(&kept) || moves;
                if !keeps {
                    return;
                }
                // A distance no ring is as long as is as good as none.
                back = u32::try_from(next - series.last).unwrap_or(0);
                (series.last, series.kept) = (next, (now, sight));
            }
        }
        let kept = Kept { back, at: now, sight };
        self.count = next;
        if self.ring.len() < MOST_POINTS {
            self.ring.push(kept);
        } else {
            let place = place(next);
            self.ring[place] = kept;
        }
    }

    /// A point by its number, unless it made room.
    fn get(&self, number: u64) -> Option<&Kept> {
        let is_kept = 0 < number && number <= self.count && self.count - number < MOST_POINTS as u64;
        self.ring.get(place(number)).filter(|_| is_kept)
    }

    fn time(&self, at: u32) -> Timestamp {
        self.start + Span::from_nanos(i64::from(at) * TENTH.nanos())
    }
}

/// Where in the ring a point stands; numbers begin at 1.
fn place(number: u64) -> usize {
    usize::try_from(number.wrapping_sub(1) % MOST_POINTS as u64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const START: Timestamp = Timestamp::from_seconds(1_785_542_400);

    fn key(number: usize) -> RevisionKey {
        RevisionKey::new("default", &format!("r{number}"))
    }

    fn sight(stable: f32, wanted: u16) -> Sight {
        Sight { stable, wanted, target: 7.0, state: State::Steady, ..Sight::default() }
    }

    /// A look every two seconds at what `of` says of each revision.
    fn look(history: &History, number: i64, sights: impl IntoIterator<Item = (usize, Sight)>) {
        history.begin(START + Span::from_seconds(2 * number));
        history.note(sights.into_iter().map(|(number, sight)| (key(number), sight)));
        history.end(0);
    }

    #[test]
    fn what_can_be_seen_is_kept_and_what_goes_is_told_of() {
        let history = History::default();
        look(&history, 0, [(1, sight(10.0, 2)), (2, sight(0.0, 0))]);
        look(&history, 1, [(1, sight(10.01, 2)), (2, sight(0.0, 0))]);
        look(&history, 2, [(1, sight(12.0, 2)), (2, sight(0.0, 0))]);
        look(&history, 3, [(1, sight(12.0, 3)), (2, sight(0.0, 0))]);
        look(&history, 4, [(1, sight(12.0, 3)), (2, sight(0.0, 0))]);
        let points = |from| {
            let points = history.points(&key(1), from).expect("points");
            points
                .iter()
                .map(|point| (point.at.since(START).nanos() / 1_000_000_000, point.sight.stable, point.sight.wanted))
                .collect::<Vec<_>>()
        };
        assert_eq!(points(START), [(0, 10.0, 2), (4, 12.0, 2), (6, 12.0, 3), (8, 12.0, 3)]);
        assert_eq!(points(START + Span::from_seconds(5)), [(5, 12.0, 2), (6, 12.0, 3), (8, 12.0, 3)]);
        assert_eq!(history.points(&key(9), START), None);

        let news = |since| {
            let news = history.since(since);
            let mut keys: Vec<_> = news.rows.into_iter().map(|row| row.key.name().to_owned()).collect();
            keys.sort();
            (news.look, news.whole, keys.join(" "))
        };
        assert_eq!(news(0), (5, true, "r1 r2".to_owned()));
        assert_eq!(news(3), (5, false, "r1".to_owned()), "the fourth look found another number");
        assert_eq!(news(4), (5, false, String::new()));
        assert_eq!(news(77), (5, true, "r1 r2".to_owned()), "a look of another process");
        look(&history, 5, [(2, sight(0.0, 0))]);
        assert_eq!(news(5), (6, true, "r2".to_owned()), "one is gone");
        assert_eq!(news(6), (6, false, String::new()));
        assert_eq!(history.points(&key(1), START), None);
    }

    #[test]
    fn a_revision_at_rest_is_known_after_its_points_made_room() {
        let history = History::default();
        let busy = MOST_POINTS / 8;
        for number in 0_u16..10 {
            let all = (1..=busy).map(|revision| (revision, sight(1.0, number)));
            look(&history, number.into(), all.chain([(0, sight(3.0, 1))]));
        }
        let inner = history.lock();
        assert_eq!(inner.ring.len(), MOST_POINTS);
        drop(inner);
        let rest = history.points(&key(0), START).expect("points");
        assert_eq!((rest.len(), rest[0].at, rest[0].sight), (2, START, sight(3.0, 1)));
        let of_one = history.points(&key(busy), START).expect("points");
        assert_eq!(of_one.last().map(|point| point.sight.wanted), Some(9));
        assert!((7..=9).contains(&of_one.len()), "{}", of_one.len());
    }

    #[test]
    fn many_busy_revisions_are_told_of_less_often_each_and_as_far_back() {
        let history = History::default();
        // Nearly as many as fit with a fourth of the looks.
        let revisions = 18 * MOST_POINTS / (5 * 450);
        let looks = 450_u16;
        for number in 0..looks {
            let load = [5.0, 9.0, 14.0][usize::from(number % 3)];
            look(&history, number.into(), (0..revisions).map(|revision| (revision, sight(load, 1))));
        }
        let points = history.points(&key(0), START).expect("points");
        assert_eq!(points[0].at, START, "the ring reaches back a quarter of an hour");
        assert!((100..150).contains(&points.len()), "a fourth of the looks: {}", points.len());
    }

    proptest! {
        #[test]
        fn the_points_are_the_looks_that_differ(looks in proptest::collection::vec(
            proptest::collection::vec((0_u8..3, 0_u16..4), 1..4), 1..40,
        )) {
            let history = History::default();
            for (number, wanted) in looks.iter().enumerate() {
                let sights = wanted.iter().enumerate().map(|(revision, (load, wanted))| {
                    (revision, sight(f32::from(*load), *wanted))
                });
                look(&history, i64::try_from(number).expect("few"), sights);
            }
            let last = looks.last().expect("at least one");
            for revision in 0..4 {
                let points = history.points(&key(revision), START);
                prop_assert_eq!(points.is_some(), revision < last.len());
                let Some(points) = points else { continue };
                // How it looked since it was last new.
                let since = looks.iter().rposition(|look| look.len() <= revision).map_or(0, |at| at + 1);
                let mut want: Vec<(i64, Sight)> = Vec::new();
                for (number, look) in looks.iter().enumerate().skip(since) {
                    let (load, wanted) = look[revision];
                    let sight = sight(f32::from(load), wanted);
                    if want.last().is_none_or(|(_, before)| *before != sight) {
                        want.push((2 * i64::try_from(number).expect("few"), sight));
                    }
                }
                let end = 2 * i64::try_from(looks.len() - 1).expect("few");
                want.push((end, want.last().expect("at least one").1));
                let seconds = |at: Timestamp| at.since(START).nanos() / 1_000_000_000;
                let got: Vec<_> = points.iter().map(|point| (seconds(point.at), point.sight)).collect();
                prop_assert_eq!(got, want);
            }
        }
    }
}
