//! Creating, replacing, patching, applying, scaling.

use super::{assert_refused, config_map, deployment, json_of, object, pod, refused};
use ebb::api::pod_autoscaler::PodAutoscaler;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, Service};
use kube::Client;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

fn post() -> PostParams {
    PostParams::default()
}

fn patch() -> PatchParams {
    PatchParams::default()
}

pub(crate) async fn create_fills_in_what_is_not_the_clients(client: Client, namespace: String) {
    let maps: Api<ConfigMap> = Api::namespaced(client, &namespace);
    let mut map = config_map("one", &json!({"a": "1"}));
    map.metadata.uid = Some("made-up".to_owned());
    map.metadata.generation = Some(7);
    let made = maps.create(&post(), &map).await.expect("created");
    let metadata = &made.metadata;
    assert_eq!(metadata.namespace.as_deref(), Some(namespace.as_str()));
    assert_ne!(metadata.uid.as_deref(), Some("made-up"));
    assert!(metadata.creation_timestamp.is_some() && metadata.resource_version.is_some());
    assert_eq!(maps.get("one").await.expect("there"), made);

    let status = assert_refused(maps.create(&post(), &map).await, 409, "AlreadyExists");
    assert_eq!(status.message, "configmaps \"one\" already exists");
    assert_eq!(status.details.expect("details").kind, "configmaps");
    map.metadata.resource_version = Some("1".to_owned());
    map.metadata.name = Some("two".to_owned());
    // Clumsy, and what every API server does.
    let status = assert_refused(maps.create(&post(), &map).await, 500, "");
    assert_eq!(status.message, "resourceVersion should not be set on objects to be created");
}

pub(crate) async fn names_are_generated_and_checked(client: Client, namespace: String) {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), &namespace);
    let template: ConfigMap = object(json!({"metadata": {"generateName": "some-"}}));
    let first = maps.create(&post(), &template).await.expect("created").metadata.name.expect("a name");
    let second = maps.create(&post(), &template).await.expect("created").metadata.name.expect("a name");
    assert!(first.starts_with("some-") && first.len() == "some-".len() + 5, "{first}");
    assert_ne!(first, second);

    for name in ["Upper", "under_score", "-dash", "a..b", ""] {
        let status = assert_refused(maps.create(&post(), &config_map(name, &json!({}))).await, 422, "Invalid");
        let causes = status.details.expect("details").causes;
        assert!(causes.iter().any(|cause| cause.field.starts_with("metadata.name")), "{name}: {causes:?}");
    }
    let services: Api<Service> = Api::namespaced(client, &namespace);
    let service: Service = object(json!({"metadata": {"name": "a.b"}, "spec": {"ports": [{"port": 80}]}}));
    assert_refused(services.create(&post(), &service).await, 422, "Invalid");
}

pub(crate) async fn a_namespace_must_exist(client: Client, namespace: String) {
    let missing = format!("{namespace}-missing");
    let maps: Api<ConfigMap> = Api::namespaced(client, &missing);
    let status = assert_refused(maps.create(&post(), &config_map("a", &json!({}))).await, 404, "NotFound");
    assert_eq!(status.message, format!("namespaces {missing:?} not found"));
    assert!(maps.list(&ListParams::default()).await.expect("an empty list").items.is_empty());
}

pub(crate) async fn what_is_not_there_is_not_found(client: Client, namespace: String) {
    let deployments: Api<Deployment> = Api::namespaced(client, &namespace);
    let status = assert_refused(deployments.get("none").await, 404, "NotFound");
    assert_eq!(status.message, "deployments.apps \"none\" not found");
    assert!(deployments.get_opt("none").await.expect("no failure").is_none());
    assert_refused(deployments.delete("none", &DeleteParams::default()).await, 404, "NotFound");
    let body = object::<Deployment>(deployment("none"));
    assert_refused(deployments.replace("none", &post(), &body).await, 404, "NotFound");
    let change = Patch::Merge(json!({"spec": {"replicas": 1}}));
    assert_refused(deployments.patch("none", &patch(), &change).await, 404, "NotFound");
    assert_refused(deployments.get_scale("none").await, 404, "NotFound");
}

