//! What `deploy/` installs: checked as the YAML that `kubectl kustomize` makes of it, against what the stock autoscaler's
//! place requires and what the program itself accepts.

use crate::apiserver::Served;
use crate::apiserver::kubectl::Kubectl;
use clap::{CommandFactory as _, Parser as _};
use ebb::config::leader_election::{self, LeaderElection};
use ebb::dataplane::activator::BALANCED_DRAIN_PERIOD;
use ebb::routing::gate::Timers;
use ebb::routing::port::RANGE;
use ebb::units::Compat;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Container, Namespace, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

const NAMESPACE: &str = "knative-serving";

/// A permission of the shipped roles, and what it is for. `docs/rbac.md` is made of these.
struct Permission {
    /// Whether it holds in the whole cluster, or only in the namespace of Knative Serving.
    everywhere: bool,
    group: &'static str,
    resource: &'static str,
    verbs: &'static [&'static str],
    /// What of it a shadow is allowed too.
    shadow: &'static [&'static str],
    why: &'static str,
}

const AUTOSCALING: &str = "autoscaling.internal.knative.dev";
const NETWORKING: &str = "networking.internal.knative.dev";

const PERMISSIONS: &[Permission] = &[
    Permission {
        everywhere: true,
        group: AUTOSCALING,
        resource: "podautoscalers",
        verbs: &["get", "list", "watch"],
        shadow: &["list", "watch"],
        why: "what there is to scale, and how; `get` when somebody else wrote a status first, and before what it owns is made anew",
    },
    Permission {
        everywhere: true,
        group: AUTOSCALING,
        resource: "podautoscalers/status",
        verbs: &["update"],
        shadow: &[],
        why: "the pods a revision has and wants, and its conditions",
    },
    Permission {
        everywhere: true,
        group: AUTOSCALING,
        resource: "podautoscalers/finalizers",
        verbs: &["update"],
        shadow: &[],
        why: "to be named as the owner of Metrics and ServerlessServices, where admission checks that, as on OpenShift",
    },
    Permission {
        everywhere: true,
        group: AUTOSCALING,
        resource: "metrics",
        verbs: &["get", "list", "watch", "create", "update"],
        shadow: &["list", "watch"],
        why: "one Metric for each revision says what is scraped; `get` when somebody else wrote a status first",
    },
    Permission {
        everywhere: true,
        group: AUTOSCALING,
        resource: "metrics/status",
        verbs: &["update"],
        shadow: &[],
        why: "whether scraping works",
    },
    Permission {
        everywhere: true,
        group: NETWORKING,
        resource: "serverlessservices",
        verbs: &["list", "watch", "create", "update"],
        shadow: &["list", "watch"],
        why: "whether requests go to pods or to activators, and to how many",
    },
    Permission {
        everywhere: true,
        group: "apps",
        resource: "deployments",
        verbs: &["list", "watch"],
        shadow: &["list", "watch"],
        why: "the replicas a revision has asked for so far",
    },
    Permission {
        everywhere: true,
        group: "apps",
        resource: "deployments/scale",
        verbs: &["patch"],
        shadow: &[],
        why: "to scale; nothing else of a Deployment can be changed by it",
    },
    Permission {
        everywhere: true,
        group: "",
        resource: "pods",
        verbs: &["list", "watch"],
        shadow: &["list", "watch"],
        why: "which pods of revisions are ready, and their addresses to scrape",
    },
    Permission {
        everywhere: true,
        group: "",
        resource: "events",
        verbs: &["create", "patch"],
        shadow: &[],
        why: "to tell the owner of an object what is wrong with it; `patch` counts what repeats",
    },
    Permission {
        everywhere: false,
        group: "",
        resource: "configmaps",
        verbs: &["get", "list", "watch"],
        shadow: &["get", "list", "watch"],
        why: "the settings, at the start and as they change",
    },
    Permission {
        everywhere: false,
        group: "coordination.k8s.io",
        resource: "leases",
        verbs: &["get", "list", "watch", "create", "update"],
        shadow: &[],
        why: "to share the revisions with other replicas, bucket by bucket",
    },
    Permission {
        everywhere: false,
        group: "",
        resource: "services",
        verbs: &["create"],
        shadow: &[],
        why: "a Service of each bucket's name leads to its owner, where a mesh keeps pods from each other",
    },
    Permission {
        everywhere: false,
        group: "discovery.k8s.io",
        resource: "endpointslices",
        verbs: &["list", "create", "update"],
        shadow: &[],
        why: "the owner's address behind that Service",
    },
    Permission {
        everywhere: false,
        group: "discovery.k8s.io",
        resource: "endpointslices/restricted",
        verbs: &["create"],
        shadow: &[],
        why: "the same on OpenShift, which asks for this too",
    },
];

