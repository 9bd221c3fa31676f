//! The world around the scaler, as one loop over what happens next.
//!
//! ```text
//! arrival ─► ingress ─┬─► activator ─► queue-proxy ─► service ─► done
//!                     └──────────────► queue-proxy ─► service ─► done
//! queue-proxy ── scraped each second ──┐
//! activator ──── reports each second ──┴─► engine ─► control ─► pods, mode
//! ```
//!
//! Reading order: this file (the loop and a request's way), `pods` and `activators` (what it meets), `fleet` (pods
//! come and go), `metrics` (what the scaler hears), `control` (what becomes of its answer), `levels` and
//! `record` (what is counted). `cells` takes the place of a request's way where requests are only counted.
//!
//! # Invariants
//!
//! - A request is in exactly one place; its wait ends when it leaves it. So requests that came are those that were
//!   answered, failed, or are still there.
//! - Nothing is allocated for a request once as many were there at a time before.

mod activators;
mod cells;
mod control;
mod fleet;
mod levels;
mod metrics;
mod pods;
mod record;

pub use record::Detail;

use super::arrivals::{Arrival, Arrivals, Counter, Part};
use super::batch::{Job, Watch};
use super::case::Case;
use super::law::{Law, Sampler, Written};
use super::oracle;
use super::outcome::{Outcome, Work};
use super::queue::{Agenda, Event, Queue};
use super::random::{Purpose, Stream, below, instant, stream};
use super::scenario::{Balancing, Contention, Entry, Retries};
use super::screen::Service;
use super::time::{Micros, SECOND, from_seconds, seconds};
use activators::Activator;
use cells::Cells;
use control::Scaler;
use levels::Levels;
use pods::{Account, NONE, Phase, Pod};
use record::{Ended, Fate, LOOK, Record, Said, Stays};
use std::collections::VecDeque;
use std::sync::Arc;

/// Runs one policy under one seed.
pub fn run(case: &Case, policy: &Entry, seed: u64, detail: Detail) -> Outcome {
    run_watched(case, policy, seed, detail, &Watch::default())
}

/// The same, for somebody who watches.
pub fn run_watched(case: &Case, policy: &Entry, seed: u64, detail: Detail, watch: &Watch) -> Outcome {
    if policy.oracle.is_some() {
        return oracle::run(case, policy, seed, watch);
    }
    let mut world = World::new(case, policy, seed, detail, watch);
    world.play();
    world.finish(policy, seed)
}

/// The same, unless it takes longer than `most` seconds, as [`Work`] counts them: then how much there was to do until it was
/// given up.
pub(super) fn run_within(job: &Job, watch: &Watch, most: f64) -> Result<Outcome, Work> {
    let Job { case, policy, seed, detail } = job;
    if policy.oracle.is_some() {
        return Ok(oracle::run(case, policy, *seed, watch));
    }
    let mut world = World::new(case, policy, *seed, *detail, watch);
    world.most_work = most;
    world.play();
    if world.work.seconds() > most { Err(world.work) } else { Ok(world.finish(policy, *seed)) }
}

/// Where a request is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    /// Nowhere: this is no request.
    Free,
    /// Waiting at its activator.
    AtActivator,
    /// Waiting at its pod.
    AtQueue,
    /// Being served.
    Serving,
    /// Being served although its caller has gone.
    Abandoned,
    /// Its pod is gone, and an end of its service is still foreseen.
    Dead,
    /// Its caller pauses before trying again.
    Pausing,
}

#[derive(Clone, Debug)]
struct Request {
    arrival: Micros,
    /// How long it takes in a pod that has nothing else to do.
    service: Micros,
    /// When its caller gives up.
    deadline: Micros,
    /// When it came to where it is.
    since: Micros,
    /// When its service ends although its caller has gone before.
    ends: Micros,
    activator_wait: Micros,
    queue_wait: Micros,
    /// Tells this try from others in this place.
    serial: u32,
    pod: u32,
    activator: u32,
    next: u32,
    previous: u32,
    place: Place,
    fate: Fate,
    tries: u8,
    cold: bool,
    scale_up_wait: bool,
    /// Its demand ends with its service.
    tied: bool,
    /// It stands in the line of callers who may give up.
    lined: bool,
}

