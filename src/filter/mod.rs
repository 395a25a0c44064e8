//! Layers that change requests and responses on their way, or answer in their place: the filters of HTTPRoute and GRPCRoute.
//!
//! | filter | layer |
//! |---|---|
//! | `RequestHeaderModifier`, `ResponseHeaderModifier` | [`HeadersLayer`] |
//! | `RequestRedirect` | [`RedirectLayer`] |
//! | `URLRewrite` | [`RewriteLayer`] |
//! | `CORS` | [`CorsLayer`] |
//!
//! Each is made from its type in [`config`](crate::config), and refuses what it could not do to the letter with an
//! [`InvalidFilter`]. A [`Gateway`](crate::gateway::Gateway) makes the same layers from the same types. They stack on any
//! service of HTTP requests, an axum router as well.
//!
//! # Ordering
//! CORS goes outermost, so that a preflight is answered before anything redirects or refuses it. The others see a request in
//! the order in which they are written, and its response in the opposite order. A prefix is replaced as the
//! [`RouteMatch`](crate::route::RouteMatch) in the request's extensions tells it, so they belong inside of a router.
//!
//! # Telemetry
//! A redirect and a preflight are [completed](crate::Outcome::Completed) requests without an endpoint; the access log's
//! `detail` says which filter answered.

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
#[cfg(test)]
mod tests;

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
