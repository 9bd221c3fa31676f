//! `ebb local`: a whole cluster on one machine.

use crate::api::conditions::{self, Status};
use crate::api::names::{QUEUE_H2C_PORT, QUEUE_HTTP1_PORT, SYSTEM_NAMESPACE};
use crate::api::serving::Service;
use crate::app::{self, Autoscaler, Listen, Row, Show};
use crate::cli::exit::Exit;
use crate::cli::screen::Screen;
use crate::cli::{CompatMode, Signals, recording, span};
use crate::clock::Clock;
use crate::controllers::settings::{self, Maps};
use crate::dataplane::activator::{self, Activator};
use crate::k8s::dial::SystemDial;
use crate::local::alb::balancer::Manners;
use crate::local::dial::LocalDial;
use crate::local::manifest::{self, Manifest};
use crate::local::pods::kubelet;
use crate::local::{AutoscalerSettings, LocalCluster, Options, SAMPLE_MANIFEST, alb, apiserver, knative};
use crate::observe::feed::{Feed, ScaleChange};
use crate::observe::ledger::Ledger;
use crate::observe::metrics::Registry;
use crate::observe::metrics::endpoint::DEFAULT_PORT;
use crate::observe::telemetry::{self, LogFormat};
use crate::ownership::Choice;
use crate::ownership::class::Classes;
use crate::routing::controller::{self, Controller};
use crate::routing::gate::Timers;
use crate::routing::keeper::Keeper;
use crate::routing::model::CLASS;
use crate::routing::probe::Vips;
use crate::stats::client;
use crate::units::{RevisionKey, Span, Timestamp};
use anyhow::{Context as _, bail};
use comfy_table::{ContentArrangement, Table, presets};
use futures::future::{BoxFuture, join_all};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::PostParams;
use kube::runtime::wait::await_condition;
use kube::{Api, Client};
use serde_json::json;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Run a whole cluster on this machine: a Kubernetes API, pods, a gateway, an activator, and the autoscaler.
///
/// Without -f it runs a sample service. Pods are processes on 127.x.y.z addresses of their own: the
/// built-in sample (image ebb.local/hello), or whatever a container's `command` starts, which finds
/// the port to listen on in $PORT. Ctrl-C stops everything in order; a second one stops at once.
///
/// Examples:
///   ebb local
///   ebb local -f service.yaml --window 10s
#[derive(clap::Args, Debug)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// Objects to apply: a YAML or JSON file, a directory of them, or - for standard input. May be repeated.
    #[arg(short, long = "filename", value_name = "FILE")]
    filenames: Vec<PathBuf>,

    /// Where `kubeconfig` and `endpoints.json` are written once everything is ready.
    #[arg(long, env = "EBB_STATE_DIR", value_name = "DIR", default_value = ".ebb")]
    state_dir: PathBuf,

    /// Where requests come in; port 0 takes a free one. Likewise below.
    #[arg(long, env = "EBB_GATEWAY", value_name = "ADDR", default_value = "127.0.0.1:8080", value_parser = address)]
    gateway: SocketAddr,

    /// Where the Kubernetes API listens.
    #[arg(long, env = "EBB_API", value_name = "ADDR", default_value = "127.0.0.1:8001", value_parser = address)]
    api: SocketAddr,

    /// Where the page, health and the present state are served.
    #[arg(long, env = "EBB_ADMIN", value_name = "ADDR", default_value = "127.0.0.1:8008", value_parser = address)]
    admin: SocketAddr,

    /// Where activators report to.
    #[arg(long, env = "EBB_STATS", value_name = "ADDR", default_value = "127.0.0.1:8088", value_parser = address)]
    stats: SocketAddr,

    /// How long each pod takes from being wanted to starting its process, as scheduling and pulling would.
    #[arg(long, env = "EBB_STARTUP_DELAY", value_name = "DURATION", default_value = "1s", value_parser = span)]
    startup_delay: Span,

    /// The stable window of revisions that do not set their own; from 6s to 1h.
    #[arg(long, env = "EBB_WINDOW", value_name = "DURATION", default_value = "60s", value_parser = window)]
    window: Span,

    /// What stands at the gateway's address: one that reads Knative's own ingress objects, or a double of Alibaba
    /// Cloud's ALB, which follows within a second or so the Ingresses that are written for it.
    #[arg(long, env = "EBB_GATEWAY_MODE", value_enum, default_value_t)]
    gateway_mode: GatewayMode,

    /// Where the double answers HTTPS too, such as 127.0.0.1:8443, with the certificates that KIngresses name [default:
    /// nowhere].
    #[arg(long, env = "EBB_GATEWAY_HTTPS", value_name = "ADDR", value_parser = address)]
    gateway_https: Option<SocketAddr>,

    /// Behind the double, let revisions go to zero without a proof that it does not send to their pods any more. For
    /// tests: requests are lost.
    #[arg(long, hide = true)]
    without_gates: bool,

    /// Whether to decide exactly as the reference does, sharp edges included.
    #[arg(long, env = "EBB_COMPAT", value_enum, default_value_t)]
    compat: CompatMode,

    /// Show metrics under the names of Knative up to 1.18 too (autoscaler_desired_pods and so on), for dashboards of that
    /// time.
    #[arg(long, env = "EBB_OLDER_METRICS", value_parser = clap::builder::BoolishValueParser::new())]
    older_metrics: bool,

    #[command(flatten)]
    recording: recording::Args,
}

