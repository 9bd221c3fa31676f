//! Whole autoscalers that share the revisions: who writes, who decides, where stats end up, and how one leaves.

use super::forwarding::Cluster;
use super::{Network, SYSTEM, clock, until};
use crate::apiserver::Served;
use crate::stats::{eventually, soon};
use ebb::api::pod_autoscaler::PodAutoscaler;
use ebb::api::serverless_service::ServerlessService;
use ebb::app::{Autoscaler, Listen, Options};
use ebb::clock::Clock;
use ebb::controllers::settings::{self, Maps};
use ebb::engine::Decision;
use ebb::k8s::dial::Dial;
use ebb::local::apiserver::{Effect, Fault, Store, Verb};
use ebb::observe::metrics::Format;
use ebb::ownership::class::Classes;
use ebb::ownership::holder::{Identity, StatefulSet};
use ebb::ownership::{Choice, Ownership};
use ebb::stats::wire::{Stat, WireStatMessage, encode_batch};
use ebb::units::{Compat, RevisionKey, Span};
use futures::{SinkExt as _, StreamExt as _};
use http::Method;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::{WebSocketStream, client_async};
use tokio_util::sync::CancellationToken;

/// Makes the ConfigMaps an autoscaler starts with.
async fn furnish(client: &kube::Client, buckets: u32) {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), SYSTEM);
    for (name, data) in [
        ("config-autoscaler", json!({})),
        ("config-deployment", json!({"queue-sidecar-image": "ebb.local/queue-proxy"})),
        ("config-leader-election", json!({"buckets": buckets.to_string()})),
        ("config-logging", json!({})),
        ("config-network", json!({})),
        ("config-observability", json!({})),
    ] {
        let map = serde_json::from_value(json!({"metadata": {"name": name}, "data": data})).expect("a ConfigMap");
        maps.create(&PostParams::default(), &map).await.expect("created");
    }
}

/// Makes a revision at zero as the rest of Knative does: its Deployment, ServerlessService and PodAutoscaler.
async fn revision(client: &kube::Client, name: &str) {
    let labels = json!({
        "serving.knative.dev/configuration": "hello",
        "serving.knative.dev/revision": name,
        "serving.knative.dev/revisionUID": "4711",
    });
    let target = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": format!("{name}-deployment")});
    let deployment = json!({
        "metadata": {"name": format!("{name}-deployment")},
        "spec": {
            "replicas": 0,
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "c", "image": "i"}]}},
        },
    });
    let autoscaler: PodAutoscaler = from(json!({
        "metadata": {
            "name": name, "namespace": "default", "labels": labels,
            "annotations": {"autoscaling.knative.dev/class": "kpa.autoscaling.knative.dev"},
        },
        "spec": {"scaleTargetRef": target, "protocolType": "http1", "reachability": "Reachable"},
    }));
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), "default");
    deployments.create(&PostParams::default(), &from(deployment)).await.expect("created");
    let autoscalers: Api<PodAutoscaler> = Api::namespaced(client.clone(), "default");
    let made = autoscalers.create(&PostParams::default(), &autoscaler).await.expect("created");

    let sks: ServerlessService = from(json!({
        "metadata": {
            "name": name, "namespace": "default", "labels": labels,
            "annotations": {"autoscaling.knative.dev/class": "kpa.autoscaling.knative.dev"},
            "ownerReferences": [{
                "apiVersion": "autoscaling.internal.knative.dev/v1alpha1", "kind": "PodAutoscaler", "name": name,
                "uid": made.metadata.uid, "controller": true, "blockOwnerDeletion": true,
            }],
        },
        "spec": {"mode": "Proxy", "objectRef": target, "protocolType": "http1", "numActivators": 2},
    }));
    let services: Api<ServerlessService> = Api::namespaced(client.clone(), "default");
    // The autoscaler may have been faster.
    let _ = services.create(&PostParams::default(), &sks).await;
    let status = json!({"status": {
        "serviceName": name, "privateServiceName": format!("{name}-private"), "observedGeneration": 1,
        "conditions": [{"type": "Ready", "status": "True"}],
    }});
    let patch = Patch::Merge(status);
    services.patch_status(name, &PatchParams::default(), &patch).await.expect("patched");
}

