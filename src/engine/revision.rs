//! Everything the engine remembers of one revision, and the inputs that are all that ever changes it.
//!
//! # Rule
//!
//! A revision's windows and its decider come and go independently. Between that, stats are recorded and ticks decide. A
//! stat decides at once when it is the first load of a revision at zero, or one that has not been decided on.
//!
//! Each of these is an [`Event`] at an instant, together an [`Input`], and carries whatever it depended on: the ready
//! pods, the settings. So the same inputs in the same order give the same state and the same decisions bit for bit, in
//! this process, in one that mirrors it, and in one that reads them back from a file.
//!
//! # Example
//!
//! ```
//! use ebb::engine::{Event, Input, Load, MetricSpec, Revision};
//! use ebb::units::{Aggregation, Compat, Span, Timestamp};
//!
//! let now = Timestamp::from_seconds(1000);
//! let windows = MetricSpec {
//!     stable_window: Span::from_seconds(60),
//!     panic_window: Span::from_seconds(6),
//!     scraped: true,
//!     aggregation: Aggregation::Linear,
//! };
//! let (mut one, mut other) = (Revision::default(), Revision::default());
//! for revision in [&mut one, &mut other] {
//!     revision.apply(&Input { now, event: Event::Windows(windows) }, Compat::IMPROVED);
//!     let load = Load { concurrency: 3.0, ..Load::default() };
//!     revision.apply(&Input { now, event: Event::Scraped { load } }, Compat::IMPROVED);
//! }
//! assert_eq!(one.write(), other.write());
//! ```
//!
//! # Source
//!
//! Knative Serving, `pkg/autoscaler/scaling/multiscaler.go`: `scalerRunner`, `Poke`;
//! `pkg/autoscaler/metrics/collector.go`: `MetricCollector`.
//!
//! # Differences
//!
//! See [`keep`](super::keep), [`published`](super::published), and [`Compat::keep_early_stats`]: load that was reported
//! before there was a decider is decided on as soon as there is one.

use super::burst::initial_excess_burst;
use super::cadence::Cadence;
use super::collection::{Collection, Load};
use super::decider::Decider;
use super::decision::Decision;
use super::keep::{Keep, Scrapes, TakenOver};
use super::published::Published;
use super::spec::{MetricSpec, Spec};
use crate::units::{Compat, Span, Timestamp};
use std::sync::Arc;

/// How often a decider is evaluated.
pub const TICK: Span = Span::from_seconds(2);

/// Something that happened to a revision at an instant.
#[derive(Clone, PartialEq, Debug)]
pub struct Input {
    /// When, by the clock of whoever decides.
    pub now: Timestamp,
    /// What.
    pub event: Event,
}

/// What changes the state of a revision. Nothing else does.
#[derive(Clone, PartialEq, Debug)]
pub enum Event {
    /// Its windows are made, or changed and keep what they hold.
    Windows(MetricSpec),
    /// Its windows are forgotten.
    NoWindows,
    /// Its decider is made, or decides by a changed spec from now on.
    Decider {
        /// What it decides by.
        spec: Arc<Spec>,
        /// Pods ready.
        ready: i32,
        /// What was last wanted of the revision according to its status, if it was ever brought up.
        wanted: Option<i32>,
    },
    /// Its decider is forgotten.
    NoDecider,
    /// An activator, or another autoscaler, reported load.
    Reported {
        /// For the second of this instant.
        at: Timestamp,
        /// The load.
        load: Load,
        /// Pods ready.
        ready: i32,
    },
    /// Its pods were scraped.
    Scraped {
        /// The load of all of them.
        load: Load,
    },
    /// Its pods were scraped, and too few answered.
    ScrapeFailed,
    /// There was no pod to scrape.
    NothingToScrape,
    /// A tick.
    Tick {
        /// Pods ready.
        ready: i32,
    },
    /// Another process goes on with the revision.
    Resumed {
        /// Pods ready.
        ready: i32,
        /// Whether load was reported meanwhile that nobody took in.
        lossy: bool,
    },
}

