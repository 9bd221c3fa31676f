//! To zero and back behind a load balancer that follows when it likes: the gate, the record of rules and the double, in
//! virtual time, with requests at every tick. The judge looks at every server a request meets; one that is gone, or an
//! empty group, is a request lost.
//!
//! Nothing is easier here than in a cluster: a pod does not say whose it is, rules answer with what they say and not with a
//! number, and half of the revisions have no room for a burst.
//!
//! Pods leave only to zero here: what a pod that is one too many owes to requests on their way is its own drain, not the
//! gate's.

use ebb::local::alb::balancer::{Balancer, GroupKey, Manners, Outcome, compile, groups};
use ebb::routing::gate::rules::{Ask, Leads, Plan, Rules};
use ebb::routing::gate::{Answer, Decision, Gate, Members, Path, Pods, Probe, Seen, State, Timers};
use ebb::routing::model::{Mode, Rule};
use ebb::routing::plan::rules_of;
use ebb::units::{RevisionKey, Span, Timestamp};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use k8s_openapi::api::networking::v1::Ingress;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

const TICK: Span = Span::from_millis(500);
const REVISIONS: usize = 3;
const ADDRESSES: usize = 2;
const HOST: &str = "web.default.example.com";
const HASH: &str = "k-network-hash";
const ACTIVATORS: u8 = 2;
/// Requests to each address at each tick.
const REQUESTS: usize = 2;

struct Revision {
    key: RevisionKey,
    gate: Gate,
    want: Path,
    pods: Pods,
    /// Counts the times it came from zero: pods of an earlier life are gone.
    life: u8,
    ready_at: Timestamp,
    written: (Members, Timestamp),
    to_write: Option<(Timestamp, Members)>,
    traffic: Option<Timestamp>,
    last: Option<Decision>,
}

/// What was counted.
#[derive(Default, Debug)]
struct Report {
    cycles: usize,
    to_zero: u32,
    plans: u64,
    /// Requests by the state their revision was in.
    requests: BTreeMap<&'static str, u64>,
    lost: BTreeMap<String, u64>,
}

struct World {
    random: StdRng,
    now: Timestamp,
    balancer: Balancer,
    rules: Rules,
    /// What each rule is asked by.
    asks: BTreeMap<Arc<str>, Ask>,
    /// When the latest plan was published.
    published: Timestamp,
    /// The number of the latest plan, its members and weights, and whether it is published.
    plan: (u64, Vec<(usize, u32)>, bool),
    revisions: Vec<Revision>,
    gated: bool,
    report: Report,
}

impl World {
    fn new(seed: u64, gated: bool) -> Self {
        let now = Timestamp::from_seconds(100_000);
        let revisions = (0..REVISIONS).map(|number| Revision {
            key: RevisionKey::new("default", &format!("web-{number}")),
            gate: Gate::new(Mode::Port, Timers::default()),
            want: Path::Warm,
            pods: Pods { all: 1, ready: 1 },
            life: 0,
            ready_at: now,
            written: (Members::Pods, now - Span::from_seconds(7200)),
            to_write: None,
            traffic: None,
            last: None,
        });
        let mut world = Self {
            random: StdRng::seed_from_u64(seed),
            now,
            balancer: Balancer::new(ADDRESSES, Manners::default(), seed),
            rules: Rules::default(),
            asks: BTreeMap::new(),
            published: now,
            plan: (0, Vec::new(), true),
            revisions: revisions.collect(),
            gated,
            report: Report::default(),
        };
        world.rules.set_addresses(&(0..ADDRESSES).map(address).collect());
        world.split(vec![(0, 100)]);
        world
    }

    /// Another split is to be published as soon as everybody in it has servers.
    fn split(&mut self, members: Vec<(usize, u32)>) {
        if members == self.plan.1 {
            return;
        }
        let number = self.plan.0 + 1;
        let rules = rules_of(&ingress(&members));
        let leads = members.iter().map(|(revision, _)| {
            // The rule that selects it, or the only one.
            let selects = |rule: &&Rule| rule.name == format!("select-{revision}");
            let rule = rules.iter().find(selects).or(rules.last()).expect("a rule");
            let name: Arc<str> = format!("{} to {revision} of {:?}", rule.name, rule.conditions).into();
            let ask = Ask::of(rule);
            self.asks.insert(Arc::clone(&name), ask.clone());
            let group = format!("web-{revision}-alb").into();
            Leads { revision: self.revisions[*revision].key.clone(), rule: name, group, ask }
        });
        let (version, leads) = (Some(version(&members).into()), leads.collect());
        self.rules.publish(Plan { number, version, leads, rules: vec![rules] });
        self.plan = (number, members, false);
        self.report.plans += 1;
    }

