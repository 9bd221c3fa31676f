//! The cold-start ledger: where the time goes when a request finds a revision without a pod.
//!
//! ```text
//! request ─ stat ─ decision ─ patch ─ scheduled ─ started ─ ready ─ routed ─ first byte
//! ```
//!
//! Each part of the process notes the [`Mark`]s it sees, by one clock. The time between two marks is the phase named for
//! the later one, so the phases of an activation add up to all of it: from its first mark to its last.
//!
//! # What is seen where
//!
//! | mark | who sees it |
//! |---|---|
//! | request | an activator in this process, as in `ebb local`; elsewhere an activation begins with the stat |
//! | stat | the autoscaler, when the activator's word is taken in |
//! | decision, patch | the autoscaler: decided, and the scale target's new number acknowledged by the API server |
//! | scheduled, started, ready | the autoscaler, when the watch of pods tells: a kubelet took the pod on, its containers run, it is ready |
//! | routed, first byte | an activator in this process; elsewhere an activation ends when the pod is ready, and what the client waits beyond is not known |
//!
//! A mark that was not seen leaves its time to the phase of the next one, and is named as unknown. Activators ask pods by
//! themselves, and may know that one is ready before Kubernetes says so: then the pod counts as ready when the first request
//! was routed to it.
//!
//! # Bounds
//!
//! [`MOST_OPEN`] activations under way and [`MOST_KEPT`] that ended are kept. One that does not end within [`LONGEST`], or is
//! overtaken by the next, counts as unfinished.

use crate::clock::Clock;
use crate::observe::metrics::{Histogram, Page, Source, count};
use crate::units::{RevisionKey, Span, Timestamp};
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use tokio::sync::mpsc;

/// Activations under way at once; more are not followed, and counted.
pub const MOST_OPEN: usize = 4_096;
/// Activations that ended and are remembered, of all revisions together.
pub const MOST_KEPT: usize = 1_024;
/// Activations that may wait for a listener.
const WAITING: usize = 1_024;
/// How long an activation is followed: longer than the usual progress deadline of ten minutes.
pub const LONGEST: Span = Span::from_seconds(15 * 60);
/// Upper bounds of phases, in seconds: from what a decision takes to what an image of gigabytes does.
const BUCKETS: [f64; 16] =
    [0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];

/// A moment of an activation, in the order they come.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Mark {
    /// A request came to an activator that had no pod for it.
    Request,
    /// The activator's word of it was taken in.
    Stat,
    /// It was decided that there shall be pods.
    Decision,
    /// The scale target has that number.
    Patch,
    /// A kubelet took a pod on.
    Scheduled,
    /// Its containers run.
    Started,
    /// It is ready.
    Ready,
    /// A request was routed to it.
    Routed,
    /// The answer began.
    FirstByte,
}

impl Mark {
    /// All of them, in order.
    pub const ALL: [Self; 9] = [
        Self::Request,
        Self::Stat,
        Self::Decision,
        Self::Patch,
        Self::Scheduled,
        Self::Started,
        Self::Ready,
        Self::Routed,
        Self::FirstByte,
    ];

    /// The phase that ends with it, in a word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Stat => "stat",
            Self::Decision => "decision",
            Self::Patch => "patch",
            Self::Scheduled => "scheduled",
            Self::Started => "started",
            Self::Ready => "ready",
            Self::Routed => "routed",
            Self::FirstByte => "first_byte",
        }
    }

    const fn place(self) -> usize {
        self as usize
    }
}

/// How a revision came to its first pod.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Activation {
    marks: [Option<Timestamp>; Mark::ALL.len()],
}

impl Activation {
    /// Made of marks; of two of the same kind the first counts.
    pub fn of(marks: impl IntoIterator<Item = (Mark, Timestamp)>) -> Self {
        let mut activation = Self::default();
        for (mark, at) in marks {
            activation.note(mark, at);
        }
        activation
    }

