//! What a proxy owes both sides: forwarding by RFC 9110, 9112 and 9113, and protocol upgrades.
//!
//! [`ForwardLayer`] goes around the service that sends to the network. [`admit`] is the part of it that decides what a
//! request means; an ingress calls it at its edge too, so that everything on the way sees one host and one target.
//!
//! A request on its way out:
//!
//! 1. Is refused when it means different things to different readers, see [`Refusal`]; `CONNECT` always is.
//! 2. Has exactly one `Host`, as the client sent it. The URI keeps the form it came in, except that a request-target in
//!    absolute form (RFC 9112 section 3.2.2) becomes `Host` and origin form. HTTP/2's `:authority` becomes `Host` as well.
//! 3. Has no field left that is for one hop only: `Connection` and what it nominates (never a field meant for everyone
//!    on the way, nor one that says who the client is), `Keep-Alive`, `Proxy-Connection`, `Transfer-Encoding`, `Upgrade`,
//!    `HTTP2-Settings`, `TE` unless it is `trailers`; nor `Proxy-Authenticate`, `Proxy-Authorization` and
//!    `Proxy-Authentication-Info`, which are between a client and a proxy it knows of, nor `Proxy`, which CGI programs
//!    take for their own setting.
//! 4. Is framed anew: `Content-Length` is there only if it is the body's exact length, and nothing else is.
//! 5. Has `Via` appended (section 7.6.3), and is refused as a loop if it has been through this very layer.
//! 6. `TRACE` and `OPTIONS` with `Max-Forwards: 0` are answered here (section 7.6.2).
//! 7. Cookies that HTTP/2 spread over several fields are one field again (RFC 9113 section 8.2.3).
//! 8. `Expect: 100-continue` goes along, and the client is asked for its body when the upstream wants it: when it said
//!    100, or after [`ForwardLayer::continue_timeout`] of silence. If the upstream answers instead, the body is never
//!    asked for.
//!
//! A response on its way back is stripped by the same rules and of `Alt-Svc`, framed anew, and has `Via` appended;
//! `Server`, `Date`, and the `Content-Length` of an answer to `HEAD` are the upstream's. Trailers pass both ways without
//! the fields that RFC 9110 section 6.5.1 forbids there. A body that fails stays one that fails.
//!
//! `Upgrade` is forwarded for an HTTP/1.1 request without a body, otherwise ignored, as RFC 9110 section 7.8 allows; so is
//! `h2c`, unless [`ForwardLayer::refuse_h2c`] says otherwise. Only the upstream's own 101 to a protocol that was asked for
//! switches protocols: then a [tunnel](Tunnels) is made.
//!
//! What is refused is an [`Error`](crate::Error) with [`Outcome`](crate::Outcome) `BadRequest`, `NotImplemented` or `Loop`,
//! nothing of it sent; a switch that went wrong is one with `UpgradeFailed`. An error of the inner service passes, except
//! that one caused by the request's own body becomes the client's.
//!
//! # Caveats
//! - Informational responses other than 100 and 101, such as 103, are passed on from HTTP/1.1 to HTTP/1.1, behind a
//!   [`Server`](crate::server::Server) of ours; hyper shows and sends none on HTTP/2.
//! - Over HTTP/1.1 only trailers named by a `Trailer` field are sent, and to a client only if it sent `TE: trailers`.
//! - HTTP/1.1's parser leaves out a fragment in a request-target; it is not forwarded.
//! - Clients on HTTP/2 are never sent a 100, and a 100 from an upstream on HTTP/2 is not seen: hyper has no way to. There
//!   each side goes on after its own timeout.
//! - hyper's HTTP/1.1 server drops the `Content-Length` of a 304, and of a request with both `Content-Length` and
//!   `Transfer-Encoding` it believes the latter and closes the connection afterwards, as RFC 9112 section 6.1 allows; what
//!   is forwarded has one length only.
//!
//! # Example
//! ```
//! # tokio_test::block_on(async {
//! use http::{Request, Response};
//! use portcullis::{Body, Error, proxy::ForwardLayer};
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! let forward = ServiceBuilder::new().layer(ForwardLayer::new().via("edge").unwrap()).service(service_fn(
//!     |request: Request<Body>| async move {
//!         assert_eq!(request.headers()["via"], "1.1 edge");
//!         assert!(!request.headers().contains_key("connection"));
//!         assert!(!request.headers().contains_key("x-secret"));
//!         Ok::<_, Error>(Response::new(Body::from("hello")))
//!     },
//! ));
//!
//! let request = Request::get("/")
//!     .header("host", "shop.example.com")
//!     .header("connection", "close, x-secret")
//!     .header("x-secret", "1")
//!     .body(Body::empty())
//!     .unwrap();
//! assert_eq!(forward.oneshot(request).await.unwrap().headers()["via"], "1.1 edge");
//! # });
//! ```

mod admit;
mod body;
mod fields;
mod future;
mod layer;
mod request;
mod response;
mod service;
mod tunnel;
mod via;

pub(crate) use self::tunnel::{Copied, Ended, join};
pub use self::{
    admit::{Refusal, admit},
    future::ResponseFuture,
    layer::ForwardLayer,
    service::Forward,
    tunnel::Tunnels,
    via::InvalidPseudonym,
};

#[cfg(test)]
mod desync;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod wire;
