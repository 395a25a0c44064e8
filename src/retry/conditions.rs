//! What a retry may be for.

use http::{HeaderMap, Method, StatusCode};

use crate::{Error, Outcome, Sent, grpc::Code};

/// What a retry may be for: a set of kinds of failure, statuses and gRPC codes.
///
/// Whether the request may be sent again is another question, which [`RetryLayer`](super::RetryLayer) asks as well.
///
/// Default: connect failures, refused requests, resets, timeouts of one attempt, the statuses 502, 503 and 504 (Envoy's
/// `gateway-error`) and gRPC's `UNAVAILABLE` (the one code that gRPC's own documents call safe to try again).
///
/// # Example
/// ```
/// use http::StatusCode;
/// use portcullis::{grpc::Code, retry::Conditions};
///
/// let conditions = Conditions::none().connect_failure().status(StatusCode::TOO_MANY_REQUESTS).grpc(Code::Aborted);
/// assert!(conditions.has_status(StatusCode::TOO_MANY_REQUESTS));
/// assert!(!conditions.has_status(StatusCode::BAD_GATEWAY));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Conditions {
    kinds: u8,
    /// A bit for each status from 100 to 611.
    statuses: [u64; 8],
    /// A bit for each code.
    codes: u32,
}

/// A kind of failure without an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    Connect = 1,
    Refused = 2,
    Reset = 4,
    Timeout = 8,
}

impl Conditions {
    /// Nothing at all, to add to.
    pub const fn none() -> Self {
        Self { kinds: 0, statuses: [0; 8], codes: 0 }
    }

    /// No connection was made: refused, not in time, TLS failed.
    pub fn connect_failure(self) -> Self {
        self.with(Kind::Connect)
    }

    /// The peer said that it did not process the request (`REFUSED_STREAM`, `GOAWAY`; RFC 9113 section 8.7), or the
    /// connection broke before anything of it was written.
    pub fn refused(self) -> Self {
        self.with(Kind::Refused)
    }

    /// The connection or stream broke before the response's head was there.
    pub fn reset(self) -> Self {
        self.with(Kind::Reset)
    }

    /// One attempt took too long: [`per_try_timeout`](super::RetryLayer::per_try_timeout), or the upstream's own limit.
    pub fn timeout(self) -> Self {
        self.with(Kind::Timeout)
    }

    /// This status.
    pub fn status(mut self, status: StatusCode) -> Self {
        let (word, bit) = place(status);
        if let Some(word) = self.statuses.get_mut(word) {
            *word |= bit;
        }
        self
    }

    /// 502, 503 and 504: a gateway on the way that found nobody to answer.
    pub fn gateway_errors(self) -> Self {
        self.status(StatusCode::BAD_GATEWAY).status(StatusCode::SERVICE_UNAVAILABLE).status(StatusCode::GATEWAY_TIMEOUT)
    }

    /// All of 500 to 599.
    pub fn server_errors(self) -> Self {
        (500..600).filter_map(|status| StatusCode::from_u16(status).ok()).fold(self, Self::status)
    }

    /// This gRPC code, in trailers or in the head of a response without a body.
    pub fn grpc(mut self, code: Code) -> Self {
        self.codes |= 1 << code as u8;
        self
    }

    /// Whether `status` is in the set.
    #[must_use]
    pub fn has_status(&self, status: StatusCode) -> bool {
        let (word, bit) = place(status);
        self.statuses.get(word).is_some_and(|word| word & bit != 0)
    }

    /// Whether `code` is in the set.
    #[must_use]
    pub fn has_grpc(&self, code: Code) -> bool {
        self.codes & 1 << code as u8 != 0
    }

    /// Whether any gRPC code is in the set.
    #[must_use]
    pub(crate) fn reads_grpc(&self) -> bool {
        self.codes != 0
    }

    /// Whether `error` is in the set.
    #[must_use]
    pub fn has_error(&self, error: &Error) -> bool {
        let kind = match (error.outcome(), error.sent()) {
            (
                Outcome::ConnectFailed | Outcome::ConnectTimeout | Outcome::TlsFailed | Outcome::CertificateRefused,
                _,
            ) => Kind::Connect,
            (Outcome::UpstreamReset, Sent::Nothing | Sent::GoAway | Sent::Refused) => Kind::Refused,
            (Outcome::UpstreamReset, Sent::Possibly | Sent::Stale) => Kind::Reset,
            (Outcome::UpstreamTimeout, _) => Kind::Timeout,
            // Our limits, the client's doing, and what will be the same the next time.
            _ => return false,
        };
        self.kinds & kind as u8 != 0
    }

