//! The controllers while the API server, the way to it, or the objects are at fault.
//!
//! Each story is the same: a revision at zero gets load, grows to its max-scale, its pods become ready. Whatever was in
//! the way, it ends as it does when nothing is; no number was ever out of bounds; and once it has ended, another look
//! at everything writes nothing.

pub(crate) mod rig;

use ebb::api::metric::Metric;
use ebb::api::names::CLASS_ANNOTATION;
use ebb::api::pod_autoscaler::PodAutoscaler;
use ebb::api::serverless_service::{Mode, ServerlessService};
use ebb::clock::Clock;
use ebb::k8s::follow::UNREADABLE_OBJECTS;
use ebb::local::apiserver::{Effect, Fault, Limits, Operation, Review, Store, Verb};
use ebb::observe::metrics::Format;
use ebb::ownership::Choice;
use ebb::ownership::holder::Identity;
use ebb::units::Span;
use k8s_openapi::api::core::v1::{ConfigMap, Event};
use kube::ResourceExt as _;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use rig::{NAMESPACE, Rig, autoscaler, deployment, ready_pod, revision_at_zero};
use serde_json::{Value, json};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How long anything is waited for.
const PATIENCE: Duration = Duration::from_mins(1);

/// How long a part of a story may take whose failure is told in words of its own, before patience ends.
const STORY: Duration = Duration::from_secs(59);

const SCALE: (Verb, &str) = (Verb::Patch, "deployments.apps/scale");
const STATUS: (Verb, &str) = (Verb::Update, "podautoscalers.autoscaling.internal.knative.dev/status");
/// Everything an autoscaler writes for a revision, and nobody else here.
const WRITES: [(Verb, &str); 7] = [
    SCALE,
    STATUS,
    (Verb::Create, "serverlessservices.networking.internal.knative.dev"),
    (Verb::Update, "serverlessservices.networking.internal.knative.dev"),
    (Verb::Create, "metrics.autoscaling.internal.knative.dev"),
    (Verb::Update, "metrics.autoscaling.internal.knative.dev"),
    (Verb::Update, "metrics.autoscaling.internal.knative.dev/status"),
];

/// What was written, as the API server's admission saw it.
#[derive(Clone, Default)]
struct Witness(Arc<Mutex<Vec<Seen>>>);

#[derive(Clone, Debug)]
struct Seen {
    kind: String,
    subresource: Option<String>,
    name: String,
    replicas: Option<i64>,
}

impl Witness {
    fn of(store: &Store) -> Self {
        let this = Self::default();
        let seen = this.clone();
        assert!(store.set_admission(move |review: &Review<'_>, object: Value| {
            if review.operation != Operation::Delete {
                seen.0.lock().expect("no panic above").push(Seen {
                    kind: review.resource.kind.clone(),
                    subresource: review.subresource.map(str::to_owned),
                    name: review.name.to_owned(),
                    replicas: object["spec"]["replicas"].as_i64(),
                });
            }
            Ok(object)
        }));
        this
    }

    fn all(&self) -> Vec<Seen> {
        self.0.lock().expect("no panic above").clone()
    }

    /// Numbers of replicas written for a revision.
    fn scales(&self, name: &str) -> Vec<i64> {
        let scales =
            self.all().into_iter().filter(|seen| seen.name == name && seen.subresource.as_deref() == Some("scale"));
        scales.filter_map(|seen| seen.replicas).collect()
    }

    /// What an autoscaler wrote for a revision: not the status of its ServerlessService, nor the revision itself.
    fn written(&self, name: &str) -> Vec<Seen> {
        let ours = |seen: &Seen| match (seen.kind.as_str(), seen.subresource.as_deref()) {
            ("PodAutoscaler", Some("status")) | ("Deployment", Some("scale")) | ("Metric", _) => true,
            ("ServerlessService", part) => part.is_none(),
            _ => false,
        };
        self.all().into_iter().filter(|seen| seen.name == name && ours(seen)).collect()
    }
}

