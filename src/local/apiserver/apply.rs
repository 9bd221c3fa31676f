//! Server-side apply.
use super::patch::Patch;
use super::status::Answer;
use super::write::{Ownership, Target, Written};
use serde_json::Value;

pub(super) fn apply(target: &Target<'_>, config: &Value, _force: bool) -> Answer<Written> {
    loop {
        if target.store.get(target.id, target.namespace, target.name).is_none() {
            match target.create(config.clone(), Ownership::OfChanges) {
                Err(status) if status.is_already_exists() => continue,
                other => return other,
            }
        }
        return target.update(&Ownership::OfChanges, |old| {
            let mut new = old.clone();
            Patch::Strategic(config.clone())
                .change(&mut new, target.resource.shape)
                .map_err(|w| super::status::bad_request(&w))?;
            Ok(new)
        });
    }
}
