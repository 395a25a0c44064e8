//! The configuration: plain data that every source produces and the gateway compiles.
//!
//! A [`Config`] says which requests go where ([`Route`]), what stands there ([`Upstream`]) and which certificates are
//! shown ([`Certificate`]). Kubernetes manifests and a YAML file of our own both become one, and so does code that
//! builds one by hand. Nothing here does I/O; values that can be wrong by themselves (a host, a regular expression, a
//! duration) are checked when they are made, so that a source can say at which line they stand.
//!
//! # Example
//! ```
//! use portcullis::config::{BackendRef, Config, Endpoints, Match, Route, Rule, Upstream};
//!
//! let config = Config {
//!     routes: vec![Route {
//!         hosts: vec!["shop.example.com".parse()?],
//!         rules: vec![Rule {
//!             matches: vec![Match::prefix("/cart")],
//!             backends: vec![BackendRef::new("cart")],
//!             ..Rule::default()
//!         }],
//!         ..Route::named("shop")
//!     }],
//!     upstreams: vec![Upstream::new("cart", Endpoints::fixed(["127.0.0.1:9001".parse()?]))],
//!     ..Config::default()
//! };
//! assert_eq!(config.routes[0].hosts[0].to_string(), "shop.example.com");
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! ```

pub(crate) mod check;
mod duration;
mod fault;
pub(crate) mod field;
mod filter;
mod forwarded;
mod limits;
mod listener;
mod matching;
mod resilience;
mod timeouts;
mod traffic;
mod upstream;
pub(crate) mod words;
#[cfg(feature = "yaml")]
mod yaml;

#[cfg(feature = "regex")]
pub use self::matching::{InvalidPattern, Pattern};
pub use self::{
    duration::{InvalidDuration, parse_duration},
    fault::{Fault, FaultAbort, FaultDelay, FaultKind},
    filter::{
        Allow, AuthProtocol, ClientCert, ClientCertFilter, Cors, ExternalAuth, Filter, Fraction, HeaderChanges, Mirror,
        PathChange, Redirect, Rewrite, Scheme,
    },
    forwarded::Forwarded,
    limits::{AdaptiveConcurrency, Aimd, Concurrency, Gradient, Priority, RateKey, RateLimit, Shed, ShedShares},
    listener::{
        ClientValidation, ClientValidationMode, Listener, ListenerProtocol, MeshParent, Service, ServicePort,
        StreamRoute, Termination,
    },
    matching::{CookieMatch, HeaderMatch, Host, InvalidHost, Match, PathMatch, QueryMatch, ValueMatch},
    resilience::{Check, CircuitBreaker, HealthCheck, OutlierDetection, StatusRange},
    timeouts::Timeouts,
    traffic::{Hedge, Retry, RetryBudget, Rollout, SessionCarrier, SessionPersistence, Split},
    upstream::{
        Balancer, ClientAuth, Endpoint, Endpoints, HashKey, PoolLimits, Protocol, Roots, SubjectName, TrustBundle,
        Upstream, UpstreamTls,
    },
};

use std::{collections::HashMap, fmt};

#[cfg(feature = "yaml")]
use serde::Deserialize;

/// Everything a gateway serves, as plain data.
#[derive(Debug, Clone, Default, PartialEq)]
#[cfg_attr(feature = "yaml", derive(Deserialize), serde(deny_unknown_fields, default))]
pub struct Config {
    /// Where requests come in. None means wherever the program listens, for all routes.
    pub listeners: Vec<Listener>,
    /// Which requests go where. Their order matters only where all else is equal.
    pub routes: Vec<Route>,
    /// Where connections of other protocols go.
    pub streams: Vec<StreamRoute>,
    /// What calls of this process may name, beside what the routes are for.
    pub services: Vec<Service>,
    /// What the routes' backends name.
    pub upstreams: Vec<Upstream>,
    /// Server certificates, chosen by the name the client asks for.
    pub certificates: Vec<Certificate>,
    /// Whom to believe about who the client is. Default: what the program chose for itself.
    pub forwarded: Option<Forwarded>,
    /// What becomes of two matches that ask exactly the same.
    #[cfg_attr(feature = "yaml", serde(skip))]
    pub conflicts: Conflicts,
}

impl Config {
    /// All upstreams by name, those that services have for themselves included.
    pub(crate) fn all_upstreams(&self) -> impl Iterator<Item = (&str, &Upstream)> {
        let listed: HashMap<&str, &Upstream> = self.upstreams.iter().map(|one| (&*one.name, one)).collect();
        let ports = self.services.iter().flat_map(|service| &service.ports);
        let own = ports.filter_map(|port| port.upstream.as_deref()).map(|one| (&*one.name, one));
        let own: Vec<_> = own.filter(|(name, _)| !listed.contains_key(name)).collect();
        listed.into_iter().chain(own)
    }
}

/// What becomes of two matches, in different routes or rules, that ask exactly the same for the same host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Conflicts {
    /// The configuration is refused, naming both: one author wrote both, and one of them can never be reached.
    #[default]
    Refuse,
    /// The oldest route wins, then the first by name, then the first rule (Gateway API: many authors share a table).
    Oldest,
}

/// Rules for requests to some hosts.
#[derive(Debug, Clone, Default, PartialEq)]
#[cfg_attr(feature = "yaml", derive(Deserialize), serde(deny_unknown_fields))]
pub struct Route {
    /// The name it has in logs and explanations, such as `default/shop`. Several routes may share one: a Kubernetes object
    /// with several hosts becomes a route for each.
    pub name: String,
    /// The hosts it is for; none means any host.
    #[cfg_attr(feature = "yaml", serde(default))]
    pub hosts: Vec<Host>,
    /// The [`Listener`]s it is attached to, by name: it is for the hosts that are both its own and the listener's. A route
    /// that is attached to nothing is for requests that come in where no listener is.
    #[cfg_attr(feature = "yaml", serde(default))]
    pub listeners: Vec<String>,
    /// The services of which it governs the calls that this process makes.
    #[cfg_attr(feature = "yaml", serde(default))]
    pub services: Vec<MeshParent>,
    /// What is done with requests to them.
    pub rules: Vec<Rule>,
    /// When it was made, in seconds since 1970: of two equal matches the older route's wins, and an age that is not
    /// known counts as younger than any.
    #[cfg_attr(feature = "yaml", serde(default))]
    pub created: Option<i64>,
}

/// One rule: requests that any of `matches` fits go to `backends`.
#[derive(Debug, Clone, Default, PartialEq)]
#[cfg_attr(feature = "yaml", derive(Deserialize), serde(deny_unknown_fields, default))]
pub struct Rule {
    /// A name of its own within the route.
    pub name: Option<String>,
    /// Any of these must fit; none at all means every request.
    pub matches: Vec<Match>,
    /// Where requests go, shared out by weight.
    pub backends: Vec<BackendRef>,
    /// What is done to requests and responses on the way.
    pub filters: Vec<Filter>,
    /// How long things may take.
    pub timeouts: Timeouts,
    /// When and how requests are sent again. Default: only what was provably not processed.
    pub retry: Option<Retry>,
    /// How requests are shared out among the backends.
    pub split: Split,
    /// How requests of one session stay together. Default: they do not.
    pub session: Option<SessionPersistence>,
    /// A canary among the backends, whose share grows by itself. Default none.
    pub rollout: Option<Rollout>,
    /// Why none of its requests can be served as it asks, where a source found that out: they are answered 500.
    #[cfg_attr(feature = "yaml", serde(skip))]
    pub invalid: Option<String>,
}

/// A rule's reference to what answers its requests.
#[derive(Debug, Clone, PartialEq)]
pub struct BackendRef {
    /// The name of an [`Upstream`], or of a service in this process.
    pub name: String,
    /// Its share of the rule's requests, relative to the other backends'. Default 1; 0 means none.
    pub weight: u32,
    /// What is done to its requests and their responses, after the rule's filters.
    pub filters: Vec<Filter>,
    /// The cohort that its requests belong to in logs, metrics and request extensions. Default: the backend's name.
    pub cohort: Option<String>,
    /// Why it cannot be used, where a source found that out: its share of requests is answered 500.
    pub invalid: Option<String>,
}

/// A server certificate with its key, in PEM.
#[derive(Clone, PartialEq, Eq)]
#[cfg_attr(feature = "yaml", derive(Deserialize), serde(deny_unknown_fields))]
pub struct Certificate {
    /// Where it comes from, for messages: a file, `Secret default/shop-tls`.
    #[cfg_attr(feature = "yaml", serde(skip))]
    pub origin: String,
    /// The hosts it is shown for; none means the names in the certificate itself.
    #[cfg_attr(feature = "yaml", serde(default, deserialize_with = "yaml::certificate_hosts"))]
    pub hosts: Vec<Host>,
    /// The certificate chain in PEM, end entity first.
    #[cfg_attr(feature = "yaml", serde(rename = "cert", deserialize_with = "yaml::pem"))]
    pub chain: Vec<u8>,
    /// The private key in PEM: PKCS#8, PKCS#1 or SEC1.
    #[cfg_attr(feature = "yaml", serde(deserialize_with = "yaml::pem"))]
    pub key: Vec<u8>,
}

impl Route {
    /// A route of this name for any host, without rules yet.
    #[must_use]
    pub fn named(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }
}

impl BackendRef {
    /// The backend of this name, with weight 1.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), weight: 1, filters: Vec::new(), cohort: None, invalid: None }
    }

    /// A backend that cannot be used, and why: its share of requests is answered 500.
    #[must_use]
    pub fn invalid(name: impl Into<String>, why: impl Into<String>) -> Self {
        Self { invalid: Some(why.into()), ..Self::new(name) }
    }
}

impl fmt::Debug for Certificate {
    /// Leaves the key out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").field("origin", &self.origin).field("hosts", &self.hosts).finish_non_exhaustive()
    }
}
