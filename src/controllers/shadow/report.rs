//! The account of a shadow: how much was compared, what differed, and a sentence that says so. Pure.

use crate::api::conditions::to_jiff;
use crate::controllers::shadow::compare::{Answers, Aspect, Basis, Blind, Comparison, SERVE};
use crate::units::{NANOS_PER_SECOND, RevisionKey, Span, Timestamp};
use serde_json::{Value, json};
use std::fmt::Write as _;

/// Revisions named in the sentence; more are only counted.
const NAMED: usize = 3;

/// How long was compared, and how much of it differed.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Account {
    /// Exactly and approximately.
    compared: [Span; 2],
    /// Time with a lasting difference in anything.
    pub differed: Span,
    /// The same, by [`Aspect`].
    pub differed_in: [Span; Aspect::ALL.len()],
    /// Lasting differences, by [`Aspect`].
    pub differences: [u64; Aspect::ALL.len()],
}

impl Account {
    /// The account of one comparison, in which so many differences were told.
    pub fn of(comparison: &Comparison, differences: [u64; Aspect::ALL.len()]) -> Self {
        Self {
            compared: [Basis::Exact, Basis::Approximate].map(|basis| comparison.compared(basis)),
            differed: comparison.differed(),
            differed_in: Aspect::ALL.map(|aspect| comparison.differed_in(aspect)),
            differences,
        }
    }

    /// Adds another one.
    pub fn add(&mut self, other: &Self) {
        for (span, more) in self.compared.iter_mut().zip(other.compared) {
            *span = *span + more;
        }
        self.differed = self.differed + other.differed;
        for (span, more) in self.differed_in.iter_mut().zip(other.differed_in) {
            *span = *span + more;
        }
        for (count, more) in self.differences.iter_mut().zip(other.differences) {
            *count += more;
        }
    }

    /// How long was compared on this basis.
    pub fn compared(&self, basis: Basis) -> Span {
        match basis {
            Basis::Exact => self.compared[0],
            Basis::Approximate => self.compared[1],
            Basis::Warming | Basis::Blind => Span::ZERO,
        }
    }

    /// How long was compared at all.
    pub fn compared_in_all(&self) -> Span {
        self.compared[0] + self.compared[1]
    }

    /// The part of the time compared without a lasting difference, 0 to 1; `None` when nothing was compared.
    pub fn agreement(&self) -> Option<f64> {
        let compared = self.compared_in_all().seconds_f64();
        (compared > 0.0).then(|| (1.0 - self.differed.seconds_f64() / compared).clamp(0.0, 1.0))
    }
}

/// A difference that lasted.
#[derive(Clone, PartialEq, Debug)]
pub struct Difference {
    /// The revision.
    pub key: RevisionKey,
    /// In what.
    pub aspect: Aspect,
    /// How well it could be judged when it was found.
    pub basis: Basis,
    /// Since when.
    pub since: Timestamp,
    /// What Ebb wanted when it was found.
    pub ours: i32,
    /// What the running autoscaler wanted.
    pub theirs: i32,
    /// The rules behind Ebb's number, in words.
    pub because: String,
    /// How it ended, if it has.
    pub over: Option<Over>,
}

/// How a difference ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Over {
    /// After so long.
    pub lasted: Span,
    /// Whether the two agreed again; otherwise they could not be compared any more.
    pub agreed: bool,
}

impl Difference {
    /// What it was, in words.
    pub fn in_words(&self) -> String {
        let (ours, theirs) = (self.aspect.in_words(self.ours), self.aspect.in_words(self.theirs));
        match self.aspect {
            Aspect::Replicas => {
                format!("the scale target had {theirs} where both wanted {ours}; something else scales it")
            }
            _ => format!("Ebb wanted {ours}, the running autoscaler {theirs}"),
        }
    }

    /// The same with the time it began.
    pub fn with_since(&self) -> String {
        format!("{}, since {}", self.in_words(), to_jiff(self.since).strftime("%H:%M:%S"))
    }

    fn json(&self) -> Value {
        json!({
            "aspect": self.aspect.name(),
            "basis": self.basis.name(),
            "since": to_jiff(self.since),
            "ebb": value(self.aspect, Some(self.ours)),
            "running": value(self.aspect, Some(self.theirs)),
            "because": self.because,
            "lastedSeconds": self.over.map(|over| over.lasted.seconds_f64()),
            "agreedAgain": self.over.map(|over| over.agreed),
        })
    }
}

