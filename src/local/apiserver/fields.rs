//! Who owns which field.
use super::resource::Resource;
use super::write::Part;
use crate::units::Timestamp;
use serde_json::Value;

pub(super) fn after_update(
    _resource: &Resource,
    _old: Option<&Value>,
    _new: &mut Value,
    _manager: &str,
    _part: Part,
    _now: Timestamp,
) {
}

/// Whether a write changes nothing.
pub(super) fn same(old: &Value, new: &Value) -> bool {
    old == new
}
