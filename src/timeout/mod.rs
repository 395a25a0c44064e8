//! How long things may take, and deadlines that travel.
//!
//! | layer | limits | when it is over |
//! |---|---|---|
//! | [`TimeoutLayer`] | from the call to the response's head | answers 504 ([`Outcome::UpstreamTimeout`](crate::Outcome)) |
//! | [`BodyTimeoutLayer`] | pauses in a response's body | the body fails |
//! | the same | from the call to the end of the response's body | answers 504, or the body fails |
//! | [`DeadlineLayer`] | from the request's arrival to the end of its answer | answers 504, or the body fails |
//!
//! 1. What is there in the instant its time runs out has come in time: the inner service is polled before the timer.
//! 2. A refusal speaks the request's dialect: to gRPC it is `grpc-status: 4` ([`respond`](crate::respond)).
//! 3. A body that is cut fails with an [`Error`](crate::Error) of [`UpstreamTimeout`](crate::Outcome::UpstreamTimeout), and
//!    the server aborts the connection or stream, so that nobody takes it for complete.
//! 4. A pause counts only while the reader waits: a slow client is not the server's pause. A request's body that moves
//!    ends a pause too, so that a long upload is not cut for the silence of its answer.
//!
//! 5. An endpoint that is still waited for when a limit of these layers ends was too slow: its
//!    [breaker](crate::breaker), [outlier detection](crate::outlier) and balancer take it for a gateway error, if it had at
//!    least half of the time with the whole request there. A deadline that the client names, a client that goes away, one
//!    that has not sent its whole request, and a wait for a connection to be free say nothing of it.
//!
//! # Deadlines
//! A [`Deadline`] is a point in time after which nobody waits for the answer. It is the least of what the layer allows, what the
//! request's `grpc-timeout` (or another header field) says, and what was in force already.
//!
//! - [`DeadlineLayer::server`] counts from the moment the request arrived (its
//!   [`Exchange`](crate::exchange::Exchange) began), so that time spent in queues on the way is gone. It sets the deadline for
//!   the task that serves the request.
//! - [`DeadlineLayer::client`] takes the deadline of the task it is called in, or the request's own `grpc-timeout` where that
//!   is less, and tells the server what is left of it:
//!   `grpc-timeout` on gRPC calls.
//! - Both tell it in a header field of your choice, on all calls. What it says is renewed when the request is sent
//!   once more, and when it is written to a connection after it had to wait for one.
//! - Work whose deadline has passed is not started: it is answered with
//!   [`Outcome::DeadlineExceeded`](crate::Outcome::DeadlineExceeded) at once.
//!
//! # Ordering
//! [`DeadlineLayer`] outermost, inside of telemetry; then [`TimeoutLayer`]; then [`retry`](crate::retry), whose attempts and
//! waits both bound; [`BodyTimeoutLayer`] anywhere.
//!
//! # Caveats
//! - Each limit is a timer of its own, registered when something is first waited for. Where a coarse clock does, prefer
//!   what the pool and the server have: [`response_timeout`](crate::config::Upstream::response_timeout),
//!   [`stream_idle_timeout`](crate::config::Upstream::stream_idle_timeout).
//! - A spawned task does not inherit a deadline; see [`Deadline::scope`].
//! - A response of 101 is not limited any further: its connection is no longer ours.
//!
//! # Example
//! ```
//! # tokio_test::block_on(async {
//! use http::{Request, Response, StatusCode};
//! use portcullis::{Body, timeout::{Deadline, DeadlineLayer}};
//! use std::{convert::Infallible, time::Duration};
//! use tower::{ServiceBuilder, ServiceExt};
//!
//! // A service that calls another while it serves a request.
//! let other = ServiceBuilder::new()
//!     .layer(DeadlineLayer::client(Duration::from_secs(15)))
//!     .service_fn(async |request: Request<Body>| {
//!         Ok::<_, Infallible>(Response::new(Body::from(request.headers()["grpc-timeout"].to_str().unwrap().to_owned())))
//!     });
//! let service = ServiceBuilder::new()
//!     .layer(DeadlineLayer::server(Duration::from_secs(15)))
//!     .service_fn(move |_: Request<Body>| {
//!         assert!(Deadline::current().is_some());
//!         let call = Request::post("/").header("content-type", "application/grpc").body(Body::empty()).unwrap();
//!         other.clone().oneshot(call)
//!     });
//!
//! let request = Request::post("/").header("grpc-timeout", "0S").body(Body::empty()).unwrap();
//! assert_eq!(service.clone().oneshot(request).await.unwrap().status(), StatusCode::GATEWAY_TIMEOUT);
//! let request = Request::post("/").header("grpc-timeout", "1S").body(Body::empty()).unwrap();
//! assert_eq!(service.oneshot(request).await.unwrap().status(), StatusCode::OK);
//! # });
//! ```

mod body;
mod body_layer;
mod deadline;
mod deadline_layer;
mod future;
mod layer;
mod patience;
#[cfg(test)]
mod tests;

pub use self::{
    body_layer::{BodyTimeout, BodyTimeoutLayer},
    deadline::{AttemptTimeout, Deadline, format_grpc_timeout, grpc_timeout},
    deadline_layer::{DeadlineLayer, WithDeadline},
    future::ResponseFuture,
    layer::{Timeout, TimeoutLayer},
};
pub(crate) use self::{
    deadline::{GRPC_TIMEOUT, Told, is_late, tell_what_is_left, tell_what_is_left_now},
    patience::Patience,
};
