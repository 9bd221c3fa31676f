//! Which replica owns which revision; and, before that, which PodAutoscalers are Ebb's at all ([`class`]).
//!
//! Revisions are spread over a few buckets by their names ([`ring`]). Each bucket has one owner, which alone decides
//! and writes for the bucket's revisions; the other replicas take in stats and pass them on to it.
//!
//! # How a bucket gets its owner
//!
//! In a cluster every replica stands for election for every bucket, by a Lease of the bucket's name ([`election`] is
//! what a candidate does about a Lease, [`lease`] the doing). It is the protocol of Kubernetes' client-go with the
//! names, signatures and hashes of Knative, so that Ebb's replicas and Go's may share the buckets.
//!
//! ```text
//!          sees it free,            writes go out                  renewals fail
//!          signs it                 renews each retry-period       for the renew-deadline
//! candidate ──────► activate ──────► owner ───────────────────────────► stopped writing ──► candidate
//!                                     │ told to stop                     keeps what it knows;
//!                                     ▼                                  goes on if nobody else signed
//!                                   flush ──► stops writing ──► Lease released ──► gone
//! ```
//!
//! - **Fence.** An owner may write until the start of its last successful renewal plus the renew-deadline, and not a
//!   moment longer: [`Ownership::owns`] compares with the clock, and a timer rings even while a renewal hangs. Work
//!   goes through [`Ownership::act`], which drops it at that moment, so that nothing is under way that could be sent
//!   later. Others wait for the longer lease-duration, counted from when they saw the renewal, which was after it was
//!   sent. The difference is what a request may take that left at the last moment.
//! - **No wall clock.** Nothing is compared with the times others wrote. All waiting is by our own steady clock.
//! - **No poll.** Candidates follow the Leases by a watch, and a timer rings when the record they see expires. Where
//!   the watch is silent they look for themselves, each retry-period with jitter.
//! - **A crash of the API server is not a hand-over.** Who stopped writing because it could not renew keeps its
//!   windows and deciders for up to [`KEPT`](lease::KEPT) and goes on with them if nobody else signed meanwhile.
//! - **A container that is restarted knows nothing.** The Lease still has its pod's signature. It takes it off and stands
//!   back for [`STANDS_BACK`](lease::STANDS_BACK), so that a standby goes on, which has a mirror; alone, it signs again.
//!
//! In StatefulSet mode replica `i` owns bucket `i` for good. `ebb local` has one replica, which owns everything.
//!
//! # What others see
//!
//! [`Ownership`] is the one value everybody asks. The owner also writes a Service and an EndpointSlice of the bucket's
//! name ([`advertise`]), by which it is reached where a mesh keeps pods from each other.
//!
//! Reading order: [`ring`], [`holder`], [`election`] (pure); this file; [`lease`], [`sighting`], [`advertise`].

pub mod advertise;
pub mod class;
pub mod election;
pub mod holder;
pub mod lease;
pub mod ring;
pub mod sighting;

use crate::clock::Clock;
use crate::observe::metrics::{Page, Source, count};
use crate::units::{RevisionKey, Timestamp};
use futures::future::BoxFuture;
use holder::{Holder, Identity, Remote, StatefulSet};
use ring::Ring;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

/// Which buckets this replica owns, and who holds the others. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Ownership {
    shared: Arc<Shared>,
}

