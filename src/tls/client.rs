//! The client's side: verification of an upstream's certificate.

use std::{fmt, io, net::IpAddr, sync::Arc};

use arc_swap::ArcSwapOption;
use rustls::{ClientConfig, SignatureScheme, client::ResolvesClientCert, crypto::CryptoProvider, sign::CertifiedKey};
use rustls_pki_types::ServerName;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
    CertificateError, CertificateRefused, Identity, NoProvider, Trust,
    certificates::load,
    default_provider,
    trust::Anchors,
    verify::{Expected, ServerVerifier},
};
use crate::{
    Outcome,
    config::{Certificate, Protocol, Roots, UpstreamTls},
};

/// Why TLS towards an upstream cannot be set up.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ClientTlsError {
    /// There is nothing to do the cryptography.
    #[error(transparent)]
    NoProvider(#[from] NoProvider),
    /// The server's name is neither a DNS name nor an IP address.
    #[error("server name {0:?} is neither a DNS name nor an IP address: set `server_name`")]
    ServerName(String),
    /// The system's certificate authorities could not be read.
    #[error("no certificate authorities of the system ({0}): install them, or give `roots` as PEM")]
    SystemRoots(String),
    /// The certificate authorities are not PEM, or there is none among them.
    #[error("`roots`: {0}: expected PEM blocks `CERTIFICATE`, at least one")]
    Roots(String),
    /// The revocation lists cannot be used.
    #[error("`crls`: {0}: expected PEM blocks `X509 CRL`")]
    RevocationLists(String),
    /// The authorities by trust domain cannot be used.
    #[error("`trust`: {0}")]
    Trust(String),
    /// Authorities by trust domain, beside such as are trusted for every name.
    #[error("{}", CertificateError::TrustBesideRoots)]
    TrustBesideRoots,
    /// An identity that the program did not give.
    #[error("{}", super::NoIdentity { name, known })]
    UnknownIdentity {
        /// The name that was not found.
        name: String,
        /// The names there are; none outside a gateway.
        known: Vec<String>,
    },
    /// An identity by name, beside a client certificate.
    #[error("`identity` beside `client_auth`: give one of the two")]
    IdentityBesideClientAuth,
    /// Revocation lists for the authorities of an identity.
    #[error("`crls` without `roots`, for an identity that has its own: give them with its trust")]
    RevocationListsOfIdentity,
    /// A SPIFFE ID is expected of whoever the system trusts.
    #[error(
        "`spiffe_id` and `trust_domain` need `roots`, `trust` or an identity: the system's authorities issue no SPIFFE IDs"
    )]
    SpiffeWithoutRoots,
    /// The client certificate's chain cannot be used.
    #[error("`client_auth` chain: {0}: expected PEM blocks `CERTIFICATE`, end entity first")]
    Chain(String),
    /// The client certificate's key cannot be used.
    #[error("`client_auth` key: {0}: expected one PEM block `PRIVATE KEY` that fits the certificate")]
    Key(String),
    /// The crypto provider does not do what is needed.
    #[error("the crypto provider cannot do TLS 1.2 and 1.3: {0}")]
    Provider(String),
}

/// TLS towards one upstream: whom it trusts, whom it expects, and who it is. Cheap to clone.
///
/// 1. TLS 1.2 and 1.3, with the cipher suites of [`default_provider`].
/// 2. The certificate must chain to the roots, be valid today, not be revoked where there are revocation lists, and name the
///    server among its subject alternative names (RFC 9110 section 4.3.4; RFC 9525). The subject's common name is never
///    looked at.
/// 3. Where a SPIFFE ID or a trust domain is expected, the certificate's only URI must be that, and its other names do not
///    matter. Where subject names are expected, it must have at least one of them, and the server's name does not matter.
/// 4. SNI carries the server's name, unless that is an IP address (RFC 6066 section 3).
/// 5. ALPN offers what the protocol allows: `http/1.1`, `h2`, or both with `h2` first.
/// 6. With an [`Identity`], each new connection shows and trusts what the identity is then. Sessions are resumed only as
///    long as both are the same.
///
/// A certificate that is refused, or that the server refuses of us, is [`Outcome::CertificateRefused`], with a
/// [`CertificateRefused`] as its cause that says which and why.
///
/// # Example
/// ```
/// use portcullis::{config::{Protocol, Roots, UpstreamTls}, tls::client::{ClientTls, ClientTlsError}};
///
/// let tls = UpstreamTls { roots: Roots::Pem(b"not a certificate".as_slice().into()), ..UpstreamTls::default() };
/// let error = ClientTls::new(&tls, "backend.internal", Protocol::Auto).unwrap_err();
/// assert!(matches!(error, ClientTlsError::Roots(_)));
/// ```
#[derive(Clone)]
pub struct ClientTls {
    shared: Arc<Shared>,
    name: ServerName<'static>,
}

