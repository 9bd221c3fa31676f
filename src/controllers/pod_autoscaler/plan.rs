//! What to do about one PodAutoscaler. Pure: the same sight gives the same plan, and what the cluster already has is
//! not written again.

use crate::api::conditions::{Status, find, from_jiff};
use crate::api::metric::{Metric, MetricSpec};
use crate::api::names::METRIC_ANNOTATION;
use crate::api::pod_autoscaler::{PodAutoscaler, PodAutoscalerStatus};
use crate::api::pods::{Hinders, Hindrance, PodCounts};
use crate::api::serverless_service::{Mode, ServerlessService, ServerlessServiceSpec};
use crate::config::resolve::Resolved;
use crate::controllers::pod_autoscaler::probe::{Answer, Probe};
use crate::controllers::pod_autoscaler::status::{ACTIVE, is_initialized, status_of};
use crate::engine::burst::behind_activator;
use crate::engine::zero::{self, Active, Moment, Step, Why};
use crate::engine::{Decision, Reason};
use crate::routing::gate::Members;
use crate::routing::gate::contract::Leave;
use crate::units::{Compat, NANOS_PER_SECOND, Span, Timestamp, count_f64};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Resource as _;

/// Beyond the grace period, how long the path of requests may take to lead to the activator before that is told of.
const SETTLES: Span = Span::from_seconds(30);

/// What the number of pods depends on, beside the resolved settings.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Seen {
    /// What the decider wants; `None` before its first decision.
    pub desired: Option<i32>,
    /// The `Active` condition.
    pub active: Status,
    /// For how long it has been so.
    pub active_for: Span,
    /// Whether the initial scale was ever reached.
    pub initialized: bool,
    /// Whether the ServerlessService's spec asks for the activator.
    pub proxy_mode: bool,
    /// For how long the activator has been in the path, if it is.
    pub in_path_for: Option<Span>,
}

impl Seen {
    /// Reads what there is to see on the objects.
    pub fn on(
        status: &PodAutoscalerStatus,
        sks: Option<&ServerlessService>,
        desired: Option<i32>,
        now: Timestamp,
    ) -> Self {
        let active_for = find(&status.conditions, ACTIVE).map_or(Span::ZERO, |active| active.age(now));
        let in_path = sks
            .and_then(|sks| sks.status.as_ref())
            .and_then(|status| find(&status.conditions, "ActivatorEndpointsPopulated"))
            .filter(|condition| condition.status == Status::True);
        Self {
            desired,
            active: status_of(status, ACTIVE),
            active_for,
            initialized: is_initialized(status),
            proxy_mode: sks.is_some_and(|sks| sks.spec.mode == Mode::Proxy),
            in_path_for: in_path.map(|condition| condition.age(now)),
        }
    }
}

/// The number of pods, and what else follows.
#[derive(Clone, PartialEq, Debug)]
pub struct Scale {
    /// For the status and the mode; `None` is not known yet.
    pub want: Option<i32>,
    /// Whether the scale target is to have that number now.
    pub apply: bool,
    /// When to look again although nothing else happened.
    pub look_again: Option<Span>,
    /// Whether to start a probe in the background.
    pub probe_in_background: bool,
    /// The bound that changed the number.
    pub bound: Option<Reason>,
    /// What held or let go the last pod; `None` when there was no decision to act on.
    pub why: Option<Why>,
    /// Why a load balancer keeps the last pod, in words; `None` when it does not.
    pub held: Option<String>,
}

/// The plan, or what is missing for it.
#[derive(Clone, PartialEq, Debug)]
pub enum ScaleStep {
    /// Ask the activator and plan again with its answer.
    Probe,
    /// The plan.
    Done(Scale),
}

