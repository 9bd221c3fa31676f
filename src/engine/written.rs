//! The state of a revision and its inputs as protocol buffer messages, exact to the bit, for other processes and files.
//!
//! # Rule
//!
//! Reading back what was written gives the same state: the same answer to every input from then on. Floats travel as
//! their bits. Instants of a state are absolute, those of an input relative to a base both sides know, which keeps it
//! to some twenty bytes.
//!
//! What is read is not trusted. It is taken only when it could have been written at `now`, a time the writer states:
//! lengths within their limits and as long as they say, every number finite, seconds in order, no instant after `now`
//! but those that are meant to lie ahead. A state that is not is refused whole, with the field and the reason.
//!
//! Fields are only ever added, with a new tag and a meaning for their absence; whatever else changes gets a new
//! [`VERSION`], and versions are not mixed.
//!
//! # Example
//!
//! ```
//! use ebb::engine::Revision;
//! use ebb::units::{Compat, Timestamp};
//!
//! let empty = Revision::default().write();
//! let read = Revision::read(&empty, Timestamp::from_seconds(1000), Compat::IMPROVED).unwrap();
//! assert_eq!(read.write(), empty);
//! ```

use super::cadence::Cadence;
use super::collection::{Collection, Load, Pair};
use super::decider::Decider;
use super::delay::{Candidate, DelayWindow};
use super::keep::{Good, Scrapes};
use super::panic::Panic;
use super::published::Published;
use super::revision::{Event, Inherited, Input, Revision, Running, TICK};
use super::spec::{MetricSpec, Spec};
use super::window::{NEVER, Window};
use crate::units::{Aggregation, Compat, ScalingMetric, Span, Timestamp};
use std::sync::Arc;

/// The version of these messages and of what they mean.
pub const VERSION: u32 = 1;

/// The furthest a stat's own time may lie from when it arrived, both ways, to be read back.
const FURTHEST_REPORT: Span = Span::from_seconds(24 * 60 * 60);

/// Why a written state or input is refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refused {
    /// A part that must be there is not.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A number that is not one.
    #[error("{0} is not a finite number")]
    NotFinite(&'static str),
    /// A number beyond its limits.
    #[error("{field} is {value}; it is from {least} to {most}")]
    OutOfRange {
        /// Which.
        field: &'static str,
        /// What it is.
        value: i64,
        /// The least it may be.
        least: i64,
        /// The most it may be.
        most: i64,
    },
    /// Values that are not in their order.
    #[error("{0} are not in order")]
    Order(&'static str),
}

/// One window.
#[derive(Clone, PartialEq, prost::Message)]
pub struct WindowForm {
    /// Totals per second, as the ring holds them; none when all are zero.
    #[prost(double, repeated, tag = "1")]
    pub buckets: Vec<f64>,
    /// The index of the newest of them.
    #[prost(uint32, tag = "2")]
    pub newest: u32,
    /// First second written to, if any is known.
    #[prost(int64, optional, tag = "3")]
    pub first: Option<i64>,
    /// Last second written to, if any.
    #[prost(int64, optional, tag = "4")]
    pub last: Option<i64>,
    /// Bits of the running total.
    #[prost(fixed64, tag = "5")]
    pub total: u64,
}

/// The settings of the windows.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct WindowsForm {
    /// Nanoseconds.
    #[prost(int64, tag = "1")]
    pub stable_window: i64,
    /// Nanoseconds.
    #[prost(int64, tag = "2")]
    pub panic_window: i64,
    /// Whether pods are scraped.
    #[prost(bool, tag = "3")]
    pub scraped: bool,
    /// Whether averages are weighted exponentially.
    #[prost(bool, tag = "4")]
    pub weighted: bool,
}

/// The windows of a revision.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CollectionForm {
    /// Their settings.
    #[prost(message, optional, tag = "1")]
    pub spec: Option<WindowsForm>,
    /// Concurrency over the stable window.
    #[prost(message, optional, tag = "2")]
    pub concurrency_stable: Option<WindowForm>,
    /// Concurrency over the panic window.
    #[prost(message, optional, tag = "3")]
    pub concurrency_panic: Option<WindowForm>,
    /// Requests per second over the stable window.
    #[prost(message, optional, tag = "4")]
    pub requests_stable: Option<WindowForm>,
    /// Requests per second over the panic window.
    #[prost(message, optional, tag = "5")]
    pub requests_panic: Option<WindowForm>,
}

