use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use http_body::Body as HttpBody;
use pin_project::pin_project;
use tokio::time::{Duration, Sleep, sleep};
use tower_service::Service;

use super::Abort;
use crate::{
    Body, BoxError, Error, Outcome,
    grpc::{self, Code},
    limit::concurrency::Permit,
    respond::{Dialect, refusal},
    timeout::is_late,
};

/// The future of [`FaultInjector`](super::FaultInjector).
#[pin_project]
pub struct ResponseFuture<S, B, F> {
    #[pin]
    state: State<S, B, F>,
}

#[pin_project(project = Project)]
enum State<S, B, F> {
    // In a box, so that the future of a request without a fault is a small one.
    Delayed(Pin<Box<Delayed<S, B>>>),
    Aborted(Abort, Dialect),
    Late(Dialect),
    Called(#[pin] F),
}

#[pin_project]
struct Delayed<S, B> {
    #[pin]
    delay: Sleep,
    /// What goes on then, or how it fails.
    held: Result<(S, Request<B>), Abort>,
    dialect: Dialect,
    _active: Permit,
}

impl<S, B, F> ResponseFuture<S, B, F> {
    pub(super) fn delayed(
        held: Result<(S, Request<B>), Abort>,
        delay: Duration,
        dialect: Dialect,
        active: Permit,
    ) -> Self {
        Self { state: State::Delayed(Box::pin(Delayed { delay: sleep(delay), held, dialect, _active: active })) }
    }

    pub(super) fn aborted(abort: Abort, dialect: Dialect) -> Self {
        Self { state: State::Aborted(abort, dialect) }
    }

    pub(super) fn called(future: F) -> Self {
        Self { state: State::Called(future) }
    }
}

impl<S, ReqB, ResB> Future for ResponseFuture<S, ReqB, S::Future>
where
    S: Service<Request<ReqB>, Response = Response<ResB>>,
    S::Error: Into<Error>,
    ResB: HttpBody<Data = Bytes> + Send + 'static,
    ResB::Error: Into<BoxError>,
{
    type Output = Result<Response<Body>, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            let next = match state.as_mut().project() {
                Project::Delayed(delayed) => {
                    let delayed = delayed.as_mut().project();
                    ready!(delayed.delay.poll(cx));
                    match std::mem::replace(delayed.held, Err(Abort::Reset)) {
                        Ok((_, request)) if is_late(&request) => State::Late(*delayed.dialect),
                        Ok((mut service, request)) => State::Called(service.call(request)),
                        Err(abort) => State::Aborted(abort, *delayed.dialect),
                    }
                }
                Project::Aborted(abort, dialect) => return Poll::Ready(answer(*abort, *dialect)),
                Project::Late(dialect) => return Poll::Ready(Ok(refusal(Outcome::DeadlineExceeded, *dialect))),
                Project::Called(future) => {
                    return future.poll(cx).map_ok(|response| response.map(Body::new)).map_err(Into::into);
                }
            };
            state.set(next);
        }
    }
}

fn answer(abort: Abort, dialect: Dialect) -> Result<Response<Body>, Error> {
    match abort.error() {
        Some(error) => Err(error),
        None => Ok(response(abort, dialect)),
    }
}

fn response(abort: Abort, dialect: Dialect) -> Response<Body> {
    match abort {
        Abort::Status(status) if dialect == Dialect::Http => {
            let mut response = refusal(Outcome::FaultInjected, dialect);
            *response.status_mut() = status;
            response
        }
        Abort::Grpc(code) => {
            let dialect = if dialect == Dialect::Http { Dialect::Grpc } else { dialect };
            told_by_grpc(code, dialect)
        }
        Abort::Status(status) => told_by_grpc(Code::of_http(status) as u8, dialect),
        Abort::Reset | Abort::ConnectFailed => refusal(Outcome::FaultInjected, dialect),
    }
}

fn told_by_grpc(code: u8, dialect: Dialect) -> Response<Body> {
    let mut response = refusal(Outcome::FaultInjected, dialect);
    response.headers_mut().insert(grpc::STATUS, HeaderValue::from(u16::from(code)));
    response
}

impl<S, B, F> fmt::Debug for ResponseFuture<S, B, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::Delayed(_) => "Delayed",
            State::Aborted(..) => "Aborted",
            State::Late(_) => "Late",
            State::Called(_) => "Called",
        };
        f.debug_struct("ResponseFuture").field("state", &state).finish_non_exhaustive()
    }
}
