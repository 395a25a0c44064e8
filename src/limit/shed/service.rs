use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body as HttpBody;
use tokio::time::Instant;
use tower_service::Service;

use super::{
    ResponseFuture,
    layer::{Learned, Settings},
};
use crate::{
    Body, BoxError,
    limit::measured::{Held, Measured, Sample},
    respond::Dialect,
};

/// The service of a [`ShedLayer`](super::ShedLayer): as ready as the inner one, whose errors pass untouched.
#[derive(Clone)]
pub struct Shed<S> {
    pub(super) inner: S,
    pub(super) settings: Arc<Settings>,
    pub(super) estimate: Arc<Learned>,
}

impl<S, ReqB, ResB> Service<Request<ReqB>> for Shed<S>
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
        let now = Instant::now();
        let (parts, body) = request.into_parts();
        ResponseFuture(match self.settings.admit(&parts, &self.estimate, now) {
            Ok(permit) => {
                let sample = Sample::begin(&self.estimate, &parts.extensions, now);
                Measured::called(self.inner.call(Request::from_parts(parts, body)), permit, Held::ToEnd, sample)
            }
            Err(outcome) => Measured::Refused(outcome, Dialect::of(&parts.headers)),
        })
    }
}

impl<S: fmt::Debug> fmt::Debug for Shed<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shed").field("inner", &self.inner).field("estimate", &self.estimate).finish_non_exhaustive()
    }
}
