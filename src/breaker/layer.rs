use std::{fmt, sync::Arc};

use http::response::Parts;
use tower_layer::Layer;

use super::{Breaker, Circuit};
use crate::classify::Class;

pub(super) type Classify = dyn Fn(&Parts) -> Option<Class> + Send + Sync;

/// Stops asking what fails; see the [module](super) for when.
#[derive(Clone)]
#[must_use]
pub struct BreakerLayer {
    circuit: Circuit,
    classify: Option<Arc<Classify>>,
}

impl BreakerLayer {
    /// All services that it makes, and all that hold a clone of `circuit`, share its state.
    pub fn new(circuit: Circuit) -> Self {
        Self { circuit, classify: None }
    }

    /// Asks `classify` first what a response's head says; where it has no opinion (`None`),
    /// [`Class::of_response`] does. Trailers that tell of a failure still count.
    pub fn classify(mut self, classify: impl Fn(&Parts) -> Option<Class> + Send + Sync + 'static) -> Self {
        self.classify = Some(Arc::new(classify));
        self
    }
}

impl<S> Layer<S> for BreakerLayer {
    type Service = Breaker<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Breaker::new(inner, self.circuit.clone(), self.classify.clone())
    }
}

impl fmt::Debug for BreakerLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BreakerLayer").field("circuit", &self.circuit).finish_non_exhaustive()
    }
}
