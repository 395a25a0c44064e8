//! One HTTP/2 connection, over hyper's.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{
            AtomicBool, AtomicU64, AtomicUsize,
            Ordering::{Relaxed, SeqCst},
        },
    },
    task::{Context, Poll, Waker},
};

use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::TokioIo;

#[cfg(feature = "tls")]
use super::connect::TlsBroken;
use super::{
    body::Upload,
    connect::{ConnectError, Io, Slot},
    driven::{Door, Driven},
    http1::MAX_HEAD,
    shared::Shared,
    watch::Watch,
};
use crate::Outcome;

/// How many bytes a peer may send unread, on one stream and on all of a connection's.
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;

/// hyper's count of streams that the peer allows, until the peer's SETTINGS have come; a number that no peer is likely
/// to choose, by which their coming is noticed.
const UNKNOWN: usize = 97;

/// A connection that carries several requests at once. It closes, once its streams have ended, when the pool and the
/// leases have dropped it.
pub(super) struct Session {
    pub(super) sender: SendRequest<Upload>,
    pub(super) door: Door,
    /// How many streams it may carry. One until the peer has said how many.
    limit: AtomicUsize,
    known: AtomicBool,
    /// The streams it carries. Changed only under the pool's lock.
    pub(super) active: AtomicUsize,
    /// It gets no more streams.
    retired: AtomicBool,
    /// The pool's tick after the one in which it last answered; zero before.
    heard: AtomicU64,
    /// Gone once the socket is closed.
    pub(super) slot: Weak<Slot>,
    /// Why TLS ended it, if that did.
    #[cfg(feature = "tls")]
    pub(super) broken: TlsBroken,
    /// Where the next request's upload is left to be found by the task that sends it.
    pub(super) begun: Begun,
}

/// The upload that was last begun.
#[derive(Clone, Default)]
pub(super) struct Begun(Arc<Mutex<Option<Arc<Watch>>>>);

impl Begun {
    fn slot(&self) -> MutexGuard<'_, Option<Arc<Watch>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set(&self, watch: Arc<Watch>) {
        *self.slot() = Some(watch);
    }

    /// This one is over.
    pub(super) fn clear(&self, watch: &Arc<Watch>) {
        self.slot().take_if(|begun| Arc::ptr_eq(begun, watch));
    }
}

impl Session {
    /// Starts the connection's tasks, on the current runtime.
    pub(super) async fn start(io: Io, shared: &Arc<Shared>) -> Result<Arc<Self>, ConnectError> {
        let (nudge, begun, slot) = (Nudge::default(), Begun::default(), Arc::downgrade(io.slot()));
        #[cfg(feature = "tls")]
        let broken = io.broken().clone();
        let (sender, connection) = http2::Builder::new(Exec { nudge: nudge.clone(), begun: begun.clone() })
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .initial_max_send_streams(UNKNOWN)
            .max_header_list_size(MAX_HEAD as u32)
            .handshake(TokioIo::new(io))
            .await
            .map_err(|e| ConnectError::caused(Outcome::ConnectFailed, e))?;
        let door = Door::default();
        let mut connection = Driven::new(connection, door.clone());
        let session = Arc::new(Self {
            sender,
            door,
            limit: AtomicUsize::new(1),
            known: AtomicBool::new(false),
            active: AtomicUsize::new(0),
            retired: AtomicBool::new(false),
            heard: AtomicU64::new(0),
            slot,
            #[cfg(feature = "tls")]
            broken,
            begun,
        });
        let (weak, pool) = (Arc::downgrade(&session), Arc::downgrade(shared));
        tokio::spawn(async move {
            poll_fn(|cx| {
                nudge.register(cx);
                let Some(mut connection) = connection.get() else { return Poll::Ready(()) };
                let polled = connection.as_mut().poll(cx).map(drop);
                let allowed = connection.current_max_send_streams();
                if polled.is_pending()
                    && let Some(session) = weak.upgrade()
                    && (allowed != UNKNOWN || session.is_known())
                    && let Some(pool) = pool.upgrade()
                {
                    nudge.0.done.store(true, SeqCst);
                    session.allow(allowed, &pool);
                }
                polled
            })
            .await;
            if let Some(session) = weak.upgrade() {
                session.retire();
            }
            if let Some(pool) = pool.upgrade() {
                pool.session_changed();
            }
        });
        Ok(session)
    }

    /// The peer allows so many streams.
    fn allow(&self, streams: usize, pool: &Arc<Shared>) {
        let limit = streams.min(pool.max_streams);
        let changed = self.limit.swap(limit, SeqCst) != limit;
        let first = !self.known.swap(true, SeqCst);
        if changed || first {
            pool.session_changed();
        }
    }

    /// How many streams it may carry, as far as is known.
    pub(super) fn limit(&self) -> usize {
        self.limit.load(SeqCst)
    }

    /// Whether the peer has said how many streams it allows.
    pub(super) fn is_known(&self) -> bool {
        self.known.load(SeqCst)
    }

    /// It has answered, so its SETTINGS have come, even if they said what was supposed.
    pub(super) fn answered(&self, now: u64, pool: &Arc<Shared>) {
        self.heard.store(now + 1, Relaxed);
        if !self.is_known() {
            self.allow(UNKNOWN, pool);
        }
    }

    /// Gives it no more streams.
    pub(super) fn retire(&self) {
        self.retired.store(true, SeqCst);
    }

    /// Whether it has answered anything since this tick.
    pub(super) fn has_answered_since(&self, tick: u64) -> bool {
        self.heard.load(Relaxed) > tick
    }

    pub(super) fn is_open(&self) -> bool {
        !self.retired.load(SeqCst) && !self.sender.is_closed()
    }

    pub(super) fn has_room(&self) -> bool {
        self.is_open() && self.active.load(SeqCst) < self.limit()
    }
}

/// Spawns hyper's tasks.
///
/// The first is the one that reads from the connection; the task that can ask how many streams are allowed is another,
/// which is woken after it until it knows.
///
/// A task that sends what is left of a body waits for the peer to make room, and then does not look at the body. So it is
/// dropped from here when nobody wants the answer any more, which resets the stream. hyper polls a body for the first
/// time just before it spawns the task for the rest of it: that is how the two are known to belong together.
#[derive(Clone)]
struct Exec {
    nudge: Nudge,
    begun: Begun,
}

impl<F> hyper::rt::Executor<F> for Exec
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, task: F) {
        if !self.nudge.0.started.swap(true, SeqCst) {
            let nudge = self.nudge.clone();
            let mut task = Box::pin(task);
            tokio::spawn(poll_fn(move |cx| {
                let polled = Pin::new(&mut task).poll(cx);
                nudge.wake();
                polled
            }));
        } else if let Some(watch) = self.begun.slot().take() {
            let mut task = Box::pin(task);
            tokio::spawn(poll_fn(move |cx| match watch.poll_aborted(cx) {
                Poll::Ready(()) => Poll::Ready(()),
                Poll::Pending => Pin::new(&mut task).poll(cx),
            }));
        } else {
            tokio::spawn(task);
        }
    }
}

#[derive(Clone, Default)]
struct Nudge(Arc<Nudged>);

#[derive(Default)]
struct Nudged {
    started: AtomicBool,
    done: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

impl Nudge {
    fn register(&self, cx: &Context<'_>) {
        if !self.0.done.load(SeqCst) {
            *self.0.waker.lock().unwrap_or_else(PoisonError::into_inner) = Some(cx.waker().clone());
        }
    }

    fn wake(&self) {
        if !self.0.done.load(SeqCst) {
            let waker = self.0.waker.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }
}
