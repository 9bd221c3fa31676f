//! All KIngresses of the class to objects: who has a host, what there is room for, in which order, and what is written.
//!
//! A KIngress that cannot be expressed is left out with its reason; the others are not touched by it.

use crate::api::alb_config::{AlbConfig, AlbConfigSpec, Billing, Listener, LoadBalancer, Tag, ZoneMapping};
use crate::api::conditions::{Conditions, READY, Status, find};
use crate::api::ingress::Ingress as KIngress;
use crate::api::ingress::{IngressSplit, LoadBalancerAddress, LoadBalancerStatus};
use crate::api::names::{ROUTE_LABEL, ROUTE_NAMESPACE_LABEL, SERVICE_LABEL, SYSTEM_NAMESPACE};
use crate::routing::model::{Action, ClusterLocal, MAX_ANNOTATIONS, Remark, Rule, Settings, Side, digest};
use crate::routing::translate::{Context, Part, Role, Selectors, fixed, is_acme, translate};
use k8s_openapi::api::networking::v1::{
    HTTPIngressPath, HTTPIngressRuleValue, Ingress, IngressBackend, IngressClass, IngressClassParametersReference,
    IngressClassSpec, IngressRule, IngressServiceBackend, IngressSpec, IngressTLS, ServiceBackendPort,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

const PREFIX: &str = "alb.ingress.kubernetes.io/";
/// Annotations under these are ours on objects that are.
pub const OURS: [&str; 2] = [PREFIX, "knative-alb/"];
const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
const MANAGER: &str = "knative-alb";
/// The longest name of an Ingress; the cloud makes names of its own from it.
const LONGEST_NAME: usize = 100;
/// The order of the answer for hosts nobody serves: the last.
const LAST_ORDER: u16 = 1000;
/// The orders of rules for every host and for hosts with a wildcard.
const WILDCARDS: RangeInclusive<u16> = 900..=999;

/// Where names inside the cluster are served with `alb-cluster-local: gateway`: the Service of Ebb's activators as a gateway.
const GATEWAY: &str = "ebb-gateway.knative-serving.svc.cluster.local";

/// What is to be written.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Plan {
    /// The Ingresses, by namespace and name.
    pub ingresses: Vec<Ingress>,
    /// The classes they are of.
    pub classes: Vec<IngressClass>,
    /// The load balancers of those; none where it is not known in which zones. Of one that somebody else made only the
    /// listeners, and only where Ebb is to manage them.
    pub balancers: Vec<AlbConfig>,
    /// Ingresses of ours that are in the way of nothing any more, by namespace and name: of a KIngress that needs them no
    /// longer, or that is another class's by now and served there.
    pub stale: Vec<(String, String)>,
    /// Ingresses on a load balancer that their KIngress leaves for another, since its visibility changed or the settings say
    /// so. Each is stale once the KIngress was seen to be served there.
    pub leaving: Vec<Leaving>,
    /// What became of each KIngress, the oldest first.
    pub outcomes: Vec<Outcome>,
}

/// An Ingress whose KIngress moves to another load balancer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Leaving {
    /// Its namespace, and that of its KIngress.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its KIngress.
    pub kingress: String,
}

/// What became of a KIngress.
#[derive(Clone, PartialEq, Debug)]
pub struct Outcome {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Why it cannot be expressed.
    pub refused: Option<Remark>,
    /// What its owner should know although it works.
    pub remarks: Vec<Remark>,
    /// Revisions its rules lead to.
    pub routed: BTreeSet<String>,
    /// Of those, the ones that must keep a pod.
    pub pinned: BTreeSet<String>,
    /// Services behind which an activator is to split.
    pub delegated: BTreeMap<String, Vec<IngressSplit>>,
    /// Its Ingresses by name, with the rules they have; none when it is refused.
    pub parts: Vec<(String, Part)>,
}

/// What there is already.
#[derive(Clone, Copy, Debug, Default)]
pub struct Existing<'a> {
    /// Ingresses: ours keep their order, those of others keep theirs from us.
    pub ingresses: &'a [Ingress],
    /// Load balancers, which keep their listeners.
    pub balancers: &'a [AlbConfig],
    /// Rules that load balancers were seen to take no more than, by name; `None` where none complained.
    pub quotas: Option<&'a BTreeMap<String, usize>>,
}

/// How far a KIngress has come, for its status.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Progress {
    /// Its spec was not applied yet.
    New,
    /// It cannot be expressed; what was applied before stays.
    Refused(Remark),
    /// It leads to Services that do not exist yet, named here; what was applied before stays.
    WaitingForServices(String),
    /// It leads to Services, named here, that have no server yet, or whose revision may go to zero at any time since its
    /// owner does not know of the route yet; what was applied before stays.
    WaitingForServers(String),
    /// A load balancer it is to be on is on its way out, and one of that name can be made when it is gone.
    WaitingForBalancer,
    /// Applied; the load balancer has no address yet.
    WaitingForAddress,
    /// Applied; it is not seen yet that the load balancer follows.
    Probing,
    /// The load balancer's controller reports a failure.
    ProgrammingFailed(String),
    /// The cloud takes no more rules.
    Quota(String),
    /// The load balancer does not follow in time; it is tried on.
    ProbeTimeout,
    /// The load balancer was seen to follow.
    Ready,
}

impl Progress {
    /// Writes it down in the conditions of the KIngress.
    pub fn mark(&self, conditions: &mut Conditions<'_>) {
        const CONFIGURED: &str = "NetworkConfigured";
        const BALANCER: &str = "LoadBalancerReady";
        conditions.initialize();
        match self {
            Self::New => {
                for dependent in [CONFIGURED, BALANCER] {
                    conditions.mark_unknown(dependent, "Uninitialized", "The spec has not been applied yet.");
                }
            }
            Self::Refused(remark) => conditions.mark_false(CONFIGURED, remark.reason, &remark.message),
            Self::WaitingForServices(names) => {
                let message = format!("It leads to Services that do not exist yet: {names}.");
                conditions.mark_unknown(CONFIGURED, "WaitingForServices", &message);
            }
            Self::WaitingForServers(names) => {
                let message = format!("It leads to Services that are not ready for it yet: {names}.");
                conditions.mark_unknown(CONFIGURED, "WaitingForServers", &message);
            }
            Self::WaitingForBalancer => {
                let message = "The load balancer of this name is being removed; it is made anew once it is gone.";
                conditions.mark_unknown(CONFIGURED, "WaitingForLoadBalancer", message);
            }
            Self::WaitingForAddress => {
                conditions.mark_true(CONFIGURED);
                conditions.mark_unknown(BALANCER, "WaitingForAddress", "The load balancer has no address yet.");
            }
            Self::Probing => {
                conditions.mark_true(CONFIGURED);
                conditions.mark_unknown(BALANCER, "Probing", "The load balancer is not seen to follow yet.");
            }
            Self::ProgrammingFailed(message) => {
                conditions.mark_true(CONFIGURED);
                conditions.mark_false(BALANCER, "ALBProgrammingFailed", message);
            }
            Self::Quota(message) => {
                conditions.mark_true(CONFIGURED);
                conditions.mark_false(BALANCER, "ALBQuota", message);
            }
            Self::ProbeTimeout => {
                conditions.mark_true(CONFIGURED);
                conditions.mark_false(BALANCER, "ProbeTimeout", "The load balancer does not follow; it is tried on.");
            }
            Self::Ready => {
                conditions.mark_true(CONFIGURED);
                conditions.mark_true(BALANCER);
            }
        }
    }
}

