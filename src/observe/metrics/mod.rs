//! What Prometheus can read: everything that is counted, gathered when it is asked for.
//!
//! The parts count for themselves, in atomics of their own, and know nothing of the exposition. Each has a [`Source`] that
//! shows its numbers; whoever wires the process registers the sources with its [`Registry`]. There are no globals, so two
//! autoscalers fit in one process.
//!
//! Numbers of one revision are never stored here. [`Registry::per_revision`] reads them from their owner with every scrape,
//! so a series comes and goes with its revision, and the number of label values is bounded by [`MOST_REVISIONS`].
//!
//! Reading order: this file, [`knative`] (the names dashboards know), [`process`] (what the operating system says of us),
//! [`text`] (the two text formats), [`endpoint`] (where to listen), [`server`] (`GET /metrics`).

pub mod endpoint;
pub mod knative;
pub mod process;
pub mod server;
pub mod text;

pub use prometheus_client::metrics::histogram::Histogram;

use crate::api::names::{CONFIGURATION_LABEL, SERVICE_LABEL};
use crate::units::{Compat, RevisionKey};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeLabelSet, EncodeMetric as _, LabelSetEncoder,
    MetricEncoder, NoLabelSet,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

/// Revisions that get series of their own. Beyond it they are left out, in the order of their names, and counted: what
/// Prometheus can store is smaller than what a cluster can hold.
pub const MOST_REVISIONS: usize = 20_000;

/// Upper bounds of what usually takes milliseconds and should never take seconds; in seconds.
pub const LATENCY_BUCKETS: [f64; 14] =
    [0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// A part of the process with numbers to show.
///
/// It shows every series it will ever have from the start, at zero: one that appears with its first event hides that event
/// from `rate()`.
pub trait Source: fmt::Debug + Send + Sync + 'static {
    /// Shows the numbers as they are now. Called with every scrape; must not wait.
    fn show(&self, page: &mut Page<'_>);
}

impl<T: Source> Source for Arc<T> {
    fn show(&self, page: &mut Page<'_>) {
        self.as_ref().show(page);
    }
}

/// Where a [`Source`] writes.
///
/// Names are written out as Prometheus will show them: base units, and `_total` on what only grows. Help is a sentence.
#[derive(Debug)]
pub struct Page<'a> {
    encoder: DescriptorEncoder<'a>,
    /// The first error; writing to memory has none, so this is a fault of the encoder.
    outcome: fmt::Result,
}

