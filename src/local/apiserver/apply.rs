//! Server-side apply: a manager states the fields it cares about, and gets exactly those.
//!
//! Fields it stated last time and no longer does are removed, unless another manager owns them too. A field whose value
//! would change and that another manager owns is a conflict (409), unless `force` takes it over.
//!
//! Where this is less than the real one: without a schema for custom resources their lists are replaced whole (as they
//! are there too when the definition does not say otherwise); the items of merged lists keep the order they have, new
//! ones come last; what defaults and admission fill in belongs to nobody.

use super::fields::{self, Node, Owner};
use super::object::metadata_text;
use super::resource::Resource;
use super::schema::{self, Shape};
use super::status::{self, Answer};
use super::write::{Ownership, Part, Target, Written, drop_nulls, rfc3339};
use kube::core::Status;
use kube::core::response::{StatusCause, StatusDetails};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Applies `config` on behalf of the target's manager.
pub(super) fn apply(target: &Target<'_>, config: &Value, force: bool) -> Answer<Written> {
    let config = prepared(target, config)?;
    loop {
        let updated = target.update(&Ownership::Settled, |old| merged(target, old, &config, force));
        match updated {
            Err(status) if status.is_not_found() && target.part == Part::Whole => {}
            other => return other,
        }
        if !metadata_text(&config, "uid").is_empty() {
            let why = "uid mismatch: the provided object specified a uid, and no object of this name exists";
            return Err(status::conflict(target.resource, target.name, why));
        }
        let mut new = config.clone();
        fields::set_owners(&mut new, vec![own(target, fields::stated(target.resource, &config))]);
        match target.create(new, &Ownership::Settled) {
            // Somebody was faster.
            Err(status) if status.is_already_exists() => {}
            other => return other,
        }
    }
}

/// The configuration without what this path does not write.
fn prepared(target: &Target<'_>, config: &Value) -> Answer<Value> {
    let mut config = config.clone();
    if !config.is_object() {
        return Err(status::bad_request("the body of an apply is an object"));
    }
    if config["metadata"]["managedFields"].as_array().is_some_and(|owners| !owners.is_empty()) {
        return Err(status::bad_request("metadata.managedFields must be nil"));
    }
    drop_nulls(&mut config);
    let name = metadata_text(&config, "name");
    if name.is_empty() {
        config["metadata"]["name"] = target.name.into();
    } else if name != target.name {
        let message = format!("the name of the object ({name}) does not match the name on the URL ({})", target.name);
        return Err(status::bad_request(&message));
    }
    let map = config.as_object_mut().expect("just checked");
    match target.part {
        Part::Whole if target.resource.status => {
            map.remove("status");
        }
        Part::Status => map.retain(|key, _| ["apiVersion", "kind", "metadata", "status"].contains(&key.as_str())),
        Part::Whole | Part::Scale => {}
    }
    if target.part == Part::Status
        && let Some(Value::Object(metadata)) = map.get_mut("metadata")
    {
        metadata.retain(|key, _| ["name", "namespace", "uid", "resourceVersion"].contains(&key.as_str()));
    }
    Ok(config)
}

