use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body::Body as HttpBody;
use pin_project::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};

use super::{
    Deadline,
    body::{Limits, limit},
};
use crate::{
    Body, BoxError, Outcome,
    respond::{Dialect, refusal},
};

/// The future of this module's services. Dropping it drops the work.
#[pin_project]
pub struct ResponseFuture<F> {
    #[pin]
    state: State<F>,
    dialect: Dialect,
}

#[pin_project(project = Project)]
enum State<F> {
    Called {
        #[pin]
        future: F,
        /// Until the head.
        until: Option<Instant>,
        /// Registered when the head first has to be waited for.
        #[pin]
        timer: Option<Sleep>,
        limits: Limits,
    },
    Refused(Outcome),
}

impl<F> ResponseFuture<F> {
    pub(super) fn new(future: F, dialect: Dialect, until: Option<Instant>) -> Self {
        let state = State::Called { future, until, timer: None, limits: Limits::default() };
        Self { state, dialect }
    }

    pub(crate) fn refused(outcome: Outcome, dialect: Dialect) -> Self {
        Self { state: State::Refused(outcome), dialect }
    }

    /// What `call` does, and its response with the body, in the time of a deadline that somebody else has settled.
    pub(crate) fn keeping(deadline: Option<Deadline>, dialect: Dialect, call: impl FnOnce() -> F) -> Self {
        let Some(deadline) = deadline else { return Self::new(call(), dialect, None) };
        let until = deadline.instant();
        let limits = Limits { until: Some(until), scope: Some(deadline), ..Limits::default() };
        Self::new(deadline.during(call), dialect, Some(until)).limited(limits)
    }

    /// The same with limits of the body, and the deadline of the task while it is made.
    pub(super) fn limited(mut self, by: Limits) -> Self {
        if let State::Called { limits, .. } = &mut self.state {
            *limits = by;
        }
        self
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
        let mut this = self.project();
        let outcome = match this.state.as_mut().project() {
            Project::Refused(outcome) => *outcome,
            Project::Called { future, until, mut timer, limits } => {
                let polled = match limits.scope {
                    Some(deadline) => deadline.during(|| future.poll(cx)),
                    None => future.poll(cx),
                };
                if let Poll::Ready(result) = polled {
                    return Poll::Ready(result.map(|response| answered(response, limits)));
                }
                let Some(until) = *until else { return Poll::Pending };
                if timer.is_none() {
                    timer.set(Some(sleep_until(until)));
                }
                if timer.as_pin_mut().is_none_or(|timer| timer.poll(cx).is_pending()) {
                    return Poll::Pending;
                }
                Outcome::UpstreamTimeout
            }
        };
        // The work ends before its refusal goes out, not when this future is dropped.
        this.state.set(State::Refused(outcome));
        Poll::Ready(Ok(refusal(outcome, *this.dialect)))
    }
}

fn answered<B>(response: Response<B>, limits: &mut Limits) -> Response<Body>
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let limits = std::mem::take(limits);
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return response.map(Body::new);
    }
    response.map(|body| limit(Body::new(body), limits))
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").field("dialect", &self.dialect).finish_non_exhaustive()
    }
}
