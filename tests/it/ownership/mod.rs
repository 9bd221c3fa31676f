//! Replicas that share the revisions, against the in-memory API: HTTP, but within the process, so that time is virtual.

mod autoscalers;
mod elections;
mod forwarding;
mod objects;

use axum::body::Body;
use ebb::clock::Clock;
use ebb::local::apiserver::{Store, router};
use ebb::units::{Span, Timestamp};
use futures::StreamExt as _;
use http::{Method, Request, Response};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use tower::{ServiceExt as _, service_fn};

/// Where Knative lives in these tests.
const SYSTEM: &str = "knative-serving";

/// The clock of everybody who is not about clocks.
fn clock() -> Clock {
    Clock::starting_at(Timestamp::from_seconds(1_800_000_000))
}

/// A network between one client and the API, which can be cut: requests and events then wait until it is mended, and
/// what was given up meanwhile never arrives.
#[derive(Clone)]
struct Network {
    store: Arc<Store>,
    cut: Arc<watch::Sender<bool>>,
    /// How many answers to requests that change something are still to be lost, after they were carried out.
    lose: Arc<AtomicU32>,
    /// Every request that changes something, as it arrives: its method and path.
    writes: Arc<Mutex<Vec<(Method, String)>>>,
    /// Called with each of them, just before it is carried out.
    witness: Witness,
}

/// Sees the method and the path of a request.
type Witness = Arc<dyn Fn(&Method, &str) + Send + Sync>;

impl Network {
    fn to(store: &Arc<Store>) -> Self {
        let cut = Arc::new(watch::Sender::new(false));
        let lose = Arc::default();
        Self { store: Arc::clone(store), cut, lose, writes: Arc::default(), witness: Arc::new(|_, _| {}) }
    }

    fn client(&self) -> kube::Client {
        let this = self.clone();
        let service = service_fn(move |request: Request<kube::client::Body>| {
            let this = this.clone();
            async move { this.carry(request).await }
        });
        kube::Client::new(service, "default")
    }

    async fn carry(&self, request: Request<kube::client::Body>) -> Result<Response<Body>, std::io::Error> {
        self.is_whole().await;
        let changes = request.method() != Method::GET;
        if changes {
            let (method, path) = (request.method().clone(), request.uri().path().to_owned());
            (self.witness)(&method, &path);
            self.writes.lock().expect("no panic above").push((method, path));
        }
        let Ok(response) = router(Arc::clone(&self.store)).oneshot(request.map(Body::new)).await;
        self.is_whole().await;
        let one_less = |left: u32| left.checked_sub(1);
        if changes && self.lose.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less).is_ok() {
            return Err(std::io::ErrorKind::ConnectionReset.into());
        }
        let (head, body) = response.into_parts();
        let this = self.clone();
        let frames = body.into_data_stream().then(move |frame| {
            let this = this.clone();
            async move {
                this.is_whole().await;
                frame
            }
        });
        Ok(Response::from_parts(head, Body::from_stream(frames)))
    }

    async fn is_whole(&self) {
        self.cut.subscribe().wait_for(|cut| !*cut).await.expect("the sender lives here");
    }

    fn cut(&self) {
        self.cut.send_replace(true);
    }

    fn lose_answers(&self, number: u32) {
        self.lose.store(number, Ordering::SeqCst);
    }

    fn mend(&self) {
        self.cut.send_replace(false);
    }
}

/// Waits, in virtual time, until something holds.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let clock = clock();
    let deadline = clock.now() + Span::from_seconds(300);
    while !holds() {
        assert!(clock.now() < deadline, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
