//! `ebb alb self-test`: what a load balancer really does, tried through it.
//!
//! The pod this runs in is the server: it listens on two ports and answers with which it was and what headers came. Trial by
//! trial an Ingress leads a host nobody has to it, each address of the load balancer is asked until it follows, and then
//! whether it does what is tried. The rules are written by what writes those of users, and asked by what asks those.
//!
//! # Decisions
//!
//! - Two Ingresses of one order, and connection draining, are not tried: the first may stop every change of rules of the
//!   load balancer, the second cannot be told from a server that stays.
//! - The Ingresses come one at a time, late in the order, so that little is numbered anew.

mod objects;

use crate::api::conditions::to_jiff;
use crate::cli::check::cluster::configuration;
use crate::cli::exit::Exit;
use crate::cli::{Signals, span};
use crate::clock::Clock;
use crate::dataplane::body::{self, Body};
use crate::dataplane::server::{self, Stop};
use crate::routing::capabilities::{Capability, MAP, REPORT, TESTED_AT};
use crate::routing::model::{
    Action, Condition, Forward, InsertHeader, KeyValue, Rule, ServerGroup, Settings, Side, Values,
};
use crate::routing::plan::bare;
use crate::routing::probe::{Question, SystemVips, Topic, Vips as _};
use crate::routing::translate::{Part, Role};
use crate::units::{Span, Timestamp};
use anyhow::{Context as _, bail, ensure};
use futures::future::join_all;
use http::{Request, Response};
use kube::Client;
use objects::Objects;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use tokio::net::TcpListener;

/// The header that rules set here.
const HEADER: &str = "x-ebb-self-test";
/// Answers in a row by which an address follows, or does what is tried.
const IN_A_ROW: usize = 3;
/// Between two questions to one address.
const PAUSE: Span = Span::from_millis(100);
/// Questions within which both of two ports must answer; with fair dice they do not once in 10^18.
const FOR_BOTH: usize = 60;
/// The orders of its Ingresses: late, so that little is numbered anew.
const ORDERS: std::ops::Range<u16> = 700..900;
/// How often the servers of a rule are exchanged, to see how long that takes.
const EXCHANGES: usize = 4;
/// How long the API server may take with a request nobody waits for any more.
const LATE_REQUEST: std::time::Duration = std::time::Duration::from_millis(500);
/// Connections to the servers at once.
const MOST_CONNECTIONS: usize = 1000;
/// What is not tried, and is said so.
const LEFT_OUT: [&str; 2] = ["two Ingresses of one order", "connection draining"];

/// Try on a cluster's load balancer what its documentation leaves open.
///
/// It is to run in a pod, which is the server that is asked through the load balancer:
/// kubectl apply -k deploy/overlays/self-test. For a few minutes there are an Ingress at a time, some
/// Services and their Endpoints, for hosts that end in .invalid; they are removed when it ends, also
/// where it fails or is told to end. What a killed one leaves has the label ebb.dev/self-test.
///
/// It is tried whether annotations take effect, headers are set over the client's, hosts share a
/// rule, a path is a prefix of characters, two cookies must both be there, servers of another
/// namespace and of two ports are used, and hosts nobody serves are a 404; and measured how long
/// changes take to arrive at every address. Not tried are two Ingresses of one order, which may stop
/// all changes of the load balancer, and connection draining.
///
/// What was seen is printed, and written into the ConfigMap knative-alb-capabilities, by which
/// `alb-data-plane: auto` goes.
///
/// The exit code is 0 when all that Ebb needs holds, 1 when something does not, 2 when there is no
/// answer, and 130 when it was interrupted.
///
/// Example:
///   kubectl apply -k deploy/overlays/self-test && kubectl -n ebb-self-test logs -f job/ebb-self-test
#[derive(clap::Args, Debug)]
#[command(verbatim_doc_comment)]
pub(super) struct SelfTest {
    /// The address of this pod, which the load balancer reaches.
    #[arg(long, env = "POD_IP", value_name = "IP")]
    pod_ip: IpAddr,

    /// The name of this pod.
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    pod: String,