/// Somebody who waits, and until when.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    until: Micros,
    request: u32,
    serial: u32,
}

#[derive(Debug)]
struct Streams {
    service: Stream,
    balancing: Stream,
    startup: Stream,
    phases: Stream,
    failures: Stream,
    sampling: Stream,
    clients: Stream,
}

#[derive(Debug)]
struct Laws {
    service: Sampler,
    schedule: Sampler,
    pull: Sampler,
    start: Sampler,
    application: Sampler,
    propagation: Sampler,
    api: Sampler,
}

/// Where the ingress sends requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Route {
    /// To activators.
    proxied: bool,
    /// To so many of them.
    activators: u32,
}

struct World<'a> {
    case: &'a Case,
    watch: &'a Watch,
    now: Micros,
    end: Micros,
    agenda: Agenda,
    arrivals: Arrivals,
    streams: Streams,
    laws: Laws,

    requests: Vec<Request>,
    free: u32,
    /// The request that is just coming.
    arriving: u32,
    serials: u32,
    patience: [VecDeque<Waiting>; 3],
    /// When each of these lines is looked at next.
    foreseen: [Micros; 3],
    timeout: Micros,
    revision_timeout: Micros,
    contention: Option<Contention>,
    retries: Option<Retries>,

    /// Requests a pod takes at once, for its queue-proxy and for activators; 0 is any number.
    limit: u32,
    activator_limit: u32,
    pods: Vec<Pod>,
    free_pods: Vec<u32>,
    /// Pods that are not stopping, in the order they were made.
    live: Vec<u32>,
    /// Pods that wait for room on a node.
    unplaced: VecDeque<u32>,
    next_node: Micros,
    replicas: VecDeque<u32>,

    endpoints: Vec<u32>,
    turns: Vec<u32>,
    /// Pods that activators may use, in order.
    usable: Vec<u32>,
    activators: Vec<Activator>,
    /// Whether activators have the pods that are usable now.
    shared: bool,
    route: Route,
    routes: VecDeque<(Micros, Route)>,

    scraped: metrics::Scrape,
    late: VecDeque<metrics::Late>,
    /// Where requests are only counted.
    cells: Option<Box<Cells>>,
    scaler: Scaler,
    said: Said,
    levels: Levels,
    stays: Stays,
    record: Record,
    decisions: u64,
    work: Work,
    /// It is given up when it takes longer, in seconds.
    most_work: f64,
}

