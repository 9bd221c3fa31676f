//! The story a real Knative was recorded in, played again with this autoscaler.
//!
//! `tests/golden/cluster/` holds every version of the PodAutoscalers, ServerlessServices and Metrics of one story: a
//! service is created, idles to zero, is woken by one request, loaded, idles to zero again; a second one is scaled on
//! requests per second; both are deleted. Here the whole autoscaler lives through it on the in-memory API, in virtual
//! time, at the recorded moments. What others did is fed as it was recorded: the PodAutoscalers of the revision
//! controller, the status of the ServerlessServices, which pods were ready. What the autoscaler writes must be the same
//! versions in the same order.
//!
//! # What is not compared as it stands
//!
//! - uids, resource versions and creation times, which every API server makes up by itself;
//! - `actualScale` is compared as none or some: how many pods were seen between two looks is chance;
//! - times of conditions may differ by a second, and none counts that is older than the same condition's in an earlier
//!   version: once Knative wrote a status over one it had not seen yet, time and all;
//! - the load was recorded as pods wanted, so here it is chosen to want them: see [`LOAD`] and [`RATE`].

use ebb::app::{self, Autoscaler, Listen};
use ebb::clock::Clock;
use ebb::controllers::settings::{self, Maps};
use ebb::k8s::dial::{Dial, SystemDial};
use ebb::local::apiserver::{Effect, Fault, Store, Verb, router};
use ebb::ownership::Choice;
use ebb::ownership::class::Classes;
use ebb::stats::client;
use ebb::stats::wire::{Stat, WireStatMessage, encode_batch};
use ebb::units::{Compat, Span, Timestamp};
use futures::future::BoxFuture;
use futures::{StreamExt as _, TryStreamExt as _};
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, PostParams, WatchParams};
use kube::core::WatchEvent;
use prost::Message as _;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// The wall clock at the start of the recording, read off the condition times: 16.988 s later it was 03:10:53.
const RECORDED_AT: Timestamp = Timestamp::from_nanos(1_795_230_636_015_000_000);
/// When the replay begins; nothing was written before.
const BEGIN: f64 = 6.5;
/// A pod is ready, or gone, this long before the version that counts it so.
const BEFORE: f64 = 0.012;
/// What one look of the autoscaler writes, it writes within this time.
const WITHIN: f64 = 0.06;

/// Requests in flight at the activator, second by second, in the first service: between the decisions of every other
/// second a little less than 7 times the pods that were wanted next.
const LOAD: [(f64, f64); 17] = [
    (17.094, 1.0),
    (18.05, 1.0),
    (19.05, 10.0),
    (20.05, 10.0),
    (21.05, 25.0),
    (22.05, 25.0),
    (23.05, 42.0),
    (24.05, 63.0),
    (25.05, 56.0),
    (26.05, 62.0),
    (27.05, 62.0),
    (28.05, 62.0),
    (29.05, 62.0),
    (30.05, 62.0),
    (31.05, 62.0),
    (32.05, 62.0),
    (33.5, 0.0),
];
/// Requests per second in the second service, of which a pod is to take 14.
const RATE: [(f64, f64); 8] = [
    (45.05, 10.0),
    (46.05, 20.0),
    (47.05, 40.0),
    (48.05, 40.0),
    (49.05, 50.0),
    (50.05, 50.0),
    (51.05, 50.0),
    (52.05, 50.0),
];

const KINDS: [(&str, &str, &str); 3] = [
    ("pa", "autoscaling.internal.knative.dev", "PodAutoscaler"),
    ("sks", "networking.internal.knative.dev", "ServerlessService"),
    ("metric", "autoscaling.internal.knative.dev", "Metric"),
];

/// One version of an object.
#[derive(Clone, Debug)]
struct Version {
    at: f64,
    event: String,
    object: Value,
}

impl Version {
    fn name(&self) -> &str {
        self.object["metadata"]["name"].as_str().expect("a name")
    }

    /// The place of this version among those of all objects.
    fn resource_version(&self) -> u64 {
        self.object["metadata"]["resourceVersion"].as_str().and_then(|text| text.parse().ok()).expect("a version")
    }
}

