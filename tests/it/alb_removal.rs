//! `alb-deletion-policy: Delete`: load balancers that nothing needs go, in order and not before their time; nothing else
//! does. Fifteen minutes here are of a clock that is moved.

use crate::alb::{Fixed, create, definition, diff, kingress, published, settles, setup};
use crate::apiserver::Served;
use crate::patience::eventually;
use ebb::api::alb_config::AlbConfig;
use ebb::api::ingress::Ingress as KIngress;
use ebb::clock::Clock;
use ebb::ownership::Ownership;
use ebb::ownership::ring::Ring;
use ebb::routing::controller::{Controller, Setup};
use ebb::routing::removal::{CLEANUP, FINALIZER, UNNEEDED};
use ebb::units::{Span, Timestamp};
use k8s_openapi::api::core::v1::{ConfigMap, Event};
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use k8s_openapi::api::rbac::v1::PolicyRule;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use kube::client::Body;
use kube::{Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fmt::Debug;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const CLASS: &str = "knative-alb-ingress-internet";
const BALANCER: &str = "knative-internet";
const ANSWER: &str = "knative-alb-default-internet";
/// Of whoever takes things out of the cloud, or wants them kept.
const THEIRS: &str = "somebody.example.com/keeps";
/// Longer than anything takes that goes.
const LONG: u32 = 25;

struct Rig {
    served: Served,
    clock: Clock,
    controller: Option<(CancellationToken, JoinHandle<()>)>,
}

impl Rig {
    /// A cluster in which the KIngress `a` is published.
    async fn start(policy: &str) -> Self {
        let served = Served::start().await;
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "config-network", "namespace": "knative-serving"},
            "data": {"ingress-class": "alb.ingress.networking.knative.dev", "vswitch-ids": "vsw-a,vsw-b",
                "alb-deletion-policy": policy}});
        create(&served, &map).await;
        create(&served, &definition("Cluster")).await;
        for name in ["a-1", "b-1"] {
            let service = json!({"apiVersion": "v1", "kind": "Service",
                "metadata": {"name": name, "namespace": "default"}, "spec": {"ports": [{"port": 80}]}});
            create(&served, &service).await;
        }
        create(&served, &simple("a")).await;
        let mut rig = Self { served, clock: Clock::system(), controller: None };
        rig.run(|setup| setup).await;
        settles(&rig.served, "a", ["True", "Unknown WaitingForAddress"]).await;
        rig
    }

    async fn run(&mut self, change: impl FnOnce(Setup) -> Setup) {
        if let Some((cancel, running)) = self.controller.take() {
            cancel.cancel();
            running.await.expect("it ends in order");
        }
        let vips = Arc::new(Fixed(SocketAddr::from(([127, 0, 0, 1], 1))));
        let cancel = CancellationToken::new();
        let controller = Controller::new(change(setup(&self.served, vips)), &cancel);
        self.controller = Some((cancel.clone(), tokio::spawn(controller.run(cancel))));
    }

    fn kingresses(&self) -> Api<KIngress> {
        Api::namespaced(self.served.client(), "default")
    }

    fn answers(&self) -> Api<Ingress> {
        Api::namespaced(self.served.client(), "knative-serving")
    }

    fn classes(&self) -> Api<IngressClass> {
        Api::all(self.served.client())
    }

    fn balancers(&self) -> Api<AlbConfig> {
        Api::all(self.served.client())
    }

    /// The KIngress is deleted, and really gone.
    async fn forsake(&self, name: &str) -> Timestamp {
        let since = self.clock.now();
        self.kingresses().delete(name, &DeleteParams::default()).await.expect("deleted");
        eventually("the KIngress to go", async || gone(&self.kingresses(), name).await.then_some(())).await;
        since
    }

    /// Which of the answer, the class and the AlbConfig are there and not on their way out.
    async fn stands(&self) -> [bool; 3] {
        [
            stands(&self.answers(), ANSWER).await,
            stands(&self.classes(), CLASS).await,
            stands(&self.balancers(), BALANCER).await,
        ]
    }

    /// Lets time go on until it holds; how much that took since.
    async fn passes(&self, what: &str, since: Timestamp, mut holds: impl AsyncFnMut() -> bool) -> Span {
        for _ in 0..4 * LONG {
            if holds().await {
                return self.clock.now().since(since);
            }
            minute().await;
        }
        panic!("{what} does not come to be")
    }

    async fn stays(&self, why: &str) {
        for _ in 0..LONG {
            minute().await;
            assert_eq!(self.stands().await, [true; 3], "{why}");
        }
    }

    async fn goes(&self, since: Timestamp) -> Span {
        self.passes("the load balancer to go", since, async || self.stands().await == [false; 3]).await
    }

    /// What was told of this reason, and of whom.
    async fn told(&self, reason: &str) -> Vec<(String, String)> {
        let events: Api<Event> = Api::all(self.served.client());
        let all = events.list(&ListParams::default()).await.expect("events").items.into_iter();
        let of_reason = all.filter(|event| event.reason.as_deref() == Some(reason));
        of_reason
            .map(|event| (event.involved_object.name.unwrap_or_default(), event.message.unwrap_or_default()))
            .collect()
    }

    async fn set(&self, data: Value) {
        let maps: Api<ConfigMap> = Api::namespaced(self.served.client(), "knative-serving");
        change(&maps, "config-network", json!({"data": data})).await;
    }

    async fn has_finalizer(&self, name: &str) -> bool {
        let kingress = self.kingresses().get(name).await.expect("a KIngress");
        kingress.finalizers().iter().any(|known| known == FINALIZER)
    }

    async fn end(mut self) {
        if let Some((cancel, running)) = self.controller.take() {
            cancel.cancel();
            running.await.expect("it ends in order");
        }
    }
}

