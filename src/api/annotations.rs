//! The `autoscaling.knative.dev/` annotations: which there are, what they say at run time, what admission accepts.
//!
//! Run time and admission are two different readings, as in the reference. At run time ([`Overrides::read`]) a value
//! that parses is taken, in range or not, and one that does not is as if absent. Admission ([`validate`]) also checks
//! ranges and what contradicts what, and refuses the object.
//!
//! Some annotations have an older spelling. The newer one wins wherever it is present, even when its value is
//! malformed; there is no falling back.

use crate::api::names::{
    CLASS_ANNOTATION, HPA_CLASS, KPA_CLASS, METRIC_ANNOTATION, MPA_CLASS, PROGRESS_DEADLINE_ANNOTATION,
};
use crate::api::setting::{SettingError, Severity};
use crate::api::{duration, goparse};
use crate::units::{Aggregation, Compat, Span};
use std::collections::BTreeMap;
use std::fmt;

/// Annotations of an object.
pub type Annotations = BTreeMap<String, String>;

/// What all keys here but the progress deadline's start with.
pub const PREFIX: &str = "autoscaling.knative.dev/";

/// The shortest stable window.
pub const WINDOW_MIN: Span = Span::from_seconds(6);
/// The longest stable window, scale-down delay and pod retention.
pub const WINDOW_MAX: Span = Span::from_seconds(3600);
/// The smallest target, in requests or requests per second.
pub const TARGET_MIN: f64 = 0.01;
/// The least and most of a panic window, in percent of the stable window.
pub const PANIC_WINDOW_PERCENTAGE: (f64, f64) = (1.0, 100.0);
/// The least and most of a panic threshold, in percent of the ready pods.
pub const PANIC_THRESHOLD_PERCENTAGE: (f64, f64) = (110.0, 1000.0);

/// One annotation.
#[derive(PartialEq, Eq, Debug)]
pub struct Key {
    /// Its key.
    pub canonical: &'static str,
    /// Its older spelling, if it has one.
    pub alias: Option<&'static str>,
    /// What its value is, with an article: "a window".
    noun: &'static str,
    /// What admission accepts.
    accepted: &'static str,
}

impl Key {
    /// The value that counts, with the key it stands under.
    pub fn get<'a>(&self, annotations: &'a Annotations) -> Option<(&'static str, &'a str)> {
        [Some(self.canonical), self.alias]
            .into_iter()
            .flatten()
            .find_map(|key| annotations.get(key).map(|value| (key, value.as_str())))
    }

    fn error(&self, key: &str, value: &str, problem: impl Into<String>) -> SettingError {
        SettingError {
            keys: vec![key.to_owned()],
            value: value.to_owned(),
            problem: problem.into(),
            accepted: self.accepted.to_owned(),
            way_out: "remove the annotation to get the cluster's default".to_owned(),
            severity: Severity::Error,
        }
    }

    fn is_not(&self, key: &str, value: &str) -> SettingError {
        self.error(key, value, format!("is not {}", self.noun))
    }
}