fn merged(target: &Target<'_>, old: &Value, config: &Value, force: bool) -> Answer<Value> {
    let resource = target.resource;
    let stated = fields::stated(resource, config);
    let mut owners = fields::owners(old);
    let mine = own(target, stated);
    let index = owners.iter().position(|owner| is_same(owner, &mine));
    let last = index.map_or_else(Node::default, |index| owners[index].fields.clone());

    let mut new = old.clone();
    merge(&mut new, config, resource.shape);
    let others: Vec<&Node> = owners.iter().filter(|owner| !is_same(owner, &mine)).map(|owner| &owner.fields).collect();
    prune_object(&mut new, resource.shape, &last, &mine.fields, &others);

    let difference = fields::difference(resource, old, &new);
    let conflicts: Vec<(usize, Node)> = owners
        .iter()
        .enumerate()
        .filter(|(_, owner)| !is_same(owner, &mine))
        .map(|(index, owner)| (index, owner.fields.common(&difference.changed)))
        .filter(|(_, conflict)| !conflict.is_empty())
        .collect();
    if !conflicts.is_empty() && !force {
        return Err(conflicting(resource, target.name, &owners, &conflicts));
    }
    for owner in &mut owners {
        owner.fields.subtract(&difference.removed);
    }
    for (index, conflict) in conflicts {
        owners[index].fields.subtract(&conflict);
    }
    match index {
        Some(index) if owners[index].fields == mine.fields => {}
        Some(index) => owners[index] = mine,
        None => owners.push(mine),
    }
    // The time tells of the last apply that changed something.
    if !(difference.changed.is_empty() && difference.removed.is_empty())
        && let Some(index) = index
    {
        owners[index].time = rfc3339(target.now());
    }
    fields::set_owners(&mut new, owners);
    Ok(new)
}

fn own(target: &Target<'_>, fields: Node) -> Owner {
    Owner {
        manager: target.manager.to_owned(),
        applies: true,
        api_version: target.resource.api_version(),
        subresource: target.part.subresource().unwrap_or_default().to_owned(),
        time: rfc3339(target.now()),
        fields,
    }
}

fn is_same(owner: &Owner, mine: &Owner) -> bool {
    owner.applies
        && owner.manager == mine.manager
        && owner.api_version == mine.api_version
        && owner.subresource == mine.subresource
}

fn merge(target: &mut Value, config: &Value, shape: &'static Shape) {
    match (shape, &mut *target, config) {
        (Shape::Plain | Shape::Map(_), Value::Object(target), Value::Object(config)) => {
            for (key, value) in config {
                match target.get_mut(key) {
                    Some(known) => merge(known, value, schema::child(shape, key)),
                    None => {
                        target.insert(key.clone(), value.clone());
                    }
                }
            }
        }
        (Shape::List(keys, item_shape), Value::Array(items), Value::Array(config)) => {
            let mut places = BTreeMap::new();
            for (index, item) in items.iter().enumerate() {
                let Some(name) = fields::item_name(keys, item) else { return *target = Value::Array(config.clone()) };
                places.insert(name, index);
            }
            for item in config {
                match fields::item_name(keys, item).and_then(|name| places.get(&name)) {
                    Some(index) => merge(&mut items[*index], item, item_shape),
                    None => items.push(item.clone()),
                }
            }
        }
        (Shape::Set, Value::Array(items), Value::Array(config)) => {
            for item in config {
                if !items.contains(item) {
                    items.push(item.clone());
                }
            }
        }
        _ => *target = config.clone(),
    }
}

/// Takes out of an object what was stated last time, is not now, and is no other's. The metadata itself stays: it names
/// the object.
fn prune_object(object: &mut Value, shape: &'static Shape, last: &Node, now: &Node, others: &[&Node]) {
    let anchor = Node { owned: false, children: BTreeMap::from([(fields::field("metadata"), Node::default())]) };
    let others: Vec<&Node> = others.iter().copied().chain([&anchor]).collect();
    prune(object, shape, &[], last, Some(now), &others);
}

/// Takes out what was stated last time, is not now, and is no other's. `keys` are what tells a list's items apart, for
/// the value is such an item; it keeps them as long as it stays itself.
fn prune(
    value: &mut Value,
    shape: &'static Shape,
    keys: &[schema::ListKey],
    last: &Node,
    now: Option<&Node>,
    others: &[&Node],
) {
    for (name, last) in &last.children {
        if keys.iter().any(|key| name.strip_prefix("f:") == Some(key.name)) {
            continue;
        }
        let now = now.and_then(|now| now.children.get(name));
        let others: Vec<&Node> = others.iter().filter_map(|other| other.children.get(name)).collect();
        if now.is_none() && others.is_empty() {
            remove(value, shape, name);
        } else if let Some((child, child_shape)) = child_mut(value, shape, name) {
            let keys: &[schema::ListKey] = if let Shape::List(keys, _) = shape { keys } else { &[] };
            prune(child, child_shape, keys, last, now, &others);
        }
    }
}

