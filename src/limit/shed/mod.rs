//! Sheds load: the least important first, and what would be too late anyway.
//!
//! 1. A request whose [deadline](crate::timeout::Deadline) has passed, or is nearer than a request takes at present, is refused with
//!    [`DeadlineExceeded`](crate::Outcome::DeadlineExceeded) (504, gRPC `DEADLINE_EXCEEDED`) and not begun: nobody would see its answer.
//! 2. Its [`Priority`] is that among its extensions, else what its rule in a gateway
//!    ([`Filter::Priority`](crate::config::Filter::Priority)) or the [classifier](ShedLayer::classify) says, else
//!    [`Priority::Critical`].
//! 3. Each class is let in up to its [share](ShedLayer::share) of the limit. So when load grows the lowest is shed first, and
//!    what it leaves free serves the others. The same shares hold for [other measures of load](ShedLayer::load).
//! 4. What is not let in is refused with [`Overloaded`](crate::Outcome::Overloaded) (503, gRPC `UNAVAILABLE`), at once: there
//!    is no queue.
//! 5. What a request takes is the mean of the last ones that succeeded, from the call to the response's head; those that
//!    failed ([`classify`](crate::classify)) or were cancelled count when they took longer than it. It halves with every second in which nothing is learned, so that
//!    a service that was slow is tried again.
//!
//! # Ordering
//! Outside of [queues](super::concurrency) and of what costs; inside of what knows priority and deadline. One for each
//! group of requests that take about the same time.
//!
//! # Caveats
//! - A client that may name its priority names the highest. Set the extension where the client is known.
//! - A body that is read slowly holds its permit. It does not count in what a request takes.
//!
//! # Example
//! ```
//! # tokio_test::block_on(async {
//! use std::convert::Infallible;
//!
//! use http::{Request, Response, StatusCode};
//! use portcullis::{Body, limit::shed::{Priority, ShedLayer}};
//! use tower::{ServiceBuilder, ServiceExt};
//!
//! let shed = ShedLayer::new(2).share(Priority::Sheddable, 0.5).classify(|request| match request.uri.path() {
//!     "/suggest" => Priority::Sheddable,
//!     _ => Priority::Critical,
//! });
//! let service = ServiceBuilder::new()
//!     .layer(shed)
//!     .service_fn(async |_: Request<Body>| Ok::<_, Infallible>(Response::new(Body::from("hello"))));
//! let get = async |path: &str| service.clone().oneshot(Request::get(path).body(Body::empty()).unwrap()).await.unwrap();
//!
//! let held = get("/pay").await;
//! assert_eq!(get("/suggest").await.status(), StatusCode::SERVICE_UNAVAILABLE);
//! assert_eq!(get("/pay").await.status(), StatusCode::OK);
//! drop(held);
//! assert_eq!(get("/suggest").await.status(), StatusCode::OK);
//! # });
//! ```

mod future;
mod layer;
mod policy;
mod service;
#[cfg(test)]
mod tests;

pub use self::{future::ResponseFuture, layer::ShedLayer, service::Shed};
pub use crate::config::Priority;
