//! Screening: counts in cells of 100 ms in place of requests. Approximate, and a run of it says so.
//!
//! Everything but requests is what it is in an exact run: the scaler, its metrics, pods, the ingress. Requests are counted:
//!
//! - Those that come in a cell. Each waits in line with those of its cell, first come, first served.
//! - Those in service, by group of pods (pods that became ready in one cell, and were merged once they are like the
//!   others) and by phase. A service time is replaced by one of at most four exponential phases with its mean and,
//!   within 0.25 and upwards, its squared coefficient of variation. How many leave a phase in a cell is binomial.
//! - What a request in service adds to a report is what it adds on average.
//!
//! Numbers in service are exact in expectation, without a limit and with that law of phases. Whether a request keeps the
//! promise is told from its wait and the law that is written, not from phases.
//!
//! # What it does not see
//!
//! Which pod has more requests than the others, so that some wait there while others are idle: that is added on average, as
//! it is in the long run. What happens within 100 ms. What callers do again, contention and pods that are lost are not counted at all: see
//! [`unfit`].
//!
//! # Decisions
//!
//! - 2026-11: a test holds both modes against each other on every scenario of the library. Where pod-seconds differ by
//!   more than 3 %, or the share of violations by more than 2 points, the scenario says `exact_only`.

use super::case::Case;
use super::law::Law;
use super::random::{Purpose, Stream, stream, unit};
use super::scenario::Entry;
use super::time::{Micros, from_seconds, seconds};
use super::trace::Recorded;
use rand::RngExt as _;
use rand_distr::StandardNormal;

/// How long a cell is.
pub const CELL: Micros = 100_000;
/// The most phases of a service time.
pub(crate) const PHASES: usize = 4;
/// Equally likely parts a service time is divided into, to tell latencies.
pub(crate) const PARTS: u32 = 512;
/// The same.
pub(crate) const STRATA: usize = PARTS as usize;
/// Draws of a law that has no simple quantiles, for each part.
const DRAWS: usize = 16;

/// How long a load lasts that a queue is due to, in seconds: between the panic window and the stable window.
const LASTS: f64 = 20.0;

/// How many are in each phase.
pub(crate) type Phases = [u32; PHASES];

/// Why a case can only be run exactly; none if it can be screened.
pub fn unfit(case: &Case, policy: &Entry) -> Option<&'static str> {
    let scenario = &case.scenario;
    if policy.oracle.is_some() {
        return Some("the oracle looks at each request");
    }
    if scenario.exact_only {
        return Some("the scenario says exact_only");
    }
    if scenario.load.retries.is_some_and(|retries| retries.max > 0) {
        return Some("callers try again");
    }
    if scenario.load.contention.is_some_and(|contention| contention.factor > 0.0) {
        return Some("requests slow one another down");
    }
    (scenario.world.failures.lost_per_hour > 0.0).then_some("pods are lost")
}

/// How long requests are served, in phases and as it is written.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    /// The middle of each of the equally likely parts, rising.
    pub(crate) quantiles: Vec<Micros>,
    /// The mean.
    pub(crate) mean: Micros,
    /// The squared coefficient of variation.
    squared: f64,
    /// In which phase it begins.
    begin: [f64; PHASES],
    /// From a phase to a phase, over a cell.
    stay: [[f64; PHASES]; PHASES],
    /// Time in service during a cell, in µs, from a phase on.
    pub(crate) area: [f64; PHASES],
    /// One that begins at any moment of a cell: in which phase it is at its end.
    fresh: [f64; PHASES],
    /// The same: whether it is still there.
    pub(crate) fresh_stays: f64,
    /// The same: its time in service during that cell, in µs.
    pub(crate) fresh_area: f64,
}

/// Exponential phases: where it begins, the rates per second, and whether one follows the other.
struct Fit {
    begin: [f64; PHASES],
    rates: [f64; PHASES],
    chain: bool,
}

impl Service {
    /// Of a case.
    pub(crate) fn of(case: &Case) -> Self {
        let written = case.scenario.load.service.as_ref().and_then(|service| service.read().ok());
        let factor = case.strain.service;
        let (mut lengths, mean) = match (written, &case.trace) {
            (Some(law), _) => {
                let law = law.scaled(factor);
                (strata(&law), law.mean())
            }
            (None, Some(trace)) => {
                let Recorded::Requests(requests) = &trace.recorded else { return Self::from(vec![0; STRATA], 0.0) };
                let mut took: Vec<f64> =
                    requests.iter().map(|request| seconds(request.took.unwrap_or(0)) * factor).collect();
                took.sort_by(f64::total_cmp);
                let mean = took.iter().sum::<f64>() / crate::units::count_f64(took.len().max(1));
                (thinned(&took), mean)
            }
            (None, None) => return Self::from(vec![0; STRATA], 0.0),
        };
        lengths.sort_by(f64::total_cmp);
        Self::from(lengths.into_iter().map(from_seconds).collect(), mean)
    }

