//! Wiring: configuration to task tree, one root of cancellation, ordered shutdown.
//!
//! ```text
//! websocket ─► queue of 1,000 ─► Deciders ─► PodAutoscaler queue ─► Controller ─► API server
//!                    └─► Forwarder ─► the owner, where that is another replica
//! collector ────────────────────────┘  └─ ticks      ▲
//! watches (PodAutoscaler, SKS, Metric, pods, ConfigMaps) ┘
//! ```

pub mod shadow;

use crate::api::conditions::{from_jiff, to_jiff};
use crate::api::metric::Metric;
use crate::api::pod_autoscaler::PodAutoscaler;
use crate::api::pods::Progress;
use crate::api::serverless_service::ServerlessService;
use crate::clock::Clock;
use crate::controllers::pod_autoscaler::gauges::Gauges;
use crate::controllers::pod_autoscaler::probe::Prober;
use crate::controllers::pod_autoscaler::tell::Teller;
use crate::controllers::settings;
use crate::controllers::writes::Statuses;
use crate::controllers::{metric, pod_autoscaler};
use crate::deciders::collector::{Collector, Proxied};
use crate::deciders::mirror;
use crate::deciders::mirror::serve::Serving;
use crate::deciders::mirror::standby::Standby;
use crate::deciders::record::{Beside, record};
use crate::deciders::{Deciders, ReadyPods, Recorded};
use crate::k8s::dial::Dial;
use crate::k8s::events::Events;
use crate::k8s::flow::Flow;
use crate::k8s::follow::{Change, follow};
use crate::k8s::pods::PodIndex;
use crate::k8s::queue::{KnativeQueues, Lane, Queue, Queues, Turn, Workers};
use crate::k8s::requests::Requests;
use crate::k8s::scale_targets::ScaleTargets;
use crate::k8s::slim::Guarded;
use crate::k8s::{self, cache::Cache};
use crate::observe;
use crate::observe::admin::Inspect;
use crate::observe::explain::{self, Account};
use crate::observe::feed::Feed;
use crate::observe::journal::Journal;
use crate::observe::ledger::{Ledger, Mark};
use crate::observe::metrics::knative::{self, AllScrapeTimes, Target};
use crate::observe::metrics::{LabelNames, Registry};
use crate::observe::ui::History;
use crate::observe::ui::history::{self, Sight};
use crate::ownership::class::Classes;
use crate::ownership::lease::{self, Elections};
use crate::ownership::{Choice, Duties, Ownership};
use crate::routing::gate::contract::Keep;
use crate::routing::keeper::Keeper;
use crate::stats::forward::Forwarder;
use crate::stats::limit::OncePerMinute;
use crate::stats::scrape;
use crate::stats::server::{self, Received};
use crate::units::{Compat, RevisionKey, Span, Timestamp};
use anyhow::Context as _;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use kube::core::{NamespaceResourceScope, Resource};
use kube::runtime::watcher;
use kube::{Api, Client};
use serde::de::DeserializeOwned;
use serde_json::json;
use std::fmt::Debug;
use std::future::Future;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument as _, error, info_span, warn};

/// Stats that wait to be recorded. When it is full the websockets are not read, and TCP slows the senders down.
const WAITING_STATS: usize = 1_000;
/// Reconciles of one controller at once. More than the gate lets write at once, so that it is the gate that chooses what
/// is written next.
const WORKERS: Workers = Workers { urgent: 256, routine: 64 };
/// How often everything is looked at although nothing changed, as Knative's informers have it.
const RESYNC: Duration = Duration::from_hours(10);
/// How long reconciles under way may take when the process is told to stop.
const LAST_TURNS: Duration = Duration::from_secs(5);
/// How long stats for the next owner may take to be delivered then.
const LAST_STATS: Duration = Duration::from_secs(1);
/// A first list that takes longer is worth a line in the log.
const SLOW_SYNC: Duration = Duration::from_secs(10);

/// What an autoscaler is started with.
pub struct Options {
    /// The cluster.
    pub client: Client,
    /// The time.
    pub clock: Clock,
    /// Where to differ from the reference.
    pub compat: Compat,
    /// Which classes of PodAutoscalers are served.
    pub classes: Classes,
    /// How Services are reached.
    pub dial: Arc<dyn Dial>,
    /// The DNS domain of the cluster, such as `cluster.local`.
    pub cluster_domain: String,
    /// How it is settled which revisions are this replica's.
    pub ownership: Choice,
    /// Where the settings stand, and in which namespace Knative's own objects live.
    pub maps: settings::Maps,
    /// The settings as they were read from there.
    pub start: settings::Start,
    /// Where activators send their stats.
    pub stats: Listen,
    /// Where people look.
    pub admin: TcpListener,
    /// Where Prometheus looks, if it is to; the admin port answers it too.
    pub metrics: Option<TcpListener>,
    /// What is shown and recorded.
    pub show: Show,
    /// Who keeps revisions behind a load balancer from going to zero too early, where there is one.
    pub gates: Option<Keeper>,
}