/// How many pods the scale target is to have.
pub fn scale(resolved: &Resolved, seen: &Seen, probe: Option<bool>, compat: Compat) -> ScaleStep {
    if seen.desired.is_none() && seen.active != Status::Unknown {
        return ScaleStep::Done(Scale {
            want: None,
            apply: false,
            look_again: None,
            probe_in_background: false,
            bound: None,
            why: None,
            held: None,
        });
    }
    let (desired, bound) = resolved.bounds(seen.initialized).clamp(seen.desired.unwrap_or(-1));
    zero_step(resolved, seen, desired, bound, probe, compat)
}

/// Whether `desired`, within the bounds already, may be applied.
pub fn zero_step(
    resolved: &Resolved,
    seen: &Seen,
    desired: i32,
    bound: Option<Reason>,
    probe: Option<bool>,
    compat: Compat,
) -> ScaleStep {
    let active = match seen.active {
        Status::True => Active::True,
        Status::False => Active::False,
        Status::Unknown => Active::Unknown,
    };
    let situation = resolved.situation(&Moment {
        desired,
        active,
        active_for: seen.active_for,
        proxy_mode: seen.proxy_mode,
        in_path_for: seen.in_path_for,
    });
    match zero::step(&situation, probe, compat) {
        Step::Probe => ScaleStep::Probe,
        Step::Done(verdict) => ScaleStep::Done(Scale {
            want: verdict.want,
            apply: verdict.apply,
            look_again: verdict.look_again,
            probe_in_background: verdict.probe_in_background,
            bound,
            why: Some(verdict.because),
            held: None,
        }),
    }
}

/// The rules behind the number of a plan, in words; `decision` is what it was made from.
pub fn because(decision: Option<&Decision>, scale: &Scale) -> String {
    let rules =
        decision.into_iter().flat_map(|decision| &decision.because).chain(&scale.bound).map(ToString::to_string);
    rules.chain(zero_in_words(scale)).collect::<Vec<_>>().join("; ")
}

/// What held the last pod or let it go, in words, if there was anything to hold. What a load balancer keeps does not go,
/// whatever else would have let it.
pub fn zero_in_words(scale: &Scale) -> Option<String> {
    let why = scale.why.filter(|why| !matches!(why, Why::Wanted { .. }));
    scale.held.clone().or_else(|| why.map(|why| why.to_string()))
}

/// What keeps a revision from having the pods it wants, or from losing the last one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stuck {
    /// The reason of the event that tells of it.
    pub reason: &'static str,
    /// What it is, with the numbers and the way out; the second half of a sentence.
    pub text: String,
}

impl Stuck {
    /// The image of its pods cannot be pulled.
    pub const IMAGE: &'static str = "ImagePullFailing";
    /// A container of its pods does not start.
    pub const CONTAINER: &'static str = "ContainerNotStarting";
    /// No node has room for its pods.
    pub const UNSCHEDULABLE: &'static str = "NoRoomForPods";
    /// The last pod cannot go, because requests would find nobody.
    pub const NOT_IN_PATH: &'static str = "ActivatorNotInPath";
}

/// What a revision is stuck at, if that is known: `hindered` tells what Kubernetes says of its pods, `heard` what the last
/// probe of the activator was answered.
pub fn stuck(
    resolved: &Resolved,
    seen: &Seen,
    scale: &Scale,
    pods: PodCounts,
    hindered: Option<(usize, &Hindrance)>,
    heard: Option<(&Probe, &Answer)>,
) -> Option<Stuck> {
    let wants_more = scale.want.is_none_or(|want| count_f64(pods.ready) < f64::from(want));
    if let Some((count, hindrance)) = hindered.filter(|_| wants_more) {
        let of = if count == 1 { "its pod".to_owned() } else { format!("{count} of its pods") };
        let Hindrance { kind, reason, message } = hindrance;
        let said = if message.is_empty() { String::new() } else { format!(": {message}") };
        let (reason, text) = match kind {
            Hinders::Image => (Stuck::IMAGE, format!("the image of {of} cannot be pulled ({reason}){said}")),
            Hinders::Container => (Stuck::CONTAINER, format!("a container of {of} does not start ({reason}){said}")),
            Hinders::Unschedulable => {
                (Stuck::UNSCHEDULABLE, format!("no node has room for {of}, until one is added or others leave{said}"))
            }
        };
        return Some(Stuck { reason, text });
    }
    let patience = resolved.scale_to_zero_grace_period.value + SETTLES;
    let silent = scale.why == Some(Why::ActivatorSilent) && seen.active_for > patience && pods.ready > 0;
    let (probe, answer) = heard.filter(|(_, answer)| silent && **answer != Answer::Urged)?;
    let for_ = Span::from_seconds(seen.active_for.nanos() / NANOS_PER_SECOND);
    Some(Stuck {
        reason: Stuck::NOT_IN_PATH,
        text: format!(
            "the last pod cannot go, because for {for_} the activator has not been in the path of requests: {probe} {answer}"
        ),
    })
}

