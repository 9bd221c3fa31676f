//! One KIngress to the rules of one or more Ingresses.
//!
//! The ALB takes the first rule that matches, so within an Ingress the longer path stands first, and of one path a tag
//! asked for by header before a user's header, that before a user's cookie, and the default last.

pub mod canary;

use crate::api::alb_config::AlbConfig;
use crate::api::ingress::{HttpPath, Ingress, IngressRule, IngressSplit, IngressTls};
use crate::api::names::{DEFAULT_ROUTE_HEADER, NAMESPACE_HEADER, REVISION_HEADER, TAG_HEADER};
use crate::api::serving::{Revision, Route};
use crate::routing::model::{
    Action, COOKIES_ANNOTATION, CUSTOM_ANNOTATION, ClusterLocal, Condition, Fixed, Forward, GRPC_ANNOTATION,
    HEADERS_ANNOTATION, HeaderValues, InsertHeader, Layout, MAX_ACTIONS, MAX_CONDITIONS, MAX_TARGETS, Mode, Probe,
    Redirect, RedirectTo, Remark, Rewrite, Rule, ServerGroup, Settings, Side, Values, digest,
};
use crate::units::RevisionKey;
use k8s_openapi::api::core::v1::Service as CoreService;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

const ACME_PREFIX: &str = "/.well-known/acme-challenge/";
const CLUSTER_SUFFIX: &str = ".svc.cluster.local";
/// The longest name of an action: 63 characters less those of the longest prefix.
const LONGEST_ACTION: usize = 48;
/// The header that says which version of the rules is live, and the value by which it is asked for.
const HASH_HEADER: &str = "K-Network-Hash";
const HASH_ASKED: &str = "override";
/// The header that selects a member of a split; its value is the revision and a secret.
const SELECT_HEADER: &str = "K-Alb-Select";
/// Seconds a request may take where a revision does not say.
const DEFAULT_TIMEOUT: i64 = 300;
/// With less, pods that end may be gone before the load balancer has noticed.
const SHORTEST_GRACE: i64 = 60;
/// The longest name of a Service.
const LONGEST_SERVICE: usize = 63;

/// What a translation may look at.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// All KIngresses of the class; a domain mapping leads to one of them.
    pub ingresses: &'a [Ingress],
    /// KIngresses of other classes.
    pub others: &'a [Ingress],
    /// Routes, which list the revisions that take part in the traffic.
    pub routes: &'a [Route],
    /// Services of Kubernetes: their kind and their ports.
    pub services: &'a [CoreService],
    /// Revisions, which say how long requests may take.
    pub revisions: &'a [Revision],
    /// Hosts that a ClusterDomainClaim gives to a namespace.
    pub claims: &'a BTreeMap<String, String>,
    /// The settings.
    pub settings: &'a Settings,
    /// Revisions that are reached in another way than the settings say.
    pub modes: &'a BTreeMap<RevisionKey, Mode>,
    /// Load balancers there are.
    pub balancers: &'a [AlbConfig],
    /// How members of a split are asked one by one.
    pub selectors: Selectors<'a>,
}

/// How the members of a split that are reached by ports are asked one by one: a probe goes to whomever chance picks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Selectors<'a> {
    /// Not at all, and nothing depends on it.
    #[default]
    Off,
    /// By a rule for each that takes a header with this secret.
    Rules(&'a str),
    /// There is no room for such rules, so each member keeps a pod.
    Pin,
}

impl<'a> Context<'a> {
    /// These KIngresses, and nothing known besides.
    pub fn new(ingresses: &'a [Ingress], settings: &'a Settings) -> Self {
        static NO_CLAIMS: BTreeMap<String, String> = BTreeMap::new();
        static NO_MODES: BTreeMap<RevisionKey, Mode> = BTreeMap::new();
        Self {
            ingresses,
            others: &[],
            routes: &[],
            services: &[],
            revisions: &[],
            claims: &NO_CLAIMS,
            settings,
            modes: &NO_MODES,
            balancers: &[],
            selectors: Selectors::Off,
        }
    }

    fn mode_of(&self, namespace: &str, revision: &str) -> Mode {
        self.modes.get(&RevisionKey::new(namespace, revision)).copied().unwrap_or(self.settings.mode)
    }
}

/// What a KIngress becomes.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Translation {
    /// One or more Ingresses to be; none when nothing is to be served by the ALB.
    pub parts: Vec<Part>,
    /// What its owner should know although it works.
    pub remarks: Vec<Remark>,
    /// Revisions a rule leads to, also those that get no share of the default.
    pub routed: BTreeSet<String>,
    /// Of those, the ones that must keep a pod, since a rule leads to their private Service.
    pub pinned: BTreeSet<String>,
    /// Services behind which an activator is to split, since a rule cannot.
    pub delegated: BTreeMap<String, Vec<IngressSplit>>,
}

/// Which Ingress of a KIngress.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Role {
    /// The one of the same name.
    Primary,
    /// gRPC beside HTTP.
    Grpc,
    /// The answer over plain HTTP on paths that are gRPC.
    GrpcHttp,
    /// Plain HTTP sent to HTTPS.
    Redirect,
    /// Names inside the cluster, which must not be where the public ones are.
    Private,
}

/// One Ingress to be.
#[derive(Clone, PartialEq, Debug)]
pub struct Part {
    /// Which.
    pub role: Role,
    /// On which load balancer.
    pub side: Side,
    /// Its rules in order; never empty.
    pub rules: Vec<Rule>,
    /// Whether it listens on port 80.
    pub http: bool,
    /// Whether it listens on port 443.
    pub https: bool,
    /// Whether its backends speak gRPC.
    pub grpc: bool,
    /// Whether port 80 redirects to 443.
    pub redirect: bool,
    /// Certificates.
    pub tls: Vec<IngressTls>,
}

