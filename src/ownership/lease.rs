//! Standing for election by Leases: one [`Elections`] with a task for each bucket.

use crate::clock::Clock;
use crate::config::LeaderElection;
use crate::ownership::advertise::advertise;
use crate::ownership::election::{self, Candidate, Step};
use crate::ownership::holder::{Holder, Identity, Remote};
use crate::ownership::sighting::{Sighting, Sightings, follow_leases};
use crate::ownership::{Counters, Duties, Ownership};
use crate::units::{Compat, Span, Timestamp};
use futures::FutureExt as _;
use futures::future::{Fuse, FusedFuture as _};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use kube::{Api, Client};
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::{sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument as _, debug, info, info_span, warn};

/// How long [`Duties::activate`] may take.
pub const ACTIVATION: Duration = Duration::from_millis(500);
/// How long [`Duties::flush`] may take.
pub const FLUSH: Duration = Duration::from_secs(2);
/// How long releasing a Lease may take; after that it expires by itself.
pub const RELEASE: Duration = Duration::from_secs(3);
/// How long a holder that has released its Lease waits to see who is next, so that the stats it still gets go there.
pub const SUCCESSOR: Duration = Duration::from_secs(1);
/// How long what is known of a bucket's revisions is kept that could not be renewed, in case nobody else signs.
pub const KEPT: Span = Span::from_seconds(60);
/// How long a replica stands back that has found its own signature from before its container was restarted: a standby
/// signs as soon as its watch tells that the Lease is free.
pub const STANDS_BACK: Span = Span::from_millis(500);
/// What a candidate waits before it tries again is a retry-period and up to so many of them on top, as in client-go.
const JITTER: f64 = 1.2;

/// What a candidate is.
#[derive(Clone)]
pub struct Setup {
    /// The cluster.
    pub client: Client,
    /// Where the Leases are: the namespace Knative itself runs in.
    pub namespace: String,
    /// The DNS domain of the cluster, such as `cluster.local`.
    pub cluster_domain: String,
    /// How this replica signs.
    pub identity: Identity,
    /// How long Leases last, and how often they are renewed.
    pub times: LeaderElection,
    /// The time.
    pub clock: Clock,
    /// Where to differ from the reference.
    pub compat: Compat,
}

/// A replica standing for election for every bucket. Ends with [`stop`](Self::stop).
#[derive(Debug)]
pub struct Elections {
    stop: CancellationToken,
    tasks: TaskTracker,
    broken: CancellationToken,
}

impl Elections {
    /// Stands for every bucket of `ownership` from now on and keeps it informed. Leases are followed until `watches`,
    /// which should come after [`stop`](Self::stop). Must be called in a tokio runtime.
    pub fn start(setup: Setup, ownership: Ownership, duties: &Arc<dyn Duties>, watches: CancellationToken) -> Self {
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let broken = CancellationToken::new();
        let sightings: Vec<_> = ownership.ring().names().iter().map(|_| Sightings::new(setup.clock)).collect();
        for (bucket, sightings) in sightings.iter().enumerate() {
            let name = ownership.ring().names()[bucket].clone();
            let span = info_span!("election", bucket = name);
            let elector = Elector {
                api: Api::namespaced(setup.client.clone(), &setup.namespace),
                candidate: Candidate {
                    identity: setup.identity.as_str().to_owned(),
                    lease_duration: setup.times.lease_duration,
                },
                setup: setup.clone(),
                bucket,
                name,
                sightings: sightings.clone(),
                ownership: ownership.clone(),
                duties: Arc::clone(duties),
                stop: stop.clone(),
                kept: None,
                newborn: true,
                failing: AtomicU64::new(0),
            };
            tasks.spawn(or_broken(elector.run(), broken.clone()).instrument(span));
        }
        let following = async move {
            follow_leases(setup.client, &setup.namespace, ownership.ring(), &sightings, watches).await;
        };
        tokio::spawn(or_broken(following, broken.clone()));
        tasks.close();
        Self { stop, tasks, broken }
    }

    /// Cancelled when a part of this has panicked: there is a bucket nobody here stands for any more.
    pub fn broken(&self) -> CancellationToken {
        self.broken.clone()
    }

