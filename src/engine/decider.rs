//! A revision should have as many pods as its load takes at the target load per pod, within the rates it may grow and
//! shrink at, and no fewer than panic, activation scale and scale-down delay keep.
//!
//! # Rule
//!
//! `S` and `P` are the stable and the panic average and `target` the load one pod should carry, all in requests in
//! flight or all in requests per second; the rest are pods. In this order:
//!
//! ```text
//! r       = max(1, ready)
//! most    = ceil(max-scale-up-rate * r)
//! least   = floor(r / max-scale-down-rate)   0 when no route leads to the revision
//! stable  = min(max(ceil(S / target), least), most)     panic likewise with P
//! stable  = max(stable, activation-scale)    when that is above 1 and there is load; panic likewise
//! desired = stable, or while panicking the largest max(stable, panic) so far
//! desired = max(desired, what is kept while the load is not known)
//! desired = the largest desired within the scale-down delay, when there is one and the revision is reachable
//! ```
//!
//! [`panic`](super::panic) says when it panics, [`delay`](super::delay) what the delay keeps, [`keep`](super::keep) what is
//! kept while load is not known, [`burst`] how much load the answer leaves room for. Min-scale, max-scale and initial scale come after, in [`bounds`](super::bounds).
//!
//! # Example
//!
//! ```
//! use ebb::engine::{Decider, Observed, Spec};
//! use ebb::units::{Compat, Timestamp};
//!
//! let spec = Spec { target_value: 7.0, total_value: 10.0, ..Spec::default() };
//! let now = Timestamp::from_seconds(1000);
//! let mut decider = Decider::new(spec, 4, now, Compat::IMPROVED);
//! let decision = decider.decide(now, 4, Observed { stable: 35.0, panic: 30.0 });
//! assert_eq!(decision.desired, 5);
//! assert_eq!(decision.to_string(), "5 pods: 35.0 requests in flight / target 7.0 = 5 pods");
//! ```
//!
//! # Source
//!
//! Knative Serving, `pkg/autoscaler/scaling/autoscaler.go`: `Scale`.
//!
//! # Differences
//!
//! - A changed scale-down delay takes effect at once ([`Compat::live_scale_down_delay`]); Knative keeps the one the
//!   decider was made with until the process ends. A delay that is added knows only what is decided from then on.
//! - A number beyond 32 bits saturates and NaN is 0 ([`Compat::saturate`]); on amd64 Knative's is the smallest there is.

use super::burst;
use super::decision::{Decision, Observed, Reason};
use super::delay::DelayWindow;
use super::keep::Keep;
use super::panic::{Change, Panic};
use super::spec::Spec;
use crate::units::{self, Compat, Timestamp};
use arrayvec::ArrayVec;

/// Decides for one revision, remembering panic and the scale-down delay between decisions.
#[derive(Clone, Debug)]
pub struct Decider {
    spec: Spec,
    panic: Panic,
    pub(super) delay: Option<DelayWindow>,
    compat: Compat,
}

impl Decider {
    /// A decider for a revision that has `ready` pods at `now`.
    pub fn new(spec: Spec, ready_at_creation: i32, now: Timestamp, compat: Compat) -> Self {
        let delay = (spec.scale_down_delay.nanos() > 0).then(|| DelayWindow::new(spec.scale_down_delay));
        Self { spec, panic: Panic::new(ready_at_creation, now), delay, compat }
    }

    /// A decider that goes on where another was.
    pub(super) fn restored(spec: Spec, panic: Panic, delay: Option<DelayWindow>, compat: Compat) -> Self {
        Self { spec, panic, delay, compat }
    }

    /// What it decides by.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// Whether the revision panics.
    pub fn panic(&self) -> &Panic {
        &self.panic
    }

    /// Memory of the scale-down delay, in bytes.
    pub(super) fn heap_bytes(&self) -> usize {
        self.delay.as_ref().map_or(0, |delay| size_of_val(&*delay.candidates))
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
        let mut decision = Decision::default();
        self.decide_into(&mut decision, now, ready, observed, &Keep::default());
        decision
    }

