//! What `alb-deletion-policy: Delete` takes away, and when. Pure.
//!
//! # Rule
//!
//! A load balancer goes when all of this was so for [`UNNEEDED`] without a break:
//!
//! - Ebb made it and its IngressClass, nobody else has set anything in their specs, and `config-network` does not name it;
//! - no Ingress of any namespace is of the class, but for the answer for hosts nobody serves, and no other IngressClass
//!   leads to it;
//! - it could be made anew: there are vSwitches for it;
//! - no KIngress is to be served by it, and none cannot be expressed, since of that it is not known by which it would be.
//!
//! First goes that answer, then the IngressClass, then the AlbConfig, each when the one before is really gone: as long as
//! there is an Ingress, the load balancer's controller needs the other two to take it out of the cloud.
//!
//! A KIngress has a [`FINALIZER`], so that it is there until the Ingresses it led to are gone, but for [`CLEANUP`] at most.

use crate::api::conditions::from_jiff;
use crate::api::ingress::Ingress as KIngress;
use crate::routing::model::{Settings, Side};
use crate::routing::plan::{Plan, is_labelled, leads_to, uses};
use crate::units::{Span, Timestamp};
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, ObjectMeta};

/// On KIngresses, as long as the policy is `Delete`.
pub const FINALIZER: &str = "alb.knative-alb/cleanup";
/// How long nothing must have needed a load balancer.
pub const UNNEEDED: Span = Span::from_seconds(15 * 60);
/// How long a KIngress that is deleted waits for its Ingresses at most.
pub const CLEANUP: Span = Span::from_seconds(10 * 60);

const MADE_BY: &str = "/f:metadata/f:labels/f:app.kubernetes.io~1managed-by";
const DEFAULT_CLASS: &str = "ingressclass.kubernetes.io/is-default-class";

/// The sides of which nothing needs the load balancer, as far as KIngresses and Ingresses go, and that may be without one.
pub fn unneeded(plan: &Plan, existing: &[Ingress], settings: &Settings) -> Vec<Side> {
    let sides = [Side::Internet, Side::Intranet];
    if !settings.delete_unneeded || plan.outcomes.iter().any(|outcome| outcome.refused.is_some()) {
        return Vec::new();
    }
    let is_unneeded = |side: &Side| {
        let (class, balancer) = (side.class_name(), settings.balancer(*side));
        sides.iter().all(|of| settings.existing(*of) != Some(&balancer))
            && plan.classes.iter().all(|planned| planned.metadata.name.as_ref() != Some(&class))
            && !existing.iter().any(|ingress| uses(ingress, *side, settings))
    };
    sides.into_iter().filter(is_unneeded).collect()
}

/// Why the load balancer of a side stays although nothing needs it; `None` when it may go. `classes` are all there are, and
/// `manager` is who Ebb is for the API server.
pub fn keeps(
    side: Side,
    classes: &[IngressClass],
    balancer: Option<&ObjectMeta>,
    settings: &Settings,
    manager: &str,
) -> Option<String> {
    let name = settings.balancer(side);
    if settings.vswitches.as_ref().is_none_or(|ids| ids.len() < 2) {
        return Some("vswitch-ids names no two vSwitches, so it could not be made anew".to_owned());
    }
    for class in classes {
        let (meta, called) = (&class.metadata, class.metadata.name.as_deref().unwrap_or_default());
        if called == side.class_name() {
            if let Some(other) = somebody_else(meta, manager) {
                return Some(format!("of the IngressClass {called} {other}"));
            }
            if meta.annotations.as_ref().and_then(|all| all.get(DEFAULT_CLASS)).is_some_and(|is| is == "true") {
                return Some(format!("the IngressClass {called} is the cluster's default"));
            }
        } else if leads_to(class) == Some(name.as_str()) {
            return Some(format!("the IngressClass {called} leads to it"));
        }
    }
    somebody_else(balancer?, manager).map(|other| format!("of the AlbConfig {name} {other}"))
}