impl Part {
    /// The listeners its rules lead anywhere on: whether each speaks TLS.
    pub fn listeners(&self) -> impl Iterator<Item = bool> + use<> {
        let plain = (self.http && !self.redirect).then_some(false);
        plain.into_iter().chain(self.https.then_some(true))
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Class {
    Tag,
    UserHeader,
    UserCookie,
    Custom,
    Default,
}

#[derive(Clone, PartialEq, Debug)]
struct Draft {
    public: Vec<String>,
    local: Vec<String>,
    /// Whether the names inside the cluster lead to what is public anyway.
    shared: bool,
    path: String,
    conditions: Vec<Condition>,
    class: Class,
    name: Option<String>,
    groups: Vec<ServerGroup>,
    headers: Vec<(String, String)>,
    rewrite_host: Option<String>,
    h2c: bool,
}

/// Drafts with the hosts they are for in each Ingress; no host is every host.
type ByPlace = BTreeMap<(Role, Side), Vec<(Vec<String>, Draft)>>;

/// Hosts that are treated alike.
struct Group<'a> {
    public: Vec<String>,
    local: Vec<String>,
    shared: bool,
    paths: &'a [HttpPath],
}

/// The Services the rules of an Ingress to be lead to.
pub fn services_of(part: &Part) -> impl Iterator<Item = &String> {
    let actions = part.rules.iter().flat_map(|rule| &rule.actions);
    let groups = actions.filter_map(|action| match action {
        Action::ForwardGroup { config } => Some(&config.server_groups),
        _ => None,
    });
    groups.flatten().map(|group| &group.service_name)
}

/// The server groups a rule leads to.
pub fn groups_of_rule(rule: &Rule) -> impl Iterator<Item = &ServerGroup> {
    let groups = rule.actions.iter().filter_map(|action| match action {
        Action::ForwardGroup { config } => Some(&config.server_groups),
        _ => None,
    });
    groups.flatten()
}

/// The revision behind a Service that a rule of ours leads to; of another Service its own name.
pub fn revision_of_service(service: &str) -> &str {
    service.strip_suffix("-alb").or_else(|| service.strip_suffix("-private")).unwrap_or(service)
}

/// Translates one KIngress.
pub fn translate(ingress: &Ingress, context: &Context<'_>) -> Result<Translation, Remark> {
    let meta = &ingress.metadata;
    for name in [text(meta.name.as_ref()), text(meta.namespace.as_ref())] {
        reserved(name)?;
    }
    if let Some(host) = ingress.spec.rules.iter().flat_map(|rule| &rule.hosts).find(|host| !is_host(host)) {
        let message = format!("{host:?} is not a host the load balancer takes: 3 to 256 of a-z, 0-9, '-' and '.'");
        return Err(Remark::new("InvalidHost", message));
    }
    for tls in &ingress.spec.tls {
        if !tls.secret_namespace.is_empty() && Some(&tls.secret_namespace) != meta.namespace.as_ref() {
            let message = format!(
                "the secret {}/{} is in another namespace; the load balancer takes certificates from the namespace of \
                 the KIngress only",
                tls.secret_namespace, tls.secret_name
            );
            return Err(Remark::new("TLSSecretNamespace", message));
        }
    }
    let done = Translation::default();
    let mut work = Work { ingress, context, done, plain: true };
    let drafts = work.drafts()?;
    let parts = work.place(drafts)?;
    for part in &parts {
        balancer(context, part.side)?;
    }
    work.timeouts();
    Ok(Translation { parts, ..work.done })
}

/// Whether there can be a load balancer of this side.
fn balancer(context: &Context<'_>, side: Side) -> Result<(), Remark> {
    let settings = context.settings;
    let is_there = |known: &AlbConfig| known.metadata.name.as_ref() == Some(&settings.balancer(side));
    if settings.existing(side).is_some() {
        return Ok(());
    }
    if settings.edition == "Basic" {
        let message = "alb-edition Basic can neither insert headers nor match cookies; use Standard or StandardWithWaf";
        return Err(Remark::new("EditionUnsupported", message));
    }
    match &settings.vswitches {
        // Only one that is to be made has to be told where.
        Some(ids) if ids.len() < 2 && !context.balancers.iter().any(is_there) => {
            let message = format!(
                "vswitch-ids names {} and a load balancer needs vSwitches in two zones; name two, or an existing \
                 AlbConfig with albconfig",
                ids.len()
            );
            Err(Remark::new("VSwitchMissing", message))
        }
        _ => Ok(()),
    }
}

struct Work<'a> {
    ingress: &'a Ingress,
    context: &'a Context<'a>,
    /// What is known of the outcome so far.
    done: Translation,
    /// Whether the rules follow from the spec of the KIngress alone.
    plain: bool,
}

