//! Connections to backends, kept for the next request.
//!
//! Ours rather than a general client's, because the proxy must know what a general client hides: whether a connection
//! was used before, and that a request which never reached its backend is still whole and may go elsewhere.

use crate::clock::Clock;
use crate::dataplane::body::Outgoing;
use crate::dataplane::server::tune;
use crate::units::{Span, Timestamp};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::TcpStream;
use tracing::debug;

/// Streams put on one HTTP/2 connection before another is opened. The least that HTTP/2 recommends a server to allow;
/// beyond what it allows requests would wait unseen.
const STREAMS_PER_CONNECTION: usize = 100;

/// What is spoken to a backend.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Protocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2 without TLS, known beforehand.
    H2c,
}

impl Protocol {
    /// The protocol a request came by, which is the one Knative's proxies pass it on with.
    pub fn of(version: http::Version) -> Self {
        if version == http::Version::HTTP_2 { Self::H2c } else { Self::Http1 }
    }
}

/// How connections are made and kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// How long establishing a connection may take.
    pub connect_timeout: Duration,
    /// How long an unused connection is kept. Shorter than any server here keeps its side.
    pub idle_timeout: Duration,
    /// Unused connections kept per backend; more are closed when they come back.
    pub max_idle_per_backend: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(3),
            idle_timeout: Duration::from_secs(90),
            max_idle_per_backend: 100,
        }
    }
}

/// Connections by backend.
pub(crate) struct Pool {
    clock: Clock,
    settings: Settings,
    backends: Mutex<HashMap<SocketAddr, Backend>>,
}

#[derive(Default)]
struct Backend {
    idle: Vec<Idle>,
    shared: Vec<Shared>,
    /// Held while an HTTP/2 connection is being made, so that a burst shares it.
    connecting: Arc<tokio::sync::Mutex<()>>,
}

struct Idle {
    sender: http1::SendRequest<Outgoing>,
    since: Timestamp,
}

#[derive(Clone)]
struct Shared {
    sender: http2::SendRequest<Outgoing>,
    streams: Arc<AtomicUsize>,
    since: Timestamp,
}

/// A connection for one exchange.
pub(crate) struct Connection {
    pub(crate) sender: Sender,
    /// Whether it carried requests before; then the backend may have closed it without our knowing.
    pub(crate) reused: bool,
}

pub(crate) enum Sender {
    Http1(http1::SendRequest<Outgoing>),
    H2c(http2::SendRequest<Outgoing>, Stream),
}

/// One stream of a shared connection, given back when dropped.
pub(crate) struct Stream(Arc<AtomicUsize>);

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("settings", &self.settings).field("idle", &self.idle()).finish_non_exhaustive()
    }
}

