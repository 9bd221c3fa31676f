//! What Prometheus answers to a range query, as `/api/v1/query_range` and `promtool query range -o json` write it.
//!
//! A sample tells of the step that ends with it. What its value is, is known of a counter, whose name ends with `_total`
//! or `_count`; of anything else the scenario says it (`load.trace.values`), since a rate and a number of requests look
//! alike. Series are added up. Fractions of requests, which `rate` and `increase` bring, are carried over to the next step,
//! so that the sum is kept. A step without a sample is one without requests: a revision at zero has no pod that counts.
//!
//! A counter that falls began anew. One that appears later than others did counts from 0: its pod was new.

use super::{MOST_LINES, Reading, Recorded, TraceError, Values};
use crate::sim::time::{Micros, from_seconds, seconds};
use crate::units::count_f64;
use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;

/// The largest answer that is read, in bytes.
const MOST_BYTES: u64 = 256 << 20;

/// The largest number of requests in a step.
const MOST_REQUESTS: f64 = 4_294_967_295.0;

/// Whether a file that begins like this is one.
pub(super) fn is(start: &[u8]) -> bool {
    let compact: Vec<u8> = start.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).take(64).collect();
    [
        r#"{"status":"success""#,
        r#"{"status":"error""#,
        r#"{"data":{"#,
        r#"{"resultType""#,
        r#"{"result":["#,
        r#"[{"metric""#,
        r#"[{"values""#,
        "[]",
    ]
    .iter()
    .any(|beginning| compact.starts_with(beginning.as_bytes()))
}

#[derive(Deserialize)]
struct Answer {
    error: Option<String>,
    data: Option<Data>,
    #[serde(rename = "resultType")]
    result_type: Option<String>,
    result: Option<Vec<Series>>,
}

#[derive(Deserialize)]
struct Data {
    #[serde(rename = "resultType")]
    result_type: Option<String>,
    #[serde(default)]
    result: Vec<Series>,
}

#[derive(Deserialize)]
struct Series {
    #[serde(default)]
    metric: BTreeMap<String, String>,
    #[serde(default)]
    values: Samples,
    value: Option<de::IgnoredAny>,
}

/// Samples of one series, each later than the one before it, none negative.
#[derive(Default)]
struct Samples(Vec<Sample>);

struct Sample {
    /// In seconds.
    at: f64,
    value: f64,
}

impl<'de> Deserialize<'de> for Samples {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct All;
        impl<'de> Visitor<'de> for All {
            type Value = Samples;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("samples, each [time, \"value\"]")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut samples: A) -> Result<Samples, A::Error> {
                let mut all: Vec<Sample> = Vec::new();
                while let Some((at, value)) = samples.next_element::<(f64, String)>()? {
                    let known = value.parse::<f64>().ok().filter(|value| value.is_finite() && *value >= 0.0);
                    let Some(known) = known else {
                        return Err(de::Error::custom(format_args!(
                            "{value:?} is no number of requests, which is 0 or more; clamp it in the query, or leave \
                             the sample out"
                        )));
                    };
                    if let Some(before) = all.last()
                        && at <= before.at
                    {
                        return Err(de::Error::custom(format_args!(
                            "time goes from {} to {at}; each sample is later than the one before",
                            before.at
                        )));
                    }
                    all.push(Sample { at, value: known });
                }
                Ok(Samples(all))
            }
        }
        deserializer.deserialize_seq(All)
    }
}

