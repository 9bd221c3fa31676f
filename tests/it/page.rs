//! The page's own endpoints over real sockets: what they answer, and what they put up with. The page in a browser is in
//! `tests/page`.

#[path = "../page/source.rs"]
mod source;

use crate::patience::{PATIENCE, eventually};
use axum::Router;
use axum::body::Body;
use axum::routing::get;
use ebb::clock::Clock;
use ebb::observe::serve::{Limits, Served as Counted, serve};
use ebb::units::Span;
use reqwest::{Client, Method};
use serde_json::Value;
use source::{Revisions, Served};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn questions_are_answered_or_refused_with_the_reason() {
    let served = Served::start(40).await;
    let one = format!("/ui/revision/{}", Revisions::key(9));
    let client = Client::new();
    for (method, path, status, says) in [
        (Method::GET, "/".to_owned(), 200, "<h1 id=\"list-title\">"),
        (Method::GET, "/ui/page.js".to_owned(), 200, "ui/revisions?since="),
        (Method::GET, "/ui/revisions".to_owned(), 200, "\"whole\":true"),
        (Method::GET, "/ui/revisions?since=0".to_owned(), 200, "\"whole\":true"),
        (Method::GET, "/ui/revisions?since=451".to_owned(), 200, "\"whole\":false"),
        (Method::GET, "/ui/revisions?since=999999".to_owned(), 200, "\"whole\":true"),
        (Method::GET, "/ui/revisions?since=-1".to_owned(), 400, "not the number of a look"),
        (Method::GET, "/ui/revisions?since=99999999999999999999999".to_owned(), 400, "not the number of a look"),
        (Method::GET, one.clone(), 200, "\"state\":\"panic\""),
        (Method::GET, format!("{one}?last=1h"), 200, "\"points\""),
        (Method::GET, format!("{one}?last=1m0s"), 200, "\"points\""),
        (Method::GET, format!("{one}?last=59s"), 400, "from 1m0s to 1h0m0s"),
        (Method::GET, format!("{one}?last=1h1s"), 400, "--journal DIR"),
        (Method::GET, format!("{one}?last=2000000h"), 400, "cannot be drawn"),
        (Method::GET, format!("{one}?last=99999999999h"), 400, "is not a length of time"),
        (Method::GET, format!("{one}?last=yesterday"), 400, "write it as 15m or 1h"),
        (Method::GET, format!("{one}?last=1h&last=2h"), 400, "duplicate field"),
        (
            Method::GET,
            "/ui/revision/team-09/shop-00010-00001".to_owned(),
            404,
            "team-09/shop-00010-00001 is not known; there is team-",
        ),
        (Method::GET, "/ui/revision/team-09".to_owned(), 404, ""),
        (Method::GET, format!("/ui/revision/a/{}", "x".repeat(4_000)), 404, "is not known"),
        (Method::GET, format!("/explain/{}?last=15x", Revisions::key(9)), 400, "not a length of time"),
        (Method::GET, format!("/explain/{}?format=xml", Revisions::key(9)), 400, "neither text nor json"),
        (
            Method::GET,
            format!("/explain/{}?last=0s", Revisions::key(9)),
            400,
            "last=0s is not a length of time from 1ns",
        ),
        (
            Method::GET,
            format!("/explain/{}?at=2026-01-01T00:00:00Z", Revisions::key(9)),
            400,
            "--journal DIR --at TIME",
        ),
        (Method::GET, "/explain/no/where".to_owned(), 404, "there are 40, such as team-"),
        (Method::GET, "/nowhere".to_owned(), 404, "nothing is here; there are / (the page), /explain/"),
        // Nothing here changes anything.
        (Method::POST, "/ui/revisions".to_owned(), 405, ""),
        (Method::DELETE, one.clone(), 405, ""),
        (Method::PUT, "/".to_owned(), 405, ""),
    ] {
        let answer = client.request(method.clone(), format!("{}{path}", served.url)).send().await.expect("an answer");
        let got = answer.status().as_u16();
        let text = answer.text().await.expect("text");
        assert_eq!(got, status, "{method} {path}: {text}");
        assert!(text.contains(says), "{method} {path}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_may_do_nothing_but_ask_where_it_came_from() {
    let served = Served::start(1).await;
    for path in ["/", "/ui/page.js", "/ui/page.css", "/ui/icon.svg"] {
        let answer = reqwest::get(format!("{}{path}", served.url)).await.expect("an answer");
        let headers = answer.headers().clone();
        let text = answer.text().await.expect("text");
        let policy = headers["content-security-policy"].to_str().expect("text");
        for part in ["default-src 'none'", "script-src 'self'", "connect-src 'self'", "frame-ancestors 'none'"] {
            assert!(policy.contains(part), "{path}: {policy}");
        }
        assert!(!policy.contains("unsafe"), "{policy}");
        assert_eq!(headers["x-content-type-options"], "nosniff");
        // Behind a proxy the page has another root, so nothing begins there; and nothing is elsewhere.
        for absolute in ["href=\"/", "src=\"/", "url(", "fetch(\"/", "ask(`/", "@import", "//cdn", "https:"] {
            assert!(!text.contains(absolute), "{path} has {absolute}");
        }
        let elsewhere = text.matches("http:").count();
        assert_eq!(elsewhere, text.matches("http://www.w3.org/2000/svg").count(), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_changed_since_a_look_is_all_that_is_sent() {
    let served = Served::start(40).await;
    let ask = async |since: u64| {
        let url = format!("{}/ui/revisions?since={since}", served.url);
        reqwest::get(url).await.expect("an answer").json::<Value>().await.expect("JSON")
    };
    let all = ask(0).await;
    let look = all["look"].as_u64().expect("a number");
    assert_eq!(all["rows"].as_array().map(Vec::len), Some(40));
    assert_eq!(ask(look).await["rows"].as_array().map(Vec::len), Some(0));
    served.revisions.look(Clock::system().now() + Span::from_seconds(100));
    let news = ask(look).await;
    assert_eq!((news["look"].as_u64(), news["whole"].as_bool()), (Some(look + 1), Some(false)));
    // A third of them has load, of which some is another by now; the others are where they were.
    let rows = news["rows"].as_array().expect("rows");
    assert!((1..=14).contains(&rows.len()), "{news}");
    assert!(rows.iter().all(|row| row[5].as_f64() > Some(0.0)), "{news}");
}

/// A listener with an answer of eight megabytes.
async fn large(limits: Limits) -> (String, Arc<Counted>, CancellationToken) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    let late = || async {
        let pieces = [Ok("x"), Err(io::Error::from(io::ErrorKind::TimedOut))];
        Body::from_stream(futures::stream::iter(pieces))
    };
    let routes = Router::new()
        .route("/", get(|| async { "x".repeat(8 << 20) }))
        .route("/small", get(|| async { "ok" }))
        .route("/late", get(late));
    let (counted, cancel) = (Arc::<Counted>::default(), CancellationToken::new());
    tokio::spawn(serve(listener, routes, limits, Arc::clone(&counted), cancel.clone()));
    (address, counted, cancel)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_does_not_read_is_dropped_and_counted() {
    let limits = Limits { connections: 4, head: PATIENCE, unread: Duration::from_millis(200) };
    let (address, counted, _cancel) = large(limits).await;
    let mut silent = Vec::new();
    // More of them than there are places: each gets one when another was dropped.
    for _ in 0..8 {
        let mut stream = TcpStream::connect(&address).await.expect("a connection");
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("written");
        silent.push(stream);
    }
    eventually("all of them to be dropped", async || (counted.unread.load(Ordering::Relaxed) == 8).then_some(())).await;
    // Whoever reads gets all of it.
    let text = reqwest::get(format!("http://{address}/")).await.expect("an answer").text().await.expect("all of it");
    assert_eq!((text.len(), counted.unread.load(Ordering::Relaxed)), (8 << 20, 8));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_is_cut_off_by_who_makes_it_is_counted_too() {
    let limits = Limits { connections: 4, head: PATIENCE, unread: PATIENCE };
    let (address, counted, _cancel) = large(limits).await;
    let mut stream = TcpStream::connect(&address).await.expect("a connection");
    stream.write_all(b"GET /late HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("written");
    eventually("it to be counted", async || (counted.unread.load(Ordering::Relaxed) == 1).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_never_sends_a_request_keeps_nobody_out_for_long() {
    let limits = Limits { connections: 8, head: Duration::from_hours(1), unread: PATIENCE };
    let (address, _counted, _cancel) = large(limits).await;
    let mut silent = Vec::new();
    for _ in 0..12 {
        let mut stream = TcpStream::connect(&address).await.expect("a connection");
        stream.write_all(b"GET /small HT").await.expect("written");
        silent.push(stream);
    }
    let answer = tokio::time::timeout(PATIENCE, reqwest::get(format!("http://{address}/small"))).await;
    assert_eq!(answer.expect("in time").expect("an answer").status(), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_that_are_only_open_keep_nobody_out() {
    let limits = Limits { connections: 8, head: PATIENCE, unread: PATIENCE };
    let (address, counted, cancel) = large(limits).await;
    let mut open = Vec::new();
    // Of a hundred pages, each with a connection it would keep, a few are kept; all are answered.
    for number in 0..100 {
        let mut stream = TcpStream::connect(&address).await.expect("a connection");
        stream.write_all(b"GET /small HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("written");
        let mut answer = vec![0; 4096];
        let length = stream.read(&mut answer).await.expect("an answer");
        let answer = String::from_utf8_lossy(&answer[..length]).into_owned();
        assert!(answer.starts_with("HTTP/1.1 200"), "{number}: {answer}");
        open.push((stream, answer.contains("connection: close")));
    }
    let kept = open.iter().filter(|(_, closed)| !closed).count();
    assert!((1..=4).contains(&kept), "{kept} are kept");
    eventually("the others to be closed", async || (counted.open.load(Ordering::Relaxed) == kept as u64).then_some(()))
        .await;
    cancel.cancel();
}