fn from<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("an object")
}

/// A running autoscaler, and where activators and its peers reach it.
struct Replica {
    autoscaler: Arc<Autoscaler>,
    stats: SocketAddr,
    admin: SocketAddr,
}

async fn start(client: kube::Client, cluster: &Cluster, clock: Clock, number: u8) -> Replica {
    start_as(client, cluster, clock, number, Compat::IMPROVED).await
}

async fn start_as(client: kube::Client, cluster: &Cluster, clock: Clock, number: u8, compat: Compat) -> Replica {
    start_at(client, cluster, clock, number, compat, None).await
}

/// The same in a place of a StatefulSet, if there is one.
async fn start_at(
    client: kube::Client,
    cluster: &Cluster,
    clock: Clock,
    number: u8,
    compat: Compat,
    stateful_set: Option<StatefulSet>,
) -> Replica {
    let maps = Maps::default();
    let settings = settings::read(&client, &maps, compat).await.expect("settings");
    let free = async || TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let listener = free().await;
    let stats = listener.local_addr().expect("an address");
    let admin = free().await;
    let at = admin.local_addr().expect("an address");
    let ip = format!("10.0.0.{number}");
    cluster.leads(&ip, stats);
    let identity = Identity::new(&format!("autoscaler-{number}"), &ip).expect("a pod");
    let dial: Arc<dyn Dial> = Arc::new(cluster.clone());
    let options = Options {
        client,
        clock,
        compat,
        classes: Classes::default(),
        dial,
        cluster_domain: "cluster.local".to_owned(),
        ownership: Choice::Cluster { identity, stateful_set },
        maps,
        start: settings,
        stats: Listen::Now(listener),
        admin,
        metrics: None,
        show: ebb::app::Show::default(),
        gates: None,
    };
    let autoscaler = Autoscaler::start(options, CancellationToken::new()).await.expect("an autoscaler");
    Replica { autoscaler: Arc::new(autoscaler), stats, admin: at }
}

impl Replica {
    fn ownership(&self) -> &Ownership {
        self.autoscaler.ownership()
    }

    fn owned(&self) -> usize {
        (0..self.ownership().ring().buckets()).filter(|bucket| self.ownership().owns_index(*bucket)).count()
    }

    /// Revisions of which it knows anything.
    fn known(&self) -> u64 {
        let text = self.autoscaler.metrics().exposition(Format::Prometheus);
        let line = text.lines().find_map(|line| line.strip_prefix("ebb_revisions "));
        line.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("no number of revisions in\n{text}"))
    }

    /// A websocket as an activator opens it.
    async fn connect(&self) -> WebSocketStream<TcpStream> {
        let stream = soon("a connection", TcpStream::connect(self.stats)).await.expect("a connection");
        let url = "ws://autoscaler.knative-serving.svc.cluster.local:8080";
        let request = url.into_client_request().expect("a request");
        soon("a handshake", client_async(request, stream)).await.expect("a handshake").0
    }

    /// Stats taken in, from activators and from the other replica.
    fn received(&self) -> f64 {
        let page = self.autoscaler.metrics().exposition(Format::Prometheus);
        let line = page.lines().find_map(|line| line.strip_prefix("ebb_stats_received_total "));
        line.and_then(|value| value.parse().ok()).expect("a number")
    }

    /// What it says first of a revision when it is asked why.
    async fn explained(&self, name: &str) -> String {
        let request = format!("GET /explain/default/{name} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let admin = self.admin;
        // While a thread waits, virtual time stands still.
        let asked = tokio::task::spawn_blocking(move || {
            let mut stream = std::net::TcpStream::connect(admin)?;
            stream.set_read_timeout(Some(Duration::from_secs(20)))?;
            stream.write_all(request.as_bytes())?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).map(|_| answer)
        });
        let answer = asked.await.expect("no panic").expect("an answer");
        let (_, text) = answer.split_once("\r\n\r\n").expect("a head");
        text.lines().nth(2).expect("a sentence").to_owned()
    }

    /// The last decision on a revision.
    fn decision(&self, name: &str) -> Option<Decision> {
        let key = RevisionKey::new("default", name);
        self.autoscaler.rows().into_iter().find(|row| row.key == key)?.decision
    }

    /// Desired pods of a revision by its last decision.
    fn decided(&self, name: &str) -> Option<i32> {
        let key = RevisionKey::new("default", name);
        let row = self.autoscaler.rows().into_iter().find(|row| row.key == key)?;
        row.decision.map(|decision| decision.desired)
    }
}