/// Who else has a hand in an object. One that is on its way out is beyond that.
fn somebody_else(meta: &ObjectMeta, manager: &str) -> Option<String> {
    if meta.deletion_timestamp.is_some() {
        return None;
    }
    let has = |entry: &ManagedFieldsEntry, pointer: &str| {
        entry.fields_v1.as_ref().is_some_and(|fields| fields.0.pointer(pointer).is_some())
    };
    let (ours, others): (Vec<_>, Vec<_>) =
        meta.managed_fields.iter().flatten().partition(|entry| {
            entry.manager.as_deref() == Some(manager) && entry.operation.as_deref() == Some("Apply")
        });
    if !is_labelled(meta) || !ours.iter().any(|entry| has(entry, MADE_BY)) {
        return Some("Ebb is not on record as its maker".to_owned());
    }
    let other = others.iter().find(|entry| has(entry, "/f:spec"))?;
    Some(format!("{} has set something too", other.manager.as_deref().unwrap_or("somebody")))
}

/// What is to be done about the finalizer of a KIngress.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cleanup {
    /// It is as it should be.
    Nothing,
    /// It is to have one.
    Add,
    /// It is to have none.
    Remove,
    /// It is deleted, and its Ingresses have until then.
    Wait {
        /// When.
        until: Timestamp,
    },
    /// It is to have none, although there are Ingresses still.
    GiveUp,
}

/// What is to be done. `wanted` says whether a KIngress like this has one, `leads` whether there are Ingresses of it.
pub fn cleanup(kingress: &KIngress, wanted: bool, leads: bool, now: Timestamp) -> Cleanup {
    let deleted = kingress.metadata.deletion_timestamp.as_ref().map(|at| from_jiff(at.0) + CLEANUP);
    match (has_finalizer(kingress), deleted) {
        (false, None) if wanted => Cleanup::Add,
        (false, _) => Cleanup::Nothing,
        (true, None) if wanted => Cleanup::Nothing,
        (true, Some(until)) if wanted && leads && now < until => Cleanup::Wait { until },
        (true, Some(_)) if wanted && leads => Cleanup::GiveUp,
        (true, _) => Cleanup::Remove,
    }
}

