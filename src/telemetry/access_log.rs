use http::Version;
use tokio::time::Duration;

use super::{Finished, Interest, Recorder};

/// One event a request through `tracing`: target `portcullis::access`, level `INFO`.
///
/// Costs one check while the target is disabled. Absent facts are absent fields:
///
/// | field | |
/// |---|---|
/// | `method`, `host`, `path` | of the request; `path` is the target's path as received |
/// | `query` | the target's query, only with [`AccessLog::query`] |
/// | `version` | `1.0`, `1.1`, `2` or `3` |
/// | `status`, `grpc_status` | of the response |
/// | `outcome` | [`Outcome`](crate::Outcome)'s name |
/// | `route`, `upstream`, `endpoint`, `attempts` | who was to answer, and how often that was tried |
/// | `request_bytes`, `response_bytes` | of the bodies |
/// | `duration_ms`, `head_ms` | milliseconds until the end, and until the response's head |
/// | `client` | address as trusted forwarding fields tell it, else the connection's peer |
/// | `tls_server_name` | the name asked for in the TLS handshake (SNI) |
/// | `detail` | the error's text |
///
/// Values that a client or an upstream can choose are recorded as strings, which the formatters of
/// `tracing-subscriber` quote and escape: no value can begin a line or a field of its own. A subscriber that writes
/// strings raw has to escape them itself.
///
/// # Example
/// ```
/// use portcullis::telemetry::{AccessLog, TelemetryLayer};
///
/// let layer = TelemetryLayer::new().recorder(AccessLog::new().query(true));
/// # let _ = layer;
/// ```
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct AccessLog {
    query: bool,
}

impl AccessLog {
    /// Without the query.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether the target's query is logged. Default: no, queries hold tokens and personal data.
    pub fn query(mut self, query: bool) -> Self {
        self.query = query;
        self
    }
}

macro_rules! target {
    () => {
        "portcullis::access"
    };
}

impl Recorder for AccessLog {
    fn interest(&self) -> Interest {
        if tracing::enabled!(target: target!(), tracing::Level::INFO) { Interest::Request } else { Interest::None }
    }

    fn finished(&self, finished: &Finished) {
        // Nobody listened as it began.
        let Some(request) = &finished.request else { return };
        let record = &finished.record;
        let connection = request.connection.as_ref();
        let client = record.client.or_else(|| connection.map(|connection| connection.peer_addr().ip()));
        tracing::info!(
            target: target!(),
            method = request.method.as_str(),
            host = request.authority().as_deref(),
            path = request.uri.path(),
            query = request.uri.query().filter(|_| self.query),
            version = version(request.version),
            status = finished.status.map(|status| status.as_u16()),
            grpc_status = finished.grpc_status,
            outcome = finished.outcome.as_str(),
            route = record.route.as_deref(),
            upstream = record.upstream.as_deref(),
            endpoint = record.endpoint.map(display),
            attempts = record.attempts,
            request_bytes = record.request_bytes,
            response_bytes = finished.response_bytes,
            duration_ms = milliseconds(finished.duration),
            head_ms = record.head_after.map(milliseconds),
            client = client.map(display),
            tls_server_name = connection.and_then(|connection| connection.tls()?.server_name.as_deref()),
            detail = record.detail.as_deref(),
        );
    }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_09 => "0.9",
        Version::HTTP_10 => "1.0",
        Version::HTTP_11 => "1.1",
        Version::HTTP_2 => "2",
        Version::HTTP_3 => "3",
        _ => "other",
    }
}
