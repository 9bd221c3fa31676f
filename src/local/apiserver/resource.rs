//! The resources this API serves: one table for what Kubernetes and Knative define, and the way a
//! CustomResourceDefinition adds to it.

use super::columns::{self, Column};
use super::schema::{self, Shape};
use serde_json::Value;

/// One kind of object under one path.
#[derive(Debug)]
pub struct Resource {
    /// The API group; empty for the core group.
    pub group: String,
    /// The version, such as `v1`.
    pub version: String,
    /// The name in paths.
    pub plural: String,
    /// The name of one, in lower case.
    pub singular: String,
    /// The name of the type.
    pub kind: String,
    /// Names kubectl accepts as well.
    pub short_names: Vec<String>,
    /// Groups of resources kubectl accepts as one, such as `all`.
    pub categories: Vec<String>,
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
    /// Whether `status` is written through a path of its own.
    pub status: bool,
    /// Whether replicas are read and written through `scale`.
    pub scale: bool,
    /// What counts up `metadata.generation`.
    pub generation: Generation,
    /// Whether a CustomResourceDefinition made it, in a real cluster too: no strategic merge patch, no update
    /// without a resourceVersion.
    pub custom: bool,
    /// What field selectors may ask for besides name and namespace.
    pub selectable: Vec<String>,
    /// How names are checked.
    pub(super) naming: Naming,
    pub(super) columns: Vec<Column>,
    pub(super) shape: &'static Shape,
}

/// What counts up `metadata.generation`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Generation {
    /// Nothing; the field stays absent.
    Absent,
    /// A change of `spec`.
    Spec,
    /// A change of `spec` or of the annotations.
    SpecAndAnnotations,
    /// A change of anything but metadata and status.
    AllButStatus,
}

/// Which names a resource's objects may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Naming {
    Subdomain,
    Label,
    Service,
}

impl Resource {
    /// `plural` or `plural.group`, as messages have it.
    pub fn qualified(&self) -> String {
        if self.group.is_empty() { self.plural.clone() } else { format!("{}.{}", self.plural, self.group) }
    }

    /// `version` or `group/version`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    /// Whether this is the other face of the core group's events.
    pub(super) fn is_events_view(&self) -> bool {
        self.group == "events.k8s.io"
    }

    /// The verbs of the resource itself.
    pub(super) fn verbs() -> &'static [&'static str] {
        &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]
    }

    fn new(group: &str, version: &str, plural: &str, kind: &str, short_names: &[&str]) -> Self {
        Self {
            group: group.to_owned(),
            version: version.to_owned(),
            plural: plural.to_owned(),
            singular: kind.to_lowercase(),
            kind: kind.to_owned(),
            short_names: owned(short_names),
            categories: Vec::new(),
            namespaced: true,
            status: false,
            scale: false,
            generation: Generation::Absent,
            custom: false,
            selectable: Vec::new(),
            naming: Naming::Subdomain,
            columns: columns::name_and_age(),
            shape: schema::of_kind(group, kind),
        }
    }

    fn knative(
        group: &str,
        version: &str,
        plural: &str,
        kind: &str,
        short_names: &[&str],
        columns: &[[&str; 3]],
    ) -> Self {
        let categories: &[&str] =
            if group == "serving.knative.dev" { &["all", "knative", "serving"] } else { &["knative-internal"] };
        Self {
            custom: true,
            columns: columns::custom(columns),
            ..Self::new(group, version, plural, kind, short_names)
                .with_status(Generation::AllButStatus)
                .in_categories(categories)
        }
    }

    fn cluster_wide(mut self) -> Self {
        self.namespaced = false;
        self
    }

    fn with_status(mut self, generation: Generation) -> Self {
        self.status = true;
        self.generation = generation;
        self
    }

    fn with_scale(mut self) -> Self {
        self.scale = true;
        self
    }

    fn in_categories(mut self, categories: &[&str]) -> Self {
        self.categories = owned(categories);
        self
    }

    fn with_columns(mut self, columns: Vec<Column>) -> Self {
        self.columns = columns;
        self
    }

    fn selected_by(mut self, fields: &[&str]) -> Self {
        self.selectable = owned(fields);
        self
    }

    fn named_as(mut self, naming: Naming) -> Self {
        self.naming = naming;
        self
    }
}

