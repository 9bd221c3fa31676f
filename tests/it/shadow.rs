//! A shadow beside the autoscaler of a whole local cluster: real API over HTTP, real pods, an activator, real requests.

use crate::apiserver::Served;
use crate::patience::eventually;
use ebb::api::serving::Service;
use ebb::app::shadow::{self, ShadowAutoscaler};
use ebb::app::{Autoscaler, Listen, Options};
use ebb::clock::Clock;
use ebb::controllers::settings::{self, Maps};
use ebb::controllers::shadow::compare::{Aspect, Basis, Blind};
use ebb::controllers::shadow::report::{Report, RevisionReport};
use ebb::dataplane::activator::{self, Activator};
use ebb::k8s::dial::SystemDial;
use ebb::k8s::read_only::read_only;
use ebb::local::dial::LocalDial;
use ebb::local::knative::admission::admission;
use ebb::local::pods::kubelet;
use ebb::local::{self, AutoscalerSettings, LocalCluster, manifest};
use ebb::observe::explain::of_journal;
use ebb::observe::journal::replay::{Event, Step};
use ebb::observe::journal::{self, Journal, Replay};
use ebb::observe::metrics::Format;
use ebb::ownership::Choice;
use ebb::ownership::class::Classes;
use ebb::stats::client;
use ebb::units::{Compat, Span};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::Client;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::client::Body;
use serde_json::json;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

const COMPAT: Compat = Compat::IMPROVED;
/// The last part of the addresses of this test's own network.
const NETWORK: Ipv4Addr = Ipv4Addr::new(127, 163, 0, 0);
const ACTIVATOR: Ipv4Addr = Ipv4Addr::new(127, 163, 255, 1);

async fn free() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.expect("a free port")
}

/// A client that notes the methods of what is really sent.
fn noting(client: Client, methods: &Arc<Mutex<BTreeMap<String, usize>>>) -> Client {
    let (namespace, methods) = (client.default_namespace().to_owned(), Arc::clone(methods));
    let service = tower::service_fn(move |request: http::Request<Body>| {
        *methods.lock().expect("no panic above").entry(request.method().to_string()).or_default() += 1;
        let client = client.clone();
        async move { client.send(request).await }
    });
    Client::new(service, namespace)
}

async fn shadow(client: Client, dial: LocalDial, maps: Maps, journal: Option<Journal>) -> ShadowAutoscaler {
    let options = shadow::Options {
        start: settings::read(&client, &maps, COMPAT).await.expect("settings"),
        client,
        clock: Clock::system(),
        compat: COMPAT,
        dial: Arc::new(dial),
        maps,
        admin: free().await,
        metrics: None,
        journal,
    };
    ShadowAutoscaler::start(options, CancellationToken::new()).await
}

/// A service with a window of 6 s and 5 requests in flight a pod, of which 70 % are used.
fn service(name: &str, annotations: &str) -> String {
    format!(
        r#"
apiVersion: serving.knative.dev/v1
kind: Service
metadata: {{name: {name}, namespace: default}}
spec:
  template:
    metadata:
      annotations: {{autoscaling.knative.dev/window: 6s, autoscaling.knative.dev/target: "5", {annotations}}}
    spec:
      containers:
      - image: ebb.local/hello
"#
    )
}

