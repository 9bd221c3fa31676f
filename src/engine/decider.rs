//! From the averages of the windows to a number of pods.

use super::burst;
use super::decision::{Decision, Observed, Reason};
use super::delay::DelayWindow;
use super::panic::{Change, Panic};
use super::spec::Spec;
use crate::units::{self, Compat, Timestamp};
use arrayvec::ArrayVec;

/// Decides for one revision, remembering panic and the scale-down delay between decisions.
#[derive(Clone, Debug)]
pub struct Decider {
    spec: Spec,
    panic: Panic,
    delay: Option<DelayWindow>,
    compat: Compat,
}

impl Decider {
    /// A decider for a revision that has `ready` pods at `now`.
    pub fn new(spec: Spec, ready_at_creation: i32, now: Timestamp, compat: Compat) -> Self {
        let delay = (spec.scale_down_delay.nanos() > 0).then(|| DelayWindow::new(spec.scale_down_delay));
        Self { spec, panic: Panic::new(ready_at_creation, now), delay, compat }
    }

    /// What it decides by.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// Whether the revision panics.
    pub fn panic(&self) -> &Panic {
        &self.panic
    }

    /// Takes over a changed spec. Panic and what the scale-down delay remembers stay.
    pub fn update(&mut self, spec: Spec) {
        let delay = spec.scale_down_delay;
        if self.compat.live_scale_down_delay && delay != self.spec.scale_down_delay {
            match &mut self.delay {
                _ if delay.nanos() <= 0 => self.delay = None,
                Some(window) => window.resize(delay),
                None => self.delay = Some(DelayWindow::new(delay)),
            }
        }
        self.spec = spec;
    }

    /// How many pods the revision should have at `now`, having `ready` of them and showing `observed`.
    pub fn decide(&mut self, now: Timestamp, ready: i32, observed: Observed) -> Decision {
        let ready = ready.max(0);
        let spec = &self.spec;
        let limits = Limits::new(spec, ready);
        let stable = Want::new(spec, &limits, observed.stable, self.compat);
        let panic = Want::new(spec, &limits, observed.panic, self.compat);
        let cause = panic.unlimited / limits.pods >= spec.panic_threshold;

        let mut decision = Decision {
            at: now,
            desired: stable.pods,
            excess_burst: 0,
            excess_burst_exact: burst::excess_burst(spec, ready, observed.panic),
            ready,
            observed,
            metric: spec.metric,
            target: spec.target_value,
            panicking_since: None,
            because: ArrayVec::new(),
        };
        decision.excess_burst = self.compat.to_i32(decision.excess_burst_exact);
        let because = &mut decision.because;
        let (metric, target) = (spec.metric, spec.target_value);
        because.push(Reason::StableTarget { metric, load: observed.stable, target, wanted: stable.unlimited });
        let change = self.panic.look(cause, spec.stable_window, now);
        match change {
            Change::Started | Change::Renewed => because.push(Reason::Panic {
                metric,
                load: observed.panic,
                wanted: panic.unlimited,
                threshold: spec.panic_threshold,
                started: change == Change::Started,
            }),
            Change::Ended => because.push(Reason::PanicEnded { window: spec.stable_window }),
            Change::None => {}
        }

        decision.panicking_since = self.panic.since();
        if let Some(since) = self.panic.since() {
            if panic.pods > stable.pods {
                because.push(Reason::PanicTarget { metric, load: observed.panic, target, wanted: panic.unlimited });
                panic.explain(&limits, spec, because);
            } else {
                stable.explain(&limits, spec, because);
            }
            let wanted = stable.pods.max(panic.pods);
            decision.desired = self.panic.hold(wanted);
            if decision.desired > wanted {
                because.push(Reason::PanicHolds { floor: decision.desired, wanted, since, window: spec.stable_window });
            }
        } else {
            stable.explain(&limits, spec, because);
        }

        if spec.reachable
            && let Some(delay) = &mut self.delay
        {
            let wanted = decision.desired;
            delay.record(now, wanted);
            decision.desired = delay.current();
            if decision.desired > wanted {
                because.push(Reason::HeldByDelay { wanted, kept: decision.desired, delay: delay.length() });
            }
        }
        decision
    }
}

/// What the rates allow from the ready pods.
struct Limits {
    /// Ready pods, at least one.
    pods: f64,
    most: f64,
    least: f64,
}

impl Limits {
    fn new(spec: &Spec, ready: i32) -> Self {
        let pods = f64::from(ready.max(1));
        Self {
            pods,
            most: (spec.max_scale_up_rate * pods).ceil(),
            least: if spec.reachable { (pods / spec.max_scale_down_rate).floor() } else { 0.0 },
        }
    }
}

/// What one average asks for.
struct Want {
    /// `ceil(load / target)`.
    unlimited: f64,
    /// The same within the rates.
    limited: i32,
    /// The same, raised to the activation scale.
    pods: i32,
}

impl Want {
    fn new(spec: &Spec, limits: &Limits, load: f64, compat: Compat) -> Self {
        let unlimited = (load / spec.target_value).ceil();
        let limited = compat.to_i32(units::min(units::max(unlimited, limits.least), limits.most));
        let activated = spec.activation_scale > 1 && unlimited > 0.0;
        Self { unlimited, limited, pods: if activated { limited.max(spec.activation_scale) } else { limited } }
    }

    fn explain(&self, limits: &Limits, spec: &Spec, because: &mut ArrayVec<Reason, { Reason::MOST }>) {
        let wanted = self.unlimited;
        if wanted > limits.most {
            because.push(Reason::RateLimitedUp { wanted, limit: limits.most });
        } else if wanted < limits.least && limits.least > 0.0 {
            because.push(Reason::RateLimitedDown { wanted, limit: limits.least });
        }
        if self.pods > self.limited {
            because.push(Reason::ActivationScale { floor: spec.activation_scale, wanted: self.limited });
        }
    }
}
