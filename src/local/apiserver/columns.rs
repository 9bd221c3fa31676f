//! What `kubectl get` prints of each kind, decided by the server as in every cluster.

use super::resource::Resource;
use super::view::{Include, metadata_only};
use crate::units::Timestamp;
use serde_json::{Map, Value, json};

/// One column of a table.
#[derive(Clone, Debug)]
pub(super) struct Column {
    name: String,
    kind: String,
    /// `name` for the column with the names, `date` for dates.
    format: String,
    description: String,
    /// Above 0 it is shown in wide tables only.
    priority: i64,
    cell: Cell,
}

/// Where a column's values come from.
#[derive(Clone, Debug)]
enum Cell {
    Path { text: String, path: JsonPath },
    Made(fn(&Value, Timestamp) -> Value),
}

/// A row for an object.
pub(super) fn row(resource: &Resource, object: Value, include: Include, now: Timestamp) -> Value {
    let cells: Vec<Value> = resource.columns.iter().map(|column| column.cell(&object, now)).collect();
    let object = match include {
        Include::Nothing => Value::Null,
        Include::Metadata => metadata_only(object),
        Include::Object => object,
    };
    json!({"cells": cells, "object": object})
}

/// A table of rows. `rows` is the last member of its text. In a watch only the first table tells its columns.
pub(super) fn table(resource: &Resource, version: &Value, rows: Vec<Value>, with_columns: bool) -> Value {
    let mut table = Map::new();
    table.insert("apiVersion".to_owned(), "meta.k8s.io/v1".into());
    let columns = resource.columns.iter().filter(|_| with_columns).map(Column::definition).collect();
    table.insert("columnDefinitions".to_owned(), Value::Array(columns));
    table.insert("kind".to_owned(), "Table".into());
    table.insert("metadata".to_owned(), json!({"resourceVersion": version}));
    table.insert("rows".to_owned(), Value::Array(rows));
    Value::Object(table)
}

impl Column {
    fn new(name: &str, kind: &str, cell: Cell) -> Self {
        Self {
            name: name.to_owned(),
            kind: kind.to_owned(),
            format: String::new(),
            description: String::new(),
            priority: 0,
            cell,
        }
    }

    fn made(name: &str, cell: fn(&Value, Timestamp) -> Value) -> Self {
        Self::new(name, "string", Cell::Made(cell))
    }

    fn at(name: &str, kind: &str, path: &str) -> Self {
        Self::new(name, kind, Cell::Path { text: path.to_owned(), path: JsonPath::parse(path).unwrap_or_default() })
    }

    fn wide(mut self) -> Self {
        self.priority = 1;
        self
    }

    fn definition(&self) -> Value {
        json!({
            "name": self.name,
            "type": self.kind,
            "format": self.format,
            "description": self.description,
            "priority": self.priority,
        })
    }

    fn cell(&self, object: &Value, now: Timestamp) -> Value {
        match &self.cell {
            Cell::Made(make) => make(object, now),
            Cell::Path { path, .. } => match path.first(object) {
                None => Value::Null,
                Some(value) if self.kind == "date" => age_of(value.as_str(), now).into(),
                Some(value) if self.kind == "string" && !value.is_string() => value.to_string().into(),
                Some(value) => value.clone(),
            },
        }
    }
}

fn name() -> Column {
    let mut column = Column::at("Name", "string", ".metadata.name");
    "name".clone_into(&mut column.format);
    "The name, unique in its namespace.".clone_into(&mut column.description);
    column
}

fn age() -> Column {
    Column::made("Age", |object, now| age_of(object["metadata"]["creationTimestamp"].as_str(), now).into())
}

/// The columns of a kind about which nothing else is known.
pub(super) fn name_and_age() -> Vec<Column> {
    vec![name(), age()]
}

/// Columns by name, type and path, behind the name.
pub(super) fn custom(columns: &[[&str; 3]]) -> Vec<Column> {
    let mut all = vec![name()];
    all.extend(columns.iter().map(|[name, kind, path]| Column::at(name, kind, path)));
    all
}

