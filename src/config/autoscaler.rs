//! `config-autoscaler`: the cluster's defaults and limits for every revision.

use crate::api::annotations::{PANIC_WINDOW_PERCENTAGE, TARGET_MIN, ValidationSettings, WINDOW_MAX, WINDOW_MIN};
use crate::api::duration::is_whole_seconds;
use crate::api::names::KPA_CLASS;
use crate::config::{ConfigError, Data, Reader};
use crate::units::{Compat, Span};

/// The name of the ConfigMap.
pub const NAME: &str = "config-autoscaler";

/// Every key the map may have, in the order in which they are read; all others are ignored.
pub const KEYS: [&str; 20] = [
    "pod-autoscaler-class",
    "enable-scale-to-zero",
    "allow-zero-initial-scale",
    "max-scale-up-rate",
    "max-scale-down-rate",
    "container-concurrency-target-percentage",
    "container-concurrency-target-default",
    "requests-per-second-target-default",
    "target-burst-capacity",
    "panic-window-percentage",
    "activator-capacity",
    "panic-threshold-percentage",
    "initial-scale",
    "min-scale",
    "max-scale",
    "max-scale-limit",
    "stable-window",
    "scale-down-delay",
    "scale-to-zero-grace-period",
    "scale-to-zero-pod-retention-period",
];

/// The cluster's autoscaling settings. Two are equal when their values are, wherever those came from.
#[derive(Clone, PartialEq, Debug)]
pub struct Autoscaler {
    /// The class of revisions without the annotation.
    pub pod_autoscaler_class: String,
    /// Whether revisions may have no pods at all.
    pub enable_scale_to_zero: bool,
    /// Whether a revision may start with no pods.
    pub allow_zero_initial_scale: bool,
    /// How many times the ready pods may grow to in one decision; above 1.
    pub max_scale_up_rate: f64,
    /// By what the ready pods may be divided in one decision; above 1.
    pub max_scale_down_rate: f64,
    /// How much of a concurrency target to use: a fraction in (0, 1].
    pub container_concurrency_target_fraction: f64,
    /// Requests in flight per pod of a revision without a limit of its own.
    pub container_concurrency_target_default: f64,
    /// Requests per second per pod, where that is the metric; at least 0.01.
    pub rps_target_default: f64,
    /// Load to keep room for: at least 0, or -1 to keep the activator in the path.
    pub target_burst_capacity: f64,
    /// Length of the panic window, in percent of the stable one; 1 to 100.
    pub panic_window_percentage: f64,
    /// Requests in flight one activator can carry; at least 1.
    pub activator_capacity: f64,
    /// When panic starts, in percent of the ready pods.
    pub panic_threshold_percentage: f64,
    /// Pods a new revision starts with.
    pub initial_scale: i32,
    /// Fewest pods.
    pub min_scale: i32,
    /// Most pods; 0 is no limit.
    pub max_scale: i32,
    /// The largest max-scale admission lets a revision have; 0 is no limit.
    pub max_scale_limit: i32,
    /// Length of the stable window; whole seconds from 6 s to 1 h.
    pub stable_window: Span,
    /// How long a lower number must have been enough before it is taken; whole seconds.
    pub scale_down_delay: Span,
    /// The longest wait for the activator to be in the path before the last pod goes; above 0.
    pub scale_to_zero_grace_period: Span,
    /// The shortest time the last pod is kept after the decision to remove it.
    pub scale_to_zero_pod_retention_period: Span,
    written: Written,
}

impl Autoscaler {
    /// How much of a target other than concurrency to use; the map has no key for it.
    pub const TARGET_UTILIZATION: f64 = 0.7;

