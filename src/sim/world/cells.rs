//! Requests that are only counted, in cells of 100 ms: see [`screen`](crate::sim::screen).

use super::activators::slice;
use super::pods::{Account, NONE, Phase};
use super::record::{Begun, Fate};
use super::{Micros, World};
use crate::engine::Load;
use crate::sim::arrivals::Counter;
use crate::sim::queue::Event;
use crate::sim::random::Stream;
use crate::sim::screen::{CELL, Phases, Service, Uneven, binomial, rounded};
use crate::sim::time::{SECOND, from_seconds, seconds};
use rand::RngExt as _;
use rand_distr::Exp1;
use std::collections::VecDeque;
use std::sync::Arc;

/// The least time after which a group is like the others.
const SETTLES: Micros = 20 * SECOND;
/// The least time over which the load is averaged that makes some pods wait while others are idle.
const AVERAGED: Micros = 2 * SECOND;

/// Requests that came in one cell and wait.
#[derive(Clone, Copy, Debug)]
struct Cohort {
    arrival: Micros,
    count: u32,
    /// When they came to where they wait.
    since: Micros,
    activator_wait: Micros,
    cold: bool,
}

/// Pods that are alike: they became ready, or began to stop, in one cell.
#[derive(Clone, Debug)]
struct Group {
    pods: u32,
    /// Of those, how many activators may use.
    usable: u32,
    /// Of those, how many the endpoints have.
    published: u32,
    phases: Phases,
    serving: u32,
    line: VecDeque<Cohort>,
    waiting: u32,
    /// The part of its requests that came through an activator.
    proxied: f64,
    account: Account,
    begun: Micros,
    stopping: bool,
    /// Of the cell that ends now: requests that came, those of them through an activator, and µs in service.
    came: u32,
    came_proxied: u32,
    area: f64,
    /// Requests that waited when it began.
    waited_before: u32,
    /// Requests in service, averaged, and what it costs that they are not spread evenly over its pods.
    served: f64,
    uneven: Uneven,
}

/// An activator: who waits there, and how many it has handed over that are not done.
#[derive(Clone, Debug, Default)]
struct Desk {
    line: VecDeque<Cohort>,
    waiting: u32,
    /// The same when the cell began.
    waited_before: u32,
    held: u32,
    came: u32,
}

/// Everything that is counted.
#[derive(Debug)]
pub(super) struct Cells {
    service: Arc<Service>,
    stream: Stream,
    counter: Counter,
    groups: Vec<Group>,
    live: Vec<u32>,
    free: Vec<u32>,
    /// The activators.
    desks: Vec<Desk>,
    /// What would be in service if none ever waited.
    demand: Phases,
    /// Nothing is there, and the next cell begins when a request comes.
    asleep: bool,
    came: u32,
    /// When it is looked at again what it costs that requests are not spread evenly over pods.
    look: Micros,
}

impl Cells {
    pub(super) fn new(service: Arc<Service>, stream: Stream, counter: Counter, activators: usize) -> Self {
        Self {
            service,
            stream,
            counter,
            groups: Vec::new(),
            live: Vec::new(),
            free: Vec::new(),
            desks: vec![Desk::default(); activators],
            demand: [0; 4],
            asleep: true,
            came: 0,
            look: 0,
        }
    }

    fn group(&mut self, account: Account, begun: Micros, stopping: bool) -> u32 {
        let known = self.live.iter().find(|id| {
            let group = &self.groups[**id as usize];
            group.stopping == stopping && group.begun + CELL > begun
        });
        if let Some(id) = known {
            return *id;
        }
        let group = Group {
            pods: 0,
            usable: 0,
            published: 0,
            phases: [0; 4],
            serving: 0,
            line: VecDeque::new(),
            waiting: 0,
            proxied: 0.0,
            account,
            begun,
            stopping,
            came: 0,
            came_proxied: 0,
            area: 0.0,
            waited_before: 0,
            served: 0.0,
            uneven: Uneven::default(),
        };
        let id = if let Some(id) = self.free.pop() {
            self.groups[id as usize] = group;
            id
        } else {
            self.groups.push(group);
            u32::try_from(self.groups.len() - 1).unwrap_or(NONE)
        };
        self.live.push(id);
        id
    }

