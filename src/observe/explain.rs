//! Why a revision has the pods it has, in words: what is seen, which rule decided, what would change it.
//!
//! An [`Account`] is made of what there is to know at one moment, from a running autoscaler or from a journal, and says
//! it as text or as JSON. Nothing is decided here; the words of each rule are those of the
//! [`Reason`] itself.

use crate::api::conditions::to_jiff;
use crate::api::pods::PodCounts;
use crate::engine::{Decision, Reason, Spec};
use crate::observe::feed::ScaleChange;
use crate::observe::journal::read::JournalError;
use crate::observe::journal::replay::Step;
use crate::observe::journal::{Reader, Replay};
use crate::observe::ledger::{Activation, Mark};
use crate::observe::plan::Plan;
use crate::observe::state::{self, State};
use crate::routing::gate;
use crate::units::{RevisionKey, ScalingMetric, Span, Timestamp, count_f64, saturating_i32};
use serde_json::{Value, json};
use std::collections::{BTreeSet, VecDeque};
use std::fmt::Write as _;
use std::path::Path;

/// Changes told of at most; the latest ones.
pub const MOST_CHANGES: usize = 50;
/// Cold starts told of at most; the latest ones.
const MOST_STARTS: usize = 10;
/// A plan older than this says how old it is.
const STALE: Span = Span::from_seconds(10);
/// How alike a name must be to be worth mentioning, from 0 to 1.
const ALIKE: f64 = 0.7;
/// Names mentioned at most.
const MOST_NAMES: usize = 3;

/// What is known of a revision at one moment.
#[derive(Clone, PartialEq, Debug)]
pub struct Account {
    /// Which revision.
    pub key: RevisionKey,
    /// The moment.
    pub at: Timestamp,
    /// Where this is from, such as `the running autoscaler`.
    pub source: String,
    /// What its decider decides by; `None` where it has none.
    pub spec: Option<Spec>,
    /// The last decision.
    pub decision: Option<Decision>,
    /// What the controller made of it.
    pub plan: Option<Plan>,
    /// Pods by state, as far as they are known.
    pub pods: Option<PodCounts>,
    /// Why the last scrape of its pods brought nothing, if it did not.
    pub scrape_error: Option<String>,
    /// Changes of scale, oldest first.
    pub changes: Vec<ScaleChange>,
    /// Cold starts, oldest first.
    pub activations: Vec<Activation>,
    /// Who decides on it where this process does not, and where to ask; the second half of a sentence.
    pub elsewhere: Option<String>,
    /// How far back the changes go.
    pub since: Span,
    /// What else is to be said, such as that inputs are missing.
    pub notes: Vec<String>,
}

impl Account {
    /// The whole account as text.
    pub fn text(&self) -> String {
        let mut text = format!("{} at {}, from {}\n\n{}\n", self.key, moment(self.at), self.source, self.sentence());
        let mut part = |title: &str, lines: &[String]| {
            if !lines.is_empty() {
                // Writing to a string does not fail.
                let _ = write!(text, "\n{title}\n");
                for line in lines {
                    let _ = writeln!(text, "  {line}");
                }
            }
        };
        let sees: Vec<_> = self.sees().into_iter().map(|(name, value)| format!("{name:<18}{value}")).collect();
        part("What it sees", &sees);
        let rules: Vec<_> = self
            .rules()
            .into_iter()
            .map(|(decides, text)| format!("{} {text}", if decides { "*" } else { "-" }))
            .collect();
        part("What decided, in the order the rules acted", &rules);
        part("What would change it", &self.would_change());
        let differs = self.plan.as_ref().map(|plan| plan.differs.clone()).filter(|differs| !differs.is_empty());
        part("The running autoscaler", differs.as_slice());
        let changes: Vec<_> = self
            .changes
            .iter()
            .map(|change| {
                let ScaleChange { at, from, to, because, .. } = change;
                format!("{}  {from} → {to}  {because}", to_jiff(*at).strftime("%H:%M:%S"))
            })
            .collect();
        let title = format!("Changes of scale in the last {}", self.since);
        let none = [format!("none in the last {}", self.since)];
        part(
            if changes.is_empty() { "Changes of scale" } else { &title },
            if changes.is_empty() { &none } else { &changes },
        );
        let starts = self.activations.iter().rev().take(MOST_STARTS).rev();
        let starts: Vec<_> =
            starts.map(|start| format!("{}  {start}", to_jiff(start.began()).strftime("%H:%M:%S"))).collect();
        part("Cold starts, and where the time went", &starts);
        part("Note", &self.notes);
        text
    }

