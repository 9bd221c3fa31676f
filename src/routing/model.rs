//! What the translation speaks of: settings, the annotation JSON of the ALB Ingress controller, rules, and refusals.

use crate::api::spelling::nearest;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

/// The ingress class of the KIngresses that are translated.
pub const CLASS: &str = "alb.ingress.networking.knative.dev";
/// Annotation: requests with these headers go to a revision.
pub const HEADERS_ANNOTATION: &str = "alicloud.serving.knative.dev/headers";
/// Annotation: requests with these cookies go to a revision.
pub const COOKIES_ANNOTATION: &str = "alicloud.serving.knative.dev/cookies";
/// Annotation: more hosts and paths that lead to a service, comma-separated.
pub const CUSTOM_ANNOTATION: &str = "knative.aliyun.com/serving-ingress";
/// Annotation: gRPC services offered beside HTTP, comma-separated.
pub const GRPC_ANNOTATION: &str = "knative.alibabacloud.com/grpc";

/// Entries (values of conditions, the path among them) a rule of the ALB may have.
pub const MAX_CONDITIONS: usize = 10;
/// Actions a rule may have.
pub const MAX_ACTIONS: usize = 5;
/// Server groups a rule may forward to.
pub const MAX_TARGETS: usize = 5;
/// Addresses to be asked instead of those a name has, at most; each is asked by each rule.
const MOST_ADDRESSES: usize = 16;
/// Bytes of annotations we plan for one Ingress at most; Kubernetes takes 256 KiB.
pub const MAX_ANNOTATIONS: usize = 200 << 10;

/// How a revision is reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Mode {
    /// Through its private Service; it never goes to zero.
    Hold,
    /// Through its public Service with the revision named in headers; in a weighted rule through its private Service.
    #[default]
    Header,
    /// Through a Service of its own, `NAME-alb`, behind which an activator has a port for each revision.
    Port,
}

impl Mode {
    /// Its word in `alb-data-plane`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Hold => "hold",
            Self::Header => "header",
            Self::Port => "port",
        }
    }

    /// Of a word.
    pub fn of(word: &str) -> Option<Self> {
        [Self::Hold, Self::Header, Self::Port].into_iter().find(|mode| mode.word() == word)
    }
}

/// Where names inside the cluster are served for a service that is also public.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ClusterLocal {
    /// Beside the public names, unless what they lead to is not public.
    #[default]
    Shared,
    /// On the intranet load balancer only.
    Intranet,
    /// By another gateway in the cluster; they are left out here.
    Gateway,
}

/// How it can be seen which version of the rules is live.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Probe {
    /// Each rule sets `K-Network-Hash`.
    #[default]
    Inline,
    /// Beside each rule there is one for `K-Network-Hash: override`, which sets it.
    Rule,
    /// It cannot.
    None,
}

/// With which status plain HTTP is redirected where it is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Redirect {
    /// 308, by the annotation of the load balancer's controller.
    #[default]
    Permanent,
    /// 301, as Knative's own gateways answer, by an Ingress of its own.
    Moved,
}

/// Hosts that are treated alike.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Layout {
    /// Share rules, as many as a rule has room for.
    #[default]
    Merged,
    /// Have a rule each.
    Split,
}

/// Whose KIngresses have a class.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Gateway {
    /// Ours.
    Alb,
    /// Kourier, whose Envoy follows the Services of a revision by itself.
    Kourier,
    /// Istio, or Alibaba Cloud's Service Mesh.
    Istio,
    /// Contour.
    Contour,
    /// Alibaba Cloud's microservices gateway, which its own controller programs.
    Mse,
    /// Somebody else's.
    Unknown,
}

impl Gateway {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Alb, Self::Kourier, Self::Istio, Self::Contour, Self::Mse, Self::Unknown];

    /// Its word where KIngresses are counted.
    pub fn word(self) -> &'static str {
        match self {
            Self::Alb => "alb",
            Self::Kourier => "kourier",
            Self::Istio => "istio",
            Self::Contour => "contour",
            Self::Mse => "mse",
            Self::Unknown => "other",
        }
    }

    /// Of an ingress class.
    pub fn of(class: &str) -> Self {
        match class.split_once('.') {
            _ if class == CLASS => Self::Alb,
            Some(("kourier", _)) => Self::Kourier,
            Some(("istio", _)) => Self::Istio,
            Some(("contour", _)) => Self::Contour,
            Some(("mse", _)) => Self::Mse,
            _ => Self::Unknown,
        }
    }

    /// Whose KIngresses of this class are, in words.
    pub fn whose(self) -> &'static str {
        match self {
            Self::Alb => "Ebb's",
            Self::Kourier => "Kourier's",
            Self::Istio => "Istio's or the Service Mesh's",
            Self::Contour => "Contour's",
            Self::Mse => "the MSE gateway's",
            Self::Unknown => "another controller's",
        }
    }
}