/// An Ingress on its way.
struct Placed {
    owner: usize,
    name: String,
    part: Part,
    order: u16,
}

/// Plans all KIngresses of the context, beside what there is.
///
/// What a refused KIngress was given before stays in force, so its hosts and the room its rules take stay its own.
pub fn plan(context: &Context<'_>, existing: &Existing<'_>) -> Plan {
    let context = &Context { balancers: existing.balancers, ..*context };
    let mut ingresses: Vec<&KIngress> = context.ingresses.iter().collect();
    ingresses.sort_by_key(|ingress| {
        let meta = &ingress.metadata;
        // What does not exist yet is younger than all that does.
        let created = meta.creation_timestamp.as_ref().map(|time| time.0);
        (created.is_none(), created, meta.namespace.clone(), meta.name.clone())
    });
    let mut plan = Plan::default();
    let mut room = Room::new(&ingresses, context, existing);
    let mut placed: Vec<Placed> = Vec::new();
    for (owner, ingress) in ingresses.iter().enumerate() {
        let mut outcome = Outcome {
            namespace: ingress.metadata.namespace.clone().unwrap_or_default(),
            name: ingress.metadata.name.clone().unwrap_or_default(),
            refused: None,
            remarks: Vec::new(),
            routed: BTreeSet::new(),
            pinned: BTreeSet::new(),
            delegated: BTreeMap::new(),
            parts: Vec::new(),
        };
        let mut attempt = |context: &Context<'_>| -> Result<_, Remark> {
            let translation = translate(ingress, context)?;
            Ok((room.admit(owner, ingress, &translation.parts)?, translation))
        };
        let admitted = match attempt(context) {
            // Rules that only ask are the first to be left out.
            Err(Remark { reason: "RuleBudgetExceeded", .. }) if matches!(context.selectors, Selectors::Rules(_)) => {
                attempt(&Context { selectors: Selectors::Pin, ..*context })
            }
            admitted => admitted,
        };
        match admitted {
            Ok((parts, translation)) => {
                placed.extend(parts);
                outcome.remarks = translation.remarks;
                (outcome.routed, outcome.pinned) = (translation.routed, translation.pinned);
                outcome.delegated = translation.delegated;
            }
            Err(remark) => {
                room.keep(ingress);
                outcome.refused = Some(remark);
            }
        }
        plan.outcomes.push(outcome);
    }
    for (owner, remark) in by_path_length(&mut placed) {
        plan.outcomes[owner].refused = Some(remark);
    }

    let mut objects = Vec::new();
    for placed in &placed {
        match object(placed, ingresses[placed.owner], context.settings) {
            Ok(object) => objects.push((placed.owner, object)),
            Err(remark) => _ = plan.outcomes[placed.owner].refused.get_or_insert(remark),
        }
    }
    let (good, late): (Vec<Placed>, Vec<Placed>) =
        placed.into_iter().partition(|placed| plan.outcomes[placed.owner].refused.is_none());
    let mut placed = good;
    for owner in late.iter().map(|placed| placed.owner).collect::<BTreeSet<_>>() {
        let kept: Vec<&Ingress> = room.of(ingresses[owner]).collect();
        room.left.extend(kept);
    }
    objects.retain(|(owner, _)| plan.outcomes[*owner].refused.is_none());
    placed.sort_by_key(|placed| placed.owner);
    plan.ingresses = objects.into_iter().map(|(_, object)| object).collect();
    for side in [Side::Internet, Side::Intranet] {
        // A side on which only last good Ingresses are left keeps its load balancer.
        let class_name = side.class_name();
        let left = room.left.iter().filter(|object| class_of(object) == Some(&class_name));
        let left: Vec<bool> = left.map(|object| is_secure(object)).collect();
        let of_side = || placed.iter().filter(|placed| placed.part.side == side);
        if of_side().next().is_none() && left.is_empty() {
            continue;
        }
        let name = context.settings.balancer(side);
        let https = left.contains(&true) || of_side().any(|placed| placed.part.https);
        plan.classes.push(class(side, context.settings));
        // Where both sides are one load balancer, one answer is enough, on all listeners there are.
        let other = plan.classes.len() == 2 && context.settings.balancer(Side::Internet) == name;
        if other {
            if let Some(first) = plan.ingresses.iter_mut().find(|object| is_nobody(object, Side::Internet))
                && https
                && !is_secure(first)
            {
                *first = nobody(Side::Internet, true, room.last_order());
            }
        } else {
            plan.ingresses.push(nobody(side, https, room.last_order()));
        }
        let known = existing.balancers.iter().find(|known| known.metadata.name.as_ref() == Some(&name));
        if let Some(balancer) = load_balancer(side, https, context.settings, known) {
            plan.balancers.retain(|before| before.metadata.name != balancer.metadata.name || !https);
            if !plan.balancers.iter().any(|before| before.metadata.name == balancer.metadata.name) {
                plan.balancers.push(balancer);
            }
        }
    }
    for placed in placed {
        plan.outcomes[placed.owner].parts.push((placed.name, placed.part));
    }
    (plan.stale, plan.leaving) = stale(&plan, &room, context, existing, &ingresses);
    plan.ingresses.sort_by_key(|object| (object.metadata.namespace.clone(), object.metadata.name.clone()));
    plan
}

