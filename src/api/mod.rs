//! Kubernetes vocabulary: the objects Knative and Ebb exchange, and the words on them. No I/O.
//!
//! Reading order: [`names`] (labels, annotations, fixed names), [`conditions`], the autoscaler's own objects
//! ([`pod_autoscaler`], [`metric`], [`serverless_service`]), what routes to them ([`ingress`], [`alb_config`]) and what a user writes
//! ([`serving`]); [`duration`] and [`annotations`] parse the texts on them.

pub mod alb_config;
pub mod annotations;
pub mod conditions;
pub mod duration;
pub mod goparse;
pub mod ingress;
pub mod metric;
pub mod names;
pub mod pod_autoscaler;
pub mod pods;
pub mod serverless_service;
pub mod serving;
pub mod setting;
pub(crate) mod spelling;
