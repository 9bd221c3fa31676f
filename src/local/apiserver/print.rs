//! Tables.
use super::resource::Resource;
use super::view::Include;
use crate::units::Timestamp;
use serde_json::{Value, json};

pub(super) fn row(_resource: &Resource, value: Value, _include: Include, _now: Timestamp) -> Value {
    json!({"cells": [], "object": super::view::metadata_only(value)})
}

pub(super) fn table(_resource: &Resource, version: Value, rows: Vec<Value>, _columns: bool) -> Value {
    json!({"apiVersion": "meta.k8s.io/v1", "kind": "Table", "metadata": {"resourceVersion": version}, "columnDefinitions": [], "rows": rows})
}
