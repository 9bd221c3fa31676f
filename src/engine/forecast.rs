//! A floor under the number of pods, from what the load did before: never fewer pods than without it, and only where it
//! has proved to know better.
//!
//! # Rule
//!
//! The load is kept in steps of 10 s. For each season it might have (5 min, an hour, a day, a week) three forecasts are
//! made of the highest load within the horizon: the same time a season ago with the drift since, Holt's with a damped
//! trend, and the last value. They are weighed by their recent pinball loss at the quantile; the quantile is their mean
//! plus that quantile of their own errors of the last hour. With it
//!
//! ```text
//! horizon = 95th percentile of start-ups + two ticks, in whole steps, at most 10 min
//! floor   = ceil(min(quantile, 1.5 * the highest load of two seasons) / target)   if ceil(mean / target) > reactive
//! desired = max(reactive, min(floor, max-scale))
//! ```
//!
//! A rise must be expected, then: headroom alone, which a noisy load would ask for all the time, raises nothing. A
//! floor lapses after a horizon in which nothing asked for it, and then falls by no more than max-scale-down-rate. From
//! zero it raises only where prewarming is asked for. Panic and burst capacity never hear of it.
//!
//! # Guards
//!
//! All must hold, or the floor is 0: the load has a season ([`Guard::Season`]) of which two went by
//! ([`Guard::History`]); no step of the last horizon is without metrics ([`Guard::Gaps`]); over the last two seasons
//! the loss was at least a tenth below that of the best forecast without a season ([`Guard::Loss`]), and the quantile
//! covered what it should, give or take 10 points ([`Guard::Coverage`]); what it costs fits into the budget
//! ([`Guard::Budget`]), a tenth of the reactive pod-seconds of a day; the first stable window is over
//! ([`Guard::Start`]).
//!
//! What it must beat is the reactive load, the last value or Holt's forecast, whichever was best, each raised by the
//! same quantile of its own errors: so it never opens only because headroom helps.
//!
//! # Decisions
//!
//! - 2026-11: start-ups are measured by what the engine sees anyway (more wanted than ready, until they are), so a
//!   forecast is a function of the inputs like everything else here.
//! - 2026-11: it allocates, which the decider never does: two weeks of steps are 500 kB. Only revisions that ask for it
//!   have one.

use super::decision::Observed;
use super::revision::{Event, Input, TICK};
use crate::units::{ScalingMetric, Span, Timestamp, count_f64};
use std::collections::VecDeque;

/// The length of a step.
pub const STEP: Span = Span::from_seconds(10);
/// The seasons that are looked for, in steps: 5 min, an hour, a day, a week.
const SEASONS: [usize; 4] = [30, 360, 8640, 60_480];
/// The longest horizon, in steps: 10 min.
const MOST_HORIZON: usize = 60;
/// Steps that are kept: two of the longest season and a day.
const MOST_STEPS: usize = 2 * 60_480 + 8640;
/// Steps in a block of which the highest load is kept.
const BLOCK: usize = 30;
/// Errors that are kept: an hour.
const MOST_ERRORS: usize = 360;
/// Start-ups that are kept.
const MOST_STARTS: usize = 32;
/// What a start-up takes as long as none was seen.
const USUAL_START: Span = Span::from_seconds(10);
/// Steps between two looks for seasons.
const LOOK: usize = 30;
/// How much the load must be like itself a season ago, and how much more than half a season ago.
const ALIKE: (f64, f64) = (0.2, 0.1);
/// The part of the best loss without a season that may not be exceeded.
const BETTER: f64 = 0.9;
/// How far the coverage may be off.
const COVERAGE: f64 = 0.1;
/// The cap, in highest loads of two seasons.
const CAP: f64 = 1.5;
/// Holt's: how fast level and trend follow, and what is left of a trend after each step.
const HOLT: (f64, f64, f64) = (0.3, 0.1, 0.9);

/// What a forecast is made by.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct ForecastSpec {
    /// The part of horizons in which the load should stay below the forecast: between 0.5 and 1.
    pub quantile: f64,
    /// Whether it may raise a revision from zero.
    pub prewarm: bool,
    /// Pod-seconds it may cost, as a part of the reactive ones of a day.
    pub budget: f64,
    /// What is forecast.
    pub metric: ScalingMetric,
    /// Load one pod should carry.
    pub target: f64,
    /// Most pods; 0 is any number.
    pub max_scale: i32,
    /// By how much a floor may fall in a step, as a factor.
    pub max_scale_down_rate: f64,
    /// How long nothing is raised at first.
    pub stable_window: Span,
}