impl Page<'_> {
    /// A number that only grows.
    pub fn counter(&mut self, name: &'static str, help: &str, value: impl EncodeCounterValue + Copy) {
        self.family(name, help, MetricType::Counter, |mut encoder| {
            encoder.encode_counter::<NoLabelSet, _, u64>(&value, None)
        });
    }

    /// Numbers that only grow, told apart by `labels`; each comes with a value for every label.
    pub fn counters<const N: usize, L: AsRef<str>, V: EncodeCounterValue>(
        &mut self,
        name: &'static str,
        help: &str,
        labels: [&str; N],
        values: impl IntoIterator<Item = ([L; N], V)>,
    ) {
        self.family(name, help, MetricType::Counter, |mut encoder| {
            for (texts, value) in values {
                encoder.encode_family(&pairs(labels, &texts))?.encode_counter::<NoLabelSet, _, u64>(&value, None)?;
            }
            Ok(())
        });
    }

    /// A number that goes up and down.
    pub fn gauge(&mut self, name: &'static str, help: &str, value: impl EncodeGaugeValue + Copy) {
        self.family(name, help, MetricType::Gauge, |mut encoder| encoder.encode_gauge(&value));
    }

    /// A number that goes up and down and is not always known; what it is called is shown all the same.
    pub fn gauge_if_known(&mut self, name: &'static str, help: &str, value: Option<impl EncodeGaugeValue + Copy>) {
        self.family(name, help, MetricType::Gauge, |mut encoder| match value {
            Some(value) => encoder.encode_gauge(&value),
            None => Ok(()),
        });
    }

    /// Numbers that go up and down, told apart by `labels`; each comes with a value for every label.
    pub fn gauges<const N: usize, L: AsRef<str>, V: EncodeGaugeValue>(
        &mut self,
        name: &'static str,
        help: &str,
        labels: [&str; N],
        values: impl IntoIterator<Item = ([L; N], V)>,
    ) {
        self.family(name, help, MetricType::Gauge, |mut encoder| {
            for (texts, value) in values {
                encoder.encode_family(&pairs(labels, &texts))?.encode_gauge(&value)?;
            }
            Ok(())
        });
    }

    /// How durations are spread.
    pub fn histogram(&mut self, name: &'static str, help: &str, histogram: &Histogram) {
        self.family(name, help, MetricType::Histogram, |encoder| histogram.encode(encoder));
    }

    /// How durations are spread, told apart by `labels`; each comes with a value for every label.
    pub fn histograms<'h, const N: usize, L: AsRef<str>>(
        &mut self,
        name: &'static str,
        help: &str,
        labels: [&str; N],
        values: impl IntoIterator<Item = ([L; N], &'h Histogram)>,
    ) {
        self.family(name, help, MetricType::Histogram, |mut encoder| {
            for (texts, histogram) in values {
                histogram.encode(encoder.encode_family(&pairs(labels, &texts))?)?;
            }
            Ok(())
        });
    }

    /// How durations are spread, each with labels of its own, in one order where they have the same.
    pub fn histograms_of<'h>(
        &mut self,
        name: &'static str,
        help: &str,
        values: impl IntoIterator<Item = (Vec<(&'static str, String)>, &'h Histogram)>,
    ) {
        self.family(name, help, MetricType::Histogram, |mut encoder| {
            for (labels, histogram) in values {
                histogram.encode(encoder.encode_family(&labels)?)?;
            }
            Ok(())
        });
    }

    fn family(
        &mut self,
        name: &'static str,
        help: &str,
        kind: MetricType,
        samples: impl FnOnce(MetricEncoder<'_>) -> fmt::Result,
    ) {
        if self.outcome.is_err() {
            return;
        }
        // The encoder puts `_total` on the samples of a counter by itself.
        let family = name.strip_suffix("_total").unwrap_or(name);
        debug_assert_eq!(family != name, matches!(kind, MetricType::Counter), "{name}: _total is for counters");
        self.outcome = self.encoder.encode_descriptor(family, help, None, kind).and_then(samples);
    }
}

fn pairs<'a, const N: usize, L: AsRef<str>>(labels: [&'a str; N], texts: &'a [L; N]) -> [(&'a str, &'a str); N] {
    std::array::from_fn(|index| (labels[index], texts[index].as_ref()))
}

/// What a counter stands at.
pub fn count(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// A histogram of durations that are usually milliseconds; observe seconds.
pub fn latencies() -> Histogram {
    Histogram::new(LATENCY_BUCKETS)
}

/// Everything a process shows. Cheap to clone; all clones are one registry.
#[derive(Clone, Debug)]
pub struct Registry {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    registry: RwLock<registry::Registry>,
    /// Which sharp edges the process keeps; `None` for a part of a process.
    compat: Option<Compat>,
    /// Revisions beyond [`MOST_REVISIONS`] at the last scrape, of the source that left out most.
    left_out: AtomicU64,
}

/// What text the numbers are written in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// Prometheus' own, version 0.0.4, which everything reads.
    Prometheus,
    /// OpenMetrics 1.0, which Prometheus asks for by name.
    OpenMetrics,
}

impl Registry {
    /// Shows the process itself, and whatever is registered later. `compat` is shown beside the version.
    pub fn new(compat: Compat) -> Self {
        Self::with(Some(compat))
    }

    /// Shows what is registered later and nothing else: for one of many parts of a process, whose own numbers would be
    /// added up as often as there are parts.
    pub fn of_part() -> Self {
        Self::with(None)
    }