/// What stands at the gateway's address.
#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Debug, Default)]
enum GatewayMode {
    /// A gateway that reads Knative's ingress objects
    #[default]
    Knative,
    /// A double of Alibaba Cloud's ALB
    Alb,
}

/// Where the double answers, whatever it is called: over HTTP, and over HTTPS if it does.
struct DoubleVips(SocketAddr, Option<SocketAddr>);

impl Vips for DoubleVips {
    fn resolve<'a>(&'a self, _: &'a str, secure: bool) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        let address = if secure { self.1 } else { Some(self.0) };
        Box::pin(async move { Ok(address.into_iter().collect()) })
    }
}

/// The double of a load balancer here: late enough to be seen, and soon enough to work with.
fn double() -> alb::Options {
    let soon = Span::from_millis(100)..=Span::from_millis(1000);
    let manners = Manners { membership: soon.clone(), rules: soon, ..Manners::default() };
    alb::Options { config: "local".to_owned(), addresses: 1, manners, seed: rand::random() }
}

/// The double is faster than a cloud, so proofs are made in a fifth of the time.
fn timers() -> Timers {
    Timers::default().scaled(1, 5)
}

/// Services whose address is shown at the start.
const MOST_SHOWN: usize = 5;
/// How long requests that wait in the activator may take to finish once asked to stop.
const ACTIVATOR_DRAIN: Duration = Duration::from_secs(5);
/// How long Services may take to become ready, beside the start-up delay, before they are shown as they are.
const STARTS_WITHIN: Duration = Duration::from_secs(15);
/// How often the table is drawn.
const TABLE_EVERY: Duration = Duration::from_secs(1);
/// The activator listens on the first of these addresses that is free: `127.0.0.N`.
const ACTIVATOR_ADDRESSES: std::ops::RangeInclusive<u8> = 2..=99;

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        format!(
            "{text:?} is not an IP address and a port; write it as 127.0.0.1:8080, or 127.0.0.1:0 for any free port"
        )
    })
}

fn window(text: &str) -> Result<Span, String> {
    let window = span(text)?;
    if window < Span::from_seconds(6) || window > Span::from_seconds(3600) {
        return Err(format!("{text:?} is out of range; a window is from 6s to 1h"));
    }
    if !crate::api::duration::is_whole_seconds(window) {
        return Err(format!("{text:?} is not a whole number of seconds"));
    }
    Ok(window)
}