macro_rules! keys {
    ($($(#[$doc:meta])* $name:ident = $canonical:expr, $alias:expr, $noun:literal, $accepted:literal;)*) => {
        $($(#[$doc])* pub static $name: Key =
            Key { canonical: $canonical, alias: $alias, noun: $noun, accepted: $accepted };)*

        /// Every annotation the autoscaler reads.
        pub static KEYS: &[&Key] = &[$(&$name),*];
    };
}

keys! {
    /// Which autoscaler serves the revision.
    CLASS = CLASS_ANNOTATION, None, "a class",
        "\"kpa.autoscaling.knative.dev\", \"hpa.autoscaling.knative.dev\" or a class of a domain of your own";
    /// What the revision is scaled on.
    METRIC = METRIC_ANNOTATION, None, "a metric of its class",
        "\"concurrency\" or \"rps\" (with the HPA class any metric the cluster has, such as \"cpu\")";
    /// Fewest pods.
    MIN_SCALE = "autoscaling.knative.dev/min-scale", Some("autoscaling.knative.dev/minScale"), "a number of pods",
        "a whole number from 0 to 2147483647";
    /// Most pods; 0 is no limit.
    MAX_SCALE = "autoscaling.knative.dev/max-scale", Some("autoscaling.knative.dev/maxScale"), "a number of pods",
        "a whole number from 0 (no limit) to 2147483647";
    /// Pods a new revision starts with.
    INITIAL_SCALE = "autoscaling.knative.dev/initial-scale", Some("autoscaling.knative.dev/initialScale"),
        "a number of pods", "a whole number from 1 (0 where the cluster's allow-zero-initial-scale is true)";
    /// Fewest pods while there is any load.
    ACTIVATION_SCALE = "autoscaling.knative.dev/activation-scale", None, "a number of pods",
        "a whole number from 2, between min-scale and max-scale";
    /// Load one pod should carry.
    TARGET = "autoscaling.knative.dev/target", None, "a target", "a number from 0.01, such as \"100\"";
    /// How much of the target to use, in percent.
    TARGET_UTILIZATION = "autoscaling.knative.dev/target-utilization-percentage",
        Some("autoscaling.knative.dev/targetUtilizationPercentage"), "a percentage", "a number from 1 to 100";
    /// Load to keep room for.
    TARGET_BURST_CAPACITY = "autoscaling.knative.dev/target-burst-capacity",
        Some("autoscaling.knative.dev/targetBurstCapacity"), "a burst capacity",
        "a number from 0, or \"-1\" to keep the activator in the path";
    /// Length of the stable window.
    WINDOW = "autoscaling.knative.dev/window", None, "a window", "a duration from 6s to 1h0m0s, such as \"90s\"";
    /// Length of the panic window, in percent of the stable one.
    PANIC_WINDOW = "autoscaling.knative.dev/panic-window-percentage",
        Some("autoscaling.knative.dev/panicWindowPercentage"), "a percentage", "a number from 1 to 100";
    /// When panic starts, in percent of the ready pods.
    PANIC_THRESHOLD = "autoscaling.knative.dev/panic-threshold-percentage",
        Some("autoscaling.knative.dev/panicThresholdPercentage"), "a percentage", "a number from 110 to 1000";
    /// How long a lower number must have been enough.
    SCALE_DOWN_DELAY = "autoscaling.knative.dev/scale-down-delay", Some("autoscaling.knative.dev/scaleDownDelay"),
        "a delay", "a duration of whole seconds from 0s to 1h0m0s, such as \"15m\"";
    /// How long the last pod is kept after the decision to remove it.
    POD_RETENTION = "autoscaling.knative.dev/scale-to-zero-pod-retention-period",
        Some("autoscaling.knative.dev/scaleToZeroPodRetentionPeriod"), "a period",
        "a duration from 0s to 1h0m0s, such as \"5m\"";
    /// How the windows are averaged.
    AGGREGATION = "autoscaling.knative.dev/metric-aggregation-algorithm",
        Some("autoscaling.knative.dev/metricAggregationAlgorithm"), "an aggregation algorithm",
        "\"linear\" or \"weighted-exponential\"";
    /// How long an activation may take.
    PROGRESS_DEADLINE = PROGRESS_DEADLINE_ANNOTATION, None, "a deadline",
        "a duration of whole seconds, such as \"10m\"";
}

/// A value taken from an annotation.
#[derive(Clone, PartialEq, Debug)]
pub struct Override<T> {
    /// The value.
    pub value: T,
    /// The key it stood under, canonical or older.
    pub key: &'static str,
}

/// What a revision's annotations say: whatever is absent, or cannot be read, comes from the cluster's settings.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Overrides {
    /// The class, any text. Without it Ebb leaves the revision alone.
    pub class: Option<Override<String>>,
    /// The metric, any text.
    pub metric: Option<Override<String>>,
    /// Fewest pods, any sign.
    pub min_scale: Option<Override<i32>>,
    /// Most pods, any sign; 0 is no limit.
    pub max_scale: Option<Override<i32>>,
    /// Pods to start with, any sign.
    pub initial_scale: Option<Override<i32>>,
    /// Fewest pods while there is load, any sign.
    pub activation_scale: Option<Override<i32>>,
    /// Load per pod, in the unit of the metric.
    pub target: Option<Override<f64>>,
    /// How much of the target to use: a fraction, not a percentage.
    pub target_utilization: Option<Override<f64>>,
    /// Load to keep room for.
    pub target_burst_capacity: Option<Override<f64>>,
    /// Stable window, any length and sign.
    pub window: Option<Override<Span>>,
    /// Panic window in percent of the stable one.
    pub panic_window_percentage: Option<Override<f64>>,
    /// Panic threshold in percent of the ready pods.
    pub panic_threshold_percentage: Option<Override<f64>>,
    /// Scale-down delay, any length and sign.
    pub scale_down_delay: Option<Override<Span>>,
    /// How long the last pod is kept, any length and sign.
    pub pod_retention: Option<Override<Span>>,
    /// How the windows are averaged.
    pub aggregation: Option<Override<Aggregation>>,
    /// How long an activation may take, any length and sign.
    pub progress_deadline: Option<Override<Span>>,
}

impl Overrides {
    /// Reads a revision's annotations as the reference does at run time, and says what it could not use, in key order.
    ///
    /// With `compat.finite_settings` a NaN or an infinity counts as unreadable.
    pub fn read(annotations: &Annotations, compat: Compat) -> (Self, Vec<SettingError>) {
        let mut reader = Reader { annotations, compat, errors: Vec::new() };
        let overrides = Self {
            class: reader.text(&CLASS),
            metric: reader.text(&METRIC),
            min_scale: reader.int32(&MIN_SCALE),
            max_scale: reader.int32(&MAX_SCALE),
            initial_scale: reader.int32(&INITIAL_SCALE),
            activation_scale: reader.int32(&ACTIVATION_SCALE),
            target: reader.float(&TARGET),
            target_utilization: reader
                .float(&TARGET_UTILIZATION)
                .map(|Override { value, key }| Override { value: value / 100.0, key }),
            target_burst_capacity: reader.float(&TARGET_BURST_CAPACITY),
            window: reader.span(&WINDOW),
            panic_window_percentage: reader.float(&PANIC_WINDOW),
            panic_threshold_percentage: reader.float(&PANIC_THRESHOLD),
            scale_down_delay: reader.span(&SCALE_DOWN_DELAY),
            pod_retention: reader.span(&POD_RETENTION),
            aggregation: reader.read(&AGGREGATION, aggregation),
            progress_deadline: reader.span(&PROGRESS_DEADLINE),
        };
        if let class @ (KPA_CLASS | MPA_CLASS) = overrides.class()
            && !matches!(overrides.metric(), "concurrency" | "rps")
        {
            reader.refuse(&METRIC, format!("is not a metric of the class {class}, so concurrency is used"));
        }
        let mut errors = reader.errors;
        errors.sort_by(|one, other| one.keys.cmp(&other.keys));
        (overrides, errors)
    }

    /// The class, Ebb's own when there is no annotation.
    pub fn class(&self) -> &str {
        self.class.as_ref().map_or(KPA_CLASS, |class| &class.value)
    }

    /// The metric, the default of the class when there is no annotation; empty for a class nobody here knows.
    pub fn metric(&self) -> &str {
        self.metric.as_ref().map_or_else(|| default_metric(self.class()), |metric| &metric.value)
    }
}

/// The metric of a class that is not told another.
fn default_metric(class: &str) -> &'static str {
    match class {
        KPA_CLASS | MPA_CLASS => "concurrency",
        HPA_CLASS => "cpu",
        _ => "",
    }
}

/// What admission needs to know of the cluster, beside the annotations.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ValidationSettings {
    /// `pod-autoscaler-class`: the class of a revision without the annotation.
    pub default_class: String,
    /// `allow-zero-initial-scale`.
    pub allow_zero_initial_scale: bool,
    /// `max-scale-limit`; 0 is no limit.
    pub max_scale_limit: i32,
    /// Which sharp edges of the reference are kept.
    pub compat: Compat,
}

