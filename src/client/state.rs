//! What the pool's lock guards: connections, and the queue for them. Nothing here waits or starts anything.

use std::{
    collections::VecDeque,
    sync::{Arc, Weak, atomic::Ordering::SeqCst},
};

use tokio::{sync::oneshot, time::Instant};

use super::{
    connect::{ConnectError, Slot},
    http1::Http1,
    http2::Session,
    lease::{Conn, Lease, Stream},
    shared::Shared,
    watch::Watch,
};

/// How many unused watches are kept for HTTP/2 streams to come.
const SPARE_WATCHES: usize = 64;

/// What a waiting request is told.
pub(super) type Granted = Result<Lease, ConnectError>;

#[derive(Default)]
pub(super) struct State {
    /// Ordered by when they became idle.
    idle: VecDeque<(Instant, Http1)>,
    sessions: Vec<(Option<Instant>, Arc<Session>)>,
    waiters: VecDeque<(u64, oneshot::Sender<Granted>)>,
    next_ticket: u64,
    /// Sockets open and being opened.
    pub(super) open: usize,
    /// The places of those HTTP/2 connections that get no more requests and have not closed yet.
    draining: Vec<Weak<Slot>>,
    connecting: usize,
    pub(super) in_flight: usize,
    /// All watches in use, and some that are not.
    watches: Vec<Arc<Watch>>,
    spare: Vec<Arc<Watch>>,
    /// How many requests one connection carries, as far as is known.
    per_connection: usize,
    pub(super) keeper: Keeper,
    /// About now, as of the keeper's last tick. Never later than now.
    pub(super) now: Option<Instant>,
    pub(super) closed: bool,
}

/// What the pool's task does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Keeper {
    /// There is none.
    #[default]
    Off,
    /// It closes idle connections.
    Sweeping,
    /// It also counts ticks for requests in flight.
    Ticking,
}

/// Connections that were found dead or of no more use, to be dropped when the lock is not held.
#[derive(Default)]
pub(super) struct Garbage {
    http1: Vec<Http1>,
    sessions: Vec<Arc<Session>>,
    waiters: Vec<oneshot::Sender<Granted>>,
}

impl State {
    pub(super) fn new(per_connection: usize) -> Self {
        Self { per_connection, ..Self::default() }
    }

    /// A connection for one request, if one is free.
    pub(super) fn checkout(&mut self, shared: &Arc<Shared>, garbage: &mut Garbage) -> Option<Lease> {
        let conn = self.take(garbage)?;
        self.in_flight += 1;
        Some(Lease::new(Arc::clone(shared), conn))
    }

    fn take(&mut self, garbage: &mut Garbage) -> Option<Conn> {
        while let Some((_, conn)) = self.idle.pop_back() {
            if !conn.sender.is_closed() {
                return Some(Conn::One(conn));
            }
            garbage.http1.push(conn);
        }
        if self.sessions.is_empty() {
            return None;
        }
        self.drop_dead_sessions(garbage);
        let (idle, session) = self.sessions.iter_mut().find(|(_, session)| session.has_room())?;
        *idle = None;
        session.active.fetch_add(1, SeqCst);
        let session = Arc::clone(session);
        Some(Conn::Two(Stream { session, watch: self.watch() }))
    }

    fn watch(&mut self) -> Arc<Watch> {
        self.spare.pop().unwrap_or_else(|| {
            let watch = Arc::new(Watch::new());
            self.watches.push(Arc::clone(&watch));
            watch
        })
    }