impl Work<'_> {
    fn drafts(&mut self) -> Result<Vec<Draft>, Remark> {
        let groups = groups(self.ingress);
        let mut drafts = Vec::new();
        let first = groups.iter().position(|group| is_default(group.paths));
        for (number, group) in groups.iter().enumerate() {
            let mut made = Vec::new();
            for path in group.paths {
                if path.rewrite_host.is_empty() {
                    made.extend(self.of_path(self.ingress, path, Some(number) == first)?);
                } else {
                    made.extend(self.flattened(path)?);
                }
            }
            if Some(number) == first {
                made.extend(self.user_entries(self.ingress, group.paths)?);
            }
            for draft in made {
                let (public, local) = (group.public.clone(), group.local.clone());
                drafts.push(Draft { public, local, shared: group.shared, ..draft });
            }
        }
        if let Some(group) = first.map(|first| &groups[first]) {
            drafts.extend(self.custom(group)?);
            drafts.extend(self.dual(group)?);
        }
        Ok(drafts)
    }

    /// The rule of one path of a KIngress, without hosts.
    fn of_path(&mut self, of: &Ingress, path: &HttpPath, default: bool) -> Result<Vec<Draft>, Remark> {
        let mut conditions = Vec::new();
        let mut name =
            (default && path.headers.is_empty() && !is_acme(&path.path)).then(|| "forward-default".to_owned());
        for (key, wanted) in &path.headers {
            if wanted.exact.contains(['*', '?']) {
                let message = format!(
                    "the header {key} must equal {:?}; the load balancer takes '*' and '?' for wildcards",
                    wanted.exact
                );
                return Err(Remark::new("UnsupportedHeaderMatch", message));
            }
            if !canary::is_header_key(key) || !canary::is_header_value(&wanted.exact) {
                let message = format!("the load balancer cannot match the header {key:?} with {:?}", wanted.exact);
                return Err(Remark::new("UnsupportedHeaderMatch", message));
            }
            if key.eq_ignore_ascii_case(TAG_HEADER) {
                name = Some(format!("forward-tag-{}", wanted.exact));
            }
            let config = HeaderValues { key: key.clone(), values: vec![wanted.exact.clone()] };
            conditions.push(Condition::Header { config });
        }
        let class = if conditions.is_empty() { Class::Default } else { Class::Tag };
        Ok(vec![Draft { conditions, class, name, ..self.draft(of, path, class)? }])
    }

    /// Where a path leads and what it sets.
    fn draft(&mut self, of: &Ingress, path: &HttpPath, class: Class) -> Result<Draft, Remark> {
        let path_text = checked_path(&path.path)?;
        let splits: Vec<&IngressSplit> = path.splits.iter().filter(|split| split.percent > 0).collect();
        if splits.is_empty() {
            return Err(Remark::new(
                "UnsupportedBackend",
                format!("the path {path_text} leads nowhere: no split has a share"),
            ));
        }
        let others = |split: &IngressSplit| -> Vec<(String, String)> {
            split.append_headers.iter().filter(|(key, _)| !is_revision_header(key)).map(own).collect()
        };
        let further = others(splits[0]);
        let alike = splits.iter().all(|split| others(split) == further);
        let whole = if splits.len() > MAX_TARGETS || !alike { self.delegate(path, &path_text, &splits)? } else { None };
        if !alike && whole.is_none() {
            let message = format!("the targets of {path_text} set different headers; a rule sets the same for all");
            return Err(Remark::new("PerSplitHeadersUnsupported", message));
        }
        if splits.len() > MAX_TARGETS && whole.is_none() {
            let message = format!(
                "the path {path_text} is split over {} targets; a rule takes {MAX_TARGETS}. Give the traffic to fewer \
                 revisions",
                splits.len()
            );
            return Err(Remark::new("TooManyTargets", message));
        }
        let single = splits.len() == 1;
        let namespace = text(self.ingress.metadata.namespace.as_ref());
        let mode = self.context.mode_of(namespace, &splits[0].service_name);
        let mut groups = Vec::new();
        let mut revision_headers = Vec::new();
        let mut protocols = BTreeSet::new();
        for split in &splits {
            // Of a split that an activator does no member has to keep a pod.
            let (group, h2c) = self.group(of, split, single || whole.is_some())?;
            groups.push(group);
            protocols.insert(h2c);
            for key in [REVISION_HEADER, NAMESPACE_HEADER] {
                if let Some(value) = lookup(&split.append_headers, key)
                    && single
                    && mode == Mode::Header
                {
                    revision_headers.push((canonical(key).to_owned(), value.to_owned()));
                }
            }
        }
        if protocols.len() > 1 {
            let message = format!("the path {path_text} is split over revisions with h2c and without");
            return Err(Remark::new("MixedProtocols", message));
        }
        let mut headers = revision_headers;
        let is_kept = |key: &str| class == Class::Default || !key.eq_ignore_ascii_case(DEFAULT_ROUTE_HEADER);
        headers.extend(path.append_headers.iter().filter(|(key, _)| is_kept(key)).map(own));
        match whole {
            // The activator sets what each split sets.
            Some(group) => groups = vec![group],
            None => headers.extend(further),
        }
        for (key, value) in &headers {
            if is_reserved_header(key) || !canary::is_header_key(key) || !canary::is_header_value(value) {
                let message = format!("the load balancer cannot set the header {key:?} to {value:?}");
                return Err(Remark::new("UnsupportedHeader", message));
            }
        }
        Ok(Draft {
            public: Vec::new(),
            local: Vec::new(),
            shared: true,
            path: path_text,
            conditions: Vec::new(),
            class,
            name: None,
            groups,
            headers,
            rewrite_host: None,
            h2c: protocols.contains(&true),
        })
    }

    /// The server group of an activator that splits in the place of a rule; nothing where there is none that can.
    fn delegate(
        &mut self,
        path: &HttpPath,
        path_text: &str,
        splits: &[&IngressSplit],
    ) -> Result<Option<ServerGroup>, Remark> {
        let revisions = splits.iter().all(|split| lookup(&split.append_headers, REVISION_HEADER).is_some());
        let can = self.context.settings.mode == Mode::Port || self.context.settings.gateways;
        if !can || !revisions {
            return Ok(None);
        }
        self.plain = false;
        let name = text(self.ingress.metadata.name.as_ref());
        let known = self.done.delegated.iter().find(|(_, known)| **known == path.splits);
        let number = self.done.delegated.len() + 1;
        let service_name = known.map_or_else(|| format!("{name}-alb-split-{number}"), |(service, _)| service.clone());
        fits(&service_name)?;
        if known.is_none() {
            self.done.delegated.insert(service_name.clone(), path.splits.clone());
            let message = format!(
                "the path {path_text} is split over {} targets in a way a rule cannot; the activator splits them",
                splits.len()
            );
            self.done.remarks.push(Remark::new("SplitDelegated", message));
        }
        Ok(Some(ServerGroup { service_name, service_port: 80, weight: 100 }))
    }

    /// Says which revisions allow more time than the load balancer, or less than it needs.
    fn timeouts(&mut self) {
        let limit = self.context.settings.request_timeout;
        let of_ours = self.context.revisions.iter().filter(|revision| {
            revision.metadata.namespace == self.ingress.metadata.namespace
                && self.done.routed.contains(text(revision.metadata.name.as_ref()))
        });
        for revision in of_ours {
            let name = text(revision.metadata.name.as_ref());
            let seconds = revision.spec.timeout_seconds.unwrap_or(DEFAULT_TIMEOUT);
            if seconds > i64::from(limit) {
                let message = format!(
                    "{name} allows requests {seconds} s and the load balancer ends them after {limit} s; lower its \
                     timeoutSeconds, or raise alb-request-timeout"
                );
                self.done.remarks.push(Remark::new("TimeoutExceedsListener", message));
            }
            if seconds < SHORTEST_GRACE {
                let message = format!(
                    "pods of {name} end {seconds} s after they are told to, and the load balancer may still send to them; \
                     give it a timeoutSeconds of at least {SHORTEST_GRACE}"
                );
                self.done.remarks.push(Remark::new("ShortGrace", message));
            }
        }
    }

    /// The server group of a split, and whether it speaks gRPC.
    fn group(&mut self, of: &Ingress, split: &IngressSplit, single: bool) -> Result<(ServerGroup, bool), Remark> {
        let service = &split.service_name;
        reserved(service)?;
        let namespace = text(self.ingress.metadata.namespace.as_ref());
        if split.service_namespace != namespace || text(of.metadata.namespace.as_ref()) != namespace {
            let message = format!(
                "{}/{service} is in another namespace than the KIngress; the load balancer reaches its own only",
                split.service_namespace
            );
            return Err(Remark::new("CrossNamespaceBackend", message));
        }
        let unsupported = |message: String| Remark::new("UnsupportedBackend", message);
        let port = match &split.service_port {
            IntOrString::Int(port) => u16::try_from(*port).ok().filter(|port| *port > 0),
            IntOrString::String(name) => match name.as_str() {
                "http" => Some(80),
                "h2c" | "http2" => Some(81),
                _ => None,
            },
        };
        let port =
            port.ok_or_else(|| unsupported(format!("the port {:?} of {service} is no number", split.service_port)))?;
        let is_revision = lookup(&split.append_headers, REVISION_HEADER).is_some();
        let type_of =
            self.service(service).and_then(|found| found.spec.as_ref()).and_then(|spec| spec.type_.as_deref());
        if type_of == Some("ExternalName") {
            return Err(unsupported(format!("{service} only names another host; the load balancer needs servers")));
        }
        if !self.context.settings.eni {
            let by_node = is_revision && self.context.mode_of(namespace, service) == Mode::Port;
            let known = !is_revision && matches!(type_of, Some("NodePort" | "LoadBalancer"));
            if !by_node && !known {
                return Err(unsupported(format!(
                    "eni is \"false\", so the load balancer reaches ports of nodes only, and {service} has none; with \
                     alb-data-plane: port revisions get some"
                )));
            }
        }
        let h2c = is_revision && port == 81;
        let mode = self.context.mode_of(namespace, service);
        // What follows from settings alone is told apart by what the rules say.
        self.plain &= !is_revision || mode == self.context.settings.mode;
        let (suffix, port) = match (is_revision, mode) {
            (false, _) => ("", port),
            (true, Mode::Header) if single => ("", port),
            (true, Mode::Port) => ("-alb", 80),
            (true, Mode::Header | Mode::Hold) => ("-private", 80),
        };
        if is_revision {
            self.done.routed.insert(service.clone());
        }
        let unselected = suffix == "-alb" && !single && self.context.selectors == Selectors::Pin;
        if suffix == "-private" || unselected {
            self.done.pinned.insert(service.clone());
        }
        let service_name = format!("{service}{suffix}");
        fits(&service_name)?;
        let weight = u8::try_from(split.percent).ok().filter(|weight| *weight <= 100);
        let weight = weight.ok_or_else(|| unsupported(format!("{service} has {} percent", split.percent)))?;
        Ok((ServerGroup { service_name, service_port: port, weight }, h2c))
    }

    /// A domain mapping leads to another KIngress by its name inside the cluster: what that has is planned here too.
    fn flattened(&mut self, mapping: &HttpPath) -> Result<Vec<Draft>, Remark> {
        self.plain = false;
        let wanted = &mapping.rewrite_host;
        if !matches!(mapping.path.as_str(), "" | "/") || !mapping.headers.is_empty() {
            let message = format!("a rewrite to {wanted} of some paths or headers only cannot be expressed");
            return Err(Remark::new("UnsupportedBackend", message));
        }
        let found = self.context.ingresses.iter().find_map(|other| {
            let groups = groups(other);
            let is_there = |group: &Group<'_>| group.public.iter().chain(&group.local).any(|host| host == wanted);
            let number = groups.iter().position(is_there)?;
            let default = groups.iter().position(|group| is_default(group.paths)) == Some(number);
            Some((other, groups[number].paths, default))
        });
        let Some((target, paths, default)) = found else {
            let elsewhere = |other: &Ingress| {
                groups(other).iter().any(|group| group.public.iter().chain(&group.local).any(|host| host == wanted))
            };
            // Without a KIngress of ours to be planned here, only servers of the namespace can be led to.
            let served = mapping.splits.iter().all(|split| {
                self.service(&split.service_name)
                    .and_then(|service| service.spec.as_ref()?.type_.as_deref())
                    .is_some_and(|type_| type_ != "ExternalName")
            });
            if served {
                let drafts = self.of_path(self.ingress, mapping, true)?;
                let rewrite = |draft| Draft { rewrite_host: Some(wanted.clone()), ..draft };
                return Ok(drafts.into_iter().map(rewrite).collect());
            }
            if self.context.others.iter().any(elsewhere) {
                let message = format!(
                    "{wanted} is served by a KIngress of another class, where the load balancer has no servers"
                );
                return Err(Remark::new("UnsupportedBackend", message));
            }
            let message = format!("no KIngress of the class serves {wanted}, where this leads");
            return Err(Remark::new("RewriteTargetNotFound", message));
        };
        let mut drafts = Vec::new();
        for path in paths.iter().filter(|path| !is_acme(&path.path)) {
            if !path.rewrite_host.is_empty() {
                let message = format!("{wanted} itself leads on to {}", path.rewrite_host);
                return Err(Remark::new("UnsupportedBackend", message));
            }
            // What it sets is what the target's own rule sets, under whatever name it is asked for.
            drafts.extend(self.of_path(target, path, true)?);
        }
        if default {
            drafts.extend(self.user_entries(target, paths)?);
        }
        Ok(drafts)
    }

    /// The rules of the headers' and the cookies' annotation.
    fn user_entries(&mut self, of: &Ingress, paths: &[HttpPath]) -> Result<Vec<Draft>, Remark> {
        let mut drafts = Vec::new();
        for (key, kind, class, word) in [
            (HEADERS_ANNOTATION, canary::Kind::Headers, Class::UserHeader, "header"),
            (COOKIES_ANNOTATION, canary::Kind::Cookies, Class::UserCookie, "cookie"),
        ] {
            let Some(written) = annotation(&of.metadata, key) else { continue };
            self.plain = false;
            let entries = canary::parse(written, kind)
                .map_err(|remark| Remark::new(remark.reason, format!("{key}: {}", remark.message)))?;
            let listed = self.listed(of);
            for (number, entry) in entries.iter().enumerate() {
                let revision = &entry.revision;
                if kind == canary::Kind::Cookies && entry.conditions.len() > 1 && !self.context.settings.several_cookies
                {
                    let message = format!(
                        "{key}: the entry for {revision} asks for {} cookies, and the self-test saw that the load balancer takes \
                         requests with any of them; ask for one",
                        entry.conditions.len()
                    );
                    return Err(Remark::new("InvalidCanaryCookie", message));
                }
                match &listed {
                    Some(listed) if !listed.contains(revision) => {
                        let message = format!(
                            "{key}: the route does not list the revision {revision}; give it a line in the traffic, 0 \
                             percent is enough"
                        );
                        return Err(Remark::new("UnknownCanaryRevision", message));
                    }
                    Some(_) => {}
                    None => {
                        let message =
                            format!("{key}: whether the route lists {revision} was not checked: no Route is given");
                        self.done.remarks.push(Remark::new("CanaryRevisionUnchecked", message));
                    }
                }
                let plain = paths.iter().filter(|path| path.headers.is_empty() && !is_acme(&path.path));
                for path in plain.filter(|path| path.rewrite_host.is_empty()) {
                    let Some(like) = path.splits.iter().find(|split| split.percent > 0) else { continue };
                    let mut split = IngressSplit { service_name: revision.clone(), percent: 100, ..like.clone() };
                    for (key, value) in &mut split.append_headers {
                        if key.eq_ignore_ascii_case(REVISION_HEADER) {
                            value.clone_from(revision);
                        }
                    }
                    let path = HttpPath { splits: vec![split], ..path.clone() };
                    let draft = self.draft(of, &path, class)?;
                    let name = Some(format!("forward-{word}-{}", number + 1));
                    drafts.push(Draft { conditions: entry.conditions.clone(), name, ..draft });
                }
            }
        }
        Ok(drafts)
    }

    /// A Service of the namespace.
    fn service(&self, name: &str) -> Option<&CoreService> {
        let namespace = &self.ingress.metadata.namespace;
        let mut services = self.context.services.iter();
        services
            .find(|service| text(service.metadata.name.as_ref()) == name && service.metadata.namespace == *namespace)
    }

    /// The revisions the route of a KIngress lists; nothing when the route is not known.
    fn listed(&self, of: &Ingress) -> Option<BTreeSet<String>> {
        let route = self.context.routes.iter().find(|route| {
            route.metadata.name == of.metadata.name && route.metadata.namespace == of.metadata.namespace
        })?;
        let traffic = route.status.iter().flat_map(|status| &status.traffic).chain(&route.spec.traffic);
        Some(traffic.filter_map(|target| target.revision_name.clone()).collect())
    }

    /// Further hosts and paths a user named, which lead where the default does.
    fn custom(&mut self, group: &Group<'_>) -> Result<Vec<Draft>, Remark> {
        let Some(written) = annotation(&self.ingress.metadata, CUSTOM_ANNOTATION) else { return Ok(Vec::new()) };
        self.plain = false;
        let Some(path) = group.paths.iter().find(|path| is_default_path(path)) else { return Ok(Vec::new()) };
        let mut drafts = Vec::new();
        for (number, entry) in written.split(',').map(str::trim).enumerate() {
            let (host, rest) = entry.split_at(entry.find('/').unwrap_or(entry.len()));
            if !is_host(host) {
                let message =
                    format!("{CUSTOM_ANNOTATION}: {host:?} is not a host; write HOST or HOST/PATH, comma-separated");
                return Err(Remark::new("InvalidHost", message));
            }
            let path = HttpPath { path: rest.to_owned(), ..path.clone() };
            let draft = self.draft(self.ingress, &path, Class::Custom)?;
            let name = Some(format!("forward-custom-{}", number + 1));
            drafts.push(Draft { public: vec![host.to_owned()], name, ..draft });
        }
        Ok(drafts)
    }

    /// gRPC services offered beside HTTP, where the revision really has a port for each.
    fn dual(&mut self, group: &Group<'_>) -> Result<Vec<Draft>, Remark> {
        let Some(written) = annotation(&self.ingress.metadata, GRPC_ANNOTATION) else { return Ok(Vec::new()) };
        let Some(path) = group.paths.iter().find(|path| is_default_path(path)) else { return Ok(Vec::new()) };
        self.plain = false;
        let mut shares = path.splits.iter().filter(|split| split.percent > 0);
        let both = match (shares.next(), shares.next(), self.context.settings.mode) {
            // Only the public Service of a revision could have a port for each protocol.
            (Some(only), None, Mode::Header) => {
                let ports = self.service(&only.service_name).and_then(|service| service.spec.as_ref()?.ports.as_ref());
                [80, 81].iter().all(|wanted| ports.into_iter().flatten().any(|port| port.port == *wanted))
            }
            _ => false,
        };
        if !both {
            let message = format!(
                "{GRPC_ANNOTATION}: the traffic does not go to one revision whose public Service has both ports, 80 and \
                 81; HTTP is served, gRPC is not"
            );
            self.done.remarks.push(Remark::new("DualProtocolUnavailable", message));
            return Ok(Vec::new());
        }
        let mut drafts = Vec::new();
        for service in written.split(',').map(str::trim).filter(|service| !service.is_empty()) {
            let mut path = HttpPath { path: format!("/{service}/"), ..path.clone() };
            for split in &mut path.splits {
                split.service_port = IntOrString::Int(81);
            }
            let draft = self.draft(self.ingress, &path, Class::Default)?;
            drafts.push(Draft { public: group.public.clone(), ..draft });
        }
        Ok(drafts)
    }

    /// Which rule goes to which Ingress.
    fn place(&mut self, drafts: Vec<Draft>) -> Result<Vec<Part>, Remark> {
        let spec = &self.ingress.spec;
        let side = if spec.rules.iter().any(is_public) { Side::Internet } else { Side::Intranet };
        let has_tls = side == Side::Internet && !spec.tls.is_empty();
        let covered = |host: &String| spec.tls.iter().flat_map(|tls| &tls.hosts).any(|name| is_named(host, name));
        let local_mode = self.context.settings.cluster_local;
        let mut by_place: ByPlace = BTreeMap::new();
        let mut no_grpc = BTreeSet::new();
        let mut uncovered = BTreeSet::new();
        for draft in drafts {
            let anywhere = draft.public.is_empty() && draft.local.is_empty();
            if draft.h2c {
                if let Some(host) = draft.public.iter().find(|host| !covered(host)) {
                    let message = format!("{host} has no certificate; the load balancer speaks gRPC over TLS only");
                    return Err(Remark::new("GRPCRequiresTLS", message));
                }
                if anywhere {
                    return Err(Remark::new("GRPCRequiresTLS", "a gRPC rule for every host has no certificate"));
                }
                no_grpc.extend(draft.local.iter().filter(|host| !covered(host)).cloned());
                let hosts: Vec<String> =
                    draft.public.iter().chain(&draft.local).filter(|host| covered(host)).cloned().collect();
                if !hosts.is_empty() {
                    by_place.entry((Role::Grpc, side)).or_default().push((hosts, draft));
                }
                continue;
            }
            if has_tls {
                uncovered.extend(draft.public.iter().filter(|host| !covered(host)).cloned());
            }
            let mut public = draft.public.clone();
            let to = match local_mode {
                _ if draft.local.is_empty() => None,
                ClusterLocal::Gateway => None,
                _ if side == Side::Intranet => Some((Role::Primary, side)),
                ClusterLocal::Intranet => Some((Role::Private, Side::Intranet)),
                ClusterLocal::Shared if !draft.shared => Some((Role::Private, Side::Intranet)),
                ClusterLocal::Shared if has_tls => Some((Role::Private, side)),
                ClusterLocal::Shared => Some((Role::Primary, side)),
            };
            match to {
                Some((Role::Primary, _)) => public.extend(draft.local.iter().cloned()),
                Some(place) => by_place.entry(place).or_default().push((draft.local.clone(), draft.clone())),
                None => {}
            }
            if anywhere || !public.is_empty() {
                by_place.entry((Role::Primary, side)).or_default().push((public, draft));
            }
        }
        if !no_grpc.is_empty() {
            let message = format!(
                "{} have no certificate and are not served by the load balancer for gRPC",
                no_grpc.into_iter().collect::<Vec<_>>().join(", ")
            );
            self.done.remarks.push(Remark::new("ClusterLocalGRPCUnavailable", message));
        }
        if !uncovered.is_empty() {
            let message =
                format!("no certificate is named for {}", uncovered.into_iter().collect::<Vec<_>>().join(", "));
            self.done.remarks.push(Remark::new("HostWithoutCertificate", message));
        }
        let redirected = spec.http_option == "Redirected";
        if redirected && !has_tls {
            let message = "httpOption Redirected has no effect without a certificate";
            self.done.remarks.push(Remark::new("RedirectWithoutTLS", message));
        }
        let upgrade = separate_protocols(&by_place, side)?;
        let settings = self.context.settings;
        let moved = redirected && has_tls && settings.redirect == Redirect::Moved;
        let redirects = if moved { redirects(&mut by_place, side, settings) } else { Vec::new() };
        let hash = self.hash(&by_place)?;
        let has_primary = by_place.contains_key(&(Role::Primary, side));
        let mut parts = Vec::new();
        for ((role, of), placed) in by_place {
            let grpc = role == Role::Grpc;
            let https = grpc || (has_tls && role == Role::Primary);
            let (mut rules, remarks) = rules_of(&placed, hash.as_deref(), settings)?;
            if let Selectors::Rules(secret) = self.context.selectors {
                rules.splice(0..0, selectors(&rules, secret));
            }
            self.done.remarks.extend(remarks);
            let tls = if https { with_hosts(&spec.tls, &rules) } else { Vec::new() };
            let role = if grpc && !has_primary { Role::Primary } else { role };
            if role == Role::Redirect {
                rules.extend(redirects.clone());
            }
            parts.push(Part {
                role,
                side: of,
                rules,
                http: !(grpc || moved && role == Role::Primary),
                https,
                grpc,
                redirect: https && !grpc && redirected && !moved,
                tls,
            });
        }
        let answers = Part {
            role: Role::Redirect,
            side,
            rules: redirects,
            http: true,
            https: false,
            grpc: false,
            redirect: false,
            tls: Vec::new(),
        };
        if !answers.rules.is_empty() && !parts.iter().any(|part| part.role == Role::Redirect) {
            parts.push(answers.clone());
        }
        if !upgrade.is_empty() {
            parts.push(Part { role: Role::GrpcHttp, rules: upgrade, ..answers });
        }
        parts.sort_by_key(|part| (part.side, part.role));
        Ok(parts)
    }

    /// By which it can be seen which version of the rules is live: the hash of the KIngress, and where the rules do not
    /// follow from that alone, of the rules.
    fn hash(&self, placed: &ByPlace) -> Result<Option<String>, Remark> {
        if self.context.settings.probe == Probe::None {
            return Ok(None);
        }
        let mut hash = version(self.ingress);
        if !self.plain || self.context.settings.mode != Mode::Header {
            let mut rules = Vec::new();
            for drafts in placed.values() {
                rules.extend(rules_of(drafts, None, self.context.settings)?.0);
            }
            // With another secret the rules are others, and it must be seen that they are in force.
            if let Selectors::Rules(secret) = self.context.selectors {
                rules.splice(0..0, selectors(&rules, secret));
            }
            let bytes = serde_json::to_vec(&rules).expect("rules are JSON");
            hash = format!("{hash}.{}", digest(&bytes, 8));
        }
        Ok(Some(hash))
    }
}