/// What one side wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Side {
    /// Pods.
    pub pods: Option<i32>,
    /// The mode as a number.
    pub mode: Option<i32>,
    /// Activators.
    pub activators: Option<i32>,
    /// Replicas the scale target has; of the running side only.
    pub replicas: Option<i32>,
}

impl Side {
    /// Taken from its answers.
    pub fn of(answers: &Answers, replicas: Option<i32>) -> Self {
        let answer = |aspect: Aspect| answers[aspect as usize];
        Self {
            pods: answer(Aspect::Pods),
            mode: answer(Aspect::Mode),
            activators: answer(Aspect::Activators),
            replicas,
        }
    }

    fn json(&self) -> Value {
        let mut side = json!({
            "pods": self.pods,
            "mode": value(Aspect::Mode, self.mode),
            "activators": self.activators,
        });
        if let (Some(replicas), Some(side)) = (self.replicas, side.as_object_mut()) {
            side.insert("replicas".to_owned(), replicas.into());
        }
        side
    }
}

fn value(aspect: Aspect, number: Option<i32>) -> Value {
    match (aspect, number) {
        (_, None) => Value::Null,
        (Aspect::Mode, Some(mode)) => (if mode == SERVE { "Serve" } else { "Proxy" }).into(),
        (_, Some(number)) => number.into(),
    }
}

/// The account of one revision.
#[derive(Clone, PartialEq, Debug)]
pub struct RevisionReport {
    /// Which.
    pub key: RevisionKey,
    /// How well it can be compared now.
    pub basis: Basis,
    /// Why it cannot, if so.
    pub blind: Option<Blind>,
    /// How long a decision remembers, and so how long it warms up.
    pub memory: Span,
    /// What Ebb wants now.
    pub ebb: Side,
    /// What the running autoscaler wants now.
    pub running: Side,
    /// The rules behind Ebb's number, in words.
    pub because: String,
    /// The account.
    pub account: Account,
    /// In what they differ now.
    pub differing: Vec<Aspect>,
    /// The last few differences, newest last.
    pub differences: Vec<Difference>,
}

impl RevisionReport {
    /// Whether there was no lasting difference; `None` when nothing was compared.
    pub fn agreed(&self) -> Option<bool> {
        (self.account.compared_in_all() > Span::ZERO).then(|| self.account.differences.iter().all(|count| *count == 0))
    }

    fn json(&self) -> Value {
        json!({
            "revision": self.key.as_str(),
            "basis": self.basis.name(),
            "notSeenBecause": self.blind.map(|blind| blind.to_string()),
            "ebb": self.ebb.json(),
            "running": self.running.json(),
            "because": self.because,
            "agreed": self.agreed(),
            "differsNowIn": self.differing.iter().map(|aspect| aspect.name()).collect::<Vec<_>>(),
            "agreementRatio": self.account.agreement(),
            "comparedSeconds": {
                "exact": self.account.compared(Basis::Exact).seconds_f64(),
                "approximate": self.account.compared(Basis::Approximate).seconds_f64(),
            },
            "differedSeconds": self.account.differed.seconds_f64(),
            "differences": self.differences.iter().map(Difference::json).collect::<Vec<_>>(),
        })
    }
}

/// The whole account.
#[derive(Clone, PartialEq, Debug)]
pub struct Report {
    /// Since when it is kept.
    pub since: Timestamp,
    /// When this was written.
    pub at: Timestamp,
    /// Writes that were refused; anything but 0 is a fault.
    pub writes_refused: u64,
    /// The account of all of them, and of those that are gone.
    pub all: Account,
    /// Those there are, sorted by name.
    pub revisions: Vec<RevisionReport>,
}

