//! Durations as Go writes them: `90s`, `1h30m`, `1.5s`, `-300ms`, or a bare `0`.
//!
//! [`parse`] follows `time.ParseDuration`; the other way round is the `Display` of [`Span`].

use crate::units::Span;
use std::fmt;

/// Why a text is not a duration.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DurationError {
    /// It is not a row of numbers with units.
    Syntax,
    /// A number has no unit.
    MissingUnit,
    /// A unit is none of `ns`, `us`, `µs`, `ms`, `s`, `m`, `h`.
    UnknownUnit,
    /// It is longer than about 292 years.
    Range,
}

impl fmt::Display for DurationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Syntax => "not a duration",
            Self::MissingUnit => "a number without a unit",
            Self::UnknownUnit => "a unit other than ns, us, ms, s, m and h",
            Self::Range => "too long",
        })
    }
}

impl std::error::Error for DurationError {}

/// Reads a duration: an optional sign, then one or more numbers each with a unit, in any order and repeated at will.
///
/// A fraction is cut off at the nanosecond. White space is not trimmed.
///
/// ```
/// use ebb::{api::duration, units::Span};
/// assert_eq!(duration::parse("1m30s"), Ok(Span::from_seconds(90)));
/// assert_eq!(duration::parse("90"), Err(duration::DurationError::MissingUnit));
/// ```
pub fn parse(text: &str) -> Result<Span, DurationError> {
    let (negative, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Ok(Span::ZERO);
    }
    if rest.is_empty() {
        return Err(DurationError::Syntax);
    }
    let mut total = 0_u64;
    while !rest.is_empty() {
        let (term, after) = term(rest)?;
        // Wraps as in Go, where two terms of exactly 2^63 ns add up to nothing.
        total = total.wrapping_add(term);
        if total > MOST {
            return Err(DurationError::Range);
        }
        rest = after;
    }
    let nanos = if negative { 0_i64.checked_sub_unsigned(total) } else { i64::try_from(total).ok() };
    nanos.map(Span::from_nanos).ok_or(DurationError::Range)
}

/// Whether `span` is what it is when rounded to seconds. The longest span of all is, since rounding it up saturates.
pub fn is_whole_seconds(span: Span) -> bool {
    span.nanos() % Span::SECOND.nanos() == 0 || span.nanos() == i64::MAX
}

/// The largest magnitude, that of the most negative duration.
const MOST: u64 = 1 << 63;

/// One number with its unit in nanoseconds, and what follows it.
fn term(text: &str) -> Result<(u64, &str), DurationError> {
    let (whole_digits, after_whole) = digits(text);
    let (fraction_digits, after_number) = after_whole.strip_prefix('.').map_or(("", after_whole), digits);
    if whole_digits.is_empty() && fraction_digits.is_empty() {
        return Err(DurationError::Syntax);
    }
    let unit_length = after_number.bytes().position(|byte| byte == b'.' || byte.is_ascii_digit());
    let (unit, rest) = after_number.split_at(unit_length.unwrap_or(after_number.len()));
    let unit: u64 = match unit {
        "ns" => 1,
        // The micro sign and the Greek letter look alike and both are used.
        "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        "" => return Err(DurationError::MissingUnit),
        _ => return Err(DurationError::UnknownUnit),
    };
    let whole = if whole_digits.is_empty() { 0 } else { whole_digits.parse().map_err(|_| DurationError::Range)? };
    if whole > MOST / unit {
        return Err(DurationError::Range);
    }
    let nanos = whole * unit + fraction(fraction_digits, unit);
    if nanos > MOST { Err(DurationError::Range) } else { Ok((nanos, rest)) }
}

/// `0.<digits>` units in nanoseconds, computed with the reference's rounding and from as many digits as it takes.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the arithmetic of the reference, result below 3.6e12"
)]
fn fraction(digits: &str, unit: u64) -> u64 {
    let (mut value, mut scale) = (0_u64, 1.0_f64);
    for digit in digits.bytes().map(|byte| u64::from(byte - b'0')) {
        // Digits that no longer fit 63 bits are far below a nanosecond.
        if value > (MOST - 1) / 10 || value * 10 + digit > MOST {
            break;
        }
        value = value * 10 + digit;
        scale *= 10.0;
    }
    (value as f64 * (unit as f64 / scale)) as u64
}

fn digits(text: &str) -> (&str, &str) {
    text.split_at(text.bytes().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use super::DurationError::{MissingUnit, Range, Syntax, UnknownUnit};
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_are_read_as_go_reads_them() {
        let good = [
            ("0", 0),
            ("-0", 0),
            ("+0", 0),
            ("5s", 5_000_000_000),
            ("-5s", -5_000_000_000),
            ("+5s", 5_000_000_000),
            ("1h30m", 5_400_000_000_000),
            ("30m1h", 5_400_000_000_000),
            ("1s1s", 2_000_000_000),
            ("1.5s", 1_500_000_000),
            (".5s", 500_000_000),
            ("5.s", 5_000_000_000),
            ("0.0000000019s", 1),
            ("1.5ns", 1),
            ("2us2\u{b5}s2\u{3bc}s", 6_000),
            ("0.3333333333333333333h", 1_200_000_000_000),
            ("0.100000000000000000000h", 360_000_000_000),
            ("9223372036854775807ns", i64::MAX),
            ("-9223372036854775808ns", i64::MIN),
            ("9223372036854775.807us", i64::MAX),
            ("000001s", 1_000_000_000),
        ];
        for (text, nanos) in good {
            assert_eq!(parse(text), Ok(Span::from_nanos(nanos)), "{text}");
        }
        let bad = [
            ("", Syntax),
            ("-", Syntax),
            ("s", Syntax),
            (".", Syntax),
            ("-.s", Syntax),
            (".s", Syntax),
            (" 1s", Syntax),
            ("90", MissingUnit),
            ("00", MissingUnit),
            ("1.5", MissingUnit),
            ("1s5", MissingUnit),
            ("1s ", UnknownUnit),
            ("1S", UnknownUnit),
            ("1d", UnknownUnit),
            ("1e3s", UnknownUnit),
            ("1s-1s", UnknownUnit),
            ("9223372036854775808ns", Range),
            ("99999999999999999999ns", Range),
            ("3000000h", Range),
            ("-9223372036854775809ns", Range),
        ];
        for (text, want) in bad {
            assert_eq!(parse(text), Err(want), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_a_span_displays_reads_back(nanos in any::<i64>(), shift in 0_u32..63) {
            let span = Span::from_nanos(nanos >> shift);
            prop_assert_eq!(parse(&span.to_string()), Ok(span));
        }

        #[test]
        fn no_text_makes_parse_panic(text in "[-+]?([0-9.]{0,22}(ns|us|µs|ms|s|m|h|x)){0,3}|\\PC{0,12}") {
            let _ = parse(&text);
        }
    }
}
