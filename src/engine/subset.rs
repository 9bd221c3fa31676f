//! The activators of a revision: how many, and which.

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
