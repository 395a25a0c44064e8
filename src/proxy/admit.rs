//! What a request means, or that it does not mean one thing.

use http::{
    HeaderMap, HeaderValue, Method, Version,
    header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING},
    request::Parts,
    uri::{Authority, PathAndQuery, Scheme},
};

use crate::{Error, Outcome, connection::ConnectionInfo};

/// Why a request is not forwarded: the source of the [`Error`] it is answered with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// There is no `Host`, and nothing else that says whom the request is for (RFC 9112 section 3.2).
    #[error("the request has no Host")]
    NoHost,
    /// There are several `Host` fields (RFC 9112 section 3.2).
    #[error("the request has several Host fields")]
    ManyHosts,
    /// `Host`, or the target's authority, is not a host with an optional port; user information counts as that (RFC
    /// 9110 section 4.2.4).
    #[error("Host is not a host with an optional port")]
    InvalidHost,
    /// HTTP/2's `:authority` and `Host` differ (RFC 9113 section 8.3.1).
    #[error(":authority and Host differ")]
    HostMismatch,
    /// The request-target has no form that fits the method (RFC 9112 section 3.2).
    #[error("the request-target is neither a path nor the URI of an http or https resource")]
    InvalidTarget,
    /// The fields disagree about where the body ends (RFC 9112 section 6.3).
    #[error("the length of the request's body is ambiguous")]
    AmbiguousLength,
    /// The body is in a transfer coding other than `chunked` (RFC 9112 section 6.1).
    #[error("the only transfer coding supported is chunked")]
    UnknownCoding,
    /// `CONNECT`, which is not served here.
    #[error("CONNECT is not supported")]
    Connect,
    /// `Upgrade: h2c`, which RFC 9113 section 3.1 has made obsolete, where it is to be refused.
    #[error("upgrading to h2c is not supported")]
    H2c,
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        let outcome = match refusal {
            Refusal::UnknownCoding | Refusal::Connect | Refusal::H2c => Outcome::NotImplemented,
            _ => Outcome::BadRequest,
        };
        Self::new(outcome).with_source(refusal)
    }
}

/// Settles whom a request is for and where its body ends, or refuses it.
///
/// Afterwards there is exactly one valid `Host`; if the URI has an authority, which it keeps only from HTTP/2, the two
/// are the same; and at most one of `Content-Length` and `Transfer-Encoding: chunked` is there. A request over HTTP/1.0
/// that has no `Host`, as it may, gets the address it was sent to, if [`ConnectionInfo`] tells that.
///
/// To call it twice does no harm.
///
/// # Errors
/// A [`Refusal`], which is an [`Error`] with its outcome and status.
///
/// # Example
/// ```
/// use http::Request;
/// use portcullis::proxy::{Refusal, admit};
///
/// let (mut parts, ()) = Request::get("http://a.example/x").header("host", "b.example").body(()).unwrap().into_parts();
/// admit(&mut parts).unwrap();
/// assert_eq!(parts.headers["host"], "a.example");
/// assert_eq!(parts.uri, "/x");
///
/// let (mut parts, ()) = Request::get("/x").body(()).unwrap().into_parts();
/// assert_eq!(admit(&mut parts), Err(Refusal::NoHost));
/// ```
pub fn admit(parts: &mut Parts) -> Result<(), Refusal> {
    if parts.method == Method::CONNECT {
        return Err(Refusal::Connect);
    }
    check_length(&parts.headers, parts.version)?;
    settle_host(parts)?;
    let path = parts.uri.path();
    if path.starts_with('/') || (path == "*" && parts.method == Method::OPTIONS) {
        Ok(())
    } else {
        Err(Refusal::InvalidTarget)
    }
}

fn check_length(headers: &HeaderMap, version: Version) -> Result<(), Refusal> {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let length = lengths.next();
    if lengths.next().is_some()
        || length.is_some_and(|length| length.is_empty() || !length.as_bytes().iter().all(u8::is_ascii_digit))
    {
        return Err(Refusal::AmbiguousLength);
    }
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let Some(coding) = codings.next() else { return Ok(()) };
    if length.is_some() || version != Version::HTTP_11 {
        return Err(Refusal::AmbiguousLength);
    }
    if coding.as_bytes().eq_ignore_ascii_case(b"chunked") && codings.next().is_none() {
        return Ok(());
    }
    let is_chunked = |coding: &[u8]| coding.trim_ascii().eq_ignore_ascii_case(b"chunked");
    let all_chunked =
        headers.get_all(TRANSFER_ENCODING).iter().all(|line| line.as_bytes().split(|&b| b == b',').all(is_chunked));
    Err(if all_chunked { Refusal::AmbiguousLength } else { Refusal::UnknownCoding })
}

fn settle_host(parts: &mut Parts) -> Result<(), Refusal> {
    let mut hosts = parts.headers.get_all(HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(Refusal::ManyHosts);
    }
    if host.is_some_and(|host| !is_host(host.as_bytes())) {
        return Err(Refusal::InvalidHost);
    }
    let Some(authority) = parts.uri.authority() else {
        if host.is_none() {
            let value = default_host(parts).ok_or(Refusal::NoHost)?;
            parts.headers.insert(HOST, value);
        }
        return Ok(());
    };
    if !is_host(authority.as_str().as_bytes()) {
        return Err(Refusal::InvalidHost);
    }
    // A scheme is missing from authority form, which is for CONNECT.
    if !parts.uri.scheme().is_some_and(|scheme| *scheme == Scheme::HTTP || *scheme == Scheme::HTTPS) {
        return Err(Refusal::InvalidTarget);
    }
    let multiplexed = parts.version > Version::HTTP_11;
    match host {
        Some(host) if host.as_bytes() == authority.as_str().as_bytes() => {}
        Some(host) if multiplexed && !host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes()) => {
            return Err(Refusal::HostMismatch);
        }
        None if parts.version == Version::HTTP_11 => return Err(Refusal::NoHost),
        _ => {
            let value = field(authority).ok_or(Refusal::InvalidHost)?;
            parts.headers.insert(HOST, value);
        }
    }
    if !multiplexed {
        let path = parts.uri.path_and_query().cloned();
        parts.uri = path.unwrap_or_else(|| PathAndQuery::from_static("/")).into();
    }
    Ok(())
}