struct Shared {
    provider: Arc<CryptoProvider>,
    trust: Trust,
    identity: Option<Identity>,
    expected: Expected,
    alpn: Vec<Vec<u8>>,
    /// What was made of trust and identity the last time that somebody looked.
    built: ArcSwapOption<Built>,
}

/// A configuration with a session store of its own, for one state of trust and identity: with the state, its sessions go.
struct Built {
    anchors: Arc<Anchors>,
    key: Option<Arc<CertifiedKey>>,
    config: Arc<ClientConfig>,
}

/// What a configuration shows and trusts, checked. It can take the place of another's under connections that stay.
pub(crate) struct Rotation {
    anchors: Arc<Anchors>,
    key: Option<Arc<CertifiedKey>>,
}

impl Rotation {
    /// What `tls` has.
    pub(crate) fn new(tls: &UpstreamTls) -> Result<Self, ClientTlsError> {
        if tls.identity.is_some() && tls.trust.is_none() && tls.roots == Roots::System && tls.crls.is_some() {
            return Err(ClientTlsError::RevocationListsOfIdentity);
        }
        let anchors = Arc::new(anchors(tls)?);
        let key = tls.client_auth.as_ref().map(|auth| {
            let (origin, hosts) = ("client_auth".to_owned(), Vec::new());
            let certificate = Certificate { origin, hosts, chain: auth.chain.to_vec(), key: auth.key.to_vec() };
            load(&certificate, &*default_provider()?).map(|(key, _)| key)
        });
        Ok(Self { anchors, key: key.transpose().map_err(of_client_auth)? })
    }
}

impl ClientTls {
    /// TLS as configured. `default_name` is expected of the server if `tls` names none: a DNS name or an IP address.
    ///
    /// # Errors
    /// When names, certificates or keys cannot be used; the error says which and what to do.
    pub fn new(tls: &UpstreamTls, default_name: &str, protocol: Protocol) -> Result<Self, ClientTlsError> {
        if let Some(name) = &tls.identity {
            return Err(ClientTlsError::UnknownIdentity { name: name.clone(), known: Vec::new() });
        }
        let Rotation { anchors, key } = Rotation::new(tls)?;
        let trust = Trust::from(anchors);
        let identity = key.map(|key| Identity::of(key, trust.clone()));
        Self::build(tls, trust, identity, default_name, protocol)
    }

    /// Shows and trusts this for handshakes from now on. Connections that are open stay; sessions from before are not resumed.
    /// For TLS whose trust is its own: an identity's is for the program to replace.
    pub(crate) fn rotate(&self, rotation: &Rotation) {
        let shared = &self.shared;
        shared.trust.together(|| {
            shared.trust.store(Arc::clone(&rotation.anchors));
            if let (Some(identity), Some(key)) = (&shared.identity, &rotation.key) {
                identity.store(Arc::clone(key));
            }
        });
    }

    /// Mutual TLS: as [`new`](Self::new), showing `identity` in place of what `tls` has for client authentication, and trusting
    /// whom it trusts unless `tls` names roots, or authorities by trust domain.
    ///
    /// # Errors
    /// The same as for [`new`](Self::new).
    pub fn mtls(
        identity: &Identity,
        tls: &UpstreamTls,
        default_name: &str,
        protocol: Protocol,
    ) -> Result<Self, ClientTlsError> {
        let trust = match &tls.roots {
            _ if tls.trust.is_some() => Trust::from(anchors(tls)?),
            Roots::System if tls.crls.is_some() => return Err(ClientTlsError::RevocationListsOfIdentity),
            Roots::System => identity.trust().clone(),
            Roots::Pem(_) => Trust::from(anchors(tls)?),
        };
        Self::build(tls, trust, Some(identity.clone()), default_name, protocol)
    }

