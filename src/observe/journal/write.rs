//! The writer: a thread with a queue, since files block.

use crate::clock::Clock;
use crate::engine::written::RevisionForm;
use crate::engine::{Input, Print};
use crate::observe::journal::form::{self, Activated, Begin, Decided, Frame, MAGIC, Name, Planned, Record, State};
use crate::observe::journal::{EXTENSION, LEAST_BYTES, MOST_WAITING, USUAL_BYTES, VERSION};
use crate::observe::ledger::Activation;
use crate::observe::metrics::{Page, Source, count};
use crate::observe::plan::Plan;
use crate::units::{Compat, Numbered, RevisionKey, Span, Timestamp};
use foldhash::{HashMap, HashMapExt as _, HashSet, HashSetExt as _};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use tracing::{info, warn};

/// How often what was written is handed to the disk …
const TO_DISK: Span = Span::from_millis(500);
/// … and after how many bytes, so that what waits to be written tells how fast the disk is.
const MOST_UNSYNCED: u64 = 8 << 20;
/// How long after a failure the next file is tried, unless it is said.
const TRY_AGAIN: Span = Span::from_seconds(10);
/// From this length on states and inputs go to the next record.
const ENOUGH: usize = 256 << 10;
/// Orders of states that may wait to be written. Each is of 64 revisions, with windows of an hour some 4 MiB.
const ROOM: usize = 8;
/// Files the allowed space is divided into.
const FILES: u64 = 8;
/// The file whose lock says that a process writes here.
const LOCK: &str = "lock";

/// How a journal is kept.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where; made if it does not exist.
    pub directory: PathBuf,
    /// The space all files may take together, in bytes; at least [`LEAST_BYTES`].
    pub most_bytes: u64,
    /// How the process decides, without which nothing can be replayed.
    pub compat: Compat,
    /// The pod that writes; empty when it is none.
    pub pod: String,
    /// How long after a failure it is tried again.
    pub try_again: Span,
}

impl Options {
    /// A journal in `directory` of the usual size, which is tried again ten seconds after a failure.
    pub fn new(directory: PathBuf, compat: Compat) -> Self {
        Self { directory, most_bytes: USUAL_BYTES, compat, pod: String::new(), try_again: TRY_AGAIN }
    }

    fn check(&self) -> io::Result<()> {
        if LEAST_BYTES <= self.most_bytes {
            return Ok(());
        }
        let why = format!("a journal of {} bytes is too small; give it at least {LEAST_BYTES}", self.most_bytes);
        Err(io::Error::new(io::ErrorKind::InvalidInput, why))
    }

    /// Makes the directory, and takes it for this process.
    fn lock(&self) -> io::Result<File> {
        fs::create_dir_all(&self.directory)?;
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(self.directory.join(LOCK))?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => io::Error::new(
                io::ErrorKind::ResourceBusy,
                "another process writes its journal here; choose another directory",
            ),
            TryLockError::Error(error) => error,
        })?;
        Ok(lock)
    }
}

/// Which file a batch goes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// The present one.
    Present,
    /// The one after it.
    Next,
}

/// Some of what happened.
#[derive(Clone, Debug)]
pub struct Batch {
    /// When it was taken; nothing in it is later.
    pub now: Timestamp,
    /// States of revisions.
    pub states: Vec<(Numbered, RevisionForm)>,
    /// Revisions that came, with nothing yet or with the state in which another process left them.
    pub begun: Vec<(Numbered, Option<RevisionForm>)>,
    /// Inputs after those states, by the number of their revision, in the order they acted.
    pub inputs: Vec<(u32, Input)>,
    /// The decisions some of them led to, by the place of the input.
    pub decisions: Vec<(usize, Print)>,
    /// Revisions that are not this replica's any more.
    pub gone: Vec<u32>,
    /// What the controller made of decisions.
    pub plans: Vec<(RevisionKey, Plan)>,
    /// Cold starts that ended.
    pub activations: Vec<(RevisionKey, Activation)>,
    /// Whether something is missing before these.
    pub lost: bool,
}

