//! What is told to the autoscaler: how many requests were in flight on average, and how many came.
//!
//! Concurrency is weighted by time: two requests of half a second each within one second are a concurrency of 1. Time
//! and levels are whole numbers here, so nothing is lost by adding up; only the final division rounds.

use crate::clock::Clock;
use crate::units::{NANOS_PER_SECOND, Timestamp};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What happened in one interval.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Report {
    /// Requests in flight, averaged over the interval; 0 when the interval had no length.
    pub average_concurrency: f64,
    /// Of these, the ones that came by way of an activator.
    pub average_proxied_concurrency: f64,
    /// Requests that came in the interval.
    pub requests: f64,
    /// Of these, the ones that came by way of an activator.
    pub proxied_requests: f64,
}

/// The running account. Pure: whoever calls says what time it is; a time earlier than the latest one counts as that.
#[derive(Clone, Debug)]
pub struct Account {
    level: Pair<u32>,
    since: Timestamp,
    opened: Timestamp,
    /// Requests times nanoseconds since the interval was opened.
    area: Pair<u128>,
    came: Pair<u32>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Pair<T> {
    all: T,
    proxied: T,
}

impl Account {
    /// An account opened at `now` with nothing in flight.
    pub fn new(now: Timestamp) -> Self {
        Self { level: Pair::default(), since: now, opened: now, area: Pair::default(), came: Pair::default() }
    }

    /// A request comes.
    pub fn arrive(&mut self, now: Timestamp, proxied: bool) {
        self.advance(now);
        self.level.all += 1;
        self.came.all += 1;
        if proxied {
            self.level.proxied += 1;
            self.came.proxied += 1;
        }
    }

    /// A request that came is done.
    pub fn depart(&mut self, now: Timestamp, proxied: bool) {
        self.advance(now);
        self.level.all = self.level.all.saturating_sub(1);
        if proxied {
            self.level.proxied = self.level.proxied.saturating_sub(1);
        }
    }

    /// Closes the interval and opens the next.
    pub fn close(&mut self, now: Timestamp) -> Report {
        self.advance(now);
        let length = self.since.since(self.opened).nanos();
        let report = Report {
            average_concurrency: average(self.area.all, length),
            average_proxied_concurrency: average(self.area.proxied, length),
            requests: f64::from(self.came.all),
            proxied_requests: f64::from(self.came.proxied),
        };
        self.opened = self.since;
        self.area = Pair::default();
        self.came = Pair::default();
        report
    }

    /// How many are in flight.
    pub fn in_flight(&self) -> u32 {
        self.level.all
    }

    fn advance(&mut self, now: Timestamp) {
        let passed = u128::try_from(now.since(self.since).nanos()).unwrap_or(0);
        if passed > 0 {
            self.area.all += u128::from(self.level.all) * passed;
            self.area.proxied += u128::from(self.level.proxied) * passed;
            self.since = now;
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "the one rounding: below 2^53 request-nanoseconds it is exact")]
fn average(area: u128, length: i64) -> f64 {
    if length <= 0 { 0.0 } else { area as f64 / length as f64 }
}

/// An [`Account`] shared by the requests it counts, with a clock. Cheap to clone; all clones are one account.
#[derive(Clone, Debug)]
pub struct RequestStats {
    clock: Clock,
    account: Arc<Mutex<Account>>,
}

impl RequestStats {
    /// An account opened now.
    pub fn new(clock: Clock) -> Self {
        Self { clock, account: Arc::new(Mutex::new(Account::new(clock.now()))) }
    }

    /// Counts a request from now until the returned value is dropped.
    pub fn arrive(&self, proxied: bool) -> InFlight {
        self.lock().arrive(self.clock.now(), proxied);
        InFlight { stats: self.clone(), proxied }
    }

    /// Closes the interval and opens the next.
    pub fn close(&self) -> Report {
        self.lock().close(self.clock.now())
    }

    /// How many are in flight.
    pub fn in_flight(&self) -> u32 {
        self.lock().in_flight()
    }

