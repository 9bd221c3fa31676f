//! What goes wrong in a cluster under load: an autoscaler is killed, stopped or held up, the API server ends and comes
//! back, etcd hangs. Whatever it is, nobody is scaled down for it, and it goes on as before.
//!
//! What Ebb wrote is read from the API server's own record. The replicas are processes of `ebb run`, each under an
//! account of its own with the shipped roles, so that the record tells them apart.

use crate::audit::{Asked, asked_by};
use crate::patience::{eventually, say};
use crate::plane::{ADMIN, Plane, SYSTEM, account, spare};
use crate::replica::Replica;
use crate::translate::Front;
use crate::webhook::Webhook;
use crate::whole::{Parts, Whole};
use crate::{World, roles};
use ebb::clock::Clock;
use ebb::local::AutoscalerSettings;
use ebb::units::{Compat, Timestamp};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt as _};
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;
use tokio::net::TcpListener;

/// The services; there are three buckets for them.
const SERVICES: [&str; 3] = ["one", "two", "three"];
/// Requests in flight to each …
const CLIENTS: usize = 20;
/// … for which it takes so many pods: 20 / (10 · 70 %) = 2.9. Two would do for 14.
const PODS: usize = 3;
/// How long nothing may happen for it to count as steady; longer than the stable window.
const A_WHILE: Duration = Duration::from_secs(8);
/// How long the API server or etcd is away: longer than Ebb may go on writing without a lease renewed.
const OUTAGE: Duration = Duration::from_secs(6);

/// Killed, stopped, held up: another replica goes on where one left off.
pub(crate) async fn replicas_follow_each_other(world: &World) {
    let plane = Plane::start(&world.assets, false).await;
    let front = Front::start(&plane, world).await;
    let scene = Scene::set(&plane, &front, 93, (1..=4).map(stats_of).collect()).await;
    let mut first = scene.replica(1).await;
    scene.whole.serve_all(&SERVICES).await;
    let mut second = scene.replica(2).await;
    let ((), answered) = scene
        .whole
        .under_load(
            &SERVICES,
            CLIENTS,
            Box::pin(async {
                scene.steady().await;

                let before = scene.state().await;
                let at = Clock::system().now();
                first.kill();
                scene.led_by(&second, at, "killed").await;
                tokio::time::sleep(A_WHILE).await;
                scene.nobody_scaled_down(&before).await;

                // A clean stop: not one change of scale.
                scene.steady().await;
                let mut third = scene.replica(3).await;
                let before = scene.state().await;
                let at = Clock::system().now();
                second.stop().await;
                scene.led_by(&third, at, "stopped").await;
                tokio::time::sleep(A_WHILE).await;
                assert_eq!(scene.state().await, before, "a clean stop changes nothing");

                // Held up for longer than its leases last: it may write nothing once it goes on.
                let fourth = scene.replica(4).await;
                let before = scene.state().await;
                let at = Clock::system().now();
                third.freeze(true);
                scene.led_by(&fourth, at, "held up").await;
                let written = scene.written_by(&third).len();
                third.freeze(false);
                tokio::time::sleep(A_WHILE).await;
                let late: Vec<String> =
                    scene.written_by(&third)[written..].iter().map(|asked| asked.uri.clone()).collect();
                assert_eq!(late, Vec::<String>::new(), "written by one that had lost its leases");
                scene.nobody_scaled_down(&before).await;
                third.stop().await;
            }),
        )
        .await;
    say(&format!("fail-over under load: {answered} requests, none lost"));
    scene.whole.stop().await;
    front.count(world);
}

/// The API server is killed and comes back, then etcd hangs. Meanwhile requests are answered, and afterwards it scales
/// as before: to zero and back.
pub(crate) async fn outages_change_nothing(world: &World) {
    let plane = Plane::start(&world.assets, false).await;
    let front = Front::start(&plane, world).await;
    let stats = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let scene = Scene::set(&plane, &front, 94, vec![stats.local_addr().expect("an address")]).await;
    let autoscaler = scene.whole.autoscaler(scene.client_of(0).await, stats).await;
    scene.whole.serve_all(&SERVICES).await;
    let ((), answered) = scene
        .whole
        .under_load(&SERVICES, CLIENTS, async {
            scene.steady().await;
            let before = scene.state().await;
            plane.kill_api();
            tokio::time::sleep(OUTAGE).await;
            plane.start_api();
            plane.ready().await;
            tokio::time::sleep(A_WHILE).await;
            scene.nobody_scaled_down(&before).await;

            scene.steady().await;
            let before = scene.state().await;
            plane.freeze_etcd(true);
            tokio::time::sleep(OUTAGE).await;
            plane.freeze_etcd(false);
            plane.ready().await;
            tokio::time::sleep(A_WHILE).await;
            scene.nobody_scaled_down(&before).await;
        })
        .await;
    say(&format!("outages under load: {answered} requests, none lost"));
    for service in SERVICES {
        scene.whole.has_pods(service, 0).await;
        let answer = scene.whole.get(service, "/").await;
        assert!(answer.is_ok(), "{answer:?}");
    }
    autoscaler.stop().await;
    scene.whole.stop().await;
    front.count(world);
}

