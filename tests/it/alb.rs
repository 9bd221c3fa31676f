//! Knative's traffic on Alibaba Cloud's load balancer: `ebb alb render` on whole objects, and the laws of the translation.

use ebb::api::ingress::{HttpPath, HttpRule, Ingress, IngressRule, IngressSpec, IngressSplit};
use ebb::routing::model::{Action, Mode, Rule, Settings};
use ebb::routing::plan::{Plan, plan};
use ebb::routing::translate::Context;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::{Command, Output};

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
fn kingress(name: &str, splits: &[(&str, u32)], tag: Option<(&str, &str)>, header: bool, default: bool) -> Value {
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
    let kinds: Vec<&str> = items.iter().filter_map(|item| item["kind"].as_str()).collect();
    assert_eq!(kinds, ["IngressClass", "Ingress", "Ingress"]);
    assert_eq!(items[1]["spec"]["rules"][0]["host"], "hello.default.shop.test");

    let map = |vswitches: &str| {
        format!(
            "{service}---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: config-network}}\ndata: {{ingress-class: alb.ingress.networking.knative.dev, vswitch-ids: '{vswitches}'}}\n"
        )
    };
    let (items, told, code) = rendered(&map("vsw-a,vsw-b"), &[]);
    assert_eq!(code, Some(0), "{told}");
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

fn planned(ingresses: &[Ingress], mode: Mode) -> Plan {
    let settings = Settings { mode, ..Settings::default() };
    plan(&Context { ingresses, routes: &[], services: &[], settings: &settings }, &[])
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
            let mut ingress = Ingress::new(&name, IngressSpec { rules, ..IngressSpec::default() });
            ingress.metadata.namespace = Some("default".to_owned());
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
    ) {
        let plan = planned(&ingresses, mode);
        prop_assert_eq!(&plan, &planned(&ingresses, mode));
        prop_assert_eq!(plan.outcomes.len(), ingresses.len());
        let mut orders = BTreeSet::new();
        for ingress in &plan.ingresses {
            let annotations = ingress.metadata.annotations.as_ref().expect("annotations");
            let get = |key: &str| annotations.get(&format!("alb.ingress.kubernetes.io/{key}"));
            let order: u16 = get("order").expect("an order").parse().expect("a number");
            prop_assert!((1..=1000).contains(&order));
            prop_assert!(orders.insert((ingress.spec.as_ref().and_then(|spec| spec.ingress_class_name.clone()), order)));
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
                    Some(Action::FixedResponse { .. }) => {}
                    other => prop_assert!(false, "ends with {:?}", other),
                }
            }
        }
    }
}
