//! What is written down during a run, and the outcome that is made of it.

use super::levels::{Areas, Levels};
use crate::engine::Reason;
use crate::sim::case::Case;
use crate::sim::histogram::Histogram;
use crate::sim::outcome::{
    Cold, Cost, Errors, Fit, Layer, Lengths, Outcome, Period, Requests, Scaling, Series, SloMeasures, Waited, Work,
    area, share,
};
use crate::sim::random::{Stream, below};
use crate::sim::screen::{PARTS, STRATA, Service, binomial};
use crate::sim::time::{HOUR, MINUTE, Micros, SECOND, seconds};
use std::sync::Arc;

/// How much of a run is written down.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Detail {
    /// Measures only.
    #[default]
    Measures,
    /// The series and every minute too.
    Series,
    /// Measures only, and those approximate: see [`screen`](crate::sim::screen).
    Screened,
}

/// How often the state is looked at for the series.
pub(crate) const LOOK: Micros = 2 * SECOND;
/// The most lines of a series, unless its step is given.
const MOST_LINES: u64 = 86_400;
/// No rule decided.
const NO_REASON: u8 = 255;

/// How a request ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fate {
    Completed,
    Timeout,
    ActivatorFull,
    QueueFull,
    PodLost,
}

/// What a request leaves behind when it ends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ended {
    pub(crate) arrival: Micros,
    pub(crate) activator_wait: Micros,
    pub(crate) queue_wait: Micros,
    /// Since its service began, if it did.
    pub(crate) served: Option<Micros>,
    pub(crate) cold: bool,
    pub(crate) scale_up_wait: bool,
}

/// What the scaler last said.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub(crate) struct Said {
    pub(crate) desired: u32,
    pub(crate) stable: f64,
    pub(crate) panic: f64,
    pub(crate) excess_burst: i32,
    pub(crate) reason: Option<u8>,
}

/// A sum of stays at a place of the system.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Stays {
    pub(crate) at_activator: u128,
    pub(crate) at_queue: u128,
    pub(crate) serving: u128,
}

#[derive(Debug)]
pub(crate) struct Record {
    warm_up: Micros,
    end: Micros,
    limit: Micros,
    percentile: f64,
    flap_window: Micros,
    detail: Detail,

    requests: Requests,
    errors: Errors,
    violations: u64,
    windows: u64,
    windows_missed: u64,
    cold_starts: u64,
    scale_up_waits: u64,

    minute: Histogram,
    hour: Histogram,
    total: Histogram,
    activator_wait: Histogram,
    queue_wait: Histogram,
    service: Histogram,
    cold_wait: Histogram,
    /// Waits of no length, which most are.
    no_activator_wait: u64,
    no_queue_wait: u64,

    minute_ends: Micros,
    this_minute: Period,
    this_hour: Period,
    minutes: Vec<Period>,
    hours: Vec<Period>,

    pub(crate) scaling: Scaling,
    last_change: Option<(Micros, bool)>,
    pub(crate) pods_started: u64,
    max_pods: u64,
    /// Areas at the end of the warm-up.
    base: Areas,

    /// Where requests are only counted.
    screened: Option<Screened>,

    looks_per_line: u64,
    looks: u64,
    series: Series,
    line: Line,
    moved: (u64, u64, u64, u64),
}

/// Requests of this minute that are only counted, and how long any is served.
#[derive(Debug)]
struct Screened {
    service: Arc<Service>,
    stream: Stream,
    /// Of those that did not wait.
    at_once: u64,
}

/// Requests that came together and begin to be served.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Begun {
    pub(crate) arrival: Micros,
    pub(crate) count: u32,
    pub(crate) activator_wait: Micros,
    pub(crate) queue_wait: Micros,
    pub(crate) cold: bool,
    /// How long a caller or the revision is patient.
    pub(crate) patience: Micros,
}

/// A line of the series being written.
#[derive(Clone, Copy, Debug, Default)]
struct Line {
    arrivals: u32,
    completions: u32,
    errors: u32,
    cold_starts: u32,
    desired: u32,
    created: u64,
    starting: u64,
    ready: u64,
    draining: u64,
    demand: u64,
    need: u64,
    serving: u64,
    panicking: u64,
    in_path: u64,
    waiting_activator: u64,
    waiting_queue: u64,
}