impl Batch {
    /// Nothing, as of `now`.
    pub fn nothing(now: Timestamp) -> Self {
        let (states, begun, inputs, decisions) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let (gone, plans, activations) = (Vec::new(), Vec::new(), Vec::new());
        Self { now, states, begun, inputs, decisions, gone, plans, activations, lost: false }
    }

    /// Whether there is nothing to write.
    pub fn is_nothing(&self) -> bool {
        let Self { states, begun, inputs, gone, plans, activations, lost, .. } = self;
        let told = states.is_empty() && begun.is_empty() && inputs.is_empty() && gone.is_empty();
        told && plans.is_empty() && activations.is_empty() && !lost
    }
}

enum Order {
    /// The next file begins.
    Begin(Timestamp),
    Write(Place, Batch),
    /// The next file is the present one from here on.
    Switch,
    /// Everything before is to be on the disk; then this is told.
    Flush(SyncSender<()>),
    /// The directory could not be had.
    Fail(io::Error),
}

/// What was counted since the journal was opened.
#[derive(Debug, Default)]
struct Counters {
    bytes: AtomicU64,
    records: AtomicU64,
    failures: AtomicU64,
    dropped: AtomicU64,
    gaps: AtomicU64,
}

/// A journal that is written. Cheap to clone; all clones are one. It ends when the last clone is gone.
#[derive(Clone, Debug)]
pub struct Journal {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    orders: Mutex<Option<SyncSender<Order>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    told: Arc<Told>,
}

/// What the thread tells.
#[derive(Debug, Default)]
struct Told {
    /// A new file is wanted: the present one is full, or there is none.
    wants_file: AtomicBool,
    /// It was begun, and is the present one as soon as the thread has come that far. A disk that is slow is not to be given one
    /// after the other meanwhile.
    has_file: AtomicBool,
    /// Whether the last write succeeded.
    writes: AtomicBool,
    /// Orders that wait.
    waiting: AtomicUsize,
    counters: Counters,
}

impl Source for Journal {
    fn show(&self, page: &mut Page<'_>) {
        let Told { counters, writes, .. } = &*self.shared.told;
        let up = u64::from(writes.load(Ordering::Relaxed));
        page.gauge("ebb_journal_writes", "Whether the journal can be written, 1 or 0.", up);
        page.counter("ebb_journal_bytes_total", "Bytes written to the journal.", count(&counters.bytes));
        page.counter("ebb_journal_records_total", "Records written to the journal.", count(&counters.records));
        page.counter(
            "ebb_journal_failures_total",
            "Times the journal could not be written.",
            count(&counters.failures),
        );
        page.counter(
            "ebb_journal_batches_dropped_total",
            "Batches of inputs that were not recorded, because the disk could not follow or could not be written.",
            count(&counters.dropped),
        );
        page.counter(
            "ebb_journal_gaps_total",
            "Times recording had to begin afresh because something is missing.",
            count(&counters.gaps),
        );
    }
}

impl Journal {
    /// Opens a journal for writing; a new file begins with the first batch. Nobody else may write there meanwhile.
    ///
    /// # Errors
    /// When the directory cannot be made or locked, or the space is too small.
    pub fn open(options: Options, clock: Clock) -> io::Result<Self> {
        options.check()?;
        let lock = options.lock()?;
        Self::start(options, clock, Some(lock))
    }

    /// The same, but a directory that cannot be had now is tried again and again: nothing is recorded meanwhile,
    /// and that is counted and logged. For what must run whatever becomes of its journal.
    ///
    /// # Errors
    /// When the space is too small.
    pub fn open_when_possible(options: Options, clock: Clock) -> io::Result<Self> {
        options.check()?;
        match options.lock() {
            Ok(lock) => Self::start(options, clock, Some(lock)),
            Err(error) => {
                let journal = Self::start(options, clock, None)?;
                journal.send(Order::Fail(error));
                Ok(journal)
            }
        }
    }

