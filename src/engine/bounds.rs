//! A revision's number of pods is kept between min-scale and max-scale, and at its initial scale until that was reached
//! once.
//!
//! # Rule
//!
//! ```text
//! min    = min-scale, or 0 when no route leads to the revision
//! lowest = max(min, initial scale) until initialized, when reachable and the initial scale is above 1; else min
//! pods   = lowest when desired < lowest, else max-scale when that is not 0 and desired > max-scale, else desired
//! ready pods that make it active = max(min, 1 once initialized, the initial scale before)
//! ```
//!
//! Max-scale-limit is checked when an object is admitted and not here.
//!
//! # Example
//!
//! ```
//! use ebb::engine::Bounds;
//!
//! let bounds = Bounds { min_scale: 2, max_scale: 5, initial_scale: 1, initialized: true, reachable: true };
//! assert_eq!(bounds.clamp(0).0, 2);
//! assert_eq!(bounds.clamp(7).1.unwrap().to_string(), "max-scale allows 5 pods (7 wanted)");
//! ```
//!
//! # Source
//!
//! Knative Serving, `pkg/reconciler/autoscaling/kpa/scaler.go`: `applyBounds`, `scale`; `kpa.go`: `activeThreshold`.
//!
//! # Differences
//!
//! None.

use super::decision::Reason;

/// The bounds in force for one revision.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bounds {
    /// Fewest pods: min-scale as resolved, before reachability.
    pub min_scale: i32,
    /// Most pods; 0 is no limit.
    pub max_scale: i32,
    /// Pods a new revision starts with.
    pub initial_scale: i32,
    /// Whether the initial scale was once reached.
    pub initialized: bool,
    /// Whether any route leads to the revision. An unreachable one has neither min-scale nor initial scale.
    pub reachable: bool,
}

impl Bounds {
    /// `desired` within the bounds, and the bound that changed it.
    ///
    /// The lower bound is looked at first. A `desired` of -1, not known yet, becomes the lower bound; whoever does not
    /// want that asks before.
    pub fn clamp(&self, desired: i32) -> (i32, Option<Reason>) {
        let min = self.min();
        let starting = self.reachable && !self.initialized && self.initial_scale > 1 && self.initial_scale > min;
        let lowest = if starting { self.initial_scale } else { min };
        if desired < lowest {
            let reason = if starting {
                Reason::RaisedToInitial { wanted: desired, initial: lowest }
            } else {
                Reason::RaisedToMin { wanted: desired, min: lowest }
            };
            (lowest, Some(reason))
        } else if self.max_scale != 0 && desired > self.max_scale {
            (self.max_scale, Some(Reason::LoweredToMax { wanted: desired, max: self.max_scale }))
        } else {
            (desired, None)
        }
    }

    /// Ready pods from which the revision counts as active: min-scale, and at least the initial scale until that was
    /// once reached, one after.
    pub fn min_ready(&self) -> i32 {
        self.min().max(if self.initialized { 1 } else { self.initial_scale })
    }

    fn min(&self) -> i32 {
        if self.reachable { self.min_scale } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STEADY: Bounds = Bounds { min_scale: 0, max_scale: 0, initial_scale: 1, initialized: true, reachable: true };

    #[test]
    fn clamps() {
        let starting = Bounds { initial_scale: 3, initialized: false, ..STEADY };
        for (name, bounds, desired, want) in [
            ("no bounds", STEADY, 7, 7),
            ("not known and no minimum", STEADY, -1, 0),
            ("below min", Bounds { min_scale: 2, ..STEADY }, 1, 2),
            ("above max", Bounds { max_scale: 5, ..STEADY }, 7, 5),
            ("at max", Bounds { max_scale: 5, ..STEADY }, 5, 5),
            ("min above max, below both", Bounds { min_scale: 9, max_scale: 5, ..STEADY }, 4, 9),
            ("min above max, above both", Bounds { min_scale: 9, max_scale: 5, ..STEADY }, 12, 5),
            ("unreachable has no min", Bounds { min_scale: 2, reachable: false, ..STEADY }, 0, 0),
            ("unreachable has a max", Bounds { max_scale: 5, reachable: false, ..STEADY }, 7, 5),
            ("starting", starting, 0, 3),
            ("starting, more wanted", starting, 4, 4),
            ("starting, min is higher", Bounds { min_scale: 5, ..starting }, 0, 5),
            ("starting unreachable", Bounds { reachable: false, ..starting }, 0, 0),
            ("starting, initial scale 1 is no bound", Bounds { initial_scale: 1, ..starting }, 0, 0),
            ("started", Bounds { initialized: true, ..starting }, 0, 0),
        ] {
            let (pods, reason) = bounds.clamp(desired);
            assert_eq!(pods, want, "{name}");
            assert_eq!(reason.is_some(), pods != desired, "{name}: {reason:?}");
        }
    }

    #[test]
    fn ready_pods_that_make_it_active() {
        for (min_scale, initial_scale, initialized, reachable, want) in [
            (0, 1, true, true, 1),
            (3, 1, true, true, 3),
            (3, 1, true, false, 1),
            (0, 5, false, true, 5),
            (0, 5, true, true, 1),
            (7, 5, false, true, 7),
            (7, 5, false, false, 5), // an unreachable revision keeps its initial scale here
            (0, 0, false, true, 0),
        ] {
            let bounds = Bounds { min_scale, max_scale: 0, initial_scale, initialized, reachable };
            assert_eq!(bounds.min_ready(), want, "{bounds:?}");
        }
    }

    proptest! {
        #[test]
        fn stays_within_the_bounds_and_keeps_the_order(
            (min_scale, max_scale, initial_scale) in (0_i32..10, 0_i32..20, 0_i32..10),
            initialized: bool, reachable: bool,
            (less, more) in (-1_i32..30, 0_i32..30),
        ) {
            let bounds = Bounds { min_scale, max_scale, initial_scale, initialized, reachable };
            let (pods, _) = bounds.clamp(less);
            prop_assert!(pods >= 0);
            prop_assert!(max_scale == 0 || pods <= max_scale.max(min_scale).max(initial_scale));
            // When the bounds conflict the order is not kept, as in the reference; admission prevents that.
            if max_scale == 0 || min_scale.max(initial_scale) <= max_scale {
                prop_assert!(pods <= bounds.clamp(less + more).0);
            }
        }
    }
}