pub(crate) async fn a_stale_replacement_is_a_conflict(client: Client, namespace: String) {
    let maps: Api<ConfigMap> = Api::namespaced(client, &namespace);
    let first = maps.create(&post(), &config_map("a", &json!({"n": "1"}))).await.expect("created");
    let mut newer = first.clone();
    newer.data = Some([("n".to_owned(), "2".to_owned())].into());
    let second = maps.replace("a", &post(), &newer).await.expect("replaced");
    assert_ne!(first.metadata.resource_version, second.metadata.resource_version);
    assert_eq!(first.metadata.uid, second.metadata.uid);
    assert_eq!(first.metadata.creation_timestamp, second.metadata.creation_timestamp);

    newer.data = Some([("n".to_owned(), "3".to_owned())].into());
    let status = assert_refused(maps.replace("a", &post(), &newer).await, 409, "Conflict");
    assert!(status.message.contains("the object has been modified"), "{}", status.message);
    newer.metadata.resource_version = None;
    maps.replace("a", &post(), &newer).await.expect("unconditional for a built-in kind");
    newer.metadata.uid = Some("00000000-0000-4000-8000-000000000000".to_owned());
    assert_refused(maps.replace("a", &post(), &newer).await, 409, "Conflict");

    // A patch may name the version it stands on, too.
    let change = json!({"metadata": {"resourceVersion": first.metadata.resource_version}, "data": {"n": "4"}});
    assert_refused(maps.patch("a", &patch(), &Patch::Merge(change)).await, 409, "Conflict");
}

pub(crate) async fn writing_the_same_again_changes_nothing(client: Client, namespace: String) {
    let maps: Api<ConfigMap> = Api::namespaced(client, &namespace);
    let first = maps.create(&post(), &config_map("a", &json!({"n": "1"}))).await.expect("created");
    let again = maps.replace("a", &post(), &first).await.expect("replaced");
    assert_eq!(first.metadata.resource_version, again.metadata.resource_version);
    let change = Patch::Merge(json!({"data": {"n": "1"}}));
    let again = maps.patch("a", &patch(), &change).await.expect("patched");
    assert_eq!(first.metadata.resource_version, again.metadata.resource_version);
    let config = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "b"}, "data": {"n": "1"}});
    let applied = maps.patch("b", &PatchParams::apply("me"), &Patch::Apply(&config)).await.expect("applied");
    let again = maps.patch("b", &PatchParams::apply("me"), &Patch::Apply(&config)).await.expect("applied");
    assert_eq!(applied.metadata.resource_version, again.metadata.resource_version);
}

pub(crate) async fn spec_and_status_are_written_apart(client: Client, namespace: String) {
    let deployments: Api<Deployment> = Api::namespaced(client, &namespace);
    let mut body = deployment("web");
    body["status"] = json!({"replicas": 9});
    let made = deployments.create(&post(), &object(body)).await.expect("created");
    assert_eq!(made.metadata.generation, Some(1));
    assert_eq!(made.status.as_ref().and_then(|status| status.replicas), None);

    let mut both = json_of(&made);
    both["spec"]["replicas"] = 5.into();
    both["status"] = json!({"replicas": 3, "observedGeneration": 1});
    let made = deployments.replace_status("web", &post(), &object(both.clone())).await.expect("replaced");
    assert_eq!(made.status.as_ref().and_then(|status| status.replicas), Some(3));
    assert_eq!(made.spec.as_ref().and_then(|spec| spec.replicas), Some(1));
    assert_eq!(made.metadata.generation, Some(1), "status does not count");

    let mut both = json_of(&made);
    both["spec"]["replicas"] = 5.into();
    both["status"] = json!({"replicas": 8});
    let made = deployments.replace("web", &post(), &object(both)).await.expect("replaced");
    assert_eq!(made.status.as_ref().and_then(|status| status.replicas), Some(3));
    assert_eq!(made.spec.as_ref().and_then(|spec| spec.replicas), Some(5));
    assert_eq!(made.metadata.generation, Some(2));

    let labels = Patch::Merge(json!({"metadata": {"labels": {"x": "y"}}, "status": {"replicas": 7}}));
    let made = deployments.patch("web", &patch(), &labels).await.expect("patched");
    assert_eq!(made.metadata.generation, Some(2), "labels do not count");
    assert_eq!(made.status.as_ref().and_then(|status| status.replicas), Some(3));
    let status = Patch::Merge(json!({"status": {"replicas": 7}}));
    let made = deployments.patch_status("web", &patch(), &status).await.expect("patched");
    assert_eq!(made.status.as_ref().and_then(|status| status.replicas), Some(7));
}

