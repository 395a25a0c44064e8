//! Mirroring: copies of requests for somebody else, whose answers nobody sees.
//!
//! 1. The set share of requests is mirrored, each chosen by chance and by itself. A share of zero mirrors none, one of at
//!    least the whole mirrors all. Requests that take over their connection (`CONNECT`, upgrades) are not mirrored.
//! 2. A copy has the method, path and query byte for byte, and the header fields, `Host` included, as they are where the
//!    layer stands; only `Expect` is left out. It knows who the client is
//!    ([`ClientAddr`](crate::connection::ClientAddr), [`ConnectionInfo`](crate::connection::ConnectionInfo)) and shares
//!    nothing else with the request: no record, deadline or list of endpoints that were tried.
//! 3. The request goes on at once, and the future is the inner service's own. A copy is a task beside it.
//! 4. A body is read once, at the speed of the request's reader; the copy gets, without copying, what that has read. If
//!    the copy is [too far behind](MirrorLayer::max_behind), or all copies hold [too much](MirrorLayer::max_memory), it
//!    is abandoned.
//! 5. A copy lives by itself once its request was read to the end: a client that leaves then does not take it along. If
//!    the body fails or is dropped before (the client left, or the answer came without it), the copy is abandoned.
//! 6. Its answer is read and dropped. From the end of the request it has a [limited time](MirrorLayer::timeout).
//! 7. No more than [so many](MirrorLayer::max_in_flight) copies are in flight; requests beyond that are not mirrored.
//! 8. Whatever becomes of a copy is [counted](Counts) and logged at `DEBUG`, and has no other effect.
//!
//! # Ordering
//! Around what sends the request, [`retry`](crate::retry) included, so that a request is mirrored once however often it is
//! sent. Several mirrors stack.
//!
//! # Caveats
//! - Nothing waits for copies: a program that ends after its [drain](crate::server::Server) cuts them off.
//! - A request whose body nobody reads, as its backend cannot be reached, has no complete copy.
//! - A copy that answers early may not read its body; that is an answer like any other.
//!
//! # Example
//! ```
//! # tokio_test::block_on(async {
//! use std::convert::Infallible;
//!
//! use http::{Request, Response};
//! use portcullis::{Body, config::Fraction, filter::MirrorLayer};
//! use tokio::sync::mpsc;
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! let (seen, mut copies) = mpsc::unbounded_channel();
//! let shadow = service_fn(move |copy: Request<Body>| {
//!     seen.send(copy.uri().to_string()).unwrap();
//!     async { Err::<Response<Body>, _>("nobody hears of this") }
//! });
//! let service = ServiceBuilder::new()
//!     .layer(MirrorLayer::new(shadow, Fraction::default()))
//!     .service_fn(async |_: Request<Body>| Ok::<_, Infallible>(Response::new(Body::from("hello"))));
//!
//! let response = service.oneshot(Request::get("/cart?id=7").body(Body::empty()).unwrap()).await.unwrap();
//! assert_eq!(response.status(), 200);
//! assert_eq!(copies.recv().await.unwrap(), "/cart?id=7");
//! # });
//! ```

mod feed;
mod layer;
mod policy;
mod send;
mod service;
#[cfg(test)]
mod tests;

pub use self::{
    layer::{Counts, MirrorLayer},
    service::Mirror,
};
