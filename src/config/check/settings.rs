//! The settings in force, one row each.

use super::{Case, map_of};
use crate::api::pod_autoscaler::ObjectRef;
use crate::config::{Origin, Setting, hpa};
use crate::units::{Aggregation, Compat, ScalingMetric, Span, round_to_millionth, saturating_i32};
use std::fmt;

/// Which autoscaler serves a revision.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ServedBy {
    /// This one, or Knative's of the same class.
    Kpa,
    /// This one where it is told to, or Alibaba Cloud's of that class.
    Mpa,
    /// Kubernetes' HorizontalPodAutoscaler, which another component of Knative makes.
    Hpa,
    /// None that Knative has.
    Unknown,
}

/// One setting in force.
#[derive(Clone, PartialEq, Debug)]
pub struct Entry {
    /// Its name, such as `stable-window`.
    pub name: &'static str,
    /// Its value.
    pub value: Quantity,
    /// Where it came from; none when it follows from others.
    pub origin: Option<Origin>,
    /// What the value means where that is not plain, such as "no limit".
    pub note: String,
}

impl Entry {
    /// The ConfigMap it came from, if it did.
    pub fn map(&self) -> Option<&'static str> {
        match self.origin {
            Some(Origin::ConfigMap(key)) => Some(map_of(key)),
            _ => None,
        }
    }
}

/// A value with its unit.
#[derive(Clone, PartialEq, Debug)]
pub enum Quantity {
    /// A word.
    Text(String),
    /// Yes or no.
    Switch(bool),
    /// A length of time.
    Span(Span),
    /// A number of something.
    Number(f64, &'static str),
}

impl Quantity {
    /// The unit of the number; empty when it has none.
    pub fn unit(&self) -> &'static str {
        match self {
            Self::Text(_) | Self::Switch(_) => "",
            Self::Span(_) => "s",
            Self::Number(_, unit) => unit,
        }
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Switch(on) => on.fmt(f),
            Self::Span(span) => span.fmt(f),
            Self::Number(number, "") => write!(f, "{}", round_to_millionth(*number)),
            Self::Number(number, unit) => write!(f, "{} {unit}", round_to_millionth(*number)),
        }
    }
}