/// A rule for each member of a split that is reached by a port, which takes only who knows the secret. They share the server
/// groups of the split, and stand before all else.
fn selectors(rules: &[Rule], secret: &str) -> Vec<Rule> {
    let mut selectors: Vec<Rule> = Vec::new();
    let mut known: BTreeSet<&String> = BTreeSet::new();
    for rule in rules {
        let groups: Vec<&ServerGroup> = groups_of_rule(rule).collect();
        for group in groups.iter().filter(|group| groups.len() > 1 && group.service_name.ends_with("-alb")) {
            if !known.insert(&group.service_name) {
                continue;
            }
            let config = HeaderValues {
                key: SELECT_HEADER.to_owned(),
                values: vec![format!("{}.{secret}", revision_of_service(&group.service_name))],
            };
            // What else the rule does says which version it is.
            let set = rule
                .actions
                .iter()
                .filter(|action| matches!(action, Action::InsertHeader { config } if config.key == HASH_HEADER));
            let alone = ServerGroup { weight: 100, ..(*group).clone() };
            let forward = Action::ForwardGroup { config: Forward { server_groups: vec![alone] } };
            selectors.push(Rule {
                name: format!("select-{}", selectors.len() + 1),
                host: rule.host.clone(),
                path: "/".to_owned(),
                conditions: vec![Condition::Header { config }],
                actions: set.cloned().chain([forward]).collect(),
            });
        }
    }
    selectors
}

