//! To zero and back behind a load balancer: a revision loses its last pod only when the load balancer itself was seen to
//! send that revision's traffic to activators, on every address and by every rule.
//!
//! # Rule
//!
//! At every instant each server the load balancer might pick must be able to serve. So: add the new servers, see that
//! they are used, remove the old ones, see that they are not used any more, and only then let them go. No step is taken
//! because time has passed; time only bounds waiting, and what is late keeps a pod.
//!
//! ```text
//!                 wanted cold, pods proven       activators seen       nothing but activators, and quiet
//!  ┌─► warm ⇄ burst ───────────────► bridging-down ────────► draining ──────────────────► cold-confirmed
//!  │                                       │ late, or held      │ late                        │ pods gone
//!  │ pods seen                             └────────► held ◄────┘                             ▼
//! bridging-up ◄──────────────────────────────────── waking ◄───────────────────────────────── cold
//!                        a pod is ready                            a pod is wanted, or there
//! ```
//!
//! | state | the group holds | to zero |
//! |---|---|---|
//! | `unrouted` | nobody asks | yes |
//! | `warm` | pods | no |
//! | `burst` | pods and activators | no |
//! | `bridging-down` | pods and activators | no |
//! | `bridging-up` | activators until that was seen, then pods too | no |
//! | `held` | what it held before | no |
//! | `draining` | activators | no |
//! | `cold-confirmed` | activators | yes, while the proof is fresh and for the epoch that was asked for |
//! | `cold`, `waking` | activators | no: what is there was not seen yet |
//!
//! In the mode `header` the group is the revision's public Service, which holds either kind and never both; then `burst`
//! holds activators, and `bridging-down` is left out: both kinds live until the proof.
//!
//! One change at a time: what was written is seen before something else is written, since nobody could tell by answers
//! whether pods and activators are in from before a change in between or from after it, and only the horizon would. So
//! `held` changes nothing, and a revision that is wanted again on its way down is served by its activators until each
//! address has followed, at most for as long as a bridge may take. Two moves back and forth while an address follows
//! neither would otherwise keep a pod for the whole horizon.
//!
//! # Units and edges
//!
//! - What is proven of a way is proven by answers, see `belief`. A change that was written and not seen yet may still come
//!   into force, whatever is seen before it; so nothing is removed from a group before what is in it was seen.
//! - A membership is never empty. When neither kind has a live server, the membership stays as it is.
//! - A gate that is new has no past: it proves anew.
//!
//! # Example
//!
//! ```
//! use ebb::routing::gate::{Gate, Path, Pods, Seen, State, Timers};
//! use ebb::routing::model::Mode;
//! use ebb::units::Timestamp;
//! use std::collections::BTreeSet;
//!
//! let mut gate = Gate::new(Mode::Port, Timers::default());
//! let now = Timestamp::from_seconds(1_000);
//! let epoch = gate.request(now, Path::Cold);
//! let no_routes = BTreeSet::new();
//! let nobody_asks = Seen { pods: Pods { all: 1, ready: 1 }, activators: 2, ..Seen::new(Mode::Port, &no_routes) };
//! let decision = gate.step(now, &nobody_asks);
//! assert_eq!(decision.state, State::Unrouted);
//! assert!(gate.may_scale_to_zero(now, epoch).is_ok());
//! ```

mod belief;
pub mod contract;
#[cfg(test)]
mod laws;
pub mod rules;

use crate::routing::model::Mode;
use crate::units::{Span, Timestamp};
use belief::Belief;
use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

/// A way requests take to a revision: a rule, at one address of the load balancer.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Target {
    /// The address, with the listener's port.
    pub address: SocketAddr,
    /// The rule, with the version of it: a changed rule is another one.
    pub rule: Arc<str>,
    /// The server group it leads to. Rules of one group have the same servers.
    pub group: Arc<str>,
}

impl Target {
    fn shares_group(&self, other: &Self) -> bool {
        (self.address, &self.group) == (other.address, &other.group)
    }
}

/// What a server group holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Members {
    /// The revision's ready pods.
    Pods,
    /// Pods and activators.
    Both,
    /// Activators.
    Activators,
}

