//! Knative's traffic on Alibaba Cloud's load balancer: `ebb alb render` on whole objects, and the laws of the translation.

use crate::apiserver::Served;
use axum::http::StatusCode;
use axum::response::IntoResponse as _;
use ebb::api::alb_config::AlbConfig;
use ebb::api::conditions::to_jiff;
use ebb::api::ingress::{HttpPath, HttpRule, Ingress, IngressRule, IngressSpec, IngressSplit, IngressTls};
use ebb::api::serving::Revision;
use ebb::clock::Clock;
use ebb::k8s::cache::Cache;
use ebb::local::apiserver::kubeconfig;
use ebb::observe::metrics::{Format, Registry};
use ebb::ownership::Ownership;
use ebb::routing::controller::{Controller, Setup};
use ebb::routing::gate::Timers;
use ebb::routing::keeper::Keeper;
use ebb::routing::model::{Action, ClusterLocal, KEYS, Layout, Mode, Probe, Redirect, Rule, Settings, Side};
use ebb::routing::plan::{Existing, Outcome, Plan, plan, rules_of};
use ebb::routing::probe::{SystemVips, Vips};
use ebb::routing::translate::Context;
use ebb::units::{Compat, Span};
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Event;
use k8s_openapi::api::core::v1::Service as CoreService;
use k8s_openapi::api::networking::v1::Ingress as Published;
use k8s_openapi::api::networking::v1::IngressClass;
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use kube::api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams};
use kube::discovery::Scope;
use kube::{Api, ResourceExt as _};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

fn golden(file: &str) -> PathBuf {
    crate::root().join("tests/golden/kingress").join(file)
}

fn render(files: &[&std::path::Path], flags: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ebb"));
    command.args(["alb", "render", "-o", "json"]).args(flags);
    for file in files {
        command.arg("-f").arg(file);
    }
    command.output().expect("ebb runs")
}

fn rendered(documents: &str, flags: &[&str]) -> (Vec<Value>, String, Option<i32>) {
    let file = tempfile::NamedTempFile::with_suffix(".yaml").expect("a file");
    std::fs::write(file.path(), documents).expect("written");
    answer(&render(&[file.path()], flags))
}

fn answer(output: &Output) -> (Vec<Value>, String, Option<i32>) {
    let told = String::from_utf8(output.stderr.clone()).expect("UTF-8");
    let list: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {told}"));
    (list["items"].as_array().expect("a list").clone(), told, output.status.code())
}

/// A KIngress as Knative writes it: `splits` of the default, then a tag with its revision.
pub(crate) fn kingress(
    name: &str,
    splits: &[(&str, u32)],
    tag: Option<(&str, &str)>,
    header: bool,
    default: bool,
) -> Value {
    let split = |revision: &str, percent: u32| {
        json!({"serviceName": revision, "serviceNamespace": "default", "servicePort": if name.contains("grpc") { 81 } else { 80 },
            "percent": percent,
            "appendHeaders": {"Knative-Serving-Namespace": "default", "Knative-Serving-Revision": revision}})
    };
    let all: Vec<Value> = splits.iter().map(|(revision, percent)| split(revision, *percent)).collect();
    let mut paths = Vec::new();
    if let Some((tag, revision)) = tag.filter(|_| header) {
        paths.push(json!({"headers": {"Knative-Serving-Tag": {"exact": tag}}, "splits": [split(revision, 100)]}));
    }
    let append = if default { json!({"Knative-Serving-Default-Route": "true"}) } else { json!({}) };
    paths.push(json!({"appendHeaders": append, "splits": all}));
    let rules = |host: &str, paths: &[Value]| {
        let local =
            [format!("{host}.default"), format!("{host}.default.svc"), format!("{host}.default.svc.cluster.local")];
        vec![
            json!({"hosts": local, "visibility": "ClusterLocal", "http": {"paths": paths}}),
            json!({"hosts": [format!("{host}.default.example.com")], "visibility": "ExternalIP", "http": {"paths": paths}}),
        ]
    };
    let mut all = rules(name, &paths);
    if let Some((tag, revision)) = tag {
        let paths = [json!({"appendHeaders": {"Knative-Serving-Tag": tag}, "splits": [split(revision, 100)]})];
        all.extend(rules(&format!("{tag}-{name}"), &paths));
    }
    json!({"apiVersion": "networking.internal.knative.dev/v1alpha1", "kind": "Ingress",
        "metadata": {"name": name, "namespace": "default", "annotations": {}}, "spec": {"rules": all}})
}

fn annotated(mut object: Value, key: &str, value: &str) -> Value {
    object["metadata"]["annotations"][key] = json!(value);
    object
}

/// Annotations and spec, hash and order being what they are elsewhere.
fn comparable(object: &Value) -> Value {
    let mut annotations = serde_json::Map::new();
    for (key, value) in object["metadata"]["annotations"].as_object().expect("annotations") {
        let text = value.as_str().expect("text");
        let Some(short) = key.strip_prefix("alb.ingress.kubernetes.io/") else { continue };
        let value = match short {
            "order" => continue,
            _ if text.starts_with('[') => serde_json::from_str(text).expect("JSON"),
            _ => json!(text),
        };
        annotations.insert(short.to_owned(), value);
    }
    let text = serde_json::to_string(
        &json!({"name": object["metadata"]["name"], "annotations": annotations, "spec": object["spec"]}),
    )
    .expect("JSON");
    let mut value: Value = serde_json::from_str(&text).expect("JSON");
    for (key, actions) in value["annotations"].as_object_mut().expect("annotations") {
        for action in actions.as_array_mut().into_iter().flatten().filter(|_| key.starts_with("actions.")) {
            let config = &mut action["InsertHeaderConfig"];
            if config["key"] == "K-Network-Hash" {
                config["value"] = json!("HASH");
            }
            if config.is_null() {
                action.as_object_mut().expect("an action").remove("InsertHeaderConfig");
            }
        }
    }
    value
}

#[test]
fn the_vendors_examples_become_what_is_written_down() {
    let text = std::fs::read_to_string(golden("seeds.yaml")).expect("the examples");
    let wanted: Vec<Value> = text
        .split("---\n")
        .filter(|one| !one.trim().is_empty())
        .map(|one| serde_saphyr::from_str(one).expect("YAML"))
        .collect();
    assert_eq!(wanted.len(), 7);
    let go = |n: u32| format!("helloworld-go-0000{n}");
    let (one, two) = (go(1), go(2));
    let route = |names: &[&str]| {
        let traffic: Vec<Value> = names.iter().map(|name| json!({"revisionName": name})).collect();
        json!({"apiVersion": "serving.knative.dev/v1", "kind": "Route",
            "metadata": {"name": "helloworld-go", "namespace": "default"}, "spec": {"traffic": traffic}})
    };
    let plain = || kingress("helloworld-go", &[(&one, 100)], None, false, false);
    let with_tls = |mut object: Value, host: &str, secret: &str| {
        object["spec"]["tls"] = json!([{"hosts": [host], "secretName": secret, "secretNamespace": "default"}]);
        object
    };
    let mapping = json!({"apiVersion": "networking.internal.knative.dev/v1alpha1", "kind": "Ingress",
        "metadata": {"name": "shop.example.org", "namespace": "default"},
        "spec": {"rules": [{"hosts": ["shop.example.org"], "http": {"paths": [{
            "rewriteHost": "helloworld-go.default.svc.cluster.local",
            "splits": [{"serviceName": "helloworld-go", "serviceNamespace": "default", "servicePort": 80, "percent": 100,
                "appendHeaders": {"K-Original-Host": "shop.example.org"}}]}]}}]}});
    let cases = [
        vec![kingress("helloworld-go", &[(&two, 50), (&one, 50)], None, false, false)],
        vec![kingress("helloworld-go", &[(&two, 0), (&one, 100)], Some(("rev1", &two)), true, true)],
        vec![
            annotated(
                plain(),
                "alicloud.serving.knative.dev/headers",
                "[{revision:helloworld-go-00002,headers:{demo:test}}]",
            ),
            route(&[&one, &two]),
        ],
        vec![
            annotated(
                plain(),
                "alicloud.serving.knative.dev/cookies",
                "[{revision:helloworld-go-00002,cookies:{demo:always,cookie2:v2}}]",
            ),
            route(&[&one, &two]),
        ],
        vec![with_tls(
            kingress("helloworld-grpc", &[("helloworld-grpc-00001", 100)], None, false, false),
            "helloworld-grpc.default.example.com",
            "helloworld-grpc-tls",
        )],
        vec![with_tls(mapping, "shop.example.org", "cert-secret"), plain()],
        vec![annotated(
            kingress("coffee-mydomain", &[("coffee-mydomain-00001", 100)], None, false, false),
            "knative.aliyun.com/serving-ingress",
            "cafe.mydomain.com/coffee",
        )],
    ];
    for (case, wanted) in cases.iter().zip(&wanted) {
        let input = serde_json::to_string(&json!({"apiVersion": "v1", "kind": "List", "items": case})).expect("JSON");
        let (items, told, code) = rendered(&input, &[]);
        assert_eq!(code, Some(0), "{told}");
        let found = items
            .iter()
            .find(|item| item["kind"] == "Ingress" && item["metadata"]["name"] == wanted["metadata"]["name"]);
        let found = found.unwrap_or_else(|| panic!("no {} in {items:?}", wanted["metadata"]["name"]));
        assert_eq!(comparable(found), comparable(wanted));
    }
}

#[test]
fn what_a_real_knative_wrote_is_rendered() {
    let output = render(&[&golden("kingress.yaml"), &golden("routes.yaml")], &[]);
    let (items, told, code) = answer(&output);
    // All but one can be served: gRPC without a certificate.
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("error: default/grpc: GRPCRequiresTLS"), "{told}");
    assert_eq!(told.matches("error:").count(), 1, "{told}");
    let names: Vec<&str> = items
        .iter()
        .filter(|item| item["kind"] == "Ingress")
        .filter_map(|item| item["metadata"]["name"].as_str())
        .collect();
    let wanted = ["canary", "coffee", "cookies", "plain", "private", "shop.example.org", "split", "tagged"];
    assert_eq!(names[..wanted.len()], wanted);
    assert_eq!(names[wanted.len()..], ["knative-alb-default-internet", "knative-alb-default-intranet"]);
    let canary =
        &items.iter().find(|item| item["metadata"]["name"] == "canary").expect("canary")["metadata"]["annotations"];
    let actions = canary["alb.ingress.kubernetes.io/actions.forward-header-1"].as_str().expect("an action");
    assert!(actions.contains("canary-00002") && !actions.contains("Default-Route"), "{actions}");
    assert_eq!(render(&[&golden("kingress.yaml"), &golden("routes.yaml")], &[]).stdout, output.stdout);
}

