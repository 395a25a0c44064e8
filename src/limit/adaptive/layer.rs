use std::sync::Arc;

use tokio::time::Instant;
use tower_layer::Layer;

use super::{
    Adaptive, Aimd, Gradient,
    aimd::AimdLimit,
    gradient::GradientLimit,
    policy::{Algorithm, Governed},
};
use crate::limit::concurrency::Permits;

/// Limits how many requests are in flight, by what their latencies tell; see the [module](super).
///
/// One layer is one limit: the services that it makes, and their clones, share it.
#[derive(Debug, Clone)]
#[must_use]
pub struct AdaptiveLayer {
    governed: Arc<Governed>,
}

impl AdaptiveLayer {
    /// With the gradient algorithm in Envoy's settings.
    pub fn new() -> Self {
        Self::gradient(Gradient::default())
    }

    /// With the gradient algorithm. A lowest limit of 0 is taken for 1, and a highest below the lowest for the lowest.
    pub fn gradient(settings: Gradient) -> Self {
        Self::seeded(Algorithm::Gradient(GradientLimit::new(settings, Instant::now())), fastrand::Rng::new())
    }

    /// With additive increase, multiplicative decrease. Limits as with [`gradient`](Self::gradient).
    pub fn aimd(settings: Aimd) -> Self {
        Self::seeded(Algorithm::Aimd(AimdLimit::new(settings)), fastrand::Rng::new())
    }

    /// A handle to the permits: to look at limit and use, and to share them with a
    /// [`ConcurrencyLayer`](crate::limit::concurrency::ConcurrencyLayer::permits) or a
    /// [`ShedLayer`](crate::limit::shed::ShedLayer::load).
    #[must_use]
    pub fn handle(&self) -> Permits {
        self.governed.permits.clone()
    }

    fn seeded(algorithm: Algorithm, rng: fastrand::Rng) -> Self {
        Self { governed: Arc::new(Governed::new(algorithm, rng)) }
    }
}

impl Default for AdaptiveLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for AdaptiveLayer {
    type Service = Adaptive<S>;

    fn layer(&self, inner: S) -> Adaptive<S> {
        Adaptive { inner, governed: Arc::clone(&self.governed) }
    }
}
