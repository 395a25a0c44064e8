//! The circuit breaker as a state machine: no clock, no lock, no chance of its own.

use std::time::Duration;

use tokio::time::Instant;

use super::window::Window;
use crate::{classify::Class, config::CircuitBreaker};

/// By how much longer than it must be, at most, a breaker is open. Linkerd's jitter ratio.
const JITTER: f64 = 0.5;

/// No time is longer, so that no sum of times is beyond what an `Instant` can hold.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// How soon to come back while a probe is under way.
const WHILE_PROBING: Duration = Duration::from_secs(1);

/// What a circuit breaker does with requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum State {
    /// All pass.
    Closed,
    /// None pass; or the time is over, and the next one probes.
    Open,
    /// One has passed to probe, the others do not.
    HalfOpen,
}

/// The pure state machine: what was admitted is settled once, with a [`Class`].
///
/// # Example
/// ```
/// use std::time::Duration;
/// use portcullis::{breaker::{Machine, State}, classify::Class, config::CircuitBreaker};
/// use tokio::time::Instant;
///
/// let now = Instant::now();
/// let mut rng = fastrand::Rng::with_seed(1);
/// let mut machine = Machine::new(CircuitBreaker { consecutive_failures: 1, ..CircuitBreaker::default() }, now);
///
/// let ticket = machine.admit(now, &mut rng).unwrap();
/// machine.settle(&ticket, Class::GatewayError, Duration::ZERO, now, &mut rng);
/// assert_eq!(machine.state(), State::Open);
///
/// // Between one and one and a half seconds later a single request may probe.
/// let later = now + machine.admit(now, &mut rng).unwrap_err().retry_after;
/// let probe = machine.admit(later, &mut rng).unwrap();
/// assert!(machine.admit(later, &mut rng).is_err());
/// machine.settle(&probe, Class::Success, Duration::ZERO, later, &mut rng);
/// assert_eq!(machine.state(), State::Closed);
/// ```
#[derive(Debug, Clone)]
pub struct Machine {
    config: CircuitBreaker,
    phase: Phase,
    /// Which tickets count: raised with every change of state, so that what was begun before says nothing of after.
    generation: u64,
    consecutive: u32,
    /// The generation of the last probe, where it ran out of time and no other has failed since.
    overdue: Option<u64>,
    /// How many times in a row it opened without having been closed.
    streak: u32,
    /// How many times in all.
    opened: u64,
    window: Window,
}

/// The right to one request.
#[derive(Debug, PartialEq, Eq)]
pub struct Ticket(u64);

/// A request is not let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refused {
    /// After how long it is worth trying again.
    pub retry_after: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Closed,
    Open {
        until: Instant,
    },
    /// `reached`: a good head was there, only the body is not over.
    HalfOpen {
        since: Instant,
        reached: bool,
    },
}

impl Machine {
    /// A closed breaker. Times beyond a year count as a year.
    #[must_use]
    pub fn new(mut config: CircuitBreaker, now: Instant) -> Self {
        for time in [&mut config.open, &mut config.max_open, &mut config.probe_timeout] {
            *time = (*time).min(LONGEST);
        }
        let window = Window::new(config.window, now);
        Self {
            config,
            phase: Phase::Closed,
            generation: 1,
            consecutive: 0,
            overdue: None,
            streak: 0,
            opened: 0,
            window,
        }
    }

    /// Lets a request through, or does not.
    ///
    /// # Errors
    /// When it is open, or half open with a probe under way.
    pub fn admit(&mut self, now: Instant, rng: &mut fastrand::Rng) -> Result<Ticket, Refused> {
        if let Phase::HalfOpen { since, reached } = self.phase
            && let overdue = since + self.config.probe_timeout
            && now >= overdue
        {
            // From when it was due, so that a time without requests is no longer than it has to be.
            if reached {
                self.close();
            } else {
                let probe = self.generation;
                self.open(overdue, rng);
                self.overdue = Some(probe);
            }
        }
        if let Some(refused) = self.refusal(now) {
            return Err(refused);
        }
        if self.phase != Phase::Closed {
            self.enter(Phase::HalfOpen { since: now, reached: false });
        }
        Ok(Ticket(self.generation))
    }