    fn from(quantiles: Vec<Micros>, mean: f64) -> Self {
        let count = crate::units::count_f64(quantiles.len());
        let own = quantiles.iter().map(|length| seconds(*length)).sum::<f64>() / count;
        let variance = quantiles.iter().map(|length| (seconds(*length) - own).powi(2)).sum::<f64>() / count;
        let squared = if own > 0.0 { variance / own.powi(2) } else { 0.0 };
        let Fit { begin, rates, chain } = Fit::of(mean.max(1e-6), squared);
        let mut service = Self {
            quantiles,
            mean: from_seconds(mean),
            squared,
            begin,
            stay: [[0.0; PHASES]; PHASES],
            area: [0.0; PHASES],
            fresh: [0.0; PHASES],
            fresh_stays: 0.0,
            fresh_area: 0.0,
        };
        for phase in 0..PHASES {
            let mut from = [0.0; PHASES];
            from[phase] = 1.0;
            let over = over_a_cell(from, &rates, chain);
            (service.stay[phase], service.area[phase]) = (over.end, over.area);
        }
        let over = over_a_cell(begin, &rates, chain);
        (service.fresh, service.fresh_area) = (over.average, over.average_area);
        service.fresh_stays = service.fresh.iter().sum();
        service
    }

    /// The share of requests that are served for longer than this.
    pub(crate) fn longer_than(&self, length: Micros) -> f64 {
        let within = self.quantiles.partition_point(|quantile| *quantile <= length);
        crate::units::count_f64(self.quantiles.len() - within) / crate::units::count_f64(self.quantiles.len())
    }

    /// What it costs that `servers`, of which `served` are busy on average, are not one pool but parts of so many servers
    /// each, to which requests come at random: by Erlang's formula, as far as a queue becomes as long as it says within
    /// [`LASTS`]. Service times that are alike wait half as much as exponential ones.
    pub(crate) fn uneven(&self, servers: u32, parts: impl Iterator<Item = u32> + Clone, served: f64) -> Uneven {
        let count = crate::units::count_f64(parts.clone().count());
        if count <= 1.0 || served <= 0.0 {
            return Uneven::default();
        }
        let busy = |servers: u32, served: f64| {
            let reached = 1.0 - (seconds(self.mean) / (f64::from(servers.max(1)) * LASTS)).sqrt();
            served.min(f64::from(servers) * reached.max(0.0).powi(2)).min(0.95 * f64::from(servers))
        };
        let alike = f64::midpoint(1.0, self.squared.min(1.0));
        let (pooled_chance, pooled) = erlang(servers, busy(servers, served));
        let (mut all, mut waiting) = (0.0, 0.0);
        let mut known = None;
        for part in parts {
            // Nearly all parts are like the one before.
            let (chance, waits) = match known {
                Some((servers, result)) if servers == part => result,
                _ => erlang(part, busy(part, served / count)),
            };
            known = Some((part, (chance, waits)));
            all += chance / count;
            waiting += waits;
        }
        let (chance, waiting) = ((all - pooled_chance).max(0.0), ((waiting - pooled) * alike).max(0.0));
        // Little's law: those that wait, over the rate at which they come.
        let rate = served / seconds(self.mean).max(1e-6);
        let wait = if chance > 0.0 { from_seconds(waiting / (rate * chance)) } else { 0 };
        Uneven { waiting, chance, wait }
    }

    /// Where so many that are in these phases are a cell later.
    #[inline]
    pub(crate) fn pass(&self, phases: &Phases, stream: &mut Stream) -> Phases {
        let mut after = [0; PHASES];
        for (phase, count) in phases.iter().enumerate() {
            if *count > 0 {
                split(*count, &self.stay[phase], &mut after, stream);
            }
        }
        after
    }

    /// Where so many are at the end of the cell in which they begin, or at once.
    #[inline]
    pub(crate) fn start(&self, count: u32, over_a_cell: bool, stream: &mut Stream) -> Phases {
        let mut phases = [0; PHASES];
        split(count, if over_a_cell { &self.fresh } else { &self.begin }, &mut phases, stream);
        phases
    }
}

/// What it costs that servers are not one pool.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub(crate) struct Uneven {
    /// How many more wait on average.
    pub(crate) waiting: f64,
    /// The chance of a request to wait for that.
    pub(crate) chance: f64,
    /// How long it then waits on average.
    pub(crate) wait: Micros,
}