/// What the account of `deploy/overlays/alb` may do: where, and what.
fn shipped() -> Vec<(Option<String>, PolicyRule)> {
    let files = ["deploy/base/rbac.yaml", "deploy/overlays/alb/rbac.yaml"];
    let texts = files.map(|file| std::fs::read_to_string(crate::root().join(file)).expect("a file"));
    let objects: Vec<Value> = serde_saphyr::from_multiple(&texts.join("\n---\n")).expect("YAML");
    let mut rules = Vec::new();
    for object in objects.iter().filter(|object| object["rules"].is_array()) {
        let of: Vec<PolicyRule> = serde_json::from_value(object["rules"].clone()).expect("rules");
        rules.extend(of.into_iter().map(|rule| (object["metadata"]["namespace"].as_str().map(str::to_owned), rule)));
    }
    rules
}

/// The rule by which a request is allowed; nothing where none is needed, as for what kinds there are.
fn allowed(request: &http::Request<Body>, rules: &[(Option<String>, PolicyRule)]) -> Result<Option<usize>, String> {
    let path: Vec<&str> = request.uri().path().trim_matches('/').split('/').collect();
    let (group, rest) = if path[0] == "api" { ("", &path[2..]) } else { (path[1], path.get(3..).unwrap_or_default()) };
    let (namespace, rest) = match rest {
        ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (Some(*namespace), rest),
        rest => (None, rest),
    };
    let (resource, name) = match rest {
        [] => return Ok(None),
        [resource] => ((*resource).to_owned(), None),
        [resource, name] => ((*resource).to_owned(), Some(*name)),
        [resource, name, part, ..] => (format!("{resource}/{part}"), Some(*name)),
    };
    let is_watch = request.uri().query().is_some_and(|query| query.contains("watch=true"));
    let verb = match (request.method().as_str(), name) {
        ("GET", Some(_)) => "get",
        ("GET", None) if is_watch => "watch",
        ("GET", None) => "list",
        ("POST", _) => "create",
        ("PUT", _) => "update",
        ("PATCH", _) => "patch",
        _ => "delete",
    };
    let has = |list: &Option<Vec<String>>, one: &str| list.iter().flatten().any(|known| known == one);
    let allows = |(scope, rule): &(Option<String>, PolicyRule)| {
        (scope.is_none() || scope.as_deref() == namespace)
            && has(&rule.api_groups, group)
            && has(&rule.resources, &resource)
            && rule.verbs.iter().any(|known| known == verb)
            && (rule.resource_names.is_none() || name.is_some_and(|name| has(&rule.resource_names, name)))
    };
    let found = rules.iter().position(allows);
    found.map(Some).ok_or_else(|| format!("{verb} {resource} of {group:?} {}", name.unwrap_or_default()))
}

fn simple(name: &str) -> Value {
    kingress(name, &[(&format!("{name}-1"), 100)], None, false, true)
}

/// A minute goes by, and who has something to do gets to it.
async fn minute() {
    tokio::time::pause();
    tokio::time::advance(Duration::from_mins(1)).await;
    tokio::time::resume();
    tokio::time::sleep(Duration::from_millis(60)).await;
}

