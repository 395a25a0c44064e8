//! The body of requests and responses, and observers of how it ends.

use std::{
    any::Any,
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::{BodyExt, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use smallvec::SmallVec;

use crate::BoxError;

/// How a body ended.
#[derive(Debug)]
#[non_exhaustive]
pub enum End<'a> {
    /// All of it was read.
    Complete,
    /// It failed while it was read.
    Failed(&'a BoxError),
    /// It was dropped before its end: nobody wanted the rest.
    Dropped,
}

/// Something that watches a body go by and hears of its end exactly once.
pub trait Observer: Send + 'static {
    /// `bytes` more bytes of data were read.
    fn data(&mut self, bytes: usize) {
        let _ = bytes;
    }

    /// Trailers were read.
    fn trailers(&mut self, trailers: &HeaderMap) {
        let _ = trailers;
    }

    /// The body ended. Called once, also when the body is dropped unread.
    fn end(&mut self, end: End<'_>);
}

/// A request's or a response's body.
///
/// An enum, so that the common bodies (none, a few bytes, what hyper receives) need no allocation. Observers are
/// kept beside it in a flat list rather than as wrappers around it, so that one poll stays one poll however many
/// parties watch.
///
/// # Example
/// ```
/// # tokio_test::block_on(async {
/// use http_body_util::BodyExt;
/// use portcullis::body::{Body, End, Observer};
/// use std::sync::mpsc;
///
/// struct Watch(mpsc::Sender<String>);
/// impl Observer for Watch {
///     fn data(&mut self, bytes: usize) { let _ = self.0.send(format!("{bytes} bytes")); }
///     fn end(&mut self, end: End<'_>) { let _ = self.0.send(format!("{end:?}")); }
/// }
///
/// let (sender, seen) = mpsc::channel();
/// let body = Body::from("hello").observed(Watch(sender));
/// assert_eq!(body.collect().await.unwrap().to_bytes(), "hello");
/// assert_eq!(seen.iter().collect::<Vec<_>>(), ["5 bytes", "Complete"]);
/// # });
/// ```
pub struct Body {
    kind: Kind,
    observers: SmallVec<[Box<dyn Observer>; 2]>,
}

enum Kind {
    Empty,
    Full(Option<Bytes>),
    Incoming(Incoming),
    Boxed(UnsyncBoxBody<Bytes, BoxError>),
}

impl Body {
    /// A body with nothing in it.
    #[must_use]
    pub const fn empty() -> Self {
        Self { kind: Kind::Empty, observers: SmallVec::new_const() }
    }

    /// Any other body. A `Body` or a hyper [`Incoming`] is taken as it is, without a box.
    pub fn new<B>(body: B) -> Self
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        // `Option` lets a value move out through the `&mut dyn Any`.
        let mut slot = Some(body);
        if let Some(body) = (&mut slot as &mut dyn Any).downcast_mut::<Option<Self>>() {
            return body.take().unwrap_or_default();
        }
        if let Some(incoming) = (&mut slot as &mut dyn Any).downcast_mut::<Option<Incoming>>() {
            return incoming.take().map_or_else(Self::empty, Self::from);
        }
        match slot {
            Some(body) => Kind::Boxed(body.map_err(Into::into).boxed_unsync()).into(),
            None => Self::empty(),
        }
    }

    /// The same body with one more observer. On a body that has already ended the observer hears so at once.
    #[must_use]
    pub fn observed(mut self, observer: impl Observer) -> Self {
        self.observe(Box::new(observer));
        self
    }

    /// [`observed`](Self::observed) in place, by an observer that is in its box already.
    pub(crate) fn observe(&mut self, mut observer: Box<dyn Observer>) {
        if self.kind.is_end_stream() {
            observer.end(End::Complete);
        } else {
            self.observers.push(observer);
        }
    }

    fn end(&mut self, end: &End<'_>) {
        for mut observer in self.observers.drain(..) {
            observer.end(match end {
                End::Complete => End::Complete,
                End::Failed(error) => End::Failed(error),
                End::Dropped => End::Dropped,
            });
        }
    }
}

impl Kind {
    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(bytes) => bytes.is_none(),
            Self::Incoming(body) => body.is_end_stream(),
            Self::Boxed(body) => body.is_end_stream(),
        }
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let polled = match &mut self.kind {
            Kind::Empty => Poll::Ready(None),
            Kind::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Kind::Incoming(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
            Kind::Boxed(body) => Pin::new(body).poll_frame(cx),
        };
        if self.observers.is_empty() {
            return polled;
        }
        match &polled {
            Poll::Pending => {}
            Poll::Ready(None) => self.end(&End::Complete),
            Poll::Ready(Some(Err(error))) => self.end(&End::Failed(error)),
            Poll::Ready(Some(Ok(frame))) => {
                for observer in &mut self.observers {
                    if let Some(data) = frame.data_ref() {
                        observer.data(data.len());
                    } else if let Some(trailers) = frame.trailers_ref() {
                        observer.trailers(trailers);
                    }
                }
                // A reader that knows the length never polls for the `None` after the last frame.
                if self.kind.is_end_stream() {
                    self.end(&End::Complete);
                }
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.kind.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Empty => SizeHint::with_exact(0),
            Kind::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Kind::Incoming(body) => body.size_hint(),
            Kind::Boxed(body) => body.size_hint(),
        }
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        self.end(&End::Dropped);
    }
}

impl Default for Body {
    fn default() -> Self {
        Self::empty()
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Empty => "Empty",
            Kind::Full(_) => "Full",
            Kind::Incoming(_) => "Incoming",
            Kind::Boxed(_) => "Boxed",
        };
        f.debug_struct("Body").field("kind", &kind).field("observers", &self.observers.len()).finish()
    }
}

