//! What a rule asks of a request.

use std::{fmt, str::FromStr};

use http::{HeaderName, Method};
#[cfg(feature = "yaml")]
use serde::Deserialize;
use thiserror::Error;

/// The hosts a route is for.
///
/// Lower case, without port and trailing dot. Parsed from `*` (any), `*.example.com` (one or more labels in front, as
/// the Gateway API has it) or a name or address.
///
/// # Example
/// ```
/// use portcullis::config::Host;
///
/// assert_eq!("Shop.Example.COM".parse::<Host>().unwrap(), Host::Exact("shop.example.com".into()));
/// assert_eq!("*.example.com".parse::<Host>().unwrap().to_string(), "*.example.com");
/// assert!("shop.*.com".parse::<Host>().is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "yaml", derive(Deserialize), serde(try_from = "String"))]
#[non_exhaustive]
pub enum Host {
    /// Any host, also none.
    Any,
    /// This host alone. IPv6 addresses stand in brackets, as in a `Host` field.
    Exact(String),
    /// `*.` and this suffix: one or more labels in front of it (Gateway API hostnames).
    Wildcard(String),
    /// `*.` and this suffix: exactly one label in front of it (Kubernetes Ingress hosts, certificates).
    OneLabelWildcard(String),
}

/// A text that is not a host.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "`{0}` is not a host: write a DNS name, `*.` and a DNS name, an IPv4 address, an IPv6 address in brackets, or `*`; \
     without a port"
)]
pub struct InvalidHost(String);

/// One way to fit a rule: everything it asks must hold.
///
/// # Example
/// ```
/// use portcullis::config::{HeaderMatch, Match, PathMatch};
///
/// let canary = Match { headers: vec![HeaderMatch::exact("x-user", "1")?], ..Match::prefix("/cart") };
/// assert_eq!(canary.path, PathMatch::Prefix("/cart".into()));
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
#[cfg_attr(feature = "yaml", derive(Deserialize), serde(deny_unknown_fields, default))]
pub struct Match {
    /// What the path must be. Default: anything.
    pub path: PathMatch,
    /// The method, where only one fits.
    #[cfg_attr(feature = "yaml", serde(deserialize_with = "deserialize_method"))]
    pub method: Option<Method>,
    /// Header fields, all of which must fit. Of several for one name only the first counts.
    pub headers: Vec<HeaderMatch>,
    /// Query parameters, all of which must fit. Of a repeated parameter the first value counts, and of several matches for
    /// one name the first.
    pub query: Vec<QueryMatch>,
    /// Cookies, all of which must fit.
    pub cookies: Vec<CookieMatch>,
}

/// What a path must be, in the normal form that [`route::path`](crate::route::path) documents. Case matters.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "yaml", derive(Deserialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum PathMatch {
    /// This path alone: `/abc` is not `/abc/`.
    Exact(String),
    /// This path and everything below it, element by element: `/abc` fits `/abc`, `/abc/` and `/abc/def`, not `/abcd`.
    /// A slash at the end means nothing.
    Prefix(String),
    /// A gRPC method of this name, of whatever service: `Echo` fits `/any.Service/Echo`.
    GrpcMethod(String),
    /// The whole path fits this expression.
    #[cfg(feature = "regex")]
    Regex(Pattern),
}

/// What one value must be.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "yaml", derive(Deserialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum ValueMatch {
    /// Exactly this.
    Exact(String),
    /// All of it fits this expression.
    #[cfg(feature = "regex")]
    Regex(Pattern),
    /// Anything, as long as it is there.
    Present,
    /// It is not there.
    Absent,
}

/// What a header field must be. Several lines of one field are taken as one value, joined by `,`.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "yaml", derive(Deserialize), serde(deny_unknown_fields))]
pub struct HeaderMatch {
    /// The field's name.
    #[cfg_attr(feature = "yaml", serde(deserialize_with = "deserialize_header_name"))]
    pub name: HeaderName,
    /// What its value must be.
    pub value: ValueMatch,
}