type History = BTreeMap<&'static str, Vec<Version>>;

fn recorded() -> History {
    let read = |(kind, ..): (&'static str, &str, &str)| {
        let path = crate::root().join(format!("tests/golden/cluster/{kind}-history.json.gz"));
        let file = std::fs::File::open(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let versions: Vec<Value> = serde_json::from_reader(flate2::read::GzDecoder::new(file)).expect("JSON");
        let versions = versions.into_iter().map(|mut version| Version {
            at: version["at_s"].as_f64().expect("a time"),
            event: version["event"].as_str().expect("an event").to_owned(),
            object: version["object"].take(),
        });
        (kind, versions.collect())
    };
    KINDS.into_iter().map(read).collect()
}

/// What somebody other than the autoscaler does.
#[derive(Clone, Debug)]
enum Act {
    /// The revision controller makes a PodAutoscaler.
    Create(Value),
    /// The ServerlessService's controller writes a status.
    Status(String, Value),
    /// So many pods of a revision are ready.
    Pods(String, usize),
    /// The activator reports requests in flight and requests in the last second.
    Report(&'static str, f64, f64),
    /// The next status of a PodAutoscaler takes the API server so long, as it did then.
    Slow(&'static str, Duration),
    /// Somebody else changes the ServerlessService between the autoscaler's look at it and its write.
    Conflict(&'static str),
    /// A revision is deleted, and what belonged to it goes along.
    Delete(String),
}

fn script(history: &History) -> Vec<(f64, Act)> {
    let mut acts = Vec::new();
    let mut ready: BTreeMap<&str, u64> = BTreeMap::new();
    for version in &history["pa"] {
        let name = version.name();
        match version.event.as_str() {
            "ADDED" => acts.push((version.at, Act::Create(version.object.clone()))),
            "DELETED" => acts.push((version.at, Act::Delete(name.to_owned()))),
            _ => {
                let actual = version.object["status"]["actualScale"].as_u64().expect("a scale");
                if ready.insert(name, actual).unwrap_or(0) != actual {
                    let pods = usize::try_from(actual).expect("few pods");
                    // Their number may have changed the ServerlessService first, and the status that follows is fed.
                    let first = history["sks"]
                        .iter()
                        .filter(|sks| sks.name() == name && version.at - WITHIN < sks.at && sks.at < version.at)
                        .map(|sks| sks.at)
                        .fold(version.at, f64::min);
                    let caused_by_pods = first < version.at && changes_spec(&history["sks"], name, first);
                    let at = if caused_by_pods { first } else { version.at };
                    acts.push((at - BEFORE, Act::Pods(name.to_owned(), pods)));
                }
            }
        }
    }
    let mut statuses: BTreeMap<&str, &Value> = BTreeMap::new();
    for version in history["sks"].iter().filter(|version| version.event == "MODIFIED") {
        let status = &version.object["status"];
        if statuses.insert(version.name(), status) != Some(status) {
            acts.push((version.at, Act::Status(version.name().to_owned(), status.clone())));
        }
    }
    acts.extend(LOAD.map(|(at, load)| (at, Act::Report("demo-00001", load, load))));
    acts.extend(RATE.map(|(at, rate)| (at, Act::Report("demo-rps-00001", rate / 10.0, rate))));
    // Its controller wrote twice in a row there, and Knative's autoscaler came in between.
    acts.push((43.5, Act::Conflict("demo-rps-00001")));
    // The last pod was gone while the first request came: the status that says so was still being written.
    acts.push((17.08, Act::Slow("demo-00001", Duration::from_millis(100))));
    acts.sort_by(|(one, _), (other, _)| one.total_cmp(other));
    acts
}

/// Whether the version written at `at` has another spec than the one before it.
fn changes_spec(versions: &[Version], name: &str, at: f64) -> bool {
    let mut spec = None;
    for version in versions.iter().filter(|version| version.name() == name) {
        let changed = spec.replace(&version.object["spec"]) != Some(&version.object["spec"]);
        if version.at >= at {
            return changed;
        }
    }
    false
}

/// A cluster in which nobody lives but the autoscaler.
struct Cluster {
    client: kube::Client,
    store: Arc<Store>,
    stats: client::Handle,
    pods: BTreeMap<String, Vec<String>>,
    made: usize,
}

impl Cluster {
    fn api(&self, group: &str, version: &str, kind: &str) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), "default", &resource(group, version, kind))
    }

    async fn act(&mut self, act: Act, at: Timestamp) {
        match act {
            Act::Create(mut object) => {
                let metadata = object["metadata"].as_object_mut().expect("metadata");
                for field in ["uid", "resourceVersion", "creationTimestamp", "generation"] {
                    metadata.remove(field);
                }
                let target = object["spec"]["scaleTargetRef"]["name"].clone();
                let deployment = json!({
                    "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": target},
                    "spec": {
                        "replicas": 1, "selector": {"matchLabels": {"app": target}},
                        "template": {"metadata": {"labels": {"app": target}}, "spec": {"containers": [{"name": "a", "image": "a"}]}},
                    },
                });
                self.create("apps", "v1", "Deployment", deployment).await;
                self.create(KINDS[0].1, "v1alpha1", KINDS[0].2, object).await;
            }
            Act::Status(name, status) => {
                let api = self.api(KINDS[1].1, "v1alpha1", KINDS[1].2);
                let mut object = api.get(&name).await.expect("a ServerlessService");
                object.data["status"] = status;
                api.replace_status(&name, &PostParams::default(), &object).await.expect("a status");
            }
            Act::Pods(revision, wanted) => self.set_pods(&revision, wanted, at).await,
            Act::Report(revision, concurrency, count) => {
                let stat = Stat {
                    pod_name: "activator-1".into(),
                    average_concurrent_requests: concurrency,
                    request_count: count,
                    timestamp: at.second(),
                    ..Stat::default()
                };
                let message = WireStatMessage { namespace: "default".into(), name: revision.into(), stat: Some(stat) };
                self.stats.send(encode_batch(vec![message])).expect("a connection");
            }
            Act::Slow(name, delay) => {
                let resource = "podautoscalers.autoscaling.internal.knative.dev/status";
                let fault = Fault::once(Effect::Delay(delay)).on(Verb::Update).of(resource).named(name);
                self.store.faults().add(fault);
            }
            Act::Conflict(name) => {
                let resource = "serverlessservices.networking.internal.knative.dev";
                self.store.faults().add(Fault::once(Effect::fail(409)).on(Verb::Update).of(resource).named(name));
            }
            Act::Delete(name) => {
                for (_, group, kind) in KINDS {
                    self.api(group, "v1alpha1", kind).delete(&name, &DeleteParams::default()).await.expect("deleted");
                }
            }
        }
    }

    async fn create(&self, group: &str, version: &str, kind: &str, object: Value) -> DynamicObject {
        let object: DynamicObject = serde_json::from_value(object).expect("an object");
        self.api(group, version, kind).create(&PostParams::default(), &object).await.expect("created")
    }

    async fn set_pods(&mut self, revision: &str, wanted: usize, at: Timestamp) {
        let api = self.api("", "v1", "Pod");
        let mut pods = self.pods.remove(revision).unwrap_or_default();
        while pods.len() > wanted {
            let name = pods.pop().expect("more than are wanted");
            api.delete(&name, &DeleteParams::default().grace_period(0)).await.expect("deleted");
        }
        while pods.len() < wanted {
            self.made += 1;
            let name = format!("{revision}-{}", self.made);
            let labels = json!({"serving.knative.dev/revision": revision, "serving.knative.dev/revisionUID": revision});
            let mut pod = self
                .create(
                    "",
                    "v1",
                    "Pod",
                    json!({
                        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels},
                        "spec": {"containers": [{"name": "a", "image": "a"}]},
                    }),
                )
                .await;
            pod.data["status"] = json!({
                "phase": "Running", "podIP": format!("10.0.0.{}", self.made),
                "startTime": ebb::api::conditions::to_jiff(at).strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
                "conditions": [{"type": "Ready", "status": "True"}],
            });
            api.replace_status(&name, &PostParams::default(), &pod).await.expect("a status");
            pods.push(name);
        }
        self.pods.insert(revision.to_owned(), pods);
    }
}

