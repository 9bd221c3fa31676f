//! `ebb alb self-test` as a user runs it, against the double of a load balancer: it sees what holds, and by the double's faults
//! that it sees what does not.

use crate::alb::{create, kingress, published, settles, setup};
use crate::apiserver::Served;
use crate::patience::eventually;
use ebb::clock::Clock;
use ebb::dataplane::server::Stop;
use ebb::local::alb;
use ebb::local::alb::balancer::{Fault, Manners};
use ebb::local::apiserver::kubeconfig;
use ebb::local::{self, AutoscalerSettings, LocalCluster};
use ebb::routing::capabilities::{Capabilities, Capability, MAP};
use ebb::routing::controller::Controller;
use ebb::routing::model::{CLASS, COOKIES_ANNOTATION};
use ebb::routing::probe::Vips;
use ebb::units::{Compat, Span};
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{ConfigMap, Endpoints, Event, Service};
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use kube::api::{Api, ListParams};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio_util::sync::{CancellationToken, DropGuard};

/// The addresses of the double.
struct Double(Vec<SocketAddr>);

impl Vips for Double {
    fn resolve<'a>(&'a self, _: &'a str, _: bool) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        Box::pin(async { Ok(self.0.clone()) })
    }
}

/// A cluster with a double of two addresses, the controller, and a first service that is published.
struct Rig {
    served: Served,
    cluster: LocalCluster,
    addresses: Vec<SocketAddr>,
    directory: tempfile::TempDir,
    _stop: [DropGuard; 2],
}