/// What a query parameter must be, after percent-decoding (`+` is a space).
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "yaml", derive(Deserialize), serde(deny_unknown_fields))]
pub struct QueryMatch {
    /// The parameter's name; case matters.
    pub name: String,
    /// What its value must be.
    pub value: ValueMatch,
}

/// What a cookie must be.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "yaml", derive(Deserialize), serde(deny_unknown_fields))]
pub struct CookieMatch {
    /// The cookie's name; case matters.
    pub name: String,
    /// What its value must be.
    pub value: ValueMatch,
}

/// A regular expression that has to fit all of a text.
///
/// Linear in the text's length; expressions whose program is larger than 1 MiB are refused.
#[cfg(feature = "regex")]
#[derive(Clone)]
#[cfg_attr(feature = "yaml", derive(Deserialize), serde(try_from = "String"))]
pub struct Pattern {
    source: String,
    compiled: regex::Regex,
}

/// A text that is not a usable regular expression.
#[cfg(feature = "regex")]
#[derive(Debug, Clone, PartialEq, Error)]
#[error("`{pattern}` is not a usable regular expression: {source}")]
pub struct InvalidPattern {
    pattern: String,
    source: regex::Error,
}

// === impl Host ===

impl Host {
    /// The hosts that are both one of these and one of `other`; `None` if there are none.
    ///
    /// # Example
    /// ```
    /// use portcullis::config::Host;
    ///
    /// let (wide, narrow) = ("*.example.com".parse::<Host>()?, "*.eu.example.com".parse::<Host>()?);
    /// assert_eq!(wide.intersection(&narrow), Some(narrow));
    /// assert_eq!(wide.intersection(&"example.com".parse()?), None);
    /// # Ok::<_, portcullis::config::InvalidHost>(())
    /// ```
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Option<Self> {
        let narrower = match (self, other) {
            (Self::Any, narrower) | (narrower, Self::Any) => Some(narrower),
            (Self::Exact(name), Self::Exact(other)) => (name == other).then_some(self),
            (exact @ Self::Exact(name), Self::Wildcard(suffix))
            | (Self::Wildcard(suffix), exact @ Self::Exact(name)) => labels_before(name, suffix).map(|_| exact),
            (exact @ Self::Exact(name), Self::OneLabelWildcard(suffix))
            | (Self::OneLabelWildcard(suffix), exact @ Self::Exact(name)) => {
                labels_before(name, suffix).filter(|label| !label.contains('.')).map(|_| exact)
            }
            (Self::Wildcard(one), Self::Wildcard(two)) if one == two || labels_before(one, two).is_some() => Some(self),
            (Self::Wildcard(one), Self::Wildcard(two)) => labels_before(two, one).map(|_| other),
            (Self::OneLabelWildcard(one), Self::OneLabelWildcard(two)) => (one == two).then_some(self),
            // All hosts of the one-label wildcard end alike, so that either all are in the other or none is.
            (narrow @ Self::OneLabelWildcard(one), Self::Wildcard(two))
            | (Self::Wildcard(two), narrow @ Self::OneLabelWildcard(one)) => {
                (one == two || labels_before(one, two).is_some()).then_some(narrow)
            }
        };
        narrower.cloned()
    }

    /// The closer a host names, the greater.
    pub(crate) fn rank(&self) -> (u8, usize) {
        match self {
            Self::Any => (0, 0),
            Self::Wildcard(suffix) => (1, 2 * suffix.len()),
            Self::OneLabelWildcard(suffix) => (1, 2 * suffix.len() + 1),
            Self::Exact(_) => (2, 0),
        }
    }

    /// Whether it is for this name, both in their normal form.
    pub(crate) fn fits(&self, name: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(exact) => exact == name,
            Self::Wildcard(suffix) => labels_before(name, suffix).is_some(),
            Self::OneLabelWildcard(suffix) => name.split_once('.').is_some_and(|(_, rest)| rest == suffix),
        }
    }
}

