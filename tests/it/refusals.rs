//! What the load balancer cannot do, through the API: each gives its condition and its event on the object its owner looks
//! at, what was in force stays, and other services are not touched.

use crate::alb::{Fixed, create, definition, kingress, published, settles, setup};
use crate::apiserver::Served;
use crate::patience::eventually;
use ebb::api::alb_config::AlbConfig;
use ebb::routing::controller::Controller;
use ebb::routing::model::{COOKIES_ANNOTATION, HEADERS_ANNOTATION};
use k8s_openapi::api::core::v1::Event;
use k8s_openapi::api::networking::v1::{Ingress as Published, IngressClass};
use kube::Api;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Conditions of what is published and waits for an address.
const PUBLISHED: [&str; 2] = ["True", "Unknown WaitingForAddress"];

struct Rig {
    served: Served,
    cancel: CancellationToken,
    running: JoinHandle<()>,
}

impl Rig {
    /// A cluster with these settings beside the class, and the controller in it.
    async fn start(settings: &Value) -> Self {
        let served = Served::start().await;
        let rig = Self { served, cancel: CancellationToken::new(), running: tokio::spawn(async {}) };
        rig.configure(settings).await;
        create(&rig.served, &definition("Cluster")).await;
        let vips = Arc::new(Fixed(SocketAddr::from(([127, 0, 0, 1], 1))));
        let controller = Controller::new(setup(&rig.served, vips), &rig.cancel);
        let running = tokio::spawn(controller.run(rig.cancel.clone()));
        Self { running, ..rig }
    }

    async fn configure(&self, settings: &Value) {
        let mut data = json!({"ingress-class": "alb.ingress.networking.knative.dev"});
        for (key, value) in settings.as_object().expect("settings") {
            data[key] = value.clone();
        }
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "config-network", "namespace": "knative-serving"}, "data": data});
        create(&self.served, &map).await;
    }

    async fn service(&self, name: &str) {
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"},
            "spec": {"ports": [{"port": 80}]}});
        create(&self.served, &service).await;
    }

    /// Events about an object, by reason: how often each was told, and the type.
    async fn told(&self, namespace: &str, name: &str) -> BTreeMap<String, (usize, String)> {
        let events: Api<Event> = Api::namespaced(self.served.client(), namespace);
        let mut told: BTreeMap<String, (usize, String)> = BTreeMap::new();
        for event in events.list(&ListParams::default()).await.expect("events").items {
            if event.involved_object.name.as_deref() == Some(name) {
                let told = told.entry(event.reason.unwrap_or_default()).or_default();
                told.0 += usize::try_from(event.count.unwrap_or(1)).expect("a count");
                told.1 = event.type_.unwrap_or_default();
            }
        }
        told
    }

    async fn waits_for_event(&self, namespace: &str, name: &str, reason: &str) -> (usize, String) {
        eventually(&format!("the event {reason} on {name}"), async || {
            let mut told = self.told(namespace, name).await;
            told.remove(reason).ok_or_else(|| format!("{told:?}"))
        })
        .await
    }

    async fn stop(self) {
        self.cancel.cancel();
        self.running.await.expect("it ends in order");
    }
}

fn version(object: Option<Published>) -> Option<String> {
    object.expect("an Ingress").metadata.resource_version
}

/// What an Ingress says, but for which generation of the KIngress it is of.
fn content(object: Option<Published>) -> Value {
    let object = object.expect("an Ingress");
    let mut annotations = object.metadata.annotations.unwrap_or_default();
    annotations.remove("knative-alb/kingress-generation");
    json!({"annotations": annotations, "spec": object.spec})
}

fn good() -> Value {
    kingress("a", &[("a-1", 100)], None, false, true)
}

fn changed(change: impl FnOnce(&mut Value)) -> Value {
    let mut object = good();
    change(&mut object);
    object
}

/// A change of the public rule's only path.
fn with_path(key: &str, value: Value) -> Value {
    changed(|object| object["spec"]["rules"][1]["http"]["paths"][0][key] = value)
}

fn annotated(key: &str, value: &str) -> Value {
    changed(|object| object["metadata"]["annotations"][key] = value.into())
}

fn split(revision: &str, percent: u32, port: u32, more: &Value) -> Value {
    let mut append = json!({"Knative-Serving-Namespace": "default", "Knative-Serving-Revision": revision});
    for (key, value) in more.as_object().expect("headers") {
        append[key] = value.clone();
    }
    json!({"serviceName": revision, "serviceNamespace": "default", "servicePort": port, "percent": percent,
        "appendHeaders": append})
}

