//! The stat server: where activators and other autoscalers report load, over websockets.
//!
//! One port answers three kinds of request, decided in this order: a kubelet's probe gets an empty 200 whatever it
//! asks for; a handshake for a bucket this replica does not own is refused; anything else must be a websocket
//! handshake. After it the server only listens and answers pings. Frames are binary batches of
//! [`WireStatMessages`](crate::stats::wire::WireStatMessages).
//!
//! What cannot be used is dropped, counted, and logged once per peer and minute; the connection stays open, because the
//! frames around a bad one may be good, and an activator without a connection takes no requests. Only a peer that keeps
//! at it is cut off:
//!
//! | frame | what happens |
//! |---|---|
//! | not binary, or not a batch | dropped whole |
//! | longer than [`MOST_FRAME`] | dropped whole |
//! | longer than [`MOST_READ`] | closed with 1009, as it is not even read |
//! | a message without a stat | skipped |
//! | a message with values or names that cannot be | skipped, the others count |
//! | more than [`MOST_BAD`] bad frames within a minute | closed with 1008 |
//!
//! When the queue is full the connection is not read, which the peer feels through TCP.

use crate::api::names::{AUTOSCALER_SERVICE, KUBE_PROBE_AGENT_PREFIX, KUBELET_PROBE_HEADER};
use crate::clock::Clock;
use crate::observe::metrics::{self, Page, Source};
use crate::ownership::ring;
use crate::stats::limit::OncePerMinute;
use crate::stats::wire::{self, BadValue, DecodeError, Stat, WireStatMessage};
use crate::units::{Compat, RevisionKey, Span, Timestamp};
use axum::Router;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{sleep, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::CapacityError;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error as WsError, Message};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;
use tracing::{Instrument as _, debug, info_span, warn};

/// The longest frame that is decoded: 10,000 messages with the longest names Kubernetes allows are 4.5 MiB.
pub const MOST_FRAME: usize = 8 << 20;
/// The longest frame that is read at all.
pub const MOST_READ: usize = 2 * MOST_FRAME;
/// Bad frames within a minute that one connection may send. An activator of another make, all of whose frames are bad
/// to us, sends one a second and keeps its connection, as it does with the reference.
pub const MOST_BAD: u32 = 120;
/// Websockets open at once; more are refused with 503. There is one for each activator and each other replica.
pub const MOST_SOCKETS: usize = 1000;
/// TCP connections open at once; more wait to be accepted. What is beyond the websockets is for probes.
const MOST_CONNECTIONS: usize = MOST_SOCKETS + 256;
/// How long a client may take to send the head of a request.
const HEAD: Duration = Duration::from_mins(1);
/// How often a silent peer is asked by TCP whether it is still there.
const KEEP_ALIVE: Duration = Duration::from_mins(3);
/// How long shutting down may take.
const SHUTDOWN: Duration = Duration::from_secs(5);
/// How long a closed peer may take to read the reason before its connection is cut.
const GOODBYE: Duration = Duration::from_millis(500);
/// The longest name of a namespace, a revision or a reporter: Kubernetes' own limit.
const MOST_NAME: usize = 253;

/// The load of one revision, as one reporter saw it.
#[derive(Clone, PartialEq, Debug)]
pub struct Received {
    /// The revision; whether it exists is for the receiver to find out.
    pub key: RevisionKey,
    /// What was reported. A `timestamp` of 0 is to become the second in which this leaves the queue.
    pub stat: Stat,
    /// The address of the peer.
    pub source: Arc<str>,
    /// Whether the peer is another autoscaler that passed it on; an activator reports to the Service `autoscaler`.
    pub relayed: bool,
    /// When it was read.
    pub came: Timestamp,
}

/// What the server works with.
#[derive(Clone)]
pub struct Server {
    /// Where stats go; 1,000 places in production. When it is full, connections are not read.
    pub queue: mpsc::Sender<Received>,
    /// Whether this replica owns a bucket, asked with each handshake that names one.
    pub owns: Arc<dyn Fn(&str) -> bool + Send + Sync>,
    /// What happened.
    pub counters: Arc<Counters>,
    /// The time.
    pub clock: Clock,
    /// Where to differ from the reference.
    pub compat: Compat,
    /// What else is answered on this port, each on a path of its own.
    pub also: Router,
}

