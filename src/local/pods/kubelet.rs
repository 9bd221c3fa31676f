//! The kubelet of the one node: runs every pod bound to it, tells how it fares, and lets it end in order.
//!
//! ```text
//! address ─► start-up delay ─► user process ─► it listens ─► queue-proxy ─► ready
//!                                   ▲  │ ends
//!                                   └──┴ back-off
//! deleted ─► queue-proxy drains ─► user process stops ─► object removed ─► address free
//! ```

use crate::api::names::{QUEUE_ADMIN_PORT, QUEUE_CONTAINER, QUEUE_H2C_PORT, QUEUE_HTTP1_PORT, QUEUE_STATS_PORT};
use crate::clock::Clock;
use crate::dataplane::queue_proxy::{self, Bound, QueueProxy};
use crate::dataplane::readiness::{Probe, Readiness};
use crate::local::meta::{label, name, namespace};
use crate::local::pods::NODE;
use crate::local::pods::address::{Address, Addresses};
use crate::local::pods::container::{Surroundings, command_line, environment, is_sample, runnable, user_container};
use crate::local::pods::guard::Guard;
use crate::local::pods::process::{Ended, Process, free_port};
use crate::local::pods::status::{End, State, Told, pod_status};
use crate::local::sample;
use crate::local::world::PodNews;
use crate::local::write::is_gone;
use crate::units::{Span, Timestamp};
use futures::FutureExt as _;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Client, ResourceExt as _};
use serde_json::json;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument as _, debug, info, info_span, warn};

/// The port of the sample app, and of a container that names none.
const DEFAULT_PORT: u16 = 8080;
/// The first wait before a process that ended is started again; it doubles each time. Kubernetes begins with ten
/// seconds, which is long for somebody who is looking at the terminal.
const BACK_OFF_FIRST: Duration = Duration::from_millis(500);
/// The longest such wait.
const BACK_OFF_MOST: Duration = Duration::from_secs(30);
/// A process that ran this long has its back-off forgotten.
const BACK_OFF_FORGET: Span = Span::from_seconds(60);
/// How often a process that does not listen yet is looked at, at first and after [`LISTEN_SLOWLY_AFTER`].
const LISTEN_EVERY: [Duration; 2] = [Duration::from_millis(10), Duration::from_millis(250)];
/// From when on a process that does not listen is looked at less often, and its status says what it is waited for.
const LISTEN_SLOWLY_AFTER: Span = Span::from_seconds(5);
/// How often a process that is ready is asked again when its probe has no period; Kubernetes' default.
const ASK_AGAIN_EVERY: Duration = Duration::from_secs(10);
/// How long a pod without an address waits before it asks for one again.
const ADDRESS_AGAIN: Duration = Duration::from_secs(5);
/// How long pods may take to end when the whole cluster stops.
const STOP_LIMIT: Duration = Duration::from_secs(5);
/// How long a process has at least between being asked to stop and being killed.
const KILL_AFTER: Duration = Duration::from_millis(100);
/// How often a status is sent again before it is given up until the next change.
const STATUS_TRIES: u32 = 5;

/// How the kubelet runs pods.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Where pods get their addresses from: the /16 around this.
    pub network: Ipv4Addr,
    /// How long a pod takes from being scheduled until its process is started: what scheduling, pulling an image and
    /// starting a container take in a cluster.
    pub startup_delay: Duration,
    /// How long no request must have come before a pod that is going stops listening.
    pub quiet_period: Duration,
    /// Whether a [`Guard`] ends the processes of pods should this program be killed. Only for a program that is one when
    /// asked to.
    pub guarded: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            network: crate::local::pods::address::POD_NETWORK,
            startup_delay: Duration::from_secs(1),
            // Gateway and activator learn of a leaving pod within milliseconds here.
            quiet_period: Duration::from_millis(250),
            guarded: false,
        }
    }
}

