//! The journal: what was recorded is replayed bit for bit, whatever became of the process that recorded it.

use ebb::clock::Clock;
use ebb::deciders::record::{Beside, record};
use ebb::deciders::{Deciders, ReadyPods};
use ebb::engine::{Decision, Load, MetricSpec, Spec};
use ebb::observe::explain::of_journal;
use ebb::observe::journal::read::{Damage, JournalError};
use ebb::observe::journal::replay::{Agreement, Step};
use ebb::observe::journal::{Batch, EXTENSION, Journal, LEAST_BYTES, Options, Place, Replay};
use ebb::observe::ledger::{Activation, Mark};
use ebb::observe::metrics::{Format, Registry};
use ebb::observe::plan::Plan;
use ebb::ownership::ring::Ring;
use ebb::units::{Aggregation, Compat, RevisionKey, ScalingMetric, Span, Timestamp};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// An even second.
const START: Timestamp = Timestamp::from_seconds(1_785_542_400);

/// Decisions by revision and time.
type Decisions = BTreeMap<(RevisionKey, Timestamp), Decision>;

/// Pods follow what is wanted at once.
struct Ready;

impl ReadyPods for Ready {
    fn ready(&self, key: &RevisionKey) -> i32 {
        i32::try_from(key.name().len() % 4).expect("a small number")
    }
}

fn key(number: usize) -> RevisionKey {
    RevisionKey::new("default", &format!("r{number}"))
}

/// Deciders that are recorded.
struct Recorded {
    deciders: Deciders,
    journal: Journal,
    plans: mpsc::Sender<(RevisionKey, Plan)>,
    ended: mpsc::Sender<(RevisionKey, Activation)>,
    stop: CancellationToken,
    recorder: JoinHandle<()>,
    /// Every decision that was made, by revision and time.
    made: Decisions,
}

impl Recorded {
    fn start(directory: &Path, compat: Compat, most_bytes: u64, clock: Clock) -> Self {
        let options = Options { most_bytes, ..Options::new(directory.to_owned(), compat) };
        Self::on(Journal::open(options, clock).expect("a journal"), compat, clock)
    }

    fn on(journal: Journal, compat: Compat, clock: Clock) -> Self {
        let deciders = Deciders::spread(clock, compat, Arc::new(Ready), Box::new(|_, _| {}), Ring::new(3));
        let stop = CancellationToken::new();
        let (plans, receiver) = mpsc::channel(16);
        let (ended, activations) = mpsc::channel(16);
        let beside = Beside { plans: receiver, activations };
        let recorder =
            tokio::spawn(record(deciders.clone(), journal.clone(), beside, Box::new(Vec::new), stop.clone()));
        let ticking = (deciders.clone(), stop.clone());
        tokio::spawn(async move { ticking.0.run(ticking.1).await });
        Self { deciders, journal, plans, ended, stop, recorder, made: BTreeMap::new() }
    }

    /// What happens to revisions in so many seconds: made, changed, loaded, idle, gone.
    async fn live(&mut self, revisions: usize, seconds: std::ops::Range<usize>) {
        for second in seconds {
            if second == 0 {
                // The first look of the recorder.
                sleep(Duration::from_millis(1)).await;
                self.journal.flush();
            }
            for number in 0..revisions {
                let key = key(number);
                let phase = second + number * 7;
                if phase.is_multiple_of(97) || second == 0 {
                    self.deciders.ensure_windows(&key, &windows(number));
                    self.deciders.ensure_decider(&key, &spec(number, phase), Some(2));
                }
                if phase % 61 == 60 {
                    self.deciders.remove_decider(&key);
                    self.deciders.remove_windows(&key);
                }
                match phase % 13 {
                    0..6 => drop(self.deciders.record_scraped(&key, &load(phase % 29))),
                    6 => self.deciders.scrape_failed(&key),
                    7 => self.deciders.nothing_to_scrape(&key),
                    _ => drop(self.deciders.report(&key, now(&self.deciders, second), &load(phase % 3))),
                }
                self.look(&key);
            }
            for _ in 0..4 {
                sleep(Duration::from_millis(250)).await;
                (0..revisions).for_each(|number| self.look(&key(number)));
                // Virtual time does not wait for files.
                self.journal.flush();
            }
        }
    }

