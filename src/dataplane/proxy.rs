//! One streaming reverse proxy for the gateway, the activator and the queue-proxy.
//!
//! Bodies pass frame by frame in both directions, each side's slowness holding the other back; trailers pass; an
//! upgraded connection (a websocket) becomes two sockets joined. HTTP/1.1 and HTTP/2 in, either out.
//!
//! # When a request is sent again
//!
//! A backend that cannot be reached has not seen the request: the caller gets it back whole and may send it elsewhere.
//! On a connection that was kept from an earlier request the backend's closing can cross with our sending. Then the
//! request is sent once more on a new connection when nothing of it can have been acted on: the connection had not
//! started with it, the backend refused the stream, or the method is one that changes nothing (or carries an
//! idempotency key) and no byte of the body was taken. Everything else is a 502: twice is worse than never.

use crate::clock::Clock;
use crate::dataplane::body::{self, Body, Guarded, Outgoing};
use crate::dataplane::headers;
use crate::dataplane::pool::{Connection, Pool, Sender, Stream};
use crate::dataplane::server::Peer;
use http::header::{CONNECTION, HOST, HeaderName, HeaderValue, UPGRADE};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, Version};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use std::error::Error as _;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;

pub use crate::dataplane::pool::{Protocol, Settings};

/// How often one request is put on a connection before its sender is told. More than two only when connections die
/// one after the other without having started.
const MAX_SENDS: u32 = 4;

/// Why a backend gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// No connection: refused, unreachable or too slow. The request has not been seen.
    #[error("{addr} cannot be reached: {source}")]
    Unreachable {
        /// The backend.
        addr: SocketAddr,
        /// What the connection attempt said.
        source: io::Error,
    },
    /// The connection ended before the response began. The request may have been acted on.
    #[error("{addr} closed the connection before it answered: {source}")]
    Lost {
        /// The backend.
        addr: SocketAddr,
        /// What HTTP said.
        source: hyper::Error,
    },
    /// The client went away, or sent nonsense, before all of its request had come. The backend is not to blame.
    #[error("the request broke off before all of it had come: {source}")]
    BrokenOff {
        /// What HTTP said.
        source: hyper::Error,
    },
    /// It switched to a protocol nobody asked for.
    #[error("{addr} switched to a protocol that was not asked for")]
    BadUpgrade {
        /// The backend.
        addr: SocketAddr,
    },
}

impl ForwardError {
    /// What the client is told: 502 and a line of text; 400 where it is its own doing.
    pub fn response(&self) -> Response<Body> {
        let status = if self.is_clients_doing() { StatusCode::BAD_REQUEST } else { StatusCode::BAD_GATEWAY };
        body::text(status, self.to_string())
    }

    /// Whether the client is the reason, and nobody else has to do anything about it.
    pub fn is_clients_doing(&self) -> bool {
        matches!(self, Self::BrokenOff { .. })
    }
}

/// A request that got no answer.
#[derive(Debug)]
pub struct Failure {
    /// Why.
    pub error: ForwardError,
    /// The request itself when the backend cannot have seen it and it is still whole: it may go to another backend.
    pub exchange: Option<Box<Exchange>>,
}

/// A request made ready to be passed on: what is between neighbours taken off, our neighbour's address put on, its
/// body kept safe until a frame of it is taken.
pub struct Exchange {
    method: Method,
    path: PathAndQuery,
    headers: HeaderMap,
    body: Outgoing,
    upgrade: Option<Upgrade>,
}

struct Upgrade {
    to: HeaderValue,
    client: OnUpgrade,
}

