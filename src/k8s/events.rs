//! Kubernetes Events: what a person sees under `kubectl describe`.

use crate::k8s::flow::{Flow, Urgency};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::Semaphore;
use tracing::warn;

/// Events being written at once; beyond that they are dropped, since they only repeat what a log line says.
const UNDER_WAY: usize = 64;
/// The longest note the API takes.
const MOST_NOTE: usize = 1024;

/// Writes events in the name of one controller, in the background. Cheap to clone.
#[derive(Clone)]
pub struct Events {
    /// None where nobody is to be told.
    writer: Option<(Flow, Recorder)>,
    places: Arc<Semaphore>,
}

/// Events not written since the process started, because too many were being written.
pub static DROPPED_EVENTS: AtomicU64 = AtomicU64::new(0);

impl Events {
    /// Events of `controller`, such as `podautoscaler-controller`.
    pub fn new(flow: Flow, controller: &str) -> Self {
        let reporter = Reporter { controller: controller.to_owned(), instance: None };
        let recorder = Recorder::new(flow.client().clone(), reporter);
        Self { writer: Some((flow, recorder)), places: Arc::new(Semaphore::new(UNDER_WAY)) }
    }

    /// Events that are not written: of a process that only reads.
    pub fn none() -> Self {
        Self { writer: None, places: Arc::new(Semaphore::new(UNDER_WAY)) }
    }

    /// Something its owner should mend.
    pub fn warn(&self, about: ObjectReference, reason: &str, note: &str) {
        let Some((flow, recorder)) = self.writer.clone() else { return };
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            DROPPED_EVENTS.fetch_add(1, Ordering::Relaxed);
            warn!(reason, note, "event dropped, too many are being written");
            return;
        };
        let event = Event {
            type_: EventType::Warning,
            reason: reason.to_owned(),
            note: Some(shortened(note)),
            action: "Reconcile".to_owned(),
            secondary: None,
        };
        tokio::spawn(async move {
            let written = flow.write(Urgency::Event, || recorder.publish(&event, &about));
            if let Err(error) = written.await {
                warn!(%error, "event not written");
            }
            drop(place);
        });
    }
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
