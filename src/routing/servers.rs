//! The servers a load balancer finds: which Services have any, and, for revisions reached by a port, what is written.
//!
//! The Services of such revisions are made by whoever owns the load balancer, one after the other, so that no port is given
//! out twice. Where each leads is written by the owner of the revision, as its gate decides: pods, activators, or both. An
//! activator stands there only once it has answered for the revision at its port.

use crate::api::names::{ACTIVATOR_SERVICE, SERVICE_TYPE_LABEL, SLICE_SERVICE_LABEL};
use crate::api::serverless_service::ServerlessService;
use crate::clock::Clock;
use crate::k8s::cache::Cache;
use crate::k8s::flow::{Flow, Urgency, WriteError};
use crate::k8s::follow::{Change, follow};
use crate::k8s::queue::{Lane, Queue, Turn, Workers};
use crate::k8s::slim::Guarded;
use crate::ownership::Ownership;
use crate::routing::gate::{Answer, Members};
use crate::routing::keeper::{Group, Keeper};
use crate::routing::plan;
use crate::routing::port::{self, Book, MANAGED_BY, Server};
use crate::routing::probe::{Question, Topic};
use crate::units::{RevisionKey, Span};
use futures::future::join_all;
use k8s_openapi::api::core::v1::{ConfigMap, Endpoints, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt as _;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::runtime::watcher;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

/// Groups written at once.
const WORKERS: Workers = Workers::each(8);
/// How soon an activator that did not answer for a revision is asked again, at first …
const AGAIN: Span = Span::from_millis(500);
/// … and at most: one that is not Ebb's never answers.
const AGAIN_MOST: Span = Span::from_seconds(30);

/// The servers there are. Cheap to clone; all clones are one.
#[derive(Clone)]
pub(super) struct Servers {
    inner: Arc<Inner>,
}

struct Inner {
    flow: Flow,
    clock: Clock,
    ownership: Ownership,
    namespace: String,
    keeper: Keeper,
    owners: Cache<ServerlessService>,
    services: Cache<Service>,
    endpoints: Cache<Endpoints>,
    queue: Queue,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// By slice, the Service of a revision and its ready servers.
    slices: HashMap<RevisionKey, (RevisionKey, BTreeSet<Server>)>,
    of_service: HashMap<RevisionKey, BTreeSet<RevisionKey>>,
    /// By slice.
    activators: HashMap<RevisionKey, BTreeSet<Server>>,
    answered: HashMap<RevisionKey, Answered>,
}

/// Who answered for a revision.
struct Answered {
    /// At this port.
    port: u16,
    servers: BTreeSet<Server>,
    /// Who has not, and was asked.
    silent: BTreeSet<Server>,
    /// For how long those are left alone.
    pause: Span,
}

impl Answered {
    fn at(port: u16) -> Self {
        Self { port, servers: BTreeSet::new(), silent: BTreeSet::new(), pause: AGAIN }
    }
}

/// What [`Servers`] works with.
pub(super) struct Setup {
    pub(super) flow: Flow,
    pub(super) clock: Clock,
    pub(super) ownership: Ownership,
    pub(super) namespace: String,
    pub(super) keeper: Keeper,
    pub(super) owners: Cache<ServerlessService>,
    /// All Services of the cluster.
    pub(super) services: Cache<Service>,
}

impl Servers {
    pub(super) fn new(setup: Setup) -> Self {
        let Setup { flow, clock, ownership, namespace, keeper, owners, services } = setup;
        let queue = Queue::new(clock);
        keeper.on_decision({
            let queue = queue.clone();
            move |key| queue.add(key.clone(), Lane::Urgent)
        });
        let endpoints = Cache::packed();
        let state = Mutex::default();
        let inner = Inner { flow, clock, ownership, namespace, keeper, owners, services, endpoints, queue, state };
        Self { inner: Arc::new(inner) }
    }

    /// Watches and writes until `cancel`. `look` is called when a Service that had no server has one, or the other way
    /// round.
    pub(super) async fn run(self, look: impl Fn() + Send + Clone + 'static, cancel: CancellationToken) {
        let client = self.inner.flow.client().clone();
        let slices: Api<Guarded<EndpointSlice>> = Api::all(client.clone());
        let of_revisions = watcher::Config::default().labels(SERVICE_TYPE_LABEL);
        let activators: Api<Guarded<EndpointSlice>> = Api::namespaced(client.clone(), &self.inner.namespace);
        let of_activators = watcher::Config::default().labels(&format!("{SLICE_SERVICE_LABEL}={ACTIVATOR_SERVICE}"));
        let endpoints: Api<Guarded<Endpoints>> = Api::all(client);
        let ours = watcher::Config::default().labels(&format!("{}={}", MANAGED_BY.0, MANAGED_BY.1));
        let work = {
            let this = self.clone();
            move |key: RevisionKey| {
                let this = this.clone();
                async move {
                    let turn = this.write(&key);
                    this.inner.ownership.act(&key, turn).await.unwrap_or(Turn::Done)
                }
            }
        };
        tokio::join!(
            follow(slices, of_revisions, cancel.clone(), {
                let (this, look) = (self.clone(), look.clone());
                move |change| {
                    if this.take_in(change) {
                        look();
                    }
                }
            }),
            follow(activators, of_activators, cancel.clone(), {
                let this = self.clone();
                move |change| this.take_in_activators(change)
            }),
            follow(endpoints, ours, cancel.clone(), {
                let this = self.clone();
                move |change| {
                    let synced = matches!(change, Change::Synced);
                    if let Some((key, _)) = this.inner.endpoints.take_in(change) {
                        this.inner.queue.add(revision_of(&key), Lane::Fast);
                        look();
                    }
                    if synced {
                        this.all();
                    }
                }
            }),
            self.inner.queue.run(WORKERS, cancel.clone(), work),
        );
    }

    /// A Service has come, changed or gone.
    pub(super) fn service_changed(&self, key: &RevisionKey) {
        if key.name().ends_with("-alb") {
            self.inner.queue.add(revision_of(key), Lane::Fast);
        }
    }

    /// Every revision that is reached by a port is to be looked at.
    pub(super) fn all(&self) {
        let ours = self.inner.services.select(|_, service| port::port_of(service).is_some());
        for service in ours {
            let meta = &service.metadata;
            let key = RevisionKey::new(
                meta.namespace.as_deref().unwrap_or_default(),
                meta.name.as_deref().unwrap_or_default(),
            );
            self.inner.queue.add(revision_of(&key), Lane::Fast);
        }
    }

    /// Those of these Services that lead to nobody, or, where only activators count since the revision is at rest, to
    /// anybody else. Of a Service of somebody else nothing is known.
    pub(super) fn unfit(&self, services: &BTreeMap<RevisionKey, bool>) -> BTreeSet<RevisionKey> {
        let state = self.lock();
        let activators: BTreeSet<&String> = state.activators.values().flatten().map(|server| &server.ip).collect();
        let is_unfit = |service: &RevisionKey, rests: bool| {
            if let Some(ours) = self.inner.services.get(service)
                && let Some(port) = port::port_of(&ours)
            {
                let endpoints = self.inner.endpoints.get(service);
                let members = endpoints.and_then(|endpoints| port::members_of(&endpoints, port));
                return members.is_none_or(|members| rests && members != Members::Activators);
            }
            let Some(slices) = state.of_service.get(service) else { return false };
            let mut servers =
                slices.iter().filter_map(|slice| state.slices.get(slice)).flat_map(|(_, servers)| servers).peekable();
            servers.peek().is_none() || rests && servers.any(|server| !activators.contains(&server.ip))
        };
        services
            .iter()
            .filter(|(service, rests)| is_unfit(service, **rests))
            .map(|(service, _)| service.clone())
            .collect()
    }

    fn take_in(&self, change: Change<EndpointSlice>) -> bool {
        let mut state = self.lock();
        let state = &mut *state;
        let (key, now) = match change {
            Change::Put(key, slice) => {
                let labels = slice.metadata.labels.clone().unwrap_or_default();
                let service = labels.get(SLICE_SERVICE_LABEL).map(|service| RevisionKey::new(key.namespace(), service));
                let now = service.map(|service| (service, ready(&slice)));
                (key, now)
            }
            Change::Gone(key) => (key, None),
            Change::Synced => return false,
        };
        let before = match now.clone() {
            Some(now) => state.slices.insert(key.clone(), now),
            None => state.slices.remove(&key),
        };
        if before == now {
            return false;
        }
        for (service, _) in before.iter().chain(&now) {
            let slices = state.of_service.entry(service.clone()).or_default();
            slices.remove(&key);
            if let Some(revision) = service.name().strip_suffix("-private") {
                self.inner.queue.add(RevisionKey::new(service.namespace(), revision), Lane::Urgent);
            }
        }
        if let Some((service, _)) = &now {
            state.of_service.entry(service.clone()).or_default().insert(key);
        }
        state.of_service.retain(|_, slices| !slices.is_empty());
        let any = |side: &Option<(RevisionKey, BTreeSet<Server>)>| side.as_ref().map(|(_, servers)| servers.is_empty());
        any(&before) != any(&now)
    }

    fn take_in_activators(&self, change: Change<EndpointSlice>) {
        let mut state = self.lock();
        match change {
            Change::Put(key, slice) => _ = state.activators.insert(key, ready(&slice)),
            Change::Gone(key) => _ = state.activators.remove(&key),
            Change::Synced => {}
        }
        let activators = state.activators.values().flatten().collect::<BTreeSet<_>>().len();
        drop(state);
        self.inner.keeper.set_activators(u32::try_from(activators).unwrap_or(u32::MAX));
        self.all();
    }

    /// Writes where the Service of a revision leads, if that is not as its gate decides.
    async fn write(&self, key: &RevisionKey) -> Turn {
        let name = RevisionKey::new(key.namespace(), &port::service_name(key.name()));
        let service = self.inner.services.get(&name);
        let (Some(sks), Some(port)) = (self.inner.owners.get(key), service.as_deref().and_then(port::port_of)) else {
            self.lock().answered.remove(key);
            self.inner.keeper.drop_group(key);
            return Turn::Done;
        };
        let pause = self.ask_activators(key, port).await;
        let (pods, activators) = {
            let state = self.lock();
            let private = RevisionKey::new(key.namespace(), &format!("{}-private", key.name()));
            let slices = state.of_service.get(&private).into_iter().flatten();
            let pods: BTreeSet<Server> =
                slices.filter_map(|slice| state.slices.get(slice)).flat_map(|(_, servers)| servers.clone()).collect();
            (pods, state.answered.get(key).map(|answered| answered.servers.clone()).unwrap_or_default())
        };
        let live = self.inner.endpoints.get(&name);
        let group = |endpoints: Option<&Endpoints>| Group {
            members: endpoints.and_then(|endpoints| port::members_of(endpoints, port)),
            activators: u32::try_from(activators.len()).unwrap_or(u32::MAX),
        };
        // What there is comes first: by that the gate decides.
        self.inner.keeper.set_group(key, group(live.as_deref()), live.as_deref().and_then(port::members_since));
        let members = self.inner.keeper.members(key).unwrap_or({
            // Nobody has asked the gate yet.
            if pods.is_empty() { Members::Activators } else { Members::Pods }
        });
        if let Some(pause) = pause {
            self.inner.queue.add_after(key.clone(), pause);
        }
        // Neither kind: what there is stays, since an empty group answers 503.
        let Some(mut planned) = port::endpoints(&sks, port, members, &pods, &activators) else { return Turn::Done };
        port::note_since(&mut planned, live.as_deref(), port, self.inner.clock.now());
        if live.as_deref().is_some_and(|live| port::same_servers(live, &planned)) {
            return Turn::Done;
        }
        let api: Api<Endpoints> = Api::namespaced(self.inner.flow.client().clone(), key.namespace());
        let params = PatchParams { force: true, ..PatchParams::apply(super::controller::FIELD_MANAGER) };
        let mut object = json!(planned);
        (object["apiVersion"], object["kind"]) = ("v1".into(), "Endpoints".into());
        // Together with the revision it goes.
        object["metadata"]["ownerReferences"] =
            json!(service.and_then(|service| service.metadata.owner_references.clone()));
        let written = self
            .inner
            .flow
            .write(Urgency::Routing, || async { api.patch(name.name(), &params, &Patch::Apply(&object)).await })
            .await;
        match written {
            Ok(written) => {
                info!(revision = %key, members = ?port::members_of(&written, port), "servers written");
                self.inner.keeper.set_group(key, group(Some(&written)), None);
                self.inner.endpoints.note_written(&name, written);
                Turn::Done
            }
            Err(error) => {
                warn!(revision = %key, %error, "servers not written; tried again");
                if error.is_unavailable() { Turn::Unavailable } else { Turn::Retry }
            }
        }
    }

    /// Asks those activators that have not answered for the revision at its port yet; when the silent ones are to be asked
    /// again, if there are any.
    async fn ask_activators(&self, key: &RevisionKey, port: u16) -> Option<Span> {
        let there: BTreeSet<Server> = self.lock().activators.values().flatten().cloned().collect();
        let open: Vec<Server> = {
            let mut state = self.lock();
            let known = state.answered.entry(key.clone()).or_insert_with(|| Answered::at(port));
            if known.port != port {
                *known = Answered::at(port);
            }
            known.servers.retain(|server| there.contains(server));
            there.difference(&known.servers).cloned().collect()
        };
        let question = Question {
            secure: false,
            http2: false,
            host: format!("{}.{}", key.name(), key.namespace()),
            path: "/healthz".to_owned(),
            headers: Vec::new(),
        };
        let answers = join_all(open.iter().map(async |server| {
            let ip: IpAddr = server.ip.parse().ok()?;
            let reply = question.ask(SocketAddr::new(ip, port), Topic::Who).await;
            let ours = reply.as_ref().is_ok_and(|reply| {
                // One that does not say for whom it answers is not one of Ebb's.
                reply.identity.is_some() && reply.who(key) == Answer::Activator
            });
            if !ours {
                debug!(revision = %key, %ip, port, ?reply, "an activator does not answer for the revision yet");
            }
            ours.then(|| server.clone())
        }))
        .await;
        let answered: Vec<Server> = answers.into_iter().flatten().collect();
        let silent: BTreeSet<Server> = open.into_iter().filter(|server| !answered.contains(server)).collect();
        let mut state = self.lock();
        let known = state.answered.get_mut(key)?;
        known.servers.extend(answered);
        // Whoever is new is asked as soon as at first.
        let same = !silent.is_empty() && silent.is_subset(&known.silent);
        known.pause =
            if same { Span::from_nanos(known.pause.nanos().saturating_mul(2)).min(AGAIN_MOST) } else { AGAIN };
        known.silent = silent;
        (!known.silent.is_empty()).then_some(known.pause)
    }

    /// Makes the Services of these revisions where they are missing, each with a port of its own. Gives those for which
    /// there is no port left, and the last failure that kept nothing else from being made. Only whoever owns the load
    /// balancer does this.
    pub(super) async fn make(
        &self,
        revisions: &BTreeSet<RevisionKey>,
        request_timeout: u32,
        eni: bool,
    ) -> Result<(BTreeSet<RevisionKey>, Option<WriteError>), WriteError> {
        let is_ours = |service: &Service| port::port_of(service).is_some() && plan::is_labelled(&service.metadata);
        let made = self.inner.services.select(|_, service| is_ours(service));
        // What is refused of one, as in a namespace that ends, keeps nothing from the others.
        let mut failed = self.amend(&made, request_timeout, eni).await;
        let ours: BTreeMap<RevisionKey, u16> = made
            .into_iter()
            .filter_map(|service| {
                let (namespace, name) = (service.metadata.namespace.as_deref()?, service.metadata.name.as_deref()?);
                Some((revision_of(&RevisionKey::new(namespace, name)), port::port_of(&service)?))
            })
            .collect();
        let missing: Vec<(&RevisionKey, Arc<ServerlessService>)> = revisions
            .iter()
            .filter(|revision| !ours.contains_key(*revision))
            .filter_map(|revision| Some((revision, self.inner.owners.get(revision)?)))
            .collect();
        if missing.is_empty() {
            return Ok((BTreeSet::new(), failed));
        }
        let maps: Api<ConfigMap> = Api::namespaced(self.inner.flow.client().clone(), &self.inner.namespace);
        let found = maps.get_opt(port::BOOK).await.map_err(WriteError::from)?;
        let now = self.inner.clock.now();
        let data = found.as_ref().and_then(|map| map.data.clone()).unwrap_or_default();
        let mut book = Book::read(&data, now);
        for (revision, port) in &ours {
            book.recall(revision, *port);
        }
        book.release(&ours.keys().chain(revisions).cloned().collect(), now);
        let mut exhausted = BTreeSet::new();
        let mut assigned = Vec::new();
        for (revision, sks) in missing {
            match book.assign(revision, now) {
                Some(port) => assigned.push((revision, sks, port)),
                None => _ = exhausted.insert(revision.clone()),
            }
        }
        // What else stands there stays.
        let mut lines = data.clone();
        lines.retain(|key, _| key.parse::<u16>().is_err());
        lines.extend(book.data());
        if lines != data {
            let mut map = found.clone().unwrap_or_default();
            map.metadata.name = Some(port::BOOK.to_owned());
            map.data = Some(lines);
            // Over what was read only, so that two never give out one port.
            let (params, map) = (PostParams::default(), &map);
            let maps = &maps;
            let is_new = found.is_none();
            self.inner
                .flow
                .write(Urgency::Routing, || async {
                    if is_new { maps.create(&params, map).await } else { maps.replace(port::BOOK, &params, map).await }
                })
                .await?;
        }
        for (revision, sks, port) in assigned {
            let service = port::service(&sks, port, request_timeout, eni);
            let api: Api<Service> = Api::namespaced(self.inner.flow.client().clone(), revision.namespace());
            let params = PostParams::default();
            match self.inner.flow.write(Urgency::Routing, || async { api.create(&params, &service).await }).await {
                Ok(written) => {
                    info!(revision = %revision, port, "a port for the revision");
                    let name = RevisionKey::new(revision.namespace(), &port::service_name(revision.name()));
                    self.inner.services.note_written(&name, written);
                    self.inner.queue.add(revision.clone(), Lane::Fast);
                }
                Err(error) if error.is_already_there() => {}
                Err(error) => failed = Some(error),
            }
        }
        Ok((exhausted, failed))
    }

    /// Changes Services that were made when the settings were others; the last failure, if there was one.
    async fn amend(&self, made: &[Arc<Service>], request_timeout: u32, eni: bool) -> Option<WriteError> {
        let mut failed = None;
        for service in made {
            let Some(patch) = port::amendment(service, request_timeout, eni) else { continue };
            let name = RevisionKey::new(&service.namespace().unwrap_or_default(), &service.name_any());
            let api: Api<Service> = Api::namespaced(self.inner.flow.client().clone(), name.namespace());
            let params = PatchParams::default();
            let patch = Patch::Merge(&patch);
            match self
                .inner
                .flow
                .write(Urgency::Routing, || async { api.patch(name.name(), &params, &patch).await })
                .await
            {
                Ok(written) => {
                    info!(service = %name, request_timeout, eni, "the Service of a revision follows the settings");
                    self.inner.services.note_written(&name, written);
                }
                // With its revision, a moment ago.
                Err(error) if error.is_not_found() => {}
                Err(error) => failed = Some(error),
            }
        }
        failed
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The revision a Service of ours is of.
fn revision_of(service: &RevisionKey) -> RevisionKey {
    RevisionKey::new(service.namespace(), service.name().strip_suffix("-alb").unwrap_or(service.name()))
}

/// What is ready.
fn ready(slice: &EndpointSlice) -> BTreeSet<Server> {
    let ready = slice
        .endpoints
        .iter()
        .filter(|endpoint| endpoint.conditions.as_ref().is_none_or(|conditions| conditions.ready != Some(false)));
    let servers = ready.flat_map(|endpoint| {
        let pod = endpoint.target_ref.as_ref().and_then(|pod| pod.name.clone()).unwrap_or_default();
        endpoint.addresses.iter().map(move |ip| Server { ip: ip.clone(), pod: pod.clone() })
    });
    servers.collect()
}
