//! YAML as a tree in which every value knows its line.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

use super::events;

/// A value and where it stands in its file.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) value: Value,
    pub(super) line: u32,
    pub(super) column: u32,
}

#[derive(Debug, Clone)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Text(Box<str>),
    Sequence(Vec<Node>),
    Mapping(Vec<Entry>),
}

#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) key: Box<str>,
    pub(super) key_line: u32,
    pub(super) key_column: u32,
    pub(super) node: Node,
}

/// A document that is not YAML.
#[derive(Debug)]
pub(super) struct SyntaxError {
    pub(super) line: u32,
    pub(super) column: u32,
    pub(super) message: String,
}

/// Reads every document of a file; empty ones are left out.
///
/// The text is cut at the document markers before it is parsed, so that a broken document hides nothing of the others.
/// A marker at the start of a line is one wherever it stands, also within quotes (YAML 1.2.2, section 9.1.2).
pub(super) fn documents(text: &str) -> impl Iterator<Item = Result<Node, SyntaxError>> {
    chunks(text.strip_prefix('\u{feff}').unwrap_or(text))
        .filter(|(_, chunk)| !is_blank(chunk))
        .map(|(line, chunk)| parse(line, chunk))
        .filter(|document| !matches!(document, Ok(Node { value: Value::Null, .. })))
}

fn parse(first_line: u32, text: &str) -> Result<Node, SyntaxError> {
    events::tree(first_line, text).map_or_else(|| deserialize(first_line, text), Ok)
}

/// The value of a scalar without quotes, if it is one.
pub(super) fn scalar(text: &str) -> Option<Value> {
    serde_saphyr::from_str_with_options(text, options()).ok()
}

/// Reads whatever YAML may hold, and says what is wrong with it.
pub(super) fn deserialize(first_line: u32, text: &str) -> Result<Node, SyntaxError> {
    match serde_saphyr::from_str_with_options::<Spanned<Value>>(text, options()) {
        Ok(spanned) => {
            let mut node = Node::from(spanned);
            node.shift(first_line);
            Ok(node)
        }
        Err(error) => {
            let location = error.location().unwrap_or(serde_saphyr::Location::UNKNOWN);
            let (line, column) = position(location);
            let shown = error.without_snippet().to_string();
            let message = shown.strip_suffix(&format!(" at line {line}, column {column}")).unwrap_or(&shown);
            let message = message.strip_suffix(", set DuplicateKeyPolicy in Options if acceptable").unwrap_or(message);
            Err(SyntaxError { line: line.max(1) + first_line, column, message: message.to_owned() })
        }
    }
}

fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        // The files are the operator's own, and may hold ten thousand objects in one list. What stays limited is what
        // grows by itself: nesting (the stack) and aliases.
        budget: serde_saphyr::budget! {
            max_depth: 128,
            max_events: usize::MAX,
            max_nodes: usize::MAX,
            max_total_scalar_bytes: usize::MAX,
        },
        // Only `true` and `false` (YAML 1.2): `y`, `no` and `on` are names of things.
        strict_booleans: true,
    }
}

/// The documents' texts, each with the number of lines before it. A marker line belongs to the document it starts, as
/// it may hold its first value.
fn chunks(text: &str) -> impl Iterator<Item = (u32, &str)> {
    let mut rest = Some(text);
    let mut line = 0;
    std::iter::from_fn(move || {
        let all = rest.take()?;
        let (mut end, mut lines, mut next) = (all.len(), 0, None);
        let mut offset = 0;
        for one in all.split_inclusive('\n') {
            if offset > 0 && is_marker(one, "---") {
                (end, next) = (offset, Some(offset));
                break;
            }
            offset += one.len();
            lines += 1;
            if is_marker(one, "...") {
                (end, next) = (offset, Some(offset));
                break;
            }
        }
        let start = line;
        line += lines;
        rest = next.map(|at| &all[at..]);
        Some((start, &all[..end]))
    })
}

