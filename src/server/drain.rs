//! Shutting down: who is still at work, and what they are told.

use std::{
    collections::HashMap,
    fmt,
    future::poll_fn,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, timeout_at},
};

/// How long work that was cut may take to notice.
const CUT_GRACE: Duration = Duration::from_secs(1);

/// A server's way down, shared by all that must end before it has ended.
///
/// The server's connections are on its list by themselves, also those that switched protocols. Work that no connection
/// stands for is put there with [`Drain::track`].
///
/// # Example
/// ```
/// # tokio_test::block_on(async {
/// use std::time::Duration;
/// use portcullis::server::Drain;
///
/// let drain = Drain::new();
/// let work = drain.track();
/// let task = tokio::spawn(async move {
///     work.draining().await;
///     // The last of it. The drain waits for `work` to be dropped.
/// });
/// let report = drain.run(Duration::from_secs(30)).await;
/// assert_eq!((report.finished, report.cut), (1, 0));
/// # task.await.unwrap();
/// # });
/// ```
#[derive(Clone)]
pub struct Drain {
    shared: Arc<Shared>,
    /// How far a part of the server is that ends before the rest.
    branch: Option<Arc<AtomicU8>>,
}

struct Shared {
    stage: AtomicU8,
    table: Mutex<Table>,
    /// Told when the stage changes and when the last of the tracked is gone.
    changed: Notify,
}

#[derive(Default)]
struct Table {
    next: u64,
    tracked: HashMap<u64, Option<Waker>, foldhash::fast::RandomState>,
}

/// How far a [`Drain`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Stage {
    /// Not begun.
    Running,
    /// What is in flight is finished, nothing new is begun.
    Draining,
    /// The time is over: what is left ends now.
    Cut,
}

/// What became of the work that was there when a drain began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DrainReport {
    /// Connections, and other tracked work, that ended by themselves.
    pub finished: usize,
    /// Those that were cut at the deadline.
    pub cut: usize,
    /// How long it took.
    pub took: Duration,
}

/// One piece of work that a [`Drain`] waits for, until this is dropped.
pub struct Tracked {
    drain: Drain,
    id: u64,
    /// The waker in the table, so that a poll need not look there.
    registered: Mutex<Option<Waker>>,
}

impl Drain {
    /// One that has not begun.
    #[must_use]
    pub fn new() -> Self {
        let shared =
            Shared { stage: AtomicU8::new(Stage::Running as u8), table: Mutex::default(), changed: Notify::new() };
        Self { shared: Arc::new(shared), branch: None }
    }

    /// A part of it that can be begun and cut by itself, and is with the whole.
    pub(super) fn branch(&self) -> Self {
        Self { shared: self.shared.clone(), branch: Some(Arc::new(AtomicU8::new(Stage::Running as u8))) }
    }

    /// Puts one piece of work on the list.
    #[must_use]
    pub fn track(&self) -> Tracked {
        let mut table = self.table();
        let id = table.next;
        table.next += 1;
        table.tracked.insert(id, None);
        drop(table);
        Tracked { drain: self.clone(), id, registered: Mutex::default() }
    }

    /// How far it is.
    #[must_use]
    pub fn stage(&self) -> Stage {
        let branch = self.branch.as_ref().map_or(0, |stage| stage.load(Ordering::Acquire));
        match self.shared.stage.load(Ordering::Acquire).max(branch) {
            0 => Stage::Running,
            1 => Stage::Draining,
            _ => Stage::Cut,
        }
    }

