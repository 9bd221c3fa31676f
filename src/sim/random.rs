//! Streams of random numbers, one per purpose, each derived from the seed, the purpose and a name.
//!
//! What is drawn for one purpose never moves what is drawn for another. So two policies on one seed see the same
//! arrivals, and the same service time for the same request.

use rand::{Rng, SeedableRng as _};
use rand_pcg::Pcg64Mcg;

/// A stream.
pub type Stream = Pcg64Mcg;

/// What a stream is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// When requests come.
    Arrivals,
    /// How long they take.
    Service,
    /// Which activator and which pod they go to.
    Balancing,
    /// How long pods take to start.
    StartUp,
    /// When in the second something periodic happens, and how long what was decided takes to arrive.
    Phases,
    /// What breaks.
    Failures,
    /// Which pods are scraped.
    Sampling,
    /// What callers do when a request fails.
    Clients,
    /// Which outcomes are drawn again for a bootstrap interval.
    Resampling,
}

/// The stream of `purpose` for `name` in a run with `seed`.
pub fn stream(seed: u64, purpose: Purpose, name: &str) -> Stream {
    let mut hash = mix(seed ^ 0x9e37_79b9_7f4a_7c15);
    for byte in [purpose as u8].into_iter().chain(name.bytes()) {
        hash = mix(hash ^ u64::from(byte)).wrapping_add(0x9e37_79b9_7f4a_7c15);
    }
    Pcg64Mcg::seed_from_u64(hash)
}

/// A whole number below `bound`, all alike; `bound` is not 0.
#[inline]
pub fn below(stream: &mut Stream, bound: u32) -> u32 {
    ((u64::from(stream.next_u32()) * u64::from(bound)) >> 32) as u32
}

/// A number from 0 to below 1.
#[inline]
#[expect(clippy::cast_precision_loss, reason = "53 bits are exact")]
pub fn unit(stream: &mut Stream) -> f64 {
    (stream.next_u64() >> 11) as f64 * (1.0 / 9_007_199_254_740_992.0)
}

/// An instant below `bound` microseconds, all alike.
#[inline]
pub fn instant(stream: &mut Stream, bound: u64) -> u64 {
    u64::try_from((u128::from(stream.next_u64()) * u128::from(bound)) >> 64).unwrap_or(0)
}

fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_differ_by_seed_purpose_and_name() {
        let first = |seed, purpose, name| stream(seed, purpose, name).next_u64();
        let all = [
            first(1, Purpose::Arrivals, "a"),
            first(2, Purpose::Arrivals, "a"),
            first(1, Purpose::Service, "a"),
            first(1, Purpose::Arrivals, "b"),
            first(1, Purpose::Arrivals, ""),
        ];
        for (at, one) in all.iter().enumerate() {
            assert!(!all[..at].contains(one), "{all:?}");
        }
        assert_eq!(first(1, Purpose::Arrivals, "a"), all[0], "the same names give the same stream");
    }

    #[test]
    fn numbers_stay_below_their_bound() {
        let mut stream = stream(7, Purpose::Balancing, "");
        let mut seen = [0; 3];
        for _ in 0..3000 {
            seen[below(&mut stream, 3) as usize] += 1;
            assert!(instant(&mut stream, 5) < 5);
            assert!((0.0..1.0).contains(&unit(&mut stream)));
        }
        // 1000 each; six standard deviations are about 155.
        assert!(seen.iter().all(|times| (845..1155).contains(times)), "{seen:?}");
    }
}
