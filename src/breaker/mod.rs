//! Circuit breaker: who fails is not asked for a while.
//!
//! # Rules
//! 1. **Closed**: every request passes. It opens on `consecutive_failures` in a row; or when, among at least
//!    `min_requests` within the sliding `window`, the share of failures reaches `failure_rate`, or that of requests that
//!    took `slow_call` or longer reaches `slow_call_rate`.
//! 2. **Open**: every request is answered 503 (gRPC: `UNAVAILABLE`) with
//!    [`Outcome::BreakerOpen`](crate::Outcome::BreakerOpen) and `Retry-After`, and does not reach the inner service. That
//!    lasts `open` at first, twice as long each time a probe fails, up to `max_open`, each time up to half of that longer
//!    by chance.
//! 3. **Half open**: then the next request is let through as the probe, one at a time; the others are still refused. If
//!    it is a success and not slow, the breaker closes and has forgotten all; if not, it opens again; if it says nothing,
//!    the next request probes.
//! 4. A probe that has no end after `probe_timeout` keeps nobody waiting any longer: with a good head the breaker closes
//!    (a long stream), without one it opens again, until that probe's answer comes after all and is a good one, or another
//!    probe decides. So it is never stuck, however long answers take.
//! 5. What a failure is, [`classify`](crate::classify) says, or the application through [`BreakerLayer::classify`]. A
//!    success is one only at the end of the response's body, trailers included. 429 and `RESOURCE_EXHAUSTED` count toward the
//!    rate, neither toward failures in a row nor against them, and fail a probe (as in Linkerd 2.20).
//! 6. A request that the client gave up counts for nothing, unless its response's head had told of a failure. A timeout
//!    counts, also one of a [layer](crate::timeout) outside of this one; what else limits time belongs inside. A panic counts.
//! 7. What else was begun before a change of state says nothing of the state after it.
//!
//! Closed costs one atomic load at the beginning of a request, and one short lock at its end.
//!
//! An [`Upstream`](crate::upstream::Upstream) has one for all its endpoints
//! ([`circuit_breaker`](crate::config::Upstream::circuit_breaker)), one for each
//! ([`endpoint_circuit_breaker`](crate::config::Upstream::endpoint_circuit_breaker)), or both. That of an endpoint refuses
//! nobody: the [balancer](crate::balance) passes its endpoint over, and the next request that comes its way probes it. Only
//! where breakers keep a request from all endpoints is it refused.
//!
//! # Ordering
//! Outside of timeouts and of what sends the request; inside of retries, which then see the refusals (and should not try
//! them again before `Retry-After`), and of telemetry.
//!
//! # Caveats
//! The inner service is polled for readiness also while the breaker is open.
//!
//! # Example
//! ```
//! # tokio_test::block_on(async {
//! use http::{Request, Response, StatusCode};
//! use portcullis::{Body, Outcome, breaker::{BreakerLayer, Circuit}, config::CircuitBreaker};
//! use tower::{Service, ServiceBuilder, ServiceExt};
//!
//! let circuit = Circuit::new("cart", CircuitBreaker { consecutive_failures: 3, ..CircuitBreaker::default() });
//! let mut service = ServiceBuilder::new().layer(BreakerLayer::new(circuit)).service_fn(async |_: Request<Body>| {
//!     Response::builder().status(500).body(Body::empty())
//! });
//! for _ in 0..3 {
//!     let response = service.ready().await?.call(Request::new(Body::empty())).await?;
//!     assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
//! }
//! let refused = service.ready().await?.call(Request::new(Body::empty())).await?;
//! assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
//! assert_eq!(refused.extensions().get(), Some(&Outcome::BreakerOpen));
//! assert!(refused.headers().contains_key("retry-after"));
//! # Ok::<_, Box<dyn std::error::Error>>(()) }).unwrap();
//! ```

mod circuit;
mod future;
mod layer;
mod policy;
mod service;
#[cfg(test)]
mod tests;
mod window;

pub(crate) use self::{circuit::Change, future::watched};
pub use self::{
    circuit::{Call, Circuit, Stats},
    future::ResponseFuture,
    layer::BreakerLayer,
    policy::{Machine, Refused, State, Ticket},
    service::Breaker,
};
