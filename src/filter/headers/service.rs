use std::{
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response};
use tower_service::Service;

use super::{ResponseFuture, policy::Changes};
use crate::forwarded::nominated;

/// The service of a [`HeadersLayer`](super::HeadersLayer): as ready as the inner one.
#[derive(Debug, Clone)]
pub struct Headers<S> {
    pub(super) inner: S,
    pub(super) request: Option<Arc<Changes>>,
    pub(super) response: Option<Arc<Changes>>,
}

impl<S, ReqB, ResB> Service<Request<ReqB>> for Headers<S>
where
    S: Service<Request<ReqB>, Response = Response<ResB>>,
{
    type Response = Response<ResB>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<ReqB>) -> Self::Future {
        if let Some(changes) = &self.request {
            let headers = request.headers_mut();
            // Else a client could have a field removed again, by naming it in `Connection`.
            nominated::settle(headers);
            changes.apply_to_request(headers);
        }
        ResponseFuture::new(self.inner.call(request), self.response.clone())
    }
}
