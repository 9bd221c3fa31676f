//! Events have two faces: `v1` and `events.k8s.io/v1`. They are stored as the first; here is the way to the second and
//! back, a change of names.

use serde_json::Value;

/// The name in `v1`, and in `events.k8s.io/v1`.
const NAMES: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("reportingComponent", "reportingController"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
];

/// From `v1` to `events.k8s.io/v1`.
pub(super) fn from_core(event: &mut Value) {
    rename(event, "events.k8s.io/v1", |(core, other)| (core, other));
}

/// From `events.k8s.io/v1` to `v1`.
pub(super) fn to_core(event: &mut Value) {
    rename(event, "v1", |(core, other)| (other, core));
}

/// A field selector on `events.k8s.io/v1`, as one on `v1`.
pub(super) fn fields_to_core(selector: &str) -> String {
    let term = |term: &str| {
        let found = NAMES.iter().find_map(|(core, other)| {
            let rest = term.trim_start().strip_prefix(other)?;
            rest.starts_with(['.', '=', '!']).then(|| format!("{core}{rest}"))
        });
        found.unwrap_or_else(|| term.to_owned())
    };
    selector.split(',').map(term).collect::<Vec<_>>().join(",")
}

fn rename(event: &mut Value, api_version: &str, way: fn((&'static str, &'static str)) -> (&'static str, &'static str)) {
    let Value::Object(event) = event else { return };
    if event.get("apiVersion").is_some_and(Value::is_string) {
        event.insert("apiVersion".to_owned(), api_version.into());
    }
    for (from, to) in NAMES.iter().copied().map(way) {
        if let Some(value) = event.remove(from) {
            event.insert(to.to_owned(), value);
        }
    }
}
