//! To zero and back: whether a revision of which no pods are wanted may really have none.
//!
//! The last pod goes only when the activator is known to be in the path, so that no request finds nobody there.

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
            Self::GivenUp { starting_for, timeout } => {
                write!(
                    f,
                    "no pod became ready in {starting_for}, longer than the {timeout} allowed, so starting is given up"
                )
            }
            Self::Starting { starting_for, timeout } => {
                write!(f, "no pods wanted, but it has been starting for {starting_for} and may take {timeout}")
            }
            Self::Deactivating { active_for, stable_window } => write!(
                f,
                "no pods wanted, and active for {active_for}, at least the stable window of {stable_window}: \
                 the activator takes over, and the pods stay until it has"
            ),
            Self::JustActivated { active_for, stable_window } => write!(
                f,
                "no pods wanted, but active for only {active_for}; one pod stays for the stable window of {stable_window}"
            ),
            Self::ActivatorSilent => {
                f.write_str("no pods wanted, but the activator does not answer for it yet, so the pods stay")
            }
            Self::IdleLongEnough { inactive_for, needed } => {
                write!(f, "no pods wanted, and inactive for {inactive_for}, at least the {needed} needed: to zero")
            }
            Self::Retained { inactive_for, retention } => write!(
                f,
                "no pods wanted, but inactive for only {inactive_for} of the pod retention period of {retention}"
            ),
            Self::InPathLongEnough { in_path_for, grace } => write!(
                f,
                "no pods wanted, and the activator has been in the path for {in_path_for}, \
                 at least the grace period of {grace}: to zero"
            ),
            Self::Grace { in_path_for, grace } => write!(
                f,
                "no pods wanted, but the activator has been in the path for only {in_path_for} \
                 of the grace period of {grace}"
            ),
        }
    }
}
