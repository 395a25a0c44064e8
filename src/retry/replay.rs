//! A request's body that can be sent again: it streams while it is kept.

use std::{
    fmt, mem,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};
use thiserror::Error;

use crate::{Body, BoxError};

/// What a frame of data counts for at least, so that many small ones cannot take more memory than their bytes tell.
const SMALLEST: usize = 64;

/// The body that attempts are made with.
///
/// 1. A frame goes to the attempt as soon as the client sends it, and is kept beside that, without copying its bytes.
/// 2. Once more than the cap was read, what was kept is freed. The attempt that is on its way streams on; there is no
///    other after it.
/// 3. A new attempt ends the body of the one before with an error: it is not read by two.
/// 4. Dropping this handle ends the keeping: nothing more is added, and what is there goes with the last reader.
pub(crate) struct Replay(Option<Arc<Mutex<Shared>>>);

struct Shared {
    source: Body,
    /// As it was before anything was read.
    hint: SizeHint,
    kept: Vec<Bytes>,
    room: usize,
    trailers: Option<HeaderMap>,
    /// Nothing is added to what was kept.
    given_up: bool,
    /// Something was read from the source.
    touched: bool,
    state: Source,
    /// Whose turn it is to read.
    turn: u32,
    waiting: Option<Waker>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Open,
    Ended,
    Failed,
}

/// One attempt's reading of a [`Replay`].
pub(crate) struct ReplayBody {
    shared: Arc<Mutex<Shared>>,
    turn: u32,
    /// Of what is kept.
    next: usize,
    read: u64,
    ended: bool,
}

/// Why an attempt's body ended early.
#[derive(Debug, Error)]
enum Broken {
    #[error("the request is being sent again")]
    Abandoned,
    #[error("the request's body had failed")]
    Failed,
}

impl Replay {
    /// Keeps up to `cap` bytes of `body`, and the first reader of it.
    pub(crate) fn new(body: Body, cap: usize) -> (Self, Body) {
        if body.is_end_stream() {
            return (Self(None), body);
        }
        let hint = body.size_hint();
        let shared = Shared {
            // Of a body that is known not to fit nothing need be kept.
            given_up: hint.lower() > cap as u64,
            source: body,
            hint,
            kept: Vec::new(),
            room: cap,
            trailers: None,
            touched: false,
            state: Source::Open,
            turn: 0,
            waiting: None,
        };
        let replay = Self(Some(Arc::new(Mutex::new(shared))));
        let first = replay.reader();
        (replay, first)
    }

    /// Whether the body can be read again from its beginning.
    pub(crate) fn can_repeat(&self) -> bool {
        self.0.as_ref().is_none_or(|shared| {
            let shared = lock(shared);
            shared.state != Source::Failed && (!shared.given_up || !shared.touched)
        })
    }

    /// Whether all of it was read and kept, so that any number may read it at the same time.
    pub(crate) fn is_whole(&self) -> bool {
        self.0.as_ref().is_none_or(|shared| {
            let shared = lock(shared);
            shared.state == Source::Ended && !shared.given_up
        })
    }

    /// Whether the client has sent all of it.
    pub(crate) fn has_ended(&self) -> bool {
        self.0.as_ref().is_none_or(|shared| lock(shared).state == Source::Ended)
    }

    /// The body once more, for the next attempt; the one before is over.
    pub(crate) fn again(&self) -> Body {
        let Some(shared) = &self.0 else { return Body::empty() };
        let waiting = {
            let mut shared = lock(shared);
            shared.turn += 1;
            shared.waiting.take()
        };
        if let Some(waiting) = waiting {
            waiting.wake();
        }
        self.reader()
    }

    /// Another reader beside those there are. Only for what [is whole](Self::is_whole).
    pub(crate) fn reader(&self) -> Body {
        let Some(shared) = &self.0 else { return Body::empty() };
        let turn = lock(shared).turn;
        Body::new(ReplayBody { shared: Arc::clone(shared), turn, next: 0, read: 0, ended: false })
    }
}

impl Drop for Replay {
    fn drop(&mut self) {
        if let Some(shared) = &self.0 {
            let mut shared = lock(shared);
            // What is whole may have several readers still.
            shared.given_up |= shared.state != Source::Ended;
        }
    }
}

impl Shared {
    /// Reads on at the source. What it gives, the reader takes in the same step.
    fn advance(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let polled = Pin::new(&mut self.source).poll_frame(cx);
        match &polled {
            Poll::Pending => {
                self.waiting = Some(cx.waker().clone());
                return polled;
            }
            Poll::Ready(None) => self.state = Source::Ended,
            Poll::Ready(Some(Err(_))) => self.state = Source::Failed,
            Poll::Ready(Some(Ok(frame))) => {
                self.touched = true;
                if let Some(data) = frame.data_ref() {
                    self.keep(data);
                } else if let Some(trailers) = frame.trailers_ref() {
                    self.trailers = (!self.given_up).then(|| trailers.clone());
                    self.state = Source::Ended;
                }
                // A reader that knows the length does not ask for the end.
                if self.source.is_end_stream() {
                    self.state = Source::Ended;
                }
            }
        }
        if self.state != Source::Open {
            // Its observers hear of the end; what it holds is not needed to send it again.
            drop(mem::take(&mut self.source));
        }
        polled
    }

