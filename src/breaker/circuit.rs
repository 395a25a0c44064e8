//! The state machine, shared.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicU64,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
    time::Duration,
};

use http::HeaderMap;
use tokio::time::Instant;

use super::policy::{Machine, Refused, State, Ticket};
use crate::{
    body::{End, Observer},
    classify::Class,
    config::CircuitBreaker,
    timeout::Patience,
};

/// A circuit breaker. Clones share its state.
///
/// For what is not an HTTP service; around those that are stands [`BreakerLayer`](super::BreakerLayer).
///
/// # Example
/// ```
/// use portcullis::{breaker::{Circuit, State}, classify::Class, config::CircuitBreaker};
///
/// let circuit = Circuit::new("cart", CircuitBreaker { consecutive_failures: 2, ..CircuitBreaker::default() });
/// for _ in 0..2 {
///     circuit.begin().expect("closed").settle(Class::ServerError);
/// }
/// assert_eq!(circuit.state(), State::Open);
/// assert!(circuit.begin().is_err());
/// assert_eq!((circuit.stats().opened, circuit.stats().refused), (1, 1));
/// ```
#[derive(Clone)]
pub struct Circuit(Arc<Shared>);

struct Shared {
    name: Arc<str>,
    /// The number of the ticket that everyone has while it is closed; else zero.
    closed: AtomicU64,
    locked: Mutex<(Machine, fastrand::Rng)>,
    refused: AtomicU64,
}

/// A circuit breaker's figures at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// What it does with requests.
    pub state: State,
    /// How often it opened, probes that failed included.
    pub opened: u64,
    /// How many requests it refused.
    pub refused: u64,
}

/// What one step changed.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Change {
    /// Whether requests may find another state than before.
    pub(crate) moved: bool,
    /// How many times it opened.
    pub(crate) opened: u64,
}

/// One request that was let through, to be settled once. Dropping it says nothing of who was asked, unless a failure was
/// noted before, a limit of [`timeout`](crate::timeout) ends just then, or the thread is panicking.
///
/// As a body's [`Observer`] it settles itself.
pub struct Call {
    circuit: Circuit,
    /// `None` once it is settled.
    ticket: Option<Ticket>,
    began: Instant,
    /// How long there is for the response's head, as long as it is waited for.
    patience: Option<Patience>,
    /// Until when the caller has allowed time.
    told: Option<Instant>,
    class: Class,
}

impl Circuit {
    /// A closed one. The name is for logs and metrics.
    #[must_use]
    pub fn new(name: impl Into<Arc<str>>, config: CircuitBreaker) -> Self {
        let machine = Machine::new(config, Instant::now());
        Self(Arc::new(Shared {
            name: name.into(),
            closed: AtomicU64::new(machine.closed().map_or(0, |ticket| ticket.number())),
            locked: Mutex::new((machine, fastrand::Rng::new())),
            refused: AtomicU64::new(0),
        }))
    }

    /// The name it has in logs and metrics.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Lets a request through, or does not.
    ///
    /// # Errors
    /// When it is open, or half open with a probe under way.
    pub fn begin(&self) -> Result<Call, Refused> {
        let now = Instant::now();
        let (admitted, _) = self.admit(now);
        let ticket = admitted.inspect_err(|_| {
            self.0.refused.fetch_add(1, Relaxed);
        })?;
        let (patience, told, class) = (None, None, Class::Success);
        Ok(Call { circuit: self.clone(), ticket: Some(ticket), began: now, patience, told, class })
    }

    /// What it does with requests.
    #[must_use]
    pub fn state(&self) -> State {
        self.look(|machine| machine.state())
    }

    /// Whether all pass: one atomic load.
    pub(crate) fn is_closed(&self) -> bool {
        self.0.closed.load(Acquire) != 0
    }

    /// Its state, and why it would refuse a request now, which takes nothing.
    pub(crate) fn glance(&self, now: Instant) -> (State, Option<Refused>) {
        if self.is_closed() {
            return (State::Closed, None);
        }
        self.look(|machine| (machine.state(), machine.refusal(now)))
    }