impl Report {
    /// What a platform engineer wants to know, in a few sentences.
    pub fn sentence(&self) -> String {
        let judged: Vec<_> = self.revisions.iter().filter(|revision| revision.agreed().is_some()).collect();
        let differing: Vec<_> = judged.iter().filter(|revision| revision.agreed() == Some(false)).collect();
        let looked = whole(self.at.since(self.since));
        let mut text = String::new();
        let out = &mut text;
        let written = if judged.is_empty() {
            write!(out, "Nothing could be compared yet, after {looked}.")
        } else {
            let agreed = judged.len() - differing.len();
            write!(out, "Ebb agreed with the running autoscaler on {agreed} of {}", revisions(judged.len()))
                .and_then(|()| write!(out, " in {looked}."))
        };
        written.expect("writing to a string");
        for revision in differing.iter().take(NAMED) {
            let differed = whole(revision.account.differed);
            write!(out, " {} differed for {differed}", revision.key).expect("writing to a string");
            if let Some(last) = revision.differences.last() {
                write!(out, ", last like this: {}", last.in_words()).expect("writing to a string");
                if !last.because.is_empty() && last.aspect != Aspect::Replicas {
                    write!(out, " ({})", last.because).expect("writing to a string");
                }
            }
            out.push('.');
        }
        if differing.len() > NAMED {
            write!(out, " So did {} more.", differing.len() - NAMED).expect("writing to a string");
        }
        let approximate = judged
            .iter()
            .filter(|revision| revision.account.compared(Basis::Exact) < revision.account.compared(Basis::Approximate))
            .count();
        if approximate > 0 {
            write!(
                out,
                " {} compared approximately most of the time, because activators were in the path; what waits in an \
                 activator cannot be seen.",
                were(approximate)
            )
            .expect("writing to a string");
        }
        self.say_what_was_not_compared(out);
        if self.writes_refused > 0 {
            write!(out, " {} writes were refused, which is a fault of Ebb.", self.writes_refused)
                .expect("writing to a string");
        }
        text
    }

    /// As JSON, revisions and all.
    pub fn json(&self) -> Value {
        let basis = |wanted: Basis| self.revisions.iter().filter(|revision| revision.basis == wanted).count();
        json!({
            "summary": self.sentence(),
            "since": to_jiff(self.since),
            "at": to_jiff(self.at),
            "agreementRatio": self.all.agreement(),
            "differedSeconds": self.all.differed.seconds_f64(),
            "basisNow": Basis::ALL.iter().map(|of| (of.name(), basis(*of))).collect::<std::collections::BTreeMap<_, _>>(),
            "writesRefused": self.writes_refused,
            "revisions": self.revisions.iter().map(RevisionReport::json).collect::<Vec<_>>(),
        })
    }

    fn say_what_was_not_compared(&self, out: &mut String) {
        let not = |what: fn(&RevisionReport) -> bool| {
            self.revisions.iter().filter(|revision| revision.agreed().is_none() && what(revision)).count()
        };
        for (count, why) in [
            (
                not(|revision| revision.basis == Basis::Warming),
                "not looked at for long enough yet: twice their stable window and the scale-down delay",
            ),
            (not(|revision| revision.blind == Some(Blind::NoPods)), "at zero, where only activators see requests"),
            (
                not(|revision| revision.blind == Some(Blind::NoAnswer)),
                "not answering Ebb on port 9090 of their pods; a NetworkPolicy may be in the way",
            ),
            (
                not(|revision| matches!(revision.blind, Some(Blind::Undecided | Blind::TheyAreUndecided))),
                "without a decision of one side",
            ),
        ] {
            if count > 0 {
                let be = if count == 1 { "is" } else { "are" };
                write!(out, " Not compared: {} {be} {why}.", revisions(count)).expect("writing to a string");
            }
        }
    }
}

fn revisions(count: usize) -> String {
    format!("{count} {}", if count == 1 { "revision" } else { "revisions" })
}

fn were(count: usize) -> String {
    format!("{count} {}", if count == 1 { "was" } else { "were" })
}

