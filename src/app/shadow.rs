//! The wiring of a shadow: watches, deciders and scrapes as an autoscaler has them, and nothing that writes.

use super::{Pods, Row, WAITING_PLANS, Watched, account, describe, keep, keep_history, rows, told_if_slow};
use crate::clock::Clock;
use crate::controllers::settings;
use crate::controllers::shadow::report::{Difference, Report};
use crate::controllers::shadow::{Parts, Shadow};
use crate::deciders::Deciders;
use crate::deciders::collector::{Collector, Proxied};
use crate::deciders::record::{Beside, record};
use crate::k8s::cache::Cache;
use crate::k8s::dial::Dial;
use crate::k8s::events::Events;
use crate::k8s::flow::Flow;
use crate::k8s::pods::PodIndex;
use crate::k8s::read_only::read_only;
use crate::k8s::scale_targets::ScaleTargets;
use crate::observe::admin::Inspect;
use crate::observe::explain::Account;
use crate::observe::journal::Journal;
use crate::observe::metrics::Registry;
use crate::observe::ui::History;
use crate::observe::{admin, metrics};
use crate::stats::scrape;
use crate::units::{Compat, RevisionKey, Span};
use futures::future::BoxFuture;
use kube::Client;
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::net::TcpListener;
use tokio::sync::{broadcast, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument as _, info, info_span};

/// What a shadow is started with.
pub struct Options {
    /// The cluster. The shadow uses it through a layer that sends nothing but GET.
    pub client: Client,
    /// The time.
    pub clock: Clock,
    /// Where to differ from the reference.
    pub compat: Compat,
    /// How pods and Services are reached.
    pub dial: Arc<dyn Dial>,
    /// Where the settings stand. In a namespace of their own, other settings can be tried.
    pub maps: settings::Maps,
    /// The settings as they were read from there.
    pub start: settings::Start,
    /// Where people look.
    pub admin: TcpListener,
    /// Where Prometheus looks, if it is to; the admin port answers it too.
    pub metrics: Option<TcpListener>,
    /// Where every input and decision is recorded, if they are.
    pub journal: Option<Journal>,
}

/// A running shadow.
pub struct ShadowAutoscaler {
    state: Arc<State>,
    tasks: TaskTracker,
    cancel: CancellationToken,
}

struct State {
    autoscalers: Cache<crate::api::pod_autoscaler::PodAutoscaler>,
    pods: PodIndex,
    deciders: Deciders,
    collector: Collector,
    clock: Clock,
    shadow: Shadow,
    history: History,
    metrics: Registry,
    process: watch::Receiver<settings::Process>,
    synced: AtomicBool,
}