    /// The same in place of what `decision` was, not going below what is to be kept.
    ///
    /// A decision is 400 bytes with its reasons, so that moving it would take a sixth of the time it takes to make.
    pub fn decide_into(
        &mut self,
        decision: &mut Decision,
        now: Timestamp,
        ready: i32,
        observed: Observed,
        keep: &Keep,
    ) {
        let ready = ready.max(0);
        let spec = &self.spec;
        let limits = Limits::new(spec, ready);
        let stable = Want::new(spec, &limits, observed.stable, self.compat);
        let panic = Want::new(spec, &limits, observed.panic, self.compat);
        let cause = panic.unlimited / limits.pods >= spec.panic_threshold;

        let excess_burst = burst::excess_burst(spec, ready, observed.panic);
        let (metric, target) = (spec.metric, spec.target_value);
        // Field by field: an assignment as a whole would be built elsewhere first and moved.
        decision.at = now;
        decision.desired = stable.pods;
        decision.excess_burst = self.compat.to_i32(excess_burst);
        decision.excess_burst_exact = excess_burst;
        decision.ready = ready;
        decision.observed = observed;
        decision.metric = metric;
        decision.target = target;
        let because = &mut decision.because;
        because.clear();
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

        if keep.unscraped.is_some() || keep.taken_over.is_some() {
            decision.desired = kept(keep, now, decision.desired, because);
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
    }
}

/// `wanted`, or more where more is kept. That load is not known is said even when it changes nothing.
#[cold]
fn kept(keep: &Keep, now: Timestamp, mut wanted: i32, because: &mut ArrayVec<Reason, { Reason::MOST }>) -> i32 {
    if let Some(unscraped) = keep.unscraped {
        let (since, least) = (unscraped.since, unscraped.least);
        let ago = now.since(since);
        if unscraped.counted {
            because.push(Reason::HeldLoad { since, ago });
        }
        if !unscraped.counted || wanted < least {
            because.push(Reason::Unscraped { kept: least, wanted, since, ago });
        }
        wanted = wanted.max(least);
    }
    if let Some(taken_over) = keep.taken_over
        && wanted < taken_over.least
    {
        because.push(Reason::TakenOver { kept: taken_over.least, wanted, left: taken_over.until.since(now) });
        wanted = taken_over.least;
    }
    wanted
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
            most: units::ceil(spec.max_scale_up_rate * pods),
            least: if spec.reachable { units::floor(pods / spec.max_scale_down_rate) } else { 0.0 },
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
        let unlimited = units::ceil(load / spec.target_value);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::{ScalingMetric, Span};
    use proptest::prelude::*;

    /// An even second.
    const START: Timestamp = Timestamp::from_seconds(1_785_542_400);

    fn after(millis: i64) -> Timestamp {
        START + Span::from_millis(millis)
    }

    fn strict(spec: Spec, ready: i32) -> Decider {
        Decider::new(spec, ready, START, Compat::STRICT)
    }

    /// Milliseconds, ready pods, stable and panic average; pods and excess burst capacity wanted.
    type Row = (i64, i32, f64, f64, i32, i32);

    fn play(name: &str, mut decider: Decider, rows: &[Row]) {
        for &(millis, ready, stable, panic, desired, excess_burst) in rows {
            let decision = decider.decide(after(millis), ready, Observed { stable, panic });
            assert_eq!(
                (decision.desired, decision.excess_burst),
                (desired, excess_burst),
                "{name}, at {millis} ms: {decision}"
            );
        }
    }

    #[test]
    fn from_zero_through_panic_and_back() {
        play(
            "no pod at creation",
            strict(Spec::default(), 0),
            &[
                (0, 0, 0.0, 0.0, 0, -211),
                (2000, 0, 0.05, 0.5, 1, -212),   // floor(0 - 211 - 0.5)
                (4000, 1, 70.0, 70.0, 1, -181),  // 100 - 211 - 70
                (6000, 1, 71.0, 71.0, 2, -182),  // 71 / 70 needs 2 pods, 2 / 1 ready = threshold: panic
                (8000, 1, 71.0, 141.0, 3, -252), // 141 / 70
                (10_000, 3, 71.0, 71.0, 3, 18),
                (60_000, 3, 71.0, 71.0, 3, 18),
                (68_000, 3, 71.0, 71.0, 3, 18), // exactly 60 s since the last cause
                (70_500, 3, 71.0, 71.0, 2, 18),
            ],
        );
    }

    #[test]
    fn pods_found_at_creation_are_kept_for_a_window_and_then_halved() {
        play(
            "ten pods at creation",
            strict(Spec::default(), 10),
            &[
                (0, 10, 0.0, 0.0, 10, 789),
                (30_000, 10, 0.0, 0.0, 10, 789),
                (59_000, 10, 0.0, 0.0, 10, 789),
                (61_000, 10, 0.0, 0.0, 5, 789),
                (63_000, 5, 0.0, 0.0, 2, 289),
                (65_000, 2, 0.0, 0.0, 1, -11),
                (67_000, 1, 0.0, 0.0, 0, -111),
            ],
        );
        let unreachable = Spec { reachable: false, ..Spec::default() };
        play("unreachable", strict(unreachable, 10), &[(61_000, 10, 0.0, 0.0, 0, 789)]);
    }

    #[test]
    fn rates() {
        let slow = Spec { max_scale_up_rate: 1.1, target_value: 1.0, ..Spec::default() };
        play(
            "up rate 1.1",
            strict(slow, 0),
            &[
                (0, 2, 3.0, 3.0, 3, -14),          // ceil(1.1 * 2)
                (2000, 10, 100.0, 100.0, 11, 689), // ceil(1.1 * 10)
            ],
        );
    }

    #[test]
    fn activation_scale() {
        let spec = Spec { activation_scale: 5, ..Spec::default() };
        play(
            "activation scale 5",
            strict(spec, 0),
            &[
                (0, 0, 0.0, 0.0, 0, -211),
                (2000, 0, 1.0, 1.0, 5, -212),
                (4000, 5, 100.0, 100.0, 5, 189), // 2 wanted
                (6000, 5, 0.0, 0.0, 2, 289),     // no load: the down rate alone
            ],
        );
    }

    #[test]
    fn activation_scale_may_exceed_the_up_rate() {
        let spec = Spec { activation_scale: 5, max_scale_up_rate: 2.0, ..Spec::default() };
        play("activation scale 5, up rate 2", strict(spec, 0), &[(0, 1, 1.0, 1.0, 5, -112)]);
    }

    #[test]
    fn burst_capacity() {
        let with = |burst| strict(Spec { target_burst_capacity: burst, ..Spec::default() }, 0);
        play("always in the path", with(-1.0), &[(0, 4, 100.0, 100.0, 2, -1)]);
        play("at zero only", with(0.0), &[(0, 4, 100.0, 100.0, 2, 0)]);
        play("exactly enough", with(200.0), &[(0, 4, 100.0, 100.0, 2, 100), (2000, 4, 100.0, 200.0, 2, 0)]);
        play("half a request too much", with(200.0), &[(0, 4, 100.0, 200.5, 2, -1)]);
        play("no pod", with(200.0), &[(0, 0, 0.0, 0.0, 0, -200)]);
    }

    #[test]
    fn scale_down_delay() {
        let spec = Spec { scale_down_delay: Span::from_seconds(6), ..Spec::default() };
        play(
            "delay 6 s",
            strict(spec, 0),
            &[
                (0, 1, 350.0, 70.0, 5, -181),
                (2000, 5, 70.0, 70.0, 5, 219),
                (4000, 5, 70.0, 70.0, 5, 219),
                (6000, 5, 70.0, 70.0, 2, 219), // the down rate keeps 2 of 5
                (8000, 5, 70.0, 70.0, 2, 219),
            ],
        );
    }

    #[test]
    fn requests_per_second() {
        let spec = Spec { metric: ScalingMetric::Rps, target_value: 140.0, total_value: 200.0, ..Spec::default() };
        play("rps", strict(spec, 0), &[(0, 1, 279.0, 281.0, 3, -292)]);
    }

    #[test]
    fn a_changed_delay_takes_effect_at_once_unless_strict() {
        let delay = |seconds| Spec { scale_down_delay: Span::from_seconds(seconds), ..Spec::default() };
        // The delay at creation, the delay then, and what ten seconds after 7 pods were wanted is asked for.
        for (name, created, changed, improved, strict) in [
            ("added", 0, 60, 7, 1),
            ("removed", 60, 0, 1, 7),
            ("longer", 4, 60, 7, 1),
            ("shorter", 60, 4, 1, 7),
            ("the same", 60, 60, 7, 7),
        ] {
            for (compat, want) in [(Compat::IMPROVED, improved), (Compat::STRICT, strict)] {
                let mut decider = Decider::new(delay(created), 0, START, compat);
                decider.update(delay(changed));
                let busy = Observed { stable: 490.0, panic: 0.0 };
                assert_eq!(decider.decide(after(0), 2, busy).desired, 7, "{name}");
                let quiet = decider.decide(after(10_000), 2, Observed::default());
                assert_eq!(quiet.desired, want, "{name}, {compat:?}: {quiet}");
            }
        }
    }

    #[test]
    fn numbers_beyond_32_bits_saturate_unless_strict() {
        let wide = Spec { max_scale_up_rate: 1e12, target_value: 0.01, total_value: 1e9, ..Spec::default() };
        let load = Observed { stable: 1e12, panic: 0.0 };
        let decide = |compat| {
            let decision = Decider::new(wide.clone(), 0, START, compat).decide(START, 1000, load);
            (decision.desired, decision.excess_burst)
        };
        assert_eq!(decide(Compat::IMPROVED), (i32::MAX, i32::MAX));
        assert_eq!(decide(Compat::STRICT), (i32::MIN, i32::MIN));
    }

    /// A spec whose rules all have a chance to act.
    fn any_spec() -> impl Strategy<Value = Spec> {
        (
            (1.1_f64..20.0, 1.1_f64..10.0, 0.01_f64..100.0, prop_oneof![Just(-1.0), Just(0.0), 1.0..300.0]),
            (1.1_f64..10.0, 6_i64..60, prop_oneof![Just(0_i64), 1_i64..30], 0_i32..8, any::<bool>()),
        )
            .prop_map(
                |((up, down, target, burst), (threshold, window, delay, activation_scale, reachable))| Spec {
                    max_scale_up_rate: up,
                    max_scale_down_rate: down,
                    target_value: target,
                    total_value: target * 1.4,
                    target_burst_capacity: burst,
                    panic_threshold: threshold,
                    stable_window: Span::from_seconds(window),
                    scale_down_delay: Span::from_seconds(delay),
                    activation_scale,
                    reachable,
                    ..Spec::default()
                },
            )
    }

    /// Milliseconds since the step before, ready pods, stable and panic average.
    fn any_steps() -> impl Strategy<Value = Vec<(i64, i32, f64, f64)>> {
        proptest::collection::vec((0_i64..20_000, 0_i32..50, 0.0_f64..2000.0, 0.0_f64..2000.0), 1..40)
    }

    proptest! {
        #[test]
        fn more_load_never_asks_for_fewer_pods(
            spec in any_spec(), ready in 0_i32..10, steps in any_steps(), more in 1.0_f64..3.0,
        ) {
            let mut less = Decider::new(spec.clone(), ready, START, Compat::IMPROVED);
            let mut busier = Decider::new(spec, ready, START, Compat::IMPROVED);
            let mut now = START;
            for (wait, ready, stable, panic) in steps {
                now = now + Span::from_millis(wait);
                let fewer = less.decide(now, ready, Observed { stable, panic });
                let pods = busier.decide(now, ready, Observed { stable: stable * more, panic: panic * more });
                prop_assert!(pods.desired >= fewer.desired, "{fewer}\n{pods}");
            }
        }

        #[test]
        fn the_last_number_among_the_reasons_is_the_answer(
            spec in any_spec(), ready in 0_i32..10, steps in any_steps(),
        ) {
            let mut decider = Decider::new(spec, ready, START, Compat::IMPROVED);
            let mut now = START;
            for (wait, ready, stable, panic) in steps {
                now = now + Span::from_millis(wait);
                let decision = decider.decide(now, ready, Observed { stable, panic });
                let told = decision.because.iter().fold(0.0, |pods, reason| match *reason {
                    Reason::StableTarget { wanted, .. } | Reason::PanicTarget { wanted, .. } => wanted,
                    Reason::RateLimitedUp { limit, .. } | Reason::RateLimitedDown { limit, .. } => limit,
                    Reason::ActivationScale { floor, .. } | Reason::PanicHolds { floor, .. } => f64::from(floor),
                    Reason::HeldByDelay { kept, .. } => f64::from(kept),
                    _ => pods,
                });
                prop_assert_eq!(told, f64::from(decision.desired), "{}", decision);
            }
        }

        #[test]
        fn while_panicking_the_number_never_falls(
            spec in any_spec(), ready in 0_i32..10, steps in any_steps(),
        ) {
            // The delay may keep more from before the panic, and let it go meanwhile.
            let spec = Spec { scale_down_delay: Span::ZERO, ..spec };
            let mut decider = Decider::new(spec, ready, START, Compat::IMPROVED);
            let (mut now, mut before) = (START, 0);
            for (wait, ready, stable, panic) in steps {
                now = now + Span::from_millis(wait);
                let decision = decider.decide(now, ready, Observed { stable, panic });
                prop_assert!(decision.panicking_since.is_none() || decision.desired >= before, "{decision}");
                before = if decision.panicking_since.is_some() { decision.desired } else { 0 };
            }
        }

        #[test]
        fn without_memory_the_answer_is_within_the_rates(
            spec in any_spec(), ready in 0_i32..50, stable in 0.0_f64..2000.0,
        ) {
            let spec = Spec { activation_scale: 0, scale_down_delay: Span::ZERO, ..spec };
            let limits = Limits::new(&spec, ready);
            let decision = Decider::new(spec, 0, START, Compat::IMPROVED)
                .decide(START, ready, Observed { stable, panic: 0.0 });
            let pods = f64::from(decision.desired);
            prop_assert!(limits.least <= pods && pods <= limits.most, "{decision}");
        }

        #[test]
        fn whatever_is_observed_the_answer_is_never_negative(
            spec in any_spec(), ready: i32, stable: f64, panic: f64, compat_now: i64,
        ) {
            let mut decider = Decider::new(spec, ready, Timestamp::from_nanos(compat_now), Compat::IMPROVED);
            for now in [START, after(2000)] {
                let decision = decider.decide(now, ready, Observed { stable, panic });
                prop_assert!(decision.desired >= 0, "{decision:?}");
            }
        }
    }
}
