//! The objects that are scaled: whatever has a `scale` subresource, watched kind by kind as they are first named.

use crate::api::pod_autoscaler::ObjectRef;
use crate::k8s::cache::{Cache, Versioned};
use crate::k8s::flow::{Flow, Urgency, WriteError};
use crate::k8s::follow::{Change, follow};
use crate::k8s::slim::{Guarded, SlimTarget};
use crate::units::{RevisionKey, Span};
use kube::Api;
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
use kube::core::GroupVersionKind;
use kube::runtime::watcher;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long a look waits for the first list of a kind.
const FIRST_LIST: Span = Span::from_seconds(2);

/// What is kept of a scale target.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Target {
    /// `spec.replicas`; Kubernetes takes null for 1.
    pub replicas: i32,
    version: Option<u64>,
}

impl Versioned for Target {
    fn version(&self) -> Option<u64> {
        self.version
    }
}

/// API version and kind.
type Kind = (String, String);

/// All scale targets of the cluster, by kind.
#[derive(Clone)]
pub struct ScaleTargets {
    flow: Flow,
    cancel: CancellationToken,
    tasks: TaskTracker,
    kinds: Arc<Mutex<HashMap<Kind, Cache<Target>>>>,
}

impl ScaleTargets {
    /// None watched yet; watches run on `tasks` until `cancel`.
    pub fn new(flow: Flow, cancel: CancellationToken, tasks: TaskTracker) -> Self {
        Self { flow, cancel, tasks, kinds: Arc::default() }
    }

    /// The object `reference` names in `namespace`; waits for the first list of its kind, but not for ever: a kind may not
    /// exist, or not be ours to see.
    pub async fn get(&self, namespace: &str, reference: &ObjectRef) -> Option<Target> {
        let cache = self.cache(reference);
        tokio::time::timeout(FIRST_LIST.to_std(), cache.synced()).await.ok()?;
        cache.get(&RevisionKey::new(namespace, &reference.name)).map(|target| *target)
    }

    /// The object `reference` names in `namespace` as far as it is known by now; does not wait.
    pub fn known(&self, namespace: &str, reference: &ObjectRef) -> Option<Target> {
        self.cache(reference).get(&RevisionKey::new(namespace, &reference.name)).map(|target| *target)
    }

    /// Writes the number of replicas through the `scale` subresource, as one JSON patch operation. How urgent that is
    /// follows from the number there is now.
    ///
    /// # Errors
    /// What the API server answers.
    pub async fn scale(
        &self,
        namespace: &str,
        reference: &ObjectRef,
        from: Target,
        replicas: i32,
    ) -> Result<(), WriteError> {
        let client = self.flow.client().clone();
        let api: Api<DynamicObject> = Api::namespaced_with(client, namespace, &resource(reference));
        let patch: json_patch::Patch = serde_json::from_value(serde_json::json!([
            { "op": "add", "path": "/spec/replicas", "value": replicas }
        ]))
        .expect("a well-formed patch");
        let (patch, params) = (Patch::Json::<()>(patch), PatchParams::default());
        let urgency = Urgency::of_scale(from.replicas, replicas);
        let scale =
            self.flow.write(urgency, || api.patch_subresource("scale", &reference.name, &params, &patch)).await?;
        // Seen at once by the next look; the watch tells of it a moment later.
        let key = RevisionKey::new(namespace, &reference.name);
        self.cache(reference).note_written(&key, Target { replicas, version: scale.version() });
        Ok(())
    }

    fn cache(&self, reference: &ObjectRef) -> Cache<Target> {
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        let kind = (reference.api_version.clone(), reference.kind.clone());
        if let Some(cache) = kinds.get(&kind) {
            return cache.clone();
        }
        let cache = Cache::default();
        kinds.insert(kind, cache.clone());
        let api: Api<Guarded<SlimTarget>> = Api::all_with(self.flow.client().clone(), &resource(reference));
        let (sink, cancel) = (cache.clone(), self.cancel.clone());
        self.tasks.spawn(async move {
            follow(api, watcher::Config::default(), cancel, |change| {
                sink.take_in(match change {
                    Change::Put(key, object) => {
                        let (replicas, version) = (object.replicas.unwrap_or(1), object.version());
                        Change::Put(key, Target { replicas, version })
                    }
                    Change::Gone(key) => Change::Gone(key),
                    Change::Synced => Change::Synced,
                });
            })
            .await;
        });
        cache
    }
}

/// The resource of a kind, its plural guessed as Knative guesses it: lower case and `s`, or `es` after an `s`.
fn resource(reference: &ObjectRef) -> ApiResource {
    let (group, version) = reference.api_version.split_once('/').unwrap_or(("", &reference.api_version));
    let kind = reference.kind.to_lowercase();
    let plural = if kind.ends_with('s') { format!("{kind}es") } else { format!("{kind}s") };
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, &reference.kind), &plural)
}
