//! The part of Knative that turns a Service into something that runs.
//!
//! Reading order, from what a user writes to what the autoscaler sees: [`service`] → [`configuration`] → [`revision`] →
//! [`route`], and [`serverless_service`], which the autoscaler writes and which decides where requests enter. Each is a set
//! of pure functions from objects to objects.
//!
//! Left out, since nothing on one machine needs it: garbage collection of old revisions, gradual rollouts, image
//! digests, certificates, domain mappings.

pub mod admission;
pub mod configuration;
pub(in crate::local) mod controllers;
pub mod revision;
pub mod route;
pub mod serverless_service;
pub mod service;

use crate::api::conditions::to_jiff;
use crate::api::names::ROUTES_ANNOTATION;
use crate::local::meta::annotation;
use crate::units::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use std::collections::BTreeSet;

/// The routes that lead to an object, by its annotation.
fn routes_of(meta: &ObjectMeta) -> BTreeSet<String> {
    annotation(meta, ROUTES_ANNOTATION).split(',').filter(|route| !route.is_empty()).map(ToOwned::to_owned).collect()
}

/// An instant as annotations tell it: RFC 3339, whole seconds.
fn instant_text(at: Timestamp) -> String {
    to_jiff(at).strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
