//! `ebb run`: the autoscaler of a cluster.

use crate::app::shadow::{self, ShadowAutoscaler};
use crate::app::{self, Autoscaler, Listen, Show};
use crate::cli::exit::Exit;
use crate::cli::{CompatMode, Signals, clock, recording, span, with_server};
use crate::config::cluster_domain;
use crate::config::observability::MetricsProtocol;
use crate::controllers::settings::{self, Maps};
use crate::k8s::dial::SystemDial;
use crate::k8s::pace;
use crate::observe::metrics::endpoint::Endpoint;
use crate::observe::telemetry::{self, Log, LogFormat};
use crate::ownership::Choice;
use crate::ownership::class::Classes;
use crate::ownership::holder::{Identity, STATS_PORT, StatefulSet};
use crate::routing::controller::{self, Controller};
use crate::routing::gate::Timers;
use crate::routing::keeper::Keeper;
use crate::routing::model;
use crate::routing::probe::SystemVips;
use crate::units::Span;
use anyhow::Context as _;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec};
use kube::Client;
use kube::api::{Api, PostParams};
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

/// Run the autoscaler of a cluster, in place of Knative's.
///
/// In a pod it takes no flags: the environment says who and where it is, Knative's ConfigMaps say
/// the rest. It listens once it knows the cluster, so that a probe of port 8080 is answered when it
/// is ready. SIGTERM stops it in order, a second one at once.
///
/// Environment:
///   POD_NAME, POD_IP             the pod it runs in; required
///   SYSTEM_NAMESPACE             where Knative Serving lives, usually knative-serving; required
///   CONFIG_LOGGING_NAME          another name for config-logging
///   CONFIG_OBSERVABILITY_NAME    another name for config-observability
///   CONFIG_LEADERELECTION_NAME   another name for config-leader-election
///   KUBERNETES_MIN_VERSION       the oldest Kubernetes to start on [default: v1.34.0]
///   CLUSTER_DOMAIN               the cluster's DNS domain [default: what /etc/resolv.conf
///                                searches, or cluster.local]
///   PROFILING_PORT               another port for health and state [default: 8008]
///   STATEFUL_CONTROLLER_ORDINAL, STATEFUL_SERVICE_NAME, STATEFUL_SERVICE_PORT,
///   STATEFUL_SERVICE_PROTOCOL    its place in a StatefulSet, instead of leader election
///   METRICS_PROMETHEUS_HOST, METRICS_PROMETHEUS_PORT
///                                another address for metrics, where config-observability asks for
///                                them [default: port 9090]
///
/// With --shadow it runs beside the autoscaler there is: it decides as it would, compares, and
/// writes nothing to the cluster. Where the two differ is in the log, at /shadow on the admin port,
/// and in its metrics.
///
/// Examples:
///   ebb run
///   ebb run --shadow
///   ebb run --kubeconfig ~/.kube/config --compat strict
#[derive(clap::Args, Debug)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// Whether to decide exactly as the reference does, sharp edges included.
    #[arg(long, env = "EBB_COMPAT", value_enum, default_value_t)]
    compat: CompatMode,

    /// Only compare with the autoscaler that runs the cluster: take no lease, write nothing, listen to no activator.
    #[arg(long, env = "EBB_SHADOW", value_parser = clap::builder::BoolishValueParser::new())]
    shadow: bool,

    /// Whether to program Alibaba Cloud's load balancer (ALB) for Knative's traffic. auto is on where config-network names
    /// its ingress class and Ebb's account may write Ingresses. Nobody else may program that class.
    #[arg(long, env = "EBB_ALB", value_enum, value_name = "WHEN", default_value_t)]
    alb: Alb,

    /// Serve PodAutoscalers of the class mpa.autoscaling.knative.dev too, as if they were of the class kpa. The class is
    /// Alibaba Cloud's, for its MSE gateway; only where nothing else serves it.
    #[arg(long, env = "EBB_SERVE_MPA", value_parser = clap::builder::BoolishValueParser::new())]
    serve_mpa: bool,

    /// Show metrics under the names of Knative up to 1.18 too (autoscaler_desired_pods and so on), for dashboards of that
    /// time.
    #[arg(long, env = "EBB_OLDER_METRICS", value_parser = clap::builder::BoolishValueParser::new())]
    older_metrics: bool,

    #[command(flatten)]
    recording: recording::Args,

    /// Where activators and other autoscalers report load [default: port 8080 of every address].
    #[arg(long, env = "EBB_STATS", value_name = "ADDR")]
    stats: Option<SocketAddr>,

    /// Where health and the present state are served [default: port 8008 of every address].
    #[arg(long, env = "EBB_ADMIN", value_name = "ADDR")]
    admin: Option<SocketAddr>,

    /// How long to wait at the start for an API server that does not answer.
    #[arg(long, env = "EBB_API_PATIENCE", value_name = "DURATION", default_value = "60s", value_parser = span)]
    api_patience: Span,

    /// The file that says how to reach the cluster; in a pod, and with $KUBECONFIG, it is found without.
    #[arg(long, value_name = "FILE", help_heading = "Outside a cluster")]
    kubeconfig: Option<PathBuf>,

    /// The cluster of the kubeconfig to use, instead of the current context's.
    #[arg(long, value_name = "NAME", conflicts_with = "server", help_heading = "Outside a cluster")]
    cluster: Option<String>,

    /// The URL of the API server, instead of the kubeconfig's.
    #[arg(long, value_name = "URL", help_heading = "Outside a cluster")]
    server: Option<http::Uri>,

    /// Without effect: requests are paced by what the API server says, not by a fixed rate. Accepted since Knative's
    /// autoscaler has it.
    #[arg(long, env = "KUBE_API_QPS", value_name = "NUMBER", help_heading = "Accepted and ignored")]
    kube_api_qps: Option<f64>,

    /// Without effect, as --kube-api-qps.
    #[arg(long, env = "KUBE_API_BURST", value_name = "NUMBER", help_heading = "Accepted and ignored")]
    kube_api_burst: Option<i64>,
}

