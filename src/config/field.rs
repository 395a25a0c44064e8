//! Names of header fields that a configuration must leave alone.

use std::borrow::Cow;

use http::HeaderName;

/// Whether a field frames the message or is for one hop (RFC 9110 section 7.6.1), also for readers to whom `_` is `-`.
pub(crate) fn is_connections(name: &HeaderName) -> bool {
    matches!(
        &*dashed(name),
        "connection"
            | "content-length"
            | "http2-settings"
            | "keep-alive"
            | "proxy-connection"
            | "te"
            | "transfer-encoding"
            | "upgrade"
    )
}

/// The name as those read it to whom `_` is `-`.
pub(crate) fn dashed(name: &HeaderName) -> Cow<'_, str> {
    let name = name.as_str();
    if name.contains('_') { name.replace('_', "-").into() } else { name.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connections_fields_are_known_by_each_spelling() {
        let is = |name: &str| is_connections(&name.parse().unwrap());
        for name in ["Connection", "TE", "http2-settings", "HTTP2_Settings", "transfer_encoding", "Proxy_connection"] {
            assert!(is(name), "{name}");
        }
        for name in ["host", "trailer", "x-te", "transferencoding", "connection-id"] {
            assert!(!is(name), "{name}");
        }
    }
}
