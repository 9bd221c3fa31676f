//! Who owns which field: `metadata.managedFields`, kept up to date by every write.
//!
//! A set of fields is a tree in the wire's own names: `f:NAME` for a field, `k:{…}` for the item of a list with these
//! keys, `v:…` for a value of a set. Ownership is kept per leaf, and per item of such lists.
//!
//! A write other than an apply owns what it adds or changes, and takes it from whoever had it. What an apply owns is
//! what its configuration states; see [`super::apply`].

use super::resource::Resource;
use super::schema::{self, Shape};
use super::write::{Part, rfc3339};
use crate::units::Timestamp;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Owners by update that are told apart; older ones are counted together.
const MOST_UPDATERS: usize = 10;
/// The name under which older ones are counted together.
const ANCIENT: &str = "ancient-changes";

/// Part of a set of fields: one field, and the set below it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Node {
    /// Whether the field itself is in the set.
    pub(super) owned: bool,
    pub(super) children: BTreeMap<String, Node>,
}

/// What one manager owns through one way of writing.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Owner {
    pub(super) manager: String,
    pub(super) applies: bool,
    pub(super) api_version: String,
    pub(super) subresource: String,
    pub(super) time: String,
    pub(super) fields: Node,
}

/// What differs between two versions of an object.
#[derive(Clone, Debug, Default)]
pub(super) struct Difference {
    /// Added or changed.
    pub(super) changed: Node,
    pub(super) removed: Node,
}

/// Notes in `new` who owns what, after `manager` made it from `old` by anything but an apply.
pub(super) fn after_update(
    resource: &Resource,
    old: Option<&Value>,
    new: &mut Value,
    manager: &str,
    part: Part,
    now: Timestamp,
) {
    let mut difference = difference(resource, old.unwrap_or(&Value::Null), new);
    if part == Part::Whole && resource.status {
        // What a new object's status starts with is the API's own.
        difference.changed.children.remove("f:status");
    }
    let mut owners = owners(new);
    let nothing_new = difference.changed.is_empty() && difference.removed.is_empty();
    if !nothing_new {
        let subresource = part.subresource().unwrap_or_default();
        let is_own = |owner: &Owner| {
            !owner.applies
                && owner.manager == manager
                && owner.subresource == subresource
                && owner.api_version == resource.api_version()
        };
        for owner in &mut owners {
            owner.fields.subtract(&difference.removed);
            if !is_own(owner) {
                owner.fields.subtract(&difference.changed);
            }
        }
        let index = owners.iter().position(is_own).unwrap_or_else(|| {
            owners.push(Owner {
                manager: manager.to_owned(),
                applies: false,
                api_version: resource.api_version(),
                subresource: subresource.to_owned(),
                time: String::new(),
                fields: Node::default(),
            });
            owners.len() - 1
        });
        owners[index].fields.add(&difference.changed);
        owners[index].time = rfc3339(now);
    }
    set_owners(new, owners);
}

/// What differs between two versions, but for what is not anybody's to own.
pub(super) fn difference(resource: &Resource, old: &Value, new: &Value) -> Difference {
    let mut difference = Difference::default();
    let (old, new) = (old.as_object(), new.as_object());
    let empty = Map::new();
    let (old, new) = (old.unwrap_or(&empty), new.unwrap_or(&empty));
    for key in old.keys().chain(new.keys()).collect::<BTreeSet<_>>() {
        if key == "apiVersion" || key == "kind" {
            continue;
        }
        let shape = schema::child(resource.shape, key);
        let (old, new) = (old.get(key), new.get(key));
        let part = if key == "metadata" {
            compare(Some(&own_metadata(old)), Some(&own_metadata(new)), shape, false)
        } else {
            compare(old, new, shape, false)
        };
        difference.changed.attach(field(key), part.changed);
        difference.removed.attach(field(key), part.removed);
    }
    difference
}

/// The fields an object states, but for what is not anybody's to own.
pub(super) fn stated(resource: &Resource, object: &Value) -> Node {
    difference(resource, &Value::Null, object).changed
}

/// Whether a write changes nothing, not even who owns what.
pub(super) fn same(old: &Value, new: &Value) -> bool {
    let (Some(old), Some(new)) = (old.as_object(), new.as_object()) else { return old == new };
    let keys = |key: &str| key != "metadata";
    let members = |object: &'_ Map<String, Value>| object.len();
    if members(old) != members(new) || old.iter().any(|(key, value)| keys(key) && new.get(key) != Some(value)) {
        return false;
    }
    let (Some(old), Some(new)) = (old["metadata"].as_object(), new["metadata"].as_object()) else { return false };
    let but_owners =
        |metadata: &Map<String, Value>| metadata.len() - usize::from(metadata.contains_key("managedFields"));
    but_owners(old) == but_owners(new)
        && old.iter().all(|(key, value)| key == "managedFields" || new.get(key) == Some(value))
        && same_owners(old.get("managedFields"), new.get("managedFields"))
}

