//! Ebb needs every right it is shipped with, and no other.
//!
//! A replica of `ebb run` works under an account that is allowed exactly what is shipped, while everything happens
//! around it that makes it write ([`Stage`]). The API server's own record then tells what it asked: nothing may have
//! been refused, and every right must have been used. Then it runs again without each single rule, and something must
//! be refused.

use crate::World;
use crate::audit::{Asked, asked_by};
use crate::patience::{PATIENCE, eventually, say};
use crate::plane::{ADMIN, Plane, account, spare};
use crate::replica::Replica;
use crate::roles::{Right, Rule, allow, shipped};
use crate::translate::Front;
use ebb::api::metric::Metric;
use ebb::api::pod_autoscaler::PodAutoscaler;
use ebb::api::serverless_service::ServerlessService;
use ebb::clock::Clock;
use ebb::stats::wire::{Stat, WireStatMessage, encode_batch};
use ebb::units::{RevisionKey, Span};
use futures::SinkExt as _;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::core::NamespaceResourceScope;
use kube::{Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::fmt::Debug;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;
use tokio_tungstenite::tungstenite::Message;

/// How often something happens around Ebb.
const TICK: Duration = Duration::from_millis(150);
/// After how many of these the settings change.
const SETTINGS_LAST: u32 = 12;

/// Rights whose use no record shows, and why.
const UNSEEN: [(&str, &str); 2] = [
    ("podautoscalers/finalizers", "asked for by the admission of owner references, while Metric and SKS are made"),
    ("endpointslices/restricted", "asked for by OpenShift alone"),
];

pub(crate) async fn each_is_needed_and_no_other(world: &World) {
    let plane = Plane::start(&world.assets, false).await;
    let front = Front::with_conflicts(&plane, world).await;
    let rules = shipped();
    let rights: Vec<Right> = rules.iter().flat_map(Rule::rights).collect();

    // With all of them nothing is refused, and all are used. Watches are on the record when they end.
    let mut stage = Stage::set(&plane, &front, 0, &rules).await;
    let unused = |asked: &[Asked], system: &str, but: &str| {
        let unused = |right: &&Right| {
            right.verb != but && !is_unseen(right) && !asked.iter().any(|asked| right.allows(asked, system))
        };
        rights.iter().find(unused).map(|right| format!("nobody asked to {right}"))
    };
    stage.play(|asked, system| unused(asked, system, "watch")).await;
    let (user, system) = (stage.user.clone(), stage.system.clone());
    stage.strike().await;
    let asked = eventually("every right was used", async || {
        let asked = asked_by(&user, &plane.audit());
        unused(&asked, &system, "").map_or(Ok(asked), Err)
    })
    .await;
    let refused: Vec<String> = asked.iter().filter(|asked| asked.response_status.code == 403).map(told).collect();
    assert!(refused.is_empty(), "refused:\n{}", refused.join("\n"));
    let mut lines = Vec::new();
    for right in &rights {
        let times = asked.iter().filter(|asked| right.allows(asked, &system)).count();
        let unseen = UNSEEN.iter().find(|(resource, _)| right.resource == *resource);
        let used = unseen.map_or_else(|| format!("{times} times"), |(_, why)| (*why).to_owned());
        lines.push(format!("  {right}: {used}"));
    }

    // Without one of the rules something is.
    for (number, rule) in rules.iter().enumerate() {
        let lost = rule.rights();
        if lost.iter().all(|right| right.resource.ends_with("/restricted")) {
            continue;
        }
        let rest: Vec<Rule> = rules.iter().filter(|kept| *kept != rule).cloned().collect();
        let mut stage = Stage::set(&plane, &front, number + 1, &rest).await;
        let fails = |asked: &Asked, system: &str| {
            asked.response_status.code == 403
                && lost.iter().any(|right| {
                    let owned = ["metrics", "serverlessservices"].contains(&asked.resource().as_str());
                    let owning = right.resource == "podautoscalers/finalizers" && owned && asked.verb == "create";
                    owning || right.allows(asked, system)
                })
        };
        let asked = stage
            .play(|asked, system| {
                let failed = asked.iter().any(|asked| fails(asked, system));
                (!failed).then(|| format!("nothing is refused without {}", lost[0]))
            })
            .await;
        let failed = asked.iter().find(|asked| fails(asked, &stage.system)).expect("it was there");
        lines.push(format!("  without that to {}: {}", lost[0], told(failed)));
        stage.strike().await;
    }
    front.count(world);
    say("rights, how often each was used, and what is refused without each rule:");
    for line in lines {
        say(&line);
    }
}

fn is_unseen(right: &Right) -> bool {
    UNSEEN.iter().any(|(resource, _)| right.resource == *resource)
}

fn told(asked: &Asked) -> String {
    format!("{} {} {}/{}", asked.verb, asked.resource(), asked.object_ref.namespace, asked.object_ref.name)
}

/// A replica with a system's namespace of its own, and a namespace with one revision.
struct Stage {
    system: String,
    work: String,
    user: String,
    audit: PathBuf,
    admin: Client,
    replica: Replica,
    _directory: tempfile::TempDir,
}

impl Stage {
    async fn set(plane: &Plane, front: &Front<'_>, number: usize, rules: &[Rule]) -> Self {
        let admin = front.client(ADMIN).await;
        let (system, work, user) = (format!("system-{number}"), format!("work-{number}"), spare(number));
        for name in [&system, &work] {
            let namespace = from(json!({"metadata": {"name": name}}));
            Api::<Namespace>::all(admin.clone()).create(&PostParams::default(), &namespace).await.expect("a namespace");
        }
        for (name, data) in [
            ("config-autoscaler", json!({})),
            ("config-deployment", json!({"queue-sidecar-image": "example.test/queue"})),
            ("config-leader-election", json!({"buckets": "2"})),
            ("config-logging", json!({})),
            ("config-network", json!({})),
            ("config-observability", json!({})),
        ] {
            make::<ConfigMap>(&admin, &system, json!({"metadata": {"name": name}, "data": data})).await;
        }
        // Left by an owner that is gone: one to change, while the other bucket's is made.
        let slice = json!({
            "metadata": {"name": "autoscaler-bucket-00-of-02"}, "addressType": "IPv4",
            "endpoints": [{"addresses": ["10.1.2.3"]}], "ports": [],
        });
        make::<EndpointSlice>(&admin, &system, slice).await;
        let labels = json!({
            "serving.knative.dev/configuration": "web", "serving.knative.dev/revision": "web",
            "serving.knative.dev/revisionUID": "0", "app": "web",
        });
        let pod_spec = json!({
            "nodeName": "local", "containers": [{"name": "user-container", "image": "example.test/web"}],
        });
        let deployment = json!({
            "metadata": {"name": "web"},
            "spec": {
                "replicas": 0, "selector": {"matchLabels": {"app": "web"}},
                "template": {"metadata": {"labels": labels}, "spec": pod_spec},
            },
        });
        make::<Deployment>(&admin, &work, deployment).await;
        make::<Pod>(&admin, &work, json!({"metadata": {"name": "web", "labels": labels}, "spec": pod_spec})).await;
        let ready = json!({"status": {
            "phase": "Running", "podIP": "127.0.0.9", "podIPs": [{"ip": "127.0.0.9"}], "startTime": "2020-01-01T00:00:00Z",
            "conditions": [{"type": "Ready", "status": "True"}],
        }});
        let pods: Api<Pod> = Api::namespaced(admin.clone(), &work);
        pods.patch_status("web", &PatchParams::default(), &Patch::Strategic(ready)).await.expect("a status");
        let autoscaler = json!({
            "metadata": {
                "name": "web", "labels": labels,
                "annotations": {"autoscaling.knative.dev/class": "kpa.autoscaling.knative.dev"},
            },
            "spec": {
                "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}, "protocolType": "http1",
            },
        });
        make::<PodAutoscaler>(&admin, &work, autoscaler).await;

        allow(&admin, &format!("ebb-{number}"), &account(&user), &system, rules).await;
        let directory = tempfile::tempdir().expect("a temporary directory");
        let ip = Ipv4Addr::new(127, 3, 1, u8::try_from(number).expect("few stages"));
        let replica = Replica::start(directory.path(), &front.kubeconfig(&user), &system, &user, ip);
        Self { system, work, user: account(&user), audit: plane.audit(), admin, replica, _directory: directory }
    }

    /// Lets things happen around Ebb until `missing` finds nothing missing in what it asked; then what it asked.
    async fn play(&mut self, missing: impl Fn(&[Asked], &str) -> Option<String>) -> Vec<Asked> {
        let clock = Clock::system();
        let until = clock.now() + Span::from_std(PATIENCE);
        let mut socket = None;
        for tick in 0_u32.. {
            let asked = asked_by(&self.user, &self.audit);
            match missing(&asked, &self.system) {
                None => return asked,
                Some(what) => {
                    let seen = || asked.iter().map(told).collect::<Vec<_>>().join("\n");
                    assert!(clock.now() < until, "{what}\n{}\n{}", seen(), self.replica.last_lines());
                }
            }
            self.happen(tick, &mut socket).await;
            tokio::time::sleep(TICK).await;
        }
        unreachable!("there is a deadline")
    }

    async fn happen(&self, tick: u32, socket: &mut Option<Socket>) {
        // What Knative's own controller answers to a ServerlessService.
        let services: Api<ServerlessService> = Api::namespaced(self.admin.clone(), &self.work);
        if let Some(found) = services.get_opt("web").await.expect("an answer") {
            let status = json!({"status": {
                "observedGeneration": found.metadata.generation, "serviceName": "web", "privateServiceName": "web-private",
                "conditions": [{"type": "Ready", "status": "True"}],
            }});
            let written = services.patch_status("web", &PatchParams::default(), &Patch::Merge(status)).await;
            written.expect("a status");
        }
        // Load, as an activator reports it.
        if socket.is_none() {
            let url = format!("ws://{}", self.replica.stats());
            *socket = tokio_tungstenite::connect_async(url).await.ok().map(|(socket, _)| socket);
        }
        if let Some(open) = socket {
            let stat = Stat { average_concurrent_requests: 5.0, request_count: 5.0, ..Stat::default() };
            let message = WireStatMessage::new(&RevisionKey::new(&self.work, "web"), stat);
            if open.send(Message::Binary(encode_batch(vec![message]))).await.is_err() {
                *socket = None;
            }
        }
        // A user who changes his mind, and does not get all of it right.
        if tick.is_multiple_of(SETTINGS_LAST) {
            let even = (tick / SETTINGS_LAST).is_multiple_of(2);
            let change = json!({
                "metadata": {"annotations": {
                    "autoscaling.knative.dev/window": if even { "6s" } else { "7s" },
                    "autoscaling.knative.dev/target-burst-capacity": if even { "0" } else { "-1" },
                    "autoscaling.knative.dev/scale-down-delay": "soon",
                }},
                "spec": {"containerConcurrency": if even { 90 } else { 80 }},
            });
            let scalers: Api<PodAutoscaler> = Api::namespaced(self.admin.clone(), &self.work);
            scalers.patch("web", &PatchParams::default(), &Patch::Merge(change)).await.expect("patched");
        }
    }

    /// Ends the replica, and leaves nothing that the next one would look after.
    async fn strike(mut self) {
        self.replica.kill();
        self.empty::<PodAutoscaler>().await;
        self.empty::<Metric>().await;
        self.empty::<ServerlessService>().await;
    }

    async fn empty<K>(&self)
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + Debug + DeserializeOwned,
    {
        let api: Api<K> = Api::namespaced(self.admin.clone(), &self.work);
        api.delete_collection(&DeleteParams::default(), &ListParams::default()).await.expect("deleted");
    }
}

type Socket = tokio_tungstenite::WebSocketStream<tokio_tungstenite::MaybeTlsStream<tokio::net::TcpStream>>;

async fn make<K>(client: &Client, namespace: &str, object: Value)
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned,
{
    let api: Api<K> = Api::namespaced(client.clone(), namespace);
    api.create(&PostParams::default(), &from(object)).await.expect("created");
}

fn from<K: DeserializeOwned>(object: Value) -> K {
    serde_json::from_value(object).expect("an object of its kind")
}
