//! Reading a kind out of a tree, with every field it does not know.
//!
//! Kubernetes' types pass over unknown fields in silence, so that a misspelt one is simply without effect. Each type tells
//! the reader which fields it has, though, and that is compared here with what stands in the file.

use super::yaml::{Content, Key, Node, Place};
use super::{Problem, Source};
use crate::api::spelling::nearest;
use serde::de::value::StrDeserializer;
use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, Error as _, IntoDeserializer as _, MapAccess, SeqAccess, VariantAccess,
    Visitor,
};
use std::cell::RefCell;
use std::fmt;

/// Something wrong in a document.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Fault {
    pub(crate) place: Place,
    /// Where it is in the object: `spec.template.spec.containers[0].image`.
    pub(crate) path: String,
    pub(crate) message: String,
}

impl Fault {
    /// The same, said of a file.
    pub(crate) fn at(self, file: &str) -> Problem {
        let source = Source { file: file.to_owned(), place: self.place };
        Problem { source, path: self.path, message: self.message }
    }
}

/// Which fields an object may have beside those its type knows.
#[derive(Clone, Copy)]
pub(crate) enum Besides<'a> {
    /// These.
    Only(&'a [&'a str]),
    /// Any: somebody else looks at them.
    Anything,
}

/// What is wrong in `node`, read as a `T`: every unknown field, and the first value of a wrong kind. The outermost
/// object may also have the fields of `besides`.
pub(crate) fn faults<T: for<'de> serde::Deserialize<'de>>(node: &Node, path: &str, besides: Besides<'_>) -> Vec<Fault> {
    read::<T>(node, path, besides).1
}

/// `node` as a `T`, unless a value is of a wrong kind, and what is wrong in it as in [`faults`].
pub(crate) fn read<T: for<'de> serde::Deserialize<'de>>(
    node: &Node,
    path: &str,
    besides: Besides<'_>,
) -> (Option<T>, Vec<Fault>) {
    let found = RefCell::new(Vec::new());
    let reader = Reader { node, path: path.to_owned(), besides, found: &found };
    let read = T::deserialize(reader);
    let mut found = found.into_inner();
    let value = match read {
        Ok(value) => Some(value),
        Err(Wrong(message, at)) => {
            let (place, path) = at.unwrap_or_else(|| (node.place, path.to_owned()));
            found.push(Fault { place, path, message });
            None
        }
    };
    (value, found)
}

/// A reading that failed, and where.
#[derive(Debug)]
struct Wrong(String, Option<(Place, String)>);

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Wrong {}

impl serde::de::Error for Wrong {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self(message.to_string(), None)
    }
}

struct Reader<'a> {
    node: &'a Node,
    path: String,
    besides: Besides<'a>,
    found: &'a RefCell<Vec<Fault>>,
}

impl Reader<'_> {
    fn here(&self) -> (Place, String) {
        (self.node.place, self.path.clone())
    }
}

impl<'a> Reader<'a> {
    fn child(&self, node: &'a Node, path: String) -> Self {
        Self { node, path, besides: Besides::Only(&[]), found: self.found }
    }

    fn key_path(&self, key: &Key) -> String {
        if self.path.is_empty() { key.name.clone() } else { format!("{}.{}", self.path, key.name) }
    }

    fn note_unknown(&self, fields: &'static [&'static str]) {
        let (Content::Map(entries), Besides::Only(besides)) = (&self.node.content, self.besides) else { return };
        let known = || fields.iter().chain(besides).copied();
        for (key, _) in entries.iter().filter(|(key, _)| !known().any(|field| field == key.name)) {
            let message = if let Some(meant) = nearest(&key.name, known()) {
                format!("unknown field; did you mean {meant:?}?")
            } else {
                let mut all: Vec<_> = known().collect();
                all.sort_unstable();
                format!("unknown field; known here: {}", all.join(", "))
            };
            self.found.borrow_mut().push(Fault { place: key.place, path: self.key_path(key), message });
        }
    }
}

