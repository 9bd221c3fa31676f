//! Activators: who waits at each, and which pod a request goes to.

use super::pods::{Account, NONE};
use crate::sim::random::{Stream, below};

/// An activator, as far as the revision is concerned.
#[derive(Clone, Debug)]
pub(crate) struct Activator {
    /// What it reports.
    pub(crate) account: Account,
    /// Whether it reports the revision each second.
    pub(crate) tracked: bool,
    /// What was told at once and is taken off the next report.
    pub(crate) told: f64,
    /// Requests it has handed to pods that are not done.
    pub(crate) in_flight: u64,
    /// The most of those; no limit where a pod takes any number.
    pub(crate) capacity: u64,
    /// Requests waiting, first and last of them.
    pub(crate) waiting: u32,
    pub(crate) first: u32,
    pub(crate) last: u32,
    /// Whether it is handing over just now.
    pub(crate) handing: bool,
    /// The pods it may use.
    slice: Vec<u32>,
    /// The place of each pod in the slice, by pod.
    places: Vec<u32>,
    /// Its requests at each pod, by pod.
    held: Vec<u32>,
    /// Which places of the slice have room, 64 to a word.
    room: Vec<u64>,
    /// Where the next round begins.
    turn: usize,
}

impl Activator {
    pub(crate) fn new(account: Account) -> Self {
        Self {
            account,
            tracked: false,
            told: 0.0,
            in_flight: 0,
            capacity: 0,
            waiting: 0,
            first: NONE,
            last: NONE,
            handing: false,
            slice: Vec::new(),
            places: Vec::new(),
            held: Vec::new(),
            room: Vec::new(),
            turn: 0,
        }
    }

    /// Gives it pods. `limit` is how many requests a pod takes at once; 0 is any number.
    pub(crate) fn assign(&mut self, slice: impl Iterator<Item = u32>, pods: usize, limit: u32) {
        for pod in &self.slice {
            self.places[*pod as usize] = NONE;
        }
        self.places.resize(pods.max(self.places.len()), NONE);
        self.held.resize(pods.max(self.held.len()), 0);
        self.slice.clear();
        self.slice.extend(slice);
        self.room.clear();
        self.room.resize(self.slice.len().div_ceil(64), 0);
        for (place, pod) in self.slice.iter().enumerate() {
            self.places[*pod as usize] = u32::try_from(place).unwrap_or(NONE);
            if limit == 0 || self.held[*pod as usize] < limit {
                self.room[place / 64] |= 1 << (place % 64);
            }
        }
        self.begin_anew_beyond(self.slice.len());
    }

    /// The next round begins at the first pod, if it would begin beyond so many.
    pub(crate) fn begin_anew_beyond(&mut self, pods: usize) {
        if self.turn >= pods {
            self.turn = 0;
        }
    }

    /// Whether it may hand over one more.
    pub(crate) fn may_go(&self, limit: u32) -> bool {
        !self.slice.is_empty() && (limit == 0 || self.in_flight < self.capacity)
    }

    /// A pod for a request, and a place in it.
    ///
    /// Where a pod takes any number: the less loaded of two. Where it takes up to three: the first with room. Else one
    /// after another of those with room.
    pub(crate) fn pick(&mut self, limit: u32, stream: &mut Stream) -> Option<u32> {
        let place = match (limit, self.slice.len()) {
            (_, 0) => return None,
            (0, 1) => 0,
            (0, pods) => {
                let pods = u32::try_from(pods).unwrap_or(u32::MAX);
                let one = below(stream, pods);
                let other = (one + 1 + below(stream, pods - 1)) % pods;
                let held = |place: u32| self.held[self.slice[place as usize] as usize];
                (if held(other) < held(one) { other } else { one }) as usize
            }
            (1..=3, _) => self.next_room(0)?,
            _ => {
                let place = self.next_room(self.turn).or_else(|| self.next_room(0))?;
                self.turn = if place + 1 == self.slice.len() { 0 } else { place + 1 };
                place
            }
        };
        let pod = self.slice[place];
        let held = &mut self.held[pod as usize];
        *held += 1;
        if limit > 0 && *held >= limit {
            self.room[place / 64] &= !(1 << (place % 64));
        }
        self.in_flight += 1;
        Some(pod)
    }

    /// A request handed to `pod` is done.
    pub(crate) fn release(&mut self, pod: u32, limit: u32) {
        self.in_flight -= 1;
        let held = &mut self.held[pod as usize];
        *held -= 1;
        let place = self.places[pod as usize];
        if place != NONE && (limit == 0 || *held < limit) {
            self.room[place as usize / 64] |= 1 << (place % 64);
        }
    }

    /// The first place with room at or after `from`.
    fn next_room(&self, from: usize) -> Option<usize> {
        let mut word = from / 64;
        let mut bits = self.room.get(word)? & (u64::MAX << (from % 64));
        loop {
            if bits != 0 {
                return Some(word * 64 + bits.trailing_zeros() as usize);
            }
            word += 1;
            bits = *self.room.get(word)?;
        }
    }
}

/// Which places of `pods` pods belong to activator `index` of `activators`: a slice of its own, and one of the remainder,
/// in order of index. With fewer pods than activators each has one, which it shares.
pub(crate) fn slice(pods: usize, index: usize, activators: usize) -> (std::ops::Range<usize>, Option<usize>) {
    if pods <= 1 || activators <= 1 || index >= activators {
        return (0..pods, None);
    }
    if activators > pods {
        let place = index % pods;
        return (place..place + 1, None);
    }
    let (size, rest) = (pods / activators, pods % activators);
    let begin = index * size;
    (begin..begin + size, (index < rest).then(|| pods - rest + index))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::random::{Purpose, stream};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn with_enough_pods_each_belongs_to_exactly_one_activator(pods in 0_usize..200, activators in 1_usize..20) {
            let mut owners = vec![0; pods];
            for index in 0..activators {
                let (range, extra) = slice(pods, index, activators);
                range.chain(extra).for_each(|place| owners[place] += 1);
            }
            if pods >= activators && pods > 1 {
                prop_assert!(owners.iter().all(|owners| *owners == 1), "{owners:?}");
            } else {
                prop_assert!(owners.iter().all(|owners| *owners >= 1), "{owners:?}");
            }
        }
    }

    #[test]
    fn pods_are_chosen_by_their_limit() {
        let mut stream = stream(1, Purpose::Balancing, "");
        let mut picks = |limit: u32, pods: u32, times: usize| {
            let mut activator = Activator::new(Account::new(0, 0));
            activator.assign(0..pods, pods as usize, limit);
            (0..times).map(|_| activator.pick(limit, &mut stream)).collect::<Vec<_>>()
        };
        assert_eq!(picks(2, 2, 5), [Some(0), Some(0), Some(1), Some(1), None], "the first with room");
        assert_eq!(picks(4, 3, 4), [Some(0), Some(1), Some(2), Some(0)], "one after another");
        assert_eq!(picks(4, 1, 5), [Some(0), Some(0), Some(0), Some(0), None]);
        let of_many = picks(0, 70, 700);
        assert!((0..70).all(|pod| of_many.contains(&Some(pod))), "all are used");
        assert_eq!(picks(0, 0, 1), [None]);
    }
}
