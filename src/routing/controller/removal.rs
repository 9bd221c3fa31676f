//! Carries out what `alb-deletion-policy` says: see [`removal`] for the rule.
//!
//! What is seen by watches may be old while they are broken, and a load balancer does not come back as it was. So before
//! anything is deleted the API server itself is asked once more, and each object goes only as it was looked at.

use super::{Controller, FIELD_MANAGER, LookError, NETWORK_MAP, Network, is_of_class};
use crate::api::ingress::Ingress as KIngress;
use crate::k8s::flow::{Urgency, WriteError};
use crate::k8s::queue::Lane;
use crate::k8s::slim::Guarded;
use crate::routing::model::{Settings, Side};
use crate::routing::plan::{Plan, is_nobody, is_ours, uses};
use crate::routing::removal::{self, Cleanup, FINALIZER, UNNEEDED};
use crate::units::{RevisionKey, Span, Timestamp};
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, Preconditions};
use kube::{Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use serde_json::json;
use std::fmt::Debug;
use tracing::{info, warn};

/// How soon what is on its way out, or has changed meanwhile, is looked at again.
pub(super) const SOON: Span = Span::from_seconds(5);
/// The same where the API server knows of something that is not known here yet: all there is was asked for.
const LATER: Span = Span::from_seconds(60);
/// Objects asked for at once.
const PAGE: u32 = 500;

/// What is known of a load balancer that nothing needs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Unneeded {
    /// Since when.
    Since(Timestamp),
    /// It stays all the same, and why.
    Kept(String),
    /// There is nothing of it.
    Gone,
}

impl Controller {
    /// Gives KIngresses the finalizer or takes it off, and deletes the Ingresses of those that are deleted.
    pub(super) async fn keep_finalizers(
        &self,
        class: &str,
        existing: &[Ingress],
        settings: &Settings,
    ) -> Result<(), WriteError> {
        let now = self.clock.now();
        let mut failed = None;
        for kingress in self.kingresses.select(|_, one| settings.delete_unneeded || removal::has_finalizer(one)) {
            let led_to: Vec<&Ingress> = existing.iter().filter(|object| is_ours(object, &kingress)).collect();
            let wanted = settings.delete_unneeded && is_of_class(&kingress, class);
            let done = match removal::cleanup(&kingress, wanted, !led_to.is_empty(), now) {
                Cleanup::Nothing => Ok(()),
                Cleanup::Add => self.set_finalizer(&kingress, true).await,
                Cleanup::Remove => self.set_finalizer(&kingress, false).await,
                Cleanup::Wait { until } => {
                    self.queue.add_after(self.key.clone(), until.since(now));
                    self.delete_led_to(&led_to).await
                }
                Cleanup::GiveUp => {
                    self.tell_given_up(&kingress, &led_to);
                    self.set_finalizer(&kingress, false).await
                }
            };
            match done {
                // Changed or gone meanwhile: the watch tells, and it is looked at again.
                Err(error) if error.is_conflict() || error.is_not_found() => {}
                done => failed = done.err().or(failed),
            }
        }
        failed.map_or(Ok(()), Err)
    }

    async fn set_finalizer(&self, kingress: &KIngress, present: bool) -> Result<(), WriteError> {
        let name = kingress.name_any();
        let kept = kingress.finalizers().iter().map(String::as_str).filter(|known| *known != FINALIZER);
        let finalizers: Vec<&str> = kept.chain(present.then_some(FINALIZER)).collect();
        let patch = json!({"metadata": {"resourceVersion": kingress.resource_version(), "finalizers": finalizers}});
        let namespace = kingress.namespace().unwrap_or_default();
        let api: Api<KIngress> = Api::namespaced(self.flow.client().clone(), &namespace);
        let params = PatchParams::default();
        let written = self
            .flow
            .write(Urgency::Routing, || async { api.patch(&name, &params, &Patch::Merge(&patch)).await })
            .await?;
        // One that is deleted is gone with its last finalizer.
        if written.metadata.deletion_timestamp.is_none() {
            self.kingresses.note_written(&RevisionKey::new(&namespace, &name), written);
        }
        Ok(())
    }

