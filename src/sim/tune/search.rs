//! The search itself, stage by stage.

use super::space::{Candidate, Space};
use super::{
    CURRENT, DEFAULTS, Obstacle, Options, REQUEST_TAKES, Refusal, Sensitivity, TUNED, Tried, TuneError, Tuning,
};
use crate::sim::arrivals::{Arrivals, Part};
use crate::sim::batch::{self, Job, Watch};
use crate::sim::case::{Case, Strain};
use crate::sim::oracle;
use crate::sim::outcome::{Outcome, Work};
use crate::sim::random::{Purpose, below, stream};
use crate::sim::scenario::{Entry, Fixed, Kpa, Oracle, Scenario};
use crate::sim::screen::{CELL, unfit};
use crate::sim::stats::{average, paired, share_upper_bound, upper_bound};
use crate::sim::time::{HOUR, Length, MINUTE, Micros, from_seconds, seconds};
use crate::sim::world::Detail;
use crate::units::count_f64;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Points that are tried first.
const POINTS: usize = 256;
/// Of those, how many go on to the whole training part.
const FINALISTS: usize = 16;
/// Of those, how many are run under many seeds.
const LAST: usize = 4;
/// The part of what is allowed that those with room to spare use up.
const SPARE: f64 = 0.6;
/// Seeds of the second and third stage, and of the last ones.
const FEW_SEEDS: u32 = 2;
/// Seeds a claim is made with.
const SEEDS: u32 = 8;
/// From so many seeds on, their spread says how sure a mean is.
const ENOUGH_SEEDS: usize = 4;
/// How many candidates are run before it is looked at what they took.
const FEW: usize = 8;
/// How often at most a few neighbours are tried.
const STEPS: usize = 100;
/// Fewest requests.
const FEWEST_REQUESTS: u64 = 1000;
/// Fewest requests from the hour on in which the held-back part begins.
const FEWEST_HELD_BACK: u64 = 300;
/// Events of a simulated second beside those of its requests: ticks, scrapes, reports and looks.
const EVENTS_A_SECOND: f64 = 4.0;
/// Groups of pods there are at a time, and activators.
const GROUPS: f64 = 5.0;
/// A run that takes so many times as much as that of what is in force is given up, and so much more, in simulated
/// requests.
const GIVEN_UP: f64 = 10.0;
const IN_ANY_CASE: f64 = 400_000.0;
/// Why it is.
const ENDLESS: &str = ", under which it asks for pods without end";
/// The seed of the points.
const POINTS_SEED: u32 = 0x0ebb;

/// A part of the load, and how many times it stands for itself.
#[derive(Clone, Debug)]
struct Piece {
    case: Case,
    weight: f64,
}

/// What a candidate did, seed by seed.
#[derive(Clone, PartialEq, Debug, Default)]
struct Score {
    pod_hours: Vec<f64>,
    shares: Vec<f64>,
    errors: Vec<f64>,
    flaps: Vec<f64>,
    /// Requests that ended, as they came.
    ended: u64,
}

impl Score {
    fn cost(&self) -> f64 {
        average(&self.pod_hours)
    }

    fn share(&self) -> f64 {
        average(&self.shares)
    }

    /// The share of violations that is not exceeded, with 95 % confidence. Under few seeds requests are counted: the
    /// spread of two numbers says next to nothing, and only ranks are asked of it there.
    fn bound(&self) -> f64 {
        if self.shares.len() < ENOUGH_SEEDS {
            return self.counted_bound();
        }
        let counted = if self.violations() < 30 { self.counted_bound() } else { 0.0 };
        counted.max(upper_bound(&self.shares))
    }

    /// The same, from how many requests there were. Pieces that stand for more than themselves weigh as much.
    fn counted_bound(&self) -> f64 {
        share_upper_bound(self.violations(), self.ended)
    }

    #[expect(clippy::cast_precision_loss, reason = "counts far below 2^53")]
    fn violations(&self) -> u64 {
        whole((self.share() * self.ended as f64).round())
    }

    /// The same of failed requests.
    fn error_bound(&self) -> f64 {
        if self.errors.len() < ENOUGH_SEEDS { average(&self.errors) } else { upper_bound(&self.errors) }
    }
}

/// What is asked of a configuration.
#[derive(Clone, Copy, Debug)]
struct Promise {
    violations: f64,
    errors: f64,
    flaps: f64,
}

impl Promise {
    /// By how much it is missed, each part relative to what is allowed; 0 when it is kept.
    fn missed_by(&self, score: &Score) -> f64 {
        let over = |value: f64, allowed: f64| ((value - allowed) / allowed.max(1e-4)).max(0.0);
        let missed = over(score.bound(), self.violations) + over(score.error_bound(), self.errors);
        let missed = missed + over(average(&score.flaps), self.flaps);
        if missed < 1e-9 { 0.0 } else { missed }
    }
}