/// The owners noted in an object. Notes that cannot be read are forgotten, which gives their fields to nobody.
pub(super) fn owners(object: &Value) -> Vec<Owner> {
    let noted = object["metadata"]["managedFields"].as_array();
    noted
        .into_iter()
        .flatten()
        .filter(|owner| owner["fieldsV1"].is_object())
        .map(|owner| {
            let text = |key: &str| owner[key].as_str().unwrap_or_default().to_owned();
            Owner {
                manager: text("manager"),
                applies: owner["operation"] == "Apply",
                api_version: text("apiVersion"),
                subresource: text("subresource"),
                time: text("time"),
                fields: Node::parse(&owner["fieldsV1"]),
            }
        })
        .collect()
}

/// Notes the owners in an object; those who own nothing are left out.
pub(super) fn set_owners(object: &mut Value, mut owners: Vec<Owner>) {
    owners.retain(|owner| !owner.fields.is_empty());
    owners.sort_by(|a, b| {
        let order =
            |owner: &Owner| (!owner.applies, owner.time.clone(), owner.manager.clone(), owner.subresource.clone());
        order(a).cmp(&order(b))
    });
    while MOST_UPDATERS < owners.iter().filter(|owner| !owner.applies).count() {
        let oldest = owners.iter().position(|owner| !owner.applies).expect("just counted");
        let mut gone = owners.remove(oldest);
        let next = owners.iter_mut().find(|owner| !owner.applies).expect("just counted");
        ANCIENT.clone_into(&mut gone.manager);
        gone.fields.add(&next.fields);
        next.fields = gone.fields;
        next.manager = gone.manager;
        next.subresource.clear();
    }
    let metadata = super::object::metadata_mut(object);
    if owners.is_empty() {
        metadata.remove("managedFields");
        return;
    }
    let noted = owners
        .into_iter()
        .map(|owner| {
            let mut note = json!({
                "manager": owner.manager,
                "operation": if owner.applies { "Apply" } else { "Update" },
                "apiVersion": owner.api_version,
                "time": owner.time,
                "fieldsType": "FieldsV1",
                "fieldsV1": owner.fields.wire(),
            });
            if !owner.subresource.is_empty() {
                note["subresource"] = owner.subresource.into();
            }
            note
        })
        .collect();
    metadata.insert("managedFields".to_owned(), Value::Array(noted));
}

impl Node {
    /// Whether nothing is in the set.
    pub(super) fn is_empty(&self) -> bool {
        !self.owned && self.children.is_empty()
    }

    /// Takes in everything of `other`.
    pub(super) fn add(&mut self, other: &Self) {
        self.owned |= other.owned;
        for (name, child) in &other.children {
            self.children.entry(name.clone()).or_default().add(child);
        }
    }

    /// Lets go of everything that is in `other`, and of what lies below its leaves.
    pub(super) fn subtract(&mut self, other: &Self) {
        self.owned &= !other.owned;
        if other.owned && other.children.is_empty() {
            self.children.clear();
            return;
        }
        for (name, gone) in &other.children {
            if let Some(child) = self.children.get_mut(name) {
                child.subtract(gone);
                if child.is_empty() {
                    self.children.remove(name);
                }
            }
        }
    }

    /// What is in both.
    pub(super) fn common(&self, other: &Self) -> Self {
        let mut common = Self { owned: self.owned && other.owned, children: BTreeMap::new() };
        for (name, child) in &self.children {
            if let Some(other) = other.children.get(name) {
                common.attach(name.clone(), child.common(other));
            }
        }
        common
    }

