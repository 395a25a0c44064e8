//! Header fields set, added and removed.

mod future;
mod layer;
mod policy;
mod service;

pub use self::{future::ResponseFuture, layer::HeadersLayer, service::Headers};
