use std::{borrow::Cow, time::Duration};

use http::{
    HeaderMap, HeaderValue, Response, StatusCode,
    header::{CONTENT_TYPE, HeaderName, RETRY_AFTER},
};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use crate::{Body, Outcome, grpc};

const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const GRPC_RETRY_PUSHBACK_MS: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

/// How a client wants to be told that it is refused.
///
/// # Example
/// ```
/// use http::{HeaderMap, HeaderValue, header::CONTENT_TYPE};
/// use portcullis::respond::Dialect;
///
/// let mut headers = HeaderMap::new();
/// assert_eq!(Dialect::of(&headers), Dialect::Http);
/// headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc+proto"));
/// assert_eq!(Dialect::of(&headers), Dialect::Grpc);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Dialect {
    /// By the response's status.
    #[default]
    Http,
    /// By `grpc-status`.
    Grpc,
    /// By `grpc-status`, to a client in a browser.
    GrpcWeb,
}

impl Dialect {
    /// The dialect of the request with these header fields. Cheap, for a layer that has to know it after the request is
    /// gone.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Self {
        const GRPC: &[u8] = b"application/grpc";
        let Some(content_type) = headers.get(CONTENT_TYPE) else { return Self::Http };
        match content_type.as_bytes().split_at_checked(GRPC.len()) {
            Some((grpc, rest)) if grpc.eq_ignore_ascii_case(GRPC) => {
                let web = rest.get(..4).is_some_and(|rest| rest.eq_ignore_ascii_case(b"-web"));
                if web { Self::GrpcWeb } else { Self::Grpc }
            }
            _ => Self::Http,
        }
    }
}

impl From<&HeaderMap> for Dialect {
    fn from(request_headers: &HeaderMap) -> Self {
        Self::of(request_headers)
    }
}

/// The response that refuses a request because of `outcome`, with the outcome in its extensions.
///
/// The dialect is that of the request; its header fields do for it. `Proxy-Status` is added at the edge, by
/// [`Respond`](super::Respond), which knows this hop's name. [`Outcome::Completed`] refuses nothing and is taken for
/// [`Outcome::Internal`].
///
/// # Example
/// ```
/// use http::{HeaderMap, StatusCode};
/// use portcullis::{Outcome, respond::refusal};
///
/// let response = refusal(Outcome::NoRoute, &HeaderMap::new());
/// assert_eq!(response.status(), StatusCode::NOT_FOUND);
/// assert_eq!(response.extensions().get(), Some(&Outcome::NoRoute));
/// ```
#[must_use]
pub fn refusal(outcome: Outcome, dialect: impl Into<Dialect>) -> Response<Body> {
    let outcome = if outcome == Outcome::Completed { Outcome::Internal } else { outcome };
    let mut response = match dialect.into() {
        Dialect::Http => plain(outcome),
        Dialect::Grpc => trailers_only(outcome, HeaderValue::from_static("application/grpc")),
        Dialect::GrpcWeb => trailers_only(outcome, HeaderValue::from_static("application/grpc-web+proto")),
    };
    response.extensions_mut().insert(outcome);
    response
}

/// The same where it is known after how long it is worth trying again: HTTP is told in whole seconds (`Retry-After`, RFC
/// 9110 section 10.2.3), gRPC in milliseconds (`grpc-retry-pushback-ms`, gRFC A6), both rounded up.
pub(crate) fn refusal_for_now(outcome: Outcome, dialect: Dialect, wait: Duration) -> Response<Body> {
    let mut response = refusal(outcome, dialect);
    let nanos = wait.as_nanos();
    if dialect == Dialect::Http {
        let seconds = u64::try_from(nanos.div_ceil(1_000_000_000)).unwrap_or(u64::MAX);
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    } else {
        // The value is a signed number of 32 bits.
        let millis = i32::try_from(nanos.div_ceil(1_000_000)).unwrap_or(i32::MAX);
        response.headers_mut().insert(GRPC_RETRY_PUSHBACK_MS, HeaderValue::from(millis));
    }
    response
}

fn plain(outcome: Outcome) -> Response<Body> {
    let mut response = Response::new(Body::from(text(outcome)));
    *response.status_mut() = outcome.status();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

fn trailers_only(outcome: Outcome, content_type: HeaderValue) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, content_type);
    headers.insert(grpc::STATUS, HeaderValue::from_static(grpc_status(outcome)));
    if let Ok(message) = HeaderValue::from_str(&grpc_message(text(outcome).trim_end())) {
        headers.insert(GRPC_MESSAGE, message);
    }
    response
}

/// What a [`refusal`] says first, for people: the status that a client goes by.
pub(crate) fn told(outcome: Outcome, dialect: Dialect) -> String {
    let number = match dialect {
        Dialect::Http => return outcome.status().as_u16().to_string(),
        Dialect::Grpc | Dialect::GrpcWeb => grpc_status(outcome),
    };
    let code = number.parse().ok().and_then(grpc::Code::numbered).unwrap_or(grpc::Code::Unknown);
    format!("grpc-status {number} ({code})")
}