/// Ingresses of KIngresses that are known and that the plan has no more use for, and those of them that are needed until
/// another load balancer serves their KIngress. Those of a KIngress that is gone go with it by themselves.
fn stale(
    plan: &Plan,
    room: &Room<'_>,
    context: &Context<'_>,
    existing: &Existing<'_>,
    ingresses: &[&KIngress],
) -> (Vec<(String, String)>, Vec<Leaving>) {
    let identity = |object: &Ingress| (object.metadata.namespace.clone(), object.metadata.name.clone());
    let kept: BTreeSet<_> = plan.ingresses.iter().chain(room.left.iter().copied()).map(identity).collect();
    let of_ingress = |object: &Ingress| {
        let ingress = object.status.as_ref()?.load_balancer.as_ref()?.ingress.as_ref()?;
        ingress.first()?.hostname.clone()
    };
    let of_balancer = |balancer: &AlbConfig| Some(balancer.status.as_ref()?.load_balancer.as_ref()?.dnsname.clone());
    let addresses: BTreeSet<String> = existing
        .ingresses
        .iter()
        .filter_map(of_ingress)
        .chain(existing.balancers.iter().filter_map(of_balancer))
        .collect();
    // A status that names one of these load balancers was written here: its new owner has not come to it yet.
    let ready = |other: &&KIngress| {
        other.status.as_ref().is_some_and(|status| {
            let named = status.public_load_balancer.iter().chain(&status.private_load_balancer);
            let ours = named.flat_map(|side| &side.ingress).any(|address| addresses.contains(&address.domain));
            find(&status.conditions, READY).is_some_and(|ready| ready.status == Status::True) && !ours
        })
    };
    let balancer = |side| context.settings.balancer(side);
    let (mut stale, mut leaving) = (Vec::new(), Vec::new());
    for (owner, outcome) in ingresses.iter().zip(&plan.outcomes) {
        let goes_to: BTreeSet<String> = outcome.parts.iter().map(|(_, part)| balancer(part.side)).collect();
        for object in room.of(owner).filter(|object| !kept.contains(&identity(object))) {
            let (Some(namespace), Some(name)) = identity(object) else { continue };
            let stays = side_of(object).is_some_and(|side| goes_to.contains(&balancer(side)));
            if stays || goes_to.is_empty() {
                stale.push((namespace, name));
            } else {
                leaving.push(Leaving { namespace, name, kingress: outcome.name.clone() });
            }
        }
    }
    let elsewhere = context.others.iter().filter(ready).flat_map(|owner| room.of(owner)).map(identity);
    stale.extend(elsewhere.filter_map(|(namespace, name)| Some((namespace?, name?))));
    (stale, leaving)
}

/// The KIngress an Ingress was made for, if it was made here.
pub fn made_for(object: &Ingress) -> Option<&str> {
    let mut owners = object.metadata.owner_references.iter().flatten();
    let owner = owners.find(|owner| owner.controller == Some(true) && owner.kind == "Ingress");
    owner.filter(|_| is_made_here(object)).map(|owner| owner.name.as_str())
}

/// The Ingresses that were made for these KIngresses, by namespace and name.
pub fn owned_by(kingresses: &[KIngress], existing: &[Ingress]) -> Vec<(String, String)> {
    let made = existing.iter().filter(|object| is_made_here(object));
    let owned = made.filter(|object| kingresses.iter().any(|ingress| is_ours(object, ingress)));
    owned.filter_map(|object| Some((object.metadata.namespace.clone()?, object.metadata.name.clone()?))).collect()
}

/// The rules that Ingresses have on each load balancer.
pub fn rules_held<'a>(
    ingresses: impl IntoIterator<Item = &'a Ingress>,
    settings: &Settings,
) -> BTreeMap<String, usize> {
    let mut held = BTreeMap::new();
    for object in ingresses {
        let Some(side) = side_of(object) else { continue };
        let rules = object.spec.iter().flat_map(|spec| spec.rules.iter().flatten()).count();
        *held.entry(settings.balancer(side)).or_default() += rules * listeners_of(object);
    }
    held
}

/// The load balancer an Ingress is on.
pub fn balancer_of(object: &Ingress, settings: &Settings) -> Option<String> {
    Some(settings.balancer(side_of(object)?))
}

/// Whether an Ingress is on the load balancer of a side, be it ours or not. The answer for hosts nobody serves is not.
pub fn uses(object: &Ingress, side: Side, settings: &Settings) -> bool {
    let class = side.class_name();
    let annotation = |key: &str| object.metadata.annotations.as_ref()?.get(key);
    let is_on = class_of(object) == Some(&class)
        || annotation("kubernetes.io/ingress.class") == Some(&class)
        || annotation("alb.ingress.kubernetes.io/albconfig.name") == Some(&settings.balancer(side));
    is_on && !is_nobody(object, side)
}

/// The sides whose load balancer, made by Ebb, is on its way out with nothing of Ebb's on it: nothing is put on it either,
/// since that might keep it.
pub fn going(balancers: &[AlbConfig], existing: &[Ingress], settings: &Settings) -> BTreeSet<Side> {
    let is_going = |side: &Side| {
        let name = settings.balancer(*side);
        let is = |known: &&AlbConfig| known.metadata.name.as_ref() == Some(&name);
        let balancer = balancers.iter().find(is).filter(|_| settings.existing(*side).is_none());
        balancer.is_some_and(|known| is_labelled(&known.metadata) && known.metadata.deletion_timestamp.is_some())
            && !existing.iter().any(|object| is_made_here(object) && side_of(object) == Some(*side))
    };
    [Side::Internet, Side::Intranet].into_iter().filter(is_going).collect()
}

/// What is taken already, by load balancer.
struct Room<'a> {
    settings: &'a Settings,
    quotas: Option<&'a BTreeMap<String, usize>>,
    claims: &'a BTreeMap<String, String>,
    existing: &'a [Ingress],
    /// By host: the namespace that has it, and the paths in use.
    hosts: BTreeMap<(String, String), (String, BTreeSet<String>)>,
    rules: BTreeMap<String, usize>,
    /// Rules of KIngresses that were not looked at yet and have Ingresses: these come before what is new.
    reserved: BTreeMap<String, usize>,
    secure: BTreeSet<String>,
    orders: BTreeSet<u16>,
    /// Orders of what there is.
    present: BTreeSet<u16>,
    /// What refused KIngresses were given before.
    left: Vec<&'a Ingress>,
}

impl<'a> Room<'a> {
    fn new(ingresses: &[&KIngress], context: &Context<'a>, existing: &Existing<'a>) -> Self {
        let all = existing.ingresses;
        let mut this = Self {
            settings: context.settings,
            quotas: existing.quotas,
            claims: context.claims,
            existing: all,
            hosts: BTreeMap::new(),
            rules: BTreeMap::new(),
            reserved: BTreeMap::new(),
            secure: BTreeSet::new(),
            orders: all.iter().filter(|object| !is_made_here(object)).filter_map(order_of).collect(),
            present: all.iter().filter_map(order_of).collect(),
            left: Vec::new(),
        };
        for ingress in ingresses {
            for (balancer, rules) in this.held(ingress) {
                *this.reserved.entry(balancer).or_default() += rules;
            }
        }
        this
    }