pub(super) fn run(args: Args, log: Option<&str>, log_format: LogFormat) -> anyhow::Result<Exit> {
    let screen = Screen::new();
    let writer = screen.clone();
    telemetry::start("ebb", log.unwrap_or("warn,pod=info"), log_format, move || writer.log_writer())?;
    let manifests = if args.filenames.is_empty() {
        manifest::parse("the sample", SAMPLE_MANIFEST)
    } else {
        manifest::read(&args.filenames)
    };
    let manifests = manifests?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let outcome = runtime.block_on(local(args, &manifests, &screen));
    // Tasks that are still there (watches of a client that was dropped) end with the process.
    runtime.shutdown_timeout(Duration::from_millis(100));
    outcome
}

/// The listeners, so that a port in use is told before anything starts.
struct Listeners {
    gateway: TcpListener,
    https: Option<TcpListener>,
    api: TcpListener,
    admin: TcpListener,
    stats: TcpListener,
}

impl Listeners {
    async fn bind(args: &Args) -> anyhow::Result<Self> {
        Ok(Self {
            gateway: listen(args.gateway, "--gateway").await?,
            https: match args.gateway_https {
                Some(address) => Some(listen(address, "--gateway-https").await?),
                None => None,
            },
            api: listen(args.api, "--api").await?,
            admin: listen(args.admin, "--admin").await?,
            stats: listen(args.stats, "--stats").await?,
        })
    }
}

async fn listen(address: SocketAddr, flag: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        // One address of every machine there is, where this one has not the address asked for.
        let has_it = std::net::TcpListener::bind((address.ip(), 0)).is_ok();
        let free = SocketAddr::new(if has_it { address.ip() } else { Ipv4Addr::LOCALHOST.into() }, 0);
        format!(
            "cannot listen on {address}; choose another address with {flag}, such as {flag} {free} for any free port"
        )
    })
}