    fn note(&mut self, mark: Mark, at: Timestamp) {
        self.marks[mark.place()].get_or_insert(at);
    }

    /// The marks that were seen, in order; none is later than one that comes after it.
    pub fn marks(&self) -> impl Iterator<Item = (Mark, Timestamp)> + use<> {
        let mut marks = self.marks;
        let mut latest = Timestamp::from_nanos(i64::MAX);
        for at in marks.iter_mut().rev().flatten() {
            latest = latest.min(*at);
            *at = latest;
        }
        Mark::ALL.into_iter().zip(marks).filter_map(|(mark, at)| Some((mark, at?)))
    }

    /// When it began.
    pub fn began(&self) -> Timestamp {
        self.marks().next().map(|(_, at)| at).unwrap_or_default()
    }

    /// How long it took, from its first mark to its last.
    pub fn total(&self) -> Span {
        self.marks().last().map_or(Span::ZERO, |(_, at)| at.since(self.began()))
    }

    /// How long each phase took, named for the mark it ends with. Together they are [`total`](Self::total).
    pub fn phases(&self) -> Vec<(Mark, Span)> {
        let marks: Vec<_> = self.marks().collect();
        marks.windows(2).map(|pair| (pair[1].0, pair[1].1.since(pair[0].1))).collect()
    }

    /// The marks nobody saw.
    pub fn unknown(&self) -> Vec<Mark> {
        Mark::ALL.into_iter().filter(|mark| self.marks[mark.place()].is_none()).collect()
    }

    /// Whether nothing more is to come, seen by somebody who sees requests or does not.
    fn is_whole(&self, sees_requests: bool) -> bool {
        let has = |mark: Mark| self.marks[mark.place()].is_some();
        has(Mark::Ready) && (has(Mark::FirstByte) || !sees_requests)
    }

    /// As it is written down.
    pub fn write(&self) -> ActivationForm {
        let at = |mark: Mark| self.marks[mark.place()].map(Timestamp::nanos);
        ActivationForm {
            request: at(Mark::Request),
            stat: at(Mark::Stat),
            decision: at(Mark::Decision),
            patch: at(Mark::Patch),
            scheduled: at(Mark::Scheduled),
            started: at(Mark::Started),
            ready: at(Mark::Ready),
            routed: at(Mark::Routed),
            first_byte: at(Mark::FirstByte),
        }
    }

    /// The one that was written down.
    pub fn read(form: ActivationForm) -> Self {
        let ActivationForm { request, stat, decision, patch, scheduled, started, ready, routed, first_byte } = form;
        let marks = [request, stat, decision, patch, scheduled, started, ready, routed, first_byte];
        Self { marks: marks.map(|at| at.map(Timestamp::from_nanos)) }
    }
}

/// `2.314 s: stat 3 ms, decision 0 ms, …; not seen: routed, first byte`
impl fmt::Display for Activation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&in_words(self.total()))?;
        for (number, (mark, took)) in self.phases().into_iter().enumerate() {
            let before = if number == 0 { ": " } else { ", " };
            write!(f, "{before}{} {}", said(mark), in_words(took))?;
        }
        let unknown: Vec<_> = self.unknown().into_iter().map(said).collect();
        if unknown.is_empty() { Ok(()) } else { write!(f, "; not seen: {}", unknown.join(", ")) }
    }
}

/// The name of a mark for people.
fn said(mark: Mark) -> &'static str {
    if mark == Mark::FirstByte { "first byte" } else { mark.name() }
}

/// A length of time as people say it: `4 ms`, `1.25 s`.
fn in_words(span: Span) -> String {
    let millis = span.nanos() / 1_000_000;
    if millis < 1_000 { format!("{millis} ms") } else { format!("{:.2} s", span.seconds_f64()) }
}

