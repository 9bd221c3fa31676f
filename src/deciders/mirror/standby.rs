//! The standby's side: keeps a mirror of each bucket another replica holds, and hands it out when the bucket becomes
//! ours.

use super::frame::{self, Frame, FrameError};
use super::serve::ANSWERS;
use super::{Mirror, MirrorError, Unusable};
use crate::clock::Clock;
use crate::engine::Revision;
use crate::k8s::dial::Dial;
use crate::observe::metrics::{Page, Source, count};
use crate::ownership::holder::{Holder, Remote};
use crate::ownership::ring::Ring;
use crate::units::{Compat, RevisionKey};
use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument as _, debug, info, info_span, warn};

/// When a holder that is no Ebb of this version, or sent what cannot be, is asked again.
pub const ASK_AGAIN: Duration = Duration::from_mins(1);
/// When a holder that could not be reached is asked again: at first, and at most.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// How long connecting and the handshake may take together.
const HANDSHAKE: Duration = Duration::from_secs(3);
/// A holder sends something each second; after this long without, the connection is made anew.
const SILENCE: Duration = Duration::from_secs(5);

/// The mirrors of a process. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Standby {
    shared: Arc<Shared>,
}

struct Shared {
    ring: Ring,
    clock: Clock,
    compat: Compat,
    dial: Arc<dyn Dial>,
    slots: Vec<Mutex<Option<Mirror>>>,
    counters: Counters,
}

/// What happened since the start.
#[derive(Debug, Default)]
pub struct Counters {
    /// Connections made to holders that have a mirror to offer.
    pub connections: AtomicU64,
    /// Holders asked that have none, or would not give it.
    pub refused: AtomicU64,
    /// Frames received.
    pub frames: AtomicU64,
    /// Bytes in them.
    pub bytes: AtomicU64,
    /// Frames that could not be, each of which ended a connection.
    pub bad_frames: AtomicU64,
    /// Mirrors gone on with.
    pub activated: AtomicU64,
    /// Buckets that became ours and had no mirror.
    pub missing: AtomicU64,
    /// Buckets that became ours and whose mirror could not be used.
    pub unusable: AtomicU64,
}

impl fmt::Debug for Standby {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Standby").field("counters", &self.shared.counters).finish_non_exhaustive()
    }
}

impl Source for Standby {
    fn show(&self, page: &mut Page<'_>) {
        let counters = self.counters();
        page.gauge(
            "ebb_mirrored_revisions",
            "Revisions of other replicas' buckets that are mirrored.",
            self.revisions(),
        );
        page.counter(
            "ebb_mirror_connections_total",
            "Connections made to replicas that hold a bucket and have a mirror to offer.",
            count(&counters.connections),
        );
        page.counter(
            "ebb_mirror_connections_refused_total",
            "Replicas asked for a mirror that have none to offer, or would not give it.",
            count(&counters.refused),
        );
        page.counter("ebb_mirror_frames_received_total", "Frames of mirrors received.", count(&counters.frames));
        page.counter("ebb_mirror_bytes_received_total", "Bytes of the frames received.", count(&counters.bytes));
        page.counter(
            "ebb_mirror_frames_refused_total",
            "Frames that could not be; each ended a connection.",
            count(&counters.bad_frames),
        );
        page.counters(
            "ebb_mirror_takeovers_total",
            "Buckets that became this replica's, by what came of their mirror.",
            ["mirror"],
            [
                (["used"], count(&counters.activated)),
                (["missing"], count(&counters.missing)),
                (["unusable"], count(&counters.unusable)),
            ],
        );
    }
}

/// What is known of a bucket that has become ours.
#[derive(Debug)]
pub struct Taken {
    /// Its revisions.
    pub revisions: HashMap<RevisionKey, Revision>,
    /// Whether load was reported on the way that nobody took in.
    pub lossy: bool,
}

impl Standby {
    /// No mirror yet.
    pub fn new(ring: Ring, clock: Clock, compat: Compat, dial: Arc<dyn Dial>) -> Self {
        let slots = (0..ring.buckets()).map(|_| Mutex::default()).collect();
        Self { shared: Arc::new(Shared { ring, clock, compat, dial, slots, counters: Counters::default() }) }
    }

    /// Follows each bucket for as long as another replica holds it, until `cancel`. `holders` tells for each bucket who
    /// does.
    pub fn start(&self, holders: Vec<watch::Receiver<Holder>>, tasks: &TaskTracker, cancel: &CancellationToken) {
        for (bucket, holder) in holders.into_iter().enumerate().take(self.shared.slots.len()) {
            let (this, cancel) = (self.clone(), cancel.clone());
            let span = info_span!("mirror", bucket = self.shared.ring.names()[bucket]);
            let following = async move {
                tokio::select! {
                    () = cancel.cancelled() => {}
                    () = this.follow(bucket, holder) => {}
                }
            };
            tasks.spawn(following.instrument(span));
        }
    }

