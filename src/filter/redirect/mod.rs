//! Requests answered by a redirect.
//!
//! 1. `Location` is an absolute URI, made of what the configuration gives and, for the rest, of the request: its scheme, its
//!    host without the port, its path, its query.
//! 2. The request's scheme is its connection's ([`ConnectionInfo`](crate::connection::ConnectionInfo)), whatever
//!    `X-Forwarded-Proto` says; without one it is the URI's, else `http`.
//! 3. The port is the one given; else, where a scheme is given, that scheme's; else the one that the client connected to, and
//!    without a `ConnectionInfo` the one in `Host`. 80 is left out for `http`, 443 for `https`.
//! 4. A prefix is replaced as in a [rewrite](super::rewrite).
//! 5. The query goes byte for byte. Bytes outside of ASCII, which no URI has, are percent-encoded there and in the path.
//! 6. Where the host is the request's and it names none, the request is refused with
//!    [`BadRequest`](crate::Outcome::BadRequest).
//!
//! The inner service is never called. gRPC requests get the redirect as well: their clients do not follow it and fail with
//! `UNKNOWN`, and GRPCRoute has no such filter.
//!
//! tower-http's `services::Redirect` sends every request to one fixed URI: for a moved page, use that.
//!
//! # Caveats
//! Behind a proxy that ends TLS, or where ports are mapped, the connection tells neither the scheme nor the port that the
//! client used: give both.
//!
//! # Example
//! ```
//! # tokio_test::block_on(async {
//! use http::{Request, Response};
//! use portcullis::{config::{Redirect, Scheme}, filter::RedirectLayer};
//! use tower::{ServiceBuilder, ServiceExt};
//!
//! let to_https = Redirect { scheme: Some(Scheme::Https), status: 301, ..Redirect::default() };
//! let service = ServiceBuilder::new()
//!     .layer(RedirectLayer::new(to_https)?)
//!     .service_fn(async |_: Request<()>| Ok::<_, http::Error>(Response::new(())));
//!
//! let request = Request::get("/cart?id=7").header("host", "shop.example.com:8080").body(())?;
//! let response = service.oneshot(request).await?;
//! assert_eq!(response.status(), 301);
//! assert_eq!(response.headers()["location"], "https://shop.example.com/cart?id=7");
//! # Ok::<_, Box<dyn std::error::Error>>(()) }).unwrap();
//! ```

mod future;
mod layer;
mod policy;
mod service;

pub use self::{future::ResponseFuture, layer::RedirectLayer, service::Redirect};
