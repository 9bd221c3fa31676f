//! When requests come, one after another.
//!
//! Nothing is kept of what came: a bucket of a trace is turned into instants as they are asked for, so memory is the
//! same for any rate. Counts of a trace are always kept exactly, unless a factor or noise asks for other ones.

use super::random::{Purpose, Stream, instant, stream, unit};
use super::scenario::{Batch, Diurnal, FlashCrowd, InsideBucket, Load, Mmpp, Ramp, State, Step, Synthetic, TraceLoad};
use super::time::{MINUTE, Micros, SECOND, from_seconds, seconds};
use super::trace::{Recorded, Trace};
use rand::RngExt as _;
use rand_distr::{Binomial, Distribution as _, Exp1, Gamma, Poisson, StandardNormal};
use std::sync::Arc;

/// A request that comes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Arrival {
    /// When.
    pub at: Micros,
    /// How long it takes to serve, where the trace says.
    pub took: Option<Micros>,
}

/// The requests of a run, in the order they come.
#[derive(Clone, Debug)]
pub struct Arrivals {
    source: Source,
    stream: Stream,
}

#[derive(Clone, Debug)]
enum Source {
    Counts(Counts),
    Requests(Requests),
    Shape(Thinned),
    Mmpp(Jumping),
    Even { gap: f64, next: u64, end: Micros },
    Batch(Batches),
    Sum(Vec<(Option<Arrival>, Arrivals)>),
}

/// What part of a load is played.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Part {
    /// Where in the load the run begins.
    pub from: Micros,
    /// Where it ends.
    pub to: Micros,
    /// How many times as much traffic there is.
    pub rate: f64,
}

impl Arrivals {
    /// The requests of `load` between two instants, which are the start and the end of the run.
    pub fn new(load: &Load, trace: Option<&Arc<Trace>>, part: Part, seed: u64, name: &str) -> Self {
        let source = match (&load.trace, trace, &load.synthetic) {
            (Some(settings), Some(trace), _) => match trace.recorded {
                Recorded::Counts { .. } => Source::Counts(Counts::new(settings, Arc::clone(trace), part)),
                Recorded::Requests(_) => Source::Requests(Requests::new(settings, Arc::clone(trace), part)),
            },
            (_, _, Some(synthetic)) => return Self::synthetic(synthetic, part, seed, name),
            _ => Source::Sum(Vec::new()),
        };
        Self { source, stream: stream(seed, Purpose::Arrivals, name) }
    }

    fn synthetic(load: &Synthetic, part: Part, seed: u64, name: &str) -> Self {
        let thinned = |shape| Source::Shape(Thinned::new(shape, part));
        let length = part.to - part.from;
        let source = if let Some(poisson) = load.poisson {
            thinned(Shape::Constant(poisson.rate))
        } else if let Some(mmpp) = &load.mmpp {
            Source::Mmpp(Jumping::new(mmpp, part))
        } else if let Some(constant) = load.constant {
            Source::Even { gap: 1e6 / (constant.rate * part.rate), next: 0, end: length }
        } else if let Some(steps) = &load.step {
            thinned(Shape::Step(steps.clone()))
        } else if let Some(ramp) = load.ramp {
            thinned(Shape::Ramp(ramp))
        } else if let Some(diurnal) = load.diurnal {
            thinned(Shape::Diurnal(diurnal))
        } else if let Some(crowd) = load.flash_crowd {
            thinned(Shape::FlashCrowd(crowd))
        } else if let Some(batch) = load.batch {
            Source::Batch(Batches::new(batch, part))
        } else {
            let parts = load.sum.iter().flatten().enumerate();
            let parts = parts.map(|(number, load)| {
                let mut arrivals = Self::synthetic(load, part, seed, &format!("{name}/{number}"));
                (arrivals.next(), arrivals)
            });
            Source::Sum(parts.collect())
        };
        Self { source, stream: stream(seed, Purpose::Arrivals, name) }
    }
}

impl Arrivals {
    /// None at all.
    pub(crate) fn none() -> Self {
        Self { source: Source::Sum(Vec::new()), stream: stream(0, Purpose::Arrivals, "") }
    }