fn resource(group: &str, version: &str, kind: &str) -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind))
}

/// Every name leads to the activator, and every pod to its queue-proxy.
struct Network {
    activator: std::net::SocketAddr,
    queue_proxy: std::net::SocketAddr,
}

impl Network {
    async fn start() -> Self {
        // A pod to which everything came through the activator: nothing of its own to report.
        let stat = Stat { pod_name: "pod".into(), process_uptime: 1.0, ..Stat::default() }.encode_to_vec();
        Self {
            activator: answering("text/plain", b"activator".to_vec()).await,
            queue_proxy: answering("application/protobuf", stat).await,
        }
    }
}

impl Dial for Network {
    fn dial<'a>(&'a self, _host: &'a str, port: u16) -> BoxFuture<'a, io::Result<TcpStream>> {
        Box::pin(TcpStream::connect(if port == 9090 { self.queue_proxy } else { self.activator }))
    }
}

/// A server that gives every request the same answer.
async fn answering(content_type: &str, body: Vec<u8>) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\r\n", body.len());
    let answer: Arc<[u8]> = [head.into_bytes(), body].concat().into();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = Arc::clone(&answer);
            tokio::spawn(async move {
                let (mut request, mut part) = (Vec::new(), [0; 1024]);
                while let Ok(read @ 1..) = stream.read(&mut part).await {
                    request.extend_from_slice(&part[..read]);
                    if request.ends_with(b"\r\n\r\n") {
                        request.clear();
                        if stream.write_all(&answer).await.is_err() {
                            return;
                        }
                    }
                }
            });
        }
    });
    address
}

