//! Who may, and who asks.

use crate::filter::InvalidFilter;

/// The origins that may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origins {
    Any,
    Listed(Box<[Pattern]>),
}

/// An origin, or several that differ in their host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Pattern {
    /// That of documents that have none.
    Null,
    Tuple {
        scheme: Box<str>,
        host: HostPattern,
        port: Option<u16>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum HostPattern {
    Any,
    Exact(Box<str>),
    /// With the dot it begins with.
    Suffix(Box<str>),
}

impl Origins {
    pub(super) fn parse(origins: Vec<String>) -> Result<Self, InvalidFilter> {
        if origins.iter().any(|origin| origin == "*") {
            return Ok(Self::Any);
        }
        let parse = |origin: String| Pattern::parse(&origin).ok_or(InvalidFilter::Origin { origin });
        origins.into_iter().map(parse).collect::<Result<_, _>>().map(Self::Listed)
    }

    /// `origin` is the field's value.
    pub(super) fn allow(&self, origin: &[u8]) -> bool {
        match self {
            Self::Any => true,
            Self::Listed(patterns) => {
                let origin = std::str::from_utf8(origin).ok().and_then(Origin::parse);
                origin.is_some_and(|origin| patterns.iter().any(|pattern| pattern.matches(origin)))
            }
        }
    }
}

impl Pattern {
    fn parse(text: &str) -> Option<Self> {
        // The wildcard stands for a label as far as syntax goes.
        let wildcard = ["://*.", "://*"].into_iter().find(|wildcard| text.contains(wildcard));
        let (text, any) = match wildcard {
            Some(wildcard) => {
                (text.replacen(wildcard, if wildcard.ends_with('.') { "://" } else { "://x" }, 1), wildcard)
            }
            None => (text.to_owned(), ""),
        };
        match Origin::parse(&text)? {
            Origin::Null => Some(Self::Null),
            Origin::Tuple { scheme, host, port } => {
                let host = match any {
                    "" => HostPattern::Exact(host.into()),
                    "://*" if host == "x" => HostPattern::Any,
                    "://*." => HostPattern::Suffix(format!(".{host}").into()),
                    _ => return None,
                };
                Some(Self::Tuple { scheme: scheme.into(), host, port })
            }
        }
    }

    fn matches(&self, origin: Origin<'_>) -> bool {
        match (self, origin) {
            (Self::Null, Origin::Null) => true,
            (Self::Tuple { scheme, host, port }, Origin::Tuple { scheme: s, host: h, port: p }) => {
                *port == p && scheme.eq_ignore_ascii_case(s) && host.matches(h)
            }
            _ => false,
        }
    }
}

impl HostPattern {
    fn matches(&self, host: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(exact) => exact.eq_ignore_ascii_case(host),
            Self::Suffix(suffix) => match host.len().checked_sub(suffix.len()) {
                None | Some(0) => false,
                Some(at) => host.get(at..).is_some_and(|end| end.eq_ignore_ascii_case(suffix)),
            },
        }
    }
}

/// An origin as a client writes it (RFC 6454 section 6.2).
#[derive(Debug, Clone, Copy)]
enum Origin<'a> {
    Null,
    /// The port is the scheme's own where none is written.
    Tuple {
        scheme: &'a str,
        host: &'a str,
        port: Option<u16>,
    },
}

impl<'a> Origin<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        if text == "null" {
            return Some(Self::Null);
        }
        let (scheme, authority) = text.split_once("://")?;
        let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
        let (host, port) = split(authority)?;
        let port = port.or(match scheme {
            _ if scheme.eq_ignore_ascii_case("http") => Some(80),
            _ if scheme.eq_ignore_ascii_case("https") => Some(443),
            _ => None,
        });
        is_scheme.then_some(Self::Tuple { scheme, host, port })
    }
}

/// Stricter than for a `Host`: an origin's port is a plain number, and its host nothing that has to be decoded.
fn split(authority: &str) -> Option<(&str, Option<u16>)> {
    let (host, port) = crate::filter::host::split(authority)?;
    let is_name =
        |label: &str| !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    let is_host = host.starts_with('[') || host.split('.').all(is_name);
    (is_host && !authority.ends_with(':')).then_some((host, port))
}
