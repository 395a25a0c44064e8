//! What is counted of connections that are forwarded as streams.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use prometheus_client::{
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Unit,
};
use tokio::time::Duration;

use super::series::Histogram;
use crate::telemetry::{FinishedStream, StreamFacts, StreamRecorder};

/// Upper bounds, in milliseconds, of the buckets of `portcullis_stream_duration_seconds`: from a connection that could not be
/// made to one that is kept for a day.
pub const STREAM_BUCKETS_MS: [u64; 12] =
    [10, 100, 1_000, 5_000, 15_000, 60_000, 300_000, 900_000, 3_600_000, 14_400_000, 43_200_000, 86_400_000];

/// Route and upstream; what has none is of the empty one.
type Key = (Arc<str>, Arc<str>);

/// The series of all streams. Under a lock, unlike those of requests: it is taken as a connection begins, which is rare, and
/// so a series cannot be dropped while a stream is about to count itself there as open.
#[derive(Default)]
pub(super) struct Streams(Mutex<BTreeMap<Key, Arc<StreamSeries>>>);

/// The counters of all streams on one route to one upstream.
struct StreamSeries {
    opened: AtomicU64,
    open: AtomicU64,
    received_bytes: AtomicU64,
    sent_bytes: AtomicU64,
    ended: Mutex<BTreeMap<&'static str, u64>>,
    duration: Histogram,
}

impl Streams {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, Arc<StreamSeries>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn begin(&self, facts: &StreamFacts) -> Counted {
        let key = (facts.route.clone().unwrap_or_default(), facts.upstream.clone().unwrap_or_default());
        let mut all = self.lock();
        let series = all.entry(key).or_insert_with(|| Arc::new(StreamSeries::new()));
        series.opened.fetch_add(1, Relaxed);
        series.open.fetch_add(1, Relaxed);
        Counted { series: series.clone() }
    }

    /// What still has open streams stays, so that these are not lost from sight.
    pub(super) fn retain(&self, mut keep: impl FnMut(&str, &str) -> bool) {
        // `keep` is code of others: not called under the lock.
        let mut gone: Vec<Key> = self.lock().keys().cloned().collect();
        gone.retain(|(route, upstream)| !keep(route, upstream));
        let mut all = self.lock();
        for key in gone {
            if all.get(&key).is_some_and(|series| series.open.load(Relaxed) == 0) {
                all.remove(&key);
            }
        }
    }

    pub(super) fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let rows: Vec<_> = self.lock().iter().map(|(key, series)| (key.clone(), series.clone())).collect();
        if rows.is_empty() {
            return Ok(());
        }
        let mut family =
            encoder.encode_descriptor("portcullis_streams", "Streams that ended", None, MetricType::Counter)?;
        for (key, series) in &rows {
            let ended = series.ended().clone();
            for (outcome, count) in ended {
                let [route, upstream] = labels(key);
                let labels = [route, upstream, ("outcome", outcome)];
                ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
            }
        }

        let mut family =
            encoder.encode_descriptor("portcullis_streams_opened", "Streams that began", None, MetricType::Counter)?;
        for (key, series) in &rows {
            ConstCounter::new(series.opened.load(Relaxed)).encode(family.encode_family(&labels(key))?)?;
        }
        let help = "Streams that began and did not end";
        let mut family = encoder.encode_descriptor("portcullis_streams_open", help, None, MetricType::Gauge)?;
        for (key, series) in &rows {
            ConstGauge::new(series.open.load(Relaxed)).encode(family.encode_family(&labels(key))?)?;
        }

        type Bytes = (&'static str, &'static str, fn(&StreamSeries) -> &AtomicU64);
        let bytes: [Bytes; 2] = [
            ("portcullis_stream_received", "Bytes received from clients and passed on", |s| &s.received_bytes),
            ("portcullis_stream_sent", "Bytes sent to clients", |s| &s.sent_bytes),
        ];
        for (name, help, counter) in bytes {
            let mut family = encoder.encode_descriptor(name, help, Some(&Unit::Bytes), MetricType::Counter)?;
            for (key, series) in &rows {
                ConstCounter::new(counter(series).load(Relaxed)).encode(family.encode_family(&labels(key))?)?;
            }
        }

        let (name, help) = ("portcullis_stream_duration", "Time from the beginning of a stream to its end");
        let mut family = encoder.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Histogram)?;
        for (key, series) in &rows {
            let (sum, count, buckets) = series.duration.read();
            let labels = labels(key);
            family.encode_family(&labels)?.encode_histogram::<[(&str, &str); 0]>(sum, count, &buckets, None)?;
        }
        Ok(())
    }
}

fn labels((route, upstream): &Key) -> [(&'static str, &str); 2] {
    [("route", route), ("upstream", upstream)]
}

impl StreamSeries {
    fn new() -> Self {
        Self {
            opened: AtomicU64::default(),
            open: AtomicU64::default(),
            received_bytes: AtomicU64::default(),
            sent_bytes: AtomicU64::default(),
            ended: Mutex::default(),
            duration: Histogram::new(&STREAM_BUCKETS_MS.map(Duration::from_millis).into()),
        }
    }

    fn ended(&self) -> MutexGuard<'_, BTreeMap<&'static str, u64>> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One open stream.
pub(super) struct Counted {
    series: Arc<StreamSeries>,
}

impl StreamRecorder for Counted {
    fn copied(&mut self, received: u64, sent: u64) {
        for (counter, more) in [(&self.series.received_bytes, received), (&self.series.sent_bytes, sent)] {
            if more > 0 {
                counter.fetch_add(more, Relaxed);
            }
        }
    }

    fn finished(&mut self, finished: &FinishedStream) {
        self.series.duration.record(finished.duration);
        *self.series.ended().entry(finished.outcome.as_str()).or_default() += 1;
        self.series.open.fetch_sub(1, Relaxed);
    }
}
