//! Access logs: one line per request, as web servers, proxies and load balancers write them.
//!
//! | form | its lines | how long a request took |
//! |---|---|---|
//! | common, combined | `… [10/Oct/2025:13:55:36 -0700] "GET / HTTP/1.1" 200 2326 …`, as nginx and Apache write it | `rt=0.123`, `request_time=0.123`, or nginx' `$request_time` (`0.123`) after the rest; in seconds |
//! | Envoy | `[2025-10-10T20:55:36.310Z] "GET / HTTP/2" 200 - …`, its own default and Istio's | the duration, in milliseconds |
//! | AWS ALB | `https 2025-10-10T20:55:36.310432Z app/…` | the sum of its three times, in seconds |
//! | JSON lines | one object per line | see below |
//!
//! In JSON the time is the first of `start_time`, `StartUTC`, `time_iso8601`, `time_local`, `msec`, `@timestamp`,
//! `timestamp`, `time`, `ts` and `date` there is; text in RFC 3339 or as in the common form, or a number of seconds,
//! milliseconds, microseconds or nanoseconds since 1970, told by its size. The duration is `request_time` or
//! `duration_seconds` (seconds), `duration_ms` or `latency_ms` (milliseconds), `duration_us`, `duration_ns` or `Duration`
//! (nanoseconds), or `duration`, `latency` or `response_time` with a unit in the text (`"12ms"`); of a number there the
//! scenario tells the unit (`load.trace.duration_unit`), since Envoy writes milliseconds there and others seconds.
//!
//! Lines are written when a request has ended. Envoy, and `start_time`, tell when it began; of the others that is the time
//! less the duration. Where times are whole seconds, requests come anywhere within theirs: as counts per second where
//! nothing says how long they took (`load.trace.inside_bucket` then says where), at fixed random places otherwise.
//!
//! Every line is a request. To leave some out, filter the log first.

use super::{DurationUnit, MOST_LINES, Reading, Recorded, Request, TraceError};
use crate::api::duration;
use crate::sim::random::{Purpose, instant, stream};
use crate::sim::time::{Length, Micros, SECOND, from_seconds, micros};
use jiff::Timestamp;
use jiff::fmt::strtime;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::io::{BufRead, Read as _};

/// The longest line, in bytes.
const MOST_BYTES: u64 = 64 << 10;
/// How far back in time a line may be: several workers write one log, each through a buffer.
const BACK: i64 = 300 * 1_000_000;
/// The longest log, in microseconds: ten years.
const LONGEST: i64 = 10 * 365 * 86_400 * 1_000_000;
/// The longest request, in seconds.
const LONGEST_REQUEST: f64 = 1e6;

/// Which log it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Form {
    Common,
    Envoy,
    Alb,
    Json,
}

/// Kinds of connections of AWS' ALB.
const ALB_KINDS: &[&str] = &["http", "https", "h2", "grpcs", "ws", "wss"];

/// Where the time of a JSON line stands, and whether it is when the request began.
const TIMES: &[(&str, bool)] = &[
    ("start_time", true),
    ("StartUTC", true),
    ("time_iso8601", false),
    ("time_local", false),
    ("msec", false),
    ("@timestamp", false),
    ("timestamp", false),
    ("time", false),
    ("ts", false),
    ("date", false),
];

/// Where the duration of a JSON line stands, and its unit where the name tells.
const DURATIONS: &[(&str, Option<DurationUnit>)] = &[
    ("request_time", Some(DurationUnit::Seconds)),
    ("duration_seconds", Some(DurationUnit::Seconds)),
    ("duration_ms", Some(DurationUnit::Millis)),
    ("latency_ms", Some(DurationUnit::Millis)),
    ("duration_us", Some(DurationUnit::Micros)),
    ("duration_ns", Some(DurationUnit::Nanos)),
    ("Duration", Some(DurationUnit::Nanos)),
    ("duration", None),
    ("latency", None),
    ("response_time", None),
];

/// What a line says.
struct Seen {
    /// The time in it, in microseconds since 1970.
    at: i64,
    /// It is when the request began, not when it ended.
    begins: bool,
    /// It is a whole second.
    coarse: bool,
    took: Option<Micros>,
}

impl Form {
    /// The log that begins like this, if it is one.
    pub(super) fn of(start: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(start);
        let line = text.lines().map(str::trim).find(|line| !line.is_empty())?;
        if line.starts_with('{') {
            return Some(Self::Json);
        }
        let words = Words(line).take(10).collect::<Vec<_>>();
        match words.as_slice() {
            [Word::Bracketed(time), ..] if iso(time).is_some() => Some(Self::Envoy),
            [Word::Bare(kind), Word::Bare(time), ..] if ALB_KINDS.contains(kind) && iso(time).is_some() => {
                Some(Self::Alb)
            }
            words if words.iter().any(|word| matches!(word, Word::Bracketed(time) if common_time(time).is_some())) => {
                Some(Self::Common)
            }
            _ => None,
        }
    }

