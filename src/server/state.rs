//! What the parts of one connection know together: its I/O, its service, its bodies and its driver.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Waker},
    time::Duration,
};

use smallvec::SmallVec;
use tokio::time::Instant;

use super::{
    ServerConfig,
    drain::{Drain, Stage},
    io::Abort,
    pace::Pace,
    wait::{BodyWait, Direction},
};
use crate::interim::Interim;

/// How long a client may take to close, once it was told that the connection ends (Envoy's `delayed_close_timeout`).
const CLOSE_GRACE: Duration = Duration::from_secs(1);
/// Looks at the clock are no closer than this, whatever the settings.
const SHORTEST_WATCH: Duration = Duration::from_millis(100);
/// How long a rejected upload is read and thrown away, so that the client comes to read the answer (nginx's
/// lingering_time).
const LINGER: Duration = Duration::from_secs(30);
/// How long it may pause meanwhile (nginx's lingering_timeout).
const LINGER_PAUSE: Duration = Duration::from_secs(5);

/// One connection's state. Flags and counters are atomics because HTTP/2 streams are tasks of their own; what needs more
/// is behind a lock that is only taken when somebody has to wait.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) config: Arc<ServerConfig>,
    pub(super) http2: bool,
    /// The last request was of HTTP/1.0, where the connection's end may be the answer's.
    pub(super) http10: AtomicBool,
    abort: Abort,
    /// HTTP/1: what goes ahead of the answer in flight.
    pub(super) interim: Arc<Interim>,
    drain: Drain,
    opened: Instant,
    in_flight: AtomicUsize,
    requests: AtomicU64,
    /// Milliseconds since `opened`, plus one; 0 is never. When the last request ended.
    idle_since: AtomicU64,
    /// The same for the first byte of a head that is not complete.
    head_since: AtomicU64,
    /// Bytes came while no request was in flight.
    pub(super) head_bytes: AtomicBool,
    /// Bytes that were made and not yet taken keep a connection from being idle.
    pub(super) write_blocked: AtomicBool,
    /// HTTP/2: bytes written since the last look at the clock.
    pub(super) written: AtomicUsize,
    /// Something happened that may need an earlier timer.
    pub(super) dirty: AtomicBool,
    /// No further requests: their number or the connection's age is reached.
    retiring: AtomicBool,
    /// The last request's body was left unread.
    pub(super) unread_body: AtomicBool,
    /// A protocol switch was answered: what comes is not HTTP any more.
    pub(super) tunnel: AtomicBool,
    waits: Mutex<Waits>,
}

#[derive(Debug, Default)]
struct Waits {
    /// A blocked write.
    write: Option<Pace>,
    /// Bodies of which the client owes the next bytes, or has to take the last ones.
    bodies: SmallVec<[Arc<BodyWait>; 1]>,
    linger: Option<Linger>,
    tunnel: TunnelWaits,
    /// When the clock was looked at last.
    looked: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Linger {
    since: Instant,
    last: Instant,
}

#[derive(Debug, Default)]
struct TunnelWaits {
    cut: bool,
    closed: bool,
    read: Option<Waker>,
    write: Option<Waker>,
    owner: Option<Waker>,
}

/// What a look at the clock leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Look again then.
    Wait(Instant),
    /// Tell the client that the connection ends.
    Close(&'static str),
    /// Drop it.
    Cut(&'static str),
}

impl Connection {
    pub(super) fn new(config: Arc<ServerConfig>, drain: Drain, http2: bool, abort: Abort, opened: Instant) -> Self {
        Self {
            config,
            http2,
            http10: AtomicBool::new(false),
            abort,
            interim: Arc::default(),
            drain,
            opened,
            in_flight: AtomicUsize::new(0),
            requests: AtomicU64::new(0),
            idle_since: AtomicU64::new(1),
            // A fresh HTTP/1 connection owes its first head from the beginning.
            head_since: AtomicU64::new(u64::from(!http2)),
            head_bytes: AtomicBool::new(false),
            write_blocked: AtomicBool::new(false),
            written: AtomicUsize::new(0),
            dirty: AtomicBool::new(true),
            retiring: AtomicBool::new(false),
            unread_body: AtomicBool::new(false),
            tunnel: AtomicBool::new(false),
            waits: Mutex::default(),
        }
    }

    fn stamp(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.opened).as_millis()).unwrap_or(u64::MAX - 1) + 1
    }

    fn unstamp(&self, stamp: u64) -> Option<Instant> {
        stamp.checked_sub(1).map(|millis| self.opened + Duration::from_millis(millis))
    }

