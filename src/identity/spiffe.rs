//! SPIFFE IDs, as the SPIFFE-ID specification has them.

use std::{fmt, str::FromStr, sync::Arc};

use thiserror::Error;

const SCHEME: &str = "spiffe://";
/// SPIFFE-ID section 2.3.
const LONGEST_ID: usize = 2048;
/// SPIFFE-ID section 2.1.
const LONGEST_TRUST_DOMAIN: usize = 255;

/// A workload's name: `spiffe://`, a trust domain, and a path. Cheap to clone.
///
/// Valid as the SPIFFE-ID specification (section 2) has it, and there is one way to write each:
/// 1. The scheme is `spiffe`, in lower case; there is no user, port, query, fragment or percent-encoding.
/// 2. The trust domain is 1 to 255 bytes of `a-z`, `0-9`, `.`, `-` and `_`.
/// 3. The path is empty, or segments of `a-z`, `A-Z`, `0-9`, `.`, `-` and `_`, each after a `/`; none is empty, `.` or `..`.
/// 4. It has 2048 bytes at most.
///
/// # Example
/// ```
/// use portcullis::identity::SpiffeId;
///
/// let id: SpiffeId = "spiffe://prod.example.com/ns/shop/sa/cart".parse()?;
/// assert_eq!(id.trust_domain(), "prod.example.com");
/// assert_eq!(id.path(), "/ns/shop/sa/cart");
/// assert!(id.is_below(&"spiffe://prod.example.com/ns/shop".parse()?));
/// assert!("spiffe://prod.example.com/ns/../shop".parse::<SpiffeId>().is_err());
/// # Ok::<_, portcullis::identity::InvalidSpiffeId>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "yaml", derive(serde::Deserialize), serde(try_from = "String"))]
pub struct SpiffeId {
    text: Arc<str>,
    /// Where the path begins.
    path: usize,
}

/// The authority of [`SpiffeId`]s: who issues them, and the root of what they can be trusted for. Cheap to clone.
///
/// # Example
/// ```
/// use portcullis::identity::{SpiffeId, TrustDomain};
///
/// let domain: TrustDomain = "prod.example.com".parse()?;
/// assert!(domain.has(&"spiffe://prod.example.com/cart".parse()?));
/// assert!(!domain.has(&"spiffe://stage.example.com/cart".parse()?));
/// # Ok::<_, portcullis::identity::InvalidSpiffeId>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "yaml", derive(serde::Deserialize), serde(try_from = "String"))]
pub struct TrustDomain(Arc<str>);

/// Text that is no [`SpiffeId`] or [`TrustDomain`].
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{text:?} is not a SPIFFE {}: {flaw}", if *.domain { "trust domain" } else { "ID" })]
pub struct InvalidSpiffeId {
    text: String,
    domain: bool,
    flaw: SpiffeFlaw,
}

/// What is wrong with an [`InvalidSpiffeId`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SpiffeFlaw {
    /// It does not begin with `spiffe://`.
    #[error("expected it to begin with `spiffe://`, in lower case")]
    Scheme,
    /// There is no trust domain.
    #[error("the trust domain is missing")]
    NoTrustDomain,
    /// The trust domain has a character that it cannot have.
    #[error("{0:?} cannot be in a trust domain: only `a-z`, `0-9`, `.`, `-` and `_` can")]
    TrustDomain(char),
    /// The trust domain is too long.
    #[error("the trust domain is longer than 255 bytes")]
    TrustDomainTooLong,
    /// The path has a character that it cannot have.
    #[error("{0:?} cannot be in a path: only `a-z`, `A-Z`, `0-9`, `.`, `-` and `_` can")]
    Path(char),
    /// A segment of the path is empty, or the path ends with `/`.
    #[error("a segment of the path is empty: write no `/` twice or at the end")]
    EmptySegment,
    /// A segment of the path is `.` or `..`.
    #[error("a segment of the path is `.` or `..`")]
    DotSegment,
    /// It is too long.
    #[error("it is longer than 2048 bytes")]
    TooLong,
}

