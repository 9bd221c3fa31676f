//! The way in: a [gateway] that clients come to first, and that tells on each KIngress that it is
//! in force.

use crate::api::conditions::{ConditionSet, Conditions, settle_times};
use crate::api::ingress::{Ingress, IngressStatus, LoadBalancerAddress, LoadBalancerStatus};
use crate::clock::Clock;
use crate::controllers::writes;
use crate::dataplane::gateway::{self, Options};
use crate::dataplane::server::Stop;
use crate::dataplane::services::Services;
use crate::k8s::queue::{Lane, Queue, Turn, Workers};
use crate::units::RevisionKey;
use kube::Client;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::warn;

const CONDITIONS: ConditionSet = ConditionSet { dependents: &["LoadBalancerReady", "NetworkConfigured"] };

/// The gateway. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Gateway {
    clock: Clock,
    inner: gateway::Gateway,
}

impl Gateway {
    /// A gateway for the KIngresses of `class`, without routes yet. Needs a tokio runtime.
    pub fn new(class: String, domain: String, clock: Clock, services: Services) -> Self {
        let options = Options { class, domain: Some(domain), first: true };
        Self { clock, inner: gateway::Gateway::new(options, clock, services) }
    }

    /// Follows the KIngress objects of its class until `cancel`, and reports on them.
    pub async fn follow(&self, client: Client, cancel: CancellationToken) {
        let queue = Queue::new(self.clock);
        let changes = self.inner.follow(client.clone(), cancel.clone(), |key| queue.add(key, Lane::Fast));
        let reports = queue.run(Workers::each(4), cancel, |key| {
            let (this, client) = (self.clone(), client.clone());
            async move { this.report(&client, key).await }
        });
        tokio::join!(changes, reports);
    }

    /// Serves `listener` until `stop`.
    pub async fn serve(&self, listener: TcpListener, stop: Stop) {
        self.inner.serve(listener, stop).await;
    }

    /// Says on the KIngress that it is in force: the table is rebuilt before anybody gets here.
    async fn report(&self, client: &Client, key: RevisionKey) -> Turn {
        let Some(ingress) = self.inner.ingress(&key) else { return Turn::Done };
        let now = self.clock.now();
        let stored = ingress.status.clone().unwrap_or_default();
        let address = LoadBalancerStatus {
            ingress: vec![LoadBalancerAddress {
                domain_internal: "gateway.knative-serving.svc.cluster.local".to_owned(),
                ..LoadBalancerAddress::default()
            }],
        };
        let mut status = IngressStatus {
            observed_generation: ingress.metadata.generation.unwrap_or_default(),
            public_load_balancer: Some(address.clone()),
            private_load_balancer: Some(address),
            conditions: stored.conditions.clone(),
        };
        let mut conditions = Conditions::of(&CONDITIONS, &mut status.conditions, now);
        for type_ in CONDITIONS.dependents {
            conditions.mark_true(type_);
        }
        settle_times(&mut status.conditions, &stored.conditions, now);
        if status == stored {
            return Turn::Done;
        }
        let ingress = Ingress { status: Some(status), ..(*ingress).clone() };
        match writes::status(client, &key, ingress).await {
            Ok(_) => Turn::Done,
            Err(error) => {
                warn!(ingress = %key, %error, "status of the KIngress not written; tried again");
                Turn::Retry
            }
        }
    }
}
