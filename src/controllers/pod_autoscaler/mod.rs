//! PodAutoscaler: from a decision to replicas, to the mode of the ServerlessService, to a status.
//!
//! One reconcile reads the caches, plans ([`plan`], pure), and writes in a fixed order: Metric, replicas,
//! ServerlessService, status. What it set on the status before an error is written even so.
//!
//! Reading order: [`plan`], [`status`] (both pure), [`probe`] (is the activator in the path?), [`tell`] (what is worth an
//! event), this file.

pub mod gauges;
pub mod plan;
pub mod probe;
pub mod status;
pub mod tell;

use crate::api::annotations::Overrides;
use crate::api::conditions::settle_times;
use crate::api::metric::Metric;
use crate::api::names::{CONFIGURATION_LABEL, REVISION_LABEL};
use crate::api::pod_autoscaler::{PodAutoscaler, PodAutoscalerStatus};
use crate::api::serverless_service::{Mode, ServerlessService};
use crate::clock::Clock;
use crate::config::{Resolved, resolve};
use crate::controllers::settings::Current;
use crate::controllers::writes::{self, Statuses};
use crate::deciders::Deciders;
use crate::engine::subset::number_of_activators;
use crate::k8s::cache::Cache;
use crate::k8s::events::Events;
use crate::k8s::flow::{Flow, Urgency, WriteError};
use crate::k8s::pods::PodIndex;
use crate::k8s::queue::{Queue, Turn};
use crate::k8s::scale_targets::ScaleTargets;
use crate::observe::feed::{Feed, ScaleChange};
use crate::observe::ledger::{Ledger, Mark};
use crate::observe::plan::Plan;
use crate::ownership::class::Classes;
use crate::routing::gate::contract::{Asked, Keep, Leave, Marked};
use crate::routing::gate::{Path, Pods, State};
use crate::units::{Compat, RevisionKey, Timestamp};
use gauges::Gauges;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::Resource as _;
use kube::api::{ListParams, PostParams};
use plan::{NotOwned, Scale, ScaleStep, Seen, Stuck, Write};
use probe::{Answer, Probe, Prober};
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use tell::Teller;
use tracing::{debug, warn};

/// Activators in front of a revision nothing is known of yet.
const FIRST_ACTIVATORS: i32 = 2;

/// What the controller works with. Cheap to share.
pub struct Controller {
    /// To write with.
    pub flow: Flow,
    /// Where a status goes to be written.
    pub statuses: Statuses<PodAutoscaler>,
    /// The time.
    pub clock: Clock,
    /// Where to differ from the reference.
    pub compat: Compat,
    /// The cluster's settings.
    pub settings: Current,
    /// Which classes are served.
    pub classes: Classes,
    /// The DNS domain of the cluster, such as `cluster.local`.
    pub cluster_domain: String,
    /// PodAutoscalers, as last seen.
    pub autoscalers: Cache<PodAutoscaler>,
    /// ServerlessServices, as last seen.
    pub services: Cache<ServerlessService>,
    /// Metrics, as last seen.
    pub metrics: Cache<Metric>,
    /// Pods by revision.
    pub pods: PodIndex,
    /// What is scaled.
    pub targets: ScaleTargets,
    /// What decides.
    pub deciders: Deciders,
    /// Asks whether the activator is in the path.
    pub prober: Prober,
    /// Where to come back from.
    pub queue: Queue,
    /// What people are told.
    pub events: Events,
    /// Where changes of scale are told.
    pub feed: Feed,
    /// What is shown of each revision.
    pub gauges: Gauges,
    /// Where the time of cold starts goes.
    pub ledger: Ledger,
    /// What of it is worth an event.
    pub teller: Teller,
    /// Who keeps revisions behind a load balancer from going to zero too early; nobody where there is none.
    pub gates: Option<Arc<dyn Keep>>,
    /// The generation of each PodAutoscaler whose annotations were complained of.
    pub complained: Mutex<HashMap<RevisionKey, i64>>,
}

