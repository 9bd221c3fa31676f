//! Reading a journal: what it says, in the order it happened, or what is wrong with it and where.

use crate::engine::written::Refused;
use crate::observe::journal::form::{self, Begin, MAGIC, Next, Record};
use crate::observe::journal::{EXTENSION, VERSION, write};
use crate::units::Timestamp;
use std::collections::VecDeque;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The longest file that is read: a writer's files are an eighth of the space it was given.
const MOST_FILE: u64 = 4 << 30;

/// What is wrong with the bytes of a record.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Damage {
    /// The checksum of its head.
    #[error("its first twelve bytes are damaged")]
    Head,
    /// The checksum of its message.
    #[error("its content is damaged")]
    Message,
    /// Too long.
    #[error("it is {0} bytes long, longer than any that is written")]
    TooLong(usize),
    /// Bytes that are not a record.
    #[error("it cannot be understood: {0}")]
    Meaning(String),
    /// What is in it cannot be.
    #[error("{0}")]
    Refused(#[from] Refused),
    /// A number nobody gave a name to, or a name that no revision can have.
    #[error("it speaks of a revision without a name")]
    Unnamed,
}

/// Why a journal cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The directory or a file of it.
    #[error("{path} cannot be read; name the directory that --journal named when it was recorded", path = path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There are no files.
    #[error(
        "{path} has no journal: no file whose name ends in .{EXTENSION}; record one with `ebb run --journal {path}`, or name \
         another directory",
        path = path.display()
    )]
    Empty {
        /// Which.
        path: PathBuf,
    },
    /// A file that is something else.
    #[error("{path} is not a file of a journal; move it elsewhere to read the others", path = path.display())]
    Foreign {
        /// Which.
        path: PathBuf,
    },
    /// A file of another version.
    #[error(
        "{path} is of version {version} of the journal, recorded by ebb {program}; this is ebb {here}, which reads version \
         {VERSION}: read it with ebb {program}, or move it elsewhere to read the others",
        path = path.display(),
        here = env!("CARGO_PKG_VERSION")
    )]
    Version {
        /// Which.
        path: PathBuf,
        /// Its version.
        version: u32,
        /// What wrote it.
        program: String,
    },
    /// A damaged record.
    #[error(
        "{path}: record {record}, at byte {at}, is damaged: {damage}. The other files can be read where this one is not; what \
         was recorded before it in this file can be read by a copy that is cut there: head -c {at} {path} > OTHER/{name}",
        path = path.display(),
        name = path.file_name().unwrap_or_default().display()
    )]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// Which record, counted from 1.
        record: u64,
        /// Where it begins.
        at: u64,
        /// What is wrong.
        damage: Damage,
    },
}

/// A place in a journal.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct At {
    /// The file.
    pub path: PathBuf,
    /// The record, counted from 1.
    pub record: u64,
    /// The byte it begins at.
    pub byte: u64,
}

impl At {
    /// The error for damage found here.
    pub fn damaged(&self, damage: Damage) -> JournalError {
        JournalError::Damaged { path: self.path.clone(), record: self.record, at: self.byte, damage }
    }
}

/// Reads the records of a journal, oldest first.
#[derive(Debug)]
pub struct Reader {
    files: VecDeque<PathBuf>,
    now: Option<Opened>,
    cut_off: Vec<PathBuf>,
}

#[derive(Debug)]
struct Opened {
    bytes: Vec<u8>,
    at: At,
}

impl Reader {
    /// The journal in a directory, or the one file.
    ///
    /// # Errors
    /// When there is none.
    pub fn open(path: &Path) -> Result<Self, JournalError> {
        let unreadable = |source| JournalError::Unreadable { path: path.to_owned(), source };
        let files = if path.is_file() { vec![path.to_owned()] } else { write::files_of(path).map_err(unreadable)? };
        if files.is_empty() {
            return Err(JournalError::Empty { path: path.to_owned() });
        }
        Ok(Self { files: files.into(), now: None, cut_off: Vec::new() })
    }

    /// The next record, and where it stands; the first of each file says who writes it.
    ///
    /// # Errors
    /// When a file is damaged, or is none.
    #[expect(clippy::should_implement_trait, reason = "an iterator would go on after an error")]
    pub fn next(&mut self) -> Result<Option<(At, Record)>, JournalError> {
        loop {
            let Some(opened) = &mut self.now else {
                let Some(path) = self.files.pop_front() else { return Ok(None) };
                self.now = Self::begin(path)?;
                continue;
            };
            let from = usize::try_from(opened.at.byte).unwrap_or(usize::MAX);
            let rest = opened.bytes.get(from..).unwrap_or_default();
            match form::decode(rest).map_err(|damage| opened.at.damaged(damage))? {
                Next::Record(record, length) => {
                    let at = opened.at.clone();
                    opened.at.byte += length as u64;
                    opened.at.record += 1;
                    if at.record == 1 {
                        Self::check(&at, record.begin.as_ref())?;
                    }
                    return Ok(Some((at, *record)));
                }
                Next::CutOff => {
                    self.cut_off.push(opened.at.path.clone());
                    self.now = None;
                }
                Next::End => self.now = None,
            }
        }
    }

    /// Leaves out the files that were begun after a moment, as their names say.
    pub fn leave_out_after(&mut self, moment: Timestamp) {
        let began = |path: &PathBuf| path.file_stem()?.to_str()?.parse().ok().map(Timestamp::from_nanos);
        self.files.retain(|path| began(path).is_none_or(|began| began <= moment));
    }

    /// Goes on with the next file.
    pub fn skip_file(&mut self) {
        self.now = None;
    }

    /// The files read so far whose last record was never written whole, because its writer was stopped.
    pub fn cut_off(&self) -> &[PathBuf] {
        &self.cut_off
    }

    fn begin(path: PathBuf) -> Result<Option<Opened>, JournalError> {
        let unreadable = |source| JournalError::Unreadable { path: path.clone(), source };
        let length = fs::metadata(&path).map_err(unreadable)?.len();
        if length > MOST_FILE {
            return Err(unreadable(io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!("{length} bytes are more than {MOST_FILE}"),
            )));
        }
        let bytes = fs::read(&path).map_err(unreadable)?;
        if bytes.len() < MAGIC.len() && (MAGIC.starts_with(&bytes) || bytes.iter().all(|byte| *byte == 0)) {
            // Stopped while it was being made.
            return Ok(None);
        }
        if !bytes.starts_with(&MAGIC) {
            return if bytes.iter().all(|byte| *byte == 0) { Ok(None) } else { Err(JournalError::Foreign { path }) };
        }
        let at = At { path, record: 1, byte: MAGIC.len() as u64 };
        Ok(Some(Opened { bytes, at }))
    }

    fn check(at: &At, begin: Option<&Begin>) -> Result<(), JournalError> {
        match begin {
            None => Err(JournalError::Foreign { path: at.path.clone() }),
            Some(Begin { version, program, .. }) if *version != VERSION => {
                Err(JournalError::Version { path: at.path.clone(), version: *version, program: program.clone() })
            }
            Some(_) => Ok(()),
        }
    }
}
