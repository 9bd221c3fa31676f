//! Applies the plan: KIngresses of the class in, Ingresses, IngressClasses and AlbConfigs out, and what became of each in
//! its conditions.
//!
//! All KIngresses share load balancers, so one look is at all of them. A look writes only what differs from what there
//! is; applying the same plan twice writes nothing. An Ingress is written only from a plan that stands: what cannot be
//! expressed, and what would lead to a Service that does not exist, keeps what it has.

mod removal;

use crate::api::alb_config::AlbConfig;
use crate::api::conditions::{
    Conditions, INGRESS, READY, Status, find, from_jiff, same_but_for_time, settle_times, to_jiff,
};
use crate::api::ingress::{Ingress as KIngress, IngressStatus};
use crate::api::names::INGRESS_CLASS_ANNOTATION;
use crate::api::serverless_service::ServerlessService;
use crate::api::serving::{Revision, Route};
use crate::clock::Clock;
use crate::k8s::cache::Cache;
use crate::k8s::events::Events;
use crate::k8s::flow::{Flow, Urgency, WriteError};
use crate::k8s::follow::{Change, follow};
use crate::k8s::queue::{Lane, Queue, Turn, Workers};
use crate::k8s::slim::Guarded;
use crate::ownership::Ownership;
use crate::routing::capabilities::{self, Capabilities};
use crate::routing::delegate::{GATEWAY_SERVICE, Gateways};
use crate::routing::gate::contract::{knows_route, mode_of, rests};
use crate::routing::keeper::{Keeper, Published, Routes, Way};
use crate::routing::live::{Live, Seen};
use crate::routing::model::{CLASS, Gateway, Mode, Probe, Remark, Settings, Side, digest};
use crate::routing::plan::{self, Existing, Leaving, Outcome, Plan, Progress, addresses, is_applied};
use crate::routing::port;
use crate::routing::probe::Vips;
use crate::routing::servers::{self, Servers};
use crate::routing::translate::{Context, Part, Selectors, groups_of_rule, revision_of_service, services_of};
use crate::units::{RevisionKey, Span, Timestamp};
use k8s_openapi::api::core::v1::{ConfigMap, Event, ObjectReference, Service};
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams, PostParams,
};
use kube::core::{NamespaceResourceScope, Resource};
use kube::discovery::Scope;
use kube::runtime::watcher;
use kube::{Client, ResourceExt as _};
use removal::{SOON, Unneeded};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

/// Who is on record for the fields that are applied.
pub const FIELD_MANAGER: &str = "ebb-alb";
/// Where Knative's settings of the network are.
const NETWORK_MAP: &str = "config-network";
/// Everything is looked at again, so that what was taken away by somebody comes back.
const AGAIN: Span = Span::from_seconds(10 * 60);
/// The namespace an AlbConfig is looked for in where the kind is namespaced.
const OLD_NAMESPACE: &str = "kube-system";
/// Where a KIngress was given to another class and that is not ready for it, how long it is served here still.
const LEFT_BEHIND: Span = Span::from_seconds(5 * 60);
/// How long it is waited for what a self-test has written, before anything is planned.
const SEEN_WITHIN: Span = Span::from_seconds(15);
/// Where a KIngress has moved to another load balancer, how long the one before goes on for those who know its address.
const STAYS_AFTER_MOVE: Span = Span::from_seconds(60);
/// How soon a gateway that does not know a KIngress yet is asked again.
const GATEWAYS_AGAIN: Span = Span::SECOND;
/// The reason for which there is no room.
const BUDGET: &str = "RuleBudgetExceeded";
/// Where it is written down what the rules that select members of splits ask for …
const SECRET: &str = "select-secret";
/// … and how long it lasts.
const SECRET_LASTS: Span = Span::from_seconds(24 * 3600);
/// Events of one KIngress that were told; beyond that they may be told again.
const MOST_TOLD: usize = 10_000;
/// What the load balancer's controller complained of counts so long after it did last, where the load balancer was seen to
/// follow all the same. It says again what is still wrong.
const COMPLAINT_LASTS: Span = Span::from_seconds(10 * 60);

/// What the controller works with.
pub struct Setup {
    /// The cluster.
    pub client: Client,
    /// The time.
    pub clock: Clock,
    /// Whether this replica is the one that writes.
    pub ownership: Ownership,
    /// Where Knative's ConfigMaps are.
    pub namespace: String,
    /// How the addresses of a load balancer are found.
    pub vips: Arc<dyn Vips>,
    /// Who keeps the gates of revisions, and their ServerlessServices; without, nothing keeps a revision from going to
    /// zero while a load balancer still sends to its pods.
    pub gates: Option<(Keeper, Cache<ServerlessService>)>,
}

/// The controller.
pub struct Controller {
    clock: Clock,
    ownership: Ownership,
    namespace: String,
    flow: Flow,
    events: Events,
    queue: Queue,
    key: RevisionKey,
    kingresses: Cache<KIngress>,
    routes: Cache<Route>,
    revisions: Cache<Revision>,
    services: Cache<Service>,
    ingresses: Cache<Ingress>,
    settings: watch::Sender<Option<Network>>,
    /// What the load balancer was seen to do, once it is known what is written of that.
    capabilities: watch::Sender<Option<Capabilities>>,
    live: Live,
    gates: Option<(Keeper, Cache<ServerlessService>)>,
    servers: Option<Servers>,
    secret: Mutex<Option<(String, Timestamp)>>,
    gateways: Gateways,
    state: Mutex<State>,
}

/// `config-network`, as far as the load balancer goes.
#[derive(Clone, PartialEq, Debug)]
struct Network {
    settings: Settings,
    class: String,
    /// The ConfigMap itself, to speak of it.
    map: ObjectReference,
}

impl Network {
    /// Reads it; what is wrong with it otherwise.
    fn read(map: &ConfigMap) -> Result<Self, Vec<String>> {
        let data = map.data.clone().unwrap_or_default();
        let class = data.get("ingress-class").or_else(|| data.get("ingress.class")).cloned().unwrap_or_default();
        Ok(Self { settings: Settings::parse(&data)?, class, map: map.object_ref(&()) })
    }
}

