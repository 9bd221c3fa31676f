//! YAML as a tree in which everything knows where it stands.

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{MessageFormatter as _, Spanned, UserMessageFormatter};
use std::fmt;

/// A place in a file, counted from 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Hash)]
pub struct Place {
    /// The line.
    pub line: u64,
    /// The column, in characters.
    pub column: u64,
}

/// A value and where it begins.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) place: Place,
    pub(crate) content: Content,
}

/// A value.
#[derive(Clone, Debug)]
pub(crate) enum Content {
    Null,
    Bool(bool),
    Signed(i64),
    Unsigned(u64),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    /// In the order of the file; a key stands there once.
    Map(Vec<(Key, Node)>),
}

/// A key and where it stands.
#[derive(Clone, Debug)]
pub(crate) struct Key {
    pub(crate) place: Place,
    pub(crate) name: String,
}

impl Node {
    /// The value of `key`; none when this is no mapping or has no such key.
    pub(crate) fn get(&self, key: &str) -> Option<&Self> {
        match &self.content {
            Content::Map(entries) => entries.iter().find(|(found, _)| found.name == key).map(|(_, value)| value),
            _ => None,
        }
    }

    /// The text of `key`, if it has one.
    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        match &self.get(key)?.content {
            Content::Text(text) => Some(text),
            _ => None,
        }
    }

    /// What it is, in a word or two.
    pub(crate) fn kind(&self) -> &'static str {
        match self.content {
            Content::Null => "nothing",
            Content::Bool(_) => "a truth value",
            Content::Signed(_) | Content::Unsigned(_) | Content::Float(_) => "a number",
            Content::Text(_) => "text",
            Content::List(_) => "a list",
            Content::Map(_) => "a mapping",
        }
    }

    /// Where a field stands, named as `spec.template.metadata.annotations[KEY]` or `spec.traffic[0].percent`. What is
    /// not there stands where the nearest field around it does.
    pub(crate) fn place_of(&self, path: &str) -> Place {
        let mut place = self.place;
        let mut node = self;
        for step in steps(path) {
            let below = match &node.content {
                Content::Map(entries) => {
                    entries.iter().find(|(key, _)| key.name == step).map(|(key, node)| (key.place, node))
                }
                Content::List(items) => {
                    step.parse().ok().and_then(|number: usize| items.get(number)).map(|node| (node.place, node))
                }
                _ => None,
            };
            let Some(below) = below else { break };
            (place, node) = below;
        }
        place
    }

    /// The same as JSON.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        match &self.content {
            Content::Null => serde_json::Value::Null,
            Content::Bool(value) => (*value).into(),
            Content::Signed(value) => (*value).into(),
            Content::Unsigned(value) => (*value).into(),
            Content::Float(value) => (*value).into(),
            Content::Text(value) => value.as_str().into(),
            Content::List(items) => items.iter().map(Self::to_json).collect(),
            Content::Map(entries) => entries.iter().map(|(key, value)| (key.name.clone(), value.to_json())).collect(),
        }
    }
}

/// From JSON, in which nothing has a place.
impl From<&serde_json::Value> for Node {
    fn from(value: &serde_json::Value) -> Self {
        use serde_json::Value;
        let content = match value {
            Value::Null => Content::Null,
            Value::Bool(value) => Content::Bool(*value),
            Value::Number(number) => match (number.as_i64(), number.as_u64()) {
                (Some(value), _) => Content::Signed(value),
                (None, Some(value)) => Content::Unsigned(value),
                (None, None) => Content::Float(number.as_f64().unwrap_or_default()),
            },
            Value::String(text) => Content::Text(text.clone()),
            Value::Array(items) => Content::List(items.iter().map(Self::from).collect()),
            Value::Object(entries) => Content::Map(
                entries
                    .iter()
                    .map(|(name, value)| (Key { place: Place::default(), name: name.clone() }, Self::from(value)))
                    .collect(),
            ),
        };
        Self { place: Place::default(), content }
    }
}

/// The names and numbers a path is made of.
fn steps(path: &str) -> Vec<&str> {
    let mut steps = Vec::new();
    let mut rest = path;
    while !rest.is_empty() {
        let (step, after) = if let Some(inside) = rest.strip_prefix('[') {
            inside.split_once(']').unwrap_or((inside, ""))
        } else {
            rest.split_at(rest.find(['.', '[']).unwrap_or(rest.len()))
        };
        steps.push(step);
        rest = after.strip_prefix('.').unwrap_or(after);
    }
    steps
}

/// Values in one file, what aliases stand for included: some 15,000 Services as `kubectl get -o yaml` writes them.
const MOST_NODES: usize = 1_000_000;
/// Documents in one file.
const MOST_DOCUMENTS: usize = 20_000;
/// Collections inside one another. Reading is recursive, and a thread's stack of 2 MiB must do without optimisation too.
const MOST_DEPTH: usize = 48;