async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let clock = Clock::system();
    let end = clock.now() + Span::from_std(PATIENCE);
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(clock.now() < end, "waited {PATIENCE:?} in vain for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until a revision is to have the three pods it may have.
async fn grown(rig: &Rig, name: &str) {
    let growth = until("three replicas", async || (rig.replicas(name).await == Some(3)).then_some(()));
    if tokio::time::timeout(STORY, growth).await.is_err() {
        let page = rig.autoscaler.metrics().exposition(Format::Prometheus);
        let counted: Vec<_> = page
            .lines()
            .filter(|line| line.starts_with("ebb_") && !line.contains("_bucket") && !line.ends_with(" 0"))
            .collect();
        panic!("{name} did not grow: {:#?}\n{}", rig.autoscaler.rows(), counted.join("\n"));
    }
}

/// Reports load again and again, as an activator does.
struct Load(CancellationToken);

impl Load {
    fn on(rig: &Arc<Rig>, revisions: &[&str], concurrency: f64) -> Self {
        let stop = CancellationToken::new();
        let (rig, stopped) = (Arc::clone(rig), stop.clone());
        let names: Vec<_> = revisions.iter().map(|name| (*name).to_owned()).collect();
        tokio::spawn(async move {
            while !stopped.is_cancelled() {
                rig.report(names.iter().map(|name| (name.clone(), concurrency))).await;
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
        });
        Self(stop)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// Nothing is scraped, a stable window of 6 s, at most three pods.
fn settings() -> Value {
    json!({
        "autoscaling.knative.dev/target-burst-capacity": "-1",
        "autoscaling.knative.dev/window": "6s",
        "autoscaling.knative.dev/max-scale": "3",
    })
}

/// The story, with `trouble` made once everything runs.
async fn story(trouble: impl AsyncFnOnce(&Arc<Rig>)) {
    let store = Store::new(Clock::system());
    let witness = Witness::of(&store);
    let rig = Arc::new(Rig::start(store, async |client| revision_at_zero(client, "web", &settings()).await).await);
    trouble(&rig).await;
    // 250 requests at once at 70 a pod are 4 pods, and 3 are allowed.
    let load = Load::on(&rig, &["web"], 250.0);
    grown(&rig, "web").await;
    for pod in ["web-a", "web-b", "web-c"] {
        ready_pod(&rig.client, "web", pod).await;
    }
    settled(&rig, "web").await;
    drop(load);
    assert!(witness.scales("web").iter().all(|scale| (1..=3).contains(scale)), "{:?}", witness.scales("web"));
    rig.store.faults().clear();
    another_look_writes_nothing(&rig, &witness, "web").await;
}

/// Waits for the one state in which the story ends.
async fn settled(rig: &Rig, name: &str) {
    let mut last = String::new();
    let end = until("the state without faults", async || {
        let pa = rig.api::<PodAutoscaler>().get(name).await.ok()?;
        let sks = rig.api::<ServerlessService>().get(name).await.ok()?;
        let metric = rig.api::<Metric>().get(name).await.ok()?;
        let status = pa.status.clone().unwrap_or_default();
        let conditions: Vec<_> =
            status.conditions.iter().map(|condition| format!("{}={:?}", condition.type_, condition.status)).collect();
        last = format!("{status:?} {:?} {:?}", sks.spec, metric.spec);
        let as_it_should_be = conditions == ["Active=True", "Ready=True", "SKSReady=True", "ScaleTargetInitialized=True"]
            && (status.desired_scale, status.actual_scale) == (Some(3), Some(3))
            && (status.service_name.as_str(), status.metrics_service_name.as_str())
                == (name, format!("{name}-private").as_str())
            && Some(status.observed_generation) == pa.metadata.generation
            // Burst capacity -1 keeps the activators in front; three pods of 100 requests each want three of them.
            && (sks.spec.mode, sks.spec.num_activators) == (Mode::Proxy, 3)
            && (metric.spec.stable_window, metric.spec.scrape_target.as_str()) == (6_000_000_000, "")
            && metric.status.is_some_and(|status| status.conditions.iter().all(|condition| condition.reason.is_empty()));
        as_it_should_be.then_some(())
    });
    let ended = tokio::time::timeout(STORY, end).await;
    assert!(ended.is_ok(), "{name} did not get to the state without faults: {last}");
}

/// Has everything looked at again, and waits until that is over.
async fn another_look_writes_nothing(rig: &Rig, witness: &Witness, name: &str) {
    at_rest(rig).await;
    let before = witness.written(name).len();
    let maps: Api<ConfigMap> = Api::namespaced(rig.client.clone(), "knative-serving");
    let change = Patch::Merge(json!({"data": {"max-scale-up-rate": "999"}}));
    maps.patch("config-autoscaler", &PatchParams::default(), &change).await.expect("patched");
    // Whoever is looked at after all the others.
    revision_at_zero(&rig.client, "canary", &settings()).await;
    until("a look at the canary", async || rig.api::<Metric>().get_opt("canary").await.ok()?).await;
    at_rest(rig).await;
    let after = witness.written(name);
    assert_eq!(after.len(), before, "written again: {:?}", &after[before..]);
}

/// Waits until every look that began has ended, none waits, and no write is on its way.
async fn at_rest(rig: &Rig) {
    until("rest", async || {
        let page = rig.autoscaler.metrics().exposition(Format::Prometheus);
        let sum = |names: &[&str]| -> f64 {
            let lines = page.lines().filter(|line| names.iter().any(|name| line.starts_with(name)));
            lines
                .map(|line| line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok()).expect("a number"))
                .sum()
        };
        let waiting = sum(&["ebb_queue_depth{", "ebb_api_writes_in_flight{", "ebb_api_writes_waiting{"]);
        let begun = sum(&["ebb_queue_wait_seconds_count{"]);
        (waiting == 0.0 && begun == sum(&["ebb_reconciles_total{"])).then_some(())
    })
    .await;
}

/// Every write of the autoscaler meets `effect` so often, kind by kind.
fn on_all_writes(rig: &Rig, times: u32, effect: &Effect) {
    for (verb, resource) in WRITES {
        rig.store.faults().add(Fault::once(effect.clone()).on(verb).of(resource).times(times));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_at_fault() {
    story(async |_| {}).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_has_too_much_to_do() {
    story(async |rig| {
        on_all_writes(rig, 2, &Effect::fail_for(429, 1));
        on_all_writes(rig, 2, &Effect::fail(429));
        rig.store.faults().add(Fault::once(Effect::fail_for(429, 1)).on(Verb::Watch).times(3));
        rig.store.faults().drop_watches(None);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_fails_for_a_while() {
    story(async |rig| {
        for code in [500, 502, 503, 504] {
            on_all_writes(rig, 5, &Effect::fail(code));
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_is_slow() {
    story(async |rig| on_all_writes(rig, u32::MAX, &Effect::Delay(Duration::from_millis(700)))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_are_lost() {
    story(async |rig| on_all_writes(rig, 3, &Effect::LoseAnswer)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn others_are_faster() {
    story(async |rig| on_all_writes(rig, 7, &Effect::fail(409))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_token_has_run_out_for_a_while() {
    story(async |rig| {
        on_all_writes(rig, 4, &Effect::fail(401));
        rig.store.faults().add(Fault::once(Effect::fail(401)).on(Verb::Watch).times(30));
        rig.store.faults().drop_watches(None);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_break_off_all_the_time() {
    story(async |rig| {
        let rig = Arc::downgrade(rig);
        tokio::spawn(async move {
            for _ in 0..100 {
                let Some(rig) = rig.upgrade() else { return };
                rig.store.faults().drop_watches(None);
                drop(rig);
                tokio::time::sleep(Duration::from_millis(40)).await;
            }
        });
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_are_told_at_the_door_that_they_come_too_late() {
    story(async |rig| {
        rig.store.faults().add(Fault::once(Effect::fail(410)).on(Verb::Watch).times(30));
        rig.store.faults().drop_watches(None);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_is_away_when_the_load_comes() {
    story(async |rig| {
        rig.road.close();
        let rig = Arc::clone(rig);
        tokio::spawn(async move {
            // Until something was tried in vain.
            while rig.autoscaler.metrics().exposition(Format::Prometheus).contains("ebb_api_unanswered_total 0\n") {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            assert_eq!(rig.replicas("web").await, Some(0));
            rig.road.open().await;
        });
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_deleted_while_nobody_could_tell_is_noticed() {
    let store = Store::with_limits(Clock::system(), Limits { history_events: 8, ..Limits::default() });
    let witness = Witness::of(&store);
    let rig = Rig::start(store, async |client| {
        for name in ["gone", "stays"] {
            revision_at_zero(client, name, &settings()).await;
        }
    });
    let rig = Arc::new(rig.await);
    until("both known", async || (rig.autoscaler.rows().len() == 2).then_some(())).await;
    at_rest(&rig).await;
    rig.road.close();
    rig.api::<PodAutoscaler>().delete("gone", &DeleteParams::default()).await.expect("deleted");
    for n in 0..40 {
        // More than the server remembers.
        let patch = Patch::Merge(json!({"metadata": {"annotations": {"test/n": n.to_string()}}}));
        rig.api::<PodAutoscaler>().patch("stays", &PatchParams::default(), &patch).await.expect("patched");
    }
    until("nothing of it left", async || {
        let sks = rig.api::<ServerlessService>().get_opt("gone").await.expect("answered");
        let metric = rig.api::<Metric>().get_opt("gone").await.expect("answered");
        (sks.is_none() && metric.is_none()).then_some(())
    })
    .await;
    let before = witness.written("gone").len();
    // What it owned is noticed to be gone long before it is itself.
    let late = Fault::once(Effect::Delay(Duration::from_secs(1))).on(Verb::List);
    rig.store.faults().add(late.of("podautoscalers.autoscaling.internal.knative.dev").times(3));
    rig.road.open().await;
    until("the deleted one unknown", async || (rig.autoscaler.rows().len() == 1).then_some(())).await;
    at_rest(&rig).await;
    assert_eq!(witness.written("gone").len(), before, "made for one that is gone: {:?}", witness.written("gone"));
    let load = Load::on(&rig, &["gone", "stays"], 250.0);
    grown(&rig, "stays").await;
    drop(load);
    assert_eq!(rig.replicas("gone").await, Some(0));
    assert_eq!(witness.scales("gone"), Vec::<i64>::new());
    assert_eq!(witness.written("gone").len(), before, "{:?}", witness.written("gone"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_that_cannot_be_understood_harm_nobody_else() {
    let store = Store::new(Clock::system());
    let rig = Arc::new(Rig::start(store, async |client| revision_at_zero(client, "fine", &settings()).await).await);
    let unreadable = UNREADABLE_OBJECTS.load(Ordering::Relaxed);
    let dynamic = |kind: &str, plural: &str| {
        let kind = GroupVersionKind::gvk("autoscaling.internal.knative.dev", "v1alpha1", kind);
        let resource = ApiResource::from_gvk_with_plural(&kind, plural);
        Api::<DynamicObject>::namespaced_with(rig.client.clone(), NAMESPACE, &resource)
    };
    let mut bad = autoscaler("bad", &settings());
    bad["spec"]["containerConcurrency"] = "ten".into();
    bad["metadata"]["uid"] = "11111111-1111-4111-8111-111111111111".into();
    deployment(&rig.client, "bad", 0).await;
    let group = "autoscaling.internal.knative.dev";
    assert!(rig.store.plant(group, "v1alpha1", "podautoscalers", bad));
    let bare = json!({
        "apiVersion": "autoscaling.internal.knative.dev/v1alpha1", "kind": "Metric",
        "metadata": {"name": "bare", "namespace": NAMESPACE, "uid": "22222222-2222-4222-8222-222222222222",
                     "annotations": {CLASS_ANNOTATION: "kpa.autoscaling.knative.dev"}},
    });
    assert!(rig.store.plant(group, "v1alpha1", "metrics", bare));
    // As large as the API server lets it be.
    let huge = "x".repeat(200 << 10);
    let mut large = settings();
    large["example.com/notes"] = huge.clone().into();
    revision_at_zero(&rig.client, "large", &large).await;

    let _load = Load::on(&rig, &["fine", "bad", "large"], 250.0);
    for name in ["fine", "large"] {
        grown(&rig, name).await;
    }
    until("both noticed", async || (unreadable + 2 <= UNREADABLE_OBJECTS.load(Ordering::Relaxed)).then_some(())).await;
    let copied =
        rig.api::<ServerlessService>().get("large").await.expect("made").annotations()["example.com/notes"].len();
    assert_eq!(copied, huge.len());
    assert_eq!(rig.replicas("bad").await, Some(0));
    assert!(rig.api::<ServerlessService>().get_opt("bad").await.expect("an answer").is_none());

    // Mended, it is a revision like any other; and the watch still runs.
    let mended = Patch::Merge(json!({"spec": {"containerConcurrency": 10}}));
    dynamic("PodAutoscaler", "podautoscalers").patch("bad", &PatchParams::default(), &mended).await.expect("patched");
    grown(&rig, "bad").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revision_given_to_another_class_is_let_go() {
    let store = Store::new(Clock::system());
    let witness = Witness::of(&store);
    let rig = Rig::start(store, async |client| {
        for name in ["given", "kept"] {
            revision_at_zero(client, name, &settings()).await;
        }
    });
    let rig = Arc::new(rig.await);
    let load = Load::on(&rig, &["given"], 250.0);
    grown(&rig, "given").await;
    drop(load);
    let class = Patch::Merge(json!({"metadata": {"annotations": {CLASS_ANNOTATION: "hpa.autoscaling.knative.dev"}}}));
    rig.api::<PodAutoscaler>().patch("given", &PatchParams::default(), &class).await.expect("patched");
    until("its series to be gone", async || {
        let page = rig.autoscaler.metrics().exposition(Format::Prometheus);
        (!page.contains("kn_revision_name=\"given\"")).then_some(())
    })
    .await;
    at_rest(&rig).await;
    let before = witness.written("given").len();
    let _load = Load::on(&rig, &["given", "kept"], 250.0);
    grown(&rig, "kept").await;
    assert_eq!(witness.written("given").len(), before, "{:?}", witness.written("given"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scale_target_that_cannot_be_scaled_is_told_and_harms_nobody_else() {
    let store = Store::new(Clock::system());
    let rig = Rig::start(store, async |client| {
        revision_at_zero(client, "fine", &settings()).await;
        for (name, reference) in [
            ("missing", json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "missing"})),
            ("strange", json!({"apiVersion": "example.com/v1", "kind": "Gadget", "name": "strange"})),
            ("rigid", json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "rigid"})),
        ] {
            let mut object = autoscaler(name, &settings());
            object["spec"]["scaleTargetRef"] = reference;
            let object: PodAutoscaler = serde_json::from_value(object).expect("a PodAutoscaler");
            let autoscalers: Api<PodAutoscaler> = Api::namespaced(client.clone(), NAMESPACE);
            autoscalers.create(&PostParams::default(), &object).await.expect("created");
        }
        let map = serde_json::from_value(json!({"metadata": {"name": "rigid"}})).expect("a ConfigMap");
        Api::<ConfigMap>::namespaced(client.clone(), NAMESPACE)
            .create(&PostParams::default(), &map)
            .await
            .expect("created");
    });
    let rig = Arc::new(rig.await);
    let _load = Load::on(&rig, &["fine", "missing", "strange", "rigid"], 250.0);
    grown(&rig, "fine").await;
    for (name, note) in [
        ("missing", "error scaling target: failed to get scale target Deployment missing"),
        ("strange", "error scaling target: failed to get scale target Gadget strange"),
        ("rigid", "error scaling target: failed to apply scale 3 to scale target rigid"),
    ] {
        until(note, async || {
            let events = rig.api::<Event>().list(&ListParams::default()).await.ok()?;
            let told = |event: &Event| {
                event.involved_object.name.as_deref() == Some(name)
                    && event.reason.as_deref() == Some("InternalError")
                    && event.message.as_deref().is_some_and(|message| message.starts_with(note))
            };
            events.items.iter().any(told).then_some(())
        })
        .await;
    }
    // Made at last, it is scaled without anything else happening.
    deployment(&rig.client, "missing", 0).await;
    grown(&rig, "missing").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_leads_nothing_writes_nothing() {
    let store = Store::new(Clock::system());
    let witness = Witness::of(&store);
    store
        .faults()
        .add(Fault::once(Effect::fail(403)).on(Verb::Create).of("leases.coordination.k8s.io").times(u32::MAX));
    let identity = Identity::new("autoscaler-1", "10.0.0.1").expect("an identity");
    let choice = Choice::Cluster { identity, stateful_set: None };
    let rig = Rig::owning(store, choice, async |client| revision_at_zero(client, "web", &settings()).await).await;
    let rig = Arc::new(rig);
    let _load = Load::on(&rig, &["web"], 250.0);
    until("three attempts to lead", async || {
        (3 <= rig.autoscaler.ownership().counters().failures.load(Ordering::Relaxed)).then_some(())
    })
    .await;
    let written = witness.written("web");
    // The status it was made with.
    assert_eq!(written.len(), 1, "{written:?}");
    assert_eq!(rig.replicas("web").await, Some(0));
}
