//! `GET /metrics`, and nothing else, on a port of its own.

use crate::observe::heavy::Heavy;
use crate::observe::metrics::{Format, Registry};
use crate::observe::serve::{self, Limits};
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// How long a client may take to send the head of a request; the reference's figure.
const HEAD: Duration = Duration::from_secs(5);
/// Connections open at once; more wait to be accepted. A cluster has a few Prometheus servers.
const MOST_CONNECTIONS: usize = 64;

/// The one route. Other paths are 404, other methods 405.
pub fn router(registry: Registry) -> Router {
    Router::new().route("/metrics", get(metrics)).with_state((registry, Heavy::default()))
}

/// Serves `listener` until `cancel`.
pub async fn serve(listener: TcpListener, registry: Registry, cancel: CancellationToken) {
    let limits = Limits { connections: MOST_CONNECTIONS, head: HEAD, unread: serve::UNREAD };
    serve::serve(listener, router(registry), limits, Arc::default(), cancel).await;
}

async fn metrics(State((registry, heavy)): State<(Registry, Heavy)>, headers: HeaderMap) -> Response {
    answer(registry, &heavy, &headers).await
}

/// All numbers in the format that is asked for.
pub(in crate::observe) async fn answer(registry: Registry, heavy: &Heavy, headers: &HeaderMap) -> Response {
    let accepts = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let format = if accepts.into_iter().any(|value| value.contains("application/openmetrics-text")) {
        Format::OpenMetrics
    } else {
        Format::Prometheus
    };
    let content_type = match format {
        Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        Format::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
    };
    let make = move || ([(header::CONTENT_TYPE, content_type)], registry.exposition(format)).into_response();
    heavy.make(make).await
}
