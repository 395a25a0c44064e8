use std::sync::Arc;

use tower_layer::Layer;

use super::{Cors, policy::Policy};
use crate::{config, filter::InvalidFilter};

/// Answers preflights and lets other origins read responses; see the [module](super).
///
/// # Example
/// ```
/// use portcullis::{config::Cors, filter::CorsLayer};
///
/// let allow = |origin: &str| CorsLayer::new(Cors { origins: vec![origin.into()], ..Cors::default() });
/// assert!(allow("https://*.example.com").is_ok());
/// assert!(allow("*.example.com").is_err());
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct CorsLayer {
    policy: Arc<Policy>,
}

impl CorsLayer {
    /// A layer with this policy.
    ///
    /// # Errors
    /// When an origin, a method or a field's name is not one.
    pub fn new(cors: config::Cors) -> Result<Self, InvalidFilter> {
        Policy::new(cors).map(|policy| Self { policy: policy.into() })
    }
}

impl<S> Layer<S> for CorsLayer {
    type Service = Cors<S>;

    fn layer(&self, inner: S) -> Cors<S> {
        Cors { inner, policy: Arc::clone(&self.policy) }
    }
}
