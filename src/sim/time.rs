//! Virtual time: whole microseconds from the start of the run.

use crate::api::duration;
use crate::units::{Span, Timestamp};
use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

/// An instant of a run, or a length of time, in microseconds.
pub type Micros = u64;

/// Microseconds in one second.
pub const SECOND: Micros = 1_000_000;
/// Microseconds in one minute.
pub const MINUTE: Micros = 60 * SECOND;
/// Microseconds in one hour.
pub const HOUR: Micros = 60 * MINUTE;

/// What the engine's clock shows when a run begins: 2026-01-01T00:00:00Z. Only differences matter.
pub const START: Timestamp = Timestamp::from_seconds(1_767_225_600);

/// An instant of a run as the engine sees it.
pub fn stamp(at: Micros) -> Timestamp {
    START + span(at)
}

/// A length of time as the engine sees it.
pub fn span(length: Micros) -> Span {
    Span::from_nanos(i64::try_from(length).unwrap_or(i64::MAX).saturating_mul(1000))
}

/// A length of time of the engine in microseconds; a negative one is none at all.
pub fn micros(span: Span) -> Micros {
    u64::try_from(span.nanos() / 1000).unwrap_or(0)
}

/// Microseconds as seconds.
#[expect(clippy::cast_precision_loss, reason = "below 2^53 µs, 285 years, it is exact")]
pub fn seconds(length: Micros) -> f64 {
    length as f64 / 1e6
}

/// Seconds as microseconds, to the nearest; what is negative or no number is 0.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` saturates")]
pub fn from_seconds(seconds: f64) -> Micros {
    (seconds * 1e6).round() as u64
}

/// A length of time as people write it in a scenario: `250ms`, `1m30s`, `24h`. Never negative.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub struct Length(pub Micros);

impl Length {
    /// So many seconds.
    pub const fn seconds(seconds: u64) -> Self {
        Self(seconds * SECOND)
    }

    /// So many milliseconds.
    pub const fn millis(millis: u64) -> Self {
        Self(millis * 1000)
    }

    /// Of what happens every `period`, and once at this instant: how long after `from` it happens first.
    pub(super) const fn after(self, from: Micros, period: Micros) -> Micros {
        (self.0 % period + period - from % period) % period
    }
}

impl fmt::Display for Length {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        span(self.0).fmt(f)
    }
}

impl fmt::Debug for Length {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Length {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Length {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Length;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a length of time such as 500ms, 30s or 1h30m")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Length, E> {
                let span = duration::parse(text).map_err(|_| {
                    E::custom(format_args!("{text:?} is not a length of time; write it as 500ms, 30s or 1h30m"))
                })?;
                if span < Span::ZERO {
                    return Err(E::custom(format_args!("{text:?} is negative; a length of time is 0s or more")));
                }
                Ok(Length(micros(span)))
            }

            fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Length, E> {
                if number == 0 {
                    return Ok(Length(0));
                }
                Err(E::custom(format_args!("{number} has no unit; write {number}s or {number}ms")))
            }

            fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<Length, E> {
                Err(E::custom(format_args!("{number} has no unit; write {number}s or {number}ms")))
            }
        }
        deserializer.deserialize_any(Text)
    }
}

/// A part of a whole: `0.1%` or `0.001`. From 0 to 1.
#[derive(Clone, Copy, PartialEq, PartialOrd, Default)]
pub struct Share(pub f64);

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", (self.0 * 1e8).round() / 1e6)
    }
}

impl fmt::Debug for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Share {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Share {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Part;
        impl Part {
            fn check<E: serde::de::Error>(value: f64) -> Result<Share, E> {
                if (0.0..=1.0).contains(&value) {
                    return Ok(Share(value));
                }
                Err(E::custom(format_args!("{value} is not a part of a whole; it is from 0 to 1, or from 0% to 100%")))
            }
        }
        impl Visitor<'_> for Part {
            type Value = Share;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a part of a whole such as 0.1% or 0.001")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Share, E> {
                let number = text.strip_suffix('%').map(str::trim).and_then(|number| number.parse::<f64>().ok());
                let Some(number) = number else {
                    return Err(E::custom(format_args!("{text:?} is not a part of a whole; write 0.1% or 0.001")));
                };
                Self::check(number / 100.0)
            }

            fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<Share, E> {
                Self::check(number)
            }

            fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Share, E> {
                i32::try_from(number).map_err(E::custom).and_then(|number| Self::check(f64::from(number)))
            }
        }
        deserializer.deserialize_any(Part)
    }
}