/// Why a reconcile did not come to its end.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("error reconciling SKS: {0}")]
    Sks(String, Cause),
    #[error("error reconciling Decider: {0}")]
    Decider(String),
    #[error("error reconciling Metric: {0}")]
    Metric(String, Cause),
    #[error("error scaling target: {0}")]
    Scale(String, Cause),
    /// It is not there any more, which the watch has not told of yet.
    #[error("the PodAutoscaler is gone")]
    Gone,
}

/// Whose fault it was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Cause {
    /// Somebody else was faster, which a retry mends without a word.
    Conflict,
    /// The API server could not be asked.
    Unavailable,
    /// Something its owner should know.
    Other,
}

impl From<&WriteError> for Cause {
    fn from(error: &WriteError) -> Self {
        if error.is_conflict() {
            Self::Conflict
        } else if error.is_unavailable() {
            Self::Unavailable
        } else {
            Self::Other
        }
    }
}

impl Error {
    fn cause(&self) -> Cause {
        match self {
            Self::Sks(_, cause) | Self::Metric(_, cause) | Self::Scale(_, cause) => *cause,
            Self::Decider(_) | Self::Gone => Cause::Other,
        }
    }
}

impl Controller {
    /// One look at one PodAutoscaler.
    pub async fn reconcile(self: Arc<Self>, key: RevisionKey) -> Turn {
        // One that was given to another class is not ours any more either.
        let Some(pa) = self.autoscalers.get(&key).filter(|pa| self.classes.serve(&**pa)) else {
            self.deciders.remove_decider(&key);
            self.gauges.forget(&key);
            self.teller.forget(&key);
            self.ledger.let_go(|of| *of == key);
            self.statuses.forget(&key);
            if let Some(gates) = &self.gates {
                gates.forget(&key);
            }
            self.complained.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
            return Turn::Done;
        };
        if pa.metadata.deletion_timestamp.is_some() {
            return Turn::Done;
        }
        let now = self.clock.now();
        let generation = pa.metadata.generation.unwrap_or_default();
        // What was concluded and is still to be written counts: a slow API server must not undo "initialized for good".
        let pending = self.statuses.pending(&key, &pa);
        let known = pending.as_ref().or(pa.status.as_ref());
        let mut status = status::starting(known, generation, now);

        let steps = self.steps(&key, &pa, &mut status, now);
        let result = match tokio::time::timeout(writes::DEADLINE.to_std(), steps).await {
            Ok(result) => result,
            Err(_) => Err(Error::Scale("the API server did not answer in time".to_owned(), Cause::Unavailable)),
        };
        if matches!(result, Err(Error::Gone)) {
            debug!(revision = %key, "deleted while the watch was away");
            return Turn::Done;
        }

        status.observed_generation = generation;
        settle_times(&mut status.conditions, known.map_or(&[][..], |status| &status.conditions), now);
        let stored = pa.status.as_ref();
        self.statuses.put(&key, PodAutoscaler { status: Some(status), ..(*pa).clone() }, stored);
        let Err(error) = result else { return Turn::Done };
        match error.cause() {
            Cause::Conflict => {
                debug!(revision = %key, %error, "somebody else was faster; tried again");
                Turn::Retry
            }
            Cause::Unavailable => {
                warn!(revision = %key, %error, "the API server is not available; tried again");
                Turn::Unavailable
            }
            Cause::Other => {
                warn!(revision = %key, %error, "reconcile failed; tried again");
                self.gauges.trouble(&key, now, &error.to_string());
                self.events.warn(pa.object_ref(&()), "InternalError", &error.to_string());
                Turn::Retry
            }
        }
    }