/// A search under way.
pub struct Search<'a> {
    case: Case,
    options: &'a Options,
    watch: &'a Watch,
    current: Kpa,
    promise: Promise,
    spent: u64,
    left: u64,
    /// Whether a stage ended because nothing was left for it.
    cut_short: bool,
    /// What exact and screened runs took, and what they had been expected to.
    prices: [Price; 2],
    /// How many times as much as was expected what is in force took.
    times: f64,
    /// Candidates that ask for pods without end: their runs were given up.
    endless: BTreeSet<Candidate>,
    split: Micros,
    /// Requests in each hour.
    counts: Vec<u64>,
    /// What came of runs that were made.
    known: BTreeMap<String, Outcome>,
}

type Scored = (Candidate, Score);

/// What is told beside the answer.
struct Said {
    tried: Vec<Tried>,
    screened: bool,
    sensitivity: Vec<Sensitivity>,
}

/// What runs took, and what they had been expected to, in simulated requests.
#[derive(Clone, Copy, Debug, Default)]
struct Price {
    took: f64,
    expected: f64,
}

impl<'a> Search<'a> {
    /// A search that has not begun.
    ///
    /// # Errors
    /// None yet.
    pub fn new(case: &Case, current: &Kpa, options: &'a Options, watch: &'a Watch) -> Result<Self, TuneError> {
        let slo = &case.scenario.slo;
        let promise =
            Promise { violations: 1.0 - slo.percentile / 100.0, errors: slo.errors.0, flaps: options.max_flaps };
        let (case, current) = (case.clone(), current.clone());
        let split = split(&case, options.held_back);
        let counts = requests_per_hour(&case);
        Ok(Self {
            known: BTreeMap::new(),
            counts,
            case,
            options,
            watch,
            current,
            promise,
            spent: 0,
            left: options.budget,
            cut_short: false,
            prices: [Price::default(); 2],
            times: 1.0,
            endless: BTreeSet::new(),
            split,
        })
    }

