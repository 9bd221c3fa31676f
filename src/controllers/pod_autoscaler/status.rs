//! What the status of a PodAutoscaler says of a revision. Pure.

use crate::api::conditions::{Conditions, POD_AUTOSCALER, Status, find};
use crate::api::pod_autoscaler::PodAutoscalerStatus;
use crate::engine::Bounds;
use crate::engine::zero::Active;
use crate::units::Timestamp;

/// Condition: whether the revision serves, is being brought up, or is at zero.
pub const ACTIVE: &str = "Active";
/// Condition: whether the initial scale was ever reached.
pub const INITIALIZED: &str = "ScaleTargetInitialized";
/// Condition: whether the network of the revision follows.
pub const SKS_READY: &str = "SKSReady";

/// How a condition that may be absent reads: what is not there is not known.
pub fn status_of(status: &PodAutoscalerStatus, type_: &str) -> Status {
    find(&status.conditions, type_).map_or(Status::Unknown, |condition| condition.status)
}

/// Whether the initial scale was ever reached.
pub fn is_initialized(status: &PodAutoscalerStatus) -> bool {
    status_of(status, INITIALIZED) == Status::True
}

/// What a reconcile starts from: the stored status with missing conditions added and, when it speaks of an older
/// generation, `Ready` not known until the end says otherwise.
pub fn starting(stored: Option<&PodAutoscalerStatus>, generation: i64, now: Timestamp) -> PodAutoscalerStatus {
    let mut status = stored.cloned().unwrap_or_default();
    let observed = status.observed_generation;
    let mut conditions = Conditions::of(&POD_AUTOSCALER, &mut status.conditions, now);
    conditions.initialize();
    if observed != generation {
        conditions.mark_unknown("Ready", "NewObservedGenFailure", "unsuccessfully observed a new generation");
    }
    status
}

/// Says whether the network follows: `Some(message)` when it does not yet.
pub fn mark_network(status: &mut PodAutoscalerStatus, not_ready: Option<&str>, now: Timestamp) {
    let mut conditions = Conditions::of(&POD_AUTOSCALER, &mut status.conditions, now);
    match not_ready {
        None => conditions.mark_true(SKS_READY),
        Some(message) => conditions.mark_unknown(SKS_READY, "NotReady", message),
    }
}

/// An object of this name exists and belongs to somebody else.
pub fn mark_not_owned(status: &mut PodAutoscalerStatus, kind: &str, name: &str, now: Timestamp) {
    let message = format!("There is an existing {kind} {name:?} that we do not own.");
    Conditions::of(&POD_AUTOSCALER, &mut status.conditions, now).mark_false(ACTIVE, "NotOwned", &message);
}

/// An object could not be created.
pub fn mark_failed_create(status: &mut PodAutoscalerStatus, kind: &str, name: &str, now: Timestamp) {
    let message = format!("Failed to create {kind} {name:?}.");
    Conditions::of(&POD_AUTOSCALER, &mut status.conditions, now).mark_false(ACTIVE, "FailedCreate", &message);
}

/// Marks the revision as serving.
pub fn mark_active(status: &mut PodAutoscalerStatus, now: Timestamp) {
    Conditions::of(&POD_AUTOSCALER, &mut status.conditions, now).mark_true(ACTIVE);
}

/// Marks the revision as being brought up.
pub fn mark_activating(status: &mut PodAutoscalerStatus, reason: &str, message: &str, now: Timestamp) {
    Conditions::of(&POD_AUTOSCALER, &mut status.conditions, now).mark_unknown(ACTIVE, reason, message);
}

/// Marks the revision as at zero.
pub fn mark_inactive(status: &mut PodAutoscalerStatus, reason: &str, message: &str, now: Timestamp) {
    Conditions::of(&POD_AUTOSCALER, &mut status.conditions, now).mark_false(ACTIVE, reason, message);
}

/// Marks the initial scale as reached, for good.
pub fn mark_initialized(status: &mut PodAutoscalerStatus, now: Timestamp) {
    Conditions::of(&POD_AUTOSCALER, &mut status.conditions, now).mark_true(INITIALIZED);
}

/// Sets the scales and the conditions that follow from what is wanted (`None`: not known) and what is ready.
pub fn compute(status: &mut PodAutoscalerStatus, want: Option<i32>, ready: i32, bounds: Bounds, now: Timestamp) {
    let min_ready = Bounds { initialized: is_initialized(status), ..bounds }.min_ready();
    status.actual_scale = Some(ready);
    // What was once known is not replaced by not knowing.
    if want.is_some() || status.desired_scale.is_none_or(|stored| stored < 0) {
        status.desired_scale = Some(want.unwrap_or(-1));
    }
    if ready >= min_ready && !status.service_name.is_empty() {
        mark_initialized(status, now);
    }
    let active = active(status);
    let no_traffic = ("NoTraffic", "The target is not receiving traffic.");
    match active.after(want, ready, min_ready) {
        // Not known to be wanted, and not active: it stays as it is, whatever is ready.
        Active::False if want.is_none() && min_ready > 0 && ready >= min_ready => {}
        Active::False => {
            let timed_out = want == Some(0) && active == Active::Unknown && min_ready > 0;
            let (reason, message) =
                if timed_out { ("TimedOut", "The target could not be activated.") } else { no_traffic };
            mark_inactive(status, reason, message, now);
        }
        Active::Unknown => {
            let message = "Requests to the target are being buffered as resources are provisioned.";
            mark_activating(status, "Queued", message, now);
        }
        Active::True => mark_active(status, now),
    }
}

/// The `Active` condition, as the engine has it.
pub fn active(status: &PodAutoscalerStatus) -> Active {
    match status_of(status, ACTIVE) {
        Status::True => Active::True,
        Status::False => Active::False,
        Status::Unknown => Active::Unknown,
    }
}