    /// Reads the map. It is refused exactly when the reference refuses it, and with `compat.finite_settings` also when
    /// a number is NaN or infinite.
    pub fn parse(data: &Data, compat: Compat) -> Result<Self, ConfigError> {
        let mut this = Self::default();
        let mut reader = Reader::new(NAME, data, compat);
        reader.text("pod-autoscaler-class", &mut this.pod_autoscaler_class);
        reader.boolean("enable-scale-to-zero", &mut this.enable_scale_to_zero);
        reader.boolean("allow-zero-initial-scale", &mut this.allow_zero_initial_scale);
        reader.float("max-scale-up-rate", &mut this.max_scale_up_rate);
        reader.float("max-scale-down-rate", &mut this.max_scale_down_rate);
        reader.float("container-concurrency-target-percentage", &mut this.container_concurrency_target_fraction);
        reader.float("container-concurrency-target-default", &mut this.container_concurrency_target_default);
        reader.float("requests-per-second-target-default", &mut this.rps_target_default);
        reader.float("target-burst-capacity", &mut this.target_burst_capacity);
        reader.float("panic-window-percentage", &mut this.panic_window_percentage);
        reader.float("activator-capacity", &mut this.activator_capacity);
        reader.float("panic-threshold-percentage", &mut this.panic_threshold_percentage);
        reader.int32("initial-scale", &mut this.initial_scale);
        reader.int32("min-scale", &mut this.min_scale);
        reader.int32("max-scale", &mut this.max_scale);
        reader.int32("max-scale-limit", &mut this.max_scale_limit);
        reader.span("stable-window", &mut this.stable_window);
        reader.span("scale-down-delay", &mut this.scale_down_delay);
        reader.span("scale-to-zero-grace-period", &mut this.scale_to_zero_grace_period);
        reader.span("scale-to-zero-pod-retention-period", &mut this.scale_to_zero_pod_retention_period);
        // The key is named a percentage, but up to 1 it is the fraction itself.
        if this.container_concurrency_target_fraction > 1.0 {
            this.container_concurrency_target_fraction /= 100.0;
        }
        this.check(&mut reader);
        this.written = Written::keys_of(data);
        reader.finish(this)
    }

    /// Whether the map had `key`, even with the value it has by default.
    pub fn is_written(&self, key: &str) -> bool {
        KEYS.iter().position(|known| *known == key).is_some_and(|bit| self.written.bits & 1 << bit != 0)
    }

    /// What admission of annotations needs to know of these settings.
    pub fn validation(&self, compat: Compat) -> ValidationSettings {
        ValidationSettings {
            default_class: self.pod_autoscaler_class.clone(),
            allow_zero_initial_scale: self.allow_zero_initial_scale,
            max_scale_limit: self.max_scale_limit,
            compat,
        }
    }