#[test]
fn a_service_alone_is_enough() {
    let service = "apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata:\n  name: hello\n  annotations:\n    \
        alicloud.serving.knative.dev/headers: '[{revision:hello-00001,headers:{demo:test}}]'\nspec:\n  template:\n    \
        metadata: {name: hello-00002}\n    spec: {containers: [{image: hello}]}\n  traffic:\n  \
        - {latestRevision: true, percent: 100}\n  - {revisionName: hello-00001, percent: 0}\n";
    let (items, told, code) = rendered(service, &["--domain", "shop.test"]);
    assert_eq!(code, Some(0), "{told}");
    assert!(told.contains("VSwitchMissing"), "{told}");
    assert!(
        told.contains("warning: default/hello: TimeoutExceedsListener: hello-00002 allows requests 300 s"),
        "{told}"
    );
    let kinds: Vec<&str> = items.iter().filter_map(|item| item["kind"].as_str()).collect();
    assert_eq!(kinds, ["IngressClass", "Ingress", "Ingress"]);
    assert_eq!(items[1]["spec"]["rules"][0]["host"], "hello.default.shop.test");

    let map = |vswitches: &str| {
        format!(
            "{service}---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: config-network}}\ndata: {{ingress-class: alb.ingress.networking.knative.dev, vswitch-ids: '{vswitches}'}}\n"
        )
    };
    let (items, told, code) = rendered(&map("vsw-a,vsw-b', alb-dataplane: 'port"), &[]);
    assert_eq!(code, Some(0), "{told}");
    assert!(told.contains("warning: config-network: alb-dataplane has no effect"), "{told}");
    assert_eq!(items[0]["kind"], "AlbConfig");
    assert_eq!(items[0]["spec"]["config"]["zoneMappings"], json!([{"vSwitchId": "vsw-a"}, {"vSwitchId": "vsw-b"}]));
    let (items, told, code) = rendered(&map("vsw-a"), &[]);
    assert_eq!((items.len(), code), (0, Some(1)), "{told}");
    assert!(told.contains("error: default/hello: VSwitchMissing"), "{told}");
}

#[test]
fn what_cannot_be_expressed_is_named_and_harms_nothing_else() {
    let many: Vec<(String, u32)> = (1..=6).map(|n| (format!("a-{n}"), 10)).collect();
    let many: Vec<(&str, u32)> = many.iter().map(|(name, percent)| (name.as_str(), *percent)).collect();
    let plain = || kingress("a", &[("a-1", 100)], None, false, true);
    let mut elsewhere = plain();
    elsewhere["spec"]["rules"][1]["http"]["paths"][0]["splits"][0]["serviceNamespace"] = json!("other");
    let mut odd = plain();
    odd["spec"]["rules"][1]["http"]["paths"][0]["path"] = json!("/a*");
    let mut secret = plain();
    secret["spec"]["tls"] = json!([{"hosts": ["x.y"], "secretName": "s", "secretNamespace": "other"}]);
    let conditions: Vec<String> = (0..9).map(|n| format!("k{n}:v")).collect();
    let conditions = format!("{{revision:a-1,headers:{{{}}}}}", conditions.join(","));
    for (bad, reason) in [
        (kingress("a", &many, None, false, true), "TooManyTargets"),
        (elsewhere, "CrossNamespaceBackend"),
        (odd, "InvalidPath"),
        (secret, "TLSSecretNamespace"),
        (kingress("aliyun-a", &[("a-1", 100)], None, false, true), "ReservedName"),
        (annotated(plain(), "alicloud.serving.knative.dev/headers", &conditions), "TooManyConditions"),
        (
            annotated(plain(), "alicloud.serving.knative.dev/headers", "[{revision:a-1,headers:{Host:x}}]"),
            "ReservedCanaryHeader",
        ),
        (annotated(plain(), "alicloud.serving.knative.dev/cookies", "nonsense"), "InvalidCanaryAnnotation"),
        (kingress("a-grpc", &[("a-1", 100)], None, false, true), "GRPCRequiresTLS"),
        (kingress("a", &[], None, false, true), "UnsupportedBackend"),
    ] {
        let good = kingress("good", &[("good-1", 100)], None, false, true);
        let input =
            serde_json::to_string(&json!({"apiVersion": "v1", "kind": "List", "items": [bad, good]})).expect("JSON");
        let (items, told, code) = rendered(&input, &[]);
        assert_eq!(code, Some(1), "{told}");
        assert!(told.contains(&format!(": {reason}: ")), "{reason}: {told}");
        assert_eq!(told.matches("error:").count(), 1, "{told}");
        assert!(items.iter().any(|item| item["metadata"]["name"] == "good"), "{told}");
    }
}

/// A KIngress that is in a cluster.
fn stored(object: Value, second: u8) -> Ingress {
    let mut ingress: Ingress = serde_json::from_value(object).expect("a KIngress");
    ingress.metadata.uid = Some(format!("uid-{}", ingress.metadata.name.as_deref().unwrap_or_default()));
    let time = format!("2026-01-01T00:00:{second:02}Z").parse().expect("a time");
    ingress.metadata.creation_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(time));
    ingress
}

fn simple(name: &str, second: u8) -> Ingress {
    stored(kingress(name, &[(&format!("{name}-1"), 100)], None, false, true), second)
}

fn secured(mut ingress: Ingress, option: &str) -> Ingress {
    let public = |rule: &&IngressRule| rule.visibility == "ExternalIP";
    let hosts = ingress.spec.rules.iter().filter(public).flat_map(|rule| rule.hosts.clone()).collect();
    ingress.spec.tls =
        vec![IngressTls { hosts, secret_name: "cert".to_owned(), secret_namespace: "default".to_owned() }];
    option.clone_into(&mut ingress.spec.http_option);
    ingress
}

/// Host, path, whether its hosts are more, and how it ends.
fn outline(object: &Published) -> Vec<(String, String, usize, &'static str)> {
    let row = |rule: &Rule| {
        let end = match rule.actions.last() {
            Some(Action::ForwardGroup { .. }) => "forward",
            Some(Action::Redirect { .. }) => "redirect",
            Some(Action::FixedResponse { .. }) => "fixed",
            _ => "none",
        };
        (rule.host.clone().unwrap_or_default(), rule.path.clone(), rule.hosts().count(), end)
    };
    rules_of(object).iter().map(row).collect()
}

fn named<'a>(plan: &'a Plan, name: &str) -> &'a Published {
    let found = plan.ingresses.iter().find(|object| object.metadata.name.as_deref() == Some(name));
    found.unwrap_or_else(|| panic!("no {name}: {:?}", names(plan)))
}

fn names(plan: &Plan) -> Vec<&str> {
    plan.ingresses.iter().filter_map(|object| object.metadata.name.as_deref()).collect()
}

fn annotation<'a>(object: &'a Published, key: &str) -> Option<&'a str> {
    let annotations = object.metadata.annotations.as_ref()?;
    annotations.get(&format!("alb.ingress.kubernetes.io/{key}")).map(String::as_str)
}

fn reasons(outcome: &Outcome) -> Vec<&'static str> {
    outcome.refused.iter().chain(&outcome.remarks).map(|remark| remark.reason).collect()
}

fn refused(plan: &Plan) -> Vec<(&str, &'static str)> {
    let of = |outcome: &Outcome| outcome.refused.as_ref().map(|remark| remark.reason);
    plan.outcomes.iter().filter_map(|outcome| Some((outcome.name.as_str(), of(outcome)?))).collect()
}

#[test]
fn settings_are_read_or_refused_by_name() {
    let parse = |key: &str, value: &str| Settings::parse(&[(key.to_owned(), value.to_owned())].into());
    for (key, value) in [
        ("alb-flavor", "aws"),
        ("alb-flavor", "alibaba-canary"),
        ("alb-flavor", "x"),
        ("alb-legacy-annotations", "true"),
        ("alb-probe", "x"),
        ("alb-redirect", "302"),
        ("alb-healthcheck", "http"),
        ("alb-edition", "x"),
        ("alb-data-plane", "x"),
        ("alb-cluster-local", "x"),
        ("alb-deletion-policy", "delete"),
        ("alb-manage-listeners", "yes"),
        ("alb-connection-drain", "5"),
        ("alb-rule-layout", "x"),
        ("alb-rule-budget", "0"),
        ("alb-request-timeout", "901"),
        ("alb-idle-timeout", "-1"),
        ("alb-probe-addresses", "10.0.0.1, here"),
        ("eni", "no"),
    ] {
        let wrong = parse(key, value).expect_err(key);
        assert_eq!(wrong.len(), 1, "{key}");
        assert!(wrong[0].starts_with(&format!("{key}: {value:?} is not accepted; use ")), "{}", wrong[0]);
    }
    let all = [
        ("alb-flavor", "alibaba"),
        ("alb-legacy-annotations", "false"),
        ("alb-probe", "rule"),
        ("alb-redirect", "301"),
        ("alb-healthcheck", "tcp"),
        ("alb-connection-drain", "30"),
        ("alb-rule-layout", "split"),
        ("eni", "false"),
        ("alb-data-plane", "port"),
        ("alb-manage-listeners", "true"),
        ("alb-cluster-id", "c-1"),
        ("albconfig", "theirs"),
        ("alb-probe-addresses", " 10.0.0.2, 10.0.0.1,fd00::1,10.0.0.2,"),
        ("somebody-elses", "x"),
    ];
    let all: BTreeMap<String, String> =
        all.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let settings = Settings::parse(&all).expect("settings");
    assert_eq!((settings.probe, settings.redirect, settings.layout), (Probe::Rule, Redirect::Moved, Layout::Split));
    assert_eq!((settings.mode, settings.eni, settings.connection_drain), (Mode::Port, false, Some(30)));
    assert!(!settings.delete_unneeded);
    assert!(parse("alb-deletion-policy", "Delete").is_ok_and(|settings| settings.delete_unneeded));
    // Of a load balancer with both sides, and with one.
    for side in [Side::Internet, Side::Intranet] {
        assert_eq!(settings.asked_at(side, "a.example.com".to_owned()), "10.0.0.1,10.0.0.2,fd00::1");
    }
    let settings = Settings { albconfig: None, ..settings };
    assert_eq!(settings.asked_at(Side::Intranet, "a.example.com".to_owned()), "a.example.com");
    assert!(
        Settings::parse(&BTreeMap::new()).is_ok_and(|settings| settings.vswitches.is_some_and(|ids| ids.is_empty()))
    );
}

