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

/// The future of [`RewriteUrl`](super::RewriteUrl).
#[pin_project]
pub struct ResponseFuture<F> {
    #[pin]
    state: State<F>,
}

#[pin_project(project = Project)]
enum State<F> {
    Called(#[pin] F),
    Answer(Response<Body>),
}

impl<F> ResponseFuture<F> {
    pub(super) fn called(future: F) -> Self {
        Self { state: State::Called(future) }
    }

    pub(super) fn answer(response: Response<Body>) -> Self {
        Self { state: State::Answer(response) }
    }
}

impl<F, B, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Output = Result<Response<Body>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            Project::Called(future) => Poll::Ready(ready!(future.poll(cx)).map(|response| response.map(Body::new))),
            Project::Answer(response) => Poll::Ready(Ok(std::mem::take(response))),
        }
    }
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::Called(_) => "Called",
            State::Answer(_) => "Answer",
        };
        f.debug_struct("ResponseFuture").field("state", &state).finish_non_exhaustive()
    }
}
