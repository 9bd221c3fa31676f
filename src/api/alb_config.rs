//! AlbConfig of `alibabacloud.com`: one Application Load Balancer and its listeners. Only the fields Ebb writes are named.

use kube::CustomResource;
use serde::{Deserialize, Serialize};

/// A load balancer.
#[derive(CustomResource, Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[kube(
    group = "alibabacloud.com",
    version = "v1",
    kind = "AlbConfig",
    plural = "albconfigs",
    derive = "PartialEq",
    schema = "disabled"
)]
pub struct AlbConfigSpec {
    /// The load balancer itself.
    pub config: LoadBalancer,
    /// Where it listens; Ebb adds to them and never takes one away.
    #[serde(default)]
    pub listeners: Vec<Listener>,
}

/// What is fixed when a load balancer is made.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LoadBalancer {
    /// Its name in the cloud.
    pub name: String,
    /// `Internet` or `Intranet`; honoured at creation only.
    pub address_type: String,
    /// `Dynamic` or `Fixed`.
    pub address_allocated_mode: String,
    /// `Standard` or `StandardWithWaf`.
    pub edition: String,
    /// One vSwitch in each of at least two zones.
    pub zone_mappings: Vec<ZoneMapping>,
    /// How it is paid for.
    pub billing_config: Billing,
}

/// A zone, by its vSwitch.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ZoneMapping {
    /// The id of the vSwitch.
    pub v_switch_id: String,
}

/// How a load balancer is paid for.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Billing {
    /// `PostPay`.
    pub pay_type: String,
}

/// A port and what is spoken on it.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Listener {
    /// The port.
    pub port: u16,
    /// `HTTP` or `HTTPS`.
    pub protocol: String,
    /// Seconds a request may take.
    pub request_timeout: u32,
    /// Seconds a connection may stay silent.
    pub idle_timeout: u32,
}
