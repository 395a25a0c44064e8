use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::Response;
use pin_project::pin_project;

use super::{layer::Settings, request::Pending, response};
use crate::{Body, Error};

/// The future of [`Forward`](super::Forward). To drop it drops the upstream's work.
#[pin_project]
pub struct ResponseFuture<F> {
    #[pin]
    state: State<F>,
}

#[pin_project(project = StateProj)]
enum State<F> {
    Answer(Option<Result<Response<Body>, Error>>),
    Forward {
        #[pin]
        inner: F,
        settings: Arc<Settings>,
        pending: Option<Pending>,
    },
}

impl<F> ResponseFuture<F> {
    pub(super) fn forward(inner: F, settings: Arc<Settings>, pending: Pending) -> Self {
        Self { state: State::Forward { inner, settings, pending: Some(pending) } }
    }

    pub(super) fn answer(answer: Result<Response<Body>, Error>) -> Self {
        Self { state: State::Answer(Some(answer)) }
    }
}

impl<F> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<Body>, Error>>,
{
    type Output = Result<Response<Body>, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            // Pending after the end, as a future that was answered has nothing more to say.
            StateProj::Answer(answer) => answer.take().map_or(Poll::Pending, Poll::Ready),
            StateProj::Forward { inner, settings, pending } => {
                let result = ready!(inner.poll(cx));
                let Some(pending) = pending.take() else { return Poll::Pending };
                Poll::Ready(match result {
                    Ok(response) => response::pass_back(response, pending, settings),
                    Err(error) => Err(response::blame(error)),
                })
            }
        }
    }
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