/// What stands in front of `.` and this suffix, if something does.
fn labels_before<'a>(name: &'a str, suffix: &str) -> Option<&'a str> {
    name.strip_suffix(suffix)?.strip_suffix('.').filter(|labels| !labels.is_empty())
}

impl FromStr for Host {
    type Err = InvalidHost;

    fn from_str(text: &str) -> Result<Self, InvalidHost> {
        let invalid = || InvalidHost(text.to_owned());
        if text == "*" {
            return Ok(Self::Any);
        }
        let lower = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        if let Some(suffix) = lower.strip_prefix("*.") {
            return if is_dns_name(suffix) { Ok(Self::Wildcard(suffix.to_owned())) } else { Err(invalid()) };
        }
        let is_v6 = || {
            lower
                .strip_prefix('[')
                .and_then(|rest| rest.strip_suffix(']'))
                .is_some_and(|inside| inside.parse::<std::net::Ipv6Addr>().is_ok())
        };
        if is_dns_name(&lower) || is_v6() { Ok(Self::Exact(lower)) } else { Err(invalid()) }
    }
}

/// Labels of 1 to 63 letters, digits, `-` or `_`, 253 characters at most. Underscores are not in RFC 1123, and are in
/// use.
fn is_dns_name(name: &str) -> bool {
    name.len() <= 253
        && name.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
                && !label.starts_with('-')
                && !label.ends_with('-')
        })
}

impl TryFrom<String> for Host {
    type Error = InvalidHost;

    fn try_from(text: String) -> Result<Self, InvalidHost> {
        text.parse()
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Exact(name) => f.write_str(name),
            Self::Wildcard(suffix) | Self::OneLabelWildcard(suffix) => write!(f, "*.{suffix}"),
        }
    }
}

// === impl Match ===

impl Match {
    /// Requests for exactly this path.
    #[must_use]
    pub fn exact(path: impl Into<String>) -> Self {
        Self { path: PathMatch::Exact(path.into()), ..Self::default() }
    }

    /// Requests for this path and everything below it.
    #[must_use]
    pub fn prefix(path: impl Into<String>) -> Self {
        Self { path: PathMatch::Prefix(path.into()), ..Self::default() }
    }
}

impl Default for PathMatch {
    fn default() -> Self {
        Self::Prefix("/".to_owned())
    }
}

impl HeaderMatch {
    /// This field has exactly this value.
    ///
    /// # Errors
    /// When `name` is not a field name.
    pub fn exact(name: &str, value: impl Into<String>) -> Result<Self, http::header::InvalidHeaderName> {
        Ok(Self { name: name.parse()?, value: ValueMatch::Exact(value.into()) })
    }
}

// === impl Pattern ===

#[cfg(feature = "regex")]
impl Pattern {
    /// Whether all of `text` fits.
    #[must_use]
    pub fn is_match(&self, text: &str) -> bool {
        self.compiled.is_match(text)
    }

    /// The expression as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.source
    }
}

#[cfg(feature = "regex")]
impl FromStr for Pattern {
    type Err = InvalidPattern;

    fn from_str(text: &str) -> Result<Self, InvalidPattern> {
        let invalid = |source| InvalidPattern { pattern: text.to_owned(), source };
        // The group keeps an alternation inside the anchors; compiling the text alone first keeps `)` from closing it.
        regex::Regex::new(text).map_err(invalid)?;
        regex::RegexBuilder::new(&format!("^(?:{text})$"))
            .size_limit(1 << 20)
            .build()
            .map(|compiled| Self { source: text.to_owned(), compiled })
            .map_err(invalid)
    }
}

#[cfg(feature = "regex")]
impl TryFrom<String> for Pattern {
    type Error = InvalidPattern;

