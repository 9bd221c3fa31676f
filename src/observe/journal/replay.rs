//! The engine once more: what was recorded is applied, and what follows is compared with what was decided then.

use crate::engine::written::InputForm;
use crate::engine::{Applied, Input, Print, Revision};
use crate::observe::journal::form::Record;
use crate::observe::journal::read::{Damage, JournalError, Reader};
use crate::observe::ledger::Activation;
use crate::observe::plan::Plan;
use crate::units::{Compat, RevisionKey, Span, Timestamp};
use std::collections::HashMap;
use std::path::Path;

/// The earliest time an input may have; before the first record there is nothing to compare with.
const EARLIEST: Timestamp = Timestamp::from_nanos(0);
/// By how much a record may be later than one after it in the same file.
const SPREAD: Span = Span::from_seconds(10);

/// One step of a replay.
#[derive(Debug)]
pub enum Step<'a> {
    /// The state of a revision as it was; nothing of it was decided here.
    State,
    /// An input was applied.
    Applied {
        /// Which.
        input: &'a Input,
        /// What it did.
        applied: Applied,
        /// The decision recorded with it, if there was one.
        recorded: Option<Print>,
    },
    /// What the controller made of a decision.
    Planned(&'a Plan),
    /// A cold start ended.
    Activated(&'a Activation),
    /// Inputs are missing here, and what follows begins with fresh states.
    Gap,
    /// The revision is not the recorder's any more.
    Gone,
}

/// A step, of what and when.
#[derive(Debug)]
pub struct Event<'a> {
    /// When, by the clock of the recorder.
    pub at: Timestamp,
    /// Of which revision; none for a gap.
    pub key: Option<&'a RevisionKey>,
    /// Its state after the step.
    pub revision: Option<&'a Revision>,
    /// The step.
    pub step: Step<'a>,
}

/// How well a replay agreed with what was recorded.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Agreement {
    /// Inputs applied.
    pub inputs: u64,
    /// Decisions made.
    pub decisions: u64,
    /// Decisions that are not, bit for bit, those recorded.
    pub differing: u64,
}

/// A journal being replayed.
#[derive(Debug)]
pub struct Replay {
    reader: Reader,
    compat: Compat,
    names: HashMap<u32, RevisionKey>,
    /// The number by which each was last spoken of: one that comes back has another.
    numbers: HashMap<RevisionKey, u32>,
    revisions: HashMap<RevisionKey, Revision>,
    plans: HashMap<RevisionKey, Plan>,
    agreement: Agreement,
    only: Option<RevisionKey>,
    /// What was found damaged and left out, where that is allowed.
    damaged: Option<Vec<JournalError>>,
}

impl Replay {
    /// Replays the journal in a directory, or one file of it; of one revision, or of all.
    ///
    /// # Errors
    /// When there is no journal.
    pub fn open(path: &Path, only: Option<RevisionKey>) -> Result<Self, JournalError> {
        Ok(Self {
            reader: Reader::open(path)?,
            compat: Compat::IMPROVED,
            names: HashMap::new(),
            numbers: HashMap::new(),
            revisions: HashMap::new(),
            plans: HashMap::new(),
            agreement: Agreement::default(),
            only,
            damaged: None,
        })
    }

    /// The same, but where a file is damaged it goes on with the next one, which begins with fresh states: for whoever wants
    /// to know what can be known.
    #[must_use]
    pub fn past_damage(self) -> Self {
        Self { damaged: Some(Vec::new()), ..self }
    }

    /// What was left out because it was damaged.
    pub fn damaged(&self) -> &[JournalError] {
        self.damaged.as_deref().unwrap_or_default()
    }

