//! The stat server: probes, handshakes, frames good and bad, back-pressure, the end.

use super::{eventually, soon};
use bytes::Bytes;
use ebb::clock::Clock;
use ebb::stats::server::{Counters, MOST_BAD, MOST_FRAME, MOST_READ, Received, Server, router, serve};
use ebb::stats::wire::{Stat, WireStatMessage, decode_frame, encode_batch};
use ebb::units::{Compat, RevisionKey};
use futures::{SinkExt as _, StreamExt as _};
use http::{HeaderName, Request, StatusCode};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error as WsError, Message};
use tokio_tungstenite::{WebSocketStream, client_async};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

type Socket = WebSocketStream<TcpStream>;

/// A running stat server.
struct Running {
    address: SocketAddr,
    counters: Arc<Counters>,
    received: mpsc::Receiver<Received>,
    cancel: CancellationToken,
    serving: JoinHandle<()>,
}

/// A server whose queue has `places`, and what comes out of it.
fn server(places: usize, compat: Compat) -> (Server, mpsc::Receiver<Received>) {
    let (queue, received) = mpsc::channel(places);
    let owns = Arc::new(|bucket: &str| bucket == "autoscaler-bucket-00-of-02");
    (
        Server { queue, owns, counters: Arc::default(), clock: Clock::system(), compat, also: axum::Router::new() },
        received,
    )
}

impl Running {
    async fn start(places: usize, compat: Compat) -> Self {
        let (server, received) = server(places, compat);
        let counters = server.counters.clone();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let cancel = CancellationToken::new();
        let serving = tokio::spawn(serve(listener, server, cancel.clone()));
        Self { address, counters, received, cancel, serving }
    }

    async fn connect(&self) -> Socket {
        self.connect_as("autoscaler").await.expect("a websocket")
    }

    async fn connect_as(&self, host: &str) -> Result<Socket, WsError> {
        let stream = TcpStream::connect(self.address).await.expect("a connection");
        let request = format!("ws://{host}:8080").into_client_request().expect("a request");
        Ok(client_async(request, stream).await?.0)
    }

    async fn receive(&mut self) -> Received {
        soon("a stat", self.received.recv()).await.expect("the server runs")
    }
}

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::SeqCst)
}

fn stat(concurrency: f64) -> Stat {
    Stat {
        pod_name: "activator-1".into(),
        average_concurrent_requests: concurrency,
        request_count: 1.0,
        ..Stat::default()
    }
}

fn message(revision: &str, stat: Stat) -> WireStatMessage {
    WireStatMessage::new(&RevisionKey::new("default", revision), stat)
}

fn frame(messages: impl IntoIterator<Item = WireStatMessage>) -> Message {
    Message::Binary(encode_batch(messages.into_iter().collect()))
}

/// How a connection ends: the code and the reason, if any was given.
async fn end(socket: &mut Socket) -> Option<(CloseCode, String)> {
    soon("the end of the connection", async {
        while let Some(Ok(message)) = socket.next().await {
            if let Message::Close(close) = message {
                return close.map(|close| (close.code, close.reason.to_string()));
            }
        }
        None
    })
    .await
}

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// A handshake with some headers changed; an empty value takes the header away.
async fn answer(compat: Compat, method: &str, changes: &[(&str, &str)]) -> (StatusCode, String) {
    let (server, _received) = server(1, compat);
    let mut request = Request::builder().method(method).uri("/").body(axum::body::Body::empty()).expect("a request");
    let usual = [
        ("host", "autoscaler:8080"),
        ("connection", "keep-alive, Upgrade"),
        ("upgrade", "WebSocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", KEY),
    ];
    for (name, value) in usual.iter().chain(changes) {
        let name: HeaderName = name.parse().expect("a name");
        request.headers_mut().remove(&name);
        if !value.is_empty() {
            request.headers_mut().insert(name, value.parse().expect("a value"));
        }
    }
    let response = router(server, CancellationToken::new()).oneshot(request).await.expect("an answer");
    let status = response.status();
    let body = axum::body::to_bytes(response.into_body(), 1 << 16).await.expect("a body");
    (status, String::from_utf8(body.to_vec()).expect("text"))
}