/// Plays the story and answers what was written, and to how many replicas the Deployments were scaled.
async fn play(history: &History, compat: Compat) -> History {
    let clock = Clock::starting_at(RECORDED_AT + Span::from_millis(millis(BEGIN)));
    // While a socket is waited for, virtual time goes on to whatever is due next. This keeps that close.
    let ticking = tokio::spawn(async {
        loop {
            tokio::time::sleep(Duration::from_millis(2)).await;
            // What was sent must have arrived before much of that time is over.
            std::thread::sleep(Duration::from_micros(50));
        }
    });
    let store = Store::new(clock);
    let client = kube::Client::new(router(Arc::clone(&store)), "default");
    let maps: Api<DynamicObject> =
        Api::namespaced_with(client.clone(), "knative-serving", &resource("", "v1", "ConfigMap"));
    for (name, data) in [
        ("config-autoscaler", json!({"scale-to-zero-grace-period": "6s"})),
        ("config-deployment", json!({"queue-sidecar-image": "queue"})),
        ("config-network", json!({})),
        ("config-logging", json!({})),
        ("config-observability", json!({})),
        ("config-leader-election", json!({})),
    ] {
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data});
        let map: DynamicObject = serde_json::from_value(map).expect("a ConfigMap");
        maps.create(&PostParams::default(), &map).await.expect("created");
    }

    let written: Arc<Mutex<History>> = Arc::default();
    for (kind, group, name) in KINDS {
        let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource(group, "v1alpha1", name));
        let since =
            api.list(&ListParams::default()).await.expect("a list").metadata.resource_version.expect("a version");
        let events = api.watch(&WatchParams::default(), &since).await.expect("a watch");
        let written = Arc::clone(&written);
        tokio::spawn(async move {
            let mut events = events.into_stream().boxed();
            while let Some(event) = events.try_next().await.expect("a watch goes on") {
                let (event, object) = match event {
                    WatchEvent::Added(object) => ("ADDED", object),
                    WatchEvent::Modified(object) => ("MODIFIED", object),
                    WatchEvent::Deleted(object) => ("DELETED", object),
                    WatchEvent::Bookmark(_) | WatchEvent::Error(_) => continue,
                };
                let version = Version {
                    at: clock.now().since(RECORDED_AT).seconds_f64(),
                    event: event.to_owned(),
                    object: serde_json::to_value(object).expect("JSON"),
                };
                written.lock().expect("no panic above").entry(kind).or_default().push(version);
            }
        });
    }

    let maps = Maps::default();
    let start = settings::read(&client, &maps, compat).await.expect("good settings");
    let listen = async || TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let options = app::Options {
        client: client.clone(),
        clock,
        compat,
        classes: Classes::default(),
        dial: Arc::new(Network::start().await),
        cluster_domain: "cluster.local".to_owned(),
        ownership: Choice::Single,
        maps,
        start,
        stats: Listen::Now(listen().await),
        admin: listen().await,
        metrics: None,
        show: ebb::app::Show::default(),
        gates: None,
    };
    let cancel = CancellationToken::new();
    let autoscaler = Autoscaler::start(options, cancel.clone()).await.expect("an autoscaler");
    let url = format!("ws://{}", autoscaler.stats_address());
    let stats = client::spawn(&url, Arc::new(SystemDial), cancel.clone()).expect("an address");
    stats.connected().wait_for(|up| *up).await.expect("a connection");

    let mut cluster = Cluster { client, store, stats, pods: BTreeMap::new(), made: 0 };
    for (at, act) in script(history) {
        let due = RECORDED_AT + Span::from_millis(millis(at));
        tokio::time::sleep_until(clock.instant(due)).await;
        cluster.act(act, clock.now()).await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    autoscaler.stop().await;
    ticking.abort();
    std::mem::take(&mut *written.lock().expect("no panic above"))
}

