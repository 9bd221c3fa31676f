//! Pods on this machine: a Deployment's pods, each with an address of its own, a user process and a queue-proxy.

use std::net::Ipv4Addr;

pub mod address;
pub mod container;
pub(in crate::local) mod controller;
pub mod deployment;
pub mod guard;
pub mod kubelet;
pub mod process;
pub mod status;

/// The one node.
pub const NODE: &str = "local";
/// The address of the one node.
pub const HOST_IP: Ipv4Addr = Ipv4Addr::LOCALHOST;
