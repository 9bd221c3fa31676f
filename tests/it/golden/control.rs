//! The runner of deciders, scale to zero, status.

use super::{Lines, Tally};
use ebb::api::annotations::Overrides;
use ebb::api::conditions::{Condition, Status};
use ebb::api::pod_autoscaler::PodAutoscalerStatus;
use ebb::config::{Autoscaler, Deployment, Resolved};
use ebb::controllers::pod_autoscaler::plan::{self, ScaleStep, Seen};
use ebb::controllers::pod_autoscaler::status as pa;
use ebb::deciders::TICK;
use ebb::deciders::published::Published;
use ebb::deciders::schedule::Cadence;
use ebb::engine::Bounds;
use ebb::units::{Compat, Span, Timestamp};
use serde::Deserialize;
use std::collections::BTreeMap;

#[derive(Deserialize)]
struct RunnerLine {
    case: u64,
    op: String,
    #[serde(default)]
    initial_scale: i32,
    #[serde(default)]
    target_burst_capacity: f64,
    #[serde(default)]
    total_value: f64,
    #[serde(default)]
    elapsed_ns: i64,
    #[serde(default)]
    avg_conc: f64,
    uniscaler_result: Option<Scripted>,
    want: RunnerWant,
}

#[derive(Deserialize, Clone, Copy)]
struct Scripted {
    desired: i32,
    ebc: i32,
    valid: bool,
}

#[derive(Deserialize, Debug, PartialEq)]
struct RunnerWant {
    desired: i32,
    ebc: i32,
    #[serde(default)]
    evaluations: u32,
    #[serde(default)]
    informs: u32,
}

/// The runner around one decider: when it evaluates, and whom it tells.
pub(super) fn multiscaler(lines: &mut Lines, tally: &mut Tally) {
    let start = Timestamp::from_seconds(1_700_000_000);
    let mut published = Published::undecided(0);
    let mut cadence = Cadence::starting(start, TICK);
    while let Some(line) = lines.next::<RunnerLine>() {
        let (mut evaluations, mut informs) = (0, 0);
        let mut evaluate = |published: &mut Published, result: Scripted| {
            evaluations += 1;
            if result.valid && published.take_in(result.desired, result.ebc) {
                informs += 1;
            }
        };
        match line.op.as_str() {
            "create" => {
                let spec = ebb::engine::Spec {
                    initial_scale: line.initial_scale,
                    target_burst_capacity: line.target_burst_capacity,
                    total_value: line.total_value,
                    ..ebb::engine::Spec::default()
                };
                published = Published::undecided(ebb::engine::burst::initial_excess_burst(&spec, Compat::STRICT));
                cadence = Cadence::starting(start, TICK);
            }
            "advance" => {
                let now = start + Span::from_nanos(line.elapsed_ns);
                // Time passes tick by tick, as it does for a running process.
                while cadence.next() <= now {
                    let due = cadence.next();
                    assert!(cadence.take(due), "a turn is due at its own time");
                    evaluate(&mut published, line.uniscaler_result.expect("a scripted result"));
                }
            }
            "poke" => {
                if published.pokes(line.avg_conc, Compat::STRICT) {
                    evaluate(&mut published, line.uniscaler_result.expect("a scripted result"));
                }
            }
            other => panic!("unknown op {other}"),
        }
        let got =
            RunnerWant { desired: published.desired.unwrap_or(-1), ebc: published.excess_burst, evaluations, informs };
        tally.check(got == line.want, || {
            format!(
                "multiscaler case {} {} at {} ns: want {:?}, got {got:?}",
                line.case, line.op, line.elapsed_ns, line.want
            )
        });
    }
}

#[derive(Deserialize)]
struct StatusLine {
    case: u64,
    kind: String,
    op: Option<String>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    #[serde(default)]
    config: BTreeMap<String, String>,
    #[serde(default)]
    before: Vec<GoldenCondition>,
    desired_before: Option<i32>,
    #[serde(default)]
    service_name: String,
    #[serde(default)]
    reachability: String,
    #[serde(default)]
    ready: i32,
    #[serde(default)]
    want_scale: i32,
    #[serde(default)]
    resource_kind: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    message: String,
    #[serde(default)]
    reason: String,
    want: StatusWant,
}

#[derive(Deserialize, Debug)]
struct StatusWant {
    conditions: Vec<GoldenCondition>,
    actual_scale: Option<i32>,
    desired_scale: Option<i32>,
    active_threshold: Option<i32>,
    is_activating: Option<bool>,
    is_active: Option<bool>,
    is_inactive: Option<bool>,
    is_initialized: Option<bool>,
    ready_condition_true: Option<bool>,
}