/// Where requests go: to the pods while pods are wanted and there is room for a burst, to activators otherwise.
pub fn mode(want: Option<i32>, excess_burst: i32) -> Mode {
    if behind_activator(want, excess_burst) { Mode::Proxy } else { Mode::Serve }
}

/// What the public Service leads to, as its ServerlessService says, and since when. Nothing is known of it while that tells of
/// another generation or could not be brought about, nor where activators stand in for pods that take over as soon as they are
/// ready: by the time that is told, it leads to them.
pub fn written(sks: Option<&ServerlessService>) -> Option<(Members, Timestamp)> {
    let sks = sks?;
    let status = sks.status.as_ref()?;
    let in_path = find(&status.conditions, "ActivatorEndpointsPopulated")?;
    let is_current = Some(status.observed_generation) == sks.metadata.generation;
    // A generation counts as observed where it failed, too, and then what was said before still stands. Only of one that
    // succeeded Ready is true, or not known for the one reason that no pod is ready.
    let ready = find(&status.conditions, "Ready")?;
    let is_done = ready.status == Status::True || ready.reason == "NoHealthyBackends";
    let members = match in_path.status {
        _ if !is_current || !is_done => return None,
        Status::True if sks.spec.mode == Mode::Proxy => Members::Activators,
        Status::False => Members::Pods,
        Status::True | Status::Unknown => return None,
    };
    Some((members, from_jiff(in_path.last_transition_time?)))
}

/// The plan of a revision that a load balancer may lead to: as it is, or with its last pod kept. Gives what the scale
/// target is to have, where that is not what is wanted: the last pod, while the revision counts as inactive already.
pub fn gated(scale: Scale, leave: &Leave, replicas: Option<i32>) -> (Scale, Option<i32>) {
    let Err(reason) = &leave.zero else { return (scale, None) };
    if scale.want != Some(0) {
        return (scale, None);
    }
    let asleep = replicas == Some(0);
    let auto = leave.auto.as_ref().map(|auto| format!("; {auto}")).unwrap_or_default();
    let why = Some(format!("the load balancer keeps the last pod: {reason}{auto}"));
    if leave.stands().is_some() || asleep && leave.pin {
        let look_again = scale.look_again;
        return (Scale { want: Some(1), apply: true, held: why, look_again, ..scale }, None);
    }
    let held = if asleep { None } else { why };
    let keep = replicas.is_some_and(|replicas| replicas > 1) && scale.apply;
    (Scale { apply: false, held, ..scale }, keep.then_some(1))
}