/// An [`Activation`] as a protocol buffer; times in nanoseconds since 1970.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
#[expect(missing_docs, reason = "each is the time of the mark of the same name")]
pub struct ActivationForm {
    #[prost(sfixed64, optional, tag = "1")]
    pub request: Option<i64>,
    #[prost(sfixed64, optional, tag = "2")]
    pub stat: Option<i64>,
    #[prost(sfixed64, optional, tag = "3")]
    pub decision: Option<i64>,
    #[prost(sfixed64, optional, tag = "4")]
    pub patch: Option<i64>,
    #[prost(sfixed64, optional, tag = "5")]
    pub scheduled: Option<i64>,
    #[prost(sfixed64, optional, tag = "6")]
    pub started: Option<i64>,
    #[prost(sfixed64, optional, tag = "7")]
    pub ready: Option<i64>,
    #[prost(sfixed64, optional, tag = "8")]
    pub routed: Option<i64>,
    #[prost(sfixed64, optional, tag = "9")]
    pub first_byte: Option<i64>,
}

/// The ledger of a process. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Ledger {
    shared: Arc<Shared>,
}

struct Shared {
    clock: Clock,
    sees_requests: bool,
    /// Told of each activation that ended.
    ended: OnceLock<mpsc::Sender<(RevisionKey, Activation)>>,
    books: Mutex<Books>,
    /// Activations under way, to be asked without the lock.
    open: AtomicUsize,
    finished: AtomicU64,
    unfinished: AtomicU64,
    dropped: AtomicU64,
    total: Histogram,
    phases: [Histogram; Mark::ALL.len() - 1],
}

#[derive(Default)]
struct Books {
    open: HashMap<RevisionKey, Activation>,
    ended: VecDeque<(RevisionKey, Activation)>,
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ledger").field("open", &self.lock().open.len()).finish_non_exhaustive()
    }
}

impl Source for Ledger {
    fn show(&self, page: &mut Page<'_>) {
        let Shared { finished, unfinished, dropped, total, phases, .. } = &*self.shared;
        page.counters(
            "ebb_cold_starts_total",
            "Activations of revisions without a pod, by whether they came to their end; those not followed were too many.",
            ["outcome"],
            [
                (["finished"], count(finished)),
                (["not_followed"], count(dropped)),
                (["unfinished"], count(unfinished)),
            ],
        );
        page.histogram(
            "ebb_cold_start_duration_seconds",
            "How long activations took, from the first that was seen of them to the last.",
            total,
        );
        page.histograms(
            "ebb_cold_start_phase_duration_seconds",
            "How long each phase of activations took; the phase is named for what it ends with.",
            ["phase"],
            Mark::ALL[1..].iter().map(|mark| [mark.name()]).zip(phases),
        );
    }
}

impl Ledger {
    /// An empty one. `sees_requests` says whether an activator notes what becomes of requests; if none does, an activation
    /// ends when a pod is ready.
    pub fn new(clock: Clock, sees_requests: bool) -> Self {
        Self {
            shared: Arc::new(Shared {
                clock,
                sees_requests,
                ended: OnceLock::new(),
                books: Mutex::default(),
                open: AtomicUsize::new(0),
                finished: AtomicU64::new(0),
                unfinished: AtomicU64::new(0),
                dropped: AtomicU64::new(0),
                total: Histogram::new(BUCKETS),
                phases: std::array::from_fn(|_| Histogram::new(BUCKETS)),
            }),
        }
    }

    /// Each activation as it ends. What finds no place is dropped; only the first listener is told.
    pub fn listen(&self) -> mpsc::Receiver<(RevisionKey, Activation)> {
        let (sender, receiver) = mpsc::channel(WAITING);
        let _ = self.shared.ended.set(sender);
        receiver
    }

    /// The time by the clock of all marks.
    pub fn now(&self) -> Timestamp {
        self.shared.clock.now()
    }

