//! The server's side: TLS 1.2 and 1.3 with the certificate that fits the name the client asks for.

use std::{fmt, io, sync::Arc};

use bytes::Bytes;
use rustls::{
    ProtocolVersion, ServerConfig,
    server::{ClientHello, ResolvesServerCert, ServerConnection, ServerSessionMemoryCache},
    sign::CertifiedKey,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::{CertificateSource, NoProvider, default_provider};
use crate::connection::TlsInfo;

/// How many sessions are remembered for resumption. rustls remembers 256, too few for a gate in front of many clients.
const SESSIONS: usize = 4096;

/// How a server speaks TLS: versions 1.2 and 1.3, `h2` and `http/1.1` by ALPN, certificates by SNI.
///
/// Sessions are resumed only under the name they were made for, and only while a certificate for it is there.
///
/// # Example
/// ```no_run
/// use portcullis::tls::{Certificates, ServerTls};
///
/// let certificates = Certificates::from_pem_files("cert.pem", "key.pem")?;
/// let tls = ServerTls::new(certificates.clone())?;
/// // Later, without touching open connections:
/// certificates.reload_pem_files("cert.pem", "key.pem")?;
/// # let _ = tls;
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct ServerTls(TlsAcceptor);

impl ServerTls {
    /// Shows the certificates of `source`, asked anew for every handshake.
    ///
    /// # Errors
    /// When there is no crypto provider.
    pub fn new(source: impl CertificateSource) -> Result<Self, NoProvider> {
        let provider = default_provider()?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            // The provider has no cipher suite for either version.
            .map_err(|_| NoProvider)?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(Resolver(source)));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config.session_storage = ServerSessionMemoryCache::new(SESSIONS);
        Ok(Self::from_rustls(config))
    }

    /// As rustls is configured. Its ALPN protocols should be `h2` and `http/1.1`, or one of them.
    #[must_use]
    pub fn from_rustls(config: impl Into<Arc<ServerConfig>>) -> Self {
        Self(TlsAcceptor::from(config.into()))
    }

    /// Shakes hands.
    pub(crate) async fn accept<T>(&self, io: T) -> io::Result<(TlsStream<T>, TlsInfo)>
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        let stream = self.0.accept(io).await?;
        let info = info(stream.get_ref().1);
        Ok((stream, info))
    }
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls").field("alpn_protocols", &self.0.config().alpn_protocols).finish_non_exhaustive()
    }
}

fn info(connection: &ServerConnection) -> TlsInfo {
    let certificates = connection.peer_certificates().unwrap_or_default();
    TlsInfo {
        server_name: connection.server_name().map(|name| name.to_ascii_lowercase().into()),
        alpn: connection.alpn_protocol().map(|protocol| match protocol {
            b"h2" => Bytes::from_static(b"h2"),
            b"http/1.1" => Bytes::from_static(b"http/1.1"),
            other => Bytes::copy_from_slice(other),
        }),
        version: connection.protocol_version().map(|version| match version {
            ProtocolVersion::TLSv1_3 => "TLSv1.3",
            ProtocolVersion::TLSv1_2 => "TLSv1.2",
            _ => "unknown",
        }),
        cipher_suite: connection.negotiated_cipher_suite().and_then(|suite| standard_name(suite.suite().as_str()?)),
        peer_certificates: certificates.iter().map(|certificate| Bytes::copy_from_slice(certificate)).collect(),
        peer_identity: None,
    }
}

/// The registered name of a cipher suite: rustls calls those of TLS 1.3 `TLS13_…`.
fn standard_name(name: &'static str) -> Option<&'static str> {
    Some(match name {
        "TLS13_AES_128_GCM_SHA256" => "TLS_AES_128_GCM_SHA256",
        "TLS13_AES_256_GCM_SHA384" => "TLS_AES_256_GCM_SHA384",
        "TLS13_CHACHA20_POLY1305_SHA256" => "TLS_CHACHA20_POLY1305_SHA256",
        name => name,
    })
}

struct Resolver<C>(C);

impl<C: CertificateSource> ResolvesServerCert for Resolver<C> {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.certificates().find(hello.server_name(), hello.signature_schemes())
    }
}

impl<C> fmt::Debug for Resolver<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").finish_non_exhaustive()
    }
}
