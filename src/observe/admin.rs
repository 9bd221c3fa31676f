//! The admin port: health, readiness, and the present state as JSON. It serves nothing that changes state.

use crate::api::duration;
use crate::observe::explain::{Account, unknown};
use crate::observe::metrics::{Registry, server};
use crate::units::{RevisionKey, Span};
use axum::Router;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Deserialize;
use serde_json::Value;
use std::fmt::Write as _;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// What the admin port asks of the process.
pub trait Inspect: Send + Sync + 'static {
    /// The parts that are not ready yet, by name; none when all are.
    fn not_ready(&self) -> Vec<&'static str>;
    /// Every revision with its last decision, sorted by name.
    fn revisions(&self) -> Value;
    /// Why a revision has the pods it has, with the changes in the time `since`; `None` where it is not known.
    fn explain(&self, key: &RevisionKey, since: Span) -> Option<Account>;
    /// The revisions that are known.
    fn keys(&self) -> Vec<RevisionKey>;
    /// How a shadow agrees with the running autoscaler; nothing where there is no shadow.
    fn shadow(&self) -> Option<Value> {
        None
    }
    /// What is counted; shown at `/metrics` here too, where it needs no setting.
    fn metrics(&self) -> &Registry;
}

/// The routes.
pub fn router(inspect: Arc<dyn Inspect>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/revisions", get(revisions))
        .route("/explain/{namespace}/{name}", get(explain))
        .route("/shadow", get(shadow))
        .route("/metrics", get(metrics))
        .route("/debug/pprof/", get(profiles))
        .route("/debug/pprof/{*profile}", get(profiles))
        .with_state(inspect)
}

/// Serves the admin port until `cancel`.
///
/// # Errors
/// When the listener fails.
pub async fn serve(listener: TcpListener, inspect: Arc<dyn Inspect>, cancel: CancellationToken) -> std::io::Result<()> {
    axum::serve(listener, router(inspect)).with_graceful_shutdown(cancel.cancelled_owned()).await
}

async fn ready(State(inspect): State<Arc<dyn Inspect>>) -> Response {
    let missing = inspect.not_ready();
    if missing.is_empty() {
        return "ok\n".into_response();
    }
    let mut text = String::new();
    for part in missing {
        writeln!(text, "not ready: {part}").expect("writing to a string");
    }
    (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
}

async fn metrics(State(inspect): State<Arc<dyn Inspect>>, headers: HeaderMap) -> Response {
    server::metrics(State(inspect.metrics().clone()), headers).await
}

/// The profiles of Go's own tools; they would be of no use for a program that is not written in Go.
async fn profiles() -> Response {
    let text = "no profiles here: this autoscaler is not a Go program. For CPU use \"perf record -p PID\" on the node; what \
                it works on is at /revisions.\n";
    (StatusCode::NOT_FOUND, text).into_response()
}

/// What `/explain` is asked for.
#[derive(Deserialize)]
struct Question {
    /// `text` or `json`.
    format: Option<String>,
    /// How far back changes are told of, such as `15m`.
    last: Option<String>,
}

/// How far back changes are told of unless it is said.
pub const USUAL_LAST: Span = Span::from_seconds(15 * 60);

async fn explain(
    State(inspect): State<Arc<dyn Inspect>>,
    Path((namespace, name)): Path<(String, String)>,
    Query(question): Query<Question>,
) -> Response {
    let refused = |status: StatusCode, why: String| (status, format!("{why}\n")).into_response();
    let since = match question.last.as_deref().map(duration::parse) {
        None => USUAL_LAST,
        Some(Ok(since)) if since > Span::ZERO => since,
        Some(_) => {
            return refused(
                StatusCode::BAD_REQUEST,
                "last is not a length of time; write it as 15m or 1h30m".to_owned(),
            );
        }
    };
    let key = RevisionKey::new(&namespace, &name);
    let Some(account) = inspect.explain(&key, since) else {
        return refused(StatusCode::NOT_FOUND, unknown(&key, &inspect.keys()));
    };
    match question.format.as_deref() {
        Some("json") => axum::Json(account.json()).into_response(),
        None | Some("text") => account.text().into_response(),
        Some(_) => refused(StatusCode::BAD_REQUEST, "format is neither text nor json".to_owned()),
    }
}

async fn shadow(State(inspect): State<Arc<dyn Inspect>>) -> Response {
    match inspect.shadow() {
        Some(report) => axum::Json(report).into_response(),
        None => (StatusCode::NOT_FOUND, "this is no shadow; start one with: ebb run --shadow\n").into_response(),
    }
}

async fn revisions(State(inspect): State<Arc<dyn Inspect>>) -> Response {
    axum::Json(inspect.revisions()).into_response()
}