fn is_marker(line: &str, marker: &str) -> bool {
    line.strip_prefix(marker).is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

/// Whether there is nothing to read: comments, directives and markers at the most.
fn is_blank(chunk: &str) -> bool {
    chunk.lines().all(|line| {
        let line = line.trim();
        line.is_empty() || line.starts_with('#') || line.starts_with('%') || line == "---" || line == "..."
    })
}

impl Node {
    /// The value of a mapping's field.
    pub(super) fn get(&self, key: &str) -> Option<&Self> {
        match &self.value {
            Value::Mapping(entries) => entries.iter().find(|entry| &*entry.key == key).map(|entry| &entry.node),
            _ => None,
        }
    }

    pub(super) fn get_mut(&mut self, key: &str) -> Option<&mut Self> {
        match &mut self.value {
            Value::Mapping(entries) => entries.iter_mut().find(|entry| &*entry.key == key).map(|entry| &mut entry.node),
            _ => None,
        }
    }

    /// The elements of a sequence; none of anything else.
    pub(super) fn elements_mut(&mut self) -> &mut [Self] {
        match &mut self.value {
            Value::Sequence(nodes) => nodes,
            _ => &mut [],
        }
    }

    #[cfg(feature = "kubernetes")]
    pub(super) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Line and column of the value at `path` (`spec.rules[0].host`, `data[tls.crt]`), or of the innermost value around
    /// it that there is.
    pub(super) fn locate(&self, path: &str) -> (u32, u32) {
        let mut node = self;
        for segment in segments(path) {
            let next = match (&node.value, segment.parse::<usize>()) {
                (Value::Sequence(nodes), Ok(index)) => nodes.get(index),
                _ => node.get(segment),
            };
            match next {
                Some(next) => node = next,
                None => break,
            }
        }
        (node.line, node.column)
    }

    /// Moves it down by as many lines.
    fn shift(&mut self, by: u32) {
        if by == 0 {
            return;
        }
        self.line += by;
        match &mut self.value {
            Value::Sequence(nodes) => nodes.iter_mut().for_each(|node| node.shift(by)),
            Value::Mapping(entries) => {
                for entry in entries {
                    entry.key_line += by;
                    entry.node.shift(by);
                }
            }
            _ => {}
        }
    }
}

/// The keys and indices of a path. A key that holds a dot stands in brackets.
fn segments(path: &str) -> impl Iterator<Item = &str> {
    let mut rest = path;
    std::iter::from_fn(move || {
        rest = rest.strip_prefix('.').unwrap_or(rest);
        if rest.is_empty() {
            return None;
        }
        let (segment, after) = match rest.strip_prefix('[') {
            Some(inside) => inside.split_once(']').unwrap_or((inside, "")),
            None => rest.split_at(rest.find(['.', '[']).unwrap_or(rest.len())),
        };
        rest = after;
        Some(segment)
    })
}

impl From<Spanned<Value>> for Node {
    fn from(spanned: Spanned<Value>) -> Self {
        let (line, column) = position(spanned.referenced);
        Self { value: spanned.value, line, column }
    }
}

fn position(location: serde_saphyr::Location) -> (u32, u32) {
    let narrow = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    (narrow(location.line()), narrow(location.column()))
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Build)
    }
}

struct Build;