    fn told(self) -> &'static str {
        match self {
            Self::Common => "a line of a common or combined log (host ident user [time] \"request\" status bytes)",
            Self::Envoy => "a line of Envoy's log ([time] \"request\" code flags … bytes bytes duration …)",
            Self::Alb => "a line of an ALB log (type time balancer client target times… status)",
            Self::Json => "a JSON object",
        }
    }

    fn parse(self, line: &str, reading: &Reading<'_>) -> Result<Seen, String> {
        let seen = match self {
            Self::Common => common(line),
            Self::Envoy => envoy(line),
            Self::Alb => alb(line),
            Self::Json => {
                let fields = serde_json::from_str::<Map<String, Value>>(line)
                    .map_err(|error| format!("is not {}: {error}; remove the line", self.told()))?;
                return json(&fields, reading);
            }
        };
        seen.ok_or_else(|| format!("is not {}; remove the line, or copy the log again", self.told()))
    }
}

/// Reads one.
///
/// # Errors
/// With the first line that cannot be right.
pub(super) fn read(
    name: &str,
    mut input: impl BufRead,
    form: Form,
    reading: &Reading<'_>,
) -> Result<(Recorded, Vec<String>), TraceError> {
    let mut log = Log::default();
    let mut line = Vec::new();
    let mut number = 0;
    loop {
        let wrong = |message: String| TraceError { file: name.to_owned(), line: number + 1, message };
        line.clear();
        let mut limited = input.by_ref().take(MOST_BYTES + 1);
        let read = limited.read_until(b'\n', &mut line).map_err(|error| wrong(super::in_words(&error)))?;
        if read == 0 {
            break;
        }
        let ended = line.last() == Some(&b'\n');
        if line.len() as u64 > MOST_BYTES {
            return Err(wrong(format!("is longer than {} KiB; is it a log?", MOST_BYTES >> 10)));
        }
        let text = std::str::from_utf8(&line).map_err(|_| wrong("is not text".to_owned()))?.trim();
        if !text.is_empty() {
            let cut = |message: String| {
                if ended { message } else { format!("{message} (it is the last line, and cut short)") }
            };
            let seen = form.parse(text, reading).map_err(|message| wrong(cut(message)))?;
            log.take(&seen, reading).map_err(wrong)?;
        }
        number += 1;
    }
    log.recorded(name)
}

/// What was read of a log.
#[derive(Default)]
struct Log {
    /// The first and the latest end of a request.
    first: Option<i64>,
    latest: i64,
    /// Requests in each second, where nothing is known but that.
    seconds: BTreeMap<i64, u32>,
    requests: Vec<(i64, Option<Micros>)>,
    coarse: bool,
    /// Only requests in each second are counted.
    counts: bool,
}

impl Log {
    fn take(&mut self, seen: &Seen, reading: &Reading<'_>) -> Result<(), String> {
        let length = |micros: i64| Length(micros.unsigned_abs());
        let took = seen.took.filter(|_| !reading.without_durations);
        let lasted = i64::try_from(seen.took.unwrap_or(0)).unwrap_or(i64::MAX);
        let ended = if seen.begins { seen.at.saturating_add(lasted) } else { seen.at };
        let begun = ended.saturating_sub(lasted);
        let Some(first) = self.first else {
            (self.first, self.latest) = (Some(ended), ended);
            (self.coarse, self.counts) = (seen.coarse, seen.coarse && took.is_none());
            return self.add(begun, took);
        };
        if ended < self.latest - BACK {
            return Err(format!(
                "time goes back by {}; join the files of a log in the order of their times, oldest first",
                length(self.latest - ended)
            ));
        }
        if ended > first + LONGEST {
            return Err(format!("is {} after the first line; a log is at most ten years long", length(ended - first)));
        }
        self.latest = self.latest.max(ended);
        self.add(begun, took)
    }

    fn add(&mut self, begun: i64, took: Option<Micros>) -> Result<(), String> {
        let (held, what) = if self.counts {
            let second = self.seconds.entry(begun.div_euclid(1_000_000)).or_default();
            *second = second.saturating_add(1);
            let (first, last) = (self.seconds.first_key_value(), self.seconds.last_key_value());
            let length = first.zip(last).map_or(0, |(first, last)| last.0 - first.0);
            (usize::try_from(length).unwrap_or(usize::MAX), "seconds")
        } else {
            self.requests.push((begun, took));
            (self.requests.len(), "requests")
        };
        if held > MOST_LINES {
            return Err(format!("a log has at most {MOST_LINES} {what}; cut it, or count its requests per minute"));
        }
        Ok(())
    }