    /// From the first stage to the last.
    ///
    /// # Errors
    /// When it cannot begin, or is stopped.
    pub fn run(mut self) -> Result<Tuning, TuneError> {
        let requests: u64 = self.counts.iter().sum();
        let window = self.case.scenario.resolved(&self.current).stable_window.value;
        let wanted = Length(crate::sim::time::micros(window) * 10);
        let refused = |refusal| Ok(self.refused(refusal));
        if self.case.length() < wanted.0 {
            return refused(Refusal::TooShort { length: Length(self.case.length()), wanted });
        }
        if requests < FEWEST_REQUESTS {
            return refused(Refusal::TooFewRequests { requests, wanted: FEWEST_REQUESTS });
        }
        let hour = usize::try_from((self.split - self.case.from) / HOUR).unwrap_or(usize::MAX);
        let requests: u64 = self.counts.iter().skip(hour).sum();
        if requests < FEWEST_HELD_BACK {
            return refused(Refusal::HeldBackTooQuiet { requests, wanted: FEWEST_HELD_BACK });
        }

        let training = self.case.part(self.case.from, self.split, self.case.warm_up);
        // How many pods it takes is learned from what is in force.
        let first = self.entry_of_current();
        let probe = self.run_jobs(&[(training.clone(), first, self.case.seed(0), Detail::Measures)])?;
        let peak = probe[0].cost.max_pods;
        self.times = in_requests(&probe[0].work) / self.expected(&training, Detail::Measures).max(1.0);
        let space = Space::new(&self.case.scenario, &self.current, peak, &self.options.pins).map_err(TuneError::Pin)?;
        self.case.scenario = Arc::new(space.scenario().clone());
        let training = Case { scenario: Arc::clone(&self.case.scenario), ..training };
        self.promise.flaps = self.promise.flaps.max(probe[0].scaling.flaps_per_hour * 1.1);

        let (current, defaults) = (space.current(), space.defaults());
        let slices = slices(&training, &self.counts);
        let whole = vec![Piece { case: training.clone(), weight: 1.0 }];
        // Where the whole training part is too dear, the hours stand for it: in the search, or to the end.
        let affordable = |search: &Self, runs: usize, part: f64| {
            let dear = search.price(&whole, Detail::Measures) * count_f64(runs) > search.remaining() * part;
            if dear { &slices } else { &whole }
        };
        let last_pieces = affordable(&self, (LAST + 2) * SEEDS as usize, 0.5);
        self.reserve(&training, last_pieces);
        let pieces = affordable(&self, FINALISTS * 4 * FEW_SEEDS as usize, 0.6);

        // 1. Many, on the whole training part or on three hours.
        let detail = self.first_detail(&training);
        let screened = detail == Detail::Screened;
        let first_pieces = if screened { &whole } else { affordable(&self, POINTS, 0.35) };
        // What is in force is never given up.
        let anchors = [current.clone(), defaults.clone()];
        let mut candidates = anchors.to_vec();
        for index in 0..u32::try_from(POINTS).unwrap_or(0) {
            let numbers =
                |place: usize| f64::from(sobol_burley::sample(index, u32::try_from(place).unwrap_or(0), POINTS_SEED));
            let candidate = space.sample(numbers);
            if !candidates.contains(&candidate) {
                candidates.push(candidate);
            }
        }
        let mut first = self.score_within(&space, &candidates, first_pieces, (1, detail), 0.35, 2 * FINALISTS)?;
        let tried: Vec<Tried> = first.iter().map(|scored| tried(&space, scored)).collect();
        self.rank(&space, &mut first);
        let always = |ranked: &[Scored], most: usize| {
            let mut kept: Vec<Candidate> = ranked.iter().take(most).map(|scored| scored.0.clone()).collect();
            for anchor in [&current, &defaults] {
                if !kept.contains(anchor) {
                    kept.push(anchor.clone());
                }
            }
            kept
        };

        // 2. The best, on all of it.
        let exact = (FEW_SEEDS, Detail::Measures);
        let mut known: BTreeMap<Candidate, Score> = BTreeMap::new();
        known.extend(self.score(&space, &anchors, pieces, FEW_SEEDS)?);
        let finalists: Vec<Candidate> = first.iter().take(FINALISTS).map(|scored| scored.0.clone()).collect();
        known.extend(self.score_within(&space, &finalists, pieces, exact, 0.3, LAST)?);

        // 3. One setting at a time: a few neighbours of the best two, in any order, until all of them are known.
        let mut order = stream(u64::from(POINTS_SEED), Purpose::Resampling, "neighbours");
        for _ in 0..STEPS {
            let mut ranked: Vec<Scored> =
                known.iter().map(|(candidate, score)| (candidate.clone(), score.clone())).collect();
            self.rank(&space, &mut ranked);
            let best = ranked.iter().take(2).flat_map(|(candidate, _)| space.neighbours(candidate));
            let mut around: Vec<Candidate> = Vec::new();
            for neighbour in best {
                let fresh = !known.contains_key(&neighbour) && !self.endless.contains(&neighbour);
                if fresh && !around.contains(&neighbour) && space.is_valid(&neighbour) {
                    around.push(neighbour);
                }
            }
            for place in 1..around.len() {
                around.swap(place, below(&mut order, u32::try_from(place + 1).unwrap_or(1)) as usize);
            }
            around.truncate(FEW);
            if around.is_empty() {
                break;
            }
            known.extend(self.score_within(&space, &around, pieces, exact, 1.0, 0)?);
            if self.cut_short {
                break;
            }
        }

        // 4. The last few, under many seeds.
        let mut ranked: Vec<Scored> =
            known.iter().map(|(candidate, score)| (candidate.clone(), score.clone())).collect();
        self.rank(&space, &mut ranked);
        // Half of them with room to spare: what only just keeps the promise here may break it elsewhere.
        let mut survivors: Vec<Scored> = ranked.drain(..ranked.len().min(LAST / 2)).collect();
        let strict = Promise { violations: self.promise.violations * SPARE, ..self.promise };
        ranked.sort_by(|one, other| strict.missed_by(&one.1).total_cmp(&strict.missed_by(&other.1)));
        survivors.extend(ranked.into_iter().take(LAST / 2));
        let mut last = self.score(&space, &always(&survivors, LAST), last_pieces, SEEDS)?;
        self.rank(&space, &mut last);
        let of_current =
            last.iter().find(|scored| scored.0 == current).map(|scored| scored.1.clone()).unwrap_or_default();
        let best = last[0].clone();
        if self.promise.missed_by(&best.1) > 0.0 {
            let obstacle = self.obstacle(&space, &best.0, last_pieces)?;
            let refusal = Refusal::NothingMeets {
                nearest: owned(&space, &best.0),
                violation_bound: best.1.bound(),
                allowed: self.promise.violations,
                obstacle,
            };
            return self.finish(&space, &best.0, Err(refusal), Said { tried, screened, sensitivity: Vec::new() });
        }
        // As cheap as the cheapest, within the noise, the plainest; then the others by cost.
        let needed = self.promise.missed_by(&of_current) > 0.0;
        let dearer = |scored: &Scored| paired(&best.1.pod_hours, &scored.1.pod_hours).is_above(best.1.cost() * 0.005);
        let plain = |scored: &Scored| (space.changed(&scored.0), space.extreme(&scored.0));
        last.retain(|scored| self.promise.missed_by(&scored.1) == 0.0);
        last.sort_by_key(|scored| (dearer(scored), if dearer(scored) { (0, 0) } else { plain(scored) }));
        if last[0].0 == current {
            let sensitivity = sensitivity(&space, &last[0], &known);
            return self.finish(&space, &current, Err(Refusal::WithinNoise), Said { tried, screened, sensitivity });
        }
        let worthwhile = |scored: &Scored| needed || paired(&of_current.pod_hours, &scored.1.pod_hours).is_below(0.0);
        last.retain(|scored| scored.0 != current && worthwhile(scored));
        let mut first_refusal = None;
        for scored in &last {
            let Some(refusal) = self.refuse(&space, &scored.0)? else {
                let sensitivity = sensitivity(&space, scored, &known);
                return self.finish(&space, &scored.0, Ok(()), Said { tried, screened, sensitivity });
            };
            first_refusal.get_or_insert((scored.clone(), refusal));
        }
        let (scored, refusal) = first_refusal.unwrap_or_else(|| ((current.clone(), of_current), Refusal::WithinNoise));
        let sensitivity = sensitivity(&space, &scored, &known);
        self.finish(&space, &scored.0, Err(refusal), Said { tried, screened, sensitivity })
    }

