//! The ways to say what changes: RFC 6902 JSON patch, RFC 7386 merge patch, and Kubernetes' strategic merge patch.

use super::schema::{self, Shape};
use serde_json::{Map, Value};

/// A change to an object.
#[derive(Clone, Debug)]
pub(super) enum Patch {
    Json(json_patch::Patch),
    Merge(Value),
    Strategic(Value),
}

/// Operations in one JSON patch, at most.
pub(super) const MOST_OPERATIONS: usize = 10_000;

impl Patch {
    /// Changes `object`; fails, in words, when the patch does not fit it.
    pub(super) fn change(&self, object: &mut Value, shape: &'static Shape) -> Result<(), String> {
        match self {
            Self::Json(patch) => json_patch::patch(object, patch).map_err(|error| error.to_string()),
            Self::Merge(patch) => {
                json_patch::merge(object, patch);
                Ok(())
            }
            Self::Strategic(patch) => {
                let patch = patch.as_object().ok_or("a strategic merge patch is an object")?;
                merge_map(as_map(object), patch, shape)
            }
        }
    }
}

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_VALUES: &str = "$deleteFromPrimitiveList/";
const ORDER: &str = "$setElementOrder/";

fn merge_map(target: &mut Map<String, Value>, patch: &Map<String, Value>, shape: &'static Shape) -> Result<(), String> {
    match patch.get(DIRECTIVE).map(|directive| directive.as_str().unwrap_or_default()) {
        None | Some("merge") => {}
        Some("replace") => {
            target.clear();
            for (key, value) in patch.iter().filter(|(key, _)| *key != DIRECTIVE) {
                target.insert(key.clone(), value.clone());
            }
            return Ok(());
        }
        Some("delete") => {
            target.clear();
            return Ok(());
        }
        Some(other) => return Err(format!("$patch: {other:?} is not merge, replace or delete")),
    }
    if let Some(keep) = patch.get(RETAIN_KEYS) {
        let keep = keep.as_array().ok_or("$retainKeys must be a list")?;
        target.retain(|key, _| keep.iter().any(|kept| kept == key.as_str()));
    }
    for (key, change) in patch {
        if key == DIRECTIVE || key == RETAIN_KEYS || key.starts_with(ORDER) {
            continue;
        }
        if let Some(field) = key.strip_prefix(DELETE_VALUES) {
            let gone = change.as_array().ok_or_else(|| format!("{key} must be a list"))?;
            if let Some(Value::Array(list)) = target.get_mut(field) {
                list.retain(|value| !gone.contains(value));
            }
            continue;
        }
        let shape = schema::child(shape, key);
        match change {
            Value::Null => {
                target.remove(key);
            }
            Value::Object(change) => {
                if is_delete(change) {
                    target.remove(key);
                } else {
                    merge_map(as_map(target.entry(key.clone()).or_insert(Value::Null)), change, shape)?;
                }
            }
            Value::Array(items) => {
                let order = patch.get(&format!("{ORDER}{key}")).and_then(Value::as_array);
                let list = as_list(target.entry(key.clone()).or_insert(Value::Null));
                merge_list(list, items, shape, order).map_err(|wrong| format!("{key}: {wrong}"))?;
            }
            value => {
                target.insert(key.clone(), value.clone());
            }
        }
    }
    // An order may be given for a list of which nothing else changes.
    for (key, order) in patch.iter().filter_map(|(key, order)| Some((key.strip_prefix(ORDER)?, order.as_array()?))) {
        if !patch.contains_key(key)
            && let Some(Value::Array(list)) = target.get_mut(key)
        {
            sort_like(list, order, schema::child(shape, key));
        }
    }
    Ok(())
}

fn merge_list(
    list: &mut Vec<Value>,
    items: &[Value],
    shape: &'static Shape,
    order: Option<&Vec<Value>>,
) -> Result<(), String> {
    let replace =
        items.iter().any(|item| item[DIRECTIVE] == "replace" && item.as_object().is_some_and(|map| map.len() == 1));
    match shape {
        _ if replace => {
            *list = items.iter().filter(|item| item[DIRECTIVE] != "replace").cloned().collect();
        }
        Shape::Set => {
            for item in items {
                if !list.contains(item) {
                    list.push(item.clone());
                }
            }
        }
        Shape::List(keys, item_shape) => {
            let key = keys[0].name;
            for item in items {
                let change = item.as_object().ok_or("its items are objects")?;
                let id = change.get(key).ok_or_else(|| format!("an item lacks its merge key {key}"))?;
                let found = list.iter().position(|known| &known[key] == id);
                if change.get(DIRECTIVE).is_some_and(|directive| directive == "delete") {
                    if let Some(index) = found {
                        list.remove(index);
                    }
                    continue;
                }
                let index = found.unwrap_or_else(|| {
                    list.push(Value::Object(Map::new()));
                    list.len() - 1
                });
                merge_map(as_map(&mut list[index]), change, item_shape)?;
            }
        }
        Shape::Plain | Shape::Atomic | Shape::Map(_) => *list = items.to_vec(),
    }
    if let Some(order) = order {
        sort_like(list, order, shape);
    }
    Ok(())
}

/// Puts what `order` names into its order; what it does not name keeps its place behind what stood before it.
fn sort_like(list: &mut Vec<Value>, order: &[Value], shape: &Shape) {
    let same = |item: &Value, wanted: &Value| match shape {
        Shape::List(keys, _) => item[keys[0].name] == wanted[keys[0].name],
        _ => item == wanted,
    };
    let place = |item: &Value| order.iter().position(|wanted| same(item, wanted));
    let mut sorted: Vec<Value> = list.iter().filter(|item| place(item).is_some()).cloned().collect();
    sorted.sort_by_key(|item| place(item));
    // Each of the others goes right behind the nearest item before it that is named, or to the front.
    let mut named_before: Option<usize> = None;
    let mut behind: Vec<(Option<usize>, Value)> = Vec::new();
    for item in list.drain(..) {
        match place(&item) {
            Some(index) => named_before = Some(index),
            None => behind.push((named_before, item)),
        }
    }
    for (after, item) in behind.into_iter().rev() {
        let at = after.map_or(0, |after| {
            sorted.iter().position(|item| place(item) == Some(after)).map_or(sorted.len(), |index| index + 1)
        });
        sorted.insert(at, item);
    }
    *list = sorted;
}

fn is_delete(change: &Map<String, Value>) -> bool {
    change.len() == 1 && change.get(DIRECTIVE).is_some_and(|directive| directive == "delete")
}

fn as_map(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    value.as_object_mut().expect("just made sure of")
}

fn as_list(value: &mut Value) -> &mut Vec<Value> {
    if !value.is_array() {
        *value = Value::Array(Vec::new());
    }
    value.as_array_mut().expect("just made sure of")
}
