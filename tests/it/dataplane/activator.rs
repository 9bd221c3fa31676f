//! The activator: buffering, choosing pods, telling of load.

use super::*;
use crate::apiserver::Served;
use ebb::api::serving;
use ebb::dataplane::activator::backends::Backends;
use ebb::dataplane::activator::load::StatSink;
use ebb::dataplane::activator::throttle::{Revision, Share};
use ebb::dataplane::activator::{self, Activator, Counters, feed};
use ebb::dataplane::body::full;
use ebb::dataplane::readiness::Probe;
use ebb::k8s::dial::SystemDial;
use ebb::observe::metrics::{Format, Registry, RevisionLabels};
use ebb::stats::client;
use ebb::stats::wire::{Stat, decode_frame};
use ebb::units::RevisionKey;
use futures::future::join_all;
use http::StatusCode;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use tokio_tungstenite::tungstenite::Message;

/// What an activator told, and whether anybody listens.
#[derive(Default)]
struct Ear {
    deaf: AtomicBool,
    heard: Mutex<Vec<Vec<(String, Stat)>>>,
}

impl StatSink for Ear {
    fn send(&self, batch: Bytes) -> bool {
        if self.deaf.load(Ordering::Relaxed) {
            return false;
        }
        let told = decode_frame(batch).expect("a batch").into_iter().map(|message| {
            let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).expect("text");
            (format!("{}/{}", text(&message.namespace), text(&message.name)), message.stat.expect("a stat"))
        });
        self.heard.lock().expect("no panic").push(told.collect());
        true
    }

    fn is_connected(&self) -> bool {
        !self.deaf.load(Ordering::Relaxed)
    }
}

impl Ear {
    fn heard(&self) -> Vec<Vec<(String, Stat)>> {
        self.heard.lock().expect("no panic").clone()
    }
}

/// An activator under test.
struct Front {
    http1: SocketAddr,
    h2c: SocketAddr,
    backends: Backends,
    ear: Arc<Ear>,
    counters: Arc<Counters>,
    cancel: CancellationToken,
    running: JoinHandle<()>,
    _stop: DropGuard,
}

impl Front {
    async fn start(change: impl FnOnce(&mut activator::Config)) -> Self {
        let mut config = activator::Config::new("activator-1", LOCALHOST);
        (config.http1_port, config.h2c_port) = (0, 0);
        config.drain_period = Duration::from_millis(50);
        change(&mut config);
        let ear = Arc::new(Ear::default());
        let sink: Arc<dyn StatSink> = ear.clone();
        let bound = Activator::bind(config, sink, Clock::system()).await.expect("free ports");
        let ((http1, h2c), backends, counters) =
            (bound.addrs().expect("addresses"), bound.backends(), bound.counters());
        let cancel = CancellationToken::new();
        let running = tokio::spawn(bound.run(cancel.clone()));
        Self { http1, h2c, backends, ear, counters, _stop: cancel.clone().drop_guard(), cancel, running }
    }

    fn get(&self, client: &reqwest::Client, path: &str) -> reqwest::RequestBuilder {
        named(client.get(format!("http://{}{path}", self.http1)))
    }

    async fn waiting(&self, count: usize) {
        until(&format!("{count} requests to wait"), async || (self.backends.waiting(&key()) == count).then_some(()))
            .await;
    }
}

fn key() -> RevisionKey {
    RevisionKey::new("default", "hello-00001")
}

fn named(request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
    request.header("Knative-Serving-Namespace", "default").header("Knative-Serving-Revision", "hello-00001")
}

fn limited(container_concurrency: usize) -> Revision {
    Revision { container_concurrency, ..Revision::default() }
}

async fn statuses(sent: Vec<JoinHandle<reqwest::Result<reqwest::Response>>>) -> Vec<u16> {
    let answers = soon("answers", join_all(sent)).await;
    answers.into_iter().map(|answer| answer.expect("a task").expect("an answer").status().as_u16()).collect()
}