    fn with(mut self, kind: Kind) -> Self {
        self.kinds |= kind as u8;
        self
    }
}

impl Default for Conditions {
    fn default() -> Self {
        Self::none().connect_failure().refused().reset().timeout().gateway_errors().grpc(Code::Unavailable)
    }
}

/// Whether a request may be sent again although it may have been processed: its method is idempotent (RFC 9110 section
/// 9.2.2), or it says by `Idempotency-Key` that its receiver will know it again.
pub(crate) fn is_repeatable(method: &Method, headers: &HeaderMap) -> bool {
    method.is_idempotent() || headers.get("idempotency-key").is_some_and(|key| !key.is_empty())
}

/// Whether `error` says that the request was not processed.
pub(crate) fn is_unprocessed(error: &Error) -> bool {
    // An attempt that was waited for has been sent, whatever the error claims.
    matches!(error.sent(), Sent::Nothing | Sent::GoAway | Sent::Refused) && error.outcome() != Outcome::UpstreamTimeout
}

fn place(status: StatusCode) -> (usize, u64) {
    let index = usize::from(status.as_u16()) - 100;
    (index / 64, 1 << (index % 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_as_documented() {
        let conditions = Conditions::default();
        for status in 100..1000 {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(conditions.has_status(status), [502, 503, 504].contains(&status.as_u16()), "{status}");
        }
        for (outcome, sent, expected) in [
            (Outcome::ConnectFailed, Sent::Nothing, true),
            (Outcome::TlsFailed, Sent::Possibly, true),
            (Outcome::UpstreamReset, Sent::GoAway, true),
            (Outcome::UpstreamReset, Sent::Refused, true),
            (Outcome::UpstreamReset, Sent::Possibly, true),
            (Outcome::UpstreamReset, Sent::Stale, true),
            (Outcome::UpstreamTimeout, Sent::Possibly, true),
            (Outcome::PoolExhausted, Sent::Nothing, false),
            (Outcome::NoEndpoint, Sent::Nothing, false),
            (Outcome::Cancelled, Sent::Possibly, false),
            (Outcome::BadRequest, Sent::Nothing, false),
            (Outcome::UpstreamProtocol, Sent::Possibly, false),
        ] {
            assert_eq!(conditions.has_error(&Error::new(outcome).with_sent(sent)), expected, "{outcome} {sent:?}");
            assert!(!Conditions::none().has_error(&Error::new(outcome).with_sent(sent)));
        }
        assert!(conditions.has_grpc(Code::Unavailable) && !conditions.has_grpc(Code::Internal));
    }

    #[test]
    fn each_kind_is_its_own() {
        let reset = Error::new(Outcome::UpstreamReset).with_sent(Sent::Possibly);
        let refused = Error::new(Outcome::UpstreamReset).with_sent(Sent::Refused);
        assert!(Conditions::none().reset().has_error(&reset) && !Conditions::none().reset().has_error(&refused));
        assert!(Conditions::none().refused().has_error(&refused) && !Conditions::none().refused().has_error(&reset));
        let errors = Conditions::none().server_errors();
        assert!(errors.has_status(StatusCode::INTERNAL_SERVER_ERROR) && !errors.has_status(StatusCode::NOT_FOUND));
        assert!(!errors.has_status(StatusCode::from_u16(600).unwrap()));
    }

    #[test]
    fn methods_and_keys_as_in_the_rfc() {
        let none = HeaderMap::new();
        for method in ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"] {
            assert!(is_repeatable(&method.parse().unwrap(), &none), "{method}");
        }
        for method in ["POST", "PATCH", "CONNECT", "LOCK", "get"] {
            assert!(!is_repeatable(&method.parse().unwrap(), &none), "{method}");
        }
        let mut keyed = HeaderMap::new();
        keyed.insert("idempotency-key", "\"8e03978e\"".parse().unwrap());
        assert!(is_repeatable(&Method::POST, &keyed));
        keyed.insert("idempotency-key", "".parse().unwrap());
        assert!(!is_repeatable(&Method::POST, &keyed));
    }
}
