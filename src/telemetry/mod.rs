//! Metrics and the access log: one record a request and a stream, handed to whoever wants it.
//!
//! [`TelemetryLayer`] stands at the edge, outside of everything that answers. It begins the
//! [`Exchange`](crate::exchange::Exchange) that all inner layers write to, watches both bodies, and ends the exchange
//! exactly once; from that one end come the [`Metrics`](metrics::Metrics), the [`AccessLog`] and any [`Recorder`] of the
//! application.
//!
//! 1. A request begins when the layer is called, and ends at the first of: the end of the response's body, its failure,
//!    its drop, the inner service's error, the drop of the response future.
//! 2. How it ended is, in this order: the outcome that someone wrote to the exchange; the outcome of the
//!    [`Error`](crate::Error) that ended it ([`Internal`](crate::Outcome::Internal) for a service's other errors and for
//!    a panic, [`ResponseTruncated`](crate::Outcome::ResponseTruncated) for a body's); the outcome in the response's
//!    extensions; [`Cancelled`](crate::Outcome::Cancelled) if it was dropped, else [`Completed`](crate::Outcome::Completed).
//!    So a layer writes an outcome to the exchange when it is final, not after an attempt that another may follow.
//! 3. A body dropped after the last byte that was due is complete: servers do not read on after `Content-Length` bytes or
//!    trailers, and do not read the body of an answer to `HEAD`, or of a 1xx, 204 or 304, at all.
//! 4. When no recorder wants a record, nothing is begun and nothing is watched.
//! 5. A recorder that panics loses its own record, nobody else's.
//! 6. A connection that is forwarded as a stream is no exchange: [`TelemetryLayer::stream`] begins its record, which the same
//!    recorders get ([`Recorder::stream`]), and which ends exactly once, too.
//!
//! # Ordering
//! Outermost, then [`RespondLayer`](crate::respond::RespondLayer), then the rest. Nested instances do not mix: each begins
//! an exchange of its own for what is inside it.
//!
//! # Caveats
//! - After `101 Switching Protocols` the request is over; a tunnel's bytes and time are not in the record.
//! - A response may end before the request's body does. Bytes read after that are not counted.
//! - Bytes are those of the bodies, without framing, heads and trailers.
//!
//! # Example
//! ```
//! # tokio_test::block_on(async {
//! use std::{convert::Infallible, sync::mpsc};
//!
//! use http::{Request, Response};
//! use http_body_util::BodyExt;
//! use portcullis::{Body, telemetry::{Finished, TelemetryLayer}};
//! use tower::{ServiceBuilder, ServiceExt};
//!
//! let (sender, records) = mpsc::channel();
//! let service = ServiceBuilder::new()
//!     .layer(TelemetryLayer::new().recorder(move |finished: &Finished| {
//!         let _ = sender.send(format!("{} {}", finished.outcome, finished.response_bytes));
//!     }))
//!     .service_fn(async |_: Request<Body>| Ok::<_, Infallible>(Response::new(Body::from("hello"))));
//!
//! let response = service.oneshot(Request::new(Body::empty())).await.unwrap();
//! response.into_body().collect().await.unwrap();
//! assert_eq!(records.recv().unwrap(), "completed 5");
//! # });
//! ```

mod access_log;
mod ending;
mod finished;
mod future;
mod layer;
#[cfg(feature = "metrics")]
#[cfg_attr(docsrs, doc(cfg(feature = "metrics")))]
pub mod metrics;
mod recorder;
mod service;
mod stream;
#[cfg(test)]
mod tests;

pub use self::{
    access_log::AccessLog,
    finished::{Finished, MethodLabel, RequestFacts},
    future::ResponseFuture,
    layer::TelemetryLayer,
    recorder::{Interest, Recorder},
    service::Telemetry,
    stream::{FinishedStream, OpenStream, StreamFacts, StreamRecorder},
};
