//! What a kube client may expect of any Kubernetes API server.
//!
//! A case takes a client and a namespace of its own, and knows nothing of what is behind them. [`with_all_cases`] names
//! them all with what they need; they run on the in-memory API (`embedded`) and on a real one (`tests/cluster`).

pub(crate) mod life;
pub(crate) mod reads;
pub(crate) mod runtime;
pub(crate) mod writes;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::Client;
use kube::api::{Api, PostParams};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Hands all cases to a macro, by module and name and with what they need: `Nothing`, the `Controllers` of a cluster, or
/// a server `Since` a minor version of Kubernetes.
macro_rules! with_all_cases {
    ($with:ident) => {
        $with! {
            writes {
                create_fills_in_what_is_not_the_clients: Nothing,
                names_are_generated_and_checked: Nothing,
                a_namespace_must_exist: Nothing,
                what_is_not_there_is_not_found: Nothing,
                a_stale_replacement_is_a_conflict: Nothing,
                writing_the_same_again_changes_nothing: Nothing,
                spec_and_status_are_written_apart: Nothing,
                custom_resources_keep_the_same_rules: Nothing,
                defaults_others_rely_on: Nothing,
                what_cannot_stand_is_invalid: Nothing,
                fields_a_kind_does_not_have: Nothing,
                fields_a_kind_does_not_have_can_be_refused: Since(27, "fieldValidation"),
                merge_patches: Nothing,
                json_patches: Nothing,
                strategic_merge_patches: Nothing,
                apply_makes_changes_and_removes: Nothing,
                apply_and_other_writes_see_each_other: Since(22, "the owner of a scaled field is known"),
                apply_merges_lists_by_their_keys: Nothing,
                apply_to_status: Nothing,
                scale: Nothing,
                dry_runs_keep_nothing: Nothing,
                requests_nobody_understands: Nothing,
            }
            reads {
                lists_by_label: Nothing,
                lists_by_field: Nothing,
                lists_carry_a_version_to_watch_from: Nothing,
                list_versions: Nothing,
                watch_begins_with_what_is_there: Nothing,
                watch_continues_from_a_version: Nothing,
                watch_streams_the_list_first: Since(34, "sendInitialEvents"),
                watch_sees_objects_enter_and_leave_a_selection: Nothing,
                watch_of_one_object: Nothing,
                watch_ends_in_time: Nothing,
                metadata_alone: Nothing,
                tables: Nothing,
                discovery: Nothing,
                discovery_of_all_at_once: Since(27, "aggregated discovery"),
                discovery_of_knative: Nothing,
                health_and_version: Nothing,
            }
            life {
                delete_checks_preconditions: Nothing,
                finalizers_keep_an_object: Nothing,
                pods_get_their_grace: Nothing,
                collections_are_deleted: Nothing,
                orphans_are_collected: Controllers,
                foreground_deletion_waits_for_dependents: Controllers,
                orphaning_lets_dependents_stay: Controllers,
                a_namespace_takes_its_content_along: Controllers,
                evictions_and_bindings: Nothing,
            }
            runtime {
                watchers_list_and_watch: Nothing,
                watchers_stream_lists: Since(34, "sendInitialEvents"),
                a_reflector_follows: Nothing,
                a_controller_reconciles: Nothing,
                events_have_two_faces: Nothing,
            }
        }
    };
}
pub(crate) use with_all_cases;

pub(crate) async fn make_namespace(client: &Client, name: &str) {
    let namespace = object::<Namespace>(json!({"metadata": {"name": name}}));
    Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &namespace).await.expect("a new namespace");
}

/// An object from JSON.
pub(crate) fn object<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("an object of this type")
}

/// JSON of an object.
pub(crate) fn json_of<T: serde::Serialize>(object: &T) -> Value {
    serde_json::to_value(object).expect("an object")
}

fn config_map(name: &str, data: &Value) -> ConfigMap {
    object(json!({"metadata": {"name": name}, "data": data}))
}

/// A deployment of one container that nothing runs.
pub(crate) fn deployment(name: &str) -> Value {
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{
                    "name": "web",
                    "image": "example.test/web:1",
                    "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
                    "ports": [{"containerPort": 8080}],
                }]},
            },
        },
    })
}

fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "automountServiceAccountToken": false,
            "containers": [{"name": "web", "image": "example.test/web:1"}],
        },
    })
}

/// The status a failed call was answered with.
#[track_caller]
fn refused<T: std::fmt::Debug>(answer: Result<T, kube::Error>) -> kube::core::Status {
    match answer {
        Err(kube::Error::Api(status)) => *status,
        other => panic!("expected a refusal, got {other:?}"),
    }
}

/// Asserts code and reason of a refusal.
#[track_caller]
fn assert_refused<T: std::fmt::Debug>(answer: Result<T, kube::Error>, code: u16, reason: &str) -> kube::core::Status {
    let status = refused(answer);
    assert_eq!((status.code, status.reason.as_str()), (code, reason), "{status:?}");
    status
}

/// Waits until `probe` gives something; says what it waited for when it never does.
pub(crate) async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut probe: impl FnMut() -> F) -> T {
    #[expect(clippy::disallowed_methods, reason = "a deadline in a test")]
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(found) = probe().await {
            return found;
        }
        #[expect(clippy::disallowed_methods, reason = "a deadline in a test")]
        let now = Instant::now();
        assert!(now < deadline, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