impl Case<'_> {
    pub(super) fn entries(&self, served_by: ServedBy) -> Vec<Entry> {
        let resolved = &self.resolved;
        let mut rows = Rows(Vec::new());
        rows.add("class", &resolved.class, |class| Quantity::Text(class.clone()));
        match served_by {
            ServedBy::Kpa | ServedBy::Mpa => self.entries_of_kpa(&mut rows),
            ServedBy::Hpa => self.entries_of_hpa(&mut rows),
            ServedBy::Unknown => {
                rows.add("initial-scale", &resolved.initial_scale, |number| pods(*number));
                rows.add("progress-deadline", &resolved.progress_deadline, |span| Quantity::Span(*span));
            }
        }
        rows.0
    }

    fn entries_of_kpa(&self, rows: &mut Rows) {
        let resolved = &self.resolved;
        let load = load_unit(resolved.scaling_metric());
        let number = |unit: &'static str| move |number: &f64| Quantity::Number(*number, unit);
        let span = |span: &Span| Quantity::Span(*span);
        rows.add("metric", &resolved.metric, |metric| Quantity::Text(metric.clone()));
        rows.add("container-concurrency", &self.container_concurrency, |limit| {
            Quantity::Number(saturating_f64(*limit), "requests in flight")
        });
        rows.note_if(self.container_concurrency.value == 0, "no limit");
        rows.add("target", &resolved.total, number(load));
        rows.add("target-utilization", &resolved.utilization, |fraction| Quantity::Number(fraction * 100.0, "%"));
        rows.derive("target in force", Quantity::Number(resolved.target_value(), load), "target × utilization");
        rows.add("min-scale", &resolved.min_scale, |number| pods(*number));
        rows.add("max-scale", &resolved.max_scale, |number| pods(*number));
        rows.note_if(resolved.max_scale.value == 0, "no limit");
        rows.add("initial-scale", &resolved.initial_scale, |number| pods(*number));
        rows.add("activation-scale", &resolved.activation_scale, |number| pods(*number));
        rows.note_if(resolved.activation_scale.value == 0, "off");
        rows.add("stable-window", &resolved.stable_window, span);
        rows.add("panic-window-percentage", &resolved.panic_window_percentage, number("%"));
        rows.derive("panic window", Quantity::Span(resolved.panic_window()), "that part of the stable window");
        rows.add("panic-threshold-percentage", &resolved.panic_threshold_percentage, number("%"));
        rows.add("aggregation", &resolved.aggregation, |aggregation| {
            Quantity::Text(
                match aggregation {
                    Aggregation::Linear => "linear",
                    Aggregation::WeightedExponential => "weighted-exponential",
                }
                .to_owned(),
            )
        });
        rows.add("max-scale-up-rate", &resolved.max_scale_up_rate, number(""));
        rows.add("max-scale-down-rate", &resolved.max_scale_down_rate, number(""));
        rows.add("scale-down-delay", &resolved.scale_down_delay, span);
        rows.add("enable-scale-to-zero", &resolved.enable_scale_to_zero, |on| Quantity::Switch(*on));
        rows.add("scale-to-zero-grace-period", &resolved.scale_to_zero_grace_period, span);
        rows.add("scale-to-zero-pod-retention-period", &resolved.pod_retention, span);
        rows.derive("to zero", Quantity::Text(self.to_zero()), "after the last request");
        rows.add("target-burst-capacity", &resolved.target_burst_capacity, number(load));
        rows.derive("activator in the path", Quantity::Text(self.activator_path()), "by the burst capacity");
        rows.add("activator-capacity", &resolved.activator_capacity, number("requests in flight"));
        rows.add("progress-deadline", &resolved.progress_deadline, span);
    }

    fn entries_of_hpa(&self, rows: &mut Rows) {
        let resolved = &self.resolved;
        let spec = hpa::spec(resolved, &self.overrides, &ObjectRef::default(), Compat::IMPROVED);
        rows.add("metric", &resolved.metric, |metric| Quantity::Text(metric.clone()));
        if self.overrides.target.is_some() {
            rows.add("target", &resolved.total, |target| Quantity::Number(*target, hpa_unit(&resolved.metric.value)));
        } else {
            rows.derive("target", Quantity::Number(80.0, "% of the CPU request"), "Kubernetes' default");
        }
        rows.add("min-scale", &resolved.min_scale, |_| pods(spec.min_replicas.unwrap_or(1)));
        rows.note_if(spec.min_replicas.is_none(), "never zero");
        rows.add("max-scale", &resolved.max_scale, |number| pods(*number));
        rows.note_if(resolved.max_scale.value == 0, "no limit");
        rows.add("initial-scale", &resolved.initial_scale, |number| pods(*number));
        if let Some(window) = &self.overrides.window {
            let origin = Origin::Annotation(window.key);
            rows.add("stabilization-window", &Setting { value: window.value, origin }, |span| Quantity::Span(*span));
        }
        rows.add("progress-deadline", &resolved.progress_deadline, |span| Quantity::Span(*span));
    }

    /// When the last pod goes.
    fn to_zero(&self) -> String {
        let resolved = &self.resolved;
        if !resolved.enable_scale_to_zero.value {
            return "never: enable-scale-to-zero is false".to_owned();
        }
        if resolved.min_scale.value > 0 {
            return "never: min-scale is above 0".to_owned();
        }
        // Neither counts for a revision no route leads to.
        let (delay, retention) = if resolved.reachable {
            (resolved.scale_down_delay.value, resolved.pod_retention.value)
        } else {
            (Span::ZERO, Span::ZERO)
        };
        let idle = resolved.stable_window.value + delay;
        let soonest = idle + retention;
        let latest = idle + retention.max(resolved.scale_to_zero_grace_period.value);
        if soonest == latest { soonest.to_string() } else { format!("{soonest} to {latest}") }
    }

    fn activator_path(&self) -> String {
        let burst = self.resolved.target_burst_capacity.value;
        if burst < 0.0 {
            return "always".to_owned();
        }
        if burst == 0.0 {
            return "at zero only".to_owned();
        }
        let up_to = |pods: Option<f64>| match pods {
            Some(1.0) => "at zero only".to_owned(),
            Some(pods) => format!("up to {}", count(pods - 1.0)),
            None => "always".to_owned(),
        };
        let (idle, busy) = self.leaves_path_at();
        if idle == busy { up_to(idle) } else { format!("idle {}, at target load {}", up_to(idle), up_to(busy)) }
    }

    /// With how many ready pods the activator leaves the path: without load, and when each carries its target. None is
    /// never.
    pub(super) fn leaves_path_at(&self) -> (Option<f64>, Option<f64>) {
        let resolved = &self.resolved;
        let burst = resolved.target_burst_capacity.value;
        // Excess is floor(pods * total - burst - load), so this many pods make it 0. Without the rounding 211 / (100 - 70)
        // could come to a pod more by the last bit of a float.
        let at = |room: f64| (room > 0.0).then(|| round_to_millionth(burst / room).ceil().max(1.0));
        (at(resolved.total.value), at(resolved.total.value - resolved.target_value()))
    }
}

/// The rows so far.
struct Rows(Vec<Entry>);

impl Rows {
    fn add<T>(&mut self, name: &'static str, setting: &Setting<T>, value: impl FnOnce(&T) -> Quantity) {
        let (value, origin) = (value(&setting.value), Some(setting.origin));
        self.0.push(Entry { name, value, origin, note: String::new() });
    }

    fn derive(&mut self, name: &'static str, value: Quantity, note: &str) {
        self.0.push(Entry { name, value, origin: None, note: note.to_owned() });
    }

    fn note_if(&mut self, holds: bool, note: &str) {
        if let Some(last) = self.0.last_mut().filter(|_| holds) {
            note.clone_into(&mut last.note);
        }
    }
}

/// What a load is counted in.
pub(super) fn load_unit(metric: ScalingMetric) -> &'static str {
    match metric {
        ScalingMetric::Concurrency => "requests in flight",
        ScalingMetric::Rps => "requests per second",
    }
}

fn hpa_unit(metric: &str) -> &'static str {
    match metric {
        "cpu" => "% of the CPU request",
        "memory" => "MiB",
        _ => "",
    }
}

/// `1 pod`, `3 pods`.
pub(super) fn count(pods: f64) -> String {
    if pods == 1.0 { "1 pod".to_owned() } else { format!("{} pods", saturating_i32(pods)) }
}

fn pods(pods: i32) -> Quantity {
    Quantity::Number(f64::from(pods), if pods == 1 { "pod" } else { "pods" })
}

#[expect(clippy::cast_precision_loss, reason = "for display; Knative limits it to 1000 by default")]
pub(super) fn saturating_f64(number: i64) -> f64 {
    number as f64
}
