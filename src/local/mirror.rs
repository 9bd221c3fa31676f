//! What Kubernetes does with Endpoints that somebody writes for a Service without a selector: EndpointSlices say the same.

use crate::api::names::SLICE_SERVICE_LABEL;
use crate::k8s::follow::{Change, follow};
use crate::k8s::slim::Guarded;
use crate::units::RevisionKey;
use k8s_openapi::api::core::v1::{EndpointSubset, Endpoints};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use kube::runtime::watcher;
use kube::{Client, Resource as _};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::warn;

const FIELD_MANAGER: &str = "endpointslicemirroring";

/// Mirrors all Endpoints until `cancel`. Slices of Endpoints that are gone go with the Service.
pub(super) async fn run(client: Client, cancel: CancellationToken) {
    // Of each only the latest version waits.
    let waiting: Mutex<HashMap<RevisionKey, Vec<EndpointSubset>>> = Mutex::default();
    let more = Notify::new();
    let endpoints: Api<Guarded<Endpoints>> = Api::all(client.clone());
    let following = follow(endpoints, watcher::Config::default(), cancel.clone(), |change| {
        let now = match change {
            Change::Put(key, endpoints) => (key, endpoints.subsets.unwrap_or_default()),
            Change::Gone(key) => (key, Vec::new()),
            Change::Synced => return,
        };
        waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(now.0, now.1);
        more.notify_one();
    });
    let mirroring = async {
        // How many slices each has.
        let mut slices: HashMap<RevisionKey, usize> = HashMap::new();
        loop {
            let next = {
                let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
                waiting.keys().next().cloned().and_then(|key| waiting.remove_entry(&key))
            };
            let Some((key, subsets)) = next else {
                more.notified().await;
                continue;
            };
            let before = slices.remove(&key).unwrap_or(0);
            if !subsets.is_empty() {
                slices.insert(key.clone(), subsets.len());
            }
            let api: Api<EndpointSlice> = Api::namespaced(client.clone(), key.namespace());
            for (number, subset) in subsets.iter().enumerate() {
                let slice = slice(&key, number, subset);
                let name = slice_name(&key, number);
                let params = PatchParams::apply(FIELD_MANAGER).force();
                if let Err(error) = api.patch(&name, &params, &Patch::Apply(&slice)).await {
                    warn!(endpoints = %key, %error, "Endpoints not mirrored");
                }
            }
            for number in subsets.len()..before {
                // Not there is as good as removed.
                let _ = api.delete(&slice_name(&key, number), &DeleteParams::default()).await;
            }
        }
    };
    tokio::select! {
        () = async { tokio::join!(following, mirroring); } => {}
        () = cancel.cancelled() => {}
    }
}

fn slice_name(key: &RevisionKey, number: usize) -> String {
    format!("{}-mirrored-{number}", key.name())
}

fn slice(key: &RevisionKey, number: usize, subset: &EndpointSubset) -> Value {
    let endpoints: Vec<Value> = subset
        .addresses
        .iter()
        .flatten()
        .map(|address| {
            json!({"addresses": [address.ip], "targetRef": address.target_ref, "conditions": {"ready": true}})
        })
        .collect();
    let ports: Vec<Value> = subset
        .ports
        .iter()
        .flatten()
        .map(|port| json!({"name": port.name, "port": port.port, "protocol": port.protocol, "appProtocol": port.app_protocol}))
        .collect();
    json!({
        "apiVersion": EndpointSlice::api_version(&()), "kind": EndpointSlice::kind(&()),
        "metadata": {"name": slice_name(key, number), "namespace": key.namespace(), "labels": {
            SLICE_SERVICE_LABEL: key.name(),
            "endpointslice.kubernetes.io/managed-by": "endpointslicemirroring-controller.k8s.io",
        }},
        "addressType": "IPv4", "endpoints": endpoints, "ports": ports,
    })
}