fn remove(value: &mut Value, shape: &'static Shape, name: &str) {
    match (shape, value) {
        (Shape::Plain | Shape::Map(_), Value::Object(map)) => {
            if let Some(key) = name.strip_prefix("f:") {
                map.remove(key);
            }
        }
        (Shape::List(keys, _), Value::Array(items)) => {
            items.retain(|item| fields::item_name(keys, item).as_deref() != Some(name));
        }
        (Shape::Set, Value::Array(items)) => items.retain(|item| format!("v:{item}") != name),
        _ => {}
    }
}

fn child_mut<'a>(value: &'a mut Value, shape: &'static Shape, name: &str) -> Option<(&'a mut Value, &'static Shape)> {
    match (shape, value) {
        (Shape::Plain | Shape::Map(_), Value::Object(map)) => {
            let key = name.strip_prefix("f:")?;
            Some((map.get_mut(key)?, schema::child(shape, key)))
        }
        (Shape::List(keys, item_shape), Value::Array(items)) => {
            let item = items.iter_mut().find(|item| fields::item_name(keys, item).as_deref() == Some(name))?;
            Some((item, item_shape))
        }
        _ => None,
    }
}

/// 409 with one cause for every field somebody else owns.
fn conflicting(resource: &Resource, name: &str, owners: &[Owner], conflicts: &[(usize, Node)]) -> Box<Status> {
    let mut causes = Vec::new();
    for (index, conflict) in conflicts {
        let owner = &owners[*index];
        let mut message = format!("conflict with {:?}", owner.manager);
        if !owner.subresource.is_empty() {
            write!(message, " with subresource {:?}", owner.subresource).expect("a string takes it");
        }
        write!(message, " using {}", owner.api_version).expect("a string takes it");
        for field in conflict.paths() {
            causes.push(StatusCause { reason: "FieldManagerConflict".to_owned(), message: message.clone(), field });
        }
    }
    let words: Vec<String> = causes.iter().map(|cause| format!("{}: {}", cause.message, cause.field)).collect();
    let number = if causes.len() == 1 { "1 conflict".to_owned() } else { format!("{} conflicts", causes.len()) };
    let message = format!("Apply failed with {number}: {}", words.join("; "));
    let mut status = status::failure(409, "Conflict", &message);
    status.details = Some(StatusDetails {
        name: name.to_owned(),
        group: resource.group.clone(),
        kind: resource.plural.clone(),
        uid: String::new(),
        causes,
        retry_after_seconds: 0,
    });
    status
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_field_no_longer_stated_goes_with_what_defaults_added_below_it() {
        let last = Node {
            owned: false,
            children: BTreeMap::from([(
                "f:probe".to_owned(),
                Node {
                    owned: false,
                    children: BTreeMap::from([("f:path".to_owned(), Node { owned: true, ..Node::default() })]),
                },
            )]),
        };
        let mut value = json!({"probe": {"path": "/", "period": 10}, "kept": 1});
        prune(&mut value, &Shape::Plain, &[], &last, None, &[]);
        assert_eq!(value, json!({"kept": 1}));

        let mut value = json!({"probe": {"path": "/", "period": 10}, "kept": 1});
        let other = Node {
            owned: false,
            children: BTreeMap::from([(
                "f:probe".to_owned(),
                Node {
                    owned: false,
                    children: BTreeMap::from([("f:period".to_owned(), Node { owned: true, ..Node::default() })]),
                },
            )]),
        };
        prune(&mut value, &Shape::Plain, &[], &last, None, &[&other]);
        assert_eq!(value, json!({"probe": {"period": 10}, "kept": 1}));
    }
}