    async fn steps(
        &self,
        key: &RevisionKey,
        pa: &PodAutoscaler,
        status: &mut PodAutoscalerStatus,
        now: Timestamp,
    ) -> Result<(), Error> {
        let (resolved, wrong) = self.resolve(key, pa);
        let bounds = resolved.bounds(status::is_initialized(status));

        let sks = self.services.get(key);
        let private =
            sks.as_ref().and_then(|sks| sks.status.as_ref()).map(|status| status.private_service_name.clone());
        let Some(private) = private.filter(|name| !name.is_empty()) else {
            let first = Service { mode: Mode::Proxy, activators: FIRST_ACTIVATORS, marks: Vec::new() };
            self.ensure_service(key, pa, sks.as_deref(), first, status, now).await?;
            status::mark_network(status, Some("No Private Service Name"), now);
            status::compute(status, None, 0, bounds, now);
            return Ok(());
        };
        status.metrics_service_name.clone_from(&private);

        let spec = resolved.spec();
        for label in [CONFIGURATION_LABEL, REVISION_LABEL] {
            if pa.metadata.labels.iter().flatten().all(|(name, value)| name != label || value.is_empty()) {
                return Err(Error::Decider(format!(
                    "label {label:?} not found or empty in PodAutoscaler {}",
                    key.name()
                )));
            }
        }
        let wanted = pa.status.as_ref().and_then(|status| status.desired_scale);
        let published = self.deciders.ensure_decider(key, &spec, wanted);
        let scrape_target = if resolved.metric_spec().scraped { private.as_str() } else { "" };
        self.ensure_metric(key, pa, &resolved, scrape_target, status, now).await?;

        let seen = Seen::on(status, sks.as_deref(), published.desired, now);
        let probe = Probe::of(&status.service_name, key.namespace(), &self.cluster_domain, &pa.spec.protocol_type);
        let (scale, heard) = self.plan_scale(key, &seen, &resolved, &probe).await;
        let counts = self.pods.counts(key);
        let hindered = self.pods.hindered(key);
        let hindered = hindered.as_ref().map(|(count, hindrance)| (*count, &**hindrance));
        let heard = heard.as_ref().map(|answer| (&probe, answer));
        let stuck = plan::stuck(&resolved, &seen, &scale, counts, hindered, heard);
        let ready = i32::try_from(counts.ready).unwrap_or(i32::MAX);
        let leave = self.ask_gate(key, pa, &scale, published.excess_burst >= 0, sks.as_deref());
        let replicas = self.targets.known(key.namespace(), &pa.spec.scale_target_ref).map(|target| target.replicas);
        let (mut scale, keep) = plan::gated(scale, &leave, replicas);
        let mode = match leave.proxied() {
            Some(true) => Mode::Proxy,
            Some(false) => Mode::Serve,
            None => plan::mode(scale.want, published.excess_burst),
        };
        let marks = leave.marks(sks.as_ref().and_then(|sks| sks.metadata.annotations.as_ref()));
        let service = Service { mode, activators: number_of_activators(&spec, ready, self.compat), marks };
        let mut written = None;
        if scale.apply && scale.want == Some(0) {
            if leave.state != State::Unrouted {
                // Written first, and only over what was looked at: by that others publish.
                written = Some(self.ensure_service(key, pa, sks.as_deref(), service.clone(), status, now).await?);
            }
            // Then the gate has the last word: a rule may have come meanwhile.
            if let Some(gates) = &self.gates
                && let Err(reason) = gates.may_scale_to_zero(key, leave.epoch)
            {
                (scale, _) = plan::gated(scale, &Leave { zero: Err(reason), ..leave.clone() }, replicas);
            }
        }
        let mut told = Plan {
            at: now,
            want: scale.want,
            // Bounds of a number that is not known change nothing.
            bound: scale.bound.filter(|_| scale.want.is_some()).map(|bound| bound.to_string()).unwrap_or_default(),
            zero: plan::zero_in_words(&scale).unwrap_or_default(),
            min: resolved.min_scale.value,
            max: resolved.max_scale.value,
            proxied: mode == Mode::Proxy,
            gate: Some(leave.state).filter(|state| *state != State::Unrouted),
            pods: counts,
            stuck: stuck.as_ref().map(|stuck| stuck.text.clone()).unwrap_or_default(),
            trouble: wrong,
            ..Plan::default()
        };
        let to = keep.or(scale.want.filter(|_| scale.apply));
        let scaled = if to.is_some() { self.apply_scale(key, pa, &scale, to, now).await } else { Ok(None) };
        told.from = scaled.as_ref().ok().copied().flatten();
        self.tell(key, pa, &told, stuck.as_ref(), &scale, now);
        self.gauges.note(key, pa.metadata.labels.as_ref(), spec.metric, told);
        scaled?;

        let sks = match written {
            Some(written) => written,
            None => self.ensure_service(key, pa, sks.as_deref(), service, status, now).await?,
        };
        status.service_name = sks.status.as_ref().map(|status| status.service_name.clone()).unwrap_or_default();
        status::mark_network(status, plan::network_not_ready(&sks), now);
        status::compute(status, scale.want, ready, bounds, now);
        Ok(())
    }