impl Members {
    /// Whether it has `kind` among it.
    fn holds(self, kind: Self) -> bool {
        self == Self::Both || self == kind
    }

    /// What is left of it where only these kinds have a live server.
    fn living(self, pods: bool, activators: bool) -> Option<Self> {
        match (pods, activators) {
            (true, true) => Some(self),
            (true, false) => Some(Self::Pods),
            (false, true) => Some(Self::Activators),
            (false, false) => None,
        }
    }
}

/// Who answered a probe sent through the load balancer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// An activator that stands for the revision.
    Activator,
    /// A pod of the revision.
    Pod,
    /// Something else: the rule does not lead to the revision, or not yet.
    Elsewhere,
    /// The load balancer has no such rule.
    NoRoute,
    /// 503: the group is empty, or the server is going.
    Unavailable,
    /// Anything else, no answer included.
    Failed,
}

/// A probe that is to be sent now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Probe {
    /// The way it is to take.
    pub target: Target,
    /// To be given back with the answer.
    pub round: u64,
}

/// Where a revision is on its way; the words are those of the annotation `knative-alb/observed-path`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// No rule leads to it.
    Unrouted,
    /// Its pods serve.
    Warm,
    /// Its pods serve, and activators because there is little room.
    Burst,
    /// Activators are added.
    BridgingDown,
    /// Pods are taken out.
    Draining,
    /// The load balancer was seen not to use the pods.
    ColdConfirmed,
    /// There are no pods.
    Cold,
    /// Pods are coming.
    Waking,
    /// Pods are added.
    BridgingUp,
    /// A proof failed; it is tried again.
    Held,
}

impl State {
    /// All of them, on the way to zero and back.
    pub const ALL: [Self; 10] = [
        Self::Unrouted,
        Self::Warm,
        Self::Burst,
        Self::BridgingDown,
        Self::Draining,
        Self::ColdConfirmed,
        Self::Cold,
        Self::Waking,
        Self::BridgingUp,
        Self::Held,
    ];

    /// The state of this word.
    pub fn read(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.word() == word)
    }

    /// Whether its pods may be gone by now, whatever its group still holds of them.
    pub fn rests(self) -> bool {
        matches!(self, Self::ColdConfirmed | Self::Cold | Self::Waking)
    }

    /// Its word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Unrouted => "unrouted",
            Self::Warm => "warm",
            Self::Burst => "burst",
            Self::BridgingDown => "bridging-down",
            Self::Draining => "draining",
            Self::ColdConfirmed => "cold-confirmed",
            Self::Cold => "cold",
            Self::Waking => "waking",
            Self::BridgingUp => "bridging-up",
            Self::Held => "held",
        }
    }
}

/// What the autoscaler wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Path {
    /// No pods.
    Cold,
    /// Pods.
    Warm,
}

/// The pods of a revision.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Pods {
    /// Those that exist, or that were asked for if those are more.
    pub all: u32,
    /// Those that are ready.
    pub ready: u32,
}

/// Everything a step looks at.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// The mode the settings ask for.
    pub mode: Mode,
    /// Whether the plan of the rules demands a pod, because a split has no other way to it.
    pub pinned: bool,
    /// Whether a rule leads to it, or an address may still have one that does.
    pub routed: bool,
    /// Whether any of those rules may have been published.
    pub published: bool,
    /// All those rules, on every address.
    pub targets: &'a BTreeSet<Target>,
    /// What the objects say the group holds, and since when.
    pub written: Option<(Members, Timestamp)>,
    /// The pods.
    pub pods: Pods,
    /// Activators that answer for the revision.
    pub activators: u32,
    /// Whether the pods have room for a burst, so that no activator is needed beside them.
    pub room: bool,
    /// When an activator last had a request for it, probes not counted.
    pub traffic: Option<Timestamp>,
}

impl<'a> Seen<'a> {
    /// Nothing seen but the ways there are.
    pub fn new(mode: Mode, targets: &'a BTreeSet<Target>) -> Self {
        Self {
            mode,
            pinned: false,
            routed: !targets.is_empty(),
            published: true,
            targets,
            written: None,
            pods: Pods::default(),
            activators: 0,
            room: true,
            traffic: None,
        }
    }
}