/// When to program the load balancer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
enum Alb {
    /// Where the cluster's ingress class is its, and Ebb is allowed to.
    #[default]
    Auto,
    /// For KIngresses of its class, whatever the cluster's is.
    On,
    /// Not at all.
    Off,
}

/// The port for health and state.
const ADMIN_PORT: u16 = 8008;
/// The oldest Kubernetes that Knative Serving itself starts on.
const MIN_VERSION: Version = Version { major: 1, minor: 34, patch: 0 };
/// How often an API server is tried that does not answer …
const API_PAUSE: Duration = Duration::from_secs(1);
/// … and how long one try may take.
const API_TRY: Duration = Duration::from_secs(5);
/// How long an orderly stop may take: leases, then sockets and what is being written. Kubernetes gives a pod 30 s.
const STOP: Duration = Duration::from_secs(20);
/// Threads that run tasks. The work of 10,000 revisions is a small part of one; the second keeps a long turn of one
/// from being felt.
const THREADS: usize = 2;
/// Threads for what blocks, which is looking up names.
const BLOCKING_THREADS: usize = 16;
/// How long the controller of the load balancer may take to finish what it is writing.
const LAST_LOOK: Duration = Duration::from_secs(5);
/// Variables for pushing metrics and traces.
const OTLP_VARIABLES: [&str; 6] = [
    "OTEL_SERVICE_NAME",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_METRIC_EXPORT_INTERVAL",
    "OTEL_TRACES_SAMPLER",
];
/// The file that names the cluster's domain.
const RESOLV_CONF: &str = "/etc/resolv.conf";

pub(super) fn run(args: Args, log: Option<&str>, format: Option<LogFormat>) -> anyhow::Result<Exit> {
    // Not locked for longer than a line: whoever reads it may be slow.
    let logging =
        telemetry::start("autoscaler", log.unwrap_or("info"), format.unwrap_or(LogFormat::Json), std::io::stdout)?;
    let logging = Logging { log: logging, level_is_set: log.is_some(), format_is_set: format.is_some() };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .max_blocking_threads(BLOCKING_THREADS)
        .enable_all()
        .build()?;
    let outcome = runtime.block_on(async {
        let mut signals = Signals::new().context("signals cannot be received")?;
        let started = tokio::select! {
            started = start(args, &logging) => started?,
            () = signals.next() => {
                info!("asked to stop before it was ready");
                return Ok(Exit::Done);
            }
        };
        Ok(serve(started, &logging, &mut signals).await)
    });
    if let Err(error) = &outcome {
        // Once more on standard error, in lines for people, where the command's result is told.
        error!("not started: {error:#}");
    }
    // Tasks that are still there end with the process.
    runtime.shutdown_timeout(Duration::from_millis(100));
    outcome
}