    fn look(&mut self, key: &RevisionKey) {
        if let Some(decision) = self.deciders.latest(key) {
            self.made.insert((key.clone(), decision.at), decision);
        }
    }

    async fn end(self) -> Decisions {
        self.stop.cancel();
        self.recorder.await.expect("no panic");
        self.made
    }
}

fn now(_deciders: &Deciders, second: usize) -> Timestamp {
    START + Span::from_seconds(i64::try_from(second).expect("a small number"))
}

fn windows(number: usize) -> MetricSpec {
    MetricSpec {
        stable_window: Span::from_seconds(if number.is_multiple_of(3) { 20 } else { 60 }),
        panic_window: Span::from_seconds(if number.is_multiple_of(3) { 2 } else { 6 }),
        scraped: true,
        aggregation: if number.is_multiple_of(5) { Aggregation::WeightedExponential } else { Aggregation::Linear },
    }
}

fn spec(number: usize, phase: usize) -> Spec {
    Spec {
        metric: if number.is_multiple_of(4) { ScalingMetric::Rps } else { ScalingMetric::Concurrency },
        target_value: if phase.is_multiple_of(2) { 7.0 } else { 3.3 },
        scale_down_delay: Span::from_seconds(if number.is_multiple_of(2) { 10 } else { 0 }),
        stable_window: windows(number).stable_window,
        ..Spec::default()
    }
}

fn load(size: usize) -> Load {
    let size = f64::from(u32::try_from(size).expect("a small number"));
    Load { concurrency: size / 3.0, requests: size * 1.7, ..Load::default() }
}

/// Every decision of a replay, and how well it agreed.
fn replayed(path: &Path) -> Result<(Decisions, Agreement, Replay), JournalError> {
    let mut replay = Replay::open(path, None)?;
    let mut decisions = BTreeMap::new();
    replay.run(None, |event| {
        if let Step::Applied { applied, .. } = event.step
            && applied.evaluated
            && let (Some(key), Some(decision)) = (event.key, event.revision.and_then(|revision| revision.latest()))
        {
            decisions.insert((key.clone(), decision.at), decision.clone());
        }
    })?;
    let agreement = replay.agreement();
    Ok((decisions, agreement, replay))
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).expect("a directory").map(|entry| entry.expect("an entry").path());
    let mut files: Vec<_> = entries.filter(|path| path.extension().is_some_and(|it| it == EXTENSION)).collect();
    files.sort();
    files
}

fn bits(decision: &Decision) -> String {
    // Text in which one bit more or less shows.
    format!("{decision:?} {:?}", decision.print())
}

#[tokio::test(start_paused = true)]
async fn a_replay_makes_every_decision_again_bit_for_bit_across_files() {
    for compat in [Compat::IMPROVED, Compat::STRICT] {
        let directory = tempfile::tempdir().expect("a directory");
        // Files of 256 KiB, none of which goes yet.
        let mut recorded = Recorded::start(directory.path(), compat, 2 << 20, Clock::starting_at(START));
        recorded.live(150, 0..100).await;
        let deciders = recorded.deciders.clone();
        let made = recorded.end().await;
        let evaluations = deciders.counters().evaluations.load(Ordering::Relaxed);
        let (decisions, agreement, replay) = replayed(directory.path()).expect("a journal");
        assert!(made.len() > 1_000, "{}", made.len());
        assert!(files(directory.path()).len() > 1, "more than one file");
        for (at, decision) in &made {
            assert_eq!(decisions.get(at).map(bits), Some(bits(decision)), "{at:?}");
        }
        assert_eq!(agreement.decisions, evaluations, "none is missing and none is there twice");
        assert_eq!(agreement.differing, 0);
        assert_eq!(replay.reader().cut_off(), [] as [PathBuf; 0]);
    }
}