    /// Tells the gate what is wanted and there, and its owner what the gate has to say.
    fn ask_gate(
        &self,
        key: &RevisionKey,
        pa: &PodAutoscaler,
        scale: &Scale,
        room: bool,
        sks: Option<&ServerlessService>,
    ) -> Leave {
        let want = if scale.want == Some(0) { Path::Cold } else { Path::Warm };
        let Some(gates) = &self.gates else { return Leave::free(want) };
        let counts = self.pods.counts(key);
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let replicas = self.targets.known(key.namespace(), &pa.spec.scale_target_ref).map(|target| target.replicas);
        let there = counts.ready + counts.not_ready.saturating_sub(counts.terminating);
        let asked = Asked {
            want,
            pods: Pods {
                all: count(there).max(replicas.and_then(|replicas| u32::try_from(replicas).ok()).unwrap_or(0)),
                ready: count(counts.ready),
            },
            room,
            written: plan::written(sks),
            marked: Marked::read(sks.and_then(|sks| sks.metadata.annotations.as_ref())),
        };
        let leave = gates.ask(key, &asked);
        if let Some(notice) = &leave.notice {
            warn!(revision = %key, reason = notice.reason, notice.message, "behind the load balancer");
            self.events.warn(revision_of(pa), notice.reason, &notice.message);
        }
        leave
    }

    /// The settings of a revision, and what its annotations have wrong, which is told once per generation; the rest counts.
    fn resolve(&self, key: &RevisionKey, pa: &PodAutoscaler) -> (Resolved, String) {
        let settings = Arc::clone(&self.settings.borrow());
        let none = BTreeMap::new();
        let annotations = pa.metadata.annotations.as_ref().unwrap_or(&none);
        let (overrides, errors) = Overrides::read(annotations, self.compat);
        let mut wrong = errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        if !errors.is_empty() {
            wrong.push_str(". Until then the cluster's default counts in its place");
        }
        if !errors.is_empty() {
            let generation = pa.metadata.generation.unwrap_or_default();
            let mut complained = self.complained.lock().unwrap_or_else(PoisonError::into_inner);
            if complained.insert(key.clone(), generation) != Some(generation) {
                let mut note = String::new();
                for error in &errors {
                    warn!(revision = %key, %error, "annotation not used");
                    writeln!(note, "{error}").expect("writing to a string");
                }
                self.events.warn(pa.object_ref(&()), "InvalidAnnotation", note.trim_end());
            }
        }
        let resolved = resolve(
            &settings.autoscaler,
            &settings.deployment,
            &overrides,
            pa.spec.container_concurrency,
            &pa.spec.reachability,
        );
        (resolved, wrong)
    }

    /// The number of pods, and what the activator was heard to say if it was asked.
    async fn plan_scale(
        &self,
        key: &RevisionKey,
        seen: &Seen,
        resolved: &Resolved,
        probe: &Probe,
    ) -> (Scale, Option<Answer>) {
        let mut heard = None;
        let scale = loop {
            let in_path = heard.as_ref().map(|answer| *answer == Answer::Activator);
            match plan::scale(resolved, seen, in_path, self.compat) {
                ScaleStep::Done(scale) => break scale,
                ScaleStep::Probe => heard = Some(self.probe(key, probe).await),
            }
        };
        if let Some(after) = scale.look_again {
            self.queue.add_after(key.clone(), after);
        }
        if scale.probe_in_background {
            let (queue, key) = (self.queue.clone(), key.clone());
            let again = move || queue.add_after(key, crate::units::Span::SECOND);
            self.prober.ask_in_background(probe.clone(), again);
        }
        (scale, heard)
    }

    /// Asks whether the activator is in the path. Should a request come meanwhile, its look does not wait for this: no
    /// answer is as good as none in time.
    async fn probe(&self, key: &RevisionKey, probe: &Probe) -> Answer {
        if probe.is_nowhere() {
            return Answer::Failed("the revision has no Service yet".to_owned());
        }
        tokio::select! {
            biased;
            answer = self.prober.ask(probe) => answer,
            () = self.queue.urged(key) => Answer::Urged,
        }
    }