async fn gone<K>(api: &Api<K>, name: &str) -> bool
where
    K: Clone + Debug + DeserializeOwned,
{
    api.get_opt(name).await.expect("an answer").is_none()
}

async fn stands<K>(api: &Api<K>, name: &str) -> bool
where
    K: Resource + Clone + Debug + DeserializeOwned,
{
    api.get_opt(name).await.expect("an answer").is_some_and(|found| found.meta().deletion_timestamp.is_none())
}

/// Changes an object as somebody else.
async fn change<K>(api: &Api<K>, name: &str, patch: Value)
where
    K: Clone + Debug + DeserializeOwned,
{
    let params = PatchParams { field_manager: Some("somebody".to_owned()), ..PatchParams::default() };
    api.patch(name, &params, &Patch::Merge(patch)).await.expect("patched");
}

async fn hold<K>(api: &Api<K>, name: &str, held: bool)
where
    K: Clone + Debug + DeserializeOwned,
{
    let finalizers = if held { json!([THEIRS]) } else { json!([]) };
    change(api, name, json!({"metadata": {"finalizers": finalizers}})).await;
}

#[tokio::test]
async fn what_nothing_needs_goes_in_order_and_after_its_time() {
    let rig = Rig::start("Delete").await;
    hold(&rig.answers(), ANSWER, true).await;
    hold(&rig.classes(), CLASS, true).await;
    hold(&rig.balancers(), BALANCER, true).await;
    let since = rig.forsake("a").await;
    assert!(published(&rig.served, "a").await.is_none(), "before the KIngress");
    let (_, told, code) = diff(&rig.served).await;
    assert!(told.contains("nothing needs the load balancer knative-internet, and it goes when"), "{told}");
    assert_eq!(code, Some(0));
    let took = rig.passes("the answer to go", since, async || !rig.stands().await[0]).await;
    assert!(UNNEEDED <= took, "{took}");
    // Each waits until the one before is really gone.
    for _ in 0..LONG {
        minute().await;
        assert_eq!(rig.stands().await, [false, true, true]);
    }
    hold(&rig.answers(), ANSWER, false).await;
    rig.passes("the class to go", since, async || !rig.stands().await[1]).await;
    for _ in 0..LONG {
        minute().await;
        assert_eq!(rig.stands().await, [false, false, true]);
    }
    assert_eq!(rig.told("LoadBalancerRemoved").await, []);
    hold(&rig.classes(), CLASS, false).await;
    rig.goes(since).await;
    let told = eventually("an event", async || rig.told("LoadBalancerRemoved").await.pop()).await;
    assert_eq!(told.0, "config-network");
    assert!(told.1.starts_with("the AlbConfig knative-internet is deleted"), "{}", told.1);

    // A name that is on its way out is not to be had, and nothing is put where it might keep it.
    let before = rig.balancers().get(BALANCER).await.expect("an AlbConfig").metadata.uid;
    let named = json!({"status": {"loadBalancer": {"dnsname": "old.example.com"}}});
    rig.balancers().patch_status(BALANCER, &PatchParams::default(), &Patch::Merge(&named)).await.expect("patched");
    create(&rig.served, &simple("b")).await;
    let waiting = settles(&rig.served, "b", ["Unknown WaitingForLoadBalancer", "Unknown"]).await;
    minute().await;
    assert_eq!(waiting.status.and_then(|status| status.public_load_balancer), None);
    assert!(published(&rig.served, "b").await.is_none());
    assert!(gone(&rig.classes(), CLASS).await && gone(&rig.answers(), ANSWER).await);
    hold(&rig.balancers(), BALANCER, false).await;
    minute().await;
    settles(&rig.served, "b", ["True", "Unknown WaitingForAddress"]).await;
    assert_eq!(rig.stands().await, [true; 3]);
    assert!(published(&rig.served, "b").await.is_some());
    assert_ne!(rig.balancers().get(BALANCER).await.expect("an AlbConfig").metadata.uid, before);
    rig.end().await;
}

#[tokio::test]
async fn what_comes_back_in_the_middle_is_made_anew() {
    let rig = Rig::start("Delete").await;
    hold(&rig.classes(), CLASS, true).await;
    let since = rig.forsake("a").await;
    rig.passes("the class to go", since, async || !rig.stands().await[1]).await;
    assert_eq!(rig.stands().await, [false, false, true]);
    let before = rig.balancers().get(BALANCER).await.expect("an AlbConfig").metadata.uid;
    create(&rig.served, &simple("b")).await;
    settles(&rig.served, "b", ["True", "Unknown WaitingForAddress"]).await;
    // A class that is on its way out is made again once it is gone, of which nobody tells.
    hold(&rig.classes(), CLASS, false).await;
    rig.passes("a new class", since, async || rig.stands().await == [true; 3]).await;
    assert_eq!(rig.balancers().get(BALANCER).await.expect("an AlbConfig").metadata.uid, before, "it was needed again");
    rig.stays("a KIngress needs it").await;
    rig.end().await;
}

