//! Label and field selectors, as they stand in a query.

use super::object::Traits;
use super::resource::Resource;
use super::status::{self, Answer};
use std::collections::BTreeSet;

/// Which objects of a resource a request is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Selector {
    /// Only this namespace.
    pub(super) namespace: Option<String>,
    labels: Vec<LabelRule>,
    fields: Vec<FieldRule>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct LabelRule {
    key: String,
    test: LabelTest,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum LabelTest {
    In(BTreeSet<String>),
    /// Also true when the label is absent.
    NotIn(BTreeSet<String>),
    Exists,
    Absent,
    Above(i64),
    Below(i64),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct FieldRule {
    field: Field,
    value: String,
    equal: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Field {
    Name,
    Namespace,
    /// An index into the resource's selectable fields.
    Other(usize),
}

impl Selector {
    /// Reads both selectors; a 400 says what is wrong with them.
    pub(super) fn parse(
        resource: &Resource,
        namespace: Option<&str>,
        labels: Option<&str>,
        fields: Option<&str>,
    ) -> Answer<Self> {
        Ok(Self {
            namespace: namespace.map(str::to_owned),
            labels: parse_labels(labels.unwrap_or_default())?,
            fields: parse_fields(resource, fields.unwrap_or_default())?,
        })
    }

    /// Exactly one object.
    pub(super) fn of_one(namespace: &str, name: &str) -> Self {
        Self {
            namespace: Some(namespace.to_owned()),
            labels: Vec::new(),
            fields: vec![FieldRule { field: Field::Name, value: name.to_owned(), equal: true }],
        }
    }

    /// Whether this selects by anything an object's update can change.
    pub(super) fn by_traits(&self) -> bool {
        !self.labels.is_empty() || self.fields.iter().any(|rule| matches!(rule.field, Field::Other(_)))
    }

    /// The one name this can match, when it asks for exactly one.
    pub(super) fn name(&self) -> Option<&str> {
        self.fields.iter().find(|rule| rule.field == Field::Name && rule.equal).map(|rule| rule.value.as_str())
    }

    /// Whether an object of this name with these traits is selected.
    pub(super) fn matches(&self, namespace: &str, name: &str, traits: &Traits) -> bool {
        self.namespace.as_deref().is_none_or(|wanted| wanted == namespace)
            && self.fields.iter().all(|rule| {
                let value = match rule.field {
                    Field::Name => name,
                    Field::Namespace => namespace,
                    Field::Other(index) => traits.field(index),
                };
                (value == rule.value) == rule.equal
            })
            && self.labels.iter().all(|rule| rule.matches(traits.label(&rule.key)))
    }
}

impl LabelRule {
    fn matches(&self, value: Option<&str>) -> bool {
        let number = || value.and_then(|value| value.parse::<i64>().ok());
        match &self.test {
            LabelTest::In(set) => value.is_some_and(|value| set.contains(value)),
            LabelTest::NotIn(set) => value.is_none_or(|value| !set.contains(value)),
            LabelTest::Exists => value.is_some(),
            LabelTest::Absent => value.is_none(),
            LabelTest::Above(bound) => number().is_some_and(|number| *bound < number),
            LabelTest::Below(bound) => number().is_some_and(|number| number < *bound),
        }
    }
}

/// `a=b,c!=d,e,!f,g in (h,i),j notin (k),l>1`.
fn parse_labels(text: &str) -> Answer<Vec<LabelRule>> {
    let wrong = || status::bad_request(&format!("unable to parse requirement: {text:?} is not a label selector"));
    split_outside_parentheses(text)
        .map(str::trim)
        .filter(|term| !term.is_empty())
        .map(|term| {
            let (key, test) = parse_label_rule(term).ok_or_else(wrong)?;
            if !is_label_key(key) {
                return Err(wrong());
            }
            Ok(LabelRule { key: key.to_owned(), test })
        })
        .collect()
}

fn parse_label_rule(term: &str) -> Option<(&str, LabelTest)> {
    if let Some(key) = term.strip_prefix('!') {
        return Some((key.trim(), LabelTest::Absent));
    }
    let one = |value: &str| BTreeSet::from([value.trim().to_owned()]);
    if let Some(open) = term.find('(') {
        let values = term[open..].strip_prefix('(')?.strip_suffix(')')?;
        let set = values.split(',').map(|value| value.trim().to_owned()).collect();
        let (key, word) = term[..open].trim().rsplit_once(char::is_whitespace)?;
        return match word {
            "in" => Some((key.trim(), LabelTest::In(set))),
            "notin" => Some((key.trim(), LabelTest::NotIn(set))),
            _ => None,
        };
    }
    if let Some((key, value)) = term.split_once("!=") {
        return Some((key.trim(), LabelTest::NotIn(one(value))));
    }
    if let Some((key, value)) = term.split_once("==").or_else(|| term.split_once('=')) {
        return Some((key.trim(), LabelTest::In(one(value))));
    }
    if let Some((key, value)) = term.split_once('>') {
        return Some((key.trim(), LabelTest::Above(value.trim().parse().ok()?)));
    }
    if let Some((key, value)) = term.split_once('<') {
        return Some((key.trim(), LabelTest::Below(value.trim().parse().ok()?)));
    }
    Some((term, LabelTest::Exists))
}

fn split_outside_parentheses(text: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0_i32;
    text.split(move |letter| {
        match letter {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        letter == ',' && depth == 0
    })
}

fn parse_fields(resource: &Resource, text: &str) -> Answer<Vec<FieldRule>> {
    text.split(',')
        .map(str::trim)
        .filter(|term| !term.is_empty())
        .map(|term| {
            let wrong = || {
                status::bad_request(&format!(
                    "invalid field selector: {term:?}; use FIELD=VALUE, FIELD==VALUE or FIELD!=VALUE"
                ))
            };
            let (path, value, equal) = if let Some((path, value)) = term.split_once("!=") {
                (path, value, false)
            } else {
                let (path, value) = term.split_once("==").or_else(|| term.split_once('=')).ok_or_else(wrong)?;
                (path, value, true)
            };
            let field = match path.trim() {
                "metadata.name" => Field::Name,
                "metadata.namespace" => Field::Namespace,
                path => Field::Other(
                    resource
                        .selectable
                        .iter()
                        .position(|known| known == path)
                        .ok_or_else(|| status::bad_request(&format!("field label not supported: {path}")))?,
                ),
            };
            Ok(FieldRule { field, value: value.trim().to_owned(), equal })
        })
        .collect()
}

/// `[DNS subdomain/]name`, the name of letters, digits, `-`, `_` and `.`, 63 at most.
pub(super) fn is_label_key(key: &str) -> bool {
    let (prefix, name) = key.split_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    prefix.is_none_or(super::names::is_subdomain) && !name.is_empty() && is_label_value(name)
}

/// Empty, or letters, digits, `-`, `_` and `.` between a letter or digit at either end; 63 at most.
pub(super) fn is_label_value(value: &str) -> bool {
    let bytes = value.as_bytes();
    let ends = [bytes.first(), bytes.last()];
    value.len() <= 63
        && ends.into_iter().flatten().all(u8::is_ascii_alphanumeric)
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
}
