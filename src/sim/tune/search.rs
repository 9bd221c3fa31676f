//! The search itself, stage by stage.

use super::space::{Candidate, Space};
use super::{CURRENT, DEFAULTS, Obstacle, Options, Refusal, Sensitivity, TUNED, Tried, TuneError, Tuning};
use crate::sim::arrivals::{Arrivals, Part};
use crate::sim::batch::{self, Job, Watch};
use crate::sim::case::{Case, Strain};
use crate::sim::oracle;
use crate::sim::outcome::Outcome;
use crate::sim::scenario::{Entry, Fixed, Kpa, Oracle, Scenario};
use crate::sim::screen::unfit;
use crate::sim::stats::{average, paired, share_upper_bound, upper_bound};
use crate::sim::time::{HOUR, Length, MINUTE, Micros, from_seconds, seconds};
use crate::sim::world::Detail;
use crate::units::count_f64;
use std::collections::BTreeMap;
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
/// How often the neighbourhood is looked through.
const ROUNDS: usize = 6;
/// Fewest requests.
const FEWEST_REQUESTS: u64 = 1000;
/// Fewest requests from the hour on in which the held-back part begins.
const FEWEST_HELD_BACK: u64 = 300;
/// What a simulated second costs beside its requests, in requests: ticks, scrapes and reports.
const SECOND_COSTS: f64 = 5.0;
/// What a screened second costs, whatever its requests: ten cells, too.
const SCREENED_SECOND_COSTS: f64 = 30.0;
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
    violations: u64,
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
            return share_upper_bound(self.violations, self.ended).max(self.share());
        }
        let counted = if self.violations < 30 { share_upper_bound(self.violations, self.ended) } else { 0.0 };
        counted.max(upper_bound(&self.shares))
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
    split: Micros,
    /// Requests in each hour.
    counts: Vec<u64>,
    /// What came of runs that were made.
    known: BTreeMap<String, Outcome>,
}