    /// Replays up to `until`, or all of it, and tells `each` of every step.
    ///
    /// # Errors
    /// When the journal is damaged. What was told of before that stands.
    pub fn run(&mut self, until: Option<Timestamp>, mut each: impl FnMut(Event<'_>)) -> Result<(), JournalError> {
        let mut skipped = false;
        if let Some(until) = until {
            self.reader.leave_out_after(until);
        }
        loop {
            let (at, record) = match self.reader.next() {
                Ok(None) => break,
                Ok(Some(next)) => next,
                Err(error) => {
                    self.skip(error)?;
                    skipped = true;
                    continue;
                }
            };
            let time = Timestamp::from_nanos(record.time);
            if let Some(begin) = &record.begin {
                if until.is_some_and(|until| time > until) {
                    break;
                }
                self.compat = if begin.strict { Compat::STRICT } else { Compat::IMPROVED };
                self.names.clear();
                if std::mem::take(&mut skipped) || begin.after_gap {
                    self.revisions.clear();
                    self.numbers.clear();
                    each(Event { at: time, key: None, revision: None, step: Step::Gap });
                }
            }
            if until.is_some_and(|until| time > until + SPREAD) {
                // The next file may tell of what was before: while one follows the other, both are written.
                self.reader.skip_file();
                continue;
            }
            if let Err(damage) = self.record(time, record, until, &mut each) {
                self.skip(at.damaged(damage))?;
                skipped = true;
            }
        }
        Ok(())
    }

    /// Leaves the rest of a damaged file out, where that is allowed.
    fn skip(&mut self, error: JournalError) -> Result<(), JournalError> {
        match &mut self.damaged {
            Some(damaged) if matches!(error, JournalError::Damaged { .. }) => damaged.push(error),
            _ => return Err(error),
        }
        self.reader.skip_file();
        Ok(())
    }

    /// What was applied and compared so far.
    pub fn agreement(&self) -> Agreement {
        self.agreement
    }

    /// The revisions as they are now.
    pub fn revisions(&self) -> &HashMap<RevisionKey, Revision> {
        &self.revisions
    }

    /// What the controller last made of the decisions on a revision.
    pub fn plan(&self, key: &RevisionKey) -> Option<&Plan> {
        self.plans.get(key)
    }

    /// The reader, for what it has to say of the files.
    pub fn reader(&self) -> &Reader {
        &self.reader
    }

    fn record(
        &mut self,
        time: Timestamp,
        record: Record,
        until: Option<Timestamp>,
        each: &mut impl FnMut(Event<'_>),
    ) -> Result<(), Damage> {
        for name in record.names {
            let key = name.key.parse().map_err(|_| Damage::Unnamed)?;
            self.names.insert(name.number, key);
        }
        let beyond = |at: Timestamp| until.is_some_and(|until| at > until);
        if record.lost && !beyond(time) {
            each(Event { at: time, key: None, revision: None, step: Step::Gap });
        }
        for state in record.states {
            let key = self.names.get(&state.number).ok_or(Damage::Unnamed)?;
            if !self.wants(key) || beyond(time) {
                continue;
            }
            let before = self.revisions.get(key).and_then(|revision| revision.latest().cloned());
            let mut revision = Revision::read(&state.revision.unwrap_or_default(), time, self.compat)?;
            // A state is written without the last decision, which is known from before.
            revision.recall(before);
            self.numbers.insert(key.clone(), state.number);
            self.revisions.insert(key.clone(), revision);
            each(Event { at: time, key: Some(key), revision: self.revisions.get(key), step: Step::State });
        }
        let mut decisions = record.decisions.into_iter().peekable();
        for (place, form) in record.inputs.iter().enumerate() {
            let recorded = decisions.next_if(|decided| usize::try_from(decided.input) == Ok(place));
            let recorded = recorded.map(|decided| Print { desired: decided.desired, bits: decided.bits });
            self.input(form, time, recorded, &beyond, each)?;
        }
        for planned in record.plans {
            let key = self.names.get(&planned.number).ok_or(Damage::Unnamed)?;
            let plan = Plan::read(planned.plan.unwrap_or_default());
            if self.wants(key) && !beyond(plan.at) {
                each(Event {
                    at: plan.at,
                    key: Some(key),
                    revision: self.revisions.get(key),
                    step: Step::Planned(&plan),
                });
                self.plans.insert(key.clone(), plan);
            }
        }
        for activated in record.activations {
            let key = self.names.get(&activated.number).ok_or(Damage::Unnamed)?;
            let activation = Activation::read(activated.activation.unwrap_or_default());
            if self.wants(key) && !beyond(activation.began()) {
                each(Event {
                    at: activation.began(),
                    key: Some(key),
                    revision: self.revisions.get(key),
                    step: Step::Activated(&activation),
                });
            }
        }
        for number in record.gone {
            let key = self.names.get(&number).ok_or(Damage::Unnamed)?;
            if self.wants(key) && !beyond(time) && self.numbers.get(key) == Some(&number) {
                self.revisions.remove(key);
                each(Event { at: time, key: Some(key), revision: None, step: Step::Gone });
            }
        }
        Ok(())
    }

    fn input(
        &mut self,
        form: &InputForm,
        time: Timestamp,
        recorded: Option<Print>,
        beyond: &impl Fn(Timestamp) -> bool,
        each: &mut impl FnMut(Event<'_>),
    ) -> Result<(), Damage> {
        let key = self.names.get(&form.revision).ok_or(Damage::Unnamed)?;
        let input = Input::read(form, time, EARLIEST)?;
        if beyond(input.now) || !self.wants(key) {
            return Ok(());
        }
        let before = self.numbers.insert(key.clone(), form.revision);
        if before.is_some_and(|before| before != form.revision) {
            // It came back, with nothing. That it went may be among what is missing.
            self.revisions.remove(key);
        }
        let revision = self.revisions.entry(key.clone()).or_default();
        let applied = revision.apply(&input, self.compat);
        self.agreement.inputs += 1;
        let decided = applied.evaluated.then(|| revision.latest().map(crate::engine::Decision::print)).flatten();
        self.agreement.decisions += u64::from(decided.is_some());
        self.agreement.differing += u64::from(decided != recorded);
        each(Event {
            at: input.now,
            key: Some(key),
            revision: Some(revision),
            step: Step::Applied { input: &input, applied, recorded },
        });
        if revision.is_empty() {
            let key = key.clone();
            self.revisions.remove(&key);
        }
        Ok(())
    }

    fn wants(&self, key: &RevisionKey) -> bool {
        self.only.as_ref().is_none_or(|only| only == key)
    }
}