/// What an autoscaler shows and records, beside what it always does.
#[derive(Clone, Debug, Default)]
pub struct Show {
    /// Whether metrics go by their names up to Knative 1.18 too.
    pub older_metrics: bool,
    /// The pod this runs in; empty when it runs in none.
    pub pod: String,
    /// The URL of the API server, as far as it is known.
    pub api: Option<http::Uri>,
    /// Where every input and decision is recorded, if they are.
    pub journal: Option<Journal>,
    /// Where an activator in this process notes what becomes of requests, if there is one.
    pub ledger: Option<Ledger>,
}

/// How many plans may wait for the journal.
const WAITING_PLANS: usize = 4_096;

/// When to listen.
#[derive(Debug)]
pub enum Listen {
    /// From the beginning; what comes in before the cluster is known waits.
    Now(TcpListener),
    /// As soon as the cluster is known, so that a probe of the port is an answer to "are you ready?".
    ///
    /// The first of these addresses that can be had.
    OnceReady(Vec<SocketAddr>),
}

impl Listen {
    async fn listener(self) -> anyhow::Result<TcpListener> {
        match self {
            Self::Now(listener) => Ok(listener),
            Self::OnceReady(addresses) => TcpListener::bind(addresses.as_slice())
                .await
                .with_context(|| format!("cannot listen for stats on {addresses:?}")),
        }
    }
}

/// A running autoscaler.
pub struct Autoscaler {
    state: Arc<State>,
    stats: SocketAddr,
    failed: CancellationToken,
    tasks: TaskTracker,
    cancel: CancellationToken,
}

struct State {
    autoscalers: Cache<PodAutoscaler>,
    services: Cache<ServerlessService>,
    pods: PodIndex,
    deciders: Deciders,
    ownership: Ownership,
    collector: Collector,
    gauges: Gauges,
    clock: Clock,
    feed: Feed,
    history: History,
    ledger: Ledger,
    metrics: Registry,
    process: watch::Receiver<settings::Process>,
    synced: AtomicBool,
}

/// One revision, for a table.
#[derive(Clone, PartialEq, Debug)]
pub struct Row {
    /// Which.
    pub key: RevisionKey,
    /// Pods wanted, as its status says; `None` when not known.
    pub desired: Option<i32>,
    /// Pods by state.
    pub pods: crate::api::pods::PodCounts,
    /// The last decision, if there is one.
    pub decision: Option<crate::engine::Decision>,
}