    fn waits(&self) -> MutexGuard<'_, Waits> {
        self.waits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // --- requests

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Acquire)
    }

    /// Whether no further requests are wanted.
    pub(super) fn ending(&self) -> bool {
        self.retiring.load(Ordering::Relaxed) || self.drain.stage() >= Stage::Draining
    }

    pub(super) fn retire(&self) {
        self.retiring.store(true, Ordering::Relaxed);
    }

    /// A request's head is complete.
    pub(super) fn begin_request(self: &Arc<Self>) -> InFlight {
        self.head_since.store(0, Ordering::Relaxed);
        self.head_bytes.store(false, Ordering::Relaxed);
        self.unread_body.store(false, Ordering::Relaxed);
        self.in_flight.fetch_add(1, Ordering::AcqRel);
        let requests = self.requests.fetch_add(1, Ordering::Relaxed) + 1;
        if self.config.max_requests_per_connection.is_some_and(|max| requests >= max) {
            self.retire();
        }
        InFlight(self.clone())
    }

    /// Called after the connection was polled: bytes that came and made no request are the beginning of a head.
    pub(super) fn note_head(&self) {
        if self.head_bytes.load(Ordering::Relaxed) && self.in_flight() == 0 {
            self.head_bytes.store(false, Ordering::Relaxed);
            if self.head_since.load(Ordering::Relaxed) == 0 {
                self.head_since.store(self.stamp(Instant::now()), Ordering::Relaxed);
                self.dirty.store(true, Ordering::Relaxed);
            }
        }
    }

    /// An answer is not going to be whole, and the connection is about to end: the client must not take that for the
    /// answer's end. HTTP/1.1 and HTTP/2 have their own ends of an answer; a reset there could only take more away.
    pub(super) fn cut(&self) {
        if self.in_flight() > 0 && self.http10.load(Ordering::Relaxed) {
            self.abort.abort();
        }
    }

    // --- waits

    /// A write is blocked, after `written` bytes that went without a wait.
    pub(super) fn write_blocked(&self, written: usize) {
        self.write_blocked.store(true, Ordering::Relaxed);
        if let Some(rate) = &self.config.minimum_rate {
            let now = Instant::now();
            let mut waits = self.waits();
            let pace = waits.write.get_or_insert_with(|| Pace::new(rate));
            if written > 0 {
                pace.progress(written, rate, now);
            }
            pace.wait(now);
            self.dirty.store(true, Ordering::Relaxed);
        }
    }

    pub(super) fn write_resumed(&self, written: usize) {
        let now = Instant::now();
        self.write_blocked.store(false, Ordering::Relaxed);
        self.idle_since.store(self.stamp(now), Ordering::Relaxed);
        if let Some(rate) = &self.config.minimum_rate
            && let Some(pace) = &mut self.waits().write
        {
            pace.progress(written, rate, now);
        }
    }

    /// A body that the client may have to be waited for.
    pub(super) fn add_body(&self, direction: Direction) -> Arc<BodyWait> {
        let wait = Arc::new(BodyWait::new(direction, &self.config.minimum_rate.unwrap_or_default()));
        if self.config.minimum_rate.is_some() {
            self.waits().bodies.push(wait.clone());
        }
        wait
    }

    pub(super) fn remove_body(&self, wait: &Arc<BodyWait>) {
        self.waits().bodies.retain(|other| !Arc::ptr_eq(other, wait));
    }

    // --- lingering

    /// Whether the client may still be sending what nobody will read: the rest of a body, or of a head that was refused.
    pub(super) fn lingers(&self) -> bool {
        !self.tunnel.load(Ordering::Relaxed)
            && (self.unread_body.load(Ordering::Relaxed)
                || self.head_bytes.load(Ordering::Relaxed)
                || self.head_since.load(Ordering::Relaxed) > 0)
    }

    /// The rest of a rejected upload is thrown away; whether some of it just `came`.
    pub(super) fn linger(&self, came: bool) {
        let now = Instant::now();
        let mut waits = self.waits();
        let linger = waits.linger.get_or_insert(Linger { since: now, last: now });
        if came {
            linger.last = now;
        }
        drop(waits);
        self.dirty.store(true, Ordering::Relaxed);
    }

    // --- tunnels

    /// Registers a reader or a writer of a tunnel. Whether the tunnel is cut.
    pub(super) fn tunnel_waits(&self, read: bool, cx: &Context<'_>) -> bool {
        let mut waits = self.waits();
        let slot = if read { &mut waits.tunnel.read } else { &mut waits.tunnel.write };
        if !slot.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *slot = Some(cx.waker().clone());
        }
        waits.tunnel.cut
    }

    pub(super) fn cut_tunnel(&self) {
        let mut waits = self.waits();
        waits.tunnel.cut = true;
        let wakers = [waits.tunnel.read.take(), waits.tunnel.write.take()];
        drop(waits);
        wakers.into_iter().flatten().for_each(Waker::wake);
    }

    /// The I/O was dropped.
    pub(super) fn closed(&self) {
        let mut waits = self.waits();
        waits.tunnel.closed = true;
        let owner = waits.tunnel.owner.take();
        drop(waits);
        if let Some(owner) = owner {
            owner.wake();
        }
    }

    /// Whether the I/O was dropped; the task is woken when it is.
    pub(super) fn poll_closed(&self, cx: &Context<'_>) -> bool {
        let mut waits = self.waits();
        if !waits.tunnel.closed {
            waits.tunnel.owner = Some(cx.waker().clone());
        }
        waits.tunnel.closed
    }

    /// What the connection took is progress of all streams that wait for the client to take more, in equal parts.
    fn credit(&self, waits: &Waits, written: usize, now: Instant) {
        let Some(rate) = &self.config.minimum_rate else {
            return;
        };
        let responses = || waits.bodies.iter().filter(|body| body.is_response());
        let share = written / responses().count().max(1);
        responses().for_each(|body| body.credit(share, rate, now));
    }

    // --- the clock

    /// What is due at `now`. `closing` is since when the client knows that the connection ends.
    pub(super) fn look(&self, now: Instant, closing: Option<Instant>) -> Verdict {
        let config = &*self.config;
        let rate = config.minimum_rate.unwrap_or_default();
        let watch = rate.grace.max(SHORTEST_WATCH);
        let mut next = now + config.idle_timeout.max(SHORTEST_WATCH);
        // Whether `at` is over; else it is not forgotten.
        let mut over = |at: Instant| {
            if at > now {
                next = next.min(at);
            }
            at <= now
        };

        let mut waits = self.waits();
        let written = self.written.swap(0, Ordering::Relaxed);
        let looked = waits.looked.replace(now).unwrap_or(self.opened);
        if let Some(linger) = waits.linger {
            return if over(linger.since + LINGER) | over(linger.last + LINGER_PAUSE) {
                Verdict::Cut("the client went on sending a body that nobody wants")
            } else {
                Verdict::Wait(next)
            };
        }
        if waits.write.as_ref().and_then(Pace::deadline).is_some_and(&mut over) {
            return Verdict::Cut("the client does not read");
        }
        if written > 0 {
            // hyper hands HTTP/2 data over in chunks of any size and lets go of a body before its last chunk is sent, so
            // what the connection takes as a whole is credited to all streams that wait.
            self.credit(&waits, written, now);
            if written as f64 >= f64::from(rate.bytes_per_second) * (now - looked).as_secs_f64() {
                self.idle_since.store(self.stamp(now), Ordering::Relaxed);
            }
            over(now + watch);
        }
        for body in &waits.bodies {
            if body.deadline().is_some_and(&mut over) {
                if body.is_response() {
                    return Verdict::Cut("the client does not read");
                }
                body.expire();
            }
        }
        drop(waits);

        if self.in_flight() > 0 {
            if !self.ending()
                && let Some(age) = config.max_connection_age
                && over(self.opened + age)
            {
                return Verdict::Close("its age is reached");
            }
            // Waits that other tasks begin are noticed by looking.
            over(now + watch);
            return Verdict::Wait(next);
        }
        if self.write_blocked.load(Ordering::Relaxed) {
            over(now + watch);
            return Verdict::Wait(next);
        }
        if let Some(closing) = closing {
            let idle_since = self.unstamp(self.idle_since.load(Ordering::Relaxed)).unwrap_or(closing);
            return if over(closing.max(idle_since) + CLOSE_GRACE) {
                Verdict::Cut("the client did not close")
            } else {
                Verdict::Wait(next)
            };
        }
        if let Some(since) = self.unstamp(self.head_since.load(Ordering::Relaxed)) {
            return if over(since + config.head_timeout) {
                Verdict::Cut("the request's head did not come in time")
            } else {
                Verdict::Wait(next)
            };
        }
        if let Some(since) = self.unstamp(self.idle_since.load(Ordering::Relaxed))
            && over(since + config.idle_timeout)
        {
            return Verdict::Close("idle");
        }
        if config.max_connection_age.is_some_and(|age| over(self.opened + age)) {
            return Verdict::Close("its age is reached");
        }
        Verdict::Wait(next)
    }
}

/// A request in flight, until this is dropped.
#[derive(Debug)]
pub(super) struct InFlight(Arc<Connection>);

impl InFlight {
    pub(super) fn connection(&self) -> &Arc<Connection> {
        &self.0
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.idle_since.store(self.0.stamp(Instant::now()), Ordering::Relaxed);
        self.0.in_flight.fetch_sub(1, Ordering::AcqRel);
    }
}