async fn local(args: Args, manifests: &[Manifest], screen: &Screen) -> anyhow::Result<Exit> {
    anyhow::ensure!(
        args.gateway_https.is_none() || args.gateway_mode == GatewayMode::Alb,
        "--gateway-https is for the double of a load balancer; add --gateway-mode alb, or leave it out"
    );
    let mut signals = Signals::new()?;
    let clock = super::clock();
    let compat = args.compat.into();
    let journal = args.recording.open(compat, clock)?;
    let listeners = Listeners::bind(&args).await?;
    let mut addresses = Addresses {
        gateway: listeners.gateway.local_addr()?,
        https: listeners.https.as_ref().map(TcpListener::local_addr).transpose()?,
        api: listeners.api.local_addr()?,
        admin: listeners.admin.local_addr()?,
        stats: listeners.stats.local_addr()?,
        activator_metrics: None,
    };
    let state = StateDir::create(&args.state_dir)?;

    // The cluster: its API, and what turns Services into pods and routes.
    let (api_stop, watches) = (CancellationToken::new(), CancellationToken::new());
    let settings = AutoscalerSettings::new(compat);
    let store = apiserver::Store::new(clock);
    store.set_admission(knative::admission::admission(settings.clone()));
    let api = tokio::spawn(apiserver::serve(listeners.api, Arc::clone(&store), api_stop.clone()));
    let api_url: http::Uri = format!("http://{}", addresses.api).parse().context("the API's own address")?;
    let kubernetes = crate::k8s::pace::connect(kube::Config::new(api_url.clone()))?;
    set_window(&kubernetes, args.window).await?;
    let stats_sink = client::spawn(&format!("ws://{}", addresses.stats), Arc::new(SystemDial), watches.clone())?;
    let mut connected = stats_sink.connected();
    let ledger = Ledger::new(clock, true);
    let balanced = args.gateway_mode == GatewayMode::Alb;
    let stats_sink = Arc::new(stats_sink);
    let mut activators = Vec::new();
    // Behind a load balancer no revision is left without pods to one activator alone.
    for number in 0..if balanced { 2 } else { 1 } {
        activators.push(bind_activator(number, Arc::clone(&stats_sink), &ledger, clock).await?);
    }
    if let Some((_, first)) = activators.first() {
        addresses.activator_metrics = first.metrics_addr()?;
    }
    let mut options = Options {
        activators: activators.iter().map(|(ip, _)| *ip).collect(),
        pods: kubelet::Settings {
            startup_delay: args.startup_delay.to_std(),
            guarded: true,
            ..kubelet::Settings::default()
        },
        balancer: balanced.then(double),
        ..Options::default()
    };
    if balanced {
        CLASS.clone_into(&mut options.ingress_class);
    }
    let domain = options.domain.clone();
    let cluster = LocalCluster::start(options, Some(listeners.gateway), kubernetes.clone(), clock, settings).await?;

    if let Some(https) = listeners.https {
        cluster.serve_https(https);
    }

    // The autoscaler, and the activator that reports to it.
    let maps = Maps::default();
    let start = settings::read(&kubernetes, &maps, compat).await?;
    let vips: Arc<dyn Vips> = Arc::new(DoubleVips(addresses.gateway, addresses.https));
    let gates = (balanced && !args.without_gates).then(|| Keeper::new(clock, timers(), Arc::clone(&vips)));
    let options = app::Options {
        client: kubernetes.clone(),
        clock,
        compat,
        classes: Classes::default(),
        dial: Arc::new(LocalDial::new(cluster.services().clone())),
        cluster_domain: "cluster.local".to_owned(),
        ownership: Choice::Single,
        maps,
        start,
        stats: Listen::Now(listeners.stats),
        admin: listeners.admin,
        metrics: None,
        show: Show {
            older_metrics: args.older_metrics,
            api: Some(api_url),
            journal,
            ledger: Some(ledger),
            ..Show::default()
        },
        gates: gates.clone(),
    };
    let autoscaler = Autoscaler::start(options, CancellationToken::new()).await?;
    if balanced {
        let setup = controller::Setup {
            client: kubernetes.clone(),
            clock,
            ownership: autoscaler.ownership().clone(),
            namespace: SYSTEM_NAMESPACE.to_owned(),
            vips,
            gates: gates.map(|keeper| (keeper, autoscaler.serverless_services().clone())),
        };
        tokio::spawn(Controller::new(setup, &watches).run(watches.clone()));
    }
    let (activator_stop, activator_tasks) = (CancellationToken::new(), TaskTracker::new());
    let feeds = TaskTracker::new();
    for (ip, activator) in activators {
        feeds.spawn(activator::feed::run(
            kubernetes.clone(),
            activator.backends(),
            activator.ports(),
            ip,
            watches.clone(),
        ));
        activator_tasks.spawn(activator.run(activator_stop.clone()));
    }
    feeds.close();
    activator_tasks.close();

    let running = async {
        // Ready when the autoscaler hears it: the first request must not find nobody listening.
        let _ = tokio::time::timeout(STARTS_WITHIN, connected.wait_for(|up| *up)).await;
        let refused = manifest::apply(&kubernetes, manifests).await;
        for problem in &refused {
            eprintln!("ebb: {problem}");
        }
        if !refused.is_empty() {
            return Ok(Exit::CouldNotAnswer);
        }
        for (service, why) in not_ready(&kubernetes, manifests, args.startup_delay).await {
            eprintln!("ebb: {service} is not ready yet: {why}");
        }
        state.write(&addresses)?;
        welcome(screen, &addresses, &state, manifests, &domain);
        show(screen, &autoscaler, clock).await;
        Ok(Exit::Done)
    };
    // Pods may run from the first object on, so from there on everything ends in order.
    let exit: anyhow::Result<Exit> = tokio::select! {
        () = signals.next() => Ok(Exit::Done),
        exit = running => exit,
    };

    // In order: nobody comes in, what is under way ends, nothing scales any more, pods go, the API is last.
    screen.clear_table();
    if screen.is_terminal() && matches!(exit, Ok(Exit::Done)) {
        screen.line("stopping; once more to stop at once");
    }
    let stopping = async {
        cluster.close_gateway().await;
        activator_stop.cancel();
        activator_tasks.wait().await;
        watches.cancel();
        feeds.wait().await;
        autoscaler.stop().await;
        cluster.stop().await;
        api_stop.cancel();
        // It ends with the cancellation above and cannot fail.
        let _ = api.await;
    };
    let exit = tokio::select! {
        () = stopping => exit,
        () = signals.next() => Ok(Exit::Interrupted),
    };
    state.remove();
    exit
}

