//! Traffic that was recorded: requests per bucket of time, or one by one.
//!
//! | what the file is | what it holds |
//! |---|---|
//! | CSV with `second,requests` or `minute,requests` | buckets that begin there; other columns are passed over |
//! | CSV with `function,minute,requests` | the same of many functions, which are added up unless one is named; minutes without requests are left out |
//! | CSV with `at` or `at,duration` | each request, in seconds from the start of the recording, and how long it took, in seconds |
//! | an access log | each request; `docs/simulation.md` has the formats |
//! | the answer of Prometheus to a range query, as JSON | requests per step; there too |
//!
//! Which of these a file is, is seen from its beginning. Files may be compressed with gzip. What cannot be right is refused
//! with the line it stands in: a wrong column, a negative count, time that goes backwards or leaves a bucket out, a file
//! that ends early.

mod access_log;
mod prometheus;
mod table;

use super::time::Micros;
use flate2::read::MultiGzDecoder;
use serde::{Deserialize, Serialize};
use std::io::{self, BufRead, BufReader, Cursor, Read};

/// The longest trace, in buckets or requests: 10 years of minutes.
const MOST_LINES: usize = 5_256_000;

/// How much of a file is looked at to see what it is, in bytes.
const SEEN_FIRST: u64 = 64 << 10;

/// Recorded traffic.
#[derive(Clone, PartialEq, Debug)]
pub struct Trace {
    /// What it is called: the name of its file.
    pub name: String,
    /// What was recorded.
    pub recorded: Recorded,
    /// What its owner should know of how it was understood.
    pub notes: Vec<String>,
}

/// How a recording is to be understood, where it does not say so itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Reading<'a> {
    /// Of a file with many functions, the one; all of them added up where it is absent.
    pub function: Option<&'a str>,
    /// What the values of a Prometheus answer are.
    pub values: Option<Values>,
    /// The unit of durations in an access log whose field does not tell.
    pub duration_unit: Option<DurationUnit>,
    /// Nobody asks how long requests took.
    pub without_durations: bool,
}

/// What the values of a Prometheus answer are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Values {
    /// A counter as it is, which begins anew where its process does.
    Counter,
    /// Requests since the step before: `increase(...)` over the step.
    Increase,
    /// Requests per second: `rate(...)` over the step.
    Rate,
}

/// A unit of time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum DurationUnit {
    /// Seconds.
    #[serde(rename = "s")]
    Seconds,
    /// Milliseconds.
    #[serde(rename = "ms")]
    Millis,
    /// Microseconds.
    #[serde(rename = "us")]
    Micros,
    /// Nanoseconds.
    #[serde(rename = "ns")]
    Nanos,
}

impl DurationUnit {
    /// How many seconds it is.
    fn seconds(self) -> f64 {
        match self {
            Self::Seconds => 1.0,
            Self::Millis => 1e-3,
            Self::Micros => 1e-6,
            Self::Nanos => 1e-9,
        }
    }
}

/// Knows the last byte that was read.
struct Ending<R> {
    inner: R,
    last: u8,
}

impl<R: Read> Read for Ending<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.last = buffer[..read].last().copied().unwrap_or(self.last);
        Ok(read)
    }
}

/// What a trace holds.
#[derive(Clone, PartialEq, Debug)]
pub enum Recorded {
    /// Requests per bucket.
    Counts {
        /// The width of a bucket.
        bucket: Micros,
        /// Requests in each, from the first.
        counts: Vec<u32>,
    },
    /// Each request.
    Requests(Vec<Request>),
}

/// A recorded request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request {
    /// When it came.
    pub at: Micros,
    /// How long it took, if that was recorded.
    pub took: Option<Micros>,
}

/// Why a trace cannot be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub struct TraceError {
    /// The file.
    pub file: String,
    /// The line it is about; 0 when it is about the whole file.
    pub line: u64,
    /// What is wrong, and what would be right.
    pub message: String,
}

impl std::fmt::Display for TraceError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.file)?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        write!(f, ": {}", self.message)
    }
}

impl Trace {
    /// How long it is: to the end of its last bucket, or to its last request.
    pub fn length(&self) -> Micros {
        match &self.recorded {
            Recorded::Counts { bucket, counts } => *bucket * counts.len() as u64,
            Recorded::Requests(requests) => requests.last().map_or(0, |last| last.at + 1),
        }
    }

    /// How many requests there are.
    pub fn requests(&self) -> u64 {
        match &self.recorded {
            Recorded::Counts { counts, .. } => counts.iter().map(|count| u64::from(*count)).sum(),
            Recorded::Requests(requests) => requests.len() as u64,
        }
    }

    /// Reads a trace, compressed or not.
    ///
    /// # Errors
    /// With the first line that cannot be right.
    pub fn read(name: &str, input: impl Read, reading: &Reading<'_>) -> Result<Self, TraceError> {
        let mut input = BufReader::new(input);
        let compressed = input.fill_buf().is_ok_and(|start| start.starts_with(&[0x1f, 0x8b]));
        let mut lines: Box<dyn Read + '_> =
            if compressed { Box::new(MultiGzDecoder::new(input)) } else { Box::new(input) };
        let whole = |message: String| TraceError { file: name.to_owned(), line: 0, message };
        let mut start = Vec::new();
        lines.by_ref().take(SEEN_FIRST).read_to_end(&mut start).map_err(|error| whole(in_words(&error)))?;
        let kind = Kind::of(&start);
        let text = BufReader::new(Cursor::new(start).chain(lines));
        let (recorded, notes) = match kind {
            Kind::Table => {
                let mut text = Ending { inner: text, last: b'\n' };
                let recorded = table::read(name, &mut text, reading)?;
                // Many a program leaves it out, so that is no error.
                let cut = "the last line has no end; if the file was cut short, its last number may be too";
                (recorded, if text.last == b'\n' { Vec::new() } else { vec![cut.to_owned()] })
            }
            Kind::Log(form) => access_log::read(name, text, form, reading)?,
            Kind::Prometheus => prometheus::read(name, text, reading)?,
        };
        let trace = Self { name: name.to_owned(), recorded, notes };
        if trace.requests() == 0 {
            return Err(whole("there is no request in it".to_owned()));
        }
        Ok(trace)
    }
}

/// What a file is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Table,
    Log(access_log::Form),
    Prometheus,
}

impl Kind {
    /// What the file is that begins like this.
    fn of(start: &[u8]) -> Self {
        if prometheus::is(start) {
            return Self::Prometheus;
        }
        access_log::Form::of(start).map_or(Self::Table, Self::Log)
    }
}

/// Why a file could not be read, for people.
fn in_words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => "the compressed file ends early; copy it again".to_owned(),
        io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData => {
            format!("is damaged ({error}); copy it again")
        }
        _ => format!("cannot be read: {error}"),
    }
}