    /// The namespace of this pod, for objects beside it.
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAME", default_value = "ebb-self-test")]
    pod_namespace: String,

    /// Another namespace, for objects that lead to this pod all the same.
    #[arg(long, value_name = "NAME", default_value = "ebb-self-test-other")]
    other_namespace: String,

    /// Where Knative's ConfigMaps are.
    #[arg(long, env = "SYSTEM_NAMESPACE", value_name = "NAME", default_value = crate::api::names::SYSTEM_NAMESPACE)]
    system_namespace: String,

    /// Which load balancer.
    #[arg(long, value_enum, value_name = "SIDE", default_value_t)]
    side: SideFlag,

    /// The two ports to listen on; 0 is any that is free.
    #[arg(long, value_name = "PORT,PORT", value_parser = two_ports, default_value = "8080,8081")]
    ports: [u16; 2],

    /// An address of the load balancer, with its port for HTTP. May be repeated [default: as alb-probe-addresses of
    /// config-network says, or all that its name has, at port 80].
    #[arg(long = "address", value_name = "ADDR")]
    addresses: Vec<SocketAddr>,

    /// How long a change may take to arrive at every address.
    #[arg(long, value_name = "DURATION", value_parser = span, default_value = "2m")]
    patience: Span,

    /// The kubeconfig that says where the cluster is [default: as kubectl finds it, or the pod this runs in].
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,

    /// The context of the kubeconfig [default: its current one].
    #[arg(long, value_name = "NAME")]
    context: Option<String>,

    /// How to print.
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    format: Format,
}

/// Which of the two load balancers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
enum SideFlag {
    /// The one reached from everywhere.
    #[default]
    Internet,
    /// The one reached from the private network.
    Intranet,
}

/// How the answer is printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
enum Format {
    /// A table for people.
    #[default]
    Text,
    /// One object.
    Json,
}

