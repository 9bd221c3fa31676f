//! One watch, told as changes.
//!
//! The rest of Ebb never lists or watches by hand: a watch here starts over by itself with back-off, notices after a
//! new list what was deleted meanwhile, and passes over objects that cannot be understood, so that one bad object
//! stops nothing.

use crate::clock::Clock;
use crate::k8s::cache::Versioned as _;
use crate::k8s::pace::{back_off, jittered};
use crate::k8s::slim::Guarded;
use crate::units::{RevisionKey, Span, Timestamp};
use futures::{Stream, StreamExt as _};
use kube::runtime::utils::Backoff;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use std::collections::{HashMap, HashSet};
use std::fmt::Debug;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// What happened to an object, or to the watch.
#[derive(Debug)]
pub enum Change<K> {
    /// It is new, or different.
    Put(RevisionKey, K),
    /// It is gone.
    Gone(RevisionKey),
    /// Everything that existed when the watch started has been told. Comes once more after each new list.
    Synced,
}

/// First wait of a watch that failed …
const BACK_OFF_FIRST: Span = Span::from_millis(200);
/// … and the longest.
const BACK_OFF_MOST: Span = Span::from_seconds(5);
/// Times in a row a server may refuse to go on from where a watch ended before everything is listed anew.
const MOST_REFUSALS: u32 = 8;
/// Objects of a kind that cannot be understood and are named in the log, each minute.
const MOST_UNREADABLE: u32 = 10;
const MINUTE: Span = Span::from_seconds(60);

/// Times a watch failed since the process started.
pub static WATCH_INTERRUPTIONS: AtomicU64 = AtomicU64::new(0);

/// Objects passed over since the process started because they could not be understood.
pub static UNREADABLE_OBJECTS: AtomicU64 = AtomicU64::new(0);

/// Follows the objects of `api` that `config` selects, until `cancel`, telling `sink` every change in order. What a new
/// list has just as it was is not told again.
///
/// The first list comes in pages of the size `config` says (500 where it says nothing), each of which is in memory once;
/// it asks for the newest state, which an API server answers in pages. The cheaper list from its cache comes in one
/// piece of any size, and the list as a watch is not known to every version in use.
pub async fn follow<K>(
    api: Api<Guarded<K>>,
    config: watcher::Config,
    cancel: CancellationToken,
    mut sink: impl FnMut(Change<K>),
) where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let mut told = Told { versions: HashMap::new(), complaints: Complaints::new() };
    while !cancel.is_cancelled() {
        let events = watcher(api.clone(), config.clone()).backoff(BackOff::default());
        follow_until_stuck(events.take_until(cancel.cancelled()), &mut told, &mut sink).await;
    }
}

/// Follows one list and the watch that continues it, until the server refuses to go on from there. kube's watcher asks
/// again and again from the same version unless it is told within the stream that it is too old; but a proxy may answer
/// 410 for it, and a server restored from a backup counts from an earlier version.
async fn follow_until_stuck<K>(
    stream: impl Stream<Item = watcher::Result<watcher::Event<Guarded<K>>>>,
    told: &mut Told,
    sink: &mut impl FnMut(Change<K>),
) where
    K: Resource + Clone,
{
    let mut listed: HashSet<RevisionKey> = HashSet::new();
    let mut refusals = 0;
    let mut stream = pin!(stream);
    while let Some(event) = stream.next().await {
        if event.is_ok() {
            refusals = 0;
        }
        match event {
            Ok(watcher::Event::Init) => listed.clear(),
            Ok(watcher::Event::InitApply(object)) => {
                let (key, version) = identity(&object);
                listed.insert(key.clone());
                if told.versions.get(&key).is_none_or(|told| version.is_none() || *told != version) {
                    told.put(key, version, object, sink);
                }
            }
            Ok(watcher::Event::InitDone) => {
                told.versions.retain(|key, _| {
                    let kept = listed.contains(key);
                    if !kept {
                        sink(Change::Gone(key.clone()));
                    }
                    kept
                });
                listed = HashSet::new();
                sink(Change::Synced);
            }
            Ok(watcher::Event::Apply(object)) => {
                let (key, version) = identity(&object);
                told.put(key, version, object, sink);
            }
            Ok(watcher::Event::Delete(object)) => {
                let (key, _) = identity(&object);
                if told.versions.remove(&key).is_some() {
                    sink(Change::Gone(key));
                }
            }
            Err(error) => {
                WATCH_INTERRUPTIONS.fetch_add(1, Ordering::Relaxed);
                if let Some(suppressed) = told.complaints.interrupted.allow() {
                    warn!(%error, suppressed, "watch interrupted; it goes on by itself");
                }
                let refused = match &error {
                    watcher::Error::WatchStartFailed(kube::Error::Api(status)) | watcher::Error::WatchError(status) => {
                        Some(status)
                    }
                    _ => None,
                };
                refusals += u32::from(refused.is_some());
                if refused.is_some_and(|status| status.code == 410) || MOST_REFUSALS <= refusals {
                    return;
                }
            }
        }
    }
}

