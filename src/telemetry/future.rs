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

use super::ending::Ending;
use crate::{Body, BoxError};

/// The future of [`Telemetry`](super::Telemetry).
#[pin_project]
pub struct ResponseFuture<F> {
    #[pin]
    inner: F,
    ending: Option<Box<Ending>>,
}

impl<F> ResponseFuture<F> {
    pub(super) fn new(inner: F, ending: Option<Box<Ending>>) -> Self {
        Self { inner, ending }
    }
}

impl<F, B, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
    E: 'static,
{
    type Output = Result<Response<Body>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let answer = ready!(this.inner.poll(cx)).map(|response| response.map(Body::new));
        Poll::Ready(match (answer, this.ending.take()) {
            (Ok(mut response), Some(ending)) => {
                ending.head(&mut response);
                Ok(response)
            }
            (Err(error), Some(ending)) => {
                ending.failed(&error);
                Err(error)
            }
            (answer, None) => answer,
        })
    }
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