/// Whether an overlay can be rendered here; says so if not.
fn kustomize_is_here() -> bool {
    let found = Command::new("kubectl").args(["version", "--client"]).output();
    let here = found.is_ok_and(|output| output.status.success());
    if !here {
        // Written past the test runner's capture, so that a run shows what it left out.
        let _ = writeln!(std::io::stdout(), "skipped: no kubectl on this machine");
    }
    here
}

/// Every object an overlay installs, by `Kind/name`.
struct Rendered(BTreeMap<String, Value>);

impl Rendered {
    fn overlay(name: &str) -> Self {
        let directory = crate::root().join("deploy/overlays").join(name);
        let output = Command::new("kubectl").arg("kustomize").arg(&directory).output().expect("kubectl");
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        Self::parse(&String::from_utf8(output.stdout).expect("text"))
    }

    fn parse(text: &str) -> Self {
        let documents: Vec<Value> = serde_saphyr::from_multiple(text).expect("YAML");
        let named = documents.into_iter().map(|document| {
            let name =
                format!("{}/{}", document["kind"].as_str().unwrap(), document["metadata"]["name"].as_str().unwrap());
            (name, document)
        });
        let rendered = Self(named.collect());
        rendered.0.values().for_each(strictly);
        rendered
    }

    fn get<K: DeserializeOwned>(&self, name: &str) -> K {
        let object = self.0.get(name).unwrap_or_else(|| panic!("no {name} among {:?}", self.0.keys()));
        serde_json::from_value(object.clone()).expect(name)
    }
}

/// An object is exactly one of its Kubernetes type: no field is misspelt, misplaced or of another type.
fn strictly(object: &Value) {
    match object["kind"].as_str().expect("a kind") {
        "ClusterRole" => same::<ClusterRole>(object),
        "ClusterRoleBinding" => same::<ClusterRoleBinding>(object),
        "ConfigMap" => same::<ConfigMap>(object),
        "Deployment" => same::<Deployment>(object),
        "Job" => same::<Job>(object),
        "Namespace" => same::<Namespace>(object),
        "NetworkPolicy" => same::<NetworkPolicy>(object),
        "PodDisruptionBudget" => same::<PodDisruptionBudget>(object),
        "Role" => same::<Role>(object),
        "RoleBinding" => same::<RoleBinding>(object),
        "Service" => same::<Service>(object),
        "ServiceAccount" => same::<ServiceAccount>(object),
        other => panic!("{other} is no kind that is shipped"),
    }
}

fn same<K: DeserializeOwned + Serialize>(object: &Value) {
    let typed: K = serde_json::from_value(object.clone()).unwrap_or_else(|error| panic!("{error} in {object:#}"));
    assert_eq!(
        serde_json::to_value(typed).expect("JSON"),
        *object,
        "what Kubernetes would not understand is missing left"
    );
}

/// The only container of a Deployment.
fn container(deployment: &Deployment) -> Container {
    let pod = deployment.spec.as_ref().unwrap().template.spec.as_ref().unwrap();
    let [container] = pod.containers.as_slice() else { panic!("more than one container") };
    container.clone()
}

fn pod_labels(deployment: &Deployment) -> BTreeMap<String, String> {
    deployment.spec.clone().unwrap().template.metadata.unwrap().labels.unwrap()
}

