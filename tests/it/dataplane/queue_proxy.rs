//! The queue-proxy: streaming, limits, time-outs, probes, stats, drain.

use super::*;
use ebb::dataplane::body::full;
use ebb::dataplane::readiness::Probe;
use ebb::observe::metrics::{Format, Registry};
use ebb::stats::wire::{Stat, decode_scrape};
use futures::future::join_all;
use http::StatusCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_tungstenite::tungstenite::Message;

fn data(text: &'static str) -> Frame<Bytes> {
    Frame::data(Bytes::from_static(text.as_bytes()))
}

async fn next_data(body: &mut Body) -> Bytes {
    let frame = soon("a frame", body.frame()).await.expect("not the end").expect("a frame");
    frame.into_data().expect("data")
}

#[tokio::test]
async fn a_chunk_comes_back_before_the_request_has_ended() {
    let app = App::echo().await;
    let pod = Pod::start(app.addr, |_| {}).await;
    for (addr, h2) in [(pod.http1(), false), (pod.h2c(), true), (pod.http1(), true), (pod.h2c(), false)] {
        let (writer, body) = written();
        writer.send(data("one")).await.expect("room");
        let request = Request::post("/").body(body).expect("a request");
        let mut response = soon("an answer", exchange(addr, h2, request)).await;
        assert_eq!(next_data(response.body_mut()).await, "one");
        writer.send(data("two")).await.expect("room");
        assert_eq!(next_data(response.body_mut()).await, "two");
        drop(writer);
        assert_eq!(soon("the end", text_of(response.into_body())).await, "");
    }
}

#[tokio::test]
async fn a_side_that_does_not_read_holds_the_other_back() {
    /// More than every buffer on the way.
    const MUCH: usize = 100 << 20;
    let chunk = || Frame::data(Bytes::from(vec![b'x'; 64 << 10]));
    let (sent, produced) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&produced);
    let app = App::start(move |request: Request<Body>| {
        let count = Arc::clone(&count);
        async move {
            if request.uri().path() == "/upload" {
                // Never looks at the body.
                let _body = request.into_body();
                return std::future::pending().await;
            }
            let frames = futures::stream::repeat_with(move || {
                count.fetch_add(64 << 10, Ordering::Relaxed);
                Ok::<_, BoxError>(Frame::data(Bytes::from(vec![b'x'; 64 << 10])))
            });
            Response::new(body::boxed(StreamBody::new(frames)))
        }
    })
    .await;
    let pod = Pod::start(app.addr, |_| {}).await;
    for (addr, h2) in [(pod.http1(), false), (pod.h2c(), true)] {
        let (writer, body) = written();
        let upload = Request::post("/upload").body(body).expect("a request");
        let upload = tokio::spawn(exchange(addr, h2, upload));
        sent.store(0, Ordering::Relaxed);
        while let Ok(room) = tokio::time::timeout(Duration::from_secs(1), writer.send(chunk())).await {
            room.expect("a connection");
            assert!(sent.fetch_add(64 << 10, Ordering::Relaxed) < MUCH, "h2: {h2}");
        }
        upload.abort();

        produced.store(0, Ordering::Relaxed);
        let unread = exchange(addr, h2, Request::get("/download").body(body::empty()).expect("a request")).await;
        let mut before = usize::MAX;
        until("the app to be held back", async || {
            tokio::time::sleep(Duration::from_millis(300)).await;
            let now = produced.load(Ordering::Relaxed);
            assert!(now < MUCH, "h2: {h2}");
            (std::mem::replace(&mut before, now) == now).then_some(())
        })
        .await;
        drop(unread);
    }
}

#[tokio::test]
async fn many_streams_take_more_than_one_connection() {
    let (app, mut gate) = App::gate().await;
    let pod = Pod::start(app.addr, |_| {}).await;
    let client = h2c_client();
    let sent: Vec<_> = (0..350).map(|_| tokio::spawn(client.get(format!("http://{}/", pod.h2c())).send())).collect();
    // All of them at once: none waits unseen for a stream.
    gate.came(350).await;
    gate.open(usize::MAX);
    for response in join_all(sent).await {
        assert_eq!(response.expect("a task").expect("an answer").status(), StatusCode::OK);
    }
}