/// What a rule says which version of the rules it is of; `None` when it says nothing.
pub fn hash_of(rule: &Rule) -> Option<&str> {
    rule.actions.iter().find_map(|action| match action {
        Action::InsertHeader { config } if config.key == HASH_HEADER => Some(config.value.as_str()),
        _ => None,
    })
}

/// Whether a rule is there to ask one member of a split.
pub fn is_selector(rule: &Rule) -> bool {
    rule.conditions
        .iter()
        .any(|condition| matches!(condition, Condition::Header { config } if config.key == SELECT_HEADER))
}

/// Drafts in their order, each as one rule or, where it has many hosts, as several.
fn rules_of(
    placed: &[(Vec<String>, Draft)],
    hash: Option<&str>,
    settings: &Settings,
) -> Result<(Vec<Rule>, Vec<Remark>), Remark> {
    // Whether it is the rule for who asks which version is live.
    let mut items: Vec<(bool, &[String], Draft)> = Vec::new();
    for (hosts, draft) in placed {
        if settings.probe == Probe::Rule && hash.is_some() {
            let mut conditions = draft.conditions.clone();
            let config = HeaderValues { key: HASH_HEADER.to_owned(), values: vec![HASH_ASKED.to_owned()] };
            conditions.push(Condition::Header { config });
            items.push((true, hosts, Draft { conditions, name: None, ..draft.clone() }));
        }
        items.push((false, hosts, draft.clone()));
    }
    // Stable: what is alike stays in the order it came in, and so do the entries of users.
    items.sort_by_key(|(probe, _, draft)| {
        let by_user = matches!(draft.class, Class::UserHeader | Class::UserCookie);
        let conditions = if by_user { 0 } else { draft.conditions.len() };
        (Reverse(draft.path.len()), !probe, draft.class, Reverse(conditions))
    });
    let (mut rules, mut remarks, mut taken) = (Vec::new(), Vec::new(), BTreeSet::new());
    for (probe, hosts, draft) in &items {
        let entries: usize = draft.conditions.iter().map(Condition::entries).sum();
        // The path counts too.
        let room = (MAX_CONDITIONS - 1).saturating_sub(entries);
        if room == 0 {
            let message = format!(
                "the rule for {} has {entries} conditions; beside its path and a host {} have room",
                draft.path,
                MAX_CONDITIONS - 2
            );
            return Err(Remark::new("TooManyConditions", message));
        }
        let room = if settings.layout == Layout::Split { 1 } else { room };
        let hash = hash.filter(|_| *probe || settings.probe == Probe::Inline);
        let (actions, dropped) = actions(draft, hash)?;
        if *probe && dropped.is_some() {
            let message = format!("the rule for {} has no action left to say which version is live", draft.path);
            remarks.push(Remark::new("HeaderLeftOut", message));
            continue;
        }
        let any = vec![None];
        let hosts: Vec<Option<String>> = if hosts.is_empty() { any } else { hosts.iter().cloned().map(Some).collect() };
        for hosts in hosts.chunks(room) {
            let name = action_name(draft.name.as_deref(), rules.len(), &mut taken);
            let mut conditions = draft.conditions.clone();
            let further: Vec<String> = hosts[1..].iter().flatten().cloned().collect();
            if !further.is_empty() {
                conditions.push(Condition::Host { config: Values { values: further } });
            }
            if let Some(header) = dropped {
                let message = format!("the rule {name} has no action left to set {header}");
                remarks.push(Remark::new("HeaderLeftOut", message));
            }
            let (host, path) = (hosts[0].clone(), draft.path.clone());
            rules.push(Rule { name, host, path, conditions, actions: actions.clone() });
        }
    }
    Ok((rules, remarks))
}

