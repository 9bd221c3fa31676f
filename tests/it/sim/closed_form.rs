//! What queueing theory knows exactly, the simulator must find.
//!
//! Each estimate comes from 30 batches, which are runs of their own with a warm-up of their own, and at least a million
//! requests together. It passes when the truth lies in the 99.9 % interval of Student's t, and when that interval is
//! narrower than 3 % of the truth to either side, so that it can fail.
//!
//! Where theory needs tens of millions of requests for that, the test is ignored; the reason it gives is the command that
//! runs it.

use super::{case, fixed, plain};
use ebb::sim::batch::{self, Job, Watch};
use ebb::sim::law::Written;
use ebb::sim::time::{Length, from_seconds};
use ebb::sim::{Detail, Entry, Outcome, Scenario};
use statrs::distribution::{ChiSquared, ContinuousCDF as _, Discrete as _, DiscreteCDF as _, Poisson, StudentsT};
use std::num::NonZeroUsize;

const BATCHES: u32 = 30;

/// The outcomes of 30 batches.
fn batches(scenario: Scenario, policy: &Entry, detail: Detail) -> Vec<Outcome> {
    let case = case(scenario, policy);
    let jobs: Vec<Job> = (0..BATCHES)
        .map(|batch| Job { case: case.clone(), policy: policy.clone(), seed: case.seed(batch), detail })
        .collect();
    let threads = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let outcomes = batch::run(&jobs, threads, &Watch::default()).expect("nobody stops it");
    for outcome in &outcomes {
        assert!(outcome.little.iter().all(|layer| layer.equal), "{:?}", outcome.little);
    }
    outcomes
}

/// Holds the mean over batches of `measure` to the truth.
fn holds(name: &str, truth: f64, outcomes: &[Outcome], measure: impl Fn(&Outcome) -> f64) {
    let requests: u64 = outcomes.iter().map(|outcome| outcome.requests.arrived).sum();
    assert!(requests >= 1_000_000, "{name}: only {requests} requests");
    let values: Vec<f64> = outcomes.iter().map(measure).collect();
    let count = f64::from(BATCHES);
    let mean = values.iter().sum::<f64>() / count;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1.0);
    let t = StudentsT::new(0.0, 1.0, count - 1.0).expect("a distribution").inverse_cdf(0.9995);
    let half = t * (variance / count).sqrt();
    eprintln!("{name}: {mean:.6} ± {half:.6} for {truth:.6} ({requests} requests)");
    assert!((mean - truth).abs() <= half, "{name}: {mean} ± {half} does not hold {truth}");
    assert!(half < 0.03 * truth, "{name}: ± {half} is not narrower than 3 % of {truth}");
}

#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
fn part(part: u64, whole: u64) -> f64 {
    part as f64 / whole as f64
}

/// Exponential service of one second on average.
fn second() -> Written {
    Written::exponential(Length::seconds(1))
}

/// So many requests in each batch, at `rate` a second, after a warm-up.
fn sized(rate: f64, service: Written, limit: u32, requests: f64, warm_up: u64) -> Scenario {
    let duration = Length(from_seconds(requests / rate) + Length::seconds(warm_up).0);
    Scenario { warm_up: Length::seconds(warm_up), ..plain(rate, service, limit, duration) }
}

/// Probability of waiting and mean wait in M/M/c, with a mean service of one second: Erlang's C from his B.
fn erlang_c(servers: u32, load: f64) -> (f64, f64) {
    let offered = f64::from(servers) * load;
    let poisson = Poisson::new(offered).expect("a distribution");
    let b = poisson.pmf(u64::from(servers)) / poisson.cdf(u64::from(servers));
    let c = b / (1.0 - load * (1.0 - b));
    (c, c / (f64::from(servers) - offered))
}