    /// Flushes, gives up and releases what is ours, and stands no more; within [`FLUSH`], [`RELEASE`] and [`SUCCESSOR`].
    pub async fn stop(&self) {
        self.stop.cancel();
        self.tasks.wait().await;
    }
}

/// Runs `part`; tells `broken` if it panics.
async fn or_broken(part: impl Future<Output = ()>, broken: CancellationToken) {
    if AssertUnwindSafe(part).catch_unwind().await.is_err() {
        broken.cancel();
    }
}

/// Stands for one bucket.
struct Elector {
    setup: Setup,
    api: Api<Lease>,
    candidate: Candidate,
    bucket: usize,
    name: String,
    sightings: Sightings,
    ownership: Ownership,
    duties: Arc<dyn Duties>,
    stop: CancellationToken,
    /// What is known of the bucket's revisions is kept until then, although we may not write for them.
    kept: Option<Timestamp>,
    /// It has not tried to sign yet: a signature of ours is from before the container was restarted.
    newborn: bool,
    /// Requests that failed one after the other.
    failing: AtomicU64,
}

/// Our signature is on the Lease.
struct Won {
    /// When the request that put it there was sent.
    sent: Timestamp,
}

/// How standing for election ended without winning: we were told to stop.
struct Stopped {
    /// Whether our signature may be on the Lease all the same.
    perhaps_signed: bool,
}

/// How a term ended.
enum End {
    /// It could not be renewed in time.
    Fenced,
    /// Somebody else signed.
    Taken,
    /// We were told to stop.
    Stopped,
}

/// What a renewal brought.
enum Renewal {
    /// It is ours from when this request was sent.
    Sent(Timestamp),
    /// Somebody else signed.
    Taken,
}

/// Why a request for a Lease failed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Refused(#[from] kube::Error),
    #[error("no answer in {0:?}")]
    Slow(Duration),
}

impl Failure {
    fn is_conflict(&self) -> bool {
        matches!(self, Self::Refused(kube::Error::Api(status)) if status.code == 409)
    }
}

impl Elector {
    async fn run(mut self) {
        loop {
            let won = match self.stand().await {
                Ok(won) => won,
                Err(Stopped { perhaps_signed }) => {
                    if perhaps_signed {
                        self.look_and_release().await;
                    }
                    return;
                }
            };
            match self.lead(won).await {
                End::Taken => {
                    self.count(|counters| &counters.taken);
                    warn!("the Lease was taken by somebody else; stopped writing");
                    self.duties.demoted(self.bucket);
                }
                End::Fenced => {
                    self.count(|counters| &counters.fenced);
                    warn!(deadline = %self.setup.times.renew_deadline, "the Lease could not be renewed in time; stopped writing");
                    if self.setup.compat.resume_lease {
                        self.kept = Some(self.now() + KEPT);
                        self.ownership.interrupt(self.bucket, true);
                    } else {
                        self.duties.demoted(self.bucket);
                        self.look_and_release().await;
                    }
                }
                End::Stopped => {
                    self.release().await;
                    if timeout(SUCCESSOR, self.tell_successor()).await.is_err() {
                        debug!("nobody has taken the Lease in {SUCCESSOR:?}");
                    }
                    return;
                }
            }
        }
    }

