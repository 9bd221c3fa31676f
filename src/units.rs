//! The values everything else is made of: instants, lengths of time, pod counts, keys, and the
//! compatibility switches. Every rounding and every conversion between `f64` and an integer is here.
//!
//! This module knows only `std`. It never reads a clock.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Nanoseconds in one second.
pub const NANOS_PER_SECOND: i64 = 1_000_000_000;

/// An instant: nanoseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The instant `nanos` nanoseconds after the Unix epoch.
    pub const fn from_nanos(nanos: i64) -> Self {
        Self(nanos)
    }

    /// The instant `seconds` whole seconds after the Unix epoch, saturating.
    pub const fn from_seconds(seconds: i64) -> Self {
        Self(seconds.saturating_mul(NANOS_PER_SECOND))
    }

    /// Nanoseconds since the Unix epoch.
    pub const fn nanos(self) -> i64 {
        self.0
    }

    /// The whole second this instant lies in, counted from the Unix epoch (floor).
    pub const fn second(self) -> i64 {
        self.0.div_euclid(NANOS_PER_SECOND)
    }

    /// The start of the second this instant lies in.
    #[must_use]
    pub const fn truncated(self) -> Self {
        Self(self.second() * NANOS_PER_SECOND)
    }

    /// How long after `earlier` this is; negative when it is before.
    pub const fn since(self, earlier: Self) -> Span {
        Span(self.0.saturating_sub(earlier.0))
    }
}

impl std::ops::Add<Span> for Timestamp {
    type Output = Self;
    fn add(self, span: Span) -> Self {
        Self(self.0.saturating_add(span.0))
    }
}

impl std::ops::Sub<Span> for Timestamp {
    type Output = Self;
    fn sub(self, span: Span) -> Self {
        Self(self.0.saturating_sub(span.0))
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:09}", self.second(), self.0.rem_euclid(NANOS_PER_SECOND))
    }
}

/// A signed length of time in nanoseconds, the range and resolution of a Go `time.Duration`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Span(i64);

impl Span {
    /// No time at all.
    pub const ZERO: Self = Self(0);
    /// One second.
    pub const SECOND: Self = Self(NANOS_PER_SECOND);

    /// `nanos` nanoseconds.
    pub const fn from_nanos(nanos: i64) -> Self {
        Self(nanos)
    }

    /// `millis` milliseconds, saturating.
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis.saturating_mul(1_000_000))
    }

    /// `seconds` seconds, saturating.
    pub const fn from_seconds(seconds: i64) -> Self {
        Self(seconds.saturating_mul(NANOS_PER_SECOND))
    }

    /// The length in nanoseconds.
    pub const fn nanos(self) -> i64 {
        self.0
    }

    /// The length in seconds, nearest double.
    #[expect(clippy::cast_precision_loss, reason = "for display and metrics, where 2^-53 is nothing")]
    pub fn seconds_f64(self) -> f64 {
        self.0 as f64 / 1e9
    }

    /// The length in whole seconds, rounded up.
    pub const fn seconds_up(self) -> i64 {
        let whole = self.0.div_euclid(NANOS_PER_SECOND);
        if self.0.rem_euclid(NANOS_PER_SECOND) == 0 { whole } else { whole + 1 }
    }

    /// Cut to whole milliseconds, towards zero: what was measured is told to people no finer than that.
    #[must_use]
    pub const fn whole_millis(self) -> Self {
        Self(self.0 - self.0 % 1_000_000)
    }

    /// As a `std` duration; a negative length becomes zero.
    pub fn to_std(self) -> std::time::Duration {
        std::time::Duration::from_nanos(u64::try_from(self.0).unwrap_or(0))
    }

    /// From a `std` duration, saturating.
    pub fn from_std(duration: std::time::Duration) -> Self {
        Self(i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX))
    }
}

