//! What a journal says where recording was interrupted: no input is missing between two that are there unless it says so,
//! and what is there is right.

use ebb::clock::Clock;
use ebb::deciders::record::{Beside, record};
use ebb::deciders::{Deciders, ReadyPods};
use ebb::engine::written::RevisionForm;
use ebb::engine::{Event, Load, MetricSpec, Spec};
use ebb::observe::journal::replay::Step;
use ebb::observe::journal::{Batch, Journal, MOST_WAITING, Options, Place, Replay};
use ebb::observe::metrics::{Format, Registry};
use ebb::observe::plan::Plan;
use ebb::ownership::ring::Ring;
use ebb::units::{Aggregation, Compat, RevisionKey, Span};
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::thread;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

const BUCKETS: u32 = 3;
/// More than are told of at once, in each bucket.
const REVISIONS: usize = 240;
/// Of them, those that have load all the time.
const LOADED: usize = 24;

struct None;

impl ReadyPods for None {
    fn ready(&self, _: &RevisionKey) -> i32 {
        0
    }
}

fn key(number: usize) -> RevisionKey {
    RevisionKey::new("default", &format!("r{number}"))
}

/// Deciders that are recorded while threads of their own load them.
struct Recorded {
    deciders: Deciders,
    journal: Journal,
    registry: Registry,
    stop: CancellationToken,
    recorder: JoinHandle<()>,
    _plans: mpsc::Sender<(RevisionKey, Plan)>,
}

impl Recorded {
    fn start(directory: &Path) -> Self {
        let clock = Clock::system();
        // Files of 256 KiB, tried again soon.
        let options = Options {
            most_bytes: 2 << 20,
            try_again: Span::from_millis(20),
            ..Options::new(directory.to_owned(), Compat::IMPROVED)
        };
        let journal = Journal::open(options, clock).expect("a journal");
        let registry = Registry::new(Compat::IMPROVED);
        registry.register(journal.clone());
        let ring = Ring::new(BUCKETS);
        let deciders = Deciders::spread(clock, Compat::IMPROVED, Arc::new(None), Box::new(|_, _| {}), ring);
        let stop = CancellationToken::new();
        let (plans, receiver) = mpsc::channel(1);
        let beside = Beside { plans: receiver, activations: mpsc::channel(1).1 };
        let recorder =
            tokio::spawn(record(deciders.clone(), journal.clone(), beside, Box::new(Vec::new), stop.clone()));
        (0..REVISIONS).for_each(|number| make(&deciders, number));
        Self { deciders, journal, registry, stop, recorder, _plans: plans }
    }

    fn counted(&self, name: &str) -> f64 {
        let text = self.registry.exposition(Format::Prometheus);
        let line = text.lines().find(|line| line.starts_with(name)).expect("a series");
        line[name.len()..].trim().parse().expect("a number")
    }

    /// Returns once it is so.
    async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        for _ in 0..60_000 {
            if holds(self) {
                return;
            }
            sleep(Duration::from_millis(1)).await;
        }
        panic!("{what}: it never came");
    }

    /// Returns when a file is full and the next one is not begun yet. From there on the disk hangs, as long as what is returned
    /// is kept, and so many more batches can wait for it.
    async fn hang_before_the_next_file(&self, places: usize) -> Receiver<()> {
        self.until("a file", |it| it.counted("ebb_journal_bytes_total ") > 0.0).await;
        self.until("a full file", |it| it.journal.wants_file()).await;
        // Nothing is awaited from here on, so the recorder does not come by.
        let hangs = self.journal.flushing();
        let plan = || (key(0), Plan { at: Clock::system().now(), ..Plan::default() });
        let mut taken = 0;
        while taken < MOST_WAITING - places {
            let batch = Batch { plans: vec![plan()], ..Batch::nothing(Clock::system().now()) };
            taken += usize::from(self.journal.write(Place::Present, batch));
        }
        hangs
    }

    /// Ends recording and says what state each revision was left in.
    async fn end(self) -> BTreeMap<RevisionKey, RevisionForm> {
        self.stop.cancel();
        self.recorder.await.expect("no panic");
        let left = (0..BUCKETS as usize).flat_map(|bucket| self.deciders.let_go(bucket));
        left.map(|(key, revision)| (key, revision.write())).collect()
    }
}