#[tokio::test]
async fn a_break_begins_the_time_anew_and_so_does_another_process() {
    let mut rig = Rig::start("Delete").await;
    let since = rig.forsake("a").await;
    for _ in 0..10 {
        minute().await;
    }
    // One that only waits is one that needs it.
    let waiting = kingress("c", &[("c-1", 100)], None, false, true);
    create(&rig.served, &waiting).await;
    settles(&rig.served, "c", ["Unknown WaitingForServices", "Unknown"]).await;
    rig.stays("a KIngress waits for it").await;
    let after_break = rig.forsake("c").await;
    assert!(UNNEEDED < after_break.since(since));
    for _ in 0..10 {
        minute().await;
        assert_eq!(rig.stands().await, [true; 3]);
    }
    let restart = rig.clock.now();
    rig.run(|setup| setup).await;
    let took = rig.goes(restart).await;
    assert!(UNNEEDED <= took, "{took}");
    rig.end().await;
}

#[tokio::test]
async fn what_others_have_a_hand_in_stays() {
    let ingress = |spec: Value, annotations: Value| {
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
            "metadata": {"name": "theirs", "namespace": "default", "annotations": annotations}, "spec": spec})
    };
    let backend = json!({"service": {"name": "x", "port": {"number": 80}}});
    let class = json!({"apiVersion": "networking.k8s.io/v1", "kind": "IngressClass", "metadata": {"name": "theirs"},
        "spec": {"controller": "ingress.k8s.alibabacloud/alb",
            "parameters": {"apiGroup": "alibabacloud.com", "kind": "AlbConfig", "name": BALANCER}}});
    for (what, object) in [
        ("an Ingress of the class", ingress(json!({"ingressClassName": CLASS, "defaultBackend": backend}), json!({}))),
        (
            "an Ingress of the class, in the old way",
            ingress(json!({"defaultBackend": backend}), json!({"kubernetes.io/ingress.class": CLASS})),
        ),
        (
            "an Ingress that names the AlbConfig",
            ingress(json!({"defaultBackend": backend}), json!({"alb.ingress.kubernetes.io/albconfig.name": BALANCER})),
        ),
        ("another class that leads there", class),
        ("a KIngress that cannot be expressed", simple("aliyun-b")),
    ] {
        let rig = Rig::start("Delete").await;
        create(&rig.served, &object).await;
        rig.forsake("a").await;
        rig.stays(what).await;
        if object["kind"] == "Ingress" && object["apiVersion"] == "networking.k8s.io/v1" {
            let ingresses: Api<Ingress> = Api::namespaced(rig.served.client(), "default");
            ingresses.delete("theirs", &DeleteParams::default()).await.expect("deleted");
            let took = rig.goes(rig.clock.now()).await;
            assert!(UNNEEDED <= took, "{what}: {took}");
        }
        rig.end().await;
    }
}

#[tokio::test]
async fn what_somebody_has_taken_over_stays_and_is_told() {
    let rig = Rig::start("Delete").await;
    change(&rig.balancers(), BALANCER, json!({"spec": {"config": {"accessLogConfig": {"logStore": "x"}}}})).await;
    rig.forsake("a").await;
    rig.stays("somebody has set something").await;
    let told = eventually("an event", async || rig.told("LoadBalancerKept").await.pop()).await;
    assert_eq!(told.0, "config-network");
    assert!(told.1.contains("stays: of the AlbConfig knative-internet somebody has set something too"), "{}", told.1);
    let (_, told, _) = diff(&rig.served).await;
    assert!(told.contains("it stays: of the AlbConfig knative-internet somebody has set"), "{told}");
    assert_eq!(rig.told("LoadBalancerKept").await.len(), 1, "once");
    rig.end().await;

    // One that is named is somebody else's, whatever stands on it. And one that could not be made anew may be needed again.
    for (what, data) in [("it is named", json!({"albconfig": BALANCER})), ("no zones", json!({"vswitch-ids": "vsw-a"}))]
    {
        let rig = Rig::start("Delete").await;
        rig.set(data).await;
        rig.forsake("a").await;
        rig.stays(what).await;
        rig.end().await;
    }
}