    /// The same for programs.
    pub fn json(&self) -> Value {
        let decision = self.decision.as_ref();
        json!({
            "revision": self.key.as_str(),
            "at": to_jiff(self.at),
            "source": self.source,
            "state": self.state().word(),
            "sentence": self.sentence(),
            "wanted": self.wanted(),
            "desired": decision.map(|decision| decision.desired),
            "pods": self.pods.map(|pods| json!({
                "ready": pods.ready, "notReady": pods.not_ready, "pending": pods.pending, "terminating": pods.terminating,
            })),
            "sees": decision.map(|decision| json!({
                "metric": decision.metric.to_string(),
                "stable": decision.observed.stable,
                "panic": decision.observed.panic,
                "target": decision.target,
                "ready": decision.ready,
                "excessBurstCapacity": decision.excess_burst,
                "panickingSince": decision.panicking_since.map(to_jiff),
                "decidedAt": to_jiff(decision.at),
            })),
            "facts": self.sees(),
            "rules": decision.map(|decision| decision.because.iter().map(|reason| json!({
                "rule": reason.name(), "text": reason.to_string(),
            })).collect::<Vec<_>>()),
            "words": self.rules().iter().map(|(decides, text)| json!({"decides": decides, "text": text})).collect::<Vec<_>>(),
            "decidedBy": decision.and_then(Decision::deciding).map(Reason::name),
            "plan": self.plan.as_ref().map(|plan| json!({
                "at": to_jiff(plan.at), "bound": plan.bound, "zero": plan.zero, "minScale": plan.min, "maxScale": plan.max,
                "activatorInPath": plan.proxied, "gate": plan.gate.map(gate::State::word), "stuck": plan.stuck, "trouble": plan.trouble, "differs": plan.differs,
            })),
            "scrapeError": self.scrape_error,
            "elsewhere": self.elsewhere,
            "wouldChange": self.would_change(),
            "since": self.since.to_string(),
            "changes": self.changes.iter().map(|change| json!({
                "at": to_jiff(change.at), "from": change.from, "to": change.to, "because": change.because,
            })).collect::<Vec<_>>(),
            "coldStarts": self.activations.iter().map(cold_start).collect::<Vec<_>>(),
            "notes": self.notes,
        })
    }

    /// How it is doing, in a word.
    pub fn state(&self) -> State {
        State::of(self.decision.as_ref(), self.plan.as_ref(), self.pods.unwrap_or_default())
    }

    /// The pods wanted, within the bounds.
    fn wanted(&self) -> Option<i32> {
        state::wanted(self.decision.as_ref(), self.plan.as_ref())
    }

    /// One sentence for whoever owns the service; it names the cause.
    pub fn sentence(&self) -> String {
        if let Some(elsewhere) = &self.elsewhere {
            return format!("This replica does not decide on it: {}", full_stop(elsewhere));
        }
        let ready = self.pods.map(|pods| pods.ready);
        let Some(wanted) = self.wanted() else { return self.undecided() };
        let has = match ready {
            Some(0) if wanted == 0 && self.starting() > 0 => {
                let (starting, are) = (self.starting(), if self.starting() == 1 { "is" } else { "are" });
                format!("It wants no pod now and has {starting} that {are} not ready")
            }
            Some(ready) if count_f64(ready) == f64::from(wanted) => format!("It wants and has {}", pods(wanted)),
            Some(ready) => format!("It wants {} and has {ready} ready", pods(wanted)),
            None => format!("It wants {}", pods(wanted)),
        };
        let trouble = self.plan.as_ref().map_or("", |plan| &plan.trouble);
        if !trouble.is_empty() {
            return format!("{has}, but something is to be mended: {}", full_stop(trouble));
        }
        let stuck = self.plan.as_ref().map_or("", |plan| &plan.stuck);
        if !stuck.is_empty() {
            return format!("{has}: {}", full_stop(stuck));
        }
        format!("{has}{}", self.cause(wanted, ready))
    }

