//! Bodies on their way: trailers without what is forbidden there, and a request's body that waits to be asked for.

use std::{
    error::Error as StdError,
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::Bytes;
use http::Version;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::Sleep;

use super::fields;
use crate::{
    BoxError, Error, Outcome,
    body::{Body, End, Observer},
};

/// A body received in `version`, its trailers without the fields that must not be there. What its framing may prove to be
/// is `malformed`.
pub(super) fn cleaned(body: Body, version: Version, malformed: Outcome) -> Body {
    Body::new(Cleaned { body, chunked: version < Version::HTTP_2, malformed })
}

struct Cleaned {
    body: Body,
    chunked: bool,
    malformed: Outcome,
}

impl HttpBody for Cleaned {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        loop {
            let mut polled = ready!(Pin::new(&mut self.body).poll_frame(cx));
            let trailers = match &mut polled {
                Some(Ok(frame)) => frame.trailers_mut(),
                Some(Err(error)) if self.chunked && is_malformed(&**error) => {
                    return Poll::Ready(
                        polled
                            .map(|result| result.map_err(|error| Error::new(self.malformed).with_source(error).into())),
                    );
                }
                _ => None,
            };
            let Some(trailers) = trailers else { return Poll::Ready(polled) };
            // hyper has trailers without a field in them only where a bare LF ends their section: what came after it, up
            // to a CRLF of its own, was taken for trailers too, and someone else may have read it as the next message.
            if trailers.is_empty() && self.chunked {
                let error = Error::new(self.malformed).with_source("a bare LF ends the trailers of a chunked body");
                return Poll::Ready(Some(Err(error.into())));
            }
            fields::remove_if(trailers, fields::is_forbidden_trailer);
            if !trailers.is_empty() {
                return Poll::Ready(polled);
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Whether a body failed because of what was in it, rather than of what was missing: so hyper's decoder tells.
fn is_malformed(error: &(dyn StdError + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.is::<Error>() {
            return false;
        }
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return matches!(io.kind(), io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput);
        }
        cause = error.source();
    }
    false
}

/// Holds back the body of a request with `Expect: 100-continue`.
#[derive(Debug)]
pub(super) struct Gate(Mutex<Held>);

#[derive(Debug)]
struct Held {
    state: State,
    reader: Option<Waker>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The upstream has not said anything yet.
    Waiting,
    /// The body may be read.
    Open,
    /// The upstream answered without the body, and the answer is on its way.
    Answered,
    /// The answer was passed on: the body is not needed any more, and the connection it was to go to must not wait.
    Shut,
}

impl Gate {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(Held { state: State::Waiting, reader: None })))
    }

    /// Lets the body be read.
    pub(super) fn open(&self) {
        self.become_(State::Open);
    }

    /// Returns the answer's body, whose end shuts the gate if the request's body has not been asked for by now.
    pub(super) fn answered(self: Arc<Self>, body: Body) -> Body {
        self.become_(State::Answered);
        if self.lock().state == State::Open { body } else { body.observed(ShutAtEnd(self)) }
    }

    /// Goes on from a state in which the body waits.
    fn become_(&self, next: State) {
        let mut held = self.lock();
        let forward = match held.state {
            State::Waiting => true,
            State::Answered => next == State::Shut,
            State::Open | State::Shut => false,
        };
        if forward {
            held.state = next;
            let reader = held.reader.take();
            drop(held);
            if let Some(reader) = reader {
                reader.wake();
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct ShutAtEnd(Arc<Gate>);

impl Observer for ShutAtEnd {
    fn end(&mut self, _: End<'_>) {
        self.0.become_(State::Shut);
    }
}

/// The body, read only once the gate is open, or nothing was heard of the upstream for `timeout`.
pub(super) fn gated(body: Body, gate: Arc<Gate>, timeout: Duration) -> Body {
    Body::new(Gated { body, gate: Some(gate), timeout, timer: None })
}

struct Gated {
    body: Body,
    gate: Option<Arc<Gate>>,
    timeout: Duration,
    /// From the first poll on, which is when the head has been written.
    timer: Option<Pin<Box<Sleep>>>,
}

impl Gated {
    fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        let Some(gate) = &self.gate else { return Poll::Ready(Ok(())) };
        let state = {
            let mut held = gate.lock();
            if matches!(held.state, State::Waiting | State::Answered) {
                held.reader = Some(cx.waker().clone());
            }
            held.state
        };
        match state {
            State::Open => {}
            State::Shut => return Poll::Ready(Err("the upstream answered without asking for the body".into())),
            State::Answered => return Poll::Pending,
            State::Waiting => {
                let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(self.timeout)));
                ready!(timer.as_mut().poll(cx));
                gate.open();
            }
        }
        self.gate = None;
        self.timer = None;
        Poll::Ready(Ok(()))
    }
}

impl HttpBody for Gated {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Err(error) = ready!(self.poll_open(cx)) {
            return Poll::Ready(Some(Err(error)));
        }
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
