//! Requests for another host or path.
//!
//! 1. A host takes the place of the `Host` field and, where the URI has one, of its authority. What
//!    [`forwarded`](crate::forwarded) told of the client's host stays.
//! 2. A full path takes the place of the whole path.
//! 3. A prefix takes the place of as much of the path as the rule's own prefix took up
//!    ([`RouteMatch::prefix_len`](crate::route::RouteMatch::prefix_len), which then tells the new one's length); of nothing
//!    without a `RouteMatch`. Slashes at its end do not count, and there is one slash where it meets the rest:
//!
//!    | path | rule's prefix | replacement | result |
//!    |---|---|---|---|
//!    | `/foo/bar` | `/foo` | `/xyz` or `/xyz/` | `/xyz/bar` |
//!    | `/foo` | `/foo` | `/xyz` or `/xyz/` | `/xyz` |
//!    | `/foo/` | `/foo` | `/xyz` or `/xyz/` | `/xyz/` |
//!    | `/foo/bar` | `/foo` | `/` or nothing | `/bar` |
//!    | `/foo`, `/foo/` | `/foo` | `/` or nothing | `/` |
//!
//! 4. The query goes byte for byte. So does the rest of the path: it is not brought into [normal
//!    form](crate::route::path) again. The replacement is, when the layer is made.
//! 5. A target that becomes longer than a URI may be, 65,534 bytes, is refused with
//!    [`BadRequest`](crate::Outcome::BadRequest). `*` (`OPTIONS *`) stays.
//!
//! tower-http has nothing of the kind; `axum::Router::nest` takes a prefix away where that is all there is to do.
//!
//! # Example
//! ```
//! # tokio_test::block_on(async {
//! use http::{Request, Response};
//! use portcullis::{Body, config::{Match, PathChange, Rewrite}, filter::RewriteLayer, route::Router};
//! use tower::{ServiceBuilder, ServiceExt};
//!
//! let rewrite = Rewrite { host: Some("cart.internal".into()), path: Some(PathChange::Prefix("/v2".into())) };
//! let cart = ServiceBuilder::new().layer(RewriteLayer::new(rewrite)?).service_fn(async |request: Request<Body>| {
//!     assert_eq!(request.headers()["host"], "cart.internal");
//!     Ok::<_, std::convert::Infallible>(Response::new(Body::from(request.uri().to_string())))
//! });
//! let router = Router::builder().route("cart", ["shop.example.com"], Match::prefix("/cart"), cart).build()?;
//!
//! let request = Request::get("/cart/7?x=/cart").header("host", "shop.example.com").body(Body::empty())?;
//! let response = router.oneshot(request).await?;
//! let body = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
//! assert_eq!(body, "/v2/7?x=/cart");
//! # Ok::<_, Box<dyn std::error::Error>>(()) }).unwrap();
//! ```

mod future;
mod layer;
mod policy;
mod service;

pub use self::{future::ResponseFuture, layer::RewriteLayer, service::RewriteUrl};
