use std::{
    fmt,
    future::{Future, Ready, ready},
    pin::Pin,
    task::{Context, Poll},
};

use http::Response;
use pin_project::pin_project;

use crate::Body;

/// The future of [`Redirect`](super::Redirect).
#[pin_project]
pub struct ResponseFuture<E> {
    #[pin]
    answer: Ready<Result<Response<Body>, E>>,
}

impl<E> ResponseFuture<E> {
    pub(super) fn new(response: Response<Body>) -> Self {
        Self { answer: ready(Ok(response)) }
    }
}

impl<E> Future for ResponseFuture<E> {
    type Output = Result<Response<Body>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.project().answer.poll(cx)
    }
}

impl<E> fmt::Debug for ResponseFuture<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