    /// An activation begins, unless one is under way; `mark` is what was seen of it, `at` is when.
    pub fn begin_at(&self, key: &RevisionKey, mark: Mark, at: Timestamp) {
        let mut books = self.lock();
        if let Some(activation) = books.open.get_mut(key) {
            let overdue = at.since(activation.began()) > LONGEST;
            // The next one, while of the one before something was never seen.
            let overtaken = activation.marks[Mark::Ready.place()].is_some() && mark <= Mark::Decision;
            if !overdue && !overtaken {
                activation.note(mark, at);
                return;
            }
            books.open.remove(key);
            self.shared.unfinished.fetch_add(1, Ordering::Relaxed);
        }
        if books.open.len() >= MOST_OPEN {
            let before = books.open.len();
            books.open.retain(|_, activation| at.since(activation.began()) <= LONGEST);
            let overdue = before - books.open.len();
            self.shared.unfinished.fetch_add(overdue as u64, Ordering::Relaxed);
        }
        if books.open.len() >= MOST_OPEN {
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
        } else {
            books.open.insert(key.clone(), Activation::of([(mark, at)]));
        }
        self.shared.open.store(books.open.len(), Ordering::Relaxed);
    }

    /// Something was seen, now, of an activation that is under way, if one is.
    pub fn note(&self, key: &RevisionKey, mark: Mark) {
        self.note_at(key, mark, self.shared.clock.now());
    }

    /// The same with the time it was seen at.
    pub fn note_at(&self, key: &RevisionKey, mark: Mark, at: Timestamp) {
        if !self.is_any_open() {
            return;
        }
        let mut books = self.lock();
        let Some(activation) = books.open.get_mut(key) else { return };
        activation.note(mark, at);
        if !activation.is_whole(self.shared.sees_requests) {
            return;
        }
        let whole = *activation;
        books.open.remove(key);
        if books.ended.len() >= MOST_KEPT {
            books.ended.pop_front();
        }
        books.ended.push_back((key.clone(), whole));
        self.shared.open.store(books.open.len(), Ordering::Relaxed);
        drop(books);
        self.count(&whole);
        if let Some(ended) = self.shared.ended.get() {
            let _ = ended.try_send((key.clone(), whole));
        }
    }

    /// Whether any activation is under way.
    pub fn is_any_open(&self) -> bool {
        self.shared.open.load(Ordering::Relaxed) > 0
    }

    /// Activations of a revision that ended since, oldest first, as far as they are remembered.
    pub fn recent(&self, key: &RevisionKey, since: Timestamp) -> Vec<Activation> {
        let books = self.lock();
        let of_key = books.ended.iter().filter(|(of, activation)| of == key && activation.began() >= since);
        of_key.map(|(_, activation)| *activation).collect()
    }

    /// The revisions `which` chooses are not this replica's any more, or gone.
    pub fn let_go(&self, which: impl Fn(&RevisionKey) -> bool) {
        let mut books = self.lock();
        let before = books.open.len();
        books.open.retain(|key, _| !which(key));
        self.shared.unfinished.fetch_add((before - books.open.len()) as u64, Ordering::Relaxed);
        self.shared.open.store(books.open.len(), Ordering::Relaxed);
    }

