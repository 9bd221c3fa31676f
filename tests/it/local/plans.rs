//! What the local cluster derives from a Service, against what Knative derived from the same one.

use ebb::api::conditions::{Condition, Status};
use ebb::api::ingress::{Ingress, IngressStatus};
use ebb::api::pod_autoscaler::{PodAutoscaler, PodAutoscalerStatus};
use ebb::api::serverless_service::{Mode, ServerlessService};
use ebb::api::serving::{Configuration, ConfigurationStatus, Revision, RevisionStatus, Route, RouteStatus, Service};
use ebb::local::knative::route::{Network, Traffic};
use ebb::local::knative::{configuration, revision, route, serverless_service, service};
use ebb::units::{Span, Timestamp};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus};
use k8s_openapi::api::core::v1::{Pod, PodCondition, PodStatus, Service as CoreService};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::sync::Arc;

const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);
const SERVICES: [&str; 3] = ["tagged", "grpc", "private"];

/// The recorded objects of one file.
fn objects<T: DeserializeOwned>(file: &str) -> Vec<T> {
    let path = crate::root().join("tests/expected/knative").join(file);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let values: Vec<Value> = serde_saphyr::from_multiple(&text).expect("readable YAML");
    values.into_iter().map(|value| serde_json::from_value(value).expect("an object of its kind")).collect()
}

fn named<T: DeserializeOwned + kube::Resource>(file: &str, name: &str) -> T {
    objects::<T>(file)
        .into_iter()
        .find(|object| object.meta().name.as_deref() == Some(name))
        .expect("a recorded object")
}

/// What two objects are compared by: labels, annotations, owners and spec.
fn shape<T: Serialize>(object: &T) -> Value {
    let value = serde_json::to_value(object).expect("JSON");
    json!({
        "labels": value["metadata"]["labels"],
        "annotations": value["metadata"]["annotations"],
        "owners": value["metadata"]["ownerReferences"],
        "spec": value["spec"],
    })
}

fn assert_same_shape<T: Serialize>(ours: &T, theirs: &T) {
    let (ours, theirs) = (shape(ours), shape(theirs));
    let pretty = |value: &Value| serde_json::to_string_pretty(value).expect("JSON");
    assert_eq!(ours, theirs, "ours: {}\nrecorded: {}", pretty(&ours), pretty(&theirs));
}

fn condition(type_: &str, status: Status) -> Condition {
    Condition { type_: type_.to_owned(), status, ..Condition::default() }
}

/// The configuration of a recorded service, with the status it had.
fn configuration_of(service: &Service) -> Arc<Configuration> {
    let status = service.status.clone().expect("a status");
    let mut made = service::configuration(service, None);
    made.metadata.generation = Some(2);
    made.metadata.uid = Some("configuration-uid".to_owned());
    made.status = Some(ConfigurationStatus {
        observed_generation: 2,
        conditions: vec![condition("Ready", Status::True)],
        latest_created_revision_name: status.latest_created_revision_name,
        latest_ready_revision_name: status.latest_ready_revision_name,
    });
    Arc::new(made)
}

/// Ready revisions of a configuration, one for each generation.
fn revisions_of(configuration: &Configuration, count: i64) -> Vec<Arc<Revision>> {
    let make = |generation| {
        let mut configuration = configuration.clone();
        configuration.metadata.generation = Some(generation);
        let mut made = configuration::revision(&configuration, NOW);
        made.metadata.uid = Some(format!("revision-{generation}"));
        made.metadata.generation = Some(1);
        made.status = Some(RevisionStatus {
            observed_generation: 1,
            conditions: vec![condition("Ready", Status::True)],
            ..RevisionStatus::default()
        });
        Arc::new(made)
    };
    (1..=count).map(make).collect()
}

fn network() -> Network {
    Network { ingress_class: "alb.ingress.networking.knative.dev".to_owned(), ..Network::default() }
}

fn traffic_of(service: &Service) -> (Route, Traffic) {
    let recorded: Route = named("routes.yaml", service.metadata.name.as_deref().expect("a name"));
    let configuration = configuration_of(service);
    let revisions = revisions_of(&configuration, 2);
    let traffic = route::traffic(&recorded, &[configuration], &revisions).expect("everything is ready");
    (recorded, traffic)
}

