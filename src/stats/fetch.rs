//! One stat from one queue-proxy: `GET /metrics` on port 9090 over a connection that is kept for the next second.
//!
//! # Decisions
//!
//! - The exchange is done here, on the socket, with `httparse` for the head: one write, usually one read. There may be
//!   thousands a second. Hyper on a kept connection needs half as much CPU again, and 14 KiB for each connection that
//!   is idle where a bare socket is well under one (`benches/scrape.rs` compares them in one run); with ten thousand
//!   pods that is most of what this process may use.
//! - Nothing is followed or transformed: no redirects, no proxies, no compression. The reference does all three, but a
//!   queue-proxy never redirects, and a proxy between an autoscaler and a pod of its own cluster is a mistake.
//! - A full set of idle connections keeps what it has instead of making room: with more pods than places, asked in
//!   turn, replacing the oldest would reuse none.

use crate::api::names::QUEUE_STATS_PORT;
use crate::clock::Clock;
use crate::k8s::dial::Dial;
use crate::stats::wire::{self, BadValue, DecodeError, MOST_SCRAPE_BODY, Stat};
use crate::units::{Compat, Span, Timestamp};
use arrayvec::ArrayVec;
use bytes::Bytes;
use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

/// How long an exchange may take, connecting included.
const EXCHANGE: Duration = Duration::from_secs(3);
/// The only content type with the reference's binary format.
const PROTOBUF: &str = "application/protobuf";
/// The most headers of an answer.
const MOST_HEADERS: usize = 64;
/// The longest head of an answer, and the most that the framing of a chunked body may add to it.
const MOST_HEAD: usize = 16 << 10;
/// How much of a content type is told: the error stands in the status of a Metric.
const MOST_TOLD: usize = 128;
/// The longest body in Prometheus text. Old queue-proxies answer with under 2 KiB; one that also exports its runtime
/// with about 10.
const MOST_TEXT: usize = 256 << 10;

/// Asks for stats. The scraper's rules are tested against recorded answers through this.
pub trait Fetch: Send + Sync {
    /// The stat of the pod at `ip`. `host` is set when a load balancer in front of the pods passes traffic for one pod
    /// through to it, and is the name it goes by.
    fn pod(&self, ip: IpAddr, host: Option<&str>) -> impl Future<Output = Result<Stat, FetchError>> + Send;

    /// The stat of whichever pod the Service named `host` leads to this time.
    fn service(&self, host: &str) -> impl Future<Output = Result<Stat, FetchError>> + Send;
}

/// Why there is no stat.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
pub enum FetchError {
    /// An answer that is not 2xx.
    #[error("GET request for URL {url:?} returned HTTP status {code}")]
    Status {
        /// What was asked.
        url: String,
        /// The HTTP status.
        code: u16,
    },
    /// An answer in another format.
    #[error("unsupported metric type: {0:?}")]
    ContentType(String),
    /// A body in the right format that does not decode.
    #[error(transparent)]
    Body(#[from] DecodeError),
    /// Numbers that cannot be load.
    #[error(transparent)]
    BadValue(#[from] BadValue),
    /// Not HTTP, or cut short.
    #[error("malformed answer: {0}")]
    Malformed(&'static str),
    /// The pod has no address.
    #[error("the pod has no address")]
    NoAddress,
    /// Connecting, writing or reading failed.
    #[error("{0}")]
    Io(String),
    /// The exchange did not finish in time.
    #[error("no answer within {EXCHANGE:?}")]
    TimedOut,
    /// The Service led to a pod that was asked before.
    #[error("did not receive stat from an unscraped pod")]
    Seen,
}

impl FetchError {
    /// Whether it is what a mesh answers when a pod is addressed directly. Only the status tells.
    pub fn is_mesh_like(&self) -> bool {
        matches!(self, Self::Status { code: 502 | 503, .. })
    }
}

impl From<io::Error> for FetchError {
    fn from(error: io::Error) -> Self {
        Self::Io(error.to_string())
    }
}

impl From<httparse::Error> for FetchError {
    fn from(_: httparse::Error) -> Self {
        Self::Malformed("not an HTTP response")
    }
}

/// How many connections are kept for the next scrape.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Idle connections over all pods.
    pub idle: usize,
    /// How long a connection may be idle.
    pub idle_for: Span,
}

impl Default for Limits {
    /// 10,000 connections for 90 s. The reference keeps 1,000, so that beyond a thousand pods it connects anew each
    /// second; an idle connection costs this process less than 1 KiB, and a file descriptor.
    fn default() -> Self {
        Self { idle: 10_000, idle_for: Span::from_seconds(90) }
    }
}

/// Idle connections to one pod. Two, as several Metrics may name the same pods while a revision is replaced.
const IDLE_PER_POD: usize = 2;

/// The HTTP client all scrapers share. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    dial: Arc<dyn Dial>,
    pool: Arc<Pool>,
    compat: Compat,
}

impl Client {
    /// A client with no connections. Must be called in a tokio runtime: idle connections are closed by a task.
    pub fn new(dial: Arc<dyn Dial>, clock: Clock, limits: Limits, compat: Compat) -> Self {
        let pool = Arc::new(Pool { clock, limits, idle: Mutex::default() });
        tokio::spawn(close_idle(Arc::downgrade(&pool), limits.idle_for.to_std() / 3));
        Self { dial, pool, compat }
    }