/// Every way to ask for what cannot be, and the reason that is told.
fn refusals() -> Vec<(&'static str, Value)> {
    let none = json!({});
    let nine = (0..9).map(|number| format!("k{number}:v")).collect::<Vec<_>>().join(",");
    let many: Vec<String> = (0..17).map(|number| format!("{{revision:a-1,headers:{{k:v{number}}}}}")).collect();
    let six: Vec<Value> = (1..=6).map(|number| split(&format!("a-{number}"), 16, 80, &none)).collect();
    let append: BTreeMap<String, &str> = (1..=5).map(|number| (format!("X-{number}"), "v")).collect();
    let both = |first: Value, second: Value| json!([first, second]);
    let secret = |namespace: &str| json!([{"hosts": ["a.default.example.com"], "secretName": "s", "secretNamespace": namespace}]);
    let large = changed(|object| {
        let rules = object["spec"]["rules"].as_array_mut().expect("rules");
        for number in 0..400 {
            let mut rule = rules[1].clone();
            rule["hosts"] = json!([format!("t{number}.default.example.com")]);
            rule["http"]["paths"][0]["appendHeaders"] = json!({"X-Filling": format!("{number}-{}", "x".repeat(120))});
            rules.push(rule);
        }
    });
    vec![
        ("InvalidCanaryAnnotation", annotated(HEADERS_ANNOTATION, "nonsense")),
        ("InvalidCanaryAnnotation", annotated(COOKIES_ANNOTATION, "")),
        ("CanaryAnnotationTooLarge", annotated(HEADERS_ANNOTATION, &format!("[{}]", many.join(",")))),
        ("UnknownCanaryRevision", annotated(HEADERS_ANNOTATION, "[{revision:a-9,headers:{x:y}}]")),
        ("ReservedCanaryHeader", annotated(HEADERS_ANNOTATION, "[{revision:a-1,headers:{Host:x}}]")),
        (
            "InvalidCanaryHeader",
            annotated(HEADERS_ANNOTATION, &format!("[{{revision:a-1,headers:{{x:{}}}}}]", "y".repeat(129))),
        ),
        ("InvalidCanaryCookie", annotated(COOKIES_ANNOTATION, "[{revision:a-1,cookies:{x:'a b'}}]")),
        ("TooManyConditions", annotated(HEADERS_ANNOTATION, &format!("[{{revision:a-1,headers:{{{nine}}}}}]"))),
        ("TooManyActions", with_path("appendHeaders", json!(append))),
        ("TooManyTargets", with_path("splits", json!(six))),
        (
            "PerSplitHeadersUnsupported",
            with_path(
                "splits",
                both(split("a-1", 50, 80, &json!({"Foo": "1"})), split("a-2", 50, 80, &json!({"Foo": "2"}))),
            ),
        ),
        ("UnsupportedHeader", with_path("appendHeaders", json!({"Cookie": "mine"}))),
        ("UnsupportedHeaderMatch", with_path("headers", json!({"X-User": {"exact": "a*"}}))),
        ("InvalidPath", with_path("path", json!("/a*"))),
        ("InvalidHost", changed(|object| object["spec"]["rules"][1]["hosts"] = json!(["A_B.example.com"]))),
        (
            "CrossNamespaceBackend",
            changed(|object| {
                object["spec"]["rules"][1]["http"]["paths"][0]["splits"][0]["serviceNamespace"] = "other".into();
            }),
        ),
        ("UnsupportedBackend", with_path("splits", json!([]))),
        (
            "RewriteTargetNotFound",
            changed(|object| {
                let path = &mut object["spec"]["rules"][1]["http"]["paths"][0];
                path["rewriteHost"] = "nobody.default.svc.cluster.local".into();
                path["splits"][0]["serviceName"] = "nobody".into();
            }),
        ),
        ("GRPCRequiresTLS", with_path("splits", json!([split("a-1", 100, 81, &none)]))),
        (
            "MixedProtocols",
            changed(|object| {
                object["spec"]["tls"] = secret("default");
                object["spec"]["rules"][1]["http"]["paths"][0]["splits"] =
                    both(split("a-1", 50, 80, &none), split("a-2", 50, 81, &none));
            }),
        ),
        ("TLSSecretNamespace", changed(|object| object["spec"]["tls"] = secret("other"))),
        ("HostConflict", changed(|object| object["spec"]["rules"][1]["hosts"] = json!(["taken.example.com"]))),
        (
            "PathOrderConflict",
            changed(|object| {
                let path = object["spec"]["rules"][1]["http"]["paths"][0].clone();
                let at = |text: &str| {
                    let mut path = path.clone();
                    path["path"] = text.into();
                    path
                };
                object["spec"]["rules"] = json!([{"hosts": ["shared.example.com"], "visibility": "ExternalIP",
                    "http": {"paths": [at("/x"), at("/x/y/z")]}}]);
            }),
        ),
        ("AnnotationTooLarge", large),
    ]
}

