//! The gate against a load balancer that is late, on each address in its own way.

use super::*;
use proptest::prelude::*;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use std::net::IpAddr;

const TICK: Span = Span::from_millis(100);
const START: Timestamp = Timestamp::from_seconds(10_000);

/// A membership as it was written, with the pods of that time: those that were made after the n-th time at zero.
type Written = (Members, u32);

struct Address {
    /// What it uses, and what it will use, each from a time on.
    now: Written,
    coming: Vec<(Timestamp, Written)>,
}

/// A cluster with one revision, as far as the gate sees it.
struct World {
    random: StdRng,
    now: Timestamp,
    gate: Gate,
    mode: Mode,
    addresses: Vec<Address>,
    targets: BTreeSet<Target>,
    written: (Written, Timestamp),
    to_write: Option<(Timestamp, Members)>,
    pods: Pods,
    ready_at: Timestamp,
    life: u32,
    pods_live: bool,
    activators: u32,
    traffic: Option<Timestamp>,
    want: Path,
    room: bool,
    delay: Span,
    /// Scale to zero without asking.
    reckless: bool,
    zeros: u32,
    last: Option<Decision>,
    in_flight: Vec<(Timestamp, Probe, Answer)>,
}

impl World {
    fn new(seed: u64, mode: Mode, addresses: u8, rules: usize) -> Self {
        let random = StdRng::seed_from_u64(seed);
        let targets = (0..addresses).flat_map(|n| (0..rules).map(move |rule| target(n, rule))).collect();
        let first = (Members::Pods, 0);
        Self {
            random,
            now: START,
            gate: Gate::new(mode, Timers::default()),
            mode,
            addresses: (0..addresses).map(|_| Address { now: first, coming: Vec::new() }).collect(),
            targets,
            written: (first, START - Span::from_seconds(3600)),
            to_write: None,
            pods: Pods { all: 1, ready: 1 },
            ready_at: START,
            life: 0,
            pods_live: true,
            activators: 2,
            traffic: None,
            want: Path::Warm,
            room: true,
            delay: Span::from_seconds(10),
            reckless: false,
            zeros: 0,
            last: None,
            in_flight: Vec::new(),
        }
    }

    /// One tick of everything. An error is a request that would be lost.
    fn tick(&mut self) -> Result<(), String> {
        self.now = self.now + TICK;
        if self.pods.all > 0 && self.ready_at <= self.now {
            self.pods.ready = self.pods.all;
        }
        if let Some((at, members)) = self.to_write
            && at <= self.now
        {
            self.to_write = None;
            self.write(members);
        }
        self.follow()?;
        for (_, probe, answer) in self.in_flight.extract_if(.., |(at, ..)| *at <= self.now) {
            self.gate.answer(self.now, &probe, answer);
        }
        let epoch = self.gate.request(self.now, self.want);
        let seen = Seen {
            written: Some((self.written.0.0, self.written.1)),
            pods: self.pods,
            activators: self.activators,
            room: self.room,
            traffic: self.traffic,
            ..Seen::new(self.mode, &self.targets)
        };
        let decision = self.gate.step(self.now, &seen);
        for probe in &decision.probes {
            let address = match probe.target.address.ip() {
                IpAddr::V4(ip) => &self.addresses[usize::from(ip.octets()[3])],
                IpAddr::V6(_) => unreachable!("all are of version 4"),
            };
            let answer = match address.now.0 {
                Members::Pods => Answer::Pod,
                Members::Both if self.random.random_ratio(1, 1 + self.activators) => Answer::Pod,
                Members::Activators | Members::Both => Answer::Activator,
            };
            let at = self.now + Span::from_millis(self.random.random_range(0..50));
            self.in_flight.push((at, probe.clone(), answer));
        }
        self.act(&decision, epoch);
        self.last = Some(decision);
        Ok(())
    }

    /// The addresses follow. Nobody may be led to a pod that is gone, nor to an empty group.
    fn follow(&mut self) -> Result<(), String> {
        for (number, address) in self.addresses.iter_mut().enumerate() {
            while let Some((at, next)) = address.coming.first().copied() {
                if self.now < at {
                    break;
                }
                address.coming.remove(0);
                let common = [Members::Pods, Members::Activators]
                    .iter()
                    .any(|kind| address.now.0.holds(*kind) && next.0.holds(*kind));
                if self.mode == Mode::Port && !common {
                    return Err(format!(
                        "address {number}: {:?} and then {next:?} have nothing in common",
                        address.now
                    ));
                }
                address.now = next;
            }
            let (members, life) = address.now;
            if members.holds(Members::Pods) && (life != self.life || !self.pods_live) {
                return Err(format!("address {number} uses pods that are gone: {:?}", address.now));
            }
        }
        Ok(())
    }