    /// The Ingresses a KIngress has.
    fn of<'b>(&self, ingress: &'b KIngress) -> impl Iterator<Item = &'a Ingress> + use<'a, 'b> {
        let existing = self.existing;
        existing.iter().filter(move |object| is_ours(object, ingress))
    }

    /// What each part is called, and the Ingress of that name. An Ingress cannot change its load balancer without being on
    /// neither for a while, so a part that moves gets another name, and keeps it there. Where the private names or all
    /// others are on its load balancer already, in an Ingress of which no other part is, it becomes that one: two for the
    /// same hosts would be in each other's way.
    fn names(&self, ingress: &KIngress, parts: &[Part], two_private: bool) -> Vec<(String, Option<&'a Ingress>)> {
        let owner = ingress.metadata.name.as_deref().unwrap_or_default();
        let find = |name: &String| {
            let is = |object: &&Ingress| {
                object.metadata.name.as_ref() == Some(name) && object.metadata.namespace == ingress.metadata.namespace
            };
            self.existing.iter().find(is)
        };
        // An Ingress of this KIngress on the side of a part, or at least on its load balancer.
        let ours = |name: &String| find(name).filter(|object| is_ours(object, ingress));
        let on_side = |name: &String, part: &Part| ours(name).is_some_and(|object| side_of(object) == Some(part.side));
        let on_balancer = |name: &String, part: &Part| {
            let balancer = self.settings.balancer(part.side);
            ours(name).is_some_and(|object| side_of(object).is_none_or(|side| self.settings.balancer(side) == balancer))
        };
        let named = |part: &Part| [false, true].map(|moved| part_name(owner, part, two_private, moved));
        let mut names: Vec<Option<String>> =
            parts.iter().map(|part| named(part).into_iter().find(|name| on_side(name, part))).collect();
        for (at, part) in parts.iter().enumerate() {
            let other = match part.role {
                Role::Primary => Role::Private,
                Role::Private => Role::Primary,
                Role::Grpc | Role::GrpcHttp | Role::Redirect => continue,
            };
            if names[at].is_none() {
                let mut of_other = [true, false].into_iter().flat_map(|two_private| {
                    let part = Part { role: other, ..part.clone() };
                    [false, true].map(|moved| part_name(owner, &part, two_private, moved))
                });
                names[at] = of_other.find(|name| on_side(name, part) && !names.contains(&Some(name.clone())));
            }
        }
        for (at, part) in parts.iter().enumerate() {
            if names[at].is_none() {
                let mut own = named(part).into_iter();
                names[at] = own.find(|name| on_balancer(name, part) && !names.contains(&Some(name.clone())));
            }
        }
        let new = |part: &Part| {
            let [first, moved] = named(part);
            if find(&first).is_some_and(|object| is_ours(object, ingress)) { moved } else { first }
        };
        let names = names.into_iter().zip(parts).map(|(name, part)| name.unwrap_or_else(|| new(part)));
        names
            .map(|name| {
                let now = find(&name);
                (name, now)
            })
            .collect()
    }

    /// The rules they have, by load balancer.
    fn held(&self, ingress: &KIngress) -> BTreeMap<String, usize> {
        rules_held(self.of(ingress), self.settings)
    }

    fn release(&mut self, ingress: &KIngress) -> BTreeMap<String, usize> {
        let held = self.held(ingress);
        for (balancer, rules) in &held {
            let reserved = self.reserved.entry(balancer.clone()).or_default();
            *reserved = reserved.saturating_sub(*rules);
        }
        held
    }

    /// A refused KIngress keeps what it was given before.
    fn keep(&mut self, ingress: &KIngress) {
        for (balancer, rules) in self.release(ingress) {
            *self.rules.entry(balancer).or_insert(1) += rules;
        }
        let namespace = ingress.metadata.namespace.clone().unwrap_or_default();
        for object in self.of(ingress) {
            let Some(side) = side_of(object) else { continue };
            self.orders.extend(order_of(object));
            self.left.push(object);
            let balancer = self.settings.balancer(side);
            for rule in rules_of(object) {
                self.take_hosts(&balancer, &namespace, &rule);
            }
        }
    }

    fn take_hosts(&mut self, balancer: &str, namespace: &str, rule: &Rule) {
        for host in rule.hosts() {
            let taken = self.hosts.entry((balancer.to_owned(), host.to_owned()));
            taken.or_insert_with(|| (namespace.to_owned(), BTreeSet::new())).1.insert(rule.path.clone());
        }
    }

    fn last_order(&self) -> u16 {
        let wildcards = WILDCARDS.rev().find(|order| !self.orders.contains(order));
        if self.orders.contains(&LAST_ORDER) { wildcards.unwrap_or(LAST_ORDER) } else { LAST_ORDER }
    }

    /// Whether the namespace may have the hosts.
    fn hosts_are_free(&self, namespace: &str, parts: &[Part]) -> Result<(), Remark> {
        let conflict = |message: String| Err(Remark::new("HostConflict", message));
        for part in parts {
            let balancer = self.settings.balancer(part.side);
            for rule in &part.rules {
                for host in rule.hosts() {
                    if let Some(claimed) = self.claims.get(host).filter(|claimed| *claimed != namespace) {
                        return conflict(format!(
                            "a ClusterDomainClaim gives the host {host} to the namespace {claimed}"
                        ));
                    }
                    let Some((by, paths)) = self.hosts.get(&(balancer.clone(), host.to_owned())) else { continue };
                    if by != namespace {
                        return conflict(format!("the host {host} belongs to the namespace {by}, which had it before"));
                    }
                    if paths.contains(&rule.path) {
                        return conflict(format!("{host}{} is served by another KIngress of the namespace", rule.path));
                    }
                }
            }
        }
        Ok(())
    }

    fn admit(&mut self, owner: usize, ingress: &KIngress, parts: &[Part]) -> Result<Vec<Placed>, Remark> {
        let namespace = ingress.metadata.namespace.clone().unwrap_or_default();
        self.hosts_are_free(&namespace, parts)?;
        let (mut rules, mut secure) = (self.rules.clone(), self.secure.clone());
        let held = self.held(ingress);
        let mut added: BTreeMap<String, usize> = BTreeMap::new();
        for part in parts {
            let balancer = self.settings.balancer(part.side);
            let used = rules.entry(balancer.clone()).or_insert(1);
            if part.https && secure.insert(balancer.clone()) {
                // The answer for hosts nobody serves stands on this listener too.
                *used += 1;
            }
            let of_part = part.rules.len() * (usize::from(part.http) + usize::from(part.https));
            *used += of_part;
            *added.entry(balancer).or_default() += of_part;
        }
        for (balancer, used) in &rules {
            let get = |map: &BTreeMap<String, usize>| map.get(balancer).copied().unwrap_or(0);
            let others = get(&self.reserved).saturating_sub(get(&held));
            let needed = used + others;
            // What there is stays, also where there is less room than there was.
            let grows = get(&added) > get(&held);
            let quota = self.quotas.and_then(|quotas| quotas.get(balancer)).copied();
            let budget = self.settings.rule_budget.min(quota.unwrap_or(usize::MAX));
            if grows && needed > budget {
                let why = match quota.filter(|quota| *quota < self.settings.rule_budget) {
                    Some(quota) => format!("and the cloud took no more than {quota}"),
                    None => format!("and alb-rule-budget is {budget}"),
                };
                let message = format!("{needed} rules are needed on the load balancer {balancer} {why}");
                return Err(Remark::new("RuleBudgetExceeded", message));
            }
        }
        let mut orders = self.orders.clone();
        let mut placed = Vec::new();
        let of = |side| parts.iter().any(|part| (part.role, part.side) == (Role::Private, side));
        let two_private = of(Side::Internet) && of(Side::Intranet);
        let names = self.names(ingress, parts, two_private);
        for (part, (name, now)) in parts.iter().zip(names) {
            if let Some(now) = now
                && !is_ours(now, ingress)
            {
                let message = format!("there is an Ingress {namespace}/{name} that was not made for this KIngress");
                return Err(Remark::new("NotOwned", message));
            }
            let band = band(part);
            let kept = now.and_then(order_of).filter(|order| band.contains(order) && !orders.contains(order));
            let order =
                kept.or_else(|| band.clone().find(|order| !orders.contains(order) && !self.present.contains(order)));
            let Some(order) = order else {
                let message = format!("the orders {} to {} are all taken", band.start(), band.end());
                return Err(Remark::new("RuleBudgetExceeded", message));
            };
            orders.insert(order);
            placed.push(Placed { owner, name, part: part.clone(), order });
        }
        self.release(ingress);
        (self.rules, self.secure, self.orders) = (rules, secure, orders);
        // What moves away has its room until it has moved.
        for object in self.of(ingress) {
            let Some(balancer) = balancer_of(object, self.settings).filter(|balancer| !added.contains_key(balancer))
            else {
                continue;
            };
            self.orders.extend(order_of(object));
            for (balancer, rules) in rules_held([object], self.settings) {
                *self.rules.entry(balancer).or_insert(1) += rules;
            }
            for rule in rules_of(object) {
                self.take_hosts(&balancer, &namespace, &rule);
            }
        }
        for placed in &placed {
            let balancer = self.settings.balancer(placed.part.side);
            for rule in &placed.part.rules {
                self.take_hosts(&balancer, &namespace, rule);
            }
        }
        Ok(placed)
    }
}

