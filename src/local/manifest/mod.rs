//! Manifests: the files a user hands over, checked as a whole before anything of them is applied.
//!
//! Understood are Knative Services, ConfigMaps and Namespaces, one or many to a file, as YAML or JSON. Every problem of
//! every file is told at once, with file, line and column, and with what was probably meant. [`documents()`] reads files
//! for somebody who only looks at them.

pub use crate::config::document::{Place, Problem, Problems, Source};

use crate::api::pod_autoscaler::PodAutoscalerSpec;
use crate::api::serving::TrafficTarget;
use crate::api::spelling::nearest;
use crate::config::document::{Besides, Content, Fault, Node, faults, yaml};
use futures::FutureExt as _;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams};
use kube::{Client, ResourceExt as _};
use serde::Deserialize;
use serde::de::IgnoredAny;
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// The largest file that is read, in bytes. Kubernetes takes no object beyond a fraction of this.
const MAX_FILE: u64 = 8 << 20;
/// What a file is called that came from standard input.
const STDIN: &str = "standard input";
/// Who the fields belong to that were applied from files.
const FIELD_MANAGER: &str = "ebb-apply";
/// Where objects go that name no namespace.
const DEFAULT_NAMESPACE: &str = "default";

/// An object ready to be applied.
#[derive(Clone, Debug)]
pub struct Manifest {
    /// Where it came from.
    pub source: Source,
    /// What kind of object it is.
    pub resource: ApiResource,
    /// The object; one that lives in a namespace names it.
    pub object: DynamicObject,
}

/// Reads files, the YAML and JSON files of directories (not of directories within), and standard input for `-`.
pub fn read(paths: &[PathBuf]) -> Result<Vec<Manifest>, Problems> {
    let mut manifests = Vec::new();
    let mut problems = Vec::new();
    for path in paths {
        for (file, text) in texts(path) {
            match text.map_err(|error| whole_file(&file, error)).and_then(|text| parse(&file, &text)) {
                Ok(read) => manifests.extend(read),
                Err(Problems(found)) => problems.extend(found),
            }
        }
    }
    if problems.is_empty() { Ok(manifests) } else { Err(Problems(problems)) }
}

/// What files hold, whatever it is.
#[derive(Debug, Default)]
pub struct Found {
    /// Every object of the files that could be read, in their order.
    pub documents: Vec<Document>,
    /// Files that could not be read at all.
    pub unreadable: Vec<Problem>,
    /// Files that are not YAML.
    pub malformed: Vec<Problem>,
}

/// Reads what [`read`] does, but judges nothing: objects of any kind, right or wrong.
pub fn documents(paths: &[PathBuf]) -> Found {
    let mut found = Found::default();
    for path in paths {
        for (file, text) in texts(path) {
            let text = match text {
                Ok(text) => text,
                Err(error) => {
                    found.unreadable.extend(whole_file(&file, error).0);
                    continue;
                }
            };
            match yaml::documents(&text) {
                Ok(nodes) => found.documents.extend(nodes.into_iter().flat_map(|node| unlisted(&file, node))),
                Err((place, message)) => {
                    let source = Source { file, place };
                    found.malformed.push(Problem { source, path: String::new(), message });
                }
            }
        }
    }
    found
}

/// An object as it stands in a file.
#[derive(Clone, Debug)]
pub struct Document {
    file: String,
    /// Of the list it stood in, when it does not say itself.
    type_of_list: Option<(String, String)>,
    node: Node,
}

impl Document {
    /// Its `apiVersion` and `kind`; empty where it has none.
    pub fn kind(&self) -> (&str, &str) {
        let own = |key: &str| self.node.text(key);
        let (api_version, kind) =
            self.type_of_list.as_ref().map_or(("", ""), |(api_version, kind)| (api_version.as_str(), kind.as_str()));
        (own("apiVersion").unwrap_or(api_version), own("kind").unwrap_or(kind))
    }

    /// The same as JSON.
    pub fn to_json(&self) -> serde_json::Value {
        self.node.to_json()
    }

    /// Where a field stands, named as `spec.template.metadata.annotations[KEY]` or `spec.traffic[0].percent`. What is
    /// not there stands where the nearest field around it does.
    pub fn source(&self, path: &str) -> Source {
        let place = self.node.place_of(path);
        Source { file: self.file.clone(), place }
    }

