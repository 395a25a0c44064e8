//! A configuration compiled into services.
//!
//! A [`Gateway`] is a Tower service made from a [`Config`], the one data model that Kubernetes manifests, a YAML file and
//! code all become. It can be mounted in a [`Server`] or in an axum app, and it is made of the same
//! layers and services as anyone can stack by hand:
//! [`Telemetry`] around [`Respond`] around what [`Forwarded`](crate::forwarded::Forwarded) does around a [`RouteTable`](crate::route::RouteTable), whose targets are services
//! in this process or [`Upstream`]s behind [`Forward`](crate::proxy::Forward).
//!
//! 1. What is ambiguous is refused: a request without one valid host, a path without a normal form, `CONNECT`.
//! 2. No rule: 404. A backend that is invalid, or no backend: 500, for its share of the rule's weights. A backend without
//!    an endpoint that may be tried: 503. An upstream that fails: 502; 503 if its rule has retries and they are used up. One
//!    that is late: 504.
//! 3. A request goes through what its rule asks for in this order, and its response back through the same: a CORS preflight
//!    is answered; `timeouts.request`; what may turn it away (`allow`, `external_auth`, `rate_limit`, `fault`); the other
//!    filters as they are written; the choice of a backend; that one's filters; retries; the backend's `fault`; what the
//!    rules that lead to an upstream share (hedging, load shedding, limits of concurrency).
//! 4. A backend named as a [local service](GatewayBuilder::local) is that service, whatever else has that name.
//! 5. [`apply`](Gateway::apply) replaces everything at once: each request is served by one configuration from beginning to
//!    end. What can fail is done first, so a configuration that is refused changes nothing. Upstreams whose settings stay
//!    keep their connections and what their balancers and circuit breakers know, also when their endpoints change, or TLS
//!    shows another certificate or trusts other authorities: their next connections do, and those that are open last as long
//!    as they would have. What [`identity`](GatewayBuilder::identity) names rotates without a configuration. So do budgets, quotas, limits and rollouts keep their state while their own settings stay.
//! 6. Calls that this process makes to the configuration's services are governed by the same rules: [`client`](Gateway::client).
//! 7. A rule of which a part cannot be made is refused with the configuration; or, where many authors share a table
//!    ([`Conflicts::Oldest`](crate::config::Conflicts)), answered 500 by itself.
//!
//! # Example
//! ```
//! # tokio_test::block_on(async {
//! use http::{Request, StatusCode};
//! use portcullis::{Body, config::{BackendRef, Config, Match, Route, Rule}, gateway::Gateway};
//! use tower::ServiceExt;
//!
//! let config = Config {
//!     routes: vec![Route {
//!         rules: vec![Rule {
//!             matches: vec![Match::prefix("/checkout")],
//!             backends: vec![BackendRef::new("checkout")],
//!             ..Rule::default()
//!         }],
//!         ..Route::named("shop")
//!     }],
//!     ..Config::default()
//! };
//! let checkout = axum::Router::new().fallback(|| async { "paid" });
//! let gateway = Gateway::builder(config).local("checkout", checkout).build()?;
//!
//! let ask = |path: &str| Request::get(path).header("host", "shop.example.com").body(Body::empty());
//! assert_eq!(gateway.clone().oneshot(ask("/checkout/42")?).await?.status(), StatusCode::OK);
//! assert_eq!(gateway.clone().oneshot(ask("/other")?).await?.status(), StatusCode::NOT_FOUND);
//! assert_eq!(gateway.explain(&ask("/checkout/42")?)?.winner().unwrap().backend(), Some("checkout"));
//! # Ok::<_, Box<dyn std::error::Error>>(()) }).unwrap();
//! ```

mod admission;
mod builder;
#[cfg(feature = "tls")]
mod certificates;
mod choice;
mod compile;
mod diff;
mod dispatch;
mod explain;
mod identities;
mod list;
mod listeners;
mod local;
mod mesh;
mod rule;
mod streams;
mod tables;
#[cfg(test)]
mod tests;
mod upstreams;

#[cfg(feature = "tls")]
pub use self::certificates::GatewayCertificates;
pub use self::{
    builder::GatewayBuilder,
    compile::BuildError,
    diff::{ConfigDiff, DiffPart, diff},
    explain::{ExplainedBackend, Explanation, Winner},
    list::RouteList,
    listeners::ListenerError,
    mesh::{MeshClient, MeshFuture},
};

