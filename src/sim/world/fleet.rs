//! Pods come and go.

use super::activators::slice;
use super::pods::{Account, NONE, Phase, Pod};
use super::{Fate, Place, World};
use crate::sim::queue::Event;
use crate::sim::random::{instant, unit};
use crate::sim::time::{HOUR, Micros, SECOND, from_seconds, seconds};
use rand::RngExt as _;
use rand_distr::Exp1;

/// The longest pause between two starts of a pod that crashes.
const LONGEST_BACKOFF: Micros = 300 * SECOND;

impl World<'_> {
    /// So many pods are to be there, as soon as whoever makes them hears of it.
    pub(super) fn want_replicas(&mut self, pods: u32) {
        let late = self.laws.api.draw(&mut self.streams.phases);
        self.replicas.push_back(pods);
        self.agenda.add(self.now + late, Event::Replicas);
    }

    pub(super) fn apply_replicas(&mut self) {
        // What was decided first is heard first.
        if let Some(pods) = self.replicas.pop_front() {
            self.set_replicas(pods);
        }
    }

    /// Makes or stops pods until so many are there. Those that are not ready go first, then those that became ready last,
    /// as a ReplicaSet does it.
    pub(super) fn set_replicas(&mut self, pods: u32) {
        while self.live.len() < pods as usize {
            self.make_pod();
        }
        let over = self.live.len().saturating_sub(pods as usize);
        if over == 0 {
            return;
        }
        let rank = |(place, id): (usize, &u32)| {
            let pod = &self.pods[*id as usize];
            let rank = match pod.phase {
                Phase::Pending => (2, 0),
                Phase::Starting => (1, 0),
                _ => (0, pod.ready_at),
            };
            (rank, place)
        };
        let mut ranked: Vec<_> = self.live.iter().enumerate().map(rank).collect();
        // The last of those that are alike goes first.
        ranked.sort_unstable_by(|one, other| other.cmp(one));
        ranked.truncate(over);
        self.work.pods += 4 * self.live.len() as u64;
        let stopped: Vec<u32> = ranked.iter().map(|(_, place)| self.live[*place]).collect();
        for (_, place) in ranked {
            self.live[place] = NONE;
        }
        self.live.retain(|id| *id != NONE);
        for id in stopped {
            self.stop_pod(id);
        }
    }

    fn make_pod(&mut self) {
        let phase = instant(&mut self.streams.phases, SECOND);
        let pod = Pod::new(Account::new(self.now, phase));
        let id = if let Some(id) = self.free_pods.pop() {
            self.pods[id as usize] = pod;
            id
        } else {
            self.pods.push(pod);
            u32::try_from(self.pods.len() - 1).unwrap_or(NONE)
        };
        self.live.push(id);
        self.record.pods_started += u64::from(self.now >= self.case.warm_up);
        let mut at = self.now + self.laws.schedule.draw(&mut self.streams.startup);
        let rate = self.case.scenario.world.pods_per_second;
        if rate > 0.0 {
            at = at.max(self.next_node);
            self.next_node = at + from_seconds(1.0 / rate);
        }
        self.foresee_pod(at, id, Event::Scheduled);
    }

    fn foresee_pod(&mut self, at: Micros, id: u32, event: fn(u32) -> Event) {
        self.pods[id as usize].foreseen += 1;
        self.agenda.add(at, event(id));
    }

    /// One of the things foreseen for a pod has happened.
    fn seen(&mut self, id: u32) {
        self.pods[id as usize].foreseen -= 1;
    }

    /// Gives the place of a pod that is gone to another.
    fn bury(&mut self, id: u32) {
        let pod = &self.pods[id as usize];
        if pod.phase == Phase::Gone && pod.foreseen == 0 && pod.endpoint == NONE && !pod.usable {
            self.free_pods.push(id);
        }
    }

    pub(super) fn pod_scheduled(&mut self, id: u32) {
        self.seen(id);
        if self.pods[id as usize].phase != Phase::Pending {
            return self.bury(id);
        }
        let capacity = u64::from(self.case.scenario.world.node_capacity);
        let placed = self.levels.now.starting + self.levels.now.ready + self.levels.now.draining;
        if capacity > 0 && placed >= capacity {
            self.unplaced.push_back(id);
            return;
        }
        self.place_pod(id);
    }

    fn place_pod(&mut self, id: u32) {
        self.levels.settle();
        self.levels.now.starting += 1;
        self.pods[id as usize].phase = Phase::Starting;
        let startup = &self.case.scenario.world.startup;
        let stream = &mut self.streams.startup;
        let cached = startup.image_cached.0 >= 1.0 || unit(stream) < startup.image_cached.0;
        let pull = if cached { 0 } else { self.laws.pull.draw(stream) };
        let at = self.now + pull + self.start_takes();
        self.foresee_pod(at, id, Event::Started);
    }

    /// From the start of the container to readiness being seen.
    fn start_takes(&mut self) -> Micros {
        let world = &self.case.scenario.world;
        let stream = &mut self.streams.startup;
        let mut takes = self.laws.start.draw(stream) + self.laws.application.draw(stream);
        if world.failures.slow_start.0 > 0.0 && unit(&mut self.streams.failures) < world.failures.slow_start.0 {
            takes = from_seconds(seconds(takes) * world.failures.slow_factor);
        }
        let period = world.startup.readiness_period.0;
        takes + if period == 0 { 0 } else { instant(stream, period) }
    }

    pub(super) fn pod_started(&mut self, id: u32) {
        self.seen(id);
        if self.pods[id as usize].phase != Phase::Starting {
            return self.bury(id);
        }
        let failures = &self.case.scenario.world.failures;
        if failures.crash_on_start.0 > 0.0 && unit(&mut self.streams.failures) < failures.crash_on_start.0 {
            let crashes = self.pods[id as usize].crashes;
            let pause = failures.crash_backoff.0.saturating_mul(1 << crashes.min(20)).min(LONGEST_BACKOFF);
            self.pods[id as usize].crashes += 1;
            let at = self.now + pause + self.start_takes();
            return self.foresee_pod(at, id, Event::Started);
        }
        self.levels.settle();
        self.levels.now.starting -= 1;
        self.levels.now.ready += 1;
        let pod = &mut self.pods[id as usize];
        pod.phase = Phase::Ready;
        pod.ready_at = self.now;
        self.count_ready(id);
        let propagation = self.laws.propagation.draw(&mut self.streams.phases);
        self.foresee_pod(self.now + propagation, id, Event::Published);
        let probe = instant(&mut self.streams.phases, self.case.scenario.world.activator_probe.0.max(1));
        self.foresee_pod(self.now + probe, id, Event::Probed);
        if failures.lost_per_hour > 0.0 {
            let life: f64 = self.streams.failures.sample(Exp1);
            let life = from_seconds(life / failures.lost_per_hour * seconds(HOUR));
            self.foresee_pod(self.now.saturating_add(life).min(self.end), id, Event::Lost);
        }
        self.readiness_changed();
    }

    pub(super) fn pod_probed(&mut self, id: u32) {
        self.seen(id);
        if self.pods[id as usize].phase != Phase::Ready {
            return self.bury(id);
        }
        self.pods[id as usize].usable = true;
        if let Err(place) = self.usable.binary_search(&id) {
            self.work.pods += self.usable.len() as u64 / 16;
            self.usable.insert(place, id);
            self.count_reachable(id, true);
        }
        self.share_pods();
    }

    pub(super) fn pod_published(&mut self, id: u32) {
        self.seen(id);
        let pod = &mut self.pods[id as usize];
        if pod.phase != Phase::Ready || pod.endpoint != NONE {
            return self.bury(id);
        }
        pod.endpoint = u32::try_from(self.endpoints.len()).unwrap_or(NONE);
        self.endpoints.push(id);
        self.count_reachable(id, false);
    }

    pub(super) fn pod_withdrawn(&mut self, id: u32) {
        self.seen(id);
        self.count_withdrawn(id);
        let pod = &mut self.pods[id as usize];
        let (place, usable) = (std::mem::replace(&mut pod.endpoint, NONE), std::mem::take(&mut pod.usable));
        if place != NONE {
            self.endpoints.swap_remove(place as usize);
            if let Some(moved) = self.endpoints.get(place as usize) {
                self.pods[*moved as usize].endpoint = place;
            }
        }
        if usable {
            if let Ok(place) = self.usable.binary_search(&id) {
                self.usable.remove(place);
            }
            self.share_pods();
        }
        self.bury(id);
    }

    /// Each activator is to have its pods anew, and what waits there goes on. Where nothing waits, they are given when the
    /// next request comes: of a thousand pods that start together, nearly all are.
    pub(super) fn share_pods(&mut self) {
        let count = self.route.activators.max(1) as usize;
        for (index, activator) in self.activators.iter_mut().enumerate() {
            let (range, extra) = slice(self.usable.len(), index, count);
            activator.begin_anew_beyond(range.len() + usize::from(extra.is_some()));
        }
        self.shared = false;
        for at in 0..self.activators.len() {
            self.hand_over(u32::try_from(at).unwrap_or(NONE));
        }
    }

    /// Gives each activator its pods, if that was not done since they changed.
    pub(super) fn give_pods(&mut self) {
        if std::mem::replace(&mut self.shared, true) {
            return;
        }
        let (limit, count) = (self.activator_limit, self.route.activators.max(1) as usize);
        let seen = self.usable.len() as u64;
        let share = (u64::from(limit) * seen / count as u64).max(1);
        self.work.pods += 2 * seen + 4 * self.activators.len() as u64;
        for (index, activator) in self.activators.iter_mut().enumerate() {
            let (range, extra) = slice(self.usable.len(), index, count);
            let mine = range.chain(extra).map(|place| self.usable[place]);
            activator.assign(mine, self.pods.len(), limit);
            activator.capacity = share;
        }
    }

    fn stop_pod(&mut self, id: u32) {
        match self.pods[id as usize].phase {
            Phase::Pending => {
                self.pods[id as usize].phase = Phase::Gone;
                self.unplaced.retain(|other| *other != id);
                self.bury(id);
            }
            Phase::Starting => {
                self.levels.settle();
                self.levels.now.starting -= 1;
                self.pods[id as usize].phase = Phase::Gone;
                self.place_next();
                self.bury(id);
            }
            Phase::Ready => {
                self.levels.settle();
                self.levels.now.ready -= 1;
                self.levels.now.draining += 1;
                let pod = &mut self.pods[id as usize];
                if pod.requests() > 0 {
                    self.levels.now.busy -= 1;
                }
                let shutdown = self.case.scenario.world.shutdown;
                let grace = shutdown.grace.map_or(self.revision_timeout, |grace| grace.0);
                pod.phase = Phase::Draining;
                pod.gone_by = self.now + grace;
                pod.last_request = self.now;
                self.count_stopping(id);
                let propagation = self.laws.propagation.draw(&mut self.streams.phases);
                self.foresee_pod(self.now + propagation, id, Event::Withdrawn);
                self.foresee_pod(self.now + shutdown.quiet.0, id, Event::Drained);
                self.foresee_pod(self.now + grace, id, Event::Killed);
                self.readiness_changed();
            }
            Phase::Draining | Phase::Gone => {}
        }
    }

    /// Whether no request came to a stopping pod for long enough.
    fn is_quiet(&self, id: u32) -> bool {
        self.pods[id as usize].last_request + self.case.scenario.world.shutdown.quiet.0 <= self.now
    }

    pub(super) fn pod_drained(&mut self, id: u32) {
        self.seen(id);
        let pod = &self.pods[id as usize];
        if pod.phase != Phase::Draining {
            return self.bury(id);
        }
        if !self.is_quiet(id) {
            let at = pod.last_request + self.case.scenario.world.shutdown.quiet.0;
            return self.foresee_pod(at, id, Event::Drained);
        }
        if !self.has_requests(id) {
            self.pod_gone(id);
        } else if self.cells.is_some() {
            // Nobody tells when the last of them is done.
            self.foresee_pod(self.now + SECOND, id, Event::Drained);
        }
    }

    /// A stopping pod has served its last request.
    pub(super) fn pod_is_empty(&mut self, id: u32) {
        if self.is_quiet(id) {
            self.pod_gone(id);
        }
    }

    pub(super) fn pod_killed(&mut self, id: u32) {
        self.seen(id);
        if self.pods[id as usize].phase != Phase::Draining {
            return self.bury(id);
        }
        self.pod_gone(id);
        self.lose_requests(id);
        self.bury(id);
    }

    fn pod_gone(&mut self, id: u32) {
        self.levels.settle();
        self.levels.now.draining -= 1;
        self.pods[id as usize].phase = Phase::Gone;
        self.count_gone(id);
        self.place_next();
        self.bury(id);
    }

    pub(super) fn pod_lost(&mut self, id: u32) {
        self.seen(id);
        let pod = &mut self.pods[id as usize];
        match pod.phase {
            Phase::Ready => {
                self.levels.settle();
                self.levels.now.ready -= 1;
                if pod.requests() > 0 {
                    self.levels.now.busy -= 1;
                }
                self.live.retain(|other| *other != id);
            }
            Phase::Draining => {
                self.levels.settle();
                self.levels.now.draining -= 1;
            }
            Phase::Pending | Phase::Starting | Phase::Gone => return self.bury(id),
        }
        let was_ready = self.pods[id as usize].phase == Phase::Ready;
        self.pods[id as usize].phase = Phase::Gone;
        let propagation = self.laws.propagation.draw(&mut self.streams.phases);
        self.foresee_pod(self.now + propagation, id, Event::Withdrawn);
        self.lose_requests(id);
        self.place_next();
        if was_ready {
            // Whoever makes pods makes another at once.
            let pods = self.scaler.replicas();
            self.set_replicas(pods);
            self.readiness_changed();
        }
    }

    /// Every request of a pod that is gone fails.
    fn lose_requests(&mut self, id: u32) {
        for request in 0..u32::try_from(self.requests.len()).unwrap_or(NONE) {
            let at = &self.requests[request as usize];
            if at.pod != id {
                continue;
            }
            match at.place {
                Place::AtQueue => {
                    self.leave_queue(request);
                    let proxied = self.requests[request as usize].activator != NONE;
                    self.pods[id as usize].account.depart(self.now, proxied);
                    self.release(request);
                    self.fail(request, Fate::PodLost);
                }
                Place::Serving | Place::Abandoned => {
                    let abandoned = at.place == Place::Abandoned;
                    if at.tied {
                        let ends = at.since + at.service;
                        self.requests[request as usize].tied = false;
                        self.agenda.add(ends, Event::Demand);
                    }
                    self.stop_serving(request);
                    let proxied = self.requests[request as usize].activator != NONE;
                    self.pods[id as usize].account.depart(self.now, proxied);
                    self.release(request);
                    // An end of its service is foreseen still, so its place is kept until then.
                    let mut failed = self.requests[request as usize].clone();
                    self.requests[request as usize].place = Place::Dead;
                    if !abandoned {
                        failed.place = Place::Free;
                        failed.tied = false;
                        let copy = self.put(failed);
                        self.fail(copy, Fate::PodLost);
                    }
                }
                _ => {}
            }
        }
    }

    /// Room on a node goes to the pod that has waited longest.
    fn place_next(&mut self) {
        while let Some(id) = self.unplaced.pop_front() {
            if self.pods[id as usize].phase == Phase::Pending {
                return self.place_pod(id);
            }
        }
    }
}
