//! The simulator against the real thing: one load, played to `ebb local` over sockets and simulated.

use crate::system::Local;
use ebb::clock::Clock;
use ebb::engine::Event;
use ebb::observe::journal::Replay;
use ebb::observe::journal::replay::Step;
use ebb::sim::outcome::Outcome;
use ebb::sim::trace::{Recorded, Request, Trace};
use ebb::sim::{Case, Detail, run, scenario};
use ebb::units::Timestamp;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How long each request is served.
const SERVED: Duration = Duration::from_millis(800);
/// How long the load is watched, its quiet end included.
const WATCHED: u64 = 250;
/// How often the series is looked at.
const TICK: u64 = 2;

/// How long nothing happens before the simulated load, in seconds: as in the cluster, the first pod goes, and what is left is
/// a revision at zero that has been known for a while. A multiple of the scaler's period, which keeps its phases.
const QUIET: u64 = 90;

/// Seeds of the simulator, whose mean is held against what was seen.
const SEEDS: u64 = 8;

const SCENARIO: &str = "
apiVersion: sim/v1
name: live
warm_up: WARM_UP
load:
  trace: { file: live }
revision:
  containerConcurrency: 10
  annotations: { autoscaling.knative.dev/window: 15s }
world:
  activators: 1
  phases: PHASES
  api_latency: { constant: { value: 10ms } }
  activator_probe: 50ms
  ingress: { endpoint_propagation: { constant: { value: 50ms } } }
  startup:
    schedule: { constant: { value: 0s } }
    start: { empirical: { percentiles: STARTED } }
    readiness_period: 0s
  shutdown: { quiet: 250ms }
policies:
  - { name: ebb, kpa: {} }
slo: { latency: 2s, percentile: 95 }
";

const MANIFEST: &str = "
apiVersion: serving.knative.dev/v1
kind: Service
metadata: {name: live, namespace: default}
spec:
  template:
    metadata:
      annotations: {autoscaling.knative.dev/window: 15s}
    spec:
      containerConcurrency: 10
      containers:
      - image: ebb.local/hello
";

/// When each request is sent, in milliseconds: two cold starts, a rise, a fall, and quiet enough to go to zero.
fn load() -> Vec<u64> {
    let mut times = vec![0; 20];
    let mut steady = |from: u64, to: u64, rate: u64| {
        times.extend((0..(to - from) * rate).map(|number| from * 1000 + (number * 1000 + 500) / rate));
    };
    steady(5, 65, 8);
    steady(65, 125, 30);
    steady(125, 155, 8);
    times.extend([220_000; 20]);
    let mut steady = |from: u64, to: u64, rate: u64| {
        times.extend((0..(to - from) * rate).map(|number| from * 1000 + (number * 1000 + 500) / rate));
    };
    steady(225, 240, 8);
    times
}

/// What was seen.
#[derive(Debug, Default)]
struct Seen {
    /// Pods ready, every two seconds.
    ready: Vec<f64>,
    cold: f64,
    p95: f64,
    pod_seconds: f64,
    /// How long each pod took to be ready, rising: given to the simulator, which knows nothing of this machine.
    started: Vec<f64>,
    /// When the scaler decides, pods are scraped and the activator reports, in seconds since the load began. Given to the
    /// simulator too: what comes of a burst depends on it, and of its own seeds every second one is further from their mean
    /// than is allowed here.
    phases: [f64; 3],
}

/// When a pod was first seen, and when first ready.
type Start = (f64, Option<f64>);

/// When in its period something happens that happened at these times: where most of them are.
fn phase(times: &[f64], period: f64) -> f64 {
    let of = |at: &f64| at.rem_euclid(period);
    let near = |at: f64| times.iter().filter(|other| (of(other) - at).abs() < 0.03).count();
    times.iter().map(of).max_by_key(|at| near(*at)).expect("it happened")
}