    /// Draws how many more come until `to`, where that is as good as asking for each; else none, and they come one by
    /// one.
    fn rest(&mut self, to: Micros) -> u32 {
        match &mut self.source {
            Source::Counts(counts) => counts.rest(to, &mut self.stream),
            Source::Shape(thinned) => thinned.rest(to, &mut self.stream),
            _ => 0,
        }
    }
}

impl Iterator for Arrivals {
    type Item = Arrival;

    #[inline]
    fn next(&mut self) -> Option<Arrival> {
        let stream = &mut self.stream;
        let at = match &mut self.source {
            Source::Counts(counts) => counts.next(stream)?,
            Source::Requests(requests) => return requests.next(stream),
            Source::Shape(thinned) => thinned.next(stream)?,
            Source::Mmpp(jumping) => jumping.next(stream)?,
            Source::Even { gap, next, end } => {
                #[expect(clippy::cast_precision_loss, reason = "below 2^53 requests it is exact")]
                let at = whole(*gap * (*next as f64 + 0.5));
                *next += 1;
                (at < *end).then_some(at)?
            }
            Source::Batch(batches) => batches.next(stream)?,
            Source::Sum(parts) => {
                let first = parts.iter_mut().filter(|(next, _)| next.is_some());
                let (next, arrivals) = first.min_by_key(|(next, _)| next.map(|arrival| arrival.at))?;
                return std::mem::replace(next, arrivals.next());
            }
        };
        Some(Arrival { at, took: None })
    }
}

/// Counts requests where nobody asks when exactly each comes.
///
/// Where few come they are the same ones as in an exact run; where many come their number is drawn.
#[derive(Clone, Debug)]
pub struct Counter {
    arrivals: Arrivals,
    next: Option<Arrival>,
}

/// From so many requests a second on, numbers are drawn.
const MANY: f64 = 160.0;

impl Counter {
    /// Of these requests.
    pub fn new(mut arrivals: Arrivals) -> Self {
        if let Source::Counts(counts) = &mut arrivals.source {
            counts.by_number = true;
        }
        let next = arrivals.next();
        Self { arrivals, next }
    }

    /// When the next request comes.
    pub fn next_at(&self) -> Option<Micros> {
        self.next.map(|arrival| arrival.at)
    }

    /// How many come from where it was last asked until `to`, which belongs to it.
    pub fn until(&mut self, to: Micros) -> u32 {
        let mut count = 0;
        while let Some(next) = self.next
            && next.at <= to
        {
            count += 1 + self.arrivals.rest(to);
            self.next = self.arrivals.next();
        }
        count
    }
}