/// What has to hold for a floor to count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Guard {
    /// The first stable window is over.
    Start,
    /// The load has a season.
    Season,
    /// Two seasons went by.
    History,
    /// There were metrics in each step of the last horizon.
    Gaps,
    /// It was better than what knows no season.
    Loss,
    /// The quantile covered what it should.
    Coverage,
    /// What it costs fits into the budget.
    Budget,
}

impl Guard {
    /// All of them, in the order they are asked.
    pub const ALL: [Self; 7] =
        [Self::Start, Self::Season, Self::History, Self::Gaps, Self::Loss, Self::Coverage, Self::Budget];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Season => "season",
            Self::History => "history",
            Self::Gaps => "gaps",
            Self::Loss => "loss",
            Self::Coverage => "coverage",
            Self::Budget => "budget",
        }
    }
}

/// What is foreseen at a decision.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Foresight {
    /// Pods without it.
    pub reactive: i32,
    /// The floor, within max-scale; 0 is none.
    pub floor: i32,
    /// The highest load expected within the horizon, at the quantile; of the season that counts.
    pub quantile: f64,
    /// The horizon.
    pub horizon: Span,
    /// The season that counts, if any does.
    pub season: Option<Span>,
    /// How much the same time a season ago, Holt's forecast and the last value weigh.
    pub weights: [f64; 3],
    /// The first guard that does not hold.
    pub closed: Option<Guard>,
    /// Pod-seconds left of the budget.
    pub budget_left: f64,
}

impl Foresight {
    /// Pods with it.
    pub fn desired(&self) -> i32 {
        self.reactive.max(self.floor)
    }
}

/// What came of it so far.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Tally {
    /// Floors above what was wanted without them.
    pub raised: u64,
    /// Of these, the load that asked for them came within the horizon.
    pub hits: u64,
    /// It came within a second horizon.
    pub early: u64,
    /// It did not come.
    pub misses: u64,
    /// Pod-seconds beyond the reactive ones.
    pub extra: f64,
    /// Reactive pod-seconds.
    pub reactive: f64,
    /// Steps whose forecast came due while a season counted, and those of them that were covered.
    pub due: u64,
    /// See `due`.
    pub covered: u64,
    /// Decisions by the first guard that did not hold, in the order of [`Guard::ALL`].
    pub closed: [u64; 7],
    /// Decisions at which all held.
    pub open: u64,
}

/// Keeps the load of a revision in mind and says what is coming.
#[derive(Clone, Debug)]
pub struct Forecaster {
    spec: ForecastSpec,
    since: Timestamp,
    open: OpenStep,
    history: History,
    seasons: [Season; 4],
    /// The reactive load, the last value and Holt's, without a season.
    plain: [Plain; 3],
    holt: (f64, f64),
    observed: f64,
    starts: Starts,
    horizon: usize,
    floor: i32,
    until: Timestamp,
    /// The season that counts, as a place in `seasons`, and the first guard that does not hold.
    chosen: Option<usize>,
    closed: Option<Guard>,
    quantile: f64,
    budget: Budget,
    episode: Option<Episode>,
    tally: Tally,
}

/// The step that is not over.
#[derive(Clone, Copy, Debug, Default)]
struct OpenStep {
    number: Option<i64>,
    /// Load, added up over seconds.
    sum: f64,
    ticked: bool,
    scraped: bool,
    failed: bool,
}

/// Loads of steps that are over; those without metrics are NaN.
#[derive(Clone, Debug, Default)]
struct History {
    steps: VecDeque<f32>,
    /// The highest of each block that is over, and the steps of the one that is not.
    blocks: VecDeque<f32>,
    in_block: usize,
    highest: f32,
    /// Steps that were pushed.
    count: u64,
}

/// Pods that were wanted and were not there.
#[derive(Clone, Debug, Default)]
struct Starts {
    waiting: Option<(Timestamp, i32)>,
    took: VecDeque<Span>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Budget {
    left: f64,
    /// Reactive pods, averaged over a day.
    pods: f64,
    seen: f64,
    before: Option<(Timestamp, i32, i32)>,
}

/// A floor that is above what is wanted without it.
#[derive(Clone, Copy, Debug)]
struct Episode {
    begun: Timestamp,
    reactive: i32,
    horizon: Span,
    came: Option<Timestamp>,
}

/// A mean over about as many values as it remembers.
#[derive(Clone, Copy, Debug, Default)]
struct Mean {
    value: f64,
    count: f64,
}

impl Mean {
    fn add(&mut self, value: f64, most: usize) {
        self.count = (self.count + 1.0).min(count_f64(most));
        self.value += (value - self.value) / self.count;
    }
}

/// Errors of the last hour.
#[derive(Clone, Debug, Default)]
struct Errors(VecDeque<f32>);

impl Errors {
    fn add(&mut self, error: f64) {
        if self.0.len() == MOST_ERRORS {
            self.0.pop_front();
        }
        #[expect(clippy::cast_possible_truncation, reason = "loads in single precision are exact enough")]
        self.0.push_back(error as f32);
    }

