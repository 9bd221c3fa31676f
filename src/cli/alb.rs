//! `ebb alb`: what Knative's traffic becomes on Alibaba Cloud's load balancer.

mod diff;
mod selftest;

use crate::api::alb_config::AlbConfig;
use crate::api::conditions::{Condition, READY, Status};
use crate::api::ingress::Ingress as KIngress;
use crate::api::names::{INGRESS_CLASS_ANNOTATION, SERVICE_LABEL, SYSTEM_NAMESPACE};
use crate::api::serving::{Revision, RevisionStatus, Route, Service, TrafficTarget};
use crate::cli::exit::Exit;
use crate::local::knative::{route, service};
use crate::local::manifest::{self, Document};
use crate::routing::capabilities::{Capabilities, MAP};
use crate::routing::delegate::GATEWAY_SERVICE;
use crate::routing::model::{CLASS, Gateway, Mode, Settings};
use crate::routing::plan::{Existing, Plan, plan};
use crate::routing::translate::Context;
use anyhow::Context as _;
use clap::ValueEnum;
use k8s_openapi::api::core::v1::{ConfigMap, Service as CoreService};
use k8s_openapi::api::networking::v1::Ingress;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

/// Knative's traffic on Alibaba Cloud's Application Load Balancer.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand, Debug)]
enum Command {
    Render(Render),
    Diff(Diff),
    SelfTest(selftest::SelfTest),
}

/// Print the objects that Knative's traffic becomes; no cluster is needed.
///
/// These are Ingresses, IngressClasses and AlbConfigs.
///
/// Of the files, KIngresses of the class alb.ingress.networking.knative.dev are rendered, and Knative
/// Services, for which the KIngress Knative would make is derived first. Routes, Revisions, Kubernetes
/// Services, Ingresses, AlbConfigs, ClusterDomainClaims and the ConfigMaps config-network, config-domain
/// and knative-alb-capabilities are taken into account; other objects are skipped. Without config-network it is not known in which vSwitches a load balancer
/// would be, and no AlbConfig is printed.
///
/// What cannot be expressed is told on standard error with its reason; everything else is printed all
/// the same. The exit code is 0 when all was rendered, 1 when something was not, and 2 when there is
/// no answer: a file that cannot be read.
///
/// Example:
///   kubectl get king,rt -A -o yaml | ebb alb render -f - -f config-network.yaml
#[derive(clap::Args, Debug)]
#[command(verbatim_doc_comment)]
struct Render {
    /// Objects: a YAML or JSON file, a directory of them, or - for standard input. May be repeated.
    #[arg(short, long = "filename", value_name = "FILE", required = true)]
    filenames: Vec<PathBuf>,

    /// How revisions are reached [default: alb-data-plane of config-network, and for auto as the self-test has
    /// seen, or header].
    #[arg(long, value_enum, value_name = "MODE")]
    mode: Option<ModeFlag>,

    /// The domain of Knative Services [default: that of config-domain, or example.com].
    #[arg(long, value_name = "DOMAIN")]
    domain: Option<String>,

    /// How to print.
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value_t)]
    output: Format,
}

/// Show what differs in a live cluster from what its traffic should become.
///
/// Every KIngress of the class alb.ingress.networking.knative.dev counts, whatever its namespace: they
/// share load balancers. Nothing is written. What is shown is what would be: "+" is put there, "-" is
/// taken away; fields nobody planned, such as what a user set on a load balancer, are left out. A
/// KIngress that cannot be expressed keeps what it has, and is named on standard error.
///
/// The exit code is 0 when nothing differs, 1 when something does or cannot be expressed, and 2 when
/// there is no answer: a cluster that cannot be read.
///
/// Example:
///   ebb alb diff --context production
#[derive(clap::Args, Debug)]
#[command(verbatim_doc_comment)]
struct Diff {
    /// The kubeconfig that says where the cluster is [default: as kubectl finds it].
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,

    /// The context of the kubeconfig [default: its current one].
    #[arg(long, value_name = "NAME")]
    context: Option<String>,

    /// Where Knative's ConfigMaps are.
    #[arg(long, env = "SYSTEM_NAMESPACE", value_name = "NAME", default_value = crate::api::names::SYSTEM_NAMESPACE)]
    system_namespace: String,

    /// How revisions are reached [default: alb-data-plane of config-network, and for auto as the self-test has
    /// seen, or header].
    #[arg(long, value_enum, value_name = "MODE")]
    mode: Option<ModeFlag>,
}

/// How revisions are reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum ModeFlag {
    /// Through their private Services; they never go to zero.
    Hold,
    /// Through their public Services, the revision named in headers.
    Header,
    /// Through Services of their own, a port of the activator for each.
    Port,
}