/// The columns as a CustomResourceDefinition asks for them; the name is shown without asking.
pub(super) fn to_definition(columns: &[Column]) -> Vec<Value> {
    let asked = columns.iter().filter_map(|column| match &column.cell {
        Cell::Path { text, .. } if column.format != "name" => {
            Some(json!({"name": column.name, "type": column.kind, "jsonPath": text, "priority": column.priority}))
        }
        Cell::Path { .. } | Cell::Made(_) => None,
    });
    asked.collect()
}

/// The columns a CustomResourceDefinition asks for.
pub(super) fn of_definition(columns: Option<&Value>) -> Vec<Column> {
    let columns = columns.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    if columns.is_empty() {
        return name_and_age();
    }
    let mut all = vec![name()];
    all.extend(columns.iter().map(|column| {
        let text = |key: &str| column[key].as_str().unwrap_or_default();
        Column {
            format: text("format").to_owned(),
            description: text("description").to_owned(),
            priority: column["priority"].as_i64().unwrap_or_default(),
            ..Column::at(text("name"), text("type"), text("jsonPath"))
        }
    }));
    all
}

pub(super) fn namespaces() -> Vec<Column> {
    vec![name(), Column::at("Status", "string", ".status.phase"), age()]
}

pub(super) fn pods() -> Vec<Column> {
    vec![
        name(),
        Column::made("Ready", |pod, _| {
            let total = pod["spec"]["containers"].as_array().map_or(0, Vec::len);
            let ready = each(&pod["status"]["containerStatuses"]).filter(|status| status["ready"] == true).count();
            format!("{ready}/{total}").into()
        }),
        Column::made("Status", |pod, _| pod_status(pod).into()),
        Column::made("Restarts", |pod, now| {
            let statuses = || each(&pod["status"]["containerStatuses"]);
            let restarts: i64 = statuses().filter_map(|status| status["restartCount"].as_i64()).sum();
            let last = statuses().filter_map(|status| status["lastState"]["terminated"]["finishedAt"].as_str()).max();
            match last {
                Some(last) if 0 < restarts => format!("{restarts} ({} ago)", age_of(Some(last), now)).into(),
                _ => restarts.to_string().into(),
            }
        }),
        age(),
        Column::made("IP", |pod, _| text_or_none(&pod["status"]["podIP"])).wide(),
        Column::made("Node", |pod, _| text_or_none(&pod["spec"]["nodeName"])).wide(),
        Column::made("Nominated Node", |pod, _| text_or_none(&pod["status"]["nominatedNodeName"])).wide(),
        Column::made("Readiness Gates", |pod, _| {
            let gates = pod["spec"]["readinessGates"].as_array().map_or(0, Vec::len);
            if gates == 0 { "<none>".into() } else { gates.to_string().into() }
        })
        .wide(),
    ]
}

pub(super) fn services() -> Vec<Column> {
    vec![
        name(),
        Column::at("Type", "string", ".spec.type"),
        Column::made("Cluster-IP", |service, _| text_or_none(&service["spec"]["clusterIP"])),
        Column::made("External-IP", |service, _| {
            let spec = &service["spec"];
            let given: Vec<String> = super::write::list_of_texts(&spec["externalIPs"]);
            let balanced = each(&service["status"]["loadBalancer"]["ingress"])
                .filter_map(|ingress| ingress["ip"].as_str().or_else(|| ingress["hostname"].as_str()));
            let addresses: Vec<String> = balanced.map(str::to_owned).chain(given).collect();
            match spec["type"].as_str() {
                Some("ExternalName") => spec["externalName"].clone(),
                _ if !addresses.is_empty() => addresses.join(",").into(),
                Some("LoadBalancer") => "<pending>".into(),
                _ => "<none>".into(),
            }
        }),
        Column::made("Port(s)", |service, _| {
            let ports: Vec<String> = each(&service["spec"]["ports"])
                .map(|port| {
                    let protocol = port["protocol"].as_str().unwrap_or("TCP");
                    match port["nodePort"].as_i64() {
                        Some(node) => format!("{}:{node}/{protocol}", port["port"]),
                        None => format!("{}/{protocol}", port["port"]),
                    }
                })
                .collect();
            or_none(ports.join(","))
        }),
        age(),
        Column::made("Selector", |service, _| labels_text(&service["spec"]["selector"])).wide(),
    ]
}

