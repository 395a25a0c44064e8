use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderValue, Response};
use http_body::Body as HttpBody;
use pin_project::pin_project;

use super::{Decision, fields};
use crate::{
    Body, BoxError, Outcome,
    respond::{Dialect, refusal_for_now},
};

/// The future of [`Rate`](super::Rate).
#[pin_project]
pub struct ResponseFuture<F> {
    #[pin]
    state: State<F>,
    decision: Decision,
    policy: Option<HeaderValue>,
}

#[pin_project(project = Project)]
enum State<F> {
    Called(#[pin] F),
    Refused(Dialect),
}

impl<F> ResponseFuture<F> {
    pub(super) fn new(answer: Result<F, Dialect>, decision: Decision, policy: Option<HeaderValue>) -> Self {
        let state = match answer {
            Ok(future) => State::Called(future),
            Err(dialect) => State::Refused(dialect),
        };
        Self { state, decision, policy }
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
        let this = self.project();
        let mut response = match this.state.project() {
            Project::Called(future) => ready!(future.poll(cx))?.map(Body::new),
            Project::Refused(dialect) => {
                let wait = this.decision.retry_after().unwrap_or_default();
                refusal_for_now(Outcome::RateLimited, *dialect, wait)
            }
        };
        if let Some(policy) = this.policy {
            fields::tell(response.headers_mut(), policy, this.decision);
        }
        Poll::Ready(Ok(response))
    }
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").field("decision", &self.decision).finish_non_exhaustive()
    }
}
