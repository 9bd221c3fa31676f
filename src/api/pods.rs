//! What is kept of a pod, and how pods are counted.
//!
//! | phase | being deleted | `Ready` | counted as |
//! |---|---|---|---|
//! | `Pending` | any | any | pending and not ready |
//! | `Running` | yes | any | terminating and not ready |
//! | `Running` | no | `True` | ready |
//! | `Running` | no | other | not ready |
//! | any other | any | any | nothing |
//!
//! So `not_ready` includes the pending and the terminating ones (Knative's `PodAccessor` in `pkg/resources`).

use crate::api::names::REVISION_LABEL;
use crate::units::{Span, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use std::net::IpAddr;
use std::sync::Arc;

/// What is kept of a pod: a few dozen bytes of the several kilobytes an API server sends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PodFacts {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// The revision it belongs to, from its label; empty without.
    pub revision: Arc<str>,
    /// Where it is in its life.
    pub phase: Phase,
    /// Whether its first condition of type `Ready` is `True`.
    pub ready: bool,
    /// Whether it is being deleted.
    pub terminating: bool,
    /// Its address, once it has one.
    pub ip: Option<IpAddr>,
    /// When a kubelet accepted it.
    pub started: Option<Timestamp>,
    /// What keeps it from becoming ready, as far as Kubernetes says.
    pub hindered: Option<Arc<Hindrance>>,
}

/// What keeps a pod from becoming ready.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hindrance {
    /// Of what kind it is.
    pub kind: Hinders,
    /// Kubernetes' word for it, such as `ImagePullBackOff`.
    pub reason: Box<str>,
    /// What Kubernetes says about it, at most [`MOST_MESSAGE`] bytes; may be empty.
    pub message: Box<str>,
}

/// Kinds of hindrances, the one first that is told of when there are several.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Hinders {
    /// Its image cannot be had.
    Image,
    /// A container does not start, or ends as soon as it has.
    Container,
    /// No node has room for it.
    Unschedulable,
}

/// The longest message that is kept.
pub const MOST_MESSAGE: usize = 256;

impl Hindrance {
    /// What the reason a container waits for says, if it is one that does not pass by itself. `ended` is how it ended when it
    /// ran last: its exit code, and Kubernetes' word for why.
    pub fn of_waiting(reason: &str, message: &str, ended: Option<(i32, &str)>) -> Option<Self> {
        let kind = match reason {
            "ErrImagePull"
            | "ImagePullBackOff"
            | "InvalidImageName"
            | "ErrImageNeverPull"
            | "ImageInspectError"
            | "RegistryUnavailable"
            | "SignatureValidationFailed" => Hinders::Image,
            "CrashLoopBackOff"
            | "CreateContainerConfigError"
            | "CreateContainerError"
            | "RunContainerError"
            | "StartError"
            | "PostStartHookError" => Hinders::Container,
            _ => return None,
        };
        // Kubernetes' own message says how long it waits, and not for what.
        let Some((code, why)) = ended.filter(|_| kind == Hinders::Container) else {
            return Some(Self::new(kind, reason, message));
        };
        let why = if why.is_empty() { String::new() } else { format!(" ({why})") };
        let then = if message.is_empty() { "" } else { "; " };
        Some(Self::new(kind, reason, &format!("it ended with exit code {code}{why}{then}{message}")))
    }

    /// What the condition `PodScheduled` says, if it is that no node has room.
    pub fn of_scheduling(status: &str, reason: &str, message: &str) -> Option<Self> {
        let is = status == "False" && reason == "Unschedulable";
        is.then(|| Self::new(Hinders::Unschedulable, reason, message))
    }

    fn new(kind: Hinders, reason: &str, message: &str) -> Self {
        let message = message.trim().trim_end_matches('.');
        let message = if message.len() <= MOST_MESSAGE {
            message.into()
        } else {
            let end = message.floor_char_boundary(MOST_MESSAGE - '…'.len_utf8());
            format!("{}…", &message[..end]).into()
        };
        Self { kind, reason: reason.into(), message }
    }
}

/// Where a pod is in its life, as far as it matters here.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Phase {
    /// Accepted, not all containers started.
    Pending,
    /// Bound and started.
    Running,
    /// Finished, unknown, or not said.
    #[default]
    Other,
}

