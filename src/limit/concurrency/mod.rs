//! At most so many requests in flight, and a short queue.
//!
//! 1. A request is in flight from the call to the end of its response's body, its failure, or its drop.
//! 2. Below the limit it goes on at once, without a timer or an allocation before its answer.
//! 3. At the limit it waits its turn, first come, first served, if the [queue](ConcurrencyLayer::queue) has room, and at
//!    most for the [time](ConcurrencyLayer::max_wait) a request may wait.
//! 4. Else, or after that time, it is refused with [`Overloaded`](crate::Outcome::Overloaded) (503, gRPC `UNAVAILABLE`).
//! 5. After a wait in vain the queue is shut ("failfast"): who comes then is refused at once, until one in flight ends.
//!    Those who wait already go on waiting.
//! 6. The permit comes back however the request ends, and dropping the future in the queue leaves it.
//!
//! Services are as ready as the inner one and shed in `call`: a caller never waits in `poll_ready`, where nothing says how
//! long, and what is polled ready and never called holds nothing.
//!
//! # Differences from `tower::limit::ConcurrencyLimit`
//! That one waits in `poll_ready`, without bound, and its permit comes back with the response's head.
//!
//! # Ordering
//! Inside of [`RespondLayer`](crate::respond::RespondLayer) and of what refuses more cheaply (rate limits, authorization);
//! outside of retries where it bounds the work of callers, inside where it protects an upstream. A deadline should stand
//! outside, so that it counts the time in the queue.
//!
//! # Caveats
//! - A connection that was upgraded is no longer in flight: its response's body is empty.
//! - A queued request's body is not read meanwhile: the client is held back by flow control.
//!
//! # Example
//! ```
//! # tokio_test::block_on(async {
//! use std::convert::Infallible;
//!
//! use http::{Request, Response, StatusCode};
//! use portcullis::{Body, limit::concurrency::ConcurrencyLayer};
//! use tower::{ServiceBuilder, ServiceExt};
//!
//! let layer = ConcurrencyLayer::new(1).queue(0);
//! let service = ServiceBuilder::new()
//!     .layer(layer.clone())
//!     .service_fn(async |_: Request<Body>| Ok::<_, Infallible>(Response::new(Body::from("hello"))));
//!
//! let first = service.clone().oneshot(Request::new(Body::empty())).await.unwrap();
//! // Its body is not read yet, so it is in flight.
//! let second = service.clone().oneshot(Request::new(Body::empty())).await.unwrap();
//! assert_eq!(second.status(), StatusCode::SERVICE_UNAVAILABLE);
//! drop(first);
//! let third = service.oneshot(Request::new(Body::empty())).await.unwrap();
//! assert_eq!((third.status(), layer.handle().in_flight()), (StatusCode::OK, 1));
//! # });
//! ```

mod future;
mod layer;
mod permits;
mod service;
#[cfg(test)]
mod tests;

pub use self::{
    future::ResponseFuture,
    layer::ConcurrencyLayer,
    permits::{Permit, Permits},
    service::Concurrency,
};