    fn lock(&self) -> MutexGuard<'_, Account> {
        self.account.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request being counted.
#[derive(Debug)]
pub struct InFlight {
    stats: RequestStats,
    proxied: bool,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.stats.lock().depart(self.stats.clock.now(), self.proxied);
    }
}

/// How often an interval is closed, in nanoseconds: counts are per second because of it.
pub const REPORT_EVERY: i64 = NANOS_PER_SECOND;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn at(millis: i64) -> Timestamp {
        Timestamp::from_nanos(millis * 1_000_000)
    }

    #[test]
    fn concurrency_is_weighted_by_time() {
        // name, (time in ms, +1 or -1, proxied), end, average, proxied average, came, proxied came
        type Case = (&'static str, &'static [(i64, i32, bool)], i64, f64, f64, f64, f64);
        let cases: &[Case] = &[
            ("nothing", &[], 1000, 0.0, 0.0, 0.0, 0.0),
            ("one the whole second", &[(0, 1, false)], 1000, 1.0, 0.0, 1.0, 0.0),
            // 2 requests × 0.5 s / 1 s = 1
            ("two, half each", &[(0, 1, false), (500, -1, false), (500, 1, false)], 1000, 1.0, 0.0, 2.0, 0.0),
            // (0.25 s × 1 + 0.25 s × 2) / 1 s = 0.75
            (
                "overlap",
                &[(0, 1, false), (250, 1, true), (500, -1, false), (500, -1, true)],
                1000,
                0.75,
                0.25,
                2.0,
                1.0,
            ),
            ("no length", &[(0, 1, false)], 0, 0.0, 0.0, 1.0, 0.0),
            (
                "a clock set back counts as standing still",
                &[(600, 1, false), (200, 1, false)],
                1000,
                0.8,
                0.0,
                2.0,
                0.0,
            ),
        ];
        for (name, events, end, average, proxied, came, proxied_came) in cases {
            let mut account = Account::new(at(0));
            for &(when, change, proxied) in *events {
                if change > 0 { account.arrive(at(when), proxied) } else { account.depart(at(when), proxied) }
            }
            let want = Report {
                average_concurrency: *average,
                average_proxied_concurrency: *proxied,
                requests: *came,
                proxied_requests: *proxied_came,
            };
            assert_eq!(account.close(at(*end)), want, "{name}");
        }
    }

    #[test]
    fn what_is_in_flight_lives_on_in_the_next_interval() {
        let mut account = Account::new(at(0));
        account.arrive(at(500), false);
        assert_eq!(account.close(at(1000)).average_concurrency, 0.5);
        let next = account.close(at(2000));
        assert_eq!((next.average_concurrency, next.requests), (1.0, 0.0));
    }

    proptest! {
        /// Equal to looking at every single millisecond.
        #[test]
        fn it_equals_the_obvious_integral(
            requests in proptest::collection::vec((0..3000i64, 0..2000i64, any::<bool>()), 0..40),
            closes in proptest::collection::btree_set(1..4000i64, 1..6),
        ) {
            let mut events: Vec<(i64, i32, bool)> = requests
                .iter()
                .flat_map(|&(from, length, proxied)| [(from, 1, proxied), (from + length, -1, proxied)])
                .collect();
            events.sort_by_key(|&(when, change, _)| (when, -change));
            let mut account = Account::new(at(0));
            let mut opened = 0;
            let mut events = events.into_iter().peekable();
            for close in closes {
                while let Some(&(when, change, proxied)) = events.peek() && when < close {
                    if change > 0 { account.arrive(at(when), proxied) } else { account.depart(at(when), proxied) }
                    events.next();
                }
                let report = account.close(at(close));
                let naive = |only_proxied: bool| {
                    let busy: i64 = (opened..close)
                        .map(|ms| {
                            let in_flight = requests.iter().filter(|(from, length, proxied)| {
                                *from <= ms && ms < from + length && (*proxied || !only_proxied)
                            });
                            i64::try_from(in_flight.count()).expect("few")
                        })
                        .sum();
                    average(u128::try_from(busy).expect("not negative"), close - opened)
                };
                prop_assert!((report.average_concurrency - naive(false)).abs() < 1e-9);
                prop_assert!((report.average_proxied_concurrency - naive(true)).abs() < 1e-9);
                let came = requests.iter().filter(|(from, _, _)| (opened..close).contains(from)).count();
                prop_assert_eq!(report.requests, f64::from(u32::try_from(came).expect("few")));
                opened = close;
            }
        }
    }
}