impl From<ModeFlag> for Mode {
    fn from(flag: ModeFlag) -> Self {
        match flag {
            ModeFlag::Hold => Self::Hold,
            ModeFlag::Header => Self::Header,
            ModeFlag::Port => Self::Port,
        }
    }
}

/// How objects are printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
enum Format {
    /// One document for each object.
    #[default]
    Yaml,
    /// One list.
    Json,
}

pub(super) fn run(args: &Args) -> anyhow::Result<Exit> {
    match &args.command {
        Command::Render(args) => render(args),
        Command::Diff(args) => runtime()?.block_on(diff::run(args)),
        Command::SelfTest(args) => runtime()?.block_on(selftest::run(args)),
    }
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

fn render(args: &Render) -> anyhow::Result<Exit> {
    let found = manifest::documents(&args.filenames);
    for problem in found.unreadable.iter().chain(&found.malformed) {
        eprintln!("ebb: {problem}");
    }
    if !found.unreadable.is_empty() || !found.malformed.is_empty() {
        return Ok(Exit::CouldNotAnswer);
    }
    let mut input = Input::read(&found.documents)?;
    if let Some(domain) = &args.domain {
        input.network.domain.clone_from(domain);
    }
    input.settle(args.mode);
    let unserved = input.derive();
    let plan = input.plan();
    let text = print(&plan, args.output)?;
    let mut out = std::io::stdout().lock();
    // A closed pipe wants no more; whoever closed it has seen enough.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    Ok(tell(&plan, &input, &unserved))
}

/// Says on standard error what could not be rendered, and what should be known of the rest.
fn tell(plan: &Plan, input: &Input, unserved: &[String]) -> Exit {
    for problem in unserved {
        eprintln!("error: {problem}");
    }
    if let Some(chosen) = input.chosen.as_ref().filter(|_| !plan.outcomes.is_empty()) {
        eprintln!("note: {chosen}");
    }
    for unknown in &input.unknown {
        eprintln!("warning: config-network: {unknown}");
    }
    for other in &input.others {
        let class = annotation(&other.metadata, INGRESS_CLASS_ANNOTATION).unwrap_or_default();
        eprintln!(
            "note: {}/{} is of the class {class:?} and left to it: it is {}",
            other.metadata.namespace.as_deref().unwrap_or_default(),
            other.metadata.name.as_deref().unwrap_or_default(),
            Gateway::of(class).whose()
        );
    }
    let mut exit = if unserved.is_empty() { Exit::Done } else { Exit::AnswerIsNo };
    for outcome in &plan.outcomes {
        let object = format!("{}/{}", outcome.namespace, outcome.name);
        if let Some(refused) = &outcome.refused {
            eprintln!("error: {object}: {refused}");
            exit = Exit::AnswerIsNo;
            continue;
        }
        for remark in &outcome.remarks {
            eprintln!("{}: {object}: {remark}", if remark.is_normal() { "note" } else { "warning" });
        }
        for revision in &outcome.pinned {
            eprintln!("warning: {object}: Pinned: {revision} is reached without an activator and must keep a pod");
        }
    }
    if plan.outcomes.is_empty() && unserved.is_empty() {
        eprintln!("warning: there is no KIngress of the class {CLASS}");
    }
    if input.settings.vswitches.is_none() && !plan.classes.is_empty() {
        eprintln!("warning: VSwitchMissing: without config-network no AlbConfig can be printed");
    }
    exit
}

/// What the files hold.
struct Input {
    settings: Settings,
    /// Keys of `config-network` that nobody reads.
    unknown: Vec<String>,
    /// What a self-test has seen.
    seen: Capabilities,
    /// Where Knative's own objects are.
    system_namespace: String,
    /// How revisions are reached and why, where that is left to Ebb.
    chosen: Option<String>,
    network: route::Network,
    ingresses: Vec<KIngress>,
    others: Vec<KIngress>,
    routes: Vec<Route>,
    revisions: Vec<Revision>,
    claims: BTreeMap<String, String>,
    services: Vec<CoreService>,
    existing: Vec<Ingress>,
    balancers: Vec<AlbConfig>,
    knative: Vec<Service>,
}

impl Input {
    fn read(documents: &[Document]) -> anyhow::Result<Self> {
        let mut input = Self::empty();
        // Settings first: they say of which class a KIngress is that does not say itself.
        for document in documents.iter().filter(|document| document.kind() == ("v1", "ConfigMap")) {
            input.map(&typed(document)?).map_err(|error| error.context(document.source("data")))?;
        }
        for document in documents {
            match document.kind() {
                ("networking.internal.knative.dev/v1alpha1", "Ingress") => input.ingress(typed(document)?),
                ("networking.internal.knative.dev/v1alpha1", "ClusterDomainClaim") => input.claim(&document.to_json()),
                ("serving.knative.dev/v1", "Route") => input.routes.push(typed(document)?),
                ("serving.knative.dev/v1", "Revision") => input.revisions.push(typed(document)?),
                ("serving.knative.dev/v1", "Service") => input.knative.push(typed(document)?),
                ("v1", "Service") => input.services.push(typed(document)?),
                ("networking.k8s.io/v1", "Ingress") => input.existing.push(typed(document)?),
                ("alibabacloud.com/v1", "AlbConfig") => input.balancers.push(typed(document)?),
                _ => {}
            }
        }
        let nameless = |meta: &mut ObjectMeta| {
            meta.namespace.get_or_insert_with(|| "default".to_owned());
        };
        input.ingresses.iter_mut().for_each(|object| nameless(&mut object.metadata));
        input.others.iter_mut().for_each(|object| nameless(&mut object.metadata));
        input.routes.iter_mut().for_each(|object| nameless(&mut object.metadata));
        input.revisions.iter_mut().for_each(|object| nameless(&mut object.metadata));
        input.services.iter_mut().for_each(|object| nameless(&mut object.metadata));
        input.knative.iter_mut().for_each(|object| nameless(&mut object.metadata));
        input.existing.iter_mut().for_each(|object| nameless(&mut object.metadata));
        Ok(input)
    }

    fn empty() -> Self {
        Self {
            settings: Settings::default(),
            unknown: Vec::new(),
            seen: Capabilities::default(),
            system_namespace: SYSTEM_NAMESPACE.to_owned(),
            chosen: None,
            network: route::Network { ingress_class: CLASS.to_owned(), ..route::Network::default() },
            ingresses: Vec::new(),
            others: Vec::new(),
            routes: Vec::new(),
            revisions: Vec::new(),
            claims: BTreeMap::new(),
            services: Vec::new(),
            existing: Vec::new(),
            balancers: Vec::new(),
            knative: Vec::new(),
        }
    }

    fn ingress(&mut self, ingress: KIngress) {
        let class = annotation(&ingress.metadata, INGRESS_CLASS_ANNOTATION).unwrap_or(&self.network.ingress_class);
        let list = if class == CLASS { &mut self.ingresses } else { &mut self.others };
        list.push(ingress);
    }

    fn claim(&mut self, claim: &Value) {
        if let (Some(host), Some(namespace)) = (claim["metadata"]["name"].as_str(), claim["spec"]["namespace"].as_str())
        {
            self.claims.insert(host.to_owned(), namespace.to_owned());
        }
    }

    fn map(&mut self, map: &ConfigMap) -> anyhow::Result<()> {
        let data = map.data.clone().unwrap_or_default();
        match map.metadata.name.as_deref() {
            Some("config-network") => {
                self.unknown = Settings::unknown(&data);
                self.settings = Settings::parse(&data)
                    .map_err(|wrong| anyhow::anyhow!("config-network cannot be used: {}", wrong.join("; ")))?;
                let class = data.get("ingress-class").or_else(|| data.get("ingress.class"));
                if let Some(class) = class {
                    self.network.ingress_class.clone_from(class);
                }
            }
            Some(MAP) => self.seen = Capabilities::read(&data),
            Some("config-domain") => {
                let everywhere = |(_, selector): &(&String, &String)| selector.trim().is_empty();
                if let Some((domain, _)) = data.iter().find(everywhere) {
                    self.network.domain.clone_from(domain);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Settles how revisions are reached: as `mode` says, or the settings, or what was seen.
    fn settle(&mut self, mode: Option<ModeFlag>) {
        let system = Some(&self.system_namespace);
        let gateway = |service: &CoreService| {
            service.metadata.namespace.as_ref() == system && service.metadata.name.as_deref() == Some(GATEWAY_SERVICE)
        };
        let activators = self.services.iter().any(gateway);
        if let Some(mode) = mode {
            (self.settings.mode, self.settings.auto) = (mode.into(), false);
        }
        self.chosen = self.seen.settle(&mut self.settings, activators);
    }

    fn plan(&self) -> Plan {
        let context = Context {
            others: &self.others,
            routes: &self.routes,
            services: &self.services,
            revisions: &self.revisions,
            claims: &self.claims,
            ..Context::new(&self.ingresses, &self.settings)
        };
        plan(&context, &Existing { ingresses: &self.existing, balancers: &self.balancers, quotas: None })
    }

    /// Adds the KIngresses that Knative would make for the Services there are none of yet. What has no KIngress is told.
    fn derive(&mut self) -> Vec<String> {
        let mut problems = Vec::new();
        let present: BTreeSet<_> = self
            .ingresses
            .iter()
            .map(|ingress| (ingress.metadata.namespace.clone(), ingress.metadata.name.clone()))
            .collect();
        for service in &self.knative {
            let meta = &service.metadata;
            if present.contains(&(meta.namespace.clone(), meta.name.clone())) {
                continue;
            }
            match derived(service, &self.network) {
                Ok((route, ingress)) => {
                    if annotation(&ingress.metadata, INGRESS_CLASS_ANNOTATION) == Some(CLASS) {
                        // Of earlier revisions it is not known what they were made with.
                        let name = latest(service);
                        if !self.revisions.iter().any(|revision| revision.metadata.name.as_ref() == Some(&name)) {
                            let of = meta.name.as_deref().unwrap_or_default();
                            self.revisions.push(ready_revision(&name, of, service));
                        }
                        self.routes.push(route);
                        self.ingresses.push(ingress);
                    } else {
                        self.others.push(ingress);
                    }
                }
                Err(problem) => problems.push(format!(
                    "{}/{}: {problem}",
                    meta.namespace.as_deref().unwrap_or_default(),
                    meta.name.as_deref().unwrap_or_default()
                )),
            }
        }
        problems
    }
}

/// The Route and the KIngress of a Service, once all its revisions are ready.
fn derived(of: &Service, network: &route::Network) -> Result<(Route, KIngress), String> {
    let name = of.metadata.name.clone().unwrap_or_default();
    let latest = latest(of);
    let mut route = service::route(of);
    let mut configuration = service::configuration(of, None);
    configuration.status.get_or_insert_default().latest_ready_revision_name = Some(latest.clone());

    let fixed = of.spec.traffic.iter().filter_map(|target| target.revision_name.clone());
    let names: BTreeSet<String> = fixed.chain([latest]).collect();
    let revisions: Vec<Arc<Revision>> =
        names.iter().map(|revision| Arc::new(ready_revision(revision, &name, of))).collect();
    let traffic = route::traffic(&route, &[Arc::new(configuration)], &revisions)
        .map_err(|_| "its traffic cannot be resolved: a target names no revision of it".to_owned())?;
    // What its controller would tell: everything the route leads to, also what has no share.
    let listed = |name: &String| TrafficTarget { revision_name: Some(name.clone()), ..TrafficTarget::default() };
    route.status.get_or_insert_default().traffic = names.iter().map(listed).collect();
    let ingress = route::ingress(&route, &traffic, network);
    Ok((route, ingress))
}

/// The name of the revision the template of a Service makes.
fn latest(of: &Service) -> String {
    let ready = of.status.as_ref().and_then(|status| status.latest_ready_revision_name.clone());
    let named = of.spec.template.metadata.as_ref().and_then(|meta| meta.name.clone());
    named.or(ready).unwrap_or_else(|| format!("{}-00001", of.metadata.name.as_deref().unwrap_or_default()))
}

fn ready_revision(name: &str, service: &str, of: &Service) -> Revision {
    let mut revision = Revision::new(name, of.spec.template.spec.clone());
    revision.metadata.namespace.clone_from(&of.metadata.namespace);
    // As if its controller had looked at it: ready in its present form.
    revision.metadata.generation = Some(0);
    revision.metadata.labels = Some([(SERVICE_LABEL.to_owned(), service.to_owned())].into());
    let ready = Condition { type_: READY.to_owned(), status: Status::True, ..Condition::default() };
    revision.status = Some(RevisionStatus { conditions: vec![ready], ..RevisionStatus::default() });
    revision
}

fn typed<T: DeserializeOwned>(document: &Document) -> anyhow::Result<T> {
    serde_json::from_value(document.to_json())
        .with_context(|| format!("{}: {}", document.source(""), document.kind().1))
}

fn annotation<'a>(meta: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    meta.annotations.as_ref()?.get(key).map(String::as_str)
}

/// Everything of a plan, in the order it can be applied.
fn objects(plan: &Plan) -> anyhow::Result<Vec<Value>> {
    let mut objects = Vec::new();
    for balancer in &plan.balancers {
        objects.push(value(balancer)?);
    }
    for class in &plan.classes {
        objects.push(value(class)?);
    }
    for ingress in &plan.ingresses {
        objects.push(value(ingress)?);
    }
    Ok(objects)
}

fn print(plan: &Plan, format: Format) -> anyhow::Result<String> {
    let objects = objects(plan)?;
    Ok(match format {
        Format::Json => format!("{:#}\n", json!({"apiVersion": "v1", "kind": "List", "items": objects})),
        Format::Yaml => {
            let mut text = String::new();
            for object in &objects {
                text.push_str("---\n");
                text.push_str(&serde_saphyr::to_string(object)?);
            }
            text
        }
    })
}

fn value<T: Serialize>(object: &T) -> anyhow::Result<Value> {
    Ok(serde_json::to_value(object)?)
}
