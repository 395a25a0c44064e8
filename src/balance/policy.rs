//! How an endpoint is chosen: the settings, compiled.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use http::{Request, request::Parts};

use super::hash::{InvalidHashKey, RequestKey};
use crate::{breaker::Circuit, config};

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
    pub(super) breakers: Option<Breakers>,
    key: Option<RequestKey>,
}

/// What the circuit breakers of endpoints are made of.
#[derive(Debug, Clone)]
pub(super) struct Breakers {
    upstream: Arc<str>,
    config: config::CircuitBreaker,
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
        Ok(Self { kind, slow_start: None, panic_threshold: 50, penalty: 5e6, balance_factor, breakers: None, key })
    }

    /// What an upstream's configuration asks for: its balancer, slow start, panic threshold and its endpoints' breakers.
    ///
    /// # Errors
    /// When a header to be hashed has an invalid name.
    pub fn for_upstream(config: &config::Upstream) -> Result<Self, InvalidHashKey> {
        let balancer = Self::new(&config.balancer)?;
        let balancer = balancer.with_slow_start(config.slow_start).with_panic_threshold(config.panic_threshold);
        Ok(match &config.endpoint_circuit_breaker {
            Some(breaker) => balancer.with_circuit_breakers(config.name.as_str(), breaker.clone()),
            None => balancer,
        })
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

    /// Gives each endpoint a [circuit breaker](crate::breaker) of its own, named `upstream/address` in logs. As long as one
    /// is open its endpoint is passed over, also where all others are used because so few are usable. Default none.
    #[must_use]
    pub fn with_circuit_breakers(mut self, upstream: impl Into<Arc<str>>, breaker: config::CircuitBreaker) -> Self {
        self.breakers = Some(Breakers { upstream: upstream.into(), config: breaker });
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

impl Breakers {
    pub(super) fn at(&self, address: SocketAddr) -> Circuit {
        Circuit::new(format!("{}/{address}", self.upstream), self.config.clone())
    }
}