#[tokio::test]
async fn a_client_that_asks_first_is_told_to_go_on() {
    let app = App::echo().await;
    let pod = Pod::start(app.addr, |_| {}).await;
    let mut stream = tokio::net::TcpStream::connect(pod.http1()).await.expect("a connection");
    let head = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\nexpect: 100-continue\r\nconnection: close\r\n\r\n";
    stream.write_all(head).await.expect("sent");
    let mut go_on = [0; 25];
    soon("a word", stream.read_exact(&mut go_on)).await.expect("a word");
    assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"hello").await.expect("sent");
    let mut rest = String::new();
    soon("the answer", stream.read_to_string(&mut rest)).await.expect("the answer");
    assert!(rest.starts_with("HTTP/1.1 200 OK") && rest.ends_with("hello"), "{rest}");
}

#[tokio::test]
async fn server_sent_events_arrive_one_by_one() {
    let (events, feed) = mpsc::channel::<Frame<Bytes>>(1);
    let feed = Arc::new(tokio::sync::Mutex::new(Some(feed)));
    let app = App::start(move |_| {
        let feed = Arc::clone(&feed);
        async move {
            let feed = feed.lock().await.take().expect("one request");
            let frames = futures::stream::unfold(feed, |mut feed| async move {
                feed.recv().await.map(|frame| (Ok::<_, BoxError>(frame), feed))
            });
            let mut response = Response::new(body::boxed(StreamBody::new(frames)));
            response.headers_mut().insert("content-type", "text/event-stream".parse().expect("a value"));
            response
        }
    })
    .await;
    let pod = Pod::start(app.addr, |_| {}).await;
    let mut response = client().get(pod.url("/events")).send().await.expect("an answer");
    for event in ["data: 1\n\n", "data: 2\n\n"] {
        events.send(data(event)).await.expect("room");
        assert_eq!(soon("an event", response.chunk()).await.expect("a chunk").expect("not the end"), event);
    }
}

#[tokio::test]
async fn trailers_pass_as_grpc_needs_them() {
    let app = App::start(|request: Request<Body>| async move {
        let seen = request.into_body().collect().await.expect("a body");
        let sum = seen.trailers().and_then(|trailers| trailers.get("x-sum")).cloned();
        let frames =
            [Ok::<_, BoxError>(Frame::data(seen.to_bytes())), Ok(Frame::trailers(header_map(&[("grpc-status", "0")])))];
        let mut response = Response::new(body::boxed(StreamBody::new(futures::stream::iter(frames))));
        response.headers_mut().insert("trailer", "grpc-status".parse().expect("a value"));
        if let Some(sum) = sum {
            response.headers_mut().insert("x-seen-sum", sum);
        }
        response
    })
    .await;
    let pod = Pod::start(app.addr, |_| {}).await;
    for (addr, h2) in [(pod.http1(), false), (pod.h2c(), true)] {
        let frames = [Ok::<_, BoxError>(data("hello")), Ok(Frame::trailers(header_map(&[("x-sum", "5")])))];
        let request = Request::post("/greet.Greeter/Hello")
            .header("te", "trailers")
            .header("trailer", "x-sum")
            .header("content-type", "application/grpc")
            .body(body::boxed(StreamBody::new(futures::stream::iter(frames))))
            .expect("a request");
        let response = soon("an answer", exchange(addr, h2, request)).await;
        assert_eq!(response.headers()["x-seen-sum"], "5", "h2: {h2}");
        let seen = response.into_body().collect().await.expect("a body");
        assert_eq!(seen.trailers().expect("trailers")["grpc-status"], "0", "h2: {h2}");
        assert_eq!(seen.to_bytes(), "hello");
    }
}