/// How long things may take. The defaults suit a cloud's load balancer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timers {
    /// The least time between two probes that count.
    pub probe_spacing: Span,
    /// Between probes that show nothing, at first.
    pub probe_interval: Span,
    /// And at most.
    pub probe_most: Span,
    /// How long a bridge may take until it is given up for now.
    pub bridging: Span,
    /// How long taking pods out may take.
    pub draining: Span,
    /// How long nothing but activators must have been seen, for what lies behind an address.
    pub settle: Span,
    /// How long after that requests under way have to end.
    pub drain: Span,
    /// How old a proof may be.
    pub fresh: Span,
    /// How long until a failed proof is tried again, at first.
    pub hold: Span,
    /// And at most; it doubles each time.
    pub hold_most: Span,
    /// After how long a membership that was replaced is not in use any more, whatever was seen.
    pub horizon: Span,
    /// Activators a revision without pods needs.
    pub activators: u32,
    /// For how long after a request a revision is woken when it has too few of them.
    pub in_use: Span,
}

impl Default for Timers {
    fn default() -> Self {
        Self {
            probe_spacing: Span::from_millis(200),
            probe_interval: Span::from_millis(500),
            probe_most: Span::from_seconds(5),
            bridging: Span::from_seconds(90),
            draining: Span::from_seconds(120),
            settle: Span::from_seconds(5),
            drain: Span::from_seconds(10),
            fresh: Span::from_seconds(60),
            hold: Span::from_seconds(30),
            hold_most: Span::from_seconds(300),
            horizon: Span::from_seconds(600),
            activators: 2,
            in_use: Span::from_seconds(3600),
        }
    }
}

impl Timers {
    /// The same with every length of time multiplied by `numerator / denominator`, for a load balancer that is faster
    /// than a cloud's.
    #[must_use]
    pub fn scaled(self, numerator: i64, denominator: i64) -> Self {
        let scale = |span: Span| Span::from_nanos(span.nanos().saturating_mul(numerator) / denominator.max(1));
        Self {
            probe_spacing: scale(self.probe_spacing),
            probe_interval: scale(self.probe_interval),
            probe_most: scale(self.probe_most),
            bridging: scale(self.bridging),
            draining: scale(self.draining),
            settle: scale(self.settle),
            drain: scale(self.drain),
            fresh: scale(self.fresh),
            hold: scale(self.hold),
            hold_most: scale(self.hold_most),
            horizon: scale(self.horizon),
            activators: self.activators,
            in_use: scale(self.in_use),
        }
    }
}

/// Why a revision is where it is, or may not go to zero; `Display` says it in a sentence.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reason {
    /// No rule leads to it.
    Unrouted,
    /// Pods are wanted.
    Wanted,
    /// The mode keeps a pod.
    HoldMode,
    /// The plan of the rules keeps a pod.
    Pinned,
    /// It is reached in another way from now on, and changes over with pods.
    ModeChange,
    /// The addresses of the load balancer are not known, or cannot be reached.
    NoAddress,
    /// There are too few activators.
    FewActivators {
        /// So many there are.
        there: u32,
        /// So many are needed.
        needed: u32,
    },
    /// An activator had a request for it on the way down.
    Traffic,
    /// All its pods are gone or not ready.
    PodsLost,
    /// It has no pods, and what is asked for was not seen yet.
    NoPods,
    /// Pods are coming.
    Starting,
    /// The group does not hold yet what it should.
    NotWritten,
    /// A way was not seen to do what it should.
    Unproven {
        /// The rule.
        rule: Arc<str>,
        /// The address.
        address: SocketAddr,
        /// The last answer.
        last: Option<Answer>,
    },
    /// Only activators are used; requests under way have until then to end.
    Quiet {
        /// When.
        until: Timestamp,
    },
    /// The load balancer was seen to use activators only.
    Confirmed,
    /// It was, but too long ago.
    Stale,
    /// What was proven was proven for another request.
    OtherEpoch {
        /// The one in force.
        current: u64,
    },
    /// A proof took too long.
    Late {
        /// What was missing.
        missing: Box<Reason>,
        /// When it is tried again.
        again: Timestamp,
    },
    /// There is room again, or not any more.
    Room,
    /// Which rules there are is not known yet.
    RulesUnknown,
    /// Rules of before may lead to it that are not known.
    EarlierRules,
    /// It is still on record that a rule leads to it, by which another may be published.
    OnRecord,
}