/// Which of the two load balancers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Side {
    /// Reached from everywhere.
    Internet,
    /// Reached from the private network.
    Intranet,
}

impl Side {
    /// `internet` or `intranet`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Internet => "internet",
            Self::Intranet => "intranet",
        }
    }

    /// The name of its IngressClass.
    pub fn class_name(self) -> String {
        format!("knative-alb-ingress-{}", self.word())
    }
}

/// The settings, from the ConfigMap `config-network`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// How revisions are reached.
    pub mode: Mode,
    /// Whether that is left to Ebb.
    pub auto: bool,
    /// Whether an entry may ask for several cookies. Not read from the map: it is seen.
    pub several_cookies: bool,
    /// Where names inside the cluster are served.
    pub cluster_local: ClusterLocal,
    /// The vSwitches of a load balancer we make; nothing when it is not known what they are.
    pub vswitches: Option<Vec<String>>,
    /// An existing AlbConfig for the internet side.
    pub albconfig: Option<String>,
    /// An existing AlbConfig for the intranet side; without it the same as for the internet side.
    pub albconfig_intranet: Option<String>,
    /// `Standard` or `StandardWithWaf`.
    pub edition: String,
    /// How it can be seen which version of the rules is live.
    pub probe: Probe,
    /// Whether pods have addresses the load balancer reaches. Otherwise it reaches the nodes' ports only.
    pub eni: bool,
    /// The status of redirects.
    pub redirect: Redirect,
    /// Whether hosts share rules.
    pub layout: Layout,
    /// Whether the load balancer looks for itself whether servers take connections.
    pub tcp_health_checks: bool,
    /// Seconds for which connections to a server that leaves are kept; nothing to leave that to the cloud.
    pub connection_drain: Option<u32>,
    /// Whether listeners are added to an AlbConfig that somebody else made.
    pub manage_listeners: bool,
    /// Whether load balancers that Ebb made go when nothing needs them any more.
    pub delete_unneeded: bool,
    /// What load balancers are tagged with, so that they can be found in the cloud.
    pub cluster_id: Option<String>,
    /// Rules we may use on each load balancer; one counts once for each listener.
    pub rule_budget: usize,
    /// Where the load balancer of the internet side is asked, instead of the addresses its name has; empty for those.
    pub probe_addresses: Vec<IpAddr>,
    /// Seconds a request may take.
    pub request_timeout: u32,
    /// Seconds a connection may stay silent.
    pub idle_timeout: u32,
    /// Whether there are activators that are gateways, which split where a rule cannot. Not read from the map: it is seen.
    pub gateways: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            mode: Mode::Header,
            auto: true,
            several_cookies: true,
            cluster_local: ClusterLocal::Shared,
            vswitches: None,
            albconfig: None,
            albconfig_intranet: None,
            edition: "Standard".to_owned(),
            probe: Probe::Inline,
            eni: true,
            redirect: Redirect::Permanent,
            layout: Layout::Merged,
            tcp_health_checks: false,
            connection_drain: None,
            manage_listeners: false,
            delete_unneeded: false,
            cluster_id: None,
            rule_budget: 100,
            probe_addresses: Vec::new(),
            request_timeout: 180,
            idle_timeout: 60,
            gateways: false,
        }
    }
}

/// The keys of `config-network` that are read here.
pub const KEYS: [&str; 21] = [
    "alb-cluster-id",
    "alb-cluster-local",
    "alb-connection-drain",
    "alb-data-plane",
    "alb-deletion-policy",
    "alb-edition",
    "alb-flavor",
    "alb-healthcheck",
    "alb-idle-timeout",
    "alb-legacy-annotations",
    "alb-manage-listeners",
    "alb-probe",
    "alb-probe-addresses",
    "alb-redirect",
    "alb-request-timeout",
    "alb-rule-budget",
    "alb-rule-layout",
    "albconfig",
    "albconfig-intranet",
    "eni",
    "vswitch-ids",
];

