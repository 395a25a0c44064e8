//! What requests are forwarded to.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use super::{
    limits::{AdaptiveConcurrency, Concurrency, Shed},
    resilience::{CircuitBreaker, HealthCheck, OutlierDetection},
    traffic::{Hedge, RetryBudget},
};

#[cfg(feature = "yaml")]
use serde::Deserialize;

use crate::identity::{SpiffeId, TrustDomain};

#[cfg(feature = "yaml")]
use super::duration::{deserialize as duration, deserialize_option as duration_option};

/// A group of endpoints that all give the same answers.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "yaml", derive(Deserialize), serde(deny_unknown_fields))]
pub struct Upstream {
    /// The name that backends refer to. Unique.
    pub name: String,
    /// Where it is.
    pub endpoints: Endpoints,
    /// What it speaks. Default HTTP/1.1, or what ALPN agrees on where there is TLS.
    #[cfg_attr(feature = "yaml", serde(default))]
    pub protocol: Protocol,
    /// TLS towards it. Default none.
    #[cfg_attr(feature = "yaml", serde(default))]
    pub tls: Option<UpstreamTls>,
    /// How an endpoint is chosen for a request. Default [`Balancer::PeakEwma`].
    #[cfg_attr(feature = "yaml", serde(default))]
    pub balancer: Balancer,
    /// How long a new endpoint is given to warm up; its weight grows from a tenth to all of it. Default none (Envoy's
    /// `slow_start_config`).
    #[cfg_attr(feature = "yaml", serde(default, deserialize_with = "duration_option"))]
    pub slow_start: Option<Duration>,
    /// Below this share of usable endpoints, in percent, all are used: most of them being out is more likely a false
    /// alarm, and the few left would not bear the load. Default 50 (Envoy's `healthy_panic_threshold`); 0 turns it off.
    #[cfg_attr(feature = "yaml", serde(default = "fifty"))]
    pub panic_threshold: u8,
    /// Limits on connections to each endpoint.
    #[cfg_attr(feature = "yaml", serde(default))]
    pub pool: PoolLimits,
    /// For a connection to be made, TLS included. Default 5 s (Envoy's `connect_timeout`).
    #[cfg_attr(feature = "yaml", serde(default = "five_seconds", deserialize_with = "duration"))]
    pub connect_timeout: Duration,
    /// From the request's end until the response's head, each attempt. Zero means no limit. Default 60 s (nginx's
    /// `proxy_read_timeout`).
    #[cfg_attr(feature = "yaml", serde(default = "one_minute", deserialize_with = "duration"))]
    pub response_timeout: Duration,
    /// How long a response's body or an upgraded connection may stand still. Zero means no limit. Default 5 min
    /// (Envoy's `stream_idle_timeout`).
    #[cfg_attr(feature = "yaml", serde(default = "five_minutes", deserialize_with = "duration"))]
    pub stream_idle_timeout: Duration,
    /// How many endpoints a request is offered to at the most, where that is safe. Default 3 (ingress-nginx's
    /// `proxy-next-upstream-tries`).
    #[cfg_attr(feature = "yaml", serde(default = "three"))]
    pub max_attempts: u32,
    /// When no request goes to any endpoint for a while. Default none.
    #[cfg_attr(feature = "yaml", serde(default))]
    pub circuit_breaker: Option<CircuitBreaker>,
    /// When no request goes to one of its endpoints for a while: a circuit breaker for each, beside the one for all. Unlike
    /// an ejection it is bound by no share of endpoints, and the [panic threshold](Self::panic_threshold) does not set it
    /// aside; where it is all that keeps a request from every endpoint, that is refused. Default none (as Linkerd's failure
    /// accrual, which is per endpoint too).
    #[cfg_attr(feature = "yaml", serde(default))]
    pub endpoint_circuit_breaker: Option<CircuitBreaker>,
    /// When an endpoint that does worse than it should is left out. Default none (as in Envoy and Istio).
    #[cfg_attr(feature = "yaml", serde(default))]
    pub outlier_detection: Option<OutlierDetection>,
    /// How endpoints are asked whether they are well. Default none.
    #[cfg_attr(feature = "yaml", serde(default))]
    pub health_check: Option<HealthCheck>,
    /// How many of its requests may be sent once more though they may have been processed: by itself, and by all rules that
    /// lead here. Default: see [`RetryBudget`].
    #[cfg_attr(feature = "yaml", serde(default))]
    pub retry_budget: RetryBudget,
    /// When a request that has had no answer is sent a second time. Default never. This and what follows is the gateway's: an
    /// [`Upstream`](crate::upstream::Upstream) by itself does not look at it.
    #[cfg_attr(feature = "yaml", serde(default))]
    pub hedge: Option<Hedge>,
    /// How many requests it gets at once. Default any number that its [`pool`](Self::pool) allows.
    #[cfg_attr(feature = "yaml", serde(default))]
    pub concurrency: Option<Concurrency>,
    /// The same by what its latencies tell. Default none.
    #[cfg_attr(feature = "yaml", serde(default))]
    pub adaptive_concurrency: Option<AdaptiveConcurrency>,
    /// Which requests are refused first when it gets more than it can answer. Default none.
    #[cfg_attr(feature = "yaml", serde(default))]
    pub shed: Option<Shed>,
}

