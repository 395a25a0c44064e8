use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body as HttpBody;
use tower_service::Service;

use super::{Dialect, ResponseFuture};
use crate::{Body, BoxError, Error, exchange::Exchange};

/// The service of [`RespondLayer`](super::RespondLayer).
///
/// It never fails. An inner service that fails in `poll_ready` is taken for ready, and the request that comes is answered
/// with the error.
#[derive(Debug)]
pub struct Respond<S> {
    inner: S,
    member: Arc<str>,
    /// From `poll_ready`, for the next call. A clone is not owed it.
    unready: Option<Error>,
}

impl<S> Respond<S> {
    pub(super) fn new(inner: S, member: Arc<str>) -> Self {
        Self { inner, member, unready: None }
    }
}

impl<S: Clone> Clone for Respond<S> {
    fn clone(&self) -> Self {
        Self::new(self.inner.clone(), Arc::clone(&self.member))
    }
}

impl<S, ReqB, ResB> Service<Request<ReqB>> for Respond<S>
where
    S: Service<Request<ReqB>, Response = Response<ResB>>,
    S::Error: Into<Error>,
    ResB: HttpBody<Data = Bytes> + Send + 'static,
    ResB::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        if self.unready.is_some() {
            return Poll::Ready(Ok(()));
        }
        self.inner.poll_ready(cx).map(|ready| {
            self.unready = ready.err().map(Into::into);
            Ok(())
        })
    }

    fn call(&mut self, request: Request<ReqB>) -> Self::Future {
        let dialect = Dialect::of(request.headers());
        let version = request.version();
        let exchange = Exchange::of(request.extensions()).cloned();
        let answer = match self.unready.take() {
            Some(error) => Err(error),
            None => Ok(self.inner.call(request)),
        };
        ResponseFuture::new(answer, dialect, version, exchange, Arc::clone(&self.member))
    }
}