#[tokio::test]
async fn requests_wait_for_the_first_pod_and_none_is_lost() {
    let front = Front::start(|_| {}).await;
    front.backends.set_revision(&key(), Revision::default());
    let client = client();
    let sent: Vec<_> = (0..50)
        .map(|at| {
            let request = front.get(&client, &format!("/{at}"));
            tokio::spawn(async move { request.send().await?.text().await })
        })
        .collect();
    front.waiting(50).await;

    // The pod is announced before it listens, and listens before its process does.
    let reserved = [0; 2].map(|_| std::net::TcpListener::bind((LOCALHOST, 0)).expect("a port"));
    let [pod_addr, user] = reserved.each_ref().map(|listener| listener.local_addr().expect("an address"));
    drop(reserved);
    front.backends.set_pods(&key(), &[(pod_addr, false)]);
    tokio::time::sleep(Duration::from_millis(50)).await;
    let _pod = Pod::start(user, |config| {
        config.ports.http1 = Some(pod_addr.port());
        config.probes = vec![Probe::tcp(user)];
    })
    .await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(front.backends.waiting(&key()), 50);
    let listener = TcpListener::bind(user).await.expect("the port reserved");
    let _app =
        App::on(listener, |request: Request<Body>| async move { Response::new(full(request.uri().path().to_owned())) });
    for (at, answer) in soon("answers", join_all(sent)).await.into_iter().enumerate() {
        assert_eq!(answer.expect("a task").expect("an answer"), format!("/{at}"));
    }
    assert_eq!(front.backends.usable(&key()), [(pod_addr, 0)]);
}

#[tokio::test]
async fn everything_passes_through_both_proxies() {
    let front = Front::start(|_| {}).await;
    let app = App::echo().await;
    let chat = websocket_echo().await;
    let (pod, chat_pod) = (Pod::start(app.addr, |_| {}).await, Pod::start(chat, |_| {}).await);
    front.backends.set_revision(&key(), Revision::default());
    front.backends.set_pods(&key(), &[(pod.http1(), true)]);
    let chat_key = RevisionKey::new("default", "chat-00001");
    front.backends.set_revision(&chat_key, limited(1));
    front.backends.set_pods(&chat_key, &[(chat_pod.http1(), true)]);

    for (addr, h2) in [(front.http1, false), (front.h2c, true), (front.http1, true)] {
        let (writer, body) = written();
        writer.send(Frame::data(Bytes::from_static(b"one"))).await.expect("room");
        let request = Request::post("/")
            .header("knative-serving-namespace", "default")
            .header("knative-serving-revision", "hello-00001")
            .header("te", "trailers")
            .header("trailer", "x-sum")
            .body(body)
            .expect("a request");
        let mut response = soon("an answer", exchange(addr, h2, request)).await;
        let first = soon("a frame", response.body_mut().frame()).await.expect("not the end").expect("a frame");
        assert_eq!(first.into_data().expect("data"), "one");
        writer.send(Frame::data(Bytes::from_static(b"two"))).await.expect("room");
        writer.send(Frame::trailers(header_map(&[("x-sum", "2")]))).await.expect("room");
        drop(writer);
        let rest = soon("the rest", response.into_body().collect()).await.expect("a body");
        assert_eq!(rest.trailers().expect("trailers")["x-sum"], "2", "h2: {h2}");
        assert_eq!(rest.to_bytes(), "two");
    }

    let request = Request::get(format!("ws://{}/", front.http1))
        .header("host", "chat-00001.default.svc.cluster.local")
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", tokio_tungstenite::tungstenite::handshake::client::generate_key())
        .body(())
        .expect("a request");
    let stream = tokio::net::TcpStream::connect(front.http1).await.expect("a connection");
    let (mut socket, _) = tokio_tungstenite::client_async(request, stream).await.expect("a websocket");
    for word in ["a", "b"] {
        socket.send(Message::text(word)).await.expect("sent");
        let echoed = soon("an echo", socket.next()).await.expect("a message").expect("a message");
        assert_eq!(echoed, Message::text(word));
    }
    assert_eq!(front.backends.usable(&chat_key), [(chat_pod.http1(), 1)], "the websocket holds its place");
    drop(socket);
    until("the place to be free", async || (front.backends.usable(&chat_key) == [(chat_pod.http1(), 0)]).then_some(()))
        .await;
}

