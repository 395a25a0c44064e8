//! A request's body for two readers: one that sets the pace, and one that gets copies as long as it keeps up.

use std::{
    collections::VecDeque,
    fmt,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use thiserror::Error;
use tokio::sync::Notify;

use crate::{Body, BoxError};

/// What a frame counts for at least, so that many small ones cannot take more memory than their bytes tell.
const SMALLEST: usize = 64;

/// Bytes that wait for the slower readers of many bodies, and their limit.
#[derive(Debug)]
pub(super) struct Memory {
    used: AtomicUsize,
    max: usize,
}

/// Why a copy ended early.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(super) enum Broken {
    #[error("it fell too far behind")]
    Slow,
    #[error("the request's body was not read to its end")]
    Incomplete,
    #[error("the request's body failed")]
    Failed,
}

/// How far the copying of one body has come.
#[derive(Clone)]
pub(super) struct Feed(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    memory: Arc<Memory>,
    /// How many bytes the copy may be behind.
    cap: usize,
    /// Rings once, when the body has ended.
    over: Notify,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Frame<Bytes>>,
    /// What the queue counts for.
    behind: usize,
    end: Option<Result<(), Broken>>,
    /// Nobody reads the copy any more.
    unwanted: bool,
    reader: Option<Waker>,
}

/// The body as its first reader gets it.
struct Tee {
    source: Body,
    feed: Feed,
    /// Bytes that are to come, where that is known.
    left: Option<u64>,
}

/// The copy.
struct Copy {
    feed: Feed,
    /// As it was before anything was read.
    hint: SizeHint,
    read: u64,
    ended: bool,
}

/// The same body twice: the first to be read as ever, the second a copy of what is read of the first.
///
/// 1. The first reader never waits for the second.
/// 2. No more than `cap` bytes wait for the second reader, and with those of other bodies no more than `memory` allows.
///    Beyond that, the copy ends with an error, and what waited is freed.
/// 3. If the first reader fails, or stops before the end, the copy ends with an error.
/// 4. Bytes are shared, not copied.
pub(super) fn tee(body: Body, cap: usize, memory: &Arc<Memory>) -> (Body, Body, Feed) {
    let state = Mutex::default();
    let feed = Feed(Arc::new(Shared { state, memory: Arc::clone(memory), cap, over: Notify::new() }));
    let hint = body.size_hint();
    let copy = Copy { feed: feed.clone(), hint, read: 0, ended: false };
    let tee = Tee { source: body, feed: feed.clone(), left: hint.exact() };
    (Body::new(tee), Body::new(copy), feed)
}

// === impl Memory ===

impl Memory {
    pub(super) fn new(max: usize) -> Self {
        Self { used: AtomicUsize::new(0), max }
    }

    fn take(&self, bytes: usize) -> bool {
        let fits = |used: usize| used.checked_add(bytes).filter(|used| *used <= self.max);
        self.used.fetch_update(Relaxed, Relaxed, fits).is_ok()
    }

    fn give_back(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Relaxed);
    }

    #[cfg(test)]
    pub(super) fn used(&self) -> usize {
        self.used.load(Relaxed)
    }
}

// === impl Feed ===

impl Feed {
    /// When the body has ended, and how.
    pub(super) async fn over(&self) -> Result<(), Broken> {
        loop {
            if let Some(end) = self.lock().end {
                return end;
            }
            self.0.over.notified().await;
        }
    }

    /// Why the copy ended early, if it did.
    pub(super) fn broken(&self) -> Option<Broken> {
        self.lock().end?.err()
    }

    fn push(&self, frame: Frame<Bytes>) {
        let cost = cost(&frame).max(SMALLEST);
        let mut state = self.lock();
        if state.end.is_some() || state.unwanted {
            return;
        }
        if state.behind + cost > self.0.cap || !self.0.memory.take(cost) {
            drop(state);
            return self.end(Err(Broken::Slow));
        }
        state.behind += cost;
        state.queue.push_back(frame);
        wake(state);
    }

    fn end(&self, end: Result<(), Broken>) {
        let mut state = self.lock();
        if state.end.is_some() {
            return;
        }
        state.end = Some(end);
        if end.is_err() {
            self.clear(&mut state);
        }
        wake(state);
        self.0.over.notify_one();
    }

    fn clear(&self, state: &mut State) {
        state.queue = VecDeque::new();
        self.0.memory.give_back(std::mem::take(&mut state.behind));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.memory.give_back(state.behind);
    }
}

/// Lets the reader of the copy go on, once the lock is free.
fn wake(mut state: MutexGuard<'_, State>) {
    let reader = state.reader.take();
    drop(state);
    if let Some(reader) = reader {
        reader.wake();
    }
}

fn cost(frame: &Frame<Bytes>) -> usize {
    let trailers = frame.trailers_ref().into_iter().flatten();
    frame.data_ref().map_or(0, Bytes::len)
        + trailers.map(|(name, value)| name.as_str().len() + value.len()).sum::<usize>()
}

// === impl Tee ===

impl HttpBody for Tee {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        let polled = Pin::new(&mut this.source).poll_frame(cx);
        match &polled {
            Poll::Pending => {}
            Poll::Ready(None) => this.feed.end(Ok(())),
            Poll::Ready(Some(Err(_))) => this.feed.end(Err(Broken::Failed)),
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    this.left = this.left.map(|left| left.saturating_sub(data.len() as u64));
                    this.feed.push(Frame::data(data.clone()));
                } else if let Some(trailers) = frame.trailers_ref() {
                    this.feed.push(Frame::trailers(trailers.clone()));
                    this.feed.end(Ok(()));
                }
                // A reader that knows the length does not ask for the end.
                if this.source.is_end_stream() {
                    this.feed.end(Ok(()));
                }
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.source.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.source.size_hint()
    }
}

impl Drop for Tee {
    fn drop(&mut self) {
        self.feed.end(if self.left == Some(0) { Ok(()) } else { Err(Broken::Incomplete) });
    }
}

// === impl Copy ===

impl HttpBody for Copy {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        if this.ended {
            return Poll::Ready(None);
        }
        let mut state = this.feed.lock();
        if let Some(frame) = state.queue.pop_front() {
            let cost = cost(&frame).max(SMALLEST);
            state.behind -= cost;
            this.feed.0.memory.give_back(cost);
            this.read += frame.data_ref().map_or(0, Bytes::len) as u64;
            return Poll::Ready(Some(Ok(frame)));
        }
        let Some(end) = state.end else {
            state.reader = Some(cx.waker().clone());
            return Poll::Pending;
        };
        this.ended = true;
        Poll::Ready(end.err().map(|broken| Err(broken.into())))
    }

    fn is_end_stream(&self) -> bool {
        if self.ended {
            return true;
        }
        let state = self.feed.lock();
        state.queue.is_empty() && state.end == Some(Ok(()))
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = SizeHint::new();
        hint.set_lower(self.hint.lower().saturating_sub(self.read));
        if let Some(upper) = self.hint.upper() {
            hint.set_upper(upper.saturating_sub(self.read).max(hint.lower()));
        }
        hint
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        let mut state = self.feed.lock();
        state.unwanted = true;
        self.feed.clear(&mut state);
    }
}

impl fmt::Debug for Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        f.debug_struct("Feed").field("behind", &state.behind).field("end", &state.end).finish_non_exhaustive()
    }
}