    fn start(options: Options, clock: Clock, lock: Option<File>) -> io::Result<Self> {
        let (orders, queue) = mpsc::sync_channel(MOST_WAITING);
        let told = Arc::new(Told { wants_file: AtomicBool::new(lock.is_some()), ..Told::default() });
        told.writes.store(lock.is_some(), Ordering::Relaxed);
        let most_bytes = options.most_bytes;
        let mut writer = Writer {
            options,
            clock,
            told: Arc::clone(&told),
            present: None,
            next: None,
            failed: None,
            synced: clock.now(),
            lock,
            most_bytes,
            crowded: false,
            frame: Frame::default(),
        };
        let thread = std::thread::Builder::new().name("journal".to_owned()).spawn(move || writer.run(&queue))?;
        let shared = Shared { orders: Mutex::new(Some(orders)), thread: Mutex::new(Some(thread)), told };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Whether a new file is to be begun: [`begin`](Self::begin), every revision's state for [`Place::Next`], then
    /// [`switch`](Self::switch).
    pub fn wants_file(&self) -> bool {
        let Told { wants_file, has_file, .. } = &*self.shared.told;
        // In this order: the thread takes the wish back before it says that the file is the present one.
        !has_file.load(Ordering::Acquire) && wants_file.load(Ordering::Acquire)
    }

    /// Hands over a batch; `false` when there was no place for it. Never waits.
    pub fn write(&self, place: Place, batch: Batch) -> bool {
        let lost = batch.lost;
        let sent = self.send(Order::Write(place, batch));
        let counters = &self.shared.told.counters;
        if !sent {
            counters.dropped.fetch_add(1, Ordering::Relaxed);
        } else if lost {
            counters.gaps.fetch_add(1, Ordering::Relaxed);
        }
        sent
    }

    /// Begins the next file; one that was begun and is not the present one yet is dropped. `false` when there was no place
    /// for the order. Never waits.
    pub fn begin(&self, now: Timestamp) -> bool {
        self.send(Order::Begin(now))
    }

    /// The next file is the present one from here on; `false` when there was no place for the order. Never waits.
    pub fn switch(&self) -> bool {
        // Said before it is ordered, so that the thread has the last word.
        let has_file = &self.shared.told.has_file;
        has_file.store(true, Ordering::Release);
        let sent = self.send(Order::Switch);
        if !sent {
            has_file.store(false, Ordering::Release);
        }
        sent
    }

    /// Returns when all that was handed over is on the disk. It waits, so not in a task.
    pub fn flush(&self) {
        let _ = self.flushing().recv();
    }

    /// Tells when all that was handed over is on the disk. Until that is taken, or nobody waits for it any more, nothing is
    /// written, as on a disk that hangs.
    pub fn flushing(&self) -> mpsc::Receiver<()> {
        let (done, wait) = mpsc::sync_channel(0);
        let orders = self.shared.orders.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(orders) = orders {
            self.shared.told.waiting.fetch_add(1, Ordering::Relaxed);
            // Without a thread there is nobody to tell, and the receiver says so.
            let _ = orders.send(Order::Flush(done));
        }
        wait
    }

    /// How many batches of states are to be handed over at most before it is asked again: those can wait. What happens does
    /// not, and is handed over in any case.
    pub fn room(&self) -> usize {
        ROOM.saturating_sub(self.shared.told.waiting.load(Ordering::Relaxed))
    }

    fn send(&self, order: Order) -> bool {
        let orders = self.shared.orders.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = &self.shared.told.waiting;
        // Counted before it can have been taken.
        waiting.fetch_add(1, Ordering::Relaxed);
        let sent = orders.as_ref().is_some_and(|orders| orders.try_send(order).is_ok());
        if !sent {
            waiting.fetch_sub(1, Ordering::Relaxed);
        }
        sent
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // Without a sender the thread writes what is left and ends.
        self.orders.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = self.thread.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = thread.join();
        }
    }
}

struct Writer {
    options: Options,
    clock: Clock,
    told: Arc<Told>,
    present: Option<Open>,
    next: Option<Open>,
    /// When it failed, until the next try.
    failed: Option<Timestamp>,
    synced: Timestamp,
    /// Held as long as this process writes; `None` until the directory could be had.
    lock: Option<File>,
    /// The space all files may take together, less than the allowed where the disk has less.
    most_bytes: u64,
    /// It was said that this is too little.
    crowded: bool,
    /// Kept for its memory.
    frame: Frame,
}