    fn keep(&mut self, data: &Bytes) {
        if self.given_up {
            return;
        }
        match self.room.checked_sub(data.len().max(SMALLEST)) {
            Some(room) => {
                self.room = room;
                self.kept.push(data.clone());
            }
            None => {
                self.given_up = true;
                self.kept = Vec::new();
            }
        }
    }
}

impl ReplayBody {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut shared = lock(&self.shared);
        if shared.turn != self.turn {
            self.ended = true;
            return Poll::Ready(Some(Err(Broken::Abandoned.into())));
        }
        if let Some(data) = shared.kept.get(self.next) {
            self.next += 1;
            self.read += data.len() as u64;
            return Poll::Ready(Some(Ok(Frame::data(data.clone()))));
        }
        match shared.state {
            Source::Failed => {
                self.ended = true;
                return Poll::Ready(Some(Err(Broken::Failed.into())));
            }
            Source::Ended => {
                self.ended = true;
                return Poll::Ready(shared.trailers.clone().map(|trailers| Ok(Frame::trailers(trailers))));
            }
            Source::Open => {}
        }
        if shared.given_up {
            // Nobody but this reader comes after.
            shared.kept = Vec::new();
            self.next = 0;
        }
        let polled = shared.advance(cx);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => match frame.data_ref() {
                Some(data) => {
                    self.read += data.len() as u64;
                    self.next = shared.kept.len();
                }
                None => self.ended = true,
            },
            Poll::Ready(_) => self.ended = true,
            Poll::Pending => {}
        }
        polled
    }
}

impl HttpBody for ReplayBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.ended { Poll::Ready(None) } else { self.poll(cx) }
    }

    fn is_end_stream(&self) -> bool {
        if self.ended {
            return true;
        }
        let shared = lock(&self.shared);
        shared.turn == self.turn
            && shared.state == Source::Ended
            && self.next >= shared.kept.len()
            && shared.trailers.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        let shared = lock(&self.shared);
        let mut hint = SizeHint::new();
        hint.set_lower(shared.hint.lower().saturating_sub(self.read));
        if let Some(upper) = shared.hint.upper() {
            hint.set_upper(upper.saturating_sub(self.read).max(hint.lower()));
        }
        hint
    }
}

impl fmt::Debug for Replay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replay").field("can_repeat", &self.can_repeat()).finish_non_exhaustive()
    }
}

