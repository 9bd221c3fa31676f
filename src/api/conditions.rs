//! Knative status conditions: `True`, `False` or `Unknown` per dependent, and one aggregate, `Ready`.
//!
//! The rules by which a dependent moves the aggregate are those of Knative's own condition manager, to the tie: a true
//! dependent hands `Ready` to the most recently changed one that is not, a false one takes it along at once, an unknown
//! one only when no other is false. A condition's time moves when its status, reason or message does.

use crate::units::Timestamp;
use serde::{Deserialize, Serialize};

/// The aggregate of every set.
pub const READY: &str = "Ready";

/// Which conditions an object has, apart from [`READY`] that sums them up.
#[derive(Debug)]
pub struct ConditionSet {
    /// The dependents, in the order that decides ties.
    pub dependents: &'static [&'static str],
}

/// Of a PodAutoscaler.
pub const POD_AUTOSCALER: ConditionSet = ConditionSet { dependents: &["Active", "ScaleTargetInitialized", "SKSReady"] };
/// Of a Metric.
pub const METRIC: ConditionSet = ConditionSet { dependents: &[] };
/// Of a ServerlessService.
pub const SERVERLESS_SERVICE: ConditionSet = ConditionSet { dependents: &["EndpointsPopulated"] };
/// Of a KIngress.
pub const INGRESS: ConditionSet = ConditionSet { dependents: &["LoadBalancerReady", "NetworkConfigured"] };
/// Of a Knative Service.
pub const SERVICE: ConditionSet = ConditionSet { dependents: &["ConfigurationsReady", "RoutesReady"] };
/// Of a Configuration.
pub const CONFIGURATION: ConditionSet = ConditionSet { dependents: &[] };
/// Of a Revision; `Active` is told too but does not count, since a revision at zero is ready.
pub const REVISION: ConditionSet = ConditionSet { dependents: &["ResourcesAvailable", "ContainerHealthy"] };
/// Of a Route.
pub const ROUTE: ConditionSet =
    ConditionSet { dependents: &["AllTrafficAssigned", "IngressReady", "CertificateProvisioned"] };

/// The conditions of one object at one instant, open for change.
pub struct Conditions<'a> {
    set: &'static ConditionSet,
    list: &'a mut Vec<Condition>,
    now: Timestamp,
}

impl<'a> Conditions<'a> {
    /// Opens `list`; what changes is stamped with `now`.
    pub fn of(set: &'static ConditionSet, list: &'a mut Vec<Condition>, now: Timestamp) -> Self {
        Self { set, list, now }
    }

    /// Adds what is missing: unknown, or true when the aggregate already is.
    pub fn initialize(&mut self) {
        let status = if self.status(READY) == Some(Status::True) { Status::True } else { Status::Unknown };
        for type_ in std::iter::once(READY).chain(self.set.dependents.iter().copied()) {
            if self.get(type_).is_none() {
                self.set(type_, status, "", "");
            }
        }
    }

    /// The condition of this type.
    pub fn get(&self, type_: &str) -> Option<&Condition> {
        find(self.list, type_)
    }

    /// The status of the condition of this type.
    pub fn status(&self, type_: &str) -> Option<Status> {
        self.get(type_).map(|condition| condition.status)
    }

    /// It holds. The aggregate follows whatever does not.
    pub fn mark_true(&mut self, type_: &str) {
        self.mark_true_because(type_, "", "");
    }

    /// It holds, and why is worth telling. The aggregate follows whatever does not.
    pub fn mark_true_because(&mut self, type_: &str, reason: &str, message: &str) {
        self.set(type_, Status::True, reason, message);
        if let Some(unhappy) = self.unhappy_dependent() {
            self.set(READY, unhappy.status, &unhappy.reason, &unhappy.message);
        } else if type_ != READY {
            self.set(READY, Status::True, "", "");
        }
    }

    /// It does not hold, and so the aggregate does not.
    pub fn mark_false(&mut self, type_: &str, reason: &str, message: &str) {
        self.set(type_, Status::False, reason, message);
        if self.is_dependent(type_) {
            self.set(READY, Status::False, reason, message);
        }
    }

    /// It is not known. The aggregate is not either, unless something is known to be false.
    pub fn mark_unknown(&mut self, type_: &str, reason: &str, message: &str) {
        self.set(type_, Status::Unknown, reason, message);
        if self.set.dependents.iter().any(|dependent| self.status(dependent) == Some(Status::False)) {
            if self.status(READY) != Some(Status::False) {
                self.set(READY, Status::False, reason, message);
            }
        } else if self.is_dependent(type_) {
            self.set(READY, Status::Unknown, reason, message);
        }
    }