impl Exchange {
    /// Makes `request` ready. The address of [`Peer`] in its extensions, if there is one, is added to
    /// `X-Forwarded-For`.
    pub fn new(mut request: Request<Body>) -> Self {
        let upgrade = if request.version() == Version::HTTP_2 {
            None
        } else {
            headers::wanted_upgrade(request.headers())
                .map(|to| Upgrade { to, client: hyper::upgrade::on(&mut request) })
        };
        let host = headers::host(&request);
        let (mut parts, body) = request.into_parts();
        if parts.version == Version::HTTP_2 {
            headers::join_cookies(&mut parts.headers);
        }
        headers::drop_hop_by_hop(&mut parts.headers);
        if let Some(host) = host {
            headers::set_host(&mut parts.headers, host);
        }
        if let Some(Peer(peer)) = parts.extensions.get() {
            headers::add_forwarded_for(&mut parts.headers, peer.ip());
        }
        if let Some(upgrade) = &upgrade {
            parts.headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
            parts.headers.insert(UPGRADE, upgrade.to.clone());
        }
        let path = parts.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        Self { method: parts.method, path, headers: parts.headers, body: Outgoing::new(body), upgrade }
    }

    /// The headers as the backend will see them.
    pub fn headers_mut(&mut self) -> &mut HeaderMap {
        &mut self.headers
    }

    /// Whether the client asked for another protocol, such as a websocket.
    pub fn wants_upgrade(&self) -> bool {
        self.upgrade.is_some()
    }

    /// Whether acting on it twice does no more than acting on it once, in the eyes of HTTP's retry rules: methods that
    /// change nothing, or an idempotency key.
    fn is_idempotent(&self) -> bool {
        const KEYS: [HeaderName; 2] =
            [HeaderName::from_static("idempotency-key"), HeaderName::from_static("x-idempotency-key")];
        matches!(self.method, Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE)
            || KEYS.iter().any(|key| self.headers.contains_key(key))
    }
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange").field("method", &self.method).field("path", &self.path).finish_non_exhaustive()
    }
}

/// The proxy: connections to backends and the websockets under way. Cheap to clone; all clones are one proxy.
#[derive(Clone, Debug)]
pub struct Proxy {
    pool: Arc<Pool>,
    joined: TaskTracker,
    kill: CancellationToken,
}

impl Proxy {
    /// A proxy without connections yet. Needs a tokio runtime.
    pub fn new(clock: Clock, settings: Settings) -> Self {
        Self { pool: Pool::new(clock, settings), joined: TaskTracker::new(), kill: CancellationToken::new() }
    }

