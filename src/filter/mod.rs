//! Layers that change requests and responses on their way, or answer in their place.

mod aside;
pub mod auth;
mod cors;
mod headers;
pub mod mirror;
mod redirect;
mod rewrite;

pub use self::{auth::AuthLayer, mirror::MirrorLayer};
