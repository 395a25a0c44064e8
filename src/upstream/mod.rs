//! A group of endpoints as one service: discovery, balancing, pools, failover.
//!
//! An [`Upstream`] is a Tower service: a request goes in, one of its endpoints answers. What it decides on the way:
//!
//! 1. The balancer picks an endpoint among those that may be tried, never one that this request has already tried.
//! 2. The request goes out on a pooled connection to it.
//! 3. If no connection could be made, or nothing of the request was sent, the same request is offered to another
//!    endpoint, whatever its method. If the peer refused the request (HTTP/2 `REFUSED_STREAM`), or the connection broke
//!    before an answer came, another endpoint is tried only where that is safe: the request has no body, and in the
//!    second case its method is safe (RFC 9110 section 9.2.1), and the
//!    [budget](crate::config::Upstream::retry_budget) for what may have been processed allows it, so that endpoints that
//!    fail are not asked three times as much. That a connection was just being ended (`GOAWAY`) is no failure and no
//!    attempt: the request goes to another one, with its body where that is at hand (see [`client`](crate::client)). What
//!    is the client's doing ends the request, and says nothing of the endpoint.
//! 4. No request is offered to more than [`max_attempts`](crate::config::Upstream::max_attempts) endpoints.
//! 5. The attempt is over when the response's body is: only then does the balancer count it out, and its time is the
//!    latency.
//!
//! An endpoint that no connection can be made to is left out for a second, then for longer, until a request that is let
//! through as a probe finds it back. Where the configuration asks for it, [outlier detection](crate::outlier) leaves out
//! those that do worse than the others, [health checks](crate::health) those that say they are not well, and [circuit
//! breakers](crate::breaker) the endpoint that they are for
//! ([`endpoint_circuit_breaker`](crate::config::Upstream::endpoint_circuit_breaker)) or all of them
//! ([`circuit_breaker`](crate::config::Upstream::circuit_breaker)): what a breaker keeps from every endpoint fails with
//! [`Outcome::BreakerOpen`](crate::Outcome::BreakerOpen) and is sent to nobody. A status
//! that says the endpoint is failing (5xx, 429) makes the balancer send it less; the response itself is passed on as it is.
//!
//! # Example
//! ```
//! # tokio_test::block_on(async {
//! use portcullis::{Body, Outcome, config::{self, Endpoints}, upstream::Upstream};
//! use tower::ServiceExt;
//!
//! let nobody = Upstream::new(config::Upstream::new("cart", Endpoints::Static(vec![])))?;
//! let error = nobody.oneshot(http::Request::get("http://cart/").body(Body::empty())?).await.unwrap_err();
//! assert_eq!(error.outcome(), Outcome::NoEndpoint);
//! # Ok::<_, Box<dyn std::error::Error>>(()) }).unwrap();
//! ```

mod dial;
pub mod discover;
mod health;
mod outliers;
mod send;
mod service;
mod stream;
#[cfg(test)]
mod tests;

pub use self::{service::ResponseFuture, stream::UpstreamStream};

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, OnceLock, Weak, atomic::AtomicU64},
};

use arc_swap::ArcSwap;
use thiserror::Error;
use tokio::{
    runtime::Handle,
    sync::{Notify, watch},
    task::AbortHandle,
    time::{Instant, timeout},
};

use self::{dial::Dial, discover::Discover, health::Recipe};
#[cfg(feature = "tls")]
use crate::tls::{
    Identity,
    client::{ClientTlsError, Rotation},
};
#[cfg(feature = "metrics")]
use std::sync::atomic::Ordering::Relaxed;

#[cfg(feature = "metrics")]
use crate::{balance::Availability, telemetry::metrics::UpstreamStats};
use crate::{
    balance::{Balancer, EndpointSet, InvalidHashKey},
    breaker::Circuit,
    client::Pool,
    config::{self, check::refuse},
    outlier::{Alarm, Detector},
    retry::Budget,
};

