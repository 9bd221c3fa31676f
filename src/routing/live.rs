//! Whether a load balancer follows: asked of each of its addresses, through each rule, which version of the rules is live.
//!
//! The question is Knative's own probe: it goes through the rule to whatever stands behind it, and that answers with the
//! `K-Network-Hash` the rule has set. Activators and queue-proxies answer it themselves, so it wakes nothing.

use crate::clock::Clock;
use crate::routing::model::{Action, Rule, Side, digest};
use crate::routing::probe::{Question, Reply, Topic, Vips};
use crate::routing::translate::{Part, hash_of};
use crate::units::{RevisionKey, Span, Timestamp};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::debug;

/// Good answers in a row from each address.
const IN_A_ROW: u32 = 3;
/// How long to wait between rounds, at first …
const PAUSE_FIRST: Span = Span::from_millis(500);
/// … and at most.
const PAUSE_MOST: Span = Span::from_seconds(5);
/// After this it is told that the load balancer does not follow; it is asked on.
const LATE: Span = Span::from_seconds(10 * 60);
/// A backend that does not say which version it was reached by counts after this …
const SILENT: Span = Span::from_seconds(10);
/// … and where nothing can be asked, the load balancer is taken to follow after this.
const UNSEEN: Span = Span::from_seconds(30);

/// What is known of a KIngress.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Seen {
    /// The load balancer was not seen to follow yet.
    NotYet,
    /// The same, for too long.
    Late,
    /// It is taken to follow: nothing can be asked, or backends do not say by which version they were reached.
    Taken,
    /// It follows.
    Live,
}

/// Asks in the background, about one version of each KIngress.
pub struct Live {
    shared: Arc<Shared>,
}

struct Shared {
    clock: Clock,
    vips: Arc<dyn Vips>,
    cancel: CancellationToken,
    on_change: Box<dyn Fn() + Send + Sync>,
    entries: Mutex<HashMap<RevisionKey, Entry>>,
}

struct Entry {
    version: String,
    seen: Seen,
    _stop: DropGuard,
}

/// A question to every address of a load balancer.
#[derive(Clone, Debug)]
struct Target {
    balancer: String,
    question: Question,
    hash: String,
}

impl Live {
    /// Nothing is asked yet. `on_change` is called when something becomes known.
    pub fn new(
        clock: Clock,
        vips: Arc<dyn Vips>,
        cancel: CancellationToken,
        on_change: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        let shared = Shared { clock, vips, cancel, on_change: Box::new(on_change), entries: Mutex::default() };
        Self { shared: Arc::new(shared) }
    }

    /// Asks no more about any but these.
    pub fn keep(&self, keys: &BTreeSet<RevisionKey>) {
        let mut entries = self.shared.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.retain(|key, _| keys.contains(key));
    }

    /// Whether it was told, and not only taken, that the load balancer has the version last looked at.
    pub fn is_proven(&self, key: &RevisionKey) -> bool {
        let entries = self.shared.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.get(key).is_some_and(|entry| entry.seen == Seen::Live)
    }

    /// What is known of the present version of `key`; a new one is asked about from now on. With `unasked` time alone
    /// decides.
    pub fn look(
        &self,
        key: &RevisionKey,
        parts: &[(String, Part)],
        names: &BTreeMap<Side, String>,
        unasked: bool,
    ) -> Seen {
        let targets = if unasked { Vec::new() } else { targets(parts, names) };
        let version = digest(format!("{parts:?}{names:?}{unasked}").as_bytes(), 16);
        let mut entries = self.shared.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = entries.get(key).filter(|entry| entry.version == version) {
            return entry.seen;
        }
        let stop = self.shared.cancel.child_token();
        let entry = Entry { version: version.clone(), seen: Seen::NotYet, _stop: stop.clone().drop_guard() };
        // Whoever asked about the version before stops with its entry.
        entries.insert(key.clone(), entry);
        drop(entries);
        let (shared, key) = (Arc::clone(&self.shared), key.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = shared.ask(&key, &version, &targets) => {}
            }
        });
        Seen::NotYet
    }
}

impl Shared {
    async fn ask(&self, key: &RevisionKey, version: &str, targets: &[Target]) {
        if targets.is_empty() {
            tokio::time::sleep(UNSEEN.to_std()).await;
            return self.tell(key, version, Seen::Taken);
        }
        let since = self.clock.now();
        let (mut good, mut proven, mut pause, mut late) = (0, true, PAUSE_FIRST, false);
        while good < IN_A_ROW {
            if let Some(told) = self.round(targets, since).await {
                good += 1;
                proven &= told;
                pause = PAUSE_FIRST;
                continue;
            }
            (good, proven) = (0, true);
            if !late && self.clock.now().since(since) >= LATE {
                late = true;
                self.tell(key, version, Seen::Late);
            }
            tokio::time::sleep(pause.to_std()).await;
            pause = Span::from_nanos(pause.nanos().saturating_mul(2)).min(PAUSE_MOST);
        }
        self.tell(key, version, if proven { Seen::Live } else { Seen::Taken });
    }

    /// One question to each address through each rule: `None` where one does not follow, and otherwise whether all said so.
    async fn round(&self, targets: &[Target], since: Timestamp) -> Option<bool> {
        let mut told = true;
        for target in targets {
            let resolved = self.vips.resolve(&target.balancer, target.question.secure).await;
            let addresses = resolved.ok()?;
            if addresses.is_empty() {
                return None;
            }
            for address in addresses {
                let patient = self.clock.now().since(since) < SILENT;
                let answer = target.question.ask(address, Topic::Version).await;
                let good = match &answer {
                    Ok(Reply { status: 200, hash: Some(hash), .. }) => *hash == target.hash,
                    Ok(Reply { status: 200, hash: None, .. }) => {
                        told = false;
                        !patient
                    }
                    // No such route, or nobody behind it yet.
                    Ok(Reply { status: 404 | 503, .. }) | Err(_) => false,
                    // Whatever it is, it was not the load balancer that had no rule.
                    Ok(_) => {
                        told = false;
                        true
                    }
                };
                if !good {
                    debug!(%address, host = target.question.host, ?answer, "the load balancer does not follow yet");
                    return None;
                }
            }
        }
        Some(told)
    }

    fn tell(&self, key: &RevisionKey, version: &str, seen: Seen) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = entries.get_mut(key).filter(|entry| entry.version == version) {
            entry.seen = seen;
            drop(entries);
            (self.on_change)();
        }
    }
}

/// One question for each rule that can be asked, by each listener it stands on.
fn targets(parts: &[(String, Part)], names: &BTreeMap<Side, String>) -> Vec<Target> {
    let mut targets = Vec::new();
    for (_, part) in parts {
        let Some(balancer) = names.get(&part.side) else { continue };
        for secure in part.listeners() {
            targets.extend(part.rules.iter().filter_map(|rule| target(rule, balancer, secure, part.grpc)));
        }
    }
    targets
}

fn target(rule: &Rule, balancer: &str, secure: bool, grpc: bool) -> Option<Target> {
    let forwards = rule.actions.iter().any(|action| matches!(action, Action::ForwardGroup { .. }));
    if !forwards || rule.hosts().all(|host| host.contains('*')) {
        return None;
    }
    // Where versions are told by rules of their own, those are the ones to ask.
    let hash = hash_of(rule)?.to_owned();
    Some(Target { balancer: balancer.to_owned(), question: Question::of(rule, secure, grpc), hash })
}