#[inline]
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` saturates")]
fn whole(value: f64) -> u64 {
    value as u64
}

#[inline]
fn exponential(stream: &mut Stream) -> f64 {
    stream.sample(Exp1)
}

/// How many there are of `count` when there are `factor` times as many on average: drawn, so that the noise is that of
/// the new volume.
fn drawn(count: u32, factor: f64, stream: &mut Stream) -> u64 {
    if factor == 1.0 || count == 0 {
        return u64::from(count);
    }
    if factor < 1.0 {
        return Binomial::new(u64::from(count), factor).map_or(0, |law| law.sample(stream));
    }
    Poisson::new(f64::from(count) * factor).map_or(0, |law| whole(law.sample(stream)))
}

/// The buckets of a trace.
#[derive(Clone, Debug)]
struct Counts {
    trace: Arc<Trace>,
    settings: TraceLoad,
    factor: f64,
    /// Of the trace, before it is stretched.
    bucket: Micros,
    first: u64,
    in_one_play: u64,
    plays: u64,
    /// Buckets begun.
    begun: u64,
    from: Micros,
    to: Micros,
    gaps: Gaps,
    spread: Spread,
    /// Whether numbers are drawn where many come.
    by_number: bool,
}

/// How far apart requests in a bucket are.
#[derive(Clone, Copy, Debug)]
enum Gaps {
    Exponential,
    Gamma(Gamma<f64>),
    Even,
}

/// The rest of a bucket. Its gaps are drawn twice from the same state, once to know their sum. Without a sum each request
/// is the first of those that are left, which come anywhere in what is left.
#[derive(Clone, Debug)]
struct Spread {
    left: u64,
    number: u64,
    start: f64,
    width: f64,
    sum: f64,
    so_far: f64,
    again: Stream,
}

impl Counts {
    fn new(settings: &TraceLoad, trace: Arc<Trace>, part: Part) -> Self {
        let Recorded::Counts { bucket, counts } = &trace.recorded else { unreachable!("the caller looked") };
        let (bucket, buckets) = (*bucket, counts.len() as u64);
        let slice = settings.slice.unwrap_or_default();
        let first = (slice.from.0 / bucket).min(buckets);
        let end = slice.to.map_or(buckets, |to| to.0.div_ceil(bucket).min(buckets));
        let gaps = match settings.inside_bucket {
            InsideBucket::Poisson | InsideBucket::Front => Gaps::Exponential,
            InsideBucket::Even => Gaps::Even,
            InsideBucket::Bursty => {
                let shape = settings.cv.powi(-2);
                Gamma::new(shape, 1.0).map_or(Gaps::Exponential, Gaps::Gamma)
            }
        };
        let spread = Spread {
            left: 0,
            number: 0,
            start: 0.0,
            width: 0.0,
            sum: 0.0,
            so_far: 0.0,
            again: stream(0, Purpose::Arrivals, ""),
        };
        Self {
            factor: settings.rate_factor * part.rate,
            settings: settings.clone(),
            bucket,
            first,
            in_one_play: end.saturating_sub(first),
            plays: u64::from(settings.repeat),
            begun: 0,
            from: part.from,
            to: part.to,
            trace,
            gaps,
            spread,
            by_number: false,
        }
    }

    fn next(&mut self, stream: &mut Stream) -> Option<Micros> {
        loop {
            while self.spread.left == 0 {
                self.begin(stream)?;
            }
            let at = self.spread.next(self.gaps, stream);
            if at >= self.to {
                return None;
            }
            if at >= self.from {
                return Some(at - self.from);
            }
        }
    }

    /// Begins the next bucket.
    #[expect(clippy::cast_precision_loss, reason = "instants below 2^53 µs are exact")]
    fn begin(&mut self, stream: &mut Stream) -> Option<()> {
        let Recorded::Counts { counts, .. } = &self.trace.recorded else { return None };
        if self.begun >= self.in_one_play * self.plays {
            return None;
        }
        let width = self.bucket as f64 * self.settings.time_factor;
        let start = width * self.begun as f64;
        if start >= self.to as f64 {
            return None;
        }
        let place = self.first + self.begun % self.in_one_play;
        self.begun += 1;
        if start + width <= self.from as f64 {
            return Some(());
        }
        let mut factor = self.factor;
        if self.settings.noise > 0.0 {
            let normal: f64 = stream.sample(StandardNormal);
            factor *= (self.settings.noise * normal - self.settings.noise.powi(2) / 2.0).exp();
        }
        let count = usize::try_from(place).ok().and_then(|place| counts.get(place)).copied().unwrap_or(0);
        let count = drawn(count, factor, stream);
        if count == 0 {
            return Some(());
        }
        let part = if self.settings.inside_bucket == InsideBucket::Front { self.settings.front_fraction } else { 1.0 };
        let again = stream.clone();
        let spread = Spread { left: count, number: count, start, width: width * part, sum: 0.0, so_far: 0.0, again };
        if self.by_number && matches!(self.gaps, Gaps::Exponential) && count as f64 > MANY * spread.width / 1e6 {
            self.spread = spread;
            return Some(());
        }
        // One gap more than there are requests: with exponential ones the instants are those of so many requests that
        // come anywhere, each by itself.
        let mut sum = 0.0;
        for _ in 0..=count {
            sum += self.gaps.draw(stream);
        }
        self.spread = Spread { sum, ..spread };
        Some(())
    }

    /// As [`Arrivals::rest`]: those that are left come anywhere in what is left of the bucket.
    #[expect(clippy::cast_precision_loss, reason = "instants below 2^53 µs are exact")]
    fn rest(&mut self, to: Micros, stream: &mut Stream) -> u32 {
        let spread = &mut self.spread;
        let at = spread.start + spread.width * spread.so_far;
        let to = (self.from + to) as f64;
        if spread.sum > 0.0 || spread.left == 0 || to <= at {
            return 0;
        }
        let part = ((to - at) / (spread.start + spread.width - at)).min(1.0);
        let count =
            if part < 1.0 { Binomial::new(spread.left, part).map_or(0, |law| law.sample(stream)) } else { spread.left };
        spread.left -= count;
        spread.so_far = ((to - spread.start) / spread.width).min(1.0);
        u32::try_from(count).unwrap_or(u32::MAX)
    }
}

impl Gaps {
    #[inline]
    fn draw(self, stream: &mut Stream) -> f64 {
        match self {
            Self::Exponential => exponential(stream),
            Self::Gamma(law) => law.sample(stream),
            Self::Even => 1.0,
        }
    }
}

impl Spread {
    #[inline]
    #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
    fn next(&mut self, gaps: Gaps, stream: &mut Stream) -> Micros {
        let part = if let Gaps::Even = gaps {
            ((self.number - self.left) as f64 + 0.5) / self.number as f64
        } else if self.sum == 0.0 {
            let later = (1.0 - unit(stream)).powf(1.0 / self.left as f64);
            self.so_far = 1.0 - (1.0 - self.so_far) * later;
            self.so_far
        } else {
            self.so_far += gaps.draw(&mut self.again);
            self.so_far / self.sum
        };
        self.left -= 1;
        whole(self.start + self.width * part)
    }
}

/// The requests of a trace.
#[derive(Clone, Debug)]
struct Requests {
    trace: Arc<Trace>,
    factor: f64,
    time_factor: f64,
    first: usize,
    end: usize,
    origin: Micros,
    length: Micros,
    play: u64,
    plays: u64,
    at: usize,
    copies: u64,
    from: Micros,
    to: Micros,
    /// Copies of requests that are not out yet, latest first.
    waiting: Vec<Arrival>,
}

impl Requests {
    fn new(settings: &TraceLoad, trace: Arc<Trace>, part: Part) -> Self {
        let Recorded::Requests(requests) = &trace.recorded else { unreachable!("the caller looked") };
        let slice = settings.slice.unwrap_or_default();
        let first = requests.partition_point(|request| request.at < slice.from.0);
        let end = slice.to.map_or(requests.len(), |to| requests.partition_point(|request| request.at < to.0));
        let length = slice.to.map_or(trace.length(), |to| to.0).saturating_sub(slice.from.0);
        Self {
            factor: settings.rate_factor * part.rate,
            time_factor: settings.time_factor,
            first,
            end,
            origin: slice.from.0,
            length,
            play: 0,
            plays: u64::from(settings.repeat),
            at: first,
            copies: 0,
            from: part.from,
            to: part.to,
            waiting: Vec::new(),
            trace,
        }
    }

    /// The instant of a recorded request in this play.
    fn instant(&self, recorded: Micros) -> Micros {
        from_seconds(seconds(recorded - self.origin + self.play * self.length) * self.time_factor)
    }

    fn next(&mut self, stream: &mut Stream) -> Option<Arrival> {
        loop {
            if let Some(arrival) = self.waiting.pop() {
                if arrival.at >= self.to {
                    return None;
                }
                if arrival.at >= self.from {
                    return Some(Arrival { at: arrival.at - self.from, ..arrival });
                }
                continue;
            }
            if self.at >= self.end {
                self.play += 1;
                self.at = self.first;
                if self.play >= self.plays || self.first == self.end {
                    return None;
                }
            }
            let Recorded::Requests(requests) = &self.trace.recorded else { return None };
            let request = requests[self.at];
            let at = self.instant(request.at);
            let gap = requests.get(self.at + 1).map_or(0, |next| self.instant(next.at).saturating_sub(at));
            self.at += 1;
            self.copies = drawn(1, self.factor, stream);
            for copy in 0..self.copies {
                // Copies come anywhere until the next request.
                let late = if copy == 0 || gap == 0 { 0 } else { instant(stream, gap) };
                self.waiting.push(Arrival { at: at + late, took: request.took });
            }
            self.waiting.sort_unstable_by_key(|arrival| std::cmp::Reverse(arrival.at));
        }
    }
}

/// A rate that changes in time.
#[derive(Clone, Debug)]
enum Shape {
    Constant(f64),
    Step(Vec<Step>),
    Ramp(Ramp),
    Diurnal(Diurnal),
    FlashCrowd(FlashCrowd),
}

impl Shape {
    /// Requests per second at an instant.
    fn rate(&self, at: Micros) -> f64 {
        match self {
            Self::Constant(rate) => *rate,
            Self::Step(steps) => {
                let begun = steps.partition_point(|step| step.at.0 <= at);
                begun.checked_sub(1).map_or(0.0, |last| steps[last].rate)
            }
            Self::Ramp(ramp) => {
                let part = seconds(at.min(ramp.over.0)) / seconds(ramp.over.0);
                ramp.from + (ramp.to - ramp.from) * part
            }
            Self::Diurnal(diurnal) => {
                let turn = (seconds(at) - seconds(diurnal.peak.0)) / seconds(diurnal.period.0);
                diurnal.mean * (1.0 + diurnal.swing * (std::f64::consts::TAU * turn).cos())
            }
            Self::FlashCrowd(crowd) => {
                let Some(into) = at.checked_sub(crowd.at.0) else { return crowd.base };
                if into < crowd.rise.0 {
                    return crowd.base + (crowd.peak - crowd.base) * seconds(into) / seconds(crowd.rise.0);
                }
                let Some(after) = into.checked_sub(crowd.rise.0 + crowd.plateau.0) else { return crowd.peak };
                let left = (-seconds(after) / seconds(crowd.half_life.0)).exp2();
                crowd.base + (crowd.peak - crowd.base) * left
            }
        }
    }

    /// A rate it does not exceed between two instants.
    fn bound(&self, from: Micros, to: Micros) -> f64 {
        let ends = self.rate(from).max(self.rate(to));
        match self {
            Self::Constant(rate) => *rate,
            Self::Step(steps) => steps
                .iter()
                .filter(|step| from < step.at.0 && step.at.0 <= to)
                .fold(ends, |most, step| most.max(step.rate)),
            Self::Ramp(_) => ends,
            Self::Diurnal(diurnal) => diurnal.mean * (1.0 + diurnal.swing),
            Self::FlashCrowd(crowd) => {
                let (top, end) = (crowd.at.0 + crowd.rise.0, crowd.at.0 + crowd.rise.0 + crowd.plateau.0);
                if from <= end && top <= to { crowd.peak } else { ends }
            }
        }
    }
}

/// Requests at a rate that changes in time: drawn at its bound, of which some are left out.
#[derive(Clone, Debug)]
struct Thinned {
    shape: Shape,
    factor: f64,
    offset: Micros,
    length: Micros,
    at: f64,
    /// Until when the bound holds.
    until: Micros,
    bound: f64,
}

impl Thinned {
    fn new(shape: Shape, part: Part) -> Self {
        let length = part.to - part.from;
        Self { shape, factor: part.rate, offset: part.from, length, at: 0.0, until: 0, bound: 0.0 }
    }

    /// As [`Arrivals::rest`]: what comes after the last request has no memory of it.
    #[expect(clippy::cast_precision_loss, reason = "instants below 2^53 µs are exact")]
    fn rest(&mut self, to: Micros, stream: &mut Stream) -> u32 {
        if to >= self.until || self.bound < MANY || self.at >= to as f64 {
            return 0;
        }
        let rate = self.factor * self.shape.rate(self.offset + whole(f64::midpoint(self.at, to as f64)));
        let mean = rate * (to as f64 - self.at) / 1e6;
        if mean <= 1.0 {
            return 0;
        }
        self.at = to as f64;
        Poisson::new(mean).map_or(0, |law| u32::try_from(whole(law.sample(stream))).unwrap_or(u32::MAX))
    }

    #[expect(clippy::cast_precision_loss, reason = "instants below 2^53 µs are exact")]
    fn next(&mut self, stream: &mut Stream) -> Option<Micros> {
        loop {
            if self.bound > 0.0 {
                self.at += exponential(stream) / self.bound * 1e6;
            } else {
                self.at = f64::INFINITY;
            }
            if self.at >= self.until as f64 {
                // Exponential gaps have no memory: at the edge of what the bound holds for, they begin anew.
                if self.until >= self.length {
                    return None;
                }
                let from = self.until;
                let window = if let Shape::Constant(_) = self.shape { self.length } else { MINUTE };
                self.until = (from + window).min(self.length);
                self.at = from as f64;
                self.bound = self.factor * self.shape.bound(self.offset + from, self.offset + self.until);
                continue;
            }
            let at = whole(self.at);
            if let Shape::Constant(_) = self.shape {
                return Some(at);
            }
            if unit(stream) * self.bound < self.factor * self.shape.rate(self.offset + at) {
                return Some(at);
            }
        }
    }
}

/// Requests at a rate that jumps between states.
#[derive(Clone, Debug)]
struct Jumping {
    states: Vec<State>,
    factor: f64,
    state: usize,
    at: f64,
    until: f64,
    length: Micros,
    /// Part of the load that is passed over.
    skip: Micros,
}

impl Jumping {
    fn new(mmpp: &Mmpp, part: Part) -> Self {
        Self {
            states: mmpp.states.clone(),
            factor: part.rate,
            state: usize::MAX,
            at: 0.0,
            until: 0.0,
            length: part.to,
            skip: part.from,
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "instants below 2^53 µs are exact")]
    fn next(&mut self, stream: &mut Stream) -> Option<Micros> {
        loop {
            let rate = self.states.get(self.state).map_or(0.0, |state| state.rate * self.factor);
            self.at = if rate > 0.0 { self.at + exponential(stream) / rate * 1e6 } else { f64::INFINITY };
            if self.at >= self.until {
                if self.until >= self.length as f64 {
                    return None;
                }
                self.at = self.until;
                self.state = match (self.states.len(), self.state) {
                    (_, usize::MAX) | (1, _) => 0,
                    (states, state) => {
                        let other = usize::try_from(instant(stream, states as u64 - 1)).unwrap_or(0);
                        if other < state { other } else { other + 1 }
                    }
                };
                self.until += exponential(stream) * self.states[self.state].mean.0 as f64;
                continue;
            }
            let at = whole(self.at);
            if at >= self.length {
                return None;
            }
            if at >= self.skip {
                return Some(at - self.skip);
            }
        }
    }
}

/// Batches of requests.
#[derive(Clone, Debug)]
struct Batches {
    batch: Batch,
    factor: f64,
    next: u64,
    from: Micros,
    to: Micros,
    start: Micros,
    spread: Spread,
}

impl Batches {
    fn new(batch: Batch, part: Part) -> Self {
        let spread = Spread {
            left: 0,
            number: 0,
            start: 0.0,
            width: 0.0,
            sum: 1.0,
            so_far: 0.0,
            again: stream(0, Purpose::Arrivals, ""),
        };
        Self { batch, factor: part.rate, next: 0, from: part.from, to: part.to, start: 0, spread }
    }

    #[expect(clippy::cast_precision_loss, reason = "instants below 2^53 µs are exact")]
    fn next(&mut self, stream: &mut Stream) -> Option<Micros> {
        loop {
            if self.spread.left > 0 {
                let at = if self.batch.spread.0 == 0 {
                    self.spread.left -= 1;
                    self.start
                } else {
                    self.spread.next(Gaps::Exponential, stream)
                };
                if at >= self.to {
                    return None;
                }
                if at >= self.from {
                    return Some(at - self.from);
                }
                continue;
            }
            let start = self.batch.at.0 + self.next * self.batch.every.0;
            if start >= self.to {
                return None;
            }
            self.next += 1;
            let late = if self.batch.jitter.0 == 0 { 0 } else { instant(stream, self.batch.jitter.0) };
            let count = drawn(self.batch.size, self.factor, stream);
            self.start = start + late;
            if self.start + self.batch.spread.0 + SECOND < self.from || count == 0 {
                continue;
            }
            let again = stream.clone();
            let mut sum = 0.0;
            if self.batch.spread.0 > 0 {
                for _ in 0..=count {
                    sum += exponential(stream);
                }
            }
            self.spread = Spread {
                left: count,
                number: count,
                start: self.start as f64,
                width: self.batch.spread.0 as f64,
                sum,
                so_far: 0.0,
                again,
            };
        }
    }
}
