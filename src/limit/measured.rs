//! A call that holds a permit and whose latency is learned from.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Extensions, Response};
use http_body::Body as HttpBody;
use pin_project::pin_project;
use tokio::time::Instant;

use super::concurrency::Permit;
use crate::{
    Body, BoxError, Outcome,
    classify::Class,
    respond::{Dialect, refusal},
    timeout::Patience,
};

/// How a call ended, as far as its latency is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The response's head came.
    Success,
    /// It says that the service fails, or a limit of ours ended before it came.
    Failure,
    /// Nobody waited for it.
    Cancelled,
}

impl Verdict {
    /// Of an answer; `None` where it says nothing of the service, not even by how long it took.
    fn of(class: Class) -> Option<Self> {
        match class {
            Class::Success => Some(Self::Success),
            Class::Throttled | Class::ServerError | Class::GatewayError => Some(Self::Failure),
            Class::Ignored => None,
        }
    }
}

/// Learns from calls.
pub(super) trait Learn {
    fn learn(&self, began: Instant, now: Instant, verdict: Verdict);
}

/// How long a call holds its permit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Held {
    /// To the response's head.
    ToHead,
    /// To the end of the response's body.
    ToEnd,
}

/// One call that is learned from once, also when it is dropped.
pub(super) struct Sample<L: Learn> {
    learner: Arc<L>,
    began: Instant,
    patience: Option<Patience>,
    /// Once there is an answer.
    answer: Option<Class>,
}

impl<L: Learn> Sample<L> {
    /// Of a request with these extensions that is called now.
    pub(super) fn begin(learner: &Arc<L>, extensions: &Extensions, now: Instant) -> Self {
        Self { learner: Arc::clone(learner), began: now, patience: Patience::of(extensions), answer: None }
    }
}

impl<L: Learn> Drop for Sample<L> {
    fn drop(&mut self) {
        let now = Instant::now();
        let late = || self.patience.as_ref().is_some_and(|patience| patience.ended_with(self.began, now));
        let verdict = match self.answer {
            Some(class) => Verdict::of(class),
            None => Some(if late() { Verdict::Failure } else { Verdict::Cancelled }),
        };
        if let Some(verdict) = verdict {
            self.learner.learn(self.began, now, verdict);
        }
    }
}

/// A call, or its refusal.
#[pin_project(project = Project)]
pub(super) enum Measured<F, L: Learn> {
    Called {
        #[pin]
        future: F,
        // In a drop the sample goes first, so that the request that takes the permit meets what was learned.
        held: Option<(Sample<L>, Permit)>,
        how_long: Held,
    },
    Refused(Outcome, Dialect),
}

impl<F, L: Learn> Measured<F, L> {
    pub(super) fn called(future: F, permit: Permit, how_long: Held, sample: Sample<L>) -> Self {
        Self::Called { future, held: Some((sample, permit)), how_long }
    }
}

impl<F, L, B, E> Future for Measured<F, L>
where
    F: Future<Output = Result<Response<B>, E>>,
    L: Learn,
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
    E: 'static,
{
    type Output = Result<Response<Body>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(match self.project() {
            Project::Called { future, held, how_long } => {
                let answer = ready!(future.poll(cx));
                let Some((mut sample, permit)) = held.take() else {
                    return Poll::Ready(answer.map(|response| response.map(Body::new)));
                };
                sample.answer = Some(answer.as_ref().map_or_else(Class::of_error, Class::of_response));
                drop(sample);
                let response = answer?.map(Body::new);
                match how_long {
                    Held::ToHead => {
                        drop(permit);
                        Ok(response)
                    }
                    Held::ToEnd => Ok(permit.hold(response)),
                }
            }
            Project::Refused(outcome, dialect) => Ok(refusal(*outcome, *dialect)),
        })
    }
}
