//! Another path in the place of a request's.

use std::borrow::Cow;

use bytes::Bytes;
use http::uri::PathAndQuery;
use percent_encoding::{CONTROLS, utf8_percent_encode};

use super::InvalidFilter;
use crate::{config::PathChange, route::path::normalize};

/// A checked [`PathChange`], in normal form and in ASCII.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Replacement {
    Full(Box<str>),
    /// Without a slash at its end; empty for the root.
    Prefix(Box<str>),
}

impl Replacement {
    pub(super) fn new(change: PathChange) -> Result<Self, InvalidFilter> {
        match change {
            PathChange::Full(path) => checked(path).map(|path| Self::Full(path.into())),
            PathChange::Prefix(path) => checked(path).map(|path| Self::Prefix(path.trim_end_matches('/').into())),
        }
    }

    /// The path in the place of `path`, of which the rule's prefix takes up `prefix_len` bytes; and how many bytes of the
    /// new one stand for those.
    ///
    /// What is not a path (`*`, or nothing at all) stays.
    pub(super) fn apply<'a>(&'a self, path: &'a str, prefix_len: usize) -> (Cow<'a, str>, usize) {
        if !path.starts_with('/') {
            return (path.into(), 0);
        }
        match self {
            Self::Full(full) => ((&**full).into(), full.trim_end_matches('/').len()),
            Self::Prefix(prefix) => {
                let rest = path.get(prefix_len..).unwrap_or_default();
                let path = match rest.trim_start_matches('/') {
                    "" if rest.is_empty() && !prefix.is_empty() => Cow::Borrowed(&**prefix),
                    // One slash where they meet, however many the path has there.
                    tail => format!("{prefix}/{tail}").into(),
                };
                (path, prefix.len())
            }
        }
    }
}

/// Path and query as one, if that is not too long to be a URI.
pub(super) fn join(path: &str, query: Option<&str>) -> Option<PathAndQuery> {
    let joined = match query {
        Some(query) => Bytes::from(format!("{path}?{query}")),
        None => Bytes::copy_from_slice(path.as_bytes()),
    };
    PathAndQuery::from_maybe_shared(joined).ok()
}

fn checked(path: String) -> Result<String, InvalidFilter> {
    if path.is_empty() {
        return Ok("/".to_owned());
    }
    // Control characters are encoded as well, and refused as such.
    let ascii: Cow<'_, str> = utf8_percent_encode(&path, CONTROLS).into();
    let normal = match normalize(&ascii) {
        Ok(normal) => normal.into_owned(),
        Err(reason) => return Err(InvalidFilter::Path { path, reason }),
    };
    if normal.starts_with('/') && normal.bytes().all(is_path_byte) {
        Ok(normal)
    } else {
        Err(InvalidFilter::PathCharacter { path })
    }
}