/// What was seen.
#[derive(Serialize)]
struct Report {
    tested_at: String,
    load_balancer: String,
    addresses: Vec<SocketAddr>,
    checks: Vec<Check>,
    /// How long it took until an address had other rules, and other servers.
    rules: Option<Delays>,
    servers: Option<Delays>,
    not_tried: [&'static str; LEFT_OUT.len()],
}

#[derive(Serialize)]
struct Check {
    capability: &'static str,
    means: &'static str,
    /// Nothing where it could not be seen.
    holds: Option<bool>,
    needed: bool,
    /// What was seen instead, and what follows.
    #[serde(skip_serializing_if = "String::is_empty")]
    detail: String,
}

/// Percentiles, in milliseconds.
#[derive(Serialize)]
struct Delays {
    samples: usize,
    p50_ms: u64,
    p90_ms: u64,
    max_ms: u64,
}

impl Delays {
    fn of(mut all: Vec<Span>) -> Option<Self> {
        all.sort_unstable();
        // The smallest that so many are not above.
        let at =
            |percent: usize| all[(all.len() * percent).div_ceil(100).max(1) - 1].nanos().unsigned_abs() / 1_000_000;
        (!all.is_empty()).then(|| Self { samples: all.len(), p50_ms: at(50), p90_ms: at(90), max_ms: at(100) })
    }
}

fn two_ports(text: &str) -> Result<[u16; 2], String> {
    let ports = text.split_once(',').and_then(|(one, two)| Some([one.trim().parse().ok()?, two.trim().parse().ok()?]));
    ports.ok_or_else(|| format!("{text:?} are not two ports; write them as 8080,8081"))
}

pub(super) async fn run(args: &SelfTest) -> anyhow::Result<Exit> {
    ensure!(
        args.pod_namespace != args.other_namespace,
        "--other-namespace is {:?}, which is this pod's own; name another one that exists",
        args.other_namespace
    );
    let mut signals = Signals::new()?;
    let (context, config) = configuration(args.kubeconfig.as_deref(), args.context.as_deref()).await?;
    let client = Client::try_from(config)?;
    let settings = settings(&client, args).await.with_context(|| format!("the cluster of context {context}"))?;
    let stop = Stop::default();
    let _stopped = stop.kill.clone().drop_guard();
    let token = format!("{:010x}", rand::random::<u64>() >> 24);
    let mut servers = Vec::new();
    for (number, port) in args.ports.iter().enumerate() {
        let listener = TcpListener::bind((args.pod_ip, *port))
            .await
            .with_context(|| format!(
                "{}:{port} cannot be listened on; --pod-ip is to be an address of this pod, and --ports are to be free there",
                args.pod_ip
            ))?;
        servers.push(listener.local_addr()?.port());
        let token = token.clone();
        let answer = move |request| std::future::ready(echo(&token, number, &request));
        tokio::spawn(server::serve(listener, MOST_CONNECTIONS, answer, stop.clone()));
    }
    let objects = Objects::new(client, &token);
    let mut test =
        Test { args, settings, token, servers, objects: &objects, clock: Clock::system(), rules: Vec::new() };
    let tested = tokio::select! {
        tested = test.run() => Some(tested),
        () = signals.next() => None,
    };
    if tested.is_none() {
        eprintln!("ebb: interrupted; what was made is removed, a second signal leaves it");
        // A request that was under way may still arrive.
        tokio::time::sleep(LATE_REQUEST).await;
    }
    let left = tokio::select! {
        left = objects.remove() => left,
        () = signals.next() => objects.left(),
    };
    if !left.is_empty() {
        eprintln!(
            "ebb: {} could not be removed; remove them with kubectl delete ingress,service,endpoints -A -l {}",
            left.join(", "),
            objects.label()
        );
    }
    let Some(report) = tested.transpose()? else { return Ok(Exit::Interrupted) };
    if let Some(unseen) = report.checks.iter().find(|check| check.capability == Capability::ArrayJson.key())
        && unseen.holds.is_none()
    {
        bail!(
            "nothing could be seen through {}: {}. Name the addresses at which it answers with --address, or with \
             alb-probe-addresses in config-network. What an earlier run has seen stays as it is",
            report.load_balancer,
            unseen.detail
        );
    }
    objects.write_map(&args.system_namespace, MAP, &data(&report)?).await.with_context(|| {
        format!("ConfigMap {}/{MAP} could not be written; what was seen: {}", args.system_namespace, text(&report))
    })?;
    let printed = match args.format {
        Format::Text => text(&report),
        Format::Json => format!("{}\n", serde_json::to_string_pretty(&report)?),
    };
    let mut out = std::io::stdout().lock();
    // A closed pipe wants no more; whoever closed it has seen enough.
    let _ = out.write_all(printed.as_bytes()).and_then(|()| out.flush());
    let is_missing = |check: &Check| check.needed && check.holds != Some(true);
    Ok(match (left.is_empty(), report.checks.iter().any(is_missing)) {
        (false, _) => Exit::CouldNotAnswer,
        (true, true) => Exit::AnswerIsNo,
        (true, false) => Exit::Done,
    })
}

async fn settings(client: &Client, args: &SelfTest) -> anyhow::Result<Settings> {
    let map = objects::map(client, &args.system_namespace, "config-network").await?;
    let settings = Settings::parse(&map)
        .map_err(|wrong| anyhow::anyhow!("config-network cannot be used: {}", wrong.join("; ")))?;
    ensure!(
        settings.eni,
        "with eni \"false\" the load balancer's servers are the ports of nodes, whatever is tried here; the self-test is for \
         pods with addresses of their own"
    );
    let class = Side::from(args.side).class_name();
    ensure!(
        objects::class_exists(client, &class).await?,
        "there is no IngressClass {class}; it is made with the first service that is published, so publish one"
    );
    Ok(settings)
}

/// What a server here answers: that it is one of this run, which of the two, and what came in the header.
#[derive(Serialize, Deserialize, PartialEq, Debug)]
struct Echo {
    token: String,
    server: usize,
    header: Vec<String>,
}

fn echo(token: &str, server: usize, request: &Request<Body>) -> Response<Body> {
    let values = request.headers().get_all(HEADER).iter().take(IN_A_ROW);
    // An answer that is too long to be read would look like a stranger's.
    let short = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).chars().take(64).collect();
    let header = values.map(short).collect();
    let echo = Echo { token: token.to_owned(), server, header };
    Response::new(body::full(serde_json::to_vec(&echo).unwrap_or_default()))
}