    /// [`begin`](Self::begin) for who keeps ticket and time himself.
    pub(crate) fn admit(&self, now: Instant) -> (Result<Ticket, Refused>, Change) {
        match self.0.closed.load(Acquire) {
            0 => self.with(|machine, rng| machine.admit(now, rng)),
            number => (Ok(Ticket::numbered(number)), Change::default()),
        }
    }

    /// A good head was there.
    pub(crate) fn reached(&self, ticket: &Ticket) {
        if self.0.closed.load(Acquire) != ticket.number() {
            self.with(|machine, _| machine.reached(ticket));
        }
    }

    /// What became of an admitted request, after `elapsed`.
    pub(crate) fn settle(&self, ticket: &Ticket, class: Class, elapsed: Duration, now: Instant) -> Change {
        self.with(|machine, rng| machine.settle(ticket, class, elapsed, now, rng)).1
    }

    /// Its figures now.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let refused = self.0.refused.load(Relaxed);
        self.look(|machine| Stats { state: machine.state(), opened: machine.opened(), refused })
    }

    fn look<T>(&self, at: impl FnOnce(&Machine) -> T) -> T {
        at(&self.lock().0)
    }

    fn lock(&self) -> MutexGuard<'_, (Machine, fastrand::Rng)> {
        // A state is valid after any step, also one cut short by a panic.
        self.0.locked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(&self, act: impl FnOnce(&mut Machine, &mut fastrand::Rng) -> T) -> (T, Change) {
        let mut locked = self.lock();
        let (machine, rng) = &mut *locked;
        let (from, generation, opened) = (machine.state(), machine.generation(), machine.opened());
        let result = act(machine, rng);
        let change = Change { moved: machine.generation() != generation, opened: machine.opened() - opened };
        if change.moved {
            let to = machine.state();
            self.0.closed.store(machine.closed().map_or(0, |ticket| ticket.number()), Release);
            drop(locked);
            tracing::info!(breaker = self.name(), ?from, ?to, "circuit breaker");
        }
        (result, change)
    }
}

impl Call {
    /// How long a limit lets the response's head be waited for, and until when the caller has
    /// [allowed time](Patience::told).
    #[must_use]
    pub(crate) fn within(mut self, patience: Option<Patience>, told: Option<Instant>) -> Self {
        self.patience = patience;
        self.told = told;
        self
    }

    /// What a head with these fields says, whose class this is.
    pub(super) fn judge(&self, class: Class, fields: &HeaderMap) -> Class {
        class.in_time(fields, self.told)
    }

    /// What the head says. A failure stands, whatever becomes of the body.
    pub fn note(&mut self, class: Class) {
        self.patience = None;
        self.class = class;
        if let Some(ticket) = &self.ticket
            && class == Class::Success
        {
            self.circuit.reached(ticket);
        }
    }

    /// It is over.
    pub fn settle(mut self, class: Class) {
        self.end_as(class);
    }

    fn end_as(&mut self, class: Class) {
        let Some(ticket) = self.ticket.take() else { return };
        let now = Instant::now();
        let elapsed = now.saturating_duration_since(self.began);
        self.circuit.settle(&ticket, class, elapsed, now);
    }
}

impl Observer for Call {
    fn trailers(&mut self, trailers: &HeaderMap) {
        if self.class == Class::Success {
            self.class = self.judge(self.class.and_trailers(trailers), trailers);
        }
    }

    fn end(&mut self, end: End<'_>) {
        self.end_as(self.class.at_end(&end));
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if self.ticket.is_some() {
            let late = self.patience.as_ref().is_some_and(|patience| patience.ended_with(self.began, Instant::now()));
            self.end_as(match std::thread::panicking() {
                true => Class::ServerError,
                false if late => Class::GatewayError,
                false => self.class.at_end(&End::Dropped),
            });
        }
    }
}

impl fmt::Debug for Circuit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Circuit").field("name", &self.name()).field("stats", &self.stats()).finish()
    }
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("circuit", &self.circuit.name())
            .field("ticket", &self.ticket)
            .finish_non_exhaustive()
    }
}
