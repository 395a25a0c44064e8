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
