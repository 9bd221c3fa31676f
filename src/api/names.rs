//! Labels, annotations, headers and names that Knative's components agree on.

/// Annotation: which autoscaler a revision belongs to.
pub const CLASS_ANNOTATION: &str = "autoscaling.knative.dev/class";
/// Annotation: what a revision is scaled on.
pub const METRIC_ANNOTATION: &str = "autoscaling.knative.dev/metric";
/// The class Ebb serves.
pub const KPA_CLASS: &str = "kpa.autoscaling.knative.dev";
/// The class that stands for a HorizontalPodAutoscaler.
pub const HPA_CLASS: &str = "hpa.autoscaling.knative.dev";
/// The class that Alibaba Cloud's Knative adds: scaled on the concurrency that its MSE gateway counts, to zero too.
pub const MPA_CLASS: &str = "mpa.autoscaling.knative.dev";

/// Label: the name of the revision.
pub const REVISION_LABEL: &str = "serving.knative.dev/revision";
/// Label: the uid of the revision; the pods of revisions are selected by its presence.
pub const REVISION_UID_LABEL: &str = "serving.knative.dev/revisionUID";
/// Label: the name of the configuration.
pub const CONFIGURATION_LABEL: &str = "serving.knative.dev/configuration";
/// Label: the generation of the configuration a revision was made from.
pub const CONFIGURATION_GENERATION_LABEL: &str = "serving.knative.dev/configurationGeneration";
/// Label: the uid of the configuration.
pub const CONFIGURATION_UID_LABEL: &str = "serving.knative.dev/configurationUID";
/// Label: the name of the Knative Service.
pub const SERVICE_LABEL: &str = "serving.knative.dev/service";
/// Label: the uid of the Knative Service.
pub const SERVICE_UID_LABEL: &str = "serving.knative.dev/serviceUID";
/// Label: the name of the route.
pub const ROUTE_LABEL: &str = "serving.knative.dev/route";
/// Label: the namespace of the route a KIngress was made for.
pub const ROUTE_NAMESPACE_LABEL: &str = "serving.knative.dev/routeNamespace";
/// Label on a revision: `pending`, `active` or `reserve`, by whether a route leads to it.
pub const ROUTING_STATE_LABEL: &str = "serving.knative.dev/routingState";
/// Annotation on a revision: when [`ROUTING_STATE_LABEL`] last changed; RFC 3339.
pub const ROUTING_STATE_MODIFIED_ANNOTATION: &str = "serving.knative.dev/routingStateModified";
/// Annotation on revisions and configurations: the routes that lead there, comma-separated.
pub const ROUTES_ANNOTATION: &str = "serving.knative.dev/routes";
/// Annotation: who made the object.
pub const CREATOR_ANNOTATION: &str = "serving.knative.dev/creator";
/// Annotation: who changed the spec last.
pub const MODIFIER_ANNOTATION: &str = "serving.knative.dev/lastModifier";
/// Label: `cluster-local` keeps a route from being reached from outside.
pub const VISIBILITY_LABEL: &str = "networking.knative.dev/visibility";
/// Annotation on a KIngress: how the traffic is being moved to the latest revisions, as JSON.
pub const ROLLOUT_ANNOTATION: &str = "networking.internal.knative.dev/rollout";
/// Annotation on a KIngress: the hosts of each tag, as JSON.
pub const TAG_TO_HOST_ANNOTATION: &str = "networking.internal.knative.dev/tag-to-host";
/// Label: the ServerlessService a Kubernetes Service was made for.
pub const SKS_LABEL: &str = "networking.internal.knative.dev/serverlessservice";
/// Label: `Public` or `Private`.
pub const SERVICE_TYPE_LABEL: &str = "networking.internal.knative.dev/serviceType";
/// Annotation on a KIngress: which controller programs it.
pub const INGRESS_CLASS_ANNOTATION: &str = "networking.knative.dev/ingress.class";
/// Annotation: how long an activation may take.
pub const PROGRESS_DEADLINE_ANNOTATION: &str = "serving.knative.dev/progress-deadline";

/// Header: the namespace of the revision a request is for.
pub const NAMESPACE_HEADER: &str = "knative-serving-namespace";
/// Header: the revision a request is for.
pub const REVISION_HEADER: &str = "knative-serving-revision";
/// Header: the tag a request asks for.
pub const TAG_HEADER: &str = "knative-serving-tag";
/// Header: set on a request that was routed by the default route.
pub const DEFAULT_ROUTE_HEADER: &str = "knative-serving-default-route";
/// Header: set by the activator on what it proxies; value `activator`.
pub const PROXIED_HEADER: &str = "k-proxy-request";
/// Header: a probe of the network path; the value names who should answer.
pub const NETWORK_PROBE_HEADER: &str = "k-network-probe";
/// Header: a kubelet probe that came by way of the queue-proxy.
pub const KUBELET_PROBE_HEADER: &str = "k-kubelet-probe";
/// Header: the host the client asked for, where it was rewritten.
pub const ORIGINAL_HOST_HEADER: &str = "k-original-host";

/// The user agent with which the autoscaler probes the activator.
pub const AUTOSCALER_PROBE_AGENT: &str = "Knative-Autoscaling-Probe";
/// The user agent with which the activator probes pods.
pub const ACTIVATOR_PROBE_AGENT: &str = "Knative-Activator-Probe";
/// The prefix of a kubelet's user agent.
pub const KUBE_PROBE_AGENT_PREFIX: &str = "kube-probe/";

/// The container a queue-proxy runs in.
pub const QUEUE_CONTAINER: &str = "queue-proxy";
/// The name of a single user container that has none.
pub const USER_CONTAINER: &str = "user-container";
/// Queue-proxy port for HTTP/1.1.
pub const QUEUE_HTTP1_PORT: u16 = 8012;
/// Queue-proxy port for cleartext HTTP/2.
pub const QUEUE_H2C_PORT: u16 = 8013;
/// Queue-proxy port for readiness and drain.
pub const QUEUE_ADMIN_PORT: u16 = 8022;
/// Queue-proxy port of the stat the autoscaler scrapes.
pub const QUEUE_STATS_PORT: u16 = 9090;
/// Queue-proxy port of the metrics of requests, for Prometheus.
pub const USER_METRICS_PORT: u16 = 9091;
/// The port of a private Service that leads to [`QUEUE_STATS_PORT`].
pub const STATS_PORT_NAME: &str = "http-autometric";

/// The namespace Knative itself runs in.
pub const SYSTEM_NAMESPACE: &str = "knative-serving";
/// The Service all autoscalers stand behind, in [`SYSTEM_NAMESPACE`]; activators report to it.
pub const AUTOSCALER_SERVICE: &str = "autoscaler";
/// The Service all activators stand behind, in [`SYSTEM_NAMESPACE`].
pub const ACTIVATOR_SERVICE: &str = "activator-service";
/// Kubernetes' label on an EndpointSlice: the Service it belongs to.
pub const SLICE_SERVICE_LABEL: &str = "kubernetes.io/service-name";
/// Kubernetes' annotation that keeps what `kubectl apply` last sent.
pub const LAST_APPLIED_ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";
