//! A floor from what the load did before: what it wins where there is a season, and that it costs nothing where there is
//! none.

use ebb::sim::{Case, Detail, Entry, Outcome, run, scenario};

/// Reactive, told only, applied, and applied from zero too, on the same load.
fn policies(load: &str, seeds: u32) -> [Vec<Outcome>; 4] {
    let text = format!(
        "apiVersion: sim/v1\nname: p\nduration: 4h\nwarm_up: 30m\nload:\n  synthetic: {load}\n  service: {{ law: lognormal, \
         mean: 3s, p99: 8s }}\nrevision: {{ containerConcurrency: 10 }}\npolicies:\n  - {{ name: reactive, kpa: {{}} }}\n  \
         - {{ name: shadow, kpa: {{ predictive: {{ mode: shadow }} }} }}\n  - {{ name: applied, kpa: {{ predictive: {{ mode: on }} \
         }} }}\n  - {{ name: prewarm, kpa: {{ predictive: {{ mode: on, prewarm: true, budget: 50% }} }} }}\nslo: {{ latency: 10s }}\n"
    );
    let scenario = scenario::parse("p.yaml", &text).unwrap_or_else(|problems| panic!("{problems}"));
    let case = Case::new(scenario, None).expect("a case");
    let of = |policy: &Entry| (0..seeds).map(|seed| run(&case, policy, case.seed(seed), Detail::Measures)).collect();
    let all: Vec<Vec<Outcome>> = case.scenario.policies.iter().map(of).collect();
    all.try_into().expect("four policies")
}

fn sum(outcomes: &[Outcome], of: impl Fn(&Outcome) -> f64) -> f64 {
    outcomes.iter().map(of).sum()
}

fn cost(outcomes: &[Outcome]) -> f64 {
    sum(outcomes, |outcome| outcome.cost.pod_seconds)
}

fn violations(outcomes: &[Outcome]) -> f64 {
    sum(outcomes, |outcome| outcome.slo.violation_share)
}

const BATCHES: &str = "{ sum: [{ poisson: { rate: 1 } }, { batch: { size: 300, every: 5m, spread: 10s } }] }";

#[test]
fn where_there_is_a_season_fewer_requests_are_slow_within_the_budget() {
    let [reactive, shadow, on, _] = policies(BATCHES, 3);
    assert!(violations(&on) < 0.8 * violations(&reactive), "{} of {}", violations(&on), violations(&reactive));
    assert!(cost(&on) <= 1.1 * cost(&reactive), "{} of {}", cost(&on), cost(&reactive));
    for outcome in &on {
        let told = outcome.prediction.as_ref().expect("a prediction");
        assert!(told.applied && told.raised > 0 && told.hits > told.misses, "{told:?}");
        // The budget of 10 %, and what is begun is ended.
        assert!(told.extra_share < 0.12, "{told:?}");
    }
    // Told only, it changes nothing.
    for (told, plain) in shadow.iter().zip(&reactive) {
        assert!(told.prediction.as_ref().is_some_and(|told| !told.applied && told.raised > 0));
        let same = Outcome { policy: plain.policy.clone(), prediction: None, ..told.clone() };
        assert_eq!(&same, plain);
    }
}

#[test]
fn from_zero_it_raises_where_that_is_asked_for() {
    let [reactive, _, _, prewarm] = policies("{ batch: { size: 300, every: 5m, spread: 10s } }", 2);
    let cold = |outcomes: &[Outcome]| sum(outcomes, |outcome| outcome.cold.share);
    assert!(cold(&prewarm) < 0.5 * cold(&reactive), "{} of {}", cold(&prewarm), cold(&reactive));
    // Pods that are there in time are not asked for twice.
    assert!(cost(&prewarm) < cost(&reactive), "{} of {}", cost(&prewarm), cost(&reactive));
}

#[test]
fn where_there_is_no_season_it_costs_nothing() {
    for load in [
        "{ poisson: { rate: 5 } }",
        "{ mmpp: { states: [{ rate: 1, mean: 7m }, { rate: 12, mean: 3m }] } }",
        "{ flash_crowd: { base: 1, peak: 30, at: 2h, rise: 1m, plateau: 5m, half_life: 5m } }",
    ] {
        let [reactive, _, on, prewarm] = policies(load, 1);
        for with in [on, prewarm] {
            assert!(cost(&with) <= 1.01 * cost(&reactive), "{load}: {} of {}", cost(&with), cost(&reactive));
        }
    }
}
