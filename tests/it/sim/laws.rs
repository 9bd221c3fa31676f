//! What must hold for every scenario.

use super::{case, fixed, plain};
use ebb::sim::law::Written;
use ebb::sim::scenario::{Balancing, Entry, Hpa, KedaHttp, Kpa, Retries, TraceLoad, World};
use ebb::sim::time::{Length, Share};
use ebb::sim::trace::{Recorded, Trace};
use ebb::sim::{Case, Detail, Outcome, Scenario, run};
use proptest::prelude::*;

fn kpa(annotations: &[(&str, &str)]) -> Entry {
    let annotations = annotations
        .iter()
        .map(|(key, value)| (format!("autoscaling.knative.dev/{key}"), (*value).to_owned()))
        .collect();
    Entry { name: "kpa".to_owned(), kpa: Some(Kpa { annotations, ..Kpa::default() }), ..Entry::default() }
}

/// Requests that came are those that were answered, failed, or are still there, and Little's law holds.
fn adds_up(outcome: &Outcome) {
    let requests = &outcome.requests;
    assert_eq!(requests.arrived, requests.completed + requests.failed + requests.censored, "{requests:?}");
    let errors = &outcome.errors;
    let failed = errors.activator_full + errors.queue_proxy_full + errors.timeout + errors.pod_lost;
    assert_eq!(requests.failed, failed, "{errors:?}");
    assert_eq!(outcome.latency.count, requests.completed);
    assert_eq!(outcome.activator_wait.count, requests.completed);
    assert!(outcome.little.iter().all(|layer| layer.equal), "{:?}", outcome.little);
    let cost = &outcome.cost;
    let parts = cost.starting + cost.busy + cost.idle + cost.draining;
    assert!((parts - cost.pod_seconds).abs() < 1e-6 * cost.pod_seconds.max(1.0), "{cost:?}");
    assert!(cost.idle >= 0.0, "{cost:?}");
}