impl Reason {
    /// The words of those that keep the last pod of a revision that is to go to zero.
    pub const HOLDING: [&'static str; 18] = [
        "earlier_rules",
        "few_activators",
        "hold_mode",
        "late",
        "mode_change",
        "no_address",
        "no_pods",
        "not_written",
        "on_record",
        "other_epoch",
        "pinned",
        "pods_lost",
        "quiet",
        "rules_unknown",
        "stale",
        "starting",
        "traffic",
        "unproven",
    ];

    /// One word for it, as a label of metrics.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Unrouted => "unrouted",
            Self::Wanted => "wanted",
            Self::HoldMode => "hold_mode",
            Self::Pinned => "pinned",
            Self::ModeChange => "mode_change",
            Self::NoAddress => "no_address",
            Self::FewActivators { .. } => "few_activators",
            Self::Traffic => "traffic",
            Self::PodsLost => "pods_lost",
            Self::NoPods => "no_pods",
            Self::Starting => "starting",
            Self::NotWritten => "not_written",
            Self::Unproven { .. } => "unproven",
            Self::Quiet { .. } => "quiet",
            Self::Confirmed => "confirmed",
            Self::Stale => "stale",
            Self::OtherEpoch { .. } => "other_epoch",
            Self::Late { .. } => "late",
            Self::Room => "room",
            Self::RulesUnknown => "rules_unknown",
            Self::EarlierRules => "earlier_rules",
            Self::OnRecord => "on_record",
        }
    }

    /// Whether it keeps a pod for as long as the rules are what they are, so that there is nothing to wait for.
    pub fn stands(&self) -> bool {
        matches!(self, Self::HoldMode | Self::Pinned)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unrouted => f.write_str("no rule of the load balancer leads to it"),
            Self::Wanted => f.write_str("pods are wanted"),
            Self::HoldMode => f.write_str("the mode hold keeps a pod of every revision with a route"),
            Self::Pinned => f.write_str("a split cannot reach it without a pod, so one is kept"),
            Self::ModeChange => f.write_str("the way it is reached changes, which takes a pod"),
            Self::NoAddress => f.write_str("no address of the load balancer is known, so nothing can be proven"),
            Self::FewActivators { there, needed } => write!(f, "{there} activators are there and {needed} are needed"),
            Self::Traffic => f.write_str("an activator had a request for it meanwhile"),
            Self::PodsLost => f.write_str("none of its pods is ready"),
            Self::NoPods => f.write_str("it has no pods"),
            Self::Starting => f.write_str("its pods are starting"),
            Self::NotWritten => f.write_str("the members of its group are still to be written"),
            Self::Unproven { rule, address, last } => {
                write!(f, "the load balancer was not seen to follow at {address} by the rule {rule}: ")?;
                f.write_str(match last {
                    None => "no answer yet",
                    Some(Answer::Activator) => "too few answers yet, the last from an activator",
                    Some(Answer::Pod) => "the last answer came from a pod",
                    Some(Answer::Elsewhere) => "the last answer came from something else",
                    Some(Answer::NoRoute) => "it has no such rule",
                    Some(Answer::Unavailable) => "the last answer was 503",
                    Some(Answer::Failed) => "the last probe failed",
                })
            }
            Self::Quiet { .. } => f.write_str("only activators are used; requests under way are given time to end"),
            Self::Confirmed => f.write_str("the load balancer was seen to use activators only"),
            Self::Stale => f.write_str("the load balancer was seen to use activators only, but too long ago"),
            Self::OtherEpoch { current } => write!(f, "another request came after this one; the epoch is {current}"),
            Self::Late { missing, .. } => write!(f, "given up for now: {missing}"),
            Self::Room => f.write_str("the room for a burst has changed"),
            Self::RulesUnknown => f.write_str("it is not known yet which rules lead to it"),
            Self::EarlierRules => f.write_str(
                "rules from before Ebb started may still lead to it, until every rule of its namespace was seen in force",
            ),
            Self::OnRecord => f.write_str("it is still on record that a rule leads to it"),
        }
    }
}