    fn is_dependent(&self, type_: &str) -> bool {
        self.set.dependents.contains(&type_)
    }

    fn unhappy_dependent(&self) -> Option<Condition> {
        if self.set.dependents.is_empty() {
            return None;
        }
        let mut present: Vec<&Condition> =
            self.list.iter().filter(|condition| self.is_dependent(&condition.type_)).collect();
        // Stable, so that of two changed at the same instant the first by name is taken.
        present.sort_by_key(|condition| std::cmp::Reverse(condition.last_transition_time));
        for status in [Status::False, Status::Unknown] {
            if let Some(condition) = present.iter().find(|condition| condition.status == status) {
                return Some((*condition).clone());
            }
        }
        (self.set.dependents.len() > present.len()).then(Condition::default)
    }

    fn set(&mut self, type_: &str, status: Status, reason: &str, message: &str) {
        let new = Condition {
            type_: type_.to_owned(),
            status,
            severity: if type_ == READY || self.is_dependent(type_) { String::new() } else { "Info".to_owned() },
            last_transition_time: Some(to_jiff(self.now)),
            reason: reason.to_owned(),
            message: message.to_owned(),
        };
        match self.list.iter_mut().find(|condition| condition.type_ == type_) {
            Some(old) if old.same_but_for_time(&new) => {}
            Some(old) => *old = new,
            None => {
                self.list.push(new);
                self.list.sort_by(|a, b| a.type_.cmp(&b.type_));
            }
        }
    }
}

/// The condition of this type.
pub fn find<'a>(conditions: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == type_)
}

/// Gives each condition of `new` that equals its stored twin the stored time, and all others the one time `now`.
pub fn settle_times(new: &mut [Condition], stored: &[Condition], now: Timestamp) {
    for condition in new {
        condition.last_transition_time = match find(stored, &condition.type_) {
            Some(old) if old.same_but_for_time(condition) => old.last_transition_time,
            _ => Some(to_jiff(now)),
        };
    }
}

/// Whether two lists say the same, transition times aside.
pub fn same_but_for_time(a: &[Condition], b: &[Condition]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.same_but_for_time(b))
}

/// An instant as Kubernetes' own type.
pub fn to_jiff(at: Timestamp) -> jiff::Timestamp {
    jiff::Timestamp::from_nanosecond(i128::from(at.nanos())).unwrap_or(jiff::Timestamp::UNIX_EPOCH)
}

/// An instant from Kubernetes' own type; what 64 bits of nanoseconds cannot hold saturates.
pub fn from_jiff(at: jiff::Timestamp) -> Timestamp {
    let nanos = at.as_nanosecond();
    Timestamp::from_nanos(i64::try_from(nanos).unwrap_or(if nanos < 0 { i64::MIN } else { i64::MAX }))
}

/// What is known of a condition.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum Status {
    /// It holds.
    True,
    /// It does not hold.
    False,
    /// Not known yet.
    #[default]
    Unknown,
}

/// One condition of an object's status.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Which condition.
    #[serde(rename = "type")]
    pub type_: String,
    /// Whether it holds.
    pub status: Status,
    /// Empty for an error; `Info` for what does not count towards `Ready`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub severity: String,
    /// When status, reason or message last changed; RFC 3339, whole seconds, UTC.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "whole_seconds")]
    pub last_transition_time: Option<jiff::Timestamp>,
    /// One word for machines.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// A sentence for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

impl Condition {
    /// How long ago it last changed; zero when it never said.
    pub fn age(&self, now: Timestamp) -> crate::units::Span {
        self.last_transition_time.map_or(crate::units::Span::ZERO, |at| now.since(from_jiff(at)))
    }

    fn same_but_for_time(&self, other: &Self) -> bool {
        self.type_ == other.type_
            && self.status == other.status
            && self.severity == other.severity
            && self.reason == other.reason
            && self.message == other.message
    }
}

mod whole_seconds {
    use serde::{Deserialize, Deserializer, Serializer};

    #[expect(clippy::ref_option, reason = "the signature serde's `with` asks for")]
    pub(super) fn serialize<S: Serializer>(time: &Option<jiff::Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
        match time {
            Some(time) => serializer.collect_str(&time.strftime("%Y-%m-%dT%H:%M:%SZ")),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<jiff::Timestamp>, D::Error> {
        Option::<jiff::Timestamp>::deserialize(deserializer)
    }
}
