//! What a simulated request costs, and a day without any.
//!
//! Budgets: 250 ns for each request of the whole model; 24 hours at 500 requests a second within 10 s, in at most 64 MiB
//! that do not depend on how many requests there are; an idle day within 50 ms; a screened day at any rate in about a
//! second. Run with `cargo bench --bench sim`; divan tells items per second, of which a nanosecond figure is the inverse,
//! and the most memory that was in use (`max alloc`).

use divan::counter::ItemsCount;
use divan::{AllocProfiler, Bencher};
use ebb::sim::batch::Watch;
use ebb::sim::law::Written;
use ebb::sim::scenario::{Diurnal, Entry, Fixed, Kpa, Load, Rate, Synthetic};
use ebb::sim::time::Length;
use ebb::sim::tune::{Options, tune};
use ebb::sim::{Case, Detail, Scenario, run};
use std::num::NonZeroUsize;

#[global_allocator]
static MEMORY: AllocProfiler = AllocProfiler::system();

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

/// The same, screened.
#[divan::bench(sample_count = 3, sample_size = 1)]
fn a_screened_day_at_500_a_second(bencher: Bencher<'_, '_>) {
    bench(bencher, &kpa("target-burst-capacity", "200"), 500.0, 86_400, Detail::Screened);
}

/// The same at a rate that is only screened.
#[divan::bench(sample_count = 3, sample_size = 1)]
fn a_screened_day_at_10_000_a_second(bencher: Bencher<'_, '_>) {
    bench(bencher, &kpa("target-burst-capacity", "200"), 10_000.0, 86_400, Detail::Screened);
}

/// Tuning with a budget of 20 s, on one thread and on two.
#[divan::bench(sample_count = 1, sample_size = 1, args = [1, 2])]
fn tune_within_20_s(bencher: Bencher<'_, '_>, threads: usize) {
    let mut scenario = scenario(20.0, 86_400);
    scenario.load.synthetic =
        Some(Synthetic { diurnal: Some(Diurnal { mean: 20.0, ..Diurnal::default() }), ..Synthetic::default() });
    let case = case(scenario, &kpa("window", "60s"));
    let threads = NonZeroUsize::new(threads).expect("not 0");
    let options = Options { budget: 80_000_000, threads, ..Options::default() };
    bencher.bench_local(|| tune(&case, &Kpa::default(), &options, &Watch::default()).expect("nobody stops it"));
}

/// A day without a request.
#[divan::bench(sample_count = 5, sample_size = 1)]
fn an_idle_day(bencher: Bencher<'_, '_>) {
    bench(bencher, &kpa("window", "60s"), 0.0, 86_400, Detail::Measures);
}
