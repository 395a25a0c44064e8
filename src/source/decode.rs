//! From a tree to a type, by serde: what does not fit is named with its field and line.

use std::fmt;

use serde::{
    de::{
        self, DeserializeSeed, Deserializer, EnumAccess, Expected, MapAccess, SeqAccess, Unexpected, VariantAccess,
        Visitor, value::BorrowedStrDeserializer,
    },
    forward_to_deserialize_any,
};

use super::{
    error::Fault,
    tree::{Entry, Node, Value},
};

/// What a field without a value means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Nulls {
    /// The same as no field.
    #[cfg(feature = "kubernetes")]
    Absent,
    /// A mistake: `tls:` with nothing behind it would silently mean no TLS.
    Refused,
}

/// Makes a `T` of a tree.
pub(super) fn decode<'a, T: serde::Deserialize<'a>>(node: &'a Node, nulls: Nulls) -> Result<T, DecodeError> {
    T::deserialize(Decoder { node, nulls })
}

/// What does not fit, and where.
#[derive(Debug)]
pub(super) struct DecodeError {
    pub(super) fault: Fault,
    /// Line and column.
    pub(super) position: Option<(u32, u32)>,
    /// Innermost first.
    path: Vec<Segment>,
}

#[derive(Debug)]
enum Segment {
    Key(Box<str>),
    Index(usize),
}

#[derive(Clone, Copy)]
struct Decoder<'a> {
    node: &'a Node,
    nulls: Nulls,
}

struct Fields<'a> {
    entries: std::slice::Iter<'a, Entry>,
    current: Option<&'a Entry>,
    nulls: Nulls,
}

struct Elements<'a> {
    nodes: std::iter::Enumerate<std::slice::Iter<'a, Node>>,
    nulls: Nulls,
}

/// A mapping of one entry, `variant: value`.
struct Variant<'a> {
    entry: &'a Entry,
    nulls: Nulls,
}

impl DecodeError {
    /// The path from the root, such as `spec.rules[0].host`.
    pub(super) fn field(&self) -> String {
        let mut text = String::new();
        for segment in self.path.iter().rev() {
            match segment {
                Segment::Index(index) => text.push_str(&format!("[{index}]")),
                Segment::Key(key) if key.contains(['.', '[', ']']) => text.push_str(&format!("[{key}]")),
                Segment::Key(key) => {
                    if !text.is_empty() {
                        text.push('.');
                    }
                    text.push_str(key);
                }
            }
        }
        text
    }

    fn of(fault: Fault) -> Self {
        Self { fault, position: None, path: Vec::new() }
    }

    fn placed(mut self, line: u32, column: u32) -> Self {
        self.position.get_or_insert((line, column));
        self
    }

    fn within(mut self, segment: Segment) -> Self {
        self.path.push(segment);
        self
    }
}

impl<'a> Decoder<'a> {
    fn type_error(self, expected: &dyn Expected) -> DecodeError {
        de::Error::invalid_type(unexpected(&self.node.value), expected)
    }

    fn visit<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        let Self { node, nulls } = self;
        match &node.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Unsigned(value) => visitor.visit_u64(*value),
            Value::Signed(value) => visitor.visit_i64(*value),
            Value::Float(value) => visitor.visit_f64(*value),
            Value::Text(text) => visitor.visit_borrowed_str(text),
            Value::Sequence(nodes) => visitor.visit_seq(Elements { nodes: nodes.iter().enumerate(), nulls }),
            Value::Mapping(entries) => visitor.visit_map(Fields { entries: entries.iter(), current: None, nulls }),
        }
    }
}

