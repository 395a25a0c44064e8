//! Deadlines of one exchange, counted in ticks of the pool's one task.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use crate::{Body, BoxError};

/// No deadline.
const NEVER: u64 = u64::MAX;

/// Between the shortest and the longest tick, an eighth of the shortest limit.
const SHORTEST: Duration = Duration::from_millis(10);
const LONGEST: Duration = Duration::from_secs(1);

/// A fitting period for limits; `None` if there is none.
pub(super) fn period(limits: &[Duration]) -> Option<Duration> {
    let shortest = limits.iter().filter(|limit| !limit.is_zero()).min()?;
    Some((*shortest / 8).clamp(SHORTEST, LONGEST))
}

/// The pool's clock: how often its task has ticked.
///
/// Ticks rather than time, so that no clock is read on a request's way, and a tick that comes late only makes deadlines
/// later.
#[derive(Debug)]
pub(super) struct Clock {
    now: AtomicU64,
    response: u64,
    idle: u64,
    pub(super) tick: Option<Duration>,
}

impl Clock {
    /// A clock for these limits (zero is none), ticking at least every `most`.
    pub(super) fn new(response: Duration, idle: Duration, most: Duration) -> Self {
        let tick = period(&[response, idle]).map(|tick| tick.min(most));
        let ticks = |limit: Duration| match tick {
            // One more, because the tick under way is not a whole one.
            Some(tick) if !limit.is_zero() => {
                u64::try_from(limit.as_nanos().div_ceil(tick.as_nanos())).unwrap_or(NEVER / 2).saturating_add(1)
            }
            _ => NEVER,
        };
        Self { now: AtomicU64::new(0), response: ticks(response), idle: ticks(idle), tick }
    }

    pub(super) fn now(&self) -> u64 {
        self.now.load(SeqCst)
    }

    pub(super) fn advance(&self) -> u64 {
        self.now.fetch_add(1, SeqCst) + 1
    }
}

/// What one exchange waits for, and until when. An HTTP/1.1 connection has one, used again and again; a stream of
/// HTTP/2 borrows one.
#[derive(Debug)]
pub(super) struct Watch {
    /// Until the head has arrived.
    head: AtomicU64,
    /// Afterwards.
    body: AtomicU64,
    responded: AtomicBool,
    uploading: AtomicBool,
    /// Whether the head may take as long as it likes.
    patient: AtomicBool,
    aborted: AtomicBool,
    /// Whether there is a body to be had back.
    offers: AtomicBool,
    slots: Mutex<Slots>,
}

#[derive(Debug, Default)]
struct Slots {
    reader: Option<Waker>,
    upload: Option<Waker>,
    failure: Option<BoxError>,
    offered: Option<Offered>,
}

/// A request's body, to be had back.
#[derive(Debug)]
enum Offered {
    /// None of it was sent.
    Whole(Body),
    /// All of it may have been.
    Copy(Body),
}

impl Watch {
    pub(super) fn new() -> Self {
        Self {
            head: AtomicU64::new(NEVER),
            body: AtomicU64::new(NEVER),
            responded: AtomicBool::new(false),
            uploading: AtomicBool::new(false),
            patient: AtomicBool::new(false),
            aborted: AtomicBool::new(false),
            offers: AtomicBool::new(false),
            slots: Mutex::default(),
        }
    }

    fn slots(&self) -> std::sync::MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts over with a request; `patient` if others limit the time until its response's head.
    pub(super) fn begin(&self, clock: &Clock, uploading: bool, patient: bool) {
        self.body.store(NEVER, SeqCst);
        self.responded.store(false, SeqCst);
        self.aborted.store(false, SeqCst);
        self.uploading.store(uploading, SeqCst);
        self.patient.store(patient, SeqCst);
        let limit = if uploading { clock.idle } else { self.response(clock) };
        self.head.store(clock.now().saturating_add(limit), SeqCst);
    }

    /// The request's body moved on: now it is the endpoint that must take it.
    pub(super) fn uploaded(&self, clock: &Clock) {
        self.head.store(clock.now().saturating_add(clock.idle), SeqCst);
    }

    /// The request's body is waited for: that is not the endpoint's time.
    pub(super) fn upload_waits(&self) {
        self.head.store(NEVER, SeqCst);
    }

    /// The request's body is sent.
    pub(super) fn upload_done(&self, clock: &Clock) {
        self.head.store(clock.now().saturating_add(self.response(clock)), SeqCst);
        self.slots().upload = None;
        // Last: from here on the watch may serve another request.
        self.uploading.store(false, SeqCst);
    }

    fn response(&self, clock: &Clock) -> u64 {
        if self.patient.load(SeqCst) { NEVER } else { clock.response }
    }

    pub(super) fn upload_failed(&self, error: BoxError) {
        self.slots().failure = Some(error);
    }

    /// Why the request's body failed, if it did.
    pub(super) fn take_failure(&self) -> Option<BoxError> {
        self.slots().failure.take()
    }

    /// Puts a request's body where whoever is first takes it: who sends it, or who hears that it was not processed.
    pub(super) fn offer(&self, body: Body) {
        self.slots().offered = Some(Offered::Whole(body));
        self.offers.store(true, SeqCst);
    }

    /// The same for a copy of what is being sent, as long as there is no answer.
    pub(super) fn offer_copy(&self, body: Body) {
        let mut slots = self.slots();
        if !self.responded.load(SeqCst) {
            slots.offered = Some(Offered::Copy(body));
            self.offers.store(true, SeqCst);
        }
    }