/// The settings of a decider. Floats as their bits, lengths of time in nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
#[expect(missing_docs, reason = "each is the field of the same name in `Spec`")]
pub struct SpecForm {
    #[prost(fixed64, tag = "1")]
    pub max_scale_up_rate: u64,
    #[prost(fixed64, tag = "2")]
    pub max_scale_down_rate: u64,
    #[prost(bool, tag = "3")]
    pub rps: bool,
    #[prost(fixed64, tag = "4")]
    pub target_value: u64,
    #[prost(fixed64, tag = "5")]
    pub total_value: u64,
    #[prost(fixed64, tag = "6")]
    pub target_burst_capacity: u64,
    #[prost(fixed64, tag = "7")]
    pub activator_capacity: u64,
    #[prost(fixed64, tag = "8")]
    pub panic_threshold: u64,
    #[prost(int64, tag = "9")]
    pub stable_window: i64,
    #[prost(int64, tag = "10")]
    pub scale_down_delay: i64,
    #[prost(int32, tag = "11")]
    pub initial_scale: i32,
    #[prost(int32, tag = "12")]
    pub activation_scale: i32,
    #[prost(bool, tag = "13")]
    pub reachable: bool,
}

/// What a scale-down delay remembers.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DelayForm {
    /// Nanoseconds.
    #[prost(int64, tag = "1")]
    pub length: i64,
    /// Slot of the first record.
    #[prost(int64, tag = "2")]
    pub origin: i64,
    /// Slots of the candidates, oldest first, counted from the origin.
    #[prost(sint32, repeated, tag = "3")]
    pub slots: Vec<i32>,
    /// Their values.
    #[prost(sint32, repeated, tag = "4")]
    pub values: Vec<i32>,
}

/// A decider and what it published. Instants in nanoseconds since 1970.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DeciderForm {
    /// Its settings.
    #[prost(message, optional, tag = "1")]
    pub spec: Option<SpecForm>,
    /// The last cause of panic, while panicking.
    #[prost(int64, optional, tag = "2")]
    pub panicking_since: Option<i64>,
    /// The most pods asked for since panic started.
    #[prost(sint32, tag = "3")]
    pub most: i32,
    /// What the scale-down delay remembers, when there is one.
    #[prost(message, optional, tag = "4")]
    pub delay: Option<DelayForm>,
    /// Pods last wanted.
    #[prost(sint32, optional, tag = "5")]
    pub desired: Option<i32>,
    /// Excess burst capacity last published.
    #[prost(sint32, tag = "6")]
    pub excess_burst: i32,
    /// When the next tick is due.
    #[prost(int64, tag = "7")]
    pub next_tick: i64,
    /// Pods wanted before it was made, while they are kept.
    #[prost(sint32, optional, tag = "8")]
    pub inherited: Option<i32>,
    /// Until when they are kept.
    #[prost(int64, optional, tag = "9")]
    pub inherited_until: Option<i64>,
}

/// One reporter's load. Floats as their bits.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
#[expect(missing_docs, reason = "each is the field of the same name in `Load`")]
pub struct LoadForm {
    #[prost(fixed64, tag = "1")]
    pub concurrency: u64,
    #[prost(fixed64, tag = "2")]
    pub proxied_concurrency: u64,
    #[prost(fixed64, tag = "3")]
    pub requests: u64,
    #[prost(fixed64, tag = "4")]
    pub proxied_requests: u64,
}

/// How scrapes go. Instants in nanoseconds since 1970.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct ScrapesForm {
    /// When the last good one was recorded.
    #[prost(int64, tag = "1")]
    pub at: i64,
    /// What it brought; absent when there is none.
    #[prost(message, optional, tag = "2")]
    pub load: Option<LoadForm>,
    /// The last time for which it was counted.
    #[prost(int64, tag = "3")]
    pub counted: i64,
    /// The first failure since.
    #[prost(int64, optional, tag = "4")]
    pub failing: Option<i64>,
}