fn report(name: &str) -> Message {
    report_of(name, 1.0)
}

fn report_of(name: &str, concurrency: f64) -> Message {
    let stat = Stat {
        pod_name: "activator-1".into(),
        average_concurrent_requests: concurrency,
        request_count: 1.0,
        ..Stat::default()
    };
    Message::Binary(encode_batch(vec![WireStatMessage::new(&RevisionKey::new("default", name), stat)]))
}

/// What a replica wrote for a revision that was not its own at that moment.
#[derive(Clone, Default)]
struct Trespasses {
    ownership: Arc<OnceLock<Ownership>>,
    found: Arc<Mutex<Vec<String>>>,
}

impl Trespasses {
    fn watch(&self, network: Network) -> Network {
        let this = self.clone();
        Network { witness: Arc::new(move |method, path| this.look(method, path)), ..network }
    }

    fn look(&self, method: &Method, path: &str) {
        // /apis/GROUP/VERSION/namespaces/default/RESOURCE/NAME[/SUBRESOURCE]; what is created is named in the body.
        let mut parts = path.split('/').skip_while(|part| *part != "default").skip(2);
        let (Some(name), Some(ownership)) = (parts.next(), self.ownership.get()) else { return };
        let key = RevisionKey::new("default", name.trim_end_matches("-deployment"));
        if !path.contains("/events") && !ownership.owns(&key) {
            self.found.lock().expect("no panic above").push(format!("{method} {path}"));
        }
    }

    fn none(&self) {
        let found = self.found.lock().expect("no panic above");
        assert!(found.is_empty(), "written without being the owner: {found:?}");
    }
}

async fn observed(store: &Arc<Store>) -> usize {
    let autoscalers: Api<PodAutoscaler> = Api::namespaced(Network::to(store).client(), "default");
    let all = autoscalers.list(&ListParams::default()).await.expect("a list").items;
    all.iter().filter(|pa| pa.status.as_ref().is_some_and(|status| status.observed_generation > 0)).count()
}