struct Shared {
    clock: Clock,
    ring: Ring,
    mode: Mode,
    buckets: Vec<Bucket>,
    counters: Counters,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mode {
    Single,
    Elected,
    StatefulSet,
}

struct Bucket {
    /// Present while this replica owns the bucket.
    term: Mutex<Option<Term>>,
    holder: watch::Sender<Holder>,
    /// Whether it was ours until it could not be renewed, and may be again: what is known of it is kept.
    interrupted: AtomicBool,
}

struct Term {
    /// When it ends unless it is extended; `None` for good.
    until: Option<Timestamp>,
    cancel: CancellationToken,
    /// What is under way in it.
    turns: TaskTracker,
}

/// What happened since the start.
#[derive(Debug, Default)]
pub struct Counters {
    /// Times a bucket became ours.
    pub promotions: AtomicU64,
    /// Of these, times we went on where we had been interrupted.
    pub resumed: AtomicU64,
    /// Times a bucket stopped being ours because it could not be renewed in time.
    pub fenced: AtomicU64,
    /// Times a bucket stopped being ours because somebody else signed its Lease.
    pub taken: AtomicU64,
    /// Leases given up on a clean stop, or as a container began that was restarted.
    pub released: AtomicU64,
    /// Requests for a Lease that failed, conflicts included.
    pub failures: AtomicU64,
    /// Of these, conflicts: somebody was faster.
    pub conflicts: AtomicU64,
    /// Attempts to write the Service or EndpointSlice of a bucket that failed.
    pub advertisements_failed: AtomicU64,
}

impl Source for Ownership {
    fn show(&self, page: &mut Page<'_>) {
        let counters = self.counters();
        let all = self.shared.buckets.len();
        page.gauge("ebb_buckets", "Buckets the revisions are divided into.", all);
        let owned = (0..all).filter(|bucket| self.owns_index(*bucket)).count();
        page.gauge("ebb_buckets_owned", "Buckets that are this replica's.", owned);
        page.counters(
            "ebb_bucket_transitions_total",
            "Times a bucket became this replica's or ceased to be, by how.",
            ["change"],
            [
                (["promoted"], count(&counters.promotions)),
                (["not_renewed_in_time"], count(&counters.fenced)),
                (["taken_by_another"], count(&counters.taken)),
                (["released"], count(&counters.released)),
            ],
        );
        page.counter(
            "ebb_lease_failures_total",
            "Requests for a Lease that failed, conflicts with another replica included.",
            count(&counters.failures),
        );
        page.counter(
            "ebb_bucket_advertisements_failed_total",
            "Attempts to write the Service or EndpointSlice of a bucket that failed.",
            count(&counters.advertisements_failed),
        );
    }
}

/// How it is settled which revisions are this replica's.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Choice {
    /// There is one replica, and everything is its own.
    Single,
    /// As in a cluster: elected, or by its place in a StatefulSet.
    Cluster {
        /// How this replica signs Leases.
        identity: Identity,
        /// Its place, if it has one. With an ordinal beyond the number of buckets it stands for election all the same,
        /// as in Knative.
        stateful_set: Option<StatefulSet>,
    },
}

impl Choice {
    /// What follows for so many buckets. The identity comes back with it when owners are to be elected.
    pub fn settle(
        self,
        clock: Clock,
        buckets: u32,
        namespace: &str,
        cluster_domain: &str,
    ) -> (Ownership, Option<Identity>) {
        match self {
            Self::Single => (Ownership::single(clock), None),
            Self::Cluster { identity, stateful_set } => {
                let place = stateful_set.map(|set| set.buckets(buckets, namespace, cluster_domain));
                if place == Some(None) {
                    warn!(
                        buckets,
                        "the ordinal in the StatefulSet is beyond the number of buckets, so owners are elected"
                    );
                }
                match place.flatten() {
                    Some((names, own)) => (Ownership::stateful_set(clock, Ring::named(names), own), None),
                    None => (Ownership::elected(clock, Ring::new(buckets)), Some(identity)),
                }
            }
        }
    }
}

/// What an owner does when a bucket comes and goes. For one bucket the calls come one after the other.
///
/// ```text
/// activate ─► promoted ─► [demoted | flush, after which the Lease is released]
///                 ▲ after an interruption in which nobody else signed: promoted again, without demoted or activate
/// ```
pub trait Duties: Send + Sync {
    /// The bucket is about to become ours: what is to be there before anybody acts on it. The Lease is already ours and
    /// time runs, so it is cut off after [`ACTIVATION`](lease::ACTIVATION).
    fn activate(&self, _bucket: usize) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }

    /// The bucket is ours: look at all its revisions.
    fn promoted(&self, bucket: usize);

    /// The bucket is not ours any more, and will not be as it was: forget its deciders, windows and scrapers. What was
    /// under way for it has been cancelled.
    fn demoted(&self, bucket: usize);

    /// The bucket is about to be given up on a clean stop: hand over what the next owner needs. The Lease is still
    /// renewed; cut off after [`FLUSH`](lease::FLUSH).
    fn flush(&self, _bucket: usize) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }
}

