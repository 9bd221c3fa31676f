//! A stored object: its JSON, written once and shared by every answer and every watcher, and the few facts about it
//! that must be known without reading that JSON again.

use super::resource::Resource;
use bytes::Bytes;
use serde_json::{Map, Value};
use std::ops::Range;
use std::sync::Arc;

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Happened {
    Added,
    Modified,
    Deleted,
}

impl Happened {
    /// As a watch event says it.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

/// One version of an object.
#[derive(Debug)]
pub(super) struct Object {
    pub(super) namespace: Arc<str>,
    pub(super) name: Arc<str>,
    /// 0 for an object whose uid this store did not make.
    pub(super) uid: u128,
    pub(super) version: u64,
    pub(super) traits: Arc<Traits>,
    /// Uids of owners, none of them twice.
    pub(super) owners: Box<[u128]>,
    /// Whether it only waits for its finalizers or its grace period.
    pub(super) deleting: bool,
    /// Which watch event `event` is.
    pub(super) happened: Happened,
    /// `{"type":"ADDED","object":{…}}` and a line feed.
    event: Bytes,
    /// Where the object's own JSON lies in `event`.
    json: Range<usize>,
}

/// What selectors ask about.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Traits {
    /// Ordered by key.
    labels: Box<[(Box<str>, Box<str>)]>,
    /// In the order of the resource's selectable fields; absent is empty.
    fields: Box<[Box<str>]>,
}

impl Traits {
    pub(super) fn of(resource: &Resource, object: &Value) -> Self {
        let labels = object["metadata"]["labels"].as_object();
        Self {
            labels: labels
                .into_iter()
                .flatten()
                .map(|(key, value)| (key.as_str().into(), value.as_str().unwrap_or_default().into()))
                .collect(),
            fields: resource.selectable.iter().map(|path| field_text(object, path)).collect(),
        }
    }

    pub(super) fn label(&self, key: &str) -> Option<&str> {
        let index = self.labels.binary_search_by(|(known, _)| known.as_ref().cmp(key)).ok()?;
        Some(&self.labels[index].1)
    }

    /// The selectable field of this index.
    pub(super) fn field(&self, index: usize) -> &str {
        self.fields.get(index).map_or("", |value| value)
    }
}

impl Object {
    /// Puts `version` into `value` and writes it down. `before` is the version it replaces.
    pub(super) fn write(
        resource: &Resource,
        mut value: Value,
        version: u64,
        happened: Happened,
        before: Option<&Self>,
    ) -> Self {
        let metadata = metadata_mut(&mut value);
        metadata.insert("resourceVersion".to_owned(), version.to_string().into());
        let text = |key: &str| metadata.get(key).and_then(Value::as_str).unwrap_or_default();
        let (namespace, name) = before.map_or_else(
            || (text("namespace").into(), text("name").into()),
            |before| (before.namespace.clone(), before.name.clone()),
        );
        let uid = super::names::parse_uid(text("uid")).unwrap_or_default();
        let mut owners: Vec<u128> = metadata
            .get("ownerReferences")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .map(|owner| owner["uid"].as_str().and_then(super::names::parse_uid).unwrap_or_default())
            .collect();
        owners.sort_unstable();
        owners.dedup();
        let deleting = metadata.contains_key("deletionTimestamp");
        let traits = Traits::of(resource, &value);
        let traits = match before {
            Some(before) if *before.traits == traits => before.traits.clone(),
            _ => Arc::new(traits),
        };
        let mut text = Vec::with_capacity(1024);
        text.extend_from_slice(b"{\"type\":\"");
        text.extend_from_slice(happened.word().as_bytes());
        text.extend_from_slice(b"\",\"object\":");
        let start = text.len();
        serde_json::to_writer(&mut text, &value).expect("a JSON value can be written");
        let json = start..text.len();
        text.extend_from_slice(b"}\n");
        text.shrink_to_fit();
        Self {
            namespace,
            name,
            uid,
            version,
            traits,
            owners: owners.into(),
            deleting,
            happened,
            event: text.into(),
            json,
        }
    }

    /// The object as JSON.
    pub(super) fn json(&self) -> Bytes {
        self.event.slice(self.json.clone())
    }

    /// The object as a value to read or change.
    pub(super) fn value(&self) -> Value {
        serde_json::from_slice(&self.event[self.json.clone()]).expect("what was written can be read")
    }

    /// A line of a watch; shared when it is the event this version was written for.
    pub(super) fn event(&self, happened: Happened) -> Bytes {
        if happened == self.happened {
            return self.event.clone();
        }
        event_line(happened.word(), &self.event[self.json.clone()])
    }

    /// Bytes this version keeps in memory, nearly.
    pub(super) fn size(&self) -> usize {
        self.event.len() + size_of::<Self>()
    }
}

/// `{"type":"WORD","object":JSON}` and a line feed.
pub(super) fn event_line(word: &str, json: &[u8]) -> Bytes {
    let mut line = Vec::with_capacity(json.len() + word.len() + 24);
    line.extend_from_slice(b"{\"type\":\"");
    line.extend_from_slice(word.as_bytes());
    line.extend_from_slice(b"\",\"object\":");
    line.extend_from_slice(json);
    line.extend_from_slice(b"}\n");
    line.into()
}

/// The metadata of an object, made when it is missing.
pub(super) fn metadata_mut(object: &mut Value) -> &mut Map<String, Value> {
    if !object["metadata"].is_object() {
        object["metadata"] = Value::Object(Map::new());
    }
    object["metadata"].as_object_mut().expect("just made sure of")
}

/// A text of the metadata, empty when absent.
pub(super) fn metadata_text<'a>(object: &'a Value, key: &str) -> &'a str {
    object["metadata"][key].as_str().unwrap_or_default()
}

fn field_text(object: &Value, path: &str) -> Box<str> {
    let value = path.split('.').fold(object, |value, step| &value[step]);
    // An event's `source` is selected by its component, as in the core group.
    let value = if value.is_object() { &value["component"] } else { value };
    match value {
        Value::String(text) => text.as_str().into(),
        Value::Null => "".into(),
        other => other.to_string().into(),
    }
}
