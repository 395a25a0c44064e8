//! A document's tree from the events of the YAML parser.
//!
//! Deserializing the same tree costs several times as much, as every value then passes through serde with its place. So
//! what manifests are made of is read here: mappings with texts as keys, sequences and scalars. A document with anything
//! else (an anchor, an alias, a tag, a merge, an unusual key, a deep nest), or with any mistake, is not: [`tree`] says
//! `None`, and the deserializer, which has the limits and the words for those, reads it from its start.

use std::{borrow::Cow, collections::HashSet};

use serde_saphyr::granit_parser::{Event, Options, Parser, ScalarStyle, StrInput};

use super::tree::{Entry, Node, Value, scalar};

/// Deeper ones are left to the deserializer, which knows the limit.
const MAX_DEPTH: usize = 64;

/// The tree of a text that is one document of the usual kind. `lines_before` are those before the text in its file.
pub(super) fn tree(lines_before: u32, text: &str) -> Option<Node> {
    let mut options = Options::default();
    options.set_emit_comments(false);
    let parser = Parser::new_from_str_with_options(text, options);
    let mut events = Events { parser, lines_before, nodes: Vec::with_capacity(16), entries: Vec::with_capacity(16) };
    events.expect(|event| matches!(event, Event::StreamStart))?;
    events.expect(|event| matches!(event, Event::DocumentStart(..)))?;
    let (event, span) = events.next()?;
    let node = events.node(event, span, 0)?;
    events.expect(|event| matches!(event, Event::DocumentEnd))?;
    events.expect(|event| matches!(event, Event::StreamEnd))?;
    Some(node)
}

struct Events<'a> {
    parser: Parser<'a, StrInput<'a>>,
    lines_before: u32,
    /// What is read of the collections that are open: each is allocated once, when its size is known.
    nodes: Vec<Node>,
    entries: Vec<Entry>,
}

/// Line and column.
type Position = (u32, u32);

impl<'a> Events<'a> {
    fn next(&mut self) -> Option<(Event<'a>, Position)> {
        let (event, span) = self.parser.next()?.ok()?;
        let narrow = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let line = narrow(span.start.line()).saturating_add(self.lines_before);
        Some((event, (line, narrow(span.start.col() + 1))))
    }

    fn expect(&mut self, is_it: fn(&Event<'a>) -> bool) -> Option<()> {
        self.next().filter(|(event, _)| is_it(event)).map(drop)
    }

    /// The node that starts with `event`.
    fn node(&mut self, event: Event<'a>, (line, column): Position, depth: usize) -> Option<Node> {
        let value = match event {
            Event::Scalar(text, ScalarStyle::Plain, 0, None) => plain(text)?,
            Event::Scalar(text, _, 0, None) => Value::Text(boxed(text)),
            Event::SequenceStart(_, 0, None) if depth < MAX_DEPTH => self.sequence(depth + 1)?,
            Event::MappingStart(_, 0, None) if depth < MAX_DEPTH => self.mapping(depth + 1)?,
            _ => return None,
        };
        Some(Node { value, line, column })
    }

    fn sequence(&mut self, depth: usize) -> Option<Value> {
        let start = self.nodes.len();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Some(Value::Sequence(self.nodes.split_off(start))),
                (event, at) => {
                    let node = self.node(event, at, depth)?;
                    self.nodes.push(node);
                }
            }
        }
    }

    fn mapping(&mut self, depth: usize) -> Option<Value> {
        let start = self.entries.len();
        loop {
            let (key, (key_line, key_column)) = match self.next()? {
                (Event::MappingEnd, _) => break,
                (Event::Scalar(key, style, 0, None), at) if style != ScalarStyle::Plain || is_usual_key(&key) => {
                    (key, at)
                }
                _ => return None,
            };
            let (event, at) = self.next()?;
            let node = self.node(event, at, depth)?;
            self.entries.push(Entry { key: boxed(key), key_line, key_column, node });
        }
        let entries = self.entries.split_off(start);
        are_unique(&entries).then_some(Value::Mapping(entries))
    }
}

/// What a scalar without quotes is. Most are texts, and that is told by their look.
fn plain(text: Cow<'_, str>) -> Option<Value> {
    Some(match &*text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" => Value::Bool(true),
        "false" | "False" | "FALSE" => Value::Bool(false),
        "0" => Value::Unsigned(0),
        // Up to 19 digits are less than 2^64.
        digits if digits.len() < 20 && !digits.starts_with('0') && digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            Value::Unsigned(digits.parse().ok()?)
        }
        other if may_be_number(other) => return scalar(other),
        _ => Value::Text(boxed(text)),
    })
}

/// Whether it is worth a closer look: numbers start with a digit, a sign or a dot, and have one dot at the most.
fn may_be_number(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_digit() || matches!(first, '+' | '-' | '.'))
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.' | b'_'))
        && text.bytes().any(|byte| byte.is_ascii_alphanumeric())
        && text.bytes().filter(|byte| *byte == b'.').count() < 2
}

/// Whether a key without quotes is just its text: no null, no merge, and no number, of which two may be the same key.
fn is_usual_key(key: &str) -> bool {
    !matches!(key, "" | "~" | "null" | "Null" | "NULL" | "<<") && !may_be_number(key)
}