#[test]
fn a_service_becomes_the_route_knative_makes_of_it() {
    for name in SERVICES {
        let service: Service = named("services.yaml", name);
        assert_same_shape(&service::route(&service), &named("routes.yaml", name));
    }
}

#[test]
fn a_route_becomes_the_ingress_knative_makes_of_it() {
    for name in SERVICES {
        let (recorded, traffic) = traffic_of(&named("services.yaml", name));
        let theirs: Ingress = named("kingress.yaml", name);
        assert_same_shape(&route::ingress(&recorded, &traffic, &network()), &theirs);

        let mut status =
            route::status(&recorded, &Ok(traffic.clone()), Some(&theirs), &network(), Timestamp::from_seconds(0));
        // The ingress' own condition is copied with its time; nothing else differs.
        for condition in &mut status.conditions {
            condition.last_transition_time = None;
        }
        let mut expected = recorded.status.clone().expect("a status");
        for condition in &mut expected.conditions {
            condition.last_transition_time = None;
        }
        assert_eq!(status, expected, "{name}");

        let mut ours = route::placeholders(&recorded, &traffic, Some(&theirs), &network());
        ours.sort_by_key(|service| service.metadata.name.clone());
        let theirs: Vec<CoreService> = objects::<CoreService>("k8s-services.yaml")
            .into_iter()
            .filter(|service| {
                service
                    .metadata
                    .owner_references
                    .iter()
                    .flatten()
                    .any(|owner| owner.kind == "Route" && owner.name == name)
            })
            .collect();
        assert_eq!(ours.len(), theirs.len(), "{name}");
        for theirs in theirs {
            let ours = ours.iter().find(|ours| ours.metadata.name == theirs.metadata.name).expect("the same names");
            assert_same_shape(ours, &theirs);
        }
    }
}

#[test]
fn a_serverless_service_becomes_the_two_services_knative_makes_of_it() {
    for sks in objects::<ServerlessService>("sks.yaml") {
        let name = sks.metadata.name.clone().expect("a name");
        let private: CoreService = named("k8s-services.yaml", &format!("{name}-private"));
        let selector = private.spec.as_ref().and_then(|spec| spec.selector.clone()).expect("a selector");
        assert_same_shape(&serverless_service::private_service(&sks, selector), &private);
        assert_same_shape(&serverless_service::public_service(&sks), &named("k8s-services.yaml", &name));
    }
}

#[test]
fn requests_enter_by_pods_or_activators() {
    struct Case {
        mode: Mode,
        ready_pods: u8,
        other_pods: u8,
        activators: u8,
        public: &'static [&'static str],
        populated: (Status, &'static str),
        by_activator: Status,
    }
    use Mode::{Proxy, Serve};
    let ready = (Status::True, "");
    let none = (Status::Unknown, "NoHealthyBackends");
    let case = |mode, ready_pods, other_pods, activators, public, populated, by_activator| Case {
        mode,
        ready_pods,
        other_pods,
        activators,
        public,
        populated,
        by_activator,
    };
    for (number, case) in [
        // No ready pod leaves the activators, whatever the mode.
        case(Serve, 0, 1, 1, &["127.0.9.1"][..], none, Status::True),
        case(Proxy, 0, 0, 1, &["127.0.9.1"], none, Status::True),
        // With both there, the mode decides.
        case(Proxy, 2, 0, 1, &["127.0.9.1"], ready, Status::True),
        case(Serve, 2, 1, 1, &["127.1.0.1", "127.1.0.2"], ready, Status::False),
        // No activator leaves the pods, whatever the mode.
        case(Proxy, 1, 0, 0, &["127.1.0.1"], ready, Status::True),
        case(Proxy, 0, 1, 0, &[], none, Status::True),
    ]
    .into_iter()
    .enumerate()
    {
        let mut sks: ServerlessService = objects("sks.yaml").remove(0);
        (sks.status, sks.spec.mode) = (None, case.mode);
        let pods: Vec<Arc<Pod>> = (1..=case.ready_pods)
            .map(|n| pod(n, "True"))
            .chain((1..=case.other_pods).map(|n| pod(100 + n, "False")))
            .collect();
        let activators = activators(case.activators);
        assert_eq!(
            addresses(&serverless_service::public_slice(&sks, &pods, &activators)),
            case.public,
            "case {number}"
        );
        let private = serverless_service::private_slice(&sks, &pods);
        assert_eq!(private.endpoints.len(), usize::from(case.ready_pods + case.other_pods), "case {number}");

        let status = serverless_service::status(&sks, &pods, NOW);
        let told: Vec<_> = status
            .conditions
            .iter()
            .map(|condition| (condition.type_.as_str(), condition.status, condition.reason.as_str()))
            .collect();
        let expected = [
            ("ActivatorEndpointsPopulated", case.by_activator, "ActivatorEndpointsPopulated"),
            ("EndpointsPopulated", case.populated.0, case.populated.1),
            ("Ready", case.populated.0, case.populated.1),
        ];
        assert_eq!(told, expected, "case {number}");
    }
}