    /// Waits until the Lease is free, and signs it.
    async fn stand(&mut self) -> Result<Won, Stopped> {
        let mut sightings = self.sightings.watch();
        // The watch is not relied on: where it is silent we look for ourselves, the first time at once.
        let mut look_at = self.now();
        let mut not_before = self.now();
        let mut perhaps_signed = self.kept.is_some();
        loop {
            let sighting = sightings.borrow_and_update().clone();
            let now = self.now();
            self.forget_if_broken(&sighting, now);
            self.ownership.tell_holder(self.bucket, self.holder(&sighting));
            let step = if look_at <= now || sighting == Sighting::Unknown {
                None
            } else {
                Some(self.candidate.step(sighting.record(), now))
            };
            let first = self.newborn && step.is_some();
            self.newborn &= !first;
            if first
                && self.setup.compat.warm_standby
                && sighting.record().is_some_and(|(record, _)| self.candidate.holds(record))
            {
                // What that process knew went with it, but a standby may have a mirror of it.
                info!("signed before the container was restarted; given up to whoever knows more");
                tokio::select! {
                    () = self.stop.cancelled() => return Err(Stopped { perhaps_signed: true }),
                    () = self.release() => {}
                }
                perhaps_signed = true;
                not_before = self.now() + STANDS_BACK;
                continue;
            }
            let act_at = match &step {
                Some(Step::Wait(until)) => (*until).min(look_at),
                Some(Step::Create(_) | Step::Update(_)) | None => not_before,
            };
            if now < act_at {
                let wake = self.kept.map_or(act_at, |until| act_at.min(until));
                tokio::select! {
                    () = self.stop.cancelled() => return Err(Stopped { perhaps_signed }),
                    _ = sightings.changed() => look_at = self.now() + self.jittered_retry(),
                    () = sleep_until(self.setup.clock.instant(wake)) => {}
                }
                continue;
            }

            let stop = self.stop.clone();
            let acting = async {
                match step {
                    Some(step @ (Step::Create(_) | Step::Update(_))) => self.sign(&sighting, step).await.map(Some),
                    Some(Step::Wait(_)) | None => self.look().await.map(|()| None),
                }
            };
            let outcome = tokio::select! {
                () = stop.cancelled() => return Err(Stopped { perhaps_signed: true }),
                outcome = acting => outcome,
            };
            let now = self.now();
            match outcome {
                Ok(Some(sent)) => return Ok(Won { sent }),
                Ok(None) => look_at = now + self.jittered_retry(),
                Err(failure) => {
                    self.complain(&failure);
                    // Whatever it was, what we saw may not be so any more.
                    look_at = now;
                    not_before = now + if failure.is_conflict() { self.short_pause() } else { self.jittered_retry() };
                    perhaps_signed = true;
                }
            }
        }
    }

    /// Owns the bucket until its term ends. On return nothing is under way for it any more.
    async fn lead(&mut self, won: Won) -> End {
        let resumed = self.kept.take().is_some();
        let this = &*self;
        if !resumed && timeout(ACTIVATION, this.duties.activate(this.bucket)).await.is_err() {
            warn!("what was to be there before the first decision was not in {ACTIVATION:?}; going on without");
        }
        let term = this.ownership.begin(this.bucket, Some(won.sent + this.setup.times.renew_deadline));
        this.ownership.interrupt(this.bucket, false);
        this.count(|counters| &counters.promotions);
        if resumed {
            this.count(|counters| &counters.resumed);
        }
        info!(resumed, "owner of the bucket");
        this.duties.promoted(this.bucket);
        this.advertise(term);
        let end = this.serve(won.sent).await;
        this.ownership.end(this.bucket, this.holder(&this.sightings.last())).await;
        end
    }

    /// Keeps the term going, and says how it ended.
    async fn serve(&self, sent: Timestamp) -> End {
        let times = &self.setup.times;
        let mut sightings = self.sightings.watch();
        // Somebody may have signed while the term was prepared.
        sightings.mark_changed();
        let mut until = sent + times.renew_deadline;
        let mut renew_at = sent + times.retry_period;
        let renewal = Fuse::terminated();
        let flush = Fuse::terminated();
        tokio::pin!(renewal, flush);
        let mut stopping = false;
        loop {
            tokio::select! {
                biased;
                () = sleep_until(self.setup.clock.instant(until)) => return End::Fenced,
                flushed = &mut flush => {
                    if flushed {
                        debug!("handed over");
                    } else {
                        warn!("not everything was handed over in {FLUSH:?}; giving the bucket up as it is");
                    }
                    return End::Stopped;
                }
                () = self.stop.cancelled(), if !stopping => {
                    stopping = true;
                    // Stats that come from now on are for whoever is next.
                    self.ownership.tell_holder(self.bucket, Holder::Nobody);
                    let flushing = timeout(FLUSH, self.duties.flush(self.bucket));
                    flush.set(flushing.map(|flushed| flushed.is_ok()).fuse());
                }
                _ = sightings.changed() => {
                    match sightings.borrow_and_update().record() {
                        Some((record, _)) if !self.candidate.holds(record) => return End::Taken,
                        Some(_) => {}
                        None => renew_at = self.now(),
                    }
                }
                renewed = &mut renewal => {
                    let now = self.now();
                    match renewed {
                        Ok(Renewal::Sent(sent)) => {
                            until = sent + times.renew_deadline;
                            self.ownership.extend(self.bucket, until);
                            renew_at = sent + times.retry_period;
                        }
                        Ok(Renewal::Taken) => return End::Taken,
                        Err(failure) => {
                            self.complain(&failure);
                            renew_at = (renew_at + times.retry_period).max(now + self.short_pause());
                        }
                    }
                }
                () = sleep_until(self.setup.clock.instant(renew_at)), if renewal.is_terminated() => {
                    renewal.set(self.renew().fuse());
                }
            }
        }
    }

