//! Connections to one endpoint.
//!
//! A [`Pool`] holds the connections to one address and sends requests over them. What speaks to the endpoint (HTTP/1.1
//! or HTTP/2, with or without TLS) is hidden behind [`Pool::send`].
//!
//! # How a request gets its connection
//! 1. HTTP/1.1: the connection that became idle last. The others can then grow old and be closed.
//! 2. HTTP/2: the oldest connection with room for one more stream. The room is the smaller of
//!    [`PoolLimits::max_streams`] and what the peer allows (`SETTINGS_MAX_CONCURRENT_STREAMS`).
//! 3. Otherwise the request waits in one queue, first come first served, and a new connection is made for it unless
//!    [`PoolLimits::max_connections`] are open (HTTP/2 connections that only finish their last streams do not count, up
//!    to as many again), or one is already being made that will carry it too. It takes whatever
//!    becomes free first; a new connection that finds nobody waiting becomes idle.
//! 4. Requests for which no connection is being made are limited to [`PoolLimits::max_pending`]; one more fails at
//!    once with [`Outcome::PoolExhausted`].
//! 5. When a connection cannot be made, a waiting request fails; when there is no other connection left or under way,
//!    all of them do.
//!
//! # What is sent again
//! 1. A request that met a reused connection which turned out to be closed before any of the request was written.
//! 2. Over HTTP/2 also a request with a body that its peer left out when it ended the connection (`GOAWAY`, RFC 9113
//!    section 6.8), as long as its body is at hand: not begun, or in one piece of up to 64 KiB.
//!
//! These are given another connection within the same [`Pool::send`], over HTTP/2 up to three: that all of them end is the
//! endpoint's failure. All else is for the caller to decide, who is told by [`Error::sent`] how much was sent, and who gets
//! the request back whole when nothing was.
//!
//! # When an HTTP/1.1 connection is used again
//! When the response's body was read to its end **and** the request's body was sent to its end. An answer that comes
//! while the request is still being sent, or lies in a buffer because the peer does not read, closes the connection after
//! it: whatever follows on such a connection could be read as part of the unfinished request.
//!
//! # Framing
//! A request's framing is its body's, whatever its fields say: its length where that is known, or was told by one
//! `Content-Length`, else (over HTTP/1.1) `chunked`, with any method. A `Content-Length` that is not the body's length is
//! refused.
//!
//! # Time
//! No timer is set per request. One task for each pool ticks while requests are in flight, every eighth of the
//! shortest limit set (at least 10 ms, at most 1 s), and ends those that are overdue: never early, and late by two ticks
//! at the most. Idle connections are closed by the same task after between three quarters and the whole of
//! [`PoolLimits::idle_timeout`]. It ends when there is nothing to watch.
//!
//! # Sizes
//! A response's head is limited to 64 KiB, and to 100 fields over HTTP/1.1 (Envoy's default is 60 KiB and 100
//! fields); beyond that it is [`Outcome::UpstreamProtocol`]. HTTP/2 windows are 1 MiB for a stream and 16 MiB for a
//! connection (Envoy: 16 and 24 MiB): small enough for one slow reader not to stall the connection's other streams. No PINGs are sent.
//!
//! # Caveats
//! * The tasks of a pool run on the tokio runtime of the first request.
//! * Nothing limits how long a request waits for a busy connection but the caller, who can drop the future.
//!
//! # Example
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! use portcullis::{Body, Outcome, Sent, client::{Pool, Target}, config::PoolLimits};
//!
//! // Nothing listens there any more.
//! let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
//!
//! let pool = Pool::new(Target::new(address), &PoolLimits::default());
//! let request = http::Request::get("http://example.com/").body(Body::empty()).unwrap();
//! let failed = pool.send(request).await.unwrap_err();
//! assert_eq!(failed.error.outcome(), Outcome::ConnectFailed);
//! assert_eq!(failed.error.sent(), Sent::Nothing);
//! assert!(failed.request.is_some());
//! # }
//! ```
//!
//! [`PoolLimits::max_streams`]: crate::config::PoolLimits::max_streams
//! [`PoolLimits::max_connections`]: crate::config::PoolLimits::max_connections
//! [`PoolLimits::max_pending`]: crate::config::PoolLimits::max_pending
//! [`PoolLimits::idle_timeout`]: crate::config::PoolLimits::idle_timeout
//! [`Outcome::PoolExhausted`]: crate::Outcome::PoolExhausted
//! [`Outcome::UpstreamProtocol`]: crate::Outcome::UpstreamProtocol
//! [`Error::sent`]: crate::Error::sent

use std::{fmt, net::SocketAddr, sync::Arc, time::Duration};

use http::{Request, Response};

pub(crate) use self::connect::Io;
use self::{connect::Connector, shared::Shared};
use crate::{Body, Error, config};

mod body;
mod connect;
mod driven;
mod failure;
mod http1;
mod http2;
mod lease;
mod send;
mod shared;
mod state;
mod watch;

#[cfg(test)]
mod tests;

/// One endpoint, and how to speak to it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Target {
    /// Where it listens.
    pub address: SocketAddr,
    /// What it speaks. [`Protocol::Auto`](config::Protocol::Auto) is HTTP/1.1 without TLS.
    pub protocol: config::Protocol,
    /// TLS towards it. Default none.
    #[cfg(feature = "tls")]
    pub tls: Option<crate::tls::client::ClientTls>,
    /// For a connection to be made, TLS included. Zero means no limit. Default 5 s (Envoy's `connect_timeout`).
    pub connect_timeout: Duration,
    /// From the request's end until the response's head. Zero means no limit. Default 60 s (nginx's
    /// `proxy_read_timeout`).
    pub response_timeout: Duration,
    /// How long the endpoint may leave a body standing still: not read a request's, not send more of a response's.
    /// Time in which the client's side is the one waited for does not count. Zero means no limit. Default 5 min
    /// (Envoy's `stream_idle_timeout`).
    pub stream_idle_timeout: Duration,
}