impl Autoscaler {
    /// Starts an autoscaler and returns once it knows the cluster and listens.
    ///
    /// # Errors
    /// When the port for stats cannot be listened on.
    pub async fn start(options: Options, cancel: CancellationToken) -> anyhow::Result<Self> {
        let Options {
            client,
            clock,
            compat,
            classes,
            dial,
            cluster_domain,
            ownership,
            maps,
            start,
            stats,
            admin,
            metrics,
            show,
            gates,
        } = options;
        let keeper = gates;
        if let Some(keeper) = &keeper {
            keeper.set_classes(classes.clone());
        }
        let gates = keeper.clone().map(|keeper| Arc::new(keeper) as Arc<dyn Keep>);
        let requests = Requests::new(show.api.as_ref(), clock, compat);
        let client = requests.client(client);
        let tasks = TaskTracker::new();
        // First the writers stop, then what they decide on and who reports it, then the watches they read from.
        let (serving, watches) = (CancellationToken::new(), CancellationToken::new());
        let failed = CancellationToken::new();
        let part = |name: &'static str, task: BoxFuture<'static, ()>| {
            let (cancel, failed) = (cancel.clone(), failed.clone());
            // A part that ends by itself, or panics, leaves an autoscaler that only looks alive. One that is dropped with
            // the whole process does not matter.
            let task = async move {
                let ended = AssertUnwindSafe(task).catch_unwind().await;
                if ended.is_err() || !cancel.is_cancelled() {
                    error!(task = name, "a part of the autoscaler ended unasked");
                    failed.cancel();
                }
            };
            task.instrument(info_span!("task", name))
        };
        let spawn = |name: &'static str, task: BoxFuture<'static, ()>| {
            tasks.spawn(part(name, task));
        };

        let (tell_settings, current) = watch::channel(Arc::new(start.settings.clone()));
        let (tell_process, process) = watch::channel(start.process.clone());

        let times = start.leader_election.clone();
        let namespace = maps.namespace.clone();
        let (ownership, candidate) = ownership.settle(clock, times.buckets, &namespace, &cluster_domain);

        // Leases are not written through the gate.
        let flow = Flow::new(client.clone(), clock);
        let reader = flow.client().clone();
        let (pa_queue, metric_queue) = (Queue::new(clock), Queue::new(clock));
        let pods = PodIndex::default();
        let deciders = {
            let queue = pa_queue.clone();
            let on_change = Box::new(move |key: &RevisionKey, lane| queue.add(key.clone(), lane));
            Deciders::spread(clock, compat, Arc::new(Pods(pods.clone())), on_change, ownership.ring().clone())
        };
        let collector = {
            let queue = metric_queue.clone();
            let on_error = Box::new(move |key: &RevisionKey| queue.add(key.clone(), Lane::Fast));
            let settings = scrape::Settings {
                mode: start.network.mesh_compatibility_mode,
                passthrough: start.network.enable_mesh_pod_addressability,
                compat,
            };
            Collector::new(
                clock,
                Arc::clone(&dial),
                settings,
                pods.clone(),
                deciders.clone(),
                Proxied::ByActivators,
                on_error,
            )
        };
        let ledger = show.ledger.clone().unwrap_or_else(|| Ledger::new(clock, false));
        let (gauges, beside) = match &show.journal {
            Some(_) => {
                let (sender, plans) = mpsc::channel(WAITING_PLANS);
                let beside = Beside { plans, activations: ledger.listen() };
                (Gauges::telling(sender), Some(beside))
            }
            None => (Gauges::default(), None),
        };
        let state = Arc::new(State {
            autoscalers: Cache::packed(),
            services: Cache::packed(),
            pods: pods.clone(),
            deciders: deciders.clone(),
            ownership: ownership.clone(),
            collector: collector.clone(),
            gauges: gauges.clone(),
            clock,
            feed: Feed::since(clock.now()),
            history: History::default(),
            ledger: ledger.clone(),
            metrics: Registry::new(compat),
            process,
            synced: AtomicBool::new(false),
        });
        // Everything that writes for a revision.
        let writers = TaskTracker::new();
        let events = Events::new(flow.clone(), clock, "podautoscaler-controller");
        let pa = Arc::new(pod_autoscaler::Controller {
            flow: flow.clone(),
            statuses: Statuses::new(
                flow.clone(),
                ownership.clone(),
                state.autoscalers.clone(),
                pa_queue.clone(),
                events.clone(),
                writers.clone(),
            ),
            clock,
            compat,
            settings: current.clone(),
            classes: classes.clone(),
            cluster_domain: cluster_domain.clone(),
            autoscalers: state.autoscalers.clone(),
            services: state.services.clone(),
            metrics: Cache::packed(),
            pods: pods.clone(),
            targets: ScaleTargets::new(flow.clone(), watches.clone(), tasks.clone()),
            deciders: deciders.clone(),
            prober: Prober::new(Arc::clone(&dial), clock, serving.clone(), tasks.clone()),
            queue: pa_queue.clone(),
            events,
            feed: state.feed.clone(),
            gauges: gauges.clone(),
            ledger: state.ledger.clone(),
            teller: Teller::default(),
            gates: gates.clone(),
            complained: Mutex::default(),
        });
        if let Some(gates) = &gates {
            let queue = pa_queue.clone();
            gates.on_change(Box::new(move |key| queue.add(key.clone(), Lane::Fast)));
        }
        let metric = Arc::new(metric::Controller {
            statuses: Statuses::new(
                flow.clone(),
                ownership.clone(),
                pa.metrics.clone(),
                metric_queue.clone(),
                Events::new(flow.clone(), clock, "metric-controller"),
                writers.clone(),
            ),
            clock,
            metrics: pa.metrics.clone(),
            deciders: deciders.clone(),
            collector: collector.clone(),
            times: AllScrapeTimes::new(show.older_metrics),
        });

        // Load of a revision nobody has looked at yet: its windows and its decider are made at once.
        deciders.on_early({
            let (autoscalers, pa_queue, metric_queue) =
                (state.autoscalers.clone(), pa_queue.clone(), metric_queue.clone());
            let classes = classes.clone();
            Box::new(move |key| {
                let known = autoscalers.get(key).is_some_and(|pa| classes.serve(&*pa));
                if known {
                    pa_queue.add(key.clone(), Lane::Urgent);
                    metric_queue.add(key.clone(), Lane::Urgent);
                }
                known
            })
        });

        // Watches. Each tells the queue of whoever must look again.
        let events = pa.events.clone();
        let tell = settings::Tell { settings: tell_settings, process: tell_process };
        spawn(
            "settings",
            Box::pin(settings::keep_current(reader.clone(), maps, compat, start, tell, events, watches.clone())),
        );
        let queue = pa_queue.clone();
        spawn("watch pods", {
            let (pods, client, watches) = (pods.clone(), reader.clone(), watches.clone());
            let (seen, ledger) = (pods.clone(), ledger.clone());
            let changed = move |key: &RevisionKey| {
                queue.add(key.clone(), Lane::Fast);
                if ledger.is_any_open() {
                    note_progress(&ledger, key, seen.foremost(key));
                }
            };
            Box::pin(async move { pods.follow(client, watches, changed).await })
        });
        let (queue, ours, autoscalers) = (pa_queue.clone(), classes.clone(), state.autoscalers.clone());
        spawn(
            "watch PodAutoscalers",
            keep(&reader, &state.autoscalers, &watches, move |key, object| {
                let left = if ours.serve(object) { None } else { autoscalers.get(key) };
                ours.note(key, left.as_deref());
                queue.add(key.clone(), Lane::Fast);
            }),
        );
        let (queue, marked, ours) = (pa_queue.clone(), gates.clone(), classes.clone());
        spawn(
            "watch ServerlessServices",
            keep(&reader, &pa.services, &watches, move |key, object: &ServerlessService| {
                if let Some(gates) = &marked {
                    gates.marked(key);
                }
                if let Some(owner) = owner(object, &ours) {
                    queue.add(RevisionKey::new(key.namespace(), &owner), Lane::Fast);
                }
            }),
        );
        let (queue, metrics_queue, ours) = (pa_queue.clone(), metric_queue.clone(), classes.clone());
        spawn(
            "watch Metrics",
            keep(&reader, &pa.metrics, &watches, move |key, object: &Metric| {
                metrics_queue.add(key.clone(), Lane::Fast);
                if let Some(owner) = owner(object, &ours) {
                    queue.add(RevisionKey::new(key.namespace(), &owner), Lane::Fast);
                }
            }),
        );
        spawn("admin", {
            let (inspect, cancel) = (Arc::clone(&state), serving.clone());
            Box::pin(observe::admin::serve(admin, inspect, cancel))
        });
        spawn("history", {
            let (state, gauges) = (Arc::clone(&state), gauges.clone());
            let watched = Watched {
                autoscalers: state.autoscalers.clone(),
                pods: state.pods.clone(),
                deciders: state.deciders.clone(),
                ownership: Some(state.ownership.clone()),
                gauges: Some(gauges),
            };
            Box::pin(keep_history(watched, state.history.clone(), clock, serving.clone()))
        });
        if let Some(listener) = metrics {
            let registry = state.metrics.clone();
            spawn("metrics", Box::pin(observe::metrics::server::serve(listener, registry, serving.clone())));
        }
        tokio::join!(
            told_if_slow("pods", pods.synced()),
            told_if_slow("PodAutoscalers", state.autoscalers.synced()),
            told_if_slow("ServerlessServices", pa.services.synced()),
            told_if_slow("Metrics", pa.metrics.synced()),
        );
        let stats = stats.listener().await.inspect_err(|_| {
            for token in [&cancel, &serving, &watches] {
                token.cancel();
            }
        })?;
        let stats_address = stats.local_addr()?;

        // Everything is looked at again when the settings change, and now and then all the same.
        spawn("resync", {
            let (mut current, cancel) = (current, cancel.clone());
            let (autoscalers, queue) = (state.autoscalers.clone(), pa_queue.clone());
            let (metrics, metric_queue) = (pa.metrics.clone(), metric_queue.clone());
            Box::pin(async move {
                loop {
                    let changed = tokio::select! {
                        () = cancel.cancelled() => return,
                        changed = current.changed() => changed,
                        () = tokio::time::sleep(RESYNC) => {
                            metrics.keys().into_iter().for_each(|key| metric_queue.add(key, Lane::Slow));
                            Ok(())
                        }
                    };
                    if changed.is_err() {
                        return;
                    }
                    autoscalers.keys().into_iter().for_each(|key| queue.add(key, Lane::Slow));
                }
            })
        });

        // Stats in.
        let (stat_sender, stat_receiver) = mpsc::channel(WAITING_STATS);
        let owns = ownership.clone();
        // Where owners are elected, one replica goes on with what another knew.
        let mirrors = Standby::new(ownership.ring().clone(), clock, compat, Arc::clone(&dial));
        let counters = Arc::<mirror::serve::Counters>::default();
        state.metrics.register(Arc::clone(&counters));
        state.metrics.register(mirrors.clone());
        let standby = (compat.warm_standby && candidate.is_some()).then_some(mirrors);
        let mut also = axum::Router::new();
        if let Some(standby) = &standby {
            let holders = (0..ownership.ring().buckets()).map(|bucket| ownership.watch(bucket)).collect();
            standby.start(holders, &tasks, &serving);
            also =
                mirror::serve::router(Serving { deciders: deciders.clone(), ownership: ownership.clone(), counters });
        }
        let stat_server = server::Server {
            queue: stat_sender,
            owns: Arc::new(move |bucket| owns.owns_bucket(bucket)),
            counters: Arc::default(),
            clock,
            compat,
            also,
        };
        state.metrics.register(Arc::clone(&stat_server.counters));
        state.metrics.register(ownership.clone());
        state.metrics.register(deciders.clone());
        state.metrics.register(classes.clone());
        state.metrics.register(collector.clone());
        state.metrics.register(Queues(vec![("metric", metric_queue.clone()), ("podautoscaler", pa_queue.clone())]));
        state.metrics.register(flow.clone());
        state.metrics.register(k8s::Counted);
        state.metrics.register(ledger.clone());
        if let Some(keeper) = keeper {
            state.metrics.register(keeper);
        }
        if let (Some(journal), Some(beside)) = (show.journal.clone(), beside) {
            state.metrics.register(journal.clone());
            let (deciders, gauges, cancel) = (deciders.clone(), gauges.clone(), watches.clone());
            let all = Box::new(move || gauges.plans());
            spawn("journal", Box::pin(record(deciders, journal, beside, all, cancel)));
        }
        show_as_knative(&state, &gauges, &show, namespace.clone(), compat);
        state.metrics.register(metric.times.clone());
        state.metrics.register(requests);
        state.metrics.register(KnativeQueues {
            queues: vec![
                ("knative.dev.serving.pkg.reconciler.autoscaling.kpa.Reconciler", pa_queue.clone()),
                ("knative.dev.serving.pkg.reconciler.metric.reconciler", metric_queue.clone()),
            ],
            older: show.older_metrics,
            compat,
        });
        let take_in: Arc<dyn Fn(Received) + Send + Sync> = {
            let (deciders, ledger, complaints) = (deciders.clone(), ledger.clone(), OncePerMinute::new(clock));
            let gates = gates.clone();
            Arc::new(move |received: Received| {
                // Only activators report here; pods are asked.
                if let Some(gates) = gates.as_ref().filter(|_| received.stat.request_count > 0.0) {
                    gates.traffic(&received.key);
                }
                take_in_stat(&deciders, &ledger, &complaints, received);
            })
        };
        let holders = (0..ownership.ring().buckets()).map(|bucket| ownership.watch(bucket)).collect();
        let forwarder = Forwarder::start(holders, &dial, clock, &take_in, &tasks, &serving);
        state.metrics.register(forwarder.clone());
        spawn("stats", Box::pin(sort_stats(stat_receiver, ownership.clone(), take_in, forwarder.clone(), clock)));
        spawn("stat server", Box::pin(server::serve(stats, stat_server, serving.clone())));

        // Decisions, and what follows from them.
        spawn("deciders", {
            let (deciders, serving) = (deciders.clone(), serving.clone());
            Box::pin(async move { deciders.run(serving).await })
        });
        spawn("collector", {
            let (collector, serving) = (collector.clone(), serving.clone());
            Box::pin(async move { collector.run(serving).await })
        });
        let duties: Arc<dyn Duties> = Arc::new(Post {
            ownership: ownership.clone(),
            autoscalers: (state.autoscalers.clone(), pa_queue.clone()),
            metrics: (pa.metrics.clone(), metric_queue.clone()),
            statuses: (pa.statuses.clone(), metric.statuses.clone()),
            gauges,
            teller: pa.teller.clone(),
            ledger,
            deciders,
            collector,
            standby,
            gates,
        });
        for (name, controller) in [
            ("PodAutoscalers", controller(pa_queue, &ownership, &cancel, move |key| Arc::clone(&pa).reconcile(key))),
            (
                "Metrics",
                controller(metric_queue, &ownership, &cancel, move |key| {
                    let metric = Arc::clone(&metric);
                    async move { metric.reconcile(&key) }
                }),
            ),
        ] {
            writers.spawn(part(name, controller));
        }
        writers.close();
        let elections = candidate.map(|identity| {
            let setup = lease::Setup { client, namespace, cluster_domain, identity, times, clock, compat };
            Elections::start(setup, ownership, &duties, watches.clone())
        });
        if let Some(elections) = &elections {
            let (broken, cancel) = (elections.broken(), cancel.clone());
            spawn(
                "elections",
                Box::pin(async move {
                    tokio::select! {
                        () = cancel.cancelled() => {}
                        () = broken.cancelled() => {}
                    }
                }),
            );
        }
        spawn("end", {
            let (ownership, forwarder) = (state.ownership.clone(), forwarder);
            let cancel = cancel.clone();
            Box::pin(async move {
                cancel.cancelled().await;
                // What is still under way after that is dropped when its bucket is given up.
                if tokio::time::timeout(LAST_TURNS, writers.wait()).await.is_err() {
                    warn!("writes did not end in {LAST_TURNS:?}");
                    flow.stop();
                }
                // Before the websockets close: activators that connect again should find the next owner at work.
                if let Some(elections) = elections {
                    elections.stop().await;
                    let passed_on = (0..ownership.ring().buckets()).any(|it| ownership.holder(it).remote().is_some());
                    if passed_on && tokio::time::timeout(LAST_STATS, forwarder.settled()).await.is_err() {
                        warn!("stats for the next owner were not delivered in {LAST_STATS:?}");
                    }
                }
                serving.cancel();
                watches.cancel();
            })
        });
        state.synced.store(true, Ordering::Release);
        tasks.close();
        Ok(Self { state, stats: stats_address, failed, tasks, cancel })
    }

