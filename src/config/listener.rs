//! Where a gateway listens, and what belongs to each listener.

use std::{net::IpAddr, sync::Arc};

#[cfg(feature = "yaml")]
use serde::Deserialize;

use super::{BackendRef, Certificate, Host, TrustBundle, Upstream};

/// A place where requests or connections come in.
///
/// Several may share an address and a port when they speak the same family of protocols: the one with the most specific
/// [`host`](Self::host) that fits owns the request (HTTP, by the `Host` field) or the connection (TLS, by SNI), and
/// the others' routes do not see it.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "yaml", derive(Deserialize), serde(deny_unknown_fields))]
pub struct Listener {
    /// The name by which routes attach to it, and that it has in logs: `namespace/gateway/listener`.
    pub name: String,
    /// The addresses it binds. None means the address that the program chose for itself.
    #[cfg_attr(feature = "yaml", serde(default))]
    pub addresses: Vec<IpAddr>,
    /// The port it binds.
    pub port: u16,
    /// The hosts it is for. Default any.
    #[cfg_attr(feature = "yaml", serde(default = "any"))]
    pub host: Host,
    /// What is spoken there. Default HTTP.
    #[cfg_attr(feature = "yaml", serde(default))]
    pub protocol: ListenerProtocol,
    /// Whether the rest is served without it where an address of its own cannot be bound: that is a warning in the log, and
    /// the address is tried again with the next configuration. An address counts as one of these where all listeners there
    /// are; and where nothing at all could be listened on, the configuration is refused all the same. Default: false, which is
    /// to refuse it. Gateways of Kubernetes have it, as each may have an author of its own.
    #[cfg_attr(feature = "yaml", serde(default))]
    pub optional: bool,
    /// Why it serves nothing, where a source found that out: connections for it are closed, those for its siblings on the same
    /// port are served.
    #[cfg_attr(feature = "yaml", serde(skip))]
    pub invalid: Option<String>,
}

/// What a [`Listener`] speaks.
#[derive(Debug, Clone, Default, PartialEq)]
#[cfg_attr(feature = "yaml", derive(Deserialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum ListenerProtocol {
    /// HTTP/1.1, and HTTP/2 with prior knowledge. Leads to [`Route`](super::Route)s.
    #[default]
    Http,
    /// The same over TLS, HTTP/2 by ALPN. Leads to [`Route`](super::Route)s.
    Https(Termination),
    /// Streams over TLS that is ended here. Leads to [`StreamRoute`]s, by SNI.
    Tls(Termination),
    /// Streams over TLS that is passed on as it is. Leads to [`StreamRoute`]s, by SNI.
    TlsPassthrough,
    /// Streams of anything. Leads to [`StreamRoute`]s.
    Tcp,
}

/// How a listener ends TLS.
#[derive(Debug, Clone, Default, PartialEq)]
#[cfg_attr(feature = "yaml", derive(Deserialize), serde(deny_unknown_fields, default))]
pub struct Termination {
    /// The certificates it shows, chosen by SNI. None means the configuration's own
    /// [`certificates`](super::Config::certificates).
    pub certificates: Vec<Certificate>,
    /// The identity that the program gave the gateway under this name (`GatewayBuilder::identity`), which is shown whatever name
    /// is asked for: in the place of certificates, beside which it is an error. It rotates by itself. Default none.
    pub identity: Option<String>,
    /// Whether and how clients have to show certificates. Default: they are not asked.
    pub client: Option<ClientValidation>,
}

/// What is asked of the clients' certificates.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "yaml", derive(Deserialize), serde(deny_unknown_fields))]
pub struct ClientValidation {
    /// The authorities that clients' certificates have to be from, in PEM. Each is trusted for every name: with those of
    /// several trust domains here, a partner's could issue our SPIFFE IDs. Required, unless there is [`trust`](Self::trust) or the listener shows an
    /// [`identity`](Termination::identity): then, whom that trusts.
    #[cfg_attr(feature = "yaml", serde(default, rename = "ca", deserialize_with = "super::yaml::pem"))]
    pub roots: Arc<[u8]>,
    /// Revocation lists, in PEM. Default none.
    #[cfg_attr(feature = "yaml", serde(default, rename = "crl", deserialize_with = "super::yaml::crls"))]
    pub crls: Option<Arc<[u8]>>,
    /// SPIFFE federation: the authorities by the trust domain whose SPIFFE IDs they issue, in the place of `ca` and `crl`,
    /// beside which it is an error. A certificate without an ID, or of no domain in the list, is not good. Default: `ca` says
    /// it.
    #[cfg_attr(feature = "yaml", serde(default))]
    pub trust: Option<Vec<TrustBundle>>,
    /// What becomes of a client without a certificate, or with a bad one.
    #[cfg_attr(feature = "yaml", serde(default))]
    pub mode: ClientValidationMode,
}