impl<'a> Deserializer<'a> for Decoder<'a> {
    type Error = DecodeError;

    fn deserialize_any<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.visit(visitor).map_err(|error| error.placed(self.node.line, self.node.column))
    }

    fn deserialize_option<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match self.node.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'a>>(self, _: &'static str, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'a>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        let Self { node, nulls } = self;
        let result = match &node.value {
            Value::Text(text) => visitor.visit_enum(BorrowedStrDeserializer::new(text)),
            Value::Mapping(entries) => match &**entries {
                [entry] => visitor.visit_enum(Variant { entry, nulls }),
                _ => Err(DecodeError::of(Fault::Type {
                    found: "a mapping of several fields".to_owned(),
                    expected: "exactly one".to_owned(),
                })),
            },
            _ => Err(self.type_error(&visitor)),
        };
        result.map_err(|error| error.placed(node.line, node.column))
    }

    /// Serde's derived types would take a list too, field by field; in YAML that is a mistake.
    fn deserialize_struct<V: Visitor<'a>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        match self.node.value {
            Value::Mapping(_) => self.deserialize_any(visitor),
            _ => Err(self.type_error(&visitor).placed(self.node.line, self.node.column)),
        }
    }

    fn deserialize_ignored_any<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        <V: Visitor<'a>>
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map identifier
    }
}

impl<'a> MapAccess<'a> for Fields<'a> {
    type Error = DecodeError;

    fn next_key_seed<K: DeserializeSeed<'a>>(&mut self, seed: K) -> Result<Option<K::Value>, DecodeError> {
        let Some(entry) = self
            .entries
            .by_ref()
            .find(|entry| self.nulls == Nulls::Refused || !matches!(entry.node.value, Value::Null))
        else {
            return Ok(None);
        };
        self.current = Some(entry);
        seed.deserialize(BorrowedStrDeserializer::new(&entry.key)).map(Some).map_err(|error: DecodeError| {
            error.placed(entry.key_line, entry.key_column).within(Segment::of(&entry.key))
        })
    }

    fn next_value_seed<V: DeserializeSeed<'a>>(&mut self, seed: V) -> Result<V::Value, DecodeError> {
        let Some(entry) = self.current.take() else {
            return Err(de::Error::custom("a value was asked for before its key"));
        };
        value(entry, self.nulls, seed)
    }
}

fn value<'a, V: DeserializeSeed<'a>>(entry: &'a Entry, nulls: Nulls, seed: V) -> Result<V::Value, DecodeError> {
    let result = if nulls == Nulls::Refused && matches!(entry.node.value, Value::Null) {
        Err(DecodeError::of(Fault::Invalid("has no value: give it one, or leave the field out".to_owned()))
            .placed(entry.key_line, entry.key_column))
    } else {
        seed.deserialize(Decoder { node: &entry.node, nulls })
    };
    // A check that follows the reading (`try_from`, `deserialize_with`) does not know its place.
    result.map_err(|error| error.placed(entry.node.line, entry.node.column).within(Segment::of(&entry.key)))
}

impl<'a> SeqAccess<'a> for Elements<'a> {
    type Error = DecodeError;

    fn next_element_seed<T: DeserializeSeed<'a>>(&mut self, seed: T) -> Result<Option<T::Value>, DecodeError> {
        let Some((index, node)) = self.nodes.next() else {
            return Ok(None);
        };
        seed.deserialize(Decoder { node, nulls: self.nulls })
            .map(Some)
            .map_err(|error| error.placed(node.line, node.column).within(Segment::Index(index)))
    }
}

impl<'a> EnumAccess<'a> for Variant<'a> {
    type Error = DecodeError;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'a>>(self, seed: V) -> Result<(V::Value, Self), DecodeError> {
        let Entry { key, key_line, key_column, .. } = self.entry;
        let variant = seed
            .deserialize(BorrowedStrDeserializer::new(key))
            .map_err(|error: DecodeError| error.placed(*key_line, *key_column))?;
        Ok((variant, self))
    }
}

