//! What a simulated request costs, and a day without any.
//!
//! Budgets: 250 ns for each request of the whole model; 24 hours at 500 requests a second within 10 s; an idle day within
//! 50 ms. Run with `cargo bench --bench sim`; divan tells items per second, of which a nanosecond figure is the inverse.

use divan::Bencher;
use divan::counter::ItemsCount;
use ebb::sim::law::Written;
use ebb::sim::scenario::{Entry, Fixed, Kpa, Load, Rate, Synthetic};
use ebb::sim::time::Length;
use ebb::sim::{Case, Detail, Scenario, run};

fn main() {
    divan::main();
}

/// So many requests a second of 200 ms on average, to pods that take ten each.
fn scenario(rate: f64, seconds: u64) -> Scenario {
    let mut scenario = Scenario {
        name: "bench".to_owned(),
        duration: Some(Length::seconds(seconds)),
        load: Load {
            synthetic: Some(Synthetic { poisson: Some(Rate { rate }), ..Synthetic::default() }),
            service: Some(Written::lognormal(Length::millis(150), Length::seconds(1))),
            ..Load::default()
        },
        ..Scenario::default()
    };
    scenario.revision.container_concurrency = 10;
    scenario
}

fn case(scenario: Scenario, policy: &Entry) -> Case {
    let scenario = Scenario { policies: vec![policy.clone()], ..scenario };
    assert_eq!(scenario.check(), Vec::new());
    Case::new(scenario, None).expect("a case")
}

fn kpa(key: &str, value: &str) -> Entry {
    let annotations = [(format!("autoscaling.knative.dev/{key}"), value.to_owned())].into();
    Entry { name: "kpa".to_owned(), kpa: Some(Kpa { annotations, ..Kpa::default() }), ..Entry::default() }
}

fn bench(bencher: Bencher<'_, '_>, policy: &Entry, rate: f64, seconds: u64, detail: Detail) {
    let case = case(scenario(rate, seconds), policy);
    let requests = run(&case, policy, 1, detail).requests.arrived;
    bencher.counter(ItemsCount::new(requests.max(1))).bench_local(|| run(&case, policy, 1, detail));
}

/// Knative's defaults, straight to the pods most of the time.
#[divan::bench(sample_count = 5, sample_size = 1)]
fn kpa_direct(bencher: Bencher<'_, '_>) {
    bench(bencher, &kpa("target-burst-capacity", "0"), 500.0, 2_000, Detail::Measures);
}

/// Every request through an activator.
#[divan::bench(sample_count = 5, sample_size = 1)]
fn kpa_through_the_activator(bencher: Bencher<'_, '_>) {
    bench(bencher, &kpa("target-burst-capacity", "-1"), 500.0, 2_000, Detail::Measures);
}

/// A central queue under load, where most requests wait.
#[divan::bench(sample_count = 5, sample_size = 1)]
fn a_queue_at_95_percent(bencher: Bencher<'_, '_>) {
    let fixed = Fixed { pods: 12, activator: true };
    let policy = Entry { name: "fixed".to_owned(), fixed: Some(fixed), ..Entry::default() };
    bench(bencher, &policy, 540.0, 2_000, Detail::Measures);
}

/// 24 hours at 500 requests a second, with the series.
#[divan::bench(sample_count = 1, sample_size = 1)]
fn a_day_at_500_a_second(bencher: Bencher<'_, '_>) {
    bench(bencher, &kpa("target-burst-capacity", "200"), 500.0, 86_400, Detail::Series);
}

/// A day without a request.
#[divan::bench(sample_count = 5, sample_size = 1)]
fn an_idle_day(bencher: Bencher<'_, '_>) {
    bench(bencher, &kpa("window", "60s"), 0.0, 86_400, Detail::Measures);
}