/// The rules of an Ingress of ours, read back from its annotations. What cannot be read is left out.
pub fn rules_of(object: &Ingress) -> Vec<Rule> {
    let annotation = |key: String| object.metadata.annotations.as_ref()?.get(&key).map(String::as_str);
    let rules = object.spec.iter().flat_map(|spec| spec.rules.iter().flatten());
    let read = |rule: &IngressRule| {
        let path = rule.http.as_ref()?.paths.first()?;
        let name = path.backend.service.as_ref()?.name.clone();
        let conditions = annotation(format!("{PREFIX}conditions.{name}")).unwrap_or("[]");
        let (conditions, actions) = Rule::reparse(conditions, annotation(format!("{PREFIX}actions.{name}"))?).ok()?;
        let path = path.path.as_deref().unwrap_or("/");
        let path = if path == "/" { path } else { path.trim_end_matches('*') };
        Some(Rule { name, host: rule.host.clone(), path: path.to_owned(), conditions, actions })
    };
    rules.filter_map(read).collect()
}

/// The Ingresses a KIngress has, by name, as far as where they lead goes. What role each has is not told.
pub fn present(existing: &[Ingress], ingress: &KIngress) -> Vec<(String, Part)> {
    let is_true = |object: &Ingress, key: &str| {
        let annotations = object.metadata.annotations.as_ref();
        annotations
            .and_then(|annotations| annotations.get(&format!("{PREFIX}{key}")))
            .is_some_and(|value| value == "true")
    };
    let read = |object: &Ingress| {
        let listen = listen_ports(object);
        let https = listen.contains("HTTPS");
        let part = Part {
            role: Role::Primary,
            side: side_of(object)?,
            rules: rules_of(object),
            http: listen.contains("\"HTTP\"") || !https,
            https,
            grpc: object
                .metadata
                .annotations
                .as_ref()
                .and_then(|annotations| annotations.get(&format!("{PREFIX}backend-protocol")))
                .is_some_and(|protocol| protocol.eq_ignore_ascii_case("grpc")),
            redirect: is_true(object, "ssl-redirect"),
            tls: Vec::new(),
        };
        Some((object.metadata.name.clone()?, part))
    };
    existing.iter().filter(|object| is_ours(object, ingress)).filter_map(read).collect()
}

/// Whether an Ingress says it was made here.
pub fn is_made_here(object: &Ingress) -> bool {
    is_labelled(&object.metadata)
}

/// Whether an object says it was made here.
pub fn is_labelled(meta: &ObjectMeta) -> bool {
    meta.labels.as_ref().and_then(|labels| labels.get(MANAGED_BY)).is_some_and(|by| by == MANAGER)
}

/// Whether an IngressClass that somebody else made leads where ours would.
pub fn leads_alike(theirs: &IngressClass, ours: &IngressClass) -> bool {
    match (serde_json::to_value(&theirs.spec), serde_json::to_value(&ours.spec)) {
        (Ok(theirs), Ok(ours)) => covers(&theirs, &ours),
        _ => false,
    }
}

/// The AlbConfig a class leads to.
pub fn leads_to(class: &IngressClass) -> Option<&str> {
    Some(class.spec.as_ref()?.parameters.as_ref()?.name.as_str())
}

