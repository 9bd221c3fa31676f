//! What one stat and one decision cost: `cargo bench --bench engine`.
//!
//! A decision is everything a tick does in the engine: the stable and the panic average of one metric, and the decider.

use divan::{Bencher, black_box};
use ebb::engine::keep::Keep;
use ebb::engine::{Collection, Decider, Decision, Load, MetricSpec, Spec};
use ebb::units::{Aggregation, Compat, Span, Timestamp};

fn main() {
    divan::main();
}

/// 2026-08-01T00:00:00Z.
const START: Timestamp = Timestamp::from_seconds(1_785_542_400);

const LOAD: Load = Load { concurrency: 70.0, proxied_concurrency: 35.0, requests: 140.0, proxied_requests: 70.0 };

const ALGORITHMS: [&str; 2] = ["linear", "weighted"];

/// Several reporters in one second.
#[divan::bench(args = ALGORITHMS)]
fn record_in_one_second(bencher: Bencher, algorithm: &str) {
    let mut collection = busy(algorithm);
    let at = START + Span::from_seconds(100);
    bencher.bench_local(|| collection.record(black_box(at), black_box(&LOAD)));
}

/// Each stat in a second of its own, so that a bucket is reused every time.
#[divan::bench(args = ALGORITHMS)]
fn record_in_the_next_second(bencher: Bencher, algorithm: &str) {
    let mut collection = busy(algorithm);
    let mut at = START + Span::from_seconds(100);
    bencher.bench_local(|| {
        at = at + Span::SECOND;
        collection.record(black_box(at), black_box(&LOAD))
    });
}

/// Steady load, nothing to change.
#[divan::bench(args = ALGORITHMS)]
fn decide(bencher: Bencher, algorithm: &str) {
    decide_with(bencher, algorithm, Spec::default(), 1);
}

/// Panicking, limited by the up rate, raised by the activation scale, held by the scale-down delay: every rule at work.
#[divan::bench(args = ALGORITHMS)]
fn decide_by_every_rule(bencher: Bencher, algorithm: &str) {
    let spec = Spec {
        target_value: 1.0,
        max_scale_up_rate: 2.0,
        activation_scale: 5,
        scale_down_delay: Span::from_seconds(60),
        ..Spec::default()
    };
    decide_with(bencher, algorithm, spec, 10);
}

fn decide_with(bencher: Bencher, algorithm: &str, spec: Spec, ready: i32) {
    let collection = busy(algorithm);
    let mut decider = Decider::new(spec, ready, START, Compat::STRICT);
    // The last stat is a second old, as it is half of the time.
    let now = START + Span::from_seconds(100);
    // In place, as a revision keeps its latest.
    let mut decision = Decision::default();
    bencher.bench_local(|| {
        let observed = collection.observe(decider.spec().metric, black_box(now)).expect("the window has data");
        decider.decide_into(&mut decision, black_box(now), black_box(ready), observed, &Keep::default());
        black_box(&decision).desired
    });
}

/// A collection with a full 60 s window that was last written to at second 99.
fn busy(algorithm: &str) -> Collection {
    let aggregation = if algorithm == "linear" { Aggregation::Linear } else { Aggregation::WeightedExponential };
    let mut collection = Collection::new(&MetricSpec {
        stable_window: Span::from_seconds(60),
        panic_window: Span::from_seconds(6),
        scraped: true,
        aggregation,
    });
    for second in 0..100 {
        collection.record(START + Span::from_seconds(second), &LOAD);
    }
    collection
}
