//! The load balancer itself: rules by number, server groups, and addresses that follow late, each in its own time. It has
//! no clock and no sockets; whoever drives it says what time it is.

use super::annotations::{Action, Annotations, Condition, Fixed, MOST_CONDITIONS, Redirect, USE_ANNOTATION, entries};
use crate::units::{RevisionKey, Span, Timestamp};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use k8s_openapi::api::networking::v1::{HTTPIngressPath, Ingress};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;

/// From so many servers on a group is changed in two steps: some are taken out, then others are put in.
pub const REPLACED_AT_ONCE: usize = 40;

/// A server group: an Ingress, a Service, a port.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct GroupKey {
    /// The Ingress.
    pub ingress: RevisionKey,
    /// The Service, in its namespace.
    pub service: String,
    /// The port.
    pub port: i32,
}

/// A rule of a listener.
#[derive(Clone, PartialEq, Debug)]
pub struct Rule {
    /// The Ingress it comes from, and the name of its action.
    pub name: (RevisionKey, String),
    listen: Vec<(String, u16)>,
    hosts: Vec<String>,
    paths: Vec<String>,
    conditions: Vec<Condition>,
    set: Vec<(HeaderName, Option<HeaderValue>, bool)>,
    then: Then,
    grpc: bool,
}

#[derive(Clone, PartialEq, Debug)]
enum Then {
    Forward(Vec<(GroupKey, u32)>),
    Redirect(Redirect),
    Fixed(Fixed),
}

/// Why an Ingress is refused, which stops every change of rules until it is mended or gone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// The Ingress.
    pub ingress: RevisionKey,
    /// What is wrong.
    pub why: String,
}

/// The rules of a load balancer with these listeners, in their order, and the groups they name; or what is wrong with
/// some object, which is wrong for all.
pub fn compile(
    ingresses: &[Arc<Ingress>],
    listeners: &[(String, u16)],
    most_rules: usize,
) -> Result<Vec<Rule>, Vec<Refusal>> {
    let (mut read, mut refused) = (Vec::new(), Vec::new());
    for ingress in ingresses {
        let key = key(ingress);
        let none = BTreeMap::new();
        let tls = ingress.spec.as_ref().and_then(|spec| spec.tls.as_ref()).is_some_and(|tls| !tls.is_empty());
        match Annotations::read(ingress.metadata.annotations.as_ref().unwrap_or(&none), tls) {
            Ok(annotations) => read.push((annotations.order, key, annotations, Arc::clone(ingress))),
            Err(why) => refused.push(Refusal { ingress: key, why }),
        }
    }
    read.sort_by(|a, b| (a.0.0, &a.1).cmp(&(b.0.0, &b.1)));
    for pair in read.windows(2) {
        if let [(first, one, ..), (second, other, ..)] = pair
            && first == second
            && first.1
        {
            let why = format!("its order {} is also that of {one}", first.0);
            refused.push(Refusal { ingress: other.clone(), why });
        }
    }
    let mut rules: Vec<Rule> = Vec::new();
    let mut used = 0;
    for (_, key, mut annotations, ingress) in read {
        // A listener the load balancer does not have is passed over in silence.
        annotations.listen.retain(|listener| listeners.contains(listener));
        match rules_of(&key, &annotations, &ingress) {
            Ok(_) if annotations.listen.is_empty() => {}
            Ok(of_ingress) => {
                used += of_ingress.len() * annotations.listen.len();
                if used > most_rules {
                    let why = format!("{used} rules are needed and the quota is {most_rules}");
                    refused.push(Refusal { ingress: key, why });
                }
                rules.extend(of_ingress);
            }
            Err(why) => refused.push(Refusal { ingress: key, why }),
        }
    }
    if refused.is_empty() { Ok(rules) } else { Err(refused) }
}

/// The groups the rules name.
pub fn groups(rules: &[Rule]) -> BTreeSet<GroupKey> {
    let named = rules.iter().flat_map(|rule| match &rule.then {
        Then::Forward(groups) => groups.as_slice(),
        Then::Redirect(_) | Then::Fixed(_) => &[],
    });
    named.map(|(group, _)| group.clone()).collect()
}