/// The engine's state of one revision.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RevisionForm {
    /// Its windows, if it has any.
    #[prost(message, optional, tag = "1")]
    pub windows: Option<CollectionForm>,
    /// Its decider, if it has one.
    #[prost(message, optional, tag = "2")]
    pub decider: Option<DeciderForm>,
    /// How its scrapes go.
    #[prost(message, optional, tag = "3")]
    pub scrapes: Option<ScrapesForm>,
    /// Whether load was reported while there was no decider.
    #[prost(bool, tag = "4")]
    pub awaited: bool,
}

/// One input.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct InputForm {
    /// Whose, by a number both sides know.
    #[prost(uint32, tag = "1")]
    pub revision: u32,
    /// Nanoseconds from the base to its time.
    #[prost(sint64, tag = "2")]
    pub since: i64,
    /// What.
    #[prost(oneof = "EventForm", tags = "3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13")]
    pub event: Option<EventForm>,
}

/// What happened.
#[derive(Clone, Copy, PartialEq, Eq, prost::Oneof)]
pub enum EventForm {
    /// [`Event::Windows`].
    #[prost(message, tag = "3")]
    Windows(WindowsForm),
    /// [`Event::NoWindows`].
    #[prost(bool, tag = "4")]
    NoWindows(bool),
    /// [`Event::Decider`].
    #[prost(message, tag = "5")]
    Decider(NewDeciderForm),
    /// [`Event::NoDecider`].
    #[prost(bool, tag = "6")]
    NoDecider(bool),
    /// [`Event::Reported`].
    #[prost(message, tag = "7")]
    Reported(ReportedForm),
    /// [`Event::Scraped`].
    #[prost(message, tag = "8")]
    Scraped(LoadForm),
    /// [`Event::ScrapeFailed`].
    #[prost(bool, tag = "9")]
    ScrapeFailed(bool),
    /// [`Event::NothingToScrape`].
    #[prost(bool, tag = "10")]
    NothingToScrape(bool),
    /// [`Event::Tick`], with the ready pods.
    #[prost(sint32, tag = "11")]
    Tick(i32),
    /// [`Event::Resumed`], with the ready pods.
    #[prost(sint32, tag = "12")]
    Resumed(i32),
    /// The same, where load was lost on the way.
    #[prost(sint32, tag = "13")]
    ResumedLossy(i32),
}

/// [`Event::Decider`].
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct NewDeciderForm {
    /// Its settings.
    #[prost(message, optional, tag = "1")]
    pub spec: Option<SpecForm>,
    /// Pods ready.
    #[prost(sint32, tag = "2")]
    pub ready: i32,
    /// What was last wanted.
    #[prost(sint32, optional, tag = "3")]
    pub wanted: Option<i32>,
}

/// [`Event::Reported`].
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct ReportedForm {
    /// Nanoseconds from when it arrived to its own time.
    #[prost(sint64, tag = "1")]
    pub at: i64,
    /// The load.
    #[prost(message, optional, tag = "2")]
    pub load: Option<LoadForm>,
    /// Pods ready.
    #[prost(sint32, tag = "3")]
    pub ready: i32,
}

impl Revision {
    /// The state as it can be written down. The explanation of the last decision is not part of it.
    pub fn write(&self) -> RevisionForm {
        let Scrapes { last, failing } = self.scrapes;
        let scrapes = (last.is_some() || failing.is_some()).then(|| ScrapesForm {
            at: last.map_or(0, |last| last.at.nanos()),
            load: last.map(|last| last.load.write()),
            counted: last.map_or(0, |last| last.counted.nanos()),
            failing: failing.map(Timestamp::nanos),
        });
        RevisionForm {
            windows: self.windows.as_ref().map(Collection::write),
            decider: self.decider.as_ref().map(Running::write),
            scrapes,
            awaited: self.awaited,
        }
    }

