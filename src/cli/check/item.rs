//! One object to check, out of a file or a cluster.

use super::report::Placed;
use crate::api::annotations::Annotations;
use crate::api::conditions::{self, Status};
use crate::api::pod_autoscaler::PodAutoscaler;
use crate::api::setting::Severity;
use crate::config::Data;
use crate::config::check::{Awake, Cluster, Finding, Judgement, Subject, judge};
use crate::local::apiserver::Cause;
use crate::local::manifest::{Document, Problem, Source};
use crate::units::{Span, Timestamp};
use k8s_openapi::api::core::v1::Container;
use serde_json::Value;

/// What an object is to the checker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Role {
    /// One of Knative's own settings, or another ConfigMap.
    ConfigMap,
    /// A Knative Service.
    Service,
    /// A Configuration.
    Configuration,
    /// A Revision.
    Revision,
    /// A PodAutoscaler.
    PodAutoscaler,
    /// Nothing it knows.
    Other,
}

/// An object and where it came from.
#[derive(Clone, Debug)]
pub(super) struct Item {
    api_version: String,
    kind: String,
    json: Value,
    /// Where it goes when it does not say.
    default_namespace: String,
    origin: Origin,
}

#[derive(Clone, Debug)]
enum Origin {
    File(Document),
    /// In a cluster; with what its PodAutoscaler says, and when that was read.
    Cluster(Option<Box<(PodAutoscaler, Timestamp)>>),
}

impl Item {
    pub(super) fn in_file(document: Document, default_namespace: &str) -> Self {
        let (api_version, kind) = document.kind();
        Self {
            api_version: api_version.to_owned(),
            kind: kind.to_owned(),
            json: document.to_json(),
            default_namespace: default_namespace.to_owned(),
            origin: Origin::File(document),
        }
    }

    pub(super) fn in_cluster(
        api_version: &str,
        kind: &str,
        json: Value,
        autoscaler: Option<(PodAutoscaler, Timestamp)>,
    ) -> Self {
        Self {
            api_version: api_version.to_owned(),
            kind: kind.to_owned(),
            json,
            default_namespace: String::new(),
            origin: Origin::Cluster(autoscaler.map(Box::new)),
        }
    }

    pub(super) fn role(&self) -> Role {
        match (self.api_version.as_str(), self.kind.as_str()) {
            ("v1", "ConfigMap") => Role::ConfigMap,
            ("serving.knative.dev/v1", "Service") => Role::Service,
            ("serving.knative.dev/v1", "Configuration") => Role::Configuration,
            ("serving.knative.dev/v1", "Revision") => Role::Revision,
            ("autoscaling.internal.knative.dev/v1alpha1", "PodAutoscaler") => Role::PodAutoscaler,
            _ => Role::Other,
        }
    }

    pub(super) fn kind(&self) -> &str {
        if self.kind.is_empty() { "object without a kind" } else { &self.kind }
    }

    pub(super) fn api_version(&self) -> &str {
        &self.api_version
    }

    pub(super) fn json(&self) -> &Value {
        &self.json
    }

    pub(super) fn is_live(&self) -> bool {
        matches!(self.origin, Origin::Cluster(_))
    }

    /// Its name, or what the name is made from.
    pub(super) fn name(&self) -> String {
        let text = |pointer: &str| self.json.pointer(pointer).and_then(Value::as_str).map(ToOwned::to_owned);
        let generated = || text("/metadata/generateName").map(|prefix| format!("{prefix}…"));
        text("/metadata/name").or_else(generated).unwrap_or_else(|| "without a name".to_owned())
    }

    /// The namespace it names.
    pub(super) fn namespace(&self) -> Option<&str> {
        self.json.pointer("/metadata/namespace").and_then(Value::as_str)
    }

    /// The namespace it is in.
    pub(super) fn in_namespace(&self) -> &str {
        self.namespace().unwrap_or(&self.default_namespace)
    }