/// The documents of a YAML text; empty ones are left out.
pub(crate) fn documents(text: &str) -> Result<Vec<Node>, (Place, String)> {
    let budget = serde_saphyr::budget! {
        max_nodes: MOST_NODES,
        max_events: 4 * MOST_NODES,
        max_documents: MOST_DOCUMENTS,
        max_depth: MOST_DEPTH,
    };
    let options = serde_saphyr::options! { budget: budget };
    serde_saphyr::from_multiple_with_options::<Spanned<Content>>(text, options)
        .map(|documents| documents.into_iter().map(node).collect())
        .map_err(|error| {
            let error = error.without_snippet();
            let place = error.location().map(place).unwrap_or_default();
            (place, in_words(error))
        })
}

/// What the parser found, without its words for its own parts.
fn in_words(error: &serde_saphyr::Error) -> String {
    use serde_saphyr::budget::BudgetBreach;
    match error {
        serde_saphyr::Error::Budget { breach: BudgetBreach::Depth { depth }, .. } => {
            format!("nested {depth} deep or more, which no Kubernetes object is")
        }
        serde_saphyr::Error::Budget { breach: BudgetBreach::Documents { .. }, .. } => {
            format!("more than {MOST_DOCUMENTS} documents in one file; split it")
        }
        // Without the place, which is told apart.
        other => {
            let text = UserMessageFormatter.format_message(other).into_owned();
            if !text.contains("limits breached") {
                return text;
            }
            // Of several limits that guard against the same, whichever was met first.
            format!("more than {MOST_NODES} values in one file, what its aliases stand for included; split it")
        }
    }
}

fn node(spanned: Spanned<Content>) -> Node {
    Node { place: place(spanned.referenced), content: spanned.value }
}

fn place(location: serde_saphyr::Location) -> Place {
    Place { line: location.line(), column: location.column() }
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Content;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("any YAML")
            }

            fn visit_bool<E>(self, value: bool) -> Result<Content, E> {
                Ok(Content::Bool(value))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Content, E> {
                Ok(Content::Signed(value))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Content, E> {
                Ok(i64::try_from(value).map_or(Content::Unsigned(value), Content::Signed))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Content, E> {
                Ok(Content::Float(value))
            }

            fn visit_str<E>(self, value: &str) -> Result<Content, E> {
                Ok(Content::Text(value.to_owned()))
            }

            fn visit_string<E>(self, value: String) -> Result<Content, E> {
                Ok(Content::Text(value))
            }

            fn visit_unit<E>(self) -> Result<Content, E> {
                Ok(Content::Null)
            }

            fn visit_none<E>(self) -> Result<Content, E> {
                Ok(Content::Null)
            }

            fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Content, D::Error> {
                Content::deserialize(deserializer)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Content, A::Error> {
                let mut list = Vec::new();
                while let Some(item) = items.next_element::<Spanned<Content>>()? {
                    list.push(node(item));
                }
                Ok(Content::List(list))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Content, A::Error> {
                let mut map = Vec::new();
                while let Some((key, value)) = entries.next_entry::<Spanned<String>, Spanned<Content>>()? {
                    map.push((Key { place: place(key.referenced), name: key.value }, node(value)));
                }
                Ok(Content::Map(map))
            }
        }
        deserializer.deserialize_any(Any)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_cluster_is_read_and_a_file_that_only_grows_is_not() {
        let service = "- kind: Service\n  metadata: {name: a, labels: {b: c}}\n  spec: {template: {spec: {containers: [{image: i}]}}}\n";
        let list = format!("kind: List\nitems:\n{}", service.repeat(15_000));
        let items = documents(&list).expect("fifteen thousand Services")[0].get("items").cloned().expect("a list");
        assert!(matches!(items.content, Content::List(items) if items.len() == 15_000));

        // Each line stands for ten of the one before.
        let line = |name: u8| {
            let (name, before) = (char::from(name), char::from(name - 1));
            format!("{name}: &{name} [{}]", vec![format!("*{before}"); 10].join(", "))
        };
        let bomb = (b'b'..b'j').map(line).collect::<Vec<_>>().join("\n");
        let nested = (0..100).map(|depth| " ".repeat(depth) + "a:").collect::<Vec<_>>().join("\n");
        for (text, told) in [
            (format!("a: &a [{}]\n{bomb}", ["x"; 10].join(", ")), "more than 1000000 values in one file"),
            ("--- {}\n".repeat(MOST_DOCUMENTS + 1), "more than 20000 documents in one file; split it"),
            (nested, "deep or more"),
            ("a: 1\na: 2\n".to_owned(), "duplicate"),
        ] {
            let (place, error) = documents(&text).expect_err(told);
            assert!(error.contains(told) && place.line > 0, "{place:?} {error}");
        }
    }
}