#[derive(Deserialize, Debug, Clone, PartialEq)]
struct GoldenCondition {
    #[serde(rename = "type")]
    type_: String,
    status: Status,
    severity: String,
    reason: String,
    message: String,
    time_changed: Option<bool>,
}

/// Conditions and scales of a PodAutoscaler.
pub(super) fn status(lines: &mut Lines, tally: &mut Tally) {
    let mut now = Timestamp::from_seconds(1_700_000_000);
    let mut chain = PodAutoscalerStatus::default();
    while let Some(line) = lines.next::<StatusLine>() {
        if line.kind == "compute_status" {
            compute_status(&line, now, tally);
            continue;
        }
        let before = chain.conditions.clone();
        // The recorded clock sometimes stood still, which decides ties. It shows only where a change kept its time:
        // then it still is the time of the change before.
        let kept = line.want.conditions.iter().find_map(|want| {
            let old = before.iter().find(|old| old.type_ == want.type_)?;
            (want.time_changed == Some(false) && !same_but_for_time(old, want)).then_some(old.last_transition_time)?
        });
        now = kept.map_or(now + Span::SECOND, ebb::api::conditions::from_jiff);
        match line.op.as_deref().expect("a mark chain has an op") {
            // Some chains start from a status nobody has initialized; only the expectation tells.
            "start" if line.want.conditions.is_empty() => chain = PodAutoscalerStatus::default(),
            "start" => chain = pa::starting(None, 0, now),
            "active" => pa::mark_active(&mut chain, now),
            "initialized" => pa::mark_initialized(&mut chain, now),
            "sks_ready" => pa::mark_network(&mut chain, None, now),
            "sks_not_ready" => pa::mark_network(&mut chain, Some(&line.message), now),
            "inactive" => pa::mark_inactive(&mut chain, &line.reason, &line.message, now),
            "activating" => pa::mark_activating(&mut chain, &line.reason, &line.message, now),
            "not_owned" => pa::mark_not_owned(&mut chain, &line.resource_kind, &line.name, now),
            "failed_create" => pa::mark_failed_create(&mut chain, &line.resource_kind, &line.name, now),
            other => panic!("unknown op {other}"),
        }
        let mut got = rendered(&chain.conditions, &before);
        for (got, want) in got.iter_mut().zip(&line.want.conditions) {
            // A real change in no time leaves no trace, and the start has no time before it: as the data's README
            // says, whether the time moved tells something only of what did not change.
            if !before.iter().any(|old| same_but_for_time(old, want)) || want.time_changed.is_none() {
                got.time_changed = want.time_changed;
            }
        }
        tally.check(got == line.want.conditions, || {
            format!("status case {} {:?}: want {:#?}, got {got:#?}", line.case, line.op, line.want.conditions)
        });
    }
}

fn compute_status(line: &StatusLine, now: Timestamp, tally: &mut Tally) {
    let mut status = PodAutoscalerStatus {
        conditions: line.before.iter().map(|golden| condition(golden, now)).collect(),
        desired_scale: line.desired_before,
        service_name: line.service_name.clone(),
        ..PodAutoscalerStatus::default()
    };
    let before = status.conditions.clone();
    let bounds = resolved(&line.annotations, &line.config, &line.reachability, None).bounds(false);
    let want = (line.want_scale >= 0).then_some(line.want_scale);
    let threshold = Bounds { initialized: pa::is_initialized(&status), ..bounds }.min_ready();
    pa::compute(&mut status, want, line.ready, bounds, now + Span::SECOND);

    let active = pa::status_of(&status, pa::ACTIVE);
    let got = rendered(&status.conditions, &before);
    let agrees = got == line.want.conditions
        && status.actual_scale == line.want.actual_scale
        && status.desired_scale == line.want.desired_scale
        && Some(threshold) == line.want.active_threshold
        && Some(active == Status::Unknown) == line.want.is_activating
        && Some(active == Status::True) == line.want.is_active
        && Some(active == Status::False) == line.want.is_inactive
        && Some(pa::is_initialized(&status)) == line.want.is_initialized
        && Some(pa::status_of(&status, "Ready") == Status::True) == line.want.ready_condition_true;
    tally.check(agrees, || {
        format!("status case {}: want {:#?}, got {status:#?}, threshold {threshold}, {got:#?}", line.case, line.want)
    });
}