/// The code of the module's table.
fn grpc_status(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::ConnectTimeout => "14",
        Outcome::Cancelled => "1",
        Outcome::RateLimited => "8",
        _ => match outcome.status() {
            StatusCode::BAD_REQUEST => "13",
            StatusCode::UNAUTHORIZED => "16",
            StatusCode::FORBIDDEN => "7",
            StatusCode::NOT_FOUND => "12",
            StatusCode::TOO_MANY_REQUESTS | StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE => "14",
            StatusCode::GATEWAY_TIMEOUT => "4",
            _ => "2",
        },
    }
}

/// Percent-encoded as gRPC over HTTP/2 asks for: all but space to `~`, and `%` itself.
fn grpc_message(text: &str) -> Cow<'_, str> {
    const ESCAPED: &AsciiSet = &CONTROLS.add(b'%');
    utf8_percent_encode(text, ESCAPED).into()
}

/// What a person reads. Fixed, so that it cannot tell what only we should know.
fn text(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Completed | Outcome::Internal => "internal error\n",
        Outcome::Cancelled => "the request was cancelled\n",
        Outcome::BadRequest => "malformed request\n",
        Outcome::BodyTooLarge => "the request's body is too large\n",
        Outcome::NotImplemented => "not supported here\n",
        Outcome::RequestTimeout => "the request took too long to arrive\n",
        Outcome::Misdirected => "this host is not served on this connection\n",
        Outcome::Unauthenticated => "this needs a client certificate\n",
        Outcome::Forbidden => "this is not allowed\n",
        Outcome::RateLimited => "too many requests, try again later\n",
        Outcome::Overloaded => "overloaded, try again later\n",
        Outcome::FaultInjected => "failed on purpose\n",
        Outcome::NoRoute => "no route matches this request\n",
        Outcome::InvalidBackend => "the route's backend is not usable\n",
        Outcome::Loop => "the request has been here before\n",
        Outcome::NoEndpoint => "no endpoint is available\n",
        Outcome::PoolExhausted => "all connections to the upstream are busy\n",
        Outcome::BreakerOpen => "the upstream is failing, try again later\n",
        Outcome::ConnectFailed | Outcome::CertificateRefused | Outcome::TlsFailed => {
            "the upstream cannot be connected to\n"
        }
        Outcome::Unreachable => "the upstream cannot be reached, also not by trying again\n",
        Outcome::ConnectTimeout => "the upstream could not be connected to in time\n",
        Outcome::UpstreamReset => "the upstream closed the connection\n",
        Outcome::UpstreamProtocol | Outcome::ResponseTruncated => "the upstream's answer is not valid\n",
        Outcome::UpstreamTimeout => "the upstream did not answer in time\n",
        Outcome::DeadlineExceeded => "the deadline has passed\n",
        Outcome::UpgradeFailed => "the upstream did not switch protocols\n",
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    fn headers(content_type: &str) -> HeaderMap {
        HeaderMap::from_iter([(CONTENT_TYPE, content_type.parse().unwrap())])
    }

    #[test]
    fn the_dialect_is_that_of_the_content_type() {
        for (content_type, dialect) in [
            ("application/grpc", Dialect::Grpc),
            ("Application/gRPC+json; x=y", Dialect::Grpc),
            ("application/grpc;charset=x", Dialect::Grpc),
            ("application/grpc-web", Dialect::GrpcWeb),
            ("application/GRPC-Web-text+proto", Dialect::GrpcWeb),
            ("application/grp", Dialect::Http),
            ("text/application/grpc", Dialect::Http),
            ("", Dialect::Http),
        ] {
            assert_eq!(Dialect::of(&headers(content_type)), dialect, "{content_type}");
        }
    }

    #[tokio::test]
    async fn grpc_is_refused_by_trailers_only() {
        let response = refusal(Outcome::NoRoute, &headers("application/grpc"));
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "application/grpc");
        assert_eq!(response.headers()["grpc-status"], "12");
        assert_eq!(response.headers()["grpc-message"], "no route matches this request");
        assert_eq!(response.extensions().get(), Some(&Outcome::NoRoute));
        assert!(response.into_body().collect().await.unwrap().to_bytes().is_empty());
    }

    #[test]
    fn grpc_codes_follow_the_table() {
        for (outcome, code) in [
            (Outcome::BadRequest, "13"),
            (Outcome::NoEndpoint, "14"),
            (Outcome::ConnectFailed, "14"),
            (Outcome::ConnectTimeout, "14"),
            (Outcome::UpstreamTimeout, "4"),
            (Outcome::RateLimited, "8"),
            (Outcome::DeadlineExceeded, "4"),
            (Outcome::BodyTooLarge, "2"),
            (Outcome::Unauthenticated, "16"),
            (Outcome::Forbidden, "7"),
            (Outcome::Internal, "2"),
        ] {
            assert_eq!(refusal(outcome, Dialect::GrpcWeb).headers()["grpc-status"], code, "{outcome}");
        }
    }

    #[test]
    fn a_grpc_message_is_percent_encoded() {
        assert_eq!(grpc_message("100 % für\n~"), "100 %25 f%C3%BCr%0A~");
    }

    #[test]
    fn nothing_is_completed_by_refusing_it() {
        let response = refusal(Outcome::Completed, Dialect::Http);
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(response.extensions().get(), Some(&Outcome::Internal));
    }
}