    /// How much is on the list.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.table().tracked.len()
    }

    /// Begins it: the server that it belongs to stops accepting, and all on the list are told. Does not wait.
    pub fn begin(&self) {
        self.advance(Stage::Draining);
    }

    /// Cuts what is left. Does not wait.
    pub fn cut(&self) {
        self.advance(Stage::Cut);
    }

    /// Waits until it is begun.
    pub async fn begun(&self) {
        self.until(|drain| drain.stage() >= Stage::Draining).await;
    }

    /// Begins it, waits until the list is empty, for `timeout` at most, cuts what is left and reports.
    pub async fn run(&self, timeout: Duration) -> DrainReport {
        let began = Instant::now();
        let before = self.in_flight();
        self.begin();
        let in_time = timeout_at(began + timeout, self.until(|drain| drain.in_flight() == 0)).await;
        let cut = if in_time.is_ok() { 0 } else { self.in_flight() };
        if cut > 0 {
            self.cut();
            let _ = timeout_at(Instant::now() + CUT_GRACE, self.until(|drain| drain.in_flight() == 0)).await;
        }
        DrainReport { finished: before.saturating_sub(cut), cut, took: began.elapsed() }
    }

    async fn until(&self, done: impl Fn(&Self) -> bool) {
        loop {
            let changed = self.shared.changed.notified();
            tokio::pin!(changed);
            // Before looking, or a change in between would be missed.
            changed.as_mut().enable();
            if done(self) {
                return;
            }
            changed.await;
        }
    }

    fn advance(&self, stage: Stage) {
        let own = self.branch.as_deref().unwrap_or(&self.shared.stage);
        if own.fetch_max(stage as u8, Ordering::AcqRel) >= stage as u8 {
            return;
        }
        let wakers: Vec<Waker> = self.table().tracked.values().flatten().cloned().collect();
        for waker in wakers {
            waker.wake();
        }
        self.shared.changed.notify_waiters();
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.shared.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Drain {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Drain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Drain").field("stage", &self.stage()).field("in_flight", &self.in_flight()).finish()
    }
}

impl Tracked {
    /// How far the drain is.
    #[must_use]
    pub fn stage(&self) -> Stage {
        self.drain.stage()
    }

    /// Waits until the drain has begun: nothing new should be begun.
    pub async fn draining(&self) {
        poll_fn(|cx| self.poll_until(Stage::Draining, cx)).await;
    }

    /// Waits until the drain's time is over: what is in flight must end now.
    pub async fn cut(&self) {
        poll_fn(|cx| self.poll_until(Stage::Cut, cx)).await;
    }

    fn poll_until(&self, stage: Stage, cx: &Context<'_>) -> Poll<()> {
        if self.poll_stage(cx) >= stage { Poll::Ready(()) } else { Poll::Pending }
    }

    /// How far the drain is; the task is woken when that changes.
    pub(super) fn poll_stage(&self, cx: &Context<'_>) -> Stage {
        let mut registered = self.registered.lock().unwrap_or_else(PoisonError::into_inner);
        if !registered.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *registered = Some(cx.waker().clone());
            if let Some(slot) = self.drain.table().tracked.get_mut(&self.id) {
                *slot = Some(cx.waker().clone());
            }
        }
        self.drain.stage()
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        let mut table = self.drain.table();
        table.tracked.remove(&self.id);
        let last = table.tracked.is_empty();
        drop(table);
        if last {
            self.drain.shared.changed.notify_waiters();
        }
    }
}

impl fmt::Debug for Tracked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tracked").field("stage", &self.stage()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_ends_in_time_is_finished_and_the_rest_is_cut() {
        let drain = Drain::new();
        let (quick, stuck) = (drain.track(), drain.track());
        tokio::spawn(async move {
            quick.draining().await;
            tokio::time::sleep(Duration::from_secs(2)).await;
        });
        tokio::spawn(async move { stuck.cut().await });
        let report = drain.run(Duration::from_secs(10)).await;
        assert_eq!((report.finished, report.cut), (1, 1));
        assert_eq!(report.took.as_secs(), 10);
        assert_eq!(drain.in_flight(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn an_empty_drain_is_over_at_once() {
        let report = Drain::new().run(Duration::from_secs(10)).await;
        assert_eq!(report, DrainReport::default());
    }

    #[tokio::test(start_paused = true)]
    async fn work_that_ignores_the_cut_does_not_hold_up_the_end() {
        let drain = Drain::new();
        let _deaf = drain.track();
        let report = drain.run(Duration::from_secs(3)).await;
        assert_eq!(report.cut, 1);
        assert!(report.took < Duration::from_secs(5));
    }

    #[tokio::test]
    async fn a_branch_ends_by_itself_and_with_the_whole() {
        let drain = Drain::new();
        let (one, two) = (drain.branch(), drain.branch());
        let (of_one, of_two) = (one.track(), two.track());
        one.begin();
        of_one.draining().await;
        assert_eq!((drain.stage(), two.stage()), (Stage::Running, Stage::Running));
        assert_eq!(drain.in_flight(), 2, "the whole waits for its branches");
        drain.begin();
        of_two.draining().await;
        one.cut();
        of_one.cut().await;
        assert_eq!(of_two.stage(), Stage::Draining);
    }

    #[tokio::test]
    async fn one_begun_earlier_is_noticed() {
        let drain = Drain::new();
        drain.begin();
        drain.begun().await;
        drain.track().draining().await;
    }
}