/// Whether a KIngress has Ebb's finalizer.
pub fn has_finalizer(kingress: &KIngress) -> bool {
    kingress.metadata.finalizers.iter().flatten().any(|known| known == FINALIZER)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const ME: &str = "ebb-alb";

    fn entry(manager: &str, operation: &str, subresource: &str, fields: &Value) -> Value {
        json!({"manager": manager, "operation": operation, "subresource": subresource, "fieldsType": "FieldsV1",
            "fieldsV1": fields})
    }

    fn meta(name: &str, entries: &[Value]) -> ObjectMeta {
        let labels = json!({"app.kubernetes.io/managed-by": "knative-alb"});
        serde_json::from_value(json!({"name": name, "labels": labels, "managedFields": entries})).expect("metadata")
    }

    fn made() -> Value {
        json!({"f:metadata": {"f:labels": {"f:app.kubernetes.io/managed-by": {}}}, "f:spec": {"f:config": {}}})
    }

    #[test]
    fn what_somebody_else_has_a_hand_in_is_kept() {
        let ours = entry(ME, "Apply", "", &made());
        let vswitches = Some(vec!["vsw-a".to_owned(), "vsw-b".to_owned()]);
        let settings = Settings { vswitches, ..Settings::default() };
        let keeps = |classes: &[IngressClass], balancer: &ObjectMeta| {
            keeps(Side::Internet, classes, Some(balancer), &settings, ME).unwrap_or_default()
        };
        let balancer = |entries: &[Value]| keeps(&[], &meta("knative-internet", entries));
        let status = entry("alb-controller", "Update", "status", &json!({"f:status": {}}));
        let finalizer = entry("alb-controller", "Update", "", &json!({"f:metadata": {"f:finalizers": {}}}));
        assert_eq!(balancer(&[ours.clone(), status, finalizer]), "");
        let unmade = "of the AlbConfig knative-internet Ebb is not on record as its maker";
        assert_eq!(balancer(&[]), unmade);
        assert_eq!(balancer(&[entry("kubectl", "Apply", "", &made())]), unmade);
        assert_eq!(balancer(&[entry(ME, "Update", "", &made())]), unmade);
        let spec = json!({"f:spec": {"f:config": {"f:accessLogConfig": {}}}});
        assert_eq!(balancer(&[entry(ME, "Apply", "", &spec)]), unmade, "the label is another's by now");
        assert_eq!(
            balancer(&[ours.clone(), entry("kubectl-edit", "Update", "", &spec)]),
            "of the AlbConfig knative-internet kubectl-edit has set something too"
        );
        let mut unlabelled = meta("knative-internet", std::slice::from_ref(&ours));
        unlabelled.labels = None;
        assert_eq!(keeps(&[], &unlabelled), unmade);

        let class = |meta: ObjectMeta, to: &str| -> IngressClass {
            let spec = json!({"controller": "c", "parameters": {"kind": "AlbConfig", "name": to}});
            IngressClass { metadata: meta, spec: serde_json::from_value(spec).expect("a spec") }
        };
        let good = meta("knative-internet", std::slice::from_ref(&ours));
        let name = "knative-alb-ingress-internet";
        let one = |meta: ObjectMeta, to: &str| keeps(&[class(meta, to)], &good);
        assert_eq!(one(meta(name, std::slice::from_ref(&ours)), "knative-internet"), "");
        assert_eq!(
            one(meta(name, &[]), "knative-internet"),
            format!("of the IngressClass {name} Ebb is not on record as its maker")
        );
        let mut default = meta(name, &[ours]);
        default.annotations = Some([(DEFAULT_CLASS.to_owned(), "true".to_owned())].into());
        assert_eq!(one(default, "knative-internet"), format!("the IngressClass {name} is the cluster's default"));
        assert_eq!(one(meta("mine", &[]), "knative-internet"), "the IngressClass mine leads to it");
        assert_eq!(one(meta("mine", &[]), "knative-intranet"), "");
    }

    #[test]
    fn a_load_balancer_that_config_network_names_is_needed() {
        let of = |settings: Settings| unneeded(&Plan::default(), &[], &settings);
        let delete = || Settings { delete_unneeded: true, ..Settings::default() };
        let named = |name: &str| Some(name.to_owned());
        assert_eq!(of(Settings::default()), []);
        assert_eq!(of(delete()), [Side::Internet, Side::Intranet]);
        assert_eq!(of(Settings { albconfig: named("theirs"), ..delete() }), []);
        assert_eq!(of(Settings { albconfig_intranet: named("theirs"), ..delete() }), [Side::Internet]);
        assert_eq!(of(Settings { albconfig_intranet: named("knative-internet"), ..delete() }), []);
    }

    #[test]
    fn a_finalizer_comes_with_the_policy_and_goes_in_any_case() {
        let (start, second) = (Timestamp::from_seconds(0), Span::SECOND);
        let kingress = |has: bool, deleted: bool| -> KIngress {
            let mut meta = json!({"name": "a", "namespace": "default"});
            if has {
                meta["finalizers"] = json!(["somebody/elses", FINALIZER]);
            }
            if deleted {
                meta["deletionTimestamp"] = json!("1970-01-01T00:00:00Z");
            }
            serde_json::from_value(json!({"metadata": meta, "spec": {}})).expect("a KIngress")
        };
        let until = start + CLEANUP;
        for (has, deleted, wanted, leads, now, want) in [
            (false, false, true, false, start, Cleanup::Add),
            (false, false, false, true, start, Cleanup::Nothing),
            (false, true, true, true, start, Cleanup::Nothing),
            (true, false, true, true, until, Cleanup::Nothing),
            (true, false, false, true, start, Cleanup::Remove),
            (true, true, false, true, start, Cleanup::Remove),
            (true, true, true, false, start, Cleanup::Remove),
            (true, true, true, true, until - second, Cleanup::Wait { until }),
            (true, true, true, true, until, Cleanup::GiveUp),
        ] {
            let found = cleanup(&kingress(has, deleted), wanted, leads, now);
            assert_eq!(found, want, "{has} {deleted} {wanted} {leads} {now:?}");
        }
    }
}