    fn act(&mut self, decision: &Decision, epoch: u64) {
        match decision.members {
            Some(members) if members != self.written.0.0 => {
                let at = self.now + Span::from_millis(self.random.random_range(0..1500));
                let at = self.to_write.map_or(at, |(at, _)| at);
                self.to_write = Some((at, members));
            }
            _ => self.to_write = None,
        }
        let wanted = self.want == Path::Warm || decision.pin;
        if wanted && self.pods.all == 0 {
            self.life += 1;
            self.pods_live = true;
            self.pods = Pods { all: 1, ready: 0 };
            self.ready_at = self.now + Span::from_millis(self.random.random_range(200..6000));
        }
        let may = self.gate.may_scale_to_zero(self.now, epoch).is_ok();
        if self.want == Path::Cold && self.pods.all > 0 && (may || self.reckless) {
            self.pods = Pods::default();
            self.pods_live = false;
            self.zeros += 1;
        }
    }

    fn write(&mut self, members: Members) {
        let written = (members, self.life);
        self.written = (written, self.now);
        for address in &mut self.addresses {
            let delay = self.random.random_range(0..=self.delay.nanos());
            let at = (self.now + Span::from_nanos(delay)).max(address.coming.last().map_or(self.now, |(at, _)| *at));
            if self.random.random_bool(0.3) && !address.coming.is_empty() {
                // A controller that has not begun with one change begins with the next.
                address.coming.pop();
            }
            address.coming.push((at, written));
        }
    }