    fn undecided(&self) -> String {
        match &self.plan {
            Some(plan) if !plan.trouble.is_empty() => {
                let trouble = full_stop(&plan.trouble);
                return format!("Nothing is decided yet, and something is to be mended: {trouble}");
            }
            Some(plan) if !plan.stuck.is_empty() => {
                return format!("Nothing is decided yet: {}", full_stop(&plan.stuck));
            }
            _ => {}
        }
        let pods = self.pods.unwrap_or_default();
        if pods.ready == 0 && pods.not_ready > 0 {
            let lacking = lacking(pods);
            return format!("Nothing is decided yet, because its load is not known until a pod is ready: {lacking}.");
        }
        let why = match (&self.scrape_error, &self.spec) {
            (Some(error), _) => format!("no load is known, because the last scrape of its pods failed: {error}"),
            (None, None) => "it has no decider, so it is being made or is on its way out".to_owned(),
            (None, Some(_)) => "no load has been reported or scraped since its decider was made".to_owned(),
        };
        format!("Nothing is decided yet, and it stays as it is: {}", full_stop(&why))
    }

    fn cause(&self, wanted: i32, ready: Option<usize>) -> String {
        let plan = self.plan.clone().unwrap_or_default();
        let decided = self.decision.as_ref().map_or(0, |decision| decision.desired);
        if wanted == 0 && ready.is_none_or(|ready| ready == 0) && self.starting() == 0 {
            let window =
                self.spec.as_ref().map_or_else(|| "its window".to_owned(), |spec| spec.stable_window.to_string());
            return format!(": it is at zero, because no request came in for {window}. The next one brings it back.");
        }
        if !plan.zero.is_empty() && decided <= 0 {
            return format!(": {}", full_stop(&plan.zero));
        }
        if ready == Some(0) && wanted > 0 {
            let lacking = lacking(self.pods.unwrap_or_default());
            // A pod that only a bound asks for keeps nobody waiting.
            let loaded = self.decision.as_ref().is_some_and(|decision| decision.observed.panic > 0.0);
            let why = match plan.bound.as_str() {
                _ if loaded => "requests wait for the first pod",
                "" => "none has become ready yet",
                bound => bound,
            };
            return format!(": {why}; {lacking}.");
        }
        if plan.max > 0 && wanted == plan.max && decided > wanted {
            return format!(
                ": it is held at max-scale {}, and its load would need {}.{}",
                plan.max,
                pods(decided),
                if plan.proxied { " What the pods cannot take waits in the activator." } else { "" }
            );
        }
        if decided < wanted && !plan.bound.is_empty() {
            return format!(": {}; its load alone would need {}.", plan.bound, pods(decided));
        }
        self.by_rule()
    }

    /// The rule that decided, in a sentence.
    fn by_rule(&self) -> String {
        let Some(decision) = &self.decision else { return ".".to_owned() };
        let load = |value: f64| amount(value, decision.metric);
        let window =
            self.spec.as_ref().map_or_else(|| "stable window".to_owned(), |spec| spec.stable_window.to_string());
        let target = figure(decision.target);
        match decision.deciding() {
            Some(Reason::StableTarget { load: value, .. }) if *value == 0.0 => {
                format!(": no request came in for {window}.")
            }
            Some(Reason::StableTarget { load: value, .. }) => format!(
                ": on average over the last {window} there were {}, and one pod should have {target}.",
                load(*value)
            ),
            Some(Reason::PanicTarget { load: value, .. }) => format!(
                ": load rose so fast that the last seconds count: {}, and one pod should have {target}.",
                load(*value)
            ),
            Some(Reason::PanicHolds { floor, wanted, window, .. }) => format!(
                ": load rose fast a short while ago, so it panics, and keeps {} until there was no cause for {window}. Its load now \
                 would need {wanted}.",
                pods(*floor)
            ),
            Some(Reason::HeldByDelay { wanted, delay, .. }) => format!(
                ": its load now would need {}, but the scale-down-delay keeps what was wanted within {delay}.",
                pods(*wanted)
            ),
            Some(other) => format!(": {other}."),
            None => ".".to_owned(),
        }
    }

