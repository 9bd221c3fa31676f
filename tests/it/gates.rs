//! To zero and back behind a load balancer, as a user has it: a local cluster with the double in the gateway's place, the
//! autoscaler, the controller and the gates, real pods, real sockets.

use crate::apiserver::Served;
use crate::system::service_alone;
use ebb::api::ingress::Ingress as KIngress;
use ebb::api::serving::{Configuration, Revision, Route};
use ebb::app::{Autoscaler, Listen, Options};
use ebb::clock::Clock;
use ebb::controllers::settings::{self, Maps};
use ebb::dataplane::activator::{self, Activator};
use ebb::dataplane::server::Stop;
use ebb::k8s::dial::SystemDial;
use ebb::local::alb::balancer::Manners;
use ebb::local::alb::{self, Alb};
use ebb::local::apiserver::{Effect, Fault, Verb};
use ebb::local::dial::LocalDial;
use ebb::local::knative::admission::admission;
use ebb::local::pods::address::{Address, Addresses};
use ebb::local::pods::kubelet;
use ebb::local::{self, AutoscalerSettings, LocalCluster, manifest};
use ebb::observe::metrics::Format;
use ebb::ownership::Choice;
use ebb::ownership::class::Classes;
use ebb::routing::controller::{Controller, Setup};
use ebb::routing::gate::{Answer, Timers};
use ebb::routing::keeper::Keeper;
use ebb::routing::model::CLASS;
use ebb::routing::probe::{Question, Topic, Vips};
use ebb::stats::client;
use ebb::units::{Compat, RevisionKey, Span};
use futures::future::BoxFuture;
use futures::{SinkExt as _, StreamExt as _};
use http::HeaderValue;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Endpoints, Event, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::Ingress;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::client_async;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long anything may take before a test gives up on it.
const PATIENCE: Duration = Duration::from_mins(4);
const COMPAT: Compat = Compat::IMPROVED;
/// What an activator listens on at an address of its own, which another test run may have too.
const ACTIVATOR_PORTS: [u16; 2] = [8012, 8013];

/// Proofs in a tenth of the time, with deadlines that a machine with much else to do can keep.
fn timers() -> Timers {
    let deadline = Span::from_seconds(30);
    let probe_spacing = Span::from_millis(50);
    Timers { bridging: deadline, draining: deadline, probe_spacing, ..Timers::default().scaled(1, 10) }
}

/// The addresses of the double.
struct Double(Vec<SocketAddr>);

impl Vips for Double {
    fn resolve<'a>(&'a self, _: &'a str, _: bool) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        Box::pin(async { Ok(self.0.clone()) })
    }
}

/// How a system is set up.
struct Plan {
    /// The second number of the addresses of pods and activators.
    network: u8,
    addresses: usize,
    manners: Manners,
    gated: bool,
    /// How long a pod that is told to go still serves after its last request. In a cluster it is 30 s.
    quiet: Duration,
    /// What `config-network` says besides.
    network_map: Value,
    timers: Timers,
}

impl Plan {
    fn new(network: u8) -> Self {
        let soon = Span::ZERO..=Span::from_millis(300);
        let manners = Manners { membership: soon.clone(), rules: soon, ..Manners::default() };
        let (quiet, network_map) = (Duration::from_millis(250), json!({}));
        Self { network, addresses: 1, manners, gated: true, quiet, network_map, timers: timers() }
    }
}

