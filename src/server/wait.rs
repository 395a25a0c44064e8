//! A wait for the client, over one body.

use std::{
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
    task::{Context, Waker},
};

use tokio::time::Instant;

use super::{MinimumRate, pace::Pace, state::Connection};
use crate::{Error, Outcome};

/// What the reader or writer of a body, the clock, and the future that answers the request share.
#[derive(Debug)]
pub(super) struct BodyWait {
    direction: Direction,
    /// What the client did wrong with a request's body.
    fault: OnceLock<Outcome>,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    pace: Pace,
    /// The client ran out of time, and the body's reader has to hear of it.
    too_slow: bool,
    waker: Option<Waker>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Request,
    Response,
}

impl BodyWait {
    pub(super) fn new(direction: Direction, rate: &MinimumRate) -> Self {
        let inner = Inner { pace: Pace::new(rate), too_slow: false, waker: None };
        Self { direction, fault: OnceLock::new(), inner: Mutex::new(inner) }
    }

    pub(super) fn is_response(&self) -> bool {
        self.direction == Direction::Response
    }

    /// When the client is out of time; `None` while it is not waited for, and once it is told.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let inner = self.lock();
        inner.pace.deadline().filter(|_| !inner.too_slow)
    }

    /// The body's reader is to hear that the client is too slow.
    pub(super) fn expire(&self) {
        let mut inner = self.lock();
        inner.too_slow = true;
        if let Some(waker) = inner.waker.take() {
            waker.wake();
        }
    }

    /// While it is waited for: the client took `bytes` more.
    pub(super) fn credit(&self, bytes: usize, rate: &MinimumRate, now: Instant) {
        let mut inner = self.lock();
        if inner.pace.deadline().is_some() {
            inner.pace.progress(bytes, rate, now);
            inner.pace.wait(now);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The client is waited for; the task is woken when it takes too long.
    pub(super) fn wait(&self, cx: &Context<'_>) {
        let mut inner = self.lock();
        inner.pace.wait(Instant::now());
        if !inner.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            inner.waker = Some(cx.waker().clone());
        }
    }

    /// The client has to take what it was given.
    pub(super) fn given(&self) {
        self.lock().pace.wait(Instant::now());
    }

    pub(super) fn progress(&self, bytes: usize, connection: &Connection) {
        if let Some(rate) = &connection.config.minimum_rate {
            self.lock().pace.progress(bytes, rate, Instant::now());
        }
    }

    pub(super) fn too_slow(&self) -> bool {
        self.lock().too_slow
    }

    pub(super) fn fault(&self) -> Option<Outcome> {
        self.fault.get().copied()
    }

    /// The first fault counts.
    pub(super) fn fail(&self, fault: Outcome) -> Error {
        Error::new(*self.fault.get_or_init(|| fault))
    }
}
