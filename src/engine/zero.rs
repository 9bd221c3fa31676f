//! To zero and back: a revision of which no pods are wanted loses its last pod only when the activator is known to be in
//! the path, so that no request finds nobody there.
//!
//! # Rule
//!
//! The first line that fits. `want` feeds the status and the ServerlessService's mode; the scale target is written only
//! where it says so.
//!
//! | wanted | Active | and | want | written | look again after |
//! |---|---|---|---|---|---|
//! | not 0 | any | | wanted | yes | |
//! | 0 | any | scale to zero is off | 1 | yes | |
//! | 0 | Unknown | for longer than the activation time-out | 0 | yes | |
//! | 0 | Unknown | | unknown | no | what is left of the time-out, and 1 s |
//! | 0 | True | for a stable window or longer | 0 | no | 3 s when the mode is Proxy already |
//! | 0 | True | | 1 | yes | what is left of the stable window |
//! | 0 | False | activator not always in the path, and does not answer | 0 | no | its background probe ends |
//! | 0 | False | for `max(grace, retention)` or longer | 0 | yes | |
//! | 0 | False | shorter than the retention | 0 | no | what is left of it |
//! | 0 | False | activator in the path for the grace period | 0 | yes | |
//! | 0 | False | | 0 | no | what is left of the grace period |
//!
//! # Example
//!
//! ```
//! use ebb::engine::zero::{Active, Situation, Step, step};
//! use ebb::units::{Compat, Span};
//!
//! let seen = Situation {
//!     desired: 0,
//!     enabled: true,
//!     active: Active::False,
//!     active_for: Span::from_seconds(12),
//!     proxy_mode: true,
//!     in_path_for: Some(Span::from_seconds(10)),
//!     stable_window: Span::from_seconds(60),
//!     grace: Span::from_seconds(30),
//!     retention: Span::ZERO,
//!     activation_timeout: Span::from_seconds(630),
//!     always_in_path: false,
//! };
//! assert_eq!(step(&seen, None, Compat::IMPROVED), Step::Probe);
//! let Step::Done(verdict) = step(&seen, Some(true), Compat::IMPROVED) else { unreachable!() };
//! assert!(!verdict.apply);
//! assert_eq!(
//!     verdict.because.to_string(),
//!     "no pods wanted, but the activator has been in the path for only 10s of the grace period of 30s"
//! );
//! ```
//!
//! # Source
//!
//! Knative Serving, `pkg/reconciler/autoscaling/kpa/scaler.go`: `handleScaleToZero`.
//!
//! # Differences
//!
//! Knative looks again a whole activation time-out after each look at a revision that is starting, so giving up may take
//! twice as long ([`Compat::exact_activation_timeout`]).

use super::decision::Pods;
use crate::units::{Compat, Span};
use std::fmt;

/// The `Active` condition of a PodAutoscaler.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Active {
    /// It serves.
    True,
    /// It is at zero or on the way there.
    False,
    /// It is starting.
    Unknown,
}

/// Beyond the progress deadline, how long starting may take before it is given up.
pub const ACTIVATION_ALLOWANCE: Span = Span::from_seconds(30);

impl Active {
    /// What it becomes when `want` pods are wanted (`None`: not known), `ready` are, and `min_ready` make it active.
    #[must_use]
    pub fn after(self, want: Option<i32>, ready: i32, min_ready: i32) -> Self {
        if want == Some(0) || min_ready == 0 {
            Self::False
        } else if want.is_none() && self == Self::False {
            self
        } else if ready < min_ready {
            Self::Unknown
        } else {
            Self::True
        }
    }
}

/// Everything the answer depends on, apart from the probe.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Situation {
    /// Pods wanted, within the scale bounds.
    pub desired: i32,
    /// Whether scale to zero is allowed at all.
    pub enabled: bool,
    /// The `Active` condition.
    pub active: Active,
    /// For how long it has been so; negative when its time lies in the future.
    pub active_for: Span,
    /// Whether the ServerlessService's spec already asks for the activator (mode Proxy).
    pub proxy_mode: bool,
    /// For how long the activator has been in the path, if it is.
    pub in_path_for: Option<Span>,
    /// The stable window.
    pub stable_window: Span,
    /// How long the activator must have been in the path before the last pod goes.
    pub grace: Span,
    /// How long the last pod is kept in any case; 0 for an unreachable revision.
    pub retention: Span,
    /// How long pods may take to become ready: the progress deadline and 30 s.
    pub activation_timeout: Span,
    /// Whether the activator is in the path at every scale (target burst capacity -1), which needs no probe.
    pub always_in_path: bool,
}