#[tokio::test(start_paused = true)]
async fn what_another_process_left_is_gone_on_with_in_the_journal_too() {
    let [before, directory] = [(); 2].map(|()| tempfile::tempdir().expect("a directory"));
    let clock = Clock::starting_at(START);
    let mut first = Recorded::start(before.path(), Compat::IMPROVED, 2 << 20, clock);
    first.live(20, 0..30).await;
    let left: Vec<_> = (0..3).flat_map(|bucket| first.deciders.let_go(bucket)).collect();
    assert!(left.len() > 10, "{}", left.len());
    first.end().await;
    let mut second = Recorded::start(directory.path(), Compat::IMPROVED, 2 << 20, clock);
    // It is followed already, and owns nothing.
    sleep(Duration::from_millis(1)).await;
    second.journal.flush();
    second.deciders.resume(left, true);
    second.live(20, 30..60).await;
    let made = second.end().await;
    let (decisions, agreement, _) = replayed(directory.path()).expect("a journal");
    assert_eq!(agreement.differing, 0, "of {}", agreement.decisions);
    assert!(made.len() > 100, "{}", made.len());
    for (at, decision) in &made {
        // The last one before is no decision of this process.
        if decision.at > START + Span::from_seconds(30) {
            assert_eq!(decisions.get(at).map(bits), Some(bits(decision)), "{at:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_left_of_a_bounded_journal_replays_by_itself() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut recorded = Recorded::start(directory.path(), Compat::IMPROVED, LEAST_BYTES, Clock::starting_at(START));
    // Few enough that the states at the start of each file are a small part of it.
    recorded.live(200, 0..400).await;
    let made = recorded.end().await;
    let total: u64 = files(directory.path()).iter().map(|path| fs::metadata(path).expect("a file").len()).sum();
    assert!(total <= LEAST_BYTES, "{total} bytes");
    let (decisions, agreement, _) = replayed(directory.path()).expect("a journal");
    assert_eq!(agreement.differing, 0);
    assert!(decisions.len() < made.len(), "the oldest files are gone");
    let first = decisions.keys().map(|(_, at)| *at).min().expect("a decision");
    let later: BTreeSet<_> = made.keys().filter(|(_, at)| *at > first + Span::SECOND).collect();
    assert!(later.len() > 100, "{} of {}", later.len(), made.len());
    assert!(later.iter().all(|at| decisions.get(at).map(bits) == made.get(at).map(bits)));
    // And one of them alone.
    let one = files(directory.path()).pop().expect("a file");
    assert_eq!(replayed(&one).expect("a file").1.differing, 0);
}

#[tokio::test(start_paused = true)]
async fn a_crash_anywhere_costs_the_end_of_the_file_and_nothing_else() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut recorded = Recorded::start(directory.path(), Compat::IMPROVED, 64 << 20, Clock::starting_at(START));
    recorded.live(8, 0..30).await;
    // Nothing is ended in order: what is there after the last look is what a killed process leaves.
    let file = files(directory.path()).pop().expect("a file");
    let bytes = fs::read(&file).expect("read");
    let (all, _, replay) = replayed(directory.path()).expect("a journal");
    assert!(replay.reader().cut_off().is_empty());
    let last = recorded.made.keys().map(|(_, at)| *at).max().expect("a decision");
    let lost = recorded.made.keys().filter(|at| !all.contains_key(at)).count();
    assert!(recorded.made.keys().all(|at| all.contains_key(at) || last.since(at.1) < Span::SECOND), "{lost} lost");
    let crashed = tempfile::tempdir().expect("a directory");
    let copy = crashed.path().join(file.file_name().expect("a name"));
    let mut told_cut_off = 0;
    for cut in (0..bytes.len()).step_by(397) {
        fs::write(&copy, &bytes[..cut]).expect("written");
        let (decisions, agreement, replay) =
            replayed(crashed.path()).unwrap_or_else(|error| panic!("cut at {cut}: {error}"));
        assert_eq!(agreement.differing, 0);
        assert!(decisions.iter().all(|(at, decision)| all.get(at).map(bits) == Some(bits(decision))));
        told_cut_off += replay.reader().cut_off().len();
    }
    assert!(told_cut_off > 10, "{told_cut_off}");
    // The next process begins a file of its own, which says that something is missing.
    drop(recorded);
    let damaged_at = bytes.len() / 2;
    let mut damaged = bytes.clone();
    damaged[damaged_at] ^= 0x10;
    fs::write(&copy, &damaged).expect("written");
    match replayed(crashed.path()) {
        Err(error @ JournalError::Damaged { .. }) => {
            let text = error.to_string();
            for part in [copy.to_str().expect("text"), "record ", "at byte ", "head -c "] {
                assert!(text.contains(part), "{part} in {text}");
            }
            let JournalError::Damaged { at, damage, .. } = error else { return };
            assert!(usize::try_from(at).expect("a place") <= damaged_at);
            assert!(matches!(damage, Damage::Head | Damage::Message), "{damage}");
        }
        other => panic!("damage in the middle is no end: {:?}", other.map(|it| it.1)),
    }
}

#[tokio::test(start_paused = true)]
async fn plans_and_gaps_are_told_and_a_moment_can_be_asked_for() {
    let directory = tempfile::tempdir().expect("a directory");
    let clock = Clock::starting_at(START);
    let mut recorded = Recorded::start(directory.path(), Compat::IMPROVED, 4 << 20, clock);
    recorded.live(2, 0..10).await;
    let plan = Plan { at: clock.now(), want: Some(3), max: 3, bound: "max-scale".to_owned(), ..Plan::default() };
    recorded.plans.try_send((key(1), plan.clone())).expect("a place");
    recorded.live(2, 10..20).await;
    recorded.end().await;
    sleep(Duration::from_secs(5)).await;
    let mut again = Recorded::start(directory.path(), Compat::IMPROVED, 4 << 20, clock);
    again.live(2, 0..4).await;
    again.end().await;

    let gaps = |until| {
        let mut replay = Replay::open(directory.path(), Some(key(1))).expect("a journal");
        let (mut gaps, mut latest) = (0, START);
        replay
            .run(until, |event| {
                gaps += usize::from(matches!(event.step, Step::Gap));
                assert!(event.key.is_none_or(|of| *of == key(1)), "only one was asked for");
                latest = latest.max(event.at);
            })
            .expect("a journal");
        (gaps, latest, replay.plan(&key(1)).cloned())
    };
    // Each process that begins says so.
    let (all, _, told) = gaps(None);
    assert_eq!((all, told), (2, Some(plan)));
    let moment = START + Span::from_seconds(5);
    let (first, latest, told) = gaps(Some(moment));
    assert_eq!((first, told), (1, None));
    assert!(latest <= moment && moment.since(latest) <= Span::from_seconds(1), "{latest:?}");
}

/// While a file begins, however long that takes, the one before it is written too: what was before a moment may come after
/// much that was not.
#[test]
fn a_moment_can_be_asked_for_that_is_in_a_file_that_took_long_to_begin() {
    let directory = tempfile::tempdir().expect("a directory");
    let clock = Clock::starting_at(START);
    let journal = Journal::open(Options::new(directory.path().to_owned(), Compat::IMPROVED), clock).expect("a journal");
    let at = |second| START + Span::from_seconds(second);
    let plan = |second, place| {
        let plans = vec![(key(1), Plan { at: at(second), ..Plan::default() })];
        assert!(journal.write(place, Batch { plans, ..Batch::nothing(at(second)) }), "a place");
    };
    assert!(journal.begin(at(0)) && journal.switch(), "places");
    plan(1, Place::Present);
    assert!(journal.begin(at(2)), "a place");
    for second in [3, 40] {
        plan(second, Place::Present);
        plan(second + 1, Place::Next);
    }
    assert!(journal.switch() && journal.begin(at(50)), "places");
    plan(51, Place::Next);
    assert!(journal.switch(), "a place");
    journal.flush();
    let until = |second| {
        let mut told = Vec::new();
        let mut replay = Replay::open(directory.path(), None).expect("a journal");
        replay.run(Some(at(second)), |event| told.extend(event.key.map(|_| event.at))).expect("a journal");
        told
    };
    assert_eq!(until(10), [1, 3, 4].map(at));
    assert_eq!(until(60), [1, 3, 40, 4, 41, 51].map(at));
}

#[tokio::test(start_paused = true)]
async fn a_journal_explains_the_present_and_the_past() {
    let start =
        Activation::of([(Mark::Stat, START + Span::from_seconds(2)), (Mark::Ready, START + Span::from_seconds(3))]);
    let directory = tempfile::tempdir().expect("a directory");
    let clock = Clock::starting_at(START);
    let mut recorded = Recorded::start(directory.path(), Compat::IMPROVED, 4 << 20, clock);
    recorded.live(2, 0..10).await;
    let plan =
        Plan { at: clock.now(), want: Some(1), max: 1, bound: "max-scale allows 1 pod".to_owned(), ..Plan::default() };
    recorded.plans.try_send((key(1), plan)).expect("a place");
    recorded.ended.try_send((key(1), start)).expect("a place");
    recorded.live(2, 10..20).await;
    // Past the ticks that are due with the last second, which the recorder's last look would have or not.
    sleep(Duration::from_millis(20)).await;
    let latest = recorded.deciders.latest(&key(1)).expect("a decision");
    recorded.end().await;
    let explain = |name: &str, at| {
        let key: RevisionKey = name.parse().expect("a key");
        of_journal(directory.path(), &key, at, Span::from_seconds(900))
    };
    let account = explain("default/r1", None).expect("an account");
    assert_eq!(account.decision.as_ref().map(bits), Some(bits(&latest)));
    for reason in &latest.because {
        assert!(account.text().contains(&reason.to_string()), "{}", account.text());
    }
    assert_eq!(account.json()["wanted"], 1);
    assert_eq!(account.activations, [start]);
    assert!(account.text().contains("1.00 s: ready 1.00 s; not seen: request, "), "{}", account.text());
    assert_eq!(account.json()["decidedBy"], latest.deciding().expect("a rule").name());
    // Before the plan was made there was only the decision.
    let past = explain("default/r1", Some(START + Span::from_seconds(5))).expect("an account");
    assert_eq!(past.plan, None);
    assert!(past.at == START + Span::from_seconds(5) && past.decision.is_some());
    let unknown = explain("default/r9", None).expect_err("no such revision").to_string();
    assert!(unknown.contains("default/r9 is not known; all there is: default/r0, default/r1"), "{unknown}");
    let early = explain("default/r1", Some(START - Span::from_seconds(60))).expect_err("before").to_string();
    assert!(early.contains("nothing was recorded of default/r1 at"), "{early}");
}

#[tokio::test(start_paused = true)]
async fn where_it_cannot_be_written_it_is_counted_and_deciding_goes_on() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("journal");
    let clock = Clock::starting_at(START);
    // The thread that writes goes by the machine's time; until it tries again this is over.
    let try_again = Span::from_seconds(3_600);
    let options = Options { most_bytes: LEAST_BYTES, try_again, ..Options::new(path.clone(), Compat::IMPROVED) };
    let journal = Journal::open(options, clock).expect("a journal");
    let mut recorded = Recorded::on(journal, Compat::IMPROVED, clock);
    let second = Journal::open(Options::new(path.clone(), Compat::IMPROVED), clock).expect_err("one writer at a time");
    assert!(second.to_string().contains("another process"), "{second}");
    let registry = Registry::new(Compat::IMPROVED);
    registry.register(recorded.journal.clone());
    recorded.live(400, 0..2).await;
    let value = |name: &str| value(&registry, name);
    assert_eq!((value("ebb_journal_writes "), value("ebb_journal_failures_total ")), (1.0, 0.0));
    fs::remove_dir_all(&path).expect("removed");
    recorded.live(400, 2..40).await;
    assert_eq!(value("ebb_journal_writes "), 0.0);
    assert!(value("ebb_journal_failures_total ") >= 1.0);
    assert!(value("ebb_journal_batches_dropped_total ") >= 1.0);
    let last = recorded.made.keys().map(|(_, at)| *at).max().expect("a decision");
    assert!(clock.now().since(last) <= Span::from_seconds(3), "decisions go on");
    let no_directory = Journal::open(Options::new(PathBuf::from("/dev/null/x"), Compat::IMPROVED), clock);
    assert!(no_directory.is_err());
    let empty = Replay::open(directory.path(), None).expect_err("no journal").to_string();
    assert!(empty.contains("has no journal"), "{empty}");
}

/// What a process counts under a name.
fn value(registry: &Registry, name: &str) -> f64 {
    let text = registry.exposition(Format::Prometheus);
    let line = text.lines().find(|line| line.starts_with(name)).expect("a series").to_owned();
    line[name.len()..].trim().parse().expect("a number")
}

/// Lives on, a second at a time, until it is so.
async fn live_until(recorded: &mut Recorded, second: &mut usize, what: &str, holds: impl Fn() -> bool) {
    let last = *second + 6_000;
    while !holds() {
        assert!(*second < last, "{what}: it never came");
        recorded.live(20, *second..*second + 1).await;
        // The thread that writes goes by the machine's time.
        std::thread::sleep(Duration::from_millis(5));
        *second += 1;
    }
}

/// Every decision from a second after the first that a journal has on is in it.
fn all_since_the_first(directory: &Path, made: &Decisions) {
    let (decisions, agreement, _) = replayed(directory).expect("a journal");
    assert_eq!(agreement.differing, 0);
    let first = decisions.keys().map(|(_, at)| *at).min().expect("a decision");
    let later: Vec<_> = made.iter().filter(|((_, at), _)| *at > first + Span::SECOND).collect();
    assert!(later.len() > 100, "{}", later.len());
    assert!(later.iter().all(|(at, decision)| decisions.get(at).map(bits) == Some(bits(decision))));
}

#[tokio::test(start_paused = true)]
async fn what_somebody_removes_is_missed_at_once_and_begun_anew() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("journal");
    let clock = Clock::starting_at(START);
    let options = Options { try_again: Span::from_millis(20), ..Options::new(path.clone(), Compat::IMPROVED) };
    let journal = Journal::open(options, clock).expect("a journal");
    let registry = Registry::new(Compat::IMPROVED);
    registry.register(journal.clone());
    let mut recorded = Recorded::on(journal, Compat::IMPROVED, clock);
    recorded.live(20, 0..2).await;
    fs::remove_dir_all(&path).expect("removed");
    let mut second = 2;
    let failures = || value(&registry, "ebb_journal_failures_total ");
    live_until(&mut recorded, &mut second, "that it is missed", || failures() >= 1.0).await;
    let writes = || value(&registry, "ebb_journal_writes ");
    live_until(&mut recorded, &mut second, "a new one", || writes() == 1.0 && path.is_dir()).await;
    recorded.live(20, second..second + 30).await;
    let made = recorded.end().await;
    all_since_the_first(&path, &made);
}