    /// The held-back part of the load. What came before is played too, so that the pods there are at its start are
    /// those there would be.
    fn held_back(&self) -> Case {
        let lead = self.case.warm_up.max(10 * MINUTE).min(self.split - self.case.from);
        self.case.part(self.split - lead, self.case.to, lead)
    }

    /// 5. What speaks against a candidate on the held-back part, and where something is harder than it was.
    fn refuse(&mut self, space: &Space, candidate: &Candidate) -> Result<Option<Refusal>, TuneError> {
        let held_back = self.held_back();
        let pieces = [Piece { case: held_back.clone(), weight: 1.0 }];
        let both = self.score(space, &[space.current(), candidate.clone()], &pieces, SEEDS)?;
        let change = owned(space, candidate);
        let [(_, current), (_, tuned)] = both.as_slice() else {
            return Ok(Some(Refusal::Fragile { change, strain: format!("the traffic that was held back{ENDLESS}") }));
        };
        if tuned.bound() > self.promise.violations || tuned.error_bound() > self.promise.errors {
            let (violation_bound, allowed) = (tuned.bound(), self.promise.violations);
            return Ok(Some(Refusal::HeldBackFails { change, violation_bound, allowed }));
        }
        let kept_before = self.promise.missed_by(current) == 0.0;
        if kept_before && !paired(&current.pod_hours, &tuned.pod_hours).is_below(0.0) {
            return Ok(Some(Refusal::WithinNoise));
        }
        Ok(self.strained(space, candidate, &held_back)?.map(|strain| Refusal::Fragile { change, strain }))
    }

    /// The answer, with what is in force, the defaults and the choice on both parts.
    fn finish(
        mut self,
        space: &Space,
        chosen: &Candidate,
        answer: Result<(), Refusal>,
        Said { tried, screened, sensitivity }: Said,
    ) -> Result<Tuning, TuneError> {
        let (current, defaults) = (space.current(), space.defaults());
        let mut entries: Vec<Entry> = Vec::new();
        for (name, candidate) in [(CURRENT, &current), (DEFAULTS, &defaults), (TUNED, chosen)] {
            let same = (name == DEFAULTS && (defaults == current || self.endless.contains(&defaults)))
                || (name == TUNED && *chosen == current);
            entries.extend(space.entry(name, candidate).filter(|_| !same));
        }
        let training = self.case.part(self.case.from, self.split, self.case.warm_up);
        let held_back = self.held_back();
        let mut held_entries = entries.clone();
        held_entries.push(Entry { name: "floor".to_owned(), oracle: Some(Oracle::default()), ..Entry::default() });
        let mut run = |case: &Case, entries: &[Entry]| {
            let mut jobs = Vec::new();
            for entry in entries {
                for repetition in 0..SEEDS {
                    let detail = if repetition == 0 { Detail::Series } else { Detail::Measures };
                    jobs.push((case.clone(), entry.clone(), self.case.seed(repetition), detail));
                }
            }
            self.run_jobs(&jobs)
        };
        // Apart, so that each is held against the floor of its own part.
        let (training, held_back) = (run(&training, &entries)?, run(&held_back, &held_entries)?);
        Ok(Tuning {
            change: answer.is_ok().then(|| owned(space, chosen)),
            refusal: answer.err(),
            held_back_from: seconds(self.split),
            screened,
            training,
            held_back,
            tried,
            sensitivity,
            cut_short: self.cut_short,
            spent: self.spent,
        })
    }

