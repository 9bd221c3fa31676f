//! What the activator tells the autoscaler of the load it sees.
//!
//! The first request of a revision nobody tracks is told at once, because it may have to wake the revision. Then each
//! second one batch tells of all tracked revisions. What was told at once is taken off the first batch, so that it does
//! not count twice; a revision with nothing to tell is told as zero once more and forgotten.
//!
//! # Decisions
//!
//! 2026-11: A first request that could not be told, because the connection was down, is not taken off the batch that
//! follows. Knative takes it off all the same, which tells the autoscaler of no request for another second.

use crate::clock::Clock;
use crate::dataplane::activator::Counters;
use crate::dataplane::report::Account;
use crate::stats::client;
use crate::stats::wire::{Stat, WireStatMessage, encode_batch};
use crate::units::{RevisionKey, Span, Timestamp};
use bytes::Bytes;
use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

/// Where batches go.
pub trait StatSink: Send + Sync {
    /// Sends one batch; false when it was dropped.
    fn send(&self, batch: Bytes) -> bool;
    /// Whether anybody would receive it. The activator is not ready while nobody would.
    fn is_connected(&self) -> bool;
    /// How often connecting failed, or a connection was lost.
    fn failures(&self) -> u64 {
        0
    }
}

impl StatSink for client::Handle {
    fn send(&self, batch: Bytes) -> bool {
        client::Handle::send(self, batch).is_ok()
    }

    fn is_connected(&self) -> bool {
        *self.connected().borrow()
    }

    fn failures(&self) -> u64 {
        client::Handle::failures(self)
    }
}

/// Counts requests per revision and tells of them. Cheap to clone; all clones are one.
#[derive(Clone)]
pub(crate) struct Load {
    shared: Arc<Inner>,
}

struct Inner {
    clock: Clock,
    pod_name: Bytes,
    sink: Arc<dyn StatSink>,
    counters: Arc<Counters>,
    tracked: Mutex<Tracked>,
}

/// The account of each tracked revision. Pure: whoever calls says what time it is.
#[derive(Debug, Default)]
struct Tracked {
    revisions: HashMap<RevisionKey, Revision>,
}

#[derive(Debug)]
struct Revision {
    account: Account,
    /// What was told at once and is taken off the next batch: 1 or 0.
    told: f64,
    /// The concurrency that was told last.
    last: f64,
}

/// What one batch says of a revision.
#[derive(Clone, Debug, PartialEq)]
struct Told {
    key: RevisionKey,
    concurrency: f64,
    requests: f64,
}

impl Tracked {
    /// A request comes; whether it is the first of an untracked revision.
    fn arrive(&mut self, now: Timestamp, key: &RevisionKey) -> bool {
        if let Some(revision) = self.revisions.get_mut(key) {
            revision.account.arrive(now, false);
            return false;
        }
        let mut account = Account::new(now);
        account.arrive(now, false);
        self.revisions.insert(key.clone(), Revision { account, told: 0.0, last: 0.0 });
        true
    }

    /// The first request was told at once.
    fn told_at_once(&mut self, key: &RevisionKey) {
        if let Some(revision) = self.revisions.get_mut(key) {
            revision.told = 1.0;
        }
    }

    fn depart(&mut self, now: Timestamp, key: &RevisionKey) {
        if let Some(revision) = self.revisions.get_mut(key) {
            revision.account.depart(now, false);
        }
    }

    fn close(&mut self, now: Timestamp) -> Vec<Told> {
        let mut batch = Vec::with_capacity(self.revisions.len());
        self.revisions.retain(|key, revision| {
            let report = revision.account.close(now);
            let told = std::mem::replace(&mut revision.told, 0.0);
            revision.last = (report.average_concurrency - told).max(0.0);
            batch.push(Told { key: key.clone(), concurrency: revision.last, requests: report.requests - told });
            report.average_concurrency != 0.0 || revision.account.in_flight() > 0
        });
        batch
    }
}

impl Load {
    pub(crate) fn new(clock: Clock, pod_name: &str, sink: Arc<dyn StatSink>, counters: Arc<Counters>) -> Self {
        let pod_name = Bytes::copy_from_slice(pod_name.as_bytes());
        Self { shared: Arc::new(Inner { clock, pod_name, sink, counters, tracked: Mutex::default() }) }
    }

    /// Counts a request from now until the returned value is dropped.
    pub(crate) fn arrive(&self, key: &RevisionKey) -> InFlight {
        let first = self.lock().arrive(self.shared.clock.now(), key);
        if first && self.send(&[Told { key: key.clone(), concurrency: 1.0, requests: 1.0 }]) {
            self.lock().told_at_once(key);
        }
        InFlight { load: self.clone(), key: key.clone() }
    }

