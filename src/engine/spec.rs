//! What the engine is asked to do for one revision: values already resolved from ConfigMap and annotations.

use crate::units::{Aggregation, ScalingMetric, Span};

/// The parameters of one revision's decider. Obtained from `config::resolve` only.
#[derive(Clone, PartialEq, Debug)]
pub struct Spec {
    /// How many times the ready pods may grow to in one decision; above 1.
    pub max_scale_up_rate: f64,
    /// By what the ready pods may be divided in one decision; above 1.
    pub max_scale_down_rate: f64,
    /// What the revision is scaled on.
    pub metric: ScalingMetric,
    /// Load one pod should carry, utilization applied: requests in flight, or requests per second.
    pub target_value: f64,
    /// Load one pod can carry, the target before utilization.
    pub total_value: f64,
    /// Load to keep room for beyond what is observed; 0 never keeps the activator in the path, -1 always does.
    pub target_burst_capacity: f64,
    /// Requests in flight one activator can carry.
    pub activator_capacity: f64,
    /// Panic starts when the panic window asks for this many times the ready pods; a factor, not a percentage.
    pub panic_threshold: f64,
    /// How long load is averaged, and how long panic lasts after its last cause.
    pub stable_window: Span,
    /// How long a lower number must have been enough before it is taken; 0 is off.
    pub scale_down_delay: Span,
    /// Pods a new revision starts with.
    pub initial_scale: i32,
    /// Fewest pods while there is any load; 0 or 1 is off.
    pub activation_scale: i32,
    /// Whether any route leads to the revision. An unreachable one may shrink at once.
    pub reachable: bool,
}

/// Knative's defaults of `config-autoscaler`, for a reachable revision without annotations or a container concurrency.
impl Default for Spec {
    fn default() -> Self {
        Self {
            max_scale_up_rate: 1000.0,
            max_scale_down_rate: 2.0,
            metric: ScalingMetric::Concurrency,
            target_value: 70.0,
            total_value: 100.0,
            target_burst_capacity: 211.0,
            activator_capacity: 100.0,
            panic_threshold: 2.0,
            stable_window: Span::from_seconds(60),
            scale_down_delay: Span::ZERO,
            initial_scale: 1,
            activation_scale: 0,
            reachable: true,
        }
    }
}

/// The parameters of one revision's windows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MetricSpec {
    /// Length of the stable window.
    pub stable_window: Span,
    /// Length of the panic window.
    pub panic_window: Span,
    /// Whether pods are scraped. When not (target burst capacity -1), an empty window means no load instead of no data.
    pub scraped: bool,
    /// How buckets are averaged; read when the windows are made and never again.
    pub aggregation: Aggregation,
}