fn make(deciders: &Deciders, number: usize) {
    let windows = MetricSpec {
        stable_window: Span::from_seconds(6),
        panic_window: Span::from_seconds(1),
        scraped: true,
        aggregation: Aggregation::Linear,
    };
    deciders.ensure_windows(&key(number), &windows);
    deciders.ensure_decider(&key(number), &Spec { stable_window: windows.stable_window, ..Spec::default() }, Some(0));
}

/// Load on some revisions, from a thread of its own: how much tells which scrape of its revision it is.
struct Loads {
    stop: Arc<AtomicBool>,
    /// Nothing rests.
    fast: Arc<AtomicBool>,
    thread: thread::JoinHandle<()>,
}

impl Loads {
    fn start(deciders: Deciders) -> Self {
        let [stop, fast] = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
        let seen = (Arc::clone(&stop), Arc::clone(&fast));
        let thread = thread::spawn(move || {
            let mut scrape = 0_u32;
            while !seen.0.load(Ordering::Relaxed) {
                scrape += 1;
                for number in 0..LOADED {
                    deciders.record_scraped(&key(number), &Load { concurrency: f64::from(scrape), ..Load::default() });
                }
                // One goes and comes again, and what it is told then is decided on at once.
                let goes = (LOADED..REVISIONS)
                    .nth(usize::try_from(scrape).expect("few") * 7 % (REVISIONS - LOADED))
                    .expect("one of them");
                deciders.remove_decider(&key(goes));
                deciders.remove_windows(&key(goes));
                make(&deciders, goes);
                let now = Clock::system().now();
                deciders.report(&key(goes), now, &Load { concurrency: f64::from(scrape % 9), ..Load::default() });
                let rest = if seen.1.load(Ordering::Relaxed) { 30 } else { 1_000 };
                thread::sleep(Duration::from_micros(rest));
            }
        });
        Self { stop, fast, thread }
    }

    fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("no panic");
    }
}

/// What is known at a place in a journal of the inputs of a revision.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Known {
    /// All of them, up to this scrape.
    Up(f64),
    /// The same, and then something was missing.
    Interrupted(f64),
    /// The same, and then it began afresh.
    Afresh(f64),
}

/// How often a journal says that something is missing after its beginning, and how often something is. It says so before
/// what follows, which begins with a state; at the end each revision is as it was left.
fn honest(directory: &Path, left: &BTreeMap<RevisionKey, RevisionForm>) -> (u32, u32) {
    let mut replay = Replay::open(directory, Option::None).expect("a journal");
    let mut known: HashMap<RevisionKey, Known> = HashMap::new();
    let (mut gaps, mut missing) = (0_u32, 0_u32);
    replay
        .run(Option::None, |event| {
            let Some(key) = event.key else {
                gaps += u32::from(!known.is_empty());
                for known in known.values_mut() {
                    if let Known::Up(scrape) = *known {
                        *known = Known::Interrupted(scrape);
                    }
                }
                return;
            };
            match event.step {
                Step::State => {
                    if let Some(known) = known.get_mut(key)
                        && let Known::Interrupted(before) = *known
                    {
                        *known = Known::Afresh(before);
                    }
                }
                Step::Applied { input, .. } => {
                    let Event::Scraped { load } = input.event else { return };
                    let scrape = load.concurrency;
                    match known.insert(key.clone(), Known::Up(scrape)) {
                        Some(Known::Up(before) | Known::Interrupted(before)) => {
                            assert_eq!(scrape, before + 1.0, "of {key} some are missing, and nothing says so");
                        }
                        Some(Known::Afresh(before)) => missing += u32::from(scrape != before + 1.0),
                        Option::None => {}
                    }
                }
                _ => {}
            }
        })
        .expect("a journal");
    let agreement = replay.agreement();
    assert!(agreement.decisions > 100 && agreement.differing == 0, "{agreement:?}");
    let told: BTreeMap<_, _> = replay.revisions().iter().map(|(key, it)| (key.clone(), it.write())).collect();
    for key in left.keys().chain(told.keys()) {
        assert_eq!(told.get(key), left.get(key), "{key}");
    }
    (gaps, missing)
}

