use std::sync::Arc;

use tower_layer::Layer;

use super::{Redirect, policy::Policy};
use crate::{config, filter::InvalidFilter};

/// Answers with redirects; see the [module](super).
///
/// # Example
/// ```
/// use portcullis::{config::Redirect, filter::RedirectLayer};
///
/// assert!(RedirectLayer::new(Redirect { host: Some("shop.example.com".into()), ..Redirect::default() }).is_ok());
/// assert!(RedirectLayer::new(Redirect { host: Some("https://shop.example.com".into()), ..Redirect::default() }).is_err());
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct RedirectLayer {
    policy: Arc<Policy>,
}

impl RedirectLayer {
    /// A layer that redirects so.
    ///
    /// # Errors
    /// When the status is not one of a redirect, or host, port or path are not valid.
    pub fn new(redirect: config::Redirect) -> Result<Self, InvalidFilter> {
        Policy::new(redirect).map(|policy| Self { policy: policy.into() })
    }
}

impl<S> Layer<S> for RedirectLayer {
    type Service = Redirect<S>;

    fn layer(&self, inner: S) -> Redirect<S> {
        Redirect { inner, policy: Arc::clone(&self.policy) }
    }
}
