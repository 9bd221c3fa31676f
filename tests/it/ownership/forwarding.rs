//! Stats on their way to the replica that owns the revision.

use crate::stats::{eventually, soon};
use ebb::clock::Clock;
use ebb::k8s::dial::Dial;
use ebb::ownership::holder::{Holder, Identity, Remote};
use ebb::stats::forward::{Counters, Forwarder, LIFE, MOST_WAITING, RETRY};
use ebb::stats::server::{Received, Server, serve};
use ebb::stats::wire::{Stat, decode_frame};
use ebb::units::{Compat, RevisionKey, Timestamp};
use futures::StreamExt as _;
use futures::future::BoxFuture;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, accept_async};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

const BUCKET: &str = "autoscaler-bucket-00-of-01";

/// Names and addresses of a cluster, each with where it leads; what is not here never answers.
#[derive(Clone, Default)]
pub(super) struct Cluster(Arc<Mutex<HashMap<String, SocketAddr>>>);

impl Cluster {
    pub(super) fn leads(&self, host: &str, to: SocketAddr) {
        self.0.lock().expect("no panic above").insert(host.to_owned(), to);
    }
}

impl Dial for Cluster {
    fn dial<'a>(&'a self, host: &'a str, port: u16) -> BoxFuture<'a, io::Result<TcpStream>> {
        let found = self.0.lock().expect("no panic above").get(host).copied().filter(|_| port == 8080);
        Box::pin(async move {
            match found {
                Some(address) => TcpStream::connect(address).await,
                None => std::future::pending().await,
            }
        })
    }
}

/// A forwarder of as many buckets as there are holders, and what it took in itself.
struct Replica {
    forwarder: Forwarder,
    holders: Vec<watch::Sender<Holder>>,
    taken_in: mpsc::UnboundedReceiver<Received>,
    _running: DropGuard,
}

impl Replica {
    fn start(cluster: &Cluster, holders: Vec<Holder>) -> Self {
        let holders: Vec<_> = holders.into_iter().map(watch::Sender::new).collect();
        let (sender, taken_in) = mpsc::unbounded_channel();
        let take_in: Arc<dyn Fn(Received) + Send + Sync> = Arc::new(move |received| drop(sender.send(received)));
        let cancel = CancellationToken::new();
        let dial: Arc<dyn Dial> = Arc::new(cluster.clone());
        let watched = holders.iter().map(watch::Sender::subscribe).collect();
        let forwarder = Forwarder::start(watched, &dial, Clock::system(), &take_in, &TaskTracker::new(), &cancel);
        Self { forwarder, holders, taken_in, _running: cancel.drop_guard() }
    }

    fn count(&self, counter: impl Fn(&Counters) -> &AtomicU64) -> u64 {
        counter(self.forwarder.counters()).load(Ordering::SeqCst)
    }
}

fn held_by(ip: &str) -> Holder {
    let identity = Identity::new("autoscaler-x", ip).expect("a pod");
    Holder::Remote(Arc::new(Remote::of_lease(&identity, BUCKET, "knative-serving", "cluster.local")))
}

fn received(number: u32) -> Received {
    Received {
        key: RevisionKey::new("default", &format!("hello-{number}")),
        stat: Stat {
            pod_name: "activator-1".into(),
            average_concurrent_requests: f64::from(number),
            timestamp: 1_800_000_000,
            ..Stat::default()
        },
        source: "10.0.0.99".into(),
        relayed: false,
        came: Timestamp::from_seconds(1_800_000_000),
    }
}

async fn peer() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    (listener, address)
}

async fn accept(listener: &TcpListener) -> WebSocketStream<TcpStream> {
    let (stream, _) = soon("a connection", listener.accept()).await.expect("a connection");
    soon("a handshake", accept_async(stream)).await.expect("a handshake")
}

/// The stats of the next frame: concurrency and time of each.
async fn next(socket: &mut WebSocketStream<TcpStream>) -> Vec<(f64, i64)> {
    soon("a frame", async {
        loop {
            if let Message::Binary(frame) = socket.next().await.expect("open").expect("a message") {
                let stats = decode_frame(frame).expect("a batch").into_iter().filter_map(|message| message.stat);
                return stats.map(|stat| (stat.average_concurrent_requests, stat.timestamp)).collect();
            }
        }
    })
    .await
}

#[tokio::test]
async fn each_stat_goes_to_the_holder_in_a_frame_of_its_own() {
    let (listener, address) = peer().await;
    let cluster = Cluster::default();
    cluster.leads("10.0.0.1", address);
    let replica = Replica::start(&cluster, vec![held_by("10.0.0.1")]);
    replica.forwarder.forward(0, received(1));
    replica.forwarder.forward(0, received(2));
    let mut socket = accept(&listener).await;
    assert_eq!(next(&mut socket).await, [(1.0, 1_800_000_000)]);
    assert_eq!(next(&mut socket).await, [(2.0, 1_800_000_000)]);
    assert_eq!(replica.count(|counters| &counters.forwarded), 2);
}

