use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::Response;
use http_body::Body as HttpBody;
use pin_project::pin_project;

use crate::{Body, BoxError};

/// The future of [`Allow`](super::Allow).
#[pin_project]
pub struct AllowFuture<F>(#[pin] State<F>);

#[pin_project(project = Project)]
enum State<F> {
    Admitted(#[pin] F),
    /// Until it is taken.
    Refused(Option<Response<Body>>),
}

impl<F> AllowFuture<F> {
    pub(super) fn admitted(future: F) -> Self {
        Self(State::Admitted(future))
    }

    pub(super) fn refused(response: Response<Body>) -> Self {
        Self(State::Refused(Some(response)))
    }
}

impl<F, B, E> Future for AllowFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Output = Result<Response<Body>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().0.project() {
            Project::Admitted(future) => Poll::Ready(ready!(future.poll(cx)).map(|response| response.map(Body::new))),
            // Polled again after it was ready, which no caller may do.
            Project::Refused(response) => response.take().map_or(Poll::Pending, |response| Poll::Ready(Ok(response))),
        }
    }
}

impl<F> fmt::Debug for AllowFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let refused = matches!(self.0, State::Refused(_));
        f.debug_struct("AllowFuture").field("refused", &refused).finish_non_exhaustive()
    }
}
