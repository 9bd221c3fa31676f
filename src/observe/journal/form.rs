//! Records as bytes.
//!
//! A file is [`MAGIC`] and records. Each is twelve bytes, the length of its message, the checksum of its message, the
//! checksum of those two, all little-endian, and then the message, a protocol buffer. So a length that was damaged is
//! known before anything is read by it.

use crate::engine::written::{InputForm, RevisionForm};
use crate::observe::journal::read::Damage;
use crate::observe::ledger::ActivationForm;
use crate::observe::plan::PlanForm;
use prost::Message as _;

/// What every file begins with.
pub const MAGIC: [u8; 8] = *b"EBBJRNL1";
/// The length of what stands before a message.
pub const HEAD: usize = 12;
/// The longest message: one revision with four windows of a day takes 2.8 MiB.
pub const MOST_MESSAGE: usize = 4 << 20;

/// One record.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Record {
    /// When it was made, in nanoseconds since 1970; no input in it is later.
    #[prost(sfixed64, tag = "1")]
    pub time: i64,
    /// Who writes; in the first record of a file only.
    #[prost(message, optional, tag = "2")]
    pub begin: Option<Begin>,
    /// Numbers that stand for revisions from here on, in this file.
    #[prost(message, repeated, tag = "3")]
    pub names: Vec<Name>,
    /// States of revisions, which replace what was known of them.
    #[prost(message, repeated, tag = "4")]
    pub states: Vec<State>,
    /// Inputs, in the order they acted, after the states.
    #[prost(message, repeated, tag = "5")]
    pub inputs: Vec<InputForm>,
    /// Decisions some of the inputs led to.
    #[prost(message, repeated, tag = "6")]
    pub decisions: Vec<Decided>,
    /// Revisions that are not this replica's any more.
    #[prost(uint32, repeated, tag = "7")]
    pub gone: Vec<u32>,
    /// What the controller made of decisions, in the order it did.
    #[prost(message, repeated, tag = "8")]
    pub plans: Vec<Planned>,
    /// Whether inputs before the states here are missing.
    #[prost(bool, tag = "9")]
    pub lost: bool,
    /// Cold starts that ended.
    #[prost(message, repeated, tag = "10")]
    pub activations: Vec<Activated>,
}

/// Who writes a file, and how it decides.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Begin {
    /// [`VERSION`](super::VERSION).
    #[prost(uint32, tag = "1")]
    pub version: u32,
    /// The version of the program.
    #[prost(string, tag = "2")]
    pub program: String,
    /// Whether it keeps the sharp edges of the reference.
    #[prost(bool, tag = "3")]
    pub strict: bool,
    /// Whether inputs were lost between the file before and this one.
    #[prost(bool, tag = "4")]
    pub after_gap: bool,
    /// The pod that writes; empty when it is none.
    #[prost(string, tag = "5")]
    pub pod: String,
}

/// The number that stands for a revision in this file.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Name {
    /// The number.
    #[prost(uint32, tag = "1")]
    pub number: u32,
    /// `NAMESPACE/NAME`.
    #[prost(string, tag = "2")]
    pub key: String,
}

/// The state of one revision.
#[derive(Clone, PartialEq, prost::Message)]
pub struct State {
    /// Which.
    #[prost(uint32, tag = "1")]
    pub number: u32,
    /// Its state.
    #[prost(message, optional, tag = "2")]
    pub revision: Option<RevisionForm>,
}

/// What an input led to.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Decided {
    /// The place of the input among those of the record.
    #[prost(uint32, tag = "1")]
    pub input: u32,
    /// Pods wanted.
    #[prost(sint32, tag = "2")]
    pub desired: i32,
    /// All of the decision, folded.
    #[prost(fixed64, tag = "3")]
    pub bits: u64,
}

/// What the controller made of a decision.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Planned {
    /// Of which revision.
    #[prost(uint32, tag = "1")]
    pub number: u32,
    /// The plan.
    #[prost(message, optional, tag = "2")]
    pub plan: Option<PlanForm>,
}