pub(super) fn endpoints() -> Vec<Column> {
    vec![
        name(),
        Column::made("Endpoints", |endpoints, _| {
            let mut all = Vec::new();
            for subset in each(&endpoints["subsets"]) {
                for address in each(&subset["addresses"]) {
                    let ip = address["ip"].as_str().unwrap_or_default();
                    all.extend(each(&subset["ports"]).map(|port| format!("{ip}:{}", port["port"])));
                }
            }
            or_none(shortened(&all, 3))
        }),
        age(),
    ]
}

pub(super) fn configmaps() -> Vec<Column> {
    vec![
        name(),
        Column::made("Data", |map, _| {
            let count = |key: &str| map[key].as_object().map_or(0, Map::len);
            (count("data") + count("binaryData")).into()
        }),
        age(),
    ]
}

pub(super) fn secrets() -> Vec<Column> {
    vec![
        name(),
        Column::at("Type", "string", ".type"),
        Column::made("Data", |secret, _| secret["data"].as_object().map_or(0, Map::len).into()),
        age(),
    ]
}

pub(super) fn service_accounts() -> Vec<Column> {
    vec![name(), Column::made("Secrets", |account, _| account["secrets"].as_array().map_or(0, Vec::len).into()), age()]
}

pub(super) fn events() -> Vec<Column> {
    fn first<'a>(event: &'a Value, keys: &[&str]) -> &'a Value {
        keys.iter().map(|key| &event[*key]).find(|value| !value.is_null()).unwrap_or(&Value::Null)
    }
    fn object(event: &Value) -> &Value {
        first(event, &["involvedObject", "regarding"])
    }
    vec![
        Column::made("Last Seen", |event, now| {
            let seen = first(event, &["lastTimestamp", "deprecatedLastTimestamp", "eventTime", "firstTimestamp"]);
            let series = &event["series"]["lastObservedTime"];
            age_of(series.as_str().or(seen.as_str()), now).into()
        }),
        Column::at("Type", "string", ".type"),
        Column::at("Reason", "string", ".reason"),
        Column::made("Object", |event, _| {
            let object = object(event);
            let kind = object["kind"].as_str().unwrap_or_default().to_lowercase();
            format!("{kind}/{}", object["name"].as_str().unwrap_or_default()).into()
        }),
        Column::made("Subobject", |event, _| object(event)["fieldPath"].clone()).wide(),
        Column::made("Source", |event, _| {
            let source = &first(event, &["source", "deprecatedSource"])["component"];
            let source =
                if source.is_null() { first(event, &["reportingComponent", "reportingController"]) } else { source };
            source.clone()
        })
        .wide(),
        Column::made("Message", |event, _| {
            first(event, &["message", "note"]).as_str().unwrap_or_default().trim().into()
        }),
        Column::made("First Seen", |event, now| {
            let seen = first(event, &["firstTimestamp", "deprecatedFirstTimestamp", "eventTime"]);
            age_of(seen.as_str(), now).into()
        })
        .wide(),
        Column::made("Count", |event, _| {
            let count = first(event, &["count", "deprecatedCount"]).as_i64();
            event["series"]["count"].as_i64().or(count).unwrap_or(1).into()
        })
        .wide(),
        {
            let mut column = name();
            column.priority = 1;
            column
        },
    ]
}

