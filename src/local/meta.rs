//! Names, labels and owner references that the local cluster's objects share.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Resource;
use std::collections::BTreeMap;

/// The longest name Kubernetes takes for a Service or a label value.
const LONGEST_NAME: usize = 63;

/// Labels or annotations.
pub(super) type Words = BTreeMap<String, String>;

/// The one owner reference of an object that lives and dies with `owner`.
pub(super) fn controlled_by<K: Resource<DynamicType = ()>>(owner: &K) -> Vec<OwnerReference> {
    let meta = owner.meta();
    vec![OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: meta.name.clone().unwrap_or_default(),
        uid: meta.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }]
}

/// Whether `child` lives and dies with the object of `owner`.
pub(super) fn is_controlled_by(child: &ObjectMeta, owner: &ObjectMeta) -> bool {
    controller_of(child).is_some_and(|reference| Some(&reference.uid) == owner.uid.as_ref())
}

/// The reference to the owner an object lives and dies with.
pub(super) fn controller_of(child: &ObjectMeta) -> Option<&OwnerReference> {
    child.owner_references.iter().flatten().find(|reference| reference.controller == Some(true))
}

/// The name of what belongs to `parent`: the name with a suffix, or, where Kubernetes does not take one that long, its
/// beginning, a hash of all of it and the suffix.
pub(super) fn child_name(parent: &str, suffix: &str) -> String {
    if parent.len() + suffix.len() <= LONGEST_NAME {
        return format!("{parent}{suffix}");
    }
    let hash = format!("{:016x}", fnv(parent.as_bytes()));
    let kept = LONGEST_NAME.saturating_sub(suffix.len() + hash.len());
    format!("{}{hash}{suffix}", parent.get(..kept).unwrap_or_default())
}

/// The value of a label; empty when there is none.
pub(super) fn label<'a>(meta: &'a ObjectMeta, key: &str) -> &'a str {
    meta.labels.as_ref().and_then(|labels| labels.get(key)).map_or("", String::as_str)
}

/// The value of an annotation; empty when there is none.
pub(super) fn annotation<'a>(meta: &'a ObjectMeta, key: &str) -> &'a str {
    meta.annotations.as_ref().and_then(|annotations| annotations.get(key)).map_or("", String::as_str)
}

/// The name of an object; empty when it has none yet.
pub(super) fn name(meta: &ObjectMeta) -> &str {
    meta.name.as_deref().unwrap_or_default()
}

/// The namespace of an object; empty when it has none.
pub(super) fn namespace(meta: &ObjectMeta) -> &str {
    meta.namespace.as_deref().unwrap_or_default()
}

/// `words` without the keys in `without`, and with the pairs of `with`.
pub(super) fn words<const N: usize>(words: Option<&Words>, without: &[&str], with: [(&str, &str); N]) -> Words {
    let mut result: Words = words.cloned().unwrap_or_default();
    result.retain(|key, _| !without.contains(&key.as_str()));
    result.extend(with.map(|(key, value)| (key.to_owned(), value.to_owned())));
    result
}

/// FNV-1a, 64 bits: spreads names evenly, is the same everywhere and for ever.
pub(super) fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_too_long_is_cut_but_stays_its_own() {
        assert_eq!(child_name("hello-00001", "-private"), "hello-00001-private");
        let long = "a".repeat(60);
        let longer = "a".repeat(61);
        assert_eq!(child_name(&long, "-private").len(), LONGEST_NAME);
        assert!(child_name(&long, "-private").ends_with("-private"));
        assert_ne!(child_name(&long, "-private"), child_name(&longer, "-private"));
    }
}
