//! Cluster settings plus a revision's annotations to what the engine is asked, each value with where it came from.
//!
//! The rules are the reference's: an annotation beats the ConfigMap, which beats the built-in default, and nothing is
//! checked against a range again. They come from `MakeDecider`, `MakeMetric` and `ResolveMetricTarget` of Knative
//! Serving's autoscaling reconcilers and from `ScaleBounds` of its PodAutoscaler.

use crate::api::annotations::{Override, Overrides, TARGET_MIN};
use crate::api::names::{CLASS_ANNOTATION, METRIC_ANNOTATION};
use crate::config::{Autoscaler, Deployment};
use crate::engine::zero::{ACTIVATION_ALLOWANCE, Moment, Situation};
use crate::engine::{Bounds, MetricSpec, Spec};
use crate::units::{Aggregation, ScalingMetric, Span};
use std::fmt;

/// Where a value came from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// Built in.
    Default,
    /// This key of a ConfigMap.
    ConfigMap(&'static str),
    /// This annotation.
    Annotation(&'static str),
    /// This field of the revision.
    Field(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::ConfigMap(key) => write!(f, "ConfigMap {key}"),
            Self::Annotation(key) => write!(f, "annotation {key}"),
            Self::Field(field) => write!(f, "field {field}"),
        }
    }
}

/// A value and where it came from.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Setting<T> {
    /// The value.
    pub value: T,
    /// Where it came from.
    pub origin: Origin,
}

/// Everything that is set for one revision.
#[derive(Clone, PartialEq, Debug)]
pub struct Resolved {
    /// Which autoscaler serves it.
    pub class: Setting<String>,
    /// What it is scaled on, as written; the engine takes whatever is not `rps` for concurrency.
    pub metric: Setting<String>,
    /// Fewest pods; 0 for a revision no route leads to.
    pub min_scale: Setting<i32>,
    /// Most pods; 0 is no limit.
    pub max_scale: Setting<i32>,
    /// Pods to start with.
    pub initial_scale: Setting<i32>,
    /// Fewest pods while there is any load; 0 is off.
    pub activation_scale: Setting<i32>,
    /// Load one pod can carry, in the unit of the metric.
    pub total: Setting<f64>,
    /// How much of that to use, as a fraction.
    pub utilization: Setting<f64>,
    /// Load to keep room for; -1 keeps the activator in the path.
    pub target_burst_capacity: Setting<f64>,
    /// Length of the stable window.
    pub stable_window: Setting<Span>,
    /// Length of the panic window, in percent of the stable one.
    pub panic_window_percentage: Setting<f64>,
    /// When panic starts, in percent of the ready pods.
    pub panic_threshold_percentage: Setting<f64>,
    /// How the windows are averaged.
    pub aggregation: Setting<Aggregation>,
    /// How long a lower number must have been enough.
    pub scale_down_delay: Setting<Span>,
    /// How long the last pod is kept after the decision to remove it.
    pub pod_retention: Setting<Span>,
    /// How long an activation may take, before the autoscaler's own allowance.
    pub progress_deadline: Setting<Span>,
    /// The longest wait for the activator to be in the path before the last pod goes.
    pub scale_to_zero_grace_period: Setting<Span>,
    /// Whether there may be no pods at all.
    pub enable_scale_to_zero: Setting<bool>,
    /// How many times the ready pods may grow to in one decision.
    pub max_scale_up_rate: Setting<f64>,
    /// By what the ready pods may be divided in one decision.
    pub max_scale_down_rate: Setting<f64>,
    /// Requests in flight one activator can carry.
    pub activator_capacity: Setting<f64>,
    /// Whether any route leads to the revision.
    pub reachable: bool,
}

