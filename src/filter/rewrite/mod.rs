//! Requests for another host or path.

mod future;
mod layer;
mod policy;
mod service;

pub use self::{future::ResponseFuture, layer::RewriteLayer, service::RewriteUrl};