    /// The reference's checks in its order. Each says what it refuses, not what it accepts: in strict compatibility a
    /// NaN is refused by none of them.
    fn check(&self, reader: &mut Reader<'_>) {
        let key = ["scale-to-zero-grace-period"];
        reader.refuse_if(self.scale_to_zero_grace_period <= Span::ZERO, &key, "is not positive", "a duration above 0s");

        let key = ["scale-down-delay"];
        let accepted = "a duration of whole seconds from 0s";
        reader.refuse_if(self.scale_down_delay < Span::ZERO, &key, "is negative", accepted);
        reader.refuse_if(!is_whole_seconds(self.scale_down_delay), &key, "is not a whole number of seconds", accepted);

        let retention = self.scale_to_zero_pod_retention_period;
        let key = ["scale-to-zero-pod-retention-period"];
        reader.refuse_if(retention < Span::ZERO, &key, "is negative", "a duration from 0s");

        let burst = self.target_burst_capacity;
        let accepted = "a number from 0, or \"-1\" to keep the activator in the path";
        reader.refuse_if(burst < 0.0 && burst != -1.0, &["target-burst-capacity"], "is negative and not -1", accepted);

        let fraction = self.container_concurrency_target_fraction;
        let percentage = "container-concurrency-target-percentage";
        let accepted = "a percentage above 1 and up to 100, or a fraction above 0 and up to 1";
        reader.refuse_if(fraction <= 0.0 || fraction > 1.0, &[percentage], "is not a percentage", accepted);
        let keys = [percentage, "container-concurrency-target-default"];
        let problem = format!("times the default target is less than {TARGET_MIN}");
        let least = format!("values whose product, as a fraction, is at least {TARGET_MIN}");
        reader.refuse_if(fraction * self.container_concurrency_target_default < TARGET_MIN, &keys, &problem, &least);

        let problem = format!("is less than {TARGET_MIN}");
        let least = format!("a number from {TARGET_MIN}");
        reader.refuse_if(
            self.rps_target_default < TARGET_MIN,
            &["requests-per-second-target-default"],
            &problem,
            &least,
        );
        reader.refuse_if(self.activator_capacity < 1.0, &["activator-capacity"], "is less than 1", "a number from 1");

        let rates = [("max-scale-up-rate", self.max_scale_up_rate), ("max-scale-down-rate", self.max_scale_down_rate)];
        for (key, rate) in rates {
            reader.refuse_if(rate <= 1.0, &[key], "is not above 1", "a number above 1");
        }

        let window = self.stable_window;
        let key = ["stable-window"];
        let accepted = format!("a duration of whole seconds from {WINDOW_MIN} to {WINDOW_MAX}");
        let problem = format!("is not between {WINDOW_MIN} and {WINDOW_MAX}");
        reader.refuse_if(window < WINDOW_MIN || window > WINDOW_MAX, &key, &problem, &accepted);
        reader.refuse_if(!is_whole_seconds(window), &key, "is not a whole number of seconds", &accepted);

        let (least, most) = PANIC_WINDOW_PERCENTAGE;
        let panic = self.panic_window_percentage;
        reader.refuse_if(
            panic < least || panic > most,
            &["panic-window-percentage"],
            &format!("is not between {least} and {most}"),
            &format!("a number from {least} to {most}"),
        );

        let initial = self.initial_scale;
        reader.refuse_if(
            initial < 0 || initial == 0 && !self.allow_zero_initial_scale,
            &["initial-scale"],
            if initial < 0 { "is negative" } else { "is not allowed while allow-zero-initial-scale is false" },
            "a whole number from 1, or from 0 with allow-zero-initial-scale \"true\"",
        );
        reader.refuse_if(self.min_scale < 0, &["min-scale"], "is negative", "a whole number from 0");

        let (min, max, limit) = (self.min_scale, self.max_scale, self.max_scale_limit);
        if limit > 0 {
            let problem = format!("is not between 1 and the max-scale-limit of {limit}");
            let accepted = format!("a whole number from 1 to {limit}");
            reader.refuse_if(max < 1 || max > limit, &["max-scale", "max-scale-limit"], &problem, &accepted);
        } else {
            reader.refuse_if(max < 0, &["max-scale"], "is negative", "a whole number from 0 (no limit)");
        }
        reader.refuse_if(limit < 0, &["max-scale-limit"], "is negative", "a whole number from 0 (no limit)");
        let problem = format!("is more than the max-scale of {max}");
        reader.refuse_if(min > max && max > 0, &["min-scale", "max-scale"], &problem, &format!("at most {max}"));
    }
}

impl Default for Autoscaler {
    fn default() -> Self {
        Self {
            pod_autoscaler_class: KPA_CLASS.to_owned(),
            enable_scale_to_zero: true,
            allow_zero_initial_scale: false,
            max_scale_up_rate: 1000.0,
            max_scale_down_rate: 2.0,
            container_concurrency_target_fraction: 0.7,
            container_concurrency_target_default: 100.0,
            rps_target_default: 200.0,
            target_burst_capacity: 211.0,
            panic_window_percentage: 10.0,
            activator_capacity: 100.0,
            panic_threshold_percentage: 200.0,
            initial_scale: 1,
            min_scale: 0,
            max_scale: 0,
            max_scale_limit: 0,
            stable_window: Span::from_seconds(60),
            scale_down_delay: Span::ZERO,
            scale_to_zero_grace_period: Span::from_seconds(30),
            scale_to_zero_pod_retention_period: Span::ZERO,
            written: Written::default(),
        }
    }
}