impl std::ops::Add for Span {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl std::ops::Sub for Span {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

/// As Go prints a duration: `1h30m0s`, `1.5s`, `300ms`, `0s`.
impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn decimal(f: &mut fmt::Formatter<'_>, value: u64, unit: u64, suffix: &str) -> fmt::Result {
            let (whole, rest) = (value / unit, value % unit);
            if rest == 0 {
                return write!(f, "{whole}{suffix}");
            }
            let width = unit.ilog10() as usize;
            let digits = format!("{rest:0width$}");
            write!(f, "{whole}.{}{suffix}", digits.trim_end_matches('0'))
        }
        let total = self.0.unsigned_abs();
        if total == 0 {
            return f.write_str("0s");
        }
        if self.0 < 0 {
            f.write_str("-")?;
        }
        match total {
            ..1_000 => decimal(f, total, 1, "ns"),
            1_000..1_000_000 => decimal(f, total, 1_000, "µs"),
            1_000_000..1_000_000_000 => decimal(f, total, 1_000_000, "ms"),
            _ => {
                let (hours, rest) = (total / 3_600_000_000_000, total % 3_600_000_000_000);
                let (minutes, rest) = (rest / 60_000_000_000, rest % 60_000_000_000);
                if hours > 0 {
                    write!(f, "{hours}h")?;
                }
                if hours > 0 || minutes > 0 {
                    write!(f, "{minutes}m")?;
                }
                decimal(f, rest, 1_000_000_000, "s")
            }
        }
    }
}

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Rounded to six decimals, halves away from zero. It keeps the drift of a running total from asking for one pod more.
pub fn round_to_millionth(value: f64) -> f64 {
    round(value * 1e6) / 1e6
}

/// From here on there are no fractions between floats.
const WHOLE: f64 = 4_503_599_627_370_496.0;

/// `value` rounded up to a whole number, as [`f64::ceil`], which is a call into a library where the processor built for
/// has no instruction for it.
#[inline]
pub fn ceil(value: f64) -> f64 {
    let cut = trunc(value);
    if cut < value { cut + 1.0 } else { cut }
}

/// `value` rounded down to a whole number, as [`f64::floor`]; see [`ceil`].
#[inline]
pub fn floor(value: f64) -> f64 {
    -ceil(-value)
}

/// `value` rounded to the nearest whole number, halves away from zero, as [`f64::round`]; see [`ceil`].
#[inline]
pub fn round(value: f64) -> f64 {
    let cut = trunc(value);
    if (value - cut).abs() >= 0.5 { cut + 1.0_f64.copysign(value) } else { cut }
}

#[inline]
#[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "below `WHOLE` both are exact")]
fn trunc(value: f64) -> f64 {
    if value.abs() < WHOLE { (value as i64 as f64).copysign(value) } else { value }
}

/// The smaller of two floats, NaN when either is NaN (`f64::min` would drop it); infinity wins over NaN as in Go.
#[inline]
pub fn min(a: f64, b: f64) -> f64 {
    if a < b {
        a
    } else if b < a {
        b
    } else if a == f64::NEG_INFINITY || b == f64::NEG_INFINITY {
        f64::NEG_INFINITY
    } else if a.is_nan() || b.is_nan() {
        f64::NAN
    } else {
        a.min(b)
    }
}

/// The larger of two floats, NaN when either is NaN (`f64::max` would drop it); infinity wins over NaN as in Go.
#[inline]
pub fn max(a: f64, b: f64) -> f64 {
    -min(-a, -b)
}

/// A float as a 32-bit integer, fraction cut off. Out of range it saturates and NaN becomes 0.
#[expect(clippy::cast_possible_truncation, reason = "this is the one place that rounds; `as` saturates")]
pub fn saturating_i32(value: f64) -> i32 {
    value as i32
}

/// A count as a float; exact for any number of things there can be.
#[expect(clippy::cast_precision_loss, reason = "exact up to 2^53")]
pub fn count_f64(count: usize) -> f64 {
    count as f64
}

/// A float as a 32-bit integer the way the reference's compiler does it on amd64: anything out of range, and NaN,
/// is `i32::MIN`.
pub fn amd64_i32(value: f64) -> i32 {
    if value > -2_147_483_649.0 && value < 2_147_483_648.0 { saturating_i32(value) } else { i32::MIN }
}

/// `namespace/name`: names a revision, and equally its PodAutoscaler, Metric and ServerlessService.
///
/// Cheap to clone; one allocation however many copies there are.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RevisionKey {
    text: Arc<str>,
}

impl RevisionKey {
    /// The key of `name` in `namespace`.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { text: format!("{namespace}/{name}").into() }
    }

    /// The part before the first slash.
    pub fn namespace(&self) -> &str {
        self.text.split_once('/').map_or("", |(namespace, _)| namespace)
    }

    /// The part after the first slash.
    pub fn name(&self) -> &str {
        self.text.split_once('/').map_or(&*self.text, |(_, name)| name)
    }

    /// The whole `namespace/name`, as it is hashed to a bucket.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for RevisionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for RevisionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A text that is not `namespace/name`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevisionKeyError(String);

impl fmt::Display for RevisionKeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is not NAMESPACE/NAME, such as default/hello-00001", self.0)
    }
}

impl std::error::Error for RevisionKeyError {}