/// What holds for every Deployment of `ebb run` here, shadow or not.
fn fits_the_program(deployment: &Deployment) {
    let name = deployment.metadata.name.as_deref().unwrap();
    let container = container(deployment);
    let line = ["ebb".to_owned()].into_iter().chain(container.args.clone().unwrap());
    let args = ebb::cli::Args::try_parse_from(line.clone());
    assert!(args.is_ok(), "{name}: the program refuses {:?}", line.collect::<Vec<_>>());
    assert_eq!(container.command, None, "the image's own");

    // Every variable is one that the program knows, and those it needs are there.
    let help = ebb::cli::Args::command().find_subcommand_mut("run").expect("ebb run").render_long_help().to_string();
    let env = container.env.clone().unwrap();
    for variable in &env {
        assert!(help.contains(&variable.name), "{name}: `ebb run --help` says nothing of {}", variable.name);
    }
    let field = |variable: &str| {
        let found = env.iter().find(|found| found.name == variable).unwrap_or_else(|| panic!("{variable} is not set"));
        found.value_from.clone().unwrap().field_ref.unwrap().field_path
    };
    assert_eq!(field("POD_NAME"), "metadata.name");
    assert_eq!(field("POD_IP"), "status.podIP");
    assert_eq!(field("SYSTEM_NAMESPACE"), "metadata.namespace");

    let security = container.security_context.unwrap();
    let expected = json!({
        "runAsNonRoot": true, "readOnlyRootFilesystem": true, "allowPrivilegeEscalation": false,
        "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"},
    });
    assert_eq!(serde_json::to_value(security).unwrap(), expected);
    let resources = container.resources.unwrap();
    let (requests, limits) = (resources.requests.unwrap(), resources.limits.unwrap());
    assert!(["cpu", "memory"].iter().all(|of| requests.contains_key(*of) && limits.contains_key(*of)));

    let version = format!("ebb-{}", env!("CARGO_PKG_VERSION"));
    assert_eq!(pod_labels(deployment)["app.kubernetes.io/version"], version, "the version that is shipped");
}

/// The account of a Deployment exists and is bound to both roles of `role`, and nobody else is.
fn is_bound(rendered: &Rendered, deployment: &Deployment, role: &str) {
    let pod = deployment.spec.clone().unwrap().template.spec.unwrap();
    let account = pod.service_account_name.unwrap();
    rendered.get::<ServiceAccount>(&format!("ServiceAccount/{account}"));
    let subject = json!([{"kind": "ServiceAccount", "name": account, "namespace": NAMESPACE}]);
    for (kind, binding) in [("ClusterRole", "ClusterRoleBinding"), ("Role", "RoleBinding")] {
        assert!(rendered.0.contains_key(&format!("{kind}/{role}")));
        let binding = &rendered.0[&format!("{binding}/{role}")];
        assert_eq!(binding["roleRef"], json!({"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role}));
        assert_eq!(binding["subjects"], subject);
    }
}

/// An install leaves alone what is Knative's or the user's.
fn leaves_alone(rendered: &Rendered) {
    for (name, object) in &rendered.0 {
        assert!(!name.starts_with("ConfigMap/config-"), "{name} would overwrite the user's settings");
        assert_ne!(name, "Service/autoscaler");
        let cluster_wide = name.starts_with("ClusterRole");
        let namespace = object["metadata"]["namespace"].as_str();
        assert_eq!(namespace, (!cluster_wide).then_some(NAMESPACE), "{name}");
    }
}

#[test]
fn the_replacement_fits_the_place_of_the_stock_autoscaler() {
    if !kustomize_is_here() {
        return;
    }
    for overlay in ["replace", "ha"] {
        let rendered = Rendered::overlay(overlay);
        leaves_alone(&rendered);
        let deployment: Deployment = rendered.get("Deployment/autoscaler");
        fits_the_program(&deployment);
        is_bound(&rendered, &deployment, "ebb-autoscaler");

        let spec = deployment.spec.clone().unwrap();
        let selector = serde_json::to_value(&spec.selector).unwrap();
        assert_eq!(selector, json!({"matchLabels": {"app": "autoscaler"}}), "a selector cannot be changed");
        let labels = pod_labels(&deployment);
        for (label, value) in [
            ("app", "autoscaler"),
            ("app.kubernetes.io/component", "autoscaler"),
            ("app.kubernetes.io/name", "knative-serving"),
        ] {
            assert_eq!(labels[label], value);
        }
        let strategy = serde_json::to_value(&spec.strategy).unwrap();
        assert_eq!(strategy, json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0}}));
        let pod = serde_json::to_value(spec.template.spec.clone().unwrap()).unwrap();
        let affinity = &pod["affinity"]["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"][0];
        assert_eq!(affinity["podAffinityTerm"]["topologyKey"], "kubernetes.io/hostname");
        assert_eq!(affinity["podAffinityTerm"]["labelSelector"]["matchLabels"], json!({"app": "autoscaler"}));
        let container = &pod["containers"][0];
        assert_eq!(container["name"], "autoscaler", "dashboards select it");
        let ports = json!([
            {"name": "metrics", "containerPort": 9090},
            {"name": "profiling", "containerPort": 8008},
            {"name": "websocket", "containerPort": 8080},
        ]);
        assert_eq!(container["ports"], ports);
        assert_eq!(container["readinessProbe"], json!({"httpGet": {"port": 8080}}));
        assert_eq!(container["livenessProbe"], json!({"httpGet": {"port": 8080}, "failureThreshold": 6}));
        let env = container["env"].as_array().unwrap();
        for (name, value) in
            [("CONFIG_LOGGING_NAME", "config-logging"), ("CONFIG_OBSERVABILITY_NAME", "config-observability")]
        {
            assert!(env.contains(&json!({"name": name, "value": value})));
        }
        let image = container["image"].as_str().unwrap();
        assert!(image.ends_with(concat!("/ebb:", env!("CARGO_PKG_VERSION"))), "{image}: a name to put a registry in");

        // The policies are about these pods, and not about the stock ones that come back with a rollback.
        let policy: NetworkPolicy = rendered.get("NetworkPolicy/ebb-autoscaler");
        let budget: PodDisruptionBudget = rendered.get("PodDisruptionBudget/ebb-autoscaler");
        for selector in [policy.spec.unwrap().pod_selector.unwrap(), budget.spec.unwrap().selector.unwrap()] {
            let selector = selector.match_labels.unwrap();
            assert!(selector.iter().all(|(label, value)| labels.get(label) == Some(value)));
            assert!(selector.keys().any(|label| label != "app" && !label.contains('/')));
        }
        let replicas = spec.replicas.unwrap();
        if overlay == "ha" {
            let name = |variable: &Value| variable["name"] == "CONFIG_LEADERELECTION_NAME";
            let map = env.iter().find(|variable| name(variable)).expect("a map of its own")["value"].clone();
            let map: ConfigMap = rendered.get(&format!("ConfigMap/{}", map.as_str().unwrap()));
            assert_ne!(map.metadata.name.as_deref(), Some(leader_election::NAME), "others read that one too");
            let election = LeaderElection::parse(&map.data.unwrap(), Compat::IMPROVED).expect("good settings");
            assert_eq!(i64::from(election.buckets), i64::from(replicas));
            assert!(replicas > 1);
        } else {
            assert_eq!(replicas, 1);
        }
    }
}