/// What a step leads to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Decision {
    /// Where the revision is.
    pub state: State,
    /// Of the request in force, and of the rules.
    pub epoch: u64,
    /// How it is reached, for the plan of its rules; follows the settings when that is safe.
    pub mode: Mode,
    /// What its group is to hold; `None` leaves it as it is, because nothing lives that could be put in.
    pub members: Option<Members>,
    /// Whether at least one pod must be wanted.
    pub pin: bool,
    /// Whether the last pod may go, and if not, why.
    pub zero: Result<(), Reason>,
    /// Why it is where it is.
    pub because: Reason,
    /// Probes to be sent now.
    pub probes: Vec<Probe>,
    /// When to step again although nothing else happened.
    pub look_again: Option<Timestamp>,
}

/// The gate of one revision.
#[derive(Clone, Debug)]
pub struct Gate {
    timers: Timers,
    mode: Mode,
    state: State,
    since: Timestamp,
    because: Reason,
    want: Path,
    asked: Timestamp,
    epoch: u64,
    failures: u32,
    /// No rule ever led to it.
    fresh: bool,
    belief: Belief,
    targets: BTreeSet<Target>,
    last: Timestamp,
}

impl Gate {
    /// A gate that knows nothing yet, of a revision of which pods are wanted.
    pub fn new(mode: Mode, timers: Timers) -> Self {
        let start = Timestamp::from_nanos(i64::MIN);
        Self {
            timers,
            mode,
            state: State::Unrouted,
            since: start,
            because: Reason::Unrouted,
            want: Path::Warm,
            asked: start,
            epoch: 0,
            failures: 0,
            fresh: false,
            belief: Belief::default(),
            targets: BTreeSet::new(),
            last: start,
        }
    }

    /// The same, of a revision no rule ever led to: nobody can use what its group held before the first one is published.
    #[must_use]
    pub fn without_past(mut self) -> Self {
        self.fresh = true;
        self
    }

    /// The same, going on from an epoch that was written down. Nothing else is taken over: what was proven is proven anew.
    #[must_use]
    pub fn with_epoch(mut self, epoch: u64) -> Self {
        self.epoch = self.epoch.max(epoch.saturating_add(1));
        self
    }

    /// What the autoscaler wants from now on. Gives the epoch to ask [`Gate::may_scale_to_zero`] with; the same while the
    /// same is wanted and no request came to an activator on the way down.
    pub fn request(&mut self, now: Timestamp, want: Path) -> u64 {
        if want != self.want {
            (self.want, self.asked) = (want, now);
            self.epoch += 1;
        }
        self.epoch
    }

    /// Takes in the answer to a probe. Those to older questions count for nothing.
    pub fn answer(&mut self, now: Timestamp, probe: &Probe, answer: Answer) {
        self.belief.answer(now, probe, answer, &self.timers);
    }

    /// Looks, and decides. A `now` earlier than the latest one counts as the latest one.
    pub fn step(&mut self, now: Timestamp, seen: &Seen<'_>) -> Decision {
        let now = now.max(self.last);
        self.last = now;
        self.fresh &= !seen.published;
        let servers = (seen.pods.ready, seen.activators);
        self.belief.look(now, seen.written, seen.targets, servers, self.fresh, &self.timers);
        if self.targets != *seen.targets {
            // A proof is for the rules it was made with.
            self.epoch += u64::from(!seen.targets.is_subset(&self.targets));
            self.targets.clone_from(seen.targets);
        }
        let going = matches!(self.state, State::BridgingDown | State::Draining | State::ColdConfirmed);
        let traffic = seen.traffic.is_some_and(|at| self.asked <= at);
        if going && traffic && self.want == Path::Cold {
            self.want = Path::Warm;
            self.epoch += 1;
            self.because = Reason::Traffic;
        }
        let aim = self.aim(now, seen);
        // Each state is left at most once in a step; the longest way is from `held` to `cold`.
        for _ in 0..8 {
            let Some((state, because)) = self.next(now, seen, &aim) else { break };
            if state == State::Held && self.state != State::Held {
                self.failures = self.failures.saturating_add(1);
            }
            if matches!(state, State::ColdConfirmed | State::Cold) || aim.is_err() && state == State::Warm {
                self.failures = 0;
            }
            (self.state, self.since, self.because) = (state, now, because);
        }
        // With pods that serve, which stay until all of the new way is proven. A revision whose pods have no room for a burst
        // is never `warm`.
        let may = matches!(self.state, State::Warm | State::Burst | State::Unrouted) || self.mode == Mode::Hold;
        if may && self.mode != seen.mode {
            self.mode = seen.mode;
            // It leads to another group now, which has a past of its own.
            self.belief.forget();
        }
        self.decision(now, seen, &aim)
    }