    /// The error that the part `quantile` of them do not exceed, as split-conformal prediction takes it.
    fn at(&self, quantile: f64, scratch: &mut Vec<f32>) -> f64 {
        scratch.clear();
        scratch.extend(&self.0);
        if scratch.is_empty() {
            return 0.0;
        }
        let last = scratch.len() - 1;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "of 0 to MOST_ERRORS")]
        let place = (((count_f64(scratch.len()) + 1.0) * quantile).ceil() as usize).saturating_sub(1).min(last);
        let (_, value, _) = scratch.select_nth_unstable_by(place, f32::total_cmp);
        f64::from(*value)
    }
}

/// A forecast that knows no season, with the quantile of its own errors.
#[derive(Clone, Debug, Default)]
struct Plain {
    errors: Errors,
    pending: VecDeque<Pending<1>>,
    now: f64,
    raised: f64,
}

/// Forecasts that come due.
#[derive(Clone, Copy, Debug)]
struct Pending<const MEMBERS: usize> {
    due: u64,
    horizon: usize,
    members: [f64; MEMBERS],
    raised: f64,
}

/// What is forecast by one season.
#[derive(Clone, Debug)]
struct Season {
    length: usize,
    found: bool,
    /// Loads of the last season and of the one before, added up.
    sums: (f64, f64),
    pending: VecDeque<(Pending<4>, [f64; 3])>,
    losses: [Mean; 3],
    errors: Errors,
    loss: Mean,
    plain: [Mean; 3],
    coverage: Mean,
    weights: [f64; 3],
    /// What is expected, and what is at the quantile.
    mean: f64,
    raised: f64,
}

/// The pinball loss of `forecast` as a quantile.
fn pinball(quantile: f64, actual: f64, forecast: f64) -> f64 {
    let error = actual - forecast;
    if error >= 0.0 { quantile * error } else { (quantile - 1.0) * error }
}

impl Forecaster {
    /// One that has seen nothing yet.
    pub fn new(spec: ForecastSpec, now: Timestamp) -> Self {
        let season = |length| Season {
            length,
            found: false,
            sums: (0.0, 0.0),
            pending: VecDeque::new(),
            losses: [Mean::default(); 3],
            errors: Errors::default(),
            loss: Mean::default(),
            plain: [Mean::default(); 3],
            coverage: Mean::default(),
            weights: [1.0 / 3.0; 3],
            mean: 0.0,
            raised: 0.0,
        };
        Self {
            spec,
            since: now,
            open: OpenStep::default(),
            history: History::default(),
            seasons: SEASONS.map(season),
            plain: Default::default(),
            holt: (0.0, 0.0),
            observed: 0.0,
            starts: Starts::default(),
            horizon: 1,
            floor: 0,
            until: now,
            chosen: None,
            closed: Some(Guard::Start),
            quantile: 0.0,
            budget: Budget::default(),
            episode: None,
            tally: Tally::default(),
        }
    }

    /// What came of it so far.
    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// Memory of what it keeps, in bytes.
    pub fn heap_bytes(&self) -> usize {
        (self.history.steps.capacity() + self.history.blocks.capacity()) * size_of::<f32>()
    }

    /// Takes in what happened to the revision.
    pub fn hear(&mut self, input: &Input) {
        self.advance(input.now);
        let load = match &input.event {
            Event::Tick { .. } => {
                self.open.ticked = true;
                return;
            }
            Event::ScrapeFailed => {
                self.open.failed = true;
                return;
            }
            Event::Scraped { load } => {
                self.open.scraped = true;
                load
            }
            Event::Reported { load, .. } => load,
            _ => return,
        };
        let load = match self.spec.metric {
            ScalingMetric::Rps => load.requests - load.proxied_requests,
            ScalingMetric::Concurrency => load.concurrency - load.proxied_concurrency,
        };
        if load.is_finite() {
            self.open.sum += load;
        }
    }

