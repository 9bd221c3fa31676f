//! Which bucket a revision belongs to. Pure, and the same on every replica, Ebb's or Go's.
//!
//! Every key has its own circle of 2048 positions. The hash of the key with a salt is where its hand points, the hash
//! of each bucket's name followed by the key is where that bucket stands, and the first bucket from the hand onwards
//! owns the key. This is how Knative's `hash.BucketSet` chooses (knative.dev/pkg), with FNV-1a of 64 bits.

/// The buckets revisions are spread over.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ring {
    names: Vec<String>,
    /// The hash after each name, from which the hash of name and key goes on.
    hashed: Vec<u64>,
}

impl Ring {
    /// `buckets` buckets, named as Knative names those whose owner is elected; none counts as one. Knative allows 1 to 10.
    pub fn new(buckets: u32) -> Self {
        let buckets = buckets.max(1);
        Self::named((0..buckets).map(|bucket| format!("{PREFIX}-{bucket:02}-of-{buckets:02}")).collect())
    }

    /// The buckets of these names, whatever they look like: in StatefulSet mode they are URLs. A name that comes twice
    /// is one bucket; without any there is one that has no name.
    pub fn named(mut names: Vec<String>) -> Self {
        if names.is_empty() {
            names.push(String::new());
        }
        // The order in which positions are given out, and in which Knative numbers buckets.
        names.sort_unstable();
        names.dedup();
        let hashed = names.iter().map(|name| fnv1a(OFFSET, name.as_bytes())).collect();
        Self { names, hashed }
    }

    /// The buckets' names, in ascending order. Those of elected owners are also the names of Leases and Services.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// How many buckets there are; at least one.
    pub fn buckets(&self) -> usize {
        self.names.len()
    }

    /// The index of the bucket of this name.
    pub fn index(&self, name: &str) -> Option<usize> {
        self.names.binary_search_by(|this| this.as_str().cmp(name)).ok()
    }

    /// The index in [`names`](Self::names) of the bucket that owns `key`, a revision's `namespace/name`.
    pub fn owner(&self, key: &str) -> usize {
        if self.names.len() == 1 {
            return 0;
        }
        let start = fnv1a(fnv1a(OFFSET, key.as_bytes()), b"start-angle-salt") % POSITIONS;
        let mut taken: Vec<u64> = Vec::with_capacity(self.hashed.len());
        for name_hash in &self.hashed {
            let mut hash = fnv1a(*name_hash, key.as_bytes());
            // Ten elected buckets never meet: their names differ in one digit, and the hash keeps that apart.
            while taken.contains(&(hash % POSITIONS)) && (taken.len() as u64) < POSITIONS {
                hash = fnv1a(hash, format!("{hash:x}").as_bytes());
            }
            taken.push(hash % POSITIONS);
        }
        let distance = |position: u64| (position + POSITIONS - start) % POSITIONS;
        (0..taken.len()).min_by_key(|bucket| distance(taken[*bucket])).unwrap_or(0)
    }
}

/// How the names of buckets begin whose owner is elected.
pub const PREFIX: &str = "autoscaler-bucket";

/// How many positions the circle has.
const POSITIONS: u64 = 2048;
const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0100_0000_01b3;

/// FNV-1a going on from `hash` over more bytes.
fn fnv1a(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(PRIME))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_named_as_their_leases() {
        assert_eq!(Ring::new(1).names(), ["autoscaler-bucket-00-of-01"]);
        assert_eq!(Ring::new(0), Ring::new(1));
        assert_eq!(Ring::new(10).names()[9], "autoscaler-bucket-09-of-10");
        assert_eq!(Ring::new(10).index("autoscaler-bucket-09-of-10"), Some(9));
        assert_eq!(Ring::new(10).index("autoscaler-bucket-09-of-09"), None);
    }

    #[test]
    fn names_of_any_kind_are_sorted_and_counted_once() {
        let names = ["ws://as-2.x:80", "ws://as-10.x:80", "ws://as-1.x:80", "ws://as-2.x:80"];
        let ring = Ring::named(names.map(str::to_owned).to_vec());
        // As text, so that 10 comes before 2.
        assert_eq!(ring.names(), ["ws://as-1.x:80", "ws://as-10.x:80", "ws://as-2.x:80"]);
        assert_eq!(Ring::named(Vec::new()).owner("a/b"), 0);
    }

    #[test]
    fn the_hash_is_fnv1a() {
        assert_eq!(fnv1a(OFFSET, b"default/hello-00001start-angle-salt"), 0xbfcc_5afe_3c48_565e);
        assert_eq!(fnv1a(OFFSET, b"autoscaler-bucket-00-of-03default/hello-00001"), 0x90ea_9797_7b8d_c206);
    }

    #[test]
    fn keys_go_to_the_buckets_knative_gives_them() {
        // Key, then its bucket among 3, 5 and 10.
        let table = [
            ("default/hello-00001", [0, 0, 5]),
            ("default/hello-00002", [1, 1, 8]),
            ("default/hello-00003", [2, 4, 1]),
            ("knative-serving/foo", [1, 3, 6]),
            ("ns1/rev-a", [1, 0, 1]),
            ("ns1/rev-b", [0, 1, 2]),
            ("ns2/rev-a", [0, 1, 3]),
            ("prod/api-00042", [0, 3, 0]),
            ("prod/api-00043", [1, 3, 8]),
            ("team-a/checkout-00007", [0, 2, 0]),
            ("team-a/checkout-00008", [0, 1, 6]),
            ("team-b/image-resize-00001", [1, 2, 8]),
            ("x/y", [2, 1, 3]),
            ("a/b", [2, 4, 4]),
            ("default/autoscale-go-00001", [0, 2, 2]),
            ("default/helloworld-go-00001", [0, 1, 2]),
            ("benchmarks/load-test-00001", [2, 0, 4]),
            ("test-ns/test-rev", [2, 2, 1]),
            ("really-long-namespace-name/really-long-revision-name-00099", [1, 1, 4]),
            ("default/0", [1, 2, 3]),
        ];
        for (key, owners) in table {
            assert_eq!([3, 5, 10].map(|buckets| Ring::new(buckets).owner(key)), owners, "{key}");
        }
    }

    #[test]
    fn every_bucket_of_a_large_ring_has_a_position() {
        // Far more than Knative allows, so that positions collide.
        let ring = Ring::new(200);
        let mut owners: Vec<_> = (0..4000).map(|key| ring.owner(&format!("ns/rev-{key}"))).collect();
        owners.sort_unstable();
        owners.dedup();
        assert!(owners.len() > 150, "{} buckets own something", owners.len());
    }
}
