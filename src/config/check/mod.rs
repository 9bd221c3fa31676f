//! A revision's settings judged: what counts and where it came from, what Knative refuses, and what it accepts although
//! its author can hardly have meant it.
//!
//! [`judge`] takes what a template or a revision says and the cluster's settings; [`judge_cluster`] takes the cluster's
//! settings alone, so that a trap that lies in a ConfigMap is told once and not for every revision. Nothing here reads
//! files or a cluster, and nothing is decided: the same rules the autoscaler follows are only looked at.
//!
//! Every [`Finding`] says why in one sentence with the numbers, and what to do about it in another.

mod settings;
mod traps;

pub use settings::{Entry, Quantity, ServedBy};

use crate::api::annotations::{Annotations, KEYS, Key, Overrides, validate, validate_progress_deadline};
use crate::api::names::{CLASS_ANNOTATION, HPA_CLASS, KPA_CLASS, MPA_CLASS};
use crate::api::setting::{SettingError, Severity};
use crate::config::{Autoscaler, ConfigError, Data, Defaults, Deployment, Origin, Resolved, Setting, autoscaler};
use crate::config::{defaults, resolve};
use crate::units::{Compat, Span};
use k8s_openapi::api::core::v1::Container;
use std::fmt::Display;

/// What is judged with: the cluster's own settings.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Cluster {
    /// `config-autoscaler`.
    pub autoscaler: Autoscaler,
    /// `config-deployment`.
    pub deployment: Deployment,
    /// `config-defaults`.
    pub defaults: Defaults,
}

/// What is judged: the template of a Service or Configuration, a Revision, or a PodAutoscaler.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// Its annotations: the template's, or the object's own.
    pub annotations: &'a Annotations,
    /// Its labels, likewise.
    pub labels: &'a Annotations,
    /// Annotations and labels of the Service or Configuration around the template.
    pub around: Option<(&'a Annotations, &'a Annotations)>,
    /// What the path of each of its fields begins with: `spec.template.` or nothing.
    pub prefix: &'static str,
    /// Its containers; none where they are not known.
    pub containers: &'a [Container],
    /// `containerConcurrency`, if it says.
    pub container_concurrency: Option<i64>,
    /// `Reachable`, `Unreachable`, or empty where that is not known.
    pub reachability: &'a str,
    /// How long a pod takes to become ready, where somebody knows.
    pub startup: Option<Span>,
    /// That it has pods now, where that is known.
    pub awake: Option<Awake>,
}

/// A revision that has pods.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Awake {
    /// For how long it has not been at zero.
    pub since: Span,
    /// How many pods it has.
    pub pods: i32,
}

/// What there is to say about one [`Subject`].
#[derive(Clone, PartialEq, Debug)]
pub struct Judgement {
    /// Which autoscaler serves it.
    pub served_by: ServedBy,
    /// Every setting in force, with where it came from.
    pub settings: Vec<Entry>,
    /// What is wrong or a trap.
    pub findings: Vec<Finding>,
}

/// One thing that is refused, or accepted and a trap.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// Its lasting name, such as `target-above-limit`.
    pub rule: &'static str,
    /// The ConfigMap it lies in; none when it lies in the subject.
    pub map: Option<&'static str>,
    /// Where: the path of a field, as `spec.template.metadata.annotations[KEY]`.
    pub path: String,
    /// Which key or field, as it was written.
    pub key: String,
    /// Its value, as it was written.
    pub value: String,
    /// Why it is here; completes the sentence "`key` `value`: …".
    pub why: String,
    /// The way out.
    pub mend: String,
}

/// Judges one subject.
pub fn judge(subject: &Subject<'_>, cluster: &Cluster) -> Judgement {
    Case::new(*subject, cluster, false).judge()
}

/// Judges the cluster's settings by themselves, as they are for a revision that sets nothing. `startup` is how long pods
/// take to become ready, where somebody knows.
pub fn judge_cluster(cluster: &Cluster, startup: Option<Span>) -> Vec<Finding> {
    let nothing = Annotations::new();
    let subject = Subject {
        annotations: &nothing,
        labels: &nothing,
        around: None,
        prefix: "",
        containers: &[],
        container_concurrency: None,
        reachability: "",
        startup,
        awake: None,
    };
    Case::new(subject, cluster, true).judge().findings
}