impl Ownership {
    /// One replica that owns everything.
    pub fn single(clock: Clock) -> Self {
        let this = Self::new(clock, Ring::new(1), Mode::Single);
        this.begin(0, None);
        this
    }

    /// Owners of the buckets of `ring` are elected; for now all are nobody's. See [`lease::Elections::start`].
    pub fn elected(clock: Clock, ring: Ring) -> Self {
        Self::new(clock, ring, Mode::Elected)
    }

    /// StatefulSet mode: the buckets of `ring` are named by their owners' URLs, and `own` is ours for good.
    pub fn stateful_set(clock: Clock, ring: Ring, own: usize) -> Self {
        let this = Self::new(clock, ring, Mode::StatefulSet);
        this.begin(own, None);
        for (bucket, name) in this.ring().names().iter().enumerate() {
            if bucket != own {
                this.tell_holder(bucket, Holder::Remote(Arc::new(Remote::of_stateful_set(name))));
            }
        }
        this
    }

    fn new(clock: Clock, ring: Ring, mode: Mode) -> Self {
        let bucket =
            || Bucket { term: Mutex::default(), holder: watch::Sender::default(), interrupted: AtomicBool::new(false) };
        let buckets = (0..ring.buckets()).map(|_| bucket()).collect();
        Self { shared: Arc::new(Shared { clock, ring, mode, buckets, counters: Counters::default() }) }
    }

    /// The buckets.
    pub fn ring(&self) -> &Ring {
        &self.shared.ring
    }

    /// The bucket of a revision.
    pub fn bucket_of(&self, key: &RevisionKey) -> usize {
        self.shared.ring.owner(key.as_str())
    }

    /// Whether this replica may act for a revision at this moment.
    pub fn owns(&self, key: &RevisionKey) -> bool {
        self.owns_index(self.bucket_of(key))
    }

    /// Whether this replica owns the bucket of this name at this moment, which is what a handshake that names a bucket
    /// asks. Only where owners are elected can the answer be no.
    pub fn owns_bucket(&self, name: &str) -> bool {
        self.shared.mode != Mode::Elected || self.shared.ring.index(name).is_some_and(|bucket| self.owns_index(bucket))
    }

    /// Whether this replica owns the bucket of this index at this moment.
    pub fn owns_index(&self, bucket: usize) -> bool {
        self.term_of(bucket).as_ref().is_some_and(|term| self.runs(term))
    }

    /// Does `work` for a revision for as long as this replica owns it. `None` when it does not, or when it ceased to;
    /// then the work was dropped wherever it was.
    pub async fn act<T>(&self, key: &RevisionKey, work: impl Future<Output = T>) -> Option<T> {
        let bucket = self.bucket_of(key);
        let (cancel, _turn) = {
            let term = self.term_of(bucket);
            let term = term.as_ref().filter(|term| self.runs(term))?;
            (term.cancel.clone(), term.turns.token())
        };
        let (mut ended, mut work) = (pin!(cancel.cancelled()), pin!(work));
        poll_fn(|context| {
            // The clock is asked each time the work goes on: after the process was held up, the work may be woken before
            // whoever ends the term.
            if ended.as_mut().poll(context).is_ready() || !self.owns_index(bucket) {
                return Poll::Ready(None);
            }
            work.as_mut().poll(context).map(Some)
        })
        .await
    }

    /// Who holds a bucket, as far as this replica knows.
    pub fn holder(&self, bucket: usize) -> Holder {
        self.shared.buckets[bucket].holder.borrow().clone()
    }

    /// Whether the load of a bucket's revisions is to be recorded here. So it is while the bucket is ours, and while it
    /// could not be renewed but nobody else has signed: who goes on after an interruption must not take the time that
    /// passed for a time without load.
    pub fn records(&self, bucket: usize) -> bool {
        self.holder(bucket) == Holder::Local || self.shared.buckets[bucket].interrupted.load(Ordering::Acquire)
    }