#[tokio::test]
async fn a_websocket_passes_and_counts_as_in_flight_until_it_closes() {
    let app = websocket_echo().await;
    let pod = Pod::start(app, |config| {
        config.container_concurrency = 1;
        config.timeouts.response_start = Some(Duration::from_millis(300));
        config.timeouts.request = Duration::from_millis(300);
    })
    .await;
    let (mut socket, _) =
        tokio_tungstenite::connect_async(format!("ws://{}/chat", pod.http1())).await.expect("a websocket");
    // Longer than every time-out: they are not for websockets.
    for word in ["a", "b", "c"] {
        tokio::time::sleep(Duration::from_millis(200)).await;
        socket.send(Message::text(word)).await.expect("sent");
        let echoed = soon("an echo", socket.next()).await.expect("a message").expect("a message");
        assert_eq!(echoed, Message::text(word));
    }
    // The container takes one, and the websocket is that one.
    let waits = client().get(pod.url("/")).send().await.expect("an answer");
    assert_eq!(waits.status(), StatusCode::GATEWAY_TIMEOUT);
    socket.close(None).await.expect("closed");
    drop(socket);
    until("the place to be free", || async {
        let again = tokio_tungstenite::connect_async(format!("ws://{}/chat", pod.http1())).await;
        again.ok()
    })
    .await;
}

#[tokio::test]
async fn the_container_gets_no_more_than_it_takes_and_in_the_order_they_came() {
    let (app, mut gate) = App::gate().await;
    let pod = Pod::start(app.addr, |config| config.container_concurrency = 1).await;
    let client = client();
    let mut sent = Vec::new();
    sent.push(tokio::spawn(client.get(pod.url("/0")).send()));
    gate.came(1).await;
    for at in 1..=10 {
        sent.push(tokio::spawn(client.get(pod.url(&format!("/{at}"))).send()));
        pod.queued(at).await;
    }
    assert_eq!(gate.so_far(), 1);
    // One in flight and ten in line; the next is one too many.
    let refused = client.get(pod.url("/refused")).send().await.expect("an answer");
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(refused.text().await.expect("text"), "pending request queue full");
    assert_eq!(pod.counters.refused.load(Ordering::Relaxed), 1);
    for open in 1..=11 {
        gate.open(open);
        if open <= 10 {
            assert_eq!(gate.came(open + 1).await.len(), open + 1, "one at a time");
        }
    }
    for (at, response) in join_all(sent).await.into_iter().enumerate() {
        let response = response.expect("a task").expect("an answer");
        assert_eq!(response.text().await.expect("text"), format!("/{at}"));
    }
    let order: Vec<String> = (0..=10).map(|at| format!("/{at}")).collect();
    assert_eq!(gate.came(11).await, order);
}

#[tokio::test]
async fn clients_that_go_away_leave_nothing_behind() {
    let (app, mut gate) = App::gate().await;
    let pod = Pod::start(app.addr, |config| config.container_concurrency = 1).await;
    for h2 in [false, true] {
        let before = gate.so_far();
        let impatient = if h2 { h2c_client() } else { client() };
        let url = if h2 { format!("http://{}/", pod.h2c()) } else { pod.url("/") };
        let first = tokio::spawn(impatient.get(&url).send());
        gate.came(before + 1).await;
        let waiting: Vec<_> = (0..5).map(|_| tokio::spawn(impatient.get(&url).send())).collect();
        pod.queued(5).await;
        for task in waiting.into_iter().chain([first]) {
            task.abort();
        }
        drop(impatient);
        // The place of the first is free again, and nobody of the line is before us.
        gate.open(usize::MAX);
        let served = soon("an answer", client().get(pod.url("/served")).send()).await.expect("an answer");
        assert_eq!(served.status(), StatusCode::OK);
        gate.open(0);
        let stat = until("nothing in flight", || async {
            let stat = scrape(&pod).await;
            (stat.average_concurrent_requests == 0.0 && stat.process_uptime > 0.0).then_some(stat)
        })
        .await;
        assert_eq!(stat.average_concurrent_requests, 0.0);
    }
}

