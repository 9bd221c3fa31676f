//! Kubernetes Events: what a person sees under `kubectl describe`.
//!
//! They are written to the core API as client-go's recorder writes them, which is what Knative uses and what the roles of
//! its installation allow: one object for what repeats, with a count.

use crate::api::conditions::to_jiff;
use crate::clock::Clock;
use crate::k8s::flow::{Flow, Urgency};
use crate::units::{Span, Timestamp};
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Semaphore;
use tracing::warn;

/// Events being written at once; beyond that they are dropped, since they only repeat what a log line says.
const UNDER_WAY: usize = 64;
/// The longest note the API takes.
const MOST_NOTE: usize = 1024;
/// Events that are remembered, so that what repeats is counted instead of written anew.
const MOST_REMEMBERED: usize = 1024;
/// How long an event is remembered; an API server keeps events for an hour.
const REMEMBERED_FOR: Span = Span::from_seconds(10 * 60);

/// Writes events in the name of one controller, in the background. Cheap to clone.
#[derive(Clone)]
pub struct Events {
    /// None where nobody is to be told.
    writer: Option<Arc<Writer>>,
    places: Arc<Semaphore>,
}

struct Writer {
    flow: Flow,
    clock: Clock,
    controller: String,
    remembered: Mutex<HashMap<Key, Remembered>>,
}

/// What makes two events the same: what they are about, the reason, the note.
type Key = (String, String, String);

struct Remembered {
    name: String,
    count: i32,
    last: Timestamp,
}

/// Events not written since the process started, because too many were being written.
pub static DROPPED_EVENTS: AtomicU64 = AtomicU64::new(0);

impl Events {
    /// Events of `controller`, such as `podautoscaler-controller`.
    pub fn new(flow: Flow, clock: Clock, controller: &str) -> Self {
        let writer = Writer { flow, clock, controller: controller.to_owned(), remembered: Mutex::default() };
        Self { writer: Some(Arc::new(writer)), places: Arc::new(Semaphore::new(UNDER_WAY)) }
    }

    /// Events that are not written: of a process that only reads.
    pub fn none() -> Self {
        Self { writer: None, places: Arc::new(Semaphore::new(UNDER_WAY)) }
    }

    /// Something its owner should mend.
    pub fn warn(&self, about: ObjectReference, reason: &str, note: &str) {
        self.write("Warning", about, reason, note);
    }

    /// Something its owner may want to know.
    pub fn note(&self, about: ObjectReference, reason: &str, note: &str) {
        self.write("Normal", about, reason, note);
    }

    fn write(&self, type_: &'static str, about: ObjectReference, reason: &str, note: &str) {
        let Some(writer) = self.writer.clone() else { return };
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            DROPPED_EVENTS.fetch_add(1, Ordering::Relaxed);
            warn!(reason, note, "event dropped, too many are being written");
            return;
        };
        let (reason, note) = (reason.to_owned(), shortened(note));
        tokio::spawn(async move {
            let written = writer.flow.write(Urgency::Event, || writer.write(type_, &about, &reason, &note)).await;
            if let Err(error) = written {
                warn!(%error, "event not written");
            }
            drop(place);
        });
    }
}

impl Writer {
    async fn write(&self, type_: &str, about: &ObjectReference, reason: &str, note: &str) -> Result<(), kube::Error> {
        // Objects of the whole cluster have their events in the namespace kubectl looks in.
        let namespace = about.namespace.as_deref().unwrap_or("default");
        let events: Api<Event> = Api::namespaced(self.flow.client().clone(), namespace);
        let key: Key = (identity(about), reason.to_owned(), note.to_owned());
        let now = self.clock.now();
        let at = Time(to_jiff(now));
        if let Some((name, count)) = self.again(&key, now) {
            let patch = Patch::Merge(json!({"count": count, "lastTimestamp": at}));
            match events.patch(&name, &PatchParams::default(), &patch).await {
                // Expired meanwhile, so it is new once more.
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                patched => return patched.map(drop),
            }
        }
        let name = format!("{}.{:x}", about.name.as_deref().unwrap_or("object"), now.nanos());
        let event = Event {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: Some(namespace.to_owned()),
                ..ObjectMeta::default()
            },
            involved_object: about.clone(),
            type_: Some(type_.to_owned()),
            reason: Some(reason.to_owned()),
            message: Some(note.to_owned()),
            source: Some(EventSource { component: Some(self.controller.clone()), host: None }),
            reporting_component: Some(self.controller.clone()),
            first_timestamp: Some(at.clone()),
            last_timestamp: Some(at),
            count: Some(1),
            ..Event::default()
        };
        events.create(&PostParams::default(), &event).await?;
        self.remember(key, Remembered { name, count: 1, last: now }, now);
        Ok(())
    }

    /// The event that says this already, and how often it is said now.
    fn again(&self, key: &Key, now: Timestamp) -> Option<(String, i32)> {
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        let known = remembered.get_mut(key).filter(|known| now.since(known.last) < REMEMBERED_FOR)?;
        known.count = known.count.saturating_add(1);
        known.last = now;
        Some((known.name.clone(), known.count))
    }

    fn remember(&self, key: Key, event: Remembered, now: Timestamp) {
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        if remembered.len() >= MOST_REMEMBERED {
            remembered.retain(|_, known| now.since(known.last) < REMEMBERED_FOR);
        }
        // Forgetting only costs an event of its own for what is said again.
        if remembered.len() >= MOST_REMEMBERED {
            remembered.clear();
        }
        remembered.insert(key, event);
    }
}

fn identity(about: &ObjectReference) -> String {
    let part = |text: &Option<String>| text.clone().unwrap_or_default();
    [&about.kind, &about.namespace, &about.name, &about.uid].map(part).join("/")
}

fn shortened(note: &str) -> String {
    if note.len() <= MOST_NOTE {
        return note.to_owned();
    }
    let mut end = MOST_NOTE - '…'.len_utf8();
    while !note.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", &note[..end])
}
