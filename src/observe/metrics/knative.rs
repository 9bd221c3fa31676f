//! The names under which Knative's own autoscaler shows its numbers, so that dashboards and alerts made for it go on.
//!
//! There are two families: the present names (`kn_revision_pods_desired`), and on request those up to Knative 1.18
//! (`autoscaler_desired_pods`), which the dashboards of that time read. Names, types, labels and units are the reference's;
//! the help texts are ours.
//!
//! # Source
//!
//! Knative Serving, `pkg/autoscaler/scaling/metrics.go`, `pkg/autoscaler/metrics/stats_scraper.go`,
//! `pkg/reconciler/autoscaling/kpa/metrics.go`; knative.dev/pkg, `observability/metrics/k8s`; for the older names
//! knative.dev/pkg, `controller/stats_reporter.go`.

use crate::api::pods::PodCounts;
use crate::observe::metrics::{Histogram, MOST_REVISIONS, Page, RevisionLabels, RevisionSeries, Source};
use crate::units::{ScalingMetric, Span, count_f64};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// The labels by which the reference's exporter tells who made a series: name, schema and version of a scope. The last two
/// are always empty.
pub const SCOPE_LABELS: [&str; 3] = ["otel_scope_name", "otel_scope_schema_url", "otel_scope_version"];
/// The scope of what is told of revisions.
pub const AUTOSCALER_SCOPE: &str = "knative.dev/serving/pkg/autoscaler";
/// The scope of work queues and requests to the API server.
pub const KUBERNETES_SCOPE: &str = "knative.dev/pkg/observability/metrics/k8s";
/// The scope of the Go runtime.
const RUNTIME_SCOPE: &str = "go.opentelemetry.io/contrib/instrumentation/runtime";
/// Upper bounds of every histogram under a present name; in seconds.
pub const SECONDS: [f64; 14] = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];
/// Upper bounds of the older scrape times; in milliseconds.
const SCRAPE_MILLIS: [f64; 16] = [
    1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1_000.0, 2_000.0, 5_000.0, 10_000.0, 20_000.0, 50_000.0,
    100_000.0,
];

/// The value of an older label: what is empty now was `unknown` then.
pub fn known(text: &str) -> &str {
    if text.is_empty() { "unknown" } else { text }
}

/// What is shown of one revision.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct RevisionNumbers {
    /// Pods its decider wants; 0 before the first decision.
    pub desired: i32,
    /// Excess burst capacity, before it was made an integer.
    pub excess_burst: f64,
    /// Whether it panics.
    pub panicking: bool,
    /// Which of the two sets of averages is shown.
    pub metric: ScalingMetric,
    /// The average over the stable window.
    pub stable: f64,
    /// The average over the panic window.
    pub panic: f64,
    /// Load one pod should carry.
    pub target: f64,
    /// Pods last asked for; `None` while that was never known.
    pub requested: Option<i32>,
    /// Pods by state.
    pub pods: PodCounts,
}

impl RevisionNumbers {
    fn of_metric(&self, metric: ScalingMetric, value: f64) -> Option<f64> {
        (self.metric == metric).then_some(value)
    }
}

macro_rules! series {
    ($([$present:literal, $older:literal, $help:literal, $value:expr $(, $older_value:expr)?]),* $(,)?) => {
        /// What is shown of each revision, by the present names.
        pub const PRESENT: &[RevisionSeries<RevisionNumbers>] =
            &[$(RevisionSeries { name: $present, help: $help, value: $value }),*];
        /// The same by the older names.
        pub const OLDER: &[RevisionSeries<RevisionNumbers>] =
            &[$(RevisionSeries { name: $older, help: $help, value: series!(@older $value $(, $older_value)?) }),*];
    };
    (@older $value:expr) => { $value };
    (@older $value:expr, $older_value:expr) => { $older_value };
}