fn rules_of(key: &RevisionKey, annotations: &Annotations, ingress: &Ingress) -> Result<Vec<Rule>, String> {
    let spec = ingress.spec.clone().unwrap_or_default();
    let (mut rules, mut names) = (Vec::new(), BTreeSet::new());
    for rule in spec.rules.into_iter().flatten() {
        for path in rule.http.into_iter().flat_map(|http| http.paths) {
            let service = path.backend.service.clone().ok_or("a path leads to something that is no Service")?;
            names.insert(service.name.clone());
            let port = service.port.unwrap_or_default();
            let group = |service: String, port| GroupKey { ingress: key.clone(), service, port };
            let conditions = annotations.conditions.get(&service.name).cloned().unwrap_or_default();
            let actions = match (port.name.as_deref(), port.number) {
                (Some(USE_ANNOTATION), None) => annotations
                    .actions
                    .get(&service.name)
                    .cloned()
                    .ok_or_else(|| format!("there is no annotation actions.{}", service.name))?,
                (None, Some(_)) => annotations.actions.get(&service.name).cloned().unwrap_or_default(),
                _ => return Err(format!("the port of {} is neither a number nor {USE_ANNOTATION}", service.name)),
            };
            let mut made = Rule {
                name: (key.clone(), service.name.clone()),
                listen: annotations.listen.clone(),
                hosts: rule.host.iter().map(|host| host.to_ascii_lowercase()).collect(),
                paths: patterns(&path)?,
                conditions: Vec::new(),
                set: Vec::new(),
                then: Then::Forward(vec![(group(service.name.clone(), port.number.unwrap_or(0)), 100)]),
                grpc: annotations.grpc,
            };
            let many = entries(&conditions) + made.paths.len() + made.hosts.len();
            // The path that takes everything is none.
            let many = many - usize::from(made.paths == ["/*"]);
            if many > MOST_CONDITIONS {
                return Err(format!("{} has {many} conditions and {MOST_CONDITIONS} are the most", service.name));
            }
            for condition in conditions {
                match condition {
                    Condition::Host { config } => {
                        made.hosts.extend(config.values.iter().map(|host| host.to_ascii_lowercase()));
                    }
                    Condition::Path { config } => made.paths.extend(config.values),
                    other => made.conditions.push(other),
                }
            }
            for action in actions {
                match action {
                    Action::InsertHeader { config } => {
                        let value = HeaderValue::try_from(&config.value).map_err(|error| error.to_string())?;
                        let name = HeaderName::try_from(&config.key).map_err(|error| error.to_string())?;
                        made.set.push((name, Some(value), config.cover_enabled));
                    }
                    Action::RemoveHeader { config } => {
                        let name = HeaderName::try_from(&config.key).map_err(|error| error.to_string())?;
                        made.set.push((name, None, true));
                    }
                    Action::ForwardGroup { config } => {
                        let groups = config.server_groups.into_iter();
                        made.then = Then::Forward(
                            groups.map(|one| (group(one.service_name, one.service_port), one.weight)).collect(),
                        );
                    }
                    Action::Redirect { config } => made.then = Then::Redirect(config),
                    Action::FixedResponse { config } => made.then = Then::Fixed(config),
                }
            }
            if annotations.ssl_redirect && annotations.listen.iter().any(|(protocol, _)| protocol == "HTTP") {
                let to = Redirect {
                    host: String::new(),
                    path: String::new(),
                    port: "443".to_owned(),
                    protocol: "https".to_owned(),
                    query: String::new(),
                    http_code: "308".to_owned(),
                };
                let mut plain = Rule { then: Then::Redirect(to), set: Vec::new(), ..made.clone() };
                plain.listen.retain(|(protocol, _)| protocol == "HTTP");
                made.listen.retain(|(protocol, _)| protocol != "HTTP");
                rules.push(plain);
            }
            rules.push(made);
        }
    }
    let orphan = annotations.conditions.keys().chain(annotations.actions.keys()).find(|name| !names.contains(*name));
    if let Some(orphan) = orphan {
        return Err(format!("the annotations of {orphan} belong to no backend"));
    }
    Ok(rules)
}

fn patterns(path: &HTTPIngressPath) -> Result<Vec<String>, String> {
    let text = path.path.as_deref().unwrap_or("/");
    match path.path_type.as_str() {
        "Prefix" if text == "/" => Ok(vec!["/*".to_owned()]),
        "Prefix" => {
            let text = text.trim_end_matches('/');
            Ok(vec![text.to_owned(), format!("{text}/*")])
        }
        "Exact" | "ImplementationSpecific" => Ok(vec![text.to_owned()]),
        other => Err(format!("the path type {other:?} is not known")),
    }
}