/// Logging, and what of it is the command line's rather than the ConfigMap's.
struct Logging {
    log: Log,
    level_is_set: bool,
    format_is_set: bool,
}

/// Everything up to the moment the stat port is open, in the reference's order: version, logging, observability, the
/// other settings, the caches.
async fn start(args: Args, logging: &Logging) -> anyhow::Result<Running> {
    let environment = Environment::from_vars(|name| std::env::var(name).ok())?;
    let Environment { identity, maps, min_version, admin_port } = environment;
    info!(version = env!("CARGO_PKG_VERSION"), pod = identity.pod(), ip = %identity.ip(), "starting");
    if args.kube_api_qps.is_some() || args.kube_api_burst.is_some() {
        warn!("--kube-api-qps and --kube-api-burst have no effect: requests are paced by what the API server says");
    }
    for text in without_effect(|name| std::env::var(name).ok()) {
        warn!("{text}");
    }
    let compat = args.compat.into();
    let config = with_server(kube_config(&args).await?)?;
    let api = config.cluster_url.clone();
    let client = pace::connect(config)?;
    check_version(&client, min_version, args.api_patience.to_std()).await?;

    let process = settings::read_process(&client, &maps, compat).await?;
    if !logging.format_is_set {
        logging.log.set_format(process.logging.encoding.into());
    }
    if !logging.level_is_set {
        logging.log.set_level(process.logging.level);
    }
    let start = settings::read(&client, &maps, compat).await?;

    let admin = args.admin.map_or_else(|| everywhere(admin_port), |address| vec![address]);
    let admin = TcpListener::bind(admin.as_slice())
        .await
        .with_context(|| format!("cannot listen on {admin:?}; choose another address with --admin"))?;
    let admin_address = admin.local_addr()?;
    let environment = |name: &str| std::env::var(name).ok();
    let metrics = if let Some(endpoint) = Endpoint::of(&start.process.observability.metrics, environment)? {
        Some(endpoint.bind().await.with_context(|| {
            format!("cannot listen on {endpoint} for metrics; choose another port with METRICS_PROMETHEUS_PORT")
        })?)
    } else {
        if start.process.observability.metrics.protocol != MetricsProtocol::None {
            warn!(
                "config-observability has a metrics-protocol that pushes, which Ebb does not; set it to prometheus, or \
                 scrape /metrics on the admin port"
            );
        }
        None
    };
    let clock = clock();
    let journal = args.recording.open_when_possible(compat, identity.pod(), clock)?;
    if args.shadow {
        let dial = Arc::new(SystemDial);
        let options = shadow::Options { client, clock, compat, dial, maps, start, admin, metrics, journal };
        let shadow = ShadowAutoscaler::start(options, CancellationToken::new()).await;
        info!(admin = %admin_address, "ready");
        return Ok(Running::Shadow(shadow));
    }
    let alb = match args.alb {
        Alb::Auto => start.network.ingress_class == model::CLASS && may_write_ingresses(&client).await,
        Alb::On => true,
        Alb::Off => false,
    };
    let keeper = alb.then(|| Keeper::new(clock, Timers::default(), Arc::new(SystemVips)));
    let alb_setup = |autoscaler: &Autoscaler, keeper: &Keeper| controller::Setup {
        client: client.clone(),
        clock,
        ownership: autoscaler.ownership().clone(),
        namespace: maps.namespace.clone(),
        vips: Arc::new(SystemVips),
        gates: Some((keeper.clone(), autoscaler.serverless_services().clone())),
    };
    let variable = environment("CLUSTER_DOMAIN");
    let resolv_conf = std::fs::read_to_string(RESOLV_CONF).ok();
    let show = Show {
        older_metrics: args.older_metrics,
        pod: identity.pod().to_owned(),
        api: Some(api),
        journal,
        ..Show::default()
    };
    let options = app::Options {
        client: client.clone(),
        clock,
        compat,
        classes: Classes::new(args.serve_mpa),
        dial: Arc::new(SystemDial),
        cluster_domain: cluster_domain::of(variable.as_deref(), resolv_conf.as_deref()),
        ownership: Choice::Cluster { identity, stateful_set: StatefulSet::from_env(environment) },
        maps: maps.clone(),
        start,
        stats: Listen::OnceReady(args.stats.map_or_else(|| everywhere(STATS_PORT), |address| vec![address])),
        admin,
        metrics,
        show,
        gates: keeper.clone(),
    };
    let autoscaler = Autoscaler::start(options, CancellationToken::new()).await?;
    let alb = keeper.map(|keeper| {
        info!("Knative's traffic is programmed on the ALB");
        let cancel = CancellationToken::new();
        let controller = Controller::new(alb_setup(&autoscaler, &keeper), &cancel);
        let task = tokio::spawn(controller.run(cancel.clone()));
        Routing { cancel, task: Mutex::new(task) }
    });
    info!(stats = %autoscaler.stats_address(), admin = %admin_address, "ready");
    Ok(Running::Autoscaler(autoscaler, alb))
}

