//! What a live cluster has, against what the traffic in it should become.

use super::{Diff, Input, objects, tell};
use crate::api::alb_config::AlbConfig;
use crate::api::ingress::Ingress as KIngress;
use crate::cli::check::cluster::configuration;
use crate::cli::exit::Exit;
use crate::routing::capabilities::MAP;
use crate::routing::controller::FIELD_MANAGER;
use crate::routing::plan::{OURS, Plan};
use crate::routing::removal::{self, UNNEEDED};
use anyhow::{Context as _, bail};
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::api::networking::v1::IngressClass;
use kube::api::{Api, ApiResource, DynamicObject, ListParams};
use kube::{Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use similar::TextDiff;
use std::collections::BTreeMap;
use std::io::Write as _;

/// Objects asked for at once.
const PAGE: u32 = 500;

/// Kind, namespace and name.
type Key = (String, String, String);

pub(super) async fn run(args: &Diff) -> anyhow::Result<Exit> {
    let (context, config) = configuration(args.kubeconfig.as_deref(), args.context.as_deref()).await?;
    let server = config.cluster_url.to_string();
    let client = Client::try_from(config)?;
    let (mut input, classes) = read(&client, &args.system_namespace)
        .await
        .with_context(|| format!("the cluster of context {context} ({server}) cannot be read"))?;
    input.settle(args.mode);
    let plan = input.plan();
    let text = differences(&plan, &input, &classes)?;
    let mut out = std::io::stdout().lock();
    // A closed pipe wants no more; whoever closed it has seen enough.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    let exit = tell(&plan, &input, &[]);
    tell_unneeded(&plan, &input, &classes);
    Ok(if text.is_empty() { exit } else { Exit::AnswerIsNo })
}

/// Says on standard error which load balancers nothing needs any more, where that has consequences.
fn tell_unneeded(plan: &Plan, input: &Input, classes: &[IngressClass]) {
    for side in removal::unneeded(plan, &input.existing, &input.settings) {
        let name = input.settings.balancer(side);
        let Some(balancer) = input.balancers.iter().find(|known| known.name_any() == name) else { continue };
        let goes = match removal::keeps(side, classes, Some(&balancer.metadata), &input.settings, FIELD_MANAGER) {
            Some(why) => format!("it stays: {why}"),
            None => format!("it goes when that was so for {UNNEEDED}: alb-deletion-policy is Delete"),
        };
        eprintln!("note: nothing needs the load balancer {name}, and {goes}");
    }
}

/// One unified diff after the other; nothing where nothing differs.
fn differences(plan: &Plan, input: &Input, classes: &[IngressClass]) -> anyhow::Result<String> {
    let mut live: BTreeMap<Key, Value> = BTreeMap::new();
    let known = input.existing.iter().map(serde_json::to_value);
    let known = known.chain(input.balancers.iter().map(serde_json::to_value));
    for object in known.chain(classes.iter().map(serde_json::to_value)) {
        let object = object?;
        live.insert(key(&object), object);
    }
    let mut text = String::new();
    for planned in objects(plan)? {
        let key = key(&planned);
        match live.get(&key) {
            None => text.push_str(&unified(&key, "", &yaml(&planned)?)),
            Some(live) => text.push_str(&unified(&key, &yaml(&shown(live, &planned))?, &yaml(&planned)?)),
        }
    }
    let leaving = plan.leaving.iter().map(|one| (&one.namespace, &one.name));
    for (namespace, name) in plan.stale.iter().map(|(namespace, name)| (namespace, name)).chain(leaving) {
        let key = ("Ingress".to_owned(), namespace.clone(), name.clone());
        if let Some(live) = live.get(&key) {
            text.push_str(&unified(&key, &yaml(&shown(live, live))?, ""));
        }
    }
    Ok(text)
}

fn unified(key: &Key, live: &str, planned: &str) -> String {
    let (kind, namespace, name) = key;
    let slash = if namespace.is_empty() { "" } else { "/" };
    let object = format!("{kind} {namespace}{slash}{name}");
    let side =
        |text: &str, word: &str| if text.is_empty() { "/dev/null".to_owned() } else { format!("{object} ({word})") };
    let diff = TextDiff::from_lines(live, planned);
    diff.unified_diff().header(&side(live, "live"), &side(planned, "planned")).to_string()
}

/// Of a live object what is ours: what the planned one has too, and what would be taken away.
fn shown(live: &Value, planned: &Value) -> Value {
    let mut object = common(live, planned);
    if let (Some(annotations), Some(all)) = (
        object.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut),
        live.pointer("/metadata/annotations").and_then(Value::as_object),
    ) {
        let ours = all.iter().filter(|(key, _)| OURS.iter().any(|prefix| key.starts_with(prefix)));
        annotations.extend(ours.map(|(key, value)| (key.clone(), value.clone())));
    }
    if let Some(meta) = object.pointer_mut("/metadata").and_then(Value::as_object_mut) {
        for set_by_server in ["uid", "resourceVersion", "generation", "creationTimestamp", "managedFields"] {
            meta.remove(set_by_server);
        }
    }
    if let Some(object) = object.as_object_mut() {
        object.remove("status");
    }
    object
}

