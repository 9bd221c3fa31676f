//! What was asked of the API, counted; and faults to order, so that a test can see how a controller takes them.

use super::status;
use kube::core::Status;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::watch;

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verb {
    /// Reads one object.
    Get,
    /// Reads many.
    List,
    /// Follows changes.
    Watch,
    /// Makes an object.
    Create,
    /// Replaces an object.
    Update,
    /// Changes an object by a merge, JSON or strategic merge patch.
    Patch,
    /// Changes or makes an object by server-side apply.
    Apply,
    /// Deletes an object.
    Delete,
    /// Deletes many.
    DeleteCollection,
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Watch => "watch",
            Self::Create => "create",
            Self::Update => "update",
            Self::Patch => "patch",
            Self::Apply => "apply",
            Self::Delete => "delete",
            Self::DeleteCollection => "deletecollection",
        })
    }
}

/// What to do to the requests that match.
#[derive(Clone, Debug)]
pub struct Fault {
    /// Only this verb; absent is any.
    pub verb: Option<Verb>,
    /// Only this resource, qualified and with its subresource, such as `deployments.apps` or `deployments.apps/scale`;
    /// absent is any.
    pub resource: Option<String>,
    /// Only this object; absent is any.
    pub name: Option<String>,
    /// How many requests meet it; afterwards the fault is gone. `u32::MAX` is for ever.
    pub times: u32,
    /// What they meet.
    pub effect: Effect,
}

impl Fault {
    /// A fault for every request, once.
    pub fn once(effect: Effect) -> Self {
        Self { verb: None, resource: None, name: None, times: 1, effect }
    }

    /// The same fault, for this verb only.
    #[must_use]
    pub fn on(mut self, verb: Verb) -> Self {
        self.verb = Some(verb);
        self
    }

    /// The same fault, for this resource only; see [`Fault::resource`].
    #[must_use]
    pub fn of(mut self, resource: &str) -> Self {
        self.resource = Some(resource.to_owned());
        self
    }

    /// The same fault, for this object only.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        self.name = Some(name.to_owned());
        self
    }

    /// The same fault, for so many requests.
    #[must_use]
    pub fn times(mut self, times: u32) -> Self {
        self.times = times;
        self
    }

    fn matches(&self, verb: Verb, resource: &str, name: &str) -> bool {
        self.verb.is_none_or(|wanted| wanted == verb)
            && self.resource.as_ref().is_none_or(|wanted| wanted == resource)
            && self.name.as_ref().is_none_or(|wanted| wanted == name)
    }
}

/// What a request meets.
#[derive(Clone, Debug)]
pub enum Effect {
    /// It is not carried out; this is the answer. [`Effect::fail`] makes one from a code.
    Fail(Box<Status>),
    /// It is carried out this much later.
    Delay(Duration),
    /// It is carried out, and the answer never comes: the connection breaks.
    LoseAnswer,
}

impl Effect {
    /// A failure with an HTTP code and the reason clients know it by.
    pub fn fail(code: u16) -> Self {
        let reason = match code {
            403 => "Forbidden",
            404 => "NotFound",
            409 => "Conflict",
            410 => "Expired",
            429 => "TooManyRequests",
            503 => "ServiceUnavailable",
            504 => "Timeout",
            401 => "Unauthorized",
            _ => "InternalError",
        };
        Self::Fail(status::failure(code, reason, "a fault that was asked for"))
    }

    /// A failure after which the client is to come back in so many seconds.
    pub fn fail_for(code: u16, seconds: u32) -> Self {
        let mut effect = Self::fail(code);
        if let Self::Fail(status) = &mut effect {
            status.details = Some(kube::core::response::StatusDetails {
                name: String::new(),
                group: String::new(),
                kind: String::new(),
                uid: String::new(),
                causes: Vec::new(),
                retry_after_seconds: seconds,
            });
        }
        effect
    }
}

/// Counters of requests, and the faults in force. Nothing is faulty until it is asked for.
#[derive(Debug)]
pub struct Faults {
    any: AtomicBool,
    ordered: Mutex<Vec<Fault>>,
    requests: Mutex<BTreeMap<(Verb, String), u64>>,
    /// Which resource's watches end now, and a number that makes each call a change.
    dropped: watch::Sender<(u64, Option<String>)>,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            any: AtomicBool::new(false),
            ordered: Mutex::default(),
            requests: Mutex::default(),
            dropped: watch::Sender::new((0, None)),
        }
    }
}

impl Faults {
    /// Puts a fault in force. Of several that match a request, the one added first counts.
    pub fn add(&self, fault: Fault) {
        self.lock().push(fault);
        self.any.store(true, Ordering::Release);
    }

    /// Takes all faults back.
    pub fn clear(&self) {
        self.lock().clear();
        self.any.store(false, Ordering::Release);
    }

    /// Ends the watches of a qualified resource that are open now; of all resources when absent. They end as they do
    /// when a server goes away: without a word.
    pub fn drop_watches(&self, resource: Option<&str>) {
        self.dropped.send_modify(|(count, dropped)| {
            *count += 1;
            *dropped = resource.map(str::to_owned);
        });
    }

    /// How many requests of a verb there were for a resource, qualified and with its subresource, such as `pods` or
    /// `deployments.apps/scale`.
    pub fn count(&self, verb: Verb, resource: &str) -> u64 {
        self.requests().get(&(verb, resource.to_owned())).copied().unwrap_or_default()
    }

    /// All requests since the start, by verb and resource.
    pub fn counts(&self) -> BTreeMap<(Verb, String), u64> {
        self.requests().clone()
    }

    /// How many requests there were that write.
    pub fn writes(&self) -> u64 {
        let reads = [Verb::Get, Verb::List, Verb::Watch];
        self.requests().iter().filter(|((verb, _), _)| !reads.contains(verb)).map(|(_, count)| count).sum()
    }

    /// Counts a request, and says what it meets.
    pub(super) fn meet(&self, verb: Verb, resource: &str, name: &str) -> Option<Effect> {
        {
            let mut requests = self.requests();
            if let Some(count) = requests.get_mut(&(verb, resource.to_owned())) {
                *count += 1;
            } else {
                requests.insert((verb, resource.to_owned()), 1);
            }
        }
        if !self.any.load(Ordering::Acquire) {
            return None;
        }
        let mut faults = self.lock();
        let index = faults.iter().position(|fault| fault.matches(verb, resource, name))?;
        let effect = faults[index].effect.clone();
        if faults[index].times != u32::MAX {
            faults[index].times = faults[index].times.saturating_sub(1);
            if faults[index].times == 0 {
                faults.remove(index);
            }
        }
        Some(effect)
    }

    /// Changes when watches are to end.
    pub(super) fn dropped(&self) -> watch::Receiver<(u64, Option<String>)> {
        self.dropped.subscribe()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Fault>> {
        self.ordered.lock().expect("nothing panics while it holds the faults")
    }

    fn requests(&self) -> std::sync::MutexGuard<'_, BTreeMap<(Verb, String), u64>> {
        self.requests.lock().expect("nothing panics while it holds the counters")
    }
}