/// Waits for the Services that were applied, so that the first request finds a route; which of them are not ready after
/// a fair time or have failed, and what they say.
async fn not_ready(client: &Client, manifests: &[Manifest], startup_delay: Span) -> Vec<(RevisionKey, String)> {
    let services = manifests.iter().filter(|manifest| is_service(manifest)).map(|manifest| {
        let meta = &manifest.object.metadata;
        let namespace = meta.namespace.as_deref().unwrap_or("default");
        RevisionKey::new(namespace, meta.name.as_deref().unwrap_or_default())
    });
    let limit = STARTS_WITHIN + startup_delay.to_std();
    let waits = services.map(async |key| {
        let api: Api<Service> = Api::namespaced(client.clone(), key.namespace());
        let is_settled = |service: Option<&Service>| service.is_some_and(|service| ready(service).0 != Status::Unknown);
        let wait = await_condition(api.clone(), key.name(), is_settled);
        // Whether it became ready or not, and what it says of itself, is looked up below in either case.
        let _ = tokio::time::timeout(limit, wait).await;
        match api.get(key.name()).await.map(|service| ready(&service)) {
            Ok((Status::True, _)) => None,
            Ok((_, why)) => Some((key, why)),
            Err(error) => Some((key, error.to_string())),
        }
    });
    join_all(waits).await.into_iter().flatten().collect()
}

fn is_service(manifest: &Manifest) -> bool {
    manifest.resource.group == "serving.knative.dev" && manifest.resource.kind == "Service"
}

/// Whether a Service is ready as it is now, and what it says about it: what is wrong with its revision, if that is it.
fn ready(service: &Service) -> (Status, String) {
    let status = service.status.clone().unwrap_or_default();
    let condition = conditions::find(&status.conditions, conditions::READY);
    let current = Some(status.observed_generation) == service.metadata.generation;
    let of_now = condition.filter(|_| current).map_or(Status::Unknown, |condition| condition.status);
    let revision = conditions::find(&status.conditions, "ConfigurationsReady");
    let says = [revision, condition].into_iter().flatten().find(|condition| !condition.message.is_empty());
    (of_now, says.map(|condition| condition.message.clone()).unwrap_or_default())
}

/// An activator on the first of its addresses that is free.
async fn bind_activator(
    number: usize,
    sink: Arc<client::Handle>,
    ledger: &Ledger,
    clock: Clock,
) -> anyhow::Result<(IpAddr, activator::Bound)> {
    for last in ACTIVATOR_ADDRESSES {
        let ip = IpAddr::V4(Ipv4Addr::new(127, 0, 0, last));
        let mut config = activator::Config::new(&format!("activator-local-{number}"), ip);
        config.metrics = Some((SocketAddr::new(ip, DEFAULT_PORT), Registry::of_part()));
        // Nobody else has to learn that it goes.
        (config.drain_period, config.balanced_drain_period) = (Duration::ZERO, Duration::ZERO);
        config.drain_limit = ACTIVATOR_DRAIN;
        config.ledger = Some(ledger.clone());
        match Activator::bind(config, Arc::clone(&sink) as Arc<dyn activator::load::StatSink>, clock).await {
            Ok(bound) => return Ok((ip, bound)),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => {
                return Err(error).with_context(|| {
                    format!(
                        "cannot listen on {ip}, and every pod needs a loopback address of its own. Linux has them by \
                         itself; elsewhere add them first: \
                         for i in $(seq 2 50); do sudo ifconfig lo0 alias 127.0.0.$i up; sudo ifconfig lo0 alias 127.1.0.$i up; done"
                    )
                });
            }
        }
    }
    bail!(
        "port {QUEUE_HTTP1_PORT}, {QUEUE_H2C_PORT} or {DEFAULT_PORT} is taken on every address from 127.0.0.2 to 127.0.0.99; \
         stop what listens there, perhaps other runs of ebb, or have it listen on 127.0.0.1 only"
    )
}