/// What of a [`Situation`] changes from moment to moment; the rest is settings.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Moment {
    /// Pods wanted, within the scale bounds.
    pub desired: i32,
    /// The `Active` condition.
    pub active: Active,
    /// For how long it has been so; negative when its time lies in the future.
    pub active_for: Span,
    /// Whether the ServerlessService's spec already asks for the activator (mode Proxy).
    pub proxy_mode: bool,
    /// For how long the activator has been in the path, if it is.
    pub in_path_for: Option<Span>,
}

/// The answer, or what is missing for it.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Step {
    /// Ask the activator through the revision's Service whether it is in the path, and call again with the answer.
    Probe,
    /// The answer.
    Done(Verdict),
}

/// What to do about a wanted number of pods.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Verdict {
    /// The number for the status and the ServerlessService's mode; `None` is not known yet.
    pub want: Option<i32>,
    /// Whether it is to be written to the scale target now.
    pub apply: bool,
    /// When to look again although nothing else happened.
    pub look_again: Option<Span>,
    /// Whether to start a probe in the background.
    pub probe_in_background: bool,
    /// Which rule gave it.
    pub because: Why,
}

/// The rule behind a [`Verdict`]; `Display` says it in a sentence.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Why {
    /// Pods are wanted; nothing to hold back.
    Wanted {
        /// How many.
        pods: i32,
    },
    /// Scale to zero is switched off.
    Disabled,
    /// No pod became ready in time, so starting is given up.
    GivenUp {
        /// Starting for how long.
        starting_for: Span,
        /// Allowed.
        timeout: Span,
    },
    /// It is still starting.
    Starting {
        /// For how long.
        starting_for: Span,
        /// Allowed.
        timeout: Span,
    },
    /// It was active for at least a stable window, so it becomes inactive and the activator takes over; the pod stays
    /// until that is so.
    Deactivating {
        /// Active for how long.
        active_for: Span,
        /// The stable window.
        stable_window: Span,
    },
    /// It became active less than a stable window ago, so one pod stays.
    JustActivated {
        /// Active for how long.
        active_for: Span,
        /// The stable window.
        stable_window: Span,
    },
    /// The activator did not answer the probe, so it may not be in the path.
    ActivatorSilent,
    /// It was inactive for the grace period and the retention period: the last pod goes.
    IdleLongEnough {
        /// Inactive for how long.
        inactive_for: Span,
        /// The longer of grace and retention.
        needed: Span,
    },
    /// The last pod is kept for the retention period.
    Retained {
        /// Inactive for how long.
        inactive_for: Span,
        /// The retention period.
        retention: Span,
    },
    /// The activator has been in the path for the grace period: the last pod goes.
    InPathLongEnough {
        /// For how long.
        in_path_for: Span,
        /// The grace period.
        grace: Span,
    },
    /// The activator is in the path, but not for the grace period yet.
    Grace {
        /// For how long.
        in_path_for: Span,
        /// The grace period.
        grace: Span,
    },
}

/// Whether the wanted number may be applied. `probe` is the activator's answer, `None` as long as it was not asked; it
/// need only be asked when the answer is [`Step::Probe`].
pub fn step(seen: &Situation, probe: Option<bool>, compat: Compat) -> Step {
    let verdict = match seen.active {
        _ if seen.desired != 0 => {
            let want = (seen.desired > 0).then_some(seen.desired);
            Verdict { want, ..apply(0, Why::Wanted { pods: seen.desired }) }
        }
        _ if !seen.enabled => apply(1, Why::Disabled),
        Active::Unknown => starting(seen, compat),
        Active::True => active(seen),
        Active::False => match probe {
            _ if seen.always_in_path => inactive(seen),
            Some(true) => inactive(seen),
            Some(false) => Verdict { probe_in_background: true, ..hold(Some(0), None, Why::ActivatorSilent) },
            None => return Step::Probe,
        },
    };
    Step::Done(verdict)
}