    fn tick(&mut self) {
        self.now = self.now + TICK;
        self.program();
        self.balancer.advance(self.now);
        for number in 0..REVISIONS {
            self.step(number);
        }
        for address in 0..ADDRESSES {
            for _ in 0..REQUESTS {
                self.request(address);
            }
            if !self.rules.is_settled() {
                let shown = self.ask(address, &[]).1;
                self.rules.show(self::address(address), shown.as_deref());
            }
        }
        if self.plan.2 && !self.rules.is_settled() && self.published + Timers::default().horizon <= self.now {
            self.rules.pass(self.plan.0);
        }
    }

    /// What the controllers do: publish a plan that may be, and tell the load balancer of servers.
    fn program(&mut self) {
        let may = self.plan.1.iter().all(|(number, _)| {
            let revision = &self.revisions[*number];
            let publishable = revision.last.as_ref().is_some_and(|last| {
                last.state != State::Unrouted && last.publish && last.members == Some(revision.written.0)
            });
            publishable && !self.servers(*number).is_empty()
        });
        if !self.plan.2 && may {
            self.plan.2 = true;
            self.published = self.now;
            let ingress = Arc::new(ingress(&self.plan.1));
            let rules = compile(&[ingress], &[("HTTP".to_owned(), 80)], 100).expect("what is written is right");
            let members = self.members(groups(&rules));
            self.balancer.want(self.now, rules, members);
        }
        let members = self.members(self.balancer.groups());
        self.balancer.want_members(self.now, members);
    }

    fn members(&self, groups: BTreeSet<GroupKey>) -> BTreeMap<GroupKey, Vec<SocketAddr>> {
        let with_servers = |group: GroupKey| {
            let servers = self.servers(number_of(&group));
            (group, servers)
        };
        groups.into_iter().map(with_servers).collect()
    }