    /// Tells the owner what is worth an event.
    fn tell(
        &self,
        key: &RevisionKey,
        pa: &PodAutoscaler,
        plan: &Plan,
        stuck: Option<&Stuck>,
        scale: &Scale,
        now: Timestamp,
    ) {
        let latest = self.deciders.latest(key);
        let decided = latest.as_ref().map_or(0, |decision| decision.desired);
        let because = || plan::because(latest.as_ref(), scale);
        for news in self.teller.look(key, plan, stuck, decided, because, now) {
            let about = pa.object_ref(&());
            if news.warns {
                self.events.warn(about, news.reason, &news.note);
            } else {
                self.events.note(about, news.reason, &news.note);
            }
        }
    }

    /// Scales; how many replicas there were before, if that was another number.
    async fn apply_scale(
        &self,
        key: &RevisionKey,
        pa: &PodAutoscaler,
        scale: &Scale,
        to: Option<i32>,
        now: Timestamp,
    ) -> Result<Option<i32>, Error> {
        let reference = &pa.spec.scale_target_ref;
        let Some(target) = self.targets.get(key.namespace(), reference).await else {
            return Err(Error::Scale(
                format!("failed to get scale target {} {}", reference.kind, reference.name),
                Cause::Other,
            ));
        };
        let Some(want) = to.filter(|want| *want != target.replicas) else { return Ok(None) };
        self.targets.scale(key.namespace(), reference, target, want).await.map_err(|error| {
            let text = writes::write_in_words(&error);
            Error::Scale(
                format!("failed to apply scale {want} to scale target {}: {text}", reference.name),
                Cause::from(&error),
            )
        })?;
        let latest = self.deciders.latest(key);
        // Pods that only a bound asks for are no cold start: nobody waits for them.
        if target.replicas == 0
            && let Some(decision) = latest.as_ref().filter(|decision| decision.desired > 0)
        {
            self.ledger.begin_at(key, Mark::Decision, decision.at);
            self.ledger.note(key, Mark::Patch);
        }
        let because = plan::because(latest.as_ref(), scale);
        tracing::info!(revision = %key, from = target.replicas, to = want, because, "scaled");
        self.feed.tell(ScaleChange { at: now, key: key.clone(), from: target.replicas, to: want, because });
        Ok(Some(target.replicas))
    }

    async fn ensure_metric(
        &self,
        key: &RevisionKey,
        pa: &PodAutoscaler,
        resolved: &Resolved,
        scrape_target: &str,
        status: &mut PodAutoscalerStatus,
        now: Timestamp,
    ) -> Result<(), Error> {
        let found = self.metrics.get(key);
        let write = plan::metric(pa, found.as_deref(), resolved, scrape_target).map_err(|NotOwned| {
            status::mark_not_owned(status, "Metric", key.name(), now);
            Error::Metric(format!("PA: {} does not own Metric: {}", key.name(), key.name()), Cause::Other)
        })?;
        let fresh = matches!(write, Write::Create(_));
        let failed = |error: &WriteError| Error::Metric(writes::write_in_words(error), Cause::from(error));
        if fresh && !self.is_there(key, pa).await.map_err(|error| failed(&error))? {
            return Err(Error::Gone);
        }
        match self.write(key, pa, write, &self.metrics).await {
            Ok(_) => Ok(()),
            Err(error) => {
                if fresh {
                    status::mark_failed_create(status, "Metric", key.name(), now);
                }
                Err(failed(&error))
            }
        }
    }