async fn all_observed(store: &Arc<Store>, number: usize) {
    let deadline = tokio::time::timeout(Duration::from_mins(10), async {
        while observed(store).await < number {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    assert!(deadline.await.is_ok(), "only {} of {number} PodAutoscalers were looked at", observed(store).await);
}

#[tokio::test(start_paused = true)]
async fn only_owners_write_and_who_loses_a_bucket_forgets_it() {
    let clock = clock();
    let store = Store::new(clock);
    let outside = Network::to(&store).client();
    furnish(&outside, 3).await;
    for number in 0..8 {
        revision(&outside, &format!("early-{number}")).await;
    }
    let cluster = Cluster::default();
    let (first_network, second_network) = (Trespasses::default(), Trespasses::default());
    let network = first_network.watch(Network::to(&store));
    let first = start(network.client(), &cluster, clock, 1).await;
    assert!(first_network.ownership.set(first.ownership().clone()).is_ok());
    until("the first owns all buckets", || first.owned() == 3).await;
    all_observed(&store, 8).await;
    until("it decides on all of them", || first.known() == 8).await;

    let second = start(second_network.watch(Network::to(&store)).client(), &cluster, clock, 2).await;
    assert!(second_network.ownership.set(second.ownership().clone()).is_ok());
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!((second.owned(), second.known()), (0, 0));
    // Whoever asks the other is sent to the owner.
    let told = second.explained("early-3").await;
    let says = "This replica does not decide on it: autoscaler-1 does. To ask there: kubectl -n knative-serving \
                port-forward pod/autoscaler-1 8008.";
    assert_eq!(told, says);
    assert_ne!(first.explained("early-3").await, told);

    // The first is cut off with its hands full: what it had sent never arrives, what it has not sent it must not send.
    let slow = Effect::Delay(Duration::from_millis(700));
    store.faults().add(Fault::once(slow).of("podautoscalers.autoscaling.internal.knative.dev/status").times(20));
    for number in 0..8 {
        revision(&outside, &format!("late-{number}")).await;
    }
    network.cut();
    until("the second owns all buckets", || second.owned() == 3).await;
    all_observed(&store, 16).await;
    assert_eq!(first.owned(), 0);
    network.mend();
    until("the first has forgotten everything", || first.known() == 0).await;
    until("the second decides on all of them", || second.known() == 16).await;

    second.autoscaler.stop().await;
    until("the first owns all buckets again", || first.owned() == 3).await;
    until("and decides on all revisions", || first.known() == 16).await;
    first_network.none();
    second_network.none();
    assert!(!network.writes.lock().expect("no panic above").is_empty());
}

#[tokio::test]
async fn a_stat_finds_its_owner_whichever_replica_gets_it() {
    let served = Served::start().await;
    let client = served.client();
    furnish(&client, 1).await;
    revision(&client, "hello-00001").await;
    let cluster = Cluster::default();
    let owner = start(served.client(), &cluster, Clock::system(), 1).await;
    eventually("it owns the bucket", || owner.owned() == 1).await;
    let other = start(served.client(), &cluster, Clock::system(), 2).await;
    eventually("the other knows", || other.ownership().holder(0).remote().is_some()).await;
    let mut activator = other.connect().await;
    let waking = async {
        loop {
            activator.send(report("hello-00001")).await.expect("sent");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::select! {
        () = waking => {}
        () = eventually("the owner wants a pod", || owner.decided("hello-00001") == Some(1)) => {}
    }
    assert_eq!(other.decided("hello-00001"), None);
    owner.autoscaler.stop().await;
    other.autoscaler.stop().await;
}

#[tokio::test]
async fn activators_are_served_before_any_bucket_is_led() {
    let served = Served::start().await;
    let client = served.client();
    furnish(&client, 1).await;
    revision(&client, "hello-00001").await;
    served
        .store
        .faults()
        .add(Fault::once(Effect::fail(503)).on(Verb::Create).of("leases.coordination.k8s.io").times(u32::MAX));
    let replica = start(served.client(), &Cluster::default(), Clock::system(), 1).await;
    let mut activator = replica.connect().await;
    activator.send(Message::Ping("?".into())).await.expect("sent");
    let pong = soon("a pong", activator.next()).await.expect("open").expect("a message");
    assert_eq!(pong, Message::Pong("?".into()));
    activator.send(report("hello-00001")).await.expect("sent");
    assert_eq!((replica.owned(), replica.known()), (0, 0));
    served.store.faults().clear();
    eventually("it owns the bucket", || replica.owned() == 1).await;
    // The next second of a waiting request brings the next report; the first may have come before the windows.
    let waking = async {
        loop {
            activator.send(report("hello-00001")).await.expect("sent");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::select! {
        () = waking => {}
        () = eventually("it wants a pod", || replica.decided("hello-00001") == Some(1)) => {}
    }
    replica.autoscaler.stop().await;
}

#[tokio::test]
async fn leases_are_released_before_activators_are_sent_away() {
    let served = Served::start().await;
    furnish(&served.client(), 2).await;
    let replica = start(served.client(), &Cluster::default(), Clock::system(), 1).await;
    eventually("it owns both buckets", || replica.owned() == 2).await;
    let mut activator = replica.connect().await;
    let leases: Api<Lease> = Api::namespaced(served.client(), SYSTEM);
    let ((), held) = tokio::join!(replica.autoscaler.stop(), async {
        loop {
            match soon("the goodbye", activator.next()).await {
                Some(Ok(Message::Close(Some(frame)))) => {
                    assert_eq!((frame.code, frame.reason.as_str()), (CloseCode::Restart, "Restarting"));
                    break;
                }
                Some(Ok(_)) => {}
                other => panic!("no goodbye: {other:?}"),
            }
        }
        let all = leases.list(&ListParams::default()).await.expect("a list").items;
        all.into_iter().map(|lease| lease.spec.and_then(|spec| spec.holder_identity)).collect::<Vec<_>>()
    });
    assert_eq!(held, [Some(String::new()), Some(String::new())]);
}

/// One report for a revision nobody has looked at: no Metric, no windows, no decider.
async fn decided_after_one_report(compat: Compat) -> Option<i32> {
    let clock = clock();
    let store = Store::new(clock);
    let outside = Network::to(&store).client();
    furnish(&outside, 1).await;
    revision(&outside, "hello-00001").await;
    let cluster = Cluster::default();
    let network = Network::to(&store);
    // It takes in stats before it owns anything, and looks at nothing before it does.
    store
        .faults()
        .add(Fault::once(Effect::fail(503)).on(Verb::Create).of("leases.coordination.k8s.io").times(u32::MAX));
    let replica = start_as(network.client(), &cluster, clock, 1, compat).await;
    let mut activator = replica.connect().await;
    activator.send(report("hello-00001")).await.expect("sent");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(replica.known(), 0);
    store.faults().clear();
    until("it owns the bucket", || replica.owned() == 1).await;
    until("it knows the revision", || replica.known() == 1).await;
    // Short of the first tick, which would decide in any case.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let decided = replica.decided("hello-00001");
    replica.autoscaler.stop().await;
    decided
}

#[tokio::test(start_paused = true)]
async fn one_report_wakes_a_revision_nobody_has_looked_at_unless_strict() {
    assert_eq!(decided_after_one_report(Compat::IMPROVED).await, Some(1));
    let dropped = Compat { keep_early_stats: false, ..Compat::IMPROVED };
    assert_eq!(decided_after_one_report(dropped).await, None);
}

#[tokio::test(start_paused = true)]
async fn after_a_clean_stop_under_load_not_one_tick_decides_otherwise() {
    let clock = clock();
    let store = Store::new(clock);
    let outside = Network::to(&store).client();
    furnish(&outside, 1).await;
    revision(&outside, "hello-00001").await;
    // Five requests in flight at one each, all through activators: every report that is lost shows in the average.
    let autoscalers: Api<PodAutoscaler> = Api::namespaced(outside.clone(), "default");
    let settings = json!({"metadata": {"annotations": {
        "autoscaling.knative.dev/target-burst-capacity": "-1",
        "autoscaling.knative.dev/target": "1",
        "autoscaling.knative.dev/window": "20s",
    }}});
    let patch = Patch::Merge(settings);
    autoscalers.patch("hello-00001", &PatchParams::default(), &patch).await.expect("patched");
    let cluster = Cluster::default();
    let first = start(Network::to(&store).client(), &cluster, clock, 1).await;
    until("the first owns the bucket", || first.owned() == 1).await;
    let second = start(Network::to(&store).client(), &cluster, clock, 2).await;
    until("the second knows", || second.ownership().holder(0).remote().is_some()).await;

    // Half of the reports go to the one that stops, half to the one that stays.
    let (mut leaving, mut staying) = (first.connect().await, second.connect().await);
    let from = clock.now().truncated() + Span::SECOND;
    let mut decisions: Vec<Decision> = Vec::new();
    let mut stopping = None;
    let mut arrivals = first.received() + second.received();
    for tenth in 0..800 {
        tokio::time::sleep_until(clock.instant(from + Span::from_millis(100 * tenth + 50))).await;
        if tenth % 10 == 3 {
            let half = || report_of("hello-00001", 2.5);
            staying.send(half()).await.expect("sent");
            // An activator whose connection is closed is connected again at once, to whoever is there.
            if stopping.is_none() {
                leaving.send(half()).await.expect("sent");
                // Both halves come to the first, one of them by way of the second.
                arrivals += 3.0;
            } else {
                staying.send(half()).await.expect("sent");
                arrivals += 2.0;
            }
            // Virtual time does not wait for the kernel to carry bytes from one socket to another.
            while first.received() + second.received() < arrivals {
                std::thread::sleep(Duration::from_millis(1));
                tokio::task::yield_now().await;
            }
        }
        if tenth == 405 {
            let autoscaler = Arc::clone(&first.autoscaler);
            stopping = Some(tokio::spawn(async move { autoscaler.stop().await }));
        }
        for replica in [&first, &second] {
            if let Some(decision) = replica.decision("hello-00001")
                && decisions.last().is_none_or(|last| last.at < decision.at)
            {
                decisions.push(decision);
            }
        }
    }
    let settled: Vec<_> = decisions.iter().filter(|decision| decision.at >= from + Span::from_seconds(25)).collect();
    assert!(settled.len() >= 26, "{}", settled.len());
    for pair in settled.windows(2) {
        assert_eq!(pair[1].at.since(pair[0].at), Span::from_seconds(2), "the ticks go on in step: {}", pair[1]);
    }
    for decision in settled {
        let seen = (decision.desired, decision.observed.stable, decision.observed.panic);
        assert_eq!(seen, (8, 5.0, 5.0), "at {:?}: {decision}", decision.at.since(from));
    }
    assert_eq!((first.owned(), second.owned()), (0, 1));
    second.autoscaler.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_container_that_is_restarted_leaves_its_windows_to_the_standby() {
    let clock = clock();
    let store = Store::new(clock);
    let outside = Network::to(&store).client();
    furnish(&outside, 1).await;
    revision(&outside, "hello-00001").await;
    let cluster = Cluster::default();
    let network = Network::to(&store);
    let killed = start(network.client(), &cluster, clock, 1).await;
    until("it owns the bucket", || killed.owned() == 1).await;
    let standby = start(Network::to(&store).client(), &cluster, clock, 2).await;
    let counted = |replica: &Replica, series: &str| {
        let page = replica.autoscaler.metrics().exposition(Format::Prometheus);
        let line = page.lines().find_map(|line| line.strip_prefix(series));
        line.and_then(|value| value.trim().parse::<f64>().ok()).unwrap_or_else(|| panic!("no {series} in\n{page}"))
    };
    let mut activator = killed.connect().await;
    activator.send(report_of("hello-00001", 7.0)).await.expect("sent");
    carried("a decision", || killed.decided("hello-00001") == Some(1)).await;
    carried("the standby has a mirror", || counted(&standby, "ebb_mirrored_revisions ") == 1.0).await;
    // The process is gone without a word; the pod and its address stay.
    network.cut();
    let again = start(Network::to(&store).client(), &cluster, clock, 1).await;
    carried("the standby owns the bucket", || standby.owned() == 1).await;
    assert_eq!(counted(&standby, "ebb_mirror_takeovers_total{mirror=\"used\"} "), 1.0);
    assert_eq!((again.owned(), again.known(), standby.known()), (0, 0, 1));
    // Its activator comes to the new owner.
    let mut activator = standby.connect().await;
    activator.send(report_of("hello-00001", 7.0)).await.expect("sent");
    carried("it goes on deciding", || standby.decided("hello-00001") == Some(1)).await;
    for replica in [&again, &standby] {
        replica.autoscaler.stop().await;
    }
}

/// Two of a StatefulSet, each of which has its bucket for good.
#[tokio::test(start_paused = true)]
async fn in_a_stateful_set_each_replica_has_its_bucket_and_nobody_elses() {
    let clock = clock();
    let store = Store::new(clock);
    let outside = Network::to(&store).client();
    furnish(&outside, 2).await;
    let names: Vec<String> = (0..8).map(|number| format!("hello-{number}")).collect();
    for name in &names {
        revision(&outside, name).await;
    }
    let cluster = Cluster::default();
    let set = |ordinal: u8| {
        StatefulSet::from_env(move |name| match name {
            "STATEFUL_CONTROLLER_ORDINAL" => Some(format!("as-{ordinal}")),
            "STATEFUL_SERVICE_NAME" => Some("as".to_owned()),
            "STATEFUL_SERVICE_PORT" => Some("8080".to_owned()),
            "STATEFUL_SERVICE_PROTOCOL" => Some("ws".to_owned()),
            _ => None,
        })
    };
    let member = async |ordinal: u8| {
        let client = Network::to(&store).client();
        let replica = start_at(client, &cluster, clock, ordinal, Compat::IMPROVED, set(ordinal)).await;
        cluster.leads(&format!("as-{ordinal}.as.{SYSTEM}.svc.cluster.local"), replica.stats);
        replica
    };
    let (zeroth, first) = (member(0).await, member(1).await);
    assert_eq!((zeroth.owned(), first.owned()), (1, 1));
    let of = |replica: &Replica, name: &str| replica.ownership().owns(&RevisionKey::new("default", name));
    for name in &names {
        assert!(of(&zeroth, name) != of(&first, name), "{name} is one's or the other's");
    }
    let mine = names.iter().filter(|name| of(&zeroth, name)).count();
    assert!(0 < mine && mine < names.len(), "{mine}");
    until("each knows its own", || (zeroth.known(), first.known()) == (mine as u64, (names.len() - mine) as u64)).await;

    // Whoever a stat comes to, its owner decides, and alone.
    let reach = async |through: &Replica, revisions: &[String]| {
        let mut activator = through.connect().await;
        for name in revisions {
            activator.send(report(name)).await.expect("sent");
        }
    };
    reach(&zeroth, &names).await;
    let decided = |replica: &Replica| names.iter().filter(|name| replica.decided(name) == Some(1)).count();
    carried("all are woken", || decided(&zeroth) + decided(&first) == names.len()).await;
    assert_eq!((decided(&zeroth), decided(&first)), (mine, names.len() - mine));

    // One is away: nobody takes its bucket; back, it goes on.
    first.autoscaler.stop().await;
    tokio::time::sleep(Duration::from_mins(2)).await;
    assert_eq!((zeroth.owned(), zeroth.known()), (1, mine as u64));
    let back = member(1).await;
    until("it knows its own again", || back.known() == (names.len() - mine) as u64).await;
    // Until the other finds it again.
    for second in 0.. {
        if decided(&back) == names.len() - mine {
            break;
        }
        assert!(second < 60, "its own were not decided on again");
        reach(&zeroth, &names).await;
        std::thread::sleep(Duration::from_millis(20));
        tokio::time::sleep(Duration::from_secs(1)).await;
    }

    // No Lease was signed and nothing advertised.
    let leases: Api<Lease> = Api::namespaced(outside.clone(), SYSTEM);
    assert_eq!(leases.list(&ListParams::default()).await.expect("a list").items.len(), 0);
    let services: Api<Service> = Api::namespaced(outside, SYSTEM);
    assert_eq!(services.list(&ListParams::default()).await.expect("a list").items.len(), 0);
    for replica in [&zeroth, &back] {
        replica.autoscaler.stop().await;
    }
}

/// Waits, in virtual time, for what bytes on real sockets bring about, which do not know of it.
async fn carried(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..5_000 {
        if holds() {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("waited in vain: {what}");
}