/// Whether a live object is what is planned: it has all of that, and no annotation of ours beside it.
pub fn is_applied(live: &Value, planned: &Value) -> bool {
    let annotations = |object: &Value| -> BTreeSet<String> {
        let all = object.pointer("/metadata/annotations").and_then(Value::as_object);
        let ours = all.into_iter().flatten().map(|(key, _)| key);
        ours.filter(|key| OURS.iter().any(|prefix| key.starts_with(prefix))).cloned().collect()
    };
    covers(live, planned) && annotations(live) == annotations(planned)
}

/// Whether `live` has all that `planned` has; lists are as long.
fn covers(live: &Value, planned: &Value) -> bool {
    match (live, planned) {
        (Value::Object(live), Value::Object(planned)) => {
            planned.iter().all(|(key, value)| live.get(key).is_some_and(|live| covers(live, value)))
        }
        (Value::Array(live), Value::Array(planned)) => {
            live.len() == planned.len() && live.iter().zip(planned).all(|(live, planned)| covers(live, planned))
        }
        (live, planned) => live == planned,
    }
}

fn class_of(object: &Ingress) -> Option<&String> {
    object.spec.as_ref()?.ingress_class_name.as_ref()
}

fn side_of(object: &Ingress) -> Option<Side> {
    [Side::Internet, Side::Intranet].into_iter().find(|side| class_of(object) == Some(&side.class_name()))
}

fn listen_ports(object: &Ingress) -> &str {
    let annotations = object.metadata.annotations.as_ref();
    annotations.and_then(|annotations| annotations.get(&format!("{PREFIX}listen-ports"))).map_or("", String::as_str)
}

fn listeners_of(object: &Ingress) -> usize {
    listen_ports(object).matches('{').count().max(1)
}

fn is_secure(object: &Ingress) -> bool {
    listen_ports(object).contains("HTTPS")
}

/// Whether an Ingress is the answer for hosts nobody serves.
pub fn is_nobody(object: &Ingress, side: Side) -> bool {
    is_made_here(object)
        && object.metadata.name.as_deref() == Some(&nobody_name(side))
        && object.metadata.namespace.as_deref() == Some(SYSTEM_NAMESPACE)
}

fn nobody_name(side: Side) -> String {
    format!("knative-alb-default-{}", side.word())
}

/// Where a KIngress is reached from outside and from inside, once its load balancers have names. Empty are the lists
/// nothing is known for.
pub fn addresses(
    parts: &[(String, Part)],
    settings: &Settings,
    name_of: impl Fn(Side) -> Option<String>,
) -> Option<(LoadBalancerStatus, LoadBalancerStatus)> {
    let list = |domain: String| LoadBalancerStatus {
        ingress: vec![LoadBalancerAddress { domain, ..LoadBalancerAddress::default() }],
    };
    let by_gateway = LoadBalancerStatus {
        ingress: vec![LoadBalancerAddress { domain_internal: GATEWAY.to_owned(), ..LoadBalancerAddress::default() }],
    };
    // What has no name outside the cluster is at the gateway alone.
    if settings.cluster_local == ClusterLocal::Gateway && parts.is_empty() {
        return Some((by_gateway.clone(), by_gateway));
    }
    let public = parts.iter().any(|(_, part)| part.side == Side::Internet);
    let outside = if public { Side::Internet } else { Side::Intranet };
    let inside = match settings.cluster_local {
        ClusterLocal::Intranet => Side::Intranet,
        ClusterLocal::Shared | ClusterLocal::Gateway => outside,
    };
    // Without a part there, nothing is to be waited for.
    let inside = if parts.iter().any(|(_, part)| part.side == inside) { inside } else { outside };
    let (outside, inside) = (name_of(outside)?, name_of(inside)?);
    let inside = if settings.cluster_local == ClusterLocal::Gateway { by_gateway } else { list(inside) };
    Some((list(outside), inside))
}

/// Lets the longer path come first where Ingresses share a host. What cannot be ordered fails the younger one.
fn by_path_length(placed: &mut [Placed]) -> Vec<(usize, Remark)> {
    let mut sharing: BTreeMap<(Side, &str), BTreeSet<usize>> = BTreeMap::new();
    for (number, one) in placed.iter().enumerate() {
        for host in one.part.rules.iter().flat_map(Rule::hosts) {
            sharing.entry((one.part.side, host)).or_default().insert(number);
        }
    }
    let mut pairs: Vec<(usize, usize, String)> = Vec::new();
    for ((_, host), numbers) in &sharing {
        for first in numbers {
            // The companions of one KIngress have bands of their own that put them right.
            let others = numbers.range(first + 1..).filter(|second| placed[*first].owner != placed[**second].owner);
            pairs.extend(others.map(|second| (*first, *second, (*host).to_owned())));
        }
    }
    let shadows = |front: &Part, back: &Part, host: &str| {
        let on = |part: &Part| -> Vec<String> {
            let here = part.rules.iter().filter(|rule| rule.hosts().any(|of| of == host) && !is_acme(&rule.path));
            here.map(|rule| rule.path.clone()).collect()
        };
        let back = on(back);
        on(front).iter().any(|short| back.iter().any(|long| long.len() > short.len() && long.starts_with(short)))
    };
    for _ in 0..placed.len() {
        let mut moved = false;
        for (first, second, host) in &pairs {
            let (first, second) =
                if placed[*first].order < placed[*second].order { (*first, *second) } else { (*second, *first) };
            let same_band = band(&placed[first].part) == band(&placed[second].part);
            if same_band
                && shadows(&placed[first].part, &placed[second].part, host)
                && !shadows(&placed[second].part, &placed[first].part, host)
            {
                (placed[first].order, placed[second].order) = (placed[second].order, placed[first].order);
                moved = true;
            }
        }
        if !moved {
            break;
        }
    }
    let mut refused: BTreeMap<usize, Remark> = BTreeMap::new();
    for (first, second, host) in &pairs {
        let (front, back) =
            if placed[*first].order < placed[*second].order { (*first, *second) } else { (*second, *first) };
        let owners = (placed[*first].owner, placed[*second].owner);
        if shadows(&placed[front].part, &placed[back].part, host)
            && !refused.contains_key(&owners.0)
            && !refused.contains_key(&owners.1)
        {
            let message =
                format!("on {host} its paths and those of an older KIngress interleave; no order serves both");
            refused.insert(owners.0.max(owners.1), Remark::new("PathOrderConflict", message));
        }
    }
    refused.into_iter().collect()
}

fn band(part: &Part) -> RangeInclusive<u16> {
    if matches!(part.role, Role::Grpc | Role::GrpcHttp) {
        1..=99
    } else if part.rules.iter().any(|rule| rule.host.is_none() || rule.hosts().any(|host| host.starts_with('*'))) {
        WILDCARDS
    } else {
        100..=899
    }
}