    /// The state that was written at `now` by the clock of whoever wrote it.
    ///
    /// # Errors
    /// When it cannot have been.
    pub fn read(form: &RevisionForm, now: Timestamp, compat: Compat) -> Result<Self, Refused> {
        Ok(Self {
            windows: form.windows.as_ref().map(|form| Collection::read(form, now)).transpose()?,
            decider: form.decider.as_ref().map(|form| Running::read(form, now, compat)).transpose()?,
            scrapes: form.scrapes.as_ref().map(|form| Scrapes::read(form, now)).transpose()?.unwrap_or_default(),
            awaited: form.awaited,
        })
    }
}

impl Input {
    /// The input of the revision that is known as `revision`, its time relative to `base`.
    pub fn write(&self, revision: u32, base: Timestamp) -> InputForm {
        let event = match &self.event {
            Event::Windows(spec) => EventForm::Windows(spec.write()),
            Event::NoWindows => EventForm::NoWindows(true),
            Event::Decider { spec, ready, wanted } => {
                EventForm::Decider(NewDeciderForm { spec: Some(spec.write()), ready: *ready, wanted: *wanted })
            }
            Event::NoDecider => EventForm::NoDecider(true),
            Event::Reported { at, load, ready } => EventForm::Reported(ReportedForm {
                at: at.since(self.now).nanos(),
                load: Some(load.write()),
                ready: *ready,
            }),
            Event::Scraped { load } => EventForm::Scraped(load.write()),
            Event::ScrapeFailed => EventForm::ScrapeFailed(true),
            Event::NothingToScrape => EventForm::NothingToScrape(true),
            Event::Tick { ready } => EventForm::Tick(*ready),
            Event::Resumed { ready, lossy: false } => EventForm::Resumed(*ready),
            Event::Resumed { ready, lossy: true } => EventForm::ResumedLossy(*ready),
        };
        InputForm { revision, since: self.now.since(base).nanos(), event: Some(event) }
    }

    /// The input that was written, not earlier than `earliest` nor later than `base`.
    ///
    /// # Errors
    /// When it cannot have been.
    pub fn read(form: &InputForm, base: Timestamp, earliest: Timestamp) -> Result<Self, Refused> {
        let now = base + Span::from_nanos(form.since);
        within("the time of an input", now.nanos(), earliest.nanos(), base.nanos())?;
        let event = match form.event.as_ref().ok_or(Refused::Missing("what happened"))? {
            EventForm::Windows(spec) => Event::Windows(MetricSpec::read(spec)),
            EventForm::NoWindows(_) => Event::NoWindows,
            EventForm::Decider(form) => {
                let spec = form.spec.as_ref().ok_or(Refused::Missing("the settings of a decider"))?;
                Event::Decider { spec: Arc::new(Spec::read(spec)?), ready: form.ready, wanted: form.wanted }
            }
            EventForm::NoDecider(_) => Event::NoDecider,
            EventForm::Reported(form) => {
                let far = FURTHEST_REPORT.nanos();
                within("the time of a stat", form.at, -far, far)?;
                let load = form.load.as_ref().ok_or(Refused::Missing("the load of a stat"))?;
                Event::Reported { at: now + Span::from_nanos(form.at), load: Load::read(load), ready: form.ready }
            }
            EventForm::Scraped(load) => Event::Scraped { load: Load::read(load) },
            EventForm::ScrapeFailed(_) => Event::ScrapeFailed,
            EventForm::NothingToScrape(_) => Event::NothingToScrape,
            EventForm::Tick(ready) => Event::Tick { ready: *ready },
            EventForm::Resumed(ready) => Event::Resumed { ready: *ready, lossy: false },
            EventForm::ResumedLossy(ready) => Event::Resumed { ready: *ready, lossy: true },
        };
        Ok(Self { now, event })
    }
}

