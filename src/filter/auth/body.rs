//! A request's body that is looked at before it is sent.

use std::{
    collections::VecDeque,
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use http_body::{Body as HttpBody, Frame, SizeHint};

use crate::{Body, BoxError, Outcome, error::outcome_of};

/// A body that was read, to be sent as it came.
struct Kept {
    frames: VecDeque<Frame<Bytes>>,
    left: u64,
}

/// Reads all of a body of at most `max` bytes: the same body again, and what is in it.
///
/// # Errors
/// Why not: it is larger, or it failed.
pub(super) async fn read(mut body: Body, max: usize) -> Result<(Body, Bytes), Outcome> {
    if body.size_hint().lower() > max as u64 {
        return Err(Outcome::BodyTooLarge);
    }
    let (mut frames, mut length) = (VecDeque::new(), 0);
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let frame = frame.map_err(|error| outcome_of(&*error).unwrap_or(Outcome::BadRequest))?;
        length += frame.data_ref().map_or(0, Bytes::len);
        if length > max {
            return Err(Outcome::BodyTooLarge);
        }
        frames.push_back(frame);
    }
    let text = match frames.make_contiguous() {
        [only] => only.data_ref().cloned().unwrap_or_default(),
        frames => {
            let mut text = BytesMut::with_capacity(length);
            frames.iter().filter_map(Frame::data_ref).for_each(|data| text.extend_from_slice(data));
            text.freeze()
        }
    };
    let body = if frames.iter().all(Frame::is_data) {
        Body::from(text.clone())
    } else {
        Body::new(Kept { frames, left: length as u64 })
    };
    Ok((body, text))
}

impl HttpBody for Kept {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = self.frames.pop_front();
        let length = frame.as_ref().and_then(Frame::data_ref).map_or(0, Bytes::len);
        self.left -= length as u64;
        Poll::Ready(frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.frames.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