/// Probability of waiting and mean number of those who wait in M/M/c, with `served` busy on average.
fn erlang(servers: u32, served: f64) -> (f64, f64) {
    if servers == 0 || served <= 0.0 {
        return (0.0, 0.0);
    }
    let spare = f64::from(servers) - served;
    // By Chernoff's bound fewer than one in 10¹⁷ waits.
    if spare > 0.0 && spare.powi(2) > 80.0 * f64::from(servers) {
        return (0.0, 0.0);
    }
    // The recursion forgets where it began: from twelve deviations below on by 30 digits. So far below nearly all that come
    // beyond so many servers are blocked.
    let first = whole(served - 12.0 * served.sqrt());
    let mut blocked = 1.0 - f64::from(first) / served;
    for server in first + 1..=servers {
        blocked = served * blocked / (f64::from(server) + served * blocked);
    }
    let servers = f64::from(servers);
    let waits = blocked / (1.0 - served / servers * (1.0 - blocked));
    (waits, waits * served / (servers - served))
}

impl Fit {
    /// With this mean in seconds and this squared coefficient of variation.
    fn of(mean: f64, squared: f64) -> Self {
        let mut fit = Self { begin: [0.0; PHASES], rates: [1.0 / mean; PHASES], chain: squared < 1.0 };
        if squared >= 1.0 {
            // One of two exponential ones, with as much time spent in each.
            let first = f64::midpoint(1.0, ((squared - 1.0) / (squared + 1.0)).sqrt());
            fit.begin[..2].copy_from_slice(&[first, 1.0 - first]);
            fit.rates[..2].copy_from_slice(&[2.0 * first / mean, 2.0 * (1.0 - first) / mean]);
            return fit;
        }
        // So many phases one after another, or one fewer.
        let most = crate::units::count_f64(PHASES);
        let squared = squared.max(1.0 / most);
        let stages = (1.0 / squared).ceil().clamp(2.0, most);
        let root = (stages * (1.0 + squared) - stages.powi(2) * squared).max(0.0).sqrt();
        let fewer = ((stages * squared - root) / (1.0 + squared)).clamp(0.0, 1.0);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "2 to 4")]
        let first = PHASES - stages as usize;
        fit.begin[first] = 1.0 - fewer;
        fit.begin[first + 1] = fewer;
        fit.rates = [(stages - fewer) / mean; PHASES];
        fit
    }
}

/// What becomes of a distribution over phases in a cell.
struct Over {
    end: [f64; PHASES],
    /// Time in service, in µs.
    area: f64,
    /// The mean over where in the cell it begins.
    average: [f64; PHASES],
    average_area: f64,
}

fn over_a_cell(from: [f64; PHASES], rates: &[f64; PHASES], chain: bool) -> Over {
    let fastest = rates.iter().copied().fold(0.0, f64::max);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bounded")]
    let steps = (fastest * seconds(CELL) * 8.0).ceil().clamp(512.0, 100_000.0) as u32;
    let step = seconds(CELL) / f64::from(steps);
    let change = |at: &[f64; PHASES]| {
        let mut change = [0.0; PHASES];
        for phase in 0..PHASES {
            let leave = at[phase] * rates[phase];
            change[phase] -= leave;
            if chain && phase + 1 < PHASES {
                change[phase + 1] += leave;
            }
        }
        change
    };
    let plus = |at: &[f64; PHASES], by: &[f64; PHASES], times: f64| std::array::from_fn(|it| at[it] + by[it] * times);
    let mut over = Over { end: from, area: 0.0, average: [0.0; PHASES], average_area: 0.0 };
    for _ in 0..steps {
        // Runge and Kutta, of fourth order.
        let at = over.end;
        let one = change(&at);
        let two = change(&plus(&at, &one, step / 2.0));
        let three = change(&plus(&at, &two, step / 2.0));
        let four = change(&plus(&at, &three, step));
        let next: [f64; PHASES] = std::array::from_fn(|it| {
            (at[it] + step / 6.0 * (one[it] + 2.0 * two[it] + 2.0 * three[it] + four[it])).max(0.0)
        });
        let area = f64::midpoint(at.iter().sum(), next.iter().sum()) * step * 1e6;
        over.average_area += (over.area + area / 2.0) / f64::from(steps);
        over.area += area;
        for phase in 0..PHASES {
            over.average[phase] += f64::midpoint(at[phase], next[phase]) / f64::from(steps);
        }
        over.end = next;
    }
    over
}

