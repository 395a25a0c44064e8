use std::{fmt, sync::Arc};

use tower_layer::Layer;

use super::{OpenStream, Recorder, StreamFacts, Telemetry, ending::Recorders};

/// Records every request; see the [module](super) for what and when.
///
/// # Example
/// ```
/// # #[cfg(feature = "metrics")] {
/// use portcullis::telemetry::{AccessLog, TelemetryLayer, metrics::Metrics};
///
/// let metrics = Metrics::new();
/// let layer = TelemetryLayer::new().recorder(metrics.clone()).recorder(AccessLog::new());
/// # let _ = layer;
/// assert!(metrics.encode().contains("portcullis_requests_in_flight 0"));
/// # }
/// ```
#[derive(Clone, Default)]
#[must_use]
pub struct TelemetryLayer {
    recorders: Recorders,
}

impl TelemetryLayer {
    /// Without a recorder: it does nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// With one more recorder, after those there are.
    pub fn recorder(mut self, recorder: impl Recorder) -> Self {
        Arc::make_mut(&mut self.recorders).push(Arc::new(recorder));
        self
    }

    /// Begins the record of a connection that is forwarded as a stream: of the same recorders, though no service of this
    /// layer sees it.
    pub fn stream(&self, facts: StreamFacts) -> OpenStream {
        OpenStream::begin(&self.recorders, facts)
    }
}

impl<S> Layer<S> for TelemetryLayer {
    type Service = Telemetry<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Telemetry::new(inner, Arc::clone(&self.recorders))
    }
}

impl fmt::Debug for TelemetryLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TelemetryLayer").field("recorders", &self.recorders.len()).finish()
    }
}