    /// Where stats are taken in.
    pub fn stats_address(&self) -> SocketAddr {
        self.stats
    }

    /// The settings of the process itself as they change.
    pub fn process(&self) -> watch::Receiver<settings::Process> {
        self.state.process.clone()
    }

    /// Everything that is counted.
    pub fn metrics(&self) -> &Registry {
        &self.state.metrics
    }

    /// Which revisions are this replica's.
    pub fn ownership(&self) -> &Ownership {
        &self.state.ownership
    }

    /// The ServerlessServices, as last seen.
    pub fn serverless_services(&self) -> &Cache<ServerlessService> {
        &self.state.services
    }

    /// Returns when a part has ended that nobody asked to; what is left should be stopped and started anew.
    pub async fn failed(&self) {
        self.failed.cancelled().await;
    }

    /// Changes of scale as they happen.
    pub fn feed(&self) -> &Feed {
        &self.state.feed
    }

    /// Every revision, sorted by name.
    pub fn rows(&self) -> Vec<Row> {
        self.state.rows()
    }

    /// Asks everything to stop and waits until it has.
    pub async fn stop(&self) {
        self.cancel.cancel();
        self.tasks.wait().await;
    }
}

impl State {
    fn rows(&self) -> Vec<Row> {
        rows(&self.autoscalers, &self.pods, &self.deciders)
    }
}

