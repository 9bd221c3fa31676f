//! The cluster as stores, a work queue and a few writes.
//!
//! Reading order: [`slim`] (what is read of an object), [`follow`] (one watch, told as changes), [`cache`] (a kind as a map), [`pods`] and [`scale_targets`]
//! (what is counted and what is scaled), [`queue`] (what to look at next), [`pace`] (what the API server asks for) and
//! [`flow`] (which write goes next), [`events`] (what people are told), [`dial`] (how a Service is reached), [`token`] (who we are), [`requests`] (what was
//! asked), [`read_only`] (for who only looks).

pub mod cache;
pub mod dial;
pub mod events;
pub mod flow;
pub mod follow;
pub mod pace;
pub mod pods;
pub mod queue;
pub mod read_only;
pub mod requests;
pub mod scale_targets;
pub mod slim;
pub mod token;

use crate::observe::metrics::{Page, Source, count};

/// What is counted here for the process as a whole.
#[derive(Clone, Copy, Debug)]
pub struct Counted;

impl Source for Counted {
    fn show(&self, page: &mut Page<'_>) {
        page.counter(
            "ebb_unreadable_objects_total",
            "Objects of the API server passed over because they could not be understood.",
            count(&follow::UNREADABLE_OBJECTS),
        );
        page.counter(
            "ebb_watch_interruptions_total",
            "Times a watch of the API server failed and had to go on.",
            count(&follow::WATCH_INTERRUPTIONS),
        );
        page.counter(
            "ebb_events_dropped_total",
            "Kubernetes Events not written because too many were being written.",
            count(&events::DROPPED_EVENTS),
        );
    }
}
