//! All KIngresses of the class to objects: who has a host, what there is room for, in which order, and what is written.
//!
//! A KIngress that cannot be expressed is left out with its reason; the others are not touched by it.

use crate::api::alb_config::{AlbConfig, AlbConfigSpec, Billing, Listener, LoadBalancer, ZoneMapping};
use crate::api::conditions::Conditions;
use crate::api::ingress::Ingress as KIngress;
use crate::api::names::{ROUTE_LABEL, ROUTE_NAMESPACE_LABEL, SERVICE_LABEL, SYSTEM_NAMESPACE};
use crate::routing::model::{MAX_ANNOTATIONS, Remark, Rule, Settings, Side, digest};
use crate::routing::translate::{Context, Part, Role, fixed, is_acme, translate};
use k8s_openapi::api::networking::v1::{
    HTTPIngressPath, HTTPIngressRuleValue, Ingress, IngressBackend, IngressClass, IngressClassParametersReference,
    IngressClassSpec, IngressRule, IngressServiceBackend, IngressSpec, IngressTLS, ServiceBackendPort,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

const PREFIX: &str = "alb.ingress.kubernetes.io/";
const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
const MANAGER: &str = "knative-alb";
/// The longest name of an Ingress; the cloud makes names of its own from it.
const LONGEST_NAME: usize = 100;
/// The order of the answer for hosts nobody serves: the last.
const LAST_ORDER: u16 = 1000;

/// What is to be written.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Plan {
    /// The Ingresses, by namespace and name.
    pub ingresses: Vec<Ingress>,
    /// The classes they are of.
    pub classes: Vec<IngressClass>,
    /// The load balancers of those; none where an existing one is used, or where it is not known in which zones.
    pub balancers: Vec<AlbConfig>,
    /// What became of each KIngress, the oldest first.
    pub outcomes: Vec<Outcome>,
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
    /// Revisions that must keep a pod.
    pub pinned: BTreeSet<String>,
}

/// How far a KIngress has come, for its status.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Progress {
    /// Its spec was not applied yet.
    New,
    /// It cannot be expressed; what was applied before stays.
    Refused(Remark),
    /// Applied; the load balancer has no address yet.
    WaitingForAddress,
    /// Applied; it is not seen yet that the load balancer follows.
    Probing,
    /// The load balancer's controller reports a failure.
    ProgrammingFailed(String),
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

/// Plans all KIngresses of the context. `existing` are the Ingresses there are: ours keep their order, those of others
/// keep theirs from us.
pub fn plan(context: &Context<'_>, existing: &[Ingress]) -> Plan {
    let mut ingresses: Vec<&KIngress> = context.ingresses.iter().collect();
    ingresses.sort_by_key(|ingress| {
        let meta = &ingress.metadata;
        // What does not exist yet is younger than all that does.
        let created = meta.creation_timestamp.as_ref().map(|time| time.0);
        (created.is_none(), created, meta.namespace.clone(), meta.name.clone())
    });
    let mut plan = Plan::default();
    let mut room = Room { orders: foreign_orders(existing), ..Room::default() };
    let mut placed: Vec<Placed> = Vec::new();
    for (owner, ingress) in ingresses.iter().enumerate() {
        let mut outcome = Outcome {
            namespace: ingress.metadata.namespace.clone().unwrap_or_default(),
            name: ingress.metadata.name.clone().unwrap_or_default(),
            refused: None,
            remarks: Vec::new(),
            pinned: BTreeSet::new(),
        };
        let admitted = translate(ingress, context).and_then(|translation| {
            let parts = room.admit(owner, ingress, translation.parts, context.settings, existing)?;
            Ok((parts, translation.remarks, translation.pinned))
        });
        match admitted {
            Ok((parts, remarks, pinned)) => {
                placed.extend(parts);
                (outcome.remarks, outcome.pinned) = (remarks, pinned);
            }
            Err(remark) => outcome.refused = Some(remark),
        }
        plan.outcomes.push(outcome);
    }
    for (owner, remark) in by_path_length(&mut placed) {
        plan.outcomes[owner].refused = Some(remark);
    }
    placed.retain(|placed| plan.outcomes[placed.owner].refused.is_none());

    let mut objects = Vec::new();
    for placed in &placed {
        match object(placed, ingresses[placed.owner]) {
            Ok(object) => objects.push((placed.owner, object)),
            Err(remark) => plan.outcomes[placed.owner].refused = Some(remark),
        }
    }
    objects.retain(|(owner, _)| plan.outcomes[*owner].refused.is_none());
    plan.ingresses = objects.into_iter().map(|(_, object)| object).collect();
    placed.retain(|placed| plan.outcomes[placed.owner].refused.is_none());
    for side in [Side::Internet, Side::Intranet] {
        let of_side = || placed.iter().filter(|placed| placed.part.side == side);
        if of_side().next().is_none() {
            continue;
        }
        let https = of_side().any(|placed| placed.part.https);
        plan.ingresses.push(nobody(side, https));
        plan.classes.push(class(side, context.settings));
        plan.balancers.extend(load_balancer(side, https, context.settings));
    }
    plan.ingresses.sort_by_key(|object| (object.metadata.namespace.clone(), object.metadata.name.clone()));
    plan
}

