//! What the autoscaler asks of whoever keeps the gates, and what it may then do; and how both are written down on the
//! object that holds a revision's servers, so that another process knows.
//!
//! The annotations are written by the owner of a revision alone, together with the mode of its ServerlessService. Whoever
//! publishes rules reads them: a rule that leads to a revision for the first time waits until the owner has said that it
//! knows of the route ([`ROUTES`]), since from then on the last pod stays until the gate lets it go; and, of a revision at
//! rest, until nothing but activators stands where the rule leads. The owner takes a route off the record before it lets
//! the last pod of a revision go that no rule leads to any more: what stands there is relied upon.

use super::{Members, Path, Pods, Reason, State};
use crate::routing::model::Mode;
use crate::units::{RevisionKey, Timestamp};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

/// Annotation: `cold` or `warm`, as the autoscaler wants it.
pub const DESIRED_PATH: &str = "knative-alb/desired-path";
/// Annotation: the epoch of that.
pub const DESIRED_EPOCH: &str = "knative-alb/desired-epoch";
/// Annotation: the state of the gate.
pub const OBSERVED_PATH: &str = "knative-alb/observed-path";
/// Annotation: the epoch that was seen in.
pub const OBSERVED_EPOCH: &str = "knative-alb/observed-epoch";
/// Annotation: when the load balancer was proven to use activators only; RFC 3339, absent while it is not.
pub const CONFIRMED_AT: &str = "knative-alb/confirmed-at";
/// Annotation: the KIngresses of the namespace by which the revision is known to be reached, comma-separated.
pub const ROUTES: &str = "knative-alb/routes";
/// Annotation: how the revision is reached, which follows `config-network` once that is safe.
pub const MODE: &str = "knative-alb/data-plane";
/// All of them.
pub const ANNOTATIONS: [&str; 7] =
    [DESIRED_PATH, DESIRED_EPOCH, OBSERVED_PATH, OBSERVED_EPOCH, CONFIRMED_AT, ROUTES, MODE];

/// Whoever keeps the gates, as the autoscaler sees it.
pub trait Keep: Send + Sync + fmt::Debug {
    /// A look at a revision: what is wanted and what there is, and what that leads to.
    fn ask(&self, key: &RevisionKey, asked: &Asked) -> Leave;

    /// Whether the last pod may go, for what was asked in this epoch. To be asked right before it is written.
    ///
    /// # Errors
    /// What keeps it.
    fn may_scale_to_zero(&self, key: &RevisionKey, epoch: u64) -> Result<(), Reason>;

    /// An activator had a request for the revision.
    fn traffic(&self, key: &RevisionKey);

    /// What is written down of a revision has changed.
    fn marked(&self, key: &RevisionKey);

    /// The revision is gone.
    fn forget(&self, key: &RevisionKey);

    /// The revisions `which` chooses are not this replica's any more.
    fn let_go(&self, which: &dyn Fn(&RevisionKey) -> bool);

    /// Calls this with each revision that is to be looked at again.
    fn on_change(&self, look: Box<dyn Fn(&RevisionKey) + Send + Sync>);
}

/// What a look tells of a revision.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Asked {
    /// What is wanted.
    pub want: Path,
    /// The pods.
    pub pods: Pods,
    /// Whether they have room for a burst.
    pub room: bool,
    /// What its public Service leads to, and since when.
    pub written: Option<(Members, Timestamp)>,
    /// What an earlier gate wrote down.
    pub marked: Option<Marked>,
}

/// What is written down of an earlier gate. A proof is not among it: that is made anew.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Marked {
    /// The latest epoch.
    pub epoch: u64,
    /// Whether a rule led to the revision.
    pub routed: bool,
    /// How it was reached.
    pub mode: Option<Mode>,
}

impl Marked {
    /// Reads what is written down; `None` when nothing is.
    pub fn read(annotations: Option<&BTreeMap<String, String>>) -> Option<Self> {
        let annotations = annotations?;
        let observed = annotations.get(OBSERVED_PATH)?;
        let epoch = [DESIRED_EPOCH, OBSERVED_EPOCH].into_iter().filter_map(|key| annotations.get(key)?.parse().ok());
        let routed = observed != State::Unrouted.word();
        Some(Self { epoch: epoch.max().unwrap_or(0), routed, mode: mode_of(Some(annotations)).filter(|_| routed) })
    }
}

/// What may be done with a revision.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Leave {
    /// What is wanted, for the record.
    pub want: Path,
    /// Where it is on its way.
    pub state: State,
    /// Of the request in force.
    pub epoch: u64,
    /// How it is reached.
    pub mode: Mode,
    /// What its group is to hold; `None` leaves that to the autoscaler.
    pub members: Option<Members>,
    /// Whether at least one pod must be wanted.
    pub pin: bool,
    /// Whether the last pod may go, and if not, why.
    pub zero: Result<(), Reason>,
    /// The KIngresses by which it may be reached.
    pub routes: BTreeSet<String>,
    /// When the load balancer was proven to use activators only.
    pub confirmed: Option<Timestamp>,
    /// Something its owner should know, once.
    pub notice: Option<Notice>,
    /// Why `alb-data-plane: auto` is what it is, where that keeps a pod.
    pub auto: Option<Arc<str>>,
}

/// Something to be told of a revision.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Notice {
    /// One word.
    pub reason: &'static str,
    /// A sentence.
    pub message: String,
}

