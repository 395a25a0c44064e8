//! The edge: errors become responses, and refusals say why.
//!
//! 1. An [`Error`](crate::Error) becomes a [`refusal`]: the outcome's status, a fixed sentence as plain text, and the
//!    [`Outcome`](crate::Outcome) in the response's extensions. Addresses, names and causes never leave the process; they
//!    go to the [`Exchange`](crate::exchange::Exchange), and from there to the access log.
//! 2. A request whose `Content-Type` begins with `application/grpc` is answered the way gRPC clients understand: status
//!    200, no body, `grpc-status` and `grpc-message` in the head ("trailers-only").
//! 3. A response that carries an outcome, made here or by a layer inside, gets `Proxy-Status`
//!    ([RFC 9209](https://www.rfc-editor.org/rfc/rfc9209)), unless it has one: this hop's name, the `error` type and, as
//!    `details`, the outcome's name. Responses of upstreams are left alone.
//! 4. An error that knows after how long it is worth trying again ([`Error::retry_after`](crate::Error::retry_after)) says so
//!    to the client: `Retry-After` in whole seconds, to gRPC `grpc-retry-pushback-ms`.
//! 5. The outcome is written to the request's exchange, and the error's text with it.
//!
//! Every layer and service that answers in an upstream's or application's stead does so with [`refusal`].
//!
//! | status of the outcome | `grpc-status` |
//! |---|---|
//! | 400 | 13 `INTERNAL` |
//! | 401 | 16 `UNAUTHENTICATED` |
//! | 403 | 7 `PERMISSION_DENIED` |
//! | 404 | 12 `UNIMPLEMENTED` |
//! | 429 | 14 `UNAVAILABLE`; 8 `RESOURCE_EXHAUSTED` if it is a rate limit of ours |
//! | 502, 503 | 14 `UNAVAILABLE` |
//! | 504 | 4 `DEADLINE_EXCEEDED`; 14 if no connection was made in time, as nothing was sent |
//! | 499 | 1 `CANCELLED` |
//! | any other | 2 `UNKNOWN` |
//!
//! This is gRPC's own [table](https://grpc.github.io/grpc/core/md_doc_http-grpc-status-mapping.html) for clients that meet
//! a proxy's answer, except for 429, 499 and 504, of which we know more than it does.
//!
//! # Ordering
//! Inside of [`TelemetryLayer`](crate::telemetry::TelemetryLayer), outside of everything that fails or refuses.
//!
//! # Caveats
//! A body that fails after its head was sent stays a failing body: the server then aborts the connection or the stream,
//! so that the client cannot take the answer for a complete one.
//!
//! # Example
//! ```
//! # tokio_test::block_on(async {
//! use http::{Request, Response, StatusCode};
//! use portcullis::{Body, Error, Outcome, respond::RespondLayer};
//! use tower::{ServiceBuilder, ServiceExt};
//!
//! let service = ServiceBuilder::new()
//!     .layer(RespondLayer::new())
//!     .service_fn(async |_: Request<Body>| Err::<Response<Body>, _>(Error::new(Outcome::NoEndpoint)));
//!
//! let response = service.oneshot(Request::new(Body::empty())).await.unwrap();
//! assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
//! let status = response.headers()["proxy-status"].to_str().unwrap();
//! assert_eq!(status, r#"portcullis; error=destination_unavailable; details="no_endpoint""#);
//! # });
//! ```

mod future;
mod layer;
mod proxy_status;
mod refusal;
mod service;
#[cfg(test)]
mod tests;

pub use self::{
    future::ResponseFuture,
    layer::RespondLayer,
    refusal::{Dialect, refusal},
    service::Respond,
};

pub(crate) use self::refusal::{refusal_for_now, told};