    fn servers(&self, number: usize) -> Vec<SocketAddr> {
        let revision = &self.revisions[number];
        let third = u8::try_from(number).expect("few revisions");
        let pods = (0..revision.pods.ready).map(|pod| {
            let pod = u8::try_from(pod).expect("few pods");
            SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, third, revision.life, pod)), 8012)
        });
        let activators = (0..ACTIVATORS)
            .map(|one| SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 100, 0, one)), 20_000 + u16::from(third)));
        match revision.written.0 {
            Members::Pods => pods.collect(),
            Members::Both => pods.chain(activators).collect(),
            Members::Activators => activators.collect(),
        }
    }

    fn step(&mut self, number: usize) {
        let now = self.now;
        let targets = self.rules.targets(&self.revisions[number].key);
        let routed = self.rules.routes(&self.revisions[number].key, self.plan.0);
        let revision = &mut self.revisions[number];
        if revision.pods.all > 0 && revision.ready_at <= now {
            revision.pods.ready = revision.pods.all;
        }
        if let Some((at, members)) = revision.to_write
            && at <= now
        {
            (revision.written, revision.to_write) = ((members, now), None);
        }
        let epoch = revision.gate.request(now, revision.want);
        let seen = Seen {
            routed,
            written: Some(revision.written),
            pods: revision.pods,
            activators: u32::from(ACTIVATORS),
            traffic: revision.traffic,
            room: number.is_multiple_of(2),
            ..Seen::new(Mode::Port, &targets)
        };
        let decision = revision.gate.step(now, &seen);
        let members = if self.gated {
            decision.members
        } else {
            // What there is: pods, or else activators, the moment it changes.
            Some(if revision.pods.ready > 0 { Members::Pods } else { Members::Activators })
        };
        match members.filter(|members| *members != revision.written.0) {
            Some(members) => {
                let at = now + Span::from_millis(self.random.random_range(0..2000));
                revision.to_write = Some((revision.to_write.map_or(at, |(at, _)| at), members));
            }
            None => revision.to_write = None,
        }
        if (revision.want == Path::Warm || decision.pin) && revision.pods.all == 0 {
            revision.life = revision.life.wrapping_add(1);
            revision.pods = Pods { all: 1, ready: 0 };
            revision.ready_at = now + Span::from_millis(self.random.random_range(500..8000));
        }
        let may = !self.gated || revision.gate.may_scale_to_zero(now, epoch).is_ok();
        if revision.want == Path::Cold && revision.pods.all > 0 && may {
            revision.pods = Pods::default();
            self.report.to_zero += 1;
        }
        let probes = decision.probes.clone();
        revision.last = Some(decision);
        for probe in probes {
            let answer = self.probe(number, &probe);
            self.revisions[number].gate.answer(now, &probe, answer);
        }
    }

    fn probe(&mut self, number: usize, probe: &Probe) -> Answer {
        let address = (0..ADDRESSES).find(|one| address(*one) == probe.target.address).expect("a known address");
        let headers = self.asks[&probe.target.rule].headers.clone();
        let answer = match self.ask(address, &headers).0 {
            Outcome::Forward { server, group, .. } => {
                let of = number_of(&group);
                match self.living(of, server) {
                    Some(Members::Activators) if of == number => Answer::Activator,
                    Some(Members::Activators) => Answer::Elsewhere,
                    // Whose pod it is, it does not say.
                    Some(_) => Answer::Pod,
                    None => Answer::Failed,
                }
            }
            Outcome::Empty(_) => Answer::Unavailable,
            _ => Answer::NoRoute,
        };
        match answer {
            Answer::Pod | Answer::Activator if !self.rules.is_certain(&probe.target, &self.revisions[number].key) => {
                Answer::Elsewhere
            }
            answer => answer,
        }
    }

    /// A request of a client.
    fn request(&mut self, address: usize) {
        let (outcome, _) = self.ask(address, &[]);
        let (number, fault) = match outcome {
            Outcome::Forward { group, server, .. } => {
                let number = number_of(&group);
                (number, self.living(number, server).is_none().then_some("a pod that is gone"))
            }
            Outcome::Empty(group) => (number_of(&group), Some("an empty group")),
            // Before the first plan is in force there is nothing to be reached.
            _ => return,
        };
        let state = self.revisions[number].gate.state().0.word();
        *self.report.requests.entry(state).or_default() += 1;
        if let Some(fault) = fault {
            *self.report.lost.entry(format!("{state}: {fault}")).or_default() += 1;
        }
    }

    fn ask(&mut self, address: usize, asked: &[(String, String)]) -> (Outcome, Option<String>) {
        let mut headers = HeaderMap::new();
        for (name, value) in asked {
            let name: HeaderName = name.parse().expect("a name");
            headers.insert(name, HeaderValue::from_str(value).expect("a value"));
        }
        let uri = Uri::from_static("/healthz");
        let dice = (self.random.random_range(0.0..1.0), self.random.random_range(0.0..1.0));
        let listener = ("HTTP".to_owned(), 80);
        let outcome = self.balancer.route(address, &listener, (&Method::GET, HOST, &uri, &headers), dice);
        let hash = match &outcome {
            Outcome::Forward { set, .. } => set
                .iter()
                .find(|(name, ..)| name == HASH)
                .and_then(|(_, value, _)| Some(value.as_ref()?.to_str().ok()?.to_owned())),
            _ => None,
        };
        (outcome, hash)
    }

    /// What a server is, if it is there.
    fn living(&self, number: usize, server: SocketAddr) -> Option<Members> {
        let IpAddr::V4(ip) = server.ip() else { return None };
        let [_, second, life, pod] = ip.octets();
        let revision = &self.revisions[number];
        if second == 100 {
            return Some(Members::Activators);
        }
        (life == revision.life && u32::from(pod) < revision.pods.ready).then_some(Members::Pods)
    }

    /// Something happens, and time passes.
    fn cycle(&mut self) {
        self.report.cycles += 1;
        let number = self.random.random_range(0..REVISIONS);
        let now = self.now;
        match self.random.random_range(0..10) {
            0..4 => self.revisions[number].want = Path::Cold,
            4..6 => self.revisions[number].want = Path::Warm,
            6 => {
                let revision = &mut self.revisions[number];
                if revision.pods.ready > 0 {
                    revision.pods = Pods { all: revision.pods.all.max(4), ready: revision.pods.ready };
                    revision.ready_at = now + Span::SECOND;
                }
            }
            7 => self.revisions[number].traffic = Some(now),
            _ => {
                let mut members: BTreeSet<usize> = BTreeSet::new();
                for _ in 0..self.random.random_range(1..=REVISIONS) {
                    members.insert(self.random.random_range(0..REVISIONS));
                }
                let share = 100 / u32::try_from(members.len()).expect("few members");
                self.split(members.into_iter().map(|number| (number, share)).collect());
            }
        }
        let latest = *[2, 2, 5, 5, 20, 60, 300].choose(&mut self.random).expect("some");
        let until = Span::from_seconds(latest);
        let manners = Manners { membership: Span::ZERO..=until, rules: Span::ZERO..=until, ..Manners::default() };
        self.balancer.set_manners(manners);
        let longest = *[10, 120, 400].choose(&mut self.random).expect("some");
        for _ in 0..self.random.random_range(1..longest) {
            self.tick();
        }
    }
}