/// What a rule does, and which header it has no room to set.
fn actions(draft: &Draft, hash: Option<&str>) -> Result<(Vec<Action>, Option<&'static str>), Remark> {
    let room = MAX_ACTIONS - 1 - usize::from(draft.rewrite_host.is_some());
    let mut headers = draft.headers.clone();
    let mut dropped = None;
    if headers.len() > room {
        let before = headers.len();
        headers.retain(|(key, _)| !key.eq_ignore_ascii_case(DEFAULT_ROUTE_HEADER));
        dropped = (headers.len() < before).then_some("Knative-Serving-Default-Route");
    }
    if headers.len() > room {
        let message = format!("the rule for {} sets {} headers; a rule sets at most {room}", draft.path, headers.len());
        return Err(Remark::new("TooManyActions", message));
    }
    if let Some(hash) = hash {
        if headers.len() < room && dropped.is_none() {
            headers.push((HASH_HEADER.to_owned(), hash.to_owned()));
        } else {
            dropped = dropped.or(Some(HASH_HEADER));
        }
    }
    let insert = |(key, value): (String, String)| Action::InsertHeader {
        config: InsertHeader { key, value, value_type: "UserDefined".to_owned(), cover_enabled: true },
    };
    let mut actions: Vec<Action> = headers.into_iter().map(insert).collect();
    actions.extend(draft.rewrite_host.clone().map(|host| Action::Rewrite { config: Rewrite { host } }));
    actions.push(Action::ForwardGroup { config: Forward { server_groups: draft.groups.clone() } });
    Ok((actions, dropped))
}

