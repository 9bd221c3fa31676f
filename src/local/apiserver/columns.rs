//! Printer columns.
use serde_json::Value;

#[derive(Clone, Debug)]
pub(super) struct Column {
    pub(super) name: String,
}
pub(super) fn name_and_age() -> Vec<Column> {
    Vec::new()
}
pub(super) fn custom(_columns: &[[&str; 3]]) -> Vec<Column> {
    Vec::new()
}
pub(super) fn of_definition(_columns: Option<&Value>) -> Vec<Column> {
    Vec::new()
}
pub(super) fn namespaces() -> Vec<Column> {
    name_and_age()
}
pub(super) fn pods() -> Vec<Column> {
    name_and_age()
}
pub(super) fn services() -> Vec<Column> {
    name_and_age()
}
pub(super) fn endpoints() -> Vec<Column> {
    name_and_age()
}
pub(super) fn configmaps() -> Vec<Column> {
    name_and_age()
}
pub(super) fn secrets() -> Vec<Column> {
    name_and_age()
}
pub(super) fn service_accounts() -> Vec<Column> {
    name_and_age()
}
pub(super) fn events() -> Vec<Column> {
    name_and_age()
}
pub(super) fn nodes() -> Vec<Column> {
    name_and_age()
}
pub(super) fn deployments() -> Vec<Column> {
    name_and_age()
}
pub(super) fn replica_sets() -> Vec<Column> {
    name_and_age()
}
pub(super) fn stateful_sets() -> Vec<Column> {
    name_and_age()
}
pub(super) fn horizontal_pod_autoscalers() -> Vec<Column> {
    name_and_age()
}
pub(super) fn custom_resource_definitions() -> Vec<Column> {
    name_and_age()
}
pub(super) fn leases() -> Vec<Column> {
    name_and_age()
}
pub(super) fn endpoint_slices() -> Vec<Column> {
    name_and_age()
}
pub(super) fn ingresses() -> Vec<Column> {
    name_and_age()
}
pub(super) fn ingress_classes() -> Vec<Column> {
    name_and_age()
}
