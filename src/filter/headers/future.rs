use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::Response;
use pin_project::pin_project;

use super::policy::Changes;

/// The future of [`Headers`](super::Headers).
#[pin_project]
pub struct ResponseFuture<F> {
    #[pin]
    inner: F,
    changes: Option<Arc<Changes>>,
}

impl<F> ResponseFuture<F> {
    pub(super) fn new(inner: F, changes: Option<Arc<Changes>>) -> Self {
        Self { inner, changes }
    }
}

impl<F, B, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<B>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut answer = ready!(this.inner.poll(cx));
        if let (Ok(response), Some(changes)) = (&mut answer, this.changes) {
            changes.apply(response.headers_mut());
        }
        Poll::Ready(answer)
    }
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
