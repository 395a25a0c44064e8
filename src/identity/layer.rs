use std::sync::Arc;

use tower_layer::Layer;

use super::{Allow, PeerRule};

/// Admits requests by who sends them; see the [module](super).
///
/// # Example
/// ```
/// use portcullis::identity::{AllowLayer, PeerRule};
///
/// let layer = AllowLayer::new([
///     PeerRule::SpiffeId("spiffe://example.org/ns/shop/sa/cart".parse()?),
///     PeerRule::Below("spiffe://example.org/ns/ops".parse()?),
/// ]);
/// # let _ = layer;
/// # Ok::<_, portcullis::identity::InvalidSpiffeId>(())
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct AllowLayer {
    policy: Arc<Policy>,
}

#[derive(Debug, Clone)]
pub(super) struct Policy {
    pub(super) rules: Vec<PeerRule>,
    pub(super) server_name: bool,
}

impl AllowLayer {
    /// Admits the peers that any of these rules admits. Without rules, nobody.
    pub fn new(rules: impl IntoIterator<Item = PeerRule>) -> Self {
        Self { policy: Arc::new(Policy { rules: rules.into_iter().collect(), server_name: false }) }
    }

    /// Whether the host that a request is for must be the name that its connection's handshake was for (SNI); else it is
    /// answered 421. Default: no.
    ///
    /// Say yes where client certificates are asked for, or verified, by name: a client can shake hands for one name and ask
    /// for another.
    pub fn require_server_name(mut self, require: bool) -> Self {
        Arc::make_mut(&mut self.policy).server_name = require;
        self
    }
}

impl<S> Layer<S> for AllowLayer {
    type Service = Allow<S>;

    fn layer(&self, inner: S) -> Allow<S> {
        Allow::new(inner, Arc::clone(&self.policy))
    }
}