/// Everything that is set for a revision with these annotations.
///
/// `container_concurrency` and `reachability` are fields of the PodAutoscaler. Only `Unreachable` is unreachable.
pub fn resolve(
    config: &Autoscaler,
    deployment: &Deployment,
    overrides: &Overrides,
    container_concurrency: i64,
    reachability: &str,
) -> Resolved {
    let reachable = reachability != "Unreachable";
    let cluster = Cluster { config };
    let class = Setting {
        value: overrides.class().to_owned(),
        origin: if overrides.class.is_some() { Origin::Annotation(CLASS_ANNOTATION) } else { Origin::Default },
    };
    let metric = Setting {
        value: overrides.metric().to_owned(),
        origin: if overrides.metric.is_some() { Origin::Annotation(METRIC_ANNOTATION) } else { Origin::Default },
    };
    let min_scale = if reachable {
        either(overrides.min_scale.as_ref(), cluster.of("min-scale", config.min_scale))
    } else {
        Setting { value: 0, origin: Origin::Field("reachability") }
    };
    let allowed_initial = overrides.initial_scale.as_ref().filter(|initial| {
        // Zero is not an error here, it is as if absent.
        initial.value != 0 || config.allow_zero_initial_scale
    });
    let (total, utilization) = target(&cluster, overrides, container_concurrency);
    Resolved {
        class,
        metric,
        min_scale,
        max_scale: either(overrides.max_scale.as_ref(), cluster.of("max-scale", config.max_scale)),
        initial_scale: either(allowed_initial, cluster.of("initial-scale", config.initial_scale)),
        activation_scale: either(overrides.activation_scale.as_ref(), Setting { value: 0, origin: Origin::Default }),
        total,
        utilization,
        target_burst_capacity: either(
            overrides.target_burst_capacity.as_ref(),
            cluster.of("target-burst-capacity", config.target_burst_capacity),
        ),
        stable_window: either(overrides.window.as_ref(), cluster.of("stable-window", config.stable_window)),
        panic_window_percentage: either(
            overrides.panic_window_percentage.as_ref(),
            cluster.of("panic-window-percentage", config.panic_window_percentage),
        ),
        panic_threshold_percentage: either(
            overrides.panic_threshold_percentage.as_ref(),
            cluster.of("panic-threshold-percentage", config.panic_threshold_percentage),
        ),
        aggregation: either(
            overrides.aggregation.as_ref(),
            Setting { value: Aggregation::Linear, origin: Origin::Default },
        ),
        scale_down_delay: either(
            overrides.scale_down_delay.as_ref(),
            cluster.of("scale-down-delay", config.scale_down_delay),
        ),
        pod_retention: either(
            overrides.pod_retention.as_ref(),
            cluster.of("scale-to-zero-pod-retention-period", config.scale_to_zero_pod_retention_period),
        ),
        progress_deadline: either(overrides.progress_deadline.as_ref(), deployment.progress_deadline),
        scale_to_zero_grace_period: cluster.of("scale-to-zero-grace-period", config.scale_to_zero_grace_period),
        enable_scale_to_zero: cluster.of("enable-scale-to-zero", config.enable_scale_to_zero),
        max_scale_up_rate: cluster.of("max-scale-up-rate", config.max_scale_up_rate),
        max_scale_down_rate: cluster.of("max-scale-down-rate", config.max_scale_down_rate),
        activator_capacity: cluster.of("activator-capacity", config.activator_capacity),
        reachable,
    }
}

impl Resolved {
    /// Load one pod should carry: never below 0.01, whatever the annotations say.
    pub fn target_value(&self) -> f64 {
        // Not `f64::max`, which would let the floor win over a NaN; the reference's maximum is then NaN.
        let target = self.total.value * self.utilization.value;
        if target < TARGET_MIN { TARGET_MIN } else { target }
    }

    /// What the engine counts.
    pub fn scaling_metric(&self) -> ScalingMetric {
        if self.metric.value == "rps" { ScalingMetric::Rps } else { ScalingMetric::Concurrency }
    }

    /// The panic window: whole seconds, at least one.
    pub fn panic_window(&self) -> Span {
        panic_window(self.stable_window.value, self.panic_window_percentage.value)
    }

    /// What the decider is asked.
    pub fn spec(&self) -> Spec {
        Spec {
            max_scale_up_rate: self.max_scale_up_rate.value,
            max_scale_down_rate: self.max_scale_down_rate.value,
            metric: self.scaling_metric(),
            target_value: self.target_value(),
            total_value: self.total.value,
            target_burst_capacity: self.target_burst_capacity.value,
            activator_capacity: self.activator_capacity.value,
            panic_threshold: self.panic_threshold_percentage.value / 100.0,
            stable_window: self.stable_window.value,
            scale_down_delay: self.scale_down_delay.value,
            initial_scale: self.initial_scale.value,
            activation_scale: self.activation_scale.value,
            reachable: self.reachable,
        }
    }