impl Default for ValidationSettings {
    fn default() -> Self {
        Self {
            default_class: KPA_CLASS.to_owned(),
            allow_zero_initial_scale: false,
            max_scale_limit: 0,
            compat: Compat::default(),
        }
    }
}

/// Checks autoscaling annotations as the reference's admission does, and reports every fault in key order.
///
/// The object is refused if any fault is an error. Warnings name annotations that have no effect: unknown ones, and
/// older spellings beside the newer one.
pub fn validate(annotations: &Annotations, settings: &ValidationSettings) -> Vec<SettingError> {
    let mut validator =
        Validator { reader: Reader { annotations, compat: settings.compat, errors: Vec::new() }, settings };
    validator.class();
    validator.metric();
    validator.scales();
    validator.initial_scale();
    validator.floats();
    validator.spans();
    validator.aggregation();
    validator.ineffective();
    let mut errors = validator.reader.errors;
    errors.sort_by(|one, other| one.keys.cmp(&other.keys));
    errors
}

/// Checks the annotation that limits how long an activation may take. The reference does so on the template of a
/// revision only, so it is not part of [`validate`].
pub fn validate_progress_deadline(annotations: &Annotations) -> Option<SettingError> {
    let (key, value) = PROGRESS_DEADLINE.get(annotations).filter(|(_, value)| !value.is_empty())?;
    let Ok(deadline) = duration::parse(value) else { return Some(PROGRESS_DEADLINE.is_not(key, value)) };
    let problem = if deadline < Span::ZERO {
        "is negative"
    } else if !duration::is_whole_seconds(deadline) {
        "is not a whole number of seconds"
    } else {
        return None;
    };
    Some(PROGRESS_DEADLINE.error(key, value, problem))
}