/// What happened since the start. All but `open` only grow.
#[derive(Debug, Default)]
pub struct Counters {
    /// Websockets open now.
    pub open: AtomicU64,
    /// Websockets opened.
    pub connections: AtomicU64,
    /// Handshakes refused: not a websocket handshake, another's bucket, too many.
    pub refused: AtomicU64,
    /// Data frames received, good or bad.
    pub frames: AtomicU64,
    /// Messages handed over.
    pub messages: AtomicU64,
    /// Binary frames that are not a batch.
    pub undecodable: AtomicU64,
    /// Text frames.
    pub text: AtomicU64,
    /// Frames too long.
    pub oversized: AtomicU64,
    /// Messages dropped for values or names that cannot be.
    pub inadmissible: AtomicU64,
    /// Connections closed because of their bad frames.
    pub abusive: AtomicU64,
}

impl Source for Counters {
    fn show(&self, page: &mut Page<'_>) {
        let now = metrics::count;
        page.gauge("ebb_stat_connections", "Websockets open for stats.", now(&self.open));
        page.counter("ebb_stat_connections_opened_total", "Websockets opened for stats.", now(&self.connections));
        page.counter(
            "ebb_stat_connections_abusive_total",
            "Websockets closed because too many of their frames were bad.",
            now(&self.abusive),
        );
        page.counter(
            "ebb_stat_handshakes_refused_total",
            "Requests to the stat port that did not become a websocket.",
            now(&self.refused),
        );
        page.counter("ebb_stat_frames_received_total", "Frames received, good or bad.", now(&self.frames));
        page.counters(
            "ebb_stat_frames_refused_total",
            "Frames that were no batch of stats, by cause.",
            ["cause"],
            [
                (["oversized"], now(&self.oversized)),
                (["text"], now(&self.text)),
                (["undecodable"], now(&self.undecodable)),
            ],
        );
        page.counter("ebb_stats_received_total", "Stats received over websockets and taken in.", now(&self.messages));
        page.counter(
            "ebb_stats_refused_total",
            "Stats received over websockets and refused for values or names that cannot be.",
            now(&self.inadmissible),
        );
    }
}

fn count(counter: &AtomicU64, by: usize) {
    counter.fetch_add(by as u64, Ordering::Relaxed);
}

/// Answers every request as the stat server does. Websockets end with `cancel`.
///
/// The address of the peer is expected as a [`SocketAddr`] among the request's extensions.
pub fn router(server: Server, cancel: CancellationToken) -> Router {
    routes(Arc::new(Shared::new(server, cancel)))
}

/// Serves `listener` until `cancel`; then says to every websocket that it is restarting and returns within 5 s.
pub async fn serve(listener: TcpListener, server: Server, cancel: CancellationToken) {
    let shared = Arc::new(Shared::new(server, cancel));
    let routes = routes(shared.clone());
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let accept = async {
        loop {
            let place = places.clone().acquire_owned().await.expect("the semaphore is never closed");
            match listener.accept().await {
                Ok((stream, peer)) => {
                    let serving = connection(stream, peer, routes.clone(), shared.cancel.clone(), place);
                    shared.tasks.spawn(serving);
                }
                Err(error) => {
                    // Most likely out of file descriptors; trying again at once would only burn CPU.
                    warn!(%error, "cannot accept a connection");
                    sleep(Duration::from_millis(100)).await;
                }
            }
        }
    };
    tokio::select! {
        () = shared.cancel.cancelled() => {}
        () = accept => {}
    }
    drop(listener);
    shared.tasks.close();
    if timeout(SHUTDOWN, shared.tasks.wait()).await.is_err() {
        warn!(open = shared.tasks.len(), "connections did not close in {SHUTDOWN:?}; leaving them");
    }
}

