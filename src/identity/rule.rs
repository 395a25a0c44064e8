//! Which peers are admitted: pure.

use std::fmt;

use super::{PeerIdentity, SpiffeId, TrustDomain};

/// What a peer must be to be admitted.
///
/// # Example
/// ```
/// use portcullis::identity::{PeerIdentity, PeerRule};
///
/// let shop = PeerRule::Below("spiffe://example.org/ns/shop".parse()?);
/// assert!(shop.admits(&PeerIdentity::new(["spiffe://example.org/ns/shop/sa/cart"], [])));
/// assert!(!shop.admits(&PeerIdentity::new(["spiffe://example.org/ns/shopping"], [])));
/// # Ok::<_, portcullis::identity::InvalidSpiffeId>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "yaml", derive(serde::Deserialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum PeerRule {
    /// It has exactly this SPIFFE ID.
    SpiffeId(SpiffeId),
    /// It has this SPIFFE ID or one below it, by whole path segments: see [`SpiffeId::is_below`].
    Below(SpiffeId),
    /// It has a SPIFFE ID of this trust domain.
    TrustDomain(TrustDomain),
    /// Its certificate has exactly this DNS name, in any case. A wildcard in the certificate stands for itself alone.
    DnsName(String),
    /// It has a certificate that was verified, whatever its names.
    Any,
}

impl PeerRule {
    /// Whether this peer is admitted.
    #[must_use]
    pub fn admits(&self, peer: &PeerIdentity) -> bool {
        match self {
            Self::SpiffeId(id) => peer.spiffe_id() == Some(id),
            Self::Below(ancestor) => peer.spiffe_id().is_some_and(|id| id.is_below(ancestor)),
            Self::TrustDomain(domain) => peer.spiffe_id().is_some_and(|id| domain.has(id)),
            Self::DnsName(name) => peer.dns_names().any(|presented| presented.eq_ignore_ascii_case(name)),
            Self::Any => true,
        }
    }
}

impl fmt::Display for PeerRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SpiffeId(id) => id.fmt(f),
            Self::Below(ancestor) => write!(f, "{ancestor} and below"),
            Self::TrustDomain(domain) => write!(f, "trust domain {domain}"),
            Self::DnsName(name) => name.fmt(f),
            Self::Any => f.write_str("any"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rule_admits_its_own() {
        let id = |text: &str| text.parse::<SpiffeId>().unwrap();
        let cart = PeerIdentity::new(["spiffe://a.example/ns/shop/cart"], []);
        let named = PeerIdentity::new([], ["Cart.example", "*.shop.example"]);
        let both = PeerIdentity::new(["spiffe://a.example/x", "spiffe://a.example/ns/shop/cart"], []);
        for (rule, admits_cart, admits_named) in [
            (PeerRule::SpiffeId(id("spiffe://a.example/ns/shop/cart")), true, false),
            (PeerRule::SpiffeId(id("spiffe://a.example/ns/shop")), false, false),
            (PeerRule::SpiffeId(id("spiffe://b.example/ns/shop/cart")), false, false),
            (PeerRule::Below(id("spiffe://a.example/ns/shop")), true, false),
            (PeerRule::Below(id("spiffe://a.example/ns/sho")), false, false),
            (PeerRule::TrustDomain("a.example".parse().unwrap()), true, false),
            (PeerRule::TrustDomain("example".parse().unwrap()), false, false),
            (PeerRule::DnsName("CART.example".into()), false, true),
            (PeerRule::DnsName("x.shop.example".into()), false, false),
            (PeerRule::Any, true, true),
        ] {
            assert_eq!((rule.admits(&cart), rule.admits(&named)), (admits_cart, admits_named), "{rule}");
            assert_eq!(rule.admits(&both), rule == PeerRule::Any, "two URIs are no identity: {rule}");
        }
    }
}