    /// What makes the choice worse than what is in force, if anything does: it then neither keeps the promise nor has
    /// as few violations.
    fn strained(&mut self, space: &Space, chosen: &Candidate, held_back: &Case) -> Result<Option<String>, TuneError> {
        let none = Strain::default();
        for (strain, name) in [
            (Strain { rate: 1.3, ..none }, "1.3 times the traffic"),
            (Strain { service: 1.2, ..none }, "requests that take 1.2 times as long"),
            (Strain { startup: 1.5, ..none }, "pods that take 1.5 times as long to start"),
        ] {
            let pieces = [Piece { case: held_back.under(strain), weight: 1.0 }];
            let both = self.score(space, &[space.current(), chosen.clone()], &pieces, SEEDS)?;
            let [(_, current), (_, tuned)] = both.as_slice() else { return Ok(Some(format!("{name}{ENDLESS}"))) };
            if self.promise.missed_by(tuned) > 0.0 && paired(&current.shares, &tuned.shares).is_above(0.0) {
                return Ok(Some(name.to_owned()));
            }
        }
        Ok(None)
    }

    /// Why even the best breaks the promise.
    fn obstacle(&mut self, space: &Space, best: &Candidate, pieces: &[Piece]) -> Result<Obstacle, TuneError> {
        // Where nothing keeps it, the nearest may be near by chance only.
        let configurations = [best, &space.current()].map(|candidate| space.entry(TUNED, candidate));
        let configurations: Vec<Entry> = configurations.into_iter().flatten().collect();
        let plenty = Fixed { pods: self.plenty(pieces)?, ..Fixed::default() };
        let fixed = Entry { name: "plenty".to_owned(), fixed: Some(plenty), ..Entry::default() };
        let mut unlimited = configurations.clone();
        for kpa in unlimited.iter_mut().filter_map(|entry| entry.kpa.as_mut()) {
            kpa.annotations.remove("autoscaling.knative.dev/max-scale");
        }
        let (none, fast) = (Strain::default(), Strain { startup: 0.1, ..Strain::default() });
        // How often the scale turns is no matter of room or time.
        let promise = Promise { flaps: f64::MAX, ..self.promise };
        let trials = std::iter::once((fixed, none, true, Obstacle::ServiceTime))
            .chain(unlimited.into_iter().map(|entry| (entry, none, true, Obstacle::Limit)))
            .chain(configurations.into_iter().map(|entry| (entry, fast, false, Obstacle::StartUpTime)));
        for (entry, strain, room, obstacle) in trials {
            let mut jobs = Vec::new();
            for piece in pieces {
                let mut case = piece.case.under(strain);
                if room {
                    let mut scenario = Scenario::clone(&case.scenario);
                    scenario.world.node_capacity = 0;
                    case.scenario = Arc::new(scenario);
                }
                for repetition in 0..FEW_SEEDS {
                    jobs.push((case.clone(), entry.clone(), self.case.seed(repetition), Detail::Measures));
                }
            }
            let runs = self.run_within(&jobs, |_| true)?;
            let Some(runs) = runs.iter().map(Option::as_ref).collect::<Option<Vec<&Outcome>>>() else { continue };
            let weights: Vec<f64> = pieces.iter().map(|piece| piece.weight).collect();
            let missed = promise.missed_by(&score(&weights, &runs)) > 0.0;
            // Pods without end do not help against requests that are long; the others help if anything does.
            if missed == (obstacle == Obstacle::ServiceTime) {
                return Ok(obstacle);
            }
        }
        Ok(Obstacle::Reaction)
    }

    /// So many pods that nobody ever waits.
    fn plenty(&mut self, pieces: &[Piece]) -> Result<u32, TuneError> {
        let floor = Entry { name: "floor".to_owned(), oracle: Some(Oracle::default()), ..Entry::default() };
        let jobs: Vec<_> = pieces
            .iter()
            .map(|piece| (piece.case.clone(), floor.clone(), self.case.seed(0), Detail::Measures))
            .collect();
        let most = self.run_jobs(&jobs)?.iter().map(|run| run.fit.max_demand).max().unwrap_or(1);
        Ok(u32::try_from(most).unwrap_or(u32::MAX).clamp(1, 2000))
    }

    fn refused(&self, refusal: Refusal) -> Tuning {
        Tuning {
            change: None,
            refusal: Some(refusal),
            held_back_from: seconds(self.split),
            screened: false,
            training: Vec::new(),
            held_back: Vec::new(),
            tried: Vec::new(),
            sensitivity: Vec::new(),
            cut_short: false,
            spent: self.spent,
        }
    }

    fn entry_of_current(&self) -> Entry {
        Entry { name: CURRENT.to_owned(), kpa: Some(self.current.clone()), ..Entry::default() }
    }

    #[expect(clippy::cast_precision_loss, reason = "a budget")]
    fn remaining(&self) -> f64 {
        self.left as f64
    }

    /// What one run of these pieces takes, in simulated requests: what is expected of it, times how much more others took
    /// than was expected of them.
    fn price(&self, pieces: &[Piece], detail: Detail) -> f64 {
        let Price { took, expected } = self.prices[usize::from(detail == Detail::Screened)];
        let times = if expected > 0.0 { took / expected } else { 1.0 };
        pieces.iter().map(|piece| self.expected(&piece.case, detail)).sum::<f64>() * times
    }