    /// Fields its kind does not have and values of a wrong kind; nothing for a kind that is not known here.
    pub fn problems(&self) -> Vec<Problem> {
        let (api_version, kind) = self.kind();
        let Some(known) = KINDS.iter().find(|known| known.api_version == api_version && known.name == kind) else {
            return Vec::new();
        };
        let mut faults = (known.check)(&self.node);
        faults.sort_by_key(|fault| fault.place);
        faults.into_iter().map(|fault| fault.at(&self.file)).collect()
    }
}

/// The objects of a list, as `kubectl get -o yaml` prints it or as an API server answers; or the one object.
fn unlisted(file: &str, node: Node) -> Vec<Document> {
    let document = |type_of_list, node| Document { file: file.to_owned(), type_of_list, node };
    let Some(kind) = node.text("kind").and_then(|kind| kind.strip_suffix("List")) else {
        return vec![document(None, node)];
    };
    let Some(Content::List(items)) = node.get("items").map(|items| &items.content) else {
        return vec![document(None, node)];
    };
    let type_of_list = Some((node.text("apiVersion").unwrap_or_default().to_owned(), kind.to_owned()));
    items.iter().map(|item| document(type_of_list.clone(), item.clone())).collect()
}

/// Reads the documents of one text. `file` is what it is called when something is wrong.
pub fn parse(file: &str, text: &str) -> Result<Vec<Manifest>, Problems> {
    let documents = yaml::documents(text).map_err(|(place, message)| {
        Problems(vec![Problem { source: Source { file: file.to_owned(), place }, path: String::new(), message }])
    })?;
    let mut manifests = Vec::new();
    let mut problems = Vec::new();
    for document in objects(&documents) {
        match manifest(file, document) {
            Ok(manifest) => manifests.push(manifest),
            Err(faults) => problems.extend(faults.into_iter().map(|fault| fault.at(file))),
        }
    }
    if manifests.is_empty() && problems.is_empty() {
        return Err(whole_file(file, "there is no object in it".to_owned()));
    }
    if problems.is_empty() { Ok(manifests) } else { Err(Problems(problems)) }
}

/// An object the cluster refused.
#[derive(Debug, thiserror::Error)]
#[error("{source_of}: {kind} {name:?} was not accepted: {}", reason(.source))]
pub struct ApplyError {
    source_of: Source,
    kind: String,
    name: String,
    source: Box<kube::Error>,
}