struct System {
    served: Served,
    cluster: LocalCluster,
    /// The autoscaler and the controller, while they run; and where activators find them.
    process: Option<Process>,
    stats: SocketAddr,
    gated: Option<Timers>,
    addresses: Vec<SocketAddr>,
    _activators: Vec<(CancellationToken, Address)>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// What ends together where `ebb run` ends.
struct Process {
    autoscaler: Autoscaler,
    admin: SocketAddr,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl System {
    async fn start(plan: Plan) -> Self {
        let (served, clock) = (Served::start().await, Clock::system());
        let of_admission = AutoscalerSettings::new(COMPAT);
        assert!(served.store.set_admission(admission(of_admission.clone())));
        let client = served.client();
        let grace = json!({"metadata": {"name": "config-autoscaler", "namespace": "knative-serving"},
            "data": {"scale-to-zero-grace-period": "1s"}});
        put(&client, "v1", "ConfigMap", grace).await;

        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let stats = free().await;
        let address = stats.local_addr().expect("a bound listener");
        let (mut activators, mut ips) = (Vec::new(), Vec::new());
        let free_addresses = Addresses::new(Ipv4Addr::new(127, plan.network, 255, 0), &ACTIVATOR_PORTS);
        for number in 1..=2 {
            let address_of_its_own = free_addresses.take().expect("an address");
            let ip = IpAddr::V4(address_of_its_own.ip());
            let sink = client::spawn(&format!("ws://{address}"), Arc::new(SystemDial), stop.clone()).expect("a client");
            let mut config = activator::Config::new(&format!("activator-{number}"), ip);
            (config.drain_period, config.balanced_drain_period) = (Duration::ZERO, Duration::ZERO);
            let activator = Activator::bind(config, Arc::new(sink), clock).await.expect("an activator");
            let ends = stop.child_token();
            tasks.spawn(activator::feed::run(
                client.clone(),
                activator.backends(),
                activator.ports(),
                ip,
                ends.clone(),
            ));
            tasks.spawn(activator.run(ends.clone()));
            activators.push((ends, address_of_its_own));
            ips.push(ip);
        }
        let double = alb::Options {
            config: "local".to_owned(),
            addresses: plan.addresses,
            manners: plan.manners,
            seed: u64::from(plan.network),
        };
        let options = local::Options {
            ingress_class: CLASS.to_owned(),
            activators: ips,
            pods: kubelet::Settings {
                network: Ipv4Addr::new(127, plan.network, 0, 0),
                startup_delay: Duration::from_millis(50),
                quiet_period: plan.quiet,
                ..kubelet::Settings::default()
            },
            balancer: Some(double),
            ..local::Options::default()
        };
        let cluster = LocalCluster::start(options, Some(free().await), client.clone(), clock, of_admission)
            .await
            .expect("a cluster");
        let mut map = json!({"metadata": {"name": "config-network", "namespace": "knative-serving"}});
        map["data"] = plan.network_map;
        put(&client, "v1", "ConfigMap", map).await;
        let mut addresses = vec![cluster.gateway().expect("a gateway")];
        let balancer = cluster.balancer().expect("the double").clone();
        for address in 1..plan.addresses {
            let listener = free().await;
            addresses.push(listener.local_addr().expect("a bound listener"));
            let (balancer, stop) = (balancer.clone(), stop.clone());
            tasks.spawn(async move {
                let serving = Stop::default();
                let _ends = serving.kill.clone().drop_guard();
                tokio::select! {
                    () = balancer.serve(address, ("HTTP", 80), listener, serving.clone()) => {}
                    () = stop.cancelled() => {}
                }
            });
        }

        tasks.close();
        let gated = plan.gated.then_some(plan.timers);
        let mut system = Self {
            served,
            cluster,
            process: None,
            stats: address,
            gated,
            addresses,
            _activators: activators,
            stop,
            tasks,
        };
        system.begin(stats).await;
        system
    }

    /// The autoscaler and the controller begin, knowing nothing but what is written.
    async fn begin(&mut self, stats: TcpListener) {
        let (client, clock, maps) = (self.served.client(), Clock::system(), Maps::default());
        let admin = free().await;
        let address = admin.local_addr().expect("a bound listener");
        let vips: Arc<dyn Vips> = Arc::new(Double(self.addresses.clone()));
        let gates = self.gated.map(|timers| Keeper::new(clock, timers, Arc::clone(&vips)));
        let options = Options {
            client: client.clone(),
            clock,
            compat: COMPAT,
            classes: Classes::default(),
            dial: Arc::new(LocalDial::new(self.cluster.services().clone())),
            cluster_domain: "cluster.local".to_owned(),
            ownership: Choice::Single,
            start: settings::read(&client, &maps, COMPAT).await.expect("settings"),
            maps,
            stats: Listen::Now(stats),
            admin,
            metrics: None,
            show: ebb::app::Show::default(),
            gates: gates.clone(),
        };
        let autoscaler = Autoscaler::start(options, CancellationToken::new()).await.expect("an autoscaler");
        let setup = Setup {
            client,
            clock,
            ownership: autoscaler.ownership().clone(),
            namespace: "knative-serving".to_owned(),
            vips,
            gates: gates.map(|keeper| (keeper, autoscaler.serverless_services().clone())),
        };
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        tasks.spawn(Controller::new(setup, &stop).run(stop.clone()));
        tasks.close();
        self.process = Some(Process { autoscaler, admin: address, stop, tasks });
    }

    /// The autoscaler and the controller end.
    async fn end(&mut self) {
        let Some(process) = self.process.take() else { return };
        process.stop.cancel();
        process.tasks.wait().await;
        process.autoscaler.stop().await;
    }

    /// They begin anew, where activators look for them.
    async fn begin_anew(&mut self) {
        let stats = TcpListener::bind(self.stats).await.expect("the port it had");
        self.begin(stats).await;
    }

    fn autoscaler(&self) -> &Autoscaler {
        &self.process.as_ref().expect("it runs").autoscaler
    }

    async fn stop(mut self) {
        self.cluster.close_gateway().await;
        self.end().await;
        self.stop.cancel();
        self.tasks.wait().await;
        self.cluster.stop().await;
    }

    fn balancer(&self) -> &Alb {
        self.cluster.balancer().expect("the double")
    }

    /// Applies manifests and waits until the Services among them are ready.
    async fn apply(&self, manifests: &str) {
        let parsed = manifest::parse("test", manifests).expect("manifests");
        let refused = manifest::apply(&self.served.client(), &parsed).await;
        assert!(refused.is_empty(), "{refused:?}");
        for one in parsed.iter().filter(|one| one.resource.kind == "Service") {
            let name = one.object.metadata.name.clone().expect("a name");
            self.is_ready(&name).await;
        }
    }

    async fn is_ready(&self, name: &str) {
        let services: Api<ebb::api::serving::Service> = Api::namespaced(self.served.client(), "default");
        eventually(&format!("{name} is ready"), async || {
            let service = services.get(name).await.map_err(|error| error.to_string())?;
            let status = service.status.clone().unwrap_or_default();
            let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready");
            let is = ready.is_some_and(|ready| ready.status == ebb::api::conditions::Status::True);
            let current = Some(status.observed_generation) == service.metadata.generation;
            if is && current { Ok(()) } else { Err(format!("{:?}", status.conditions)) }
        })
        .await;
    }

    /// A request of a client to one of the addresses: the status, and what else went wrong.
    async fn get(&self, address: usize, host: &str, path: &str) -> Result<u16, String> {
        let client = reqwest::Client::builder().pool_max_idle_per_host(0).build().expect("a client");
        let url = format!("http://{}{path}", self.addresses[address]);
        let response = client.get(url).header("Host", format!("{host}.default.example.com")).send().await;
        let response = response.map_err(|error| format!("{error:?}"))?;
        let status = response.status().as_u16();
        let text = response.text().await.map_err(|error| format!("{error:?}"))?;
        if status == 200 { Ok(status) } else { Err(format!("{status} {text}")) }
    }

    /// Who stands behind an address, for the first revision of a service.
    async fn who(&self, address: usize, name: &str) -> Answer {
        let question = Question {
            secure: false,
            http2: false,
            host: format!("{name}.default.example.com"),
            path: "/healthz".to_owned(),
            headers: Vec::new(),
        };
        let reply = question.ask(self.addresses[address], Topic::Who).await;
        reply.map_or(Answer::Failed, |reply| reply.who(&RevisionKey::new("default", &format!("{name}-00001"))))
    }

    async fn replicas(&self, revision: &str) -> i32 {
        let deployments: Api<Deployment> = Api::namespaced(self.served.client(), "default");
        let found = deployments.get(&format!("{revision}-deployment")).await.expect("a Deployment");
        found.spec.and_then(|spec| spec.replicas).unwrap_or(1)
    }

    async fn goes_to(&self, revision: &str, replicas: i32) {
        eventually(&format!("{revision} has {replicas} replicas"), async || {
            let found = self.replicas(revision).await;
            if found == replicas { Ok(()) } else { Err(format!("{found}; {}", self.story(revision).await)) }
        })
        .await;
    }

    /// `ebb explain` says so of a revision.
    async fn explained(&self, revision: &str, part: &str) {
        let admin = self.process.as_ref().expect("it runs").admin;
        eventually(&format!("{revision} to be explained with {part:?}"), async || {
            let asked = reqwest::get(format!("http://{admin}/explain/default/{revision}")).await.expect("an answer");
            let text = asked.text().await.expect("text");
            if text.contains(part) { Ok(()) } else { Err(text) }
        })
        .await;
    }

    /// What is written down of a gate, and what holds the last pod.
    async fn story(&self, revision: &str) -> String {
        let text = self.autoscaler().metrics().exposition(Format::Prometheus);
        let held = text.lines().filter(|line| line.starts_with("ebb_alb_gate_held{") && !line.ends_with(" 0"));
        format!("{}; {:?}", self.marks(revision).await, held.collect::<Vec<_>>())
    }

    /// Where the gate of a revision is, as it is written down.
    async fn phase(&self, revision: &str) -> String {
        let marks = self.marks(revision).await;
        let phase = marks.split(' ').find_map(|mark| mark.strip_prefix("observed-path="));
        phase.unwrap_or("none").to_owned()
    }

    /// What is written down of a gate.
    async fn marks(&self, revision: &str) -> String {
        let api: Api<ebb::api::serverless_service::ServerlessService> =
            Api::namespaced(self.served.client(), "default");
        let annotations = api.get(revision).await.map(|sks| sks.metadata.annotations).unwrap_or_default();
        let ours = annotations.unwrap_or_default().into_iter().filter(|(key, _)| key.starts_with("knative-alb/"));
        let words = ours.map(|(key, value)| format!("{}={value}", key.trim_start_matches("knative-alb/")));
        words.collect::<Vec<_>>().join(" ")
    }

    /// Events about a revision with this reason.
    async fn events(&self, revision: &str, reason: &str) -> Vec<String> {
        let events: Api<Event> = Api::namespaced(self.served.client(), "default");
        let all = events.list(&ListParams::default()).await.expect("events").items.into_iter();
        let about = all.filter(|event| {
            event.involved_object.name.as_deref() == Some(revision) && event.reason.as_deref() == Some(reason)
        });
        about.filter_map(|event| event.message).collect()
    }

    /// Somebody else's wrong object, `foreign`: no rule changes any more, and servers come and go.
    async fn block_rules(&self) -> Api<Ingress> {
        let wrong = json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
            "metadata": {"name": "foreign", "annotations": {"alb.ingress.kubernetes.io/actions.x": "{}"}},
            "spec": {"ingressClassName": "knative-alb-ingress-internet", "rules": [{"host": "x.example.com", "http": {"paths": [
                {"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "x", "port": {"name": "use-annotation"}}}}]}}]},
        });
        let ingresses: Api<Ingress> = Api::namespaced(self.served.client(), "default");
        ingresses.patch("foreign", &PatchParams::apply("test"), &Patch::Apply(&wrong)).await.expect("written");
        eventually("the refusal", async || {
            self.balancer().refused().pop().ok_or_else(|| "nothing is refused".to_owned())
        })
        .await;
        ingresses
    }

    fn metric(&self, series: &str) -> Option<f64> {
        let text = self.autoscaler().metrics().exposition(Format::Prometheus);
        text.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
    }
}

async fn free() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.expect("a free port")
}

async fn put(client: &kube::Client, version: &str, kind: &str, mut object: Value) {
    object["apiVersion"] = version.into();
    object["kind"] = kind.into();
    let name = object["metadata"]["name"].as_str().expect("a name").to_owned();
    let maps: Api<k8s_openapi::api::core::v1::ConfigMap> = Api::namespaced(client.clone(), "knative-serving");
    maps.patch(&name, &PatchParams::apply("test").force(), &Patch::Apply(object)).await.expect("written");
}

/// Looks until there is an answer.
async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Result<T, String>) -> T {
    let clock = Clock::system();
    let until = clock.now() + Span::from_std(PATIENCE);
    loop {
        match look().await {
            Ok(found) => return found,
            Err(seen) => assert!(clock.now() < until, "waited {PATIENCE:?} in vain until {what}; last seen: {seen}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A service of the sample app with a window of 6 s, and with `traffic` where it is not all for the latest revision.
fn service(name: &str, annotations: &str, traffic: &str) -> String {
    let mut text = service_alone(name, annotations);
    if !traffic.is_empty() {
        writeln!(text, "  traffic: {traffic}").expect("writing to a string");
    }
    text
}

const DIRECT: &str = "autoscaling.knative.dev/target-burst-capacity: \"0\"";

/// What was counted in a run of cycles.
#[derive(Default, Debug)]
struct Report {
    requests: u64,
    /// By where the gate of its service's first revision was.
    phases: BTreeMap<String, u64>,
    to_zero: usize,
    lost: BTreeMap<String, u64>,
}

/// Six services for a while, each asked now and then: three reached directly, one with a split, two that grow. It lasts at
/// least so long, and until there is enough to judge by.
async fn cycles(network: u8, mode: &str, gated: bool, lasting: Duration, enough: fn(&Report) -> bool) -> Report {
    // A port takes a move of its own to zero and back, so addresses that follow twice as soon leave about the same time for it.
    let late = Span::ZERO..=Span::from_seconds(if mode == "port" { 3 } else { 6 });
    let manners = Manners { membership: late, rules: Span::ZERO..=Span::from_millis(500), ..Manners::default() };
    let network_map = json!({"alb-data-plane": mode});
    // With ports a revision that grows has its pods behind the load balancer. One pod fewer is none of the gate's concern:
    // it serves until the load balancer has noticed.
    let quiet = Duration::from_millis(if mode == "port" { 15_000 } else { 250 });
    let system = System::start(Plan { addresses: 2, manners, gated, quiet, network_map, ..Plan::new(network) }).await;
    let most = "autoscaling.knative.dev/max-scale: \"1\"";
    let one = format!("{DIRECT}, {most}");
    for name in ["one-a", "split"] {
        system.apply(&service(name, &one, "")).await;
    }
    // With a port and room for bursts only with activators beside the pods, as is the default, the way to zero takes one move.
    for name in ["one-b", "one-c"] {
        system.apply(&service(name, if mode == "port" { most } else { &one }, "")).await;
    }
    for name in ["many-a", "many-b"] {
        system.apply(&service(name, "autoscaling.knative.dev/target: \"2\"", "")).await;
    }
    // Without gates nothing keeps the members' pods while addresses follow that need as long as a window is: such a split may
    // never be ready.
    if gated {
        let split = "[{revisionName: split-00001, percent: 50}, {revisionName: split-00002, percent: 50}]";
        system.apply(&service("split", &format!("{one}, test/version: \"2\""), split)).await;
    }

    let clock = Clock::system();
    let (until, latest) = (clock.now() + Span::from_std(lasting), clock.now() + Span::from_std(PATIENCE));
    let report = Mutex::new(Report::default());
    let mut feed = system.autoscaler().feed().listen();
    let counting = async {
        while let Ok(change) = feed.recv().await {
            if change.to == 0 {
                report.lock().expect("no panic above").to_zero += 1;
            }
        }
    };
    let asking =
        futures::future::join_all(["one-a", "one-b", "one-c", "split", "many-a", "many-b"].map(async |name| {
            let mut random = StdRng::seed_from_u64(name.bytes().map(u64::from).sum());
            while clock.now() < until || clock.now() < latest && !enough(&report.lock().expect("no panic above")) {
                let burst = if name.starts_with("many") { random.random_range(1..30) } else { 2 };
                let path = if name.starts_with("many") { "/?sleep=700ms" } else { "/" };
                let phase = system.phase(&format!("{name}-00001")).await;
                let answers = (0..burst).map(|number| system.get(number % 2, name, path));
                let answers = futures::future::join_all(answers).await;
                {
                    let mut report = report.lock().expect("no panic above");
                    *report.phases.entry(phase).or_default() += u64::try_from(burst).expect("few at a time");
                    for answer in answers {
                        report.requests += 1;
                        if let Err(lost) = answer {
                            *report
                                .lost
                                .entry(format!("{name}: {}", lost.chars().take(80).collect::<String>()))
                                .or_default() += 1;
                        }
                    }
                }
                // Around the time at which it goes to zero.
                let pause = random.random_range(100..16_000);
                tokio::time::sleep(Duration::from_millis(pause)).await;
            }
        }));
    tokio::select! {
        _ = asking => {}
        () = counting => {}
    }
    system.stop().await;
    report.into_inner().expect("no panic above")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_is_lost_on_the_way_to_zero_and_back_and_without_the_gates_some_are() {
    let seconds = std::env::var("EBB_GATES_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(30);
    let lasting = Duration::from_secs(seconds);
    let (header, port, reckless) = tokio::join!(
        cycles(171, "header", true, lasting, |report| report.to_zero >= 1),
        cycles(177, "port", true, lasting, |report| report.to_zero >= 1),
        cycles(172, "header", false, lasting.min(Duration::from_mins(1)), |report| !report.lost.is_empty())
    );
    eprintln!("header: {header:#?}\nport: {port:#?}\nheader without the gates: {reckless:#?}");
    assert_eq!(header.lost, BTreeMap::new());
    assert!(header.to_zero >= 1, "{header:?}");
    assert_eq!(port.lost, BTreeMap::new());
    assert!(port.to_zero >= 1, "{port:?}");
    assert!(!reckless.lost.is_empty(), "or the judge is blind: {reckless:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_does_not_follow_keeps_the_last_pod_and_is_named() {
    let system = System::start(Plan { addresses: 2, ..Plan::new(173) }).await;
    system.apply(&service("web", DIRECT, "")).await;
    eventually("both addresses use the pod, and the gate has seen it", async || {
        system.get(1, "web", "/").await?;
        // It asks each until it has had 19 answers.
        let seen = system.metric("ebb_alb_probes_total{answer=\"pod\"}");
        match (system.who(1, "web").await, seen) {
            (Answer::Pod, Some(30.0..)) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    system.balancer().set_stuck(1, true);
    let told = eventually("the event", async || {
        let told = system.events("web-00001", "ScaleToZeroHeld").await;
        if told.is_empty() { Err(system.marks("web-00001").await) } else { Ok(told) }
    })
    .await;
    let named = told[0].contains(&system.addresses[1].to_string());
    assert!(named && told[0].contains("default/web forward-default"), "{told:?}");
    assert!(told[0].contains("the last answer came from a pod"), "{told:?}");
    assert_eq!(system.replicas("web-00001").await, 1);
    assert!(system.metric("ebb_alb_gate_failures_total") >= Some(1.0));
    // It follows again: tried again by itself.
    system.balancer().set_stuck(1, false);
    system.goes_to("web-00001", 0).await;
    for address in 0..2 {
        system.get(address, "web", "/").await.expect("an answer");
    }
    system.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revision_that_two_classes_lead_to_is_kept_by_the_stricter() {
    let system = System::start(Plan::new(184)).await;
    system.apply(&service("web", DIRECT, "")).await;
    let kingresses: Api<KIngress> = Api::namespaced(system.served.client(), "default");
    let mut other = kingresses.get("web").await.expect("a KIngress");
    // Kourier's, ready, and without a load balancer in the way.
    other.metadata = serde_json::from_value(json!({"name": "by-kourier", "namespace": "default", "annotations":
        {"networking.knative.dev/ingress.class": "kourier.ingress.networking.knative.dev"}}))
    .expect("metadata");
    other.spec.rules.iter_mut().for_each(|rule| rule.hosts = vec!["kourier.example.com".to_owned()]);
    kingresses.create(&PostParams::default(), &other).await.expect("created");
    eventually("the gate has seen the pod", async || match system.metric("ebb_alb_probes_total{answer=\"pod\"}") {
        Some(15.0..) => Ok(()),
        seen => Err(format!("{seen:?}")),
    })
    .await;
    system.balancer().set_stuck(0, true);
    eventually("the event", async || match system.events("web-00001", "ScaleToZeroHeld").await {
        told if told.is_empty() => Err(system.marks("web-00001").await),
        _ => Ok(()),
    })
    .await;
    assert_eq!(system.replicas("web-00001").await, 1);
    // The load balancer follows: both agree.
    system.balancer().set_stuck(0, false);
    system.goes_to("web-00001", 0).await;
    system.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_of_a_split_keeps_a_pod_as_long_as_it_is_one() {
    let system = System::start(Plan::new(174)).await;
    system.apply(&service("web", DIRECT, "")).await;
    system.goes_to("web-00001", 0).await;
    // A second revision shares the traffic: the first is woken before the rule is published.
    let split = "[{revisionName: web-00001, percent: 50}, {revisionName: web-00002, percent: 50}]";
    system.apply(&service("web", &format!("{DIRECT}, test/version: \"2\""), split)).await;
    for _ in 0..20 {
        system.get(0, "web", "/").await.expect("an answer");
    }
    let ingresses: Api<Ingress> = Api::namespaced(system.served.client(), "default");
    let text = serde_json::to_string(&ingresses.get("web").await.expect("an Ingress")).expect("JSON");
    assert!(text.contains("web-00001-private") && text.contains("web-00002-private"), "{text}");
    eventually("no load is left", async || {
        let rows = system.autoscaler().rows();
        let idle = rows.iter().all(|row| row.decision.as_ref().is_some_and(|decision| decision.desired == 0));
        if idle { Ok(()) } else { Err(format!("{rows:?}")) }
    })
    .await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!((system.replicas("web-00001").await, system.replicas("web-00002").await), (1, 1));
    let kept = "the load balancer keeps the last pod: a split cannot reach it without a pod, so one is kept; alb-data-plane \
        auto is header: ";
    system.explained("web-00001", &format!("{kept}no self-test has said what the load balancer does")).await;
    let seen = json!({"metadata": {"name": ebb::routing::capabilities::MAP, "namespace": "knative-serving"},
        "data": {"foreign-pods": "true", "two-ports": "false"}});
    put(&system.served.client(), "v1", "ConfigMap", seen).await;
    system.explained("web-00001", &format!("{kept}the self-test did not see servers of two ports used")).await;
    // The first gets nothing any more: once the load balancer was seen to follow it may go, and the second too.
    let all = "[{revisionName: web-00002, percent: 100}]";
    system.apply(&service("web", &format!("{DIRECT}, test/version: \"2\""), all)).await;
    system.goes_to("web-00001", 0).await;
    system.goes_to("web-00002", 0).await;
    system.get(0, "web", "/").await.expect("an answer");
    system.stop().await;
}

/// The data plane of ports, with everything else as it is.
fn by_port(network: u8) -> Plan {
    Plan { network_map: json!({"alb-data-plane": "port"}), ..Plan::new(network) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_port_each_members_of_a_split_go_to_zero_and_every_request_is_answered() {
    let system = System::start(Plan { addresses: 2, ..by_port(175) }).await;
    system.apply(&service("web", DIRECT, "")).await;
    let split = "[{revisionName: web-00001, percent: 50}, {revisionName: web-00002, percent: 50}]";
    // The second has activators beside its pods, as is the default, from when the route first leads to it.
    system.apply(&service("web", "test/version: \"2\"", split)).await;
    let ingresses: Api<Ingress> = Api::namespaced(system.served.client(), "default");
    let text = serde_json::to_string(&ingresses.get("web").await.expect("an Ingress")).expect("JSON");
    assert!(text.contains("web-00001-alb") && text.contains("K-Alb-Select"), "{text}");
    for cycle in 0..2 {
        system.goes_to("web-00001", 0).await;
        system.goes_to("web-00002", 0).await;
        // A client that claims to mean one revision is not believed.
        let client = reqwest::Client::builder().pool_max_idle_per_host(0).build().expect("a client");
        let mut answers: BTreeMap<String, u32> = BTreeMap::new();
        for number in 0..40 {
            let response = client
                .get(format!("http://{}/", system.addresses[number % 2]))
                .header("Host", "web.default.example.com")
                .header("Knative-Serving-Namespace", "default")
                .header("Knative-Serving-Revision", "web-00001")
                .send()
                .await
                .expect("an answer");
            assert_eq!(response.status().as_u16(), 200, "cycle {cycle}");
            let text = response.text().await.expect("text");
            let revision = text.split("revision=").nth(1).and_then(|rest| rest.split(' ').next()).expect("a revision");
            *answers.entry(revision.to_owned()).or_default() += 1;
        }
        let of = |name: &str| answers.get(name).copied().unwrap_or(0);
        assert_eq!(of("web-00001") + of("web-00002"), 40, "{answers:?}");
        assert!(of("web-00001") >= 5 && of("web-00002") >= 5, "weights hold with members at zero: {answers:?}");
    }
    system.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revision_changes_over_to_a_port_with_a_pod_and_without_a_lost_request() {
    let system = System::start(Plan::new(176)).await;
    // One whose pods are reached directly, and one with activators beside them, as is the default.
    let names = ["web", "burst"];
    for (name, annotations) in names.into_iter().zip([DIRECT, "test/version: \"1\""]) {
        system.apply(&service(name, annotations, "")).await;
    }
    for name in names {
        system.goes_to(&format!("{name}-00001"), 0).await;
    }
    let asking = CancellationToken::new();
    let lost = Mutex::new(Vec::new());
    let ask = async {
        while !asking.is_cancelled() {
            for name in names {
                if let Err(error) = system.get(0, name, "/").await {
                    lost.lock().expect("no panic above").push(error);
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let set = async |data: Value| {
        let mut map = json!({"metadata": {"name": "config-network", "namespace": "knative-serving"}});
        map["data"] = data;
        put(&system.served.client(), "v1", "ConfigMap", map).await;
    };
    let change = async {
        set(json!({"alb-data-plane": "port"})).await;
        let ingresses: Api<Ingress> = Api::namespaced(system.served.client(), "default");
        for name in names {
            eventually("the rule leads to the port", async || {
                let ingress = ingresses.get(name).await.map_err(|error| error.to_string())?;
                let text = serde_json::to_string(&ingress).expect("JSON");
                let port = format!("{name}-00001-alb");
                if text.contains(&port) { Ok(()) } else { Err(system.marks(&format!("{name}-00001")).await) }
            })
            .await;
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
        asking.cancel();
    };
    tokio::join!(ask, change);
    assert_eq!(*lost.lock().expect("no panic above"), Vec::<String>::new());
    for name in names {
        system.goes_to(&format!("{name}-00001"), 0).await;
        system.get(0, name, "/").await.expect("an answer");
    }
    // Other settings reach the Services there are, which keep their ports.
    let services: Api<Service> = Api::namespaced(system.served.client(), "default");
    let told = async |name: &str| {
        let service = services.get(&format!("{name}-00001-alb")).await.expect("a Service");
        let told = |key: &str| service.metadata.annotations.as_ref().and_then(|all| all.get(key)).cloned();
        let kind = service.spec.as_ref().and_then(|spec| spec.type_.clone());
        (told("knative-alb/activation-port"), told("knative-alb/request-timeout"), kind)
    };
    let text = |text: &str| Some(text.to_owned());
    for name in names {
        let (port, timeout, kind) = told(name).await;
        assert_eq!((timeout, kind), (text("180"), text("ClusterIP")));
        let others = json!({"alb-data-plane": "port", "alb-request-timeout": "60", "eni": "false"});
        set(others).await;
        eventually("it is as set", async || {
            let found = told(name).await;
            if found == (port.clone(), text("60"), text("NodePort")) { Ok(()) } else { Err(format!("{found:?}")) }
        })
        .await;
        set(json!({"alb-data-plane": "port"})).await;
        eventually("it is as it was", async || {
            let found = told(name).await;
            if found == (port.clone(), text("180"), text("ClusterIP")) { Ok(()) } else { Err(format!("{found:?}")) }
        })
        .await;
        system.get(0, name, "/").await.expect("an answer");
    }
    system.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_controller_that_has_stopped_keeps_the_last_pod_until_it_goes_on() {
    let system = System::start(Plan::new(178)).await;
    system.apply(&service("web", DIRECT, "")).await;
    eventually("a request is answered", async || system.get(0, "web", "/").await).await;
    system.balancer().stop_controller(true);
    eventually("it is told", async || {
        let told = system.events("web-00001", "ScaleToZeroHeld").await;
        if told.is_empty() { Err(system.marks("web-00001").await) } else { Ok(()) }
    })
    .await;
    assert_eq!(system.replicas("web-00001").await, 1);
    system.get(0, "web", "/").await.expect("an answer");
    system.balancer().stop_controller(false);
    system.goes_to("web-00001", 0).await;
    system.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_activators_revisions_at_zero_are_woken() {
    let system = System::start(Plan::new(179)).await;
    system.apply(&service("web", DIRECT, "")).await;
    let slices: Api<EndpointSlice> = Api::namespaced(system.served.client(), "knative-serving");
    let all = slices.get("activator-service").await.expect("the activators");
    let change = async |ready: usize| {
        let mut slice = all.clone();
        slice.endpoints.truncate(ready);
        slice.metadata.resource_version = None;
        slice.metadata.managed_fields = None;
        let params = PatchParams::apply("test").force();
        slices.patch("activator-service", &params, &Patch::Apply(&slice)).await.expect("written");
    };
    for ready in [1, 0] {
        system.goes_to("web-00001", 0).await;
        // It was in use within the hour.
        system.get(0, "web", "/").await.expect("an answer");
        system.goes_to("web-00001", 0).await;
        change(ready).await;
        system.goes_to("web-00001", 1).await;
        let told = eventually("it is told", async || {
            let reason = if ready == 0 { "ActivatorLost" } else { "ScaleToZeroHeld" };
            let told = system.events("web-00001", reason).await;
            if told.is_empty() { Err(system.marks("web-00001").await) } else { Ok(told) }
        })
        .await;
        assert!(told[0].contains(&format!("{ready} activators are there and 2 are needed")), "{told:?}");
        eventually("its pod answers", async || system.get(0, "web", "/").await).await;
        change(2).await;
    }
    system.goes_to("web-00001", 0).await;
    system.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn somebody_elses_wrong_object_stops_rules_and_no_revision() {
    let system = System::start(Plan::new(180)).await;
    system.apply(&service("web", DIRECT, "")).await;
    let ingresses = system.block_rules().await;
    for _ in 0..2 {
        system.goes_to("web-00001", 0).await;
        system.get(0, "web", "/").await.expect("an answer");
    }
    // What would need another rule waits.
    let new = manifest::parse("test", &service("new", DIRECT, "")).expect("a manifest");
    assert!(manifest::apply(&system.served.client(), &new).await.is_empty());
    eventually("its rule is written", async || ingresses.get("new").await.map_err(|error| error.to_string())).await;
    let kingresses: Api<ebb::api::ingress::Ingress> = Api::namespaced(system.served.client(), "default");
    let kingress = kingresses.get("new").await.expect("a KIngress");
    let conditions = kingress.status.expect("a status").conditions;
    let ready = conditions.iter().find(|condition| condition.type_ == "LoadBalancerReady").expect("a condition");
    assert_ne!(ready.status, ebb::api::conditions::Status::True);
    ingresses.delete("foreign", &DeleteParams::default()).await.expect("deleted");
    system.is_ready("new").await;
    system.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_deleted_on_the_way_to_zero_take_no_request_along() {
    let late = Span::from_seconds(1)..=Span::from_seconds(2);
    let manners = Manners { membership: late, ..Plan::new(0).manners };
    let system = System::start(Plan { manners, ..Plan::new(181) }).await;
    system.apply(&service("web", DIRECT, "")).await;
    let pods: Api<Pod> = Api::namespaced(system.served.client(), "default");
    for _ in 0..2 {
        eventually("activators alone are used", async || {
            let marks = system.marks("web-00001").await;
            if marks.contains("observed-path=cold") { Ok(()) } else { Err(marks) }
        })
        .await;
        for pod in pods.list(&ListParams::default()).await.expect("pods").items {
            // It may be gone already.
            let _ = pods.delete(pod.metadata.name.as_deref().expect("a name"), &DeleteParams::default()).await;
        }
        for answer in futures::future::join_all((0..10).map(|_| system.get(0, "web", "/"))).await {
            answer.expect("an answer");
        }
    }
    system.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_ends_between_the_proof_and_the_write_leaves_nothing_of_the_proof() {
    let mut system = System::start(Plan::new(185)).await;
    system.apply(&service("web", DIRECT, "")).await;
    // What was proven cannot be written.
    let scale = (Verb::Patch, "deployments.apps/scale");
    let refused = Fault::once(Effect::fail(500)).on(scale.0).of(scale.1).times(u32::MAX);
    let before = system.served.store.faults().count(scale.0, scale.1);
    system.served.store.faults().add(refused);
    eventually("it is proven, and written in vain", async || {
        let marks = system.marks("web-00001").await;
        let proven = marks.contains("observed-path=cold-confirmed") && marks.contains("confirmed-at=");
        let tried = system.served.store.faults().count(scale.0, scale.1) > before;
        if proven && tried { Ok(()) } else { Err(marks) }
    })
    .await;
    system.end().await;
    // While nobody runs the load balancer goes back to the pod, and an address follows nothing any more.
    let services: Api<ebb::api::serverless_service::ServerlessService> =
        Api::namespaced(system.served.client(), "default");
    let serve = Patch::Merge(json!({"spec": {"mode": "Serve"}}));
    services.patch("web-00001", &PatchParams::default(), &serve).await.expect("written");
    eventually("it uses the pod", async || match system.who(0, "web").await {
        Answer::Pod => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    system.balancer().set_stuck(0, true);
    system.served.store.faults().clear();
    let marks = system.marks("web-00001").await;
    assert!(marks.contains("observed-path=cold-confirmed"), "the proof is on record still: {marks}");
    system.begin_anew().await;
    eventually("it is told that the last pod stays", async || {
        match system.events("web-00001", "ScaleToZeroHeld").await {
            told if told.is_empty() => Err(system.marks("web-00001").await),
            _ => Ok(()),
        }
    })
    .await;
    assert_eq!(system.replicas("web-00001").await, 1);
    let marks = system.marks("web-00001").await;
    assert!(!marks.contains("confirmed-at="), "{marks}");
    system.get(0, "web", "/").await.expect("the pod is there");
    system.balancer().set_stuck(0, false);
    system.goes_to("web-00001", 0).await;
    system.get(0, "web", "/").await.expect("an answer");
    system.stop().await;
}

/// A KIngress goes while its revision is at zero, and the load balancer does not follow: requests are answered as before.
async fn deleted_at_zero(network: u8, mode: &str) {
    // Long enough that a busy machine is back at zero before.
    let timers = Timers { horizon: Span::from_seconds(150), ..timers() };
    let network_map = json!({"alb-data-plane": mode});
    let system = System::start(Plan { network_map, timers, ..Plan::new(network) }).await;
    // A revision that lives longer than its route.
    let configurations: Api<Configuration> = Api::namespaced(system.served.client(), "default");
    let routes: Api<Route> = Api::namespaced(system.served.client(), "default");
    let annotations =
        json!({"autoscaling.knative.dev/window": "6s", "autoscaling.knative.dev/target-burst-capacity": "0"});
    let configuration = json!({
        "apiVersion": "serving.knative.dev/v1", "kind": "Configuration", "metadata": {"name": "web", "namespace": "default"},
        "spec": {"template": {"metadata": {"annotations": annotations},
            "spec": {"containerConcurrency": 10, "containers": [{"image": "ebb.local/hello"}]}}},
    });
    let route = json!({
        "apiVersion": "serving.knative.dev/v1", "kind": "Route", "metadata": {"name": "web", "namespace": "default"},
        "spec": {"traffic": [{"configurationName": "web", "percent": 100}]},
    });
    let params = PatchParams::apply("test");
    configurations.patch("web", &params, &Patch::Apply(configuration)).await.expect("written");
    routes.patch("web", &params, &Patch::Apply(route)).await.expect("written");
    eventually("a request is answered", async || system.get(0, "web", "/").await).await;
    system.goes_to("web-00001", 0).await;
    let ingresses = system.block_rules().await;
    routes.delete("web", &DeleteParams::background()).await.expect("deleted");
    eventually("its rules are taken out", async || match ingresses.get_opt("web").await {
        Ok(None) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    // The load balancer has them still; what they lead to stands, and no proof is spared.
    system.get(0, "web", "/").await.expect("an answer");
    system.goes_to("web-00001", 0).await;
    let marks = system.marks("web-00001").await;
    assert!(marks.contains("observed-path=cold") && marks.contains("routes=web"), "{marks}");
    system.get(0, "web", "/").await.expect("an answer");
    // It follows; when nobody can have the rules any more they count no more.
    ingresses.delete("foreign", &DeleteParams::default()).await.expect("deleted");
    eventually("the rules are gone", async || match system.get(0, "web", "/").await {
        // What answers for hosts nobody serves, or nothing at all.
        Err(text) if text.contains("no such route") || text.contains("no rule") => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    eventually("no rule counts", async || match system.phase("web-00001").await.as_str() {
        "unrouted" => Ok(()),
        other => Err(other.to_owned()),
    })
    .await;
    system.goes_to("web-00001", 0).await;
    // And with the revision goes what was made for it.
    configurations.delete("web", &DeleteParams::background()).await.expect("deleted");
    let services: Api<Service> = Api::namespaced(system.served.client(), "default");
    let endpoints: Api<Endpoints> = Api::namespaced(system.served.client(), "default");
    eventually("nothing is left", async || {
        let services = services.list(&ListParams::default()).await.map_err(|error| error.to_string())?.items;
        let endpoints = endpoints.list(&ListParams::default()).await.map_err(|error| error.to_string())?.items;
        let names = services.into_iter().map(|one| one.metadata).chain(endpoints.into_iter().map(|one| one.metadata));
        let left: Vec<String> = names.filter_map(|meta| meta.name).filter(|name| name.starts_with("web")).collect();
        if left.is_empty() { Ok(()) } else { Err(left.join(", ")) }
    })
    .await;
    system.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_kingress_led_to_outlives_it_until_no_load_balancer_can_have_its_rules() {
    tokio::join!(deleted_at_zero(186, "header"), deleted_at_zero(187, "port"));
}

/// A websocket through an address: what the far end sends back.
async fn echoed(system: &System, address: usize, name: &str) {
    let to = system.addresses[address];
    let mut request = format!("ws://{to}/ws").into_client_request().expect("a request");
    let host = HeaderValue::try_from(format!("{name}.default.example.com")).expect("a host");
    request.headers_mut().insert("host", host);
    let stream = TcpStream::connect(to).await.expect("a connection");
    let (mut socket, _) = client_async(request, stream).await.expect("an upgrade");
    for text in ["one", "two"] {
        socket.send(Message::text(text)).await.expect("sent");
        assert_eq!(socket.next().await.expect("a message").expect("a message"), Message::text(text));
    }
    socket.close(None).await.expect("closed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conformance_retry_timeout_and_websockets() {
    let system = System::start(Plan { addresses: 2, ..by_port(182) }).await;
    system.apply(&service("web", DIRECT, "")).await;
    system.get(0, "web", "/").await.expect("an answer");
    let asked = async |path: &str| {
        let client = reqwest::Client::new();
        let url = format!("http://{}{path}", system.addresses[0]);
        let host = "web.default.example.com";
        client.get(url).header("Host", host).send().await.expect("an answer").status().as_u16()
    };
    // retry: a backend that says 503 was asked once, as its queue-proxy counts.
    assert_eq!(asked("/?code=503").await, 503);
    let pods: Api<Pod> = Api::namespaced(system.served.client(), "default");
    let mut times = 0.0;
    for pod in pods.list(&ListParams::default()).await.expect("pods").items {
        let ip = pod.status.and_then(|status| status.pod_ip).expect("an address");
        let page = reqwest::get(format!("http://{ip}:9091/metrics")).await.expect("a page");
        let text = page.text().await.expect("text");
        let refused = text.lines().filter(|line| {
            line.starts_with("http_server_request_duration_seconds_count{")
                && line.contains("http_response_status_code=\"503\"")
        });
        times += refused.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>();
    }
    assert!((times - 1.0).abs() < f64::EPSILON, "asked {times} times");
    // timeout: ten seconds are waited for.
    assert_eq!(asked("/?sleep=10s").await, 200);
    // websocket, and websocket/split with members that are at zero.
    echoed(&system, 0, "web").await;
    let split = "[{revisionName: web-00001, percent: 50}, {revisionName: web-00002, percent: 50}]";
    system.apply(&service("web", &format!("{DIRECT}, test/version: \"2\""), split)).await;
    for revision in ["web-00001", "web-00002"] {
        system.goes_to(revision, 0).await;
    }
    for number in 0..10 {
        echoed(&system, number % 2, "web").await;
    }
    system.stop().await;
}

/// Requests without a pause until `done`: those that were not answered with 200, and how many there were.
async fn under_traffic<T>(system: &System, name: &str, done: impl Future<Output = T>) -> (T, u64, Vec<String>) {
    let (mut asked, mut lost) = (0, Vec::new());
    let ask = async {
        for number in 0.. {
            asked += 1;
            if let Err(error) = system.get(number % system.addresses.len(), name, "/").await {
                lost.push(error);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let found = tokio::select! {
        found = done => found,
        () = ask => unreachable!("it asks on"),
    };
    (found, asked, lost)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conformance_update_twenty_changes_under_traffic() {
    let system = System::start(Plan { addresses: 2, ..Plan::new(183) }).await;
    system.apply(&service("web", DIRECT, "")).await;
    let revisions: Api<Revision> = Api::namespaced(system.served.client(), "default");
    let changes = async {
        for version in 2..=21 {
            system.apply(&service("web", &format!("{DIRECT}, test/version: \"{version}\""), "")).await;
            // What served before is taken away as soon as it is told that the new one does.
            let before = format!("web-{:05}", version - 1);
            revisions.delete(&before, &DeleteParams::background()).await.expect("deleted");
        }
    };
    let ((), asked, lost) = under_traffic(&system, "web", changes).await;
    assert_eq!(lost, Vec::<String>::new(), "of {asked}");
    system.stop().await;
}