impl Inspect for State {
    fn not_ready(&self) -> Vec<&'static str> {
        if self.synced.load(Ordering::Acquire) { Vec::new() } else { vec!["caches"] }
    }

    fn metrics(&self) -> &Registry {
        &self.metrics
    }

    fn profiling(&self) -> bool {
        self.process.borrow().observability.profiling
    }

    fn history(&self) -> &History {
        &self.history
    }

    fn explain(&self, key: &RevisionKey, since: Span) -> Option<Account> {
        let object = self.autoscalers.get(key)?;
        let at = self.clock.now();
        let account = account(key, at, since, &self.deciders, &self.pods, &self.collector);
        let elsewhere = (!self.ownership.owns(key)).then(|| {
            let holder = self.ownership.holder(self.ownership.bucket_of(key));
            holder.remote().map_or_else(
                || {
                    "no replica does at present, so it stays as it is until one holds the Lease of its bucket"
                        .to_owned()
                },
                |remote| {
                    format!(
                        "{pod} does. To ask there: kubectl -n knative-serving port-forward pod/{pod} 8008",
                        pod = remote.pod()
                    )
                },
            )
        });
        let mut notes = account.notes.clone();
        let from = at - since;
        let made = object.metadata.creation_timestamp.as_ref().map(|made| from_jiff(made.0));
        notes.extend(explain::unknown_before(self.feed.known_since(), from, made));
        Some(Account {
            plan: self.gauges.plan(key),
            changes: explain::latest(self.feed.recent(key, from), &mut notes),
            activations: self.ledger.recent(key, from),
            elsewhere,
            notes,
            ..account
        })
    }

    fn keys(&self) -> Vec<RevisionKey> {
        self.autoscalers.keys()
    }

    fn revisions(&self) -> serde_json::Value {
        self.rows().into_iter().map(describe).collect()
    }
}

