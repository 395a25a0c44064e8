//! Cross-origin requests ([Fetch standard](https://fetch.spec.whatwg.org/#http-cors-protocol), GEP-1767).
//!
//! 1. An `OPTIONS` request with `Origin` and `Access-Control-Request-Method` is a preflight. It is answered here with 204 and
//!    never goes on: with the whole policy if its origin is allowed, else with none of it. It is the browser that then
//!    refuses to send a method or a field that the policy does not list.
//! 2. Every other request goes on, whatever its origin; a browser keeps the response from a page that may not see it. Where
//!    the origin is allowed, the response says so in `Access-Control-Allow-Origin`, `-Allow-Credentials` and
//!    `-Expose-Headers`. What the inner service says in these fields, or those of a preflight's answer, is dropped in any
//!    case: there is one policy.
//! 3. An origin is allowed if its scheme, host and port are those of one in the list; a port that is not written is the
//!    scheme's own. Case does not matter. `https://*.example.com` stands for all names under `example.com`, not for itself;
//!    `https://*` for all hosts; `null` for documents without an origin; `*` for all origins. Two `Origin` fields are none.
//! 4. The origin is sent back as it came, with `Vary: Origin` on all responses. Only for `*` without credentials it is `*`, on
//!    all responses, so that caches can share them.
//! 5. With credentials no field is ever `*`: the requested method and fields are sent back instead, unless there is a `*` in
//!    them, and to expose all fields the response's are named one by one.
//! 6. `*` for the request's fields sends those back that were asked for, also without credentials: browsers do not count
//!    `Authorization` as one of `*`.
//!
//! tower-http's `CorsLayer` takes predicates and futures for origins, and knows private networks; it takes every `OPTIONS`
//! for a preflight, and what it does not overwrite of the inner service's fields stays. Where an application decides by
//! itself who may, use that.
//!
//! # Caveats
//! CORS keeps pages from reading responses; it does not keep requests out. `*` with credentials lets any page that a user
//! visits act as that user.
//!
//! # Example
//! ```
//! # tokio_test::block_on(async {
//! use http::{Request, Response};
//! use portcullis::{Body, config::Cors, filter::CorsLayer};
//! use tower::{ServiceBuilder, ServiceExt};
//!
//! let cors = Cors { origins: vec!["https://*.example.com".into()], credentials: true, ..Cors::default() };
//! let service = ServiceBuilder::new()
//!     .layer(CorsLayer::new(cors)?)
//!     .service_fn(async |_: Request<()>| Ok::<_, http::Error>(Response::new(Body::from("hello"))));
//!
//! let preflight = Request::options("/")
//!     .header("origin", "https://shop.example.com")
//!     .header("access-control-request-method", "POST");
//! let response = service.clone().oneshot(preflight.body(())?).await?;
//! assert_eq!(response.status(), 204);
//! assert_eq!(response.headers()["access-control-allow-methods"], "GET, HEAD, POST");
//!
//! let response = service.oneshot(Request::get("/").header("origin", "https://evil.example").body(())?).await?;
//! assert!(!response.headers().contains_key("access-control-allow-origin"));
//! # Ok::<_, Box<dyn std::error::Error>>(()) }).unwrap();
//! ```

mod future;
mod layer;
mod origin;
mod policy;
mod service;

pub use self::{future::ResponseFuture, layer::CorsLayer, service::Cors};