#[expect(clippy::cast_possible_truncation, reason = "a minute has few milliseconds")]
fn millis(seconds: f64) -> i64 {
    (seconds * 1000.0).round() as i64
}

/// A version as it is compared.
struct Compared {
    value: Value,
    /// Seconds since the start of the recording.
    at: f64,
    /// As the how manyeth of all it was written.
    order: u64,
    /// The times of its conditions, none before that of an earlier version.
    times: Vec<jiff::Timestamp>,
}

/// One object's distinct versions.
fn distinct(kind: &str, name: &str, versions: &[Version], owners: &BTreeMap<String, String>) -> Vec<Compared> {
    let mut distinct: Vec<Compared> = Vec::new();
    for version in versions.iter().filter(|version| version.name() == name) {
        let value = comparable(kind, version, owners);
        if distinct.last().is_none_or(|last| last.value != value) {
            let conditions = version.object["status"]["conditions"].as_array().into_iter().flatten();
            let mut times: Vec<jiff::Timestamp> = conditions
                .map(|condition| {
                    let time = condition["lastTransitionTime"].as_str().expect("a time");
                    assert!(time.len() == 20 && time.ends_with('Z'), "{time} is not in whole seconds");
                    time.parse().expect("a time")
                })
                .collect();
            for (time, before) in times.iter_mut().zip(distinct.last().into_iter().flat_map(|last| &last.times)) {
                *time = (*time).max(*before);
            }
            let (at, order) = (version.at, version.resource_version());
            distinct.push(Compared { value, at, order, times });
        }
    }
    distinct
}

fn comparable(kind: &str, version: &Version, owners: &BTreeMap<String, String>) -> Value {
    let mut object = version.object.clone();
    object["event"] = json!(if version.event == "DELETED" { "deleted" } else { "written" });
    let metadata = object["metadata"].as_object_mut().expect("metadata");
    for field in ["uid", "resourceVersion", "creationTimestamp", "managedFields"] {
        metadata.remove(field);
    }
    for owner in metadata["ownerReferences"].as_array_mut().expect("owners") {
        let uid = owner["uid"].as_str().expect("a uid");
        owner["uid"] = json!(owners.get(uid).map_or(uid, String::as_str));
    }
    if kind == "sks" {
        // The status is its own controller's.
        object.as_object_mut().expect("an object").remove("status");
    }
    if let Some(actual) = object["status"].get_mut("actualScale") {
        *actual = json!(if actual.as_i64() == Some(0) { "none" } else { "some" });
    }
    if object["status"].is_null() {
        object.as_object_mut().expect("an object").remove("status");
    }
    for condition in object["status"]["conditions"].as_array_mut().into_iter().flatten() {
        condition["lastTransitionTime"] = json!("compared by itself");
    }
    if object["status"].is_null() {
        object.as_object_mut().expect("an object").remove("status");
    }
    object
}