impl Running {
    fn write(&self) -> DeciderForm {
        DeciderForm {
            spec: Some(self.decider.spec().write()),
            panicking_since: self.decider.panic().since().map(Timestamp::nanos),
            most: self.decider.panic().most(),
            delay: self.decider.delay.as_ref().map(DelayWindow::write),
            desired: self.published.desired,
            excess_burst: self.published.excess_burst,
            next_tick: self.cadence.next().nanos(),
            inherited: self.inherited.map(|inherited| inherited.pods),
            inherited_until: self.inherited.and_then(|inherited| inherited.until).map(Timestamp::nanos),
        }
    }

    fn read(form: &DeciderForm, now: Timestamp, compat: Compat) -> Result<Self, Refused> {
        let spec = Spec::read(form.spec.as_ref().ok_or(Refused::Missing("the settings of a decider"))?)?;
        let since = form.panicking_since.map(|since| past("the last cause of panic", since, now)).transpose()?;
        let delay = form.delay.as_ref().map(|form| DelayWindow::read(form, now)).transpose()?;
        within("the next tick", form.next_tick, 0, (now + TICK).nanos())?;
        let until = form.inherited_until.map(|until| {
            within("the end of what was inherited", until, 0, (now + Window::LONGEST).nanos())
                .map(|()| Timestamp::from_nanos(until))
        });
        let until = until.transpose()?;
        Ok(Self {
            decider: Decider::restored(spec, Panic::restored(since, form.most), delay, compat),
            published: Published { desired: form.desired, excess_burst: form.excess_burst },
            latest: None,
            cadence: Cadence::due(Timestamp::from_nanos(form.next_tick), TICK),
            inherited: form.inherited.map(|pods| Inherited { pods, until }),
        })
    }
}

impl Scrapes {
    fn read(form: &ScrapesForm, now: Timestamp) -> Result<Self, Refused> {
        let last = match &form.load {
            None => None,
            Some(load) => {
                let at = past("the last good scrape", form.at, now)?;
                let counted = past("the last counted scrape", form.counted, now)?;
                if counted < at {
                    return Err(Refused::Order("the times of the last scrape"));
                }
                Some(Good { at, load: Load::read(load), counted })
            }
        };
        let failing = form.failing.map(|failing| past("the first failed scrape", failing, now)).transpose()?;
        Ok(Self { last, failing })
    }
}

impl Collection {
    fn write(&self) -> CollectionForm {
        let stable = &self.concurrency.stable;
        CollectionForm {
            spec: Some(WindowsForm {
                stable_window: stable.length.nanos(),
                panic_window: self.concurrency.panic.length.nanos(),
                scraped: self.scraped,
                weighted: stable.mean.aggregation() == Aggregation::WeightedExponential,
            }),
            concurrency_stable: Some(stable.write()),
            concurrency_panic: Some(self.concurrency.panic.write()),
            requests_stable: Some(self.requests.stable.write()),
            requests_panic: Some(self.requests.panic.write()),
        }
    }

    fn read(form: &CollectionForm, now: Timestamp) -> Result<Self, Refused> {
        let spec = MetricSpec::read(form.spec.as_ref().ok_or(Refused::Missing("the settings of the windows"))?);
        let window = |form: &Option<WindowForm>, length| {
            let form = form.as_ref().ok_or(Refused::Missing("a window"))?;
            Window::read(form, length, spec.aggregation, now)
        };
        let pair = |stable, panic| {
            Ok(Pair { stable: window(stable, spec.stable_window)?, panic: window(panic, spec.panic_window)? })
        };
        Ok(Self {
            concurrency: pair(&form.concurrency_stable, &form.concurrency_panic)?,
            requests: pair(&form.requests_stable, &form.requests_panic)?,
            scraped: spec.scraped,
        })
    }
}

impl Window {
    fn write(&self) -> WindowForm {
        let known = |second| (second != NEVER).then_some(second);
        let zero = self.buckets.iter().all(|bucket| bucket.to_bits() == 0);
        WindowForm {
            buckets: if zero { Vec::new() } else { self.buckets.to_vec() },
            newest: u32::try_from(self.newest).expect("a window has at most 86,400 buckets"),
            first: known(self.first),
            last: known(self.last),
            total: self.total.to_bits(),
        }
    }

