//! Which rules may be in force, at each address: those of the latest plan, and those of earlier ones until the load
//! balancer was seen to follow a later one there.
//!
//! Each plan of an Ingress has a number that grows, and its rules answer a probe with it. A rule that was taken out of the
//! plan leads on until an address has shown a later plan, three times in a row; an address that never does keeps it.

use super::Target;
use crate::units::RevisionKey;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

/// Answers in a row that show which plan is in force.
const IN_A_ROW: u32 = 3;
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
}

/// The plans of one Ingress.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    plans: VecDeque<(u64, BTreeSet<Leads>)>,
    addresses: BTreeMap<SocketAddr, Shown>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Shown {
    /// The plan that is in force, or was.
    plan: u64,
    row: (u64, u32),
}

impl Rules {
    /// A plan is about to be published. Numbers grow; one that is not larger than the latest is not taken.
    pub fn publish(&mut self, number: u64, leads: BTreeSet<Leads>) {
        if self.plans.back().is_some_and(|(latest, _)| number <= *latest) {
            return;
        }
        self.plans.push_back((number, leads));
        if self.plans.len() > MOST_PLANS
            && let Some((_, oldest)) = self.plans.pop_front()
            && let Some((_, next)) = self.plans.front_mut()
        {
            next.extend(oldest);
        }
    }

    /// The addresses the load balancer has. One that is new may show any plan.
    pub fn set_addresses(&mut self, addresses: &BTreeSet<SocketAddr>) {
        self.addresses.retain(|address, _| addresses.contains(address));
        for address in addresses {
            self.addresses.entry(*address).or_default();
        }
    }

    /// An address answered with a plan's number, or with nothing to tell it by.
    pub fn show(&mut self, address: SocketAddr, plan: Option<u64>) {
        let Some(shown) = self.addresses.get_mut(&address) else { return };
        let Some(plan) = plan else {
            shown.row.1 = 0;
            return;
        };
        shown.row = if shown.row.0 == plan { (plan, shown.row.1.saturating_add(1)) } else { (plan, 1) };
        if IN_A_ROW <= shown.row.1 {
            shown.plan = shown.plan.max(plan);
        }
        let passed = self.addresses.values().map(|shown| shown.plan).min().unwrap_or(0);
        while self.plans.len() > 1 && self.plans[0].0 < passed {
            self.plans.pop_front();
        }
    }

    /// Every address has shown a plan, in so many answers.
    pub fn show_everywhere(&mut self, plan: u64, answers: usize) {
        let addresses: Vec<SocketAddr> = self.addresses.keys().copied().collect();
        for address in addresses {
            (0..answers).for_each(|_| self.show(address, Some(plan)));
        }
        // Nobody is left who could have another.
        if self.addresses.is_empty() {
            self.plans.retain(|(number, _)| plan <= *number);
        }
    }

    /// Every revision a rule leads to, or may.
    pub fn revisions(&self) -> impl Iterator<Item = &RevisionKey> {
        self.plans.iter().flat_map(|(_, leads)| leads).map(|leads| &leads.revision)
    }

    /// Every rule that is in force, or may be.
    pub fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.plans.iter().flat_map(|(_, leads)| leads).map(|leads| &leads.rule)
    }

    /// The plan that every address has shown.
    pub fn in_force(&self) -> Option<u64> {
        self.addresses.values().map(|shown| shown.plan).min().filter(|plan| *plan > 0)
    }

    /// Whether every address has shown the latest plan.
    pub fn is_settled(&self) -> bool {
        self.plans.back().map(|(number, _)| *number) == self.in_force()
    }

    /// Whether a rule leads to the revision, or may.
    pub fn routes(&self, revision: &RevisionKey) -> bool {
        self.plans.iter().any(|(_, leads)| leads.iter().any(|leads| leads.revision == *revision))
    }

    /// Every way that leads to the revision, or may.
    pub fn targets(&self, revision: &RevisionKey) -> BTreeSet<Target> {
        let mut targets = BTreeSet::new();
        for (address, shown) in &self.addresses {
            for (_, leads) in self.plans.iter().filter(|(number, _)| shown.plan <= *number) {
                for leads in leads.iter().filter(|leads| leads.revision == *revision) {
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

    #[test]
    fn a_rule_taken_out_leads_on_until_each_address_was_seen_past_it() {
        let (one, two) = (RevisionKey::new("default", "one"), RevisionKey::new("default", "two"));
        let leads = |revision: &RevisionKey| {
            BTreeSet::from([Leads { revision: revision.clone(), rule: revision.name().into(), group: "web".into() }])
        };
        let addresses = [SocketAddr::from(([127, 0, 0, 1], 80)), SocketAddr::from(([127, 0, 0, 2], 80))];
        let mut rules = Rules::default();
        rules.set_addresses(&addresses.into());
        rules.publish(1, leads(&one));
        assert_eq!((rules.targets(&one).len(), rules.in_force()), (2, None));
        for address in addresses {
            (0..3).for_each(|_| rules.show(address, Some(1)));
        }
        assert!(rules.is_settled());
        rules.publish(2, leads(&two));
        // An answer that tells nothing breaks the row.
        rules.show(addresses[0], Some(2));
        rules.show(addresses[0], Some(2));
        rules.show(addresses[0], None);
        assert_eq!((rules.targets(&one).len(), rules.targets(&two).len()), (2, 2));
        (0..3).for_each(|_| rules.show(addresses[0], Some(2)));
        assert_eq!((rules.targets(&one).len(), rules.routes(&one)), (1, true), "one address may still use it");
        (0..3).for_each(|_| rules.show(addresses[1], Some(2)));
        assert_eq!((rules.targets(&one).len(), rules.routes(&one), rules.is_settled()), (0, false, true));
    }
}