/// Without TLS there is none.
#[cfg(not(feature = "tls"))]
type Identity = std::convert::Infallible;

/// A group of endpoints as one service. Clones share everything.
#[derive(Clone)]
pub struct Upstream(Arc<Shared>);

struct Shared {
    name: Arc<str>,
    config: config::Upstream,
    dial: Dial,
    endpoints: ArcSwap<EndpointSet<Pool>>,
    circuit: Option<Circuit>,
    /// For what is sent again that may have been processed. A gateway has the layers of its rules draw on it too.
    budget: ArcSwap<Budget>,
    /// How often outlier detection has put an endpoint out.
    ejections: AtomicU64,
    /// Whether discovery has answered once: until then a request waits for it instead of finding nobody.
    discovered: watch::Sender<bool>,
    /// Rings when there may be other endpoints.
    changed: Arc<Notify>,
    /// What ends with the upstream: discovery, outlier detection, health checks.
    tasks: OnceLock<Vec<AbortHandle>>,
}

/// Why an upstream cannot be made from its configuration.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BuildError {
    /// What the balancer shall hash is not usable.
    #[error("upstream `{name}`: {source}")]
    HashKey {
        /// The upstream's name.
        name: String,
        /// What is wrong.
        source: InvalidHashKey,
    },
    /// TLS towards it is not usable.
    #[cfg(feature = "tls")]
    #[error("upstream `{name}`: {source}")]
    Tls {
        /// The upstream's name.
        name: String,
        /// What is wrong.
        source: ClientTlsError,
    },
    /// TLS is asked for, and the crate was built without it.
    #[error("upstream `{name}` asks for TLS: enable the feature `tls`")]
    NoTls {
        /// The upstream's name.
        name: String,
    },
    /// What is asked of its endpoints is not usable.
    #[error("upstream `{name}`, health check: {problem}")]
    HealthCheck {
        /// The upstream's name.
        name: String,
        /// What is wrong, and how to mend it.
        problem: String,
    },
    /// A setting has a number that it cannot have.
    #[error("upstream `{name}`, {problem}")]
    Setting {
        /// The upstream's name.
        name: String,
        /// Which one, and how to mend it.
        problem: String,
    },
    /// Its endpoints change by themselves or are watched, which needs a task.
    #[error("upstream `{name}` looks up or watches its endpoints: build it within a tokio runtime")]
    NoRuntime {
        /// The upstream's name.
        name: String,
    },
}

impl Upstream {
    /// The upstream that `config` describes. Where its endpoints are looked up, a task does so until the last clone is
    /// dropped.
    ///
    /// # Errors
    /// When the balancer's hash key, TLS, the health check or a number among the settings is not usable, or when a lookup,
    /// outlier detection or health checks are asked for outside a tokio runtime.
    pub fn new(config: config::Upstream) -> Result<Self, BuildError> {
        let discover = Discover::new(&config.endpoints);
        Self::discovered_by(config, discover)
    }

    /// The upstream that `config` describes, over mutual TLS as
    /// [`ClientTls::mtls`](crate::tls::client::ClientTls::mtls) has it: it is shown `identity`, and its certificate is
    /// verified by whom `identity` trusts, unless `config` names roots. What rotates `identity` reaches the next connections.
    /// Without [`config::Upstream::tls`], TLS has its defaults.
    ///
    /// # Errors
    /// The same as for [`new`](Self::new).
    #[cfg(feature = "tls")]
    pub fn mtls(config: config::Upstream, identity: &Identity) -> Result<Self, BuildError> {
        let discover = Discover::new(&config.endpoints);
        let dial = Dial::new(&config, Some(identity))?;
        Self::dialed(config, discover, dial)
    }