series![
    [
        "kn_revision_pods_desired",
        "autoscaler_desired_pods",
        "Pods the decider wants, before min-scale and max-scale.",
        |it| Some(it.desired.into())
    ],
    [
        "kn_revision_capacity_excess",
        "autoscaler_excess_burst_capacity",
        "Load the ready pods could take beyond what they have and the target burst capacity; negative keeps the activator in the path.",
        |it| Some(it.excess_burst)
    ],
    ["kn_revision_panic_mode", "autoscaler_panic_mode", "Whether the revision panics, 1 or 0.", |it| Some(
        u8::from(it.panicking).into()
    )],
    [
        "kn_revision_concurrency_stable",
        "autoscaler_stable_request_concurrency",
        "Requests in flight in the whole revision, on average over the stable window.",
        |it| it.of_metric(ScalingMetric::Concurrency, it.stable)
    ],
    [
        "kn_revision_concurrency_panic",
        "autoscaler_panic_request_concurrency",
        "Requests in flight in the whole revision, on average over the panic window.",
        |it| it.of_metric(ScalingMetric::Concurrency, it.panic)
    ],
    [
        "kn_revision_concurrency_target",
        "autoscaler_target_concurrency_per_pod",
        "Requests in flight that one pod should have.",
        |it| it.of_metric(ScalingMetric::Concurrency, it.target)
    ],
    [
        "kn_revision_rps_stable_per_second",
        "autoscaler_stable_requests_per_second",
        "Requests per second to the whole revision, on average over the stable window.",
        |it| it.of_metric(ScalingMetric::Rps, it.stable)
    ],
    [
        "kn_revision_rps_panic_per_second",
        "autoscaler_panic_requests_per_second",
        "Requests per second to the whole revision, on average over the panic window.",
        |it| it.of_metric(ScalingMetric::Rps, it.panic)
    ],
    [
        "kn_revision_rps_target_per_second",
        "autoscaler_target_requests_per_second",
        "Requests per second that one pod should have.",
        |it| it.of_metric(ScalingMetric::Rps, it.target)
    ],
    [
        "kn_revision_pods_requested",
        "autoscaler_requested_pods",
        "Pods last asked of the scale target.",
        |it| Some(it.requested.unwrap_or(0).into()),
        |it| it.requested.map(f64::from)
    ],
    ["kn_revision_pods_count", "autoscaler_actual_pods", "Pods that are ready.", |it| Some(count_f64(it.pods.ready))],
    ["kn_revision_pods_not_ready_count", "autoscaler_not_ready_pods", "Pods that are alive and not ready.", |it| Some(
        count_f64(it.pods.not_ready)
    )],
    ["kn_revision_pods_pending_count", "autoscaler_pending_pods", "Pods that have not started yet.", |it| Some(
        count_f64(it.pods.pending)
    )],
    ["kn_revision_pods_terminating_count", "autoscaler_terminating_pods", "Pods on their way out.", |it| Some(
        count_f64(it.pods.terminating)
    )],
];

/// How long the scrapes of a configuration's revisions take.
#[derive(Debug)]
pub struct ScrapeTimes {
    seconds: Histogram,
    /// Where the older names are shown too.
    millis: Option<Histogram>,
}

impl ScrapeTimes {
    /// Takes in how long one scrape took.
    pub fn observe(&self, took: Span) {
        self.seconds.observe(took.seconds_f64());
        if let Some(millis) = &self.millis {
            millis.observe(took.seconds_f64() * 1e3);
        }
    }
}

/// The scrape times of all configurations. Cheap to clone; all clones are one.
///
/// A configuration is kept for as long as one of its revisions is scraped, whose scraper has its [`ScrapeTimes`].
#[derive(Clone, Debug)]
pub struct AllScrapeTimes {
    older: bool,
    times: Arc<Mutex<BTreeMap<Configuration, Weak<ScrapeTimes>>>>,
}

/// Namespace, configuration, Knative Service.
type Configuration = (Box<str>, Arc<str>, Arc<str>);

impl AllScrapeTimes {
    /// None yet; with the older names too, or without.
    pub fn new(older: bool) -> Self {
        Self { older, times: Arc::default() }
    }

