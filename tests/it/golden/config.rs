//! ConfigMaps, annotations, resolution, bucket hashing.

use super::{Lines, Tally};
use ebb::api::annotations::{self, Annotations, Override, Overrides};
use ebb::api::pod_autoscaler::ObjectRef;
use ebb::api::setting::Severity;
use ebb::config::{Autoscaler, Data, Deployment, hpa};
use ebb::ownership::ring::Ring;
use ebb::units::{Aggregation, Compat, ScalingMetric, Span};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeSet;

pub(super) fn config(lines: &mut Lines, tally: &mut Tally) {
    #[derive(Deserialize)]
    struct Case {
        #[serde(rename = "case")]
        number: u64,
        data: Data,
        want: Option<Value>,
        message: Option<String>,
    }
    while let Some(Case { number, data, want, message }) = lines.next() {
        let got = Autoscaler::parse(&data, Compat::STRICT);
        let agrees = match (&got, &want) {
            (Ok(got), Some(want)) => same(&as_golden(got), want),
            (Err(_), None) => true,
            _ => false,
        };
        tally.check(agrees, || format!("config case {number}: {data:?}\n  want {want:?} {message:?}\n  got  {got:?}"));
    }
}

pub(super) fn validate(lines: &mut Lines, tally: &mut Tally) {
    #[derive(Deserialize)]
    struct Case {
        #[serde(rename = "case")]
        number: u64,
        annotations: Annotations,
        config: Data,
        ok: bool,
        #[serde(default)]
        errors: Vec<Fault>,
    }
    #[derive(Deserialize)]
    struct Fault {
        paths: Vec<String>,
    }
    /// The reference sometimes adds words to the path, and sometimes names the newer spelling where the older one was
    /// written.
    fn path(text: &str) -> String {
        let key = text.split([' ', '=']).next().unwrap_or(text);
        let known = annotations::KEYS.iter().find(|known| known.alias == Some(key));
        known.map_or(key, |known| known.canonical).to_owned()
    }
    while let Some(Case { number, annotations, config, ok, errors }) = lines.next() {
        let config = Autoscaler::parse(&config, Compat::STRICT).expect("the configurations here are valid");
        let got = annotations::validate(&annotations, &config.validation(Compat::STRICT));
        let refused = got.iter().filter(|error| error.severity == Severity::Error);
        let got_paths: BTreeSet<String> = refused.flat_map(|error| &error.keys).map(|key| path(key)).collect();
        let want_paths: BTreeSet<String> = errors.iter().flat_map(|fault| &fault.paths).map(|key| path(key)).collect();
        tally.check(got_paths.is_empty() == ok && got_paths == want_paths, || {
            format!("validate case {number}: {annotations:?}\n  want {want_paths:?}\n  got  {got:?}")
        });
    }
}