/// Such a connection was once reset, with its request on the way.
#[tokio::test]
async fn a_connection_that_came_just_before_the_end_may_still_bring_its_request() {
    let listener = TcpListener::bind((LOCALHOST, 0)).await.expect("a port");
    let addr = listener.local_addr().expect("an address");
    let stop = Stop::default();
    let handler = async |_: Request<Body>| Response::new(full("late"));
    let serving = tokio::spawn(server::serve(listener, 10, handler, stop.clone()));
    let mut early = tokio::net::TcpStream::connect(addr).await.expect("a connection");
    // Accepted after the other, and answered: so the other is being served by now.
    let answer = client().get(format!("http://{addr}/")).send().await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::OK);
    stop.drain.cancel();
    tokio::time::sleep(Duration::from_millis(50)).await;
    early.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.expect("it is read");
    let mut answer = String::new();
    early.read_to_string(&mut answer).await.expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("late"), "{answer}");
    soon("the end", serving).await.expect("no panic");
}

/// It once counted as the process's failure, and was logged as one.
#[tokio::test]
async fn a_client_that_goes_away_in_the_middle_of_its_request_is_no_failure_of_the_process() {
    let app = App::start(async |request: Request<Body>| {
        let _ = request.into_body().collect().await;
        Response::new(body::empty())
    })
    .await;
    let pod = Pod::start(app.addr, |_| {}).await;
    // Now and then the end of the connection is seen first, and nobody is left to be answered.
    until("a request that broke off", async || {
        let mut client = tokio::net::TcpStream::connect(pod.http1()).await.expect("a connection");
        client.write_all(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc").await.expect("it is read");
        tokio::time::sleep(Duration::from_millis(20)).await;
        drop(client);
        tokio::time::sleep(Duration::from_millis(20)).await;
        (pod.counters.broken_off.load(Ordering::Relaxed) > 0).then_some(())
    })
    .await;
    assert_eq!(pod.counters.unreachable.load(Ordering::Relaxed), 0);
}

type Change = fn(&mut ebb::dataplane::queue_proxy::Timeouts, Duration);

#[tokio::test]
async fn what_takes_too_long_is_given_up() {
    let app = App::start(|request: Request<Body>| async move {
        match request.uri().path() {
            "/never" => std::future::pending().await,
            "/stalls" => {
                let frames = futures::stream::iter([Ok::<_, BoxError>(data("first"))])
                    .chain(futures::stream::once(std::future::pending()));
                Response::new(body::boxed(StreamBody::new(frames)))
            }
            _ => Response::new(full("ok")),
        }
    })
    .await;
    let short = Duration::from_millis(100);
    let cases: [(&str, Change); 3] = [
        ("request", |timeouts, short| timeouts.request = short),
        ("response start", |timeouts, short| timeouts.response_start = Some(short)),
        ("idle", |timeouts, short| timeouts.idle = Some(short)),
    ];
    for (name, change) in cases {
        let pod = Pod::start(app.addr, |config| change(&mut config.timeouts, short)).await;
        let never = client().get(pod.url("/never")).send().await.expect("an answer");
        assert_eq!(never.status(), StatusCode::GATEWAY_TIMEOUT, "{name}");
        assert_eq!(never.text().await.expect("text"), "request timeout");
        assert_eq!(client().get(pod.url("/")).send().await.expect("an answer").text().await.expect("text"), "ok");
        if name != "response start" {
            // A response that has begun cannot become a 504; it must not look complete either.
            let mut stalls = client().get(pod.url("/stalls")).send().await.expect("an answer");
            assert_eq!(stalls.chunk().await.expect("a chunk").expect("a chunk"), "first");
            assert!(soon("the end", stalls.chunk()).await.is_err(), "{name}");
            assert_eq!(pod.counters.timed_out.load(Ordering::Relaxed), 2, "{name}");
        }
    }
}

#[tokio::test]
async fn no_process_is_a_502() {
    let free = TcpListener::bind((LOCALHOST, 0)).await.expect("a port").local_addr().expect("an address");
    let pod = Pod::start(free, |_| {}).await;
    let response = client().get(pod.url("/")).send().await.expect("an answer");
    assert_eq!(response.status(), StatusCode::BAD_GATEWAY);
    assert!(response.text().await.expect("text").contains("cannot be reached"));
    assert_eq!(pod.counters.unreachable.load(Ordering::Relaxed), 1);
}

/// A process that promises to keep connections and closes each after one answer, now and then under a request.
async fn fickle() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind((LOCALHOST, 0)).await.expect("a port");
    let addr = listener.local_addr().expect("an address");
    let answered = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&answered);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let count = Arc::clone(&count);
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                if stream.read(&mut buffer).await.unwrap_or(0) == 0 {
                    return;
                }
                count.fetch_add(1, Ordering::Relaxed);
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
                // Takes the next request and closes without a word.
                let _ = stream.read(&mut buffer).await;
            });
        }
    });
    (addr, answered)
}