pub(super) fn nodes() -> Vec<Column> {
    fn address(node: &Value, kind: &str) -> Value {
        let found = each(&node["status"]["addresses"]).find(|address| address["type"] == kind);
        text_or_none(found.map_or(&Value::Null, |address| &address["address"]))
    }
    vec![
        name(),
        Column::made("Status", |node, _| {
            let ready = each(&node["status"]["conditions"]).find(|condition| condition["type"] == "Ready");
            let mut words = vec![match ready.and_then(|ready| ready["status"].as_str()) {
                Some("True") => "Ready",
                Some(_) => "NotReady",
                None => "Unknown",
            }];
            if node["spec"]["unschedulable"] == true {
                words.push("SchedulingDisabled");
            }
            words.join(",").into()
        }),
        Column::made("Roles", |node, _| {
            let labels = node["metadata"]["labels"].as_object().into_iter().flatten();
            let roles: Vec<&str> = labels.filter_map(|(key, _)| key.strip_prefix("node-role.kubernetes.io/")).collect();
            or_none(roles.join(","))
        }),
        age(),
        Column::at("Version", "string", ".status.nodeInfo.kubeletVersion"),
        Column::made("Internal-IP", |node, _| address(node, "InternalIP")).wide(),
        Column::made("External-IP", |node, _| address(node, "ExternalIP")).wide(),
        Column::made("OS-Image", |node, _| text_or_unknown(&node["status"]["nodeInfo"]["osImage"])).wide(),
        Column::made("Kernel-Version", |node, _| text_or_unknown(&node["status"]["nodeInfo"]["kernelVersion"])).wide(),
        Column::made("Container-Runtime", |node, _| {
            text_or_unknown(&node["status"]["nodeInfo"]["containerRuntimeVersion"])
        })
        .wide(),
    ]
}

pub(super) fn deployments() -> Vec<Column> {
    let mut columns = vec![
        name(),
        Column::made("Ready", |workload, _| ready_of(workload).into()),
        Column::made("Up-to-date", |workload, _| number(&workload["status"]["updatedReplicas"])),
        Column::made("Available", |workload, _| number(&workload["status"]["availableReplicas"])),
        age(),
    ];
    columns.extend(template_columns());
    columns.push(Column::made("Selector", |workload, _| selector_text(&workload["spec"]["selector"])).wide());
    columns
}

pub(super) fn replica_sets() -> Vec<Column> {
    let mut columns = vec![
        name(),
        Column::made("Desired", |set, _| number(&set["spec"]["replicas"])),
        Column::made("Current", |set, _| number(&set["status"]["replicas"])),
        Column::made("Ready", |set, _| number(&set["status"]["readyReplicas"])),
        age(),
    ];
    columns.extend(template_columns());
    columns.push(Column::made("Selector", |set, _| selector_text(&set["spec"]["selector"])).wide());
    columns
}

pub(super) fn stateful_sets() -> Vec<Column> {
    let mut columns = vec![name(), Column::made("Ready", |workload, _| ready_of(workload).into()), age()];
    columns.extend(template_columns());
    columns
}

pub(super) fn horizontal_pod_autoscalers() -> Vec<Column> {
    vec![
        name(),
        Column::made("Reference", |hpa, _| {
            let target = &hpa["spec"]["scaleTargetRef"];
            format!("{}/{}", target["kind"].as_str().unwrap_or_default(), target["name"].as_str().unwrap_or_default())
                .into()
        }),
        Column::made("Targets", |hpa, _| {
            let metrics: Vec<String> = each(&hpa["spec"]["metrics"])
                .map(|metric| {
                    let name = metric["resource"]["name"].as_str().unwrap_or("metric");
                    let target = &metric["resource"]["target"];
                    match target["averageUtilization"].as_i64() {
                        Some(percent) => format!("{name}: <unknown>/{percent}%"),
                        None => format!("{name}: <unknown>/{}", target["averageValue"].as_str().unwrap_or("<unknown>")),
                    }
                })
                .collect();
            or_none(shortened(&metrics, 2))
        }),
        Column::made("MinPods", |hpa, _| number(&hpa["spec"]["minReplicas"])),
        Column::made("MaxPods", |hpa, _| number(&hpa["spec"]["maxReplicas"])),
        Column::made("Replicas", |hpa, _| number(&hpa["status"]["currentReplicas"])),
        age(),
    ]
}