    /// Pods that are on their way to be ready.
    fn starting(&self) -> usize {
        self.pods.map_or(0, |pods| pods.not_ready.saturating_sub(pods.terminating))
    }

    fn sees(&self) -> Vec<(&'static str, String)> {
        let mut sees = Vec::new();
        if let Some(decision) = &self.decision {
            let load = |value: f64| amount(value, decision.metric);
            let window = self.spec.as_ref().map(|spec| format!(", over {}", spec.stable_window)).unwrap_or_default();
            sees.push(("stable average", format!("{}{window}", load(decision.observed.stable))));
            sees.push(("panic average", load(decision.observed.panic)));
            let total = self.spec.as_ref().map_or(decision.target, |spec| spec.total_value);
            let of = if total == decision.target {
                String::new()
            } else {
                format!(", of the {} it can take", figure(total))
            };
            sees.push(("target per pod", format!("{}{of}", figure(decision.target))));
            let panics = decision
                .panicking_since
                .map_or_else(|| "no".to_owned(), |since| format!("last cause at {}", moment(since)));
            sees.push(("panic", panics));
        }
        if let Some(pods) = self.pods {
            let PodCounts { ready, not_ready, pending, terminating } = pods;
            sees.push((
                "pods",
                format!("{ready} ready, {not_ready} not ready ({pending} not started, {terminating} ending)"),
            ));
        }
        if let Some(decision) = &self.decision {
            let spare = match self.spec.as_ref().map(|spec| spec.target_burst_capacity) {
                Some(0.0) => "not asked for, so the activator is in the path at zero only".to_owned(),
                Some(-1.0) => "unlimited is asked for, so the activator is always in the path".to_owned(),
                asked => {
                    let asked =
                        asked.map(|asked| format!(" beyond the {} asked for", figure(asked))).unwrap_or_default();
                    let path = if decision.excess_burst < 0 { "in" } else { "out of" };
                    format!("{}{asked}: the activator is {path} the path", decision.excess_burst)
                }
            };
            sees.push(("spare for bursts", spare));
        }
        if let Some(plan) = &self.plan {
            let most = if plan.max > 0 { plan.max.to_string() } else { "any number".to_owned() };
            sees.push(("bounds", format!("{} to {most}", pods_of(plan.min))));
            sees.extend(plan.gate.map(|gate| ("load balancer", gated(gate).to_owned())));
        }
        if let Some(error) = &self.scrape_error {
            sees.push(("last scrape", format!("failed: {error}")));
        }
        sees
    }

    /// The rules that acted, and whether each gave the number its value.
    fn rules(&self) -> Vec<(bool, String)> {
        let decision = self.decision.as_ref();
        let deciding = decision.and_then(Decision::deciding);
        let reasons = decision.iter().flat_map(|decision| &decision.because);
        let mut rules: Vec<_> = reasons.map(|reason| (deciding == Some(reason), reason.to_string())).collect();
        if let Some(plan) = &self.plan {
            // What keeps the last pod says for how long, and it is said again only when something changes.
            let old = self.at.since(plan.at) > STALE && !plan.zero.is_empty();
            let when = if old { format!(" (as of {})", moment(plan.at)) } else { String::new() };
            let said = [plan.bound.clone(), format!("{}{when}", plan.zero)];
            rules.extend(said.into_iter().filter(|text| !text.is_empty()).map(|text| (true, text)));
        }
        rules
    }