/// A cold start that ended.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Activated {
    /// Of which revision.
    #[prost(uint32, tag = "1")]
    pub number: u32,
    /// Where the time went.
    #[prost(message, optional, tag = "2")]
    pub activation: Option<ActivationForm>,
}

/// The bytes of a record, head and message.
pub fn encode(record: &Record) -> Vec<u8> {
    let mut frame = Frame::default();
    frame.begin(record);
    frame.end().to_vec()
}

/// Puts records into bytes, in memory it keeps from one to the next.
///
/// What there is much of is added one by one rather than gathered in a [`Record`] first: a field that repeats may stand
/// anywhere in a message.
#[derive(Debug, Default)]
pub struct Frame {
    bytes: Vec<u8>,
}

impl Frame {
    /// Begins a record with what is in `record`.
    pub fn begin(&mut self, record: &Record) {
        self.bytes.clear();
        self.bytes.resize(HEAD, 0);
        self.also(record);
    }

    /// Adds what is in `record` to the one that was begun; what is 0 or empty there stays as it is.
    pub fn also(&mut self, record: &Record) {
        // A vector grows, so there is always room.
        let _ = record.encode(&mut self.bytes);
    }

    /// Adds one of [`Record::names`].
    pub fn name(&mut self, name: &Name) {
        self.add(3, name);
    }

    /// Adds one of [`Record::states`].
    pub fn state(&mut self, state: &State) {
        self.add(4, state);
    }

    /// Adds one of [`Record::inputs`].
    pub fn input(&mut self, input: &InputForm) {
        self.add(5, input);
    }

    /// Adds one of [`Record::decisions`].
    pub fn decided(&mut self, decided: &Decided) {
        self.add(6, decided);
    }

    /// Adds one of [`Record::plans`].
    pub fn plan(&mut self, plan: &Planned) {
        self.add(8, plan);
    }

    /// Adds one of [`Record::activations`].
    pub fn activation(&mut self, activation: &Activated) {
        self.add(10, activation);
    }

    /// Adds a message to the field of this number: the number and that a length follows, the length, the message.
    fn add(&mut self, field: u8, message: &impl prost::Message) {
        self.bytes.push((field << 3) | 2);
        let _ = message.encode_length_delimited(&mut self.bytes);
    }

    /// How many bytes there are so far.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether nothing was begun.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The whole record.
    pub fn end(&mut self) -> &[u8] {
        let Some((head, message)) = self.bytes.split_at_mut_checked(HEAD) else { return &[] };
        let short = u32::try_from(message.len()).unwrap_or(u32::MAX);
        head[..4].copy_from_slice(&short.to_le_bytes());
        head[4..8].copy_from_slice(&crc32fast::hash(message).to_le_bytes());
        let of_both = crc32fast::hash(&head[..8]);
        head[8..].copy_from_slice(&of_both.to_le_bytes());
        &self.bytes
    }
}

/// What comes next in a file.
#[derive(Clone, PartialEq, Debug)]
pub enum Next {
    /// A record, and how many bytes it takes.
    Record(Box<Record>, usize),
    /// Nothing: this is the end.
    End,
    /// The beginning of a record that was never written whole.
    CutOff,
}