    /// Requests at an activator: waiting there, or handed over and not done.
    pub(super) fn at_activator(&self, index: usize) -> u64 {
        self.desks.get(index).map_or(0, |desk| u64::from(desk.waiting) + u64::from(desk.held))
    }

    /// Takes those that are done off what the activators hold: whose they were is as likely as it has many.
    fn settle_held(&mut self) {
        let there = self.live.iter().map(|id| {
            let group = &self.groups[*id as usize];
            f64::from(group.serving + group.waiting) * group.proxied
        });
        let held: u32 = self.desks.iter().map(|desk| desk.held).sum();
        let mut done = held.saturating_sub(whole_of(there.sum::<f64>()));
        let mut all = held;
        for desk in &mut self.desks {
            if done == 0 {
                return;
            }
            let theirs = binomial(done, f64::from(desk.held) / f64::from(all.max(1)), &mut self.stream).min(desk.held);
            all -= desk.held;
            desk.held -= theirs;
            done -= theirs;
        }
    }
}

impl Group {
    /// How many more may begin in it, when `stays` of each one that begins is still there at the end of the cell.
    fn room(&self, pods: u32, limit: u32, stays: f64) -> f64 {
        (f64::from(pods * limit) - f64::from(self.serving + self.waiting)).max(0.0) / stays
    }
}