    fn recorded(mut self, name: &str) -> Result<(Recorded, Vec<String>), TraceError> {
        if self.counts {
            let first = self.seconds.first_key_value().map_or(0, |(second, _)| *second);
            let last = self.seconds.last_key_value().map_or(0, |(second, _)| *second);
            let counts = (first..=last).map(|second| self.seconds.get(&second).copied().unwrap_or(0)).collect();
            return Ok((Recorded::Counts { bucket: SECOND, counts }, Vec::new()));
        }
        if self.coarse {
            let mut places = stream(0, Purpose::Arrivals, "access log");
            for (begun, _) in &mut self.requests {
                *begun += i64::try_from(instant(&mut places, SECOND)).unwrap_or(0);
            }
        }
        self.requests.sort_by_key(|(begun, _)| *begun);
        let Some(first) = self.requests.first().map(|(begun, _)| begun.div_euclid(1_000_000) * 1_000_000) else {
            let message = "there is no request in it".to_owned();
            return Err(TraceError { file: name.to_owned(), line: 0, message });
        };
        let mut notes = Vec::new();
        let untold = self.requests.iter().filter(|(_, took)| took.is_none()).count();
        let mut before = None;
        if 0 < untold && untold < self.requests.len() {
            notes.push(format!(
                "{untold} of {} requests do not tell how long they took, and take as long as the one before",
                self.requests.len()
            ));
            before = self.requests.iter().find_map(|(_, took)| *took);
        }
        let requests = self
            .requests
            .iter()
            .map(|(begun, took)| {
                before = took.or(before);
                Request { at: begun.abs_diff(first), took: before }
            })
            .collect();
        Ok((Recorded::Requests(requests), notes))
    }
}

/// A word of a line.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Word<'a> {
    Bare(&'a str),
    Quoted,
    Bracketed(&'a str),
    /// Quotes or brackets that do not end.
    Open,
}

impl<'a> Word<'a> {
    fn bare(self) -> Option<&'a str> {
        if let Self::Bare(text) = self { Some(text) } else { None }
    }
}

/// The words of a line, separated by spaces but for those in quotes and brackets.
struct Words<'a>(&'a str);

impl<'a> Iterator for Words<'a> {
    type Item = Word<'a>;

    fn next(&mut self) -> Option<Word<'a>> {
        self.0 = self.0.trim_start();
        let end_of = |text: &str, end: u8| {
            let mut escaped = false;
            text.bytes().position(|byte| {
                let ends = byte == end && !escaped;
                escaped = byte == b'\\' && !escaped;
                ends
            })
        };
        let open = self.0.bytes().next()?;
        if open != b'"' && open != b'[' {
            let (word, rest) = self.0.split_once(' ').unwrap_or((self.0, ""));
            self.0 = rest;
            return Some(Word::Bare(word));
        }
        let inside = &self.0[1..];
        let Some(end) = end_of(inside, if open == b'"' { b'"' } else { b']' }) else {
            self.0 = "";
            return Some(Word::Open);
        };
        self.0 = &inside[end + 1..];
        Some(if open == b'"' { Word::Quoted } else { Word::Bracketed(&inside[..end]) })
    }
}

fn status(word: Option<Word<'_>>) -> Option<()> {
    let code = word?.bare()?;
    (code.len() <= 3 && code.parse::<u16>().is_ok()).then_some(())
}

fn common(line: &str) -> Option<Seen> {
    let mut words = Words(line);
    let time = words.by_ref().take(8).find_map(|word| match word {
        Word::Bracketed(time) => Some(common_time(time).or_else(|| iso(time))),
        _ => None,
    })??;
    if words.next()? != Word::Quoted {
        return None;
    }
    status(words.next())?;
    words.next()?.bare()?;
    let mut took = None;
    for word in words {
        match word {
            Word::Open => return None,
            Word::Bare(text) if took.is_none() => {
                let named = text.strip_prefix("rt=").or_else(|| text.strip_prefix("request_time="));
                let nginx = || text.split_once('.').is_some_and(|(_, parts)| parts.len() == 3).then_some(text);
                took = named.or_else(nginx).and_then(|text| lasted(text.trim_matches('"'), DurationUnit::Seconds));
            }
            _ => {}
        }
    }
    Some(Seen { at: time.as_microsecond(), begins: false, coarse: is_whole(time), took })
}