impl<'de> Deserializer<'de> for Reader<'_> {
    type Error = Wrong;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        let here = self.here();
        let read = match &self.node.content {
            Content::Null => visitor.visit_unit(),
            Content::Bool(value) => visitor.visit_bool(*value),
            Content::Signed(value) => visitor.visit_i64(*value),
            Content::Unsigned(value) => visitor.visit_u64(*value),
            Content::Float(value) => visitor.visit_f64(*value),
            Content::Text(value) => visitor.visit_str(value),
            Content::List(items) => visitor.visit_seq(Items { reader: &self, items: items.iter().enumerate() }),
            Content::Map(entries) => visitor.visit_map(Entries { reader: &self, rest: entries.iter(), value: None }),
        };
        read.map_err(|Wrong(message, at)| Wrong(message, at.or(Some(here))))
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        match self.node.content {
            Content::Text(_) => self.deserialize_any(visitor),
            Content::Null => Err(Wrong("a text is missing here".to_owned(), Some(self.here()))),
            Content::Bool(_) | Content::Signed(_) | Content::Unsigned(_) | Content::Float(_) => {
                let message = format!("must be text and is {}; put it in quotes", self.node.kind());
                Err(Wrong(message, Some(self.here())))
            }
            Content::List(_) | Content::Map(_) => {
                let message = format!("must be text and is {}", self.node.kind());
                Err(Wrong(message, Some(self.here())))
            }
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        self.deserialize_string(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        match self.node.content {
            Content::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        match self.node.content {
            Content::List(_) => self.deserialize_any(visitor),
            // As Kubernetes reads it: nothing is an empty list.
            Content::Null => visitor.visit_seq(Items { reader: &self, items: [].iter().enumerate() }),
            _ => {
                let message = format!("must be a list and is {}; begin each item with \"- \"", self.node.kind());
                Err(Wrong(message, Some(self.here())))
            }
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        match self.node.content {
            Content::Map(_) => self.deserialize_any(visitor),
            Content::Null => visitor.visit_map(Entries { reader: &self, rest: [].iter(), value: None }),
            _ => {
                let message = format!("must be a mapping and is {}", self.node.kind());
                Err(Wrong(message, Some(self.here())))
            }
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Wrong> {
        self.note_unknown(fields);
        self.deserialize_map(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _name: &'static str, visitor: V) -> Result<V::Value, Wrong> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Wrong> {
        let here = self.here();
        match &self.node.content {
            Content::Text(text) => {
                visitor.visit_enum(Word(text)).map_err(|Wrong(message, at)| Wrong(message, at.or(Some(here))))
            }
            _ => Err(Wrong(format!("must be a word and is {}", self.node.kind()), Some(here))),
        }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        visitor.visit_unit()
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char bytes byte_buf unit unit_struct tuple tuple_struct
        identifier
    }
}

struct Items<'r, 'a> {
    reader: &'r Reader<'a>,
    items: std::iter::Enumerate<std::slice::Iter<'a, Node>>,
}

impl<'de> SeqAccess<'de> for Items<'_, '_> {
    type Error = Wrong;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Wrong> {
        let Some((number, node)) = self.items.next() else { return Ok(None) };
        seed.deserialize(self.reader.child(node, format!("{}[{number}]", self.reader.path))).map(Some)
    }
}

struct Entries<'r, 'a> {
    reader: &'r Reader<'a>,
    rest: std::slice::Iter<'a, (Key, Node)>,
    value: Option<(&'a Key, &'a Node)>,
}

impl<'de> MapAccess<'de> for Entries<'_, '_> {
    type Error = Wrong;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Wrong> {
        let Some((key, node)) = self.rest.next() else { return Ok(None) };
        self.value = Some((key, node));
        let name: StrDeserializer<'_, Wrong> = key.name.as_str().into_deserializer();
        seed.deserialize(name).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Wrong> {
        let (key, node) = self.value.take().ok_or_else(|| Wrong::custom("a value was asked for before its key"))?;
        seed.deserialize(self.reader.child(node, self.reader.key_path(key)))
    }
}

struct Word<'a>(&'a str);

impl<'de> EnumAccess<'de> for Word<'_> {
    type Error = Wrong;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Wrong> {
        let name: StrDeserializer<'_, Wrong> = self.0.into_deserializer();
        Ok((seed.deserialize(name)?, self))
    }
}

impl<'de> VariantAccess<'de> for Word<'_> {
    type Error = Wrong;

    fn unit_variant(self) -> Result<(), Wrong> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, _seed: T) -> Result<T::Value, Wrong> {
        Err(Wrong::custom("must be a word"))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _len: usize, _visitor: V) -> Result<V::Value, Wrong> {
        Err(Wrong::custom("must be a word"))
    }

    fn struct_variant<V: Visitor<'de>>(self, _fields: &'static [&'static str], _visitor: V) -> Result<V::Value, Wrong> {
        Err(Wrong::custom("must be a word"))
    }
}