/// Which of [`KEYS`] the map had, one bit each. Makes no difference between settings, so all are equal.
#[derive(Clone, Copy, Debug, Default)]
struct Written {
    bits: u32,
}

impl Written {
    fn keys_of(data: &Data) -> Self {
        let bits = KEYS.iter().enumerate().filter(|(_, key)| data.contains_key(**key));
        Self { bits: bits.fold(0, |bits, (bit, _)| bits | 1 << bit) }
    }
}

impl PartialEq for Written {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pairs: &[(&str, &str)], compat: Compat) -> Result<Autoscaler, ConfigError> {
        let data = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Autoscaler::parse(&data, compat)
    }

    #[test]
    fn every_fault_is_reported_once() {
        let error = parse(
            &[
                ("stable-window", "5s"),
                ("max-scale", "many"),
                ("min-scale", "9"),
                ("max-scale-limit", "3"),
                ("activator-capacity", "0.5"),
                ("enable-scale-to-zero", "yes"),
            ],
            Compat::IMPROVED,
        )
        .expect_err("four faults");
        let keys: Vec<_> = error.problems.iter().map(|problem| problem.keys.join(",")).collect();
        // What cannot be read comes first; max-scale is not also held against its bounds.
        assert_eq!(keys, ["enable-scale-to-zero", "max-scale", "activator-capacity", "stable-window"]);
        assert_eq!(
            error.problems[3].to_string(),
            "stable-window: \"5s\" is not between 6s and 1h0m0s; use a duration of whole seconds from 6s to 1h0m0s, \
             or remove the key to get its default"
        );
    }

    #[test]
    fn a_fault_may_lie_between_two_keys() {
        for (pairs, keys) in [
            (&[("min-scale", "3"), ("max-scale", "2")][..], ["min-scale", "max-scale"]),
            (&[("max-scale-limit", "3")], ["max-scale", "max-scale-limit"]),
            (
                &[("container-concurrency-target-default", "0.1"), ("container-concurrency-target-percentage", "5")],
                ["container-concurrency-target-percentage", "container-concurrency-target-default"],
            ),
        ] {
            assert_eq!(parse(pairs, Compat::IMPROVED).expect_err("a fault").problems[0].keys, keys);
        }
    }

    #[test]
    fn numbers_are_finite_unless_strict() {
        for key in ["max-scale-up-rate", "container-concurrency-target-percentage", "panic-threshold-percentage"] {
            assert!(parse(&[(key, "nan")], Compat::STRICT).is_ok(), "{key}");
            assert!(parse(&[(key, "nan")], Compat::IMPROVED).is_err(), "{key}");
        }
        assert!(parse(&[("max-scale-up-rate", "inf")], Compat::STRICT).is_ok());
        assert!(parse(&[("max-scale-up-rate", "inf")], Compat::IMPROVED).is_err());
    }

    #[test]
    fn equal_settings_are_equal_wherever_they_came_from() {
        let written = parse(&[("stable-window", "1m")], Compat::IMPROVED).expect("the default, written out");
        assert_eq!(written, Autoscaler::default());
        assert!(written.is_written("stable-window") && !written.is_written("max-scale"));
        assert!(!Autoscaler::default().is_written("stable-window"));
    }

    #[test]
    fn a_percentage_up_to_one_is_a_fraction() {
        let fraction = |text| {
            let parsed = parse(&[("container-concurrency-target-percentage", text)], Compat::IMPROVED);
            parsed.map(|parsed| parsed.container_concurrency_target_fraction).ok()
        };
        assert_eq!([fraction("70"), fraction("0.7"), fraction("1")], [Some(0.7), Some(0.7), Some(1.0)]);
        assert_eq!([fraction("1.5"), fraction("100")], [Some(0.015), Some(1.0)]);
        assert_eq!([fraction("0"), fraction("101"), fraction("-1")], [None; 3]);
    }
}