/// How late, and how badly, a load balancer follows.
#[derive(Clone, Debug)]
pub struct Manners {
    /// How long a change of a server group takes to arrive at an address.
    pub membership: RangeInclusive<Span>,
    /// How long a change of rules takes.
    pub rules: RangeInclusive<Span>,
    /// How long a group lacks the new servers when the old ones are taken out first; `None` replaces at once, up to
    /// [`REPLACED_AT_ONCE`] servers.
    pub remove_first: Option<Span>,
    /// Rules it may have.
    pub most_rules: usize,
    /// What it does otherwise than its documentation is read.
    pub faults: BTreeSet<Fault>,
}

/// Something that a real load balancer or its controller may do otherwise than their documentation is read.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Fault {
    /// Of a header that is set the client's value is kept.
    KeepsHeaders,
    /// Further hosts of a rule are passed over.
    FirstHost,
    /// A pattern such as `/foo*` is one of segments.
    Segments,
    /// Of cookies in several blocks any will do.
    AnyCookie,
    /// Servers of another namespace are passed over.
    OwnPods,
    /// Of the ports in one Endpoints object the first one counts.
    OnePort,
}

impl Default for Manners {
    /// A few seconds, as in the cloud.
    fn default() -> Self {
        Self {
            membership: Span::from_millis(500)..=Span::from_seconds(5),
            rules: Span::from_millis(500)..=Span::from_seconds(5),
            remove_first: None,
            most_rules: 100,
            faults: BTreeSet::new(),
        }
    }
}

/// A load balancer and its addresses.
#[derive(Debug)]
pub struct Balancer {
    manners: Manners,
    random: StdRng,
    wanted: Arc<Vec<Rule>>,
    members: BTreeMap<GroupKey, Vec<SocketAddr>>,
    addresses: Vec<Address>,
}

#[derive(Clone, Debug, Default)]
struct Address {
    rules: Arc<Vec<Rule>>,
    members: BTreeMap<GroupKey, Vec<SocketAddr>>,
    coming: VecDeque<(Timestamp, Change)>,
    stuck: bool,
}

#[derive(Clone, Debug)]
enum Change {
    Rules(Arc<Vec<Rule>>),
    Members(GroupKey, Vec<SocketAddr>),
}

/// What becomes of a request.
#[derive(Clone, PartialEq, Debug)]
pub enum Outcome {
    /// It goes to a server.
    Forward {
        /// The group.
        group: GroupKey,
        /// The server.
        server: SocketAddr,
        /// Headers that are set or taken off, and whether over what the client sent.
        set: Vec<(HeaderName, Option<HeaderValue>, bool)>,
        /// Whether the server speaks HTTP/2.
        grpc: bool,
    },
    /// Somewhere else, by this status.
    Redirect(Redirect),
    /// A fixed answer.
    Fixed(Fixed),
    /// 503: the group has no server.
    Empty(GroupKey),
    /// 503: no rule takes it, and what is behind no rule is an empty group.
    NoRule,
}

impl Balancer {
    /// A load balancer with so many addresses. The seed decides how late each change is.
    pub fn new(addresses: usize, manners: Manners, seed: u64) -> Self {
        Self {
            manners,
            random: StdRng::seed_from_u64(seed),
            wanted: Arc::default(),
            members: BTreeMap::new(),
            addresses: vec![Address::default(); addresses],
        }
    }

    /// Changes how it follows, from the next change on.
    pub fn set_manners(&mut self, manners: Manners) {
        self.manners = manners;
    }

    /// Takes over other rules, and the members of their groups. What did not change changes nothing.
    pub fn want(&mut self, now: Timestamp, rules: Vec<Rule>, members: BTreeMap<GroupKey, Vec<SocketAddr>>) {
        // A group is made and filled before a rule may name it. One that no rule names any more is forgotten in time.
        let named = groups(&rules);
        self.members.retain(|group, _| named.contains(group));
        self.want_members(now, members);
        if *self.wanted != rules {
            self.wanted = Arc::new(rules);
            let wanted = Arc::clone(&self.wanted);
            self.spread(now, self.manners.rules.clone(), |_| vec![(Span::ZERO, Change::Rules(Arc::clone(&wanted)))]);
        }
    }