/// Where an upstream's endpoints are.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "yaml", derive(Deserialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Endpoints {
    /// At these addresses.
    Static(Vec<Endpoint>),
    /// At every address that `host` resolves to, looked up again every `refresh`; an answer that fails or is empty
    /// leaves the last good one in place.
    Dns {
        /// The name to look up.
        host: String,
        /// The port at each address.
        port: u16,
        /// How often. Default 5 s (Envoy's `dns_refresh_rate`).
        #[cfg_attr(feature = "yaml", serde(default = "five_seconds", deserialize_with = "duration"))]
        refresh: Duration,
    },
}

/// One address of an upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its share of requests relative to the others'. Default 1; 0 takes it out.
    pub weight: u32,
}

/// What an upstream speaks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "yaml", derive(Deserialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Protocol {
    /// What ALPN agrees on where there is TLS, else HTTP/1.1.
    #[default]
    Auto,
    /// HTTP/1.1.
    Http1,
    /// HTTP/2, without TLS by prior knowledge.
    Http2,
}

/// How an endpoint is chosen for a request.
#[derive(Debug, Clone, Default, PartialEq)]
#[cfg_attr(feature = "yaml", derive(Deserialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Balancer {
    /// The less loaded of two drawn by chance, by latency (peak-sensitive moving average) times requests in flight.
    #[default]
    PeakEwma,
    /// The one of two drawn by chance that has fewer requests in flight for its weight.
    LeastRequest,
    /// One after the other, in the proportion of their weights.
    RoundRobin,
    /// By chance, in the proportion of their weights.
    Random,
    /// The next on a hash ring.
    RingHash(HashKey),
    /// By Maglev's table, with bounded load.
    Maglev(HashKey),
}

/// What a hashing balancer hashes. A request without it goes anywhere.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "yaml", derive(Deserialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum HashKey {
    /// The client's IP address, as far as trusted peers vouch for it, else the connection's peer.
    ClientIp,
    /// The value of this header field.
    Header(String),
    /// The value of this cookie.
    Cookie(String),
    /// The value of this query parameter.
    Query(String),
    /// The path.
    Path,
}

/// Limits on the connections to one endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "yaml", derive(Deserialize), serde(deny_unknown_fields, default))]
pub struct PoolLimits {
    /// How many connections at most. Default 1024 (Envoy's circuit breaker `max_connections`).
    pub max_connections: usize,
    /// How many requests may wait for a connection. Default 1024 (Envoy's `max_pending_requests`).
    pub max_pending: usize,
    /// How many requests one HTTP/2 connection carries at once, if its peer allows as many. Default 1024 (Envoy's
    /// `max_concurrent_streams`); the peer's own limit is kept in any case.
    pub max_streams: usize,
    /// How long a connection is kept without a request. Default 4 s: below the 5 s after which common servers (Node.js,
    /// uvicorn, Apache httpd) close theirs, so that a request seldom meets a connection that is just being closed.
    #[cfg_attr(feature = "yaml", serde(deserialize_with = "duration"))]
    pub idle_timeout: Duration,
}

/// TLS towards an upstream.
///
/// A gateway that is given another certificate or key to show, or other authorities or revocation lists, takes them for its
/// next connections and keeps those that are open, with all it knows of the endpoints. So a server that would be refused now is
/// still asked over a connection from before, until that ends.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[cfg_attr(feature = "yaml", derive(Deserialize), serde(deny_unknown_fields, default))]
pub struct UpstreamTls {
    /// The name asked for (SNI) and expected in the certificate's subject alternative names. Default: the endpoint's
    /// address, or the name it was looked up by.
    pub server_name: Option<String>,
    /// The names of which the certificate must have at least one, in the place of `server_name`, which is then only asked
    /// for. A wildcard in the certificate stands for one label. Default: `server_name` alone. Where `spiffe_id` or
    /// `trust_domain` is given, that is what counts.
    #[cfg_attr(feature = "yaml", serde(rename = "sans"))]
    pub subject_names: Vec<SubjectName>,
    /// Who may have signed the certificate. Default: whom the system trusts.
    #[cfg_attr(feature = "yaml", serde(rename = "ca", deserialize_with = "super::yaml::roots"))]
    pub roots: Roots,
    /// The certificate shown to it, if it asks. Default none.
    pub client_auth: Option<ClientAuth>,
    /// The identity that the program gave the gateway under this name (`GatewayBuilder::identity`): shown in the place of
    /// `client_auth`, beside which it is an error, and whom it trusts in the place of whom the system trusts, unless `ca` or
    /// `trust` says otherwise. It rotates by itself. Default none. By itself an
    /// [`Upstream`](crate::upstream::Upstream) knows no names, and refuses it.
    pub identity: Option<String>,
    /// Which SPIFFE ID the certificate must have: its only URI. The server's name is then not looked for in it. Default: the
    /// name is. It needs `ca`, `trust` or an identity: whom the system trusts issues no SPIFFE IDs.
    pub spiffe_id: Option<SpiffeId>,
    /// Which trust domain the certificate's SPIFFE ID must be of, where [`spiffe_id`](Self::spiffe_id) does not say more.
    /// Default: as there.
    pub trust_domain: Option<TrustDomain>,
    /// Certificates that the authorities in `ca` revoked (CRLs), in PEM. Each authority in the chain then needs a list that
    /// is current. Default none.
    #[cfg_attr(feature = "yaml", serde(rename = "crl", deserialize_with = "super::yaml::crls"))]
    pub crls: Option<Arc<[u8]>>,
    /// SPIFFE federation: who may have signed the certificate, by the trust domain of its SPIFFE ID; in the place of `ca` and
    /// `crl`, beside which it is an error. One without an ID, or of no domain in the list, is refused. A server that is
    /// expected by name needs a bundle that is believed about [`dns_names`](TrustBundle::dns_names). Default: `ca` says it.
    pub trust: Option<Vec<TrustBundle>>,
}