    /// Who holds a bucket, as it changes: promoted when it becomes [`Holder::Local`], demoted when it becomes another.
    pub fn watch(&self, bucket: usize) -> watch::Receiver<Holder> {
        self.shared.buckets[bucket].holder.subscribe()
    }

    /// What happened since the start.
    pub fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    /// Our term in the bucket could not be renewed and may go on, or that is over.
    fn interrupt(&self, bucket: usize, interrupted: bool) {
        self.shared.buckets[bucket].interrupted.store(interrupted, Ordering::Release);
    }

    /// The bucket is ours until then, or for good.
    fn begin(&self, bucket: usize, until: Option<Timestamp>) -> CancellationToken {
        let cancel = CancellationToken::new();
        *self.term_of(bucket) = Some(Term { until, cancel: cancel.clone(), turns: TaskTracker::new() });
        self.tell_holder(bucket, Holder::Local);
        cancel
    }

    /// The bucket stays ours until then.
    fn extend(&self, bucket: usize, until: Timestamp) {
        if let Some(term) = self.term_of(bucket).as_mut() {
            term.until = Some(until);
        }
    }

    /// The bucket is not ours any more. On return nothing is under way for it.
    async fn end(&self, bucket: usize, holder: Holder) {
        let ended = self.term_of(bucket).take();
        self.tell_holder(bucket, holder);
        if let Some(Term { cancel, turns, .. }) = ended {
            cancel.cancel();
            turns.close();
            turns.wait().await;
        }
    }

    fn tell_holder(&self, bucket: usize, holder: Holder) {
        self.shared.buckets[bucket].holder.send_if_modified(|present| {
            let changed = *present != holder;
            *present = holder;
            changed
        });
    }

    fn runs(&self, term: &Term) -> bool {
        term.until.is_none_or(|until| self.shared.clock.now() < until)
    }