    /// Deletes the Ingresses of a KIngress that is deleted: as long as that has a finalizer, nobody else does.
    async fn delete_led_to(&self, ingresses: &[&Ingress]) -> Result<(), WriteError> {
        let mut failed = None;
        for ingress in ingresses.iter().filter(|ingress| ingress.metadata.deletion_timestamp.is_none()) {
            let namespace = ingress.namespace().unwrap_or_default();
            let api: Api<Ingress> = Api::namespaced(self.flow.client().clone(), &namespace);
            // Its version may change all the time; it is the same Ingress.
            let meta = ObjectMeta { resource_version: None, ..ingress.metadata.clone() };
            if let Err(error) = self.delete_as_it_is(&api, &meta).await {
                failed = Some(error);
            } else {
                info!(namespace, name = ingress.name_any(), "taken from the load balancer");
            }
        }
        failed.map_or(Ok(()), Err)
    }

    fn tell_given_up(&self, kingress: &KIngress, led_to: &[&Ingress]) {
        let names: Vec<String> = led_to.iter().map(|ingress| ingress.name_any()).collect();
        let (namespace, name) = (kingress.namespace().unwrap_or_default(), kingress.name_any());
        let note = format!(
            "{namespace}/{name} was deleted ten minutes ago, and its Ingresses are still there: {}. It goes without them; see \
             whether the ALB Ingress controller runs, since the load balancer may have their rules",
            names.join(", ")
        );
        warn!(note, "a KIngress is not waited with any longer");
        self.events.warn(kingress.object_ref(&()), "CleanupGivenUp", &note);
        // Where its namespace goes too, nothing can be told there.
        if let Some(Network { map, .. }) = &*self.settings.borrow() {
            self.events.warn(map.clone(), "CleanupGivenUp", &note);
        }
    }

    /// Takes the next step to remove each load balancer that nothing has needed for long enough.
    pub(super) async fn remove_unneeded(
        &self,
        plan: &Plan,
        ours: &[KIngress],
        existing: &[Ingress],
        settings: &Settings,
    ) -> Result<(), LookError> {
        let unneeded = removal::unneeded(plan, existing, settings);
        let open: Vec<Side> = {
            let mut state = self.lock();
            state.unneeded.retain(|side, _| unneeded.contains(side));
            let is_open = |side: &Side| state.unneeded.get(side) != Some(&Unneeded::Gone);
            unneeded.into_iter().filter(is_open).collect()
        };
        if open.is_empty() {
            return Ok(());
        }
        let Some(balancers) = self.balancer_api().await? else { return Ok(()) };
        let classes: Api<IngressClass> = Api::all(self.flow.client().clone());
        let classes = classes.list(&ListParams::default()).await?.items;
        for side in open {
            self.remove_next(side, (ours, existing, settings), &classes, &balancers).await?;
        }
        Ok(())
    }

    async fn remove_next(
        &self,
        side: Side,
        (ours, existing, settings): (&[KIngress], &[Ingress], &Settings),
        classes: &[IngressClass],
        balancers: &Api<DynamicObject>,
    ) -> Result<(), LookError> {
        let client = || self.flow.client().clone();
        let name = settings.balancer(side);
        let answer = existing.iter().find(|object| is_nobody(object, side));
        let class = classes.iter().find(|class| class.name_any() == side.class_name());
        let balancer = balancers.get_opt(&name).await?;
        let next =
            answer.map(|it| &it.metadata).or(class.map(|it| &it.metadata)).or(balancer.as_ref().map(|it| &it.metadata));
        let Some(next) = next else {
            self.lock().unneeded.insert(side, Unneeded::Gone);
            return Ok(());
        };
        let kept = removal::keeps(side, classes, balancer.as_ref().map(|it| &it.metadata), settings, FIELD_MANAGER);
        if !self.has_waited(side, &name, kept) {
            return Ok(());
        }
        if next.deletion_timestamp.is_some() {
            // Somebody's finalizer: of Ingresses the watch tells, and what comes after an AlbConfig waits for it by itself.
            if answer.is_none() && class.is_some() {
                self.queue.add_after(self.key.clone(), SOON);
            }
            return Ok(());
        }
        if !self.is_still_unneeded(side, ours, answer.is_none(), settings).await? {
            self.queue.add_after(self.key.clone(), LATER);
            return Ok(());
        }
        let deleted = match (answer, class) {
            (Some(_), _) => {
                let api: Api<Ingress> = Api::namespaced(client(), next.namespace.as_deref().unwrap_or_default());
                self.delete_as_it_is(&api, next).await?
            }
            (None, Some(_)) => self.delete_as_it_is(&Api::<IngressClass>::all(client()), next).await?,
            (None, None) => self.delete_as_it_is(balancers, next).await?,
        };
        if !deleted {
            self.queue.add_after(self.key.clone(), SOON);
        } else if answer.is_none() && class.is_some() {
            self.queue.add(self.key.clone(), Lane::Fast);
        } else if answer.is_none() {
            let note = format!(
                "the AlbConfig {name} is deleted, after its IngressClass and the answer for hosts nobody serves: nothing has \
                 needed that load balancer for {UNNEEDED}, and alb-deletion-policy is Delete"
            );
            warn!(balancer = name, "deleted, because nothing needs it");
            if let Some(Network { map, .. }) = &*self.settings.borrow() {
                self.events.note(map.clone(), "LoadBalancerRemoved", &note);
            }
        }
        Ok(())
    }

