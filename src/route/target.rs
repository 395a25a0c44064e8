//! Services of several types, as one type.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use pin_project::pin_project;
use tower::util::Oneshot;
use tower_service::Service;

use crate::{Body, BoxError};

/// Any service, its type given up: what lets services of several types stand in one [`Router`](super::Router).
///
/// Takes requests with a body `B`, answers with a [`Body`], fails as the service does. A call allocates once, for the
/// future; a clone shares the service. Errors of several types are brought to one with
/// [`map_err`](tower::ServiceExt::map_err).
///
/// It is always ready: a service that is not makes its request wait.
///
/// # Example
/// ```
/// use http::{Request, Response};
/// use portcullis::{Body, config::Match, route::{Router, Target}};
/// use tower::{ServiceExt, service_fn};
///
/// # tokio_test::block_on(async {
/// let own = service_fn(|_: Request<axum::body::Body>| async { Ok(Response::new(Body::from("own"))) });
/// let app = axum::Router::new().route("/app", axum::routing::get(|| async { "app" }));
/// let router = Router::builder()
///     .route("own", ["*"], Match::prefix("/own"), Target::new(own))
///     .route("app", ["*"], Match::prefix("/app"), Target::new(app))
///     .build()?;
/// assert_eq!(router.oneshot(Request::get("/app").body(axum::body::Body::empty())?).await?.status(), 200);
/// # Ok::<_, Box<dyn std::error::Error>>(()) }).unwrap();
/// ```
pub struct Target<B, E>(Arc<dyn Call<B, E>>);

/// The future of a [`Target`].
pub struct TargetFuture<E>(BoxFuture<E>);

type BoxFuture<E> = Pin<Box<dyn Future<Output = Result<Response<Body>, E>> + Send>>;

trait Call<B, E>: Send + Sync {
    fn call(&self, request: Request<B>) -> BoxFuture<E>;
}

impl<B, E> Target<B, E> {
    /// Takes a service.
    pub fn new<S, ResBody>(service: S) -> Self
    where
        S: Service<Request<B>, Response = Response<ResBody>, Error = E> + Clone + Send + Sync + 'static,
        S::Future: Send,
        B: Send + 'static,
        ResBody: http_body::Body<Data = Bytes> + Send + 'static,
        ResBody::Error: Into<BoxError>,
    {
        Self(Arc::new(Erased(service)))
    }
}

struct Erased<S>(S);

impl<S, B, E, ResBody> Call<B, E> for Erased<S>
where
    S: Service<Request<B>, Response = Response<ResBody>, Error = E> + Clone + Send + Sync + 'static,
    S::Future: Send,
    B: Send + 'static,
    ResBody: http_body::Body<Data = Bytes> + Send + 'static,
    ResBody::Error: Into<BoxError>,
{
    fn call(&self, request: Request<B>) -> BoxFuture<E> {
        Box::pin(IntoBody(Oneshot::new(self.0.clone(), request)))
    }
}

/// The call of a service, its response's body made a [`Body`].
#[pin_project]
struct IntoBody<S: Service<Request<B>>, B>(#[pin] Oneshot<S, Request<B>>);

impl<S, B, ResBody> Future for IntoBody<S, B>
where
    S: Service<Request<B>, Response = Response<ResBody>>,
    ResBody: http_body::Body<Data = Bytes> + Send + 'static,
    ResBody::Error: Into<BoxError>,
{
    type Output = Result<Response<Body>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.project().0.poll(cx).map_ok(|response| response.map(Body::new))
    }
}

impl<B, E> Service<Request<B>> for Target<B, E> {
    type Response = Response<Body>;
    type Error = E;
    type Future = TargetFuture<E>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), E>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> TargetFuture<E> {
        TargetFuture(self.0.call(request))
    }
}

impl<E> Future for TargetFuture<E> {
    type Output = Result<Response<Body>, E>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

impl<B, E> Clone for Target<B, E> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<B, E> fmt::Debug for Target<B, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Target")
    }
}

impl<E> fmt::Debug for TargetFuture<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TargetFuture")
    }
}