/// What an input did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Applied {
    /// The time of a stat was moved to the nearest edge of the window.
    pub moved: bool,
    /// A load was not finite and so not recorded.
    pub refused: bool,
    /// There was no data to decide on.
    pub without_data: bool,
    /// A decision was made.
    pub evaluated: bool,
    /// The decision is one others must hear of.
    pub changed: bool,
    /// The decision asks for more pods than the one before it.
    pub more: bool,
}

/// The engine's state of one revision.
#[derive(Clone, Debug, Default)]
pub struct Revision {
    pub(super) windows: Option<Collection>,
    pub(super) decider: Option<Running>,
    pub(super) scrapes: Scrapes,
    /// Load was reported while there was no decider.
    pub(super) awaited: bool,
}

/// A decider and what goes with it.
#[derive(Clone, Debug)]
pub(super) struct Running {
    pub(super) decider: Decider,
    pub(super) published: Published,
    pub(super) latest: Option<Decision>,
    pub(super) cadence: Cadence,
    pub(super) inherited: Option<Inherited>,
}

/// What was wanted before the decider was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Inherited {
    pub(super) pods: i32,
    /// Until when it is kept; known once there was load to decide on.
    pub(super) until: Option<Timestamp>,
}

impl Running {
    /// Keeps what was wanted last until load was decided on for a stable window.
    fn inherit(&mut self, wanted: Option<i32>, compat: Compat) {
        let before = self.inherited.map_or(0, |inherited| inherited.pods);
        if let Some(pods) = wanted.filter(|wanted| compat.takeover_hold && *wanted > 0) {
            self.inherited = Some(Inherited { pods: pods.max(before), until: None });
        }
    }
}

impl Revision {
    /// Takes in what happened.
    pub fn apply(&mut self, input: &Input, compat: Compat) -> Applied {
        let now = input.now;
        let mut applied = Applied::default();
        match &input.event {
            Event::Windows(spec) => self.ensure_windows(spec, now, compat),
            Event::NoWindows => {
                self.windows = None;
                self.scrapes = Scrapes::default();
                self.awaited = false;
            }
            Event::Decider { spec, ready, wanted } => {
                if self.ensure_decider(spec, *ready, *wanted, now, compat) && std::mem::take(&mut self.awaited) {
                    self.evaluate(now, *ready, &mut applied);
                }
            }
            Event::NoDecider => self.decider = None,
            Event::Reported { at, load, ready } => {
                let Some(windows) = &mut self.windows else { return applied };
                let clamped = windows.clamp(*at, now, compat);
                applied.moved = clamped.moved;
                applied.refused = !windows.record(clamped.at, load);
                match &self.decider {
                    Some(running) if running.published.pokes(load.concurrency, compat) => {
                        self.evaluate(now, *ready, &mut applied);
                    }
                    None if compat.keep_early_stats && load.concurrency != 0.0 => self.awaited = true,
                    _ => {}
                }
            }
            Event::Scraped { load } => self.scraped(load, now, compat, &mut applied),
            Event::ScrapeFailed => {
                if compat.hold_last_scrape {
                    self.scrapes.fail(now);
                    self.hold(now);
                }
            }
            Event::NothingToScrape => self.scrapes = Scrapes::default(),
            Event::Tick { ready } => {
                let Some(running) = &mut self.decider else { return applied };
                running.cadence.take(now);
                self.evaluate(now, *ready, &mut applied);
            }
            Event::Resumed { ready, lossy } => {
                if compat.hold_last_scrape && *ready > 0 {
                    self.hold(now);
                }
                if *lossy && let Some(running) = &mut self.decider {
                    running.inherit(running.published.desired, compat);
                }
            }
        }
        applied
    }

    /// Its windows, if it has any.
    pub fn windows(&self) -> Option<&Collection> {
        self.windows.as_ref()
    }

    /// Its decider, if it has one.
    pub fn decider(&self) -> Option<&Decider> {
        self.decider.as_ref().map(|running| &running.decider)
    }

    /// What its decider last published.
    pub fn published(&self) -> Option<Published> {
        self.decider.as_ref().map(|running| running.published)
    }

