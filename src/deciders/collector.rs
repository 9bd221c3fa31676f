//! Scrapes the pods of each revision once a second and records what they say.

use crate::clock::Clock;
use crate::deciders::Deciders;
use crate::deciders::schedule::{Cadence, Schedule};
use crate::k8s::dial::Dial;
use crate::k8s::pods::PodIndex;
use crate::observe::metrics::knative::ScrapeTimes;
use crate::observe::metrics::{self, Histogram, Page, Source};
use crate::stats::fetch::{Client, Limits};
use crate::stats::scrape::{ScrapeError, Scraper, Settings};
use crate::units::{RevisionKey, Span};
use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How often a revision is scraped.
const EVERY: Span = Span::SECOND;

/// Told of each revision whose last scrape error differs from the one before.
pub type OnError = Box<dyn Fn(&RevisionKey) + Send + Sync>;

/// Who counts the requests that come to a pod through an activator.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Proxied {
    /// The activator, which reports them itself.
    ByActivators,
    /// The pod: no activator reports to this process.
    ByPods,
}

/// All scrapers of this process. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Collector {
    shared: Arc<Shared>,
}

struct Shared {
    clock: Clock,
    client: Client,
    settings: Settings,
    pods: PodIndex,
    deciders: Deciders,
    on_error: OnError,
    proxied: Proxied,
    targets: Mutex<HashMap<RevisionKey, Target>>,
    turns: Schedule,
    lives: AtomicU64,
    outcomes: [AtomicU64; OUTCOMES.len()],
    took: Histogram,
}

/// What becomes of a scrape.
const OUTCOMES: [&str; 6] = ["ok", "no_pods", "pods_exhausted", "no_direct_access", "service", "still_running"];
/// The place of the last of them: a turn that was dropped because the scrape before it was not done.
const STILL_RUNNING: usize = 5;

struct Target {
    /// The private Service it was made for.
    service: String,
    scraper: Arc<Scraper>,
    stable_window: Span,
    /// Whether a scrape is under way; the turns that come meanwhile are dropped.
    busy: Arc<AtomicBool>,
    cadence: Cadence,
    life: u64,
    /// Where the time its scrapes take is counted for its configuration.
    times: Option<Arc<ScrapeTimes>>,
    last_error: Option<ScrapeError>,
}

impl fmt::Debug for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Collector").field("revisions", &self.lock().len()).finish_non_exhaustive()
    }
}

impl Source for Collector {
    fn show(&self, page: &mut Page<'_>) {
        page.gauge("ebb_scraped_revisions", "Revisions whose pods are scraped.", self.lock().len());
        page.counters(
            "ebb_scrapes_total",
            "Scrapes of a revision, by what came of them.",
            ["outcome"],
            OUTCOMES.iter().zip(&self.shared.outcomes).map(|(name, counter)| ([*name], metrics::count(counter))),
        );
        page.histogram(
            "ebb_scrape_duration_seconds",
            "How long the scrape of one revision takes, all its pods together.",
            &self.shared.took,
        );
    }
}

impl Collector {
    /// Scrapes nothing yet. Must be called in a tokio runtime.
    pub fn new(
        clock: Clock,
        dial: Arc<dyn Dial>,
        settings: Settings,
        pods: PodIndex,
        deciders: Deciders,
        proxied: Proxied,
        on_error: OnError,
    ) -> Self {
        let client = Client::new(dial, clock, Limits::default(), settings.compat);
        Self {
            shared: Arc::new(Shared {
                clock,
                client,
                settings,
                pods,
                deciders,
                on_error,
                proxied,
                targets: Mutex::default(),
                turns: Schedule::default(),
                lives: AtomicU64::new(0),
                outcomes: std::array::from_fn(|_| AtomicU64::new(0)),
                took: metrics::latencies(),
            }),
        }
    }

    /// Scrapes the pods behind the private `service` of a revision from now on. An empty `service` scrapes nothing and
    /// forgets the last error.
    pub fn ensure(&self, key: &RevisionKey, service: &str, stable_window: Span) {
        if service.is_empty() {
            self.remove(key);
            return;
        }
        let mut targets = self.lock();
        let scraper = Scraper::new(self.shared.client.clone(), service, key.namespace(), self.shared.settings);
        if let Some(target) = targets.get_mut(key) {
            let strict = !self.shared.settings.compat.remember_mesh;
            if strict || target.service != service {
                target.scraper = Arc::new(scraper.replacing(&target.scraper));
                service.clone_into(&mut target.service);
            }
            target.stable_window = stable_window;
            return;
        }
        let life = self.shared.lives.fetch_add(1, Ordering::Relaxed);
        let now = self.shared.clock.now();
        // Taken over from another process, scrapes go on in step with those before, so that no second has two or none.
        let cadence = match self.shared.deciders.last_scrape(key) {
            Some(last) if last <= now => Cadence::resuming(last, EVERY, now),
            _ => Cadence::starting(now, EVERY),
        };
        targets.insert(
            key.clone(),
            Target {
                service: service.to_owned(),
                scraper: Arc::new(scraper),
                stable_window,
                busy: Arc::default(),
                cadence,
                life,
                times: None,
                last_error: None,
            },
        );
        drop(targets);
        self.shared.turns.add(cadence.next(), life, key.clone());
    }

