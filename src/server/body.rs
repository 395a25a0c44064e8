//! Bodies of requests and responses on their way through the server.

use std::{
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use pin_project::{pin_project, pinned_drop};

use super::{
    state::{Connection, InFlight},
    wait::{BodyWait, Direction},
};
use crate::{BoxError, Outcome};

/// A request's body: no larger and no slower than allowed.
pub(super) struct RequestBody {
    inner: Incoming,
    connection: Arc<Connection>,
    wait: Arc<BodyWait>,
    left: Option<u64>,
    ended: bool,
}

impl RequestBody {
    pub(super) fn new(inner: Incoming, connection: Arc<Connection>, wait: Arc<BodyWait>) -> Self {
        let left = connection.config.max_body_size;
        Self { inner, connection, wait, left, ended: false }
    }
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        let Poll::Ready(polled) = Pin::new(&mut this.inner).poll_frame(cx) else {
            if this.wait.too_slow() {
                return Poll::Ready(Some(Err(this.wait.fail(Outcome::RequestTimeout).into())));
            }
            this.wait.wait(cx);
            return Poll::Pending;
        };
        let Some(Ok(frame)) = polled else {
            this.ended = true;
            return Poll::Ready(polled.map(|frame| frame.map_err(Into::into)));
        };
        let bytes = frame.data_ref().map_or(0, Bytes::len);
        this.wait.progress(bytes, &this.connection);
        if let Some(left) = &mut this.left {
            match left.checked_sub(bytes as u64) {
                Some(rest) => *left = rest,
                None => return Poll::Ready(Some(Err(this.wait.fail(Outcome::BodyTooLarge).into()))),
            }
        }
        this.ended |= this.inner.is_end_stream();
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        self.connection.remove_body(&self.wait);
        if !self.ended && !self.inner.is_end_stream() {
            self.connection.unread_body.store(true, Ordering::Relaxed);
        }
    }
}

/// A response's body; the request is in flight until this is dropped.
#[pin_project(PinnedDrop)]
pub(super) struct ResponseBody<B> {
    /// `None`: an answer of the server itself, without a body.
    #[pin]
    inner: Option<B>,
    /// What the client has to take before it gets more, on HTTP/2, where each stream has a window of its own. On HTTP/1
    /// a blocked write tells.
    wait: Option<Arc<BodyWait>>,
    given: usize,
    in_flight: InFlight,
}

impl<B> ResponseBody<B> {
    pub(super) fn new(inner: Option<B>, in_flight: InFlight) -> Self {
        Self { inner, wait: None, given: 0, in_flight }
    }
}

impl<B: HttpBody<Data = Bytes>> HttpBody for ResponseBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.project();
        let Some(inner) = this.inner.as_pin_mut() else {
            return Poll::Ready(None);
        };
        let connection = this.in_flight.connection();
        if *this.given > 0
            && let Some(wait) = this.wait
        {
            wait.progress(std::mem::take(this.given), connection);
        }
        let frame = ready!(inner.poll_frame(cx));
        if matches!(frame, Some(Err(_))) {
            connection.cut();
        }
        if connection.http2
            && connection.config.minimum_rate.is_some()
            && let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref().filter(|data| !data.is_empty())
        {
            *this.given = data.len();
            this.wait.get_or_insert_with(|| connection.add_body(Direction::Response)).given();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), HttpBody::size_hint)
    }
}

#[pinned_drop]
impl<B> PinnedDrop for ResponseBody<B> {
    fn drop(self: Pin<&mut Self>) {
        if let Some(wait) = &self.wait {
            self.in_flight.connection().remove_body(wait);
        }
    }
}