impl ShadowAutoscaler {
    /// Starts a shadow and returns once it knows the cluster.
    pub async fn start(options: Options, cancel: CancellationToken) -> Self {
        let Options { client, clock, compat, dial, maps, start, admin, metrics, journal } = options;
        let (client, refusals) = read_only(client);
        // Nothing is written; what is read obeys the API server all the same.
        let flow = Flow::new(client, clock);
        let client = flow.client().clone();
        let tasks = TaskTracker::new();
        let spawn = |name: &'static str, task: BoxFuture<'static, ()>| {
            tasks.spawn(task.instrument(info_span!("task", name)));
        };

        let (tell_settings, current) = watch::channel(Arc::new(start.settings.clone()));
        let (tell_process, process) = watch::channel(start.process.clone());
        let pods = PodIndex::default();
        let deciders = Deciders::new(clock, compat, Arc::new(Pods(pods.clone())), Box::new(|_, _| {}));
        let scrapes = scrape::Settings {
            mode: start.network.mesh_compatibility_mode,
            passthrough: start.network.enable_mesh_pod_addressability,
            compat,
        };
        let collector =
            Collector::new(clock, dial, scrapes, pods.clone(), deciders.clone(), Proxied::ByPods, Box::new(|_| {}));
        let (tell_plans, plans) = mpsc::channel(WAITING_PLANS);
        let parts = Parts {
            clock,
            compat,
            settings: current,
            autoscalers: Cache::packed(),
            services: Cache::packed(),
            metrics: Cache::packed(),
            pods: pods.clone(),
            targets: ScaleTargets::new(flow, cancel.clone(), tasks.clone()),
            deciders: deciders.clone(),
            collector: collector.clone(),
            refusals,
            plans: journal.is_some().then_some(tell_plans),
        };
        let (autoscalers, services, objects) =
            (parts.autoscalers.clone(), parts.services.clone(), parts.metrics.clone());
        let shadow = Shadow::new(parts);
        let registry = Registry::new(compat);
        registry.register(deciders.clone());
        registry.register(collector.clone());
        registry.register(crate::k8s::Counted);
        shadow.register(&registry);
        let state = Arc::new(State {
            autoscalers: autoscalers.clone(),
            pods: pods.clone(),
            deciders: deciders.clone(),
            collector: collector.clone(),
            clock,
            shadow: shadow.clone(),
            history: History::default(),
            metrics: registry.clone(),
            process,
            synced: AtomicBool::new(false),
        });

        spawn("admin", {
            let (inspect, cancel) = (Arc::clone(&state), cancel.clone());
            Box::pin(admin::serve(admin, inspect, cancel))
        });
        spawn("history", {
            let watched = Watched {
                autoscalers: autoscalers.clone(),
                pods: pods.clone(),
                deciders: deciders.clone(),
                ownership: None,
                gauges: None,
            };
            Box::pin(keep_history(watched, state.history.clone(), clock, cancel.clone()))
        });
        if let Some(listener) = metrics {
            spawn("metrics", Box::pin(metrics::server::serve(listener, registry, cancel.clone())));
        }
        let tell = settings::Tell { settings: tell_settings, process: tell_process };
        spawn(
            "settings",
            Box::pin(settings::keep_current(client.clone(), maps, compat, start, tell, Events::none(), cancel.clone())),
        );
        spawn("watch pods", {
            let (pods, client, cancel) = (pods.clone(), client.clone(), cancel.clone());
            Box::pin(async move { pods.follow(client, cancel, |_| {}).await })
        });
        spawn("watch PodAutoscalers", keep(&client, &autoscalers, &cancel, |_, _| {}));
        spawn("watch ServerlessServices", keep(&client, &services, &cancel, |_, _| {}));
        spawn("watch Metrics", keep(&client, &objects, &cancel, |_, _| {}));
        tokio::join!(
            told_if_slow("pods", pods.synced()),
            told_if_slow("PodAutoscalers", autoscalers.synced()),
            told_if_slow("ServerlessServices", services.synced()),
            told_if_slow("Metrics", objects.synced()),
        );

        if let Some(journal) = journal {
            state.metrics.register(journal.clone());
            let (deciders, cancel) = (deciders.clone(), cancel.clone());
            // It routes nothing itself, so no activation of its own ends.
            let beside = Beside { plans, activations: mpsc::channel(1).1 };
            let all = {
                let shadow = shadow.clone();
                Box::new(move || shadow.plans())
            };
            spawn("journal", Box::pin(record(deciders, journal, beside, all, cancel)));
        }
        spawn("deciders", {
            let cancel = cancel.clone();
            Box::pin(async move { deciders.run(cancel).await })
        });
        spawn("collector", {
            let cancel = cancel.clone();
            Box::pin(async move { collector.run(cancel).await })
        });
        spawn("shadow", {
            let cancel = cancel.clone();
            Box::pin(async move { shadow.run(cancel).await })
        });
        state.synced.store(true, Ordering::Release);
        tasks.close();
        info!("shadow runs: it compares, and writes nothing to the cluster");
        Self { state, tasks, cancel }
    }

    /// The settings of the process itself, as they change.
    pub fn process(&self) -> watch::Receiver<settings::Process> {
        self.state.process.clone()
    }

    /// The account so far.
    pub fn report(&self) -> Report {
        self.state.shadow.report()
    }

    /// Lasting differences as they are found and as they end.
    pub fn listen(&self) -> broadcast::Receiver<Difference> {
        self.state.shadow.listen()
    }

    /// Everything that is counted.
    pub fn metrics(&self) -> &Registry {
        &self.state.metrics
    }

    /// Every revision, sorted by name; the pods wanted are those of the running autoscaler.
    pub fn rows(&self) -> Vec<Row> {
        self.state.rows()
    }

    /// Asks everything to stop, waits until it has, and says in the log how well the two agreed.
    pub async fn stop(&self) {
        self.cancel.cancel();
        self.tasks.wait().await;
        info!("{}", self.report().sentence());
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

    fn explain(&self, key: &RevisionKey, since: Span) -> Option<Account> {
        self.autoscalers.get(key)?;
        let account = account(key, self.clock.now(), since, &self.deciders, &self.pods, &self.collector);
        let notes = vec!["this is a shadow: it tells what it would do, and changes nothing".to_owned()];
        Some(Account { source: "the shadow".to_owned(), plan: self.shadow.plan(key), notes, ..account })
    }

    fn keys(&self) -> Vec<RevisionKey> {
        self.autoscalers.keys()
    }

    fn revisions(&self) -> Value {
        self.rows().into_iter().map(describe).collect()
    }

    fn shadow(&self) -> Option<Value> {
        Some(self.shadow.report().json())
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
}