fn ip_of(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 3, 2, number)
}

fn stats_of(number: u8) -> SocketAddr {
    SocketAddr::from((ip_of(number), 8080))
}

/// A cluster for replicas of Ebb.
struct Scene<'a> {
    plane: &'a Plane,
    front: &'a Front<'a>,
    admin: Client,
    whole: Whole,
    directory: tempfile::TempDir,
    _webhook: Webhook,
}

/// What must not shrink: the pods of each service, and how often anybody scaled.
#[derive(Debug, PartialEq, Eq)]
struct State {
    pods: BTreeSet<String>,
    scaled: Vec<(String, i64)>,
}

impl<'a> Scene<'a> {
    async fn set(plane: &'a Plane, front: &'a Front<'a>, network: u8, stats: Vec<SocketAddr>) -> Self {
        let admin = front.client(ADMIN).await;
        for number in 0..=4 {
            let user = spare(number);
            roles::allow(&admin, &format!("ebb-{user}"), &account(&user), SYSTEM, &roles::shipped()).await;
        }
        let settings = AutoscalerSettings::new(Compat::IMPROVED);
        let webhook = Webhook::start(&admin, plane.identity(), settings.clone()).await;
        let parts = Parts { client: admin.clone(), settings, own_deployments: false, network, stats };
        let whole = Whole::start(parts).await;
        let directory = tempfile::tempdir().expect("a temporary directory");
        Self { plane, front, admin, whole, directory, _webhook: webhook }
    }

    async fn client_of(&self, number: usize) -> Client {
        self.front.client(&spare(number)).await
    }

    /// Starts a replica under the account of its number, and waits until it is ready.
    async fn replica(&self, number: u8) -> Replica {
        let user = spare(usize::from(number));
        let kubeconfig = self.front.kubeconfig(&user);
        let mut replica = Replica::start(self.directory.path(), &kubeconfig, SYSTEM, &user, ip_of(number));
        replica.ready().await;
        replica
    }

    /// Waits until every service has its pods and nobody has scaled for a while.
    async fn steady(&self) {
        for service in SERVICES {
            self.whole.has_pods(service, PODS).await;
        }
        eventually("nobody scales any more", async || {
            let before = self.state().await;
            tokio::time::sleep(A_WHILE).await;
            let after = self.state().await;
            if before == after && after.pods.len() == PODS * SERVICES.len() {
                Ok(())
            } else {
                Err(format!("{after:?}"))
            }
        })
        .await;
    }

    async fn state(&self) -> State {
        let pods: Api<Pod> = Api::namespaced(self.admin.clone(), "default");
        let pods = pods.list(&ListParams::default()).await.expect("pods").items;
        let pods = pods.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none());
        let scalings = (0..=4).flat_map(|number| asked_by(&account(&spare(number)), &self.plane.audit()));
        let scaled =
            scalings.filter(|asked| asked.resource() == "deployments/scale" && asked.response_status.code == 200);
        let scaled = scaled.map(|asked| {
            let replicas = asked.request_object[0]["value"].as_i64().expect("a number of replicas");
            (asked.object_ref.name, replicas)
        });
        State { pods: pods.map(|pod| pod.name_any()).collect(), scaled: scaled.collect() }
    }

    /// Asserts that since `before` no pod went and nobody asked for fewer.
    async fn nobody_scaled_down(&self, before: &State) {
        let now = self.state().await;
        assert!(now.pods.is_superset(&before.pods), "pods went: {before:?} {now:?}");
        let least = i64::try_from(PODS).expect("few");
        let down = now.scaled.iter().skip(before.scaled.len()).find(|(_, replicas)| *replicas < least);
        assert_eq!(down, None, "scaled down: {before:?} {now:?}");
    }

    /// Waits until `replica` holds every bucket, and tells how long after `since` that was.
    async fn led_by(&self, replica: &Replica, since: Timestamp, why: &str) {
        let leases: Api<Lease> = Api::namespaced(self.admin.clone(), SYSTEM);
        eventually(&format!("{} leads", replica.name), async || {
            let leases = leases.list(&ListParams::default()).await.map_err(|error| error.to_string())?.items;
            let holders: Vec<String> = leases.into_iter().filter_map(|lease| lease.spec?.holder_identity).collect();
            let all = holders.len() == 3 && holders.iter().all(|holder| holder.starts_with(&replica.name));
            if all { Ok(()) } else { Err(format!("{holders:?}\n{}", replica.last_lines())) }
        })
        .await;
        let took = Clock::system().now().since(since);
        say(&format!("fail-over: every bucket of a leader that was {why} was led by another after {took}"));
    }

    /// What a replica wrote besides leases and events.
    fn written_by(&self, replica: &Replica) -> Vec<Asked> {
        let writes = |asked: &Asked| {
            ["create", "update", "patch"].contains(&asked.verb.as_str())
                && !["leases", "events"].contains(&asked.object_ref.resource.as_str())
        };
        asked_by(&account(&replica.name), &self.plane.audit()).into_iter().filter(writes).collect()
    }
}