/// What the sink knows.
struct Told {
    versions: HashMap<RevisionKey, Option<u64>>,
    complaints: Complaints,
}

impl Told {
    fn put<K>(&mut self, key: RevisionKey, version: Option<u64>, object: Guarded<K>, sink: &mut impl FnMut(Change<K>)) {
        match object.0 {
            Ok(object) => {
                self.versions.insert(key.clone(), version);
                sink(Change::Put(key, object));
            }
            Err(unreadable) => {
                UNREADABLE_OBJECTS.fetch_add(1, Ordering::Relaxed);
                if let Some(suppressed) = self.complaints.unreadable.allow() {
                    warn!(
                        object = %key, error = %unreadable, suppressed,
                        "object passed over, it cannot be understood; the last good version stays"
                    );
                }
            }
        }
    }
}

/// What is worth a line in the log, and how often.
struct Complaints {
    interrupted: Quiet,
    unreadable: Quiet,
}

impl Complaints {
    fn new() -> Self {
        let clock = Clock::system();
        Self { interrupted: Quiet::new(clock, 1), unreadable: Quiet::new(clock, MOST_UNREADABLE) }
    }
}

/// So many lines a minute, and the number of those left out with the next.
struct Quiet {
    clock: Clock,
    most: u32,
    since: Option<Timestamp>,
    said: u32,
    suppressed: u64,
}

impl Quiet {
    fn new(clock: Clock, most: u32) -> Self {
        Self { clock, most, since: None, said: 0, suppressed: 0 }
    }

    fn allow(&mut self) -> Option<u64> {
        let now = self.clock.now();
        if self.since.is_none_or(|since| MINUTE <= now.since(since)) {
            (self.since, self.said) = (Some(now), 0);
        }
        if self.said < self.most {
            self.said += 1;
            return Some(std::mem::take(&mut self.suppressed));
        }
        self.suppressed += 1;
        None
    }
}

/// How long a watch waits before it goes on after so many failures in a row: doubling, jittered. Longer waits would only
/// lengthen an outage; how often the API server is asked in all is [`Pace`](crate::k8s::pace::Pace)'s to say.
#[derive(Default)]
struct BackOff {
    failures: u32,
}

impl Iterator for BackOff {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let pause = jittered(back_off(BACK_OFF_FIRST, BACK_OFF_MOST, self.failures), 0.5, 1.0);
        self.failures = self.failures.saturating_add(1);
        Some(pause.to_std())
    }
}

impl Backoff for BackOff {
    fn reset(&mut self) {
        self.failures = 0;
    }
}

fn identity<K: Resource>(object: &Guarded<K>) -> (RevisionKey, Option<u64>) {
    let meta = object.meta();
    let key = RevisionKey::new(meta.namespace.as_deref().unwrap_or(""), meta.name.as_deref().unwrap_or(""));
    (key, object.version())
}