impl<'a> VariantAccess<'a> for Variant<'a> {
    type Error = DecodeError;

    fn unit_variant(self) -> Result<(), DecodeError> {
        let Entry { key, key_line, key_column, .. } = self.entry;
        Err(DecodeError::of(Fault::Invalid(format!("`{key}` takes no value: write `{key}` alone")))
            .placed(*key_line, *key_column))
    }

    fn newtype_variant_seed<T: DeserializeSeed<'a>>(self, seed: T) -> Result<T::Value, DecodeError> {
        value(self.entry, self.nulls, seed)
    }

    fn tuple_variant<V: Visitor<'a>>(self, _: usize, _: V) -> Result<V::Value, DecodeError> {
        Err(de::Error::custom("a variant of several values without names has no form in YAML"))
    }

    fn struct_variant<V: Visitor<'a>>(self, _: &'static [&'static str], visitor: V) -> Result<V::Value, DecodeError> {
        value(self.entry, self.nulls, Fielded(visitor))
    }
}

/// Lets a visitor have a mapping.
struct Fielded<V>(V);

impl<'a, V: Visitor<'a>> DeserializeSeed<'a> for Fielded<V> {
    type Value = V::Value;

    fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<V::Value, D::Error> {
        deserializer.deserialize_struct("", &[], self.0)
    }
}

impl Segment {
    fn of(key: &str) -> Self {
        Self::Key(key.into())
    }
}

impl std::error::Error for DecodeError {}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field(), self.fault)
    }
}

impl de::Error for DecodeError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::of(Fault::Invalid(message.to_string()))
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::of(Fault::Type { found: in_words(found), expected: plainly(expected) })
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::invalid_type(found, expected)
    }

    fn unknown_variant(found: &str, expected: &'static [&'static str]) -> Self {
        Self::of(Fault::Type { found: format!("`{found}`"), expected: format!("one of {}", list(expected)) })
    }

    fn unknown_field(_: &str, expected: &'static [&'static str]) -> Self {
        Self::of(Fault::UnknownField { expected: list(expected) })
    }

    fn missing_field(field: &'static str) -> Self {
        Self::of(Fault::Missing).within(Segment::of(field))
    }
}

fn unexpected(value: &Value) -> Unexpected<'_> {
    match value {
        Value::Null => Unexpected::Unit,
        Value::Bool(value) => Unexpected::Bool(*value),
        Value::Unsigned(value) => Unexpected::Unsigned(*value),
        Value::Signed(value) => Unexpected::Signed(*value),
        Value::Float(value) => Unexpected::Float(*value),
        Value::Text(text) => Unexpected::Str(text),
        Value::Sequence(_) => Unexpected::Seq,
        Value::Mapping(_) => Unexpected::Map,
    }
}

fn in_words(found: Unexpected<'_>) -> String {
    match found {
        Unexpected::Unit | Unexpected::Option => "nothing".to_owned(),
        Unexpected::Bool(value) => format!("the boolean `{value}`"),
        Unexpected::Unsigned(value) => format!("the number {value}"),
        Unexpected::Signed(value) => format!("the number {value}"),
        Unexpected::Float(value) => format!("the number {value}"),
        Unexpected::Str(text) => format!("the text `{text}`"),
        Unexpected::Seq => "a list".to_owned(),
        Unexpected::Map => "a mapping".to_owned(),
        Unexpected::UnitVariant => "a name without a value".to_owned(),
        other => other.to_string(),
    }
}

/// What serde expected, in the words of YAML.
fn plainly(expected: &dyn Expected) -> String {
    let text = expected.to_string();
    match &*text {
        "u8" => "a whole number from 0 to 255",
        "u16" => "a whole number from 0 to 65535",
        "u32" | "u64" | "usize" => "a whole number, 0 or more",
        "i32" | "i64" => "a whole number",
        "a string" => "a text (numbers, true and false need quotes to be one)",
        "a boolean" => "`true` or `false`",
        "a sequence" => "a list",
        "a map" => "a mapping",
        "newtype variant" | "struct variant" => "its value, as `name: value`",
        text if text.starts_with("struct ") => "a mapping",
        text => text,
    }
    .to_owned()
}

fn list(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}
