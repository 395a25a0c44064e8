//! State for people and machines: metrics, readiness, routes.
//!
//! [`Admin`] is a service of its own, for a listener of its own:
//!
//! | path | |
//! |---|---|
//! | `/` | what there is |
//! | `/live` | 200 while the process can answer at all |
//! | `/ready` | 200 while it wants requests, else 503: a [`Readiness`] decides |
//! | `/metrics` | with [`Admin::metrics`]: OpenMetrics 1.0 to a client whose `Accept` prefers it, else Prometheus text 0.0.4 |
//! | others | [pages](Admin::page) of the application and the gateway |
//!
//! 1. `GET` and `HEAD` are answered; other methods with 405, other paths with 404.
//! 2. No answer may be stored (`Cache-Control: no-store`).
//!
//! # Caveats
//! There is no authentication: bind it to the loopback or a management network.
//!
//! # Example
//! ```
//! # tokio_test::block_on(async {
//! use http::{Request, StatusCode};
//! use portcullis::{Body, admin::{Admin, Page, Readiness}};
//! use tower::ServiceExt;
//!
//! let readiness = Readiness::new();
//! let admin = Admin::new().readiness(&readiness).page("/routes", "the table", || Page::json("[]"));
//! let get = |path| admin.clone().oneshot(Request::get(path).body(Body::empty()).unwrap());
//!
//! assert_eq!(get("/ready").await.unwrap().status(), StatusCode::SERVICE_UNAVAILABLE);
//! readiness.set_ready();
//! assert_eq!(get("/ready").await.unwrap().status(), StatusCode::OK);
//! assert_eq!(get("/routes").await.unwrap().headers()["content-type"], "application/json");
//! # });
//! ```

#[cfg(feature = "metrics")]
mod accept;
mod page;
mod readiness;
mod service;
#[cfg(test)]
mod tests;

pub use self::{page::Page, readiness::Readiness, service::Admin};
