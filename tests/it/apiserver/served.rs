//! The in-memory API on a port of its own.

use ebb::clock::Clock;
use ebb::local::apiserver::{Store, serve};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// A served store; it stops when this is dropped.
pub(crate) struct Served {
    pub(crate) store: Arc<Store>,
    pub(crate) addr: SocketAddr,
    cancel: CancellationToken,
}

impl Served {
    pub(crate) async fn start() -> Self {
        Self::with(Store::new(Clock::system())).await
    }

    pub(crate) async fn with(store: Arc<Store>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = listener.local_addr().expect("a bound listener");
        let cancel = CancellationToken::new();
        tokio::spawn(serve(listener, store.clone(), cancel.clone()));
        Self { store, addr, cancel }
    }

    pub(crate) fn client(&self) -> kube::Client {
        let uri = format!("http://{}", self.addr).parse().expect("an address");
        // A refusal is an answer here, not something to try again.
        let mut config = kube::Config::new(uri);
        config.default_retry = false;
        kube::Client::try_from(config).expect("a client")
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}
