//! The normal form of a path: the one that is matched, and the one that is forwarded.
//!
//! A router that matches one reading of a path and forwards another can be walked around: `/public/..%2fadmin` is under
//! `/public` for one reader and `/admin` for the next. So there is one form, and what has no form that every reader
//! agrees on is refused.
//!
//! 1. A path begins with `/`. (`*` of `OPTIONS *` is left alone.)
//! 2. Percent-encoded letters, digits, `-`, `.`, `_` and `~` are decoded (RFC 3986 section 6.2.2.2). Every other escape
//!    stays as it was sent, with its letters' case.
//! 3. Runs of `/` become one.
//! 4. `.` and `..` segments are resolved (RFC 3986 section 5.2.4), after rules 2 and 3. A `..` above the root is refused.
//! 5. `%2f` and `%5c` are data, not separators, and stay. But where reading them as separators, or cutting a segment at
//!    its first `;` or `%3b` (as servlet containers do), would bring forth a `.` or `..` segment, the path is refused:
//!    `/a%2f..%2fb`, `/..;/x`.
//! 6. Refused as well: encoded and raw control characters, raw `\`, space, `?` and `#`, and a `%` without two hex digits.
//!
//! A path that is already normal is returned as it is, byte for byte, without an allocation. The query has no normal
//! form; it is never touched.
//!
//! # Caveats
//! A doubly encoded path (`%252e`) is normal: an application that decodes twice has to look after itself.
//!
//! # Example
//! ```
//! use portcullis::route::path::{Refusal, normalize};
//!
//! assert_eq!(normalize("/a/./b/../%7euser//x")?, "/a/~user/x");
//! assert_eq!(normalize("/a%2Fb")?, "/a%2Fb");
//! let refused = normalize("/a%2f..%2fb").unwrap_err();
//! assert_eq!((refused.reason(), refused.offset()), (Refusal::HiddenDotSegment, 1));
//! # Ok::<_, portcullis::route::path::InvalidPath>(())
//! ```

#[cfg(test)]
mod tests;

use std::{borrow::Cow, mem};

use bytes::Bytes;
use http::{Uri, uri::PathAndQuery};
use thiserror::Error;

use crate::Outcome;

/// A path without a normal form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the path is refused: {reason}, at byte {offset}")]
pub struct InvalidPath {
    offset: usize,
    reason: Refusal,
}

/// Why a path is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Error)]
#[non_exhaustive]
pub enum Refusal {
    /// It does not begin with `/`.
    #[error("it does not begin with `/`")]
    NotAbsolute,
    /// A `..` leads above the root.
    #[error("`..` leads above the root")]
    AboveRoot,
    /// Readers that take `%2f`, `%5c` or `;` for separators would see a `.` or `..` segment.
    #[error("it hides a `.` or `..` segment behind `%2f`, `%5c` or `;`")]
    HiddenDotSegment,
    /// A control character, raw or encoded.
    #[error("control character")]
    ControlCharacter,
    /// A raw `\`, space, `?` or `#`.
    #[error("character that has to be percent-encoded in a path")]
    Unencoded,
    /// A `%` that is not followed by two hexadecimal digits.
    #[error("`%` without two hexadecimal digits")]
    MalformedEscape,
}

impl InvalidPath {
    /// Where in the path: the byte, or the beginning of the segment.
    #[must_use]
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// What is wrong there.
    #[must_use]
    pub fn reason(&self) -> Refusal {
        self.reason
    }

    /// What a request with this path is answered: [`Outcome::BadRequest`].
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        Outcome::BadRequest
    }
}

/// The normal form of `path`, borrowed if it is that already.
///
/// # Errors
/// When the path has no normal form; see the [module's](self) rules.
pub fn normalize(path: &str) -> Result<Cow<'_, str>, InvalidPath> {
    if is_plain(path.as_bytes()) || path == "*" {
        return Ok(Cow::Borrowed(path));
    }
    if !path.starts_with('/') {
        return Err(refuse(0, Refusal::NotAbsolute));
    }
    if has_escaped_unreserved(path.as_bytes())? || !has_normal_segments(path)? {
        return rewrite(path).map(Cow::Owned);
    }
    Ok(Cow::Borrowed(path))
}

/// Brings a URI's path into its normal form; says whether that changed anything.
///
/// A URI whose path is normal already is not touched, and nothing is allocated. The query stays byte for byte; a URI
/// without a path (`CONNECT`) stays as it is.
///
/// # Errors
/// When the path has no normal form; the URI is unchanged then.
pub fn normalize_uri(uri: &mut Uri) -> Result<bool, InvalidPath> {
    if uri.path().is_empty() {
        return Ok(false);
    }
    let Cow::Owned(mut path) = normalize(uri.path())? else {
        return Ok(false);
    };
    if let Some(query) = uri.query() {
        path.push('?');
        path.push_str(query);
    }
    // Both conversions hold: only unreserved characters were decoded, and scheme and authority are as they were.
    let normal = PathAndQuery::from_maybe_shared(Bytes::from(path)).map_err(|_| refuse(0, Refusal::Unencoded))?;
    let mut parts = mem::take(uri).into_parts();
    parts.path_and_query = Some(normal);
    *uri = Uri::from_parts(parts).map_err(|_| refuse(0, Refusal::Unencoded))?;
    Ok(true)
}

