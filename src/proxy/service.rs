use std::{
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response};
use tower_service::Service;

use super::{
    ResponseFuture,
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
        match request::prepare(request, &self.settings) {
            Prepared::Forward(request, pending) => {
                ResponseFuture::forward(self.inner.call(request), Arc::clone(&self.settings), pending)
            }
            Prepared::Answer(answer) => ResponseFuture::answer(answer),
        }
    }
}
