//! A Deployment's pods, planned.
//!
//! Pods belong to their Deployment directly; there is no ReplicaSet between them, since there is never more than one
//! template: a revision's does not change. Pods keep the template they were made from.

use crate::api::conditions::{from_jiff, to_jiff};
use crate::local::meta::{controlled_by, fnv, name, words};
use crate::local::pods::NODE;
use crate::local::pods::status::is_ready;
use crate::units::{Span, Timestamp};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use std::cmp::Reverse;
use std::sync::Arc;

/// Letters of generated names: none that could make up a word.
const NAME_LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
/// Letters that set a pod apart from its siblings.
const SUFFIX: usize = 5;
/// Letters that stand for a pod template.
const TEMPLATE_HASH: usize = 10;
/// Seconds a Deployment may take to come up when it does not say; Kubernetes' default.
const PROGRESS_DEADLINE: i32 = 600;

/// What is to be done about a Deployment.
#[derive(Clone, PartialEq, Debug)]
pub struct Plan {
    /// How many pods are to be made.
    pub create: usize,
    /// The pods to be taken away, by name.
    pub delete: Vec<String>,
    /// What it says of itself.
    pub status: DeploymentStatus,
    /// When to look again though nothing happened: the progress deadline.
    pub look_again_in: Option<Span>,
}

/// Compares the pods of a Deployment with what it wants. `on_their_way` pods have been ordered and are not among `pods`
/// yet.
///
/// Taken away are first those that are not ready, then the youngest.
pub fn plan(deployment: &Deployment, pods: &[Arc<Pod>], on_their_way: usize, now: Timestamp) -> Plan {
    let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let wanted = usize::try_from(wanted).unwrap_or(0);
    let mut staying: Vec<&Arc<Pod>> = pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).collect();
    staying.sort_by_key(|pod| {
        let born = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
        (is_ready(pod), Reverse(born), Reverse(pod.metadata.name.clone()))
    });
    let surplus = (staying.len() + on_their_way).saturating_sub(wanted).min(staying.len());
    let delete = staying[..surplus].iter().map(|pod| name(&pod.metadata).to_owned()).collect();
    let (status, look_again_in) = status(deployment, &staying[surplus..], wanted, now);
    Plan { create: wanted.saturating_sub(staying.len() + on_their_way), delete, status, look_again_in }
}

/// A new pod of a Deployment; `number` sets it apart from all others.
pub fn pod(deployment: &Deployment, number: u64) -> Pod {
    let template = deployment.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default();
    let template_meta = template.metadata.unwrap_or_default();
    let hash = letters(fnv(serde_json::to_string(&template.spec).unwrap_or_default().as_bytes()), TEMPLATE_HASH);
    let mut spec = template.spec.unwrap_or_default();
    spec.node_name = Some(NODE.to_owned());
    spec.restart_policy.get_or_insert_with(|| "Always".to_owned());
    spec.service_account_name.get_or_insert_with(|| "default".to_owned());
    Pod {
        metadata: ObjectMeta {
            name: Some(pod_name(name(&deployment.metadata), &hash, number)),
            namespace: deployment.metadata.namespace.clone(),
            labels: Some(words(template_meta.labels.as_ref(), &[], [("pod-template-hash", &hash)])),
            annotations: template_meta.annotations,
            owner_references: Some(controlled_by(deployment)),
            ..ObjectMeta::default()
        },
        spec: Some(spec),
        status: None,
    }
}

/// `DEPLOYMENT-TEMPLATE-SUFFIX`, as Kubernetes names the pods of a Deployment.
fn pod_name(deployment: &str, hash: &str, number: u64) -> String {
    // Room is made at the cost of the Deployment's name: pod names are hosts, so 63 letters are all there are.
    let room = 63 - (SUFFIX + TEMPLATE_HASH + 2);
    let deployment = deployment.get(..room).unwrap_or(deployment);
    format!("{deployment}-{hash}-{}", letters(fnv(&number.to_le_bytes()), SUFFIX))
}

fn letters(mut number: u64, count: usize) -> String {
    let base = NAME_LETTERS.len() as u64;
    let mut letter = || {
        let letter = usize::try_from(number % base).map_or('b', |index| char::from(NAME_LETTERS[index]));
        number /= base;
        letter
    };
    (0..count).map(|_| letter()).collect()
}