#[tokio::test]
async fn a_kept_connection_that_was_closed_is_no_error_for_what_changes_nothing() {
    let (app, answered) = fickle().await;
    let pod = Pod::start(app, |_| {}).await;
    let client = client();
    for at in 1..=5 {
        let response = client.get(pod.url("/")).send().await.expect("an answer");
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.text().await.expect("text"), "ok");
        assert_eq!(answered.load(Ordering::Relaxed), at);
    }
    // What may have been acted on is not sent twice.
    let post = client.post(pod.url("/")).body("pay").send().await.expect("an answer");
    assert_eq!(post.status(), StatusCode::BAD_GATEWAY);
    assert_eq!(answered.load(Ordering::Relaxed), 5);
}

#[tokio::test]
async fn the_process_sees_who_asked_and_for_which_host() {
    let app = App::mirror().await;
    let pod = Pod::start(app.addr, |_| {}).await;
    let seen = client()
        .get(pod.url("/"))
        .header("K-Original-Host", "hello.default.example.com")
        .header("X-Forwarded-For", "203.0.113.7")
        .header("X-Forwarded-Proto", "https")
        .header("Knative-Serving-Revision", "hello-00001")
        .header("Knative-Serving-Namespace", "default")
        .send()
        .await
        .expect("an answer")
        .text()
        .await
        .expect("text");
    let lines: Vec<&str> = seen.lines().collect();
    for line in [
        "host: hello.default.example.com",
        "x-forwarded-for: 203.0.113.7, 127.0.0.1",
        "forwarded: for=203.0.113.7;proto=https",
    ] {
        assert!(lines.contains(&line), "{line:?} is not in {lines:?}");
    }
    assert!(!seen.contains("knative-serving") && !seen.contains("k-original-host"), "{seen}");

    let over_h2c = h2c_client().get(format!("http://{}/", pod.h2c())).send().await.expect("an answer");
    assert!(over_h2c.text().await.expect("text").contains(&format!("host: {}", pod.h2c())));
}

async fn scrape(pod: &Pod) -> Stat {
    let response = client()
        .get(format!("http://{}/metrics", pod.addrs.stats))
        .header("accept", "application/protobuf")
        .send()
        .await
        .expect("an answer");
    assert_eq!(response.headers()["content-type"], "application/protobuf");
    decode_scrape(&response.bytes().await.expect("a body")).expect("a stat")
}