impl<'a> World<'a> {
    fn new(case: &'a Case, policy: &Entry, seed: u64, detail: Detail, watch: &'a Watch) -> Self {
        let scenario = &*case.scenario;
        let name = scenario.name.as_str();
        let draw = |purpose| stream(seed, purpose, name);
        let law =
            |written: &Written, factor: f64| written.read().unwrap_or(Law::Constant(0.0)).scaled(factor).sampler();
        let (world, strain) = (&scenario.world, case.strain);
        let part = Part { from: case.from, to: case.to, rate: strain.rate };
        let service =
            scenario.load.service.as_ref().map_or(Sampler::Constant(0), |service| law(service, strain.service));
        let laws = Laws {
            service,
            schedule: law(&world.startup.schedule, strain.startup),
            pull: law(&world.startup.image_pull, strain.startup),
            start: law(&world.startup.start, strain.startup),
            application: law(&world.startup.application, strain.startup),
            propagation: law(&world.ingress.endpoint_propagation, 1.0),
            api: law(&world.api_latency, 1.0),
        };
        let mut phases = draw(Purpose::Phases);
        let report = world.phases.report.map(|report| report.after(case.from, SECOND));
        let activators = (0..world.activators)
            .map(|_| instant(&mut phases, SECOND))
            .map(|drawn| Activator::new(Account::new(0, report.unwrap_or(drawn))))
            .collect();
        let (scaler, limit, activator_limit) = Scaler::new(scenario, policy);
        let route = scaler.first_route(world.activators);
        let mut levels = Levels::new(yardstick(case));
        levels.now.in_path = u64::from(route.proxied);
        let mut arrivals = Arrivals::new(&scenario.load, case.trace.as_ref(), part, seed, name);
        let mut record = Record::new(case, detail);
        let mut cells = None;
        if detail == Detail::Screened {
            let service = Arc::new(Service::of(case));
            record.screen(Arc::clone(&service), draw(Purpose::Clients));
            let counter = Counter::new(std::mem::replace(&mut arrivals, Arrivals::none()));
            cells = Some(Box::new(Cells::new(service, draw(Purpose::Service), counter, world.activators as usize)));
        }
        Self {
            case,
            watch,
            now: 0,
            end: case.length(),
            agenda: Agenda::default(),
            arrivals,
            streams: Streams {
                service: draw(Purpose::Service),
                balancing: draw(Purpose::Balancing),
                startup: draw(Purpose::StartUp),
                phases,
                failures: draw(Purpose::Failures),
                sampling: draw(Purpose::Sampling),
                clients: draw(Purpose::Clients),
            },
            laws,
            requests: Vec::new(),
            free: NONE,
            arriving: NONE,
            serials: 0,
            patience: [VecDeque::new(), VecDeque::new(), VecDeque::new()],
            foreseen: [Micros::MAX; 3],
            timeout: scenario.load.timeout.map_or(Micros::MAX / 2, |timeout| timeout.0),
            revision_timeout: u64::from(scenario.revision.timeout_seconds) * SECOND,
            contention: scenario.load.contention.filter(|contention| contention.factor > 0.0),
            retries: scenario.load.retries.filter(|retries| retries.max > 0),
            limit,
            activator_limit,
            pods: Vec::new(),
            free_pods: Vec::new(),
            live: Vec::new(),
            unplaced: VecDeque::new(),
            next_node: 0,
            replicas: VecDeque::new(),
            endpoints: Vec::new(),
            turns: vec![0; world.ingress.workers as usize],
            usable: Vec::new(),
            activators,
            shared: true,
            route,
            routes: VecDeque::new(),
            scraped: metrics::Scrape::default(),
            late: VecDeque::new(),
            cells,
            scaler,
            said: Said::default(),
            levels,
            stays: Stays::default(),
            record,
            decisions: 0,
            work: Work::default(),
            most_work: f64::INFINITY,
        }
    }