fn same_but_for_time(a: &Condition, b: &GoldenCondition) -> bool {
    a.type_ == b.type_ && a.status == b.status && a.reason == b.reason && a.message == b.message
}

fn condition(golden: &GoldenCondition, now: Timestamp) -> Condition {
    Condition {
        type_: golden.type_.clone(),
        status: golden.status,
        severity: golden.severity.clone(),
        last_transition_time: Some(ebb::api::conditions::to_jiff(now)),
        reason: golden.reason.clone(),
        message: golden.message.clone(),
    }
}

fn rendered(conditions: &[Condition], before: &[Condition]) -> Vec<GoldenCondition> {
    conditions
        .iter()
        .map(|condition| GoldenCondition {
            type_: condition.type_.clone(),
            status: condition.status,
            severity: condition.severity.clone(),
            reason: condition.reason.clone(),
            message: condition.message.clone(),
            time_changed: Some(
                !before.iter().any(|old| {
                    old.type_ == condition.type_ && old.last_transition_time == condition.last_transition_time
                }),
            ),
        })
        .collect()
}

/// A revision's settings. `progress_deadline` is the cluster's, where the vector gives one.
fn resolved(
    annotations: &BTreeMap<String, String>,
    config: &BTreeMap<String, String>,
    reachability: &str,
    progress_deadline: Option<Span>,
) -> Resolved {
    let autoscaler = Autoscaler::parse(config, Compat::STRICT).expect("a valid config-autoscaler");
    let mut deployment = Deployment::default();
    if let Some(deadline) = progress_deadline {
        deployment.progress_deadline.value = deadline;
    }
    let (overrides, _) = Overrides::read(annotations, Compat::STRICT);
    ebb::config::resolve(&autoscaler, &deployment, &overrides, 0, reachability)
}

#[derive(Deserialize)]
struct ZeroLine {
    case: u64,
    kind: String,
    active: Status,
    active_for_ns: i64,
    annotations: BTreeMap<String, String>,
    config: BTreeMap<String, String>,
    current_replicas: Option<i32>,
    desired_scale: i32,
    initialized: bool,
    probe: String,
    progress_deadline_ns: i64,
    reachability: String,
    sks_mode: String,
    sks_proxy_for_ns: Option<i64>,
    want: ZeroWant,
}

#[derive(Deserialize, Debug, PartialEq)]
struct ZeroWant {
    scale: i32,
    should_apply: Option<bool>,
    patch: Option<i32>,
    enqueue_after_ns: Vec<i64>,
    sync_probe_called: bool,
    async_probe_offered: bool,
}

/// The step to zero alone, and the whole way from decision to patch.
pub(super) fn scale_to_zero(lines: &mut Lines, tally: &mut Tally) {
    while let Some(line) = lines.next::<ZeroLine>() {
        let resolved = resolved(
            &line.annotations,
            &line.config,
            &line.reachability,
            Some(Span::from_nanos(line.progress_deadline_ns)),
        );
        let seen = Seen {
            desired: (line.desired_scale >= 0).then_some(line.desired_scale),
            active: line.active,
            active_for: Span::from_nanos(line.active_for_ns),
            initialized: line.initialized,
            proxy_mode: line.sks_mode == "Proxy",
            in_path_for: line.sks_proxy_for_ns.map(Span::from_nanos),
        };
        let whole = line.kind == "scale";
        let mut probed = false;
        let mut answer = None;
        let scale = loop {
            let step = if whole {
                plan::scale(&resolved, &seen, answer, Compat::STRICT)
            } else {
                plan::zero_step(&resolved, &seen, line.desired_scale, None, answer, Compat::STRICT)
            };
            match step {
                ScaleStep::Done(scale) => break scale,
                ScaleStep::Probe => {
                    assert!(!probed, "asked for a second probe");
                    probed = true;
                    answer = Some(line.probe == "true");
                }
            }
        };
        // A target without replicas has one.
        let patch = scale.want.filter(|want| scale.apply && *want != line.current_replicas.unwrap_or(1));
        let got = ZeroWant {
            scale: scale.want.unwrap_or(-1),
            should_apply: (!whole).then_some(scale.apply),
            patch: patch.filter(|_| whole),
            enqueue_after_ns: scale.look_again.iter().map(|again| again.nanos()).collect(),
            sync_probe_called: probed,
            async_probe_offered: scale.probe_in_background,
        };
        tally.check(got == line.want, || {
            format!("scale_to_zero case {}: want {:?}, got {got:?}, {scale:?}", line.case, line.want)
        });
    }
}
