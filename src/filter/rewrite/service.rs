use std::{
    mem,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response, header::HOST};
use http_body::Body as HttpBody;
use tower_service::Service;

use super::{ResponseFuture, policy::Policy};
use crate::{Body, BoxError, Outcome, filter::note, respond::refusal, route::RouteMatch};

/// The service of a [`RewriteLayer`](super::RewriteLayer): as ready as the inner one.
#[derive(Debug, Clone)]
pub struct RewriteUrl<S> {
    pub(super) inner: S,
    pub(super) policy: Arc<Policy>,
}

impl<S, ReqB, ResB> Service<Request<ReqB>> for RewriteUrl<S>
where
    S: Service<Request<ReqB>, Response = Response<ResB>>,
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
        let prefix_len = request.extensions().get().map_or(0, RouteMatch::prefix_len);
        let Some((uri, prefix_len)) = self.policy.rewrite(mem::take(request.uri_mut()), prefix_len) else {
            note(request.extensions(), "the rewritten target is too long");
            return ResponseFuture::answer(refusal(Outcome::BadRequest, request.headers()));
        };
        *request.uri_mut() = uri;
        if let Some(matched) = request.extensions_mut().get_mut::<RouteMatch>() {
            matched.set_prefix_len(prefix_len);
        }
        if let Some(host) = &self.policy.host {
            request.headers_mut().insert(HOST, host.field.clone());
        }
        ResponseFuture::called(self.inner.call(request))
    }
}
