//! A request's body that is looked at before it is sent.

use std::{
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};

use crate::{Body, BoxError, Outcome, error::outcome_of};

/// A body with trailers that was read. Not as frames: there are clients that send them a byte each.
struct Kept {
    text: Bytes,
    trailers: Option<HeaderMap>,
}

/// Reads all of a body of at most `max` bytes: the same body again, and what is in it.
///
/// # Errors
/// Why not: it is larger, or it failed.
pub(super) async fn read(mut body: Body, max: usize) -> Result<(Body, Bytes), Outcome> {
    if body.size_hint().lower() > max as u64 {
        return Err(Outcome::BodyTooLarge);
    }
    // The first piece is often the only one, and is not copied then.
    let (mut first, mut text, mut trailers) = (Bytes::new(), BytesMut::new(), None);
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let frame = frame.map_err(|error| outcome_of(&*error).unwrap_or(Outcome::BadRequest))?;
        match frame.into_data() {
            Ok(data) if first.is_empty() => first = data,
            Ok(data) => {
                if text.is_empty() {
                    text.extend_from_slice(&first);
                }
                text.extend_from_slice(&data);
            }
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
        if first.len().max(text.len()) > max {
            return Err(Outcome::BodyTooLarge);
        }
    }
    let text = if text.is_empty() { first } else { text.freeze() };
    let body = match trailers {
        None => Body::from(text.clone()),
        trailers => Body::new(Kept { text: text.clone(), trailers }),
    };
    Ok((body, text))
}

impl HttpBody for Kept {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let text = std::mem::take(&mut self.text);
        let frame = if text.is_empty() { self.trailers.take().map(Frame::trailers) } else { Some(Frame::data(text)) };
        Poll::Ready(frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.text.is_empty() && self.trailers.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.text.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http_body_util::{BodyExt, StreamBody};

    use super::*;

    fn body(pieces: &[&'static str], trailers: bool) -> Body {
        let data = pieces.iter().map(|piece| Frame::data(Bytes::from_static(piece.as_bytes())));
        let trailers =
            trailers.then(|| Frame::trailers(HeaderMap::from_iter([("x".parse().unwrap(), "y".parse().unwrap())])));
        let frames: Vec<_> = data.chain(trailers).map(Ok::<_, Infallible>).collect();
        Body::new(StreamBody::new(futures_util::stream::iter(frames)))
    }

    #[tokio::test]
    async fn pieces_become_one_and_the_limit_is_of_all() {
        for trailers in [false, true] {
            for pieces in [&[][..], &["abc"], &["", "abc"], &["a", "b", "", "c"]] {
                let (mut again, text) = read(body(pieces, trailers), 3).await.unwrap();
                assert_eq!(text, pieces.concat());
                assert_eq!(again.size_hint().exact(), Some(text.len() as u64));
                let mut frames = Vec::new();
                while let Some(frame) = again.frame().await {
                    frames.push(frame.unwrap());
                }
                let all = usize::from(!text.is_empty()) + usize::from(trailers);
                assert_eq!(
                    (frames.len(), frames.iter().filter(|one| one.is_trailers()).count()),
                    (all, usize::from(trailers))
                );
                assert!(again.is_end_stream());
            }
            for pieces in [&["abcd"][..], &["abc", "d"], &["a", "b", "c", "d"]] {
                assert_eq!(read(body(pieces, trailers), 3).await.unwrap_err(), Outcome::BodyTooLarge);
            }
        }
    }
}