    /// Takes back a connection; `keep` says whether connections are kept that nobody waits for.
    pub(super) fn checkin(&mut self, conn: Conn, reusable: bool, keep: bool, garbage: &mut Garbage) {
        match conn {
            Conn::One(conn) => {
                let wanted = keep || !self.waiters.is_empty();
                if reusable && wanted && !self.closed && !conn.sender.is_closed() {
                    let now = self.time();
                    self.idle.push_back((now, conn));
                } else {
                    garbage.http1.push(conn);
                }
            }
            Conn::Two(Stream { session, watch }) => {
                let left = session.active.fetch_sub(1, SeqCst) - 1;
                // An upload still holds its watch and will write to it.
                if !watch.is_uploading() && self.spare.len() < SPARE_WATCHES {
                    self.spare.push(watch);
                }
                if left == 0
                    && let Some(at) = self.sessions.iter().position(|(_, known)| Arc::ptr_eq(known, &session))
                {
                    if keep || !self.waiters.is_empty() {
                        let now = self.time();
                        self.sessions[at].0 = Some(now);
                    } else {
                        self.sessions.swap_remove(at);
                    }
                }
                garbage.sessions.push(session);
            }
        }
    }

    /// Adds an HTTP/1.1 connection just made.
    pub(super) fn add_http1(&mut self, conn: Http1, keep: bool, garbage: &mut Garbage) {
        self.connecting -= 1;
        self.per_connection = 1;
        self.watches.push(Arc::clone(&conn.watch));
        if self.closed || (!keep && self.waiters.is_empty()) {
            garbage.http1.push(conn);
        } else {
            let now = self.time();
            self.idle.push_back((now, conn));
        }
    }

    /// Adds an HTTP/2 connection just made.
    pub(super) fn add_session(&mut self, session: Arc<Session>, max_streams: usize, garbage: &mut Garbage) {
        self.connecting -= 1;
        if self.closed {
            garbage.sessions.push(session);
            return;
        }
        if !self.sessions.iter().any(|(_, session)| session.is_known()) {
            self.per_connection = max_streams;
        }
        let now = self.time();
        self.sessions.push((Some(now), session));
    }

    /// A connection was not made: tells those who now wait in vain.
    pub(super) fn connect_failed(&mut self, error: &ConnectError) {
        self.connecting -= 1;
        let alone = self.connecting == 0 && self.in_flight == 0 && self.sessions.is_empty();
        let uncovered = self.waiters.len().saturating_sub(self.coming());
        let failing = if alone { self.waiters.len() } else { uncovered.min(self.per_connection) };
        for (_, waiter) in self.waiters.drain(..failing) {
            let _ = waiter.send(Err(error.clone()));
        }
    }

    /// Puts a request into the queue: at its end, or, with the ticket of an earlier time, at its head.
    pub(super) fn enqueue(&mut self, ticket: Option<u64>) -> (u64, oneshot::Receiver<Granted>) {
        let (sender, receiver) = oneshot::channel();
        let ticket = match ticket {
            Some(ticket) => ticket,
            None => {
                self.next_ticket += 1;
                self.next_ticket
            }
        };
        let at = self.waiters.partition_point(|(other, _)| *other < ticket);
        self.waiters.insert(at, (ticket, sender));
        (ticket, receiver)
    }

    /// Takes a request out of the queue.
    pub(super) fn dequeue(&mut self, ticket: u64) -> Option<oneshot::Sender<Granted>> {
        let at = self.waiters.binary_search_by_key(&ticket, |(other, _)| *other).ok()?;
        self.waiters.remove(at).map(|(_, waiter)| waiter)
    }

    /// Gives free connections to those who wait.
    pub(super) fn hand_out(&mut self, shared: &Arc<Shared>, garbage: &mut Garbage) {
        while !self.waiters.is_empty() {
            let Some(mut lease) = self.checkout(shared, garbage) else { break };
            while let Some((_, waiter)) = self.waiters.pop_front() {
                match waiter.send(Ok(lease)) {
                    Ok(()) => break,
                    // It went away just now; its own drop finds nothing left to do.
                    Err(Ok(back)) if !self.waiters.is_empty() => lease = back,
                    Err(Ok(mut back)) => {
                        self.in_flight -= 1;
                        if let Some(conn) = back.take() {
                            self.checkin(conn, true, true, garbage);
                        }
                        return;
                    }
                    Err(Err(_)) => return,
                }
            }
        }
    }