impl Record {
    pub(crate) fn new(case: &Case, detail: Detail) -> Self {
        let slo = &case.scenario.slo;
        let length = case.length();
        let step = case
            .scenario
            .output
            .series_step
            .map_or_else(|| (length / LOOK).div_ceil(MOST_LINES).max(1), |step| step.0.div_ceil(LOOK).max(1));
        Self {
            warm_up: case.warm_up,
            end: length,
            limit: slo.latency.0,
            percentile: slo.percentile,
            flap_window: slo.flap_window.0,
            detail,
            requests: Requests::default(),
            errors: Errors::default(),
            violations: 0,
            windows: 0,
            windows_missed: 0,
            cold_starts: 0,
            scale_up_waits: 0,
            minute: Histogram::default(),
            hour: Histogram::default(),
            total: Histogram::default(),
            activator_wait: Histogram::default(),
            queue_wait: Histogram::default(),
            service: Histogram::default(),
            cold_wait: Histogram::default(),
            no_activator_wait: 0,
            no_queue_wait: 0,
            minute_ends: MINUTE,
            this_minute: Period::default(),
            this_hour: Period::default(),
            minutes: Vec::new(),
            hours: Vec::new(),
            scaling: Scaling::default(),
            last_change: None,
            pods_started: 0,
            max_pods: 0,
            base: Areas::default(),
            screened: None,
            looks_per_line: step,
            looks: 0,
            series: Series::default(),
            line: Line::default(),
            moved: (0, 0, 0, 0),
        }
    }

    /// A request comes; `cold` when no pod is ready.
    #[inline]
    pub(crate) fn arrive(&mut self, at: Micros, cold: bool) {
        self.line.arrivals += 1;
        if at >= self.minute_ends {
            self.close_minutes(at);
        }
        if cold {
            self.line.cold_starts += 1;
            self.this_minute.cold_starts += 1;
        }
        if at >= self.warm_up {
            self.requests.arrived += 1;
            self.cold_starts += u64::from(cold);
        }
    }

    /// A request ends.
    #[inline]
    pub(crate) fn end(&mut self, at: Micros, fate: Fate, request: &Ended) {
        if at >= self.minute_ends {
            self.close_minutes(at);
        }
        let measured = request.arrival >= self.warm_up;
        if fate == Fate::Completed {
            self.line.completions += 1;
            let latency = at - request.arrival;
            if measured {
                self.requests.completed += 1;
                self.minute.record(latency);
                self.violations += u64::from(latency > self.limit);
                self.this_minute.violations += u64::from(latency > self.limit);
                if let Some(served) = request.served {
                    self.service.record(served);
                }
                if request.activator_wait == 0 {
                    self.no_activator_wait += 1;
                } else {
                    self.activator_wait.record(request.activator_wait);
                }
                if request.queue_wait == 0 {
                    self.no_queue_wait += 1;
                } else {
                    self.queue_wait.record(request.queue_wait);
                }
                if request.cold {
                    self.cold_wait.record(request.activator_wait + request.queue_wait);
                }
                self.scale_up_waits += u64::from(request.scale_up_wait);
            }
            return;
        }
        self.line.errors += 1;
        if measured {
            self.requests.failed += 1;
            self.violations += 1;
            self.this_minute.violations += 1;
            self.this_minute.failed += 1;
            *self.errors_of(fate) += 1;
        }
    }

    /// From now on requests are only counted.
    pub(crate) fn screen(&mut self, service: Arc<Service>, stream: Stream) {
        self.screened = Some(Screened { service, stream, at_once: 0 });
    }

    /// So many requests come at about an instant.
    pub(crate) fn arrive_many(&mut self, at: Micros, cold: bool, count: u32) {
        if at >= self.minute_ends {
            self.close_minutes(at);
        }
        let cold = if cold { u64::from(count) } else { 0 };
        self.this_minute.cold_starts += cold;
        if at >= self.warm_up {
            self.requests.arrived += u64::from(count);
            self.cold_starts += cold;
        }
    }

