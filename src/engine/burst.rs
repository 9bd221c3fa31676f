//! Excess burst capacity is how much more load the ready pods could take at once, beyond what they carry and beyond the
//! burst to keep room for. While it is negative the activator stays in the path and queues what they cannot take.
//!
//! # Rule
//!
//! All in requests in flight, or in requests per second for a revision scaled on those:
//!
//! ```text
//! target burst capacity    excess
//! above 0                  floor(ready * total - target burst capacity - panic average)
//! 0                        0     the activator is in the path at zero only
//! below 0                  -1    the activator is always in the path
//! ```
//!
//! Before the first decision the initial scale stands for the ready pods, there is no load, and the number is cut
//! towards zero instead of rounded down.
//!
//! # Example
//!
//! Ten pods of 100 with a burst of 211 to keep room for and no load: 10 * 100 - 211 = 789.
//!
//! ```
//! # use ebb::engine::{Decider, Observed, Spec};
//! # use ebb::units::{Compat, Timestamp};
//! # let now = Timestamp::from_seconds(1000);
//! let mut decider = Decider::new(Spec::default(), 10, now, Compat::IMPROVED);
//! assert_eq!(decider.decide(now, 10, Observed::default()).excess_burst, 789);
//! ```
//!
//! # Source
//!
//! Knative Serving, `pkg/autoscaler/scaling/autoscaler.go`: `Scale`; `multiscaler.go`: `createScaler`.
//!
//! # Differences
//!
//! A number beyond 32 bits saturates ([`Compat::saturate`]); on amd64 Knative's turns negative, which puts the activator
//! in the path of a revision that has room for billions.

use super::spec::Spec;
use crate::units::{self, Compat};

/// The excess burst capacity of a revision before its first decision: that of its initial scale without load.
///
/// Cut towards zero, where later ones are rounded down.
pub fn initial_excess_burst(spec: &Spec, compat: Compat) -> i32 {
    let burst = spec.target_burst_capacity;
    if burst == -1.0 || burst == 0.0 {
        return compat.to_i32(burst);
    }
    compat.to_i32(f64::from(spec.initial_scale) * spec.total_value - burst)
}

/// The excess burst capacity of `ready` pods that carry `load`, rounded down to a whole number.
pub(super) fn excess_burst(spec: &Spec, ready: i32, load: f64) -> f64 {
    if spec.target_burst_capacity == 0.0 {
        0.0
    } else if spec.target_burst_capacity > 0.0 {
        units::floor(f64::from(ready) * spec.total_value - spec.target_burst_capacity - load)
    } else {
        -1.0
    }
}

/// Whether requests go to activators: while no pods are wanted, it is not known how many are, or there is no room for a
/// burst. They go to the pods otherwise.
pub fn behind_activator(want: Option<i32>, excess_burst: i32) -> bool {
    want.is_none_or(|want| want <= 0) || excess_burst < 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(burst: f64, total: f64, initial: i32) -> Spec {
        Spec { target_burst_capacity: burst, total_value: total, initial_scale: initial, ..Spec::default() }
    }

    #[test]
    fn initial() {
        for (burst, total, initial, want) in [
            (211.0, 100.0, 1, -111),
            (211.0, 100.0, 3, 89),
            (0.0, 100.0, 1, 0),
            (-1.0, 100.0, 1, -1),
            // 1 * 100 - 100.5 = -0.5, cut towards zero: enough. The first decision makes it -1.
            (100.5, 100.0, 1, 0),
        ] {
            let spec = with(burst, total, initial);
            assert_eq!(initial_excess_burst(&spec, Compat::STRICT), want, "{burst} {total} {initial}");
            assert_eq!(initial_excess_burst(&spec, Compat::IMPROVED), want, "{burst} {total} {initial}");
        }
        assert_eq!(excess_burst(&with(100.5, 100.0, 1), 1, 0.0), -1.0);
    }

    #[test]
    fn numbers_beyond_32_bits_saturate_unless_strict() {
        let spec = with(1.0, 3e9, 1);
        assert_eq!(initial_excess_burst(&spec, Compat::IMPROVED), i32::MAX);
        assert_eq!(initial_excess_burst(&spec, Compat::STRICT), i32::MIN);
    }
}