/// What the history of revisions is taken from.
struct Watched {
    autoscalers: Cache<PodAutoscaler>,
    pods: PodIndex,
    deciders: Deciders,
    /// None where every revision is this process's.
    ownership: Option<Ownership>,
    /// None where nothing is made of decisions.
    gauges: Option<Gauges>,
}

/// Revisions looked at before others get their turn.
const AT_ONCE: usize = 64;

/// Looks at every revision every two seconds until `cancel`.
async fn keep_history(watched: Watched, history: History, clock: Clock, cancel: CancellationToken) {
    let mut ticks = tokio::time::interval(history::EVERY.to_std());
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while cancel.run_until_cancelled(ticks.tick()).await.is_some() {
        let mut keys = watched.autoscalers.keys();
        let all = keys.len();
        if let Some(ownership) = &watched.ownership {
            keys.retain(|key| ownership.owns(key));
        }
        history.begin(clock.now());
        for some in keys.chunks(AT_ONCE) {
            history.note(watched.sights(some));
            tokio::task::yield_now().await;
        }
        history.end(all - keys.len());
    }
}

impl Watched {
    fn sights(&self, keys: &[RevisionKey]) -> Vec<(RevisionKey, Sight)> {
        let plan = |key| self.gauges.as_ref().and_then(|gauges| gauges.plan(key));
        let mut others = keys.iter().map(|key| (plan(key), self.pods.counts(key))).collect::<Vec<_>>().into_iter();
        let mut sights = Vec::with_capacity(keys.len());
        self.deciders.glance(keys, |key, decision| {
            let (plan, pods) = others.next().unwrap_or_default();
            sights.push((key.clone(), Sight::of(decision, plan.as_ref(), pods)));
        });
        sights
    }
}

