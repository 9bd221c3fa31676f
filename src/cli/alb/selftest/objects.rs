//! The objects of a self-test. Whatever is made is known before it is, so that all of it can be removed.

use crate::routing::plan::order_of;
use anyhow::{Context as _, bail};
use k8s_openapi::api::core::v1::{ConfigMap, Endpoints, Service};
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use kube::Client;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Who is on record for the fields.
const FIELD_MANAGER: &str = "ebb-self-test";
/// The label of all of them; its value is the run's.
const LABEL: &str = "ebb.dev/self-test";
/// How often removing is tried, and how long it rests between.
const TRIES: usize = 5;
const BETWEEN: Duration = Duration::from_secs(1);
/// Objects asked for at once.
const PAGE: u32 = 500;

pub(super) struct Objects {
    client: Client,
    token: String,
    /// Kind, namespace and name, in the order in which they were made.
    made: Mutex<Vec<(ApiResource, String, String)>>,
}

impl Objects {
    pub(super) fn new(client: Client, token: &str) -> Self {
        Self { client, token: token.to_owned(), made: Mutex::default() }
    }

    pub(super) async fn service(&self, namespace: &str, name: &str) -> anyhow::Result<()> {
        let spec = json!({"ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": 80}]});
        self.put(ApiResource::erase::<Service>(&()), namespace, name, json!({"spec": spec})).await
    }

    pub(super) async fn endpoints(&self, namespace: &str, name: &str, subsets: Vec<Value>) -> anyhow::Result<()> {
        self.put(ApiResource::erase::<Endpoints>(&()), namespace, name, json!({"subsets": subsets})).await
    }

    pub(super) async fn ingress(&self, object: Ingress) -> anyhow::Result<()> {
        let (namespace, name) =
            (object.metadata.namespace.clone().unwrap_or_default(), object.metadata.name.clone().unwrap_or_default());
        self.put(ApiResource::erase::<Ingress>(&()), &namespace, &name, serde_json::to_value(object)?).await
    }

    async fn put(&self, kind: ApiResource, namespace: &str, name: &str, mut object: Value) -> anyhow::Result<()> {
        object["apiVersion"] = json!(kind.api_version);
        object["kind"] = json!(kind.kind);
        object["metadata"]["name"] = json!(name);
        object["metadata"]["namespace"] = json!(namespace);
        object["metadata"]["labels"][LABEL] = json!(self.token);
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), namespace, &kind);
        let what = format!("{} {namespace}/{name}", kind.kind);
        let made = (kind, namespace.to_owned(), name.to_owned());
        if !self.lock().contains(&made) {
            self.lock().push(made);
        }
        let params = PatchParams::apply(FIELD_MANAGER).force();
        match api.patch(name, &params, &Patch::Apply(&object)).await {
            Err(kube::Error::Api(status)) if status.code == 404 => bail!(
                "{what} could not be made, because namespace {namespace} does not exist; create it, or name others with \
                 --pod-namespace and --other-namespace"
            ),
            made => made.map(drop).with_context(|| format!("{what} could not be made")),
        }
    }

    /// The name the load balancer's controller has written on an Ingress.
    pub(super) async fn hostname(&self, namespace: &str, name: &str) -> anyhow::Result<Option<String>> {
        let api: Api<Ingress> = Api::namespaced(self.client.clone(), namespace);
        let object = api.get(name).await.with_context(|| format!("Ingress {namespace}/{name} could not be read"))?;
        let told = || object.status?.load_balancer?.ingress?.into_iter().next()?.hostname;
        Ok(told().filter(|name| !name.is_empty()))
    }

    /// The orders of all Ingresses there are.
    pub(super) async fn orders(&self) -> anyhow::Result<BTreeSet<u16>> {
        let api: Api<Ingress> = Api::all(self.client.clone());
        let (mut orders, mut params) = (BTreeSet::new(), ListParams::default().limit(PAGE));
        loop {
            let page = api.list(&params).await.context("the Ingresses of the cluster could not be listed")?;
            orders.extend(page.items.iter().filter_map(order_of));
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => return Ok(orders),
            }
        }
    }

    pub(super) async fn remove_ingress(&self, namespace: &str, name: &str) -> anyhow::Result<()> {
        let kind = ApiResource::erase::<Ingress>(&());
        self.delete(&(kind, namespace.to_owned(), name.to_owned()))
            .await
            .with_context(|| format!("Ingress {namespace}/{name} could not be removed"))
    }

    async fn delete(&self, made: &(ApiResource, String, String)) -> Result<(), kube::Error> {
        let (kind, namespace, name) = made;
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), namespace, kind);
        match api.delete(name, &DeleteParams::default()).await {
            Err(kube::Error::Api(status)) if status.code != 404 => return Err(kube::Error::Api(status)),
            Err(kube::Error::Api(_)) | Ok(_) => {}
            Err(error) => return Err(error),
        }
        self.lock().retain(|one| one != made);
        Ok(())
    }

    /// Removes what there is still, the Ingresses first; says what could not be.
    pub(super) async fn remove(&self) -> Vec<String> {
        let mut failed = None;
        for attempt in 0..TRIES {
            if 0 < attempt {
                tokio::time::sleep(BETWEEN).await;
            }
            let all: Vec<_> = self.lock().iter().rev().cloned().collect();
            for made in all {
                failed = self.delete(&made).await.err();
                // Where nobody answers, nobody does for the others.
                if failed.as_ref().is_some_and(|error| !matches!(error, kube::Error::Api(_))) {
                    break;
                }
            }
            match &failed {
                _ if self.lock().is_empty() => break,
                Some(error) => eprintln!("ebb: not removed yet: {error}"),
                None => {}
            }
        }
        self.left()
    }

    pub(super) fn left(&self) -> Vec<String> {
        self.lock().iter().map(|(kind, namespace, name)| format!("{} {namespace}/{name}", kind.kind)).collect()
    }

    /// By which all of them are found.
    pub(super) fn label(&self) -> String {
        format!("{LABEL}={}", self.token)
    }

    /// Writes these keys of the map; others keep what they say.
    pub(super) async fn write_map(
        &self,
        namespace: &str,
        name: &str,
        data: &BTreeMap<String, String>,
    ) -> Result<(), kube::Error> {
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), namespace);
        let map = json!({"metadata": {"name": name}, "data": data});
        match api.patch(name, &PatchParams::default(), &Patch::Merge(&map)).await {
            Err(kube::Error::Api(status)) if status.code == 404 => {
                let map: ConfigMap = serde_json::from_value(map).map_err(kube::Error::SerdeError)?;
                api.create(&PostParams::default(), &map).await.map(drop)
            }
            patched => patched.map(drop),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(ApiResource, String, String)>> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a ConfigMap of Knative's holds.
pub(super) async fn map(client: &Client, namespace: &str, name: &str) -> anyhow::Result<BTreeMap<String, String>> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let found = api.get_opt(name).await.with_context(|| format!("ConfigMap {namespace}/{name}"))?;
    let found = found.with_context(|| {
        format!("there is no ConfigMap {namespace}/{name}; if Knative is installed elsewhere, name it with --system-namespace")
    })?;
    Ok(found.data.unwrap_or_default())
}

pub(super) async fn class_exists(client: &Client, name: &str) -> anyhow::Result<bool> {
    let found = Api::<IngressClass>::all(client.clone()).get_opt(name).await;
    Ok(found.with_context(|| format!("IngressClass {name}"))?.is_some())
}
