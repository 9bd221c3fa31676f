//! How soon revisions at zero are woken through a real API over HTTP: `cargo bench --bench wake`.
//!
//! First one revision after the other, against an API server that answers at once: from the stat on its way to the
//! autoscaler to the patch of the Deployment, as the API server's admission sees it. Then 100, 300 and 1,000 at once,
//! against one that takes 10 ms for each write: until all are patched. The API server shares the process and its cores.

#![expect(clippy::print_stdout, reason = "what a bench is for")]

#[expect(dead_code, reason = "the tests use all of it")]
#[path = "../tests/it/faults/rig.rs"]
mod rig;

use ebb::clock::Clock;
use ebb::local::apiserver::{Effect, Fault, Limits, Operation, Review, Store, Verb};
use ebb::units::Timestamp;
use futures::{SinkExt as _, StreamExt as _};
use rig::{Rig, frame, revision_at_zero};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const WRITE: Duration = Duration::from_millis(10);
const PATIENCE: Duration = Duration::from_mins(2);

/// When the Deployment of each revision was patched above zero first.
type Patched = Arc<Mutex<HashMap<String, Timestamp>>>;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(async {
        one_by_one(500).await;
        println!();
        println!("{:>10} {:>12} {:>12} {:>12}", "at once", "half after", "99 % after", "all after");
        for revisions in [100, 300, 1_000] {
            at_once(revisions).await;
        }
    });
}

/// The first stat of an idle autoscaler's revision, again and again.
async fn one_by_one(revisions: usize) {
    let clock = Clock::system();
    let (rig, patched) = start(revisions).await;
    let mut took = Vec::new();
    for name in names(revisions) {
        // As one activator's connection that is there already.
        let mut socket = rig.connect_stats().await;
        tokio::time::sleep(Duration::from_millis(3)).await;
        let sent = clock.now();
        socket.send(frame([(name.clone(), 1.0)])).await.expect("sent");
        until(|| patched.lock().expect("no panic").contains_key(&name)).await;
        took.push(seconds(sent, patched.lock().expect("no panic")[&name]));
        socket.close(None).await.expect("closed");
        while let Some(Ok(_)) = socket.next().await {}
    }
    took.sort_by(f64::total_cmp);
    println!(
        "first stat to patch, {revisions} revisions one by one: median {:.2} ms, p99 {:.2} ms, longest {:.2} ms",
        1e3 * took[took.len() / 2],
        1e3 * took[took.len() * 99 / 100],
        1e3 * took[took.len() - 1],
    );
}

async fn at_once(revisions: usize) {
    let clock = Clock::system();
    let (rig, patched) = start(revisions).await;
    for verb in [Verb::Create, Verb::Update, Verb::Patch] {
        rig.store.faults().add(Fault::once(Effect::Delay(WRITE)).on(verb).times(u32::MAX));
    }
    let mut socket = rig.connect_stats().await;
    let sent = clock.now();
    socket.send(frame(names(revisions).map(|name| (name, 1.0)))).await.expect("sent");
    until(|| patched.lock().expect("no panic").len() == revisions).await;
    let mut took: Vec<_> = patched.lock().expect("no panic").values().map(|at| seconds(sent, *at)).collect();
    took.sort_by(f64::total_cmp);
    println!(
        "{revisions:>10} {:>10.2} s {:>10.2} s {:>10.2} s",
        took[revisions / 2],
        took[revisions * 99 / 100],
        took[revisions - 1],
    );
}

/// An autoscaler that knows so many revisions, all at zero and settled.
async fn start(revisions: usize) -> (Rig, Patched) {
    let clock = Clock::system();
    let store = Store::with_limits(clock, Limits::default());
    let patched = Patched::default();
    let seen = Arc::clone(&patched);
    assert!(store.set_admission(move |review: &Review<'_>, object: Value| {
        if review.operation == Operation::Update
            && review.subresource == Some("scale")
            && object["spec"]["replicas"].as_i64() > Some(0)
        {
            seen.lock().expect("no panic").entry(review.name.to_owned()).or_insert_with(|| clock.now());
        }
        Ok(object)
    }));
    let rig = Rig::start(store, async |client| {
        for name in names(revisions) {
            revision_at_zero(client, &name, &json!({"autoscaling.knative.dev/target-burst-capacity": "-1"})).await;
        }
    })
    .await;
    until(|| rig.autoscaler.rows().len() == revisions).await;
    // Until every revision has what belongs to it, and nothing is written any more.
    let mut version = 0;
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = rig.store.version();
        if now == version {
            return (rig, patched);
        }
        version = now;
    }
}

fn names(revisions: usize) -> impl Iterator<Item = String> {
    (0..revisions).map(|number| format!("hello-{number:05}"))
}

async fn until(mut done: impl FnMut() -> bool) {
    let end = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, end).await.expect("in two minutes");
}

fn seconds(from: Timestamp, to: Timestamp) -> f64 {
    to.since(from).seconds_f64()
}
