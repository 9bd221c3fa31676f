//! Whether a load balancer follows: asked of each of its addresses, through each rule, which version of the rules is live.
//!
//! The question is Knative's own probe: it goes through the rule to whatever stands behind it, and that answers with the
//! `K-Network-Hash` the rule has set. Activators and queue-proxies answer it themselves, so it wakes nothing.

use crate::clock::Clock;
use crate::routing::model::digest;
use crate::routing::model::{Action, Condition, Rule, Side};
use crate::routing::translate::Part;
use crate::units::{RevisionKey, Span, Timestamp};
use futures::future::BoxFuture;
use http_body_util::Empty;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::net::TcpStream;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::debug;

/// Good answers in a row from each address.
const IN_A_ROW: u32 = 3;
/// How long one question may take.
const QUESTION: Span = Span::from_seconds(2);
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

/// How the addresses of a load balancer are found.
pub trait Vips: Send + Sync {
    /// Where plain HTTP is answered under this name, one for each address.
    fn resolve<'a>(&'a self, name: &'a str) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>>;
}

/// Asks the operating system; plain HTTP is on port 80.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemVips;

impl Vips for SystemVips {
    fn resolve<'a>(&'a self, name: &'a str) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        Box::pin(async move { Ok(tokio::net::lookup_host((name, 80)).await?.collect()) })
    }
}

/// What is known of a KIngress.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Seen {
    /// The load balancer was not seen to follow yet.
    NotYet,
    /// The same, for too long.
    Late,
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
    host: String,
    path: String,
    headers: Vec<(String, String)>,
    hash: Option<String>,
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
            return self.tell(key, version, Seen::Live);
        }
        let since = self.clock.now();
        let (mut good, mut pause, mut late) = (0, PAUSE_FIRST, false);
        while good < IN_A_ROW {
            if self.round(targets, since).await {
                good += 1;
                pause = PAUSE_FIRST;
                continue;
            }
            good = 0;
            if !late && self.clock.now().since(since) >= LATE {
                late = true;
                self.tell(key, version, Seen::Late);
            }
            tokio::time::sleep(pause.to_std()).await;
            pause = Span::from_nanos(pause.nanos().saturating_mul(2)).min(PAUSE_MOST);
        }
        self.tell(key, version, Seen::Live);
    }

    /// One question to each address through each rule.
    async fn round(&self, targets: &[Target], since: Timestamp) -> bool {
        for target in targets {
            let Ok(addresses) = self.vips.resolve(&target.balancer).await else { return false };
            if addresses.is_empty() {
                return false;
            }
            for address in addresses {
                let patient = self.clock.now().since(since) < SILENT;
                let answer = tokio::time::timeout(QUESTION.to_std(), question(address, target)).await;
                let good = match &answer {
                    Ok(Ok((200, hash))) => *hash == target.hash || (hash.is_none() && !patient),
                    // No such route, or nobody behind it yet.
                    Ok(Ok((404 | 503, _)) | Err(_)) | Err(_) => false,
                    // Whatever it is, it was not the load balancer that had no rule.
                    Ok(Ok(_)) => true,
                };
                if !good {
                    debug!(%address, host = target.host, ?answer, "the load balancer does not follow yet");
                    return false;
                }
            }
        }
        true
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

/// The status, and the version it was reached by.
async fn question(address: SocketAddr, target: &Target) -> anyhow::Result<(u16, Option<String>)> {
    let stream = TcpStream::connect(address).await?;
    let (mut send, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let mut request = hyper::Request::get(&target.path)
        .header("Host", &target.host)
        .header("User-Agent", "Knative-Ingress-Probe")
        .header("K-Network-Probe", "probe")
        .header("K-Network-Hash", "override");
    for (key, value) in &target.headers {
        request = request.header(key, value);
    }
    let answer = send.send_request(request.body(Empty::<Bytes>::new())?).await;
    connection.abort();
    let answer = answer?;
    let hash = answer.headers().get("K-Network-Hash").and_then(|hash| hash.to_str().ok());
    Ok((answer.status().as_u16(), hash.map(ToOwned::to_owned)))
}

/// One question for each rule that can be asked over plain HTTP.
fn targets(parts: &[(String, Part)], names: &BTreeMap<Side, String>) -> Vec<Target> {
    let mut targets = Vec::new();
    for (_, part) in parts.iter().filter(|(_, part)| part.http && !part.redirect) {
        let Some(balancer) = names.get(&part.side) else { continue };
        targets.extend(part.rules.iter().filter_map(|rule| target(rule, balancer)));
    }
    targets
}

fn target(rule: &Rule, balancer: &str) -> Option<Target> {
    let forwards = rule.actions.iter().any(|action| matches!(action, Action::ForwardGroup { .. }));
    let host = rule.hosts().find(|host| !host.contains('*')).filter(|_| forwards)?.to_owned();
    let hash = rule.actions.iter().find_map(|action| match action {
        Action::InsertHeader { config } if config.key == "K-Network-Hash" => Some(config.value.clone()),
        _ => None,
    });
    // Where versions are told by rules of their own, those are the ones to ask.
    let hash = Some(hash?);
    let (mut headers, mut cookies) = (Vec::new(), Vec::new());
    for condition in &rule.conditions {
        match condition {
            Condition::Header { config } if config.key == "K-Network-Hash" => {}
            // Any of the values will do, and whatever stands for a wildcard.
            Condition::Header { config } => {
                headers.push((config.key.clone(), config.values.first()?.replace(['*', '?'], "x")));
            }
            Condition::Cookie { config } => {
                let cookie = config.values.first()?;
                cookies.push(format!("{}={}", cookie.key, cookie.value));
            }
            Condition::Host { .. } => {}
        }
    }
    if !cookies.is_empty() {
        headers.push(("Cookie".to_owned(), cookies.join("; ")));
    }
    let path = format!("{}/healthz", rule.path.trim_end_matches('/'));
    Some(Target { balancer: balancer.to_owned(), host, path, headers, hash })
}