    /// The upstream that `config` describes, with its endpoints from `discover` in place of
    /// [`config::Upstream::endpoints`].
    ///
    /// # Errors
    /// The same as for [`new`](Self::new).
    pub fn discovered_by(config: config::Upstream, discover: Discover) -> Result<Self, BuildError> {
        let dial = Dial::new(&config, None)?;
        Self::dialed(config, discover, dial)
    }

    fn dialed(config: config::Upstream, mut discover: Discover, dial: Dial) -> Result<Self, BuildError> {
        refuse(config.wrong())
            .map_err(|wrong| BuildError::Setting { name: config.name.clone(), problem: wrong.to_string() })?;
        let balancer = Balancer::for_upstream(&config)
            .map_err(|source| BuildError::HashKey { name: config.name.clone(), source })?;
        let check = config.health_check.as_ref().map(|health| Recipe::new(&health.check, &config.name)).transpose();
        let check = check.map_err(|problem| BuildError::HealthCheck { name: config.name.clone(), problem })?;
        let now = Instant::now();
        let fixed = discover.take_fixed();
        let endpoints =
            EndpointSet::new(balancer, fixed.as_deref().unwrap_or_default(), now, |address| dial.pool(address));
        let upstream = Self(Arc::new(Shared {
            name: config.name.as_str().into(),
            dial,
            circuit: config.circuit_breaker.clone().map(|breaker| Circuit::new(config.name.as_str(), breaker)),
            budget: ArcSwap::from_pointee(Budget::of(&config.retry_budget)),
            ejections: AtomicU64::new(0),
            endpoints: ArcSwap::from_pointee(endpoints),
            discovered: watch::Sender::new(fixed.is_some()),
            changed: Arc::new(Notify::new()),
            tasks: OnceLock::new(),
            config,
        }));
        upstream.start(fixed.is_none().then_some(discover), check)?;
        Ok(upstream)
    }

    /// Starts what runs beside the requests, if anything does.
    fn start(&self, discover: Option<Discover>, check: Option<Recipe>) -> Result<(), BuildError> {
        let shared = &self.0;
        let mut tasks = Vec::new();
        let mut spawn = |task: Pin<Box<dyn Future<Output = ()> + Send>>| {
            let runtime = Handle::try_current().map_err(|_| BuildError::NoRuntime { name: shared.config.name.clone() });
            runtime.map(|runtime| tasks.push(runtime.spawn(task).abort_handle()))
        };
        let weak = || Arc::downgrade(shared);
        if let Some(discover) = discover {
            spawn(Box::pin(follow(weak(), discover)))?;
        }
        if let Some(config) = &shared.config.outlier_detection {
            let (detector, alarm) = (Detector::new(config.clone(), Instant::now()), Alarm::new(config));
            shared.endpoints.load().watch(alarm.clone());
            spawn(Box::pin(outliers::detect(weak(), detector, alarm)))?;
        }
        if let (Some(config), Some(recipe)) = (&shared.config.health_check, check) {
            spawn(Box::pin(health::supervise(weak(), config.clone(), recipe, shared.changed.clone())))?;
        }
        let _ = shared.tasks.set(tasks);
        Ok(())
    }

    /// Whether the other is a clone of this one.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// The name it has in logs and metrics.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The configuration it was made from.
    #[must_use]
    pub fn config(&self) -> &config::Upstream {
        &self.0.config
    }

    /// Replaces the endpoints. Those that stay keep their connections and what the balancer knows of them; requests in
    /// flight end where they are.
    pub fn set_endpoints(&self, endpoints: &[config::Endpoint]) {
        self.0.set_endpoints(endpoints);
    }

    /// Connections from now on show and trust this, where there is TLS; those that are open stay.
    #[cfg(feature = "tls")]
    pub(crate) fn rotate(&self, rotation: &Rotation) {
        if let Some(tls) = &self.0.dial.template.tls {
            tls.rotate(rotation);
        }
    }

