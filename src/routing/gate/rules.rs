//! Which rules may be in force, at each address: those of the latest plan, and those of earlier ones until the load
//! balancer was seen to follow a later one there.
//!
//! Each plan of an Ingress has a number that grows, and its rules answer a probe with its version. A rule that was taken
//! out of the plan leads on until every address was seen to have a later plan (`live` looks); an address that never does
//! keeps it. A version that an earlier plan had too, which may still be in force, shows that plan and no later one: whoever
//! changes something and back again has to wait.
//!
//! Pods do not say whose they are, neither do Knative's activators, and nobody says by which server group. So an answer counts
//! only where every plan that may be in force at the address leads the question to the group that is asked about, or nowhere
//! ([`Rules::is_certain`]): a revision has several groups, each of which is as late as it likes.

use super::Target;
use crate::routing::model::{Condition, Rule, ServerGroup};
use crate::routing::translate::groups_of_rule;
use crate::units::RevisionKey;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

/// Plans remembered at most. With more under way than that the oldest are taken for one.
const MOST_PLANS: usize = 32;

/// A rule of a plan, and where it leads.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Leads {
    /// To this revision.
    pub revision: RevisionKey,
    /// The rule, with what it says: a changed rule has another name.
    pub rule: Arc<str>,
    /// The server group.
    pub group: Arc<str>,
    /// What it is asked by.
    pub ask: Ask,
}

/// A request that a rule takes, with whatever value its conditions leave open.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Ask {
    /// The host.
    pub host: String,
    /// The path.
    pub path: String,
    /// Headers the rule asks for, cookies among them.
    pub headers: Vec<(String, String)>,
}

impl Ask {
    /// Of a rule.
    pub fn of(rule: &Rule) -> Self {
        let host = rule.hosts().next().unwrap_or("probe.invalid").replacen('*', "probe", 1);
        let (mut headers, mut cookies) = (Vec::new(), Vec::new());
        for condition in &rule.conditions {
            match condition {
                // Any of the values will do, and whatever stands for a wildcard.
                Condition::Header { config } => {
                    let value = config.values.first().map(|value| value.replace(['*', '?'], "x"));
                    headers.push((config.key.clone(), value.unwrap_or_default()));
                }
                Condition::Cookie { config } => {
                    cookies.extend(config.values.first().map(|cookie| format!("{}={}", cookie.key, cookie.value)));
                }
                Condition::Host { .. } => {}
            }
        }
        if !cookies.is_empty() {
            headers.push(("Cookie".to_owned(), cookies.join("; ")));
        }
        Self { host, path: format!("{}/healthz", rule.path.trim_end_matches('/')), headers }
    }

    /// Whether `rule` takes it, were it the first.
    pub fn is_taken_by(&self, rule: &Rule) -> bool {
        let header = |key: &str| self.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case(key));
        let cookies = || {
            let all = header("Cookie").map_or("", |(_, value)| value.as_str());
            all.split("; ").filter_map(|cookie| cookie.split_once('='))
        };
        let mut hosts = rule.hosts().peekable();
        (hosts.peek().is_none() || hosts.any(|host| is_like(&self.host, host)))
            && self.path.starts_with(&rule.path)
            && rule.conditions.iter().all(|condition| match condition {
                Condition::Host { .. } => true,
                Condition::Header { config } => header(&config.key)
                    .is_some_and(|(_, value)| config.values.iter().any(|wanted| is_like(value, wanted))),
                Condition::Cookie { config } => config.values.iter().any(|wanted| {
                    cookies().any(|(key, value)| key == wanted.key && value.eq_ignore_ascii_case(&wanted.value))
                }),
            })
    }
}

/// Whether `text` is what `pattern` says, in which `*` stands for any letters and `?` for one.
fn is_like(text: &str, pattern: &str) -> bool {
    let (text, pattern): (Vec<char>, Vec<char>) = (text.chars().collect(), pattern.chars().collect());
    // Where the last `*` was, and how far the text was when it was met.
    let (mut at, mut of, mut star) = (0, 0, None);
    while at < text.len() {
        match pattern.get(of) {
            Some('*') => {
                star = Some((of, at));
                of += 1;
            }
            Some(letter) if *letter == '?' || letter.eq_ignore_ascii_case(&text[at]) => (at, of) = (at + 1, of + 1),
            _ => {
                let Some((star_of, taken)) = star else { return false };
                star = Some((star_of, taken + 1));
                (at, of) = (taken + 1, star_of + 1);
            }
        }
    }
    pattern[of..].iter().all(|letter| *letter == '*')
}

/// A plan of one Ingress, or of several on one listener.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Larger than that of the plan before.
    pub number: u64,
    /// What its rules answer a probe with; `None` where they answer with nothing.
    pub version: Option<Arc<str>>,
    /// Its rules that lead to revisions.
    pub leads: BTreeSet<Leads>,
    /// All its rules in their order, with the name of their Ingress.
    pub rules: Vec<(Arc<str>, Vec<Rule>)>,
}