impl World<'_> {
    /// The first cell begins with the first request.
    pub(super) fn begin_cells(&mut self) {
        if let Some(cells) = &mut self.cells
            && let Some(at) = cells.counter.next_at()
        {
            self.agenda.add(at, Event::Cell);
        }
    }

    /// Requests at the activators.
    pub(super) fn at_activators(&self) -> u64 {
        match &self.cells {
            Some(cells) => (0..cells.desks.len()).map(|index| cells.at_activator(index)).sum(),
            None => self.activators.iter().map(|activator| activator.account.level()).sum(),
        }
    }

    /// A cell ends, or begins when there was none before.
    pub(super) fn cell(&mut self) {
        let Some(mut cells) = self.cells.take() else { return };
        let now = self.now;
        let length = if std::mem::take(&mut cells.asleep) { 0 } else { CELL };
        let middle = now - length / 2;
        let (service, limit) = (Arc::clone(&cells.service), self.limit);
        let stays = if length > 0 { service.fresh_stays.max(1e-9) } else { 1.0 };
        let patience = self.timeout.min(self.revision_timeout);

        // What was there goes on.
        for id in &cells.live {
            let group = &mut cells.groups[*id as usize];
            (group.came, group.came_proxied, group.area, group.waited_before) = (0, 0, 0.0, group.waiting);
            if length > 0 && group.serving > 0 {
                group.area = group.phases.iter().zip(service.area).map(|(count, area)| f64::from(*count) * area).sum();
                group.phases = service.pass(&group.phases, &mut cells.stream);
                group.serving = group.phases.iter().sum();
            }
        }
        let came = cells.counter.until(now);
        cells.came = came;
        self.work.cells += 1;
        self.work.groups += (cells.live.len() + cells.desks.len()) as u64;
        // Where many come, their number is drawn, and larger numbers take longer to draw everywhere.
        self.work.requests += u64::from(if came > 16 { 8 } else { came });
        if length > 0 {
            cells.demand = service.pass(&cells.demand, &mut cells.stream);
        }
        let cold = self.levels.now.ready == 0;
        if came > 0 {
            self.record.arrive_many(middle, cold, came);
            let fresh = service.start(came, length > 0, &mut cells.stream);
            for (demand, fresh) in cells.demand.iter_mut().zip(fresh) {
                *demand += fresh;
            }
        }
        self.levels.demand_is(cells.demand.iter().map(|count| u64::from(*count)).sum());

        // Where they go: to activators, or to the pods.
        cells.settle_held();
        for desk in &mut cells.desks {
            (desk.waited_before, desk.came) = (desk.waiting, 0);
        }
        let published: u32 = cells.live.iter().map(|id| cells.groups[*id as usize].published).sum();
        let proxied = self.route.proxied || published == 0;
        let cohort = Cohort { arrival: middle, count: came, since: middle, activator_wait: 0, cold };
        if proxied {
            let (mut left, mut desks) = (came, self.route.activators.max(1));
            for desk in &mut cells.desks {
                if left == 0 {
                    break;
                }
                let count = binomial(left, 1.0 / f64::from(desks), &mut cells.stream);
                (left, desks) = (left - count, desks.saturating_sub(1).max(1));
                desk.came = count;
                if count > 0 {
                    desk.waiting += count;
                    desk.line.push_back(Cohort { count, ..cohort });
                }
            }
        } else {
            let (mut left, mut pods) = (came, published);
            for at in 0..cells.live.len() {
                let id = cells.live[at] as usize;
                let of_it = cells.groups[id].published;
                if left == 0 || of_it == 0 {
                    continue;
                }
                let here = binomial(left, f64::from(of_it) / f64::from(pods), &mut cells.stream);
                (left, pods) = (left - here, pods - of_it);
                self.enter_group(&mut cells, id, Cohort { count: here, ..cohort }, false, length);
            }
        }
        self.hand_over_counted(&mut cells, length, stays, middle);
        let given_up = |line: &mut VecDeque<Cohort>, since: fn(&Cohort) -> Micros, patience: Micros| {
            line.pop_front_if(|cohort| since(cohort).saturating_add(patience) <= now)
        };
        for desk in &mut cells.desks {
            while let Some(cohort) = given_up(&mut desk.line, |cohort| cohort.arrival, patience) {
                desk.waiting -= cohort.count;
                self.record.fail_many(now, cohort.arrival, Fate::Timeout, cohort.count);
            }
            let Some(most) = self.case.scenario.world.activator_queue else { continue };
            while desk.waiting > most
                && let Some(cohort) = desk.line.back_mut()
            {
                let over = (desk.waiting - most).min(cohort.count);
                cohort.count -= over;
                desk.waiting -= over;
                let arrival = cohort.arrival;
                if cohort.count == 0 {
                    desk.line.pop_back();
                }
                self.record.fail_many(now, arrival, Fate::ActivatorFull, over);
            }
        }

        // Each pod's own line, and what is told of it all.
        let (mut serving, mut at_queue, mut busy, mut held) = (0.0, 0.0, 0.0, 0.0);
        let time = f64::from(u32::try_from(length).unwrap_or(0));
        let averaged = (seconds(CELL) / seconds(AVERAGED.max(2 * service.mean))).min(1.0);
        for at in 0..cells.live.len() {
            let id = cells.live[at] as usize;
            if cells.groups[id].waiting > 0 {
                while let Some(cohort) = given_up(&mut cells.groups[id].line, |cohort| cohort.arrival, patience) {
                    cells.groups[id].waiting -= cohort.count;
                    self.record.fail_many(now, cohort.arrival, Fate::Timeout, cohort.count);
                }
                let group = &cells.groups[id];
                let free = (f64::from(group.pods * limit) - f64::from(group.serving)).max(0.0) / stays;
                let mut free = rounded(free, &mut cells.stream).min(group.waiting);
                while free > 0
                    && let Some(first) = cells.groups[id].line.front_mut()
                {
                    let count = free.min(first.count);
                    let cohort = Cohort { count, ..*first };
                    first.count -= count;
                    if first.count == 0 {
                        cells.groups[id].line.pop_front();
                    }
                    cells.groups[id].waiting -= count;
                    free -= count;
                    self.start_counted(&mut cells, id, cohort, proxied, length);
                }
            }
            let group = &mut cells.groups[id];
            let mut waited = f64::midpoint(f64::from(group.waited_before), f64::from(group.waiting)) * time;
            if !proxied {
                waited += group.uneven.waiting * time;
            }
            if time > 0.0 {
                group.served += (group.area / time - group.served) * averaged;
            }
            let area = group.area + waited;
            let through = area * group.proxied;
            group.account.pass(now, [whole(area), whole(through)], [group.came, group.came_proxied]);
            serving += group.area;
            at_queue += waited;
            held += through;
            let pods = f64::from(group.pods.max(1));
            if !group.stopping && time > 0.0 {
                let per_pod = area / time / pods;
                // A pod among many has none with this chance; among one or two it is busy as long as there are any.
                busy += (pods * (1.0 - (-per_pod).exp())).min(area / time) * time;
            }
        }
        if now >= cells.look {
            cells.look = now + SECOND;
            self.look_at_unevenness(&mut cells);
        }
        let all: u32 = cells.desks.iter().map(|desk| desk.held).sum();
        let mut at_activator = 0.0;
        for index in 0..cells.desks.len() {
            let desk = &cells.desks[index];
            let waited = f64::midpoint(f64::from(desk.waited_before), f64::from(desk.waiting)) * time;
            // Where all are done within the cell, they were where they came.
            let (part, whole_of_it) = if all > 0 { (desk.held, all) } else { (desk.came, came.max(1)) };
            let area = waited + held * f64::from(part) / f64::from(whole_of_it);
            at_activator += waited;
            self.tell_activator(index, desk.came, whole(area), now);
        }
        self.levels.spend(whole(at_activator), whole(at_queue), whole(serving), whole(busy));
        self.tidy(&mut cells);

        let idle = cells.desks.iter().all(|desk| desk.waiting == 0)
            && cells.demand == [0; 4]
            && cells.live.iter().all(|id| {
                let group = &cells.groups[*id as usize];
                group.serving == 0 && group.waiting == 0
            });
        let next = cells.counter.next_at();
        match next {
            Some(at) if idle && at > now + CELL => {
                cells.asleep = true;
                self.agenda.add(at, Event::Cell);
            }
            None if idle => cells.asleep = true,
            _ => self.agenda.add(now + CELL, Event::Cell),
        }
        self.cells = Some(cells);
    }

    /// What it costs that requests are not spread evenly.
    fn look_at_unevenness(&self, cells: &mut Cells) {
        for id in &cells.live {
            let group = &mut cells.groups[*id as usize];
            let pods = std::iter::repeat_n(self.limit, group.pods as usize);
            group.uneven = if self.limit == 0 {
                Uneven::default()
            } else {
                cells.service.uneven(group.pods * self.limit, pods, group.served)
            };
        }
    }

    /// Each activator hands over as many as it may and pods have room for.
    fn hand_over_counted(&mut self, cells: &mut Cells, length: Micros, stays: f64, middle: Micros) {
        let limit = self.activator_limit;
        let usable: u32 = cells.live.iter().map(|id| cells.groups[*id as usize].usable).sum();
        if usable == 0 {
            return;
        }
        let count = self.route.activators.max(1) as usize;
        let share = (u64::from(usable) * u64::from(limit) / count as u64).max(1);
        for index in 0..cells.desks.len() {
            let mut go = cells.desks[index].waiting;
            if go == 0 {
                continue;
            }
            if limit > 0 {
                // As many as its own pods take, and its share of all.
                let (range, extra) = slice(usable as usize, index, count);
                let own = (range.len() + usize::from(extra.is_some())) as u64 * u64::from(limit);
                let most = u32::try_from(own.min(share)).unwrap_or(u32::MAX);
                let room = f64::from(most.saturating_sub(cells.desks[index].held)) / stays;
                go = go.min(rounded(room, &mut cells.stream));
            }
            // In turn over the pods that have room: evenly first, then wherever there is some left.
            let room = |group: &Group| if group.usable == 0 { 0.0 } else { group.room(group.usable, limit, stays) };
            for round in 0..2 {
                let (mut pods, mut left) = (usable, go);
                for at in 0..cells.live.len() {
                    let id = cells.live[at] as usize;
                    let of_it = cells.groups[id].usable;
                    if left == 0 || of_it == 0 {
                        continue;
                    }
                    let even = f64::from(left) * f64::from(of_it) / f64::from(pods);
                    let mut here = if round == 0 { rounded(even, &mut cells.stream) } else { left };
                    if limit > 0 {
                        here = here.min(rounded(room(&cells.groups[id]), &mut cells.stream));
                    }
                    here = here.min(left);
                    pods -= of_it;
                    left -= here;
                    go -= here;
                    while here > 0
                        && let Some(first) = cells.desks[index].line.front_mut()
                    {
                        let count = here.min(first.count);
                        let waited = middle.saturating_sub(first.since);
                        let cohort = Cohort { count, since: middle, activator_wait: waited, ..*first };
                        first.count -= count;
                        if first.count == 0 {
                            cells.desks[index].line.pop_front();
                        }
                        cells.desks[index].waiting -= count;
                        here -= count;
                        let before = cells.groups[id].serving + cells.groups[id].waiting;
                        self.enter_group(cells, id, cohort, true, length);
                        let after = cells.groups[id].serving + cells.groups[id].waiting;
                        cells.desks[index].held += after - before;
                    }
                }
                if go == 0 {
                    break;
                }
            }
        }
    }

    /// So many come to the pods of a group: they are served, wait, or find its line full.
    fn enter_group(&mut self, cells: &mut Cells, id: usize, cohort: Cohort, proxied: bool, length: Micros) {
        let stays = if length > 0 { cells.service.fresh_stays } else { 1.0 };
        let group = &mut cells.groups[id];
        let there = f64::from(group.serving + group.waiting);
        let count = cohort.count;
        if count == 0 {
            return;
        }
        group.came += count;
        if proxied {
            group.came_proxied += count;
        }
        let now_proxied = if proxied { f64::from(count) } else { 0.0 };
        group.proxied = (group.proxied * there + now_proxied) / (there + f64::from(count));
        let capacity = f64::from(group.pods) * f64::from(self.limit);
        if self.limit == 0 || (group.waiting == 0 && f64::from(group.serving) + f64::from(count) * stays <= capacity) {
            return self.start_counted(cells, id, cohort, proxied, length);
        }
        let most = group.pods.saturating_mul(self.limit).saturating_mul(10);
        let room = most.saturating_sub(group.waiting) + group.pods * self.limit;
        let over = count.saturating_sub(room);
        let count = count - over;
        group.waiting += count;
        group.line.push_back(Cohort { count, ..cohort });
        if over > 0 {
            self.record.fail_many(self.now, cohort.arrival, Fate::QueueFull, over);
        }
    }

    /// So many begin to be served.
    fn start_counted(&mut self, cells: &mut Cells, id: usize, cohort: Cohort, proxied: bool, length: Micros) {
        let group = &mut cells.groups[id];
        let fresh = cells.service.start(cohort.count, length > 0, &mut cells.stream);
        for (phase, fresh) in group.phases.iter_mut().zip(fresh) {
            *phase += fresh;
            group.serving += fresh;
        }
        if length > 0 {
            group.area += f64::from(cohort.count) * cells.service.fresh_area;
        }
        let mut begun = Begun {
            arrival: cohort.arrival,
            count: cohort.count,
            activator_wait: cohort.activator_wait,
            queue_wait: (self.now - length / 2).saturating_sub(cohort.since),
            cold: cohort.cold,
            patience: self.timeout.min(self.revision_timeout),
        };
        // Some of those that did not wait did wait where they went, while there was room elsewhere.
        let uneven = if proxied { Uneven::default() } else { cells.groups[id].uneven };
        if uneven.chance > 0.0 && begun.activator_wait == 0 && begun.queue_wait == 0 {
            let count = binomial(begun.count, uneven.chance, &mut cells.stream);
            if count > 0 {
                let long: f64 = cells.stream.sample(Exp1);
                let wait = from_seconds(seconds(uneven.wait) * long);
                self.record.begin_many(self.now, &Begun { count, queue_wait: wait, ..begun });
                begun.count -= count;
            }
        }
        self.record.begin_many(self.now, &begun);
    }

    /// What an activator reports.
    fn tell_activator(&mut self, index: usize, came: u32, area: u64, now: Micros) {
        let activator = &mut self.activators[index];
        activator.account.pass(now, [area, 0], [came, 0]);
        if came == 0 || activator.tracked || !self.scaler.hears_activators() {
            return;
        }
        activator.tracked = true;
        activator.told = 1.0;
        let closes = activator.account.reopen(now);
        activator.account.pass(now, [0, 0], [came, 0]);
        self.agenda.add(closes, Event::Report(u32::try_from(index).unwrap_or(0)));
        self.tell_reported(Load { concurrency: 1.0, requests: 1.0, ..Load::default() });
    }

    /// Groups without pods go, and those that are like the others are counted with them.
    fn tidy(&mut self, cells: &mut Cells) {
        let settles = SETTLES.max(5 * cells.service.mean);
        let (now, mut first) = (self.now, None);
        let mut at = 0;
        while at < cells.live.len() {
            let id = cells.live[at];
            let group = &cells.groups[id as usize];
            let alike = !group.stopping
                && group.waiting == 0
                && (group.usable, group.published) == (group.pods, group.pods)
                && group.begun + settles < now;
            if group.pods > 0 && !alike {
                at += 1;
                continue;
            }
            if group.pods > 0 {
                let Some(into) = first else {
                    first = Some(id);
                    at += 1;
                    continue;
                };
                let mut theirs = cells.groups[id as usize].clone();
                let mine: &mut Group = &mut cells.groups[into as usize];
                let (a, b) = (f64::from(mine.serving), f64::from(theirs.serving));
                if a + b > 0.0 {
                    mine.proxied = (mine.proxied * a + theirs.proxied * b) / (a + b);
                }
                mine.served += theirs.served;
                mine.pods += theirs.pods;
                mine.usable += theirs.usable;
                mine.published += theirs.published;
                mine.serving += theirs.serving;
                for (phase, more) in mine.phases.iter_mut().zip(theirs.phases) {
                    *phase += more;
                }
                theirs.account.read(now);
                mine.account.read(now);
                mine.account.join(&theirs.account);
                self.work.pods += self.pods.len() as u64;
                for pod in &mut self.pods {
                    if pod.group == id {
                        pod.group = into;
                    }
                }
            }
            cells.live.remove(at);
            cells.free.push(id);
        }
    }

    // What pods have to do with it.

    /// A pod became ready.
    pub(super) fn count_ready(&mut self, id: u32) {
        let Some(cells) = &mut self.cells else { return };
        let pod = &mut self.pods[id as usize];
        pod.group = cells.group(pod.account, self.now, false);
        cells.groups[pod.group as usize].pods += 1;
    }

    /// Activators may use a pod, or the endpoints have it.
    pub(super) fn count_reachable(&mut self, id: u32, usable: bool) {
        let Some(cells) = &mut self.cells else { return };
        let group = &mut cells.groups[self.pods[id as usize].group as usize];
        if usable {
            group.usable += 1;
        } else {
            group.published += 1;
        }
    }

    /// A pod begins to stop: its part of the requests goes with it.
    pub(super) fn count_stopping(&mut self, id: u32) {
        let Some(cells) = &mut self.cells else { return };
        let pod = &mut self.pods[id as usize];
        let from = pod.group as usize;
        let share = 1.0 / f64::from(cells.groups[from].pods.max(1));
        let to = cells.group(Account::new(self.now, self.now % SECOND), self.now, true) as usize;
        pod.group = u32::try_from(to).unwrap_or(NONE);
        let mut part: Phases = [0; 4];
        let mut line = VecDeque::new();
        let group = &mut cells.groups[from];
        group.pods -= 1;
        group.usable -= u32::from(pod.usable);
        group.published -= u32::from(pod.endpoint != NONE);
        for (phase, part) in group.phases.iter_mut().zip(&mut part) {
            *part = binomial(*phase, share, &mut cells.stream);
            *phase -= *part;
            group.serving -= *part;
        }
        for cohort in &mut group.line {
            let count = binomial(cohort.count, share, &mut cells.stream);
            cohort.count -= count;
            group.waiting -= count;
            line.push_back(Cohort { count, ..*cohort });
        }
        let proxied = group.proxied;
        let stopping = &mut cells.groups[to];
        stopping.pods += 1;
        stopping.proxied = proxied;
        for (phase, part) in stopping.phases.iter_mut().zip(part) {
            *phase += part;
            stopping.serving += part;
        }
        for cohort in line.into_iter().filter(|cohort| cohort.count > 0) {
            stopping.waiting += cohort.count;
            let place = stopping.line.partition_point(|other| other.arrival <= cohort.arrival);
            stopping.line.insert(place, cohort);
        }
    }

    /// A stopping pod gets no more requests; until now it did, if any came.
    pub(super) fn count_withdrawn(&mut self, id: u32) {
        if let Some(cells) = &self.cells
            && !cells.asleep
            && cells.came > 0
            && self.pods[id as usize].phase == Phase::Draining
        {
            self.pods[id as usize].last_request = self.now;
        }
    }

    /// Whether a pod may have requests.
    pub(super) fn has_requests(&self, id: u32) -> bool {
        let pod = &self.pods[id as usize];
        match &self.cells {
            None => pod.requests() > 0,
            Some(cells) => cells.groups.get(pod.group as usize).is_some_and(|group| group.serving + group.waiting > 0),
        }
    }

    /// A pod is gone, and what it still had has failed.
    pub(super) fn count_gone(&mut self, id: u32) {
        let Some(cells) = &mut self.cells else { return };
        let Some(group) = cells.groups.get_mut(self.pods[id as usize].group as usize) else { return };
        self.pods[id as usize].group = NONE;
        group.pods -= 1;
        if group.pods == 0 {
            // Those in service were told as answered when they began; those that wait are lost.
            for cohort in group.line.drain(..) {
                self.record.fail_many(self.now, cohort.arrival, Fate::PodLost, cohort.count);
            }
            (group.phases, group.serving, group.waiting) = ([0; 4], 0, 0);
        }
    }

    /// What a pod of a group reports.
    pub(super) fn counted_load(&mut self, id: u32, now: Micros) -> Option<Load> {
        let cells = self.cells.as_mut()?;
        let group = cells.groups.get_mut(self.pods[id as usize].group as usize)?;
        let load = group.account.read(now);
        let share = 1.0 / f64::from(group.pods.max(1));
        Some(Load {
            concurrency: load.concurrency * share,
            proxied_concurrency: load.proxied_concurrency * share,
            requests: load.requests * share,
            proxied_requests: load.proxied_requests * share,
        })
    }

    /// Requests that still wait at the end.
    pub(super) fn censor_counted(&mut self) {
        let Some(cells) = &self.cells else { return };
        let lines = cells.live.iter().flat_map(|id| &cells.groups[*id as usize].line);
        for cohort in cells.desks.iter().flat_map(|desk| &desk.line).chain(lines) {
            self.record.censor(cohort.arrival, cohort.count);
        }
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` saturates")]
fn whole_of(value: f64) -> u32 {
    value.round() as u32
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` saturates")]
fn whole(value: f64) -> u64 {
    (value + 0.5) as u64
}