impl<'de> Visitor<'de> for Build {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Unsigned(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(u64::try_from(value).map_or(Value::Signed(value), Value::Unsigned))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.into()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::Text(value.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut nodes = Vec::new();
        while let Some(node) = access.next_element::<Spanned<Value>>()? {
            nodes.push(node.into());
        }
        Ok(Value::Sequence(nodes))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut entries = Vec::new();
        while let Some((key, node)) = access.next_entry::<Spanned<Box<str>>, Spanned<Value>>()? {
            let (key_line, key_column) = position(key.referenced);
            entries.push(Entry { key: key.value, key_line, key_column, node: node.into() });
        }
        Ok(Value::Mapping(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text<'n>(node: &'n Node, key: &str) -> Option<&'n str> {
        match &node.get(key)?.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    fn lines(text: &str) -> Vec<u32> {
        documents(text).map(|document| document.expect("is YAML").line).collect()
    }

    #[test]
    fn documents_keep_the_lines_of_their_file() {
        assert_eq!(lines("a: 1\n---\nb: 2\n--- # c\nc: 3\n"), [1, 3, 5]);
        assert_eq!(lines("# only\n---\n---\n\n---\na: 1\n...\n# end\n"), [6]);
        assert_eq!(lines("%YAML 1.2\n---\na: 1\n...\n---\nb: 1"), [3, 6]);
        assert_eq!(lines("\u{feff}{\"a\": 1}"), [1]);
        assert_eq!(lines("--- {a: 1}\r\n---\r\nb: 1\r\n"), [1, 3]);
        assert_eq!(lines(""), [0_u32; 0]);
        assert_eq!(lines("----\n"), [1], "four dashes are a text");
    }

    #[test]
    fn a_broken_document_leaves_the_others() {
        let all: Vec<_> = documents("a: 1\n---\nb: [1\n---\nc: 'x\n---\nd: 1\nd: 2\n---\ne: 1\n").collect();
        assert_eq!(all.len(), 5);
        assert!(all[0].is_ok() && all[4].is_ok());
        let error = all[3].as_ref().unwrap_err();
        assert_eq!((error.line, error.column, &*error.message), (8, 1, "duplicate mapping key: d"));
        assert_eq!(all[2].as_ref().unwrap_err().line, 5);
    }

    #[test]
    fn a_path_leads_to_the_innermost_value_there_is() {
        let node = documents("# x\na:\n  - b: 1\n    d.e:\n      f: 2\n  - 7\n").next().unwrap().unwrap();
        assert_eq!(node.locate("a[0].b"), (3, 8));
        assert_eq!(node.locate("a[0][d.e].f"), (5, 10));
        assert_eq!(node.locate("a[1]"), (6, 5));
        assert_eq!(node.locate("a[0].missing.more"), (3, 5));
        assert_eq!(node.locate(""), (2, 1));
    }

    #[test]
    fn what_grows_by_itself_is_refused() {
        assert!(documents(&"[".repeat(100_000)).next().unwrap().is_err(), "and no stack overflow");
        // Without optimization the deserializer needs more than the stack that a test has.
        let deep = |depth: usize| {
            let read = move || documents(&("[".repeat(depth) + &"]".repeat(depth))).next().unwrap();
            std::thread::Builder::new().stack_size(16 << 20).spawn(read).unwrap().join().unwrap()
        };
        assert!(deep(128).is_ok());
        let error = deep(129).unwrap_err();
        assert_eq!((error.line, error.column), (1, 129), "{}", error.message);

        let bomb = format!("a: &a [x]\nb: [{}]\n", vec!["*a"; 1000].join(", "));
        assert!(documents(&bomb).next().unwrap().is_err(), "many aliases of few anchors");

        let long = "x".repeat(1 << 20);
        let node = documents(&format!("a: {long}\nb: '{long}'\n")).next().unwrap().unwrap();
        assert!(["a", "b"].iter().all(|key| text(&node, key) == Some(&long)), "a size is no growth");
    }

    #[test]
    fn anchors_and_merges_are_followed() {
        let merged = "# x\na: &a {b: &b 1, c: d}\ne: *a\nf:\n  <<: *a\n  c: g\nh: *b\n";
        let node = documents(merged).next().unwrap().unwrap();
        let at = |key: &str| node.get(key).unwrap();
        assert!(matches!(at("h").value, Value::Unsigned(1)));
        assert_eq!((at("h").line, at("h").column), (7, 4), "an alias stands where it is used");
        assert_eq!(text(at("e"), "c"), Some("d"));
        assert_eq!(text(at("f"), "c"), Some("g"), "what is merged does not win");
        assert!(matches!(at("f").get("b").unwrap().value, Value::Unsigned(1)));
        assert!(documents("a: *gone\n").next().unwrap().is_err());
    }

    #[test]
    fn a_marker_is_one_at_the_start_of_a_line_only() {
        let all: Vec<_> = documents("a: |\n  b\n  ---\n  c\n---\nd: 1\n").map(Result::unwrap).collect();
        assert_eq!(all.len(), 2);
        assert_eq!(text(&all[0], "a"), Some("b\n---\nc\n"));
        let tab = documents("a:\n\tb: 1\n").next().unwrap().unwrap_err();
        assert_eq!(tab.line, 2, "{}", tab.message);
    }
}