/// What is taken already.
#[derive(Default)]
struct Room {
    /// By host: the namespace that has it, and the paths in use.
    hosts: BTreeMap<(Side, String), (String, BTreeSet<String>)>,
    rules: BTreeMap<Side, usize>,
    secure: BTreeSet<Side>,
    orders: BTreeSet<u16>,
}

impl Room {
    fn admit(
        &mut self,
        owner: usize,
        ingress: &KIngress,
        parts: Vec<Part>,
        settings: &Settings,
        existing: &[Ingress],
    ) -> Result<Vec<Placed>, Remark> {
        let namespace = ingress.metadata.namespace.clone().unwrap_or_default();
        for part in &parts {
            for rule in &part.rules {
                for host in rule.hosts() {
                    let Some((by, paths)) = self.hosts.get(&(part.side, host.to_owned())) else { continue };
                    if *by != namespace {
                        let message = format!("the host {host} belongs to the namespace {by}, which had it before");
                        return Err(Remark::new("HostConflict", message));
                    }
                    if paths.contains(&rule.path) {
                        let message = format!("{host}{} is served by an older KIngress of the namespace", rule.path);
                        return Err(Remark::new("HostConflict", message));
                    }
                }
            }
        }
        let mut rules = self.rules.clone();
        for part in &parts {
            let used = rules.entry(part.side).or_insert(1);
            if part.https && !self.secure.contains(&part.side) {
                // The answer for hosts nobody serves stands on this listener too.
                *used += 1;
            }
            *used += part.rules.len() * (usize::from(part.http) + usize::from(part.https));
            if *used > settings.rule_budget {
                let message = format!(
                    "{used} rules are needed on the {} load balancer and alb-rule-budget is {}",
                    part.side.word(),
                    settings.rule_budget
                );
                return Err(Remark::new("RuleBudgetExceeded", message));
            }
        }
        let mut orders = self.orders.clone();
        let mut placed = Vec::new();
        let of = |side| parts.iter().any(|part| (part.role, part.side) == (Role::Private, side));
        let two_private = of(Side::Internet) && of(Side::Intranet);
        for part in parts {
            let name = part_name(ingress.metadata.name.as_deref().unwrap_or_default(), &part, two_private);
            let now = existing.iter().find(|object| {
                object.metadata.name.as_ref() == Some(&name) && object.metadata.namespace.as_ref() == Some(&namespace)
            });
            if let Some(now) = now
                && !is_ours(now, ingress)
            {
                let message = format!("there is an Ingress {namespace}/{name} that was not made for this KIngress");
                return Err(Remark::new("NotOwned", message));
            }
            let band = band(&part);
            let kept = now.and_then(order_of).filter(|order| band.contains(order) && !orders.contains(order));
            let order = kept.or_else(|| {
                let reserved: BTreeSet<u16> = existing.iter().filter_map(order_of).collect();
                band.clone().find(|order| !orders.contains(order) && !reserved.contains(order))
            });
            let Some(order) = order else {
                let message = format!("the orders {} to {} are all taken", band.start(), band.end());
                return Err(Remark::new("RuleBudgetExceeded", message));
            };
            orders.insert(order);
            placed.push(Placed { owner, name, part, order });
        }
        (self.rules, self.orders) = (rules, orders);
        for placed in &placed {
            if placed.part.https {
                self.secure.insert(placed.part.side);
            }
            for rule in &placed.part.rules {
                for host in rule.hosts() {
                    let taken = self.hosts.entry((placed.part.side, host.to_owned()));
                    taken.or_insert_with(|| (namespace.clone(), BTreeSet::new())).1.insert(rule.path.clone());
                }
            }
        }
        Ok(placed)
    }
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
        900..=999
    } else {
        100..=899
    }
}

fn part_name(owner: &str, part: &Part, two_private: bool) -> String {
    let suffix = match (part.role, part.side) {
        (Role::Primary, _) => "",
        (Role::Grpc, _) => "--grpc",
        (Role::GrpcHttp, _) => "--grpc-http",
        (Role::Private, Side::Internet) if two_private => "--private-http",
        (Role::Private, _) => "--private",
    };
    let name = format!("{owner}{suffix}");
    if name.len() <= LONGEST_NAME {
        return name;
    }
    let kept: String = name.chars().take(80).collect();
    format!("{}-{}", kept.trim_end_matches(['.', '-']), digest(name.as_bytes(), 12))
}

