//! External authorization: another service is asked whether a request may go on (GEP-1494, Envoy's `ext_authz`).
//!
//! 1. A request goes on only if the service says so. If the service cannot be reached, is late, fails, or says what is not
//!    understood, the request is refused with [`Forbidden`](crate::Outcome::Forbidden) (403, as Envoy does). Nothing turns
//!    that off.
//! 2. The service has [a limited time](AuthLayer::timeout). If the request's own deadline comes first, it is refused with
//!    [`DeadlineExceeded`](crate::Outcome::DeadlineExceeded).
//! 3. The service sees no body, unless the configuration has a limit above zero for it. Then the whole body is read before
//!    the question, and delivered afterwards as it came. One that is larger is refused with
//!    [`BodyTooLarge`](crate::Outcome::BodyTooLarge) (413), and nobody is asked. It is never cut short: a service that
//!    judges a part of it judges another request.
//! 4. A denial of the service's own is the answer to the client: status, fields and body, without those for one hop. A
//!    gRPC client gets it as a `grpc-status`, by gRPC's table for HTTP statuses, with the fields and without the body.
//! 5. Both what the service denies and why there was no verdict are noted as the detail of the request's
//!    [record](crate::exchange::Record).
//!
//! # By HTTP
//! The question has the client's method and path, behind the configured prefix, its query, `Host` and `Authorization`, the
//! listed fields, and the `Content-Length` of what is shown of the body.
//!
//! | answer | the request |
//! |---|---|
//! | 200 | goes on. The listed fields of the answer take the place of the request's, and a listed field that the answer does not have is removed, so that no client can forge one. Without a list all fields of the answer are taken over, except those that describe its content (`Content-*`), route or frame it |
//! | 300 to 499 | is denied with this answer |
//! | anything else | is refused: rule 1 |
//!
//! # By gRPC
//! The question is `Check` of `envoy.service.auth.v3.Authorization`, over HTTP/2, with the addresses and the client's name
//! by its certificate, its SNI, and of the request the time, `X-Request-Id`, method, path, host, scheme, protocol, size,
//! the listed fields (all without a list; several lines joined), and the body, as bytes where it is no text.
//!
//! Of the answer, `status` decides, and a `denied_response` denies in any case. An `ok_response` may set and remove fields
//! and query parameters of the request, and add fields to the response. A field that is none, or that frames or routes
//! the message (`Host`, pseudo-headers), makes the whole answer invalid (rule 1): the service may rely on what it asks
//! for. In `headers_to_remove` such are passed over, as the protocol has it. A field replaces the request's unless `append`
//! or `append_action` says otherwise. Not supported, and ignored: `dynamic_metadata`.
//!
//! # Ordering
//! Inside of [`RespondLayer`](crate::respond::RespondLayer) and of what refuses more cheaply; outside of
//! [`retry`](crate::retry), so that a request is asked about once, and of a [mirror](super::mirror), so that nobody gets
//! a copy of what is refused.
//!
//! # Caveats
//! - Without a list of the answer's fields a client can send any field that the service did not set this time.
//! - The time of the question is part of the request's.
//!
//! # Example
//! ```
//! # tokio_test::block_on(async {
//! use std::convert::Infallible;
//!
//! use http::{Request, Response, StatusCode};
//! use portcullis::{Body, config::{AuthProtocol, BackendRef, ExternalAuth}, filter::AuthLayer};
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! let config = ExternalAuth {
//!     backend: BackendRef::new("auth"),
//!     protocol: AuthProtocol::Http {
//!         path: "/check".into(),
//!         headers: vec!["cookie".into()],
//!         response_headers: vec!["x-user".into()],
//!     },
//!     body: None,
//! };
//! let service = service_fn(async |question: Request<Body>| {
//!     let answer = Response::builder();
//!     let answer = match (question.uri().path(), question.headers().get("cookie")) {
//!         ("/check/cart", Some(_)) => answer.header("x-user", "ada"),
//!         _ => answer.status(StatusCode::FOUND).header("location", "/login"),
//!     };
//!     Ok::<_, Infallible>(answer.body(Body::empty()).unwrap())
//! });
//! let cart = ServiceBuilder::new().layer(AuthLayer::new(&config, service)?).service_fn(async |request: Request<Body>| {
//!     assert_eq!(request.headers()["x-user"], "ada");
//!     Ok::<_, Infallible>(Response::new(Body::from("your cart")))
//! });
//!
//! let known = Request::get("/cart").header("cookie", "session=7").header("x-user", "root").body(Body::empty())?;
//! assert_eq!(cart.clone().oneshot(known).await?.status(), StatusCode::OK);
//! let unknown = cart.oneshot(Request::get("/cart").body(Body::empty())?).await?;
//! assert_eq!((unknown.status(), &unknown.headers()["location"]), (StatusCode::FOUND, &"/login".parse()?));
//! # Ok::<_, Box<dyn std::error::Error>>(()) }).unwrap();
//! ```

mod answer;
mod body;
#[cfg(feature = "grpc-auth")]
mod by_grpc;
mod by_http;
mod check;
mod fields;
mod layer;
mod service;
#[cfg(test)]
mod tests;
mod verdict;

pub use self::{
    layer::{AuthLayer, InvalidAuth},
    service::{Auth, ResponseFuture},
};