fn starting(seen: &Situation, compat: Compat) -> Verdict {
    let (starting_for, timeout) = (seen.active_for, seen.activation_timeout);
    if starting_for > timeout {
        return apply(0, Why::GivenUp { starting_for, timeout });
    }
    // The comparison is strict and condition times are whole seconds, hence one second more.
    let again = if compat.exact_activation_timeout { timeout - starting_for + Span::SECOND } else { timeout };
    hold(None, Some(again), Why::Starting { starting_for, timeout })
}

fn active(seen: &Situation) -> Verdict {
    /// Long enough for the ServerlessService's status to follow its spec.
    const SETTLE: Span = Span::from_seconds(3);
    let (active_for, stable_window) = (seen.active_for, seen.stable_window);
    if active_for >= stable_window {
        let again = seen.proxy_mode.then_some(SETTLE);
        return hold(Some(0), again, Why::Deactivating { active_for, stable_window });
    }
    let again = Some(stable_window - active_for);
    Verdict { look_again: again, ..apply(1, Why::JustActivated { active_for, stable_window }) }
}

fn inactive(seen: &Situation) -> Verdict {
    let inactive_for = seen.active_for;
    let (grace, retention) = (seen.grace, seen.retention);
    let needed = grace.max(retention);
    if inactive_for >= needed {
        return apply(0, Why::IdleLongEnough { inactive_for, needed });
    }
    if retention > Span::ZERO && inactive_for < retention {
        return hold(Some(0), Some(retention - inactive_for), Why::Retained { inactive_for, retention });
    }
    let in_path_for = seen.in_path_for.unwrap_or(Span::ZERO);
    if in_path_for >= grace {
        return apply(0, Why::InPathLongEnough { in_path_for, grace });
    }
    hold(Some(0), Some(grace - in_path_for), Why::Grace { in_path_for, grace })
}

fn apply(want: i32, because: Why) -> Verdict {
    Verdict { want: Some(want), apply: true, look_again: None, probe_in_background: false, because }
}

fn hold(want: Option<i32>, look_again: Option<Span>, because: Why) -> Verdict {
    Verdict { want, apply: false, look_again, probe_in_background: false, because }
}

