//! The admin port: health, readiness, and the present state as JSON. It serves nothing that changes state.

use crate::observe::metrics::{Registry, server};
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
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

async fn shadow(State(inspect): State<Arc<dyn Inspect>>) -> Response {
    match inspect.shadow() {
        Some(report) => axum::Json(report).into_response(),
        None => (StatusCode::NOT_FOUND, "this is no shadow; start one with: ebb run --shadow\n").into_response(),
    }
}

async fn revisions(State(inspect): State<Arc<dyn Inspect>>) -> Response {
    axum::Json(inspect.revisions()).into_response()
}