    /// How many connections are idle now.
    pub fn idle(&self) -> usize {
        self.pool.lock().count
    }

    async fn ask_pod(&self, ip: IpAddr, host: Option<&str>) -> Result<Stat, FetchError> {
        let request = Request::to_pod(ip, host);
        if let Some(mut stream) = self.pool.take(ip) {
            match exchange(&mut stream, &request, self.compat).await {
                // The pod closed the connection while it was idle; it never saw the request.
                Err(Failure::BeforeAnswer(_)) => {}
                done => return self.finish(ip, stream, done),
            }
        }
        let mut stream = self.dial.dial(&ip.to_string(), QUEUE_STATS_PORT).await?;
        let done = exchange(&mut stream, &request, self.compat).await;
        self.finish(ip, stream, done)
    }

    fn finish(&self, ip: IpAddr, stream: TcpStream, done: Result<Answer, Failure>) -> Result<Stat, FetchError> {
        match done {
            Ok(answer) => {
                if answer.reusable {
                    self.pool.put(ip, stream);
                }
                answer.stat
            }
            Err(Failure::BeforeAnswer(error) | Failure::During(error)) => Err(error),
        }
    }

    async fn ask_service(&self, host: &str) -> Result<Stat, FetchError> {
        let mut stream = self.dial.dial(host, QUEUE_STATS_PORT).await?;
        match exchange(&mut stream, &Request::to_service(host), self.compat).await {
            Ok(answer) => answer.stat,
            Err(Failure::BeforeAnswer(error) | Failure::During(error)) => Err(error),
        }
    }
}

impl Fetch for Client {
    async fn pod(&self, ip: IpAddr, host: Option<&str>) -> Result<Stat, FetchError> {
        timeout(EXCHANGE, self.ask_pod(ip, host)).await.unwrap_or(Err(FetchError::TimedOut))
    }

    async fn service(&self, host: &str) -> Result<Stat, FetchError> {
        timeout(EXCHANGE, self.ask_service(host)).await.unwrap_or(Err(FetchError::TimedOut))
    }
}

/// A request, ready to be written.
struct Request {
    url: String,
    bytes: Vec<u8>,
}

impl Request {
    fn to_pod(ip: IpAddr, host: Option<&str>) -> Self {
        // The textual form of a socket address has the brackets an IPv6 address needs.
        let authority = std::net::SocketAddr::new(ip, QUEUE_STATS_PORT).to_string();
        match host {
            None => Self::new(&authority, &authority, ""),
            Some(host) => Self::new(&authority, host, "Knative-Direct-Lb: true\r\n"),
        }
    }

    fn to_service(host: &str) -> Self {
        let authority = format!("{host}:{QUEUE_STATS_PORT}");
        // A new connection each time, so that each request is balanced anew.
        Self::new(&authority, &authority, "Connection: close\r\n")
    }

