//! The server's side: TLS 1.2 and 1.3 with the certificate that fits the name the client asks for, and client certificates
//! where they are asked for.

use std::{fmt, io, net::SocketAddr, sync::Arc};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use rustls::{
    HandshakeKind, ProtocolVersion, ServerConfig,
    crypto::CryptoProvider,
    server::{
        Acceptor, ClientHello, ResolvesServerCert, ServerConnection, ServerSessionMemoryCache,
        danger::ClientCertVerifier,
    },
    sign::CertifiedKey,
};
use rustls_pki_types::UnixTime;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{LazyConfigAcceptor, TlsAcceptor, server::TlsStream};

use super::{
    CertificateRefused, CertificateSource, NoProvider, Trust, default_provider, peer,
    trust::Anchors,
    verify::{Asks, ClientVerifier, REFUSED},
};
use crate::{config::Host, connection::TlsInfo};

/// How many sessions are remembered for resumption. rustls remembers 256, too few for a gate in front of many clients.
const SESSIONS: usize = 4096;

/// How a server speaks TLS: versions 1.2 and 1.3, `h2` and `http/1.1` by ALPN, certificates by SNI.
///
/// Sessions are resumed only under the name they were made for, and only while a certificate for it is there.
///
/// # Client certificates
/// 1. By default none are asked for. [`client_certificates`](Self::client_certificates) says so for every name,
///    [`client_certificates_for`](Self::client_certificates_for) for some: the exact name goes before the longest wildcard, a
///    wildcard before the default. A client without SNI gets the default.
/// 2. A certificate that is presented must be good, also where it is optional, unless
///    [anything](ClientCertificates::unverified) is let in. Who presented it is in
///    [`TlsInfo::peer_identity`](crate::connection::TlsInfo::peer_identity).
/// 3. What is refused is logged at `info` with the peer's address, whose certificate it was, and why. The client is told by
///    TLS's own alert.
/// 4. When a [`Trust`] changes, sessions made under the old one are not resumed. A session that is resumed is verified again by
///    the certificate it was made with.
///
/// **A client can shake hands for one name and then ask for another's host on the same connection.** Where names differ in
/// whom they admit, say [`AllowLayer::require_server_name`](crate::identity::AllowLayer::require_server_name) in front of each.
///
/// # Example
/// ```no_run
/// use portcullis::tls::{Certificates, ClientCertificates, ServerTls, Trust};
///
/// let certificates = Certificates::from_pem_files("cert.pem", "key.pem")?;
/// let partners = Trust::from_files("partners.pem", None)?;
/// let tls = ServerTls::new(certificates.clone())?
///     .client_certificates_for(["api.example.com".parse()?], ClientCertificates::required(partners.clone()));
/// // Later, without touching open connections:
/// certificates.reload_pem_files("cert.pem", "key.pem")?;
/// partners.reload_files("partners.pem", None)?;
/// # let _ = tls;
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct ServerTls {
    plain: TlsAcceptor,
    /// None where no client certificates are ever asked for.
    policies: Option<Arc<Policies>>,
}

/// Whether a server asks for client certificates, and whom it trusts to issue them.
///
/// # Example
/// ```
/// use portcullis::tls::ClientCertificates;
///
/// assert!(!ClientCertificates::off().is_required());
/// ```
#[derive(Debug, Clone)]
pub struct ClientCertificates(Option<(Trust, Asks)>);

impl ClientCertificates {
    /// None are asked for.
    #[must_use]
    pub fn off() -> Self {
        Self(None)
    }

    /// They are asked for; a client without one is served too, without an identity.
    #[must_use]
    pub fn optional(trust: Trust) -> Self {
        Self(Some((trust, Asks::Optional)))
    }

    /// A client without one is refused in the handshake.
    #[must_use]
    pub fn required(trust: Trust) -> Self {
        Self(Some((trust, Asks::Required)))
    }

    /// They are asked for, and every client is served: one without, and one whose certificate is expired, revoked, or from
    /// whom nobody here trusts. Only a good one makes an identity, and is among
    /// [`TlsInfo::peer_certificates`](crate::connection::TlsInfo::peer_certificates).
    #[must_use]
    pub fn unverified(trust: Trust) -> Self {
        Self(Some((trust, Asks::Unverified)))
    }

