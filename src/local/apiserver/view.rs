//! The forms in which a client may ask for objects: as they are, their metadata alone, or a table to print.

use super::object::{Object, event_line};
use super::resource::Resource;
use super::{columns, object::Happened};
use crate::units::Timestamp;
use bytes::Bytes;
use serde_json::{Value, json};

/// A form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// The objects.
    Whole,
    /// `PartialObjectMetadata`.
    Metadata,
    /// `Table`.
    Table(Include),
}

/// What a table's rows carry besides their cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Include {
    Nothing,
    Metadata,
    Object,
}

/// Media types that can be asked for.
pub(super) const ACCEPTED: &str = "application/json, application/json;as=Table;v=v1;g=meta.k8s.io, \
                                   application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io, \
                                   application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";

impl Form {
    /// The first form of an `Accept` header that can be served; absent when there is none.
    pub(super) fn of_accept(accept: Option<&str>, include: Option<&str>) -> Option<Self> {
        let Some(accept) = accept else { return Some(Self::Whole) };
        accept.split(',').find_map(|range| {
            let mut parts = range.split(';').map(str::trim);
            let media = parts.next()?;
            let (mut form, mut known) = (None, true);
            for (key, value) in parts.filter_map(|part| part.split_once('=')) {
                match (key, value) {
                    ("as", value) => form = Some(value),
                    ("v", value) => known &= value == "v1",
                    ("g", value) => known &= value == "meta.k8s.io",
                    _ => {}
                }
            }
            match (media, form) {
                ("application/json" | "application/*" | "*/*", None) => Some(Self::Whole),
                ("application/json", Some("Table")) if known => Some(Self::Table(match include {
                    Some("None") => Include::Nothing,
                    Some("Object") => Include::Object,
                    _ => Include::Metadata,
                })),
                ("application/json", Some("PartialObjectMetadata" | "PartialObjectMetadataList")) if known => {
                    Some(Self::Metadata)
                }
                _ => None,
            }
        })
    }
}

/// Turns stored objects into what one client sees.
#[derive(Clone, Debug)]
pub(super) struct View {
    pub(super) form: Form,
    pub(super) resource: std::sync::Arc<Resource>,
}

impl View {
    /// Whether objects are sent exactly as they are stored.
    pub(super) fn is_plain(&self) -> bool {
        self.form == Form::Whole && !self.resource.is_events_view()
    }

    /// One object.
    pub(super) fn object(&self, object: &Object, now: Timestamp) -> Bytes {
        if self.is_plain() {
            return object.json();
        }
        let value = self.value(object);
        match self.form {
            Form::Whole => text(&value),
            Form::Metadata => text(&metadata_only(value)),
            Form::Table(include) => {
                let version = value["metadata"]["resourceVersion"].clone();
                let rows = vec![columns::row(&self.resource, value, include, now)];
                text(&columns::table(&self.resource, &version, rows, true))
            }
        }
    }

    /// One item of a list; for tables that is a row.
    pub(super) fn item(&self, object: &Object, now: Timestamp) -> Bytes {
        if self.is_plain() {
            return object.json();
        }
        let value = self.value(object);
        text(&match self.form {
            Form::Whole => value,
            Form::Metadata => metadata_only(value),
            Form::Table(include) => columns::row(&self.resource, value, include, now),
        })
    }

    /// Whether rows are asked for instead of objects; these come in one piece.
    pub(super) fn is_table(&self) -> bool {
        matches!(self.form, Form::Table(_))
    }

    /// What stands before and after the items of a list, or of a part of one that goes on with a token and so many more.
    pub(super) fn list(&self, version: u64, next: Option<(&str, usize)>) -> (String, &'static str) {
        let version = version.to_string();
        match self.form {
            Form::Table(_) => {
                let table = columns::table(&self.resource, &version.into(), Vec::new(), true).to_string();
                let head = table.strip_suffix("\"rows\":[]}").expect("rows are the last member of a table");
                (format!("{head}\"rows\":["), "]}")
            }
            form => {
                let (api_version, kind) = match form {
                    Form::Metadata => ("meta.k8s.io/v1".to_owned(), "PartialObjectMetadata"),
                    _ => (self.resource.api_version(), self.resource.kind.as_str()),
                };
                let next = next.map_or_else(String::new, |(token, rest)| {
                    let token = serde_json::Value::from(token);
                    format!(",\"continue\":{token},\"remainingItemCount\":{rest}")
                });
                let head = format!(
                    "{{\"apiVersion\":\"{api_version}\",\"kind\":\"{kind}List\",\"metadata\":{{\"resourceVersion\":\"{version}\"{next}}},\"items\":["
                );
                (head, "]}")
            }
        }
    }

    /// A line of a watch. Only the first of a watch tells a table's columns.
    pub(super) fn event(&self, happened: Happened, object: &Object, first: bool, now: Timestamp) -> Bytes {
        if self.is_plain() {
            return object.event(happened);
        }
        let value = self.value(object);
        let value = match self.form {
            Form::Whole => value,
            Form::Metadata => metadata_only(value),
            Form::Table(include) => {
                let version = value["metadata"]["resourceVersion"].clone();
                let rows = vec![columns::row(&self.resource, value, include, now)];
                columns::table(&self.resource, &version, rows, first)
            }
        };
        event_line(happened.word(), &text(&value))
    }

    /// A line that only tells how far the watch has come.
    pub(super) fn bookmark(&self, version: u64, end_of_initial_events: bool) -> Bytes {
        let mut metadata = json!({"resourceVersion": version.to_string(), "creationTimestamp": null});
        if end_of_initial_events {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let bookmark = match self.form {
            Form::Whole => {
                json!({"apiVersion": self.resource.api_version(), "kind": self.resource.kind, "metadata": metadata})
            }
            Form::Metadata => {
                json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": metadata})
            }
            Form::Table(_) => columns::table(&self.resource, &version.to_string().into(), Vec::new(), false),
        };
        event_line("BOOKMARK", &text(&bookmark))
    }

    fn value(&self, object: &Object) -> Value {
        let mut value = object.value();
        if self.resource.is_events_view() {
            super::events::from_core(&mut value);
        }
        value
    }
}

/// The object without anything but its metadata.
pub(super) fn metadata_only(mut value: Value) -> Value {
    json!({
        "apiVersion": "meta.k8s.io/v1",
        "kind": "PartialObjectMetadata",
        "metadata": value["metadata"].take(),
    })
}

fn text(value: &Value) -> Bytes {
    serde_json::to_vec(value).expect("a JSON value can be written").into()
}
