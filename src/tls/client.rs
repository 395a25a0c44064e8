//! The client's side: verification of an upstream's certificate.

use std::{
    fmt, io,
    net::IpAddr,
    sync::{Arc, OnceLock},
};

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use thiserror::Error;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::NoProvider;
use crate::{
    Outcome,
    config::{ClientAuth, Protocol, Roots, UpstreamTls},
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
/// 1. TLS 1.2 and 1.3, with the cipher suites of [`default_provider`](super::default_provider).
/// 2. The certificate must chain to the roots, be valid today, and name the server among its subject alternative names
///    (RFC 9110 section 4.3.4; RFC 9525). The subject's common name is never looked at.
/// 3. SNI carries the server's name, unless that is an IP address (RFC 6066 section 3).
/// 4. ALPN offers what the protocol allows: `http/1.1`, `h2`, or both with `h2` first.
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
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl ClientTls {
    /// TLS as configured. `default_name` is expected of the server if `tls` names none: a DNS name or an IP address.
    ///
    /// # Errors
    /// When names, certificates or keys cannot be used; the error says which and what to do.
    pub fn new(tls: &UpstreamTls, default_name: &str, protocol: Protocol) -> Result<Self, ClientTlsError> {
        let name = tls.server_name.as_deref().unwrap_or(default_name);
        let name = server_name(name).ok_or_else(|| ClientTlsError::ServerName(name.to_owned()))?;
        let roots = match &tls.roots {
            Roots::System => system_roots()?,
            Roots::Pem(pem) => Arc::new(pem_roots(pem)?),
        };
        let builder = ClientConfig::builder_with_provider(super::default_provider()?)
            .with_safe_default_protocol_versions()
            .map_err(|e| ClientTlsError::Provider(e.to_string()))?
            .with_root_certificates(roots);
        let mut config = match &tls.client_auth {
            None => builder.with_no_client_auth(),
            Some(auth) => {
                let (chain, key) = identity(auth)?;
                builder.with_client_auth_cert(chain, key).map_err(|e| ClientTlsError::Key(e.to_string()))?
            }
        };
        config.alpn_protocols = match protocol {
            Protocol::Auto => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
            Protocol::Http1 => vec![b"http/1.1".to_vec()],
            Protocol::Http2 => vec![b"h2".to_vec()],
        };
        Ok(Self { config: Arc::new(config), name })
    }

    /// The same TLS towards a server that is expected to be certified for its address.
    #[must_use]
    pub fn named_by(&self, address: IpAddr) -> Self {
        Self { config: Arc::clone(&self.config), name: ServerName::IpAddress(address.into()) }
    }

    /// Handshakes; the answer says whether HTTP/2 is to be spoken.
    pub(crate) async fn connect(
        &self,
        stream: TcpStream,
        protocol: Protocol,
    ) -> Result<(TlsStream<TcpStream>, bool), (Outcome, io::Error)> {
        let connector = TlsConnector::from(Arc::clone(&self.config));
        let stream = connector.connect(self.name.clone(), stream).await.map_err(|e| (outcome(&e), e))?;
        let h2 = match (protocol, stream.get_ref().1.alpn_protocol()) {
            (Protocol::Http1, _) => false,
            // Prior knowledge holds with TLS too: many gRPC servers speak no ALPN.
            (Protocol::Http2, None) => true,
            (_, agreed) => agreed == Some(b"h2"),
        };
        Ok((stream, h2))
    }
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTls").field("name", &self.name).finish_non_exhaustive()
    }
}

fn outcome(error: &io::Error) -> Outcome {
    use rustls::Error as Tls;
    match error.get_ref().and_then(|source| source.downcast_ref::<Tls>()) {
        Some(Tls::InvalidCertificate(_) | Tls::NoCertificatesPresented | Tls::UnsupportedNameType) => {
            Outcome::CertificateRefused
        }
        _ => Outcome::TlsFailed,
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

fn system_roots() -> Result<Arc<RootCertStore>, ClientTlsError> {
    static ROOTS: OnceLock<Result<Arc<RootCertStore>, ClientTlsError>> = OnceLock::new();
    ROOTS
        .get_or_init(|| {
            let found = rustls_native_certs::load_native_certs();
            let mut roots = RootCertStore::empty();
            // A system's list may hold certificates that no verifier understands; they are no reason to trust nobody.
            let (added, _) = roots.add_parsable_certificates(found.certs);
            if added == 0 {
                let why = found.errors.first().map_or_else(|| "none found".to_owned(), ToString::to_string);
                return Err(ClientTlsError::SystemRoots(why));
            }
            Ok(Arc::new(roots))
        })
        .clone()
}

fn pem_roots(pem: &[u8]) -> Result<RootCertStore, ClientTlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|e| ClientTlsError::Roots(e.to_string()))?;
        roots.add(certificate).map_err(|e| ClientTlsError::Roots(e.to_string()))?;
    }
    if roots.is_empty() {
        return Err(ClientTlsError::Roots("no certificate found".to_owned()));
    }
    Ok(roots)
}

fn identity(auth: &ClientAuth) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), ClientTlsError> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&auth.chain)
        .collect::<Result<_, _>>()
        .map_err(|e| ClientTlsError::Chain(e.to_string()))?;
    if chain.is_empty() {
        return Err(ClientTlsError::Chain("no certificate found".to_owned()));
    }
    let key = PrivateKeyDer::from_pem_slice(&auth.key).map_err(|e| ClientTlsError::Key(e.to_string()))?;
    Ok((chain, key))
}