    /// What is foreseen when `reactive` pods are wanted without it.
    pub fn decide(&mut self, now: Timestamp, ready: i32, reactive: i32, observed: Observed, panics: bool) -> Foresight {
        self.advance(now);
        self.observed = if panics { observed.panic.max(observed.stable) } else { observed.stable };
        self.account(now, reactive);
        let mut floor = if reactive == 0 && !self.spec.prewarm { 0 } else { self.floor };
        let mut closed = self.closed;
        if floor > reactive {
            // Pods that can be paid for a horizon; those that are there already as long as anything is left.
            #[expect(clippy::cast_possible_truncation, reason = "`as` saturates")]
            let affordable = (self.budget.left.max(0.0) / self.horizon().seconds_f64()).floor() as i32;
            let stands =
                self.budget.before.map_or(0, |(.., got)| got).min(if self.budget.left > 0.0 { i32::MAX } else { 0 });
            let most = stands.max(reactive.saturating_add(affordable));
            if most <= reactive {
                (floor, closed) = (0, Some(Guard::Budget));
            }
            floor = floor.min(most);
        }
        if let Some(guard) = closed {
            self.tally.closed[guard as usize] += 1;
        } else {
            self.tally.open += 1;
        }
        self.judge(now, reactive, floor);
        self.budget.before = Some((now, reactive, reactive.max(floor)));
        self.starts.look(now, ready, reactive.max(floor));
        Foresight {
            reactive,
            floor,
            quantile: self.quantile,
            horizon: self.horizon(),
            season: self.chosen.map(|season| steps(self.seasons[season].length)),
            weights: self.chosen.map_or([0.0; 3], |season| self.seasons[season].weights),
            closed,
            budget_left: self.budget.left,
        }
    }

    fn horizon(&self) -> Span {
        steps(self.horizon)
    }

    /// Pods since the last decision are paid for.
    fn account(&mut self, now: Timestamp, reactive: i32) {
        const DAY: f64 = 86_400.0;
        let budget = &mut self.budget;
        let Some((before, wanted, got)) = budget.before else { return };
        let passed = now.since(before).seconds_f64().clamp(0.0, 60.0);
        let (pods, extra) = (f64::from(wanted.max(0)), f64::from((got - wanted).max(0)));
        self.tally.reactive += pods * passed;
        self.tally.extra += extra * passed;
        budget.seen = (budget.seen + passed).min(DAY);
        if budget.seen > 0.0 {
            budget.pods += (pods - budget.pods) * (passed / budget.seen);
        }
        let most = self.spec.budget * budget.pods * DAY;
        budget.left = (budget.left + (self.spec.budget * pods - extra) * passed).min(most);
        let load = self.open_load();
        if let Some(episode) = &mut self.episode
            && episode.came.is_none()
            && (reactive > episode.reactive || load > self.spec.target * f64::from(episode.reactive))
        {
            episode.came = Some(now);
        }
    }

    /// The load of the step that is not over, as far as it is.
    fn open_load(&self) -> f64 {
        self.open.sum / STEP.seconds_f64()
    }

    /// Keeps account of whether floors were of use.
    fn judge(&mut self, now: Timestamp, reactive: i32, floor: i32) {
        if let Some(episode) = self.episode {
            let waited = now.since(episode.begun);
            let verdict = match episode.came {
                Some(came) if came <= episode.begun + episode.horizon => Some(&mut self.tally.hits),
                Some(_) => Some(&mut self.tally.early),
                None if waited > episode.horizon + episode.horizon => Some(&mut self.tally.misses),
                None => None,
            };
            if let Some(count) = verdict {
                *count += 1;
                self.episode = None;
            }
        }
        let raises = floor > reactive;
        let raised = self.budget.before.is_some_and(|(_, wanted, got)| got > wanted);
        if raises && !raised && self.episode.is_none() {
            self.tally.raised += 1;
            self.episode = Some(Episode { begun: now, reactive, horizon: self.horizon(), came: None });
        }
    }

    /// Closes the steps that are over.
    fn advance(&mut self, now: Timestamp) {
        let number = now.nanos().div_euclid(STEP.nanos());
        let open = *self.open.number.get_or_insert(number);
        if number <= open {
            return;
        }
        let known = self.open.ticked && (self.open.scraped || !self.open.failed);
        let load = if known { self.open_load().max(0.0) } else { f64::NAN };
        self.close(load, now);
        // After a pause nothing that was kept is in its place any more.
        let missed = number - open - 1;
        if missed > i64::try_from(MOST_STEPS).unwrap_or(i64::MAX) {
            let (spec, tally) = (self.spec, self.tally);
            *self = Self { tally, ..Self::new(spec, now) };
        } else {
            for _ in 0..missed {
                self.close(f64::NAN, now);
            }
        }
        self.open = OpenStep { number: Some(number), ..OpenStep::default() };
    }

