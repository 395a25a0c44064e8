//! What is done to requests and responses on their way.

use std::time::Duration;

use http::{HeaderName, HeaderValue, Method};
#[cfg(feature = "yaml")]
use serde::Deserialize;

use super::{BackendRef, Fault, Priority, RateLimit};
use crate::identity::{PeerRule, SpiffeId};

/// One thing that is done to the requests of a rule, or of one of its backends, or to their responses.
///
/// Filters see a request in this order, and its response in the opposite order: [`Cors`](Self::Cors), which answers a
/// preflight request before anything else looks at it; those that may turn a request away ([`Allow`](Self::Allow),
/// [`ExternalAuth`](Self::ExternalAuth), [`RateLimit`](Self::RateLimit), [`Fault`](Self::Fault)); then the others as they are
/// written.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "yaml", derive(Deserialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Filter {
    /// Changes the request's header fields.
    RequestHeaders(HeaderChanges),
    /// Changes the response's header fields.
    ResponseHeaders(HeaderChanges),
    /// Answers with a redirection; nothing is forwarded.
    Redirect(Redirect),
    /// Changes the request's host and path.
    Rewrite(Rewrite),
    /// Sends a copy elsewhere as well; its answer is dropped.
    Mirror(Mirror),
    /// Lets web pages of other origins make requests.
    Cors(Cors),
    /// Asks another service whether the request may go on.
    ExternalAuth(ExternalAuth),
    /// Turns away peers that it does not name.
    Allow(Allow),
    /// Turns away requests that come too often.
    RateLimit(RateLimit),
    /// Fails or delays some requests on purpose.
    Fault(Fault),
    /// Says how much its requests matter to upstreams that [shed](super::Upstream::shed) load. A [`Priority`] that code has
    /// put among a request's extensions comes before it: code knows the request, a rule only where it goes.
    Priority(Priority),
    /// Tells of the client's certificate in `X-Forwarded-Client-Cert`.
    ClientCert(ClientCertFilter),
}

/// What is told of the client's certificate; see [`forwarded`](crate::forwarded), whose layer drops from clients what they say
/// of it themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "yaml", derive(Deserialize), serde(deny_unknown_fields, default))]
pub struct ClientCertFilter {
    /// What becomes of the field. Default [`ClientCert::Set`].
    pub tell: ClientCert,
    /// Who we are to the client, for `By`. Default: not told.
    pub by: Option<SpiffeId>,
}

/// What becomes of `X-Forwarded-Client-Cert`, which tells upstreams of the certificate that the client was verified by.
/// Nobody's but a trusted peer's is ever passed on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "yaml", derive(Deserialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum ClientCert {
    /// It is not written; a trusted peer's is passed on (Envoy's `FORWARD_ONLY`).
    #[default]
    Keep,
    /// It tells of the peer's certificate alone, or is not there when the peer has none (Envoy's `SANITIZE_SET`).
    Set,
    /// The peer's certificate is added to what a trusted peer told of those before it (Envoy's `APPEND_FORWARD`). It stands
    /// there once, as the last says it who adds it: a rule's word replaces that of
    /// [`ForwardedLayer::client_cert`](crate::forwarded::ForwardedLayer::client_cert), and a backend's that of its rule.
    Append,
}

impl Default for ClientCertFilter {
    fn default() -> Self {
        Self { tell: ClientCert::Set, by: None }
    }
}

/// Changes to header fields: first `set`, then `add`, then `remove`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[cfg_attr(feature = "yaml", derive(Deserialize), serde(deny_unknown_fields, default))]
pub struct HeaderChanges {
    /// Fields that get this value, whatever they had.
    #[cfg_attr(feature = "yaml", serde(deserialize_with = "super::yaml::fields"))]
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Fields that get one more line.
    #[cfg_attr(feature = "yaml", serde(deserialize_with = "super::yaml::fields"))]
    pub add: Vec<(HeaderName, HeaderValue)>,
    /// Fields that go.
    #[cfg_attr(feature = "yaml", serde(deserialize_with = "super::yaml::names"))]
    pub remove: Vec<HeaderName>,
}

/// A redirection. What is not given is as in the request.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "yaml", derive(Deserialize), serde(deny_unknown_fields, default))]
pub struct Redirect {
    /// `http` or `https`.
    pub scheme: Option<Scheme>,
    /// The host, without a port.
    pub host: Option<String>,
    /// The path; the query stays.
    pub path: Option<PathChange>,
    /// The port. Default: the scheme's own where `scheme` is given, else the listener's; one that is the scheme's own is
    /// left out.
    pub port: Option<u16>,
    /// 301, 302, 303, 307 or 308. Default 302.
    pub status: u16,
}

/// A scheme of HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "yaml", derive(Deserialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Scheme {
    /// Without TLS; port 80.
    Http,
    /// With TLS; port 443.
    Https,
}

