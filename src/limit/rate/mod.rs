//! At most so many requests in so much time, for each client, header value, route, or all together.
//!
//! 1. A request has a [`Key`], told by a [`KeyOf`]: [`ClientIp`], [`Header`], [`PerIdentity`], [`PerRoute`],
//!    or a closure. Each key has the
//!    layer's [`Quota`] to itself; requests without a key share one.
//! 2. Within the quota it goes on. Else it is refused with [`RateLimited`](crate::Outcome::RateLimited): 429 with
//!    `Retry-After` in whole seconds, rounded up, or gRPC `RESOURCE_EXHAUSTED` with `grpc-retry-pushback-ms`. A refusal
//!    costs the client nothing: one that goes on trying still has what it earns meanwhile.
//! 3. The quota is exact: in any window of time `w` no key passes more than its burst and what is earned in `w`, however
//!    many connections, clones of the service, services of the layer, and threads it comes by.
//! 4. Memory is bounded by [`max_keys`](RateLayer::max_keys), whoever makes up keys; [`WhenFull`] says at whose cost.
//! 5. With [`fields`](RateLayer::fields), responses say what is left.
//!
//! A new client has its whole burst. Restarting forgets; several processes limit each by itself.
//!
//! # Ordering
//! Inside of [`RespondLayer`](crate::respond::RespondLayer) and [`ForwardedLayer`](crate::forwarded::ForwardedLayer), which
//! tells who the client is; outside of everything that costs. A limit by an identity stands inside of what verifies it,
//! and one by route inside of the router.
//!
//! # Caveats
//! - Behind a balancer that is not [trusted](crate::forwarded::ForwardedLayer::trust), all clients are the balancer.
//! - Many clients behind one address (carrier-grade NAT) share its quota.
//! - With [`WhenFull::Evict`], rule 3 holds for keys that keep their place.
//!
//! # Example
//! ```
//! # tokio_test::block_on(async {
//! use std::convert::Infallible;
//!
//! use http::{Request, Response, StatusCode};
//! use portcullis::{Body, forwarded::ClientAddr, limit::rate::{ClientIp, Quota, RateLayer}};
//! use tower::{ServiceBuilder, ServiceExt};
//!
//! let service = ServiceBuilder::new()
//!     .layer(RateLayer::keyed(Quota::per_minute(2)?, ClientIp))
//!     .service_fn(async |_: Request<Body>| Ok::<_, Infallible>(Response::new(Body::empty())));
//!
//! let request = |client: &str| {
//!     let client = ClientAddr::new(client.parse().unwrap());
//!     Request::get("/").extension(client).body(Body::empty()).unwrap()
//! };
//! for _ in 0..2 {
//!     let response = service.clone().oneshot(request("192.0.2.1")).await?;
//!     assert_eq!(response.status(), StatusCode::OK);
//! }
//! let refused = service.clone().oneshot(request("192.0.2.1")).await?;
//! assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
//! assert_eq!(refused.headers()["retry-after"], "30");
//! let another = service.oneshot(request("192.0.2.2")).await?;
//! assert_eq!(another.status(), StatusCode::OK);
//! # Ok::<_, Box<dyn std::error::Error>>(()) }).unwrap();
//! ```

mod fields;
mod future;
mod key;
mod layer;
mod limiter;
mod quota;
mod service;
#[cfg(test)]
mod tests;

pub use self::{
    future::ResponseFuture,
    key::{ClientIp, Everyone, Header, Key, KeyOf, PerIdentity, PerRoute},
    layer::RateLayer,
    limiter::{Decision, Limiter, WhenFull},
    quota::{InvalidQuota, Quota},
    service::Rate,
};
