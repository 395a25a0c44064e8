//! Who the client is, and what is told to the upstream of it: `X-Forwarded-*`, `X-Real-IP` and `Forwarded`.
//!
//! [`ForwardedLayer`] belongs at the edge, before anything that adds fields to a request or believes any:
//!
//! 1. Fields that `Connection` nominates are removed, and of `Connection` only `upgrade` is left. A client can then not
//!    have a field removed that a later layer adds.
//! 2. Fields whose name reads like another's once `_` and `-` are the same (as CGI, WSGI and their kin make them) are
//!    dropped, whoever sent them: those that fit a protected name ([`is_protected`]), and those that fit another field
//!    of the request. [`ForwardedLayer::drop_underscores`] drops every name with an underscore.
//! 3. If the peer is not trusted, every protected field is dropped, and a [cohort](crate::split::Cohort) in `baggage`, whose
//!    place that of the request's extensions takes. By default nobody is trusted.
//! 4. `X-Forwarded-For`, `X-Forwarded-Proto`, `X-Forwarded-Host`, `X-Forwarded-Port` and `X-Real-IP` are set. If the peer
//!    is trusted its `X-Forwarded-For` is appended to, and its proto, host and port are kept; if it told the proto and no
//!    port, none is set, because ours would be another connection's.
//! 5. The client is the first address, read from the right, that is not trusted: the peer, then the entries of
//!    `X-Forwarded-For`, or of `Forwarded` where there is no `X-Forwarded-For`. What is no address ends the walk at the
//!    hop that reported it. If all are trusted, it is the leftmost. The client becomes a [`ClientAddr`] in the request's
//!    extensions, and `X-Real-IP`.
//! 6. `X-Forwarded-Client-Cert` is written where [`ForwardedLayer::client_cert`] says so, of the
//!    [`PeerIdentity`](crate::identity::PeerIdentity) alone: `By`, `Hash` (SHA-256 of the certificate), `URI` and `DNS`, as
//!    Envoy writes them. What cannot be in a URI is percent-encoded, and a value with `,`, `;` or `=` is quoted, so that no
//!    name in a certificate reads like more than one.
//!
//! The peer is [`ConnectionInfo::peer_addr`](crate::connection::ConnectionInfo::peer_addr), which is the one a PROXY
//! protocol header named. A request without `ConnectionInfo` has no peer: its protected fields are dropped, and it gets
//! neither `X-Forwarded-For` nor `X-Real-IP` nor a `ClientAddr`.
//!
//! # Caveats
//! An upstream believes what comes from here only as far as nobody else can reach it. Trusting a network trusts
//! everyone in it to name any client.
//!
//! # Example
//! ```
//! # tokio_test::block_on(async {
//! use http::{Request, Response};
//! use portcullis::{connection::ConnectionInfo, forwarded::{ClientAddr, ForwardedLayer}};
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! let app = ServiceBuilder::new()
//!     .layer(ForwardedLayer::new().trust(["10.0.0.0/8".parse().unwrap()]))
//!     .service(service_fn(|request: Request<()>| async move {
//!         assert_eq!(request.headers()["x-forwarded-for"], "192.0.2.1, 10.0.0.7");
//!         let client = request.extensions().get::<ClientAddr>().unwrap();
//!         Ok::<_, std::convert::Infallible>(Response::new(client.ip().to_string()))
//!     }));
//!
//! let balancer = ConnectionInfo::new("10.0.0.7:4711".parse().unwrap(), "10.0.0.1:80".parse().unwrap());
//! let request = Request::get("/").header("x-forwarded-for", "192.0.2.1").extension(balancer).body(()).unwrap();
//! assert_eq!(app.oneshot(request).await.unwrap().into_body(), "192.0.2.1");
//! # });
//! ```

mod chain;
pub(crate) mod client_cert;
mod layer;
pub(crate) mod names;
pub(crate) mod nominated;
mod service;

pub use self::{layer::ForwardedLayer, names::is_protected, service::Forwarded};
pub use crate::{config::ClientCert, connection::ClientAddr};

#[cfg(test)]
mod tests;