impl fmt::Debug for ReplayBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplayBody").field("turn", &self.turn).field("read", &self.read).finish_non_exhaustive()
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    // A source that panicked is not read again by what follows: the attempt that read it is gone.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, Full};
    use proptest::prelude::*;
    use tokio::sync::mpsc;
    use tokio_test::{assert_pending, assert_ready, task};

    use super::*;

    /// A body whose frames come when the test sends them.
    struct Channel(mpsc::UnboundedReceiver<Result<Frame<Bytes>, BoxError>>);

    impl HttpBody for Channel {
        type Data = Bytes;
        type Error = BoxError;
        fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
            self.0.poll_recv(cx)
        }
    }

    fn channel() -> (mpsc::UnboundedSender<Result<Frame<Bytes>, BoxError>>, Body) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (sender, Body::new(Channel(receiver)))
    }

    fn data(text: &'static str) -> Result<Frame<Bytes>, BoxError> {
        Ok(Frame::data(Bytes::from_static(text.as_bytes())))
    }

    async fn text(body: &mut Body) -> Option<String> {
        let frame = body.frame().await?.unwrap();
        Some(String::from_utf8(frame.into_data().unwrap().into()).unwrap())
    }

    #[tokio::test]
    async fn a_second_attempt_reads_what_the_first_had_and_then_the_rest_with_trailers() {
        let (sender, body) = channel();
        let (replay, mut first) = Replay::new(body, 1024);
        sender.send(data("one")).unwrap();
        assert_eq!(text(&mut first).await.unwrap(), "one");
        let mut waiting = task::spawn(async { first.frame().await });
        assert_pending!(waiting.poll());

        let mut second = replay.again();
        assert!(waiting.is_woken(), "the abandoned attempt must not wait for ever");
        assert!(assert_ready!(waiting.poll()).unwrap().is_err());
        drop(waiting);
        assert!(first.frame().await.is_none());

        assert_eq!(text(&mut second).await.unwrap(), "one");
        sender.send(data("two")).unwrap();
        let trailers = HeaderMap::from_iter([(http::header::ETAG, "x".parse().unwrap())]);
        sender.send(Ok(Frame::trailers(trailers.clone()))).unwrap();
        drop(sender);
        assert_eq!(text(&mut second).await.unwrap(), "two");
        assert!(!second.is_end_stream());
        assert_eq!(second.frame().await.unwrap().unwrap().into_trailers().unwrap(), trailers);
        assert!(second.is_end_stream() && replay.is_whole());

        let third = replay.again().collect().await.unwrap();
        assert_eq!(third.trailers(), Some(&trailers));
        assert_eq!(third.to_bytes(), "onetwo");
    }

    #[tokio::test]
    async fn above_the_cap_it_streams_on_but_is_not_repeated() {
        let (sender, body) = channel();
        let (replay, mut first) = Replay::new(body, 100);
        for _ in 0..3 {
            assert!(replay.can_repeat());
            sender.send(data("12345678901234567890123456789012345678901234567890")).unwrap();
            text(&mut first).await.unwrap();
            if !replay.can_repeat() {
                break;
            }
        }
        assert!(!replay.can_repeat());
        sender.send(data("more")).unwrap();
        drop(sender);
        assert_eq!(text(&mut first).await.unwrap(), "more");
        assert!(first.frame().await.is_none() && !replay.can_repeat() && !replay.is_whole());
    }

    #[tokio::test]
    async fn a_body_too_large_to_keep_is_repeated_while_nothing_of_it_was_read() {
        let (replay, first) = Replay::new(Body::from("x".repeat(101)), 100);
        drop(first);
        assert!(replay.can_repeat());
        let second = replay.again();
        assert_eq!(second.size_hint().exact(), Some(101));
        assert_eq!(second.collect().await.unwrap().to_bytes().len(), 101);
        assert!(!replay.can_repeat());
    }

    #[tokio::test]
    async fn a_request_body_that_failed_is_not_repeated() {
        let (sender, body) = channel();
        let (replay, mut first) = Replay::new(body, 100);
        sender.send(Err("the client is gone".into())).unwrap();
        first.frame().await.unwrap().unwrap_err();
        assert!(!replay.can_repeat());
        assert!(replay.again().frame().await.unwrap().is_err());
    }

    #[tokio::test]
    async fn without_its_handle_nothing_more_is_kept() {
        let (sender, body) = channel();
        let (replay, mut first) = Replay::new(body, 1024);
        let shared = Arc::clone(replay.0.as_ref().unwrap());
        sender.send(data("one")).unwrap();
        text(&mut first).await.unwrap();
        drop(replay);
        sender.send(data("two")).unwrap();
        assert_eq!(text(&mut first).await.unwrap(), "two");
        assert!(lock(&shared).kept.is_empty());
        drop(first);
        assert_eq!(Arc::strong_count(&shared), 1);
    }

    #[test]
    fn an_empty_body_needs_nothing() {
        let (replay, first) = Replay::new(Body::empty(), 100);
        assert!(replay.0.is_none() && replay.can_repeat() && replay.is_whole() && first.is_end_stream());
    }

    #[tokio::test]
    async fn bytes_are_shared_and_the_length_stays_known() {
        let bytes = Bytes::from(vec![7; 50]);
        let address = bytes.as_ptr();
        let (replay, mut first) = Replay::new(Body::new(Full::new(bytes)), 100);
        assert_eq!(first.size_hint().exact(), Some(50));
        assert_eq!(first.frame().await.unwrap().unwrap().into_data().unwrap().as_ptr(), address);
        assert!(first.is_end_stream() && first.size_hint().exact() == Some(0));
        let mut second = replay.again();
        assert_eq!(second.frame().await.unwrap().unwrap().into_data().unwrap().as_ptr(), address);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Whatever the frames and wherever attempts break off, one that is allowed sends what the client sent.
        #[test]
        fn every_attempt_that_is_allowed_reads_the_same(
            frames in prop::collection::vec(0usize..80, 0..12),
            stops in prop::collection::vec(0usize..14, 1..5),
            cap in 0usize..1000,
        ) {
            tokio_test::block_on(async {
                let (sender, body) = channel();
                let mut sent = Vec::new();
                for (index, length) in frames.iter().enumerate() {
                    let frame = vec![u8::try_from(index).unwrap(); *length];
                    sent.extend_from_slice(&frame);
                    sender.send(Ok(Frame::data(frame.into()))).unwrap();
                }
                drop(sender);
                let (replay, mut body) = Replay::new(body, cap);
                for stop in stops {
                    let mut read = Vec::new();
                    for _ in 0..stop {
                        let Some(frame) = body.frame().await else { break };
                        read.extend_from_slice(&frame.unwrap().into_data().unwrap());
                    }
                    assert!(sent.starts_with(&read));
                    if !replay.can_repeat() {
                        break;
                    }
                    body = replay.again();
                }
                if replay.can_repeat() {
                    assert_eq!(replay.again().collect().await.unwrap().to_bytes(), sent);
                }
            });
        }
    }
}