impl SpiffeId {
    /// The trust domain's name.
    #[must_use]
    pub fn trust_domain(&self) -> &str {
        self.text.get(SCHEME.len()..self.path).unwrap_or_default()
    }

    /// The path with its leading `/`; empty for the ID of the trust domain itself.
    #[must_use]
    pub fn path(&self) -> &str {
        self.text.get(self.path..).unwrap_or_default()
    }

    /// The whole, as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether this is `ancestor`, or has its path segments and more: `/ns/shop/cart` is below `/ns/shop` and below the
    /// trust domain's own ID, `/ns/shopping` is not below `/ns/shop`.
    #[must_use]
    pub fn is_below(&self, ancestor: &Self) -> bool {
        let rest = self.text.strip_prefix(&*ancestor.text);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

impl TrustDomain {
    /// Its name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether `id` belongs to it.
    #[must_use]
    pub fn has(&self, id: &SpiffeId) -> bool {
        *self.0 == *id.trust_domain()
    }
}

impl InvalidSpiffeId {
    /// What is wrong.
    #[must_use]
    pub fn flaw(&self) -> SpiffeFlaw {
        self.flaw
    }
}

/// How many bytes the path begins after.
fn check(id: &str) -> Result<usize, SpiffeFlaw> {
    let rest = id.strip_prefix(SCHEME).ok_or(SpiffeFlaw::Scheme)?;
    if id.len() > LONGEST_ID {
        return Err(SpiffeFlaw::TooLong);
    }
    let domain = rest.split_once('/').map_or(rest, |(domain, _)| domain);
    check_domain(domain)?;
    let path = SCHEME.len() + domain.len();
    for segment in rest.split('/').skip(1) {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        match segment {
            "" => return Err(SpiffeFlaw::EmptySegment),
            "." | ".." => return Err(SpiffeFlaw::DotSegment),
            segment => segment.chars().find(|c| !plain(*c)).map_or(Ok(()), |c| Err(SpiffeFlaw::Path(c)))?,
        }
    }
    Ok(path)
}

fn check_domain(domain: &str) -> Result<(), SpiffeFlaw> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '-' | '_');
    if let Some(c) = domain.chars().find(|c| !plain(*c)) {
        return Err(SpiffeFlaw::TrustDomain(c));
    }
    match domain.len() {
        0 => Err(SpiffeFlaw::NoTrustDomain),
        1..=LONGEST_TRUST_DOMAIN => Ok(()),
        _ => Err(SpiffeFlaw::TrustDomainTooLong),
    }
}

impl FromStr for SpiffeId {
    type Err = InvalidSpiffeId;

    fn from_str(text: &str) -> Result<Self, InvalidSpiffeId> {
        match check(text) {
            Ok(path) => Ok(Self { text: text.into(), path }),
            Err(flaw) => Err(InvalidSpiffeId { text: excerpt(text), domain: false, flaw }),
        }
    }
}

impl FromStr for TrustDomain {
    type Err = InvalidSpiffeId;

    fn from_str(text: &str) -> Result<Self, InvalidSpiffeId> {
        match check_domain(text) {
            Ok(()) => Ok(Self(text.into())),
            Err(flaw) => Err(InvalidSpiffeId { text: excerpt(text), domain: true, flaw }),
        }
    }
}

/// What came from a peer is not repeated at any length.
fn excerpt(text: &str) -> String {
    text.chars().take(256).collect()
}

impl TryFrom<String> for SpiffeId {
    type Error = InvalidSpiffeId;

    fn try_from(text: String) -> Result<Self, InvalidSpiffeId> {
        text.parse()
    }
}

impl TryFrom<String> for TrustDomain {
    type Error = InvalidSpiffeId;