    /// Takes the request's body, if it is still there, as it was before any of it was sent.
    pub(super) fn take_offered(&self) -> Option<Body> {
        if !self.offers.swap(false, SeqCst) {
            return None;
        }
        self.slots().offered.take().map(|(Offered::Whole(body) | Offered::Copy(body))| body)
    }

    pub(super) fn is_uploading(&self) -> bool {
        self.uploading.load(SeqCst)
    }

    /// The response's head arrived: the request is processed. Its body may still be waited for.
    pub(super) fn respond(&self) {
        self.responded.store(true, SeqCst);
        if self.offers.load(SeqCst) {
            let copy = self.slots().offered.take_if(|offered| matches!(offered, Offered::Copy(_)));
            drop(copy);
        }
    }

    /// The response's body is waited for, and has been since the last call of `body_moved`.
    pub(super) fn body_waits(&self, clock: &Clock) {
        if self.body.load(SeqCst) == NEVER {
            self.body.store(clock.now().saturating_add(clock.idle), SeqCst);
        }
    }

    pub(super) fn body_moved(&self) {
        self.body.store(NEVER, SeqCst);
    }

    fn is_expired(&self, now: u64) -> bool {
        let deadline = if self.responded.load(SeqCst) { &self.body } else { &self.head };
        deadline.load(SeqCst) <= now
    }

    /// Ready when the deadline is past.
    pub(super) fn poll_expired(&self, cx: &Context<'_>, clock: &Clock) -> Poll<()> {
        if clock.tick.is_none() {
            return Poll::Pending;
        }
        store(&mut self.slots().reader, cx);
        if self.is_expired(clock.now()) { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Wakes who waits, if the deadline is past.
    pub(super) fn tick(&self, now: u64) {
        if self.is_expired(now) {
            let waker = self.slots().reader.take();
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }

    /// Ends the sending of the request's body.
    pub(super) fn abort_upload(&self) {
        self.aborted.store(true, SeqCst);
        let waker = self.slots().upload.take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    pub(super) fn is_aborted(&self) -> bool {
        self.aborted.load(SeqCst)
    }

    /// Ready when the upload is to end.
    pub(super) fn poll_aborted(&self, cx: &Context<'_>) -> Poll<()> {
        store(&mut self.slots().upload, cx);
        if self.is_aborted() { Poll::Ready(()) } else { Poll::Pending }
    }
}

fn store(slot: &mut Option<Waker>, cx: &Context<'_>) {
    match slot {
        Some(waker) if waker.will_wake(cx.waker()) => {}
        _ => *slot = Some(cx.waker().clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    fn clock(response: u64, idle: u64) -> Clock {
        Clock::new(MS(response), MS(idle), LONGEST)
    }

    fn fires_after(clock: &Clock, watch: &Watch) -> Option<u64> {
        let start = clock.now();
        (0..10_000).find_map(|_| {
            let now = clock.advance();
            watch.is_expired(now).then_some(now - start)
        })
    }

    #[test]
    fn a_period_is_an_eighth_within_bounds() {
        assert_eq!(period(&[MS(0), MS(800), MS(8000)]), Some(MS(100)));
        assert_eq!(period(&[MS(1)]), Some(SHORTEST));
        assert_eq!(period(&[Duration::MAX]), Some(LONGEST));
        assert_eq!(period(&[MS(0), MS(0)]), None);
    }

    #[test]
    fn a_deadline_is_never_early_and_late_by_a_tick() {
        let clock = clock(800, 0);
        let watch = Watch::new();
        watch.begin(&clock, false, false);
        // The first tick may come right after the start, so that n ticks are between n - 1 and n periods.
        assert_eq!(fires_after(&clock, &watch), Some(9));
    }

    #[test]
    fn while_the_client_is_waited_for_nothing_runs_out() {
        let clock = clock(800, 1600);
        let watch = Watch::new();
        watch.begin(&clock, true, false);
        watch.upload_waits();
        assert_eq!(fires_after(&clock, &watch), None);
        watch.uploaded(&clock);
        assert_eq!(fires_after(&clock, &watch), Some(17), "the endpoint does not read");
        watch.upload_done(&clock);
        assert_eq!(fires_after(&clock, &watch), Some(9), "the endpoint does not answer");
        watch.respond();
        assert_eq!(fires_after(&clock, &watch), None, "a slow reader");
        watch.body_waits(&clock);
        assert_eq!(fires_after(&clock, &watch), Some(17));
    }

    #[test]
    fn a_body_is_offered_until_it_is_taken_and_a_copy_until_there_is_an_answer() {
        let watch = Watch::new();
        watch.offer(Body::from("body"));
        assert!(watch.take_offered().is_some_and(|body| !http_body::Body::is_end_stream(&body)));
        assert!(watch.take_offered().is_none());
        watch.offer_copy(Body::from("body"));
        watch.respond();
        assert!(watch.take_offered().is_none());
        watch.offer_copy(Body::from("body"));
        assert!(watch.take_offered().is_none(), "it came too late");
        watch.offer(Body::from("body"));
        watch.respond();
        assert!(watch.take_offered().is_some(), "the endpoint answered before it was asked for");
    }

    #[test]
    fn zero_is_no_limit() {
        let clock = clock(0, 100);
        let watch = Watch::new();
        watch.begin(&clock, false, false);
        assert_eq!(fires_after(&clock, &watch), None);
    }
}
