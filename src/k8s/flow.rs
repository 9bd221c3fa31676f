//! The gate every write of the autoscaler goes through.
//!
//! There is no fixed rate. What is bounded is the number of writes in flight; the rest waits and is let through by
//! [`Urgency`], first come first served within one. Three rules keep it useful when the API server is slow:
//!
//! - The bound follows the server: one more for each full round of writes that had to wait and came back well, half as
//!   many after a 429, a 503 or an attempt without an answer in time.
//! - Writes that can wait never fill it. Status and events have half of the places at most, and they together with
//!   scaling down and routing three quarters, so that a revision at zero finds a place at once.
//! - One place in four goes to whatever else has waited longest, once that is [`AGED`]. So nothing waits for ever, and the
//!   urgent keep the other three.
//!
//! Leases do not come this way: they are few, they go when they are due, and one that comes late is lost.
//!
//! A write that was refused with 429 was not carried out and goes again, in its old place, when [`Pace`] allows. One
//! without an answer, or with 502, 503 or 504, goes again after a jittered back-off, a few times; every write of Ebb may
//! be carried out twice without harm.

use crate::clock::Clock;
use crate::k8s::pace::{Kind, Pace, back_off, jittered};
use crate::observe::metrics::{self, Histogram, Page, Source, count};
use crate::units::{Span, Timestamp, count_f64};
use kube::Client;
use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// Writes in flight at the start, …
const PLACES_FIRST: f64 = 32.0;
/// … when the server refuses over and over, …
const PLACES_LEAST: f64 = 4.0;
/// … and at most: each is a connection of its own.
const PLACES_MOST: f64 = 128.0;
/// The bound is halved once for all that was in flight together.
const HALVE_EVERY: Span = Span::SECOND;
/// How long a write waits before it has a right to one place in four.
pub const AGED: Span = Span::from_seconds(5);
/// How long one attempt may take.
const ATTEMPT: Span = Span::from_seconds(10);
/// How long a write is tried in all; then its object is looked at again, which may want something else by then.
const PATIENCE: Span = Span::from_seconds(30);
/// Attempts that end without an answer before a write is given up.
const MISSES: u32 = 4;
/// The first pause after such an attempt …
const AGAIN_FIRST: Span = Span::from_millis(50);
/// … and the longest.
const AGAIN_MOST: Span = Span::from_seconds(2);

/// How urgent a write is, most urgent first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Urgency {
    /// Replicas of a revision at zero: requests are waiting for them.
    FromZero,
    /// More replicas.
    Up,
    /// Fewer replicas.
    Down,
    /// What routing and scraping need: the specs of ServerlessServices and Metrics.
    Routing,
    /// What is told of an object.
    Status,
    /// What is told to people.
    Event,
}

impl Urgency {
    /// All of them, most urgent first.
    pub const ALL: [Self; 6] = [Self::FromZero, Self::Up, Self::Down, Self::Routing, Self::Status, Self::Event];

    /// A name for logs and labels.
    pub const fn name(self) -> &'static str {
        match self {
            Self::FromZero => "from_zero",
            Self::Up => "up",
            Self::Down => "down",
            Self::Routing => "routing",
            Self::Status => "status",
            Self::Event => "event",
        }
    }

    /// The urgency of writing `to` replicas where there are `from`.
    pub const fn of_scale(from: i32, to: i32) -> Self {
        match (from, to) {
            (0, 1..) => Self::FromZero,
            (from, to) if from < to => Self::Up,
            _ => Self::Down,
        }
    }

    const fn index(self) -> usize {
        self as usize
    }

    /// The share of the places that this urgency and all lesser ones may have together.
    const fn share(self) -> f64 {
        match self {
            Self::FromZero | Self::Up => 1.0,
            Self::Down | Self::Routing => 0.75,
            Self::Status | Self::Event => 0.5,
        }
    }
}

/// Why a write was not carried out, or not known to be.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The API server answered so, or could not be asked.
    #[error(transparent)]
    Api(#[from] kube::Error),
    /// No answer came in time.
    #[error("the API server did not answer in time")]
    NoAnswer,
    /// The process is stopping. Nothing was sent.
    #[error("not written, the autoscaler is stopping")]
    Stopping,
}

