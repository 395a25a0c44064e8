//! Requests answered by a redirect.

mod future;
mod layer;
mod policy;
mod service;

pub use self::{future::ResponseFuture, layer::RedirectLayer, service::Redirect};