/// The middles of equally likely parts of a law, in seconds.
fn strata(law: &Law) -> Vec<f64> {
    let place = |part: usize| (crate::units::count_f64(part) + 0.5) / crate::units::count_f64(STRATA);
    let told: Option<Vec<f64>> = (0..STRATA).map(|part| law.quantile(place(part))).collect();
    told.unwrap_or_else(|| {
        let (sampler, mut draws) = (law.sampler(), stream(0, Purpose::Service, "strata"));
        let mut all: Vec<f64> = (0..STRATA * DRAWS).map(|_| seconds(sampler.draw(&mut draws))).collect();
        all.sort_by(f64::total_cmp);
        thinned(&all)
    })
}

/// As many of these, which rise, as there are parts.
fn thinned(all: &[f64]) -> Vec<f64> {
    (0..STRATA).map(|part| all.get((part * all.len() + all.len() / 2) / STRATA).copied().unwrap_or(0.0)).collect()
}

/// Adds so many to places, each with its chance; the rest goes nowhere.
fn split(count: u32, chances: &[f64; PHASES], places: &mut Phases, stream: &mut Stream) {
    let (mut left, mut whole) = (count, 1.0);
    for (chance, place) in chances.iter().zip(places) {
        if left == 0 || whole <= 0.0 {
            return;
        }
        if *chance > 0.0 {
            let here = binomial(left, chance / whole, stream);
            *place += here;
            left -= here;
            whole -= chance;
        }
    }
}

/// How many of so many, each with this chance.
#[inline]
pub(crate) fn binomial(count: u32, chance: f64, stream: &mut Stream) -> u32 {
    if count == 0 || chance <= 0.0 {
        return 0;
    }
    if chance >= 1.0 {
        return count;
    }
    if chance > 0.5 {
        return count - binomial(count, 1.0 - chance, stream);
    }
    let number = f64::from(count);
    let (mean, variance) = (number * chance, number * chance * (1.0 - chance));
    if variance > 10.0 {
        let normal: f64 = stream.sample(StandardNormal);
        return whole((mean + normal * variance.sqrt() + 0.5).max(0.0)).min(count);
    }
    // By inversion: most of a screened day is spent here, and most often it is none. Bernoulli's inequality tells that
    // without a power.
    let mut left = unit(stream);
    if left < 1.0 - mean {
        return 0;
    }
    let odds = chance / (1.0 - chance);
    let mut this = (1.0 - chance).powi(i32::try_from(count).unwrap_or(i32::MAX));
    for hits in 0..count {
        if left < this {
            return hits;
        }
        left -= this;
        this *= odds * f64::from(count - hits) / f64::from(hits + 1);
    }
    count
}