    /// Why [`admit`](Self::admit) would refuse a request now, which takes nothing. Where it would not, what is admitted may
    /// still be refused: a probe that is overdue is only judged then.
    pub(super) fn refusal(&self, now: Instant) -> Option<Refused> {
        let until = match self.phase {
            Phase::Closed => return None,
            Phase::Open { until } => until,
            Phase::HalfOpen { since, .. } => (since + self.config.probe_timeout).min(now + WHILE_PROBING),
        };
        let retry_after = until.saturating_duration_since(now);
        (!retry_after.is_zero()).then_some(Refused { retry_after })
    }

    /// A good head was there. A probe whose body then lasts longer than `probe_timeout` has done its duty.
    pub fn reached(&mut self, ticket: &Ticket) {
        if ticket.0 == self.generation
            && let Phase::HalfOpen { reached, .. } = &mut self.phase
        {
            *reached = true;
        }
    }

    /// What became of an admitted request, after `elapsed`.
    pub fn settle(&mut self, ticket: &Ticket, class: Class, elapsed: Duration, now: Instant, rng: &mut fastrand::Rng) {
        let slow = self.config.slow_call_rate > 0 && self.config.slow_call.is_some_and(|slow| elapsed >= slow);
        if self.overdue == Some(ticket.0) && class == Class::Success && !slow {
            // Else whoever takes longer than a probe may would never be found back.
            return self.close();
        }
        if ticket.0 != self.generation {
            return;
        }
        match self.phase {
            Phase::HalfOpen { .. } if class == Class::Ignored => self.enter(Phase::Open { until: now }),
            Phase::HalfOpen { .. } if class.is_failure() || slow => self.open(now, rng),
            Phase::HalfOpen { .. } => self.close(),
            Phase::Closed if class == Class::Ignored => {}
            Phase::Closed => {
                if self.count(class, slow, now) {
                    self.open(now, rng);
                }
            }
            Phase::Open { .. } => {}
        }
    }

    /// What it does with requests.
    #[must_use]
    pub fn state(&self) -> State {
        match self.phase {
            Phase::Closed => State::Closed,
            Phase::Open { .. } => State::Open,
            Phase::HalfOpen { .. } => State::HalfOpen,
        }
    }

    /// How often it opened, probes that failed included.
    pub(super) fn opened(&self) -> u64 {
        self.opened
    }

    /// How often its state changed.
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// What all requests pass with, while it is closed.
    pub(super) fn closed(&self) -> Option<Ticket> {
        (self.phase == Phase::Closed).then_some(Ticket(self.generation))
    }

    /// Takes a request into the counts and tells whether they are too bad.
    fn count(&mut self, class: Class, slow: bool, now: Instant) -> bool {
        match class {
            Class::Success => self.consecutive = 0,
            Class::ServerError | Class::GatewayError => self.consecutive = self.consecutive.saturating_add(1),
            Class::Throttled | Class::Ignored => {}
        }
        let config = &self.config;
        let counts = self.window.record(now, class.is_failure(), slow);
        let above = |part: u64, percent: u8| percent > 0 && part * 100 >= counts.requests * u64::from(percent);
        let in_a_row = config.consecutive_failures > 0 && self.consecutive >= config.consecutive_failures;
        let enough = counts.requests >= u64::from(config.min_requests.max(1));
        let rates = above(counts.failures, config.failure_rate) || above(counts.slow, config.slow_call_rate);
        in_a_row || enough && rates
    }

    fn open(&mut self, from: Instant, rng: &mut fastrand::Rng) {
        let CircuitBreaker { open, max_open, .. } = self.config;
        let open = open.saturating_mul(1 << self.streak.min(20)).min(max_open.max(open));
        self.overdue = None;
        self.streak = self.streak.saturating_add(1);
        self.opened += 1;
        self.enter(Phase::Open { until: from + open.mul_f64(1.0 + JITTER * rng.f64()) });
    }

    fn close(&mut self) {
        self.overdue = None;
        self.streak = 0;
        self.consecutive = 0;
        self.window.clear();
        self.enter(Phase::Closed);
    }

    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.generation += 1;
    }
}

impl Ticket {
    pub(super) fn number(&self) -> u64 {
        self.0
    }

    pub(super) fn numbered(number: u64) -> Self {
        Self(number)
    }
}