#[test]
fn a_subset_of_activators_stays_the_same_and_is_of_the_size_asked_for() {
    let mut sks: ServerlessService = objects("sks.yaml").remove(0);
    sks.spec.mode = Mode::Proxy;
    for (wanted, got) in [(0, 9), (2, 2), (9, 9), (20, 9)] {
        sks.spec.num_activators = wanted;
        let first = serverless_service::public_slice(&sks, &[], &activators(9));
        assert_eq!(first.endpoints.len(), got, "{wanted} wanted");
        assert_eq!(first, serverless_service::public_slice(&sks, &[], &activators(9)));
    }
}

#[test]
fn the_status_of_a_serverless_service_is_the_recorded_one() {
    for recorded in objects::<ServerlessService>("sks.yaml") {
        let status = serverless_service::status(&recorded, &[pod(1, "True")], NOW);
        assert_eq!(Some(status), recorded.status, "nothing changed, so the times stay too");
    }
}

#[test]
fn a_change_of_the_template_makes_a_revision_and_only_that() {
    let service: Service = named("services.yaml", "tagged");
    let configuration = configuration_of(&service);
    let revisions = revisions_of(&configuration, 2);
    let latest = configuration::latest(&configuration, &revisions);
    assert_eq!(latest, configuration::Latest::Found(Arc::clone(&revisions[1])));

    let mut changed = Configuration::clone(&configuration);
    changed.metadata.generation = Some(3);
    assert_eq!(configuration::latest(&changed, &revisions), configuration::Latest::Missing);
    assert_eq!(configuration::revision(&changed, NOW).metadata.name.as_deref(), Some("tagged-00003"));

    // A name of one's own must change with the template.
    let mut named = changed.clone();
    named.spec.template.metadata.get_or_insert_default().name = Some("tagged-00001".to_owned());
    named.spec.template.spec.timeout_seconds = Some(7);
    let taken = configuration::latest(&named, &revisions);
    assert_eq!(taken, configuration::Latest::NameTaken("tagged-00001".to_owned()));
    let status = configuration::status(&named, &taken, &revisions, NOW);
    assert_eq!((status.conditions[0].status, status.conditions[0].reason.as_str()), (Status::False, "RevisionFailed"));
}

#[test]
fn a_configuration_follows_its_newest_ready_revision() {
    let service: Service = named("services.yaml", "tagged");
    let mut configuration = Configuration::clone(&configuration_of(&service));
    let mut revisions = revisions_of(&configuration, 2);
    configuration.status = None;

    let of_newest = |status: Status, configuration: &Configuration, revisions: &mut Vec<Arc<Revision>>| {
        let newest = Arc::make_mut(&mut revisions[1]);
        newest.status.as_mut().expect("a status").conditions = vec![condition("Ready", status)];
        let latest = configuration::latest(configuration, revisions);
        let status = configuration::status(configuration, &latest, revisions, NOW);
        (status.conditions[0].status, status.latest_ready_revision_name)
    };
    let ready = |name: &str| Some(name.to_owned());
    for (newest, told) in [
        (Status::Unknown, (Status::Unknown, ready("tagged-00001"))),
        (Status::False, (Status::False, ready("tagged-00001"))),
        (Status::True, (Status::True, ready("tagged-00002"))),
    ] {
        assert_eq!(of_newest(newest, &configuration, &mut revisions), told);
    }
    // Once there, traffic does not go back by itself.
    configuration.status =
        Some(ConfigurationStatus { latest_ready_revision_name: ready("tagged-00002"), ..Default::default() });
    let back = of_newest(Status::Unknown, &configuration, &mut revisions);
    assert_eq!(back.1, ready("tagged-00002"));
}