pub(crate) async fn custom_resources_keep_the_same_rules(client: Client, namespace: String) {
    let scalers: Api<PodAutoscaler> = Api::namespaced(client, &namespace);
    let body = json!({
        "apiVersion": "autoscaling.internal.knative.dev/v1alpha1",
        "kind": "PodAutoscaler",
        "metadata": {"name": "web"},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
            "protocolType": "http1",
        },
    });
    let made = scalers.create(&post(), &object(body.clone())).await.expect("created");
    assert_eq!(made.metadata.generation, Some(1));
    let status = json!({"status": {"desiredScale": 2, "serviceName": "", "metricsServiceName": ""}});
    let made = scalers.patch_status("web", &patch(), &Patch::Merge(status)).await.expect("patched");
    assert_eq!(json_of(&made)["status"]["desiredScale"], 2);
    assert_eq!(made.metadata.generation, Some(1));
    let change = json!({"spec": {"containerConcurrency": 3}});
    let made = scalers.patch("web", &patch(), &Patch::Merge(change.clone())).await.expect("patched");
    assert_eq!(made.metadata.generation, Some(2));
    assert_eq!(json_of(&made)["status"]["desiredScale"], 2);

    // No schema with merge keys, so no strategic merge; and no replacement of an unknown version.
    assert_refused(scalers.patch("web", &patch(), &Patch::Strategic(change)).await, 415, "UnsupportedMediaType");
    let mut blind = made.clone();
    blind.metadata.resource_version = None;
    assert_refused(scalers.replace("web", &post(), &blind).await, 422, "Invalid");
}

pub(crate) async fn defaults_others_rely_on(client: Client, namespace: String) {
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), &namespace);
    let mut body = deployment("web");
    body["spec"].as_object_mut().expect("a spec").remove("replicas");
    let made = json_of(&deployments.create(&post(), &object(body)).await.expect("created"));
    assert_eq!(made["spec"]["replicas"], 1);
    assert_eq!(made["spec"]["strategy"]["rollingUpdate"]["maxSurge"], "25%");
    assert_eq!(made["spec"]["progressDeadlineSeconds"], 600);
    let pod = &made["spec"]["template"]["spec"];
    assert_eq!(pod["terminationGracePeriodSeconds"], 30);
    assert_eq!(pod["restartPolicy"], "Always");
    assert_eq!(pod["containers"][0]["ports"][0]["protocol"], "TCP");
    assert_eq!(pod["containers"][0]["imagePullPolicy"], "IfNotPresent");

    let services: Api<Service> = Api::namespaced(client.clone(), &namespace);
    let body = json!({"metadata": {"name": "web"}, "spec": {"ports": [{"port": 80}], "selector": {"a": "b"}}});
    let made = json_of(&services.create(&post(), &object(body)).await.expect("created"));
    assert_eq!(made["spec"]["type"], "ClusterIP");
    assert_eq!(made["spec"]["ports"][0]["protocol"], "TCP");
    assert_eq!(made["spec"]["ports"][0]["targetPort"], 80);

    let secrets: Api<Secret> = Api::namespaced(client, &namespace);
    let body = json!({"metadata": {"name": "s"}, "stringData": {"key": "value"}});
    let made = json_of(&secrets.create(&post(), &object(body)).await.expect("created"));
    assert_eq!(made["type"], "Opaque");
    assert_eq!(made["data"]["key"], "dmFsdWU=");
}

