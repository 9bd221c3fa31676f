//! The owner's side: sends a bucket's states and inputs to the standbys that ask for them.
//!
//! A standby never holds the owner up: what it does not take waits in a queue of limited length, and a standby that lets
//! it run full, or does not read for `STALLED`, is sent away. Standbys of one bucket are limited too
//! ([`MOST_FOLLOWERS`](crate::deciders::log::MOST_FOLLOWERS)).

use super::frame::{self, Writer};
use crate::deciders::Deciders;
use crate::deciders::log::Subscription;
use crate::observe::metrics::{Page, Source, count};
use crate::ownership::Ownership;
use axum::Router;
use axum::extract::rejection::QueryRejection;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use http::{HeaderName, HeaderValue, StatusCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

/// How often a standby is told what happened.
const EVERY: Duration = Duration::from_millis(100);
/// How often it is told that nothing did.
const HEARTBEAT: u32 = 10;
/// How long a standby may go without reading.
const STALLED: Duration = Duration::from_secs(5);
/// How long a standby may take to say that it has the last frame.
const GOODBYE: Duration = Duration::from_secs(1);
/// How often one connection may begin afresh because its standby was too slow.
const MOST_FRESH_STARTS: u32 = 3;
/// The largest message a standby may send; it has nothing to say.
const MOST_READ: usize = 1 << 10;
/// A header of every answer, by which a standby knows that it asked the right kind of server.
pub const ANSWERS: HeaderName = HeaderName::from_static("ebb-mirror");

/// What the owner's side works with.
#[derive(Clone, Debug)]
pub struct Serving {
    /// What is mirrored.
    pub deciders: Deciders,
    /// Which buckets are ours.
    pub ownership: Ownership,
    /// What happened.
    pub counters: Arc<Counters>,
}

/// What happened since the start. All but `standbys` only grow.
#[derive(Debug, Default)]
pub struct Counters {
    /// Standbys that follow now.
    pub standbys: AtomicU64,
    /// Requests refused.
    pub refused: AtomicU64,
    /// Frames sent.
    pub frames: AtomicU64,
    /// Bytes in them.
    pub bytes: AtomicU64,
    /// Buckets a standby has confirmed to have all of when they were given up.
    pub handed_over: AtomicU64,
}

impl Source for Counters {
    fn show(&self, page: &mut Page<'_>) {
        page.gauge("ebb_mirror_standbys", "Standbys that mirror a bucket of this replica.", count(&self.standbys));
        page.counter("ebb_mirror_requests_refused_total", "Requests for a mirror refused.", count(&self.refused));
        page.counter("ebb_mirror_frames_sent_total", "Frames sent to standbys.", count(&self.frames));
        page.counter("ebb_mirror_bytes_sent_total", "Bytes of the frames sent to standbys.", count(&self.bytes));
        page.counter(
            "ebb_mirror_handed_over_total",
            "Times a standby has confirmed to have all of a bucket that was given up.",
            count(&self.handed_over),
        );
    }
}

/// The route on the stat port.
pub fn router(serving: Serving) -> Router {
    Router::new().route(frame::PATH, any(answer)).with_state(serving)
}

/// What a standby asks for.
#[derive(Debug, serde::Deserialize)]
struct Question {
    bucket: String,
    version: u32,
}

/// Why a standby is refused.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("asked is ?bucket=NAME&version={version}: {0}", version = frame::VERSION)]
    Question(#[from] QueryRejection),
    #[error("version {0} is asked for; {version} is spoken here", version = frame::VERSION)]
    Version(u32),
    #[error("bucket {0} does not belong to this replica")]
    NotOwner(String),
    #[error("bucket {0} is being given up, or mirrored by as many as may")]
    Full(String),
    #[error("a mirror is read over a websocket of the protocol {PROTOCOL}", PROTOCOL = frame::PROTOCOL)]
    NoWebsocket,
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = match self {
            Self::Question(_) | Self::Version(_) | Self::NoWebsocket => StatusCode::BAD_REQUEST,
            Self::NotOwner(_) | Self::Full(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        (status, format!("{self}\n")).into_response()
    }
}

async fn answer(
    State(serving): State<Serving>,
    question: Result<Query<Question>, QueryRejection>,
    upgrade: Result<WebSocketUpgrade, axum::extract::ws::rejection::WebSocketUpgradeRejection>,
) -> Response {
    let mut response = match accept(&serving, question, upgrade) {
        Ok(switching) => switching,
        Err(refusal) => {
            serving.counters.refused.fetch_add(1, Ordering::Relaxed);
            debug!(%refusal, "standby refused");
            refusal.into_response()
        }
    };
    response.headers_mut().insert(ANSWERS, HeaderValue::from(frame::VERSION));
    response
}

fn accept(
    serving: &Serving,
    question: Result<Query<Question>, QueryRejection>,
    upgrade: Result<WebSocketUpgrade, axum::extract::ws::rejection::WebSocketUpgradeRejection>,
) -> Result<Response, Refusal> {
    let Query(Question { bucket, version }) = question?;
    if version != frame::VERSION {
        return Err(Refusal::Version(version));
    }
    let upgrade = upgrade.map_err(|_| Refusal::NoWebsocket)?.protocols([frame::PROTOCOL]).max_message_size(MOST_READ);
    if upgrade.selected_protocol().is_none() {
        return Err(Refusal::NoWebsocket);
    }
    let index = serving.ownership.ring().index(&bucket).filter(|index| serving.ownership.owns_index(*index));
    let Some(index) = index else { return Err(Refusal::NotOwner(bucket)) };
    let Some(subscription) = serving.deciders.follow(index) else { return Err(Refusal::Full(bucket)) };
    let serving = serving.clone();
    Ok(upgrade.on_upgrade(async move |socket| {
        serving.counters.standbys.fetch_add(1, Ordering::Relaxed);
        info!(bucket, "a standby mirrors the bucket");
        serving.feed(socket, subscription, index).await;
        serving.counters.standbys.fetch_sub(1, Ordering::Relaxed);
        debug!(bucket, "a standby has gone");
    }))
}

impl Serving {
    /// Sends all there is until the standby goes or the bucket does.
    async fn feed(&self, mut socket: WebSocket, mut subscription: Subscription, bucket: usize) {
        let mut writer = Writer::default();
        let mut fresh_starts = 0;
        let mut quiet = 0;
        loop {
            let look = subscription.look();
            let news = match look {
                Ok(news) if !writer.is_full() || news.ended => news,
                behind => {
                    fresh_starts += u32::from(behind.is_err());
                    let next = (fresh_starts <= MOST_FRESH_STARTS).then(|| self.deciders.follow(bucket)).flatten();
                    let Some(next) = next else {
                        warn!(bucket, "a standby is too slow; sent away");
                        return;
                    };
                    subscription = next;
                    writer.begin_afresh();
                    continue;
                }
            };
            quiet = if news.is_nothing() { quiet + 1 } else { 0 };
            let (complete, ended) = (news.complete, news.ended);
            if quiet == 0 || quiet % HEARTBEAT == 0 {
                for frame in writer.write(news) {
                    self.counters.frames.fetch_add(1, Ordering::Relaxed);
                    self.counters.bytes.fetch_add(frame.len() as u64, Ordering::Relaxed);
                    match timeout(STALLED, socket.send(Message::Binary(frame))).await {
                        Ok(Ok(())) => {}
                        Ok(Err(error)) => return debug!(%error, "standby lost"),
                        Err(_) => return warn!(bucket, "a standby has not read for {STALLED:?}; sent away"),
                    }
                }
            }
            if ended {
                return self.part(socket).await;
            }
            if complete {
                let waiting = sleep(EVERY);
                tokio::pin!(waiting);
                loop {
                    tokio::select! {
                        () = &mut waiting => break,
                        // Whatever it says is of no interest, only that it goes.
                        read = socket.recv() => if !matches!(read, Some(Ok(_))) { return },
                    }
                }
            }
        }
    }

    /// Waits until the standby says that it has everything, which it does by closing in its turn.
    async fn part(&self, mut socket: WebSocket) {
        let goodbye = async {
            let frame = CloseFrame { code: close_code::NORMAL, reason: "that was all".into() };
            socket.send(Message::Close(Some(frame))).await?;
            while let Some(read) = socket.recv().await {
                if let Message::Close(_) = read? {
                    return Ok(true);
                }
            }
            Ok::<_, axum::Error>(false)
        };
        match timeout(GOODBYE, goodbye).await {
            Ok(Ok(true)) => {
                self.counters.handed_over.fetch_add(1, Ordering::Relaxed);
            }
            outcome => warn!(?outcome, "a standby did not say that it has everything"),
        }
    }
}
