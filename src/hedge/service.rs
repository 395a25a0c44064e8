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

use super::{layer::Shared, race::race};
use crate::{Body, retry::conditions::is_repeatable};

/// The service of a [`HedgeLayer`](super::HedgeLayer): as ready as the inner one, whose errors pass untouched. Clones share
/// the latencies.
#[derive(Debug, Clone)]
pub struct Hedge<S> {
    inner: S,
    shared: Arc<Shared>,
}

/// The future of [`Hedge`]. Dropping it gives up all attempts.
#[pin_project]
pub struct ResponseFuture<F: Future>(#[pin] Kind<F>);

#[pin_project(project = Project)]
enum Kind<F: Future> {
    /// What is never sent twice.
    Once(#[pin] F),
    // boxed: two futures, of which the second may never be, read better as an `async` block.
    Race(Pin<Box<dyn Future<Output = F::Output> + Send>>),
}

impl<S> Hedge<S> {
    pub(super) fn new(inner: S, shared: Arc<Shared>) -> Self {
        Self { inner, shared }
    }
}

impl<S> Service<Request<Body>> for Hedge<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Error: Send,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let settings = &self.shared.settings;
        settings.budget.count(request.extensions_mut(), Instant::now());
        let upgrade = *request.method() == Method::CONNECT || request.headers().contains_key(UPGRADE);
        let (parts, body) = request.into_parts();
        let known = |test: &Arc<dyn Fn(&_) -> bool + Send + Sync>| test(&parts);
        let repeatable =
            is_repeatable(&parts.method, &parts.headers) || settings.repeatable.as_ref().is_some_and(known);
        let request = Request::from_parts(parts, body);
        if upgrade || !repeatable {
            return ResponseFuture(Kind::Once(self.inner.call(request)));
        }
        // The one that was polled ready goes; the clone that stays has yet to be.
        let clone = self.inner.clone();
        let ready = mem::replace(&mut self.inner, clone);
        ResponseFuture(Kind::Race(Box::pin(race(ready, Arc::clone(&self.shared), request))))
    }
}

impl<F: Future> Future for ResponseFuture<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        match self.project().0.project() {
            Project::Once(future) => future.poll(cx),
            Project::Race(future) => future.as_mut().poll(cx),
        }
    }
}

impl<F: Future> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