    /// The scale bounds in force.
    pub fn bounds(&self, initialized: bool) -> Bounds {
        Bounds {
            min_scale: self.min_scale.value,
            max_scale: self.max_scale.value,
            initial_scale: self.initial_scale.value,
            initialized,
            reachable: self.reachable,
        }
    }

    /// What the way to zero and back depends on at a moment.
    pub fn situation(&self, moment: &Moment) -> Situation {
        Situation {
            desired: moment.desired,
            enabled: self.enable_scale_to_zero.value,
            active: moment.active,
            active_for: moment.active_for,
            proxy_mode: moment.proxy_mode,
            in_path_for: moment.in_path_for,
            stable_window: self.stable_window.value,
            grace: self.scale_to_zero_grace_period.value,
            retention: if self.reachable { self.pod_retention.value } else { Span::ZERO },
            activation_timeout: self.progress_deadline.value + ACTIVATION_ALLOWANCE,
            always_in_path: self.target_burst_capacity.value == -1.0,
        }
    }

    /// What the collector is asked. With the activator always in the path no pod is scraped: it sees every request.
    pub fn metric_spec(&self) -> MetricSpec {
        MetricSpec {
            stable_window: self.stable_window.value,
            panic_window: self.panic_window(),
            scraped: self.target_burst_capacity.value != -1.0,
            aggregation: self.aggregation.value,
        }
    }
}

/// `percentage` of `stable`, rounded to whole seconds with halves away from zero, and at least one second.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "the arithmetic of the reference; windows have less than 2^53 ns"
)]
pub fn panic_window(stable: Span, percentage: f64) -> Span {
    let nanos = stable.nanos() as f64 * percentage / 100.0;
    // Beyond 64 bits the reference's platform gives the most negative number, and so one second.
    if nanos.is_nan() || nanos >= 9_223_372_036_854_775_808.0 {
        return Span::SECOND;
    }
    let second = Span::SECOND.nanos();
    let rounded = (nanos as i64).saturating_add(second / 2).div_euclid(second).saturating_mul(second);
    Span::from_nanos(rounded).max(Span::SECOND)
}

/// The load one pod can carry and how much of it to use.
fn target(cluster: &Cluster<'_>, overrides: &Overrides, container_concurrency: i64) -> (Setting<f64>, Setting<f64>) {
    let config = cluster.config;
    #[expect(clippy::cast_precision_loss, reason = "Knative limits it to 1000 by default")]
    let concurrency = Setting { value: container_concurrency as f64, origin: Origin::Field("containerConcurrency") };
    let (mut total, utilization) = if overrides.metric() == "rps" {
        let total = cluster.of("requests-per-second-target-default", config.rps_target_default);
        (total, Setting { value: Autoscaler::TARGET_UTILIZATION, origin: Origin::Default })
    } else {
        let key = "container-concurrency-target-default";
        let default = cluster.of(key, config.container_concurrency_target_default);
        let key = "container-concurrency-target-percentage";
        let utilization = cluster.of(key, config.container_concurrency_target_fraction);
        (if container_concurrency == 0 { default } else { concurrency }, utilization)
    };
    if let Some(Override { value, key }) = overrides.target {
        total = Setting { value, origin: Origin::Annotation(key) };
        if overrides.metric() == "concurrency" && container_concurrency != 0 && concurrency.value < value {
            total = concurrency;
        }
    }
    (total, either(overrides.target_utilization.as_ref(), utilization))
}

/// The annotation's value, or the other.
fn either<T: Copy>(overridden: Option<&Override<T>>, otherwise: Setting<T>) -> Setting<T> {
    overridden.map_or(otherwise, |found| Setting { value: found.value, origin: Origin::Annotation(found.key) })
}

struct Cluster<'a> {
    config: &'a Autoscaler,
}