#[test]
fn a_shadow_is_beside_the_autoscaler_and_in_nobodys_way() {
    if !kustomize_is_here() {
        return;
    }
    let (rendered, replacement) = (Rendered::overlay("shadow"), Rendered::overlay("replace"));
    leaves_alone(&rendered);
    let deployment: Deployment = rendered.get("Deployment/ebb-shadow");
    fits_the_program(&deployment);
    is_bound(&rendered, &deployment, "ebb-shadow");
    assert_eq!(container(&deployment).args.unwrap(), ["run", "--shadow"]);
    let shared: Vec<_> = rendered.0.keys().filter(|name| replacement.0.contains_key(*name)).collect();
    assert!(shared.is_empty(), "{shared:?} would go with the shadow");

    // The Services of autoscalers do not lead here, and its own Service and policy are about these pods.
    let labels = pod_labels(&deployment);
    assert_ne!(labels["app"], "autoscaler");
    let service: Service = rendered.get("Service/ebb-shadow");
    let policy: NetworkPolicy = rendered.get("NetworkPolicy/ebb-shadow");
    let selectors = [
        service.spec.unwrap().selector.unwrap(),
        policy.spec.unwrap().pod_selector.unwrap().match_labels.unwrap(),
        deployment.spec.clone().unwrap().selector.match_labels.unwrap(),
    ];
    for selector in selectors {
        assert!(selector.iter().all(|(label, value)| labels.get(label) == Some(value)));
    }

    // Where it does not have to differ it is what will replace the autoscaler.
    let (mut shadow, mut other) = (container(&deployment), container(&replacement.get("Deployment/autoscaler")));
    for container in [&mut shadow, &mut other] {
        (container.args, container.ports, container.readiness_probe, container.liveness_probe) =
            (None, None, None, None);
    }
    assert_eq!(shadow, other);
}