#[tokio::test]
async fn what_is_changed_right_before_it_would_go_stays() {
    let mut rig = Rig::start("Delete").await;
    let (client, balancers) = (rig.served.client(), rig.balancers());
    let changed = Arc::new(tokio::sync::Notify::new());
    let after = Arc::clone(&changed);
    let meddling = tower::service_fn(move |request: http::Request<Body>| {
        let (client, balancers, changed) = (client.clone(), balancers.clone(), Arc::clone(&changed));
        async move {
            if request.method() == http::Method::DELETE && request.uri().path().contains("/albconfigs/") {
                let taken = json!({"spec": {"config": {"accessLogConfig": {"logStore": "x"}}}});
                change(&balancers, BALANCER, taken).await;
                changed.notify_one();
            }
            client.send(request).await
        }
    });
    rig.run(|setup| Setup { client: Client::new(meddling, "default"), ..setup }).await;
    let since = rig.forsake("a").await;
    rig.passes("the class to go", since, async || !rig.stands().await[1]).await;
    after.notified().await;
    for _ in 0..LONG {
        minute().await;
        assert_eq!(rig.stands().await, [false, false, true]);
    }
    rig.end().await;
}

#[tokio::test]
async fn what_no_watch_has_told_counts_all_the_same() {
    let ingress = json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
        "metadata": {"name": "theirs", "namespace": "default"},
        "spec": {"ingressClassName": CLASS, "defaultBackend": {"service": {"name": "x", "port": {"number": 80}}}}});
    for (what, object) in
        [("an Ingress of the class", Some(ingress)), ("a KIngress", Some(simple("b"))), ("the policy", None)]
    {
        let mut rig = Rig::start("Delete").await;
        rig.forsake("a").await;
        let client = rig.served.client();
        let deaf = tower::service_fn(move |request: http::Request<Body>| {
            let client = client.clone();
            async move {
                if request.uri().query().is_some_and(|query| query.contains("watch=true")) {
                    std::future::pending::<()>().await;
                }
                client.send(request).await
            }
        });
        rig.run(|setup| Setup { client: Client::new(deaf, "default"), ..setup }).await;
        // It has begun to wait: after a minute it has had the time to ask for all there is.
        minute().await;
        match object {
            Some(object) => create(&rig.served, &object).await,
            None => rig.set(json!({"alb-deletion-policy": "Retain"})).await,
        }
        rig.stays(what).await;
        rig.end().await;
    }
}

#[tokio::test]
async fn all_of_it_is_allowed_where_it_is_installed() {
    let mut rig = Rig::start("Delete").await;
    let (client, rules) = (rig.served.client(), Arc::new(shipped()));
    let (used, refused) = (Arc::new(Mutex::new(BTreeSet::new())), Arc::new(Mutex::new(BTreeSet::new())));
    let guarded = tower::service_fn({
        let (rules, used, refused) = (Arc::clone(&rules), Arc::clone(&used), Arc::clone(&refused));
        move |request: http::Request<Body>| {
            match allowed(&request, &rules) {
                Ok(rule) => used.lock().expect("no panic above").extend(rule),
                Err(what) => _ = refused.lock().expect("no panic above").insert(what),
            }
            let client = client.clone();
            async move { client.send(request).await }
        }
    });
    rig.run(|setup| Setup { client: Client::new(guarded, "default"), ..setup }).await;
    let since = rig.forsake("a").await;
    rig.goes(since).await;
    create(&rig.served, &simple("b")).await;
    settles(&rig.served, "b", ["True", "Unknown WaitingForAddress"]).await;
    eventually("an event", async || rig.told("LoadBalancerRemoved").await.pop()).await;
    assert_eq!(*refused.lock().expect("no panic above"), BTreeSet::new());
    // What is allowed for its sake by name is needed.
    let used = used.lock().expect("no panic above").clone();
    for (at, (_, rule)) in rules.iter().enumerate().filter(|(_, (_, rule))| rule.verbs == ["delete"]) {
        assert!(used.contains(&at), "nobody asked for {rule:?}");
    }
    rig.end().await;
}