/// What all connections share.
struct Shared {
    server: Server,
    limit: OncePerMinute,
    sockets: Arc<Semaphore>,
    tasks: TaskTracker,
    cancel: CancellationToken,
}

impl Shared {
    fn new(server: Server, cancel: CancellationToken) -> Self {
        let limit = OncePerMinute::new(server.clock);
        Self { server, limit, sockets: Arc::new(Semaphore::new(MOST_SOCKETS)), tasks: TaskTracker::new(), cancel }
    }
}

fn routes(shared: Arc<Shared>) -> Router {
    let also = shared.server.also.clone();
    Router::new().fallback(answer).with_state(shared).merge(also)
}

/// Serves one TCP connection, until it ends or becomes a websocket.
async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    routes: Router,
    cancel: CancellationToken,
    place: OwnedSemaphorePermit,
) {
    let keep_alive = socket2::TcpKeepalive::new().with_time(KEEP_ALIVE).with_interval(KEEP_ALIVE);
    if let Err(error) =
        socket2::SockRef::from(&stream).set_tcp_keepalive(&keep_alive).and_then(|()| stream.set_nodelay(true))
    {
        debug!(%error, "socket options not set");
    }
    let place = Arc::new(place);
    let service = hyper::service::service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(peer);
        request.extensions_mut().insert(place.clone());
        routes.clone().oneshot(request)
    });
    let serving = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(64 << 10)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    tokio::pin!(serving);
    let ended = tokio::select! {
        ended = &mut serving => ended,
        () = cancel.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        debug!(%error, %peer, "connection ended");
    }
}

/// Decides what a request is.
async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    if is_kubelet_probe(request.headers()) {
        return StatusCode::OK.into_response();
    }
    match upgrade(&shared, request) {
        Ok(switching) => switching,
        Err(refusal) => {
            count(&shared.server.counters.refused, 1);
            debug!(%refusal, "handshake refused");
            refusal.into_response()
        }
    }
}

fn is_kubelet_probe(headers: &HeaderMap) -> bool {
    let agent = headers.get(header::USER_AGENT).map(HeaderValue::as_bytes).unwrap_or_default();
    agent.starts_with(KUBE_PROBE_AGENT_PREFIX.as_bytes())
        || headers.get(KUBELET_PROBE_HEADER).is_some_and(|value| !value.is_empty())
}

/// Accepts a websocket handshake, or says why not. The refusals and their order are those of the reference's library.
fn upgrade(shared: &Arc<Shared>, mut request: Request) -> Result<Response, Refusal> {
    let headers = request.headers();
    let host = host(&request);
    if host.starts_with(ring::PREFIX) {
        let bucket = host.split('.').next().unwrap_or(host);
        if !(shared.server.owns)(bucket) {
            let say = shared.server.compat.say_not_owner;
            return Err(if say { Refusal::NotOwner(bucket.to_owned()) } else { Refusal::Silent });
        }
    }
    if !has_token(headers, &header::CONNECTION, "upgrade") {
        return Err(Refusal::Connection);
    }
    if !has_token(headers, &header::UPGRADE, "websocket") {
        return Err(Refusal::Upgrade);
    }
    if request.method() != Method::GET {
        return Err(Refusal::Method);
    }
    if !has_token(headers, &header::SEC_WEBSOCKET_VERSION, "13") {
        return Err(Refusal::Version);
    }
    if headers.get(header::ORIGIN).is_some_and(|origin| !is_same_origin(origin, host)) {
        return Err(Refusal::Origin);
    }
    let relayed = host.split(['.', ':']).next() != Some(AUTOSCALER_SERVICE);
    let key = headers.get(header::SEC_WEBSOCKET_KEY).map(HeaderValue::as_bytes).unwrap_or_default();
    if !is_key(key) {
        return Err(Refusal::Key);
    }
    let accept = HeaderValue::from_str(&derive_accept_key(key)).map_err(|_| Refusal::Key)?;
    let socket = shared.sockets.clone().try_acquire_owned().map_err(|_| Refusal::Full)?;
    let upgrading = request.extensions_mut().remove::<OnUpgrade>().ok_or(Refusal::Connection)?;
    let place = request.extensions_mut().remove::<Arc<OwnedSemaphorePermit>>();
    let peer = request.extensions().get::<SocketAddr>();
    let peer = peer.map_or_else(|| "unknown".to_owned(), |peer| peer.ip().to_string());
    let span = info_span!("stat socket", peer);
    let session = Session::new(peer.into(), relayed, shared.clone());
    let listening = async move {
        match upgrading.await {
            Ok(upgraded) => session.run(TokioIo::new(upgraded)).await,
            Err(error) => debug!(%error, "handshake not finished"),
        }
        drop((socket, place));
    };
    shared.tasks.spawn(listening.instrument(span));
    let headers = [
        (header::UPGRADE, HeaderValue::from_static("websocket")),
        (header::CONNECTION, HeaderValue::from_static("Upgrade")),
        (header::SEC_WEBSOCKET_ACCEPT, accept),
    ];
    Ok((StatusCode::SWITCHING_PROTOCOLS, headers).into_response())
}