/// The faults of a ConfigMap that could not be read, and keys of it that nobody reads.
pub fn judge_map(map: &str, data: &Data, error: Option<&ConfigError>) -> Vec<Finding> {
    let known: &[&str] = match map {
        autoscaler::NAME => &autoscaler::KEYS,
        defaults::NAME => &defaults::KEYS,
        _ => &[],
    };
    let faults = error.into_iter().flat_map(|error| &error.problems).map(|problem| {
        let key = problem.keys.first().map_or("", String::as_str);
        from_error("invalid-value", format!("data[{key}]"), problem)
    });
    let unknown =
        data.iter().filter(|(key, _)| !known.is_empty() && !key.starts_with('_') && !known.contains(&key.as_str()));
    let unknown = unknown.map(|(key, value)| {
        let alike = |known: &&&str| strsim::normalized_damerau_levenshtein(&key.to_lowercase(), known);
        let nearest = known.iter().max_by(|one, other| alike(one).total_cmp(&alike(other)));
        Finding {
            severity: Severity::Warning,
            rule: "unknown-key",
            map: None,
            path: format!("data[{key}]"),
            key: key.clone(),
            value: value.clone(),
            why: format!("nobody reads it, because {map} has no such key"),
            mend: format!("write {}, or remove it", nearest.unwrap_or(&"a known key")),
        }
    });
    faults.chain(unknown).collect()
}

fn from_error(rule: &'static str, path: String, error: &SettingError) -> Finding {
    Finding {
        severity: error.severity,
        rule,
        map: None,
        path,
        key: error.keys.join(" and "),
        value: error.value.clone(),
        why: error.problem.clone(),
        mend: format!("use {}, or {}", error.accepted, error.way_out),
    }
}

/// A value that a finding is about, and where it came from.
struct Blamed {
    origin: Origin,
    value: String,
}

fn blame<T: Display>(setting: &Setting<T>) -> Blamed {
    Blamed { origin: setting.origin, value: setting.value.to_string() }
}

/// One subject under judgement.
struct Case<'a> {
    subject: Subject<'a>,
    cluster: &'a Cluster,
    /// Whether the cluster's settings themselves are the subject.
    cluster_itself: bool,
    /// The subject's annotations, with what Knative's webhook adds to a PodAutoscaler.
    annotations: Annotations,
    overrides: Overrides,
    resolved: Resolved,
    container_concurrency: Setting<i64>,
    findings: Vec<Finding>,
}

impl<'a> Case<'a> {
    fn new(subject: Subject<'a>, cluster: &'a Cluster, cluster_itself: bool) -> Self {
        let config = &cluster.autoscaler;
        let mut annotations = subject.annotations.clone();
        let own_class = annotations.contains_key(CLASS_ANNOTATION);
        if !own_class {
            annotations.insert(CLASS_ANNOTATION.to_owned(), config.pod_autoscaler_class.clone());
        }
        let (overrides, _) = Overrides::read(&annotations, Compat::IMPROVED);
        let container_concurrency =
            subject.container_concurrency.map_or(cluster.defaults.container_concurrency, |value| Setting {
                value,
                origin: Origin::Field("containerConcurrency"),
            });
        let mut resolved =
            resolve(config, &cluster.deployment, &overrides, container_concurrency.value, subject.reachability);
        if !own_class {
            let key = "pod-autoscaler-class";
            resolved.class.origin = if config.is_written(key) { Origin::ConfigMap(key) } else { Origin::Default };
        }
        if resolved.total.origin == Origin::Field("containerConcurrency") {
            resolved.total.origin = container_concurrency.origin;
        }
        Self {
            subject,
            cluster,
            cluster_itself,
            annotations,
            overrides,
            resolved,
            container_concurrency,
            findings: Vec::new(),
        }
    }

