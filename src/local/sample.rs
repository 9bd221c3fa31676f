//! The sample app: a service that does as it is asked, so that scaling can be watched.
//!
//! | request | answer |
//! |---|---|
//! | `/` and any other path | one line of text naming revision and pod, after `LATENCY` |
//! | `?sleep=200ms` | the same, after that long |
//! | `?code=503` | the same, with that status |
//! | `?size=1k` | that many bytes instead of the line; `k` and `m` are 1024 and 1024² |
//! | `/healthz` | `ok`, at once |
//! | `/stream?n=5&every=100ms` | `n` lines, one each `every` |
//! | `/ws` | a websocket that sends back what it gets |
//!
//! HTTP/1.1 and cleartext HTTP/2. A request's body is read to its end and thrown away. Wrong numbers are answered 400 with what would be right.

use crate::api::duration;
use crate::units::Span;
use axum::Router;
use axum::body::Body;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Query, State};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{any, get};
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use http::StatusCode;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// The longest anything is slept.
const MOST_SLEEP: Duration = Duration::from_mins(10);
/// The most bytes of one answer.
const MOST_BYTES: u64 = 1 << 30;
/// The most lines of one stream.
const MOST_LINES: u64 = 100_000;
/// Bytes of one piece of a large answer.
const PIECE: usize = 16 * 1024;

/// How the app behaves, from its environment.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Settings {
    /// Whom it greets (`TARGET`); `world` when empty.
    pub target: String,
    /// How long each answer takes (`LATENCY`).
    pub latency: Duration,
    /// How long it takes until it listens (`STARTUP_DELAY`).
    pub startup_delay: Duration,
    /// Its revision (`K_REVISION`).
    pub revision: String,
    /// Its pod (`POD_NAME`).
    pub pod: String,
}

impl Settings {
    /// Reads the settings from variables; those that are absent keep their default.
    ///
    /// # Errors
    /// Names the variable that is no duration, and what one looks like.
    pub fn from_environment(environment: &BTreeMap<String, String>) -> Result<Self, String> {
        let text = |name: &str| environment.get(name).cloned().unwrap_or_default();
        let span = |name: &str| match environment.get(name).map(String::as_str) {
            None | Some("") => Ok(Duration::ZERO),
            Some(value) => length(value).map_err(|problem| format!("{name}: {problem}")),
        };
        Ok(Self {
            target: text("TARGET"),
            latency: span("LATENCY")?,
            startup_delay: span("STARTUP_DELAY")?,
            revision: text("K_REVISION"),
            pod: text("POD_NAME"),
        })
    }
}

/// Serves the app on `listener` until `cancel`; what is being answered is finished.
pub async fn serve(listener: TcpListener, settings: Settings, cancel: CancellationToken) -> std::io::Result<()> {
    axum::serve(listener, router(settings)).with_graceful_shutdown(cancel.cancelled_owned()).await
}

/// The app as a router.
pub fn router(settings: Settings) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/stream", any(lines))
        .route("/ws", any(|upgrade: WebSocketUpgrade| async { upgrade.on_upgrade(echo) }))
        .fallback(answer)
        .with_state(Arc::new(settings))
}

type Wishes = Query<BTreeMap<String, String>>;

async fn answer(State(settings): State<Arc<Settings>>, Query(wishes): Wishes, body: Body) -> Response {
    let mut body = body.into_data_stream();
    while let Some(Ok(_)) = body.next().await {}
    match wish(&settings, &wishes) {
        Ok(wish) => {
            tokio::time::sleep(wish.sleep).await;
            let body = match wish.size {
                None => Body::from(line(&settings)),
                Some(size) => filler(size),
            };
            (wish.code, [("content-type", "text/plain; charset=utf-8")], body).into_response()
        }
        Err(problem) => (StatusCode::BAD_REQUEST, problem).into_response(),
    }
}

struct Wish {
    sleep: Duration,
    code: StatusCode,
    size: Option<u64>,
}

fn wish(settings: &Settings, wishes: &BTreeMap<String, String>) -> Result<Wish, String> {
    let sleep = wishes.get("sleep").map_or(Ok(settings.latency), |text| length(text));
    let code = wishes.get("code").map_or(Ok(StatusCode::OK), |text| {
        let code = text.parse().ok().filter(|code: &u16| (200..600).contains(code));
        code.and_then(|code| StatusCode::from_u16(code).ok())
            .ok_or_else(|| format!("{text:?} is no status from 200 to 599"))
    });
    let size = wishes.get("size").map(|text| bytes(text)).transpose();
    let named = |name: &str, problem: String| format!("{name}: {problem}\n");
    Ok(Wish {
        sleep: sleep.map_err(|problem| named("sleep", problem))?,
        code: code.map_err(|problem| named("code", problem))?,
        size: size.map_err(|problem| named("size", problem))?,
    })
}

fn line(settings: &Settings) -> String {
    let target = if settings.target.is_empty() { "world" } else { &settings.target };
    let mut line = format!("Hello {target}!");
    if !settings.revision.is_empty() {
        let _ = write!(line, " revision={} pod={}", settings.revision, settings.pod);
    }
    line.push('\n');
    line
}