    /// A step is over.
    fn close(&mut self, load: f64, now: Timestamp) {
        let mut scratch = Vec::with_capacity(MOST_ERRORS);
        self.history.push(load);
        let clock = self.history.pushed();
        self.settle(clock);
        let before = self.horizon;
        self.horizon = self.starts.horizon();
        if self.horizon != before {
            // Errors are of one horizon.
            for plain in &mut self.plain {
                plain.pending.clear();
            }
            for season in &mut self.seasons {
                season.pending.clear();
            }
        }
        let last = self.history.last();
        if load.is_finite() {
            let (alpha, beta, damped) = HOLT;
            let (level, trend) = self.holt;
            let next = alpha * load + (1.0 - alpha) * (level + damped * trend);
            self.holt = (next, beta * (next - level) + (1.0 - beta) * damped * trend);
        }
        let holt = self.holt_ahead();
        let due = clock + self.horizon as u64;
        let horizon = self.horizon;
        for (plain, value) in self.plain.iter_mut().zip([self.observed, last, holt]) {
            plain.now = value;
            plain.raised = value + plain.errors.at(self.spec.quantile, &mut scratch);
            plain.pending.push_back(Pending { due, horizon, members: [value], raised: plain.raised });
        }
        let beside = [self.plain[0].raised, self.plain[1].raised, self.plain[2].raised];
        for season in &mut self.seasons {
            season.add(&self.history);
            if clock.is_multiple_of(LOOK as u64) {
                season.found = season.is_there(&self.history);
            }
            if let Some(ago) = season.ago(&self.history, horizon) {
                season.weigh();
                let members = [ago, holt, last];
                let mean: f64 = members.iter().zip(season.weights).map(|(value, weight)| value * weight).sum();
                season.mean = mean;
                season.raised = (mean + season.errors.at(self.spec.quantile, &mut scratch)).max(0.0);
                let members = [ago, holt, last, mean];
                season.pending.push_back((Pending { due, horizon, members, raised: season.raised }, beside));
            }
        }
        self.choose(now);
    }

    /// The highest load Holt's method expects within the horizon.
    fn holt_ahead(&self) -> f64 {
        let (level, trend) = self.holt;
        let damped = HOLT.2;
        let steps = if trend > 0.0 { self.horizon } else { 1 };
        let sum: f64 = (1..=steps).fold((0.0, 1.0), |(sum, power), _| (sum + power * damped, power * damped)).0;
        (level + trend * sum).max(0.0)
    }

    /// Forecasts that are due are held against what came.
    fn settle(&mut self, clock: u64) {
        let quantile = self.spec.quantile;
        let chosen = self.chosen;
        for plain in &mut self.plain {
            while let Some(pending) = plain.pending.pop_front_if(|pending| pending.due <= clock) {
                if let Some(actual) = self.history.highest_of_last(pending.horizon) {
                    plain.errors.add(actual - pending.members[0]);
                }
            }
        }
        for (number, season) in self.seasons.iter_mut().enumerate() {
            while let Some((pending, beside)) = season.pending.pop_front_if(|(pending, _)| pending.due <= clock) {
                let Some(actual) = self.history.highest_of_last(pending.horizon) else { continue };
                let most = 2 * season.length;
                for (loss, value) in season.losses.iter_mut().zip(pending.members) {
                    loss.add(pinball(quantile, actual, value), most);
                }
                for (loss, value) in season.plain.iter_mut().zip(beside) {
                    loss.add(pinball(quantile, actual, value), most);
                }
                season.errors.add(actual - pending.members[3]);
                season.loss.add(pinball(quantile, actual, pending.raised), most);
                let covered = actual <= pending.raised;
                season.coverage.add(f64::from(u8::from(covered)), most);
                if chosen == Some(number) {
                    self.tally.due += 1;
                    self.tally.covered += u64::from(covered);
                }
            }
        }
    }

    /// Which season counts, and what floor follows.
    fn choose(&mut self, now: Timestamp) {
        let best = self
            .seasons
            .iter()
            .enumerate()
            .filter(|(_, season)| season.found && season.is_known(&self.history))
            .min_by(|(_, one), (_, other)| one.relative_loss().total_cmp(&other.relative_loss()));
        self.chosen = best.map(|(number, _)| number);
        self.closed = match best {
            _ if now.since(self.since) < self.spec.stable_window => Some(Guard::Start),
            None if self.seasons.iter().any(|season| season.found) => Some(Guard::History),
            None => Some(Guard::Season),
            Some(_) if self.history.highest_of_last(self.horizon).is_none() => Some(Guard::Gaps),
            Some((_, season)) if season.relative_loss() > BETTER => Some(Guard::Loss),
            Some((_, season)) if (season.coverage.value - self.spec.quantile).abs() > COVERAGE + 1e-9 => {
                Some(Guard::Coverage)
            }
            Some(_) => None,
        };
        self.quantile = best.map_or(0.0, |(_, season)| season.raised);
        let (None, Some((_, season))) = (self.closed, best) else {
            self.floor = 0;
            return;
        };
        let cap = CAP * self.history.highest_of_blocks(2 * season.length);
        #[expect(clippy::cast_possible_truncation, reason = "`as` saturates")]
        let pods = |load: f64| (load.min(cap) / self.spec.target).ceil() as i32;
        let reactive = self.budget.before.map_or(0, |(_, reactive, _)| reactive);
        let mut wanted = if pods(season.mean) > reactive { pods(self.quantile) } else { 0 };
        if self.spec.max_scale > 0 {
            wanted = wanted.min(self.spec.max_scale);
        }
        if wanted > 0 && wanted >= self.floor {
            self.floor = wanted;
            self.until = now + self.horizon();
        } else if now >= self.until && self.floor > 0 {
            #[expect(clippy::cast_possible_truncation, reason = "less than a number of pods")]
            let least = (f64::from(self.floor) / self.spec.max_scale_down_rate.max(1.0)).floor() as i32;
            self.floor = wanted.max(least.min(self.floor - 1));
        }
    }
}