/// A whole number that is on average this one.
#[inline]
pub(crate) fn rounded(value: f64, stream: &mut Stream) -> u32 {
    let low = value.floor();
    whole(low) + u32::from(unit(stream) < value - low)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` saturates")]
fn whole(value: f64) -> u32 {
    value as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::law::Written;
    use crate::sim::time::Length;

    fn mean(fit: &Fit) -> (f64, f64) {
        // E[S] and E[S²] of the phases, from the last one backwards.
        let (mut first, mut second) = ([0.0; PHASES], [0.0; PHASES]);
        for phase in (0..PHASES).rev() {
            let (m, s) =
                if fit.chain && phase + 1 < PHASES { (first[phase + 1], second[phase + 1]) } else { (0.0, 0.0) };
            let own = 1.0 / fit.rates[phase];
            first[phase] = own + m;
            second[phase] = 2.0 * own * own + 2.0 * own * m + s;
        }
        let of = |moments: [f64; PHASES]| fit.begin.iter().zip(moments).map(|(share, it)| share * it).sum::<f64>();
        (of(first), of(second) / of(first).powi(2) - 1.0)
    }

    #[test]
    fn phases_have_the_mean_and_the_variation_they_stand_for() {
        for squared in [0.25, 0.3, 0.4, 0.5, 0.77, 0.99, 1.0, 1.05, 4.0, 30.0] {
            let (m, v) = mean(&Fit::of(0.37, squared));
            assert!((m - 0.37).abs() < 1e-9 && (v - squared).abs() < 1e-9, "{squared}: {m} {v}");
        }
        let (m, v) = mean(&Fit::of(2.0, 0.0));
        assert!((m - 2.0).abs() < 1e-9 && (v - 0.25).abs() < 1e-9, "the least that four phases can: {v}");
    }

    fn service(law: &Law) -> Service {
        Service::from(strata(law).into_iter().map(from_seconds).collect(), law.mean())
    }

    #[test]
    fn in_a_steady_flow_as_many_are_in_service_as_little_says() {
        for law in [
            Law::Constant(0.069),
            Law::Exponential(0.2),
            Law::LogNormal { mu: -2.0, sigma: 1.0 },
            Law::Gamma { shape: 2.5, scale: 2.0 },
        ] {
            let service = service(&law);
            // Ten requests in each cell, until nothing changes: what they spend in a cell is ten times the mean.
            let (mut there, mut area) = ([0.0; PHASES], 0.0);
            for _ in 0..5_000 {
                area = 10.0 * service.fresh_area;
                let mut next = service.fresh.map(|share| 10.0 * share);
                for (phase, count) in there.iter().enumerate() {
                    area += count * service.area[phase];
                    for (to, stay) in next.iter_mut().zip(service.stay[phase]) {
                        *to += count * stay;
                    }
                }
                there = next;
            }
            let truth = 10.0 * law.mean() * 1e6;
            assert!((area - truth).abs() < 0.001 * truth, "{law:?}: {area} of {truth}");
        }
    }

    #[test]
    fn a_law_is_told_by_its_quantiles() {
        let law = Written::lognormal(Length::millis(150), Length::seconds(1)).read().expect("a law");
        let service = service(&law);
        assert!((service.longer_than(150_000) - 0.5).abs() < 0.01);
        assert!((service.longer_than(1_000_000) - 0.01).abs() < 0.003);
    }

    /// Erlang's C by its recursion from no server on.
    fn plainly(servers: u32, served: f64) -> f64 {
        let blocked =
            (1..=servers).fold(1.0, |blocked, server| served * blocked / (f64::from(server) + served * blocked));
        blocked / (1.0 - served / f64::from(servers) * (1.0 - blocked))
    }

    #[test]
    fn parts_wait_longer_than_a_pool() {
        let service = service(&Law::Exponential(1.0));
        assert_eq!(service.uneven(10, std::iter::once(10), 8.0), Uneven::default());
        // Erlang's C of 10 servers at 0.8 is 0.409180, and 0.409180 × 8 / 2 = 1.636720 wait.
        let (chance, waiting) = erlang(10, 8.0);
        assert!((chance - 0.409_180).abs() < 1e-6 && (waiting - 1.636_720).abs() < 1e-5, "{chance} {waiting}");
        // Published too: 100 at 0.95, and what is too rare to matter.
        let (chance, waiting) = erlang(100, 95.0);
        assert!((chance - 0.506_457).abs() < 1e-6 && (waiting - 0.506_457 * 19.0).abs() < 1e-4, "{chance} {waiting}");
        assert!((erlang(400, 380.0).0 - plainly(400, 380.0)).abs() < 1e-12);
        assert!(plainly(300, 120.0) < 1e-17 && erlang(300, 120.0) == (0.0, 0.0));
        // At 0.6 each is reached within 20 s, and the pool of both waits less.
        let uneven = service.uneven(20, [10, 10].into_iter(), 12.0);
        let ((chance, waiting), (pooled_chance, pooled)) = (erlang(10, 6.0), erlang(20, 12.0));
        let alike = f64::midpoint(1.0, service.squared.min(1.0));
        assert!((uneven.waiting - (2.0 * waiting - pooled) * alike).abs() < 1e-9, "{uneven:?}");
        assert!((uneven.chance - (chance - pooled_chance)).abs() < 1e-9, "{uneven:?}");
        assert!((seconds(uneven.wait) - uneven.waiting / 12.0 / uneven.chance).abs() < 1e-5, "{uneven:?}");
        let lopsided = service.uneven(20, [5, 15].into_iter(), 12.0);
        assert!(lopsided.waiting > uneven.waiting, "{lopsided:?}");
    }

    #[test]
    fn binomial_numbers_have_their_mean_and_variance() {
        let mut stream = stream(3, Purpose::Service, "");
        for (count, chance) in
            [(1, 0.4), (10, 0.3), (10, 0.8), (100, 0.02), (100, 0.09), (120, 0.91), (400, 0.5), (100_000, 0.000_1)]
        {
            let values: Vec<f64> = (0..20_000).map(|_| f64::from(binomial(count, chance, &mut stream))).collect();
            let mean = values.iter().sum::<f64>() / 20_000.0;
            let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / 20_000.0;
            let (m, v) = (f64::from(count) * chance, f64::from(count) * chance * (1.0 - chance));
            // Six standard errors of the mean; the variance within 8 %.
            assert!((mean - m).abs() < 6.0 * (v / 20_000.0).sqrt(), "{count} {chance}: {mean}");
            assert!((variance / v - 1.0).abs() < 0.08, "{count} {chance}: {variance} of {v}");
        }
    }
}