#[test]
fn an_activator_is_beside_the_stock_one_and_behind_the_same_service() {
    if !kustomize_is_here() {
        return;
    }
    let rendered = Rendered::overlay("activator");
    leaves_alone(&rendered);
    for other in ["replace", "shadow", "alb"] {
        let other = Rendered::overlay(other);
        let shared: Vec<_> = rendered.0.keys().filter(|name| other.0.contains_key(*name)).collect();
        assert!(shared.is_empty(), "{shared:?} would go with the activator");
    }
    let deployment: Deployment = rendered.get("Deployment/ebb-activator");
    let labels = pod_labels(&deployment);
    assert_eq!(labels["app"], "activator", "activator-service and the autoscaler's policy go by it");
    // The stock Deployment selects app: activator and role: activator.
    assert_ne!(labels["role"], "activator");
    let spec = deployment.spec.clone().unwrap();
    let selectors = [
        spec.selector.match_labels.unwrap(),
        rendered
            .get::<NetworkPolicy>("NetworkPolicy/ebb-activator")
            .spec
            .unwrap()
            .pod_selector
            .unwrap()
            .match_labels
            .unwrap(),
        rendered
            .get::<PodDisruptionBudget>("PodDisruptionBudget/ebb-activator")
            .spec
            .unwrap()
            .selector
            .unwrap()
            .match_labels
            .unwrap(),
    ];
    for selector in selectors {
        assert!(selector.iter().all(|(label, value)| labels.get(label) == Some(value)));
        assert!(selector.contains_key("role"), "the stock one's pods are not meant");
    }
    assert!(i64::from(spec.replicas.unwrap()) >= i64::from(Timers::default().activators), "a revision goes to zero");
    let pod = spec.template.spec.unwrap();
    let (grace, drain) = (pod.termination_grace_period_seconds.unwrap(), BALANCED_DRAIN_PERIOD.as_secs());
    assert!(u64::try_from(grace).unwrap() > drain, "it is killed while load balancers still send to it");

    let container = container(&deployment);
    let line = ["ebb".to_owned()].into_iter().chain(container.args.clone().unwrap());
    assert!(ebb::cli::Args::try_parse_from(line).is_ok());
    let mut command = ebb::cli::Args::command();
    let help = command.find_subcommand_mut("activator").expect("ebb activator").render_long_help().to_string();
    for variable in container.env.clone().unwrap() {
        assert!(help.contains(&variable.name), "`ebb activator --help` says nothing of {}", variable.name);
    }
    let security = serde_json::to_value(container.security_context.unwrap()).unwrap();
    let autoscaler: Deployment = Rendered::overlay("replace").get("Deployment/autoscaler");
    let same = self::container(&autoscaler).security_context.unwrap();
    assert_eq!(security, serde_json::to_value(same).unwrap());
    let probe = serde_json::to_value(container.readiness_probe.unwrap()).unwrap();
    assert_eq!(probe["httpGet"]["httpHeaders"][0]["name"], ebb::api::names::KUBELET_PROBE_HEADER);

    // It reads, and every port it may listen on is open.
    let role: ClusterRole = rendered.get("ClusterRole/ebb-activator");
    for rule in role.rules.unwrap() {
        assert_eq!(rule.verbs, ["list", "watch"], "{:?}", rule.resources);
    }
    let policy = serde_json::to_value(rendered.get::<NetworkPolicy>("NetworkPolicy/ebb-activator")).unwrap();
    assert_eq!(policy["spec"]["ingress"][0]["ports"], json!([{"port": 8012}, {"port": 8013}]));
    let (first, last) = RANGE.into_inner();
    let rules = policy["spec"]["ingress"].as_array().unwrap();
    let open: Vec<Value> = rules.iter().flat_map(|rule| rule["ports"].as_array().unwrap().clone()).collect();
    assert!(open.contains(&json!({"port": first, "endPort": last})), "{open:?}");
}

