//! A body that may not take longer than it is allowed to.

use std::{
    fmt,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use pin_project::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};

use super::Deadline;
use crate::{
    Body, BoxError, Error, Outcome, Sent,
    body::{End, Observer},
};

/// The limits of one body.
#[derive(Debug, Clone, Default)]
pub(super) struct Limits {
    pub(super) until: Option<Instant>,
    pub(super) idle: Option<Duration>,
    /// Of the other direction, whose movement ends a pause too.
    pub(super) upload: Option<Upload>,
    /// The task's deadline while the response and its body are made.
    pub(super) scope: Option<Deadline>,
}

/// When something of a request's body last moved.
#[derive(Debug, Clone)]
pub(super) struct Upload(Arc<Moved>);

#[derive(Debug)]
struct Moved {
    began: Instant,
    millis: AtomicU64,
}

impl Upload {
    pub(super) fn begin(now: Instant) -> Self {
        Self(Arc::new(Moved { began: now, millis: AtomicU64::new(0) }))
    }

    fn last(&self) -> Instant {
        self.0.began + Duration::from_millis(self.0.millis.load(Relaxed))
    }
}

impl Observer for Upload {
    fn data(&mut self, _: usize) {
        let millis = Instant::now().saturating_duration_since(self.0.began).as_millis();
        self.0.millis.store(u64::try_from(millis).unwrap_or(u64::MAX), Relaxed);
    }

    fn end(&mut self, _: End<'_>) {
        self.data(0);
    }
}

/// A body under [`Limits`].
#[pin_project]
pub(super) struct TimedBody {
    body: Body,
    limits: Limits,
    /// Registered when the body first has to be waited for.
    #[pin]
    timer: Option<Sleep>,
    /// When the pause that lasts began.
    paused: Option<Instant>,
    failed: bool,
}

/// `body` under `limits`; as it is, where there is nothing to wait for.
pub(super) fn limit(body: Body, limits: Limits) -> Body {
    if body.is_end_stream() || limits.until.is_none() && limits.idle.is_none() {
        return body;
    }
    Body::new(TimedBody { body, limits, timer: None, paused: None, failed: false })
}

impl Limits {
    /// When a pause that began at `paused` is over at the latest.
    fn end(&self, paused: Instant) -> Option<Instant> {
        let idle = self.idle.map(|idle| {
            let moved = self.upload.as_ref().map_or(paused, |upload| upload.last().max(paused));
            Deadline::after(moved, idle).instant()
        });
        idle.into_iter().chain(self.until).min()
    }
}

impl HttpBody for TimedBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut this = self.project();
        if *this.failed {
            return Poll::Ready(None);
        }
        let body = Pin::new(&mut *this.body);
        let polled = match this.limits.scope {
            Some(deadline) => deadline.during(|| body.poll_frame(cx)),
            None => body.poll_frame(cx),
        };
        if polled.is_ready() {
            *this.paused = None;
            return polled;
        }
        let paused = *this.paused.get_or_insert_with(Instant::now);
        loop {
            let Some(end) = this.limits.end(paused) else { return Poll::Pending };
            match this.timer.as_mut().as_pin_mut() {
                None => this.timer.set(Some(sleep_until(end))),
                Some(mut timer) => {
                    if timer.deadline() != end {
                        timer.as_mut().reset(end);
                    }
                    if timer.poll(cx).is_pending() {
                        return Poll::Pending;
                    }
                    // The upload may have moved since.
                    if this.limits.end(paused).is_some_and(|end| end <= Instant::now()) {
                        break;
                    }
                }
            }
        }
        *this.failed = true;
        // What is not read any more is not needed: the stream is reset now, not when the reader goes.
        drop(std::mem::take(this.body));
        let error = Error::new(Outcome::UpstreamTimeout).with_sent(Sent::Possibly);
        Poll::Ready(Some(Err(error.with_source("the response's body took too long").into())))
    }

    fn is_end_stream(&self) -> bool {
        self.failed || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.failed { SizeHint::with_exact(0) } else { self.body.size_hint() }
    }
}

impl fmt::Debug for TimedBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TimedBody").field("limits", &self.limits).finish_non_exhaustive()
    }
}