/// A small disk, where this may be had.
struct Disk(tempfile::TempDir);

impl Disk {
    fn of(bytes: u64) -> Option<Self> {
        let directory = tempfile::tempdir().expect("a directory");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "tmpfs"]).arg(directory.path());
        let mounted = mount.output().is_ok_and(|output| output.status.success());
        mounted.then_some(Self(directory))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
    }
}

#[tokio::test(start_paused = true)]
async fn on_a_full_disk_nothing_piles_up_and_the_oldest_makes_room() {
    let Some(disk) = Disk::of(3 << 19) else {
        eprintln!("skipped: no file system can be mounted here");
        return;
    };
    let path = disk.0.path();
    let clock = Clock::starting_at(START);
    // Allowed is far more than there is.
    let options = Options { try_again: Span::from_millis(20), ..Options::new(path.to_owned(), Compat::IMPROVED) };
    let journal = Journal::open(options, clock).expect("a journal");
    let registry = Registry::new(Compat::IMPROVED);
    registry.register(journal.clone());
    let mut recorded = Recorded::on(journal, Compat::IMPROVED, clock);
    // By itself it takes no more than there is.
    let mut second = 0;
    let bytes = || value(&registry, "ebb_journal_bytes_total ");
    while bytes() < f64::from(2 << 20) {
        recorded.live(40, second..second + 1).await;
        second += 1;
    }
    assert_eq!(value(&registry, "ebb_journal_failures_total "), 0.0);
    // Somebody else takes the rest.
    let taken = path.join("other");
    let mut other = fs::File::create(&taken).expect("a file");
    while other.write_all(&[1; 4096]).is_ok() {}
    let failures = || value(&registry, "ebb_journal_failures_total ");
    live_until(&mut recorded, &mut second, "that it is noticed", || failures() >= 1.0).await;
    let room = (0..2_000).find(|_| {
        std::thread::sleep(Duration::from_millis(1));
        other.write_all(&[1; 512]).is_ok() || failures() >= 3.0
    });
    assert!(room.is_some(), "it made no room");
    drop(other);
    fs::remove_file(&taken).expect("removed");
    recorded.live(20, second..second + 1).await;
    second += 1;
    let writes = || value(&registry, "ebb_journal_writes ");
    live_until(&mut recorded, &mut second, "that it goes on", || writes() == 1.0).await;
    recorded.live(20, second..second + 30).await;
    recorded.end().await;
    let files = files(path);
    assert!((1..=9).contains(&files.len()), "{files:?}");
    assert!(files.iter().all(|file| fs::metadata(file).expect("a file").len() > 0), "none is empty");
    let (_, agreement, _) = replayed(path).expect("a journal");
    assert_eq!(agreement.differing, 0);
}