impl Target {
    /// This address, with the default settings and without TLS.
    #[must_use]
    pub fn new(address: SocketAddr) -> Self {
        Self {
            address,
            protocol: config::Protocol::Auto,
            #[cfg(feature = "tls")]
            tls: None,
            connect_timeout: Duration::from_secs(5),
            response_timeout: Duration::from_secs(60),
            stream_idle_timeout: Duration::from_secs(300),
        }
    }

    #[cfg(feature = "tls")]
    fn has_tls(&self) -> bool {
        self.tls.is_some()
    }

    #[cfg(not(feature = "tls"))]
    #[expect(clippy::unused_self, reason = "the same question with and without TLS")]
    fn has_tls(&self) -> bool {
        false
    }
}

/// A request that got no answer.
#[derive(Debug)]
#[non_exhaustive]
pub struct Failed {
    /// What happened, and how much of the request was sent.
    pub error: Error,
    /// The request, whole, if nothing of it was sent: it can be offered to another endpoint.
    pub request: Option<Request<Body>>,
}

/// A pool's numbers, at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Connections open or being made, those that were upgraded included.
    pub open: usize,
    /// Requests that have a connection, until the end of the response's body.
    pub in_flight: usize,
    /// Requests that wait for a connection.
    pub pending: usize,
}

/// The connections to one endpoint. Clones share them.
///
/// When the last clone is dropped the pool is closed, as by [`close`](Self::close).
#[derive(Clone)]
pub struct Pool(Arc<Handle>);

/// What closes the pool when the last clone goes: the pool's tasks hold `Shared` itself.
struct Handle(Arc<Shared>);

impl Pool {
    /// A pool without connections; they are made as requests need them. Limits of zero connections or streams count as
    /// one; an idle timeout of zero keeps no connection.
    #[must_use]
    pub fn new(target: Target, limits: &config::PoolLimits) -> Self {
        Self::with_connector(target, limits, Connector::Tcp)
    }

    fn with_connector(target: Target, limits: &config::PoolLimits, connector: Connector) -> Self {
        Self(Arc::new(Handle(Shared::new(target, limits, connector))))
    }

    /// Sends a request and waits for the response's head.
    ///
    /// The request's URI may have any form; the authority is taken from `Host`, else from the URI, else from the
    /// address. Dropping the future, or the response's body before its end, ends the work upstream: an HTTP/1.1
    /// connection is closed, an HTTP/2 stream is reset.
    ///
    /// After a `101` the connection has left the pool, though it counts as open until it closes, and the response's
    /// extensions hold [`hyper::upgrade::OnUpgrade`].
    ///
    /// The response's body fails with an [`Error`] of its own (in the `BoxError`): `ResponseTruncated` or
    /// `UpstreamReset` when it ends early, `UpstreamTimeout` when it stands still.
    ///
    /// # Errors
    /// With the request, if nothing of it was sent:
    /// * `NotImplemented`: the method is `CONNECT`; `BadRequest`: the authority is not one, or `Content-Length` is not
    ///   the body's length;
    /// * `PoolExhausted`: the connections and the queue are full;
    /// * `DeadlineExceeded`: its [deadline](crate::timeout) passed while it waited for a connection;
    /// * `NoEndpoint`: the pool is closed;
    /// * `ConnectFailed`, `ConnectTimeout`, `CertificateRefused`, `TlsFailed`: no connection could be made;
    /// * `UpstreamReset`: a new connection was closed before the request was written.
    ///
    /// Else without it, with [`Sent::Possibly`](crate::Sent::Possibly) (or `Stale`, `Refused` or `GoAway`, see there): `UpstreamReset`,
    /// `UpstreamProtocol`, `UpstreamTimeout`, or, if the request's own body failed, the outcome that its error carries,
    /// by default `Cancelled`.
    pub async fn send(&self, request: Request<Body>) -> Result<Response<Body>, Failed> {
        let mut place = Some(request);
        let sent = self.send_from(&mut place).await;
        sent.map_err(|error| Failed { error, request: place })
    }

    /// [`send`](Self::send), leaving the request in `place`, whole, if nothing of it was sent.
    pub(crate) fn send_from(
        &self,
        place: &mut Option<Request<Body>>,
    ) -> impl Future<Output = Result<Response<Body>, Error>> {
        send::send(&self.0.0, place)
    }

    /// A connection of its own for something else than HTTP: TLS where the target has it, without ALPN. It counts among the
    /// pool's connections until it is dropped, and is refused where those are as many as may be.
    pub(crate) async fn connect_stream(&self) -> Result<Io, Error> {
        let slot = self.0.0.slot()?;
        Ok(connect::connect_stream(slot).await?)
    }

    /// Retires the pool: idle connections are closed at once, those in use when their requests are done, waiting and
    /// new requests fail with [`Outcome::NoEndpoint`](crate::Outcome::NoEndpoint).
    pub fn close(&self) {
        self.0.0.close();
    }

    /// The pool's numbers now.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.0.0.stats()
    }

    /// Where the endpoint listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.0.0.target.address
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("address", &self.address()).field("stats", &self.stats()).finish_non_exhaustive()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.close();
    }
}
