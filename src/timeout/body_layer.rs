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

use super::{
    Deadline, Patience, ResponseFuture,
    body::{Limits, Upload},
};
use crate::{Body, BoxError, respond::Dialect};

/// Limits the pauses in a response's body, and the whole duration of a stream; see the [module](super).
///
/// # Example
/// ```
/// # tokio_test::block_on(async {
/// use http::{Request, Response};
/// use http_body_util::BodyExt;
/// use portcullis::{Body, timeout::BodyTimeoutLayer};
/// use std::{convert::Infallible, time::Duration};
/// use tower::{ServiceBuilder, ServiceExt};
///
/// let service = ServiceBuilder::new()
///     .layer(BodyTimeoutLayer::new().idle(Duration::from_secs(60)))
///     .service_fn(async |_: Request<Body>| Ok::<_, Infallible>(Response::new(Body::from("all there"))));
/// let response = service.oneshot(Request::new(Body::empty())).await.unwrap();
/// assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "all there");
/// # });
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct BodyTimeoutLayer {
    settings: Settings,
}

/// The service of a [`BodyTimeoutLayer`]: as ready as the inner one, whose errors pass untouched.
#[derive(Debug, Clone)]
pub struct BodyTimeout<S> {
    inner: S,
    settings: Settings,
}

#[derive(Debug, Clone, Copy)]
struct Settings {
    idle: Option<Duration>,
    max_duration: Option<Duration>,
}

impl BodyTimeoutLayer {
    /// Five minutes for a pause, as Envoy's `stream_idle_timeout`, and no limit for the whole.
    pub fn new() -> Self {
        Self { settings: Settings { idle: Some(Duration::from_secs(300)), max_duration: None } }
    }

    /// How long both directions may be silent while the response's reader waits. Zero: as long as they like.
    pub fn idle(mut self, limit: Duration) -> Self {
        self.settings.idle = Some(limit).filter(|limit| !limit.is_zero());
        self
    }

    /// How long the request may last to the end of its response's body, counted from the call (Envoy's
    /// `max_stream_duration`). A head that has not come by then is answered 504. Zero: without end.
    pub fn max_duration(mut self, limit: Duration) -> Self {
        self.settings.max_duration = Some(limit).filter(|limit| !limit.is_zero());
        self
    }
}

impl Default for BodyTimeoutLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for BodyTimeoutLayer {
    type Service = BodyTimeout<S>;

    fn layer(&self, inner: S) -> BodyTimeout<S> {
        BodyTimeout { inner, settings: self.settings }
    }
}

impl<S, ResB> Service<Request<Body>> for BodyTimeout<S>
where
    S: Service<Request<Body>, Response = Response<ResB>>,
    ResB: HttpBody<Data = Bytes> + Send + 'static,
    ResB::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let now = Instant::now();
        let dialect = Dialect::of(request.headers());
        let upload = (self.settings.idle.is_some() && !request.body().is_end_stream()).then(|| Upload::begin(now));
        if let Some(upload) = &upload {
            request.body_mut().observe(Box::new(upload.clone()));
        }
        let until = self.settings.max_duration.map(|limit| Deadline::after(now, limit).instant());
        if let Some(until) = until {
            Patience::note(&mut request, now, until);
        }
        let limits = Limits { until, idle: self.settings.idle, upload, scope: None };
        ResponseFuture::new(self.inner.call(request), dialect, until).limited(limits)
    }
}