#[tokio::test(start_paused = true)]
async fn a_journal_that_is_small_for_its_revisions_is_not_begun_anew_all_the_time() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut recorded = Recorded::start(directory.path(), Compat::IMPROVED, LEAST_BYTES, Clock::starting_at(START));
    let registry = Registry::new(Compat::IMPROVED);
    registry.register(recorded.journal.clone());
    // What each file begins with is longer than an eighth of the space. Begun with each look, they would be a hundred.
    recorded.live(800, 0..10).await;
    let bytes = value(&registry, "ebb_journal_bytes_total ");
    assert!(bytes < 4.0 * 1024.0 * 1024.0, "{bytes}");
    recorded.end().await;
    assert_eq!(replayed(directory.path()).expect("a journal").1.differing, 0);
}

#[tokio::test(start_paused = true)]
async fn a_damaged_file_takes_nothing_from_what_the_others_explain() {
    let directory = tempfile::tempdir().expect("a directory");
    let clock = Clock::starting_at(START);
    for seconds in [0..12, 0..10] {
        let mut recorded = Recorded::start(directory.path(), Compat::IMPROVED, 4 << 20, clock);
        recorded.live(3, seconds).await;
        recorded.end().await;
    }
    let [first, last] = files(directory.path()).try_into().expect("two files");
    let explain = || of_journal(directory.path(), &key(1), None, Span::from_seconds(900));
    let whole = explain().expect("an account");
    let spoil = |file: &Path| {
        let mut bytes = fs::read(file).expect("read");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x10;
        fs::write(file, bytes).expect("written");
    };
    spoil(&first);
    assert!(matches!(replayed(directory.path()), Err(JournalError::Damaged { .. })), "an audit is of all of it");
    let account = explain().expect("an account");
    assert_eq!((&account.decision, account.at), (&whole.decision, whole.at));
    let said = account.notes.iter().find(|note| note.contains("nothing could be read")).expect("a note");
    assert!(said.contains(first.to_str().expect("text")) && said.contains("is damaged"), "{said}");
    // What comes before the damage is known too.
    spoil(&last);
    let account = explain().expect("an account");
    assert!(account.at < whole.at && account.decision.is_some(), "{account:?}");
    // Of a revision nobody recorded it is said which there are.
    let unknown = of_journal(directory.path(), &key(7), None, Span::SECOND).expect_err("no such revision");
    assert!(unknown.to_string().contains("all there is: default/r0, default/r1, default/r2"), "{unknown}");
}