/// A body of that many bytes, made piece by piece as it is taken.
fn filler(size: u64) -> Body {
    let piece = Bytes::from(vec![b'x'; PIECE]);
    let pieces = stream::unfold(size, move |left| {
        let taken = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
        let next = piece.slice(..taken);
        async move { (taken > 0).then(|| (Ok::<_, std::convert::Infallible>(next), left - taken as u64)) }
    });
    Body::from_stream(pieces)
}

async fn lines(State(settings): State<Arc<Settings>>, Query(wishes): Wishes) -> Response {
    let count = wishes.get("n").map_or(Ok(5), |text| {
        let count = text.parse().ok().filter(|count| *count <= MOST_LINES);
        count.ok_or_else(|| format!("n: {text:?} is no number up to {MOST_LINES}\n"))
    });
    let every = wishes
        .get("every")
        .map_or(Ok(Duration::from_millis(100)), |text| length(text).map_err(|problem| format!("every: {problem}\n")));
    match (count, every) {
        (Ok(count), Ok(every)) => {
            let told = line(&settings);
            let lines = stream::iter(1..=count).then(move |number| {
                let line = format!("{number}/{count} {told}");
                async move {
                    if number > 1 {
                        tokio::time::sleep(every).await;
                    }
                    Ok::<_, std::convert::Infallible>(line)
                }
            });
            ([("content-type", "text/plain; charset=utf-8")], Body::from_stream(lines)).into_response()
        }
        (Err(problem), _) | (_, Err(problem)) => (StatusCode::BAD_REQUEST, problem).into_response(),
    }
}

async fn echo(mut socket: WebSocket) {
    while let Some(Ok(message)) = socket.recv().await {
        let sent_back = match message {
            Message::Text(_) | Message::Binary(_) => socket.send(message).await,
            // Pings are answered, and closing is done, by the socket itself.
            Message::Ping(_) | Message::Pong(_) | Message::Close(_) => Ok(()),
        };
        if sent_back.is_err() {
            return;
        }
    }
}

/// A length of time from text such as `200ms`.
fn length(text: &str) -> Result<Duration, String> {
    let most = Span::from_std(MOST_SLEEP);
    match duration::parse(text) {
        Ok(span) if Span::ZERO <= span && span <= most => Ok(span.to_std()),
        _ => Err(format!("{text:?} is no duration from 0s to {most}, such as \"200ms\" or \"1.5s\"")),
    }
}

/// A number of bytes from text such as `512`, `10k` or `1m`.
fn bytes(text: &str) -> Result<u64, String> {
    let (digits, unit) = match text.as_bytes().last() {
        Some(b'k' | b'K') => (&text[..text.len() - 1], 1 << 10),
        Some(b'm' | b'M') => (&text[..text.len() - 1], 1 << 20),
        _ => (text, 1),
    };
    let bytes = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
    bytes.filter(|bytes| *bytes <= MOST_BYTES).ok_or_else(|| {
        format!("{text:?} is no number of bytes up to {}m, such as \"512\" or \"10k\"", MOST_BYTES >> 20)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;
    use http_body_util::BodyExt as _;
    use tower::ServiceExt as _;

    fn environment(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    async fn ask(app: &Router, path: &str) -> (u16, String) {
        let request = Request::get(path).body(Body::empty()).expect("a request");
        let response = app.clone().oneshot(request).await.expect("an answer");
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.expect("a body").to_bytes();
        (status, String::from_utf8_lossy(&body).into_owned())
    }

    #[tokio::test(start_paused = true)]
    async fn it_does_as_it_is_asked() {
        let settings = Settings::from_environment(&environment(&[
            ("TARGET", "you"),
            ("LATENCY", "250ms"),
            ("K_REVISION", "hello-00001"),
            ("POD_NAME", "hello-1"),
        ]))
        .expect("settings");
        let app = router(settings);
        let line = "Hello you! revision=hello-00001 pod=hello-1\n";
        for (path, status, body, millis) in [
            ("/", 200, line.to_owned(), 250),
            ("/any/path?sleep=1s", 200, line.to_owned(), 1000),
            ("/?code=503&sleep=0", 503, line.to_owned(), 0),
            ("/?size=20k&sleep=0", 200, "x".repeat(20 * 1024), 0),
            ("/?size=0&sleep=0", 200, String::new(), 0),
            ("/healthz", 200, "ok\n".to_owned(), 0),
            ("/stream?n=3&every=50ms", 200, format!("1/3 {line}2/3 {line}3/3 {line}"), 100),
        ] {
            let clock = crate::clock::Clock::system();
            let before = clock.now();
            assert_eq!(ask(&app, path).await, (status, body), "{path}");
            assert_eq!(clock.now().since(before).nanos() / 1_000_000, millis, "{path}");
        }
    }

    #[tokio::test]
    async fn a_wrong_wish_is_told() {
        let app = router(Settings::default());
        for path in ["/?sleep=5", "/?sleep=-1s", "/?sleep=11m", "/?code=99", "/?code=x", "/?size=2g", "/stream?n=-1"] {
            let (status, body) = ask(&app, path).await;
            assert_eq!(status, 400, "{path}");
            assert!(body.contains(" is no "), "{body}");
        }
        assert_eq!(
            Settings::from_environment(&environment(&[("LATENCY", "fast")])),
            Err("LATENCY: \"fast\" is no duration from 0s to 10m0s, such as \"200ms\" or \"1.5s\"".to_owned())
        );
    }
}