    /// Tells of everything each second until `cancel`.
    pub(crate) async fn run(&self, cancel: CancellationToken) {
        let mut ticks = interval(Span::SECOND.to_std());
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.tick().await;
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = cancel.cancelled() => return,
            }
            let batch = self.lock().close(self.shared.clock.now());
            if !batch.is_empty() {
                self.send(&batch);
            }
        }
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.shared.sink.is_connected()
    }

    /// How often connecting failed, or a connection was lost.
    pub(crate) fn failures(&self) -> u64 {
        self.shared.sink.failures()
    }

    /// The concurrency that was told last, of each revision that is tracked.
    pub(crate) fn concurrency(&self) -> HashMap<RevisionKey, f64> {
        self.lock().revisions.iter().map(|(key, revision)| (key.clone(), revision.last)).collect()
    }

    fn send(&self, batch: &[Told]) -> bool {
        let messages = batch.iter().map(|told| {
            let stat = Stat {
                pod_name: self.shared.pod_name.clone(),
                average_concurrent_requests: told.concurrency,
                request_count: told.requests,
                ..Stat::default()
            };
            WireStatMessage::new(&told.key, stat)
        });
        let sent = self.shared.sink.send(encode_batch(messages.collect()));
        if !sent {
            self.shared.counters.stats_dropped.fetch_add(1, Ordering::Relaxed);
        }
        sent
    }

    fn lock(&self) -> MutexGuard<'_, Tracked> {
        self.shared.tracked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Load").field("tracked", &self.lock().revisions.len()).finish_non_exhaustive()
    }
}

/// A request being counted.
#[derive(Debug)]
pub(crate) struct InFlight {
    load: Load,
    key: RevisionKey,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.load.lock().depart(self.load.shared.clock.now(), &self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(millis: i64) -> Timestamp {
        Timestamp::from_nanos(millis * 1_000_000)
    }

    #[test]
    fn what_was_told_at_once_is_taken_off_once() {
        let key = RevisionKey::new("default", "hello-00001");
        let told = |concurrency, requests| vec![Told { key: key.clone(), concurrency, requests }];
        let mut tracked = Tracked::default();
        assert!(tracked.arrive(at(500), &key));
        tracked.told_at_once(&key);
        assert!(!tracked.arrive(at(600), &key));
        tracked.arrive(at(700), &key);
        // (1 × 0.1 + 2 × 0.1 + 3 × 0.3) / 0.5 s = 2.4, less 1; 3 came, less 1
        let batch = tracked.close(at(1000));
        assert!((batch[0].concurrency - 1.4).abs() < 1e-9 && batch[0].requests == 2.0, "{batch:?}");
        assert_eq!(tracked.close(at(2000)), told(3.0, 0.0));
        for _ in 0..3 {
            tracked.depart(at(2500), &key);
        }
        assert_eq!(tracked.close(at(3000)), told(1.5, 0.0));
        assert_eq!(tracked.close(at(4000)), told(0.0, 0.0), "told as zero once more");
        assert_eq!(tracked.close(at(5000)), [], "then forgotten");
        assert!(tracked.arrive(at(5000), &key), "and new again");
    }

    #[test]
    fn a_short_first_request_makes_the_first_batch_zero() {
        let key = RevisionKey::new("default", "hello-00001");
        let mut tracked = Tracked::default();
        tracked.arrive(at(0), &key);
        tracked.told_at_once(&key);
        tracked.depart(at(100), &key);
        // 0.1 less 1 is below zero; 1 came, less 1
        assert_eq!(tracked.close(at(1000)), [Told { key: key.clone(), concurrency: 0.0, requests: 0.0 }]);
        // The interval was not empty, so the revision stays for one more.
        assert_eq!(tracked.close(at(2000)).len(), 1);
        assert_eq!(tracked.close(at(3000)), []);
    }

    #[test]
    fn a_first_request_that_nobody_heard_of_counts_in_the_batch() {
        let key = RevisionKey::new("default", "hello-00001");
        let mut tracked = Tracked::default();
        tracked.arrive(at(0), &key);
        assert_eq!(tracked.close(at(1000)), [Told { key: key.clone(), concurrency: 1.0, requests: 1.0 }]);
    }

    #[test]
    fn a_revision_with_a_request_in_flight_is_not_forgotten() {
        let key = RevisionKey::new("default", "hello-00001");
        let mut tracked = Tracked::default();
        tracked.arrive(at(0), &key);
        // No time has passed, so the average is zero.
        assert_eq!(tracked.close(at(0))[0].concurrency, 0.0);
        assert_eq!(tracked.close(at(1000)), [Told { key, concurrency: 1.0, requests: 0.0 }]);
    }
}
