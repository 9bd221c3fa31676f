//! PodAutoscalers of other classes, through the API: left alone and counted, or served where that is asked for.

use crate::apiserver::Served;
use crate::metrics::furnish;
use crate::patience::eventually;
use ebb::api::pod_autoscaler::PodAutoscaler;
use ebb::api::serverless_service::ServerlessService;
use ebb::app::{Autoscaler, Listen, Options, Show};
use ebb::clock::Clock;
use ebb::controllers::settings::{self, Maps};
use ebb::k8s::dial::SystemDial;
use ebb::observe::metrics::Format;
use ebb::ownership::Choice;
use ebb::ownership::class::Classes;
use ebb::units::Compat;
use kube::Api;
use kube::api::{ListParams, PostParams};
use serde_json::json;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

async fn started(served: &Served, classes: Classes) -> Autoscaler {
    let free = async || TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let (maps, compat) = (Maps::default(), Compat::IMPROVED);
    let options = Options {
        client: served.client(),
        clock: Clock::system(),
        compat,
        classes,
        start: settings::read(&served.client(), &maps, compat).await.expect("settings"),
        maps,
        dial: Arc::new(SystemDial),
        cluster_domain: "cluster.local".to_owned(),
        ownership: Choice::Single,
        stats: Listen::Now(free().await),
        admin: free().await,
        metrics: None,
        show: Show::default(),
        gates: None,
    };
    Autoscaler::start(options, CancellationToken::new()).await.expect("an autoscaler")
}

async fn create(served: &Served, name: &str, class: &str) {
    let pa: PodAutoscaler = serde_json::from_value(json!({
        "apiVersion": "autoscaling.internal.knative.dev/v1alpha1", "kind": "PodAutoscaler",
        "metadata": {"name": name, "namespace": "default",
            "labels": {"serving.knative.dev/configuration": name, "serving.knative.dev/revision": name},
            "annotations": {"autoscaling.knative.dev/class": class}},
        "spec": {"protocolType": "http1", "reachability": "Reachable",
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": format!("{name}-deployment")}},
    }))
    .expect("a PodAutoscaler");
    Api::namespaced(served.client(), "default").create(&PostParams::default(), &pa).await.expect("created");
}

#[tokio::test]
async fn a_class_of_a_vendor_is_served_where_that_is_asked_for_and_counted_where_not() {
    for (serves, names) in [(false, &["kpa"][..]), (true, &["kpa", "mpa"])] {
        let served = Served::start().await;
        furnish(&served.client()).await;
        for name in ["mpa", "hpa", "other"] {
            create(&served, name, &format!("{name}.autoscaling.knative.dev")).await;
        }
        let autoscaler = started(&served, Classes::new(serves)).await;
        // What comes later is looked at after what was there.
        create(&served, "kpa", "kpa.autoscaling.knative.dev").await;
        let services: Api<ServerlessService> = Api::namespaced(served.client(), "default");
        for name in names {
            let service = eventually(&format!("ServerlessService {name}"), async || {
                services.get_opt(name).await.expect("an answer")
            })
            .await;
            let annotations = service.metadata.annotations.expect("annotations");
            assert_eq!(annotations["autoscaling.knative.dev/class"], format!("{name}.autoscaling.knative.dev"));
        }
        let shown = autoscaler.metrics().exposition(Format::Prometheus);
        let left = |class: &str| {
            let name = format!("ebb_podautoscalers_left{{class=\"{class}\"}} ");
            shown.lines().find_map(|line| line.strip_prefix(&name).map(str::to_owned)).expect("a number")
        };
        assert_eq!([left("hpa"), left("mpa"), left("other")], ["1", if serves { "0" } else { "1" }, "1"]);
        let made = services.list(&ListParams::default()).await.expect("a list").items;
        assert_eq!(made.len(), names.len(), "nothing is made for what is left alone");
        let autoscalers: Api<PodAutoscaler> = Api::namespaced(served.client(), "default");
        let untouched = autoscalers.get("hpa").await.expect("a PodAutoscaler");
        assert_eq!(untouched.status, None);
        autoscaler.stop().await;
    }
}
