//! Knative's webhook, for an API server that asks one: the local cluster's own admission, over HTTPS.

use crate::plane::Identity;
use axum::Json;
use ebb::local::AutoscalerSettings;
use ebb::local::apiserver::{Operation, Review, built_in};
use ebb::local::knative::admission::admission;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use kube::Client;
use kube::api::{Api, PostParams};
use serde_json::{Value, json};
use std::net::Ipv4Addr;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Serves until it is dropped.
pub(crate) struct Webhook {
    _stop: DropGuard,
}

impl Webhook {
    /// Serves, and has the API server ask about everything of Knative's.
    pub(crate) async fn start(client: &Client, identity: &Identity, settings: AutoscalerSettings) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let port = listener.local_addr().expect("a bound listener").port();
        let judge = Arc::new(move |review: Value| answer(&admission(settings.clone()), &review));
        let app = axum::Router::new().fallback(move |Json(review): Json<Value>| {
            let judge = Arc::clone(&judge);
            async move { Json(judge(review)) }
        });
        let stop = CancellationToken::new();
        tokio::spawn(serve(listener, TlsAcceptor::from(identity.server_config()), app, stop.clone()));

        let groups = ["serving.knative.dev", "autoscaling.internal.knative.dev", "networking.internal.knative.dev"];
        let configuration: MutatingWebhookConfiguration = serde_json::from_value(json!({
            "metadata": {"name": "webhook.serving.knative.dev"},
            "webhooks": [{
                "name": "webhook.serving.knative.dev",
                "admissionReviewVersions": ["v1"],
                "sideEffects": "None",
                "failurePolicy": "Fail",
                "timeoutSeconds": 10,
                "clientConfig": {
                    "url": format!("https://127.0.0.1:{port}/"),
                    "caBundle": ByteString(identity.authority().into()),
                },
                "rules": [
                    {"apiGroups": groups, "apiVersions": ["*"], "operations": ["CREATE", "UPDATE"], "resources": ["*"]},
                ],
            }],
        }))
        .expect("a literal of its kind");
        let configurations: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
        configurations.create(&PostParams::default(), &configuration).await.expect("a webhook configuration");
        Self { _stop: stop.drop_guard() }
    }
}

async fn serve(listener: TcpListener, tls: TlsAcceptor, app: axum::Router, stop: CancellationToken) {
    while let Some(Ok((stream, _))) = stop.run_until_cancelled(listener.accept()).await {
        let (tls, app) = (tls.clone(), app.clone());
        tokio::spawn(async move {
            // Who does not get through asks again.
            if let Ok(stream) = tls.accept(stream).await {
                let service = TowerToHyperService::new(app);
                let _ = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
            }
        });
    }
}

/// The answer to an AdmissionReview.
fn answer(admit: &impl Fn(&Review<'_>, Value) -> ebb::local::apiserver::Answer<Value>, asked: &Value) -> Value {
    let request = &asked["request"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (group, plural) = (text(&request["resource"]["group"]), text(&request["resource"]["resource"]));
    let table = built_in();
    let mut response = json!({"uid": request["uid"], "allowed": true});
    if let Some(resource) = table.iter().find(|resource| resource.group == group && resource.plural == plural) {
        let review = Review {
            operation: if request["operation"] == "CREATE" { Operation::Create } else { Operation::Update },
            resource,
            subresource: request["subResource"].as_str().filter(|part| !part.is_empty()),
            namespace: request["namespace"].as_str().unwrap_or_default(),
            name: request["name"].as_str().unwrap_or_default(),
            old: Some(&request["oldObject"]).filter(|old| !old.is_null()),
            dry_run: request["dryRun"] == true,
        };
        match admit(&review, request["object"].clone()) {
            Ok(object) => {
                let patch = json_patch::diff(&request["object"], &object);
                response["patchType"] = "JSONPatch".into();
                let patch = serde_json::to_vec(&patch).expect("a patch");
                response["patch"] = serde_json::to_value(ByteString(patch)).expect("base64");
            }
            Err(status) => {
                response["allowed"] = false.into();
                response["status"] = serde_json::to_value(&*status).expect("a status");
            }
        }
    }
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response})
}
