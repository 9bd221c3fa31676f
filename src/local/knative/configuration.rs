//! A Configuration makes one Revision for each change of its template.

use crate::api::conditions::{self, Conditions, READY, Status, settle_times};
use crate::api::names::{
    CONFIGURATION_GENERATION_LABEL, CONFIGURATION_LABEL, CONFIGURATION_UID_LABEL, CREATOR_ANNOTATION,
    MODIFIER_ANNOTATION, ROUTES_ANNOTATION, ROUTING_STATE_LABEL, ROUTING_STATE_MODIFIED_ANNOTATION, SERVICE_LABEL,
    SERVICE_UID_LABEL,
};
use crate::api::serving::{Configuration, ConfigurationStatus, Revision};
use crate::local::knative::instant_text;
use crate::local::meta::{annotation, child_name, controlled_by, is_controlled_by, label, name};
use crate::units::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use std::sync::Arc;

/// The Revision for the template as it is now: `hello-00001`, counted by the generation, or the name the template asks
/// for.
pub fn revision(configuration: &Configuration, now: Timestamp) -> Revision {
    let meta = &configuration.metadata;
    let template = &configuration.spec.template;
    let mut metadata = ObjectMeta {
        name: Some(wanted_name(configuration)),
        namespace: meta.namespace.clone(),
        owner_references: Some(controlled_by(configuration)),
        ..template.metadata.clone().unwrap_or_default()
    };

    let generation = meta.generation.unwrap_or(0).to_string();
    let routes = annotation(meta, ROUTES_ANNOTATION);
    let labels = metadata.labels.get_or_insert_default();
    for (key, value) in [
        (CONFIGURATION_LABEL, name(meta)),
        (CONFIGURATION_UID_LABEL, meta.uid.as_deref().unwrap_or_default()),
        (CONFIGURATION_GENERATION_LABEL, generation.as_str()),
        (SERVICE_LABEL, label(meta, SERVICE_LABEL)),
        (SERVICE_UID_LABEL, label(meta, SERVICE_UID_LABEL)),
        (ROUTING_STATE_LABEL, if routes.is_empty() { "pending" } else { "active" }),
    ] {
        if !value.is_empty() {
            labels.insert(key.to_owned(), value.to_owned());
        }
    }
    let since = instant_text(now);
    let annotations = metadata.annotations.get_or_insert_default();
    for (key, value) in [
        (CREATOR_ANNOTATION, annotation(meta, MODIFIER_ANNOTATION)),
        (ROUTES_ANNOTATION, routes),
        (ROUTING_STATE_MODIFIED_ANNOTATION, since.as_str()),
    ] {
        if !value.is_empty() {
            annotations.insert(key.to_owned(), value.to_owned());
        }
    }
    Revision { metadata, spec: template.spec.clone(), status: None }
}

/// The Revision of the template as it is now, among those that exist.
#[derive(Clone, PartialEq, Debug)]
pub enum Latest {
    /// It is still to be made.
    Missing,
    /// It exists.
    Found(Arc<Revision>),
    /// Its name is taken by a different Revision.
    NameTaken(String),
}

/// Finds the Revision of the template as it is now.
pub fn latest(configuration: &Configuration, revisions: &[Arc<Revision>]) -> Latest {
    let generation = configuration.metadata.generation.unwrap_or(0).to_string();
    let of_this_generation = |revision: &Revision| {
        is_controlled_by(&revision.metadata, &configuration.metadata)
            && label(&revision.metadata, CONFIGURATION_GENERATION_LABEL) == generation
    };
    if let Some(found) = revisions.iter().find(|revision| of_this_generation(revision)) {
        return Latest::Found(Arc::clone(found));
    }
    let wanted = wanted_name(configuration);
    let named = revisions.iter().find(|revision| {
        name(&revision.metadata) == wanted && revision.metadata.namespace == configuration.metadata.namespace
    });
    match named {
        None => Latest::Missing,
        // A name the user chose may be kept while the spec stays the same.
        Some(same)
            if is_controlled_by(&same.metadata, &configuration.metadata)
                && same.spec == configuration.spec.template.spec =>
        {
            Latest::Found(Arc::clone(same))
        }
        Some(_) => Latest::NameTaken(wanted),
    }
}

/// The status that follows from the latest Revision and those before it.
pub fn status(
    configuration: &Configuration,
    latest: &Latest,
    revisions: &[Arc<Revision>],
    now: Timestamp,
) -> ConfigurationStatus {
    let stored = configuration.status.clone().unwrap_or_default();
    let mut status =
        ConfigurationStatus { observed_generation: configuration.metadata.generation.unwrap_or(0), ..stored.clone() };
    let mut conditions = status.conditions.clone();
    let mut open = Conditions::of(&conditions::CONFIGURATION, &mut conditions, now);
    open.initialize();
    match latest {
        Latest::NameTaken(taken) => {
            let message = format!(
                "Revision creation failed with message: revisions.serving.knative.dev {taken:?} already exists."
            );
            open.mark_false(READY, "RevisionFailed", &message);
        }
        Latest::Missing => open.mark_unknown(READY, "", ""),
        Latest::Found(latest) => {
            let created = name(&latest.metadata).to_owned();
            if let Some(ready) = newest_ready(configuration, revisions) {
                status.latest_ready_revision_name = Some(ready);
            }
            let of_latest = latest.status.as_ref().and_then(|s| conditions::find(&s.conditions, READY)).cloned();
            match of_latest {
                Some(ready) if ready.status == Status::False => {
                    let message = format!("Revision {created:?} failed with message: {}.", ready.message);
                    open.mark_false(READY, "RevisionFailed", &message);
                }
                _ if status.latest_ready_revision_name.as_ref() == Some(&created) => open.mark_true(READY),
                _ => open.mark_unknown(READY, "", ""),
            }
            status.latest_created_revision_name = Some(created);
        }
    }
    settle_times(&mut conditions, &stored.conditions, now);
    status.conditions = conditions;
    status
}

/// The name of the newest Revision that is ready, never one older than what is in the status already: traffic does not
/// go back by itself.
fn newest_ready(configuration: &Configuration, revisions: &[Arc<Revision>]) -> Option<String> {
    let generation =
        |revision: &Revision| label(&revision.metadata, CONFIGURATION_GENERATION_LABEL).parse::<i64>().unwrap_or(0);
    let stored = configuration.status.as_ref().and_then(|status| status.latest_ready_revision_name.as_deref());
    let oldest = revisions
        .iter()
        .find(|revision| stored == Some(name(&revision.metadata)))
        .map_or(0, |revision| generation(revision));
    revisions
        .iter()
        .filter(|revision| is_controlled_by(&revision.metadata, &configuration.metadata) && is_ready(revision))
        .filter(|revision| oldest <= generation(revision))
        .max_by_key(|revision| generation(revision))
        .map(|revision| name(&revision.metadata).to_owned())
}

/// Whether a Revision is ready in its present form.
pub(super) fn is_ready(revision: &Revision) -> bool {
    revision.status.as_ref().is_some_and(|status| {
        Some(status.observed_generation) == revision.metadata.generation
            && conditions::find(&status.conditions, READY).is_some_and(|ready| ready.status == Status::True)
    })
}

fn wanted_name(configuration: &Configuration) -> String {
    let chosen = configuration.spec.template.metadata.as_ref().and_then(|meta| meta.name.clone());
    chosen.unwrap_or_else(|| {
        let suffix = format!("-{:05}", configuration.metadata.generation.unwrap_or(0));
        child_name(name(&configuration.metadata), &suffix)
    })
}