fn envoy(line: &str) -> Option<Seen> {
    let mut words = Words(line);
    let Word::Bracketed(time) = words.next()? else { return None };
    let time = iso(time)?;
    if words.next()? != Word::Quoted {
        return None;
    }
    status(words.next())?;
    // Flags; Istio then has details of the response and of how the connection ended, and why the upstream failed.
    words.next()?.bare()?;
    let mut bytes = words.next()?;
    if bytes.bare().is_none_or(|bytes| bytes.parse::<u64>().is_err()) {
        let _ = (words.next()?, words.next()?);
        bytes = words.next()?;
    }
    bytes.bare()?.parse::<u64>().ok()?;
    words.next()?.bare()?.parse::<u64>().ok()?;
    let took = lasted(words.next()?.bare()?, DurationUnit::Millis);
    // The duration is whole only where something follows it.
    words.next()?;
    if words.any(|word| word == Word::Open) {
        return None;
    }
    Some(Seen { at: time.as_microsecond(), begins: true, coarse: false, took })
}

fn alb(line: &str) -> Option<Seen> {
    let words: Vec<Word<'_>> = Words(line).take(13).collect();
    let field = |at: usize| words.get(at).and_then(|word| word.bare());
    let time = iso(field(1)?)?;
    // Until it reached the target, at the target, and back; -1 where it did not get that far.
    let mut took = 0.0;
    for at in 5..8 {
        took += field(at)?.parse::<f64>().ok()?.max(0.0);
    }
    field(8)?;
    if *words.get(12)? != Word::Quoted {
        return None;
    }
    let took = lasted(&took.to_string(), DurationUnit::Seconds);
    Some(Seen { at: time.as_microsecond(), begins: false, coarse: false, took })
}

fn json(fields: &Map<String, Value>, reading: &Reading<'_>) -> Result<Seen, String> {
    let Some((key, begins, value)) =
        TIMES.iter().find_map(|(key, begins)| fields.get(*key).map(|value| (key, *begins, value)))
    else {
        let known: Vec<&str> = TIMES.iter().map(|(key, _)| *key).collect();
        return Err(format!("has no time; it is the field {}", known.join(", ")));
    };
    let time = match value {
        Value::String(text) => iso(text).or_else(|| common_time(text)).or_else(|| since_1970(text.parse().ok()?)),
        Value::Number(number) => number.as_f64().and_then(since_1970),
        _ => None,
    };
    let Some(time) = time else {
        return Err(format!(
            "{key}: {value} is no time; it is text such as \"2025-10-10T20:55:36Z\", or seconds since 1970"
        ));
    };
    let mut took = None;
    if !reading.without_durations
        && let Some((key, unit, value)) =
            DURATIONS.iter().find_map(|(key, unit)| fields.get(*key).map(|value| (key, *unit, value)))
    {
        took = json_duration(key, unit, value, reading)?;
    }
    Ok(Seen { at: time.as_microsecond(), begins, coarse: is_whole(time), took })
}

fn json_duration(
    key: &str,
    unit: Option<DurationUnit>,
    value: &Value,
    reading: &Reading<'_>,
) -> Result<Option<Micros>, String> {
    let text = match value {
        Value::Null => return Ok(None),
        Value::String(text) if text.is_empty() || text == "-" => return Ok(None),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    if text.parse::<f64>().is_err()
        && let Ok(span) = duration::parse(&text)
        && span.nanos() >= 0
    {
        return Ok(Some(micros(span)));
    }
    let Some(unit) = unit.or(reading.duration_unit) else {
        return Err(format!(
            "{key}: {value} has no unit; write load.trace.duration_unit: ms (as Envoy means it), s, us or ns, or give the \
             scenario a load.service"
        ));
    };
    lasted(&text, unit)
        .map(Some)
        .ok_or_else(|| format!("{key}: {value} is no duration; it is a number from 0, or text such as \"12ms\""))
}

/// So many units, as text.
fn lasted(text: &str, unit: DurationUnit) -> Option<Micros> {
    let seconds = text.parse::<f64>().ok()? * unit.seconds();
    (0.0 <= seconds && seconds <= LONGEST_REQUEST).then(|| from_seconds(seconds))
}

fn iso(text: &str) -> Option<Timestamp> {
    text.parse().ok()
}

fn common_time(text: &str) -> Option<Timestamp> {
    strtime::parse("%d/%b/%Y:%H:%M:%S %z", text).ok()?.to_timestamp().ok()
}

/// A number of seconds, milliseconds, microseconds or nanoseconds since 1970.
fn since_1970(number: f64) -> Option<Timestamp> {
    let scale = [1e11, 1e14, 1e17, 1e20].iter().position(|most| number.abs() < *most)?;
    let seconds = number / [1.0, 1e3, 1e6, 1e9][scale];
    #[expect(clippy::cast_possible_truncation, reason = "below 2^53")]
    let micros = (seconds * 1e6).round() as i64;
    Timestamp::from_microsecond(micros).ok()
}

fn is_whole(time: Timestamp) -> bool {
    time.subsec_nanosecond() == 0
}