fn field(authority: &Authority) -> Option<HeaderValue> {
    HeaderValue::from_str(authority.as_str()).ok()
}

/// RFC 9112 section 3.3: where a target has no authority, it is the address of the server.
fn default_host(parts: &Parts) -> Option<HeaderValue> {
    if parts.version > Version::HTTP_10 {
        return None;
    }
    let local = parts.extensions.get::<ConnectionInfo>()?.local_addr();
    HeaderValue::try_from(local.to_string()).ok()
}

/// `uri-host [ ":" port ]` of RFC 9110 section 7.2, without what makes a list or a path of it.
fn is_host(text: &[u8]) -> bool {
    let (host, port) = match text {
        [b'[', rest @ ..] => match rest.iter().position(|&b| b == b']') {
            Some(end) => {
                let inside = &rest[..end];
                if inside.is_empty() || !inside.iter().all(|&b| b.is_ascii_hexdigit() || matches!(b, b':' | b'.')) {
                    return false;
                }
                (&text[..end + 2], &rest[end + 1..])
            }
            None => return false,
        },
        _ => {
            let end = text.iter().position(|&b| b == b':').unwrap_or(text.len());
            let host = &text[..end];
            if !host.iter().all(|&b| is_name_byte(b)) {
                return false;
            }
            (host, &text[end..])
        }
    };
    let port_is_fine = match port {
        [] => true,
        [b':', digits @ ..] => digits.len() <= 5 && digits.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    !host.is_empty() && port_is_fine
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+;=".contains(&byte)
}

#[cfg(test)]
mod tests {
    use http::Request;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn hosts() {
        for host in
            ["a", "A.example.com", "a_b.example:80", "a:", "127.0.0.1:8080", "[::1]", "[2001:db8::1]:443", "x%20y"]
        {
            assert!(is_host(host.as_bytes()), "{host}");
        }
        for host in [
            "", ":80", "a b", "a,b", "a:80:90", "a:x", "a:123456", "u@a", "a/b", "a?b", "a#b", "a\\b", "[::1", "[]",
            "[::1]x", "[g]", "[", "\"a\"", "a\t", "<a>",
        ] {
            assert!(!is_host(host.as_bytes()), "{host}");
        }
    }

    #[test]
    fn a_request_over_http_1_0_may_leave_the_host_to_the_connection() {
        let request = |version| Request::get("/").version(version).body(()).unwrap().into_parts().0;
        let local = ConnectionInfo::new("192.0.2.1:1".parse().unwrap(), "[2001:db8::1]:80".parse().unwrap());
        assert_eq!(admit(&mut request(Version::HTTP_10)), Err(Refusal::NoHost));
        for (version, host) in [(Version::HTTP_10, Some("[2001:db8::1]:80")), (Version::HTTP_11, None)] {
            let mut parts = request(version);
            parts.extensions.insert(local.clone());
            assert_eq!(admit(&mut parts).is_ok(), host.is_some());
            assert_eq!(parts.headers.get(HOST).map(HeaderValue::as_bytes), host.map(str::as_bytes));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn what_is_admitted_means_one_thing_however_often_it_is_asked(
            target in prop::sample::select(vec!["/", "/x?y", "*", "http://b/x", "https://B:8443", "b:80", "ftp://b/", "http://u@b/"]),
            method in prop::sample::select(vec![Method::GET, Method::OPTIONS, Method::CONNECT]),
            version in prop::sample::select(vec![Version::HTTP_10, Version::HTTP_11, Version::HTTP_2]),
            hosts in prop::collection::vec("[ab:0-9@ ,\\[\\]]{0,3}", 0..3),
            lengths in prop::collection::vec("[0-9+, ]{0,3}", 0..3),
            codings in prop::collection::vec("chunked|gzip|chunked, chunked|", 0..2),
        ) {
            let mut request = Request::builder().method(method).uri(target).version(version);
            for (name, values) in [("host", &hosts), ("content-length", &lengths), ("transfer-encoding", &codings)] {
                request = values.iter().fold(request, |request, value| request.header(name, value));
            }
            let mut parts = request.body(()).unwrap().into_parts().0;
            if admit(&mut parts).is_ok() {
                prop_assert_eq!(parts.headers.get_all(HOST).iter().count(), 1);
                let host = parts.headers[HOST].to_str().unwrap().to_owned();
                prop_assert!(is_host(host.as_bytes()));
                prop_assert!(parts.uri.authority().is_none_or(|authority| authority.as_str() == host));
                let lengths = parts.headers.get_all(CONTENT_LENGTH).iter().count();
                let codings = parts.headers.get_all(TRANSFER_ENCODING).iter().count();
                prop_assert!(lengths + codings <= 1);
                let before = (parts.uri.clone(), parts.headers.clone());
                prop_assert_eq!(admit(&mut parts), Ok(()));
                prop_assert_eq!(before, (parts.uri, parts.headers));
            }
        }
    }
}