    fn read(form: &WindowForm, length: Span, aggregation: Aggregation, now: Timestamp) -> Result<Self, Refused> {
        let mut window = Self::new(length, aggregation);
        let length = window.buckets.len();
        if !form.buckets.is_empty() {
            if form.buckets.len() != length {
                let (value, length) = (form.buckets.len().try_into().unwrap_or(i64::MAX), window.seconds());
                return Err(Refused::OutOfRange {
                    field: "the buckets of a window",
                    value,
                    least: length,
                    most: length,
                });
            }
            if !form.buckets.iter().all(|bucket| bucket.is_finite()) {
                return Err(Refused::NotFinite("a bucket"));
            }
            window.buckets.copy_from_slice(&form.buckets);
        }
        within("the newest bucket", form.newest.into(), 0, window.seconds() - 1)?;
        window.newest = usize::try_from(form.newest).unwrap_or(0);
        window.total = finite("the total of a window", form.total)?;
        if let Some(last) = form.last {
            within("the last second of a window", last, 0, now.second())?;
            window.last = last;
        }
        if let Some(first) = form.first {
            within("the first second of a window", first, 0, window.last)?;
            window.first = first;
        }
        Ok(window)
    }
}

impl DelayWindow {
    fn write(&self) -> DelayForm {
        let candidates = || (0..self.len).map(|index| self.candidates[self.at(index)]);
        DelayForm {
            length: self.length.nanos(),
            origin: self.origin,
            slots: candidates().map(|candidate| candidate.slot).collect(),
            values: candidates().map(|candidate| candidate.value).collect(),
        }
    }

    fn read(form: &DelayForm, now: Timestamp) -> Result<Self, Refused> {
        within("the scale-down delay", form.length, 1, Self::LONGEST.nanos())?;
        within("the first slot of the delay", form.origin, 0, now.second())?;
        let mut window = Self::new(Span::from_nanos(form.length));
        if form.slots.len() != form.values.len() || form.slots.len() > window.candidates.len() {
            return Err(Refused::OutOfRange {
                field: "the slots of the delay",
                value: form.slots.len().try_into().unwrap_or(i64::MAX),
                least: form.values.len().try_into().unwrap_or(i64::MAX),
                most: window.slots(),
            });
        }
        if !form.slots.is_sorted_by(|a, b| a < b) || !form.values.is_sorted_by(|a, b| a > b) {
            return Err(Refused::Order("the slots of the delay"));
        }
        if let (Some(&oldest), Some(&newest)) = (form.slots.first(), form.slots.last()) {
            within("the oldest slot of the delay", oldest.into(), 0, i32::MAX.into())?;
            within("the slots of the delay", i64::from(newest) - i64::from(oldest), 0, window.slots() - 1)?;
        }
        window.origin = form.origin;
        window.len = form.slots.len();
        for (place, (&slot, &value)) in window.candidates.iter_mut().zip(form.slots.iter().zip(&form.values)) {
            *place = Candidate { slot, value };
        }
        Ok(window)
    }
}

impl MetricSpec {
    fn write(&self) -> WindowsForm {
        WindowsForm {
            stable_window: self.stable_window.nanos(),
            panic_window: self.panic_window.nanos(),
            scraped: self.scraped,
            weighted: self.aggregation == Aggregation::WeightedExponential,
        }
    }

    fn read(form: &WindowsForm) -> Self {
        let longest = Window::LONGEST.nanos();
        // Whatever a Metric asks for is brought into range when the windows are made.
        let length = |nanos: i64| Span::from_nanos(nanos.clamp(1, longest));
        Self {
            stable_window: length(form.stable_window),
            panic_window: length(form.panic_window),
            scraped: form.scraped,
            aggregation: if form.weighted { Aggregation::WeightedExponential } else { Aggregation::Linear },
        }
    }
}