/// How far a pod has come.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Progress {
    /// It exists.
    Made,
    /// A kubelet took it on.
    Scheduled,
    /// Its containers run.
    Started,
    /// It serves requests.
    Ready,
}

impl PodFacts {
    /// The facts of one pod.
    pub fn of(pod: &Pod) -> Self {
        let status = pod.status.as_ref();
        let conditions = status.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
        let text = |value: Option<&String>| Arc::from(value.map_or("", String::as_str));
        Self {
            namespace: text(pod.metadata.namespace.as_ref()),
            name: text(pod.metadata.name.as_ref()),
            revision: text(pod.metadata.labels.as_ref().and_then(|labels| labels.get(REVISION_LABEL))),
            phase: match status.and_then(|status| status.phase.as_deref()) {
                Some("Pending") => Phase::Pending,
                Some("Running") => Phase::Running,
                _ => Phase::Other,
            },
            ready: conditions
                .iter()
                .find(|condition| condition.type_ == "Ready")
                .is_some_and(|condition| condition.status == "True"),
            terminating: pod.metadata.deletion_timestamp.is_some(),
            ip: status.and_then(|status| status.pod_ip.as_ref()).and_then(|ip| ip.parse().ok()),
            started: status
                .and_then(|status| status.start_time.as_ref())
                .map(|time| Timestamp::from_nanos(i64::try_from(time.0.as_nanosecond()).unwrap_or(i64::MAX))),
            hindered: Self::hindered(pod).map(Arc::new),
        }
    }

    fn hindered(pod: &Pod) -> Option<Hindrance> {
        let status = pod.status.as_ref()?;
        let scheduled = status.conditions.iter().flatten().find(|condition| condition.type_ == "PodScheduled");
        let scheduling = scheduled.and_then(|scheduled| {
            let text = |text: &Option<String>| text.clone().unwrap_or_default();
            Hindrance::of_scheduling(&scheduled.status, &text(&scheduled.reason), &text(&scheduled.message))
        });
        let waiting = status.container_statuses.iter().flatten().filter_map(|container| {
            let waiting = container.state.as_ref()?.waiting.as_ref()?;
            let ended = container.last_state.as_ref().and_then(|state| state.terminated.as_ref());
            let ended = ended.map(|ended| (ended.exit_code, ended.reason.as_deref().unwrap_or_default()));
            let text = |text: &Option<String>| text.clone().unwrap_or_default();
            Hindrance::of_waiting(&text(&waiting.reason), &text(&waiting.message), ended)
        });
        first(waiting.chain(scheduling))
    }

    /// Whether it belongs to `revision` (the value of its label) in `namespace`.
    pub fn belongs_to(&self, namespace: &str, revision: &str) -> bool {
        *self.namespace == *namespace && *self.revision == *revision
    }

    /// How far it has come.
    pub fn progress(&self) -> Progress {
        match self.phase {
            _ if self.is_ready() => Progress::Ready,
            Phase::Running => Progress::Started,
            Phase::Pending if self.started.is_some() => Progress::Scheduled,
            Phase::Pending | Phase::Other => Progress::Made,
        }
    }

    /// Whether it serves requests.
    pub fn is_ready(&self) -> bool {
        self.phase == Phase::Running && !self.terminating && self.ready
    }
}

/// The hindrance that is told of.
pub fn first(hindrances: impl IntoIterator<Item = Hindrance>) -> Option<Hindrance> {
    // Of equals the first.
    hindrances.into_iter().min_by_key(|hindrance| hindrance.kind)
}

/// How many pods of one revision are in which state.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PodCounts {
    /// Serving.
    pub ready: usize,
    /// Alive and not serving, the next two included.
    pub not_ready: usize,
    /// Not started yet.
    pub pending: usize,
    /// On their way out.
    pub terminating: usize,
}

impl PodCounts {
    /// Counts the pods of one revision.
    pub fn of<'a>(pods: impl IntoIterator<Item = &'a PodFacts>) -> Self {
        let mut counts = Self::default();
        for pod in pods {
            match pod.phase {
                Phase::Pending => {
                    counts.pending += 1;
                    counts.not_ready += 1;
                }
                Phase::Running if pod.terminating => {
                    counts.terminating += 1;
                    counts.not_ready += 1;
                }
                Phase::Running if pod.ready => counts.ready += 1,
                Phase::Running => counts.not_ready += 1,
                Phase::Other => {}
            }
        }
        counts
    }
}