/// How strictly [`ClientValidation`] is applied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[cfg_attr(feature = "yaml", derive(Deserialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum ClientValidationMode {
    /// A valid certificate, or no connection (Gateway API: `AllowValidOnly`).
    #[default]
    Required,
    /// A certificate that is shown has to be valid; none is fine.
    Optional,
    /// Anything is let in, and what did not verify is no identity (Gateway API: `AllowInsecureFallback`).
    Unverified,
}

/// Where the connections of listeners that do not speak HTTP go.
#[derive(Debug, Clone, Default, PartialEq)]
#[cfg_attr(feature = "yaml", derive(Deserialize), serde(deny_unknown_fields))]
pub struct StreamRoute {
    /// The name it has in logs and explanations.
    pub name: String,
    /// The [`Listener`]s it is attached to, by name.
    pub listeners: Vec<String>,
    /// The names it is for (SNI); none means those of its listeners.
    #[cfg_attr(feature = "yaml", serde(default))]
    pub hosts: Vec<Host>,
    /// Where connections go, shared out by weight. The share of one that is invalid is closed.
    pub backends: Vec<BackendRef>,
    /// When it was made, in seconds since 1970; see [`Route::created`](super::Route::created).
    #[cfg_attr(feature = "yaml", serde(default))]
    pub created: Option<i64>,
}

/// A service that calls of this process may name, and that [`Route`](super::Route)s may govern.
#[derive(Debug, Clone, Default, PartialEq)]
#[cfg_attr(feature = "yaml", derive(Deserialize), serde(deny_unknown_fields))]
pub struct Service {
    /// Its name, as `namespace/service`: callers write `service.namespace`, `service.namespace.svc` or
    /// `service.namespace.svc.cluster.local`, those of its own namespace `service` alone.
    pub name: String,
    /// Its ports.
    pub ports: Vec<ServicePort>,
}

/// A port of a [`Service`].
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "yaml", derive(Deserialize), serde(deny_unknown_fields))]
pub struct ServicePort {
    /// The port that callers write.
    pub port: u16,
    /// What answers where no route governs the call.
    pub backend: BackendRef,
    /// The upstream that `backend` names, unless [`Config::upstreams`](super::Config::upstreams) has one of that name: it is
    /// made when it is first called, so that services nobody calls cost nothing. If it cannot be made, such calls are
    /// answered 500. Default none. Files of our own have no such field.
    #[cfg_attr(feature = "yaml", serde(skip))]
    pub upstream: Option<Arc<Upstream>>,
}

impl Service {
    /// Namespace and name of `namespace/service`, if callers can write them.
    pub(crate) fn split(name: &str) -> Option<(&str, &str)> {
        let is_plain = |byte: u8| byte == b'-' || byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let is_label = |label: &str| !label.is_empty() && label.bytes().all(is_plain);
        name.split_once('/').filter(|(namespace, name)| is_label(namespace) && is_label(name))
    }
}

impl ServicePort {
    /// A port that `backend` answers.
    #[must_use]
    pub fn new(port: u16, backend: BackendRef) -> Self {
        Self { port, backend, upstream: None }
    }
}

/// A [`Service`] whose calls a [`Route`](super::Route) governs (the Gateway API's mesh profile, GAMMA).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[cfg_attr(feature = "yaml", derive(Deserialize), serde(deny_unknown_fields))]
pub struct MeshParent {
    /// The service's name, as `namespace/service`.
    pub service: String,
    /// The one port it is about. Default all.
    #[cfg_attr(feature = "yaml", serde(default))]
    pub port: Option<u16>,
    /// The namespace whose callers it is for: a consumer's own route, which goes before the producer's for
    /// them. Default all callers.
    #[cfg_attr(feature = "yaml", serde(default))]
    pub consumers: Option<String>,
}

impl ListenerProtocol {
    /// What is asked of clients' certificates, where TLS is ended.
    pub(crate) fn client(&self) -> Option<&ClientValidation> {
        match self {
            Self::Https(ends) | Self::Tls(ends) => ends.client.as_ref(),
            Self::Http | Self::TlsPassthrough | Self::Tcp => None,
        }
    }

    /// Whose trust that goes by, where it names nobody.
    pub(crate) fn identity(&self) -> Option<&str> {
        match self {
            Self::Https(ends) | Self::Tls(ends) => ends.identity.as_deref(),
            Self::Http | Self::TlsPassthrough | Self::Tcp => None,
        }
    }
}

impl Listener {
    /// An HTTP listener of this name on this port, for any host.
    #[must_use]
    pub fn http(name: impl Into<String>, port: u16) -> Self {
        Self {
            name: name.into(),
            addresses: Vec::new(),
            port,
            host: Host::Any,
            protocol: ListenerProtocol::Http,
            optional: false,
            invalid: None,
        }
    }
}

#[cfg(feature = "yaml")]
fn any() -> Host {
    Host::Any
}