impl From<Kind> for Body {
    fn from(kind: Kind) -> Self {
        Self { kind, observers: SmallVec::new() }
    }
}

impl From<Incoming> for Body {
    fn from(body: Incoming) -> Self {
        Kind::Incoming(body).into()
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Kind::Full(Some(bytes).filter(|bytes| !bytes.is_empty())).into()
    }
}

impl From<&'static str> for Body {
    fn from(text: &'static str) -> Self {
        Bytes::from_static(text.as_bytes()).into()
    }
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        Bytes::from(text).into()
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Bytes::from(bytes).into()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use http_body_util::{BodyExt, StreamBody};

    use super::*;

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<String>>>);

    impl Log {
        fn lines(&self) -> Vec<String> {
            self.0.lock().unwrap().clone()
        }
    }

    impl Observer for Log {
        fn data(&mut self, bytes: usize) {
            self.0.lock().unwrap().push(format!("data {bytes}"));
        }
        fn trailers(&mut self, trailers: &HeaderMap) {
            self.0.lock().unwrap().push(format!("trailers {}", trailers.len()));
        }
        fn end(&mut self, end: End<'_>) {
            self.0.lock().unwrap().push(format!("{end:?}"));
        }
    }

    fn frames(frames: Vec<Result<Frame<Bytes>, BoxError>>) -> Body {
        Body::new(StreamBody::new(tokio_stream(frames)))
    }

    fn tokio_stream<T: Unpin>(items: Vec<T>) -> impl futures_core::Stream<Item = T> {
        struct Items<T>(std::vec::IntoIter<T>);
        impl<T: Unpin> futures_core::Stream for Items<T> {
            type Item = T;
            fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<T>> {
                Poll::Ready(self.0.next())
            }
        }
        Items(items.into_iter())
    }

    #[tokio::test]
    async fn every_frame_and_the_end_are_observed_once_by_each() {
        let (first, second) = (Log::default(), Log::default());
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().unwrap());
        let body = frames(vec![Ok(Frame::data("ab".into())), Ok(Frame::trailers(trailers))])
            .observed(first.clone())
            .observed(second.clone());
        body.collect().await.unwrap();
        assert_eq!(first.lines(), ["data 2", "trailers 1", "Complete"]);
        assert_eq!(second.lines(), first.lines());
    }

    #[tokio::test]
    async fn a_failure_is_an_end() {
        let log = Log::default();
        let body = frames(vec![Ok(Frame::data("ab".into())), Err("broken".into())]).observed(log.clone());
        body.collect().await.unwrap_err();
        assert_eq!(log.lines(), ["data 2", "Failed(\"broken\")"]);
    }

    #[test]
    fn a_dropped_body_says_so() {
        let log = Log::default();
        drop(Body::from("hello").observed(log.clone()));
        assert_eq!(log.lines(), ["Dropped"]);
    }

    #[test]
    fn a_body_already_at_its_end_is_complete_at_once() {
        let log = Log::default();
        drop(Body::empty().observed(log.clone()));
        drop(Body::from("").observed(log.clone()));
        assert_eq!(log.lines(), ["Complete", "Complete"]);
    }

    #[test]
    fn a_body_is_never_boxed_twice() {
        let body = Body::new(Body::new(Body::from("x")));
        assert!(matches!(body.kind, Kind::Full(_)));
    }

    #[tokio::test]
    async fn the_last_frame_of_a_known_length_completes_without_another_poll() {
        let log = Log::default();
        let mut body = Body::from("hello").observed(log.clone());
        let frame = body.frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), "hello");
        assert_eq!(log.lines(), ["data 5", "Complete"]);
    }
}