impl Pool {
    /// An empty pool, and a task that clears out what nobody used for a while. Needs a tokio runtime.
    pub(crate) fn new(clock: Clock, settings: Settings) -> Arc<Self> {
        let pool = Arc::new(Self { clock, settings, backends: Mutex::default() });
        let weak = Arc::downgrade(&pool);
        let every = (settings.idle_timeout / 3).max(Duration::from_secs(1));
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(every).await;
                let Some(pool) = weak.upgrade() else { return };
                pool.prune();
            }
        });
        pool
    }

    /// A connection to `addr`: a kept one, unless `fresh`, or a new one.
    pub(crate) async fn connection(&self, addr: SocketAddr, protocol: Protocol, fresh: bool) -> io::Result<Connection> {
        match protocol {
            Protocol::Http1 => {
                if !fresh && let Some(sender) = self.take_idle(addr) {
                    return Ok(Connection { sender: Sender::Http1(sender), reused: true });
                }
                let sender = self.connect_http1(addr).await?;
                Ok(Connection { sender: Sender::Http1(sender), reused: false })
            }
            Protocol::H2c => {
                if !fresh && let Some(connection) = self.open_stream(addr) {
                    return Ok(connection);
                }
                let connecting = Arc::clone(&self.lock().entry(addr).or_default().connecting);
                let _only_one = connecting.lock().await;
                // Whoever was here first may have made the connection we need.
                if !fresh && let Some(connection) = self.open_stream(addr) {
                    return Ok(connection);
                }
                let sender = self.connect_h2c(addr).await?;
                let shared = Shared { sender, streams: Arc::default(), since: self.clock.now() };
                let stream = shared.stream();
                self.lock().entry(addr).or_default().shared.push(shared.clone());
                Ok(Connection { sender: Sender::H2c(shared.sender, stream), reused: false })
            }
        }
    }

    /// Takes back a connection whose exchange is over, once it is ready for the next one.
    pub(crate) fn give_back(self: &Arc<Self>, addr: SocketAddr, mut sender: http1::SendRequest<Outgoing>) {
        if sender.is_ready() {
            self.keep(addr, sender);
            return;
        }
        if sender.is_closed() {
            return;
        }
        // The response is over; the connection may still be sending the end of the request.
        let pool = Arc::downgrade(self);
        tokio::spawn(async move {
            if sender.ready().await.is_ok()
                && let Some(pool) = pool.upgrade()
            {
                pool.keep(addr, sender);
            }
        });
    }

    /// Closes what is kept for `addr`; exchanges under way go on.
    pub(crate) fn forget(&self, addr: SocketAddr) {
        self.lock().remove(&addr);
    }

    /// How many unused connections are kept.
    pub(crate) fn idle(&self) -> usize {
        self.lock().values().map(|backend| backend.idle.len()).sum()
    }

    fn keep(&self, addr: SocketAddr, sender: http1::SendRequest<Outgoing>) {
        let since = self.clock.now();
        let mut backends = self.lock();
        let backend = backends.entry(addr).or_default();
        if backend.idle.len() < self.settings.max_idle_per_backend {
            backend.idle.push(Idle { sender, since });
        }
    }

    fn take_idle(&self, addr: SocketAddr) -> Option<http1::SendRequest<Outgoing>> {
        let expired = self.expired();
        let mut backends = self.lock();
        let backend = backends.get_mut(&addr)?;
        // The one used last is the one most likely to be alive.
        while let Some(idle) = backend.idle.pop() {
            if idle.since > expired && idle.sender.is_ready() {
                return Some(idle.sender);
            }
        }
        None
    }

    fn open_stream(&self, addr: SocketAddr) -> Option<Connection> {
        let now = self.clock.now();
        let mut backends = self.lock();
        let backend = backends.get_mut(&addr)?;
        backend.shared.retain(|shared| !shared.sender.is_closed());
        let shared = backend.shared.iter_mut().find(|shared| shared.has_room())?;
        shared.since = now;
        let stream = shared.stream();
        Some(Connection { sender: Sender::H2c(shared.sender.clone(), stream), reused: true })
    }

    async fn connect_http1(&self, addr: SocketAddr) -> io::Result<http1::SendRequest<Outgoing>> {
        let stream = self.connect(addr).await?;
        let (mut sender, connection) =
            http1::Builder::new().handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                debug!(backend = %addr, %error, "connection ended");
            }
        });
        sender.ready().await.map_err(io::Error::other)?;
        Ok(sender)
    }

    async fn connect_h2c(&self, addr: SocketAddr) -> io::Result<http2::SendRequest<Outgoing>> {
        let stream = self.connect(addr).await?;
        let (mut sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .handshake(TokioIo::new(stream))
            .await
            .map_err(io::Error::other)?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                debug!(backend = %addr, %error, "connection ended");
            }
        });
        sender.ready().await.map_err(io::Error::other)?;
        Ok(sender)
    }

    async fn connect(&self, addr: SocketAddr) -> io::Result<TcpStream> {
        let stream = tokio::time::timeout(self.settings.connect_timeout, TcpStream::connect(addr))
            .await
            .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "no connection within the time allowed"))??;
        tune(&stream);
        Ok(stream)
    }

    fn prune(&self) {
        let expired = self.expired();
        self.lock().retain(|_, backend| {
            backend.idle.retain(|idle| idle.since > expired && !idle.sender.is_closed());
            backend.shared.retain(|shared| {
                !shared.sender.is_closed() && (shared.since > expired || shared.streams.load(Ordering::Relaxed) > 0)
            });
            !backend.idle.is_empty() || !backend.shared.is_empty() || Arc::strong_count(&backend.connecting) > 1
        });
    }

    fn expired(&self) -> Timestamp {
        self.clock.now() - Span::from_std(self.settings.idle_timeout)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SocketAddr, Backend>> {
        self.backends.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    fn has_room(&self) -> bool {
        self.streams.load(Ordering::Relaxed) < STREAMS_PER_CONNECTION
    }

    fn stream(&self) -> Stream {
        self.streams.fetch_add(1, Ordering::Relaxed);
        Stream(Arc::clone(&self.streams))
    }
}