/// What the uid of each PodAutoscaler stands for.
fn owners(history: &History) -> BTreeMap<String, String> {
    let uid = |version: &Version| version.object["metadata"]["uid"].as_str().expect("a uid").to_owned();
    history["pa"].iter().map(|version| (uid(version), format!("the uid of PodAutoscaler {}", version.name()))).collect()
}

async fn the_same_versions_are_written(compat: Compat) {
    let theirs = recorded();
    let ours = play(&theirs, compat).await;
    let (their_owners, our_owners) = (owners(&theirs), owners(&ours));
    let (mut their_order, mut our_order) = (Vec::new(), Vec::new());
    let mut faults = Vec::new();
    for (kind, ..) in KINDS {
        for name in ["demo-00001", "demo-rps-00001"] {
            let theirs = distinct(kind, name, &theirs[kind], &their_owners);
            let ours = distinct(kind, name, &ours[kind], &our_owners);
            for number in 0..theirs.len().max(ours.len()) {
                let (their, our) = (theirs.get(number), ours.get(number));
                let when = |version: Option<&Compared>| {
                    version.map_or_else(|| "never".to_owned(), |version| format!("at {:.3} s", version.at))
                };
                let mut differences = Vec::new();
                let value = |version: Option<&Compared>| version.map_or(Value::Null, |version| version.value.clone());
                differ("", &value(their), &value(our), &mut differences);
                if let (Some(their), Some(our)) = (their, our) {
                    if (their.at - our.at).abs() >= 1.0 {
                        differences.push("written at another time".to_owned());
                    }
                    let seconds =
                        |version: &Compared| version.times.iter().map(|time| time.as_second()).collect::<Vec<_>>();
                    let apart =
                        seconds(their).into_iter().zip(seconds(our)).map(|(their, our)| (their - our).abs()).max();
                    if kind != "sks" && apart.is_some_and(|apart| apart > 1) {
                        differences.push(format!("times of conditions: {:?} and {:?}", their.times, our.times));
                    }
                    // The Metric's status is another controller's work, and comes when it comes. So does deletion.
                    if (kind != "metric" || number == 0) && their.value["event"] == "written" {
                        their_order.push((their.order, format!("{kind} {name} {number}")));
                        our_order.push((our.order, format!("{kind} {name} {number}")));
                    }
                }
                for difference in differences {
                    let (their, our) = (when(their), when(our));
                    faults.push(format!(
                        "{kind} {name}, version {number}, recorded {their}, written {our}: {difference}"
                    ));
                }
            }
        }
    }
    assert!(faults.is_empty(), "{} differences, recorded first:\n{}", faults.len(), faults.join("\n"));
    their_order.sort();
    our_order.sort();
    let names = |order: Vec<(u64, String)>| order.into_iter().map(|(_, name)| name).collect::<Vec<_>>();
    assert_eq!(names(their_order), names(our_order), "the order in which everything was written");
}

/// Where two values differ.
fn differ(path: &str, their: &Value, our: &Value, found: &mut Vec<String>) {
    match (their, our) {
        (Value::Object(their), Value::Object(our)) => {
            let keys: BTreeSet<&String> = their.keys().chain(our.keys()).collect();
            for key in keys {
                let (their, our) = (their.get(key).unwrap_or(&Value::Null), our.get(key).unwrap_or(&Value::Null));
                differ(&format!("{path}.{key}"), their, our, found);
            }
        }
        (Value::Array(their), Value::Array(our)) if their.len() == our.len() => {
            for (number, (their, our)) in their.iter().zip(our).enumerate() {
                differ(&format!("{path}[{number}]"), their, our, found);
            }
        }
        _ if their != our => found.push(format!("{path}: {their} and {our}")),
        _ => {}
    }
}

#[tokio::test(start_paused = true)]
async fn the_recorded_story_is_written_again_version_by_version() {
    the_same_versions_are_written(Compat::STRICT).await;
}

#[tokio::test(start_paused = true)]
async fn the_improvements_change_nothing_in_the_recorded_story() {
    the_same_versions_are_written(Compat::IMPROVED).await;
}
