use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body as HttpBody;
use tokio::time::Duration;
use tower_service::Service;

use super::{Permits, ResponseFuture, permits::Entry};
use crate::{Body, BoxError, respond::Dialect};

/// The service of a [`ConcurrencyLayer`](super::ConcurrencyLayer): as ready as the inner one, whose errors pass
/// untouched.
#[derive(Debug, Clone)]
pub struct Concurrency<S> {
    inner: S,
    permits: Permits,
    max_wait: Duration,
}

impl<S> Concurrency<S> {
    pub(super) fn new(inner: S, permits: Permits, max_wait: Duration) -> Self {
        Self { inner, permits, max_wait }
    }
}

impl<S, ReqB, ResB> Service<Request<ReqB>> for Concurrency<S>
where
    S: Service<Request<ReqB>, Response = Response<ResB>> + Clone,
    ResB: HttpBody<Data = Bytes> + Send + 'static,
    ResB::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = ResponseFuture<S, ReqB, S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqB>) -> Self::Future {
        match self.permits.enter() {
            Entry::Granted(permit) => ResponseFuture::called(self.inner.call(request), permit),
            Entry::Queued(ticket) if !self.max_wait.is_zero() => {
                // The one that was polled ready waits with the request; a clone of it need not be ready.
                let clone = self.inner.clone();
                let ready = std::mem::replace(&mut self.inner, clone);
                ResponseFuture::queued(ready, request, ticket, self.max_wait)
            }
            Entry::Queued(_) | Entry::Refused => ResponseFuture::refused(Dialect::of(request.headers())),
        }
    }
}
