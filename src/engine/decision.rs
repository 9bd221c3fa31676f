//! What the engine answers: a number of pods, the burst it leaves room for, what it saw, and which rules shaped it.

use crate::units::{ScalingMetric, Span, Timestamp};
use arrayvec::ArrayVec;
use std::fmt;

/// Averages of one revision's windows at one instant: the load of the whole revision, not per pod.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Observed {
    /// Over the stable window.
    pub stable: f64,
    /// Over the panic window.
    pub panic: f64,
}

/// How many pods a revision should have, and why. Logs, metrics, the live page and `explain` all render this value.
///
/// The default is no decision at all, only room for one.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Decision {
    /// When it was made.
    pub at: Timestamp,
    /// Pods wanted, before min-scale and max-scale; never negative, unless a number beyond 32 bits is converted as the
    /// reference does.
    pub desired: i32,
    /// Load the ready pods could take beyond the panic average and the target burst capacity; negative keeps the
    /// activator in the path.
    pub excess_burst: i32,
    /// The same before it was made an integer, for the gauge.
    pub excess_burst_exact: f64,
    /// Pods ready when it was made.
    pub ready: i32,
    /// What the windows showed.
    pub observed: Observed,
    /// The metric they show.
    pub metric: ScalingMetric,
    /// Load one pod should carry.
    pub target: f64,
    /// Since when the revision panics (renewed by each cause), if it does.
    pub panicking_since: Option<Timestamp>,
    /// The rules that shaped the number, in the order they acted.
    pub because: ArrayVec<Reason, { Reason::MOST }>,
}

/// One rule that shaped a decision.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Reason {
    /// The stable average divided by the target.
    StableTarget {
        /// What is averaged.
        metric: ScalingMetric,
        /// Stable average.
        load: f64,
        /// Per pod.
        target: f64,
        /// `ceil(load / target)`.
        wanted: f64,
    },
    /// The panic average needs at least the panic threshold times the ready pods, so panic starts or is renewed.
    Panic {
        /// What is averaged.
        metric: ScalingMetric,
        /// Panic average.
        load: f64,
        /// `ceil(load / target)`.
        wanted: f64,
        /// The threshold factor.
        threshold: f64,
        /// Whether this decision started it.
        started: bool,
    },
    /// While panicking the panic average counts too, and it asks for more than the stable one.
    PanicTarget {
        /// What is averaged.
        metric: ScalingMetric,
        /// Panic average.
        load: f64,
        /// Per pod.
        target: f64,
        /// `ceil(load / target)`.
        wanted: f64,
    },
    /// While panicking the number only grows.
    PanicHolds {
        /// The highest number asked for since panic started.
        floor: i32,
        /// What was wanted now.
        wanted: i32,
        /// Its last cause.
        since: Timestamp,
        /// How long without a cause ends it.
        window: Span,
    },
    /// No cause for a whole stable window, so panic ended.
    PanicEnded {
        /// The stable window.
        window: Span,
    },
    /// More was wanted than the up rate allows from the ready pods.
    RateLimitedUp {
        /// What was wanted.
        wanted: f64,
        /// What is allowed.
        limit: f64,
    },
    /// Less was wanted than the down rate allows from the ready pods.
    RateLimitedDown {
        /// What was wanted.
        wanted: f64,
        /// What is allowed.
        limit: f64,
    },
    /// There is load, so at least the activation scale.
    ActivationScale {
        /// The activation scale.
        floor: i32,
        /// What was wanted.
        wanted: i32,
    },
    /// Scrapes fail, and the last load scraped counts again meanwhile.
    HeldLoad {
        /// When it was scraped.
        since: Timestamp,
        /// How long ago that was.
        ago: Span,
    },
    /// Scrapes fail, so the number may not fall.
    Unscraped {
        /// The fewest pods meanwhile.
        kept: i32,
        /// What was wanted now.
        wanted: i32,
        /// The last good scrape, or the first failure where there was none.
        since: Timestamp,
        /// How long ago that was.
        ago: Span,
    },
    /// The autoscaler has just taken over and keeps what was wanted before.
    TakenOver {
        /// What was wanted before.
        kept: i32,
        /// What was wanted now.
        wanted: i32,
        /// For how much longer.
        left: Span,
    },
    /// A higher number asked for within the scale-down delay is kept.
    HeldByDelay {
        /// What was wanted now.
        wanted: i32,
        /// What is kept.
        kept: i32,
        /// The scale-down delay.
        delay: Span,
    },
    /// Raised to min-scale (by the reconciler).
    RaisedToMin {
        /// What was wanted.
        wanted: i32,
        /// Min-scale.
        min: i32,
    },
    /// Raised to the initial scale, not yet reached once (by the reconciler).
    RaisedToInitial {
        /// What was wanted.
        wanted: i32,
        /// The initial scale.
        initial: i32,
    },
    /// Lowered to max-scale (by the reconciler).
    LoweredToMax {
        /// What was wanted.
        wanted: i32,
        /// Max-scale.
        max: i32,
    },
}