/// The rules that send plain HTTP to HTTPS. Who gives out certificates asks over plain HTTP, and is let through: those
/// paths move to the Ingress of the redirects.
fn redirects(by_place: &mut ByPlace, side: Side, settings: &Settings) -> Vec<Rule> {
    let Some(primary) = by_place.get_mut(&(Role::Primary, side)) else { return Vec::new() };
    let (challenges, primary_rest): (Vec<_>, Vec<_>) =
        std::mem::take(primary).into_iter().partition(|(_, draft)| is_acme(&draft.path));
    let mut by_path: BTreeMap<(Reverse<usize>, String), Vec<Option<String>>> = BTreeMap::new();
    for (hosts, draft) in &primary_rest {
        let of_path = by_path.entry((Reverse(draft.path.len()), draft.path.clone())).or_default();
        let hosts = if hosts.is_empty() { vec![None] } else { hosts.iter().cloned().map(Some).collect() };
        for host in hosts {
            if !of_path.contains(&host) {
                of_path.push(host);
            }
        }
    }
    if primary_rest.is_empty() {
        by_place.remove(&(Role::Primary, side));
    } else {
        *primary = primary_rest;
    }
    if !challenges.is_empty() {
        by_place.insert((Role::Redirect, side), challenges);
    }
    let to = RedirectTo {
        host: "${host}".to_owned(),
        path: "${path}".to_owned(),
        port: "443".to_owned(),
        protocol: "https".to_owned(),
        query: "${query}".to_owned(),
        http_code: "301".to_owned(),
    };
    let room = if settings.layout == Layout::Split { 1 } else { MAX_CONDITIONS - 1 };
    let mut rules: Vec<Rule> = Vec::new();
    for ((_, path), mut hosts) in by_path {
        if hosts.contains(&None) {
            hosts = vec![None];
        }
        for hosts in hosts.chunks(room) {
            let further: Vec<String> = hosts[1..].iter().flatten().cloned().collect();
            let further = (!further.is_empty()).then_some(Condition::Host { config: Values { values: further } });
            rules.push(Rule {
                name: format!("redirect-{}", rules.len() + 1),
                host: hosts[0].clone(),
                path: path.clone(),
                conditions: further.into_iter().collect(),
                actions: vec![Action::Redirect { config: to.clone() }],
            });
        }
    }
    rules
}

/// A name no other rule of the Ingress has.
fn action_name(wanted: Option<&str>, number: usize, taken: &mut BTreeSet<String>) -> String {
    let mut name = wanted.map_or_else(|| format!("forward-p{number}"), ToOwned::to_owned);
    // It is the name of a Service as far as Kubernetes knows; what a tag is called need not be one.
    let letters = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if name.len() > LONGEST_ACTION || !name.bytes().all(letters) || name.ends_with('-') {
        name = format!("fwd-{}", digest(name.as_bytes(), 10));
    }
    if !taken.insert(name.clone()) {
        name = format!("forward-p{number}");
        taken.insert(name.clone());
    }
    name
}

/// Refuses gRPC and HTTP where paths do not keep them apart; gives the answers plain HTTP has on paths that are gRPC.
fn separate_protocols(placed: &ByPlace, side: Side) -> Result<Vec<Rule>, Remark> {
    let of = |role| placed.get(&(role, side)).map_or(&[][..], Vec::as_slice);
    let mut answered: BTreeSet<(String, String)> = BTreeSet::new();
    for (hosts, grpc) in of(Role::Grpc) {
        for (others, http) in of(Role::Primary) {
            for host in hosts.iter().filter(|host| others.contains(host)) {
                if http.path.starts_with(&grpc.path) && !is_acme(&http.path) {
                    let message = format!(
                        "{host}{} is gRPC and {host}{} is not; paths must keep them apart",
                        grpc.path, http.path
                    );
                    return Err(Remark::new("MixedProtocols", message));
                }
                if grpc.path.starts_with(&http.path) {
                    answered.insert((grpc.path.clone(), host.clone()));
                }
            }
        }
    }
    let rule = |(number, (path, host)): (usize, (String, String))| Rule {
        name: format!("forward-p{number}"),
        host: Some(host),
        path,
        conditions: Vec::new(),
        actions: vec![fixed("426", "gRPC is served over TLS on port 443")],
    };
    let mut answered: Vec<_> = answered.into_iter().collect();
    answered.sort_by_key(|(path, _)| Reverse(path.len()));
    Ok(answered.into_iter().enumerate().map(rule).collect())
}

