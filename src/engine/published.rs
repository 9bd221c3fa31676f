//! What the rest of the autoscaler knows of a decider between its evaluations, and who must hear of a change.

use crate::units::Compat;

/// The last valid answer of a decider.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Published {
    /// Pods wanted; `None` before the first valid decision.
    pub desired: Option<i32>,
    /// Excess burst capacity; before the first decision, what the initial scale would leave.
    pub excess_burst: i32,
}

impl Published {
    /// Before the first decision.
    pub fn undecided(initial_excess_burst: i32) -> Self {
        Self { desired: None, excess_burst: initial_excess_burst }
    }

    /// Takes in a valid decision. Whether the PodAutoscaler must be looked at again: when the number changed, or the
    /// excess burst capacity became negative or ceased to be (zero counts as not negative).
    pub fn take_in(&mut self, desired: i32, excess_burst: i32) -> bool {
        let changed = self.desired != Some(desired) || (self.excess_burst < 0) != (excess_burst < 0);
        *self = Self { desired: Some(desired), excess_burst };
        changed
    }

    /// Whether a stat with this concurrency must be decided on at once instead of at the next tick: load has arrived
    /// for a revision at zero.
    pub fn pokes(&self, concurrency: f64, compat: Compat) -> bool {
        let at_zero = match self.desired {
            Some(desired) => desired == 0,
            None => compat.poke_undecided,
        };
        at_zero && concurrency != 0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fresh_decider_is_poked_only_with_the_switch() {
        let fresh = Published::undecided(-111);
        assert!(fresh.pokes(1.0, Compat::IMPROVED));
        assert!(!fresh.pokes(1.0, Compat::STRICT));
        let at_zero = Published { desired: Some(0), excess_burst: -111 };
        for compat in [Compat::IMPROVED, Compat::STRICT] {
            assert!(at_zero.pokes(0.001, compat));
            assert!(!at_zero.pokes(0.0, compat));
            assert!(!Published { desired: Some(1), excess_burst: 0 }.pokes(1.0, compat));
        }
    }
}
