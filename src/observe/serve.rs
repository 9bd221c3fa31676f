//! A listener for people and for Prometheus: bounded in connections, in time for a request, and in patience with whoever
//! does not read.

use crate::observe::metrics::{Page, Source, count};
use axum::Router;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::error::Error;
use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

/// How long an answer that is under way may take when the process stops.
const SHUTDOWN: Duration = Duration::from_secs(5);
/// How long clients may take nothing of an answer unless told otherwise.
pub const UNREAD: Duration = Duration::from_secs(10);

/// How long a client may take to send the head of a request while half of the places are taken, so that whoever sends none
/// keeps others out for no longer.
const HURRIED: Duration = Duration::from_secs(5);

/// How much one listener does at once.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections open at once; more wait to be accepted. While half of them are open, a connection is closed after
    /// its answer, so that pages that are only open do not keep others out.
    pub connections: usize,
    /// How long a client may take to send the head of a request, waiting idle between two included; five seconds at most
    /// while half of the connections are open.
    pub head: Duration,
    /// How long a client may take nothing of an answer before it is dropped.
    pub unread: Duration,
}

/// What happened at a listener.
#[derive(Debug, Default)]
pub struct Served {
    /// Connections open now.
    pub open: AtomicU64,
    /// Connections dropped because the client did not read.
    pub unread: AtomicU64,
}

impl Source for Served {
    fn show(&self, page: &mut Page<'_>) {
        page.gauge("ebb_admin_connections", "Connections open at the admin port.", count(&self.open));
        page.counter(
            "ebb_admin_slow_readers_dropped_total",
            "Connections to the admin port that were dropped because the client did not read the answer.",
            count(&self.unread),
        );
    }
}

/// Serves `listener` until `cancel`.
pub async fn serve(
    listener: TcpListener,
    routes: Router,
    limits: Limits,
    served: Arc<Served>,
    cancel: CancellationToken,
) {
    let (tasks, places) = (TaskTracker::new(), Arc::new(Semaphore::new(limits.connections)));
    let accept = async {
        loop {
            let place = places.clone().acquire_owned().await.expect("the semaphore is never closed");
            match listener.accept().await {
                Ok((stream, _)) => {
                    let stays = places.available_permits() >= limits.connections / 2;
                    let serving = connection(stream, routes.clone(), limits, stays, cancel.clone());
                    let served = Arc::clone(&served);
                    tasks.spawn(async move {
                        served.open.fetch_add(1, Ordering::Relaxed);
                        if serving.await.is_err_and(|error| is_unread(&error)) {
                            served.unread.fetch_add(1, Ordering::Relaxed);
                        }
                        served.open.fetch_sub(1, Ordering::Relaxed);
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
        warn!(open = tasks.len(), "answers did not end in {SHUTDOWN:?}; leaving them");
    }
}

async fn connection(
    stream: TcpStream,
    routes: Router,
    limits: Limits,
    stays: bool,
    cancel: CancellationToken,
) -> Result<(), hyper::Error> {
    let mut stream = Box::pin(TimeoutStream::new(stream));
    stream.as_mut().set_write_timeout_pinned(Some(limits.unread));
    let serving = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(if stays { limits.head } else { limits.head.min(HURRIED) })
        .keep_alive(stays)
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
    ended.inspect_err(|error| debug!(%error, "connection ended"))
}

/// Whether a connection ended because its client did not read.
fn is_unread(error: &hyper::Error) -> bool {
    // What cuts an answer off may stand below what others wrapped it in.
    let causes = std::iter::successors(error.source(), |&cause| cause.source());
    let mut io = causes.filter_map(|cause| cause.downcast_ref::<std::io::Error>());
    io.any(|io| io.kind() == ErrorKind::TimedOut)
}