pub(super) fn custom_resource_definitions() -> Vec<Column> {
    vec![name(), Column::at("Created At", "string", ".metadata.creationTimestamp")]
}

pub(super) fn leases() -> Vec<Column> {
    vec![name(), Column::at("Holder", "string", ".spec.holderIdentity"), age()]
}

pub(super) fn endpoint_slices() -> Vec<Column> {
    vec![
        name(),
        Column::at("AddressType", "string", ".addressType"),
        Column::made("Ports", |slice, _| {
            let ports: Vec<String> = each(&slice["ports"]).map(|port| port["port"].to_string()).collect();
            if ports.is_empty() { "<unset>".into() } else { shortened(&ports, 3).into() }
        }),
        Column::made("Endpoints", |slice, _| {
            let addresses: Vec<String> = each(&slice["endpoints"])
                .flat_map(|endpoint| super::write::list_of_texts(&endpoint["addresses"]))
                .collect();
            if addresses.is_empty() { "<unset>".into() } else { shortened(&addresses, 3).into() }
        }),
        age(),
    ]
}

pub(super) fn ingresses() -> Vec<Column> {
    vec![
        name(),
        Column::made("Class", |ingress, _| {
            let class = &ingress["spec"]["ingressClassName"];
            let annotation = &ingress["metadata"]["annotations"]["kubernetes.io/ingress.class"];
            text_or_none(if class.is_null() { annotation } else { class })
        }),
        Column::made("Hosts", |ingress, _| {
            let hosts: Vec<String> = each(&ingress["spec"]["rules"])
                .filter_map(|rule| rule["host"].as_str().filter(|host| !host.is_empty()).map(str::to_owned))
                .collect();
            if hosts.is_empty() { "*".into() } else { shortened(&hosts, 3).into() }
        }),
        Column::made("Address", |ingress, _| {
            let addresses: Vec<&str> = each(&ingress["status"]["loadBalancer"]["ingress"])
                .filter_map(|address| address["ip"].as_str().or_else(|| address["hostname"].as_str()))
                .collect();
            addresses.join(",").into()
        }),
        Column::made("Ports", |ingress, _| {
            if ingress["spec"]["tls"].as_array().is_some_and(|tls| !tls.is_empty()) { "80, 443" } else { "80" }.into()
        }),
        age(),
    ]
}

pub(super) fn ingress_classes() -> Vec<Column> {
    vec![
        name(),
        Column::at("Controller", "string", ".spec.controller"),
        Column::made("Parameters", |class, _| {
            let parameters = &class["spec"]["parameters"];
            let text = |key: &str| parameters[key].as_str().unwrap_or_default();
            match (parameters.is_object(), text("apiGroup")) {
                (false, _) => "<none>".into(),
                (true, "") => format!("{}/{}", text("kind"), text("name")).into(),
                (true, group) => format!("{}.{group}/{}", text("kind"), text("name")).into(),
            }
        }),
        age(),
    ]
}

fn template_columns() -> [Column; 2] {
    fn list(workload: &Value, key: &str) -> Value {
        let containers = each(&workload["spec"]["template"]["spec"]["containers"]);
        let texts: Vec<&str> = containers.filter_map(|container| container[key].as_str()).collect();
        texts.join(",").into()
    }
    [
        Column::made("Containers", |workload, _| list(workload, "name")).wide(),
        Column::made("Images", |workload, _| list(workload, "image")).wide(),
    ]
}