    /// What is expected of a run before any was made.
    fn expected(&self, case: &Case, detail: Detail) -> f64 {
        let length = seconds(case.length());
        let requests = {
            let hour = |at: Micros| usize::try_from((at - self.case.from) / HOUR).unwrap_or(usize::MAX);
            let (first, last) = (hour(case.from), hour(case.to.saturating_sub(1)).min(self.counts.len() - 1));
            let whole_hours = seconds(HOUR) * count_f64(last + 1 - first.min(last));
            #[expect(clippy::cast_precision_loss, reason = "for a budget")]
            let requests = self.counts[first.min(last)..=last].iter().sum::<u64>() as f64;
            requests * (length / whole_hours).min(1.0)
        };
        let requests = whole(requests);
        if detail == Detail::Screened {
            let cells = length / seconds(CELL);
            let (groups, events) = (whole(cells * GROUPS), whole(cells + length * EVENTS_A_SECOND));
            let requests = requests.min(8 * whole(cells));
            return in_requests(&Work { requests, events, cells: whole(cells), groups, ..Work::default() });
        }
        let events = requests + whole(length * EVENTS_A_SECOND);
        in_requests(&Work { requests, events, ..Work::default() })
    }

    /// Runs as many candidates as a part of what is left allows, a few at a time: what they take is known only then. So
    /// many are run whatever they take.
    fn score_within(
        &mut self,
        space: &Space,
        candidates: &[Candidate],
        pieces: &[Piece],
        (seeds, detail): (u32, Detail),
        part: f64,
        least: usize,
    ) -> Result<Vec<Scored>, TuneError> {
        let keeps = self.remaining() * (1.0 - part);
        let mut scored = Vec::new();
        for (number, few) in candidates.chunks(FEW).enumerate() {
            let takes = self.price(pieces, detail) * f64::from(seeds) * count_f64(few.len());
            if number * FEW >= least && self.remaining() < keeps + takes {
                self.cut_short = true;
                break;
            }
            scored.extend(self.score_in(space, few, pieces, seeds, detail)?);
        }
        Ok(scored)
    }

    /// Runs candidates on pieces of the load, each under so many seeds. Those that admission would refuse are left out.
    fn score(
        &mut self,
        space: &Space,
        candidates: &[Candidate],
        pieces: &[Piece],
        seeds: u32,
    ) -> Result<Vec<Scored>, TuneError> {
        self.score_in(space, candidates, pieces, seeds, Detail::Measures)
    }

    /// The same, in this detail.
    fn score_in(
        &mut self,
        space: &Space,
        candidates: &[Candidate],
        pieces: &[Piece],
        seeds: u32,
        detail: Detail,
    ) -> Result<Vec<Scored>, TuneError> {
        let valid: Vec<(&Candidate, Entry)> =
            candidates.iter().filter_map(|candidate| Some((candidate, space.entry("candidate", candidate)?))).collect();
        let mut jobs = Vec::new();
        for (_, entry) in &valid {
            for piece in pieces {
                for repetition in 0..seeds {
                    jobs.push((piece.case.clone(), entry.clone(), self.case.seed(repetition), detail));
                }
            }
        }
        let current = space.entry("candidate", &space.current());
        let runs = self.run_within(&jobs, |entry| current.as_ref() != Some(entry))?;
        let weights: Vec<f64> = pieces.iter().map(|piece| piece.weight).collect();
        let each = pieces.len() * seeds as usize;
        let mut scored = Vec::new();
        for ((candidate, _), runs) in valid.iter().zip(runs.chunks(each.max(1))) {
            let runs: Option<Vec<&Outcome>> = runs.iter().map(Option::as_ref).collect();
            match runs {
                Some(runs) => scored.push(((*candidate).clone(), score(&weights, &runs))),
                None => {
                    self.endless.insert((*candidate).clone());
                }
            }
        }
        Ok(scored)
    }

    /// Makes runs; of those that were made before, what came of them is known.
    fn run_jobs(&mut self, jobs: &[(Case, Entry, u64, Detail)]) -> Result<Vec<Outcome>, TuneError> {
        Ok(self.run_within(jobs, |_| false)?.into_iter().flatten().collect())
    }