    fn with(compat: Option<Compat>) -> Self {
        let shared =
            Shared { registry: RwLock::new(registry::Registry::default()), compat, left_out: AtomicU64::new(0) };
        Self { shared: Arc::new(shared) }
    }

    /// Shows `source` from now on. Two sources never show the same name.
    pub fn register(&self, source: impl Source) {
        let mut registry = self.shared.registry.write().unwrap_or_else(PoisonError::into_inner);
        registry.register_collector(Box::new(Shown(source)));
    }

    /// Shows `series` of each revision that `read` answers with, from now on, labelled by `names`. A revision that `read` does
    /// not answer with any more has no series any more.
    pub fn per_revision<T: 'static>(
        &self,
        names: LabelNames,
        series: &'static [RevisionSeries<T>],
        read: impl Fn() -> Vec<(RevisionLabels, T)> + Send + Sync + 'static,
    ) {
        let shared = Arc::downgrade(&self.shared);
        let note = move |count| {
            if let Some(shared) = shared.upgrade() {
                shared.left_out.fetch_max(count, Ordering::Relaxed);
            }
        };
        let (read, note) = (Box::new(read), Box::new(note));
        self.register(PerRevision { names, series, read, note, most: MOST_REVISIONS });
    }

    /// All numbers as they are now.
    pub fn exposition(&self, format: Format) -> String {
        let mut text = String::with_capacity(16 << 10);
        let shared = &self.shared;
        shared.left_out.store(0, Ordering::Relaxed);
        let registry = shared.registry.read().unwrap_or_else(PoisonError::into_inner);
        let written = prometheus_client::encoding::text::encode_registry(&mut text, &registry);
        drop(registry);
        // Last, because the sources above count what they leave out.
        let mut own = registry::Registry::default();
        let left_out = shared.left_out.load(Ordering::Relaxed);
        if let Some(compat) = shared.compat {
            own.register_collector(Box::new(Shown(Own { compat, left_out })));
            own.register_collector(Box::new(Shown(process::Process)));
        }
        let written = written.and_then(|()| prometheus_client::encoding::text::encode(&mut text, &own));
        // Writing to memory does not fail, and half a page is better than none.
        debug_assert!(written.is_ok());
        match format {
            Format::OpenMetrics => text,
            Format::Prometheus => text::without_openmetrics(&text),
        }
    }
}

/// What says which revision a series is of. The names are those of the reference's own series.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RevisionLabels {
    /// The revision.
    pub key: RevisionKey,
    /// The configuration it was made from; empty when unknown.
    pub configuration: Arc<str>,
    /// The Knative Service; empty when there is none.
    pub service: Arc<str>,
}

impl RevisionLabels {
    /// The labels of `key`, taken from the labels of one of its objects.
    pub fn of(key: &RevisionKey, labels: Option<&BTreeMap<String, String>>) -> Self {
        let label = |name: &str| Arc::from(labels.and_then(|labels| labels.get(name)).map_or("", String::as_str));
        Self { key: key.clone(), configuration: label(CONFIGURATION_LABEL), service: label(SERVICE_LABEL) }
    }
}

/// What the labels of a revision are called.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LabelNames {
    /// As on Knative's present series: `k8s_namespace_name`, `kn_revision_name` and so on.
    Plain,
    /// The same, beside the scope that the reference's exporter adds to its own series.
    Scoped,
    /// As Knative called them up to 1.18: `namespace_name`, `revision_name` and so on.
    Older,
}

/// The labels of a revision under one set of names.
struct Named<'a>(LabelNames, &'a RevisionLabels);