#[tokio::test]
async fn the_stat_counts_what_is_in_flight_and_what_came_through_an_activator() {
    let (app, mut gate) = App::gate().await;
    let pod = Pod::start(app.addr, |_| {}).await;
    let first = scrape(&pod).await;
    assert_eq!((&*first.pod_name, first.process_uptime), (&b"hello-00001-pod"[..], 0.0), "nothing but the name");

    let client = client();
    let direct = tokio::spawn(client.get(pod.url("/direct")).send());
    let proxied = tokio::spawn(client.get(pod.url("/proxied")).header("K-Proxy-Request", "activator").send());
    let other = tokio::spawn(client.get(pod.url("/other")).header("K-Proxy-Request", "somebody").send());
    gate.came(3).await;
    // Probes are no load.
    let probe = client.get(pod.url("/")).header("user-agent", "kube-probe/1.34").send().await.expect("an answer");
    assert_eq!(probe.status(), StatusCode::OK);

    let (mut came, mut proxied_came, mut seen_at) = (0.0, 0.0, 0.0);
    until("a second with three in flight", async || {
        let stat = scrape(&pod).await;
        if stat.process_uptime > seen_at {
            seen_at = stat.process_uptime;
            came += stat.request_count;
            proxied_came += stat.proxied_request_count;
        }
        (stat.average_concurrent_requests == 3.0 && stat.average_proxied_concurrent_requests == 1.0).then_some(())
    })
    .await;
    assert_eq!((came, proxied_came), (3.0, 1.0));

    let text = client.get(format!("http://{}/metrics", pod.addrs.stats)).send().await.expect("an answer");
    assert!(text.headers()["content-type"].to_str().expect("text").starts_with("text/plain"));
    let text = text.text().await.expect("text");
    for line in [
        "queue_average_concurrent_requests{destination_namespace=\"default\",destination_configuration=\"\",\
         destination_revision=\"hello-00001\",destination_pod=\"hello-00001-pod\"} 3",
        "queue_average_proxied_concurrent_requests{destination_namespace=\"default\",destination_configuration=\"\",\
         destination_revision=\"hello-00001\",destination_pod=\"hello-00001-pod\"} 1",
    ] {
        assert!(text.lines().any(|have| have == line), "{line:?} is not in\n{text}");
    }
    let parsed = prometheus_parse::Scrape::parse(text.lines().map(|line| Ok(line.to_owned()))).expect("a scrape");
    assert_eq!(parsed.samples.len(), 5);

    gate.open(usize::MAX);
    for task in [direct, proxied, other] {
        assert_eq!(task.await.expect("a task").expect("an answer").status(), StatusCode::OK);
    }
    until("a second with none in flight", || async {
        (scrape(&pod).await.average_concurrent_requests == 0.0).then_some(())
    })
    .await;
}

type Headers = &'static [(&'static str, &'static str)];

#[tokio::test]
async fn probes_are_answered_and_never_reach_the_process() {
    let (app, gate) = App::gate().await;
    let pod = Pod::start(app.addr, |config| config.probes = vec![Probe::tcp(config.user)]).await;
    let cases: [(Headers, u16, &str); 8] = [
        (&[("k-network-probe", "queue"), ("user-agent", "Knative-Activator-Probe")], 200, "queue"),
        (&[("k-network-probe", "queue")], 200, "queue"),
        (&[("user-agent", "kube-probe/1.34")], 200, "queue"),
        (&[("k-kubelet-probe", "queue")], 200, "queue"),
        (
            &[("k-network-probe", "activator"), ("user-agent", "Knative-Autoscaling-Probe")],
            400,
            "unexpected probe header value: activator",
        ),
        (&[("user-agent", "Knative-Activator-Probe")], 400, "unexpected probe header value: "),
        (&[("k-network-probe", "probe")], 400, "a probe request must contain a non-empty \"K-Network-Hash\" header"),
        (&[("k-network-probe", "probe"), ("k-network-hash", "abc")], 200, ""),
    ];
    for addr in [pod.http1(), pod.addrs.admin] {
        for (headers, status, body) in &cases {
            let response =
                soon("an answer", client().get(format!("http://{addr}//healthz")).headers(header_map(headers)).send())
                    .await
                    .expect("an answer");
            assert_eq!(response.status().as_u16(), *status, "{headers:?}");
            let hash = headers.iter().find(|(name, _)| *name == "k-network-hash").map(|(_, value)| *value);
            let echoed = response.headers().get("k-network-hash").map(|value| value.to_str().expect("text").to_owned());
            assert_eq!(echoed.as_deref(), hash);
            assert_eq!(response.text().await.expect("text"), *body, "{headers:?}");
        }
    }
    assert_eq!(gate.so_far(), 0);
}

