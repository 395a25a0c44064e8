//! A look at how a response's body begins, without taking anything from it.

use std::{
    fmt,
    future::{Future, poll_fn},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::time::timeout;

use crate::{Body, BoxError};

/// The response as it was, and the trailers if its body is nothing else. Waits for the first frame no longer than `limit`;
/// if that is zero, it is looked for once.
pub(crate) async fn peek(response: Response<Body>, limit: Duration) -> (Response<Body>, Option<HeaderMap>) {
    if response.body().is_end_stream() {
        return (response, None);
    }
    let (parts, mut body) = response.into_parts();
    let first = if limit.is_zero() {
        // No timer: one that is due already may yet wait for the clock's next tick.
        let mut frame = body.frame();
        poll_fn(|cx| Poll::Ready(Pin::new(&mut frame).poll(cx))).await
    } else {
        timeout(limit, body.frame()).await.map_or(Poll::Pending, Poll::Ready)
    };
    let Poll::Ready(Some(first)) = first else { return (Response::from_parts(parts, body), None) };
    let trailers = first.as_ref().ok().and_then(|frame| frame.trailers_ref().cloned());
    let body = Body::new(Peeked { first: Some(first), rest: body });
    (Response::from_parts(parts, body), trailers)
}

struct Peeked {
    first: Option<Result<Frame<Bytes>, BoxError>>,
    rest: Body,
}

impl Peeked {
    fn first_bytes(&self) -> u64 {
        let data = self.first.as_ref().and_then(|first| first.as_ref().ok()?.data_ref());
        data.map_or(0, |data| data.len() as u64)
    }
}

impl HttpBody for Peeked {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.first.take() {
            Some(first) => Poll::Ready(Some(first)),
            None => Pin::new(&mut self.rest).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (first, rest) = (self.first_bytes(), self.rest.size_hint());
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower().saturating_add(first));
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper.saturating_add(first));
        }
        hint
    }
}

impl fmt::Debug for Peeked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peeked").field("rest", &self.rest).finish_non_exhaustive()
    }
}