#[tokio::test]
async fn nothing_goes_by_default_and_nothing_by_who_does_not_own_it() {
    for policy in ["", "Retain"] {
        let rig = Rig::start(policy).await;
        assert!(!rig.has_finalizer("a").await);
        rig.forsake("a").await;
        // What is left of it is left to the API server.
        rig.stays(policy).await;
        rig.end().await;
    }
    let mut rig = Rig::start("Delete").await;
    rig.forsake("a").await;
    rig.run(|setup| Setup { ownership: Ownership::elected(setup.clock, Ring::new(1)), ..setup }).await;
    rig.stays("it is another's").await;
    create(&rig.served, &simple("b")).await;
    minute().await;
    assert!(!rig.has_finalizer("b").await);
    rig.end().await;
}

#[tokio::test]
async fn a_kingress_is_there_until_its_ingresses_are_gone_but_not_for_ever() {
    let rig = Rig::start("Delete").await;
    let ingresses: Api<Ingress> = Api::namespaced(rig.served.client(), "default");
    assert!(rig.has_finalizer("a").await);
    hold(&ingresses, "a", true).await;
    let since = rig.clock.now();
    rig.kingresses().delete("a", &DeleteParams::default()).await.expect("deleted");
    eventually("its Ingress to be deleted", async || (!stands(&ingresses, "a").await).then_some(())).await;
    let took = rig.passes("the KIngress to go", since, async || gone(&rig.kingresses(), "a").await).await;
    assert!(CLEANUP <= took, "{took}");
    assert!(!gone(&ingresses, "a").await);
    let mut about = Vec::new();
    eventually("both events", async || {
        about = rig.told("CleanupGivenUp").await;
        (about.len() == 2).then_some(())
    })
    .await;
    about.sort();
    assert_eq!((about[0].0.as_str(), about[1].0.as_str()), ("a", "config-network"));
    assert!(about[0].1.starts_with("default/a was deleted ten minutes ago"), "{about:?}");
    // And what is on its way out still counts as using the load balancer.
    rig.stays("its Ingress is there").await;

    // It goes when its Ingress does.
    create(&rig.served, &simple("b")).await;
    settles(&rig.served, "b", ["True", "Unknown WaitingForAddress"]).await;
    hold(&ingresses, "b", true).await;
    rig.kingresses().delete("b", &DeleteParams::default()).await.expect("deleted");
    eventually("its Ingress to be deleted", async || (!stands(&ingresses, "b").await).then_some(())).await;
    assert!(rig.has_finalizer("b").await);
    hold(&ingresses, "b", false).await;
    eventually("the KIngress to go", async || gone(&rig.kingresses(), "b").await.then_some(())).await;
    assert_eq!(rig.told("CleanupGivenUp").await.len(), 2);
    rig.end().await;
}

#[tokio::test]
async fn a_finalizer_goes_with_the_policy_and_with_the_class() {
    let rig = Rig::start("Delete").await;
    create(&rig.served, &simple("b")).await;
    settles(&rig.served, "b", ["True", "Unknown WaitingForAddress"]).await;
    let theirs = json!({"metadata": {"finalizers": [FINALIZER, THEIRS]}});
    change(&rig.kingresses(), "b", theirs).await;
    let elsewhere = json!({"metadata": {"annotations": {"networking.knative.dev/ingress.class": "kourier.ingress.networking.knative.dev"}}});
    change(&rig.kingresses(), "a", elsewhere).await;
    eventually("no finalizer", async || (!rig.has_finalizer("a").await).then_some(())).await;
    assert!(rig.has_finalizer("b").await && published(&rig.served, "a").await.is_some());

    rig.set(json!({"alb-deletion-policy": "Retain"})).await;
    eventually("no finalizer", async || (!rig.has_finalizer("b").await).then_some(())).await;
    let kept = rig.kingresses().get("b").await.expect("a KIngress");
    assert_eq!(kept.finalizers(), [THEIRS], "others' are theirs");
    // Also of one that is deleted already.
    rig.set(json!({"alb-deletion-policy": "Delete"})).await;
    eventually("a finalizer", async || rig.has_finalizer("b").await.then_some(())).await;
    let ingresses: Api<Ingress> = Api::namespaced(rig.served.client(), "default");
    hold(&ingresses, "b", true).await;
    rig.kingresses().delete("b", &DeleteParams::default()).await.expect("deleted");
    eventually("its Ingress to be deleted", async || (!stands(&ingresses, "b").await).then_some(())).await;
    rig.set(json!({"alb-deletion-policy": null})).await;
    eventually("no finalizer", async || (!rig.has_finalizer("b").await).then_some(())).await;
    rig.stays("the policy is Retain").await;
    rig.end().await;
}