/// A file that is being written.
struct Open {
    path: PathBuf,
    file: File,
    length: u64,
    /// How much of that are the states it began with, once they are all there.
    states: u64,
    /// The latest number of each revision, for what comes with a key.
    numbers: HashMap<RevisionKey, u32>,
    /// All numbers that were given a name in it.
    named: HashSet<u32>,
    /// Bytes that were not handed to the disk.
    unsynced: u64,
}

impl Writer {
    fn run(&mut self, queue: &mpsc::Receiver<Order>) {
        loop {
            let order = queue.recv_timeout(Duration::from_millis(250));
            if order.is_ok() {
                self.told.waiting.fetch_sub(1, Ordering::Relaxed);
            }
            let outcome = match order {
                Ok(Order::Write(place, batch)) => self.write(place, batch),
                Ok(Order::Begin(now)) => self.begin(now),
                Ok(Order::Switch) => self.switch(),
                Ok(Order::Flush(done)) => {
                    let synced = self.sync();
                    let _ = done.send(());
                    synced
                }
                Ok(Order::Fail(error)) => Err(error),
                Err(RecvTimeoutError::Timeout) => Ok(()),
                Err(RecvTimeoutError::Disconnected) => {
                    let _ = self.sync();
                    return;
                }
            };
            let now = self.clock.now();
            let outcome = outcome.and_then(|()| {
                let open = self.present.iter().chain(&self.next);
                let is_due = TO_DISK <= now.since(self.synced) || MOST_UNSYNCED <= open.map(|open| open.unsynced).sum();
                if is_due { self.sync() } else { Ok(()) }
            });
            match outcome {
                Ok(()) => {}
                Err(error) => self.fail(&error, now),
            }
            if self.failed.is_some_and(|failed| now.since(failed) >= self.options.try_again) {
                self.failed = None;
                self.told.wants_file.store(true, Ordering::Release);
            }
        }
    }