fn steps(count: usize) -> Span {
    Span::from_nanos(STEP.nanos().saturating_mul(i64::try_from(count).unwrap_or(i64::MAX)))
}

impl History {
    fn push(&mut self, load: f64) {
        #[expect(clippy::cast_possible_truncation, reason = "loads in single precision are exact enough")]
        let load = load as f32;
        if self.steps.len() == MOST_STEPS {
            self.steps.pop_front();
        }
        self.steps.push_back(load);
        self.highest = self.highest.max(load);
        self.in_block += 1;
        if self.in_block == BLOCK {
            if self.blocks.len() == MOST_STEPS / BLOCK {
                self.blocks.pop_front();
            }
            self.blocks.push_back(std::mem::take(&mut self.highest));
            self.in_block = 0;
        }
        self.count += 1;
    }

    /// Steps that were pushed.
    fn pushed(&self) -> u64 {
        self.count
    }

    /// The load so many steps before the last; none that is not known.
    fn back(&self, steps: usize) -> Option<f64> {
        let place = self.steps.len().checked_sub(steps + 1)?;
        let load = f64::from(self.steps[place]);
        load.is_finite().then_some(load)
    }

    /// The last load that is known; 0 where none is.
    fn last(&self) -> f64 {
        (0..self.steps.len().min(MOST_HORIZON)).find_map(|steps| self.back(steps)).unwrap_or(0.0)
    }

    /// The highest of the last steps, where all of them are known.
    fn highest_of_last(&self, steps: usize) -> Option<f64> {
        (0..steps).try_fold(0.0_f64, |highest, back| Some(highest.max(self.back(back)?)))
    }

    /// The highest of about as many last steps, by whole blocks.
    fn highest_of_blocks(&self, steps: usize) -> f64 {
        let blocks = self.blocks.iter().rev().take(steps.div_ceil(BLOCK));
        f64::from(blocks.fold(self.highest, |highest, block| highest.max(*block)))
    }

    /// How much the load is like itself `lag` steps before, over the last `count` steps: 1 is the same, 0 is nothing.
    fn autocorrelation(&self, lag: usize, count: usize) -> f64 {
        let pairs = || (0..count).filter_map(|back| Some((self.back(back)?, self.back(back + lag)?)));
        let (mut number, mut sums) = (0.0, (0.0, 0.0));
        for (now, then) in pairs() {
            number += 1.0;
            sums = (sums.0 + now, sums.1 + then);
        }
        if number < 2.0 {
            return 0.0;
        }
        let means = (sums.0 / number, sums.1 / number);
        let (mut both, mut squares) = (0.0, (0.0, 0.0));
        for (now, then) in pairs() {
            let (now, then) = (now - means.0, then - means.1);
            both += now * then;
            squares = (squares.0 + now * now, squares.1 + then * then);
        }
        let scale = (squares.0 * squares.1).sqrt();
        if scale > 0.0 { both / scale } else { 0.0 }
    }
}

impl Starts {
    fn look(&mut self, now: Timestamp, ready: i32, desired: i32) {
        match self.waiting {
            Some((since, pods)) if ready >= pods => {
                if self.took.len() == MOST_STARTS {
                    self.took.pop_front();
                }
                self.took.push_back(now.since(since));
                self.waiting = None;
            }
            Some((_, pods)) if desired < pods => self.waiting = None,
            _ => {}
        }
        if self.waiting.is_none() && desired > ready {
            // The first pod that is missing: the last one may have to wait for much more.
            self.waiting = Some((now, ready + 1));
        }
    }

    /// Steps from wanting a pod to having it.
    fn horizon(&self) -> usize {
        let mut took: Vec<Span> = self.took.iter().copied().collect();
        took.sort_unstable();
        let slow = match took.len() {
            0 => USUAL_START,
            count => took[(count * 95).div_ceil(100).saturating_sub(1)],
        };
        let length = (slow + TICK + TICK).nanos();
        usize::try_from(length.div_euclid(STEP.nanos()) + 1).unwrap_or(1).clamp(1, MOST_HORIZON)
    }
}