    /// So many that came together begin to be served, which is as good as their end: how long they take is known.
    pub(crate) fn begin_many(&mut self, at: Micros, begun: &Begun) {
        if at >= self.minute_ends {
            self.close_minutes(at);
        }
        if begun.arrival < self.warm_up || begun.count == 0 {
            return;
        }
        let Some(Screened { service, stream, at_once }) = &mut self.screened else { return };
        let waited = begun.activator_wait + begun.queue_wait;
        let left = |limit: Micros| limit.checked_sub(waited).map_or(1.0, |left| service.longer_than(left));
        let given_up = left(begun.patience);
        let failed = binomial(begun.count, given_up, stream);
        let completed = begun.count - failed;
        let late = if given_up < 1.0 { ((left(self.limit) - given_up) / (1.0 - given_up)).max(0.0) } else { 0.0 };
        let late = u64::from(binomial(completed, late, stream));
        let many = u64::from(completed);
        self.requests.completed += many;
        self.violations += late;
        self.this_minute.violations += late;
        if waited == 0 {
            *at_once += many;
        } else {
            // Latencies of as many equally likely parts as there are requests, up to sixteen.
            let parts = completed.min(16) as usize;
            for part in 0..parts {
                let share = (completed as usize * (part + 1) / parts - completed as usize * part / parts) as u64;
                let place = (part * STRATA + below(stream, PARTS) as usize) / parts;
                self.minute.record_many(waited + service.quantiles[place.min(STRATA - 1)], share);
            }
        }
        if begun.activator_wait == 0 {
            self.no_activator_wait += many;
        } else {
            self.activator_wait.record_many(begun.activator_wait, many);
        }
        if begun.queue_wait == 0 {
            self.no_queue_wait += many;
        } else {
            self.queue_wait.record_many(begun.queue_wait, many);
        }
        if begun.cold {
            self.cold_wait.record_many(waited, many);
        } else if begun.activator_wait > 0 {
            self.scale_up_waits += many;
        }
        self.fail_many(at, begun.arrival, Fate::Timeout, failed);
    }

    /// So many that came together fail.
    pub(crate) fn fail_many(&mut self, at: Micros, arrival: Micros, fate: Fate, count: u32) {
        if at >= self.minute_ends {
            self.close_minutes(at);
        }
        if arrival < self.warm_up {
            return;
        }
        let count = u64::from(count);
        self.requests.failed += count;
        self.violations += count;
        self.this_minute.violations += count;
        self.this_minute.failed += count;
        *self.errors_of(fate) += count;
    }

    /// Tells those that did not wait how long they took.
    fn close_counted(&mut self) {
        let Some(Screened { service, at_once, .. }) = &mut self.screened else { return };
        let count = std::mem::take(at_once);
        if count == 0 {
            return;
        }
        let parts = STRATA as u64;
        for (part, length) in (0..parts).zip(&service.quantiles) {
            // Spread evenly, also where there are fewer than parts.
            let share = count * (part + 1) / parts - count * part / parts;
            self.minute.record_many(*length, share);
            self.service.record_many(*length, share);
        }
    }

    fn errors_of(&mut self, fate: Fate) -> &mut u64 {
        match fate {
            Fate::Completed | Fate::Timeout => &mut self.errors.timeout,
            Fate::ActivatorFull => &mut self.errors.activator_full,
            Fate::QueueFull => &mut self.errors.queue_proxy_full,
            Fate::PodLost => &mut self.errors.pod_lost,
        }
    }

    pub(crate) fn retry(&mut self, arrival: Micros) {
        self.requests.retries += u64::from(arrival >= self.warm_up);
    }

    /// So many requests are still there at the end of the run.
    pub(crate) fn censor(&mut self, arrival: Micros, count: u32) {
        self.requests.censored += if arrival >= self.warm_up { u64::from(count) } else { 0 };
    }

    #[cold]
    fn close_minutes(&mut self, at: Micros) {
        while at >= self.minute_ends {
            self.close_minute();
        }
    }

    fn close_minute(&mut self) {
        self.close_counted();
        let minute = &mut self.this_minute;
        minute.completed = self.minute.count();
        let ended = minute.completed + minute.failed;
        if ended > 0 {
            self.windows += 1;
            self.windows_missed += u64::from(share(minute.violations, ended) > 1.0 - self.percentile / 100.0);
        }
        let hour = &mut self.this_hour;
        hour.failed += minute.failed;
        hour.violations += minute.violations;
        hour.cold_starts += minute.cold_starts;
        if minute.completed > 0 {
            self.hour.add(&self.minute);
        }
        if self.detail == Detail::Series {
            fill(minute, &self.minute);
            self.minutes.push(*minute);
        }
        if minute.completed > 0 {
            self.minute.clear();
        }
        if self.minute_ends.is_multiple_of(HOUR) {
            self.close_hour();
        }
        self.this_minute = Period { start: seconds(self.minute_ends), ..Period::default() };
        self.minute_ends += MINUTE;
    }