    /// Those of the configuration a revision was made from.
    pub fn of(&self, revision: &RevisionLabels) -> Arc<ScrapeTimes> {
        let RevisionLabels { key, configuration, service } = revision;
        let mut times = self.lock();
        // Where nobody looks at them, those that are gone go from time to time all the same.
        if times.len().is_power_of_two() {
            times.retain(|_, times| times.strong_count() > 0);
        }
        let place = times.entry((key.namespace().into(), Arc::clone(configuration), Arc::clone(service))).or_default();
        place.upgrade().unwrap_or_else(|| {
            let millis = self.older.then(|| Histogram::new(SCRAPE_MILLIS));
            let fresh = Arc::new(ScrapeTimes { seconds: Histogram::new(SECONDS), millis });
            *place = Arc::downgrade(&fresh);
            fresh
        })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Configuration, Weak<ScrapeTimes>>> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Source for AllScrapeTimes {
    fn show(&self, page: &mut Page<'_>) {
        let live: Vec<_> = {
            let mut times = self.lock();
            times.retain(|_, times| times.strong_count() > 0);
            let live = times.iter().filter_map(|(of, times)| Some((of.clone(), times.upgrade()?)));
            live.take(MOST_REVISIONS).collect()
        };
        let [name, schema, version] = SCOPE_LABELS;
        let help = "How long the scrape of one revision takes, all its pods together.";
        page.histograms(
            "kn_autoscaler_scrape_duration_seconds",
            help,
            ["k8s_namespace_name", "kn_configuration_name", "kn_service_name", name, schema, version],
            live.iter().map(|((namespace, configuration, service), times)| {
                ([&**namespace, configuration, service, AUTOSCALER_SCOPE, "", ""], &times.seconds)
            }),
        );
        if self.older {
            page.histograms(
                "autoscaler_scrape_time",
                "How long the scrape of one revision takes, all its pods together, in milliseconds.",
                ["configuration_name", "namespace_name", "service_name"],
                live.iter().filter_map(|((namespace, configuration, service), times)| {
                    Some(([&**configuration, &**namespace, known(service)], times.millis.as_ref()?))
                }),
            );
        }
    }
}

/// Who shows all this: `target_info`, and of what dashboards read of the Go runtime that which has a counterpart here.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Target {
    /// The namespace Knative's own objects live in.
    pub namespace: String,
    /// The pod this runs in; empty when it runs in none.
    pub pod: String,
}

impl Source for Target {
    fn show(&self, page: &mut Page<'_>) {
        let version = env!("CARGO_PKG_VERSION");
        page.gauges(
            "target_info",
            "What is scraped here. Always 1.",
            [
                "k8s_namespace_name",
                "k8s_pod_name",
                "service_name",
                "service_version",
                "telemetry_sdk_language",
                "telemetry_sdk_name",
                "telemetry_sdk_version",
            ],
            [([&*self.namespace, &*self.pod, "autoscaler", version, "rust", "ebb", version], 1_u64)],
        );
        let [name, schema, scope_version] = SCOPE_LABELS;
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            page.gauges(
                "go_goroutine_count",
                "Tasks that are alive, under the name dashboards know.",
                [name, schema, scope_version],
                [([RUNTIME_SCOPE, "", ""], runtime.metrics().num_alive_tasks())],
            );
        }
        let Some((stack, other)) = memory() else { return };
        page.gauges(
            "go_memory_used_bytes",
            "Memory of its own the process uses, under the name dashboards know.",
            ["go_memory_type", name, schema, scope_version],
            [(["other", RUNTIME_SCOPE, "", ""], other), (["stack", RUNTIME_SCOPE, "", ""], stack)],
        );
        page.gauge(
            "go_memstats_heap_alloc_bytes",
            "Memory of its own the process uses beside its first stack, under the name dashboards know.",
            other,
        );
    }
}

