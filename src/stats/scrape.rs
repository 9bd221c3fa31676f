//! The load of a whole revision from a sample of its pods.
//!
//! Pods are asked directly where that works. In a service mesh it may not: the mesh answers 502 or 503 in the pod's
//! place. Then the revision's private Service is asked again and again until enough different pods have answered.
//!
//! # Decisions
//!
//! - One pod that cannot be reached voids the scrape where there is no other to ask in its place (up to four pods, all
//!   are needed). That is the reference's rule; guessing from fewer would change how revisions scale.
//! - A scrape runs in its caller's task: a sample has at most sixteen pods, and dropping the future cancels all of it.

use crate::api::pods::{ReadyPod, split_by_age};
use crate::engine::Load;
use crate::stats::fetch::{Client, Fetch, FetchError};
use crate::stats::sample;
use crate::stats::wire::Stat;
use crate::units::{Compat, Span, Timestamp};
use bytes::Bytes;
use futures::FutureExt as _;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use rand::seq::SliceRandom as _;
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use tracing::debug;

/// How often one worker asks a Service before a failure is final.
const MOST_TRIES: u32 = 10;

pub use crate::config::network::MeshMode;

/// What is the same for all scrapers of a process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Whether pods can be asked directly.
    pub mode: MeshMode,
    /// Whether a load balancer passes requests for one pod through to it, if asked by header.
    pub passthrough: bool,
    /// Where to differ from the reference.
    pub compat: Compat,
}

/// Why there are no data this time.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
pub enum ScrapeError {
    /// It is not known which pods there are.
    #[error("failed to get endpoints")]
    NoEndpoints,
    /// The Metric does not say whose pods to ask.
    #[error("label \"serving.knative.dev/revision\" not found or empty in Metric {0}")]
    NoRevision(String),
    /// Too few pods answered.
    #[error("pods exhausted")]
    PodsExhausted,
    /// Every pod answered as a mesh does.
    #[error("all pod scrapes returned 503 error")]
    DirectScrapingNotAvailable,
    /// The Service did not lead to enough pods.
    #[error("unsuccessful scrape, sampleSize={sample}: {cause}")]
    Service {
        /// How many pods were needed.
        sample: usize,
        /// The first failure that was final.
        cause: FetchError,
    },
}

impl ScrapeError {
    /// The same for people; its text is the reference's.
    pub fn in_words(&self) -> String {
        match self {
            Self::NoEndpoints => "it is not known which pods there are".to_owned(),
            Self::PodsExhausted => "too few of its pods answered on port 9090".to_owned(),
            Self::DirectScrapingNotAvailable => "every pod that was asked answered 503, as a mesh does".to_owned(),
            Self::NoRevision(_) | Self::Service { .. } => self.to_string(),
        }
    }
}

/// Scrapes one revision.
pub struct Scraper<F = Client> {
    fetch: F,
    /// `SERVICE.NAMESPACE`.
    host: String,
    settings: Settings,
    /// Cleared for good once the Service answered where pods did not.
    addressable: AtomicBool,
}

impl<F: Fetch> Scraper<F> {
    /// A scraper for the pods behind the private Service `target` of `namespace`, which is only asked where pods
    /// cannot be.
    pub fn new(fetch: F, target: &str, namespace: &str, settings: Settings) -> Self {
        let host = format!("{target}.{namespace}");
        Self { fetch, host, settings, addressable: AtomicBool::new(true) }
    }

    /// The scraper that replaces `previous`: while the target is the same, it remembers whether pods can be asked
    /// directly (the reference finds out again, by failing, after every reconcile of the Metric).
    #[must_use]
    pub fn replacing(self, previous: &Self) -> Self {
        if self.settings.compat.remember_mesh && self.host == previous.host {
            self.addressable.store(previous.addressable(), Ordering::Relaxed);
        }
        self
    }

    /// Whether pods can be asked directly, as far as is known.
    pub fn addressable(&self) -> bool {
        self.addressable.load(Ordering::Relaxed)
    }

    /// The load of all `pods` now, or `None` when there are none.
    ///
    /// Pods at least `stable_window` old at `now` are asked before younger ones, whose averages may be low because
    /// they have only begun.
    pub async fn scrape(
        &self,
        pods: &[ReadyPod],
        now: Timestamp,
        stable_window: Span,
    ) -> Result<Option<Load>, ScrapeError> {
        if pods.is_empty() {
            return Ok(None);
        }
        let load = match self.settings.mode {
            MeshMode::Enabled => self.ask_service(pods.len(), stable_window).await,
            MeshMode::Disabled => self.ask_pods(pods, now, stable_window).await,
            MeshMode::Auto => self.find_out(pods, now, stable_window).await,
        };
        load.map(Some)
    }