    fn try_from(text: String) -> Result<Self, InvalidSpiffeId> {
        text.parse()
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn flaw(text: &str) -> Option<SpiffeFlaw> {
        text.parse::<SpiffeId>().err().map(|error| error.flaw())
    }

    #[test]
    fn ids_are_taken_apart() {
        for (text, domain, path) in [
            ("spiffe://example.org", "example.org", ""),
            ("spiffe://1.2.3.4/a", "1.2.3.4", "/a"),
            ("spiffe://a_b-c/X_y/.z./...", "a_b-c", "/X_y/.z./..."),
        ] {
            let id: SpiffeId = text.parse().unwrap();
            assert_eq!((id.trust_domain(), id.path(), id.as_str()), (domain, path, text));
        }
    }

    #[test]
    fn what_is_no_id_is_told_apart() {
        use SpiffeFlaw::*;
        for (text, expected) in [
            ("", Scheme),
            ("https://example.org/a", Scheme),
            ("SPIFFE://example.org/a", Scheme),
            ("spiffe:/example.org", Scheme),
            ("spiffe://", NoTrustDomain),
            ("spiffe:///a", NoTrustDomain),
            ("spiffe://Example.org/a", TrustDomain('E')),
            ("spiffe://user@example.org/a", TrustDomain('@')),
            ("spiffe://example.org:443/a", TrustDomain(':')),
            ("spiffe://example.org?a", TrustDomain('?')),
            ("spiffe://exämple.org/a", TrustDomain('ä')),
            ("spiffe://example.org/", EmptySegment),
            ("spiffe://example.org//a", EmptySegment),
            ("spiffe://example.org/a/", EmptySegment),
            ("spiffe://example.org/a/../b", DotSegment),
            ("spiffe://example.org/.", DotSegment),
            ("spiffe://example.org/a%2fb", Path('%')),
            ("spiffe://example.org/a?b", Path('?')),
            ("spiffe://example.org/a#b", Path('#')),
            ("spiffe://example.org/a\0", Path('\0')),
        ] {
            assert_eq!(flaw(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn lengths_are_limited() {
        let domain = "d".repeat(255);
        assert_eq!(flaw(&format!("spiffe://{domain}")), None);
        assert_eq!(flaw(&format!("spiffe://{domain}d")), Some(SpiffeFlaw::TrustDomainTooLong));
        let path = "p".repeat(2048 - "spiffe://d/".len());
        assert_eq!(flaw(&format!("spiffe://d/{path}")), None);
        assert_eq!(flaw(&format!("spiffe://d/{path}p")), Some(SpiffeFlaw::TooLong));
    }

    #[test]
    fn a_trust_domain_is_a_bare_name() {
        let error = "spiffe://example.org".parse::<TrustDomain>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "\"spiffe://example.org\" is not a SPIFFE trust domain: ':' cannot be in a trust domain: only `a-z`, `0-9`, \
             `.`, `-` and `_` can"
        );
    }

    #[test]
    fn below_goes_by_segments_and_stays_in_the_trust_domain() {
        let id = |text: &str| text.parse::<SpiffeId>().unwrap();
        let workload = id("spiffe://a.example/ns/shop/sa/cart");
        for (ancestor, below) in [
            ("spiffe://a.example", true),
            ("spiffe://a.example/ns", true),
            ("spiffe://a.example/ns/shop/sa/cart", true),
            ("spiffe://a.example/ns/sho", false),
            ("spiffe://a.example/ns/shop/sa/cart/x", false),
            ("spiffe://a.exampl", false),
            ("spiffe://a", false),
        ] {
            assert_eq!(workload.is_below(&id(ancestor)), below, "{ancestor}");
        }
        assert!(!id("spiffe://a.example.evil/ns").is_below(&id("spiffe://a.example")));
    }

    proptest! {
        #[test]
        fn what_is_valid_has_one_form_and_the_rest_does_not_panic(text in "(spiffe://)?[a-zA-Z0-9._/%é-]{0,20}") {
            if let Ok(id) = text.parse::<SpiffeId>() {
                prop_assert_eq!(format!("spiffe://{}{}", id.trust_domain(), id.path()), text);
                prop_assert!(id.trust_domain().parse::<TrustDomain>().unwrap().has(&id));
            }
        }
    }
}
