//! Prometheus metrics of every request and stream, and gauges of every upstream and rollout.
//!
//! | name | type | unit | labels | |
//! |---|---|---|---|---|
//! | `portcullis_requests_total` | counter | | `route`, `upstream`, `cohort`, `method`, `code`, `outcome` | requests that ended |
//! | `portcullis_request_duration_seconds` | histogram | seconds | `route`, `upstream`, `cohort` | from the head of the request to the end of the response's body |
//! | `portcullis_request_bytes_total` | counter | bytes | `route`, `upstream`, `cohort` | of requests' bodies, read |
//! | `portcullis_response_bytes_total` | counter | bytes | `route`, `upstream`, `cohort` | of responses' bodies, handed to the server |
//! | `portcullis_upstream_attempts_total` | counter | | `route`, `upstream`, `cohort` | times a request was sent, or tried to be sent, to an endpoint |
//! | `portcullis_upstream_retries_total` | counter | | `route`, `upstream`, `cohort` | attempts after a request's first, but for hedges |
//! | `portcullis_upstream_hedges_total` | counter | | `route`, `upstream`, `cohort` | attempts beside one that was slow |
//! | `portcullis_requests_in_flight` | gauge | | | requests that began and did not end |
//! | `portcullis_streams_total` | counter | | `route`, `upstream`, `outcome` | streams that ended |
//! | `portcullis_streams_opened_total` | counter | | `route`, `upstream` | streams that began, those that came to nothing included |
//! | `portcullis_streams_open` | gauge | | `route`, `upstream` | streams that began and did not end |
//! | `portcullis_stream_received_bytes_total` | counter | bytes | `route`, `upstream` | received from clients and passed on, as it happens |
//! | `portcullis_stream_sent_bytes_total` | counter | bytes | `route`, `upstream` | sent to clients, as it happens |
//! | `portcullis_stream_duration_seconds` | histogram | seconds | `route`, `upstream` | from the choice of a stream's route to its end |
//! | `portcullis_upstream_endpoints` | gauge | | `upstream` | endpoints known |
//! | `portcullis_upstream_endpoints_available` | gauge | | `upstream` | endpoints that may be tried |
//! | `portcullis_upstream_endpoints_ejected` | gauge | | `upstream` | endpoints that outlier detection keeps out |
//! | `portcullis_upstream_ejections_total` | counter | | `upstream` | times outlier detection put an endpoint out |
//! | `portcullis_upstream_breaker` | gauge | | `upstream`, `state` (`closed`, `half_open`, `open`) | 1 for the state its circuit breaker is in, else 0 |
//! | `portcullis_upstream_breaker_opened_total` | counter | | `upstream` | times its circuit breaker opened, probes that failed included |
//! | `portcullis_upstream_breaker_refused_total` | counter | | `upstream` | requests that its circuit breaker refused |
//! | `portcullis_upstream_endpoint_breakers_open` | gauge | | `upstream` | endpoints whose own circuit breaker is open, or half open |
//! | `portcullis_upstream_endpoint_breakers_opened_total` | counter | | `upstream` | times an endpoint's own circuit breaker opened, probes that failed included |
//! | `portcullis_upstream_connections` | gauge | | `upstream`, `state` (`active`, `idle`) | connections open |
//! | `portcullis_upstream_pending_requests` | gauge | | `upstream` | requests waiting for a connection |
//! | `portcullis_rollout_share_ratio` | gauge | ratio | `route`, `rule`, `canary` | the canary's share of requests, from 0 to 1 |
//! | `portcullis_rollout_state` | gauge | | `route`, `rule`, `canary`, `state` (`progressing`, `held`, `promoted`, `rolled_back`) | 1 for the state the rollout is in, else 0 |
//!
//! 1. `route` and `upstream` come from the configuration only, and are empty where none was chosen. `method` is one of the
//!    nine standard ones or `other`; `code` is the class of the status (`2xx`), or `none` where there was no response;
//!    `outcome` is an [`Outcome`](crate::Outcome)'s name. `cohort` is there only where a split put the request into a
//!    [cohort](crate::split::Cohort), by the name that the configuration has for it. A rollout's `rule` is its rule's place
//!    in the route, from 0. So nothing that a client sends makes a
//!    new series.
//! 2. A series appears with its first request, and then costs no lookup of label strings: names are looked up in an
//!    immutable snapshot, everything behind them is an atomic. Only its first requests may take a lock, until there is a
//!    snapshot that has it; the more series there are, the longer that takes, so that making them costs each a constant.
//! 3. Series of routes that vanish from the configuration stay, so that the last requests to them are scraped, until
//!    [`Metrics::retain`] drops them.
//! 4. Requests in flight have no labels: the route is not known as a request begins.
//! 5. There is no global registry; metrics of two [`Metrics`] never mix.
//! 6. A stream is a connection that is forwarded as it is: TLS passed through, TLS ended here for what is not HTTP, TCP. Its
//!    `outcome` is `completed` where both sides said all they had to say, `cancelled` where it was cut, fell silent, or
//!    where a TLS handshake that is ended here failed, and else why it came to no connection: `no_endpoint`, `connect_failed`, `no_route` and the like. Its series stays as long as
//!    one is open.
//!
//! # Example
//! ```
//! # tokio_test::block_on(async {
//! use std::convert::Infallible;
//!
//! use http::{Request, Response};
//! use portcullis::{Body, telemetry::{TelemetryLayer, metrics::Metrics}};
//! use tower::{ServiceBuilder, ServiceExt};
//!
//! let metrics = Metrics::new();
//! let service = ServiceBuilder::new()
//!     .layer(TelemetryLayer::new().recorder(metrics.clone()))
//!     .service_fn(async |_: Request<Body>| Ok::<_, Infallible>(Response::new(Body::empty())));
//! service.oneshot(Request::new(Body::empty())).await.unwrap();
//!
//! let text = metrics.encode();
//! let series = r#"portcullis_requests_total{route="",upstream="",method="GET",code="2xx",outcome="completed"} 1"#;
//! assert!(text.contains(series), "{text}");
//! # });
//! ```