#[tokio::test]
async fn a_kubelet_is_answered_before_anything_else() {
    for changes in [
        [("user-agent", "kube-probe/1.34"), ("upgrade", "")],
        [("k-kubelet-probe", "queue"), ("connection", "")],
        [("user-agent", "kube-probe/"), ("host", "autoscaler-bucket-01-of-02.knative-serving")],
    ] {
        for method in ["GET", "POST", "HEAD"] {
            let got = answer(Compat::IMPROVED, method, &changes).await;
            assert_eq!(got, (StatusCode::OK, String::new()), "{method} {changes:?}");
        }
    }
}

#[tokio::test]
async fn what_is_no_handshake_is_refused_with_the_status_that_says_why() {
    for (method, change, want) in [
        ("GET", ("connection", ""), 400),
        ("GET", ("connection", "keep-alive"), 400),
        ("GET", ("upgrade", ""), 426),
        ("GET", ("upgrade", "h2c"), 426),
        ("POST", ("host", "autoscaler"), 405),
        ("GET", ("sec-websocket-version", "8"), 400),
        ("GET", ("sec-websocket-version", ""), 400),
        ("GET", ("sec-websocket-key", ""), 400),
        ("GET", ("sec-websocket-key", "short"), 400),
        ("GET", ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQaa"), 400),
        ("GET", ("origin", "http://elsewhere"), 403),
        ("GET", ("origin", "http://autoscaler"), 403),
        ("GET", ("origin", "null"), 403),
        // Refused only because nothing can be upgraded in this test.
        ("GET", ("origin", "http://AUTOSCALER:8080"), 400),
        // First things first: the order of the checks.
        ("POST", ("connection", ""), 400),
        ("POST", ("upgrade", ""), 426),
        // Neither an agent that is nearly a kubelet's nor an empty header is a probe.
        ("POST", ("user-agent", "Kube-Probe/1.34"), 405),
    ] {
        let (status, why) = answer(Compat::IMPROVED, method, &[change]).await;
        assert_eq!(status.as_u16(), want, "{method} {change:?}: {why}");
        assert!(!why.is_empty(), "{method} {change:?}");
    }
}

#[tokio::test]
async fn a_bucket_of_another_replica_is_refused_in_words_unless_strict() {
    let foreign = [("host", "autoscaler-bucket-01-of-02.knative-serving.svc.cluster.local:8080")];
    let (status, why) = answer(Compat::IMPROVED, "GET", &foreign).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(why.contains("autoscaler-bucket-01-of-02"), "{why}");
    assert_eq!(answer(Compat::STRICT, "GET", &foreign).await, (StatusCode::OK, String::new()));

    let running = Running::start(1, Compat::IMPROVED).await;
    running.connect_as("autoscaler-bucket-00-of-02.knative-serving").await.expect("our own bucket");
    running.connect_as("127.0.0.1").await.expect("no bucket");
    running.connect_as("autoscaler-bucket-01-of-02.knative-serving").await.expect_err("another's bucket");
    assert_eq!(read(&running.counters.refused), 1);
}

#[tokio::test]
async fn stats_arrive_as_they_were_sent() {
    let mut running = Running::start(1000, Compat::IMPROVED).await;
    let mut socket = running.connect().await;
    let first = Stat { timestamp: 1_700_000_000, process_uptime: 3.0, ..stat(3.5) };
    // An activator takes an announced request off its next count.
    let correction = Stat { request_count: -1.0, ..stat(0.0) };
    let without = WireStatMessage { stat: None, ..message("c-00001", stat(0.0)) };
    socket
        .send(frame([message("a-00001", first.clone()), without, message("b-00001", correction.clone())]))
        .await
        .expect("sent");
    for (revision, stat) in [("a-00001", first), ("b-00001", correction)] {
        let received = running.receive().await;
        assert_eq!(received.key.as_str(), format!("default/{revision}"));
        assert_eq!(received.stat, stat);
        assert_eq!(&*received.source, "127.0.0.1");
    }
    assert_eq!(read(&running.counters.messages), 2);
    assert_eq!(read(&running.counters.frames), 1);
    assert_eq!(read(&running.counters.open), 1);
}

#[tokio::test]
async fn the_batch_of_an_activator_with_ten_thousand_revisions_passes() {
    let mut running = Running::start(1000, Compat::IMPROVED).await;
    let mut socket = running.connect().await;
    let name = |number: u32| format!("{number:05}-{}", "x".repeat(57));
    let all: Vec<_> = (0..10_000).map(|number| message(&name(number), stat(1.0))).collect();
    let sending = tokio::spawn(async move {
        socket.send(frame(all)).await.expect("sent");
        socket
    });
    for number in 0..10_000 {
        assert_eq!(running.receive().await.key.name(), name(number));
    }
    sending.await.expect("sent");
}

#[tokio::test]
async fn a_bad_frame_is_dropped_and_the_connection_stays() {
    let mut running = Running::start(1000, Compat::IMPROVED).await;
    let mut socket = running.connect().await;
    for (bad, counter) in [
        (Message::Text("{}".into()), &running.counters.text),
        (Message::Binary(Bytes::from_static(b"not protobuf")), &running.counters.undecodable),
        // Two bytes a message: small on the wire and large in memory.
        (Message::Binary([b'\x0a', 0].repeat(60_000).into()), &running.counters.undecodable),
        (Message::Binary(vec![0; MOST_FRAME + 1].into()), &running.counters.oversized),
    ] {
        let before = read(counter);
        socket.send(bad).await.expect("sent");
        socket.send(frame([message("good-00001", stat(1.0))])).await.expect("sent");
        let key = soon("a stat", running.received.recv()).await.expect("the server runs").key;
        assert_eq!(key.name(), "good-00001");
        assert_eq!(read(counter), before + 1);
    }
    assert_eq!(read(&running.counters.frames), 8);
    assert_eq!(read(&running.counters.messages), 4);
}

#[tokio::test]
async fn a_stat_that_cannot_be_is_dropped_alone_unless_strict() {
    let bad = [
        Stat { average_concurrent_requests: f64::NAN, ..stat(0.0) },
        Stat { average_concurrent_requests: -0.5, ..stat(0.0) },
        Stat { average_proxied_concurrent_requests: f64::INFINITY, ..stat(0.0) },
        Stat { request_count: -1.5, ..stat(0.0) },
        Stat { request_count: f64::NEG_INFINITY, ..stat(0.0) },
        Stat { proxied_request_count: -1.0, ..stat(0.0) },
        Stat { request_count: 1e300, ..stat(0.0) },
    ];
    let batch = || {
        let bad = bad.iter().map(|bad| message("bad-00001", bad.clone()));
        frame([message("a-00001", stat(1.0))].into_iter().chain(bad).chain([message("b-00001", stat(1.0))]))
    };
    let mut running = Running::start(1000, Compat::IMPROVED).await;
    running.connect().await.send(batch()).await.expect("sent");
    assert_eq!(running.receive().await.key.name(), "a-00001");
    assert_eq!(running.receive().await.key.name(), "b-00001");
    eventually("the bad ones are counted", || read(&running.counters.inadmissible) == 7).await;

    let mut strict = Running::start(1000, Compat::STRICT).await;
    strict.connect().await.send(batch()).await.expect("sent");
    for _ in 0..bad.len() + 2 {
        strict.receive().await;
    }
}

#[tokio::test]
async fn names_no_revision_can_have_are_dropped() {
    let mut running = Running::start(1000, Compat::IMPROVED).await;
    let name = |namespace: &'static [u8], name: &'static [u8]| WireStatMessage {
        namespace: Bytes::from_static(namespace),
        name: Bytes::from_static(name),
        stat: Some(stat(1.0)),
    };
    let long = WireStatMessage { name: vec![b'x'; 300].into(), ..name(b"default", b"") };
    let reporter = message("a-00001", Stat { pod_name: vec![b'x'; 300].into(), ..stat(1.0) });
    let bad = [name(b"", b"x"), name(b"default", b""), name(b"default", b"a/b"), name(b"\xff", b"x"), long, reporter];
    let count = bad.len() as u64;
    running.connect().await.send(frame(bad.into_iter().chain([message("a-00001", stat(1.0))]))).await.expect("sent");
    assert_eq!(running.receive().await.key.name(), "a-00001");
    eventually("the bad ones are counted", || read(&running.counters.inadmissible) == count).await;
}

#[tokio::test]
async fn a_frame_too_long_to_read_ends_the_connection() {
    let running = Running::start(1000, Compat::IMPROVED).await;
    let mut socket = running.connect().await;
    let sending = socket.send(Message::Binary(vec![0; MOST_READ + 1].into())).await;
    assert!(sending.is_ok(), "{sending:?}");
    assert_eq!(end(&mut socket).await, Some((CloseCode::Size, "frame too long".to_owned())));
    assert_eq!(read(&running.counters.oversized), 1);
    eventually("the connection is closed", || read(&running.counters.open) == 0).await;
}

#[tokio::test]
async fn a_peer_that_keeps_sending_nonsense_is_cut_off() {
    let running = Running::start(1000, Compat::IMPROVED).await;
    let mut socket = running.connect().await;
    for _ in 0..=MOST_BAD {
        socket.feed(Message::Text("nonsense".into())).await.expect("sent");
    }
    socket.flush().await.expect("sent");
    assert_eq!(end(&mut socket).await, Some((CloseCode::Policy, "too many bad frames".to_owned())));
    assert_eq!(read(&running.counters.abusive), 1);
    assert_eq!(read(&running.counters.text), u64::from(MOST_BAD) + 1);
}

#[tokio::test]
async fn a_full_queue_holds_the_reader_back_and_loses_nothing() {
    let mut running = Running::start(2, Compat::IMPROVED).await;
    let mut socket = running.connect().await;
    for number in 0..10 {
        socket.send(frame([message(&format!("r-{number}"), stat(1.0))])).await.expect("sent");
    }
    eventually("the queue is full", || running.received.len() == 2).await;
    assert!(read(&running.counters.messages) <= 2);
    for number in 0..10 {
        assert_eq!(running.receive().await.key.name(), format!("r-{number}"));
    }
}

#[tokio::test]
async fn pings_are_answered() {
    let running = Running::start(1, Compat::IMPROVED).await;
    let mut socket = running.connect().await;
    for number in 0..3u8 {
        socket.send(Message::Ping(vec![number].into())).await.expect("sent");
        let answer = soon("a pong", socket.next()).await.expect("open").expect("a message");
        assert_eq!(answer, Message::Pong(vec![number].into()));
    }
}

#[tokio::test]
async fn at_the_end_every_peer_is_told_to_come_back() {
    let running = Running::start(1, Compat::IMPROVED).await;
    let (mut idle, mut held_back) = (running.connect().await, running.connect().await);
    for _ in 0..5 {
        held_back.send(frame([message("r-00001", stat(1.0))])).await.expect("sent");
    }
    eventually("the queue is full", || running.received.len() == 1).await;
    running.cancel.cancel();
    for socket in [&mut idle, &mut held_back] {
        assert_eq!(end(socket).await, Some((CloseCode::Restart, "Restarting".to_owned())));
    }
    soon("the server has ended", running.serving).await.expect("no panic");
    assert_eq!(read(&running.counters.open), 0);
    TcpStream::connect(running.address).await.expect_err("nobody listens");
}

#[tokio::test]
async fn the_end_does_not_wait_for_a_peer_that_does_not_listen() {
    let running = Running::start(1, Compat::IMPROVED).await;
    let deaf = running.connect().await;
    let half = TcpStream::connect(running.address).await.expect("a connection");
    running.cancel.cancel();
    tokio::time::timeout(Duration::from_secs(5), running.serving).await.expect("within its budget").expect("no panic");
    drop((deaf, half));
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_decoding_panic(bytes: Vec<u8>) {
        let _messages = decode_frame(bytes.into());
    }

    #[test]
    fn a_damaged_batch_never_makes_decoding_panic(
        concurrency: f64, at in 0usize..200, flip: u8, cut in 0usize..200,
    ) {
        let whole = encode_batch((0..4).map(|n| message(&format!("r-{n}"), stat(concurrency))).collect());
        let mut bytes = whole.to_vec();
        let at = at % bytes.len();
        bytes[at] ^= flip;
        bytes.truncate(bytes.len() - cut % bytes.len());
        let _messages = decode_frame(bytes.into());
    }

    #[test]
    fn a_batch_comes_back_as_it_was(stats in proptest::collection::vec((".*", ".*", -1e9..1e9f64, 0i64..), 0..20)) {
        let batch: Vec<_> = stats
            .into_iter()
            .map(|(namespace, name, value, timestamp)| WireStatMessage {
                namespace: namespace.into(),
                name: name.into(),
                stat: Some(Stat { timestamp, ..stat(value) }),
            })
            .collect();
        proptest::prop_assert_eq!(decode_frame(encode_batch(batch.clone())).expect("a batch"), batch);
    }
}
