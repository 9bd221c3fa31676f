//! Who owns a bucket, whatever happens to replicas, the API server and clocks.

use super::{Network, SYSTEM, clock, until};
use ebb::clock::Clock;
use ebb::config::LeaderElection;
use ebb::local::apiserver::{Effect, Fault, Store, Verb};
use ebb::ownership::holder::{Holder, Identity};
use ebb::ownership::lease::{Elections, Setup};
use ebb::ownership::ring::Ring;
use ebb::ownership::{Duties, Ownership};
use ebb::units::{Compat, RevisionKey, Span, Timestamp};
use futures::future::BoxFuture;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// One replica: only its part in the elections.
struct Replica {
    network: Network,
    clock: Clock,
    ownership: Ownership,
    /// What it was told to do, in order: `activate 0`, `promoted 0`, `demoted 0`, `flush 0`.
    told: Arc<Told>,
    elections: Elections,
    _watches: tokio_util::sync::DropGuard,
}

#[derive(Default)]
struct Told(Mutex<String>);

impl Told {
    fn note(&self, what: &str, bucket: usize) {
        let mut log = self.0.lock().expect("no panic above");
        let comma = if log.is_empty() { "" } else { ", " };
        write!(log, "{comma}{what} {bucket}").expect("writing to a string");
    }

    fn log(&self) -> String {
        self.0.lock().expect("no panic above").clone()
    }
}

impl Duties for Told {
    fn activate(&self, bucket: usize) -> BoxFuture<'_, ()> {
        self.note("activate", bucket);
        Box::pin(async {})
    }

    fn promoted(&self, bucket: usize) {
        self.note("promoted", bucket);
    }

    fn demoted(&self, bucket: usize) {
        self.note("demoted", bucket);
    }

    fn flush(&self, bucket: usize) -> BoxFuture<'_, ()> {
        self.note("flush", bucket);
        Box::pin(async {})
    }
}

/// Replica `number` of those on `store`, with so many buckets.
fn replica(store: &Arc<Store>, number: u8, buckets: u32, compat: Compat) -> Replica {
    replica_at(store, number, buckets, compat, clock())
}

fn replica_at(store: &Arc<Store>, number: u8, buckets: u32, compat: Compat, clock: Clock) -> Replica {
    let network = Network::to(store);
    let ownership = Ownership::elected(clock, Ring::new(buckets));
    let told = Arc::<Told>::default();
    let watches = CancellationToken::new();
    let setup = Setup {
        client: network.client(),
        namespace: SYSTEM.to_owned(),
        cluster_domain: "cluster.local".to_owned(),
        identity: Identity::new(&format!("autoscaler-{number}"), &format!("10.0.0.{number}")).expect("a pod"),
        times: LeaderElection { buckets, ..LeaderElection::defaults(Compat::IMPROVED) },
        clock,
        compat,
    };
    let duties: Arc<dyn Duties> = told.clone();
    let elections = Elections::start(setup, ownership.clone(), &duties, watches.clone());
    Replica { network, clock, ownership, told, elections, _watches: watches.drop_guard() }
}

impl Replica {
    fn owned(&self) -> usize {
        (0..self.ownership.ring().buckets()).filter(|bucket| self.ownership.owns_index(*bucket)).count()
    }

    fn counted(&self, counter: impl Fn(&ebb::ownership::Counters) -> &AtomicU64) -> u64 {
        counter(self.ownership.counters()).load(Ordering::SeqCst)
    }

    fn holder(&self, bucket: usize) -> String {
        match self.ownership.holder(bucket) {
            Holder::Nobody => "nobody".to_owned(),
            Holder::Local => "local".to_owned(),
            Holder::Remote(remote) => remote.host.clone(),
        }
    }
}

async fn lease(store: &Arc<Store>) -> Lease {
    let leases: Api<Lease> = Api::namespaced(Network::to(store).client(), SYSTEM);
    leases.get("autoscaler-bucket-00-of-01").await.expect("a Lease")
}

async fn change_lease(store: &Arc<Store>, patch: serde_json::Value) {
    let leases: Api<Lease> = Api::namespaced(Network::to(store).client(), SYSTEM);
    leases.patch("autoscaler-bucket-00-of-01", &PatchParams::default(), &Patch::Merge(patch)).await.expect("patched");
}