impl WriteError {
    /// Whether the API server could not take it just now, which says nothing about the write itself.
    pub fn is_unavailable(&self) -> bool {
        match self {
            Self::Api(error) => !matches!(trouble(error), None | Some(Trouble::Internal)),
            Self::NoAnswer | Self::Stopping => true,
        }
    }

    /// Whether the object was changed by somebody else in between.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Api(error) if is_conflict(error))
    }

    /// Whether an object to be made is there already.
    pub fn is_already_there(&self) -> bool {
        matches!(self, Self::Api(kube::Error::Api(status)) if status.code == 409 && status.reason == "AlreadyExists")
    }

    /// Whether the object does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Api(kube::Error::Api(status)) if status.code == 404)
    }
}

/// Whether the object was changed by somebody else in between.
pub fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409 && status.reason == "Conflict")
}

/// The gate. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Flow {
    shared: Arc<Shared>,
}

struct Shared {
    clock: Clock,
    pace: Pace,
    client: Client,
    gate: Mutex<Gate>,
    stopping: CancellationToken,
    counters: [Counters; 6],
}

#[derive(Debug)]
struct Gate {
    waiting: BTreeMap<Ticket, Waiter>,
    next: u64,
    granted: u64,
    in_flight: [usize; 6],
    places: f64,
    places_most: f64,
    halved: Timestamp,
}

/// Urgency, then order of arrival.
type Ticket = (Urgency, u64);

#[derive(Debug)]
struct Waiter {
    since: Timestamp,
    enter: oneshot::Sender<()>,
}

#[derive(Debug)]
struct Counters {
    done: AtomicU64,
    failed: AtomicU64,
    refused: AtomicU64,
    waited: Histogram,
    took: Histogram,
}

impl Flow {
    /// A gate for writes by `client`, which must not retry by itself; see [`connect`](crate::k8s::pace::connect).
    pub fn new(client: Client, clock: Clock) -> Self {
        let pace = Pace::new(clock);
        let client = pace.client(client);
        let gate = Gate {
            waiting: BTreeMap::new(),
            next: 0,
            granted: 0,
            in_flight: [0; 6],
            places: PLACES_FIRST,
            places_most: PLACES_MOST,
            halved: Timestamp::default(),
        };
        Self {
            shared: Arc::new(Shared {
                clock,
                pace,
                client,
                gate: Mutex::new(gate),
                stopping: CancellationToken::new(),
                counters: std::array::from_fn(|_| Counters::new()),
            }),
        }
    }

    /// The client to read with, and to write with inside of [`Flow::write`]. It obeys `Retry-After`.
    pub fn client(&self) -> &Client {
        &self.shared.client
    }

    /// When requests may be sent.
    pub fn pace(&self) -> &Pace {
        &self.shared.pace
    }

    /// Sends nothing more: whatever waits fails at once. What is in flight is finished.
    pub fn stop(&self) {
        self.shared.stopping.cancel();
    }

    /// Carries out a write: waits for a place, makes an attempt, and makes another where that can help.
    ///
    /// `attempt` is called once a place is free, so it can choose then what to write. Dropping the future gives the
    /// place back.
    ///
    /// # Errors
    /// What the API server answered last, or why nothing was sent.
    pub async fn write<T, F, Fut>(&self, urgency: Urgency, mut attempt: F) -> Result<T, WriteError>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<T, kube::Error>>,
    {
        let shared = &*self.shared;
        let counters = &shared.counters[urgency.index()];
        let since = shared.clock.now();
        let ticket = (urgency, shared.lock().ticket());
        let mut misses = 0;
        loop {
            let asked = shared.clock.now();
            let place = self.place(ticket, since).await?;
            let started = shared.clock.now();
            counters.waited.observe(started.since(asked).seconds_f64());
            // Made only now, and on the heap: a request takes 10 kB, and thousands may wait for their turn.
            let request = Box::pin(attempt());
            let outcome = tokio::time::timeout(ATTEMPT.to_std(), request).await;
            let now = shared.clock.now();
            counters.took.observe(now.since(started).seconds_f64());
            let (error, trouble) = match outcome {
                Ok(Ok(value)) => {
                    counters.done.fetch_add(1, Ordering::Relaxed);
                    shared.lock().went_well();
                    return Ok(value);
                }
                Ok(Err(error)) => {
                    let trouble = trouble(&error);
                    (WriteError::Api(error), trouble)
                }
                Err(_) => (WriteError::NoAnswer, Some(Trouble::Missed)),
            };
            if matches!(trouble, Some(Trouble::Refused | Trouble::Missed)) {
                shared.lock().halve(now);
            }
            drop(place);
            if trouble == Some(Trouble::Refused) {
                counters.refused.fetch_add(1, Ordering::Relaxed);
            } else {
                counters.failed.fetch_add(1, Ordering::Relaxed);
            }
            let pause = match trouble {
                None | Some(Trouble::LoggedOut) => return Err(error),
                // The pause is kept by everybody, at the gate.
                Some(Trouble::Refused) => Span::ZERO,
                Some(Trouble::Missed | Trouble::Internal) => {
                    misses += 1;
                    if misses >= MISSES {
                        return Err(error);
                    }
                    jittered(back_off(AGAIN_FIRST, AGAIN_MOST, 2 * (misses - 1)), 0.5, 1.0)
                }
            };
            if PATIENCE <= (now + pause).since(since) {
                return Err(error);
            }
            tokio::time::sleep(pause.to_std()).await;
        }
    }

