//! At most so many requests in flight as the service behind bears, learned from its latencies.
//!
//! 1. A request is in flight from the call to its response's head, its failure, or its drop: as long as its latency, for it is
//!    by the two together that a limit is found. So a stream that stays open takes nobody's place, and cannot keep the limit
//!    from being learned. At the limit a request is refused at once with [`Overloaded`](crate::Outcome::Overloaded) (503, gRPC `UNAVAILABLE`): a queue would hide the
//!    latency that is learned from.
//! 2. The latency is the time from the call to the response's head, so that a client that reads slowly does not look like a
//!    slow service. What a failure is, [`classify`](crate::classify) says of the head or the error (a gRPC status in
//!    trailers that follow a message comes too late); and a [limit](crate::timeout) of ours that ends before it is one. What
//!    the client broke off, and what was sent to nobody, says nothing.
//! 3. [`Gradient`] compares the latency with that of the service without load, and [`Aimd`] with a number; see there for the
//!    rules.
//! 4. The limit never leaves the bounds of its settings. When it falls below what is in flight, nothing is broken off.
//!
//! Permits are those of [`concurrency`](super::concurrency). [`AdaptiveLayer::handle`] lets others share them.
//!
//! # Ordering
//! As near as possible to what it protects, so that it does not learn from waits elsewhere: inside of retries, time-outs and
//! [queues](super::concurrency). Outside of it [shedding by priority](super::shed) can look at how much of it is in use.
//!
//! # Caveats
//! - One limit for all that is behind it: put what has very different latencies behind layers of their own.
//! - While [`Gradient`] learns the ideal latency only [`Gradient::min_limit`] requests are let in, also right after the
//!   start, and what comes beyond is refused. Where callers do not try again, know the latency
//!   ([`Gradient::fixed_min_rtt`]) or use [`Aimd`].
//! - What bodies cost is not limited: see [`concurrency`](super::concurrency), whose permits are held to their end.
//! - A service that answers its failures fast and its successes never is one for a circuit breaker.
//!
//! # Example
//! ```
//! # tokio_test::block_on(async {
//! use std::convert::Infallible;
//!
//! use http::{Request, Response};
//! use portcullis::{Body, limit::adaptive::{AdaptiveLayer, Aimd}};
//! use tokio::time::Duration;
//! use tower::{ServiceBuilder, ServiceExt};
//!
//! let layer = AdaptiveLayer::aimd(Aimd { latency: Duration::from_millis(250), initial_limit: 10, ..Aimd::default() });
//! let (limit, seen) = (layer.handle(), layer.handle());
//! let service = ServiceBuilder::new().layer(layer).service_fn(move |_: Request<Body>| {
//!     assert_eq!(limit.in_flight(), 1);
//!     async { Ok::<_, Infallible>(Response::new(Body::from("hello"))) }
//! });
//!
//! let response = service.oneshot(Request::new(Body::empty())).await.unwrap();
//! assert_eq!((seen.in_flight(), seen.limit()), (0, 10));
//! drop(response);
//! # });
//! ```

mod aimd;
mod future;
mod gradient;
mod layer;
mod policy;
mod service;
#[cfg(test)]
mod tests;
mod window;

pub use self::{future::ResponseFuture, layer::AdaptiveLayer, service::Adaptive};
pub use crate::config::{Aimd, Gradient};