type Scored = (Candidate, Score);

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
        let space = Space::new(&self.case.scenario, &self.current, peak, &self.options.pins).map_err(TuneError::Pin)?;
        self.case.scenario = Arc::new(space.scenario().clone());
        let training = Case { scenario: Arc::clone(&self.case.scenario), ..training };
        self.promise.flaps = self.promise.flaps.max(probe[0].scaling.flaps_per_hour * 1.1);

        let (current, defaults) = (space.current(), space.defaults());
        let slices = slices(&training, &self.counts);
        let whole = vec![Piece { case: training.clone(), weight: 1.0 }];
        // Where the whole training part is too dear, the hours stand for it to the end.
        let dear = self.price(&whole, Detail::Measures) * f64::from(FEW_SEEDS) * count_f64(FINALISTS * 4)
            > self.remaining() * 0.6;
        let training_pieces = if dear { slices.clone() } else { whole.clone() };

        // 1. Many, on the whole training part or on three hours.
        let (detail, first_pieces) = match self.first_detail(&training) {
            Detail::Screened => (Detail::Screened, &whole),
            exact if self.price(&whole, exact) <= self.price(&whole, Detail::Screened) => (exact, &whole),
            exact => (exact, &slices),
        };
        self.reserve(&training, &training_pieces);
        let points = self.affordable(first_pieces, 1, detail, 0.35, POINTS, 2 * FINALISTS);
        let mut candidates = vec![current.clone(), defaults.clone()];
        for index in 0..u32::try_from(points).unwrap_or(0) {
            let numbers =
                |place: usize| f64::from(sobol_burley::sample(index, u32::try_from(place).unwrap_or(0), POINTS_SEED));
            let candidate = space.sample(numbers);
            if !candidates.contains(&candidate) {
                candidates.push(candidate);
            }
        }
        let mut first = self.score_in(&space, &candidates, first_pieces, 1, detail)?;
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
        let finalists = self.affordable(&training_pieces, FEW_SEEDS, Detail::Measures, 0.25, FINALISTS, LAST);
        let mut known: BTreeMap<Candidate, Score> = BTreeMap::new();
        let second = self.score(&space, &always(&first, finalists), &training_pieces, FEW_SEEDS)?;
        known.extend(second);

        // 3. One setting at a time.
        for _ in 0..ROUNDS {
            let mut ranked: Vec<Scored> =
                known.iter().map(|(candidate, score)| (candidate.clone(), score.clone())).collect();
            self.rank(&space, &mut ranked);
            let mut around: Vec<Candidate> = Vec::new();
            for (candidate, _) in ranked.iter().take(2) {
                let fresh = space.neighbours(candidate).into_iter().filter(|it| !known.contains_key(it));
                for neighbour in fresh {
                    if !around.contains(&neighbour) {
                        around.push(neighbour);
                    }
                }
            }
            let most = self.affordable(&training_pieces, FEW_SEEDS, Detail::Measures, 0.3, around.len(), 0);
            around.truncate(most);
            if around.is_empty() {
                break;
            }
            let found = self.score(&space, &around, &training_pieces, FEW_SEEDS)?;
            let before = ranked.swap_remove(0);
            known.extend(found.iter().cloned());
            let mut again = found;
            again.push(before.clone());
            self.rank(&space, &mut again);
            if again[0].0 == before.0 {
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
        let mut last = self.score(&space, &always(&survivors, LAST), &training_pieces, SEEDS)?;
        self.rank(&space, &mut last);
        let of_current =
            last.iter().find(|scored| scored.0 == current).map(|scored| scored.1.clone()).unwrap_or_default();
        let best = last[0].clone();
        if self.promise.missed_by(&best.1) > 0.0 {
            let obstacle = self.obstacle(&space, &best.0, &training_pieces)?;
            let refusal = Refusal::NothingMeets {
                nearest: owned(&space, &best.0),
                violation_bound: best.1.bound(),
                allowed: self.promise.violations,
                obstacle,
            };
            return self.finish(&space, &best.0, Err(refusal), tried, Vec::new());
        }
        // As cheap as the cheapest, within the noise, the plainest; then the others by cost.
        let needed = self.promise.missed_by(&of_current) > 0.0;
        let dearer = |scored: &Scored| paired(&best.1.pod_hours, &scored.1.pod_hours).is_above(best.1.cost() * 0.005);
        let plain = |scored: &Scored| (space.changed(&scored.0), space.extreme(&scored.0));
        last.retain(|scored| self.promise.missed_by(&scored.1) == 0.0);
        last.sort_by_key(|scored| (dearer(scored), if dearer(scored) { (0, 0) } else { plain(scored) }));
        if last[0].0 == current {
            let sensitivity = sensitivity(&space, &last[0], &known);
            return self.finish(&space, &current, Err(Refusal::WithinNoise), tried, sensitivity);
        }
        let worthwhile = |scored: &Scored| needed || paired(&of_current.pod_hours, &scored.1.pod_hours).is_below(0.0);
        last.retain(|scored| scored.0 != current && worthwhile(scored));
        let mut first_refusal = None;
        for scored in &last {
            let Some(refusal) = self.refuse(&space, &scored.0)? else {
                let sensitivity = sensitivity(&space, scored, &known);
                return self.finish(&space, &scored.0, Ok(()), tried, sensitivity);
            };
            first_refusal.get_or_insert((scored.clone(), refusal));
        }
        let (scored, refusal) = first_refusal.unwrap_or_else(|| ((current.clone(), of_current), Refusal::WithinNoise));
        let sensitivity = sensitivity(&space, &scored, &known);
        self.finish(&space, &scored.0, Err(refusal), tried, sensitivity)
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
        let [(_, current), (_, tuned)] = both.as_slice() else { return Ok(Some(Refusal::WithinNoise)) };
        let change = owned(space, candidate);
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
        tried: Vec<Tried>,
        sensitivity: Vec<Sensitivity>,
    ) -> Result<Tuning, TuneError> {
        let (current, defaults) = (space.current(), space.defaults());
        let mut entries: Vec<Entry> = Vec::new();
        for (name, candidate) in [(CURRENT, &current), (DEFAULTS, &defaults), (TUNED, chosen)] {
            let same = (name == DEFAULTS && defaults == current) || (name == TUNED && *chosen == current);
            entries.extend(space.entry(name, candidate).filter(|_| !same));
        }
        let training = self.case.part(self.case.from, self.split, self.case.warm_up);
        let screened = self.first_detail(&training) == Detail::Screened;
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
            let [(_, current), (_, tuned)] = both.as_slice() else { continue };
            if self.promise.missed_by(tuned) > 0.0 && paired(&current.shares, &tuned.shares).is_above(0.0) {
                return Ok(Some(name.to_owned()));
            }
        }
        Ok(None)
    }

    /// Why even the best breaks the promise.
    fn obstacle(&mut self, space: &Space, best: &Candidate, pieces: &[Piece]) -> Result<Obstacle, TuneError> {
        let Some(entry) = space.entry(TUNED, best) else { return Ok(Obstacle::Reaction) };
        let plenty = Fixed { pods: self.plenty(pieces)?, ..Fixed::default() };
        let fixed = Entry { name: "plenty".to_owned(), fixed: Some(plenty), ..Entry::default() };
        let mut unlimited = entry.clone();
        if let Some(kpa) = &mut unlimited.kpa {
            kpa.annotations.remove("autoscaling.knative.dev/max-scale");
        }
        let fast = Strain { startup: 0.1, ..Strain::default() };
        for (entry, strain, room, obstacle) in [
            (fixed, Strain::default(), true, Obstacle::ServiceTime),
            (unlimited, Strain::default(), true, Obstacle::Limit),
            (entry, fast, false, Obstacle::StartUpTime),
        ] {
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
            let runs = self.run_jobs(&jobs)?;
            let weights: Vec<f64> = pieces.iter().map(|piece| piece.weight).collect();
            let missed = self.promise.missed_by(&score(&weights, &runs.iter().collect::<Vec<_>>())) > 0.0;
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

    /// What one run of these pieces costs, in requests: theirs, and what time itself costs.
    fn price(&self, pieces: &[Piece], detail: Detail) -> f64 {
        if detail == Detail::Screened {
            return pieces.iter().map(|piece| seconds(piece.case.length()) * SCREENED_SECOND_COSTS).sum();
        }
        let one = |case: &Case| {
            let hour = |at: Micros| usize::try_from((at - self.case.from) / HOUR).unwrap_or(usize::MAX);
            let (first, last) = (hour(case.from), hour(case.to.saturating_sub(1)).min(self.counts.len() - 1));
            let whole_hours = seconds(HOUR) * count_f64(last + 1 - first.min(last));
            #[expect(clippy::cast_precision_loss, reason = "for a budget")]
            let requests = self.counts[first.min(last)..=last].iter().sum::<u64>() as f64;
            requests * (seconds(case.length()) / whole_hours).min(1.0) + seconds(case.length()) * SECOND_COSTS
        };
        pieces.iter().map(|piece| one(&piece.case)).sum()
    }

    /// How many candidates can be run with a part of what is left: from `least` to `most`.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small count; `as` saturates")]
    fn affordable(&self, pieces: &[Piece], seeds: u32, detail: Detail, part: f64, most: usize, least: usize) -> usize {
        let each = self.price(pieces, detail) * f64::from(seeds);
        let count = (self.remaining() * part / each.max(1.0)) as usize;
        count.max(least).min(most)
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
        let runs = self.run_jobs(&jobs)?;
        let weights: Vec<f64> = pieces.iter().map(|piece| piece.weight).collect();
        let each = pieces.len() * seeds as usize;
        let scores = runs.chunks(each.max(1)).map(|runs| score(&weights, &runs.iter().collect::<Vec<_>>()));
        Ok(valid.iter().map(|(candidate, _)| (*candidate).clone()).zip(scores).collect())
    }

    /// Makes runs; of those that were made before, what came of them is known.
    fn run_jobs(&mut self, jobs: &[(Case, Entry, u64, Detail)]) -> Result<Vec<Outcome>, TuneError> {
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
        let runs = batch::run(&fresh, self.options.threads, self.watch).ok_or(TuneError::Stopped)?;
        for ((job, place), run) in fresh.iter().zip(&places).zip(runs) {
            let length = seconds(job.case.length());
            let cost = if run.approximate {
                whole(length * SCREENED_SECOND_COSTS)
            } else {
                run.requests.arrived + whole(length * SECOND_COSTS)
            };
            self.spent += cost;
            self.left = self.left.saturating_sub(cost);
            self.known.insert(keys[*place].clone(), run);
        }
        let named = jobs.iter().zip(&keys).filter_map(|((_, policy, ..), key)| {
            Some(Outcome { policy: policy.name.clone(), ..self.known.get(key)?.clone() })
        });
        let mut runs: Vec<Outcome> = named.collect();
        oracle::relate(&mut runs);
        Ok(runs)
    }

    /// How candidates are looked at first: screened, where that can be and is cheaper.
    fn first_detail(&self, training: &Case) -> Detail {
        let pieces = [Piece { case: training.clone(), weight: 1.0 }];
        let cheaper = self.price(&pieces, Detail::Screened) < self.price(&pieces, Detail::Measures);
        if cheaper && unfit(training, &self.entry_of_current()).is_none() { Detail::Screened } else { Detail::Measures }
    }

    /// Keeps what the last stages need out of what may be spent before: the last few under many seeds, two of them checked
    /// on the held-back part, and the answer. A quarter is left for the search whatever they need.
    fn reserve(&mut self, training: &Case, training_pieces: &[Piece]) {
        let one = |case: &Case| [Piece { case: case.clone(), weight: 1.0 }];
        let held_back = self.price(&one(&self.held_back()), Detail::Measures);
        let more_seeds = f64::from(SEEDS - FEW_SEEDS) * count_f64(LAST + 2);
        let last = self.price(training_pieces, Detail::Measures) * more_seeds;
        let checks = held_back * f64::from(SEEDS) * 2.0 * 4.0;
        let answer = (self.price(&one(training), Detail::Measures) + held_back) * 4.0;
        self.left = self.left.saturating_sub(whole(last + checks + answer)).max(self.options.budget / 4);
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
    score.violations = runs.iter().map(|run| run.slo.violations).sum();
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

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` saturates")]
fn whole(value: f64) -> u64 {
    value as u64
}