impl Spec {
    fn write(&self) -> SpecForm {
        SpecForm {
            max_scale_up_rate: self.max_scale_up_rate.to_bits(),
            max_scale_down_rate: self.max_scale_down_rate.to_bits(),
            rps: self.metric == ScalingMetric::Rps,
            target_value: self.target_value.to_bits(),
            total_value: self.total_value.to_bits(),
            target_burst_capacity: self.target_burst_capacity.to_bits(),
            activator_capacity: self.activator_capacity.to_bits(),
            panic_threshold: self.panic_threshold.to_bits(),
            stable_window: self.stable_window.nanos(),
            scale_down_delay: self.scale_down_delay.nanos(),
            initial_scale: self.initial_scale,
            activation_scale: self.activation_scale,
            reachable: self.reachable,
        }
    }

    fn read(form: &SpecForm) -> Result<Self, Refused> {
        let spec = Self {
            max_scale_up_rate: finite("max-scale-up-rate", form.max_scale_up_rate)?,
            max_scale_down_rate: finite("max-scale-down-rate", form.max_scale_down_rate)?,
            metric: if form.rps { ScalingMetric::Rps } else { ScalingMetric::Concurrency },
            target_value: finite("the target", form.target_value)?,
            total_value: finite("the target before utilization", form.total_value)?,
            target_burst_capacity: finite("the target burst capacity", form.target_burst_capacity)?,
            activator_capacity: finite("the activator capacity", form.activator_capacity)?,
            panic_threshold: finite("the panic threshold", form.panic_threshold)?,
            stable_window: Span::from_nanos(form.stable_window),
            scale_down_delay: Span::from_nanos(form.scale_down_delay),
            initial_scale: form.initial_scale,
            activation_scale: form.activation_scale,
            reachable: form.reachable,
        };
        for (field, value) in [
            ("max-scale-up-rate", spec.max_scale_up_rate),
            ("max-scale-down-rate", spec.max_scale_down_rate),
            ("the target", spec.target_value),
        ] {
            if value <= 0.0 {
                return Err(Refused::OutOfRange { field, value: 0, least: 1, most: i64::MAX });
            }
        }
        Ok(spec)
    }
}

impl Load {
    fn write(&self) -> LoadForm {
        LoadForm {
            concurrency: self.concurrency.to_bits(),
            proxied_concurrency: self.proxied_concurrency.to_bits(),
            requests: self.requests.to_bits(),
            proxied_requests: self.proxied_requests.to_bits(),
        }
    }

    /// Also what is not finite is read: recording refuses it, here as it did there.
    fn read(form: &LoadForm) -> Self {
        Self {
            concurrency: f64::from_bits(form.concurrency),
            proxied_concurrency: f64::from_bits(form.proxied_concurrency),
            requests: f64::from_bits(form.requests),
            proxied_requests: f64::from_bits(form.proxied_requests),
        }
    }
}

fn finite(field: &'static str, bits: u64) -> Result<f64, Refused> {
    let value = f64::from_bits(bits);
    if value.is_finite() { Ok(value) } else { Err(Refused::NotFinite(field)) }
}

fn within(field: &'static str, value: i64, least: i64, most: i64) -> Result<(), Refused> {
    if least <= value && value <= most { Ok(()) } else { Err(Refused::OutOfRange { field, value, least, most }) }
}

fn past(field: &'static str, nanos: i64, now: Timestamp) -> Result<Timestamp, Refused> {
    within(field, nanos, 0, now.nanos())?;
    Ok(Timestamp::from_nanos(nanos))
}

#[cfg(test)]
mod tests {
    use super::super::revision::tests::{START, any_inputs};
    use super::*;
    use proptest::prelude::*;
    use prost::Message as _;

    /// The times inputs may have been made at.
    const LATE: Timestamp = Timestamp::from_seconds(1_785_542_400 + 3_600);

    fn played(inputs: &[Input]) -> (Revision, Timestamp) {
        let mut revision = Revision::default();
        for input in inputs {
            revision.apply(input, Compat::IMPROVED);
        }
        (revision, inputs.last().map_or(START, |input| input.now))
    }

