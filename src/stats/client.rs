//! The durable connection over which an activator, or another autoscaler, reports to an autoscaler.
//!
//! The connection is made in the background and made again whenever it is lost. Nothing is buffered for a connection
//! that is not there: load is worth reporting only while it is fresh, so a send fails at once and the caller goes on to
//! its next report. The times are those of Knative's `pkg/websocket`, because the two ends may be of either kind.

use crate::k8s::dial::Dial;
use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::{interval, sleep, timeout};
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, debug, info, info_span, warn};

/// How long connecting and the handshake may take together.
const HANDSHAKE: Duration = Duration::from_secs(3);
/// How often the peer is pinged: three times within [`SILENCE`].
const PING_EVERY: Duration = Duration::from_millis(3_333);
/// How long the peer may go without a Pong. Nothing else it sends counts.
const SILENCE: Duration = Duration::from_secs(10);
/// Frames that may wait to be written. An activator sends one a second and one for each revision that wakes, so more
/// are waiting only when the peer has stopped reading.
const QUEUE: usize = 256;

/// Sends frames over a connection that [`spawn`] keeps up. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    frames: mpsc::Sender<Bytes>,
    connected: watch::Receiver<bool>,
    failures: Arc<AtomicU64>,
}

impl Handle {
    /// Sends one binary frame, or says at once why not. A frame that was accepted may still be lost with the connection.
    pub fn send(&self, frame: Bytes) -> Result<(), SendError> {
        if !*self.connected.borrow() {
            return Err(SendError::NotConnected);
        }
        self.frames.try_send(frame).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => SendError::Busy,
            mpsc::error::TrySendError::Closed(_) => SendError::NotConnected,
        })
    }

    /// Sends one binary frame, and waits for up to `patience` while the peer does not keep up.
    pub async fn send_within(&self, frame: Bytes, patience: Duration) -> Result<(), SendError> {
        if !*self.connected.borrow() {
            return Err(SendError::NotConnected);
        }
        match timeout(patience, self.frames.send(frame)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(SendError::NotConnected),
            Err(_) => Err(SendError::Busy),
        }
    }

    /// Whether the connection is up, as a value to watch.
    pub fn connected(&self) -> watch::Receiver<bool> {
        self.connected.clone()
    }

    /// How often connecting failed, or a connection was lost.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }
}

/// Why a frame was not sent. It is dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SendError {
    /// There is no connection now.
    #[error("not connected to the autoscaler")]
    NotConnected,
    /// The peer has stopped reading.
    #[error("the connection to the autoscaler is not keeping up")]
    Busy,
}

/// An address that is not `ws://HOST[:PORT][/PATH]`.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0:?} is not a websocket address, such as ws://autoscaler.knative-serving.svc.cluster.local:8080")]
pub struct UrlError(String);

/// Keeps a connection to `url` (`ws://HOST[:PORT]`) until `cancel`, in a task of its own.
pub fn spawn(url: &str, dial: Arc<dyn Dial>, cancel: CancellationToken) -> Result<Handle, UrlError> {
    let peer = Peer::parse(url)?;
    let (frames, queue) = mpsc::channel(QUEUE);
    let (up, connected) = watch::channel(false);
    let span = info_span!("stat connection", url);
    let failures = Arc::new(AtomicU64::new(0));
    tokio::spawn(keep(peer, dial, queue, (up, Arc::clone(&failures)), cancel).instrument(span));
    Ok(Handle { frames, connected, failures })
}

/// Where to connect.
struct Peer {
    url: String,
    host: String,
    port: u16,
}

impl Peer {
    fn parse(url: &str) -> Result<Self, UrlError> {
        let bad = || UrlError(url.to_owned());
        let uri: http::Uri = url.parse().map_err(|_| bad())?;
        let host = uri.host().filter(|host| !host.is_empty() && uri.scheme_str() == Some("ws")).ok_or_else(bad)?;
        Ok(Self {
            url: url.to_owned(),
            host: host.trim_start_matches('[').trim_end_matches(']').to_owned(),
            port: uri.port_u16().unwrap_or(80),
        })
    }

    async fn connect(&self, dial: &dyn Dial) -> Result<WebSocketStream<TcpStream>, ConnectError> {
        let request = self.url.as_str().into_client_request()?;
        // The peer never sends data, so small buffers do.
        let config = WebSocketConfig::default().read_buffer_size(4 << 10).max_message_size(Some(64 << 10));
        let connecting = async {
            let stream = dial.dial(&self.host, self.port).await?;
            let (socket, _response) = client_async_with_config(request, stream, Some(config)).await?;
            Ok(socket)
        };
        timeout(HANDSHAKE, connecting).await.unwrap_or(Err(ConnectError::Slow))
    }
}