    /// What would give another number, with the numbers.
    pub fn would_change(&self) -> Vec<String> {
        if self.elsewhere.is_some() {
            return Vec::new();
        }
        let mut ways = Vec::new();
        if self.plan.as_ref().is_some_and(|plan| !plan.trouble.is_empty() || !plan.stuck.is_empty()) {
            // Whatever its load becomes, nothing comes of it before that.
            ways.push("first of all: an end to what the first sentence names".to_owned());
        }
        let (Some(decision), Some(wanted)) = (&self.decision, self.wanted()) else {
            if ways.is_empty() {
                ways.push("the first report of an activator, or the first scrape that succeeds".to_owned());
            }
            return ways;
        };
        let target = decision.target;
        let load = |value: f64| amount(value, decision.metric);
        let plan = self.plan.clone().unwrap_or_default();
        if wanted == 0 {
            ways.push("more: any request".to_owned());
            if self.starting() > 0 {
                ways.push("fewer: none, once it was ready and nobody used it, or its time to start is over".to_owned());
                return ways;
            }
            if plan.min == 0 {
                ways.push("never at zero: autoscaling.knative.dev/min-scale: \"1\"".to_owned());
            }
            return ways;
        }
        let at_max = plan.max > 0 && wanted >= plan.max;
        if at_max {
            ways.push(format!("more: a higher autoscaling.knative.dev/max-scale than {}", plan.max));
        } else {
            let needed = f64::from(wanted.max(1)) * target;
            let average =
                if decision.panicking_since.is_some() { "stable or the panic average" } else { "stable average" };
            ways.push(format!("more: {} once the {average} exceeds {}", pods(wanted + 1), load(needed)));
            if decision.panicking_since.is_none()
                && let Some(spec) = &self.spec
            {
                let ready = f64::from(decision.ready.max(1));
                let panics = ((spec.panic_threshold * ready).ceil() - 1.0).max(0.0) * target;
                ways.push(format!("panic: when the panic average exceeds {}", load(panics)));
            }
        }
        if plan.min > 0 && wanted <= plan.min {
            ways.push(format!("fewer: a lower autoscaling.knative.dev/min-scale than {}", plan.min));
            return ways;
        }
        match decision.deciding() {
            Some(Reason::PanicHolds { since, window, .. }) => {
                ways.push(format!("fewer: not before {}, and later if load rises again", moment(*since + *window)));
            }
            Some(Reason::HeldByDelay { delay, .. }) => {
                ways.push(format!("fewer: once less was wanted for the whole scale-down-delay of {delay}"));
            }
            Some(Reason::TakenOver { left, .. }) => {
                ways.push(format!("fewer: not before {}", moment(decision.at + *left)));
            }
            Some(Reason::Unscraped { .. }) => ways.push("fewer: once its pods can be scraped again".to_owned()),
            _ if decision.panicking_since.is_some() => {
                ways.push("fewer: once panic has ended, which takes a stable window without a cause".to_owned());
            }
            _ if wanted > 1 => {
                let below = f64::from(wanted - 1) * target;
                ways.push(format!("fewer: {} once the stable average is {} or less", pods(wanted - 1), load(below)));
            }
            _ => {
                let window = self
                    .spec
                    .as_ref()
                    .map_or_else(|| "the stable window".to_owned(), |spec| spec.stable_window.to_string());
                ways.push(format!("fewer: zero, after {window} without a request"));
            }
        }
        ways
    }
}

/// Why there is no account.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    /// The journal cannot be read.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// There is no such revision.
    #[error("{}", unknown(key, names))]
    Unknown {
        /// Which.
        key: RevisionKey,
        /// Those there are.
        names: Vec<RevisionKey>,
    },
    /// The moment is outside what was recorded.
    #[error("nothing was recorded of {key} at {}; what was is from {} to {}", moment(*at), moment(*from), moment(*to))]
    Outside {
        /// Which revision.
        key: RevisionKey,
        /// The moment asked for.
        at: Timestamp,
        /// The first of what was recorded.
        from: Timestamp,
        /// The last.
        to: Timestamp,
    },
}

/// A cold start for programs; times in seconds.
fn cold_start(activation: &Activation) -> Value {
    let phases = activation.phases().into_iter();
    json!({
        "at": to_jiff(activation.began()),
        "seconds": activation.total().seconds_f64(),
        "phases": phases.map(|(mark, took)| json!({"phase": mark.name(), "seconds": took.seconds_f64()})).collect::<Vec<_>>(),
        "unknown": activation.unknown().into_iter().map(Mark::name).collect::<Vec<_>>(),
        "text": activation.to_string(),
    })
}

