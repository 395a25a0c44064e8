//! What a pool's clones, leases and tasks share.

use std::{
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak},
    time::Duration,
};

use tokio::{runtime::Handle, sync::Notify, time::Instant};

use super::{
    Stats, Target,
    connect::{ConnectError, Connector, Http, Slot, connect},
    http1::Http1,
    http2::Session,
    lease::{Conn, Lease},
    state::{Garbage, Keeper, State},
    watch::{Clock, period},
};
use crate::{
    Outcome,
    config::{PoolLimits, Protocol},
};

pub(super) struct Shared {
    pub(super) target: Target,
    pub(super) connector: Connector,
    pub(super) clock: Clock,
    pub(super) max_streams: usize,
    max_connections: usize,
    max_pending: usize,
    idle_timeout: Duration,
    sweep: Duration,
    state: Mutex<State>,
    /// Wakes the keeper when it is to tick.
    keeper: Arc<Notify>,
    runtime: OnceLock<Handle>,
}

/// What to do when the lock is released.
#[must_use]
struct Effects {
    connects: usize,
    keeper: Option<Keeper>,
    garbage: Garbage,
}

impl Shared {
    pub(super) fn new(target: Target, limits: &PoolLimits, connector: Connector) -> Arc<Self> {
        let max_streams = limits.max_streams.max(1);
        let multiplexes = match target.protocol {
            Protocol::Auto => target.has_tls(),
            Protocol::Http1 => false,
            Protocol::Http2 => true,
        };
        let sweep = period(&[limits.idle_timeout]).unwrap_or(Duration::from_secs(1));
        Arc::new(Self {
            clock: Clock::new(target.response_timeout, target.stream_idle_timeout, sweep),
            connector,
            target,
            max_streams,
            max_connections: limits.max_connections.max(1),
            max_pending: limits.max_pending,
            idle_timeout: limits.idle_timeout,
            sweep,
            state: Mutex::new(State::new(if multiplexes { max_streams } else { 1 })),
            keeper: Arc::default(),
            runtime: OnceLock::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keeps(&self) -> bool {
        !self.idle_timeout.is_zero()
    }

    pub(super) fn stats(&self) -> Stats {
        let state = self.lock();
        Stats { open: state.open, in_flight: state.in_flight, pending: state.pending() }
    }

    /// A connection for a request, now or when its turn comes. `ticket` is its place in the queue, kept when it comes
    /// back for another connection. `coming` is called if one is being made for it.
    pub(super) async fn acquire(
        self: &Arc<Self>,
        ticket: &mut Option<u64>,
        coming: impl FnOnce(),
    ) -> Result<Lease, ConnectError> {
        let mut waiting = match self.try_acquire(ticket)? {
            Ok(lease) => return Ok(lease),
            Err(waiting) => waiting,
        };
        if waiting.covered {
            coming();
        }
        match (&mut waiting.receiver).await {
            Ok(granted) => granted,
            Err(_) => Err(ConnectError::new(Outcome::NoEndpoint)),
        }
    }

    fn try_acquire(self: &Arc<Self>, ticket: &mut Option<u64>) -> Result<Result<Lease, Waiting<'_>>, ConnectError> {
        self.runtime.get_or_init(Handle::current);
        let mut garbage = Garbage::default();
        let mut state = self.lock();
        if state.closed {
            return Err(ConnectError::new(Outcome::NoEndpoint));
        }
        if (ticket.is_some() || state.pending() == 0)
            && let Some(lease) = state.checkout(self, &mut garbage)
        {
            let effects = Effects { connects: 0, keeper: self.steer(&mut state), garbage };
            drop(state);
            self.perform(effects);
            return Ok(Ok(lease));
        }
        let (place, receiver) = state.enqueue(*ticket);
        let connects = state.plan(self.max_connections);
        let covered = state.uncovered() == 0;
        let full = ticket.is_none() && state.uncovered() > self.max_pending;
        if full {
            state.dequeue(place);
        }
        let effects = Effects { connects, keeper: self.steer(&mut state), garbage };
        drop(state);
        self.perform(effects);
        if full {
            return Err(ConnectError::new(Outcome::PoolExhausted));
        }
        *ticket = Some(place);
        Ok(Err(Waiting { shared: self, ticket: place, receiver, covered }))
    }

    /// A place for a connection that no request will use.
    pub(super) fn slot(self: &Arc<Self>) -> Result<Arc<Slot>, ConnectError> {
        self.runtime.get_or_init(Handle::current);
        let mut state = self.lock();
        if state.closed {
            return Err(ConnectError::new(Outcome::NoEndpoint));
        }
        if state.open >= self.max_connections {
            return Err(ConnectError::new(Outcome::PoolExhausted));
        }
        state.open += 1;
        Ok(Arc::new(Slot(Arc::clone(self))))
    }

    /// Takes back what a request held.
    pub(super) fn release(self: &Arc<Self>, conn: Conn, reusable: bool) {
        let mut garbage = Garbage::default();
        let mut state = self.lock();
        state.in_flight -= 1;
        state.checkin(conn, reusable, self.keeps(), &mut garbage);
        self.settle(state, garbage);
    }

    /// Lets an upgraded connection go.
    pub(super) fn forget(self: &Arc<Self>) {
        let mut state = self.lock();
        state.in_flight -= 1;
        self.settle(state, Garbage::default());
    }

    pub(super) fn slot_freed(self: &Arc<Self>) {
        let mut state = self.lock();
        state.open -= 1;
        self.settle(state, Garbage::default());
    }

    /// A session has another limit, or none any more because it ended.
    pub(super) fn session_changed(self: &Arc<Self>) {
        let mut garbage = Garbage::default();
        let mut state = self.lock();
        state.drop_dead_sessions(&mut garbage);
        state.learn_streams();
        self.settle(state, garbage);
    }

    pub(super) fn close(self: &Arc<Self>) {
        let mut garbage = Garbage::default();
        let mut state = self.lock();
        state.close(&mut garbage);
        drop(state);
        for waiter in garbage.waiters() {
            let _ = waiter.send(Err(ConnectError::new(Outcome::NoEndpoint)));
        }
        self.keeper.notify_one();
    }

    /// After every change: those who wait get what is free, or connections on their way.
    fn settle(self: &Arc<Self>, mut state: MutexGuard<'_, State>, mut garbage: Garbage) {
        state.hand_out(self, &mut garbage);
        let connects = state.plan(self.max_connections);
        let effects = Effects { connects, keeper: self.steer(&mut state), garbage };
        drop(state);
        self.perform(effects);
    }

    /// Has the keeper do what is needed; the answer is what it did before, if that is to change.
    fn steer(&self, state: &mut State) -> Option<Keeper> {
        match (state.keeper, state.wanted(self.clock.tick.is_some())) {
            (before @ Keeper::Off, wanted @ (Keeper::Sweeping | Keeper::Ticking))
            | (before @ Keeper::Sweeping, wanted @ Keeper::Ticking) => {
                if before == Keeper::Off {
                    state.now = Some(Instant::now());
                }
                state.keeper = wanted;
                Some(before)
            }
            _ => None,
        }
    }

    fn perform(self: &Arc<Self>, effects: Effects) {
        let Effects { connects, keeper, garbage } = effects;
        drop(garbage);
        let Some(runtime) = self.runtime.get() else { return };
        match keeper {
            None => {}
            Some(Keeper::Off) => {
                runtime.spawn(keep(Arc::downgrade(self), Arc::clone(&self.keeper)));
            }
            Some(_) => self.keeper.notify_one(),
        }
        for _ in 0..connects {
            let slot = Arc::new(Slot(Arc::clone(self)));
            runtime.spawn(Attempt { shared: Arc::clone(self), slot, done: false }.run());
        }
    }

    fn connected(self: &Arc<Self>, made: Result<Made, ConnectError>) {
        let mut garbage = Garbage::default();
        let mut state = self.lock();
        match made {
            Ok(Made::One(conn)) => state.add_http1(conn, self.keeps(), &mut garbage),
            Ok(Made::Two(session)) => state.add_session(session, self.max_streams, &mut garbage),
            Err(error) => state.connect_failed(&error),
        }
        self.settle(state, garbage);
    }

    /// One wake-up of the keeper. Whether, and for how long, it sleeps again.
    fn keep(self: &Arc<Self>, ticked: bool) -> Option<Duration> {
        let mut garbage = Garbage::default();
        let mut state = self.lock();
        if ticked {
            let now = Instant::now();
            state.now = Some(now);
            if state.keeper == Keeper::Ticking {
                let tick = self.clock.advance();
                state.tick(tick);
            }
            // What would outlive its time by the next wake-up goes now.
            state.sweep((now + self.sweep).checked_sub(self.idle_timeout), &mut garbage);
        }
        state.keeper = state.wanted(self.clock.tick.is_some());
        let next = match state.keeper {
            Keeper::Off => None,
            Keeper::Sweeping => Some(self.sweep),
            Keeper::Ticking => self.clock.tick,
        };
        drop(state);
        drop(garbage);
        next
    }
}

/// The pool's one task: ticks while requests are in flight, and closes what is idle for too long.
async fn keep(shared: Weak<Shared>, wake: Arc<Notify>) {
    let mut ticked = false;
    loop {
        let Some(sleep) = shared.upgrade().and_then(|shared| shared.keep(ticked)) else { return };
        ticked = tokio::select! {
            () = wake.notified() => false,
            () = tokio::time::sleep(sleep) => true,
        };
    }
}

enum Made {
    One(Http1),
    Two(Arc<Session>),
}

/// A connection being made, with its place already counted.
struct Attempt {
    shared: Arc<Shared>,
    /// Kept until the pool has heard of a failure, lest another attempt begin before those who wait are told.
    slot: Arc<Slot>,
    done: bool,
}

impl Attempt {
    async fn run(mut self) {
        let made = Self::make(&self.shared, Arc::clone(&self.slot)).await;
        self.done = true;
        self.shared.connected(made);
    }

    async fn make(shared: &Arc<Shared>, slot: Arc<Slot>) -> Result<Made, ConnectError> {
        let (io, http) = connect(slot).await?;
        match http {
            Http::One => Http1::start(io).await.map(Made::One),
            Http::Two => Session::start(io, shared).await.map(Made::Two),
        }
    }
}

impl Drop for Attempt {
    /// The task was dropped: its runtime ends.
    fn drop(&mut self) {
        if !self.done {
            self.shared.connected(Err(ConnectError::new(Outcome::Internal)));
        }
    }
}

/// A request in the queue. Leaves it when dropped.
struct Waiting<'a> {
    shared: &'a Shared,
    ticket: u64,
    receiver: tokio::sync::oneshot::Receiver<super::state::Granted>,
    /// Whether as many connections are being made as requests wait.
    covered: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let left = self.shared.lock().dequeue(self.ticket);
        // Outside the lock; what it was granted in the same moment goes back with the receiver.
        drop(left);
    }
}
