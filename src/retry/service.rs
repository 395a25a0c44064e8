use std::{
    fmt,
    future::Future,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Method, Request, Response, header::UPGRADE};
use pin_project::pin_project;
use tokio::time::Instant;
use tower_service::Service;

use super::{attempts::attempts, layer::Settings};
use crate::{Body, Error};

/// The service of a [`RetryLayer`](super::RetryLayer): as ready as the inner one.
#[derive(Debug, Clone)]
pub struct Retry<S> {
    inner: S,
    settings: Arc<Settings>,
}

/// The future of [`Retry`]. Dropping it gives up the attempt that is on its way.
#[pin_project]
pub struct ResponseFuture<F>(#[pin] Kind<F>);

#[pin_project(project = Project)]
enum Kind<F> {
    /// What is never sent again.
    Once(#[pin] F),
    // boxed: a loop over attempts as a hand-written state machine would hide what it does.
    Attempts(Pin<Box<dyn Future<Output = Result<Response<Body>, Error>> + Send>>),
}

impl<S> Retry<S> {
    pub(super) fn new(inner: S, settings: Arc<Settings>) -> Self {
        Self { inner, settings }
    }
}

impl<S> Service<Request<Body>> for Retry<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Error: Into<Error>,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        self.settings.budget.count(request.extensions_mut(), Instant::now());
        // A request that asks for an upgrade carries the client's connection, which cannot be had twice.
        let upgrade = *request.method() == Method::CONNECT || request.headers().contains_key(UPGRADE);
        if upgrade || self.settings.rules.max_retries == 0 && self.settings.per_try.is_none() {
            return ResponseFuture(Kind::Once(self.inner.call(request)));
        }
        // The one that was polled ready goes; the clone that stays has yet to be.
        let clone = self.inner.clone();
        let ready = mem::replace(&mut self.inner, clone);
        ResponseFuture(Kind::Attempts(Box::pin(attempts(ready, Arc::clone(&self.settings), request))))
    }
}

impl<F, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<Body>, E>>,
    E: Into<Error>,
{
    type Output = Result<Response<Body>, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().0.project() {
            Project::Once(future) => future.poll(cx).map_err(Into::into),
            Project::Attempts(future) => future.as_mut().poll(cx),
        }
    }
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