pub(crate) async fn what_cannot_stand_is_invalid(client: Client, namespace: String) {
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), &namespace);
    let mut body = deployment("web");
    body["spec"]["template"]["metadata"]["labels"] = json!({"app": "other"});
    let status = assert_refused(deployments.create(&post(), &object(body)).await, 422, "Invalid");
    let causes = status.details.expect("details").causes;
    assert_eq!(causes[0].field, "spec.template.metadata.labels", "{causes:?}");

    deployments.create(&post(), &object(deployment("web"))).await.expect("created");
    let change = json!({
        "spec": {
            "selector": {"matchLabels": {"app": "new"}},
            "template": {"metadata": {"labels": {"app": "new"}}},
        },
    });
    let status = assert_refused(deployments.patch("web", &patch(), &Patch::Merge(change)).await, 422, "Invalid");
    assert_eq!(status.details.expect("details").causes[0].field, "spec.selector");

    let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    let mut body = pod("p");
    body["spec"]["containers"] = json!([]);
    assert_refused(pods.create(&post(), &object(body)).await, 422, "Invalid");
    let maps: Api<ConfigMap> = Api::namespaced(client, &namespace);
    let labelled = json!({"metadata": {"name": "a", "labels": {"not a key": "v"}}});
    assert_refused(maps.create(&post(), &object(labelled)).await, 422, "Invalid");
    let status = assert_refused(maps.create(&post(), &config_map("a", &json!({"a/b": "1"}))).await, 422, "Invalid");
    assert_eq!(status.details.expect("details").causes[0].field, "data[a/b]");
}

pub(crate) async fn fields_a_kind_does_not_have(client: Client, namespace: String) {
    let made: Value = client.request(misspelt(&namespace, "Ignore")).await.expect("created");
    assert_eq!(made["spec"].get("replicsa"), None);

    let mut body = deployment("typed");
    body["spec"]["replicas"] = "three".into();
    let request = http::Request::post(format!("/apis/apps/v1/namespaces/{namespace}/deployments"))
        .header("content-type", "application/json")
        .body(body.to_string().into_bytes())
        .expect("a request");
    assert_refused(client.request::<Value>(request).await, 400, "BadRequest");
}

pub(crate) async fn fields_a_kind_does_not_have_can_be_refused(client: Client, namespace: String) {
    let answer = client.request::<Value>(misspelt(&namespace, "Strict")).await;
    let status = assert_refused(answer, 400, "BadRequest");
    assert!(status.message.contains("unknown field \"spec.replicsa\""), "{}", status.message);
    assert!(status.message.contains("unknown field \"spec.template.spec.containers[0].imagee\""), "{}", status.message);
}

/// A request to create a Deployment with two slips of the pen.
fn misspelt(namespace: &str, validation: &str) -> http::Request<Vec<u8>> {
    let mut body = deployment("web");
    body["spec"]["replicsa"] = 3.into();
    body["spec"]["template"]["spec"]["containers"][0]["imagee"] = "x".into();
    http::Request::post(format!("/apis/apps/v1/namespaces/{namespace}/deployments?fieldValidation={validation}"))
        .header("content-type", "application/json")
        .body(body.to_string().into_bytes())
        .expect("a request")
}

pub(crate) async fn merge_patches(client: Client, namespace: String) {
    let maps: Api<ConfigMap> = Api::namespaced(client, &namespace);
    maps.create(&post(), &config_map("a", &json!({"keep": "1", "change": "1", "drop": "1"}))).await.expect("created");
    let change = json!({"data": {"change": "2", "drop": null, "add": "2"}});
    let made = maps.patch("a", &patch(), &Patch::Merge(change)).await.expect("patched");
    assert_eq!(json_of(&made)["data"], json!({"keep": "1", "change": "2", "add": "2"}));
}

pub(crate) async fn json_patches(client: Client, namespace: String) {
    let maps: Api<ConfigMap> = Api::namespaced(client, &namespace);
    let map = json!({"metadata": {"name": "a", "annotations": {"k": "1"}}, "data": {"x": "1"}});
    maps.create(&post(), &object(map)).await.expect("created");
    let patched = |operations: Value| {
        let maps = maps.clone();
        async move {
            let operations: json_patch::Patch = serde_json::from_value(operations).expect("a patch");
            maps.patch("a", &patch(), &Patch::Json::<()>(operations)).await
        }
    };
    let made = patched(json!([
        {"op": "test", "path": "/data/x", "value": "1"},
        {"op": "replace", "path": "/data/x", "value": "2"},
        {"op": "add", "path": "/metadata/annotations/a~1b", "value": "3"},
    ]))
    .await
    .expect("patched");
    assert_eq!(json_of(&made)["data"], json!({"x": "2"}));
    assert_eq!(json_of(&made)["metadata"]["annotations"], json!({"k": "1", "a/b": "3"}));

    for operations in [
        json!([{"op": "test", "path": "/data/x", "value": "1"}]),
        json!([{"op": "remove", "path": "/data/none"}]),
        json!([{"op": "add", "path": "/none/deep", "value": "1"}]),
    ] {
        assert_refused(patched(operations).await, 422, "Invalid");
    }
    let made = maps.get("a").await.expect("there");
    assert_eq!(json_of(&made)["data"], json!({"x": "2"}), "a failed patch changes nothing");
}

