//! Informational responses (1xx) on their way around hyper, whose server has no way to send them.

use std::{
    fmt::Write as _,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Waker},
};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

/// More than this is not kept for a client that does not read.
const MAX_BYTES: usize = 64 << 10;

/// What an HTTP/1.1 connection is to send ahead of the answer to its current request.
#[derive(Debug, Default)]
pub(crate) struct Interim {
    /// Odd while a request waits for its answer.
    request: AtomicU64,
    is_waiting: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    bytes: Vec<u8>,
    connection: Option<Waker>,
}

impl Interim {
    /// The number of the last request.
    pub(crate) fn request(&self) -> u64 {
        self.request.load(Ordering::Acquire).div_ceil(2)
    }

    /// A request's head is complete.
    pub(crate) fn begin(&self) {
        self.take();
        // An answer that was given up leaves its number odd.
        let last = self.request.load(Ordering::Acquire);
        self.request.store(last + 1 + last % 2, Ordering::Release);
    }

    /// The answer to the request is there.
    pub(crate) fn end(&self) {
        let _state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if self.request.load(Ordering::Acquire) % 2 == 1 {
            self.request.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// Has the connection woken when there is something to send.
    pub(crate) fn wake_for(&self, cx: &Context<'_>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut state.connection {
            Some(waker) => waker.clone_from(cx.waker()),
            None => state.connection = Some(cx.waker().clone()),
        }
    }

    /// Sends a response ahead of the answer to this request, unless that is there already.
    pub(crate) fn send(&self, request: u64, status: StatusCode, headers: &HeaderMap) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let current = self.request.load(Ordering::Acquire);
        if current.div_ceil(2) != request || current.is_multiple_of(2) || state.bytes.len() > MAX_BYTES {
            return;
        }
        let mut line = String::new();
        let _ = write!(line, "HTTP/1.1 {} {}\r\n", status.as_u16(), status.canonical_reason().unwrap_or_default());
        state.bytes.extend_from_slice(line.as_bytes());
        for (name, value) in headers {
            for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
                state.bytes.extend_from_slice(part);
            }
        }
        state.bytes.extend_from_slice(b"\r\n");
        self.is_waiting.store(true, Ordering::Release);
        if let Some(waker) = &state.connection {
            waker.wake_by_ref();
        }
    }

    pub(crate) fn is_waiting(&self) -> bool {
        self.is_waiting.load(Ordering::Acquire)
    }

    /// What is to be sent.
    pub(crate) fn take(&self) -> Bytes {
        if !self.is_waiting() {
            return Bytes::new();
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.is_waiting.store(false, Ordering::Release);
        std::mem::take(&mut state.bytes).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_request_that_waits_is_sent_to() {
        let interim = Interim::default();
        let mut headers = HeaderMap::new();
        headers.insert("link", "</a>".parse().unwrap());
        let hint = |request| interim.send(request, StatusCode::from_u16(103).unwrap(), &headers);
        hint(0);
        interim.begin();
        let first = interim.request();
        hint(first + 1);
        assert!(!interim.is_waiting());
        hint(first);
        assert_eq!(interim.take(), "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n");
        assert!(interim.take().is_empty());
        interim.end();
        hint(first);
        interim.begin();
        assert_ne!(interim.request(), first);
        hint(first);
        assert!(!interim.is_waiting(), "the answer was there, and another request is");
    }
}