fn are_unique(entries: &[Entry]) -> bool {
    if entries.len() <= 16 {
        return entries
            .iter()
            .enumerate()
            .all(|(index, one)| entries[..index].iter().all(|other| other.key != one.key));
    }
    let mut seen = HashSet::with_capacity(entries.len());
    entries.iter().all(|entry| seen.insert(&*entry.key))
}

fn boxed(text: Cow<'_, str>) -> Box<str> {
    match text {
        Cow::Borrowed(text) => text.into(),
        Cow::Owned(text) => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::source::tree::deserialize;

    /// Whether the events sufficed. What they gave is what the deserializer gives.
    fn suffices(text: &str) -> bool {
        let Some(node) = tree(7, text) else {
            return false;
        };
        let expected = deserialize(7, text).unwrap_or_else(|error| panic!("{text:?} is refused: {error:?}"));
        assert_eq!(format!("{node:?}"), format!("{expected:?}"), "{text:?}");
        true
    }

    #[test]
    fn what_manifests_are_made_of_is_read_from_events() {
        for text in [
            "a: 1\nb: [x, 'y', \"z\\n\", {c: d}]\ne:\n- f: g\n  h: |\n    i\n    ---j\n  k: >-\n    l\n    m\n- []\n- {}\n",
            "# c\n%YAML 1.2\n--- # d\na: b # e\nc: d#e\n...\n",
            "{\"a\": [1, -2, 3.5, true, null, \"\\u00e9\\ud83d\\ude00\"], \"b\": {\"c\": \"\"}}",
            "a:\r\n  b: c\r\n  d: 'e\r\n    f'\r\n",
            "\u{feff}a: é\nü: \u{1f600} b\nc: d\n",
            "a: 10.0.0.1\nb: 12:30:00\nc: 2026-01-31T12:00:00Z\nd: 1.2.3\ne: fd00::1\nf: 0755\ng: 1_000\nh: 0x1F\ni: -0\nj: +1",
            "a: 18446744073709551615\nb: 18446744073709551616\nc: 1e3\nd: .5\ne: 5.\nf: -.5\ng: 0\nh: 00\ni: 1e\nk: --\nl: .",
            "a: y\nb: No\nc: TRUE\nd: False\ne: tRUE\nf: NULL\ng: nUll\nh: ~\ni:\nj: inf\nk: nan\nl: Infinity\nm: ~a\nn: .n\no: '~'",
            "true: a\nyes: b\n'1': c\n\"~\": d\n/e: f\n10.0.0.1: g\n'<<': h\n",
            "a: b\n  c\n  d\ne:\n- f\n-\n  - g\n- - h\n",
            "- 1\n- a\n",
            "text",
        ] {
            assert!(suffices(text), "{text:?}");
        }
    }

    #[test]
    fn whatever_else_there_is_is_left_to_the_deserializer() {
        let deep = "[".repeat(MAX_DEPTH + 1) + &"]".repeat(MAX_DEPTH + 1);
        for text in [
            "a: &x b\n",
            "a: &x b\nc: *x\n",
            "a: &x {b: c}\nd:\n  <<: *x\n",
            "<<: {a: b}\n",
            "a: !!str 1\n",
            "a: ! b\n",
            "!t {a: b}\n",
            "a: 1\na: 2\n",
            "a: 1\n'a': 2\n",
            "1: a\n0x1: b\n",
            "~: a\n",
            ": a\n",
            "{a, : b}",
            "? [a]\n: b\n",
            "a: .inf\n",
            "a: 1e999\n",
            "a: b\n\tc: d\n",
            "a: [b\n",
            "a: 'b\n",
            "a: b: c\n",
            "a: b\r---\rc: d\n",
            "a: b\n...\nc: d\n",
            "",
            &deep,
        ] {
            assert!(!suffices(text), "{text:?}");
        }
    }

    #[test]
    fn a_key_of_many_that_is_there_twice_is_seen() {
        let many: String = (0..100).map(|number| format!("k{number}: v\n")).collect();
        assert!(suffices(&many));
        assert!(!suffices(&(many + "k50: v\n")));
    }

    proptest! {
        #[test]
        fn it_is_the_tree_that_the_deserializer_makes(
            parts in prop::collection::vec(prop::sample::select(&PARTS[..]), 1..40)
        ) {
            suffices(&parts.concat());
        }
    }

    const PARTS: [&str; 60] = [
        "a: ",
        "b: ",
        "c:\n",
        "\n",
        "\n  ",
        "\n    ",
        "\n- ",
        "\n  - ",
        "- ",
        "a",
        "b c",
        "é",
        "1",
        "0",
        "-1",
        "+1",
        "1.5",
        "0x1",
        "1e3",
        ".5",
        ".inf",
        "1_0",
        "10.0.0.1",
        "null",
        "~",
        "true",
        "yes",
        "[",
        "]",
        "{",
        "}",
        ", ",
        ",",
        ": ",
        ":",
        "? ",
        "'",
        "\"",
        "'x'",
        "\"y\"",
        "#",
        " # c",
        "&x ",
        "*x",
        "!t ",
        "!!str ",
        "<<: ",
        "|\n",
        ">-\n",
        "\t",
        "\r",
        "\r\n",
        "\u{feff}",
        "\u{85}",
        "\u{2028}",
        "%YAML 1.2\n",
        "\\",
        "---",
        "...",
        "  ",
    ];
}