/// How keys begin that are the load balancer's; other keys of the map are read by others.
const PREFIXES: [&str; 4] = ["alb-", "albconfig", "slb-", "vswitch"];

/// Keys that others may know and Ebb does not, with the way out.
const ELSEWHERE: [(&str, &str); 2] = [
    ("alb-verify", "that a load balancer follows is seen by probes only, and not read from the cloud's API"),
    ("slb-gateway", "make a Service of the type LoadBalancer with the cloud's annotations yourself"),
];

impl Settings {
    /// The keys of `config-network` that would be the load balancer's and that nobody reads, with what was probably meant.
    /// They stop nothing: a map may be of another version.
    pub fn unknown(data: &BTreeMap<String, String>) -> Vec<String> {
        let ours = |key: &&String| {
            let key = key.to_lowercase();
            PREFIXES.iter().any(|prefix| key.starts_with(prefix))
        };
        let unread = data.keys().filter(ours).filter(|key| !KEYS.contains(&key.as_str()));
        unread
            .map(|key| {
                if let Some((_, instead)) = ELSEWHERE.iter().find(|(known, _)| known == key) {
                    return format!("{key} is not supported and has no effect: {instead}; remove it");
                }
                let mend =
                    nearest(key, KEYS).map_or("remove it".to_owned(), |meant| format!("write {meant}, or remove it"));
                format!("{key} has no effect, because there is no such key; {mend}")
            })
            .collect()
    }

    /// Reads `config-network`. Every value that cannot be used is told, with what is accepted.
    pub fn parse(data: &BTreeMap<String, String>) -> Result<Self, Vec<String>> {
        let mut this = Self { vswitches: Some(Vec::new()), ..Self::default() };
        let mut wrong = Vec::new();
        for (key, value) in data {
            let value = value.trim();
            let mut refuse = |accepted: &str| wrong.push(format!("{key}: {value:?} is not accepted; use {accepted}"));
            match (key.as_str(), value) {
                ("vswitch-ids", _) => {
                    let mut ids: Vec<String> = Vec::new();
                    for id in value.split(',').map(str::trim).filter(|id| !id.is_empty()) {
                        if !ids.iter().any(|present| present == id) {
                            ids.push(id.to_owned());
                        }
                    }
                    this.vswitches = Some(ids);
                }
                ("albconfig", _) => this.albconfig = (!value.is_empty()).then(|| value.to_owned()),
                ("albconfig-intranet", _) => this.albconfig_intranet = (!value.is_empty()).then(|| value.to_owned()),
                // Basic is refused where something would be put on such a load balancer.
                ("alb-edition", "Standard" | "StandardWithWaf" | "Basic") => value.clone_into(&mut this.edition),
                ("alb-edition", _) => refuse("Standard or StandardWithWaf"),
                ("alb-data-plane", "" | "auto") => {}
                ("alb-data-plane", _) => match Mode::of(value) {
                    Some(mode) => (this.mode, this.auto) = (mode, false),
                    None => refuse("auto, hold, header or port"),
                },
                ("alb-cluster-local", "" | "shared") => this.cluster_local = ClusterLocal::Shared,
                ("alb-cluster-local", "intranet") => this.cluster_local = ClusterLocal::Intranet,
                ("alb-cluster-local", "gateway") => this.cluster_local = ClusterLocal::Gateway,
                ("alb-cluster-local", _) => refuse("shared, intranet or gateway"),
                ("alb-probe", "" | "inline") => this.probe = Probe::Inline,
                ("alb-probe", "rule") => this.probe = Probe::Rule,
                ("alb-probe", "none") => this.probe = Probe::None,
                ("alb-probe", _) => refuse("inline, rule or none"),
                ("alb-flavor", "aws") => refuse("alibaba; the annotations of AWS' load balancer are not written"),
                ("alb-flavor", "alibaba-canary") => {
                    refuse("alibaba; the controller that knows canary annotations only is not supported");
                }
                ("alb-flavor", other) if !matches!(other, "" | "alibaba") => refuse("alibaba"),
                ("alb-legacy-annotations", other) if !matches!(other, "" | "false") => {
                    refuse("false; the dialect of ALB Ingress controllers before 2.5.0 is not written");
                }
                ("eni", "" | "true") => this.eni = true,
                ("eni", "false") => this.eni = false,
                ("alb-redirect", "" | "308") => this.redirect = Redirect::Permanent,
                ("alb-redirect", "301") => this.redirect = Redirect::Moved,
                ("alb-redirect", _) => refuse("308 or 301"),
                ("alb-rule-layout", "" | "merged") => this.layout = Layout::Merged,
                ("alb-rule-layout", "split") => this.layout = Layout::Split,
                ("alb-rule-layout", _) => refuse("merged or split"),
                ("alb-healthcheck", "" | "off") => this.tcp_health_checks = false,
                ("alb-healthcheck", "tcp") => this.tcp_health_checks = true,
                ("alb-healthcheck", _) => {
                    refuse("off or tcp; an HTTP check is a request, and would keep revisions awake or wake them");
                }
                ("alb-manage-listeners", "" | "false") => this.manage_listeners = false,
                ("alb-manage-listeners", "true") => this.manage_listeners = true,
                ("alb-manage-listeners" | "eni", _) => refuse("true or false"),
                ("alb-deletion-policy", "" | "Retain") => this.delete_unneeded = false,
                ("alb-deletion-policy", "Delete") => this.delete_unneeded = true,
                ("alb-deletion-policy", _) => refuse("Retain or Delete"),
                ("alb-cluster-id", _) => this.cluster_id = (!value.is_empty()).then(|| value.to_owned()),
                ("alb-connection-drain", "" | "0") => this.connection_drain = None,
                ("alb-connection-drain", _) => match value.parse() {
                    Ok(seconds @ 10..=900) => this.connection_drain = Some(seconds),
                    _ => refuse("seconds from 10 to 900, or 0"),
                },
                ("alb-probe-addresses", _) => {
                    let texts = value.split(',').map(str::trim).filter(|text| !text.is_empty());
                    match texts.map(str::parse).collect::<Result<BTreeSet<IpAddr>, _>>() {
                        Ok(addresses) if addresses.len() <= MOST_ADDRESSES => {
                            this.probe_addresses = addresses.into_iter().collect();
                        }
                        _ => refuse("IP addresses, comma-separated, 16 at most"),
                    }
                }
                ("alb-rule-budget", _) => match value.parse() {
                    Ok(budget @ 1..=10_000) => this.rule_budget = budget,
                    _ => refuse("a number from 1 to 10000"),
                },
                ("alb-request-timeout", _) => match value.parse() {
                    Ok(seconds @ 1..=900) => this.request_timeout = seconds,
                    _ => refuse("seconds from 1 to 900"),
                },
                ("alb-idle-timeout", _) => match value.parse() {
                    Ok(seconds @ 1..=600) => this.idle_timeout = seconds,
                    _ => refuse("seconds from 1 to 600"),
                },
                _ => {}
            }
        }
        if wrong.is_empty() { Ok(this) } else { Err(wrong) }
    }