    /// Passes `request` on to `to` and its response back.
    ///
    /// `guard` is dropped when the exchange is over: when the response's last byte was taken or given up, when an
    /// upgraded connection has closed, or with an error.
    pub async fn forward<G: Send + Unpin + 'static>(
        &self,
        request: Request<Body>,
        to: SocketAddr,
        protocol: Protocol,
        guard: G,
    ) -> Result<Response<Body>, Failure> {
        if request.method() == Method::CONNECT {
            return Ok(body::text(StatusCode::METHOD_NOT_ALLOWED, "this is no forward proxy: CONNECT is not served"));
        }
        self.send(Exchange::new(request), to, protocol, guard).await
    }

    /// As [`Proxy::forward`], for a request that was made ready before; with it a request that came back whole is sent
    /// elsewhere. A wish to upgrade goes by HTTP/1.1 whatever `protocol` says: HTTP/2 has no upgrade.
    pub async fn send<G: Send + Unpin + 'static>(
        &self,
        mut exchange: Exchange,
        to: SocketAddr,
        protocol: Protocol,
        guard: G,
    ) -> Result<Response<Body>, Failure> {
        let protocol = if exchange.wants_upgrade() { Protocol::Http1 } else { protocol };
        let mut sends = 0;
        loop {
            sends += 1;
            let connection = match self.pool.connection(to, protocol, sends > 1).await {
                Ok(connection) => connection,
                Err(source) => {
                    let error = ForwardError::Unreachable { addr: to, source };
                    return Err(Failure { error, exchange: Some(Box::new(exchange)) });
                }
            };
            let reused = connection.reused;
            let idempotent = exchange.is_idempotent();
            let spare_body = exchange.body.spare();
            // A second sending is only thinkable on a kept connection, or on a shared one that refuses the stream.
            let spare_headers = (reused && idempotent || protocol == Protocol::H2c).then(|| exchange.headers.clone());
            let Exchange { method, path, headers, body, upgrade } = exchange;
            let request = head(&method, &path, headers, to, protocol, body);
            match put(connection, request).await {
                Ok((response, lease)) => return self.relay(response, lease, to, upgrade, guard),
                Err(Unanswered::NotStarted { request, error }) => {
                    let (parts, body) = (*request).into_parts();
                    let mut headers = parts.headers;
                    if protocol == Protocol::H2c
                        && let Some(host) = parts.uri.authority()
                        && let Ok(host) = HeaderValue::from_str(host.as_str())
                    {
                        headers.insert(HOST, host);
                    }
                    exchange = Exchange { method, path, headers, body, upgrade };
                    if sends >= MAX_SENDS {
                        let error = ForwardError::Lost { addr: to, source: error };
                        return Err(Failure { error, exchange: Some(Box::new(exchange)) });
                    }
                }
                Err(Unanswered::Lost(error)) => {
                    let again = sends < MAX_SENDS && (refused(&error) || reused && idempotent && closed(&error));
                    match (again, spare_headers) {
                        (true, Some(headers)) if let Some(body) = spare_body.recover() => {
                            debug!(backend = %to, %error, "kept connection was closed; sending again");
                            exchange = Exchange { method, path, headers, body, upgrade };
                        }
                        _ => {
                            // The only code of ours that hyper runs is the body, and it fails only when the client's does.
                            let error = if error.is_user() {
                                ForwardError::BrokenOff { source: error }
                            } else {
                                ForwardError::Lost { addr: to, source: error }
                            };
                            return Err(Failure { error, exchange: None });
                        }
                    }
                }
            }
        }
    }

    /// Closes kept connections to a backend that is gone.
    pub fn forget(&self, addr: SocketAddr) {
        self.pool.forget(addr);
    }

    /// Unused connections kept.
    pub fn idle_connections(&self) -> usize {
        self.pool.idle()
    }

    /// Upgraded connections under way.
    pub fn upgraded(&self) -> usize {
        self.joined.len()
    }

    /// Waits until every upgraded connection has closed; those begun meanwhile included.
    pub async fn drained(&self) {
        self.joined.close();
        self.joined.wait().await;
    }

    /// Cuts every upgraded connection off.
    pub fn cut_upgraded(&self) {
        self.kill.cancel();
    }

    fn relay<G: Send + Unpin + 'static>(
        &self,
        mut response: Response<Incoming>,
        lease: Lease,
        addr: SocketAddr,
        upgrade: Option<Upgrade>,
        guard: G,
    ) -> Result<Response<Body>, Failure> {
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let to = headers::wanted_upgrade(response.headers());
            let (Some(upgrade), Some(to)) = (upgrade, to) else {
                return Err(Failure { error: ForwardError::BadUpgrade { addr }, exchange: None });
            };
            if !upgrade.to.as_bytes().eq_ignore_ascii_case(to.as_bytes()) {
                return Err(Failure { error: ForwardError::BadUpgrade { addr }, exchange: None });
            }
            let backend = hyper::upgrade::on(&mut response);
            let kill = self.kill.clone();
            self.joined.spawn(async move {
                let _guard = guard;
                tokio::select! {
                    () = join(upgrade.client, backend) => {}
                    () = kill.cancelled() => {}
                }
            });
            headers::drop_hop_by_hop(response.headers_mut());
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
            response.headers_mut().insert(UPGRADE, to);
            return Ok(response.map(|_| body::empty()));
        }
        headers::drop_hop_by_hop(response.headers_mut());
        *response.version_mut() = Version::HTTP_11;
        let held = Held { _guard: guard, lease, addr, pool: Arc::clone(&self.pool) };
        Ok(response.map(|body| body::boxed(Guarded::new(body, held, Held::end).settled())))
    }
}

/// The connection an exchange is on.
enum Lease {
    Http1(http1::SendRequest<Outgoing>),
    H2c { _stream: Stream },
}

/// What a response holds until it is over.
struct Held<G> {
    _guard: G,
    lease: Lease,
    addr: SocketAddr,
    pool: Arc<Pool>,
}

