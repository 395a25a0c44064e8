//! The record of a connection that is forwarded as it is.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use tokio::time::{Duration, Instant};

use super::ending::guarded;
use crate::Outcome;

/// What is known of a stream as it begins.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct StreamFacts {
    /// The client's address.
    pub client: IpAddr,
    /// The name asked for in the TLS handshake (SNI).
    pub server_name: Option<Arc<str>>,
    /// The route that has it; `None` where none is for it.
    pub route: Option<Arc<str>>,
    /// The route's backend whose turn it is.
    pub upstream: Option<Arc<str>>,
}

impl StreamFacts {
    /// Of a client, and nothing else.
    #[must_use]
    pub fn new(client: IpAddr) -> Self {
        Self { client, server_name: None, route: None, upstream: None }
    }
}

/// The record of one stream, complete and final.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct FinishedStream {
    /// What was known as it began.
    pub facts: StreamFacts,
    /// How it ended.
    pub outcome: Outcome,
    /// Why, where there is more to say.
    pub detail: Option<String>,
    /// Where it was connected to; `None` if it came to no connection.
    pub endpoint: Option<SocketAddr>,
    /// Bytes of the client that were passed on.
    pub received_bytes: u64,
    /// Bytes of the upstream that were passed on.
    pub sent_bytes: u64,
    /// From the beginning to the end.
    pub duration: Duration,
}

/// What is told of one stream; [`Recorder::stream`](super::Recorder::stream) makes it.
///
/// Called while the stream is polled, or dropped: what is said of a [`Recorder`](super::Recorder) holds for it, too.
pub trait StreamRecorder: Send {
    /// So many more bytes were passed on: received from the client, and sent to it.
    fn copied(&mut self, received: u64, sent: u64) {
        let _ = (received, sent);
    }

    /// The stream ended. Called exactly once, after everything else.
    fn finished(&mut self, finished: &FinishedStream);
}

/// A stream that is going on, and its one record: made by [`TelemetryLayer::stream`](super::TelemetryLayer::stream). The
/// [`Gateway`](crate::gateway::Gateway) has one for each; code that carries connections itself can have its own.
///
/// Dropped before its [`end`](Self::end), it is recorded as [`Cancelled`](Outcome::Cancelled), or as
/// [`Internal`](Outcome::Internal) while a panic unwinds.
///
/// # Example
/// ```
/// # #[cfg(feature = "metrics")] {
/// use portcullis::{Outcome, telemetry::{StreamFacts, TelemetryLayer, metrics::Metrics}};
///
/// let metrics = Metrics::new();
/// let telemetry = TelemetryLayer::new().recorder(metrics.clone());
/// let mut facts = StreamFacts::new([192, 0, 2, 7].into());
/// facts.route = Some("db".into());
/// facts.upstream = Some("postgres".into());
///
/// let mut stream = telemetry.stream(facts);
/// stream.copied(120, 4096);
/// assert!(metrics.encode().contains(r#"portcullis_streams_open{route="db",upstream="postgres"} 1"#));
/// stream.end(Outcome::Completed, None);
///
/// let text = metrics.encode();
/// assert!(text.contains(r#"portcullis_streams_total{route="db",upstream="postgres",outcome="completed"} 1"#));
/// assert!(text.contains(r#"portcullis_stream_sent_bytes_total{route="db",upstream="postgres"} 4096"#));
/// # }
/// ```
#[must_use = "dropped, the stream is over"]
pub struct OpenStream {
    recorders: Vec<Box<dyn StreamRecorder>>,
    began: Instant,
    finished: FinishedStream,
}

impl OpenStream {
    pub(super) fn begin(recorders: &super::ending::Recorders, facts: StreamFacts) -> Self {
        let mut interested = Vec::new();
        for recorder in recorders.iter() {
            guarded(|| interested.extend(recorder.stream(&facts)));
        }
        let finished = FinishedStream {
            facts,
            outcome: Outcome::Cancelled,
            detail: None,
            endpoint: None,
            received_bytes: 0,
            sent_bytes: 0,
            duration: Duration::ZERO,
        };
        Self { recorders: interested, began: Instant::now(), finished }
    }

    /// It was connected to this endpoint.
    pub fn connected(&mut self, endpoint: SocketAddr) {
        self.finished.endpoint = Some(endpoint);
    }

    /// How many bytes were passed on so far, from the beginning: received from the client, and sent to it.
    pub fn copied(&mut self, received: u64, sent: u64) {
        let finished = &mut self.finished;
        let more = (received.saturating_sub(finished.received_bytes), sent.saturating_sub(finished.sent_bytes));
        if more == (0, 0) {
            return;
        }
        finished.received_bytes += more.0;
        finished.sent_bytes += more.1;
        for recorder in &mut self.recorders {
            guarded(|| recorder.copied(more.0, more.1));
        }
    }

    /// It is over: how it ended, and why.
    pub fn end(mut self, outcome: Outcome, detail: Option<String>) {
        self.finished.outcome = outcome;
        self.finished.detail = detail;
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        if self.finished.outcome == Outcome::Cancelled && std::thread::panicking() {
            self.finished.outcome = Outcome::Internal;
        }
        self.finished.duration = self.began.elapsed();
        for recorder in &mut self.recorders {
            guarded(|| recorder.finished(&self.finished));
        }
    }
}

impl fmt::Debug for OpenStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenStream").field("facts", &self.finished.facts).finish_non_exhaustive()
    }
}