/// What names a server group of an Ingress: another Ingress has a group of its own for the same Service.
pub fn name_of(ingress: &str, group: &ServerGroup) -> String {
    format!("{ingress}/{}:{}", group.service_name, group.service_port)
}

/// The plans of one Ingress.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    plans: VecDeque<Plan>,
    /// The plan that stands for older ones too, of which is not known any more what they answered.
    blurred: Option<u64>,
    /// The plan each has, or had; 0 where none was seen.
    addresses: BTreeMap<SocketAddr, u64>,
}

impl Rules {
    /// A plan is about to be published. Numbers grow; one that is not larger than the latest is not taken.
    pub fn publish(&mut self, plan: Plan) {
        if self.plans.back().is_some_and(|latest| plan.number <= latest.number) {
            return;
        }
        self.plans.push_back(plan);
        if self.plans.len() > MOST_PLANS
            && let Some(oldest) = self.plans.pop_front()
            && let Some(next) = self.plans.front_mut()
        {
            next.leads.extend(oldest.leads);
            next.rules.extend(oldest.rules);
            self.blurred = Some(next.number);
        }
    }

    /// The addresses the load balancer has. One that is new may show any plan.
    pub fn set_addresses(&mut self, addresses: &BTreeSet<SocketAddr>) {
        self.addresses.retain(|address, _| addresses.contains(address));
        for address in addresses {
            self.addresses.entry(*address).or_default();
        }
    }

    /// Every address is past the plans before this one.
    pub fn pass(&mut self, plan: u64) {
        for shown in self.addresses.values_mut() {
            *shown = plan.max(*shown);
        }
        let passed = self.addresses.values().min().copied().unwrap_or(0);
        while self.plans.len() > 1 && self.plans[0].number < passed {
            self.plans.pop_front();
        }
        // Nobody is left who could have another.
        if self.addresses.is_empty() {
            self.plans.retain(|of| plan <= of.number);
        }
    }

    /// Whether an address that shows the version of this plan has it, and not an earlier one of the same version.
    pub fn tells_apart(&self, plan: u64) -> bool {
        let version = self.plans.iter().find(|of| of.number == plan).and_then(|of| of.version.as_ref());
        let is_alike = |of: &Plan| of.version.as_ref() == version || self.blurred == Some(of.number);
        version.is_some() && !self.plans.iter().any(|of| of.number < plan && is_alike(of))
    }

    /// Whether an answer by this way is of the group it is to ask about, whatever plan is in force at the address: all that may
    /// be lead the question there alone, or nowhere.
    pub fn is_certain(&self, target: &Target) -> bool {
        let Some(shown) = self.addresses.get(&target.address) else { return false };
        let leads = self.plans.iter().flat_map(|plan| &plan.leads).find(|leads| leads.rule == target.rule);
        let Some(Leads { ask, .. }) = leads else { return false };
        self.plans.iter().filter(|plan| *shown <= plan.number).all(|plan| {
            plan.rules.iter().all(|(ingress, rules)| {
                let first = rules.iter().find(|rule| ask.is_taken_by(rule));
                let mut groups = first.into_iter().flat_map(groups_of_rule).filter(|group| group.weight > 0);
                groups.all(|group| name_of(ingress, group) == *target.group)
            })
        })
    }

    /// Every revision a rule leads to, or may.
    pub fn revisions(&self) -> impl Iterator<Item = &RevisionKey> {
        self.plans.iter().flat_map(|plan| &plan.leads).map(|leads| &leads.revision)
    }

