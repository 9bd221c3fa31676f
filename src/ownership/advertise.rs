//! The Service and the EndpointSlice by which the owner of a bucket is reached where pods cannot be reached directly.

use crate::api::names::SLICE_SERVICE_LABEL;
use crate::ownership::holder::STATS_PORT;
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::api::{ListParams, PostParams};
use kube::{Api, Client};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tracing::{info, warn};

/// The name of the port in both objects.
const PORT_NAME: &str = "http";
/// How long to wait after a first failure, doubled each time …
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// … up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Makes the objects of a bucket lead to `ip`, however often it takes. Stats are forwarded by address meanwhile, so
/// failing is not worth more than a line in the log; the reference ends its process. Drop the future to stop trying.
pub async fn advertise(client: Client, namespace: &str, bucket: &str, ip: IpAddr, failed: &AtomicU64) {
    let mut pause = FIRST_PAUSE;
    loop {
        let Err(error) = try_to(&client, namespace, bucket, ip).await else {
            info!(bucket, "Service and EndpointSlice lead here");
            return;
        };
        failed.fetch_add(1, Ordering::Relaxed);
        warn!(bucket, %error, ?pause, "Service or EndpointSlice of the bucket not written; tried again");
        tokio::time::sleep(pause.mul_f64(1.0 + rand::random::<f64>() / 2.0)).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

async fn try_to(client: &Client, namespace: &str, bucket: &str, ip: IpAddr) -> Result<(), kube::Error> {
    let services: Api<Service> = Api::namespaced(client.clone(), namespace);
    match services.create(&PostParams::default(), &service(namespace, bucket)).await {
        // One that exists is left as it is, whatever its ports.
        Err(kube::Error::Api(status)) if status.code == 409 => {}
        Err(error) => return Err(error),
        Ok(_) => {}
    }
    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), namespace);
    let want = endpoint_slice(namespace, bucket, ip);
    // A list, because listing is what the stock role allows.
    let found = slices.list(&ListParams::default().fields(&format!("metadata.name={bucket}"))).await?.items.pop();
    match found {
        None => drop(slices.create(&PostParams::default(), &want).await?),
        Some(found) if found.endpoints == want.endpoints => {}
        Some(found) => {
            let changed = EndpointSlice { endpoints: want.endpoints, ..found };
            slices.replace(bucket, &PostParams::default(), &changed).await?;
        }
    }
    Ok(())
}

/// The Service of a bucket: without a selector, its endpoints are written by hand.
pub fn service(namespace: &str, bucket: &str) -> Service {
    let port = ServicePort {
        name: Some(PORT_NAME.to_owned()),
        port: i32::from(STATS_PORT),
        target_port: Some(IntOrString::Int(i32::from(STATS_PORT))),
        ..ServicePort::default()
    };
    Service {
        metadata: named(namespace, bucket),
        spec: Some(ServiceSpec { ports: Some(vec![port]), ..ServiceSpec::default() }),
        status: None,
    }
}

/// The EndpointSlice of a bucket: its one endpoint is the owner.
pub fn endpoint_slice(namespace: &str, bucket: &str, ip: IpAddr) -> EndpointSlice {
    let conditions = EndpointConditions { ready: Some(true), serving: Some(true), terminating: Some(false) };
    let endpoint = Endpoint { addresses: vec![ip.to_string()], conditions: Some(conditions), ..Endpoint::default() };
    let port = EndpointPort {
        name: Some(PORT_NAME.to_owned()),
        port: Some(i32::from(STATS_PORT)),
        protocol: Some("TCP".to_owned()),
        ..EndpointPort::default()
    };
    EndpointSlice {
        metadata: ObjectMeta {
            labels: Some(BTreeMap::from([(SLICE_SERVICE_LABEL.to_owned(), bucket.to_owned())])),
            ..named(namespace, bucket)
        },
        address_type: if ip.is_ipv6() { "IPv6" } else { "IPv4" }.to_owned(),
        endpoints: vec![endpoint],
        ports: Some(vec![port]),
    }
}

fn named(namespace: &str, bucket: &str) -> ObjectMeta {
    ObjectMeta { name: Some(bucket.to_owned()), namespace: Some(namespace.to_owned()), ..ObjectMeta::default() }
}
