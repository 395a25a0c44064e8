use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body as HttpBody;
use tower_service::Service;

use super::{
    ResponseFuture, headers,
    layer::Settings,
    policy::{Fault, Wish},
};
use crate::{Body, BoxError, Error, respond::Dialect};

/// The service of a [`FaultLayer`](super::FaultLayer): as ready as the inner one.
#[derive(Clone)]
pub struct FaultInjector<S> {
    pub(super) inner: S,
    pub(super) settings: Arc<Settings>,
}

impl<S, ReqB, ResB> Service<Request<ReqB>> for FaultInjector<S>
where
    S: Service<Request<ReqB>, Response = Response<ResB>> + Clone,
    S::Error: Into<Error>,
    ResB: HttpBody<Data = Bytes> + Send + 'static,
    ResB::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = Error;
    type Future = ResponseFuture<S, ReqB, S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<ReqB>) -> Self::Future {
        let (request, fault) = self.settings.decide(request);
        let active = if fault == Fault::default() { None } else { self.settings.active.try_acquire() };
        let Some(active) = active else { return ResponseFuture::called(self.inner.call(request)) };
        let dialect = Dialect::of(request.headers());
        let held = match (fault.delay, fault.abort) {
            (None, Some(abort)) => return ResponseFuture::aborted(abort, dialect),
            // What will be failed need not be kept meanwhile.
            (Some(_), Some(abort)) => Err(abort),
            (_, None) => {
                // The one that was polled ready waits with the request; a clone of it need not be ready.
                let clone = self.inner.clone();
                Ok((std::mem::replace(&mut self.inner, clone), request))
            }
        };
        ResponseFuture::delayed(held, fault.delay.unwrap_or_default(), dialect, active)
    }
}

impl Settings {
    fn decide<B>(&self, request: Request<B>) -> (Request<B>, Fault) {
        let (mut parts, body) = request.into_parts();
        let meant = self.condition.as_ref().is_none_or(|condition| condition(&parts));
        // Removed in any case: an instance further in would act on them again.
        let wish = if self.headers { headers::take(&mut parts.headers) } else { Wish::default() };
        let fault = if meant { self.policy.decide(&wish) } else { Fault::default() };
        (Request::from_parts(parts, body), fault)
    }
}

impl<S: fmt::Debug> fmt::Debug for FaultInjector<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultInjector").field("inner", &self.inner).finish_non_exhaustive()
    }
}