/// What users call the state of a pod: the phase, or what is in its way.
fn pod_status(pod: &Value) -> String {
    let status = &pod["status"];
    let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    let mut word = text(&status["reason"]).or_else(|| text(&status["phase"])).unwrap_or_else(|| "Unknown".to_owned());
    let mut running = false;
    for container in each(&status["containerStatuses"]) {
        let state = &container["state"];
        if let Some(reason) = text(&state["waiting"]["reason"]).or_else(|| text(&state["terminated"]["reason"])) {
            word = reason;
        } else if state["terminated"].is_object() {
            let terminated = &state["terminated"];
            word = match terminated["signal"].as_i64() {
                Some(signal) if signal != 0 => format!("Signal:{signal}"),
                _ => format!("ExitCode:{}", terminated["exitCode"].as_i64().unwrap_or_default()),
            };
        } else if container["ready"] == true && state["running"].is_object() {
            running = true;
        }
    }
    if word == "Completed" && running {
        "Running".clone_into(&mut word);
    }
    if pod["metadata"].get("deletionTimestamp").is_some() {
        "Terminating".clone_into(&mut word);
    }
    word
}

fn ready_of(workload: &Value) -> String {
    let number = |value: &Value| value.as_i64().unwrap_or_default();
    format!("{}/{}", number(&workload["status"]["readyReplicas"]), number(&workload["spec"]["replicas"]))
}

fn selector_text(selector: &Value) -> Value {
    let text = super::scale::selector_text(selector);
    or_none(text)
}

fn labels_text(labels: &Value) -> Value {
    let labels = labels.as_object().into_iter().flatten();
    let terms: Vec<String> =
        labels.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect();
    or_none(terms.join(","))
}

fn number(value: &Value) -> Value {
    value.as_i64().unwrap_or_default().into()
}

fn text_or_none(value: &Value) -> Value {
    or_none(value.as_str().unwrap_or_default().to_owned())
}

fn text_or_unknown(value: &Value) -> Value {
    if value.is_string() { value.clone() } else { "<unknown>".into() }
}

fn or_none(text: String) -> Value {
    if text.is_empty() { "<none>".into() } else { text.into() }
}

/// The first few, and how many more there are.
fn shortened(texts: &[String], most: usize) -> String {
    if texts.len() <= most {
        return texts.join(",");
    }
    format!("{} + {} more...", texts[..most].join(","), texts.len() - most)
}

fn each(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// How long ago something was, as kubectl says it.
fn age_of(since: Option<&str>, now: Timestamp) -> String {
    match since.and_then(|since| since.parse::<jiff::Timestamp>().ok()) {
        Some(since) => human(now.second() - since.as_second()),
        None => "<unknown>".to_owned(),
    }
}

fn human(seconds: i64) -> String {
    const MINUTE: i64 = 60;
    const HOUR: i64 = 60 * MINUTE;
    const DAY: i64 = 24 * HOUR;
    const YEAR: i64 = 365 * DAY;
    let with = |big: i64, unit: &str, small: i64, small_unit: &str| {
        if small == 0 { format!("{big}{unit}") } else { format!("{big}{unit}{small}{small_unit}") }
    };
    match seconds {
        ..-1 => "<invalid>".to_owned(),
        -1..0 => "0s".to_owned(),
        0..120 => format!("{seconds}s"),
        120..600 => with(seconds / MINUTE, "m", seconds % MINUTE, "s"),
        600..10_800 => format!("{}m", seconds / MINUTE),
        10_800..28_800 => with(seconds / HOUR, "h", seconds % HOUR / MINUTE, "m"),
        28_800..172_800 => format!("{}h", seconds / HOUR),
        172_800..691_200 => with(seconds / DAY, "d", seconds % DAY / HOUR, "h"),
        _ if seconds < 2 * YEAR => format!("{}d", seconds / DAY),
        _ if seconds < 8 * YEAR => with(seconds / YEAR, "y", seconds % YEAR / DAY, "d"),
        _ => format!("{}y", seconds / YEAR),
    }
}

/// As much of JSONPath as printer columns use: fields, quoted fields, indices, and items by the value of a field.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct JsonPath(Vec<Step>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Field(String),
    Index(usize),
    All,
    /// `[?(@.FIELD=='VALUE')]`
    Where(String, String),
}