pub(crate) async fn strategic_merge_patches(client: Client, namespace: String) {
    let deployments: Api<Deployment> = Api::namespaced(client, &namespace);
    deployments.create(&post(), &object(deployment("web"))).await.expect("created");
    let containers = |change: Value| {
        let deployments = deployments.clone();
        let change = json!({"spec": {"template": {"spec": change}}});
        async move {
            let made = deployments.patch("web", &patch(), &Patch::Strategic(change)).await.expect("patched");
            json_of(&made)["spec"]["template"]["spec"]["containers"].clone()
        }
    };
    let names = |containers: &Value| -> Vec<String> {
        let containers = containers.as_array().expect("a list");
        containers.iter().map(|container| container["name"].as_str().expect("a name").to_owned()).collect()
    };

    let made = containers(json!({"containers": [
        {"name": "web", "image": "example.test/web:2", "env": [{"name": "A", "value": "9"}, {"name": "C", "value": "3"}]},
        {"name": "side", "image": "example.test/side:1"},
    ]}))
    .await;
    let web = made.as_array().expect("a list").iter().find(|container| container["name"] == "web").expect("web");
    assert_eq!(web["image"], "example.test/web:2");
    assert_eq!(web["ports"][0]["containerPort"], 8080, "kept");
    let mut env: Vec<(&str, &str)> = web["env"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|env| (env["name"].as_str().expect("a name"), env["value"].as_str().expect("a value")))
        .collect();
    env.sort_unstable();
    assert_eq!(env, [("A", "9"), ("B", "2"), ("C", "3")]);

    let order = json!([{"name": "side"}, {"name": "web"}]);
    let made = containers(json!({"$setElementOrder/containers": order, "containers": [{"name": "web", "env": [
        {"name": "B", "$patch": "delete"},
    ]}]}))
    .await;
    assert_eq!(names(&made), ["side", "web"]);
    assert_eq!(made[1]["env"].as_array().map(Vec::len), Some(2));

    let made = containers(json!({"containers": [{"name": "side", "$patch": "delete"}]})).await;
    assert_eq!(names(&made), ["web"]);
    let made = containers(json!({"containers": [
        {"$patch": "replace"},
        {"name": "only", "image": "example.test/only:1"},
    ]}))
    .await;
    assert_eq!(names(&made), ["only"]);

    let strategy = json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}});
    let made = deployments.patch("web", &patch(), &Patch::Strategic(strategy)).await.expect("patched");
    assert_eq!(json_of(&made)["spec"]["strategy"], json!({"type": "Recreate"}));

    let labels = json!({"metadata": {"labels": {"app": null, "tier": "front"}}});
    let made = deployments.patch("web", &patch(), &Patch::Strategic(labels)).await.expect("patched");
    assert_eq!(json_of(&made)["metadata"]["labels"], json!({"tier": "front"}));
    let finalizers = json!({"metadata": {"finalizers": ["example.test/a", "example.test/b"]}});
    deployments.patch("web", &patch(), &Patch::Strategic(finalizers)).await.expect("patched");
    let finalizers = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["example.test/a"]}});
    let made = deployments.patch("web", &patch(), &Patch::Strategic(finalizers)).await.expect("patched");
    assert_eq!(made.metadata.finalizers, Some(vec!["example.test/b".to_owned()]));
    let finalizers = json!({"metadata": {"finalizers": null}});
    deployments.patch("web", &patch(), &Patch::Merge(finalizers)).await.expect("patched");
}

fn applied_map(data: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": data})
}