    fn play(&mut self) {
        self.begin();
        self.begin_cells();
        let mut warm = self.case.warm_up == 0;
        let mut next = self.arrivals.next();
        loop {
            let event_at = self.agenda.next_at().unwrap_or(Micros::MAX);
            let arrival_at = next.map_or(Micros::MAX, |arrival| arrival.at);
            let at = event_at.min(arrival_at);
            if !warm && at >= self.case.warm_up {
                warm = true;
                self.levels.advance(self.case.warm_up);
                self.record.begin(&mut self.levels);
            }
            if at >= self.end {
                break;
            }
            self.now = at;
            self.levels.advance(at);
            if event_at <= arrival_at {
                if let Some((_, event)) = self.agenda.pop() {
                    self.work.events += 1;
                    self.happen(event);
                }
            } else if let Some(arrival) = std::mem::replace(&mut next, self.arrivals.next()) {
                self.work.requests += 1;
                self.arrive(arrival);
            }
        }
        self.now = self.end;
        self.levels.advance(self.end);
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Done(request) => self.done(request),
            Event::Demand => self.levels.demand_down(),
            Event::Patience(queue) => self.lose_patience(queue),
            Event::Retry(request) => self.try_again(request),
            Event::Scheduled(pod) => self.pod_scheduled(pod),
            Event::Started(pod) => self.pod_started(pod),
            Event::Probed(pod) => self.pod_probed(pod),
            Event::Published(pod) => self.pod_published(pod),
            Event::Withdrawn(pod) => self.pod_withdrawn(pod),
            Event::Drained(pod) => self.pod_drained(pod),
            Event::Killed(pod) => self.pod_killed(pod),
            Event::Lost(pod) => self.pod_lost(pod),
            Event::Report(activator) => self.activator_reports(activator),
            Event::Scrape => self.scrape(),
            Event::Metrics => self.hear_late(),
            Event::Tick => self.tick(),
            Event::Look => self.look_again(),
            Event::Replicas => self.apply_replicas(),
            Event::Mode => self.apply_route(),
            Event::Cell => self.cell(),
            Event::Sample => {
                let created = self.live.len() as u64;
                self.record.look(&self.levels, created, &self.said);
                self.watch.went(LOOK);
                if self.watch.is_stopped() || self.work.seconds() > self.most_work {
                    self.end = self.now;
                }
                self.agenda.add(self.now + LOOK, Event::Sample);
            }
        }
    }

    // A request's way.

    fn arrive(&mut self, arrival: Arrival) {
        let service = match arrival.took {
            Some(took) if self.case.scenario.load.service.is_none() => {
                from_seconds(seconds(took) * self.case.strain.service)
            }
            _ => self.laws.service.draw(&mut self.streams.service),
        };
        let cold = self.levels.now.ready == 0;
        self.record.arrive(self.now, cold);
        self.levels.demand_up();
        let request = Request {
            arrival: self.now,
            service,
            deadline: 0,
            since: self.now,
            ends: 0,
            activator_wait: 0,
            queue_wait: 0,
            serial: 0,
            pod: NONE,
            activator: NONE,
            next: NONE,
            previous: NONE,
            place: Place::Free,
            fate: Fate::Completed,
            tries: 0,
            cold,
            scale_up_wait: false,
            tied: false,
            lined: false,
        };
        let id = self.put(request);
        self.arriving = id;
        let tied = self.enter(id);
        self.arriving = NONE;
        if !tied {
            self.agenda.add(self.now + service, Event::Demand);
        }
    }

    /// A request comes to the ingress. Whether its service began at once and lasts as long as it would if none waited.
    fn enter(&mut self, id: u32) -> bool {
        self.serials = self.serials.wrapping_add(1);
        let (now, serial) = (self.now, self.serials);
        let request = &mut self.requests[id as usize];
        request.serial = serial;
        request.lined = false;
        request.deadline = now + self.timeout;
        request.since = now;
        if self.route.proxied || self.endpoints.is_empty() {
            return self.enter_activator(id);
        }
        let pod = self.balance();
        self.enter_pod(id, pod)
    }

    fn enter_activator(&mut self, id: u32) -> bool {
        let count = self.route.activators.max(1);
        let at = if count == 1 { 0 } else { below(&mut self.streams.balancing, count) };
        self.requests[id as usize].activator = at;
        self.activator_arrival(at);
        self.give_pods();
        let limit = self.activator_limit;
        let activator = &mut self.activators[at as usize];
        if activator.waiting == 0
            && activator.may_go(limit)
            && let Some(pod) = activator.pick(limit, &mut self.streams.balancing)
        {
            return self.enter_pod(id, pod);
        }
        if self.case.scenario.world.activator_queue.is_some_and(|depth| activator.waiting >= depth) {
            activator.account.depart(self.now, false);
            self.fail(id, Fate::ActivatorFull);
            return false;
        }
        link(&mut self.requests, id, &mut activator.first, &mut activator.last);
        activator.waiting += 1;
        let request = &mut self.requests[id as usize];
        request.place = Place::AtActivator;
        self.levels.now.at_activator += 1;
        self.wait(id, Queue::Activator);
        false
    }

    /// An activator hands over as many as it may.
    fn hand_over(&mut self, at: u32) {
        let limit = self.activator_limit;
        if self.activators[at as usize].waiting == 0 {
            return;
        }
        self.give_pods();
        // A pod may refuse what it is handed, which makes room again.
        if std::mem::replace(&mut self.activators[at as usize].handing, true) {
            return;
        }
        loop {
            let activator = &mut self.activators[at as usize];
            if activator.waiting == 0 || !activator.may_go(limit) {
                break;
            }
            let Some(pod) = activator.pick(limit, &mut self.streams.balancing) else { break };
            let id = activator.first;
            self.leave_activator(id);
            self.enter_pod(id, pod);
        }
        self.activators[at as usize].handing = false;
    }

    /// A request stops waiting at its activator.
    fn leave_activator(&mut self, id: u32) {
        let request = &mut self.requests[id as usize];
        let (at, waited) = (request.activator, self.now - request.since);
        request.activator_wait += waited;
        request.since = self.now;
        let activator = &mut self.activators[at as usize];
        activator.waiting -= 1;
        unlink(&mut self.requests, id, &mut activator.first, &mut activator.last);
        self.levels.now.at_activator -= 1;
        self.stays.at_activator += u128::from(waited);
    }

    fn balance(&mut self) -> u32 {
        let count = u32::try_from(self.endpoints.len()).unwrap_or(u32::MAX);
        let stream = &mut self.streams.balancing;
        let load = |place: u32| self.pods[self.endpoints[place as usize] as usize].requests();
        let place = match self.case.scenario.world.ingress.balancing {
            _ if count == 1 => 0,
            Balancing::Random => below(stream, count),
            Balancing::RoundRobin => {
                let workers = u32::try_from(self.turns.len()).unwrap_or(1);
                let turn = &mut self.turns[below(stream, workers) as usize];
                *turn = if *turn + 1 >= count { 0 } else { *turn + 1 };
                *turn
            }
            Balancing::P2c => {
                let one = below(stream, count);
                let other = (one + 1 + below(stream, count - 1)) % count;
                if load(other) < load(one) { other } else { one }
            }
            Balancing::LeastRequest => {
                self.work.pods += u64::from(count);
                // Equals take turns.
                let start = below(stream, count);
                (0..count).map(|step| (start + step) % count).min_by_key(|place| load(*place)).unwrap_or(0)
            }
        };
        self.endpoints[place as usize]
    }

    /// A request comes to a pod's queue-proxy. As [`enter`](Self::enter).
    fn enter_pod(&mut self, id: u32, to: u32) -> bool {
        let now = self.now;
        let request = &mut self.requests[id as usize];
        request.pod = to;
        request.scale_up_wait |= !request.cold && self.pods[to as usize].ready_at > request.arrival;
        let proxied = request.activator != NONE;
        let pod = &mut self.pods[to as usize];
        if pod.phase == Phase::Gone {
            self.release(id);
            self.fail(id, Fate::PodLost);
            return false;
        }
        pod.last_request = now;
        pod.account.arrive(now, proxied);
        if pod.requests() == 0 && pod.phase == Phase::Ready {
            self.levels.now.busy += 1;
        }
        if self.limit == 0 || (pod.serving < self.limit && pod.waiting == 0) {
            return self.serve(id);
        }
        if pod.waiting >= self.limit.saturating_mul(10) {
            pod.account.depart(now, proxied);
            self.release(id);
            self.fail(id, Fate::QueueFull);
            return false;
        }
        pod.waiting += 1;
        link(&mut self.requests, id, &mut pod.first, &mut pod.last);
        let request = &mut self.requests[id as usize];
        request.place = Place::AtQueue;
        request.since = now;
        self.levels.now.at_queue += 1;
        self.wait(id, Queue::QueueProxy);
        false
    }

    /// A request stops waiting at its pod.
    fn leave_queue(&mut self, id: u32) {
        let request = &mut self.requests[id as usize];
        let waited = self.now - request.since;
        request.queue_wait += waited;
        let pod = &mut self.pods[request.pod as usize];
        pod.waiting -= 1;
        unlink(&mut self.requests, id, &mut pod.first, &mut pod.last);
        self.levels.now.at_queue -= 1;
        self.stays.at_queue += u128::from(waited);
    }

    /// The service of a request begins in its pod. As [`enter`](Self::enter).
    fn serve(&mut self, id: u32) -> bool {
        let now = self.now;
        let request = &mut self.requests[id as usize];
        let pod = &mut self.pods[request.pod as usize];
        pod.serving += 1;
        self.levels.now.serving += 1;
        let mut takes = request.service;
        if let Some(contention) = &self.contention {
            let beyond = f64::from(pod.serving) - contention.knee;
            if beyond > 0.0 {
                takes = from_seconds(seconds(takes) * (1.0 + contention.factor * beyond / contention.knee));
            }
        }
        // The queue-proxy's time-out runs since the request came to it.
        let accepted = if request.place == Place::AtQueue { request.since } else { now };
        let ends = now + takes;
        let revision = accepted + self.revision_timeout;
        request.since = now;
        request.place = Place::Serving;
        request.ends = ends.min(revision);
        let (at, fate) = if request.deadline < request.ends {
            (request.deadline.max(now), Fate::Timeout)
        } else if revision < ends {
            (revision, Fate::Timeout)
        } else {
            (ends, Fate::Completed)
        };
        request.fate = fate;
        // One that waited, for no time at all, has an event of its own for the end of its demand.
        request.tied = self.arriving == id && takes == request.service && fate == Fate::Completed;
        let tied = request.tied;
        self.agenda.add(at, Event::Done(id));
        tied
    }

    /// The service of a request ends, or its caller goes.
    fn done(&mut self, id: u32) {
        let keeps_slot = self.case.scenario.load.timeout_keeps_slot;
        let request = &mut self.requests[id as usize];
        match request.place {
            Place::Dead => return self.forget(id),
            Place::Serving if keeps_slot && request.fate == Fate::Timeout && request.ends > self.now => {
                request.place = Place::Abandoned;
                let ends = request.ends;
                self.agenda.add(ends, Event::Done(id));
                let ended = self.requests[id as usize].ended(self.now);
                // Its place is still taken, so a further try is a request of its own.
                if !self.copy_for_retry(id) {
                    self.record.end(self.now, Fate::Timeout, &ended);
                }
                return;
            }
            Place::Serving | Place::Abandoned => {}
            Place::Free | Place::AtActivator | Place::AtQueue | Place::Pausing => return,
        }
        let (abandoned, fate, tied) = (request.place == Place::Abandoned, request.fate, request.tied);
        if tied {
            self.levels.demand_down();
        }
        self.stop_serving(id);
        self.leave_pod(id);
        if abandoned {
            self.forget(id);
        } else if fate == Fate::Completed {
            let ended = self.requests[id as usize].ended(self.now);
            self.record.end(self.now, fate, &ended);
            self.forget(id);
        } else {
            self.fail(id, fate);
        }
    }

    fn stop_serving(&mut self, id: u32) {
        let request = &mut self.requests[id as usize];
        self.pods[request.pod as usize].serving -= 1;
        self.levels.now.serving -= 1;
        self.stays.serving += u128::from(self.now - request.since);
    }

    /// A request that was served, or waited, leaves its pod and its activator; others take its place.
    fn leave_pod(&mut self, id: u32) {
        let request = &self.requests[id as usize];
        let (to, proxied) = (request.pod, request.activator != NONE);
        let pod = &mut self.pods[to as usize];
        pod.account.depart(self.now, proxied);
        if pod.waiting > 0 && pod.serving < self.limit {
            let first = pod.first;
            self.leave_queue(first);
            self.serve(first);
        }
        let pod = &self.pods[to as usize];
        if pod.requests() == 0 {
            match pod.phase {
                Phase::Ready => self.levels.now.busy -= 1,
                Phase::Draining => self.pod_is_empty(to),
                Phase::Pending | Phase::Starting | Phase::Gone => {}
            }
        }
        self.release(id);
    }

    /// The activator a request came through, if it did, has a place more.
    fn release(&mut self, id: u32) {
        let request = &mut self.requests[id as usize];
        if request.activator == NONE {
            return;
        }
        let (at, pod) = (request.activator, request.pod);
        request.activator = NONE;
        let activator = &mut self.activators[at as usize];
        activator.account.depart(self.now, false);
        activator.release(pod, self.activator_limit);
        self.hand_over(at);
    }

    /// A request failed: its caller tries again, or gives up.
    fn fail(&mut self, id: u32, fate: Fate) {
        let request = &mut self.requests[id as usize];
        if let Some(retries) = self.retries
            && request.tries < retries.max
        {
            request.tries += 1;
            request.place = Place::Pausing;
            (request.pod, request.activator) = (NONE, NONE);
            let (tries, arrival) = (request.tries, request.arrival);
            self.record.retry(arrival);
            let pause = self.pause(&retries, tries);
            self.agenda.add(self.now + pause, Event::Retry(id));
            return;
        }
        let ended = request.ended(self.now);
        self.record.end(self.now, fate, &ended);
        self.forget(id);
    }

    /// Between half and all of the back-off, which doubles with each try.
    fn pause(&mut self, retries: &Retries, tries: u8) -> Micros {
        let doubled = retries.backoff.0.saturating_mul(1 << (tries - 1).min(30)).min(retries.cap.0);
        doubled / 2 + instant(&mut self.streams.clients, doubled / 2 + 1)
    }

    /// Makes another request of one that stays where it is, if its caller tries again.
    fn copy_for_retry(&mut self, id: u32) -> bool {
        let Some(retries) = self.retries else { return false };
        let mut copy = self.requests[id as usize].clone();
        if copy.tries >= retries.max {
            return false;
        }
        (copy.pod, copy.activator, copy.place) = (NONE, NONE, Place::Free);
        copy.tied = false;
        let copy = self.put(copy);
        self.fail(copy, Fate::Timeout);
        true
    }

    /// A place for a request.
    fn put(&mut self, request: Request) -> u32 {
        if self.free == NONE {
            self.requests.push(request);
            return u32::try_from(self.requests.len() - 1).unwrap_or(NONE);
        }
        let id = self.free;
        self.free = self.requests[id as usize].next;
        self.requests[id as usize] = request;
        id
    }

    fn try_again(&mut self, id: u32) {
        self.enter(id);
    }

    fn forget(&mut self, id: u32) {
        let request = &mut self.requests[id as usize];
        request.place = Place::Free;
        request.next = self.free;
        self.free = id;
    }

    // Patience.

    /// Foresees that a waiting request may be given up.
    fn wait(&mut self, id: u32, queue: Queue) {
        let request = &self.requests[id as usize];
        let entry = |until| Waiting { until, request: id, serial: request.serial };
        let revision = entry(self.now + self.revision_timeout);
        let caller = entry(request.deadline);
        self.foresee(queue, revision);
        // A try that has waited at its activator stands in the callers' line already.
        if caller.until < Micros::MAX / 2 && !std::mem::replace(&mut self.requests[id as usize].lined, true) {
            self.foresee(Queue::Caller, caller);
        }
    }

    fn foresee(&mut self, queue: Queue, entry: Waiting) {
        let which = queue as usize;
        while self.patience[which].front().is_some_and(|first| !self.still_waits(first, queue)) {
            self.patience[which].pop_front();
        }
        // Nearly always the last: only a try that did not wait at once comes before others.
        let line = &mut self.patience[which];
        let place = match line.back() {
            Some(last) if last.until > entry.until => line.partition_point(|other| other.until <= entry.until),
            _ => line.len(),
        };
        line.insert(place, entry);
        self.foresee_first(queue);
    }

    /// Foresees when the first in line loses patience, unless an earlier look is foreseen.
    fn foresee_first(&mut self, queue: Queue) {
        let which = queue as usize;
        if let Some(first) = self.patience[which].front()
            && first.until < self.foreseen[which]
        {
            self.foreseen[which] = first.until;
            self.agenda.add(first.until.max(self.now), Event::Patience(queue));
        }
    }

    fn still_waits(&self, entry: &Waiting, queue: Queue) -> bool {
        let request = &self.requests[entry.request as usize];
        let place = match queue {
            Queue::Caller => matches!(request.place, Place::AtActivator | Place::AtQueue),
            Queue::Activator => request.place == Place::AtActivator,
            Queue::QueueProxy => request.place == Place::AtQueue,
        };
        place && request.serial == entry.serial
    }

    fn lose_patience(&mut self, queue: Queue) {
        let which = queue as usize;
        self.foreseen[which] = Micros::MAX;
        while let Some(first) = self.patience[which].front().copied() {
            let waits = self.still_waits(&first, queue);
            if waits && first.until > self.now {
                return self.foresee_first(queue);
            }
            self.patience[which].pop_front();
            if waits {
                self.give_up(first.request, Fate::Timeout);
            }
        }
    }

    /// A waiting request is given up.
    fn give_up(&mut self, id: u32, fate: Fate) {
        match self.requests[id as usize].place {
            Place::AtActivator => {
                let at = self.requests[id as usize].activator;
                self.leave_activator(id);
                self.activators[at as usize].account.depart(self.now, false);
                self.requests[id as usize].activator = NONE;
            }
            Place::AtQueue => {
                self.leave_queue(id);
                self.leave_pod(id);
            }
            _ => return,
        }
        self.fail(id, fate);
    }

    // The end.

    fn finish(mut self, policy: &Entry, seed: u64) -> Outcome {
        let now = self.now;
        for request in &self.requests {
            let stayed = u128::from(now - request.since.min(now));
            match request.place {
                Place::Free | Place::Dead => continue,
                Place::AtActivator => self.stays.at_activator += stayed,
                Place::AtQueue => self.stays.at_queue += stayed,
                Place::Serving => self.stays.serving += stayed,
                Place::Abandoned => {
                    self.stays.serving += stayed;
                    continue;
                }
                Place::Pausing => {}
            }
            self.record.censor(request.arrival, 1);
        }
        self.censor_counted();
        let revision = &self.case.scenario.revision;
        self.record.scaling.decisions = self.decisions;
        let prediction = self.scaler.prediction();
        let outcome = self.record.finish(&mut self.levels, &self.stays, (revision.cpu, revision.memory));
        let work = self.work;
        Outcome { policy: policy.name.clone(), kind: policy.kind().to_owned(), seed, prediction, work, ..outcome }
    }
}