    /// How many writes may be in flight now.
    pub fn places(&self) -> usize {
        self.shared.lock().places_now()
    }

    /// Writes of this urgency that wait, and those on their way.
    pub fn load(&self, urgency: Urgency) -> (usize, usize) {
        let gate = self.shared.lock();
        (gate.waiting_with(urgency).count(), gate.in_flight[urgency.index()])
    }

    /// Waits for a place among the writes in flight, as one who waits `since` then.
    async fn place(&self, ticket: Ticket, since: Timestamp) -> Result<Place<'_>, WriteError> {
        let shared = &*self.shared;
        // Subscribed before the first look, so that no pause begins unseen.
        let mut pauses = shared.pace.pauses();
        let (enter, mut entered) = oneshot::channel();
        shared.lock().waiting.insert(ticket, Waiter { since, enter });
        // From here on, dropping this gives back whatever there is: the place or the wait for it.
        let place = Place { shared, ticket };
        loop {
            shared.let_in();
            let pause = shared.pace.paused_until(Kind::Write);
            let pause_over = async {
                match pause {
                    Some(until) => tokio::time::sleep_until(shared.clock.instant(until)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                _ = &mut entered => return Ok(place),
                () = shared.stopping.cancelled() => return Err(WriteError::Stopping),
                () = pause_over => {}
                // The sender lives as long as `self`.
                _ = pauses.changed() => {}
            }
        }
    }
}

/// A place among the writes in flight, or the wait for one.
struct Place<'a> {
    shared: &'a Shared,
    ticket: Ticket,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        {
            let mut gate = self.shared.lock();
            if gate.waiting.remove(&self.ticket).is_none() {
                gate.in_flight[self.ticket.0.index()] -= 1;
            }
        }
        self.shared.let_in();
    }
}