    /// Takes over the members of groups only.
    pub fn want_members(&mut self, now: Timestamp, members: BTreeMap<GroupKey, Vec<SocketAddr>>) {
        for (group, mut servers) in members {
            servers.sort();
            let before = self.members.insert(group.clone(), servers.clone());
            if before.as_ref() == Some(&servers) {
                continue;
            }
            let before = before.unwrap_or_default();
            let many = before.len() >= REPLACED_AT_ONCE || servers.len() >= REPLACED_AT_ONCE;
            let kept: Vec<SocketAddr> = before.iter().filter(|server| servers.contains(server)).copied().collect();
            let gap = self.manners.remove_first.or(many.then_some(Span::SECOND)).filter(|_| kept.len() < before.len());
            self.spread(now, self.manners.membership.clone(), |_| {
                let full = Change::Members(group.clone(), servers.clone());
                match gap {
                    Some(gap) => vec![(Span::ZERO, Change::Members(group.clone(), kept.clone())), (gap, full)],
                    None => vec![(Span::ZERO, full)],
                }
            });
        }
    }

    /// The groups that rules name, or are still made to.
    pub fn groups(&self) -> BTreeSet<GroupKey> {
        groups(&self.wanted)
    }

    /// The servers an address has at the moment, by group.
    pub fn servers(&self, address: usize) -> Option<&BTreeMap<GroupKey, Vec<SocketAddr>>> {
        self.addresses.get(address).map(|address| &address.members)
    }

    /// Lets an address follow no more, or again.
    pub fn set_stuck(&mut self, address: usize, stuck: bool) {
        if let Some(address) = self.addresses.get_mut(address) {
            address.stuck = stuck;
        }
    }

    /// Lets come into force what is due; says when the next change is.
    pub fn advance(&mut self, now: Timestamp) -> Option<Timestamp> {
        let mut next: Option<Timestamp> = None;
        for address in self.addresses.iter_mut().filter(|address| !address.stuck) {
            while address.coming.front().is_some_and(|(at, _)| *at <= now) {
                match address.coming.pop_front() {
                    Some((_, Change::Rules(rules))) => address.rules = rules,
                    Some((_, Change::Members(group, servers))) => {
                        address.members.insert(group, servers);
                    }
                    None => {}
                }
            }
            if address.coming.is_empty() {
                let named = groups(&address.rules);
                address.members.retain(|group, _| named.contains(group));
            }
            if let Some((at, _)) = address.coming.front() {
                next = Some(next.map_or(*at, |next| next.min(*at)));
            }
        }
        next
    }

    /// Whether every address follows in full.
    pub fn is_settled(&self) -> bool {
        self.addresses.iter().all(|address| address.coming.is_empty())
    }

    /// What an address does with a request to one of its listeners. `dice` are from 0 to below 1: for the group, and for
    /// the server.
    pub fn route(
        &self,
        address: usize,
        listener: &(String, u16),
        request: (&Method, &str, &Uri, &HeaderMap),
        dice: (f64, f64),
    ) -> Outcome {
        let Some(address) = self.addresses.get(address) else { return Outcome::NoRule };
        let rule = address.rules.iter().find(|rule| rule.listen.contains(listener) && rule.takes(request));
        let Some(rule) = rule else { return Outcome::NoRule };
        let groups = match &rule.then {
            Then::Forward(groups) => groups,
            Then::Redirect(to) => return Outcome::Redirect(to.clone()),
            Then::Fixed(fixed) => return Outcome::Fixed(fixed.clone()),
        };
        let total: u32 = groups.iter().map(|(_, weight)| weight).sum();
        let mut left = dice.0 * f64::from(total);
        let chosen = groups.iter().filter(|(_, weight)| *weight > 0).find(|(_, weight)| {
            left -= f64::from(*weight);
            left < 0.0
        });
        let Some((group, _)) = chosen.or(groups.last()) else { return Outcome::NoRule };
        let servers = address.members.get(group).map_or(&[][..], Vec::as_slice);
        let at = crate::units::saturating_i32(dice.1 * crate::units::count_f64(servers.len()));
        match servers.get(usize::try_from(at).unwrap_or(0)) {
            Some(server) => {
                Outcome::Forward { group: group.clone(), server: *server, set: rule.set.clone(), grpc: rule.grpc }
            }
            None => Outcome::Empty(group.clone()),
        }
    }

