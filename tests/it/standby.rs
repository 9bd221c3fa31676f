//! Fail-over: one process mirrors another's windows and deciders and goes on with them.

use bytes::Bytes;
use ebb::clock::Clock;
use ebb::deciders::log::{Behind, MOST_FOLLOWERS, MOST_WAITING};
use ebb::deciders::mirror::frame::{Frame, MOST_FRAME, VERSION, Writer};
use ebb::deciders::mirror::serve::{Serving, router};
use ebb::deciders::mirror::standby::{ASK_AGAIN, Standby};
use ebb::deciders::mirror::{MOST_AGE, MOST_SKEW, Mirror, MirrorError, Unusable};
use ebb::deciders::{Deciders, ReadyPods};
use ebb::engine::written::RevisionForm;
use ebb::engine::{Load, MetricSpec, Spec};
use ebb::k8s::dial::SystemDial;
use ebb::ownership::Ownership;
use ebb::ownership::holder::{Holder, Remote};
use ebb::ownership::ring::Ring;
use ebb::stats::server::{self, Server};
use ebb::units::{Aggregation, Compat, RevisionKey, ScalingMetric, Span, Timestamp};
use proptest::prelude::*;
use prost::Message as _;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// An even second.
const START: Timestamp = Timestamp::from_seconds(1_785_542_400);

const WINDOWS: MetricSpec = MetricSpec {
    stable_window: Span::from_seconds(60),
    panic_window: Span::from_seconds(6),
    scraped: true,
    aggregation: Aggregation::Linear,
};

fn spec() -> Spec {
    Spec {
        max_scale_up_rate: 1000.0,
        max_scale_down_rate: 2.0,
        metric: ScalingMetric::Concurrency,
        target_value: 7.0,
        total_value: 10.0,
        target_burst_capacity: 211.0,
        activator_capacity: 100.0,
        panic_threshold: 2.0,
        stable_window: WINDOWS.stable_window,
        scale_down_delay: Span::from_seconds(10),
        initial_scale: 1,
        activation_scale: 0,
        reachable: true,
    }
}

fn key(name: &str) -> RevisionKey {
    RevisionKey::new("default", name)
}

struct Ready(i32);

impl ReadyPods for Ready {
    fn ready(&self, _key: &RevisionKey) -> i32 {
        self.0
    }
}

fn deciders(clock: Clock) -> Deciders {
    Deciders::new(clock, Compat::IMPROVED, Arc::new(Ready(3)), Box::new(|_, _| {}))
}

fn run(deciders: &Deciders) {
    let deciders = deciders.clone();
    tokio::spawn(async move { deciders.run(CancellationToken::new()).await });
}

fn set_up(deciders: &Deciders, key: &RevisionKey) {
    deciders.ensure_windows(key, &WINDOWS);
    deciders.ensure_decider(key, &spec(), None);
}

/// The state of every revision.
fn states(deciders: &Deciders) -> BTreeMap<RevisionKey, RevisionForm> {
    let mut subscription = deciders.follow(0).expect("a place");
    let mut states = BTreeMap::new();
    loop {
        let news = subscription.look().expect("not behind");
        states.extend(news.states.into_iter().map(|(name, state)| (name.key, state)));
        if news.complete {
            return states;
        }
    }
}

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::SeqCst)
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let waiting = async {
        while !condition() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(10), waiting).await.unwrap_or_else(|_| panic!("still not: {what}"));
}

/// An owner with its stat server, and a way to it that can be cut as a kill does.
struct Owner {
    deciders: Deciders,
    serving: Serving,
    address: SocketAddr,
    relay: tokio::task::JoinHandle<()>,
}

impl Owner {
    async fn start(clock: Clock) -> Self {
        let deciders = deciders(clock);
        run(&deciders);
        let ownership = Ownership::single(clock);
        let serving = Serving { deciders: deciders.clone(), ownership, counters: Arc::default() };
        let server = stat_server(clock, router(serving.clone())).await.0;
        let relay = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = relay.local_addr().expect("an address");
        let relay = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((mut from, _)) = relay.accept().await {
                connections.spawn(async move {
                    let mut to = TcpStream::connect(server).await.expect("the stat server");
                    let _ = tokio::io::copy_bidirectional(&mut from, &mut to).await;
                });
            }
        });
        Self { deciders, serving, address, relay }
    }
}