#[tokio::test(start_paused = true)]
async fn every_bucket_has_one_owner_and_everybody_knows_whom() {
    let store = Store::new(clock());
    let replicas = [1, 2, 3].map(|number| replica(&store, number, 3, Compat::IMPROVED));
    until("three buckets are owned", || replicas.iter().map(Replica::owned).sum::<usize>() == 3).await;
    until("everybody knows the owners", || {
        (0..3).all(|bucket| {
            let owner = replicas.iter().position(|replica| replica.ownership.owns_index(bucket)).expect("an owner");
            replicas.iter().enumerate().all(|(number, replica)| {
                let known = replica.holder(bucket);
                known == if number == owner { "local".to_owned() } else { format!("10.0.0.{}", owner + 1) }
            })
        })
    })
    .await;
    // Time alone changes nothing.
    tokio::time::sleep(Duration::from_mins(5)).await;
    assert_eq!(replicas.iter().map(|replica| replica.counted(|counters| &counters.promotions)).sum::<u64>(), 3);
    for replica in &replicas {
        assert_eq!(replica.counted(|counters| &counters.fenced), 0);
        assert_eq!(replica.counted(|counters| &counters.taken), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_killed_owner_is_replaced_within_its_lease() {
    let store = Store::new(clock());
    let dying = replica(&store, 1, 3, Compat::IMPROVED);
    until("the first owns everything", || dying.owned() == 3).await;
    let heir = replica(&store, 2, 3, Compat::IMPROVED);
    until("the second knows", || (0..3).all(|bucket| heir.holder(bucket) == "10.0.0.1")).await;
    tokio::time::sleep(Duration::from_millis(12_345)).await;
    let killed = clock();
    dying.network.cut();
    until("the second owns everything", || heir.owned() == 3).await;
    // The last renewal was before the end: by 4 s after it the lease has expired, and a timer rings at that moment.
    let took = killed.now().since(Timestamp::from_seconds(1_800_000_000));
    assert!(took <= Span::from_millis(4_100), "{took}");
    assert_eq!(dying.owned(), 0, "who cannot renew has stopped by then");
}

#[tokio::test(start_paused = true)]
async fn a_clean_stop_hands_over_at_once() {
    let store = Store::new(clock());
    let leaving = replica(&store, 1, 1, Compat::IMPROVED);
    until("the first owns it", || leaving.owned() == 1).await;
    let heir = replica(&store, 2, 1, Compat::IMPROVED);
    until("the second knows", || heir.holder(0) == "10.0.0.1").await;
    let stopped = clock();
    leaving.elections.stop().await;
    assert_eq!(leaving.told.log(), "activate 0, promoted 0, flush 0");
    assert_eq!(leaving.owned(), 0);
    let released = lease(&store).await.spec.expect("a record");
    if released.holder_identity.as_deref() == Some("") {
        assert_eq!(released.lease_duration_seconds, Some(1));
    }
    until("the second owns it", || heir.owned() == 1).await;
    let took = stopped.now().since(Timestamp::from_seconds(1_800_000_000));
    assert!(took <= Span::from_millis(100), "no poll and no expiry was waited for: {took}");
    assert_eq!(lease(&store).await.spec.expect("a record").lease_transitions, Some(1));
    until("the one that left knows", || leaving.holder(0) != "local").await;
}

#[tokio::test(start_paused = true)]
async fn a_container_that_is_restarted_leaves_its_bucket_to_a_standby_unless_strict() {
    for (compat, standbys, heir, transitions) in [
        (Compat::IMPROVED, 1, "10.0.0.2", 1),
        (Compat::IMPROVED, 0, "10.0.0.1", 1),
        (Compat { warm_standby: false, ..Compat::IMPROVED }, 1, "10.0.0.1", 0),
    ] {
        let store = Store::new(clock());
        let killed = replica(&store, 1, 1, compat);
        until("the first owns it", || killed.owned() == 1).await;
        let mut replicas: Vec<_> = (0..standbys).map(|_| replica(&store, 2, 1, compat)).collect();
        until("the standby knows", || replicas.iter().all(|standby| standby.holder(0) == "10.0.0.1")).await;
        killed.network.cut();
        let started = clock();
        // Well within the Lease.
        replicas.push(replica(&store, 1, 1, compat));
        until("somebody owns it", || replicas.iter().map(Replica::owned).sum::<usize>() == 1).await;
        let took = started.now().since(Timestamp::from_seconds(1_800_000_000));
        assert!(took <= Span::SECOND, "{took}");
        let record = lease(&store).await.spec.expect("a record");
        assert!(record.holder_identity.as_deref().is_some_and(|holder| holder.ends_with(heir)), "{record:?}");
        assert_eq!(record.lease_transitions, Some(transitions), "{heir}");
        let again = replicas.last().expect("it was just put there");
        assert_eq!(again.told.log(), if heir == "10.0.0.1" { "activate 0, promoted 0" } else { "" });
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_hangs_stops_the_writers_at_the_deadline_and_nothing_is_forgotten() {
    let store = Store::new(clock());
    let alone = replica(&store, 1, 1, Compat::IMPROVED);
    until("it owns the bucket", || alone.owned() == 1).await;
    let key = RevisionKey::new("default", "hello-00001");
    let ownership = alone.ownership.clone();
    let turn = tokio::spawn(async move { ownership.act(&key, std::future::pending::<()>()).await });
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert!(alone.ownership.owns_index(0) && !turn.is_finished());

    alone.network.cut();
    let cut = clock();
    assert_eq!(turn.await.expect("no panic"), None, "what was under way was dropped");
    let took = cut.now().since(Timestamp::from_seconds(1_800_000_000));
    assert!(took <= Span::from_seconds(3), "{took}");
    assert!(!alone.ownership.owns_index(0));
    until("it knows no owner", || alone.holder(0) == "nobody").await;
    assert!(alone.ownership.records(0), "load is recorded all the same: it goes on from there");
    tokio::time::sleep(Duration::from_secs(20)).await;
    alone.network.mend();
    until("it goes on", || alone.owned() == 1).await;
    assert_eq!(alone.told.log(), "activate 0, promoted 0, promoted 0", "nobody else signed, so nothing was forgotten");
    assert_eq!(alone.counted(|counters| &counters.resumed), 1);
    assert_eq!(lease(&store).await.spec.expect("a record").lease_transitions, Some(0));

    // Too long is too long.
    alone.network.cut();
    until("it forgets", || alone.told.log().ends_with("demoted 0")).await;
    assert!(!alone.ownership.records(0));
    alone.network.mend();
    until("it starts anew", || alone.told.log().ends_with("demoted 0, activate 0, promoted 0")).await;
}

#[tokio::test(start_paused = true)]
async fn the_reference_gives_up_what_it_could_not_renew() {
    let store = Store::new(clock());
    let alone = replica(&store, 1, 1, Compat { resume_lease: false, ..Compat::IMPROVED });
    until("it owns the bucket", || alone.owned() == 1).await;
    // Renewals fail, everything else works.
    store.faults().add(Fault::once(Effect::fail(503)).on(Verb::Update).times(6));
    until("it forgets", || alone.told.log().ends_with("demoted 0")).await;
    until("it stands again", || alone.told.log().ends_with("demoted 0, activate 0, promoted 0")).await;
}

#[tokio::test(start_paused = true)]
async fn an_interrupted_owner_whose_bucket_was_taken_forgets_it() {
    let store = Store::new(clock());
    let first = replica(&store, 1, 1, Compat::IMPROVED);
    until("the first owns it", || first.owned() == 1).await;
    let second = replica(&store, 2, 1, Compat::IMPROVED);
    until("the second knows", || second.holder(0) == "10.0.0.1").await;
    first.network.cut();
    until("the second owns it", || second.owned() == 1).await;
    assert_eq!(first.told.log(), "activate 0, promoted 0");
    first.network.mend();
    assert!(first.ownership.records(0));
    until("the first has forgotten", || first.told.log() == "activate 0, promoted 0, demoted 0").await;
    assert!(!first.ownership.records(0), "it is the second's to record");
    assert_eq!(first.holder(0), "10.0.0.2");
}

#[tokio::test(start_paused = true)]
async fn others_may_touch_a_lease_and_who_signs_it_has_it() {
    let store = Store::new(clock());
    let owner = replica(&store, 1, 1, Compat::IMPROVED);
    until("it owns the bucket", || owner.owned() == 1).await;
    for n in 0..20 {
        change_lease(&store, json!({"metadata": {"annotations": {"touched": n.to_string()}}})).await;
        tokio::time::sleep(Duration::from_millis(270)).await;
    }
    // Conflicts and lost answers: the write happened, or did not, and it finds out.
    store.faults().add(Fault::once(Effect::fail(409)).on(Verb::Update).times(2));
    owner.network.lose_answers(2);
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(owner.told.log(), "activate 0, promoted 0");
    assert_eq!(owner.counted(|counters| &counters.fenced), 0);
    let annotations = lease(&store).await.metadata.annotations.expect("what others wrote stays");
    assert_eq!(annotations["touched"], "19");

    change_lease(&store, json!({"spec": {"holderIdentity": "autoscaler-9_10.0.0.9", "leaseDurationSeconds": 15}}))
        .await;
    let signed = clock();
    until("it has stopped", || owner.told.log().ends_with("demoted 0")).await;
    let took = signed.now().since(Timestamp::from_seconds(1_800_000_000));
    assert!(took <= Span::from_millis(100), "it did not wait for its next renewal: {took}");
    assert_eq!(owner.holder(0), "10.0.0.9");
    // The other's own duration counts.
    until("it has the bucket again", || owner.owned() == 1).await;
    let took = signed.now().since(Timestamp::from_seconds(1_800_000_000));
    assert!(Span::from_seconds(15) <= took && took <= Span::from_millis(15_100), "{took}");
}

#[tokio::test(start_paused = true)]
async fn clocks_that_are_wrong_elect_as_well_as_any() {
    let store = Store::new(clock());
    let day = 86_400;
    let ahead = Clock::starting_at(Timestamp::from_seconds(1_800_000_000 + 400 * day));
    let behind = Clock::starting_at(Timestamp::from_seconds(1_800_000_000 - 400 * day));
    let first = replica_at(&store, 1, 1, Compat::IMPROVED, behind);
    until("the one behind owns it", || first.owned() == 1).await;
    let second = replica_at(&store, 2, 1, Compat::IMPROVED, ahead);
    tokio::time::sleep(Duration::from_mins(3)).await;
    assert_eq!((first.owned(), second.owned()), (1, 0), "a renewal of long ago is a renewal");
    first.elections.stop().await;
    until("the one ahead owns it", || second.owned() == 1).await;
    let third = replica_at(&store, 3, 1, Compat::IMPROVED, behind);
    tokio::time::sleep(Duration::from_mins(3)).await;
    assert_eq!((second.owned(), third.owned()), (1, 0));
    assert!(second.clock.now() > third.clock.now());
    second.network.cut();
    until("the third owns it", || third.owned() == 1).await;
}

#[tokio::test(start_paused = true)]
async fn without_watches_candidates_look_for_themselves() {
    let store = Store::new(clock());
    store.faults().add(Fault::once(Effect::fail(500)).on(Verb::Watch).times(u32::MAX));
    store.faults().add(Fault::once(Effect::fail(500)).on(Verb::List).of("leases.coordination.k8s.io").times(u32::MAX));
    let first = replica(&store, 1, 1, Compat::IMPROVED);
    until("the first owns it", || first.owned() == 1).await;
    let second = replica(&store, 2, 1, Compat::IMPROVED);
    until("the second knows", || second.holder(0) == "10.0.0.1").await;
    first.elections.stop().await;
    until("the second owns it", || second.owned() == 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_deleted_lease_is_made_again_by_its_owner() {
    let store = Store::new(clock());
    let owner = replica(&store, 1, 1, Compat::IMPROVED);
    until("it owns the bucket", || owner.owned() == 1).await;
    let leases: Api<Lease> = Api::namespaced(Network::to(&store).client(), SYSTEM);
    let before = lease(&store).await.metadata.uid;
    leases.delete("autoscaler-bucket-00-of-01", &DeleteParams::default()).await.expect("deleted");
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_ne!(lease(&store).await.metadata.uid, before);
    assert_eq!(owner.told.log(), "activate 0, promoted 0");
}

/// The one law, under whatever comes: three replicas with clocks of their own, networks that are cut and mended, writes
/// that conflict or lose their answers.
#[tokio::test(start_paused = true)]
async fn a_part_that_panics_is_told() {
    struct Clumsy;
    impl Duties for Clumsy {
        fn promoted(&self, bucket: usize) {
            assert_eq!(bucket, 0, "the test asked for it");
        }
        fn demoted(&self, _: usize) {}
    }
    let store = Store::new(clock());
    let ownership = Ownership::elected(clock(), Ring::new(2));
    let setup = Setup {
        client: Network::to(&store).client(),
        namespace: SYSTEM.to_owned(),
        cluster_domain: "cluster.local".to_owned(),
        identity: Identity::new("autoscaler-1", "10.0.0.1").expect("a pod"),
        times: LeaderElection { buckets: 2, ..LeaderElection::defaults(Compat::IMPROVED) },
        clock: clock(),
        compat: Compat::IMPROVED,
    };
    let duties: Arc<dyn Duties> = Arc::new(Clumsy);
    let elections = Elections::start(setup, ownership.clone(), &duties, CancellationToken::new());
    until("it is told", || elections.broken().is_cancelled()).await;
    until("the other bucket is led all the same", || ownership.owns_index(0)).await;
}

#[tokio::test(start_paused = true)]
async fn a_bucket_never_has_two_owners() {
    use rand::{RngExt as _, SeedableRng as _};
    for seed in 0..3 {
        let mut random = rand::rngs::SmallRng::seed_from_u64(seed);
        let store = Store::new(clock());
        let replicas: Vec<_> = [1, 2, 3]
            .into_iter()
            .map(|number: u8| {
                let off = Span::from_seconds(i64::from(number) * 1_000_000);
                let clock = Clock::starting_at(Timestamp::from_seconds(1_800_000_000) + off);
                replica_at(&store, number, 3, Compat::IMPROVED, clock)
            })
            .collect();
        let mut handed_over = 0;
        let mut last = [None; 3];
        for step in 0..2_000 {
            let now_owned = [0, 1, 2].map(|bucket| {
                let owners: Vec<_> = (0..3).filter(|one| replicas[*one].ownership.owns_index(bucket)).collect();
                assert!(owners.len() <= 1, "seed {seed}, step {step}: replicas {owners:?} own bucket {bucket}");
                owners.first().copied()
            });
            for (before, now) in last.iter_mut().zip(now_owned) {
                if now.is_some() && *before != now {
                    handed_over += 1;
                    *before = now;
                }
            }
            if random.random_range(0..40) == 0 {
                let network = &replicas[random.random_range(0..3)].network;
                if random.random_bool(0.5) { network.cut() } else { network.mend() }
            }
            if random.random_range(0..60) == 0 {
                let effects = [
                    Effect::fail(409),
                    Effect::fail(503),
                    Effect::Delay(Duration::from_millis(random.random_range(1..3_000))),
                ];
                let effect = effects[random.random_range(0..effects.len())].clone();
                store.faults().add(Fault::once(effect).on(Verb::Update));
            }
            if random.random_range(0..60) == 0 {
                replicas[random.random_range(0..3)].network.lose_answers(1);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(handed_over > 6, "seed {seed}: {handed_over} hand-overs are no test");
        for replica in &replicas {
            replica.network.mend();
        }
        until("all is well in the end", || replicas.iter().map(Replica::owned).sum::<usize>() == 3).await;
    }
}

/// A candidate as client-go makes them, in a few lines of its own: it polls, and knows neither watch nor fence.
struct GoReplica {
    stop: CancellationToken,
    leads: Arc<AtomicBool>,
    done: tokio::task::JoinHandle<()>,
}

impl GoReplica {
    fn start(store: &Arc<Store>) -> Self {
        let leases: Api<Lease> = Api::namespaced(Network::to(store).client(), SYSTEM);
        let (stop, leads) = (CancellationToken::new(), Arc::<AtomicBool>::default());
        let done = tokio::spawn(Self::run(leases, stop.clone(), leads.clone()));
        Self { stop, leads, done }
    }

    async fn run(leases: Api<Lease>, stop: CancellationToken, leads: Arc<AtomicBool>) {
        const NAME: &str = "autoscaler-bucket-00-of-01";
        const WE: &str = "autoscaler-go_10.0.0.77";
        let clock = clock();
        let mut observed: Option<(LeaseSpec, Timestamp)> = None;
        loop {
            let leaving = stop.is_cancelled();
            if let Some(mut lease) = leases.get_opt(NAME).await.expect("an answer") {
                let spec = lease.spec.clone().expect("a record");
                let since = match observed.take() {
                    Some((known, since)) if known == spec => since,
                    _ => clock.now(),
                };
                observed = Some((spec.clone(), since));
                let holder = spec.holder_identity.clone().unwrap_or_default();
                let lasts = Span::from_seconds(spec.lease_duration_seconds.unwrap_or(0).into());
                let ours = holder == WE;
                leads.store(ours, Ordering::SeqCst);
                let now = MicroTime(ebb::api::conditions::to_jiff(clock.now()));
                let free = holder.is_empty() || since + lasts <= clock.now();
                if ours || (free && !leaving) {
                    lease.spec = Some(LeaseSpec {
                        holder_identity: Some(if leaving { String::new() } else { WE.to_owned() }),
                        lease_duration_seconds: Some(if leaving { 1 } else { 15 }),
                        lease_transitions: spec.lease_transitions.map(|number| number + i32::from(!ours)),
                        acquire_time: if ours { spec.acquire_time } else { Some(now.clone()) },
                        renew_time: Some(now),
                        ..LeaseSpec::default()
                    });
                    let written = leases.replace(NAME, &PostParams::default(), &lease).await;
                    leads.store(written.is_ok() && !leaving, Ordering::SeqCst);
                }
            }
            if leaving {
                return;
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(Duration::from_secs(2)) => {}
            }
        }
    }

    fn leads(&self) -> bool {
        self.leads.load(Ordering::SeqCst)
    }
}

#[tokio::test(start_paused = true)]
async fn a_replica_of_go_and_one_of_ebb_share_a_bucket() {
    let store = Store::new(clock());
    let ours = replica(&store, 1, 1, Compat::IMPROVED);
    until("Ebb owns the bucket", || ours.owned() == 1).await;
    let theirs = GoReplica::start(&store);
    tokio::time::sleep(Duration::from_mins(2)).await;
    assert!(ours.owned() == 1 && !theirs.leads(), "renewals are respected");
    // Rolled forward and back: each takes over what the other releases, and what it leaves behind dying.
    ours.elections.stop().await;
    until("Go's next poll finds it free", || theirs.leads()).await;
    let ours = replica(&store, 2, 1, Compat::IMPROVED);
    until("Ebb knows the owner", || ours.holder(0) == "10.0.0.77").await;
    tokio::time::sleep(Duration::from_mins(2)).await;
    assert!(ours.owned() == 0 && theirs.leads(), "renewals are respected");
    theirs.stop.cancel();
    theirs.done.await.expect("no panic");
    let released = clock();
    until("Ebb takes what Go released", || ours.owned() == 1).await;
    let took = released.now().since(Timestamp::from_seconds(1_800_000_000));
    assert!(took <= Span::from_millis(100), "at once: {took}");

    let theirs = GoReplica::start(&store);
    tokio::time::sleep(Duration::from_secs(10)).await;
    ours.network.cut();
    until("Go takes what Ebb left behind", || theirs.leads()).await;
    assert_eq!(ours.owned(), 0);
    ours.network.mend();
    until("Ebb knows", || ours.holder(0) == "10.0.0.77").await;
    theirs.done.abort();
    let killed = clock();
    until("Ebb takes what Go left behind", || ours.owned() == 1).await;
    let took = killed.now().since(Timestamp::from_seconds(1_800_000_000));
    assert!(Span::from_seconds(12) <= took && took <= Span::from_millis(15_100), "its own 15 s: {took}");
    assert_eq!(lease(&store).await.spec.expect("a record").lease_transitions, Some(4));
}
