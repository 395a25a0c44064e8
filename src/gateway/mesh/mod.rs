//! Calls of this process to services, governed at the caller's side: a [`MeshClient`].

mod services;
#[cfg(test)]
mod tests;

#[cfg(feature = "metrics")]
pub(super) use self::services::name_alone;
pub(super) use self::services::{Services, table_alone};

use std::{
    convert::Infallible,
    fmt,
    future::Future,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Request, Response,
    header::HOST,
    request::Parts,
    uri::{Authority, PathAndQuery, Scheme},
};
use pin_project::pin_project;
use tokio::time::Instant;
use tower::ServiceBuilder;
use tower_service::Service;

use self::services::{Called, Rules};
use super::{BuildError, Explanation, Shared, compile::Snapshot, rule::Sending, tables::Table};
use crate::{
    Body, BoxError, Error, Outcome,
    balance::{Affinity, Tried},
    connection::{CalledOverTls, ClientAddr, ConnectionInfo},
    exchange::Exchange,
    proxy::{Refusal, admit},
    respond::{Dialect, Respond},
    route::path::{InvalidPath, normalize_uri},
    split::{CohortLayer, WithCohort},
    telemetry::Telemetry,
    timeout::{self, AttemptTimeout, Deadline, GRPC_TIMEOUT, format_grpc_timeout, grpc_timeout},
};

/// A client of the services that a [`Gateway`](super::Gateway)'s configuration describes, governed by the routes that are
/// attached to them (the Gateway API's mesh profile, GAMMA): made by
/// [`Gateway::client`](super::Gateway::client). Clones share everything.
///
/// It is a Tower service that is always ready and never fails: what goes wrong is a response with an [`Outcome`], which for
/// gRPC is a status. Every call is told to the gateway's recorders.
///
/// 1. A call is for the service that its URI names, or its `Host` where the URI names nobody: as `service`, which is one of
///    the caller's namespace, `service.namespace`, `service.namespace.svc` or `service.namespace.svc.cluster.local`. Without
///    a port it is for 443 if the scheme is `https`, else for 80. The scheme says no more than that: whether TLS is spoken is
///    the upstream's matter.
/// 2. The routes attached to that service and port govern it. Those of the caller's own namespace (consumer routes) go
///    before the producer's: where there is one for the port, the producer's count for nothing (GEP-1294). A service
///    without a route for the port is called as it is, by an upstream that is made at the first call. Routes' hosts mean
///    nothing here, and backends are not looked up as services again.
/// 3. There are routes and none of their rules fits: 404 ([`Outcome::NoRoute`]). A service, or a port, that the
///    configuration does not know is answered the same, with its own text in the log: nothing is looked up by DNS. Ask
///    [`knows`](Self::knows) where other hosts are called, too.
/// 4. What is found is the same compiled rule as at an ingress: filters, splits, sessions, retries, timeouts, with its state
///    and its connections; [`Gateway::apply`](super::Gateway::apply) changes both at once.
/// 5. `Host` goes out as the caller wrote it, else as the URI's authority.
/// 6. The [`Deadline`] of the request, of the task and of `grpc-timeout`, whichever is first, ends the call and travels in
///    `grpc-timeout`; the [`Cohort`](crate::split::Cohort) of the request, or of the task, travels in `baggage`.
/// 7. The caller is this process: what a request's extensions tell of a connection it once came in by is dropped.
///
/// # Caveats
/// - What goes to an upstream is forwarded like any request, with `Via`. A handler that copies a request's fields into a call
///   copies `Via` with them, and the call is refused as a loop if it has been through this gateway's upstreams before.
/// - A client cannot switch protocols (WebSocket): `Upgrade` is left out.
///
/// # Example
/// Kubernetes manifests become such a configuration; here it is written in code, with services of this process in the place
/// of the backends.
/// ```
/// # tokio_test::block_on(async {
/// use axum::Router;
/// use http::Request;
/// use portcullis::{
///     Body,
///     config::{BackendRef, Config, MeshParent, Route, Rule, Service, ServicePort},
///     gateway::Gateway,
/// };
/// use tower::ServiceExt;
///
/// let config = Config {
///     services: vec![Service {
///         name: "shop/cart".into(),
///         ports: vec![ServicePort::new(80, BackendRef::new("shop/cart:80"))],
///     }],
///     // The namespace `web` tries the next version before anyone else.
///     routes: vec![Route {
///         services: vec![MeshParent {
///             service: "shop/cart".into(),
///             consumers: Some("web".into()),
///             ..MeshParent::default()
///         }],
///         rules: vec![Rule { backends: vec![BackendRef::new("shop/cart-next:80")], ..Rule::default() }],
///         ..Route::named("web/cart")
///     }],
///     ..Config::default()
/// };
/// let gateway = Gateway::builder(config)
///     .local("shop/cart", Router::new().fallback(|| async { "cart" }))
///     .local("shop/cart-next", Router::new().fallback(|| async { "next" }))
///     .build()?;
///
/// for (namespace, answer) in [("web", "next"), ("billing", "cart")] {
///     let client = gateway.client(namespace);
///     let call = Request::get("http://cart.shop/items").body(Body::empty())?;
///     let response = client.oneshot(call).await?;
///     assert_eq!(axum::body::to_bytes(axum::body::Body::new(response.into_body()), 100).await?, answer);
/// }
/// # Ok::<_, Box<dyn std::error::Error>>(()) }).unwrap();
/// ```
#[derive(Clone)]
pub struct MeshClient {
    stack: Stack,
    calls: Calls,
}

