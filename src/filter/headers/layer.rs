use std::sync::Arc;

use tower_layer::Layer;

use super::{Headers, policy::Changes};
use crate::{config::HeaderChanges, filter::InvalidFilter};

/// Changes header fields; see the [module](super).
///
/// # Example
/// ```
/// use portcullis::{config::HeaderChanges, filter::{HeadersLayer, InvalidFilter}};
///
/// let changes = HeaderChanges { remove: vec![http::header::CONTENT_LENGTH], ..Default::default() };
/// let refused = HeadersLayer::new().response(changes).unwrap_err();
/// assert!(matches!(refused, InvalidFilter::ConnectionField { .. }));
/// ```
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct HeadersLayer {
    request: Option<Arc<Changes>>,
    response: Option<Arc<Changes>>,
}

impl HeadersLayer {
    /// A layer that changes nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Changes requests.
    ///
    /// # Errors
    /// When one of the fields must not be changed.
    pub fn request(mut self, changes: HeaderChanges) -> Result<Self, InvalidFilter> {
        self.request = compiled(changes, Changes::request)?;
        Ok(self)
    }

    /// Changes responses, also those of layers inside.
    ///
    /// # Errors
    /// When one of the fields must not be changed.
    pub fn response(mut self, changes: HeaderChanges) -> Result<Self, InvalidFilter> {
        self.response = compiled(changes, Changes::response)?;
        Ok(self)
    }
}

fn compiled(
    changes: HeaderChanges,
    compile: fn(HeaderChanges) -> Result<Changes, InvalidFilter>,
) -> Result<Option<Arc<Changes>>, InvalidFilter> {
    if changes == HeaderChanges::default() { Ok(None) } else { compile(changes).map(|changes| Some(changes.into())) }
}

impl<S> Layer<S> for HeadersLayer {
    type Service = Headers<S>;

    fn layer(&self, inner: S) -> Headers<S> {
        Headers { inner, request: self.request.clone(), response: self.response.clone() }
    }
}
