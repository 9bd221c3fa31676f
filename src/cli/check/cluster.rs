//! What a live cluster has: its settings, and what runs there.

use super::Args;
use super::item::Item;
use crate::api::pod_autoscaler::PodAutoscaler;
use crate::api::serving::{Revision, Service};
use crate::cli::with_server;
use crate::clock::Clock;
use crate::config;
use anyhow::{Context as _, bail};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, ApiResource, DynamicObject, ListParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config, Resource, ResourceExt as _};
use std::collections::BTreeMap;
use std::path::Path;

/// Objects asked for at once.
const PAGE: u32 = 500;
/// Knative's ConfigMaps that are judged; only the first must be there.
const MAPS: [&str; 7] = [
    config::autoscaler::NAME,
    config::defaults::NAME,
    config::deployment::NAME,
    config::network::NAME,
    config::leader_election::NAME,
    config::logging::NAME,
    config::observability::NAME,
];

/// What was read.
pub(super) struct Live {
    /// What the cluster is called.
    pub(super) context: String,
    /// The namespace of the context, or the one asked for.
    pub(super) namespace: String,
    /// Knative's ConfigMaps.
    pub(super) maps: Vec<Item>,
    /// Services and the revisions a route leads to; none when files are checked.
    pub(super) items: Vec<Item>,
    /// Revisions no route leads to.
    pub(super) left_out: usize,
}

pub(super) async fn read(args: &Args) -> anyhow::Result<Live> {
    let (context, config) = configuration(args.kubeconfig.as_deref(), args.context.as_deref()).await?;
    let namespace = args.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
    let server = config.cluster_url.to_string();
    let client = Client::try_from(config)?;
    let maps = maps(&client, &args.system_namespace)
        .await
        .with_context(|| format!("the cluster of context {context} ({server}) cannot be read"))?;
    if !maps.iter().any(|map| map.name() == config::autoscaler::NAME) {
        bail!(
            "there is no ConfigMap {}/{} in the cluster of context {context}; if Knative is installed in another \
             namespace, name it with --system-namespace",
            args.system_namespace,
            config::autoscaler::NAME
        );
    }
    let (mut items, mut left_out) = (Vec::new(), 0);
    if args.filenames.is_empty() {
        let scope = (!args.all_namespaces).then_some(namespace.as_str());
        (items, left_out) = running(&client, scope).await?;
    }
    Ok(Live { context, namespace, maps, items, left_out })
}

/// As kubectl does it: the file named, else $KUBECONFIG, else ~/.kube/config, else the pod this runs in.
pub(in crate::cli) async fn configuration(
    file: Option<&Path>,
    context: Option<&str>,
) -> anyhow::Result<(String, Config)> {
    let kubeconfig = match file {
        Some(file) => Kubeconfig::read_from(file)
            .with_context(|| {
                format!("the kubeconfig {} cannot be used; choose another with --kubeconfig", file.display())
            })
            .map(Some)?,
        None => match Kubeconfig::read() {
            Ok(kubeconfig) => Some(kubeconfig),
            Err(error) if context.is_some() || std::env::var_os("KUBECONFIG").is_some() => {
                return Err(error).context("the kubeconfig cannot be used; choose another with --kubeconfig");
            }
            Err(_) => None,
        },
    };
    let Some(kubeconfig) = kubeconfig else {
        let config = Config::incluster()
            .context("there is no kubeconfig, and this is no pod of a cluster; name a kubeconfig with --kubeconfig")?;
        return Ok(("in-cluster".to_owned(), config));
    };
    let name = context.map(ToOwned::to_owned).or_else(|| kubeconfig.current_context.clone()).unwrap_or_default();
    let options = KubeConfigOptions { context: context.map(ToOwned::to_owned), ..KubeConfigOptions::default() };
    let known: Vec<String> = kubeconfig.contexts.iter().map(|context| context.name.clone()).collect();
    let config = Config::from_custom_kubeconfig(kubeconfig, &options).await.with_context(|| {
        format!("the context {name:?} of the kubeconfig cannot be used; it has the contexts {}", known.join(", "))
    })?;
    Ok((name, with_server(config)?))
}

async fn maps(client: &Client, namespace: &str) -> anyhow::Result<Vec<Item>> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let mut items = Vec::new();
    for name in MAPS {
        let map = api.get_opt(name).await.with_context(|| format!("ConfigMap {namespace}/{name}"))?;
        if let Some(map) = map {
            items.push(Item::in_cluster("v1", "ConfigMap", serde_json::to_value(map)?, None));
        }
    }
    Ok(items)
}

/// The Services, and the revisions a route leads to; and how many it does not.
async fn running(client: &Client, namespace: Option<&str>) -> anyhow::Result<(Vec<Item>, usize)> {
    let now = Clock::system().now();
    let mut autoscalers: BTreeMap<(Option<String>, String), PodAutoscaler> = BTreeMap::new();
    for object in list::<PodAutoscaler>(client, namespace).await? {
        let key = (object.namespace(), object.name_any());
        // One that cannot be read tells nothing; its revision is judged all the same.
        if let Ok(autoscaler) = object.try_parse() {
            autoscalers.insert(key, autoscaler);
        }
    }
    let mut items = Vec::new();
    let mut left_out = 0;
    for object in list::<Service>(client, namespace).await? {
        items.push(Item::in_cluster("serving.knative.dev/v1", "Service", serde_json::to_value(object)?, None));
    }
    for object in list::<Revision>(client, namespace).await? {
        let autoscaler = autoscalers.remove(&(object.namespace(), object.name_any()));
        if autoscaler.as_ref().is_some_and(|autoscaler| autoscaler.spec.reachability == "Unreachable") {
            left_out += 1;
            continue;
        }
        let autoscaler = autoscaler.map(|autoscaler| (autoscaler, now));
        let json = serde_json::to_value(object)?;
        items.push(Item::in_cluster("serving.knative.dev/v1", "Revision", json, autoscaler));
    }
    Ok((items, left_out))
}

/// All objects of a kind, as they are, page by page.
async fn list<K: Resource<DynamicType = ()>>(
    client: &Client,
    namespace: Option<&str>,
) -> anyhow::Result<Vec<DynamicObject>> {
    let resource = ApiResource::erase::<K>(&());
    let api: Api<DynamicObject> = match namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    let mut params = ListParams::default().limit(PAGE);
    let mut objects = Vec::new();
    loop {
        let page = api.list(&params).await.with_context(|| format!("{} cannot be listed", resource.plural))?;
        objects.extend(page.items);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(objects),
        }
    }
}
