use std::{
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response, request::Parts};
use tower_service::Service;

use super::{
    ResponseFuture, admit,
    layer::Settings,
    request::{self, Prepared},
};
use crate::{Body, Error};

/// The service of a [`ForwardLayer`](super::ForwardLayer).
#[derive(Debug, Clone)]
pub struct Forward<S> {
    inner: S,
    settings: Arc<Settings>,
}

impl<S> Forward<S> {
    pub(super) fn new(inner: S, settings: Arc<Settings>) -> Self {
        Self { inner, settings }
    }
}

impl<S> Forward<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Error>,
{
    /// [`call`](Service::call) for a request that [`admit`] has let in already.
    pub(crate) fn call_admitted(&mut self, parts: Parts, body: Body) -> ResponseFuture<S::Future> {
        match request::prepare(parts, body, &self.settings) {
            Prepared::Forward(request, pending) => {
                ResponseFuture::forward(self.inner.call(request), Arc::clone(&self.settings), pending)
            }
            Prepared::Answer(answer) => ResponseFuture::answer(answer),
        }
    }
}

impl<S> Service<Request<Body>> for Forward<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Error>,
{
    type Response = Response<Body>;
    type Error = Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (mut parts, body) = request.into_parts();
        match admit(&mut parts) {
            Ok(()) => self.call_admitted(parts, body),
            Err(refusal) => ResponseFuture::answer(Err(refusal.into())),
        }
    }
}
