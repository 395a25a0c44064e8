use std::{
    fmt,
    future::Future,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body as HttpBody;
use tower_service::Service;

use super::{
    check::{Checked, check},
    layer::Settings,
};
use crate::{Body, BoxError};

/// The service of an [`AuthLayer`](super::AuthLayer): as ready as the inner one, whose error it has.
pub struct Auth<S, T> {
    pub(super) inner: S,
    pub(super) target: T,
    pub(super) settings: Arc<Settings>,
}

/// The future of [`Auth`]. Dropping it drops the question, or the work that was allowed.
// boxed: question, answer and request follow each other, which reads better as an async block.
pub struct ResponseFuture<E>(Pin<Box<dyn Future<Output = Result<Response<Body>, E>> + Send>>);

impl<S, T, B> Service<Request<Body>> for Auth<S, T>
where
    S: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    T: Service<Request<Body>, Response = Response<Body>> + Clone + Send + Sync + 'static,
    T::Error: Into<BoxError>,
    T::Future: Send,
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        // The one that was polled ready waits for the answer; a clone of it need not be ready.
        let clone = self.inner.clone();
        let mut inner = mem::replace(&mut self.inner, clone);
        let (target, settings) = (self.target.clone(), Arc::clone(&self.settings));
        ResponseFuture(Box::pin(async move {
            match check(target, &settings, request).await {
                Checked::Allowed(request, changes) => {
                    let response = inner.call(request).await?;
                    Ok(changes.answer(response.map(Body::new)))
                }
                Checked::Refused(answer) => Ok(answer),
            }
        }))
    }
}

impl<E> Future for ResponseFuture<E> {
    type Output = Result<Response<Body>, E>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

impl<S: Clone, T: Clone> Clone for Auth<S, T> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), target: self.target.clone(), settings: Arc::clone(&self.settings) }
    }
}

impl<S: fmt::Debug, T> fmt::Debug for Auth<S, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Auth").field("inner", &self.inner).field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl<E> fmt::Debug for ResponseFuture<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