/// `pchar` of RFC 3986 section 3.3, and `/`.
fn is_path_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:@/".contains(&byte)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn prefix(text: &str) -> Replacement {
        Replacement::new(PathChange::Prefix(text.to_owned())).unwrap()
    }

    fn full(text: &str) -> Replacement {
        Replacement::new(PathChange::Full(text.to_owned())).unwrap()
    }

    #[test]
    fn prefixes_are_replaced_by_the_table_of_the_gateway_api() {
        for (path, matched, replacement, result) in [
            ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
            ("/foo", "/foo", "/xyz", "/xyz"),
            ("/foo/", "/foo", "/xyz", "/xyz/"),
            ("/foo/bar", "/foo", "", "/bar"),
            ("/foo/", "/foo", "", "/"),
            ("/foo", "/foo", "", "/"),
            ("/foo/", "/foo", "/", "/"),
            ("/foo", "/foo", "/", "/"),
            ("/foo/bar", "/foo", "/", "/bar"),
            // And what it leaves out.
            ("/foo", "/foo", "/xyz/", "/xyz"),
            ("/foo/", "/foo", "/xyz/", "/xyz/"),
            ("/", "", "/xyz", "/xyz/"),
            ("/bar/", "", "/xyz", "/xyz/bar/"),
            ("/foo//bar", "/foo", "/", "/bar"),
            ("/foo//evil.test", "/foo", "", "/evil.test"),
            ("/foobar", "/foo", "/xyz", "/xyz/bar"),
            ("/f\u{f6}\u{f6}", "/f.", "/xyz", "/xyz"),
            ("/foo", "/foo/and/more", "/xyz", "/xyz"),
            ("/foo/b%2Fr", "/foo", "/x/y", "/x/y/b%2Fr"),
            ("*", "", "/xyz", "*"),
            ("", "", "/xyz", ""),
        ] {
            let replacement = prefix(replacement);
            assert_eq!(replacement.apply(path, matched.len()).0, result, "{path} {matched} {replacement:?}");
        }
        for (path, replacement, result) in
            [("/foo/bar", "/xyz", "/xyz"), ("/", "/xyz/", "/xyz/"), ("/foo", "", "/"), ("*", "/xyz", "*")]
        {
            assert_eq!(full(replacement).apply(path, 1).0, result);
        }
    }

    #[test]
    fn replacements_are_brought_into_normal_form_or_refused() {
        assert_eq!(full("/a/./b//c/../%7e"), Replacement::Full("/a/b/~".into()));
        assert_eq!(prefix("//"), Replacement::Prefix("".into()));
        assert_eq!(full("/stra\u{df}e"), Replacement::Full("/stra%C3%9Fe".into()));
        assert_eq!(full("/a%2Fb;c=1,2"), Replacement::Full("/a%2Fb;c=1,2".into()));
        for path in ["a", "a/b", "/a?b", "/a#b", "/a b", "/%", "/..", "/a/..%2f", "/a\n", "/a\\b", "/\0", "/%0d"] {
            let refused = Replacement::new(PathChange::Full(path.to_owned())).unwrap_err();
            assert!(matches!(refused, InvalidFilter::Path { .. }), "{path:?}: {refused}");
        }
        for path in ["*", "/<a>", "/{id}", "/a|b", "/\"", "/`", "/^", "/[a]"] {
            let refused = Replacement::new(PathChange::Prefix(path.to_owned())).unwrap_err();
            assert_eq!(refused, InvalidFilter::PathCharacter { path: path.to_owned() });
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn what_follows_the_prefix_stays_and_the_result_is_a_path(
            matched in prop::collection::vec("[ab%]", 0..3),
            rest in prop::collection::vec("[ab;:@]{1,2}|%2F", 0..3),
            slash in any::<bool>(),
            by in prop::collection::vec("[xy]", 0..3),
            by_slash in any::<bool>(),
            query in prop::option::of("[a?/%&#=+\u{e9}]{0,6}".prop_filter("no fragment", |query| !query.contains('#'))),
        ) {
            let of = |segments: &[String]| segments.iter().map(|segment| format!("/{segment}")).collect::<String>();
            let end = |slash| if slash { "/" } else { "" };
            let path = format!("{}{}{}", of(&matched), of(&rest), end(slash || matched.is_empty() && rest.is_empty()));
            let slash = path.ends_with('/');
            let replacement = prefix(&format!("{}{}", of(&by), end(by_slash)));

            let (result, len) = replacement.apply(&path, of(&matched).len());
            let expected = format!("{}{}{}", of(&by), of(&rest), end(slash));
            prop_assert_eq!(&*result, if expected.is_empty() { "/" } else { &expected });
            prop_assert_eq!(&result[..len], of(&by));
            prop_assert!(result.starts_with('/') && !result.starts_with("//"));

            let joined = join(&result, query.as_deref()).unwrap();
            prop_assert_eq!(joined.path(), &*result);
            prop_assert_eq!(joined.query(), query.as_deref());
        }

        #[test]
        fn whatever_the_path_there_is_one_slash_at_its_beginning(
            path in "/[a/.%]{0,8}",
            len in 0_usize..12,
            by in "/?[a/.%]{0,6}",
        ) {
            for change in [PathChange::Full(by.clone()), PathChange::Prefix(by)] {
                let Ok(replacement) = Replacement::new(change) else { continue };
                let (result, len) = replacement.apply(&path, len);
                prop_assert!(result.starts_with('/') && !result.starts_with("//"));
                prop_assert!(len <= result.len());
                let joined = join(&result, None).unwrap();
                prop_assert_eq!(joined.path(), &*result);
            }
        }
    }
}