fn part_name(owner: &str, part: &Part, two_private: bool, moved: bool) -> String {
    let suffix = match (part.role, part.side) {
        (Role::Primary, _) => "",
        (Role::Grpc, _) => "--grpc",
        (Role::GrpcHttp, _) => "--grpc-http",
        (Role::Redirect, _) => "--redirect",
        (Role::Private, Side::Internet) if two_private => "--private-http",
        (Role::Private, _) => "--private",
    };
    let side = if moved { format!("--{}", part.side.word()) } else { String::new() };
    let name = format!("{owner}{suffix}{side}");
    if name.len() <= LONGEST_NAME {
        return name;
    }
    let kept: String = name.chars().take(80).collect();
    format!("{}-{}", kept.trim_end_matches(['.', '-']), digest(name.as_bytes(), 12))
}

/// Whether an Ingress was made for this KIngress.
pub fn is_ours(object: &Ingress, ingress: &KIngress) -> bool {
    let mut owners = object.metadata.owner_references.iter().flatten();
    // Another controller's Ingress may have the same owner.
    is_made_here(object)
        && object.metadata.namespace == ingress.metadata.namespace
        && owners.any(|owner| {
            owner.controller == Some(true)
                && owner.kind == "Ingress"
                && Some(&owner.name) == ingress.metadata.name.as_ref()
                && owner.api_version.starts_with("networking.internal.knative.dev/")
        })
}

/// Its number among the Ingresses of a load balancer, where it says one.
pub fn order_of(object: &Ingress) -> Option<u16> {
    object.metadata.annotations.as_ref()?.get(&format!("{PREFIX}order"))?.parse().ok()
}

/// The Ingress, its annotations read back as strictly as the load balancer's controller does at its strictest.
fn object(placed: &Placed, owner: &KIngress, settings: &Settings) -> Result<Ingress, Remark> {
    let part = &placed.part;
    let meta = &owner.metadata;
    let owner_name = meta.name.clone().unwrap_or_default();
    let mut labels: BTreeMap<String, String> = [ROUTE_LABEL, ROUTE_NAMESPACE_LABEL, SERVICE_LABEL]
        .into_iter()
        .filter_map(|key| Some((key.to_owned(), meta.labels.as_ref()?.get(key)?.clone())))
        .collect();
    for key in ["knative.aliyun.com/ingress", "networking.internal.knative.dev/ingress"] {
        labels.insert(key.to_owned(), label_value(&owner_name));
    }
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());

    let mut annotations = annotations(part, placed.order, settings);
    let bytes = serde_json::to_vec(&part.rules).expect("rules are JSON");
    annotations.insert("knative-alb/plan-hash".to_owned(), digest(&bytes, 16));
    annotations.insert("knative-alb/kingress-generation".to_owned(), meta.generation.unwrap_or(0).to_string());
    for rule in &part.rules {
        let empty = "[]".to_owned();
        let conditions = annotations.get(&format!("{PREFIX}conditions.{}", rule.name)).unwrap_or(&empty);
        let actions = annotations.get(&format!("{PREFIX}actions.{}", rule.name)).unwrap_or(&empty);
        if Rule::reparse(conditions, actions).ok().as_ref() != Some(&(rule.conditions.clone(), rule.actions.clone())) {
            let message = format!("the annotations of the rule {} cannot be read back", rule.name);
            return Err(Remark::new("Unreadable", message));
        }
    }
    let size: usize = annotations.iter().map(|(key, value)| key.len() + value.len()).sum();
    if size > MAX_ANNOTATIONS {
        let message = format!("{size} bytes of annotations are needed and {MAX_ANNOTATIONS} are the most");
        return Err(Remark::new("AnnotationTooLarge", message));
    }
    let tls = part
        .tls
        .iter()
        .map(|tls| IngressTLS { hosts: Some(tls.hosts.clone()), secret_name: Some(tls.secret_name.clone()) });
    let tls: Vec<IngressTLS> = tls.collect();
    Ok(Ingress {
        metadata: ObjectMeta {
            name: Some(placed.name.clone()),
            namespace: meta.namespace.clone(),
            labels: Some(labels),
            annotations: Some(annotations),
            // One that was derived and is in no cluster has no uid, and so owns nothing yet.
            owner_references: meta.uid.as_ref().map(|uid| {
                vec![OwnerReference {
                    api_version: "networking.internal.knative.dev/v1alpha1".to_owned(),
                    kind: "Ingress".to_owned(),
                    name: owner_name,
                    uid: uid.clone(),
                    controller: Some(true),
                    block_owner_deletion: Some(true),
                }]
            }),
            ..ObjectMeta::default()
        },
        spec: Some(IngressSpec {
            ingress_class_name: Some(part.side.class_name()),
            rules: Some(part.rules.iter().map(ingress_rule).collect()),
            tls: (!tls.is_empty()).then_some(tls),
            ..IngressSpec::default()
        }),
        status: None,
    })
}

fn annotations(part: &Part, order: u16, settings: &Settings) -> BTreeMap<String, String> {
    let listen = match (part.http, part.https) {
        (true, true) => r#"[{"HTTP":80},{"HTTPS":443}]"#,
        (_, false) => r#"[{"HTTP":80}]"#,
        (false, true) => r#"[{"HTTPS":443}]"#,
    };
    let mut all = BTreeMap::new();
    let mut put = |key: &str, value: String| all.insert(format!("{PREFIX}{key}"), value);
    put("listen-ports", listen.to_owned());
    put("order", order.to_string());
    if part.grpc {
        put("backend-protocol", "grpc".to_owned());
    }
    if part.redirect {
        put("ssl-redirect", "true".to_owned());
    }
    let servers =
        part.rules.iter().flat_map(|rule| &rule.actions).any(|action| matches!(action, Action::ForwardGroup { .. }));
    if servers && settings.tcp_health_checks {
        put("healthcheck-enabled", "true".to_owned());
        put("healthcheck-protocol", "TCP".to_owned());
    }
    if let Some(seconds) = settings.connection_drain.filter(|_| servers) {
        put("connection-drain-enabled", "true".to_owned());
        put("connection-drain-timeout", seconds.to_string());
    }
    for rule in &part.rules {
        if !rule.conditions.is_empty() {
            let text = serde_json::to_string(&rule.conditions).expect("conditions are JSON");
            put(&format!("conditions.{}", rule.name), text);
        }
        put(&format!("actions.{}", rule.name), serde_json::to_string(&rule.actions).expect("actions are JSON"));
    }
    all
}

