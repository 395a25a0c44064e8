use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::Response;
use http_body::Body as HttpBody;
use pin_project::pin_project;

use super::policy::{Grant, Policy};
use crate::{Body, BoxError};

/// The future of [`Cors`](super::Cors).
#[pin_project]
pub struct ResponseFuture<F> {
    #[pin]
    state: State<F>,
}

#[pin_project(project = Project)]
enum State<F> {
    Called {
        #[pin]
        future: F,
        policy: Arc<Policy>,
        grant: Grant,
    },
    Preflight(Response<Body>),
}

impl<F> ResponseFuture<F> {
    pub(super) fn called(future: F, policy: Arc<Policy>, grant: Grant) -> Self {
        Self { state: State::Called { future, policy, grant } }
    }

    pub(super) fn preflight(response: Response<Body>) -> Self {
        Self { state: State::Preflight(response) }
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
            Project::Called { future, policy, grant } => {
                let answer = ready!(future.poll(cx));
                Poll::Ready(answer.map(|response| {
                    let mut response = response.map(Body::new);
                    policy.share(grant, response.headers_mut());
                    response
                }))
            }
            Project::Preflight(response) => Poll::Ready(Ok(std::mem::take(response))),
        }
    }
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::Called { .. } => "Called",
            State::Preflight(_) => "Preflight",
        };
        f.debug_struct("ResponseFuture").field("state", &state).finish_non_exhaustive()
    }
}