fn is_ours(object: &Ingress, ingress: &KIngress) -> bool {
    let mut owners = object.metadata.owner_references.iter().flatten();
    owners.any(|owner| {
        owner.controller == Some(true)
            && owner.kind == "Ingress"
            && Some(&owner.name) == ingress.metadata.name.as_ref()
            && owner.api_version.starts_with("networking.internal.knative.dev/")
    })
}

fn order_of(object: &Ingress) -> Option<u16> {
    object.metadata.annotations.as_ref()?.get(&format!("{PREFIX}order"))?.parse().ok()
}

fn foreign_orders(existing: &[Ingress]) -> BTreeSet<u16> {
    let is_ours = |object: &&Ingress| {
        object.metadata.labels.as_ref().and_then(|labels| labels.get(MANAGED_BY)).is_some_and(|by| by == MANAGER)
    };
    existing.iter().filter(|object| !is_ours(object)).filter_map(order_of).collect()
}

/// The Ingress, its annotations read back as strictly as the load balancer's controller does at its strictest.
fn object(placed: &Placed, owner: &KIngress) -> Result<Ingress, Remark> {
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

    let mut annotations = annotations(part, placed.order);
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

fn annotations(part: &Part, order: u16) -> BTreeMap<String, String> {
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
fn nobody(side: Side, https: bool) -> Ingress {
    let actions = vec![fixed("404", "no such route")];
    let rule = Rule { name: "nobody".to_owned(), host: None, path: "/".to_owned(), conditions: Vec::new(), actions };
    let (http, grpc, redirect, tls) = (true, false, false, Vec::new());
    let rules = vec![rule.clone()];
    let part = Part { role: Role::Primary, side, rules, http, https, grpc, redirect, tls };
    Ingress {
        metadata: ObjectMeta {
            name: Some(format!("knative-alb-default-{}", side.word())),
            namespace: Some(SYSTEM_NAMESPACE.to_owned()),
            labels: Some([(MANAGED_BY.to_owned(), MANAGER.to_owned())].into()),
            annotations: Some(annotations(&part, LAST_ORDER)),
            ..ObjectMeta::default()
        },
        spec: Some(IngressSpec {
            ingress_class_name: Some(side.class_name()),
            rules: Some(vec![ingress_rule(&rule)]),
            ..IngressSpec::default()
        }),
        status: None,
    }
}

fn balancer_name(side: Side, settings: &Settings) -> String {
    settings.existing(side).map_or_else(|| format!("knative-{}", side.word()), ToOwned::to_owned)
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
                name: balancer_name(side, settings),
                ..IngressClassParametersReference::default()
            }),
        }),
    }
}

fn load_balancer(side: Side, https: bool, settings: &Settings) -> Option<AlbConfig> {
    if settings.existing(side).is_some() {
        return None;
    }
    let vswitches = settings.vswitches.as_ref()?;
    let name = balancer_name(side, settings);
    let listener = |port, protocol: &str| Listener {
        port,
        protocol: protocol.to_owned(),
        request_timeout: settings.request_timeout,
        idle_timeout: settings.idle_timeout,
    };
    let mut listeners = vec![listener(80, "HTTP")];
    if https {
        listeners.push(listener(443, "HTTPS"));
    }
    let config = LoadBalancer {
        name: name.clone(),
        address_type: if side == Side::Internet { "Internet" } else { "Intranet" }.to_owned(),
        address_allocated_mode: "Dynamic".to_owned(),
        edition: settings.edition.clone(),
        zone_mappings: vswitches.iter().map(|id| ZoneMapping { v_switch_id: id.clone() }).collect(),
        billing_config: Billing { pay_type: "PostPay".to_owned() },
    };
    let mut object = AlbConfig::new(&name, AlbConfigSpec { config, listeners });
    object.metadata.labels = Some([(MANAGED_BY.to_owned(), MANAGER.to_owned())].into());
    Some(object)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::conditions::{INGRESS, READY, Status};
    use crate::units::Timestamp;

    #[test]
    fn each_step_is_told_in_the_conditions() {
        use Status::{False, True, Unknown};
        for (progress, configured, balancer, ready) in [
            (Progress::New, Unknown, Unknown, Unknown),
            (Progress::Refused(Remark::new("InvalidPath", "a path")), False, Unknown, False),
            (Progress::WaitingForAddress, True, Unknown, Unknown),
            (Progress::Probing, True, Unknown, Unknown),
            (Progress::ProgrammingFailed("quota".to_owned()), True, False, False),
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
