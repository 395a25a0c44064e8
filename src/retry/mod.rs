//! Sends a request again when its attempt failed and that is safe, as often as a budget allows.
//!
//! A request is sent again if all of this holds, in this order:
//!
//! 1. The attempt failed in a way that is among the [`Conditions`]: an error of the inner service, a status, or a gRPC code
//!    in the head or in trailers after an empty body. Refusals of other layers here (a limit, a deadline) do not count.
//! 2. It was not processed, for certain (nothing of it was sent, or the peer said so: [`Sent`](crate::Sent)); or it may be
//!    processed twice: its method is idempotent (RFC 9110 section 9.2.2), it carries an `Idempotency-Key`, or
//!    [`repeatable_if`](RetryLayer::repeatable_if) knows better. A POST without a key is never sent a second time once a
//!    byte of it may have been read by a server that did not refuse it.
//! 3. Its body can be had again: it streams to the server while it is kept, up to a
//!    [cap](RetryLayer::body_cap), by reference. Above the cap it streams on and is not sent again. A request that asks for
//!    an upgrade never is.
//! 4. Fewer than [`max_retries`](RetryLayer::max_retries) were sent already.
//! 5. The server does not forbid it (`grpc-retry-pushback-ms`), nor ask for a longer wait than is
//!    [allowed](RetryLayer::longest_wait) (`Retry-After`, in seconds or as a date).
//! 6. The wait ends before the [deadline](crate::timeout::Deadline) in force.
//! 7. The [`Budget`] grants it.
//!
//! Then it waits: as long as the pushback says; or by chance, at most an exponentially growing time, after what
//! `Retry-After` asks for. Meanwhile up to 16 KiB of the answer that is not wanted are read, so that its connection can be
//! used again. Else the last attempt's answer or error is the result as it is: a budget that is used up does not make a 503
//! of a 502.
//!
//! Every attempt carries the same [`Tried`](crate::balance::Tried), by which an
//! [`Upstream`](crate::upstream::Upstream) passes over the endpoints that failed, and leaves to this layer what was sent,
//! also if it was refused. A gRPC attempt that is not the first says so in `grpc-previous-rpc-attempts`, and tells in `grpc-timeout`
//! what is left by then.
//!
//! # Ordering
//! Inside of [`DeadlineLayer`](crate::timeout::DeadlineLayer) and [`TimeoutLayer`](crate::timeout::TimeoutLayer), which bound
//! all attempts and the waits between them; outside of [`HedgeLayer`](crate::hedge::HedgeLayer), breakers and limits, which
//! then see every attempt; outside of the upstream. Layers that share a [`Budget`] count a request once.
//!
//! # Caveats
//! - An answer is passed on as soon as its head is: what fails later is not repaired. For gRPC the head is held back a few
//!   milliseconds, see [`peek`](RetryLayer::peek).
//! - The head of every request is copied before it is sent, as is the box for the loop over its attempts.
//! - An [`Error`](crate::Error) of your own service that claims [`Sent::Nothing`](crate::Sent::Nothing), the default, is
//!   believed, where it is about a connection.
//!
//! # Example
//! ```
//! # tokio_test::block_on(async {
//! use http::{Request, Response, StatusCode};
//! use portcullis::{Body, Error, retry::RetryLayer};
//! use std::sync::{Arc, atomic::{AtomicU32, Ordering}};
//! use tower::{ServiceBuilder, ServiceExt};
//!
//! let calls = Arc::new(AtomicU32::new(0));
//! let seen = calls.clone();
//! let service = ServiceBuilder::new().layer(RetryLayer::new()).service_fn(move |_: Request<Body>| {
//!     let mut response = Response::new(Body::empty());
//!     if seen.fetch_add(1, Ordering::SeqCst) == 0 {
//!         *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
//!     }
//!     async move { Ok::<_, Error>(response) }
//! });
//!
//! let get = Request::get("/").body(Body::empty()).unwrap();
//! assert_eq!(service.clone().oneshot(get).await.unwrap().status(), StatusCode::OK);
//! assert_eq!(calls.swap(0, Ordering::SeqCst), 2);
//!
//! let post = Request::post("/").body(Body::from("pay 10")).unwrap();
//! assert_eq!(service.oneshot(post).await.unwrap().status(), StatusCode::SERVICE_UNAVAILABLE);
//! assert_eq!(calls.load(Ordering::SeqCst), 1);
//! # });
//! ```

mod attempts;
mod budget;
pub(crate) mod conditions;
mod layer;
pub(crate) mod peek;
mod policy;
pub(crate) mod replay;
mod service;
#[cfg(test)]
mod tests;

pub use self::{
    budget::Budget,
    conditions::Conditions,
    layer::RetryLayer,
    service::{ResponseFuture, Retry},
};