    /// Runs until `done`, at most so long; says whether it came to that.
    fn run_until(&mut self, limit: Span, done: impl Fn(&Self) -> bool) -> Result<bool, String> {
        let end = self.now + limit;
        while self.now < end {
            self.tick()?;
            if done(self) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn run(&mut self, time: Span) -> Result<(), String> {
        self.run_until(time, |_| false).map(drop)
    }

    fn state(&self) -> State {
        self.gate.state().0
    }
}

fn target(address: u8, rule: usize) -> Target {
    Target {
        address: SocketAddr::from(([127, 0, 0, address], 80)),
        rule: format!("web/rule-{rule}").into(),
        group: format!("web/group-{}", rule % 2).into(),
    }
}

/// What happens beside the gate, and for how long it is left at that.
#[derive(Clone, Copy, Debug)]
enum Event {
    Want(Path),
    Traffic,
    Room(bool),
    Delay(i64),
    Activators(u32),
    Rules(usize),
}

fn events() -> impl Strategy<Value = Vec<(Event, i64)>> {
    let event = prop_oneof![
        4 => Just(Event::Want(Path::Cold)),
        3 => Just(Event::Want(Path::Warm)),
        1 => Just(Event::Traffic),
        1 => any::<bool>().prop_map(Event::Room),
        2 => prop_oneof![0..5_i64, 0..60_i64, 0..300_i64].prop_map(Event::Delay),
        1 => (1..5_u32).prop_map(Event::Activators),
        1 => (1..4_usize).prop_map(Event::Rules),
    ];
    proptest::collection::vec((event, prop_oneof![0..5_i64, 0..120_i64, 0..400_i64]), 1..25)
}

fn apply(world: &mut World, event: Event) {
    match event {
        Event::Want(want) => world.want = want,
        Event::Traffic => world.traffic = Some(world.now),
        Event::Room(room) => world.room = room,
        Event::Delay(seconds) => world.delay = Span::from_seconds(seconds),
        Event::Activators(activators) => world.activators = activators,
        Event::Rules(rules) => {
            let addresses = u8::try_from(world.addresses.len()).expect("few addresses");
            world.targets = (0..addresses).flat_map(|n| (0..rules).map(move |rule| target(n, rule))).collect();
        }
    }
}

fn good_again(world: &mut World) {
    (world.delay, world.activators, world.room, world.traffic) = (Span::from_seconds(5), 2, true, None);
}

/// The longest there is to wait once all is well: for what may still come into force, a back-off, and the proofs.
const PATIENCE: Span = Span::from_seconds(600 + 300 + 90 + 120 + 60);

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn no_way_leads_to_a_pod_that_is_gone_and_no_group_is_empty(
        seed: u64, addresses in 1..4_u8, rules in 1..4_usize, header: bool, events in events(),
    ) {
        let mode = if header { Mode::Header } else { Mode::Port };
        let mut world = World::new(seed, mode, addresses, rules);
        for (event, seconds) in events {
            apply(&mut world, event);
            if let Err(lost) = world.run(Span::from_seconds(seconds)) {
                return Err(TestCaseError::fail(format!("{lost}; {:?}", world.last)));
            }
        }
        // And it comes to rest, either way, once it can.
        good_again(&mut world);
        for (want, states) in [(Path::Cold, &[State::Cold][..]), (Path::Warm, &[State::Warm])] {
            world.want = want;
            let come = world.run_until(PATIENCE, |world| states.contains(&world.state()));
            prop_assert_eq!(come, Ok(true), "{:?}", world.last);
        }
    }

    #[test]
    fn an_address_that_never_follows_keeps_a_pod_and_is_named(seed: u64, header: bool) {
        let mode = if header { Mode::Header } else { Mode::Port };
        let mut world = World::new(seed, mode, 3, 1);
        world.run(Span::from_seconds(5)).expect("nothing happens");
        world.want = Path::Cold;
        let stuck = |world: &mut World| world.addresses[1].coming.clear();
        let mut held = false;
        for _ in 0..12_000 {
            world.tick().map_err(TestCaseError::fail)?;
            stuck(&mut world);
            if let (State::Held, Reason::Late { missing, .. }) = world.gate.state() {
                held = true;
                let Reason::Unproven { address, .. } = &**missing else {
                    return Err(TestCaseError::fail(format!("{missing:?}")));
                };
                prop_assert_eq!(*address, target(1, 0).address);
            }
            prop_assert!(world.last.as_ref().is_some_and(|last| last.zero.is_err() && last.pin));
        }
        prop_assert!(held);
        prop_assert_eq!(world.zeros, 0);
        let held_for = world.last.as_ref().expect("it ran").look_again;
        prop_assert!(held_for.is_some_and(|at| at.since(world.now) <= Timers::default().hold_most));
        // It follows again: so does the revision, by itself.
        let catch_up = (world.now, world.written.0);
        world.addresses[1].coming.push(catch_up);
        let come = world.run_until(PATIENCE, |world| world.state() == State::Cold);
        prop_assert_eq!(come, Ok(true), "{:?}", world.last);
    }
}

#[test]
fn without_the_gate_requests_are_lost() {
    let lost = (0..20).filter(|seed| {
        let mut world = World::new(*seed, Mode::Port, 2, 1);
        world.reckless = true;
        world.want = Path::Cold;
        world.run(Span::from_seconds(60)).is_err()
    });
    assert_eq!(lost.count(), 20, "or the world is blind");
}

#[test]
fn what_was_written_and_not_seen_yet_is_waited_for() {
    let zeros = (0..20).map(|seed| {
        let mode = if seed % 2 == 0 { Mode::Header } else { Mode::Port };
        let mut world = World::new(seed, mode, 2, 1);
        world.want = Path::Cold;
        assert_eq!(world.run_until(PATIENCE, |world| world.state() == State::Cold), Ok(true));
        // Up for so short a time that the load balancer has not followed when it goes down again.
        (world.delay, world.want) = (Span::from_seconds(290), Path::Warm);
        world.run(Span::from_seconds(20)).expect("nothing is lost");
        world.want = Path::Cold;
        world.run(Span::from_seconds(900)).unwrap_or_else(|lost| panic!("seed {seed}: {lost}; {:?}", world.last));
        world.zeros
    });
    assert!(zeros.sum::<u32>() > 20, "some come to zero again");
}

#[test]
fn a_request_on_the_way_down_turns_it_round_and_its_epoch_is_worth_nothing() {
    let mut world = World::new(7, Mode::Port, 2, 2);
    world.want = Path::Cold;
    let epoch = world.gate.request(world.now, Path::Cold);
    let going = |world: &World| world.state() == State::Draining && world.written.0.0 == Members::Activators;
    assert_eq!(world.run_until(PATIENCE, going), Ok(true));
    world.traffic = Some(world.now);
    world.tick().expect("nothing is lost");
    assert_eq!(world.state(), State::BridgingUp);
    assert!(matches!(world.gate.may_scale_to_zero(world.now, epoch), Err(Reason::OtherEpoch { .. })));
}

#[test]
fn a_pinned_revision_and_one_in_hold_mode_keep_a_pod() {
    let mut world = World::new(3, Mode::Hold, 1, 1);
    world.want = Path::Cold;
    world.run(Span::from_seconds(300)).expect("nothing is lost");
    let last = world.last.as_ref().expect("it ran");
    assert_eq!((last.members, last.pin, last.because.clone()), (Some(Members::Pods), true, Reason::HoldMode));

    let mut gate = Gate::new(Mode::Header, Timers::default());
    let targets = BTreeSet::from([target(0, 0)]);
    let pinned = Seen {
        pinned: true,
        written: Some((Members::Pods, START)),
        pods: Pods { all: 1, ready: 1 },
        activators: 2,
        ..Seen::new(Mode::Header, &targets)
    };
    gate.request(START, Path::Cold);
    let decision = gate.step(START, &pinned);
    assert_eq!((decision.state, decision.pin, decision.because), (State::Warm, true, Reason::Pinned));
}

#[test]
fn when_activators_are_lost_what_rests_is_woken() {
    let mut world = World::new(11, Mode::Port, 1, 1);
    world.want = Path::Cold;
    assert_eq!(world.run_until(PATIENCE, |world| world.state() == State::Cold), Ok(true));
    // One is left and nobody asked lately: it rests on.
    world.activators = 1;
    world.run(Span::from_seconds(20)).expect("nothing is lost");
    assert_eq!(world.state(), State::Cold);
    world.activators = 0;
    let up = |world: &World| world.pods.ready > 0;
    assert_eq!(world.run_until(Span::from_seconds(20), up), Ok(true));
    assert!(matches!(world.gate.state().1, Reason::FewActivators { there: 0, needed: 2 }));
}

#[test]
fn the_mode_changes_over_with_pods_only() {
    let mut world = World::new(5, Mode::Port, 1, 1);
    world.want = Path::Cold;
    assert_eq!(world.run_until(PATIENCE, |world| world.state() == State::Cold), Ok(true));
    let seen = |pods: Pods, written, targets| Seen {
        pods,
        written: Some((written, START)),
        activators: 2,
        ..Seen::new(Mode::Header, targets)
    };
    let (mut gate, targets, now) = (world.gate.clone(), world.targets.clone(), world.now);
    let decision = gate.step(now, &seen(Pods::default(), Members::Activators, &targets));
    assert_eq!((decision.mode, decision.pin, decision.state), (Mode::Port, true, State::Waking));
    let ready = Pods { all: 1, ready: 1 };
    let decision = gate.step(now + Span::SECOND, &seen(ready, Members::Activators, &targets));
    assert_eq!((decision.mode, decision.state), (Mode::Port, State::BridgingUp));

    // One without room for a burst is never `warm`, and changes over all the same.
    let mut gate = Gate::new(Mode::Header, Timers::default());
    let crowded = |mode, written| Seen {
        pods: ready,
        written: Some((written, START)),
        activators: 2,
        room: false,
        ..Seen::new(mode, &targets)
    };
    assert_eq!(gate.step(now, &crowded(Mode::Header, Members::Pods)).state, State::Burst);
    let decision = gate.step(now, &crowded(Mode::Port, Members::Activators));
    assert_eq!((decision.mode, decision.members), (Mode::Port, Some(Members::Both)));
}

#[test]
fn what_was_begun_is_seen_before_it_is_taken_back() {
    // Requests come and go while an address follows late: what is written then is seen, and the horizon is not waited for.
    for seed in 0..20 {
        let mut world = World::new(seed, Mode::Port, 2, 1);
        world.room = false;
        (world.delay, world.want) = (Span::from_seconds(40), Path::Cold);
        let draining = |world: &World| world.state() == State::Draining && world.written.0.0 == Members::Activators;
        assert_eq!(world.run_until(PATIENCE, draining), Ok(true), "seed {seed}");
        (world.traffic, world.want) = (Some(world.now), Path::Warm);
        world.run(Span::SECOND).expect("nothing is lost");
        world.want = Path::Cold;
        let come = world.run_until(Span::from_seconds(300), |world| world.state() == State::Cold);
        assert_eq!(come, Ok(true), "seed {seed}: {:?}", world.last);
    }
}

#[test]
fn an_address_that_follows_again_keeps_no_pod_for_the_horizon() {
    let mut world = World::new(3, Mode::Port, 2, 1);
    world.want = Path::Cold;
    let draining = |world: &World| world.state() == State::Draining && world.written.0.0 == Members::Activators;
    assert_eq!(world.run_until(PATIENCE, draining), Ok(true));
    let mut stuck = Vec::new();
    for _ in 0..4_000 {
        world.tick().expect("nothing is lost");
        stuck.append(&mut world.addresses[1].coming);
    }
    assert_eq!(world.zeros, 0);
    world.addresses[1].coming = stuck;
    let come = world.run_until(Span::from_seconds(300 + 60), |world| world.state() == State::Cold);
    assert_eq!(come, Ok(true), "{:?}", world.last);
}

#[test]
fn a_rule_that_is_not_in_force_does_not_hold_what_was_seen_through_another() {
    let mut gate = Gate::new(Mode::Port, Timers::default());
    let (live, blocked) = (target(0, 0), Target { rule: "web/rule-0 of the next plan".into(), ..target(0, 0) });
    let targets = BTreeSet::from([live.clone(), blocked]);
    let mut now = START;
    gate.request(now, Path::Cold);
    let mut members = Members::Pods;
    for _ in 0..20_000 {
        now = now + TICK;
        let seen = Seen {
            written: Some((members, START - Span::from_seconds(7200))),
            pods: Pods { all: 1, ready: 1 },
            activators: 2,
            ..Seen::new(Mode::Port, &targets)
        };
        let decision = gate.step(now, &seen);
        members = decision.members.expect("all live");
        for probe in decision.probes {
            let answer = match members {
                _ if probe.target != live => Answer::Elsewhere,
                Members::Pods => Answer::Pod,
                _ => Answer::Activator,
            };
            gate.answer(now, &probe, answer);
        }
        if decision.state == State::ColdConfirmed {
            return;
        }
    }
    panic!("{:?}", gate.state());
}

#[test]
fn what_was_changed_and_changed_back_unseen_may_still_come() {
    // An address shows activators. Where they are from before pods that nobody here saw come and go, it will show those.
    for unseen in [false, true] {
        let (mut gate, targets) = (Gate::new(Mode::Header, Timers::default()), BTreeSet::from([target(0, 0)]));
        let (mut now, mut written) = (START, (Members::Pods, START - Span::from_seconds(7200)));
        let mut confirmed = false;
        for tick in 0..3_000 {
            now = now + TICK;
            if tick == 600 {
                gate.request(now, Path::Cold);
                written.1 = if unseen { now } else { written.1 };
            }
            let pods = Pods { all: 1, ready: 1 };
            let seen = Seen { written: Some(written), pods, activators: 2, ..Seen::new(Mode::Header, &targets) };
            let decision = gate.step(now, &seen);
            for probe in decision.probes {
                let answer = if written.0 == Members::Pods { Answer::Pod } else { Answer::Activator };
                gate.answer(now, &probe, answer);
            }
            if let Some(members) = decision.members.filter(|members| *members != written.0) {
                written = (members, now);
            }
            confirmed |= decision.state == State::ColdConfirmed;
        }
        assert_eq!(confirmed, !unseen, "{:?}", gate.state());
    }
}

#[test]
fn a_revision_rests_until_nothing_is_written_of_pods_that_may_be_gone() {
    let (mut gate, targets) = (Gate::new(Mode::Port, Timers::default()).without_past(), BTreeSet::from([target(0, 0)]));
    gate.request(START, Path::Cold);
    // Nothing is published yet. The pod of before is gone and still written; the next one is on its way.
    let since = START - Span::from_seconds(60);
    let before = Seen {
        published: false,
        written: Some((Members::Pods, since)),
        pods: Pods { all: 1, ready: 0 },
        activators: 2,
        ..Seen::new(Mode::Port, &targets)
    };
    let first = gate.step(START, &before);
    assert_eq!((first.state, first.members), (State::Waking, Some(Members::Activators)));
    assert!(first.state.rests(), "whoever publishes goes by this");
    let later = START + Span::SECOND;
    let second = gate.step(later, &Seen { written: Some((Members::Activators, later)), ..before });
    assert_eq!(second.state, State::Draining);
}