const fn refuse(offset: usize, reason: Refusal) -> InvalidPath {
    InvalidPath { offset, reason }
}

/// The bytes that make a path worth a second look. A dot does so only after a slash.
const NOTABLE: [bool; 256] = {
    let mut notable = [false; 256];
    let mut byte = 0;
    while byte <= 0x20 {
        notable[byte] = true;
        byte += 1;
    }
    notable[0x7f] = true;
    notable[b'%' as usize] = true;
    notable[b'\\' as usize] = true;
    notable[b';' as usize] = true;
    notable[b'?' as usize] = true;
    notable[b'#' as usize] = true;
    notable
};

/// The one scan of the common case: true only for a path that is certainly normal.
fn is_plain(path: &[u8]) -> bool {
    let mut after_slash = false;
    for &byte in path {
        if NOTABLE[usize::from(byte)] || after_slash && matches!(byte, b'/' | b'.') {
            return false;
        }
        after_slash = byte == b'/';
    }
    path.first() == Some(&b'/')
}

/// Refuses what may stand nowhere in a path, and tells whether an escape has to be decoded.
fn has_escaped_unreserved(path: &[u8]) -> Result<bool, InvalidPath> {
    let mut found = false;
    let mut at = 0;
    while let Some(&byte) = path.get(at) {
        match byte {
            b'%' => {
                let decoded = decode(path, at).ok_or_else(|| refuse(at, Refusal::MalformedEscape))?;
                if decoded.is_ascii_control() {
                    return Err(refuse(at, Refusal::ControlCharacter));
                }
                found |= is_unreserved(decoded);
                at += 3;
                continue;
            }
            b'\\' | b' ' | b'?' | b'#' => return Err(refuse(at, Refusal::Unencoded)),
            _ if byte.is_ascii_control() => return Err(refuse(at, Refusal::ControlCharacter)),
            _ => {}
        }
        at += 1;
    }
    Ok(found)
}

/// Whether no segment of a path without escaped unreserved characters is to be removed.
fn has_normal_segments(path: &str) -> Result<bool, InvalidPath> {
    for (offset, segment, is_last) in segments(path) {
        if segment.is_empty() && !is_last || is_dots(segment.as_bytes()) {
            return Ok(false);
        }
        if hides_dots(segment) {
            return Err(refuse(offset, Refusal::HiddenDotSegment));
        }
    }
    Ok(true)
}

fn rewrite(path: &str) -> Result<String, InvalidPath> {
    // Ends with `/` whenever a segment begins.
    let mut normal = String::with_capacity(path.len());
    normal.push('/');
    for (offset, segment, is_last) in segments(path) {
        let start = normal.len();
        push_decoded(&mut normal, segment);
        match &normal[start..] {
            "" => {}
            "." => normal.truncate(start),
            ".." => {
                let parent = normal[..start - 1].rfind('/').ok_or_else(|| refuse(offset, Refusal::AboveRoot))?;
                normal.truncate(parent + 1);
            }
            decoded if hides_dots(decoded) => return Err(refuse(offset, Refusal::HiddenDotSegment)),
            _ if is_last => {}
            _ => normal.push('/'),
        }
    }
    Ok(normal)
}

/// The segments of a path that begins with `/`: offset, text, whether it is the last.
fn segments(path: &str) -> impl Iterator<Item = (usize, &str, bool)> {
    let mut offset = 1;
    path.split('/').skip(1).map(move |segment| {
        let start = offset;
        offset += segment.len() + 1;
        (start, segment, offset > path.len())
    })
}

/// Appends a segment with valid escapes, the unreserved ones decoded.
fn push_decoded(out: &mut String, segment: &str) {
    let mut rest = segment;
    while let Some(at) = rest.find('%') {
        let (before, escape) = rest.split_at(at);
        out.push_str(before);
        match decode(escape.as_bytes(), 0) {
            Some(byte) if is_unreserved(byte) => out.push(char::from(byte)),
            _ => out.push_str(&escape[..3]),
        }
        rest = &escape[3..];
    }
    out.push_str(rest);
}

/// Whether a segment, read as several, contains dot segments. Its own escapes are decoded as far as they may be.
fn hides_dots(segment: &str) -> bool {
    let bytes = segment.as_bytes();
    let mut start = 0;
    let mut cut = None;
    let mut at = 0;
    while at < bytes.len() {
        let (byte, len) = match bytes[at] {
            b'%' => (decode(bytes, at).unwrap_or(b'%'), 3),
            byte => (byte, 1),
        };
        match byte {
            b'/' | b'\\' => {
                if is_dots(&bytes[start..cut.unwrap_or(at)]) {
                    return true;
                }
                start = at + len;
                cut = None;
            }
            b';' => cut = cut.or(Some(at)),
            _ => {}
        }
        at += len;
    }
    // Without a separator or a `;` this is the segment itself, which the caller has seen to.
    is_dots(&bytes[start..cut.unwrap_or(bytes.len())])
}

fn is_dots(segment: &[u8]) -> bool {
    matches!(segment, b"." | b"..")
}

/// The byte that the escape at `at` stands for.
fn decode(path: &[u8], at: usize) -> Option<u8> {
    let digit = |at| path.get(at).and_then(|&byte| char::from(byte).to_digit(16));
    u8::try_from(digit(at + 1)? << 4 | digit(at + 2)?).ok()
}

const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}