fn address(number: usize) -> SocketAddr {
    SocketAddr::from(([10, 200, 0, u8::try_from(number).expect("few addresses")], 80))
}

fn number_of(group: &GroupKey) -> usize {
    group.service.trim_start_matches("web-").trim_end_matches("-alb").parse().expect("web-NUMBER-alb")
}

/// What rules of a split answer with: what they say, as the hash of a KIngress is. The same split has the same later.
fn version(members: &[(usize, u32)]) -> String {
    format!("{members:?}").replace(|letter: char| !letter.is_ascii_digit(), "-")
}

/// The Ingress of a split: for members of more than one a rule that selects each, and the rule of the split. Each sets its
/// version.
fn ingress(members: &[(usize, u32)]) -> Ingress {
    let prefix = "alb.ingress.kubernetes.io/";
    let mut annotations = BTreeMap::from([(format!("{prefix}order"), "101".to_owned())]);
    let mut rules = Vec::new();
    let mut rule = |name: String, conditions: Option<serde_json::Value>, to: &[(usize, u32)]| {
        let groups = to.iter().map(
            |(number, weight)| json!({"ServiceName": format!("web-{number}-alb"), "ServicePort": 80, "Weight": weight}),
        );
        let actions = json!([
            {"type": "InsertHeader", "InsertHeaderConfig":
                {"key": "K-Network-Hash", "value": version(members), "valueType": "UserDefined", "coverEnabled": true}},
            {"type": "ForwardGroup", "ForwardConfig": {"ServerGroups": groups.collect::<Vec<_>>()}},
        ]);
        annotations.insert(format!("{prefix}actions.{name}"), actions.to_string());
        if let Some(conditions) = conditions {
            annotations.insert(format!("{prefix}conditions.{name}"), conditions.to_string());
        }
        let backend = json!({"service": {"name": name, "port": {"name": "use-annotation"}}});
        rules.push(json!({"host": HOST, "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]}}));
    };
    if members.len() > 1 {
        for (number, _) in members {
            let value = format!("web-{number}.token");
            let select = json!([{"type": "Header", "headerConfig": {"key": "K-Alb-Select", "values": [value]}}]);
            rule(format!("select-{number}"), Some(select), &[(*number, 100)]);
        }
    }
    rule("default".to_owned(), None, members);
    serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "default", "annotations": annotations},
        "spec": {"ingressClassName": "alb", "rules": rules},
    }))
    .expect("an Ingress")
}

fn run(seed: u64, cycles: usize, gated: bool) -> Report {
    let mut world = World::new(seed, gated);
    for _ in 0..cycles {
        world.cycle();
        if gated && !world.report.lost.is_empty() {
            let last: Vec<_> = world.revisions.iter().map(|revision| &revision.last).collect();
            panic!("seed {seed}, cycle {}: {:?}\n{last:#?}", world.report.cycles, world.report.lost);
        }
    }
    world.report
}

#[test]
fn no_request_is_lost_in_two_thousand_cycles_and_without_the_gate_many_are() {
    let gated = run(20_261_121, 2000, true);
    eprintln!("with the gate: {gated:#?}");
    assert!(gated.to_zero >= 100, "{gated:?}");
    for state in ["warm", "bridging-down", "draining", "cold-confirmed", "cold", "waking", "bridging-up", "held"] {
        assert!(gated.requests.contains_key(state), "no request met {state}: {gated:?}");
    }
    let reckless = run(20_261_121, 2000, false);
    eprintln!("without it: {reckless:#?}");
    assert!(reckless.lost.values().sum::<u64>() > 100, "or the judge is blind: {reckless:?}");
}