impl Rig {
    async fn start(faults: &[Fault]) -> Self {
        let (served, clock) = (Served::start().await, Clock::system());
        let client = served.client();
        for namespace in ["ebb-self-test", "ebb-self-test-other"] {
            create(&served, &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})).await;
        }
        let soon = Span::ZERO..=Span::from_millis(100);
        let faults = faults.iter().copied().collect();
        let manners = Manners { membership: soon.clone(), rules: soon, faults, ..Manners::default() };
        let double = alb::Options { config: "local".to_owned(), addresses: 2, manners, seed: 3 };
        let options =
            local::Options { ingress_class: CLASS.to_owned(), balancer: Some(double), ..local::Options::default() };
        let free = async || TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let of_admission = AutoscalerSettings::new(Compat::IMPROVED);
        let cluster = LocalCluster::start(options, Some(free().await), client.clone(), clock, of_admission)
            .await
            .expect("a cluster");
        let (cancel, stop, second) = (CancellationToken::new(), Stop::default(), free().await);
        let addresses = vec![cluster.gateway().expect("a gateway"), second.local_addr().expect("an address")];
        let (balancer, serving) = (cluster.balancer().expect("the double").clone(), stop.clone());
        tokio::spawn(async move { balancer.serve(1, ("HTTP", 80), second, serving).await });
        let vips = Arc::new(Double(addresses.clone()));
        tokio::spawn(Controller::new(setup(&served, vips), &cancel).run(cancel.clone()));

        for name in ["a-1", "a-1-private"] {
            let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"},
                "spec": {"ports": [{"port": 80}]}});
            create(&served, &service).await;
        }
        create(&served, &kingress("a", &[("a-1", 100)], None, false, true)).await;
        let classes: Api<IngressClass> = Api::all(client);
        eventually("the class", async || classes.get_opt("knative-alb-ingress-internet").await.ok().flatten()).await;
        eventually("a", async || published(&served, "a").await).await;
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::write(directory.path().join("kubeconfig"), kubeconfig(served.addr)).expect("a writable directory");
        let guards = [cancel.drop_guard(), stop.kill.drop_guard()];
        Self { served, cluster, addresses, directory, _stop: guards }
    }

    fn command(&self, more: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ebb"));
        let file: PathBuf = self.directory.path().join("kubeconfig");
        command.args([
            "alb",
            "self-test",
            "--pod-ip",
            "127.0.0.1",
            "--pod",
            "self-test",
            "--ports",
            "0,0",
            "--kubeconfig",
        ]);
        command.arg(file).args(more);
        for address in &self.addresses {
            command.args(["--address", &address.to_string()]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    async fn run(&self, more: &[&str]) -> (String, String, Option<i32>) {
        let output = self.command(more).output().await.expect("ebb runs");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
        (text(output.stdout), text(output.stderr), output.status.code())
    }

    /// What of a self-test there is still.
    async fn left(&self) -> Vec<String> {
        let client = self.served.client();
        let params = ListParams::default().labels("ebb.dev/self-test");
        let mut left = Vec::new();
        for one in Api::<Ingress>::all(client.clone()).list(&params).await.expect("a list") {
            left.extend(one.metadata.name);
        }
        for one in Api::<Service>::all(client.clone()).list(&params).await.expect("a list") {
            left.extend(one.metadata.name);
        }
        for one in Api::<Endpoints>::all(client).list(&params).await.expect("a list") {
            left.extend(one.metadata.name);
        }
        left
    }

    async fn map(&self) -> Option<BTreeMap<String, String>> {
        let maps: Api<ConfigMap> = Api::namespaced(self.served.client(), "knative-serving");
        maps.get_opt(MAP).await.expect("an answer")?.data
    }

    /// Waits until the ConfigMap's owner is told how revisions are reached.
    async fn told(&self, what: &str) {
        let events: Api<Event> = Api::namespaced(self.served.client(), "knative-serving");
        eventually(what, async || {
            let all = events.list(&ListParams::default()).await.map_err(|error| error.to_string())?.items;
            let plane = all.into_iter().filter(|event| event.reason.as_deref() == Some("DataPlane"));
            let notes: Vec<String> = plane.filter_map(|event| event.message).collect();
            if notes.iter().any(|note| note == what) { Ok(()) } else { Err(format!("{notes:?}")) }
        })
        .await;
    }

    async fn stop(self) {
        self.cluster.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_load_balancer_does_is_seen_told_and_decides_how_revisions_are_reached() {
    let rig = Rig::start(&[]).await;
    rig.told("alb-data-plane auto is header: no self-test has said what the load balancer does").await;
    let (out, err, code) = rig.run(&["--format", "json"]).await;
    assert_eq!(code, Some(0), "{out}{err}");
    let report: Value = serde_json::from_str(&out).expect("JSON");
    for check in report["checks"].as_array().expect("checks") {
        assert_eq!(check["holds"], true, "{check}");
    }
    // Five trials, and four exchanges, at two addresses each.
    assert_eq!((&report["rules"]["samples"], &report["servers"]["samples"]), (&json!(10), &json!(8)), "{out}");
    assert_eq!(report["addresses"].as_array().map(Vec::len), Some(2));
    assert_eq!(rig.left().await, [""; 0]);
    let map = rig.map().await.expect("the map");
    let seen = Capabilities::read(&map);
    assert!(Capability::ALL.into_iter().all(|capability| seen.holds(capability) == Some(true)), "{map:?}");
    assert_eq!(serde_json::from_str::<Value>(&map["report"]).expect("JSON"), report);

    rig.told("alb-data-plane auto is header: Ebb's activators are not installed").await;
    let gateway = json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "ebb-gateway", "namespace": "knative-serving"}, "spec": {"ports": [{"port": 80}]}});
    create(&rig.served, &gateway).await;
    rig.told("alb-data-plane auto is port: the self-test saw servers of another namespace and of two ports used").await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_headers_and_paths_that_are_not_as_documented_are_seen() {
    let faults = [Fault::KeepsHeaders, Fault::Segments, Fault::OwnPods];
    let seen = fails(
        &faults,
        &[Capability::CoverEnabled, Capability::CharacterPrefix, Capability::ForeignPods],
        &[
            "a header that is set replaces the client's  NO ",
            "with x-ebb-self-test: client server 1 answered, with x-ebb-self-test: client: clients can choose revisions",
            "/foobar server 2 answered: paths lead elsewhere",
            "the answer was 503: alb-data-plane auto is hold",
            "not tried: two Ingresses of one order, connection draining",
        ],
        1,
    );
    let rig = seen.await;
    rig.told("alb-data-plane auto is hold: the self-test saw that servers of another namespace are not used").await;
    eventually("the private Service", async || {
        let text = serde_json::to_string(&published(&rig.served, "a").await).expect("JSON");
        if text.contains("a-1-private") { Ok(()) } else { Err(text) }
    })
    .await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_would_be_read_otherwise_than_it_is_written_is_seen_and_refused() {
    let faults = [Fault::FirstHost, Fault::AnyCookie, Fault::OnePort];
    let seen = fails(
        &faults,
        &[Capability::MergedHosts, Capability::TwoCookies, Capability::TwoPorts],
        &[
            "hosts share a rule                          NO ",
            "the answer was 404: set alb-rule-layout to split",
            "with cookie: first=yes server 1 answered: entries with several cookies are refused",
            "of two servers in one Endpoints object 1 answered",
        ],
        1,
    );
    let rig = seen.await;
    rig.told("alb-data-plane auto is header: the self-test did not see servers of two ports used").await;
    // An entry that the load balancer would read otherwise is refused, and one that asks for one cookie is not.
    for (name, cookies, wanted) in [
        ("two", "[{revision:a-1,cookies:{one:x,two:y}}]", "False InvalidCanaryCookie"),
        ("one", "[{revision:a-1,cookies:{one:x}}]", "True"),
    ] {
        let mut object = kingress(name, &[("a-1", 100)], None, false, true);
        object["metadata"]["annotations"][COOKIES_ANNOTATION] = json!(cookies);
        create(&rig.served, &object).await;
        let last = if wanted == "True" { "Unknown Probing" } else { "Unknown" };
        settles(&rig.served, name, [wanted, last]).await;
    }
    rig.stop().await;
}

/// Runs the self-test against a double with faults: these do not hold, all others do, and it is said so.
async fn fails(faults: &[Fault], not: &[Capability], said: &[&str], exit: i32) -> Rig {
    let rig = Rig::start(faults).await;
    let (out, err, code) = rig.run(&["--patience", "15s"]).await;
    assert_eq!(code, Some(exit), "{out}{err}");
    for words in said {
        assert!(out.contains(words), "{words:?} is not in {out}{err}");
    }
    let seen = Capabilities::read(&rig.map().await.expect("the map"));
    let failed: BTreeSet<Capability> =
        Capability::ALL.into_iter().filter(|capability| seen.holds(*capability) == Some(false)).collect();
    assert_eq!(failed, not.iter().copied().collect(), "{out}{err}");
    assert!(Capability::ALL.into_iter().all(|capability| seen.holds(capability).is_some()), "{out}{err}");
    assert_eq!(rig.left().await, [""; 0]);
    rig
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_self_test_that_is_interrupted_or_cannot_go_on_leaves_nothing() {
    let rig = Rig::start(&[]).await;
    // No address ever follows, so it would wait for long.
    rig.cluster.balancer().expect("the double").stop_controller(true);
    let running = rig.command(&["--patience", "10m"]).spawn().expect("ebb runs");
    eventually("its Ingress", async || rig.left().await.into_iter().find(|name| name.ends_with("-basic"))).await;
    let pid = running.id().expect("it runs").to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().await.expect("kill").success());
    let output = running.wait_with_output().await.expect("it ends");
    let told = String::from_utf8(output.stderr).expect("UTF-8");
    assert_eq!(output.status.code(), Some(130), "{told}");
    assert_eq!((rig.left().await, rig.map().await), (vec![], None), "{told}");

    // The load balancer gives it no name.
    let (_, told, code) = rig.run(&["--patience", "1s"]).await;
    assert_eq!(code, Some(2), "{told}");
    assert!(told.contains("got no name of a load balancer"), "{told}");
    assert_eq!((rig.left().await, rig.map().await), (vec![], None), "{told}");

    for (more, why) in [
        (
            &["--side", "intranet"][..],
            "there is no IngressClass knative-alb-ingress-intranet; it is made with the first",
        ),
        (&["--other-namespace", "ebb-self-test"], "which is this pod's own; name another"),
        (&["--system-namespace", "nowhere"], "there is no ConfigMap nowhere/config-network"),
    ] {
        let (_, told, code) = rig.run(more).await;
        assert!(code == Some(2) && told.contains(why), "{told}");
    }
    rig.stop().await;
}