    #[test]
    fn what_cannot_have_been_written_is_refused_with_the_reason() {
        let event = Event::Windows(MetricSpec {
            stable_window: Span::from_seconds(60),
            panic_window: Span::from_seconds(6),
            scraped: true,
            aggregation: Aggregation::Linear,
        });
        let load = Load { concurrency: 3.0, ..Load::default() };
        let (revision, now) =
            played(&[Input { now: START, event }, Input { now: START, event: Event::Scraped { load } }]);
        let good = revision.write();
        assert!(Revision::read(&good, now, Compat::IMPROVED).is_ok());
        let with = |change: &dyn Fn(&mut WindowForm)| {
            let mut form = good.clone();
            change(form.windows.as_mut().and_then(|windows| windows.concurrency_stable.as_mut()).expect("a window"));
            Revision::read(&form, now, Compat::IMPROVED).expect_err("refused").to_string()
        };
        for (change, why) in [
            (
                &(|form: &mut WindowForm| form.buckets.push(0.0)) as &dyn Fn(&mut WindowForm),
                "buckets of a window is 61",
            ),
            (&|form| form.buckets[7] = f64::INFINITY, "a bucket is not a finite number"),
            (&|form| form.total = f64::NAN.to_bits(), "the total of a window is not a finite number"),
            (&|form| form.newest = 60, "the newest bucket is 60; it is from 0 to 59"),
            (&|form| form.last = Some(START.second() + 1), "the last second of a window is"),
            (&|form| form.first = Some(START.second() + 1), "the first second of a window is"),
        ] {
            let told = with(change);
            assert!(told.contains(why), "{told}");
        }
        let mut form = good.clone();
        form.windows.as_mut().expect("windows").requests_panic = None;
        assert_eq!(Revision::read(&form, now, Compat::IMPROVED).err(), Some(Refused::Missing("a window")));
    }

    proptest! {
        #[test]
        fn a_state_that_was_read_back_goes_on_as_the_one_written(
            inputs in any_inputs(), cut in 0_usize..120,
        ) {
            let cut = cut.min(inputs.len());
            let (mut one, now) = played(&inputs[..cut]);
            let bytes = one.write().encode_to_vec();
            let form = RevisionForm::decode(bytes.as_slice()).expect("what was encoded");
            let mut other = match Revision::read(&form, now, Compat::IMPROVED) {
                Ok(other) => other,
                Err(refused) => return Err(TestCaseError::fail(refused.to_string())),
            };
            prop_assert_eq!(other.write().encode_to_vec(), bytes);
            for input in &inputs[cut..] {
                let (a, b) = (one.apply(input, Compat::IMPROVED), other.apply(input, Compat::IMPROVED));
                prop_assert_eq!(a, b);
                if a.evaluated {
                    prop_assert_eq!(format!("{:?}", one.latest()), format!("{:?}", other.latest()));
                }
            }
            prop_assert_eq!(one.write().encode_to_vec(), other.write().encode_to_vec());
        }

        #[test]
        fn inputs_come_back_as_they_were(inputs in any_inputs()) {
            for input in inputs {
                let bytes = input.write(7, LATE).encode_to_vec();
                let form = InputForm::decode(bytes.as_slice()).expect("what was encoded");
                let back = Input::read(&form, LATE, START).expect("what was written");
                // Compared as text, in which one NaN equals another.
                prop_assert_eq!(format!("{back:?}"), format!("{input:?}"));
                prop_assert!(Input::read(&form, LATE, LATE + Span::SECOND).is_err(), "too old");
            }
        }

        #[test]
        fn damaged_states_are_refused_or_harmless(
            inputs in any_inputs(), place in any::<prop::sample::Index>(), byte: u8, length in any::<prop::sample::Index>(),
        ) {
            let (revision, now) = played(&inputs);
            let mut bytes = revision.write().encode_to_vec();
            if bytes.is_empty() {
                return Ok(());
            }
            let truncated = &bytes[..length.index(bytes.len())];
            for bytes in [truncated.to_vec(), { let place = place.index(bytes.len()); bytes[place] = byte; bytes }] {
                let Ok(form) = RevisionForm::decode(bytes.as_slice()) else { continue };
                let Ok(mut revision) = Revision::read(&form, now, Compat::IMPROVED) else { continue };
                for input in &inputs {
                    revision.apply(&Input { now, event: input.event.clone() }, Compat::IMPROVED);
                }
            }
        }
    }
}
