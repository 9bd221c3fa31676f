//! `GET /metrics`, and nothing else, on a port of its own.

use crate::observe::metrics::{Format, Registry};
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

/// How long a client may take to send the head of a request; the reference's figure.
const HEAD: Duration = Duration::from_secs(5);
/// Connections open at once; more wait to be accepted. A cluster has a few Prometheus servers.
const MOST_CONNECTIONS: usize = 64;
/// How long an answer that is under way may take when the process stops.
const SHUTDOWN: Duration = Duration::from_secs(5);

/// The one route. Other paths are 404, other methods 405.
pub fn router(registry: Registry) -> Router {
    Router::new().route("/metrics", get(metrics)).with_state(registry)
}

/// Serves `listener` until `cancel`.
pub async fn serve(listener: TcpListener, registry: Registry, cancel: CancellationToken) {
    let routes = router(registry);
    let (tasks, places) = (TaskTracker::new(), Arc::new(Semaphore::new(MOST_CONNECTIONS)));
    let accept = async {
        loop {
            let place = places.clone().acquire_owned().await.expect("the semaphore is never closed");
            match listener.accept().await {
                Ok((stream, _)) => {
                    let serving = connection(stream, routes.clone(), cancel.clone());
                    tasks.spawn(async move {
                        serving.await;
                        drop(place);
                    });
                }
                Err(error) => {
                    // Most likely out of file descriptors; trying again at once would only burn CPU.
                    warn!(%error, "cannot accept a connection");
                    sleep(Duration::from_millis(100)).await;
                }
            }
        }
    };
    tokio::select! {
        () = cancel.cancelled() => {}
        () = accept => {}
    }
    drop(listener);
    tasks.close();
    if timeout(SHUTDOWN, tasks.wait()).await.is_err() {
        warn!(open = tasks.len(), "scrapes did not end in {SHUTDOWN:?}; leaving them");
    }
}

async fn connection(stream: TcpStream, routes: Router, cancel: CancellationToken) {
    let serving = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(16 << 10)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes));
    tokio::pin!(serving);
    let ended = tokio::select! {
        ended = &mut serving => ended,
        () = cancel.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        debug!(%error, "connection for metrics ended");
    }
}

pub(in crate::observe) async fn metrics(State(registry): State<Registry>, headers: HeaderMap) -> Response {
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
    ([(header::CONTENT_TYPE, content_type)], registry.exposition(format)).into_response()
}
