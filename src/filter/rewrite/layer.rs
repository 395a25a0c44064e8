use std::sync::Arc;

use tower_layer::Layer;

use super::{RewriteUrl, policy::Policy};
use crate::{config, filter::InvalidFilter};

/// Rewrites hosts and paths; see the [module](super).
///
/// # Example
/// ```
/// use portcullis::{config::{PathChange, Rewrite}, filter::RewriteLayer};
///
/// assert!(RewriteLayer::new(Rewrite { path: Some(PathChange::Full("/status".into())), ..Rewrite::default() }).is_ok());
/// assert!(RewriteLayer::new(Rewrite { path: Some(PathChange::Full("/a?b=c".into())), ..Rewrite::default() }).is_err());
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct RewriteLayer {
    policy: Arc<Policy>,
}

impl RewriteLayer {
    /// A layer that rewrites so.
    ///
    /// # Errors
    /// When host or path are not valid.
    pub fn new(rewrite: config::Rewrite) -> Result<Self, InvalidFilter> {
        Policy::new(rewrite).map(|policy| Self { policy: policy.into() })
    }
}

impl<S> Layer<S> for RewriteLayer {
    type Service = RewriteUrl<S>;

    fn layer(&self, inner: S) -> RewriteUrl<S> {
        RewriteUrl { inner, policy: Arc::clone(&self.policy) }
    }
}
