//! The tuner: it finds what is better, says why it does not, and its answer does not depend on threads.

use ebb::sim::batch::Watch;
use ebb::sim::scenario::{self, Kpa};
use ebb::sim::tune::{self, Obstacle, Options, Refusal, Tuning};
use ebb::sim::{Case, compare};
use std::num::NonZeroUsize;

/// A scenario of so long with this load, service and revision.
fn case(duration: &str, load: &str, rest: &str) -> (Case, Kpa) {
    let text = format!(
        "apiVersion: sim/v1\nname: tuned\nduration: {duration}\nwarm_up: 2m\nload:\n  synthetic: \
         {load}\n{rest}\npolicies: [{{ name: now, kpa: {{}} }}]\n"
    );
    let scenario = scenario::parse("tuned.yaml", &text).unwrap_or_else(|problems| panic!("{problems}\n{text}"));
    (Case::new(scenario, None).expect("a case"), Kpa::default())
}

fn tuned((case, current): &(Case, Kpa), threads: usize) -> Tuning {
    let threads = NonZeroUsize::new(threads).expect("at least one");
    let options = Options { budget: 1_000_000, threads, ..Options::default() };
    tune::tune(case, current, &options, &Watch::default()).expect("it was not stopped")
}

/// Pods that are kept far too long, at a steady rate with a generous promise.
fn wasteful() -> (Case, Kpa) {
    case(
        "40m",
        "{ poisson: { rate: 3 } }",
        "  service: { law: exponential, mean: 200ms }\nrevision: { containerConcurrency: 10, annotations: { \
         autoscaling.knative.dev/min-scale: \"5\" } }\nslo: { latency: 5s, percentile: 99 }",
    )
}

#[test]
fn what_is_wasted_is_found_and_any_number_of_threads_says_the_same() {
    let case = wasteful();
    let one = tuned(&case, 1);
    assert_eq!(one.refusal, None);
    let change = one.change.clone().expect("a recommendation");
    assert!(change.contains_key("autoscaling.knative.dev/min-scale"), "{change:?}");
    let held_back = compare::compare("tuned", &one.held_back, &case.0.scenario.slo, 1);
    let cost = held_back.difference(tune::TUNED, "pod_hours").expect("compared");
    assert!(cost.difference.is_below(0.0), "{cost:?}");
    let kept = held_back.policies.iter().find(|policy| policy.policy == tune::TUNED).expect("run");
    assert_eq!(kept.promise, compare::Promise::Kept);
    assert!(one.spent < 4_000_000, "{} of a budget of 1000000 and the last checks", one.spent);
    assert_eq!(one, tuned(&case, 2));
}

#[test]
fn what_cannot_be_recommended_is_refused_with_the_reason() {
    let service = "  service: { law: exponential, mean: 200ms }";
    let short = tuned(&case("9m", "{ poisson: { rate: 50 } }", service), 1);
    assert!(matches!(short.refusal, Some(Refusal::TooShort { .. })), "{:?}", short.refusal);
    let few = tuned(&case("2h", "{ poisson: { rate: 0.1 } }", service), 1);
    assert!(matches!(few.refusal, Some(Refusal::TooFewRequests { .. })), "{:?}", few.refusal);
    let steps = "{ step: [{ at: 0s, rate: 5 }, { at: 110m, rate: 0.001 }] }";
    let quiet = tuned(&case("170m", steps, service), 1);
    assert!(matches!(quiet.refusal, Some(Refusal::HeldBackTooQuiet { .. })), "{:?}", quiet.refusal);
    let slow = tuned(
        &case(
            "30m",
            "{ poisson: { rate: 5 } }",
            "  service: { law: constant, value: 2s }\nrevision: { containerConcurrency: 10 }\nslo: { latency: 1s }",
        ),
        1,
    );
    let Some(refusal @ Refusal::NothingMeets { obstacle: Obstacle::ServiceTime, .. }) = &slow.refusal else {
        panic!("{:?}", slow.refusal)
    };
    assert!(refusal.to_string().contains("the promise is too short"), "{refusal}");
    assert_eq!(slow.change, None);
}

#[test]
fn room_on_the_nodes_is_named_where_it_stands_in_the_way() {
    let crowded = case(
        "20m",
        "{ poisson: { rate: 40 } }",
        "  service: { law: exponential, mean: 500ms }\nrevision: { containerConcurrency: 1 }\nworld: { node_capacity: \
         10 }\nslo: { latency: 5s }",
    );
    let refusal = tuned(&crowded, 2).refusal;
    assert!(matches!(refusal, Some(Refusal::NothingMeets { obstacle: Obstacle::Limit, .. })), "{refusal:?}");
}

#[test]
fn what_is_good_already_is_kept() {
    // One pod is the least there can be with traffic all the time.
    let good = case(
        "30m",
        "{ constant: { rate: 2 } }",
        "  service: { law: constant, value: 100ms }\nrevision: { containerConcurrency: 0 }\nslo: { latency: 5s }",
    );
    assert_eq!(tuned(&good, 2).refusal, Some(Refusal::WithinNoise));
}

#[test]
fn a_pin_that_is_none_is_refused_with_those_there_are() {
    let (case, current) = wasteful();
    let options = Options { pins: vec!["windows".to_owned()], ..Options::default() };
    let error = tune::tune(&case, &current, &options, &Watch::default()).expect_err("no such annotation");
    assert!(error.to_string().contains("\"windows\" is nothing that is tuned; there are target,"), "{error}");
}