#[test]
fn a_setting_that_nobody_reads_is_told_and_stops_nothing() {
    let unknown = |key: &str| {
        let data = [(key.to_owned(), "x".to_owned())].into();
        assert_eq!(Settings::parse(&data), Settings::parse(&BTreeMap::new()), "{key}");
        Settings::unknown(&data)
    };
    let none = |key: &str| format!("{key} has no effect, because there is no such key; ");
    for (key, told) in [
        ("alb-dataplane", none("alb-dataplane") + "write alb-data-plane, or remove it"),
        ("ALB-Probe", none("ALB-Probe") + "write alb-probe, or remove it"),
        ("albconfig-intrant", none("albconfig-intrant") + "write albconfig-intranet, or remove it"),
        ("vswitch-id", none("vswitch-id") + "write vswitch-ids, or remove it"),
        ("alb-tomorrow", none("alb-tomorrow") + "remove it"),
        (
            "alb-verify",
            "alb-verify is not supported and has no effect: that a load balancer follows is seen by probes only, and not \
             read from the cloud's API; remove it"
                .to_owned(),
        ),
        (
            "slb-gateway",
            "slb-gateway is not supported and has no effect: make a Service of the type LoadBalancer with the cloud's \
             annotations yourself; remove it"
                .to_owned(),
        ),
    ] {
        assert_eq!(unknown(key), [told]);
    }
    // What others read is theirs.
    for key in ["ingress-class", "domain-template", "autocreate-cluster-domain-claims", "_example"] {
        assert_eq!(unknown(key), [""; 0], "{key}");
    }
    // What is known is read, and explained.
    let page = std::fs::read_to_string(crate::root().join("docs/alb.md")).expect("a file");
    let table = page.split("## Settings").nth(1).and_then(|rest| rest.split("\n## ").next()).expect("a section");
    let rows = table.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    let mut explained: Vec<&str> = rows.map(|(key, _)| key).collect();
    explained.sort_unstable();
    assert_eq!(explained, KEYS);
    for key in KEYS {
        let read = Settings::parse(&[(key.to_owned(), "nonsense".to_owned())].into());
        assert_ne!(read, Settings::parse(&BTreeMap::new()), "{key}");
    }
}