#[tokio::test]
async fn what_cannot_be_is_told_what_was_in_force_stays_and_others_are_not_touched() {
    let rig = Rig::start(&json!({"vswitch-ids": "vsw-a,vsw-b", "alb-rule-budget": "2000"})).await;
    for number in 1..=6 {
        rig.service(&format!("a-{number}")).await;
    }
    for name in ["good-1", "nested-1"] {
        rig.service(name).await;
    }
    let route = json!({"apiVersion": "serving.knative.dev/v1", "kind": "Route",
        "metadata": {"name": "a", "namespace": "default"}, "spec": {"traffic": [{"revisionName": "a-1", "percent": 100}]}});
    create(&rig.served, &route).await;
    // Older than the one that is changed, so that they have what they share with it.
    let mut nested = kingress("nested", &[("nested-1", 100)], None, false, true);
    nested["spec"]["rules"] = json!([nested["spec"]["rules"][1].clone()]);
    nested["spec"]["rules"][0]["hosts"] = json!(["shared.example.com"]);
    nested["spec"]["rules"][0]["http"]["paths"][0]["path"] = "/x/y".into();
    create(&rig.served, &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "another"}})).await;
    let mut taken = kingress("taken", &[("taken-1", 100)], None, false, true);
    taken["metadata"]["namespace"] = "another".into();
    taken["spec"]["rules"] = json!([taken["spec"]["rules"][1].clone()]);
    taken["spec"]["rules"][0]["hosts"] = json!(["taken.example.com"]);
    taken["spec"]["rules"][0]["http"]["paths"][0]["splits"][0]["serviceNamespace"] = "another".into();
    for older in [&nested, &taken, &kingress("good", &[("good-1", 100)], None, false, true)] {
        create(&rig.served, older).await;
    }
    settles(&rig.served, "good", PUBLISHED).await;
    settles(&rig.served, "nested", PUBLISHED).await;
    // Times of objects are whole seconds.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    create(&rig.served, &good()).await;
    settles(&rig.served, "a", PUBLISHED).await;
    let in_force = content(published(&rig.served, "a").await);
    let others = [version(published(&rig.served, "good").await), version(published(&rig.served, "nested").await)];

    let mut wanted: BTreeMap<String, usize> = BTreeMap::new();
    for (reason, bad) in refusals() {
        let before = version(published(&rig.served, "a").await);
        create(&rig.served, &bad).await;
        let refused = settles(&rig.served, "a", [&format!("False {reason}"), PUBLISHED[1]]).await;
        let status = refused.status.expect("a status");
        assert_eq!(Some(status.observed_generation), refused.metadata.generation, "{reason}");
        let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready").expect("Ready");
        assert_eq!((format!("{:?}", ready.status).as_str(), ready.reason.as_str()), ("False", reason));
        assert_eq!(version(published(&rig.served, "a").await), before, "{reason}");
        *wanted.entry(reason.to_owned()).or_default() += 1;
        let (times, type_) = rig.waits_for_event("default", "a", reason).await;
        assert!(times <= wanted[reason] && type_ == "Warning", "{reason}: {times} {type_}");
        create(&rig.served, &good()).await;
        settles(&rig.served, "a", PUBLISHED).await;
        assert_eq!(content(published(&rig.served, "a").await), in_force, "{reason}, mended");
        let now = [version(published(&rig.served, "good").await), version(published(&rig.served, "nested").await)];
        assert_eq!(now, others, "{reason}");
    }
    rig.stop().await;
}