    /// Signs the Lease once more: as we know it, or else as it is.
    async fn renew(&self) -> Result<Renewal, Failure> {
        let sighting = self.sightings.last();
        if sighting.record().is_some_and(|(record, _)| self.candidate.holds(record)) {
            let step = self.candidate.step(sighting.record(), self.now());
            match self.sign(&sighting, step).await {
                Ok(sent) => return Ok(Renewal::Sent(sent)),
                Err(failure) => self.complain(&failure),
            }
        }
        self.look().await?;
        let sighting = self.sightings.last();
        match sighting.record() {
            Some((record, _)) if !self.candidate.holds(record) => Ok(Renewal::Taken),
            record => {
                let step = self.candidate.step(record, self.now());
                self.sign(&sighting, step).await.map(Renewal::Sent)
            }
        }
    }

    /// Carries out a step that writes, and says when the request was sent.
    async fn sign(&self, sighting: &Sighting, step: Step) -> Result<Timestamp, Failure> {
        let (lease, create) = match (step, sighting) {
            (Step::Update(spec), Sighting::Seen { lease, .. }) => {
                (Lease { spec: Some(spec), ..(**lease).clone() }, false)
            }
            (Step::Create(spec) | Step::Update(spec), _) => {
                let name = Some(self.name.clone());
                let namespace = Some(self.setup.namespace.clone());
                (Lease { metadata: ObjectMeta { name, namespace, ..ObjectMeta::default() }, spec: Some(spec) }, true)
            }
            (Step::Wait(_), _) => return self.look().await.map(|()| self.now()),
        };
        let sent = self.now();
        let options = PostParams::default();
        let written = if create {
            self.in_time(self.api.create(&options, &lease)).await?
        } else {
            self.in_time(self.api.replace(&self.name, &options, &lease)).await?
        };
        self.sightings.answered(Some(written));
        Ok(sent)
    }

    /// Asks for the Lease as it is.
    async fn look(&self) -> Result<(), Failure> {
        let found = self.in_time(self.api.get_opt(&self.name)).await?;
        self.sightings.answered(found);
        Ok(())
    }

    /// Tells who holds the bucket until another replica does.
    async fn tell_successor(&self) {
        let mut sightings = self.sightings.watch();
        loop {
            let holder = self.holder(&sightings.borrow_and_update().clone());
            let found = holder.remote().is_some();
            self.ownership.tell_holder(self.bucket, holder);
            if found || sightings.changed().await.is_err() {
                return;
            }
        }
    }

    /// Takes our signature off the Lease, so that others need not wait.
    async fn release(&self) {
        let releasing = async {
            loop {
                let sighting = self.sightings.last();
                let Sighting::Seen { lease, .. } = &sighting else { return Ok(()) };
                let Some(record) = lease.spec.as_ref().filter(|record| self.candidate.holds(record)) else {
                    return Ok(());
                };
                let released = Lease { spec: Some(Candidate::released(record, self.now())), ..(**lease).clone() };
                let written = self.api.replace(&self.name, &PostParams::default(), &released).await;
                match written.map_err(Failure::from) {
                    Ok(written) => {
                        self.sightings.answered(Some(written));
                        self.count(|counters| &counters.released);
                        info!("Lease released");
                        return Ok(());
                    }
                    // A renewal that was under way came through, or somebody else was faster.
                    Err(failure) if failure.is_conflict() => self.look().await?,
                    Err(failure) => return Err(failure),
                }
            }
        };
        let outcome = timeout(RELEASE, releasing).await.unwrap_or(Err(Failure::Slow(RELEASE)));
        if let Err(failure) = outcome {
            self.complain(&failure);
            warn!(lease = %self.setup.times.lease_duration, "Lease not released; the others wait until it expires");
        }
    }

