//! Which lists are maps in truth, and by what key; which structures change as one.
//!
//! Kubernetes writes this into its OpenAPI documents (`x-kubernetes-list-map-keys` and relatives). Strategic merge
//! patch and server-side apply need it for the kinds held here; everything not listed is what it is for a custom
//! resource without a schema: maps are merged by key, lists are replaced whole.

/// How a part of an object merges.
#[derive(Debug)]
pub(super) enum Shape {
    /// A value, a map that merges by key, or a list that is replaced whole.
    Plain,
    /// Changes as one, though it is a map.
    Atomic,
    /// A map with fields of known shape; the others are `Plain`.
    Map(&'static [(&'static str, &'static Shape)]),
    /// A list whose items are told apart by these fields; strategic merge patch uses the first alone.
    List(&'static [ListKey], &'static Shape),
    /// A list of distinct values.
    Set,
}

/// A field that tells list items apart.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ListKey {
    pub(super) name: &'static str,
    /// What an absent field counts as.
    pub(super) default: Option<&'static str>,
}

/// The shape of a field.
pub(super) fn child(shape: &'static Shape, field: &str) -> &'static Shape {
    match shape {
        Shape::Map(fields) => fields.iter().find(|(name, _)| *name == field).map_or(&Shape::Plain, |(_, shape)| shape),
        _ => &Shape::Plain,
    }
}

/// The shape of objects of a kind.
pub(super) fn of_kind(group: &str, kind: &str) -> &'static Shape {
    match (group, kind) {
        ("", "Pod") => &POD,
        ("", "Service") => &SERVICE,
        ("", "ServiceAccount") => &SERVICE_ACCOUNT,
        ("", "Node") => &NODE,
        ("apps", _) => &WORKLOAD,
        ("", "Namespace") | ("autoscaling" | "apiextensions.k8s.io", _) => &WITH_CONDITIONS,
        _ => &OBJECT,
    }
}

const fn key(name: &'static str) -> ListKey {
    ListKey { name, default: None }
}

const PROTOCOL: ListKey = ListKey { name: "protocol", default: Some("TCP") };

static METADATA: Shape =
    Shape::Map(&[("ownerReferences", &Shape::List(&[key("uid")], &Shape::Plain)), ("finalizers", &Shape::Set)]);
static OBJECT: Shape = Shape::Map(&[("metadata", &METADATA)]);

static CONDITIONS: Shape = Shape::List(&[key("type")], &Shape::Plain);
static CONDITION_STATUS: Shape = Shape::Map(&[("conditions", &CONDITIONS)]);
static WITH_CONDITIONS: Shape = Shape::Map(&[("metadata", &METADATA), ("status", &CONDITION_STATUS)]);

static NAMED: Shape = Shape::List(&[key("name")], &Shape::Plain);
static VALUE_FROM: Shape = Shape::Map(&[
    ("fieldRef", &Shape::Atomic),
    ("resourceFieldRef", &Shape::Atomic),
    ("configMapKeyRef", &Shape::Atomic),
    ("secretKeyRef", &Shape::Atomic),
]);
static ENV: Shape = Shape::List(&[key("name")], &Shape::Map(&[("valueFrom", &VALUE_FROM)]));
static CONTAINERS: Shape = Shape::List(
    &[key("name")],
    &Shape::Map(&[
        ("env", &ENV),
        ("ports", &Shape::List(&[key("containerPort"), PROTOCOL], &Shape::Plain)),
        ("volumeMounts", &Shape::List(&[key("mountPath")], &Shape::Plain)),
        ("volumeDevices", &Shape::List(&[key("devicePath")], &Shape::Plain)),
        ("resources", &Shape::Map(&[("claims", &NAMED)])),
    ]),
);
static POD_SPEC: Shape = Shape::Map(&[
    ("containers", &CONTAINERS),
    ("initContainers", &CONTAINERS),
    ("ephemeralContainers", &CONTAINERS),
    ("volumes", &NAMED),
    ("imagePullSecrets", &NAMED),
    ("resourceClaims", &NAMED),
    ("schedulingGates", &NAMED),
    ("hostAliases", &Shape::List(&[key("ip")], &Shape::Plain)),
    ("topologySpreadConstraints", &Shape::List(&[key("topologyKey"), key("whenUnsatisfiable")], &Shape::Plain)),
    ("nodeSelector", &Shape::Atomic),
]);
static ADDRESSES: Shape = Shape::List(&[key("ip")], &Shape::Plain);
static POD: Shape = Shape::Map(&[
    ("metadata", &METADATA),
    ("spec", &POD_SPEC),
    ("status", &Shape::Map(&[("conditions", &CONDITIONS), ("podIPs", &ADDRESSES), ("hostIPs", &Shape::Plain)])),
]);

static WORKLOAD: Shape = Shape::Map(&[
    ("metadata", &METADATA),
    ("spec", &Shape::Map(&[("selector", &Shape::Atomic), ("template", &Shape::Map(&[("spec", &POD_SPEC)]))])),
    ("status", &CONDITION_STATUS),
]);

static SERVICE: Shape = Shape::Map(&[
    ("metadata", &METADATA),
    (
        "spec",
        &Shape::Map(&[("ports", &Shape::List(&[key("port"), PROTOCOL], &Shape::Plain)), ("selector", &Shape::Atomic)]),
    ),
    ("status", &CONDITION_STATUS),
]);

static SERVICE_ACCOUNT: Shape =
    Shape::Map(&[("metadata", &METADATA), ("secrets", &NAMED), ("imagePullSecrets", &Shape::Plain)]);

static NODE: Shape = Shape::Map(&[
    ("metadata", &METADATA),
    ("status", &Shape::Map(&[("conditions", &CONDITIONS), ("addresses", &Shape::List(&[key("type")], &Shape::Plain))])),
]);
