//! Hosts as filters put them into requests and answers.

use http::{HeaderValue, Request, header::HOST, uri::Authority};

use super::InvalidFilter;
use crate::config::Host;

/// A host of the configuration: a name or an address, nothing else.
pub(super) fn parse(host: String) -> Result<Authority, InvalidFilter> {
    let exact = matches!(host.parse::<Host>(), Ok(Host::Exact(_)));
    match Authority::try_from(host.as_str()) {
        Ok(authority) if exact => Ok(authority),
        _ => Err(InvalidFilter::Host { host }),
    }
}

/// Whom a request is for, as the router takes it: the URI's authority, else `Host`.
pub(super) fn of<B>(request: &Request<B>) -> Option<&str> {
    match request.uri().authority() {
        Some(authority) => Some(authority.as_str()),
        None => request.headers().get(HOST).map(HeaderValue::to_str)?.ok(),
    }
}

/// Name or address, and port. `None` if a part of it cannot stand in a URI.
pub(super) fn split(authority: &str) -> Option<(&str, Option<u16>)> {
    let host = match authority.strip_prefix('[') {
        Some(inside) => authority.get(..inside.find(']')? + 2)?,
        None => authority.split(':').next()?,
    };
    let port = match authority.get(host.len()..)? {
        "" | ":" => None,
        port => {
            let digits = port.strip_prefix(':')?;
            let digits = digits.bytes().all(|b| b.is_ascii_digit()).then_some(digits)?;
            Some(digits.parse().ok().filter(|port| *port > 0)?)
        }
    };
    is_host(host).then_some((host, port))
}

/// `host` of RFC 3986 section 3.2.2, without `,`, which makes a list of a field.
fn is_host(host: &str) -> bool {
    match host.strip_prefix('[').map(|inside| inside.strip_suffix(']')) {
        Some(inside) => inside
            .is_some_and(|v6| !v6.is_empty() && v6.bytes().all(|b| b.is_ascii_hexdigit() || b == b':' || b == b'.')),
        None => !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~%!$&'()*+;=".contains(&b)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configured_host_is_a_name_or_an_address() {
        for host in ["example.org", "Example.org", "a_b", "10.0.0.1", "[2001:db8::1]"] {
            assert_eq!(parse(host.to_owned()).unwrap().as_str(), host);
        }
        for host in ["", "*", "*.example.org", "a:80", "[::1]:80", "http://a", "a/b", "u@a", "a b", "[x]", "::1", "a,b"]
        {
            assert_eq!(parse(host.to_owned()), Err(InvalidFilter::Host { host: host.to_owned() }), "{host}");
        }
    }

    #[test]
    fn an_authority_is_split_at_its_port() {
        for (authority, parts) in [
            ("a", Some(("a", None))),
            ("a:", Some(("a", None))),
            ("A.example:8080", Some(("A.example", Some(8080)))),
            ("[::1]", Some(("[::1]", None))),
            ("[::1]:443", Some(("[::1]", Some(443)))),
            ("", None),
            (":80", None),
            ("a:x", None),
            ("a:+1", None),
            ("a:0", None),
            ("a:65536", None),
            ("a:1:2", None),
            ("[::1", None),
            ("[]", None),
            ("[::1]x", None),
            ("u@a", None),
            ("a/b", None),
            ("a,b", None),
            ("a\u{e9}", None),
        ] {
            assert_eq!(split(authority), parts, "{authority}");
        }
    }
}
