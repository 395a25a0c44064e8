use std::{
    fmt,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll},
};

use http::{Request, Response, header::EXPECT};
use http_body::Body as _;
use tokio::runtime::Handle;
use tower_service::Service;

use super::{Counts, feed::tee, layer::Shared, policy::is_repeatable, send::Copy};
use crate::{Body, BoxError, filter::aside, limit::concurrency::Permit};

/// The service of a [`MirrorLayer`](super::MirrorLayer): as ready as the inner one, whose answer, error and future it has.
pub struct Mirror<S, T> {
    pub(super) inner: S,
    pub(super) shared: Arc<Shared<T>>,
}

impl<S, T> Mirror<S, T> {
    /// What became of the requests of all services of the layer so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.shared.tally.counts()
    }
}

impl<S, T> Service<Request<Body>> for Mirror<S, T>
where
    S: Service<Request<Body>>,
    T: Service<Request<Body>, Response = Response<Body>> + Clone + Send + Sync + 'static,
    T::Error: Into<BoxError>,
    T::Future: Send,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> S::Future {
        let request = match self.shared.admit(&request) {
            Some((permit, runtime)) => self.shared.mirror(request, permit, &runtime),
            None => request,
        };
        self.inner.call(request)
    }
}

impl<T> Shared<T>
where
    T: Service<Request<Body>, Response = Response<Body>> + Clone + Send + Sync + 'static,
    T::Error: Into<BoxError>,
    T::Future: Send,
{
    /// What it takes to mirror this request, if it is to be mirrored.
    fn admit(&self, request: &Request<Body>) -> Option<(Permit, Handle)> {
        if !is_repeatable(request) || !self.draw() {
            return None;
        }
        let admitted = self.permits.try_acquire().zip(Handle::try_current().ok());
        if admitted.is_none() {
            self.tally.skipped.fetch_add(1, Relaxed);
            tracing::debug!(in_flight = self.permits.in_flight(), "request not mirrored");
        }
        admitted
    }

    /// Sends a copy; returns the request, by whose reader the copy's body comes.
    fn mirror(&self, request: Request<Body>, permit: Permit, runtime: &Handle) -> Request<Body> {
        let (parts, body) = request.into_parts();
        let (body, copied, feed) = if body.is_end_stream() {
            (body, Body::empty(), None)
        } else {
            let (body, copied, feed) = tee(body, self.max_behind, &self.memory);
            (body, copied, Some(feed))
        };

        let mut copy = Request::new(copied);
        *copy.method_mut() = parts.method.clone();
        *copy.uri_mut() = parts.uri.clone();
        *copy.version_mut() = parts.version;
        *copy.headers_mut() = parts.headers.clone();
        // It gets the body when the client sends it, asked by whom ever.
        copy.headers_mut().remove(EXPECT);
        *copy.extensions_mut() = aside::extensions(&parts.extensions);

        self.tally.sent.fetch_add(1, Relaxed);
        let copy = Copy { request: copy, feed, timeout: self.timeout, tally: Arc::clone(&self.tally), permit };
        runtime.spawn(copy.send(self.target.clone()));
        Request::from_parts(parts, body)
    }
}

impl<S: Clone, T> Clone for Mirror<S, T> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), shared: Arc::clone(&self.shared) }
    }
}

impl<S: fmt::Debug, T> fmt::Debug for Mirror<S, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mirror").field("inner", &self.inner).finish_non_exhaustive()
    }
}
