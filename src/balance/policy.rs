//! How an endpoint is chosen: the settings, compiled.

use std::time::Duration;

use http::{Request, request::Parts};

use super::hash::{InvalidHashKey, RequestKey};
use crate::config;

/// How an endpoint is chosen, compiled from [`config::Balancer`].
///
/// # Example
/// ```
/// use portcullis::{balance::Balancer, config::{self, HashKey}};
///
/// let balancer = Balancer::new(&config::Balancer::Maglev(HashKey::Header("x-user".into())))?;
/// let request = http::Request::builder().header("x-user", "ann").body(()).unwrap();
/// assert!(balancer.hash(&request).is_some());
/// # Ok::<_, portcullis::balance::InvalidHashKey>(())
/// ```
#[derive(Debug, Clone)]
pub struct Balancer {
    pub(super) kind: Kind,
    pub(super) slow_start: Option<Duration>,
    pub(super) panic_threshold: u8,
    /// In microseconds.
    pub(super) penalty: f32,
    /// In percent of the fair share.
    pub(super) balance_factor: Option<u32>,
    key: Option<RequestKey>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    PeakEwma,
    LeastRequest,
    RoundRobin,
    Random,
    RingHash,
    Maglev,
}

impl Balancer {
    /// What the configuration asks for, without slow start, with a panic threshold of 50 %, a penalty of 5 s, and for
    /// Maglev a balance factor of 150 %.
    ///
    /// # Errors
    /// When a header to be hashed has an invalid name.
    pub fn new(config: &config::Balancer) -> Result<Self, InvalidHashKey> {
        let (kind, key) = match config {
            config::Balancer::PeakEwma => (Kind::PeakEwma, None),
            config::Balancer::LeastRequest => (Kind::LeastRequest, None),
            config::Balancer::RoundRobin => (Kind::RoundRobin, None),
            config::Balancer::Random => (Kind::Random, None),
            config::Balancer::RingHash(key) => (Kind::RingHash, Some(RequestKey::new(key)?)),
            config::Balancer::Maglev(key) => (Kind::Maglev, Some(RequestKey::new(key)?)),
        };
        let balance_factor = (kind == Kind::Maglev).then_some(150);
        Ok(Self { kind, slow_start: None, panic_threshold: 50, penalty: 5e6, balance_factor, key })
    }

    /// What an upstream's configuration asks for: its balancer, slow start and panic threshold.
    ///
    /// # Errors
    /// When a header to be hashed has an invalid name.
    pub fn for_upstream(config: &config::Upstream) -> Result<Self, InvalidHashKey> {
        let balancer = Self::new(&config.balancer)?;
        Ok(balancer.with_slow_start(config.slow_start).with_panic_threshold(config.panic_threshold))
    }

    /// How long an endpoint that joins a serving set warms up: its weight grows from a tenth to all of it. Default
    /// none. Not for the hashing balancers, whose keys would wander (as in Envoy).
    #[must_use]
    pub fn with_slow_start(mut self, window: Option<Duration>) -> Self {
        self.slow_start = window.filter(|window| !window.is_zero());
        self
    }

    /// Below this share of usable endpoints, in percent, all are used. Default 50 (Envoy's
    /// `healthy_panic_threshold`); 0 turns it off.
    #[must_use]
    pub fn with_panic_threshold(mut self, percent: u8) -> Self {
        self.panic_threshold = percent;
        self
    }

    /// The latency that a failure counts as, and the most that a success does. Default 5 s (Linkerd's load biaser); at
    /// most an hour.
    #[must_use]
    pub fn with_penalty(mut self, penalty: Duration) -> Self {
        self.penalty = penalty.min(Duration::from_secs(3600)).as_secs_f32() * 1e6;
        self
    }

    /// How many requests in flight a hashing balancer lets an endpoint have, in percent of its fair share of all in
    /// flight, before a key goes to the next; but always eight, so that few clients stay where they are. Below 100
    /// counts as 100. Default 150 for Maglev (Envoy advises 120 to 200 for `hash_balance_factor`), `None` for the ring:
    /// no bound.
    #[must_use]
    pub fn with_balance_factor(mut self, percent: Option<u32>) -> Self {
        self.balance_factor = percent.map(|percent| percent.max(100));
        self
    }

    /// The hash of what a hashing balancer looks at; `None` for the other balancers, and when the request has no such
    /// thing.
    #[must_use]
    pub fn hash<B>(&self, request: &Request<B>) -> Option<u64> {
        self.key.as_ref()?.of(request)
    }

    /// The same of a request's head.
    #[must_use]
    pub fn hash_parts(&self, parts: &Parts) -> Option<u64> {
        self.key.as_ref()?.of_parts(parts)
    }

    /// Whether it needs the number of requests in flight to all endpoints.
    pub(super) fn counts(&self) -> bool {
        matches!(self.kind, Kind::RingHash | Kind::Maglev) && self.balance_factor.is_some()
    }
}
