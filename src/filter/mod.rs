//! Layers that change requests and responses on their way, or answer in their place.

mod aside;
pub mod auth;
pub mod cors;
mod error;
pub mod headers;
mod host;
pub mod mirror;
mod path;
pub mod redirect;
pub mod rewrite;

use http::Extensions;

use crate::exchange::Exchange;

#[doc(inline)]
pub use self::{
    auth::AuthLayer, cors::CorsLayer, error::InvalidFilter, headers::HeadersLayer, mirror::MirrorLayer,
    redirect::RedirectLayer, rewrite::RewriteLayer,
};

/// Leaves word for the log that it was a filter that answered the request with these extensions.
fn note(extensions: &Extensions, what: &str) {
    if let Some(exchange) = Exchange::of(extensions) {
        exchange.update(|record| record.detail = Some(what.to_owned()));
    }
}