    fn new(authority: &str, host: &str, more: &str) -> Self {
        let head =
            format!("GET /metrics HTTP/1.1\r\nHost: {host}\r\nUser-Agent: ebb\r\nAccept: {PROTOBUF}\r\n{more}\r\n");
        Self { url: format!("http://{authority}/metrics"), bytes: head.into_bytes() }
    }
}

/// What came of an exchange that was answered in full, or far enough.
struct Answer {
    stat: Result<Stat, FetchError>,
    /// Whether the connection can carry another request.
    reusable: bool,
}

/// An exchange that was not answered.
enum Failure {
    /// Not a byte of an answer came.
    BeforeAnswer(FetchError),
    /// It broke off, or was not HTTP.
    During(FetchError),
}

impl<E: Into<FetchError>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::During(error.into())
    }
}

/// Sends the request and reads the answer as far as it is needed.
async fn exchange(stream: &mut TcpStream, request: &Request, compat: Compat) -> Result<Answer, Failure> {
    if let Err(error) = stream.write_all(&request.bytes).await {
        return Err(Failure::BeforeAnswer(error.into()));
    }
    let mut buffer = Vec::with_capacity(1024);
    let head = loop {
        if buffer.len() >= MOST_HEAD {
            return Err(FetchError::Malformed("a head over 16 KiB").into());
        }
        let read = stream.read_buf(&mut buffer).await;
        match read {
            Ok(0) if buffer.is_empty() => return Err(Failure::BeforeAnswer(FetchError::Malformed("no answer"))),
            Ok(0) => return Err(FetchError::Malformed("the head is cut short").into()),
            Err(error) if buffer.is_empty() => return Err(Failure::BeforeAnswer(error.into())),
            Err(error) => return Err(error.into()),
            Ok(_) => {}
        }
        if let Some(head) = Head::parse(&buffer)? {
            break head;
        }
    };
    let format = if head.code / 100 != 2 {
        Err(FetchError::Status { url: request.url.clone(), code: head.code })
    } else if head.content_type == PROTOBUF {
        Ok(Format::Protobuf)
    } else if compat.text_scrapes && is_text(&head.content_type) {
        Ok(Format::Text)
    } else {
        Err(FetchError::ContentType(shortened(head.content_type)))
    };
    let format = match format {
        Ok(format) => format,
        // The body of a refusal is not read; if it has not come along with the head, the connection is given up.
        Err(error) => {
            let whole = match BodyReader::default().read(&head.framing, &buffer[head.length..], 0, true) {
                Ok(body) => body.is_some_and(|body| body.whole),
                Err(_) => false,
            };
            return Ok(Answer { stat: Err(error), reusable: whole && head.keep_alive });
        }
    };
    let most = match format {
        Format::Protobuf => MOST_SCRAPE_BODY,
        Format::Text => MOST_TEXT,
    };
    let mut reader = BodyReader::default();
    let mut open = true;
    while reader.read(&head.framing, &buffer[head.length..], most, open)?.is_none() {
        if buffer.len() - head.length > most + MOST_HEAD {
            return Err(FetchError::Malformed("a body with more framing than content").into());
        }
        open = stream.read_buf(&mut buffer).await? > 0;
    }
    let Some(body) = reader.read(&head.framing, &buffer[head.length..], most, open)? else {
        return Err(FetchError::Malformed("the body is cut short").into());
    };
    let stat = match format {
        Format::Protobuf => wire::decode_scrape(body.bytes).map_err(FetchError::from),
        Format::Text => parse_text(body.bytes),
    };
    let stat = stat.and_then(|stat| {
        if compat.refuse_bad_stats {
            stat.check()?;
        }
        Ok(stat)
    });
    Ok(Answer { stat, reusable: body.whole && head.keep_alive })
}

enum Format {
    Protobuf,
    Text,
}

fn shortened(mut content_type: String) -> String {
    if content_type.len() > MOST_TOLD {
        content_type.truncate(content_type.floor_char_boundary(MOST_TOLD));
        content_type.push('…');
    }
    content_type
}

/// The head of an answer.
struct Head {
    code: u16,
    content_type: String,
    framing: Framing,
    keep_alive: bool,
    /// In bytes, with the heads of interim answers before it.
    length: usize,
}

/// How the end of a body is found.
enum Framing {
    Length(usize),
    Chunked,
    UntilClose,
}