    /// The AlbConfig somebody else made for this side.
    pub fn existing(&self, side: Side) -> Option<&str> {
        let own = if side == Side::Intranet { self.albconfig_intranet.as_deref() } else { None };
        own.or(self.albconfig.as_deref())
    }

    /// Where the load balancer of this side is asked: at the addresses of its name, or at these.
    pub fn asked_at(&self, side: Side, name: String) -> String {
        if self.probe_addresses.is_empty() || self.balancer(side) != self.balancer(Side::Internet) {
            return name;
        }
        let texts: Vec<String> = self.probe_addresses.iter().map(ToString::to_string).collect();
        texts.join(",")
    }

    /// The AlbConfig of this side; both sides may have the same.
    pub fn balancer(&self, side: Side) -> String {
        self.existing(side).map_or_else(|| format!("knative-{}", side.word()), ToOwned::to_owned)
    }
}

/// Why a KIngress cannot be expressed, as a word for its conditions and events, and as a sentence.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Remark {
    /// One word, such as `TooManyConditions`.
    pub reason: &'static str,
    /// What it is about, and the way out.
    pub message: String,
}

impl Remark {
    /// A remark.
    pub fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }

    /// Whether its owner need not do anything about it.
    pub fn is_normal(&self) -> bool {
        matches!(self.reason, "ClusterLocalGRPCUnavailable" | "SplitDelegated")
    }
}

impl fmt::Display for Remark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason, self.message)
    }
}

/// A condition of a rule. Separate conditions must all hold; of the values of one, any.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "type", deny_unknown_fields)]
pub enum Condition {
    /// The host is one of these.
    Host {
        /// The hosts.
        #[serde(rename = "hostConfig")]
        config: Values<String>,
    },
    /// A header has one of these values.
    Header {
        /// The header.
        #[serde(rename = "headerConfig")]
        config: HeaderValues,
    },
    /// There is one of these cookies.
    Cookie {
        /// The cookies.
        #[serde(rename = "cookieConfig")]
        config: Values<KeyValue>,
    },
}