/// What both have, with the values of `live`. Lists count as they are, but for fields of their members nobody planned.
fn common(live: &Value, planned: &Value) -> Value {
    match (live, planned) {
        (Value::Object(live), Value::Object(planned)) => {
            let both = live.iter().filter_map(|(key, value)| Some((key.clone(), common(value, planned.get(key)?))));
            Value::Object(both.collect::<Map<_, _>>())
        }
        (Value::Array(live), Value::Array(planned)) => Value::Array(
            live.iter()
                .enumerate()
                .map(|(number, value)| {
                    planned.get(number).map_or_else(|| value.clone(), |planned| common(value, planned))
                })
                .collect(),
        ),
        (live, _) => live.clone(),
    }
}

fn key(object: &Value) -> Key {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    (text("/kind"), text("/metadata/namespace"), text("/metadata/name"))
}

fn yaml(object: &Value) -> anyhow::Result<String> {
    Ok(serde_saphyr::to_string(object)?)
}

async fn read(client: &Client, system_namespace: &str) -> anyhow::Result<(Input, Vec<IngressClass>)> {
    let mut input = Input::empty();
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), system_namespace);
    let Some(map) = maps.get_opt("config-network").await.context("ConfigMap config-network")? else {
        bail!(
            "there is no ConfigMap {system_namespace}/config-network; if Knative is installed in another namespace, name \
             it with --system-namespace"
        );
    };
    // Of whom a KIngress is that does not say.
    crate::config::Network::default().ingress_class.clone_into(&mut input.network.ingress_class);
    input.map(&map)?;
    if let Some(map) = maps.get_opt(MAP).await.context("ConfigMap knative-alb-capabilities")? {
        input.map(&map)?;
    }
    system_namespace.clone_into(&mut input.system_namespace);
    list::<KIngress>(client, false).await?.into_iter().for_each(|object| input.ingress(object));
    input.routes = list(client, false).await?;
    input.revisions = list(client, false).await?;
    input.services = list(client, false).await?;
    input.existing = list(client, false).await?;
    // Where there is no ALB yet, its kind may not be known either.
    input.balancers = list::<AlbConfig>(client, true).await?;
    let claims = ApiResource {
        group: "networking.internal.knative.dev".to_owned(),
        version: "v1alpha1".to_owned(),
        api_version: "networking.internal.knative.dev/v1alpha1".to_owned(),
        kind: "ClusterDomainClaim".to_owned(),
        plural: "clusterdomainclaims".to_owned(),
    };
    for claim in pages(client, &claims, true).await? {
        input.claim(&serde_json::to_value(claim)?);
    }
    let classes = list(client, false).await?;
    Ok((input, classes))
}

/// All objects of a kind. One that cannot be understood is told and passed over.
async fn list<K>(client: &Client, may_be_unknown: bool) -> anyhow::Result<Vec<K>>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned,
{
    let mut objects = Vec::new();
    for object in pages(client, &ApiResource::erase::<K>(&()), may_be_unknown).await? {
        let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
        match object.try_parse() {
            Ok(object) => objects.push(object),
            Err(error) => eprintln!("warning: {} {namespace}/{name} cannot be understood: {error}", K::kind(&())),
        }
    }
    Ok(objects)
}

async fn pages(client: &Client, resource: &ApiResource, may_be_unknown: bool) -> anyhow::Result<Vec<DynamicObject>> {
    let api: Api<DynamicObject> = Api::all_with(client.clone(), resource);
    let mut params = ListParams::default().limit(PAGE);
    let mut objects = Vec::new();
    loop {
        let page = match api.list(&params).await {
            Err(kube::Error::Api(status)) if status.code == 404 && may_be_unknown => return Ok(objects),
            page => page.with_context(|| format!("{} cannot be listed", resource.plural))?,
        };
        objects.extend(page.items);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(objects),
        }
    }
}
