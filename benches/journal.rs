//! What following a process costs, in CPU time of all its threads for each input: `cargo bench --bench journal`.
//!
//! 10,000 revisions are scraped and reported on once a second and decide every two, in real time: alone, followed by
//! somebody who only looks, and recorded in a journal, in turns. Between two inputs other memory is read, as the sockets of
//! a whole `ebb run` would; `cargo bench --bench watch -- journal` measures that one, in minutes.

#![expect(clippy::print_stdout, reason = "what a bench is for")]

use ebb::clock::Clock;
use ebb::deciders::record::{Beside, record};
use ebb::deciders::{Deciders, ReadyPods};
use ebb::engine::{Load, MetricSpec, Spec};
use ebb::observe::journal::{Journal, Options};
use ebb::units::{Aggregation, Compat, RevisionKey, Span, count_f64};
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

const REVISIONS: usize = 10_000;
const TURNS: usize = 5;
/// Tenths of a second each turn is watched for.
const TENTHS: usize = 60;
/// What is read between two inputs, and of how much, in words.
const READ: usize = 512;
const MEMORY: usize = 1 << 20;

struct Ready;

impl ReadyPods for Ready {
    fn ready(&self, _key: &RevisionKey) -> i32 {
        3
    }
}

#[derive(Clone, Copy)]
enum Who {
    Nobody,
    Looks,
    Journal,
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let mut spent = [Vec::new(), Vec::new(), Vec::new()];
        for _ in 0..TURNS {
            for (spent, who) in spent.iter_mut().zip([Who::Nobody, Who::Looks, Who::Journal]) {
                spent.push(tokio::spawn(run(who)).await.expect("it ends"));
            }
        }
        let [alone, looks, journal] = spent.map(|mut turns| {
            turns.sort_by(f64::total_cmp);
            turns[turns.len() / 2]
        });
        println!("ns of CPU for each input, medians of {TURNS} turns");
        println!("{:<14} {alone:>6.0}", "alone");
        println!("{:<14} {looks:>6.0} {:>+6.0}", "followed", looks - alone);
        println!("{:<14} {journal:>6.0} {:>+6.0}", "in a journal", journal - alone);
    });
}

/// Nanoseconds of CPU for each input.
async fn run(who: Who) -> f64 {
    let clock = Clock::system();
    let deciders = Deciders::new(clock, Compat::IMPROVED, Arc::new(Ready), Box::new(|_, _| {}));
    let keys: Vec<_> =
        (0..REVISIONS).map(|number| RevisionKey::new("default", &format!("hello-{number:05}"))).collect();
    let windows = MetricSpec {
        stable_window: Span::from_seconds(60),
        panic_window: Span::from_seconds(6),
        scraped: true,
        aggregation: Aggregation::Linear,
    };
    for key in &keys {
        deciders.ensure_windows(key, &windows);
        deciders.ensure_decider(key, &Spec::default(), None);
    }
    let cancel = CancellationToken::new();
    let ticking = {
        let (deciders, cancel) = (deciders.clone(), cancel.clone());
        tokio::spawn(async move { deciders.run(cancel).await })
    };
    let directory = tempfile::tempdir().expect("a directory");
    let following = match who {
        Who::Nobody => tokio::spawn(async {}),
        Who::Looks => {
            let (deciders, cancel) = (deciders.clone(), cancel.clone());
            tokio::spawn(async move {
                let mut subscription = deciders.follow(0).expect("a place");
                while !cancel.is_cancelled() {
                    sleep(Duration::from_millis(100)).await;
                    while !subscription.look().expect("not behind").complete {}
                }
            })
        }
        Who::Journal => {
            let options = Options::new(directory.path().join("journal"), Compat::IMPROVED);
            let journal = Journal::open(options, clock).expect("a journal");
            let beside = Beside { plans: mpsc::channel(1).1, activations: mpsc::channel(1).1 };
            tokio::spawn(record(deciders.clone(), journal, beside, Box::new(Vec::new), cancel.clone()))
        }
    };
    let memory = vec![1_u64; MEMORY];
    let mut place = 0;
    let mut read = || {
        place = (place + READ) % MEMORY;
        black_box(memory[place..place + READ].iter().sum::<u64>());
    };
    let mut tenths = interval(Duration::from_millis(100));
    tenths.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut begun = None;
    for tenth in 0..TENTHS + 20 {
        tenths.tick().await;
        if tenth == 20 {
            begun = Some((cpu(), deciders.counters().evaluations.load(Ordering::Relaxed)));
        }
        for key in keys.iter().skip(tenth % 10).step_by(10) {
            deciders.record_scraped(key, &load(tenth));
            read();
            deciders.report(key, clock.now(), &load(tenth + 3));
            read();
        }
    }
    let (cpu_before, ticks_before) = begun.expect("it was watched");
    let ticks = deciders.counters().evaluations.load(Ordering::Relaxed) - ticks_before;
    let inputs = count_f64(TENTHS * REVISIONS / 5) + f64::from(u32::try_from(ticks).expect("few"));
    let spent = cpu() - cpu_before;
    cancel.cancel();
    let _ = tokio::join!(ticking, following);
    spent / inputs
}

/// CPU time of the threads there are, in nanoseconds.
fn cpu() -> f64 {
    let threads = std::fs::read_dir("/proc/self/task").expect("Linux");
    let spent = threads.map(|thread| {
        let stat = std::fs::read_to_string(thread.expect("a thread").path().join("schedstat"));
        let stat = stat.expect("Linux, with scheduler statistics");
        stat.split(' ').next().and_then(|nanos| nanos.parse::<f64>().ok()).expect("a number")
    });
    spent.sum()
}

fn load(number: usize) -> Load {
    let concurrency = 70.0 + count_f64(number % 7) / 3.0;
    Load { concurrency, proxied_concurrency: 0.25, requests: 2.0 * concurrency, proxied_requests: 1.0 }
}