/// That a revision is not known, and what those are called that are most like it.
pub fn unknown(key: &RevisionKey, names: &[RevisionKey]) -> String {
    let mut alike: Vec<_> = names
        .iter()
        .map(|name| {
            let of_name = strsim::jaro_winkler(name.name(), key.name());
            // The service's own name is what people remember of a revision's, and the namespace what they leave out.
            let alike = match (name.namespace() == key.namespace(), name.name() == key.name()) {
                (_, true) => 3.0,
                (true, _) if name.name().starts_with(key.name()) => 1.0 + of_name,
                (true, _) => of_name,
                _ => strsim::jaro_winkler(name.as_str(), key.as_str()),
            };
            (alike, name)
        })
        .filter(|(alike, _)| *alike >= ALIKE)
        .collect();
    alike.sort_by(|one, other| other.0.total_cmp(&one.0).then_with(|| one.1.cmp(other.1)));
    // Where some are meant as good as certainly, the others are none.
    let sure = alike.iter().take_while(|(alike, _)| *alike > 1.0).count();
    alike.truncate(MOST_NAMES.min(if sure > 0 { sure } else { MOST_NAMES }));
    let some: Vec<_> = if alike.is_empty() {
        let mut names: Vec<_> = names.iter().collect();
        names.sort();
        names.into_iter().take(MOST_NAMES).map(RevisionKey::as_str).collect()
    } else {
        alike.iter().map(|(_, name)| name.as_str()).collect()
    };
    let some = some.join(", ");
    match names.len() {
        0 => format!("revision {key} is not known, and no other is"),
        _ if !alike.is_empty() => format!("revision {key} is not known; there is {some}"),
        count if count <= MOST_NAMES => format!("revision {key} is not known; all there is: {some}"),
        count => format!("revision {key} is not known, nor is one called nearly so; there are {count}, such as {some}"),
    }
}

/// What a journal says of a revision, at a moment or at its end, with the changes in the time before it.
///
/// # Errors
/// When the journal cannot be read, or says nothing of it.
pub fn of_journal(path: &Path, key: &RevisionKey, at: Option<Timestamp>, since: Span) -> Result<Account, ExplainError> {
    let mut replay = Replay::open(path, Some(key.clone()))?.past_damage();
    let mut told = Told::default();
    replay.run(at, |event| told.take_in(&event))?;
    let (Some(first), Some(last)) = (told.first, told.last) else {
        let names = names(path)?;
        if !names.contains(key) {
            return Err(ExplainError::Unknown { key: key.clone(), names: names.into_iter().collect() });
        }
        let (from, to) = span(path, key)?;
        return Err(ExplainError::Outside { key: key.clone(), at: at.unwrap_or(to), from, to });
    };
    let moment = at.unwrap_or(last);
    if moment.since(last) > Span::from_seconds(60) && !told.gone && told.removed.is_none() {
        return Err(ExplainError::Outside { key: key.clone(), at: moment, from: first, to: last });
    }
    let plan = replay.plan(key).cloned();
    let from = moment - since;
    let mut notes = Vec::new();
    if told.gone {
        notes.push(format!("from {} on it was not this replica's any more", self::moment(last)));
    }
    if let Some(removed) = told.removed {
        let removed = self::moment(removed);
        notes.push(format!(
            "at {removed} its decider was taken away: the revision was deleted, or given to another class"
        ));
    }
    let gaps = told.gaps.iter().filter(|gap| **gap > first && **gap >= from).count();
    if gaps > 0 {
        let times = if gaps == 1 { "once".to_owned() } else { format!("{gaps} times") };
        notes.push(format!("recording was interrupted {times} in that time; changes meanwhile are missing"));
    }
    if replay.agreement().differing > 0 {
        let differing = replay.agreement().differing;
        notes.push(format!(
            "{differing} decisions come out otherwise than they were recorded: the journal is of another version of ebb"
        ));
    }
    for damage in replay.damaged() {
        notes.push(format!("from there to the next file nothing could be read: {damage}"));
    }
    if let [.., file] = replay.reader().cut_off() {
        notes.push(format!("{} ends within a record: its writer was stopped there", file.display()));
    }
    let changes = told.changes.into_iter().filter(|change| change.at >= from).collect();
    let changes = latest(changes, &mut notes);
    Ok(Account {
        key: key.clone(),
        at: moment,
        source: format!("the journal in {}", path.display()),
        spec: told.spec,
        decision: told.decision,
        pods: plan.as_ref().map(|plan| plan.pods),
        plan,
        scrape_error: told.failing.then(|| "too few pods answered".to_owned()),
        changes,
        activations: told.activations.into_iter().filter(|start| start.began() >= from).collect(),
        elsewhere: None,
        since,
        notes,
    })
}