impl Leave {
    /// For a revision no rule leads to.
    pub fn free(want: Path) -> Self {
        Self {
            want,
            state: State::Unrouted,
            epoch: 0,
            mode: Mode::default(),
            members: None,
            pin: false,
            zero: Ok(()),
            routes: BTreeSet::new(),
            confirmed: None,
            notice: None,
            auto: None,
        }
    }

    /// While it is not known whether a rule leads to it: nothing changes, and the last pod stays.
    pub fn unknown(want: Path) -> Self {
        Self { zero: Err(Reason::RulesUnknown), ..Self::free(want) }
    }

    /// Whether its public Service is to lead to activators; `None` leaves that to the autoscaler.
    pub fn proxied(&self) -> Option<bool> {
        self.members.filter(|_| self.mode == Mode::Header).map(|members| members != Members::Pods)
    }

    /// Why a pod is wanted whatever the load is; `None` when it is not.
    pub fn stands(&self) -> Option<&Reason> {
        let reason = self.zero.as_ref().err()?;
        (self.pin && reason.stands()).then_some(reason)
    }

    /// What is to be written down, `None` for what is not to be there; nothing at all as long as there is nothing to say.
    pub fn marks(&self, at_present: Option<&BTreeMap<String, String>>) -> Vec<(&'static str, Option<String>)> {
        let there = at_present.is_some_and(|annotations| ANNOTATIONS.iter().any(|key| annotations.contains_key(*key)));
        // What is not known is no reason to take back what was.
        if self.zero == Err(Reason::RulesUnknown) || !there && self.state == State::Unrouted {
            return Vec::new();
        }
        let routed = self.state != State::Unrouted;
        let path = if self.want == Path::Cold { "cold" } else { "warm" };
        let epoch = Some(self.epoch.to_string());
        let confirmed = self.confirmed.filter(|_| self.state == State::ColdConfirmed);
        let routes = self.routes.iter().cloned().collect::<Vec<_>>().join(",");
        vec![
            (DESIRED_PATH, routed.then(|| path.to_owned())),
            (DESIRED_EPOCH, routed.then_some(epoch.clone()).flatten()),
            (OBSERVED_PATH, Some(self.state.word().to_owned())),
            (OBSERVED_EPOCH, epoch),
            (CONFIRMED_AT, confirmed.map(|at| crate::api::conditions::to_jiff(at).to_string())),
            (ROUTES, routed.then_some(routes)),
            (MODE, routed.then(|| self.mode.word().to_owned())),
        ]
    }
}

/// How a revision is reached, as its owner has it; `None` where nothing is written down.
pub fn mode_of(annotations: Option<&BTreeMap<String, String>>) -> Option<Mode> {
    Mode::of(annotations?.get(MODE)?)
}

/// Whether the owner of a revision has said that it knows of the route.
pub fn knows_route(annotations: Option<&BTreeMap<String, String>>, kingress: &str) -> bool {
    annotations
        .and_then(|annotations| annotations.get(ROUTES))
        .is_some_and(|routes| routes.split(',').any(|route| route == kingress))
}

/// Whether the pods of a revision may be gone by now, as its owner has it.
pub fn rests(annotations: Option<&BTreeMap<String, String>>) -> bool {
    let observed = annotations.and_then(|annotations| State::read(annotations.get(OBSERVED_PATH)?));
    observed.is_some_and(State::rests)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn leave(state: State) -> Leave {
        let routes = BTreeSet::from(["web".to_owned(), "www.example.com".to_owned()]);
        Leave { state, epoch: 42, routes, confirmed: Some(Timestamp::from_seconds(0)), ..Leave::free(Path::Cold) }
    }

    fn written(leave: &Leave, mut annotations: BTreeMap<String, String>) -> BTreeMap<String, String> {
        for (key, value) in leave.marks(Some(&annotations)) {
            match value {
                Some(value) => _ = annotations.insert(key.to_owned(), value),
                None => _ = annotations.remove(key),
            }
        }
        annotations
    }

    #[test]
    fn what_is_written_down_is_read_back_and_a_proof_is_not() {
        let there = written(&leave(State::ColdConfirmed), BTreeMap::new());
        assert_eq!(there[DESIRED_PATH], "cold");
        assert_eq!(there[OBSERVED_PATH], "cold-confirmed");
        assert_eq!(there[CONFIRMED_AT], "1970-01-01T00:00:00Z");
        assert_eq!(Marked::read(Some(&there)), Some(Marked { epoch: 42, routed: true, mode: Some(Mode::Header) }));
        assert!(knows_route(Some(&there), "web") && !knows_route(Some(&there), "we"));
        assert!(rests(Some(&there)) && !rests(None));

        let draining = written(&leave(State::Draining), there.clone());
        assert!(!draining.contains_key(CONFIRMED_AT));
        // Who does not know leaves what is written.
        assert_eq!(written(&Leave::unknown(Path::Cold), there.clone()), there);
        let unrouted = written(&leave(State::Unrouted), there);
        assert_eq!(Marked::read(Some(&unrouted)), Some(Marked { epoch: 42, routed: false, mode: None }));
        assert_eq!((unrouted.len(), knows_route(Some(&unrouted), "web")), (2, false));
        // Nothing is said of what was never routed.
        assert_eq!(written(&Leave::free(Path::Cold), BTreeMap::new()), BTreeMap::new());
    }
}