/// Whether this account may write Ingresses. Where it may not, somebody else programs the load balancer.
async fn may_write_ingresses(client: &Client) -> bool {
    let asked = ResourceAttributes {
        group: Some("networking.k8s.io".to_owned()),
        resource: Some("ingresses".to_owned()),
        verb: Some("patch".to_owned()),
        ..ResourceAttributes::default()
    };
    let spec = SelfSubjectAccessReviewSpec { resource_attributes: Some(asked), non_resource_attributes: None };
    let review = SelfSubjectAccessReview { spec, ..SelfSubjectAccessReview::default() };
    let answer = Api::all(client.clone()).create(&PostParams::default(), &review).await;
    let allowed = match answer {
        Ok(answer) => answer.status.is_some_and(|status| status.allowed),
        Err(error) => {
            warn!(%error, "whether Ingresses may be written cannot be found out");
            false
        }
    };
    if !allowed {
        info!("the load balancer is left to others: Ingresses may not be written, and --alb is auto");
    }
    allowed
}

/// The running controller of the load balancer.
struct Routing {
    cancel: CancellationToken,
    task: Mutex<JoinHandle<()>>,
}

/// What runs.
enum Running {
    /// The cluster's autoscaler, and the controller of its load balancer.
    Autoscaler(Autoscaler, Option<Routing>),
    /// One beside it, that only compares.
    Shadow(ShadowAutoscaler),
}

impl Running {
    fn process(&self) -> watch::Receiver<settings::Process> {
        match self {
            Self::Autoscaler(autoscaler, _) => autoscaler.process(),
            Self::Shadow(shadow) => shadow.process(),
        }
    }

    /// Returns when a part of it has failed without which there is no point in going on.
    async fn failed(&self) {
        match self {
            Self::Autoscaler(autoscaler, None) => autoscaler.failed().await,
            Self::Autoscaler(autoscaler, Some(routing)) => {
                tokio::select! {
                    () = autoscaler.failed() => {}
                    // It ends when it is asked to, and no sooner.
                    _ = async { (&mut *routing.task.lock().await).await } => {
                        error!("the controller of the load balancer ended unasked");
                    }
                }
            }
            // Nobody depends on it.
            Self::Shadow(_) => std::future::pending().await,
        }
    }

    async fn stop(&self) {
        match self {
            Self::Autoscaler(autoscaler, routing) => {
                // First it writes nothing more; then the buckets are given up.
                if let Some(routing) = routing {
                    routing.cancel.cancel();
                    if tokio::time::timeout(LAST_LOOK, &mut *routing.task.lock().await).await.is_err() {
                        warn!("the controller of the load balancer did not end in {LAST_LOOK:?}");
                    }
                }
                autoscaler.stop().await;
            }
            Self::Shadow(shadow) => shadow.stop().await,
        }
    }
}