type Stack = Telemetry<Respond<WithCohort<Calls>>>;

/// The future of a call by a [`MeshClient`]. Dropping it gives up the call.
#[pin_project]
pub struct MeshFuture(#[pin] <Stack as Service<Request<Body>>>::Future);

/// The innermost service of a client: the service that is called, its table and its targets.
#[derive(Clone)]
struct Calls {
    shared: Arc<Shared>,
    namespace: Arc<str>,
    domain: Arc<str>,
}

impl MeshClient {
    pub(super) fn new(shared: &Arc<Shared>, namespace: Arc<str>) -> Self {
        Self::around(Calls { shared: shared.clone(), namespace, domain: "cluster.local".into() })
    }

    fn around(calls: Calls) -> Self {
        let stack = ServiceBuilder::new()
            .layer(calls.shared.telemetry.clone())
            .layer(calls.shared.respond.clone())
            .layer(CohortLayer::client())
            .service(calls.clone());
        Self { stack, calls }
    }

    /// The domain that whole names of services end in. Default: `cluster.local`, that of Kubernetes.
    #[must_use]
    pub fn cluster_domain(self, domain: impl AsRef<str>) -> Self {
        let domain = domain.as_ref().trim_matches('.').to_ascii_lowercase();
        Self::around(Calls { domain: domain.into(), ..self.calls })
    }

    /// Whether a call is for a service, and a port, that the configuration knows: others are for another client.
    #[must_use]
    pub fn knows<B>(&self, request: &Request<B>) -> bool {
        let (uri, headers) = (request.uri(), request.headers());
        let authority = uri.authority().map(Authority::as_str).or_else(|| written(headers));
        let snapshot = self.calls.shared.snapshot.load();
        authority.is_some_and(|authority| {
            let called = Called::of(authority, default_port(uri.scheme()));
            snapshot.services.rules(&called, &self.calls.namespace, &self.calls.domain).is_ok()
        })
    }

    /// Where a call would go, and why the other rules lost, as [`Gateway::explain`](super::Gateway::explain) tells it of
    /// requests that come in. Nothing is sent.
    ///
    /// A call that no rule wins has an [`outcome`](Explanation::outcome), and why is in the text: it has no service or port
    /// of the configuration, or is not a call at all. There is no listener.
    ///
    /// ```
    /// use http::Request;
    /// use portcullis::{
    ///     Outcome,
    ///     config::{BackendRef, Config, Endpoints, Match, MeshParent, Route, Rule, Service, ServicePort, Upstream},
    ///     gateway::Gateway,
    /// };
    ///
    /// let config = Config {
    ///     services: vec![Service {
    ///         name: "shop/cart".into(),
    ///         ports: vec![ServicePort::new(80, BackendRef::new("cart"))],
    ///     }],
    ///     routes: vec![Route {
    ///         services: vec![MeshParent {
    ///             service: "shop/cart".into(),
    ///             consumers: Some("web".into()),
    ///             ..MeshParent::default()
    ///         }],
    ///         rules: vec![Rule {
    ///             matches: vec![Match::prefix("/items")],
    ///             backends: vec![BackendRef::new("cart-next")],
    ///             ..Rule::default()
    ///         }],
    ///         ..Route::named("web/cart")
    ///     }],
    ///     upstreams: ["cart", "cart-next"].map(|name| Upstream::new(name, Endpoints::Static(Vec::new()))).into(),
    ///     ..Config::default()
    /// };
    /// let gateway = Gateway::builder(config).build()?;
    /// let call = |uri: &str| Request::get(uri).body(());
    ///
    /// let web = gateway.client("web").explain(&call("http://cart.shop/items/1")?)?;
    /// assert_eq!(web.winner().unwrap().route.as_ref(), "web/cart");
    /// assert_eq!(web.winner().unwrap().backend(), Some("cart-next"));
    /// // Nobody else's calls have a route: they go to the service itself.
    /// let billing = gateway.client("billing").explain(&call("http://cart.shop/items/1")?)?;
    /// assert_eq!(billing.winner().unwrap().backend(), Some("cart"));
    ///
    /// let lost = gateway.client("web").explain(&call("http://card.shop/")?)?;
    /// assert_eq!(lost.outcome(), Some(Outcome::NoRoute));
    /// assert!(lost.to_string().ends_with("answered 404: there is no service `shop/card` in the configuration"));
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// When the call's path has no normal form: it would be answered 400, or `grpc-status` 13.
    pub fn explain<B>(&self, request: &Request<B>) -> Result<Explanation, InvalidPath> {
        let mut plain = Request::new(());
        *plain.method_mut() = request.method().clone();
        *plain.uri_mut() = request.uri().clone();
        *plain.version_mut() = request.version();
        *plain.headers_mut() = request.headers().clone();
        self.calls.explain(plain.into_parts().0)
    }
}

/// Whom an admitted call is for, as it was written.
struct Addressed {
    authority: Option<Authority>,
    default_port: u16,
}

impl Addressed {
    /// Admits a call, and leaves of its URI what goes out.
    fn admit(parts: &mut Parts) -> Result<Self, Refusal> {
        let uri = mem::take(&mut parts.uri).into_parts();
        if let Some(scheme) = &uri.scheme
            && *scheme != Scheme::HTTP
            && *scheme != Scheme::HTTPS
        {
            return Err(Refusal::InvalidTarget);
        }
        parts.uri = uri.path_and_query.unwrap_or_else(|| PathAndQuery::from_static("/")).into();
        if let Some(authority) = &uri.authority
            && !parts.headers.contains_key(HOST)
        {
            let host = HeaderValue::from_str(authority.as_str()).map_err(|_| Refusal::InvalidHost)?;
            parts.headers.insert(HOST, host);
        }
        if uri.scheme == Some(Scheme::HTTPS) {
            parts.extensions.insert(CalledOverTls);
        }
        admit(parts)?;
        Ok(Self { authority: uri.authority, default_port: default_port(uri.scheme.as_ref()) })
    }

    fn called<'a>(&'a self, headers: &'a HeaderMap) -> Called<'a> {
        let authority = self.authority.as_ref().map(Authority::as_str).or_else(|| written(headers));
        Called::of(authority.unwrap_or_default(), self.default_port)
    }
}

impl Calls {
    fn send(&self, mut parts: Parts, body: Body) -> Result<Sending, Error> {
        let addressed = Addressed::admit(&mut parts)?;
        normalize_uri(&mut parts.uri).map_err(|invalid| Error::new(invalid.outcome()).with_source(invalid))?;

        let no_route = || Error::new(Outcome::NoRoute);
        let snapshot = self.shared.snapshot.load();
        let called = addressed.called(&parts.headers);
        let rules = snapshot.services.rules(&called, &self.namespace, &self.domain);
        let rules = rules.map_err(|unknown| no_route().with_source(unknown))?;
        let unusable = |error: BuildError| Error::new(Outcome::InvalidBackend).with_source(error);
        let table = self.table(&snapshot, rules).map_err(unusable)?;
        let found = table.lookup_parts(&parts.method, &parts.uri, &parts.headers).ok_or_else(no_route)?;
        found.target().call(parts, body, found)
    }

    fn table<'s>(&self, snapshot: &'s Snapshot, rules: Rules<'s>) -> Result<&'s Arc<Table>, BuildError> {
        match rules {
            Rules::Of(table) => Ok(table),
            Rules::Alone(alone) => {
                let make = |service: &_, port: &_| self.shared.compiler.alone(snapshot, service, port);
                alone.table(&snapshot.config, make)
            }
        }
    }

    /// The table to be looked at: what was not called yet stays so.
    fn table_idle(&self, snapshot: &Snapshot, rules: Rules<'_>) -> Result<Arc<Table>, BuildError> {
        let alone = match rules {
            Rules::Of(table) => return Ok(table.clone()),
            Rules::Alone(alone) => alone,
        };
        if let Some(table) = alone.made() {
            return Ok(table.clone());
        }
        let (service, port) = alone.of(&snapshot.config)?;
        self.shared.compiler.alone_idle(snapshot, service, port)
    }

    fn explain(&self, mut parts: Parts) -> Result<Explanation, InvalidPath> {
        let asked = format!("{} {}", parts.method, parts.uri);
        let dialect = Dialect::of(&parts.headers);
        let refused = |outcome, why: &dyn fmt::Display| Ok(Explanation::refused(&asked, outcome, dialect, why));
        let addressed = match Addressed::admit(&mut parts) {
            Ok(addressed) => addressed,
            Err(refusal) => return refused(Error::from(refusal).outcome(), &refusal),
        };
        normalize_uri(&mut parts.uri)?;
        let request = Request::from_parts(parts, ());
        let called = addressed.called(request.headers());
        let snapshot = self.shared.snapshot.load();
        let rules = match snapshot.services.rules(&called, &self.namespace, &self.domain) {
            Ok(rules) => rules,
            Err(unknown) => return refused(Outcome::NoRoute, &unknown),
        };
        match self.table_idle(&snapshot, rules) {
            Ok(table) => {
                let text = format!("call of {called} from namespace `{}`\n", self.namespace);
                Ok(Explanation::by(&snapshot, &table, &request, text, None))
            }
            Err(error) => refused(Outcome::InvalidBackend, &error),
        }
    }
}

fn written(headers: &HeaderMap) -> Option<&str> {
    headers.get(HOST)?.to_str().ok()
}

fn default_port(scheme: Option<&Scheme>) -> u16 {
    if scheme == Some(&Scheme::HTTPS) { 443 } else { 80 }
}

/// The deadline of a call, made known to all who see it.
fn settle_deadline(parts: &mut Parts, dialect: Dialect, now: Instant) -> Option<Deadline> {
    let is_grpc = dialect != Dialect::Http;
    let given = Deadline::in_force(&parts.extensions);
    let told = if is_grpc { grpc_timeout(&parts.headers) } else { None };
    let deadline = Deadline::earlier(given, told.map(|told| Deadline::after(now, told)))?;
    if is_grpc && given == Some(deadline) {
        parts.headers.insert(GRPC_TIMEOUT, format_grpc_timeout(deadline.left(now)));
    }
    parts.extensions.insert(deadline);
    Some(deadline)
}

impl Service<Request<Body>> for Calls {
    type Response = Response<Body>;
    type Error = Error;
    type Future = timeout::ResponseFuture<Sending>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let now = Instant::now();
        let dialect = Dialect::of(request.headers());
        let (mut parts, body) = request.into_parts();
        let deadline = settle_deadline(&mut parts, dialect, now);
        if deadline.is_some_and(|deadline| deadline.has_passed(now)) {
            return timeout::ResponseFuture::refused(Outcome::DeadlineExceeded, dialect);
        }
        let send = || self.send(parts, body).unwrap_or_else(Sending::refused);
        timeout::ResponseFuture::keeping(deadline, dialect, send)
    }
}

impl<B> Service<Request<B>> for MeshClient
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = MeshFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> MeshFuture {
        let mut request = request.map(Body::new);
        // Of a request that came in and is given on.
        let extensions = request.extensions_mut();
        extensions.remove::<ConnectionInfo>();
        extensions.remove::<ClientAddr>();
        extensions.remove::<Exchange>();
        extensions.remove::<AttemptTimeout>();
        extensions.remove::<Tried>();
        extensions.remove::<Affinity>();
        MeshFuture(self.stack.call(request))
    }
}

impl Future for MeshFuture {
    type Output = Result<Response<Body>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.project().0.poll(cx)
    }
}

impl fmt::Debug for MeshFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MeshFuture").finish_non_exhaustive()
    }
}

impl fmt::Debug for MeshClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MeshClient").field("namespace", &self.calls.namespace).finish_non_exhaustive()
    }
}