impl<G> Held<G> {
    /// The response was read to its end: an HTTP/1.1 connection can serve the next request.
    fn end(self) {
        if let Lease::Http1(sender) = self.lease {
            self.pool.give_back(self.addr, sender);
        }
    }
}

enum Unanswered {
    /// The connection was closed before it took the request.
    NotStarted { request: Box<Request<Outgoing>>, error: hyper::Error },
    /// The connection failed with the request on it.
    Lost(hyper::Error),
}

async fn put(connection: Connection, request: Request<Outgoing>) -> Result<(Response<Incoming>, Lease), Unanswered> {
    let (sent, lease) = match connection.sender {
        Sender::Http1(mut sender) => (sender.try_send_request(request).await, Lease::Http1(sender)),
        Sender::H2c(mut sender, stream) => (sender.try_send_request(request).await, Lease::H2c { _stream: stream }),
    };
    match sent {
        Ok(response) => Ok((response, lease)),
        Err(mut unsent) => Err(match unsent.take_message() {
            Some(request) => Unanswered::NotStarted { request: Box::new(request), error: unsent.into_error() },
            None => Unanswered::Lost(unsent.into_error()),
        }),
    }
}

fn head(
    method: &Method,
    path: &PathAndQuery,
    mut headers: HeaderMap,
    to: SocketAddr,
    protocol: Protocol,
    body: Outgoing,
) -> Request<Outgoing> {
    let mut request = Request::new(body);
    *request.method_mut() = method.clone();
    match protocol {
        Protocol::Http1 => {
            if !headers.contains_key(HOST)
                && let Ok(host) = HeaderValue::from_str(&to.to_string())
            {
                headers.insert(HOST, host);
            }
            *request.uri_mut() = Uri::from(path.clone());
        }
        Protocol::H2c => {
            *request.version_mut() = Version::HTTP_2;
            let authority = headers.remove(HOST).and_then(|host| Authority::try_from(host.as_bytes()).ok());
            let authority = authority.or_else(|| Authority::try_from(to.to_string()).ok());
            let mut parts = http::uri::Parts::default();
            parts.scheme = Some(Scheme::HTTP);
            parts.authority = authority;
            parts.path_and_query = Some(path.clone());
            *request.uri_mut() = Uri::from_parts(parts).unwrap_or_else(|_| Uri::from(path.clone()));
        }
    }
    *request.headers_mut() = headers;
    request
}

/// Joins the two ends of an upgraded connection until both are done.
async fn join(client: OnUpgrade, backend: OnUpgrade) {
    let (client, backend) = match tokio::try_join!(client, backend) {
        Ok(both) => both,
        Err(error) => {
            debug!(%error, "upgrade not completed");
            return;
        }
    };
    let (mut client, mut backend) = (TokioIo::new(client), TokioIo::new(backend));
    if let Err(error) = tokio::io::copy_bidirectional(&mut client, &mut backend).await {
        debug!(%error, "upgraded connection ended");
    }
}

/// Whether the connection ended while we waited for the first byte of an answer.
fn closed(error: &hyper::Error) -> bool {
    error.is_incomplete_message()
        || error.is_canceled()
        || error.is_closed()
        || source::<h2::Error>(error).is_some()
        || source::<io::Error>(error).is_some_and(|source| {
            matches!(
                source.kind(),
                io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionAborted
            )
        })
}

/// Whether an HTTP/2 backend said that it has not looked at the request.
fn refused(error: &hyper::Error) -> bool {
    source::<h2::Error>(error)
        .is_some_and(|source| source.reason() == Some(h2::Reason::REFUSED_STREAM) || is_shutdown(source))
}

fn source<E: std::error::Error + 'static>(error: &hyper::Error) -> Option<&E> {
    error.source().and_then(|source| source.downcast_ref::<E>())
}

/// A backend that is going away names the last stream it will look at; hyper reports later ones so.
fn is_shutdown(error: &h2::Error) -> bool {
    error.is_go_away() && error.is_remote() && error.reason() == Some(h2::Reason::NO_ERROR)
}