    fn build(
        tls: &UpstreamTls,
        trust: Trust,
        identity: Option<Identity>,
        default_name: &str,
        protocol: Protocol,
    ) -> Result<Self, ClientTlsError> {
        let name = tls.server_name.as_deref().unwrap_or(default_name);
        let name = server_name(name).ok_or_else(|| ClientTlsError::ServerName(name.to_owned()))?;
        let expected = match (&tls.spiffe_id, &tls.trust_domain) {
            (Some(id), _) => Expected::SpiffeId(id.clone()),
            (None, Some(domain)) => Expected::TrustDomain(domain.clone()),
            (None, None) if tls.subject_names.is_empty() => Expected::Name,
            (None, None) => Expected::AnyOf(tls.subject_names.as_slice().into()),
        };
        let alpn: &[&[u8]] = match protocol {
            Protocol::Auto => &[b"h2", b"http/1.1"],
            Protocol::Http1 => &[b"http/1.1"],
            Protocol::Http2 => &[b"h2"],
        };
        let alpn = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        let provider = default_provider()?;
        let shared = Shared { provider, trust, identity, expected, alpn, built: ArcSwapOption::empty() };
        // What cannot be built is to be told now.
        shared.config().map_err(|e| ClientTlsError::Provider(e.to_string()))?;
        Ok(Self { shared: Arc::new(shared), name })
    }

    /// The same TLS towards a server that is expected to be certified for its address.
    #[must_use]
    pub fn named_by(&self, address: IpAddr) -> Self {
        Self { shared: Arc::clone(&self.shared), name: ServerName::IpAddress(address.into()) }
    }

    /// Handshakes for what is not HTTP: without ALPN, which would have the server speak something else than whoever's bytes
    /// are passed on.
    pub(crate) async fn connect_stream(&self, stream: TcpStream) -> Result<TlsStream<TcpStream>, (Outcome, io::Error)> {
        let config = self.shared.config().map_err(|e| (Outcome::TlsFailed, io::Error::other(e)))?;
        let mut config = ClientConfig::clone(&config);
        config.alpn_protocols.clear();
        self.shake(Arc::new(config), stream).await
    }

    async fn shake(
        &self,
        config: Arc<ClientConfig>,
        stream: TcpStream,
    ) -> Result<TlsStream<TcpStream>, (Outcome, io::Error)> {
        let shaken = TlsConnector::from(config).connect(self.name.clone(), stream).await;
        shaken.map_err(|error| match CertificateRefused::find(&error) {
            Some(refused) => (Outcome::CertificateRefused, refused.into_io()),
            None => (Outcome::TlsFailed, error),
        })
    }

    /// Handshakes; the answer says whether HTTP/2 is to be spoken.
    pub(crate) async fn connect(
        &self,
        stream: TcpStream,
        protocol: Protocol,
    ) -> Result<(TlsStream<TcpStream>, bool), (Outcome, io::Error)> {
        let config = self.shared.config().map_err(|e| (Outcome::TlsFailed, io::Error::other(e)))?;
        let stream = self.shake(config, stream).await?;
        let h2 = match (protocol, stream.get_ref().1.alpn_protocol()) {
            (Protocol::Http1, _) => false,
            // Prior knowledge holds with TLS too: many gRPC servers speak no ALPN.
            (Protocol::Http2, None) => true,
            (_, agreed) => agreed == Some(b"h2"),
        };
        Ok((stream, h2))
    }
}