    /// The last valid decision.
    pub fn latest(&self) -> Option<&Decision> {
        self.decider.as_ref()?.latest.as_ref()
    }

    /// Takes `decision` for its last one where none is known, as after it was read back.
    pub fn recall(&mut self, decision: Option<Decision>) {
        if let Some(running) = &mut self.decider
            && running.latest.is_none()
        {
            running.latest = decision;
        }
    }

    /// When its next tick is due, if it has a decider.
    pub fn next_tick(&self) -> Option<Timestamp> {
        self.decider.as_ref().map(|running| running.cadence.next())
    }

    /// The last time for which a scrape was counted, good or held.
    pub fn last_scrape(&self) -> Option<Timestamp> {
        self.scrapes.last.map(|last| last.counted)
    }

    /// Whether load was reported before there was a decider, so that the decider decides as soon as it is made.
    pub fn is_awaited(&self) -> bool {
        self.awaited
    }

    /// Whether a scrape of it that finds no pod changes anything.
    pub fn remembers_scrapes(&self) -> bool {
        self.scrapes != Scrapes::default()
    }

    /// Memory of its windows and its scale-down delay, in bytes; all else is of a fixed size.
    pub fn heap_bytes(&self) -> usize {
        let windows = self.windows.as_ref().map_or(0, Collection::heap_bytes);
        windows + self.decider.as_ref().map_or(0, |running| running.decider.heap_bytes())
    }

    /// Whether there is nothing to it, so that it can be forgotten.
    pub fn is_empty(&self) -> bool {
        self.windows.is_none() && self.decider.is_none()
    }

    fn ensure_windows(&mut self, spec: &MetricSpec, now: Timestamp, compat: Compat) {
        match &mut self.windows {
            Some(windows) => windows.resize(spec, now, compat),
            None => self.windows = Some(Collection::new(spec)),
        }
        if !spec.scraped {
            self.scrapes = Scrapes::default();
        }
    }

    /// Whether there was none before.
    fn ensure_decider(&mut self, spec: &Spec, ready: i32, wanted: Option<i32>, now: Timestamp, compat: Compat) -> bool {
        if let Some(running) = &mut self.decider {
            running.decider.update(spec.clone());
            return false;
        }
        let mut running = Running {
            decider: Decider::new(spec.clone(), ready, now, compat),
            published: Published::undecided(initial_excess_burst(spec, compat)),
            latest: None,
            cadence: Cadence::starting(now, TICK),
            inherited: None,
        };
        running.inherit(wanted, compat);
        self.decider = Some(running);
        true
    }

    fn scraped(&mut self, load: &Load, now: Timestamp, compat: Compat, applied: &mut Applied) {
        if self.scrapes.failing.is_some() {
            // The second of `now` has its scrape.
            self.hold(now.truncated() - Span::from_nanos(1));
        }
        let Some(windows) = &mut self.windows else { return };
        applied.refused = !windows.record(now, load);
        if compat.hold_last_scrape && !applied.refused {
            self.scrapes.succeed(now, load);
        }
    }

    /// Counts the last good scrape again for each second up to `until` that has none.
    fn hold(&mut self, until: Timestamp) {
        let Some(windows) = &mut self.windows else { return };
        while let Some((at, load)) = self.scrapes.hold(until, windows.stable_window()) {
            windows.record(at, &load);
        }
    }