impl Cluster<'_> {
    /// A value of `config-autoscaler`, under the key it may have been written.
    fn of<T>(&self, key: &'static str, value: T) -> Setting<T> {
        let origin = if self.config.is_written(key) { Origin::ConfigMap(key) } else { Origin::Default };
        Setting { value, origin }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::annotations::Annotations;
    use crate::units::Compat;

    /// Settings of a revision with these annotations and keys of `config-autoscaler`.
    fn resolved(
        annotations: &[(&str, &str)],
        config: &[(&str, &str)],
        concurrency: i64,
        reachability: &str,
    ) -> Resolved {
        let annotations: Annotations = annotations
            .iter()
            .map(|(key, value)| (format!("autoscaling.knative.dev/{key}"), (*value).to_owned()))
            .collect();
        let data = config.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let config = Autoscaler::parse(&data, Compat::IMPROVED).expect("good settings");
        let (overrides, _) = Overrides::read(&annotations, Compat::IMPROVED);
        resolve(&config, &Deployment::default(), &overrides, concurrency, reachability)
    }

    #[test]
    fn targets_come_from_concurrency_metric_and_annotations() {
        for (concurrency, annotations, target, total) in [
            (0, &[][..], 70.0, 100.0),
            (10, &[], 7.0, 10.0),
            // min(50, 10) = 10
            (10, &[("target", "50")], 7.0, 10.0),
            (10, &[("target", "4"), ("target-utilization-percentage", "100")], 4.0, 4.0),
            (0, &[("target", "50")], 35.0, 50.0),
            // 1 * 1% = 0.01
            (1, &[("target-utilization-percentage", "1")], 0.01, 1.0),
            (5, &[("metric", "rps")], 140.0, 200.0),
            (5, &[("metric", "rps"), ("target", "50"), ("target-utilization-percentage", "80")], 40.0, 50.0),
            // Not below 0.01, whatever stands there.
            (0, &[("target", "-3")], 0.01, -3.0),
        ] {
            let spec = resolved(annotations, &[], concurrency, "").spec();
            assert_eq!((spec.target_value, spec.total_value), (target, total), "{concurrency} {annotations:?}");
        }
    }

    #[test]
    fn the_panic_window_is_whole_seconds_of_the_stable_one() {
        for (stable, percentage, want) in [
            (60, 10.0, 6),
            (6, 10.0, 1),
            (6, 5.0, 1),
            // 1.5 s and 2.5 s are rounded away from zero.
            (15, 10.0, 2),
            (25, 10.0, 3),
            (24, 10.0, 2),
            (60, 1.0, 1),
            (61, 12.5, 8),
            (3600, 100.0, 3600),
            (-60, 10.0, 1),
            (60, f64::NAN, 1),
            (60, f64::INFINITY, 1),
        ] {
            let got = panic_window(Span::from_seconds(stable), percentage);
            assert_eq!(got, Span::from_seconds(want), "{percentage} % of {stable} s");
        }
    }

    #[test]
    fn every_setting_tells_where_it_came_from() {
        let annotations = [("window", "90s"), ("minScale", "2"), ("target", "50")];
        let got = resolved(&annotations, &[("max-scale", "0"), ("min-scale", "1")], 10, "Reachable");
        let annotation = |key| Origin::Annotation(key);
        assert_eq!(got.stable_window.origin, annotation("autoscaling.knative.dev/window"));
        assert_eq!(got.min_scale, Setting { value: 2, origin: annotation("autoscaling.knative.dev/minScale") });
        assert_eq!(got.max_scale, Setting { value: 0, origin: Origin::ConfigMap("max-scale") });
        assert_eq!(got.total, Setting { value: 10.0, origin: Origin::Field("containerConcurrency") });
        assert_eq!(got.scale_down_delay.origin, Origin::Default);
        assert_eq!(got.stable_window.origin.to_string(), "annotation autoscaling.knative.dev/window");
    }

    #[test]
    fn an_unreachable_revision_has_no_minimum() {
        let minimum = |reachability| {
            let got = resolved(&[("min-scale", "3")], &[], 0, reachability);
            (got.min_scale.value, got.spec().reachable)
        };
        assert_eq!(minimum(""), (3, true));
        assert_eq!(minimum("Reachable"), (3, true));
        assert_eq!(minimum("Unreachable"), (0, false));
    }

    #[test]
    fn an_initial_scale_of_zero_counts_only_where_it_is_allowed() {
        let initial = |config: &[(&str, &str)]| resolved(&[("initial-scale", "0")], config, 0, "").initial_scale.value;
        assert_eq!(initial(&[("initial-scale", "2")]), 2);
        assert_eq!(initial(&[("initial-scale", "2"), ("allow-zero-initial-scale", "true")]), 0);
    }

    #[test]
    fn pods_are_not_scraped_while_the_activator_is_always_in_the_path() {
        assert!(!resolved(&[("target-burst-capacity", "-1")], &[], 0, "").metric_spec().scraped);
        assert!(resolved(&[("target-burst-capacity", "0")], &[], 0, "").metric_spec().scraped);
    }
}