    async fn find_out(&self, pods: &[ReadyPod], now: Timestamp, stable_window: Span) -> Result<Load, ScrapeError> {
        let addressable = self.addressable();
        if addressable || self.settings.passthrough {
            match self.ask_pods(pods, now, stable_window).await {
                Err(ScrapeError::DirectScrapingNotAvailable) if !self.settings.passthrough => {}
                done => return done,
            }
        }
        let load = self.ask_service(pods.len(), stable_window).await?;
        if addressable {
            self.addressable.store(false, Ordering::Relaxed);
        }
        Ok(load)
    }

    /// Asks a sample of the pods. Each that fails is replaced by the next one, until there is none.
    async fn ask_pods(&self, pods: &[ReadyPod], now: Timestamp, stable_window: Span) -> Result<Load, ScrapeError> {
        let size = sample::size(pods.len());
        let (mut candidates, mut younger) = split_by_age(pods, now, stable_window);
        // Only the half that is cut off somewhere needs to be in random order.
        if candidates.len() < size { &mut younger } else { &mut candidates }.shuffle(&mut rand::rng());
        candidates.append(&mut younger);

        let mut candidates = candidates.into_iter();
        let mut asked: FuturesUnordered<_> = candidates.by_ref().take(size).map(|pod| self.ask_pod(pod)).collect();
        let mut loads = Vec::with_capacity(size);
        let mut unlike_mesh = false;
        while let Some(answer) = asked.next().await {
            let error = match answer {
                Ok(stat) => {
                    loads.push(stat.load());
                    continue;
                }
                Err(error) => error,
            };
            debug!(%error, "a pod did not answer a scrape");
            unlike_mesh |= !error.is_mesh_like();
            if let Some(pod) = candidates.next() {
                asked.push(self.ask_pod(pod));
                continue;
            }
            // With no other pod to ask the scrape has failed. What its siblings already know still counts.
            while let Some(answer) = asked.next().now_or_never().flatten() {
                match answer {
                    Ok(stat) => loads.push(stat.load()),
                    Err(error) => unlike_mesh |= !error.is_mesh_like(),
                }
            }
            // In the reference a sibling that is cancelled has failed in a way no mesh does.
            unlike_mesh |= !asked.is_empty() && !self.settings.compat.cancelled_scrape_is_no_verdict;
            return Err(if loads.is_empty() && !unlike_mesh {
                ScrapeError::DirectScrapingNotAvailable
            } else {
                ScrapeError::PodsExhausted
            });
        }
        Ok(sample::of_population(&loads, pods.len()))
    }

    async fn ask_pod(&self, pod: &ReadyPod) -> Result<Stat, FetchError> {
        let ip = pod.ip.ok_or(FetchError::NoAddress)?;
        self.fetch.pod(ip, self.settings.passthrough.then_some(self.host.as_str())).await
    }

    /// Asks the Service until it has led to enough different pods.
    ///
    /// Each of as many workers as pods are needed goes on until it meets an old pod; the young ones it meets on the way
    /// are kept for want of old ones.
    async fn ask_service(&self, population: usize, stable_window: Span) -> Result<Load, ScrapeError> {
        let size = sample::size(population);
        let ask = async |tries: u32| (tries, self.fetch.service(&self.host).await);
        let mut workers: FuturesUnordered<_> = (0..size).map(|_| ask(1)).collect();
        let mut seen: HashSet<Bytes> = HashSet::new();
        let mut old = Vec::with_capacity(size);
        let mut young = Vec::with_capacity(size);
        while let Some((tries, answer)) = workers.next().await {
            let answer = answer
                .and_then(|stat| if seen.insert(stat.pod_name.clone()) { Ok(stat) } else { Err(FetchError::Seen) });
            match answer {
                Ok(stat) if stat.process_uptime >= stable_window.seconds_f64() => old.push(stat.load()),
                Ok(stat) if young.len() < size => {
                    young.push(stat.load());
                    workers.push(ask(tries + 1));
                }
                // All the young pods that could ever be needed have been met.
                Ok(_) => {}
                Err(FetchError::Seen) if tries >= MOST_TRIES && old.len() + young.len() >= size => break,
                Err(cause) if tries >= MOST_TRIES => return Err(ScrapeError::Service { sample: size, cause }),
                Err(_) => workers.push(ask(tries + 1)),
            }
        }
        old.append(&mut young);
        old.truncate(size);
        Ok(sample::of_population(&old, population))
    }
}