fn central_queue(servers: u32, load: f64, requests: f64) {
    let (waits, wait) = erlang_c(servers, load);
    // Ten times the time in which the queue forgets.
    let forgets = 1.0 / (f64::from(servers) * (1.0 - load.sqrt()).powi(2));
    let warm_up = u64::from(ebb::units::saturating_i32(forgets * 10.0).unsigned_abs()) + 10;
    let scenario = sized(f64::from(servers) * load, second(), 1, requests / f64::from(BATCHES), warm_up);
    let outcomes = batches(scenario, &fixed(servers, true), Detail::Measures);
    let name = format!("M/M/{servers} at {load}");
    holds(&format!("{name}, P(wait)"), waits, &outcomes, |outcome| {
        part(outcome.waited.activator, outcome.requests.completed)
    });
    holds(&format!("{name}, mean wait"), wait, &outcomes, |outcome| outcome.activator_wait.mean);
}

#[test]
fn erlangs_formula_gives_the_published_numbers() {
    for (servers, load, waits, wait) in [
        (1, 0.9, 0.9, 9.0),
        (10, 0.8, 0.409_180, 0.204_590),
        (50, 0.9, 0.363_864, 0.072_773),
        (100, 0.95, 0.506_457, 0.101_291),
    ] {
        let (c, w) = erlang_c(servers, load);
        assert!((c - waits).abs() < 1e-6 && (w - wait).abs() < 1e-6, "{servers} {load}: {c} {w}");
    }
}

#[test]
fn a_central_queue_waits_as_erlang_says() {
    central_queue(10, 0.8, 6e6);
}

#[test]
#[ignore = "230 million requests, 80 s of one core: cargo test --release --test it closed_form -- --include-ignored"]
fn a_central_queue_waits_as_erlang_says_under_heavy_load() {
    central_queue(1, 0.9, 10e6);
    central_queue(50, 0.9, 60e6);
    central_queue(100, 0.95, 160e6);
}

/// Blocking and mean time in M/M/c/K, with a mean service of one second.
fn blocking(servers: u32, places: u32, load: f64) -> (f64, f64) {
    let arrival = f64::from(servers) * load;
    let mut weights = vec![1.0];
    for number in 1..=places {
        let before = weights[weights.len() - 1];
        weights.push(before * arrival / f64::from(number.min(servers)));
    }
    let total: f64 = weights.iter().sum();
    let blocked = weights[weights.len() - 1] / total;
    let mean: f64 = weights.iter().zip(0_u32..).map(|(weight, number)| weight * f64::from(number)).sum::<f64>() / total;
    (blocked, mean / (arrival * (1.0 - blocked)))
}

#[test]
fn a_random_split_blocks_as_each_pod_alone() {
    for (servers, places, load, published, requests) in
        [(1, 11, 0.9, 0.043_732, 3e6), (1, 11, 1.1, 0.133_421, 1.5e6), (10, 110, 1.05, 0.047_910, 12e6)]
    {
        let (blocked, stay) = blocking(servers, places, load);
        assert!((blocked - published).abs() < 1e-6, "{servers} {places} {load}: {blocked}");
        let pods = 4;
        let rate = f64::from(servers * pods) * load;
        let scenario = sized(rate, second(), servers, requests / f64::from(BATCHES), 600);
        let outcomes = batches(scenario, &fixed(pods, false), Detail::Measures);
        let name = format!("M/M/{servers}/{places} at {load}");
        holds(&format!("{name}, blocking"), blocked, &outcomes, |outcome| {
            part(outcome.errors.queue_proxy_full, outcome.requests.arrived)
        });
        holds(&format!("{name}, mean stay"), stay, &outcomes, |outcome| outcome.latency.mean);
    }
}