impl EncodeLabelSet for Named<'_> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        let Self(names, labels) = self;
        let key = &labels.key;
        let (configuration, service) = (&*labels.configuration, &*labels.service);
        match names {
            LabelNames::Plain => [
                ("k8s_namespace_name", key.namespace()),
                ("kn_service_name", service),
                ("kn_configuration_name", configuration),
                ("kn_revision_name", key.name()),
            ]
            .encode(encoder),
            LabelNames::Scoped => [
                ("k8s_namespace_name", key.namespace()),
                ("kn_configuration_name", configuration),
                ("kn_revision_name", key.name()),
                ("kn_service_name", service),
                (knative::SCOPE_LABELS[0], knative::AUTOSCALER_SCOPE),
                (knative::SCOPE_LABELS[1], ""),
                (knative::SCOPE_LABELS[2], ""),
            ]
            .encode(encoder),
            LabelNames::Older => [
                ("configuration_name", configuration),
                ("namespace_name", key.namespace()),
                ("revision_name", key.name()),
                ("service_name", knative::known(service)),
            ]
            .encode(encoder),
        }
    }
}

/// A gauge that every revision has.
#[derive(Debug)]
pub struct RevisionSeries<T> {
    /// Its name as Prometheus shows it.
    pub name: &'static str,
    /// What it says, as a sentence.
    pub help: &'static str,
    /// Its value; `None` when this revision has none now.
    pub value: fn(&T) -> Option<f64>,
}

/// What to tell the number of revisions left out.
type Note = Box<dyn Fn(u64) + Send + Sync>;
type Read<T> = Box<dyn Fn() -> Vec<(RevisionLabels, T)> + Send + Sync>;

struct PerRevision<T: 'static> {
    names: LabelNames,
    series: &'static [RevisionSeries<T>],
    read: Read<T>,
    note: Note,
    most: usize,
}

impl<T> fmt::Debug for PerRevision<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PerRevision").field("series", &self.series.len()).finish_non_exhaustive()
    }
}

impl<T> Source for PerRevision<T> {
    fn show(&self, page: &mut Page<'_>) {
        let mut revisions = (self.read)();
        // In the same order at every scrape, which compresses well, and where there are too many the same are left out.
        revisions.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        if revisions.len() > self.most {
            (self.note)((revisions.len() - self.most) as u64);
            revisions.truncate(self.most);
        }
        for series in self.series {
            page.family(series.name, series.help, MetricType::Gauge, |mut encoder| {
                for (labels, revision) in &revisions {
                    if let Some(value) = (series.value)(revision) {
                        encoder.encode_family(&Named(self.names, labels))?.encode_gauge(&value)?;
                    }
                }
                Ok(())
            });
        }
    }
}

/// A [`Source`] as the encoder wants it.
#[derive(Debug)]
struct Shown<S>(S);

impl<S: Source> Collector for Shown<S> {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page { encoder, outcome: Ok(()) };
        self.0.show(&mut page);
        page.outcome
    }
}

#[derive(Debug)]
struct Own {
    compat: Compat,
    left_out: u64,
}