#[tokio::test]
async fn where_the_next_file_finds_no_place_it_is_said_what_is_missing() {
    let mut runs = Vec::new();
    // From a queue that takes nothing to one that takes some states with each look, as far as it goes.
    for places in (0..=12).chain([24, 58, 61]) {
        let directory = tempfile::tempdir().expect("a directory");
        let recorded = Recorded::start(directory.path());
        let loads = Loads::start(recorded.deciders.clone());
        let hangs = recorded.hang_before_the_next_file(places).await;
        loads.fast.store(true, Ordering::Relaxed);
        // The recorder comes by, once or more often.
        sleep(Duration::from_millis(250)).await;
        loads.fast.store(false, Ordering::Relaxed);
        drop(hangs);
        recorded.until("the next file", |it| !it.journal.wants_file()).await;
        recorded.until("that it is full", |it| it.journal.wants_file()).await;
        loads.end();
        let counted = recorded.counted("ebb_journal_gaps_total ");
        let left = recorded.end().await;
        let (gaps, missing) = honest(directory.path(), &left);
        runs.push((places, counted, gaps, missing));
    }
    assert!(runs.iter().filter(|(_, _, _, missing)| *missing > 0).count() >= 3, "too little was missing: {runs:?}");
    // The oldest file may be gone by the end.
    assert!(runs.iter().all(|(_, counted, gaps, _)| f64::from(*gaps) <= *counted), "{runs:?}");
}

/// The disk hangs while recording ends, and what finds no place then is told all the same, as `honest` sees.
#[tokio::test]
async fn what_finds_no_place_at_the_end_is_told_of_when_there_is_one() {
    for places in (0..=12).chain([24, 61]) {
        let directory = tempfile::tempdir().expect("a directory");
        let recorded = Recorded::start(directory.path());
        let loads = Loads::start(recorded.deciders.clone());
        let hangs = recorded.hang_before_the_next_file(places).await;
        loads.end();
        // These are another's from now on.
        drop(recorded.deciders.let_go(0));
        let goes_on = tokio::spawn(async move {
            // Its last look comes first.
            sleep(Duration::from_millis(50)).await;
            drop(hangs);
        });
        let left = recorded.end().await;
        goes_on.await.expect("no panic");
        honest(directory.path(), &left);
    }
}

#[tokio::test]
async fn where_no_next_file_can_be_made_it_is_said_what_is_missing() {
    let directory = tempfile::tempdir().expect("a directory");
    let [path, aside] = ["journal", "aside"].map(|name| directory.path().join(name));
    let recorded = Recorded::start(&path);
    let loads = Loads::start(recorded.deciders.clone());
    for round in 1..4_u32 {
        recorded.until("a full file", |it| it.journal.wants_file()).await;
        // What is open can be written on, but nothing new can be made.
        fs::rename(&path, &aside).expect("moved");
        fs::write(&path, "").expect("written");
        let failed = f64::from(round) * 3.0;
        recorded.until("failures", |it| it.counted("ebb_journal_failures_total ") >= failed).await;
        fs::remove_file(&path).expect("removed");
        fs::rename(&aside, &path).expect("moved back");
        recorded.until("a file", |it| it.counted("ebb_journal_writes ") == 1.0).await;
    }
    recorded.until("that it goes on", |it| it.journal.wants_file()).await;
    loads.end();
    let left = recorded.end().await;
    let (gaps, missing) = honest(&path, &left);
    assert!(gaps > 0 && missing > 0, "{gaps} gaps, {missing} missing");
}

/// Each state of windows of an hour takes some 56 KiB, and all are there at once.
#[tokio::test]
async fn states_that_are_taken_over_wait_up_to_a_bound_in_bytes_and_then_begin_afresh() {
    const TAKEN: usize = 1_400;
    let clock = Clock::system();
    let on_one = || Deciders::spread(clock, Compat::IMPROVED, Arc::new(None), Box::new(|_, _| {}), Ring::new(1));
    let (before, after) = (on_one(), on_one());
    let windows = MetricSpec {
        stable_window: Span::from_seconds(3_600),
        panic_window: Span::from_seconds(360),
        scraped: true,
        aggregation: Aggregation::Linear,
    };
    for number in 0..TAKEN {
        before.ensure_windows(&key(number), &windows);
        before.record_scraped(&key(number), &Load { concurrency: 1.0, requests: 1.0, ..Load::default() });
    }
    let mut follower = after.follow(0).expect("a place");
    assert!(follower.look().expect("nothing is missing").complete);
    after.resume(before.let_go(0), true);
    follower.look().expect_err("that was too much to wait");
    assert_eq!(after.counters().behind.load(Ordering::Relaxed), 1, "counted once");
    let mut again = after.follow(0).expect("a place");
    let mut told = 0;
    loop {
        let news = again.look().expect("nothing is missing");
        assert!(news.states.len() <= 64, "a few at a time");
        told += news.states.len();
        if news.complete {
            break;
        }
    }
    assert_eq!(told, TAKEN);
}