impl Head {
    /// The head at the start of `bytes`, if it is complete.
    fn parse(bytes: &[u8]) -> Result<Option<Self>, FetchError> {
        let mut start = 0;
        loop {
            let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
            let mut response = httparse::Response::new(&mut headers);
            let httparse::Status::Complete(length) = response.parse(&bytes[start..])? else { return Ok(None) };
            let code = response.code.unwrap_or_default();
            start += length;
            // "100 Continue" and its like announce the real answer.
            if code / 100 == 1 {
                if code == 101 {
                    return Err(FetchError::Malformed("an upgrade nobody asked for"));
                }
                continue;
            }
            let mut head = Self {
                code,
                content_type: String::new(),
                framing: Framing::UntilClose,
                keep_alive: response.version == Some(1),
                length: start,
            };
            head.read_headers(response.headers)?;
            return Ok(Some(head));
        }
    }

    fn read_headers(&mut self, headers: &[httparse::Header<'_>]) -> Result<(), FetchError> {
        let mut length = None;
        let mut chunked = false;
        let mut content_type = None;
        for header in headers {
            let value = header.value.trim_ascii();
            if header.name.eq_ignore_ascii_case("content-type") {
                content_type.get_or_insert(value);
            } else if header.name.eq_ignore_ascii_case("content-length") {
                let this = std::str::from_utf8(value).ok().and_then(|text| text.parse::<usize>().ok());
                if this.is_none() || length.is_some_and(|length| Some(length) != this) {
                    return Err(FetchError::Malformed("a content length that is not one number"));
                }
                length = this;
            } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
                if !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(FetchError::Malformed("a transfer encoding other than chunked"));
                }
                chunked = true;
            } else if header.name.eq_ignore_ascii_case("connection") {
                self.keep_alive &=
                    !value.split(|byte| *byte == b',').any(|token| token.trim_ascii().eq_ignore_ascii_case(b"close"));
            }
        }
        self.content_type = content_type.map_or_else(String::new, |value| String::from_utf8_lossy(value).into_owned());
        self.framing = match (chunked, length) {
            _ if self.code == 204 || self.code == 304 => Framing::Length(0),
            (true, _) => Framing::Chunked,
            (false, Some(length)) => Framing::Length(length),
            (false, None) => {
                self.keep_alive = false;
                Framing::UntilClose
            }
        };
        Ok(())
    }
}

/// A body, or as much of it as is looked at.
struct Body<'a> {
    bytes: &'a [u8],
    /// All of it came, and nothing after it.
    whole: bool,
}

/// Finds the body in what has come after the head.
#[derive(Default)]
struct BodyReader {
    /// The content of the chunks that have come whole.
    content: Vec<u8>,
    /// Where in the raw bytes the next chunk begins.
    next: usize,
}

impl BodyReader {
    /// The body in `raw`, everything that came after the head so far, once `most` bytes of it or all are there. `open`
    /// says whether more may come.
    fn read<'a>(
        &'a mut self,
        framing: &Framing,
        raw: &'a [u8],
        most: usize,
        open: bool,
    ) -> Result<Option<Body<'a>>, FetchError> {
        let (bytes, complete, whole) = match framing {
            Framing::Length(length) => (&raw[..raw.len().min(*length)], raw.len() >= *length, raw.len() == *length),
            Framing::UntilClose => (raw, !open, !open),
            Framing::Chunked => {
                let end = self.take_chunks(raw)?;
                (self.content.as_slice(), end.is_some(), end == Some(raw.len()))
            }
        };
        if complete || bytes.len() >= most {
            Ok(Some(Body { bytes: &bytes[..bytes.len().min(most)], whole }))
        } else if open {
            Ok(None)
        } else {
            Err(FetchError::Malformed("the body is cut short"))
        }
    }

    /// Takes the chunks that have come whole; returns where the body ends once the last one has come.
    fn take_chunks(&mut self, raw: &[u8]) -> Result<Option<usize>, FetchError> {
        let bad = || FetchError::Malformed("a chunk that is not one");
        loop {
            let rest = &raw[self.next.min(raw.len())..];
            let parsed = httparse::parse_chunk_size(rest).map_err(|_| bad())?;
            let httparse::Status::Complete((start, size)) = parsed else { return Ok(None) };
            let rest = &rest[start..];
            let size = usize::try_from(size).map_err(|_| bad())?;
            let Some((chunk, end)) = rest.split_at_checked(size) else { return Ok(None) };
            match end {
                [b'\r', b'\n', ..] => {}
                [] | [b'\r'] => return Ok(None),
                // After the last chunk there may be trailers. Nobody sends any; with them the body ends here for us,
                // and as bytes are left over the connection is not used again.
                _ if size == 0 => return Ok(Some(self.next + start)),
                _ => return Err(bad()),
            }
            if size == 0 {
                return Ok(Some(self.next + start + 2));
            }
            self.content.extend_from_slice(chunk);
            self.next += start + size + 2;
        }
    }
}

