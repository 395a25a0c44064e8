use std::{
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body as HttpBody;
use tokio::time::Instant;
use tower_layer::Layer;
use tower_service::Service;

use super::{Deadline, Patience, ResponseFuture};
use crate::{Body, BoxError, respond::Dialect};

/// Limits the time from a call to its response's head, all attempts inside included; see the [module](super).
///
/// # Example
/// ```
/// # tokio_test::block_on(async {
/// use http::{Request, Response, StatusCode};
/// use portcullis::{Body, Outcome, timeout::TimeoutLayer};
/// use std::{convert::Infallible, future::pending, time::Duration};
/// use tower::{ServiceBuilder, ServiceExt};
///
/// let service = ServiceBuilder::new()
///     .layer(TimeoutLayer::new(Duration::from_millis(1)))
///     .service_fn(|_: Request<Body>| pending::<Result<Response<Body>, Infallible>>());
/// let response = service.oneshot(Request::new(Body::empty())).await.unwrap();
/// assert_eq!(response.status(), StatusCode::GATEWAY_TIMEOUT);
/// assert_eq!(response.extensions().get(), Some(&Outcome::UpstreamTimeout));
/// # });
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct TimeoutLayer {
    limit: Duration,
}

/// The service of a [`TimeoutLayer`]: as ready as the inner one, whose errors pass untouched.
#[derive(Debug, Clone)]
pub struct Timeout<S> {
    inner: S,
    limit: Duration,
}

impl TimeoutLayer {
    /// `limit` for each request. Envoy allows a route 15 s; Gateway API leaves requests unlimited.
    pub fn new(limit: Duration) -> Self {
        Self { limit }
    }
}

impl<S> Layer<S> for TimeoutLayer {
    type Service = Timeout<S>;

    fn layer(&self, inner: S) -> Timeout<S> {
        Timeout { inner, limit: self.limit }
    }
}

impl<S, ReqB, ResB> Service<Request<ReqB>> for Timeout<S>
where
    S: Service<Request<ReqB>, Response = Response<ResB>>,
    ReqB: 'static,
    ResB: HttpBody<Data = Bytes> + Send + 'static,
    ResB::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<ReqB>) -> Self::Future {
        let dialect = Dialect::of(request.headers());
        let now = Instant::now();
        let until = Deadline::after(now, self.limit).instant();
        Patience::note(&mut request, now, until);
        ResponseFuture::new(self.inner.call(request), dialect, Some(until))
    }
}