/// A question to an address, and who should answer.
struct Ask {
    host: String,
    path: &'static str,
    header: Option<(&'static str, &'static str)>,
    want: Want,
}

enum Want {
    /// Either server.
    Any,
    /// One of the two.
    Server(usize),
    /// The header is this alone.
    Header(&'static str),
    /// This status.
    Status(u16),
}

/// What came back.
#[derive(Debug)]
enum Saw {
    Us(Echo),
    Other(u16),
    Nothing(String),
}

impl Saw {
    /// Whether it may be otherwise in a moment.
    fn may_pass(&self) -> bool {
        matches!(self, Self::Nothing(_) | Self::Other(404 | 502..=504))
    }
}

impl std::fmt::Display for Saw {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Us(echo) if echo.header.is_empty() => write!(f, "server {} answered", echo.server + 1),
            Self::Us(echo) => {
                write!(f, "server {} answered, with {HEADER}: {}", echo.server + 1, echo.header.join(", "))
            }
            Self::Other(status) => write!(f, "the answer was {status}"),
            Self::Nothing(why) => write!(f, "no answer came: {why}"),
        }
    }
}

/// What was seen otherwise than it should be.
#[derive(Clone)]
struct Wrong {
    why: String,
    /// Whether that was seen, and not only nothing of what should be.
    sure: bool,
}

/// Rules, by what it is seen that they are in force, and what is tried then.
struct Trial {
    name: &'static str,
    namespace: String,
    rules: Vec<Rule>,
    live: Vec<Ask>,
    tried: Vec<(Capability, Vec<Ask>)>,
}

struct Test<'a> {
    args: &'a SelfTest,
    settings: Settings,
    token: String,
    servers: Vec<u16>,
    objects: &'a Objects,
    clock: Clock,
    rules: Vec<Span>,
}