/// Runs until the first signal, or until a part of the autoscaler fails; then stops it in order.
async fn serve(running: Running, logging: &Logging, signals: &mut Signals) -> Exit {
    let mut process = running.process();
    let exit = loop {
        tokio::select! {
            () = signals.next() => break Exit::Done,
            () = running.failed() => break Exit::CutShort,
            Ok(()) = process.changed() => {
                if !logging.level_is_set {
                    logging.log.set_level(process.borrow_and_update().logging.level);
                }
            }
        }
    };
    info!("stopping; once more to stop at once");
    tokio::select! {
        () = running.stop() => {
            info!("stopped");
            exit
        }
        () = tokio::time::sleep(STOP) => {
            warn!("not everything stopped within {STOP:?}");
            Exit::CutShort
        }
        () = signals.next() => {
            warn!("stopped at once");
            Exit::CutShort
        }
    }
}

/// A port of every address: of both families on one socket, or where there is no IPv6 of the other alone.
fn everywhere(port: u16) -> Vec<SocketAddr> {
    vec![(Ipv6Addr::UNSPECIFIED, port).into(), (Ipv4Addr::UNSPECIFIED, port).into()]
}

/// How to reach the cluster: flags, `$KUBECONFIG`, `~/.kube/config`, the pod's own account.
async fn kube_config(args: &Args) -> anyhow::Result<Config> {
    let options = KubeConfigOptions { cluster: args.cluster.clone(), ..KubeConfigOptions::default() };
    let config = match &args.kubeconfig {
        Some(path) => {
            let file = Kubeconfig::read_from(path)
                .with_context(|| format!("{} cannot be read as a kubeconfig", path.display()))?;
            Config::from_custom_kubeconfig(file, &options).await.map_err(anyhow::Error::from)
        }
        None if args.cluster.is_some() => Config::from_kubeconfig(&options).await.map_err(anyhow::Error::from),
        None => Config::infer().await.map_err(anyhow::Error::from),
    };
    match (config, &args.server) {
        (Ok(config), None) => Ok(config),
        (Ok(mut config), Some(server)) => {
            config.cluster_url = server.clone();
            Ok(config)
        }
        (Err(_), Some(server)) if args.kubeconfig.is_none() => Ok(Config::new(server.clone())),
        (Err(error), _) => Err(error.context(
            "it is not known how to reach the cluster; run in a pod with a service account, or name a kubeconfig \
             with --kubeconfig FILE or $KUBECONFIG",
        )),
    }
}

/// Waits until the API server answers, and compares its version.
async fn check_version(client: &Client, min: Version, patience: Duration) -> anyhow::Result<()> {
    let answer = async {
        loop {
            let problem = match tokio::time::timeout(API_TRY, client.apiserver_version()).await {
                Ok(Ok(info)) => return info.git_version,
                Ok(Err(error)) => format!("{:#}", anyhow::Error::from(error)),
                Err(_) => format!("no answer within {API_TRY:?}"),
            };
            warn!(problem, "API server cannot be asked; tried again in {API_PAUSE:?}");
            tokio::time::sleep(API_PAUSE).await;
        }
    };
    let found = tokio::time::timeout(patience, answer).await.with_context(|| {
        format!(
            "the API server did not answer within {}; the log has what happened to each try. Whether it may take longer \
             is for --api-patience to say",
            Span::from_std(patience)
        )
    })?;
    let version =
        Version::parse(&found).with_context(|| format!("the API server's version {found:?} cannot be read"))?;
    if version < min {
        anyhow::bail!(
            "Kubernetes {found} is older than {min}, the oldest to start on; upgrade it, or set \
             KUBERNETES_MIN_VERSION={version} to start all the same"
        );
    }
    info!(kubernetes = found, "API server answers");
    Ok(())
}

/// A version of Kubernetes. What stands behind the three numbers is left alone: vendors put all kinds of things there.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Version {
    major: u32,
    minor: u32,
    patch: u32,
}