#[tokio::test]
async fn the_process_sees_the_clients_host_and_the_queue_proxy_the_activator() {
    let front = Front::start(|_| {}).await;
    let app = App::mirror().await;
    front.backends.set_revision(&key(), Revision::default());
    let pod = Pod::start(app.addr, |_| {}).await;
    front.backends.set_pods(&key(), &[(pod.http1(), true)]);
    let request = front.get(&client(), "/").header("host", "hello.default.example.com");
    let seen = request.send().await.expect("an answer").text().await.expect("text");
    for line in
        ["host: hello.default.example.com", "k-proxy-request: activator", "x-forwarded-for: 127.0.0.1, 127.0.0.1"]
    {
        assert!(seen.lines().any(|have| have == line), "{line:?} is not in\n{seen}");
    }
    assert!(!seen.contains("knative-serving-revision") && !seen.contains("k-original-host"), "{seen}");
}

#[tokio::test]
async fn no_pod_gets_more_than_it_takes() {
    for limit in [1, 2] {
        let front = Front::start(|_| {}).await;
        front.backends.set_revision(&key(), limited(limit));
        let (one, mut gate_one) = App::gate().await;
        let (other, mut gate_other) = App::gate().await;
        // The queue-proxies themselves let everything through, so that only the activator limits.
        let pods = [Pod::start(one.addr, |_| {}).await, Pod::start(other.addr, |_| {}).await];
        let addrs: Vec<_> = pods.iter().map(|pod| (pod.http1(), true)).collect();
        front.backends.set_pods(&key(), &addrs);
        let client = client();
        let sent: Vec<_> = (0..10).map(|_| tokio::spawn(front.get(&client, "/").send())).collect();
        gate_one.came(limit).await;
        gate_other.came(limit).await;
        front.waiting(10 - 2 * limit).await;
        assert_eq!((gate_one.so_far(), gate_other.so_far()), (limit, limit));
        assert!(front.backends.usable(&key()).iter().all(|(_, in_flight)| *in_flight == limit));
        // A place that becomes free goes to the next in line, at that pod.
        gate_one.open(1);
        gate_one.came(limit + 1).await;
        front.waiting(9 - 2 * limit).await;
        assert_eq!(gate_other.so_far(), limit);
        gate_one.open(usize::MAX);
        gate_other.open(usize::MAX);
        assert_eq!(statuses(sent).await, [200; 10]);
        assert_eq!(gate_one.so_far() + gate_other.so_far(), 10);
        until("free places", async || {
            front.backends.usable(&key()).iter().all(|(_, in_flight)| *in_flight == 0).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn activators_share_the_pods_out() {
    let (app, mut gate) = App::gate().await;
    let pods = join_all((0..4).map(|_| Pod::start(app.addr, |_| {}))).await;
    let addrs: Vec<_> = pods.iter().map(|pod| (pod.http1(), true)).collect();
    let fronts = [Front::start(|_| {}).await, Front::start(|_| {}).await];
    let client = client();
    let mut sent = Vec::new();
    for (index, front) in fronts.iter().enumerate() {
        front.backends.set_share(&key(), Some(Share { index, count: 2 }));
        front.backends.set_pods(&key(), &addrs);
        front.backends.set_revision(&key(), limited(1));
        until("four pods", async || (front.backends.usable(&key()).len() == 4).then_some(())).await;
        sent.extend((0..4).map(|_| tokio::spawn(front.get(&client, "/").send())));
    }
    gate.came(4).await;
    for front in &fronts {
        front.waiting(2).await;
    }
    let mut used: Vec<_> = fronts
        .iter()
        .flat_map(|front| front.backends.usable(&key()))
        .filter(|(_, in_flight)| *in_flight > 0)
        .map(|(addr, _)| addr)
        .collect();
    used.sort_unstable();
    let mut all: Vec<_> = addrs.iter().map(|(addr, _)| *addr).collect();
    all.sort_unstable();
    assert_eq!(used, all, "each pod is one activator's");
    // One goes: the other takes over its pods.
    fronts[0].backends.set_share(&key(), Some(Share { index: 0, count: 1 }));
    fronts[0].waiting(0).await;
    gate.open(usize::MAX);
    assert_eq!(statuses(sent).await, [200; 8]);
}

#[tokio::test]
async fn a_pod_that_refuses_costs_no_request() {
    let front = Front::start(|_| {}).await;
    front.backends.set_revision(&key(), Revision::default());
    let app = App::echo().await;
    let stays = Pod::start(app.addr, |_| {}).await;
    let mut goes = Pod::start(app.addr, |config| config.quiet_period = Duration::ZERO).await;
    front.backends.set_pods(&key(), &[(stays.http1(), true), (goes.http1(), true)]);
    until("both pods", async || (front.backends.usable(&key()).len() == 2).then_some(())).await;
    let client = client();
    // It stops listening, and Kubernetes has not said so yet.
    goes.cancel.cancel();
    soon("the end", &mut goes.running).await.expect("a clean end");
    let post = |at: usize| {
        let request = named(client.post(format!("http://{}/", front.http1))).body(format!("pay {at}"));
        tokio::spawn(async move {
            let answer = request.send().await?;
            Ok::<_, reqwest::Error>((answer.status(), answer.text().await?))
        })
    };
    for (at, answer) in join_all((0..40).map(post)).await.into_iter().enumerate() {
        assert_eq!(answer.expect("a task").expect("an answer"), (StatusCode::OK, format!("pay {at}")));
    }
    assert!(front.counters.requeued.load(Ordering::Relaxed) > 0);
    assert_eq!(front.backends.usable(&key()).len(), 1, "it is asked before it is used again");

    // The last one goes too: requests wait, and the next pod answers them.
    front.backends.set_pods(&key(), &[]);
    let waits = post(99);
    front.waiting(1).await;
    let comes = Pod::start(app.addr, |_| {}).await;
    front.backends.set_pods(&key(), &[(comes.http1(), false)]);
    let answer = soon("an answer", waits).await.expect("a task").expect("an answer");
    assert_eq!(answer, (StatusCode::OK, "pay 99".to_owned()));
}

#[tokio::test]
async fn pods_that_come_and_go_under_load_lose_nothing() {
    let front = Front::start(|_| {}).await;
    front.backends.set_revision(&key(), limited(3));
    let app = App::echo().await;
    let client = client();
    let done = CancellationToken::new();
    let answered = Arc::new(AtomicUsize::new(0));
    let load: Vec<_> = (0..8)
        .map(|at| {
            let (client, done, answered) = (client.clone(), done.clone(), Arc::clone(&answered));
            let url = format!("http://{}/", front.http1);
            tokio::spawn(async move {
                while !done.is_cancelled() {
                    let request = named(client.post(&url)).body(format!("{at}"));
                    let answer = soon("an answer", request.send()).await.expect("an answer");
                    assert_eq!(answer.status(), StatusCode::OK);
                    assert_eq!(answer.text().await.expect("text"), format!("{at}"));
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    // From zero to two pods and back, again and again. What is announced lags behind what is there, both ways.
    for _ in 0..5 {
        let mut pods = Vec::new();
        for _ in 0..2 {
            pods.push(Pod::start(app.addr, |_| {}).await);
        }
        let addrs: Vec<_> = pods.iter().map(|pod| (pod.http1(), false)).collect();
        front.backends.set_pods(&key(), &addrs);
        let before = answered.load(Ordering::Relaxed);
        until("the load to flow", async || (answered.load(Ordering::Relaxed) > before + 20).then_some(())).await;
        for pod in &pods {
            pod.cancel.cancel();
        }
        until("the load to go on", async || (answered.load(Ordering::Relaxed) > before + 40).then_some(())).await;
        front.backends.set_pods(&key(), &[]);
        for pod in &mut pods {
            soon("the end", &mut pod.running).await.expect("a clean end");
        }
    }
    let last = Pod::start(app.addr, |_| {}).await;
    front.backends.set_pods(&key(), &[(last.http1(), true)]);
    done.cancel();
    for task in load {
        task.await.expect("every answer was good");
    }
}

#[tokio::test]
async fn clients_that_go_away_leave_nothing_behind() {
    let front = Front::start(|_| {}).await;
    front.backends.set_revision(&key(), limited(1));
    let (app, mut gate) = App::gate().await;
    let client = client();
    let mut sent: Vec<_> = (0..5).map(|_| tokio::spawn(front.get(&client, "/").send())).collect();
    front.waiting(5).await;
    for task in sent.drain(1..3) {
        task.abort();
    }
    front.waiting(3).await;
    let pod = Pod::start(app.addr, |_| {}).await;
    front.backends.set_pods(&key(), &[(pod.http1(), true)]);
    gate.came(1).await;
    for task in sent {
        task.abort();
    }
    drop(client);
    front.waiting(0).await;
    until("the place to be free", async || (front.backends.usable(&key()) == [(pod.http1(), 0)]).then_some(())).await;
}

#[tokio::test]
async fn waiting_has_an_end_and_the_line_too() {
    let front = Front::start(|config| config.queue_depth = 2).await;
    let mut revision = limited(1);
    revision.timeouts.request = Duration::from_millis(300);
    front.backends.set_revision(&key(), revision);
    let client = client();
    let waiting: Vec<_> = (0..2).map(|_| tokio::spawn(front.get(&client, "/").send())).collect();
    front.waiting(2).await;
    let refused = front.get(&client, "/").send().await.expect("an answer");
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(refused.text().await.expect("text"), "pending request queue full");
    for answer in join_all(waiting).await {
        let answer = answer.expect("a task").expect("an answer");
        assert_eq!(answer.status(), StatusCode::GATEWAY_TIMEOUT);
        assert_eq!(answer.text().await.expect("text"), "activator request timeout");
    }
    front.waiting(0).await;

    // A revision that is deleted sends its requests away.
    revision.timeouts.request = Duration::from_mins(1);
    front.backends.set_revision(&key(), revision);
    let waits = tokio::spawn(front.get(&client, "/").send());
    front.waiting(1).await;
    front.backends.remove_revision(&key());
    assert_eq!(statuses(vec![waits]).await, [404]);
    let unknown = front.get(&client, "/").send().await.expect("an answer");
    assert_eq!(unknown.status(), StatusCode::NOT_FOUND);
    assert_eq!(
        unknown.text().await.expect("text"),
        "Error getting active endpoint: revisions.serving.knative.dev \"hello-00001\" not found"
    );
    assert_eq!(front.ear.heard().iter().flatten().filter(|(key, _)| key != "default/hello-00001").count(), 0);
}

#[tokio::test]
async fn the_first_request_is_told_at_once_and_not_twice() {
    let front = Front::start(|_| {}).await;
    front.backends.set_revision(&key(), Revision::default());
    let (app, mut gate) = App::gate().await;
    let pod = Pod::start(app.addr, |_| {}).await;
    let waits = tokio::spawn(front.get(&client(), "/").send());
    let first = until("the first batch", async || front.ear.heard().first().cloned()).await;
    let stat = |concurrency, requests| Stat {
        pod_name: "activator-1".into(),
        average_concurrent_requests: concurrency,
        request_count: requests,
        ..Stat::default()
    };
    assert_eq!(first, [("default/hello-00001".to_owned(), stat(1.0, 1.0))]);
    let heard = until("two more batches", async || {
        let heard = front.ear.heard();
        (heard.len() >= 3).then_some(heard)
    })
    .await;
    // Less than a second of one request, less the one told at once: nothing more to tell.
    assert_eq!(heard[1], [("default/hello-00001".to_owned(), stat(0.0, 0.0))]);
    assert_eq!(heard[2], [("default/hello-00001".to_owned(), stat(1.0, 0.0))]);
    front.backends.set_pods(&key(), &[(pod.http1(), true)]);
    gate.came(1).await;
    gate.open(1);
    assert_eq!(statuses(vec![waits]).await, [200]);
    // A last zero, then silence; the next request is a first again.
    let zero = ("default/hello-00001".to_owned(), stat(0.0, 0.0));
    until("the last zero", async || (front.ear.heard().last()? == std::slice::from_ref(&zero)).then_some(())).await;
    let silent = front.ear.heard().len();
    // Another revision's batches show that time passes.
    front.backends.set_revision(&RevisionKey::new("default", "other-00001"), Revision::default());
    let other =
        client().get(format!("http://{}/", front.http1)).header("Host", "other-00001.default.svc.cluster.local");
    let _waits = tokio::spawn(other.send());
    let heard = until("three batches of another revision", async || {
        let heard = front.ear.heard();
        (heard.len() >= silent + 3).then_some(heard)
    })
    .await;
    assert!(heard[silent..].iter().flatten().all(|(key, _)| key == "default/other-00001"), "{:?}", &heard[silent..]);
    gate.open(usize::MAX);
    assert_eq!(front.get(&client(), "/").send().await.expect("an answer").status(), StatusCode::OK);
    let first_again = vec![("default/hello-00001".to_owned(), stat(1.0, 1.0))];
    assert!(front.ear.heard()[heard.len()..].contains(&first_again), "{:?}", &front.ear.heard()[heard.len()..]);
}

#[tokio::test]
async fn a_first_request_told_to_nobody_counts_later() {
    let front = Front::start(|_| {}).await;
    front.backends.set_revision(&key(), Revision::default());
    front.ear.deaf.store(true, Ordering::Relaxed);
    let _waits = tokio::spawn(front.get(&client(), "/").send());
    front.waiting(1).await;
    until("a batch told to nobody", async || (front.counters.stats_dropped.load(Ordering::Relaxed) == 1).then_some(()))
        .await;
    front.ear.deaf.store(false, Ordering::Relaxed);
    let batch = until("a batch", async || front.ear.heard().first().cloned()).await;
    assert_eq!((batch[0].1.average_concurrent_requests, batch[0].1.request_count), (1.0, 1.0));
}

type Headers = &'static [(&'static str, &'static str)];

#[tokio::test]
async fn probes_are_answered() {
    let mut front = Front::start(|_| {}).await;
    let cases: [(Headers, u16, &str); 7] = [
        (&[("k-network-probe", "activator")], 200, "activator"),
        (&[("k-network-probe", "activator"), ("user-agent", "Knative-Autoscaling-Probe")], 200, "activator"),
        (&[("k-network-probe", "queue")], 400, "unexpected probe header value: \"queue\""),
        (&[("k-network-probe", "probe"), ("k-network-hash", "h")], 200, ""),
        (&[("k-network-probe", "probe")], 400, "a probe request must contain a non-empty \"K-Network-Hash\" header"),
        (&[("user-agent", "kube-probe/1.34")], 200, ""),
        (&[("k-kubelet-probe", "activator")], 200, ""),
    ];
    let ask = async |headers: Headers| {
        let request = client().get(format!("http://{}//healthz", front.http1)).headers(header_map(headers));
        let answer = request.send().await.expect("an answer");
        (answer.status().as_u16(), answer.text().await.expect("text"))
    };
    for (headers, status, body) in cases {
        assert_eq!(ask(headers).await, (status, body.to_owned()), "{headers:?}");
    }
    // It is not ready while nobody hears of load, nor once it is going.
    let kubelet: Headers = &[("user-agent", "kube-probe/1.34")];
    front.ear.deaf.store(true, Ordering::Relaxed);
    assert_eq!(ask(kubelet).await, (500, "not connected to the autoscaler".to_owned()));
    front.ear.deaf.store(false, Ordering::Relaxed);
    assert_eq!(ask(kubelet).await.0, 200);
    assert!(front.ear.heard().is_empty(), "probes are no load");
    front.cancel.cancel();
    soon("the end", &mut front.running).await.expect("a clean end");
}

#[tokio::test]
async fn load_arrives_over_the_websocket() {
    let listener = TcpListener::bind((LOCALHOST, 0)).await.expect("a port");
    let url = format!("ws://{}", listener.local_addr().expect("an address"));
    let cancel = CancellationToken::new();
    let _stop = cancel.clone().drop_guard();
    let handle = client::spawn(&url, Arc::new(SystemDial), cancel.clone()).expect("a connection");
    let (stream, _) = soon("a connection", listener.accept()).await.expect("a connection");
    let mut autoscaler = tokio_tungstenite::accept_async(stream).await.expect("a websocket");
    let mut connected = handle.connected();
    soon("the connection", connected.wait_for(|up| *up)).await.expect("a client");

    let mut config = activator::Config::new("activator-1", LOCALHOST);
    (config.http1_port, config.h2c_port) = (0, 0);
    let bound = Activator::bind(config, Arc::new(handle), Clock::system()).await.expect("free ports");
    bound.backends().set_revision(&key(), Revision::default());
    let url = format!("http://{}/", bound.addrs().expect("addresses").0);
    tokio::spawn(bound.run(cancel.clone()));
    let _waits = tokio::spawn(named(client().get(url)).send());
    let told = soon("a batch", async {
        loop {
            // Pings come in between.
            let frame = autoscaler.next().await.expect("a frame").expect("a frame");
            if frame.is_binary() {
                break decode_frame(frame.into_data()).expect("a batch");
            }
        }
    })
    .await;
    assert_eq!((&told[0].namespace[..], &told[0].name[..]), (&b"default"[..], &b"hello-00001"[..]));
    let stat = told[0].stat.clone().expect("a stat");
    assert_eq!((stat.average_concurrent_requests, stat.request_count), (1.0, 1.0));
}

#[tokio::test]
async fn the_table_is_filled_from_kubernetes() {
    let served = Served::start().await;
    let kube = served.client();
    let front = Front::start(|_| {}).await;
    let cancel = CancellationToken::new();
    let _stop = cancel.clone().drop_guard();
    let ports = ebb::dataplane::activator::ports::Ports::default();
    tokio::spawn(feed::run(kube.clone(), front.backends.clone(), ports, LOCALHOST, cancel));

    let app = App::echo().await;
    let pod = Pod::start(app.addr, |_| {}).await;
    let port = pod.http1().port();
    let slice = |ready: bool, terminating: bool| -> EndpointSlice {
        serde_json::from_value(json!({
            "metadata": {"name": "hello-00001-private-x", "namespace": "default", "labels": {
                "networking.internal.knative.dev/serviceType": "Private",
                "networking.internal.knative.dev/serverlessservice": "hello-00001"}},
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": port}],
            "endpoints": [{"addresses": ["127.0.0.1"], "conditions": {"ready": ready, "terminating": terminating}}],
        }))
        .expect("a slice")
    };
    // The pods are told of before the revision.
    let slices: Api<EndpointSlice> = Api::namespaced(kube.clone(), "default");
    slices.create(&PostParams::default(), &slice(false, false)).await.expect("created");
    let revision: serving::Revision = serde_json::from_value(json!({
        "apiVersion": "serving.knative.dev/v1", "kind": "Revision",
        "metadata": {"name": "hello-00001", "namespace": "default"},
        "spec": {"containers": [{"name": "c", "image": "x"}], "containerConcurrency": 3, "timeoutSeconds": 60},
    }))
    .expect("a revision");
    let revisions: Api<serving::Revision> = Api::namespaced(kube, "default");
    revisions.create(&PostParams::default(), &revision).await.expect("created");
    until("the pod", async || (front.backends.usable(&key()) == [(pod.http1(), 0)]).then_some(())).await;
    let post = named(client().post(format!("http://{}/", front.http1))).body("hello");
    assert_eq!(post.send().await.expect("an answer").text().await.expect("text"), "hello");

    // A pod that is going leaves at once, even while it is still there.
    let mut going = slices.get("hello-00001-private-x").await.expect("the slice");
    going.endpoints = slice(false, true).endpoints;
    slices.replace("hello-00001-private-x", &PostParams::default(), &going).await.expect("replaced");
    until("no pod", async || front.backends.usable(&key()).is_empty().then_some(())).await;
    revisions.delete("hello-00001", &DeleteParams::default()).await.expect("deleted");
    until("no revision", async || front.backends.revisions().is_empty().then_some(())).await;
}

#[tokio::test]
async fn requests_are_shown_by_revision_as_knative_shows_them() {
    let registry = Registry::of_part();
    let front = Front::start(|config| config.metrics = Some(((LOCALHOST, 0).into(), registry.clone()))).await;
    let labels = BTreeMap::from([("serving.knative.dev/configuration".to_owned(), "hello".to_owned())]);
    front.backends.set_labels(RevisionLabels::of(&key(), Some(&labels)));
    front.backends.set_revision(&key(), Revision::default());
    let client = client();
    let waiting = tokio::spawn(front.get(&client, "/").send());
    front.waiting(1).await;
    let of = "{k8s_namespace_name=\"default\",kn_revision_name=\"hello-00001\",\
              otel_scope_name=\"knative.dev/serving/pkg/activator\",otel_scope_schema_url=\"\",otel_scope_version=\"\"}";
    let shown = || registry.exposition(Format::Prometheus);
    for (series, value) in [("queued", 1), ("active", 0)] {
        let line = format!("kn_revision_request_{series}{of} {value}\n");
        assert!(shown().contains(&line), "{line}{}", shown());
    }
    let (app, mut gate) = App::gate().await;
    let pod = Pod::start(app.addr, |_| {}).await;
    front.backends.set_pods(&key(), &[(pod.http1(), true)]);
    gate.came(1).await;
    for (series, value) in [("queued", 0), ("active", 1)] {
        let line = format!("kn_revision_request_{series}{of} {value}\n");
        assert!(shown().contains(&line), "{line}{}", shown());
    }
    gate.open(1);
    waiting.await.expect("a task").expect("an answer").bytes().await.expect("a body");
    let count = "http_server_request_duration_seconds_count{http_request_method=\"GET\",http_response_status_code=\"200\",\
                 k8s_namespace_name=\"default\",kn_configuration_name=\"hello\",kn_revision_name=\"hello-00001\",";
    until("the request", async || shown().contains(count).then_some(())).await;
    assert!(shown().contains("kn_activator_stats_conn_reachable{peer=\"autoscaler\""), "{}", shown());
    front.backends.remove_revision(&key());
    assert!(!shown().contains("hello-00001"), "series leave with their revision: {}", shown());
}
