//! Header fields set, added and removed.
//!
//! 1. First the fields to set get their value in the place of every line they have, then each field to add gets one more
//!    line, then those to remove go. Case does not matter.
//! 2. Of two entries to set, or to add, with one name the first counts (Gateway API).
//! 3. Fields that frame a message or are for one hop only stay as they are: `Connection`, `Content-Length`,
//!    `Transfer-Encoding`, `TE`, `Upgrade`, `Keep-Alive`, `Proxy-Connection`, `HTTP2-Settings`, and names that read like
//!    them where `_` is taken for `-`. A layer that was to change one cannot be made. Nor can one that was to change a
//!    request's `Host`, which routes it: that is for a [`RewriteLayer`](super::RewriteLayer).
//! 4. What the client nominates in `Connection` is removed before a request is changed, so that it cannot have removed what
//!    is set here.
//! 5. Responses made by layers inside are changed like any other; errors pass.
//!
//! tower-http's `SetRequestHeaderLayer` and `SetResponseHeaderLayer` change one field each, whichever it is, by a value or a
//! function of the message: for values that are computed, use those.
//!
//! # Example
//! ```
//! # tokio_test::block_on(async {
//! use http::{HeaderName, HeaderValue, Request, Response};
//! use portcullis::{config::HeaderChanges, filter::HeadersLayer};
//! use tower::{ServiceBuilder, ServiceExt};
//!
//! let tenant = (HeaderName::from_static("x-tenant"), HeaderValue::from_static("blue"));
//! let service = ServiceBuilder::new()
//!     .layer(
//!         HeadersLayer::new()
//!             .request(HeaderChanges { set: vec![tenant], ..Default::default() })?
//!             .response(HeaderChanges { remove: vec![http::header::SERVER], ..Default::default() })?,
//!     )
//!     .service_fn(async |request: Request<()>| {
//!         assert_eq!(request.headers()["x-tenant"], "blue");
//!         Response::builder().header("server", "app/1.2").body(())
//!     });
//!
//! let response = service.oneshot(Request::get("/").header("x-tenant", "red").body(())?).await?;
//! assert!(response.headers().is_empty());
//! # Ok::<_, Box<dyn std::error::Error>>(()) }).unwrap();
//! ```

mod future;
mod layer;
mod policy;
mod service;

pub use self::{future::ResponseFuture, layer::HeadersLayer, service::Headers};