    /// Hands out what is mirrored of a bucket that has become ours, if it can be used. What there was is forgotten.
    pub fn take(&self, bucket: usize) -> Option<Taken> {
        let counters = &self.shared.counters;
        let bucket_name = &self.shared.ring.names()[bucket];
        let Some(mirror) = self.slot(bucket).take() else {
            counters.missing.fetch_add(1, Ordering::Relaxed);
            info!(bucket = bucket_name, "no mirror of the bucket; starting with empty windows");
            return None;
        };
        let now = self.shared.clock.now();
        let (ended, lossy) = (mirror.is_ended(), mirror.is_lossy(now));
        match mirror.activate(now) {
            Ok(revisions) => {
                counters.activated.fetch_add(1, Ordering::Relaxed);
                info!(
                    bucket = bucket_name,
                    revisions = revisions.len(),
                    ended,
                    lossy,
                    "going on with the mirror of the bucket"
                );
                Some(Taken { revisions, lossy })
            }
            Err(unusable) => {
                counters.unusable.fetch_add(1, Ordering::Relaxed);
                warn!(bucket = bucket_name, %unusable, "the mirror of the bucket is not used; starting with empty windows");
                None
            }
        }
    }

    /// Keeps what this replica itself knew of a bucket it has just lost, in case it comes back.
    pub fn keep(&self, bucket: usize, revisions: Vec<(RevisionKey, Revision)>) {
        let now = self.shared.clock.now();
        *self.slot(bucket) = Some(Mirror::of_our_own(bucket, revisions, now));
    }

    /// Whether the mirror of a bucket could be used now, as far as it is known, and why not.
    pub fn state(&self, bucket: usize) -> Option<Result<(), Unusable>> {
        self.slot(bucket).as_ref().map(|mirror| mirror.usable(self.shared.clock.now()))
    }

    /// What happened since the start.
    pub fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    /// Revisions mirrored now.
    fn revisions(&self) -> usize {
        (0..self.shared.slots.len()).map(|bucket| self.slot(bucket).as_ref().map_or(0, Mirror::len)).sum()
    }