fn of<'a>(report: &'a Report, revision: &str) -> Result<&'a RevisionReport, String> {
    let found = report.revisions.iter().find(|report| report.key.name() == revision);
    found.ok_or_else(|| format!("no {revision} in {:?}", report.revisions))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shadow_agrees_under_load_and_one_with_other_settings_says_where_and_why_it_does_not() {
    // The cluster, its activator, and the autoscaler that runs it.
    let served = Served::start().await;
    let clock = Clock::system();
    let of_admission = AutoscalerSettings::new(COMPAT);
    assert!(served.store.set_admission(admission(of_admission.clone())));
    let stop = CancellationToken::new();
    let stats = free().await;
    let address = stats.local_addr().expect("a bound listener");
    let sink = client::spawn(&format!("ws://{address}"), Arc::new(SystemDial), stop.clone()).expect("a client");
    let mut config = activator::Config::new("activator-test", IpAddr::V4(ACTIVATOR));
    config.drain_period = Duration::ZERO;
    let activator = Activator::bind(config, Arc::new(sink), clock).await.expect("an activator");
    let cluster = LocalCluster::start(
        local::Options {
            activators: vec![IpAddr::V4(ACTIVATOR)],
            pods: kubelet::Settings {
                network: NETWORK,
                startup_delay: Duration::from_millis(20),
                quiet_period: Duration::from_millis(50),
                ..kubelet::Settings::default()
            },
            ..local::Options::default()
        },
        Some(free().await),
        served.client(),
        clock,
        of_admission,
    )
    .await
    .expect("a cluster");
    let dial = LocalDial::new(cluster.services().clone());
    let maps = Maps::default();
    let options = Options {
        client: served.client(),
        clock,
        compat: COMPAT,
        classes: Classes::default(),
        dial: Arc::new(dial.clone()),
        cluster_domain: "cluster.local".to_owned(),
        ownership: Choice::Single,
        start: settings::read(&served.client(), &maps, COMPAT).await.expect("settings"),
        maps,
        stats: Listen::Now(stats),
        admin: free().await,
        metrics: None,
        show: ebb::app::Show::default(),
        gates: None,
    };
    let autoscaler = Autoscaler::start(options, CancellationToken::new()).await.expect("an autoscaler");
    let feed = activator::feed::run(
        served.client(),
        activator.backends(),
        activator.ports(),
        IpAddr::V4(ACTIVATOR),
        stop.clone(),
    );
    let (feed, activator) = (tokio::spawn(feed), tokio::spawn(activator.run(stop.clone())));

    // Three services: pods reached directly, pods reached through the activator, and one nobody asks for anything.
    let manifests = [
        service("direct", "autoscaling.knative.dev/target-burst-capacity: \"0\""),
        service("proxied", "autoscaling.knative.dev/target-burst-capacity: \"-1\""),
        service("idle", ""),
    ]
    .join("---");
    let refused = manifest::apply(&served.client(), &manifest::parse("test", &manifests).expect("manifests")).await;
    assert!(refused.is_empty(), "{refused:?}");

    // Two shadows: one with the settings there are, one whose pods are to be used to half as much.
    other_settings(&served.client(), "other-settings").await;
    let methods = Arc::new(Mutex::new(BTreeMap::new()));
    let same = shadow(noting(served.client(), &methods), dial.clone(), Maps::default(), None).await;
    let maps = Maps { namespace: "other-settings".to_owned(), ..Maps::default() };
    let kept = tempfile::tempdir().expect("a directory");
    let options = journal::Options::new(kept.path().to_owned(), COMPAT);
    let journal = Journal::open(options, clock).expect("a journal");
    let other = shadow(noting(served.client(), &methods), dial, maps, Some(journal)).await;
    let mut told = other.listen();

    // Twelve clients with slow requests at each of the two: 12 / 3.5 = 3.43, so 4 pods.
    let gateway = cluster.gateway().expect("a gateway");
    let load = CancellationToken::new();
    let clients = (0..24).map(|number| {
        let load = load.clone();
        let host = if number % 2 == 0 { "direct" } else { "proxied" };
        async move {
            let client = reqwest::Client::new();
            while !load.is_cancelled() {
                let get = client.get(format!("http://{gateway}/?sleep=2s"));
                // Before its route is there a service answers 404; what it answers is not what is tested here.
                if get
                    .header("Host", format!("{host}.default.example.com"))
                    .send()
                    .await
                    .map_or(404, |it| it.status().as_u16())
                    != 200
                {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    });
    let watching = async {
        let agreed = eventually("the shadow has compared both for a while", async || {
            let report = same.report();
            for (name, basis) in [("direct-00001", Basis::Exact), ("proxied-00001", Basis::Approximate)] {
                let revision = of(&report, name)?;
                let long = revision.account.compared(basis) >= Span::from_seconds(15);
                let steady = revision.ebb.pods == revision.running.pods && revision.ebb.pods >= Some(2);
                if !long || !steady {
                    return Err(format!("{revision:#?}"));
                }
            }
            let idle = of(&report, "idle-00001")?;
            if idle.blind == Some(Blind::NoPods) { Ok(report) } else { Err(format!("{idle:#?}")) }
        });
        let differs = eventually("the other shadow has found both differing", async || {
            let report = other.report();
            for name in ["direct-00001", "proxied-00001"] {
                let revision = of(&report, name)?;
                if !revision.differences.iter().any(|difference| difference.aspect == Aspect::Pods) {
                    return Err(format!("{revision:#?}"));
                }
            }
            Ok(report)
        });
        let both = futures::future::join(agreed, differs).await;
        load.cancel();
        both
    };
    let (_, (agreed, differs)) = tokio::join!(futures::future::join_all(clients), watching);

    // The first agrees, on what was reached directly exactly.
    for revision in &agreed.revisions {
        let quiet = revision.differences.is_empty();
        assert!(quiet, "{}: {:#?}", revision.key, revision.differences);
    }
    assert_eq!(agreed.all.agreement(), Some(1.0));
    let sentence = agreed.sentence();
    // The idle one may have been compared for a while before it went to zero.
    let compared = agreed.revisions.iter().filter(|revision| revision.agreed().is_some()).count();
    let start = format!("Ebb agreed with the running autoscaler on {compared} of {compared} revisions in ");
    assert!(sentence.starts_with(&start), "{sentence}");
    assert!(sentence.contains("compared approximately most of the time"), "{sentence}");

    // The second wants about twice as many pods, says since when and by which rule, and tells whoever listens.
    for name in ["direct-00001", "proxied-00001"] {
        let revision = of(&differs, name).expect("a revision");
        let pods =
            revision.differences.iter().find(|difference| difference.aspect == Aspect::Pods).expect("found above");
        assert!(pods.ours > pods.theirs && pods.theirs >= 2, "{pods:?}");
        assert!(pods.because.contains("target 1.75"), "{}", pods.because);
    }
    let first = told.try_recv().expect("a difference was told");
    assert_eq!((first.aspect, first.over), (Aspect::Pods, None));
    let sentence = differs.sentence();
    assert!(sentence.contains("default/direct-00001 differed for "), "{sentence}");

    // As JSON, and for Prometheus.
    let json = differs.json();
    let direct =
        json["revisions"].as_array().expect("revisions").iter().find(|it| it["revision"] == "default/direct-00001");
    let direct = direct.expect("the revision");
    assert_eq!((&direct["basis"], &direct["agreed"]), (&json!("exact"), &json!(false)), "{direct:#}");
    let text = other.metrics().exposition(Format::Prometheus);
    let value = |series: &str| -> f64 {
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {series} in {text}")).parse().expect("a number")
    };
    assert!(value("ebb_shadow_differences_total{aspect=\"pods\"}") >= 2.0);
    assert!(value("ebb_shadow_differing_seconds_total{aspect=\"pods\"}") >= 20.0);
    assert!(value("ebb_shadow_agreement_ratio") < 1.0);
    assert_eq!(value("ebb_shadow_writes_refused_total"), 0.0);
    let of_direct = "kn_configuration_name=\"direct\",kn_revision_name=\"direct-00001\"}";
    let labels = format!("{{k8s_namespace_name=\"default\",kn_service_name=\"direct\",{of_direct}");
    assert!(
        value(&format!("ebb_shadow_desired_pods{labels}")) > value(&format!("ebb_shadow_running_desired_pods{labels}"))
    );

    // A revision that goes takes its series and its scrapes along.
    let services: Api<Service> = Api::namespaced(served.client(), "default");
    services.delete("idle", &DeleteParams::default()).await.expect("deleted");
    eventually("the revision is gone", async || {
        let report = same.report();
        if of(&report, "idle-00001").is_err() { Ok(()) } else { Err(report.sentence()) }
    })
    .await;
    assert!(!same.metrics().exposition(Format::Prometheus).contains("idle-00001"));

    // Neither wrote anything, nor tried to.
    for shadow in [same, other] {
        assert_eq!(shadow.report().writes_refused, 0);
        shadow.stop().await;
    }
    // What differed, and by which rule, is in the journal too, at the moment it was found.
    let revision = of(&differs, "direct-00001").expect("a revision");
    let difference =
        revision.differences.iter().find(|difference| difference.aspect == Aspect::Pods).expect("found above");
    let mut found = None;
    let mut replay = Replay::open(kept.path(), Some(revision.key.clone())).expect("a journal");
    let look = |event: Event<'_>| {
        if let Step::Planned(plan) = event.step
            && plan.differs.contains(&difference.with_since())
        {
            found.get_or_insert(event.at);
        }
    };
    replay.run(None, look).expect("a journal");
    let account = of_journal(kept.path(), &revision.key, Some(found.expect("it was recorded")), Span::from_seconds(60));
    let account = account.expect("an account");
    assert!(account.text().contains("\nThe running autoscaler\n  Ebb wanted "), "{}", account.text());
    assert!(account.text().contains("target 1.75"), "{}", account.text());
    let methods = methods.lock().expect("no panic above").clone();
    assert_eq!(methods.keys().collect::<Vec<_>>(), ["GET"], "{methods:?}");

    autoscaler.stop().await;
    stop.cancel();
    let _ = tokio::join!(feed, activator);
    cluster.stop().await;
}

/// Knative's ConfigMaps once more, in a namespace of their own, with pods used to 35 % instead of 70 %.
async fn other_settings(client: &Client, namespace: &str) {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "knative-serving");
    let others: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let own: Namespace = serde_json::from_value(json!({"metadata": {"name": namespace}})).expect("a Namespace");
    Api::all(client.clone()).create(&PostParams::default(), &own).await.expect("created");
    for mut map in maps.list(&ListParams::default()).await.expect("ConfigMaps").items {
        let name = map.metadata.name.clone().expect("a name");
        if !name.starts_with("config-") {
            continue;
        }
        map.metadata = serde_json::from_value(json!({"name": name, "namespace": namespace})).expect("metadata");
        if name == "config-autoscaler" {
            map.data = Some(BTreeMap::from([("container-concurrency-target-percentage".to_owned(), "35".to_owned())]));
        }
        others.create(&PostParams::default(), &map).await.expect("created");
    }
}

#[tokio::test]
async fn a_client_that_only_reads_sends_no_write() {
    let served = Served::start().await;
    let methods = Arc::new(Mutex::new(BTreeMap::new()));
    let (client, refusals) = read_only(noting(served.client(), &methods));
    let maps: Api<ConfigMap> = Api::namespaced(client, "default");
    assert_eq!(maps.list(&ListParams::default()).await.expect("a list").items.len(), 0);

    let map: ConfigMap = serde_json::from_value(json!({"metadata": {"name": "x"}})).expect("a ConfigMap");
    let error = maps.create(&PostParams::default(), &map).await.expect_err("refused");
    assert!(format!("{error:?}").contains("NotSent"), "{error:?}");
    maps.replace("x", &PostParams::default(), &map).await.expect_err("refused");
    maps.patch("x", &PatchParams::default(), &Patch::Merge(json!({}))).await.expect_err("refused");
    maps.delete("x", &DeleteParams::default()).await.expect_err("refused");
    maps.delete_collection(&DeleteParams::default(), &ListParams::default()).await.expect_err("refused");

    assert_eq!(refusals.count(), 5);
    assert_eq!(maps.list(&ListParams::default()).await.expect("a list").items.len(), 0);
    let methods = methods.lock().expect("no panic above").clone();
    assert_eq!(methods, BTreeMap::from([("GET".to_owned(), 2)]));
}