async fn stat_server(clock: Clock, also: axum::Router) -> (SocketAddr, Arc<server::Counters>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let (queue, mut stats) = mpsc::channel(10);
    let owns = Arc::new(|_: &str| true);
    let counters = Arc::<server::Counters>::default();
    let server = Server { queue, owns, counters: Arc::clone(&counters), clock, compat: Compat::IMPROVED, also };
    tokio::spawn(async move { while stats.recv().await.is_some() {} });
    tokio::spawn(server::serve(listener, server, CancellationToken::new()));
    (address, counters)
}

fn held_at(address: SocketAddr) -> Holder {
    let (name, host) = ("autoscaler-1".to_owned(), address.ip().to_string());
    Holder::Remote(Arc::new(Remote { name, host, urls: vec![format!("ws://{address}")] }))
}

/// A process that mirrors what is held at an address.
struct Waiting {
    standby: Standby,
    deciders: Deciders,
    holder: watch::Sender<Holder>,
}

impl Waiting {
    fn start(clock: Clock, address: SocketAddr) -> Self {
        let standby = Standby::new(Ring::new(1), clock, Compat::IMPROVED, Arc::new(SystemDial));
        let (holder, watched) = watch::channel(held_at(address));
        standby.start(vec![watched], &TaskTracker::new(), &CancellationToken::new());
        let deciders = deciders(clock);
        run(&deciders);
        Self { standby, deciders, holder }
    }

    async fn is_warm(&self) {
        until("a complete mirror", || self.standby.state(0) == Some(Ok(()))).await;
    }

    fn take_over(&self) {
        let taken = self.standby.take(0).expect("a mirror that can be used");
        self.deciders.resume(taken.revisions, taken.lossy);
        self.holder.send_replace(Holder::Local);
    }
}

/// Load of a second: busy, with a burst, then quieter.
fn load(second: i64) -> Load {
    let concurrency = match second {
        ..40 => 30.0,
        40..46 => 90.0,
        46..80 => 31.0 + f64::from(u8::try_from(second % 7).expect("small")) / 3.0,
        _ => 12.5,
    };
    Load { concurrency, proxied_concurrency: 0.1, requests: concurrency * 2.0, proxied_requests: 0.0 }
}

/// One second in the life of a revision at whoever owns it: a scrape, and a report of an activator.
async fn second(clock: Clock, from: Timestamp, number: i64, key: &RevisionKey, owners: &[&Deciders]) {
    let at = |millis| clock.instant(from + Span::from_seconds(number) + Span::from_millis(millis));
    tokio::time::sleep_until(at(300)).await;
    for owner in owners {
        owner.record_scraped(key, &load(number));
    }
    tokio::time::sleep_until(at(600)).await;
    let report = Load { concurrency: 0.7, requests: 1.0, ..Load::default() };
    for owner in owners {
        owner.report(key, clock.now().truncated(), &report);
    }
    tokio::time::sleep_until(at(700)).await;
}

#[tokio::test(start_paused = true)]
async fn after_a_clean_hand_over_every_decision_is_the_one_there_would_have_been() {
    let clock = Clock::starting_at(START);
    let key = key("hello-00001");
    let (control, owner) = (deciders(clock), Owner::start(clock).await);
    run(&control);
    for deciders in [&control, &owner.deciders] {
        set_up(deciders, &key);
    }
    let from = clock.now().truncated() + Span::SECOND;
    let mut waiting = None;
    let mut owns = owner.deciders.clone();
    let mut compared = 0;
    for number in 0..120 {
        second(clock, from, number, &key, &[&control, &owns]).await;
        match number {
            // In the middle, so that the mirror starts with windows and panic of its own.
            20 => waiting = Some(Waiting::start(clock, owner.address)),
            // In the burst: panicking, and the delay has something to remember.
            44 => {
                let waiting: &Waiting = waiting.as_ref().expect("started");
                waiting.is_warm().await;
                assert!(owns.latest(&key).expect("a decision").panicking_since.is_some());
                owner.deciders.hand_over(0).await;
                assert_eq!(read(&owner.serving.counters.handed_over), 1, "the standby has said that it has everything");
                assert!(owner.deciders.keys(0).is_empty());
                // Who asked now would take the bucket for empty.
                assert!(owner.deciders.follow(0).is_none());
                waiting.take_over();
                owns = waiting.deciders.clone();
                assert_eq!(states(&owns), states(&control), "bit for bit");
            }
            _ => {}
        }
        let (ours, theirs) = (owns.latest(&key), control.latest(&key));
        assert_eq!(format!("{ours:?}"), format!("{theirs:?}"), "in second {number}");
        compared += i32::from(ours.is_some());
    }
    assert!(compared > 110, "{compared}");
    assert_eq!(states(&owns), states(&control));
}