    /// The same; those of policies that `may_be_given_up` are where they take too much, and there is nothing of them.
    fn run_within(
        &mut self,
        jobs: &[(Case, Entry, u64, Detail)],
        may_be_given_up: impl Fn(&Entry) -> bool + Sync,
    ) -> Result<Vec<Option<Outcome>>, TuneError> {
        let keys: Vec<String> =
            jobs.iter().map(|(case, policy, seed, detail)| key(case, policy, *seed, *detail)).collect();
        let mut fresh: Vec<Job> = Vec::new();
        let mut places: Vec<usize> = Vec::new();
        for (place, ((case, policy, seed, detail), key)) in jobs.iter().zip(&keys).enumerate() {
            if !self.known.contains_key(key) && !places.iter().any(|other| keys[*other] == *key) {
                fresh.push(Job { case: case.clone(), policy: policy.clone(), seed: *seed, detail: *detail });
                places.push(place);
            }
        }
        let most = |job: &Job| {
            if !may_be_given_up(&job.policy) {
                return f64::INFINITY;
            }
            let times = if job.detail == Detail::Screened { 1.0 } else { self.times };
            (self.expected(&job.case, job.detail) * times * GIVEN_UP + IN_ANY_CASE) * REQUEST_TAKES
        };
        let runs = batch::run_within(&fresh, self.options.threads, self.watch, most).ok_or(TuneError::Stopped)?;
        for ((job, place), run) in fresh.iter().zip(&places).zip(runs) {
            let took = in_requests(run.as_ref().map_or_else(|work| work, |run| &run.work));
            if job.policy.kpa.is_some() {
                let expected = self.expected(&job.case, job.detail);
                let price = &mut self.prices[usize::from(job.detail == Detail::Screened)];
                price.took += took;
                price.expected += expected;
            }
            self.spent += whole(took);
            self.left = self.left.saturating_sub(whole(took));
            if let Ok(run) = run {
                self.known.insert(keys[*place].clone(), run);
            }
        }
        let named = |((_, policy, ..), key): (&(Case, Entry, u64, Detail), &String)| {
            Some(Outcome { policy: policy.name.clone(), ..self.known.get(key)?.clone() })
        };
        let mut runs: Vec<Option<Outcome>> = jobs.iter().zip(&keys).map(named).collect();
        oracle::relate(runs.iter_mut().flatten());
        Ok(runs)
    }

    /// How candidates are looked at first: screened, where that can be and is cheaper.
    fn first_detail(&self, training: &Case) -> Detail {
        let pieces = [Piece { case: training.clone(), weight: 1.0 }];
        let cheaper = self.price(&pieces, Detail::Screened) < self.price(&pieces, Detail::Measures);
        if cheaper && unfit(training, &self.entry_of_current()).is_none() { Detail::Screened } else { Detail::Measures }
    }

    /// Keeps what the last stages need out of what may be spent before: the last few under many seeds, one of them checked
    /// on the held-back part and under strain, and the answer. A third is left for the search whatever they need.
    fn reserve(&mut self, training: &Case, last_pieces: &[Piece]) {
        let one = |case: &Case| [Piece { case: case.clone(), weight: 1.0 }];
        let price = |pieces: &[Piece]| self.price(pieces, Detail::Measures);
        let (training, held_back) = (price(&one(training)), price(&one(&self.held_back())));
        let last = price(last_pieces) * f64::from(SEEDS) * count_f64(LAST + 2);
        // What is in force and a candidate, four times.
        let checks = held_back * f64::from(SEEDS) * 2.0 * 4.0;
        // The three of the answer are known there but for their series, unless hours stood for the whole.
        let again = if last_pieces.len() > 1 { f64::from(SEEDS) } else { 1.0 };
        let answer = (training * again + held_back * 2.0) * 3.0;
        self.left = self.left.saturating_sub(whole(last + checks + answer)).max(self.options.budget / 3);
    }

    /// The best first: those that keep the promise by cost, then the others by how far they miss it.
    fn rank(&self, space: &Space, scored: &mut [Scored]) {
        let key = |(candidate, score): &Scored| {
            (self.promise.missed_by(score), score.cost(), space.changed(candidate), space.extreme(candidate))
        };
        scored.sort_by(|one, other| {
            let ((missed, cost, changed, extreme), theirs) = (key(one), key(other));
            missed
                .total_cmp(&theirs.0)
                .then(cost.total_cmp(&theirs.1))
                .then((changed, extreme).cmp(&(theirs.2, theirs.3)))
                .then_with(|| one.0.cmp(&other.0))
        });
    }
}

/// What a run depends on, within one search. The name of its policy is not of it.
fn key(case: &Case, policy: &Entry, seed: u64, detail: Detail) -> String {
    let policy = Entry { name: String::new(), ..policy.clone() };
    let Case { scenario, from, to, warm_up, strain, .. } = case;
    format!("{policy:?} {from} {to} {warm_up} {strain:?} {} {seed} {detail:?}", scenario.world.node_capacity)
}