    fn judge(mut self) -> Judgement {
        if !self.cluster_itself {
            self.refused();
            self.misplaced();
        }
        let served_by = self.served_by();
        match served_by {
            ServedBy::Kpa => self.traps(),
            ServedBy::Mpa => {
                self.mpa_class();
                self.traps();
            }
            ServedBy::Hpa => self.traps_of_hpa(),
            ServedBy::Unknown => self.unknown_class(),
        }
        Judgement { served_by, settings: self.entries(served_by), findings: self.findings }
    }

    fn served_by(&self) -> ServedBy {
        match self.resolved.class.value.as_str() {
            KPA_CLASS => ServedBy::Kpa,
            MPA_CLASS => ServedBy::Mpa,
            HPA_CLASS => ServedBy::Hpa,
            _ => ServedBy::Unknown,
        }
    }

    /// What Knative's admission refuses or knows to be without effect, and what passes it and is ignored all the same.
    fn refused(&mut self) {
        // The webhook is Knative's own, sharp edges included; who reads the value afterwards is Ebb.
        let settings = self.cluster.autoscaler.validation(Compat::STRICT);
        let mut errors = validate(self.subject.annotations, &settings);
        errors.extend(validate_progress_deadline(self.subject.annotations));
        // Not every Knative refuses it; the warning about it says which do.
        errors.retain(|error| !error.keys.iter().any(|key| key == CLASS_ANNOTATION) || error.value != MPA_CLASS);
        let (_, unread) = Overrides::read(&self.annotations, Compat::IMPROVED);
        for error in &errors {
            let is_alias = |key: &Key| key.alias == error.keys.first().map(String::as_str);
            let rule = match error.severity {
                Severity::Error => "invalid-value",
                Severity::Warning if KEYS.iter().any(|key| is_alias(key)) => "shadowed-annotation",
                Severity::Warning => "unknown-annotation",
            };
            self.findings.push(from_error(rule, self.annotation_path(&error.keys[0]), error));
        }
        for error in unread.iter().filter(|error| !errors.iter().any(|known| known.keys.contains(&error.keys[0]))) {
            self.findings.push(Finding {
                severity: Severity::Warning,
                why: format!("{}; Knative's admission accepts it, and it is then ignored", error.problem),
                ..from_error("ignored-value", self.annotation_path(&error.keys[0]), error)
            });
        }
    }

    fn annotation_path(&self, key: &str) -> String {
        format!("{}metadata.annotations[{key}]", self.subject.prefix)
    }

    /// Warns about the first of these values that the subject has written itself. When it has none of them, the trap is
    /// the cluster's, and is told when that is judged.
    fn warn(&mut self, rule: &'static str, blamed: &[Blamed], why: String, mend: String) {
        let place = blamed.iter().find_map(|Blamed { origin, value }| match *origin {
            Origin::Annotation(key) => {
                let value = self.subject.annotations.get(key)?;
                Some((None, self.annotation_path(key), key, value.clone()))
            }
            Origin::Field(field) if !self.cluster_itself => {
                Some((None, format!("{}spec.{field}", self.subject.prefix), field, value.clone()))
            }
            Origin::ConfigMap(key) if self.cluster_itself => {
                Some((Some(map_of(key)), format!("data[{key}]"), key, value.clone()))
            }
            Origin::Field(_) | Origin::ConfigMap(_) | Origin::Default => None,
        });
        // What is refused never comes to be a trap.
        let is_refused =
            |path: &str| self.findings.iter().any(|known| known.severity == Severity::Error && known.path == path);
        if let Some((map, path, key, value)) = place
            && !is_refused(&path)
        {
            let (severity, key) = (Severity::Warning, key.to_owned());
            self.findings.push(Finding { severity, rule, map, path, key, value, why, mend });
        }
    }

    /// Warns about an annotation by itself.
    fn warn_annotation(&mut self, rule: &'static str, key: &str, why: String, mend: String) {
        let value = self.subject.annotations.get(key).cloned().unwrap_or_default();
        let (severity, path, key) = (Severity::Warning, self.annotation_path(key), key.to_owned());
        self.findings.push(Finding { severity, rule, map: None, path, key, value, why, mend });
    }
}