pub(crate) async fn apply_makes_changes_and_removes(client: Client, namespace: String) {
    let maps: Api<ConfigMap> = Api::namespaced(client, &namespace);
    let apply = |manager: &'static str, force: bool, data: Value| {
        let maps = maps.clone();
        async move {
            let params = PatchParams { force, ..PatchParams::apply(manager) };
            maps.patch("a", &params, &Patch::Apply(applied_map(&data))).await
        }
    };
    let data = |map: ConfigMap| json_of(&map)["data"].clone();

    let made = apply("one", false, json!({"x": "1", "y": "1"})).await.expect("made");
    let owner = &made.metadata.managed_fields.as_ref().expect("owners")[0];
    assert_eq!((owner.manager.as_deref(), owner.operation.as_deref()), (Some("one"), Some("Apply")));
    let made = apply("two", false, json!({"z": "2"})).await.expect("applied");
    assert_eq!(data(made), json!({"x": "1", "y": "1", "z": "2"}));

    // One no longer wants y; what two wants stays.
    let made = apply("one", false, json!({"x": "1"})).await.expect("applied");
    assert_eq!(data(made), json!({"x": "1", "z": "2"}));

    // The same value may be owned by both, and stays until both let go.
    apply("two", false, json!({"x": "1", "z": "2"})).await.expect("shared");
    let made = apply("one", false, json!({})).await.expect("applied");
    assert_eq!(data(made), json!({"x": "1", "z": "2"}));

    let status = assert_refused(apply("one", false, json!({"x": "9"})).await, 409, "Conflict");
    let causes = status.details.expect("details").causes;
    assert_eq!(causes.len(), 1);
    assert_eq!(causes[0].reason, "FieldManagerConflict");
    assert_eq!(causes[0].field, ".data.x");
    assert!(causes[0].message.contains("conflict with \"two\""), "{}", causes[0].message);
    let made = apply("one", true, json!({"x": "9"})).await.expect("forced");
    assert_eq!(data(made), json!({"x": "9", "z": "2"}));
    // Now it is one's alone.
    assert_refused(apply("two", false, json!({"x": "1", "z": "2"})).await, 409, "Conflict");
    let made = apply("one", false, json!({})).await.expect("applied");
    assert_eq!(data(made), json!({"z": "2"}));
}

pub(crate) async fn apply_and_other_writes_see_each_other(client: Client, namespace: String) {
    let deployments: Api<Deployment> = Api::namespaced(client, &namespace);
    let config = deployment("web");
    let apply = PatchParams::apply("owner");
    deployments.patch("web", &apply, &Patch::Apply(&config)).await.expect("applied");
    // An autoscaler scales, which is not the applier's any more.
    let scale = PatchParams { field_manager: Some("scaler".to_owned()), ..patch() };
    deployments.patch_scale("web", &scale, &Patch::Merge(json!({"spec": {"replicas": 4}}))).await.expect("scaled");
    let status = assert_refused(deployments.patch("web", &apply, &Patch::Apply(&config)).await, 409, "Conflict");
    assert_eq!(status.details.expect("details").causes[0].field, ".spec.replicas");

    let mut without = config.clone();
    without["spec"].as_object_mut().expect("a spec").remove("replicas");
    let made = deployments.patch("web", &apply, &Patch::Apply(&without)).await.expect("applied");
    assert_eq!(made.spec.and_then(|spec| spec.replicas), Some(4), "the scaler's");
    let made = deployments.patch("web", &apply.clone().force(), &Patch::Apply(&config)).await.expect("forced");
    assert_eq!(made.spec.and_then(|spec| spec.replicas), Some(1));
    // Alone again, the applier may drop it: the default comes back.
    let made = deployments.patch("web", &apply, &Patch::Apply(&without)).await.expect("applied");
    assert_eq!(made.spec.and_then(|spec| spec.replicas), Some(1));
}