#[cfg(feature = "metrics")]
use std::collections::{HashMap, HashSet};
use std::{
    convert::Infallible,
    fmt,
    future::Future,
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    thread,
    time::Duration,
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{Request, Response};
use pin_project::pin_project;
use tower_service::Service;

use self::{
    admission::Admission,
    compile::{Compiler, Snapshot},
    dispatch::Dispatch,
};
#[cfg(feature = "metrics")]
use crate::telemetry::metrics::Metrics;
use crate::{
    Body, BoxError,
    config::Config,
    proxy::Tunnels,
    respond::{Respond, RespondLayer},
    route::path::InvalidPath,
    server::{BoundServer, Listening, Prepared, Server},
    split::RolloutHandle,
    telemetry::{Telemetry, TelemetryLayer},
    upstream::Upstream,
};

/// A configuration compiled into one service. Clones share everything.
#[derive(Clone)]
pub struct Gateway {
    stack: Stack,
    shared: Arc<Shared>,
}

type Stack = Telemetry<Respond<Dispatch>>;

/// The future of a request to a [`Gateway`].
#[pin_project]
pub struct ResponseFuture(#[pin] <Stack as Service<Request<Body>>>::Future);

struct Shared {
    snapshot: Arc<ArcSwap<Snapshot>>,
    compiler: Compiler,
    tunnels: Tunnels,
    /// Configurations are applied one after the other; to the addresses that are listened on, too, if that is done here.
    applying: Mutex<Option<Listening>>,
    stream_idle_timeout: Duration,
    /// Around the calls of clients, and of streams.
    telemetry: TelemetryLayer,
    respond: RespondLayer,
    #[cfg(feature = "metrics")]
    metrics: Option<Metrics>,
}

impl Gateway {
    /// A gateway for `config`, to be completed with local services and settings.
    pub fn builder(config: Config) -> GatewayBuilder {
        GatewayBuilder::new(config)
    }

    /// A gateway for what is in a file or folder: Kubernetes manifests, or a YAML file of our own. Warnings are logged. To
    /// have it follow changes, see [`source::reload`](crate::source::reload).
    ///
    /// # Errors
    /// When something there cannot be read: each place by file, line and field.
    #[cfg(feature = "yaml")]
    pub fn from_path(path: impl Into<std::path::PathBuf>) -> Result<GatewayBuilder, crate::source::LoadError> {
        let loaded = crate::source::load([path])?;
        for warning in &loaded.warnings {
            tracing::warn!("{warning}");
        }
        Ok(Self::builder(loaded.config))
    }

    /// Binds a server that listens where the configuration's [listeners](crate::config::Listener) are, beside its own
    /// [`Listener`](crate::server::Listener)s, and keeps to them when the configuration changes. The gateway is then given to
    /// it to serve.
    ///
    /// 1. The server's own listeners lead to the routes that are attached to no listener.
    /// 2. Where a listener of the configuration has the address of one of the server's own, its protocol holds. As long as
    ///    there are routes attached to nothing, these take what no listener there is for; with the server's own TLS, where it
    ///    has that.
    /// 3. An address that a new configuration asks for is bound before anything changes, and [`apply`](Self::apply) fails if
    ///    it cannot be, unless its listeners are [optional](crate::config::Listener::optional). One that is no longer asked for
    ///    accepts nothing more, and its connections finish what they are at.
    ///
    /// Call it once: a second server takes the first one's place in following the configuration.
    ///
    /// ```
    /// # tokio_test::block_on(async {
    /// use portcullis::{config::{Config, Listener}, gateway::Gateway, server::Server};
    ///
    /// # let free = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    /// # let (ip, port) = (free.ip(), free.port());
    /// let public = Listener { addresses: vec![ip], ..Listener::http("public", port) };
    /// let gateway = Gateway::builder(Config { listeners: vec![public], ..Config::default() }).build()?;
    /// let server = gateway.listen(Server::default().http("127.0.0.1:0"))?;
    /// assert_eq!(server.listening().addresses(), [free]);
    ///
    /// gateway.apply(Config::default())?;
    /// assert!(server.listening().addresses().is_empty());
    /// # let shutdown = std::future::ready(());
    /// server.serve_with_shutdown(gateway, shutdown).await;
    /// # Ok::<_, Box<dyn std::error::Error>>(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    /// When an address cannot be bound that is not optional, or none can, naming it. Must be called within a tokio runtime.
    pub fn listen(&self, server: Server) -> io::Result<BoundServer> {
        let mut following = self.shared.applying.lock().unwrap_or_else(PoisonError::into_inner);
        let snapshot = self.shared.snapshot.clone();
        let admission = Admission {
            snapshot: snapshot.clone(),
            idle: self.shared.stream_idle_timeout,
            telemetry: self.shared.telemetry.clone(),
        };
        let server = server.decide(admission).bind()?;
        let listening = server.listening();
        let bound = snapshot.load().listeners.bind(&listening).map(Prepared::commit);
        bound.map_err(|error| match &error {
            ListenerError::Bind { source, .. } => io::Error::new(source.kind(), error),
            _ => io::Error::other(error),
        })?;
        *following = Some(listening);
        Ok(server)
    }

    /// Replaces the configuration in one swap; see the [module docs](self) for what is kept.
    ///
    /// It is compiled on the thread that calls: of thousands of routes, call it where work may block, as
    /// [`source::reload`](crate::source::reload()) does.
    ///
    /// # Errors
    /// When the configuration cannot be served, or, after [`listen`](Self::listen), an address cannot be bound; the old one
    /// stays in place.
    pub fn apply(&self, config: Config) -> Result<(), BuildError> {
        let listening = self.shared.applying.lock().unwrap_or_else(PoisonError::into_inner);
        let next = self.shared.compiler.compile(config, Some(&self.shared.snapshot.load()))?;
        let bound = listening.as_ref().map(|listening| next.listeners.bind(listening)).transpose()?;
        next.take_over();
        let old = self.shared.snapshot.swap(Arc::new(next));
        if let Some(bound) = bound {
            bound.commit();
        }
        #[cfg(feature = "metrics")]
        if let Some(metrics) = &self.shared.metrics {
            self.shared.retain_series(metrics);
        }
        free(old);
        Ok(())
    }

    /// The certificates of the configuration, for a [`Server`] to show; they change with it, in the
    /// same swap.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn certificates(&self) -> GatewayCertificates {
        GatewayCertificates::new(self.shared.snapshot.clone())
    }

    /// Where a request would go, and why the other rules lost.
    ///
    /// With a [`ConnectionInfo`](crate::connection::ConnectionInfo) among its extensions it is a request of that connection: it
    /// is told which listener owns it, and whether it is misdirected or its connection closed. Without one, every route that
    /// is there counts.
    ///
    /// Calls of this process are explained by their client: [`MeshClient::explain`].
    ///
    /// # Errors
    /// When the request's path has no normal form: it would be answered 400.
    pub fn explain<B>(&self, request: &Request<B>) -> Result<Explanation, InvalidPath> {
        Explanation::of(&self.shared.snapshot.load(), request)
    }

    /// A client for calls of this process, as one of the namespace `namespace`, to the services of the configuration: governed by
    /// the routes that are attached to them. It follows the configuration, like the gateway.
    #[must_use]
    pub fn client(&self, namespace: impl Into<Arc<str>>) -> MeshClient {
        MeshClient::new(&self.shared, namespace.into())
    }

    /// The configuration that is served.
    #[must_use]
    pub fn config(&self) -> Arc<Config> {
        self.shared.snapshot.load().config.clone()
    }

    /// The routes that are served, as text.
    #[must_use]
    pub fn routes(&self) -> RouteList {
        RouteList(self.config())
    }

    /// The upstreams that are served, in no particular order. That of a service without routes is there once the service has
    /// been called.
    #[must_use]
    pub fn upstreams(&self) -> Vec<Upstream> {
        self.shared.snapshot.load().upstreams()
    }

    /// The rollouts that are under way or over, each with the name of its route, in no particular order: to be looked at
    /// and steered.
    #[must_use]
    pub fn rollouts(&self) -> Vec<(Arc<str>, RolloutHandle)> {
        let snapshot = self.shared.snapshot.load();
        snapshot.rollouts().map(|(route, rollout)| (route.clone(), rollout.clone())).collect()
    }

    /// The upgraded connections that go through here. They outlive their requests: a server that drains has to wait for
    /// them, and to end them.
    #[must_use]
    pub fn tunnels(&self) -> &Tunnels {
        &self.shared.tunnels
    }
}

/// Frees what was replaced here, rather than where a request is served that was just being routed by it: of thousands of
/// routes that takes milliseconds, while routing one takes microseconds, unless its thread is held up.
fn free<T>(mut old: Arc<T>) {
    const PATIENCE: u32 = 100_000;
    for _ in 0..PATIENCE {
        if Arc::get_mut(&mut old).is_some() {
            break;
        }
        thread::yield_now();
    }
}

#[cfg(feature = "metrics")]
impl Shared {
    /// Drops the series of routes and backends that are no longer there.
    fn retain_series(&self, metrics: &Metrics) {
        let snapshot = self.snapshot.load();
        let mut routes: HashMap<&str, HashSet<&str>> = HashMap::new();
        for route in &snapshot.config.routes {
            let backends = route.rules.iter().flat_map(|rule| &rule.backends);
            let names = backends.flat_map(|backend| [Some(&backend.name), backend.cohort.as_ref()]);
            routes.entry(&route.name).or_default().extend(names.flatten().map(String::as_str));
        }
        for stream in &snapshot.config.streams {
            let backends = stream.backends.iter().map(|backend| backend.name.as_str());
            routes.entry(&stream.name).or_default().extend(backends);
        }
        let names = snapshot.config.services.iter().flat_map(|service| {
            service.ports.iter().map(|port| (mesh::name_alone(service, port), port.backend.name.as_str()))
        });
        let names: Vec<_> = names.collect();
        for (name, backend) in &names {
            routes.entry(name).or_default().insert(backend);
        }
        metrics.retain(|route, upstream, cohort| {
            let there = |names: &HashSet<&str>| [upstream, cohort].iter().all(|n| n.is_empty() || names.contains(n));
            route.is_empty() || routes.get(route).is_some_and(there)
        });
    }
}

impl<B> Service<Request<B>> for Gateway
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> ResponseFuture {
        ResponseFuture(self.stack.call(request.map(Body::new)))
    }
}

impl Future for ResponseFuture {
    type Output = Result<Response<Body>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.project().0.poll(cx)
    }
}

impl fmt::Debug for ResponseFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

impl fmt::Debug for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gateway").field("snapshot", &*self.shared.snapshot.load()).finish_non_exhaustive()
    }
}