    /// Every rule that is in force, or may be.
    pub fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.plans.iter().flat_map(|plan| &plan.leads).map(|leads| &leads.rule)
    }

    /// Whether a rule of a plan up to this one leads to the revision, or may.
    pub fn routes(&self, revision: &RevisionKey, up_to: u64) -> bool {
        let mut plans = self.plans.iter().filter(|plan| plan.number <= up_to);
        plans.any(|plan| plan.leads.iter().any(|leads| leads.revision == *revision))
    }

    /// Every way that leads to the revision, or may.
    pub fn targets(&self, revision: &RevisionKey) -> BTreeSet<Target> {
        let mut targets = BTreeSet::new();
        for (address, shown) in &self.addresses {
            for plan in self.plans.iter().filter(|plan| *shown <= plan.number) {
                for leads in plan.leads.iter().filter(|leads| leads.revision == *revision) {
                    let (rule, group) = (Arc::clone(&leads.rule), Arc::clone(&leads.group));
                    targets.insert(Target { address: *address, rule, group });
                }
            }
        }
        targets
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::translate::revision_of_service;
    use serde_json::json;

    const ADDRESSES: [&str; 2] = ["127.0.0.1:80", "127.0.0.2:80"];

    fn address(number: usize) -> SocketAddr {
        ADDRESSES[number].parse().expect("an address")
    }

    fn rule(service: &str, select: Option<&str>) -> Rule {
        let conditions = select.map(|value| {
            json!([{"type": "Header", "headerConfig": {"key": "K-Alb-Select", "values": [value]}}]).to_string()
        });
        let actions = json!([{"type": "ForwardGroup", "ForwardConfig": {"ServerGroups":
            [{"ServiceName": service, "ServicePort": 80, "Weight": 100}]}}]);
        let (conditions, actions) =
            Rule::reparse(&conditions.unwrap_or("[]".to_owned()), &actions.to_string()).expect("a rule");
        let (name, host, path) = (service.to_owned(), Some("web.example.com".to_owned()), "/".to_owned());
        Rule { name, host, path, conditions, actions }
    }

    fn plan(number: u64, version: &str, rules: &[Rule]) -> Plan {
        let leads = rules.iter().map(|rule| {
            let service = &groups_of_rule(rule).next().expect("a group").service_name;
            Leads {
                revision: RevisionKey::new("default", revision_of_service(service)),
                rule: format!("{} {:?}", rule.name, rule.conditions).into(),
                group: format!("web/{service}:80").into(),
                ask: Ask::of(rule),
            }
        });
        Plan {
            number,
            version: Some(version.into()),
            leads: leads.collect(),
            rules: vec![("web".into(), rules.to_vec())],
        }
    }

    fn rules() -> Rules {
        let mut rules = Rules::default();
        rules.set_addresses(&[address(0), address(1)].into());
        rules
    }

    #[test]
    fn a_rule_taken_out_leads_on_until_every_address_was_seen_past_it() {
        let (one, two) = (RevisionKey::new("default", "one"), RevisionKey::new("default", "two"));
        let mut rules = rules();
        rules.publish(plan(1, "a", &[rule("one", None)]));
        assert_eq!(rules.targets(&one).len(), 2);
        rules.pass(1);
        rules.publish(plan(2, "b", &[rule("two", None)]));
        assert!(!rules.routes(&two, 1) && rules.routes(&two, 2));
        assert_eq!((rules.targets(&one).len(), rules.targets(&two).len()), (2, 2));
        // An address that comes may have any plan that is not passed by all.
        rules.set_addresses(&[address(0)].into());
        rules.set_addresses(&[address(0), address(1)].into());
        assert_eq!((rules.targets(&one).len(), rules.routes(&one, 2)), (2, true));
        rules.pass(2);
        assert_eq!((rules.targets(&one).len(), rules.routes(&one, 2), rules.targets(&two).len()), (0, false, 2));
    }

    #[test]
    fn who_changes_back_cannot_tell_before_from_after() {
        let mut rules = rules();
        rules.publish(plan(1, "a", &[rule("one", None)]));
        rules.pass(1);
        rules.publish(plan(2, "b", &[rule("two", None)]));
        rules.publish(plan(3, "a", &[rule("one", None)]));
        assert!(!rules.tells_apart(3) && rules.tells_apart(2), "the plan between may still come");
        // Seen between, there is no doubt afterwards.
        rules.pass(2);
        assert!(rules.tells_apart(3));
    }

    #[test]
    fn an_answer_counts_where_no_plan_leads_the_question_to_somebody_else() {
        let (one, two) = (RevisionKey::new("default", "one"), RevisionKey::new("default", "two"));
        let mut rules = rules();
        let select = |name: &str| rule(&format!("{name}-alb"), Some(name));
        rules.publish(plan(1, "a", &[select("one"), rule("one-alb", None)]));
        rules.pass(1);
        let certain = |rules: &Rules, revision: &RevisionKey| {
            let all: BTreeSet<bool> = rules.targets(revision).iter().map(|target| rules.is_certain(target)).collect();
            all.into_iter().collect::<Vec<_>>()
        };
        assert_eq!(certain(&rules, &one), [true]);
        // Its own rule selects the second, once it is in force; before, the rule for everybody takes the question.
        rules.publish(plan(2, "b", &[select("one"), select("two"), rule("one-alb", None)]));
        assert_eq!((certain(&rules, &one), certain(&rules, &two)), (vec![true], vec![false]));
        rules.pass(2);
        assert_eq!((certain(&rules, &one), certain(&rules, &two)), (vec![true], vec![true]));
        // To the same revision by another of its Services: who answers may do so by either.
        rules.publish(plan(3, "c", &[rule("one", None)]));
        assert_eq!(certain(&rules, &one), [false]);
        rules.pass(3);
        assert_eq!(certain(&rules, &one), [true]);
    }

    #[test]
    fn patterns_are_those_of_the_load_balancer() {
        for (text, pattern, like) in [
            ("a.example.com", "*.example.com", true),
            ("example.com", "*.example.com", false),
            ("abc", "a?c", true),
            ("abc", "a?", false),
            ("abcabd", "*ab?", true),
            ("", "*", true),
            ("x", "", false),
        ] {
            assert_eq!(is_like(text, pattern), like, "{text} {pattern}");
        }
    }
}