/// The API server's own words when it has any.
fn reason(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if status.code == 404 && status.message.starts_with("namespaces ") => format!(
            "{}; add a Namespace of that name to the files, or leave metadata.namespace out for \"default\"",
            status.message
        ),
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

/// Applies manifests, what others need first: namespaces, then ConfigMaps, then Services. All are tried; what was
/// refused comes back.
pub async fn apply(client: &Client, manifests: &[Manifest]) -> Vec<ApplyError> {
    let mut in_order: Vec<&Manifest> = manifests.iter().collect();
    in_order.sort_by_key(|manifest| rank(&manifest.resource.kind));
    let mut refused = Vec::new();
    for manifest in in_order {
        let api: Api<DynamicObject> = match manifest.object.namespace() {
            Some(namespace) => Api::namespaced_with(client.clone(), &namespace, &manifest.resource),
            None => Api::all_with(client.clone(), &manifest.resource),
        };
        let name = manifest.object.name_any();
        let params = PatchParams::apply(FIELD_MANAGER).force();
        if let Err(source) = api.patch(&name, &params, &Patch::Apply(&manifest.object)).boxed().await {
            refused.push(ApplyError {
                source_of: manifest.source.clone(),
                kind: manifest.resource.kind.clone(),
                name,
                source: Box::new(source),
            });
        }
    }
    refused
}

fn rank(kind: &str) -> usize {
    KINDS.iter().position(|known| known.name == kind).unwrap_or(KINDS.len())
}

/// A kind whose fields are known.
struct Kind {
    api_version: &'static str,
    name: &'static str,
    plural: &'static str,
    namespaced: bool,
    /// Whether a user applies it; the others are made by controllers and can only be looked at.
    applied: bool,
    check: fn(&Node) -> Vec<Fault>,
}

/// In the order in which they are applied.
const KINDS: [Kind; 6] = [
    Kind {
        api_version: "v1",
        name: "Namespace",
        plural: "namespaces",
        namespaced: false,
        applied: true,
        check: |node| faults::<Namespace>(node, "", Besides::Only(&TYPE_FIELDS)),
    },
    Kind {
        api_version: "v1",
        name: "ConfigMap",
        plural: "configmaps",
        namespaced: true,
        applied: true,
        check: |node| faults::<ConfigMap>(node, "", Besides::Only(&TYPE_FIELDS)),
    },
    Kind {
        api_version: "serving.knative.dev/v1",
        name: "Service",
        plural: "services",
        namespaced: true,
        applied: true,
        check: check_service,
    },
    Kind {
        api_version: "serving.knative.dev/v1",
        name: "Configuration",
        plural: "configurations",
        namespaced: true,
        applied: false,
        check: check_service,
    },
    Kind {
        api_version: "serving.knative.dev/v1",
        name: "Revision",
        plural: "revisions",
        namespaced: true,
        applied: false,
        check: check_revision,
    },
    Kind {
        api_version: "autoscaling.internal.knative.dev/v1alpha1",
        name: "PodAutoscaler",
        plural: "podautoscalers",
        namespaced: true,
        applied: false,
        check: check_pod_autoscaler,
    },
];

/// The fields every object has beside those of its kind.
const TYPE_FIELDS: [&str; 3] = ["apiVersion", "kind", "status"];

fn manifest(file: &str, node: &Node) -> Result<Manifest, Vec<Fault>> {
    let kind = kind_of(node).map_err(|fault| vec![fault])?;
    let mut wrong = (kind.check)(node);
    let metadata = node.get("metadata");
    if wrong.is_empty() && metadata.and_then(|metadata| metadata.text("name")).is_none_or(str::is_empty) {
        let place = metadata.map_or(node.place, |metadata| metadata.place);
        let message = "missing; every object needs a name".to_owned();
        wrong.push(Fault { place, path: "metadata.name".to_owned(), message });
    }
    if !wrong.is_empty() {
        wrong.sort_by_key(|fault| fault.place);
        return Err(wrong);
    }
    let mut object: DynamicObject = serde_json::from_value(node.to_json())
        .map_err(|error| vec![Fault { place: node.place, path: String::new(), message: error.to_string() }])?;
    if kind.namespaced {
        object.metadata.namespace.get_or_insert_with(|| DEFAULT_NAMESPACE.to_owned());
    }
    let (group, version) = kind.api_version.split_once('/').unwrap_or(("", kind.api_version));
    let gvk = GroupVersionKind::gvk(group, version, kind.name);
    Ok(Manifest {
        source: Source { file: file.to_owned(), place: node.place },
        resource: ApiResource::from_gvk_with_plural(&gvk, kind.plural),
        object,
    })
}

fn kind_of(node: &Node) -> Result<&'static Kind, Fault> {
    let fault = |at: Option<&Node>, path: &str, message: String| Fault {
        place: at.map_or(node.place, |at| at.place),
        path: path.to_owned(),
        message,
    };
    if !matches!(node.content, Content::Map(_)) {
        return Err(fault(None, "", format!("a document must be an object and is {}", node.kind())));
    }
    let (Some(api_version), Some(kind)) = (node.text("apiVersion"), node.text("kind")) else {
        let missing = if node.text("kind").is_none() { "kind" } else { "apiVersion" };
        return Err(fault(None, missing, format!("missing; known are {}", known_kinds())));
    };
    if let Some(known) = applied().find(|known| known.api_version == api_version && known.name == kind) {
        return Ok(known);
    }
    if let Some(named) = applied().find(|known| known.name == kind) {
        let message =
            format!("{api_version:?} has no {kind} that can be applied here; did you mean {:?}?", named.api_version);
        return Err(fault(node.get("apiVersion"), "apiVersion", message));
    }
    let message = match nearest(kind, applied().map(|known| known.name)) {
        Some(meant) => format!("{kind:?} is not known here; did you mean {meant:?}?"),
        None => format!("{kind:?} of {api_version} cannot be applied here; known are {}", known_kinds()),
    };
    Err(fault(node.get("kind"), "kind", message))
}

fn applied() -> impl Iterator<Item = &'static Kind> {
    KINDS.iter().filter(|kind| kind.applied)
}

fn known_kinds() -> String {
    let known: Vec<_> = applied().map(|known| format!("{} ({})", known.name, known.api_version)).collect();
    known.join(", ")
}

/// The fields of a Knative Service, by path, that Knative does not know or that have the wrong type, and what is wrong.
pub fn service_faults(service: &serde_json::Value) -> Vec<(String, String)> {
    check_service(&Node::from(service)).into_iter().map(|fault| (fault.path, fault.message)).collect()
}

