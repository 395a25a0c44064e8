use std::{
    fmt,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body as HttpBody;
use tower_service::Service;

use super::{
    ResponseFuture,
    ending::{Ending, Recorders},
};
use crate::{Body, BoxError};

/// The service of [`TelemetryLayer`](super::TelemetryLayer).
#[derive(Clone)]
pub struct Telemetry<S> {
    inner: S,
    recorders: Recorders,
}

impl<S> Telemetry<S> {
    pub(super) fn new(inner: S, recorders: Recorders) -> Self {
        Self { inner, recorders }
    }
}

impl<S, ReqB, ResB> Service<Request<ReqB>> for Telemetry<S>
where
    S: Service<Request<Body>, Response = Response<ResB>>,
    S::Error: 'static,
    ReqB: HttpBody<Data = Bytes> + Send + 'static,
    ReqB::Error: Into<BoxError>,
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
        let mut request = request.map(Body::new);
        let ending = Ending::begin(&self.recorders, &mut request);
        ResponseFuture::new(self.inner.call(request), ending)
    }
}

impl<S: fmt::Debug> fmt::Debug for Telemetry<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Telemetry").field("inner", &self.inner).field("recorders", &self.recorders.len()).finish()
    }
}
