//! Cross-origin requests.

mod future;
mod layer;
mod origin;
mod policy;
mod service;

pub use self::{future::ResponseFuture, layer::CorsLayer, service::Cors};