#[test]
fn traffic_that_cannot_be_resolved_says_what_is_missing() {
    let service: Service = named("services.yaml", "tagged");
    let configuration = configuration_of(&service);
    let revisions = revisions_of(&configuration, 2);
    let unready = |status| {
        let mut revisions = revisions.clone();
        Arc::make_mut(&mut revisions[1]).status.as_mut().expect("a status").conditions =
            vec![condition("Ready", status)];
        revisions
    };
    let mut other = revisions.clone();
    let labels = Arc::make_mut(&mut other[1]).metadata.labels.as_mut().expect("labels");
    labels.insert("serving.knative.dev/service".to_owned(), "shop".to_owned());

    for (revisions, status, reason, message) in [
        (vec![], Status::False, "RevisionMissing", "Revision \"tagged-00001\" referenced in traffic not found."),
        (unready(Status::Unknown), Status::Unknown, "RevisionMissing", "Revision \"tagged-00002\" is not yet ready."),
        (unready(Status::False), Status::False, "RevisionMissing", "Revision \"tagged-00002\" failed to become ready."),
        (
            other,
            Status::False,
            "RevisionNotOwned",
            "Revision \"tagged-00002\" belongs to Service \"shop\", not Service \"tagged\".",
        ),
    ] {
        let recorded: Route = named("routes.yaml", "tagged");
        let problem = route::traffic(&recorded, &[Arc::clone(&configuration)], &revisions);
        let told = route::status(&recorded, &problem, None, &network(), NOW);
        let assigned = told.conditions.iter().find(|c| c.type_ == "AllTrafficAssigned").expect("the condition");
        assert_eq!((assigned.status, assigned.reason.as_str(), assigned.message.as_str()), (status, reason, message));
    }
}

#[test]
fn a_service_is_ready_when_its_traffic_has_arrived() {
    let service: Service = named("services.yaml", "grpc");
    let mut configuration = Configuration::clone(&configuration_of(&service));
    let mut route: Route = named("routes.yaml", "grpc");
    let status = service::status(&service, Some(&configuration), Some(&route), NOW);
    let recorded = service.status.clone().expect("a status");
    assert_eq!(status, recorded, "nothing changed, so the times stay too");

    // A second revision is ready, but the route has not taken it up.
    let of_configuration = configuration.status.as_mut().expect("a status");
    of_configuration.latest_ready_revision_name = Some("grpc-00002".to_owned());
    let status = service::status(&service, Some(&configuration), Some(&route), NOW);
    let reason = |status: &ebb::api::serving::ServiceStatus, type_: &str| {
        status.conditions.iter().find(|c| c.type_ == type_).map(|c| (c.status, c.reason.clone())).expect("a condition")
    };
    assert_eq!(reason(&status, "Ready"), (Status::Unknown, "TrafficNotMigrated".to_owned()));

    // The route has not seen its own newest spec.
    route.status = Some(RouteStatus { observed_generation: 0, ..RouteStatus::default() });
    let status = service::status(&service, Some(&configuration), Some(&route), NOW);
    assert_eq!(reason(&status, "RoutesReady"), (Status::Unknown, "OutOfDate".to_owned()));
}