impl Test<'_> {
    async fn run(&mut self) -> anyhow::Result<Report> {
        let (own, other) = (self.args.pod_namespace.clone(), self.args.other_namespace.clone());
        let (one, two) = (&self.servers[..1], &self.servers[1..]);
        for (namespace, service, ports) in
            [(&own, "one", one), (&own, "two", two), (&own, "both", &self.servers[..]), (&other, "foreign", one)]
        {
            self.lead(namespace, service, ports).await?;
            self.objects.service(namespace, &self.named(service)).await?;
        }
        let mut seen: BTreeMap<Capability, Result<(), Wrong>> = BTreeMap::new();
        let (mut addresses, mut balancer, mut servers) = (Vec::new(), String::new(), Vec::new());
        for (number, trial) in self.trials().into_iter().enumerate() {
            // Looked at anew: one order twice may stop every change of rules. Another run begins elsewhere.
            let orders = self.objects.orders().await?;
            let places = u16::try_from(ORDERS.len()).unwrap_or(u16::MAX);
            let begin = u16::from_str_radix(&self.token[..4], 16).unwrap_or(0);
            let mut places = (0..places).map(|place| ORDERS.end - 1 - (begin + place) % places);
            let order = places.find(|order| !orders.contains(order));
            let order = order.with_context(|| {
                format!("every order from {} to {} is some Ingress's", ORDERS.start, ORDERS.end - 1)
            })?;
            let since = self.publish(&trial, order).await?;
            if number == 0 {
                balancer = self.balancer(&trial).await?;
                addresses = self.addresses(&balancer).await?;
                let names = addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                eprintln!("ebb: {balancer} is asked at {names}");
            }
            eprintln!("ebb: trial {}: {}", number + 1, trial.name);
            let outcomes = join_all(addresses.iter().map(|address| self.attempt(*address, &trial, since))).await;
            for ((delay, outcomes), address) in outcomes.into_iter().zip(&addresses) {
                self.rules.extend(delay);
                for (capability, outcome) in outcomes {
                    let outcome =
                        outcome.map_err(|wrong| Wrong { why: format!("at {address} {}", wrong.why), ..wrong });
                    let known = seen.entry(capability).or_insert(Ok(()));
                    if known.is_ok() {
                        *known = outcome;
                    }
                }
            }
            if number == 0 {
                if seen[&Capability::ArrayJson].is_err() {
                    break;
                }
                servers = self.exchange(&addresses, &trial).await?;
            }
            self.objects.remove_ingress(&trial.namespace, &self.named(trial.name)).await?;
        }
        let check = |capability: Capability| {
            let outcome = seen.remove(&capability);
            let detail = match &outcome {
                None => "not tried, since nothing took effect".to_owned(),
                Some(Ok(())) => String::new(),
                Some(Err(wrong)) if wrong.sure => format!("{}: {}", wrong.why, capability.otherwise()),
                Some(Err(wrong)) => wrong.why.clone(),
            };
            let holds = outcome.and_then(|outcome| match outcome {
                Err(wrong) if !wrong.sure => None,
                outcome => Some(outcome.is_ok()),
            });
            let needed = capability.is_needed();
            Check { capability: capability.key(), means: capability.words(), holds, needed, detail }
        };
        Ok(Report {
            tested_at: to_jiff(self.clock.now()).to_string(),
            load_balancer: balancer,
            addresses,
            checks: Capability::ALL.map(check).into(),
            rules: Delays::of(std::mem::take(&mut self.rules)),
            servers: Delays::of(servers),
            not_tried: LEFT_OUT,
        })
    }

    fn named(&self, what: &str) -> String {
        format!("ebb-self-test-{}-{what}", self.token)
    }

    fn host(&self, what: &str) -> String {
        format!("{what}.{}.invalid", self.token)
    }

    fn rule(&self, name: &str, path: &str, service: &str, conditions: Vec<Condition>) -> Rule {
        let group = ServerGroup { service_name: self.named(service), service_port: 80, weight: 100 };
        let forward = Action::ForwardGroup { config: Forward { server_groups: vec![group] } };
        Rule { name: name.to_owned(), host: None, path: path.to_owned(), conditions, actions: vec![forward] }
    }

    fn trials(&self) -> Vec<Trial> {
        let own = &self.args.pod_namespace;
        let ask = |host: &str, path, header, want| Ask { host: self.host(host), path, header, want };
        let on = |host: &str, rule: Rule| Rule { host: Some(self.host(host)), ..rule };
        let cookie = |key: &str| {
            let pair = KeyValue { key: key.to_owned(), value: "yes".to_owned() };
            Condition::Cookie { config: Values { values: vec![pair] } }
        };
        let further = Condition::Host { config: Values { values: vec![self.host("further")] } };
        let mut basic = on("first", self.rule("forward-default", "/", "one", vec![further]));
        let set = InsertHeader {
            key: HEADER.to_owned(),
            value: "set".to_owned(),
            value_type: "UserDefined".to_owned(),
            cover_enabled: true,
        };
        basic.actions.insert(0, Action::InsertHeader { config: set });
        let one = || vec![ask("first", "/", None, Want::Server(0))];
        vec![
            Trial {
                name: "basic",
                namespace: own.clone(),
                rules: vec![basic],
                live: one(),
                tried: vec![
                    (Capability::ArrayJson, one()),
                    (Capability::CoverEnabled, vec![ask("first", "/", Some((HEADER, "client")), Want::Header("set"))]),
                    (Capability::MergedHosts, vec![ask("further", "/", None, Want::Server(0))]),
                    (Capability::NotFound, vec![ask("nobody", "/", None, Want::Status(404))]),
                ],
            },
            Trial {
                name: "paths",
                namespace: own.clone(),
                rules: vec![
                    on("paths", self.rule("forward-foo", "/foo", "one", Vec::new())),
                    on("paths", self.rule("forward-default", "/", "two", Vec::new())),
                ],
                live: vec![ask("paths", "/foo", None, Want::Server(0)), ask("paths", "/", None, Want::Server(1))],
                tried: vec![(
                    Capability::CharacterPrefix,
                    vec![
                        ask("paths", "/foobar", None, Want::Server(0)),
                        ask("paths", "/foo/bar", None, Want::Server(0)),
                        ask("paths", "/fo", None, Want::Server(1)),
                    ],
                )],
            },
            Trial {
                name: "cookies",
                namespace: own.clone(),
                rules: vec![
                    on("cookies", self.rule("forward-cookie-1", "/", "one", vec![cookie("first"), cookie("second")])),
                    on("cookies", self.rule("forward-default", "/", "two", Vec::new())),
                ],
                live: vec![
                    ask("cookies", "/", Some(("cookie", "first=yes; second=yes")), Want::Server(0)),
                    ask("cookies", "/", None, Want::Server(1)),
                ],
                tried: vec![(
                    Capability::TwoCookies,
                    vec![
                        ask("cookies", "/", Some(("cookie", "first=yes")), Want::Server(1)),
                        ask("cookies", "/", Some(("cookie", "second=yes")), Want::Server(1)),
                    ],
                )],
            },
            Trial {
                name: "two-ports",
                namespace: own.clone(),
                rules: vec![on("both", self.rule("forward-default", "/", "both", Vec::new()))],
                live: vec![ask("both", "/", None, Want::Any)],
                tried: vec![(Capability::TwoPorts, vec![ask("both", "/", None, Want::Any)])],
            },
            // Last: where it is not taken it may stop what comes after it.
            Trial {
                name: "foreign-pods",
                namespace: self.args.other_namespace.clone(),
                rules: vec![on("foreign", self.rule("forward-default", "/", "foreign", Vec::new()))],
                live: vec![ask("foreign", "/", None, Want::Server(0))],
                tried: vec![(Capability::ForeignPods, vec![ask("foreign", "/", None, Want::Server(0))])],
            },
        ]
    }

    /// Lets a Service lead to these ports of this pod.
    async fn lead(&self, namespace: &str, service: &str, ports: &[u16]) -> anyhow::Result<()> {
        let pod = json!({"kind": "Pod", "name": self.args.pod, "namespace": self.args.pod_namespace});
        let address = json!({"ip": self.args.pod_ip, "targetRef": pod});
        let subset =
            |port| json!({"addresses": [address], "ports": [{"name": "http", "port": port, "protocol": "TCP"}]});
        let subsets = ports.iter().map(subset).collect();
        self.objects.endpoints(namespace, &self.named(service), subsets).await
    }

    async fn publish(&self, trial: &Trial, order: u16) -> anyhow::Result<Timestamp> {
        let part = Part {
            role: Role::Primary,
            side: self.args.side.into(),
            rules: trial.rules.clone(),
            http: true,
            https: false,
            grpc: false,
            redirect: false,
            tls: Vec::new(),
        };
        let object = bare(&trial.namespace, &self.named(trial.name), order, &part, &self.settings);
        let since = self.clock.now();
        self.objects.ingress(object).await?;
        Ok(since)
    }

    /// The name of the load balancer, once the Ingress says it.
    async fn balancer(&self, trial: &Trial) -> anyhow::Result<String> {
        let until = self.clock.now() + self.args.patience;
        loop {
            if let Some(name) = self.objects.hostname(&trial.namespace, &self.named(trial.name)).await? {
                return Ok(name);
            }
            if until < self.clock.now() {
                bail!(
                    "the Ingress {}/{} got no name of a load balancer; see with kubectl describe ingress what the ALB Ingress \
                     controller says, or give it longer with --patience",
                    trial.namespace,
                    self.named(trial.name)
                );
            }
            tokio::time::sleep(PAUSE.to_std()).await;
        }
    }

    async fn addresses(&self, balancer: &str) -> anyhow::Result<Vec<SocketAddr>> {
        if !self.args.addresses.is_empty() {
            return Ok(self.args.addresses.clone());
        }
        let name = self.settings.asked_at(self.args.side.into(), balancer.to_owned());
        let found: BTreeSet<SocketAddr> =
            SystemVips.resolve(&name, false).await.with_context(|| no_address(&name))?.into_iter().collect();
        ensure!(!found.is_empty(), no_address(&name));
        Ok(found.into_iter().collect())
    }

    /// One address: how long until it followed, and what became of what is tried.
    async fn attempt(
        &self,
        address: SocketAddr,
        trial: &Trial,
        since: Timestamp,
    ) -> (Option<Span>, Vec<(Capability, Result<(), Wrong>)>) {
        let until = since + self.args.patience;
        let followed = self.follows(address, &trial.live, since, until).await;
        let mut outcomes = Vec::new();
        for (capability, asks) in &trial.tried {
            let outcome = match &followed {
                Err(wrong) => Err(wrong.clone()),
                Ok(_) if *capability == Capability::TwoPorts => self.both_answer(address, &asks[0], until).await,
                Ok(_) => self.holds(address, asks, until).await,
            };
            outcomes.push((*capability, outcome));
        }
        (followed.ok(), outcomes)
    }

    /// How long until an address answers all of it as it should, several times in a row.
    async fn follows(
        &self,
        address: SocketAddr,
        asks: &[Ask],
        since: Timestamp,
        until: Timestamp,
    ) -> Result<Span, Wrong> {
        let (mut good, mut first) = (0, since);
        loop {
            match self.round(address, asks).await {
                Ok(()) => {
                    if good == 0 {
                        first = self.clock.now();
                    }
                    good += 1;
                    if good == IN_A_ROW {
                        return Ok(first.since(since));
                    }
                }
                Err((saw, ask)) => {
                    good = 0;
                    if until <= self.clock.now() {
                        let patience = self.args.patience;
                        let why = format!("not in force within {patience}; asked for {ask} {saw}");
                        return Err(Wrong { why, sure: !matches!(saw, Saw::Nothing(_) | Saw::Other(404)) });
                    }
                }
            }
            tokio::time::sleep(PAUSE.to_std()).await;
        }
    }

    /// Whether an address that has the rules answers all of it as it should.
    async fn holds(&self, address: SocketAddr, asks: &[Ask], until: Timestamp) -> Result<(), Wrong> {
        let mut good = 0;
        while good < IN_A_ROW {
            match self.round(address, asks).await {
                Ok(()) => good += 1,
                Err((saw, _)) if saw.may_pass() && self.clock.now() < until => good = 0,
                Err((saw, ask)) => return Err(Wrong { why: format!("asked for {ask} {saw}"), sure: true }),
            }
            tokio::time::sleep(PAUSE.to_std()).await;
        }
        Ok(())
    }

    /// Whether both servers answer before it is too late: the second may come after the first.
    async fn both_answer(&self, address: SocketAddr, ask: &Ask, until: Timestamp) -> Result<(), Wrong> {
        loop {
            let (mut answered, mut all) = (BTreeSet::new(), true);
            for _ in 0..FOR_BOTH {
                match self.ask(address, ask).await {
                    Saw::Us(echo) => _ = answered.insert(echo.server),
                    _ => all = false,
                }
                if answered.len() == self.servers.len() {
                    return Ok(());
                }
            }
            if until <= self.clock.now() {
                let count = answered.len();
                let why = format!("of two servers in one Endpoints object {count} answered, in {FOR_BOTH} requests");
                return Err(Wrong { why, sure: all });
            }
            tokio::time::sleep(PAUSE.to_std()).await;
        }
    }

    /// Each question once; the first that is not answered as it should be.
    async fn round(&self, address: SocketAddr, asks: &[Ask]) -> Result<(), (Saw, String)> {
        for ask in asks {
            let saw = self.ask(address, ask).await;
            let good = match (&saw, &ask.want) {
                (Saw::Us(_), Want::Any) => true,
                (Saw::Us(echo), Want::Server(server)) => echo.server == *server,
                (Saw::Us(echo), Want::Header(value)) => echo.header == [*value],
                (Saw::Other(status), Want::Status(wanted)) => status == wanted,
                _ => false,
            };
            if !good {
                let with = ask.header.map(|(name, value)| format!(" with {name}: {value}")).unwrap_or_default();
                return Err((saw, format!("{}{}{with}", ask.host, ask.path)));
            }
        }
        Ok(())
    }

    async fn ask(&self, address: SocketAddr, ask: &Ask) -> Saw {
        let headers = ask.header.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let question =
            Question { secure: false, http2: false, host: ask.host.clone(), path: ask.path.to_owned(), headers };
        match question.ask(address, Topic::Request).await {
            Ok(reply) => match serde_json::from_slice::<Echo>(&reply.body) {
                Ok(echo) if reply.status == 200 && echo.token == self.token => Saw::Us(echo),
                _ => Saw::Other(reply.status),
            },
            Err(error) => Saw::Nothing(format!("{error:#}")),
        }
    }

    /// Exchanges the servers of the rule, and back: how long that takes at each address. It counts where it arrived.
    async fn exchange(&self, addresses: &[SocketAddr], trial: &Trial) -> anyhow::Result<Vec<Span>> {
        let mut delays = Vec::new();
        for number in 1..=EXCHANGES {
            let server = number % self.servers.len();
            let since = self.clock.now();
            self.lead(&trial.namespace, "one", &self.servers[server..=server]).await?;
            let asks = [Ask { host: self.host("first"), path: "/", header: None, want: Want::Server(server) }];
            let until = since + self.args.patience;
            let all = join_all(addresses.iter().map(|address| self.follows(*address, &asks, since, until))).await;
            delays.extend(all.into_iter().flatten());
        }
        Ok(delays)
    }
}