    /// Whether nothing has needed a load balancer for long enough, and whether it may go at all, which is told where not.
    fn has_waited(&self, side: Side, name: &str, kept: Option<String>) -> bool {
        let now = self.clock.now();
        let mut state = self.lock();
        if let Some(why) = kept {
            let known = state.unneeded.insert(side, Unneeded::Kept(why.clone()));
            drop(state);
            if known != Some(Unneeded::Kept(why.clone())) {
                let note = format!("nothing needs the load balancer {name}, and it stays: {why}");
                info!(note, "not deleted");
                if let Some(Network { map, .. }) = &*self.settings.borrow() {
                    self.events.note(map.clone(), "LoadBalancerKept", &note);
                }
            }
            return false;
        }
        let since = match state.unneeded.get(&side) {
            Some(Unneeded::Since(since)) => *since,
            _ => now,
        };
        state.unneeded.insert(side, Unneeded::Since(since));
        let until = since + UNNEEDED;
        if now < until {
            self.queue.add_after(self.key.clone(), until.since(now));
        }
        until <= now
    }

    /// Asks the API server whether all is as it was planned with. What cannot be understood may need anything.
    async fn is_still_unneeded(
        &self,
        side: Side,
        ours: &[KIngress],
        answer_is_gone: bool,
        settings: &Settings,
    ) -> Result<bool, LookError> {
        let client = || self.flow.client().clone();
        let maps: Api<ConfigMap> = Api::namespaced(client(), &self.namespace);
        let map = maps.get_opt(NETWORK_MAP).await?;
        let network = map.and_then(|map| Network::read(&map).ok());
        let Some(network) = network.filter(|network| self.settings.borrow().as_ref() == Some(network)) else {
            return Ok(false);
        };
        let is_needed = |kingress: &Guarded<KIngress>| {
            let Ok(kingress) = &kingress.0 else { return true };
            let as_planned = |known: &KIngress| {
                known.metadata.uid == kingress.metadata.uid
                    && known.metadata.annotations == kingress.metadata.annotations
                    && known.spec == kingress.spec
            };
            kingress.metadata.deletion_timestamp.is_none()
                && is_of_class(kingress, &network.class)
                && !ours.iter().any(as_planned)
        };
        let is_used = |ingress: &Guarded<Ingress>| {
            let Ok(ingress) = &ingress.0 else { return true };
            uses(ingress, side, settings) || answer_is_gone && is_nobody(ingress, side)
        };
        Ok(!any(&Api::all(client()), is_needed).await? && !any(&Api::all(client()), is_used).await?)
    }

    /// Deletes an object if it is what was looked at; whether it was.
    async fn delete_as_it_is<K>(&self, api: &Api<K>, meta: &ObjectMeta) -> Result<bool, WriteError>
    where
        K: Clone + Debug + DeserializeOwned,
    {
        let name = meta.name.as_deref().unwrap_or_default();
        let preconditions = Preconditions { uid: meta.uid.clone(), resource_version: meta.resource_version.clone() };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::background() };
        let deleted = self.flow.write(Urgency::Routing, || async { api.delete(name, &params).await.map(drop) }).await;
        match deleted {
            Err(error) if error.is_conflict() => Ok(false),
            Err(error) if error.is_not_found() => Ok(true),
            deleted => deleted.map(|()| true),
        }
    }
}

/// Whether there is one of a kind, asked of the API server and not of what it has said before.
async fn any<K>(api: &Api<Guarded<K>>, is: impl Fn(&Guarded<K>) -> bool) -> Result<bool, kube::Error>
where
    K: Resource + Clone + Debug + DeserializeOwned,
{
    let mut params = ListParams::default().limit(PAGE);
    loop {
        let page = api.list(&params).await?;
        if page.items.iter().any(&is) {
            return Ok(true);
        }
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(false),
        }
    }
}
