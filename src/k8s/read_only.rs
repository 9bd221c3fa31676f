//! A client that cannot change the cluster, whatever its user asks of it.
//!
//! Whoever only wants to look is given this client. It is a second lock on a door that RBAC locks already, and it counts
//! each try, so that it can be shown that there was none.

use crate::observe::metrics::count;
use futures::future::{Either, ready};
use http::{Method, Request, header};
use kube::Client;
use kube::client::Body;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tower::BoxError;
use tracing::error;

/// How many requests were refused. Cheap to clone; all clones are one count.
#[derive(Clone, Debug, Default)]
pub struct Refusals(Arc<AtomicU64>);

impl Refusals {
    /// Requests refused since the client was made.
    pub fn count(&self) -> u64 {
        count(&self.0)
    }
}

/// A request that was not sent.
#[derive(Debug, thiserror::Error)]
#[error("{method} {path} was not sent: this process only reads. It is a fault of Ebb; please report it")]
pub struct NotSent {
    method: Method,
    path: String,
}

/// A client to the same API server that sends nothing but plain GET requests, and the count of what it refused.
///
/// A GET that asks to switch protocols is refused too: that is how commands are run in containers.
pub fn read_only(client: Client) -> (Client, Refusals) {
    let refusals = Refusals::default();
    let counted = refusals.clone();
    let namespace = client.default_namespace().to_owned();
    let service = tower::service_fn(move |request: Request<Body>| {
        if request.method() == Method::GET && !request.headers().contains_key(header::UPGRADE) {
            let client = client.clone();
            return Either::Left(async move { client.send(request).await.map_err(BoxError::from) });
        }
        counted.0.fetch_add(1, Ordering::Relaxed);
        let not_sent = NotSent { method: request.method().clone(), path: request.uri().path().to_owned() };
        error!(error = %not_sent, "refused");
        Either::Right(ready(Err(BoxError::from(not_sent))))
    });
    (Client::new(service, namespace), refusals)
}