/// Reads one value after another and collects what cannot be read.
struct Reader<'a> {
    annotations: &'a Annotations,
    compat: Compat,
    errors: Vec<SettingError>,
}

impl Reader<'_> {
    fn read<T>(&mut self, key: &Key, parse: impl FnOnce(&str) -> Option<T>) -> Option<Override<T>> {
        let (found, text) = key.get(self.annotations)?;
        let value = parse(text);
        if value.is_none() {
            self.errors.push(key.is_not(found, text));
        }
        value.map(|value| Override { value, key: found })
    }

    fn text(&mut self, key: &Key) -> Option<Override<String>> {
        self.read(key, |text| Some(text.to_owned()))
    }

    fn int32(&mut self, key: &Key) -> Option<Override<i32>> {
        self.read(key, |text| goparse::int32(text).ok())
    }

    fn float(&mut self, key: &Key) -> Option<Override<f64>> {
        let finite = self.compat.finite_settings;
        self.read(key, |text| goparse::float(text).ok().filter(|value| !finite || value.is_finite()))
    }

    fn span(&mut self, key: &Key) -> Option<Override<Span>> {
        self.read(key, |text| duration::parse(text).ok())
    }

    /// Reports the value of `key`, which is there and can be read, but is not good.
    fn refuse(&mut self, key: &Key, problem: impl Into<String>) {
        if let Some((found, text)) = key.get(self.annotations) {
            self.errors.push(key.error(found, text, problem));
        }
    }
}

struct Validator<'a> {
    reader: Reader<'a>,
    settings: &'a ValidationSettings,
}