#[tokio::test]
async fn what_others_made_is_not_taken_over_and_names_of_the_cloud_are_not_used() {
    let rig = Rig::start(&json!({"vswitch-ids": "vsw-a,vsw-b"})).await;
    rig.service("a-1").await;
    let foreign = json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
        "metadata": {"name": "a", "namespace": "default", "labels": {"app.kubernetes.io/managed-by": "somebody"}},
        "spec": {"rules": [{"host": "theirs.example.com"}]}});
    create(&rig.served, &foreign).await;
    let theirs = version(published(&rig.served, "a").await);
    create(&rig.served, &good()).await;
    create(&rig.served, &kingress("aliyun-b", &[("a-1", 100)], None, false, true)).await;
    create(&rig.served, &kingress("good", &[("a-1", 100)], None, false, true)).await;
    settles(&rig.served, "good", PUBLISHED).await;
    for (name, reason) in [("a", "NotOwned"), ("aliyun-b", "ReservedName")] {
        settles(&rig.served, name, [&format!("False {reason}"), "Unknown"]).await;
        assert_eq!(rig.waits_for_event("default", name, reason).await, (1, "Warning".to_owned()));
    }
    assert_eq!(version(published(&rig.served, "a").await), theirs);
    assert!(published(&rig.served, "aliyun-b").await.is_none());
    rig.stop().await;
}

#[tokio::test]
async fn where_there_can_be_no_load_balancer_that_is_said_and_an_existing_one_needs_nothing() {
    for (settings, reason) in [
        (json!({}), "VSwitchMissing"),
        (json!({"vswitch-ids": "vsw-a"}), "VSwitchMissing"),
        (json!({"vswitch-ids": "vsw-a, vsw-a"}), "VSwitchMissing"),
        (json!({"vswitch-ids": "vsw-a,vsw-b", "alb-edition": "Basic"}), "EditionUnsupported"),
    ] {
        let rig = Rig::start(&settings).await;
        rig.service("a-1").await;
        create(&rig.served, &good()).await;
        settles(&rig.served, "a", [&format!("False {reason}"), "Unknown"]).await;
        assert_eq!(rig.waits_for_event("default", "a", reason).await, (1, "Warning".to_owned()), "{settings}");
        assert!(published(&rig.served, "a").await.is_none());
        // It is mended where it was wrong, and nobody has to touch the service.
        rig.configure(&json!({"albconfig": "theirs", "vswitch-ids": "", "alb-edition": "Standard"})).await;
        settles(&rig.served, "a", PUBLISHED).await;
        rig.stop().await;
    }
}

#[tokio::test]
async fn rules_there_is_no_room_for_wait_and_both_owners_are_told() {
    // One rule answers for hosts nobody serves.
    let rig = Rig::start(&json!({"vswitch-ids": "vsw-a,vsw-b", "alb-rule-budget": "2"})).await;
    for name in ["a-1", "b-1"] {
        rig.service(name).await;
    }
    create(&rig.served, &good()).await;
    settles(&rig.served, "a", PUBLISHED).await;
    create(&rig.served, &kingress("b", &[("b-1", 100)], None, false, true)).await;
    settles(&rig.served, "b", ["False RuleBudgetExceeded", "Unknown"]).await;
    assert_eq!(rig.waits_for_event("default", "b", "RuleBudgetExceeded").await, (1, "Warning".to_owned()));
    let (_, type_) = rig.waits_for_event("knative-serving", "config-network", "RuleBudgetExceeded").await;
    assert_eq!(type_, "Warning");
    rig.configure(&json!({"vswitch-ids": "vsw-a,vsw-b", "alb-rule-budget": "3"})).await;
    settles(&rig.served, "b", PUBLISHED).await;
    rig.stop().await;
}

#[tokio::test]
async fn settings_that_cannot_be_read_are_told_on_their_map_and_change_nothing() {
    let rig = Rig::start(&json!({"vswitch-ids": "vsw-a,vsw-b"})).await;
    rig.service("a-1").await;
    create(&rig.served, &good()).await;
    settles(&rig.served, "a", PUBLISHED).await;
    let before = version(published(&rig.served, "a").await);
    rig.configure(&json!({"vswitch-ids": "vsw-a,vsw-b", "alb-probe": "sometimes", "alb-data-plane": "hold"})).await;
    let (_, type_) = rig.waits_for_event("knative-serving", "config-network", "InvalidConfiguration").await;
    assert_eq!(type_, "Warning");
    // A later KIngress is planned by what was in force before.
    create(&rig.served, &kingress("later", &[("a-1", 100)], None, false, true)).await;
    settles(&rig.served, "later", PUBLISHED).await;
    let later = serde_json::to_string(&published(&rig.served, "later").await).expect("JSON");
    assert!(later.contains("a-1") && !later.contains("a-1-private"), "{later}");
    assert_eq!(version(published(&rig.served, "a").await), before);
    rig.stop().await;
}

