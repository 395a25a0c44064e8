//! Who a connection's other end is.

use std::fmt;

use bytes::Bytes;

use super::SpiffeId;
use crate::connection::ConnectionInfo;

/// Who a connection's other end is, by a certificate that was verified: known once the handshake is done, shared by all
/// requests of the connection.
///
/// 1. The names are the subject alternative names. The subject itself, and its common name, are never looked at: what
///    Istio and SPIRE issue has none.
/// 2. The [`SpiffeId`] is that of the only URI among them. A certificate with more than one URI is no SVID, and has none
///    (X509-SVID section 2).
///
/// # Example
/// ```
/// use portcullis::{connection::{ConnectionInfo, TlsInfo}, identity::PeerIdentity};
///
/// let cart = PeerIdentity::new(["spiffe://example.org/ns/shop/sa/cart"], []);
/// let tls = TlsInfo { peer_identity: Some(cart.into()), ..TlsInfo::default() };
/// let info = ConnectionInfo::new("192.0.2.7:4711".parse()?, "127.0.0.1:8443".parse()?).with_tls(tls);
/// let request = http::Request::get("/").extension(info).body(())?;
///
/// let peer = PeerIdentity::of(request.extensions()).unwrap();
/// assert_eq!(peer.spiffe_id().unwrap().path(), "/ns/shop/sa/cart");
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct PeerIdentity {
    spiffe_id: Option<SpiffeId>,
    uris: Box<[Box<str>]>,
    dns_names: Box<[Box<str>]>,
    certificate: Option<Certificate>,
}

#[derive(Clone, PartialEq, Eq)]
struct Certificate {
    der: Bytes,
    sha256: Option<[u8; 32]>,
}

impl PeerIdentity {
    /// A peer whose certificate has these subject alternative names: URIs, and DNS names.
    #[must_use]
    pub fn new<'a>(uris: impl IntoIterator<Item = &'a str>, dns_names: impl IntoIterator<Item = &'a str>) -> Self {
        let uris: Box<[Box<str>]> = uris.into_iter().map(Box::from).collect();
        let spiffe_id = match &*uris {
            [only] => only.parse().ok(),
            _ => None,
        };
        let dns_names = dns_names.into_iter().map(|name| name.to_ascii_lowercase().into()).collect();
        Self { spiffe_id, uris, dns_names, certificate: None }
    }

    /// The same peer, where its DNS names are not believed.
    #[cfg(feature = "tls")]
    pub(crate) fn without_dns_names(mut self) -> Self {
        self.dns_names = Box::default();
        self
    }

    /// The same peer with its certificate.
    #[cfg(feature = "tls")]
    pub(crate) fn with_certificate(mut self, der: Bytes, sha256: Option<[u8; 32]>) -> Self {
        self.certificate = Some(Certificate { der, sha256 });
        self
    }

    /// The peer that sent a request with these extensions, if its connection has one: see
    /// [`ConnectionInfo::peer_identity`].
    #[must_use]
    pub fn of(extensions: &http::Extensions) -> Option<&Self> {
        extensions.get::<ConnectionInfo>()?.peer_identity()
    }

    /// Its SPIFFE ID.
    #[must_use]
    pub fn spiffe_id(&self) -> Option<&SpiffeId> {
        self.spiffe_id.as_ref()
    }

    /// The URIs among its names, as they are written there.
    pub fn uris(&self) -> impl ExactSizeIterator<Item = &str> {
        self.uris.iter().map(|uri| &**uri)
    }

    /// The DNS names among its names, in lower case. One may be a wildcard.
    pub fn dns_names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.dns_names.iter().map(|name| &**name)
    }

    /// Its certificate in DER, where it came by TLS.
    #[must_use]
    pub fn certificate(&self) -> Option<&Bytes> {
        self.certificate.as_ref().map(|certificate| &certificate.der)
    }

    /// The SHA-256 hash of its certificate in DER, where it came by TLS.
    #[must_use]
    pub fn certificate_sha256(&self) -> Option<&[u8; 32]> {
        self.certificate.as_ref()?.sha256.as_ref()
    }
}

/// Its names, for the log: the URIs, then the DNS names.
impl fmt::Display for PeerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut names = self.uris().chain(self.dns_names());
        let Some(first) = names.next() else { return f.write_str("no name") };
        // What a peer wrote is not to end a log's line.
        write!(f, "{}", first.escape_debug())?;
        names.try_for_each(|name| write!(f, ", {}", name.escape_debug()))
    }
}

impl fmt::Debug for PeerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerIdentity")
            .field("uris", &self.uris)
            .field("dns_names", &self.dns_names)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_only_uri_is_a_spiffe_id() {
        let id = |uris: &[&str]| PeerIdentity::new(uris.iter().copied(), []).spiffe_id().map(ToString::to_string);
        assert_eq!(id(&["spiffe://a.example/x"]).as_deref(), Some("spiffe://a.example/x"));
        assert_eq!(id(&["spiffe://a.example/x", "spiffe://a.example/y"]), None);
        assert_eq!(id(&["spiffe://a.example/x", "https://a.example"]), None);
        assert_eq!(id(&["https://a.example"]), None);
        assert_eq!(id(&[]), None);
    }

    #[test]
    fn names_do_not_break_a_line() {
        let peer = PeerIdentity::new(["spiffe://a.example/x\n2026 fake"], ["A.example"]);
        assert_eq!(peer.to_string(), "spiffe://a.example/x\\n2026 fake, a.example");
        assert_eq!(PeerIdentity::new([], []).to_string(), "no name");
    }
}
