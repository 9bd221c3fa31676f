//! Pods, and the queue-proxy in each.

use crate::engine::Load;
use crate::sim::time::{Micros, SECOND};

/// No request, pod or place.
pub(crate) const NONE: u32 = u32::MAX;

/// Where a pod is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    /// It has no node yet.
    Pending,
    /// It starts on its node.
    Starting,
    /// It serves.
    Ready,
    /// It finishes what it has.
    Draining,
    /// It is no more.
    Gone,
}

/// What a queue-proxy or an activator reports: requests there, integrated over each second.
///
/// Nothing is scheduled for it. Whenever the number changes or somebody reads, the seconds that ended meanwhile are
/// closed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Account {
    since: Micros,
    /// When the second that is open was begun, and when it ends.
    opened: Micros,
    closes: Micros,
    level: [u64; 2],
    area: [u64; 2],
    came: [u32; 2],
    /// What the last closed second said.
    last: Load,
}

const ALL: usize = 0;
const PROXIED: usize = 1;

impl Account {
    /// Opened at `now`; its seconds end `phase` after whole ones.
    pub(crate) fn new(now: Micros, phase: Micros) -> Self {
        let whole = now - now % SECOND + phase;
        Self {
            since: now,
            opened: now,
            closes: if whole > now { whole } else { whole + SECOND },
            level: [0; 2],
            area: [0; 2],
            came: [0; 2],
            last: Load::default(),
        }
    }

    #[inline]
    pub(crate) fn arrive(&mut self, now: Micros, proxied: bool) {
        self.advance(now);
        self.level[ALL] += 1;
        self.came[ALL] += 1;
        self.level[PROXIED] += u64::from(proxied);
        self.came[PROXIED] += u32::from(proxied);
    }

    #[inline]
    pub(crate) fn depart(&mut self, now: Micros, proxied: bool) {
        self.advance(now);
        self.level[ALL] -= 1;
        self.level[PROXIED] -= u64::from(proxied);
    }

    /// Requests came and were there for a time, of which only the sums are known. Nobody is there as far as
    /// [`level`](Self::level) tells.
    pub(crate) fn pass(&mut self, now: Micros, area: [u64; 2], came: [u32; 2]) {
        self.advance(now);
        for which in [ALL, PROXIED] {
            self.area[which] += area[which];
            self.came[which] += came[which];
        }
    }

    /// Has what another has, too.
    pub(crate) fn join(&mut self, other: &Self) {
        for which in [ALL, PROXIED] {
            self.area[which] += other.area[which];
            self.came[which] += other.came[which];
        }
        let (mine, theirs) = (&mut self.last, &other.last);
        mine.concurrency += theirs.concurrency;
        mine.proxied_concurrency += theirs.proxied_concurrency;
        mine.requests += theirs.requests;
        mine.proxied_requests += theirs.proxied_requests;
    }

    /// How many requests are there.
    #[inline]
    pub(crate) fn level(&self) -> u64 {
        self.level[ALL]
    }

    /// When the second that is open ends.
    pub(crate) fn closes(&self) -> Micros {
        self.closes
    }

    /// Begins a second anew that ends when the one that is open would: what was before `now` is forgotten, but not a
    /// request that came at this instant. When it ends.
    pub(crate) fn reopen(&mut self, now: Micros) -> Micros {
        self.advance(now);
        self.opened = now;
        self.area = [0; 2];
        self.came = [u32::from(self.level[ALL] > 0), 0];
        self.closes
    }

    /// What the last second that ended by `now` said.
    pub(crate) fn read(&mut self, now: Micros) -> Load {
        self.advance(now);
        self.last
    }

    #[inline]
    fn advance(&mut self, now: Micros) {
        if now >= self.closes {
            self.close(now);
        }
        let passed = now - self.since;
        self.area[ALL] += self.level[ALL] * passed;
        self.area[PROXIED] += self.level[PROXIED] * passed;
        self.since = now;
    }

    #[cold]
    #[expect(clippy::cast_precision_loss, reason = "the one rounding: below 2^53 request-microseconds it is exact")]
    fn close(&mut self, now: Micros) {
        while now >= self.closes {
            let passed = self.closes - self.since;
            let length = (self.closes - self.opened) as f64;
            let average = |which: usize| (self.area[which] + self.level[which] * passed) as f64 / length;
            self.last = Load {
                concurrency: average(ALL),
                proxied_concurrency: average(PROXIED),
                requests: f64::from(self.came[ALL]),
                proxied_requests: f64::from(self.came[PROXIED]),
            };
            (self.area, self.came) = ([0; 2], [0; 2]);
            self.since = self.closes;
            self.opened = self.closes;
            self.closes += SECOND;
            // Whole seconds in which nothing changed all say the same.
            let whole = (now - self.since) / SECOND;
            if whole > 1 {
                self.since += (whole - 1) * SECOND;
                self.opened = self.since;
                self.closes = self.since + SECOND;
            }
        }
    }
}

/// A pod and its queue-proxy.
#[derive(Clone, Debug)]
pub(crate) struct Pod {
    pub(crate) phase: Phase,
    /// When it became ready.
    pub(crate) ready_at: Micros,
    /// By when it must be gone once it stops.
    pub(crate) gone_by: Micros,
    /// When the last request came.
    pub(crate) last_request: Micros,
    /// Requests being served.
    pub(crate) serving: u32,
    /// Requests waiting, first and last of them.
    pub(crate) waiting: u32,
    pub(crate) first: u32,
    pub(crate) last: u32,
    /// What the queue-proxy reports.
    pub(crate) account: Account,
    /// Its starts that failed.
    pub(crate) crashes: u32,
    /// Its place in the endpoints, if it is there.
    pub(crate) endpoint: u32,
    /// Whether activators may use it.
    pub(crate) usable: bool,
    /// Things foreseen for it, after which its place can be given to another.
    pub(crate) foreseen: u32,
    /// The group it is counted in, where requests are only counted.
    pub(crate) group: u32,
}

impl Pod {
    pub(crate) fn new(account: Account) -> Self {
        Self {
            phase: Phase::Pending,
            ready_at: Micros::MAX,
            gone_by: Micros::MAX,
            last_request: 0,
            serving: 0,
            waiting: 0,
            first: NONE,
            last: NONE,
            account,
            crashes: 0,
            endpoint: NONE,
            usable: false,
            foreseen: 0,
            group: NONE,
        }
    }

    /// Requests it has, waiting ones included.
    pub(crate) fn requests(&self) -> u32 {
        self.serving + self.waiting
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_closed_when_somebody_looks() {
        let mut account = Account::new(300_000, 250_000);
        assert_eq!(account.closes(), 1_250_000);
        account.arrive(750_000, true);
        account.arrive(1_000_000, false);
        // 0.5 s and 0.25 s within the 0.95 s since it was opened.
        let load = account.read(1_250_000);
        assert_eq!((load.concurrency, load.proxied_concurrency), (0.75 / 0.95, 0.5 / 0.95));
        assert_eq!((load.requests, load.proxied_requests), (2.0, 1.0));
        account.depart(1_500_000, true);
        assert_eq!(account.read(2_249_999).requests, 2.0, "the second is not over yet");
        let load = account.read(2_250_000);
        assert_eq!((load.concurrency, load.proxied_concurrency, load.requests), (1.25, 0.25, 0.0));
        let load = account.read(60_000_000);
        assert_eq!((load.concurrency, load.proxied_concurrency), (1.0, 0.0));
        assert_eq!(account.closes(), 60_250_000);
        account.depart(60_000_000, false);
        assert_eq!(account.read(60_250_000).concurrency, 0.75);
    }
}