    fn slot(&self, bucket: usize) -> MutexGuard<'_, Option<Mirror>> {
        self.shared.slots[bucket].lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn follow(&self, bucket: usize, mut holder: watch::Receiver<Holder>) {
        let mut retry = RETRY.0;
        loop {
            let present = holder.borrow_and_update().clone();
            let Holder::Remote(remote) = present else {
                retry = RETRY.0;
                if holder.changed().await.is_err() {
                    return;
                }
                continue;
            };
            let pause = match self.connect(bucket, &remote).await {
                Ok(socket) => {
                    self.shared.counters.connections.fetch_add(1, Ordering::Relaxed);
                    info!(holder = remote.name, "mirroring");
                    let end = self.mirror(bucket, socket, &mut holder).await;
                    match end {
                        Err(Lost::Bad(error)) => {
                            self.shared.counters.bad_frames.fetch_add(1, Ordering::Relaxed);
                            *self.slot(bucket) = None;
                            warn!(holder = remote.name, %error, "what the holder sent cannot be; its mirror is dropped");
                            ASK_AGAIN
                        }
                        Err(error) => {
                            debug!(holder = remote.name, %error, "not mirroring any more");
                            RETRY.0
                        }
                        Ok(()) => {
                            debug!(holder = remote.name, "not mirroring any more");
                            RETRY.0
                        }
                    }
                }
                Err(NotConnected::NotEbb) => {
                    self.shared.counters.refused.fetch_add(1, Ordering::Relaxed);
                    info!(holder = remote.name, "the holder has no mirror to offer; asked again in {ASK_AGAIN:?}");
                    ASK_AGAIN
                }
                Err(error) => {
                    self.shared.counters.refused.fetch_add(1, Ordering::Relaxed);
                    debug!(holder = remote.name, %error, "not connected");
                    let pause = retry;
                    retry = (retry * 2).min(RETRY.1);
                    pause
                }
            };
            let spread = pause.mul_f64(0.5 * rand::random::<f64>());
            tokio::select! {
                () = sleep(pause + spread) => {}
                changed = holder.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Applies what comes until the holder ends it, is lost, or the bucket is ours.
    async fn mirror(
        &self,
        bucket: usize,
        mut socket: WebSocketStream<TcpStream>,
        holder: &mut watch::Receiver<Holder>,
    ) -> Result<(), Lost> {
        // The one before stays in its place until this one is complete.
        let mut fresh = Some(Mirror::new(bucket, self.shared.clock.now()));
        loop {
            let read = tokio::select! {
                read = timeout(SILENCE, socket.next()) => read.map_err(|_| Lost::Silent)?.ok_or(Lost::Closed)?,
                changed = holder.changed() => {
                    // When nobody signs any more, what the last holder still sends is as good as it was.
                    if changed.is_ok() && *holder.borrow() == Holder::Nobody {
                        continue;
                    }
                    holder.mark_changed();
                    return Ok(());
                }
            };
            match read? {
                Message::Binary(bytes) => self.take_in(bucket, &mut fresh, &bytes)?,
                // Answered with the next read.
                Message::Close(_) => {
                    socket.flush().await?;
                    while let Ok(Some(Ok(_))) = timeout(HANDSHAKE, socket.next()).await {}
                    return Ok(());
                }
                _ => {}
            }
        }
    }

    fn take_in(&self, bucket: usize, fresh: &mut Option<Mirror>, bytes: &Bytes) -> Result<(), Lost> {
        let shared = &self.shared;
        shared.counters.frames.fetch_add(1, Ordering::Relaxed);
        shared.counters.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        let frame = Frame::read(bytes)?;
        let now = shared.clock.now();
        if frame.afresh {
            *fresh = Some(Mirror::new(bucket, now));
        }
        let mut slot = self.slot(bucket);
        if let Some(mirror) = fresh {
            mirror.take_in(frame, now, &shared.ring, shared.compat)?;
            if mirror.is_complete() {
                debug!(revisions = mirror.len(), "the mirror is complete");
                *slot = fresh.take();
            }
        } else if let Some(mirror) = slot.as_mut() {
            mirror.take_in(frame, now, &shared.ring, shared.compat)?;
        }
        Ok(())
    }

    async fn connect(&self, bucket: usize, remote: &Remote) -> Result<WebSocketStream<TcpStream>, NotConnected> {
        let mut last = NotConnected::Slow;
        for url in &remote.urls {
            let connecting = self.handshake(bucket, url);
            match timeout(HANDSHAKE, connecting).await.unwrap_or(Err(NotConnected::Slow)) {
                Ok(socket) => return Ok(socket),
                // Who answers is the holder, whatever it answers.
                Err(error @ (NotConnected::NotEbb | NotConnected::Refused(..))) => return Err(error),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn handshake(&self, bucket: usize, url: &str) -> Result<WebSocketStream<TcpStream>, NotConnected> {
        let name: String =
            self.shared.ring.names()[bucket].bytes().flat_map(|byte| percent(byte).into_iter().flatten()).collect();
        let url = format!("{url}{}?bucket={name}&version={}", frame::PATH, frame::VERSION);
        let mut request = url.as_str().into_client_request()?;
        let protocol = http::HeaderValue::from_static(frame::PROTOCOL);
        request.headers_mut().insert(http::header::SEC_WEBSOCKET_PROTOCOL, protocol);
        let host = request.uri().host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let stream = self.shared.dial.dial(&host, request.uri().port_u16().unwrap_or(80)).await?;
        let config = WebSocketConfig::default()
            .max_message_size(Some(frame::MOST_FRAME))
            .max_frame_size(Some(frame::MOST_FRAME));
        match client_async_with_config(request, stream, Some(config)).await {
            Ok((socket, _response)) => Ok(socket),
            // Accepted as an activator would be, or refused by somebody who does not know the question.
            Err(tungstenite::Error::Protocol(ProtocolError::SecWebSocketSubProtocolError(_))) => {
                Err(NotConnected::NotEbb)
            }
            Err(tungstenite::Error::Http(response)) => {
                let ours = response.headers().contains_key(ANSWERS);
                match response.status() {
                    status @ http::StatusCode::SERVICE_UNAVAILABLE if ours => {
                        let body = response.into_body().unwrap_or_default();
                        Err(NotConnected::Refused(status, String::from_utf8_lossy(&body).trim().to_owned()))
                    }
                    _ => Err(NotConnected::NotEbb),
                }
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// A byte as it stands in a query: itself, or escaped.
fn percent(byte: u8) -> [Option<char>; 3] {
    let digit = |nibble: u8| char::from_digit(nibble.into(), 16).map(|digit| digit.to_ascii_uppercase());
    if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
        [Some(byte.into()), None, None]
    } else {
        [Some('%'), digit(byte >> 4), digit(byte & 15)]
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
enum NotConnected {
    #[error("cannot connect: {0}")]
    Dial(#[from] std::io::Error),
    #[error("handshake failed: {0}")]
    Handshake(#[from] tungstenite::Error),
    #[error("refused with {0}: {1}")]
    Refused(http::StatusCode, String),
    #[error("the holder does not know what a mirror is")]
    NotEbb,
    #[error("no answer within {HANDSHAKE:?}")]
    Slow,
}

/// How a connection was lost.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error("connection lost: {0}")]
    Broken(#[from] tungstenite::Error),
    #[error("connection closed")]
    Closed,
    #[error("nothing was heard for {SILENCE:?}")]
    Silent,
    #[error(transparent)]
    Bad(#[from] Bad),
}

/// What cannot be.
#[derive(Debug, thiserror::Error)]
enum Bad {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Mirror(#[from] MirrorError),
}

impl From<FrameError> for Lost {
    fn from(error: FrameError) -> Self {
        Self::Bad(error.into())
    }
}

impl From<MirrorError> for Lost {
    fn from(error: MirrorError) -> Self {
        Self::Bad(error.into())
    }
}
