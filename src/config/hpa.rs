//! The HorizontalPodAutoscaler that stands for a revision of the HPA class. Another component of Knative writes those
//! objects; this says what it writes, for `ebb check`.

use crate::api::annotations::Overrides;
use crate::api::pod_autoscaler::ObjectRef;
use crate::config::Resolved;
use crate::units::Compat;
use k8s_openapi::api::autoscaling::v2::{
    CrossVersionObjectReference, HPAScalingRules, HorizontalPodAutoscalerBehavior, HorizontalPodAutoscalerSpec,
    MetricIdentifier, MetricSpec, MetricTarget, PodsMetricSource, ResourceMetricSource,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// The spec of the HorizontalPodAutoscaler for `target`, by the rules of Knative's `MakeHPA`.
pub fn spec(
    resolved: &Resolved,
    overrides: &Overrides,
    target: &ObjectRef,
    compat: Compat,
) -> HorizontalPodAutoscalerSpec {
    let metrics = overrides.target.as_ref().map(|load| vec![metric(&resolved.metric.value, load.value, compat)]);
    let behavior = overrides.window.as_ref().map(|window| {
        let seconds = compat.to_i32(window.value.seconds_f64());
        let rules = HPAScalingRules { stabilization_window_seconds: Some(seconds), ..Default::default() };
        HorizontalPodAutoscalerBehavior { scale_down: Some(rules.clone()), scale_up: Some(rules) }
    });
    let max = resolved.max_scale.value;
    HorizontalPodAutoscalerSpec {
        behavior,
        max_replicas: if max == 0 { i32::MAX } else { max },
        metrics,
        min_replicas: Some(resolved.min_scale.value).filter(|min| *min > 0),
        scale_target_ref: CrossVersionObjectReference {
            api_version: Some(target.api_version.clone()),
            kind: target.kind.clone(),
            name: target.name.clone(),
        },
    }
}

/// CPU is a percentage of the request, memory is in mebibytes, and anything else is the cluster's own metric.
fn metric(name: &str, target: f64, compat: Compat) -> MetricSpec {
    let resource = |target: MetricTarget| MetricSpec {
        type_: "Resource".to_owned(),
        resource: Some(ResourceMetricSource { name: name.to_owned(), target }),
        ..Default::default()
    };
    let average = |value: String| MetricTarget {
        type_: "AverageValue".to_owned(),
        average_value: Some(Quantity(value)),
        ..Default::default()
    };
    match name {
        "cpu" => resource(MetricTarget {
            type_: "Utilization".to_owned(),
            average_utilization: Some(compat.to_i32(target.ceil())),
            ..Default::default()
        }),
        "memory" => resource(average(binary_quantity(whole(target, compat).wrapping_mul(1024 * 1024)))),
        _ => MetricSpec {
            type_: "Pods".to_owned(),
            pods: Some(PodsMetricSource {
                metric: MetricIdentifier { name: name.to_owned(), selector: None },
                target: average(decimal_quantity(whole(target, compat))),
            }),
            ..Default::default()
        },
    }
}

/// A float as a 64-bit integer, fraction cut off: out of range the minimum, as on the reference's platform, or
/// saturated.
#[expect(clippy::cast_possible_truncation, reason = "`as` saturates, and that is wanted")]
fn whole(value: f64, compat: Compat) -> i64 {
    let in_range = (-9_223_372_036_854_775_808.0..9_223_372_036_854_775_808.0).contains(&value);
    if in_range || compat.saturate { value as i64 } else { i64::MIN }
}

/// As Kubernetes writes a quantity of decimal form: 1500, 2k, 3M.
fn decimal_quantity(value: i64) -> String {
    with_suffix(value, 1000, ["", "k", "M", "G", "T", "P", "E"])
}

/// As Kubernetes writes a quantity of binary form: 512, 4Ki, 70Mi.
fn binary_quantity(value: i64) -> String {
    if value.unsigned_abs() < 1024 {
        decimal_quantity(value)
    } else {
        with_suffix(value, 1024, ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"])
    }
}

/// The shortest form: the largest suffix that leaves a whole number.
fn with_suffix(mut value: i64, step: i64, suffixes: [&str; 7]) -> String {
    let mut suffix = 0;
    while value != 0 && value % step == 0 && suffix + 1 < suffixes.len() {
        value /= step;
        suffix += 1;
    }
    format!("{value}{}", suffixes[suffix])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_written_as_kubernetes_writes_them() {
        for (value, decimal, binary) in [
            (0, "0", "0"),
            (1000, "1k", "1k"),
            (1024, "1024", "1Ki"),
            (73_400_320, "73400320", "70Mi"),
            (1 << 60, "1152921504606846976", "1Ei"),
            (-2_000_000, "-2M", "-2000000"),
            (-2048, "-2048", "-2Ki"),
        ] {
            assert_eq!((decimal_quantity(value), binary_quantity(value)), (decimal.to_owned(), binary.to_owned()));
        }
    }

    #[test]
    fn a_target_beyond_64_bits_saturates_unless_strict() {
        let value = |compat| metric("rps", 1e300, compat).pods.and_then(|pods| pods.target.average_value);
        assert_eq!(value(Compat::STRICT), Some(Quantity(i64::MIN.to_string())));
        assert_eq!(value(Compat::IMPROVED), Some(Quantity(i64::MAX.to_string())));
    }
}