impl FromStr for RevisionKey {
    type Err = RevisionKeyError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
                Ok(Self::new(namespace, name))
            }
            _ => Err(RevisionKeyError(text.to_owned())),
        }
    }
}

/// A revision, and a number that stands for it where it is spoken of often.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Numbered {
    /// The number, which is no other revision's there.
    pub number: u32,
    /// Whose it is.
    pub key: RevisionKey,
}

/// What a revision is scaled on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub enum ScalingMetric {
    /// Requests in flight.
    #[default]
    Concurrency,
    /// Requests per second.
    Rps,
}

impl fmt::Display for ScalingMetric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Concurrency => "concurrency",
            Self::Rps => "rps",
        })
    }
}

/// How the buckets of a window are averaged.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub enum Aggregation {
    /// Every second weighs the same.
    #[default]
    Linear,
    /// The newest second weighs most, each older one a fixed fraction less.
    WeightedExponential,
}

/// The sharp edges of the reference that Ebb rounds off, one switch each. `false` is the reference's behaviour.
///
/// What merely never hangs, crashes or leaks has no switch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Compat {
    /// A changed scale-down delay takes effect on a running decider (the reference keeps the one it was created with).
    pub live_scale_down_delay: bool,
    /// A window that grows keeps the true start of its data (the reference moves it back by the old length, which
    /// dilutes a young average).
    pub resize_keeps_start: bool,
    /// A float beyond 32 bits saturates and NaN is 0 (the reference's result is the platform's; on amd64 the minimum).
    pub saturate: bool,
    /// Giving up an activation is looked at again when its time-out is due (the reference waits a whole time-out from
    /// each look, up to twice as long).
    pub exact_activation_timeout: bool,
    /// A stat from the future or from before the window is moved to its nearest edge (the reference lets a fast clock
    /// advance the window and drops what is old).
    pub clamp_stat_time: bool,
    /// `NaN` and infinities in annotations and ConfigMaps are refused (in the reference they pass most range checks).
    pub finite_settings: bool,
    /// Load for a revision without a first decision is decided on at once (the reference waits for its next tick).
    pub poke_undecided: bool,
    /// That pods cannot be reached directly is remembered while the scrape target stays the same (the reference forgets
    /// it with every reconcile).
    pub remember_mesh: bool,
    /// A scrape cancelled because a sibling failed does not count as proof that there is no mesh.
    pub cancelled_scrape_is_no_verdict: bool,
    /// A queue-proxy that answers a scrape in Prometheus text is understood (the reference calls the metric type
    /// unsupported).
    pub text_scrapes: bool,
    /// A stat no reporter can have measured (`NaN`, infinite, negative beyond an activator's own correction, absurdly
    /// large) is refused and counted (the reference records it, and a window may not recover from it).
    pub refuse_bad_stats: bool,
    /// A stat connection for a bucket this replica does not own is refused with 503 and a reason (the reference answers
    /// an empty 200, which is no handshake either).
    pub say_not_owner: bool,
    /// Where the cluster does not say how fast a lost owner is replaced, leases last 4 s (in the reference 60 s).
    pub fast_takeover: bool,
    /// A replica that could not renew a lease in time stops writing, keeps what it knows, and goes on if nobody took
    /// the lease meanwhile (the reference gives the lease up).
    pub resume_lease: bool,
    /// While the scrapes of ready pods fail, the last good one counts again, and then nothing is taken away (the
    /// reference lets the window run dry, in which one evaluation may see no load).
    pub hold_last_scrape: bool,
    /// A decider made for a revision that has been running keeps what was last wanted until it has seen a stable window
    /// of load (the reference does so for more than one ready pod only).
    pub takeover_hold: bool,
    /// A stat of a revision whose windows or decider are not made yet is kept until they are, and both are made at once
    /// (the reference drops it).
    pub keep_early_stats: bool,
    /// Another replica mirrors the owner's windows and deciders and goes on with them when it becomes the owner (the
    /// reference starts with empty ones).
    pub warm_standby: bool,
    /// Metrics say what they are named for: averages follow the metric a revision scales on now, response codes other
    /// than 200 are told, and the work under way is a sum beside the longest (the reference fixes the first when a decider
    /// is made, inverts the second, and shows the longest in place of the sum).
    pub live_metric_gauges: bool,
}