impl Shared {
    /// For trust and identity as they are now. Two connections at once may both build; the sessions of one are then lost, and
    /// no harm done.
    fn config(&self) -> Result<Arc<ClientConfig>, rustls::Error> {
        let (key, anchors) = match &self.identity {
            None => (None, Arc::clone(&self.trust.load())),
            Some(identity) => {
                let (key, anchors) = identity.snapshot(&self.trust);
                (Some(key), anchors)
            }
        };
        if let Some(built) = &*self.built.load()
            && Arc::ptr_eq(&built.anchors, &anchors)
            && built.key.as_ref().map(Arc::as_ptr) == key.as_ref().map(Arc::as_ptr)
        {
            return Ok(Arc::clone(&built.config));
        }
        let verifier = ServerVerifier { anchors: Arc::clone(&anchors), expected: self.expected.clone() };
        let builder = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()?
            .dangerous()
            // Verifies all that rustls' own does, and SPIFFE IDs where they are expected.
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match &key {
            None => builder.with_no_client_auth(),
            Some(key) => builder.with_client_cert_resolver(Arc::new(Shows(Arc::clone(key)))),
        };
        config.alpn_protocols.clone_from(&self.alpn);
        let config = Arc::new(config);
        self.built.store(Some(Arc::new(Built { anchors, key, config: Arc::clone(&config) })));
        Ok(config)
    }
}

/// Shows its certificate to whoever asks for one: a server that would rather have another authority's says so by refusing it.
#[derive(Debug)]
struct Shows(Arc<CertifiedKey>);

impl ResolvesClientCert for Shows {
    fn resolve(&self, _authorities: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.key.choose_scheme(schemes).map(|_| Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTls")
            .field("name", &self.name)
            .field("expected", &self.shared.expected)
            .finish_non_exhaustive()
    }
}

/// A name as it may be configured: an IPv6 address also in brackets, a DNS name also with a final dot.
fn server_name(name: &str) -> Option<ServerName<'static>> {
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    if let Ok(ip) = bare.parse::<IpAddr>() {
        return Some(ServerName::IpAddress(ip.into()));
    }
    ServerName::try_from(name.strip_suffix('.').unwrap_or(name).to_owned()).ok()
}

/// Whom a configuration trusts by itself.
fn anchors(tls: &UpstreamTls) -> Result<Anchors, ClientTlsError> {
    let crls = tls.crls.as_deref().unwrap_or_default();
    if let Some(bundles) = &tls.trust {
        if tls.roots != Roots::System || tls.crls.is_some() {
            return Err(ClientTlsError::TrustBesideRoots);
        }
        return Anchors::of_bundles(bundles).map_err(|error| match error {
            CertificateError::NoProvider(none) => none.into(),
            error => ClientTlsError::Trust(error.to_string()),
        });
    }
    let anchors = match &tls.roots {
        Roots::System if tls.spiffe_id.is_some() || tls.trust_domain.is_some() => {
            return Err(ClientTlsError::SpiffeWithoutRoots);
        }
        Roots::System => Anchors::system(crls),
        Roots::Pem(pem) => Anchors::from_memory(pem, crls),
    };
    anchors.map_err(|error| match error {
        CertificateError::NoProvider(none) => none.into(),
        CertificateError::SystemRoots(why) => ClientTlsError::SystemRoots(why),
        CertificateError::RevocationList { source, .. } => ClientTlsError::RevocationLists(source.to_string()),
        CertificateError::Roots { source, .. } => ClientTlsError::Roots(source.to_string()),
        _ => ClientTlsError::Roots("no certificate found".to_owned()),
    })
}

fn of_client_auth(error: CertificateError) -> ClientTlsError {
    match error {
        CertificateError::NoProvider(none) => none.into(),
        CertificateError::Pem { part: "certificate chain", source, .. }
        | CertificateError::InvalidCertificate { source, .. } => ClientTlsError::Chain(source.to_string()),
        CertificateError::NoCertificate { .. } => ClientTlsError::Chain("no certificate found".to_owned()),
        CertificateError::Pem { source, .. } | CertificateError::UnusableKey { source, .. } => {
            ClientTlsError::Key(source.to_string())
        }
        CertificateError::NoKey { .. } => ClientTlsError::Key("no key found".to_owned()),
        CertificateError::KeyMismatch { .. } => ClientTlsError::Key("it belongs to another certificate".to_owned()),
        other => ClientTlsError::Chain(other.to_string()),
    }
}