impl Shared {
    /// Lets in whoever may go now.
    fn let_in(&self) {
        let now = self.clock.now();
        let paused = self.pace.paused_until(Kind::Write).is_some();
        let mut gate = self.lock();
        while let Some(ticket) = gate.choose(now, paused) {
            let Some(waiter) = gate.waiting.remove(&ticket) else { return };
            gate.in_flight[ticket.0.index()] += 1;
            gate.granted += 1;
            // Whoever stopped listening gives the place back by dropping its `Place`.
            let _ = waiter.enter.send(());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Gate> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Gate {
    fn ticket(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Who goes next, if anybody may.
    fn choose(&self, now: Timestamp, paused: bool) -> Option<Ticket> {
        if paused {
            return None;
        }
        let mut free = Urgency::ALL
            .into_iter()
            .filter(|urgency| self.has_place(*urgency))
            .filter_map(|urgency| self.first(urgency));
        let urgent = free.next()?;
        if self.granted % 4 == 3 {
            let since = |ticket: &Ticket| self.waiting.get(ticket).map(|waiter| waiter.since);
            let oldest = free.min_by_key(since);
            if let Some(oldest) = oldest.filter(|ticket| since(ticket).is_some_and(|since| AGED <= now.since(since))) {
                return Some(oldest);
            }
        }
        Some(urgent)
    }

    fn first(&self, urgency: Urgency) -> Option<Ticket> {
        self.waiting_with(urgency).next()
    }

    fn waiting_with(&self, urgency: Urgency) -> impl Iterator<Item = Ticket> + '_ {
        self.waiting.range((urgency, 0)..=(urgency, u64::MAX)).map(|(ticket, _)| *ticket)
    }

    fn has_place(&self, urgency: Urgency) -> bool {
        // Counted from the least urgent up to each more urgent one: none of the shares on the way may be exceeded.
        let places = self.places.floor();
        let limits = Urgency::ALL.into_iter().filter(|other| *other <= urgency);
        limits.into_iter().all(|other| {
            let taken: usize = self.in_flight[other.index()..].iter().sum();
            count_f64(taken) < (places * other.share()).floor().max(1.0)
        })
    }

    fn went_well(&mut self) {
        // Only a bound that keeps somebody waiting is worth raising.
        if !self.waiting.is_empty() {
            self.places = (self.places + 1.0 / self.places).min(self.places_most);
        }
    }

    fn halve(&mut self, now: Timestamp) {
        if HALVE_EVERY <= now.since(self.halved) {
            self.places = (self.places / 2.0).max(PLACES_LEAST);
            self.halved = now;
        }
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 4 and 128")]
    fn places_now(&self) -> usize {
        self.places as usize
    }
}

/// How a write can fail that says nothing about what was to be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Trouble {
    /// 429: not carried out.
    Refused,
    /// No answer, or one from a server that could not reach another: carried out or not.
    Missed,
    /// 500: something behind the server failed, such as a webhook; often for this object only.
    Internal,
    /// 401: the token has run out. By the next attempt it is the one its file holds then.
    LoggedOut,
}

fn trouble(error: &kube::Error) -> Option<Trouble> {
    match error {
        kube::Error::Api(status) => match status.code {
            429 => Some(Trouble::Refused),
            502..=504 => Some(Trouble::Missed),
            500 => Some(Trouble::Internal),
            401 => Some(Trouble::LoggedOut),
            _ => None,
        },
        kube::Error::HyperError(_) | kube::Error::Service(_) | kube::Error::ReadEvents(_) => Some(Trouble::Missed),
        _ => None,
    }
}

impl Counters {
    fn new() -> Self {
        Self {
            done: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            waited: metrics::latencies(),
            took: metrics::latencies(),
        }
    }
}

impl fmt::Debug for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flow").field("gate", &self.shared.lock()).finish_non_exhaustive()
    }
}

impl Source for Flow {
    fn show(&self, page: &mut Page<'_>) {
        let (waiting, in_flight, places) = {
            let gate = self.shared.lock();
            let waiting = Urgency::ALL.map(|urgency| ([urgency.name()], gate.waiting_with(urgency).count()));
            (
                waiting,
                Urgency::ALL.map(|urgency| ([urgency.name()], gate.in_flight[urgency.index()])),
                gate.places_now(),
            )
        };
        page.gauges("ebb_api_writes_waiting", "Writes that wait for their turn, by urgency.", ["urgency"], waiting);
        page.gauges(
            "ebb_api_writes_in_flight",
            "Writes on their way to the API server, by urgency.",
            ["urgency"],
            in_flight,
        );
        page.gauge(
            "ebb_api_write_places",
            "Writes that may be on their way at once; it follows how the API server copes.",
            places,
        );
        let of = |urgency: Urgency| (urgency.name(), &self.shared.counters[urgency.index()]);
        let outcomes = Urgency::ALL.into_iter().map(of).flat_map(|(urgency, counters)| {
            [
                ([urgency, "done"], count(&counters.done)),
                ([urgency, "failed"], count(&counters.failed)),
                ([urgency, "throttled"], count(&counters.refused)),
            ]
        });
        page.counters(
            "ebb_api_writes_total",
            "Attempts to write, by urgency and by what came of them.",
            ["urgency", "outcome"],
            outcomes,
        );
        page.histograms(
            "ebb_api_write_wait_seconds",
            "How long attempts to write waited for their turn.",
            ["urgency"],
            Urgency::ALL.into_iter().map(of).map(|(urgency, counters)| ([urgency], &counters.waited)),
        );
        page.histograms(
            "ebb_api_write_duration_seconds",
            "How long the API server took to answer attempts to write.",
            ["urgency"],
            Urgency::ALL.into_iter().map(of).map(|(urgency, counters)| ([urgency], &counters.took)),
        );
        page.counter(
            "ebb_api_throttled_total",
            "Requests the API server refused for having too much to do.",
            self.shared.pace.throttled(),
        );
        page.counter(
            "ebb_api_unanswered_total",
            "Requests the API server did not answer, or said it could not.",
            self.shared.pace.missed(),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// A gate in front of nothing: what is written here never reaches a network.
    fn flow() -> Flow {
        let client = Client::new(
            tower::service_fn(|_| async { Err::<http::Response<kube::client::Body>, _>("no server") }),
            "x",
        );
        Flow::new(client, Clock::starting_at(Timestamp::from_seconds(1_000)))
    }

    fn answered(code: u16, reason: &str) -> kube::Error {
        let mut status = kube::core::Status::failure("as a test asked for", reason);
        status.code = code;
        kube::Error::Api(Box::new(status))
    }

    /// Starts a write that takes a second and tells `order` its name when it begins.
    fn start(
        flow: &Flow,
        order: &Arc<Mutex<Vec<String>>>,
        urgency: Urgency,
        name: &str,
    ) -> tokio::task::JoinHandle<()> {
        let (flow, order, name) = (flow.clone(), Arc::clone(order), name.to_owned());
        tokio::spawn(async move {
            let written = flow.write(urgency, || async {
                order.lock().expect("no panic above").push(name.clone());
                tokio::time::sleep(Duration::from_secs(1)).await;
                Ok(())
            });
            written.await.expect("a write that goes well");
        })
    }

    /// Lets every task that can go on do so.
    async fn settle() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }

    fn set_places(flow: &Flow, places: f64) {
        let mut gate = flow.shared.lock();
        (gate.places, gate.places_most) = (places, places);
    }

    #[tokio::test(start_paused = true)]
    async fn the_most_urgent_goes_first_and_within_one_urgency_the_first() {
        let (flow, order) = (flow(), Arc::default());
        set_places(&flow, 1.0);
        let first = start(&flow, &order, Urgency::Up, "busy");
        settle().await;
        let mut writes = vec![first];
        for (urgency, name) in [
            (Urgency::Event, "event"),
            (Urgency::Status, "status"),
            (Urgency::Down, "down"),
            (Urgency::Routing, "routing"),
            (Urgency::Up, "up-1"),
            (Urgency::FromZero, "zero-1"),
            (Urgency::Up, "up-2"),
            (Urgency::FromZero, "zero-2"),
        ] {
            writes.push(start(&flow, &order, urgency, name));
            settle().await;
        }
        let waiting = Urgency::ALL.map(|urgency| flow.load(urgency).0);
        assert_eq!(waiting, [2, 2, 1, 1, 1, 1]);
        for write in writes {
            write.await.expect("no panic");
        }
        let order = order.lock().expect("no panic above").clone();
        // The fourth place of each four goes to who has waited longest, once that is five seconds.
        assert_eq!(order, ["busy", "zero-1", "zero-2", "up-1", "up-2", "down", "routing", "event", "status"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_thousand_slow_statuses_leave_a_place_for_a_revision_at_zero() {
        let (flow, order) = (flow(), Arc::default());
        set_places(&flow, 4.0);
        let mut writes = Vec::new();
        for n in 0..1_000 {
            writes.push(start(&flow, &order, Urgency::Status, &format!("status-{n}")));
        }
        settle().await;
        assert_eq!(order.lock().expect("no panic above").len(), 2, "half of four");
        for n in 0..4 {
            writes.push(start(&flow, &order, Urgency::FromZero, &format!("zero-{n}")));
        }
        settle().await;
        assert_eq!(order.lock().expect("no panic above")[2..], ["zero-0", "zero-1"], "the other half");
        writes.iter().for_each(tokio::task::JoinHandle::abort);
        settle().await;
        for urgency in Urgency::ALL {
            assert_eq!(flow.load(urgency), (0, 0), "places of dropped writes come back: {urgency:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_waits_for_ever_behind_what_is_more_urgent() {
        let (flow, order) = (flow(), Arc::default());
        set_places(&flow, 4.0);
        let mut writes = vec![start(&flow, &order, Urgency::Status, "status")];
        // Five urgent writes for each that can be served: their queue only grows.
        for n in 0..200 {
            for part in 0..20 {
                writes.push(start(&flow, &order, Urgency::FromZero, &format!("zero-{n}-{part}")));
            }
            if n == 1 {
                writes.push(start(&flow, &order, Urgency::Event, "event"));
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
            if order.lock().expect("no panic above").iter().any(|name| name == "event") {
                assert!(n < 10, "{n} s");
                writes.iter().for_each(tokio::task::JoinHandle::abort);
                return;
            }
        }
        panic!("the event was never written");
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_write_goes_again_and_the_bound_follows_the_server() {
        let flow = flow();
        let tries = AtomicU64::new(0);
        let clock = flow.shared.clock;
        let before = clock.now();
        let written = flow
            .write(Urgency::Up, || async {
                if tries.fetch_add(1, Ordering::Relaxed) < 3 {
                    // What `Pace::client` does when it sees the header.
                    flow.shared
                        .pace
                        .client(Client::new(
                            tower::service_fn(|_| async {
                                let refusal = http::Response::builder().status(429).header("retry-after", "2");
                                Ok::<_, std::convert::Infallible>(
                                    refusal.body(kube::client::Body::empty()).expect("a response"),
                                )
                            }),
                            "x",
                        ))
                        .send(http::Request::post("/").body(kube::client::Body::empty()).expect("a request"))
                        .await?;
                    return Err(answered(429, "TooManyRequests"));
                }
                Ok(7)
            })
            .await;
        assert_eq!(written.expect("written in the end"), 7);
        assert_eq!(tries.load(Ordering::Relaxed), 4);
        assert!(clock.now().since(before) >= Span::from_seconds(6), "each pause was kept");
        assert_eq!(flow.places(), 4, "32, halved by each of three refusals");
        let up = &flow.shared.counters[Urgency::Up.index()];
        assert_eq!((count(&up.refused), count(&up.done), count(&up.failed)), (3, 1, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn what_goes_again_and_what_does_not() {
        let flow = flow();
        for (error, attempts, unavailable) in [
            (answered(409, "Conflict"), 1, false),
            (answered(404, "NotFound"), 1, false),
            (answered(403, "Forbidden"), 1, false),
            (answered(401, "Unauthorized"), 1, true),
            (answered(500, "InternalError"), 4, false),
            (answered(503, "ServiceUnavailable"), 4, true),
            (kube::Error::Service("connection refused".into()), 4, true),
        ] {
            let tries = AtomicU64::new(0);
            let mut answers = Some(error);
            let text = format!("{answers:?}");
            let result: Result<(), _> = flow
                .write(Urgency::Status, || {
                    tries.fetch_add(1, Ordering::Relaxed);
                    let again = match &answers {
                        Some(kube::Error::Api(status)) => kube::Error::Api(status.clone()),
                        _ => kube::Error::Service("connection refused".into()),
                    };
                    let error = answers.replace(again).expect("one is always there");
                    async { Err(error) }
                })
                .await;
            let error = result.expect_err("nothing but errors");
            assert_eq!(tries.load(Ordering::Relaxed), attempts, "{text}");
            assert_eq!(error.is_unavailable(), unavailable, "{text}");
        }
        let hangs: Result<(), _> = flow.write(Urgency::Status, std::future::pending).await;
        assert!(matches!(hangs, Err(WriteError::NoAnswer)), "{hangs:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_ends_the_wait_and_not_what_is_in_flight() {
        let (flow, order) = (flow(), Arc::default());
        set_places(&flow, 1.0);
        let busy = start(&flow, &order, Urgency::Up, "busy");
        settle().await;
        let (waits, ()) = tokio::join!(flow.write(Urgency::Up, || async { Ok(()) }), async {
            settle().await;
            flow.stop();
        });
        assert!(matches!(waits, Err(WriteError::Stopping)), "{waits:?}");
        busy.await.expect("what is in flight is finished");
    }
}