/// Whether this is the Prometheus text format.
fn is_text(content_type: &str) -> bool {
    content_type.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("text/plain"))
}

/// The stat in the gauges that queue-proxies served before they spoke protocol buffers.
fn parse_text(body: &[u8]) -> Result<Stat, FetchError> {
    let text = std::str::from_utf8(body).map_err(|_| FetchError::Malformed("text that is not UTF-8"))?;
    let ours = text.lines().filter(|line| line.starts_with("queue_") || line.starts_with("process_uptime"));
    let scrape = prometheus_parse::Scrape::parse(ours.map(|line| Ok(line.to_owned())))?;
    let mut stat = Stat::default();
    let mut found = [false; 4];
    for sample in &scrape.samples {
        let (prometheus_parse::Value::Gauge(value) | prometheus_parse::Value::Untyped(value)) = sample.value else {
            continue;
        };
        let (field, place) = match sample.metric.as_str() {
            "queue_average_concurrent_requests" => (&mut stat.average_concurrent_requests, 0),
            "queue_average_proxied_concurrent_requests" => (&mut stat.average_proxied_concurrent_requests, 1),
            "queue_requests_per_second" | "queue_operations_per_second" => (&mut stat.request_count, 2),
            "queue_proxied_operations_per_second" => (&mut stat.proxied_request_count, 3),
            "process_uptime" => {
                stat.process_uptime = value;
                continue;
            }
            _ => continue,
        };
        *field = value;
        found[place] = true;
        if let Some(pod) = sample.labels.get("destination_pod") {
            stat.pod_name = Bytes::copy_from_slice(pod.as_bytes());
        }
    }
    if found == [true; 4] { Ok(stat) } else { Err(FetchError::Malformed("text without the queue's four gauges")) }
}

/// Idle connections.
struct Pool {
    clock: Clock,
    limits: Limits,
    idle: Mutex<Idle>,
}

#[derive(Default)]
struct Idle {
    pods: HashMap<IpAddr, ArrayVec<(TcpStream, Timestamp), IDLE_PER_POD>>,
    count: usize,
}

impl Pool {
    /// The connection to `ip` that was used last, if it is still open.
    fn take(&self, ip: IpAddr) -> Option<TcpStream> {
        let mut idle = self.lock();
        let connections = idle.pods.get_mut(&ip)?;
        let taken = connections.pop();
        if connections.is_empty() {
            idle.pods.remove(&ip);
        }
        let (stream, since) = taken?;
        idle.count -= 1;
        drop(idle);
        // On an idle connection there is nothing to read; if there is, it is the end or something nobody asked for.
        let quiet = matches!(stream.try_read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock);
        (quiet && self.clock.now().since(since) < self.limits.idle_for).then_some(stream)
    }

    fn put(&self, ip: IpAddr, stream: TcpStream) {
        let now = self.clock.now();
        let mut idle = self.lock();
        if idle.count >= self.limits.idle {
            return;
        }
        let connections = idle.pods.entry(ip).or_default();
        if connections.try_push((stream, now)).is_ok() {
            idle.count += 1;
        }
    }

    fn close_expired(&self) {
        let now = self.clock.now();
        let mut idle = self.lock();
        idle.pods.retain(|_, connections| {
            connections.retain(|(_, since)| now.since(*since) < self.limits.idle_for);
            !connections.is_empty()
        });
        idle.count = idle.pods.values().map(ArrayVec::len).sum();
    }

