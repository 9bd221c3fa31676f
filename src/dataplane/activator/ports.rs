//! A port for each revision a load balancer leads to.
//!
//! A load balancer can neither say in a header for which member of a split a request is, nor keep a client from saying so.
//! But its server groups are lists of addresses and ports; so an activator that listens on one port per revision knows
//! from the port alone. What a client claims in headers counts for nothing there.
//!
//! A port that was once listened on stays open: load balancers lag behind, and a refused connection is a request lost.
//!
//! Ports are given out once, so two Services with one port are a mistake, or a Service somebody made by hand. The one that
//! was there first keeps it: nobody can take a port away from a revision by naming it.

use crate::dataplane::body::Body;
use crate::dataplane::server::{self, Stop};
use crate::units::{RevisionKey, Timestamp};
use http::{Request, Response};
use std::collections::{BTreeMap, HashSet};
use std::future::Future;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::time::sleep;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

/// Connections to one of these ports at once; more wait in the kernel's backlog.
const MAX_CONNECTIONS: usize = 4_096;
/// How long until a port that could not be had is tried again.
const AGAIN: Duration = Duration::from_secs(5);

/// What stands behind a port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Behind {
    /// The revision.
    pub revision: RevisionKey,
    /// After how long the load balancer gives a request up; `None` where nobody said.
    pub request_timeout: Option<Duration>,
    /// When its Service was made.
    pub since: Timestamp,
}

/// Which revision each port is for. Cheap to clone; all clones are one.
#[derive(Clone, Debug, Default)]
pub struct Ports {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// By Service, the port it asks for and what is behind it.
    claims: Mutex<BTreeMap<RevisionKey, (u16, Behind)>>,
    changed: Notify,
}

impl Ports {
    /// A Service claims a port for a revision, or none any more.
    pub fn claim(&self, service: RevisionKey, claim: Option<(u16, Behind)>) {
        let mut claims = self.lock();
        let before = match claim {
            Some(claim) => claims.insert(service, claim.clone()) != Some(claim),
            None => claims.remove(&service).is_some(),
        };
        drop(claims);
        if before {
            self.shared.changed.notify_one();
        }
    }

    /// What is behind a port. Where several claim one, the oldest is.
    pub fn behind(&self, port: u16) -> Option<Behind> {
        let claims = self.lock();
        let of_port = claims.values().filter(|(claimed, _)| *claimed == port).map(|(_, behind)| behind);
        of_port.min_by_key(|behind| (behind.since, &behind.revision)).cloned()
    }

    /// Whether any port is claimed.
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Listens on every port that is claimed, until `stop`. `handler` is told the port.
    pub(crate) async fn serve<F, A>(&self, ip: IpAddr, handler: F, stop: Stop)
    where
        F: Fn(u16, Request<Body>) -> A + Clone + Send + Sync + 'static,
        A: Future<Output = Response<Body>> + Send + 'static,
    {
        let serving = TaskTracker::new();
        let mut open: HashSet<u16> = HashSet::new();
        loop {
            let wanted: Vec<u16> =
                self.lock().values().map(|(port, _)| *port).filter(|port| !open.contains(port)).collect();
            let mut missing = false;
            for port in wanted {
                match TcpListener::bind((ip, port)).await {
                    Ok(listener) => {
                        info!(port, "a port for a revision is open");
                        open.insert(port);
                        let handler = handler.clone();
                        let handler = move |request| handler(port, request);
                        serving.spawn(server::serve(listener, MAX_CONNECTIONS, handler, stop.clone()));
                    }
                    Err(error) => {
                        warn!(port, %error, "a port for a revision cannot be listened on; tried again");
                        missing = true;
                    }
                }
            }
            let again = async {
                if missing {
                    sleep(AGAIN).await;
                } else {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                () = self.shared.changed.notified() => {}
                () = again => {}
                () = stop.drain.cancelled() => break,
                () = stop.kill.cancelled() => break,
            }
        }
        serving.close();
        serving.wait().await;
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<RevisionKey, (u16, Behind)>> {
        self.shared.claims.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_claimed_for_two_revisions_is_that_of_the_older() {
        let ports = Ports::default();
        let behind = |name: &str, seconds| Behind {
            revision: RevisionKey::new("default", name),
            request_timeout: None,
            since: Timestamp::from_seconds(seconds),
        };
        ports.claim(RevisionKey::new("default", "b-alb"), Some((20_000, behind("b", 1))));
        assert_eq!(ports.behind(20_000), Some(behind("b", 1)));
        ports.claim(RevisionKey::new("default", "a-alb"), Some((20_000, behind("a", 2))));
        assert_eq!(ports.behind(20_000), Some(behind("b", 1)), "it was there first");
        ports.claim(RevisionKey::new("default", "b-alb"), None);
        assert_eq!((ports.behind(20_000), ports.behind(20_001)), (Some(behind("a", 2)), None));
    }
}
