//! Layers that change requests and responses on their way, or answer in their place.

mod auth;
mod cors;
mod headers;
mod mirror;
mod redirect;
mod rewrite;