/// Bytes of the stack the process began with, and of all else it does not share with others.
fn memory() -> Option<(u64, u64)> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let kilobytes = |name: &str| -> Option<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim_start_matches(':').trim().strip_suffix(" kB")?.parse().ok()
    };
    let (stack, anonymous) = (kilobytes("VmStk")? * 1024, kilobytes("RssAnon")? * 1024);
    Some((stack.min(anonymous), anonymous.saturating_sub(stack)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::metrics::{Format, Registry};
    use crate::units::{Compat, RevisionKey};

    #[test]
    fn both_families_show_the_same_under_their_own_names_and_labels() {
        let labels = |service: &str| RevisionLabels {
            key: RevisionKey::new("default", "demo-00001"),
            configuration: "demo".into(),
            service: service.into(),
        };
        let registry = Registry::new(Compat::IMPROVED);
        let read = move || {
            let rps = RevisionNumbers { metric: ScalingMetric::Rps, stable: 50.25, desired: 4, ..Default::default() };
            let pods = RevisionNumbers { target: 7.0, requested: Some(3), ..Default::default() };
            vec![(labels("demo"), rps), (labels(""), pods)]
        };
        registry.per_revision(super::super::LabelNames::Scoped, PRESENT, read);
        registry.per_revision(super::super::LabelNames::Older, OLDER, read);
        let text = registry.exposition(Format::Prometheus);
        for line in [
            "kn_revision_pods_desired{k8s_namespace_name=\"default\",kn_configuration_name=\"demo\",\
             kn_revision_name=\"demo-00001\",kn_service_name=\"demo\",otel_scope_name=\"knative.dev/serving/pkg/autoscaler\",\
             otel_scope_schema_url=\"\",otel_scope_version=\"\"} 4.0",
            "autoscaler_desired_pods{configuration_name=\"demo\",namespace_name=\"default\",revision_name=\"demo-00001\",\
             service_name=\"demo\"} 4.0",
            "autoscaler_stable_requests_per_second{configuration_name=\"demo\",namespace_name=\"default\",\
             revision_name=\"demo-00001\",service_name=\"demo\"} 50.25",
            "autoscaler_requested_pods{configuration_name=\"demo\",namespace_name=\"default\",\
             revision_name=\"demo-00001\",service_name=\"unknown\"} 3.0",
        ] {
            assert!(text.contains(&format!("{line}\n")), "{line}\n{text}");
        }
        let count = |name: &str| text.lines().filter(|line| line.starts_with(&format!("{name}{{"))).count();
        // Averages of the one metric a revision scales on; what was never asked for is 0 today and was absent then.
        for (name, series) in [
            ("kn_revision_rps_stable_per_second", 1),
            ("kn_revision_concurrency_target", 1),
            ("kn_revision_pods_requested", 2),
            ("autoscaler_requested_pods", 1),
        ] {
            assert_eq!(count(name), series, "{name}");
        }
    }

    #[test]
    fn scrape_times_leave_with_the_last_revision_of_a_configuration() {
        let revision = |name: &str| RevisionLabels {
            key: RevisionKey::new("default", name),
            configuration: "demo".into(),
            service: "demo".into(),
        };
        let (registry, all) = (Registry::new(Compat::IMPROVED), AllScrapeTimes::new(true));
        registry.register(all.clone());
        let (one, two) = (all.of(&revision("demo-00001")), all.of(&revision("demo-00002")));
        one.observe(Span::from_millis(30));
        two.observe(Span::from_millis(80));
        drop(one);
        let text = registry.exposition(Format::Prometheus);
        assert!(text.contains("kn_service_name=\"demo\",otel_scope_name=\"knative.dev/serving/pkg/autoscaler\",otel_scope_schema_url=\"\",otel_scope_version=\"\"} 2\n"), "{text}");
        assert!(text.contains("autoscaler_scrape_time_bucket{le=\"50\",configuration_name=\"demo\""), "{text}");
        drop(two);
        let text = registry.exposition(Format::Prometheus);
        assert!(!text.contains("kn_configuration_name"), "{text}");
    }
}