/// The authorities of one SPIFFE trust domain, trusted for its IDs and no others: what `tls::Trust::by_domain` takes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "yaml", derive(Deserialize), serde(deny_unknown_fields))]
pub struct TrustBundle {
    /// Whose SPIFFE IDs they issue. Each domain once: what a partner sent must not add to our own.
    pub domain: TrustDomain,
    /// The authorities, in PEM. At least one.
    #[cfg_attr(feature = "yaml", serde(rename = "ca", deserialize_with = "super::yaml::pem"))]
    pub roots: Arc<[u8]>,
    /// Certificates that they revoked (CRLs), in PEM. Each authority in the chain then needs a list that is current. Default
    /// none.
    #[cfg_attr(feature = "yaml", serde(default, rename = "crl", deserialize_with = "super::yaml::crls"))]
    pub crls: Option<Arc<[u8]>>,
    /// Whether they are believed about DNS names and IP addresses too, beside the SPIFFE ID that a certificate must have.
    /// For one's own domain: any other could issue our names. Default false.
    #[cfg_attr(feature = "yaml", serde(default))]
    pub dns_names: bool,
}

/// A name that a certificate may be for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "yaml", derive(Deserialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum SubjectName {
    /// A DNS name; `*.` in front stands for one label.
    Dns(String),
    /// A URI, such as a SPIFFE ID.
    Uri(String),
}

/// Certificate authorities.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Roots {
    /// Those the operating system trusts.
    #[default]
    System,
    /// Those in this PEM text alone.
    Pem(Arc<[u8]>),
}

/// A client certificate with its key, in PEM.
#[derive(Clone, PartialEq, Eq)]
#[cfg_attr(feature = "yaml", derive(Deserialize), serde(deny_unknown_fields))]
pub struct ClientAuth {
    /// The chain, end entity first.
    #[cfg_attr(feature = "yaml", serde(rename = "cert", deserialize_with = "super::yaml::pem"))]
    pub chain: Arc<[u8]>,
    /// The private key.
    #[cfg_attr(feature = "yaml", serde(deserialize_with = "super::yaml::pem"))]
    pub key: Arc<[u8]>,
}

impl Upstream {
    /// An upstream of this name with the default settings.
    #[must_use]
    pub fn new(name: impl Into<String>, endpoints: Endpoints) -> Self {
        Self {
            name: name.into(),
            endpoints,
            protocol: Protocol::default(),
            tls: None,
            balancer: Balancer::default(),
            slow_start: None,
            panic_threshold: fifty(),
            pool: PoolLimits::default(),
            connect_timeout: five_seconds(),
            response_timeout: one_minute(),
            stream_idle_timeout: five_minutes(),
            max_attempts: three(),
            circuit_breaker: None,
            endpoint_circuit_breaker: None,
            outlier_detection: None,
            health_check: None,
            retry_budget: RetryBudget::default(),
            hedge: None,
            concurrency: None,
            adaptive_concurrency: None,
            shed: None,
        }
    }
}

impl Endpoints {
    /// These addresses, with equal weights.
    #[must_use]
    pub fn fixed(addresses: impl IntoIterator<Item = SocketAddr>) -> Self {
        Self::Static(addresses.into_iter().map(Endpoint::from).collect())
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        Self { address, weight: 1 }
    }
}

impl Default for PoolLimits {
    fn default() -> Self {
        Self { max_connections: 1024, max_pending: 1024, max_streams: 1024, idle_timeout: Duration::from_secs(4) }
    }
}

impl std::fmt::Debug for ClientAuth {
    /// Leaves the key out.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientAuth").finish_non_exhaustive()
    }
}

fn three() -> u32 {
    3
}

fn fifty() -> u8 {
    50
}

fn five_seconds() -> Duration {
    Duration::from_secs(5)
}

fn one_minute() -> Duration {
    Duration::from_secs(60)
}

fn five_minutes() -> Duration {
    Duration::from_secs(300)
}