impl Validator<'_> {
    fn class(&mut self) {
        if let Some(class) = self.reader.text(&CLASS)
            && class.value.ends_with(".knative.dev")
            && class.value != KPA_CLASS
            && class.value != HPA_CLASS
        {
            self.reader.refuse(&CLASS, "is not a class Knative has");
        }
    }

    fn metric(&mut self) {
        let Some(metric) = self.reader.text(&METRIC) else { return };
        let class = CLASS.get(self.reader.annotations).map_or(self.settings.default_class.as_str(), |(_, class)| class);
        let known = match class {
            KPA_CLASS => matches!(metric.value.as_str(), "concurrency" | "rps"),
            HPA_CLASS => !metric.value.is_empty(),
            _ => true,
        };
        if !known {
            self.reader.refuse(&METRIC, format!("is not a metric of the class {class}"));
        }
    }

    fn scales(&mut self) {
        let min = self.pods(&MIN_SCALE);
        let max = self.pods(&MAX_SCALE);
        let (least, most) = (min.unwrap_or(0), max.unwrap_or(0));
        if most != 0 && most < least {
            self.contradiction(&MAX_SCALE, &MIN_SCALE, format!("is less than the min-scale of {least}"), |most| {
                format!("{most} or more")
            });
        }
        let limit = self.settings.max_scale_limit;
        if limit != 0 && max.is_some() {
            if most > limit {
                self.reader.refuse(&MAX_SCALE, format!("is more than the {limit} the cluster allows"));
            } else if most == 0 {
                self.reader.refuse(&MAX_SCALE, format!("is no limit, but the cluster allows {limit} at most"));
            }
        }
        if let Some(activation) = self.reader.int32(&ACTIVATION_SCALE).map(|activation| activation.value) {
            if least > activation {
                self.reader.refuse(&ACTIVATION_SCALE, format!("is less than the min-scale of {least}"));
            } else if most != 0 && most < activation {
                self.reader.refuse(&ACTIVATION_SCALE, format!("is more than the max-scale of {most}"));
            } else if activation < 2 {
                self.reader.refuse(&ACTIVATION_SCALE, "is less than 2");
            }
        }
    }

    /// A number of pods, if it is there and not negative.
    fn pods(&mut self, key: &Key) -> Option<i32> {
        let pods = self.reader.int32(key)?.value;
        if pods < 0 {
            self.reader.refuse(key, "is negative");
            return None;
        }
        Some(pods)
    }

    /// Two values that are good alone but not together.
    fn contradiction(&mut self, key: &Key, other: &Key, problem: String, accepted: impl FnOnce(&str) -> String) {
        let (Some((first, value)), Some((second, beside))) =
            (key.get(self.reader.annotations), other.get(self.reader.annotations))
        else {
            return;
        };
        self.reader.errors.push(SettingError {
            keys: vec![first.to_owned(), second.to_owned()],
            value: value.to_owned(),
            problem,
            accepted: accepted(beside),
            way_out: format!("change {second}"),
            severity: Severity::Error,
        });
    }

    fn initial_scale(&mut self) {
        let Some(initial) = self.reader.read(&INITIAL_SCALE, |text| goparse::int64(text).ok()) else { return };
        if initial.value < 0 {
            self.reader.refuse(&INITIAL_SCALE, "is negative");
        } else if initial.value == 0 && !self.settings.allow_zero_initial_scale {
            self.reader.refuse(&INITIAL_SCALE, "is not allowed by the cluster");
        }
    }

    /// Every check says what it refuses, not what it accepts: in strict compatibility a NaN is refused by none.
    fn floats(&mut self) {
        self.within(&PANIC_WINDOW, PANIC_WINDOW_PERCENTAGE);
        self.within(&PANIC_THRESHOLD, PANIC_THRESHOLD_PERCENTAGE);
        self.within(&TARGET_UTILIZATION, (1.0, 100.0));
        if self.reader.float(&TARGET).is_some_and(|target| target.value < TARGET_MIN) {
            self.reader.refuse(&TARGET, format!("is less than {TARGET_MIN}"));
        }
        if self
            .reader
            .float(&TARGET_BURST_CAPACITY)
            .is_some_and(|capacity| capacity.value < 0.0 && capacity.value != -1.0)
        {
            self.reader.refuse(&TARGET_BURST_CAPACITY, "is negative and not -1");
        }
    }

    fn within(&mut self, key: &Key, (least, most): (f64, f64)) {
        if self.reader.float(key).is_some_and(|number| number.value < least || number.value > most) {
            self.reader.refuse(key, format!("is not between {least} and {most}"));
        }
    }

    fn spans(&mut self) {
        self.span_within(&WINDOW, WINDOW_MIN, true);
        self.span_within(&SCALE_DOWN_DELAY, Span::ZERO, true);
        self.span_within(&POD_RETENTION, Span::ZERO, false);
    }

    fn span_within(&mut self, key: &Key, least: Span, whole_seconds: bool) {
        let Some(Override { value: span, .. }) = self.reader.span(key) else { return };
        if span < least || span > WINDOW_MAX {
            self.reader.refuse(key, format!("is not between {least} and {WINDOW_MAX}"));
        } else if whole_seconds && !duration::is_whole_seconds(span) {
            self.reader.refuse(key, "is not a whole number of seconds");
        }
    }

    /// Another autoscaler may have algorithms of its own, so only an explicit class of ours is held to ours.
    fn aggregation(&mut self) {
        if CLASS.get(self.reader.annotations).is_some_and(|(_, class)| class == KPA_CLASS) {
            self.reader.read(&AGGREGATION, aggregation);
        }
    }

    fn ineffective(&mut self) {
        for (key, value) in self.reader.annotations {
            let warning = if let Some(known) = KEYS.iter().find(|known| known.alias == Some(key)) {
                if !self.reader.annotations.contains_key(known.canonical) {
                    continue;
                }
                SettingError {
                    keys: vec![key.clone()],
                    value: value.clone(),
                    problem: format!("has no effect beside {}", known.canonical),
                    accepted: "only the newer spelling".to_owned(),
                    way_out: format!("remove {}", known.canonical),
                    severity: Severity::Warning,
                }
            } else if key.starts_with(PREFIX) && !KEYS.iter().any(|known| known.canonical == key) {
                SettingError {
                    keys: vec![key.clone()],
                    value: value.clone(),
                    problem: "has no effect, because Knative has no such annotation".to_owned(),
                    accepted: nearest(key).to_owned(),
                    way_out: "remove it".to_owned(),
                    severity: Severity::Warning,
                }
            } else {
                continue;
            };
            self.reader.errors.push(warning);
        }
    }
}