    fn try_from(text: String) -> Result<Self, InvalidPattern> {
        text.parse()
    }
}

#[cfg(feature = "regex")]
impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

#[cfg(feature = "regex")]
impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pattern({:?})", self.source)
    }
}

#[cfg(feature = "yaml")]
fn deserialize_method<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Method>, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map(Some).map_err(|_| serde::de::Error::custom(format_args!("`{text}` is not an HTTP method")))
}

#[cfg(feature = "yaml")]
fn deserialize_header_name<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<HeaderName, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(|_| serde::de::Error::custom(format_args!("`{text}` is not a header field name")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_read_in_one_form() {
        for (text, host) in [
            ("*", Host::Any),
            ("example.com", Host::Exact("example.com".into())),
            ("EXAMPLE.com.", Host::Exact("example.com".into())),
            ("127.0.0.1", Host::Exact("127.0.0.1".into())),
            ("[::1]", Host::Exact("[::1]".into())),
            ("*.Example.com", Host::Wildcard("example.com".into())),
        ] {
            assert_eq!(text.parse(), Ok(host), "{text}");
        }
    }

    #[test]
    fn what_is_not_a_host_is_refused() {
        let long = format!("{}.com", "a".repeat(64));
        for text in ["", ".", "a..b", "*.", "**.com", "a.*.com", "example.com:80", "http://a", "[::1", "-a.com", &long]
        {
            assert!(text.parse::<Host>().is_err(), "{text}");
        }
    }

    #[test]
    fn hosts_in_common_are_those_of_the_narrower_one() {
        let one_label = |suffix: &str| Host::OneLabelWildcard(suffix.to_owned());
        let host = |text: &str| text.parse::<Host>().unwrap();
        for (one, two, common) in [
            (host("*"), host("*"), Some(host("*"))),
            (host("*"), host("a.com"), Some(host("a.com"))),
            (host("*"), host("*.a.com"), Some(host("*.a.com"))),
            (host("*"), one_label("a.com"), Some(one_label("a.com"))),
            (host("a.com"), host("a.com"), Some(host("a.com"))),
            (host("a.com"), host("b.com"), None),
            (host("a.com"), host("*.a.com"), None),
            (host("ba.com"), host("*.a.com"), None),
            (host("b.a.com"), host("*.a.com"), Some(host("b.a.com"))),
            (host("c.b.a.com"), host("*.a.com"), Some(host("c.b.a.com"))),
            (host("b.a.com"), one_label("a.com"), Some(host("b.a.com"))),
            (host("c.b.a.com"), one_label("a.com"), None),
            (host("*.a.com"), host("*.a.com"), Some(host("*.a.com"))),
            (host("*.a.com"), host("*.b.a.com"), Some(host("*.b.a.com"))),
            (host("*.a.com"), host("*.ba.com"), None),
            (host("*.a.com"), one_label("a.com"), Some(one_label("a.com"))),
            (host("*.a.com"), one_label("b.a.com"), Some(one_label("b.a.com"))),
            (host("*.b.a.com"), one_label("a.com"), None),
            (one_label("a.com"), one_label("a.com"), Some(one_label("a.com"))),
            (one_label("a.com"), one_label("b.a.com"), None),
        ] {
            assert_eq!(one.intersection(&two), common, "{one:?} {two:?}");
            assert_eq!(two.intersection(&one), common, "{two:?} {one:?}");
        }
    }

    #[cfg(feature = "regex")]
    #[test]
    fn a_pattern_fits_the_whole_text_also_with_alternatives() {
        let pattern: Pattern = "/a|/b[0-9]+".parse().unwrap();
        assert!(pattern.is_match("/a") && pattern.is_match("/b12"));
        assert!(!pattern.is_match("/ax") && !pattern.is_match("x/b1"));
        assert!("a)(b".parse::<Pattern>().is_err(), "must not close our group");
        assert!("(".parse::<Pattern>().is_err());
    }
}