/// Everything that is served from the start, in the order discovery shows it.
pub fn built_in() -> Vec<Resource> {
    let ready = ["Ready", "string", ".status.conditions[?(@.type=='Ready')].status"];
    let reason = ["Reason", "string", ".status.conditions[?(@.type=='Ready')].reason"];
    let url = ["URL", "string", ".status.url"];
    let latest_created = ["LatestCreated", "string", ".status.latestCreatedRevisionName"];
    let latest_ready = ["LatestReady", "string", ".status.latestReadyRevisionName"];
    let serving = "serving.knative.dev";
    let autoscaling = "autoscaling.internal.knative.dev";
    let networking = "networking.internal.knative.dev";
    let all: &[&str] = &["all"];
    let event_fields: &[&str] = &[
        "involvedObject.kind",
        "involvedObject.namespace",
        "involvedObject.name",
        "involvedObject.uid",
        "involvedObject.apiVersion",
        "involvedObject.resourceVersion",
        "involvedObject.fieldPath",
        "reason",
        "reportingComponent",
        "source",
        "type",
    ];
    vec![
        Resource::new("", "v1", "namespaces", "Namespace", &["ns"])
            .cluster_wide()
            .with_status(Generation::Absent)
            .named_as(Naming::Label)
            .selected_by(&["status.phase"])
            .with_columns(columns::namespaces()),
        Resource::new("", "v1", "pods", "Pod", &["po"])
            .with_status(Generation::Spec)
            .in_categories(all)
            .selected_by(&[
                "spec.nodeName",
                "status.phase",
                "status.podIP",
                "spec.restartPolicy",
                "spec.serviceAccountName",
            ])
            .with_columns(columns::pods()),
        Resource::new("", "v1", "services", "Service", &["svc"])
            .with_status(Generation::Absent)
            .in_categories(all)
            .named_as(Naming::Service)
            .selected_by(&["spec.clusterIP", "spec.type"])
            .with_columns(columns::services()),
        Resource::new("", "v1", "endpoints", "Endpoints", &["ep"]).with_columns(columns::endpoints()),
        Resource::new("", "v1", "configmaps", "ConfigMap", &["cm"]).with_columns(columns::configmaps()),
        Resource::new("", "v1", "secrets", "Secret", &[]).selected_by(&["type"]).with_columns(columns::secrets()),
        Resource::new("", "v1", "serviceaccounts", "ServiceAccount", &["sa"]).with_columns(columns::service_accounts()),
        Resource::new("", "v1", "events", "Event", &["ev"]).selected_by(event_fields).with_columns(columns::events()),
        Resource::new("", "v1", "nodes", "Node", &["no"])
            .cluster_wide()
            .with_status(Generation::Absent)
            .selected_by(&["spec.unschedulable"])
            .with_columns(columns::nodes()),
        Resource::new("apps", "v1", "deployments", "Deployment", &["deploy"])
            .with_status(Generation::SpecAndAnnotations)
            .with_scale()
            .in_categories(all)
            .with_columns(columns::deployments()),
        Resource::new("apps", "v1", "replicasets", "ReplicaSet", &["rs"])
            .with_status(Generation::Spec)
            .with_scale()
            .in_categories(all)
            .with_columns(columns::replica_sets()),
        Resource::new("apps", "v1", "statefulsets", "StatefulSet", &["sts"])
            .with_status(Generation::Spec)
            .with_scale()
            .in_categories(all)
            .with_columns(columns::stateful_sets()),
        Resource::new("autoscaling", "v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler", &["hpa"])
            .with_status(Generation::Absent)
            .in_categories(all)
            .with_columns(columns::horizontal_pod_autoscalers()),
        Resource::new(
            "apiextensions.k8s.io",
            "v1",
            "customresourcedefinitions",
            "CustomResourceDefinition",
            &["crd", "crds"],
        )
        .cluster_wide()
        .with_status(Generation::Spec)
        .with_columns(columns::custom_resource_definitions()),
        Resource::new("coordination.k8s.io", "v1", "leases", "Lease", &[]).with_columns(columns::leases()),
        Resource::new("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice", &[])
            .with_columns(columns::endpoint_slices()),
        Resource::new("events.k8s.io", "v1", "events", "Event", &["ev"]).with_columns(columns::events()),
        Resource::new("networking.k8s.io", "v1", "ingresses", "Ingress", &["ing"])
            .with_status(Generation::Spec)
            .with_columns(columns::ingresses()),
        Resource::new("networking.k8s.io", "v1", "ingressclasses", "IngressClass", &[])
            .cluster_wide()
            .with_columns(columns::ingress_classes()),
        Resource::knative(
            serving,
            "v1",
            "services",
            "Service",
            &["kservice", "ksvc"],
            &[url, latest_created, latest_ready, ready, reason],
        ),
        Resource::knative(
            serving,
            "v1",
            "configurations",
            "Configuration",
            &["config", "cfg"],
            &[latest_created, latest_ready, ready, reason],
        ),
        Resource::knative(
            serving,
            "v1",
            "revisions",
            "Revision",
            &["rev"],
            &[
                ["Config Name", "string", ".metadata.labels['serving\\.knative\\.dev/configuration']"],
                ["Generation", "string", ".metadata.labels['serving\\.knative\\.dev/configurationGeneration']"],
                ready,
                reason,
                ["Actual Replicas", "integer", ".status.actualReplicas"],
                ["Desired Replicas", "integer", ".status.desiredReplicas"],
            ],
        ),
        Resource::knative(serving, "v1", "routes", "Route", &["rt"], &[url, ready, reason]),
        Resource::knative(
            autoscaling,
            "v1alpha1",
            "podautoscalers",
            "PodAutoscaler",
            &["kpa", "pa"],
            &[
                ["DesiredScale", "integer", ".status.desiredScale"],
                ["ActualScale", "integer", ".status.actualScale"],
                ready,
                reason,
            ],
        )
        .in_categories(&["knative-internal", "autoscaling"]),
        Resource::knative(autoscaling, "v1alpha1", "metrics", "Metric", &[], &[ready, reason])
            .in_categories(&["knative-internal", "autoscaling"]),
        Resource::knative(
            networking,
            "v1alpha1",
            "serverlessservices",
            "ServerlessService",
            &["sks"],
            &[
                ["Mode", "string", ".spec.mode"],
                ["Activators", "integer", ".spec.numActivators"],
                ["ServiceName", "string", ".status.serviceName"],
                ["PrivateServiceName", "string", ".status.privateServiceName"],
                ready,
                reason,
            ],
        )
        .in_categories(&["knative-internal", "networking"]),
        Resource::knative(networking, "v1alpha1", "ingresses", "Ingress", &["kingress", "king"], &[ready, reason])
            .in_categories(&["knative-internal", "networking"]),
    ]
}

