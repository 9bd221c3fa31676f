//! A revision gets as many activators as can carry what its pods and its burst can take, and always the same ones as far
//! as possible.
//!
//! # Rule
//!
//! ```text
//! target burst capacity 0:  2
//! otherwise:                max(2, ceil((ready * total + max(0, target burst capacity)) / activator capacity))
//! ```
//!
//! `total` is the load one pod can carry and the activator capacity what one activator can, both in requests in flight.
//!
//! Which ones: each activator is ranked by a hash of the revision's key and its own name, and the first so many are
//! taken. One that leaves is replaced by the next in rank and no other moves; one that comes takes at most one place.
//!
//! # Example
//!
//! ```
//! use ebb::engine::subset::choose;
//!
//! let all = ["activator-a", "activator-b", "activator-c"];
//! let chosen = choose("default/hello-00001", &all, 2);
//! assert_eq!(chosen.len(), 2);
//! assert_eq!(choose("default/hello-00001", &chosen, 2), chosen); // who was not chosen may leave unnoticed
//! ```
//!
//! # Source
//!
//! Knative Serving, `pkg/reconciler/autoscaling/kpa/kpa.go`: `computeNumActivators`. The subset is chosen by the
//! controller of ServerlessServices, `pkg/reconciler/serverlessservice/serverlessservice.go`: `subsetEndpoints`.
//!
//! # Differences
//!
//! - The number saturates at 32 bits ([`Compat::saturate`]).
//! - Knative walks a hash ring to choose; ranking moves fewer. In a cluster Knative's own controller chooses, so the two
//!   need not agree.

use super::spec::Spec;
use crate::units::{self, Compat};

/// The fewest activators of a revision, so that one may go away.
const FEWEST: f64 = 2.0;

/// How many activators a revision with `ready` pods gets: enough to carry what its pods and its target burst capacity
/// can take together.
pub fn number_of_activators(spec: &Spec, ready: i32, compat: Compat) -> i32 {
    let burst = spec.target_burst_capacity;
    if burst == 0.0 {
        return compat.to_i32(FEWEST);
    }
    let mut load = f64::from(ready) * spec.total_value;
    if burst > 0.0 {
        load += burst;
    }
    compat.to_i32(units::max(FEWEST, (load / spec.activator_capacity).ceil()))
}

/// At most `number` of `activators` for the revision `key`, in the order they were given; all of them when there are
/// no more than that, or when `number` is 0 or less.
pub fn choose<'a>(key: &str, activators: &[&'a str], number: i32) -> Vec<&'a str> {
    let number = usize::try_from(number).unwrap_or(0);
    if number == 0 || activators.len() <= number {
        return activators.to_vec();
    }
    let mut ranked: Vec<_> =
        activators.iter().enumerate().map(|(index, &name)| (rank(key, name), name, index)).collect();
    ranked.sort_unstable_by(|a, b| b.cmp(a));
    ranked.truncate(number);
    ranked.sort_unstable_by_key(|&(_, _, index)| index);
    ranked.into_iter().map(|(_, name, _)| name).collect()
}

/// How strongly `name` is drawn to `key`: FNV-1a over both, then mixed so that names that differ in one digit lie far
/// apart.
fn rank(key: &str, name: &str) -> u64 {
    let bytes = key.bytes().chain([0]).chain(name.bytes());
    let mut hash =
        bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[test]
    fn how_many() {
        for (burst, total, capacity, ready, want) in [
            (0.0, 100.0, 100.0, 1000, 2),
            (211.0, 100.0, 100.0, 0, 3),   // 211 / 100
            (211.0, 100.0, 100.0, 10, 13), // (10 * 100 + 211) / 100
            (-1.0, 100.0, 100.0, 10, 10),
            (-1.0, 10.0, 100.0, 1, 2),
        ] {
            let spec = Spec {
                target_burst_capacity: burst,
                total_value: total,
                activator_capacity: capacity,
                ..Spec::default()
            };
            assert_eq!(number_of_activators(&spec, ready, Compat::STRICT), want, "{spec:?}");
            assert_eq!(number_of_activators(&spec, ready, Compat::IMPROVED), want, "{spec:?}");
        }
        let wide = Spec { total_value: 1e12, ..Spec::default() };
        assert_eq!(number_of_activators(&wide, 10, Compat::IMPROVED), i32::MAX);
        assert_eq!(number_of_activators(&wide, 10, Compat::STRICT), i32::MIN);
    }

    #[test]
    fn every_activator_gets_its_share() {
        let names: Vec<String> = (0..10).map(|number| format!("activator-6d8f-{number}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut share = BTreeMap::new();
        for revision in 0..1000 {
            for name in choose(&format!("default/hello-{revision:05}"), &names, 3) {
                *share.entry(name).or_insert(0) += 1;
            }
        }
        // 300 of 1000 each; six standard deviations are about 87.
        assert!(share.len() == 10 && share.values().all(|times| (213..387).contains(times)), "{share:?}");
    }

    fn names() -> impl Strategy<Value = Vec<String>> {
        proptest::collection::btree_set("[a-z0-9-]{1,12}", 1..20).prop_map(|names| names.into_iter().collect())
    }

    proptest! {
        #[test]
        fn the_subset_moves_little(key in "[a-z]{1,8}/[a-z0-9-]{1,20}", names in names(), number in 0_i32..22, leaver: prop::sample::Index) {
            let all: Vec<&str> = names.iter().map(String::as_str).collect();
            let chosen = choose(&key, &all, number);
            let size = usize::try_from(number).expect("not negative");
            prop_assert_eq!(chosen.len(), if size == 0 { all.len() } else { size.min(all.len()) });
            prop_assert!(chosen.is_sorted(), "in the order they were given");

            let leaver = *leaver.get(&all);
            let rest: Vec<&str> = all.iter().copied().filter(|&name| name != leaver).collect();
            let stayed = chosen.iter().filter(|&&name| name != leaver);
            let then = choose(&key, &rest, number);
            prop_assert!(stayed.clone().all(|name| then.contains(name)), "only the place that was left is filled");

            if size > 0 {
                let wider = choose(&key, &all, number + 1);
                prop_assert!(chosen.iter().all(|name| wider.contains(name)), "one more displaces nobody");
            }
            let mut turned = all.clone();
            turned.reverse();
            let mut again = choose(&key, &turned, number);
            again.reverse();
            prop_assert_eq!(again, chosen, "the order they are listed in does not matter");
        }
    }
}
