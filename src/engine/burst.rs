//! Excess burst capacity: how much more load the ready pods could take at once, beyond what they carry and beyond the
//! burst to keep room for. Negative keeps the activator in the path.

use super::spec::Spec;
use crate::units::Compat;

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
        (f64::from(ready) * spec.total_value - spec.target_burst_capacity - load).floor()
    } else {
        -1.0
    }
}