    fn close_hour(&mut self) {
        self.this_hour.completed = self.hour.count();
        fill(&mut self.this_hour, &self.hour);
        self.total.add(&self.hour);
        self.hour.clear();
        self.hours.push(self.this_hour);
        self.this_hour = Period { start: seconds(self.minute_ends), ..Period::default() };
    }

    /// The number of pods that is wanted changes.
    pub(crate) fn rescale(&mut self, at: Micros, from: u32, to: u32) {
        if from == to || at < self.warm_up {
            return;
        }
        let up = to > from;
        if up {
            self.scaling.ups += 1;
        } else {
            self.scaling.downs += 1;
        }
        self.scaling.largest_step = self.scaling.largest_step.max(from.abs_diff(to));
        if let Some((before, was_up)) = self.last_change
            && was_up != up
            && at - before <= self.flap_window
        {
            self.scaling.flaps += 1;
        }
        self.last_change = Some((at, up));
    }

    /// The warm-up is over.
    pub(crate) fn begin(&mut self, levels: &mut Levels) {
        levels.settle();
        self.base = levels.areas;
        levels.max_demand = levels.now.demand;
    }

    /// A look at everything, every [`LOOK`]. `created` counts the pods that are not stopping.
    pub(crate) fn look(&mut self, levels: &Levels, created: u64, said: &Said) {
        let now = &levels.now;
        self.max_pods = self.max_pods.max(now.starting + now.ready + now.draining);
        let (ready, need, different, looks) = self.moved;
        let opposite = |a: u64, b: u64, c: u64, d: u64| (a.cmp(&b) as i8) * (c.cmp(&d) as i8) < 0;
        let different = different + u64::from(opposite(now.ready, ready, levels.need(), need));
        self.moved = (now.ready, levels.need(), different, looks + 1);
        if self.detail != Detail::Series {
            self.line = Line::default();
            return;
        }
        let line = &mut self.line;
        line.desired = line.desired.max(said.desired);
        for (highest, value) in [
            (&mut line.created, created),
            (&mut line.starting, now.starting),
            (&mut line.ready, now.ready),
            (&mut line.draining, now.draining),
            (&mut line.demand, now.demand),
            (&mut line.need, levels.need()),
            (&mut line.serving, now.serving),
            (&mut line.panicking, now.panicking),
            (&mut line.in_path, now.in_path),
            (&mut line.waiting_activator, now.at_activator),
            (&mut line.waiting_queue, now.at_queue),
        ] {
            *highest = value.max(*highest);
        }
        self.looks += 1;
        if self.looks.is_multiple_of(self.looks_per_line) {
            self.write_line(said);
        }
    }

    fn write_line(&mut self, said: &Said) {
        let line = std::mem::take(&mut self.line);
        let series = &mut self.series;
        let number = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
        series.arrivals.push(line.arrivals);
        series.completions.push(line.completions);
        series.errors.push(line.errors);
        series.cold_starts.push(line.cold_starts);
        series.desired.push(line.desired);
        series.created.push(number(line.created));
        series.starting.push(number(line.starting));
        series.ready.push(number(line.ready));
        series.draining.push(number(line.draining));
        #[expect(clippy::cast_possible_truncation, reason = "for plots")]
        series.stable.push(said.stable as f32);
        #[expect(clippy::cast_possible_truncation, reason = "for plots")]
        series.panic.push(said.panic as f32);
        series.demand.push(number(line.demand));
        series.need.push(number(line.need));
        series.serving.push(number(line.serving));
        series.panicking.push(u8::from(line.panicking > 0));
        series.excess_burst.push(said.excess_burst);
        series.in_path.push(u8::from(line.in_path > 0));
        series.waiting_activator.push(number(line.waiting_activator));
        series.waiting_queue.push(number(line.waiting_queue));
        series.reason.push(said.reason.unwrap_or(NO_REASON));
    }