/// Scenarios in which everything that can happen does.
fn any_scenario() -> impl Strategy<Value = (Scenario, Entry)> {
    let balancing = prop_oneof![
        Just(Balancing::Random),
        Just(Balancing::RoundRobin),
        Just(Balancing::P2c),
        Just(Balancing::LeastRequest)
    ];
    let policy = prop_oneof![
        3 => Just(kpa(&[])),
        1 => Just(kpa(&[("target-burst-capacity", "0")])),
        1 => Just(kpa(&[("target-burst-capacity", "-1"), ("window", "6s")])),
        1 => Just(kpa(&[("metric", "rps"), ("target", "20")])),
        1 => (1_u32..5, any::<bool>()).prop_map(|(pods, activator)| fixed(pods, activator)),
        1 => Just(Entry { name: "hpa".to_owned(), hpa: Some(Hpa::default()), ..Entry::default() }),
        1 => Just(Entry {
            name: "keda".to_owned(),
            keda_http: Some(KedaHttp { target: 5.0, cooldown: Length::seconds(30), ..KedaHttp::default() }),
            ..Entry::default()
        }),
    ];
    (
        (0.1_f64..60.0, 10_u64..2_000, 0_u32..6, 1_u32..5, any::<u64>()),
        (
            proptest::option::of(50_u64..3_000),
            any::<bool>(),
            proptest::option::of(1_u8..3),
            proptest::option::of(0_u32..4),
        ),
        (0.0_f64..0.3, 0.0_f64..0.5, 0.0_f64..60.0, 0.0_f64..0.3, 1_u32..40),
        (balancing, policy, 0_u32..5, prop_oneof![Just(0.0), 0.5_f64..5.0]),
    )
        .prop_map(|(load, callers, failures, (balancing, policy, capacity, pods_per_second))| {
            let (rate, service, limit, activators, seed) = load;
            let (timeout, keeps_slot, retries, queue) = callers;
            let (scrape_failure, crash, lost, slow, timeout_seconds) = failures;
            let service = Written::lognormal(Length::millis(service), Length::millis(service * 5));
            let mut scenario =
                Scenario { seed, warm_up: Length::seconds(20), ..plain(rate, service, limit, Length::seconds(200)) };
            scenario.load.timeout = timeout.map(Length::millis);
            scenario.load.timeout_keeps_slot = keeps_slot;
            scenario.load.retries = retries.map(|max| Retries { max, ..Retries::default() });
            scenario.revision.timeout_seconds = timeout_seconds;
            let defaults = Scenario::default().world;
            scenario.world = World { activators, activator_queue: queue, ..defaults };
            scenario.world.scrape_failure = Share(scrape_failure);
            scenario.world.failures.crash_on_start = Share(crash);
            scenario.world.failures.lost_per_hour = lost;
            scenario.world.failures.slow_start = Share(slow);
            scenario.world.ingress.balancing = balancing;
            scenario.world.node_capacity = capacity;
            scenario.world.pods_per_second = pods_per_second;
            (scenario, policy)
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn every_run_adds_up_and_is_the_same_again((scenario, policy) in any_scenario()) {
        let case = case(scenario, &policy);
        let outcome = run(&case, &policy, case.seed(0), Detail::Series);
        adds_up(&outcome);
        let again = run(&case, &policy, case.seed(0), Detail::Series);
        prop_assert_eq!(
            serde_json::to_string(&outcome).expect("JSON"),
            serde_json::to_string(&again).expect("JSON")
        );
        let other = run(&case, &policy, case.seed(0), Detail::Measures);
        prop_assert_eq!(other, Outcome { series: None, minutes: Vec::new(), ..outcome });
    }
}

#[test]
fn more_pods_never_wait_longer_behind_one_queue() {
    for seed in 0..5 {
        let waits: Vec<f64> = (8..14)
            .map(|pods| {
                let policy = fixed(pods, true);
                let scenario = plain(6.0, Written::exponential(Length::seconds(1)), 1, Length::seconds(2_000));
                run(&case(scenario, &policy), &policy, seed, Detail::Measures).activator_wait.mean
            })
            .collect();
        assert!(waits.is_sorted_by(|one, other| one >= other), "{waits:?}");
    }
}

#[test]
fn a_higher_floor_has_fewer_cold_starts() {
    let starts = |floor: &str| -> u64 {
        let policy = kpa(&[("min-scale", floor)]);
        let scenario = plain(0.02, Written::constant(Length::millis(100)), 10, Length::seconds(20_000));
        let case = case(scenario, &policy);
        (0..4).map(|seed| run(&case, &policy, seed, Detail::Measures).cold.starts).sum()
    };
    let (none, one) = (starts("0"), starts("1"));
    assert!(one < none && none > 100, "{none} without a floor, {one} with one pod");
}

/// A trace of these counts, a minute each.
fn counted(counts: &[u32]) -> Trace {
    let counts = counts.to_vec();
    Trace {
        name: "counts".to_owned(),
        recorded: Recorded::Counts { bucket: Length::seconds(60).0, counts },
        notes: Vec::new(),
    }
}

fn traced(counts: &[u32], load: TraceLoad) -> (Case, Entry) {
    let policy = kpa(&[]);
    let mut scenario = plain(1.0, Written::constant(Length::millis(300)), 10, Length::seconds(1));
    scenario.duration = None;
    scenario.load.synthetic = None;
    scenario.load.trace = Some(TraceLoad { file: "counts".to_owned(), ..load });
    scenario.policies = vec![policy.clone()];
    (Case::new(scenario, Some(counted(counts))).expect("a case"), policy)
}

#[test]
fn a_factor_of_one_changes_nothing_and_counts_are_kept() {
    let counts = [100, 0, 7, 3_000, 1, 50];
    let (case, policy) = traced(&counts, TraceLoad::default());
    let plain = run(&case, &policy, 1, Detail::Series);
    let (same, _) = traced(&counts, TraceLoad { rate_factor: 1.0, time_factor: 1.0, ..TraceLoad::default() });
    assert_eq!(run(&same, &policy, 1, Detail::Series), plain);
    let series = plain.series.expect("a series");
    let minutes: Vec<u32> = series.arrivals.chunks(30).map(|lines| lines.iter().sum()).collect();
    // The last look falls on the end of the run, which is not part of it.
    assert_eq!(minutes[..5], counts[..5], "{minutes:?}");
    assert_eq!(plain.requests.arrived, 3_158);

    let (double, _) = traced(&counts, TraceLoad { rate_factor: 2.0, ..TraceLoad::default() });
    let arrived = run(&double, &policy, 1, Detail::Measures).requests.arrived;
    // Six standard deviations of a Poisson number of 6,316.
    assert!(arrived.abs_diff(6_316) < 477, "{arrived}");
}

#[test]
fn an_empty_time_before_shifts_what_comes_after() {
    // With all pods there from the start, an hour without a request changes nothing but the time.
    let counts = [50, 200, 0, 80];
    let later: Vec<u32> = std::iter::repeat_n(0, 60).chain(counts).collect();
    let policy = fixed(2, false);
    let latency = |counts: &[u32]| {
        let (case, _) = traced(counts, TraceLoad::default());
        let outcome = run(&case, &policy, 3, Detail::Measures);
        (outcome.latency, outcome.queue_wait, outcome.requests)
    };
    assert_eq!(latency(&counts), latency(&later));
}