mod encode;
mod series;
mod shelf;
mod streams;
mod text;

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
};

use prometheus_client::registry::Registry;
use tokio::time::Duration;

pub use self::streams::STREAM_BUCKETS_MS;
use self::{encode::Collected, series::Series, shelf::Shelf, streams::Streams};
use super::{Finished, Interest, Recorder, StreamFacts, StreamRecorder};
use crate::{breaker, split::RolloutStatus};

/// Upper bounds, in milliseconds, of the buckets of `portcullis_request_duration_seconds`, unless others are chosen: from
/// an answer in memory to the usual limits of clients. The middle ones are those of Prometheus' own client libraries.
pub const DEFAULT_BUCKETS_MS: [u64; 16] =
    [1, 2, 5, 10, 25, 50, 75, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000];

/// The metrics of the [module](self)'s table. Clones share them.
#[derive(Clone)]
pub struct Metrics(Arc<Shared>);

struct Shared {
    core: Arc<Core>,
    registry: Registry,
    custom: Mutex<Registry>,
}

/// All that is counted, apart from the registry that writes it down.
struct Core {
    bounds: Arc<[Duration]>,
    in_flight: AtomicI64,
    routes: Shelf<Arc<str>, Upstreams>,
    upstreams: Mutex<Vec<UpstreamSource>>,
    rollouts: Mutex<Vec<RolloutSource>>,
    streams: Streams,
}

/// By upstream, by cohort; what has none is of the empty one.
type Upstreams = Shelf<Arc<str>, Shelf<Arc<str>, Series>>;

type UpstreamSource = Arc<dyn Fn() -> Vec<UpstreamStats> + Send + Sync>;

type RolloutSource = Arc<dyn Fn() -> Vec<RolloutStatus> + Send + Sync>;

/// The state of an upstream at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UpstreamStats {
    /// The upstream's name, as in [`Record::upstream`](crate::exchange::Record::upstream).
    pub upstream: Arc<str>,
    /// Endpoints known.
    pub endpoints: u64,
    /// Endpoints that may be tried.
    pub endpoints_available: u64,
    /// Endpoints that outlier detection keeps out, those being probed included.
    pub endpoints_ejected: u64,
    /// How often outlier detection has put an endpoint out, once more after a probe that failed included.
    pub ejections: u64,
    /// Its circuit breaker's figures, if it has one.
    pub breaker: Option<breaker::Stats>,
    /// Whether its endpoints have circuit breakers of their own.
    pub endpoint_breakers: bool,
    /// How many of those are not closed, those that let a probe through included.
    pub endpoint_breakers_open: u64,
    /// How often one of them opened, probes that failed included; those of endpoints that have left too.
    pub endpoint_breakers_opened: u64,
    /// Connections that carry at least one request.
    pub connections_active: u64,
    /// Connections that carry none.
    pub connections_idle: u64,
    /// Requests that wait for a connection.
    pub pending_requests: u64,
}

impl Metrics {
    /// With [`DEFAULT_BUCKETS_MS`].
    #[must_use]
    pub fn new() -> Self {
        Self::with_buckets(DEFAULT_BUCKETS_MS.map(Duration::from_millis))
    }

