//! What a standby costs its owner, itself and the network: `cargo bench --bench mirror`.
//!
//! 10,000 revisions with one-minute windows live through two minutes of virtual time: each is scraped once a second and
//! decides every two seconds (busy), or only has its ticks (idle). The same once more with a standby that looks ten times
//! a second, as it does over a websocket; what is left out is the kernel carrying the bytes. CPU is of the one thread
//! there is.

#![expect(clippy::print_stdout, reason = "what a bench is for")]

use ebb::clock::Clock;
use ebb::deciders::log::Subscription;
use ebb::deciders::mirror::Mirror;
use ebb::deciders::mirror::frame::{Frame, Writer};
use ebb::deciders::{Deciders, ReadyPods};
use ebb::engine::{Load, MetricSpec, Spec};
use ebb::ownership::ring::Ring;
use ebb::units::{Aggregation, Compat, RevisionKey, Span, Timestamp, count_f64};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

const REVISIONS: usize = 10_000;
const SECONDS: u32 = 120;
const TENTHS: u32 = SECONDS * 10;

struct Ready;

impl ReadyPods for Ready {
    fn ready(&self, _key: &RevisionKey) -> i32 {
        3
    }
}

/// What was measured of one run.
#[derive(Default)]
struct Run {
    owner: f64,
    follow: f64,
    mirror: f64,
    snapshot: usize,
    bytes: usize,
}

fn main() {
    emission();
    println!();
    println!("{REVISIONS} revisions, per revision and second, the snapshot per revision:");
    println!(
        "{:<6} {:>14} {:>14} {:>14} {:>12} {:>10} {:>14}",
        "", "owner alone ns", "sending ns", "standby ns", "bytes", "snapshot", "mirror bytes"
    );
    for (name, busy) in [("busy", true), ("idle", false)] {
        let alone = live(busy, false);
        let run = live(busy, true);
        let each = |spent: f64| spent / count_f64(REVISIONS) / f64::from(SECONDS);
        println!(
            "{name:<6} {:>14.0} {:>14.0} {:>14.0} {:>12.1} {:>10} {:>14}",
            each(alone.owner),
            each(run.owner - alone.owner + run.follow),
            each(run.mirror),
            count_f64(run.bytes) / count_f64(REVISIONS) / f64::from(SECONDS),
            run.snapshot / REVISIONS,
            memory() / REVISIONS,
        );
    }
}

/// What telling the followers adds to the recording of a scrape.
fn emission() {
    const ROUNDS: u32 = 50_000;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        println!("recording a scrape, by followers:");
        for followers in [0, 1, 4] {
            let (deciders, keys) = revisions(Clock::system(), 1);
            let mut best = f64::MAX;
            for _ in 0..20 {
                let following: Vec<Subscription> = (0..followers).filter_map(|_| deciders.follow(0)).collect();
                let start = cpu();
                for _ in 0..ROUNDS {
                    deciders.record_scraped(&keys[0], &load(7));
                }
                best = best.min(cpu() - start);
                drop(following);
            }
            println!("{followers:>3} {:>8.1} ns", best / f64::from(ROUNDS));
        }
    });
}

fn live(busy: bool, mirrored: bool) -> Run {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    runtime.expect("a runtime").block_on(async {
        let clock = Clock::starting_at(Timestamp::from_seconds(1_785_542_400));
        let (deciders, keys) = revisions(clock, REVISIONS);
        let ticking = {
            let deciders = deciders.clone();
            tokio::spawn(async move { deciders.run(CancellationToken::new()).await })
        };
        let mut run = Run::default();
        let ring = Ring::new(1);
        let mut following = mirrored.then(|| deciders.follow(0).expect("a place"));
        let (mut writer, mut mirror) = (Writer::default(), Mirror::new(0, clock.now()));
        for tenth in 0..TENTHS {
            let start = cpu();
            if busy {
                for key in keys.iter().skip(tenth as usize % 10).step_by(10) {
                    deciders.record_scraped(key, &load(tenth));
                }
            }
            // The ticks that are due meanwhile.
            tokio::time::sleep(Duration::from_millis(100)).await;
            run.owner += cpu() - start;
            let Some(subscription) = &mut following else { continue };
            loop {
                let start = cpu();
                let news = subscription.look().expect("not behind");
                let complete = news.complete;
                let frames = writer.write(news);
                run.follow += cpu() - start;
                let length: usize = frames.iter().map(bytes::Bytes::len).sum();
                *(if tenth == 0 { &mut run.snapshot } else { &mut run.bytes }) += length;
                let start = cpu();
                for bytes in frames {
                    let frame = Frame::read(&bytes).expect("a frame");
                    mirror.take_in(frame, clock.now(), &ring, Compat::IMPROVED).expect("what can be");
                }
                run.mirror += cpu() - start;
                if complete {
                    break;
                }
            }
        }
        ticking.abort();
        run
    })
}

/// What a complete mirror keeps in memory.
fn memory() -> usize {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let clock = Clock::system();
        let (deciders, _) = revisions(clock, REVISIONS);
        let mut subscription = deciders.follow(0).expect("a place");
        let (mut writer, mut mirror) = (Writer::default(), Mirror::new(0, clock.now()));
        let _profiler = dhat::Profiler::builder().testing().build();
        while !mirror.is_complete() {
            for bytes in writer.write(subscription.look().expect("not behind")) {
                let frame = Frame::read(&bytes).expect("a frame");
                mirror.take_in(frame, clock.now(), &Ring::new(1), Compat::IMPROVED).expect("what can be");
            }
        }
        drop((writer, subscription));
        dhat::HeapStats::get().curr_bytes
    })
}

/// CPU time of this thread so far, in nanoseconds.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux, with scheduler statistics");
    stat.split(' ').next().and_then(|nanos| nanos.parse().ok()).expect("a number")
}

fn revisions(clock: Clock, number: usize) -> (Deciders, Vec<RevisionKey>) {
    let deciders = Deciders::new(clock, Compat::IMPROVED, Arc::new(Ready), Box::new(|_, _| {}));
    let windows = MetricSpec {
        stable_window: Span::from_seconds(60),
        panic_window: Span::from_seconds(6),
        scraped: true,
        aggregation: Aggregation::Linear,
    };
    let keys: Vec<_> = (0..number).map(|number| RevisionKey::new("default", &format!("hello-{number:05}"))).collect();
    for key in &keys {
        deciders.ensure_windows(key, &windows);
        deciders.ensure_decider(key, &Spec::default(), None);
    }
    (deciders, keys)
}

fn load(number: u32) -> Load {
    let concurrency = 70.0 + f64::from(number % 7) / 3.0;
    Load { concurrency, proxied_concurrency: 0.25, requests: 2.0 * concurrency, proxied_requests: 1.0 }
}