/// Reads one.
///
/// # Errors
/// With what cannot be right, and its line.
pub(super) fn read(name: &str, input: impl Read, reading: &Reading<'_>) -> Result<(Recorded, Vec<String>), TraceError> {
    let wrong = |line: usize, message: String| TraceError { file: name.to_owned(), line: line as u64, message };
    let mut text = Vec::new();
    input.take(MOST_BYTES + 1).read_to_end(&mut text).map_err(|error| wrong(0, super::in_words(&error)))?;
    if text.len() as u64 > MOST_BYTES {
        return Err(wrong(
            0,
            format!("is larger than {} MiB; ask for a longer step or a shorter time", MOST_BYTES >> 20),
        ));
    }
    let parsed = |error: &serde_json::Error| {
        let message = if error.is_eof() {
            "the answer ends early; copy it again".to_owned()
        } else {
            // The line stands before the message.
            let text = error.to_string();
            text.split(" at line ").next().unwrap_or(&text).to_owned()
        };
        wrong(error.line(), message)
    };
    let series = if text.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[') {
        serde_json::from_slice::<Vec<Series>>(&text).map_err(|error| parsed(&error))?
    } else {
        let answer: Answer = serde_json::from_slice(&text).map_err(|error| parsed(&error))?;
        if let Some(error) = answer.error {
            return Err(wrong(0, format!("Prometheus refused the query: {error}")));
        }
        let (kind, series) = match (answer.data, answer.result) {
            (Some(data), _) => (data.result_type, data.result),
            (None, result) => (answer.result_type, result.unwrap_or_default()),
        };
        if kind.as_deref().is_some_and(|kind| kind != "matrix") {
            return Err(wrong(0, instant(kind.as_deref().unwrap_or_default())));
        }
        series
    };
    drop(text);
    if series.iter().any(|series| series.value.is_some()) {
        return Err(wrong(0, instant("vector")));
    }
    let buckets = Buckets::of(&series).map_err(|message| wrong(0, message))?;
    let values = match reading.values {
        Some(values) => values,
        None => guessed(&series).ok_or_else(|| {
            wrong(
                0,
                "what its values are is not known; write load.trace.values: increase for requests since the step \
                 before, rate for requests per second, or counter for a counter as it is"
                    .to_owned(),
            )
        })?,
    };
    let sums = buckets.filled(&series, values);
    let empty = buckets.without_sample(&series);
    let mut notes = Vec::new();
    if empty > 0 {
        notes.push(format!("{empty} of {} steps have no sample, and count as without requests", buckets.count));
    }
    // A counter tells of the time between two samples.
    let sums = if values == Values::Counter { &sums[1..] } else { &sums[..] };
    let mut carried = 0.0;
    let mut counts = Vec::with_capacity(sums.len());
    for (number, sum) in sums.iter().enumerate() {
        if *sum > MOST_REQUESTS {
            return Err(wrong(0, format!("step {number} has {sum} requests; at most {MOST_REQUESTS} are understood")));
        }
        carried += sum;
        let whole = carried.floor();
        carried -= whole;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` saturates")]
        counts.push(whole as u32);
    }
    // What is left of rounding errors is no request; half of one is.
    if let Some(last) = counts.last_mut()
        && carried >= 0.5
    {
        *last += 1;
    }
    Ok((Recorded::Counts { bucket: buckets.step, counts }, notes))
}

fn instant(kind: &str) -> String {
    format!("is the answer to an instant query ({kind}); ask /api/v1/query_range, which answers with a matrix")
}

/// What the values are, as far as the names of the series tell.
fn guessed(series: &[Series]) -> Option<Values> {
    let counter = |name: &String| name.ends_with("_total") || name.ends_with("_count");
    series.iter().all(|series| series.metric.get("__name__").is_some_and(counter)).then_some(Values::Counter)
}

/// The steps of a query.
struct Buckets {
    /// The first sample, in seconds.
    first: f64,
    step: Micros,
    count: usize,
}

impl Buckets {
    fn of(series: &[Series]) -> Result<Self, String> {
        let samples = || series.iter().flat_map(|series| &series.values.0);
        if samples().next().is_none() {
            return Err("there is no sample in it; did the query match any series?".to_owned());
        }
        let first = samples().map(|sample| sample.at).fold(f64::INFINITY, f64::min);
        let last = samples().map(|sample| sample.at).fold(f64::NEG_INFINITY, f64::max);
        let pairs = series.iter().flat_map(|series| series.values.0.windows(2));
        let step = pairs.map(|pair| pair[1].at - pair[0].at).fold(f64::INFINITY, f64::min);
        if !step.is_finite() {
            return Err("there is one sample of each series only; ask for at least two steps".to_owned());
        }
        // Prometheus' times are milliseconds.
        let step = from_seconds((step * 1000.0).round() / 1000.0);
        if step == 0 {
            return Err("two samples are less than a millisecond apart".to_owned());
        }
        let steps = ((last - first) / seconds(step)).round();
        if steps >= count_f64(MOST_LINES) {
            return Err(format!("there are more than {MOST_LINES} steps; ask for a longer step or a shorter time"));
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "of 0 to MOST_LINES")]
        let buckets = Self { first, step, count: steps as usize + 1 };
        for sample in samples() {
            let place = buckets.place(sample.at);
            if (sample.at - first - seconds(step) * count_f64(place)).abs() > 0.002 {
                return Err(format!(
                    "the sample at {} is not a whole number of steps of {} s after the first; answers with different \
                     steps cannot be joined",
                    sample.at,
                    seconds(step)
                ));
            }
        }
        Ok(buckets)
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "of 0 to the number of steps")]
    fn place(&self, at: f64) -> usize {
        ((at - self.first) / seconds(self.step)).round() as usize
    }

    fn filled(&self, series: &[Series], values: Values) -> Vec<f64> {
        let mut sums = vec![0.0; self.count];
        for Series { values: Samples(samples), .. } in series {
            let mut before: Option<(usize, f64)> = None;
            for sample in samples {
                let place = self.place(sample.at);
                match values {
                    Values::Increase => sums[place] += sample.value,
                    Values::Rate => sums[place] += sample.value * seconds(self.step),
                    Values::Counter => {
                        let (from, came) = match before {
                            Some((from, value)) if value <= sample.value => (from, sample.value - value),
                            Some((from, _)) => (from, sample.value),
                            // What it counted before anybody looked is not known.
                            None if place == 0 => (0, 0.0),
                            None => (place - 1, sample.value),
                        };
                        // Nobody knows when within a gap they came.
                        for sum in &mut sums[from + 1..=place] {
                            *sum += came / count_f64(place - from);
                        }
                        before = Some((place, sample.value));
                    }
                }
            }
        }
        sums
    }

    fn without_sample(&self, series: &[Series]) -> usize {
        let mut has = vec![false; self.count];
        for sample in series.iter().flat_map(|series| &series.values.0) {
            has[self.place(sample.at)] = true;
        }
        has.iter().filter(|has| !**has).count()
    }
}