    /// With other upper bounds of the buckets of requests' durations; their order and duplicates do not matter, and what is
    /// above the last one falls into the implied `+Inf`. Those of streams are [`STREAM_BUCKETS_MS`].
    #[must_use]
    pub fn with_buckets(bounds: impl IntoIterator<Item = Duration>) -> Self {
        let mut bounds: Vec<_> = bounds.into_iter().collect();
        bounds.sort_unstable();
        bounds.dedup();
        let core = Arc::new(Core {
            bounds: bounds.into(),
            in_flight: AtomicI64::new(0),
            routes: Shelf::default(),
            upstreams: Mutex::default(),
            rollouts: Mutex::default(),
            streams: Streams::default(),
        });
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Collected(Arc::clone(&core))));
        Self(Arc::new(Shared { core, registry, custom: Mutex::default() }))
    }

    /// All metrics in the [OpenMetrics 1.0](https://prometheus.io/docs/specs/om/open_metrics_spec/) text format, sorted.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = prometheus_client::encoding::text::encode_registry(&mut text, &self.0.registry);
        let whole = text.len();
        let custom = self.0.custom.lock().unwrap_or_else(PoisonError::into_inner);
        if prometheus_client::encoding::text::encode_registry(&mut text, &custom).is_err() {
            text.truncate(whole);
            tracing::error!("a metric registered by the application could not be encoded; all of them are left out");
        }
        text.push_str("# EOF\n");
        text
    }

    /// All metrics in the older Prometheus text format 0.0.4, which every collector of metrics reads.
    #[must_use]
    pub fn encode_prometheus(&self) -> String {
        text::prometheus(&self.encode())
    }

    /// Adds metrics of the application's own to what is encoded. Their names must not be those of the module's table.
    pub fn register<R>(&self, register: impl FnOnce(&mut Registry) -> R) -> R {
        register(&mut self.0.custom.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Adds a source of upstream gauges, asked at every scrape. What two sources say of one upstream is added up; an
    /// upstream that is not told of any more is gone.
    pub fn upstreams(&self, source: impl Fn() -> Vec<UpstreamStats> + Send + Sync + 'static) {
        self.0.core.upstreams.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::new(source));
    }

    /// Adds a source of rollout gauges, asked at every scrape. Of one rollout that is told of twice the state of greater
    /// concern is shown: rolled back before held, before progressing, before promoted. A rollout that is not told of any
    /// more is gone.
    ///
    /// # Example
    /// ```
    /// use portcullis::{config::Rollout, split::RolloutHandle, telemetry::metrics::Metrics};
    ///
    /// let metrics = Metrics::new();
    /// let rollout = RolloutHandle::new("default/shop", 0, Rollout::of("shop-v2"))?;
    /// let shown = rollout.clone();
    /// metrics.rollouts(move || vec![shown.status()]);
    ///
    /// let labels = r#"route="default/shop",rule="0",canary="shop-v2""#;
    /// assert!(metrics.encode().contains(&format!("portcullis_rollout_share_ratio{{{labels}}} 0.01\n")));
    /// rollout.abort();
    /// let state = format!(r#"portcullis_rollout_state{{{labels},state="rolled_back"}} 1"#);
    /// assert!(metrics.encode().contains(&state));
    /// # Ok::<_, portcullis::split::InvalidSplit>(())
    /// ```
    pub fn rollouts(&self, source: impl Fn() -> Vec<RolloutStatus> + Send + Sync + 'static) {
        self.0.core.rollouts.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::new(source));
    }

    /// Drops the series for which `keep(route, upstream, cohort)` is false: for a configuration that was replaced. A request
    /// that ends after that, on a route that is gone, makes its series anew, from zero. `keep` must not use these metrics. It is
    /// asked with empty names, too, for what has no series. Of streams, for which the cohort is
    /// empty, those that still have open ones stay until they are next asked for.
    pub fn retain(&self, mut keep: impl FnMut(&str, &str, &str) -> bool) {
        self.0.core.routes.retain(|route, upstreams| {
            upstreams.retain(|upstream, cohorts| {
                cohorts.retain(|cohort, _| keep(route, upstream, cohort));
                // Requests that end meanwhile may count in what is empty: it goes only with its name.
                !cohorts.is_empty() || keep(route, upstream, "")
            });
            !upstreams.is_empty() || keep(route, "", "")
        });
        self.0.core.streams.retain(|route, upstream| keep(route, upstream, ""));
    }
}

impl Core {
    fn record(&self, finished: &Finished) {
        let record = &finished.record;
        let (route, upstream, cohort) = (record.route.as_ref(), record.upstream.as_ref(), record.cohort.as_ref());
        let of_cohort = |cohorts: &Shelf<_, _>| {
            let make = || Series::new(&self.bounds);
            cohorts.with(name(cohort), || owned(cohort), make, |series| series.record(finished));
        };
        let of_upstream = |upstreams: &Upstreams| {
            upstreams.with(name(upstream), || owned(upstream), Shelf::default, of_cohort);
        };
        self.routes.with(name(route), || owned(route), Shelf::default, of_upstream);
    }
}

fn name(name: Option<&Arc<str>>) -> &str {
    name.map_or("", |name| name)
}

fn owned(name: Option<&Arc<str>>) -> Arc<str> {
    name.cloned().unwrap_or_default()
}

impl Recorder for Metrics {
    fn interest(&self) -> Interest {
        Interest::Summary
    }

    fn begun(&self) {
        self.0.core.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    fn finished(&self, finished: &Finished) {
        self.0.core.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.0.core.record(finished);
    }

    fn stream(&self, stream: &StreamFacts) -> Option<Box<dyn StreamRecorder>> {
        Some(Box::new(self.0.core.streams.begin(stream)))
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").field("in_flight", &self.0.core.in_flight).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