impl Condition {
    /// How many of the entries a rule may have this takes.
    pub fn entries(&self) -> usize {
        match self {
            Self::Host { config } => config.values.len(),
            Self::Header { config } => config.values.len(),
            Self::Cookie { config } => config.values.len(),
        }
    }
}

/// Values of which any will do.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Values<T> {
    /// The values.
    pub values: Vec<T>,
}

/// A header and its values.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeaderValues {
    /// The header.
    pub key: String,
    /// The values; `*` and `?` are wildcards.
    pub values: Vec<String>,
}

/// A cookie.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyValue {
    /// Its name.
    pub key: String,
    /// Its value.
    pub value: String,
}

/// What a rule does.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "type", deny_unknown_fields)]
pub enum Action {
    /// Sets a header.
    InsertHeader {
        /// Which, to what.
        #[serde(rename = "InsertHeaderConfig")]
        config: InsertHeader,
    },
    /// Changes the request before it is forwarded.
    Rewrite {
        /// How.
        #[serde(rename = "RewriteConfig")]
        config: Rewrite,
    },
    /// Sends the client elsewhere.
    Redirect {
        /// Whereto.
        #[serde(rename = "RedirectConfig")]
        config: RedirectTo,
    },
    /// Forwards by weight.
    ForwardGroup {
        /// Whereto.
        #[serde(rename = "ForwardConfig")]
        config: Forward,
    },
    /// Answers itself.
    FixedResponse {
        /// What.
        #[serde(rename = "FixedResponseConfig")]
        config: Fixed,
    },
}

/// A header to be set.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct InsertHeader {
    /// The header.
    pub key: String,
    /// The value.
    pub value: String,
    /// `UserDefined`.
    pub value_type: String,
    /// Whether what the client sent is replaced. The cloud's own default is that it is not.
    pub cover_enabled: bool,
}

/// What is changed of a request.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct Rewrite {
    /// The host it is for.
    pub host: String,
}

/// Where a client is sent. What is `${…}` stays as it is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RedirectTo {
    /// The host.
    pub host: String,
    /// The path.
    pub path: String,
    /// The port.
    pub port: String,
    /// `http` or `https`.
    pub protocol: String,
    /// The query.
    pub query: String,
    /// The status, as text.
    pub http_code: String,
}

/// Where a rule forwards.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct Forward {
    /// The server groups.
    pub server_groups: Vec<ServerGroup>,
}

/// A Service and its share.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct ServerGroup {
    /// The Service, in the namespace of the Ingress.
    pub service_name: String,
    /// Its port.
    pub service_port: u16,
    /// 1 to 100.
    pub weight: u8,
}

/// A fixed answer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Fixed {
    /// Of the body.
    pub content_type: String,
    /// The status, as text.
    pub http_code: String,
    /// The body.
    pub content: String,
}

/// A rule as the ALB will have it, under one Ingress.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Rule {
    /// The name its annotations have.
    pub name: String,
    /// The first host; none is every host.
    pub host: Option<String>,
    /// A literal prefix; `/` is everything.
    pub path: String,
    /// What else must hold, further hosts among it.
    pub conditions: Vec<Condition>,
    /// Headers to be set, and last what ends the rule.
    pub actions: Vec<Action>,
}

impl Rule {
    /// All hosts; none is every host.
    pub fn hosts(&self) -> impl Iterator<Item = &str> {
        let further = self.conditions.iter().flat_map(|condition| match condition {
            Condition::Host { config } => config.values.as_slice(),
            _ => &[],
        });
        self.host.iter().chain(further).map(String::as_str)
    }

    /// Whether `text` can be read back as the documented JSON, strictly.
    pub fn reparse(conditions: &str, actions: &str) -> Result<(Vec<Condition>, Vec<Action>), serde_json::Error> {
        Ok((serde_json::from_str(conditions)?, serde_json::from_str(actions)?))
    }
}

/// The first `digits` hexadecimal digits of SHA-256.
pub fn digest(bytes: &[u8], digits: usize) -> String {
    let nibbles = Sha256::digest(bytes).into_iter().flat_map(|byte| [byte >> 4, byte & 15]);
    nibbles.take(digits).filter_map(|nibble| char::from_digit(u32::from(nibble), 16)).collect()
}