    /// The paths in the set, as conflicts show them: `.spec.containers[name="web"].image`.
    pub(super) fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.gather_paths("", &mut paths);
        paths
    }

    fn gather_paths(&self, prefix: &str, paths: &mut Vec<String>) {
        if self.owned {
            paths.push(prefix.to_owned());
        }
        for (name, child) in &self.children {
            let step = match name.split_at(2) {
                ("f:", field) => format!(".{field}"),
                ("k:", keys) => {
                    let keys: BTreeMap<String, Value> = serde_json::from_str(keys).unwrap_or_default();
                    let keys: Vec<String> = keys.iter().map(|(key, value)| format!("{key}={value}")).collect();
                    format!("[{}]", keys.join(","))
                }
                (_, value) => format!("[={value}]"),
            };
            child.gather_paths(&format!("{prefix}{step}"), paths);
        }
    }

    fn attach(&mut self, name: String, child: Self) {
        if !child.is_empty() {
            self.children.insert(name, child);
        }
    }

    fn parse(wire: &Value) -> Self {
        let mut node = Self::default();
        for (name, child) in wire.as_object().into_iter().flatten() {
            if name == "." {
                node.owned = true;
            } else if name.len() > 2 && ["f:", "k:", "v:", "i:"].iter().any(|prefix| name.starts_with(prefix)) {
                let mut child = Self::parse(child);
                child.owned |= child.children.is_empty();
                node.children.insert(name.clone(), child);
            }
        }
        node
    }

    fn wire(&self) -> Value {
        let mut wire: Map<String, Value> =
            self.children.iter().map(|(name, child)| (name.clone(), child.wire())).collect();
        if self.owned && !self.children.is_empty() {
            wire.insert(".".to_owned(), json!({}));
        }
        Value::Object(wire)
    }
}

/// A part of a value, told apart from its siblings by a name on the wire.
pub(super) struct Branch<'a> {
    pub(super) name: String,
    pub(super) value: &'a Value,
    pub(super) shape: &'static Shape,
    /// Whether it is an item of a list, which is owned itself besides its fields.
    pub(super) item: bool,
}

/// The parts by which a value is owned; absent for one that is owned as a whole.
pub(super) fn branches<'a>(value: &'a Value, shape: &'static Shape) -> Option<Vec<Branch<'a>>> {
    match (shape, value) {
        (Shape::Plain | Shape::Map(_), Value::Object(map)) => Some(
            map.iter()
                .map(|(key, value)| Branch { name: field(key), value, shape: schema::child(shape, key), item: false })
                .collect(),
        ),
        (Shape::List(keys, item_shape), Value::Array(items)) => items
            .iter()
            .map(|item| Some(Branch { name: item_name(keys, item)?, value: item, shape: item_shape, item: true }))
            .collect(),
        (Shape::Set, Value::Array(items)) => Some(
            items
                .iter()
                .map(|item| Branch { name: format!("v:{item}"), value: item, shape: &Shape::Atomic, item: false })
                .collect(),
        ),
        _ => None,
    }
}

/// `f:NAME`.
pub(super) fn field(name: &str) -> String {
    format!("f:{name}")
}

/// `k:{…}` with the keys of an item; absent when it lacks one.
pub(super) fn item_name(keys: &[schema::ListKey], item: &Value) -> Option<String> {
    let mut found = Map::new();
    for key in keys {
        let value = match (item.get(key.name), key.default) {
            (Some(value), _) if !value.is_null() => value.clone(),
            (_, Some(default)) => default.into(),
            (_, None) => return None,
        };
        found.insert(key.name.to_owned(), value);
    }
    Some(format!("k:{}", Value::Object(found)))
}

fn compare(old: Option<&Value>, new: Option<&Value>, shape: &'static Shape, item: bool) -> Difference {
    let (old, new) = match (old, new) {
        (None, None) => return Difference::default(),
        (Some(old), None) => return Difference { removed: leaves(old, shape, item), ..Difference::default() },
        (None, Some(new)) => return Difference { changed: leaves(new, shape, item), ..Difference::default() },
        (Some(old), Some(new)) => (old, new),
    };
    if old == new {
        return Difference::default();
    }
    match (branches(old, shape), branches(new, shape)) {
        (Some(old), Some(new)) => {
            let mut difference = Difference::default();
            let mut old: BTreeMap<String, Branch<'_>> =
                old.into_iter().map(|branch| (branch.name.clone(), branch)).collect();
            for branch in new {
                let before = old.remove(&branch.name);
                let part = compare(before.map(|before| before.value), Some(branch.value), branch.shape, branch.item);
                difference.changed.attach(branch.name.clone(), part.changed);
                difference.removed.attach(branch.name, part.removed);
            }
            for (name, branch) in old {
                difference.removed.attach(name, leaves(branch.value, branch.shape, branch.item));
            }
            difference
        }
        (old_branches, _) => Difference {
            changed: leaves(new, shape, item),
            removed: if old_branches.is_some() { leaves(old, shape, item) } else { Node::default() },
        },
    }
}

fn leaves(value: &Value, shape: &'static Shape, item: bool) -> Node {
    let Some(branches) = branches(value, shape) else { return Node { owned: true, children: BTreeMap::new() } };
    let mut node = Node { owned: item || (branches.is_empty() && value.is_object()), children: BTreeMap::new() };
    for branch in branches {
        let leaves = leaves(branch.value, branch.shape, branch.item);
        node.attach(branch.name, leaves);
    }
    node
}

