//! Scraping: pods that answer well, badly, slowly and not at all.

use super::{eventually, soon};
use bytes::Bytes;
use ebb::api::pods::ReadyPod;
use ebb::clock::Clock;
use ebb::engine::Load;
use ebb::k8s::dial::{Dial, SystemDial};
use ebb::stats::fetch::{Client, Fetch, FetchError, Limits};
use ebb::stats::scrape::{MeshMode, ScrapeError, Scraper, Settings};
use ebb::stats::wire::Stat;
use ebb::units::{Compat, Span, Timestamp};
use futures::future::BoxFuture;
use prost::Message as _;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// What a pod does when it is asked.
#[derive(Clone)]
enum Reaction {
    /// Answers and waits for the next request.
    Answer(Vec<u8>),
    /// Answers byte by byte.
    Drip(Vec<u8>),
    /// Answers and closes.
    Last(Vec<u8>),
    /// Closes without an answer.
    HangUp,
    /// Says nothing.
    Silence,
}

/// A pod on a port of this machine that reacts to all requests alike, and remembers what it saw.
struct Pod {
    address: SocketAddr,
    connections: AtomicU32,
    requests: Mutex<Vec<String>>,
}

impl Pod {
    async fn start(reaction: Reaction) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let pod = Arc::new(Self { address, connections: AtomicU32::default(), requests: Mutex::default() });
        let serving = pod.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                serving.connections.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(serving.clone().serve(stream, reaction.clone()));
            }
        });
        pod
    }

    async fn serve(self: Arc<Self>, mut stream: TcpStream, reaction: Reaction) {
        let mut seen = Vec::new();
        loop {
            while !seen.ends_with(b"\r\n\r\n") {
                match stream.read_buf(&mut seen).await {
                    Ok(1..) => {}
                    _ => return,
                }
            }
            let request = String::from_utf8(std::mem::take(&mut seen)).expect("text");
            self.requests.lock().expect("no panic").push(request);
            let written = match &reaction {
                Reaction::Answer(bytes) => stream.write_all(bytes).await,
                Reaction::Drip(bytes) => {
                    for byte in bytes {
                        if stream.write_all(&[*byte]).await.is_err() {
                            return;
                        }
                        tokio::task::yield_now().await;
                    }
                    Ok(())
                }
                Reaction::Last(bytes) => {
                    let _gone = stream.write_all(bytes).await;
                    return;
                }
                Reaction::HangUp => return,
                Reaction::Silence => std::future::pending().await,
            };
            if written.is_err() {
                return;
            }
        }
    }

    fn connections(&self) -> u32 {
        self.connections.load(Ordering::SeqCst)
    }

    fn last_request(&self) -> String {
        self.requests.lock().expect("no panic").last().expect("a request").clone()
    }
}

/// Leads names and addresses to ports of this machine; unknown ones are refused.
#[derive(Default)]
struct Map(HashMap<String, SocketAddr>);

impl Dial for Map {
    fn dial<'a>(&'a self, host: &'a str, port: u16) -> BoxFuture<'a, io::Result<TcpStream>> {
        Box::pin(async move {
            assert_eq!(port, 9090);
            let address = self.0.get(host).ok_or(io::ErrorKind::ConnectionRefused)?;
            TcpStream::connect(address).await
        })
    }
}

const POD: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));

fn clock() -> Clock {
    Clock::starting_at(Timestamp::from_seconds(1_700_000_000))
}

fn client_for(host: &str, pod: &Pod, compat: Compat) -> Client {
    let map = Map(HashMap::from([(host.to_owned(), pod.address)]));
    Client::new(Arc::new(map), clock(), Limits::default(), compat)
}

fn stat() -> Stat {
    Stat {
        pod_name: Bytes::from_static(b"hello-00001-deployment-x7abc"),
        average_concurrent_requests: 3.5,
        average_proxied_concurrent_requests: 1.25,
        request_count: 10.0,
        proxied_request_count: 4.0,
        process_uptime: 12.5,
        timestamp: 0,
    }
}

