use std::{
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use http_body::Body as HttpBody;
use tokio::time::Instant;
use tower_service::Service;

use super::{KeyOf, Limiter, ResponseFuture};
use crate::{Body, BoxError, respond::Dialect};

/// The service of a [`RateLayer`](super::RateLayer): as ready as the inner one, whose errors pass untouched.
#[derive(Debug)]
pub struct Rate<S, K> {
    pub(super) inner: S,
    pub(super) key: Arc<K>,
    pub(super) limiter: Arc<Limiter>,
    pub(super) policy: Option<HeaderValue>,
}

impl<S, K, ReqB, ResB> Service<Request<ReqB>> for Rate<S, K>
where
    S: Service<Request<ReqB>, Response = Response<ResB>>,
    K: KeyOf,
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
        let (parts, body) = request.into_parts();
        let decision = self.limiter.check(self.key.key(&parts), Instant::now());
        let answer = if decision.is_allowed() {
            Ok(self.inner.call(Request::from_parts(parts, body)))
        } else {
            Err(Dialect::of(&parts.headers))
        };
        ResponseFuture::new(answer, decision, self.policy.clone())
    }
}

impl<S: Clone, K> Clone for Rate<S, K> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            key: Arc::clone(&self.key),
            limiter: Arc::clone(&self.limiter),
            policy: self.policy.clone(),
        }
    }
}