#[derive(Default)]
struct State {
    /// Whether AlbConfigs are namespaced, once that is known.
    scope: Option<Scope>,
    /// What was told of each KIngress in which generation.
    told: BTreeSet<(RevisionKey, &'static str, i64)>,
    /// When Ebb's Ingresses were written, and what the load balancer's controller complained of last.
    written: HashMap<RevisionKey, Timestamp>,
    complaints: HashMap<RevisionKey, Complaint>,
    /// Classes of our names that somebody else made and that lead elsewhere.
    foreign_classes: BTreeSet<String>,
    /// Since when Ingresses are left of KIngresses that another class has now.
    left_behind: HashMap<RevisionKey, Timestamp>,
    /// Revisions for which no port is left.
    without_port: BTreeSet<RevisionKey>,
    /// How revisions are reached and why, as it was told last.
    chosen: Option<String>,
    /// Load balancers that nothing needs, as seen without a break by this process while it owned them.
    unneeded: BTreeMap<Side, Unneeded>,
    /// Those that are on their way out, and that are needed again only when they are gone.
    going: BTreeSet<Side>,
}

/// What the load balancer's controller says of an Ingress.
struct Complaint {
    at: Timestamp,
    text: String,
    /// The event that says so.
    event: RevisionKey,
}

impl Complaint {
    fn is_of_quota(&self) -> bool {
        self.text.to_ascii_lowercase().contains("quota")
    }
}

/// Why a look ended early.
#[derive(Debug, thiserror::Error)]
enum LookError {
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error(transparent)]
    Read(#[from] kube::Error),
    #[error(transparent)]
    Json(#[from] serde_json::Error),
}

impl Controller {
    /// A controller; [`Controller::run`] lets it work.
    pub fn new(setup: Setup, cancel: &CancellationToken) -> Arc<Self> {
        let Setup { client, clock, ownership, namespace, vips, gates } = setup;
        let flow = Flow::new(client, clock);
        let queue = Queue::new(clock);
        let key = RevisionKey::new(&namespace, "alb");
        let services = Cache::packed();
        let servers = gates.clone().map(|(keeper, owners)| {
            Servers::new(servers::Setup {
                flow: flow.clone(),
                clock,
                ownership: ownership.clone(),
                namespace: namespace.clone(),
                keeper,
                owners,
                services: services.clone(),
            })
        });
        let gateways = Gateways::new(flow.clone(), namespace.clone());
        if let Some((keeper, _)) = &gates {
            let (queue, key) = (queue.clone(), key.clone());
            keeper.on_owner(move || queue.add(key.clone(), Lane::Fast));
        }
        let live = {
            let (queue, key) = (queue.clone(), key.clone());
            Live::new(clock, vips, cancel.clone(), move || queue.add(key.clone(), Lane::Fast))
        };
        Arc::new(Self {
            clock,
            ownership,
            namespace,
            events: Events::new(flow.clone(), clock, "alb-controller"),
            flow,
            queue,
            key,
            kingresses: Cache::packed(),
            routes: Cache::packed(),
            revisions: Cache::packed(),
            services,
            ingresses: Cache::packed(),
            settings: watch::Sender::new(None),
            capabilities: watch::Sender::new(None),
            live,
            gates,
            servers,
            secret: Mutex::default(),
            gateways,
            state: Mutex::default(),
        })
    }

    /// Watches and works until `cancel`.
    pub async fn run(self: Arc<Self>, cancel: CancellationToken) {
        let tasks = TaskTracker::new();
        self.keep(&tasks, &self.kingresses, &cancel);
        self.keep(&tasks, &self.routes, &cancel);
        self.keep(&tasks, &self.revisions, &cancel);
        let servers = self.servers.clone();
        self.keep_telling(&tasks, &self.services, &cancel, move |key| {
            if let Some(servers) = &servers {
                servers.service_changed(key);
            }
        });
        self.keep(&tasks, &self.ingresses, &cancel);
        tasks.spawn(Arc::clone(&self).follow_settings(cancel.clone()));
        tasks.spawn(Arc::clone(&self).follow_capabilities(cancel.clone()));
        tasks.spawn(Arc::clone(&self).follow_complaints(cancel.clone()));
        tasks.spawn({
            let (queue, key) = (self.queue.clone(), self.key.clone());
            self.gateways.clone().follow(move || queue.add(key.clone(), Lane::Fast), cancel.clone())
        });
        if let Some((keeper, _)) = &self.gates {
            tasks.spawn(keeper.clone().run(cancel.clone()));
        }
        if let Some(servers) = &self.servers {
            let (queue, key) = (self.queue.clone(), self.key.clone());
            tasks.spawn(servers.clone().run(move || queue.add(key.clone(), Lane::Fast), cancel.clone()));
        }
        let synced = async {
            tokio::join!(
                self.kingresses.synced(),
                self.routes.synced(),
                self.revisions.synced(),
                self.services.synced(),
                self.ingresses.synced(),
                self.gateways.synced(),
                async {
                    let _ = self.settings.subscribe().wait_for(Option::is_some).await;
                    // Where that cannot be read, it is as if nobody had tried.
                    let mut seen = self.capabilities.subscribe();
                    if tokio::time::timeout(SEEN_WITHIN.to_std(), seen.wait_for(Option::is_some)).await.is_err() {
                        warn!(
                            map = capabilities::MAP,
                            "what a self-test has written cannot be read; as if there were none"
                        );
                    }
                }
            );
        };
        tokio::select! {
            () = cancel.cancelled() => {}
            () = synced => {
                self.queue.add(self.key.clone(), Lane::Fast);
                let this = Arc::clone(&self);
                let work = move |_| {
                    let this = Arc::clone(&this);
                    async move { this.look().await }
                };
                // A bucket that comes to this replica is noticed by looking.
                let nudge = {
                    let this = Arc::clone(&self);
                    let mut holder = this.ownership.watch(this.ownership.bucket_of(&this.key));
                    let cancel = cancel.clone();
                    async move {
                        loop {
                            this.queue.add(this.key.clone(), Lane::Slow);
                            tokio::select! {
                                () = cancel.cancelled() => return,
                                changed = holder.changed() => {
                                    if changed.is_err() {
                                        return cancel.cancelled().await;
                                    }
                                    this.lock().unneeded.clear();
                                }
                                () = tokio::time::sleep(AGAIN.to_std()) => {}
                            }
                        }
                    }
                };
                tokio::join!(self.queue.run(Workers::each(1), cancel.clone(), work), nudge);
            }
        }
        tasks.close();
        tasks.wait().await;
    }

    /// Keeps a cache of one kind, and looks again at whatever changes.
    fn keep<K>(self: &Arc<Self>, tasks: &TaskTracker, cache: &Cache<K>, cancel: &CancellationToken)
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + Debug
            + DeserializeOwned
            + Serialize
            + Send
            + Sync
            + 'static,
    {
        self.keep_telling(tasks, cache, cancel, |_| {});
    }

    fn keep_telling<K>(
        self: &Arc<Self>,
        tasks: &TaskTracker,
        cache: &Cache<K>,
        cancel: &CancellationToken,
        touched: impl Fn(&RevisionKey) + Send + 'static,
    ) where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + Debug
            + DeserializeOwned
            + Serialize
            + Send
            + Sync
            + 'static,
    {
        let api: Api<Guarded<K>> = Api::all(self.flow.client().clone());
        let (this, cache, cancel) = (Arc::clone(self), cache.clone(), cancel.clone());
        tasks.spawn(async move {
            follow(api, watcher::Config::default(), cancel, move |mut change| {
                if let Change::Put(_, object) = &mut change {
                    object.meta_mut().managed_fields = None;
                }
                if let Some((key, _)) = cache.take_in(change) {
                    touched(&key);
                }
                this.queue.add(this.key.clone(), Lane::Fast);
            })
            .await;
        });
    }

    async fn follow_settings(self: Arc<Self>, cancel: CancellationToken) {
        let api: Api<Guarded<ConfigMap>> = Api::namespaced(self.flow.client().clone(), &self.namespace);
        let config = watcher::Config::default().fields(&format!("metadata.name={NETWORK_MAP}"));
        let this = Arc::clone(&self);
        follow(api, config, cancel, move |change| {
            let Change::Put(_, map) = change else { return };
            this.take_settings(&map);
            this.queue.add(this.key.clone(), Lane::Fast);
        })
        .await;
    }

    fn take_settings(&self, map: &ConfigMap) {
        let unknown = map.data.as_ref().map(Settings::unknown).unwrap_or_default().join("; ");
        if !unknown.is_empty() {
            warn!(unknown, "config-network has keys for the load balancer that nobody reads");
            self.events.warn(map.object_ref(&()), "UnknownSetting", &unknown);
        }
        match Network::read(map) {
            Ok(network) => _ = self.settings.send_replace(Some(network)),
            Err(wrong) => {
                let wrong = wrong.join("; ");
                warn!(wrong, "config-network cannot be used for the load balancer; what was in force stays");
                self.events.warn(map.object_ref(&()), "InvalidConfiguration", &wrong);
            }
        }
    }

    /// What a self-test has written of the load balancer.
    async fn follow_capabilities(self: Arc<Self>, cancel: CancellationToken) {
        let api: Api<Guarded<ConfigMap>> = Api::namespaced(self.flow.client().clone(), &self.namespace);
        let config = watcher::Config::default().fields(&format!("metadata.name={}", capabilities::MAP));
        let this = Arc::clone(&self);
        follow(api, config, cancel, move |change| {
            let seen = match change {
                Change::Put(_, map) => Capabilities::read(&map.data.unwrap_or_default()),
                Change::Gone(_) => Capabilities::default(),
                Change::Synced if this.capabilities.borrow().is_none() => Capabilities::default(),
                Change::Synced => return,
            };
            this.capabilities.send_replace(Some(seen));
            this.queue.add(this.key.clone(), Lane::Fast);
        })
        .await;
    }

    /// What the load balancer's controller says of Ingresses.
    async fn follow_complaints(self: Arc<Self>, cancel: CancellationToken) {
        let api: Api<Guarded<Event>> = Api::all(self.flow.client().clone());
        let config = watcher::Config::default().fields("involvedObject.kind=Ingress,type=Warning");
        let this = Arc::clone(&self);
        follow(api, config, cancel, move |change| {
            let (key, event) = match change {
                Change::Put(key, event) => (key, event),
                // Forgotten by the API server, an hour after it was said last.
                Change::Gone(key) => {
                    this.lock().complaints.retain(|_, complaint| complaint.event != key);
                    return this.queue.add(this.key.clone(), Lane::Fast);
                }
                Change::Synced => return,
            };
            let about = &event.involved_object;
            if !about.api_version.as_deref().unwrap_or_default().starts_with("networking.k8s.io/") {
                return;
            }
            let (Some(namespace), Some(name)) = (&about.namespace, &about.name) else { return };
            let at = event.last_timestamp.as_ref().or(event.first_timestamp.as_ref());
            let Some(at) = at.map(|at| from_jiff(at.0)) else { return };
            let text =
                format!("{}: {}", event.reason.clone().unwrap_or_default(), event.message.clone().unwrap_or_default());
            let about = RevisionKey::new(namespace, name);
            let mut state = this.lock();
            if state.complaints.get(&about).is_none_or(|known| known.at <= at) {
                state.complaints.insert(about, Complaint { at, text, event: key });
            }
            drop(state);
            this.queue.add(this.key.clone(), Lane::Fast);
        })
        .await;
    }

    async fn look(&self) -> Turn {
        match self.plan_and_apply().await {
            Ok(turn) => turn,
            Err(error) => {
                warn!(%error, "the load balancers' objects could not be written; tried again");
                let away = matches!(&error, LookError::Write(error) if error.is_unavailable());
                if away { Turn::Unavailable } else { Turn::Retry }
            }
        }
    }

    async fn plan_and_apply(&self) -> Result<Turn, LookError> {
        let Some(Network { mut settings, class, .. }) = self.settings.borrow().clone() else { return Ok(Turn::Done) };
        settings.gateways = self.gateways.any();
        // Whether they are installed, and not whether they are ready: that comes and goes.
        let activators = self.services.get(&RevisionKey::new(&self.namespace, GATEWAY_SERVICE)).is_some();
        let seen = self.capabilities.borrow().clone().unwrap_or_default();
        let chosen = seen.settle(&mut settings, activators);
        let owned = |list: Vec<Arc<KIngress>>| list.into_iter().map(Arc::unwrap_or_clone).collect::<Vec<_>>();
        let (ours, others): (Vec<KIngress>, Vec<KIngress>) = owned(self.kingresses.select(|_, _| true))
            .into_iter()
            .filter(|one| one.metadata.deletion_timestamp.is_none())
            .partition(|one| is_of_class(one, &class));
        let existing: Vec<Ingress> = self.ingresses.select(|_, _| true).into_iter().map(Arc::unwrap_or_clone).collect();
        let routes: Vec<Route> = self.routes.select(|_, _| true).into_iter().map(Arc::unwrap_or_clone).collect();
        let revisions: Vec<Revision> =
            self.revisions.select(|_, _| true).into_iter().map(Arc::unwrap_or_clone).collect();
        let services: Vec<Service> = self.services.select(|_, _| true).into_iter().map(Arc::unwrap_or_clone).collect();
        if let Some((keeper, _)) = &self.gates {
            keeper.name(named(&ours, &others, &existing));
            let class = |one: &KIngress| one.annotations().get(INGRESS_CLASS_ANNOTATION).unwrap_or(&class).clone();
            keeper.count_kingresses(ours.iter().chain(&others).map(|one| Gateway::of(&class(one))));
        }
        self.forget_what_is_gone(&ours, &existing);
        if ours.is_empty() && !existing.iter().any(plan::is_made_here) {
            if let Some((keeper, _)) = &self.gates {
                keeper.take(Routes { mode: settings.mode, ..Routes::default() });
            }
            let tidy = async {
                self.keep_finalizers(&class, &existing, &settings).await?;
                self.remove_unneeded(&Plan::default(), &ours, &existing, &settings).await?;
                Ok(Turn::Done)
            };
            return self.ownership.act(&self.key, tidy).await.unwrap_or(Ok(Turn::Done));
        }
        let mut balancers = self.balancers(&settings).await?;
        let going = plan::going(balancers.as_deref().unwrap_or_default(), &existing, &settings);
        if let Some(known) = &mut balancers {
            known.retain(|known| !going.iter().any(|side| settings.balancer(*side) == known.name_any()));
        }
        let claims = self.claims().await?;
        let (modes, changing) = self.modes(&settings);
        let by_port = settings.mode == Mode::Port || modes.values().any(|mode| *mode == Mode::Port);
        let secret = if by_port { self.secret().await? } else { None };
        let context = Context {
            modes: &modes,
            selectors: secret.as_deref().map_or(Selectors::Off, Selectors::Rules),
            balancers: &[],
            ingresses: &ours,
            others: &others,
            routes: &routes,
            services: &services,
            revisions: &revisions,
            claims: &claims,
            settings: &settings,
        };
        let known = balancers.as_deref().unwrap_or_default();
        let quotas = self.quotas(&existing, &settings);
        let there = Existing { ingresses: &existing, balancers: known, quotas: Some(&quotas) };
        let mut plan = plan::plan(&context, &there);
        if plan.outcomes.iter().flat_map(|outcome| &outcome.parts).any(|(_, part)| going.contains(&part.side)) {
            self.queue.add_after(self.key.clone(), SOON);
        }
        self.lock().going = going;
        let classes = self.classes(&plan).await?;
        plan.stale.extend(self.left_behind(&others, &existing, &plan));
        let missing = missing(&plan, &services);
        let fresh = self.fresh(&plan);
        let mut unready = self.unready(&fresh, &changing);
        let progress: Vec<Progress> = plan
            .outcomes
            .iter()
            .map(|outcome| self.progress(outcome, &plan, (&missing, &unready), &settings, known, balancers.is_none()))
            .collect();
        self.part_with_what_has_moved(&mut plan, &progress);
        self.tell_data_plane(chosen.clone());
        // Before anything is written: from here on the gates know of the rules.
        self.tell_gates(&plan, &ours, &existing, &progress, (&settings, chosen), known);
        // What was on record before may have been taken back up to now, and from now on it is not.
        for (ingress, services) in self.unready(&fresh, &changing) {
            unready.entry(ingress).or_default().extend(services);
        }
        let generations: HashMap<RevisionKey, Option<i64>> = ours
            .iter()
            .map(|one| {
                (RevisionKey::new(&one.namespace().unwrap_or_default(), &one.name_any()), one.metadata.generation)
            })
            .collect();
        let there = (existing.as_slice(), balancers.as_deref(), classes.as_slice());
        let write = async {
            // First, so that nothing is published that would not be cleaned up.
            let kept = self.keep_finalizers(&class, &existing, &settings).await;
            let written = self.write(&plan, &generations, there, (&missing, &unready), &settings).await;
            let removed = self.remove_unneeded(&plan, &ours, &existing, &settings).await;
            kept?;
            removed.and(written)
        };
        // Of another's load balancers nothing is written.
        self.ownership.act(&self.key, write).await.unwrap_or(Ok(Turn::Done))
    }

    async fn write(
        &self,
        plan: &Plan,
        generations: &HashMap<RevisionKey, Option<i64>>,
        (existing, balancers, classes): (&[Ingress], Option<&[AlbConfig]>, &[IngressClass]),
        absent: (&Absent, &Absent),
        settings: &Settings,
    ) -> Result<Turn, LookError> {
        let known = balancers.unwrap_or_default();
        let mut unwritten = None;
        if let Err(error) = self.make_services(plan, settings).await {
            unwritten = Some(error.into());
        }
        for outcome in plan.outcomes.iter().filter(|outcome| !outcome.delegated.is_empty()) {
            let key = RevisionKey::new(&outcome.namespace, &outcome.name);
            let Some(kingress) = self.kingresses.get(&key) else { continue };
            let is_there = |key: &RevisionKey| self.services.get(key).is_some();
            match self.gateways.make(&kingress, &outcome.delegated, settings.eni, is_there).await {
                Ok(true) => {}
                Ok(false) => self.queue.add_after(self.key.clone(), GATEWAYS_AGAIN),
                Err(error) => unwritten = Some(LookError::from(error)),
            }
        }
        if let Err(error) = self.apply(plan, (existing, balancers, classes), absent).await {
            unwritten = Some(error);
        }
        let mut turn = Turn::Done;
        for outcome in &plan.outcomes {
            let key = RevisionKey::new(&outcome.namespace, &outcome.name);
            let Some(kingress) = self.kingresses.get(&key) else { continue };
            // What is known is known of the version that was planned; a newer one is looked at next.
            if generations.get(&key) != Some(&kingress.metadata.generation) {
                continue;
            }
            let progress = self.progress(outcome, plan, absent, settings, known, balancers.is_none());
            self.tell(&key, &kingress, outcome);
            let is_left = |one: &Leaving| one.namespace == outcome.namespace && one.kingress == outcome.name;
            let moves = plan.leaving.iter().any(is_left);
            let written = self.write_status(&key, &kingress, outcome, (&progress, moves), settings, known);
            if let Err(error) = written.await {
                if !error.is_not_found() && !error.is_conflict() {
                    warn!(%error, ingress = %key, "status not written; tried again");
                }
                turn = Turn::Retry;
            }
            if let Err(error) = self.remove_splits(outcome, &kingress).await {
                unwritten = Some(error.into());
            }
        }
        unwritten.map_or(Ok(turn), Err)
    }

    /// Removes the Services of splits that activators did, once each address was seen to have the rules without them.
    async fn remove_splits(&self, outcome: &Outcome, kingress: &KIngress) -> Result<(), WriteError> {
        let key = RevisionKey::new(&outcome.namespace, &outcome.name);
        if outcome.refused.is_some() || !self.live.is_proven(&key) {
            return Ok(());
        }
        let is_left = |service: &Service| {
            let owners = service.metadata.owner_references.iter().flatten();
            plan::is_labelled(&service.metadata)
                && owners.into_iter().any(|owner| Some(&owner.uid) == kingress.metadata.uid.as_ref())
                && !outcome.delegated.contains_key(&service.name_any())
        };
        let left = self.services.select(|service, object| service.namespace() == key.namespace() && is_left(object));
        let mut failed = None;
        for service in left {
            let name = service.name_any();
            let named = self.ingresses.select(|ingress, object| {
                let rules = plan::rules_of(object);
                ingress.namespace() == key.namespace()
                    && rules.iter().flat_map(groups_of_rule).any(|group| group.service_name == name)
            });
            if named.is_empty() {
                failed = self.gateways.remove(&RevisionKey::new(key.namespace(), &name)).await.err().or(failed);
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// The load balancers there are; nothing where the kind is not known.
    async fn balancers(&self, settings: &Settings) -> Result<Option<Vec<AlbConfig>>, kube::Error> {
        let Some(api) = self.balancer_api().await? else { return Ok(None) };
        let mut found: Vec<AlbConfig> = Vec::new();
        let names: BTreeSet<String> =
            [Side::Internet, Side::Intranet].into_iter().map(|side| settings.balancer(side)).collect();
        for name in names {
            let object = api.get_opt(&name).await?;
            match object.map(DynamicObject::try_parse) {
                Some(Ok(object)) => found.push(object),
                Some(Err(error)) => warn!(%error, name, "AlbConfig cannot be understood"),
                None => {}
            }
        }
        Ok(Some(found))
    }

    async fn balancer_api(&self) -> Result<Option<Api<DynamicObject>>, kube::Error> {
        let client = self.flow.client().clone();
        let resource = ApiResource::erase::<AlbConfig>(&());
        let known = self.lock().scope.clone();
        let scope = if let Some(scope) = known {
            scope
        } else {
            let kind = GroupVersionKind::gvk(&resource.group, &resource.version, &resource.kind);
            match kube::discovery::pinned_kind(&client, &kind).await {
                Ok((_, capabilities)) => {
                    self.lock().scope = Some(capabilities.scope.clone());
                    capabilities.scope
                }
                Err(kube::Error::Discovery(_)) => return Ok(None),
                Err(kube::Error::Api(status)) if status.code == 404 => return Ok(None),
                Err(error) => return Err(error),
            }
        };
        Ok(Some(match scope {
            Scope::Cluster => Api::all_with(client, &resource),
            Scope::Namespaced => Api::namespaced_with(client, OLD_NAMESPACE, &resource),
        }))
    }

    async fn claims(&self) -> Result<BTreeMap<String, String>, kube::Error> {
        let resource = ApiResource {
            group: "networking.internal.knative.dev".to_owned(),
            version: "v1alpha1".to_owned(),
            api_version: "networking.internal.knative.dev/v1alpha1".to_owned(),
            kind: "ClusterDomainClaim".to_owned(),
            plural: "clusterdomainclaims".to_owned(),
        };
        let api: Api<DynamicObject> = Api::all_with(self.flow.client().clone(), &resource);
        let list = match api.list(&ListParams::default()).await {
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(BTreeMap::new()),
            list => list?,
        };
        let claim = |object: DynamicObject| {
            Some((object.name_any(), object.data.pointer("/spec/namespace")?.as_str()?.to_owned()))
        };
        Ok(list.items.into_iter().filter_map(claim).collect())
    }

    /// Makes stale what a KIngress has left behind on another load balancer: it is served at the new one, its status has said
    /// so for a while, and nothing has changed since.
    fn part_with_what_has_moved(&self, plan: &mut Plan, progress: &[Progress]) {
        let now = self.clock.now();
        let served: HashMap<RevisionKey, Timestamp> = plan
            .outcomes
            .iter()
            .zip(progress)
            .filter(|(_, progress)| **progress == Progress::Ready)
            .filter_map(|(outcome, _)| {
                let key = RevisionKey::new(&outcome.namespace, &outcome.name);
                let kingress = self.kingresses.get(&key)?;
                let status = kingress
                    .status
                    .as_ref()
                    .filter(|status| Some(status.observed_generation) == kingress.metadata.generation)?;
                let ready = find(&status.conditions, READY).filter(|ready| ready.status == Status::True)?;
                Some((key, ready.last_transition_time.map_or(now, from_jiff)))
            })
            .collect();
        let is_over = |Leaving { namespace, kingress, .. }: &Leaving| {
            let Some(since) = served.get(&RevisionKey::new(namespace, kingress)) else { return false };
            let until = *since + STAYS_AFTER_MOVE;
            if now < until {
                self.queue.add_after(self.key.clone(), until.since(now));
            }
            until <= now
        };
        let over: Vec<Leaving>;
        (over, plan.leaving) = std::mem::take(&mut plan.leaving).into_iter().partition(is_over);
        plan.stale.extend(over.into_iter().map(|Leaving { namespace, name, .. }| (namespace, name)));
    }

    /// Ingresses of KIngresses that another class has had for long enough. Whoever that is was not seen to serve them.
    fn left_behind(&self, others: &[KIngress], existing: &[Ingress], plan: &Plan) -> Vec<(String, String)> {
        let now = self.clock.now();
        let present: Vec<(String, String)> =
            plan::owned_by(others, existing).into_iter().filter(|one| !plan.stale.contains(one)).collect();
        let mut state = self.lock();
        let key = |(namespace, name): &(String, String)| RevisionKey::new(namespace, name);
        let keys: BTreeSet<RevisionKey> = present.iter().map(key).collect();
        state.left_behind.retain(|known, _| keys.contains(known));
        present
            .into_iter()
            .filter(|one| {
                let since = *state.left_behind.entry(key(one)).or_insert(now);
                let until = since + LEFT_BEHIND;
                if now < until {
                    self.queue.add_after(self.key.clone(), until.since(now));
                }
                until <= now
            })
            .collect()
    }

    /// The revisions that are reached in another way than the settings say: since there is no port left, or because they
    /// have not changed over yet, which are told apart too.
    fn modes(&self, settings: &Settings) -> (BTreeMap<RevisionKey, Mode>, BTreeSet<RevisionKey>) {
        let (mut modes, mut changing) = (BTreeMap::new(), BTreeSet::new());
        let Some((_, owners)) = &self.gates else { return (modes, changing) };
        for sks in owners.select(|_, sks| mode_of(sks.metadata.annotations.as_ref()).is_some()) {
            let key = RevisionKey::new(&sks.namespace().unwrap_or_default(), &sks.name_any());
            if let Some(mode) = mode_of(sks.metadata.annotations.as_ref()).filter(|mode| *mode != settings.mode) {
                changing.insert(key.clone());
                modes.insert(key, mode);
            }
        }
        if settings.mode == Mode::Port {
            modes.extend(self.lock().without_port.iter().map(|key| (key.clone(), Mode::Hold)));
        }
        (modes, changing)
    }

    /// Makes the Services of revisions that are reached by a port.
    async fn make_services(&self, plan: &Plan, settings: &Settings) -> Result<(), WriteError> {
        let Some(servers) = &self.servers else { return Ok(()) };
        let mut wanted = BTreeSet::new();
        for outcome in &plan.outcomes {
            let services = outcome.parts.iter().flat_map(|(_, part)| services_of(part));
            let ours = services.filter_map(|service| service.strip_suffix("-alb"));
            let revisions = ours.filter(|revision| outcome.routed.contains(*revision));
            wanted.extend(revisions.map(|revision| RevisionKey::new(&outcome.namespace, revision)));
        }
        if settings.mode == Mode::Port {
            // Before a revision changes over there must be somewhere to change to.
            let routed = plan.outcomes.iter().flat_map(|outcome| {
                outcome.routed.iter().map(|revision| RevisionKey::new(&outcome.namespace, revision))
            });
            wanted.extend(routed);
        }
        let (exhausted, failed) = servers.make(&wanted, settings.request_timeout, settings.eni).await?;
        let fresh: Vec<RevisionKey> = {
            let mut state = self.lock();
            let fresh = exhausted.difference(&state.without_port).cloned().collect();
            state.without_port = exhausted;
            fresh
        };
        for key in &fresh {
            let note =
                "no port is left for it, so it keeps a pod; ports of revisions that are gone are free after a day";
            warn!(revision = %key, note, "no port for a revision");
            if let Some(revision) = self.revisions.get(key) {
                self.events.warn(revision.object_ref(&()), "ActivationPortsExhausted", note);
            }
        }
        if !fresh.is_empty() {
            self.queue.add(self.key.clone(), Lane::Fast);
        }
        failed.map_or(Ok(()), Err)
    }

    /// What the rules that select members of splits ask for: random, and another each day. Whoever owns the load balancer
    /// makes it; it is written down, so that all replicas plan the same.
    async fn secret(&self) -> Result<Option<String>, LookError> {
        if self.gates.is_none() {
            return Ok(None);
        }
        let now = self.clock.now();
        let known = self.secret.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((secret, read)) = known
            && now.since(read) < AGAIN
        {
            return Ok(Some(secret));
        }
        let maps: Api<ConfigMap> = Api::namespaced(self.flow.client().clone(), &self.namespace);
        let found = maps.get_opt(port::BOOK).await?;
        let written = found.as_ref().and_then(|map| map.data.as_ref()?.get(SECRET)?.split_once(' '));
        let good = written.filter(|(_, at)| at.parse().is_ok_and(|at| now.since(from_jiff(at)) < SECRET_LASTS));
        let mut secret = good.map(|(secret, _)| secret.to_owned());
        if secret.is_none() {
            let fresh = digest(&rand::random::<[u8; 16]>(), 16);
            let mut map = found.clone().unwrap_or_default();
            map.metadata.name = Some(port::BOOK.to_owned());
            map.data.get_or_insert_default().insert(SECRET.to_owned(), format!("{fresh} {}", to_jiff(now)));
            let (params, maps, map) = (PostParams::default(), &maps, &map);
            let is_new = found.is_none();
            let write = self.flow.write(Urgency::Routing, || async {
                if is_new { maps.create(&params, map).await } else { maps.replace(port::BOOK, &params, map).await }
            });
            match self.ownership.act(&self.key, write).await {
                Some(written) => secret = written.map(|_| Some(fresh))?,
                // Another makes it; until then what there was.
                None => secret = written.map(|(secret, _)| secret.to_owned()),
            }
        }
        *self.secret.lock().unwrap_or_else(PoisonError::into_inner) = secret.clone().map(|secret| (secret, now));
        Ok(secret)
    }

    /// Tells the gates which rules lead to their revisions: those that are planned, and those of a KIngress that is refused,
    /// which stay in force.
    fn tell_gates(
        &self,
        plan: &Plan,
        ours: &[KIngress],
        existing: &[Ingress],
        progress: &[Progress],
        (settings, chosen): (&Settings, Option<String>),
        balancers: &[AlbConfig],
    ) {
        let Some((keeper, _)) = &self.gates else { return };
        let modes = self.lock().without_port.iter().map(|key| (key.clone(), Mode::Hold)).collect();
        let mut routes = Routes { mode: settings.mode, modes, chosen, ..Routes::default() };
        for (outcome, progress) in plan.outcomes.iter().zip(progress) {
            let key = RevisionKey::new(&outcome.namespace, &outcome.name);
            let revision = |name: &String| RevisionKey::new(&outcome.namespace, name);
            routes.pinned.extend(outcome.pinned.iter().map(revision));
            let kingress = ours.iter().find(|one| {
                one.metadata.name.as_ref() == Some(&outcome.name)
                    && one.metadata.namespace.as_ref() == Some(&outcome.namespace)
            });
            let present = kingress.map(|kingress| plan::present(existing, kingress)).unwrap_or_default();
            let ways = |parts: &[(String, Part)]| self.ways(&outcome.namespace, parts, settings, balancers);
            let before = ways(&present);
            let published = if outcome.refused.is_some() {
                // A private Service is empty at zero, also behind a rule that was published before.
                let services = present.iter().flat_map(|(_, part)| services_of(part));
                let private = services.filter_map(|service| service.strip_suffix("-private"));
                routes.pinned.extend(private.map(|name| RevisionKey::new(&outcome.namespace, name)));
                Published { key, ways: before, before: Vec::new(), live: false, askable: true, written: true }
            } else {
                let leaves = |name: &String| {
                    let is = |one: &Leaving| one.namespace == outcome.namespace && one.name == *name;
                    plan.leaving.iter().any(is)
                };
                let leaving: Vec<_> = present.iter().filter(|(name, _)| leaves(name)).cloned().collect();
                let live = *progress == Progress::Ready;
                let proven = live && self.live.is_proven(&key);
                Published {
                    ways: ways(&outcome.parts).into_iter().chain(ways(&leaving)).collect(),
                    before,
                    live: proven,
                    askable: settings.probe != Probe::None && (proven || !live),
                    written: !matches!(
                        progress,
                        Progress::WaitingForServices(_) | Progress::WaitingForServers(_) | Progress::Refused(_)
                    ),
                    key,
                }
            };
            routes.kingresses.push(published);
        }
        keeper.take(routes);
    }

    fn ways(
        &self,
        namespace: &str,
        parts: &[(String, Part)],
        settings: &Settings,
        balancers: &[AlbConfig],
    ) -> Vec<Way> {
        let way = |(name, part): &(String, Part), secure| Way {
            ingress: name.clone(),
            balancer: self
                .name_of(namespace, name, part.side, settings, balancers)
                .map(|name| settings.asked_at(part.side, name)),
            secure,
            grpc: part.grpc,
            rules: part.rules.clone(),
        };
        parts.iter().flat_map(|part| part.1.listeners().map(move |secure| way(part, secure))).collect()
    }

    /// The Services each planned Ingress is to lead to for the first time, and of which KIngress it is.
    fn fresh(&self, plan: &Plan) -> Fresh {
        let mut fresh = Fresh::new();
        for outcome in &plan.outcomes {
            for (name, part) in &outcome.parts {
                let key = RevisionKey::new(&outcome.namespace, name);
                let live: BTreeSet<String> = self.ingresses.get(&key).map_or_else(BTreeSet::new, |live| {
                    let rules = plan::rules_of(&live);
                    rules.iter().flat_map(groups_of_rule).map(|group| group.service_name.clone()).collect()
                });
                let new: BTreeSet<String> =
                    services_of(part).filter(|service| !live.contains(*service)).cloned().collect();
                if !new.is_empty() {
                    fresh.insert(key, (outcome.name.clone(), new));
                }
            }
        }
        fresh
    }

    /// Those of them that are not ready for it: without servers, with others than activators where pods may be gone, or of a
    /// revision whose owner does not know of the route yet and might let its last pod go. `changing` is awaited besides.
    fn unready(&self, fresh: &Fresh, changing: &BTreeSet<RevisionKey>) -> Absent {
        let Some((keeper, owners)) = &self.gates else { return Absent::new() };
        let (mut awaited, mut open) = (changing.clone(), BTreeSet::new());
        let mut services: BTreeMap<RevisionKey, bool> = BTreeMap::new();
        for (key, (kingress, new)) in fresh {
            for service in new {
                let full = RevisionKey::new(key.namespace(), service);
                let revision = RevisionKey::new(key.namespace(), revision_of_service(service));
                let ours = owners.get(&revision).filter(|sks| keeper.scales(sks));
                let on_record = ours.as_ref().and_then(|sks| sks.metadata.annotations.as_ref());
                if ours.is_some() && !knows_route(on_record, kingress) {
                    awaited.insert(revision);
                    open.insert((key, service));
                }
                services.insert(full, rests(on_record));
            }
        }
        let unfit = self.servers.as_ref().map(|servers| servers.unfit(&services)).unwrap_or_default();
        keeper.await_owners(awaited);
        let mut unready = Absent::new();
        for (key, (_, new)) in fresh {
            let is_open = |service: &&String| {
                open.contains(&(key, *service)) || unfit.contains(&RevisionKey::new(key.namespace(), service))
            };
            let services: BTreeSet<String> = new.iter().filter(is_open).cloned().collect();
            if !services.is_empty() {
                unready.insert(key.clone(), services);
            }
        }
        unready
    }

    /// Writes what differs. What cannot be written keeps nothing else from being written; the last failure is told.
    async fn apply(
        &self,
        plan: &Plan,
        (existing, balancers, classes): (&[Ingress], Option<&[AlbConfig]>, &[IngressClass]),
        absent: (&Absent, &Absent),
    ) -> Result<(), LookError> {
        let mut blocked: BTreeSet<String> = self.lock().going.iter().map(|side| side.class_name()).collect();
        let mut outcome = self.apply_balancers(plan, balancers, classes).await;
        blocked.extend(self.lock().foreign_classes.iter().cloned());
        for object in &plan.ingresses {
            let key = RevisionKey::new(&object.namespace().unwrap_or_default(), &object.name_any());
            let class = object.spec.as_ref().and_then(|spec| spec.ingress_class_name.as_ref());
            let is_blocked = class.is_some_and(|class| blocked.contains(class));
            if is_blocked || absent.0.contains_key(&key) || absent.1.contains_key(&key) {
                continue;
            }
            if let Err(error) = self.apply_ingress(&key, object, existing).await {
                warn!(%error, ingress = %key, "not written for the load balancer");
                outcome = Err(error);
            }
        }
        // Where something of a KIngress is not published yet, what there is may be all that serves it.
        let is_withheld = |key: RevisionKey| absent.0.contains_key(&key) || absent.1.contains_key(&key);
        let withheld: BTreeSet<(&str, &str)> = plan
            .outcomes
            .iter()
            .filter(|outcome| {
                outcome.parts.iter().any(|(name, _)| is_withheld(RevisionKey::new(&outcome.namespace, name)))
            })
            .map(|outcome| (outcome.namespace.as_str(), outcome.name.as_str()))
            .collect();
        for (namespace, name) in &plan.stale {
            let object = existing.iter().find(|object| {
                object.metadata.name.as_ref() == Some(name) && object.metadata.namespace.as_ref() == Some(namespace)
            });
            if object.and_then(plan::made_for).is_some_and(|owner| withheld.contains(&(namespace.as_str(), owner))) {
                continue;
            }
            let api: Api<Ingress> = Api::namespaced(self.flow.client().clone(), namespace);
            let deleted = self
                .flow
                .write(Urgency::Routing, || async { api.delete(name, &DeleteParams::background()).await.map(drop) });
            match deleted.await {
                Err(error) if !error.is_not_found() => outcome = Err(error.into()),
                _ => info!(namespace, name, "taken from the load balancer"),
            }
        }
        outcome
    }

    async fn apply_balancers(
        &self,
        plan: &Plan,
        balancers: Option<&[AlbConfig]>,
        classes: &[IngressClass],
    ) -> Result<(), LookError> {
        let going = self.lock().going.clone();
        let leads_there =
            |class: &IngressClass| going.iter().any(|side| class.metadata.name.as_ref() == Some(&side.class_name()));
        let names: BTreeSet<&str> =
            plan.classes.iter().filter(|class| leads_there(class)).filter_map(plan::leads_to).collect();
        if let (Some(known), Some(api)) = (balancers, self.balancer_api().await?) {
            for balancer in plan.balancers.iter().filter(|balancer| !names.contains(balancer.name_any().as_str())) {
                let planned = serde_json::to_value(balancer)?;
                let live = known.iter().find(|live| live.metadata.name == balancer.metadata.name);
                if live.map(serde_json::to_value).transpose()?.is_some_and(|live| is_applied(&live, &planned)) {
                    continue;
                }
                // Not forced: what a user set on a load balancer is theirs.
                match self.put(&api, &balancer.name_any(), &planned, false).await {
                    Err(error) if error.is_conflict() => {
                        let note = format!("somebody else set what config-network says: {error}");
                        warn!(balancer = balancer.name_any(), note, "AlbConfig not written");
                        self.events.warn(balancer.object_ref(&()), "AlbConfigConflict", &note);
                    }
                    written => _ = written?,
                }
            }
        }
        let api: Api<IngressClass> = Api::all(self.flow.client().clone());
        for class in plan.classes.iter().filter(|class| !leads_there(class)) {
            let (name, planned) = (class.name_any(), serde_json::to_value(class)?);
            let live = classes.iter().find(|live| live.name_any() == name);
            // What somebody else made is used as it is, or not at all.
            if live.is_some_and(|live| !plan::is_labelled(&live.metadata)) {
                continue;
            }
            if live.map(serde_json::to_value).transpose()?.is_some_and(|live| is_applied(&live, &planned)) {
                continue;
            }
            self.put(&api, &name, &planned, live.is_some()).await?;
        }
        Ok(())
    }

    /// The classes there are of those that are planned. Which of them are somebody else's and lead elsewhere is noted, and
    /// told once.
    async fn classes(&self, plan: &Plan) -> Result<Vec<IngressClass>, kube::Error> {
        let api: Api<IngressClass> = Api::all(self.flow.client().clone());
        let (mut found, mut foreign) = (Vec::new(), BTreeSet::new());
        for class in &plan.classes {
            let Some(live) = api.get_opt(&class.name_any()).await? else { continue };
            if live.metadata.deletion_timestamp.is_some() {
                // It is made anew once it is gone, of which nobody tells.
                self.queue.add_after(self.key.clone(), SOON);
            }
            if !plan::is_labelled(&live.metadata) && !plan::leads_alike(&live, class) {
                foreign.insert(class.name_any());
            }
            found.push(live);
        }
        let fresh: Vec<String> = {
            let mut state = self.lock();
            let fresh = foreign.difference(&state.foreign_classes).cloned().collect();
            state.foreign_classes = foreign;
            fresh
        };
        for class in found.iter().filter(|class| fresh.contains(&class.name_any())) {
            let note = "Ebb did not make it, and it leads to another load balancer; nothing is published by it";
            warn!(class = class.name_any(), note, "IngressClass not taken over");
            self.events.warn(class.object_ref(&()), "NotOwned", note);
        }
        Ok(found)
    }

    /// Rules that load balancers took no more than: as many as those have that nothing is complained of, where the cloud says
    /// that there is no room.
    fn quotas(&self, existing: &[Ingress], settings: &Settings) -> BTreeMap<String, usize> {
        let state = self.lock();
        let complains = |object: &&Ingress| {
            let key = RevisionKey::new(&object.namespace().unwrap_or_default(), &object.name_any());
            let complaint = state.complaints.get(&key).filter(|complaint| complaint.is_of_quota());
            // What was said before the present version was written is not about it.
            complaint.is_some_and(|complaint| state.written.get(&key).is_none_or(|written| *written <= complaint.at))
        };
        let ours = || existing.iter().filter(|object| plan::is_made_here(object));
        let full: BTreeSet<String> =
            ours().filter(complains).filter_map(|object| plan::balancer_of(object, settings)).collect();
        let mut held = plan::rules_held(ours().filter(|object| !complains(object)), settings);
        held.retain(|balancer, _| full.contains(balancer));
        held
    }

    /// Forgets what is known of KIngresses and Ingresses that are gone, and of Ingresses of others.
    fn forget_what_is_gone(&self, ours: &[KIngress], existing: &[Ingress]) {
        let key = |meta: &ObjectMeta| {
            RevisionKey::new(meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default())
        };
        let kingresses: BTreeSet<RevisionKey> = ours.iter().map(|one| key(&one.metadata)).collect();
        self.live.keep(&kingresses);
        let made = existing.iter().filter(|object| plan::is_made_here(object));
        let made: BTreeSet<RevisionKey> = made.map(|object| key(&object.metadata)).collect();
        let mut state = self.lock();
        state.written.retain(|key, _| made.contains(key));
        state.complaints.retain(|key, _| made.contains(key));
        state.told.retain(|(key, ..)| kingresses.contains(key));
    }

    async fn apply_ingress(&self, key: &RevisionKey, object: &Ingress, existing: &[Ingress]) -> Result<(), LookError> {
        let planned = serde_json::to_value(object)?;
        let same =
            |live: &&Ingress| live.metadata.name == object.metadata.name && live.namespace() == object.namespace();
        let live = existing.iter().find(same);
        if live.is_some_and(|live| live.metadata.deletion_timestamp.is_some()) {
            // It is made anew once it is gone, of which the watch tells.
            return Ok(());
        }
        if live.map(serde_json::to_value).transpose()?.is_some_and(|live| is_applied(&live, &planned)) {
            return Ok(());
        }
        // The answer for hosts nobody serves has no KIngress to be told of; those of KIngresses were refused before.
        if live.is_some_and(|live| !plan::is_made_here(live)) {
            warn!(ingress = %key, "there is an Ingress of this name that Ebb did not make; it is left alone");
            return Ok(());
        }
        let api: Api<Ingress> = Api::namespaced(self.flow.client().clone(), key.namespace());
        // One that is not known here may be somebody else's, made a moment ago; then there is a conflict, and it is refused.
        let written = self.put(&api, key.name(), &planned, live.is_some()).await?;
        info!(ingress = %key, "written for the load balancer");
        self.lock().written.insert(key.clone(), self.clock.now());
        self.ingresses.note_written(key, written);
        Ok(())
    }

    async fn put<K>(&self, api: &Api<K>, name: &str, planned: &Value, force: bool) -> Result<K, WriteError>
    where
        K: Clone + Debug + DeserializeOwned,
    {
        let params = PatchParams { force, ..PatchParams::apply(FIELD_MANAGER) };
        self.flow.write(Urgency::Routing, || async { api.patch(name, &params, &Patch::Apply(planned)).await }).await
    }

    fn progress(
        &self,
        outcome: &Outcome,
        plan: &Plan,
        (missing, unready): (&Absent, &Absent),
        settings: &Settings,
        balancers: &[AlbConfig],
        unknown_kind: bool,
    ) -> Progress {
        let key = RevisionKey::new(&outcome.namespace, &outcome.name);
        if let Some(refused) = &outcome.refused {
            return Progress::Refused(refused.clone());
        }
        let foreign = self.lock().foreign_classes.clone();
        if let Some(class) =
            outcome.parts.iter().map(|(_, part)| part.side.class_name()).find(|it| foreign.contains(it))
        {
            let message = format!(
                "the IngressClass {class} was not made by Ebb and leads to another load balancer; remove it, or name that \
                 load balancer with albconfig"
            );
            return Progress::Refused(Remark::new("NotOwned", message));
        }
        // All of its names are at the gateway in the cluster.
        if outcome.parts.is_empty() {
            return Progress::Ready;
        }
        if outcome.parts.iter().any(|(_, part)| self.lock().going.contains(&part.side)) {
            return Progress::WaitingForBalancer;
        }
        let keys: Vec<RevisionKey> =
            outcome.parts.iter().map(|(name, _)| RevisionKey::new(&outcome.namespace, name)).collect();
        for (absent, waiting) in
            [(missing, Progress::WaitingForServices as fn(String) -> Progress), (unready, Progress::WaitingForServers)]
        {
            let absent: BTreeSet<&String> = keys.iter().filter_map(|key| absent.get(key)).flatten().collect();
            if !absent.is_empty() {
                let absent: Vec<&str> = absent.into_iter().map(String::as_str).collect();
                return waiting(absent.join(", "));
            }
        }
        if keys.iter().any(|key| !is_written(plan, &self.ingresses, key)) {
            return Progress::New;
        }
        if unknown_kind {
            let message = "AlbConfig is no kind of this cluster; install the ALB Ingress controller";
            return Progress::ProgrammingFailed(message.to_owned());
        }
        let names = self.names(outcome, settings, balancers);
        let asked_at = |(side, name)| (side, settings.asked_at(side, name));
        let names = names.map(|names| names.into_iter().map(asked_at).collect::<BTreeMap<_, _>>());
        let seen = names.map(|names| self.live.look(&key, &outcome.parts, &names, settings.probe == Probe::None));
        let (now, state) = (self.clock.now(), self.lock());
        for key in &keys {
            let Some(complaint) = state.complaints.get(key) else { continue };
            // What was said before the present version was written is not about it, …
            if state.written.get(key).is_some_and(|written| complaint.at < *written) {
                continue;
            }
            // … and what is not said again while the load balancer follows is over.
            let until = complaint.at + COMPLAINT_LASTS;
            if matches!(seen, Some(Seen::Live | Seen::Taken)) && until <= now {
                continue;
            }
            if now < until {
                self.queue.add_after(self.key.clone(), until.since(now));
            }
            let text = complaint.text.clone();
            return if complaint.is_of_quota() { Progress::Quota(text) } else { Progress::ProgrammingFailed(text) };
        }
        drop(state);
        match seen {
            None => Progress::WaitingForAddress,
            Some(Seen::NotYet) => Progress::Probing,
            Some(Seen::Late) => Progress::ProbeTimeout,
            Some(Seen::Taken | Seen::Live) => Progress::Ready,
        }
    }

    /// The DNS name of each load balancer a KIngress has Ingresses on, once all have one.
    fn names(&self, outcome: &Outcome, settings: &Settings, balancers: &[AlbConfig]) -> Option<BTreeMap<Side, String>> {
        let mut names = BTreeMap::new();
        for (name, part) in &outcome.parts {
            if names.contains_key(&part.side) {
                continue;
            }
            let found = self.name_of(&outcome.namespace, name, part.side, settings, balancers);
            if let Some(found) = found {
                names.insert(part.side, found);
            }
        }
        let sides: BTreeSet<Side> = outcome.parts.iter().map(|(_, part)| part.side).collect();
        (sides.len() == names.len()).then_some(names)
    }

    /// The DNS name of the load balancer an Ingress is on.
    fn name_of(
        &self,
        namespace: &str,
        ingress: &str,
        side: Side,
        settings: &Settings,
        balancers: &[AlbConfig],
    ) -> Option<String> {
        let told = self.ingresses.get(&RevisionKey::new(namespace, ingress)).and_then(|object| {
            object.status.as_ref()?.load_balancer.as_ref()?.ingress.as_ref()?.first()?.hostname.clone()
        });
        let of_balancer = || {
            let name = settings.balancer(side);
            let balancer = balancers.iter().find(|balancer| balancer.name_any() == name)?;
            Some(balancer.status.as_ref()?.load_balancer.as_ref()?.dnsname.clone())
        };
        told.filter(|name| !name.is_empty()).or_else(of_balancer).filter(|name| !name.is_empty())
    }

    /// How revisions are reached where that is left to Ebb, whenever it is decided anew.
    fn tell_data_plane(&self, chosen: Option<String>) {
        if !self.ownership.owns(&self.key) || std::mem::replace(&mut self.lock().chosen, chosen.clone()) == chosen {
            return;
        }
        if let (Some(Network { map, .. }), Some(chosen)) = (&*self.settings.borrow(), chosen) {
            info!(chosen, "how revisions are reached");
            self.events.note(map.clone(), "DataPlane", &chosen);
        }
    }

    /// Remarks and refusals, once for each generation.
    fn tell(&self, key: &RevisionKey, kingress: &KIngress, outcome: &Outcome) {
        let generation = kingress.metadata.generation.unwrap_or(0);
        let mut remarks: Vec<Remark> = Vec::new();
        for remark in outcome.refused.iter().chain(&outcome.remarks) {
            // Of several things of one kind all are told.
            match remarks.iter_mut().find(|before| before.reason == remark.reason) {
                Some(before) => before.message = format!("{}; {}", before.message, remark.message),
                None => remarks.push(remark.clone()),
            }
        }
        for remark in &remarks {
            let mut state = self.lock();
            if state.told.len() >= MOST_TOLD {
                state.told.clear();
            }
            if !state.told.insert((key.clone(), remark.reason, generation)) {
                continue;
            }
            drop(state);
            // Room is made where the budget is set, too.
            if remark.reason == BUDGET
                && let Some(Network { map, .. }) = &*self.settings.borrow()
            {
                self.events.warn(map.clone(), remark.reason, &format!("{key}: {}", remark.message));
            }
            let about = kingress.object_ref(&());
            if remark.is_normal() {
                self.events.note(about, remark.reason, &remark.message);
            } else {
                self.events.warn(about, remark.reason, &remark.message);
            }
        }
    }

    async fn write_status(
        &self,
        key: &RevisionKey,
        kingress: &KIngress,
        outcome: &Outcome,
        (progress, moves): (&Progress, bool),
        settings: &Settings,
        balancers: &[AlbConfig],
    ) -> Result<(), WriteError> {
        let now = self.clock.now();
        let stored = kingress.status.clone().unwrap_or_default();
        let mut status =
            IngressStatus { observed_generation: kingress.metadata.generation.unwrap_or(0), ..stored.clone() };
        let mut conditions = Conditions::of(&INGRESS, &mut status.conditions, now);
        // Rules that change while the spec does not, as the secret of those that ask does each day, take nothing from what is
        // served. What does not come into force in time is told.
        let was_ready = stored.observed_generation == status.observed_generation
            && find(&stored.conditions, READY).is_some_and(|ready| ready.status == Status::True);
        if !(was_ready && matches!(progress, Progress::New | Progress::Probing)) {
            progress.mark(&mut conditions);
        }
        settle_times(&mut status.conditions, &stored.conditions, now);
        let names = self.names(outcome, settings, balancers).unwrap_or_default();
        // One that moves is sent to where it is served.
        let moves = moves && *progress != Progress::Ready && stored.public_load_balancer.is_some();
        if outcome.refused.is_none()
            && !moves
            && let Some((public, private)) = addresses(&outcome.parts, settings, |side| names.get(&side).cloned())
        {
            (status.public_load_balancer, status.private_load_balancer) = (Some(public), Some(private));
        }
        let same = same_but_for_time(&status.conditions, &stored.conditions)
            && status.observed_generation == stored.observed_generation
            && status.public_load_balancer == stored.public_load_balancer
            && status.private_load_balancer == stored.private_load_balancer;
        if same {
            return Ok(());
        }
        let api: Api<KIngress> = Api::namespaced(self.flow.client().clone(), key.namespace());
        let object = KIngress { status: Some(status), ..kingress.clone() };
        let written = self
            .flow
            .write(Urgency::Status, || async { api.replace_status(key.name(), &PostParams::default(), &object).await })
            .await?;
        self.kingresses.note_written(key, written);
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a KIngress is of the class, where those that do not say are of `default`.
fn is_of_class(kingress: &KIngress, default: &str) -> bool {
    kingress.annotations().get(INGRESS_CLASS_ANNOTATION).map_or(default, String::as_str) == CLASS
}

/// The revisions that rules may lead to, whatever is planned: those KIngresses name in a namespace where one is of the
/// class, since names may stand for what another KIngress leads to; and those what is published leads to.
fn named(ours: &[KIngress], others: &[KIngress], existing: &[Ingress]) -> BTreeSet<RevisionKey> {
    let namespaces: BTreeSet<Option<&String>> = ours.iter().map(|one| one.metadata.namespace.as_ref()).collect();
    let all = ours.iter().chain(others).filter(|one| namespaces.contains(&one.metadata.namespace.as_ref()));
    let mut named = BTreeSet::new();
    for kingress in all {
        let namespace = kingress.metadata.namespace.as_deref().unwrap_or_default();
        let paths = kingress.spec.rules.iter().filter_map(|rule| rule.http.as_ref()).flat_map(|http| &http.paths);
        let splits = paths.flat_map(|path| &path.splits);
        named.extend(splits.map(|split| RevisionKey::new(namespace, &split.service_name)));
    }
    for ingress in existing.iter().filter(|ingress| plan::is_made_here(ingress)) {
        let namespace = ingress.metadata.namespace.as_deref().unwrap_or_default();
        let rules = plan::rules_of(ingress);
        let groups = rules.iter().flat_map(groups_of_rule);
        named.extend(groups.map(|group| RevisionKey::new(namespace, revision_of_service(&group.service_name))));
    }
    named
}

/// By Ingress, the name of its KIngress and the Services it leads to for the first time.
type Fresh = BTreeMap<RevisionKey, (String, BTreeSet<String>)>;

/// By Ingress, the Services that keep it from being written.
type Absent = BTreeMap<RevisionKey, BTreeSet<String>>;

/// The Services each planned Ingress leads to and that do not exist. An empty server group answers 503.
fn missing(plan: &Plan, services: &[Service]) -> Absent {
    let known: HashMap<(Option<&str>, Option<&str>), &Service> = services
        .iter()
        .map(|service| ((service.metadata.namespace.as_deref(), service.metadata.name.as_deref()), service))
        .collect();
    let mut missing = BTreeMap::new();
    for outcome in &plan.outcomes {
        // One of a name Ebb gives that somebody else made leads to whoever they say.
        let is_ours = |service: &str| {
            let revision = service.strip_suffix("-alb").filter(|revision| outcome.routed.contains(*revision));
            revision.is_some() || outcome.delegated.contains_key(service)
        };
        let is_there = |service: &str| {
            let found = known.get(&(Some(outcome.namespace.as_str()), Some(service)));
            found.is_some_and(|found| !is_ours(service) || plan::is_labelled(&found.metadata))
        };
        for (name, part) in &outcome.parts {
            let absent: BTreeSet<String> = services_of(part).filter(|service| !is_there(service)).cloned().collect();
            if !absent.is_empty() {
                missing.insert(RevisionKey::new(&outcome.namespace, name), absent);
            }
        }
    }
    missing
}

/// Whether the cluster has an Ingress as it is planned.
fn is_written(plan: &Plan, ingresses: &Cache<Ingress>, key: &RevisionKey) -> bool {
    let of_key = |object: &&Ingress| {
        object.metadata.name.as_deref() == Some(key.name())
            && object.metadata.namespace.as_deref() == Some(key.namespace())
    };
    let Some(planned) = plan.ingresses.iter().find(of_key) else { return false };
    // One that is on its way out is taken from the load balancer, whatever it says.
    let live = ingresses.get(key).filter(|live| live.metadata.deletion_timestamp.is_none());
    let Some(live) = live else { return false };
    match (serde_json::to_value(&*live), serde_json::to_value(planned)) {
        (Ok(live), Ok(planned)) => is_applied(&live, &planned),
        _ => false,
    }
}