/// A complete answer; `head` is everything between the status line and the length.
fn answer(status: &str, head: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes = format!("HTTP/1.1 {status}\r\n{head}Content-Length: {}\r\n\r\n", body.len()).into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

const PROTOBUF: &str = "Content-Type: application/protobuf\r\n";
const TEXT: &str = "Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n";

fn good() -> Vec<u8> {
    answer("200 OK", PROTOBUF, &stat().encode_to_vec())
}

fn gauges(requests: &str) -> String {
    let labels = "{destination_configuration=\"hello\",destination_namespace=\"default\",\
                  destination_pod=\"hello-00001-deployment-x7abc\",destination_revision=\"hello-00001\"}";
    format!(
        "# HELP queue_average_concurrent_requests Number of requests currently being handled by this pod\n\
         # TYPE queue_average_concurrent_requests gauge\n\
         queue_average_concurrent_requests{labels} 3.5\n\
         # TYPE queue_average_proxied_concurrent_requests gauge\n\
         queue_average_proxied_concurrent_requests{labels} 1.25\n\
         # TYPE {requests} gauge\n\
         {requests}{labels} 10\n\
         # TYPE queue_proxied_operations_per_second gauge\n\
         queue_proxied_operations_per_second{labels} 4\n\
         # TYPE process_uptime gauge\n\
         process_uptime{labels} 12.5\n\
         # TYPE go_goroutines gauge\n\
         go_goroutines 12\n"
    )
}

async fn ask(reaction: Reaction, compat: Compat) -> Result<Stat, FetchError> {
    let pod = Pod::start(reaction).await;
    let client = client_for("10.0.0.1", &pod, compat);
    soon("an answer or an error", client.pod(POD, None)).await
}

#[tokio::test]
async fn a_stat_is_read_however_the_answer_is_framed() {
    let body = stat().encode_to_vec();
    let mut chunked = format!("HTTP/1.1 200 OK\r\n{PROTOBUF}Transfer-Encoding: chunked\r\n\r\n").into_bytes();
    for part in body.chunks(20) {
        chunked.extend(format!("{:x}\r\n", part.len()).bytes());
        chunked.extend(part);
        chunked.extend(b"\r\n");
    }
    chunked.extend(b"0\r\n\r\n");
    let mut until_close = format!("HTTP/1.0 200 OK\r\n{PROTOBUF}\r\n").into_bytes();
    until_close.extend(&body);
    let mut after_interim = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n".to_vec();
    after_interim.extend(good());
    let odd_case = answer("204 No", "content-TYPE:   application/protobuf  \r\n", b"");
    for (name, reaction, want) in [
        ("with a length", Reaction::Answer(good()), stat()),
        ("byte by byte", Reaction::Drip(good()), stat()),
        ("in chunks", Reaction::Answer(chunked.clone()), stat()),
        ("in chunks byte by byte", Reaction::Drip(chunked), stat()),
        ("until the end", Reaction::Last(until_close), stat()),
        ("after an interim answer", Reaction::Answer(after_interim), stat()),
        ("empty, which is the stat of zeros", Reaction::Answer(odd_case), Stat::default()),
    ] {
        assert_eq!(ask(reaction, Compat::IMPROVED).await, Ok(want), "{name}");
    }
}

#[tokio::test]
async fn what_is_no_stat_is_an_error_that_says_why() {
    let status = |code| FetchError::Status { url: "http://10.0.0.1:9090/metrics".to_owned(), code };
    let moved = answer("302 Found", "Location: http://10.0.0.1:9090/elsewhere\r\n", b"");
    let cut = good()[..good().len() - 5].to_vec();
    let cut_head = good()[..30].to_vec();
    let two_lengths = answer("200 OK", "Content-Type: application/protobuf\r\nContent-Length: 1\r\n", b"abc");
    let endless_head = [b"HTTP/1.1 200 OK\r\nX: ".to_vec(), vec![b'x'; 40_000]].concat();
    let endless_chunks = format!("HTTP/1.1 200 OK\r\n{PROTOBUF}Transfer-Encoding: chunked\r\n\r\n{}", "0".repeat(99));
    for (name, reaction, want) in [
        ("a mesh", Reaction::Answer(answer("503 Service Unavailable", "", b"no healthy upstream")), status(503)),
        ("a gateway", Reaction::Answer(answer("502 Bad Gateway", "", b"")), status(502)),
        ("another server", Reaction::Answer(answer("404 Not Found", "", b"")), status(404)),
        ("a redirect, which is not followed", Reaction::Answer(moved), status(302)),
        (
            "another format",
            Reaction::Answer(answer("200 OK", "Content-Type: application/json\r\n", b"{}")),
            FetchError::ContentType("application/json".to_owned()),
        ),
        (
            "a parameter, which the reference does not expect either",
            Reaction::Answer(answer("200 OK", "Content-Type: application/protobuf; v=2\r\n", b"")),
            FetchError::ContentType("application/protobuf; v=2".to_owned()),
        ),
        (
            "a type as long as a head may be, of which the beginning is told",
            Reaction::Answer(answer("200 OK", &format!("Content-Type: {}\r\n", "é".repeat(3_000)), b"")),
            FetchError::ContentType(format!("{}…", "é".repeat(64))),
        ),
        ("no type", Reaction::Answer(answer("200 OK", "", b"")), FetchError::ContentType(String::new())),
        (
            "not HTTP",
            Reaction::Answer(b"hello, who is there?\r\n\r\n".to_vec()),
            FetchError::Malformed("not an HTTP response"),
        ),
        (
            "two lengths",
            Reaction::Answer(two_lengths),
            FetchError::Malformed("a content length that is not one number"),
        ),
        ("an endless head", Reaction::Answer(endless_head), FetchError::Malformed("a head over 16 KiB")),
        ("bad chunks", Reaction::Answer(endless_chunks.into()), FetchError::Malformed("a chunk that is not one")),
        ("a body cut short", Reaction::Last(cut), FetchError::Malformed("the body is cut short")),
        ("a head cut short", Reaction::Last(cut_head), FetchError::Malformed("the head is cut short")),
        ("no answer", Reaction::HangUp, FetchError::Malformed("no answer")),
    ] {
        assert_eq!(ask(reaction, Compat::IMPROVED).await, Err(want), "{name}");
    }
    let garbage = ask(Reaction::Answer(answer("200 OK", PROTOBUF, b"\x0a\xff")), Compat::IMPROVED).await;
    assert!(matches!(garbage, Err(FetchError::Body(_))), "{garbage:?}");
    // The name alone is beyond what is read, so the rest of it is missing.
    let long = Stat { pod_name: vec![b'x'; 400].into(), ..stat() };
    let long = ask(Reaction::Answer(answer("200 OK", PROTOBUF, &long.encode_to_vec())), Compat::IMPROVED).await;
    assert!(matches!(long, Err(FetchError::Body(_))), "{long:?}");
}

#[tokio::test]
async fn only_502_and_503_look_like_a_mesh() {
    for code in [500, 501, 502, 503, 504] {
        let error = ask(Reaction::Answer(answer(&format!("{code} X"), "", b"")), Compat::IMPROVED).await;
        assert_eq!(error.expect_err("no stat").is_mesh_like(), code == 502 || code == 503, "{code}");
    }
    assert!(!FetchError::TimedOut.is_mesh_like());
}

#[tokio::test]
async fn an_older_queue_proxy_is_understood_unless_strict() {
    for requests in ["queue_requests_per_second", "queue_operations_per_second"] {
        let text = answer("200 OK", TEXT, gauges(requests).as_bytes());
        let want = stat();
        assert_eq!(ask(Reaction::Answer(text.clone()), Compat::IMPROVED).await, Ok(want), "{requests}");
        let strict = ask(Reaction::Answer(text), Compat::STRICT).await;
        assert!(matches!(strict, Err(FetchError::ContentType(_))), "{strict:?}");
    }
    let other = answer("200 OK", TEXT, b"go_goroutines 12\nqueue_average_concurrent_requests 1\n");
    let other = ask(Reaction::Answer(other), Compat::IMPROVED).await;
    assert_eq!(other, Err(FetchError::Malformed("text without the queue's four gauges")));
    let infinite = gauges("queue_requests_per_second").replace("3.5", "+Inf");
    let infinite = ask(Reaction::Answer(answer("200 OK", TEXT, infinite.as_bytes())), Compat::IMPROVED).await;
    assert!(matches!(infinite, Err(FetchError::BadValue(_))), "{infinite:?}");
}

#[tokio::test]
async fn numbers_that_cannot_be_load_are_refused_unless_strict() {
    for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.5, 1e300] {
        let bad = Stat { average_concurrent_requests: value, ..stat() };
        let reaction = Reaction::Answer(answer("200 OK", PROTOBUF, &bad.encode_to_vec()));
        let refused = ask(reaction.clone(), Compat::IMPROVED).await;
        assert!(matches!(refused, Err(FetchError::BadValue(_))), "{value}: {refused:?}");
        assert!(ask(reaction, Compat::STRICT).await.is_ok(), "{value}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_never_answers_costs_three_seconds() {
    let before = clock();
    assert_eq!(ask(Reaction::Silence, Compat::IMPROVED).await, Err(FetchError::TimedOut));
    let waited = before.now().since(Timestamp::from_seconds(1_700_000_000));
    assert_eq!(waited, Span::from_seconds(3));
}

#[tokio::test]
async fn a_pod_that_is_gone_is_an_error_at_once() {
    let client = Client::new(Arc::new(Map::default()), clock(), Limits::default(), Compat::IMPROVED);
    let error = soon("an error", client.pod(POD, None)).await;
    assert!(matches!(error, Err(FetchError::Io(_))), "{error:?}");
}

#[tokio::test]
async fn a_connection_is_kept_for_the_next_second() {
    let pod = Pod::start(Reaction::Answer(good())).await;
    let client = client_for("10.0.0.1", &pod, Compat::IMPROVED);
    for _ in 0..5 {
        assert_eq!(client.pod(POD, None).await, Ok(stat()));
        assert_eq!(client.idle(), 1);
    }
    assert_eq!(pod.connections(), 1);
    let request = pod.last_request();
    assert!(request.starts_with("GET /metrics HTTP/1.1\r\nHost: 10.0.0.1:9090\r\n"), "{request}");
    assert!(request.contains("\r\nAccept: application/protobuf\r\n"), "{request}");
    assert!(!request.contains("Knative-Direct-Lb") && !request.contains("Connection"), "{request}");
}

#[tokio::test]
async fn a_connection_with_something_left_on_it_is_not_kept() {
    let closing =
        answer("200 OK", "Content-Type: application/protobuf\r\nConnection: close\r\n", &stat().encode_to_vec());
    let surplus = [good(), b"HTTP/1.1 200 OK\r\n".to_vec()].concat();
    let long_refusal = answer("500 Oops", "", &[b'x'; 5000]);
    for (name, bytes) in [("closing", closing), ("surplus", surplus), ("long refusal", long_refusal)] {
        let pod = Pod::start(Reaction::Answer(bytes)).await;
        let client = client_for("10.0.0.1", &pod, Compat::IMPROVED);
        let _stat_or_refusal = client.pod(POD, None).await;
        assert_eq!(client.idle(), 0, "{name}");
    }
    let pod = Pod::start(Reaction::Answer(answer("503 Busy", "", b"wait"))).await;
    let client = client_for("10.0.0.1", &pod, Compat::IMPROVED);
    client.pod(POD, None).await.expect_err("a refusal");
    assert_eq!(client.idle(), 1, "a refusal that came whole leaves the connection usable");
}

#[tokio::test]
async fn a_connection_the_pod_closed_meanwhile_is_replaced_without_an_error() {
    let pod = Pod::start(Reaction::Last(good())).await;
    let client = client_for("10.0.0.1", &pod, Compat::IMPROVED);
    for scrape in 1..=20 {
        assert_eq!(client.pod(POD, None).await, Ok(stat()), "scrape {scrape}");
    }
    assert_eq!(pod.connections(), 20);
}

#[tokio::test]
async fn idle_connections_are_bounded_and_age() {
    let pod = Pod::start(Reaction::Answer(good())).await;
    let ips: Vec<IpAddr> = (1..=5).map(|n| IpAddr::from([10, 0, 0, n])).collect();
    let map = || Arc::new(Map(ips.iter().map(|ip| (ip.to_string(), pod.address)).collect()));
    let few = Client::new(map(), clock(), Limits { idle: 2, ..Limits::default() }, Compat::IMPROVED);
    for ip in &ips {
        few.pod(*ip, None).await.expect("a stat");
    }
    assert_eq!(few.idle(), 2);
    // Three at once to one pod; two are kept.
    let client = Client::new(map(), clock(), Limits::default(), Compat::IMPROVED);
    let (one, two, three) = tokio::join!(client.pod(POD, None), client.pod(POD, None), client.pod(POD, None));
    assert!(one.is_ok() && two.is_ok() && three.is_ok());
    assert_eq!(client.idle(), 2);
    // Too old at once: closed in the background, and not used before that.
    let brief = Limits { idle_for: Span::from_millis(3), ..Limits::default() };
    let brief = Client::new(map(), clock(), brief, Compat::IMPROVED);
    brief.pod(POD, None).await.expect("a stat");
    eventually("the idle connection is closed", || brief.idle() == 0).await;
}

#[tokio::test]
async fn an_ipv6_address_is_written_in_brackets() {
    let pod = Pod::start(Reaction::Answer(good())).await;
    let client = client_for("fd00::17", &pod, Compat::IMPROVED);
    assert_eq!(client.pod("fd00::17".parse().expect("an address"), None).await, Ok(stat()));
    let request = pod.last_request();
    assert!(request.contains("\r\nHost: [fd00::17]:9090\r\n"), "{request}");
}

#[tokio::test]
async fn a_load_balancer_that_passes_through_is_told_for_whom() {
    let pod = Pod::start(Reaction::Answer(good())).await;
    let client = client_for("10.0.0.1", &pod, Compat::IMPROVED);
    assert_eq!(client.pod(POD, Some("hello-00001-private.default")).await, Ok(stat()));
    let request = pod.last_request();
    assert!(request.contains("\r\nHost: hello-00001-private.default\r\n"), "{request}");
    assert!(request.contains("\r\nKnative-Direct-Lb: true\r\n"), "{request}");
}

#[tokio::test]
async fn a_service_is_asked_over_a_new_connection_each_time() {
    let pod = Pod::start(Reaction::Answer(good())).await;
    let client = client_for("hello-00001-private.default", &pod, Compat::IMPROVED);
    for _ in 0..3 {
        assert_eq!(client.service("hello-00001-private.default").await, Ok(stat()));
    }
    assert_eq!(pod.connections(), 3);
    assert_eq!(client.idle(), 0);
    let request = pod.last_request();
    assert!(request.contains("\r\nHost: hello-00001-private.default:9090\r\n"), "{request}");
    assert!(request.contains("\r\nConnection: close\r\n"), "{request}");
}

#[tokio::test]
async fn the_system_dials_addresses() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let stream = SystemDial.dial("127.0.0.1", address.port()).await.expect("a connection");
    assert_eq!(stream.peer_addr().expect("connected"), address);
    assert!(stream.nodelay().expect("a socket"));
}

/// Answers from a script: by the last byte of the address, or for the Service by the number of the request.
struct Script {
    pods: fn(u8) -> BoxFuture<'static, Result<Stat, FetchError>>,
    service: fn(u32) -> Result<Stat, FetchError>,
    asked: AtomicU32,
}

impl Fetch for &Script {
    async fn pod(&self, ip: IpAddr, _host: Option<&str>) -> Result<Stat, FetchError> {
        let IpAddr::V4(ip) = ip else { unreachable!("pods here have IPv4") };
        (self.pods)(ip.octets()[3]).await
    }

    async fn service(&self, _host: &str) -> Result<Stat, FetchError> {
        (self.service)(self.asked.fetch_add(1, Ordering::SeqCst))
    }
}

const NOW: Timestamp = Timestamp::from_seconds(1_700_000_000);
const WINDOW: Span = Span::from_seconds(60);

fn pods(number: u8) -> Vec<ReadyPod> {
    (1..=number)
        .map(|n| ReadyPod {
            name: format!("p{n}").into(),
            ip: Some(IpAddr::from([10, 0, 0, n])),
            started: Some(NOW - Span::from_seconds(600)),
        })
        .collect()
}

fn settings(compat: Compat) -> Settings {
    Settings { mode: MeshMode::Auto, passthrough: false, compat }
}

type Answer = Result<Stat, FetchError>;

fn mesh() -> Answer {
    Err(FetchError::Status { url: String::new(), code: 503 })
}

#[expect(clippy::unnecessary_wraps, reason = "the answer of a Service")]
fn named(pod: &str, uptime: f64) -> Answer {
    Ok(Stat { pod_name: Bytes::copy_from_slice(pod.as_bytes()), process_uptime: uptime, ..stat() })
}

fn load_of(pods: f64) -> Load {
    Load {
        concurrency: 3.5 * pods,
        proxied_concurrency: 1.25 * pods,
        requests: 10.0 * pods,
        proxied_requests: 4.0 * pods,
    }
}

#[tokio::test]
async fn a_whole_revision_is_scraped_over_sockets() {
    let pod = Pod::start(Reaction::Answer(good())).await;
    let ready = pods(20);
    let map = Map(ready.iter().map(|one| (one.ip.expect("an address").to_string(), pod.address)).collect());
    let client = Client::new(Arc::new(map), clock(), Limits::default(), Compat::IMPROVED);
    let scraper = Scraper::new(client, "hello-00001-private", "default", settings(Compat::IMPROVED));
    for _ in 0..3 {
        let load = soon("a load", scraper.scrape(&ready, NOW, WINDOW)).await;
        assert_eq!(load, Ok(Some(load_of(20.0))));
    }
    // Nine of twenty are asked.
    assert_eq!(pod.requests.lock().expect("no panic").len(), 27);
    assert_eq!(scraper.scrape(&[], NOW, WINDOW).await, Ok(None));
}

#[tokio::test]
async fn one_silent_pod_of_few_voids_the_scrape() {
    let script = Script {
        pods: |pod| Box::pin(async move { if pod == 2 { Err(FetchError::TimedOut) } else { Ok(stat()) } }),
        service: |_| Ok(stat()),
        asked: AtomicU32::default(),
    };
    let scraper = Scraper::new(&script, "hello-private", "default", settings(Compat::IMPROVED));
    for (number, want) in [
        (1, Ok(Some(load_of(1.0)))),
        (2, Err(ScrapeError::PodsExhausted)),
        (4, Err(ScrapeError::PodsExhausted)),
        // Four of five are enough.
        (5, Ok(Some(load_of(5.0)))),
    ] {
        assert_eq!(scraper.scrape(&pods(number), NOW, WINDOW).await, want, "{number} pods");
    }
    assert_eq!(script.asked.load(Ordering::SeqCst), 0, "no reason to think of a mesh");
}

#[tokio::test]
async fn a_pod_without_an_address_is_a_pod_that_does_not_answer() {
    let script = Script { pods: |_| Box::pin(async { Ok(stat()) }), service: |_| mesh(), asked: AtomicU32::default() };
    let scraper = Scraper::new(&script, "hello-private", "default", settings(Compat::IMPROVED));
    let mut ready = pods(2);
    ready[1].ip = None;
    assert_eq!(scraper.scrape(&ready, NOW, WINDOW).await, Err(ScrapeError::PodsExhausted));
}

#[tokio::test]
async fn a_cancelled_sibling_says_nothing_about_a_mesh_unless_strict() {
    let script = Script {
        pods: |pod| Box::pin(async move { if pod == 1 { mesh() } else { std::future::pending().await } }),
        service: |n| named(&format!("p{n}"), 600.0),
        asked: AtomicU32::default(),
    };
    for (compat, want) in
        [(Compat::IMPROVED, Ok(Some(load_of(3.0)))), (Compat::STRICT, Err(ScrapeError::PodsExhausted))]
    {
        let scraper = Scraper::new(&script, "hello-private", "default", settings(compat));
        assert_eq!(soon("a verdict", scraper.scrape(&pods(3), NOW, WINDOW)).await, want);
    }
}

#[tokio::test]
async fn that_there_is_a_mesh_is_remembered_for_the_same_target_unless_strict() {
    let script = Script {
        pods: |_| Box::pin(async { mesh() }),
        service: |n| named(&format!("p{n}"), 600.0),
        asked: AtomicU32::default(),
    };
    for (compat, target, remembered) in [
        (Compat::IMPROVED, "hello-private", true),
        (Compat::IMPROVED, "other-private", false),
        (Compat::STRICT, "hello-private", false),
    ] {
        let scraper = Scraper::new(&script, "hello-private", "default", settings(compat));
        assert!(scraper.addressable());
        scraper.scrape(&pods(3), NOW, WINDOW).await.expect("through the Service");
        assert!(!scraper.addressable());
        let next = Scraper::new(&script, target, "default", settings(compat)).replacing(&scraper);
        assert_eq!(!next.addressable(), remembered, "{target}");
    }
}

#[tokio::test]
async fn a_service_is_asked_until_enough_pods_were_met() {
    type Case = (&'static str, fn(u32) -> Answer, Result<Option<Load>, ScrapeError>);
    let cases: [Case; 6] = [
        ("old pods", |n| named(&format!("p{n}"), 60.0), Ok(Some(load_of(3.0)))),
        ("young pods", |n| named(&format!("p{n}"), 59.9), Ok(Some(load_of(3.0)))),
        ("the same few young ones again and again", |n| named(&format!("p{}", n % 3), 1.0), Ok(Some(load_of(3.0)))),
        (
            "always the same pod",
            |_| named("p", 600.0),
            Err(ScrapeError::Service { sample: 3, cause: FetchError::Seen }),
        ),
        (
            "failures in between",
            |n| if n % 4 == 0 { mesh() } else { named(&format!("p{n}"), 60.0) },
            Ok(Some(load_of(3.0))),
        ),
        (
            "failures only",
            |_| Err(FetchError::TimedOut),
            Err(ScrapeError::Service { sample: 3, cause: FetchError::TimedOut }),
        ),
    ];
    for (name, service, want) in cases {
        let script = Script { pods: |_| Box::pin(async { mesh() }), service, asked: AtomicU32::default() };
        let settings = Settings { mode: MeshMode::Enabled, ..settings(Compat::IMPROVED) };
        let scraper = Scraper::new(&script, "hello-private", "default", settings);
        let got = soon(name, scraper.scrape(&pods(3), NOW, WINDOW)).await;
        assert_eq!(got, want, "{name}");
        assert!(script.asked.load(Ordering::SeqCst) <= 30, "{name}");
    }
    let text = ScrapeError::Service { sample: 3, cause: FetchError::Seen }.to_string();
    assert_eq!(text, "unsuccessful scrape, sampleSize=3: did not receive stat from an unscraped pod");
}

/// Answers, and notes who was asked.
struct Noting(Arc<Mutex<Vec<u8>>>);

impl Fetch for Noting {
    async fn pod(&self, ip: IpAddr, _host: Option<&str>) -> Result<Stat, FetchError> {
        let IpAddr::V4(ip) = ip else { unreachable!("pods here have IPv4") };
        self.0.lock().expect("no panic").push(ip.octets()[3]);
        Ok(stat())
    }

    async fn service(&self, _host: &str) -> Result<Stat, FetchError> {
        mesh()
    }
}

#[tokio::test]
async fn old_pods_are_asked_before_young_ones() {
    let asked: Arc<Mutex<Vec<u8>>> = Arc::default();
    let scraper = Scraper::new(Noting(asked.clone()), "hello-private", "default", settings(Compat::IMPROVED));
    let mut ready = pods(20);
    // Nine are asked. With four old ones all of them are among the nine; with twelve nobody else is.
    for (old, checks) in [(4u8, "all old ones"), (12, "only old ones")] {
        for pod in &mut ready {
            let number: u8 = pod.name[1..].parse().expect("a number");
            pod.started = (number <= old).then_some(NOW - WINDOW);
        }
        let mut different = std::collections::HashSet::new();
        for _ in 0..50 {
            asked.lock().expect("no panic").clear();
            scraper.scrape(&ready, NOW, WINDOW).await.expect("a load");
            let mut asked = asked.lock().expect("no panic").clone();
            asked.sort_unstable();
            assert_eq!(asked.len(), 9);
            let met = asked.iter().filter(|pod| **pod <= old).count();
            assert_eq!(met, usize::from(old.min(9)), "{checks}: {asked:?}");
            different.insert(asked);
        }
        assert!(different.len() > 1, "the rest is chosen at random");
    }
}

#[tokio::test]
async fn dropping_a_scrape_stops_it() {
    let pod = Pod::start(Reaction::Silence).await;
    let client = client_for("10.0.0.1", &pod, Compat::IMPROVED);
    let scraper = Scraper::new(client, "hello-private", "default", settings(Compat::IMPROVED));
    let ready = pods(1);
    let scraping = scraper.scrape(&ready, NOW, WINDOW);
    tokio::select! {
        done = scraping => panic!("{done:?}"),
        () = eventually("the pod is asked", || pod.connections() == 1) => {}
    }
}
