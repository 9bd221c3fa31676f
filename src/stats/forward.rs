//! Passing stats on to the replica that owns the revision.
//!
//! Each bucket has a queue and a task of its own, so that a holder which cannot be reached holds up nothing but what is
//! meant for it; what this replica owns never comes here. A bucket's task connects to the holder's address and, where
//! that does not work within 500 ms, to the bucket's Service; the first that works is kept until the holder changes.
//! Every stat travels in a frame of its own.
//!
//! | what happens | what becomes of the stat |
//! |---|---|
//! | the holder cannot be reached, or does not keep up | tried again every 500 ms, for 15 s, then dropped |
//! | nobody holds the bucket | the same; whoever gets it in time gets the stat |
//! | this replica gets the bucket meanwhile | taken in here |
//! | it comes back from a replica it was sent to | waits for its owner like the others, but is not sent again |
//! | more wait than may | the oldest is dropped |
//!
//! Two replicas that each believe that the other is the owner would send a stat to and fro for ever. The wire has no
//! place for a count of hops, so each replica remembers for [`REMEMBERED`] what it passed on: what another replica
//! sends and what is remembered goes no further. A stat can travel along a chain of mistaken replicas, but never pass
//! one of them twice.

use crate::clock::Clock;
use crate::k8s::dial::Dial;
use crate::observe::metrics::{self, Page, Source};
use crate::ownership::holder::{Holder, Remote};
use crate::stats::client::{self, Handle};
use crate::stats::server::Received;
use crate::stats::wire::{WireStatMessage, encode_batch};
use crate::units::{Span, Timestamp};
use std::collections::{HashSet, VecDeque};
use std::future::pending;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep_until, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tracing::{Instrument as _, info, info_span, warn};

/// How long an address may take until a websocket is open.
pub const ESTABLISH: Duration = Duration::from_millis(500);
/// How long a stat waits until it is tried again.
pub const RETRY: Span = Span::from_millis(500);
/// For how long it is tried again, at most thirty times. Load that is older says nothing any more.
pub const LIFE: Span = Span::from_seconds(15);
/// How many stats of one bucket may wait to be sent, and as many to be tried again: the revisions of a large bucket,
/// each reporting once.
pub const MOST_WAITING: usize = 4096;
/// How long it is remembered what was passed on; longer than a stat lives.
pub const REMEMBERED: Span = Span::from_seconds(20);
/// How many are remembered of each half of that time. In a flood, what came first is forgotten first.
const MOST_REMEMBERED: usize = 1 << 15;

/// What happened since the start.
#[derive(Debug, Default)]
pub struct Counters {
    /// Stats that wait to be sent now.
    pub waiting: AtomicU64,
    /// Stats sent to their owner.
    pub forwarded: AtomicU64,
    /// Times a stat was put back to be tried again.
    pub retried: AtomicU64,
    /// Stats that waited for another holder and were taken in here, because the bucket became ours.
    pub taken_in: AtomicU64,
    /// Stats dropped because nobody held the bucket for too long.
    pub dropped_without_owner: AtomicU64,
    /// Stats dropped because the holder could not be reached for too long.
    pub dropped_unreachable: AtomicU64,
    /// Stats dropped because the replicas they were sent to passed them back.
    pub dropped_circulating: AtomicU64,
    /// Stats dropped because too many waited.
    pub dropped_crowded: AtomicU64,
}

/// Passes stats on. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Forwarder {
    queues: Arc<[mpsc::Sender<Received>]>,
    counters: Arc<Counters>,
}

impl Source for Forwarder {
    fn show(&self, page: &mut Page<'_>) {
        let counters = self.counters();
        page.counter(
            "ebb_stats_forwarded_total",
            "Stats sent to the replica that owns their revision.",
            metrics::count(&counters.forwarded),
        );
        page.counter(
            "ebb_stats_forward_retries_total",
            "Times a stat was put back to be sent later.",
            metrics::count(&counters.retried),
        );
        page.counters(
            "ebb_stats_forward_dropped_total",
            "Stats for another replica that were dropped, by cause.",
            ["cause"],
            [
                (["circulating"], metrics::count(&counters.dropped_circulating)),
                (["crowded"], metrics::count(&counters.dropped_crowded)),
                (["unreachable"], metrics::count(&counters.dropped_unreachable)),
                (["without_owner"], metrics::count(&counters.dropped_without_owner)),
            ],
        );
    }
}

