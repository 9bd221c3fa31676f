//! Listeners: HTTP/1.1 and cleartext HTTP/2 on one port, upgrades, an orderly end.

use crate::dataplane::body::{Body, boxed};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use socket2::{SockRef, TcpKeepalive};
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

/// Connections a listener serves at once unless told otherwise; more wait in the kernel's backlog.
pub const MAX_CONNECTIONS: usize = 20_000;

/// How long a connection may take to send the head of its next request, waiting idle included. Longer than clients and
/// load balancers keep idle connections (60 to 90 s), so that it is they who close them and never we, under a request
/// that is on its way.
const HEAD_TIMEOUT: Duration = Duration::from_mins(2);

/// How long a client may take to agree on TLS.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Streams one HTTP/2 connection may have open. The limit that counts is the container's; this one only bounds memory.
const MAX_STREAMS: u32 = 1000;

/// The largest head of a request over HTTP/2, in bytes. HTTP/1.1 has hyper's own limit of about 400 kB.
const MAX_HEADER_LIST: u32 = 64 * 1024;

/// How long a connection is silent before the kernel asks whether the peer is still there, and again.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// How long a connection that has brought no request yet may still bring its first once no more are accepted: its client
/// could not know. Closed at once, it would be reset under a request that is on its way.
const FIRST_REQUEST: Duration = Duration::from_secs(1);

/// How long accepting rests when the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// Who sent a request: in the extensions of each one that comes from a listener here.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);

/// How a listener ends.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    /// No new connections; those there are finish what they are at.
    pub drain: CancellationToken,
    /// What is left is cut off.
    pub kill: CancellationToken,
}

/// Serves every connection to `listener` with `handler` until `stop.drain`, then finishes what is being answered.
///
/// Returns when the last connection is gone, at once after `stop.kill`. A connection that became something else by an
/// upgrade is no longer the listener's.
pub async fn serve<F, A>(listener: TcpListener, max_connections: usize, handler: F, stop: Stop)
where
    F: Fn(Request<Body>) -> A + Clone + Send + Sync + 'static,
    A: Future<Output = Response<Body>> + Send + 'static,
{
    listen(listener, max_connections, handler, stop, |stream| std::future::ready(Some(stream))).await;
}

/// The same over TLS.
pub async fn serve_tls<F, A>(listener: TcpListener, max_connections: usize, tls: TlsAcceptor, handler: F, stop: Stop)
where
    F: Fn(Request<Body>) -> A + Clone + Send + Sync + 'static,
    A: Future<Output = Response<Body>> + Send + 'static,
{
    let shake = move |stream| {
        let shaking = timeout(HANDSHAKE_TIMEOUT, tls.accept(stream));
        async move {
            match shaking.await {
                Ok(shaken) => shaken.inspect_err(|error| debug!(%error, "no TLS with a client")).ok(),
                Err(_) => None,
            }
        }
    };
    listen(listener, max_connections, handler, stop, shake).await;
}

async fn listen<F, A, W, O, S>(listener: TcpListener, max_connections: usize, handler: F, stop: Stop, wrap: W)
where
    F: Fn(Request<Body>) -> A + Clone + Send + Sync + 'static,
    A: Future<Output = Response<Body>> + Send + 'static,
    W: Fn(TcpStream) -> O,
    O: Future<Output = Option<S>> + Send + 'static,
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let room = Arc::new(Semaphore::new(max_connections.clamp(1, Semaphore::MAX_PERMITS)));
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            biased;
            // Before draining: a connection the kernel has already taken would be reset when the listener closes.
            accepted = accept(&listener, &room) => accepted,
            () = stop.drain.cancelled() => break,
            () = stop.kill.cancelled() => break,
        };
        match accepted {
            Ok((stream, peer, permit)) => {
                tune(&stream);
                let (wrapped, handler, stop) = (wrap(stream), handler.clone(), stop.clone());
                connections.spawn(async move {
                    let wrapped = tokio::select! {
                        wrapped = wrapped => wrapped,
                        () = stop.kill.cancelled() => None,
                    };
                    if let Some(stream) = wrapped {
                        connection(stream, peer, handler, stop, permit).await;
                    }
                });
            }
            Err(error) => {
                warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    connections.close();
    tokio::select! {
        () = connections.wait() => {}
        () = stop.kill.cancelled() => {}
    }
}

/// Small writes leave at once, and a peer that vanished without a word is noticed. A failure to set either costs
/// latency, or a socket for a while.
pub(crate) fn tune(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    let keep_alive = TcpKeepalive::new().with_time(KEEP_ALIVE).with_interval(KEEP_ALIVE);
    let _ = SockRef::from(stream).set_tcp_keepalive(&keep_alive);
}

async fn accept(
    listener: &TcpListener,
    room: &Arc<Semaphore>,
) -> std::io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let permit = Arc::clone(room).acquire_owned().await.map_err(std::io::Error::other)?;
    let (stream, peer) = listener.accept().await?;
    Ok((stream, peer, permit))
}

async fn connection<F, A, S>(stream: S, peer: SocketAddr, handler: F, stop: Stop, _permit: OwnedSemaphorePermit)
where
    F: Fn(Request<Body>) -> A + Clone + Send + Sync + 'static,
    A: Future<Output = Response<Body>> + Send + 'static,
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let begun = CancellationToken::new();
    let first = begun.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        first.cancel();
        let mut request = request.map(boxed);
        request.extensions_mut().insert(Peer(peer));
        let answer = handler(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(MAX_STREAMS).max_header_list_size(MAX_HEADER_LIST);
    let mut serving = pin!(builder.serve_connection_with_upgrades(TokioIo::new(stream), service));
    let drained = async {
        stop.drain.cancelled().await;
        // Begun or not, it ends in order from here on.
        let _ = timeout(FIRST_REQUEST, begun.cancelled()).await;
    };
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = stop.kill.cancelled() => return,
        () = drained => {
            serving.as_mut().graceful_shutdown();
            tokio::select! {
                ended = serving.as_mut() => ended,
                () = stop.kill.cancelled() => return,
            }
        }
    };
    if let Err(error) = ended {
        debug!(%peer, error, "connection ended");
    }
}