#[tokio::test]
async fn where_the_address_does_not_answer_the_service_does_and_a_new_holder_gets_what_waits() {
    let (listener, address) = peer().await;
    let (heir, heirs_address) = peer().await;
    let cluster = Cluster::default();
    cluster.leads("autoscaler-bucket-00-of-01.knative-serving.svc.cluster.local", address);
    let replica = Replica::start(&cluster, vec![held_by("10.0.0.1")]);
    replica.forwarder.forward(0, received(1));
    let mut socket = accept(&listener).await;
    assert_eq!(next(&mut socket).await, [(1.0, 1_800_000_000)]);

    replica.holders[0].send_replace(Holder::Nobody);
    soon("the end of the old connection", async { while let Some(Ok(_)) = socket.next().await {} }).await;
    replica.forwarder.forward(0, received(2));
    eventually("it waits", || replica.count(|counters| &counters.retried) > 0).await;
    cluster.leads("10.0.0.2", heirs_address);
    replica.holders[0].send_replace(held_by("10.0.0.2"));
    assert_eq!(next(&mut accept(&heir).await).await, [(2.0, 1_800_000_000)]);
}

#[tokio::test]
async fn a_bucket_that_becomes_ours_brings_what_waited_for_it() {
    let mut replica = Replica::start(&Cluster::default(), vec![Holder::Nobody]);
    replica.forwarder.forward(0, received(7));
    eventually("it waits", || replica.count(|counters| &counters.retried) > 0).await;
    replica.holders[0].send_replace(Holder::Local);
    let taken_in = soon("the stat", replica.taken_in.recv()).await.expect("a stat");
    assert_eq!(taken_in, received(7));
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_never_answers_costs_its_own_stats_and_nothing_else() {
    let mut replica = Replica::start(&Cluster::default(), vec![held_by("10.0.0.1"), Holder::Nobody, Holder::Local]);
    replica.forwarder.forward(0, received(1));
    replica.forwarder.forward(1, received(2));
    replica.forwarder.forward(2, received(3));
    let taken_in = soon("the stat of the other bucket", replica.taken_in.recv()).await.expect("a stat");
    assert_eq!(taken_in, received(3));
    soon("both are given up", async {
        while replica.count(|counters| &counters.dropped_unreachable) == 0
            || replica.count(|counters| &counters.dropped_without_owner) == 0
        {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    // Thirty times where that takes no time, fewer where it does, and no more.
    let retried = replica.count(|counters| &counters.retried);
    let most = u64::try_from(LIFE.nanos() / RETRY.nanos()).expect("small");
    assert!(most < retried && retried < 2 * most, "{retried}");
    assert_eq!(replica.count(|counters| &counters.forwarded), 0);
}

#[tokio::test(start_paused = true)]
async fn a_flood_is_bounded_and_the_newest_are_kept() {
    let mut replica = Replica::start(&Cluster::default(), vec![Holder::Nobody]);
    let sent = u32::try_from(3 * MOST_WAITING).expect("small");
    for number in 0..sent {
        replica.forwarder.forward(0, received(number));
        if number % 1_000 == 0 {
            tokio::task::yield_now().await;
        }
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    let crowded = replica.count(|counters| &counters.dropped_crowded);
    assert_eq!(crowded, u64::try_from(2 * MOST_WAITING).expect("small"));
    replica.holders[0].send_replace(Holder::Local);
    for _ in 0..MOST_WAITING {
        soon("what waited", replica.taken_in.recv()).await.expect("a stat");
    }
    assert!(replica.taken_in.try_recv().is_err());
}

/// A replica with a stat server of its own, which passes everything on.
async fn mistaken(cluster: &Cluster, ip: &str, believes: &str) -> (Replica, CancellationToken) {
    let (listener, address) = peer().await;
    cluster.leads(ip, address);
    let replica = Replica::start(cluster, vec![held_by(believes)]);
    let (queue, mut received) = mpsc::channel(1_000);
    let counters = Arc::default();
    let server = Server {
        queue,
        owns: Arc::new(|_| false),
        counters,
        clock: Clock::system(),
        compat: Compat::IMPROVED,
        also: axum::Router::new(),
    };
    let cancel = CancellationToken::new();
    tokio::spawn(serve(listener, server, cancel.clone()));
    let forwarder = replica.forwarder.clone();
    tokio::spawn(async move {
        while let Some(received) = received.recv().await {
            forwarder.forward(0, received);
        }
    });
    (replica, cancel)
}

#[tokio::test]
async fn replicas_that_each_believe_in_another_do_not_circulate_stats() {
    let cluster = Cluster::default();
    let (first, _serving_first) = mistaken(&cluster, "10.0.0.1", "10.0.0.2").await;
    let (second, _serving_second) = mistaken(&cluster, "10.0.0.2", "10.0.0.3").await;
    let (third, _serving_third) = mistaken(&cluster, "10.0.0.3", "10.0.0.1").await;
    for number in 0..100 {
        first.forwarder.forward(0, received(number));
    }
    // Round once, and then they wait at the first: each is looked at again and again, and not sent.
    eventually("all are back", || first.count(|counters| &counters.retried) >= 300).await;
    for replica in [&first, &second, &third] {
        assert_eq!(replica.count(|counters| &counters.forwarded), 100);
    }
    // As soon as one of them learns better, they arrive.
    let mut first = first;
    first.holders[0].send_replace(Holder::Local);
    for _ in 0..100 {
        let stat = soon("a stat", first.taken_in.recv()).await.expect("a stat");
        assert!(stat.relayed);
    }
}

#[tokio::test]
async fn the_same_report_twice_is_two_reports() {
    let (listener, address) = peer().await;
    let cluster = Cluster::default();
    cluster.leads("10.0.0.1", address);
    let replica = Replica::start(&cluster, vec![held_by("10.0.0.1")]);
    // An activator whose load does not change reports the same twice within a second.
    replica.forwarder.forward(0, received(1));
    replica.forwarder.forward(0, received(1));
    let mut socket = accept(&listener).await;
    assert_eq!(next(&mut socket).await, next(&mut socket).await);
}
