use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body as HttpBody;
use pin_project::pin_project;
use tokio::time::{Duration, Sleep, sleep};
use tower_service::Service;

use super::permits::{Permit, Ticket};
use crate::{
    Body, BoxError, Outcome,
    respond::{Dialect, refusal},
    timeout::is_late,
};

/// The future of [`Concurrency`](super::Concurrency).
#[pin_project]
pub struct ResponseFuture<S, B, F> {
    #[pin]
    state: State<S, B, F>,
}

#[pin_project(project = Project)]
enum State<S, B, F> {
    // In a box, so that the future of a request that does not wait is a small one.
    Queued(Pin<Box<Queued<S, B>>>),
    // The permit after the future: in a drop, it comes back when the request is gone.
    Called {
        #[pin]
        future: F,
        permit: Option<Permit>,
    },
    Refused(Outcome, Dialect),
}

#[pin_project]
struct Queued<S, B> {
    ticket: Ticket,
    #[pin]
    patience: Sleep,
    held: Option<(S, Request<B>)>,
    dialect: Dialect,
}

impl<S, B, F> ResponseFuture<S, B, F> {
    pub(super) fn called(future: F, permit: Permit) -> Self {
        Self { state: State::Called { future, permit: Some(permit) } }
    }

    pub(super) fn queued(service: S, request: Request<B>, ticket: Ticket, max_wait: Duration) -> Self {
        let dialect = Dialect::of(request.headers());
        let queued = Queued { ticket, patience: sleep(max_wait), held: Some((service, request)), dialect };
        Self { state: State::Queued(Box::pin(queued)) }
    }

    pub(super) fn refused(dialect: Dialect) -> Self {
        Self { state: State::Refused(Outcome::Overloaded, dialect) }
    }
}

impl<S, ReqB, ResB> Future for ResponseFuture<S, ReqB, S::Future>
where
    S: Service<Request<ReqB>, Response = Response<ResB>>,
    ResB: HttpBody<Data = Bytes> + Send + 'static,
    ResB::Error: Into<BoxError>,
{
    type Output = Result<Response<Body>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            let next = match state.as_mut().project() {
                Project::Queued(queued) => {
                    let queued = queued.as_mut().project();
                    let permit = match Pin::new(&mut *queued.ticket).poll(cx) {
                        Poll::Ready(permit) => Some(permit),
                        Poll::Pending => {
                            ready!(queued.patience.poll(cx));
                            queued.ticket.give_up()
                        }
                    };
                    match (permit, queued.held.take()) {
                        // The permit came, and is given back.
                        (Some(_), Some((_, request))) if is_late(&request) => {
                            State::Refused(Outcome::DeadlineExceeded, *queued.dialect)
                        }
                        (Some(permit), Some((mut service, request))) => {
                            State::Called { future: service.call(request), permit: Some(permit) }
                        }
                        _ => State::Refused(Outcome::Overloaded, *queued.dialect),
                    }
                }
                Project::Called { future, permit } => {
                    let response = ready!(future.poll(cx));
                    let permit = permit.take();
                    return Poll::Ready(response.map(|response| {
                        let response = response.map(Body::new);
                        match permit {
                            Some(permit) => permit.hold(response),
                            None => response,
                        }
                    }));
                }
                Project::Refused(outcome, dialect) => return Poll::Ready(Ok(refusal(*outcome, *dialect))),
            };
            state.set(next);
        }
    }
}

impl<S, B, F> fmt::Debug for ResponseFuture<S, B, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::Queued(_) => "Queued",
            State::Called { .. } => "Called",
            State::Refused(..) => "Refused",
        };
        f.debug_struct("ResponseFuture").field("state", &state).finish_non_exhaustive()
    }
}
