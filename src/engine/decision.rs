//! What the engine answers: a number of pods, the burst it leaves room for, what it saw, and which rules shaped it.

use crate::units::{ScalingMetric, Timestamp};
use arrayvec::ArrayVec;

/// Averages of one revision's windows at one instant: the load of the whole revision, not per pod.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Observed {
    /// Over the stable window.
    pub stable: f64,
    /// Over the panic window.
    pub panic: f64,
}

/// How many pods a revision should have, and why. Logs, metrics, the live page and `explain` all render this value.
#[derive(Clone, PartialEq, Debug)]
pub struct Decision {
    /// When it was made.
    pub at: Timestamp,
    /// Pods wanted, before min-scale and max-scale; never negative.
    pub desired: i32,
    /// Load the ready pods could take beyond the panic average and the target burst capacity; negative keeps the
    /// activator in the path.
    pub excess_burst: i32,
    /// The same before it was made an integer, for the gauge.
    pub excess_burst_exact: f64,
    /// Pods ready when it was made.
    pub ready: i32,
    /// What the windows showed.
    pub observed: Observed,
    /// The metric they show.
    pub metric: ScalingMetric,
    /// Load one pod should carry.
    pub target: f64,
    /// Since when the revision panics (renewed by each cause), if it does.
    pub panicking_since: Option<Timestamp>,
    /// The rules that shaped the number, in the order they acted.
    pub because: ArrayVec<Reason, { Reason::MOST }>,
}

/// One rule that shaped a decision.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Reason {
    /// The stable average divided by the target.
    StableTarget {
        /// Stable average.
        load: f64,
        /// Per pod.
        target: f64,
        /// `ceil(load / target)`.
        wanted: f64,
    },
    /// The panic average needs at least the panic threshold times the ready pods, so panic starts or is renewed.
    Panic {
        /// Panic average.
        load: f64,
        /// `ceil(load / target)`.
        wanted: f64,
        /// The threshold factor.
        threshold: f64,
        /// Whether this decision started it.
        started: bool,
    },
    /// While panicking the number only grows.
    PanicHolds {
        /// The highest number asked for since panic started.
        floor: i32,
        /// Its last cause.
        since: Timestamp,
    },
    /// No cause for a whole stable window, so panic ended.
    PanicEnded,
    /// More was wanted than the up rate allows from the ready pods.
    RateLimitedUp {
        /// What was wanted.
        wanted: f64,
        /// What is allowed.
        limit: f64,
    },
    /// Less was wanted than the down rate allows from the ready pods.
    RateLimitedDown {
        /// What was wanted.
        wanted: f64,
        /// What is allowed.
        limit: f64,
    },
    /// There is load, so at least the activation scale.
    ActivationScale {
        /// The activation scale.
        floor: i32,
    },
    /// A higher number asked for within the scale-down delay is kept.
    HeldByDelay {
        /// What was wanted now.
        wanted: i32,
    },
    /// Raised to min-scale (by the reconciler).
    RaisedToMin {
        /// What was wanted.
        wanted: i32,
    },
    /// Raised to the initial scale, not yet reached once (by the reconciler).
    RaisedToInitial {
        /// What was wanted.
        wanted: i32,
    },
    /// Lowered to max-scale (by the reconciler).
    LoweredToMax {
        /// What was wanted.
        wanted: i32,
    },
}

impl Reason {
    /// The most reasons one decision can have.
    pub const MOST: usize = 10;
}