impl Forwarder {
    /// Starts a task for each bucket on `tasks`, until `cancel`. `holders` says for each who holds it; `take_in` gets
    /// the stats of buckets that become this replica's while stats wait, and must not block.
    pub fn start(
        holders: Vec<watch::Receiver<Holder>>,
        dial: &Arc<dyn Dial>,
        clock: Clock,
        take_in: &Arc<dyn Fn(Received) + Send + Sync>,
        tasks: &TaskTracker,
        cancel: &CancellationToken,
    ) -> Self {
        let counters = Arc::<Counters>::default();
        let queues = holders.into_iter().enumerate().map(|(bucket, holder)| {
            let (sender, queue) = mpsc::channel(MOST_WAITING);
            let route = Route {
                holder,
                queue,
                waiting: VecDeque::new(),
                link: None,
                connect_at: clock.now(),
                sent: Remembered::default(),
                dial: Arc::clone(dial),
                clock,
                take_in: Arc::clone(take_in),
                counters: Arc::clone(&counters),
                cancel: cancel.clone(),
            };
            tasks.spawn(route.run().instrument(info_span!("forward", bucket)));
            sender
        });
        Self { queues: queues.collect(), counters }
    }

    /// Passes a stat of a bucket on, sooner or later or not at all; never waits. Its timestamp must be set.
    pub fn forward(&self, bucket: usize, received: Received) {
        self.counters.waiting.fetch_add(1, Ordering::Relaxed);
        if self.queues[bucket].try_send(received).is_err() {
            self.counters.waiting.fetch_sub(1, Ordering::Relaxed);
            self.counters.dropped_crowded.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until nothing waits to be sent.
    pub async fn settled(&self) {
        while self.counters.waiting.load(Ordering::Relaxed) > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// What happened since the start.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }
}

/// The way to the holder of one bucket.
struct Route {
    holder: watch::Receiver<Holder>,
    queue: mpsc::Receiver<Received>,
    /// By when they are due, which is the order in which they were put here.
    waiting: VecDeque<Waiting>,
    link: Option<Link>,
    /// No new attempt to connect before.
    connect_at: Timestamp,
    sent: Remembered,
    dial: Arc<dyn Dial>,
    clock: Clock,
    take_in: Arc<dyn Fn(Received) + Send + Sync>,
    counters: Arc<Counters>,
    cancel: CancellationToken,
}

struct Waiting {
    due: Timestamp,
    until: Timestamp,
    received: Received,
}

/// A connection that works, or did.
struct Link {
    to: Arc<Remote>,
    handle: Handle,
    _ends_with_this: DropGuard,
}

/// Why a stat was not delivered.
#[derive(Clone, Copy)]
enum Undelivered {
    NobodyHolds,
    Unreachable,
    Circulating,
}

impl Route {
    async fn run(mut self) {
        let cancel = self.cancel.clone();
        loop {
            let due = self.waiting.front().map(|first| self.clock.instant(first.due));
            let next_due = async {
                match due {
                    Some(due) => sleep_until(due).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                () = cancel.cancelled() => return,
                changed = self.holder.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.link = None;
                    self.connect_at = self.clock.now();
                    self.deliver_all_waiting(&cancel).await;
                }
                received = self.queue.recv() => {
                    let Some(received) = received else { return };
                    let now = self.clock.now();
                    tokio::select! {
                        () = cancel.cancelled() => return,
                        () = self.deliver(Waiting { due: now, until: now + LIFE, received }) => {}
                    }
                }
                () = next_due => {
                    let now = self.clock.now();
                    while let Some(first) = self.waiting.pop_front_if(|first| first.due <= now) {
                        tokio::select! {
                            () = cancel.cancelled() => return,
                            () = self.deliver(first) => {}
                        }
                    }
                }
            }
        }
    }

    /// Tries everything that waits, whether due or not.
    async fn deliver_all_waiting(&mut self, cancel: &CancellationToken) {
        for waiting in std::mem::take(&mut self.waiting) {
            tokio::select! {
                () = cancel.cancelled() => return,
                () = self.deliver(waiting) => {}
            }
        }
    }

    async fn deliver(&mut self, mut waiting: Waiting) {
        let holder = self.holder.borrow().clone();
        let outcome = match holder {
            Holder::Local => {
                count(&self.counters.taken_in);
                self.counters.waiting.fetch_sub(1, Ordering::Relaxed);
                (self.take_in)(waiting.received);
                return;
            }
            Holder::Nobody => Err(Undelivered::NobodyHolds),
            Holder::Remote(remote) => self.send(&remote, &waiting.received).await,
        };
        let Err(why) = outcome else {
            self.counters.waiting.fetch_sub(1, Ordering::Relaxed);
            return;
        };
        let now = self.clock.now();
        if waiting.until <= now {
            self.counters.waiting.fetch_sub(1, Ordering::Relaxed);
            count(match why {
                Undelivered::NobodyHolds => &self.counters.dropped_without_owner,
                Undelivered::Unreachable => &self.counters.dropped_unreachable,
                Undelivered::Circulating => &self.counters.dropped_circulating,
            });
            return;
        }
        if self.waiting.len() >= MOST_WAITING {
            self.waiting.pop_front();
            self.counters.waiting.fetch_sub(1, Ordering::Relaxed);
            count(&self.counters.dropped_crowded);
        }
        count(&self.counters.retried);
        waiting.due = now + RETRY;
        self.waiting.push_back(waiting);
    }

    async fn send(&mut self, remote: &Arc<Remote>, received: &Received) -> Result<(), Undelivered> {
        let now = self.clock.now();
        let frame = encode_batch(vec![WireStatMessage::new(&received.key, received.stat.clone())]);
        if received.relayed && self.sent.contains(&frame, now) {
            return Err(Undelivered::Circulating);
        }
        // The holder may have changed while others of those that waited were tried.
        if self.link.as_ref().is_some_and(|link| link.to != *remote) {
            self.link = None;
            self.connect_at = now;
        }
        if self.link.is_none() && self.connect_at <= now {
            self.connect(remote).await;
        }
        let link = self.link.as_ref().ok_or(Undelivered::Unreachable)?;
        link.handle.send_within(frame.clone(), ESTABLISH).await.map_err(|_| Undelivered::Unreachable)?;
        self.sent.insert(&frame, now);
        count(&self.counters.forwarded);
        Ok(())
    }

    /// Connects to the first address that answers in time.
    async fn connect(&mut self, remote: &Arc<Remote>) {
        for url in &remote.urls {
            let cancel = self.cancel.child_token();
            let guard = cancel.clone().drop_guard();
            let handle = match client::spawn(url, Arc::clone(&self.dial), cancel) {
                Ok(handle) => handle,
                Err(error) => {
                    warn!(%error, "the holder of the bucket has no address stats can be sent to");
                    continue;
                }
            };
            let mut connected = handle.connected();
            if let Ok(Ok(_)) = timeout(ESTABLISH, connected.wait_for(|connected| *connected)).await {
                info!(url, holder = remote.name, "stats of the bucket go there");
                self.link = Some(Link { to: Arc::clone(remote), handle, _ends_with_this: guard });
                return;
            }
        }
        self.connect_at = self.clock.now() + RETRY;
    }
}

/// What was passed on lately, by a hash of its frame.
#[derive(Default)]
struct Remembered {
    newer: HashSet<u64>,
    older: HashSet<u64>,
    turned: Timestamp,
}

impl Remembered {
    fn contains(&mut self, frame: &[u8], now: Timestamp) -> bool {
        self.turn(now);
        let hash = hash(frame);
        self.newer.contains(&hash) || self.older.contains(&hash)
    }

    fn insert(&mut self, frame: &[u8], now: Timestamp) {
        self.turn(now);
        self.newer.insert(hash(frame));
    }

    fn turn(&mut self, now: Timestamp) {
        if REMEMBERED <= now.since(self.turned) || MOST_REMEMBERED <= self.newer.len() {
            self.older = std::mem::take(&mut self.newer);
            self.turned = now;
        }
    }
}

fn hash(frame: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    frame.hash(&mut hasher);
    hasher.finish()
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