/// What is known of a revision by those who decide and scrape.
fn account(
    key: &RevisionKey,
    at: Timestamp,
    since: Span,
    deciders: &Deciders,
    pods: &PodIndex,
    collector: &Collector,
) -> Account {
    let view = deciders.view(key);
    Account {
        key: key.clone(),
        at,
        source: "the running autoscaler".to_owned(),
        decision: view.as_ref().and_then(|view| view.latest.clone()),
        spec: view.map(|view| view.spec),
        plan: None,
        pods: Some(pods.counts(key)),
        scrape_error: collector.last_error(key).map(|error| error.in_words()),
        changes: Vec::new(),
        activations: Vec::new(),
        elsewhere: None,
        since,
        notes: Vec::new(),
    }
}

fn describe(row: Row) -> serde_json::Value {
    let decision = row.decision.map(|decision| {
        json!({
            "at": to_jiff(decision.at),
            "desired": decision.desired,
            "excessBurstCapacity": decision.excess_burst,
            "stable": decision.observed.stable,
            "panic": decision.observed.panic,
            "metric": decision.metric.to_string(),
            "target": decision.target,
            "panickingSince": decision.panicking_since.map(to_jiff),
            "because": decision.because.iter().map(ToString::to_string).collect::<Vec<_>>(),
        })
    });
    json!({
        "revision": row.key.as_str(),
        "desired": row.desired,
        "ready": row.pods.ready,
        "notReady": row.pods.not_ready,
        "pending": row.pods.pending,
        "terminating": row.pods.terminating,
        "decision": decision,
    })
}

/// Every revision, sorted by name.
fn rows(autoscalers: &Cache<PodAutoscaler>, pods: &PodIndex, deciders: &Deciders) -> Vec<Row> {
    let mut keys = autoscalers.keys();
    keys.sort();
    keys.into_iter()
        .filter_map(|key| {
            let object = autoscalers.get(&key)?;
            let desired = object.status.as_ref().and_then(|status| status.desired_scale);
            Some(Row {
                desired: desired.filter(|desired| *desired >= 0),
                pods: pods.counts(&key),
                decision: deciders.latest(&key),
                key,
            })
        })
        .collect()
}

/// Shows what belongs to revisions, and to the process, under the names of the reference.
fn show_as_knative(state: &State, gauges: &Gauges, show: &Show, namespace: String, compat: Compat) {
    state.metrics.register(Target { namespace, pod: show.pod.clone() });
    let read = |gauges: &Gauges| {
        let (gauges, deciders, pods) = (gauges.clone(), state.deciders.clone(), state.pods.clone());
        move || gauges.read(&deciders, &pods, compat)
    };
    state.metrics.per_revision(LabelNames::Scoped, knative::PRESENT, read(gauges));
    if show.older_metrics {
        state.metrics.per_revision(LabelNames::Older, knative::OLDER, read(gauges));
    }
}

struct Pods(PodIndex);

impl ReadyPods for Pods {
    fn ready(&self, key: &RevisionKey) -> i32 {
        self.0.ready(key)
    }
}

/// What this replica does when a bucket becomes its own, and when it ceases to be.
struct Post {
    ownership: Ownership,
    autoscalers: (Cache<PodAutoscaler>, Queue),
    metrics: (Cache<Metric>, Queue),
    statuses: (Statuses<PodAutoscaler>, Statuses<Metric>),
    gauges: Gauges,
    teller: Teller,
    ledger: Ledger,
    deciders: Deciders,
    collector: Collector,
    standby: Option<Standby>,
    gates: Option<Arc<dyn Keep>>,
}

impl Duties for Post {
    fn activate(&self, bucket: usize) -> BoxFuture<'_, ()> {
        if let Some(taken) = self.standby.as_ref().and_then(|standby| standby.take(bucket)) {
            self.deciders.resume(taken.revisions, taken.lossy);
        }
        Box::pin(async {})
    }

    fn promoted(&self, bucket: usize) {
        let (autoscalers, metrics) = (&self.autoscalers, &self.metrics);
        for (keys, queue) in [(autoscalers.0.keys(), &autoscalers.1), (metrics.0.keys(), &metrics.1)] {
            for key in keys {
                if self.ownership.bucket_of(&key) == bucket {
                    queue.add(key, Lane::Slow);
                }
            }
        }
        // What was taken over may be gone from the cluster by now.
        for key in self.deciders.keys(bucket) {
            autoscalers.1.add(key.clone(), Lane::Slow);
            metrics.1.add(key, Lane::Slow);
        }
    }

    fn demoted(&self, bucket: usize) {
        let of_bucket = |key: &RevisionKey| self.ownership.bucket_of(key) == bucket;
        self.collector.forget(of_bucket);
        self.statuses.0.let_go(of_bucket);
        self.statuses.1.let_go(of_bucket);
        self.gauges.let_go(of_bucket);
        self.teller.let_go(of_bucket);
        self.ledger.let_go(of_bucket);
        if let Some(gates) = &self.gates {
            gates.let_go(&of_bucket);
        }
        let revisions = self.deciders.let_go(bucket);
        if let Some(standby) = self.standby.as_ref().filter(|_| !revisions.is_empty()) {
            standby.keep(bucket, revisions);
        }
    }

    fn flush(&self, bucket: usize) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            self.collector.forget(|key| self.ownership.bucket_of(key) == bucket);
            self.deciders.hand_over(bucket).await;
        })
    }
}