    /// Whether a client without one is refused.
    #[must_use]
    pub fn is_required(&self) -> bool {
        matches!(self.0, Some((_, Asks::Required)))
    }
}

#[derive(Clone, Default)]
struct Policies {
    default: Option<Arc<Policy>>,
    by_host: Vec<(Host, Option<Arc<Policy>>)>,
}

struct Policy {
    trust: Trust,
    asks: Asks,
    /// What was made of the trust the last time that somebody looked.
    built: ArcSwapOption<Built>,
}

/// A configuration with a session store of its own, for one state of the trust: with the state, its sessions go.
struct Built {
    anchors: Arc<Anchors>,
    verifier: Arc<ClientVerifier>,
    config: Arc<ServerConfig>,
}

impl ServerTls {
    /// Shows the certificates of `source`, asked anew for every handshake.
    ///
    /// # Errors
    /// When there is no crypto provider.
    pub fn new(source: impl CertificateSource) -> Result<Self, NoProvider> {
        let alpn = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self::from_rustls(configure(default_provider()?, None, Arc::new(Resolver(source)), alpn)?))
    }

    /// The same for what is not HTTP: no ALPN.
    pub(crate) fn for_streams(source: impl CertificateSource) -> Result<Self, NoProvider> {
        Ok(Self::from_rustls(configure(default_provider()?, None, Arc::new(Resolver(source)), Vec::new())?))
    }

    /// As rustls is configured. Its ALPN protocols should be `h2` and `http/1.1`, or one of them.
    #[must_use]
    pub fn from_rustls(config: impl Into<Arc<ServerConfig>>) -> Self {
        Self { plain: TlsAcceptor::from(config.into()), policies: None }
    }

    /// What is asked of clients, unless for their name something else is. Default: no certificates.
    ///
    /// On a [`from_rustls`](Self::from_rustls) configuration, where this asks for certificates its provider, certificates and
    /// ALPN are kept, and the rest is as in [`new`](Self::new).
    #[must_use]
    pub fn client_certificates(mut self, policy: ClientCertificates) -> Self {
        self.policies_mut().default = Policy::of(policy);
        self
    }

    /// What is asked of clients that shake hands for one of these names. Of what is said twice for one name, the last holds.
    #[must_use]
    pub fn client_certificates_for(
        mut self,
        hosts: impl IntoIterator<Item = Host>,
        policy: ClientCertificates,
    ) -> Self {
        let policy = Policy::of(policy);
        let policies = self.policies_mut();
        for host in hosts {
            policies.by_host.retain(|(other, _)| *other != host);
            policies.by_host.push((host, policy.clone()));
        }
        policies.by_host.sort_by_key(|(host, _)| std::cmp::Reverse(host.rank()));
        self
    }

    fn policies_mut(&mut self) -> &mut Policies {
        Arc::make_mut(self.policies.get_or_insert_default())
    }

    /// Shakes hands with `peer`.
    pub(crate) async fn accept<T>(&self, io: T, peer: SocketAddr) -> io::Result<(TlsStream<T>, TlsInfo)>
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        let Some(policies) = &self.policies else {
            let stream = self.plain.accept(io).await?;
            let info = info(stream.get_ref().1, self.plain.config());
            return Ok((stream, info));
        };
        let shake = async {
            let shaken = self.accept_by(policies, io).await;
            shaken.map_err(|error| match CertificateRefused::find(&error) {
                Some(refused) => {
                    let refused = refused.presented(REFUSED.with(|names| names.borrow_mut().take()));
                    tracing::info!(%peer, %error, "TLS handshake: {refused}");
                    refused.into_io()
                }
                None => error,
            })
        };
        REFUSED.scope(std::cell::RefCell::default(), shake).await
    }

    async fn accept_by<T>(&self, policies: &Policies, io: T) -> io::Result<(TlsStream<T>, TlsInfo)>
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        let start = LazyConfigAcceptor::new(Acceptor::default(), io).await?;
        let Some(policy) = policies.find(start.client_hello().server_name()) else {
            let stream = start.into_stream(Arc::clone(self.plain.config())).await?;
            let info = info(stream.get_ref().1, self.plain.config());
            return Ok((stream, info));
        };
        let built = policy.built(self.plain.config()).map_err(io::Error::other)?;
        let stream = start.into_stream(Arc::clone(&built.config)).await?;
        let connection = stream.get_ref().1;
        if connection.handshake_kind() == Some(HandshakeKind::Resumed)
            && let Some((end_entity, intermediates)) =
                connection.peer_certificates().and_then(|certificates| certificates.split_first())
        {
            built
                .verifier
                .verify_client_cert(end_entity, intermediates, UnixTime::now())
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        }
        let mut info = info(connection, &built.config);
        if let Some((end_entity, intermediates)) = connection.peer_certificates().and_then(<[_]>::split_first) {
            if !built.verifier.vouches_for(end_entity, intermediates) {
                info.peer_certificates.clear();
                info.peer_identity = None;
            } else if !built.verifier.believes_dns_names(end_entity) {
                let peer = info.peer_identity.map(Arc::unwrap_or_clone);
                info.peer_identity = peer.map(|peer| Arc::new(peer.without_dns_names()));
            }
        }
        Ok((stream, info))
    }
}

