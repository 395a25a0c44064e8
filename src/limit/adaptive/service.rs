use std::{
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body as HttpBody;
use tokio::time::Instant;
use tower_service::Service;

use super::{ResponseFuture, policy::Governed};
use crate::{
    Body, BoxError, Outcome,
    limit::measured::{Held, Measured, Sample},
    respond::Dialect,
};

/// The service of an [`AdaptiveLayer`](super::AdaptiveLayer): as ready as the inner one, whose errors pass untouched.
#[derive(Debug, Clone)]
pub struct Adaptive<S> {
    pub(super) inner: S,
    pub(super) governed: Arc<Governed>,
}

impl<S, ReqB, ResB> Service<Request<ReqB>> for Adaptive<S>
where
    S: Service<Request<ReqB>, Response = Response<ResB>>,
    S::Error: 'static,
    ResB: HttpBody<Data = Bytes> + Send + 'static,
    ResB::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqB>) -> Self::Future {
        ResponseFuture(match self.governed.permits.try_acquire() {
            Some(permit) => {
                let sample = Sample::begin(&self.governed, request.extensions(), Instant::now());
                Measured::called(self.inner.call(request), permit, Held::ToHead, sample)
            }
            None => Measured::Refused(Outcome::Overloaded, Dialect::of(request.headers())),
        })
    }
}
