//! Bodies of requests and responses on their way through the server.

use std::{
    pin::Pin,
    sync::{Arc, OnceLock, atomic::Ordering},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use pin_project::{pin_project, pinned_drop};

use super::state::{BodyWait, Connection, InFlight};
use crate::{BoxError, Error, Outcome};

/// What went wrong with a request's body, as the future that answers the request sees it.
#[derive(Debug, Default)]
pub(super) struct Upload(OnceLock<Outcome>);

impl Upload {
    pub(super) fn fault(&self) -> Option<Outcome> {
        self.0.get().copied()
    }

    fn fail(&self, fault: Outcome) -> BoxError {
        Error::new(*self.0.get_or_init(|| fault)).into()
    }
}

/// A request's body: no larger and no slower than allowed.
pub(super) struct RequestBody {
    inner: Incoming,
    connection: Arc<Connection>,
    upload: Arc<Upload>,
    wait: Option<Arc<BodyWait>>,
    left: Option<u64>,
    ended: bool,
}

impl RequestBody {
    pub(super) fn new(inner: Incoming, connection: Arc<Connection>, upload: Arc<Upload>) -> Self {
        let wait = connection.add_request_body();
        let left = connection.config.max_body_size;
        Self { inner, connection, upload, wait, left, ended: false }
    }
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        let Poll::Ready(polled) = Pin::new(&mut this.inner).poll_frame(cx) else {
            let Some(wait) = &this.wait else {
                return Poll::Pending;
            };
            if wait.too_slow() {
                return Poll::Ready(Some(Err(this.upload.fail(Outcome::RequestTimeout))));
            }
            wait.wait(cx);
            return Poll::Pending;
        };
        let Some(Ok(frame)) = polled else {
            this.ended = true;
            return Poll::Ready(polled.map(|frame| frame.map_err(Into::into)));
        };
        let bytes = frame.data_ref().map_or(0, Bytes::len);
        if let Some(wait) = &this.wait {
            wait.progress(bytes, &this.connection);
        }
        if let Some(left) = &mut this.left {
            match left.checked_sub(bytes as u64) {
                Some(rest) => *left = rest,
                None => return Poll::Ready(Some(Err(this.upload.fail(Outcome::BodyTooLarge)))),
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
        if let Some(wait) = &self.wait {
            self.connection.remove_body(wait);
        }
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
        if connection.http2
            && let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref().filter(|data| !data.is_empty())
        {
            if this.wait.is_none() {
                *this.wait = connection.add_response_body();
            }
            if let Some(wait) = this.wait {
                *this.given = data.len();
                wait.given();
            }
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