/// An answer the load balancer gives itself.
pub(super) fn fixed(code: &str, content: &str) -> Action {
    let config =
        Fixed { content_type: "text/plain".to_owned(), http_code: code.to_owned(), content: content.to_owned() };
    Action::FixedResponse { config }
}

/// The hosts of a KIngress by what happens to them, public names first.
fn groups(ingress: &Ingress) -> Vec<Group<'_>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    let paths_of =
        |rule: &'_ IngressRule| -> Vec<HttpPath> { rule.http.iter().flat_map(|http| http.paths.clone()).collect() };
    let public_splits: Vec<Vec<IngressSplit>> =
        ingress.spec.rules.iter().filter(|rule| is_public(rule)).flat_map(paths_of).map(|path| path.splits).collect();
    for rule in &ingress.spec.rules {
        let Some(http) = &rule.http else { continue };
        let anywhere = rule.hosts.is_empty();
        let known = groups.iter().position(|group| {
            group.paths == http.paths.as_slice() && !anywhere && !(group.public.is_empty() && group.local.is_empty())
        });
        let number = known.unwrap_or_else(|| {
            let shared = http.paths.iter().all(|path| public_splits.contains(&path.splits));
            groups.push(Group { public: Vec::new(), local: Vec::new(), shared, paths: &http.paths });
            groups.len() - 1
        });
        let group = &mut groups[number];
        let mut hosts = rule.hosts.clone();
        if let [only] = rule.hosts.as_slice()
            && let Some(short) = only.strip_suffix(CLUSTER_SUFFIX)
        {
            hosts = vec![short.to_owned(), format!("{short}.svc"), only.clone()];
        }
        let list = if is_public(rule) { &mut group.public } else { &mut group.local };
        for host in hosts {
            if !list.contains(&host) {
                list.push(host);
            }
        }
    }
    groups
}

/// Whether a path is asked for by who gives out certificates.
pub fn is_acme(path: &str) -> bool {
    path.starts_with(ACME_PREFIX)
}

fn is_public(rule: &IngressRule) -> bool {
    rule.visibility != "ClusterLocal"
}

/// Which version of a KIngress this is: the hash that Knative's own gateways announce.
pub fn version(ingress: &Ingress) -> String {
    let meta = &ingress.metadata;
    let mut bytes = ingress.spec.go_json().into_bytes();
    bytes.extend(text(meta.namespace.as_ref()).bytes());
    bytes.extend(text(meta.name.as_ref()).bytes());
    digest(&bytes, 64)
}

/// Whether these are the paths of the route itself and not of a tag.
fn is_default(paths: &[HttpPath]) -> bool {
    paths.iter().any(is_default_path)
}

/// Whether a path is the route's own, and neither a tag's, nor another name's, nor a certificate's proof.
pub fn is_default_path(path: &HttpPath) -> bool {
    path.headers.is_empty()
        && !is_acme(&path.path)
        && path.rewrite_host.is_empty()
        && lookup(&path.append_headers, TAG_HEADER).is_none()
}

/// A prefix as the load balancer takes it.
fn checked_path(path: &str) -> Result<String, Remark> {
    let path = if path.is_empty() { "/" } else { path };
    if !path.starts_with('/') || path.contains(|letter: char| "*?~".contains(letter) || letter.is_whitespace()) {
        let message =
            format!("{path:?} is no path the load balancer can match: it begins with '/', without *, ?, ~ and blanks");
        return Err(Remark::new("InvalidPath", message));
    }
    Ok(path.to_owned())
}

fn reserved(name: &str) -> Result<(), Remark> {
    if name.starts_with("aliyun") {
        return Err(Remark::new("ReservedName", format!("{name}: names that begin with aliyun are the cloud's own")));
    }
    Ok(())
}

fn fits(service: &str) -> Result<(), Remark> {
    if service.len() > LONGEST_SERVICE {
        let message = format!("the name {service} is longer than {LONGEST_SERVICE}; use a shorter revision name");
        return Err(Remark::new("UnsupportedBackend", message));
    }
    Ok(())
}

fn is_revision_header(key: &str) -> bool {
    key.eq_ignore_ascii_case(REVISION_HEADER) || key.eq_ignore_ascii_case(NAMESPACE_HEADER)
}

fn is_reserved_header(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    let names = [
        "host",
        "cookie",
        "connection",
        "upgrade",
        "content-length",
        "transfer-encoding",
        "keep-alive",
        "te",
        "authority",
        "remoteip",
    ];
    names.contains(&key.as_str()) || key.starts_with("slb-") || key.starts_with("x-forwarded-")
}

fn is_host(host: &str) -> bool {
    let rest = host.strip_prefix("*.").unwrap_or(host);
    (3..=256).contains(&host.len())
        && rest.split('.').all(|label| {
            !label.is_empty()
                && label.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        })
}

/// Whether a certificate for `name`, which may have a wildcard, is one for `host`.
fn is_named(host: &str, name: &str) -> bool {
    host == name
        || name.strip_prefix("*.").is_some_and(|parent| host.split_once('.').is_some_and(|(_, rest)| rest == parent))
}

fn with_hosts(tls: &[IngressTls], rules: &[Rule]) -> Vec<IngressTls> {
    let is_used = |name: &String| rules.iter().flat_map(Rule::hosts).any(|host| is_named(host, name));
    let narrowed = tls.iter().map(|tls| IngressTls {
        hosts: tls.hosts.iter().filter(|name| is_used(name)).cloned().collect(),
        ..tls.clone()
    });
    narrowed.filter(|tls| !tls.hosts.is_empty()).collect()
}

fn lookup<'a>(headers: &'a BTreeMap<String, String>, key: &str) -> Option<&'a str> {
    headers.iter().find(|(name, _)| name.eq_ignore_ascii_case(key)).map(|(_, value)| value.as_str())
}

fn canonical(key: &str) -> &'static str {
    if key == REVISION_HEADER { "Knative-Serving-Revision" } else { "Knative-Serving-Namespace" }
}

fn own((key, value): (&String, &String)) -> (String, String) {
    (key.clone(), value.clone())
}

fn annotation<'a>(meta: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    meta.annotations.as_ref()?.get(key).map(String::as_str)
}

fn text(of: Option<&String>) -> &str {
    of.map_or("", String::as_str)
}