/// What the runs of one candidate say, the seeds of the first piece first.
#[expect(clippy::cast_precision_loss, reason = "counts far below 2^53")]
fn score(weights: &[f64], runs: &[&Outcome]) -> Score {
    let seeds = runs.len() / weights.len().max(1);
    let mut score = Score::default();
    for seed in 0..seeds {
        let of_seed = || weights.iter().enumerate().map(|(piece, weight)| (*weight, runs[piece * seeds + seed]));
        let sum = |of: &dyn Fn(&Outcome) -> f64| of_seed().map(|(weight, run)| weight * of(run)).sum::<f64>();
        let ended = sum(&|run| (run.requests.completed + run.requests.failed) as f64);
        let share = |part: f64| if ended > 0.0 { part / ended } else { 0.0 };
        let hours = sum(&|run| run.measured / 3600.0);
        score.pod_hours.push(sum(&|run| run.cost.pod_seconds / 3600.0));
        score.shares.push(share(sum(&|run| run.slo.violations as f64)));
        score.errors.push(share(sum(&|run| run.requests.failed as f64)));
        score.flaps.push(if hours > 0.0 { sum(&|run| run.scaling.flaps as f64) / hours } else { 0.0 });
    }
    score.ended = runs.iter().map(|run| run.requests.completed + run.requests.failed).sum();
    score
}

fn tried(space: &Space, (candidate, score): &Scored) -> Tried {
    Tried { change: owned(space, candidate), pod_hours: score.cost(), violation_share: score.share() }
}

fn owned(space: &Space, candidate: &Candidate) -> BTreeMap<String, Option<String>> {
    space.change(candidate).into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// What one step away from the choice does, of the steps that were tried.
fn sensitivity(space: &Space, chosen: &Scored, known: &BTreeMap<Candidate, Score>) -> Vec<Sensitivity> {
    let Some(own) = known.get(&chosen.0) else { return Vec::new() };
    let near = space.neighbours(&chosen.0).into_iter();
    near.filter_map(|neighbour| {
        let score = known.get(&neighbour)?;
        let place = (0..neighbour.len()).find(|place| neighbour[*place] != chosen.0[*place])?;
        let ladder = &space.ladders[place];
        Some(Sensitivity {
            key: ladder.key.to_owned(),
            chosen: ladder.rungs[chosen.0[place]].clone(),
            instead: ladder.rungs[neighbour[place]].clone(),
            cost: if own.cost() > 0.0 { score.cost() / own.cost() } else { 1.0 },
            violation_share: score.share(),
        })
    })
    .collect()
}

/// Requests in each hour of a load, as the first seed draws them.
fn requests_per_hour(case: &Case) -> Vec<u64> {
    let part = Part { from: case.from, to: case.to, rate: case.strain.rate };
    let scenario = &case.scenario;
    let arrivals = Arrivals::new(&scenario.load, case.trace.as_ref(), part, scenario.seed, &scenario.name);
    let hours = usize::try_from(case.length().div_ceil(HOUR)).unwrap_or(1).max(1);
    let mut counts = vec![0; hours];
    for arrival in arrivals {
        let hour = usize::try_from(arrival.at / HOUR).unwrap_or(usize::MAX).min(hours - 1);
        counts[hour] += 1;
    }
    counts
}

/// Where the held-back part begins: at a whole day, or else a whole hour, where that leaves both parts.
fn split(case: &Case, held_back: f64) -> Micros {
    let exact = case.from + from_seconds(seconds(case.length()) * (1.0 - held_back));
    for unit in [24 * HOUR, HOUR] {
        let rounded = (exact + unit / 2) / unit * unit;
        let part = case.to.saturating_sub(rounded);
        if rounded > case.from + case.warm_up && part >= case.length() / 5 && part <= case.length() / 2 {
            return rounded;
        }
    }
    exact.max(case.from + case.warm_up + 1)
}

/// The worst hour, the median one and the quietest one, each with what came before it, weighted by what they stand
/// for. All of it where there are no more than three.
fn slices(training: &Case, counts: &[u64]) -> Vec<Piece> {
    let hours = usize::try_from(training.length() / HOUR).unwrap_or(0).min(counts.len());
    let first = usize::try_from(training.warm_up.div_ceil(HOUR)).unwrap_or(0);
    if hours < first + 4 {
        return vec![Piece { case: training.clone(), weight: 1.0 }];
    }
    let mut order: Vec<usize> = (first..hours).collect();
    order.sort_by_key(|hour| (counts[*hour], *hour));
    let all = count_f64(order.len());
    // A tenth of the hours is like the worst, a third like the quietest.
    let (worst, quiet) = ((all / 10.0).max(1.0), all / 3.0);
    let median = all - worst - quiet;
    let pieces = [(order[order.len() - 1], worst), (order[order.len() / 2], median), (order[0], quiet)];
    pieces
        .map(|(hour, weight)| {
            let from = training.from + HOUR * hour as u64;
            let lead = (from - training.from).min(20 * MINUTE);
            Piece { case: training.part(from - lead, from + HOUR, lead), weight }
        })
        .to_vec()
}

/// What a run takes, in simulated requests.
fn in_requests(work: &Work) -> f64 {
    work.seconds() / REQUEST_TAKES
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` saturates")]
fn whole(value: f64) -> u64 {
    value as u64
}