#[tokio::test]
async fn a_setting_that_nobody_reads_is_told_on_its_map_and_the_others_count() {
    let rig =
        Rig::start(&json!({"vswitch-ids": "vsw-a,vsw-b", "alb-dataplane": "port", "alb-data-plane": "hold"})).await;
    for service in ["a-1", "a-1-private"] {
        rig.service(service).await;
    }
    create(&rig.served, &good()).await;
    settles(&rig.served, "a", PUBLISHED).await;
    let (_, type_) = rig.waits_for_event("knative-serving", "config-network", "UnknownSetting").await;
    assert_eq!(type_, "Warning");
    let planned = serde_json::to_string(&published(&rig.served, "a").await).expect("JSON");
    assert!(planned.contains("a-1-private"), "{planned}");
    rig.stop().await;
}

#[tokio::test]
async fn what_the_load_balancers_controller_complains_of_is_told_where_the_owner_looks() {
    for (reason, message, wanted) in [
        ("FailedBuildModel", "no such certificate", "False ALBProgrammingFailed"),
        ("FailedDeployModel", "QuotaExceeded.RulesNum: the quota of rules is used up", "False ALBQuota"),
    ] {
        let rig = Rig::start(&json!({"vswitch-ids": "vsw-a,vsw-b"})).await;
        rig.service("a-1").await;
        for name in ["a", "good"] {
            create(&rig.served, &kingress(name, &[("a-1", 100)], None, false, true)).await;
            settles(&rig.served, name, PUBLISHED).await;
        }
        let event: Event = serde_json::from_value(json!({"metadata": {"name": "a.1", "namespace": "default"},
            "involvedObject": {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "namespace": "default", "name": "a"},
            "type": "Warning", "reason": reason, "message": message, "lastTimestamp": "2099-01-01T00:00:00Z"}))
        .expect("an Event");
        Api::namespaced(rig.served.client(), "default").create(&PostParams::default(), &event).await.expect("created");
        let told = settles(&rig.served, "a", ["True", wanted]).await.status.expect("a status");
        let balancer = told.conditions.iter().find(|condition| condition.type_ == "LoadBalancerReady").expect("it");
        assert!(balancer.message.contains(message), "{}", balancer.message);
        settles(&rig.served, "good", PUBLISHED).await;
        // Where the cloud takes no more, what comes later waits, and nothing that works is put at risk by it.
        create(&rig.served, &kingress("late", &[("a-1", 100)], None, false, true)).await;
        let late = if reason == "FailedDeployModel" { ["False RuleBudgetExceeded", "Unknown"] } else { PUBLISHED };
        settles(&rig.served, "late", late).await;
        rig.stop().await;
    }
}