impl From<SideFlag> for Side {
    fn from(flag: SideFlag) -> Self {
        match flag {
            SideFlag::Internet => Self::Internet,
            SideFlag::Intranet => Self::Intranet,
        }
    }
}

fn no_address(name: &str) -> String {
    format!(
        "{name} has no address that is found from here; name one with --address, or with alb-probe-addresses in config-network"
    )
}

/// What is written into the ConfigMap.
fn data(report: &Report) -> anyhow::Result<BTreeMap<String, String>> {
    let checks = report.checks.iter();
    let said = checks.filter_map(|check| Some((check.capability.to_owned(), check.holds?.to_string())));
    let mut data: BTreeMap<String, String> = said.collect();
    data.insert(TESTED_AT.to_owned(), report.tested_at.clone());
    data.insert(REPORT.to_owned(), serde_json::to_string_pretty(report)?);
    Ok(data)
}

fn text(report: &Report) -> String {
    let mut text = String::new();
    let width = report.checks.iter().map(|check| check.means.len()).max().unwrap_or(0);
    for check in &report.checks {
        let holds = match check.holds {
            Some(true) => "yes",
            Some(false) if check.needed => "NO",
            Some(false) => "no",
            None => "?",
        };
        let line = format!("{:width$}  {holds:3}  {}", check.means, check.detail);
        _ = writeln!(text, "{}", line.trim_end());
    }
    for (what, delays) in [("rules", &report.rules), ("servers", &report.servers)] {
        if let Some(Delays { samples, p50_ms, p90_ms, max_ms }) = delays {
            _ = writeln!(
                text,
                "other {what} arrive at an address within {p50_ms} ms half of the time, {p90_ms} ms nine times of ten, {max_ms} \
                 ms at most ({samples} seen)"
            );
        }
    }
    _ = writeln!(text, "not tried: {}", report.not_tried.join(", "));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_what_was_seen() {
        let of = |millis: &[i64]| {
            let delays = Delays::of(millis.iter().map(|millis| Span::from_millis(*millis)).collect());
            delays.map(|Delays { samples, p50_ms, p90_ms, max_ms }| (samples, p50_ms, p90_ms, max_ms))
        };
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[7]), Some((1, 7, 7, 7)));
        // Half of ten are not above the fifth, nine of ten not above the ninth.
        assert_eq!(of(&[10, 9, 8, 7, 6, 5, 4, 3, 2, 1]), Some((10, 5, 9, 10)));
    }

    #[test]
    fn two_ports_are_two() {
        assert_eq!(two_ports("8080, 0"), Ok([8080, 0]));
        for text in ["", "8080", "8080,", "8080,x", "8080,8081,8082", "8080,65536"] {
            assert_eq!(two_ports(text), Err(format!("{text:?} are not two ports; write them as 8080,8081")));
        }
    }
}