    fn count(&self, activation: &Activation) {
        self.shared.finished.fetch_add(1, Ordering::Relaxed);
        self.shared.total.observe(activation.total().seconds_f64());
        for (mark, took) in activation.phases() {
            self.shared.phases[mark.place() - 1].observe(took.seconds_f64());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Books> {
        self.shared.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use prost::Message as _;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_nanos(1_785_542_400_000_000_000 + millis * 1_000_000)
    }

    fn key(name: &str) -> RevisionKey {
        RevisionKey::new("default", name)
    }

    #[test]
    fn what_was_not_seen_leaves_its_time_to_the_next() {
        let whole = Activation::of(Mark::ALL.into_iter().zip([0, 3, 3, 9, 10, 1_010, 1_050, 1_051, 1_060].map(at)));
        assert_eq!(
            whole.to_string(),
            "1.06 s: stat 3 ms, decision 0 ms, patch 6 ms, scheduled 1 ms, started 1.00 s, ready 40 ms, routed 1 ms, first byte 9 ms"
        );
        // With another activator: it begins with the stat, and ends when the pod is ready.
        let some = Activation::of([
            (Mark::Stat, at(3)),
            (Mark::Decision, at(3)),
            (Mark::Patch, at(9)),
            (Mark::Ready, at(1_050)),
        ]);
        assert_eq!(
            some.to_string(),
            "1.05 s: decision 0 ms, patch 6 ms, ready 1.04 s; not seen: request, scheduled, started, routed, first byte"
        );
        // The activator knew before Kubernetes said so.
        let early = Activation::of([
            (Mark::Request, at(0)),
            (Mark::Ready, at(900)),
            (Mark::Routed, at(800)),
            (Mark::FirstByte, at(810)),
        ]);
        assert_eq!(
            early.phases(),
            [
                (Mark::Ready, Span::from_millis(800)),
                (Mark::Routed, Span::ZERO),
                (Mark::FirstByte, Span::from_millis(10))
            ]
        );
    }

    #[test]
    fn an_activation_ends_with_the_last_thing_that_can_be_seen() {
        let clock = Clock::system();
        for (sees_requests, last) in [(false, Mark::Ready), (true, Mark::FirstByte)] {
            let ledger = Ledger::new(clock, sees_requests);
            ledger.begin_at(&key("a"), Mark::Stat, at(0));
            for mark in [Mark::Patch, Mark::Ready, Mark::FirstByte] {
                ledger.note_at(&key("a"), mark, at(10));
                let ended = ledger.recent(&key("a"), at(0)).len();
                assert_eq!(ended, usize::from(mark >= last), "{mark:?}");
            }
            assert!(!ledger.is_any_open());
            assert_eq!(ledger.recent(&key("b"), at(0)), []);
            assert_eq!(ledger.recent(&key("a"), at(1)), []);
        }
    }

    #[test]
    fn open_ones_are_bounded_and_what_never_ends_is_counted() {
        let ledger = Ledger::new(Clock::system(), true);
        for number in 0..MOST_OPEN + 3 {
            ledger.begin_at(&key(&format!("r{number}")), Mark::Request, at(0));
        }
        assert_eq!((ledger.lock().open.len(), count(&ledger.shared.dropped)), (MOST_OPEN, 3));
        // The first byte of this one is never seen, because its client went away; the next request begins another.
        ledger.note_at(&key("r1"), Mark::Ready, at(100));
        ledger.begin_at(&key("r1"), Mark::Request, at(200));
        assert_eq!(count(&ledger.shared.unfinished), 1);
        assert_eq!(ledger.lock().open[&key("r1")].began(), at(200));
        let late = at(0) + LONGEST + Span::SECOND;
        ledger.begin_at(&key("late"), Mark::Request, late);
        assert_eq!((ledger.lock().open.len(), count(&ledger.shared.unfinished)), (1, MOST_OPEN as u64 + 1));
        ledger.let_go(|_| true);
        assert!(!ledger.is_any_open());
    }

    proptest! {
        #[test]
        fn phases_add_up_and_are_written_as_they_are(times in proptest::array::uniform9(proptest::option::of(0_i64..5_000))) {
            let marks = Mark::ALL.into_iter().zip(times).filter_map(|(mark, millis)| Some((mark, at(millis?))));
            let activation = Activation::of(marks);
            let sum = activation.phases().iter().map(|(_, took)| took.nanos()).sum::<i64>();
            prop_assert_eq!(sum, activation.total().nanos());
            prop_assert!(activation.phases().iter().all(|(_, took)| *took >= Span::ZERO));
            let bytes = activation.write().encode_to_vec();
            let form = ActivationForm::decode(bytes.as_slice()).expect("what was encoded");
            prop_assert_eq!(Activation::read(form), activation);
        }
    }
}