/// The kubelet. Cheap to clone; all clones are one.
#[derive(Clone)]
pub(in crate::local) struct Kubelet {
    client: Client,
    clock: Clock,
    settings: Settings,
    addresses: Addresses,
    /// Started with the first process; `None` when there is to be none, or it cannot be started.
    guard: Arc<OnceLock<Option<Guard>>>,
    runners: Arc<Mutex<HashMap<String, Runner>>>,
    tasks: TaskTracker,
    /// Ends every pod without telling anybody.
    shutdown: CancellationToken,
}

/// What holds a pod's task.
struct Runner {
    /// End in order, within this time.
    stop: watch::Sender<Option<Duration>>,
    /// The object is gone: end at once.
    gone: CancellationToken,
}

impl Kubelet {
    pub(in crate::local) fn new(client: Client, clock: Clock, settings: Settings) -> Self {
        let ports = [QUEUE_HTTP1_PORT, QUEUE_H2C_PORT, QUEUE_ADMIN_PORT, QUEUE_STATS_PORT, DEFAULT_PORT];
        Self {
            client,
            clock,
            settings,
            addresses: Addresses::new(settings.network, &ports),
            guard: Arc::default(),
            runners: Arc::default(),
            tasks: TaskTracker::new(),
            shutdown: CancellationToken::new(),
        }
    }

    /// Takes in what happened to a pod. Never waits.
    pub(in crate::local) fn take_in(&self, news: PodNews) {
        match news {
            PodNews::Put(pod) if on_this_node(&pod) => self.take_in_pod(&pod),
            PodNews::Put(_) => {}
            PodNews::Gone(pod) => {
                if let Some(runner) = self.runners().get(&uid(&pod)) {
                    runner.gone.cancel();
                }
            }
        }
    }

