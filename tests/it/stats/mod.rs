//! How numbers arrive, over real sockets.

mod client;
mod scrape;
mod server;

use std::time::Duration;

/// Waits until `condition` holds, or fails saying what was awaited.
pub(crate) async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), waiting).await.unwrap_or_else(|_| panic!("still not: {what}"));
}

/// Awaits `future`, or fails saying what was awaited.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.unwrap_or_else(|_| panic!("still not: {what}"))
}