#[test]
fn a_self_test_has_namespaces_of_its_own_and_may_write_one_map_outside() {
    if !kustomize_is_here() {
        return;
    }
    let directory = crate::root().join("deploy/overlays/self-test");
    let output = Command::new("kubectl").arg("kustomize").arg(&directory).output().expect("kubectl");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let objects: Vec<Value> =
        serde_saphyr::from_multiple(&String::from_utf8(output.stdout).expect("text")).expect("YAML");
    objects.iter().for_each(strictly);

    let job: Vec<&Value> = objects.iter().filter(|object| object["kind"] == "Job").collect();
    let pod = &job[0]["spec"]["template"]["spec"];
    let container: Container = serde_json::from_value(pod["containers"][0].clone()).unwrap();
    assert_eq!(container.image.as_deref(), Some("registry.example.com/ebb:0.1.0"));
    let mut command = ebb::cli::Args::command();
    let help = command.find_subcommand_mut("alb").and_then(|alb| alb.find_subcommand_mut("self-test"));
    let help = help.expect("ebb alb self-test").render_long_help().to_string();
    for variable in container.env.unwrap() {
        assert!(help.contains(&variable.name), "`ebb alb self-test --help` says nothing of {}", variable.name);
    }
    let line = ["ebb".to_owned()].into_iter().chain(container.args.unwrap());
    let given = ["--pod-ip", "10.0.0.1", "--pod", "p"].map(ToOwned::to_owned);
    assert!(ebb::cli::Args::try_parse_from(line.chain(given)).is_ok());
    let ports: Vec<i32> = container.ports.unwrap().into_iter().map(|port| port.container_port).collect();
    assert!(help.contains(&format!("[default: {},{}]", ports[0], ports[1])), "{help}");
    let autoscaler: Deployment = Rendered::overlay("replace").get("Deployment/autoscaler");
    assert_eq!(container.security_context, self::container(&autoscaler).security_context);

    // Where what is allowed: the namespace, the resource, the names, the verbs.
    let mut allowed = BTreeSet::new();
    for object in &objects {
        let kind = object["kind"].as_str().unwrap();
        assert!(!matches!(kind, "ConfigMap" | "Service" | "Deployment"), "{object}");
        for rule in object["rules"].as_array().into_iter().flatten() {
            let text = |key: &str| {
                let all = rule[key].as_array().into_iter().flatten().map(|one| one.as_str().unwrap());
                all.collect::<Vec<_>>().join(",")
            };
            let namespace = object["metadata"]["namespace"].as_str().unwrap_or("everywhere");
            allowed.insert(format!("{namespace}: {} {}: {}", text("resources"), text("resourceNames"), text("verbs")));
        }
    }
    let mut wanted = BTreeSet::from([
        "everywhere: ingresses : list".to_owned(),
        "everywhere: ingressclasses knative-alb-ingress-internet,knative-alb-ingress-intranet: get".to_owned(),
        format!("{NAMESPACE}: configmaps config-network: get"),
        format!("{NAMESPACE}: configmaps : create"),
        format!("{NAMESPACE}: configmaps {}: patch", ebb::routing::capabilities::MAP),
    ]);
    for namespace in ["ebb-self-test", "ebb-self-test-other"] {
        wanted.insert(format!("{namespace}: ingresses : get,create,patch,delete"));
        wanted.insert(format!("{namespace}: services : create,patch,delete"));
        wanted.insert(format!("{namespace}: endpoints : create,patch,delete"));
    }
    assert_eq!(allowed, wanted);
}

/// A Deployment as Knative ships it, as far as an install and a rollback could stumble over it.
fn stock() -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {
            "name": "autoscaler", "namespace": NAMESPACE,
            "labels": {
                "app.kubernetes.io/name": "knative-serving", "app.kubernetes.io/component": "autoscaler",
                "app.kubernetes.io/version": "1.22.0",
            },
        },
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": {"app": "autoscaler"}},
            "template": {
                "metadata": {"labels": {"app": "autoscaler", "app.kubernetes.io/version": "1.22.0"}},
                "spec": {
                    "serviceAccountName": "controller",
                    "containers": [{
                        "name": "autoscaler", "image": "example.com/knative/autoscaler@sha256:0000",
                        "env": [
                            {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                            {"name": "METRICS_DOMAIN", "value": "knative.dev/serving"},
                        ],
                        "ports": [{"name": "metrics", "containerPort": 9090}, {"name": "websocket", "containerPort": 8080}],
                        "resources": {"requests": {"cpu": "100m", "memory": "100Mi"}, "limits": {"cpu": "1", "memory": "1000Mi"}},
                    }],
                },
            },
        },
    })
}