/// A pod that can be asked for its load.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReadyPod {
    /// Its name.
    pub name: Arc<str>,
    /// Its address; a ready pod without one is a pod that cannot be reached.
    pub ip: Option<IpAddr>,
    /// When a kubelet accepted it.
    pub started: Option<Timestamp>,
}

impl ReadyPod {
    /// The ready ones of one revision's pods, in the order given.
    pub fn of<'a>(pods: impl IntoIterator<Item = &'a PodFacts>) -> Vec<Self> {
        pods.into_iter()
            .filter(|pod| pod.is_ready())
            .map(|pod| Self { name: pod.name.clone(), ip: pod.ip, started: pod.started })
            .collect()
    }

    /// Whether it is at least `cutoff` old at `now`. A pod that does not say when it started is young (the reference
    /// crashes on it).
    pub fn is_older(&self, now: Timestamp, cutoff: Span) -> bool {
        self.started.is_some_and(|started| now.since(started) >= cutoff)
    }
}

/// Splits ready pods into those at least `cutoff` old at `now`, and the others; both keep the order given.
pub fn split_by_age(pods: &[ReadyPod], now: Timestamp, cutoff: Span) -> (Vec<&ReadyPod>, Vec<&ReadyPod>) {
    pods.iter().partition(|pod| pod.is_older(now, cutoff))
}

/// Sorts ready pods oldest first; those that do not say when they started come last.
pub fn sort_by_age(pods: &mut [ReadyPod]) {
    pods.sort_by_key(|pod| (pod.started.is_none(), pod.started));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(phase: Phase, terminating: bool, ready: bool) -> PodFacts {
        PodFacts {
            namespace: "default".into(),
            name: "hello-00001-deployment-x7abc".into(),
            revision: "hello-00001".into(),
            phase,
            ready,
            terminating,
            ip: None,
            started: None,
            hindered: None,
        }
    }

    #[test]
    fn each_state_is_counted_as_in_the_table() {
        let counts = |ready, not_ready, pending, terminating| PodCounts { ready, not_ready, pending, terminating };
        for (phase, terminating, ready, want) in [
            (Phase::Pending, false, false, counts(0, 1, 1, 0)),
            (Phase::Pending, true, true, counts(0, 1, 1, 0)),
            (Phase::Running, true, true, counts(0, 1, 0, 1)),
            (Phase::Running, false, true, counts(1, 0, 0, 0)),
            (Phase::Running, false, false, counts(0, 1, 0, 0)),
            (Phase::Other, false, true, counts(0, 0, 0, 0)),
        ] {
            let pod = pod(phase, terminating, ready);
            assert_eq!(PodCounts::of([&pod]), want, "{phase:?}, terminating {terminating}, ready {ready}");
            assert_eq!(ReadyPod::of([&pod]).len(), want.ready);
        }
    }

    #[test]
    fn a_ready_pod_that_does_not_say_when_it_started_is_the_youngest() {
        let now = Timestamp::from_seconds(1_700_000_000);
        let ready = |name: &str, started| ReadyPod { name: name.into(), ip: None, started };
        let mut pods =
            vec![ready("unknown", None), ready("young", Some(now)), ready("old", Some(now - Span::from_seconds(60)))];
        let names = |pods: &[&ReadyPod]| pods.iter().map(|pod| pod.name.to_string()).collect::<Vec<_>>();
        let (older, younger) = split_by_age(&pods, now, Span::from_seconds(60));
        assert_eq!(names(&older), ["old"]);
        assert_eq!(names(&younger), ["unknown", "young"]);
        sort_by_age(&mut pods);
        assert_eq!(names(&pods.iter().collect::<Vec<_>>()), ["old", "young", "unknown"]);
    }

    #[test]
    fn a_pod_with_nothing_on_it_is_no_pod_of_ours() {
        let facts = PodFacts::of(&Pod::default());
        assert_eq!(PodCounts::of([&facts]), PodCounts::default());
        assert!(!facts.belongs_to("default", "hello-00001"));
    }
}