#[tokio::test]
async fn a_pod_is_ready_when_its_process_is() {
    for http in [false, true] {
        let reserved = TcpListener::bind((LOCALHOST, 0)).await.expect("a port");
        let user = reserved.local_addr().expect("an address");
        drop(reserved);
        let probe = format!(
            r#"{{"{}":{{"port":{}}},"successThreshold":1}}"#,
            if http { "httpGet" } else { "tcpSocket" },
            user.port()
        );
        let mut pod =
            Pod::start(user, |config| config.probes = Probe::parse(&probe, user, false).expect("a probe")).await;
        assert!(!*pod.ready.borrow());
        let probe_request = client().get(pod.url("/")).header("k-network-probe", "queue");
        // A probe of a process that starts is held open until it can be answered with yes.
        let held = tokio::spawn(probe_request.send());
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(!held.is_finished() && !*pod.ready.borrow());
        let listener = TcpListener::bind(user).await.expect("the port reserved");
        let app = App::on(listener, |_| async { Response::new(full("ok")) });
        soon("readiness", pod.ready.wait_for(|ready| *ready)).await.expect("a pod");
        let held = soon("the probe", held).await.expect("a task").expect("an answer");
        assert_eq!(held.text().await.expect("text"), "queue");

        // It goes and comes back, and whoever asks learns of it.
        drop(app);
        let asked = client().get(pod.url("/")).header("k-network-probe", "queue");
        let asking = tokio::spawn(asked.send());
        soon("unreadiness", pod.ready.wait_for(|ready| !ready)).await.expect("a pod");
        let listener = until("the port to be free", || async { TcpListener::bind(user).await.ok() }).await;
        let _app = App::on(listener, |_| async { Response::new(full("ok")) });
        let asked = soon("the probe", asking).await.expect("a task").expect("an answer");
        assert_eq!(asked.status(), StatusCode::OK);
    }
}

#[tokio::test]
async fn a_grpc_probe_asks_the_health_service() {
    let serving = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let app = {
        let serving = Arc::clone(&serving);
        App::start(move |request: Request<Body>| {
            let serving = serving.load(Ordering::Relaxed);
            async move {
                assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
                // A gRPC frame with `status`: 1 is SERVING, 2 is NOT_SERVING.
                let frames = [
                    Ok::<_, BoxError>(Frame::data(Bytes::from(vec![0, 0, 0, 0, 2, 8, if serving { 1 } else { 2 }]))),
                    Ok(Frame::trailers(header_map(&[("grpc-status", "0")]))),
                ];
                let mut response = Response::new(body::boxed(StreamBody::new(futures::stream::iter(frames))));
                response.headers_mut().insert("content-type", "application/grpc".parse().expect("a value"));
                response
            }
        })
        .await
    };
    let json = format!(r#"{{"grpc":{{"port":{}}}}}"#, app.addr.port());
    let mut pod =
        Pod::start(app.addr, |config| config.probes = Probe::parse(&json, app.addr, false).expect("a probe")).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!*pod.ready.borrow());
    serving.store(true, Ordering::Relaxed);
    soon("readiness", pod.ready.wait_for(|ready| *ready)).await.expect("a pod");
}

