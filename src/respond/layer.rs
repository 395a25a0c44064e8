use std::sync::Arc;

use tower_layer::Layer;

use super::{Respond, proxy_status};

/// Turns errors into responses; see the [module](super).
///
/// # Example
/// ```
/// use portcullis::respond::RespondLayer;
///
/// let layer = RespondLayer::new().name("edge-1.example.com");
/// # let _ = layer;
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct RespondLayer {
    member: Arc<str>,
}

impl RespondLayer {
    /// Under the name `portcullis`.
    pub fn new() -> Self {
        Self { member: "portcullis".into() }
    }

    /// Under this name in `Proxy-Status`, which tells a client and its operator which hop speaks (RFC 9209 section 2).
    /// Default: `portcullis`. Only printable ASCII is shown; `?` stands for anything else.
    pub fn name(mut self, name: &str) -> Self {
        self.member = proxy_status::member(name).into();
        self
    }
}

impl Default for RespondLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for RespondLayer {
    type Service = Respond<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Respond::new(inner, Arc::clone(&self.member))
    }
}
