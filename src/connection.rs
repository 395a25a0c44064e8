//! What is known of the connection a request arrived on.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use http::HeaderValue;

use crate::interim::Interim;

use crate::identity::PeerIdentity;

/// Facts about the connection a request arrived on: a request extension, shared by all requests of the connection.
///
/// # Example
/// ```
/// use portcullis::connection::{ConnectionInfo, TlsInfo};
///
/// let peer = "192.0.2.7:4711".parse().unwrap();
/// let local = "127.0.0.1:8443".parse().unwrap();
/// let info = ConnectionInfo::new(peer, local).with_tls(TlsInfo {
///     server_name: Some("shop.example.com".into()),
///     ..TlsInfo::default()
/// });
/// assert_eq!(info.scheme(), "https");
/// assert_eq!(info.peer_addr(), peer);
/// ```
#[derive(Debug, Clone)]
pub struct ConnectionInfo(Arc<Facts>);

#[derive(Debug, Clone)]
struct Facts {
    peer: SocketAddr,
    socket_peer: SocketAddr,
    local: SocketAddr,
    socket_local: SocketAddr,
    own: bool,
    tls: Option<TlsInfo>,
    interim: Option<Arc<Interim>>,
    values: OnceLock<FieldValues>,
}

/// What forwarding fields say of a connection, made once for all its requests.
#[derive(Debug, Clone)]
pub(crate) struct FieldValues {
    /// The peer's address. An IPv4 address mapped into IPv6 is the IPv4 address.
    pub(crate) peer: HeaderValue,
    /// The port it connected to.
    pub(crate) local_port: HeaderValue,
}

/// Facts about a connection's TLS session.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsInfo {
    /// The name the client asked for (SNI), lower case.
    pub server_name: Option<Arc<str>>,
    /// The protocol agreed by ALPN, such as `h2`.
    pub alpn: Option<Bytes>,
    /// The protocol version, such as `TLSv1.3`.
    pub version: Option<&'static str>,
    /// The cipher suite's standard name.
    pub cipher_suite: Option<&'static str>,
    /// The client's certificates in DER, end entity first; empty when it presented none that was accepted.
    pub peer_certificates: Vec<Bytes>,
    /// Who the client is by its certificate, where that was asked for and verified.
    pub peer_identity: Option<Arc<PeerIdentity>>,
}

impl ConnectionInfo {
    /// A plaintext connection from `peer` to `local`.
    #[must_use]
    pub fn new(peer: SocketAddr, local: SocketAddr) -> Self {
        let values = OnceLock::new();
        Self(Arc::new(Facts {
            peer,
            socket_peer: peer,
            local,
            socket_local: local,
            own: false,
            tls: None,
            interim: None,
            values,
        }))
    }

    /// The same connection, on behalf of the client and for the destination that a PROXY protocol header named.
    #[must_use]
    pub fn with_proxied(mut self, peer: SocketAddr, local: SocketAddr) -> Self {
        let facts = Arc::make_mut(&mut self.0);
        facts.peer = peer;
        facts.local = local;
        facts.values = OnceLock::new();
        self
    }

    /// The same connection with its TLS session.
    #[must_use]
    pub fn with_tls(mut self, tls: TlsInfo) -> Self {
        Arc::make_mut(&mut self.0).tls = Some(tls);
        self
    }

    /// The same connection, to a listener that the program itself has given to its server: not to one of a configuration
    /// alone. Servers know that of their connections; it is for those who ask where a request would go.
    #[must_use]
    pub fn with_own_listener(mut self) -> Self {
        Arc::make_mut(&mut self.0).own = true;
        self
    }

    /// Whether it came to a listener that the program itself has given to its server, not to one of a configuration.
    pub(crate) fn is_of_own_listener(&self) -> bool {
        self.0.own
    }

    /// The same connection, which can send informational responses.
    pub(crate) fn with_interim(mut self, interim: Arc<Interim>) -> Self {
        Arc::make_mut(&mut self.0).interim = Some(interim);
        self
    }

    pub(crate) fn interim(&self) -> Option<&Arc<Interim>> {
        self.0.interim.as_ref()
    }

    /// The client's address: the one a PROXY protocol header named, else the socket's.
    #[must_use]
    pub fn peer_addr(&self) -> SocketAddr {
        self.0.peer
    }

    /// The address of the socket's other end, whatever a PROXY protocol header said.
    #[must_use]
    pub fn socket_peer_addr(&self) -> SocketAddr {
        self.0.socket_peer
    }

    /// The address the client connected to.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.0.local
    }

    /// The address of the socket's own end, whatever a PROXY protocol header said.
    #[must_use]
    pub fn socket_local_addr(&self) -> SocketAddr {
        self.0.socket_local
    }

    pub(crate) fn field_values(&self) -> &FieldValues {
        self.0.values.get_or_init(|| FieldValues {
            peer: address_value(self.0.peer.ip().to_canonical()),
            local_port: self.0.local.port().into(),
        })
    }

    /// The TLS session; `None` on a plaintext connection.
    #[must_use]
    pub fn tls(&self) -> Option<&TlsInfo> {
        self.0.tls.as_ref()
    }

    /// Who the client is, by a certificate that was verified.
    #[must_use]
    pub fn peer_identity(&self) -> Option<&PeerIdentity> {
        self.tls()?.peer_identity.as_deref()
    }

    /// `https` on a TLS connection, else `http`.
    #[must_use]
    pub fn scheme(&self) -> &'static str {
        if self.0.tls.is_some() { "https" } else { "http" }
    }
}

/// The client's address, as far as trusted peers vouch for it: a request extension set by
/// [`Forwarded`](crate::forwarded::Forwarded).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClientAddr(IpAddr);

impl ClientAddr {
    /// A client at `ip`. An IPv4 address mapped into IPv6 becomes the IPv4 address.
    #[must_use]
    pub const fn new(ip: IpAddr) -> Self {
        Self(ip.to_canonical())
    }

    /// The address.
    #[must_use]
    pub const fn ip(self) -> IpAddr {
        self.0
    }
}

/// A request extension: a call of this process whose URI said `https`, whatever there is of connections.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CalledOverTls;

/// An address as a field says it.
pub(crate) fn address_value(ip: IpAddr) -> HeaderValue {
    HeaderValue::try_from(ip.to_string()).unwrap_or_else(|_| HeaderValue::from_static("unknown"))
}