impl Reason {
    /// The most reasons one decision can have.
    pub const MOST: usize = 10;

    /// The name of each kind of reason, in the order of their declaration.
    pub const NAMES: [&'static str; 15] = [
        "stable_target",
        "panic",
        "panic_target",
        "panic_holds",
        "panic_ended",
        "rate_limited_up",
        "rate_limited_down",
        "activation_scale",
        "held_load",
        "unscraped",
        "taken_over",
        "held_by_delay",
        "raised_to_min",
        "raised_to_initial",
        "lowered_to_max",
    ];

    /// Where the name of this kind stands in [`Reason::NAMES`].
    pub const fn index(&self) -> usize {
        match self {
            Self::StableTarget { .. } => 0,
            Self::Panic { .. } => 1,
            Self::PanicTarget { .. } => 2,
            Self::PanicHolds { .. } => 3,
            Self::PanicEnded { .. } => 4,
            Self::RateLimitedUp { .. } => 5,
            Self::RateLimitedDown { .. } => 6,
            Self::ActivationScale { .. } => 7,
            Self::HeldLoad { .. } => 8,
            Self::Unscraped { .. } => 9,
            Self::TakenOver { .. } => 10,
            Self::HeldByDelay { .. } => 11,
            Self::RaisedToMin { .. } => 12,
            Self::RaisedToInitial { .. } => 13,
            Self::LoweredToMax { .. } => 14,
        }
    }

    /// Its kind in one word, such as `stable_target`.
    pub const fn name(&self) -> &'static str {
        Self::NAMES[self.index()]
    }

    fn fold(&self, fold: &mut Fold) {
        fold.add(self.index() as u64);
        match *self {
            Self::StableTarget { metric: _, load, target, wanted }
            | Self::PanicTarget { metric: _, load, target, wanted } => {
                fold.all([load, target, wanted].map(f64::to_bits));
            }
            Self::Panic { metric: _, load, wanted, threshold, started } => {
                fold.all([load, wanted, threshold].map(f64::to_bits));
                fold.add(started.into());
            }
            Self::PanicHolds { floor, wanted, since, window } => {
                fold.all([floor.into(), wanted.into(), since.nanos(), window.nanos()].map(bits));
            }
            Self::PanicEnded { window } => fold.add(bits(window.nanos())),
            Self::RateLimitedUp { wanted, limit } | Self::RateLimitedDown { wanted, limit } => {
                fold.all([wanted, limit].map(f64::to_bits));
            }
            Self::ActivationScale { floor: one, wanted: other }
            | Self::RaisedToMin { wanted: one, min: other }
            | Self::RaisedToInitial { wanted: one, initial: other }
            | Self::LoweredToMax { wanted: one, max: other } => fold.all([one.into(), other.into()].map(bits)),
            Self::HeldLoad { since, ago } => fold.all([since.nanos(), ago.nanos()].map(bits)),
            Self::Unscraped { kept, wanted, since, ago } => {
                fold.all([kept.into(), wanted.into(), since.nanos(), ago.nanos()].map(bits));
            }
            Self::TakenOver { kept, wanted, left } => {
                fold.all([kept.into(), wanted.into(), left.nanos()].map(bits));
            }
            Self::HeldByDelay { wanted, kept, delay } => {
                fold.all([wanted.into(), kept.into(), delay.nanos()].map(bits));
            }
        }
    }

    /// Whether it gave the number another value, rather than only telling that panic begins, goes on or ends, or that
    /// load is not known.
    const fn decides(&self) -> bool {
        match *self {
            Self::Panic { .. } | Self::PanicEnded { .. } | Self::HeldLoad { .. } => false,
            Self::Unscraped { kept, wanted, .. } => wanted < kept,
            _ => true,
        }
    }
}