impl Request {
    /// What it leaves behind when it ends now.
    fn ended(&self, now: Micros) -> Ended {
        Ended {
            arrival: self.arrival,
            activator_wait: self.activator_wait,
            queue_wait: self.queue_wait,
            served: matches!(self.place, Place::Serving).then(|| now - self.since),
            cold: self.cold,
            scale_up_wait: self.scale_up_wait,
        }
    }
}

/// Puts a request at the end of a line.
fn link(requests: &mut [Request], id: u32, first: &mut u32, last: &mut u32) {
    let request = &mut requests[id as usize];
    (request.next, request.previous) = (NONE, *last);
    if *last == NONE {
        *first = id;
    } else {
        requests[*last as usize].next = id;
    }
    *last = id;
}

/// Takes a request out of a line.
fn unlink(requests: &mut [Request], id: u32, first: &mut u32, last: &mut u32) {
    let (next, previous) = (requests[id as usize].next, requests[id as usize].previous);
    if previous == NONE {
        *first = next;
    } else {
        requests[previous as usize].next = next;
    }
    if next == NONE {
        *last = previous;
    } else {
        requests[next as usize].previous = previous;
    }
}

/// Requests a pod should have, by which the need is judged: the revision's own target, whatever a policy's is, so that all
/// are judged alike.
fn yardstick(case: &Case) -> f64 {
    let resolved = case.scenario.resolved(&super::scenario::Kpa::default());
    match resolved.scaling_metric() {
        crate::units::ScalingMetric::Concurrency => resolved.target_value(),
        crate::units::ScalingMetric::Rps if case.scenario.revision.container_concurrency > 0 => {
            f64::from(case.scenario.revision.container_concurrency)
        }
        crate::units::ScalingMetric::Rps => 100.0,
    }
}