    /// Decides, if there is anything to decide on.
    fn evaluate(&mut self, now: Timestamp, ready: i32, applied: &mut Applied) {
        let (Some(windows), Some(running)) = (&self.windows, &mut self.decider) else { return };
        let spec = running.decider.spec();
        let Ok(observed) = windows.observe(spec.metric, now) else {
            applied.without_data = true;
            return;
        };
        let mut keep = Keep::default();
        if self.scrapes.failing.is_some() && ready > 0 && spec.reachable {
            let desired = running.published.desired.unwrap_or(0);
            keep.unscraped = self.scrapes.unknown(now, windows.stable_window(), desired);
        }
        if let Some(inherited) = &mut running.inherited {
            let until = inherited.until.unwrap_or(now + spec.stable_window);
            if now < until {
                keep.taken_over = Some(TakenOver { least: inherited.pods, until });
                if keep.unscraped.is_none() {
                    inherited.until = Some(until);
                }
            } else {
                running.inherited = None;
            }
        }
        let decision = running.latest.get_or_insert_default();
        running.decider.decide_into(decision, now, ready, observed, &keep);
        applied.evaluated = true;
        applied.more = running.published.desired.is_some_and(|before| before < decision.desired);
        applied.changed = running.published.take_in(decision.desired, decision.excess_burst);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::units::Aggregation;
    use proptest::prelude::*;

    /// An even second.
    pub(in crate::engine) const START: Timestamp = Timestamp::from_seconds(1_785_542_400);

    fn after(seconds: i64) -> Timestamp {
        START + Span::from_seconds(seconds)
    }

    const WINDOWS: MetricSpec = MetricSpec {
        stable_window: Span::from_seconds(20),
        panic_window: Span::from_seconds(2),
        scraped: true,
        aggregation: Aggregation::Linear,
    };

    fn small() -> Spec {
        Spec { target_value: 10.0, stable_window: WINDOWS.stable_window, max_scale_down_rate: 100.0, ..Spec::default() }
    }

    fn load(concurrency: f64) -> Load {
        Load { concurrency, ..Load::default() }
    }

    /// A revision with windows and a decider, and the switches it runs under.
    struct Play {
        revision: Revision,
        compat: Compat,
    }

    impl Play {
        fn start(compat: Compat, windows: MetricSpec, spec: Spec, ready: i32, wanted: Option<i32>) -> Self {
            let mut play = Self { revision: Revision::default(), compat };
            play.at(0, Event::Windows(windows));
            play.at(0, Event::Decider { spec: Arc::new(spec), ready, wanted });
            play
        }

        fn at(&mut self, second: i64, event: Event) -> Applied {
            self.revision.apply(&Input { now: after(second), event }, self.compat)
        }

        /// The number at a tick; `None` when nothing was decided.
        fn tick(&mut self, second: i64, ready: i32) -> Option<i32> {
            self.at(second, Event::Tick { ready })
                .evaluated
                .then(|| self.revision.latest().expect("a decision").desired)
        }

        fn because(&self) -> String {
            self.revision.latest().map(ToString::to_string).unwrap_or_default()
        }
    }

    const ONLY_HOLD: Compat = Compat { hold_last_scrape: true, ..Compat::STRICT };
    const ONLY_TAKEOVER: Compat = Compat { takeover_hold: true, ..Compat::STRICT };

    #[test]
    fn failing_scrapes_hold_the_last_load_for_a_window_and_then_the_number() {
        // 25 in flight at 10 each are 3 pods. The last good scrape is at 20 s, the window is 20 s.
        let play = |compat| {
            let mut play = Play::start(compat, WINDOWS, small(), 3, None);
            let mut numbers = Vec::new();
            for second in 1..=70 {
                let event = if second <= 20 { Event::Scraped { load: load(25.0) } } else { Event::ScrapeFailed };
                play.at(second, event);
                if second >= 20 && second % 2 == 0 {
                    numbers.push(play.tick(second, 3));
                    if second == 30 && compat.hold_last_scrape {
                        assert!(
                            play.because()
                                .ends_with("no scrape has succeeded for 10s, so the last load scraped counts again"),
                            "{}",
                            play.because()
                        );
                    }
                    if second == 60 && compat.hold_last_scrape {
                        assert!(
                            play.because().ends_with(
                                "no scrape has succeeded for 40s, so no fewer than 3 pods (0 wanted by what else is known)"
                            ),
                            "{}",
                            play.because()
                        );
                    }
                }
            }
            numbers
        };
        let held = play(ONLY_HOLD);
        // Held until 40 s, out of the window's memory at 60 s, no data after that.
        assert_eq!(held[..=20], [Some(3); 21]);
        assert_eq!(held[21..], [None; 5]);
        // The reference takes the last second of its window for no load.
        let strict = play(Compat::STRICT);
        assert_eq!(strict[..10], [Some(3); 10]);
        assert_eq!(strict[10], Some(0), "exactly a window after the last scrape");
        assert_eq!(strict[11..], [None; 15]);
    }

    #[test]
    fn held_load_fills_every_second_once_also_behind_slow_scrapes() {
        let mut play = Play::start(ONLY_HOLD, WINDOWS, small(), 1, None);
        for second in 1..=10 {
            play.at(second, Event::Scraped { load: load(30.0) });
        }
        // One failure that took three seconds, two in the same second, and a recovery.
        play.at(13, Event::ScrapeFailed);
        play.at(14, Event::ScrapeFailed);
        play.at(14, Event::ScrapeFailed);
        play.at(17, Event::Scraped { load: load(30.0) });
        let seen =
            play.revision.windows().expect("windows").observe(crate::units::ScalingMetric::Concurrency, after(17));
        assert_eq!(seen.map(|seen| (seen.stable, seen.panic)), Ok((30.0, 30.0)), "no hole and nothing twice");
    }

    #[test]
    fn what_activators_report_counts_on_top_of_what_is_held() {
        for (compat, want) in [(ONLY_HOLD, Some(5)), (Compat::STRICT, Some(2))] {
            let mut play = Play::start(compat, WINDOWS, small(), 3, None);
            for second in 1..=40 {
                let event = if second <= 20 { Event::Scraped { load: load(25.0) } } else { Event::ScrapeFailed };
                play.at(second, event);
                if second > 20 {
                    play.at(second, Event::Reported { at: after(second), load: load(20.0), ready: 3 });
                }
            }
            // 45 in flight, or the activators' 20 alone.
            assert_eq!(play.tick(40, 3), want, "{compat:?}");
        }
    }

    #[test]
    fn once_nothing_is_counted_the_number_only_rises() {
        let mut play = Play::start(ONLY_HOLD, WINDOWS, small(), 1, None);
        play.at(0, Event::Scraped { load: load(5.0) });
        assert_eq!(play.tick(2, 1), Some(1));
        let mut numbers = Vec::new();
        for second in 3..=90 {
            play.at(second, Event::ScrapeFailed);
            // An activator sees a burst and then nothing any more.
            let seen = if (30..50).contains(&second) { 15.0 } else { 0.0 };
            play.at(second, Event::Reported { at: after(second), load: load(seen), ready: 1 });
            if second % 10 == 0 {
                numbers.push(play.tick(second, 1));
            }
        }
        assert_eq!(numbers, [1, 1, 1, 2, 2, 2, 2, 2, 2].map(Some));
        // A good scrape ends it.
        play.at(91, Event::Scraped { load: load(0.0) });
        assert_eq!(play.tick(92, 1), Some(0));
    }

    #[test]
    fn held_load_never_takes_the_last_pod() {
        let mut play = Play::start(ONLY_HOLD, WINDOWS, small(), 1, None);
        for second in 1..=10 {
            play.at(second, Event::Scraped { load: load(if second < 10 { 9.0 } else { 0.0 }) });
        }
        assert_eq!(play.tick(10, 1), Some(1));
        for second in 11..=30 {
            play.at(second, Event::ScrapeFailed);
        }
        assert_eq!(play.tick(30, 1), Some(1), "twenty held seconds of no load are still not knowledge");
        assert!(play.because().contains("no fewer than 1 pod"), "{}", play.because());
        play.at(31, Event::Scraped { load: load(0.0) });
        assert_eq!(play.tick(32, 1), Some(0));
    }

    #[test]
    fn nothing_is_held_where_nothing_is_unknown() {
        let fail = |mut play: Play, ready| {
            play.at(1, Event::Scraped { load: load(25.0) });
            assert_eq!(play.tick(2, ready), Some(3));
            for second in 2..=60 {
                play.at(second, Event::ScrapeFailed);
                play.at(second, Event::Reported { at: after(second), load: load(0.0), ready });
            }
            play.tick(60, ready)
        };
        let start = |spec| Play::start(ONLY_HOLD, WINDOWS, spec, 0, None);
        assert_eq!(fail(start(small()), 3), Some(3));
        assert_eq!(fail(start(small()), 0), Some(0), "no pod is ready");
        assert_eq!(fail(start(Spec { reachable: false, ..small() }), 3), Some(0), "no route leads to it");

        // Not scraped: an empty window is no load.
        let unscraped = MetricSpec { scraped: false, ..WINDOWS };
        let mut play = Play::start(ONLY_HOLD, unscraped, small(), 1, None);
        play.at(1, Event::Reported { at: after(1), load: load(25.0), ready: 1 });
        assert_eq!(play.tick(2, 1), Some(3));
        assert_eq!(play.tick(64, 1), Some(0));

        // Without pods there was nothing to scrape, and what they last said is forgotten.
        let mut play = start(small());
        play.at(1, Event::Scraped { load: load(25.0) });
        assert!(play.revision.remembers_scrapes());
        play.at(2, Event::NothingToScrape);
        assert!(!play.revision.remembers_scrapes());
        play.at(3, Event::ScrapeFailed);
        assert_eq!(play.tick(4, 1), Some(3), "the one second that was scraped");
    }

    #[test]
    fn a_kept_number_is_what_the_delay_remembers() {
        let spec = Spec { scale_down_delay: Span::from_seconds(10), ..small() };
        let mut play = Play::start(ONLY_HOLD, WINDOWS, spec, 1, None);
        play.at(1, Event::Scraped { load: load(25.0) });
        assert_eq!(play.tick(2, 3), Some(3));
        for second in 2..=60 {
            play.at(second, Event::ScrapeFailed);
            play.at(second, Event::Reported { at: after(second), load: load(0.0), ready: 3 });
            if second % 2 == 0 {
                play.tick(second, 3);
            }
        }
        for second in 61..=80 {
            play.at(second, Event::Scraped { load: load(0.0) });
        }
        // The delay runs from the last number that was kept, at 60 s.
        assert_eq!(play.tick(62, 3), Some(3));
        assert_eq!(play.tick(68, 3), Some(3));
        assert_eq!(play.tick(80, 3), Some(0));
    }

    #[test]
    fn a_decider_that_takes_over_keeps_what_was_wanted_for_a_window_of_load() {
        // Wanted before, ready, and the number at the first decision, just before and after a window of load.
        for (name, compat, wanted, ready, numbers) in [
            ("one pod", ONLY_TAKEOVER, Some(1), 1, [1, 1, 0]),
            ("one pod, as the reference does", Compat::STRICT, Some(1), 1, [0, 0, 0]),
            ("pods that were on their way", ONLY_TAKEOVER, Some(4), 1, [4, 4, 0]),
            ("on the way to zero", ONLY_TAKEOVER, Some(0), 1, [0, 0, 0]),
            ("never decided", ONLY_TAKEOVER, Some(-1), 1, [0, 0, 0]),
            ("just created", ONLY_TAKEOVER, None, 1, [0, 0, 0]),
            // Panic from the start is counted from the making of the decider, not from the first load.
            ("several, by panic", Compat::STRICT, Some(3), 3, [3, 0, 0]),
            ("several, by both", ONLY_TAKEOVER, Some(3), 3, [3, 3, 0]),
        ] {
            let mut play = Play::start(compat, WINDOWS, small(), ready, wanted);
            assert_eq!(play.tick(2, ready), None, "{name}: no load is known yet");
            let mut got = Vec::new();
            for second in 9..=40 {
                play.at(second, Event::Scraped { load: load(0.0) });
                if [10, 28, 30].contains(&second) {
                    got.extend(play.tick(second, ready));
                }
            }
            assert_eq!(got, numbers, "{name}");
        }
    }

    #[test]
    fn taking_over_never_lowers_a_number() {
        let mut play = Play::start(ONLY_TAKEOVER, WINDOWS, small(), 1, Some(2));
        play.at(1, Event::Scraped { load: load(95.0) });
        assert_eq!(play.tick(2, 1), Some(10));
    }

    #[test]
    fn load_before_the_decider_is_decided_on_when_it_is_made() {
        for (compat, desired) in [(Compat::IMPROVED, Some(1)), (Compat::STRICT, None)] {
            let mut play = Play { revision: Revision::default(), compat };
            play.at(0, Event::Windows(WINDOWS));
            play.at(1, Event::Reported { at: after(1), load: load(1.0), ready: 0 });
            let applied = play.at(1, Event::Decider { spec: Arc::new(small()), ready: 0, wanted: None });
            assert_eq!(applied.changed, desired.is_some(), "{compat:?}");
            assert_eq!(play.revision.published().expect("a decider").desired, desired, "{compat:?}");
        }
    }

    #[test]
    fn going_on_elsewhere_fills_the_scrapes_missed_on_the_way() {
        let mut play = Play::start(ONLY_HOLD, WINDOWS, small(), 3, None);
        for second in 1..=20 {
            play.at(second, Event::Scraped { load: load(25.0) });
        }
        let mut without = play.revision.clone();
        play.at(25, Event::Resumed { ready: 3, lossy: false });
        assert_eq!(play.revision.last_scrape(), Some(after(25)));
        let event = Event::Scraped { load: load(25.0) };
        play.at(26, event.clone());
        without.apply(&Input { now: after(26), event }, ONLY_HOLD);
        let seen = |revision: &Revision| {
            revision.windows().expect("windows").observe(crate::units::ScalingMetric::Concurrency, after(26))
        };
        assert_eq!(seen(&play.revision).map(|seen| seen.stable), Ok(25.0));
        assert!(seen(&without).expect("data").stable < 20.0, "the seconds that are missing count as no load");
    }

    #[test]
    fn going_on_elsewhere_keeps_the_pods_where_reports_were_lost() {
        for (lossy, compat, fewest) in [(true, ONLY_TAKEOVER, 3), (false, ONLY_TAKEOVER, 2), (true, Compat::STRICT, 2)]
        {
            let mut play = Play::start(compat, WINDOWS, small(), 3, None);
            let report = |second| Event::Reported { at: after(second), load: load(25.0), ready: 3 };
            for second in 1..=20 {
                play.at(second, report(second));
            }
            assert_eq!(play.tick(20, 3), Some(3));
            // Ten seconds of which nobody knows anything.
            play.at(30, Event::Resumed { ready: 3, lossy });
            play.at(30, report(30));
            assert_eq!(play.tick(30, 3), Some(fewest), "{lossy} {compat:?}: {}", play.because());
            for second in 31..=50 {
                play.at(second, report(second));
            }
            assert_eq!(play.tick(50, 3), Some(3));
            // Known for a stable window: what there is counts again.
            for second in 51..=70 {
                play.at(second, Event::Reported { at: after(second), load: load(15.0), ready: 3 });
            }
            assert_eq!(play.tick(70, 3), Some(2), "{lossy} {compat:?}: {}", play.because());
        }
    }

    fn any_spec() -> impl Strategy<Value = Spec> {
        (1.0_f64..20.0, prop_oneof![Just(-1.0), Just(0.0), 1.0..300.0], 2_i64..30, 0_i64..20, any::<bool>(), 0_i32..5)
            .prop_map(|(target, burst, window, delay, reachable, activation_scale)| Spec {
                target_value: target,
                target_burst_capacity: burst,
                stable_window: Span::from_seconds(window),
                scale_down_delay: Span::from_seconds(delay),
                activation_scale,
                reachable,
                ..Spec::default()
            })
    }

    fn any_windows() -> impl Strategy<Value = MetricSpec> {
        (1_i64..40, 1_i64..10, any::<bool>(), any::<bool>()).prop_map(|(stable, panic, scraped, weighted)| MetricSpec {
            stable_window: Span::from_seconds(stable),
            panic_window: Span::from_seconds(panic),
            scraped,
            aggregation: if weighted { Aggregation::WeightedExponential } else { Aggregation::Linear },
        })
    }

    fn any_load() -> impl Strategy<Value = Load> {
        let number = prop_oneof![8 => 0.0_f64..100.0, 1 => Just(0.0), 1 => Just(-0.0), 1 => Just(f64::NAN)];
        (number.clone(), 0.0_f64..10.0, number, -1.0_f64..10.0).prop_map(
            |(concurrency, proxied_concurrency, requests, proxied_requests)| Load {
                concurrency,
                proxied_concurrency,
                requests,
                proxied_requests,
            },
        )
    }

    fn any_event() -> impl Strategy<Value = Event> {
        let ready = 0_i32..6;
        prop_oneof![
            2 => any_windows().prop_map(Event::Windows),
            1 => Just(Event::NoWindows),
            2 => (any_spec(), ready.clone(), proptest::option::of(-1_i32..5))
                .prop_map(|(spec, ready, wanted)| Event::Decider { spec: Arc::new(spec), ready, wanted }),
            1 => Just(Event::NoDecider),
            10 => (-5_000_i64..2_000, any_load(), ready.clone()).prop_map(|(millis, load, ready)| Event::Reported {
                at: START + Span::from_millis(millis),
                load,
                ready,
            }),
            10 => any_load().prop_map(|load| Event::Scraped { load }),
            6 => Just(Event::ScrapeFailed),
            1 => Just(Event::NothingToScrape),
            10 => ready.clone().prop_map(|ready| Event::Tick { ready }),
            1 => (ready, any::<bool>()).prop_map(|(ready, lossy)| Event::Resumed { ready, lossy }),
        ]
    }

    /// Inputs in the order of their times, starting with windows and a decider.
    pub(in crate::engine) fn any_inputs() -> impl Strategy<Value = Vec<Input>> {
        (any_windows(), any_spec(), 0_i32..4, proptest::collection::vec((0_i64..4_000, any_event()), 0..120)).prop_map(
            |(windows, spec, ready, steps)| {
                let mut now = START;
                let mut inputs = vec![
                    Input { now, event: Event::Windows(windows) },
                    Input { now, event: Event::Decider { spec: Arc::new(spec), ready, wanted: Some(1) } },
                ];
                for (wait, mut event) in steps {
                    now = now + Span::from_millis(wait);
                    if let Event::Reported { at, .. } = &mut event {
                        *at = now + at.since(START);
                    }
                    inputs.push(Input { now, event });
                }
                inputs
            },
        )
    }

    proptest! {
        #[test]
        fn the_same_inputs_give_the_same_state_and_the_same_decisions(
            inputs in any_inputs(), strict: bool,
        ) {
            let compat = if strict { Compat::STRICT } else { Compat::IMPROVED };
            let (mut one, mut other) = (Revision::default(), Revision::default());
            for input in &inputs {
                prop_assert_eq!(one.apply(input, compat), other.apply(input, compat));
                prop_assert_eq!(one.write(), other.write());
                prop_assert_eq!(format!("{:?}", one.latest()), format!("{:?}", other.latest()));
            }
        }

        #[test]
        fn while_scrapes_fail_a_number_falls_only_on_load_that_was_scraped(
            inputs in any_inputs(),
        ) {
            let mut revision = Revision::default();
            for input in &inputs {
                let before = revision.published().and_then(|published| published.desired);
                let applied = revision.apply(input, Compat::IMPROVED);
                let (true, Some(before), Some(decision)) = (applied.evaluated, before, revision.latest()) else { continue };
                let reachable = revision.decider().is_some_and(|decider| decider.spec().reachable);
                let known = match (revision.scrapes.failing, revision.scrapes.last) {
                    (None, _) => true,
                    _ if decision.ready == 0 || !reachable => true,
                    (_, Some(last)) => {
                        let window = revision.windows().expect("windows").stable_window();
                        input.now <= last.at + window && decision.desired >= before.min(1)
                    }
                    (_, None) => false,
                };
                prop_assert!(known || decision.desired >= before, "{before} before, {decision}");
            }
        }
    }
}