    fn fail(&mut self, error: &io::Error, now: Timestamp) {
        self.told.counters.failures.fetch_add(1, Ordering::Relaxed);
        let (path, wait) = (self.options.directory.display(), self.options.try_again);
        warn!(%error, "the journal in {path} cannot be written; tried again in {wait}, autoscaling goes on without");
        self.present = None;
        if let Some(unfinished) = self.next.take() {
            let _ = fs::remove_file(&unfinished.path);
        }
        if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
            self.give_way();
        }
        // With the directory its lock is gone; both are made again.
        self.lock = self.lock.take().filter(|lock| !is_gone(lock));
        self.failed = Some(now);
        self.told.writes.store(false, Ordering::Relaxed);
        self.told.wants_file.store(false, Ordering::Release);
        self.told.has_file.store(false, Ordering::Release);
    }

    fn write(&mut self, place: Place, batch: Batch) -> io::Result<()> {
        let open = match place {
            Place::Present => &mut self.present,
            Place::Next => &mut self.next,
        };
        let Some(open) = open else {
            // Before the first file there is nothing to be lost yet; after a failure there is.
            if self.failed.is_some() {
                self.told.counters.dropped.fetch_add(1, Ordering::Relaxed);
            }
            return Ok(());
        };
        open.write(batch, &mut self.frame, &self.told.counters)?;
        self.told.writes.store(true, Ordering::Relaxed);
        // At least half of a file tells what happened, however little space there is.
        if place == Place::Present && open.length >= (self.most_bytes / FILES).max(2 * open.states) {
            self.told.wants_file.store(true, Ordering::Release);
        }
        Ok(())
    }

    /// Begins a file with a record that says who writes.
    fn begin(&mut self, now: Timestamp) -> io::Result<()> {
        if self.failed.is_some() {
            return Ok(());
        }
        if self.lock.is_none() {
            self.lock = Some(self.options.lock()?);
        }
        if let Some(unfinished) = self.next.take() {
            fs::remove_file(&unfinished.path)?;
        }
        let path = self.options.directory.join(format!("{:020}.{EXTENSION}", now.nanos()));
        self.most_bytes = self.room();
        let mut file = OpenOptions::new().create_new(true).append(true).open(&path)?;
        let begin = Begin {
            version: VERSION,
            program: env!("CARGO_PKG_VERSION").to_owned(),
            strict: self.options.compat == Compat::STRICT,
            after_gap: self.present.is_none(),
            pod: self.options.pod.clone(),
        };
        let record = Record { time: now.nanos(), begin: Some(begin), ..Record::default() };
        let mut bytes = MAGIC.to_vec();
        bytes.extend(form::encode(&record));
        if let Err(error) = file.write_all(&bytes) {
            // Tried again and again, such files would become many.
            let _ = fs::remove_file(&path);
            return Err(error);
        }
        let length = bytes.len() as u64;
        self.next = Some(Open {
            path,
            file,
            length,
            states: 0,
            numbers: HashMap::new(),
            named: HashSet::new(),
            unsynced: length,
        });
        Ok(())
    }

    fn switch(&mut self) -> io::Result<()> {
        let switched = self.switched();
        self.told.has_file.store(false, Ordering::Release);
        switched
    }

    fn switched(&mut self) -> io::Result<()> {
        let Some(mut next) = self.next.take() else { return Ok(()) };
        next.states = next.length;
        if next.states > self.most_bytes / 4 && !std::mem::replace(&mut self.crowded, true) {
            warn!(
                bytes = next.states,
                most = self.most_bytes,
                "the states at the start of a file of the journal take much of its space; give it more with --journal-size"
            );
        }
        if let Some(before) = self.present.replace(next) {
            before.file.sync_data()?;
        }
        self.told.wants_file.store(false, Ordering::Release);
        if let Some(present) = &self.present {
            info!(file = %present.path.display(), "the journal goes on in a new file");
        }
        self.make_room()
    }

    /// The space that may be taken: as much as is allowed, and of what the disk has left for all a part only.
    fn room(&self) -> u64 {
        let allowed = self.options.most_bytes;
        let Ok(disk) = rustix::fs::statvfs(&self.options.directory) else { return allowed };
        let taken = self.files().map_or(0, |files| files.iter().map(|(length, _)| length).sum::<u64>());
        let all = disk.f_bavail.saturating_mul(disk.f_frsize).saturating_add(taken);
        allowed.min(all - all / FILES).max(LEAST_BYTES)
    }

    /// The files there are with their lengths, oldest first.
    fn files(&self) -> io::Result<Vec<(u64, PathBuf)>> {
        let files = files_of(&self.options.directory)?;
        Ok(files.into_iter().map(|path| (fs::metadata(&path).map_or(0, |file| file.len()), path)).collect())
    }

    /// Removes the oldest files until a full one more fits.
    fn make_room(&self) -> io::Result<()> {
        let files = self.files()?;
        let mut total: u64 = files.iter().map(|(length, _)| length).sum();
        // What the present one may still take, and the states at the start of the next.
        let states = self.present.as_ref().map_or(0, |open| open.states);
        let most = self.most_bytes.saturating_sub((self.most_bytes / FILES).max(2 * states));
        let written = |path: &Path| self.present.as_ref().is_some_and(|open| open.path == path);
        for (length, path) in files {
            if total <= most || written(&path) {
                break;
            }
            fs::remove_file(&path)?;
            total -= length;
        }
        Ok(())
    }

    /// On a full disk the oldest file makes room, as it does within the allowed space; the newest stays.
    fn give_way(&self) {
        if let Ok(files) = files_of(&self.options.directory)
            && let [oldest, .., _] = files.as_slice()
            && fs::remove_file(oldest).is_ok()
        {
            warn!(file = %oldest.display(), "the disk is full; the oldest file of the journal made room");
        }
    }

    fn sync(&mut self) -> io::Result<()> {
        for open in self.present.iter_mut().chain(&mut self.next) {
            if open.is_gone() {
                let why = format!("{} was removed while it was written", open.path.display());
                return Err(io::Error::new(io::ErrorKind::NotFound, why));
            }
            if std::mem::take(&mut open.unsynced) > 0 {
                open.file.sync_data()?;
            }
        }
        self.synced = self.clock.now();
        Ok(())
    }
}