/// The resource a CustomResourceDefinition describes, by its storage version.
pub(super) fn from_definition(definition: &Value) -> Option<Resource> {
    let spec = definition.get("spec")?;
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let texts = |value: Option<&Value>| -> Vec<String> {
        value.and_then(Value::as_array).into_iter().flatten().filter_map(text).collect()
    };
    let version = spec.get("versions")?.as_array()?.iter().find(|version| version["storage"] == true)?;
    let names = spec.get("names")?;
    let kind = text(names.get("kind")?)?;
    let group = text(spec.get("group")?)?;
    let subresources = version.get("subresources");
    let status = subresources.and_then(|subresources| subresources.get("status")).is_some();
    Some(Resource {
        singular: names.get("singular").and_then(text).unwrap_or_else(|| kind.to_lowercase()),
        plural: text(names.get("plural")?)?,
        version: text(version.get("name")?)?,
        short_names: texts(names.get("shortNames")),
        categories: texts(names.get("categories")),
        namespaced: spec["scope"] == "Namespaced",
        status,
        scale: false,
        generation: Generation::AllButStatus,
        custom: true,
        selectable: Vec::new(),
        naming: Naming::Subdomain,
        columns: columns::of_definition(version.get("additionalPrinterColumns")),
        shape: schema::of_kind(&group, &kind),
        group,
        kind,
    })
}

fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}