impl Source for Own {
    fn show(&self, page: &mut Page<'_>) {
        let compat = match self.compat {
            Compat::STRICT => "strict",
            _ => "improved",
        };
        page.gauges(
            "ebb_build_info",
            "What runs: its version, and whether it keeps the sharp edges of the reference. Always 1.",
            ["version", "compat"],
            [([env!("CARGO_PKG_VERSION"), compat], 1_u64)],
        );
        page.gauge(
            "ebb_metrics_revisions_left_out",
            "Revisions without series of their own, because there are too many.",
            self.left_out,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Example(Histogram);

    impl Source for Example {
        fn show(&self, page: &mut Page<'_>) {
            page.counter("x_seen_total", "Things seen.", 3_u64);
            page.counters(
                "x_dropped_total",
                "Things dropped.",
                ["cause", "by"],
                [(["full", "a\"b"], 0_u64), (["late", ""], 2)],
            );
            page.gauge("x_open", "Things open.", -1.5);
            page.histogram("x_wait_seconds", "How long things wait.", &self.0);
        }
    }

    const SERIES: &[RevisionSeries<i32>] =
        &[RevisionSeries { name: "x_pods", help: "Pods.", value: |pods| (*pods >= 0).then(|| f64::from(*pods)) }];

    fn labels(name: &str) -> RevisionLabels {
        let object = BTreeMap::from([(CONFIGURATION_LABEL.to_owned(), "web".to_owned())]);
        RevisionLabels::of(&RevisionKey::new("default", name), Some(&object))
    }

    fn lines(text: &str, prefix: &str) -> Vec<String> {
        text.lines().filter(|line| line.starts_with(prefix)).map(str::to_owned).collect()
    }

    #[test]
    fn a_source_is_shown_in_both_formats() {
        let registry = Registry::new(Compat::STRICT);
        let histogram = Histogram::new([0.1, 1.0]);
        histogram.observe(0.25);
        registry.register(Example(histogram));
        let open = registry.exposition(Format::OpenMetrics);
        let want = "\
# HELP x_seen Things seen.
# TYPE x_seen counter
x_seen_total 3
# HELP x_dropped Things dropped.
# TYPE x_dropped counter
x_dropped_total{cause=\"full\",by=\"a\\\"b\"} 0
x_dropped_total{cause=\"late\",by=\"\"} 2
# HELP x_open Things open.
# TYPE x_open gauge
x_open -1.5
# HELP x_wait_seconds How long things wait.
# TYPE x_wait_seconds histogram
x_wait_seconds_sum 0.25
x_wait_seconds_count 1
x_wait_seconds_bucket{le=\"0.1\"} 0
x_wait_seconds_bucket{le=\"1.0\"} 1
x_wait_seconds_bucket{le=\"+Inf\"} 1
";
        assert_eq!(open.get(..want.len()), Some(want));
        assert!(open.ends_with("# EOF\n"));
        assert!(open.contains("\nebb_build_info{version=\"0.1.0\",compat=\"strict\"} 1\n"), "{open}");
        let classic = registry.exposition(Format::Prometheus);
        assert!(classic.contains("# HELP x_seen_total Things seen.\n# TYPE x_seen_total counter\nx_seen_total 3\n"));
        assert!(!classic.contains("# EOF"));
    }

    #[test]
    fn series_of_a_revision_leave_with_it() {
        let registry = Registry::new(Compat::IMPROVED);
        let table = Arc::new(std::sync::Mutex::new(vec![(labels("web-00001"), 3), (labels("web-00002"), -1)]));
        let read = Arc::clone(&table);
        registry.per_revision(LabelNames::Plain, SERIES, move || read.lock().expect("no panic above").clone());
        let text = registry.exposition(Format::Prometheus);
        let of = |name: &str| {
            format!(
                "x_pods{{k8s_namespace_name=\"default\",kn_service_name=\"\",kn_configuration_name=\"web\",\
                 kn_revision_name=\"{name}\"}}"
            )
        };
        assert_eq!(
            lines(&text, "x_pods"),
            [format!("{} 3.0", of("web-00001"))],
            "a value that is not known is not shown"
        );
        table.lock().expect("no panic above").remove(0);
        table.lock().expect("no panic above")[0].1 = 5;
        let text = registry.exposition(Format::Prometheus);
        assert_eq!(lines(&text, "x_pods"), [format!("{} 5.0", of("web-00002"))]);
    }

    #[test]
    fn revisions_beyond_the_bound_are_left_out_and_counted() {
        let registry = Registry::new(Compat::IMPROVED);
        registry.per_revision(LabelNames::Plain, SERIES, || {
            (0..MOST_REVISIONS + 7).rev().map(|n| (labels(&format!("r-{n:06}")), 1)).collect()
        });
        let text = registry.exposition(Format::Prometheus);
        let shown = lines(&text, "x_pods");
        assert_eq!(shown.len(), MOST_REVISIONS);
        assert!(shown[0].contains("r-000000"), "{}", shown[0]);
        // A second scrape does not add to the first.
        let text = registry.exposition(Format::Prometheus);
        assert_eq!(lines(&text, "ebb_metrics_revisions_left_out"), ["ebb_metrics_revisions_left_out 7"]);
    }
}
