//! Numbers and booleans as Go reads them, because every ConfigMap and annotation of Knative is read by Go.
//!
//! [`float`] follows `strconv.ParseFloat`, [`int32`], [`int64`] and [`uint32`] follow `strconv.ParseInt` and
//! `ParseUint` in base 10, [`boolean`] follows `strconv.ParseBool`. None of them trims white space.

use std::fmt;

/// Why a text is not a number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NumberError {
    /// It is not written as a number.
    Syntax,
    /// It is a number, too large for its type.
    Range,
}

impl fmt::Display for NumberError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Syntax => "not a number",
            Self::Range => "too large",
        })
    }
}

impl std::error::Error for NumberError {}

/// A 64-bit float: decimal or hexadecimal (`0x1.8p3`), with underscores between digits, or an infinity or NaN by name.
///
/// What is too small becomes zero; what is too large is [`NumberError::Range`].
pub fn float(text: &str) -> Result<f64, NumberError> {
    let (negative, unsigned) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if unsigned.eq_ignore_ascii_case("inf") || unsigned.eq_ignore_ascii_case("infinity") {
        return Ok(if negative { f64::NEG_INFINITY } else { f64::INFINITY });
    }
    if text.eq_ignore_ascii_case("nan") {
        return Ok(f64::NAN);
    }
    let hexadecimal = unsigned.len() > 2 && unsigned.as_bytes()[..2].eq_ignore_ascii_case(b"0x");
    let magnitude = if hexadecimal { hexadecimal_float(&unsigned[2..])? } else { decimal_float(unsigned)? };
    Ok(if negative { -magnitude } else { magnitude })
}

/// A 32-bit integer in base 10 with an optional sign.
pub fn int32(text: &str) -> Result<i32, NumberError> {
    text.parse().map_err(|error: std::num::ParseIntError| number_error(&error))
}

/// A 64-bit integer in base 10 with an optional sign.
pub fn int64(text: &str) -> Result<i64, NumberError> {
    text.parse().map_err(|error: std::num::ParseIntError| number_error(&error))
}

/// A 32-bit integer in base 10 without a sign.
pub fn uint32(text: &str) -> Result<u32, NumberError> {
    if text.starts_with('+') {
        return Err(NumberError::Syntax);
    }
    text.parse().map_err(|error: std::num::ParseIntError| number_error(&error))
}

/// One of the twelve spellings Go has for a boolean.
pub fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

fn number_error(error: &std::num::ParseIntError) -> NumberError {
    use std::num::IntErrorKind::{NegOverflow, PosOverflow};
    if matches!(error.kind(), PosOverflow | NegOverflow) { NumberError::Range } else { NumberError::Syntax }
}

/// Digits with at most one point, then perhaps an exponent; the sign is already gone.
fn decimal_float(text: &str) -> Result<f64, NumberError> {
    let (mantissa, exponent) = split_exponent(text, b'e');
    if !is_mantissa(mantissa, u8::is_ascii_digit)
        || !exponent.is_none_or(is_exponent)
        || !underscores_separate(text, false)
    {
        return Err(NumberError::Syntax);
    }
    // Rust rounds a decimal as Go does: to the nearest, ties to even.
    let plain = if text.contains('_') { text.replace('_', "").parse() } else { text.parse() };
    let value: f64 = plain.map_err(|_| NumberError::Syntax)?;
    if value.is_finite() { Ok(value) } else { Err(NumberError::Range) }
}

