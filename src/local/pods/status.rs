//! A pod's status: told by its runner, read by everybody else.

use crate::api::conditions::to_jiff;
use crate::api::names::QUEUE_CONTAINER;
use crate::local::pods::HOST_IP;
use crate::local::pods::container::user_container;
use crate::units::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus, HostIP,
    Pod, PodCondition, PodIP, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use std::net::Ipv4Addr;

/// Whether a pod has an address and its containers have been started; it may be on its way out.
pub fn is_running(pod: &Pod) -> bool {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running")
}

/// Whether a pod takes requests: running, ready and not on its way out.
pub fn is_ready(pod: &Pod) -> bool {
    let ready = pod.status.iter().filter_map(|status| status.conditions.as_ref()).flatten();
    is_running(pod)
        && pod.metadata.deletion_timestamp.is_none()
        && ready.into_iter().find(|condition| condition.type_ == "Ready").is_some_and(|ready| ready.status == "True")
}

/// What the runner of a pod knows of it.
#[derive(Clone, PartialEq, Debug)]
pub struct Told {
    /// Its address, once it has one.
    pub ip: Option<Ipv4Addr>,
    /// When the runner took it on.
    pub since: Timestamp,
    /// What the user container does.
    pub state: State,
    /// Why the user container ended, the last time it did.
    pub last_end: Option<End>,
    /// How often it was started again.
    pub restarts: i32,
}

/// What a user container does.
#[derive(Clone, PartialEq, Debug)]
pub enum State {
    /// It does not run: being created, or kept back.
    Waiting {
        /// One word, such as `ContainerCreating` or `CrashLoopBackOff`.
        reason: &'static str,
        /// A sentence for people; may be empty.
        message: String,
        /// Whether it ran before, so that the pod's phase is `Running` already.
        ran: bool,
    },
    /// It runs.
    Running {
        /// Since when.
        since: Timestamp,
        /// Since when it takes requests; absent while it does not.
        ready: Option<Timestamp>,
        /// Why it takes none; may be empty.
        message: String,
    },
}

/// How a user container ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct End {
    /// What it returned; 128 and more for a signal.
    pub exit_code: i32,
    /// One word: `Completed`, `Error` or `StartError`.
    pub reason: &'static str,
    /// Its last words; may be empty.
    pub message: String,
    /// When it had started.
    pub started: Timestamp,
    /// When it ended.
    pub ended: Timestamp,
}

/// The status of a pod, with the transition times of `pod`'s present one where nothing changed.
pub fn pod_status(pod: &Pod, told: &Told) -> PodStatus {
    let (running, ready) = match &told.state {
        State::Waiting { ran, .. } => (*ran, None),
        State::Running { ready, .. } => (true, *ready),
    };
    let unready = match &told.state {
        State::Running { ready: Some(_), .. } => None,
        State::Running { message, .. } | State::Waiting { message, .. } => {
            Some(("ContainersNotReady", message.as_str()))
        }
    };
    let changed = ready.unwrap_or(match &told.state {
        State::Running { since, .. } => *since,
        State::Waiting { .. } => told.last_end.as_ref().map_or(told.since, |end| end.ended),
    });
    let condition = |type_: &str, holds: bool, since: Timestamp, why_not: Option<(&str, &str)>| {
        let status = if holds { "True" } else { "False" };
        let before = pod.status.iter().filter_map(|status| status.conditions.as_ref()).flatten();
        let kept = before
            .into_iter()
            .find(|old| old.type_ == type_ && old.status == status)
            .and_then(|old| old.last_transition_time.clone());
        PodCondition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: why_not.map(|(reason, _)| reason.to_owned()),
            message: why_not.map(|(_, message)| message.to_owned()).filter(|message| !message.is_empty()),
            last_transition_time: Some(kept.unwrap_or_else(|| time(since))),
            ..PodCondition::default()
        }
    };
    PodStatus {
        phase: Some(if running { "Running" } else { "Pending" }.to_owned()),
        conditions: Some(vec![
            condition("PodReadyToStartContainers", told.ip.is_some(), told.since, None),
            condition("Initialized", true, told.since, None),
            condition("Ready", ready.is_some(), changed, unready),
            condition("ContainersReady", ready.is_some(), changed, unready),
            condition("PodScheduled", true, told.since, None),
        ]),
        host_ip: Some(HOST_IP.to_string()),
        host_ips: Some(vec![HostIP { ip: HOST_IP.to_string() }]),
        pod_ip: told.ip.map(|ip| ip.to_string()),
        pod_ips: told.ip.map(|ip| vec![PodIP { ip: ip.to_string() }]),
        start_time: Some(time(told.since)),
        qos_class: Some("BestEffort".to_owned()),
        container_statuses: Some(container_statuses(pod, told, ready.is_some())),
        ..PodStatus::default()
    }
}

fn container_statuses(pod: &Pod, told: &Told, ready: bool) -> Vec<ContainerStatus> {
    let status = |name: &str, state: ContainerState, last: Option<ContainerState>, restarts: i32| {
        let spec = pod.spec.iter().flat_map(|spec| &spec.containers).find(|container| container.name == name);
        let image = spec.and_then(|container| container.image.clone()).unwrap_or_default();
        let running = state.running.is_some();
        ContainerStatus {
            name: name.to_owned(),
            image_id: image.clone(),
            image,
            ready: ready && running,
            started: Some(running),
            restart_count: restarts,
            state: Some(state),
            last_state: last,
            ..ContainerStatus::default()
        }
    };
    let waiting = |reason: &str, message: &str| ContainerState {
        waiting: Some(ContainerStateWaiting {
            reason: Some(reason.to_owned()),
            message: (!message.is_empty()).then(|| message.to_owned()),
        }),
        ..ContainerState::default()
    };
    let running = |since: Timestamp| ContainerState {
        running: Some(ContainerStateRunning { started_at: Some(time(since)) }),
        ..ContainerState::default()
    };
    let last = told.last_end.as_ref().map(|end| ContainerState {
        terminated: Some(ContainerStateTerminated {
            exit_code: end.exit_code,
            reason: Some(end.reason.to_owned()),
            message: (!end.message.is_empty()).then(|| end.message.clone()),
            started_at: Some(time(end.started)),
            finished_at: Some(time(end.ended)),
            ..ContainerStateTerminated::default()
        }),
        ..ContainerState::default()
    });

    let mut statuses = Vec::with_capacity(2);
    let has_queue =
        pod.spec.iter().flat_map(|spec| &spec.containers).any(|container| container.name == QUEUE_CONTAINER);
    if has_queue {
        let state = match &told.state {
            State::Waiting { ran: false, .. } => waiting("ContainerCreating", ""),
            State::Waiting { .. } => running(told.since),
            State::Running { since, .. } => running(*since),
        };
        statuses.push(status(QUEUE_CONTAINER, state, None, 0));
    }
    let user = user_container(pod).map(|container| container.name.clone()).unwrap_or_default();
    let state = match &told.state {
        State::Waiting { reason, message, .. } => waiting(reason, message),
        State::Running { since, .. } => running(*since),
    };
    statuses.push(status(&user, state, last, told.restarts));
    statuses
}

fn time(at: Timestamp) -> Time {
    // Kubernetes tells whole seconds.
    Time(to_jiff(at.truncated()))
}