/// Reads the record at the start of `rest`, which is all there is of the file from there.
///
/// # Errors
/// When something else stands there than a program that was stopped can have left.
pub fn decode(rest: &[u8]) -> Result<Next, Damage> {
    if rest.is_empty() {
        return Ok(Next::End);
    }
    // After a loss of power a file may be as long as it was to become, with nothing in it.
    let is_blank = || rest.iter().all(|byte| *byte == 0);
    let Some((head, after)) = rest.split_at_checked(HEAD) else { return Ok(Next::CutOff) };
    let number = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    if crc32fast::hash(&head[..8]) != number(8) {
        return if is_blank() { Ok(Next::CutOff) } else { Err(Damage::Head) };
    }
    let length = usize::try_from(number(0)).unwrap_or(usize::MAX);
    if length > MOST_MESSAGE {
        return Err(Damage::TooLong(length));
    }
    let Some(message) = after.get(..length) else { return Ok(Next::CutOff) };
    if crc32fast::hash(message) != number(4) {
        // The last record may have reached the disk in part only.
        return if after.len() == length { Ok(Next::CutOff) } else { Err(Damage::Message) };
    }
    match Record::decode(message) {
        Ok(record) => Ok(Next::Record(Box::new(record), HEAD + length)),
        Err(error) => Err(Damage::Meaning(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::written::EventForm;
    use proptest::prelude::*;

    fn any_record() -> impl Strategy<Value = Record> {
        let name = (any::<u32>(), "[a-z]{1,8}/[a-z]{1,8}").prop_map(|(number, key)| Name { number, key });
        let decided = (any::<u32>(), any::<i32>(), any::<u64>()).prop_map(|(input, desired, bits)| Decided {
            input,
            desired,
            bits,
        });
        (any::<i64>(), proptest::collection::vec(name, 0..4), proptest::collection::vec(decided, 0..4))
            .prop_map(|(time, names, decisions)| Record { time, names, decisions, ..Record::default() })
    }

    proptest! {
        #[test]
        fn records_come_back_as_they_were_written(records in proptest::collection::vec(any_record(), 0..6)) {
            let bytes: Vec<u8> = records.iter().flat_map(encode).collect();
            let mut rest = bytes.as_slice();
            for record in records {
                match decode(rest) {
                    Ok(Next::Record(read, length)) => {
                        prop_assert_eq!(*read, record);
                        rest = &rest[length..];
                    }
                    other => return Err(TestCaseError::fail(format!("{other:?}"))),
                }
            }
            prop_assert_eq!(decode(rest), Ok(Next::End));
        }

        #[test]
        fn what_is_added_one_by_one_is_read_as_what_was_gathered(
            record in any_record(), before in any_record(), numbers in proptest::collection::vec(any::<u32>(), 0..5),
        ) {
            let each = || numbers.iter().copied();
            let gathered = Record {
                states: each().map(|number| State { number, revision: None }).collect(),
                inputs: each().map(|revision| InputForm { revision, since: -5, event: Some(EventForm::Tick(3)) }).collect(),
                gone: numbers.clone(),
                plans: each().map(|number| Planned { number, plan: None }).collect(),
                activations: each().map(|number| Activated { number, activation: None }).collect(),
                lost: true,
                ..record
            };
            let mut frame = Frame::default();
            // What the record before left behind is not in it.
            frame.begin(&before);
            frame.begin(&Record { time: gathered.time, lost: true, ..Record::default() });
            gathered.activations.iter().for_each(|activation| frame.activation(activation));
            gathered.plans.iter().for_each(|plan| frame.plan(plan));
            gathered.decisions.iter().for_each(|decided| frame.decided(decided));
            gathered.inputs.iter().for_each(|input| frame.input(input));
            gathered.states.iter().for_each(|state| frame.state(state));
            gathered.names.iter().for_each(|name| frame.name(name));
            frame.also(&Record { gone: numbers.clone(), ..Record::default() });
            match decode(frame.end()) {
                Ok(Next::Record(read, length)) => prop_assert_eq!((*read, length), (gathered, frame.len())),
                other => return Err(TestCaseError::fail(format!("{other:?}"))),
            }
        }

        #[test]
        fn what_was_cut_off_is_not_damage(record in any_record(), at in any::<prop::sample::Index>(), zeros in 0_usize..64) {
            let bytes = encode(&record);
            let mut cut = bytes[..at.index(bytes.len())].to_vec();
            let want = if cut.is_empty() { Next::End } else { Next::CutOff };
            prop_assert_eq!(decode(&cut), Ok(want));
            // A file that had grown before its content was there.
            cut = vec![0; zeros.max(1)];
            prop_assert_eq!(decode(&cut), Ok(Next::CutOff));
        }

        #[test]
        fn one_changed_byte_is_never_taken_for_a_record(
            record in any_record(), at in any::<prop::sample::Index>(), change in 1_u8..,
        ) {
            let mut bytes = encode(&record);
            let at = at.index(bytes.len());
            bytes[at] ^= change;
            bytes.extend(encode(&record));
            prop_assert!(decode(&bytes).is_err());
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes);
        }
    }
}