impl Compat {
    /// Exactly the reference, sharp edges included.
    pub const STRICT: Self = Self {
        live_scale_down_delay: false,
        resize_keeps_start: false,
        saturate: false,
        exact_activation_timeout: false,
        clamp_stat_time: false,
        finite_settings: false,
        poke_undecided: false,
        remember_mesh: false,
        cancelled_scrape_is_no_verdict: false,
        text_scrapes: false,
        refuse_bad_stats: false,
        say_not_owner: false,
        fast_takeover: false,
        resume_lease: false,
        hold_last_scrape: false,
        takeover_hold: false,
        keep_early_stats: false,
        warm_standby: false,
        live_metric_gauges: false,
    };

    /// Every improvement on; the default.
    pub const IMPROVED: Self = Self {
        live_scale_down_delay: true,
        resize_keeps_start: true,
        saturate: true,
        exact_activation_timeout: true,
        clamp_stat_time: true,
        finite_settings: true,
        poke_undecided: true,
        remember_mesh: true,
        cancelled_scrape_is_no_verdict: true,
        text_scrapes: true,
        refuse_bad_stats: true,
        say_not_owner: true,
        fast_takeover: true,
        resume_lease: true,
        hold_last_scrape: true,
        takeover_hold: true,
        keep_early_stats: true,
        warm_standby: true,
        live_metric_gauges: true,
    };

    /// `value` as a 32-bit integer under the rule in force.
    pub fn to_i32(self, value: f64) -> i32 {
        if self.saturate { saturating_i32(value) } else { amd64_i32(value) }
    }
}

impl Default for Compat {
    fn default() -> Self {
        Self::IMPROVED
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Floats of any kind, and those about which a mistake is easily made.
    fn floats() -> impl Strategy<Value = f64> {
        let edges =
            [0.0, 0.499_999_999_999_999_94, 0.5, 1.0, 1.5, 2.5, WHOLE - 0.5, WHOLE, WHOLE + 1.0, f64::MAX, f64::NAN];
        let near = prop::sample::select(edges.to_vec()).prop_flat_map(|edge| {
            prop::sample::select(vec![edge, -edge, edge.next_up(), edge.next_down(), 1.0 / edge, -edge.next_up()])
        });
        prop_oneof![any::<u64>().prop_map(f64::from_bits), near, -1e6..1e6, -3.0..3.0]
    }

    proptest! {
        #[test]
        fn rounding_is_that_of_the_standard_library(value in floats()) {
            let same = |ours: f64, theirs: f64| ours.to_bits() == theirs.to_bits() || ours.is_nan() && theirs.is_nan();
            prop_assert!(same(ceil(value), value.ceil()), "{} {}", ceil(value), value.ceil());
            prop_assert!(same(floor(value), value.floor()), "{} {}", floor(value), value.floor());
            prop_assert!(same(round(value), value.round()), "{} {}", round(value), value.round());
            let cut = value.trunc();
            let theirs = if (-2_147_483_648.0..=2_147_483_647.0).contains(&cut) { saturating_i32(cut) } else { i32::MIN };
            prop_assert_eq!(amd64_i32(value), theirs);
        }
    }

    #[test]
    fn spans_print_as_go_prints_durations() {
        let cases = [
            (0, "0s"),
            (1, "1ns"),
            (1_500, "1.5µs"),
            (300_000_000, "300ms"),
            (1_500_000_000, "1.5s"),
            (60_000_000_000, "1m0s"),
            (5_400_000_000_000, "1h30m0s"),
            (-5_000_000_000, "-5s"),
        ];
        for (nanos, want) in cases {
            assert_eq!(Span::from_nanos(nanos).to_string(), want);
        }
    }

    #[test]
    fn floats_beyond_32_bits_follow_the_rule_in_force() {
        for (value, saturated, amd64) in [
            (1.9, 1, 1),
            (-1.9, -1, -1),
            (2_147_483_647.5, i32::MAX, i32::MAX),
            (2_147_483_648.0, i32::MAX, i32::MIN),
            (-2_147_483_648.9, i32::MIN, i32::MIN),
            (f64::NAN, 0, i32::MIN),
            (f64::INFINITY, i32::MAX, i32::MIN),
        ] {
            assert_eq!(Compat::IMPROVED.to_i32(value), saturated, "{value}");
            assert_eq!(Compat::STRICT.to_i32(value), amd64, "{value}");
        }
    }

    #[test]
    fn keys_come_apart_at_the_slash() {
        let key: RevisionKey = "default/hello-00001".parse().expect("a key");
        assert_eq!((key.namespace(), key.name()), ("default", "hello-00001"));
        for bad in ["", "x", "/x", "x/", "a/b/c"] {
            assert!(bad.parse::<RevisionKey>().is_err(), "{bad}");
        }
    }
}
