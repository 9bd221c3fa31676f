//! AlbConfig of `alibabacloud.com`: one Application Load Balancer and its listeners. Only the fields Ebb writes are named.

use kube::CustomResource;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// A load balancer.
#[derive(CustomResource, Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[kube(
    group = "alibabacloud.com",
    version = "v1",
    kind = "AlbConfig",
    plural = "albconfigs",
    status = "AlbConfigStatus",
    derive = "PartialEq",
    schema = "disabled"
)]
pub struct AlbConfigSpec {
    /// The load balancer itself; nothing where only listeners are spoken of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<LoadBalancer>,
    /// Where it listens; Ebb adds to them and never takes one away.
    #[serde(default)]
    pub listeners: Vec<Listener>,
}

/// What the cloud says of a load balancer.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AlbConfigStatus {
    /// Its addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_balancer: Option<BalancerStatus>,
}

/// Where a load balancer is reached.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct BalancerStatus {
    /// Its name in the DNS; empty as long as it has none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub dnsname: String,
}

/// What is fixed when a load balancer is made.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
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
    /// By which it can be found in the cloud.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<Tag>,
}

/// A word on a load balancer.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Tag {
    /// Its name.
    pub key: String,
    /// What it says.
    pub value: String,
}

/// A zone, by its vSwitch.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ZoneMapping {
    /// The id of the vSwitch.
    pub v_switch_id: String,
}

/// How a load balancer is paid for.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_timeout: Option<u32>,
    /// Seconds a connection may stay silent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_timeout: Option<u32>,
    /// Whatever else a user set; it stays.
    #[serde(flatten)]
    pub more: BTreeMap<String, Value>,
}
