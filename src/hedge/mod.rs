//! Sends a second attempt when the first is slow, and takes the better answer.
//!
//! 1. Only a request that may be processed twice is hedged: its method is idempotent (RFC 9110 section 9.2.2), it carries an
//!    `Idempotency-Key`, or [`repeatable_if`](HedgeLayer::repeatable_if) knows better; and, as both read it at the same
//!    time, only one whose body was sent whole and kept (up to 64 KiB) by then.
//! 2. The second goes out when the first has had no answer for as long as most answers take: a
//!    [percentile](HedgeLayer::percentile) of the latencies of the last half minute, or a [fixed time](HedgeLayer::after).
//!    With fewer than 100 latencies known nothing is hedged.
//! 3. The [`Budget`](crate::retry::Budget) must grant it, the same one that retries draw on, and the
//!    [deadline](crate::timeout::Deadline) must lie ahead.
//! 4. It goes to another endpoint than the first, by the same [`Tried`](crate::balance::Tried) that retries use.
//! 5. The first good answer is taken and the other attempt dropped, which cancels it. An error, a 5xx or a gRPC failure
//!    is taken only once the other attempt has ended too; an answer before an error, else the later one. A gRPC call fails by
//!    its head, or by trailers that follow it with nothing between: while there are two attempts a head is held back up to
//!    10 ms for them, as [`retry`](crate::retry::RetryLayer::peek) does by default.
//! 6. A first attempt that fails before the second went out is the result: trying again is the business of
//!    [`retry`](crate::retry).
//!
//! The latency is that of the first attempt until its head, also where the second was faster: then the time it had taken so
//! far, so that a slow endpoint cannot hide behind its hedges.
//!
//! # Ordering
//! Inside of [`RetryLayer`](crate::retry::RetryLayer), outside of breakers and limits, which see both attempts.
//!
//! # Caveats
//! - The head of a request that may be hedged is copied, and the loop has a box, as with retries.
//! - A gRPC call that fails later than that, or after a message, counts as good: its answer is under way by then.
//! - A hedge helps against a slow endpoint or a lost packet, not against a slow request: choose a percentile, not a median.
//!
//! # Example
//! ```
//! # tokio_test::block_on(async {
//! use http::{Request, Response};
//! use portcullis::{Body, Error, hedge::HedgeLayer};
//! use std::{future::pending, sync::{Arc, atomic::{AtomicU32, Ordering}}, time::Duration};
//! use tower::{ServiceBuilder, ServiceExt};
//!
//! let calls = Arc::new(AtomicU32::new(0));
//! let service = ServiceBuilder::new().layer(HedgeLayer::after(Duration::from_millis(1))).service_fn(
//!     move |_: Request<Body>| {
//!         let first = calls.fetch_add(1, Ordering::SeqCst) == 0;
//!         async move {
//!             if first {
//!                 pending::<()>().await;
//!             }
//!             Ok::<_, Error>(Response::new(Body::from("from the second")))
//!         }
//!     },
//! );
//! let response = service.oneshot(Request::get("/").body(Body::empty()).unwrap()).await.unwrap();
//! assert_eq!(response.status(), 200);
//! # });
//! ```

mod latency;
mod layer;
mod race;
mod service;
#[cfg(test)]
mod tests;

pub use self::{
    layer::HedgeLayer,
    service::{Hedge, ResponseFuture},
};