    /// Ends every pod, what they started included. Their objects stay as they are.
    pub(in crate::local) async fn stop(&self) {
        self.shutdown.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn take_in_pod(&self, pod: &Arc<Pod>) {
        let leaving = pod.metadata.deletion_timestamp.is_some();
        let grace = pod.metadata.deletion_grace_period_seconds.and_then(|seconds| u64::try_from(seconds).ok());
        let grace = Duration::from_secs(grace.unwrap_or(0));
        let mut runners = self.runners();
        match (runners.get(&uid(pod)), leaving) {
            (Some(runner), true) => {
                runner.stop.send_if_modified(|stop| stop.replace(grace) != Some(grace));
            }
            (Some(_), false) => {}
            (None, leaving) => {
                let (stop, stops) = watch::channel(leaving.then_some(grace));
                let gone = CancellationToken::new();
                // Of the target of what pods print, so that it is there to name the pod whenever that is shown.
                let span = info_span!(
                    target: "pod",
                    "pod",
                    namespace = namespace(&pod.metadata),
                    pod = name(&pod.metadata),
                    revision = label(&pod.metadata, crate::api::names::REVISION_LABEL)
                );
                let life = Life {
                    kubelet: self.clone(),
                    api: Api::namespaced(self.client.clone(), namespace(&pod.metadata)),
                    told: Told {
                        ip: None,
                        since: self.clock.now(),
                        state: State::Waiting { reason: "ContainerCreating", message: String::new(), ran: false },
                        last_end: None,
                        restarts: 0,
                    },
                    pod: Arc::clone(pod),
                    stops,
                    gone: gone.clone(),
                };
                runners.insert(uid(pod), Runner { stop, gone });
                self.tasks.spawn(life.run().instrument(span));
            }
        }
    }

    fn guard(&self) -> Option<&Guard> {
        let start = || {
            let started = self.settings.guarded.then(Guard::start)?;
            started.inspect_err(|error| warn!(%error, "processes of pods go on should this program be killed")).ok()
        };
        self.guard.get_or_init(start).as_ref()
    }

    fn runners(&self) -> MutexGuard<'_, HashMap<String, Runner>> {
        self.runners.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn on_this_node(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some(NODE)
}

fn uid(pod: &Pod) -> String {
    pod.metadata.uid.clone().unwrap_or_default()
}

/// One pod from its first to its last moment.
struct Life {
    kubelet: Kubelet,
    api: Api<Pod>,
    pod: Arc<Pod>,
    told: Told,
    stops: watch::Receiver<Option<Duration>>,
    gone: CancellationToken,
}

/// How a pod is to end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Ending {
    /// In order, within this time, its object removed at the end.
    InOrder(Duration),
    /// At once, since its object is gone or everything stops.
    AtOnce,
}

/// The user process of a pod.
enum User {
    /// The sample app, in this process.
    Sample { task: tokio::task::JoinHandle<io::Result<()>>, cancel: CancellationToken },
    /// A command.
    Command(Box<Process>),
}

/// The queue-proxy of a pod, running.
struct Queue {
    ready: watch::Receiver<bool>,
    ask: Readiness,
    cancel: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Life {
    async fn run(mut self) {
        let mut address = None;
        let mut user = None;
        let mut queue = None;
        let ending = {
            let mut stops = self.stops.clone();
            let (gone, shutdown) = (self.gone.clone(), self.kubelet.shutdown.clone());
            tokio::select! {
                biased;
                () = gone.cancelled() => Ending::AtOnce,
                () = shutdown.cancelled() => Ending::AtOnce,
                grace = stopped(&mut stops) => Ending::InOrder(grace),
                () = self.live(&mut address, &mut user, &mut queue) => unreachable!("a pod lives until it is ended"),
            }
        };
        self.end(ending, user, queue).await;
        drop(address);
        self.kubelet.runners().remove(&uid(&self.pod));
    }

    /// Runs the pod until it is dropped.
    async fn live(&mut self, address: &mut Option<Address>, user: &mut Option<User>, queue: &mut Option<Queue>) {
        let ip = self.take_address(address).await;
        self.told.ip = Some(ip);
        self.tell().await;
        let pod = Arc::clone(&self.pod);
        let Some(container) = user_container(&pod) else {
            return self
                .never("CreateContainerConfigError", "the pod has no container but the queue-proxy".to_owned())
                .await;
        };
        if let Err(message) = runnable(container) {
            return self.never("ErrImagePull", message).await;
        }
        let port = if is_sample(container) { Ok(port_of(container)) } else { free_port() };
        let port = match port {
            Ok(port) => port,
            Err(error) => return self.never("CreateContainerError", format!("no free port: {error}")).await,
        };
        sleep(self.kubelet.settings.startup_delay).await;
        let mut back_off = BACK_OFF_FIRST;
        loop {
            let started = self.kubelet.clock.now();
            let end = self.run_user(container, ip, port, user, queue).await;
            let end = match end {
                Ok(ended) => {
                    let reason = if ended.exit_code == 0 { "Completed" } else { "Error" };
                    End { exit_code: ended.exit_code, reason, message: ended.last_lines, started, ended: self.now() }
                }
                Err(NotStarted::Config(message)) => return self.never("CreateContainerConfigError", message).await,
                Err(NotStarted::Failed(message)) => {
                    End { exit_code: 128, reason: "StartError", message, started, ended: self.now() }
                }
            };
            *user = None;
            if end.ended.since(end.started) > BACK_OFF_FORGET {
                back_off = BACK_OFF_FIRST;
            }
            warn!(
                exit_code = end.exit_code,
                reason = end.reason,
                last_lines = end.message,
                again_in = ?back_off,
                "container ended; it is started again"
            );
            let message = format!("back-off {back_off:?} restarting failed container={}", container.name);
            self.told.last_end = Some(end);
            self.told.state = State::Waiting { reason: "CrashLoopBackOff", message, ran: true };
            self.tell().await;
            sleep(back_off).await;
            back_off = (back_off * 2).min(BACK_OFF_MOST);
            self.told.restarts += 1;
        }
    }

    /// Tells a state nothing will change, and stays in it.
    async fn never(&mut self, reason: &'static str, message: String) {
        warn!(reason, detail = message, "container cannot be started");
        self.told.state = State::Waiting { reason, message, ran: false };
        self.tell().await;
        std::future::pending::<()>().await;
    }

    async fn take_address(&mut self, address: &mut Option<Address>) -> Ipv4Addr {
        loop {
            match self.kubelet.addresses.take() {
                Ok(taken) => return address.insert(taken).ip(),
                Err(error) => {
                    warn!(%error, "pod has no address; tried again");
                    let message = error.to_string();
                    self.told.state = State::Waiting { reason: "CreatePodSandboxError", message, ran: false };
                    self.tell().await;
                    sleep(ADDRESS_AGAIN).await;
                }
            }
        }
    }

    /// Starts the user process and stays with it until it ends.
    async fn run_user(
        &mut self,
        container: &Container,
        ip: Ipv4Addr,
        port: u16,
        user: &mut Option<User>,
        queue: &mut Option<Queue>,
    ) -> Result<Ended, NotStarted> {
        let pod = Arc::clone(&self.pod);
        let surroundings = Surroundings { pod: &pod, ip, port };
        let own = SocketAddr::from((ip, port));
        let user = if is_sample(container) {
            let environment = environment(container, surroundings).map_err(NotStarted::Config)?;
            let settings = sample::Settings::from_environment(&environment).map_err(NotStarted::Config)?;
            sleep(settings.startup_delay).await;
            let listener = TcpListener::bind(own)
                .await
                .map_err(|error| NotStarted::Failed(format!("cannot listen on {own}: {error}")))?;
            let cancel = CancellationToken::new();
            let task = tokio::spawn(sample::serve(listener, settings, cancel.clone()));
            user.insert(User::Sample { task, cancel })
        } else {
            let line = command_line(container, surroundings).map_err(NotStarted::Config)?;
            let process = Process::start(&line, self.kubelet.guard())
                .map_err(|error| NotStarted::Failed(format!("cannot start {:?}: {error}", line.program)))?;
            info!(program = line.program, port, "container started");
            user.insert(User::Command(Box::new(process)))
        };
        let since = self.now();
        self.told.state = State::Running { since, ready: None, message: String::new() };
        self.tell().await;

        let is_sample = matches!(user, User::Sample { .. });
        let ended = async {
            match user {
                User::Sample { task, .. } => {
                    let message = match task.await {
                        Ok(Ok(())) => String::new(),
                        Ok(Err(error)) => error.to_string(),
                        Err(error) => error.to_string(),
                    };
                    Ended { exit_code: 1, last_lines: message }
                }
                User::Command(process) => process.ended().await,
            }
        };
        tokio::select! {
            ended = ended => Ok(ended),
            failed = self.watch_readiness(container, own, since, is_sample, queue) => Err(failed),
        }
    }

    /// Waits until the user process listens, puts the queue-proxy in front of it, and tells of every change of its
    /// readiness. Ends only when that is not possible.
    async fn watch_readiness(
        &mut self,
        container: &Container,
        own: SocketAddr,
        since: Timestamp,
        is_sample: bool,
        queue: &mut Option<Queue>,
    ) -> NotStarted {
        let at = if is_sample { own } else { self.listening(own, since).await };
        let has_queue_proxy = queue_container(&self.pod).is_some();
        if !has_queue_proxy {
            self.tell_ready(since, true).await;
            return std::future::pending().await;
        }
        if let Some(queue) = queue {
            // It has been in front of an earlier process, and thinks of that one.
            queue.ask.ask().await;
        } else {
            match self.queue_proxy(at, own.port(), container).await {
                Ok(started) => *queue = Some(started),
                Err(failed) => return failed,
            }
        }
        let Some(queue) = queue else { return std::future::pending().await };
        let mut ready = queue.ready.clone();
        let again = probe_period(container);
        loop {
            let now = *ready.borrow_and_update();
            self.tell_ready(since, now).await;
            tokio::select! {
                changed = ready.changed() => {
                    if changed.is_err() {
                        return std::future::pending().await;
                    }
                }
                // The sample app never changes its mind; a process is asked as a kubelet would.
                () = sleep(again), if !is_sample => {
                    queue.ask.ask().await;
                }
            }
        }
    }

    async fn tell_ready(&mut self, since: Timestamp, ready: bool) {
        let ready = ready.then(|| self.now());
        if let State::Running { ready: was, .. } = &self.told.state
            && was.is_some() == ready.is_some()
        {
            return;
        }
        self.told.state = State::Running { since, ready, message: String::new() };
        self.tell().await;
        debug!(ready = ready.is_some(), "readiness told");
    }

    /// Where the process listens: on the pod's own address or on one that only leads to this machine.
    async fn listening(&mut self, own: SocketAddr, since: Timestamp) -> SocketAddr {
        let port = own.port();
        let candidates: [SocketAddr; 3] =
            [own, (IpAddr::V4(Ipv4Addr::LOCALHOST), port).into(), (IpAddr::V6(Ipv6Addr::LOCALHOST), port).into()];
        let mut told = false;
        loop {
            for at in candidates {
                if timeout(Duration::from_secs(1), TcpStream::connect(at))
                    .await
                    .is_ok_and(|connected| connected.is_ok())
                {
                    return at;
                }
            }
            let slowly = self.now().since(since) > LISTEN_SLOWLY_AFTER;
            if slowly && !told {
                told = true;
                let message = format!("nothing listens on port {port} yet: the command must listen on $PORT");
                warn!(detail = message, "container is not ready");
                self.told.state = State::Running { since, ready: None, message };
                self.tell().await;
            }
            sleep(LISTEN_EVERY[usize::from(slowly)]).await;
        }
    }

    async fn queue_proxy(&self, user: SocketAddr, port: u16, container: &Container) -> Result<Queue, NotStarted> {
        let queue = queue_container(&self.pod).ok_or_else(|| NotStarted::Config("no queue-proxy".to_owned()))?;
        let IpAddr::V4(ip) = self.told.ip.unwrap_or(Ipv4Addr::LOCALHOST).into() else {
            return Err(NotStarted::Config("the pod's address is not IPv4".to_owned()));
        };
        let surroundings = Surroundings { pod: &self.pod, ip, port };
        let environment = environment(queue, surroundings).map_err(NotStarted::Config)?;
        let probes = probes(environment.get("SERVING_READINESS_PROBE"), container, user).map_err(NotStarted::Config)?;
        let vars = |key: &str| match key {
            "QUEUE_BIND_IP" => Some(ip.to_string()),
            "USER_IP" => Some(user.ip().to_string()),
            "USER_PORT" => Some(user.port().to_string()),
            // Read already, with the port the process really has.
            "SERVING_READINESS_PROBE" => None,
            key => environment.get(key).cloned(),
        };
        let mut config = queue_proxy::Config::from_vars(vars)
            .map_err(|error| NotStarted::Config(format!("queue-proxy: {error}")))?;
        config.probes = probes;
        config.ports = queue_proxy::Ports::default();
        config.quiet_period = self.kubelet.settings.quiet_period;
        let bound: Bound = QueueProxy::bind(config, self.kubelet.clock)
            .await
            .map_err(|error| NotStarted::Failed(format!("queue-proxy cannot listen on {ip}: {error}")))?;
        let cancel = CancellationToken::new();
        let (ready, ask) = (bound.readiness(), bound.asked_readiness());
        let task = tokio::spawn(bound.run(cancel.clone()).in_current_span());
        Ok(Queue { ready, ask, cancel, task })
    }

    async fn end(&mut self, ending: Ending, user: Option<User>, queue: Option<Queue>) {
        let limit = match ending {
            Ending::InOrder(grace) => grace,
            Ending::AtOnce if self.kubelet.shutdown.is_cancelled() => STOP_LIMIT,
            Ending::AtOnce => Duration::ZERO,
        };
        let began = self.now();
        // Asked twice, and it may have come the first time.
        let over = self.over(limit).boxed().shared();
        if let Some(Queue { cancel, mut task, .. }) = queue {
            cancel.cancel();
            tokio::select! {
                _ = &mut task => {}
                () = over.clone() => {
                    info!(limit = ?limit, "requests in flight cut off");
                    task.abort();
                }
            }
        }
        match user {
            Some(User::Sample { mut task, cancel }) => {
                cancel.cancel();
                tokio::select! {
                    _ = &mut task => {}
                    () = over.clone() => task.abort(),
                }
            }
            Some(User::Command(process)) => {
                let left = limit.saturating_sub(self.now().since(began).to_std());
                let left = if self.gone.is_cancelled() { Duration::ZERO } else { left };
                process.stop(left.max(KILL_AFTER)).await;
            }
            None => {}
        }
        drop(over);
        if let Ending::InOrder(_) = ending {
            self.remove().await;
        }
    }

    /// Waits until an orderly end has taken long enough: its limit is over, its object is gone, or all pods must end.
    async fn over(&self, limit: Duration) {
        tokio::select! {
            () = sleep(limit) => {}
            () = self.gone.cancelled() => {}
            () = async {
                self.kubelet.shutdown.cancelled().await;
                sleep(STOP_LIMIT).await;
            } => {}
        }
    }

    /// Takes the object away: nothing of the pod is left.
    async fn remove(&self) {
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions { uid: self.pod.uid(), resource_version: None }),
            ..DeleteParams::default()
        };
        for attempt in 1..=STATUS_TRIES {
            match self.api.delete(name(&self.pod.metadata), &params).await {
                Ok(_) => return,
                Err(error) if is_gone(&error) => return,
                Err(error) if attempt == STATUS_TRIES => warn!(%error, "pod that ended cannot be removed"),
                Err(_) => sleep(Duration::from_millis(50) * attempt).await,
            }
        }
    }