#[tokio::test]
async fn applied_over_the_stock_deployment_nothing_of_it_is_left_and_back_again() {
    let served = Served::start().await;
    let Some(kubectl) = Kubectl::find(&served).await else { return };
    let ours = Rendered::overlay("replace").0["Deployment/autoscaler"].clone();
    let spec = async || {
        let text = kubectl.run(&format!("-n {NAMESPACE} get deployment autoscaler -o json")).await;
        let object: Value = serde_json::from_str(&text).expect("JSON");
        object["spec"]["template"].clone()
    };
    for manner in ["apply -f -", "apply --server-side --force-conflicts -f -"] {
        kubectl.run_with(&format!("{manner} --field-manager=kubectl"), &stock().to_string()).await;
        let before = spec().await;
        kubectl.run_with(&format!("{manner} --field-manager=kubectl"), &ours.to_string()).await;
        let during = spec().await;
        let container = &during["spec"]["containers"][0];
        assert_eq!(during["spec"]["serviceAccountName"], "ebb-autoscaler", "{manner}");
        assert_eq!(container["args"], json!(["run"]), "{manner}");
        assert!(!container["env"].to_string().contains("METRICS_DOMAIN"), "{manner}: {container:#}");
        assert_eq!(during["spec"]["containers"].as_array().map(Vec::len), Some(1), "{manner}");
        kubectl.run_with(&format!("{manner} --field-manager=kubectl"), &stock().to_string()).await;
        assert_eq!(spec().await, before, "{manner}");
        kubectl.run(&format!("-n {NAMESPACE} delete deployment autoscaler")).await;
    }
}

/// The rules of the shipped roles of this name: whether cluster-wide, group, resource, verbs.
fn rules(file: &str, role: &str) -> BTreeSet<(bool, String, String, Vec<String>)> {
    let path = crate::root().join("deploy").join(file);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let rendered = Rendered::parse(&text);
    let cluster: ClusterRole = rendered.get(&format!("ClusterRole/{role}"));
    let system: Role = rendered.get(&format!("Role/{role}"));
    let flat = |everywhere: bool, rules: Option<Vec<PolicyRule>>| {
        rules.unwrap_or_default().into_iter().map(move |rule| {
            let [group] = rule.api_groups.as_deref().unwrap() else { panic!("one group in each rule") };
            let [resource] = rule.resources.as_deref().unwrap() else { panic!("one resource in each rule") };
            (everywhere, group.clone(), resource.clone(), rule.verbs)
        })
    };
    flat(true, cluster.rules).chain(flat(false, system.rules)).collect()
}

#[test]
fn the_roles_allow_what_is_explained_and_nothing_else() {
    let explained = |verbs: fn(&Permission) -> &'static [&'static str]| -> BTreeSet<_> {
        let rules = PERMISSIONS.iter().map(|rule| {
            let verbs: Vec<_> = verbs(rule).iter().map(|verb| (*verb).to_owned()).collect();
            (rule.everywhere, rule.group.to_owned(), rule.resource.to_owned(), verbs)
        });
        rules.filter(|(_, _, _, verbs)| !verbs.is_empty()).collect()
    };
    assert_eq!(rules("base/rbac.yaml", "ebb-autoscaler"), explained(|rule| rule.verbs));
    let shadow = rules("overlays/shadow/rbac.yaml", "ebb-shadow");
    assert_eq!(shadow, explained(|rule| rule.shadow));
    let reads = ["get", "list", "watch"];
    assert!(shadow.iter().all(|(.., verbs)| verbs.iter().all(|verb| reads.contains(&verb.as_str()))));
}