    /// Counts the time the scrapes of a revision take in `times` too, from now on.
    pub fn measure(&self, key: &RevisionKey, times: impl FnOnce() -> Arc<ScrapeTimes>) {
        if let Some(target) = self.lock().get_mut(key) {
            target.times.get_or_insert_with(times);
        }
    }

    /// Stops scraping a revision. A scrape under way ends by itself and is not recorded.
    pub fn remove(&self, key: &RevisionKey) {
        self.lock().remove(key);
    }

    /// Stops scraping the revisions `which` chooses, as [`remove`](Self::remove) does.
    pub fn forget(&self, which: impl Fn(&RevisionKey) -> bool) {
        self.lock().retain(|key, _| !which(key));
    }

    /// Why the last scrape of a revision brought nothing, if it did not.
    pub fn last_error(&self, key: &RevisionKey) -> Option<ScrapeError> {
        self.lock().get(key)?.last_error.clone()
    }

    /// Scrapes until `cancel`; then waits for the scrapes under way.
    pub async fn run(&self, cancel: CancellationToken) {
        let scrapes = TaskTracker::new();
        loop {
            let (key, life) = tokio::select! {
                () = cancel.cancelled() => break,
                turn = self.shared.turns.next(&self.shared.clock) => turn,
            };
            if let Some((scraper, window, busy)) = self.turn(&key, life) {
                let this = self.clone();
                let cancel = cancel.clone();
                scrapes.spawn(async move {
                    tokio::select! {
                        () = this.scrape(&key, life, &scraper, window) => {}
                        () = cancel.cancelled() => {}
                    }
                    busy.store(false, Ordering::Release);
                });
            }
        }
        scrapes.close();
        scrapes.wait().await;
    }

    /// Schedules the next turn and says what to scrape in this one, unless the last is still under way.
    fn turn(&self, key: &RevisionKey, life: u64) -> Option<(Arc<Scraper>, Span, Arc<AtomicBool>)> {
        let mut targets = self.lock();
        let target = targets.get_mut(key).filter(|target| target.life == life)?;
        target.cadence.take(self.shared.clock.now());
        self.shared.turns.add(target.cadence.next(), life, key.clone());
        if target.busy.swap(true, Ordering::Acquire) {
            self.count(STILL_RUNNING);
            return None;
        }
        Some((Arc::clone(&target.scraper), target.stable_window, Arc::clone(&target.busy)))
    }

    async fn scrape(&self, key: &RevisionKey, life: u64, scraper: &Scraper, stable_window: Span) {
        let pods = self.shared.pods.ready_pods(key);
        let started = self.shared.clock.now();
        let result = scraper.scrape(&pods, started, stable_window).await;
        self.count(match &result {
            Ok(Some(_)) => 0,
            Ok(None) => 1,
            Err(ScrapeError::PodsExhausted) => 2,
            Err(ScrapeError::DirectScrapingNotAvailable) => 3,
            Err(ScrapeError::Service { .. } | ScrapeError::NoEndpoints | ScrapeError::NoRevision(_)) => 4,
        });
        let took = (!matches!(result, Ok(None))).then(|| self.shared.clock.now().since(started));
        if let Some(took) = took {
            self.shared.took.observe(took.seconds_f64());
        }
        let mut targets = self.lock();
        let Some(target) = targets.get_mut(key).filter(|target| target.life == life) else { return };
        if let (Some(times), Some(took)) = (&target.times, took) {
            times.observe(took);
        }
        let (load, error) = match result {
            Ok(load) => (Ok(load), None),
            Err(error) => (Err(()), Some(error)),
        };
        let changed = target.last_error != error;
        target.last_error = error;
        drop(targets);
        match load {
            // Recorded at the time the answers are here, not at the time they were asked for.
            Ok(Some(load)) => {
                let load = match self.shared.proxied {
                    Proxied::ByActivators => load,
                    Proxied::ByPods => load.with_proxied(),
                };
                self.shared.deciders.record_scraped(key, &load);
            }
            Ok(None) => self.shared.deciders.nothing_to_scrape(key),
            Err(()) => self.shared.deciders.scrape_failed(key),
        }
        if changed {
            (self.shared.on_error)(key);
        }
    }

    fn count(&self, outcome: usize) {
        self.shared.outcomes[outcome].fetch_add(1, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<RevisionKey, Target>> {
        self.shared.targets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