pub(super) fn resolve(lines: &mut Lines, tally: &mut Tally) {
    #[derive(Deserialize)]
    struct Case {
        #[serde(rename = "case")]
        number: u64,
        annotations: Annotations,
        config: Data,
        container_concurrency: i64,
        reachability: String,
        #[serde(flatten)]
        want: serde_json::Map<String, Value>,
    }
    while let Some(Case { number, annotations, config, container_concurrency, reachability, want }) = lines.next() {
        let config = Autoscaler::parse(&config, Compat::STRICT).expect("the configurations here are valid");
        let (overrides, _) = Overrides::read(&annotations, Compat::STRICT);
        let resolved =
            ebb::config::resolve(&config, &Deployment::default(), &overrides, container_concurrency, &reachability);
        let (spec, metric) = (resolved.spec(), resolved.metric_spec());

        let mut differs = Vec::new();
        let mut compare = |name: &str, got: Value, want: &Value| {
            if !same(&got, want) {
                differs.push(format!("  {name}: want {want}, got {got}"));
            }
        };
        compare("class", resolved.class.value.clone().into(), &want["class"]);
        compare("metric", resolved.metric.value.clone().into(), &want["metric"]);
        for (name, got) in accessors(&overrides) {
            let accessor = &want["accessors"][name];
            let value = accessor.get("value").or(accessor.get("value_ns"));
            let unset = Value::Null;
            compare(name, got, if accessor["ok"] == true { value.unwrap_or(&unset) } else { &unset });
        }
        compare("bounds.min", resolved.min_scale.value.into(), &want["scale_bounds"]["min"]);
        compare("bounds.max", resolved.max_scale.value.into(), &want["scale_bounds"]["max"]);
        compare("initial_scale", resolved.initial_scale.value.into(), &want["effective_initial_scale"]);
        compare("window", nanos(resolved.stable_window.value), &want["effective_stable_window_ns"]);
        compare("target", real(resolved.target_value()), &want["resolved_target"]);
        compare("total", real(resolved.total.value), &want["resolved_total"]);

        let decider = &want["decider"];
        let acts_as = if decider["scaling_metric"] == "rps" { ScalingMetric::Rps } else { ScalingMetric::Concurrency };
        compare("decider.metric", spec.metric.to_string().into(), &acts_as.to_string().into());
        for (name, got) in [
            ("max_scale_up_rate", real(spec.max_scale_up_rate)),
            ("max_scale_down_rate", real(spec.max_scale_down_rate)),
            ("target_value", real(spec.target_value)),
            ("total_value", real(spec.total_value)),
            ("target_burst_capacity", real(spec.target_burst_capacity)),
            ("activator_capacity", real(spec.activator_capacity)),
            ("panic_threshold", real(spec.panic_threshold)),
            ("stable_window_ns", nanos(spec.stable_window)),
            ("scale_down_delay_ns", nanos(spec.scale_down_delay)),
            ("initial_scale", spec.initial_scale.into()),
            ("activation_scale", spec.activation_scale.into()),
            ("reachable", spec.reachable.into()),
        ] {
            compare(name, got, &decider[name]);
        }

        let collector = &want["collector"];
        let weighted = collector["aggregation_algorithm"] == "weighted-exponential";
        compare("weighted", (metric.aggregation == Aggregation::WeightedExponential).into(), &weighted.into());
        compare("collector.stable", nanos(metric.stable_window), &collector["stable_window_ns"]);
        compare("collector.panic", nanos(metric.panic_window), &collector["panic_window_ns"]);

        if let Some(want) = want.get("hpa_spec") {
            let (api_version, kind) = ("apps/v1".to_owned(), "Deployment".to_owned());
            let scaled = ObjectRef { api_version, kind, name: "rev-deployment".to_owned() };
            let got =
                serde_json::to_value(hpa::spec(&resolved, &overrides, &scaled, Compat::STRICT)).expect("an object");
            compare("hpa_spec", got, want);
        }
        tally.check(differs.is_empty(), || {
            format!(
                "resolve case {number}: {annotations:?} {container_concurrency} {reachability:?}\n{}",
                differs.join("\n")
            )
        });
    }
}

pub(super) fn hash(lines: &mut Lines, tally: &mut Tally) {
    #[derive(Deserialize)]
    #[serde(tag = "op", rename_all = "snake_case")]
    enum Case {
        Buckets { total: u32, names: Vec<String> },
        Owner { key: String, total: u32, want: String },
    }
    while let Some(case) = lines.next() {
        match case {
            Case::Buckets { total, names } => {
                let ring = Ring::new(total);
                tally.check(ring.names() == names, || {
                    format!("{total} buckets: want {names:?}, got {:?}", ring.names())
                });
            }
            Case::Owner { key, total, want } => {
                let ring = Ring::new(total);
                let got = &ring.names()[ring.owner(&key)];
                tally.check(*got == want, || format!("{key:?} among {total}: want {want}, got {got}"));
            }
        }
    }
}