/// The metadata without what the API itself writes and what names the object.
fn own_metadata(metadata: Option<&Value>) -> Value {
    let mut own = metadata.cloned().unwrap_or_else(|| json!({}));
    if let Value::Object(own) = &mut own {
        for key in [
            "name",
            "namespace",
            "generateName",
            "uid",
            "resourceVersion",
            "creationTimestamp",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "generation",
            "managedFields",
            "selfLink",
        ] {
            own.remove(key);
        }
        if own.is_empty() {
            return Value::Null;
        }
    }
    own
}

fn same_owners(old: Option<&Value>, new: Option<&Value>) -> bool {
    let list = |value: Option<&Value>| value.and_then(Value::as_array).cloned().unwrap_or_default();
    let (mut old, mut new) = (list(old), list(new));
    for owner in old.iter_mut().chain(&mut new) {
        if let Value::Object(owner) = owner {
            owner.remove("time");
        }
    }
    // Their order depends on the times.
    let order = |owners: &mut Vec<Value>| owners.sort_by_cached_key(ToString::to_string);
    order(&mut old);
    order(&mut new);
    old == new
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::apiserver::resource;

    fn deployments() -> Resource {
        resource::built_in().into_iter().find(|resource| resource.plural == "deployments").expect("built in")
    }

    #[test]
    fn a_set_comes_back_from_the_wire() {
        let wire = json!({
            "f:metadata": {"f:labels": {"f:app": {}}, "f:finalizers": {"v:\"a\"": {}}},
            "f:spec": {"f:containers": {"k:{\"name\":\"web\"}": {".": {}, "f:image": {}}}},
        });
        assert_eq!(Node::parse(&wire).wire(), wire);
    }

    #[test]
    fn lists_with_keys_are_owned_by_item() {
        let deployment = json!({"metadata": {"name": "a"}, "spec": {"template": {"spec": {"containers": [
            {"name": "web", "image": "i", "args": ["x"], "ports": [{"containerPort": 80}]},
        ]}}}});
        let stated = stated(&deployments(), &deployment);
        assert_eq!(
            stated.paths(),
            [
                r#".spec.template.spec.containers[name="web"]"#,
                r#".spec.template.spec.containers[name="web"].args"#,
                r#".spec.template.spec.containers[name="web"].image"#,
                r#".spec.template.spec.containers[name="web"].name"#,
                r#".spec.template.spec.containers[name="web"].ports[containerPort=80,protocol="TCP"]"#,
                r#".spec.template.spec.containers[name="web"].ports[containerPort=80,protocol="TCP"].containerPort"#,
            ]
        );
    }

    #[test]
    fn an_update_takes_fields_over() {
        let resource = deployments();
        let now = Timestamp::from_seconds(1);
        let mut first = json!({"metadata": {"name": "a"}, "spec": {"replicas": 1, "paused": true}});
        after_update(&resource, None, &mut first, "one", Part::Whole, now);
        let mut second = first.clone();
        second["spec"]["replicas"] = 2.into();
        after_update(&resource, Some(&first), &mut second, "two", Part::Scale, now);
        let paths: Vec<_> = owners(&second).iter().map(|owner| (owner.manager.clone(), owner.fields.paths())).collect();
        assert_eq!(
            paths,
            [
                ("one".to_owned(), vec![".spec.paused".to_owned()]),
                ("two".to_owned(), vec![".spec.replicas".to_owned()]),
            ]
        );
        assert!(!same(&first, &second));
        let mut third = second.clone();
        after_update(&resource, Some(&second), &mut third, "three", Part::Whole, Timestamp::from_seconds(9));
        assert!(same(&second, &third));
    }

    #[test]
    fn many_updaters_are_counted_together() {
        let resource = deployments();
        let mut object = json!({"metadata": {"name": "a"}, "spec": {}});
        for index in 0..20 {
            let before = object.clone();
            object["spec"][format!("f{index}")] = index.into();
            let now = Timestamp::from_seconds(index);
            after_update(&resource, Some(&before), &mut object, &format!("m{index}"), Part::Whole, now);
        }
        let owners = owners(&object);
        assert_eq!(owners.len(), MOST_UPDATERS);
        assert_eq!(owners.iter().map(|owner| owner.fields.paths().len()).sum::<usize>(), 20);
        assert_eq!(owners.iter().filter(|owner| owner.manager == ANCIENT).count(), 1);
    }
}