/// The phases of the scaler in a journal, since `begun`.
fn phases(journal: &std::path::Path, begun: Timestamp) -> [f64; 3] {
    let mut times: [Vec<f64>; 3] = Default::default();
    let mut replay = Replay::open(journal, None).expect("a journal");
    let noted = replay.run(None, |event| {
        let Step::Applied { input, .. } = &event.step else { return };
        let which = match &input.event {
            Event::Tick { .. } => 0,
            Event::Scraped { .. } | Event::NothingToScrape => 1,
            Event::Reported { .. } => 2,
            _ => return,
        };
        times[which].push(input.now.since(begun).seconds_f64());
    });
    noted.expect("whole");
    [phase(&times[0], 2.0), phase(&times[1], 1.0), phase(&times[2], 1.0)]
}

async fn live() -> Seen {
    let journal = tempfile::tempdir().expect("a temporary directory");
    let place = journal.path().to_str().expect("a path");
    let local = Arc::new(Local::start(MANIFEST, &["--startup-delay", "1s", "--journal", place]).await);
    // The revision begins with a pod, which goes first.
    local.wait_for_pods(0).await;
    let clock = Clock::system();
    let begun = clock.now();
    let passed = move || clock.now().since(begun).seconds_f64();
    // Ready pods and pods at all, as often as the API is asked.
    let pods: Arc<Mutex<Vec<(f64, f64, f64)>>> = Arc::default();
    let (watched, watcher) = (Arc::clone(&pods), Arc::clone(&local));
    let started: Arc<Mutex<BTreeMap<String, Start>>> = Arc::default();
    let starts = Arc::clone(&started);
    let watching = tokio::spawn(async move {
        while passed() < seconds(WATCHED) {
            let all = watcher.object("/api/v1/namespaces/default/pods").await;
            let (mut ready, mut there) = (0.0, 0.0);
            for pod in all["items"].as_array().into_iter().flatten() {
                there += 1.0;
                let conditions = pod["status"]["conditions"].as_array();
                let is_ready = |one: &Value| one["type"] == "Ready" && one["status"] == "True";
                let stops = !pod["metadata"]["deletionTimestamp"].is_null();
                let name = pod["metadata"]["name"].as_str().expect("a name").to_owned();
                let mut starts = starts.lock().expect("no panic above");
                let start = starts.entry(name).or_insert((passed(), None));
                if !stops && conditions.is_some_and(|all| all.iter().any(is_ready)) {
                    ready += 1.0;
                    start.1.get_or_insert(passed());
                }
            }
            watched.lock().expect("no panic above").push((passed(), ready, there));
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    let client = reqwest::Client::new();
    let path = format!("/?sleep={}ms", SERVED.as_millis());
    let requests = load().into_iter().map(|at| {
        let (local, client, path, pods) = (Arc::clone(&local), client.clone(), path.clone(), Arc::clone(&pods));
        tokio::spawn(async move {
            let wait = seconds(at) / 1000.0 - passed();
            tokio::time::sleep(Duration::from_secs_f64(wait.max(0.0))).await;
            let cold = pods.lock().expect("no panic above").last().is_none_or(|(_, ready, _)| *ready == 0.0);
            let sent = passed();
            let answer = local.get(&client, "live.default.example.com", &path).await;
            assert_eq!(answer.expect("an answer").0, 200);
            (passed() - sent, cold)
        })
    });
    let mut latencies = Vec::new();
    let mut seen = Seen::default();
    for request in requests.collect::<Vec<_>>() {
        let (latency, cold) = request.await.expect("no panic");
        latencies.push(latency);
        seen.cold += f64::from(u8::from(cold));
    }
    watching.await.expect("no panic");
    seen.phases = phases(journal.path(), begun);
    latencies.sort_by(f64::total_cmp);
    seen.p95 = latencies[latencies.len() * 95 / 100];
    let pods = pods.lock().expect("no panic above");
    for tick in 1..WATCHED / TICK {
        let at = seconds(tick * TICK);
        seen.ready.push(pods.iter().rev().find(|(when, ..)| *when <= at).map_or(0.0, |(_, ready, _)| *ready));
    }
    let started = started.lock().expect("no panic above");
    seen.started = started.values().filter_map(|(seen, ready)| Some(ready.as_ref()? - seen)).collect();
    seen.started.sort_by(f64::total_cmp);
    seen.pod_seconds = pods.windows(2).map(|pair| (pair[1].0 - pair[0].0) * pair[0].2).sum();
    seen
}

/// The same load, simulated with pods that start as these did, and a scaler that looks when this one did.
fn simulated(started: &[f64], phases: [f64; 3]) -> Seen {
    let percentiles = [0, 25, 50, 75, 100]
        .map(|percent| format!("\"{percent}\": {:.3}s", started[(started.len() - 1) * percent / 100].max(0.001)));
    let [tick, scrape, report] = phases;
    let phased = format!("{{ tick: {tick:.3}s, scrape: {scrape:.3}s, report: {report:.3}s }}");
    let text = SCENARIO.replace("STARTED", &format!("{{ {} }}", percentiles.join(", "))).replace("PHASES", &phased);
    let text = text.replace("WARM_UP", &format!("{QUIET}s"));
    let scenario = scenario::parse("live.yaml", &text).unwrap_or_else(|problems| panic!("{problems}\n{text}"));
    let took = Some(u64::try_from(SERVED.as_micros()).expect("short"));
    let mut requests: Vec<Request> =
        load().into_iter().map(|at| Request { at: (QUIET * 1000 + at) * 1000, took }).collect();
    // The trace is as long as the load is watched.
    let end = Request { at: (QUIET + WATCHED) * 1_000_000, took };
    requests.push(end);
    let trace = Trace { name: "live".to_owned(), recorded: Recorded::Requests(requests), notes: Vec::new() };
    let case = Case::new(scenario, Some(trace)).expect("a case");
    let policy = case.scenario.policies[0].clone();
    let runs: Vec<Outcome> = (0..SEEDS).map(|seed| run(&case, &policy, seed, Detail::Series)).collect();
    let mean = |of: &dyn Fn(&Outcome) -> f64| runs.iter().map(of).sum::<f64>() / seconds(SEEDS);
    let [first, end] = [QUIET / TICK, (QUIET + WATCHED) / TICK - 1].map(|line| usize::try_from(line).expect("few"));
    Seen {
        ready: (first..end)
            .map(|line| mean(&|run| run.series.as_ref().map_or(0.0, |series| f64::from(series.ready[line]))))
            .collect(),
        cold: mean(&|run| seconds(run.cold.starts)),
        p95: mean(&|run| run.latency.p95),
        pod_seconds: mean(&|run| run.cost.pod_seconds),
        started: started.to_vec(),
        phases,
    }
}

#[expect(clippy::cast_precision_loss, reason = "small numbers")]
fn seconds(number: u64) -> f64 {
    number as f64
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "five minutes, and nothing beside it on the machine: cargo test --test it sim_live -- --ignored --nocapture"]
async fn what_is_simulated_is_what_happens() {
    let live = live().await;
    let simulated = simulated(&live.started, live.phases);
    let mut report = String::new();
    let mut within = true;
    for (what, simulated, live, allowed) in [
        ("cold starts", simulated.cold, live.cold, 0.10),
        ("p95 latency, s", simulated.p95, live.p95, 0.15),
        ("pod-seconds", simulated.pod_seconds, live.pod_seconds, 0.05),
    ] {
        let off = simulated / live - 1.0;
        within &= off.abs() <= allowed;
        writeln!(report, "{what}: {simulated:.3} simulated, {live:.3} live, {:+.1} %", off * 100.0).expect("a string");
    }
    let near = simulated.ready.iter().zip(&live.ready).filter(|(one, other)| (*one - *other).abs() <= 1.0).count();
    let share = seconds(near as u64) / seconds(live.ready.len() as u64);
    within &= share >= 0.95;
    writeln!(report, "ready pods within one: {:.1} % of {} ticks", share * 100.0, live.ready.len()).expect("a string");
    writeln!(report, "pods took {:.2?} s to be ready; phases {:.3?} s", live.started, live.phases).expect("a string");
    writeln!(report, "simulated {:?}\nlive      {:?}", simulated.ready, live.ready).expect("a string");
    eprintln!("{report}");
    assert!(within, "{report}");
}