#[tokio::test(start_paused = true)]
async fn what_is_over_is_explained_as_it_was() {
    let directory = tempfile::tempdir().expect("a directory");
    let clock = Clock::starting_at(START);
    let mut recorded = Recorded::start(directory.path(), Compat::IMPROVED, 4 << 20, clock);
    recorded.live(3, 0..10).await;
    let latest = recorded.deciders.latest(&key(1)).expect("a decision");
    let gone_with = recorded.deciders.latest(&key(2)).expect("a decision");
    // One is deleted, one is not this replica's any more, and then another process begins that knows neither.
    recorded.deciders.remove_decider(&key(2));
    recorded.deciders.remove_windows(&key(2));
    sleep(Duration::from_millis(300)).await;
    for bucket in 0..3 {
        recorded.deciders.let_go(bucket);
    }
    sleep(Duration::from_millis(300)).await;
    recorded.end().await;
    let mut again = Recorded::start(directory.path(), Compat::IMPROVED, 4 << 20, clock);
    again.live(1, 0..3).await;
    again.end().await;
    for (number, decision, says) in
        [(1, latest, "was not this replica's any more"), (2, gone_with, "its decider was taken away")]
    {
        let account = of_journal(directory.path(), &key(number), None, Span::from_seconds(900)).expect("an account");
        assert!(account.spec.is_some());
        assert_eq!(account.decision.as_ref().map(|it| it.desired), Some(decision.desired), "{account:?}");
        assert!(account.notes.iter().any(|note| note.contains(says)), "{says}: {:?}", account.notes);
    }
}