#[test]
fn plain_http_is_redirected_as_it_is_asked_for() {
    let mut ingress = secured(simple("a", 0), "Redirected");
    let mut challenge = ingress.spec.rules[1].clone();
    let path = &mut challenge.http.as_mut().expect("paths").paths[0];
    path.path = "/.well-known/acme-challenge/token".to_owned();
    path.splits[0].service_name = "cm-acme".to_owned();
    path.splits[0].append_headers.clear();
    ingress.spec.rules[1].http.as_mut().expect("paths").paths.insert(0, path.clone());
    let ingresses = [ingress];

    let plan = planned(&ingresses, Mode::Header);
    assert_eq!(names(&plan), ["a", "a--private", "knative-alb-default-internet"]);
    let primary = named(&plan, "a");
    assert_eq!(annotation(primary, "ssl-redirect"), Some("true"));
    assert_eq!(annotation(primary, "listen-ports"), Some(r#"[{"HTTP":80},{"HTTPS":443}]"#));
    assert_eq!(annotation(named(&plan, "a--private"), "listen-ports"), Some(r#"[{"HTTP":80}]"#));

    let settings = Settings { redirect: Redirect::Moved, ..Settings::default() };
    let plan = ebb::routing::plan::plan(&Context::new(&ingresses, &settings), &Existing::default());
    assert_eq!(names(&plan), ["a", "a--private", "a--redirect", "knative-alb-default-internet"]);
    let primary = named(&plan, "a");
    assert_eq!(annotation(primary, "ssl-redirect"), None);
    assert_eq!(annotation(primary, "listen-ports"), Some(r#"[{"HTTPS":443}]"#));
    let host = "a.default.example.com".to_owned();
    assert_eq!(outline(primary), [(host.clone(), "/".to_owned(), 1, "forward")]);
    let redirect = named(&plan, "a--redirect");
    assert_eq!(annotation(redirect, "listen-ports"), Some(r#"[{"HTTP":80}]"#));
    // Who gives out certificates is answered over plain HTTP.
    let challenge = (host.clone(), "/.well-known/acme-challenge/token".to_owned(), 1, "forward");
    assert_eq!(outline(redirect), [challenge, (host, "/".to_owned(), 1, "redirect")]);
    assert_eq!(
        annotation(redirect, "actions.redirect-1"),
        Some(
            r#"[{"type":"Redirect","RedirectConfig":{"host":"${host}","path":"${path}","port":"443","protocol":"https","query":"${query}","httpCode":"301"}}]"#
        )
    );

    let without =
        Ingress { spec: IngressSpec { tls: Vec::new(), ..ingresses[0].spec.clone() }, ..ingresses[0].clone() };
    let plan = planned(&[without], Mode::Header);
    assert_eq!(reasons(&plan.outcomes[0]), ["RedirectWithoutTLS"]);
    assert_eq!(names(&plan), ["a", "knative-alb-default-internet"]);
}

#[test]
fn a_probe_rule_stands_before_the_rule_it_is_of() {
    let ingresses = [stored(kingress("a", &[("a-1", 100)], Some(("t", "a-2")), true, true), 0)];
    let settings = Settings { probe: Probe::Rule, ..Settings::default() };
    let plan = plan(&Context::new(&ingresses, &settings), &Existing::default());
    let rules = rules_of(named(&plan, "a"));
    let text = |rule: &Rule| serde_json::to_string(rule).expect("JSON");
    let row = |rule: &Rule| {
        let asked = text(rule).contains(r#""key":"K-Network-Hash","values":["override"]"#);
        let told = text(rule).contains(r#""InsertHeaderConfig":{"key":"K-Network-Hash""#);
        let tag = text(rule).contains(r#""values":["t"]"#);
        (rule.host.as_deref().unwrap_or_default().split('.').next().unwrap_or_default().to_owned(), tag, asked, told)
    };
    // The probe of the tag's rule first: it has the more conditions.
    let wanted = [
        ("a", true, true, true),
        ("a", false, true, true),
        ("t-a", false, true, true),
        ("a", true, false, false),
        ("a", false, false, false),
        ("t-a", false, false, false),
    ];
    assert_eq!(rules.iter().map(row).collect::<Vec<_>>(), wanted.map(|(host, a, b, c)| (host.to_owned(), a, b, c)));
}

#[test]
fn many_hosts_are_split_over_rules() {
    let mut ingress = simple("a", 0);
    ingress.spec.rules[1].hosts = (0..25).map(|n| format!("h{n}.example.com")).collect();
    ingress.spec.rules.remove(0);
    let of = |settings: &Settings| {
        let ingresses = [ingress.clone()];
        let plan = plan(&Context::new(&ingresses, settings), &Existing::default());
        assert_eq!(refused(&plan), []);
        let rules = rules_of(named(&plan, "a"));
        let groups: BTreeSet<String> =
            rules.iter().map(|rule| serde_json::to_string(&rule.actions).expect("JSON")).collect();
        assert_eq!(groups.len(), 1, "all lead to the same");
        rules.iter().map(|rule| rule.hosts().count()).collect::<Vec<_>>()
    };
    // Beside the path a rule has room for nine.
    assert_eq!(of(&Settings::default()), [9, 9, 7]);
    assert_eq!(of(&Settings { layout: Layout::Split, ..Settings::default() }), [1; 25]);
}

#[test]
fn what_is_published_keeps_its_room_and_its_hosts() {
    let published = |ingresses: &[Ingress]| planned(ingresses, Mode::Header).ingresses;
    let (old, new) = (simple("old", 0), simple("new", 9));
    // Room for the answer for nobody and two rules.
    let settings = Settings { rule_budget: 3, ..Settings::default() };
    let with = |ingresses: &[Ingress], existing: &[Published], settings: &Settings| {
        plan(&Context::new(ingresses, settings), &Existing { ingresses: existing, balancers: &[], quotas: None })
    };
    // The younger has its rule already; what the older wants beyond that must wait.
    let mut grown = old.clone();
    grown.spec.rules[1].hosts = (0..25).map(|n| format!("h{n}.example.com")).collect();
    let existing = published(std::slice::from_ref(&new));
    let plan = with(&[grown.clone(), new.clone()], &existing, &settings);
    assert_eq!(refused(&plan), [("old", "RuleBudgetExceeded")]);
    assert!(plan.outcomes[0].refused.as_ref().is_some_and(|remark| remark.message.starts_with("6 rules are needed")));
    // What grew keeps what it had, so there is room for one more and not for two.
    let existing = published(std::slice::from_ref(&old));
    let third = simple("third", 10);
    let plan = with(&[grown, new.clone(), third], &existing, &settings);
    assert_eq!(refused(&plan), [("old", "RuleBudgetExceeded"), ("third", "RuleBudgetExceeded")]);
    let tight = Settings { rule_budget: 2, ..Settings::default() };
    let mut far = old.clone();
    far.spec.rules[1].http.as_mut().expect("paths").paths[0].path = "/a*".to_owned();
    assert_eq!(
        refused(&with(&[far.clone(), new.clone()], &existing, &tight)),
        [("old", "InvalidPath"), ("new", "RuleBudgetExceeded")]
    );
    // Nor may somebody else take the hosts of what can no longer be expressed.
    let mut thief = new.clone();
    thief.spec.rules[1].hosts = vec!["old.default.example.com".to_owned()];
    assert_eq!(
        refused(&with(&[far, thief.clone()], &existing, &Settings::default())),
        [("old", "InvalidPath"), ("new", "HostConflict")]
    );
    // A claim decides before age does.
    let claims = [("old.default.example.com".to_owned(), "other".to_owned())].into();
    let ingresses = [old.clone()];
    let settings = Settings::default();
    let context = Context { claims: &claims, ..Context::new(&ingresses, &settings) };
    assert_eq!(refused(&ebb::routing::plan::plan(&context, &Existing::default())), [("old", "HostConflict")]);
    // Somebody else's Ingress of the name is not taken.
    let mut foreign = existing.clone();
    foreign[0].metadata.owner_references = None;
    assert_eq!(foreign[0].metadata.name.as_deref(), Some("old"));
    assert_eq!(refused(&with(&[old], &foreign, &Settings::default())), [("old", "NotOwned")]);
}

#[test]
fn one_load_balancer_for_both_sides_has_one_answer_for_nobody() {
    let mut inside = simple("inside", 1);
    inside.spec.rules.pop();
    let ingresses = [secured(simple("outside", 0), "Enabled"), inside];
    let both = |names: &[&str]| {
        let settings = Settings { albconfig: Some("theirs".to_owned()), manage_listeners: true, ..Settings::default() };
        let theirs: AlbConfig = serde_json::from_value(json!({"apiVersion": "alibabacloud.com/v1", "kind": "AlbConfig",
            "metadata": {"name": "theirs"},
            "spec": {"config": {"name": "x"}, "listeners": [{"port": 80, "protocol": "HTTP", "aclConfig": {"aclIds": ["acl-1"]}}]}}))
        .expect("an AlbConfig");
        let balancers = [theirs];
        let plan =
            plan(&Context::new(&ingresses, &settings), &Existing { balancers: &balancers, ..Existing::default() });
        assert_eq!(self::names(&plan), names);
        plan
    };
    let plan = both(&["inside", "outside", "outside--private", "knative-alb-default-internet"]);
    assert_eq!(plan.classes.len(), 2);
    let written = serde_json::to_value(&plan.balancers).expect("JSON");
    // What a user set stays, and nothing but listeners is spoken of.
    assert_eq!(
        written[0]["spec"],
        json!({"listeners": [
            {"port": 80, "protocol": "HTTP", "aclConfig": {"aclIds": ["acl-1"]}},
            {"port": 443, "protocol": "HTTPS", "requestTimeout": 180, "idleTimeout": 60}]})
    );
    assert_eq!(plan.balancers.len(), 1);
}

#[test]
fn what_changes_its_load_balancer_is_on_both_for_a_while() {
    let outside = simple("a", 0);
    let mut inside = outside.clone();
    inside.spec.rules.pop();
    let shared = Settings { albconfig: Some("theirs".to_owned()), ..Settings::default() };
    let with = |ingress: &Ingress, existing: &[Published], settings: &Settings| {
        let ingresses = [ingress.clone()];
        let there = Existing { ingresses: existing, ..Existing::default() };
        let plan = plan(&Context::new(&ingresses, settings), &there);
        let of_it = |object: &&Published| object.metadata.namespace.as_deref() == Some("default");
        let class = |object: &Published| object.spec.as_ref().and_then(|spec| spec.ingress_class_name.clone());
        let made: Vec<_> =
            plan.ingresses.iter().filter(of_it).map(|object| (object.name_any(), class(object))).collect();
        let leaving: Vec<_> = plan.leaving.iter().map(|one| one.name.clone()).collect();
        let stale: Vec<_> = plan.stale.iter().map(|(_, name)| name.clone()).collect();
        let objects: Vec<_> = plan.ingresses.iter().filter(of_it).cloned().collect();
        ((made, leaving, stale), objects)
    };
    let on = |name: &str, side: &str| (name.to_owned(), Some(format!("knative-alb-ingress-{side}")));
    let none = Vec::<String>::new;
    let settings = Settings::default();
    let (made, first) = with(&outside, &[], &settings);
    assert_eq!(made, (vec![on("a", "internet")], none(), none()));
    // It moves, is moved, and stays there …
    let (made, second) = with(&inside, &first, &settings);
    assert_eq!(made, (vec![on("a--intranet", "intranet")], vec!["a".to_owned()], none()));
    let both = [first.clone(), second.clone()].concat();
    assert_eq!(with(&inside, &both, &settings).0, (vec![on("a--intranet", "intranet")], vec!["a".to_owned()], none()));
    assert_eq!(with(&inside, &second, &settings).0, (vec![on("a--intranet", "intranet")], none(), none()));
    // … and comes back, be the move over or not.
    let back = (vec![on("a", "internet")], vec!["a--intranet".to_owned()], none());
    assert_eq!(with(&outside, &both, &settings).0, back);
    assert_eq!(with(&outside, &second, &settings).0, back);
    // What cannot be expressed leaves nothing behind, wherever it is.
    let mut broken = inside.clone();
    let nonsense = ("alicloud.serving.knative.dev/headers".to_owned(), "nonsense".to_owned());
    broken.metadata.annotations.get_or_insert_default().extend([nonsense]);
    assert_eq!(with(&broken, &both, &settings).0, (Vec::new(), none(), none()));
    // Names of the cluster apart from the others: an Ingress that is on the load balancer already becomes the other one,
    // and is there all the time.
    let apart = Settings { cluster_local: ClusterLocal::Intranet, ..Settings::default() };
    let (made, first) = with(&outside, &[], &apart);
    assert_eq!(made, (vec![on("a", "internet"), on("a--private", "intranet")], none(), none()));
    let (made, second) = with(&inside, &first, &apart);
    assert_eq!(made, (vec![on("a--private", "intranet")], vec!["a".to_owned()], none()));
    let both = [second.clone(), vec![first[0].clone()]].concat();
    assert_eq!(
        with(&outside, &both, &apart).0,
        (vec![on("a", "internet"), on("a--private", "intranet")], none(), none())
    );
    let (made, first) = with(&inside, &[], &apart);
    assert_eq!(made, (vec![on("a", "intranet")], none(), none()));
    let (made, second) = with(&outside, &first, &apart);
    assert_eq!(made, (vec![on("a", "intranet"), on("a--internet", "internet")], none(), none()));
    assert_eq!(with(&outside, &second, &apart).0, made);
    assert_eq!(with(&inside, &second, &apart).0, (vec![on("a", "intranet")], vec!["a--internet".to_owned()], none()));
    // The same where both sides are one load balancer: names of the cluster stay where they are.
    let one = Settings { cluster_local: ClusterLocal::Intranet, ..shared.clone() };
    let (_, first) = with(&inside, &[], &one);
    let (made, second) = with(&outside, &first, &one);
    assert_eq!(made, (vec![on("a", "intranet"), on("a--internet", "internet")], none(), none()));
    assert_eq!(with(&inside, &second, &one).0, (vec![on("a", "intranet")], none(), vec!["a--internet".to_owned()]));
    // On one load balancer there is nothing to move.
    let (_, first) = with(&outside, &[], &shared);
    assert_eq!(with(&inside, &first, &shared).0, (vec![on("a", "intranet")], none(), none()));
}

#[test]
fn listeners_of_our_own_are_never_taken_away() {
    let ingresses = [simple("a", 0)];
    let settings = Settings {
        vswitches: Some(vec!["vsw-a".to_owned(), "vsw-b".to_owned()]),
        cluster_id: Some("c-1".to_owned()),
        ..Settings::default()
    };
    let make = |balancers: &[AlbConfig]| {
        plan(&Context::new(&ingresses, &settings), &Existing { balancers, ..Existing::default() }).balancers
    };
    let first = make(&[]);
    assert_eq!(
        serde_json::to_value(&first[0].spec).expect("JSON"),
        json!({"config": {"name": "knative-internet", "addressType": "Internet", "addressAllocatedMode": "Dynamic",
                "edition": "Standard", "zoneMappings": [{"vSwitchId": "vsw-a"}, {"vSwitchId": "vsw-b"}],
                "billingConfig": {"payType": "PostPay"}, "tags": [{"key": "knative-alb", "value": "c-1"}]},
            "listeners": [{"port": 80, "protocol": "HTTP", "requestTimeout": 180, "idleTimeout": 60}]})
    );
    let mut known = first.clone();
    let secure =
        json!({"port": 443, "protocol": "HTTPS", "requestTimeout": 7, "certificates": [{"CertificateId": "x"}]});
    known[0].spec.listeners.push(serde_json::from_value(secure).expect("a listener"));
    let again = serde_json::to_value(&make(&known)[0].spec.listeners).expect("JSON");
    assert_eq!(
        again[1],
        json!({"port": 443, "protocol": "HTTPS", "requestTimeout": 180, "idleTimeout": 60, "certificates": [{"CertificateId": "x"}]})
    );
}

#[test]
fn where_pods_have_no_addresses_only_ports_of_nodes_are_used() {
    let ingresses = [simple("a", 0)];
    for (mode, wanted) in
        [(Mode::Hold, Some("UnsupportedBackend")), (Mode::Header, Some("UnsupportedBackend")), (Mode::Port, None)]
    {
        let settings = Settings { mode, eni: false, ..Settings::default() };
        let plan = plan(&Context::new(&ingresses, &settings), &Existing::default());
        assert_eq!(refused(&plan).first().map(|(_, reason)| *reason), wanted, "{mode:?}");
    }
}

#[test]
fn health_checks_and_draining_are_what_is_set() {
    let ingresses = [simple("a", 0)];
    let settings = Settings { tcp_health_checks: true, connection_drain: Some(30), ..Settings::default() };
    let plan = plan(&Context::new(&ingresses, &settings), &Existing::default());
    let object = named(&plan, "a");
    for (key, value) in [
        ("healthcheck-enabled", "true"),
        ("healthcheck-protocol", "TCP"),
        ("connection-drain-enabled", "true"),
        ("connection-drain-timeout", "30"),
    ] {
        assert_eq!(annotation(object, key), Some(value), "{key}");
        assert_eq!(annotation(named(&planned(&ingresses, Mode::Header), "a"), key), None, "{key}");
    }
}

#[test]
fn times_the_load_balancer_cannot_keep_are_told() {
    let ingresses = [stored(kingress("a", &[("a-1", 100)], Some(("t", "a-2")), false, true), 0)];
    let revision = |name: &str, seconds: Option<i64>| -> Revision {
        let spec = json!({"containers": [], "timeoutSeconds": seconds});
        serde_json::from_value(json!({"apiVersion": "serving.knative.dev/v1", "kind": "Revision",
            "metadata": {"name": name, "namespace": "default"}, "spec": spec}))
        .expect("a revision")
    };
    let settings = Settings::default();
    for (first, second, wanted) in [
        (None, Some(60), vec!["TimeoutExceedsListener"]),
        (Some(180), Some(59), vec!["ShortGrace"]),
        (Some(181), Some(1), vec!["TimeoutExceedsListener", "ShortGrace"]),
    ] {
        // Of the third nothing is said: no rule leads there.
        let revisions = [revision("a-1", first), revision("a-2", second), revision("a-3", Some(1))];
        let context = Context { revisions: &revisions, ..Context::new(&ingresses, &settings) };
        let plan = plan(&context, &Existing::default());
        assert_eq!(reasons(&plan.outcomes[0]), wanted);
    }
}

#[test]
fn what_no_rule_can_split_goes_to_an_activator() {
    let many: Vec<(String, u32)> = (1..=6).map(|n| (format!("a-{n}"), 10)).collect();
    let many: Vec<(&str, u32)> = many.iter().map(|(name, percent)| (name.as_str(), *percent)).collect();
    let wide = stored(kingress("a", &many, None, false, true), 0);
    let mut odd = stored(kingress("b", &[("b-1", 50), ("b-2", 50)], None, false, true), 1);
    for rule in &mut odd.spec.rules {
        rule.http.as_mut().expect("paths").paths[0].splits[0].append_headers.insert("x".to_owned(), "y".to_owned());
    }
    let ingresses = [wide, odd];
    assert_eq!(
        refused(&planned(&ingresses, Mode::Header)),
        [("a", "TooManyTargets"), ("b", "PerSplitHeadersUnsupported")]
    );
    let plan = planned(&ingresses, Mode::Port);
    assert_eq!(refused(&plan), []);
    for (name, outcome) in ["a", "b"].iter().zip(&plan.outcomes) {
        let service = format!("{name}-alb-split-1");
        assert_eq!(reasons(outcome), ["SplitDelegated"]);
        assert!(outcome.remarks[0].is_normal());
        assert_eq!(outcome.delegated.keys().collect::<Vec<_>>(), [&service]);
        assert_eq!(outcome.delegated[&service].len(), outcome.routed.len());
        assert!(annotation(named(&plan, name), "actions.forward-default").is_some_and(|text| {
            text.contains(&format!(r#""ServerGroups":[{{"ServiceName":"{service}","ServicePort":80,"Weight":100}}]"#))
        }));
    }
}

#[test]
fn a_mapping_leads_where_its_target_does() {
    let mapping = |target: &str| {
        stored(
            json!({"apiVersion": "networking.internal.knative.dev/v1alpha1", "kind": "Ingress",
            "metadata": {"name": "shop.example.org", "namespace": "default"},
            "spec": {"rules": [{"hosts": ["shop.example.org"], "http": {"paths": [{"rewriteHost": target,
                "splits": [{"serviceName": "a", "serviceNamespace": "default", "servicePort": 80, "percent": 100}]}]}}]}}),
            5,
        )
    };
    let service = |kind: &str| -> CoreService {
        serde_json::from_value(json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "a", "namespace": "default"}, "spec": {"type": kind}}))
        .expect("a Service")
    };
    let target = "a.default.svc.cluster.local";
    let settings = Settings::default();
    let alone = [mapping(target)];
    let others = [simple("a", 0)];
    let of = |ingresses: &[Ingress], others: &[Ingress], services: &[CoreService]| {
        let context = Context { others, services, ..Context::new(ingresses, &settings) };
        plan(&context, &Existing::default())
    };
    assert_eq!(refused(&of(&alone, &[], &[])), [("shop.example.org", "RewriteTargetNotFound")]);
    let placeholder = [service("ExternalName")];
    assert_eq!(refused(&of(&alone, &others, &placeholder)), [("shop.example.org", "UnsupportedBackend")]);
    let plan = of(&alone, &others, &[service("ClusterIP")]);
    let actions = annotation(named(&plan, "shop.example.org"), "actions.forward-default").expect("actions");
    assert!(actions.contains(&format!(r#"{{"type":"Rewrite","RewriteConfig":{{"Host":"{target}"}}}}"#)), "{actions}");
    // Where a KIngress of the class has it, its rules are planned under the new host, and no host is changed.
    let both = [simple("a", 0), secured(mapping(target), "Enabled")];
    let plan = of(&both, &[], &placeholder);
    assert_eq!(refused(&plan), []);
    let object = named(&plan, "shop.example.org");
    assert!(!serde_json::to_string(&object).expect("JSON").contains("Rewrite"));
    assert_eq!(plan.outcomes[1].routed, ["a-1".to_owned()].into());
    assert_eq!(annotation(object, "listen-ports"), Some(r#"[{"HTTP":80},{"HTTPS":443}]"#));
    // A mapping of a mapping leads nowhere a load balancer could follow.
    let mut chain = mapping("shop.example.org");
    chain.metadata.name = Some("second.example.org".to_owned());
    chain.spec.rules[0].hosts = vec!["second.example.org".to_owned()];
    let three = [both[0].clone(), both[1].clone(), chain];
    assert_eq!(refused(&of(&three, &[], &placeholder)), [("second.example.org", "UnsupportedBackend")]);
}

#[test]
fn grpc_beside_http_has_an_ingress_of_its_own() {
    let mut ingress = secured(simple("a", 0), "Enabled");
    ingress.metadata.annotations =
        Some([("knative.alibabacloud.com/grpc".to_owned(), "grpcbin.GRPCBin, b.B".to_owned())].into());
    let ingresses = [ingress];
    let settings = Settings::default();
    let with = |ports: &[i32]| {
        let ports: Vec<Value> = ports.iter().map(|port| json!({"port": port})).collect();
        let service: CoreService = serde_json::from_value(json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "a-1", "namespace": "default"}, "spec": {"ports": ports}}))
        .expect("a Service");
        let services = [service];
        plan(&Context { services: &services, ..Context::new(&ingresses, &settings) }, &Existing::default())
    };
    let plan = with(&[80]);
    assert_eq!((refused(&plan), reasons(&plan.outcomes[0])), (vec![], vec!["DualProtocolUnavailable"]));
    assert_eq!(names(&plan), ["a", "a--private", "knative-alb-default-internet"]);

    let plan = with(&[80, 81]);
    assert_eq!(names(&plan), ["a", "a--grpc", "a--grpc-http", "a--private", "knative-alb-default-internet"]);
    let grpc = named(&plan, "a--grpc");
    let order: u16 = annotation(grpc, "order").and_then(|order| order.parse().ok()).expect("an order");
    assert!(order < 100, "before the primary: {order}");
    assert_eq!(annotation(grpc, "backend-protocol"), Some("grpc"));
    assert_eq!(annotation(grpc, "listen-ports"), Some(r#"[{"HTTPS":443}]"#));
    let host = || "a.default.example.com".to_owned();
    let paths = [("/grpcbin.GRPCBin/", "forward"), ("/b.B/", "forward")];
    assert_eq!(outline(grpc), paths.map(|(path, end)| (host(), path.to_owned(), 1, end)));
    // Over plain HTTP these paths are answered, so that they reach nobody else.
    let answer = named(&plan, "a--grpc-http");
    assert_eq!(outline(answer), paths.map(|(path, _)| (host(), path.to_owned(), 1, "fixed")));
    assert!(annotation(answer, "actions.forward-p0").is_some_and(|text| text.contains(r#""httpCode":"426""#)));
}

pub(crate) async fn diff(served: &Served) -> (String, String, Option<i32>) {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("kubeconfig");
    std::fs::write(&file, kubeconfig(served.addr)).expect("a writable directory");
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_ebb"));
    let output = command.args(["alb", "diff", "--kubeconfig"]).arg(&file).output().await.expect("ebb runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    (text(output.stdout), text(output.stderr), output.status.code())
}

pub(crate) async fn create(served: &Served, object: &Value) {
    let object: DynamicObject = serde_json::from_value(object.clone()).expect("an object");
    let (group, version) = match object.types.as_ref().expect("its kind").api_version.split_once('/') {
        Some((group, version)) => (group.to_owned(), version.to_owned()),
        None => (String::new(), object.types.as_ref().expect("its kind").api_version.clone()),
    };
    let kind = GroupVersionKind::gvk(&group, &version, &object.types.as_ref().expect("its kind").kind);
    let client = served.client();
    let (resource, capabilities) = kube::discovery::pinned_kind(&client, &kind).await.expect("a known kind");
    let api: Api<DynamicObject> = match &object.metadata.namespace {
        Some(namespace) if capabilities.scope == Scope::Namespaced => {
            Api::namespaced_with(client, namespace, &resource)
        }
        _ => Api::all_with(client, &resource),
    };
    let name = object.metadata.name.clone().expect("a name");
    let params = PatchParams::apply("test").force();
    api.patch(&name, &params, &Patch::Apply(&object)).await.expect("applied");
}

/// The kind of load balancers.
pub(crate) fn definition(scope: &str) -> Value {
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "albconfigs.alibabacloud.com"},
        "spec": {"group": "alibabacloud.com", "scope": scope,
            "names": {"kind": "AlbConfig", "plural": "albconfigs", "singular": "albconfig", "listKind": "AlbConfigList"},
            "versions": [{"name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}]}})
}

#[tokio::test]
async fn a_live_cluster_is_compared_with_what_it_should_be() {
    let served = Served::start().await;
    let (_, told, code) = diff(&served).await;
    assert_eq!(code, Some(2), "{told}");
    assert!(told.contains("there is no ConfigMap knative-serving/config-network"), "{told}");

    let map = |vswitches: &str| {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "config-network", "namespace": "knative-serving"},
            "data": {"ingress-class": "alb.ingress.networking.knative.dev", "vswitch-ids": vswitches}})
    };
    create(&served, &map("vsw-a,vsw-b")).await;
    let (text, told, code) = diff(&served).await;
    assert_eq!((text.as_str(), code), ("", Some(0)), "{told}");

    let mut other = kingress("other", &[("other-1", 100)], None, false, true);
    other["metadata"]["annotations"] =
        json!({"networking.knative.dev/ingress.class": "kourier.ingress.networking.knative.dev"});
    create(&served, &other).await;
    create(&served, &kingress("a", &[("a-1", 100)], None, false, true)).await;
    let (text, told, code) = diff(&served).await;
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("note: default/other is of the class"), "{told}");
    for line in [
        "+++ AlbConfig knative-internet (planned)",
        "+++ IngressClass knative-alb-ingress-internet (planned)",
        "+++ Ingress default/a (planned)",
        "+++ Ingress knative-serving/knative-alb-default-internet (planned)",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    assert_eq!(text.matches("--- /dev/null").count(), 4, "{text}");

    // Once it is there, nothing differs: what a server adds and a user set does not count.
    create(&served, &definition("Cluster")).await;
    let mut planned = planned_in(&served).await;
    for object in &mut planned {
        object["metadata"]["annotations"]["somebody"] = json!("else");
        if object["kind"] == "AlbConfig" {
            object["spec"]["config"]["accessLogConfig"] = json!({"logStore": "x"});
        }
        create(&served, object).await;
    }
    let (text, told, code) = diff(&served).await;
    assert_eq!((text.as_str(), code), ("", Some(0)), "{told}");

    // A value that differs, and an annotation that has no rule any more.
    let mut changed = planned.iter().find(|object| object["metadata"]["name"] == "a").expect("a").clone();
    changed["metadata"]["annotations"]["alb.ingress.kubernetes.io/order"] = json!("1000");
    changed["metadata"]["annotations"]["alb.ingress.kubernetes.io/actions.old"] = json!("[]");
    create(&served, &changed).await;
    let (text, _, code) = diff(&served).await;
    assert_eq!(code, Some(1));
    let changes: Vec<&str> = text.lines().filter(|line| line.starts_with(['-', '+'])).map(str::trim_end).collect();
    assert_eq!(
        changes,
        [
            "--- Ingress default/a (live)",
            "+++ Ingress default/a (planned)",
            "-    alb.ingress.kubernetes.io/actions.old: \"[]\"",
            "-    alb.ingress.kubernetes.io/order: \"1000\"",
            "+    alb.ingress.kubernetes.io/order: \"100\"",
        ]
    );

    // A load balancer that is there needs no vSwitches, and stays where it is.
    create(&served, &map("vsw-a")).await;
    let (text, told, _) = diff(&served).await;
    assert!(!told.contains("VSwitchMissing") && !text.contains("AlbConfig"), "{told}{text}");

    // What cannot be expressed keeps what it has.
    let plain = kingress("a", &[("a-1", 100)], None, false, true);
    create(&served, &annotated(plain, "alicloud.serving.knative.dev/headers", "nonsense")).await;
    let (text, told, code) = diff(&served).await;
    assert_eq!(code, Some(1));
    assert!(told.contains("error: default/a: ") && told.contains("InvalidCanaryAnnotation"), "{told}");
    assert!(!text.contains("Ingress default/a"), "{text}");
}

/// What `ebb alb diff` compares with, made here from what is in the API.
async fn planned_in(served: &Served) -> Vec<Value> {
    let all: Api<Ingress> = Api::all(served.client());
    let ingresses = all.list(&ListParams::default()).await.expect("a list").items;
    let ingresses: Vec<Ingress> =
        ingresses.into_iter().filter(|one| one.metadata.name.as_deref() == Some("a")).collect();
    let vswitches = Some(vec!["vsw-a".to_owned(), "vsw-b".to_owned()]);
    let settings = Settings { vswitches, ..Settings::default() };
    let plan = plan(&Context::new(&ingresses, &settings), &Existing::default());
    let value = |object| serde_json::to_value::<&Published>(object).expect("JSON");
    let mut objects: Vec<Value> = plan.ingresses.iter().map(value).collect();
    objects.extend(plan.classes.iter().map(|object| serde_json::to_value(object).expect("JSON")));
    objects.extend(plan.balancers.iter().map(|object| serde_json::to_value(object).expect("JSON")));
    objects
}

fn planned(ingresses: &[Ingress], mode: Mode) -> Plan {
    let settings = Settings { mode, ..Settings::default() };
    plan(&Context::new(ingresses, &settings), &Existing::default())
}

fn any_kingress() -> impl Strategy<Value = Ingress> {
    let split = (1..4u8, 0..=100i32, any::<bool>()).prop_map(|(n, percent, h2c)| IngressSplit {
        service_name: format!("rev-{n}"),
        service_namespace: "default".to_owned(),
        service_port: k8s_openapi::apimachinery::pkg::util::intstr::IntOrString::Int(if h2c && n == 3 {
            81
        } else {
            80
        }),
        percent,
        append_headers: [("Knative-Serving-Revision".to_owned(), format!("rev-{n}"))].into(),
    });
    let path = (prop::sample::select(vec!["", "/", "/a", "/a/b", "/c*"]), prop::collection::vec(split, 0..7))
        .prop_map(|(path, splits)| HttpPath { path: path.to_owned(), splits, ..HttpPath::default() });
    let rule =
        (prop::collection::btree_set("[a-d]{1,2}\\.test", 0..14), prop::collection::vec(path, 1..3), any::<bool>())
            .prop_map(|(hosts, paths, local)| IngressRule {
                hosts: hosts.into_iter().collect(),
                visibility: if local { "ClusterLocal" } else { "ExternalIP" }.to_owned(),
                http: Some(HttpRule { paths }),
            });
    (
        prop::collection::vec(rule, 1..4),
        "[a-f]",
        prop::option::of("[\\[\\]{}a-z:,]{0,30}|[{]revision:rev-1,headers:[{]a:b[}][}]"),
    )
        .prop_map(|(rules, name, annotation)| {
            let hosts = rules.iter().filter(|rule| rule.visibility == "ExternalIP").flat_map(|rule| rule.hosts.clone());
            let tls = IngressTls { hosts: hosts.collect(), secret_name: "cert".to_owned(), ..IngressTls::default() };
            let tls = if tls.hosts.len() % 2 == 1 || tls.hosts.is_empty() { Vec::new() } else { vec![tls] };
            let http_option = if tls.is_empty() { "" } else { "Redirected" }.to_owned();
            let mut ingress = Ingress::new(&name, IngressSpec { rules, tls, http_option });
            ingress.metadata.namespace = Some("default".to_owned());
            ingress.metadata.uid = Some(name.clone());
            ingress.metadata.annotations =
                annotation.map(|text| [("alicloud.serving.knative.dev/headers".to_owned(), text)].into());
            ingress
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever the input: the same every time, read back strictly, within every limit, no empty group, no order twice.
    #[test]
    fn what_is_rendered_keeps_the_laws(
        ingresses in prop::collection::vec(any_kingress(), 1..4),
        mode in prop::sample::select(vec![Mode::Hold, Mode::Header, Mode::Port]),
        probe in prop::sample::select(vec![Probe::Inline, Probe::Rule, Probe::None]),
        redirect in prop::sample::select(vec![Redirect::Permanent, Redirect::Moved]),
        rule_budget in prop::sample::select(vec![6, 30, 100]),
        shared in any::<bool>(),
    ) {
        let ingresses: BTreeMap<_, _> = ingresses.into_iter().map(|one| (one.metadata.name.clone(), one)).collect();
        let ingresses: Vec<Ingress> = ingresses.into_values().collect();
        let albconfig = shared.then(|| "theirs".to_owned());
        let settings = Settings { mode, probe, redirect, rule_budget, albconfig, ..Settings::default() };
        let planned = |existing: &[Published]| {
            plan(&Context::new(&ingresses, &settings), &Existing { ingresses: existing, balancers: &[], quotas: None })
        };
        let plan = planned(&[]);
        prop_assert_eq!(&plan, &planned(&[]));
        // What is written once is not written differently the next time.
        let again = planned(&plan.ingresses);
        prop_assert_eq!(&again.ingresses, &plan.ingresses);
        let mut used: BTreeMap<bool, usize> = BTreeMap::new();
        prop_assert_eq!(plan.outcomes.len(), ingresses.len());
        let mut orders = BTreeSet::new();
        for ingress in &plan.ingresses {
            let annotations = ingress.metadata.annotations.as_ref().expect("annotations");
            let get = |key: &str| annotations.get(&format!("alb.ingress.kubernetes.io/{key}"));
            let order: u16 = get("order").expect("an order").parse().expect("a number");
            prop_assert!((1..=1000).contains(&order));
            let class = ingress.spec.as_ref().and_then(|spec| spec.ingress_class_name.clone()).expect("a class");
            prop_assert!(orders.insert((!shared && class.ends_with("intranet"), order)));
            *used.entry(!shared && class.ends_with("intranet")).or_default() +=
                rules_of(ingress).len() * get("listen-ports").expect("listeners").matches('{').count();
            for rule in ingress.spec.iter().flat_map(|spec| spec.rules.iter().flatten()) {
                let backend = rule.http.as_ref().and_then(|http| http.paths[0].backend.service.as_ref()).expect("a backend");
                prop_assert!(backend.name.len() <= 48);
                let conditions = get(&format!("conditions.{}", backend.name)).map_or("[]", String::as_str);
                let actions = get(&format!("actions.{}", backend.name)).expect("actions");
                let (conditions, actions) = Rule::reparse(conditions, actions).expect("documented JSON");
                let entries: usize = conditions.iter().map(ebb::routing::model::Condition::entries).sum();
                prop_assert!(1 + usize::from(rule.host.is_some()) + entries <= 10);
                prop_assert!(actions.len() <= 5);
                match actions.last() {
                    Some(Action::ForwardGroup { config }) => {
                        prop_assert!((1..=5).contains(&config.server_groups.len()));
                        prop_assert!(config.server_groups.iter().all(|group| (1..=100).contains(&group.weight)));
                    }
                    Some(Action::FixedResponse { .. } | Action::Redirect { .. }) => prop_assert_eq!(actions.len(), 1),
                    other => prop_assert!(false, "ends with {:?}", other),
                }
            }
        }
        prop_assert!(used.values().all(|used| *used <= rule_budget), "{used:?} of {rule_budget}");
    }
}

/// Addresses of a load balancer that exists in this test only.
pub(crate) struct Fixed(pub(crate) SocketAddr);

impl Vips for Fixed {
    fn resolve<'a>(&'a self, _name: &'a str, _secure: bool) -> BoxFuture<'a, std::io::Result<Vec<SocketAddr>>> {
        Box::pin(async { Ok(vec![self.0]) })
    }
}

/// The same, and by which names it was asked for them.
struct Recorded(SocketAddr, Mutex<BTreeSet<String>>);

impl Vips for Recorded {
    fn resolve<'a>(&'a self, name: &'a str, _secure: bool) -> BoxFuture<'a, std::io::Result<Vec<SocketAddr>>> {
        self.1.lock().expect("a lock").insert(name.to_owned());
        Box::pin(async { Ok(vec![self.0]) })
    }
}

#[tokio::test]
async fn a_load_balancer_is_asked_at_the_addresses_that_are_named() {
    let named = SystemVips.resolve("10.0.0.1,fd00::1", true).await.expect("addresses");
    assert_eq!(named, ["10.0.0.1:443".parse().expect("an address"), "[fd00::1]:443".parse().expect("an address")]);

    let served = Served::start().await;
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "config-network", "namespace": "knative-serving"},
        "data": {"ingress-class": "alb.ingress.networking.knative.dev", "vswitch-ids": "vsw-a,vsw-b",
            "alb-probe-addresses": "10.0.0.1,10.0.0.2"}});
    create(&served, &map).await;
    create(&served, &definition("Cluster")).await;
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a-1", "namespace": "default"},
        "spec": {"ports": [{"port": 80}]}});
    create(&served, &service).await;
    create(&served, &kingress("a", &[("a-1", 100)], None, false, true)).await;
    let vips = Arc::new(Recorded(SocketAddr::from(([127, 0, 0, 1], 1)), Mutex::default()));
    let cancel = CancellationToken::new();
    let running = tokio::spawn(Controller::new(setup(&served, vips.clone()), &cancel).run(cancel.clone()));
    settles(&served, "a", ["True", "Unknown WaitingForAddress"]).await;
    let named = json!({"status": {"loadBalancer": {"ingress": [{"hostname": "alb-1.example.com"}]}}});
    let api: Api<Published> = Api::namespaced(served.client(), "default");
    api.patch_status("a", &PatchParams::default(), &Patch::Merge(&named)).await.expect("patched");
    let ingress = settles(&served, "a", ["True", "Unknown Probing"]).await;
    let public = ingress.status.and_then(|status| status.public_load_balancer).expect("a load balancer");
    assert_eq!(public.ingress[0].domain, "alb-1.example.com", "clients go by the name");
    crate::patience::eventually("a question", async || (!vips.1.lock().expect("a lock").is_empty()).then_some(()))
        .await;
    assert_eq!(*vips.1.lock().expect("a lock"), BTreeSet::from(["10.0.0.1,10.0.0.2".to_owned()]));
    cancel.cancel();
    running.await.expect("it ends in order");
}

#[tokio::test]
async fn kingresses_are_counted_by_whose_they_are() {
    let served = Served::start().await;
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "config-network", "namespace": "knative-serving"},
        "data": {"ingress-class": "istio.ingress.networking.knative.dev"}});
    create(&served, &map).await;
    for (name, class) in [
        ("a", Some("kourier.ingress.networking.knative.dev")),
        ("b", Some("alb.ingress.networking.knative.dev")),
        ("c", Some("a.gateway.of.mine")),
        ("d", Some("another.one")),
        ("e", None),
    ] {
        let mut object = kingress(name, &[("a-1", 100)], None, false, true);
        object["metadata"]["annotations"] = match class {
            Some(class) => json!({"networking.knative.dev/ingress.class": class}),
            None => json!({}),
        };
        create(&served, &object).await;
    }
    let vips: Arc<dyn Vips> = Arc::new(Fixed(SocketAddr::from(([127, 0, 0, 1], 1))));
    let keeper = Keeper::new(Clock::system(), Timers::default(), Arc::clone(&vips));
    let registry = Registry::new(Compat::IMPROVED);
    registry.register(keeper.clone());
    let cancel = CancellationToken::new();
    let setup = Setup { gates: Some((keeper, Cache::default())), ..setup(&served, vips) };
    let running = tokio::spawn(Controller::new(setup, &cancel).run(cancel.clone()));
    let wanted = ["alb 1", "contour 0", "istio 1", "kourier 1", "mse 0", "other 2"];
    crate::patience::eventually("every KIngress counted", async || {
        let text = registry.exposition(Format::Prometheus);
        let lines = text.lines().filter_map(|line| line.strip_prefix("ebb_kingresses{class=\""));
        let mut counted: Vec<String> = lines.map(|line| line.replace("\"}", "")).collect();
        counted.sort();
        if counted == wanted { Ok(()) } else { Err(format!("{counted:?}")) }
    })
    .await;
    cancel.cancel();
    running.await.expect("it ends in order");
}

/// Answers as an activator behind the load balancer does, once there is something to answer with.
pub(crate) async fn balancer(hash: Arc<Mutex<Option<String>>>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("a bound listener");
    let answer = move || {
        let hash = hash.lock().expect("a lock").clone();
        async move {
            match hash {
                Some(hash) => (StatusCode::OK, [("K-Network-Hash", hash)]).into_response(),
                None => StatusCode::NOT_FOUND.into_response(),
            }
        }
    };
    tokio::spawn(async move { axum::serve(listener, axum::Router::new().fallback(answer)).await });
    address
}

/// A cluster whose KIngresses are the load balancer's.
async fn with_a_load_balancer() -> Served {
    let served = Served::start().await;
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "config-network", "namespace": "knative-serving"},
        "data": {"ingress-class": "alb.ingress.networking.knative.dev", "vswitch-ids": "vsw-a,vsw-b"}});
    create(&served, &map).await;
    served
}

/// Waits until the KIngress has these conditions, network then load balancer, and their reasons.
pub(crate) async fn settles(served: &Served, name: &str, wanted: [&str; 2]) -> Ingress {
    let api: Api<Ingress> = Api::namespaced(served.client(), "default");
    let mut found = [String::new(), String::new()];
    let settled = async {
        loop {
            let ingress = api.get(name).await.expect("a KIngress");
            let conditions = ingress.status.as_ref().map(|status| status.conditions.clone()).unwrap_or_default();
            found = ["NetworkConfigured", "LoadBalancerReady"].map(|type_| {
                let condition = conditions.iter().find(|condition| condition.type_ == type_);
                condition.map_or_else(String::new, |it| format!("{:?} {}", it.status, it.reason).trim().to_owned())
            });
            if found == wanted {
                return ingress;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let settled = tokio::time::timeout(Duration::from_mins(1), settled).await;
    settled.unwrap_or_else(|_| panic!("{name} has {found:?} and not {wanted:?}"))
}

pub(crate) async fn published(served: &Served, name: &str) -> Option<Published> {
    Api::namespaced(served.client(), "default").get_opt(name).await.expect("an answer")
}

pub(crate) fn setup(served: &Served, vips: Arc<dyn Vips>) -> Setup {
    let clock = Clock::system();
    let ownership = Ownership::single(clock);
    Setup { client: served.client(), clock, ownership, namespace: "knative-serving".to_owned(), vips, gates: None }
}

#[tokio::test]
async fn where_a_load_balancer_is_kept_is_found_out() {
    for (scope, wanted) in [(None, "False ALBProgrammingFailed"), (Some("Namespaced"), "Unknown WaitingForAddress")] {
        let served = with_a_load_balancer().await;
        if let Some(scope) = scope {
            create(&served, &definition(scope)).await;
        }
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a-1", "namespace": "default"},
            "spec": {"ports": [{"port": 80}]}});
        create(&served, &service).await;
        create(&served, &kingress("a", &[("a-1", 100)], None, false, true)).await;
        let cancel = CancellationToken::new();
        let vips = Arc::new(Fixed(SocketAddr::from(([127, 0, 0, 1], 1))));
        let running = tokio::spawn(Controller::new(setup(&served, vips), &cancel).run(cancel.clone()));
        settles(&served, "a", ["True", wanted]).await;
        assert!(published(&served, "a").await.is_some());
        if scope.is_some() {
            let balancers = Api::<DynamicObject>::namespaced_with(
                served.client(),
                "kube-system",
                &ApiResource::erase::<AlbConfig>(&()),
            );
            balancers.get("knative-internet").await.expect("an AlbConfig");
        }
        cancel.cancel();
        running.await.expect("it ends in order");
    }
}

/// The version its first rule answers with.
fn version(object: &Published) -> Option<String> {
    rules_of(object)[0].actions.iter().find_map(|action| match action {
        Action::InsertHeader { config } if config.key == "K-Network-Hash" => Some(config.value.clone()),
        _ => None,
    })
}

#[tokio::test]
async fn a_change_of_visibility_is_served_by_both_load_balancers_until_it_is_over() {
    let served = with_a_load_balancer().await;
    create(&served, &definition("Cluster")).await;
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a-1", "namespace": "default"},
        "spec": {"ports": [{"port": 80}]}});
    create(&served, &service).await;
    let object = kingress("a", &[("a-1", 100)], None, false, true);
    create(&served, &object).await;
    let hash = Arc::new(Mutex::new(None));
    let vips = Arc::new(Fixed(balancer(Arc::clone(&hash)).await));
    let cancel = CancellationToken::new();
    let running = tokio::spawn(Controller::new(setup(&served, vips), &cancel).run(cancel.clone()));
    let api: Api<Published> = Api::namespaced(served.client(), "default");
    let name = async |ingress: &str, balancer: &str| {
        let named = json!({"status": {"loadBalancer": {"ingress": [{"hostname": balancer}]}}});
        api.patch_status(ingress, &PatchParams::default(), &Patch::Merge(&named)).await.expect("patched");
    };
    let addressed = |ingress: &Ingress| {
        let status = ingress.status.clone().expect("a status");
        status.public_load_balancer.expect("a load balancer").ingress[0].domain.clone()
    };
    settles(&served, "a", ["True", "Unknown WaitingForAddress"]).await;
    name("a", "internet.example.com").await;
    *hash.lock().expect("a lock") = version(&published(&served, "a").await.expect("an Ingress"));
    assert_eq!(addressed(&settles(&served, "a", ["True", "True"]).await), "internet.example.com");

    // Only names of the cluster are left.
    let kingresses: Api<Ingress> = Api::namespaced(served.client(), "default");
    let inside = json!({"spec": {"rules": [object["spec"]["rules"][0]]}});
    kingresses.patch("a", &PatchParams::default(), &Patch::Merge(&inside)).await.expect("patched");
    settles(&served, "a", ["True", "Unknown WaitingForAddress"]).await;
    let moved = published(&served, "a--intranet").await.expect("an Ingress");
    assert!(published(&served, "a").await.is_some());
    name("a--intranet", "intranet.example.com").await;
    // Nobody is sent there before it is served there.
    assert_eq!(addressed(&settles(&served, "a", ["True", "Unknown Probing"]).await), "internet.example.com");
    *hash.lock().expect("a lock") = version(&moved);
    assert_eq!(addressed(&settles(&served, "a", ["True", "True"]).await), "intranet.example.com");
    assert!(published(&served, "a").await.is_some(), "for those who know the address");
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(61)).await;
    tokio::time::resume();
    let gone = async || if published(&served, "a").await.is_none() { Ok(()) } else { Err("it is there".to_owned()) };
    crate::patience::eventually("the Ingress on the former load balancer to go", gone).await;
    assert!(published(&served, "a--intranet").await.is_some());
    cancel.cancel();
    running.await.expect("it ends in order");
}

#[tokio::test]
async fn a_kingress_made_anew_waits_for_what_its_namesake_has_left() {
    let served = with_a_load_balancer().await;
    create(&served, &definition("Cluster")).await;
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a-1", "namespace": "default"},
        "spec": {"ports": [{"port": 80}]}});
    create(&served, &service).await;
    create(&served, &kingress("a", &[("a-1", 100)], None, false, true)).await;
    let vips = Arc::new(Fixed(SocketAddr::from(([127, 0, 0, 1], 1))));
    let cancel = CancellationToken::new();
    let running = tokio::spawn(Controller::new(setup(&served, vips), &cancel).run(cancel.clone()));
    settles(&served, "a", ["True", "Unknown WaitingForAddress"]).await;
    // The load balancer's controller has not let go of it yet.
    let (api, params) = (Api::<Published>::namespaced(served.client(), "default"), PatchParams::default());
    let held = json!({"metadata": {"finalizers": ["ingress.k8s.alibabacloud/resources"]}});
    let before = api.patch("a", &params, &Patch::Merge(&held)).await.expect("patched");
    let kingresses: Api<Ingress> = Api::namespaced(served.client(), "default");
    kingresses.delete("a", &DeleteParams::default()).await.expect("deleted");
    let leaves = async || published(&served, "a").await.and_then(|object| object.metadata.deletion_timestamp);
    crate::patience::eventually("the Ingress to be on its way out", leaves).await;
    create(&served, &kingress("a", &[("a-1", 100)], None, false, true)).await;
    settles(&served, "a", ["Unknown Uninitialized", "Unknown Uninitialized"]).await;
    let let_go = json!({"metadata": {"finalizers": []}});
    api.patch("a", &params, &Patch::Merge(&let_go)).await.expect("patched");
    settles(&served, "a", ["True", "Unknown WaitingForAddress"]).await;
    let after = published(&served, "a").await.expect("an Ingress");
    assert_ne!(after.metadata.uid, before.metadata.uid);
    assert_eq!(after.metadata.deletion_timestamp, None);
    // The same where somebody deletes what is still wanted, and it is just as it should be until it is gone.
    api.patch("a", &params, &Patch::Merge(&held)).await.expect("patched");
    api.delete("a", &DeleteParams::default()).await.expect("deleted");
    settles(&served, "a", ["Unknown Uninitialized", "Unknown Uninitialized"]).await;
    api.patch("a", &params, &Patch::Merge(&let_go)).await.expect("patched");
    settles(&served, "a", ["True", "Unknown WaitingForAddress"]).await;
    cancel.cancel();
    running.await.expect("it ends in order");
}

#[tokio::test]
async fn the_controller_publishes_what_stands_and_tells_what_became_of_it() {
    let served = with_a_load_balancer().await;
    create(&served, &definition("Cluster")).await;
    create(&served, &kingress("a", &[("a-1", 100)], None, false, true)).await;
    create(&served, &kingress("aliyun-b", &[("b-1", 100)], None, false, true)).await;
    let hash = Arc::new(Mutex::new(None));
    let vips = Arc::new(Fixed(balancer(Arc::clone(&hash)).await));
    let cancel = CancellationToken::new();
    let controller = Controller::new(setup(&served, vips), &cancel);
    let running = tokio::spawn(Arc::clone(&controller).run(cancel.clone()));

    // Nothing is published that would lead nowhere, and what cannot be expressed is told.
    settles(&served, "a", ["Unknown WaitingForServices", "Unknown"]).await;
    settles(&served, "aliyun-b", ["False ReservedName", "Unknown"]).await;
    assert!(published(&served, "a").await.is_none());

    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a-1", "namespace": "default"},
        "spec": {"ports": [{"port": 80}]}});
    create(&served, &service).await;
    settles(&served, "a", ["True", "Unknown WaitingForAddress"]).await;
    let object = published(&served, "a").await.expect("an Ingress");
    assert_eq!(annotation(&object, "listen-ports"), Some(r#"[{"HTTP":80}]"#));
    let class: IngressClass =
        Api::all(served.client()).get("knative-alb-ingress-internet").await.expect("an IngressClass");
    assert_eq!(class.spec.and_then(|spec| spec.controller).as_deref(), Some("ingress.k8s.alibabacloud/alb"));
    let balancers: Api<AlbConfig> = Api::all(served.client());
    assert_eq!(balancers.get("knative-internet").await.expect("an AlbConfig").spec.listeners.len(), 1);

    // The cloud gives it a name; then it is asked until it follows.
    let named = json!({"status": {"loadBalancer": {"ingress": [{"hostname": "alb-1.example.com"}]}}});
    let api: Api<Published> = Api::namespaced(served.client(), "default");
    api.patch_status("a", &PatchParams::default(), &Patch::Merge(&named)).await.expect("patched");
    let ingress = settles(&served, "a", ["True", "Unknown Probing"]).await;
    let status = ingress.status.expect("a status");
    for side in [status.public_load_balancer, status.private_load_balancer] {
        assert_eq!(side.expect("a side").ingress[0].domain, "alb-1.example.com");
    }
    *hash.lock().expect("a lock") = version(&object);
    let ready = settles(&served, "a", ["True", "True"]).await;
    assert_eq!(ready.status.expect("a status").observed_generation, ready.metadata.generation.unwrap_or(0));

    // Its owner breaks it: what is published stays, and only the condition says so.
    let before = published(&served, "a").await.expect("an Ingress");
    let kingresses: Api<Ingress> = Api::namespaced(served.client(), "default");
    let broken = json!({"metadata": {"annotations": {"alicloud.serving.knative.dev/headers": "nonsense"}}});
    kingresses.patch("a", &PatchParams::default(), &Patch::Merge(&broken)).await.expect("patched");
    settles(&served, "a", ["False InvalidCanaryAnnotation", "True"]).await;
    assert_eq!(published(&served, "a").await.expect("an Ingress").spec, before.spec);
    let mended = json!({"metadata": {"annotations": {"alicloud.serving.knative.dev/headers": null}}});
    kingresses.patch("a", &PatchParams::default(), &Patch::Merge(&mended)).await.expect("patched");
    settles(&served, "a", ["True", "True"]).await;
    // Nothing was written of what had not changed.
    let after = published(&served, "a").await.expect("an Ingress");
    assert_eq!(after.metadata.resource_version, before.metadata.resource_version);

    // The load balancer's controller complains.
    let complaint = json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "a.1", "namespace": "default"},
        "involvedObject": {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "namespace": "default", "name": "a"},
        "type": "Warning", "reason": "FailedBuildModel", "message": "no vSwitch", "lastTimestamp": "2099-01-01T00:00:00Z"});
    create(&served, &complaint).await;
    settles(&served, "a", ["True", "False ALBProgrammingFailed"]).await;
    // The event is forgotten, as the API server does after an hour.
    let events: Api<Event> = Api::namespaced(served.client(), "default");
    events.delete("a.1", &DeleteParams::default()).await.expect("deleted");
    settles(&served, "a", ["True", "True"]).await;
    // One that is not repeated while the load balancer follows is over by itself.
    let mut once = complaint;
    once["metadata"]["name"] = json!("a.2");
    once["lastTimestamp"] = json!(to_jiff(Clock::system().now() + Span::SECOND).to_string());
    create(&served, &once).await;
    settles(&served, "a", ["True", "False ALBProgrammingFailed"]).await;
    tokio::time::pause();
    tokio::time::advance(Duration::from_mins(11)).await;
    tokio::time::resume();
    settles(&served, "a", ["True", "True"]).await;

    let events: Api<Event> = Api::namespaced(served.client(), "default");
    let told = events.list(&ListParams::default()).await.expect("events").items;
    let about = |name: &str, reason: &str| {
        told.iter()
            .filter(|event| {
                event.involved_object.name.as_deref() == Some(name) && event.reason.as_deref() == Some(reason)
            })
            .count()
    };
    assert_eq!(about("aliyun-b", "ReservedName"), 1);
    cancel.cancel();
    running.await.expect("it ends in order");
}

#[test]
fn the_rights_are_those_that_are_explained() {
    let read = |path: &str| std::fs::read_to_string(crate::root().join(path)).expect("a file");
    let text = read("deploy/overlays/alb/rbac.yaml");
    let role = text.split("---").next().expect("a role");
    let role: ClusterRole = serde_saphyr::from_str(role).expect("a ClusterRole");
    let group = |name: &str| if name.is_empty() { "core".to_owned() } else { format!("`{name}`") };
    let row = |rule: PolicyRule| {
        let (groups, resources) = (rule.api_groups.unwrap_or_default(), rule.resources.unwrap_or_default());
        assert_eq!((groups.len(), resources.len()), (1, 1), "one of each in a rule");
        format!("| {} | `{}` | {} | ", group(&groups[0]), resources[0], rule.verbs.join(", "))
    };
    let allowed: Vec<String> = role.rules.unwrap_or_default().into_iter().map(row).collect();
    let page = read("docs/alb.md");
    let table = page.split("## Permissions").nth(1).expect("a table");
    let explained: Vec<&str> = table.lines().filter(|line| line.starts_with("| ")).skip(1).collect();
    assert_eq!(allowed.len(), explained.len());
    for (allowed, explained) in allowed.iter().zip(explained) {
        assert!(explained.starts_with(allowed), "{allowed} is explained as {explained}");
    }
}