    fn term_of(&self, bucket: usize) -> MutexGuard<'_, Option<Term>> {
        self.shared.buckets[bucket].term.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Ownership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let holders = (0..self.ring().buckets()).map(|bucket| self.holder(bucket));
        f.debug_list().entries(self.ring().names().iter().zip(holders)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Span;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn a_term_is_over_when_its_time_is_whoever_notices() {
        let clock = Clock::starting_at(Timestamp::from_seconds(1_000));
        let ownership = Ownership::elected(clock, Ring::new(3));
        let key = RevisionKey::new("default", "hello-00001");
        assert_eq!(ownership.bucket_of(&key), 0);
        assert!(!ownership.owns(&key));
        assert_eq!(ownership.act(&key, async {}).await, None);

        ownership.begin(0, Some(clock.now() + Span::from_seconds(3)));
        assert!(ownership.owns(&key) && ownership.owns_bucket("autoscaler-bucket-00-of-03"));
        assert!(!ownership.owns_bucket("autoscaler-bucket-01-of-03") && !ownership.owns_bucket("autoscaler-bucket"));
        assert_eq!(ownership.holder(0), Holder::Local);
        tokio::time::advance(Duration::from_secs(2)).await;
        ownership.extend(0, clock.now() + Span::from_seconds(3));
        tokio::time::advance(Duration::from_millis(2_999)).await;
        assert!(ownership.owns(&key));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(!ownership.owns(&key), "no timer had to ring");
        assert_eq!(ownership.act(&key, async {}).await, None);
        ownership.end(0, Holder::Nobody).await;
        assert_eq!(ownership.holder(0), Holder::Nobody);
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_in_a_stateful_set_counts_while_there_is_a_bucket_for_it() {
        let clock = Clock::starting_at(Timestamp::from_seconds(1_000));
        let set = |ordinal: &str| {
            StatefulSet::from_env(|name| match name {
                "STATEFUL_CONTROLLER_ORDINAL" => Some(format!("as-{ordinal}")),
                "STATEFUL_SERVICE_NAME" => Some("autoscaler".to_owned()),
                "STATEFUL_SERVICE_PORT" => Some("8080".to_owned()),
                "STATEFUL_SERVICE_PROTOCOL" => Some("ws".to_owned()),
                _ => None,
            })
        };
        for (stateful_set, first_bucket, stands) in [
            (set("1"), "ws://as-0.autoscaler.knative-serving.svc.cluster.local:8080", false),
            (set("2"), "autoscaler-bucket-00-of-02", true),
            (None, "autoscaler-bucket-00-of-02", true),
        ] {
            let identity = Identity::new("as-1", "10.0.0.1").expect("a pod");
            let choice = Choice::Cluster { identity, stateful_set: stateful_set.clone() };
            let (ownership, candidate) = choice.settle(clock, 2, "knative-serving", "cluster.local");
            assert_eq!(ownership.ring().names()[0], first_bucket, "{stateful_set:?}");
            assert_eq!(candidate.is_some(), stands, "{stateful_set:?}");
            assert_eq!(ownership.owns_index(1), !stands, "{stateful_set:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn work_is_dropped_with_the_term() {
        let clock = Clock::starting_at(Timestamp::from_seconds(1_000));
        let ownership = Ownership::elected(clock, Ring::new(3));
        ownership.begin(0, Some(clock.now() + Span::from_seconds(3)));
        let (mine, other) = (RevisionKey::new("default", "hello-00001"), RevisionKey::new("default", "hello-00002"));
        assert_eq!(ownership.act(&mine, async { 1 }).await, Some(1));
        assert_eq!(ownership.act(&other, async { 1 }).await, None);

        let write = Arc::new(());
        let under_way = ownership.act(&mine, {
            let write = Arc::clone(&write);
            async move {
                std::future::pending::<()>().await;
                drop(write);
            }
        });
        let ending = async {
            tokio::task::yield_now().await;
            assert_eq!(Arc::strong_count(&write), 2);
            ownership.end(0, Holder::Nobody).await;
            assert_eq!(Arc::strong_count(&write), 1, "nothing is under way when the term has ended");
        };
        let (done, ()) = tokio::join!(under_way, ending);
        assert_eq!(done, None);
    }

    #[tokio::test(start_paused = true)]
    async fn work_that_is_woken_after_the_term_does_not_go_on_though_nobody_has_ended_it() {
        let clock = Clock::starting_at(Timestamp::from_seconds(1_000));
        let ownership = Ownership::elected(clock, Ring::new(1));
        ownership.begin(0, Some(clock.now() + Span::from_seconds(3)));
        let (woken, written) = (tokio::sync::Notify::new(), AtomicBool::new(false));
        let key = RevisionKey::new("default", "hello-00001");
        let work = ownership.act(&key, async {
            woken.notified().await;
            written.store(true, Ordering::Relaxed);
        });
        let held_up = async {
            tokio::task::yield_now().await;
            tokio::time::advance(Duration::from_mins(1)).await;
            woken.notify_one();
        };
        assert_eq!(tokio::join!(work, held_up).0, None);
        assert!(!written.load(Ordering::Relaxed), "what was to be written was sent after the term");
    }

    #[tokio::test(start_paused = true)]
    async fn one_replica_owns_everything_and_a_stateful_set_its_own() {
        let clock = Clock::starting_at(Timestamp::from_seconds(1_000));
        let single = Ownership::single(clock);
        assert!(single.owns(&RevisionKey::new("a", "b")) && single.owns_bucket("autoscaler-bucket-07-of-09"));

        let names = ["ws://as-0.x:80", "ws://as-1.x:80"];
        let set = Ownership::stateful_set(clock, Ring::named(names.map(str::to_owned).to_vec()), 1);
        assert!(set.owns_index(1) && !set.owns_index(0));
        assert_eq!(set.holder(0).remote().map(|remote| remote.urls.clone()), Some(vec![names[0].to_owned()]));
        // Nobody asks by bucket there, and nobody is refused.
        assert!(set.owns_bucket("autoscaler-bucket-00-of-02"));
    }
}