/// The write with these annotations set, or removed where there is no value.
pub fn marked(
    write: Write<ServerlessService>,
    found: Option<&ServerlessService>,
    marks: Vec<(&'static str, Option<String>)>,
) -> Write<ServerlessService> {
    let (mut object, fresh, differs) = match (write, found) {
        (Write::Create(object), _) => (object, true, true),
        (Write::Update(object), _) => (object, false, true),
        (Write::Nothing, Some(found)) => (found.clone(), false, false),
        (Write::Nothing, None) => return Write::Nothing,
    };
    let annotations = object.metadata.annotations.get_or_insert_default();
    let mut changed = false;
    for (key, value) in marks {
        changed |= match value {
            Some(value) => annotations.insert(key.to_owned(), value.clone()) != Some(value),
            None => annotations.remove(key).is_some(),
        };
    }
    match (fresh, differs || changed) {
        (true, _) => Write::Create(object),
        (false, true) => Write::Update(object),
        (false, false) => Write::Nothing,
    }
}

/// An object this PodAutoscaler should own belongs to somebody else.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotOwned;

/// What is to be done about an owned object.
#[derive(Clone, PartialEq, Debug)]
pub enum Write<K> {
    /// It is as it should be.
    Nothing,
    /// It does not exist.
    Create(K),
    /// Its spec differs; all else stays as found.
    Update(K),
}

/// The ServerlessService of a PodAutoscaler, with this mode and so many activators.
///
/// # Errors
/// When one of this name belongs to somebody else.
pub fn serverless_service(
    pa: &PodAutoscaler,
    found: Option<&ServerlessService>,
    mode: Mode,
    activators: i32,
) -> Result<Write<ServerlessService>, NotOwned> {
    let spec = ServerlessServiceSpec {
        mode,
        object_ref: pa.spec.scale_target_ref.clone(),
        protocol_type: pa.spec.protocol_type.clone(),
        num_activators: activators,
    };
    let Some(found) = found else {
        let mut metadata = owned_metadata(pa);
        if let Some(annotations) = &mut metadata.annotations {
            annotations.remove(METRIC_ANNOTATION);
        }
        return Ok(Write::Create(ServerlessService { metadata, spec, status: None }));
    };
    check_owner(pa, &found.metadata)?;
    Ok(if found.spec == spec { Write::Nothing } else { Write::Update(ServerlessService { spec, ..found.clone() }) })
}

/// The Metric of a PodAutoscaler. `scrape_target` is empty when nothing is to be scraped.
///
/// # Errors
/// When one of this name belongs to somebody else.
pub fn metric(
    pa: &PodAutoscaler,
    found: Option<&Metric>,
    resolved: &Resolved,
    scrape_target: &str,
) -> Result<Write<Metric>, NotOwned> {
    let spec = MetricSpec {
        stable_window: resolved.stable_window.value.nanos(),
        panic_window: resolved.panic_window().nanos(),
        scrape_target: scrape_target.to_owned(),
    };
    let Some(found) = found else {
        let mut metadata = owned_metadata(pa);
        metadata
            .annotations
            .get_or_insert_default()
            .entry(METRIC_ANNOTATION.to_owned())
            .or_insert_with(|| resolved.metric.value.clone());
        return Ok(Write::Create(Metric { metadata, spec, status: None }));
    };
    check_owner(pa, &found.metadata)?;
    Ok(if found.spec == spec { Write::Nothing } else { Write::Update(Metric { spec, ..found.clone() }) })
}

/// What keeps the network from being ready: `None` when it is.
pub fn network_not_ready(sks: &ServerlessService) -> Option<&str> {
    let status = sks.status.as_ref();
    let ready = status.and_then(|status| find(&status.conditions, "Ready"));
    let current = status.is_some_and(|status| Some(status.observed_generation) == sks.metadata.generation);
    match ready {
        Some(ready) if current && ready.status == Status::True => None,
        Some(ready) => Some(&ready.message),
        None => Some(""),
    }
}

fn owned_metadata(pa: &PodAutoscaler) -> ObjectMeta {
    ObjectMeta {
        name: pa.metadata.name.clone(),
        namespace: pa.metadata.namespace.clone(),
        labels: pa.metadata.labels.clone(),
        annotations: pa.metadata.annotations.clone(),
        owner_references: Some(vec![OwnerReference {
            api_version: PodAutoscaler::api_version(&()).into_owned(),
            kind: PodAutoscaler::kind(&()).into_owned(),
            name: pa.metadata.name.clone().unwrap_or_default(),
            uid: pa.metadata.uid.clone().unwrap_or_default(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        }]),
        ..ObjectMeta::default()
    }
}

fn check_owner(pa: &PodAutoscaler, found: &ObjectMeta) -> Result<(), NotOwned> {
    if owns(pa, found) { Ok(()) } else { Err(NotOwned) }
}

/// Whether the object `found` describes is controlled by this PodAutoscaler.
pub fn owns(pa: &PodAutoscaler, found: &ObjectMeta) -> bool {
    let controller = found.owner_references.iter().flatten().find(|owner| owner.controller == Some(true));
    controller.is_some_and(|owner| Some(&owner.uid) == pa.metadata.uid.as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::annotations::Overrides;
    use crate::config::resolve;
    use crate::config::{Autoscaler, Deployment};
    use crate::routing::gate::{Path, Reason as Kept};

    #[test]
    fn what_a_revision_is_stuck_at_is_told_with_the_numbers_once_it_does_not_pass_by_itself() {
        let resolved = resolve(&Autoscaler::default(), &Deployment::default(), &Overrides::default(), 0, "Reachable");
        let seen = |inactive: i64| Seen {
            desired: Some(0),
            active: Status::False,
            active_for: Span::from_seconds(inactive),
            initialized: true,
            proxy_mode: true,
            in_path_for: None,
        };
        let scale = |want, why| Scale {
            want: Some(want),
            apply: false,
            look_again: None,
            probe_in_background: false,
            bound: None,
            why: Some(why),
            held: None,
        };
        let pods = |ready| PodCounts { ready, ..PodCounts::default() };
        let image = Hindrance::of_waiting("ImagePullBackOff", "Back-off pulling image \"x\".", None);
        let image = image.expect("a hindrance");
        let crash = Hindrance::of_waiting("CrashLoopBackOff", "", None).expect("a hindrance");
        let killed = Hindrance::of_waiting("CrashLoopBackOff", "back-off 40s restarting", Some((137, "OOMKilled")));
        let killed = killed.expect("a hindrance");
        let room = Hindrance::of_scheduling("False", "Unschedulable", "0/3 nodes are available").expect("a hindrance");
        assert_eq!(Hindrance::of_waiting("ContainerCreating", "", Some((1, "Error"))), None);
        let probe = Probe::of("hello-00001", "default", "cluster.local", "http1");
        let other = Answer::Other { status: 404, body: "queue".to_owned() };
        let silent = || scale(0, Why::ActivatorSilent);
        let wanted = |pods| scale(pods, Why::Wanted { pods });
        for (inactive, scale, ready, hindered, heard, want) in [
            (0, wanted(1), 0, None, None, None),
            (
                0,
                wanted(1),
                0,
                Some((1, &image)),
                None,
                Some((
                    "ImagePullFailing",
                    "the image of its pod cannot be pulled (ImagePullBackOff): Back-off pulling image \"x\"",
                )),
            ),
            (
                0,
                wanted(5),
                3,
                Some((2, &crash)),
                None,
                Some(("ContainerNotStarting", "a container of 2 of its pods does not start (CrashLoopBackOff)")),
            ),
            (
                0,
                wanted(1),
                0,
                Some((1, &killed)),
                None,
                Some((
                    "ContainerNotStarting",
                    "a container of its pod does not start (CrashLoopBackOff): it ended with exit code 137 (OOMKilled); \
                     back-off 40s restarting",
                )),
            ),
            (
                0,
                wanted(5),
                3,
                Some((2, &room)),
                None,
                Some((
                    "NoRoomForPods",
                    "no node has room for 2 of its pods, until one is added or others leave: 0/3 nodes are available",
                )),
            ),
            // As many as are wanted are there: one more that does not come is nobody's trouble.
            (0, wanted(3), 3, Some((1, &crash)), None, None),
            (61, silent(), 1, None, Some(&Answer::Urged), None),
            // The grace period of 30 s, and as long again for the path to change.
            (60, silent(), 1, None, Some(&Answer::Silent), None),
            (
                61,
                silent(),
                1,
                None,
                Some(&Answer::Silent),
                Some((
                    "ActivatorNotInPath",
                    "the last pod cannot go, because for 1m1s the activator has not been in the path of requests: \
                     http://hello-00001.default.svc.cluster.local did not answer within 3s",
                )),
            ),
            (
                100,
                silent(),
                1,
                None,
                Some(&other),
                Some((
                    "ActivatorNotInPath",
                    "the last pod cannot go, because for 1m40s the activator has not been in the path of requests: \
                     http://hello-00001.default.svc.cluster.local answered 404 \"queue\"",
                )),
            ),
        ] {
            let heard = heard.map(|answer| (&probe, answer));
            let stuck = stuck(&resolved, &seen(inactive), &scale, pods(ready), hindered, heard);
            let told = stuck.as_ref().map(|stuck| (stuck.reason, stuck.text.as_str()));
            assert_eq!(told, want);
        }
    }

    #[test]
    fn what_a_public_service_leads_to_is_known_of_the_generation_there_is_and_of_activators_that_stay() {
        let sks = |mode: &str, observed: i64, by_activator: &str, ready: &str| -> ServerlessService {
            let (status, reason) = ready.split_once(' ').unwrap_or((ready, ""));
            serde_json::from_value(serde_json::json!({
                "metadata": {"name": "web", "generation": 3},
                "spec": {"mode": mode, "protocolType": "http1", "objectRef": {"kind": "Deployment", "name": "web"}},
                "status": {"observedGeneration": observed, "conditions": [
                    {"type": "ActivatorEndpointsPopulated", "status": by_activator,
                        "lastTransitionTime": "1970-01-01T00:01:00Z"},
                    {"type": "Ready", "status": status, "reason": reason},
                ]},
            }))
            .expect("a ServerlessService")
        };
        for (mode, observed, by_activator, ready, want) in [
            ("Proxy", 3, "True", "True", Some(Members::Activators)),
            ("Proxy", 3, "True", "Unknown NoHealthyBackends", Some(Members::Activators)),
            ("Serve", 3, "False", "True", Some(Members::Pods)),
            ("Proxy", 3, "False", "True", Some(Members::Pods)),
            // They stand in for pods, which take over whenever they are ready.
            ("Serve", 3, "True", "Unknown NoHealthyBackends", None),
            // Of an earlier wish: it may have been changed and changed back since.
            ("Proxy", 2, "True", "True", None),
            ("Serve", 2, "False", "True", None),
            ("Proxy", 3, "Unknown", "Unknown", None),
            // It was seen, and what was to be written could not be: that tells of the wish before.
            ("Proxy", 3, "True", "Unknown NewObservedGenFailure", None),
            ("Serve", 3, "False", "Unknown NewObservedGenFailure", None),
            ("Proxy", 3, "True", "Unknown UpdatingPrivateService", None),
            ("Proxy", 3, "True", "False NotOwned", None),
        ] {
            let found = written(Some(&sks(mode, observed, by_activator, ready)));
            let want = want.map(|members| (members, Timestamp::from_seconds(60)));
            assert_eq!(found, want, "{mode} {observed} {by_activator} {ready}");
        }
        assert_eq!(written(None), None);
    }

    #[test]
    fn a_pod_that_is_kept_says_why_the_load_balancer_is_used_so() {
        let scale = || Scale {
            want: Some(0),
            apply: true,
            look_again: None,
            probe_in_background: false,
            bound: None,
            why: None,
            held: None,
        };
        let leave = Leave { zero: Err(Kept::HoldMode), pin: true, ..Leave::free(Path::Cold) };
        let kept = |leave: &Leave| gated(scale(), leave, Some(1)).0.held.expect("words");
        let words = "the load balancer keeps the last pod: the mode hold keeps a pod of every revision with a route";
        assert_eq!(kept(&leave), words);
        let auto = "alb-data-plane auto is hold: the self-test saw that servers of another namespace are not used";
        assert_eq!(kept(&Leave { auto: Some(auto.into()), ..leave }), format!("{words}; {auto}"));
    }
}