    /// Whether the last pod may go now, for the request of this epoch. To be asked right before it is written.
    pub fn may_scale_to_zero(&self, now: Timestamp, epoch: u64) -> Result<(), Reason> {
        if self.state == State::Unrouted {
            return Ok(());
        }
        if epoch != self.epoch {
            return Err(Reason::OtherEpoch { current: self.epoch });
        }
        self.zero(now.max(self.last))
    }

    /// How the revision is reached.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Where the revision is, and why.
    pub fn state(&self) -> (State, &Reason) {
        (self.state, &self.because)
    }

    /// `Ok` for down, and otherwise what keeps it up.
    fn aim(&self, now: Timestamp, seen: &Seen<'_>) -> Result<(), Reason> {
        let few = Reason::FewActivators { there: seen.activators, needed: self.timers.activators };
        if seen.mode == Mode::Hold {
            return Err(Reason::HoldMode);
        }
        if seen.mode != self.mode {
            return Err(Reason::ModeChange);
        }
        if seen.pinned {
            return Err(Reason::Pinned);
        }
        if seen.targets.is_empty() {
            return Err(Reason::NoAddress);
        }
        if seen.activators < self.timers.activators {
            // A revision at rest that nobody asked for lately is not woken for that, as long as one is left.
            let in_use = seen.traffic.is_some_and(|at| now.since(at) < self.timers.in_use);
            let resting = matches!(self.state, State::Cold) && seen.activators > 0 && !in_use;
            if !resting {
                return Err(few);
            }
        }
        match self.want {
            Path::Cold => Ok(()),
            Path::Warm => Err(Reason::Wanted),
        }
    }