    /// The same, where what we know of the Lease may be wrong.
    async fn look_and_release(&self) {
        match self.look().await {
            Ok(()) => self.release().await,
            Err(failure) => self.complain(&failure),
        }
    }

    /// Forgets what was kept of an interrupted term when somebody else signed since, or when it has been too long.
    fn forget_if_broken(&mut self, sighting: &Sighting, now: Timestamp) {
        let Some(until) = self.kept else { return };
        let ours = match sighting {
            // Not known yet.
            Sighting::Unknown => true,
            Sighting::Missing => false,
            Sighting::Seen { .. } => sighting.record().is_some_and(|(record, _)| self.candidate.holds(record)),
        };
        if !ours || until <= now {
            self.kept = None;
            self.ownership.interrupt(self.bucket, false);
            self.duties.demoted(self.bucket);
        }
    }

    /// Writes the bucket's Service and EndpointSlice in the background, for as long as the bucket is ours.
    fn advertise(&self, term: CancellationToken) {
        let Setup { client, namespace, identity, .. } = self.setup.clone();
        let (ownership, name) = (self.ownership.clone(), self.name.clone());
        let advertising = async move {
            let failed = &ownership.counters().advertisements_failed;
            tokio::select! {
                () = term.cancelled() => {}
                () = advertise(client, &namespace, &name, identity.ip(), failed) => {}
            }
        };
        tokio::spawn(advertising.in_current_span());
    }

    /// Who holds the bucket when we do not.
    fn holder(&self, sighting: &Sighting) -> Holder {
        let Some(holder) = sighting.record().and_then(|(record, _)| election::holder(record)) else {
            return Holder::Nobody;
        };
        if holder == self.candidate.identity {
            return Holder::Nobody;
        }
        let Some(identity) = Identity::parse(holder) else {
            debug!(holder, "not signed as POD_IP; nothing can be sent there");
            return Holder::Nobody;
        };
        if identity.ip() == self.setup.identity.ip() {
            // Of a pod that had our address before us.
            return Holder::Nobody;
        }
        let Setup { namespace, cluster_domain, .. } = &self.setup;
        Holder::Remote(Arc::new(Remote::of_lease(&identity, &self.name, namespace, cluster_domain)))
    }

    /// Waits for an answer, but so that three requests fit into the renew-deadline.
    async fn in_time<T>(&self, request: impl Future<Output = Result<T, kube::Error>>) -> Result<T, Failure> {
        let limit = self.setup.times.renew_deadline.to_std() / 3;
        let answer = timeout(limit, request).await.map_err(|_| Failure::Slow(limit))??;
        self.failing.store(0, Ordering::Relaxed);
        Ok(answer)
    }

    fn complain(&self, failure: &Failure) {
        self.count(|counters| &counters.failures);
        if failure.is_conflict() {
            self.count(|counters| &counters.conflicts);
            debug!(%failure, "somebody else changed the Lease first");
            return;
        }
        let times = self.failing.fetch_add(1, Ordering::Relaxed) + 1;
        if times.is_power_of_two() {
            warn!(%failure, times, "request for the Lease failed");
        }
    }

    fn count(&self, counter: impl Fn(&Counters) -> &AtomicU64) {
        counter(self.ownership.counters()).fetch_add(1, Ordering::Relaxed);
    }

    fn jittered_retry(&self) -> Span {
        self.retry_periods(1.0 + JITTER * rand::random::<f64>())
    }

    fn short_pause(&self) -> Span {
        self.retry_periods(0.1 * (1.0 + rand::random::<f64>()))
    }

    fn retry_periods(&self, number: f64) -> Span {
        Span::from_std(self.setup.times.retry_period.to_std().mul_f64(number))
    }

    fn now(&self) -> Timestamp {
        self.setup.clock.now()
    }
}