/// Cut to whole seconds, for people.
fn whole(span: Span) -> Span {
    Span::from_seconds(span.nanos() / NANOS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controllers::shadow::compare::{Sight, Tolerance};

    const START: Timestamp = Timestamp::from_seconds(1_785_542_400);

    /// The account after so many seconds in which both sides wanted these pods.
    fn account(seconds: i64, ours: i32, theirs: i32, in_path: bool) -> Account {
        let mut comparison = Comparison::starting(START - Span::from_seconds(200));
        let mut differences = [0; Aspect::ALL.len()];
        for second in -200..seconds {
            let (ours, theirs) = if second < 0 { (1, 1) } else { (ours, theirs) };
            let findings = comparison.look(&Sight {
                at: START + Span::from_seconds(second),
                blind: None,
                in_path,
                full: false,
                panicking: false,
                memory: Span::from_seconds(190),
                ours: [Some(ours), None, Some(SERVE), Some(2)],
                tolerance: Tolerance::default(),
                theirs: [Some(theirs), None, Some(SERVE), Some(2)],
            });
            differences[0] += findings.len() as u64;
        }
        Account::of(&comparison, differences)
    }

    fn revision(name: &str, basis: Basis, account: Account) -> RevisionReport {
        RevisionReport {
            key: RevisionKey::new("default", name),
            basis,
            blind: None,
            memory: Span::from_seconds(120),
            ebb: Side::default(),
            running: Side::default(),
            because: String::new(),
            account,
            differing: Vec::new(),
            differences: Vec::new(),
        }
    }

    fn report(revisions: Vec<RevisionReport>) -> Report {
        let mut all = Account::default();
        for revision in &revisions {
            all.add(&revision.account);
        }
        Report { since: START, at: START + Span::from_millis(7_384_500), writes_refused: 0, all, revisions }
    }

    #[test]
    fn the_sentence_says_how_many_agreed_which_did_not_and_what_was_not_seen() {
        let mut differing = revision("shop-00007", Basis::Exact, account(130, 8, 7, false));
        differing.differences.push(Difference {
            key: differing.key.clone(),
            aspect: Aspect::Pods,
            basis: Basis::Exact,
            since: START,
            ours: 8,
            theirs: 7,
            because: "50.0 requests in flight / target 7.0 = 8 pods".to_owned(),
            over: None,
        });
        let mut asleep = revision("night-00001", Basis::Blind, Account::default());
        asleep.blind = Some(Blind::NoPods);
        let report = report(vec![
            revision("a-00001", Basis::Exact, account(100, 3, 3, false)),
            revision("b-00001", Basis::Approximate, account(100, 3, 3, true)),
            asleep,
            differing,
            revision("young-00001", Basis::Warming, Account::default()),
        ]);
        assert_eq!(
            report.sentence(),
            "Ebb agreed with the running autoscaler on 2 of 3 revisions in 2h3m4s. default/shop-00007 differed for 2m3s, \
             last like this: Ebb wanted 8 pods, the running autoscaler 7 pods (50.0 requests in flight / target 7.0 = 8 \
             pods). 1 was compared approximately most of the time, because activators were in the path; what waits in an \
             activator cannot be seen. Not compared: 1 revision is not looked at for long enough yet: twice their stable \
             window and the scale-down delay. Not compared: 1 revision is at zero, where only activators see requests."
        );
        let json = report.json();
        assert_eq!(json["summary"], report.sentence());
        assert_eq!(json["basisNow"], json!({"exact": 2, "approximate": 1, "warming": 1, "blind": 1}));
        assert_eq!(json["revisions"][3]["agreed"], false);
        assert_eq!(json["revisions"][3]["differences"][0]["ebb"], 8);
        assert_eq!(json["revisions"][2]["agreed"], Value::Null);
    }

    #[test]
    fn of_many_differing_revisions_a_few_are_named() {
        let differing = || account(60, 8, 7, false);
        let report = report((1..=5).map(|n| revision(&format!("r-{n}"), Basis::Exact, differing())).collect());
        let sentence = report.sentence();
        assert!(sentence.starts_with("Ebb agreed with the running autoscaler on 0 of 5 revisions"), "{sentence}");
        assert!(sentence.contains("default/r-3 differed") && !sentence.contains("default/r-4"), "{sentence}");
        assert!(sentence.ends_with("So did 2 more."), "{sentence}");
    }

    #[test]
    fn agreement_is_the_part_of_the_time_without_a_difference() {
        assert_eq!(Account::default().agreement(), None);
        let agreed = account(100, 3, 3, false);
        assert_eq!(agreed.agreement(), Some(1.0));
        // 10 s before second 0 and 60 after it were compared, 53 of them in a difference that began at second 6.
        let differing = account(60, 8, 7, false);
        assert_eq!(differing.differed_in[0], differing.differed);
        let ratio = differing.agreement().expect("compared");
        assert!(0.2 < ratio && ratio < 0.3, "{ratio}");
    }
}