impl JsonPath {
    fn parse(text: &str) -> Option<Self> {
        let mut steps = Vec::new();
        let mut rest = text.trim().trim_start_matches('{').trim_end_matches('}').trim_start_matches('$');
        while !rest.is_empty() {
            if let Some(filter) = rest.strip_prefix("[?(@.") {
                let (condition, after) = filter.split_once(")]")?;
                let (field, value) = condition.split_once("==")?;
                steps.push(Step::Where(field.trim().to_owned(), value.trim().trim_matches(['\'', '"']).to_owned()));
                rest = after;
            } else if let Some(quoted) = rest.strip_prefix("['") {
                let (field, after) = quoted.split_once("']")?;
                steps.push(Step::Field(field.replace("\\.", ".")));
                rest = after;
            } else if let Some(index) = rest.strip_prefix('[') {
                let (index, after) = index.split_once(']')?;
                steps.push(if index == "*" { Step::All } else { Step::Index(index.parse().ok()?) });
                rest = after;
            } else if let Some(field) = rest.strip_prefix('.') {
                let (field, after) = plain_field(field);
                if !field.is_empty() {
                    steps.push(Step::Field(field));
                }
                rest = after;
            } else {
                return None;
            }
        }
        Some(Self(steps))
    }

    fn first<'a>(&self, value: &'a Value) -> Option<&'a Value> {
        fn walk<'a>(value: &'a Value, steps: &[Step]) -> Option<&'a Value> {
            let Some((step, rest)) = steps.split_first() else { return Some(value) };
            match step {
                Step::Field(name) => walk(value.get(name)?, rest),
                Step::Index(index) => walk(value.get(index)?, rest),
                Step::All => each(value).find_map(|item| walk(item, rest)),
                Step::Where(field, wanted) => {
                    each(value).filter(|item| item[field] == wanted.as_str()).find_map(|item| walk(item, rest))
                }
            }
        }
        walk(value, &self.0).filter(|value| !value.is_null())
    }
}

/// A field up to the next step; `\.` is part of it.
fn plain_field(text: &str) -> (String, &str) {
    let mut field = String::new();
    let mut letters = text.char_indices();
    while let Some((index, letter)) = letters.next() {
        match letter {
            '\\' => field.extend(letters.next().map(|(_, letter)| letter)),
            '.' | '[' => return (field, &text[index..]),
            _ => field.push(letter),
        }
    }
    (field, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_read_as_kubectl_prints_them() {
        for (seconds, text) in [
            (-5, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (150, "2m30s"),
            (600, "10m"),
            (10_799, "179m"),
            (10_800, "3h"),
            (12_660, "3h31m"),
            (28_800, "8h"),
            (172_800, "2d"),
            (176_400, "2d1h"),
            (691_200, "8d"),
            (63_072_000, "2y"),
            (63_158_400, "2y1d"),
            (252_288_000, "8y"),
        ] {
            assert_eq!(human(seconds), text, "{seconds}");
        }
    }

    #[test]
    fn paths() {
        let object = json!({
            "metadata": {"labels": {"serving.knative.dev/configuration": "web"}},
            "status": {"conditions": [{"type": "A", "status": "False"}, {"type": "Ready", "status": "True"}], "n": 3},
        });
        for (path, value) in [
            (".status.conditions[?(@.type=='Ready')].status", json!("True")),
            (".metadata.labels['serving\\.knative\\.dev/configuration']", json!("web")),
            (".metadata.labels.serving\\.knative\\.dev/configuration", json!("web")),
            ("{.status.n}", json!(3)),
            (".status.conditions[0].type", json!("A")),
            (".status.conditions[*].type", json!("A")),
            (".status.none", Value::Null),
        ] {
            let found = JsonPath::parse(path).expect(path);
            assert_eq!(found.first(&object).cloned().unwrap_or_default(), value, "{path}");
        }
    }
}