#[tokio::test]
async fn classes_and_load_balancers_of_others_are_used_or_left_alone() {
    let rig = Rig::start(&json!({})).await;
    rig.service("a-1").await;
    // A load balancer of the name that is there already: it needs no vSwitches, and is not changed.
    let theirs = json!({"apiVersion": "alibabacloud.com/v1", "kind": "AlbConfig", "metadata": {"name": "knative-internet"},
        "spec": {"config": {"name": "theirs", "addressType": "Internet", "addressAllocatedMode": "Dynamic",
            "edition": "StandardWithWaf", "zoneMappings": [{"vSwitchId": "vsw-x"}, {"vSwitchId": "vsw-y"}],
            "billingConfig": {"payType": "PostPay"}}, "listeners": [{"port": 80, "protocol": "HTTP"}]}});
    create(&rig.served, &theirs).await;
    // Classes and an Ingress of Ebb's names that it did not make.
    let class = |leads_to: &str| {
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "IngressClass",
            "metadata": {"name": "knative-alb-ingress-internet", "labels": {"whose": "theirs"}},
            "spec": {"controller": "ingress.k8s.alibabacloud/alb",
                "parameters": {"apiGroup": "alibabacloud.com", "kind": "AlbConfig", "name": leads_to}}})
    };
    create(&rig.served, &class("elsewhere")).await;
    let nobody = json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
        "metadata": {"name": "knative-alb-default-internet", "namespace": "knative-serving"},
        "spec": {"rules": [{"host": "theirs.example.com"}]}});
    create(&rig.served, &nobody).await;
    let classes: Api<IngressClass> = Api::all(rig.served.client());
    let before = classes.get("knative-alb-ingress-internet").await.expect("their class");

    create(&rig.served, &good()).await;
    settles(&rig.served, "a", ["False NotOwned", "Unknown"]).await;
    assert!(published(&rig.served, "a").await.is_none(), "nothing is published on somebody else's load balancer");
    assert_eq!(classes.get("knative-alb-ingress-internet").await.expect("their class"), before);

    // One that leads where Ebb's would is used as it is.
    create(&rig.served, &class("knative-internet")).await;
    create(&rig.served, &kingress("b", &[("a-1", 100)], None, false, true)).await;
    settles(&rig.served, "a", PUBLISHED).await;
    let after = classes.get("knative-alb-ingress-internet").await.expect("their class");
    assert_eq!(after.metadata.labels, before.metadata.labels);
    let ingresses: Api<Published> = Api::namespaced(rig.served.client(), "knative-serving");
    let nobody = ingresses.get("knative-alb-default-internet").await.expect("their Ingress");
    assert!(nobody.metadata.annotations.is_none() && nobody.metadata.labels.is_none(), "{nobody:?}");
    let balancers: Api<AlbConfig> = Api::all(rig.served.client());
    let balancer = balancers.get("knative-internet").await.expect("their AlbConfig");
    assert_eq!(json!(balancer.spec.config)["edition"], "StandardWithWaf");
    assert_eq!(balancer.metadata.labels, None);
    rig.stop().await;
}

#[tokio::test]
async fn what_is_given_to_another_class_is_served_until_that_is_ready_or_five_minutes() {
    let rig = Rig::start(&json!({"vswitch-ids": "vsw-a,vsw-b"})).await;
    rig.service("a-1").await;
    let named = json!({"status": {"loadBalancer": {"ingress": [{"hostname": "alb-1.example.com"}]}}});
    let kingresses: Api<ebb::api::ingress::Ingress> = Api::namespaced(rig.served.client(), "default");
    let ingresses: Api<Published> = Api::namespaced(rig.served.client(), "default");
    let class = |class: &str| json!({"metadata": {"annotations": {"networking.knative.dev/ingress.class": class}}});
    let ready = |domain: &str| {
        let at = json!({"ingress": [{"domain": domain}]});
        json!({"status": {"publicLoadBalancer": at, "privateLoadBalancer": at,
            "conditions": [{"type": "Ready", "status": "True"}]}})
    };
    let params = PatchParams::default();
    for name in ["follows", "never", "stays"] {
        create(&rig.served, &kingress(name, &[("a-1", 100)], None, false, true)).await;
        settles(&rig.served, name, PUBLISHED).await;
        ingresses.patch_status(name, &params, &Patch::Merge(&named)).await.expect("patched");
        settles(&rig.served, name, ["True", "Unknown Probing"]).await;
        // As it stands when the load balancer was seen to follow.
        kingresses.patch_status(name, &params, &Patch::Merge(&ready("alb-1.example.com"))).await.expect("patched");
    }
    for name in ["follows", "never"] {
        let other = class("kourier.ingress.networking.knative.dev");
        kingresses.patch(name, &params, &Patch::Merge(&other)).await.expect("patched");
    }
    // What is told last is looked at last.
    create(&rig.served, &kingress("later", &[("a-1", 100)], None, false, true)).await;
    settles(&rig.served, "later", PUBLISHED).await;
    for name in ["follows", "never", "stays"] {
        assert!(published(&rig.served, name).await.is_some(), "{name}: its new owner is not ready");
    }
    let gone = async |name: &str| {
        eventually(&format!("{name} to be gone"), async || published(&rig.served, name).await.is_none().then_some(()))
            .await;
    };
    let theirs = ready("kourier.example.com");
    kingresses.patch_status("follows", &params, &Patch::Merge(&theirs)).await.expect("patched");
    gone("follows").await;
    assert!(published(&rig.served, "never").await.is_some());
    tokio::time::pause();
    tokio::time::advance(Duration::from_mins(5)).await;
    tokio::time::resume();
    gone("never").await;
    assert!(published(&rig.served, "stays").await.is_some());
    rig.stop().await;
}