/// One plain fragment of a sentence with the numbers.
impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Wanted { pods } => write!(f, "{} wanted", Pods(pods)),
            Self::Disabled => f.write_str("no pods wanted, but scale to zero is switched off, so one stays"),
            Self::GivenUp { starting_for, timeout } => write!(
                f,
                "no pod became ready in {}, longer than the {timeout} allowed, so starting is given up",
                starting_for.whole_millis()
            ),
            Self::Starting { starting_for, timeout } => write!(
                f,
                "no pods wanted, but it has been starting for {} and may take {timeout}",
                starting_for.whole_millis()
            ),
            Self::Deactivating { active_for, stable_window } => write!(
                f,
                "no pods wanted, and active for {}, at least the stable window of {stable_window}: \
                 the activator takes over, and the pods stay until it has",
                active_for.whole_millis()
            ),
            Self::JustActivated { active_for, stable_window } => write!(
                f,
                "no pods wanted, but active for only {}; one pod stays for the stable window of {stable_window}",
                active_for.whole_millis()
            ),
            Self::ActivatorSilent => {
                f.write_str("no pods wanted, but the activator does not answer for it yet, so the pods stay")
            }
            Self::IdleLongEnough { inactive_for, needed } => write!(
                f,
                "no pods wanted, and inactive for {}, at least the {needed} needed: to zero",
                inactive_for.whole_millis()
            ),
            Self::Retained { inactive_for, retention } => write!(
                f,
                "no pods wanted, but inactive for only {} of the pod retention period of {retention}",
                inactive_for.whole_millis()
            ),
            Self::InPathLongEnough { in_path_for, grace } => write!(
                f,
                "no pods wanted, and the activator has been in the path for {}, \
                 at least the grace period of {grace}: to zero",
                in_path_for.whole_millis()
            ),
            Self::Grace { in_path_for, grace } => write!(
                f,
                "no pods wanted, but the activator has been in the path for only {} of the grace period of {grace}",
                in_path_for.whole_millis()
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn seconds(seconds: i64) -> Span {
        Span::from_seconds(seconds)
    }

    /// At zero load: window 60 s, grace 30 s, no retention, time-out 630 s, inactive for no time yet.
    const IDLE: Situation = Situation {
        desired: 0,
        enabled: true,
        active: Active::False,
        active_for: Span::ZERO,
        proxy_mode: true,
        in_path_for: None,
        stable_window: seconds(60),
        grace: seconds(30),
        retention: Span::ZERO,
        activation_timeout: seconds(630),
        always_in_path: false,
    };

    fn done(seen: &Situation, probe: Option<bool>, compat: Compat) -> Verdict {
        match step(seen, probe, compat) {
            Step::Done(verdict) => verdict,
            Step::Probe => panic!("a probe is asked for: {seen:?}"),
        }
    }

    #[test]
    fn what_was_measured_is_told_in_milliseconds() {
        let why = Why::InPathLongEnough { in_path_for: Span::from_nanos(30_002_843_507), grace: seconds(30) };
        assert!(why.to_string().contains("in the path for 30.002s, at least the grace period of 30s"), "{why}");
    }

    #[test]
    fn each_row_at_its_edges() {
        let nano = Span::from_nanos(1);
        let starting = Situation { active: Active::Unknown, ..IDLE };
        let serving = Situation { active: Active::True, ..IDLE };
        let kept = Situation { retention: seconds(45), ..IDLE };
        for (name, seen, want, apply, again) in [
            ("wanted", Situation { desired: 3, ..IDLE }, Some(3), true, None),
            ("not known", Situation { desired: -1, ..starting }, None, true, None),
            ("switched off", Situation { enabled: false, ..IDLE }, Some(1), true, None),
            ("given up", Situation { active_for: seconds(630) + nano, ..starting }, Some(0), true, None),
            (
                "starting to the last",
                Situation { active_for: seconds(630), ..starting },
                None,
                false,
                Some(seconds(630)),
            ),
            ("starting", Situation { active_for: seconds(30), ..starting }, None, false, Some(seconds(630))),
            ("idle", Situation { active_for: seconds(60), ..serving }, Some(0), false, Some(seconds(3))),
            (
                "idle, still served by pods",
                Situation { active_for: seconds(60), proxy_mode: false, ..serving },
                Some(0),
                false,
                None,
            ),
            ("just active", Situation { active_for: seconds(60) - nano, ..serving }, Some(1), true, Some(nano)),
            (
                "active in the future",
                Situation { active_for: seconds(-5), ..serving },
                Some(1),
                true,
                Some(seconds(65)),
            ),
            ("inactive for long", Situation { active_for: seconds(30), ..IDLE }, Some(0), true, None),
            ("kept", Situation { active_for: seconds(44), ..kept }, Some(0), false, Some(seconds(1))),
            ("kept long enough", Situation { active_for: seconds(45), ..kept }, Some(0), true, None),
            (
                "in the path for long",
                Situation { active_for: seconds(1), in_path_for: Some(seconds(30)), ..IDLE },
                Some(0),
                true,
                None,
            ),
            (
                "kept though in the path for long",
                Situation { active_for: seconds(1), in_path_for: Some(seconds(30)), ..kept },
                Some(0),
                false,
                Some(seconds(44)),
            ),
            (
                "grace",
                Situation { active_for: seconds(12), in_path_for: Some(seconds(10)), ..IDLE },
                Some(0),
                false,
                Some(seconds(20)),
            ),
            (
                "grace, not in the path",
                Situation { active_for: seconds(12), ..IDLE },
                Some(0),
                false,
                Some(seconds(30)),
            ),
        ] {
            let verdict = done(&seen, Some(true), Compat::STRICT);
            assert_eq!(
                (verdict.want, verdict.apply, verdict.look_again, verdict.probe_in_background),
                (want, apply, again, false),
                "{name}: {}",
                verdict.because
            );
        }
    }

    #[test]
    fn the_activator_is_asked_unless_it_is_always_there() {
        assert_eq!(step(&IDLE, None, Compat::STRICT), Step::Probe);
        let silent = done(&IDLE, Some(false), Compat::STRICT);
        assert_eq!((silent.want, silent.apply, silent.probe_in_background), (Some(0), false, true));
        assert_eq!(silent.because, Why::ActivatorSilent);
        let always = Situation { always_in_path: true, active_for: seconds(30), ..IDLE };
        assert_eq!(done(&always, None, Compat::STRICT), done(&always, Some(false), Compat::STRICT));
        assert!(done(&always, None, Compat::STRICT).apply);
    }

    #[test]
    fn giving_up_is_looked_at_when_it_is_due_unless_strict() {
        let seen = Situation { active: Active::Unknown, active_for: seconds(600), ..IDLE };
        assert_eq!(done(&seen, None, Compat::IMPROVED).look_again, Some(seconds(31)));
        assert_eq!(done(&seen, None, Compat::STRICT).look_again, Some(seconds(630)));
    }

    #[test]
    fn every_hold_is_explained() {
        for (seen, probe, want) in [
            (
                Situation { active: Active::Unknown, active_for: seconds(12), ..IDLE },
                None,
                "no pods wanted, but it has been starting for 12s and may take 10m30s",
            ),
            (
                Situation { active: Active::True, active_for: seconds(61), ..IDLE },
                None,
                "no pods wanted, and active for 1m1s, at least the stable window of 1m0s: the activator takes over, and the \
                 pods stay until it has",
            ),
            (
                Situation { active: Active::True, active_for: seconds(12), ..IDLE },
                None,
                "no pods wanted, but active for only 12s; one pod stays for the stable window of 1m0s",
            ),
            (IDLE, Some(false), "no pods wanted, but the activator does not answer for it yet, so the pods stay"),
            (
                Situation { active_for: seconds(12), retention: seconds(45), ..IDLE },
                Some(true),
                "no pods wanted, but inactive for only 12s of the pod retention period of 45s",
            ),
            (
                Situation { enabled: false, ..IDLE },
                None,
                "no pods wanted, but scale to zero is switched off, so one stays",
            ),
        ] {
            assert_eq!(done(&seen, probe, Compat::IMPROVED).because.to_string(), want);
        }
    }

    fn any_situation() -> impl Strategy<Value = Situation> {
        let time = || (-5_i64..700).prop_map(Span::from_seconds);
        (
            (prop_oneof![3 => Just(0), 1 => -1_i32..5], prop::bool::weighted(0.9), any::<bool>(), any::<bool>()),
            prop_oneof![Just(Active::True), Just(Active::False), Just(Active::Unknown)],
            (time(), proptest::option::of(time()), 6_i64..300, 0_i64..90, 0_i64..90, 30_i64..700),
        )
            .prop_map(|((desired, enabled, proxy_mode, always_in_path), active, times)| {
                let (active_for, in_path_for, stable_window, grace, retention, timeout) = times;
                Situation {
                    desired,
                    enabled,
                    active,
                    active_for,
                    proxy_mode,
                    in_path_for,
                    stable_window: seconds(stable_window),
                    grace: seconds(grace),
                    retention: seconds(retention),
                    activation_timeout: seconds(timeout),
                    always_in_path,
                }
            })
    }

    proptest! {
        #[test]
        fn the_last_pod_goes_only_when_the_activator_is_there_or_nothing_ever_was(
            seen in any_situation(), probe: Option<bool>,
        ) {
            let Step::Done(verdict) = step(&seen, probe, Compat::IMPROVED) else {
                prop_assert!(seen.active == Active::False && probe.is_none() && !seen.always_in_path);
                return Ok(());
            };
            if verdict.apply && verdict.want == Some(0) {
                prop_assert!(seen.enabled);
                let there = seen.active == Active::False && (seen.always_in_path || probe == Some(true));
                let given_up = matches!(verdict.because, Why::GivenUp { .. });
                prop_assert!(there || given_up);
            }
            if let Some(again) = verdict.look_again {
                prop_assert!(again > Span::ZERO);
            }
        }

        #[test]
        fn waiting_as_told_brings_another_answer(mut seen in any_situation()) {
            let before = done(&seen, Some(true), Compat::IMPROVED);
            if let (Some(again), false) = (before.look_again, matches!(before.because, Why::Deactivating { .. })) {
                seen.active_for = seen.active_for + again;
                seen.in_path_for = Some(seen.in_path_for.unwrap_or_default() + again);
                let after = done(&seen, Some(true), Compat::IMPROVED);
                prop_assert_ne!(std::mem::discriminant(&before.because), std::mem::discriminant(&after.because));
            }
        }
    }
}