#[test]
fn a_revision_becomes_a_deployment_and_a_pod_autoscaler() {
    let service: Service = named("services.yaml", "grpc");
    let revisions = revisions_of(&configuration_of(&service), 1);
    let sks: ServerlessService = objects("sks.yaml").into_iter().next().expect("one");

    let pa = revision::pod_autoscaler(&revisions[0], None);
    // A ServerlessService carries its PodAutoscaler's labels, so both have the same set.
    let keys = |labels: &Option<std::collections::BTreeMap<String, String>>| -> Vec<String> {
        labels.iter().flatten().map(|(key, _)| key.clone()).collect()
    };
    assert_eq!(keys(&pa.metadata.labels), keys(&sks.metadata.labels));
    assert_eq!((pa.spec.reachability.as_str(), pa.spec.protocol_type.as_str()), ("Reachable", "h2c"));
    assert_eq!(pa.spec.scale_target_ref.name, "grpc-00001-deployment");

    let deployment = revision::deployment(&revisions[0], 3);
    let spec = deployment.spec.expect("a spec");
    assert_eq!(spec.replicas, Some(3));
    let pod = spec.template.spec.expect("a pod spec");
    assert_eq!(pod.containers.iter().map(|c| c.name.as_str()).collect::<Vec<_>>(), ["user-container", "queue-proxy"]);
    assert_eq!(pod.termination_grace_period_seconds, Some(300));
    let annotations = spec.template.metadata.and_then(|meta| meta.annotations).unwrap_or_default();
    assert!(!annotations.keys().any(|key| key.starts_with("autoscaling.knative.dev")), "{annotations:?}");
    let env = |container: usize, name: &str| {
        let env = pod.containers[container].env.iter().flatten().find(|variable| variable.name == name);
        env.and_then(|variable| variable.value.clone()).unwrap_or_default()
    };
    assert_eq!((env(0, "K_SERVICE").as_str(), env(0, "K_REVISION").as_str()), ("grpc", "grpc-00001"));
    assert_eq!((env(1, "QUEUE_SERVING_PORT").as_str(), env(1, "SERVING_SERVICE").as_str()), ("8013", "grpc"));
}

#[test]
fn annotations_of_a_pod_autoscaler_follow_the_revision_but_for_what_admission_filled_in() {
    let service: Service = named("services.yaml", "grpc");
    let revisions = revisions_of(&configuration_of(&service), 1);
    let wanted = revision::pod_autoscaler(&revisions[0], None);
    let mut existing = wanted.clone();
    let annotations = existing.metadata.annotations.get_or_insert_default();
    for (key, value) in [
        ("autoscaling.knative.dev/class", "kpa.autoscaling.knative.dev"),
        ("autoscaling.knative.dev/metric", "concurrency"),
        ("autoscaling.knative.dev/min-scale", "3"),
        ("team", "blue"),
    ] {
        annotations.insert(key.to_owned(), value.to_owned());
    }
    let mut expected = annotations.clone();
    let synced = revision::synced_pod_autoscaler(&existing, &wanted);
    expected.remove("autoscaling.knative.dev/min-scale");
    assert_eq!(synced.metadata.annotations, Some(expected));
    assert_eq!(revision::synced_pod_autoscaler(&synced, &wanted), synced, "once is enough");
}