    /// The next state, if this is not where to be.
    #[expect(clippy::match_same_arms, reason = "a line for each way out of a state, state by state")]
    fn next(&self, now: Timestamp, seen: &Seen<'_>, aim: &Result<(), Reason>) -> Option<(State, Reason)> {
        use State::{BridgingDown, BridgingUp, Burst, Cold, ColdConfirmed, Draining, Held, Unrouted, Waking, Warm};
        let because = || aim.clone().err().unwrap_or(self.because.clone());
        if !seen.routed {
            return (self.state != Unrouted).then_some((Unrouted, Reason::Unrouted));
        }
        let down = aim.is_ok();
        let mixed = self.mode != Mode::Header;
        let (ready, any) = (seen.pods.ready > 0, seen.pods.all > 0);
        let lost = !ready && seen.activators > 0;
        let settled =
            || self.belief.written() == self.members(now, self.state, seen) && self.belief.unsettled().is_none();
        let late = |limit: Span, from: Timestamp| limit <= now.since(from);
        match self.state {
            Unrouted => Some(match (ready, any) {
                (true, _) => (Warm, because()),
                (false, true) => (Waking, Reason::Starting),
                (false, false) => (Cold, Reason::NoPods),
            }),
            Warm | Burst | BridgingDown | BridgingUp | Held if lost => Some((Waking, Reason::PodsLost)),
            Warm | Burst if down && !mixed => Some((Draining, Reason::NotWritten)),
            Warm | Burst if down && settled() => {
                Some((if self.state == Burst { Draining } else { BridgingDown }, Reason::NotWritten))
            }
            Warm | Burst if down && late(self.timers.bridging, self.since.max(self.asked)) => Some(self.held(now)),
            // In the mode `header` both kinds live on, so nothing has to be seen first.
            Warm if !seen.room && !down && (!mixed || settled() || late(self.timers.bridging, self.since)) => {
                Some((Burst, Reason::Room))
            }
            Burst if seen.room && !down && (!mixed || settled()) => Some((Warm, Reason::Room)),
            BridgingDown if !down => Some((BridgingUp, because())),
            BridgingDown if settled() => Some((Draining, Reason::NotWritten)),
            BridgingDown if late(self.timers.bridging, self.since) => Some(self.held(now)),
            Draining | ColdConfirmed if !down => Some((if ready { BridgingUp } else { Waking }, because())),
            Draining => match self.quiet_from(seen) {
                Some(from) if from <= now => Some((ColdConfirmed, Reason::Confirmed)),
                _ if late(self.timers.draining, self.since) && !any => Some((Cold, Reason::NoPods)),
                _ if late(self.timers.draining, self.since) => Some(self.held(now)),
                _ => None,
            },
            ColdConfirmed if !any => Some((Cold, Reason::NoPods)),
            ColdConfirmed if self.quiet_from(seen).is_none() => Some((Draining, self.missing(now, seen))),
            Cold if any || !down => Some((Waking, because_waking(aim))),
            Waking if ready && (!down || mixed) => Some((BridgingUp, because())),
            Waking if !any && down => Some((Cold, Reason::NoPods)),
            // Until then what is written may be pods that are gone, and whoever publishes a rule must know.
            Waking if down && self.belief.written() == Some(Members::Activators) => {
                Some((Draining, Reason::NotWritten))
            }
            BridgingUp if down && !mixed => Some((Draining, Reason::NotWritten)),
            BridgingUp if down && (settled() || self.belief.written() == Some(Members::Activators)) => {
                Some((Draining, Reason::NotWritten))
            }
            BridgingUp if down && late(self.timers.bridging, self.since.max(self.asked)) => Some(self.held(now)),
            BridgingUp if !down && !mixed => Some((if seen.room { Warm } else { Burst }, because())),
            BridgingUp if !down && settled() => Some((if seen.room { Warm } else { Burst }, because())),
            Held if !down => Some((BridgingUp, because())),
            Held if late(self.back_off(), self.since) => {
                let state = match self.belief.written() {
                    Some(Members::Pods) if mixed => Warm,
                    Some(Members::Both) if mixed => BridgingDown,
                    _ => Draining,
                };
                Some((state, Reason::NotWritten))
            }
            _ => None,
        }
    }

    fn decision(&mut self, now: Timestamp, seen: &Seen<'_>, aim: &Result<(), Reason>) -> Decision {
        use State::{BridgingDown, BridgingUp, Burst, Cold, ColdConfirmed, Draining, Held, Unrouted, Waking, Warm};
        let members = self.members(now, self.state, seen);
        let down = aim.is_ok();
        let proving = match self.state {
            Waking => down,
            // What is seen while nobody is in a hurry need not be seen on the way to zero: and only that its pods were used
            // tells activators that are used afterwards from those before.
            Warm | Burst => !matches!(aim, Err(Reason::Pinned | Reason::HoldMode)),
            BridgingDown | BridgingUp | Draining | ColdConfirmed => true,
            Unrouted | Cold | Held => false,
        };
        let refresh = match self.state {
            // What was proven must stay so until requests under way have ended, and until the pods have gone.
            Draining => Some(self.timers.probe_interval),
            ColdConfirmed => Some(self.timers.probe_most),
            _ => None,
        };
        // A load balancer may show a change before it is known here that it was written; it would contradict what is known.
        let is_written = members.is_none() || self.belief.written() == members;
        let (probes, mut look_again) =
            if proving && is_written { self.belief.due(now, refresh, &self.timers) } else { (Vec::new(), None) };
        let deadline = match self.state {
            Warm | Burst | BridgingUp if down => Some(self.since.max(self.asked) + self.timers.bridging),
            Warm | BridgingUp | BridgingDown => Some(self.since + self.timers.bridging),
            Draining => Some(self.quiet_from(seen).unwrap_or(self.since + self.timers.draining)),
            Held => Some(self.since + self.back_off()),
            _ => None,
        };
        for at in deadline.into_iter().filter(|at| now < *at) {
            look_again = Some(look_again.map_or(at, |next| next.min(at)));
        }
        let zero = self.zero(now);
        let because = match self.state {
            Warm | Burst | BridgingDown | BridgingUp | Draining if down => self.missing(now, seen),
            Warm | Burst | BridgingUp | Waking => aim.clone().err().unwrap_or(self.because.clone()),
            _ => self.because.clone(),
        };
        Decision {
            state: self.state,
            epoch: self.epoch,
            mode: self.mode,
            members,
            // A revision at rest is woken only by what keeps it up, and one that goes keeps its pod until it may go.
            pin: match self.state {
                Unrouted => false,
                Cold | Waking => !matches!(aim, Ok(()) | Err(Reason::Wanted | Reason::NoAddress)),
                _ => zero.is_err(),
            },
            zero,
            because,
            probes,
            look_again,
        }
    }

