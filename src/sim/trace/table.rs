//! Traces as CSV: requests per bucket, or one request per line.

use super::{MOST_LINES, Reading, Recorded, Request, TraceError};
use crate::sim::time::{MINUTE, Micros, SECOND, from_seconds};
use csv::{ReaderBuilder, StringRecord};
use std::collections::BTreeMap;
use std::io::Read;

/// Reads one.
///
/// # Errors
/// With the first line that cannot be right.
pub(super) fn read(name: &str, lines: impl Read, reading: &Reading<'_>) -> Result<Recorded, TraceError> {
    let function = reading.function;
    let mut reader = Lines {
        file: name,
        reader: ReaderBuilder::new().trim(csv::Trim::All).flexible(true).from_reader(lines),
        record: StringRecord::new(),
        read: 0,
    };
    let header = reader.header()?;
    if header.is_empty() {
        return Err(reader.whole("it is empty".to_owned()));
    }
    let column = |wanted: &str| header.iter().position(|name| name == wanted);
    match (column("second"), column("minute"), column("requests"), column("at")) {
        (None, None, None, Some(at)) => reader.requests(at, column("duration")),
        (Some(_), Some(_), _, _) => Err(reader.whole("both a second and a minute column; one is to stay".to_owned())),
        (second, minute, Some(requests), None) if second.is_some() || minute.is_some() => {
            let (start, unit) = second.map_or((minute.unwrap_or_default(), MINUTE), |second| (second, SECOND));
            match column("function") {
                Some(of) => reader.fleet(of, start, unit, requests, function),
                None if function.is_some() => {
                    Err(reader.whole("function names one of many, and this trace has no such column".to_owned()))
                }
                None => reader.counts(start, unit, requests),
            }
        }
        _ => Err(TraceError {
            file: name.to_owned(),
            line: 1,
            message: format!(
                "the columns are {}; known are second,requests or minute,requests or function,minute,requests or \
                 at,duration, and files that are no CSV: access logs, and Prometheus' answers as JSON",
                header.iter().collect::<Vec<_>>().join(",")
            ),
        }),
    }
}

struct Lines<'a, R> {
    file: &'a str,
    reader: csv::Reader<R>,
    record: StringRecord,
    read: usize,
}

impl<R: Read> Lines<'_, R> {
    fn header(&mut self) -> Result<StringRecord, TraceError> {
        self.reader.headers().cloned().map_err(|error| TraceError {
            file: self.file.to_owned(),
            line: 1,
            message: in_words(&error),
        })
    }

    fn whole(&self, message: String) -> TraceError {
        TraceError { file: self.file.to_owned(), line: 0, message }
    }

    fn here(&self, message: String) -> TraceError {
        let line = self.record.position().map_or(0, csv::Position::line);
        TraceError { file: self.file.to_owned(), line, message }
    }

    fn next(&mut self) -> Result<bool, TraceError> {
        let more = self.reader.read_record(&mut self.record).map_err(|error| TraceError {
            file: self.file.to_owned(),
            line: self.reader.position().line(),
            message: in_words(&error),
        })?;
        self.read += usize::from(more);
        if self.read > MOST_LINES {
            return Err(self.here(format!("a trace has at most {MOST_LINES} lines; cut it, or use wider buckets")));
        }
        Ok(more)
    }

    fn field(&self, at: usize, name: &str) -> Result<&str, TraceError> {
        self.record.get(at).ok_or_else(|| self.here(format!("the line ends before its {name}; is the file cut short?")))
    }

    fn count(&self, at: usize) -> Result<u32, TraceError> {
        let text = self.field(at, "requests")?;
        text.parse().map_err(|_| {
            self.here(format!(
                "requests {text:?} is not a number of requests; it is a whole number from 0 to {}",
                u32::MAX
            ))
        })
    }

    fn start(&self, at: usize) -> Result<u64, TraceError> {
        let text = self.field(at, "time")?;
        text.parse().map_err(|_| self.here(format!("{text:?} is not the start of a bucket; it is a whole number")))
    }

    fn counts(&mut self, start: usize, unit: Micros, requests: usize) -> Result<Recorded, TraceError> {
        let (mut counts, mut first, mut before, mut step) = (Vec::new(), 0, None, None);
        while self.next()? {
            let at = self.start(start)?;
            if let Some(before) = before {
                let width = *step.get_or_insert(at.saturating_sub(before));
                if at <= before {
                    return Err(
                        self.here(format!("time goes from {before} to {at}; each bucket is later than the one before"))
                    );
                }
                if at != before + width {
                    return Err(self.here(format!(
                        "the bucket after {before} is {}, not {at}; a bucket without requests has a 0",
                        before + width
                    )));
                }
            } else {
                first = at;
            }
            before = Some(at);
            counts.push(self.count(requests)?);
        }
        if counts.is_empty() {
            return Err(self.whole(format!("there is no bucket in it (the first would be {first})")));
        }
        Ok(Recorded::Counts { bucket: step.unwrap_or(1) * unit, counts })
    }

    fn fleet(
        &mut self,
        of: usize,
        start: usize,
        unit: Micros,
        requests: usize,
        only: Option<&str>,
    ) -> Result<Recorded, TraceError> {
        let mut sums: BTreeMap<u64, u32> = BTreeMap::new();
        let mut last = 0;
        let mut names = std::collections::BTreeSet::new();
        while self.next()? {
            let name = self.field(of, "function")?.to_owned();
            let (at, count) = (self.start(start)?, self.count(requests)?);
            if usize::try_from(at).unwrap_or(usize::MAX) > MOST_LINES {
                return Err(self.here(format!("bucket {at} is beyond the longest trace of {MOST_LINES} buckets")));
            }
            last = last.max(at);
            if only.is_none_or(|only| only == name) {
                let sum = sums.entry(at).or_default();
                *sum = sum.saturating_add(count);
            }
            names.insert(name);
        }
        if let Some(only) = only
            && !names.contains(only)
        {
            let known: Vec<_> = names.iter().take(5).map(String::as_str).collect();
            return Err(self.whole(format!("there is no function {only:?} in it; there are {} ...", known.join(", "))));
        }
        let counts = (0..=last).map(|at| sums.get(&at).copied().unwrap_or(0)).collect();
        Ok(Recorded::Counts { bucket: unit, counts })
    }

    fn requests(&mut self, at: usize, duration: Option<usize>) -> Result<Recorded, TraceError> {
        let mut requests: Vec<Request> = Vec::new();
        while self.next()? {
            let number = |column: usize, name: &str| {
                let text = self.field(column, name)?;
                text.parse::<f64>().ok().filter(|value| *value >= 0.0 && *value < 1e9).map(from_seconds).ok_or_else(
                    || self.here(format!("{name} {text:?} is not a number of seconds from 0 to 1000000000")),
                )
            };
            let request =
                Request { at: number(at, "at")?, took: duration.map(|column| number(column, "duration")).transpose()? };
            if requests.last().is_some_and(|last| request.at < last.at) {
                return Err(self.here("time goes backwards; sort the requests by the time they came".to_owned()));
            }
            requests.push(request);
        }
        Ok(Recorded::Requests(requests))
    }
}

fn in_words(error: &csv::Error) -> String {
    match error.kind() {
        csv::ErrorKind::Io(error) => super::in_words(error),
        csv::ErrorKind::Utf8 { .. } => "is not text; a trace is CSV, plain or compressed with gzip".to_owned(),
        _ => error.to_string(),
    }
}