fn as_golden(config: &Autoscaler) -> Value {
    serde_json::json!({
        "pod_autoscaler_class": config.pod_autoscaler_class,
        "enable_scale_to_zero": config.enable_scale_to_zero,
        "allow_zero_initial_scale": config.allow_zero_initial_scale,
        "max_scale_up_rate": real(config.max_scale_up_rate),
        "max_scale_down_rate": real(config.max_scale_down_rate),
        "container_concurrency_target_fraction": real(config.container_concurrency_target_fraction),
        "container_concurrency_target_default": real(config.container_concurrency_target_default),
        "target_utilization": real(Autoscaler::TARGET_UTILIZATION),
        "rps_target_default": real(config.rps_target_default),
        "target_burst_capacity": real(config.target_burst_capacity),
        "panic_window_percentage": real(config.panic_window_percentage),
        "activator_capacity": real(config.activator_capacity),
        "panic_threshold_percentage": real(config.panic_threshold_percentage),
        "initial_scale": config.initial_scale,
        "min_scale": config.min_scale,
        "max_scale": config.max_scale,
        "max_scale_limit": config.max_scale_limit,
        "stable_window_ns": nanos(config.stable_window),
        "scale_down_delay_ns": nanos(config.scale_down_delay),
        "scale_to_zero_grace_period_ns": nanos(config.scale_to_zero_grace_period),
        "scale_to_zero_pod_retention_period_ns": nanos(config.scale_to_zero_pod_retention_period),
    })
}

/// What each accessor gives; null where it gives nothing.
fn accessors(overrides: &Overrides) -> [(&'static str, Value); 11] {
    fn value<T: Copy>(found: Option<&Override<T>>, json: impl FnOnce(T) -> Value) -> Value {
        found.map_or(Value::Null, |found| json(found.value))
    }
    [
        ("activation_scale", value(overrides.activation_scale.as_ref(), Value::from)),
        ("initial_scale", value(overrides.initial_scale.as_ref(), Value::from)),
        ("panic_threshold_percentage", value(overrides.panic_threshold_percentage.as_ref(), real)),
        ("panic_window_percentage", value(overrides.panic_window_percentage.as_ref(), real)),
        ("progress_deadline", value(overrides.progress_deadline.as_ref(), nanos)),
        ("scale_down_delay", value(overrides.scale_down_delay.as_ref(), nanos)),
        ("scale_to_zero_pod_retention", value(overrides.pod_retention.as_ref(), nanos)),
        ("target", value(overrides.target.as_ref(), real)),
        ("target_burst_capacity", value(overrides.target_burst_capacity.as_ref(), real)),
        ("target_utilization", value(overrides.target_utilization.as_ref(), real)),
        ("window", value(overrides.window.as_ref(), nanos)),
    ]
}

fn nanos(span: Span) -> Value {
    span.nanos().into()
}

/// A real as the golden files have it: a number, or a text where JSON has none.
fn real(value: f64) -> Value {
    if value.is_nan() {
        "NaN".into()
    } else if value.is_infinite() {
        if value > 0.0 { "+Inf".into() } else { "-Inf".into() }
    } else {
        value.into()
    }
}

/// Equality of JSON where 100 and 100.0 are the same number. Both sides hold every object key or lack it.
fn same(got: &Value, want: &Value) -> bool {
    match (got, want) {
        (Value::Number(got), Value::Number(want)) => match (got.as_i64(), want.as_i64()) {
            (Some(got), Some(want)) => got == want,
            _ => got.as_f64() == want.as_f64(),
        },
        (Value::Object(got), Value::Object(want)) => {
            got.len() == want.len()
                && got.iter().all(|(key, value)| want.get(key).is_some_and(|want| same(value, want)))
        }
        (Value::Array(got), Value::Array(want)) => {
            got.len() == want.len() && got.iter().zip(want).all(|(got, want)| same(got, want))
        }
        _ => got == want,
    }
}