/// What follows `0x`: hexadecimal digits with at most one point, then a binary exponent, which must be there.
fn hexadecimal_float(text: &str) -> Result<f64, NumberError> {
    let (mantissa, exponent) = split_exponent(text, b'p');
    let exponent = exponent.ok_or(NumberError::Syntax)?;
    if !is_mantissa(mantissa, u8::is_ascii_hexdigit) || !is_exponent(exponent) || !underscores_separate(text, true) {
        return Err(NumberError::Syntax);
    }

    // The first 64 significant bits; `inexact` remembers whether any later bit was set.
    let (mut bits, mut inexact, mut power) = (0_u64, false, 0_i64);
    let mut after_point = false;
    for character in mantissa.chars() {
        let Some(digit) = character.to_digit(16) else {
            after_point |= character == '.';
            continue;
        };
        if bits >> 60 == 0 {
            bits = bits << 4 | u64::from(digit);
            power -= if after_point { 4 } else { 0 };
        } else {
            inexact |= digit != 0;
            power += if after_point { 0 } else { 4 };
        }
    }
    // An exponent beyond this is out of every range already; the limit keeps the sum below from overflowing.
    let exponent: i64 =
        exponent.replace('_', "").parse().unwrap_or(if exponent.starts_with('-') { -LIMIT } else { LIMIT });
    round_to_double(bits, inexact, power.saturating_add(exponent.clamp(-LIMIT, LIMIT)))
}

/// Beyond every exponent a double can have, even after a long row of digits.
const LIMIT: i64 = 1 << 40;

/// The double nearest to `bits` times two to the `power`, ties to even. `inexact` says that the true value is a little
/// larger than that.
fn round_to_double(bits: u64, inexact: bool, power: i64) -> Result<f64, NumberError> {
    if bits == 0 {
        return Ok(0.0);
    }
    let shift = bits.leading_zeros();
    let bits = bits << shift | u64::from(inexact);
    // The value is `bits` / 2^63 times two to the `exponent`, and the highest bit is set.
    let exponent = power - i64::from(shift) + 63;
    if exponent > 1023 {
        return Err(NumberError::Range);
    }
    // A normal double keeps 53 bits, a subnormal one fewer the smaller it is.
    let kept = 53 - (-1022 - exponent).max(0);
    let Ok(kept) = u32::try_from(kept) else { return Ok(0.0) };
    let (whole, rest, half) = if kept == 0 {
        (0, bits, 1 << 63)
    } else {
        let dropped = 64 - kept;
        (bits >> dropped, bits & ((1 << dropped) - 1), 1 << (dropped - 1))
    };
    let rounded = whole + u64::from(rest > half || rest == half && whole & 1 == 1);
    // The implicit leading one of a normal double adds one to the exponent field, and so does a carry.
    let field = u64::try_from(exponent + 1022).unwrap_or(0);
    let value = f64::from_bits((field << 52) + rounded);
    if value.is_finite() { Ok(value) } else { Err(NumberError::Range) }
}

fn split_exponent(text: &str, marker: u8) -> (&str, Option<&str>) {
    match text.bytes().position(|byte| byte.to_ascii_lowercase() == marker) {
        Some(at) => (&text[..at], Some(&text[at + 1..])),
        None => (text, None),
    }
}

fn is_mantissa(text: &str, is_digit: fn(&u8) -> bool) -> bool {
    text.bytes().all(|byte| byte == b'_' || byte == b'.' || is_digit(&byte))
        && text.bytes().filter(|byte| *byte == b'.').count() <= 1
        && text.bytes().any(|byte| is_digit(&byte))
}

fn is_exponent(text: &str) -> bool {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    digits.as_bytes().first().is_some_and(u8::is_ascii_digit)
        && digits.bytes().all(|byte| byte == b'_' || byte.is_ascii_digit())
}