#[test]
fn a_revision_follows_its_deployment_and_its_pod_autoscaler() {
    let service: Service = named("services.yaml", "grpc");
    let mut made = Revision::clone(&revisions_of(&configuration_of(&service), 1)[0]);
    made.spec.pod.containers[0].image = Some("ebb.local/hello".to_owned());
    made.status = None;
    let mut deployment = revision::deployment(&made, 1);
    let told = |made: &Revision, deployment: Option<&Deployment>, pa: Option<&PodAutoscaler>, pods: &[Arc<Pod>]| {
        let status = revision::status(made, deployment, pa, pods, NOW);
        let one = |type_: &str| {
            let found = status.conditions.iter().find(|c| c.type_ == type_).expect("a condition");
            (found.status, found.reason.clone())
        };
        [one("Ready"), one("Active"), one("ContainerHealthy"), one("ResourcesAvailable")]
    };
    let deploying = || (Status::Unknown, "Deploying".to_owned());
    let yes = || (Status::True, String::new());
    assert_eq!(told(&made, None, None, &[]), [deploying(), deploying(), deploying(), deploying()]);

    deployment.status = Some(DeploymentStatus {
        conditions: Some(vec![DeploymentCondition {
            type_: "Progressing".into(),
            status: "True".into(),
            ..DeploymentCondition::default()
        }]),
        ready_replicas: Some(1),
        available_replicas: Some(1),
        ..DeploymentStatus::default()
    });
    let mut pa = revision::pod_autoscaler(&made, Some(&deployment));
    pa.status = Some(PodAutoscalerStatus {
        conditions: vec![condition("Ready", Status::True), condition("ScaleTargetInitialized", Status::True)],
        service_name: "grpc-00001".to_owned(),
        ..PodAutoscalerStatus::default()
    });
    assert_eq!(told(&made, Some(&deployment), Some(&pa), &[]), [yes(), yes(), yes(), yes()]);

    // At zero the revision is not active, and ready all the same.
    let of_pa = pa.status.as_mut().expect("a status");
    of_pa.conditions[0] = Condition { reason: "NoTraffic".into(), ..condition("Ready", Status::False) };
    let no_traffic = (Status::False, "NoTraffic".to_owned());
    assert_eq!(told(&made, Some(&deployment), Some(&pa), &[]), [yes(), no_traffic.clone(), yes(), yes()]);

    // It never came up.
    let of_pa = pa.status.as_mut().expect("a status");
    of_pa.conditions.pop();
    let of_deployment = deployment.status.as_mut().expect("a status");
    (of_deployment.ready_replicas, of_deployment.available_replicas) = (Some(0), Some(0));
    let late = (Status::False, "ProgressDeadlineExceeded".to_owned());
    let unhealthy = (Status::Unknown, String::new());
    assert_eq!(told(&made, Some(&deployment), Some(&pa), &[]), [late.clone(), no_traffic.clone(), unhealthy, late]);

    // Its container ends again and again.
    let mut crashing = Pod::clone(&pod(1, "False"));
    crashing.status.as_mut().expect("a status").container_statuses = Some(
        serde_json::from_value(json!([{
            "name": "user-container", "image": "", "imageID": "", "ready": false, "restartCount": 3,
            "state": {"waiting": {"reason": "CrashLoopBackOff"}},
            "lastState": {"terminated": {"exitCode": 3, "message": "no database"}},
        }]))
        .expect("container statuses"),
    );
    let status = revision::status(&made, Some(&deployment), Some(&pa), &[Arc::new(crashing)], NOW);
    let container = status.conditions.iter().find(|c| c.type_ == "ContainerHealthy").expect("a condition");
    assert_eq!(
        (container.status, container.reason.as_str(), container.message.as_str()),
        (Status::False, "ExitCode3", "Container failed with: no database")
    );

    // An image that cannot run here is told at once, with the way out.
    made.spec.pod.containers[0].image = Some("docker.io/library/nginx".to_owned());
    let status = revision::status(&made, None, None, &[], NOW);
    let ready = status.conditions.iter().find(|c| c.type_ == "Ready").expect("a condition");
    assert_eq!((ready.status, ready.reason.as_str()), (Status::False, "ContainerMissing"));
    assert!(ready.message.contains("ebb.local/hello"), "{}", ready.message);
}

#[test]
fn a_status_told_twice_is_the_same_and_keeps_its_times() {
    let service: Service = named("services.yaml", "private");
    let (mut recorded, traffic) = traffic_of(&service);
    recorded.status = None;
    let first = route::status(&recorded, &Ok(traffic.clone()), None, &network(), NOW);
    recorded.status = Some(first.clone());
    let ingress = Ingress { status: Some(IngressStatus::default()), ..named("kingress.yaml", "private") };
    let later = NOW + Span::from_seconds(90);
    assert_eq!(route::status(&recorded, &Ok(traffic), Some(&ingress), &network(), later), first);
}

fn pod(number: u8, ready: &str) -> Arc<Pod> {
    Arc::new(Pod {
        metadata: k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
            name: Some(format!("pod-{number}")),
            ..Default::default()
        },
        status: Some(PodStatus {
            phase: Some("Running".to_owned()),
            pod_ip: Some(format!("127.1.0.{number}")),
            conditions: Some(vec![PodCondition {
                type_: "Ready".to_owned(),
                status: ready.to_owned(),
                ..PodCondition::default()
            }]),
            ..PodStatus::default()
        }),
        ..Pod::default()
    })
}

fn activators(count: u8) -> Vec<EndpointSlice> {
    let endpoint = |number| Endpoint { addresses: vec![format!("127.0.9.{number}")], ..Endpoint::default() };
    vec![EndpointSlice { endpoints: (1..=count).map(endpoint).collect(), ..EndpointSlice::default() }]
}

fn addresses(slice: &EndpointSlice) -> Vec<&str> {
    slice.endpoints.iter().flat_map(|endpoint| &endpoint.addresses).map(String::as_str).collect()
}
