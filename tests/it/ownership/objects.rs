//! The Lease, Service and EndpointSlice of a bucket, beside those of a live Knative.

use super::{Network, SYSTEM, clock, until};
use ebb::local::apiserver::{Effect, Fault, Store, Verb};
use ebb::ownership::advertise::advertise;
use ebb::ownership::election::{Candidate, Step};
use ebb::units::Span;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde::Serialize;
use serde_json::{Value, json};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const BUCKET: &str = "autoscaler-bucket-00-of-01";

fn recorded() -> Value {
    let path = crate::root().join("tests/golden/ownership.json");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).expect("JSON")
}

/// An object without what the API server adds to it, and without what differs between clusters.
fn bare(object: &impl Serialize) -> Value {
    let mut object = serde_json::to_value(object).expect("JSON");
    let metadata = object["metadata"].as_object_mut().expect("metadata");
    metadata.retain(|key, _| ["name", "namespace", "labels", "annotations", "ownerReferences"].contains(&&**key));
    let top = object.as_object_mut().expect("an object");
    for added in ["apiVersion", "kind", "status"] {
        top.remove(added);
    }
    if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
        for given in [
            "clusterIP",
            "clusterIPs",
            "internalTrafficPolicy",
            "ipFamilies",
            "ipFamilyPolicy",
            "sessionAffinity",
            "type",
        ] {
            spec.remove(given);
        }
    }
    object
}

#[tokio::test(start_paused = true)]
async fn a_bucket_is_advertised_as_knative_does() {
    let store = Store::new(clock());
    let client = Network::to(&store).client();
    let failed = AtomicU64::new(0);
    let ip: IpAddr = "10.244.1.6".parse().expect("an address");
    advertise(client.clone(), SYSTEM, BUCKET, ip, &failed).await;
    let services: Api<Service> = Api::namespaced(client.clone(), SYSTEM);
    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), SYSTEM);
    let recorded = recorded();
    let service = bare(&services.get(BUCKET).await.expect("a Service"));
    let mut want = bare(&recorded["service"]);
    if service["spec"]["ports"][0].get("protocol").is_none() {
        // What the API server fills in.
        want["spec"]["ports"][0].as_object_mut().expect("a port").remove("protocol");
    }
    assert_eq!(service, want);
    assert_eq!(bare(&slices.get(BUCKET).await.expect("an EndpointSlice")), bare(&recorded["endpointSlice"]));

    // The same again writes nothing; another owner changes the endpoints and nothing else.
    let before = store.faults().writes();
    advertise(client.clone(), SYSTEM, BUCKET, ip, &failed).await;
    assert_eq!(store.faults().writes(), before + 1, "one attempt to make the Service");
    let mark = json!({"metadata": {"labels": {"kept": "yes"}}, "ports": [{"name": "other", "port": 1}]});
    slices.patch(BUCKET, &PatchParams::default(), &Patch::Merge(mark)).await.expect("patched");
    advertise(client.clone(), SYSTEM, BUCKET, "10.244.1.7".parse().expect("an address"), &failed).await;
    let slice = bare(&slices.get(BUCKET).await.expect("an EndpointSlice"));
    assert_eq!(slice["endpoints"][0]["addresses"], json!(["10.244.1.7"]));
    assert_eq!((&slice["metadata"]["labels"]["kept"], &slice["ports"][0]["name"]), (&json!("yes"), &json!("other")));
    assert_eq!(failed.load(Ordering::SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn an_ipv6_owner_is_advertised_as_such() {
    let store = Store::new(clock());
    let client = Network::to(&store).client();
    advertise(client.clone(), SYSTEM, BUCKET, "fd00::1".parse().expect("an address"), &AtomicU64::new(0)).await;
    let slices: Api<EndpointSlice> = Api::namespaced(client, SYSTEM);
    let slice = slices.get(BUCKET).await.expect("an EndpointSlice");
    assert_eq!((slice.address_type.as_str(), &*slice.endpoints[0].addresses), ("IPv6", &["fd00::1".to_owned()][..]));
}

#[tokio::test(start_paused = true)]
async fn advertising_is_tried_until_it_works_and_a_service_that_exists_is_left_alone() {
    let store = Store::new(clock());
    let client = Network::to(&store).client();
    let other = json!({"metadata": {"name": BUCKET}, "spec": {"ports": [{"name": "odd", "port": 99}]}});
    let services: Api<Service> = Api::namespaced(client.clone(), SYSTEM);
    let other = serde_json::from_value(other).expect("a Service");
    services.create(&PostParams::default(), &other).await.expect("created");
    store.faults().add(Fault::once(Effect::fail(500)).of("endpointslices.discovery.k8s.io").times(12));
    store.faults().add(Fault::once(Effect::fail(409)).of("endpointslices.discovery.k8s.io").on(Verb::Create).times(3));
    let failed = std::sync::Arc::new(AtomicU64::new(0));
    let advertising = {
        let (client, failed) = (client.clone(), failed.clone());
        tokio::spawn(async move {
            advertise(client, SYSTEM, BUCKET, "10.0.0.1".parse().expect("an address"), &failed).await;
        })
    };
    until("it has been refused often", || failed.load(Ordering::SeqCst) >= 15).await;
    tokio::time::timeout(Duration::from_mins(1), advertising).await.expect("in the end it works").expect("no panic");
    let service = services.get(BUCKET).await.expect("a Service");
    assert_eq!(service.spec.and_then(|spec| spec.ports).expect("ports")[0].port, 99);
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_signed_as_knative_signs_it() {
    let recorded = recorded();
    let theirs = &recorded["lease"]["spec"];
    let candidate = Candidate {
        identity: theirs["holderIdentity"].as_str().expect("text").to_owned(),
        lease_duration: Span::from_seconds(15),
    };
    let Step::Create(spec) = candidate.step(None, clock().now()) else { panic!("there is no Lease") };
    let ours = serde_json::to_value(&spec).expect("JSON");
    let shape = |spec: &Value| {
        let fields = spec.as_object().expect("an object").iter();
        // A time is told by its length: microseconds, and Z.
        fields.map(|(key, value)| (key.clone(), value.as_str().map(str::len), value.is_i64())).collect::<Vec<_>>()
    };
    assert_eq!(shape(&ours), shape(theirs));
    let lease: Lease = serde_json::from_value(recorded["lease"].clone()).expect("a Lease");
    assert!(candidate.holds(&lease.spec.expect("a record")));
}