#[test]
fn the_table_of_permissions_is_up_to_date() {
    let mut page = "\
# Permissions

What `deploy/` allows the account `ebb-autoscaler`, and why; and what of it the account `ebb-shadow` of a shadow, which only reads.
There is no other permission: a test compares this page with the roles in `deploy/base/rbac.yaml` and
`deploy/overlays/shadow/rbac.yaml`, and `EBB_BLESS=1 cargo test --test it deploy` writes it anew.

Reading the API server's version needs no role: every account may.

| where | group | resource | verbs | a shadow's | what for |
|---|---|---|---|---|---|
"
    .to_owned();
    for Permission { everywhere, group, resource, verbs, shadow, why } in PERMISSIONS {
        let place = if *everywhere { "cluster" } else { "namespace of Knative Serving" };
        let group = if group.is_empty() { "core".to_owned() } else { format!("`{group}`") };
        let (verbs, shadow) = (verbs.join(", "), if shadow.is_empty() { "–".to_owned() } else { shadow.join(", ") });
        writeln!(page, "| {place} | {group} | `{resource}` | {verbs} | {shadow} | {why} |").unwrap();
    }
    page.push_str(
        "
Revisions are Deployments. If a PodAutoscaler of yours names something else to scale, allow `list` and `watch` on that
resource and `patch` on its `scale` in a ClusterRole of your own, bound to the same account.
",
    );
    let path = crate::root().join("docs/rbac.md");
    if std::env::var_os("EBB_BLESS").is_some() {
        std::fs::write(&path, &page).expect("a writable file");
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(written, page, "docs/rbac.md is out of date; EBB_BLESS=1 cargo test --test it deploy");
}

#[test]
fn the_image_is_built_from_all_it_needs_and_runs_as_nobody() {
    let root = crate::root();
    let read = |path: &str| std::fs::read_to_string(root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    let dockerfile = read("deploy/Dockerfile");
    let instruction = |name: &str| {
        let line = dockerfile.lines().rfind(|line| line.starts_with(&format!("{name} ")));
        line.unwrap_or_else(|| panic!("no {name}"))[name.len() + 1..].to_owned()
    };
    // Without arguments, as in the stock Deployment, and with those of ours.
    let list = |name: &str| serde_json::from_str::<Vec<String>>(&instruction(name)).expect(name);
    let line = list("ENTRYPOINT").into_iter().chain(list("CMD"));
    assert!(ebb::cli::Args::try_parse_from(line).is_ok());
    assert_eq!(list("CMD"), ["run"]);
    let (user, group) = instruction("USER").split_once(':').map(|(user, group)| (user.parse(), group.parse())).unwrap();
    assert_eq!((user, group), (Ok(65532_u32), Ok(65532_u32)));

    let toolchain: String = read("rust-toolchain.toml");
    let channel = toolchain.lines().find_map(|line| line.strip_prefix("channel = ")).unwrap().trim_matches('"');
    assert!(dockerfile.contains(&format!("rust:{channel}-alpine")), "the toolchain is {channel}");
    assert!(dockerfile.contains(&format!("RUSTUP_TOOLCHAIN={channel}")), "the toolchain is {channel}");

    // Files that are compiled in, and those Cargo.toml names, are not left out of what is sent to the builder.
    let ignore = read(".dockerignore");
    let kept: Vec<_> = ignore.lines().filter_map(|line| line.strip_prefix('!')).collect();
    let mut needed: BTreeSet<PathBuf> =
        ["Cargo.toml", "Cargo.lock", "src/main.rs", "benches/engine.rs"].map(PathBuf::from).into();
    included(&root.join("src"), &mut needed);
    assert!(needed.len() > 4, "something is compiled in");
    for path in needed {
        let path = path.strip_prefix(&root).unwrap_or(&path);
        assert!(kept.iter().any(|kept| path.starts_with(kept)), "{} is left out by .dockerignore", path.display());
        assert!(root.join(path).exists(), "{} does not exist", path.display());
    }
}

/// The files that sources in `directory` compile in as they are.
fn included(directory: &Path, found: &mut BTreeSet<PathBuf>) {
    for entry in std::fs::read_dir(directory).expect("a directory").map(|entry| entry.expect("an entry").path()) {
        if entry.is_dir() {
            included(&entry, found);
            continue;
        }
        let text = std::fs::read_to_string(&entry).expect("text");
        for part in ["include_str!(\"", "include_bytes!(\""].iter().flat_map(|start| text.split(start).skip(1)) {
            let relative = Path::new(part.split('"').next().expect("a path"));
            let mut path = entry.parent().expect("a directory").to_owned();
            for component in relative.components() {
                match component {
                    std::path::Component::ParentDir => assert!(path.pop()),
                    other => path.push(other),
                }
            }
            found.insert(path);
        }
    }
}