/// As while the process before this one has not ended, or until somebody mends the directory.
#[tokio::test(start_paused = true)]
async fn a_directory_that_cannot_be_had_yet_is_tried_again() {
    let directory = tempfile::tempdir().expect("a directory");
    let clock = Clock::starting_at(START);
    // The thread that writes goes by the machine's time.
    let options =
        || Options { try_again: Span::from_millis(20), ..Options::new(directory.path().to_owned(), Compat::IMPROVED) };
    let before = Journal::open(options(), clock).expect("a journal");
    let journal = Journal::open_when_possible(options(), clock).expect("a journal to come");
    let registry = Registry::new(Compat::IMPROVED);
    registry.register(journal.clone());
    let mut recorded = Recorded::on(journal, Compat::IMPROVED, clock);
    let value = |name: &str| value(&registry, name);
    let mut second = 0;
    let failures = || value("ebb_journal_failures_total ");
    live_until(&mut recorded, &mut second, "another try", || failures() >= 3.0).await;
    assert_eq!(value("ebb_journal_writes "), 0.0);
    drop(before);
    live_until(&mut recorded, &mut second, "a journal", || value("ebb_journal_writes ") == 1.0).await;
    recorded.live(20, second..second + 30).await;
    let made = recorded.end().await;
    all_since_the_first(directory.path(), &made);
    let small = Options { most_bytes: 1, ..options() };
    assert!(Journal::open_when_possible(small, clock).is_err(), "that will never do");
}