/// The ConfigMap that has a key; no two of them have the same.
fn map_of(key: &str) -> &'static str {
    if autoscaler::KEYS.contains(&key) {
        autoscaler::NAME
    } else if defaults::KEYS.contains(&key) {
        defaults::NAME
    } else {
        crate::config::deployment::NAME
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::annotations::PREFIX;
    use crate::engine::{Decider, Observed};
    use crate::units::{Timestamp, saturating_i32};
    use proptest::prelude::*;

    fn subject<'a>(annotations: &'a Annotations, labels: &'a Annotations, limit: Option<i64>) -> Subject<'a> {
        Subject {
            annotations,
            labels,
            around: None,
            prefix: "spec.template.",
            containers: &[],
            container_concurrency: limit,
            reachability: "",
            startup: None,
            awake: None,
        }
    }

    fn annotated(pairs: impl IntoIterator<Item = (&'static str, String)>) -> Annotations {
        pairs.into_iter().map(|(key, value)| (format!("{PREFIX}{key}"), value)).collect()
    }

    #[test]
    fn a_trap_of_the_cluster_is_not_told_of_every_revision() {
        let data = Data::from([("target-burst-capacity".to_owned(), "-1".to_owned())]);
        let autoscaler = Autoscaler::parse(&data, Compat::IMPROVED).expect("good settings");
        let cluster = Cluster { autoscaler, ..Cluster::default() };
        let nothing = Annotations::new();
        assert_eq!(judge(&subject(&nothing, &nothing, Some(10)), &cluster).findings, []);
        let told = judge_cluster(&cluster, None);
        let places: Vec<_> = told.iter().map(|found| (found.rule, found.map, found.path.as_str())).collect();
        assert_eq!(places, [("activator-always-in-path", Some("config-autoscaler"), "data[target-burst-capacity]")]);
        assert_eq!(judge_cluster(&Cluster::default(), None), []);
    }

    proptest! {
        /// The activator leaves the path with exactly as many pods as the engine's own burst rule says.
        #[test]
        fn the_activator_leaves_when_the_engine_says_so(
            burst in 1u32..5000, target in 1u32..300, percent in 1u32..100, busy: bool,
        ) {
            let annotations = annotated([
                ("target-burst-capacity", burst.to_string()),
                ("target", target.to_string()),
                ("target-utilization-percentage", percent.to_string()),
            ]);
            let (nothing, cluster) = (Annotations::new(), Cluster::default());
            let case = Case::new(subject(&annotations, &nothing, None), &cluster, false);
            let (idle_at, busy_at) = case.leaves_path_at();
            let pods = saturating_i32(if busy { busy_at } else { idle_at }.expect("there is room"));
            let spec = case.resolved.spec();
            let excess = |pods: i32| {
                // Half a millionth less load, since the last bit of a float is nobody's request.
                let load = if busy { f64::from(pods) * spec.target_value - 5e-7 } else { 0.0 };
                let at = Timestamp::from_seconds(1000);
                let observed = Observed { stable: load, panic: load };
                Decider::new(case.resolved.spec(), pods, at, Compat::IMPROVED).decide(at, pods, observed).excess_burst
            };
            prop_assert!(excess(pods) >= 0, "{pods} pods: {}", excess(pods));
            prop_assert!(pods == 1 || excess(pods - 1) < 0, "{} pods: {}", pods - 1, excess(pods - 1));
        }

        #[test]
        fn nothing_written_makes_judging_panic(
            values in proptest::collection::btree_map(0..KEYS.len() * 2, "[-+0-9.a-zN]{0,8}|\\PC{0,6}", 0..8),
            limit in proptest::option::of(any::<i64>()),
        ) {
            let annotations: Annotations = values
                .into_iter()
                .map(|(index, value)| {
                    let key = KEYS[index / 2];
                    (if index % 2 == 0 { key.canonical } else { key.alias.unwrap_or("knative.dev/x") }.to_owned(), value)
                })
                .collect();
            for finding in judge(&subject(&annotations, &annotations, limit), &Cluster::default()).findings {
                prop_assert!(!finding.why.is_empty() && !finding.mend.is_empty(), "{finding:?}");
            }
        }
    }
}