    /// Sends a change on its way to every address: late, but never before what went before it.
    fn spread(&mut self, now: Timestamp, delay: RangeInclusive<Span>, steps: impl Fn(usize) -> Vec<(Span, Change)>) {
        for (number, address) in self.addresses.iter_mut().enumerate() {
            let late = self.random.random_range(delay.start().nanos()..=delay.end().nanos());
            let before = address.coming.back().map_or(now, |(at, _)| *at);
            let mut at = before.max(now + Span::from_nanos(late));
            for (after, change) in steps(number) {
                at = at + after;
                address.coming.push_back((at, change));
            }
        }
    }
}

impl Rule {
    /// Reads it as these faults do.
    pub fn misread(&mut self, faults: &BTreeSet<Fault>) {
        if faults.contains(&Fault::KeepsHeaders) {
            self.set.iter_mut().for_each(|(.., cover)| *cover = false);
        }
        if faults.contains(&Fault::FirstHost) {
            self.hosts.truncate(1);
        }
        if faults.contains(&Fault::Segments) {
            let segments = |path: &String| match path.strip_suffix('*').filter(|prefix| !prefix.ends_with('/')) {
                Some(prefix) => vec![prefix.to_owned(), format!("{prefix}/*")],
                None => vec![path.clone()],
            };
            self.paths = self.paths.iter().flat_map(segments).collect();
        }
        if faults.contains(&Fault::AnyCookie) {
            let (cookies, mut others): (Vec<_>, Vec<_>) =
                self.conditions.drain(..).partition(|condition| matches!(condition, Condition::Cookie { .. }));
            let any = cookies.into_iter().reduce(|mut any, one| {
                if let (Condition::Cookie { config: any }, Condition::Cookie { config: one }) = (&mut any, one) {
                    any.values.extend(one.values);
                }
                any
            });
            others.extend(any);
            self.conditions = others;
        }
    }

    fn takes(&self, (method, host, uri, headers): (&Method, &str, &Uri, &HeaderMap)) -> bool {
        let host = host.to_ascii_lowercase();
        (self.hosts.is_empty() || self.hosts.iter().any(|pattern| like(pattern, &host)))
            && self.paths.iter().any(|pattern| like(pattern, uri.path()))
            && self.conditions.iter().all(|condition| match condition {
                Condition::Header { config } => headers.get_all(&config.key).iter().any(|value| {
                    value.to_str().is_ok_and(|value| config.values.iter().any(|pattern| like(pattern, value)))
                }),
                Condition::Cookie { config } => cookies(headers).any(|(key, value)| {
                    config.values.iter().any(|want| {
                        want.key.eq_ignore_ascii_case(key)
                            && like(&want.value.to_ascii_lowercase(), &value.to_ascii_lowercase())
                    })
                }),
                Condition::QueryString { config } => uri.query().unwrap_or("").split('&').any(|pair| {
                    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                    config.values.iter().any(|want| want.key == key && like(&want.value, value))
                }),
                Condition::Method { config } => config.values.iter().any(|want| want == method.as_str()),
                Condition::Host { .. } | Condition::Path { .. } => true,
            })
    }
}

fn cookies(headers: &HeaderMap) -> impl Iterator<Item = (&str, &str)> {
    let all = headers.get_all(http::header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    all.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='))
}

/// Whether `text` is as `pattern` says: `*` is any number of characters, `?` is one.
fn like(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut at, mut from, mut star) = (0, 0, None);
    while from < text.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, from));
                at += 1;
            }
            Some(byte) if *byte == b'?' || *byte == text[from] => (at, from) = (at + 1, from + 1),
            _ => {
                let Some((star_at, taken)) = star else { return false };
                (at, from, star) = (star_at + 1, taken + 1, Some((star_at, taken + 1)));
            }
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}

pub(super) fn key(ingress: &Ingress) -> RevisionKey {
    let meta = &ingress.metadata;
    RevisionKey::new(meta.namespace.as_deref().unwrap_or(""), meta.name.as_deref().unwrap_or(""))
}