/// A decision in sixteen bytes: enough to tell whether another one is the same, bit for bit, reasons included.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Print {
    /// Pods wanted.
    pub desired: i32,
    /// Made of every bit of the decision but its time.
    pub bits: u64,
}

/// Folds values into 64 bits, as Fowler, Noll and Vo do.
struct Fold(u64);

impl Fold {
    fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn add(&mut self, bits: u64) {
        for byte in bits.to_le_bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn all<const N: usize>(&mut self, bits: [u64; N]) {
        for bits in bits {
            self.add(bits);
        }
    }
}

/// The bits of a signed number.
const fn bits(number: i64) -> u64 {
    number.cast_unsigned()
}

impl Decision {
    /// The decision in short.
    pub fn print(&self) -> Print {
        let mut fold = Fold::new();
        fold.all([
            bits(self.desired.into()),
            bits(self.excess_burst.into()),
            self.excess_burst_exact.to_bits(),
            bits(self.ready.into()),
            self.observed.stable.to_bits(),
            self.observed.panic.to_bits(),
            u64::from(self.metric == ScalingMetric::Rps),
            self.target.to_bits(),
            self.panicking_since.map_or(u64::MAX, |since| bits(since.nanos())),
        ]);
        self.because.iter().for_each(|reason| reason.fold(&mut fold));
        Print { desired: self.desired, bits: fold.0 }
    }

    /// The rule that gave the number its value: the last one that acted on it.
    pub fn deciding(&self) -> Option<&Reason> {
        self.because.iter().rev().find(|reason| reason.decides())
    }
}

/// The number, then each rule in the order it acted.
impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Pods(self.desired))?;
        for (index, reason) in self.because.iter().enumerate() {
            f.write_str(if index == 0 { ": " } else { "; " })?;
            write!(f, "{reason}")?;
        }
        Ok(())
    }
}