/// The known key spelt most like `key`.
fn nearest(key: &str) -> &'static str {
    let likeness = |known: &Key| strsim::normalized_damerau_levenshtein(&key.to_lowercase(), known.canonical);
    let most_alike = KEYS.iter().max_by(|one, other| likeness(one).total_cmp(&likeness(other)));
    most_alike.map_or(MIN_SCALE.canonical, |known| known.canonical)
}

fn aggregation(text: &str) -> Option<Aggregation> {
    match text {
        "" | "linear" => Some(Aggregation::Linear),
        "weighted-exponential" | "weightedExponential" => Some(Aggregation::WeightedExponential),
        _ => None,
    }
}

impl<T: fmt::Display> fmt::Display for Override<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.value, self.key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn annotations(pairs: &[(&str, &str)]) -> Annotations {
        pairs.iter().map(|(key, value)| (format!("{PREFIX}{key}"), (*value).to_owned())).collect()
    }

    fn check(pairs: &[(&str, &str)]) -> Vec<SettingError> {
        validate(&annotations(pairs), &ValidationSettings::default())
    }

    #[test]
    fn messages_name_key_value_what_is_accepted_and_the_way_out() {
        let table = [
            (
                &[("window", "90")][..],
                "autoscaling.knative.dev/window: \"90\" is not a window; use a duration from 6s to 1h0m0s, such as \
                 \"90s\", or remove the annotation to get the cluster's default",
            ),
            (
                &[("maxScale", "2"), ("min-scale", "5")],
                "autoscaling.knative.dev/maxScale and autoscaling.knative.dev/min-scale: \"2\" is less than the \
                 min-scale of 5; use 5 or more, or change autoscaling.knative.dev/min-scale",
            ),
            (
                &[("minscale", "1")],
                "autoscaling.knative.dev/minscale: \"1\" has no effect, because Knative has no such annotation; use \
                 autoscaling.knative.dev/min-scale, or remove it",
            ),
            (
                &[("min-scale", "1"), ("minScale", "2")],
                "autoscaling.knative.dev/minScale: \"2\" has no effect beside autoscaling.knative.dev/min-scale; use \
                 only the newer spelling, or remove autoscaling.knative.dev/min-scale",
            ),
        ];
        for (pairs, want) in table {
            let got = check(pairs);
            assert_eq!(got.iter().map(ToString::to_string).collect::<Vec<_>>(), [want]);
        }
    }

    #[test]
    fn an_unknown_key_is_a_warning_that_names_the_nearest_one() {
        for (key, nearest) in [
            ("minscale", "min-scale"),
            ("scale-to-zero-retention-period", "scale-to-zero-pod-retention-period"),
            ("targetutilization", "target-utilization-percentage"),
            ("Window", "window"),
            ("initialscale", "initial-scale"),
        ] {
            let got = check(&[(key, "1")]);
            assert_eq!((got.len(), got[0].severity), (1, Severity::Warning), "{key}");
            assert_eq!(got[0].accepted, format!("{PREFIX}{nearest}"), "{key}");
        }
        let others = Annotations::from([("example.com/minscale".to_owned(), "1".to_owned())]);
        assert_eq!(validate(&others, &ValidationSettings::default()), []);
    }

    #[test]
    fn every_fault_is_reported_in_key_order() {
        let got = check(&[("window", "5s"), ("target", "0"), ("activation-scale", "1"), ("metric", "cpu")]);
        let keys: Vec<_> = got.iter().map(|error| error.keys[0].trim_start_matches(PREFIX)).collect();
        assert_eq!(keys, ["activation-scale", "metric", "target", "window"]);
    }

    #[test]
    fn at_run_time_a_malformed_value_is_as_if_absent_and_the_newer_key_wins() {
        let read = |pairs: &[(&str, &str)]| Overrides::read(&annotations(pairs), Compat::IMPROVED);
        let (overrides, errors) = read(&[("min-scale", "two"), ("minScale", "2"), ("window", "1s"), ("target", "-1")]);
        assert_eq!(overrides.min_scale, None, "there is no falling back to the older key");
        assert_eq!(overrides.window, Some(Override { value: Span::SECOND, key: WINDOW.canonical }), "out of range");
        assert_eq!(overrides.target.map(|target| target.value), Some(-1.0), "out of range");
        assert_eq!(errors.len(), 1);
        assert_eq!(errors[0].keys, [MIN_SCALE.canonical]);

        let (overrides, errors) = read(&[("maxScale", "7"), ("targetUtilizationPercentage", "80")]);
        let max_scale = Override { value: 7, key: "autoscaling.knative.dev/maxScale" };
        assert_eq!((overrides.max_scale, errors), (Some(max_scale), vec![]));
        assert_eq!(overrides.target_utilization.map(|utilization| utilization.value), Some(0.8));
    }

    #[test]
    fn class_and_metric_have_defaults_of_their_own() {
        let of = |pairs: &[(&str, &str)]| {
            let (overrides, _) = Overrides::read(&annotations(pairs), Compat::IMPROVED);
            (overrides.class.is_some(), overrides.class().to_owned(), overrides.metric().to_owned())
        };
        assert_eq!(of(&[]), (false, KPA_CLASS.to_owned(), "concurrency".to_owned()));
        assert_eq!(of(&[("class", HPA_CLASS)]), (true, HPA_CLASS.to_owned(), "cpu".to_owned()));
        assert_eq!(of(&[("class", MPA_CLASS)]), (true, MPA_CLASS.to_owned(), "concurrency".to_owned()));
        assert_eq!(of(&[("class", "mine"), ("metric", "rps")]), (true, "mine".to_owned(), "rps".to_owned()));
        assert_eq!(of(&[("class", "mine")]).2, "");
        let (overrides, errors) = Overrides::read(&annotations(&[("metric", "latency")]), Compat::IMPROVED);
        assert_eq!((overrides.metric(), errors.len()), ("latency", 1), "taken as it is, but not without a word");
    }

    #[test]
    fn nan_and_infinities_are_refused_unless_strict() {
        for key in ["target", "panic-window-percentage", "panic-threshold-percentage", "target-burst-capacity"] {
            let nan = annotations(&[(key, "NaN")]);
            let settings = |compat| ValidationSettings { compat, ..ValidationSettings::default() };
            assert_eq!(validate(&nan, &settings(Compat::STRICT)), [], "{key}");
            assert_eq!(validate(&nan, &settings(Compat::IMPROVED)).len(), 1, "{key}");
        }
        let infinite = annotations(&[("target", "+Inf")]);
        let target = |compat| Overrides::read(&infinite, compat).0.target.map(|target| target.value);
        assert_eq!(target(Compat::STRICT), Some(f64::INFINITY));
        assert_eq!(target(Compat::IMPROVED), None);
        assert_eq!(Overrides::read(&infinite, Compat::IMPROVED).1.len(), 1);
    }

    #[test]
    fn cluster_limits_are_admission_rules() {
        let limited = ValidationSettings { max_scale_limit: 5, ..ValidationSettings::default() };
        for (value, ok) in [("5", true), ("6", false), ("0", false), ("1", true)] {
            assert_eq!(validate(&annotations(&[("max-scale", value)]), &limited).is_empty(), ok, "{value}");
        }
        assert_eq!(validate(&annotations(&[]), &limited), [], "the cluster's own max-scale is not judged here");
        let zero = annotations(&[("initial-scale", "0")]);
        let allowed = ValidationSettings { allow_zero_initial_scale: true, ..ValidationSettings::default() };
        assert_eq!(validate(&zero, &ValidationSettings::default()).len(), 1);
        assert_eq!(validate(&zero, &allowed), []);
        // Beyond 32 bits it passes admission and is ignored at run time, as in the reference.
        let large = annotations(&[("initial-scale", "2147483648")]);
        assert_eq!(validate(&large, &ValidationSettings::default()), []);
        assert_eq!(Overrides::read(&large, Compat::IMPROVED).0.initial_scale, None);
    }

    #[test]
    fn a_progress_deadline_is_whole_seconds() {
        for (value, ok) in
            [("1m3s", true), ("0s", true), ("", true), ("1m3s34ms", false), ("-1s", false), ("60", false)]
        {
            let deadline = Annotations::from([(PROGRESS_DEADLINE.canonical.to_owned(), value.to_owned())]);
            assert_eq!(validate_progress_deadline(&deadline).is_none(), ok, "{value}");
        }
    }

    proptest! {
        #[test]
        fn no_annotation_makes_reading_panic(
            values in proptest::collection::btree_map(0..KEYS.len() * 2, "[-+0-9.a-zN]{0,8}|\\PC{0,6}", 0..6),
        ) {
            let annotations: Annotations = values
                .into_iter()
                .map(|(index, value)| {
                    let key = KEYS[index / 2];
                    let name = if index % 2 == 0 { key.canonical } else { key.alias.unwrap_or("autoscaling.knative.dev/x") };
                    (name.to_owned(), value)
                })
                .collect();
            for compat in [Compat::STRICT, Compat::IMPROVED] {
                let (_, errors) = Overrides::read(&annotations, compat);
                prop_assert!(errors.is_sorted_by(|one, other| one.keys <= other.keys));
                validate(&annotations, &ValidationSettings { compat, ..ValidationSettings::default() });
            }
        }
    }
}