#[test]
fn without_a_limit_requests_in_flight_are_poisson_for_any_law() {
    let cv = |cv| Written { mean: Some(Length::millis(200)), cv: Some(cv), ..Written::default() };
    for (law, service) in [
        ("constant", Written::constant(Length::millis(200))),
        ("lognormal", Written::new("lognormal", cv(1.0))),
        ("gamma", Written::new("gamma", cv(0.5))),
    ] {
        let (rate, mean) = (50.0, 10.0);
        let scenario = sized(rate, service, 0, 1e6 / f64::from(BATCHES), 60);
        let outcomes = batches(scenario, &fixed(3, false), Detail::Series);
        let seen: Vec<u32> = outcomes
            .iter()
            .flat_map(|outcome| outcome.series.iter().flat_map(|series| series.serving.iter().skip(30)))
            .copied()
            .collect();
        let poisson = Poisson::new(mean).expect("a distribution");
        let number = f64::from(u32::try_from(seen.len()).expect("few"));
        assert!(number > 9_000.0, "{number}");
        // Classes that hold at least 25 each: 3 and less, 4, …, 17, 18 and more.
        let class = |value: u32| value.clamp(3, 18) - 3;
        let mut counts = [0.0; 16];
        for value in &seen {
            counts[class(*value) as usize] += 1.0;
        }
        let statistic: f64 = (0..16_u32)
            .map(|at| {
                let share = match at {
                    0 => poisson.cdf(3),
                    15 => 1.0 - poisson.cdf(17),
                    _ => poisson.pmf(u64::from(at) + 3),
                };
                let expected = number * share;
                assert!(expected > 25.0, "{at}: {expected}");
                (counts[at as usize] - expected).powi(2) / expected
            })
            .sum();
        let limit = ChiSquared::new(15.0).expect("a distribution").inverse_cdf(0.999);
        eprintln!("{law}: χ² = {statistic:.1}, below {limit:.1}");
        assert!(statistic < limit, "{law}: χ² = {statistic} of at most {limit}: {counts:?}");
    }
}

#[test]
fn one_server_waits_as_pollaczek_and_khinchine_say() {
    let parameters = Written { mean: Some(Length::seconds(1)), cv: Some(1.0), ..Written::default() };
    for (law, service, squares) in [
        ("constant", Written::constant(Length::seconds(1)), 1.0),
        ("lognormal", Written::new("lognormal", parameters), 2.0),
    ] {
        let load = 0.7;
        // λ E[S²] / (2 (1 − ρ))
        let wait = load * squares / (2.0 * (1.0 - load));
        let scenario = sized(load, service, 1, 3e6 / f64::from(BATCHES), 1000);
        let outcomes = batches(scenario, &fixed(1, true), Detail::Measures);
        holds(&format!("M/G/1, {law}"), wait, &outcomes, |outcome| outcome.activator_wait.mean);
    }
}

#[test]
fn the_share_of_cold_starts_is_that_of_long_pauses() {
    use ebb::sim::scenario::Kpa;
    // A pause of T sends the last pod away: the stable window, and then the grace period, because the activator comes into
    // the path only then.
    let (rate, idle) = (0.01, 60.0 + 30.0);
    let mut scenario = sized(rate, Written::constant(Length::millis(50)), 10, 1e3, 600);
    scenario.world.activators = 2;
    let annotations = [("autoscaling.knative.dev/target-burst-capacity".to_owned(), "0".to_owned())].into();
    let kpa = Kpa { annotations, ..Kpa::default() };
    let policy = Entry { name: "kpa".to_owned(), kpa: Some(kpa), ..Entry::default() };
    let outcomes = batches(scenario, &policy, Detail::Measures);
    let (cold, all): (u64, u64) =
        outcomes.iter().fold((0, 0), |(cold, all), one| (cold + one.cold.starts, all + one.requests.arrived));
    let share = part(cold, all);
    // A tick and a scrape to notice, whole seconds in conditions and windows, either way.
    let slack = 4.0;
    let error = 3.29 * (share * (1.0 - share) / part(all, 1)).sqrt();
    let (least, most) = ((-rate * (idle + slack)).exp() - error, (-rate * (idle - slack)).exp() + error);
    eprintln!("{share:.4} cold of {all}, between {least:.4} and {most:.4}");
    assert!(least < share && share < most, "{share} is not between {least} and {most}");
}