    async fn tell(&self) {
        let patch = Patch::Merge(json!({ "status": pod_status(&self.pod, &self.told) }));
        for attempt in 1..=STATUS_TRIES {
            match self.api.patch_status(name(&self.pod.metadata), &PatchParams::default(), &patch).await {
                Ok(_) => return,
                Err(error) if is_gone(&error) => return,
                Err(error) if attempt == STATUS_TRIES => warn!(%error, "status of the pod cannot be told"),
                Err(_) => sleep(Duration::from_millis(20) * attempt).await,
            }
        }
    }

    fn now(&self) -> Timestamp {
        self.kubelet.clock.now()
    }
}

/// Why a user process was not started.
enum NotStarted {
    /// It never will be: something in the pod is wrong.
    Config(String),
    /// It may be the next time.
    Failed(String),
}

async fn stopped(stops: &mut watch::Receiver<Option<Duration>>) -> Duration {
    let grace = stops.wait_for(Option::is_some).await.map(|grace| grace.unwrap_or_default()).ok();
    match grace {
        Some(grace) => grace,
        None => std::future::pending().await,
    }
}

fn queue_container(pod: &Pod) -> Option<&Container> {
    pod.spec.as_ref()?.containers.iter().find(|container| container.name == QUEUE_CONTAINER)
}

