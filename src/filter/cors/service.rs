use std::{
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::Body as HttpBody;
use tower_service::Service;

use super::{
    ResponseFuture,
    policy::{Decision, Policy},
};
use crate::{Body, BoxError, filter::note};

/// The service of a [`CorsLayer`](super::CorsLayer): as ready as the inner one.
#[derive(Debug, Clone)]
pub struct Cors<S> {
    pub(super) inner: S,
    pub(super) policy: Arc<Policy>,
}

impl<S, ReqB, ResB> Service<Request<ReqB>> for Cors<S>
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

    fn call(&mut self, request: Request<ReqB>) -> Self::Future {
        match self.policy.decide(request.method(), request.headers()) {
            Decision::Share(grant) => ResponseFuture::called(self.inner.call(request), Arc::clone(&self.policy), grant),
            Decision::Preflight { fields, allowed } => {
                note(
                    request.extensions(),
                    if allowed { "CORS preflight answered" } else { "CORS preflight: the origin is not allowed" },
                );
                let mut response = Response::new(Body::empty());
                *response.status_mut() = StatusCode::NO_CONTENT;
                *response.headers_mut() = fields;
                ResponseFuture::preflight(response)
            }
        }
    }
}
