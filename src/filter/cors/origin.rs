//! Who may, and who asks.

use std::borrow::Cow;

use crate::filter::{InvalidFilter, host};

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
        let Some((scheme, authority)) = text.split_once("://") else {
            return matches!(Origin::parse(text), Some(Origin::Null)).then_some(Self::Null);
        };
        let wildcard = authority.strip_prefix('*');
        let under = wildcard.and_then(|rest| rest.strip_prefix('.'));
        let bare = match (wildcard, under) {
            (_, Some(parent)) => Cow::Borrowed(parent),
            // Any name does, to have the rest looked at.
            (Some(port), None) => format!("any{port}").into(),
            (None, None) => authority.into(),
        };
        let Origin::Tuple { scheme, host, port } = Origin::tuple(scheme, &bare)? else { return None };
        let host = match (wildcard, under) {
            (_, Some(_)) => HostPattern::Suffix(format!(".{host}").into()),
            (Some(_), None) if host == "any" => HostPattern::Any,
            (Some(_), None) => return None,
            (None, None) => HostPattern::Exact(host.into()),
        };
        Some(Self::Tuple { scheme: scheme.into(), host, port })
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
            // An origin's host does not begin with a dot, so there is a label before it.
            Self::Suffix(suffix) => {
                let end = host.len().checked_sub(suffix.len()).and_then(|at| host.get(at..));
                end.is_some_and(|end| end.eq_ignore_ascii_case(suffix))
            }
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
        Self::tuple(scheme, authority)
    }

    fn tuple(scheme: &'a str, authority: &'a str) -> Option<Self> {
        let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
        let (host, port) = split(authority)?;
        let well_known = match scheme {
            _ if scheme.eq_ignore_ascii_case("http") => Some(80),
            _ if scheme.eq_ignore_ascii_case("https") => Some(443),
            _ => None,
        };
        let port = port.or(well_known);
        is_scheme.then_some(Self::Tuple { scheme, host, port })
    }
}

/// Stricter than for a `Host`: an origin's host is nothing that has to be decoded, and its port is there or is not.
fn split(authority: &str) -> Option<(&str, Option<u16>)> {
    let (host, port) = host::split(authority)?;
    let is_name =
        |label: &str| !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    let is_host = host.starts_with('[') || host.split('.').all(is_name);
    (is_host && !authority.ends_with(':')).then_some((host, port))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn origins(listed: &[&str]) -> Origins {
        Origins::parse(listed.iter().map(|&origin| origin.to_owned()).collect()).unwrap()
    }

    #[test]
    fn scheme_host_and_port_are_compared_exactly() {
        for (pattern, yes, no) in [
            (
                "https://shop.example",
                &["https://shop.example", "HTTPS://Shop.Example", "https://shop.example:443"][..],
                &[
                    "http://shop.example",
                    "https://shop.example:8443",
                    "https://shop.example.evil",
                    "https://evil-shop.example",
                    "https://x.shop.example",
                    "https://shop.example/",
                    "https://shop.example.",
                    "https://shop.example:",
                    "shop.example",
                    "null",
                    "",
                ][..],
            ),
            (
                "https://*.example.com",
                &["https://a.example.com", "https://b.a.EXAMPLE.com", "https://a.example.com:443"],
                &[
                    "https://example.com",
                    "https://.example.com",
                    "https://a..example.com",
                    "https://aexample.com",
                    "https://a.example.com:8443",
                    "http://a.example.com",
                    "https://evil.test/.example.com",
                    "https://evil.test#.example.com",
                    "https://evil.test@a.example.com",
                    "https://evil.test\\.example.com",
                    "https://evil.test:80.example.com",
                    "https://%2f.example.com",
                    "https://a.example.com https://evil.test",
                ],
            ),
            ("http://*", &["http://a", "http://[::1]", "http://10.0.0.1:80"], &["https://a", "http://a:8080", "null"]),
            ("http://*:8080", &["http://a.b:8080"], &["http://a.b", "http://a.b:80"]),
            ("http://[::1]:3000", &["http://[::1]:3000"], &["http://[::1]", "http://[::2]:3000"]),
            ("chrome-extension://abc", &["chrome-extension://abc"], &["chrome-extension://abcd", "https://abc"]),
            ("null", &["null"], &["NULL", "https://null", "http://x"]),
        ] {
            let origins = origins(&["https://other.test", pattern]);
            for origin in yes {
                assert!(origins.allow(origin.as_bytes()), "{pattern}: {origin}");
            }
            for origin in no {
                assert!(!origins.allow(origin.as_bytes()), "{pattern}: {origin}");
            }
            assert!(!origins.allow(b"https://shop.exampl\xe9"));
        }
        assert!(origins(&["https://a.test", "*"]).allow(b"null"));
        assert!(!origins(&[]).allow(b"https://a.test"));
    }

    #[test]
    fn what_is_not_an_origin_is_refused() {
        for origin in [
            "",
            "a.example",
            "//a",
            "https://",
            "https://a/",
            "https://a/b",
            "https://a:0",
            "https://a:65536",
            "https://a:x",
            "https://a:+1",
            "https://*a.example",
            "https://a.*.example",
            "https://*.",
            "https://*.*.example",
            "https://**",
            "https://u@a",
            "1https://a",
            "https://a b",
            "https://*:",
            "https://a..b",
            "*.example.com",
            "NULL",
        ] {
            let refused = Origins::parse(vec!["https://a".to_owned(), origin.to_owned()]).unwrap_err();
            assert_eq!(refused, InvalidFilter::Origin { origin: origin.to_owned() });
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn a_wildcard_allows_just_the_names_under_its_own(
            scheme in "https?",
            host in "[abx]{0,2}(\\.[abx]{0,2}){0,4}",
            tail in prop::sample::select(vec!["", ":80", ":443", ":81", "/", "?.a.b", "@x.a.b"]),
        ) {
            let allowed = origins(&["http://*.a.b"]).allow(format!("{scheme}://{host}{tail}").as_bytes());
            let labels: Vec<_> = host.split('.').collect();
            let expected = scheme == "http"
                && (tail.is_empty() || tail == ":80")
                && labels.len() > 2
                && labels.ends_with(&["a", "b"])
                && labels.iter().all(|label| !label.is_empty());
            prop_assert_eq!(allowed, expected);
        }
    }
}