impl Policies {
    fn find(&self, name: Option<&str>) -> Option<&Arc<Policy>> {
        let by_name = name.and_then(|name| {
            let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
            self.by_host.iter().find(|(host, _)| host.fits(&name))
        });
        by_name.map_or(&self.default, |(_, policy)| policy).as_ref()
    }
}

impl Policy {
    fn of(policy: ClientCertificates) -> Option<Arc<Self>> {
        let (trust, asks) = policy.0?;
        Some(Arc::new(Self { trust, asks, built: ArcSwapOption::empty() }))
    }

    /// For the trust as it is now. Two handshakes at once may both build; the sessions of one are then lost, and no harm done.
    fn built(&self, plain: &ServerConfig) -> Result<Arc<Built>, NoProvider> {
        let anchors = self.trust.load();
        if let Some(built) = &*self.built.load()
            && Arc::ptr_eq(&built.anchors, &anchors)
        {
            return Ok(Arc::clone(built));
        }
        let anchors = Arc::clone(&anchors);
        let verifier = Arc::new(ClientVerifier::new(Arc::clone(&anchors), self.asks));
        let config = configure(
            Arc::clone(plain.crypto_provider()),
            Some(verifier.clone()),
            Arc::clone(&plain.cert_resolver),
            plain.alpn_protocols.clone(),
        )?;
        let built = Arc::new(Built { anchors, verifier, config: Arc::new(config) });
        self.built.store(Some(Arc::clone(&built)));
        Ok(built)
    }
}

fn configure(
    provider: Arc<CryptoProvider>,
    clients: Option<Arc<ClientVerifier>>,
    certificates: Arc<dyn ResolvesServerCert>,
    alpn_protocols: Vec<Vec<u8>>,
) -> Result<ServerConfig, NoProvider> {
    let builder = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        // The provider has no cipher suite for either version.
        .map_err(|_| NoProvider)?;
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(verifier) => builder.with_client_cert_verifier(verifier),
    };
    let mut config = builder.with_cert_resolver(certificates);
    config.alpn_protocols = alpn_protocols;
    config.session_storage = ServerSessionMemoryCache::new(SESSIONS);
    Ok(config)
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls")
            .field("alpn_protocols", &self.plain.config().alpn_protocols)
            .field("client_certificates", &self.policies.is_some())
            .finish_non_exhaustive()
    }
}

/// What is known of a connection. rustls has the certificates of clients that the verifier let in, and of no others.
fn info(connection: &ServerConnection, config: &ServerConfig) -> TlsInfo {
    let certificates: Vec<Bytes> = connection
        .peer_certificates()
        .unwrap_or_default()
        .iter()
        .map(|certificate| Bytes::copy_from_slice(certificate))
        .collect();
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
        peer_identity: certificates.first().and_then(|der| peer::identity(der, config.crypto_provider())).map(Arc::new),
        peer_certificates: certificates,
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