#[derive(Debug, thiserror::Error)]
enum ConnectError {
    #[error("cannot connect: {0}")]
    Dial(#[from] std::io::Error),
    #[error("handshake refused: {0}")]
    Handshake(#[from] tungstenite::Error),
    #[error("no answer within {HANDSHAKE:?}")]
    Slow,
}

/// How a connection ended.
enum End {
    /// We were told to stop.
    Cancelled,
    /// It was lost; `proven` when the peer had answered a ping before.
    Lost { proven: bool },
}

async fn keep(
    peer: Peer,
    dial: Arc<dyn Dial>,
    mut frames: mpsc::Receiver<Bytes>,
    (up, failures): (watch::Sender<bool>, Arc<AtomicU64>),
    cancel: CancellationToken,
) {
    let mut backoff = Backoff::default();
    loop {
        let connecting = tokio::select! {
            () = cancel.cancelled() => return,
            connecting = peer.connect(&*dial) => connecting,
        };
        match connecting {
            Ok(socket) => {
                // What was accepted for the last connection and not written is old by now.
                while frames.try_recv().is_ok() {}
                up.send_replace(true);
                info!("connected");
                let end = converse(socket, &mut frames, &cancel).await;
                up.send_replace(false);
                if matches!(end, End::Lost { .. }) {
                    failures.fetch_add(1, Ordering::Relaxed);
                }
                match end {
                    End::Cancelled => return,
                    // A peer that worked is called again at once: it has told us that it is restarting.
                    End::Lost { proven: true } => {
                        backoff = Backoff::default();
                        continue;
                    }
                    End::Lost { proven: false } => {}
                }
            }
            Err(error) => {
                failures.fetch_add(1, Ordering::Relaxed);
                debug!(%error, "not connected");
            }
        }
        tokio::select! {
            () = cancel.cancelled() => return,
            () = sleep(backoff.next()) => {}
        }
    }
}

/// Writes frames and pings, and listens for Pongs, until the connection ends.
async fn converse(
    mut socket: WebSocketStream<TcpStream>,
    frames: &mut mpsc::Receiver<Bytes>,
    cancel: &CancellationToken,
) -> End {
    let mut proven = false;
    let mut pings = interval(PING_EVERY);
    let silence = sleep(SILENCE);
    tokio::pin!(silence);
    loop {
        let message = tokio::select! {
            () = cancel.cancelled() => {
                let goodbye = CloseFrame { code: CloseCode::Normal, reason: "".into() };
                let closing = timeout(Duration::from_secs(1), socket.close(Some(goodbye))).await;
                debug!(?closing, "closed");
                return End::Cancelled;
            }
            () = &mut silence => {
                warn!("no pong for {SILENCE:?}");
                return End::Lost { proven };
            }
            read = socket.next() => {
                match read {
                    Some(Ok(Message::Pong(_))) => {
                        proven = true;
                        silence.set(sleep(SILENCE));
                    }
                    Some(Ok(Message::Close(frame))) => {
                        let reason = frame.map(|frame| frame.to_string()).unwrap_or_default();
                        info!(reason, "closed by the peer");
                        return End::Lost { proven };
                    }
                    Some(Ok(_)) => {}
                    Some(Err(error)) => {
                        info!(%error, "connection lost");
                        return End::Lost { proven };
                    }
                    None => return End::Lost { proven },
                }
                continue;
            }
            _ = pings.tick() => Message::Ping(Bytes::new()),
            Some(frame) = frames.recv() => Message::Binary(frame),
        };
        match timeout(SILENCE, socket.send(message)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                info!(%error, "connection lost");
                return End::Lost { proven };
            }
            Err(_) => {
                warn!("the peer has not read for {SILENCE:?}");
                return End::Lost { proven };
            }
        }
    }
}

/// 100 ms · 1.3ᵏ and up to half as much again, twenty times, then from the start.
#[derive(Default)]
struct Backoff {
    step: u32,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(100);
    const FACTOR: f64 = 1.3;
    const JITTER: f64 = 0.5;
    const STEPS: u32 = 20;

    fn next(&mut self) -> Duration {
        let exponent = i32::try_from(self.step).unwrap_or(0);
        self.step = (self.step + 1) % Self::STEPS;
        Self::FIRST.mul_f64(Self::FACTOR.powi(exponent) * (1.0 + Self::JITTER * rand::random::<f64>()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn back_off_grows_and_starts_over() {
        let mut backoff = Backoff::default();
        let waits: Vec<f64> = (0..21).map(|_| backoff.next().as_secs_f64()).collect();
        for (k, wait) in (0..20).zip(&waits) {
            let least = 0.1 * 1.3f64.powi(k);
            assert!(least - 1e-6 <= *wait && *wait <= least * 1.5 + 1e-6, "step {k}: {wait}");
        }
        assert!(waits[20] <= 0.15 + 1e-6, "after twenty steps it starts over: {}", waits[20]);
    }

    #[test]
    fn addresses_are_checked_before_anything_is_dialled() {
        for (url, host, port) in [
            (
                "ws://autoscaler.knative-serving.svc.cluster.local:8080",
                "autoscaler.knative-serving.svc.cluster.local",
                8080,
            ),
            ("ws://10.0.0.1:8080/", "10.0.0.1", 8080),
            ("ws://[fd00::1]:8080", "fd00::1", 8080),
            ("ws://autoscaler", "autoscaler", 80),
        ] {
            let peer = Peer::parse(url).expect(url);
            assert_eq!((peer.host.as_str(), peer.port), (host, port), "{url}");
        }
        for url in ["", "autoscaler:8080", "http://autoscaler:8080", "ws://", "ws:///x"] {
            assert!(Peer::parse(url).is_err(), "{url}");
        }
    }
}