    /// The endpoints as they are now, each with its connections.
    #[must_use]
    pub fn endpoints(&self) -> Arc<EndpointSet<Pool>> {
        self.0.endpoints.load_full()
    }

    /// Whether it is known to have no endpoint at all.
    pub(crate) fn is_deserted(&self) -> bool {
        *self.0.discovered.borrow() && self.0.endpoints.load().is_empty()
    }

    /// Its circuit breaker, if it has one.
    #[must_use]
    pub fn circuit(&self) -> Option<&Circuit> {
        self.0.circuit.as_ref()
    }

    /// How many of its requests may be sent once more though they may have been processed: for layers around it that do so
    /// ([`RetryLayer::budget`](crate::retry::RetryLayer::budget), [`HedgeLayer::budget`](crate::hedge::HedgeLayer::budget)),
    /// as it draws on the same one.
    #[must_use]
    pub fn budget(&self) -> Budget {
        Budget::clone(&self.0.budget.load())
    }

    /// Has it draw on this one from now on.
    pub(crate) fn set_budget(&self, budget: Budget) {
        self.0.budget.store(Arc::new(budget));
    }

    /// Its figures now, for [`Metrics::upstreams`](crate::telemetry::metrics::Metrics::upstreams).
    #[cfg(feature = "metrics")]
    #[must_use]
    pub fn stats(&self) -> UpstreamStats {
        let now = Instant::now();
        let endpoints = self.endpoints();
        let mut stats = UpstreamStats {
            upstream: self.0.name.clone(),
            ejections: self.0.ejections.load(Relaxed),
            breaker: self.circuit().map(Circuit::stats),
            endpoint_breakers: self.0.config.endpoint_circuit_breaker.is_some(),
            endpoint_breakers_opened: endpoints.opened(),
            ..UpstreamStats::default()
        };
        for (endpoint, _) in endpoints.iter() {
            let pool = endpoint.payload().stats();
            // HTTP/2 connections carry several requests each.
            let active = pool.open.min(pool.in_flight);
            stats.endpoints += 1;
            stats.endpoints_ejected += u64::from(endpoint.is_ejected());
            stats.endpoint_breakers_open += u64::from(!endpoint.circuit().is_none_or(Circuit::is_closed));
            stats.endpoints_available += u64::from(endpoint.availability(now) == Availability::Available);
            stats.connections_active += active as u64;
            stats.connections_idle += (pool.open - active) as u64;
            stats.pending_requests += pool.pending as u64;
        }
        stats
    }

    /// The endpoints, once discovery has answered, or has had as long as a connection may take.
    async fn discovered(&self) -> Arc<EndpointSet<Pool>> {
        let endpoints = self.endpoints();
        if !endpoints.is_empty() || *self.0.discovered.borrow() {
            return endpoints;
        }
        let mut discovered = self.0.discovered.subscribe();
        let _ = timeout(self.0.config.connect_timeout, discovered.wait_for(|answered| *answered)).await;
        self.endpoints()
    }
}

impl Shared {
    fn set_endpoints(&self, endpoints: &[config::Endpoint]) {
        let now = Instant::now();
        self.endpoints.rcu(|set| set.next(endpoints, now, |address| self.dial.pool(address)));
        self.endpoints.load().wake_detector();
        self.changed.notify_one();
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        for task in self.tasks.get().into_iter().flatten() {
            task.abort();
        }
    }
}

/// Keeps an upstream's endpoints as `discover` finds them, without keeping the upstream.
async fn follow(upstream: Weak<Shared>, mut discover: Discover) {
    while let Some(endpoints) = discover.next().await {
        let Some(upstream) = upstream.upgrade() else { return };
        tracing::debug!(upstream = &*upstream.name, endpoints = endpoints.len(), "discovered endpoints");
        upstream.set_endpoints(&endpoints);
        upstream.discovered.send_replace(true);
    }
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstream").field("name", &self.0.name).finish_non_exhaustive()
    }
}