fn status(
    deployment: &Deployment,
    staying: &[&Arc<Pod>],
    wanted: usize,
    now: Timestamp,
) -> (DeploymentStatus, Option<Span>) {
    let stored = deployment.status.clone().unwrap_or_default();
    let count = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
    let ready = staying.iter().filter(|pod| is_ready(pod)).count();
    let told = stored.conditions.clone().unwrap_or_default();
    let before = |type_: &str| told.iter().find(|condition| condition.type_ == type_);

    let was_complete = before("Progressing").is_some_and(|progress| {
        progress.status == "True" && progress.reason.as_deref() == Some("NewReplicaSetAvailable")
    });
    let progressed =
        count(ready) > stored.ready_replicas.unwrap_or(0) || count(staying.len()) != stored.replicas.unwrap_or(0);
    // Said once, it stays until there is progress: the time it was said at is no progress to count from.
    let has_timed_out = !progressed
        && before("Progressing").is_some_and(|progress| progress.reason.as_deref() == Some("ProgressDeadlineExceeded"));
    let since_progress = before("Progressing")
        .filter(|_| !progressed)
        .and_then(|progress| progress.last_update_time.as_ref())
        .map_or(Span::ZERO, |time| now.since(from_jiff(time.0)));
    let deadline = deployment.spec.as_ref().and_then(|spec| spec.progress_deadline_seconds);
    let deadline = Span::from_seconds(i64::from(deadline.unwrap_or(PROGRESS_DEADLINE)));
    let name = name(&deployment.metadata);

    let mut look_again_in = None;
    let progressing = if was_complete || ready >= wanted {
        // Once up, a Deployment that is scaled is not making progress towards anything: Kubernetes says so too.
        ("True", "NewReplicaSetAvailable", format!("Deployment {name:?} has successfully progressed."))
    } else if has_timed_out || since_progress >= deadline {
        ("False", "ProgressDeadlineExceeded", format!("Deployment {name:?} has timed out progressing."))
    } else {
        look_again_in = Some(deadline - since_progress);
        ("True", "ReplicaSetUpdated", format!("Deployment {name:?} is progressing."))
    };
    let available = if ready >= wanted {
        ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.".to_owned())
    } else {
        ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.".to_owned())
    };
    let condition = |type_: &str, (status, reason, message): (&str, &str, String), moved: bool| {
        let old = before(type_);
        let same = old.filter(|old| old.status == status && old.reason.as_deref() == Some(reason) && !moved);
        let at = || Some(Time(to_jiff(now.truncated())));
        DeploymentCondition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_update_time: same.and_then(|old| old.last_update_time.clone()).or_else(at),
            last_transition_time: old
                .filter(|old| old.status == status)
                .and_then(|old| old.last_transition_time.clone())
                .or_else(at),
        }
    };
    let status = DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: Some(count(staying.len())),
        updated_replicas: Some(count(staying.len())),
        ready_replicas: Some(count(ready)),
        available_replicas: Some(count(ready)),
        unavailable_replicas: Some(count(wanted.saturating_sub(ready))),
        conditions: Some(vec![
            condition("Available", available, false),
            condition("Progressing", progressing, progressed && !was_complete),
        ]),
        ..DeploymentStatus::default()
    };
    (status, look_again_in)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::apps::v1::DeploymentSpec;
    use k8s_openapi::api::core::v1::{PodCondition, PodStatus};

    const NOW: Timestamp = Timestamp::from_seconds(1_000_000);

    fn deployment(replicas: i32) -> Deployment {
        Deployment {
            metadata: ObjectMeta {
                name: Some("hello-00001-deployment".into()),
                generation: Some(1),
                ..ObjectMeta::default()
            },
            spec: Some(DeploymentSpec {
                replicas: Some(replicas),
                progress_deadline_seconds: Some(120),
                ..DeploymentSpec::default()
            }),
            status: None,
        }
    }

    fn a_pod(name: &str, born: i64, ready: bool, leaving: bool) -> Arc<Pod> {
        let time = |seconds| Some(Time(to_jiff(Timestamp::from_seconds(seconds))));
        Arc::new(Pod {
            metadata: ObjectMeta {
                name: Some(name.into()),
                creation_timestamp: time(born),
                deletion_timestamp: if leaving { time(born) } else { None },
                ..ObjectMeta::default()
            },
            status: Some(PodStatus {
                phase: Some("Running".into()),
                conditions: Some(vec![PodCondition {
                    type_: "Ready".into(),
                    status: if ready { "True" } else { "False" }.into(),
                    ..PodCondition::default()
                }]),
                ..PodStatus::default()
            }),
            ..Pod::default()
        })
    }

    #[test]
    fn pods_are_made_and_taken_away() {
        let pods = [
            a_pod("old", 10, true, false),
            a_pod("young", 30, true, false),
            a_pod("middle", 20, true, false),
            a_pod("unready", 5, false, false),
            a_pod("leaving", 1, true, true),
        ];
        for (replicas, on_their_way, create, delete) in [
            (6, 0, 2, &[][..]),
            // One is ordered already; the one that leaves does not count.
            (6, 1, 1, &[]),
            (4, 0, 0, &[]),
            (4, 2, 0, &["unready", "young"]),
            (3, 0, 0, &["unready"]),
            (1, 0, 0, &["unready", "young", "middle"]),
            (0, 0, 0, &["unready", "young", "middle", "old"]),
            (0, 3, 0, &["unready", "young", "middle", "old"]),
        ] {
            let plan = plan(&deployment(replicas), &pods, on_their_way, NOW);
            assert_eq!(
                (plan.create, plan.delete.as_slice()),
                (create, &delete.iter().map(ToString::to_string).collect::<Vec<_>>()[..]),
                "{replicas}"
            );
        }
    }

    #[test]
    fn a_deployment_that_never_comes_up_times_out_and_one_that_was_up_does_not() {
        let told = |deployment: &Deployment, pods: &[Arc<Pod>], now| {
            let plan = plan(deployment, pods, 0, now);
            let progress = plan.status.conditions.as_ref().expect("conditions")[1].clone();
            (plan.status, progress.reason.expect("a reason"), plan.look_again_in)
        };
        let unready = [a_pod("a", 1, false, false)];
        let mut coming = deployment(1);
        let (status, reason, again) = told(&coming, &unready, NOW);
        assert_eq!((reason.as_str(), again), ("ReplicaSetUpdated", Some(Span::from_seconds(120))));
        coming.status = Some(status);
        let later = |seconds| NOW + Span::from_seconds(seconds);
        let (status, reason, again) = told(&coming, &unready, later(119));
        assert_eq!((reason.as_str(), again), ("ReplicaSetUpdated", Some(Span::SECOND)));
        assert_eq!(Some(status), coming.status, "nothing happened, nothing is written");
        let (status, reason, again) = told(&coming, &unready, later(120));
        assert_eq!((reason.as_str(), again), ("ProgressDeadlineExceeded", None));
        coming.status = Some(status);
        // It once took back at the next look what it had said, and said it again a deadline later.
        let (status, reason, again) = told(&coming, &unready, later(121));
        assert_eq!((reason.as_str(), again), ("ProgressDeadlineExceeded", None));
        assert_eq!(Some(status), coming.status, "nothing happened, nothing is written");

        // It comes up after all; from then on it may be scaled and fail without being said to make no progress.
        let (status, reason, _) = told(&coming, &[a_pod("a", 1, true, false)], later(130));
        assert_eq!(reason, "NewReplicaSetAvailable");
        coming.status = Some(status);
        let (status, reason, again) = told(&coming, &unready, later(900));
        assert_eq!((reason.as_str(), again), ("NewReplicaSetAvailable", None));
        assert_eq!((status.ready_replicas, status.unavailable_replicas), (Some(0), Some(1)));
    }

    #[test]
    fn pods_are_named_as_kubernetes_names_them() {
        let made = pod(&deployment(1), 7);
        let name = made.metadata.name.expect("a name");
        let parts: Vec<_> = name.rsplitn(3, '-').collect();
        assert_eq!((parts[2], parts[1].len(), parts[0].len()), ("hello-00001-deployment", 10, 5), "{name}");
        assert_eq!(made.metadata.labels.expect("labels")["pod-template-hash"], parts[1]);
        let names: std::collections::BTreeSet<_> = (0..10_000).map(|number| pod_name("x", "h", number)).collect();
        assert!(names.len() > 9_990, "{} names of 10000 are different", names.len());
        assert!(pod_name(&"d".repeat(60), &"h".repeat(10), 1).len() <= 63);
    }
}