/// Whether every underscore stands between two digits, or between the prefix `0x` and a digit.
fn underscores_separate(text: &str, hexadecimal: bool) -> bool {
    let is_digit = |byte: u8| if hexadecimal { byte.is_ascii_hexdigit() } else { byte.is_ascii_digit() };
    let bytes = text.as_bytes();
    bytes.iter().enumerate().filter(|(_, byte)| **byte == b'_').all(|(at, _)| {
        let before = if at == 0 { hexadecimal } else { is_digit(bytes[at - 1]) };
        before && bytes.get(at + 1).is_some_and(|byte| is_digit(*byte))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn floats_are_read_as_go_reads_them() {
        let good = [
            ("0", 0.0),
            ("-0", -0.0),
            ("+5", 5.0),
            ("1.", 1.0),
            (".5", 0.5),
            ("1e3", 1000.0),
            ("1E-2", 0.01),
            ("1_000.2_5e0_1", 10_002.5),
            ("1e-400", 0.0),
            ("0x1p0", 1.0),
            ("0x1.8p1", 3.0),
            ("-0X.8P+2", -2.0),
            ("0x_1_0p-4", 1.0),
            ("inf", f64::INFINITY),
            ("-Infinity", f64::NEG_INFINITY),
            ("+INF", f64::INFINITY),
            // 2^-1074, the smallest double; half of it is a tie and goes to zero, a little more than half does not.
            ("0x1p-1074", 5e-324),
            ("0x1p-1075", 0.0),
            ("0x1.8p-1075", 5e-324),
            ("0x1p-1076", 0.0),
            ("0x1p-99999999999999999999", 0.0),
            // 2^53 + 1 is a tie and goes to the even side; a bit further down decides otherwise.
            ("0x20000000000001p0", 9_007_199_254_740_992.0),
            ("0x20000000000001.0000000000001p0", 9_007_199_254_740_994.0),
            ("0x1.fffffffffffff7p1023", f64::MAX),
        ];
        for (text, want) in good {
            assert_eq!(float(text).map(f64::to_bits), Ok(want.to_bits()), "{text}");
        }
        assert!(float("NaN").is_ok_and(f64::is_nan));
        let bad = [
            "", " ", ".", "+", "-", "e5", "1e", "1e+", "1 ", " 1", "1,5", "1.5.1", "--1", "0x", "0x1", "0x1.8", "0xp1",
            "0b1", "1__0", "_1", "1_", "1_.5", "1._5", "1_e5", "1e_5", "1e5_", "0x_p1", "-nan", "+NaN", "infinit",
            "0_x1p1", "1p5", "½",
        ];
        for text in bad {
            assert_eq!(float(text), Err(NumberError::Syntax), "{text}");
        }
        for text in [
            "1e309",
            "-1e309",
            "1.7976931348623159e308",
            "0x1p1024",
            "0x1.fffffffffffff8p1023",
            "0x1p99999999999999999999",
        ] {
            assert_eq!(float(text), Err(NumberError::Range), "{text}");
        }
    }

    #[test]
    fn integers_are_read_as_go_reads_them() {
        for (text, want) in [("0", 0), ("+5", 5), ("-5", -5), ("007", 7), ("-0", 0), ("2147483647", i32::MAX)] {
            assert_eq!(int32(text), Ok(want), "{text}");
        }
        for text in ["", "+", "-", "1.0", "1e3", "1_0", "0x1", " 1", "1 "] {
            assert_eq!(int32(text), Err(NumberError::Syntax), "{text}");
        }
        assert_eq!(int32("2147483648"), Err(NumberError::Range));
        assert_eq!(int64("2147483648"), Ok(2_147_483_648));
        assert_eq!(uint32("3"), Ok(3));
        assert_eq!(uint32("+3"), Err(NumberError::Syntax));
        assert_eq!(uint32("-3"), Err(NumberError::Syntax));
    }

    proptest! {
        #[test]
        fn no_text_makes_a_number_panic(text in "[-+0-9a-fxpeE._ ]{0,24}|\\PC{0,12}") {
            let _ = (float(&text), int32(&text), int64(&text), uint32(&text), boolean(&text));
        }

        #[test]
        fn a_float_written_in_hexadecimal_reads_back(bits in any::<u64>()) {
            let value = f64::from_bits(bits);
            prop_assume!(value.is_finite());
            let fraction = bits & ((1 << 52) - 1);
            let field = (bits >> 52) & 0x7ff;
            let (lead, exponent) = if field == 0 { (0, -1022) } else { (1, i64::try_from(field).expect("11 bits") - 1023) };
            let sign = if value.is_sign_negative() { "-" } else { "" };
            let text = format!("{sign}0x{lead}.{fraction:013x}p{exponent}");
            prop_assert_eq!(float(&text).map(f64::to_bits), Ok(bits), "{}", text);
        }
    }
}