    async fn ensure_service(
        &self,
        key: &RevisionKey,
        pa: &PodAutoscaler,
        found: Option<&ServerlessService>,
        service: Service,
        status: &mut PodAutoscalerStatus,
        now: Timestamp,
    ) -> Result<ServerlessService, Error> {
        let Service { mode, activators, marks } = service;
        let write = plan::serverless_service(pa, found, mode, activators).map_err(|NotOwned| {
            status::mark_not_owned(status, "ServerlessService", key.name(), now);
            Error::Sks(format!("PA: {} does not own SKS: {}", key.name(), key.name()), Cause::Other)
        })?;
        let write = plan::marked(write, found, marks);
        let fresh = matches!(write, Write::Create(_));
        let failed = |error: &WriteError| Error::Sks(writes::write_in_words(error), Cause::from(error));
        if fresh && !self.is_there(key, pa).await.map_err(|error| failed(&error))? {
            return Err(Error::Gone);
        }
        match self.write(key, pa, write, &self.services).await {
            Ok(written) => Ok(written.or_else(|| found.cloned()).unwrap_or_else(|| empty_service(pa))),
            Err(error) => {
                if fresh {
                    status::mark_failed_create(status, "ServerlessService", key.name(), now);
                }
                Err(failed(&error))
            }
        }
    }

    /// Whether a PodAutoscaler is there whose owned objects are not. After a watch was away its end may be told of before
    /// that of their owner; made again for one that is gone, they would stand there until somebody collects them. One
    /// that never had any is not asked for.
    async fn is_there(&self, key: &RevisionKey, pa: &PodAutoscaler) -> Result<bool, WriteError> {
        if pa.status.as_ref().is_none_or(|status| status.metrics_service_name.is_empty()) {
            return Ok(true);
        }
        let live = writes::api::<PodAutoscaler>(self.flow.client(), key).get_opt(key.name()).await?;
        Ok(live.is_some_and(|live| live.metadata.uid == pa.metadata.uid && live.metadata.deletion_timestamp.is_none()))
    }

    /// Carries out a write and notes the result in the cache, so that the next look does not repeat it.
    async fn write<K>(
        &self,
        key: &RevisionKey,
        pa: &PodAutoscaler,
        write: Write<K>,
        cache: &Cache<K>,
    ) -> Result<Option<K>, WriteError>
    where
        K: kube::Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>
            + Clone
            + std::fmt::Debug
            + serde::Serialize
            + serde::de::DeserializeOwned,
    {
        let api: kube::Api<K> = writes::api(self.flow.client(), key);
        let params = PostParams::default();
        let mut written = match write {
            Write::Nothing => return Ok(None),
            Write::Create(object) => {
                match self.flow.write(Urgency::Routing, || api.create(&params, &object)).await {
                    Ok(written) => written,
                    // An earlier attempt whose answer was lost, or one the watch has not told of yet. What it lacks is
                    // for the next look.
                    Err(error) if error.is_already_there() => {
                        // A list, because of ServerlessServices nothing else needs to be got one by one.
                        let named = ListParams::default().fields(&format!("metadata.name={}", key.name()));
                        match api.list(&named).await.map(|mut found| found.items.pop()) {
                            Ok(Some(live)) if plan::owns(pa, live.meta()) => live,
                            _ => return Err(error),
                        }
                    }
                    Err(error) => return Err(error),
                }
            }
            Write::Update(object) => {
                self.flow.write(Urgency::Routing, || api.replace(key.name(), &params, &object)).await?
            }
        };
        written.meta_mut().managed_fields = None;
        cache.note_written(key, written.clone());
        Ok(Some(written))
    }
}

/// What a ServerlessService is to be.
#[derive(Clone, Debug)]
struct Service {
    mode: Mode,
    activators: i32,
    /// Annotations, without a value those to be removed.
    marks: Vec<(&'static str, Option<String>)>,
}

/// The revision a PodAutoscaler is of, for its events; the PodAutoscaler itself where it says nothing of it.
fn revision_of(pa: &PodAutoscaler) -> ObjectReference {
    let owner = pa.metadata.owner_references.iter().flatten().find(|owner| owner.kind == "Revision");
    owner.map_or_else(
        || pa.object_ref(&()),
        |owner| ObjectReference {
            api_version: Some(owner.api_version.clone()),
            kind: Some(owner.kind.clone()),
            name: Some(owner.name.clone()),
            namespace: pa.metadata.namespace.clone(),
            uid: Some(owner.uid.clone()),
            ..ObjectReference::default()
        },
    )
}

fn empty_service(pa: &PodAutoscaler) -> ServerlessService {
    ServerlessService::new(
        pa.metadata.name.as_deref().unwrap_or_default(),
        crate::api::serverless_service::ServerlessServiceSpec::default(),
    )
}