impl Season {
    /// The last step joins its season; what leaves it joins the one before.
    fn add(&mut self, history: &History) {
        let at = |steps| history.back(steps).unwrap_or(0.0);
        self.sums.0 += at(0) - at(self.length);
        self.sums.1 += at(self.length) - at(2 * self.length);
    }

    /// Whether two seasons are known, and a horizon in which it was held against what came.
    fn is_known(&self, history: &History) -> bool {
        history.steps.len() >= 2 * self.length && self.loss.count >= count_f64(self.length)
    }

    /// Whether the load has this season.
    fn is_there(&self, history: &History) -> bool {
        let count = (2 * self.length).max(720);
        if history.steps.len() < self.length + self.length / 2 {
            return false;
        }
        let count = count.min(history.steps.len() - self.length);
        let whole = history.autocorrelation(self.length, count);
        whole >= ALIKE.0 && whole - history.autocorrelation(self.length / 2, count) >= ALIKE.1
    }

    /// The highest load of the horizon a season ago, with the drift since.
    fn ago(&self, history: &History, horizon: usize) -> Option<f64> {
        if history.steps.len() < self.length {
            return None;
        }
        let highest = (1..=horizon.min(self.length))
            .filter_map(|ahead| history.back(self.length - ahead))
            .fold(None, |highest: Option<f64>, load| Some(highest.map_or(load, |highest| highest.max(load))))?;
        // What it is a season later, on average, is known once there were two.
        let drift = if history.steps.len() >= 2 * self.length {
            (self.sums.0 - self.sums.1) / count_f64(self.length)
        } else {
            0.0
        };
        Some((highest + drift).max(0.0))
    }

    /// Weighs its forecasts by what they lost.
    fn weigh(&mut self) {
        let least = self.losses.iter().map(|loss| loss.value).fold(f64::INFINITY, f64::min).max(1e-9);
        let raw = self.losses.map(|loss| (least / loss.value.max(1e-9)).powi(4));
        let sum: f64 = raw.iter().sum();
        self.weights = raw.map(|weight| weight / sum);
    }