/// The files of a journal, oldest first.
pub(super) fn files_of(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == EXTENSION) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

impl Open {
    /// Writes a batch, in records none of which is much longer than [`ENOUGH`] unless one state is.
    fn write(&mut self, batch: Batch, frame: &mut Frame, counters: &Counters) -> io::Result<()> {
        let Batch { now, states, begun, inputs, decisions, gone, plans, activations, lost } = batch;
        let fresh = Record { time: now.nanos(), ..Record::default() };
        frame.begin(&Record { lost, ..fresh.clone() });
        for (name, state) in states {
            let number = name.number;
            self.name(name, frame);
            frame.state(&State { number, revision: Some(state) });
            self.cut(frame, &fresh, counters)?;
        }
        for (name, state) in begun {
            let number = name.number;
            self.name(name, frame);
            if let Some(state) = state {
                frame.state(&State { number, revision: Some(state) });
            }
            self.cut(frame, &fresh, counters)?;
        }
        let mut decisions = decisions.into_iter().peekable();
        let mut inside = 0;
        for (place, (number, input)) in inputs.iter().enumerate() {
            frame.input(&input.write(*number, now));
            if let Some((_, Print { desired, bits })) = decisions.next_if(|(of, _)| *of == place) {
                frame.decided(&Decided { input: inside, desired, bits });
            }
            inside = if self.cut(frame, &fresh, counters)? { 0 } else { inside + 1 };
        }
        for (key, plan) in plans {
            let number = self.number(&key, frame);
            frame.plan(&Planned { number, plan: Some(plan.write()) });
            self.cut(frame, &fresh, counters)?;
        }
        for (key, activation) in activations {
            let number = self.number(&key, frame);
            frame.activation(&Activated { number, activation: Some(activation.write()) });
            self.cut(frame, &fresh, counters)?;
        }
        let gone = gone.into_iter().filter(|number| self.named.contains(number)).collect();
        frame.also(&Record { gone, ..Record::default() });
        self.put(frame, counters)
    }

    /// Writes the record and begins another once it is long enough; says whether it was.
    fn cut(&mut self, frame: &mut Frame, fresh: &Record, counters: &Counters) -> io::Result<bool> {
        if frame.len() < ENOUGH {
            return Ok(false);
        }
        self.put(frame, counters)?;
        frame.begin(fresh);
        Ok(true)
    }

    fn put(&mut self, frame: &mut Frame, counters: &Counters) -> io::Result<()> {
        let bytes = frame.end();
        self.file.write_all(bytes)?;
        self.length += bytes.len() as u64;
        self.unsynced += bytes.len() as u64;
        counters.records.fetch_add(1, Ordering::Relaxed);
        counters.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Tells the number that stands for a revision from here on, unless it was told in this file.
    fn name(&mut self, Numbered { number, key }: Numbered, frame: &mut Frame) {
        if self.named.insert(number) {
            frame.name(&Name { number, key: key.to_string() });
            self.numbers.insert(key, number);
        }
    }

    /// The number of a revision of which only the key is known. One that was not told of in this file gets one from the
    /// other end of the numbers.
    fn number(&mut self, key: &RevisionKey, frame: &mut Frame) -> u32 {
        if let Some(number) = self.numbers.get(key) {
            return *number;
        }
        let before = u32::try_from(self.numbers.len()).unwrap_or(u32::MAX);
        let number = u32::MAX - before;
        self.name(Numbered { number, key: key.clone() }, frame);
        number
    }

    /// Whether somebody removed it, so that what is written goes nowhere.
    fn is_gone(&self) -> bool {
        is_gone(&self.file)
    }
}

fn is_gone(file: &File) -> bool {
    file.metadata().is_ok_and(|file| file.nlink() == 0)
}