/// That what was between `from` and `known_since` is not known here, if there was anything: of the time before a revision
/// was `made` there is nothing to be known.
pub fn unknown_before(known_since: Timestamp, from: Timestamp, made: Option<Timestamp>) -> Option<String> {
    // Objects say the second in which they were made.
    let from = made.map_or(from, |made| from.max(made + Span::SECOND));
    (from < known_since).then(|| {
        let since = moment(known_since);
        format!("changes of scale before {since} are not known here; they are in the journal, if one is kept")
    })
}

/// As many of the changes as are told of, and that there are more.
pub fn latest(mut changes: Vec<ScaleChange>, notes: &mut Vec<String>) -> Vec<ScaleChange> {
    let more = changes.len().saturating_sub(MOST_CHANGES);
    if more > 0 {
        notes.push(format!("{more} earlier changes of scale in that time are not listed"));
        changes.drain(..more);
    }
    changes
}

/// What a replay of one revision brings.
#[derive(Default)]
struct Told {
    first: Option<Timestamp>,
    last: Option<Timestamp>,
    gaps: Vec<Timestamp>,
    changes: VecDeque<ScaleChange>,
    activations: VecDeque<Activation>,
    /// The last scrape failed.
    failing: bool,
    gone: bool,
    /// When its decider was taken away, if it was and came not again.
    removed: Option<Timestamp>,
    /// The last decision and what it was made by. They are told of after their revision has gone too, or is not known of after
    /// a gap.
    decision: Option<Decision>,
    spec: Option<Spec>,
    /// Whether plans are recorded, as they are but for a shadow.
    planned: bool,
    desired: Option<i32>,
}

impl Told {
    fn take_in(&mut self, event: &crate::observe::journal::replay::Event<'_>) {
        let Some(key) = event.key else {
            self.gaps.push(event.at);
            return;
        };
        self.first.get_or_insert(event.at);
        // Plans are told once more where a file begins, however old.
        self.last = self.last.max(Some(event.at));
        let latest = event.revision.and_then(|revision| revision.latest());
        match &event.step {
            Step::Applied { input, applied, .. } => {
                self.gone = false;
                match input.event {
                    crate::engine::Event::Scraped { .. } | crate::engine::Event::NothingToScrape => {
                        self.failing = false;
                    }
                    crate::engine::Event::ScrapeFailed => self.failing = true,
                    crate::engine::Event::Decider { ref spec, .. } => {
                        (self.spec, self.removed) = (Some(Spec::clone(spec)), None);
                    }
                    crate::engine::Event::NoDecider => self.removed = Some(event.at),
                    _ => {}
                }
                if let Some(decision) = latest.filter(|_| applied.evaluated) {
                    self.decision = Some(decision.clone());
                    let from = self.desired.replace(decision.desired);
                    if let Some(from) = from.filter(|from| !self.planned && *from != decision.desired) {
                        self.change(key, event.at, from, decision.desired, in_words(Some(decision), None));
                    }
                }
            }
            Step::Planned(plan) => {
                if !std::mem::replace(&mut self.planned, true) {
                    self.changes.clear();
                }
                if let (Some(from), Some(to)) = (plan.from, plan.want) {
                    self.change(key, plan.at, from, to, in_words(latest, Some(plan)));
                }
            }
            Step::Activated(activation) => {
                if self.activations.len() >= MOST_CHANGES {
                    self.activations.pop_front();
                }
                self.activations.push_back(**activation);
            }
            Step::Gone => self.gone = true,
            Step::State => {
                (self.gone, self.removed) = (false, None);
                let decider = event.revision.and_then(|revision| revision.decider());
                self.spec = decider.map(|decider| decider.spec().clone()).or_else(|| self.spec.take());
            }
            Step::Gap => {}
        }
    }

