//! Which PodAutoscalers are served, by their class, and how many are left alone.
//!
//! Of a PodAutoscaler that is left alone nothing is read but its class, and nothing is written.
//!
//! # Decisions
//!
//! `mpa.autoscaling.knative.dev` is a class of Alibaba Cloud's Knative. Its documentation says that it counts requests at
//! the MSE gateway, with the target of `containerConcurrency`, and scales to zero; its pages of today show the same Service
//! with the KPA class instead. The gateway's numbers need an interface that is not public, so where Ebb serves the class it
//! counts at the pods, as for its own. Whether an autoscaler of the class runs in a cluster cannot be seen from its objects,
//! and two that write the same Deployment are worse than none: whoever starts Ebb has to say it.

use crate::api::names::{CLASS_ANNOTATION, HPA_CLASS, KPA_CLASS, MPA_CLASS};
use crate::observe::metrics::{Page, Source};
use crate::units::RevisionKey;
use kube::core::Resource;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The class of a PodAutoscaler, or of what was made for one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// Scaled on requests: Ebb's own.
    Kpa,
    /// Scaled by Kubernetes' HorizontalPodAutoscaler.
    Hpa,
    /// Alibaba Cloud's, for its MSE gateway.
    Mpa,
    /// Somebody else's, or none at all.
    Other,
}

impl Class {
    /// The class an object's annotation names.
    pub fn of<K: Resource>(object: &K) -> Self {
        let named = object.meta().annotations.as_ref().and_then(|annotations| annotations.get(CLASS_ANNOTATION));
        match named.map(String::as_str) {
            Some(KPA_CLASS) => Self::Kpa,
            Some(HPA_CLASS) => Self::Hpa,
            Some(MPA_CLASS) => Self::Mpa,
            _ => Self::Other,
        }
    }
}

/// The classes that are served. Cheap to clone; all clones are one.
#[derive(Clone, Debug, Default)]
pub struct Classes {
    mpa: bool,
    left: Arc<Mutex<HashMap<RevisionKey, Class>>>,
}

impl Classes {
    /// The KPA class, and if `mpa` says so that one too.
    pub fn new(mpa: bool) -> Self {
        Self { mpa, left: Arc::default() }
    }

    /// Whether Ebb serves a PodAutoscaler, and what was made for it.
    pub fn serve<K: Resource>(&self, object: &K) -> bool {
        match Class::of(object) {
            Class::Kpa => true,
            Class::Mpa => self.mpa,
            Class::Hpa | Class::Other => false,
        }
    }

    /// A PodAutoscaler came, changed or, if there is `none` any more, went.
    pub fn note<K: Resource>(&self, key: &RevisionKey, object: Option<&K>) {
        match object.filter(|object| !self.serve(*object)) {
            Some(object) => _ = self.lock().insert(key.clone(), Class::of(object)),
            None => _ = self.lock().remove(key),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<RevisionKey, Class>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Source for Classes {
    fn show(&self, page: &mut Page<'_>) {
        let left = self.lock();
        let count = |class: Class| left.values().filter(|one| **one == class).count() as u64;
        page.gauges(
            "ebb_podautoscalers_left",
            "PodAutoscalers left to others, by class.",
            ["class"],
            [("hpa", Class::Hpa), ("mpa", Class::Mpa), ("other", Class::Other)]
                .map(|(name, class)| ([name], count(class))),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::pod_autoscaler::PodAutoscaler;

    fn of_class(class: Option<&str>) -> PodAutoscaler {
        let mut object = PodAutoscaler::new("web", crate::api::pod_autoscaler::PodAutoscalerSpec::default());
        object.metadata.annotations = class.map(|class| [(CLASS_ANNOTATION.to_owned(), class.to_owned())].into());
        object
    }

    #[test]
    fn served_are_our_class_and_mpa_where_that_is_said() {
        for (class, served, with_mpa) in [
            (Some(KPA_CLASS), true, true),
            (Some(MPA_CLASS), false, true),
            (Some(HPA_CLASS), false, false),
            (Some("example.com/ours"), false, false),
            (Some(""), false, false),
            (None, false, false),
        ] {
            let object = of_class(class);
            assert_eq!(Classes::new(false).serve(&object), served, "{class:?}");
            assert_eq!(Classes::new(true).serve(&object), with_mpa, "{class:?}");
        }
    }

    #[test]
    fn what_is_left_is_counted_until_it_is_gone_or_served() {
        let (classes, web) = (Classes::new(false), RevisionKey::new("default", "web"));
        let left = |classes: &Classes| classes.lock().values().copied().collect::<Vec<_>>();
        classes.note(&web, Some(&of_class(Some(MPA_CLASS))));
        assert_eq!(left(&classes), [Class::Mpa]);
        classes.note(&web, Some(&of_class(Some(HPA_CLASS))));
        assert_eq!(left(&classes), [Class::Hpa]);
        classes.note(&web, Some(&of_class(Some(KPA_CLASS))));
        assert_eq!(left(&classes), []);
        classes.note(&web, Some(&of_class(None)));
        classes.note::<PodAutoscaler>(&web, None);
        assert_eq!(left(&classes), []);
    }
}
