//! The table as a service.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response};
use pin_project::pin_project;
use tower::util::Oneshot;
use tower_service::Service;

use super::{
    Explanation, RouteTable, RouterBuilder,
    path::{self, InvalidPath},
};
use crate::{
    Outcome,
    exchange::Exchange,
    respond::{Dialect, refusal},
};

/// Sends each request to the service of its rule.
///
/// `S` is any Tower service that can be cloned; services of several types fit in one router as
/// [`Target`](super::Target)s. What the request's and the response's body are is up to them.
///
/// 1. The request's path is brought into its [normal form](super::path), which is also what the service sees. A path that
///    has none is answered 400.
/// 2. The [`RouteTable`] finds the rule. A request of no rule goes to the fallback, and without one is answered 404.
/// 3. The service is called with a [`RouteMatch`](super::RouteMatch) in the request's extensions, and the route's name is
///    written to the [`Exchange`], if there is one.
///
/// Answers of its own have an empty body and an [`Outcome`] in their extensions; gRPC requests are answered with a
/// `grpc-status`. It is always ready: a service that is not makes the one request wait, not the router.
///
/// # In an axum app, either way round
/// An `axum::Router` is a service like any other here. And a router whose services do not fail is one for axum:
/// ```
/// use axum::{Router as App, routing::get};
/// use portcullis::{config::Match, route::{Router, Target}};
/// use tower::ServiceExt;
///
/// # tokio_test::block_on(async {
/// let cart = App::new().route("/cart/{id}", get(|| async { "a cart" }));
/// let health = tower::service_fn(async |_| Ok(http::Response::new(axum::body::Body::from("fine"))));
///
/// let router = Router::builder()
///     .route("cart", ["shop.example.com"], Match::prefix("/cart"), Target::new(cart))
///     .route("health", ["*"], [Match::exact("/healthz"), Match::exact("/readyz")], Target::new(health))
///     .build()?;
/// let app = App::new().fallback_service(router);
///
/// let request = http::Request::get("http://shop.example.com/x/../cart/7").body(axum::body::Body::empty())?;
/// assert_eq!(app.oneshot(request).await?.status(), 200);
/// # Ok::<_, Box<dyn std::error::Error>>(()) }).unwrap();
/// ```
pub struct Router<S> {
    shared: Arc<Shared<S>>,
}

struct Shared<S> {
    table: RouteTable<S>,
    fallback: Option<S>,
}

// === impl Router ===

impl<S> Router<S> {
    /// Begins a router of routes written in code.
    pub fn builder() -> RouterBuilder<S> {
        RouterBuilder::new()
    }

    /// A router over a table that is compiled already.
    #[must_use]
    pub fn new(table: RouteTable<S>) -> Self {
        Self { shared: Arc::new(Shared { table, fallback: None }) }
    }

    /// The same with a service for requests of no rule.
    #[must_use]
    pub fn with_fallback(table: RouteTable<S>, fallback: S) -> Self {
        Self { shared: Arc::new(Shared { table, fallback: Some(fallback) }) }
    }

    /// The table behind it.
    #[must_use]
    pub fn table(&self) -> &RouteTable<S> {
        &self.shared.table
    }

    /// Where a request would go and why, its path brought into its normal form as when it is routed.
    ///
    /// # Errors
    /// When the path has no normal form: the request would be answered 400.
    pub fn explain<B>(&self, request: &Request<B>) -> Result<Explanation<'_, S>, InvalidPath> {
        let mut normal = Request::new(());
        *normal.method_mut() = request.method().clone();
        *normal.uri_mut() = request.uri().clone();
        *normal.headers_mut() = request.headers().clone();
        path::normalize_uri(normal.uri_mut())?;
        Ok(self.shared.table.explain(&normal))
    }
}

impl<S, B, ResBody> Service<Request<B>> for Router<S>
where
    S: Service<Request<B>, Response = Response<ResBody>> + Clone,
    ResBody: Default,
{
    type Response = Response<ResBody>;
    type Error = S::Error;
    type Future = RouteFuture<S, B>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<B>) -> RouteFuture<S, B> {
        if let Err(error) = path::normalize_uri(request.uri_mut()) {
            if let Some(exchange) = Exchange::of(request.extensions()) {
                exchange.update(|record| record.detail = Some(error.to_string()));
            }
            return RouteFuture::answer(error.outcome(), &request);
        }
        let Some(found) = self.shared.table.lookup(&request) else {
            return match &self.shared.fallback {
                Some(fallback) => RouteFuture::call(fallback.clone(), request),
                None => RouteFuture::answer(Outcome::NoRoute, &request),
            };
        };
        if let Some(exchange) = Exchange::of(request.extensions()) {
            exchange.update(|record| record.route = Some(Arc::clone(found.route())));
        }
        request.extensions_mut().insert(found.route_match());
        RouteFuture::call(found.target().clone(), request)
    }
}

impl<S> Clone for Router<S> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<S> fmt::Debug for Router<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Router")
            .field("table", &self.shared.table)
            .field("fallback", &self.shared.fallback.is_some())
            .finish()
    }
}

/// The future of a [`Router`].
#[pin_project]
pub struct RouteFuture<S: Service<Request<B>>, B>(#[pin] State<S, B>);

#[pin_project(project = StateProjection)]
#[expect(clippy::large_enum_variant, reason = "nearly every request takes the large one")]
enum State<S: Service<Request<B>>, B> {
    Called(#[pin] Oneshot<S, Request<B>>),
    Answered(Option<Answer>),
}

/// An answer of the router itself.
#[derive(Debug, Clone, Copy)]
struct Answer {
    outcome: Outcome,
    dialect: Dialect,
}

impl<S: Service<Request<B>>, B> RouteFuture<S, B> {
    fn call(service: S, request: Request<B>) -> Self {
        Self(State::Called(Oneshot::new(service, request)))
    }

    fn answer(outcome: Outcome, request: &Request<B>) -> Self {
        Self(State::Answered(Some(Answer { outcome, dialect: Dialect::of(request.headers()) })))
    }
}

impl<S, B, ResBody> Future for RouteFuture<S, B>
where
    S: Service<Request<B>, Response = Response<ResBody>>,
    ResBody: Default,
{
    type Output = Result<Response<ResBody>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().0.project() {
            StateProjection::Called(called) => called.poll(cx),
            StateProjection::Answered(answer) => match answer.take() {
                Some(answer) => Poll::Ready(Ok(answer.into_response())),
                // Polled after its end, which no caller may do.
                None => Poll::Pending,
            },
        }
    }
}

impl<S: Service<Request<B>>, B> fmt::Debug for RouteFuture<S, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            State::Called(_) => "RouteFuture::Called",
            State::Answered(_) => "RouteFuture::Answered",
        })
    }
}

impl Answer {
    /// Without the text that a refusal has, as nothing is known of the body but that it can be empty.
    fn into_response<B: Default>(self) -> Response<B> {
        refusal(self.outcome, self.dialect).map(|_| B::default())
    }
}