/// Takes stats off the queue until every connection is gone: takes in those of our revisions, passes the others on.
async fn sort_stats(
    mut queue: mpsc::Receiver<Received>,
    ownership: Ownership,
    take_in: Arc<dyn Fn(Received) + Send + Sync>,
    forwarder: Forwarder,
    clock: Clock,
) {
    while let Some(mut received) = queue.recv().await {
        // From here on it has the time of the replica that got it first.
        if received.stat.timestamp == 0 {
            received.stat.timestamp = clock.now().second();
        }
        let bucket = ownership.bucket_of(&received.key);
        if ownership.records(bucket) {
            take_in(received);
        } else {
            forwarder.forward(bucket, received);
        }
    }
}

/// Notes how far the first pod of a revision has come.
fn note_progress(ledger: &Ledger, key: &RevisionKey, foremost: Option<Progress>) {
    for (progress, mark) in
        [(Progress::Scheduled, Mark::Scheduled), (Progress::Started, Mark::Started), (Progress::Ready, Mark::Ready)]
    {
        if foremost.is_some_and(|foremost| foremost >= progress) {
            ledger.note(key, mark);
        }
    }
}

/// Records a stat of one of our revisions.
fn take_in_stat(deciders: &Deciders, ledger: &Ledger, complaints: &OncePerMinute, received: Received) {
    let Received { key, stat, source, came, .. } = received;
    match deciders.report(&key, Timestamp::from_seconds(stat.timestamp), &stat.load()) {
        Recorded::Yes | Recorded::Kept => {}
        Recorded::Woke(at) => {
            ledger.begin_at(&key, Mark::Stat, came);
            ledger.note_at(&key, Mark::Decision, at);
        }
        Recorded::UnknownRevision => {
            if let Some(suppressed) = complaints.allow(&source) {
                warn!(revision = %key, %source, suppressed, "stat for a revision that is not known, dropped");
            }
        }
    }
}

/// Keeps a cache of one kind, and calls `touched` with what came or what went.
fn keep<K>(
    client: &Client,
    cache: &Cache<K>,
    cancel: &CancellationToken,
    touched: impl Fn(&RevisionKey, &K) + Send + 'static,
) -> BoxFuture<'static, ()>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Clone
        + Debug
        + DeserializeOwned
        + Send
        + Sync
        + 'static,
{
    let api: Api<Guarded<K>> = Api::all(client.clone());
    let (cache, cancel) = (cache.clone(), cancel.clone());
    Box::pin(follow(api, watcher::Config::default(), cancel, move |mut change| {
        if let Change::Put(_, object) = &mut change {
            // Never read, and the largest part of many an object.
            object.meta_mut().managed_fields = None;
        }
        if let Some((key, object)) = cache.take_in(change) {
            touched(&key, &object);
        }
    }))
}

/// Works the keys of a queue, each for as long as it is this replica's.
fn controller<F, Fut>(
    queue: Queue,
    ownership: &Ownership,
    cancel: &CancellationToken,
    work: F,
) -> BoxFuture<'static, ()>
where
    F: Fn(RevisionKey) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Turn> + Send + 'static,
{
    let (ownership, cancel) = (ownership.clone(), cancel.clone());
    Box::pin(async move {
        let work = move |key: RevisionKey| {
            let (ownership, work) = (ownership.clone(), work(key.clone()));
            // Of another's revision there is nothing to be done, now or later: its promotion looks at everything.
            async move { ownership.act(&key, work).await.unwrap_or(Turn::Done) }
        };
        queue.run(WORKERS, cancel, work).await;
    })
}

/// The PodAutoscaler of a class of ours that controls an object.
fn owner<K: Resource>(object: &K, classes: &Classes) -> Option<String> {
    let ours = classes.serve(object);
    let controller = object.meta().owner_references.iter().flatten().find(|owner| owner.controller == Some(true))?;
    (ours
        && controller.kind == "PodAutoscaler"
        && controller.api_version.starts_with("autoscaling.internal.knative.dev/"))
    .then(|| controller.name.clone())
}

/// Waits until a watch has listed what there is, and says so in the log when that takes long.
async fn told_if_slow(objects: &'static str, synced: impl Future<Output = ()>) {
    let mut synced = pin!(synced);
    while tokio::time::timeout(SLOW_SYNC, &mut synced).await.is_err() {
        warn!(
            objects,
            "not listed yet; the warnings of the watch say why, often a missing permission, or a kind of Knative's that is not installed"
        );
    }
}
