//! The scale bounds of a revision: what it may not go below or above, and how many ready pods make it active.

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
    /// The lower bound is looked at first, so it wins when the two conflict. A `desired` of -1, unknown, becomes the lower bound; whoever does not
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