    /// The outcome, at the end of the run.
    pub(crate) fn finish(mut self, levels: &mut Levels, stays: &Stays, pod: (f64, f64)) -> Outcome {
        while self.minute_ends <= self.end {
            self.close_minute();
        }
        // What is left of a minute and an hour that were cut short.
        if !self.end.is_multiple_of(MINUTE) {
            self.close_minute();
        }
        if self.this_hour.start < seconds(self.end) {
            self.close_hour();
        }
        levels.settle();
        let (all, base) = (&levels.areas, &self.base);
        let measured = seconds(self.end - self.warm_up);
        let of = |now: u128, then: u128| area(now - then);
        let waited = Waited { activator: self.activator_wait.count(), queue: self.queue_wait.count() };
        self.activator_wait.record_zeros(self.no_activator_wait);
        self.queue_wait.record_zeros(self.no_queue_wait);
        let ended = self.requests.completed + self.requests.failed;
        let starting = of(all.starting, base.starting);
        let ready = of(all.ready, base.ready);
        let busy = of(all.busy, base.busy);
        let draining = of(all.draining, base.draining);
        let pod_seconds = starting + ready + draining;
        let idle = ready - busy;
        let part = |value: f64, whole: f64| if whole > 0.0 { value / whole } else { 0.0 };
        let layer = |layer: &str, area_of: u128, stays: u128| Layer {
            layer: layer.to_owned(),
            area: area(area_of),
            stays: area(stays),
            equal: area_of == stays,
        };
        let mut series = None;
        if self.detail == Detail::Series {
            self.series.step = seconds(LOOK * self.looks_per_line);
            self.series.reasons = Reason::NAMES.iter().map(|name| (*name).to_owned()).collect();
            series = Some(self.series);
        }
        let (_, _, different, looks) = self.moved;
        self.scaling.flaps_per_hour = part(share(self.scaling.flaps, 1) * 3600.0, measured);
        self.scaling.panic_seconds = of(all.panicking, base.panicking);
        self.scaling.in_path_seconds = of(all.in_path, base.in_path);
        Outcome {
            policy: String::new(),
            kind: String::new(),
            seed: 0,
            approximate: self.detail == Detail::Screened,
            measured,
            requests: self.requests,
            latency: Lengths::from(&self.total),
            activator_wait: Lengths::from(&self.activator_wait),
            queue_wait: Lengths::from(&self.queue_wait),
            service: Lengths::from(&self.service),
            waited,
            slo: SloMeasures {
                limit: seconds(self.limit),
                percentile: self.percentile,
                violations: self.violations,
                violation_share: share(self.violations, ended),
                windows: self.windows,
                windows_missed: self.windows_missed,
            },
            cold: Cold {
                starts: self.cold_starts,
                share: share(self.cold_starts, self.requests.arrived),
                wait: Lengths::from(&self.cold_wait),
                scale_up_waits: self.scale_up_waits,
            },
            errors: self.errors,
            cost: Cost {
                pod_seconds,
                starting,
                busy,
                idle,
                draining,
                cpu_seconds: pod_seconds * pod.0,
                gib_seconds: pod_seconds * pod.1,
                idle_share: part(idle, pod_seconds),
                mean_pods: part(pod_seconds, measured),
                max_pods: u32::try_from(self.max_pods).unwrap_or(u32::MAX),
                pods_started: self.pods_started,
                against_oracle: None,
            },
            fit: Fit {
                over: of(all.over, base.over),
                under: of(all.under, base.under),
                time_over: part(of(all.time_over, base.time_over), measured),
                time_under: part(of(all.time_under, base.time_under), measured),
                accuracy_over: part((all.relative_over - base.relative_over) / 1e6, measured),
                accuracy_under: part((all.relative_under - base.relative_under) / 1e6, measured),
                instability: share(different, looks),
                mean_demand: part(of(all.demand, base.demand), measured),
                max_demand: levels.max_demand,
            },
            scaling: self.scaling,
            prediction: None,
            work: Work::default(),
            // Stays are not counted one by one in cells, so there is nothing to hold areas against.
            little: if self.detail == Detail::Screened {
                Vec::new()
            } else {
                vec![
                    layer("activator", all.at_activator, stays.at_activator),
                    layer("queue-proxy", all.at_queue, stays.at_queue),
                    layer("pod", all.serving, stays.serving),
                ]
            },
            latencies: self.total.classes().collect(),
            hours: self.hours,
            minutes: self.minutes,
            series,
        }
    }
}

fn fill(period: &mut Period, histogram: &Histogram) {
    period.p50 = histogram.quantile(0.5);
    period.p95 = histogram.quantile(0.95);
    period.p99 = histogram.quantile(0.99);
    period.max = seconds(histogram.max());
}