    /// How many more connections to make for those who wait; they are counted as begun.
    pub(super) fn plan(&mut self, max_connections: usize) -> usize {
        let mut begun = 0;
        if self.waiters.is_empty() || self.closed {
            return begun;
        }
        // Those that drain do not keep others from being made, as long as they are no more than may be open.
        self.draining.retain(|slot| slot.strong_count() > 0);
        let most = max_connections.saturating_add(self.draining.len().min(max_connections));
        while self.open < most && self.waiters.len() > self.coming() {
            self.open += 1;
            self.connecting += 1;
            begun += 1;
        }
        begun
    }

    /// For how many of those who wait a connection is on its way.
    fn coming(&self) -> usize {
        let unknown = self.sessions.iter().filter(|(_, session)| session.is_open() && !session.is_known()).count();
        (self.connecting + unknown).saturating_mul(self.per_connection)
    }

    /// How many wait without one.
    pub(super) fn uncovered(&self) -> usize {
        self.waiters.len().saturating_sub(self.coming())
    }

    pub(super) fn pending(&self) -> usize {
        self.waiters.len()
    }

    /// A peer says how many streams it allows; the next connections will likely hear the same.
    pub(super) fn learn_streams(&mut self) {
        if let Some(limit) = self.sessions.iter().rev().find(|(_, s)| s.is_known()).map(|(_, s)| s.limit()) {
            self.per_connection = limit.max(1);
        }
    }

    pub(super) fn drop_dead_sessions(&mut self, garbage: &mut Garbage) {
        for (_, dead) in self.sessions.extract_if(.., |(_, session)| !session.is_open()) {
            self.draining.push(Weak::clone(&dead.slot));
            garbage.sessions.push(dead);
        }
    }

    /// Closes what has been idle since `before`, and forgets what is dead.
    pub(super) fn sweep(&mut self, before: Option<Instant>, garbage: &mut Garbage) {
        let old = |since: Instant| before.is_some_and(|before| since <= before);
        let expired = self.idle.partition_point(|(since, _)| old(*since));
        garbage.http1.extend(self.idle.drain(..expired).map(|(_, conn)| conn));
        if self.idle.iter().any(|(_, conn)| conn.sender.is_closed()) {
            let (dead, alive) = self.idle.drain(..).partition(|(_, conn)| conn.sender.is_closed());
            self.idle = alive;
            let dead: VecDeque<(Instant, Http1)> = dead;
            garbage.http1.extend(dead.into_iter().map(|(_, conn)| conn));
        }
        self.drop_dead_sessions(garbage);
        let idle = |(since, session): &mut (Option<Instant>, Arc<Session>)| {
            session.active.load(SeqCst) == 0 && since.is_none_or(old)
        };
        garbage.sessions.extend(self.sessions.extract_if(.., idle).map(|(_, session)| session));
    }

    /// About now, without a clock while the keeper keeps one.
    fn time(&mut self) -> Instant {
        match self.now {
            Some(now) if self.keeper != Keeper::Off => now,
            _ => *self.now.insert(Instant::now()),
        }
    }

    /// What the keeper is to do; `timed` when requests have limits.
    pub(super) fn wanted(&self, timed: bool) -> Keeper {
        if self.in_flight > 0 && timed {
            Keeper::Ticking
        } else if self.idle.is_empty() && self.sessions.is_empty() {
            Keeper::Off
        } else {
            Keeper::Sweeping
        }
    }

    /// Lets the overdue be told, and forgets the watches of closed connections.
    pub(super) fn tick(&mut self, now: u64) {
        self.watches.retain(|watch| {
            watch.tick(now);
            Arc::strong_count(watch) > 1
        });
    }

    pub(super) fn close(&mut self, garbage: &mut Garbage) {
        self.closed = true;
        garbage.http1.extend(self.idle.drain(..).map(|(_, conn)| conn));
        garbage.sessions.extend(self.sessions.drain(..).map(|(_, session)| session));
        garbage.waiters.extend(self.waiters.drain(..).map(|(_, waiter)| waiter));
    }
}

impl Garbage {
    /// The requests that waited in a pool that is closed.
    pub(super) fn waiters(&mut self) -> impl Iterator<Item = oneshot::Sender<Granted>> {
        self.waiters.drain(..)
    }
}
