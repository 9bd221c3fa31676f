//! Ebb: the request-driven autoscaler for Knative.

pub mod units;

pub mod api;
pub mod engine;

pub mod clock;
pub mod config;

pub mod observe;

pub mod k8s;

pub mod ownership;
pub mod stats;

pub mod deciders;

pub mod controllers;

pub mod app;
pub mod dataplane;

pub mod local;

pub mod cli;
