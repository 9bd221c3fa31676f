//! What is said of manifests that are wrong.

use ebb::local::manifest::{Problems, parse, read};
use kube::ResourceExt as _;

const HEAD: &str = "apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: shop}\n";

/// Every problem of a text, one line each.
fn told(text: &str) -> Vec<String> {
    match parse("shop.yaml", text) {
        Ok(manifests) => panic!("{} manifests and nothing wrong", manifests.len()),
        Err(Problems(problems)) => problems.iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn the_sample_is_right() {
    let manifests = parse("sample", ebb::local::SAMPLE_MANIFEST).expect("nothing wrong");
    assert_eq!(manifests.len(), 1);
    assert_eq!(manifests[0].object.name_any(), "hello");
    assert_eq!(manifests[0].resource.plural, "services");
}

#[test]
fn one_file_may_hold_many_objects() {
    let text = "\
---
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
# nothing here
---
{\"apiVersion\": \"v1\", \"kind\": \"ConfigMap\", \"metadata\": {\"name\": \"config-autoscaler\", \"namespace\": \"knative-serving\"}}
---
apiVersion: v1
kind: List
items:
- apiVersion: serving.knative.dev/v1
  kind: Service
  metadata: {name: a}
  spec: {template: {spec: {timeoutSeconds: 5, containers: [{image: a, resources: {limits: {cpu: 1}}}]}}}
";
    let manifests = parse("many.yaml", text).expect("nothing wrong");
    let named: Vec<_> = manifests
        .iter()
        .map(|m| {
            (
                m.resource.kind.as_str(),
                m.object.namespace().unwrap_or_default(),
                m.object.name_any(),
                m.source.place.line,
            )
        })
        .collect();
    let expected = [
        ("Namespace", "", "shop", 2),
        ("ConfigMap", "knative-serving", "config-autoscaler", 8),
        ("Service", "default", "a", 13),
    ];
    let expected = expected.map(|(kind, namespace, name, line)| (kind, namespace.to_owned(), name.to_owned(), line));
    assert_eq!(named, expected);
}

#[test]
fn every_problem_is_told_at_once_with_its_place_and_what_was_meant() {
    let text = "\
apiVersion: serving.knative.dev/v1
kind: Service
metadata:
  name: shop
  anotations: {a: b}
spec:
  template:
    spec:
      containerConcurency: 10
      containers:
      - imagee: x
        env:
        - name: PORT
          value: 8080
  trafic: []
---
kind: Deployment
apiVersion: apps/v1
---
apiVersion: v1
kind: Service
metadata: {name: x}
---
apiVersion: serving.knative.dev/v1
kind: Servce
";
    assert_eq!(
        told(text),
        [
            "shop.yaml:5:3: metadata.anotations: unknown field; did you mean \"annotations\"?",
            "shop.yaml:9:7: spec.template.spec.containerConcurency: unknown field; did you mean \"containerConcurrency\"?",
            "shop.yaml:11:9: spec.template.spec.containers[0].imagee: unknown field; did you mean \"image\"?",
            "shop.yaml:14:18: spec.template.spec.containers[0].env[0].value: must be text and is a number; put it in quotes",
            "shop.yaml:15:3: spec.trafic: unknown field; did you mean \"traffic\"?",
            "shop.yaml:17:7: kind: \"Deployment\" of apps/v1 cannot be applied here; known are Namespace (v1), ConfigMap (v1), Service (serving.knative.dev/v1)",
            "shop.yaml:20:13: apiVersion: \"v1\" has no Service that can be applied here; did you mean \"serving.knative.dev/v1\"?",
            "shop.yaml:25:7: kind: \"Servce\" is not known here; did you mean \"Service\"?",
        ]
    );
}

#[test]
fn a_value_of_a_wrong_kind_is_told_with_its_place() {
    for (rest, problem) in [
        ("", "shop.yaml:1:1: missing field `spec`"),
        (
            "spec: {template: {spec: {containers: {image: x}}}}",
            "shop.yaml:4:38: spec.template.spec.containers: must be a list and is a mapping; begin each item with \"- \"",
        ),
        (
            "spec: {template: {spec: {containerConcurrency: many, containers: []}}}",
            "shop.yaml:4:48: spec.template.spec.containerConcurrency: invalid type: string \"many\", expected i64",
        ),
        ("spec: {template: [], traffic: []}", "shop.yaml:4:18: spec.template: must be a mapping and is a list"),
        (
            "spec: {template: {spec: {containers: []}, metadata: {annotations: {a: true}}}}",
            "shop.yaml:4:71: spec.template.metadata.annotations.a: must be text and is a truth value; put it in quotes",
        ),
    ] {
        assert_eq!(told(&format!("{HEAD}{rest}\n")), [problem]);
    }
    assert_eq!(told("- 1\n"), ["shop.yaml:1:1: a document must be an object and is a list"]);
    assert_eq!(told("# nothing\n"), ["shop.yaml: there is no object in it"]);
    let unnamed = "apiVersion: v1\nkind: ConfigMap\nmetadata: {}\ndata: {a: b}\n";
    assert_eq!(told(unnamed), ["shop.yaml:3:11: metadata.name: missing; every object needs a name"]);
    let broken = told("a: [1\nb: 2\n");
    assert!(broken.len() == 1 && broken[0].starts_with("shop.yaml:"), "{broken:?}");
    let twice = told("kind: ConfigMap\nkind: Service\n");
    assert_eq!(twice, ["shop.yaml:2:1: duplicate mapping key: kind not allowed here"]);
    let tab = told("kind: ConfigMap\nmetadata:\n\tname: x\n");
    assert!(
        tab.len() == 1 && tab[0].starts_with("shop.yaml:3:2: ") && tab[0].matches("line 3").count() == 0,
        "{tab:?}"
    );
}

#[test]
fn files_and_directories_are_read_and_what_is_missing_is_named() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).expect("a file");
        path
    };
    file("b.yaml", "apiVersion: v1\nkind: Namespace\nmetadata: {name: b}\n");
    file("a.json", r#"{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}}"#);
    file("notes.txt", "not a manifest");
    let manifests = read(&[directory.path().to_owned()]).expect("nothing wrong");
    let names: Vec<_> = manifests.iter().map(|manifest| manifest.object.name_any()).collect();
    assert_eq!(names, ["a", "b"]);

    let missing = directory.path().join("none.yaml");
    let wrong = file("c.yaml", "kind: x\n");
    let Err(Problems(problems)) = read(&[missing, wrong]) else { panic!("both are wrong") };
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(problems[0].to_string().contains("none.yaml: cannot be read"), "{}", problems[0]);
}