/// Why a request does not become a websocket.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("bucket {0} belongs to another replica now; its Service will lead there")]
    NotOwner(String),
    #[error("")]
    Silent,
    #[error("this port speaks websocket only: the header \"Connection: Upgrade\" is missing")]
    Connection,
    #[error("this port speaks websocket only: the header \"Upgrade: websocket\" is missing")]
    Upgrade,
    #[error("a websocket handshake is a GET")]
    Method,
    #[error("the websocket version spoken here is 13")]
    Version,
    #[error("the Origin is another host")]
    Origin,
    #[error("Sec-WebSocket-Key must be the base64 of 16 bytes")]
    Key,
    #[error("{MOST_SOCKETS} connections are open, and no more are taken")]
    Full,
}

impl Refusal {
    fn status(&self) -> StatusCode {
        match self {
            Self::Silent => StatusCode::OK,
            Self::Connection | Self::Version | Self::Key => StatusCode::BAD_REQUEST,
            Self::Origin => StatusCode::FORBIDDEN,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::Upgrade => StatusCode::UPGRADE_REQUIRED,
            Self::NotOwner(_) | Self::Full => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = self.status();
        if status == StatusCode::OK {
            return status.into_response();
        }
        let mut response = (status, format!("{self}\n")).into_response();
        response.headers_mut().insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        if status == StatusCode::UPGRADE_REQUIRED {
            response.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        }
        response
    }
}

fn host(request: &Request) -> &str {
    // A request in absolute form carries its host in the URL.
    let in_url = request.uri().authority().map(http::uri::Authority::as_str);
    let in_header = || request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    in_url.or_else(in_header).unwrap_or_default()
}

/// Whether a comma-separated header has this token, in any case.
fn has_token(headers: &HeaderMap, name: &header::HeaderName, token: &str) -> bool {
    let mut tokens = headers.get_all(name).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    tokens.any(|this| this.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

/// Whether the host (with port) of an origin is `host`. An origin without one, such as `null`, is not.
fn is_same_origin(origin: &HeaderValue, host: &str) -> bool {
    let Ok(origin) = origin.to_str() else { return false };
    if origin.is_empty() {
        return true;
    }
    let authority = origin.split_once("://").map_or("", |(_, rest)| rest);
    let authority = authority.split(['/', '?', '#']).next().unwrap_or_default();
    let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    authority.eq_ignore_ascii_case(host)
}

/// Whether this is the base64 of 16 bytes: 22 letters and two signs of padding.
fn is_key(key: &[u8]) -> bool {
    let letter = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'+' || *byte == b'/';
    key.len() == 24 && key.ends_with(b"==") && key[..22].iter().all(letter)
}

/// One websocket.
struct Session {
    source: Arc<str>,
    /// See [`Received::relayed`].
    relayed: bool,
    /// The name the peer last reported under, in memory of its own. A slice of a frame would keep the frame.
    reporter: Bytes,
    /// Bad frames since `bad_since`.
    bad: u32,
    bad_since: Timestamp,
    shared: Arc<Shared>,
}

/// Why a connection is closed from our side.
enum Closing {
    /// We are stopping.
    Restarting,
    /// A frame was too long to be read.
    TooBig,
    /// Too many bad frames.
    Abuse,
}

/// What is wrong with a frame, or with messages in it.
#[derive(Debug, thiserror::Error)]
enum Bad {
    #[error("a text frame; stats are binary")]
    Text,
    #[error("a frame of {0} bytes; at most {MOST_FRAME} are decoded")]
    Oversized(usize),
    #[error("a frame of {0} bytes; at most {MOST_READ} are read")]
    Unread(usize),
    #[error("a binary frame: {0}")]
    Undecodable(#[from] DecodeError),
    #[error("{0}")]
    Value(#[from] BadValue),
    #[error("names that no revision or pod can have")]
    Name,
}

/// What became of a frame that could be used.
enum Taken {
    /// All of it is in the queue.
    All,
    /// We are stopping, or nobody takes from the queue any more.
    Stopped,
}

impl Session {
    fn new(source: Arc<str>, relayed: bool, shared: Arc<Shared>) -> Self {
        let bad_since = shared.server.clock.now();
        Self { source, relayed, reporter: Bytes::new(), bad: 0, bad_since, shared }
    }

    async fn run<S>(mut self, io: S)
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let config = WebSocketConfig::default()
            .read_buffer_size(16 << 10)
            .write_buffer_size(1 << 10)
            .max_message_size(Some(MOST_READ))
            .max_frame_size(Some(MOST_READ));
        let mut socket = WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await;
        let counters = self.shared.server.counters.clone();
        count(&counters.connections, 1);
        count(&counters.open, 1);
        debug!("opened");
        if let Some(closing) = self.listen(&mut socket).await {
            goodbye(&mut socket, &closing).await;
        }
        counters.open.fetch_sub(1, Ordering::Relaxed);
        debug!("closed");
    }

    /// Reads until the peer is gone, or there is a reason to close.
    async fn listen<S>(&mut self, socket: &mut WebSocketStream<S>) -> Option<Closing>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let cancel = self.shared.cancel.clone();
        loop {
            let read = tokio::select! {
                biased;
                () = cancel.cancelled() => return Some(Closing::Restarting),
                read = socket.next() => read?,
            };
            let taken = match read {
                Ok(Message::Binary(frame)) => self.take(frame).await,
                Ok(Message::Text(_)) => Err(Bad::Text),
                // Pings are answered, and a Close is returned, by the next call of `next`.
                Ok(_) => continue,
                Err(WsError::Capacity(CapacityError::MessageTooLong { size, .. })) => Err(Bad::Unread(size)),
                Err(error) => {
                    debug!(%error, "connection lost");
                    return None;
                }
            };
            match taken {
                Ok(Taken::All) => count(&self.counters().frames, 1),
                Ok(Taken::Stopped) => return Some(Closing::Restarting),
                Err(bad) => {
                    count(&self.counters().frames, 1);
                    if let Some(closing) = self.complain(&bad) {
                        return Some(closing);
                    }
                }
            }
        }
    }

    /// Hands over what a binary frame holds. What is wrong with one message does not keep the others back.
    async fn take(&mut self, frame: Bytes) -> Result<Taken, Bad> {
        if frame.len() > MOST_FRAME {
            return Err(Bad::Oversized(frame.len()));
        }
        let mut bad = None;
        let mut dropped = 0;
        let came = self.shared.server.clock.now();
        for message in wire::decode_frame(frame)? {
            let received = match self.admit(message, came) {
                Ok(Some(received)) => received,
                Ok(None) => continue,
                Err(error) => {
                    dropped += 1;
                    bad.get_or_insert(error);
                    continue;
                }
            };
            if !self.hand_over(received).await {
                return Ok(Taken::Stopped);
            }
        }
        count(&self.counters().inadmissible, dropped);
        bad.map_or(Ok(Taken::All), Err)
    }

    /// The stat in a message; none if it has none.
    fn admit(&mut self, message: WireStatMessage, came: Timestamp) -> Result<Option<Received>, Bad> {
        let Some(mut stat) = message.stat else { return Ok(None) };
        if self.shared.server.compat.refuse_bad_stats {
            stat.check()?;
        }
        let key = key(&message.namespace, &message.name)?;
        if self.reporter != stat.pod_name {
            if stat.pod_name.len() > MOST_NAME {
                return Err(Bad::Name);
            }
            self.reporter = Bytes::copy_from_slice(&stat.pod_name);
        }
        stat.pod_name = self.reporter.clone();
        Ok(Some(Received { key, stat, source: self.source.clone(), relayed: self.relayed, came }))
    }

    /// Puts a stat in the queue, waiting for a place; false when there is no use in it any more.
    async fn hand_over(&self, received: Received) -> bool {
        let sent = match self.shared.server.queue.try_send(received) {
            Ok(()) => true,
            Err(TrySendError::Closed(_)) => false,
            Err(TrySendError::Full(received)) => tokio::select! {
                () = self.shared.cancel.cancelled() => false,
                sent = self.shared.server.queue.send(received) => sent.is_ok(),
            },
        };
        count(&self.counters().messages, usize::from(sent));
        sent
    }

    /// Counts and logs a bad frame, and says whether it was one too many.
    fn complain(&mut self, bad: &Bad) -> Option<Closing> {
        let counters = self.counters();
        match bad {
            Bad::Text => count(&counters.text, 1),
            Bad::Oversized(_) | Bad::Unread(_) => count(&counters.oversized, 1),
            Bad::Undecodable(_) => count(&counters.undecodable, 1),
            // Counted by the message.
            Bad::Value(_) | Bad::Name => {}
        }
        if let Some(unlogged) = self.shared.limit.allow(&self.source) {
            warn!(error = %bad, unlogged, "dropped what a peer sent");
        }
        if let Bad::Unread(_) = bad {
            return Some(Closing::TooBig);
        }
        let now = self.shared.server.clock.now();
        if now.since(self.bad_since) >= Span::from_seconds(60) {
            self.bad_since = now;
            self.bad = 0;
        }
        self.bad += 1;
        if self.bad <= MOST_BAD {
            return None;
        }
        count(&self.counters().abusive, 1);
        Some(Closing::Abuse)
    }

    fn counters(&self) -> &Counters {
        &self.shared.server.counters
    }
}

/// The key of a revision, if the names can be those of one.
fn key(namespace: &[u8], name: &[u8]) -> Result<RevisionKey, Bad> {
    let text = |bytes| match std::str::from_utf8(bytes) {
        Ok(text) if (1..=MOST_NAME).contains(&text.len()) && !text.contains('/') => Ok(text),
        _ => Err(Bad::Name),
    };
    Ok(RevisionKey::new(text(namespace)?, text(name)?))
}

/// Says why the connection is closed, and gives the peer a moment to read it: with anything of the peer's still unread
/// here, closing at once would have TCP discard what was said.
async fn goodbye<S>(socket: &mut WebSocketStream<S>, closing: &Closing)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (code, reason) = match closing {
        Closing::Restarting => (CloseCode::Restart, "Restarting"),
        Closing::TooBig => (CloseCode::Size, "frame too long"),
        Closing::Abuse => (CloseCode::Policy, "too many bad frames"),
    };
    let parting = async {
        let frame = CloseFrame { code, reason: reason.into() };
        if let Err(error) = socket.send(Message::Close(Some(frame))).await {
            debug!(%error, "close not sent");
            return;
        }
        while let Some(Ok(_)) = socket.next().await {}
        // After a frame that was refused half-way the rest of it has no framing.
        if let Closing::TooBig = closing {
            let discarded = tokio::io::copy(socket.get_mut(), &mut tokio::io::sink()).await;
            debug!(?discarded, "the rest of the frame");
        }
    };
    if timeout(GOODBYE, parting).await.is_err() {
        debug!("the peer did not close in time");
    }
}