#[tokio::test]
async fn a_pod_that_goes_loses_nothing() {
    let (app, mut gate) = App::gate().await;
    let mut pod = Pod::start(app.addr, |config| config.container_concurrency = 5).await;
    let (client, h2c) = (client(), h2c_client());
    let mut sent: Vec<_> = (0..10).map(|at| tokio::spawn(client.get(pod.url(&format!("/{at}"))).send())).collect();
    sent.push(tokio::spawn(h2c.get(format!("http://{}/h2c", pod.h2c())).send()));
    gate.came(5).await;
    pod.cancel.cancel();
    soon("unreadiness", pod.ready.wait_for(|ready| !ready)).await.expect("a pod");
    let probe = client.get(pod.url("/")).header("k-network-probe", "queue").send().await.expect("an answer");
    assert_eq!(probe.status(), StatusCode::SERVICE_UNAVAILABLE);
    // Routers have not heard yet: one more comes, and puts the end off.
    sent.push(tokio::spawn(client.get(pod.url("/late")).send()));
    until("the listener to close", || async {
        (!pod.running.is_finished()).then_some(())?;
        tokio::net::TcpStream::connect(pod.http1()).await.is_err().then_some(())
    })
    .await;
    gate.open(usize::MAX);
    for response in join_all(sent).await {
        assert_eq!(response.expect("a task").expect("an answer").status(), StatusCode::OK);
    }
    soon("the end", &mut pod.running).await.expect("a clean end");
    assert_eq!(pod.counters.cut_off.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_drain_has_a_limit() {
    let (app, mut gate) = App::gate().await;
    let mut pod = Pod::start(app.addr, |config| config.drain_limit = Duration::from_millis(100)).await;
    let stuck = tokio::spawn(client().get(pod.url("/")).send());
    gate.came(1).await;
    pod.cancel.cancel();
    soon("the end", &mut pod.running).await.expect("a clean end");
    assert!(stuck.await.expect("a task").is_err(), "cut off");
    assert_eq!(pod.counters.cut_off.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn the_pre_stop_hook_waits_for_the_drain() {
    let app = App::echo().await;
    let pod = Pod::start(app.addr, |_| {}).await;
    let hook = format!("http://{}/wait-for-drain", pod.addrs.admin);
    let response = soon("the hook", client().get(&hook).send()).await.expect("an answer");
    assert_eq!(response.status(), StatusCode::OK);

    // A hook without a shutdown was a restart of the user's container: the pod serves on.
    let pod = Pod::start(app.addr, |config| config.quiet_period = Duration::from_mins(1)).await;
    let hook = format!("http://{}/wait-for-drain", pod.addrs.admin);
    let waiting = tokio::spawn(client().get(&hook).send());
    let probe = || async {
        let probe = client().get(pod.url("/")).header("k-network-probe", "queue").send().await.expect("an answer");
        probe.status()
    };
    until("probes to fail", || async { (probe().await == StatusCode::SERVICE_UNAVAILABLE).then_some(()) }).await;
    soon("the hook", waiting).await.expect("a task").expect("an answer");
    assert_eq!(probe().await, StatusCode::OK);
}

#[tokio::test]
async fn requests_are_shown_as_knative_shows_them() {
    let (app, mut gate) = App::gate().await;
    let registry = Registry::of_part();
    let pod = Pod::start(app.addr, |config| {
        config.container_concurrency = 1;
        config.service = "hello".to_owned();
        config.metrics = Some(((LOCALHOST, 0).into(), registry.clone()));
    })
    .await;
    let (client, url) = (client(), pod.url("/"));
    let metrics = format!("http://{}/metrics", pod.addrs.metrics.expect("an address"));
    let shown = async |series: &str| {
        let text = client.get(&metrics).send().await.expect("an answer").text().await.expect("text");
        let line = text.lines().find(|line| line.starts_with(series)).map(str::to_owned);
        line.map(|line| line.rsplit_once(' ').expect("a value").1.to_owned())
    };
    assert_eq!(shown("kn_serving_queue_depth").await.as_deref(), Some("0"));
    let sent = || client.get(&url).header("host", "hello.default.example.com");
    let sent: Vec<_> = (0..3).map(|_| tokio::spawn(sent().send())).collect();
    gate.came(1).await;
    until("two in line", async || (shown("kn_serving_queue_depth").await.as_deref() == Some("3")).then_some(())).await;
    gate.open(3);
    for response in join_all(sent).await {
        response.expect("a task").expect("an answer").bytes().await.expect("a body");
    }
    // A kubelet's probe is no request.
    client.get(&url).header("user-agent", "kube-probe/1.34").send().await.expect("an answer");
    let requests = "http_server_request_duration_seconds_count{http_request_method=\"GET\",\
                    http_response_status_code=\"200\",";
    until("three requests", async || (shown(requests).await.as_deref() == Some("3")).then_some(())).await;
    let invocations = "kn_serving_invocation_duration_seconds_count{http_response_status_code=\"200\",";
    assert_eq!(shown(invocations).await.as_deref(), Some("3"));
    assert_eq!(shown("kn_serving_queue_depth").await.as_deref(), Some("0"));
    let text = registry.exposition(Format::Prometheus);
    assert!(text.contains("server_address=\"hello.default.example.com\",url_scheme=\"http\"} 3\n"), "{text}");
    assert!(text.contains("kn_service_name=\"hello\",service_instance_id=\""), "{text}");
    assert_eq!(text.matches("http_server_request_duration_seconds_count").count(), 1, "{text}");
}