impl Version {
    fn parse(text: &str) -> Option<Self> {
        let numbers = text.strip_prefix('v').unwrap_or(text);
        let mut numbers = numbers.split(['-', '+']).next()?.split('.').map(str::parse);
        let version = Self {
            major: numbers.next()?.ok()?,
            minor: numbers.next()?.ok()?,
            patch: numbers.next().unwrap_or(Ok(0)).ok()?,
        };
        numbers.next().is_none().then_some(version)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// What the environment says.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Environment {
    /// Who this replica is to the others.
    identity: Identity,
    maps: Maps,
    min_version: Version,
    admin_port: u16,
}

/// What of the environment asks for something and does not get it.
fn without_effect(variable: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let set = |name: &&str| variable(name).is_some_and(|value| !value.is_empty());
    let mut told = Vec::new();
    if ["STATEFUL_CONTROLLER_ORDINAL", "STATEFUL_SERVICE_NAME"].iter().any(set)
        && StatefulSet::from_env(&variable).is_none()
    {
        told.push(
            "STATEFUL_CONTROLLER_ORDINAL and STATEFUL_SERVICE_NAME give no place in a StatefulSet, so owners are elected; \
             set the first to the name of the pod, such as autoscaler-0, and the second to the name of its headless Service, \
             or remove both"
                .to_owned(),
        );
    }
    let pushing: Vec<_> = OTLP_VARIABLES.into_iter().filter(set).collect();
    if !pushing.is_empty() {
        told.push(format!(
            "{} without effect: Ebb pushes no metrics and no traces; scrape /metrics on the admin port, or set \
             metrics-protocol of config-observability to prometheus",
            pushing.join(", ")
        ));
    }
    told
}

/// Everything that is wrong with the environment.
#[derive(Clone, PartialEq, Eq, Debug)]
struct EnvironmentError(Vec<String>);

impl fmt::Display for EnvironmentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for EnvironmentError {}

impl Environment {
    fn from_vars(variable: impl Fn(&str) -> Option<String>) -> Result<Self, EnvironmentError> {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let mut problems = Vec::new();
        let mut required = |name: &str, field: &str, what: &str| {
            set(name).unwrap_or_else(|| {
                problems.push(format!("{name} is not set; set it to {what} (in a pod: valueFrom: fieldRef: {field})"));
                String::new()
            })
        };
        let pod_name = required("POD_NAME", "metadata.name", "the name of the pod");
        let pod_ip = required("POD_IP", "status.podIP", "the address of the pod");
        let namespace = required(
            "SYSTEM_NAMESPACE",
            "metadata.namespace",
            "the namespace of Knative Serving, usually knative-serving",
        );
        let identity = Identity::new(&pod_name, &pod_ip);
        if let Err(error) = &identity
            && !pod_name.is_empty()
            && !pod_ip.is_empty()
        {
            problems.push(error.to_string());
        }
        let mut parsed = |name: &str, value: &str, accepted: &str| {
            problems.push(format!("{name}: {value:?} is not {accepted}"));
        };
        let min_version = set("KUBERNETES_MIN_VERSION").map_or(MIN_VERSION, |text| {
            Version::parse(&text).unwrap_or_else(|| {
                parsed("KUBERNETES_MIN_VERSION", &text, "a version, such as v1.34.0; remove it to get the default");
                MIN_VERSION
            })
        });
        let admin_port = set("PROFILING_PORT").map_or(ADMIN_PORT, |text| match text.parse() {
            Ok(port) if port > 0 => port,
            _ => {
                parsed("PROFILING_PORT", &text, "a port from 1 to 65535; remove it to get the default");
                ADMIN_PORT
            }
        });
        let usual = Maps::default();
        let maps = Maps {
            namespace,
            logging: set("CONFIG_LOGGING_NAME").unwrap_or(usual.logging),
            observability: set("CONFIG_OBSERVABILITY_NAME").unwrap_or(usual.observability),
            leader_election: set("CONFIG_LEADERELECTION_NAME").unwrap_or(usual.leader_election),
        };
        match identity {
            Ok(identity) if problems.is_empty() => Ok(Self { identity, maps, min_version, admin_port }),
            _ => Err(EnvironmentError(problems)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_of_the_stock_deployment_is_enough() {
        let stock = [
            ("POD_NAME", "autoscaler-5ffdb95f79-k2xpq"),
            ("POD_IP", "10.244.1.6"),
            ("SYSTEM_NAMESPACE", "knative-serving"),
            ("CONFIG_LOGGING_NAME", "config-logging"),
            ("CONFIG_OBSERVABILITY_NAME", "config-observability"),
        ];
        let with = |more: &[(&str, &str)]| {
            let variables: std::collections::HashMap<&str, &str> =
                stock.iter().copied().chain(more.iter().copied()).collect();
            Environment::from_vars(|name| variables.get(name).map(|value| (*value).to_owned()))
        };
        let environment = with(&[]).expect("a good environment");
        assert_eq!(environment.maps, Maps::default());
        assert_eq!((environment.min_version, environment.admin_port), (MIN_VERSION, 8008));
        let other = with(&[
            ("CONFIG_LEADERELECTION_NAME", "elect"),
            ("KUBERNETES_MIN_VERSION", "1.20"),
            ("PROFILING_PORT", "9999"),
            ("POD_IP", "fd00::7"),
        ])
        .expect("a good environment");
        assert_eq!(other.maps.leader_election, "elect");
        assert_eq!((other.min_version.to_string().as_str(), other.admin_port), ("v1.20.0", 9999));
        assert_eq!(other.identity.as_str(), "autoscaler-5ffdb95f79-k2xpq_fd00::7");
        assert!(with(&[("POD_IP", "x")]).expect_err("no address").to_string().contains("POD_IP: \"x\""));
    }

    #[test]
    fn everything_wrong_with_the_environment_is_told_at_once() {
        let missing = Environment::from_vars(|_| None).expect_err("nothing is set").to_string();
        for name in ["POD_NAME", "POD_IP", "SYSTEM_NAMESPACE"] {
            assert!(missing.contains(&format!("{name} is not set")), "{missing}");
        }
        assert_eq!(missing.lines().count(), 3);
        let bad = Environment::from_vars(|name| match name {
            "POD_NAME" => Some(String::new()),
            "SYSTEM_NAMESPACE" => Some("knative-serving".to_owned()),
            _ => Some("x".to_owned()),
        })
        .expect_err("nothing fits");
        let starts = ["POD_NAME is not set", "KUBERNETES_MIN_VERSION: \"x\"", "PROFILING_PORT: \"x\""];
        for (problem, start) in bad.0.iter().zip(starts) {
            assert!(problem.starts_with(start), "{problem}");
        }
        assert_eq!(bad.0.len(), starts.len());
    }

    #[test]
    fn what_asks_for_something_and_does_not_get_it_is_told() {
        let told = |pairs: &[(&str, &str)]| {
            without_effect(|name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
        };
        assert_eq!(told(&[]), Vec::<String>::new());
        let place = [("STATEFUL_CONTROLLER_ORDINAL", "as-0"), ("STATEFUL_SERVICE_NAME", "as")];
        assert_eq!(told(&place), Vec::<String>::new());
        for half in [&place[..1], &place[1..], &[("STATEFUL_CONTROLLER_ORDINAL", "as"), place[1]]] {
            let told = told(half);
            assert!(told.len() == 1 && told[0].contains("owners are elected"), "{half:?}: {told:?}");
        }
        let push = told(&[("OTEL_SERVICE_NAME", "x"), ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://x"), place[0]]);
        assert_eq!(push.len(), 2, "{push:?}");
        assert!(push[1].starts_with("OTEL_SERVICE_NAME, OTEL_EXPORTER_OTLP_ENDPOINT without effect"), "{push:?}");
    }

    #[test]
    fn versions_are_three_numbers_whatever_stands_behind() {
        for (text, want) in [
            ("v1.34.0", Some((1, 34, 0))),
            ("1.34", Some((1, 34, 0))),
            ("v1.30.4-gke.1348000", Some((1, 30, 4))),
            ("v1.29.3+k3s1", Some((1, 29, 3))),
            ("v1.36.0-beta.1+abc", Some((1, 36, 0))),
            ("v1", None),
            ("v1.34.0.1", None),
            ("devel", None),
            ("", None),
        ] {
            let version = want.map(|(major, minor, patch)| Version { major, minor, patch });
            assert_eq!(Version::parse(text), version, "{text}");
        }
        assert!(Version::parse("v1.34.0-alpha.1") >= Some(MIN_VERSION));
        assert!(Version::parse("v1.33.9") < Some(MIN_VERSION));
    }
}
