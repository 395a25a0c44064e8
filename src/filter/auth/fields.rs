//! Which fields pass between a request, the question about it, and the answer.

use http::{HeaderMap, HeaderName, header};

use crate::forwarded::nominated;

/// Whether a field is for one hop only, or says where a message ends.
fn is_of_the_hop(name: &HeaderName) -> bool {
    matches!(
        *name,
        header::CONNECTION
            | header::CONTENT_LENGTH
            | header::EXPECT
            | header::PROXY_AUTHENTICATE
            | header::PROXY_AUTHORIZATION
            | header::TE
            | header::TRAILER
            | header::TRANSFER_ENCODING
            | header::UPGRADE
    ) || matches!(name.as_str(), "keep-alive" | "proxy-connection" | "http2-settings" | "proxy")
}

/// Whether a field of a request may be shown to the service. `Content-Length` may be listed, as it is sent always; it is
/// the question's own.
pub(super) fn is_shown(name: &HeaderName) -> bool {
    *name == header::CONTENT_LENGTH || !is_of_the_hop(name)
}

/// Whether a field of the service's answer may become the request's.
pub(super) fn is_copied(name: &HeaderName) -> bool {
    !is_of_the_hop(name) && *name != header::HOST && *name != header::VIA
}

/// Whether a field of the service's answer becomes the request's where all do: not what describes the answer's content,
/// which is not the request's.
pub(super) fn is_copied_unasked(name: &HeaderName) -> bool {
    is_copied(name) && !name.as_str().starts_with("content-")
}

/// Whether a field of the service's answer may become the response's.
#[cfg(feature = "grpc-auth")]
pub(super) fn is_passed(name: &HeaderName) -> bool {
    !is_of_the_hop(name)
}

/// Removes what was meant for us alone from an answer that is passed on.
pub(super) fn clean(headers: &mut HeaderMap) {
    nominated::remove(headers, |_| false);
    let unwanted: Vec<_> =
        headers.keys().filter(|name| is_of_the_hop(name) && **name != header::CONTENT_LENGTH).cloned().collect();
    for name in unwanted {
        headers.remove(name);
    }
}