    fn lock(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Closes what has been idle too long, until the pool is gone.
async fn close_idle(pool: Weak<Pool>, every: Duration) {
    loop {
        sleep(every).await;
        let Some(pool) = pool.upgrade() else { return };
        pool.close_expired();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The body when all of `raw` comes at once.
    fn body(framing: &Framing, raw: &[u8], most: usize) -> Result<Option<(Vec<u8>, bool)>, FetchError> {
        let mut reader = BodyReader::default();
        Ok(reader.read(framing, raw, most, true)?.map(|body| (body.bytes.to_vec(), body.whole)))
    }

    #[test]
    fn a_body_ends_where_its_framing_says() {
        let bad = Err(FetchError::Malformed("a chunk that is not one"));
        for (framing, raw, most, want) in [
            (Framing::Length(3), "abc", 9, Ok(Some(("abc", true)))),
            (Framing::Length(3), "ab", 9, Ok(None)),
            (Framing::Length(3), "abcd", 9, Ok(Some(("abc", false)))),
            (Framing::Length(300), "abcd", 2, Ok(Some(("ab", false)))),
            (Framing::Length(0), "", 9, Ok(Some(("", true)))),
            (Framing::UntilClose, "abc", 9, Ok(None)),
            (Framing::UntilClose, "abc", 3, Ok(Some(("abc", false)))),
            (Framing::Chunked, "3\r\nabc\r\n0\r\n\r\n", 9, Ok(Some(("abc", true)))),
            (Framing::Chunked, "1\r\na\r\n2;x=y\r\nbc\r\n0\r\n\r\n", 9, Ok(Some(("abc", true)))),
            (Framing::Chunked, "3\r\nabc\r\n0\r\n\r\nd", 9, Ok(Some(("abc", false)))),
            (Framing::Chunked, "3\r\nabc\r\n0\r\nTrailer: x\r\n\r\n", 9, Ok(Some(("abc", false)))),
            (Framing::Chunked, "3\r\nabc\r\n0\r\n", 9, Ok(None)),
            (Framing::Chunked, "3\r\nabc\r\n", 9, Ok(None)),
            (Framing::Chunked, "3\r\nabc\r\n", 3, Ok(Some(("abc", false)))),
            (Framing::Chunked, "3\r\nab", 9, Ok(None)),
            (Framing::Chunked, "3\r\nabcd", 9, bad.clone()),
            (Framing::Chunked, "x\r\n", 9, bad.clone()),
            (Framing::Chunked, "fffffffffffffffff\r\n", 9, bad),
        ] {
            let want = want.map(|body| body.map(|(bytes, whole)| (bytes.as_bytes().to_vec(), whole)));
            assert_eq!(body(&framing, raw.as_bytes(), most), want, "{raw:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_reading_panic(bytes: Vec<u8>, length: usize, most in 0usize..400, open: bool) {
            let _head = Head::parse(&bytes);
            let _text = parse_text(&bytes);
            for framing in [Framing::Length(length), Framing::Chunked, Framing::UntilClose] {
                let _body = BodyReader::default().read(&framing, &bytes, most, open).map(|body| body.is_some());
            }
        }

        #[test]
        fn no_head_makes_reading_panic(status in "HTTP/1.[01] [0-9]{3}", headers in "(?s)([A-Za-z-]{1,20}: .{0,20}\r\n){0,5}\r\n") {
            let _head = Head::parse(format!("{status}\r\n{headers}").as_bytes());
        }

        #[test]
        fn no_gauges_make_reading_panic(lines in "(queue_average_concurrent_requests(\\{.{0,20}\\})? .{0,10}\n){0,4}") {
            let _text = parse_text(lines.as_bytes());
        }

        #[test]
        fn chunks_come_together_however_they_arrive(
            chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..40), 0..8),
            steps in proptest::collection::vec(1usize..30, 1..40),
        ) {
            let mut raw = Vec::new();
            for chunk in &chunks {
                raw.extend(format!("{:X}\r\n", chunk.len()).bytes());
                raw.extend(chunk);
                raw.extend(b"\r\n");
            }
            raw.extend(b"0\r\n\r\n");
            let mut reader = BodyReader::default();
            let mut come = 0;
            for step in steps.iter().cycle() {
                come = raw.len().min(come + step);
                match reader.read(&Framing::Chunked, &raw[..come], usize::MAX, true).expect("chunks") {
                    None => prop_assert!(come < raw.len()),
                    Some(body) => {
                        prop_assert_eq!(come, raw.len());
                        prop_assert!(body.whole);
                        prop_assert_eq!(body.bytes, chunks.concat());
                        break;
                    }
                }
            }
        }
    }
}