pub(crate) async fn apply_merges_lists_by_their_keys(client: Client, namespace: String) {
    let deployments: Api<Deployment> = Api::namespaced(client, &namespace);
    let apply = |manager: &'static str, containers: Value| {
        let deployments = deployments.clone();
        async move {
            let mut config = deployment("web");
            config["spec"]["template"]["spec"]["containers"] = containers;
            let made = deployments.patch("web", &PatchParams::apply(manager), &Patch::Apply(config)).await?;
            Ok::<Value, kube::Error>(json_of(&made)["spec"]["template"]["spec"]["containers"].clone())
        }
    };
    let web =
        json!({"name": "web", "image": "w", "env": [{"name": "A", "value": "1"}], "ports": [{"containerPort": 80}]});
    let side = json!({"name": "side", "image": "s"});
    apply("one", json!([web])).await.expect("applied");
    let made =
        apply("two", json!([side, {"name": "web", "env": [{"name": "B", "value": "2"}]}])).await.expect("applied");
    let find = |containers: &Value, name: &str| {
        containers.as_array().expect("a list").iter().find(|container| container["name"] == name).cloned()
    };
    assert_eq!(find(&made, "web").expect("web")["env"].as_array().map(Vec::len), Some(2));
    assert_eq!(find(&made, "web").expect("web")["image"], "w");
    assert!(find(&made, "side").is_some());

    // Two leaves: its container goes, its variable goes, one's stay.
    let made = apply("two", json!([{"name": "web"}])).await.expect("applied");
    assert!(find(&made, "side").is_none());
    assert_eq!(find(&made, "web").expect("web")["env"], json!([{"name": "A", "value": "1"}]));
    assert_eq!(find(&made, "web").expect("web")["ports"][0]["containerPort"], 80);

    // A port of the same number and another protocol is another port.
    let both = json!([{"name": "web", "image": "w", "ports": [{"containerPort": 80}, {"containerPort": 80, "protocol": "UDP"}]}]);
    let made = apply("one", both).await.expect("applied");
    let web = find(&made, "web").expect("web");
    assert_eq!(web["ports"].as_array().map(Vec::len), Some(2));
    assert_eq!(web.get("env"), None);
}

pub(crate) async fn apply_to_status(client: Client, namespace: String) {
    let scalers: Api<PodAutoscaler> = Api::namespaced(client, &namespace);
    let config = |member: &str, value: Value| {
        let mut config = json!({
            "apiVersion": "autoscaling.internal.knative.dev/v1alpha1",
            "kind": "PodAutoscaler",
            "metadata": {"name": "web"},
        });
        config[member] = value;
        config
    };
    let reference = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"});
    let spec = config("spec", json!({"protocolType": "http1", "scaleTargetRef": reference}));
    let apply = PatchParams::apply("me");
    scalers.patch("web", &apply, &Patch::Apply(&spec)).await.expect("applied");
    let status =
        config("status", json!({"desiredScale": 2, "actualScale": 1, "serviceName": "", "metricsServiceName": ""}));
    let made = json_of(&scalers.patch_status("web", &apply, &Patch::Apply(&status)).await.expect("applied"));
    assert_eq!(made["status"]["desiredScale"], 2);
    assert_eq!(made["spec"]["scaleTargetRef"], reference, "the spec is another path's");
    let status = config("status", json!({"actualScale": 1, "serviceName": "", "metricsServiceName": ""}));
    let made = json_of(&scalers.patch_status("web", &apply, &Patch::Apply(&status)).await.expect("applied"));
    assert!(made["status"]["desiredScale"].is_null());
    let made = json_of(&scalers.patch("web", &apply, &Patch::Apply(&spec)).await.expect("applied"));
    assert_eq!(made["status"]["actualScale"], 1);
    let mut missing = config("status", json!({}));
    missing["metadata"] = json!({});
    assert_refused(scalers.patch_status("none", &apply, &Patch::Apply(&missing)).await, 404, "NotFound");
}

