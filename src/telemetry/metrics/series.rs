//! What is counted of one route and upstream.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use http::StatusCode;
use tokio::time::Duration;

use super::{
    super::{Finished, MethodLabel},
    shelf::Shelf,
};
use crate::Outcome;

const CODES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];

/// Method, index of the status class, outcome.
type Key = (MethodLabel, usize, &'static str);

/// The counters of all requests on one route to one upstream.
pub(super) struct Series {
    /// By method and class of status. The usual outcome has its counters in place, the others make theirs when needed.
    completed: [[AtomicU64; CODES.len()]; MethodLabel::COUNT],
    others: Shelf<Key, AtomicU64>,
    pub(super) duration: Histogram,
    pub(super) request_bytes: AtomicU64,
    pub(super) response_bytes: AtomicU64,
    pub(super) attempts: AtomicU64,
    pub(super) retries: AtomicU64,
    pub(super) hedges: AtomicU64,
}

impl Series {
    pub(super) fn new(bounds: &Arc<[Duration]>) -> Self {
        Self {
            completed: Default::default(),
            others: Shelf::default(),
            duration: Histogram::new(bounds),
            request_bytes: AtomicU64::default(),
            response_bytes: AtomicU64::default(),
            attempts: AtomicU64::default(),
            retries: AtomicU64::default(),
            hedges: AtomicU64::default(),
        }
    }

    pub(super) fn record(&self, finished: &Finished) {
        let code = code(finished.status);
        if finished.outcome == Outcome::Completed {
            if let Some(counter) = self.completed.get(finished.method.index()).and_then(|codes| codes.get(code)) {
                counter.fetch_add(1, Relaxed);
            }
        } else {
            let key = (finished.method, code, finished.outcome.as_str());
            self.others.with(&key, || key, AtomicU64::default, |counter| counter.fetch_add(1, Relaxed));
        }
        self.duration.record(finished.duration);
        let record = &finished.record;
        for (counter, more) in [
            (&self.request_bytes, record.request_bytes),
            (&self.response_bytes, finished.response_bytes),
            (&self.attempts, record.attempts.into()),
            (&self.retries, record.attempts.saturating_sub(record.hedges.saturating_add(1)).into()),
            (&self.hedges, record.hedges.into()),
        ] {
            if more > 0 {
                counter.fetch_add(more, Relaxed);
            }
        }
    }

    /// Method, code, outcome and number of the requests that ended, where there were any, in a fixed order.
    pub(super) fn requests(&self) -> Vec<(&'static str, &'static str, &'static str, u64)> {
        let mut all = Vec::new();
        for (method, codes) in MethodLabel::all().zip(&self.completed) {
            for (code, counter) in CODES.iter().zip(codes) {
                let count = counter.load(Relaxed);
                if count > 0 {
                    all.push((method.as_str(), *code, Outcome::Completed.as_str(), count));
                }
            }
        }
        for ((method, code, outcome), counter) in self.others.sorted() {
            all.push((method.as_str(), CODES.get(code).copied().unwrap_or("none"), outcome, counter.load(Relaxed)));
        }
        all
    }
}

/// An index into [`CODES`].
fn code(status: Option<StatusCode>) -> usize {
    status.map_or(0, |status| match status.as_u16() / 100 {
        // The classes end at 5; RFC 9110 section 15 has a client treat what it does not know as the class's x00, and
        // anything above as a server error.
        class @ 1..=4 => class.into(),
        _ => 5,
    })
}

/// Counts of durations up to each of some bounds.
pub(super) struct Histogram {
    bounds: Arc<[Duration]>,
    /// One more than there are bounds: the last one has none.
    counts: Box<[AtomicU64]>,
    nanoseconds: AtomicU64,
}

impl Histogram {
    pub(super) fn new(bounds: &Arc<[Duration]>) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::default()).collect();
        Self { bounds: Arc::clone(bounds), counts, nanoseconds: AtomicU64::default() }
    }

    pub(super) fn record(&self, duration: Duration) {
        if let Some(count) = self.counts.get(self.bounds.partition_point(|bound| *bound < duration)) {
            count.fetch_add(1, Relaxed);
        }
        // 584 years of requests fit.
        self.nanoseconds.fetch_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }

    /// Sum in seconds, number, and each bucket's bound and own count.
    pub(super) fn read(&self) -> (f64, u64, Vec<(f64, u64)>) {
        let bounds = self.bounds.iter().map(Duration::as_secs_f64).chain([f64::INFINITY]);
        let buckets: Vec<_> = bounds.zip(self.counts.iter().map(|count| count.load(Relaxed))).collect();
        let number = buckets.iter().map(|(_, count)| count).sum();
        (Duration::from_nanos(self.nanoseconds.load(Relaxed)).as_secs_f64(), number, buckets)
    }
}
