//! Who a peer is, and who is admitted.
//!
//! A server that verifies client certificates ([`tls::ServerTls`](crate::tls::ServerTls)) knows each connection's
//! [`PeerIdentity`]: [`ConnectionInfo::peer_identity`](crate::connection::ConnectionInfo::peer_identity), or
//! [`PeerIdentity::of`] a request. An [`AllowLayer`] admits requests by it:
//!
//! 1. A connection without an identity is answered 401 with [`Outcome::Unauthenticated`](crate::Outcome::Unauthenticated)
//!    (gRPC 16), whatever the rules.
//! 2. With [`AllowLayer::require_server_name`], a request for another host than the handshake was for is answered 421 with
//!    [`Outcome::Misdirected`](crate::Outcome::Misdirected).
//! 3. A peer that any one [`PeerRule`] admits passes.
//! 4. Anyone else is answered 403 with [`Outcome::Forbidden`](crate::Outcome::Forbidden) (gRPC 7). Who it was stands in the
//!    request's [`Exchange`](crate::exchange::Exchange), and so in the access log; the answer does not tell.
//!
//! # Where it belongs
//! Inside telemetry and `respond`, so that refusals are recorded; outside everything that works for the request: limits by
//! identity, routes, retries.
//!
//! # Caveats
//! * An identity was verified when its connection was made. It ends with the connection, not with the certificate: close old
//!   connections (a server's drain, or its limit on a connection's age) where that matters.
//! * What `X-Forwarded-Client-Cert` says is not an identity here: whoever is trusted to send it can be read from it by the
//!   application.
//! * A 401 is to name a scheme to authenticate with (RFC 9110 section 11.6.1). TLS has none, so none is named.
//!
//! # Example
//! ```
//! # tokio_test::block_on(async {
//! use http::{Request, Response, StatusCode};
//! use portcullis::{Body, connection::{ConnectionInfo, TlsInfo}, identity::{AllowLayer, PeerIdentity, PeerRule}};
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! let ledger = ServiceBuilder::new()
//!     .layer(AllowLayer::new([PeerRule::Below("spiffe://example.org/ns/shop".parse()?)]))
//!     .service(service_fn(|_: Request<()>| async { Ok::<_, std::convert::Infallible>(Response::new(Body::from("done"))) }));
//!
//! // As a server makes it of a client's certificate.
//! let from = |id: &'static str| {
//!     let tls = TlsInfo { peer_identity: Some(PeerIdentity::new([id], []).into()), ..TlsInfo::default() };
//!     let info = ConnectionInfo::new("192.0.2.7:4711".parse().unwrap(), "127.0.0.1:8443".parse().unwrap());
//!     Request::get("/").extension(info.with_tls(tls)).body(()).unwrap()
//! };
//! let admitted = ledger.clone().oneshot(from("spiffe://example.org/ns/shop/sa/cart")).await?;
//! assert_eq!(admitted.status(), StatusCode::OK);
//! let refused = ledger.oneshot(from("spiffe://example.org/ns/blog/sa/www")).await?;
//! assert_eq!(refused.status(), StatusCode::FORBIDDEN);
//! # Ok::<_, Box<dyn std::error::Error>>(()) }).unwrap();
//! ```

mod future;
mod layer;
mod peer;
mod rule;
mod service;
mod spiffe;
#[cfg(test)]
mod tests;

pub use self::{
    future::AllowFuture,
    layer::AllowLayer,
    peer::PeerIdentity,
    rule::PeerRule,
    service::Allow,
    spiffe::{InvalidSpiffeId, SpiffeFlaw, SpiffeId, TrustDomain},
};