pub(crate) async fn scale(client: Client, namespace: String) {
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), &namespace);
    deployments.create(&post(), &object(deployment("web"))).await.expect("created");
    let scale = deployments.get_scale("web").await.expect("a scale");
    assert_eq!(scale.spec.as_ref().and_then(|spec| spec.replicas), Some(1));
    assert_eq!(scale.status.as_ref().and_then(|status| status.selector.as_deref()), Some("app=web"));

    let operations = json!([{"op": "add", "path": "/spec/replicas", "value": 3}]);
    let operations: json_patch::Patch = serde_json::from_value(operations).expect("a patch");
    let made = deployments.patch_scale("web", &patch(), &Patch::Json::<()>(operations)).await.expect("scaled");
    assert_eq!(made.spec.and_then(|spec| spec.replicas), Some(3));
    let web = deployments.get("web").await.expect("there");
    assert_eq!(web.spec.and_then(|spec| spec.replicas), Some(3));
    assert_eq!(web.metadata.generation, Some(2));

    let stale = deployments.replace_scale("web", &post(), &scale).await;
    assert_refused(stale, 409, "Conflict");
    // Where Deployments are controlled, their controller writes too, and a write may come too late once or twice.
    let mut attempts = 0..20;
    let made = loop {
        let mut scale = deployments.get_scale("web").await.expect("a scale");
        scale.spec.as_mut().expect("a spec").replicas = Some(0);
        match deployments.replace_scale("web", &post(), &scale).await {
            Err(kube::Error::Api(status)) if status.code == 409 && attempts.next().is_some() => {}
            written => break written.expect("scaled"),
        }
    };
    assert_eq!(made.spec.and_then(|spec| spec.replicas).unwrap_or_default(), 0);
    let negative = Patch::Merge(json!({"spec": {"replicas": -1}}));
    assert_refused(deployments.patch_scale("web", &patch(), &negative).await, 422, "Invalid");

    let maps: Api<ConfigMap> = Api::namespaced(client, &namespace);
    maps.create(&post(), &config_map("a", &json!({}))).await.expect("created");
    assert_refused(maps.patch_scale("a", &patch(), &Patch::Merge(json!({}))).await, 404, "NotFound");
}

pub(crate) async fn dry_runs_keep_nothing(client: Client, namespace: String) {
    let maps: Api<ConfigMap> = Api::namespaced(client, &namespace);
    let dry = PostParams { dry_run: true, ..post() };
    let made = maps.create(&dry, &config_map("a", &json!({"n": "1"}))).await.expect("imagined");
    assert_eq!(made.metadata.name.as_deref(), Some("a"));
    assert_refused(maps.get("a").await, 404, "NotFound");
    maps.create(&post(), &config_map("a", &json!({"n": "1"}))).await.expect("created");
    assert_refused(maps.create(&dry, &config_map("a", &json!({}))).await, 409, "AlreadyExists");
    let params = PatchParams { dry_run: true, ..patch() };
    let made = maps.patch("a", &params, &Patch::Merge(json!({"data": {"n": "2"}}))).await.expect("imagined");
    assert_eq!(json_of(&made)["data"]["n"], "2");
    assert_eq!(json_of(&maps.get("a").await.expect("there"))["data"]["n"], "1");
}

pub(crate) async fn requests_nobody_understands(client: Client, namespace: String) {
    let send = |method: &str, path: String, media: &str, body: &str| {
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", media)
            .body(body.as_bytes().to_vec())
            .expect("a request");
        let client = client.clone();
        async move { client.request::<Value>(request).await }
    };
    let maps = format!("/api/v1/namespaces/{namespace}/configmaps");
    let json = "application/json";
    assert_refused(send("POST", maps.clone(), "text/plain", "{}").await, 415, "UnsupportedMediaType");
    assert_refused(send("POST", maps.clone(), json, "{").await, 400, "BadRequest");
    let wrong_kind = r#"{"apiVersion":"v1","kind":"Secret","metadata":{"name":"a"}}"#;
    assert_refused(send("POST", maps.clone(), json, wrong_kind).await, 400, "BadRequest");
    let elsewhere = r#"{"metadata":{"name":"a","namespace":"default"}}"#;
    assert_refused(send("POST", maps.clone(), json, elsewhere).await, 400, "BadRequest");
    assert_refused(send("PATCH", format!("{maps}/a"), json, "{}").await, 415, "UnsupportedMediaType");
    assert_refused(send("PUT", maps.clone(), json, "{}").await, 405, "MethodNotAllowed");
    // Not every server says it in words a client understands.
    assert_eq!(refused(send("GET", "/apis/none.test/v1/things".to_owned(), json, "").await).code, 404);
    let large = format!(r#"{{"metadata":{{"name":"a"}},"data":{{"x":"{}"}}}}"#, "x".repeat(4 << 20));
    assert_refused(send("POST", maps.clone(), json, &large).await, 413, "RequestEntityTooLarge");
    let apply = send("PATCH", format!("{maps}/a"), "application/apply-patch+yaml", "data: {a: b}").await;
    let status = assert_refused(apply, 422, "Invalid");
    assert_eq!(status.details.expect("details").causes[0].field, "fieldManager");
}
