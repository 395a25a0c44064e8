//! Faults on purpose: some requests are delayed, some fail, to see what comes of it.
//!
//! 1. A request is meant if the [condition](FaultLayer::when) holds for it. Of those, the set shares are delayed and failed,
//!    each chosen by chance and by itself, to a millionth. A request may be delayed first and fail then.
//! 2. A failure is a [response](Abort::Status), a [gRPC status](Abort::Grpc), or an [`Error`](crate::Error) like those of an
//!    upstream: a [reset](Abort::Reset) or a [connection refused](Abort::ConnectFailed). Responses carry
//!    [`FaultInjected`](crate::Outcome::FaultInjected); errors look like what they stand for, so that the layers outside, such
//!    as retries and [breakers](crate::breaker), take them for it, and only their source says otherwise.
//! 3. A failed request does not reach the inner service.
//! 4. At most [`max_active`](FaultLayer::max_active) requests are under a fault at once; those beyond it are spared.
//! 5. If [enabled](FaultLayer::headers), fields of a request choose its faults. They are removed from it.
//!
//! # Fields
//! | field | meaning |
//! |---|---|
//! | `x-fault-delay-ms` | delays by so many milliseconds, at most the [longest delay](FaultLayer::max_delay) |
//! | `x-fault-delay-percent` | with this chance, at most the share that is set |
//! | `x-fault-abort-status` | fails with this status, 200 to 599 |
//! | `x-fault-abort-grpc` | fails with this `grpc-status`, 1 to 16; before the other |
//! | `x-fault-abort-percent` | with this chance, at most the share that is set |
//!
//! The share that is set bounds what fields can do where a fault of the kind is set; a share of [`Share::NONE`] forbids the
//! kind. Where none is set, fields decide alone. What cannot be understood does nothing.
//!
//! # Ordering
//! In the place of what should seem to fail: innermost, above an upstream, to try the policies above it; what the upstream
//! itself has, its breakers, outlier detection and balancer, is inside and hears nothing of it. It fails with
//! [`Error`](crate::Error) as an upstream does, whatever the inner service fails with.
//!
//! # Caveats
//! Who may set the fields can slow down and fail their requests, and hold them open. At an edge, drop the fields from
//! clients that are not [trusted](crate::forwarded::ForwardedLayer::protect), or leave them disabled.
//!
//! # Example
//! ```
//! # tokio_test::block_on(async {
//! use http::{Request, Response};
//! use portcullis::{Body, Error, Outcome, Sent, fault::{Abort, FaultLayer, Share}};
//! use tower::{ServiceBuilder, ServiceExt};
//!
//! let service = ServiceBuilder::new()
//!     .layer(FaultLayer::new().abort(Abort::Reset, Share::ALL).when(|request| request.uri.path() == "/pay"))
//!     .service_fn(async |_: Request<Body>| Ok::<_, Error>(Response::new(Body::empty())));
//!
//! let error = service.clone().oneshot(Request::get("/pay").body(Body::empty()).unwrap()).await.unwrap_err();
//! assert_eq!((error.outcome(), error.sent()), (Outcome::UpstreamReset, Sent::Possibly));
//! assert!(service.oneshot(Request::get("/cart").body(Body::empty()).unwrap()).await.is_ok());
//! # });
//! ```

mod future;
mod headers;
mod layer;
mod policy;
mod service;
#[cfg(test)]
mod tests;

pub use self::{
    future::ResponseFuture,
    layer::FaultLayer,
    policy::{Abort, InvalidShare, Share},
    service::FaultInjector,
};