/// One plain fragment of a sentence with the numbers.
impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::StableTarget { metric, load, target, wanted } => {
                write!(f, "{} / target {} = {}", Amount(load, metric), Figure(target), Whole(wanted))
            }
            Self::Panic { metric, load, wanted, threshold, started } => write!(
                f,
                "panic {}: the last seconds' {} need {}, at least {} times the ready ones",
                if started { "starts" } else { "goes on" },
                Amount(load, metric),
                Whole(wanted),
                Figure(threshold),
            ),
            Self::PanicTarget { metric, load, target, wanted } => write!(
                f,
                "while panicking the last seconds count too: {} / target {} = {}",
                Amount(load, metric),
                Figure(target),
                Whole(wanted),
            ),
            Self::PanicHolds { floor, wanted, since: _, window } => write!(
                f,
                "panic keeps the {} it reached ({wanted} would do) until it has had no cause for {window}",
                Pods(floor),
            ),
            Self::PanicEnded { window } => write!(f, "panic ends, it has had no cause for {window}"),
            Self::RateLimitedUp { wanted, limit } => {
                write!(f, "max-scale-up-rate allows {} from the ready ones ({wanted:.0} wanted)", Whole(limit))
            }
            Self::RateLimitedDown { wanted, limit } => {
                write!(f, "max-scale-down-rate keeps {} of the ready ones ({:.0} wanted)", Whole(limit), wanted + 0.0)
            }
            Self::ActivationScale { floor, wanted } => {
                write!(f, "activation-scale asks for {} while there is any load ({wanted} wanted)", Pods(floor))
            }
            Self::HeldLoad { since: _, ago } => {
                write!(f, "no scrape has succeeded for {ago}, so the last load scraped counts again")
            }
            Self::Unscraped { kept, wanted, since: _, ago } => write!(
                f,
                "no scrape has succeeded for {ago}, so no fewer than {} ({wanted} wanted by what else is known)",
                Pods(kept),
            ),
            Self::TakenOver { kept, wanted, left } => write!(
                f,
                "just taken over: what was wanted before, {}, is kept for {left} more ({wanted} would do)",
                Pods(kept),
            ),
            Self::HeldByDelay { wanted, kept, delay } => {
                write!(f, "{} wanted within the scale-down-delay of {delay} are kept ({wanted} would do)", Pods(kept))
            }
            Self::RaisedToMin { wanted, min } => write!(f, "min-scale keeps {} ({})", Pods(min), Wanted(wanted)),
            Self::RaisedToInitial { wanted, initial } => {
                write!(f, "initial-scale asks for {} until they were ready once ({})", Pods(initial), Wanted(wanted))
            }
            Self::LoweredToMax { wanted, max } => write!(f, "max-scale allows {} ({})", Pods(max), Wanted(wanted)),
        }
    }
}

/// A number of pods in words: `1 pod`, `5 pods`.
pub(super) struct Pods(pub(super) i32);

impl fmt::Display for Pods {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.0, if self.0 == 1 { "pod" } else { "pods" })
    }
}

/// What was wanted before a bound; negative is not known yet.
struct Wanted(i32);

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 < 0 { f.write_str("nothing decided yet") } else { write!(f, "{} wanted", self.0) }
    }
}

/// Pods as a float without a fraction.
struct Whole(f64);

impl fmt::Display for Whole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Adding zero drops the sign of a negative zero.
        write!(f, "{:.0} {}", self.0 + 0.0, if self.0 == 1.0 { "pod" } else { "pods" })
    }
}

/// A load in the words of its metric.
struct Amount(f64, ScalingMetric);

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.1 {
            ScalingMetric::Concurrency => "requests in flight",
            ScalingMetric::Rps => "requests per second",
        };
        write!(f, "{} {what}", Figure(self.0))
    }
}