#[tokio::test(start_paused = true)]
async fn killed_under_steady_load_no_decision_differs_after_the_takeover() {
    for (gap, clean) in [(4, false), (4, true)] {
        let clock = Clock::starting_at(START);
        let key = key("hello-00001");
        let (control, owner) = (deciders(clock), Owner::start(clock).await);
        run(&control);
        for deciders in [&control, &owner.deciders] {
            set_up(deciders, &key);
        }
        let waiting = Waiting::start(clock, owner.address);
        let from = clock.now().truncated() + Span::SECOND;
        let steady = Load { concurrency: 20.5, requests: 40.0, ..Load::default() };
        let mut reports = Vec::new();
        for number in 0..60 {
            let at = |millis| clock.instant(from + Span::from_seconds(number) + Span::from_millis(millis));
            let owns = match number {
                ..40 => Some(&owner.deciders),
                _ if number < 40 + gap => None,
                _ => Some(&waiting.deciders),
            };
            if number == 40 {
                waiting.is_warm().await;
                // What was recorded last has gone over by now.
                tokio::time::sleep_until(at(200)).await;
                if clean {
                    owner.deciders.hand_over(0).await;
                } else {
                    owner.relay.abort();
                }
            }
            if number == 40 + gap {
                waiting.take_over();
                // They have waited for the new owner.
                for at in reports.drain(..) {
                    waiting.deciders.report(&key, at, &steady);
                }
            }
            tokio::time::sleep_until(at(300)).await;
            for deciders in [Some(&control), owns].into_iter().flatten() {
                deciders.record_scraped(&key, &steady);
            }
            tokio::time::sleep_until(at(600)).await;
            let now = clock.now().truncated();
            control.report(&key, now, &steady);
            match owns {
                Some(owns) => drop(owns.report(&key, now, &steady)),
                None => reports.push(now),
            }
            tokio::time::sleep_until(at(700)).await;
            if let Some(owns) = owns.filter(|_| number != 40 + gap) {
                assert_eq!(
                    format!("{:?}", owns.latest(&key)),
                    format!("{:?}", control.latest(&key)),
                    "in second {number}, clean: {clean}"
                );
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_knows_no_mirror_is_asked_once_a_minute_and_keeps_working() {
    let clock = Clock::starting_at(START);
    let (address, counters) = stat_server(clock, axum::Router::new()).await;
    let waiting = Waiting::start(clock, address);
    let refused = || read(&waiting.standby.counters().refused);
    until("a refusal", || refused() == 1).await;
    sleep(ASK_AGAIN.mul_f64(0.98)).await;
    assert_eq!(refused(), 1);
    until("asked again", || refused() == 2).await;
    assert_eq!(waiting.standby.state(0), None);
    assert_eq!(read(&waiting.standby.counters().connections), 0);
    assert_eq!(read(&counters.frames), 0, "nothing was sent there");

    // Another holder is asked at once.
    let owner = Owner::start(clock).await;
    set_up(&owner.deciders, &key("hello-00001"));
    waiting.holder.send_replace(held_at(owner.address));
    let before = clock.now();
    waiting.is_warm().await;
    assert!(clock.now().since(before) < Span::from_seconds(30));
}

#[tokio::test(start_paused = true)]
async fn who_asks_for_what_there_is_not_is_told_why() {
    let clock = Clock::starting_at(START);
    let owner = Owner::start(clock).await;
    let bucket = Ring::new(1).names()[0].clone();
    for (query, status, why) in [
        ("", 400, "asked is ?bucket=NAME&version=1"),
        ("?bucket=x", 400, "asked is"),
        (&*format!("?bucket={bucket}&version=2"), 400, "version 2 is asked for; 1 is spoken here"),
        ("?bucket=autoscaler-bucket-07-of-10&version=1", 503, "does not belong to this replica"),
    ] {
        let (got, text) = ask(owner.address, query, "ebb.mirror.v1").await;
        assert_eq!(got, status, "{query}: {text}");
        assert!(text.contains(why), "{query}: {text}");
        assert!(text.to_lowercase().contains("ebb-mirror: 1"), "{text}");
    }
    let query = format!("?bucket={bucket}&version=1");
    assert_eq!(ask(owner.address, &query, "something.else").await.0, 400);

    let mut places = Vec::new();
    for _ in 0..MOST_FOLLOWERS {
        places.push(owner.deciders.follow(0).expect("a place"));
    }
    let (got, text) = ask(owner.address, &query, "ebb.mirror.v1").await;
    assert_eq!(got, 503, "{text}");
    assert!(text.contains("as many as may"), "{text}");
    drop(places);
    assert_eq!(ask(owner.address, &query, "ebb.mirror.v1").await.0, 101);
    assert_eq!(read(&owner.serving.counters.refused), 6);
}

/// The answer to a handshake.
async fn ask(address: SocketAddr, query: &str, protocol: &str) -> (u16, String) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    let request = format!(
        "GET /ebb/v1/mirror{query} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Protocol: {protocol}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.expect("written");
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let length = stream.read(&mut buffer).await.expect("an answer");
        answer.extend_from_slice(&buffer[..length]);
        let text = String::from_utf8_lossy(&answer).into_owned();
        let whole = text.split_once("\r\n\r\n").is_some_and(|(head, body)| head.contains(" 101 ") || !body.is_empty());
        if length == 0 || whole {
            let status = text.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
            return (status, text);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_follower_that_does_not_look_is_dropped_and_starts_afresh() {
    let clock = Clock::starting_at(START);
    let deciders = deciders(clock);
    let key = key("hello-00001");
    set_up(&deciders, &key);
    let mut slow = deciders.follow(0).expect("a place");
    assert!(slow.look().expect("not behind").complete);
    for _ in 0..=MOST_WAITING {
        deciders.record_scraped(&key, &Load { concurrency: 1.0, ..Load::default() });
    }
    assert_eq!(slow.look(), Err(Behind));
    assert_eq!(read(&deciders.counters().behind), 1);
    drop(slow);
    let mut again = deciders.follow(0).expect("a place");
    let news = again.look().expect("not behind");
    let told: BTreeMap<_, _> = news.states.into_iter().map(|(name, state)| (name.key, state)).collect();
    assert_eq!(told, states(&deciders));
    deciders.record_scraped(&key, &Load::default());
    assert_eq!(again.look().expect("not behind").inputs.len(), 1);
}

/// The frames of a first look.
fn first_frames(deciders: &Deciders) -> (Vec<Frame>, Writer) {
    let mut subscription = deciders.follow(0).expect("a place");
    let mut writer = Writer::default();
    let frames = writer.write(subscription.look().expect("not behind"));
    (frames.iter().map(|bytes| Frame::read(bytes).expect("a frame")).collect(), writer)
}

#[tokio::test(start_paused = true)]
async fn a_mirror_is_used_only_when_it_is_whole_fresh_and_of_our_time() {
    let clock = Clock::starting_at(START);
    let deciders = deciders(clock);
    set_up(&deciders, &key("hello-00001"));
    let ring = Ring::new(1);
    let mirror = |change: &dyn Fn(&mut Frame), arrives: Timestamp| {
        let mut mirror = Mirror::new(0, START);
        for mut frame in first_frames(&deciders).0 {
            change(&mut frame);
            mirror.take_in(frame, arrives, &ring, Compat::IMPROVED).expect("a good frame");
        }
        mirror
    };
    let same = |_: &mut Frame| {};
    assert_eq!(mirror(&same, START).usable(START), Ok(()));
    assert_eq!(mirror(&same, START).usable(START + MOST_AGE), Ok(()));
    let late = START + MOST_AGE + Span::SECOND;
    assert_eq!(mirror(&same, START).usable(late), Err(Unusable::Old(MOST_AGE + Span::SECOND)));
    assert_eq!(mirror(&|frame| frame.complete = false, START).usable(START), Err(Unusable::Incomplete));
    for off in [MOST_SKEW + Span::from_millis(1), Span::from_nanos(-MOST_SKEW.nanos() - 1)] {
        assert_eq!(mirror(&same, START + off).usable(START + off), Err(Unusable::Skewed(off)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_look_at_more_than_one_frame_holds_is_mirrored_whole() {
    let clock = Clock::starting_at(START);
    let deciders = deciders(clock);
    set_up(&deciders, &key("hello-00001"));
    let (ring, mut mirror) = (Ring::new(1), Mirror::new(0, START));
    let mut subscription = deciders.follow(0).expect("a place");
    let mut writer = Writer::default();
    let mut look = || -> Vec<Frame> {
        let frames = writer.write(subscription.look().expect("not behind"));
        frames.iter().map(|bytes| Frame::read(bytes).expect("a frame")).collect()
    };
    for frame in look() {
        mirror.take_in(frame, clock.now(), &ring, Compat::IMPROVED).expect("the state");
    }
    for second in 0..3_u32 {
        for number in 0..8_000_u32 {
            let concurrency = f64::from(second * 8_000 + number);
            deciders.record_scraped(&key("hello-00001"), &Load { concurrency, ..Load::default() });
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let frames = look();
    assert!(frames.len() > 1, "24,000 inputs are more than a frame takes");
    for frame in frames {
        mirror.take_in(frame, clock.now(), &ring, Compat::IMPROVED).expect("inputs");
    }
    let mirrored = mirror.revision(&key("hello-00001")).map(ebb::engine::Revision::write);
    assert_eq!(mirrored.as_ref(), states(&deciders).get(&key("hello-00001")));
}

/// What is wrong with a frame.
type Change<'a> = &'a dyn Fn(&mut Frame);

#[tokio::test(start_paused = true)]
async fn frames_that_cannot_be_are_refused_with_the_reason() {
    let clock = Clock::starting_at(START);
    let deciders = deciders(clock);
    set_up(&deciders, &key("hello-00001"));
    let ring = Ring::new(3);
    let bucket = ring.owner("default/hello-00001");
    let refused = |change: Change| {
        let mut frame = first_frames(&deciders).0.remove(0);
        change(&mut frame);
        let mut mirror = Mirror::new(bucket, START);
        mirror.take_in(frame, START, &ring, Compat::IMPROVED).expect_err("refused").to_string()
    };
    let cases: [(Change, &str); 6] = [
        (&|frame| frame.version = 2, "version 2 is spoken there, and 1 here"),
        (&|frame| frame.names[0].key = "hello".to_owned(), "\"hello\" is not the name of a revision"),
        (&|frame| frame.names[0].key = "default/hello-00002".to_owned(), "does not belong to the bucket"),
        (&|frame| frame.names.clear(), "revision 1 has no name"),
        (&|frame| frame.time -= 60_000_000_000, "the last cause of panic is"),
        (
            &|frame| {
                let windows =
                    frame.states[0].revision.as_mut().and_then(|state| state.windows.as_mut()).expect("windows");
                windows.requests_stable = None;
            },
            "a window is missing",
        ),
    ];
    for (change, why) in cases {
        let told = refused(change);
        assert!(told.contains(why), "{told}");
    }

    let mut mirror = Mirror::new(bucket, START);
    let frame = first_frames(&deciders).0.remove(0);
    let older = Frame { time: frame.time - 1, ..frame.clone() };
    let last = Frame { version: VERSION, time: frame.time, ended: true, ..Frame::default() };
    let mut take_in = |frame| mirror.take_in(frame, START, &ring, Compat::IMPROVED);
    assert_eq!(take_in(frame), Ok(()));
    assert_eq!(take_in(older), Err(MirrorError::Backwards));
    assert_eq!(take_in(last.clone()), Ok(()));
    assert_eq!(take_in(last), Err(MirrorError::AfterTheEnd));

    assert!(Frame::read(&Bytes::from(vec![0; MOST_FRAME + 1])).expect_err("refused").to_string().contains("at most"));
    let crowded = Frame { inputs: vec![ebb::engine::written::InputForm::default(); 30_000], ..Frame::default() };
    let told = Frame::read(&crowded.encode_to_vec().into()).expect_err("refused").to_string();
    assert!(told.contains("more than 20000"), "{told}");
    assert!(Frame::read(&Bytes::from_static(b"\x07nonsense")).is_err());
}

/// What may happen at an owner.
#[derive(Clone, Debug)]
enum Step {
    Windows(usize, i64),
    NoWindows(usize),
    Decider(usize, f64),
    NoDecider(usize),
    Report(usize, f64),
    Scrape(usize, f64),
    Fail(usize),
    Nothing(usize),
    Wait(u64),
    Look,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let which = 0_usize..3;
    let step = prop_oneof![
        2 => (which.clone(), 5_i64..60).prop_map(|(which, window)| Step::Windows(which, window)),
        1 => which.clone().prop_map(Step::NoWindows),
        2 => (which.clone(), 1.0_f64..20.0).prop_map(|(which, target)| Step::Decider(which, target)),
        1 => which.clone().prop_map(Step::NoDecider),
        6 => (which.clone(), 0.0_f64..50.0).prop_map(|(which, load)| Step::Report(which, load)),
        6 => (which.clone(), 0.0_f64..50.0).prop_map(|(which, load)| Step::Scrape(which, load)),
        3 => which.clone().prop_map(Step::Fail),
        1 => which.prop_map(Step::Nothing),
        4 => (1_u64..5_000).prop_map(Step::Wait),
        4 => Just(Step::Look),
    ];
    proptest::collection::vec(step, 1..120)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_mirror_has_what_its_owner_has_whatever_happens(
        before in steps(), after in steps(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
        runtime.expect("a runtime").block_on(async {
            let clock = Clock::starting_at(START);
            let deciders = deciders(clock);
            run(&deciders);
            let keys = ["a", "b", "c"].map(key);
            let ring = Ring::new(1);
            for step in before {
                play(&deciders, &keys, step).await;
            }
            let mut subscription = deciders.follow(0).expect("a place");
            let (mut writer, mut mirror) = (Writer::default(), Mirror::new(0, clock.now()));
            let mut look = || {
                for bytes in writer.write(subscription.look().expect("not behind")) {
                    let frame = Frame::read(&bytes).expect("a frame");
                    mirror.take_in(frame, clock.now(), &ring, Compat::IMPROVED).expect("what can be");
                }
                let states = states(&deciders);
                for key in &keys {
                    let mirrored = mirror.revision(key).map(ebb::engine::Revision::write);
                    assert_eq!(mirrored.as_ref(), states.get(key), "{key}");
                }
            };
            for step in after {
                match step {
                    Step::Look => look(),
                    step => play(&deciders, &keys, step).await,
                }
            }
            look();
        });
    }
}

async fn play(deciders: &Deciders, keys: &[RevisionKey; 3], step: Step) {
    let load = |concurrency| Load { concurrency, requests: 1.0, ..Load::default() };
    match step {
        Step::Windows(which, window) => {
            let stable_window = Span::from_seconds(window);
            deciders.ensure_windows(&keys[which], &MetricSpec { stable_window, ..WINDOWS });
        }
        Step::NoWindows(which) => deciders.remove_windows(&keys[which]),
        Step::Decider(which, target_value) => {
            deciders.ensure_decider(&keys[which], &Spec { target_value, ..spec() }, Some(2));
        }
        Step::NoDecider(which) => deciders.remove_decider(&keys[which]),
        Step::Report(which, concurrency) => {
            deciders.report(&keys[which], START, &load(concurrency));
        }
        Step::Scrape(which, concurrency) => {
            deciders.record_scraped(&keys[which], &load(concurrency));
        }
        Step::Fail(which) => deciders.scrape_failed(&keys[which]),
        Step::Nothing(which) => deciders.nothing_to_scrape(&keys[which]),
        Step::Wait(millis) => sleep(Duration::from_millis(millis)).await,
        Step::Look => {}
    }
}