/// A Knative Service, or a Configuration, in three looks: everything but the revision's spec, the pod in that, and what
/// Knative adds to it.
fn check_service(node: &Node) -> Vec<Fault> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    #[expect(dead_code, reason = "the fields are there to be named and to have a type")]
    struct Shape {
        #[serde(default)]
        metadata: ObjectMeta,
        spec: SpecShape,
    }
    #[derive(Deserialize)]
    #[expect(dead_code, reason = "the fields are there to be named and to have a type")]
    struct SpecShape {
        template: TemplateShape,
        #[serde(default)]
        traffic: Vec<TrafficTarget>,
    }
    #[derive(Deserialize)]
    #[expect(dead_code, reason = "the fields are there to be named and to have a type")]
    struct TemplateShape {
        metadata: Option<ObjectMeta>,
        spec: IgnoredAny,
    }
    let mut found = faults::<Shape>(node, "", Besides::Only(&TYPE_FIELDS));
    let spec = node.get("spec").and_then(|spec| spec.get("template")).and_then(|template| template.get("spec"));
    found.extend(spec.map(|spec| revision_spec_faults(spec, "spec.template.spec")).into_iter().flatten());
    found
}

fn check_revision(node: &Node) -> Vec<Fault> {
    #[derive(Deserialize)]
    #[expect(dead_code, reason = "the fields are there to be named and to have a type")]
    struct Shape {
        #[serde(default)]
        metadata: ObjectMeta,
        spec: IgnoredAny,
    }
    let mut found = faults::<Shape>(node, "", Besides::Only(&TYPE_FIELDS));
    found.extend(node.get("spec").map(|spec| revision_spec_faults(spec, "spec")).into_iter().flatten());
    found
}

/// The pod, and what Knative adds to it.
fn revision_spec_faults(spec: &Node, path: &str) -> Vec<Fault> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    #[expect(dead_code, reason = "the fields are there to be named and to have a type")]
    struct Shape {
        container_concurrency: Option<i64>,
        timeout_seconds: Option<i64>,
        response_start_timeout_seconds: Option<i64>,
        idle_timeout_seconds: Option<i64>,
    }
    const KNATIVE_FIELDS: [&str; 4] =
        ["containerConcurrency", "timeoutSeconds", "responseStartTimeoutSeconds", "idleTimeoutSeconds"];

    let mut found = faults::<PodSpec>(spec, path, Besides::Only(&KNATIVE_FIELDS));
    found.extend(faults::<Shape>(spec, path, Besides::Anything));
    found
}

fn check_pod_autoscaler(node: &Node) -> Vec<Fault> {
    #[derive(Deserialize)]
    #[expect(dead_code, reason = "the fields are there to be named and to have a type")]
    struct Shape {
        #[serde(default)]
        metadata: ObjectMeta,
        spec: PodAutoscalerSpec,
    }
    faults::<Shape>(node, "", Besides::Only(&TYPE_FIELDS))
}

/// The objects of documents; a list, as `kubectl get -o yaml` prints it, stands for its items.
fn objects(documents: &[Node]) -> Vec<&Node> {
    documents
        .iter()
        .flat_map(|document| match document.get("items").map(|items| &items.content) {
            Some(Content::List(items)) if document.text("kind") == Some("List") => items.iter().collect(),
            _ => vec![document],
        })
        .collect()
}

fn whole_file(file: &str, message: String) -> Problems {
    let source = Source { file: file.to_owned(), place: Place::default() };
    Problems(vec![Problem { source, path: String::new(), message }])
}

/// The names and texts that `path` stands for.
fn texts(path: &Path) -> Vec<(String, Result<String, String>)> {
    if path == Path::new("-") {
        return vec![(STDIN.to_owned(), bounded(std::io::stdin()))];
    }
    let shown = path.display().to_string();
    if !path.is_dir() {
        return vec![(shown, open(path))];
    }
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) => return vec![(shown, Err(format!("cannot be read: {error}")))],
    };
    let is_manifest = |path: &PathBuf| {
        path.extension().is_some_and(|extension| ["yaml", "yml", "json"].iter().any(|known| extension == *known))
    };
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(is_manifest).collect();
    files.sort();
    if files.is_empty() {
        return vec![(shown, Err("there is no .yaml, .yml or .json file in this directory".to_owned()))];
    }
    files.into_iter().map(|file| (file.display().to_string(), open(&file))).collect()
}

fn open(path: &Path) -> Result<String, String> {
    std::fs::File::open(path).map_err(|error| format!("cannot be read: {error}")).and_then(bounded)
}

fn bounded(input: impl std::io::Read) -> Result<String, String> {
    let mut text = String::new();
    match input.take(MAX_FILE + 1).read_to_string(&mut text) {
        Ok(length) if length as u64 > MAX_FILE => Err(format!("is larger than {} MiB", MAX_FILE >> 20)),
        Ok(_) => Ok(text),
        Err(error) => Err(format!("cannot be read: {error}")),
    }
}
