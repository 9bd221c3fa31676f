//! The journal: every input of every revision this replica owns, and what was decided on it, in files that can be replayed.
//!
//! ```text
//! Deciders ─ log ─► recorder ── batches, ten a second ──► writer (a thread of its own) ──► DIR/NNN.ebj
//! DIR/NNN.ebj ──► Reader ──► Replay: the engine once more, each decision compared with the one recorded
//! ```
//!
//! # What is in it
//!
//! A file begins with the state of each revision and goes on with every [`Input`](crate::engine::Input) after that state,
//! so each can be replayed by itself; from one file to the next nothing is missing and nothing is twice. Beside an input
//! stands the [`Print`](crate::engine::Print) of the decision it led to, by which a replay is checked bit for bit; the
//! decision itself, with its reasons, is what the replay gives. What the controller made of decisions is there as
//! [`Plan`](crate::observe::plan::Plan)s, and where the time of cold starts went as
//! [`Activation`](crate::observe::ledger::Activation)s.
//!
//! # Bounds
//!
//! Files are as long as an eighth of the space allowed, and the oldest go to stay within it; allowed is what was asked
//! for, and no more than seven eighths of what the disk has left. Where the states at the start of files would take
//! more than half of each, files are longer and fewer; what not even one fits in is taken all the same, and told in the
//! log. In memory no more than [`MOST_WAITING`] batches wait, those of states an eighth of that, but for the states of revisions
//! that are taken over: each batch may have 64 MiB of those. Where the disk cannot follow, is full or cannot be
//! written, what does not fit is dropped and counted, and recording begins afresh in a new file as soon as it can; the
//! autoscaler is never kept waiting. On a disk that others filled the oldest file goes with each try, and the newest
//! stays.
//!
//! # After a crash
//!
//! Every batch is handed to the operating system at once and to the disk every half second. A killed process has lost the
//! last tenth of a second, a machine without power less than a second; of plans and cold starts also what happened while a
//! file began, which takes a tenth of a second for each 512 revisions. A record that was being written is told from one
//! that was damaged: the first is the end of its file, the second an error.
//!
//! Reading order: [`form`] (bytes), [`write`](mod@write), [`read`], [`replay`].

pub mod form;
pub mod read;
pub mod replay;
pub mod write;

pub use read::{JournalError, Reader};
pub use replay::Replay;
pub use write::{Batch, Journal, Options, Place};

/// The version of the files. It changes with that of the states and inputs in them.
pub const VERSION: u32 = crate::engine::written::VERSION;
/// How the name of a file ends.
pub const EXTENSION: &str = "ebj";
/// Batches that wait to be written.
pub const MOST_WAITING: usize = 64;
/// The space a journal takes unless another is asked for.
pub const USUAL_BYTES: u64 = 512 << 20;
/// The least space a journal can do with.
pub const LEAST_BYTES: u64 = 1 << 20;