/// Writes `config-autoscaler` with the window; what else the cluster needs is written where it is missing.
async fn set_window(client: &Client, window: Span) -> anyhow::Result<()> {
    let map: ConfigMap = serde_json::from_value(json!({
        "metadata": {"name": "config-autoscaler", "namespace": SYSTEM_NAMESPACE},
        "data": {"stable-window": window.to_string()},
    }))
    .expect("a literal ConfigMap");
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
    maps.create(&PostParams::default(), &map).await.context("config-autoscaler cannot be written")?;
    Ok(())
}

#[derive(Clone, Copy, Debug)]
struct Addresses {
    gateway: SocketAddr,
    https: Option<SocketAddr>,
    api: SocketAddr,
    admin: SocketAddr,
    stats: SocketAddr,
    activator_metrics: Option<SocketAddr>,
}

/// The directory other programs find the cluster by.
struct StateDir {
    path: PathBuf,
    /// Held as long as this process lives, so that another one does not take the directory for its own.
    _lock: fs::File,
}

impl StateDir {
    fn create(path: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(path).with_context(|| {
            format!("cannot make the directory {}; choose another with --state-dir", path.display())
        })?;
        let lock = path.join("lock");
        let file = fs::File::create(&lock)
            .with_context(|| format!("cannot write {}; choose another directory with --state-dir", lock.display()))?;
        if let Err(fs::TryLockError::WouldBlock) = file.try_lock() {
            bail!("{} belongs to an ebb local that is running; choose another with --state-dir", path.display());
        }
        let state = Self { path: path.to_owned(), _lock: file };
        // What an earlier run left behind must not be taken for this one.
        state.remove();
        Ok(state)
    }

    fn kubeconfig(&self) -> PathBuf {
        self.path.join("kubeconfig")
    }

    fn endpoints(&self) -> PathBuf {
        self.path.join("endpoints.json")
    }

    fn write(&self, addresses: &Addresses) -> anyhow::Result<()> {
        let endpoints = json!({
            "gateway": format!("http://{}", addresses.gateway),
            "gateway-https": addresses.https.map(|at| format!("https://{at}")),
            "api": format!("http://{}", addresses.api),
            "admin": format!("http://{}", addresses.admin),
            "stats": format!("ws://{}", addresses.stats),
            "activator-metrics": addresses.activator_metrics.map(|at| format!("http://{at}/metrics")),
        });
        write_whole(&self.kubeconfig(), &apiserver::kubeconfig(addresses.api))?;
        // Last, so that whoever waits for it finds everything.
        write_whole(&self.endpoints(), &format!("{endpoints:#}\n"))
    }

    fn remove(&self) {
        for file in [self.endpoints(), self.kubeconfig()] {
            // Not there is as good as removed.
            let _ = fs::remove_file(file);
        }
    }
}

/// Writes a file so that nobody ever sees a part of it.
fn write_whole(path: &Path, content: &str) -> anyhow::Result<()> {
    let part = path.with_extension("part");
    fs::write(&part, content)
        .and_then(|()| fs::rename(&part, path))
        .with_context(|| format!("cannot write {}", path.display()))
}