    fn change(&mut self, key: &RevisionKey, at: Timestamp, from: i32, to: i32, because: String) {
        self.changes.push_back(ScaleChange { at, key: key.clone(), from, to, because });
        if self.changes.len() > 100 * MOST_CHANGES {
            self.changes.pop_front();
        }
    }
}

fn in_words(decision: Option<&Decision>, plan: Option<&Plan>) -> String {
    let rules = decision.into_iter().flat_map(|decision| &decision.because).map(ToString::to_string);
    let plan = plan.into_iter().flat_map(|plan| [plan.bound.clone(), plan.zero.clone()]);
    rules.chain(plan.filter(|text| !text.is_empty())).collect::<Vec<_>>().join("; ")
}

/// Every revision a journal speaks of.
fn names(path: &Path) -> Result<BTreeSet<RevisionKey>, JournalError> {
    let (mut reader, mut names) = (Reader::open(path)?, BTreeSet::new());
    loop {
        match reader.next() {
            Ok(None) => return Ok(names),
            Ok(Some((_, record))) => names.extend(record.names.iter().filter_map(|name| name.key.parse().ok())),
            Err(JournalError::Damaged { .. }) => reader.skip_file(),
            Err(error) => return Err(error),
        }
    }
}

/// From when to when a journal speaks of a revision.
fn span(path: &Path, key: &RevisionKey) -> Result<(Timestamp, Timestamp), JournalError> {
    let mut told = Told::default();
    Replay::open(path, Some(key.clone()))?.past_damage().run(None, |event| told.take_in(&event))?;
    Ok((told.first.unwrap_or_default(), told.last.unwrap_or_default()))
}

/// A moment to the second, as people and machines read it.
pub fn moment(at: Timestamp) -> String {
    to_jiff(at).strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// How a load balancer leads to a revision.
fn gated(gate: gate::State) -> &'static str {
    use gate::State::{BridgingDown, BridgingUp, Burst, Cold, ColdConfirmed, Draining, Held, Unrouted, Waking, Warm};
    match gate {
        Unrouted => "no rule leads to it any more",
        Warm => "leads to its pods",
        Burst => "leads to its pods and to activators, because there is little room",
        BridgingDown => "leads to its pods; activators are being added",
        Draining => "leads to activators; its pods are being taken out",
        ColdConfirmed => "was seen to lead to activators only",
        Cold => "leads to activators; there are no pods",
        Waking => "leads to activators; pods are coming",
        BridgingUp => "leads to activators; its pods are being added",
        Held => "did not follow in time, so a pod stays; it is tried again",
    }
}

/// What there is where no pod is ready, and what says more.
fn lacking(pods: PodCounts) -> String {
    let there = match (pods.not_ready, pods.pending) {
        (0, _) => return "none exists yet; where that lasts, `kubectl describe replicaset` says why".to_owned(),
        (1, 0) => "its pod runs and is not ready".to_owned(),
        (1, _) => "its pod has not started".to_owned(),
        (all, 0) => format!("{all} pods run and none is ready"),
        (all, pending) => format!("of {all} pods that exist {pending} have not started, and none is ready"),
    };
    format!("{there}, and `kubectl describe pod` says what it lacks")
}

fn pods(number: i32) -> String {
    format!("{number} {}", if number == 1 { "pod" } else { "pods" })
}

fn pods_of(least: i32) -> String {
    if least == 0 { "zero".to_owned() } else { least.to_string() }
}

fn full_stop(text: &str) -> String {
    if text.ends_with(['.', '…']) { text.to_owned() } else { format!("{text}.") }
}

/// A number with two decimals at most.
fn figure(value: f64) -> String {
    let whole = saturating_i32(value);
    if f64::from(whole) == value {
        return whole.to_string();
    }
    let text = format!("{value:.2}");
    if text.trim_matches(['0', '.', '-']).is_empty() {
        format!("{value:.1e}")
    } else {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    }
}

fn amount(value: f64, metric: ScalingMetric) -> String {
    let what = match (metric, value == 1.0) {
        (ScalingMetric::Concurrency, false) => "requests in flight",
        (ScalingMetric::Concurrency, true) => "request in flight",
        (ScalingMetric::Rps, _) => "requests per second",
    };
    format!("{} {what}", figure(value))
}