/// Another host or path for the request. The query stays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[cfg_attr(feature = "yaml", derive(Deserialize), serde(deny_unknown_fields, default))]
pub struct Rewrite {
    /// What becomes the `Host` field, without a port.
    pub host: Option<String>,
    /// What becomes the path.
    pub path: Option<PathChange>,
}

/// What is put in the place of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "yaml", derive(Deserialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum PathChange {
    /// For the whole of it.
    Full(String),
    /// For the part that the rule's prefix matched.
    Prefix(String),
}

/// A copy of requests for somebody else.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "yaml", derive(Deserialize), serde(deny_unknown_fields))]
pub struct Mirror {
    /// Who gets it.
    pub backend: BackendRef,
    /// Which share of the requests, by chance. Default all.
    #[cfg_attr(feature = "yaml", serde(default))]
    pub share: Fraction,
}

/// A share: `numerator` of `denominator`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "yaml", derive(Deserialize), serde(deny_unknown_fields))]
pub struct Fraction {
    /// How many.
    pub numerator: u32,
    /// Of how many; zero counts as one. Default 100.
    #[cfg_attr(feature = "yaml", serde(default = "hundred"))]
    pub denominator: u32,
}

/// Cross-origin requests (Fetch standard, section 3.3).
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "yaml", derive(Deserialize), serde(deny_unknown_fields, default))]
pub struct Cors {
    /// The origins that may: `*`, an origin such as `https://shop.example.com`, one with `*` in front of its host, as in
    /// `https://*.example.com`, for all names of one label and more there, `https://*` for any host, or `null`.
    pub origins: Vec<String>,
    /// The methods they may use; `*` for all. Default: those that need no permission (GET, HEAD, POST).
    pub methods: Vec<String>,
    /// The request's fields they may set; `*` for all.
    pub headers: Vec<String>,
    /// The response's fields they may read; `*` for all.
    pub expose: Vec<String>,
    /// Whether cookies and other credentials may be sent along. Default false.
    pub credentials: bool,
    /// How long a browser may remember the answer to a preflight. Default 5 s (Gateway API, Fetch standard).
    #[cfg_attr(feature = "yaml", serde(deserialize_with = "super::duration::deserialize"))]
    pub max_age: Duration,
}

/// A service that is asked whether a request may go on (GEP-1494, Envoy's `ext_authz`).
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "yaml", derive(Deserialize), serde(deny_unknown_fields))]
pub struct ExternalAuth {
    /// Who is asked.
    pub backend: BackendRef,
    /// How it is asked.
    pub protocol: AuthProtocol,
    /// How many bytes of the body it gets to see. A longer body is refused with 413. Default none.
    #[cfg_attr(feature = "yaml", serde(default))]
    pub body: Option<u32>,
}

/// How an authorization service is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "yaml", derive(Deserialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum AuthProtocol {
    /// By an HTTP request like the client's: 200 lets it go on, a redirection or refusal is the answer.
    Http {
        /// Put before the request's path.
        #[cfg_attr(feature = "yaml", serde(default))]
        path: String,
        /// The request's fields that it gets to see, besides `Authorization` (and the method, host and path).
        #[cfg_attr(feature = "yaml", serde(default))]
        headers: Vec<String>,
        /// The fields of its answer that are put into the request in the place of the client's, when it lets it go on.
        /// None means all that do not belong to the answer itself.
        #[cfg_attr(feature = "yaml", serde(default))]
        response_headers: Vec<String>,
    },
    /// By `envoy.service.auth.v3.Authorization/Check`.
    Grpc {
        /// The request's fields that it gets to see; none means all.
        #[cfg_attr(feature = "yaml", serde(default))]
        headers: Vec<String>,
    },
}

/// Who is let in, by the identity that the connection's certificate proves; see [`identity`](crate::identity). Without one:
/// 401. With one that nothing here admits: 403.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[cfg_attr(feature = "yaml", derive(Deserialize), serde(deny_unknown_fields))]
pub struct Allow {
    /// Any of these; none at all admits nobody.
    pub peers: Vec<PeerRule>,
    /// Whether the request's host must be the name that the handshake was for; else 421. Default false.
    #[cfg_attr(feature = "yaml", serde(default))]
    pub require_server_name: bool,
}

impl Default for Redirect {
    fn default() -> Self {
        Self { scheme: None, host: None, path: None, port: None, status: 302 }
    }
}

impl Default for Fraction {
    fn default() -> Self {
        Self { numerator: 100, denominator: 100 }
    }
}

impl Default for Cors {
    fn default() -> Self {
        Self {
            origins: Vec::new(),
            methods: [Method::GET, Method::HEAD, Method::POST].map(|method| method.to_string()).into(),
            headers: Vec::new(),
            expose: Vec::new(),
            credentials: false,
            max_age: Duration::from_secs(5),
        }
    }
}

#[cfg(feature = "yaml")]
fn hundred() -> u32 {
    100
}
