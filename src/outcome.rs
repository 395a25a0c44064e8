//! How a request ended: the one vocabulary of refusal and failure.

use std::fmt;

use http::StatusCode;

/// Whose doing an [`Outcome`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Side {
    /// The client's: a malformed request, a connection that went away.
    Downstream,
    /// Ours: configuration, overload, a defect.
    Internal,
    /// The upstream's: unreachable, broken, late.
    Upstream,
}

/// How a request ended.
///
/// Every layer that answers a request itself puts its `Outcome` into the response's extensions, every
/// [`Error`](crate::Error) carries one, and metrics, the access log and `Proxy-Status` all speak it, so that a
/// refusal has one name everywhere.
///
/// # Example
/// ```
/// use http::StatusCode;
/// use portcullis::{Outcome, Side};
///
/// assert_eq!(Outcome::NoEndpoint.status(), StatusCode::SERVICE_UNAVAILABLE);
/// assert_eq!(Outcome::NoEndpoint.proxy_error(), Some("destination_unavailable"));
/// assert_eq!(Outcome::ConnectFailed.side(), Side::Upstream);
/// assert_eq!(Outcome::ConnectFailed.to_string(), "connect_failed");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Outcome {
    /// Answered by an application or an upstream, whatever its status.
    Completed,
    /// The client went away before the answer was complete.
    Cancelled,

    /// The request is malformed, or means different things to different readers.
    BadRequest,
    /// The request's body is larger than allowed.
    BodyTooLarge,
    /// A method or protocol switch that is not served here (`CONNECT`, `Upgrade: h2c`).
    NotImplemented,
    /// The client took too long to send its request.
    RequestTimeout,
    /// The host is not served on this connection.
    Misdirected,
    /// The request needs a peer identity, and the connection has none.
    Unauthenticated,
    /// The peer is known, and may not do this.
    Forbidden,
    /// The client has made more requests than it is allowed to in this time.
    RateLimited,

    /// The connection or request was refused because a limit of ours is reached.
    Overloaded,
    /// The request's deadline had passed before work on it began, or would have before it could be answered.
    DeadlineExceeded,
    /// The request was failed on purpose, to see what comes of it.
    FaultInjected,
    /// No rule matches the request.
    NoRoute,
    /// The rule's backend does not exist or cannot be used.
    InvalidBackend,
    /// The request has passed through here before.
    Loop,
    /// A defect or an impossible configuration on our side.
    Internal,

    /// The rule's backend has no endpoint that may be tried.
    NoEndpoint,
    /// The endpoint's connections and its queue are full.
    PoolExhausted,
    /// No attempt got an answer, of as many as the rule's retries allow: connections could not be made, or broke.
    Unreachable,
    /// A circuit breaker is open: what is behind it failed too often lately to be asked now.
    BreakerOpen,
    /// No connection could be made.
    ConnectFailed,
    /// A connection was not made in time.
    ConnectTimeout,
    /// The upstream's certificate was not accepted, or it did not accept ours.
    CertificateRefused,
    /// The TLS handshake with the upstream failed for another reason than its certificate.
    TlsFailed,
    /// The connection broke before the response's head was complete.
    UpstreamReset,
    /// The upstream's answer is not valid HTTP.
    UpstreamProtocol,
    /// The response's body ended early.
    ResponseTruncated,
    /// The upstream did not answer in time.
    UpstreamTimeout,
    /// The upstream did not switch protocols as asked.
    UpgradeFailed,
}

/// One row of the table behind [`Outcome`]'s methods.
struct Facts(&'static str, Side, u16, Option<&'static str>);

impl Outcome {
    /// Name, side, status, and error type of RFC 9209 section 2.3, a row each.
    const fn facts(self) -> Facts {
        use Side::{Downstream, Internal, Upstream};
        match self {
            Self::Completed => Facts("completed", Upstream, 200, None),
            // 499 is nginx's status for a client that closed the connection; nobody is there to read it.
            Self::Cancelled => Facts("cancelled", Downstream, 499, None),
            Self::BadRequest => Facts("bad_request", Downstream, 400, Some("http_request_error")),
            Self::BodyTooLarge => Facts("body_too_large", Downstream, 413, Some("http_request_error")),
            Self::NotImplemented => Facts("not_implemented", Downstream, 501, Some("http_request_error")),
            Self::RequestTimeout => Facts("request_timeout", Downstream, 408, Some("http_request_error")),
            Self::Misdirected => Facts("misdirected", Downstream, 421, Some("http_request_error")),
            Self::Unauthenticated => Facts("unauthenticated", Downstream, 401, Some("http_request_denied")),
            Self::Forbidden => Facts("forbidden", Downstream, 403, Some("http_request_denied")),
            Self::RateLimited => Facts("rate_limited", Downstream, 429, Some("http_request_denied")),
            Self::Overloaded => Facts("overloaded", Internal, 503, Some("connection_limit_reached")),
            Self::DeadlineExceeded => Facts("deadline_exceeded", Downstream, 504, Some("http_request_denied")),
            Self::FaultInjected => Facts("fault_injected", Internal, 503, Some("proxy_internal_response")),
            Self::NoRoute => Facts("no_route", Internal, 404, Some("destination_not_found")),
            Self::InvalidBackend => Facts("invalid_backend", Internal, 500, Some("proxy_configuration_error")),
            Self::Loop => Facts("loop", Internal, 508, Some("proxy_loop_detected")),
            Self::Internal => Facts("internal", Internal, 500, Some("proxy_internal_error")),
            Self::NoEndpoint => Facts("no_endpoint", Upstream, 503, Some("destination_unavailable")),
            Self::Unreachable => Facts("unreachable", Upstream, 503, Some("destination_unavailable")),
            Self::PoolExhausted => Facts("pool_exhausted", Upstream, 503, Some("connection_limit_reached")),
            Self::BreakerOpen => Facts("breaker_open", Upstream, 503, Some("destination_unavailable")),
            Self::ConnectFailed => Facts("connect_failed", Upstream, 502, Some("connection_refused")),
            Self::ConnectTimeout => Facts("connect_timeout", Upstream, 504, Some("connection_timeout")),
            Self::CertificateRefused => Facts("certificate_refused", Upstream, 502, Some("tls_certificate_error")),
            Self::TlsFailed => Facts("tls_failed", Upstream, 502, Some("tls_protocol_error")),
            Self::UpstreamReset => Facts("upstream_reset", Upstream, 502, Some("connection_terminated")),
            Self::UpstreamProtocol => Facts("upstream_protocol", Upstream, 502, Some("http_protocol_error")),
            Self::ResponseTruncated => Facts("response_truncated", Upstream, 502, Some("http_response_incomplete")),
            Self::UpstreamTimeout => Facts("upstream_timeout", Upstream, 504, Some("http_response_timeout")),
            Self::UpgradeFailed => Facts("upgrade_failed", Upstream, 502, Some("http_upgrade_failed")),
        }
    }

    /// The name used in logs and as a metric label: lower case, words joined by `_`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        self.facts().0
    }

    /// Whose doing it is.
    #[must_use]
    pub const fn side(self) -> Side {
        self.facts().1
    }

    /// The status a client is answered with when this outcome is answered here.
    #[must_use]
    pub fn status(self) -> StatusCode {
        StatusCode::from_u16(self.facts().2).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// The error type of `Proxy-Status` (RFC 9209 section 2.3); `None` when there is no error to tell of.
    #[must_use]
    pub const fn proxy_error(self) -> Option<&'static str> {
        self.facts().3
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
