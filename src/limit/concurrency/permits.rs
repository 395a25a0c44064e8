use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use http::Response;
use http_body::Body as _;
use smallvec::SmallVec;

use crate::{
    Body,
    body::{End, Observer},
};

/// A number of permits and a bounded queue of those who wait for one; clones are handles to the same.
///
/// 1. A permit is had at once if one is free and nobody waits. Who waits is served in the order of arrival.
/// 2. A [`Permit`] comes back when it is dropped, and goes to the first who waits. Who stops waiting leaves the queue; a
///    permit that was on its way to them goes to the next.
/// 3. After someone waited too long, nobody is let into the queue until a permit has come back ("failfast").
/// 4. Fewer permits than are out is no error: those out stay valid, and none is handed on until enough have come back.
///
/// # Example
/// ```
/// use portcullis::limit::concurrency::Permits;
///
/// let permits = Permits::new(1, 0);
/// let permit = permits.try_acquire().unwrap();
/// assert!(permits.try_acquire().is_none());
/// drop(permit);
/// assert!(permits.try_acquire().is_some());
/// ```
#[derive(Clone)]
pub struct Permits(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    limit: usize,
    in_flight: usize,
    max_queued: usize,
    shut: bool,
    next_ticket: u64,
    waiting: BTreeMap<u64, Waker>,
    /// Tickets whose permit is theirs, though they have not looked yet. Counted in `in_flight`.
    granted: BTreeSet<u64>,
}

/// The right to be in flight; gives itself back when dropped.
#[must_use = "a permit that is dropped is given back at once"]
pub struct Permit(Permits);

/// What came of asking for a permit.
#[derive(Debug)]
pub(crate) enum Entry {
    Granted(Permit),
    Queued(Ticket),
    Refused,
}

/// A place in the queue: a future that becomes the permit.
#[derive(Debug)]
pub(crate) struct Ticket {
    permits: Permits,
    number: u64,
    used: bool,
}

// === impl Permits ===

impl Permits {
    /// So many permits, and a queue of so many at the most.
    #[must_use]
    pub fn new(limit: usize, max_queued: usize) -> Self {
        Self(Arc::new(Mutex::new(State {
            limit,
            in_flight: 0,
            max_queued,
            shut: false,
            next_ticket: 0,
            waiting: BTreeMap::new(),
            granted: BTreeSet::new(),
        })))
    }

    /// A permit, if one is free and nobody waits.
    #[must_use]
    pub fn try_acquire(&self) -> Option<Permit> {
        self.try_acquire_within(usize::MAX)
    }

    /// A permit, if fewer than `below` are out, one is free, and nobody waits.
    pub(crate) fn try_acquire_within(&self, below: usize) -> Option<Permit> {
        let mut state = self.lock();
        (state.in_flight < below && state.take()).then(|| Permit(self.clone()))
    }

    /// A permit, or a place in the queue, or neither.
    pub(crate) fn enter(&self) -> Entry {
        let mut state = self.lock();
        if state.take() {
            return Entry::Granted(Permit(self.clone()));
        }
        if state.shut || state.waiting.len() >= state.max_queued {
            return Entry::Refused;
        }
        let number = state.next_ticket;
        state.next_ticket += 1;
        state.waiting.insert(number, Waker::noop().clone());
        Entry::Queued(Ticket { permits: self.clone(), number, used: false })
    }

    /// How many permits there are.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.lock().limit
    }

    /// Changes how many there are.
    pub fn set_limit(&self, limit: usize) {
        self.change(|state| state.limit = limit);
    }

    /// Changes how many may wait. Those who do already stay.
    pub fn set_max_queued(&self, max_queued: usize) {
        self.lock().max_queued = max_queued;
    }

    /// How many permits are out.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.lock().in_flight
    }

    /// How many wait.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.lock().waiting.len()
    }

    /// The share of the permits that is out; above 1 after the limit was lowered, 1 where the limit is 0.
    #[must_use]
    pub fn utilization(&self) -> f64 {
        let state = self.lock();
        if state.limit == 0 { 1.0 } else { state.in_flight as f64 / state.limit as f64 }
    }

    fn release(&self) {
        self.change(|state| {
            state.in_flight -= 1;
            state.shut = false;
        });
    }

    /// Makes a change that may set permits free, and hands them out.
    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut wakers = SmallVec::<[Waker; 1]>::new();
        let mut state = self.lock();
        change(&mut state);
        while state.in_flight < state.limit
            && let Some((number, waker)) = state.waiting.pop_first()
        {
            state.in_flight += 1;
            state.granted.insert(number);
            wakers.push(waker);
        }
        // Wakers are foreign code, also when dropped, and may well come back for the lock.
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No foreign code runs under the lock but `Waker::clone`; a panic there leaves the state as it was.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn take(&mut self) -> bool {
        let free = self.in_flight < self.limit && self.waiting.is_empty();
        self.in_flight += usize::from(free);
        free
    }
}

impl fmt::Debug for Permits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        f.debug_struct("Permits")
            .field("limit", &state.limit)
            .field("in_flight", &state.in_flight)
            .field("queued", &state.waiting.len())
            .finish_non_exhaustive()
    }
}

// === impl Permit ===

impl Permit {
    /// The response, which holds the permit to the end of its body.
    pub(crate) fn hold(self, mut response: Response<Body>) -> Response<Body> {
        if !response.body().is_end_stream() {
            response.body_mut().observe(Box::new(self));
        }
        response
    }
}

impl Observer for Permit {
    fn end(&mut self, _: End<'_>) {
        // Dropping does it: observers are dropped as soon as they have heard.
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.release();
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").finish_non_exhaustive()
    }
}

// === impl Ticket ===

impl Ticket {
    /// Leaves the queue after too long a wait, which shuts it, unless the permit has come after all.
    pub(crate) fn give_up(&mut self) -> Option<Permit> {
        let mut state = self.permits.lock();
        if state.granted.remove(&self.number) {
            self.used = true;
            return Some(Permit(self.permits.clone()));
        }
        self.used = true;
        state.shut = true;
        let waker = state.waiting.remove(&self.number);
        drop(state);
        drop(waker);
        None
    }
}

impl Future for Ticket {
    type Output = Permit;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Permit> {
        let this = &mut *self;
        let mut state = this.permits.lock();
        if state.granted.remove(&this.number) {
            this.used = true;
            return Poll::Ready(Permit(this.permits.clone()));
        }
        let before = match state.waiting.get_mut(&this.number) {
            Some(waker) if !waker.will_wake(cx.waker()) => Some(std::mem::replace(waker, cx.waker().clone())),
            _ => None,
        };
        drop(state);
        drop(before);
        Poll::Pending
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.used {
            return;
        }
        let mut state = self.permits.lock();
        let waker = state.waiting.remove(&self.number);
        let granted = state.granted.remove(&self.number);
        drop(state);
        drop(waker);
        if granted {
            self.permits.release();
        }
    }
}