    fn members(&self, now: Timestamp, state: State, seen: &Seen<'_>) -> Option<Members> {
        use State::{BridgingDown, BridgingUp, Burst, Cold, ColdConfirmed, Draining, Held, Unrouted, Waking, Warm};
        let written = self.belief.written();
        let members = match (self.mode, state) {
            (Mode::Hold, _) | (_, Unrouted | Warm) | (Mode::Header, BridgingUp) => Members::Pods,
            (_, Draining | ColdConfirmed | Cold | Waking) | (Mode::Header, Burst | BridgingDown | Held) => {
                Members::Activators
            }
            (Mode::Port, Held) => written.unwrap_or(Members::Both),
            (Mode::Port, BridgingUp) if self.finishes(now) => Members::Activators,
            (Mode::Port, Burst | BridgingDown | BridgingUp) => Members::Both,
        };
        members.living(seen.pods.ready > 0, seen.activators > 0)
    }

    /// Whether activators alone are on their way to some address still, and there is time to see them come.
    fn finishes(&self, now: Timestamp) -> bool {
        self.belief.written() == Some(Members::Activators)
            && self.belief.unsettled().is_some()
            && now < self.since + self.timers.bridging
    }

    fn zero(&self, now: Timestamp) -> Result<(), Reason> {
        match self.state {
            State::Unrouted => Ok(()),
            State::ColdConfirmed => match self.belief.seen_all_at() {
                Some(at) if now.since(at) < self.timers.fresh => Ok(()),
                _ => Err(Reason::Stale),
            },
            _ => Err(self.because.clone()),
        }
    }

    /// From when on only activators have been used for long enough; `None` when others may be.
    fn quiet_from(&self, seen: &Seen<'_>) -> Option<Timestamp> {
        (seen.written.map(|(members, _)| members) == Some(Members::Activators)).then_some(())?;
        Some(self.belief.only_activators_since()? + self.timers.settle + self.timers.drain)
    }

    /// What is still to be seen.
    fn missing(&self, now: Timestamp, seen: &Seen<'_>) -> Reason {
        if seen.written.map(|(members, _)| members) != self.members(now, self.state, seen) {
            return Reason::NotWritten;
        }
        match self.belief.unsettled() {
            Some((target, last)) => Reason::Unproven { rule: Arc::clone(&target.rule), address: target.address, last },
            None => match self.quiet_from(seen) {
                Some(until) => Reason::Quiet { until },
                None => Reason::NotWritten,
            },
        }
    }

    fn held(&self, now: Timestamp) -> (State, Reason) {
        let missing = match self.belief.unsettled() {
            Some((target, last)) => Reason::Unproven { rule: Arc::clone(&target.rule), address: target.address, last },
            None => Reason::NotWritten,
        };
        let failures = self.failures.saturating_add(1);
        let again = now + doubled(self.timers.hold, failures, self.timers.hold_most);
        (State::Held, Reason::Late { missing: Box::new(missing), again })
    }

    fn back_off(&self) -> Span {
        doubled(self.timers.hold, self.failures, self.timers.hold_most)
    }
}

/// `first` for one failure, twice that for two, and so on.
fn doubled(first: Span, failures: u32, most: Span) -> Span {
    let factor = 1_i64 << failures.saturating_sub(1).min(20);
    Span::from_nanos(first.nanos().saturating_mul(factor)).min(most)
}

fn because_waking(aim: &Result<(), Reason>) -> Reason {
    aim.clone().err().unwrap_or(Reason::Starting)
}