fn port_of(container: &Container) -> u16 {
    let port = container.ports.as_ref().and_then(|ports| ports.first()).map(|port| port.container_port);
    port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0).unwrap_or(DEFAULT_PORT)
}

/// How often a kubelet would ask the container.
fn probe_period(container: &Container) -> Duration {
    let period = container.readiness_probe.as_ref().and_then(|probe| probe.period_seconds);
    period
        .and_then(|seconds| u64::try_from(seconds).ok())
        .filter(|seconds| *seconds > 0)
        .map_or(ASK_AGAIN_EVERY, Duration::from_secs)
}

/// The probes of the user process, which listens at `user` and not on the port its container names.
fn probes(text: Option<&String>, container: &Container, user: SocketAddr) -> Result<Vec<Probe>, String> {
    let Some(text) = text else { return Ok(vec![Probe::tcp(user)]) };
    let mut probe: core::Probe =
        serde_json::from_str(text).map_err(|error| format!("SERVING_READINESS_PROBE: {error}"))?;
    let named = IntOrString::Int(i32::from(port_of(container)));
    let ports =
        [probe.http_get.as_mut().map(|get| &mut get.port), probe.tcp_socket.as_mut().map(|socket| &mut socket.port)];
    for port in ports.into_iter().flatten().filter(|port| **port == named) {
        *port = IntOrString::Int(i32::from(user.port()));
    }
    let probe = Probe::from_kubernetes(&probe, user, false).map_err(|error| error.to_string())?;
    Ok(vec![probe])
}
