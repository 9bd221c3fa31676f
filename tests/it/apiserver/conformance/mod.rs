//! What a kube client may expect of any Kubernetes API server.
//!
//! A case takes a client and a namespace of its own, and knows nothing of what is behind them. [`cases`] names them
//! all with what they need, so that they can be run against a real API server too.

mod life;
mod reads;
mod runtime;
mod writes;

use super::Served;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::api::{Api, DeleteParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::{Value, json};
use std::io::Write as _;
use std::time::{Duration, Instant};

/// What a case needs besides the API server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Needs {
    /// Nothing.
    Nothing,
    /// The controllers of a cluster: garbage collection and the end of namespaces.
    Controllers,
    /// Knative's custom resources.
    Knative,
}

/// A case.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) needs: Needs,
    pub(crate) run: fn(Client, String) -> BoxFuture<'static, ()>,
}

macro_rules! cases {
    ($($module:ident { $($case:ident: $needs:ident,)* })*) => {
        /// Every case.
        pub(crate) fn cases() -> Vec<Case> {
            vec![$($(Case {
                name: concat!(stringify!($module), "::", stringify!($case)),
                needs: Needs::$needs,
                run: |client, namespace| Box::pin($module::$case(client, namespace)),
            },)*)*]
        }

        mod embedded {
            $(mod $module {
                $(#[tokio::test]
                async fn $case() {
                    super::super::run_embedded(concat!(stringify!($module), "::", stringify!($case))).await;
                })*
            })*
        }
    };
}

cases! {
    writes {
        create_fills_in_what_is_not_the_clients: Nothing,
        names_are_generated_and_checked: Nothing,
        a_namespace_must_exist: Nothing,
        what_is_not_there_is_not_found: Nothing,
        a_stale_replacement_is_a_conflict: Nothing,
        writing_the_same_again_changes_nothing: Nothing,
        spec_and_status_are_written_apart: Nothing,
        custom_resources_keep_the_same_rules: Knative,
        defaults_others_rely_on: Nothing,
        what_cannot_stand_is_invalid: Nothing,
        fields_a_kind_does_not_have: Nothing,
        merge_patches: Nothing,
        json_patches: Nothing,
        strategic_merge_patches: Nothing,
        apply_makes_changes_and_removes: Nothing,
        apply_and_other_writes_see_each_other: Nothing,
        apply_merges_lists_by_their_keys: Nothing,
        apply_to_status: Knative,
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
        watch_streams_the_list_first: Nothing,
        watch_sees_objects_enter_and_leave_a_selection: Nothing,
        watch_of_one_object: Nothing,
        watch_ends_in_time: Nothing,
        metadata_alone: Nothing,
        tables: Nothing,
        discovery: Nothing,
        discovery_of_knative: Knative,
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
        watchers_stream_lists: Nothing,
        a_reflector_follows: Nothing,
        a_controller_reconciles: Nothing,
        events_have_two_faces: Nothing,
    }
}

async fn run_embedded(name: &str) {
    let served = Served::start().await;
    let client = served.client();
    let namespace = "conformance";
    make_namespace(&client, namespace).await;
    let case = cases().into_iter().find(|case| case.name == name).expect("a case of this name");
    (case.run)(client, namespace.to_owned()).await;
}

/// Runs every case against the cluster of `EBB_CONFORMANCE_KUBECONFIG`, when that names a kubeconfig. Cases that need
/// a cluster's controllers run when `EBB_CONFORMANCE_CONTROLLERS` is set, those about Knative's kinds when they are
/// served. It leaves the namespaces it made to be deleted.
#[tokio::test]
async fn against_another_api_server() {
    let Some(path) = std::env::var_os("EBB_CONFORMANCE_KUBECONFIG") else {
        let _ = writeln!(std::io::stdout(), "skipped: EBB_CONFORMANCE_KUBECONFIG names no other API server");
        return;
    };
    let config = Kubeconfig::read_from(path).expect("a kubeconfig");
    let mut config =
        Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await.expect("a configuration");
    config.default_retry = false;
    let client = Client::try_from(config).expect("a client");
    let controllers = std::env::var_os("EBB_CONFORMANCE_CONTROLLERS").is_some();
    let knative = kube::discovery::group(&client, "serving.knative.dev").await.is_ok();
    let run = format!("conformance-{:08x}", rand::random::<u32>());
    for (index, case) in cases().into_iter().enumerate() {
        let possible = match case.needs {
            Needs::Nothing => true,
            Needs::Controllers => controllers,
            Needs::Knative => knative,
        };
        let _ = writeln!(std::io::stdout(), "{} {}", if possible { "case" } else { "skipped:" }, case.name);
        if possible {
            let namespace = format!("{run}-{index}");
            make_namespace(&client, &namespace).await;
            (case.run)(client.clone(), namespace.clone()).await;
            let namespaces: Api<Namespace> = Api::all(client.clone());
            namespaces.delete(&namespace, &DeleteParams::background()).await.expect("deleted");
        }
    }
}

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