    /// Its loss, relative to the best without a season.
    fn relative_loss(&self) -> f64 {
        let best = self.plain.iter().map(|loss| loss.value).fold(f64::INFINITY, f64::min);
        if best > 0.0 { self.loss.value / best } else { f64::INFINITY }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Load;
    use proptest::prelude::*;

    const SPEC: ForecastSpec = ForecastSpec {
        quantile: 0.9,
        prewarm: false,
        budget: 0.1,
        metric: ScalingMetric::Concurrency,
        target: 1.0,
        max_scale: 0,
        max_scale_down_rate: 2.0,
        stable_window: Span::from_seconds(60),
    };

    /// Lives through a load, second by second, with as many pods as it asks for.
    struct Life {
        forecaster: Forecaster,
        now: Timestamp,
        all: Vec<Foresight>,
    }

    impl Life {
        fn new(spec: ForecastSpec) -> Self {
            let now = Timestamp::from_seconds(1_785_542_400);
            Self { forecaster: Forecaster::new(spec, now), now, all: Vec::new() }
        }

        fn second(&mut self, load: f64, scrape: bool) {
            self.now = self.now + Span::from_seconds(1);
            let event = if scrape {
                Event::Scraped { load: Load { concurrency: load, ..Load::default() } }
            } else {
                Event::ScrapeFailed
            };
            self.forecaster.hear(&Input { now: self.now, event });
            if self.now.second() % 2 == 0 {
                #[expect(clippy::cast_possible_truncation, reason = "small")]
                let reactive = load.ceil() as i32;
                self.forecaster.hear(&Input { now: self.now, event: Event::Tick { ready: reactive } });
                let observed = Observed { stable: load, panic: load };
                let foresight = self.forecaster.decide(self.now, reactive, reactive, observed, false);
                self.all.push(foresight);
            }
        }

        fn live(&mut self, seconds: usize, load: impl Fn(usize) -> f64) -> &Foresight {
            for second in 0..seconds {
                self.second(load(second), true);
            }
            self.all.last().expect("a decision")
        }
    }

    /// 30 at once for a minute in every five, 5 otherwise.
    fn batch(second: usize) -> f64 {
        if second % 300 < 60 { 30.0 } else { 5.0 }
    }

    #[test]
    fn it_raises_before_a_batch_that_comes_every_five_minutes() {
        // What 25 pods cost in the 20 s before each batch is a sixth of what the load costs without them.
        let mut life = Life::new(ForecastSpec { budget: 0.3, ..SPEC });
        let last = *life.live(3 * 3600, batch);
        assert_eq!(last.season, Some(Span::from_seconds(300)), "{last:?}");
        assert_eq!(last.closed, None, "{last:?}");
        // The next batch is due now: the floor stands before it.
        assert!(25 <= last.floor && last.floor <= 45, "{last:?}");
        let tally = life.forecaster.tally();
        assert!(tally.hits >= 20 && tally.misses <= tally.hits / 10, "{tally:?}");
    }

    #[test]
    fn nothing_is_raised_before_two_seasons_or_without_one() {
        for (name, seconds, load) in [
            ("two batches", 590, batch as fn(usize) -> f64),
            ("a constant load", 4 * 3600, |_| 7.0),
            ("a slow wave of no known length", 4 * 3600, |second| {
                #[expect(clippy::cast_precision_loss, reason = "small")]
                let turn = second as f64 / 2000.0;
                10.0 + 5.0 * turn.sin()
            }),
            ("numbers that know nothing of each other", 4 * 3600, |second| {
                let mixed = (second as u64 / 10).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
                f64::from(u32::try_from(mixed % 20).unwrap_or(0))
            }),
        ] {
            let mut life = Life::new(SPEC);
            life.live(seconds, load);
            let raised = life.all.iter().filter(|foresight| foresight.floor > foresight.reactive).count();
            assert_eq!(raised, 0, "{name}: {:?}", life.forecaster.tally());
        }
    }

    #[test]
    fn a_gap_in_the_metrics_closes_it_and_it_opens_again() {
        let mut life = Life::new(SPEC);
        life.live(2 * 3600, batch);
        for _ in 0..20 {
            life.second(5.0, false);
        }
        let last = *life.all.last().expect("a decision");
        assert_eq!((last.closed, last.floor), (Some(Guard::Gaps), 0), "{last:?}");
        life.live(2 * 3600, batch);
        let raised = life.all.iter().rev().take(300).filter(|foresight| foresight.floor > foresight.reactive).count();
        assert!(raised > 0, "{:?}", life.forecaster.tally());
    }

    #[test]
    fn from_zero_it_raises_only_where_prewarming_is_asked_for() {
        for prewarm in [false, true] {
            let mut life = Life::new(ForecastSpec { prewarm, ..SPEC });
            life.live(3 * 3600, |second| if second % 300 < 60 { 30.0 } else { 0.0 });
            let from_zero = life.all.iter().filter(|foresight| foresight.reactive == 0 && foresight.floor > 0).count();
            assert_eq!(from_zero > 0, prewarm, "{:?}", life.forecaster.tally());
        }
    }

    #[test]
    fn the_budget_and_max_scale_bound_it() {
        let with = |budget| {
            let mut life = Life::new(ForecastSpec { budget, max_scale: 12, ..SPEC });
            life.live(6 * 3600, batch);
            assert!(life.all.iter().all(|foresight| foresight.floor <= 12));
            life.forecaster.tally()
        };
        let (tight, ample) = (with(0.005), with(1.0));
        assert!(tight.raised > 0 && ample.extra > 2.0 * tight.extra, "{tight:?} {ample:?}");
        // What is begun is ended, at most a horizon of 7 pods beyond the budget.
        assert!(tight.extra <= 0.005 * tight.reactive + 7.0 * 20.0, "{tight:?}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        /// Whatever the load: never fewer pods, never a floor above the cap, and the same inputs give the same answers.
        #[test]
        fn it_only_ever_adds_within_its_bounds(
            pattern in proptest::collection::vec(0.0_f64..40.0, 1..60),
            failing in 0_usize..100,
            max_scale in 0_i32..30,
            prewarm: bool,
        ) {
            let spec = ForecastSpec { prewarm, max_scale, ..SPEC };
            let (mut one, mut other) = (Life::new(spec), Life::new(spec));
            for second in 0..4000_usize {
                let load = pattern[(second / 10) % pattern.len()];
                for life in [&mut one, &mut other] {
                    life.second(load, second % 100 >= failing / 10);
                }
            }
            prop_assert_eq!(&one.all, &other.all);
            let highest = pattern.iter().copied().fold(0.0, f64::max);
            for foresight in &one.all {
                prop_assert!(foresight.desired() >= foresight.reactive);
                prop_assert!(f64::from(foresight.floor) <= (CAP * highest).ceil(), "{foresight:?}");
                prop_assert!(max_scale == 0 || foresight.floor <= max_scale, "{foresight:?}");
                prop_assert!(foresight.closed.is_none() || foresight.floor == 0, "{foresight:?}");
                prop_assert!(prewarm || foresight.reactive > 0 || foresight.floor == 0, "{foresight:?}");
            }
        }
    }
}