/// A real number with one to six decimals, as many as it has.
struct Figure(f64);

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{:.6}", self.0 + 0.0);
        let short = text.trim_end_matches('0');
        f.write_str(short)?;
        if short.ends_with('.') { f.write_str("0") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ScalingMetric::{Concurrency, Rps};

    #[test]
    fn every_reason_is_a_sentence_with_its_numbers() {
        let window = Span::from_seconds(60);
        for (reason, want) in [
            (
                Reason::StableTarget { metric: Concurrency, load: 35.0, target: 7.0, wanted: 5.0 },
                "35.0 requests in flight / target 7.0 = 5 pods",
            ),
            (
                Reason::StableTarget { metric: Rps, load: 0.333_333, target: 140.0, wanted: 1.0 },
                "0.333333 requests per second / target 140.0 = 1 pod",
            ),
            (
                Reason::StableTarget { metric: Concurrency, load: -0.0, target: 0.01, wanted: -0.0 },
                "0.0 requests in flight / target 0.01 = 0 pods",
            ),
            (
                Reason::Panic { metric: Concurrency, load: 141.0, wanted: 3.0, threshold: 2.0, started: true },
                "panic starts: the last seconds' 141.0 requests in flight need 3 pods, at least 2.0 times the ready ones",
            ),
            (
                Reason::Panic { metric: Rps, load: 600.0, wanted: 5.0, threshold: 1.5, started: false },
                "panic goes on: the last seconds' 600.0 requests per second need 5 pods, at least 1.5 times the ready \
                 ones",
            ),
            (
                Reason::PanicTarget { metric: Concurrency, load: 21.0, target: 7.0, wanted: 3.0 },
                "while panicking the last seconds count too: 21.0 requests in flight / target 7.0 = 3 pods",
            ),
            (
                Reason::PanicHolds { floor: 7, wanted: 3, since: Timestamp::default(), window },
                "panic keeps the 7 pods it reached (3 would do) until it has had no cause for 1m0s",
            ),
            (Reason::PanicEnded { window }, "panic ends, it has had no cause for 1m0s"),
            (
                Reason::RateLimitedUp { wanted: 100.0, limit: 11.0 },
                "max-scale-up-rate allows 11 pods from the ready ones (100 wanted)",
            ),
            (
                Reason::RateLimitedDown { wanted: 0.0, limit: 5.0 },
                "max-scale-down-rate keeps 5 pods of the ready ones (0 wanted)",
            ),
            (
                Reason::ActivationScale { floor: 5, wanted: 1 },
                "activation-scale asks for 5 pods while there is any load (1 wanted)",
            ),
            (
                Reason::HeldLoad { since: Timestamp::default(), ago: Span::from_seconds(12) },
                "no scrape has succeeded for 12s, so the last load scraped counts again",
            ),
            (
                Reason::Unscraped { kept: 3, wanted: 0, since: Timestamp::default(), ago: Span::from_seconds(75) },
                "no scrape has succeeded for 1m15s, so no fewer than 3 pods (0 wanted by what else is known)",
            ),
            (
                Reason::TakenOver { kept: 1, wanted: 0, left: Span::from_seconds(58) },
                "just taken over: what was wanted before, 1 pod, is kept for 58s more (0 would do)",
            ),
            (
                Reason::HeldByDelay { wanted: 1, kept: 5, delay: Span::from_seconds(6) },
                "5 pods wanted within the scale-down-delay of 6s are kept (1 would do)",
            ),
            (Reason::RaisedToMin { wanted: 0, min: 1 }, "min-scale keeps 1 pod (0 wanted)"),
            (
                Reason::RaisedToInitial { wanted: -1, initial: 3 },
                "initial-scale asks for 3 pods until they were ready once (nothing decided yet)",
            ),
            (Reason::LoweredToMax { wanted: 9, max: 5 }, "max-scale allows 5 pods (9 wanted)"),
        ] {
            assert_eq!(reason.to_string(), want);
        }
    }

    #[test]
    fn a_decision_is_its_number_and_its_reasons() {
        let mut decision = Decision {
            at: Timestamp::default(),
            desired: 5,
            excess_burst: 0,
            excess_burst_exact: 0.0,
            ready: 5,
            observed: Observed { stable: 7.0, panic: 7.0 },
            metric: Concurrency,
            target: 7.0,
            panicking_since: None,
            because: ArrayVec::new(),
        };
        assert_eq!(decision.to_string(), "5 pods");
        decision.because.push(Reason::StableTarget { metric: Concurrency, load: 7.0, target: 7.0, wanted: 1.0 });
        decision.because.push(Reason::PanicEnded { window: Span::from_seconds(60) });
        assert_eq!(decision.deciding().map(Reason::name), Some("stable_target"), "an end of panic decides nothing");
        decision.because.pop();
        decision.because.push(Reason::HeldByDelay { wanted: 1, kept: 5, delay: Span::from_seconds(6) });
        assert_eq!(decision.deciding().map(Reason::name), Some("held_by_delay"));
        assert_eq!(
            decision.to_string(),
            "5 pods: 7.0 requests in flight / target 7.0 = 1 pod; \
             5 pods wanted within the scale-down-delay of 6s are kept (1 would do)"
        );
    }
}