    /// `NAMESPACE/NAME`.
    pub(super) fn full_name(&self) -> String {
        format!("{}/{}", self.in_namespace(), self.name())
    }

    /// Where in which file, if it is in one.
    pub(super) fn source(&self, path: &str) -> Option<Source> {
        match &self.origin {
            Origin::File(document) => Some(document.source(path)),
            Origin::Cluster(_) => None,
        }
    }

    /// The data of a ConfigMap.
    pub(super) fn data(&self) -> Data {
        texts(&self.json["data"])
    }

    pub(super) fn shape_problems(&self) -> Vec<Placed> {
        match &self.origin {
            Origin::File(document) => document.problems().into_iter().map(|problem| self.misshapen(problem)).collect(),
            Origin::Cluster(_) => Vec::new(),
        }
    }

    fn misshapen(&self, problem: Problem) -> Placed {
        let Problem { source, path, message } = problem;
        let finding = plain("wrong-shape", path, message);
        Placed { source: Some(source), object: self.object(), finding }
    }

    /// What Knative's webhook says of a field.
    pub(super) fn refused(&self, cause: Cause) -> Placed {
        self.place(plain("refused", cause.field, cause.message))
    }

    pub(super) fn place(&self, finding: Finding) -> Placed {
        Placed { source: self.source(&finding.path), object: self.object(), finding }
    }

    fn object(&self) -> String {
        format!("{} {}", self.kind(), self.full_name())
    }

    pub(super) fn judge(&self, cluster: &Cluster, startup: Option<Span>) -> Judgement {
        let at = |pointer: &str| self.json.pointer(pointer).unwrap_or(&Value::Null);
        let (template, spec, prefix) = match self.role() {
            Role::Service | Role::Configuration => (at("/spec/template"), at("/spec/template/spec"), "spec.template."),
            _ => (&self.json, at("/spec"), ""),
        };
        let (annotations, labels) =
            (texts(&template["metadata"]["annotations"]), texts(&template["metadata"]["labels"]));
        let outer = (texts(at("/metadata/annotations")), texts(at("/metadata/labels")));
        let containers: Vec<Container> = spec
            .get("containers")
            .and_then(|containers| serde_json::from_value(containers.clone()).ok())
            .unwrap_or_default();
        let said = spec.get("containerConcurrency").and_then(Value::as_i64);
        let container_concurrency = match self.role() {
            // A PodAutoscaler has what its revision has; nothing is no limit.
            Role::PodAutoscaler => Some(said.unwrap_or(0)),
            _ => said,
        };
        let own_reachability = spec.get("reachability").and_then(Value::as_str).unwrap_or_default();
        let (reachability, awake) = match &self.origin {
            Origin::Cluster(Some(read)) => (read.0.spec.reachability.as_str(), awake(&read.0, read.1)),
            _ => (own_reachability, None),
        };
        let subject = Subject {
            annotations: &annotations,
            labels: &labels,
            around: (!prefix.is_empty()).then_some((&outer.0, &outer.1)),
            prefix,
            containers: &containers,
            container_concurrency,
            reachability,
            startup,
            awake,
        };
        judge(&subject, cluster)
    }
}

/// For how long a revision has had pods, and how many it has.
fn awake(autoscaler: &PodAutoscaler, now: Timestamp) -> Option<Awake> {
    let status = autoscaler.status.as_ref()?;
    let active = conditions::find(&status.conditions, "Active").filter(|active| active.status == Status::True)?;
    Some(Awake { since: active.age(now), pods: status.actual_scale.unwrap_or(0) })
}

/// A fault told in one sentence, with the whole path for a key.
fn plain(rule: &'static str, path: String, message: String) -> Finding {
    let (key, severity, value, mend) = (path.clone(), Severity::Error, String::new(), String::new());
    Finding { severity, rule, map: None, path, key, value, why: message, mend }
}

/// The entries of a mapping that are text; what is not is a fault of its own.
fn texts(value: &Value) -> Annotations {
    let entries = value.as_object().into_iter().flatten();
    entries.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
}