fn welcome(screen: &Screen, addresses: &Addresses, state: &StateDir, manifests: &[Manifest], domain: &str) {
    let hosts = manifests.iter().filter(|manifest| is_service(manifest)).map(|manifest| {
        let meta = &manifest.object.metadata;
        let (name, namespace) = (meta.name.as_deref().unwrap_or(""), meta.namespace.as_deref().unwrap_or("default"));
        format!("curl -H 'Host: {name}.{namespace}.{domain}' http://{}/", addresses.gateway)
    });
    let kubeconfig = state.kubeconfig();
    screen.line("ebb local is ready; Ctrl-C stops it.\n");
    let hosts: Vec<String> = hosts.collect();
    for (number, command) in hosts.iter().take(MOST_SHOWN).enumerate() {
        let title = if number == 0 { "requests" } else { "" };
        screen.line(&format!("  {title:<11} {command}"));
    }
    if let more @ 1.. = hosts.len().saturating_sub(MOST_SHOWN) {
        screen.line(&format!("  {:<11} and {more} more, all on the page", ""));
    }
    screen.line(&format!(
        "  {:<11} kubectl --kubeconfig {} get pa,sks,deploy,pods",
        "kubernetes",
        kubeconfig.display()
    ));
    screen.line(&format!("  {:<11} http://{}/", "page", addresses.admin));
    screen.line(&format!("  {:<11} {}\n", "addresses", state.endpoints().display()));
}

/// A line per change of scale, and on a terminal a table. Never ends by itself.
async fn show(screen: &Screen, autoscaler: &Autoscaler, clock: Clock) {
    let feed: &Feed = autoscaler.feed();
    let mut changes = feed.listen();
    let mut every = tokio::time::interval(TABLE_EVERY);
    loop {
        tokio::select! {
            change = changes.recv() => match change {
                Ok(change) => screen.line(&change_line(&change)),
                Err(broadcast::error::RecvError::Lagged(missed)) => screen.line(&format!("({missed} changes not shown)")),
                Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
            },
            _ = every.tick(), if screen.is_terminal() => screen.table(table(&autoscaler.rows(), clock.now())),
        }
    }
}

/// `10:15:04  default/hello-00001  0 → 1  1.0 requests in flight / target 7.0 = 1 pod`
fn change_line(change: &ScaleChange) -> String {
    let at = conditions::to_jiff(change.at).to_zoned(jiff::tz::TimeZone::system());
    format!("{}  {}  {} → {}  {}", at.strftime("%H:%M:%S"), change.key, change.from, change.to, change.because)
}

fn table(rows: &[Row], now: Timestamp) -> Vec<String> {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header([
        "REVISION",
        "WANTED",
        "READY",
        "STARTING",
        "STOPPING",
        "LOAD",
        "LAST SECONDS",
        "TARGET",
        "BURST ROOM",
        "PANIC",
    ]);
    for row in rows {
        let wanted = row.desired.map_or_else(|| "?".to_owned(), |desired| desired.to_string());
        let starting = row.pods.not_ready.saturating_sub(row.pods.terminating);
        let mut cells = vec![
            row.key.to_string(),
            wanted,
            row.pods.ready.to_string(),
            starting.to_string(),
            row.pods.terminating.to_string(),
        ];
        match &row.decision {
            Some(decision) => cells.extend([
                format!("{:.1}", decision.observed.stable),
                format!("{:.1}", decision.observed.panic),
                format!("{:.1}", decision.target),
                decision.excess_burst.to_string(),
                decision.panicking_since.map_or_else(String::new, |since| {
                    format!("for {}s", now.since(since).nanos() / crate::units::NANOS_PER_SECOND)
                }),
            ]),
            None => cells.extend(vec!["-".to_owned(); 5]),
        }
        table.add_row(cells);
    }
    std::iter::once(String::new()).chain(table.lines()).collect()
}