fn ingress_rule(rule: &Rule) -> IngressRule {
    let (path, path_type) = match rule.path.as_str() {
        "/" => ("/".to_owned(), "Prefix"),
        // Knative's prefix is one of characters, that of Kubernetes one of segments.
        path => (format!("{path}*"), "ImplementationSpecific"),
    };
    let port = ServiceBackendPort { name: Some("use-annotation".to_owned()), number: None };
    let service = Some(IngressServiceBackend { name: rule.name.clone(), port: Some(port) });
    let backend = IngressBackend { service, resource: None };
    let path = HTTPIngressPath { path: Some(path), path_type: path_type.to_owned(), backend };
    IngressRule { host: rule.host.clone(), http: Some(HTTPIngressRuleValue { paths: vec![path] }) }
}

fn label_value(text: &str) -> String {
    if text.len() <= 63 {
        return text.to_owned();
    }
    let kept: String = text.chars().take(50).collect();
    format!("{kept}-{}", digest(text.as_bytes(), 12))
}

/// The answer for hosts nobody serves. Without it that would look like a service without servers.
fn nobody(side: Side, https: bool, order: u16) -> Ingress {
    let actions = vec![fixed("404", "no such route")];
    let rule = Rule { name: "nobody".to_owned(), host: None, path: "/".to_owned(), conditions: Vec::new(), actions };
    let (http, grpc, redirect, tls) = (true, false, false, Vec::new());
    let part = Part { role: Role::Primary, side, rules: vec![rule], http, https, grpc, redirect, tls };
    let mut object = bare(SYSTEM_NAMESPACE, &nobody_name(side), order, &part, &Settings::default());
    object.metadata.labels = Some([(MANAGED_BY.to_owned(), MANAGER.to_owned())].into());
    object
}

/// The Ingress of rules that are no KIngress's.
pub fn bare(namespace: &str, name: &str, order: u16, part: &Part, settings: &Settings) -> Ingress {
    Ingress {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(namespace.to_owned()),
            annotations: Some(annotations(part, order, settings)),
            ..ObjectMeta::default()
        },
        spec: Some(IngressSpec {
            ingress_class_name: Some(part.side.class_name()),
            rules: Some(part.rules.iter().map(ingress_rule).collect()),
            ..IngressSpec::default()
        }),
        status: None,
    }
}

fn class(side: Side, settings: &Settings) -> IngressClass {
    IngressClass {
        metadata: ObjectMeta {
            name: Some(side.class_name()),
            labels: Some([(MANAGED_BY.to_owned(), MANAGER.to_owned())].into()),
            ..ObjectMeta::default()
        },
        spec: Some(IngressClassSpec {
            controller: Some("ingress.k8s.alibabacloud/alb".to_owned()),
            parameters: Some(IngressClassParametersReference {
                api_group: Some("alibabacloud.com".to_owned()),
                kind: "AlbConfig".to_owned(),
                name: settings.balancer(side),
                ..IngressClassParametersReference::default()
            }),
        }),
    }
}

fn load_balancer(side: Side, https: bool, settings: &Settings, known: Option<&AlbConfig>) -> Option<AlbConfig> {
    let name = settings.balancer(side);
    // One of our name that somebody else made is theirs, too.
    let foreign = settings.existing(side).is_some() || known.is_some_and(|known| !is_labelled(&known.metadata));
    let listener = |port, protocol: &str| Listener {
        port,
        protocol: protocol.to_owned(),
        request_timeout: Some(settings.request_timeout),
        idle_timeout: Some(settings.idle_timeout),
        more: BTreeMap::new(),
    };
    // Listeners are added and never taken away, and those there are stay as they are. Ours have the times that are set.
    let mut listeners = known.map(|known| known.spec.listeners.clone()).unwrap_or_default();
    for (port, protocol) in [(80, "HTTP"), (443, "HTTPS")] {
        let wanted = listener(port, protocol);
        if let Some(found) = listeners.iter_mut().find(|listener| listener.port == port) {
            if !foreign {
                (found.request_timeout, found.idle_timeout) = (wanted.request_timeout, wanted.idle_timeout);
            }
        } else if port == 80 || https {
            listeners.push(wanted);
        }
    }
    let config = if foreign {
        let missing = known.is_some_and(|known| known.spec.listeners != listeners);
        if !settings.manage_listeners || !missing {
            return None;
        }
        None
    } else {
        let zone_mappings = match settings.vswitches.as_ref()? {
            ids if ids.len() > 1 => ids.iter().map(|id| ZoneMapping { v_switch_id: id.clone() }).collect(),
            // One there is stays where it is.
            _ => known?.spec.config.as_ref()?.zone_mappings.clone(),
        };
        Some(LoadBalancer {
            name: name.clone(),
            address_type: if side == Side::Internet { "Internet" } else { "Intranet" }.to_owned(),
            address_allocated_mode: "Dynamic".to_owned(),
            edition: settings.edition.clone(),
            zone_mappings,
            billing_config: Billing { pay_type: "PostPay".to_owned() },
            tags: settings.cluster_id.iter().map(|id| Tag { key: MANAGER.to_owned(), value: id.clone() }).collect(),
        })
    };
    let mut object = AlbConfig::new(&name, AlbConfigSpec { config, listeners });
    if !foreign {
        object.metadata.labels = Some([(MANAGED_BY.to_owned(), MANAGER.to_owned())].into());
    }
    Some(object)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::conditions::INGRESS;
    use crate::units::Timestamp;

    #[test]
    fn each_step_is_told_in_the_conditions() {
        use Status::{False, True, Unknown};
        for (progress, configured, balancer, ready) in [
            (Progress::New, Unknown, Unknown, Unknown),
            (Progress::Refused(Remark::new("InvalidPath", "a path")), False, Unknown, False),
            (Progress::WaitingForServices("a".to_owned()), Unknown, Unknown, Unknown),
            (Progress::WaitingForBalancer, Unknown, Unknown, Unknown),
            (Progress::WaitingForAddress, True, Unknown, Unknown),
            (Progress::Probing, True, Unknown, Unknown),
            (Progress::ProgrammingFailed("quota".to_owned()), True, False, False),
            (Progress::Quota("rules".to_owned()), True, False, False),
            (Progress::ProbeTimeout, True, False, False),
            (Progress::Ready, True, True, True),
        ] {
            let mut list = Vec::new();
            let mut conditions = Conditions::of(&INGRESS, &mut list, Timestamp::from_nanos(0));
            progress.mark(&mut conditions);
            let found = ["NetworkConfigured", "LoadBalancerReady", READY].map(|type_| conditions.status(type_));
            assert_eq!(found, [Some(configured), Some(balancer), Some(ready)], "{progress:?}");
        }
    }
}
